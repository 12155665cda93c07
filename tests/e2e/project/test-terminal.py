#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Terminals and pipes: nothing is coloured, progress is told in a terminal alone and within its width."""

import os
import re

from lib import bad, ctl, image, run, tap, terminal, tools
from lib.image import MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.QEMU])
DOMAIN = os.path.join(run.SOURCE, "contrib", "libvirt", "qcow2fs-domain")
CONTRIB = os.path.join(run.SOURCE, "contrib")
TRY = [os.path.join(CONTRIB, name) for name in sorted(os.listdir(CONTRIB)) if name.startswith("try-")]
# What programs are asked by for colours, or for none; a program that had some would heed one of them.
WISHES = ({"TERM": "xterm-256color", "CLICOLOR_FORCE": "1", "FORCE_COLOR": "1", "COLORTERM": "truecolor"},
          {"TERM": "xterm-256color", "NO_COLOR": "1"}, {"TERM": "dumb"})


def same_everywhere(*argv, status=0, changes=False):
    """The same bytes in a terminal as in a pipe, whatever is wished for, and no control among them.

    Where what is told changes meanwhile, since others mount and unmount, they are the same in the end.
    """
    for wishes in WISHES:
        if changes:
            bad.wait_for(lambda env=wishes: terminal.output(*argv, env=env) == terminal.piped(*argv, env=env),
                         "%s is the same in a terminal with %s" % (argv, wishes))
        in_pipe, ended = terminal.piped(*argv, env=wishes)
        check_equal(ended, status, "the status of %s in a pipe" % (argv,))
        if not changes:
            check_equal(terminal.output(*argv, env=wishes), (in_pipe, status), "%s in a terminal with %s"
                        % (argv, wishes))
        check(not re.search(rb"[^\n\x20-\xff]", in_pipe), "%s writes %r", argv, in_pipe)


@suite.test("help and version of each program are the same in a terminal, in 80 columns")
def _(_directory):
    asked = [[program, option] for program in (run.program(), ctl.program())
             for option in ("--help", "--version")]
    asked += [[program, "--help"] for program in TRY]
    commands = re.findall("^  ([a-z-]+) ", tools.output(ctl.program(), "--help"), re.MULTILINE)
    check(len(commands) > 20, "only %r", commands)
    for argv in asked:
        same_everywhere(*argv)
    for argv in asked + [[ctl.program(), command, "--help"] for command in commands]:
        said, status = terminal.output(*argv)
        check_equal((said, status), terminal.piped(*argv), "%s" % argv)
        wide = [line for line in said.decode().split("\n") if len(line) > 80]
        check_equal(wide, [], "lines of %s that are too wide" % argv)


@suite.test("qcow2fs-domain is coloured by nothing but Python's own help, and that not with NO_COLOR")
def _(_directory):
    for wishes in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        said, status = terminal.output(DOMAIN, "--help", env=wishes)
        check_equal(status, 0, "the status")
        check(b"\x1b" not in said and b"--print" in said, "it says %r", said)
    said, status = terminal.output(DOMAIN, "/nowhere/guest.xml", "vda", "/mnt")
    check(status != 0 and b"\x1b" not in said, "it says %r", said)


@suite.test("what commands tell of an image, and their errors, are the same in a terminal")
def _(directory):
    path = bad.sample("snapshots", directory)
    raw = os.path.join(directory, "other.raw")
    with open(raw, "wb") as file:
        file.truncate(4 * MiB)
    for arguments, status in ((["info"], 0), (["info", "--audit"], 0), (["check"], 0), (["map"], 0),
                              (["map", "--json"], 0), (["snapshot", "-l"], 0), (["measure"], 0),
                              (["timeline"], 0), (["compare", raw], 1), (["hash"], 0),
                              (["map", "--no-such-option"], 64)):
        same_everywhere(ctl.program(), *arguments, path, status=status)
    same_everywhere(ctl.program(), "list", changes=True)
    same_everywhere(run.program(), "/nowhere/image.qcow2", "/nowhere/at", status=1)


# --- progress --------------------------------------------------------------------------------------


def slow(directory, program, *arguments):
    """A command that takes long enough to tell of progress: each read of the host's takes 100 ms."""
    return ["strace", "-f", "-o", os.path.join(directory, "trace"), "-e",
            "inject=pread64,preadv:delay_enter=100000", program, *arguments]


def large(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), 64 * MiB, cluster_size="4k",
                        preallocation="metadata")
    image.io(path, "write -q 0 16M")
    return path


# A mount that fails has looked at the image before.
CASES = {
    "qcow2ctl check": (0, lambda path, _directory: [ctl.program(), "check", "--sandbox=off", path]),
    "qcow2ctl convert": (0, lambda path, directory: [ctl.program(), "convert", "-O", "raw", path,
                                                     os.path.join(directory, "copy.raw")]),
    "qcow2fs": (1, lambda path, directory: [run.program(), "-o", "ro,evidence", path,
                                            os.path.join(directory, "nowhere")]),
}
for name, (ends, make) in CASES.items():
    @suite.test("the progress of %s is within the terminal's width" % name, needs=[tools.tool("strace")])
    def _(directory, ends=ends, make=make):
        argv = slow(directory, *make(large(directory), directory))
        for columns in (80, 30):
            said, status = terminal.output(*argv, columns=columns, env={"NO_COLOR": "1"})
            check_equal(status, ends, "the status")
            lines = said.decode().split("\n")[0].split("\r")[1:]
            check(lines and all(" %, " in line or columns < 80 for line in lines), "it wrote %r", said)
            for line in lines:
                check(len(line) < columns, "%d letters in %d columns: %r", len(line), columns, line)
            check(b"\x1b" not in said, "an escape in %r", said)

    @suite.test("nothing tells of the progress of %s in a pipe" % name, needs=[tools.tool("strace")])
    def _(directory, ends=ends, make=make):
        said, status = terminal.piped(*slow(directory, *make(large(directory), directory)))
        check_equal(status, ends, "the status")
        check(b"\r" not in said and b" %, " not in said, "it wrote %r", said)


if __name__ == "__main__":
    suite.main()
