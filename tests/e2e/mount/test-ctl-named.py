#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A command is for the file that it names: the one that a daemon has open, whatever that is called by now, and no
other that has its name."""

import contextlib
import os
import shutil
import stat
import subprocess

from lib import bad, ctl, files, image, mount, private, run, tap, tools
from lib.files import qcow2ctl
from lib.image import MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.root, tools.QEMU])

NEW_FIELDS = (b"image-major", b"image-minor", b"image-inode")


def snapshots(path):
    return [line.split()[1] for line in tools.output("qemu-img", "snapshot", "-U", "-l", path).splitlines()[2:]]


def bitmaps(path):
    found = image.info(path)["format-specific"]["data"].get("bitmaps", [])
    return [bitmap["name"] for bitmap in found]


def with_snapshot(directory, name="a.qcow2"):
    path = image.create(os.path.join(directory, name), 16 * MiB)
    tools.run("qemu-img", "snapshot", "-c", "s", path)
    return path


@contextlib.contextmanager
def mounted(path, *options):
    with mount.mount(path, *options, directory=True, foreground=False, writable=True) as found:
        yield found


def put_another(path):
    """The file gets another name, and a copy of it has its own; that name."""
    old = path + ".old"
    shutil.copyfile(path, path + ".new")
    os.rename(path, old)
    os.rename(path + ".new", path)
    return old


def forget_image(pid):
    """The record of a daemon that is older than this qcow2ctl."""
    with open("/run/qcow2fs/%d" % pid, "r+b") as file:
        pairs = [pair for pair in file.read().split(b"\0") if pair and pair.split(b"=")[0] not in NEW_FIELDS]
        file.seek(0)
        file.truncate()
        file.write(b"\0".join(pairs) + b"\0")


@suite.test("a file that has the name of one that is mounted is changed itself, and the mounted one is not")
def _(directory):
    path = with_snapshot(directory)
    with mounted(path) as at:
        old = put_another(path)
        qcow2ctl("snapshot", "-d", "s", path)
        check_equal((snapshots(old), snapshots(path)), (["s"], []), "the snapshots of both, one removed,")
        qcow2ctl("snapshot", "-c", "x", path)
        check_equal((snapshots(old), snapshots(path)), (["s"], ["x"]), "the snapshots of both, one made,")
        check_equal(qcow2ctl("snapshot", "-l", path).stdout.split().count("x"), 1, "the list of the new one")
        qcow2ctl("bitmap", "--add", path, "b")
        check_equal(bitmaps(path), ["b"], "the bitmaps of the new one")
        ctl.refused("umount", path, words=["no running qcow2fs"])
        ctl.refused("detach", path, words=["no running qcow2fs"])
        ctl.refused("backup-point", "--bitmap=c", path, words=["is not mounted for writing"])
        check(mount.is_mounted(at.path), "it was unmounted")
    check_equal(bitmaps(old), [], "the bitmaps of the old one")


@suite.test("an image is found by the name that it has now, and by its mount point, and listed from no other file")
def _(directory):
    path = with_snapshot(directory)
    with mounted(path) as at:
        old = put_another(path)
        qcow2ctl("snapshot", "-d", "s", old)
        check_equal((snapshots(old), snapshots(path)), ([], ["s"]), "the snapshots of both")
        qcow2ctl("snapshot", "-c", "at", at.path)
        qcow2ctl("bitmap", "--add", old, "b")
        check_equal(qcow2ctl("snapshot", "-l", old).stdout.split().count("at"), 1, "the list")
        ctl.refused("snapshot", "-l", at.path, words=[path, "is not the image any more"])
        qcow2ctl("umount", old)
        check(not mount.is_mounted(at.path), "it is still mounted")
    check_equal((snapshots(old), bitmaps(old), snapshots(path)), (["at"], ["b"], ["s"]), "both, afterwards,")


@suite.test("an image that was removed is found by its name as by an absolute one, from any directory")
def _(directory):
    for name in ("a.qcow2", "./a.qcow2", "../%s/a.qcow2" % os.path.basename(directory)):
        path = with_snapshot(directory)
        with mounted(path) as at:
            os.unlink(path)
            qcow2ctl("snapshot", "-c", "x", name, cwd=directory)
            qcow2ctl("umount", name, cwd=directory)
            check(not mount.is_mounted(at.path), "it is still mounted")


@suite.test("of two that were mounted under one name each is found by the name that it has now")
def _(directory):
    path = with_snapshot(directory)
    with mounted(path) as first:
        old = put_another(path)
        with mounted(path) as second:
            qcow2ctl("snapshot", "-c", "x", path)
            qcow2ctl("snapshot", "-c", "y", old)
            check_equal((snapshots(path), snapshots(old)), (["s", "x"], ["s", "y"]), "the snapshots of both")
            qcow2ctl("umount", path)
            check_equal((mount.is_mounted(first.path), mount.is_mounted(second.path)), (True, False), "what is mounted")


@suite.test("the name of an image in other mounts is not that of the file here")
def _(directory):
    path, other = with_snapshot(directory), with_snapshot(directory, "b.qcow2")
    at = os.path.join(directory, "at")
    os.mkdir(at)
    script = 'mount --bind "$1" "$2"; "$3" "$2" "$4"; echo ready; read end || umount "$4"'
    with subprocess.Popen([*private.prefix(), "sh", "-euc", script, "sh", path, other, run.program(), at],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          env=tools.environment(**files.environment())) as process:
        try:
            check_equal(process.stdout.readline(), b"ready\n", "what it said")
            qcow2ctl("snapshot", "-d", "s", other)
            check_equal((snapshots(path), snapshots(other)), (["s"], []), "the snapshots of both")
            qcow2ctl("snapshot", "-c", "x", path)
            check_equal((snapshots(path), snapshots(other)), (["s", "x"], []), "the snapshots of both, one made,")
        finally:
            process.stdin.close()
            process.wait(tools.TIMEOUT)
    bad.wait_for(lambda: not files.listed(), "the end of the daemon")


@suite.test("of several that write to one image none is taken, whichever was first")
def _(directory):
    path = with_snapshot(directory)
    with mounted(path, "locking=off"), mounted(path, "locking=off"):
        for arguments in (("snapshot", "-c", "x", path), ("bitmap", "--add", path, "b"), ("umount", path),
                          ("backup-point", "--bitmap=c", path)):
            ctl.refused(*arguments, words=[path, "is mounted 2 times"])
        check_equal(snapshots(path), ["s"], "the snapshots")


@suite.test("a block device is the image by whatever node it is named", needs=[tools.loop, tools.tool("mknod")])
def _(directory):
    path = with_snapshot(directory)
    os.truncate(path, 4 * MiB)
    with mount.loop_device(path, writable=True) as device:
        number = os.stat(device).st_rdev
        node = os.path.join("/dev", "qcow2fs-test-%d" % os.getpid())
        os.mknod(node, 0o600 | stat.S_IFBLK, number)
        try:
            with mounted(device):
                qcow2ctl("snapshot", "-c", "x", node)
                check_equal(qcow2ctl("snapshot", "-l", device).stdout.split().count("x"), 1, "the list")
        finally:
            os.unlink(node)


@suite.test("an older daemon's record, which does not say which file it is, means the one that it has open")
def _(directory):
    path = with_snapshot(directory)
    with mounted(path):
        forget_image(files.listed(path)[0]["pid"])
        qcow2ctl("snapshot", "-c", "x", path)
        check_equal(snapshots(path), ["s", "x"], "the snapshots")
        put_another(path)
        qcow2ctl("snapshot", "-d", "s", path)
        check_equal(snapshots(path), ["x"], "the snapshots of the new one")


def place(directory):
    at = os.path.join(directory, "at")
    os.makedirs(at, exist_ok=True)
    return at


def start(path, at, *options):
    tools.run(run.program(), *options, path, at, env=files.environment())


def check_second_is_meant(first, second, at):
    """Both were mounted at `at`, and the second is what is seen there."""
    qcow2ctl("snapshot", "-c", "x", at)
    check_equal((snapshots(first), snapshots(second)), (["s"], ["s", "x"]), "the snapshots of both")
    qcow2ctl("bitmap", "--add", at, "b")
    check_equal(qcow2ctl("snapshot", "-l", at).stdout.split().count("x"), 1, "the list")


@suite.test("a place is that of what is mounted there, and not of what was, and is open still")
def _(directory):
    at = place(directory)
    for number in range(3):  # which is met first depends on their numbers
        first, second = (with_snapshot(directory, "%s%d.qcow2" % (name, number)) for name in "ab")
        start(first, at)
        with open(os.path.join(at, "disk.raw"), "rb"):
            qcow2ctl("umount", "-l", at)
            check_equal(files.listed(first)[0]["mount-point"], "", "the place in the list")
            ctl.refused("umount", at, words=["no running qcow2fs"])
            check("raw disk at    " + at not in qcow2ctl("list").stdout, "it is listed there")
            start(second, at)
            check_second_is_meant(first, second, at)
            check_equal(files.listed(second)[0]["mount-point"], at, "the place of the next one in the list")
            qcow2ctl("umount", at)
            check(not mount.is_mounted(at), "it is still mounted")
            check_equal(len(files.listed(first)), 1, "the number of those that are open still")
        files.check_nothing_left(first)


@suite.test("of two at one place the one that is seen is meant, and what is covered is told")
def _(directory):
    first, second = with_snapshot(directory), with_snapshot(directory, "b.qcow2")
    at = place(directory)
    start(first, at)
    try:
        start(second, at, "-o", "nonempty")
        check_second_is_meant(first, second, at)
        qcow2ctl("umount", at)
        check_equal((len(files.listed(first)), files.listed(second)), (1, []), "those that are left")
        tools.run("mount", "-t", "tmpfs", "none", at)
        ctl.refused("umount", at, words=["something else is mounted there by now"])
        tools.run("umount", at)
        qcow2ctl("umount", at)
        files.check_nothing_left(first)
    finally:
        while mount.is_mounted(at) and run.unmount(at, lazy=True):
            pass


if __name__ == "__main__":
    bad.private_mounts()
    suite.main()
