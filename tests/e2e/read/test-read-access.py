#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Ways of reading a mounted image, and ways of mounting it."""

import contextlib
import json
import os
import random
import signal
import stat
import types

from lib import compare, image, mount, run, tap, tools, tracing
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.QEMU, tools.MKE2FS])
SIZE = 48 * MiB + 3 * 512


def mixed_image(directory):
    """Data, zeros, compressed clusters and a backing image, in 64 KiB clusters."""
    image.sparse_raw(os.path.join(directory, "base.raw"), 40 * MiB)
    path = image.create(os.path.join(directory, "image.qcow2"), SIZE, backing="base.raw",
                        backing_format="raw")
    image.scribble(path, SIZE, seed=30, operations=80, cluster_size=64 * KiB)
    return path


@contextlib.contextmanager
def mixed(directory):
    state = types.SimpleNamespace(directory=directory, image=mixed_image(directory))
    state.expected = image.to_raw(state.image, os.path.join(directory, "expected.raw"))
    with mount.mount(state.image) as mounted:
        state.mounted, state.disk = mounted, mounted.disk
        yield state


# --- ways of reading ------------------------------------------------------------------

reading = suite.group("", mixed, "an image that was read in many ways is unmounted cleanly")


@reading.test("pread() at any offset and length gives the disk's bytes")
def _(state):
    compare.check_random_preads(state.disk, state.expected, count=600)


@reading.test("O_DIRECT reads at multiples of 512 give the disk's bytes")
def _(state):
    compare.check_direct_reads(state.disk, state.expected, count=400)


@reading.test("a mapped file gives the disk's bytes")
def _(state):
    compare.check_mapped_reads(state.disk, state.expected, count=400)


@reading.test("reads past the end give nothing, reads over the end what is before it")
def _(state):
    handle = os.open(state.disk, os.O_RDONLY)
    try:
        check_equal(os.pread(handle, 100, SIZE), b"", "a read at the end")
        check_equal(os.pread(handle, 100, SIZE + 10**12), b"", "a read far past the end")
        check_equal(len(os.pread(handle, 4096, SIZE - 10)), 10, "the bytes of a read over the end")
    finally:
        os.close(handle)


@reading.test("SEEK_DATA and SEEK_HOLE answer from any offset as a walk from the start does")
def _(state):
    extents = image.seek_extents(state.disk)
    generator = random.Random(4)
    handle = os.open(state.disk, os.O_RDONLY)
    try:
        for _ in range(300):
            position = generator.randrange(0, SIZE)
            inside = next((pair for pair in extents if pair[0] <= position < pair[1]), None)
            behind = next((pair for pair in extents if pair[0] >= position), None)
            check_equal(os.lseek(handle, position, os.SEEK_HOLE),
                        inside[1] if inside else position, "SEEK_HOLE from %d" % position)
            if inside or behind:
                check_equal(os.lseek(handle, position, os.SEEK_DATA),
                            position if inside else behind[0], "SEEK_DATA from %d" % position)
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            for position in (SIZE, SIZE + 1):
                try:
                    os.lseek(handle, position, whence)
                except OSError as error:
                    check_equal(error.errno, 6, "errno past the end")
                else:
                    raise AssertionError("no error from a seek at %d" % position)
    finally:
        os.close(handle)


@reading.test("the disk cannot be written, by its mode and by the daemon")
def _(state):
    mode = stat.S_IMODE(os.stat(state.disk).st_mode)
    check_equal(mode & 0o222, 0, "the write bits of mode %o" % mode)
    check(stat.S_ISREG(os.stat(state.disk).st_mode), "not a regular file")
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC):
        try:
            os.close(os.open(state.disk, flags))
        except OSError as error:
            check(error.errno in (13, 30), "errno %d instead of EROFS or EACCES", error.errno)
        else:
            raise AssertionError("it was opened with flags %o" % flags)


# --- programs that copy ----------------------------------------------------------------

copying = suite.group("", mixed, "an image that was copied is unmounted cleanly")


def check_sparse(path, state, slack=MiB):
    """The copy is right, and takes about as much space as there is data."""
    compare.check_files(path, state.expected)
    image.settle(path)
    data = sum(end - start for start, end in image.seek_extents(state.disk))
    check(data < SIZE, "the image has no hole: the test tests nothing")
    taken = os.stat(path).st_blocks * 512
    check(taken <= data + slack, "the copy takes %d bytes, the image has %d of data", taken, data)


@copying.test("cp --sparse=always makes a sparse copy")
def _(state):
    copy = os.path.join(state.directory, "copy.raw")
    tools.run("cp", "--sparse=always", state.disk, copy)
    check_sparse(copy, state)


@copying.test("cp --sparse=auto sees the holes")
def _(state):
    copy = os.path.join(state.directory, "copy-auto.raw")
    tools.run("cp", state.disk, copy)
    check_sparse(copy, state)


