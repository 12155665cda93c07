#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A salvage that does not come to its end: nothing that it leaves can be taken for the whole disk."""

import os
import re
import shutil
import signal
import subprocess

from lib import bad, compare, ctl, image, run, tap, tools
from lib.image import MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.QEMU, tools.root])
SIZE = 128 * MiB


def compressed(directory, size=SIZE):
    """An image that takes a while to read, and the bytes of its disk."""
    raw = os.path.join(directory, "source.raw")
    bad.compressible_raw(raw, size)
    path = image.convert(raw, os.path.join(directory, "image.qcow2"), "-c")
    with open(raw, "rb") as file:
        return path, file.read()


def cut_off(path, target, number, *arguments, group=False):
    """(status, what it said) of one that gets a signal as soon as there is a target."""
    with subprocess.Popen([ctl.program(), "salvage", *arguments, path, target], stderr=subprocess.PIPE,
                          stdout=subprocess.DEVNULL, text=True, start_new_session=True) as process:
        try:
            bad.wait_for(lambda: os.path.exists(target) and os.stat(target).st_blocks > 0 or
                         process.poll() is not None, "the target")
            bad.stop(process.pid)
            (os.killpg if group else os.kill)(process.pid, number)
            process.send_signal(signal.SIGCONT)
            said = process.communicate(timeout=tools.TIMEOUT)[1]
        finally:
            process.kill()
    return process.returncode, said


def check_map(path, found, disk):
    """That the map calls everything behind what is there not tried. How much is there."""
    with open(path, encoding="ascii") as file:
        head, *runs = [line.split() for line in file if not line.startswith("#")]
    at = reached = 0
    for start, length, status in runs:
        start, length = int(start, 16), int(length, 16)
        check_equal(start, at, "where a run begins")
        if status == "+":
            check(found[start:start + length] == disk[start:start + length], "another disk at %d", start)
            reached = start + length
        else:
            check_equal((status, start), ("?", reached), "what follows what was copied")
            check(found.count(0, start, start + length) == length, "no zeros at %d", start)
        at += length
    check_equal(at, len(disk), "the end of the map")
    check_equal((int(head[0], 16), head[1]), (reached, "?"), "the head of the map")
    check(0 < reached < len(disk), "it was copied up to %d", reached)
    if shutil.which("ddrescuelog"):
        blocks = tools.output("ddrescuelog", "-b", "512", "--list-blocks=?", path).split()
        check_equal(512 * len(blocks), len(disk) - reached, "the bytes that were not tried")
    return reached


def check_kept(target, map_file, disk, said):
    with open(target, "rb") as file:
        found = file.read()
    check_equal(len(found), len(disk), "the size")
    reached = check_map(map_file, found, disk)
    check(re.search(r"holds the disk up to byte %d, as %s says" % (reached, re.escape(map_file)), said),
          "it said %s", said)


@suite.test("a copy that is cut off is removed, or the map says up to where it goes")
def _(directory):
    path, disk = compressed(directory)
    target, map_file = (os.path.join(directory, name) for name in ("target", "map"))
    before = compare.Unchanged(path)
    for number, group, *arguments in ((signal.SIGTERM, False), (signal.SIGINT, True), (signal.SIGHUP, False),
                                      (signal.SIGINT, True, "--sandbox=off")):
        status, said = cut_off(path, target, number, *arguments, group=group)
        check_equal(status, -number, "the end (%s)" % said)
        bad.check_sentence(said, target, "was interrupted", "removed", "--map", program="qcow2ctl")
        check(not os.path.exists(target), "the target is left")
        status, said = cut_off(path, target, number, "--map=" + map_file, *arguments, group=group)
        check_equal(status, -number, "the end (%s)" % said)
        bad.check_sentence(said, target, "was interrupted", program="qcow2ctl")
        check_kept(target, map_file, disk, said)
        os.unlink(target)
        os.unlink(map_file)
    before.check()


@suite.test("so it is where the host is full, also of a map beside it")
def _(directory):
    path, disk = compressed(directory, 24 * MiB)
    host = os.path.join(directory, "host")
    os.mkdir(host)
    tools.run("mount", "-t", "tmpfs", "-o", "size=%d" % (8 * MiB), "none", host)
    try:
        target, map_file = (os.path.join(host, name) for name in ("target", "map"))
        ctl.refused("salvage", path, target, words=[target, "No space left", "removed", "--map"])
        check_equal(os.listdir(host), [], "what is left")
        done = ctl.ctl("salvage", "--map=" + map_file, path, target, status=1)
        bad.check_sentence(done.stderr, target, "No space left", program="qcow2ctl")
        check_kept(target, map_file, disk, done.stderr)
        for name in (target, map_file):
            os.unlink(name)
        with open(os.path.join(host, "fill"), "wb") as file:
            os.posix_fallocate(file.fileno(), 0, 8 * MiB - 4096)
        there = sorted(os.listdir(host))
        done = ctl.ctl("salvage", "--map=" + map_file, path, target, status=1)
        check(sorted(os.listdir(host)) in (there, sorted(there + ["map", "target"])),
              "one of the two is left: %s (%s)", os.listdir(host), done.stderr)
    finally:
        run.unmount(host)


if __name__ == "__main__":
    suite.main()
