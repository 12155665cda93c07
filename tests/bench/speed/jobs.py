# SPDX-License-Identifier: MIT
"""Whole jobs, as the person who waits has them, from the first command to the last.

Each target goes its own way to the files: qcow2fs by qcow2ctl mount and attach, guestmount by
itself, and all others by a loop device, as losetup(8) makes it, on the raw file that they show.
Who only converts ("qemu-img") makes a raw file of the image first. `raw` is what bounds them: a
loop device on a plain file of the same contents.
"""

import contextlib
import os
import shutil
import subprocess
import time

from lib import run, tools

from . import backups
from .targets import CannotServe
from .trees import copy_size
from .workloads import Line, Versus, Workload, beside

JOB_SECONDS = 900
POSTGRES = "/usr/lib/postgresql"
CLIENTS = 4
PART_SECTORS = 2048  # where the partition begins that is made larger
TREE = "tree"

CONVERTED = Line("qemu-img", "raw")
READERS = tuple(Line(kind, kind) for kind in ("raw", "qsd", "nbdfuse", "qcowmount", "guestmount",
                                              "qcow2fs"))
WRITERS = tuple(line for line in READERS if line.kind != "qcowmount")
PEERS = ("qsd", "nbdfuse", "qcowmount", "guestmount", "qemu-img", "rsync")
# 1.15 times as long as the plain file, and half as long as the best of the others
GOALS = (Versus(("raw",), 0.87), Versus(PEERS, 2))


def _ctl(*arguments):
    return tools.output(beside("make", "qcow2ctl"), *arguments, timeout=JOB_SECONDS)


def _until_unmounted(unmount):
    for attempt in range(50):
        if unmount():
            return
        time.sleep(0.01 * (attempt + 1))
    raise CannotServe("it stays busy")


# --- the ways -----------------------------------------------------------------------------------


@contextlib.contextmanager
def _loop(path, writes, partitions=False):
    flags = ([] if writes else ["-r"]) + (["-P"] if partitions else [])
    device = tools.output("losetup", "-f", "--show", *flags, path).strip()
    try:
        yield device
    finally:
        tools.run("losetup", "-d", device)


@contextlib.contextmanager
def device(context, line, disk, writes=True, partitions=False):
    """The disk as a block device; its name."""
    if line.kind == "qcow2fs":
        options = ["-o", _key_option(disk)] if disk.key else []
        name = _ctl("attach", *([] if writes else ["-r"]), *options, disk.qcow2).split()[0]
        try:
            yield name
        finally:
            _ctl("detach", name)
    else:
        with context.serve(line, disk) as served, _loop(served.path, writes, partitions) as name:
            yield name


def _key_option(disk):
    return "key-file=" + disk.key


@contextlib.contextmanager
def _mounted(source, at, writes):
    tools.run("mount", "-t", "ext4", "-o", "rw" if writes else "ro,noload", source, at)
    try:
        yield at
    finally:
        _until_unmounted(lambda: run.unmount(at))


@contextlib.contextmanager
def _by_qcow2ctl(disk, at, writes):
    options = ["-o", _key_option(disk)] if disk.key else []
    _ctl("mount", *([] if writes else ["-r"]), *options, disk.qcow2, at)
    try:
        yield at
    finally:
        _ctl("umount", at)


@contextlib.contextmanager
def _by_guestmount(context, disk, at, writes):
    pid_file = os.path.join(context.places.new("memory", "guest"), "pid")
    tools.run("guestmount", "-a", disk.qcow2, "-m", "/dev/sda", "--pid-file", pid_file,
              *([] if writes else ["--ro"]), at, timeout=JOB_SECONDS,
              env={"LIBGUESTFS_BACKEND": "direct"})
    with open(pid_file, encoding="ascii") as file:
        pid = int(file.read())
    try:
        yield at
    finally:
        _until_unmounted(lambda: run.unmount(at))
        while os.path.exists("/proc/%d" % pid):
            time.sleep(0.001)


@contextlib.contextmanager
def _by_convert(context, disk, at):
    directory = context.places.new("memory", "converted")
    raw = os.path.join(directory, "disk.raw")
    try:
        tools.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", disk.qcow2, raw,
                  timeout=JOB_SECONDS)
        with _loop(raw, False) as name, _mounted(name, at, False):
            yield at
    finally:
        shutil.rmtree(directory)


