#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The daemon's box: what somebody who has taken it over can still do is to serve."""

import contextlib
import errno
import glob
import json
import os
import signal
import subprocess
from unittest import mock

from lib import bad, compare, intruder, mount, run, tap, tools
from lib.tap import check, check_equal

PARTS = ["privileges", "memory", "system-calls", "files", "network"]


def built_in():
    if "libseccomp yes" not in tools.run(run.program(), "-V").stdout:
        return "this build has no libseccomp"
    return None


suite = tap.Suite(needs=[tools.fuse, tools.QEMU])


def sandbox(mounted):
    with open(os.path.join(mounted.path, "stats.json"), encoding="utf-8") as file:
        return json.load(file)["sandbox"]


def text(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def status_of(pid):
    """For each thread, what the kernel says of it."""
    found = []
    for thread in os.listdir("/proc/%d/task" % pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            lines = text("/proc/%d/task/%s/status" % (pid, thread)).splitlines()
            found.append(dict(line.split(":\t", 1) for line in lines if ":\t" in line))
    return found


def steward_of(pid):
    found = [each for each in run.processes(run.directory)
             if text("/proc/%d/comm" % each) == "qcow2fs-steward\n"
             and status_of(each)[0]["PPid"] == str(pid)]
    check_equal(len(found), 1, "its stewards")
    return found[0]


def others(steward):
    """What it has open besides its sockets and the registry."""
    found = []
    for name in os.listdir("/proc/%d/fd" % steward):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink("/proc/%d/fd/%s" % (steward, name)))
    return [each for each in found if each not in ("/dev/null", "/run/qcow2fs")
            and not each.startswith(("socket:", "/tmp/qcow2fs-", "/run/user/"))]


@contextlib.contextmanager
def taken_over(directory, words, *options, arguments=(), hides=None, old=False):
    """A daemon (Popen) in the foreground that tries the words when it first answers, and what it says."""
    path, at = bad.sample("plain", directory), bad.mount_point(directory)
    env, says = intruder.environment(directory, words, hides, old=old)
    argv = [run.program(), "-f", *arguments, "-o", ",".join(("ro",) + options), path, at]
    with bad.unmounted_at_the_end(at), subprocess.Popen(
            argv, env=env, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as daemon:
        try:
            bad.wait_for(lambda: mount.is_mounted(at) or daemon.poll() is not None, "the mount")
            yield daemon, at, says
        finally:
            daemon.kill()


def read_some(at):
    with contextlib.suppress(OSError), open(at, "rb") as file:
        file.read(4096)


@suite.test("all of it is in force by default, and strict mounts", needs=[built_in])
def _(directory):
    path = bad.sample("plain", directory)
    for options in ((), ("sandbox=strict",)):
        for writable in (False, True):
            with mount.mount(path, *options, directory=True, writable=writable) as mounted:
                found = sandbox(mounted)
                check_equal([name for name in PARTS if not found[name]], [], "what is missing")
                check_equal(mounted.stderr(), "", "what it said")


@suite.test("every thread is in it, in the foreground and in the background", needs=[built_in])
def _(directory):
    path = bad.sample("plain", directory)
    for foreground in (True, False):
        with mount.mount(path, foreground=foreground, writable=True) as mounted:
            with open(mounted.disk, "rb") as file:
                file.read()
            bad.wait_for(lambda: len(status_of(mounted.pids[0])) > 4, "it has its threads")
            for each in status_of(mounted.pids[0]):
                if intruder.SANITIZED and each["Seccomp"] == "2":
                    continue  # the sanitizer's own thread was there before
                check_equal((each["Seccomp"], each["NoNewPrivs"], int(each["CapEff"], 16),
                             int(each["CapPrm"], 16)), ("2", "1", 0, 0), "a thread")
            limits = text("/proc/%d/limits" % mounted.pids[0]).splitlines()
            check_equal([each.split()[4:6] for each in limits if each.startswith("Max core file")],
                        [["0", "0"]], "the core that it may dump")


def name_of(comm):
    with contextlib.suppress(OSError):  # it has ended
        return text(comm).strip()
    return None


@suite.test("a thread that began in it has its name")
def _(directory):
    with mount.mount(bad.sample("plain", directory), writable=True) as mounted:
        bad.wait_for(lambda: any(name_of(each) == "cache-cleaner" for each in
                                 glob.glob("/proc/%d/task/*/comm" % mounted.pids[0])), "one is the cache's")


@suite.test("from inside nothing is opened, made, changed, started, or talked to", needs=[built_in])
def _(directory):
    for arguments in ((), ("-s",)):
        with taken_over(directory, ["nothing"] + intruder.REFUSED, arguments=arguments) as (daemon, at, says):
            read_some(at)
            found = intruder.answers(says)
            check_equal(found.pop("nothing"), 0, "what is no harm")
            check_equal([word for word in intruder.REFUSED if found.get(word) in (0, None)], [],
                        "what was possible")
            check_equal(set(found.values()) - {errno.ENOSYS, errno.EACCES, errno.EPERM}, set(),
                        "the errors")
            check_equal(daemon.poll(), None, "its status")
            check_equal(text(os.path.join(directory, "victim")), "victim", "the victim")


@suite.test("from inside, what only an intruder does ends the daemon", needs=[built_in])
def _(directory):
    for word in intruder.DEADLY:
        with taken_over(directory, [word, "nothing"]) as (daemon, at, says):
            read_some(at)
            check_equal((word, daemon.wait(tools.TIMEOUT)), (word, -signal.SIGSYS), "its end")
            check_equal(intruder.answers(says), {word: None}, "what came of it")
            tools.run("umount", "-l", at, status=None)


@suite.test("with sandbox=off all that is possible: so these tests see")
def _(directory):
    words = ["read-passwd", "write-file", "chmod", "mkdir", "process", "code", "kill"]
    with taken_over(directory, words, "sandbox=off") as (_daemon, at, says):
        read_some(at)
        check_equal(intruder.answers(says), dict.fromkeys(words, 0), "what came of it")
    path = bad.sample("plain", directory)
    with mount.mount(path, "sandbox=off", directory=True) as mounted:
        check_equal([name for name, has in sandbox(mounted).items() if has], [], "in force")


@suite.test("without libseccomp the rest holds; strict mounts nothing, and on says once what is missing",
            needs=[built_in])
def _(directory):
    library = "libseccomp.so.2"
    with taken_over(directory, ["read-passwd", "write-file", "mkdir"], "sandbox=on",
                    hides=library) as (daemon, at, says):
        read_some(at)
        check_equal(set(intruder.answers(says).values()), {errno.EACCES}, "what came of it")
        tools.run("umount", at)
        check_equal(daemon.wait(tools.TIMEOUT), 0, "its end")
        bad.check_sentence(daemon.stderr.read(), "the sandbox is not whole", "libseccomp")
    with taken_over(directory, [], "sandbox=strict", hides=library) as (daemon, at, _says):
        check_equal(daemon.wait(tools.TIMEOUT), 1, "its status")
        bad.check_sentence(daemon.stderr.read(), "sandbox=strict", "libseccomp")
        check(not mount.is_mounted(at), "it is mounted")


@suite.test("on a kernel without Landlock no thread opens anything, and nothing is said", needs=[built_in])
def _(directory):
    for options in (("sandbox=on",), ("sandbox=strict",)):
        words = ["nothing", "read-passwd", "write-file", "make-file", "mkdir", "chmod"]
        with taken_over(directory, words, *options, old=True) as (daemon, at, says):
            read_some(at)
            found = intruder.answers(says)
            check_equal((found.pop("nothing"), set(found.values())), (0, {errno.ENOSYS}), "what came of it")
            tools.run("umount", at)
            check_equal((daemon.wait(tools.TIMEOUT), daemon.stderr.read()), (0, ""), "its end, and what it said")


@suite.test("stats.json says what is in force on a kernel without Landlock, and without libseccomp",
            needs=[built_in])
def _(directory):
    path = bad.sample("plain", directory)
    for old, hides, missing in (
            (True, None, {"landlock"}), (False, "libseccomp.so.2", {"system-calls"}),
            (True, "libseccomp.so.2", {"landlock", "system-calls", "files", "network"})):
        env, _says = intruder.environment(directory, [], hides, old=old)
        with mock.patch.dict(os.environ, env), mount.mount(path, directory=True) as mounted:
            check_equal({name for name, has in sandbox(mounted).items() if not has}, missing,
                        "what is missing")
    env, _says = intruder.environment(directory, [], "libseccomp.so.2", old=True)
    at = bad.mount_point(directory)
    done = tools.run(run.program(), "-o", "sandbox=strict", path, at, env=env, status=1)
    bad.check_sentence(done.stderr, "sandbox=strict", "libseccomp")
    check(not mount.is_mounted(at), "it is mounted")


@suite.test("the steward has its sockets and nothing else, and signals to end do not reach it")
def _(directory):
    path, at = bad.sample("plain", directory), bad.mount_point(directory)
    with mount.mount(path, at=at, writable=True) as mounted:
        server = mounted.pids[0]
        steward = steward_of(server)
        bad.wait_for(lambda: not others(steward), "the steward has nothing else open")  # its first look is over
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(steward, number)
        os.kill(server, signal.SIGTERM)
        mounted.wait()
        check(not mount.is_mounted(at), "it is mounted still")
        bad.wait_for(lambda: not os.path.exists("/proc/%d" % steward), "the steward's end")


@suite.test("whatever ends the daemon, who reads its output meets the end of it, and no steward stays")
def _(directory):
    for number in (signal.SIGKILL, signal.SIGTERM):
        reading, writing = os.pipe()
        path, at = bad.sample("plain", directory), bad.mount_point(directory)
        env = dict(os.environ, **{run.MARK: run.directory})
        with bad.unmounted_at_the_end(at), subprocess.Popen(
                [run.program(), "-f", "--ready-fd=%d" % writing, path, at], env=env,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                pass_fds=[writing]) as daemon:
            os.close(writing)
            with os.fdopen(reading, "rb") as ready:
                check_equal(ready.read(), b"\n", "what it says when it is ready")
            daemon.send_signal(number)
            check_equal(daemon.stdout.read(), b"", "what it said")
            daemon.wait(tools.TIMEOUT)
            bad.wait_for(lambda: not run.processes(run.directory), "the end of all processes")
            tools.run("umount", "-l", at, status=None)


@suite.test("a daemon that has lost its steward serves on, and ends with the mount")
def _(directory):
    path = bad.sample("plain", directory)
    wanted = bad.contents(path)
    with mount.mount(path, writable=True) as mounted:
        os.kill(steward_of(mounted.pids[0]), signal.SIGKILL)
        with open(mounted.disk, "r+b") as file:
            compare.check_bytes(file.read(), wanted, 0)
            file.seek(0)
            file.write(wanted[:4096])
            os.fsync(file.fileno())


@suite.test("a user's daemon shows its memory to nobody, and is unmounted at SIGTERM",
            needs=[built_in, tools.root, tools.tool("setpriv", "fusermount3")])
def _(directory):
    with bad.public_directory() as public:
        home = os.path.join(public.path, "home")
        at, pid_file = os.path.join(home, "at"), os.path.join(home, "pid")
        os.makedirs(at)
        path = bad.sample("plain", home)
        for name in (home, path, at):
            os.chown(name, int(bad.NOBODY), int(bad.NOBODY))
        done = tools.run(*bad.user_prefix(bad.NOBODY), public.program, "-o",
                         "sandbox=strict,pid-file=" + pid_file, path, at,
                         env={run.MARK: run.directory}, status=None)
        if done.returncode != 0 and "/dev/fuse" in done.stderr:
            raise tap.Skip("a user cannot mount here: %s" % done.stderr)
        with bad.unmounted_at_the_end(at):
            check_equal((done.returncode, done.stderr), (0, ""), "status and line")
            pid = int(text(pid_file))
            check_equal(os.stat("/proc/%d/environ" % pid).st_uid, 0, "who may look into it")
            os.kill(pid, signal.SIGTERM)
            bad.wait_gone(at)
            check(not os.path.exists(pid_file), "its pid file is left")


if __name__ == "__main__":
    suite.main()
