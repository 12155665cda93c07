#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""qcow2ctl salvage and -o salvage: what comes back of damaged images, and what is told of it."""

import errno
import json
import os
import random
import re
import shutil

from lib import bad, compare, ctl, evidence, image, mount, qcow2, tap, tools
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.QEMU])


def filled(directory, size=8 * MiB, seed=1, snapshot=False, **options):
    """An image with data, the name of its file, and the bytes of its disk."""
    raw = os.path.join(directory, "source.raw")
    with open(raw, "wb") as file:
        file.write(random.Random(seed).randbytes(size))
    path = image.convert(raw, os.path.join(directory, "image.qcow2"), **options)
    os.unlink(raw)
    if snapshot:
        tools.run("qemu-img", "snapshot", "-c", "before", path)
        image.io(path, image.write(64 * KiB, 300 * KiB, 3), image.write(5 * MiB, 300 * KiB, 4))
    return path, bad.contents(path)


def salvaged(path, *arguments, status=0):
    """(bytes, facts) of what qcow2ctl salvage makes of it; the image stays as it is."""
    target = os.path.join(os.path.dirname(path), "salvaged.raw")
    if os.path.exists(target):
        os.unlink(target)
    before = compare.sha256(path)
    done = ctl.ctl("salvage", "--json", *arguments, path, target, status=status, seconds=120)
    check_equal(compare.sha256(path), before, "the image, afterwards,")
    with open(target, "rb") as file:
        return file.read(), json.loads(done.stdout)["facts"]


def fact(facts, what, certainty):
    return [each for each in facts if each["what"] == what and each["certainty"] == certainty]


@suite.test("an image in order comes back as it is, and all is certain")
def _(directory):
    for snapshot in (False, True):
        path, disk = filled(directory, snapshot=snapshot, cluster_size="4k")
        found, facts = salvaged(path)
        check(found == disk, "the disk is another one")
        check_equal([each for each in facts if each["certainty"] != "certain"], [], "the doubts")


@suite.test("each field of the header may be anything")
def _(directory):
    path, disk = filled(directory, cluster_size="4k")
    damaged = os.path.join(directory, "damaged.qcow2")
    for name in ("magic", "version", "cluster_bits", "virtual_size", "l1_size",
                 "l1_table_offset", "refcount_table_offset", "refcount_table_clusters",
                 "nb_snapshots", "incompatible_features", "refcount_order", "header_length",
                 "backing_file_offset", "crypt_method"):
        for value in (0, 0xFFFFFFFF):
            if (name, value) in (("virtual_size", 0xFFFFFFFF), ("crypt_method", 0),
                                 ("incompatible_features", 0xFFFFFFFF)):
                continue
            shutil.copyfile(path, damaged)
            with qcow2.Qcow2(damaged) as opened:
                opened[name] = value
            found, _facts = salvaged(damaged)
            check(found == disk, "%s = 0x%x: the disk is another one", name, value)


@suite.test("without a first cluster it is as good as before, where the sizes are given or deduced")
def _(directory):
    for options in ({"cluster_size": "4k"}, {"cluster_size": "64k"},
                    {"cluster_size": "16k", "extended_l2": "on"}):
        path, disk = filled(directory, **options)
        cluster = image.info(path)["cluster-size"]
        with open(path, "r+b") as file:
            file.write(bytes(min(cluster, 4096)))
        found, facts = salvaged(path)
        check(found[:len(disk)] == disk, "%s: the disk is another one", options)
        check(fact(facts, "l1-offset", "deduced") != [], "%s: where is the L1 table from?", facts)
        found, facts = salvaged(path, "--cluster-size=%d" % cluster, "--virtual-size=5M")
        check_equal(len(found), 5 * MiB, "the given size")
        check(found == disk[:5 * MiB], "%s: with sizes the disk is another one", options)


