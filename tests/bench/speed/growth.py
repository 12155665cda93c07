# SPDX-License-Identifier: MIT
"""The curves of --growth: what time and memory are against a size or a number, and how they grow.

Each Family has one axis: the size of the disk, or how many images, snapshots or mounts there are. For
each place on it there is something to measure, of which its curves are measured, one after another.
Times are of whole commands; of short ones the median of some.
"""

import collections
import contextlib
import os
import resource
import shutil
import statistics
import subprocess
import time

from lib import ctl, image, private, run, tools

from . import images
from .fio import CannotMeasure
from .images import CLUSTER, GiB, KiB, MiB
from .slopes import Grown
from .targets import CannotServe
from .workloads import Line

# Each L2 table is there, and counts for all clusters; few clusters are.
FULL, SPARSE = "full", "sparse"
FULL_CLUSTER = 2 * MiB
PIECES = 64          # clusters with data in a sparse image, and in the first of a chain
READS = 4096         # to places all over the disk, before memory is looked at
SNAPSHOTS_OF = GiB
SHORT_SECONDS, TURNS = 0.3, 5
LOOKS = 50           # at the memory of a process, at the most, until it is seen
PEER_SECONDS = 60    # after which a peer's command is ended
LONG_SECONDS = 20    # a peer that takes longer for one number is left out from there on
OWN_SECONDS = 300

Family = collections.namedtuple("Family", "name title axis unit places quick steps curves")
Curve = collections.namedtuple("Curve", "name title unit lines function")


def _both(label, kind):
    return tuple(Line("%s, %s" % (label, disk), kind, "", disk) for disk in (FULL, SPARSE))


OWN_AND_IMG = (*_both("qcow2fs", "qcow2fs"), *_both("qemu-img", "qemu-img"))
OWN_AND_QSD = (*_both("qcow2fs", "qcow2fs"), *_both("qsd", "qsd"))
PLAIN_AND_IMG = (Line("qcow2fs", "qcow2fs"), Line("qemu-img", "qemu-img"))
PLAIN_AND_QSD = (Line("qcow2fs", "qcow2fs"), Line("qsd", "qsd"))


# --- measuring a command -------------------------------------------------------------------------


def _seconds(line, argv):
    limit = PEER_SECONDS if line.kind == "qemu-img" else OWN_SECONDS
    began = time.perf_counter()
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, timeout=limit, env=tools.environment(),
                              check=False)
    except subprocess.TimeoutExpired:
        raise CannotMeasure("%s: not ended after %d s" % (argv[1], limit)) from None
    if done.returncode != 0:
        raise CannotMeasure(done.stderr.decode("utf-8", "backslashreplace").strip()[-300:])
    return time.perf_counter() - began


def _turns(function):
    """The median of some turns of what is short."""
    found = []
    while len(found) < TURNS and sum(found) < SHORT_SECONDS:
        found.append(function())
    return statistics.median(found)


def _program(line):
    return "qemu-img" if line.kind == "qemu-img" else ctl.program()


def _command(*arguments):
    """Milliseconds of `qcow2ctl ARGUMENTS IMAGE`, and of `qemu-img` with the same ones."""
    def measure(_context, disk, line):
        argv = [_program(line), *arguments, disk.qcow2]
        return 1000 * _turns(lambda: _seconds(line, argv))
    return measure


def _snapshot(_context, disk, line):
    """Milliseconds to make one and remove it."""
    argv = [_program(line), "snapshot"]
    return 1000 * _turns(lambda: _seconds(line, argv + ["-c", "growth", disk.qcow2])
                         + _seconds(line, argv + ["-d", "growth", disk.qcow2]))


def _convert(_context, disk, line):
    copy = os.path.join(disk.directory, "copy.qcow2")

    def once():
        with contextlib.suppress(FileNotFoundError):
            os.unlink(copy)
        return _seconds(line, [_program(line), "convert", "-O", "qcow2", disk.qcow2, copy])
    try:
        return 1000 * _turns(once)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(copy)


