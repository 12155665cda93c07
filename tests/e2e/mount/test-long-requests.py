#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Requests that would take hours: others are served meanwhile, and whoever made one can be killed,
as can the daemon."""

import contextlib
import mmap
import os
import signal
import struct
import subprocess
import sys
import time

from lib import bad, compare, image, mount, qcow2, run, tap, tools
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.QEMU])
PiB = 1 << 50
CLUSTER = 2 * MiB
OVERLAY_SIZE = 8 << 40
SIZE = 2048 * PiB
ZERO = 1


def endless(directory, data):
    """A disk of 2 EiB whose L1 entries all name one table: all of it is data, or all zeros."""
    path = image.create(os.path.join(directory, "image.qcow2"), SIZE, cluster_size="2M")
    image.io(path, image.write(0, 64 * KiB, 1))
    with qcow2.Qcow2(path) as opened:
        table = opened.l1_entry(0) & ~qcow2.COPIED
        entry = opened.l2_entry(0) & ~qcow2.COPIED if data else ZERO
        opened.write(table, struct.pack(">Q", entry) * (CLUSTER // 8))
        opened.write(opened["l1_table_offset"], struct.pack(">Q", table) * opened["l1_size"])
        # A hole of the host would be no data.
        if data:
            opened.write(entry, bytes(range(256)) * (CLUSTER // 256))
    return path


@contextlib.contextmanager
def doing(program, *arguments, count=1):
    """Processes that run a Python program, until the end at the latest."""
    processes = [subprocess.Popen([sys.executable, "-c", program, *map(str, arguments)],
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL)
                 for _ in range(count)]
    try:
        for process in processes:
            process.stdout.readline()  # it begins
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.stdout.close()
            process.wait()


SEEK_ON = """
import os, sys
handle = os.open(sys.argv[1], os.O_RDONLY)
print(flush=True)
at = 0
while True:
    at = os.lseek(handle, at, os.SEEK_DATA)
"""

PUNCH = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
handle = os.open(sys.argv[1], os.O_RDWR)
print(flush=True)
libc.fallocate64(handle, 3, ctypes.c_int64(0), ctypes.c_int64(int(sys.argv[2])))
"""


def gone(process):
    bad.wait_for(lambda: process.poll() is not None, "the end of a process that was killed", bad.SOON)


@suite.test("a search without end has an answer in time that is not wrong: data where it came to, "
            "and no hole before the end")
def _(directory):
    with mount.mount(endless(directory, data=False)) as mounted:
        with open(mounted.disk, "rb", buffering=0) as file:
            began, at = time.monotonic(), 0
            for _ in range(2):
                found = file.seek(at, os.SEEK_DATA)
                check(at < found < SIZE, "from %d it came to %d", at, found)
                check_equal(file.seek(found, os.SEEK_HOLE), found, "the hole there")
                check_equal(os.pread(file.fileno(), 4096, found), bytes(4096), "what is there")
                at = found
            check(time.monotonic() - began < bad.SOON, "it took long")
    with mount.mount(endless(directory, data=True)) as mounted:
        with open(mounted.disk, "rb", buffering=0) as file:
            check_equal(file.seek(0, os.SEEK_HOLE), SIZE, "the first hole")
            check_equal(file.seek(5 * PiB, os.SEEK_DATA), 5 * PiB, "the next data")


@suite.test("while all search without end, somebody reads; who searches is killed, and so is the "
            "daemon, by SIGTERM")
def _(directory):
    path = endless(directory, data=False)
    for options in ((), ("threads=2",)):
        with mount.mount(path, *options) as mounted:
            with doing(SEEK_ON, mounted.disk, count=17) as seekers:
                with open(mounted.disk, "rb", buffering=0) as file:
                    compare.check_bytes(os.pread(file.fileno(), 4096, 77 * MiB), bytes(4096), 0)
                seekers[0].kill()
                gone(seekers[0])
                began = time.monotonic()
                mounted.signal(signal.SIGTERM)
                check(time.monotonic() - began < bad.SOON, "the daemon took long to end")
                run.unmount(mounted.path, lazy=True)


def overlay(directory):
    """An empty disk on a file that is a hole: each cluster that is discarded needs an entry, and
    of those there are two thousand million."""
    raw = os.path.join(directory, "base.raw")
    with open(raw, "wb") as file:
        file.truncate(OVERLAY_SIZE)
    path = os.path.join(directory, "image.qcow2")
    tools.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", "-b", raw, "-F",
              "raw", path)
    return path


def read_directly(path, offset):
    handle = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        buffer = mmap.mmap(-1, 4096)
        os.preadv(handle, [buffer], offset)
        return bytes(buffer)
    finally:
        os.close(handle)


@suite.test("who discards for ever can be killed, and leaves an image in order; what others wrote "
            "is kept, and what was discarded until then is not shown any more")
def _(directory):
    path = overlay(directory)
    with mount.mount(path, writable=True) as mounted:
        with open(mounted.disk, "r+b", buffering=0) as file:
            for offset in (0, OVERLAY_SIZE - 4096):
                file.seek(offset)
                file.write(b"kept" * 1024)
            os.fsync(file.fileno())
            compare.check_bytes(os.pread(file.fileno(), 4096, 0), b"kept" * 1024, 0)
        with doing(PUNCH, mounted.disk, OVERLAY_SIZE - MiB) as (puncher,):
            with open(mounted.disk, "rb", buffering=0) as file:
                compare.check_bytes(os.pread(file.fileno(), 4096, OVERLAY_SIZE - 4096), b"kept" * 1024, 0)
                bad.wait_for(lambda: read_directly(mounted.disk, 0) == bytes(4096),
                             "zeros in the first cluster", bad.SOON)
                puncher.kill()
                gone(puncher)
                compare.check_bytes(os.pread(file.fileno(), 4096, 0), bytes(4096), 0)
        with doing(PUNCH, mounted.disk, OVERLAY_SIZE - MiB):
            began = time.monotonic()
            mounted.signal(signal.SIGTERM)
            check(time.monotonic() - began < bad.SOON, "the daemon took long to end")
            run.unmount(mounted.path, lazy=True)
    tools.run("qemu-img", "check", "-q", path)
    image.io(path, "read -q -P %d %d 1" % (ord("k"), OVERLAY_SIZE - 4096))


@suite.test("an empty disk is discarded at once, however large, and its image stays small")
def _(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), SIZE, cluster_size="2M")
    before = os.path.getsize(path)
    with mount.mount(path, writable=True) as mounted:
        with doing(PUNCH, mounted.disk, SIZE - 4096) as (puncher,):
            gone(puncher)
    check_equal(os.path.getsize(path), before, "the size of the image")


if __name__ == "__main__":
    if os.geteuid() == 0:
        bad.private_mounts()
    suite.main()
