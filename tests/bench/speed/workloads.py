# SPDX-License-Identifier: MIT
"""The rows of the table: what is done, to which targets, and what must be reached.

A Workload measures one Line (a target with its tuning) at a time; Lines that are not about
all the peers name a target more than once (lazy refcounts, another length of the chain).
"""

import collections
import contextlib
import json
import os
import shutil
import statistics
import time

from lib import run, tools

from . import fio, images
from .images import GiB, KiB, MiB, TiB
from .targets import CannotServe

# label: the column; kind: the target; disk: of another image than the row's
Line = collections.namedtuple("Line", "label kind tuning disk", defaults=("", None))

# ours / that of the best of `versus` (labels) must be at least `ratio`
Versus = collections.namedtuple("Versus", "versus ratio ours", defaults=("qcow2fs",))
# ours must be at most that
Limit = collections.namedtuple("Limit", "most ours", defaults=("qcow2fs",))

UNBOXED = Line("sandbox=off", "qcow2fs", "no-sandbox")

READERS = tuple(Line(kind, kind) for kind in ("raw", "floor", "qsd", "nbdfuse", "qcowmount",
                                              "qcow2fs"))
WRITERS = tuple(line for line in READERS if line.kind != "qcowmount")
COMPRESSED = tuple(line for line in READERS if line.kind != "floor" and line.kind != "raw")
# libqcow knows no zstd.
COMPRESSED_ZSTD = tuple(line for line in COMPRESSED if line.kind != "qcowmount")
# Beside an image of the same bytes that is not encrypted.
OWN_PLAIN = Line("own plain", "qcow2fs", "", "plain")
ENCRYPTED = (OWN_PLAIN, Line("qsd", "qsd"), Line("qcow2fs", "qcow2fs"))
# Beside the same without bitmaps.
UNTRACKED = Line("no bitmaps", "qcow2fs")
BITMAPS = "bitmaps"
TRACKED = Line("qcow2fs", "qcow2fs", BITMAPS, BITMAPS)
# What bounds them all; measured wherever qcow2fs is, with the libraries it was built with.
LIBRARY = Line("library", "qcow2fs")
# Beside a mount that is filled: the copy that nobody has to be asked for, piece by piece.
CONVERTED = Line("convert -c", "qcow2fs")

DESCRIPTIONS = 100  # of which one is as long as the median
WARM_UP_SECONDS = 30  # the most that a chain is warmed up for
HUGE = "preallocated-%d" % TiB


class Workload:
    """One row.

    function   (context, line, served) -> number, or (context, line) when it serves by itself
    disk       the name of its image, a function of the context, or None: a fresh one each time
    """

    def __init__(self, name, title, unit, lines, goals, function, disk=None, where="memory",
                 less_is_better=False, rounds=None):
        self.name, self.title, self.unit = name, title, unit
        self.lines, self.goals, self.function = lines, goals, function
        self.disk, self.where = disk, where
        self.less_is_better, self.rounds = less_is_better, rounds

    def images(self):
        """The names of the images that it needs."""
        return ({self.disk} | {line.disk for line in self.lines}) - {None}

    def measure(self, context, line):
        """One number for `line`; raises CannotServe or CannotMeasure."""
        return self.function(context, line, self)

    def disk_for(self, context, line):
        return context.images.get(line.disk or self.disk)


class Context:
    """What a run is given: the images, targets by label, and how long each job takes."""

    def __init__(self, places, made, seconds, size, memory_minutes, spread=False):
        self.places, self.images = places, made
        self.spread = spread
        self.seconds, self.size, self.memory_minutes = seconds, size, memory_minutes
        self.targets = {}

    def serve(self, line, disk):
        return self.targets[line.kind].serve(disk, line.tuning)

    @contextlib.contextmanager
    def fresh(self, line, where, size, **options):
        """An empty image, and a raw file, that are gone afterwards."""
        directory = self.places.new(where, "fresh")
        try:
            disk = images.fresh(directory, size, **options)
            yield images.add_bitmaps(disk) if line.tuning == BITMAPS else disk
        finally:
            shutil.rmtree(directory)


# --- what is measured ----------------------------------------------------------------------


def on_one_processor(function):
    """For rows with one request under way at a time: either the program runs or the daemon.

    A second processor helps them little; but on two it is the scheduler's luck whether each request
    wakes the other one up, which takes many times as long as the request itself and differs from
    one run to the next by a factor of four. What a target itself costs shows without that.
    """
    def measure(context, line, workload):
        allowed = os.sched_getaffinity(0)
        if not context.spread:
            os.sched_setaffinity(0, {max(allowed)})  # daemons and fio inherit it
        try:
            return function(context, line, workload)
        finally:
            os.sched_setaffinity(0, allowed)
    return measure