def _anonymous(pid):
    """RssAnon, MiB; 0 of a process that has ended."""
    try:
        with open("/proc/%d/status" % pid, encoding="ascii", errors="replace") as lines:
            return next((int(line.split()[1]) / 1024 for line in lines
                         if line.startswith("RssAnon:")), 0)
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _most_memory(argv):
    """The most private memory of a process that is seen, MiB; 0 where it ends too soon."""
    most = 0
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                          env=tools.environment()) as process:
        while process.poll() is None:
            most = max(most, _anonymous(process.pid))
            time.sleep(0.0005)
    if process.returncode != 0:
        raise CannotMeasure("%s ended with status %d" % (argv[1], process.returncode))
    return most


def _check_memory(_context, disk, line):
    """In one process."""
    argv = [_program(line), "check", *(["--sandbox=off"] if line.kind == "qcow2fs" else []),
            disk.qcow2]
    began, found = time.monotonic(), []
    while len(found) < LOOKS and (not any(found) or time.monotonic() - began < SHORT_SECONDS):
        found.append(_most_memory(argv))
    if not any(found):
        raise CannotMeasure("check is too quick to be looked at")
    return max(found)


# --- measuring a mount ---------------------------------------------------------------------------


def _target(context, line):
    """The first of its kind."""
    return next((one for one in context.targets.values() if one.kind == line.kind), None)


def _serve(context, line, disk):
    target = _target(context, line)
    if target is None:
        raise CannotServe("%s is not measured" % line.kind)
    return target.serve(disk)


def _ready(context, disk, line):
    def once():
        with _serve(context, line, disk) as served:
            return served.ready
    return 1000 * _turns(once)


def _idle(context, disk, line):
    with _serve(context, line, disk) as served:
        time.sleep(0.1)
        return served.private_memory() / MiB


def _read_places(path, places):
    """Seconds to read 4 KiB at each."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)
        began = time.perf_counter()
        for offset in places:
            os.pread(handle, 4 * KiB, offset)
        return time.perf_counter() - began
    finally:
        os.close(handle)


def _memory_after_reads(context, disk, line):
    step = disk.size // READS
    with _serve(context, line, disk) as served:
        _read_places(served.path, range(0, READS * step, step))
        return served.private_memory() / MiB


def _first_reads(context, disk, line):
    def once():
        with _serve(context, line, disk) as served:
            return _read_places(served.path, _pieces(disk.size))
    return 1000 * _turns(once)


# --- the sizes -----------------------------------------------------------------------------------


def _pieces(size):
    step = size // PIECES
    return range(0, step * PIECES, step)


def _scatter(path, size):
    tools.run("qemu-io", "-f", "qcow2", *(word for offset in _pieces(size) for word in
                                         ("-c", "write -q -P 7 %d %d" % (offset, CLUSTER))), path)


@contextlib.contextmanager
def _directory(context):
    directory = context.places.new("memory", "growth")
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def _sizes(context, places, _lines):
    """Each size with an image that is full, and one that is sparse."""
    for size in places:
        with _directory(context) as directory:
            full, sparse = (images.Disk(directory, None, os.path.join(directory, name + ".qcow2"), size)
                            for name in (FULL, SPARSE))
            tools.run(ctl.program(), "create", "-q", "-o", "preallocation=metadata,cluster_size=%d"
                      % FULL_CLUSTER, full.qcow2, str(size))
            image.create(sparse.qcow2, size)
            _scatter(sparse.qcow2, size)
            yield size, {FULL: full, SPARSE: sparse}


# --- chains --------------------------------------------------------------------------------------


def _copy_behind(template, number, path):
    """An overlay that is like the template, but for what is behind it."""
    length = int.from_bytes(template[16:20], "big")
    offset = int.from_bytes(template[8:16], "big")
    name = b"%04d.qcow2" % number
    assert length == len(name)
    data = template[:offset] + name + template[offset + length:]
    with open(path, "wb") as file:
        file.truncate(len(data))
        for start in range(0, len(data), 4 * KiB):
            block = data[start:start + 4 * KiB]
            if block.strip(b"\0"):
                os.pwrite(file.fileno(), block, start)


def _chains(context, places, lines):
    for count in places:
        with _directory(context) as directory:
            paths = [os.path.join(directory, "%04d.qcow2" % number) for number in range(count)]
            image.create(paths[0], GiB)
            _scatter(paths[0], GiB)
            if count > 1:
                image.create(paths[1], GiB, backing="0000.qcow2", backing_format="qcow2")
                with open(paths[1], "rb") as file:
                    template = file.read()
                for number in range(2, count):
                    _copy_behind(template, number - 1, paths[number])
            disk = images.Disk(directory, None, paths[-1], GiB)
            yield count, {line.label: disk for line in lines}


# --- snapshots -----------------------------------------------------------------------------------


def _many_snapshots(context, places, lines):
    """Between two of them a cluster is written: each has an L2 table of its own."""
    for count in places:
        with _directory(context) as directory:
            disk = images.Disk(directory, None, os.path.join(directory, "disk.qcow2"), SNAPSHOTS_OF)
            tools.run(ctl.program(), "create", "-q", "-o", "preallocation=metadata", disk.qcow2,
                      str(disk.size))
            data = os.urandom(CLUSTER)
            with images.writable(disk.qcow2, disk.size) as handle:
                for number in range(count):
                    os.pwrite(handle, data, number * 37 * CLUSTER % disk.size)
                    os.fsync(handle)
                    tools.run(ctl.program(), "snapshot", "-q", "-c", "s%d" % number, disk.qcow2)
            yield count, {line.label: disk for line in lines}


# --- mounts --------------------------------------------------------------------------------------


def _own_mounts():
    """Root has mounts of its own meanwhile, and nobody else's daemons in the list."""
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):
            private.enter()
            tools.run("mount", "-t", "tmpfs", "-o", "mode=755", "qcow2fs-bench", "/run")


