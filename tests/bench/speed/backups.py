# SPDX-License-Identifier: MIT
"""The job of an incremental backup: of a disk that is in use, with one percent of it changed.

Each target goes the way that its own manual describes, from the first command to a backup that is stable:

    qcow2fs    the functions of the manual page of qcow2ctl, with the snapshot of backup-point
    qsd        QMP: blockdev-backup, sync=incremental, into a new image
    qemu-img   the disk is not in use: qemu-nbd shows it with its bitmap, qemu-io copies on reading
               into a new image what qemu-img map says has changed
    rsync      no bitmap: compares all of the disk with the copy that is there
    raw        neither: a whole copy
"""

import contextlib
import json
import os
import random
import shutil
import socket
import time

from lib import backups, bitmaps, ctl, nbd, run, tools

from .images import CLUSTER
from .targets import CannotServe
from .workloads import Line

PERCENT = 1
BITMAP = "nightly"
CHANGED = b"\x5a" * CLUSTER
LINES = (Line("raw", "raw"), Line("rsync", "raw"), Line("qsd", "qsd"), Line("qemu-img", "qsd"),
         Line("qcow2fs", "qcow2fs", "directory"))


class Monitor:
    """Of a qemu-storage-daemon: one end of a pair of sockets, of which it has the other."""

    def __init__(self):
        self._own, self.other = socket.socketpair()
        self.options = ["--chardev", "socket,id=monitor,server=off,fd=%d" % self.other.fileno(),
                        "--monitor", "chardev=monitor"]
        self._file = self._own.makefile("rw", encoding="utf-8")
        self._events = []

    def begin(self):
        self._file.readline()  # who it is
        self.ask("qmp_capabilities")

    def _read(self):
        text = self._file.readline()
        if not text:
            raise CannotServe("the monitor has hung up")
        return json.loads(text)

    def ask(self, command, **arguments):
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        self._file.write(json.dumps({"execute": command, "arguments": named}) + "\n")
        self._file.flush()
        while True:
            told = self._read()
            if "error" in told:
                raise CannotServe("%s: %s" % (command, told["error"]["desc"]))
            if "return" in told:
                return
            self._events.append(told)

    def wait(self, event):
        while not any(told["event"] == event for told in self._events):
            self._events.append(self._read())
        failed = [told for told in self._events if told.get("data", {}).get("error")]
        if failed:
            raise CannotServe(str(failed[0]["data"]["error"]))
        self._events.clear()

    def close(self):
        self._file.close()
        self._own.close()
        self.other.close()


