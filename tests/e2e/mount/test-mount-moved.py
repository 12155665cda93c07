#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A mount whose place has another name by now, or lies under something: found all the same, and no other."""

import contextlib
import os
import signal
import subprocess

from lib import bad, ctl, files, image, mount, run, tap, tools
from lib.files import qcow2ctl
from lib.image import MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.root, tools.QEMU])


class Place:
    """A directory with the mount point in it, and what that is called when it was renamed."""

    def __init__(self, top, owner=None):
        self.parent, self.moved = os.path.join(top, "parent"), os.path.join(top, "moved")
        self.at, self.now = os.path.join(self.parent, "at"), os.path.join(self.moved, "at")
        os.makedirs(self.at)
        for name in (self.parent, self.at) if owner is not None else ():
            os.chown(name, owner, owner)

    def move(self):
        os.rename(self.parent, self.moved)

    def clean_up(self):
        for at in (self.at, self.now):
            while mount.is_mounted(at) and run.unmount(at, lazy=True):
                pass


@contextlib.contextmanager
def place(directory, owner=None):
    found = Place(directory, owner)
    try:
        yield found
    finally:
        found.clean_up()


def disk_of(directory, name="image.qcow2"):
    return image.create(os.path.join(directory, name), 64 * MiB)


def write_unsynced(at):
    file = os.open(os.path.join(at, "disk.raw"), os.O_RDWR)
    os.pwrite(file, b"\x5a" * 2 * MiB, 12345)
    os.close(file)


def check_saved(path, directory):
    raw = os.path.join(directory, "raw")
    image.to_raw(path, raw)
    with open(raw, "rb") as disk:
        disk.seek(12345)
        check(disk.read(2 * MiB) == b"\x5a" * 2 * MiB, "the data is not in the image")


def mount_it(path, at, *options, prefix=(), program=None):
    tools.run(*prefix, program or run.program(), *(["-o", ",".join(options)] if options else []), path, at,
              env=files.environment())
    return files.listed(path)[0]["pid"]


@contextlib.contextmanager
def served(path, at, *prefix, program=None):
    """A daemon in the foreground, that has answered; it is killed at the end, if it still runs."""
    with subprocess.Popen([*prefix, program or run.program(), "-f", path, at], stdin=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, text=True,
                          env=tools.environment(**files.environment())) as daemon:
        try:
            bad.wait_for(lambda: mount.is_mounted(at) or daemon.poll() is not None, "the mount")
            tools.run(*prefix, "ls", at)
            yield daemon
        finally:
            daemon.kill()


def end_of(daemon):
    """(status, what it said)."""
    said = daemon.communicate(timeout=tools.TIMEOUT)[1]
    return daemon.returncode, said


@suite.test("a signal ends a daemon below a renamed directory, saves all, and leaves no mount")
def _(directory):
    for options in ((), ("ro",), ("allow_other",)):
        top = os.path.join(directory, "-".join(options) or "rw")
        os.mkdir(top)
        with place(top) as there:
            path = disk_of(top)
            pid = mount_it(path, there.at, *options)
            there.move()
            if options != ("ro",):
                write_unsynced(there.now)
            os.kill(pid, signal.SIGTERM)
            files.check_nothing_left(path)
            check(not mount.is_mounted(there.now), "%s: a dead mount is left", options)
        if options != ("ro",):
            check_saved(path, top)


@suite.test("auto_unmount behind a killed daemon finds a mount that was moved, too")
def _(directory):
    with place(directory) as there:
        pid = mount_it(disk_of(directory), there.at, "ro", "auto_unmount")
        there.move()
        os.kill(pid, signal.SIGKILL)
        bad.wait_for(lambda: not mount.is_mounted(there.now), "it is unmounted")


@suite.test("an abort is told from an unmount where the directory above was renamed: the status is 1")
def _(directory):
    with place(directory) as there, served(disk_of(directory), there.at) as daemon:
        there.move()
        file = os.open(os.path.join(there.now, "disk.raw"), os.O_RDWR)
        os.pwrite(file, b"\5" * MiB, 0)
        tools.run("umount", "-i", "-f", there.now, status=None)
        status, said = end_of(daemon)
        with contextlib.suppress(OSError):
            os.close(file)
        check_equal(status, 1, "the exit status")
        check("was aborted" in said, "it said %s", said)


@suite.test("a signal as soon as there is a mount is no abort: nothing is said, and nothing left")
def _(directory):
    path = disk_of(directory)
    with place(directory) as there:
        for _ in range(20):
            with subprocess.Popen([run.program(), "-f", path, there.at], stdin=subprocess.DEVNULL,
                                  stderr=subprocess.PIPE, text=True,
                                  env=tools.environment(**files.environment())) as daemon:
                try:
                    while not mount.is_mounted(there.at) and daemon.poll() is None:
                        pass
                    daemon.terminate()
                    check_equal(end_of(daemon), (0, ""), "status and what it said")
                finally:
                    daemon.kill()
            check(not mount.is_mounted(there.at), "it is still mounted")


@suite.test("what is mounted over it is not touched, and a line says that it is left below")
def _(directory):
    path = disk_of(directory)
    with place(directory) as there:
        with served(path, there.at) as daemon:
            write_unsynced(there.at)
            tools.run("mount", "-t", "tmpfs", "none", there.at)
            daemon.terminate()
            status, said = end_of(daemon)
        check_equal(status, 0, "the exit status (%s)" % said)
        bad.check_sentence(said, there.at, "is mounted over it", "findmnt")
        check_equal(bad.mount_table(there.at)[1], "tmpfs", "what is mounted there")
    check_saved(path, directory)


