#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A command that would wait for what somebody else does refuses that, and names him, or says what it waits for."""

import contextlib
import os
import signal
import subprocess

from lib import bad, ctl, files, image, mount, private, run, tap, tools
from lib.files import qcow2ctl
from lib.image import MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.root, tools.QEMU])


def place(directory):
    at = os.path.join(directory, "at")
    os.makedirs(at, exist_ok=True)
    return at


@contextlib.contextmanager
def mounted(directory):
    """(image, where)."""
    path, at = image.create(os.path.join(directory, "image.qcow2"), 16 * MiB), place(directory)
    tools.run(run.program(), path, at, env=files.environment())
    try:
        yield path, at
    finally:
        while mount.is_mounted(at) and run.unmount(at, lazy=True):
            pass
        files.check_nothing_left(path)


def says(directory, arguments, words, goes_on):
    """Runs qcow2ctl until it has said the words; it must wait then, until goes_on() has been called."""
    said = os.path.join(directory, "said")
    with open(said, "wb") as errors:
        process = subprocess.Popen([ctl.program(), *arguments], stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=errors,
                                   env=tools.environment(**files.environment()))
    try:
        def text():
            with open(said, encoding="utf-8") as file:
                return file.read()
        bad.wait_for(lambda: all(word in text() for word in words) or process.poll() is not None,
                     "%s in what it says" % (words,), bad.SOON)
        check_equal(process.poll(), None, "the status of %s, which waits" % (arguments,))
        goes_on()
        check_equal(process.wait(tools.TIMEOUT), 0, "its status, having said %s" % text())
        bad.check_sentence(text(), *words, program="qcow2ctl")
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def stopped(pid):
    bad.stop(pid)
    try:
        yield lambda: os.kill(pid, signal.SIGCONT)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@suite.test("a device that somebody has open is not detached, and he is named", needs=[tools.loop])
def _(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), 16 * MiB)
    with files.attached(path) as device:
        with open(device, "rb") as opened, subprocess.Popen(["sleep", "1000"], stdin=opened) as process:
            opened.close()
            try:
                for arguments in (("detach", device), ("umount", device), ("detach", path)):
                    ctl.refused(*arguments, words=[device, "is in use by sleep (%d)" % process.pid], seconds=bad.SOON)
                check_equal(files.listed(path)[0]["loop-devices"], [device], "the devices")
            finally:
                process.kill()
        qcow2ctl("detach", device)
        files.check_nothing_left(path)


@suite.test("who has the device of what is mounted open is named while that is waited for",
            needs=[tools.loop, tools.tool("debugfs"), tools.file_system("ext4")])
def _(directory):
    path, at = files.whole(directory), place(directory)
    with files.mounted(path, at):
        with open(files.listed(path)[0]["loop-devices"][0], "rb") as opened:
            says(directory, ["umount", at], [path, "is still in use by", "(%d)" % os.getpid()], opened.close)
    files.check_nothing_left(path)


@suite.test("a device that is mounted elsewhere is not detached",
            needs=[tools.loop, tools.tool("debugfs"), tools.file_system("ext4")])
def _(directory):
    path, at = files.whole(directory), place(directory)
    script = 'mount "$1" "$2"; echo mounted; read end || umount "$2"'
    with files.attached(path) as device:
        with subprocess.Popen([*private.prefix(), "sh", "-euc", script, "sh", device, at],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            try:
                check_equal(process.stdout.readline(), b"mounted\n", "what it said")
                ctl.refused("detach", device, words=[device, "is in use"], seconds=bad.SOON)
            finally:
                process.stdin.close()
                process.wait(tools.TIMEOUT)
        qcow2ctl("detach", device)


@suite.test("who has a file open of what was unmounted lazily is named while that is waited for")
def _(directory):
    with mounted(directory) as (path, at):
        with open(os.path.join(at, "disk.raw"), "rb") as opened:
            qcow2ctl("umount", "-l", at)
            says(directory, ["umount", path], [path, "is still in use by", "(%d)" % os.getpid()], opened.close)


@suite.test("what is mounted in another mount namespace is not unmounted, and listed as that")
def _(directory):
    path, at = image.create(os.path.join(directory, "image.qcow2"), 16 * MiB), place(directory)
    script = '"$1" "$2" "$3"; echo ready; read end || umount "$3" || :'
    with subprocess.Popen([*private.prefix(), "sh", "-euc", script, "sh", run.program(), path, at],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          env=tools.environment(**files.environment())) as process:
        try:
            check_equal(process.stdout.readline(), b"ready\n", "what it said")
            for arguments in (("umount", at), ("umount", path), ("umount", "-l", path)):
                ctl.refused(*arguments, words=["is mounted in another mount namespace, at " + at], seconds=bad.SOON)
            check(at + ", in another mount namespace" in qcow2ctl("list").stdout, "the list")
            check_equal(files.listed(path)[0]["mount-point"], "", "the mount point here")
            # Who asks for that ends the daemon all the same, which is told to (SIGTERM), and saves all.
            done = qcow2ctl("umount", "--kill-after", "1", path)
            check("has not ended in 1 s: it is asked to" in done.stderr, "it said: %s", done.stderr)
        finally:
            process.stdin.close()
            process.wait(tools.TIMEOUT)
    files.check_nothing_left(path)


@suite.test("a daemon that is stopped is named by who asks it, and waited for")
def _(directory):
    with mounted(directory) as (path, at):
        pid = files.listed(path)[0]["pid"]
        for arguments in (["snapshot", "-c", "x"], ["bitmap", "--add"]):
            with stopped(pid) as go_on:
                says(directory, [*arguments, path, *(["b"] if "bitmap" in arguments else [])],
                     [path, "process %d" % pid, "does not answer yet"], go_on)
        with stopped(pid) as go_on:
            says(directory, ["umount", path], [path, "process %d" % pid, "is stopped"], go_on)
        check(not mount.is_mounted(at), "it is still mounted")


if __name__ == "__main__":
    bad.private_mounts()
    suite.main()
