#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Partitions as files beside the disk that they are a part of: what is written through either."""

import contextlib
import errno
import json
import mmap
import os
import signal
import struct
import threading

from lib import bad, image, mount, run, tap, tools
from lib.image import KiB, MiB
from lib.partitions import (SIZE, TWO, mounted, opened, part, partitioned, read, read_at,
                            shown, write_at)
from lib.tap import check, check_equal
from lib.write import refuses

suite = tap.Suite(needs=[tools.fuse, tools.QEMU, tools.tool("sfdisk")])


# --- the two never contradict each other ----------------------------------------------------------


def versions(text):
    return (text * (4 * KiB // len(text) + 1))[:4 * KiB]


@suite.test("what is written through a partition is in the disk, whoever has it in its cache")
def _(directory):
    path = partitioned(directory, "label: dos\nstart=1MiB,size=50MiB,type=5\nstart=2MiB,size=8MiB\n")
    with mounted(path) as found:
        with opened(found.disk) as disk, opened(part(found, 5)) as same, \
                opened(part(found, 1)) as around:
            views = [(os.pread, disk, 2 * MiB), (os.pread, same, 0), (os.pread, around, MiB)]
            maps = [mmap.mmap(handle, 32 * KiB, mmap.MAP_SHARED, mmap.PROT_READ, offset=base)
                    for _call, handle, base in views]
            for number in range(50):
                at, data = number % 7 * 4 * KiB + number, versions(b"%d;" % number)
                for call, handle, base in views:
                    call(handle, 64 * KiB, base)
                with opened(part(found, 5 if number % 2 else 1), os.O_RDWR) as writer:
                    os.pwrite(writer, data, at + (0 if number % 2 else MiB))
                    # with no sync, and not closed
                    for (call, handle, base), mapped in zip(views, maps):
                        check(call(handle, 4 * KiB, base + at) == data, "write %d: a reader", number)
                        if at + 4 * KiB <= 32 * KiB:
                            check(mapped[at:at + 4 * KiB] == data, "write %d: a mapping", number)
            for mapped in maps:
                mapped.close()
        # nobody has it open now, but the kernel has pages of it
        read(found.disk)
        write_at(part(found, 5), b"while it was closed", 100)
        check_equal(read_at(found.disk, 19, 2 * MiB + 100), b"while it was closed", "the disk")
        with opened(part(found, 5), os.O_RDWR) as writer:
            read(found.disk)
            os.pwrite(writer, b"WHILE", 100)
            check_equal(read_at(found.disk, 5, 2 * MiB + 100), b"WHILE", "the disk")
            fcntl_punch(writer, 0, 4096)
            check_equal(read_at(found.disk, 4096, 2 * MiB), bytes(4096), "what was punched out")
    image.convert(path, path + ".raw", "-O", "raw", source_format="qcow2")


def fcntl_punch(handle, offset, length):
    """fallocate() with FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE."""
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(handle, 3, ctypes.c_int64(offset), ctypes.c_int64(length)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


@suite.test("what is written through the disk, and synced, is in the partition")
def _(directory):
    path = partitioned(directory)
    with mounted(path) as found:
        with opened(part(found, 1)) as first, opened(part(found, 2)) as second, \
                opened(found.disk, os.O_RDWR) as disk:
            mapped = mmap.mmap(first, MiB, mmap.MAP_SHARED, mmap.PROT_READ)
            for number in range(30):
                at, data = number * 5000, versions(b"%d:" % number)
                os.pread(first, MiB, 0)
                os.pread(second, MiB, 0)
                os.pwrite(disk, data, MiB + at)
                os.pwrite(disk, data, 24 * MiB + at)
                os.fsync(disk)
                check(mapped[at:at + len(data)] == data, "write %d: the mapping", number)
                check(os.pread(first, len(data), at) == data, "write %d: the first", number)
                check(os.pread(second, len(data), at) == data, "write %d: the second", number)
            mapped.close()


@contextlib.contextmanager
def reader_process(path, base, stable):
    """Looks at eight bytes until it is told to end; gives a function that waits for its verdict."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            handle = os.open(path, os.O_RDONLY)
            while True:
                known = stable[:8]
                if known == b"\xff" * 8:
                    status = 0
                    break
                if os.pread(handle, 8, base) < known:
                    break
        finally:
            os._exit(status)
    try:
        yield lambda: os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


@suite.test("readers of all files see each flushed write, whichever file it went through")
def _(directory):
    path = partitioned(directory)
    stable = mmap.mmap(-1, 4096)  # the last that was flushed; all ones: the end
    with mounted(path, "threads=2") as found:
        write_at(part(found, 1), bytes(8), 8 * KiB)
        with reader_process(found.disk, MiB + 8 * KiB, stable) as one, \
                reader_process(part(found, 1), 8 * KiB, stable) as other:
            for number in range(1, 200):
                written = struct.pack(">Q", number)
                if number % 2:
                    write_at(part(found, 1), written, 8 * KiB)
                else:
                    write_at(found.disk, written, MiB + 8 * KiB)
                stable[:8] = written
            stable[:8] = b"\xff" * 8
            check_equal(one(), 0, "the verdict of who reads the disk")
            check_equal(other(), 0, "the verdict of who reads the partition")


def opened_while_closed(one, other):
    """Whether the other one could be opened to write while it waited for the first to be closed."""
    closer = threading.Timer(0.1, os.close, [os.open(one, os.O_RDWR)])
    closer.start()
    try:
        with opened(other, os.O_RDWR):
            return True
    except OSError as error:
        check_equal(error.errno, errno.EBUSY, "the error")
        return False
    finally:
        closer.join()


@suite.test("disk.raw and a partition are not open to write at the same time: EBUSY")
def _(directory):
    path = partitioned(directory)
    with mounted(path) as found:
        for one, other in ((found.disk, part(found, 1)), (part(found, 2), found.disk)):
            with opened(one, os.O_RDWR):
                refuses(errno.EBUSY, os.open, other, os.O_WRONLY)
                with opened(other):
                    pass
            # That it was closed arrives in its own time, and nobody hears of that.
            for _ in range(100):
                for name in (one, other):
                    with opened(name, os.O_RDWR) as handle:
                        os.pwrite(handle, b"x", 5 * KiB)
        with opened(part(found, 1), os.O_RDWR), opened(part(found, 2), os.O_RDWR), \
                opened(part(found, 1), os.O_WRONLY):
            pass
        # one that waits gets it when the other is closed, unless that is late
        check(any(opened_while_closed(found.disk, part(found, 1)) for _ in range(20)), "it is never opened")


@suite.test("a partition is data and holes where the disk is, up to its end")
def _(directory):
    path = image.create(os.path.join(directory, "holes.qcow2"), SIZE)
    places = [(MiB - 64 * KiB, 128 * KiB), (3 * MiB, 64 * KiB), (21 * MiB - 64 * KiB, 128 * KiB),
              (30 * MiB, MiB)]
    image.io(path, *[image.write(at, length, 1) for at, length in places])
    with mounted(path) as found:
        tools.run("sfdisk", "-q", "--no-tell-kernel", "--wipe=never", found.disk, input=TWO)
    with mounted(path) as found:
        check_equal(image.seek_extents(part(found, 1)),
                    [(0, 64 * KiB), (2 * MiB, 2 * MiB + 64 * KiB), (20 * MiB - 64 * KiB, 20 * MiB)],
                    "the data of the first")
        check_equal(image.seek_extents(part(found, 2)), [(6 * MiB, 7 * MiB)],
                    "the data of the second")
        with opened(part(found, 2), os.O_RDWR) as writer:
            os.pwrite(writer, b"x", 10 * MiB)
            check_equal(image.seek_extents(part(found, 2)),
                        [(6 * MiB, 7 * MiB), (10 * MiB, 10 * MiB + 64 * KiB)],
                        "the data, after a write")
            fcntl_punch(writer, 6 * MiB, MiB)
            check_equal(os.lseek(writer, 0, os.SEEK_DATA), 10 * MiB, "the first data")
            refuses(errno.ENXIO, os.lseek, writer, 11 * MiB, os.SEEK_DATA)
            check_equal(os.lseek(writer, 11 * MiB, os.SEEK_HOLE), 11 * MiB, "a hole")


@suite.test("the size of a partition is fixed, and nothing is written behind its end")
def _(directory):
    path = partitioned(directory)
    behind = 21 * MiB
    for options in ((), ("growable", "shrink")):
        with mounted(path, *options) as found:
            name, before = part(found, 1), read_at(found.disk, 4 * KiB, behind)
            for size in (0x1000, 20 * MiB - 1, 20 * MiB + 512, 1 << 40):
                refuses(errno.EPERM, os.truncate, name, size)
            os.truncate(name, 20 * MiB)
            with opened(name, os.O_RDWR | os.O_TRUNC) as writer:  # as a shell's >
                check_equal(os.fstat(writer).st_size, 20 * MiB, "the size")
                refuses(errno.EPERM, os.ftruncate, writer, 0)
                refuses(errno.ENOSPC, os.pwrite, writer, b"x", 20 * MiB)
                refuses(errno.ENOSPC, os.posix_fallocate, writer, 20 * MiB - 512, 1024)
                check_equal(os.pwrite(writer, b"y" * 4096, 20 * MiB - 1000), 1000, "bytes written")
                fcntl_punch(writer, 20 * MiB - 512, 4096)
                os.fsync(writer)
            check_equal(read_at(name, 4096, 20 * MiB - 1000), b"y" * 488 + bytes(512), "the end")
            check(read_at(found.disk, 4 * KiB, behind) == before, "what is behind has changed")
            check_equal(os.path.getsize(found.disk), SIZE, "the size of the disk")
            os.utime(name)
            refuses(errno.EPERM, os.chmod, name, 0o777)
            refuses(errno.EPERM, os.chown, name, 12345, -1)
            for target in (name, os.path.join(found.parts, "by-partlabel", "one")):
                refuses(errno.EPERM, os.unlink, target)


@suite.test("a partition that moves is another file, and who has the old one open keeps it")
def _(directory):
    path = partitioned(directory)
    with mounted(path) as found:
        inodes = [os.stat(part(found, number)).st_ino for number in (1, 2)]
        with opened(part(found, 1)) as first, opened(part(found, 2)) as second:
            old = os.pread(second, 4096, 0)
            tools.run("sfdisk", "-q", "--no-tell-kernel", "--wipe=never", found.disk,
                      input=TWO.replace("start=24MiB,size=20", "start=30MiB,size=10"))
            check_equal(shown(found), [(1, 20 * MiB), (2, 10 * MiB)], "the partitions")
            check_equal(os.stat(part(found, 1)).st_ino, inodes[0], "one that has not moved")
            check(os.stat(part(found, 2)).st_ino != inodes[1], "one that moved is the same file")
            check(os.pread(second, 4096, 0) == old, "the old one has changed")
            check_equal(os.fstat(second).st_size, 20 * MiB, "the size of the old one")
            check(read_at(part(found, 2), 4096, 0) == read_at(found.disk, 4096, 30 * MiB),
                  "the new one has other bytes than the disk")
            write_at(found.disk, b"to all", 30 * MiB)
            check_equal(os.pread(second, 6, 6 * MiB), b"to all", "the old one")
            tools.run("sfdisk", "-q", "--delete", found.disk, "1")
            check_equal(shown(found), [(2, 10 * MiB)], "the partitions")
            check_equal(os.listdir(os.path.join(found.parts, "by-partlabel")), ["two"], "the names")
            check_equal(os.fstat(first).st_size, 20 * MiB, "the size of one that is gone")
            check_equal(len(os.pread(first, 4096, 0)), 4096, "the bytes of one that is gone")


@suite.test("where the disk becomes smaller a partition reads as zeros, and cannot be written there")
def _(directory):
    path = partitioned(directory)
    with mounted(path, "shrink", "growable") as found:
        with opened(part(found, 2), os.O_RDWR) as writer, opened(part(found, 2)) as reader:
            check(any(os.pread(reader, 10 * MiB, 10 * MiB)), "nothing to lose")
            os.truncate(found.disk, 34 * MiB)
            check(not any(os.pread(reader, 10 * MiB, 10 * MiB)), "what is gone is still shown")
            check_equal(os.fstat(reader).st_size, 20 * MiB, "the size of an open file")
            refuses(errno.ENOSPC, os.pwrite, writer, b"x", 10 * MiB)
            check_equal(os.pwrite(writer, b"x" * 1024, 10 * MiB - 512), 512, "bytes written")
            check_equal(os.lseek(reader, 15 * MiB, os.SEEK_HOLE), 15 * MiB, "a hole")
            refuses(errno.ENXIO, os.lseek, reader, 15 * MiB, os.SEEK_DATA)
            check_equal(os.path.getsize(found.disk), 34 * MiB, "the size of the disk")
        check_equal(shown(found), [(1, 20 * MiB), (2, 10 * MiB)], "the partitions")


@suite.test("what was written to a partition that is open survives a SIGTERM, and the image is sound")
def _(directory):
    path = partitioned(directory)
    with mounted(path) as found:
        handle = os.open(part(found, 1), os.O_RDWR)
        reader = os.open(found.disk, os.O_RDONLY)
        os.pread(reader, MiB, MiB)
        os.pwrite(handle, b"not synced" * 1000, 12345)
        found.signal(signal.SIGTERM)
        for each in (handle, reader):
            with contextlib.suppress(OSError):
                os.close(each)
    tools.run("qemu-img", "check", "-q", path)
    with mounted(path, writable=False) as found:
        check_equal(read_at(found.disk, 10000, MiB + 12345), b"not synced" * 1000, "the disk")


# --- used by others -------------------------------------------------------------------------------


@suite.test("a file system is made, mounted, filled and checked on a partition's file",
            needs=[tools.root, tools.loop, tools.file_system("ext4"), tools.MKE2FS])
def _(directory):
    path = partitioned(directory)
    with mounted(path) as found:
        name = os.path.join(found.parts, "by-partlabel", "two")
        before = read(part(found, 1))
        tools.run("mkfs.ext4", "-q", "-F", name)
        with mount.loop_device(name, writable=True) as device:
            with mount.file_system(device, options="rw") as place:
                with open(os.path.join(place, "file"), "wb") as file:
                    file.write(image.pattern(3 * MiB, 3))
        tools.run("e2fsck", "-f", "-n", part(found, 2))
        with mount.loop_device(found.disk, "-o", str(24 * MiB), "--sizelimit", str(20 * MiB)) as device:
            with mount.file_system(device) as place:
                check(read(os.path.join(place, "file")) == image.pattern(3 * MiB, 3), "the file")
        check(read(part(found, 1)) == before, "the other partition has changed")
    tools.run("qemu-img", "check", "-q", path)


@suite.test("a user without rights writes to a partition of his own mount",
            needs=[tools.tool("setpriv", "fusermount3")])
def _(_directory):
    with bad.public_directory() as public:
        home = os.path.join(public.path, "home")
        os.mkdir(home)
        path = partitioned(home)
        at = os.path.join(home, "mnt")
        os.mkdir(at)
        if os.geteuid() == 0:
            for name in (home, path, at):
                os.chown(name, 65534, 65534)

        def user(*argv, **keywords):
            return tools.run(*bad.user_prefix(bad.NOBODY), *argv, env={run.MARK: run.directory},
                             **keywords)

        user(public.program, path, at)
        try:
            one = os.path.join(at, "partitions", "1.raw")
            user("dd", "of=" + os.path.join(at, "partitions", "by-partlabel", "one"), "bs=4k",
                 "seek=1", "conv=notrunc,fsync", "status=none", input="from a user")
            check(user("dd", "if=" + one, "bs=4k", "skip=1", "count=1", "status=none")
                  .stdout.startswith("from a user"), "the partition")
            check(user("dd", "if=" + os.path.join(at, "disk.raw"), "bs=4k", "skip=257", "count=1",
                       "status=none").stdout.startswith("from a user"), "the disk")
        finally:
            user("fusermount3", "-u", at)
            bad.wait_gone(at)
        tools.run("qemu-img", "check", "-q", path)


@suite.test("a mount point that is a file has no partitions, and stats.json counts what was asked")
def _(directory):
    path = partitioned(directory)
    with mounted(path) as found:
        read(part(found, 1))
        with open(os.path.join(found.path, "stats.json"), encoding="utf-8") as file:
            told = json.load(file)
        check(told["bytes-read"] >= 20 * MiB, "bytes read: %r", told["bytes-read"])
        inodes = [os.lstat(os.path.join(top, name)).st_ino
                  for top, names, others in os.walk(found.path) for name in names + others]
        check_equal(len(set(inodes)), len(inodes), "inodes without their doubles")
    with mount.mount(path) as found:
        check(not os.path.isdir(found.path), "a directory")


if __name__ == "__main__":
    suite.main()
