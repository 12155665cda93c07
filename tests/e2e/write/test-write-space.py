#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The space of a disk that is written to: allocated, given back, more of it, less of it."""

import errno
import os
import random

from lib import bad, compare, ctl, image, mount, tap, tools
from lib.image import KiB, MiB
from lib.tap import check, check_equal
from lib.twin import (KEEP_SIZE, PUNCH_HOLE, SIZE, ZERO_RANGE, Twin, check_image, occupied, opened,
                      plain, with_raw)
from lib.write import fallocate, refuses

suite = tap.Suite(needs=[tools.fuse, tools.QEMU])

COLLAPSE_RANGE = 8

# --- allocating, zeroing, discarding ------------------------------------------------------------


@suite.test("fallocate() gives every cluster a place, and changes nothing that can be read")
def _(directory):
    path = plain(directory)
    raw = with_raw(path, directory)
    with mount.mount(path, writable=True) as mounted, opened(mounted.disk) as handle:
        before = occupied(path)
        fallocate(handle, 0, 0, SIZE)
        fallocate(handle, KEEP_SIZE, 0, SIZE)
        check_equal(os.fstat(handle).st_size, SIZE, "the size")
        compare.check_files(mounted.disk, raw)
    check(occupied(path) > before + 4 * MiB, "the image occupies %d, before %d", occupied(path),
          before)
    check_image(path, raw)
    check(all(extent.data or extent.offset is not None for extent in image.allocation_map(path)),
          "not all of it has a place: %r", image.allocation_map(path))


@suite.test("fallocate() past the end fails with ENOSPC, and leaves the size alone")
def _(directory):
    path = plain(directory)
    raw = with_raw(path, directory)
    with mount.mount(path, writable=True) as mounted, opened(mounted.disk) as handle:
        for mode in (0, KEEP_SIZE, ZERO_RANGE):
            refuses(errno.ENOSPC, fallocate, handle, mode, SIZE - MiB, 2 * MiB)
        for mode in (COLLAPSE_RANGE, COLLAPSE_RANGE | KEEP_SIZE, 0x20, 0x40):
            refuses(errno.EOPNOTSUPP, fallocate, handle, mode, 0, MiB)
        check_equal(os.fstat(handle).st_size, SIZE, "the size")
    check_image(path, raw)


@suite.test("zeroing and punching that reach past the end are cut there")
def _(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), SIZE)
    image.io(path, image.write(0, SIZE, 1))
    raw = with_raw(path, directory)
    with mount.mount(path, writable=True) as mounted:
        with Twin(mounted.disk, raw) as twin:
            twin.fallocate(PUNCH_HOLE | KEEP_SIZE, SIZE - MiB, 5 * MiB)
            twin.fallocate(ZERO_RANGE | KEEP_SIZE, SIZE - 3 * MiB - 5, 90 * MiB)
            twin.fallocate(PUNCH_HOLE | KEEP_SIZE, SIZE + MiB, MiB)
            twin.fallocate(PUNCH_HOLE | KEEP_SIZE, SIZE, 1)
            twin.fallocate(PUNCH_HOLE | KEEP_SIZE, SIZE + 1, 1 << 40)
        check_equal(os.path.getsize(mounted.disk), SIZE, "the size")
        compare.check_files(mounted.disk, raw)
    check_image(path, raw)


def left_over(directory, change, *options):
    """Bytes that an image of 16 MiB of data occupies after `change` of its disk, given as a Twin."""
    path = image.create(os.path.join(directory, "image.qcow2"), SIZE)
    image.io(path, image.write(0, SIZE, 1))
    raw = with_raw(path, directory)
    with mount.mount(path, *options, writable=True) as mounted:
        with Twin(mounted.disk, raw) as twin:
            change(twin)
        compare.check_files(mounted.disk, raw)
    check_image(path, raw)
    return occupied(path)


def check_left_over(directory, change, least, most, *options):
    found = left_over(directory, change, *options)
    check(least <= found <= most, "it occupies %d bytes with %r", found, options)


def punch(twin):
    """12 MiB."""
    twin.fallocate(PUNCH_HOLE | KEEP_SIZE, 2 * MiB, 12 * MiB)
    twin.sync()


def scatter(twin):
    """Twice all is punched out, and 4 KiB of each cluster are written then."""
    for turn in range(2):
        twin.fallocate(PUNCH_HOLE | KEEP_SIZE, 0, SIZE)
        twin.sync()
        for offset in range(turn * 4 * KiB, SIZE, 64 * KiB):
            twin.write(offset, image.pattern(4 * KiB, 2 + turn))
        twin.sync()