def random_access(rw, depth, ramp=0.0, one_processor=False):
    """4K past the page cache of the mount, anywhere on the disk."""
    def measure(context, line, workload):
        disk = workload.disk_for(context, line)
        with context.serve(line, disk) as served:
            return fio.iops(served.path, rw, 4 * KiB, depth, disk.size, context.seconds,
                            ramp=ramp * context.seconds)
    return on_one_processor(measure) if one_processor else measure


def sequential_direct(block, depth):
    def measure(context, line, workload):
        disk = workload.disk_for(context, line)
        with context.serve(line, disk) as served:
            return fio.bandwidth(served.path, "read", block, depth, disk.size, context.seconds)
    return measure


def described(context, line, workload):
    """How long qcow2ctl info takes, from its start to its end."""
    program = beside("make", "qcow2ctl")
    argv = [program, "info", *(["--sandbox=off"] if line == UNBOXED else []),
            workload.disk_for(context, line).qcow2]
    times = []
    for _ in range(DESCRIPTIONS):
        begin = time.perf_counter()
        tools.output(*argv)
        times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1000


def reread(context, line, workload):
    """4K out of the page cache: the daemon has no part in it but for what it told the kernel."""
    disk = workload.disk_for(context, line)
    with context.serve(line, disk) as served:
        size = min(disk.size, 256 * MiB)
        fio.once(served.path, "read", MiB, size)
        return fio.iops(served.path, "randread", 4 * KiB, 1, size, context.seconds, direct=False)


def sequential_cold(context, line, workload):
    """Buffered, once. A new mount has nothing in its page cache."""
    disk = workload.disk_for(context, line)
    with context.serve(line, disk) as served:
        return fio.once(served.path, "read", MiB, disk.size)


def beside(make, *path):
    """A program of the same build, at a path from where qcow2fs is; `make` builds it."""
    program = os.path.normpath(os.path.join(os.path.dirname(run.program()), *path))
    if not os.access(program, os.X_OK):
        raise CannotServe("%s is not built: %s" % (program, make))
    return program


def decompress_cold(context, line, workload):
    """Of LIBRARY all clusters are decompressed by a program, without anything that serves them."""
    if line != LIBRARY:
        return sequential_cold(context, line, workload)
    program = beside("make tests/bench/decompress", "..", "tests", "bench", "decompress")
    return float(tools.output(program, workload.disk_for(context, line).qcow2))


def sequential_overwrite(context, line, workload):
    disk = workload.disk_for(context, line)
    with context.serve(line, disk) as served:
        return fio.once(served.path, "write", MiB, disk.size, fsync=True)


def sequential_allocating(context, line, workload):
    with context.fresh(line, workload.where, context.size) as disk, context.serve(line, disk) as served:
        return fio.once(served.path, "write", MiB, disk.size, fsync=True)


