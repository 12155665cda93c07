# SPDX-License-Identifier: MIT
"""strace of a daemon that runs: what it calls, or calls that it is made to fail or wait at."""

import contextlib
import signal
import subprocess
import time

from . import run, tap


def attach(pid, *arguments):
    """strace of all threads, which has begun; a process. Skips the test where that is forbidden."""
    process = run.start(["strace", "-f", *arguments, "-p", str(pid)], stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    told = process.stderr.readline()
    if b"attached" not in told:
        process.kill()
        process.wait()
        raise tap.Skip("strace cannot attach here: %s" % told.decode(errors="replace").strip())
    time.sleep(0.3)  # it says so a moment before it has stopped each thread, and knows its calls
    return process


@contextlib.contextmanager
def _while_attached(end, pid, *arguments):
    process = attach(pid, *arguments)
    try:
        yield
    finally:
        process.send_signal(end)
        process.communicate()


@contextlib.contextmanager
def injected(pid, call, what, *arguments):
    """While the body runs, `what` is done to each such system call, in strace's words."""
    # Killed: while it makes a call wait it would not end otherwise.
    with _while_attached(signal.SIGKILL, pid, "-o", "/dev/null", *arguments, "-e", "trace=" + call,
                         "-e", "inject=%s:%s" % (call, what)):
        yield


@contextlib.contextmanager
def noted(pid, call, log):
    """Each such system call while the body runs, as strace writes it, in a file."""
    with _while_attached(signal.SIGTERM, pid, "-o", log, "-e", "trace=" + call):
        yield
