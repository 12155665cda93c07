#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The end of a disk that becomes longer: what was stored behind it is not on the disk then."""

import contextlib
import ctypes
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


if __name__ == "__main__":
    suite.main()
