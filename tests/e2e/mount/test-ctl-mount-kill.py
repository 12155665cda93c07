#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""qcow2ctl mount, killed at each of its system calls: there is a whole mount afterwards, or nothing."""

import os
import subprocess

from lib import bad, compare, ctl, files, mount, run, tap, tools
from lib.image import MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.root, tools.loop, tools.QEMU,
                         tools.tool("strace", "debugfs"), tools.file_system("ext4")])


def killed_at(number, *arguments, program=None, user="root"):
    """The status of qcow2ctl, killed as it makes its `number`th system call; 0: it made fewer."""
    done = subprocess.run(["strace", "-u", user, "-o", "/dev/null", "-e",
                           "inject=all:signal=KILL:when=%d" % number, program or ctl.program(),
                           *arguments],
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=tools.TIMEOUT,
                          check=False, env=tools.environment(**files.environment()))
    return done.returncode


def numbers(first=40, step=5):
    """Each of the calls with QCOW2FS_LONG; otherwise all of the first, then some."""
    number = 1
    while True:
        yield number
        number += 1 if os.environ.get("QCOW2FS_LONG") or number <= first else step


def check_whole_or_nothing(path, at, prefix=()):
    """What a plain umount ends, or nothing at all; a child may still be on its way there."""
    def settled():
        return mount.is_mounted(at) or not files.listed(path)
    bad.wait_for(settled, "a mount, or no daemon")
    if mount.is_mounted(at):
        check_equal(tools.run(*prefix, "cat", os.path.join(at, "here")).stdout, "from the image\n",
                    "a file")
        tools.run("umount", at)
    files.check_nothing_left(path)


@suite.test("mount that is killed at any system call leaves a whole mount or nothing")
def _(directory):
    path = files.whole(directory, size=16 * MiB)
    at = os.path.join(directory, "at")
    os.mkdir(at)
    tried = 0
    for number in numbers():
        status = killed_at(number, "mount", path, at)
        check_whole_or_nothing(path, at)
        if status == 0:
            break
        tried += 1
    check(tried > 40, "only %d calls were made", tried)
    files.check_in_order(path)


@suite.test("a user's mount that is killed at any system call leaves a whole mount or nothing",
            needs=[tools.tool("fuse2fs", "fusermount3")])
def _(directory):
    del directory
    with files.place_of_user() as (home, program):
        path, at = files.whole(home, size=16 * MiB), os.path.join(home, "at")
        os.mkdir(at)
        for name in (home, path, at):
            os.chown(name, 65534, 65534)
        for number in numbers(first=0, step=3):
            status = killed_at(number, "mount", path, at, program=program, user="nobody")
            check_whole_or_nothing(path, at, bad.user_prefix(bad.NOBODY))
            if status == 0:
                break
        check(number > 40, "only %d calls were made", number)
        files.check_in_order(path)


@suite.test("each process that is killed while the files are mounted leaves no loop device")
def _(directory):
    path = files.whole(directory, size=16 * MiB)
    at = os.path.join(directory, "at")
    os.mkdir(at)
    files.qcow2ctl("mount", path, at)
    found = files.listed(path)[0]
    device, = found["loop-devices"]
    behind = mount.behind_loop(device)
    os.kill(found["pid"], 9)
    bad.wait_for(lambda: not files.listed(path), "the list is empty")
    check(run.unmount(at) or run.unmount(at, lazy=True), "it cannot be unmounted")
    bad.wait_for(lambda: mount.behind_loop(device) != behind, "the loop device is free")
    tools.run("qemu-img", "check", "-r", "all", path, status=None)
    files.check_in_order(path)


@suite.test("umount that is killed at any system call leaves the mount as it was, or nothing")
def _(directory):
    path = files.whole(directory, size=16 * MiB)
    at = os.path.join(directory, "at")
    os.mkdir(at)
    for number in numbers(first=0, step=11):
        files.qcow2ctl("mount", "-r", path, at)
        status = killed_at(number, "umount", at)
        check_whole_or_nothing(path, at)
        if status == 0:
            break


@suite.test("attach that is killed at any system call leaves a device that is listed, or nothing")
def _(directory):
    path = files.whole(directory, size=16 * MiB)
    before = compare.sha256(path)
    for number in numbers():
        status = killed_at(number, "attach", "-r", path)
        bad.wait_for(lambda: not files.listed(path) or files.listed(path)[0]["loop-devices"],
                     "a device, or no daemon")
        if files.listed(path):
            files.qcow2ctl("detach", path)
        files.check_nothing_left(path)
        if status == 0:
            break
    check_equal(compare.sha256(path), before, "the image")


if __name__ == "__main__":
    suite.main()
