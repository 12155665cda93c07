#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writing through a mount: what was written is in the image, and nothing else has changed."""

import contextlib
import ctypes
import errno
import json
import mmap
import os
import random
import resource
import signal
import time

from lib import bad, compare, image, mount, qcow2, run, tap, tools
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.QEMU])

SIZE = 16 * MiB
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, COLLAPSE_RANGE = 1, 2, 16, 8

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def fallocate(handle, mode, offset, length):
    if _libc.fallocate(handle, mode, offset, length) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def fails(number, function, *arguments):
    """Fails unless the call fails with that errno."""
    try:
        function(*arguments)
    except OSError as error:
        check_equal(error.errno, number, "the errno (%s)" % error)
    else:
        raise AssertionError("it succeeded, and should have failed: %s" % os.strerror(number))


@contextlib.contextmanager
def opened(path, flags=os.O_RDWR):
    handle = os.open(path, flags)
    try:
        yield handle
    finally:
        try:
            os.close(handle)
        except OSError as error:  # the daemon was ended meanwhile
            if error.errno != errno.ENOTCONN:
                raise


def check_image(path, raw):
    """Fails unless qemu-img finds the image in order, and in it what is in the raw file."""
    tools.run("qemu-img", "check", "-q", path)
    tools.run("qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", path, raw)
    check_equal(image.info(path)["virtual-size"], os.path.getsize(raw), "the size of the disk")


def occupied(path):
    with opened(path, os.O_RDONLY) as handle:
        os.fsync(handle)
    return os.stat(path).st_blocks * 512


class Twin:
    """The raw disk under a mount, and a plain file to which the same is done."""

    def __init__(self, disk, raw):
        self._handles = [os.open(disk, os.O_RDWR), os.open(raw, os.O_RDWR)]

    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        for handle in self._handles:
            os.close(handle)

    def write(self, offset, data):
        for handle in self._handles:
            check_equal(os.pwrite(handle, data, offset), len(data), "what was written")

    def fallocate(self, mode, offset, length):
        for handle in self._handles:
            fallocate(handle, mode, offset, length)

    def truncate(self, size):
        for handle in self._handles:
            os.ftruncate(handle, size)

    def sync(self):
        os.fsync(self._handles[0])

    def scribble(self, size, seed, operations):
        generator = random.Random(seed)
        for _ in range(operations):
            offset = generator.randrange(size)
            length = min(size - offset, generator.choice([1, 511, 4096, 65536, 300000]))
            kind = generator.random()
            if kind < 0.7:
                self.write(offset, generator.randbytes(length))
            elif kind < 0.8:
                self.fallocate(PUNCH_HOLE | KEEP_SIZE, offset, length)
            elif kind < 0.9:
                self.fallocate(ZERO_RANGE | KEEP_SIZE, offset, length)
            else:
                self.sync()


def with_raw(path, directory):
    """What is in an image now, as a plain file beside it."""
    return image.to_raw(path, os.path.join(directory, "twin.raw"))


# --- formats and modes --------------------------------------------------------------------------


def plain(directory, **options):
    path = image.create(os.path.join(directory, "image.qcow2"), SIZE, **options)
    image.io(path, image.write(0, 3 * MiB, 1), "write -q -c -P 7 8M 64k", "write -q -z 9M 1M")
    return path


def with_backing(directory):
    image.sparse_raw(os.path.join(directory, "base.raw"), SIZE - 3 * MiB)
    path = image.create(os.path.join(directory, "image.qcow2"), SIZE, backing="base.raw",
                        backing_format="raw")
    image.io(path, image.write(0, MiB, 1))
    return path


def with_snapshot(directory):
    path = plain(directory)
    tools.run("qemu-img", "snapshot", "-c", "before", path)
    return path


def with_data_file(directory):
    path = os.path.join(directory, "image.qcow2")
    return image.create(path, SIZE, data_file=os.path.join(directory, "data.raw"))


FORMATS = {
    "version 3": plain,
    "version 2": lambda directory: plain(directory, compat="0.10"),
    "clusters of 512 bytes": lambda directory: plain(directory, cluster_size=512),
    "clusters of 2 MiB": lambda directory: image.create(os.path.join(directory, "image.qcow2"),
                                                        SIZE, cluster_size="2M"),
    "extended L2 entries": lambda directory: image.create(os.path.join(directory, "image.qcow2"),
                                                          SIZE, extended_l2="on"),
    "a backing file": with_backing,
    "a snapshot": with_snapshot,
    "a data file": with_data_file,
}


