#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""bitmaps/NAME/ shows what has changed of the disk, and holes for all else."""

import errno
import json
import os
import random

from lib import ctl, image, mount, tap, tools, write
from lib.bitmaps import entry_of, ranges, rounded
from lib.image import KiB, MiB
from lib.tap import check, check_equal

SIZE = 20 * MiB

suite = tap.Suite(needs=[tools.fuse, tools.QEMU, tools.tool("qemu-nbd")])


def create(directory, *names, size=SIZE):
    path = os.path.join(directory, "image.qcow2")
    tools.run("qemu-img", "create", "-q", "-f", "qcow2", path, str(size))
    image.io(path, image.write(0, size, 1))
    for name in names:
        tools.run("qemu-img", "bitmap", "--add", path, name)
    return path


def bitmap(*arguments):
    ctl.ctl("bitmap", "-q", *arguments)


def shown(mounted, name, file="disk.raw"):
    return os.path.join(mounted.path, "bitmaps", name, file)


def data_of(path):
    """Where SEEK_DATA and SEEK_HOLE say that data is: a list of [offset, length]."""
    found, at = [], 0
    with write.opened(path, os.O_RDONLY) as handle:
        while True:
            try:
                start = os.lseek(handle, at, os.SEEK_DATA)
            except OSError as error:
                check_equal(error.errno, errno.ENXIO, "what SEEK_DATA says at the end")
                return found
            at = os.lseek(handle, start, os.SEEK_HOLE)
            found.append([start, at - start])


def extents(mounted, name):
    with open(shown(mounted, name, "extents.json"), encoding="ascii") as file:
        said = json.load(file)
    return said["size"], said["granularity"], [[one["start"], one["length"]] for one in said["extents"]]


def masked(disk, marked):
    """The disk with zeros for all that is not marked."""
    whole = bytearray(os.path.getsize(disk))
    with open(disk, "rb") as file:
        for offset, length in marked:
            file.seek(offset)
            whole[offset:offset + length] = file.read(length)
    return bytes(whole)


def check_shown(mounted, name, marked, granularity=64 * KiB):
    size = os.path.getsize(mounted.disk)
    check_equal(extents(mounted, name), (size, granularity, marked), "extents.json of %s" % name)
    check_equal(data_of(shown(mounted, name)), marked, "the data of %s" % name)
    check_equal(os.path.getsize(shown(mounted, name)), size, "the size of %s" % name)
    with open(shown(mounted, name), "rb") as file:
        check(file.read() == masked(mounted.disk, marked), "the bytes of %s differ", name)


