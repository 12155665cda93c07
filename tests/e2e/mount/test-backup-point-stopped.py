#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""qcow2ctl backup-point --freeze, of which something is killed or goes away just while the file system
stands still: it goes on, what others have frozen stays theirs, and no change is lost."""

import contextlib
import errno
import fcntl
import os
import signal
import subprocess

from lib import bad, ctl, image, mount, run, tap, tools, tracing, write
from lib.bitmaps import bitmaps
from lib.frozen import (FIFREEZE, check_clean_system, is_frozen, marked, names, point, put,
                        snapshot_of, standing, thaw)
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.QEMU, tools.root, tools.loop, tools.file_system("ext4"),
                         tools.tool("debugfs", "dumpe2fs", "strace", "losetup")])


class Stopped:
    """A `backup-point --freeze` that stands right behind the freezing: `pid` is that of qcow2ctl."""

    def __init__(self, directory, path, at):
        self._log = os.path.join(directory, "trace")
        self._said = open(os.path.join(directory, "said"), "w+", encoding="utf-8")
        self._tracer = run.start(
            ["strace", "-o", self._log, "-P", at, "-e", "trace=ioctl", "-e",
             "inject=ioctl:signal=STOP:when=1", ctl.program(), "backup-point", "-q", "--bitmap=nightly",
             "--freeze=" + at, path],
            stdin=subprocess.DEVNULL, stdout=self._said, stderr=self._said, env=tools.environment())
        bad.wait_for(lambda: self._tracer.poll() is not None or "stopped by SIGSTOP" in self._text(),
                     "it has frozen the file system")
        check(self._tracer.poll() is None, "it has ended: %s", self._text())
        self.pid = children(self._tracer.pid)[0]

    def _text(self):
        with contextlib.suppress(FileNotFoundError), open(self._log, encoding="utf-8") as log:
            return log.read()
        return ""

    def go_on(self):
        """Its exit status, and what it said."""
        os.kill(self.pid, signal.SIGCONT)
        status = self._tracer.wait(tools.TIMEOUT)
        self._said.seek(0)
        return status, self._said.read()

    def close(self):
        if self._tracer.poll() is None:
            for pid in (self.pid, self._tracer.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._tracer.wait()
        self._said.close()


def children(pid):
    with open("/proc/%d/task/%d/children" % (pid, pid), encoding="ascii") as file:
        return list(map(int, file.read().split()))


@contextlib.contextmanager
def stopped(directory, mounted, at):
    with contextlib.closing(Stopped(directory, mounted.image, at)) as point_begins:
        check(is_frozen(at), "it does not stand still")
        yield point_begins


def check_marked(mounted, before):
    """All that was marked is, in the one that records."""
    now = marked(mounted, "nightly")
    for start, length in before:
        check(any(a <= start and start + length <= a + b for a, b in now), "%d is not marked any more", start)


def check_as_before(mounted, at, before):
    """No point is left, nothing is frozen, and the next one is made."""
    check(not is_frozen(at), "it stands still")
    check_equal(names(mounted), [["nightly"], []], "what is left")
    check_marked(mounted, before)
    point(at, "--freeze=" + at)
    point(at, "--done")


# --- the daemon -----------------------------------------------------------------------------------


def goes_on(at):
    """Whether nothing holds it any more. Its disk is gone, so it may not do much else."""
    handle = os.open(at, os.O_RDONLY)
    try:
        fcntl.ioctl(handle, FIFREEZE, 0)
    except OSError as error:
        return error.errno != errno.EBUSY
    finally:
        os.close(handle)
    thaw(at)
    return True


@contextlib.contextmanager
def killed_at(pid, sync):
    """The daemon is killed where it syncs for that time; 0: now."""
    if sync == 0:
        os.kill(pid, signal.SIGKILL)
        yield
        return
    with tracing.injected(pid, "fdatasync,fsync", "signal=KILL:when=%d" % sync):
        yield


def mounted_to_be_killed(path, **keywords):
    return write.to_be_killed(path, **keywords)


def test_daemon_killed(sync):
    @suite.test("the daemon killed %s: the file system goes on, and all that was written before is on the disk"
                % ("where it syncs for time %d" % sync if sync else "before it is asked for the snapshot"))
    def _(directory):
        with standing(directory, how=mounted_to_be_killed) as (mounted, at):
            path = mounted.image
            put(at, "synced", "x" * 5000, sync=True)
            put(at, "new", "y" * 5000)  # the freeze writes it
            with stopped(directory, mounted, at) as begins, killed_at(mounted.pids[0], sync):
                status, said = begins.go_on()
            check(status == 1 and said.count("\n") == 1, "status %d, it said %r", status, said)
            check("nothing is lost" in said, "it said %r", said)
            bad.wait_for(lambda: goes_on(at), "it goes on")
            with contextlib.suppress(OSError):
                put(at, "late", "its disk is gone", sync=True)
            mounted.kill()
        check("in-use" in dict((name, flags) for name, _, flags in bitmaps(path))["nightly"],
              "the bitmap claims to be true")
        write.check_clean(path, leaks=True)
        raw = image.to_raw(path, os.path.join(directory, "after.raw"))
        tools.run("e2fsck", "-fy", raw, status=None)
        tools.run("e2fsck", "-fn", raw)
        for name, text in (("synced", "x" * 5000), ("new", "y" * 5000)):
            check_equal(tools.run("debugfs", "-R", "cat " + name, raw).stdout, text, "what %s has" % name)
        with mount.mount(path, directory=True, writable=True) as again:  # as the manual page has it
            ctl.refused("backup-point", "-q", "--bitmap=nightly", "--failed", again.path,
                        words=["nightly", "inconsistent"])
            ctl.ctl("bitmap", "-q", "--remove", again.path, "nightly")


for each in range(3):
    test_daemon_killed(each)


# --- who freezes ----------------------------------------------------------------------------------


@suite.test("one that somebody else has frozen is refused, and stays frozen")
def _(directory):
    with standing(directory) as (mounted, at):
        put(at, "new", "x" * 5000, sync=True)
        before = marked(mounted, "nightly")
        with open_directory(at) as handle:
            fcntl.ioctl(handle, FIFREEZE, 0)
        done = point(at, "--freeze=" + at, status=1)
        check("it is frozen already" in done.stderr and done.stderr.count("\n") == 1, "it said %r", done.stderr)
        check(is_frozen(at), "it was let go, and its owner does not know")
        thaw(at)
        check_as_before(mounted, at, before)


@contextlib.contextmanager
def open_directory(at):
    handle = os.open(at, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)


@suite.test("one that somebody else lets go is no clean point: it is taken back, and that is said")
def _(directory):
    with standing(directory) as (mounted, at):
        put(at, "new", "x" * 5000, sync=True)
        before = marked(mounted, "nightly")
        with stopped(directory, mounted, at) as begins:
            thaw(at)
            put(at, "between", "y" * 5000, sync=True)
            status, said = begins.go_on()
        check(status == 1 and "another program" in said and said.count("\n") == 1, "status %d, it said %r",
              status, said)
        check_as_before(mounted, at, before)


@suite.test("the process that lets it go on is killed: qcow2ctl does it")
def _(directory):
    with standing(directory) as (mounted, at):
        put(at, "new", "x" * 5000)
        with stopped(directory, mounted, at) as begins:
            for pid in children(begins.pid):
                os.kill(pid, signal.SIGKILL)
            check_equal(begins.go_on(), (0, ""), "how it ended")
        check(not is_frozen(at), "it stands still")
        check_clean_system(snapshot_of(mounted), directory, "new", "x" * 5000)
        point(at, "--done")


@suite.test("qcow2ctl is killed: the other process does it, and --failed takes it back")
def _(directory):
    with standing(directory) as (mounted, at):
        put(at, "new", "x" * 5000, sync=True)
        before = marked(mounted, "nightly")
        with stopped(directory, mounted, at) as begins:
            os.kill(begins.pid, signal.SIGKILL)
            bad.wait_for(lambda: not is_frozen(at), "it goes on")
        put(at, "later", "goes on", sync=True)
        point(at, "--failed")
        check_as_before(mounted, at, before)


@suite.test("a file system that is unmounted lazily meanwhile goes on, and the point is made")
def _(directory):
    with standing(directory) as (mounted, at):
        put(at, "new", "x" * 5000)
        device = tools.output("findmnt", "-n", "-o", "SOURCE", "-M", at).strip()
        with stopped(directory, mounted, at) as begins:
            tools.run("umount", "-l", at)
            check_equal(begins.go_on(), (0, ""), "how it ended")
        tools.run("mount", "-t", "ext4", device, at)
        check(not is_frozen(at), "it stands still")
        check_clean_system(snapshot_of(mounted), directory, "new", "x" * 5000)
        point(mounted.image, "--done")


def test_refused(error, words):
    @suite.test("%s of the freezing: a sentence, and all is as before" % error)
    def _(directory):
        with standing(directory) as (mounted, at):
            put(at, "new", "x" * 5000, sync=True)
            before = marked(mounted, "nightly")
            done = tools.run("strace", "-f", "-o", "/dev/null", "-P", at, "-e",
                             "inject=ioctl:error=" + error, ctl.program(), "backup-point", "-q",
                             "--bitmap=nightly", "--freeze=" + at, mounted.image, status=1)
            check(words in done.stderr and done.stderr.count("\n") == 1, "it said %r", done.stderr)
            check_as_before(mounted, at, before)


test_refused("EPERM", "cannot be frozen: that takes root (CAP_SYS_ADMIN)")
test_refused("EIO", "cannot be frozen: Input/output error")


@suite.test("a directory that is not of this disk, is not there, or may not be opened: all is as before")
def _(directory):
    with standing(directory) as (mounted, at):
        put(at, "new", "x" * 5000, sync=True)
        before = marked(mounted, "nightly")
        for place, words in ((directory, "no file system on the disk"),
                             (os.path.join(directory, "nowhere"), "cannot be frozen: No such file"),
                             (mounted.disk, "cannot be frozen: Not a directory")):
            done = point(at, "--freeze=" + place, status=1)
            check(words in done.stderr and done.stderr.count("\n") == 1, "it said %r", done.stderr)
            check_equal(names(mounted), [["nightly"], []], "what is left")
        check_as_before(mounted, at, before)


if __name__ == "__main__":
    suite.main()