def write_and_compare(directory, make, *options):
    path = make(directory)
    raw = with_raw(path, directory)
    with mount.mount(path, *options, writable=True) as mounted:
        check_equal(mounted.stderr(), "", "what it said")
        with Twin(mounted.disk, raw) as twin:
            twin.scribble(SIZE, 1, 150)
        compare.check_files(mounted.disk, raw)
        compare.forget(mounted.disk)
        compare.check_files(mounted.disk, raw)
    check_image(path, raw)


for _name, _make in FORMATS.items():
    suite.test("what is written to an image with %s is read back, and in it" % _name)(
        lambda directory, make=_make: write_and_compare(directory, make))

for _mode in ("none", "writethrough", "directsync"):
    suite.test("what is written with cache=%s is read back, and in the image" % _mode)(
        lambda directory, mode=_mode: write_and_compare(directory, plain, "cache=" + mode))

suite.test("what is written in one thread is read back, and in the image")(
    lambda directory: write_and_compare(directory, plain, "threads=1"))


@suite.test("what is written with cache=unsafe is in the image, and one line says what it means")
def _(directory):
    path = plain(directory)
    raw = with_raw(path, directory)
    with mount.mount(path, "cache=unsafe", writable=True) as mounted:
        bad.check_sentence(mounted.stderr(), "cache=unsafe", "crash")
        with Twin(mounted.disk, raw) as twin:
            twin.scribble(SIZE, 2, 50)
    check_image(path, raw)


@suite.test("a snapshot shows what it did before, and cannot be written")
def _(directory):
    path = with_snapshot(directory)
    raw = with_raw(path, directory)
    before = os.path.join(directory, "before.raw")
    os.rename(raw, before)
    with mount.mount(path, directory=True, writable=True) as mounted:
        snapshot = os.path.join(mounted.path, "snapshots", "before", "disk.raw")
        with opened(mounted.disk) as handle:
            os.pwrite(handle, b"x" * MiB, 0)
        compare.check_files(snapshot, before)
        check_equal(os.stat(snapshot).st_mode & 0o222, 0, "permissions to write a snapshot")
        for name in (snapshot, os.path.join(mounted.path, "info.json")):
            fails(errno.EROFS, os.open, name, os.O_RDWR)
            fails(errno.EPERM, os.truncate, name, 10)
        fails(errno.EPERM, os.chmod, mounted.path, 0o777)
    tools.run("qemu-img", "check", "-q", path)
    tools.run("qemu-img", "snapshot", "-a", "before", path)
    check_image(path, before)


@suite.test("a mount over the image itself can be written")
def _(directory):
    path = plain(directory)
    raw = with_raw(path, directory)
    with mount.mount(path, at=path, writable=True) as mounted:
        with Twin(mounted.disk, raw) as twin:
            twin.scribble(SIZE, 3, 50)
    check_image(path, raw)


@suite.test("what is written through a mapping, and past the page cache, is in the image")
def _(directory):
    path = plain(directory)
    raw = with_raw(path, directory)
    with mount.mount(path, writable=True) as mounted:
        for name in (mounted.disk, raw):
            with opened(name) as handle, mmap.mmap(handle, SIZE) as mapped:
                mapped[5 * MiB:5 * MiB + 100000] = b"m" * 100000
            with opened(name, os.O_RDWR | os.O_DIRECT) as handle, mmap.mmap(-1, MiB) as buffer:
                buffer[:] = b"d" * MiB
                check_equal(os.pwritev(handle, [buffer], 6 * MiB), MiB, "what was written")
    check_image(path, raw)


# --- keeping what was written -------------------------------------------------------------------


def read_back(path, offset, length):
    """What qemu-io reads of an image that nobody else has open."""
    raw = os.path.join(run.directory, "piece.raw")
    tools.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, raw)
    with open(raw, "rb") as file:
        file.seek(offset)
        return file.read(length)


def write_and_signal(directory, number, foreground, keeps_open, *arguments):
    path = image.create(os.path.join(directory, "image.qcow2"), SIZE)
    data = random.Random(1).randbytes(300 * KiB)
    with mount.mount(path, writable=True, foreground=foreground,
                     arguments=arguments) as mounted:
        with opened(mounted.disk) as handle:
            os.pwrite(handle, data, 12345)
            if keeps_open:
                mounted.signal(number)
        if not keeps_open:
            mounted.signal(number)
        check(not mount.is_mounted(mounted.path), "it is still mounted")
    compare.check_bytes(read_back(path, 12345, len(data)), data, 12345)
    tools.run("qemu-img", "check", "-q", path)


