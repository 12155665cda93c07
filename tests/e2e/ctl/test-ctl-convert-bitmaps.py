#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""qcow2ctl convert --bitmaps: the copy has the bitmaps of the disk, as QEMU's own copy has them."""

import os
import random

from lib import ctl, image, tap, tools
from lib.bitmaps import all_bits, bitmaps, entry_of, ranges
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.QEMU, tools.tool("qemu-nbd")])
SIZE = 40 * MiB + 1536
BITMAPS = (("sectors", "512"), ("pages", "4k"), ("large", "1M"), ("whole", "2G"), ("full", "4k"),
           ("with space", "64k"))


def create(path, size=SIZE, **options):
    """An image with bitmaps that have something, one all, one nothing, one that is disabled."""
    image.create(path, size, **options)
    for name, granularity in BITMAPS:
        tools.run("qemu-img", "bitmap", "--add", "-g", granularity, path, name)
    generator = random.Random(11)
    image.io(path, *("write -q -P 7 %d %d" % (generator.randrange(size // 512 - 300) * 512,
                                             generator.randint(1, 300) * 512) for _ in range(30)))
    for name in ("sectors", "pages", "large", "whole", "with space"):
        tools.run("qemu-img", "bitmap", "--disable", path, name)
    image.io(path, "write -q -z 0 %d" % size)  # all of it, for one alone
    for name in ("large", "whole"):
        tools.run("qemu-img", "bitmap", "--enable", path, name)
    tools.run("qemu-img", "bitmap", "--clear", path, "whole")
    image.io(path, image.write(2 * MiB, 100 * KiB, 5))
    return path


def check_copy(copy, path):
    """QEMU finds the same in it."""
    tools.run("qemu-img", "check", "-q", copy)
    tools.run("qemu-img", "compare", "-q", path, copy)
    check_equal(all_bits(copy), all_bits(path), "the bitmaps")


def test_copy(name, source, *arguments):
    @suite.test("a copy %s has them" % name)
    def _(directory):
        path = create(os.path.join(directory, "image.qcow2"), **source)
        copy = os.path.join(directory, "copy.qcow2")
        check_equal(ctl.ctl("convert", "--bitmaps", *arguments, path, copy).stderr, "", "what it said")
        check_copy(copy, path)
        theirs = os.path.join(directory, "theirs.qcow2")
        tools.run("qemu-img", "convert", "--bitmaps", "-O", "qcow2", path, theirs)
        check_equal(all_bits(copy), all_bits(theirs), "ours and QEMU's")
        # And both go on with them.
        image.io(copy, "write -q 30M 4k")
        ctl.ctl("resize", "-q", copy, "60M")
        check_equal(ranges(copy, "large")[-1][0] + ranges(copy, "large")[-1][1], 60 * MiB, "the end")
        tools.run("qemu-img", "check", "-q", copy)


test_copy("with the same clusters", {})
test_copy("with smaller clusters", {}, "-o", "cluster_size=512")
test_copy("with larger clusters", {"cluster_size": 4 * KiB}, "-o", "cluster_size=2M,extended_l2=on")
test_copy("that is compressed", {}, "-c")
test_copy("that is preallocated", {}, "-o", "preallocation=metadata")
test_copy("with narrow refcounts", {}, "-o", "refcount_bits=1,cluster_size=4k")


@suite.test("a copy above a base, and with a data file")
def _(directory):
    path = create(os.path.join(directory, "image.qcow2"))
    base, copy = os.path.join(directory, "base.qcow2"), os.path.join(directory, "copy.qcow2")
    image.create(base, SIZE)
    ctl.ctl("convert", "--bitmaps", "-B", "base.qcow2", "-F", "qcow2", path, copy)
    check_copy(copy, path)
    other = os.path.join(directory, "other.qcow2")
    ctl.ctl("convert", "--bitmaps", "-o", "data_file=%s.raw,data_file_raw=on" % other, path, other)
    check_copy(other, path)


@suite.test("three hundred of them, and a long name")
def _(directory):
    path, copy = (os.path.join(directory, name) for name in ("image.qcow2", "copy.qcow2"))
    image.create(path, MiB)
    for number in range(300):
        ctl.ctl("bitmap", "-q", "--add", "-g", "512", path, "number %d" % number)
    ctl.ctl("bitmap", "-q", "--add", path, "n" * 1023)
    ctl.ctl("convert", "--bitmaps", path, copy)
    check_equal(bitmaps(copy), bitmaps(path), "the bitmaps")
    tools.run("qemu-img", "check", "-q", copy)


@suite.test("-n gives them to an image that is there, or refuses before it writes")
def _(directory):
    path = create(os.path.join(directory, "image.qcow2"))
    there = image.create(os.path.join(directory, "there.qcow2"), SIZE, cluster_size=4 * KiB)
    tools.run("qemu-img", "bitmap", "--add", there, "own")
    ctl.ctl("convert", "-n", "--bitmaps", path, there)
    found = all_bits(there)
    granularity, flags, own = found.pop("own")
    check_equal((granularity, flags), (4096, ["auto"]), "the one that was there")
    check(own, "it has not recorded the copy")
    check_equal(found, all_bits(path), "the bitmaps")
    tools.run("qemu-img", "check", "-q", there)
    ctl.refused("convert", "-n", "--bitmaps", path, there, words=["already", "--bitmaps"], unchanged=[there])
    for size, options, words in ((SIZE + MiB, {}, ["another size"]), (SIZE, {"compat": "0.10"}, ["version 2"])):
        other = image.create(os.path.join(directory, "other.qcow2"), size, **options)
        ctl.refused("convert", "-n", "--bitmaps", path, other, words=words, unchanged=[other])


@suite.test("without --bitmaps what is left behind is said, once, and not with -q")
def _(directory):
    path, copy = create(os.path.join(directory, "image.qcow2")), os.path.join(directory, "copy")
    said = ctl.ctl("convert", path, copy).stderr
    check("bitmaps (6) are not copied; --bitmaps" in said and said.count("\n") == 1, "it said %s", said)
    check_equal(bitmaps(copy), [], "the bitmaps")
    check("a raw file has none" in ctl.ctl("convert", "-O", "raw", path, copy).stderr, "nothing is said")
    check_equal(ctl.ctl("convert", "-q", path, copy).stderr, "", "what -q says")
    image.create(path, MiB)
    check_equal(ctl.ctl("convert", path, copy).stderr, "", "what it says where there are none")


@suite.test("one that is inconsistent is refused, or left out where that is asked for")
def _(directory):
    path, copy = create(os.path.join(directory, "image.qcow2")), os.path.join(directory, "copy")
    with open(path, "r+b") as file:
        file.seek(entry_of(file, b"pages") + 12)
        file.write(b"\0\0\0\3")
    ctl.refused("convert", "--bitmaps", path, copy, words=["pages", "inconsistent", "--skip-broken-bitmaps"])
    check(not os.path.exists(copy), "there is a copy")
    said = ctl.ctl("convert", "--bitmaps", "--skip-broken-bitmaps", path, copy).stderr
    check("pages" in said and said.count("\n") == 1, "it said %s", said)
    expected = all_bits(path)
    del expected["pages"]
    check_equal(all_bits(copy), expected, "the bitmaps")


@suite.test("what has no meaning is refused")
def _(directory):
    path, copy = create(os.path.join(directory, "image.qcow2")), os.path.join(directory, "copy")
    raw = os.path.join(directory, "raw")
    ctl.ctl("convert", "-q", "-O", "raw", path, raw)
    ctl.ctl("snapshot", "-q", "-c", "one", path)
    for arguments in (["-O", "raw", path], ["-l", "one", path]):
        ctl.refused("convert", "--bitmaps", *arguments, copy, status=64)
    ctl.refused("convert", "--skip-broken-bitmaps", path, copy, status=64)
    ctl.refused("convert", "--bitmaps", raw, copy, words=["raw file"])
    ctl.refused("convert", "--bitmaps", "-o", "compat=0.10", path, copy, words=["version 2"])
    old = image.create(os.path.join(directory, "old.qcow2"), MiB, compat="0.10")
    ctl.refused("convert", "--bitmaps", old, copy, words=["version 2"])
    check(not os.path.exists(copy), "there is a copy")


if __name__ == "__main__":
    suite.main()