@suite.test("what is punched out gives its space on the host back, unless discard=ignore")
def _(directory):
    for options in ((), ("discard=on",), ("discard=unmap",)):
        check_left_over(directory, punch, 0, 6 * MiB, *options)
    for option in ("discard=off", "discard=ignore"):
        check_left_over(directory, punch, SIZE, 2 * SIZE, option)


@suite.test("what is written to space that was given back takes no more than it needs, unless discard=ignore")
def _(directory):
    # 4 KiB of each cluster, or 64
    check_left_over(directory, scatter, 0, SIZE // 4)
    check_left_over(directory, scatter, SIZE, 3 * SIZE, "discard=ignore")


@suite.test("stat() of the raw disk follows what the image occupies")
def _(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), SIZE)
    with mount.mount(path, writable=True) as mounted, opened(mounted.disk) as handle:
        def blocks_are(low, high):
            bad.wait_for(lambda: low <= os.stat(mounted.disk).st_blocks * 512 <= high,
                         "from %d to %d bytes occupied" % (low, high))
        os.pwrite(handle, image.pattern(8 * MiB, 1), 0)
        os.fsync(handle)
        blocks_are(8 * MiB, 12 * MiB)
        fallocate(handle, PUNCH_HOLE | KEEP_SIZE, 0, 8 * MiB)
        os.fsync(handle)
        blocks_are(0, 2 * MiB)


# --- the size -----------------------------------------------------------------------------------


@suite.test("truncate makes the disk larger, and with shrink smaller; what it gains reads as zeros")
def _(directory):
    path = plain(directory)
    raw = with_raw(path, directory)
    with mount.mount(path, "shrink", writable=True) as mounted:
        with Twin(mounted.disk, raw) as twin:
            for size in (40 * MiB, 10 * MiB + 512, 20 * MiB, 3 * MiB, 3 * MiB + 65536 * 5):
                twin.write(0, b"start")
                twin.truncate(size)
                check_equal(os.path.getsize(mounted.disk), size, "the size")
                twin.write(size - 1000, b"e" * 1000)
                compare.check_files(mounted.disk, raw)
        for name in (mounted.disk, raw):
            os.truncate(name, 30 * MiB)
        check_equal(os.path.getsize(mounted.disk), 30 * MiB, "the size")
        compare.check_files(mounted.disk, raw)
    check_image(path, raw)


@suite.test("a size that is no multiple of 512 is rounded up, and stat() says so")
def _(directory):
    path = plain(directory)
    with mount.mount(path, "shrink", writable=True) as mounted, opened(mounted.disk) as handle:
        os.ftruncate(handle, MiB + 1)
        check_equal(os.fstat(handle).st_size, MiB + 512, "the size")
    check_equal(image.info(path)["virtual-size"], MiB + 512, "the size of the disk")


@suite.test("without shrink nobody makes the disk smaller: EPERM, a line that says why, and every "
            "byte is there; growing goes on")