for _signal in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    suite.test("%s loses nothing of what a program has written, and not synced"
               % _signal.name)(
        lambda directory, number=_signal: write_and_signal(directory, number, True, True))

suite.test("SIGTERM loses nothing when the daemon is in the background")(
    lambda directory: write_and_signal(directory, signal.SIGTERM, False, True))
suite.test("SIGTERM loses nothing when one thread serves")(
    lambda directory: write_and_signal(directory, signal.SIGTERM, True, True, "-s"))
suite.test("SIGTERM loses nothing of a file that is closed")(
    lambda directory: write_and_signal(directory, signal.SIGTERM, True, False))


@suite.test("what was synced survives a daemon that is killed")
def _(directory):
    path = plain(directory)
    data = random.Random(5).randbytes(2 * MiB)
    with contextlib.suppress(mount.DaemonFailed):
        with mount.mount(path, writable=True) as mounted:
            with opened(mounted.disk) as handle:
                os.pwrite(handle, data, 4 * MiB)
                os.fsync(handle)
                mounted.kill()
    compare.check_bytes(read_back(path, 4 * MiB, len(data)), data, 4 * MiB)
    done = tools.run("qemu-img", "check", "-q", path, status=None)
    check(done.returncode in (0, 3), "more than leaks after a crash: %s", done.stdout)


@suite.test("an image that is mounted to be written is locked: others get a refusal")
def _(directory):
    path = plain(directory)
    with mount.mount(path, writable=True):
        bad.refused(path, "another program", options=["rw"])
        bad.refused(path, "another program", options=["ro"])
        check(image.io(path, "write 0 512", status=None).returncode != 0, "qemu-io could write")


@suite.test("an image that another program writes to is refused, not mounted read-only")
def _(directory):
    path = plain(directory)
    with bad.held(path):
        bad.refused(path, "another program", options=["rw"])
    with bad.held(path, "-r"):
        bad.refused(path, "another program", options=["rw"])


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
            fails(errno.ENOSPC, fallocate, handle, mode, SIZE - MiB, 2 * MiB)
        for mode in (COLLAPSE_RANGE, COLLAPSE_RANGE | KEEP_SIZE, 0x20, 0x40):
            fails(errno.EOPNOTSUPP, fallocate, handle, mode, 0, MiB)
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
        check_equal(os.path.getsize(mounted.disk), SIZE, "the size")
        compare.check_files(mounted.disk, raw)
    check_image(path, raw)


def punched(directory, *options):
    """Bytes that an image of 16 MiB of data occupies when 12 MiB are punched out of it."""
    path = image.create(os.path.join(directory, "image.qcow2"), SIZE)
    image.io(path, image.write(0, SIZE, 1))
    raw = with_raw(path, directory)
    with mount.mount(path, *options, writable=True) as mounted:
        with Twin(mounted.disk, raw) as twin:
            twin.fallocate(PUNCH_HOLE | KEEP_SIZE, 2 * MiB, 12 * MiB)
            twin.sync()
        compare.check_files(mounted.disk, raw)
    check_image(path, raw)
    return occupied(path)


@suite.test("what is punched out gives its space on the host back, unless discard=ignore")
def _(directory):
    check(punched(directory) < 6 * MiB, "it occupies %d bytes", punched(directory))
    for option in ("discard=on", "discard=unmap"):
        check(punched(directory, option) < 6 * MiB, "%s: too much is occupied", option)
    for option in ("discard=off", "discard=ignore"):
        check(punched(directory, option) >= SIZE, "%s: too little is occupied", option)


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


@suite.test("truncate makes the disk larger and smaller; what it gains reads as zeros")
def _(directory):
    path = plain(directory)
    raw = with_raw(path, directory)
    with mount.mount(path, writable=True) as mounted:
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
    with mount.mount(path, writable=True) as mounted, opened(mounted.disk) as handle:
        os.ftruncate(handle, MiB + 1)
        check_equal(os.fstat(handle).st_size, MiB + 512, "the size")
    check_equal(image.info(path)["virtual-size"], MiB + 512, "the size of the disk")


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


# --- what can be changed ------------------------------------------------------------------------


