#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The end of a mount: a daemon that ends at once, and dead mounts that are cleaned up."""

import contextlib
import errno
import os
import re
import shlex
import shutil
import signal
import subprocess
import threading

from lib import bad, ctl, files, image, mount, run, tap, tools, tracing
from lib.image import MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.QEMU])
AT_UNMOUNT = os.path.join(os.path.dirname(run.program()), "..", "tests", "e2e", "lib", "at_unmount.so")
LINE = "the qcow2fs that served a mount there was killed; the dead mount is unmounted"


# --- the end ---------------------------------------------------------------------------------


def read_by_many(path, threads=12):
    """So that the daemon has more than its first threads."""
    def read(number):
        with open(path, "rb", buffering=0) as file:
            for offset in range(number * 64 * 1024, 16 * MiB, threads * 64 * 1024):
                file.seek(offset)
                file.read(4096)
    readers = [threading.Thread(target=read, args=(number,)) for number in range(threads)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()


def has_sanitizer():
    with open(run.program(), "rb") as file:
        return re.search(rb"__(asan|tsan|lsan)_init", file.read()) is not None


@suite.test("a daemon whose mount is gone gives back no memory piece by piece, and sleeps no while",
            needs=[tools.tool("strace"), tools.root])
def _(directory):
    if has_sanitizer():
        raise tap.Skip("a sanitizer wants all memory to be given back")
    path = image.create(os.path.join(directory, "image.qcow2"), 1024 ** 4)
    with mount.mount(path, "l2-cache-size=64M", "l2-cache-entry-size=64K", directory=True,
                     writable=True) as mounted:
        read_by_many(mounted.disk)
        with open(mounted.disk, "r+b", buffering=0) as file:  # an L2 table for each
            for offset in range(0, 1024 ** 4, 16 * 1024 ** 3):
                os.pwrite(file.fileno(), b"x", offset)
            os.fsync(file.fileno())
        log = os.path.join(directory, "calls")
        with tracing.noted(mounted.pids[0], "munmap,clock_nanosleep,nanosleep,read", log):
            mounted.stop()
    with open(log, encoding="ascii", errors="replace") as lines:
        found = lines.read()
    check("ENODEV" in found, "no end was seen: %s", found[-2000:])
    after = found[found.index("ENODEV"):]
    unmapped = re.findall(r"munmap\(", after)
    check(len(unmapped) < 10, "%d pieces of memory were given back one by one", len(unmapped))
    check(not re.search(r"tv_nsec=\d{7,}", after), "it slept for long: %s", after)


# --- dead mounts --------------------------------------------------------------------------------


def start(path, at, *options):
    """A daemon that has mounted; to be killed."""
    kind = "other" if "subtype=other" in options else "qcow2fs"
    before = run.mounts().count((at, "fuse.%s" % kind))
    process = run.start([run.program(), "-f", "-o", ",".join(("ro", "nonempty") + options), path, at],
                        stdin=subprocess.DEVNULL)
    bad.wait_for(lambda: run.mounts().count((at, "fuse.%s" % kind)) > before or
                 process.poll() is not None, "the mount")
    check(process.poll() is None, "no mount: status %s", process.returncode)
    os.listdir(at)
    return process


@contextlib.contextmanager
def dead_mount(path, at, *options, count=1):
    """Mounts at `at`, on top of each other, whose daemons were killed."""
    started = []
    try:
        started += [start(path, at, *options) for _ in range(count)]
        for process in started:
            process.kill()
            process.wait()
        check(is_dead(at), "it is not dead")
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()
        while mount.is_mounted(at) and run.unmount(at, lazy=True):
            pass


def is_dead(at):
    try:
        os.listdir(at)
    except OSError as error:
        return error.errno == errno.ENOTCONN
    return False


def abort_connection(minor):
    top = "/sys/fs/fuse/connections"
    if not os.listdir(top):
        tools.run("mount", "-t", "fusectl", "none", top)
    with open("%s/%d/abort" % (top, minor), "w", encoding="ascii") as file:
        file.write("1")


def made(directory):
    path, at = bad.sample("plain", directory), os.path.join(directory, "at")
    os.mkdir(at)
    return path, at


def refused(path, at):
    done = bad.start_and_end("-f", "-o", "ro", path, at)
    check_equal(done.returncode, 1, "the status")
    bad.check_sentence(done.stderr, "is not connected", "fusermount3 -u")


def program_line(at, program="qcow2fs"):
    return "%s: %s: %s\n" % (program, os.path.realpath(at), LINE)


# The kernel gives the number of a device that is gone to the next one.
@suite.test("what is mounted as soon as something is unmounted is not taken for that, whatever its number",
            needs=[tools.root])
def _(directory):
    path, at = bad.sample("plain", directory), os.path.join(directory, "dir")
    next_path, next_at = shutil.copy(path, os.path.join(directory, "next.qcow2")), bad.mount_point(directory)
    os.mkdir(at)
    helper = os.path.join(directory, "umount.fuse.qcow2fs")
    os.symlink(ctl.program(), helper)
    env = {"LD_PRELOAD": AT_UNMOUNT, run.MARK: run.directory,
           "AT_UNMOUNT": shlex.join([run.program(), "-o", "ro", next_path, next_at])}
    for command in ([ctl.program(), "umount"], [helper]):
        for attempt in range(20):
            with mount.mount(path, at=at, directory=True, foreground=False) as mounted:
                number = os.stat(at).st_dev
                done = tools.run(*command, at, env=env, status=None)
                check_equal(mounted.has_ended(), True, "whether the daemon has ended")
            with bad.unmounted_at_the_end(next_at):
                is_same = os.stat(next_at).st_dev == number
                check(attempt < 19 or is_same, "the number is never used again")
                check_equal((done.returncode, done.stdout, done.stderr), (0, "", ""), "what was said")
            if is_same:
                break


@suite.test("qcow2fs cleans up dead mounts of its own, in a line for each, and mounts there",
            needs=[tools.root])
def _(directory):
    path, at = made(directory)
    expected = bad.contents(path)
    for count in (1, 2):
        with dead_mount(path, at, count=count):
            with mount.mount(path, at=at, directory=True, foreground=False) as mounted:
                check_equal(mounted.stderr(), program_line(at) * count, "what it said")
                bad.check_disk(at, "disk.raw", expected)
            check(not mount.is_mounted(at), "a dead mount is still there")


@suite.test("qcow2ctl mount and mount.qcow2 clean them up, too",
            needs=[tools.root, tools.loop, tools.tool("debugfs"), tools.file_system("ext4")])
def _(directory):
    path, at = made(directory)
    whole = files.whole(directory)
    helper = os.path.join(directory, "mount.qcow2")
    os.symlink(ctl.program(), helper)
    for argv in ([ctl.program(), "mount", whole, at], [helper, whole, at]):
        with dead_mount(path, at):
            done = tools.run(*argv, env=files.environment())
            check_equal(done.stderr, program_line(at, "qcow2ctl"), "what it said")
            check_equal(bad.mount_table(at)[1], "ext4", "what is mounted")
            tools.run("umount", at)
            check(not mount.is_mounted(at), "the dead mount is still there")
            files.check_nothing_left(whole)


@suite.test("a mount that answers, one of another type, and one whose daemon lives, are not touched",
            needs=[tools.root])
def _(directory):
    path, at = made(directory)
    with mount.mount(path, at=at, directory=True):
        with mount.mount(path, "nonempty", at=at, directory=True, foreground=False) as above:
            check_equal(above.stderr(), "", "what it said")
        check_equal(os.listdir(at).count("disk.raw"), 1, "what is left")
    with dead_mount(path, at, "subtype=other"):
        refused(path, at)
        check(mount.is_mounted(at), "a mount of another type was taken away")
    process = start(path, at)
    try:
        minor = os.minor(os.stat(at).st_dev)
        bad.stop(process.pid)
        abort_connection(minor)
        check(is_dead(at), "the connection is not aborted")
        refused(path, at)
        check(mount.is_mounted(at), "the mount of a daemon that lives was taken away")
        process.send_signal(signal.SIGCONT)
        check_equal(process.wait(tools.TIMEOUT), 0, "the status of the daemon")
    finally:
        process.kill()
        process.wait()
        run.unmount(at, lazy=True)


@suite.test("an ordinary user cleans up his own by fusermount3",
            needs=[tools.root, tools.tool("setpriv", "fusermount3")])
def _(directory):
    with bad.public_directory() as public:
        home = os.path.join(public.path, "home")
        at = os.path.join(home, "at")
        os.makedirs(at)
        path = bad.sample("plain", home)
        for name in (home, path, at):
            os.chown(name, int(bad.NOBODY), int(bad.NOBODY))

        def mounted():
            return tools.run(*bad.user_prefix(bad.NOBODY), public.program, "-o", "ro", path, at,
                             env={run.MARK: run.directory}, status=None)
        done = mounted()
        if done.returncode != 0:
            raise tap.Skip("a user cannot mount here: %s" % done.stderr)
        with bad.unmounted_at_the_end(at):
            run.kill_daemons(run.directory)
            bad.wait_for(lambda: not run.processes(run.directory), "the end of the daemon")
            done = mounted()
            check_equal((done.returncode, done.stderr), (0, program_line(at)), "status and line")
            tools.run(*bad.user_prefix(bad.NOBODY), "fusermount3", "-u", at)
            check(not mount.is_mounted(at), "the dead mount is still there")


if __name__ == "__main__":
    if os.geteuid() == 0:
        bad.private_mounts()
    suite.main()
