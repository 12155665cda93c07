# SPDX-License-Identifier: MIT
"""File systems that stand still, as FIFREEZE makes them, on the disk of an image whose backup points
are of the bitmap "nightly"."""

import contextlib
import errno
import fcntl
import json
import os

from . import ctl, files, mount, run, tools
from .tap import check, check_equal

FIFREEZE, FITHAW = 0xC0045877, 0xC0045878


def is_frozen(at):
    """Whether it is: who freezes it once more is told so."""
    handle = os.open(at, os.O_RDONLY)
    try:
        fcntl.ioctl(handle, FIFREEZE, 0)
        fcntl.ioctl(handle, FITHAW, 0)
        return False
    except OSError as error:
        check_equal(error.errno, errno.EBUSY, "the error")
        return True
    finally:
        os.close(handle)


def thaw(at):
    """Whatever a test has come to, nothing of the machine stays frozen."""
    with contextlib.suppress(OSError):
        handle = os.open(at, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, FITHAW, 0)
        finally:
            os.close(handle)


# --- a file system on a disk with a bitmap ----------------------------------------------------


def point(path, *arguments, **keywords):
    return ctl.ctl("backup-point", "-q", "--bitmap=nightly", *arguments, path, **keywords)


def names(mounted):
    """What there is of bitmaps and of snapshots."""
    return [sorted(os.listdir(os.path.join(mounted.path, place))) if place == "bitmaps" or
            os.path.isdir(os.path.join(mounted.path, place)) else []
            for place in ("bitmaps", "snapshots")]


def mounted_to_be_written(path, **keywords):
    return mount.mount(path, writable=True, **keywords)


@contextlib.contextmanager
def standing(directory, kind="ext4", how=mounted_to_be_written):
    """(the mount of an image with bitmap "nightly", where the file system on its disk is mounted)."""
    path, at = files.whole(directory, kind), os.path.join(directory, "at")
    tools.run("qemu-img", "bitmap", "--add", "-g", "4k", path, "nightly")
    os.mkdir(at)
    with how(path, directory=True) as mounted:
        device = tools.output("losetup", "--find", "--show", mounted.disk).strip()
        try:
            tools.run("mount", "-t", kind, device, at)
            yield mounted, at
        finally:
            thaw(at)
            if mount.is_mounted(at):
                tools.run("umount", at, status=None)
                run.unmount(at, lazy=True)
            tools.run("losetup", "-d", device, status=None)


def put(at, name, text, sync=False):
    with open(os.path.join(at, name), "w", encoding="ascii") as file:
        file.write(text)
        if sync:
            file.flush()
            os.fsync(file.fileno())


def contents(path):
    with open(path, "rb") as file:
        return file.read()


def snapshot_of(mounted):
    return contents(os.path.join(mounted.path, "snapshots", "backup-nightly", "disk.raw"))


def marked(mounted, name):
    with open(os.path.join(mounted.path, "bitmaps", name, "extents.json"), encoding="ascii") as file:
        return [[one["start"], one["length"]] for one in json.load(file)["extents"]]


def check_clean_system(raw, directory, name, text):
    """As if it had been unmounted: no journal to replay; and it has the file."""
    copy = os.path.join(directory, "copy.raw")
    with open(copy, "wb") as file:
        file.write(raw)
    head = tools.run("dumpe2fs", "-h", copy).stdout
    check("needs_recovery" not in head, "it has a journal to replay")
    tools.run("e2fsck", "-fn", copy)
    check_equal(tools.run("debugfs", "-R", "cat " + name, copy).stdout, text, "the file")
