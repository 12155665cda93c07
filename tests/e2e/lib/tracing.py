# SPDX-License-Identifier: MIT
"""strace of a daemon that runs: what it calls, or calls that it is made to fail or wait at."""

import contextlib
import os
import signal
import subprocess

from . import bad, run, tap


def attach(pid, *arguments):
    """strace of all threads, which has begun; a process. Skips the test where that is forbidden."""
    process = run.start(["strace", "-f", *arguments, "-p", str(pid)], stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    told = process.stderr.readline()
    if b"attached" not in told:
        process.kill()
        process.wait()
        raise tap.Skip("strace cannot attach here: %s" % told.decode(errors="replace").strip())
    try:
        _wait_until_traced(pid)
    except BaseException:
        process.kill()
        process.wait()
        raise
    return process


def _wait_until_traced(pid):
    """strace says that it is attached when it has asked each thread to stop; what is asleep was woken for that.

    So a thread that is stopped, or sleeps, after that is known to it, with all that it calls from then on.
    """
    waiting = set(os.listdir("/proc/%d/task" % pid))

    def known():
        for thread in sorted(waiting):
            try:
                with open("/proc/%d/task/%s/stat" % (pid, thread), "rb") as file:
                    state = file.read().rpartition(b") ")[2][:1]
            except (FileNotFoundError, ProcessLookupError):
                state = b"X"
            if state in b"StZX":
                waiting.discard(thread)
        return not waiting

    bad.wait_for(known, "strace knows each thread of process %d" % pid)


@contextlib.contextmanager
def _while_attached(end, pid, *arguments):
    process = attach(pid, *arguments)
    try:
        yield
    finally:
        process.send_signal(end)
        process.communicate()


@contextlib.contextmanager
def injected(pid, call, what, *arguments, log="/dev/null"):
    """While the body runs, `what` is done to each such system call, in strace's words."""
    # Killed: while it makes a call wait it would not end otherwise.
    with _while_attached(signal.SIGKILL, pid, "-o", log, *arguments, "-e", "trace=" + call,
                         "-e", "inject=%s:%s" % (call, what)):
        yield


@contextlib.contextmanager
def noted(pid, call, log):
    """Each such system call while the body runs, as strace writes it, in a file."""
    with _while_attached(signal.SIGTERM, pid, "-o", log, "-e", "trace=" + call):
        yield
