#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""qcow2fs as a service: who started it is told when the raw file answers, and its unit is in order."""

import contextlib
import os
import signal
import socket
import stat
import subprocess

from lib import bad, ctl, mount, run, tap, tools
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.QEMU])
UNIT = os.path.join(run.SOURCE, "contrib", "systemd", "qcow2fs@.service.in")


def made(directory):
    path, at = bad.sample("plain", directory), os.path.join(directory, "at")
    os.mkdir(at)
    return path, at


@contextlib.contextmanager
def started(*arguments, at, **keywords):
    """The program, in the foreground; unmounted and waited for at the end."""
    process = run.start([run.program(), "-f", *arguments, at], stdin=subprocess.DEVNULL, **keywords)
    try:
        yield process
    finally:
        if mount.is_mounted(at):
            run.unmount(at)
        try:
            check_equal(process.wait(tools.TIMEOUT), 0, "the status")
        finally:
            process.kill()
            process.wait()


def manager(directory, name):
    """The socket of a service manager, and how $NOTIFY_SOCKET names it."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.settimeout(tools.TIMEOUT)
    path = name if name.startswith("@") else os.path.join(run.short(directory), name)
    listener.bind(path.replace("@", "\0") if name.startswith("@") else path)
    return listener, path


for kind in ("a path", "an abstract name"):
    @suite.test("a service manager is told of readiness, and of the end, at %s" % kind)
    def _(directory, kind=kind):
        path, at = made(directory)
        name = "notify" if kind == "a path" else "@qcow2fs-test-%d" % os.getpid()
        listener, address = manager(directory, name)
        with listener, started("-o", "ro", path, at=at, env={"NOTIFY_SOCKET": address}) as process:
            told = listener.recv(4096).decode()
            check_equal(told, "READY=1\nMAINPID=%d\n" % process.pid, "what it was told")
            check(mount.is_mounted(at), "ready, and not mounted")
            run.unmount(at)
            check_equal(listener.recv(4096).decode(), "STOPPING=1\n", "what it was told at the end")


@suite.test("a mount in the background tells the manager of whoever started it nothing")
def _(directory):
    path, at = made(directory)
    listener, address = manager(directory, "notify")
    with listener, bad.unmounted_at_the_end(at):
        tools.run(run.program(), "-o", "ro", path, at,
                  env={"NOTIFY_SOCKET": address, run.MARK: run.directory})
        check(mount.is_mounted(at), "not mounted")
        run.unmount(at)
        bad.wait_gone(at)
        listener.setblocking(False)
        try:
            raise AssertionError("it was told %r" % listener.recv(4096))
        except BlockingIOError:
            pass


@suite.test("a socket that is nobody's harms nothing")
def _(directory):
    path, at = made(directory)
    for name in (os.path.join(directory, "nobody"), "relative", "@" + "x" * 200, ""):
        with started("-o", "ro", path, at=at, env={"NOTIFY_SOCKET": name}) as process:
            bad.wait_for(lambda: mount.is_mounted(at), "the mount")
            check(process.poll() is None, "it has ended")


for where in ("foreground", "background"):
    @suite.test("--ready-fd gets a newline and its end once the disk answers, in the %s" % where)
    def _(directory, where=where):
        path, at = made(directory)
        reading, writing = os.pipe()
        with open(reading, "rb", buffering=0) as end, bad.unmounted_at_the_end(at):
            arguments = ["-f"] if where == "foreground" else []
            process = run.start([run.program(), *arguments, "--ready-fd=%d" % writing, "-o", "ro",
                                 path, at], stdin=subprocess.DEVNULL, pass_fds=[writing])
            os.close(writing)
            check_equal(end.read(100), b"\n", "what was told")
            bad.check_disk(at, "disk.raw", bad.contents(path))
            check_equal(end.read(100), b"", "what came after it")
            run.unmount(at)
            check_equal(process.wait(tools.TIMEOUT), 0, "the status")


@suite.test("a mount that fails closes the descriptor of --ready-fd without a newline")
def _(directory):
    path, at = made(directory)
    os.truncate(path, 60)
    reading, writing = os.pipe()
    with open(reading, "rb") as end:
        process = run.start([run.program(), "--ready-fd=%d" % writing, path, at],
                            stderr=subprocess.DEVNULL, pass_fds=[writing])
        os.close(writing)
        check_equal(end.read(), b"", "what was told")
        check_equal(process.wait(tools.TIMEOUT), 1, "the status")


@suite.test("--ready-fd takes a descriptor that is open, and nothing else")
def _(directory):
    path, at = made(directory)
    for wrong in ("77", "-1", "x", "", "3x", "99999999999"):
        done = bad.start_and_end("--ready-fd=" + wrong, path, at)
        check_equal(done.returncode, 2, "the status")
        bad.check_sentence(done.stderr, "--ready-fd=" + wrong, "no descriptor that is open")
    done = bad.start_and_end(path, at, "--ready-fd")
    check_equal(done.returncode, 2, "the status")
    bad.check_sentence(done.stderr, "needs the number of a descriptor")


@suite.test("pid-file= has the daemon's number as soon as it is mounted, and goes at the end")
def _(directory):
    path, at = made(directory)
    for name in ("pid", os.path.join(directory, "pid")):  # the first one is in `directory`, too
        with mount.mount(path, "pid-file=" + name, at=at, directory=True, foreground=False,
                         cwd=directory) as mounted:
            with open(os.path.join(directory, "pid"), encoding="ascii") as file:
                check_equal(file.read(), "%d\n" % mounted.pids[0], "the file")
            check_equal(stat.S_IMODE(os.stat(os.path.join(directory, "pid")).st_mode) & 0o133, 0,
                        "bits of the mode that should not be set")
        check_equal(sorted(os.listdir(directory)), ["at", "image.qcow2"], "what is left")


@suite.test("pid-file= follows no link, takes the place of an old file, and leaves another's alone")
def _(directory):
    path, at = made(directory)
    victim, name = os.path.join(directory, "victim"), os.path.join(directory, "pid")
    with open(victim, "w", encoding="ascii") as file:
        file.write("precious")
    os.symlink(victim, name)
    with mount.mount(path, "pid-file=" + name, at=at, directory=True):
        bad.wait_for(lambda: not os.path.islink(name), "the file")
        with open(name, "w", encoding="ascii") as file:
            file.write("1\n")
    check_equal(open(victim, encoding="ascii").read(), "precious", "the link's target")
    check_equal(open(name, encoding="ascii").read(), "1\n", "the file of another")


def contents(path):
    with open(path, "rb") as file:
        return file.read()


@suite.test("pid-file= of what is no such file, as the image itself, is refused, and loses nothing")
def _(directory):
    path, at = made(directory)
    text, old = os.path.join(directory, "text"), os.path.join(directory, "old")
    with open(text, "w", encoding="ascii") as file:
        file.write("12 monkeys\n")
    for name in (path, text, "/dev/null"):
        before = contents(name) if name != "/dev/null" else None
        for arguments in ((), ("-f",)):
            done = bad.start_and_end(*arguments, "-o", "pid-file=" + name, path, at)
            check_equal(done.returncode, 1, "the status")
            bad.check_sentence(done.stderr, "pid-file=" + name, "name another one")
            bad.wait_gone(at)
        if before is not None:
            check_equal(contents(name), before, name)
    for told in ("", "4711", "4711\n"):  # of a program before
        with open(old, "w", encoding="ascii") as file:
            file.write(told)
        with mount.mount(path, "pid-file=" + old, at=at, directory=True):
            bad.wait_for(lambda: open(old, encoding="ascii").read() not in ("", told), "the file")
        check_equal(os.path.exists(old), False, "it is left")


@suite.test("a pid-file that cannot be written is an error, and nothing stays mounted")
def _(directory):
    path, at = made(directory)
    name = os.path.join(directory, "none", "pid")
    for arguments in ((), ("-f",)):
        done = bad.start_and_end(*arguments, "-o", "ro,pid-file=" + name, path, at)
        check_equal(done.returncode, 1, "the status")
        bad.check_sentence(done.stderr, "pid-file=" + name, "No such file")
        bad.wait_gone(at)


def unit(directory, name="qcow2fs@srv-disk\\x2done.qcow2.service"):
    """The unit as make would write it, with the programs under test."""
    programs = os.path.join(directory, "bin")
    os.mkdir(programs)
    os.symlink(run.program(), os.path.join(programs, "qcow2fs"))
    os.symlink(ctl.program(), os.path.join(programs, "qcow2ctl"))
    with open(UNIT, encoding="ascii") as file:
        text = file.read().replace("@bindir@", programs)
    path = os.path.join(directory, name)
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
    return path, text


@suite.test("systemd finds nothing wrong with the unit", needs=[tools.tool("systemd-analyze")])
def _(directory):
    path, text = unit(directory)
    check("\nRuntimeDirectory=" not in text, "systemd would change the mode of what is mounted")
    done = tools.run("systemd-analyze", "verify", "--man=no", path)
    # It reads the units of this host, too.
    lines = [line for line in done.stderr.splitlines() if "qcow2fs" in line or "Unknown" in line]
    check_equal(lines, [], "what it said")


@suite.test("what the unit runs starts, tells of it, and stops", needs=[tools.root])
def _(directory):
    path, at = made(directory)
    lines = unit(directory)[1].splitlines()
    start, stop = (next(line.split("=", 1)[1] for line in lines if line.startswith(name + "="))
                   for name in ("ExecStart", "ExecStop"))

    def expanded(command):
        values = {"%f": path, "${MOUNTPOINT}": at, "${OPTIONS}": "rw"}
        return [values.get(word, word) for word in command.split()]
    listener, address = manager(directory, "notify")
    with listener:
        process = run.start(expanded(start), env={"NOTIFY_SOCKET": address})
        try:
            check(listener.recv(4096).startswith(b"READY=1\n"), "not ready")
            tools.run(*expanded(stop))
            check(not mount.is_mounted(at), "still mounted")
            check_equal(process.wait(tools.TIMEOUT), 0, "the status")
            process = run.start(expanded(start), env={"NOTIFY_SOCKET": address})
            check_equal([listener.recv(4096)[:8] for _ in range(2)], [b"STOPPING", b"READY=1\n"],
                        "what was told")
            process.send_signal(signal.SIGTERM)  # what follows where ExecStop has failed
            check_equal(process.wait(tools.TIMEOUT), 0, "the status")
            check(not mount.is_mounted(at), "still mounted")
        finally:
            process.kill()
            process.wait()


if __name__ == "__main__":
    suite.main()
