#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Damaged bitmaps: each can be removed, what QEMU refuses is an error of the check, and a directory that
cannot be read is given up by a repair. The disk and the other bitmaps stay as they are."""

import os

from lib import ctl, image, mount, qcow2, tap, tools, write
from lib.bitmaps import bitmaps, ranges
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.QEMU, tools.tool("qemu-nbd")])
NAMES = ("first", "harmed", "last")


def create(directory):
    path = os.path.join(directory, "image.qcow2")
    image.create(path, 8 * MiB)
    for name in NAMES:
        tools.run("qemu-img", "bitmap", "--add", "-g", "4k", path, name)
    image.io(path, "write -q -P 5 1M 64k")
    return path


def harm(path, change):
    with qcow2.Qcow2(path) as opened:
        change(opened)


def field(name, value):
    return lambda opened: opened.set_bitmap_field(1, name, value)


def entry(value):
    return lambda opened: opened.set_number(opened.bitmap_field(1, "table_offset"), 8, value)


# What is done to one; whether what it took is known all the same, so that it is given back at once.
ONE = {
    "without a table": (field("table_offset", 0), False),
    "with a table within a cluster": (field("table_offset", 12345), False),
    "with a table past the end of the file": (field("table_offset", 1 << 50), False),
    "with a table of many entries": (field("table_size", 99999), False),
    "with bits past the end of the file": (entry(1 << 50), False),
    "with bits within a cluster": (entry(12345 * 512), False),
    "with reserved bits in its table": (entry(1 << 60), False),
    "with bits of 8 bytes": (field("granularity_bits", 3), True),
    "with bits of 1 TiB": (field("granularity_bits", 40), True),
    "with reserved flags": (field("flags", 1 << 31), True),
}


def check_others(path):
    tools.run("qemu-img", "check", "-q", path)
    check_equal(bitmaps(path), [(name, 4096, ["auto"]) for name in ("first", "last")], "what is left")
    for name in ("first", "last"):
        check_equal(ranges(path, name), [[MiB, 64 * KiB]], "what %s has" % name)
    check_disk(path)


def check_disk(path):
    said = image.io(path, "read -q -P 5 1M 64k", status=None)
    check_equal((said.returncode, said.stdout), (0, ""), "what the disk has")


def remove(place):
    ctl.refused("bitmap", "--clear", place, "harmed", words=["harmed"])
    done = ctl.ctl("bitmap", "--remove", place, "harmed")
    check_equal(done.stdout, "Bitmap 'harmed' removed.\n", "what it said")
    return done.stderr


def test_one(words, change, known):
    @suite.test("one %s is an error of the check, and can be removed" % words)
    def _(directory):
        path = create(directory)
        harm(path, change)
        said = ctl.ctl("check", path, status=2)
        check("bitmap" in said.stdout + said.stderr, "check says nothing of it: %s", said)
        said = remove(path)
        check_equal(("stays taken" in said, said.count("\n")), (False, 0) if known else (True, 1), "the warning")
        ctl.ctl("check", path, status=0 if known else 3)
        ctl.ctl("check", "--repair=leaks", path)
        check_others(path)

    @suite.test("one %s can be removed while the disk is mounted" % words, needs=[tools.fuse])
    def _(directory):
        path = create(directory)
        harm(path, change)
        with mount.mount(path, directory=True, writable=True) as mounted:
            with write.Direct(mounted.disk) as direct:
                direct.write(MiB, b"\x05" * 4096)
            check_equal(remove(mounted.path), "", "what it said")
            check_equal(sorted(os.listdir(os.path.join(mounted.path, "bitmaps"))), ["first", "last"],
                        "what is shown")
            check_equal("stays taken" in mounted.stderr(), not known, "that the log says it")
        ctl.ctl("check", "--repair=leaks", path)
        check_others(path)


for each in ONE:
    test_one(each, *ONE[each])


@suite.test("two of one name are an error of the check, and one can be removed")
def _(directory):
    path = create(directory)
    for name in ("last", "harmed"):
        tools.run("qemu-img", "bitmap", "--remove", path, name)
    tools.run("qemu-img", "bitmap", "--add", "-g", "4k", path, "firsT")
    tools.run("qemu-img", "bitmap", "--add", "-g", "4k", path, "last")
    harm(path, lambda opened: opened.write(opened.bitmap_positions()[1] + 24, b"first"))
    said = ctl.ctl("check", path, status=2)
    check("two bitmaps have the name 'first'" in said.stdout + said.stderr, "check says: %s", said)
    ctl.ctl("bitmap", "-q", "--remove", path, "first")
    tools.run("qemu-img", "check", "-q", path)
    check_equal([name for name, _, _ in bitmaps(path)], ["first", "last"], "what is left")
    ctl.ctl("check", path)


def longer(opened):
    opened.write(opened.end(), bytes(64 * KiB))  # there is room for it
    opened.set_bitmaps_field("directory_size", opened.bitmaps_field("directory_size") + 8)


DIRECTORY = {
    "with an entry without a name": field("name_size", 0),
    "with an entry that is too long": field("name_size", 65000),
    "with an entry of too much extra data": field("extra_data_size", 1 << 30),
    "that is longer than its entries": longer,
}


def test_directory(words, change):
    @suite.test("a directory %s: all else is checked, and a repair gives up the bitmaps" % words)
    def _(directory):
        path = create(directory)
        harm(path, change)
        for arguments in (["--add", path, "new"], ["--remove", path, "first"]):
            ctl.refused("bitmap", *arguments, words=["bitmap directory", "check --repair=all"], unchanged=[path])
        said = ctl.ctl("check", path, status=2).stdout
        check("bitmap directory" in said and "1 error" in said, "check says %s", said)
        with qcow2.Qcow2(path) as opened:  # and something else is wrong with it
            opened.set_refcount(opened.l2_entry(MiB) & qcow2.HOST_OFFSET_MASK, 0)
        said = ctl.ctl("check", path, status=2).stdout
        check("refcount 0" in said, "it does not go on: %s", said)
        ctl.ctl("check", "--repair=leaks", path, status=2)
        ctl.ctl("check", "--repair=all", path, status=3)  # nothing is freed while that is not known
        ctl.ctl("check", "--repair=leaks", path)
        check_equal(bitmaps(path), [], "the bitmaps")
        ctl.ctl("bitmap", "-q", "--add", path, "new")
        tools.run("qemu-img", "check", "-q", path)
        check_disk(path)


for each in DIRECTORY:
    test_directory(each, DIRECTORY[each])

if __name__ == "__main__":
    suite.main()
