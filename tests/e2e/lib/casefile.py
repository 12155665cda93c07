# SPDX-License-Identifier: MIT
"""The case of docs/forensics.md: its evidence, and how its sessions are run as they stand there.

    case = casefile.make(directory)           # directory/evidence, and what was on the disk
    said = casefile.run_session(directory, "The session", case)
"""

import os
import random
import re
import shutil
import struct
import zlib

from . import bad, ctl, evidence, image, mount, qcow2, run, tools
from .image import KiB, MiB
from .tap import check

PAGE = os.path.join(os.environ.get("QCOW2FS_SRCDIR", run.SOURCE), "docs", "forensics.md")
NEEDS = [tools.fuse, tools.QEMU, tools.tool("sfdisk", "mkfs.vfat", "mcopy", "mdel")]
SIZE, START = 48 * MiB, MiB  # of the disk, and where its partition begins


def session(title):
    """The commands of a session on the page."""
    with open(PAGE, encoding="utf-8") as file:
        found = re.search(r"\*\*%s\.\*\*.*?\n\n((?:    [^\n]*\n|\n(?=    ))+)" % re.escape(title),
                          file.read(), re.DOTALL)
    check(found is not None, "the page shows no session %s", title)
    return re.sub("^    ", "", found.group(1), flags=re.MULTILINE)


def png(width=120, height=90):
    """A picture, as a program that carves files knows one."""
    def chunk(kind, data):
        return (struct.pack(">I", len(data)) + kind + data
                + struct.pack(">I", zlib.crc32(kind + data)))
    chance = random.Random(9)
    rows = b"".join(b"\0" + chance.randbytes(3 * width) for _ in range(height))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0,
                                                               0, 0))
            + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


class Case:
    """What the evidence hides: bytes, by the name of the file on the disk."""

    def __init__(self, directory):
        self.place = os.path.join(directory, "evidence")
        self.files = {"plan.txt": b"PLAN-7001 " * 700,
                      "secret.txt": b"SECRET-4711 " * 6000,
                      "photo.png": png(),
                      "letter.txt": b"Dear reader. " * 1000}
        self.disk = None  # as it is in the end


def _nested(directory):
    path = image.create(os.path.join(directory, "vm.qcow2"), 4 * MiB)
    image.io(path, image.write(MiB, 64 * KiB, 2))
    source = os.path.join(directory, "nested")
    with open(source, "wb") as file:
        file.write((b"NESTED-815 " * 100)[:1024])
    tools.run("qemu-io", "-f", "qcow2", "-c", "write -q -s %s 0 1024" % source, path)
    with open(path, "rb") as file:
        return file.read()


def _disk(directory, files):
    """A raw disk with a partition table, and a FAT file system with the files."""
    raw, volume = (os.path.join(directory, name) for name in ("disk.raw", "volume"))
    with open(volume, "wb") as file:
        file.truncate(SIZE - START)
    tools.run("mkfs.vfat", "-F", "16", "-n", "CASE", volume)
    for name, data in files.items():
        source = os.path.join(directory, name)
        with open(source, "wb") as file:
            file.write(data)
        tools.run("mcopy", "-i", volume, source, "::" + name)
        os.unlink(source)
    with open(raw, "wb") as file, open(volume, "rb") as source:
        file.truncate(SIZE)
        file.seek(START)
        shutil.copyfileobj(source, file)
    tools.run("sfdisk", "-q", "--no-tell-kernel", "--wipe=never", raw,
              input="label: dos\nstart=1MiB,size=47MiB,type=6\n")
    return raw


def _live(path, data):
    """What the guest does after its snapshot: two files overwritten, and all three deleted."""
    with mount.mount(path, writable=True) as mounted:
        volume = "%s@@%d" % (mounted.disk, START)
        with open(mounted.disk, "r+b", buffering=0) as disk:
            whole = disk.read(SIZE)
            for name in ("secret.txt", "photo.png"):
                at = whole.index(data[name])
                os.pwrite(disk.fileno(), b"\x55" * len(data[name]), at)
        tools.run("mdel", "-i", volume, "::plan.txt", "::secret.txt", "::photo.png")


def make(directory):
    case = Case(directory)
    os.mkdir(case.place)
    work = os.path.join(directory, "work")
    os.mkdir(work)
    raw = _disk(work, dict(case.files, **{"vm.qcow2": _nested(work)}))
    path = os.path.join(case.place, "image.qcow2")
    image.convert(raw, path, cluster_size="4k")
    shutil.rmtree(work)
    tools.run("qemu-img", "snapshot", "-c", "before the raid", path)
    _live(path, case.files)
    tools.run("qemu-img", "snapshot", "--image-opts", "-d", "before the raid",
              "driver=qcow2,pass-discard-snapshot=off,file.filename=" + path)
    case.disk = bad.contents(path)
    damaged = shutil.copyfile(path, os.path.join(case.place, "damaged.qcow2"))
    with qcow2.Qcow2(damaged) as opened:
        opened.write(0, random.Random(3).randbytes(512))
    return case


def run_session(directory, title, case):
    """What it prints; fails where a command does, or where the evidence changes."""
    programs = os.path.join(directory, "bin")
    os.mkdir(programs)
    os.symlink(run.program(), os.path.join(programs, "qcow2fs"))
    os.symlink(ctl.program(), os.path.join(programs, "qcow2ctl"))
    try:
        with evidence.untouched(case.place):
            return tools.run("sh", "-eu", "-c", session(title), cwd=directory, timeout=300,
                             env={"PATH": programs + ":" + tools.PATH,
                                  run.MARK: run.directory}).stdout
    finally:
        for name in ("fused", "inner", "case"):
            at = os.path.join(directory, name)
            if mount.is_mounted(at):
                run.unmount(at, lazy=True)
            if name != "fused":
                bad.wait_gone(at)
