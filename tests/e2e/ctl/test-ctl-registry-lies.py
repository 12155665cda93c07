#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Files in the registry that a user makes up: root unmounts, kills, changes and reports nothing upon
their word, and finds the user's real mounts as ever."""

import contextlib
import itertools
import json
import os
import select
import signal
import subprocess
import sys

from lib import bad, ctl, files, image, mount, run, tap, tools
from lib.image import MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.root, tools.QEMU, tools.tool("setpriv")])

USER = int(bad.NOBODY)

# A record of the user's, held as a daemon holds one, by a process that has `held` open, and answers
# at its socket what a daemon would. {pid} is that process. It ends with its standard input.
LIAR = r"""
import fcntl, json, os, socket, sys, threading
wish = json.loads(sys.argv[1])
directory = "/tmp/qcow2fs-%d" % os.getuid()
os.makedirs(directory, 0o700, exist_ok=True)
name = os.path.join(directory, str(os.getpid()))
held = [open(path, "r+b") for path in wish["held"]]
control = name + ".control"
if wish["socket"] == "own":
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listening.bind(control)
    listening.listen(8)
    def answer():
        while True:
            other = listening.accept()[0]
            other.recv(16384)
            other.send(b"error=0\0id=1\0name=nightly\0dirty=0\0")
            other.close()
    threading.Thread(target=answer, daemon=True).start()
else:
    os.symlink(wish["socket"], control)
with open(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    file.write(wish["record"].replace("{pid}", str(os.getpid())).encode())
    file.flush()
    print("ready", flush=True)
    sys.stdin.read()
    os.unlink(name)
    os.unlink(control)
"""


def record(path, at="", pid="{pid}", device=0, file=None):
    """`file`: which the image is said to be."""
    pairs = ["writable=1", "overlay=0", "since=1", "major=%d" % os.major(device),
             "minor=%d" % os.minor(device), "image=" + path, "mount-point=" + at, "pid=%s" % pid]
    if file is not None:
        status = os.stat(file)
        pairs += ["image-major=%d" % os.major(status.st_dev), "image-minor=%d" % os.minor(status.st_dev),
                  "image-inode=%d" % status.st_ino]
    return "".join(pair + "\0" for pair in pairs)