def scattered(depth, **options):
    """4K writes to an empty disk; few of them find their cluster allocated by another."""
    def measure(context, line, workload):
        size = 8 * context.size
        with context.fresh(line, workload.where, size, **options) as disk, \
                context.serve(line, disk) as served:
            return fio.scatter(served.path, size, size // (128 * KiB), depth)
    return measure


@on_one_processor
def scattered_synced(context, line, workload):
    size = 8 * context.size
    with context.fresh(line, workload.where, size) as disk, context.serve(line, disk) as served:
        return fio.scatter(served.path, size, size // (128 * KiB), 1, seconds=context.seconds,
                           fdatasync=True)


def _warm_up(served, disk):
    """Looks at each cluster once."""
    fio.touch(served.path, disk.size, images.CLUSTER, WARM_UP_SECONDS)


@on_one_processor
def chain_read(context, line, workload):
    disk = workload.disk_for(context, line)
    with context.serve(line, disk) as served:
        _warm_up(served, disk)
        return fio.iops(served.path, "randread", 4 * KiB, 1, disk.size, context.seconds)


def chain_memory(length):
    """KiB of private memory that each image behind the first one adds."""
    def measure(context, line, workload):
        used = []
        for name in ("chain-1", workload.disk):
            disk = context.images.get(name)
            with context.serve(line, disk) as served:
                _warm_up(served, disk)
                used.append(served.private_memory())
        return max(0, used[1] - used[0]) / KiB / (length - 1)
    return measure


def mount_ready(context, line, workload):
    """Milliseconds from exec to the first stat(2) that shows the disk: the best of three."""
    disk = workload.disk_for(context, line)
    found = []
    for _ in range(3):
        with context.serve(line, disk) as served:
            found.append(served.ready * 1000)
    return min(found)


def idle_memory(context, line, workload):
    with context.serve(line, workload.disk_for(context, line)) as served:
        time.sleep(0.2)
        return served.private_memory() / MiB


def memory_after_reads(context, line, workload):
    """MiB beyond what the caches hold (of qcow2fs, which tells that) or in all (of others)."""
    disk = workload.disk_for(context, line)
    with context.serve(line, disk) as served:
        fio.iops(served.path, "randread", 4 * KiB, 32, disk.size, 60 * context.memory_minutes)
        used = served.private_memory()
        if line.tuning == "directory":
            path = os.path.join(os.path.dirname(served.path), "stats.json")
            try:
                with open(path, encoding="utf-8") as file:
                    pools = json.load(file)["cache"]
            except FileNotFoundError:
                raise CannotServe("built without jansson: no stats.json") from None
            used -= sum(pool["bytes"] for pool in pools.values())
        return used / MiB


def check(context, line, workload):
    """Seconds. What is checked is not served: the lines are two programs."""
    disk = workload.disk_for(context, line)
    argv = ["qemu-img", "check", "-q", "-f", "qcow2", disk.qcow2]
    if line.label == "qcow2fs":
        argv = [beside("make", "qcow2ctl"), "check", disk.qcow2]
    began = time.perf_counter()
    tools.run(*argv, timeout=600)
    return time.perf_counter() - began


def convert(*arguments):
    """Seconds to make an image of a raw file, in memory, where no sync counts."""
    def run(context, line, workload):
        disk = workload.disk_for(context, line)
        copy = os.path.join(disk.directory, "copy.qcow2")
        program = "qemu-img" if line.label == "qemu-img" else beside("make", "qcow2ctl")
        began = time.perf_counter()
        tools.run(program, "convert", "-f", "raw", "-O", "qcow2", *arguments, disk.raw, copy,
                  timeout=600)
        seconds = time.perf_counter() - began
        os.unlink(copy)
        return seconds
    return run


def _convert(name, title, goal, image, *arguments):
    return Workload(name, title, "s", (Line("qemu-img", "qemu-img"), Line("qcow2fs", "qcow2fs")),
                    (Versus(("qemu-img",), goal),), convert(*arguments), image,
                    less_is_better=True)


def fill(compression):
    """Seconds from an empty image to one that is compressed, and unmounted, in memory."""
    convert_compressed = convert("-c", "-o", "compression_type=" + compression)

    def measure(context, line, workload):
        if line == CONVERTED:
            return convert_compressed(context, line, workload)
        source = workload.disk_for(context, line)
        with context.fresh(line, workload.where, source.size, compression_type=compression) as disk:
            began = time.perf_counter()
            with context.serve(line, disk) as served:
                tools.run("dd", "if=" + source.raw, "of=" + served.path, "bs=1M",
                          "conv=notrunc,fsync", timeout=600)
            return time.perf_counter() - began
    return measure


def _fill(compression):
    return Workload("fill-" + compression, "filled with -o compress, " + compression, "s",
                    (CONVERTED, Line("qcow2fs", "qcow2fs", "compress")),
                    (Versus((CONVERTED.label,), 0.5),), fill(compression),
                    "compressed-" + compression, less_is_better=True)


# --- the rows --------------------------------------------------------------------------------

FLOOR_AND_QSD = (Versus(("floor",), 0.95), Versus(("qsd",), 2))
BETTER = ("floor", "qsd")
SYNCED_LINES = (Line("raw", "raw"), Line("floor", "floor"), Line("qsd", "qsd"),
                Line("qsd lazy", "qsd", "lazy"), Line("qcow2fs", "qcow2fs"),
                Line("qcow2fs lazy", "qcow2fs", "lazy"))
SYNCED_GOALS = (Versus(("qcow2fs lazy",), 0.9), Versus(("floor",), 0.7),
                Versus(("floor",), 0.7, "qcow2fs lazy"), Versus(("qsd lazy",), 1.5),
                Versus(("qsd lazy",), 1.5, "qcow2fs lazy"))
ENCRYPTED_GOALS = (Versus(("qsd",), 2), Versus((OWN_PLAIN.label,), 0.85))
ALLOCATING_GOALS = (Versus(("floor",), 0.6), Versus(("qsd",), 3))


def _chain(length):
    name = "chain-%d" % length
    lines = (Line("one image", "qcow2fs", "", "chain-1"), Line("qsd", "qsd"),
             Line("qcow2fs", "qcow2fs"))
    return (
        Workload(name, "chain of %d images, 4K random read" % length, "IOPS", lines,
                 (Versus(("one image",), 0.9),), chain_read, name),
        Workload(name + "-memory", "chain of %d images, memory for each" % length, "KiB",
                 (Line("qcow2fs", "qcow2fs"),), (Limit(64),), chain_memory(length), name,
                 less_is_better=True, rounds=1),
    )


def _mount(size, text, most):
    return Workload("mount-" + text.replace(" ", "")[:-2].lower(), "mount ready, %s" % text, "ms",
                    (Line("qsd", "qsd"), Line("nbdfuse", "nbdfuse"), Line("qcow2fs", "qcow2fs")),
                    (Limit(most),), mount_ready, "empty-%d" % size, less_is_better=True)


def _tracked(name, title, unit, function, disk="plain"):
    """The same row with three bitmaps that record, beside none."""
    lines = (UNTRACKED, TRACKED) if disk else (UNTRACKED, TRACKED._replace(disk=None))
    return Workload("bitmaps-" + name, title + ", three bitmaps", unit, lines,
                    (Versus((UNTRACKED.label,), 0.97),), function, disk)


def all_workloads():
    huge_lines = tuple(line for line in READERS if line.kind in ("raw", "floor", "qsd", "qcow2fs"))
    minimum_lines = tuple(Line(line.label, line.kind, "minimum") for line in huge_lines)
    return (
        Workload("read-qd1", "4K random read, QD1", "IOPS", READERS, FLOOR_AND_QSD,
                 random_access("randread", 1), "plain"),
        Workload("read-qd1-alone", "4K random read, QD1, one processor", "IOPS", READERS,
                 FLOOR_AND_QSD[:1], random_access("randread", 1, one_processor=True), "plain"),
        Workload("read-qd32", "4K random read, QD32", "IOPS", READERS, FLOOR_AND_QSD,
                 random_access("randread", 32), "plain"),
        Workload("sandbox", "4K random read, QD1, one processor, in the sandbox", "IOPS",
                 (UNBOXED, Line("qcow2fs", "qcow2fs")), (Versus((UNBOXED.label,), 0.97),),
                 random_access("randread", 1, one_processor=True), "plain"),
        Workload("sandbox-info", "qcow2ctl info, in the sandbox", "ms",
                 (UNBOXED, Line("qcow2fs", "qcow2fs")), (Versus((UNBOXED.label,), 0.5),),
                 on_one_processor(described), "plain", less_is_better=True),
        Workload("reread", "4K random read, cached", "IOPS", READERS, (Versus(("raw",), 0.9),),
                 reread, "plain"),
        Workload("seq-1m", "sequential read, direct, 1M QD4", "MB/s", READERS,
                 (Versus(BETTER, 1.8),), sequential_direct(MiB, 4), "plain"),
        Workload("seq-128k", "sequential read, direct, 128K QD1", "MB/s", READERS,
                 (Versus(BETTER, 1.3),), sequential_direct(128 * KiB, 1), "plain"),
        Workload("seq-cold", "sequential read, buffered, cold", "MB/s", READERS,
                 (Versus(BETTER, 1.3),), sequential_cold, "plain"),
        Workload("write-qd1", "4K random overwrite, QD1", "IOPS", WRITERS, FLOOR_AND_QSD,
                 random_access("randwrite", 1), "plain"),
        Workload("write-qd1-alone", "4K random overwrite, QD1, one processor", "IOPS", WRITERS,
                 FLOOR_AND_QSD[:1], random_access("randwrite", 1, one_processor=True), "plain"),
        Workload("write-qd32", "4K random overwrite, QD32", "IOPS", WRITERS, FLOOR_AND_QSD,
                 random_access("randwrite", 32), "plain"),
        Workload("overwrite", "sequential overwrite, buffered, fsync", "MB/s", WRITERS,
                 (Versus(BETTER, 1.1),), sequential_overwrite, "plain"),
        Workload("allocate", "sequential allocating write, fsync", "MB/s", WRITERS,
                 (Versus(("floor",), 0.95), Versus(("qsd",), 1.5)), sequential_allocating),
        Workload("allocate-4k", "4K allocating write, QD32", "IOPS", WRITERS, ALLOCATING_GOALS,
                 scattered(32)),
        Workload("allocate-4k-subclusters", "4K allocating write, QD32, extended L2", "IOPS",
                 WRITERS, ALLOCATING_GOALS, scattered(32, extended_l2="on")),
        Workload("allocate-sync", "4K allocating write, fdatasync each", "IOPS", SYNCED_LINES,
                 SYNCED_GOALS, scattered_synced),
        Workload("allocate-sync-disk", "4K allocating write, fdatasync each, on disk", "IOPS",
                 SYNCED_LINES, SYNCED_GOALS, scattered_synced, where="disk"),
        _tracked("write-qd1-alone", "4K random overwrite, QD1, one processor", "IOPS",
                 random_access("randwrite", 1, one_processor=True)),
        _tracked("write-qd32", "4K random overwrite, QD32", "IOPS",
                 random_access("randwrite", 32)),
        _tracked("overwrite", "sequential overwrite, buffered, fsync", "MB/s", sequential_overwrite),
        _tracked("allocate", "sequential allocating write, fsync", "MB/s", sequential_allocating, None),
        _tracked("allocate-4k", "4K allocating write, QD32", "IOPS", scattered(32), None),
        _tracked("allocate-sync", "4K allocating write, fdatasync each", "IOPS", scattered_synced, None),
        Workload("zlib", "zlib, sequential read, buffered", "MB/s",
                 (*COMPRESSED, LIBRARY), (Versus(("qsd",), 4), Versus(("library",), 0.85)),
                 decompress_cold,
                 "compressed-zlib"),
        Workload("zstd", "zstd, sequential read, buffered", "MB/s",
                 (*COMPRESSED_ZSTD, LIBRARY), (Versus(("qsd",), 4), Versus(("library",), 0.75)),
                 decompress_cold,
                 "compressed-zstd"),
        Workload("zstd-4k", "zstd, 4K random read, QD1", "IOPS", COMPRESSED_ZSTD,
                 (Versus(("qsd",), 6),),
                 random_access("randread", 1, ramp=2, one_processor=True), "compressed-zstd"),
        Workload("luks-qd1", "LUKS, 4K random read, QD1, one processor", "IOPS", ENCRYPTED,
                 ENCRYPTED_GOALS, random_access("randread", 1, one_processor=True), "encrypted"),
        Workload("luks-qd32", "LUKS, 4K random read, QD32", "IOPS", ENCRYPTED, ENCRYPTED_GOALS,
                 random_access("randread", 32), "encrypted"),
        Workload("luks-seq-1m", "LUKS, sequential read, direct, 1M QD4", "MB/s", ENCRYPTED,
                 (Versus(("qsd",), 2.5),), sequential_direct(MiB, 4), "encrypted"),
        Workload("luks-seq-cold", "LUKS, sequential read, buffered, cold", "MB/s", ENCRYPTED,
                 (Versus(("qsd",), 2.5),), sequential_cold, "encrypted"),
        Workload("luks-overwrite", "LUKS, sequential overwrite, buffered, fsync", "MB/s", ENCRYPTED,
                 (Versus(("qsd",), 2.5),), sequential_overwrite, "encrypted"),
        Workload("huge", "1 TiB preallocated, 4K random read", "IOPS", huge_lines,
                 (Versus(("floor",), 0.8),),
                 random_access("randread", 1, ramp=0.5, one_processor=True), HUGE),
        Workload("huge-minimum", "1 TiB, smallest L2 cache, 4K random read", "IOPS", minimum_lines,
                 (Versus(("floor",), 0.5),),
                 random_access("randread", 1, one_processor=True), HUGE),
        Workload("check", "check, 1 TiB preallocated", "s",
                 (Line("qemu-img", "qemu-img"), Line("qcow2fs", "qcow2fs")),
                 (Versus(("qemu-img",), 4),), check, HUGE, less_is_better=True),
        _convert("convert", "convert from raw", 1, "plain"),
        _convert("convert-zlib", "convert from raw, compressed, zlib", 1.5, "compressed-zlib", "-c"),
        _convert("convert-zstd", "convert from raw, compressed, zstd", 1.2, "compressed-zstd", "-c",
                 "-o", "compression_type=zstd"),
        _fill("zlib"), _fill("zstd"),
        Workload("memory-idle", "private memory, idle, 1 TiB", "MiB",
                 (Line("qsd", "qsd"), Line("qcow2fs", "qcow2fs")), (Limit(1.5),), idle_memory,
                 HUGE, less_is_better=True, rounds=1),
        Workload("memory-reads", "private memory beyond the caches, after reads of 1 TiB", "MiB",
                 (Line("qcow2fs", "qcow2fs", "directory"),), (Limit(4),), memory_after_reads,
                 HUGE, less_is_better=True, rounds=1),
        *_chain(8), *_chain(100), *_chain(500),
        _mount(GiB, "1 GiB", 10), _mount(TiB, "1 TiB", 10), _mount(64 * TiB, "64 TiB", 20),
    )