@suite.test("a lost L1 table is made of snapshots' copies and of tables that nothing names")
def _(directory):
    for snapshot in (False, True):
        for junk in (b"\0", b"\xff", b"\x5a"):
            path, disk = filled(directory, snapshot=snapshot, cluster_size="4k")
            with qcow2.Qcow2(path) as opened:
                opened.write(opened["l1_table_offset"], junk * 8 * opened["l1_size"])
            found, facts = salvaged(path)
            check(found == disk, "snapshot %s, %r: the disk is another one", snapshot, junk)
            check(fact(facts, "l1-entries", "deduced") != [], "nothing was deduced: %s", facts)


@suite.test("entries of L2 tables are found between those of their neighbours")
def _(directory):
    for junk in (bytes(512), b"\xff" * 512, random.Random(5).randbytes(512)):
        path, disk = filled(directory, cluster_size="4k")
        with qcow2.Qcow2(path) as opened:
            table = opened.l1_entry(1) & qcow2.HOST_OFFSET_MASK
            opened.write(table + 1024, junk)
            opened.write(table + 3000, b"\xee" * 3)
        found, facts = salvaged(path)
        check(found == disk, "%r: the disk is another one", junk[:4])
        check_equal(fact(facts, "l2-entries", "missing"), [], "what is missing")


@suite.test("what was cut off is an error, zeros if wished, and in the map for ddrescue")
def _(directory):
    path, disk = filled(directory, cluster_size="64k")
    with qcow2.Qcow2(path) as opened:
        opened.file.truncate(opened.end() - 3 * MiB)
    map_file = os.path.join(directory, "map")
    found, _facts = salvaged(path, "--map=" + map_file, status=1)
    with open(map_file, encoding="ascii") as file:
        lines = [line.split() for line in file if not line.startswith("#")][1:]
    at = 0
    for start, length, status in lines:
        start, length = int(start, 16), int(length, 16)
        check_equal(start, at, "where a line of the map begins")
        check(status in "+-", "status %s", status)
        if status == "+":
            check(found[start:start + length] == disk[start:start + length],
                  "what is at %d is another thing", start)
        else:
            check(found.count(0, start, start + length) == length, "no zeros at %d", start)
        at += length
    check_equal(at, len(disk), "the end of the map")
    lost = sum(int(line[1], 16) for line in lines if line[2] == "-")
    check(0 < lost <= 4 * MiB, "%d bytes are lost", lost)
    with evidence.untouched(directory), \
            mount.mount(path, "salvage", directory=True, writable=True) as mounted:
        with open(mounted.disk, "rb") as file:
            check(file.read(MiB) == disk[:MiB], "the beginning is another one")
            try:
                os.pread(file.fileno(), 4096, len(disk) - 4096)
                check(False, "the end can be read")
            except OSError as error:
                check_equal(error.errno, errno.EIO, "errno")
        with open(os.path.join(mounted.path, "salvage.json"), encoding="utf-8") as file:
            check(fact(json.load(file)["facts"], "cluster-size", "certain") != [], "its facts")
    with mount.mount(path, "salvage=zeros", writable=True) as mounted:
        with open(mounted.disk, "rb") as file:
            check(file.read() == found, "the mount shows another disk than the copy")


@suite.test("ddrescuelog reads the map, and counts what was saved and what was not",
            needs=[tools.tool("ddrescuelog")])
def _(directory):
    path, disk = filled(directory, cluster_size="64k")
    with qcow2.Qcow2(path) as opened:
        opened.file.truncate(opened.end() - 3 * MiB)
    map_file, target = (os.path.join(directory, name) for name in ("map", "target"))
    said = ctl.ctl("salvage", "--map=" + map_file, path, target, status=1).stderr
    lost = int(re.search(r"([0-9]+) bytes of its disk cannot be read", said).group(1))
    check(0 < lost < len(disk), "%d bytes are lost", lost)
    for kind, size in (("+", len(disk) - lost), ("-", lost)):
        blocks = tools.output("ddrescuelog", "-b", "512", "--list-blocks=" + kind, map_file)
        check_equal(512 * len(blocks.split()), size, "the bytes of %s" % kind)
    check("map" in tools.output("ddrescuelog", "--show-status", map_file), "no status of it")


