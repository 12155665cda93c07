#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""qcow2ctl info --audit: what an image tells of its past, its maker, and images within it."""

import os
import random
import re
import shutil

from lib import ctl, encrypted, image, infos, qcow2, tap, tools
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.QEMU])


def audit(path):
    """{code: [finding, ...]}"""
    found = {}
    for each in infos.json_info(path, "--audit")["audit"]:
        found.setdefault(each["code"], []).append(each)
    return found


def texts(found, code):
    return " / ".join(each["text"] for each in found.get(code, ()))


def remove_keeping(path, name):
    """Removes a snapshot; the host keeps what it had."""
    tools.run("qemu-img", "snapshot", "--image-opts", "-d", name,
              "driver=qcow2,pass-discard-snapshot=off,file.filename=" + path)


@suite.test("snapshots that were removed are told, with name and date, and no others")
def _(directory):
    path = image.create(os.path.join(directory, "a.qcow2"), 4 * MiB)
    for number, name in enumerate(("first", "second of them", "third")):
        image.io(path, image.write(number * 64 * KiB, 64 * KiB, number))
        tools.run("qemu-img", "snapshot", "-c", name, path)
    there = image.info(path)["snapshots"]
    found = audit(path)
    for code in ("removed-snapshot", "snapshot-ids", "counted-too-high"):
        check(code not in found, "%s before any was removed: %s", code, texts(found, code))
    remove_keeping(path, "second of them")
    found = audit(path)
    told = texts(found, "removed-snapshot")
    check_equal(len(found["removed-snapshot"]), 1, "how many are told: " + told)
    check("'second of them' (id 2)" in told, "it says %s", told)
    with qcow2.Qcow2(path) as opened:
        at = found["removed-snapshot"][0]["offset"]
        check_equal(opened.number(at + 16, 4), there[1]["date-sec"], "the date at the offset")
    check("up to 3, and there are 2: 1 with" in texts(found, "snapshot-ids"), "the ids: %s", found)
    remove_keeping(path, "first")
    remove_keeping(path, "third")
    found = audit(path)
    told = texts(found, "removed-snapshot")
    for name in ("'first' (id 1)", "'second of them' (id 2)", "'third' (id 3)"):
        check(name in told, "no %s in %s", name, told)
    check_equal(len(found["removed-snapshot"]), 3, "how many are told")


@suite.test("clusters that are counted too high tell of a snapshot whose removal was cut off")
def _(directory):
    path = image.create(os.path.join(directory, "a.qcow2"), 4 * MiB)
    image.io(path, image.write(0, MiB, 1))
    tools.run("qemu-img", "snapshot", "-c", "gone", path)
    check("counted-too-high" not in audit(path), "with the snapshot: %s", audit(path))
    with qcow2.Qcow2(path) as opened:  # the header is written first, and nothing else was
        opened["nb_snapshots"] = 0
        opened["snapshots_offset"] = 0
    found = audit(path)
    check(": 17, as the removal" in texts(found, "counted-too-high"), "it says %s", found)
    check("'gone'" in texts(found, "removed-snapshot"), "its entry: %s", found)