@contextlib.contextmanager
def files(context, line, disk, writes=False):
    """The files of the disk, at the directory that it gives."""
    at = context.places.mount_point()
    if line.label == CONVERTED.label:
        way = _by_convert(context, disk, at)
    elif line.kind == "qcow2fs":
        way = _by_qcow2ctl(disk, at, writes)
    elif line.kind == "guestmount":
        way = _by_guestmount(context, disk, at, writes)
    else:
        way = _by_loop(context, line, disk, at, writes)
    with way:
        yield at


@contextlib.contextmanager
def _by_loop(context, line, disk, at, writes):
    with device(context, line, disk, writes) as name, _mounted(name, at, writes):
        yield at


# --- the jobs -----------------------------------------------------------------------------------


def list_files(context, line, workload):
    """Seconds until the names of all files are there; what it takes to end is not counted."""
    disk = workload.disk_for(context, line)
    began = time.perf_counter()
    with files(context, line, disk) as at:
        tools.run("ls", "-R", at)
        return time.perf_counter() - began


def copy_out(context, line, workload):
    """Seconds to copy all files into memory, with what it takes to begin and to end."""
    disk = workload.disk_for(context, line)
    target = context.places.new("memory", "copied")
    try:
        began = time.perf_counter()
        with files(context, line, disk) as at:
            tools.run("cp", "-a", os.path.join(at, TREE), target, timeout=JOB_SECONDS)
        seconds = time.perf_counter() - began
        if copy_size(target) != copy_size(context.images.get(TREE).directory):
            raise CannotServe("the files are not the same")
        return seconds
    finally:
        shutil.rmtree(target)


def make_and_fill(context, line, workload):
    """Seconds from no image to one with the files, stable on the disk."""
    tree = context.images.get(TREE)
    with context.fresh(line, workload.where, tree.size) as disk:
        began = time.perf_counter()
        with device(context, line, disk) as name:
            tools.run("mkfs.ext4", "-q", name)
            at = context.places.mount_point()
            with _mounted(name, at, True):
                tools.run("cp", "-a", os.path.join(tree.directory, TREE), at, timeout=JOB_SECONDS)
        with open(disk.raw if line.kind == "raw" else disk.qcow2, "rb") as file:
            os.fsync(file.fileno())
        return time.perf_counter() - began


def digest(context, line, workload):
    """Seconds for sha256sum of the whole disk."""
    disk = workload.disk_for(context, line)
    began = time.perf_counter()
    if line.label == "qcow2ctl hash":
        _ctl("hash", disk.qcow2)
    else:
        with context.serve(line, disk) as served:
            tools.run("sha256sum", served.path, timeout=JOB_SECONDS)
    return time.perf_counter() - began


def grow(context, line, workload):
    """Seconds to make a disk, its partition and the file system in there four times as large."""
    size = context.size
    with context.fresh(line, "memory", size) as disk:
        with device(context, line, disk, partitions=True) as name:
            tools.run("sfdisk", "-q", name, input="%d\n" % PART_SECTORS)
            _partition(name)
            tools.run("mkfs.ext4", "-q", name + "p1")
        began = time.perf_counter()
        if line.kind == "raw":
            os.truncate(disk.raw, 4 * size)
        elif line.kind == "qcow2fs":
            _ctl("resize", disk.qcow2, str(4 * size))
        else:
            tools.run("qemu-img", "resize", "-q", "-f", "qcow2", disk.qcow2, str(4 * size))
        with device(context, line, disk._replace(size=4 * size), partitions=True) as name:
            tools.run("sfdisk", "-q", "-N", "1", name, input="%d,+\n" % PART_SECTORS)
            _partition(name)
            tools.run("resize2fs", name + "p1")
        return time.perf_counter() - began


def _partition(name):
    tools.run("partx", "-u", name)
    while not os.path.exists(name + "p1"):
        time.sleep(0.001)


# --- pgbench ------------------------------------------------------------------------------------


def _postgres():
    """The directory of PostgreSQL's programs."""
    versions = os.listdir(POSTGRES) if os.path.isdir(POSTGRES) else []
    if not versions:
        raise CannotServe("no pgbench: apt-get install postgresql postgresql-contrib")
    return os.path.join(POSTGRES, max(versions, key=float), "bin")


