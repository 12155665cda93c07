#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The session that README.md shows can be run as it stands there."""

import os
import re

from lib import bad, ctl, mount, run, tap, tools
from lib.tap import check, check_equal

README = os.path.join(os.environ.get("QCOW2FS_SRCDIR", run.SOURCE), "README.md")

suite = tap.Suite(needs=[tools.fuse, tools.root, tools.loop, tools.file_system("ext4")])


def session():
    """The lines of the session, as a shell takes them."""
    with open(README, encoding="utf-8") as file:
        text = file.read()
    found = re.search(r"\*\*A whole session\*\*.*?\n\n((?:    [^\n]*\n)+)", text, re.DOTALL)
    check(found is not None, "README.md shows no session")
    return re.sub("^    ", "", found.group(1), flags=re.MULTILINE)


@suite.test("the session of README.md makes, mounts, formats, inspects and checks an image")
def _(directory):
    text = session()
    for word in ("qcow2ctl create", "qcow2fs ", "mkfs", "qcow2ctl info", "qcow2ctl check"):
        check(word in text, "no %s in the session", word)
    programs = os.path.join(directory, "bin")
    os.mkdir(programs)
    os.symlink(run.program(), os.path.join(programs, "qcow2fs"))
    os.symlink(ctl.program(), os.path.join(programs, "qcow2ctl"))
    raw = os.path.join(directory, "raw")
    try:
        done = tools.run("sh", "-eu", "-c", text, cwd=directory,
                         env={"PATH": programs + ":" + tools.PATH, run.MARK: run.directory})
    finally:
        for at in (os.path.join(directory, "files"), raw):
            if mount.is_mounted(at):
                run.unmount(at, lazy=True)
        bad.wait_gone(raw)
    check("disk.qcow2: in order" in done.stdout, "it said: %s", done.stdout)
    check("10 GiB" in done.stdout, "it said: %s", done.stdout)
    check_equal(tools.output("qemu-img", "check", "-q", os.path.join(directory, "disk.qcow2")), "",
                "what qemu-img check says")
    check(os.path.getsize(os.path.join(directory, "disk.svg")) > 1000, "no picture")


@suite.test("the packages that README.md lists are those that contrib/setup.sh wants")
def _(_directory):
    with open(README, encoding="utf-8") as file:
        found = re.search(r"^    apt-get install ((?:.*\\\n)*.*)$", file.read(), re.MULTILINE)
    listed = set(found.group(1).replace("\\", " ").split())
    with open(os.path.join(run.SOURCE, "contrib", "setup.sh"), encoding="utf-8") as file:
        rows = re.findall(r"^(\w+) +([a-z][\w.+-]+) +\w+ +\S+$", file.read(), re.MULTILINE)
    wanted = {package for group, package in rows if group not in ("fuzz", "try")}
    always = {"libc6-dev", "mount", "util-linux"}  # with gcc, and on every Debian
    check_equal(listed, wanted - always, "the packages")


if __name__ == "__main__":
    suite.main()