def _(directory):
    for options in ((), ("growable",), ("cache=directsync",), ("shrink=off",)):
        path = plain(directory)
        raw = with_raw(path, directory)
        with mount.mount(path, *options, writable=True) as mounted:
            with Twin(mounted.disk, raw) as twin:
                twin.write(SIZE - 4096, b"not synced" * 100)
            with opened(mounted.disk) as handle:
                for size in (0, 1, 5120, SIZE // 2, SIZE - 512):
                    refuses(errno.EPERM, os.ftruncate, handle, size)
                for size in (1, 5120, SIZE - 512):
                    refuses(errno.EPERM, os.truncate, mounted.disk, size)
                if options == ("growable",):  # it has any size, to the byte
                    refuses(errno.EPERM, os.ftruncate, handle, SIZE - 1)
                else:  # it is of whole sectors, and has that size
                    os.ftruncate(handle, SIZE - 511)
                os.truncate(mounted.disk, 0)  # as open() with O_TRUNC
                os.ftruncate(handle, SIZE)
                check_equal(os.fstat(handle).st_size, SIZE, "the size")
            check("wanted to cut the disk from %d to 0 bytes" % SIZE in mounted.stderr() and
                  "-o shrink" in mounted.stderr(), "it said %r", mounted.stderr())
            compare.check_files(mounted.disk, raw)
            for name in (mounted.disk, raw):
                os.truncate(name, SIZE + 5 * MiB)
            check_equal(os.path.getsize(mounted.disk), SIZE + 5 * MiB, "the size")
            compare.check_files(mounted.disk, raw)
        check_image(path, raw)


@suite.test("dd seek= without conv=notrunc complains and writes what it has to; truncate -s fails: the "
            "rest of the disk is there")
def _(directory):
    path = plain(directory)
    raw = with_raw(path, directory)
    with mount.mount(path, writable=True) as mounted:
        command = ("dd", "if=/dev/zero", "seek=10", "count=1")
        # Its status is 0 in some versions: what it wrote is written. Others write nothing.
        done = tools.run(*command, "of=" + mounted.disk, status=None)
        check("Operation not permitted" in done.stderr, "dd said %r", done.stderr)
        if "1+0 records out" in done.stderr:
            tools.run(*command, "of=" + raw, "conv=notrunc")
        for size in ("0", "1M"):
            done = tools.run("truncate", "-s", size, mounted.disk, status=None)
            check(done.returncode != 0 and "Operation not permitted" in done.stderr,
                  "truncate ended with %d, and said %r", done.returncode, done.stderr)
        compare.check_files(mounted.disk, raw)
    check_image(path, raw)


@suite.test("an open with O_TRUNC changes nothing, and loses nothing that was written before")
def _(directory):
    for options in ((), ("cache=writethrough",), ("growable",)):
        path = plain(directory)
        raw = with_raw(path, directory)
        with mount.mount(path, *options, writable=True) as mounted:
            with Twin(mounted.disk, raw) as twin:
                twin.write(5 * MiB, b"not synced" * 1000)
                with opened(mounted.disk, os.O_WRONLY | os.O_TRUNC):
                    check_equal(os.path.getsize(mounted.disk), SIZE, "the size")
            compare.check_files(mounted.disk, raw)
            tools.run("sh", "-c", "echo hello >\"$0\"", mounted.disk)
            with open(raw, "r+b") as file:
                file.write(b"hello\n")
            compare.check_files(mounted.disk, raw)
        check_image(path, raw)


@suite.test("a disk is copied onto by cp and dd, as onto a device")
def _(directory):
    path = plain(directory)
    source = image.sparse_raw(os.path.join(directory, "source.raw"), SIZE, seed=9)
    with mount.mount(path, writable=True) as mounted:
        tools.run("cp", "--sparse=never", source, mounted.disk)
        compare.check_files(mounted.disk, source)
        tools.run("touch", mounted.disk)
        tools.run("touch", "-d", "2001-02-03", mounted.disk)
        tools.run("dd", "if=/dev/zero", "of=" + mounted.disk, "bs=1M", "count=2", "conv=notrunc",
                  "status=none")
        with open(source, "r+b") as file:
            file.write(bytes(2 * MiB))
        compare.check_files(mounted.disk, source)
    check_image(path, source)


@suite.test("what reaches past the end is refused: ENOSPC, and what lies before it is written")
def _(directory):
    for options in ((), ("cache=writethrough",), ("cache=none",)):
        path = plain(directory)
        raw = with_raw(path, directory)
        with mount.mount(path, *options, writable=True) as mounted:
            with opened(mounted.disk) as handle:
                try:
                    # Taken into the kernel's cache, or written as far as there is room.
                    os.pwrite(handle, b"z" * 10000, SIZE - 5000)
                    os.pwrite(handle, b"z" * 5000, SIZE)
                    os.fsync(handle)
                except OSError as error:
                    check_equal(error.errno, errno.ENOSPC, "the errno")
                else:
                    raise AssertionError("writing past the end succeeded")
            with open(raw, "r+b") as file:
                os.pwrite(file.fileno(), b"z" * 5000, SIZE - 5000)
            bad.wait_for(lambda: os.path.getsize(mounted.disk) == SIZE, "the old size")
            compare.check_files(mounted.disk, raw)
            with opened(mounted.disk) as handle:
                os.pwrite(handle, b"again", 0)
                os.fsync(handle)
            with open(raw, "r+b") as file:
                file.write(b"again")
        check_image(path, raw)


@suite.test("a disk that is overwritten to its end makes dd stop there")
def _(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), SIZE)
    raw = os.path.join(directory, "twin.raw")
    with mount.mount(path, writable=True) as mounted:
        done = tools.run("sh", "-c", "tr '\\0' x </dev/zero | dd of=\"$0\" bs=1M iflag=fullblock",
                         mounted.disk, status=None, timeout=100)
        check(done.returncode != 0 and "No space left" in done.stderr, "it said %r", done.stderr)
        bad.wait_for(lambda: os.path.getsize(mounted.disk) == SIZE, "the old size")
    with open(raw, "wb") as file:
        file.write(b"x" * SIZE)
    check_image(path, raw)