def _as_postgres(*argv, **keywords):
    return tools.output("runuser", "-u", "postgres", "--", *argv, timeout=JOB_SECONDS, **keywords)


@contextlib.contextmanager
def _served(programs, data):
    """A server that can be reached by a socket alone; the socket's directory."""
    sockets = run.short(data)
    shutil.chown(sockets, "postgres")
    with subprocess.Popen(["runuser", "-u", "postgres", "--", os.path.join(programs, "postgres"),
                           "-D", data, "-k", sockets, "-c", "listen_addresses="],
                          stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL, env=tools.environment()) as process:
        try:
            while tools.run(os.path.join(programs, "pg_isready"), "-q", "-h", sockets,
                            status=None).returncode != 0:
                if process.poll() is not None:
                    raise CannotServe("PostgreSQL does not start")
                time.sleep(0.02)
            yield sockets
        finally:
            _as_postgres(os.path.join(programs, "pg_ctl"), "stop", "-w", "-m", "fast", "-D", data)


def commits(context, line, workload):
    """Transactions of pgbench in a second, each made stable, with some clients."""
    programs = _postgres()
    for place in (run.directory, context.places.mounts):
        os.chmod(place, 0o711)
    with context.fresh(line, workload.where, max(context.size, 1 << 29)) as disk, \
            device(context, line, disk) as name:
        tools.run("mkfs.ext4", "-q", name)
        at = context.places.mount_point()
        os.chmod(os.path.dirname(at), 0o711)
        with _mounted(name, at, True):
            os.chmod(at, 0o777)
            data = os.path.join(at, "data")
            _as_postgres(os.path.join(programs, "initdb"), "-D", data, "-A", "trust", cwd="/")
            with _served(programs, data) as sockets:
                bench = [os.path.join(programs, "pgbench"), "-h", sockets]
                _as_postgres(*bench, "-q", "-i", "-s", "5", "postgres", cwd="/")
                said = _as_postgres(*bench, "-n", "-c", str(CLIENTS), "-T",
                                    str(max(1, round(context.seconds))), "postgres", cwd="/")
    return next(float(text.split("=")[1].split()[0]) for text in said.splitlines()
                if text.startswith("tps"))


# --- the rows -----------------------------------------------------------------------------------


def _job(name, title, lines, function, disk=None, goals=GOALS, unit="s", where="memory"):
    return Workload("job-" + name, title, unit, lines, goals, function, disk, where,
                    less_is_better=unit == "s")


def _copy(kind, text):
    without = {"zstd": ("qcowmount",), "chain5": ("qcowmount",),
               "luks": ("qcowmount", "nbdfuse", "guestmount", "qemu-img")}.get(kind, ())
    lines = tuple(line for line in (*READERS, CONVERTED) if line.label not in without)
    return _job("copy-" + kind, "copy all files out, " + text, lines, copy_out, "files-" + kind)


def all_jobs():
    return (
        _job("list", "from an image to the list of its files", (*READERS, CONVERTED), list_files,
             "files-plain"),
        _copy("plain", "plain"), _copy("zlib", "zlib"), _copy("zstd", "zstd"),
        _copy("chain5", "chain of 5"), _copy("luks", "encrypted"),
        _job("fill", "make, format, copy files in, on disk",
             tuple(line for line in WRITERS if line.kind != "guestmount"), make_and_fill,
             where="disk"),
        *(_job("sha256-" + kind, "sha256sum of the disk, " + kind,
               (*(line for line in READERS if line.kind != "guestmount"),
                Line("qcow2ctl hash", "qcow2fs")), digest, "files-" + kind)
          for kind in ("plain", "zlib")),
        _job("commits", "pgbench, %d clients, on disk" % CLIENTS,
             tuple(line for line in WRITERS if line.kind != "guestmount"), commits, unit="tps",
             where="disk"),
        _job("backup", "incremental backup, %d %% changed" % backups.PERCENT, backups.LINES,
             backups.incremental, "plain"),
        _job("grow", "make a disk, its partition and file system larger",
             tuple(line for line in WRITERS if line.kind != "guestmount"), grow),
    )
