#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Many readers at once: whatever the others do, each reads what is there."""

import contextlib
import json
import os
import signal
import subprocess
import threading
import types

from lib import bad, compare, image, mount, run, tap, tools
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.QEMU])
READERS = 16
SIZE = 24 * MiB


def at_once(*functions):
    """Runs the functions, each in a thread; raises what the first one that failed raised."""
    failed = []

    def guarded(function):
        try:
            function()
        except Exception as error:  # pylint: disable=broad-except
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def compressed(directory):
    """Every cluster compressed: what is decompressed is shared, and evicted under its readers."""
    raw = bad.compressible_raw(os.path.join(directory, "source.raw"), SIZE)
    return image.convert(raw, os.path.join(directory, "image.qcow2"), "-c")


def plain(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), SIZE)
    image.scribble(path, SIZE, seed=74, operations=100, cluster_size=64 * KiB)
    return path


def chain(directory):
    """A raw base and three overlays with clusters of 4 KiB: many L2 slices."""
    name, kind = "base.raw", "raw"
    image.sparse_raw(os.path.join(directory, name), SIZE)
    for number in range(3):
        path = image.create(os.path.join(directory, "%d.qcow2" % number), SIZE, backing=name,
                            backing_format=kind, cluster_size="4k")
        image.scribble(path, SIZE, seed=70 + number, operations=60, cluster_size=4 * KiB)
        name, kind = os.path.basename(path), "qcow2"
    return path


def subclusters(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), SIZE, extended_l2="on")
    image.scribble(path, SIZE, seed=75, operations=150, cluster_size=64 * KiB)
    return path


def snapshots(directory):
    """Three snapshots and a disk, no two alike."""
    path = image.create(os.path.join(directory, "image.qcow2"), SIZE, cluster_size="4k")
    for number in range(3):
        image.scribble(path, SIZE, seed=80 + number, operations=40, cluster_size=4 * KiB)
        tools.run("qemu-img", "snapshot", "-c", "s%d" % number, path)
    image.scribble(path, SIZE, seed=83, operations=40, cluster_size=4 * KiB)
    return path


def snapshot_to_raw(path, name, directory):
    raw = os.path.join(directory, name + ".raw")
    tools.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", "-l", name, path, raw)
    return raw


def readers(name, make, *options, needs=()):
    @contextlib.contextmanager
    def prepare(directory):
        state = types.SimpleNamespace(directory=directory)
        path = make(directory)
        state.expected = image.to_raw(path, os.path.join(directory, "expected.raw"))
        state.snapshots = [(told["name"], snapshot_to_raw(path, told["name"], directory))
                           for told in image.info(path).get("snapshots", [])]
        with mount.mount(path, *options, directory=True) as mounted:
            state.mounted, state.disk = mounted, mounted.disk
            yield state

    group = suite.group(name, prepare, "unmounting ends the daemon with status 0", needs)

    @group.test("%d readers at once read what is there" % READERS)
    def _(state):
        compare.forget(state.disk)
        checks = (compare.check_random_preads, compare.check_direct_reads)
        at_once(*[lambda seed=seed: checks[seed % 2](state.disk, state.expected, seed=seed,
                                                     count=80, longest=200 * KiB)
                  for seed in range(READERS)])

    @group.test("%d readers of the same bytes at once read what is there" % READERS)
    def _(state):
        at_once(*[lambda: compare.check_direct_reads(state.disk, state.expected, seed=99,
                                                     count=60, longest=100 * KiB)
                  for _ in range(READERS)])

    @group.test("reads, walks over the holes and looks at the counters do not disturb each other")
    def _(state):
        wanted = image.seek_extents(state.disk)

        def walk():
            for _ in range(5):
                check_equal(image.seek_extents(state.disk), wanted, "the data of the disk")

        def look():
            path = os.path.join(state.mounted.path, "stats.json")
            before = -1
            for _ in range(50 if os.path.exists(path) else 0):
                with open(path, "rb") as file:
                    now = json.load(file)["bytes-read"]
                check(now >= before, "bytes-read went from %d to %d", before, now)
                before = now

        at_once(walk, walk, look, look, *[
            lambda seed=seed: compare.check_direct_reads(state.disk, state.expected, seed=seed,
                                                         count=100, longest=100 * KiB)
            for seed in range(4)])


    @group.test("files come, go and are looked at while others are read")
    def _(state):
        names = [state.disk, *[os.path.join(state.mounted.path, name)
                               for name in ("info.json", "stats.json", "snapshots")]]
        names = [name for name in names if os.path.exists(name)]

        def visit():
            for _ in range(40):
                for name in names:
                    os.stat(name)
                    if os.path.isdir(name):
                        check_equal(len(os.listdir(name)), len(state.snapshots), "the snapshots")
                        continue
                    with open(name, "rb") as file:
                        file.read(1000)
                        if name == state.disk:
                            file.seek(0, os.SEEK_END)
                        os.lseek(file.fileno(), 0, os.SEEK_HOLE)
                os.listdir(state.mounted.path)
                os.statvfs(state.mounted.path)

        at_once(*[visit for _ in range(6)], *[
            lambda seed=seed: compare.check_direct_reads(state.disk, state.expected, seed=seed,
                                                         count=80, longest=100 * KiB)
            for seed in range(6)])

    @group.test("snapshots are opened, read and closed by all at once")
    def _(state):
        if not state.snapshots:
            return

        def visit(number):
            for step in range(12):
                name, raw = state.snapshots[(number + step) % len(state.snapshots)]
                path = os.path.join(state.mounted.path, "snapshots", name, "disk.raw")
                compare.check_direct_reads(path, raw, seed=100 * number + step, count=10,
                                           longest=100 * KiB)
                if step % 4 == 0:
                    image.seek_extents(path)

        at_once(*[lambda number=number: visit(number) for number in range(READERS)])


