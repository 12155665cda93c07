#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""qcow2ctl backup-point --freeze: the snapshot is of a file system that stands still, with all that
programs had written; and whatever fails or is killed, it goes on, and no change is lost."""

import os
import subprocess

from lib import bad, ctl, tap, tools, write
from lib.frozen import (check_clean_system, contents, is_frozen, marked, names, point, put, snapshot_of,
                        standing)
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.QEMU, tools.root, tools.loop, tools.file_system("ext4"),
                         tools.tool("debugfs", "dumpe2fs", "strace", "losetup")])


def apply(mounted, onto):
    """The increment of the point that is open, put on a backup."""
    source = os.path.join(mounted.path, "bitmaps", "backup-nightly", "disk.raw")
    with open(source, "rb") as file, open(onto, "r+b") as backup:
        for start, length in marked(mounted, "backup-nightly"):
            file.seek(start)
            backup.seek(start)
            backup.write(file.read(length))


@suite.test("three increments, each a file system that is clean and has what programs had written")
def _(directory):
    backup = os.path.join(directory, "backup.raw")
    with standing(directory) as (mounted, at):
        for number in range(4):
            text = "number %d\n" % number * (number + 1) * 1000
            put(at, "new", text)  # nobody syncs it
            point(at, "--freeze=" + at)
            check(not is_frozen(at), "it still stands still")
            put(at, "late", "behind the point", sync=True)
            if number == 0:
                with open(backup, "wb") as file:
                    file.write(snapshot_of(mounted))
            apply(mounted, backup)
            check(contents(backup) == snapshot_of(mounted), "backup %d is not the snapshot", number)
            check_clean_system(contents(backup), directory, "new", text)
            point(at, "--failed" if number == 2 else "--done")
        check_equal(names(mounted), [["nightly"], []], "what is left")
        path = mounted.image
    write.check_clean(path)


@suite.test("without --freeze there is a journal to replay: so the test sees the difference")
def _(directory):
    with standing(directory) as (mounted, at):
        put(at, "new", "x" * 5000, sync=True)
        point(at)
        copy = os.path.join(directory, "copy.raw")
        with open(copy, "wb") as file:
            file.write(snapshot_of(mounted))
        check("needs_recovery" in tools.run("dumpe2fs", "-h", copy).stdout, "it has none")
        point(at, "--done")


def with_strace(inject, *arguments):
    return [*("strace -f -o /dev/null -e".split()), inject, ctl.program(), "backup-point", "-q",
            "--bitmap=nightly", *arguments]


@suite.test("a kind of file system that cannot be frozen is refused; what had changed is marked as before")
def _(directory):
    with standing(directory) as (mounted, at):
        put(at, "new", "x" * 5000, sync=True)
        before = marked(mounted, "nightly")
        command = with_strace("inject=ioctl:error=EOPNOTSUPP", "--freeze=" + at, mounted.image)
        done = tools.run(command[0], "-P", at, *command[1:], status=1)
        check("cannot be frozen: its kind of file system cannot be" in done.stderr, "it says %r", done.stderr)
        check(not is_frozen(at), "it stands still")
        check_equal(names(mounted), [["nightly"], []], "what is left")
        now = marked(mounted, "nightly")
        for start, length in before:
            check(any(a <= start and start + length <= a + b for a, b in now),
                  "%d is not marked any more", start)


def test_killed(step):
    @suite.test("killed where it asks the daemon for step %d: nothing stays frozen, and --failed takes it back"
                % step)
    def _(directory):
        with standing(directory) as (mounted, at):
            put(at, "new", "x" * 5000, sync=True)
            before = marked(mounted, "nightly")
            done = subprocess.run(
                with_strace("inject=sendto:signal=KILL:when=%d" % step, "--freeze=" + at, mounted.image),
                check=False, timeout=tools.TIMEOUT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                env=tools.environment())
            check(done.returncode != 0, "it was not killed")
            bad.wait_for(lambda: not is_frozen(at), "it goes on")
            put(at, "later", "goes on", sync=True)
            if names(mounted) != [["nightly"], []]:
                point(at, "--failed")
            check_equal(names(mounted), [["nightly"], []], "what is left")
            now = marked(mounted, "nightly")
            for start, length in before:
                check(any(a <= start and start + length <= a + b for a, b in now), "%d is not marked", start)
            point(at, "--freeze=" + at)
            check_clean_system(snapshot_of(mounted), directory, "later", "goes on")
            point(at, "--done")


for each in range(1, 6):
    test_killed(each)


if __name__ == "__main__":
    suite.main()
