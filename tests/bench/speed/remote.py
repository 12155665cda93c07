# SPDX-License-Identifier: MIT
"""Rows of images on a server that is far away: nbdkit, whose delay filter holds back each read.

Beside the targets stand clients that show nothing to anybody: fio's own. One has a single request
under way at a time, as a program that copies in order has; others have as many as the row, on one
connection and on four: the server works at 16 requests of a connection at once, and no more. The
floor is what FUSE makes of the latter at the least: tests/bench/far-floor.c.
"""

import contextlib
import os
import subprocess
import time

from lib import run, tools

from . import fio
from .images import KiB, MiB
from .targets import CannotServe, REMOTE, daemon
from .workloads import beside, Line, Versus, Workload

CONNECTIONS = 4
# Measured wherever qcow2fs is.
ONE_AT_A_TIME = Line("one at a time", "qcow2fs")
ONE_CONNECTION = Line("one connection", "qcow2fs")
SERVER = Line("server", "qcow2fs")
FLOOR = Line("floor", "qcow2fs")
OF_THE_FLOOR = Versus((FLOOR.label,), 0.95)
TARGETS = (Line("qsd", "qsd", REMOTE), Line("qcow2fs", "qcow2fs", REMOTE))


@contextlib.contextmanager
def _server(disk, milliseconds):
    """The image's file on a unix socket; the address."""
    if not tools.have("nbdkit"):
        raise CannotServe("no nbdkit: apt-get install nbdkit")
    place = os.path.join(run.short(disk.directory), "socket")
    process = run.start(["nbdkit", "-f", "-r", "-U", place, "-P", place + ".pid", "--filter=delay",
                         "file", disk.qcow2, "rdelay=%dms" % milliseconds],
                        stdin=subprocess.DEVNULL)
    try:
        while not os.path.exists(place + ".pid"):
            if process.poll() is not None:
                raise CannotServe("nbdkit ended with status %d" % process.returncode)
            time.sleep(0.001)
        yield "nbd+unix:///?socket=" + place
    finally:
        process.kill()
        process.wait()
        for name in (place, place + ".pid"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)


def _sequential(milliseconds):
    """Buffered, in order; a new mount has nothing in its page cache."""
    def measure(context, line, workload):
        disk = workload.disk_for(context, line)
        with _server(disk, milliseconds) as address:
            if line == ONE_AT_A_TIME:
                return fio.client(address, "read", 128 * KiB, 1, 1, disk.size, context.seconds,
                                  "bw_bytes") / 1e6
            with context.serve(line, disk._replace(qcow2=address)) as served:
                return fio.once(served.path, "read", MiB, disk.size, seconds=context.seconds)
    return measure


def _shown(context, line, disk, address):
    if line != FLOOR:
        return context.serve(line, disk._replace(qcow2=address))
    program = beside("make tests/bench/far-floor", "..", "tests", "bench", "far-floor")
    at = context.places.mount_point(disk.size)
    return daemon([program, address, at, str(disk.size)], at, at, disk.size)


def _random(milliseconds, depth):
    def measure(context, line, workload):
        disk = workload.disk_for(context, line)
        connections = {SERVER: CONNECTIONS, ONE_CONNECTION: 1}.get(line)
        with _server(disk, milliseconds) as address:
            if connections is not None:
                return fio.client(address, "randread", 4 * KiB, depth // connections, connections,
                                  disk.size, context.seconds, "iops")
            with _shown(context, line, disk, address) as served:
                return fio.iops(served.path, "randread", 4 * KiB, depth, disk.size, context.seconds,
                                ramp=0.5)
    return measure


def rows():
    return (
        Workload("far-seq", "sequential read, buffered, a server 20 ms away", "MB/s",
                 (ONE_AT_A_TIME, *TARGETS), (Versus((ONE_AT_A_TIME.label,), 20), Versus(("qsd",), 2)),
                 _sequential(20), "plain"),
        Workload("far-qd4", "4K random read, QD4, a server 1 ms away", "IOPS",
                 (SERVER, FLOOR, *TARGETS), (Versus((SERVER.label,), 0.9), OF_THE_FLOOR), _random(1, 4), "plain"),
        Workload("far-qd32", "4K random read, QD32, a server 1 ms away", "IOPS",
                 (SERVER, ONE_CONNECTION, FLOOR, *TARGETS), (Versus((SERVER.label,), 0.9), OF_THE_FLOOR),
                 _random(1, 32), "plain"),
    )