@suite.test("qcow2ctl lists and unmounts it where it is, by image and by place, and nothing at its old place")
def _(directory):
    path = disk_of(directory)
    for wanted in ("image", "place"):
        top = os.path.join(directory, wanted)
        os.mkdir(top)
        with place(top) as there:
            mount_it(path, there.at)
            there.move()
            os.makedirs(there.at)
            tools.run("mount", "-t", "tmpfs", "none", there.at)
            check_equal(files.listed(path)[0]["mount-point"], there.now, "the place in the list")
            done = qcow2ctl("umount", path if wanted == "image" else there.now)
            check_equal(done.stderr, "", "what it said")
            check(not mount.is_mounted(there.now), "it is still mounted")
            check(mount.is_mounted(there.at), "what is mounted at its old place was unmounted")
            files.check_nothing_left(path)


@suite.test("a bind mount is unmounted alone by umount, and named where it keeps the image")
def _(directory):
    path, bound = disk_of(directory), os.path.join(directory, "bound")
    helper = os.path.join(directory, "umount.fuse.qcow2fs")
    os.symlink(ctl.program(), helper)
    os.mkdir(bound)
    with place(directory) as there:
        mount_it(path, there.at)
        try:
            tools.run("mount", "--bind", there.at, bound)
            tools.run(helper, bound, env=files.environment())
            check_equal((mount.is_mounted(there.at), mount.is_mounted(bound)), (True, False), "what is mounted")
            tools.run("mount", "--bind", there.at, bound)
            done = qcow2ctl("umount", path, status=1)
            bad.check_sentence(done.stderr, path, "is still mounted at " + bound, program="qcow2ctl")
            qcow2ctl("umount", path)
            files.check_nothing_left(path)
        finally:
            if mount.is_mounted(bound):
                run.unmount(bound, lazy=True)


# --- without root ---------------------------------------------------------------------------------


def as_user(*argv, **keywords):
    return tools.run(*bad.user_prefix(bad.NOBODY), *argv, env=files.environment(), **keywords)


@contextlib.contextmanager
def place_of_user():
    with files.place_of_user() as (home, program):
        os.chown(home, 65534, 65534)
        with place(home, 65534) as there:
            yield home, program, there


@suite.test("an ordinary user's goes by fusermount3, and what he renamed above root's keeps root's not",
            needs=[tools.tool("setpriv", "fusermount3")])
def _(directory):
    del directory
    for user in (bad.NOBODY, None):
        with place_of_user() as (home, program, there):
            path = disk_of(home)
            os.chown(path, 65534, 65534)
            qcow2fs = os.path.join(os.path.dirname(program), "qcow2fs")
            pid = mount_it(path, there.at, prefix=bad.user_prefix(user) if user else (), program=qcow2fs)
            as_user("mv", there.parent, there.moved)
            script = 'head -c 2M /dev/zero | tr "\\0" "\\132" | dd of="$0" bs=1M seek=12345B iflag=fullblock ' \
                     'conv=notrunc status=none'
            disk = os.path.join(there.now, "disk.raw")
            if user:
                as_user("sh", "-c", script, disk)
            else:
                tools.run("sh", "-c", script, disk)
            os.kill(pid, signal.SIGTERM)
            files.check_nothing_left(path)
            check(not mount.is_mounted(there.now), "a dead mount is left")
            check_saved(path, home)


@suite.test("an ordinary user's way that is closed keeps no daemon: it ends, with a line",
            needs=[tools.tool("setpriv", "fusermount3")])
def _(directory):
    del directory
    with place_of_user() as (home, program, there):
        path = disk_of(home)
        os.chown(path, 65534, 65534)
        qcow2fs = os.path.join(os.path.dirname(program), "qcow2fs")
        try:
            with served(path, there.at, *bad.user_prefix(bad.NOBODY), program=qcow2fs) as daemon:
                os.chmod(there.parent, 0)
                daemon.terminate()
                status, said = end_of(daemon)
            check_equal(status, 0, "the exit status (%s)" % said)
            bad.check_sentence(said, there.at, "cannot be unmounted: Permission denied", "findmnt")
        finally:
            os.chmod(there.parent, 0o755)


@suite.test("a FUSE program's mount is found where its directory was renamed, and unmounted with the image",
            needs=[tools.tool("fuse2fs", "setpriv", "fusermount3")])
def _(directory):
    del directory
    for by_image in (True, False):
        with place_of_user() as (home, program, there):
            path = files.whole(home)
            os.chown(path, 65534, 65534)
            as_user(program, "mount", path, there.at)
            if not any("fuse_connection" in told(pid) for pid in pids_of("fuse2fs")):
                as_user(program, "umount", there.at)
                raise tap.Skip("the kernel does not say which connection is whose")
            there.move()
            check_equal(files.listed(path)[0]["file-systems"], [there.now], "what is listed")
            as_user(program, "umount", path if by_image else there.now)
            check(not mount.is_mounted(there.now), "it is still mounted")
            files.check_nothing_left(path)


def pids_of(name):
    return [int(pid) for pid in tools.run("pgrep", "-x", name, status=None).stdout.split()]


def told(pid):
    found = ""
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc/%d/fdinfo" % pid):
            with open("/proc/%d/fdinfo/%s" % (pid, name), encoding="ascii") as file:
                found += file.read()
    return found


if __name__ == "__main__":
    bad.private_mounts()
    suite.main()