SMALL_CACHES = ("l2-cache-size=8k", "l2-cache-entry-size=4k", "data-cache-size=192k")

readers("plain clusters", plain)
readers("snapshots", snapshots, *SMALL_CACHES)
readers("compressed clusters", compressed)
readers("compressed clusters, caches too small", compressed, *SMALL_CACHES)
readers("a chain of four", chain)
readers("a chain of four, caches too small", chain, *SMALL_CACHES)
readers("subclusters, in one thread", subclusters, "threads=1", needs=[tools.EXTENDED_L2])
readers("a chain of four, cleaned every second", chain, "cache-clean-interval=1")


# --- readers that have to wait --------------------------------------------------------------------

# A device that does not answer is a raw disk of our own, whose daemon is stopped.


@contextlib.contextmanager
def stopped(mounted):
    """The daemon answers nothing for a while."""
    bad.stop(mounted.pids[0])
    try:
        yield
    finally:
        os.kill(mounted.pids[0], signal.SIGCONT)


@contextlib.contextmanager
def reader(disk, *operands):
    """dd, which waits for what it reads of the disk first; killed in the end, if there is one."""
    process = run.start(["dd", "if=" + disk, "of=/dev/null", "bs=64K", "iflag=direct", *operands],
                        stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def waits():
        with open("/proc/%d/stat" % process.pid, "rb") as file:
            state = file.read().rpartition(b") ")[2][:1]
        return state in b"SD" and os.readlink("/proc/%d/fd/0" % process.pid) == os.path.realpath(disk)

    try:
        bad.wait_for(waits, "dd waits for the disk")
        yield process
    finally:
        process.kill()
        process.wait()


@suite.test("reads that wait for a stuck device delay no read of anything else")
def _(directory):
    stuck = image.create(os.path.join(directory, "stuck.qcow2"), SIZE)
    image.io(stuck, image.write(0, SIZE, 1))
    with mount.mount(stuck) as below:
        path = image.create(os.path.join(directory, "top.qcow2"), SIZE, backing=below.disk,
                            backing_format="raw")
        image.io(path, image.write(0, 8 * MiB, 2))
        with mount.mount(path, "threads=16", directory=True) as mounted:
            with open(below.disk, "rb") as disk:  # what the kernel has of it needs nobody's answer
                os.posix_fadvise(disk.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            with contextlib.ExitStack() as ends:
                with stopped(below):
                    waiting = [ends.enter_context(reader(mounted.disk, "skip=%d" % (16 * place), "count=1"))
                               for place in range(10, 16)]
                    for start in range(0, 8 * MiB, 128 * KiB):
                        check_equal(read_at(mounted.disk, start), image.pattern(8 * MiB, 2)[start:start + 64 * KiB],
                                    "what is beside the stuck device")
                    os.stat(mounted.disk)
                    with open(os.path.join(mounted.path, "stats.json"), "rb") as file:
                        json.load(file)
                    check(all(process.poll() is None for process in waiting), "not all had to wait")
                for process in waiting:
                    check_equal(process.wait(tools.TIMEOUT), 0, "how a reader ended")
            check_equal(read_at(mounted.disk, 12 * MiB),
                        image.pattern(SIZE, 1)[12 * MiB:12 * MiB + 64 * KiB],
                        "what the device holds")


def read_at(path, offset):
    with bad.Blocks(path) as blocks:
        return blocks.read(offset, 64 * KiB)


@suite.test("a reader that waits for a stuck device can be killed")
def _(directory):
    stuck = image.create(os.path.join(directory, "stuck.qcow2"), SIZE)
    image.io(stuck, image.write(0, SIZE, 1))
    with mount.mount(stuck) as below:
        path = image.create(os.path.join(directory, "top.qcow2"), SIZE, backing=below.disk,
                            backing_format="raw")
        with mount.mount(path) as mounted:
            with contextlib.ExitStack() as ends:
                with stopped(below):
                    process = ends.enter_context(reader(mounted.disk))
                    process.kill()
                check_equal(process.wait(tools.TIMEOUT), -9, "how the reader ended")


if __name__ == "__main__":
    suite.main()