@suite.test("permissions to write are those of the image; owner and mode cannot be changed")
def _(directory):
    for mode, options, expected in ((0o644, (), 0o644), (0o464, (), 0o464), (0o400, (), 0o400),
                                    (0o600, ("mode=666",), 0o666), (0o666, ("umask=022",), 0o644)):
        path = plain(directory)
        os.chmod(path, mode)
        if os.geteuid() != 0 and not mode & 0o200:
            continue
        with mount.mount(path, *options, writable=True) as mounted:
            status = os.stat(mounted.disk)
            check_equal(oct(status.st_mode & 0o7777), oct(expected), "the mode")
            os.chmod(mounted.disk, expected)
            os.chown(mounted.disk, status.st_uid, status.st_gid)
            fails(errno.EPERM, os.chmod, mounted.disk, 0o777)
            if os.geteuid() == 0:
                fails(errno.EPERM, os.chown, mounted.disk, status.st_uid + 1, -1)
            os.utime(mounted.disk, (1000, 2000))


@suite.test("the disk was last changed when the image was, until it is written to")
def _(directory):
    path = plain(directory)
    for at_directory in (False, True):
        os.utime(path, (1500000000, 1600000000))
        with mount.mount(path, directory=at_directory, foreground=False, writable=True) as mounted:
            check_equal(os.stat(mounted.disk).st_mtime, 1600000000, "its time")
            with opened(mounted.disk) as handle:
                os.pwrite(handle, b"x", 0)
            changed = os.stat(mounted.disk).st_mtime
            # The kernel does not count the time of a mount point itself.
            check(abs(changed - time.time()) < 100 or not at_directory, "it is still %r", changed)


@suite.test("stats.json counts what was written")
def _(directory):
    path = plain(directory)
    with mount.mount(path, directory=True, writable=True) as mounted:
        stats = os.path.join(mounted.path, "stats.json")
        if not os.path.exists(stats):
            raise tap.Skip("a build without jansson")
        with opened(mounted.disk) as handle:
            os.pwrite(handle, b"x" * MiB, MiB)
            os.fsync(handle)
            fallocate(handle, ZERO_RANGE | KEEP_SIZE, 0, MiB)
            os.ftruncate(handle, 20 * MiB)
        with open(stats, encoding="utf-8") as file:
            counted = json.load(file)
        check_equal(counted["bytes-written"], MiB, "bytes-written")
        for name in ("write", "fallocate", "fsync", "flush", "setattr"):
            check(counted["requests"][name] > 0, "no %s was counted", name)


@suite.test("a limit on the size of files fails the write, and the daemon goes on")
def _(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), SIZE)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MiB, hard))
    try:
        started = mount.mount(path, "cache=writethrough", writable=True)
        mounted = started.__enter__()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    try:
        with opened(mounted.disk) as handle:
            fails(errno.EFBIG, os.pwrite, handle, b"x" * MiB * 4, 0)
            check_equal(os.pread(handle, 10, SIZE - 10), bytes(10), "what is read")
    finally:
        with contextlib.suppress(mount.DaemonFailed):
            started.__exit__(None, None, None)
    done = tools.run("qemu-img", "check", "-q", path, status=None)
    check(done.returncode in (0, 3), "more than leaks: %s", done.stdout)


# --- read-only after all ------------------------------------------------------------------------


@suite.test("ro and rw: the later one counts, and rw is what nobody needs to say")
def _(directory):
    path = plain(directory)
    for options, writable in (([], True), (["rw"], True), (["ro", "rw"], True),
                              (["rw", "ro"], False), (["rw=off"], False), (["ro=off"], True)):
        with mount.mount(path, *options, writable=True) as mounted:
            check_equal(mounted.stderr(), "", "what it said")
            check_equal(os.access(mounted.disk, os.W_OK), writable, "writable with %r" % options)


@suite.test("an image that may not be written is mounted read-only, and one line says why; once it "
            "may be, a user writes to it",
            needs=[tools.root, tools.tool("setpriv", "fusermount3")])