@suite.test("what the header does not say is given to a mount, too")
def _(directory):
    path, disk = filled(directory, cluster_size="4k")
    with qcow2.Qcow2(path) as opened:
        l1_offset = opened["l1_table_offset"]
        opened.write(0, random.Random(8).randbytes(512))
    given = ["salvage", "cluster-size=4k", "virtual-size=%d" % len(disk),
             "l1-offset=%d" % l1_offset]
    with evidence.untouched(directory), \
            mount.mount(path, *given, directory=True, writable=True) as mounted:
        with open(mounted.disk, "rb") as file:
            check(file.read() == disk, "the disk is another one")
        with open(os.path.join(mounted.path, "salvage.json"), encoding="utf-8") as file:
            facts = json.load(file)["facts"]
    for what, value in (("cluster-size", 4096), ("virtual-size", len(disk)),
                        ("l1-offset", l1_offset)):
        check_equal([(each["value"], each["how"]) for each in fact(facts, what, "deduced")],
                    [(value, "given")], what)
    found, facts = salvaged(path, "--cluster-size=4k", "--virtual-size=%d" % len(disk),
                            "--l1-offset=%d" % l1_offset)
    check(found == disk, "the copy is another one")


@suite.test("files of any bytes are salvaged, or refused, and never more")
def _(directory):
    chance = random.Random(11)
    path, _disk = filled(directory, size=2 * MiB, cluster_size="4k", snapshot=False)
    damaged = os.path.join(directory, "damaged.qcow2")
    for number in range(40):
        shutil.copyfile(path, damaged)
        with qcow2.Qcow2(damaged) as opened:
            opened["virtual_size"] = chance.choice((2 * MiB, 3 * MiB))
            for _ in range(chance.randrange(1, 30)):
                at = chance.randrange(32, 112) if chance.random() < 0.6 else \
                    chance.randrange(opened.end())
                opened.write(at, chance.randbytes(chance.randrange(1, 9)))
        target = os.path.join(directory, "t%d" % number)
        done = ctl.ctl("salvage", "--virtual-size=3M", damaged, target, status=None, seconds=120)
        check(done.returncode in (0, 1), "status %d: %s", done.returncode, done.stderr)
    with open(damaged, "wb") as file:
        file.write(chance.randbytes(100000))
    done = ctl.ctl("salvage", damaged, os.path.join(directory, "t"), status=None)
    check(done.returncode in (0, 1), "status %d: %s", done.returncode, done.stderr)


@suite.test("no file is overwritten, and hints are checked")
def _(directory):
    path, _disk = filled(directory)
    ctl.refused("salvage", path, path, words=["does not exist"], unchanged=[path])
    target = os.path.join(directory, "target")
    for option, words in (("--cluster-size=3000", ["3000", "power of two"]),
                          ("--l1-offset=1000", ["1000", "no cluster of 65536 bytes begins"]),
                          ("--l1-offset=1E", ["no L1 table at offset 1152921504606846976"]),
                          ("--virtual-size=7E", ["8070450532247928832", "too large"]),
                          ("--map=" + path, [path, "does not exist"]),
                          ("--map=" + os.path.join(directory, "no", "map"), ["cannot be made"])):
        ctl.refused("salvage", option, path, target, words=words, unchanged=[path])
        check(not os.path.exists(target), "%s: the target is left behind", option)
    ctl.refused("salvage", "--map=" + target, path, target, words=[target, "both", "--map"])
    check(not os.path.exists(target), "an empty map is left behind")
    map_file = os.path.join(directory, "map")
    ctl.refused("salvage", "--map=" + map_file, path, path, words=[path, "does not exist"])
    check(not os.path.exists(map_file), "a map of nothing is left behind")
    failed = mount.mount_fails(path, "salvage,cluster-size=3000", writable=True)
    bad.check_sentence(failed.stderr, "cluster-size", "power of two")
    failed = mount.mount_fails(path, "cluster-size=64k", writable=True)
    check_equal(failed.status, 2, "the status of a hint alone")
    failed = mount.mount_fails(path, "salvage", "overlay", writable=True)
    check_equal(failed.status, 2, "the status with an overlay")
    failed = mount.mount_fails(path, "salvage=no", writable=True)
    check_equal(failed.status, 2, "the status of salvage=no")


if __name__ == "__main__":
    suite.main()