@suite.test("with growable the disk grows with what is written past its end")
def _(directory):
    path = plain(directory)
    raw = with_raw(path, directory)
    with mount.mount(path, "growable", writable=True) as mounted:
        with Twin(mounted.disk, raw) as twin:
            twin.write(SIZE - 100, b"g" * 100)
            twin.write(SIZE, b"h" * 70000)
            twin.write(SIZE + 9 * MiB, b"i" * 65536)
            twin.fallocate(KEEP_SIZE, SIZE, 50 * MiB)
            check_equal(os.path.getsize(mounted.disk), SIZE + 9 * MiB + 65536, "the size")
            twin.fallocate(0, SIZE + 11 * MiB, MiB)
            twin.fallocate(ZERO_RANGE, SIZE + 12 * MiB - 5, MiB + 5)
            check_equal(os.path.getsize(mounted.disk), SIZE + 13 * MiB, "the size")
        with open(mounted.disk, "ab") as a, open(raw, "ab") as b:
            for file in (a, b):
                file.write(b"appended" * 64)
        compare.check_files(mounted.disk, raw)
    check_image(path, raw)


# --- holes --------------------------------------------------------------------------------------


@suite.test("SEEK_DATA misses nothing that the kernel still holds")
def _(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), SIZE)
    with mount.mount(path, writable=True) as mounted:
        with opened(mounted.disk) as handle:
            os.pwrite(handle, b"x", 5 * MiB)
            found = image.seek_extents(mounted.disk)
            check(any(start <= 5 * MiB < end for start, end in found), "the byte is in a hole: %r",
                  found)
        found = image.seek_extents(mounted.disk)
        check_equal(found, [(5 * MiB, 5 * MiB + 64 * KiB)], "the data, once all is closed,")


# --- a loop device ------------------------------------------------------------------------------


@suite.test("a file that its host has preallocated keeps its length, whatever is written")
def _(directory):
    path = plain(directory)
    os.truncate(path, os.path.getsize(path) + 40 * MiB)
    length = os.path.getsize(path)
    with mount.mount(path, writable=True) as mounted, opened(mounted.disk) as handle:
        fallocate(handle, PUNCH_HOLE | KEEP_SIZE, 0, MiB)
        os.pwrite(handle, b"x" * MiB, 2 * MiB)
        os.fsync(handle)
    check_equal(os.path.getsize(path), length, "the length after a write")
    ctl.ctl("resize", "-q", path, "+1M")
    check_equal(os.path.getsize(path), length, "the length after a resize")
    tools.run("qemu-img", "check", "-q", path)


@suite.test("a file system is made, filled, trimmed and checked on a loop device",
            needs=[tools.loop, tools.tool("mkfs.ext4", "fstrim", "blkdiscard", "e2fsck")])
def _(directory):
    for direct in (False, True):
        path = image.create(os.path.join(directory, "image.qcow2"), 256 * MiB)
        with mount.mount(path, writable=True) as mounted:
            how = ["--direct-io=on"] if direct else []
            with mount.loop_device(mounted.disk, *how, writable=True) as device:
                tools.run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0", device)
                with mount.file_system(device, options="rw") as top:
                    for number in range(6):
                        with open(os.path.join(top, "file%d" % number), "wb") as file:
                            file.write(random.Random(number).randbytes(10 * MiB))
                    tools.run("sync", "-f", top)
                    full = occupied(path)
                    check(full > 60 * MiB, "the image occupies only %d", full)
                    for number in range(5):
                        os.unlink(os.path.join(top, "file%d" % number))
                    tools.run("sync", "-f", top)
                    tools.run("fstrim", top)
                    tools.run("sync", "-f", top)
                    trimmed = occupied(path)
                    check(trimmed < full - 40 * MiB, "%d occupied, before fstrim %d", trimmed, full)
                    compare.forget(os.path.join(top, "file5"))
                    with open(os.path.join(top, "file5"), "rb") as file:
                        compare.check_bytes(file.read(), random.Random(5).randbytes(10 * MiB), 0)
                tools.run("e2fsck", "-fn", device)
                tools.run("blkdiscard", device)
                tools.run("blockdev", "--flushbufs", device)
            with opened(mounted.disk, os.O_RDONLY) as handle:
                os.fsync(handle)
            check(occupied(path) < 4 * MiB, "%d occupied after blkdiscard", occupied(path))
        tools.run("qemu-img", "check", "-q", path)


if __name__ == "__main__":
    if os.geteuid() == 0:
        bad.private_mounts()
    suite.main()
