# SPDX-License-Identifier: MIT
"""Two files compared: their bytes, their holes; and a file compared with its past."""

import bisect
import hashlib
import mmap
import os
import random

from . import image
from .image import MiB
from .tap import check, check_equal

CHUNK = 1 * MiB


class Difference(AssertionError):
    """Two files that should hold the same bytes do not."""


def _report(offset, actual, expected, names):
    first = next(index for index, (a, b) in enumerate(zip(actual, expected)) if a != b)
    count = sum(a != b for a, b in zip(actual, expected))
    raise Difference("%s and %s differ first at byte %d (%d bytes of the %d from %d on): "
                     "%s instead of %s"
                     % (names[0], names[1], offset + first, count, len(actual), offset,
                        actual[first:first + 16].hex(), expected[first:first + 16].hex()))


def check_bytes(actual, expected, offset, names=("what was read", "what was expected")):
    """Fails unless the two pieces, from `offset` of their files, are the same."""
    if len(actual) != len(expected):
        raise Difference("%s gave %d bytes at %d, %s %d"
                         % (names[0], len(actual), offset, names[1], len(expected)))
    if actual != expected:
        _report(offset, actual, expected, names)


def check_files(actual, expected, length=None):
    """Fails unless the first `length` bytes (by default all) of two files are the same."""
    names = (os.path.basename(actual), os.path.basename(expected))
    with open(actual, "rb", buffering=0) as a, open(expected, "rb", buffering=0) as b:
        position = 0
        while length is None or position < length:
            wanted = CHUNK if length is None else min(CHUNK, length - position)
            got, should = a.read(wanted), b.read(wanted)
            check_bytes(got, should, position, names)
            if not should:
                check(length is None, "both files end at %d, before %s", position, length)
                return
            position += len(should)


def forget(path):
    """Makes the kernel drop what it keeps of a file, so that the next read asks the daemon."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)


def _ranges(size, seed, count, unit, longest):
    generator = random.Random(seed)
    for _ in range(count):
        start = generator.randint(0, size // unit) * unit
        yield start, generator.randint(1, max(1, longest // unit)) * unit


def check_random_preads(actual, expected, seed=1, count=200, longest=300000):
    """pread() at any offset, of any length, also over and past the end."""
    forget(actual)
    size = os.path.getsize(expected)
    a, b = os.open(actual, os.O_RDONLY), os.open(expected, os.O_RDONLY)
    try:
        for start, length in _ranges(size + 4096, seed, count, 1, longest):
            check_bytes(os.pread(a, length, start), os.pread(b, length, start), start)
    finally:
        os.close(a)
        os.close(b)


def check_direct_reads(actual, expected, seed=2, count=200, longest=300000):
    """Reads with O_DIRECT, at multiples of 512 bytes."""
    size = os.path.getsize(expected)
    a, b = os.open(actual, os.O_RDONLY | os.O_DIRECT), os.open(expected, os.O_RDONLY)
    buffer = mmap.mmap(-1, (longest + 4095) // 4096 * 4096)
    try:
        for start, length in _ranges(size, seed, count, 512, longest):
            with memoryview(buffer) as whole, whole[:length] as piece:
                got = os.preadv(a, [piece], start)
                check_bytes(bytes(piece[:got]), os.pread(b, length, start), start)
    finally:
        buffer.close()
        os.close(a)
        os.close(b)


def check_mapped_reads(actual, expected, seed=3, count=200, longest=300000):
    """Reads of the file mapped into memory."""
    forget(actual)
    with open(actual, "rb") as a, open(expected, "rb") as b:
        with mmap.mmap(a.fileno(), 0, prot=mmap.PROT_READ) as mapped, \
                mmap.mmap(b.fileno(), 0, prot=mmap.PROT_READ) as wanted:
            check_equal(len(mapped), len(wanted), "the size of the mapping")
            for start, length in _ranges(len(wanted), seed, count, 1, longest):
                check_bytes(mapped[start:start + length], wanted[start:start + length], start)


# --- holes ----------------------------------------------------------------------


def _overlaps(extents, start, end):
    """The parts of [start, end) inside the extents (ordered, disjoint)."""
    index = max(0, bisect.bisect_right(extents, (start, float("inf"))) - 1)
    while index < len(extents) and extents[index][0] < end:
        begin, finish = max(start, extents[index][0]), min(end, extents[index][1])
        if begin < finish:
            yield begin, finish
        index += 1


def _gaps(extents, start, end):
    """The parts of [start, end) outside the extents."""
    for begin, finish in _overlaps(extents, start, end):
        if start < begin:
            yield start, begin
        start = finish
    if start < end:
        yield start, end


def check_holes(extents, expected, layers, size):
    """Fails unless a walk through a mount (`extents`) fits what qemu-img maps (`expected`).

    What qemu-img calls zero or absent is a hole. What it calls data is data, except that
    (sub)clusters without any data on the host may be holes too: preallocated ones.
    """
    hosts = {}
    granularity = min(layer.granularity for layer in layers)
    for extent in expected:
        start, end = extent.start, min(extent.start + extent.length, size)
        if not extent.data:
            for begin, finish in _overlaps(extents, start, end):
                raise AssertionError("bytes %d to %d are data, and qemu-img maps none there: %r"
                                     % (begin, finish, extent))
            continue
        for begin, finish in _gaps(extents, start, end):
            where = "bytes %d to %d are a hole, and qemu-img maps data: %r" % (begin, finish,
                                                                              extent)
            check(extent.offset is not None, "%s", where)
            check((begin % granularity == 0 or begin == start)
                  and (finish % granularity == 0 or finish == end),
                  "%s: not whole subclusters of %d bytes", where, granularity)
            host = layers[extent.depth].data_path
            if host not in hosts:
                hosts[host] = image.host_data(host)
            shift = extent.offset - extent.start
            for kept in _overlaps(hosts[host], begin + shift, finish + shift):
                raise AssertionError("%s, where %s keeps data: bytes %d to %d"
                                     % (where, host, kept[0], kept[1]))


# --- the image unchanged ----------------------------------------------------------


def sha256(path, update_atime=True):
    """The checksum of a file's bytes."""
    digest = hashlib.sha256()
    flags = os.O_RDONLY if update_atime else os.O_RDONLY | os.O_NOATIME
    handle = os.open(path, flags)
    try:
        while True:
            data = os.read(handle, CHUNK)
            if not data:
                return digest.hexdigest()
            digest.update(data)
    finally:
        os.close(handle)


class Unchanged:
    """What files are now, to be compared with what they are later.

    Access times are set to a past in which the next ordinary read would change them.
    """

    def __init__(self, *paths):
        self._before = {}
        for path in paths:
            modified = os.stat(path).st_mtime_ns
            os.utime(path, ns=(modified - 3600 * 10**9, modified))
            self._before[path] = self._look(path)

    @staticmethod
    def _look(path):
        digest = sha256(path, update_atime=False)
        status = os.stat(path)
        return {"sha256": digest, "size": status.st_size, "mtime": status.st_mtime_ns,
                "atime": status.st_atime_ns, "ctime": status.st_ctime_ns,
                "blocks": status.st_blocks, "inode": status.st_ino, "mode": status.st_mode}

    def before(self, path):
        """What a file was when this was made."""
        return self._before[path]

    def check(self, but=()):
        """Fails unless all is as it was, `but` some of what is looked at."""
        for path, before in self._before.items():
            now = self._look(path)
            for name in [name for name in before if name not in but]:
                check_equal(now[name], before[name], "%s of %s" % (name, os.path.basename(path)))
