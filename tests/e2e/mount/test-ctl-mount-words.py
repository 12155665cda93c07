#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What qcow2ctl mount and attach say: of what is mounted, and of what is not."""

import errno
import json
import os
import shutil
import subprocess

from lib import bad, ctl, files, mount, run, tap, tools
from lib.files import qcow2ctl
from lib.image import MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.root, tools.loop, tools.QEMU, tools.tool("debugfs"),
                         tools.file_system("ext4")])


def made(directory):
    path, at = files.whole(directory, size=16 * MiB), os.path.join(directory, "at")
    os.mkdir(at)
    return path, at


def refused(path, at, *arguments, words=(), status=1):
    said = ctl.refused(*arguments, words=words, status=status)
    check(not mount.is_mounted(at), "mounted")
    files.check_nothing_left(path)
    return said


@suite.test("a file system that is on no disk is not mounted in place of that of the image")
def _(directory):
    path, at = made(directory)
    for kind in ("tmpfs", "proc", "xfs,tmpfs"):
        refused(path, at, "mount", "-t", kind, path, at, words=[path, kind.split(",")[-1], "--fs-type"])
    with files.mounted(path, at, "-t", "ext4"):
        check_equal(os.path.exists(os.path.join(at, "here")), True, "a file of the image")


@suite.test("of what mount(8) says why comes first, and all is one sentence", needs=[tools.file_system("xfs")])
def _(directory):
    path, at = made(directory)
    said = refused(path, at, "mount", "-t", "xfs", path, at, words=[at, "wrong fs type"])
    check(said.index("wrong fs type") < said.find("dmesg") or "dmesg" not in said, "it said %s", said)


@suite.test("a list of what there is takes no directory")
def _(directory):
    path, at = made(directory)
    refused(path, at, "mount", "--list", path, at, words=["--list", at], status=64)


@suite.test("mount --json tells what is mounted, and how")
def _(directory):
    path, at = made(directory)
    parted = files.partitioned(directory)
    for arguments, partition, read_only in (([path], None, False), (["-r", "-t", "auto", path], None, True),
                                            (["-p", "1", parted], 1, False)):
        done = qcow2ctl("mount", "--json", *arguments, at)
        try:
            told = json.loads(done.stdout)
            check_equal(told, dict({"image": arguments[-1], "mount-point": at, "fstype": "ext4",
                                    "read-only": read_only}, **({"partition": partition} if partition else {})),
                        "what it tells")
        finally:
            qcow2ctl("umount", at)
        files.check_nothing_left(arguments[-1])


@suite.test("with --json a choice between file systems is asked for in JSON")
def _(directory):
    at = os.path.join(directory, "at")
    os.mkdir(at)
    parted = files.partitioned(directory)
    done = ctl.ctl("mount", "--json", parted, at, status=1)
    for line in done.stderr.splitlines():
        check("error" in json.loads(line), "it says %s", line)


@suite.test("errno is that of the failure, also where qcow2fs met it")
def _(directory):
    path, at = made(directory)
    missing = os.path.join(directory, "missing")
    for arguments, number in (([missing], errno.ENOENT), (["-o", "data-file=x", path], errno.EINVAL),
                              (["-o", "no-such-option", path], errno.EINVAL),
                              (["-o", "pid-file=" + os.path.join(missing, "pid"), path], errno.ENOENT)):
        for command in (["mount", "--json", *arguments, at], ["attach", "--json", *arguments]):
            done = ctl.ctl(*command, status=1)
            check_equal(len(done.stderr.splitlines()), 1, "lines: %s" % done.stderr)
            check_equal(json.loads(done.stderr)["errno"], number, "errno of %s" % done.stderr)
            files.check_nothing_left(path)
    done = ctl.ctl("mount", missing, at, status=1)
    bad.check_sentence(done.stderr, missing, program="qcow2ctl")
    check("errno" not in done.stderr, "it said %s", done.stderr)


@suite.test("the FUSE program of a mount keeps nothing that qcow2ctl was started with",
            needs=[tools.tool("fuse2fs", "setpriv", "fusermount3")])
def _(directory):
    with files.place_of_user() as (home, program):
        path, at = [shutil.move(item, home) for item in made(directory)]
        for item in (home, path, at):
            os.chown(item, 65534, 65534)
        ours, its = os.pipe()
        try:
            process = run.start([*bad.user_prefix(bad.NOBODY), program, "mount", path, at], pass_fds=(its,),
                                stderr=subprocess.DEVNULL)
            os.close(its)
            check_equal(process.wait(tools.TIMEOUT), 0, "the status")
            os.set_blocking(ours, False)
            bad.wait_for(lambda: bad.is_at_end(ours), "the pipe is let go of")
        finally:
            os.close(ours)
            tools.run(*bad.user_prefix(bad.NOBODY), "fusermount3", "-u", at, status=None)
        files.check_nothing_left(path)


@suite.test("the hint of a command without operands ends with a word")
def _(directory):
    for command in ("list", "top"):
        said = ctl.refused(command, directory, words=["'%s'" % directory], status=64)
        check(said.endswith("qcow2ctl %s [OPTIONS]\n" % command), "it said %r", said)
        check_equal(ctl.ctl(command, "--help").stdout.splitlines()[0], "Usage: qcow2ctl %s [OPTIONS]" % command,
                    "the help")


if __name__ == "__main__":
    if os.geteuid() == 0:
        bad.private_mounts()
    suite.main()