def _(_directory):
    user = int(bad.NOBODY)
    prefix = bad.user_prefix(bad.NOBODY)
    with bad.public_directory() as public:
        home = os.path.join(public.path, "home")
        os.mkdir(home)
        path, at = plain(home), bad.mount_point(home)
        raw = with_raw(path, home)
        for name in (home, at, raw):
            os.chown(name, user, user)
        for mode, owner, says in ((0o444, 0, True), (0o644, user, False)):
            os.chown(path, owner, owner)
            os.chmod(path, mode)
            done = bad.start_and_end(path, at, user=bad.NOBODY, program=public.program)
            check_equal(done.returncode, 0, "the status (%s)" % done.stderr)
            try:
                if says:
                    bad.check_sentence(done.stderr, "mounting read-only: ", "permission", path)
                else:
                    check_equal(done.stderr, "", "what it said")
                    for name in (at, raw):
                        tools.run(*prefix, "dd", "if=/dev/zero", "of=" + name, "bs=1M", "count=20",
                                  "status=none", status=0 if name == raw else 1)
                    os.truncate(raw, SIZE)
            finally:
                tools.run(*prefix, "fusermount3", "-u", at)
            bad.wait_gone(at)
        check_image(path, raw)


@suite.test("an image on a read-only file system is mounted read-only, and one line says why",
            needs=[tools.root])
def _(directory):
    below = os.path.join(directory, "below")
    os.mkdir(below)
    path = plain(below)
    unchanged = compare.Unchanged(path)
    tools.run("mount", "--bind", below, below)
    try:
        tools.run("mount", "-o", "remount,bind,ro", below)
        with mount.mount(path, writable=True) as mounted:
            bad.check_sentence(mounted.stderr(), "mounting read-only: ", "image.qcow2")
            fails(errno.EROFS, os.open, mounted.disk, os.O_RDWR)
    finally:
        check(run.unmount(below), "not unmounted")
    unchanged.check()


@suite.test("an image that is marked corrupt is mounted read-only, and one line says why")
def _(directory):
    path = plain(directory)
    with qcow2.Qcow2(path) as opened_image:
        opened_image["incompatible_features"] = qcow2.CORRUPT
    unchanged = compare.Unchanged(path)
    with mount.mount(path, writable=True) as mounted:
        check("mounting read-only: " in mounted.stderr() and "corrupt" in mounted.stderr(),
              "it said %r", mounted.stderr())
        fails(errno.EROFS, os.open, mounted.disk, os.O_RDWR)
    unchanged.check()


@suite.test("with force-share the mount is read-only, and one line says why")
def _(directory):
    path = plain(directory)
    with mount.mount(path, "force-share", writable=True) as mounted:
        bad.check_sentence(mounted.stderr(), "mounting read-only: ", "force-share")


@suite.test("a mount that nothing is written to changes nothing of the image")
def _(directory):
    path = with_snapshot(directory)
    unchanged = compare.Unchanged(path)
    with mount.mount(path, writable=True) as mounted:
        with open(mounted.disk, "rb") as file:
            file.read()
    unchanged.check()


# --- lazy refcounts and repair ------------------------------------------------------------------


def crashed(directory, *options):
    """An image to which a daemon with lazy refcounts wrote and synced before it was killed."""
    path = plain(directory)
    raw = with_raw(path, directory)
    with contextlib.suppress(mount.DaemonFailed):
        with mount.mount(path, "lazy-refcounts=on", *options, writable=True) as mounted:
            twin = Twin(mounted.disk, raw)
            twin.write(4 * MiB, image.pattern(MiB, 4))
            twin.sync()
            mounted.kill()
            with contextlib.suppress(OSError):
                twin.__exit__()
    return path, raw


@suite.test("after a crash with lazy-refcounts=on the next mount repairs the image")
def _(directory):
    path, raw = crashed(directory)
    check(image.info(path)["dirty-flag"], "the image is not marked dirty")
    with mount.mount(path, writable=True) as mounted:
        check("%" not in mounted.stderr(), "progress, and no terminal: %r", mounted.stderr())
        compare.check_files(mounted.disk, raw)
    check(not image.info(path)["dirty-flag"], "the image is still marked dirty")
    check_image(path, raw)


@suite.test("with repair=off an image that is marked dirty is refused, but for ro")
def _(directory):
    path, raw = crashed(directory)
    bad.refused(path, "marked dirty", "repair=off", options=["repair=off"])
    unchanged = compare.Unchanged(path)
    with mount.mount(path, "repair=off") as mounted:
        compare.check_files(mounted.disk, raw)
    unchanged.check()


@suite.test("without a crash lazy-refcounts=on leaves an image that is in order")
def _(directory):
    write_and_compare(directory, plain, "lazy-refcounts=on")


# --- a loop device ------------------------------------------------------------------------------


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
