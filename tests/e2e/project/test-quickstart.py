#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""contrib/quickstart: from a clone, or an image, to the files in it."""

import os
import re

from lib import bad, compare, files, run, tap, tools
from lib.image import MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.root, tools.loop, tools.tool("debugfs", "make"),
                         tools.file_system("ext4")])
QUICKSTART = os.path.join(run.SOURCE, "contrib", "quickstart")


def quickstart(directory, *arguments, user=None):
    build = os.path.dirname(os.path.dirname(run.program()))
    return tools.run(*(bad.user_prefix(user) if user else []), QUICKSTART, *arguments,
                     env={"TMPDIR": directory, "QCOW2FS_BUILD_DIR": build, run.MARK: run.directory})


def end(directory, done):
    """Runs the last line, as a user would, after which nothing is left."""
    command = done.stdout.rstrip("\n").splitlines()[-1].strip()
    tools.run("sh", "-c", command)
    check(not [name for name in os.listdir(directory) if name.startswith("qcow2fs-quickstart")],
          "left: %s", os.listdir(directory))
    bad.wait_for(lambda: not run.processes(run.directory), "the end of the daemon")


@suite.test("without an image it makes one, and finds in it what it has written")
def _(directory):
    done = quickstart(directory)
    try:
        check("hello.txt" in done.stdout and "are the same (SHA-256)" in done.stdout, "it said %s",
              done.stdout)
        check("in order" in done.stdout, "no check: %s", done.stdout)
        check_equal(done.stderr, "", "standard error")
        check(len(done.stdout.splitlines()) < 32, "too much to read:\n%s", done.stdout)
        with open(os.path.join(run.SOURCE, "contrib", "try-debian"), encoding="utf-8") as file:
            marker = re.search(r'sed -n "/\^([^/]*)/', file.read()).group(1)
        check("\n%s\n" % marker in done.stdout, "try-debian looks for %s:\n%s", marker, done.stdout)
    finally:
        end(directory, done)


@suite.test("of an image with several file systems the first is shown, and nothing can be done through it")
def _(directory):
    path = files.partitioned(directory)
    before = compare.Unchanged(path)
    done = quickstart(directory, path)
    try:
        said = done.stdout.index("not as root")
        check(said < done.stdout.index("here"), "it is said too late: %s", done.stdout)
        at = re.search(r"umount (\S+)", done.stdout).group(1)
        options = set(bad.mount_table(at)[2])
        check({"ro", "nosuid", "nodev", "noexec"} <= options, "mounted with %s", options)
        check(options & {"noload", "norecovery"}, "a journal would be replayed: %s", options)
        with open(os.path.join(at, "here"), encoding="ascii") as file:
            check_equal(file.read(), "on one\n", "a file")
    finally:
        end(directory, done)
    before.check()


@suite.test("an image without a file system is shown as what it is")
def _(directory):
    path = os.path.join(directory, "empty.qcow2")
    tools.run("qemu-img", "create", "-q", "-f", "qcow2", path, str(8 * MiB))
    done = quickstart(directory, path)
    try:
        check("disk.raw" in done.stdout and "nor a file system" in done.stdout, "it said %s",
              done.stdout)
    finally:
        end(directory, done)


if __name__ == "__main__":
    suite.main()
