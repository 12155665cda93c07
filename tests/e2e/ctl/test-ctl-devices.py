#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Block devices that something else has: qcow2ctl and qcow2fs write to none of them."""

import contextlib
import os

from lib import bad, ctl, image, mount, run, tap, tools
from lib.image import MiB
from lib.tap import check_equal

suite = tap.Suite(needs=[tools.fuse, tools.QEMU, tools.loop])


def contents(path):
    with open(path, "rb") as file:
        return file.read()


def source(directory):
    """(a raw file, an image of it)"""
    raw, path = os.path.join(directory, "raw"), os.path.join(directory, "source.qcow2")
    with open(raw, "wb") as file:
        file.write(os.urandom(2 * MiB))
    image.convert(raw, path)
    return raw, path


@contextlib.contextmanager
def in_use(directory):
    """A device with a file system that is mounted."""
    host, at = os.path.join(directory, "host"), os.path.join(directory, "mounted")
    with open(host, "wb") as file:
        file.truncate(40 * MiB)
    tools.run("mkfs.ext4", "-qF", host)
    os.mkdir(at)
    with mount.loop_device(host, writable=True) as device:
        tools.run("mount", device, at)
        try:
            yield device, at
        finally:
            tools.run("umount", at)
    tools.run("fsck.ext4", "-fn", host)


@suite.test("a device that is mounted is refused by whatever would write to it, and keeps what it has",
            needs=[tools.tool("mkfs.ext4")])
def _(directory):
    raw, path = source(directory)
    overlay = os.path.join(directory, "overlay.qcow2")
    with in_use(directory) as (device, at):
        with open(os.path.join(at, "kept"), "wb") as file:
            file.write(contents(raw))
        tools.run("sync", "-f", at)
        image.create(overlay, 40 * MiB, backing=device, backing_format="raw")
        tools.run("qemu-io", "-c", "write -P 7 0 64k", overlay)
        before = contents(overlay)
        for words in (("convert", "-O", "raw", path, device), ("convert", path, device),
                      ("convert", "-n", path, device), ("create", "--force", device, "10M"),
                      ("commit", overlay)):
            ctl.refused(*words, words=(device, "mounted", "lsblk"))
        check_equal(contents(overlay), before, "the overlay")
        # What only reads is not in anybody's way.
        ctl.ctl("convert", "-U", "-O", "raw", device, os.path.join(directory, "copy"), "-f", "raw")
        check_equal(contents(os.path.join(at, "kept")), contents(raw), "the file")


@suite.test("a device that is not in use is written; with a locked one the holder is named")
def _(directory):
    raw, path = source(directory)
    host = os.path.join(directory, "host")
    with open(host, "wb") as file:
        file.truncate(4 * MiB)
    with mount.loop_device(host, writable=True) as device:
        ctl.ctl("convert", path, device)
        tools.run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, device)
        with mount.mount(device, at=bad.mount_point(directory)):
            ctl.refused("resize", device, "3M", words=(device, "qcow2fs"))
        ctl.ctl("check", device)


@suite.test("a loop device on a file of what is copied is no target")
def _(directory):
    _raw, path = source(directory)
    before = contents(path)
    with mount.loop_device(path, writable=True) as device:
        for words in (("-O", "raw"), ()):
            ctl.refused("convert", *words, path, device, words=(device, "of what is copied"))
    check_equal(contents(path), before, "the image")


suite.main()
