# SPDX-License-Identifier: MIT
"""The jobs that measure: one fio process, the same for each target."""

import json
import mmap
import os
import time

from lib import tools

KiB, MiB = 1 << 10, 1 << 20

FIO = tools.tool("fio")


class CannotMeasure(Exception):
    """fio gave no result."""


def _run(path, arguments, seconds, latencies=False):
    return _run_on(["--filename=" + path, "--fallocate=none", "--allow_file_create=0"], arguments,
                   seconds, latencies)


def _run_on(what, arguments, seconds, latencies=False):
    argv = ["fio", "--name=bench", *what, "--thread=1", "--gtod_reduce=%d" % (not latencies),
            "--refill_buffers=0",
            "--randrepeat=1", "--random_generator=tausworthe64", "--output-format=json",
            *arguments]
    done = tools.run(*argv, timeout=60 + 20 * seconds, status=None)
    try:
        # Warnings may stand before the JSON text.
        job = json.loads(done.stdout[done.stdout.index("{"):])["jobs"][0]
    except (ValueError, KeyError, IndexError):
        raise CannotMeasure((done.stderr or done.stdout).strip()[-300:]) from None
    if done.returncode != 0 or job["error"]:
        raise CannotMeasure("fio: error %s: %s" % (job["error"], done.stderr.strip()[-300:]))
    return job


def _result(job, rw, field):
    return float(job["write" if "write" in rw else "read"][field])


def _engine(depth):
    return ["--ioengine=libaio", "--iodepth=%d" % depth] if depth > 1 else ["--ioengine=psync"]


def timed(path, rw, block, depth, size, seconds, direct=True, ramp=0.0):
    """Runs for some time, at random or over and over from the start. Returns the job."""
    arguments = ["--rw=" + rw, "--bs=%d" % block, "--size=%d" % size, "--time_based",
                 "--runtime=%dms" % (seconds * 1000), "--direct=%d" % direct,
                 "--invalidate=%d" % direct, "--norandommap", *_engine(depth)]
    if ramp:
        arguments.append("--ramp_time=%dms" % (ramp * 1000))
    return _run(path, arguments, seconds + ramp)


def iops(path, rw, block, depth, size, seconds, **keywords):
    return _result(timed(path, rw, block, depth, size, seconds, **keywords), rw, "iops")


def bandwidth(path, rw, block, depth, size, seconds, **keywords):
    """MB/s: a million bytes."""
    return _result(timed(path, rw, block, depth, size, seconds, **keywords), rw,
                   "bw_bytes") / 1e6


def client(address, rw, block, depth, connections, size, seconds, field):
    """Of an NBD server by itself, `depth` requests on each connection: what fio calls `field`."""
    arguments = ["--rw=" + rw, "--bs=%d" % block, "--size=%d" % size, "--time_based",
                 "--runtime=%dms" % (seconds * 1000), "--norandommap", "--iodepth=%d" % depth,
                 "--numjobs=%d" % connections, "--group_reporting"]
    return _result(_run_on(["--ioengine=nbd", "--uri=" + address], arguments, seconds), rw, field)


def once(path, rw, block, size, direct=False, fsync=False, seconds=None):
    """All of the file once, buffered: MB/s. With `fsync` one at the end, in the time; `seconds` ends
    it early."""
    arguments = ["--rw=" + rw, "--bs=%d" % block, "--size=%d" % size, "--direct=%d" % direct,
                 "--invalidate=0", "--ioengine=psync"]
    if fsync:
        arguments.append("--end_fsync=1")
    if seconds is not None:
        arguments.append("--runtime=%dms" % (seconds * 1000))
    return _result(_run(path, arguments, 60), rw, "bw_bytes") / 1e6


def scatter(path, size, writes, depth, seconds=None, fdatasync=False):
    """Writes 4K blocks anywhere, no block twice: writes a second.

    A fixed amount of work, since after the same time the faster one would have more of the disk
    allocated; `seconds` ends it early. With `fdatasync` after each of them through the page
    cache of the mount: the floor hands O_DIRECT on to the disk, which refuses its buffers.
    """
    arguments = ["--rw=randwrite", "--bs=4k", "--size=%d" % size, "--direct=%d" % (not fdatasync),
                 "--io_size=%d" % (writes * 4 * KiB), *_engine(depth)]
    if seconds is not None:
        arguments.append("--runtime=%dms" % (seconds * 1000))
    if fdatasync:
        arguments.append("--fdatasync=1")
    return _result(_run(path, arguments, 60 if seconds is None else seconds), "write", "iops")


def latencies(path, writes, size, seconds):
    """How long 4K requests took, one after another, anywhere: {"50", "99", "99.9", "max": us}.

    Of writes, through the page cache, it is the fdatasync() after each that is looked at.
    """
    arguments = ["--rw=" + ("randwrite" if writes else "randread"), "--bs=4k", "--size=%d" % size,
                 "--time_based", "--runtime=%dms" % (seconds * 1000), "--norandommap",
                 "--direct=%d" % (not writes), "--invalidate=%d" % (not writes), *_engine(1)]
    if writes:
        arguments.append("--fdatasync=1")
    job = _run(path, arguments, seconds, latencies=True)
    found = job["sync"]["lat_ns"] if writes else job["read"]["clat_ns"]
    told = {"50": "50.000000", "99": "99.000000", "99.9": "99.900000"}
    return {"max": found["max"] / 1000,
            **{name: found["percentile"][key] / 1000 for name, key in told.items()}}


def touch(path, size, step, seconds):
    """Reads 4K at each `step` of the file, past the page cache, for at most some seconds."""
    deadline = time.monotonic() + seconds
    handle = os.open(path, os.O_RDONLY | os.O_DIRECT)
    buffer = mmap.mmap(-1, 4 * KiB)  # aligned, as O_DIRECT wants it
    try:
        for offset in range(0, size, step):
            os.preadv(handle, [buffer], offset)
            if time.monotonic() > deadline:
                return
    finally:
        os.close(handle)
        buffer.close()