@suite.test("an image within the disk is told with its place, of a snapshot and deleted ones, too")
def _(directory):
    inner = image.create(os.path.join(directory, "inner.qcow2"), 7 * MiB)
    old = image.create(os.path.join(directory, "old.qcow2"), 9 * MiB, compat="0.10")
    path = image.create(os.path.join(directory, "a.qcow2"), 32 * MiB)
    check("nested-image" not in audit(path), "in an empty one")
    for at, file in ((1024 * 1029, inner), (5 * MiB, inner), (9 * MiB, old), (13 * MiB, inner)):
        tools.run("qemu-io", "-f", "qcow2", "-c", "write -q -s %s %d 128k" % (file, at // 512 * 512),
                  path)
    tools.run("qemu-img", "snapshot", "-c", "keeps", path)
    tools.run("qemu-io", "-f", "qcow2", "-c", "write -q -P 1 5M 128k", "-c", "discard -q 9M 128k",
              path)
    found = audit(path)
    told = texts(found, "nested-image")
    check_equal(len(found["nested-image"]), 4, "how many are told: " + told)
    check("at offset %d of the disk begins a qcow2 image of version 3 with a disk of 7 MiB"
          % (1024 * 1029) in told, "it says %s", told)
    check_equal(told.count("in what a snapshot keeps"), 2, "of the snapshot, in " + told)
    with open(path, "rb") as file:
        for each in found["nested-image"]:
            file.seek(each["offset"])
            check_equal(file.read(4), b"QFI\xfb", "what is at %d" % each["offset"])
    remove_keeping(path, "keeps")
    told = texts(audit(path), "nested-image")
    check_equal(told.count("in what no table refers to"), 2, "that were deleted, in " + told)
    check("of version 2 with a disk of 9 MiB" in told, "it says %s", told)


@suite.test("the entropy of what nothing refers to tells text from what is encrypted")
def _(directory):
    for content, words in ((random.Random(1).randbytes(MiB), r", (\d+) have 7\.9 or more"),
                           (b"To be, or not to be: that is the question.\n" * 24385,
                            r"and (\d+) less than 6")):
        source = os.path.join(directory, "content")
        with open(source, "wb") as file:
            file.write(content[:MiB])
        path = image.create(os.path.join(directory, "a.qcow2"), 4 * MiB)
        check("entropy" not in audit(path), "of an empty image")
        tools.run("qemu-io", "-f", "qcow2", "-c", "write -q -s %s 0 1M" % source, path)
        check("entropy" not in audit(path), "of what is in use")
        tools.run("qemu-img", "snapshot", "-c", "old", path)
        tools.run("qemu-io", "-f", "qcow2", "-c", "write -q -P 1 0 1M", path)
        remove_keeping(path, "old")
        found = audit(path)["entropy"][0]
        count = int(re.search(words, found["text"]).group(1))
        # And what the snapshot's tables were.
        check(256 <= count <= 256 + 3 * 16, "it says %s", found)
        check_equal(found["grade"], "note", "the grade")


@suite.test("QEMU, this project's programs, Virtuozzo and VirtualBox are told apart")
def _(directory):
    path = image.create(os.path.join(directory, "a.qcow2"), 64 * MiB)
    image.io(path, image.write(0, MiB, 1), image.write(40 * MiB, MiB, 1))
    told = texts(audit(path), "made-by")
    for words in ("QEMU 5.2 or newer", "follow the header", "as QEMU writes a new disk"):
        check(words in told, "no %s in %s", words, told)
    for words in ("Virtuozzo", "VirtualBox", "qcow2fs writes", "qcow2ctl convert"):
        check(words not in told, "%s in %s", words, told)

    other = os.path.join(directory, "own.qcow2")
    ctl.ctl("convert", "-q", path, other)
    told = texts(audit(other), "made-by")
    for words in ("qcow2ctl convert", "as qcow2fs writes"):
        check(words in told, "no %s in %s", words, told)
    check("as QEMU writes a new disk" not in told, "QEMU in %s", told)

    parallels = image.create(os.path.join(directory, "p.qcow2"), 64 * MiB, cluster_size="1M",
                             lazy_refcounts="on")
    check("Virtuozzo (Parallels)" in texts(audit(parallels), "made-by"), "of Virtuozzo")

    with qcow2.Qcow2(path) as opened:  # as VirtualBox writes: behind the end, and not counted
        end = -(-opened.end() // opened.cluster_size) * opened.cluster_size
        opened.write(end, b"\5" * opened.cluster_size)
        opened.set_l2_entry(10 * MiB, end | qcow2.COPIED)
    found = audit(path)
    check(": 1, as VirtualBox" in texts(found, "made-by"), "of VirtualBox: %s", found)

    with qcow2.Qcow2(parallels) as opened:
        names = opened.extension(qcow2.EXTENSION_FEATURE_NAMES).data
    for count, words in ((3, "QEMU 4.0 to 5.0"), (2, "QEMU 1.7 to 3.1"), (0, "another program")):
        with qcow2.Qcow2(parallels) as opened:  # the tables of older versions end sooner
            opened.remove_extension(qcow2.EXTENSION_FEATURE_NAMES)
            if count:
                opened.append_extension(qcow2.EXTENSION_FEATURE_NAMES, names[:48 * count])
        check(words in texts(audit(parallels), "made-by"), "no %s with %d names: %s", words, count,
              texts(audit(parallels), "made-by"))
    small = image.create(os.path.join(directory, "small.qcow2"), MiB, cluster_size="4k")
    check("another program" not in texts(audit(small), "made-by"), "QEMU makes such: %s",
          texts(audit(small), "made-by"))


@suite.test("tables that are not in the order of the disk are told")
def _(directory):
    paths = []
    for name, order in (("in-order", (0, 1, 2, 3)), ("back", (3, 0, 2, 1))):
        path = image.create(os.path.join(directory, name), 8 * MiB, cluster_size="4k")
        image.io(path, *(image.write(at * 2 * MiB, 64 * KiB, at) for at in order))
        paths.append(audit(path))
    check("tables-out-of-order" not in paths[0], "in order: %s", paths[0])
    # The tables of 3, 0, 2, 1: on the way from 0 to 3 two lie before one that was met.
    check(": 2: these parts" in texts(paths[1], "tables-out-of-order"), "it says %s", paths[1])


@suite.test("of an encrypted disk neither entropy nor images within are told",
            needs=[encrypted.library])
def _(directory):
    key = encrypted.key_file(directory, "key", b"k")
    path = encrypted.create(os.path.join(directory, "luks"), 4 * MiB, key)
    encrypted.io(path, key, "write -q -P 7 0 1M")
    encrypted.io(path, key, "discard -q 0 512k")
    found = audit(path)
    check(not {"entropy", "nested-image"} & set(found), "it says %s", found)


@suite.test("clusters of any bytes are audited, and entries that cannot be are none")
def _(directory):
    chance = random.Random(3)
    path = image.create(os.path.join(directory, "a.qcow2"), 4 * MiB, cluster_size="4k")
    tools.run("qemu-img", "snapshot", "-c", "gone", path)
    with qcow2.Qcow2(path) as opened:
        entry = opened.read(opened["snapshots_offset"], 80)
    remove_keeping(path, "gone")
    whole = shutil.copyfile(path, os.path.join(directory, "whole"))
    for _ in range(60):
        shutil.copyfile(whole, path)
        with qcow2.Qcow2(path) as opened:
            end = -(-opened.end() // 4096) * 4096
            bent = bytearray(entry)
            for _ in range(chance.randrange(1, 6)):
                bent[chance.randrange(len(bent))] = chance.choice((0, 255, chance.randrange(256)))
            opened.write(end + 4096 - chance.choice((80, 4096)), bytes(bent))
            opened.write(end + 4096, b"QFI\xfb" + chance.randbytes(508))
        audit(path)


if __name__ == "__main__":
    suite.main()
