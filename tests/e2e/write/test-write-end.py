#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The end of a disk that becomes longer: what was stored behind it is not on the disk then."""

import contextlib
import ctypes
import errno
import mmap
import os

from lib import compare, image, mount, tap, tools, write
from lib.image import KiB, MiB
from lib.tap import check_equal
from lib.twin import opened

suite = tap.Suite(needs=[tools.fuse, tools.QEMU])

PAGE = mmap.PAGESIZE
LAST = MiB           # where the last page of the disk begins
END = LAST + 512     # of the disk, within that page
LARGER = LAST + 2 * PAGE


@contextlib.contextmanager
def mounted_disk(directory, options):
    path = image.create(os.path.join(directory, "image.qcow2"), END)
    with mount.mount(path, *options, writable=True) as mounted, opened(mounted.disk) as handle:
        yield path, handle
    write.check_clean(path)


@contextlib.contextmanager
def stored_behind(handle):
    """The last page, with A on the disk, and X behind its end, that a program has still mapped."""
    with mmap.mmap(handle, END - LAST, offset=LAST) as mapped:
        first = ctypes.c_char.from_buffer(mapped)
        ctypes.memset(ctypes.addressof(first), ord("A"), END - LAST)
        ctypes.memset(ctypes.addressof(first) + END - LAST, ord("X"), PAGE - (END - LAST))
        try:
            yield
        finally:
            del first  # or it could not be unmapped


def grown(handle, wanted):
    """That is there now, to its end."""
    size = os.fstat(handle).st_size
    check_equal(size, LAST + len(wanted), "the size")
    compare.check_bytes(os.pread(handle, size - LAST, LAST), wanted, LAST)


def by_ftruncate(handle):
    os.ftruncate(handle, LARGER)
    return b""


def by_fallocate(handle):
    write.fallocate(handle, 0, END, LARGER - END)
    return b""


def by_a_write_far_behind(handle):
    os.pwrite(handle, b"far" * 512, LAST + PAGE + 512)
    return bytes(PAGE) + b"far" * 512


def by_a_write_in_the_page(handle):
    os.pwrite(handle, b"near" * 128, LAST + KiB)
    return bytes(KiB - 512) + b"near" * 128


def growing(name, grow, *options):
    @suite.test("what a program stored behind the end is not on a disk that grows %s%s"
                % (name, "".join(", " + option for option in options)))
    def _(directory):
        with mounted_disk(directory, options) as (path, handle), stored_behind(handle):
            behind = grow(handle) or bytes(LARGER - END)
            wanted = b"A" * 512 + behind
            grown(handle, wanted)
            os.fsync(handle)
        found = os.path.join(directory, "found.raw")
        write.contents(path, found)
        with open(found, "rb") as file:
            file.seek(LAST)
            compare.check_bytes(file.read(), wanted, LAST)


for by_options in ((), ("growable",), ("cache=writethrough",)):
    growing("by ftruncate()", by_ftruncate, *by_options)
growing("by fallocate()", by_fallocate, "growable")
growing("by a write some pages on", by_a_write_far_behind, "growable")
growing("by a write in its last page", by_a_write_in_the_page, "growable")


@suite.test("a write behind the end into a page that was not read yet is not held up, and what is "
            "written before it next is there")
def _(directory):
    with mounted_disk(directory, ("growable",)) as (path, handle):
        os.pwrite(handle, b"B" * 512, LAST + KiB)
        os.pwrite(handle, b"C" * 512, END)
        grown(handle, bytes(512) + b"C" * 512 + b"B" * 512)
    found = os.path.join(directory, "found.raw")
    write.contents(path, found)
    with open(found, "rb") as file:
        file.seek(LAST)
        compare.check_bytes(file.read(), bytes(512) + b"C" * 512 + b"B" * 512, LAST)


@suite.test("a growable disk is as long as what was written, to the byte; remounted, it ends with "
            "zeros up to a whole sector")
def _(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), 0)
    written = b""
    with mount.mount(path, "growable", writable=True) as mounted:
        for length in (1, 99, 100, 311, 1, 65536 * 2 - 1, 4000):
            with open(mounted.disk, "ab") as file:
                file.write(bytes([length % 251 + 1]) * length)
            written += bytes([length % 251 + 1]) * length
            check_equal(os.path.getsize(mounted.disk), len(written), "the size")
        with opened(mounted.disk) as handle:
            os.ftruncate(handle, len(written))  # changes nothing
            os.fsync(handle)
        with open(mounted.disk, "rb") as file:
            compare.check_bytes(file.read(), written, 0)
    write.check_clean(path)
    written += bytes(-len(written) % 512)
    check_equal(image.info(path)["virtual-size"], len(written), "the virtual size")
    with mount.mount(path) as mounted, open(mounted.disk, "rb") as file:
        compare.check_bytes(file.read(), written, 0)


@suite.test("a growable disk is cut to the byte, where that is allowed; what is cut off is gone")
def _(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), 0)
    with mount.mount(path, "growable", writable=True) as mounted, opened(mounted.disk) as handle:
        os.pwrite(handle, b"A" * 1000, 0)
        write.refuses(errno.EPERM, os.ftruncate, handle, 700)
        check_equal(os.fstat(handle).st_size, 1000, "the size")
    with mount.mount(path, "growable", "shrink", writable=True) as mounted:
        with opened(mounted.disk) as handle:
            check_equal(os.fstat(handle).st_size, 1024, "the size")
            os.ftruncate(handle, 700)
            check_equal(os.fstat(handle).st_size, 700, "the size")
            os.pwrite(handle, b"B", 710)
            compare.check_bytes(os.pread(handle, 2000, 0), b"A" * 700 + bytes(10) + b"B", 0)
            os.ftruncate(handle, 600)
    write.check_clean(path)
    check_equal(image.info(path)["virtual-size"], 1024, "the virtual size")
    with mount.mount(path) as mounted, open(mounted.disk, "rb") as file:
        compare.check_bytes(file.read(), b"A" * 600 + bytes(424), 0)


if __name__ == "__main__":
    suite.main()
