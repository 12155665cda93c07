#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""qcow2ctl top: what all mounts do, once, for programs, and live in a terminal (tmux)."""

import contextlib
import json
import os
import shlex
import signal
import subprocess

from lib import bad, ctl, image, mount, run, tap, tools
from lib.image import MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.QEMU])


def top(*arguments, **keywords):
    return ctl.ctl("top", *arguments, **keywords)


@contextlib.contextmanager
def busy(directory, name="busy.qcow2"):
    """A disk that is written, synced and read all the time."""
    path = os.path.join(directory, name)
    image.create(path, 16 * MiB)
    with mount.mount(path, at=bad.mount_point(directory, name + "-at"), writable=True) as mounted:
        script = ("while :; do dd if=/dev/zero of=%(at)s bs=64k count=8 conv=notrunc,fsync status=none; "
                  "dd if=%(at)s of=/dev/null bs=64k count=8 iflag=direct status=none; done"
                  % {"at": shlex.quote(mounted.disk)})
        process = subprocess.Popen(["sh", "-c", script], start_new_session=True)
        try:
            yield path
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def found(path, *arguments):
    """What a line of JSON says of the mount of this image."""
    lines = top("--json", "--once", *arguments).stdout.split("\n")
    check_equal(len(lines), 2, "lines of JSON and what is behind them")
    mine = [item for item in json.loads(lines[0]) if item["image"] == path]
    return mine[0] if mine else None


@suite.test("top --once --json has totals and rates of each mount")
def _(directory):
    totals, seen = [], set()
    with busy(directory) as path:
        def answered():
            item = found(path)
            return item if item is not None and item["answers"] else None

        def is_seen():
            item = answered()  # of a moment, in which not all of it need have happened
            seen.update(name for name, rate in (item["per-second"] if item else {}).items() if rate > 0)
            return seen >= {"reads", "writes", "syncs", "requests", "read-bytes", "written-bytes"}

        def has_gone_on():
            item = answered()
            totals.extend([item["total"]] if item else [])
            return len(totals) > 1 and totals[-1]["writes"] > totals[0]["writes"]

        bad.wait_for(is_seen, "all that it does")
        bad.wait_for(has_gone_on, "something more is written")
    for name, value in totals[0].items():
        check(totals[-1][name] >= value, "%s went from %r to %r", name, value, totals[-1][name])
    check_equal(totals[-1]["errors"], 0, "errors")
    check_equal(found(path), None, "what is said of it when it is gone")


@suite.test("top --once is a table of 80 columns, also of names that no terminal should see")
def _(directory):
    name = "a-very-long-name-" * 5 + "\x1b[31m\u00e4.qcow2"
    with busy(directory, name), busy(directory):
        text = top("--once").stdout
    lines = text.split("\n")
    check(lines[0].startswith("qcow2ctl top"), "the first line is %r", lines[0])
    check(lines[1].startswith("IMAGE"), "the second line is %r", lines[1])
    for line in lines:
        check(len(line) < 80, "%d columns: %r", len(line), line)
    check("\x1b" not in text, "an escape")
    mine = [line for line in lines if "busy.qcow2" in line]
    check_equal(len(mine), 1, "lines of one mount")
    check_equal([len(line) for line in lines[1:-1]], [len(mine[0])] * len(lines[1:-1]), "the columns")


@suite.test("without a terminal tables follow each other, until a signal ends it")
def _(directory):
    with busy(directory):
        process = subprocess.Popen([ctl.program(), "top", "--interval=1"], stdout=subprocess.PIPE,
                                   stdin=subprocess.DEVNULL, encoding="utf-8")
        seen = 0
        for line in process.stdout:
            check("\x1b" not in line, "an escape in %r", line)
            seen += line.startswith("IMAGE")
            if seen == 3:
                process.send_signal(signal.SIGTERM)
                break
        process.stdout.close()
        check_equal(process.wait(tools.TIMEOUT), -signal.SIGTERM, "how it ended")


@suite.test("a closed pipe, and a wrong interval, are told")
def _(_directory):
    ctl.refused("top", "--interval=0", words=["interval"], status=64)
    done = tools.run("sh", "-c", "%s top --once >/dev/full" % shlex.quote(ctl.program()), status=None)
    check_equal(done.returncode, 1, "the exit status with a full output")
    bad.check_sentence(done.stderr, program="qcow2ctl")


class Tmux:
    """A terminal of 80 columns and 24 rows."""

    def __init__(self, directory):
        self._socket = os.path.join(run.short(directory), "tmux")
        self.run("-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", "sh")

    def run(self, *arguments):
        return tools.run("tmux", "-S", self._socket, *arguments,
                         env={run.MARK: run.directory, "TERM": "xterm", "PS1": "$ "}).stdout

    def type(self, text):
        self.run("send-keys", text, "Enter")

    def screen(self):
        return self.run("capture-pane", "-p").split("\n")

    def says(self, text):
        """Whether a line ends so that is not the command itself; a prompt may be before it."""
        return any(line.endswith(text) and "echo " + text not in line for line in self.screen())

    def close(self):
        self.run("kill-server")


@suite.test("at a terminal it is drawn in 24 rows of 80, again and again, and q leaves all as it was",
            needs=[tools.tool("tmux")])
def _(directory):
    with contextlib.ExitStack() as stack:
        stack.enter_context(busy(directory))
        tmux = Tmux(directory)
        stack.callback(tmux.close)
        tmux.type("echo before-it; %s top --interval=1" % shlex.quote(ctl.program()))
        bad.wait_for(lambda: tmux.screen()[0].startswith("qcow2ctl top"), "the screen")

        def rates():
            lines = [line for line in tmux.screen() if "busy.qcow2" in line]
            return lines[0].split()[1:] if lines else ["-"]

        bad.wait_for(lambda: rates()[0] != "-", "rates")
        first = tmux.screen()
        bad.wait_for(lambda: tmux.screen()[0] != first[0], "another picture")
        shown = tmux.screen()
        check(shown[1].startswith("IMAGE") and "WRITE B" in shown[1], "the heading is %r", shown[1])
        check(not any("before-it" in line for line in shown), "the old screen is there: %r", shown)
        check(all(len(line) <= 80 for line in shown), "too wide: %r", shown)
        tmux.run("send-keys", "q")
        bad.wait_for(lambda: tmux.says("before-it"), "the old screen")
        # Echo is on again, and SIGINT leaves no other screen either.
        tmux.type("echo after-it")
        bad.wait_for(lambda: tmux.says("after-it"), "the shell")
        tmux.type("%s top" % shlex.quote(ctl.program()))
        bad.wait_for(lambda: tmux.screen()[0].startswith("qcow2ctl top"), "the screen")
        tmux.run("send-keys", "C-c")
        bad.wait_for(lambda: tmux.says("after-it"), "the old screen")


if __name__ == "__main__":
    suite.main()