@suite.test("what QEMU has marked, and then what is written here, and nothing else")
def _(directory):
    path = create(directory, "one")
    generator = random.Random(7)
    done = [[generator.randrange(SIZE // 512) * 512, 512 * generator.randint(1, 300)]
            for _ in range(20)]
    done = [[offset, min(length, SIZE - offset)] for offset, length in done]
    image.io(path, *("write -q -P 5 %d %d" % (offset, length) for offset, length in done))
    marked = ranges(path, "one")
    with mount.mount(path, directory=True) as mounted:
        check_shown(mounted, "one", marked)
        for flags in (os.O_WRONLY, os.O_RDWR):
            write.refuses(errno.EROFS, os.open, shown(mounted, "one"), flags)
    with mount.mount(path, directory=True, writable=True) as mounted:
        check_shown(mounted, "one", marked)
        with write.Direct(mounted.disk) as direct:
            for _ in range(20):
                offset, length = generator.randrange(SIZE // 512 - 40) * 512, 512 * generator.randint(1, 40)
                direct.write(offset, generator.randbytes(length))
                done.append([offset, length])
        check_shown(mounted, "one", rounded(done, 64 * KiB, SIZE))
    write.check_clean(path)


@suite.test("of each granularity, to the last bytes of a disk that ends within one")
def _(directory):
    size = 3 * MiB + 1536
    path = create(directory, size=size)
    for granularity in (512, 4096, 2 * MiB, 2 << 30):
        bitmap("--add", "-g", str(granularity), path, "of%d" % granularity)
    with mount.mount(path, directory=True, writable=True) as mounted:
        with write.Direct(mounted.disk) as direct:
            direct.write(MiB, b"m" * 512)
            direct.write(size - 512, b"e" * 512)
        for granularity in (512, 4096, 2 * MiB, 2 << 30):
            check_shown(mounted, "of%d" % granularity,
                        rounded([[MiB, 512], [size - 512, 512]], granularity, size), granularity)


@suite.test("what was zeroed or discarded is data, so that it is copied")
def _(directory):
    path = create(directory, "one")
    with mount.mount(path, "discard=unmap", directory=True, writable=True) as mounted:
        with write.opened(mounted.disk) as handle:
            write.punch(handle, 2 * MiB, 64 * KiB)
            write.zero(handle, 4 * MiB, 64 * KiB)
        check_shown(mounted, "one", [[2 * MiB, 64 * KiB], [4 * MiB, 64 * KiB]])


def copied(directory):
    return os.path.join(directory, "copied.raw")


def with_tar(directory, source):
    tools.run("tar", "-C", os.path.dirname(source), "-cSf", os.path.join(directory, "t.tar"), "disk.raw")
    check(os.path.getsize(os.path.join(directory, "t.tar")) < 2 * MiB, "the archive has what is clean")
    tools.run("tar", "-C", directory, "-xSf", os.path.join(directory, "t.tar"))
    os.rename(os.path.join(directory, "disk.raw"), copied(directory))


COPIES = {
    "cp --sparse=always": (lambda directory, source:
                           tools.run("cp", "--sparse=always", source, copied(directory)), "cp"),
    "cp": (lambda directory, source: tools.run("cp", source, copied(directory)), "cp"),
    "tar -S": (with_tar, "tar"),
    "rsync --sparse": (lambda directory, source:
                       tools.run("rsync", "--sparse", source, copied(directory)), "rsync"),
    "qemu-img convert": (lambda directory, source: tools.run(
        "qemu-img", "convert", "-f", "raw", "-O", "raw", source, copied(directory)), "qemu-img"),
}


def test_copy(name, function, program):
    @suite.test("an increment by %s" % name, needs=[tools.tool(program)])
    def _(directory):
        path = create(directory, "one")
        marked = [[64 * KiB, 64 * KiB], [7 * MiB, 128 * KiB], [SIZE - 64 * KiB, 64 * KiB]]
        with mount.mount(path, directory=True, writable=True) as mounted:
            with write.Direct(mounted.disk) as direct:
                for offset, length in marked:
                    direct.write(offset, b"n" * length)
            function(directory, shown(mounted, "one"))
            with open(copied(directory), "rb") as file:
                check(file.read() == masked(mounted.disk, marked), "the copy differs")
        check(write.blocks(copied(directory)) * 512 < 2 * MiB, "the copy has what is clean")


for each in COPIES:
    test_copy(each, *COPIES[each])


@suite.test("what is open shows the ranges that were marked when it was opened; the next one those of now")
def _(directory):
    path = create(directory, "one")
    with mount.mount(path, directory=True, writable=True) as mounted, write.Direct(mounted.disk) as direct:
        direct.write(MiB, b"a" * 64 * KiB)
        with write.opened(shown(mounted, "one"), os.O_RDONLY) as handle:
            direct.write(2 * MiB, b"b" * 64 * KiB)
            direct.write(MiB, b"c" * 64 * KiB)
            check_equal(os.pread(handle, 64 * KiB, MiB), b"c" * 64 * KiB, "what was marked: the disk")
            check_equal(os.pread(handle, 64 * KiB, 2 * MiB), bytes(64 * KiB), "what was not")
            check_shown(mounted, "one", [[MiB, 64 * KiB], [2 * MiB, 64 * KiB]])
            bitmap("--clear", path, "one")
            check_equal(os.lseek(handle, 0, os.SEEK_DATA), MiB, "what is marked, still")
            check_equal(os.pread(handle, 64 * KiB, MiB), b"c" * 64 * KiB, "what it shows, still")
            check_shown(mounted, "one", [])
            bitmap("--remove", path, "one")
            check_equal(os.pread(handle, 64 * KiB, MiB), b"c" * 64 * KiB, "what it shows, removed")
        check(not os.path.exists(os.path.join(mounted.path, "bitmaps")), "there are none")


@suite.test("they come and go with qcow2ctl bitmap, and keep their place")
def _(directory):
    path = create(directory)
    with mount.mount(path, directory=True, writable=True) as mounted:
        place = os.path.join(mounted.path, "bitmaps")
        check("bitmaps" not in os.listdir(mounted.path), "there is a directory for none")
        for name in ("b", "a", "with/slash"):
            bitmap("--add", path, name)
        check_equal(sorted(os.listdir(place)), ["a", "b", "with%2Fslash"], "the names")
        inode = os.stat(os.path.join(place, "a")).st_ino
        bitmap("--remove", path, "b")
        bitmap("--disable", path, "a")
        check_equal(sorted(os.listdir(place)), ["a", "with%2Fslash"], "the names, then")
        check_equal(os.stat(os.path.join(place, "a")).st_ino, inode, "the inode")
        check_equal(os.stat(place).st_nlink, 4, "the links")
        check_equal(sorted(os.listdir(os.path.join(place, "a"))), ["disk.raw", "extents.json"], "the files")
        check(not os.path.exists(os.path.join(place, "b")), "what was removed is there")
        write.refuses(errno.EPERM, os.mkdir, os.path.join(place, "c"))
    with mount.mount(path, "overlay", directory=True, writable=True) as mounted:
        check("bitmaps" not in os.listdir(mounted.path), "an overlay shows what it does not record in")


@suite.test("the snapshot of a bitmap's name is what is shown, to its end, whatever becomes of the disk")
def _(directory):
    path = create(directory, "point")
    with mount.mount(path, "shrink", directory=True, writable=True) as mounted, write.Direct(mounted.disk) as direct:
        direct.write(MiB, b"a" * 64 * KiB)
        bitmap("--disable", path, "point")
        os.mkdir(os.path.join(mounted.path, "snapshots", "point"))
        direct.write(MiB, b"b" * 64 * KiB)
        direct.write(5 * MiB, b"b" * 64 * KiB)
        with open(shown(mounted, "point"), "rb") as file:
            file.seek(MiB)
            check_equal(file.read(128 * KiB), b"a" * 64 * KiB + bytes(64 * KiB), "what it shows")
        check_equal(data_of(shown(mounted, "point")), [[MiB, 64 * KiB]], "the data")
        os.truncate(mounted.disk, 10 * MiB)
        check_equal(os.path.getsize(shown(mounted, "point")), SIZE, "the size")
        # What the bitmap has no bits for any more counts as changed.
        check_equal(data_of(shown(mounted, "point")), [[MiB, 64 * KiB], [10 * MiB, 10 * MiB]], "the data")


@suite.test("one that is inconsistent or damaged is EIO, and the log says why")
def _(directory):
    path = create(directory, "bad", "good")
    with open(path, "r+b") as file:
        at = entry_of(file, b"bad")
        file.seek(at + 12)
        file.write(b"\0\0\0\1")
    with mount.mount(path, directory=True, writable=True) as mounted:
        check_equal(sorted(os.listdir(os.path.join(mounted.path, "bitmaps"))), ["bad", "good"], "the names")
        for file in ("disk.raw", "extents.json"):
            write.refuses(errno.EIO, os.open, shown(mounted, "bad", file), os.O_RDONLY)
        check_shown(mounted, "good", [])
        bitmap("--remove", path, "bad")
        check_equal(os.listdir(os.path.join(mounted.path, "bitmaps")), ["good"], "the names, then")


if __name__ == "__main__":
    suite.main()