def _of_steward(served):
    """MiB that daemon and steward have between them, each page counted once, and none of a file."""
    most = 0
    for pid in run.processes(run.directory):
        try:
            with open("/proc/%d/stat" % pid, encoding="utf-8", errors="replace") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
            if served.pid in (pid, parent):
                with open("/proc/%d/smaps_rollup" % pid, encoding="ascii") as lines:
                    most += next(int(line.split()[1]) for line in lines
                                 if line.startswith("Pss_Anon:")) / 1024
        except OSError:
            continue
    return most


def _look_at(line, served):
    last = served[-10:]
    found = {"ready": 1000 * statistics.median(one.ready for one in last),
             "idle": statistics.median(one.private_memory() for one in served) / MiB}
    if line.kind == "qcow2fs":
        argv = [ctl.program(), "list"]
        found["list"] = 1000 * _turns(lambda: _seconds(line, argv))
        found["both"] = _of_steward(served[-1])
    return found


def _mounts(context, places, lines):
    """More and more of them, of each kind by itself."""
    for line in lines:
        if _target(context, line) is None:
            continue
        with _directory(context) as directory, contextlib.ExitStack() as stack:
            served = []
            for count in places:
                while len(served) < count:
                    path = os.path.join(directory, "%d.qcow2" % len(served))
                    image.create(path, GiB)
                    disk = images.Disk(directory, None, path, GiB)
                    served.append(stack.enter_context(_serve(context, line, disk)))
                yield count, {line.label: _look_at(line, served)}


def _looked_up(name):
    def measure(_context, found, _line):
        if name not in found:
            raise CannotServe("it has none")
        return found[name]
    return measure


# --- all -----------------------------------------------------------------------------------------

COUNTS, QUICK_COUNTS = (1, 10, 100, 1000), (1, 3)
MS, SPACE = "ms", "MiB"


