#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""qcow2ctl map as a list: what qemu-img map says, of images in and out of order.

That it does so for every kind of image is tested with each of the read matrix (lib/matrix.py).
"""

import importlib.util
import json
import os
import random
import shutil

from lib import bad, compare, ctl, image, maps, mount, qcow2, run, tap, tools
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.QEMU])
SIZE = 12 * MiB


def module(name):
    """Another test file, for what it defines."""
    path = os.path.join(run.SOURCE, "tests", "e2e", name + ".py")
    spec = importlib.util.spec_from_file_location(os.path.basename(name).replace("-", "_"), path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def chain(directory):
    """A raw base with holes, and two overlays with all kinds of clusters."""
    image.sparse_raw(os.path.join(directory, "base.raw"), 9 * MiB + 1000)
    image.create(os.path.join(directory, "mid.qcow2"), 10 * MiB, backing="base.raw",
                 backing_format="raw", cluster_size="4k")
    image.scribble(os.path.join(directory, "mid.qcow2"), 9 * MiB, 1, 60, 4 * KiB)
    path = image.create(os.path.join(directory, "top.qcow2"), SIZE, backing="mid.qcow2",
                        backing_format="qcow2", extended_l2="on")
    image.scribble(path, SIZE, 2, 60, 64 * KiB)
    return path


# --- against qemu-img ----------------------------------------------------------------------


@suite.test("any part of a disk is mapped as qemu-img maps it", needs=[tools.EXTENDED_L2])
def _(directory):
    maps.check_map(chain(directory), SIZE, seed=7, windows=60)


@suite.test("files are named as qemu-img names them, from wherever it is called",
            needs=[tools.EXTENDED_L2])
def _(directory):
    path = chain(directory)
    os.mkdir(os.path.join(directory, "below"))
    for cwd, name in ((directory, "top.qcow2"), (directory, "./top.qcow2"),
                      (os.path.join(directory, "below"), "../top.qcow2"), ("/", path)):
        maps.check_map(name, SIZE, windows=0, cwd=cwd)


@suite.test("every kind of sample image is mapped as by qemu-img")
def _(directory):
    for kind in sorted(set(bad.MAKERS) - {"luks", "aes"}):
        place = os.path.join(directory, kind)
        os.mkdir(place)
        maps.check_map(bad.sample(kind, place), bad.SIZE)


@suite.test("preallocated clusters are told from data by the host, as qemu-img does it")
def _(directory):
    for number, options in enumerate(({}, {"extended_l2": "on"}, {"cluster_size": "4k"},
                                      {"data_file": os.path.join(directory, "data.raw")})):
        path = image.create(os.path.join(directory, "%d.qcow2" % number), SIZE,
                            preallocation="metadata", **options)
        for seed in range(3):
            image.settle(path)
            maps.check_map(path, SIZE)
            image.scribble(path, SIZE, seed, 8, 64 * KiB, compress=False)
    path = image.create(os.path.join(directory, "falloc.qcow2"), SIZE, preallocation="falloc")
    image.settle(path)
    maps.check_map(path, SIZE)


@suite.test("each snapshot is mapped as qemu-img maps an image that went back to it")
def _(directory):
    series = module("read/test-read-snapshots").make_series
    for backing in (False, True):
        place = os.path.join(directory, str(backing))
        os.mkdir(place)
        path = series(place, backing=backing)
        for number, name in enumerate(("first", "second", "third")):
            old = os.path.join(place, "old.qcow2")
            shutil.copyfile(path, old)
            tools.run("qemu-img", "snapshot", "-a", name, old)
            expected = maps.qemu_map(old)
            for given in (name, str(number + 1)):
                got = maps.without_compressed(maps.json_map(path, "--snapshot=" + given))
                check_equal(json.dumps(got), json.dumps(expected), "the map of " + given)


@suite.test("a snapshot is found by its ID before its name, and not guessed")
def _(directory):
    path = bad.sample("snapshots", directory)
    first, second = (maps.json_map(path, "--snapshot=%s" % name) for name in ("first", "second"))
    check(first != second, "the snapshots are alike")
    tools.run("qemu-img", "snapshot", "-c", "1", path)
    check_equal(maps.json_map(path, "--snapshot=1"), first, "the map of ID 1")
    ctl.refused("map", "--snapshot=fourth", path, words=[path, "'fourth'", "4", "snapshot -l"],
                unchanged=[path])
    tools.run("qemu-img", "snapshot", "-c", "second", path)
    ctl.refused("map", "--snapshot=second", path, words=[path, "'second'", "several", "ID"],
                unchanged=[path])


# --- where it says more ----------------------------------------------------------------------


@suite.test("compressed clusters are told, and do not end the table")
def _(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), MiB)
    image.io(path, "write -q -c -P 1 64k 64k")
    image.io(path, "write -q -c -P 2 128k 64k")
    image.io(path, "write -q -P 3 192k 64k")
    extents = maps.json_map(path)
    check_equal([(extent["start"], extent["length"], extent["compressed"], "offset" in extent)
                 for extent in extents],
                [(0, 65536, False, False), (65536, 131072, True, False),
                 (196608, 65536, False, True), (262144, 786432, False, False)], "the extents")
    table = ctl.ctl("map", "-f", "qcow2", path).stdout.splitlines()
    check_equal([row.split() for row in table[1:]],
                [["0x10000", "0x20000", "compressed", path],
                 ["0x30000", "0x10000", hex(extents[2]["offset"]), path]], "the table")


@suite.test("where there is nothing to map the list is empty")
def _(directory):
    path = bad.sample("plain", directory)
    for arguments in (["--max-length=0"], ["-s", "2M"], ["-s", "1E", "-l", "1G"]):
        check_equal(maps.json_map(path, *arguments), [], "the list")
        check_equal(ctl.ctl("map", *arguments, path).stdout.count("\n"), 1, "lines of the table")
    empty = image.create(os.path.join(directory, "empty.qcow2"), 0)
    check_equal(maps.json_map(empty), [], "the list")


@suite.test("--json and --output=json print the same, --output=human the table")
def _(directory):
    path = bad.sample("plain", directory)
    check_equal(ctl.ctl("map", path, "--output=json").stdout, ctl.ctl("map", "--json", path).stdout,
                "the list")
    check_equal(ctl.ctl("map", "--output", "human", path).stdout, ctl.ctl("map", path).stdout,
                "the table")


@suite.test("an empty disk of 64 TiB, and a deep chain, are mapped in no time")
def _(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), "64T", cluster_size="2M")
    image.io(path, "write -q 63T 4M")
    maps.check_map(path, 64 << 40)
    name, kind = "base.raw", "raw"
    image.sparse_raw(os.path.join(directory, name), 4 * MiB, pieces=100)
    for number in range(40):
        path = image.create(os.path.join(directory, "%d.qcow2" % number), 1 << 36, backing=name,
                            backing_format=kind, cluster_size=4096 << number % 3)
        name, kind = os.path.basename(path), "qcow2"
    maps.check_map(path, 1 << 36)


@suite.test("a control character in a file's name does not get to the terminal")
def _(directory):
    path = image.create(os.path.join(directory, "a\x1b[31m\xff.qcow2".encode("latin-1").decode(
        "utf-8", "surrogateescape")), MiB)
    image.io(path, "write -q 0 64k")
    told = ctl.ctl("map", path).stdout
    check("a?[31m?.qcow2" in told, "the table is %r", told)


# --- refusals, and images that are damaged -----------------------------------------------------


@suite.test("wrong usage is refused with a sentence and exit status 64")
def _(directory):
    path = bad.sample("plain", directory)
    for arguments, words in (
            ([], ["IMAGE"]),
            ([path, path], ["one argument too many"]),
            (["-f", "raw", path], ["raw", "qcow2"]),
            (["--output=xml", path], ["xml", "human", "json"]),
            (["--start-offset=-1", path], ["-1"]),
            (["-s", "1x", path], ["1x", "size"]),
            (["--max-length", path], ["max-length"]),
            (["--start-ofset=1", path], ["start-offset"]),
            (["--json=1", path], ["no value"]),
            (["--json", "--svg=" + os.path.join(directory, "a.svg"), path], ["--svg", "--json"]),
            (["--output=human", "--svg=a.svg", path], ["--svg", "--output"])):
        ctl.refused("map", *arguments, words=words, status=64, unchanged=[path])
    check_equal(sorted(os.listdir(directory)), ["image.qcow2"], "the files")


@suite.test("what is no image, or lacks a file is refused with one sentence")
def _(directory):
    nothing = os.path.join(directory, "nothing.qcow2")
    ctl.refused("map", nothing, words=[nothing, "no such"])
    with open(nothing, "wb") as file:
        file.write(b"no image" * 100)
    ctl.refused("map", nothing, words=[nothing, "qcow2"], unchanged=[nothing])
    ctl.refused("map", directory, words=[directory, "directory"])
    path = bad.sample("backing", directory)
    os.unlink(os.path.join(directory, "base.raw"))
    ctl.refused("map", path, words=["base.raw"], unchanged=[path])


def damaged(directory):
    """An image of which one L2 entry is impossible; the offset of what that maps."""
    path = bad.sample("small", directory)
    with qcow2.Qcow2(path) as opened:
        opened.set_l2_entry(64 * KiB, qcow2.COPIED | 0x5123 << 9 | 1 << 9)
    return path, 64 * KiB


@suite.test("damage ends the list with a sentence that says where, and the JSON is not whole")
def _(directory):
    path, start = damaged(directory)
    done = ctl.ctl("map", "--json", path, status=1)
    bad.check_sentence(done.stderr, path, hex(start), "qcow2ctl check", program="qcow2ctl")
    check(done.stdout.startswith("[{") and not done.stdout.rstrip().endswith("]"), "the list is %s",
          done.stdout)
    extents = json.loads(done.stdout + "]")
    check_equal(sum(extent["length"] for extent in extents), start, "bytes listed")
    done = ctl.ctl("map", path, status=1)
    rows = done.stdout.splitlines()
    check_equal(sum(int(row.split()[1], 16) for row in rows[1:]), start, "bytes in the table")
    after = ctl.ctl("map", "--json", "--start-offset=%d" % (start + 4 * KiB), path)
    check(json.loads(after.stdout), "nothing is behind the damage")


def mutated(kind, count):
    @suite.test("mutated images (%s) are mapped as by qemu-img, or refused with one sentence" % kind)
    def _(directory):
        others = module("bad/test-bad-mutated")
        path = bad.sample(kind, directory)
        pristine = os.path.join(directory, "pristine")
        shutil.copyfile(path, pristine)
        found = others.areas(path)
        tally = {"refused": 0, "mapped": 0, "compared": 0}
        for seed in range(count):
            shutil.copyfile(pristine, path)
            what = "seed %d of %s (%s)" % (seed, kind, others.mutate(
                path, random.Random("map %s %d" % (kind, seed)), found))
            before = compare.sha256(path)
            picture = os.path.join(directory, "picture.svg")
            try:
                done = ctl.ctl("map", "--json", "--max-length=64M", path, status=None)
                drawn = ctl.ctl("map", "--svg", picture, "--max-length=64M", path, status=None)
                for ended in (done, drawn):
                    check(ended.returncode in (0, 1), "exit status %d", ended.returncode)
                    if ended.returncode == 1:
                        bad.check_sentence(ended.stderr.splitlines(True)[-1], program="qcow2ctl")
                check_equal(compare.sha256(path), before, "the image")
                check_equal(drawn.returncode, done.returncode, "the exit status with --svg")
                if done.returncode == 1:
                    tally["refused"] += 1
                    continue
                tally["mapped"] += 1
                theirs = tools.run("qemu-img", "map", "--output=json", "--max-length=64M", path,
                                   status=None)
                size = json.loads(done.stdout)[-1]
                if theirs.returncode == 0 and (size["start"] + size["length"]) % 512 == 0:
                    tally["compared"] += 1
                    check_equal(maps.without_compressed(json.loads(done.stdout)),
                                maps.without_compressed(json.loads(theirs.stdout)), "the map")
            except Exception as error:
                raise AssertionError("%s: %s" % (what, error)) from error
        tap.diagnose("%s: %r" % (kind, tally))
        check(tally["compared"] > count // 10, "only %d could be compared", tally["compared"])


mutated("plain", 60)
mutated("snapshots", 40)
mutated("extended", 60)
mutated("backing", 40)


# --- in use, and output that fails -----------------------------------------------------------


@suite.test("an image that another program writes to is refused by its name, and mapped with -U")
def _(directory):
    path = bad.sample("plain", directory)
    expected = maps.json_map(path)
    with bad.held(path):
        ctl.refused("map", path, words=[path, "open for writing", "qemu-io"])
        for flag in ("-U", "--force-share"):
            check_equal(maps.json_map(path, flag), expected, "the map")
    with bad.held(path, "-r"):
        check_equal(maps.json_map(path), expected, "the map while another reads")


@suite.test("an image that is mounted for writing is refused, one mounted to be read is mapped",
            needs=[tools.fuse])
def _(directory):
    path = bad.sample("plain", directory)
    expected = maps.json_map(path)
    with mount.mount(path, writable=True):
        ctl.refused("map", path, words=[path, "open for writing", "qcow2fs"])
    with mount.mount(path):
        check_equal(maps.json_map(path), expected, "the map")


@suite.test("a map that cannot be printed is a failure")
def _(directory):
    path = bad.sample("plain", directory)
    done = tools.run("sh", "-c", "exec %s map --json %s >/dev/full" % (ctl.program(), path),
                     status=1)
    bad.check_sentence(done.stderr, "output", "No space left", program="qcow2ctl")


@suite.test("a list of many extents takes little memory")
def _(directory):
    size = 96 * MiB
    path = os.path.join(directory, "image.qcow2")
    image.create(path, size, cluster_size="512")
    image.io(path, "write -q 0 %d" % size)
    with qcow2.Qcow2(path) as opened:  # every second cluster reads as zeros
        entries = opened.cluster_size // 8
        for index in range(opened["l1_size"]):
            table = opened.l1_entry(index) & qcow2.HOST_OFFSET_MASK
            old = opened.read(table, opened.cluster_size) if table else b""
            new = b"".join(b"\0" * 7 + b"\1" if entry % 2 else old[entry * 8:entry * 8 + 8]
                           for entry in range(entries))
            if table:
                opened.write(table, new)
    command = "ulimit -v %d; exec %s map --json %s | wc -l" % (96 * KiB, ctl.program(), path)
    if os.environ.get("QCOW2FS_SANITIZE", "no") != "no":
        raise tap.Skip("a sanitizer takes all the addresses that there are")
    told = tools.output("bash", "-c", "set -o pipefail; " + command)
    check_equal(int(told), size // 512, "the number of lines")


if __name__ == "__main__":
    suite.main()