@copying.test("qemu-img convert copies only data", needs=[tools.QEMU])
def _(state):
    copy = os.path.join(state.directory, "copy-convert.raw")
    tools.run("qemu-img", "convert", "-f", "raw", "-O", "raw", "-S", "0", state.disk, copy)
    compare.check_files(copy, state.expected)
    copy = os.path.join(state.directory, "copy-convert.qcow2")
    tools.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", state.disk, copy)
    tools.run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", state.expected, copy)
    cluster = 64 * KiB
    clusters = {number for start, end in image.seek_extents(state.disk)
                for number in range(start // cluster, (end - 1) // cluster + 1)}
    taken = os.stat(copy).st_blocks * 512
    check(taken <= len(clusters) * cluster + MiB, "the copy takes %d bytes, of %d clusters of data",
          taken, len(clusters))


@copying.test("qemu-img map sees the same holes through the mount", needs=[tools.QEMU])
def _(state):
    seen = json.loads(tools.output("qemu-img", "map", "-f", "raw", "--output=json", state.disk))
    found = []
    for extent in seen:
        if extent["data"]:
            found.append((extent["start"], extent["start"] + extent["length"]))
    check_equal(found, image.seek_extents(state.disk), "the data that qemu-img maps")


@copying.test("a program that gets signals sees the same holes")
def _(state):
    expected = image.seek_extents(state.disk)
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
    try:
        for _ in range(100):
            check_equal(image.seek_extents(state.disk), expected, "the data that is seen")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


@copying.test("tar -S makes a small archive", needs=[tools.tool("tar")])
def _(state):
    archive = os.path.join(state.directory, "disk.tar")
    place, name = os.path.split(state.disk)
    tools.run("tar", "-S", "-cf", archive, "-C", place, name)
    data = sum(end - start for start, end in image.seek_extents(state.disk))
    check(os.path.getsize(archive) <= data + MiB, "the archive has %d bytes, the disk %d of data",
          os.path.getsize(archive), data)
    tools.run("tar", "-xf", archive, "-C", state.directory)
    compare.check_files(os.path.join(state.directory, name), state.expected)


@copying.test("tar -S of an empty disk of 1 TiB is done at once", needs=[tools.tool("tar")])
def _(state):
    path = image.create(os.path.join(state.directory, "empty.qcow2"), 1 << 40)
    image.io(path, image.write(1 << 39, 4096, 1))
    with mount.mount(path) as mounted:
        archive = os.path.join(state.directory, "empty.tar")
        place, name = os.path.split(mounted.disk)
        # Should the holes not be seen: 10 MiB are enough to find out.
        tools.run("sh", "-c", 'ulimit -f 20480; exec "$@"', "sh",
                  "tar", "-S", "-cf", archive, "-C", place, name)
        check(os.path.getsize(archive) < MiB, "the archive has %d bytes", os.path.getsize(archive))


# --- ways of mounting -----------------------------------------------------------------


def simple_image(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), 8 * MiB)
    image.io(path, image.write(MiB, 3 * MiB, 1))
    return path


def check_disk(path):
    check_equal(os.path.getsize(path), 8 * MiB, "the size")
    with open(path, "rb") as file:
        compare.check_bytes(file.read(), bytes(MiB) + image.pattern(3 * MiB, 1) + bytes(4 * MiB), 0)


@suite.test("an image mounted over itself is its own disk, and itself again afterwards")
def _(directory):
    path = simple_image(directory)
    before = compare.Unchanged(path)
    with mount.mount(path, at=path) as mounted:
        check_disk(path)
        check_equal(mounted.disk, path, "the disk")
    before.check()


@suite.test("an image mounted over itself in the background, by a relative name")
def _(directory):
    path = simple_image(directory)
    before = compare.Unchanged(path)
    with mount.mount(os.path.basename(path), at=path, foreground=False, cwd=directory):
        check_disk(path)
    before.check()


@suite.test("in the background the mount is there when the program returns, and ends by umount")
def _(directory):
    path = simple_image(directory)
    with mount.mount(path, *mount.seen(), foreground=False) as mounted:
        check_disk(mounted.disk)
        check_equal(len(mounted.pids), 1, "the number of daemons")
        for name in ("0", "1", "2"):
            check_equal(os.readlink("/proc/%d/fd/%s" % (mounted.pids[0], name)), os.devnull,
                        "the daemon's descriptor %s" % name)


@suite.test("the background daemon holds no pipe of whoever started it")
def _(directory):
    path = simple_image(directory)
    reading, writing = os.pipe()
    at = os.path.join(directory, "disk.raw")
    open(at, "wb").close()
    started = run.start([run.program(), "-o", "ro", path, at], stdout=writing, stderr=writing)
    os.close(writing)
    with contextlib.ExitStack() as undo:
        undo.callback(os.close, reading)
        undo.callback(run.unmount, at)
        check_equal(started.wait(tools.TIMEOUT), 0, "the exit status")
        os.set_blocking(reading, False)
        check_equal(os.read(reading, 1), b"", "what it said")  # EAGAIN if somebody had it open
        check_disk(at)


@suite.test("a directory mount shows the disk and describes it")
def _(directory):
    path = simple_image(directory)
    with mount.mount(path, directory=True) as mounted:
        check_disk(mounted.disk)
        names = os.listdir(mounted.path)
        check("disk.raw" in names, "no disk.raw in %r", names)
        if "info.json" in names:
            with open(os.path.join(mounted.path, "info.json"), "rb") as file:
                told = json.load(file)
            check_equal(told["virtual-size"], 8 * MiB, "virtual-size")
            check_equal(told["format"], "qcow2", "format")
        for name in names:
            check(not os.stat(os.path.join(mounted.path, name)).st_mode & 0o222,
                  "%s has a write bit", name)


@suite.test("du counts the blocks of the image")
def _(directory):
    path = simple_image(directory)
    image.settle(path)
    with mount.mount(path) as mounted:
        of_image = tools.output("du", "-B", "512", path).split()[0]
        of_disk = tools.output("du", "-B", "512", mounted.disk).split()[0]
        check_equal(of_disk, of_image, "what du says")


@suite.test("two mounts of one image at a time read the same")
def _(directory):
    path = simple_image(directory)
    with mount.mount(path) as one, mount.mount(path, directory=True) as two:
        check_disk(one.disk)
        check_disk(two.disk)


@suite.test("an image in a mounted image's file system is an image like any other",
            needs=[tools.loop])
def _(directory):
    inner = simple_image(directory)
    place = os.path.join(directory, "tree")
    os.mkdir(place)
    os.rename(inner, os.path.join(place, "inner.qcow2"))
    raw, outer = os.path.join(directory, "outer.raw"), os.path.join(directory, "outer.qcow2")
    tools.run("mke2fs", "-q", "-t", "ext4", "-d", place, raw, "32m")
    image.convert(raw, outer)
    with mount.mount(outer) as mounted, mount.loop_device(mounted.disk) as device, \
            mount.file_system(device) as top, \
            mount.mount(os.path.join(top, "inner.qcow2")) as innermost:
        check_disk(innermost.disk)


# --- the kernel's cache --------------------------------------------------------------


def _read_requests(mounted):
    with open(os.path.join(mounted.path, "stats.json"), "rb") as file:
        return json.load(file)["requests"]["read"]


def _stats(mounted):
    if not os.path.exists(os.path.join(mounted.path, "stats.json")):
        raise tap.Skip("a build without stats.json")
    return _read_requests(mounted)


@suite.test("what was read stays in the kernel's cache across opens")
def _(directory):
    path = simple_image(directory)
    with mount.mount(path, directory=True) as mounted:
        start = _stats(mounted)
        own = _stats(mounted) - start  # what reading stats.json itself costs
        check_disk(mounted.disk)
        first = _stats(mounted)
        check(first - start > own, "the daemon was not asked: %r", (start, own, first))
        for _attempt in range(20):  # somebody else may have the kernel drop its caches meanwhile
            before = _stats(mounted)
            check_disk(mounted.disk)
            again = _stats(mounted) - before
            if again == own:
                break
        check_equal(again, own, "the reads of a later time")


# --- ends --------------------------------------------------------------------------------


@suite.test("SIGTERM ends the daemon with status 0, and the mount")
def _(directory):
    path = simple_image(directory)
    with mount.mount(path) as mounted:
        os.kill(mounted.pids[0], 15)
        mounted.wait()
        check(not mount.is_mounted(mounted.path), "still mounted")


@suite.test("a lazy unmount lets an open file be read to its end")
def _(directory):
    path = simple_image(directory)
    with mount.mount(path) as mounted:
        with open(mounted.disk, "rb") as file:
            check(run.unmount(mounted.path, lazy=True), "not unmounted")
            compare.check_bytes(file.read(),
                                bytes(MiB) + image.pattern(3 * MiB, 1) + bytes(4 * MiB), 0)


@suite.test("an unmount that overtakes the last request ends the daemon as any other does",
            needs=[tools.tool("strace")])
def _(directory):
    path = simple_image(directory)
    with mount.mount(path, *mount.seen()) as mounted:
        # What the kernel answers then, by chance. The threads that wait are made to ask again.
        with tracing.injected(mounted.pids[0], "read", "error=ECONNABORTED", "-P", "/dev/fuse"):
            mounted.wait()
        check(not mount.is_mounted(mounted.path), "still mounted")


@suite.test("a daemon that was killed leaves the image as it was")
def _(directory):
    path = simple_image(directory)
    before = compare.Unchanged(path)
    with mount.mount_that_ends_badly(path) as mounted:
        check_disk(mounted.disk)
        mounted.kill()
    before.check()
    with mount.mount(path) as mounted:
        check_disk(mounted.disk)


if __name__ == "__main__":
    suite.main()
