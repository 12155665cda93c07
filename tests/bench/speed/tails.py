# SPDX-License-Identifier: MIT
"""The rows of --tails: how long the slowest requests take while something else goes on.

One measurement gives a whole distribution, of which each percentile is a row of its own: rows of the
same name but for that share what was measured.
"""

import contextlib
import errno
import os
import threading
import time

from lib import ctl, tools, write

from . import fio
from .images import KiB, MiB
from .workloads import Limit, Line, Versus, Workload

PERCENTILES = ("50", "99", "99.9", "max")
STALL = 50_000  # us: no request takes longer, in memory

WRITERS = tuple(Line(kind, kind) for kind in ("raw", "floor", "qsd", "qcow2fs"))
# passthrough_ll discards nothing.
DISCARDERS = tuple(line for line in WRITERS if line.kind != "floor")
ALONE = Line("alone", "qcow2fs")
OWN = (ALONE, Line("qcow2fs", "qcow2fs"))
# passthrough_ll has no snapshots either: the commands work on a mounted image beside it.
SNAPSHOTTERS = (Line("floor", "floor"), *OWN)


# --- what goes on meanwhile: each works on the second half of the disk until it is told to stop ------


def _empty_half(handle, disk):
    """As new; where nothing can be discarded the next round writes over it."""
    try:
        write.punch(handle, disk.size // 2, disk.size // 2)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise


def _nothing(_served, _disk, _stop):
    pass


def _fill(served, disk, stop):
    """Buffered, in order; what is full is emptied, and filled anew."""
    data = os.urandom(MiB)
    with write.opened(served.path) as handle:
        while not stop.is_set():
            for offset in range(disk.size // 2, disk.size, MiB):
                if stop.is_set():
                    return
                write.write_all(handle, data, offset)
            _empty_half(handle, disk)


def _discard(served, disk, stop):
    """Clusters here and there, which are written before."""
    data, half, step = os.urandom(64 * KiB), disk.size // 2, 128 * KiB
    with write.opened(served.path) as handle:
        while not stop.is_set():
            for number in range(0, half // step, 8):
                places = [half + (number + i) * step for i in range(8)
                          if half + (number + i) * step < disk.size]
                for offset in places:
                    write.write_all(handle, data, offset)
                os.fsync(handle)
                for offset in places:
                    write.punch(handle, offset, len(data))
                if stop.is_set():
                    return


def _commit(served, disk, stop):
    """One write to each L2 slice that there is, and then all of them are stored at once."""
    data, half = os.urandom(4 * KiB), disk.size // 2
    with write.opened(served.path) as handle:
        turn = 0
        while not stop.is_set():
            for offset in range(half, disk.size - 4 * KiB, 64 * KiB):
                write.write_all(handle, data, offset + turn % 16 * 4 * KiB)
                if stop.is_set():
                    return
            os.fsync(handle)
            _empty_half(handle, disk)
            turn += 1


def _snapshots(_served, disk, stop):
    while not stop.is_set():
        for option in ("-c", "-d"):
            tools.run(ctl.program(), "snapshot", option, "tail", disk.qcow2)
        stop.wait(0.05)


LOADS = {
    "alone": ("nothing else goes on", _nothing, WRITERS, ""),
    "fill": ("another job fills the disk", _fill, WRITERS, ""),
    "discard": ("another job discards", _discard, DISCARDERS, ""),
    "commit": ("commits of a full cache", _commit, WRITERS, ""),
    "snapshot": ("snapshots are made and removed", _snapshots, SNAPSHOTTERS, ""),
    "clean": ("the cache is cleaned each second", _nothing, OWN, "clean"),
}


# --- measuring ------------------------------------------------------------------------------------


@contextlib.contextmanager
def _meanwhile(load, served, disk):
    stop, failed = threading.Event(), []

    def work():
        try:
            load(served, disk, stop)
        except (OSError, tools.CommandFailed) as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if failed:
        raise fio.CannotMeasure("what goes on meanwhile failed: %s" % failed[0])


@contextlib.contextmanager
def _loaded(context, line, load, disk):
    """The disk that a load works on: `disk`, or one beside it, filled alike, for who has no snapshots."""
    if load is not _snapshots or line.kind == "qcow2fs":
        yield disk
        return
    own = Line("beside", "qcow2fs")
    with context.fresh(own, "memory", context.size) as beside, context.serve(own, beside) as served:
        fio.once(served.path, "write", MiB, beside.size // 2, fsync=True)
        yield beside


def _distribution(context, line, writes, load, tuning):
    """{percentile: us}, of requests one after another to the first half of the disk."""
    if line == ALONE:
        load, tuning = _nothing, ""
    with context.fresh(line, "memory", context.size) as disk, \
            context.serve(line._replace(tuning=tuning), disk) as served, \
            _loaded(context, line, load, disk) as meant:
        half = disk.size // 2
        fio.once(served.path, "write", MiB, half, fsync=True)
        with _meanwhile(load, served, meant):
            time.sleep(min(0.2, context.seconds / 10))
            return fio.latencies(served.path, writes, half, context.seconds)


def _percentile(writes, load, tuning, percentile, measured):
    """Of a distribution that another percentile's row has measured, or of a new one."""
    def measure(context, line, _workload):
        found = measured.setdefault(line.label, [])
        mine = next((one for one in found if percentile in one), None)
        if mine is None:
            mine = _distribution(context, line, writes, load, tuning)
            found.append(mine)
        return mine.pop(percentile)
    return measure


def _rows(name, writes):
    text, load, lines, tuning = LOADS[name]
    what = "4K write and fdatasync" if writes else "4K read"
    measured = {}
    beside = {OWN: "alone", DISCARDERS: "qsd"}.get(lines, "floor")
    for percentile in PERCENTILES:
        shown = "slowest" if percentile == "max" else "p" + percentile
        # Times: half as good is twice as long.
        goals = {"99.9": (Versus((beside,), 0.5),), "max": (Limit(STALL),)}.get(percentile, ())
        yield Workload("tail-%s-%s-%s" % ("write" if writes else "read", name, percentile),
                       "%s, %s, %s" % (what, shown, text), "us", lines, goals,
                       _percentile(writes, load, tuning, percentile, measured),
                       less_is_better=True)


def all_tails():
    return tuple(row for name in LOADS for writes in (False, True) for row in _rows(name, writes))
