#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A qcow2fs that is ended by a signal below a loop device: what stands on the disk is saved first."""

import contextlib
import os
import random
import shutil
import signal
import subprocess

from lib import bad, compare, ctl, files, mount, private, run, tap, tools
from lib.files import qcow2ctl
from lib.image import MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.root, tools.loop, tools.QEMU, tools.tool("debugfs"),
                         tools.file_system("ext4")])

CONTENT = random.Random(1).randbytes(5 * MiB)


def place(directory):
    at = os.path.join(directory, "at")
    os.makedirs(at, exist_ok=True)
    return at


def put(*parts):
    """Written, and not synced."""
    with open(os.path.join(*parts), "wb") as file:
        file.write(CONTENT)


def end(path, number=signal.SIGTERM):
    """Ends the image's daemon."""
    os.kill(files.listed(path)[0]["pid"], number)
    files.check_nothing_left(path)


@contextlib.contextmanager
def detached_at_last(at):
    try:
        yield
    finally:
        while mount.is_mounted(at) and run.unmount(at, lazy=True):
            pass


def check_holds(path, at, name="new", *arguments):
    with files.mounted(path, at, *arguments), open(os.path.join(at, name), "rb") as file:
        compare.check_bytes(file.read(), CONTENT, 0)
    files.check_nothing_left(path)
    files.check_in_order(path)


@suite.test("SIGTERM saves what the file system on the loop device holds")
def _(directory):
    path, at = files.whole(directory), place(directory)
    for number in (signal.SIGTERM, signal.SIGINT):
        name = "new-%d" % number
        with detached_at_last(at):
            qcow2ctl("mount", path, at)
            put(at, name)
            end(path, number)
        check_holds(path, at, name)


@suite.test("SIGTERM saves it of a file system that is covered by another mount")
def _(directory):
    path, at = files.whole(directory), place(directory)
    with detached_at_last(at):
        qcow2ctl("mount", path, at)
        put(at, "new")
        tools.run("mount", "-t", "tmpfs", "none", at)
        end(path)
    check_holds(path, at)


@suite.test("SIGTERM saves what is mounted from a partition, and what was written to another")
def _(directory):
    path, at = files.partitioned(directory), place(directory)
    with files.attached(path) as device, detached_at_last(at):
        tools.run("mount", device + "p1", at)
        put(at, "new")
        with open(device + "p2", "r+b") as file:
            file.seek(20 * MiB)
            file.write(CONTENT)
        end(path)
        run.unmount(at, lazy=True)
        tools.run("losetup", "-d", device, status=None)
    check_holds(path, at, "new", "-p", "1")
    with files.attached(path, "-r") as device, open(device + "p2", "rb") as file:
        file.seek(20 * MiB)
        compare.check_bytes(file.read(len(CONTENT)), CONTENT, 0)


@suite.test("SIGTERM saves what is mounted in another mount namespace alone")
def _(directory):
    path, at = files.whole(directory), place(directory)
    script = 'mount "$1" "$2"; cat >"$2/new"; echo written; exec sleep 1000'
    with files.attached(path) as device:
        with subprocess.Popen([*private.prefix(), "sh", "-euc", script, "sh", device, at],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              env=tools.environment(**files.environment())) as process:
            try:
                process.stdin.write(CONTENT)
                process.stdin.close()
                check_equal(process.stdout.readline(), b"written\n", "what it said")
                check(not mount.is_mounted(at), "it is mounted here, too")
                end(path)
            finally:
                process.kill()
        tools.run("losetup", "-d", device, status=None)
    check_holds(path, at)


@suite.test("what a file system holds and the host has no room for is told: status 1")
def _(directory):
    at, host, raw = (os.path.join(directory, name) for name in ("at", "host", "raw"))
    for name in (at, host, raw):
        os.mkdir(name)
    whole = files.whole(directory)
    tools.run("mount", "-t", "tmpfs", "-o", "size=%d" % (os.path.getsize(whole) + 2 * MiB), "none", host)
    try:
        path = shutil.copy(whole, host)
        with subprocess.Popen([run.program(), "-f", path, raw], stderr=subprocess.PIPE, text=True,
                              env=tools.environment(**files.environment())) as process:
            try:
                bad.wait_for(lambda: mount.is_mounted(raw), "it is mounted")
                tools.run("mount", "-o", "loop", os.path.join(raw, "disk.raw"), at)
                put(at, "new")
                process.send_signal(signal.SIGTERM)
                said = process.communicate(timeout=tools.TIMEOUT)[1]
            finally:
                process.kill()
                for name in (at, raw):
                    if mount.is_mounted(name):
                        run.unmount(name, lazy=True)
        check_equal(process.returncode, 1, "the exit status (it said %s)" % said)
        check("are not in the image" in said and path in said, "it said %s", said)
    finally:
        bad.wait_for(lambda: run.unmount(host), "the host's end")


@suite.test("where the daemon is gone, umount and mount say so, and what to do")
def _(directory):
    path, at = files.whole(directory), place(directory)
    helper = os.path.join(directory, "mount.qcow2")
    os.symlink(ctl.program(), helper)
    words = ("is gone", "umount " + at, "may be lost")
    for number in (signal.SIGTERM, signal.SIGKILL):
        with detached_at_last(at):
            qcow2ctl("mount", path, at)
            end(path, number)
            for command in (["umount", at], ["mount", path, at], ["mount", "--nonempty", path, at]):
                bad.check_sentence(qcow2ctl(*command, status=1).stderr, *words, program="qcow2ctl")
            done = tools.run(helper, path, at, status=32, env=files.environment())
            for word in words:
                check(word in done.stderr, "no %r in %r", word, done.stderr)
            files.check_nothing_left(path)
            check(run.unmount(at), "it cannot be unmounted")
            check("is gone" not in qcow2ctl("umount", at, status=1).stderr, "said of what is not there")
    with files.mounted(path, at):
        check(os.path.exists(os.path.join(at, "here")), "no file")


@suite.test("where the daemon of a device is gone, detach says so, and what to do")
def _(directory):
    path = files.whole(directory)
    device = qcow2ctl("attach", path).stdout.strip()
    try:
        end(path)
        for command in ("detach", "umount"):
            bad.check_sentence(qcow2ctl(command, device, status=1).stderr, "is gone", "losetup -d",
                               device, program="qcow2ctl")
    finally:
        tools.run("losetup", "-d", device, status=None)


if __name__ == "__main__":
    suite.main()