def families():
    own = Line("qcow2fs", "qcow2fs")
    return (
        Family("size", "Growth with the size of the disk", "disk", "bytes",
               tuple(GiB * 16 ** power for power in range(5)), (GiB, 16 * GiB), _sizes, (
                   Curve("size-ready", "mount ready", MS, OWN_AND_QSD, _ready),
                   Curve("size-check", "check", MS, OWN_AND_IMG, _command("check", "-q")),
                   Curve("size-map", "map", MS, OWN_AND_IMG, _command("map", "--output=json")),
                   Curve("size-convert", "convert", MS, OWN_AND_IMG, _convert),
                   Curve("size-check-memory", "private memory of check", SPACE, OWN_AND_IMG,
                         _check_memory),
                   Curve("size-idle", "private memory of an idle mount", SPACE, OWN_AND_QSD, _idle),
                   Curve("size-read", "the same after %d reads" % READS, SPACE, OWN_AND_QSD,
                         _memory_after_reads),
                   # The last one: who is ended meanwhile leaves a damaged image.
                   Curve("size-snapshot", "snapshot made and removed", MS, OWN_AND_IMG, _snapshot))),
        Family("chain", "Growth with the images of a chain", "images", "", COUNTS, QUICK_COUNTS,
               _chains, (
                   Curve("chain-ready", "mount ready", MS, PLAIN_AND_QSD, _ready),
                   Curve("chain-idle", "private memory of an idle mount", SPACE, PLAIN_AND_QSD, _idle),
                   Curve("chain-read", "%d first reads, of the last image" % PIECES, MS,
                         PLAIN_AND_QSD, _first_reads),
                   Curve("chain-map", "map", MS, PLAIN_AND_IMG, _command("map", "--output=json")))),
        Family("snapshots", "Growth with the snapshots in an image", "snapshots", "", COUNTS,
               QUICK_COUNTS, _many_snapshots, (
                   Curve("snapshots-ready", "mount ready", MS, PLAIN_AND_QSD, _ready),
                   Curve("snapshots-idle", "private memory of an idle mount", SPACE, PLAIN_AND_QSD,
                         _idle),
                   Curve("snapshots-check", "check", MS, PLAIN_AND_IMG, _command("check", "-q")),
                   Curve("snapshots-list", "list of them", MS, PLAIN_AND_IMG,
                         _command("snapshot", "-l")),
                   Curve("snapshots-one", "one more made and removed", MS, PLAIN_AND_IMG, _snapshot))),
        Family("mounts", "Growth with the mounts at once", "mounts", "", (1, 10, 100, 300, 1000),
               QUICK_COUNTS, _mounts, (
                   Curve("mounts-ready", "one more ready", MS, PLAIN_AND_QSD, _looked_up("ready")),
                   Curve("mounts-idle", "private memory of each", SPACE, PLAIN_AND_QSD,
                         _looked_up("idle")),
                   Curve("mounts-both", "private memory of one and its steward", SPACE, (own,),
                         _looked_up("both")),
                   Curve("mounts-list", "qcow2ctl list", MS, (own,), _looked_up("list")))),
    )


def _measure_step(context, family, place, made, grown, late):
    for curve in family.curves:
        for line in curve.lines:
            one = grown[curve.name, line.label]
            what = made.get(line.disk or line.label)
            if what is None or one.failed:
                continue
            if line.label in late:
                one.failed = "takes too long"
                continue
            began = time.monotonic()
            try:
                one.points.append((place, curve.function(context, what, line)))
            except (CannotServe, CannotMeasure, tools.CommandFailed, OSError) as error:
                one.failed = str(error)
            if time.monotonic() - began > LONG_SECONDS and not one.is_own():
                late.add(line.label)


def measure(context, family, places):
    """A list of Grown."""
    grown = {(curve.name, line.label): Grown(family, curve, line.label)
             for curve in family.curves for line in curve.lines}
    lines = {line.label: line for curve in family.curves for line in curve.lines}
    steps, late = family.steps(context, places, list(lines.values())), set()
    with contextlib.closing(steps):
        for place, made in steps:
            _measure_step(context, family, place, made, grown, late)
    return list(grown.values())


def prepare():
    """As many files as there may be for a chain of 1000, and mounts of one's own; before all else."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    _own_mounts()
