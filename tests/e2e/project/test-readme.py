#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The sessions that README.md shows can be run as they stand there."""

import json
import os
import re

from lib import bad, ctl, evidence, files, mount, run, tap, tools, write
from lib.tap import check, check_equal

README = os.path.join(os.environ.get("QCOW2FS_SRCDIR", run.SOURCE), "README.md")

suite = tap.Suite(needs=[tools.fuse, tools.root, tools.loop, tools.file_system("ext4")])


def session(title):
    """The lines of the session that follows the title, as a shell takes them."""
    with open(README, encoding="utf-8") as file:
        text = file.read()
    found = re.search(r"\*\*" + title + r".*?\n\n((?:    [^\n]*\n|\n(?=    ))+)", text, re.DOTALL)
    check(found is not None, "README.md shows no session")
    return re.sub("^    ", "", found.group(1), flags=re.MULTILINE)


def play(text, directory):
    """Runs it there, with the programs that were built. Returns what it said."""
    programs = os.path.join(directory, "bin")
    if not os.path.exists(programs):
        os.mkdir(programs)
        os.symlink(run.program(), os.path.join(programs, "qcow2fs"))
        os.symlink(ctl.program(), os.path.join(programs, "qcow2ctl"))
    return tools.run("sh", "-eu", "-c", text, cwd=directory,
                     env={"PATH": programs + ":" + tools.PATH, run.MARK: run.directory}).stdout


def take_down(*places):
    for at in places:
        if mount.is_mounted(at):
            run.unmount(at, lazy=True)
        bad.wait_gone(at)


@suite.test("the session of README.md makes, mounts, formats, inspects and checks an image")
def _(directory):
    text = session("A whole session")
    for word in ("qcow2ctl create", "qcow2fs ", "mkfs", "qcow2ctl info", "qcow2ctl check"):
        check(word in text, "no %s in the session", word)
    try:
        said = play(text, directory)
    finally:
        take_down(os.path.join(directory, "files"), os.path.join(directory, "raw"))
    check("disk.qcow2: in order" in said, "it said: %s", said)
    check("10 GiB" in said, "it said: %s", said)
    check_equal(tools.output("qemu-img", "check", "-q", os.path.join(directory, "disk.qcow2")), "",
                "what qemu-img check says")
    check(os.path.getsize(os.path.join(directory, "disk.svg")) > 1000, "no picture")


def crashed_guest(directory, place):
    """In `place`, the image of a guest that lost its power, with a journal to replay."""
    live = files.partitioned(directory)
    tools.run("qemu-img", "snapshot", "-c", "monday", live)
    at = os.path.join(directory, "live")
    os.mkdir(at)
    with files.mounted(live, at, "-p", "1"):
        with open(os.path.join(at, "unfinished"), "wb") as file:
            file.write(b"y" * 100000)
            os.fsync(file.fileno())
        os.mkdir(place)
        write.copy_image(live, os.path.join(place, "image.qcow2"))


@suite.test("the examiner's session of README.md writes in many ways, and the evidence is as it was",
            needs=[tools.tool("debugfs", "sfdisk")])
def _(directory):
    lines = session("Evidence, without").splitlines(keepends=True)
    text = "".join(lines[1:-1])
    for word in ("mount -p 1 -o overlay ", "fstrim", "attach -o overlay", "mkfs", "fsck",
                 "-o overlay=work.qcow2", "at-snapshot=monday"):
        check(word in text, "no %s in the session", word)
    place = os.path.join(directory, "evidence")
    crashed_guest(directory, place)
    play(lines[0], directory)  # sha256sum itself leaves a time of access
    try:
        with evidence.untouched(place):
            said = play(text, directory)
    finally:
        take_down(os.path.join(directory, "files"), os.path.join(directory, "disk"))
        for found in files.listed():
            files.qcow2ctl("umount", found["image"])
    for words in ("\nunfinished\n", "recovering journal"):
        check(words in said, "no %r in what it said: %s", words, said)
    check(": OK" in play(lines[-1], directory), "the hash")
    check_equal(json.loads(tools.output("qemu-img", "info", "--output=json", os.path.join(
        directory, "work.qcow2")))["backing-filename"], os.path.realpath(place) + "/image.qcow2",
                "what is behind the kept overlay")


@suite.test("the packages that README.md lists are those that contrib/setup.sh wants")
def _(_directory):
    with open(README, encoding="utf-8") as file:
        found = re.search(r"^    apt-get install ((?:.*\\\n)*.*)$", file.read(), re.MULTILINE)
    listed = set(found.group(1).replace("\\", " ").split())
    with open(os.path.join(run.SOURCE, "contrib", "setup.sh"), encoding="utf-8") as file:
        rows = re.findall(r"^(\w+) +(?:[a-z][\w.+-]+\|)*([a-z][\w.+-]+) +\w+ +\S+$", file.read(), re.MULTILINE)
    wanted = {package for group, package in rows if group not in ("browser", "ceph", "fuzz", "try", "package")}
    always = {"libc6-dev", "mount", "util-linux"}  # with gcc, and on every Debian
    check_equal(listed, wanted - always, "the packages")


if __name__ == "__main__":
    suite.main()