def _change(path, size):
    """Writes to some clusters; the last of them."""
    count = max(1, size * PERCENT // 100 // CLUSTER)
    places = random.Random(size).sample(range(size // CLUSTER), count)
    handle = os.open(path, os.O_WRONLY)
    try:
        for place in places:
            os.pwrite(handle, CHANGED, place * CLUSTER)
        os.fsync(handle)
    finally:
        os.close(handle)
    return places[-1] * CLUSTER


def _check_raw(path, offset):
    with open(path, "rb") as file:
        if os.pread(file.fileno(), CLUSTER, offset) != CHANGED:
            raise CannotServe("what has changed is not in the backup")


def _check_image(path, offset):
    said = tools.output("qemu-io", "-r", "-f", "qcow2", "-c",
                        "read -P 0x%x %d %d" % (CHANGED[0], offset, CLUSTER), path)
    if "failed" in said:
        raise CannotServe("what has changed is not in the backup")


# --- the ways ------------------------------------------------------------------------------------


def _by_page(context, line, disk, backup):
    """By the functions of the manual page."""
    path = os.path.dirname(ctl.program()) + ":" + tools.PATH
    with context.serve(line, disk) as served:
        os.symlink(os.path.dirname(served.path), os.path.join(backup, "image"))
        os.mkdir(os.path.join(backup, "backup"))
        tools.run(ctl.program(), "bitmap", "--add", os.path.dirname(served.path), BITMAP)
        offset = _change(served.path, disk.size)
        began = time.perf_counter()
        tools.run("sh", "-c", backups.script() + "next 1", cwd=backup, env={"PATH": path})
        seconds = time.perf_counter() - began
    _check_raw(os.path.join(backup, "backup", "1.raw"), offset)
    return seconds


def _create(path, size):
    tools.run("qemu-img", "create", "-q", "-f", "qcow2", path, str(size))


def _by_monitor(context, line, disk, backup):
    path = os.path.join(backup, "1.qcow2")
    with contextlib.closing(Monitor()) as monitor:
        with context.targets[line.kind].serve(disk, monitor=monitor) as served:
            monitor.begin()
            monitor.ask("block-dirty-bitmap-add", node="disk", name=BITMAP, persistent=True)
            offset = _change(served.path, disk.size)
            began = time.perf_counter()
            _create(path, disk.size)
            monitor.ask("blockdev-add", driver="qcow2", node_name="backup",
                        file={"driver": "file", "filename": path})
            monitor.ask("blockdev-backup", job_id="backup", device="disk", target="backup",
                        sync="incremental", bitmap=BITMAP)
            monitor.wait("BLOCK_JOB_COMPLETED")
            monitor.ask("blockdev-del", node_name="backup")
            tools.run("sync", path)
            seconds = time.perf_counter() - began
    _check_image(path, offset)
    return seconds


def _by_nbd(context, line, disk, backup):
    tools.run("qemu-img", "bitmap", "--add", disk.qcow2, BITMAP)
    with context.serve(line, disk) as served:
        offset = _change(served.path, disk.size)
    path, place = os.path.join(backup, "1.qcow2"), os.path.join(run.short(backup), "backup")
    began = time.perf_counter()
    changed = bitmaps.ranges(disk.qcow2, BITMAP)
    with nbd.server(place, "qemu-nbd", "-r", "-t", "-f", "qcow2", "-k", place, "--pid-file",
                    place + ".pid", disk.qcow2) as (address, _process):
        tools.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", address, "-F", "raw", path)
        tools.run("qemu-io", "-C", "-f", "qcow2",
                  *(word for place, length in changed
                    for word in ("-c", "read -q %d %d" % (place, length))), path)
        tools.run("qemu-img", "rebase", "-u", "-b", "", "-f", "qcow2", path)
    tools.run("sync", path)
    tools.run("qemu-img", "bitmap", "--clear", disk.qcow2, BITMAP)
    seconds = time.perf_counter() - began
    _check_image(path, offset)
    return seconds


def _whole(_context, line, disk, backup):
    path = os.path.join(backup, "1.raw")
    if line.label == "rsync":
        if not tools.have("rsync"):
            raise CannotServe("no rsync: apt-get install rsync")
        shutil.copyfile(disk.raw, path)
    offset = _change(disk.raw, disk.size)
    command = ["rsync", "--inplace", "--no-whole-file", "--ignore-times"] \
        if line.label == "rsync" else ["cp", "--sparse=always"]
    began = time.perf_counter()
    tools.run(*command, disk.raw, path, timeout=600)
    tools.run("sync", path)
    seconds = time.perf_counter() - began
    _check_raw(path, offset)
    return seconds


WAYS = {"raw": _whole, "rsync": _whole, "qsd": _by_monitor, "qemu-img": _by_nbd,
        "qcow2fs": _by_page}


def incremental(context, line, workload):
    """Seconds from the first command to a backup that is stable."""
    source = workload.disk_for(context, line)
    directory = context.places.new("memory", "backup")
    try:
        disk = source._replace(directory=directory, raw=os.path.join(directory, "disk.raw"),
                               qcow2=os.path.join(directory, "disk.qcow2"))
        if line.kind == "raw":
            shutil.copyfile(source.raw, disk.raw)
        else:
            shutil.copyfile(source.qcow2, disk.qcow2)
        way = WAYS[line.label if line.label in WAYS else line.kind]
        return way(context, line, disk, directory)
    finally:
        shutil.rmtree(directory)