@contextlib.contextmanager
def liar(text, held=(), socket="own"):
    wish = json.dumps({"record": text, "held": list(held), "socket": socket})
    process = subprocess.Popen([*bad.user_prefix(bad.NOBODY), sys.executable, "-c", LIAR, wish],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/")
    try:
        ready, _, _ = select.select([process.stdout], [], [], tools.TIMEOUT)
        check(ready and process.stdout.readline() == "ready\n", "the user's process says nothing")
        yield process
    finally:
        process.stdin.close()
        process.wait(tools.TIMEOUT)
        process.stdout.close()
        for name in (str(process.pid), "%d.control" % process.pid):  # it may have been killed
            with contextlib.suppress(FileNotFoundError):
                os.unlink("/tmp/qcow2fs-%d/%s" % (USER, name))


@contextlib.contextmanager
def place():
    """(home, qcow2fs): the user's, who may mount."""
    with bad.public_directory() as public:
        home = os.path.join(public.path, "home")
        os.mkdir(home)
        os.chown(home, USER, USER)
        yield home, public.program


def image_of(home, name, user=USER, mode=0o600):
    path = image.create(os.path.join(home, name), MiB)
    os.chown(path, user, user)
    os.chmod(path, mode)
    return path


@contextlib.contextmanager
def something_of_roots(directory):
    """(where root has mounted something, a process of root's)."""
    at = os.path.join(directory, "roots")
    os.mkdir(at)
    tools.run("mount", "-t", "tmpfs", "none", at)
    process = subprocess.Popen(["sleep", "1000"])
    try:
        yield at, process
        check(mount.is_mounted(at), "root's mount is gone")
        check_equal(process.poll(), None, "the end of root's process")
    finally:
        process.kill()
        process.wait()
        if mount.is_mounted(at):
            tools.run("umount", at)


CONNECTIONS = "/sys/fs/fuse/connections"

# Where the kernel's list of connections is mounted, and where it is not, as in many containers.
WAYS = {"fusectl": "mountpoint -q %s || mount -t fusectl none %s" % (CONNECTIONS, CONNECTIONS),
        "none": "! mountpoint -q %s || umount %s" % (CONNECTIONS, CONNECTIONS)}


def listed_with(way, path):
    """files.listed(), in mounts of its own."""
    text = tools.output("unshare", "--mount", "sh", "-ec", WAYS[way] + '; exec "$@"', "sh", ctl.program(),
                        "list", "--json")
    return [item for item in json.loads(text) if item["image"] == os.path.realpath(path)]


def snapshots(path):
    return [line.split()[1] for line in tools.output("qemu-img", "snapshot", "-l", path)
            .splitlines()[2:]]


@suite.test("root's mounts and processes are left alone that a user's record calls a daemon's",
            needs=[tools.tool("mount", "umount")])
def _(directory):
    with place() as (home, _program), something_of_roots(directory) as (at, process):
        path, device = image_of(home, "x.qcow2"), os.stat(at).st_dev
        for pid, held in ((process.pid, [path]), ("{pid}", [path]), ("{pid}", [])):
            with liar(record(path, at, pid, device), held) as lying:
                listed = ctl.ctl("list").stdout
                done = ctl.ctl("umount", "--kill-after", "1", path, status=None)
                check(mount.is_mounted(at) and process.poll() is None, "with %s, %s", pid, held)
                check(at not in listed, "it was listed")
                check_equal(done.returncode, 1, "the exit status")
                check(("no running qcow2fs" in done.stderr) == (not held or pid != "{pid}"),
                      "it said %s", done.stderr)
                ctl.refused("umount", at, words=["no running qcow2fs"])
                check(held or lying.poll() is None, "its own process was ended")


@suite.test("no snapshot or bitmap is reported that nobody made, upon a user's word")
def _(directory):
    os.chmod(directory, 0o700)
    path = image.create(os.path.join(directory, "r.qcow2"), MiB)
    with place() as (home, _program):
        other = image_of(home, "x.qcow2")
        for held, file in itertools.product(([], [other]), (None, path, other)):
            with liar(record(path, file=file), held):
                listed = ctl.ctl("list").stdout + ctl.ctl("list", "--json").stdout
                ctl.ctl("snapshot", "-c", "nightly", path)
                check_equal(snapshots(path), ["nightly"], "the snapshots made")
                check(path not in listed, "it was listed")
                ctl.ctl("snapshot", "-d", "nightly", path)
                check_equal(snapshots(path), [], "the snapshots left")
                ctl.ctl("bitmap", "--add", path, "b")
                check("bitmaps" in str(image.info(path)["format-specific"]), "no bitmap")
                ctl.ctl("bitmap", "--remove", path, "b")


@suite.test("root unmounts his image, whoever says that he has mounted it, too")
def _(directory):
    path = image.create(os.path.join(directory, "r.qcow2"), MiB)
    with liar(record(path)):
        with mount.mount(path, directory=True, foreground=False, writable=True) as mounted:
            with liar(record(path, mounted.path, "{pid}", os.stat(mounted.path).st_dev)):
                listed = files.listed(path)
                files.qcow2ctl("snapshot", "-c", "nightly", path)
                files.qcow2ctl("umount", path)
                check(not mount.is_mounted(mounted.path), "still mounted")
                check_equal(len(listed), 1, "the number of daemons listed")
    check_equal(snapshots(path), ["nightly"], "the snapshots")


@suite.test("a name in a user's directory leads no question to a daemon of root's")
def _(directory):
    path = image.create(os.path.join(directory, "r.qcow2"), MiB)
    with place() as (home, _program), mount.mount(path, directory=True, foreground=False, writable=True):
        other = image_of(home, "x.qcow2")
        pid = files.listed(path)[0]["pid"]
        with liar(record(other), [other], "/run/qcow2fs/%d.control" % pid):
            ctl.refused("snapshot", "-c", "nightly", other, words=["does not answer"])
    check_equal(snapshots(path), [], "the snapshots of root's image")


@suite.test("root lists, changes and unmounts what a user has mounted, whose image it may be",
            needs=[tools.tool("fusermount3")])
def _(directory):
    del directory
    with place() as (home, program):
        at = os.path.join(home, "at")
        os.mkdir(at)
        os.chown(at, USER, USER)
        for name, user, mode in (("his.qcow2", USER, 0o600), ("roots.qcow2", 0, 0o666)):
            path = image_of(home, name, user, mode)
            for way in (path, at):
                tools.run(*bad.user_prefix(bad.NOBODY), program, path, at,
                          env=files.environment())
                with bad.unmounted_at_the_end(at):
                    found = files.listed(path)
                    check_equal([(each["mount-point"], each["uid"]) for each in found], [(at, USER)],
                                "what is listed")
                    check("as its user says" not in ctl.ctl("list").stdout, "it is doubted")
                    ctl.ctl("snapshot", "-c", "s", way)
                    check_equal(ctl.ctl("snapshot", "-l", way).stdout.split().count("s"), 1, "the list")
                    ctl.ctl("snapshot", "-d", "s", way)
                    files.qcow2ctl("umount", way)
                    check(not mount.is_mounted(at), "still mounted")
                files.check_nothing_left(path)


@suite.test("a user's image is found by root by the name that it has now", needs=[tools.tool("fusermount3")])
def _(directory):
    del directory
    with place() as (home, program):
        path, at, now = image_of(home, "x.qcow2"), os.path.join(home, "at"), os.path.join(home, "now.qcow2")
        os.mkdir(at)
        os.chown(at, USER, USER)
        tools.run(*bad.user_prefix(bad.NOBODY), program, path, at, env=files.environment())
        with bad.unmounted_at_the_end(at):
            os.rename(path, now)
            image_of(home, "x.qcow2")
            check_equal([each["image"] for each in json.loads(ctl.ctl("list", "--json").stdout)
                         if each["mount-point"] == at], [now], "the image in the list")
            ctl.ctl("snapshot", "-c", "s", path)
            ctl.ctl("snapshot", "-c", "t", now)
            check_equal((snapshots(path), [line.split()[1] for line in tools.output(
                "qemu-img", "snapshot", "-U", "-l", now).splitlines()[2:]]), (["s"], ["t"]), "the snapshots of both")
            files.qcow2ctl("umount", now)
            check(not mount.is_mounted(at), "still mounted")


@suite.test("root's mount is left alone that an argument of a user's program names",
            needs=[tools.tool("fusermount3", "fuse2fs")])
def _(directory):
    raw = os.path.join(directory, "raw")
    at = os.path.join(directory, "roots")
    os.mkdir(at)
    image.sparse_raw(raw, 16 * MiB)
    files.make_file_system(raw, "ext4", "roots")
    with place() as (home, program):
        path, disk = image_of(home, "x.qcow2"), os.path.join(home, "disk")
        bad.mount_point(home, "disk")
        os.chown(disk, USER, USER)
        shown = subprocess.Popen(["fuse2fs", "-f", "-o", "ro", raw, at], stdin=subprocess.DEVNULL,
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with shown, bad.unmounted_at_the_end(at), bad.unmounted_at_the_end(disk):
            bad.wait_for(lambda: mount.is_mounted(at), "root's mount")
            tools.run(*bad.user_prefix(bad.NOBODY), program, path, disk, env=files.environment())
            script = "import sys; f = open(sys.argv[1], 'rb'); print('ready', flush=True); sys.stdin.read()"
            process = subprocess.Popen([*bad.user_prefix(bad.NOBODY), sys.executable, "-c", script,
                                        disk, at], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            try:
                check_equal(process.stdout.readline(), b"ready\n", "what the user's process says")
                check_equal([each["file-systems"] for each in files.listed(path)], [[]], "the list")
                ctl.ctl("umount", path, status=1)  # it is in use
                check(mount.is_mounted(at), "root's mount is gone")
            finally:
                process.stdin.close()
                process.wait(tools.TIMEOUT)
                process.stdout.close()
            files.qcow2ctl("umount", path)


@suite.test("a user's files are seen by root, and unmounted, that a program of his shows",
            needs=[tools.tool("fusermount3", "fuse2fs", "debugfs", "unshare", "mountpoint"),
                   tools.file_system("ext4")])
def _(directory):
    del directory
    with files.place_of_user() as (home, program):
        path, at = files.whole(home), os.path.join(home, "at")
        os.mkdir(at)
        for name in (home, path, at):
            os.chown(name, USER, USER)
        for way in (path, at):
            tools.run(*bad.user_prefix(bad.NOBODY), program, "mount", path, at,
                      env=files.environment())
            with bad.unmounted_at_the_end(at):
                for connections in WAYS:
                    check_equal([each["file-systems"] for each in listed_with(connections, path)], [[at]],
                                "the list, with %s" % connections)
                files.qcow2ctl("umount", way)
                check(not mount.is_mounted(at), "still mounted")
            files.check_nothing_left(path)


@suite.test("what root has attached is not a user's who says that it is his daemon's",
            needs=[tools.loop, tools.tool("unshare", "mountpoint")])
def _(directory):
    roots = files.whole(directory)
    with place() as (home, _program), files.attached(roots) as device:
        path = image_of(home, "x.qcow2")
        with open("/run/qcow2fs/%d" % files.listed(roots)[0]["pid"], encoding="utf-8") as file:
            pairs = dict(pair.split("=", 1) for pair in file.read().split("\0") if pair)
        with liar(record(path, device=os.makedev(int(pairs["major"]), int(pairs["minor"]))), [path]):
            for connections in WAYS:
                check_equal([each["loop-devices"] for each in listed_with(connections, roots)], [[device]],
                            "root's, with %s" % connections)
                check_equal([each["loop-devices"] for each in listed_with(connections, path)], [[]],
                            "the user's, with %s" % connections)


@suite.test("nothing that is mounted in a user's directory keeps root waiting")
def _(directory):
    own = image.create(os.path.join(directory, "own.qcow2"), MiB)
    with liar(record(own)) as lying:
        at = "/tmp/qcow2fs-%d/%d" % (USER, lying.pid + (1 << 22))
        with open(at, "wb"):
            pass
        try:
            with mount.mount(own, at=at) as mounted:
                bad.stop(mounted.pids[0])
                try:
                    ctl.ctl("list", seconds=bad.SOON)
                finally:
                    os.kill(mounted.pids[0], signal.SIGCONT)
        finally:
            os.unlink(at)


if __name__ == "__main__":
    if os.geteuid() == 0:
        bad.private_mounts()
    suite.main()
