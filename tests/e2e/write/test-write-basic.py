#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writing through a mount: what was written is in the image, and nothing else has changed."""

import contextlib
import errno
import json
import mmap
import os
import random
import resource
import signal
import time

from lib import bad, compare, image, mount, qcow2, run, tap, tools
from lib.image import KiB, MiB
from lib.tap import check, check_equal
from lib.twin import KEEP_SIZE, SIZE, ZERO_RANGE, Twin, check_image, opened, plain, with_raw
from lib.write import fallocate, refuses

suite = tap.Suite(needs=[tools.fuse, tools.QEMU])

# --- formats and modes --------------------------------------------------------------------------


def with_backing(directory):
    image.sparse_raw(os.path.join(directory, "base.raw"), SIZE - 3 * MiB)
    path = image.create(os.path.join(directory, "image.qcow2"), SIZE, backing="base.raw",
                        backing_format="raw")
    image.io(path, image.write(0, MiB, 1))
    return path


def with_snapshot(directory):
    path = plain(directory)
    tools.run("qemu-img", "snapshot", "-c", "before", path)
    return path


def with_data_file(directory):
    path = os.path.join(directory, "image.qcow2")
    return image.create(path, SIZE, data_file=os.path.join(directory, "data.raw"))


FORMATS = {
    "version 3": plain,
    "version 2": lambda directory: plain(directory, compat="0.10"),
    "clusters of 512 bytes": lambda directory: plain(directory, cluster_size=512),
    "clusters of 2 MiB": lambda directory: image.create(os.path.join(directory, "image.qcow2"),
                                                        SIZE, cluster_size="2M"),
    "extended L2 entries": lambda directory: image.create(os.path.join(directory, "image.qcow2"),
                                                          SIZE, extended_l2="on"),
    "a backing file": with_backing,
    "a snapshot": with_snapshot,
    "a data file": with_data_file,
}


def write_and_compare(directory, make, *options):
    path = make(directory)
    raw = with_raw(path, directory)
    with mount.mount(path, *options, writable=True) as mounted:
        check_equal(mounted.stderr(), "", "what it said")
        with Twin(mounted.disk, raw) as twin:
            twin.scribble(SIZE, 1, 150)
        compare.check_files(mounted.disk, raw)
        compare.forget(mounted.disk)
        compare.check_files(mounted.disk, raw)
    check_image(path, raw)


for _name, _make in FORMATS.items():
    suite.test("what is written to an image with %s is read back, and in it" % _name)(
        lambda directory, make=_make: write_and_compare(directory, make))

for _mode in ("none", "writethrough", "directsync"):
    suite.test("what is written with cache=%s is read back, and in the image" % _mode)(
        lambda directory, mode=_mode: write_and_compare(directory, plain, "cache=" + mode))

suite.test("what is written in one thread is read back, and in the image")(
    lambda directory: write_and_compare(directory, plain, "threads=1"))


@suite.test("what is written with cache=unsafe is in the image, and one line says what it means")
def _(directory):
    path = plain(directory)
    raw = with_raw(path, directory)
    with mount.mount(path, "cache=unsafe", writable=True) as mounted:
        bad.check_sentence(mounted.stderr(), "cache=unsafe", "crash")
        with Twin(mounted.disk, raw) as twin:
            twin.scribble(SIZE, 2, 50)
    check_image(path, raw)


@suite.test("a snapshot shows what it did before, and cannot be written")
def _(directory):
    path = with_snapshot(directory)
    raw = with_raw(path, directory)
    before = os.path.join(directory, "before.raw")
    os.rename(raw, before)
    with mount.mount(path, directory=True, writable=True) as mounted:
        snapshot = os.path.join(mounted.path, "snapshots", "before", "disk.raw")
        with opened(mounted.disk) as handle:
            os.pwrite(handle, b"x" * MiB, 0)
        compare.check_files(snapshot, before)
        check_equal(os.stat(snapshot).st_mode & 0o222, 0, "permissions to write a snapshot")
        for name in (snapshot, os.path.join(mounted.path, "info.json")):
            refuses(errno.EROFS, os.open, name, os.O_RDWR)
            refuses(errno.EPERM, os.truncate, name, 10)
        refuses(errno.EPERM, os.chmod, mounted.path, 0o777)
    tools.run("qemu-img", "check", "-q", path)
    tools.run("qemu-img", "snapshot", "-a", "before", path)
    check_image(path, before)


@suite.test("a mount over the image itself can be written")
def _(directory):
    path = plain(directory)
    raw = with_raw(path, directory)
    with mount.mount(path, at=path, writable=True) as mounted:
        with Twin(mounted.disk, raw) as twin:
            twin.scribble(SIZE, 3, 50)
    check_image(path, raw)


@suite.test("what is written through a mapping, and past the page cache, is in the image")
def _(directory):
    path = plain(directory)
    raw = with_raw(path, directory)
    with mount.mount(path, writable=True) as mounted:
        for name in (mounted.disk, raw):
            with opened(name) as handle, mmap.mmap(handle, SIZE) as mapped:
                mapped[5 * MiB:5 * MiB + 100000] = b"m" * 100000
            with opened(name, os.O_RDWR | os.O_DIRECT) as handle, mmap.mmap(-1, MiB) as buffer:
                buffer[:] = b"d" * MiB
                check_equal(os.pwritev(handle, [buffer], 6 * MiB), MiB, "what was written")
    check_image(path, raw)


# --- keeping what was written -------------------------------------------------------------------


def read_back(path, offset, length):
    """What qemu-io reads of an image that nobody else has open."""
    raw = os.path.join(run.directory, "piece.raw")
    tools.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, raw)
    with open(raw, "rb") as file:
        file.seek(offset)
        return file.read(length)


def write_and_signal(directory, number, foreground, keeps_open, *arguments):
    path = image.create(os.path.join(directory, "image.qcow2"), SIZE)
    data = random.Random(1).randbytes(300 * KiB)
    with mount.mount(path, writable=True, foreground=foreground,
                     arguments=arguments) as mounted:
        with opened(mounted.disk) as handle:
            os.pwrite(handle, data, 12345)
            if keeps_open:
                mounted.signal(number)
        if not keeps_open:
            mounted.signal(number)
        check(not mount.is_mounted(mounted.path), "it is still mounted")
    compare.check_bytes(read_back(path, 12345, len(data)), data, 12345)
    tools.run("qemu-img", "check", "-q", path)


for _signal in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    suite.test("%s loses nothing of what a program has written, and not synced"
               % _signal.name)(
        lambda directory, number=_signal: write_and_signal(directory, number, True, True))

suite.test("SIGTERM loses nothing when the daemon is in the background")(
    lambda directory: write_and_signal(directory, signal.SIGTERM, False, True))
suite.test("SIGTERM loses nothing when one thread serves")(
    lambda directory: write_and_signal(directory, signal.SIGTERM, True, True, "-s"))
suite.test("SIGTERM loses nothing of a file that is closed")(
    lambda directory: write_and_signal(directory, signal.SIGTERM, True, False))


@suite.test("what was synced survives a daemon that is killed")
def _(directory):
    path = plain(directory)
    data = random.Random(5).randbytes(2 * MiB)
    with mount.mount_that_ends_badly(path, writable=True) as mounted:
        with opened(mounted.disk) as handle:
            os.pwrite(handle, data, 4 * MiB)
            os.fsync(handle)
            mounted.kill()
    compare.check_bytes(read_back(path, 4 * MiB, len(data)), data, 4 * MiB)
    done = tools.run("qemu-img", "check", "-q", path, status=None)
    check(done.returncode in (0, 3), "more than leaks after a crash: %s", done.stdout)


@suite.test("an image that is mounted to be written is locked: others get a refusal")
def _(directory):
    path = plain(directory)
    with mount.mount(path, writable=True):
        bad.refused(path, "another program", options=["rw"])
        bad.refused(path, "another program", options=["ro"])
        check(image.io(path, "write 0 512", status=None).returncode != 0, "qemu-io could write")


@suite.test("an image that another program writes to is refused, not mounted read-only")
def _(directory):
    path = plain(directory)
    with bad.held(path):
        bad.refused(path, "another program", options=["rw"])
    with bad.held(path, "-r"):
        bad.refused(path, "another program", options=["rw"])


# --- what can be changed ------------------------------------------------------------------------


@suite.test("permissions to write are those of the image; owner and mode cannot be changed")
def _(directory):
    for mode, options, expected in ((0o644, (), 0o644), (0o464, (), 0o464), (0o400, (), 0o400),
                                    (0o600, ("mode=666",), 0o666), (0o666, ("umask=022",), 0o644)):
        if os.geteuid() != 0 and not mode & 0o200:
            continue
        path = plain(directory)
        os.chmod(path, mode)
        with mount.mount(path, *options, writable=True) as mounted:
            status = os.stat(mounted.disk)
            check_equal(oct(status.st_mode & 0o7777), oct(expected), "the mode")
            os.chmod(mounted.disk, expected)
            os.chown(mounted.disk, status.st_uid, status.st_gid)
            refuses(errno.EPERM, os.chmod, mounted.disk, 0o777)
            if os.geteuid() == 0:
                refuses(errno.EPERM, os.chown, mounted.disk, status.st_uid + 1, -1)
            os.utime(mounted.disk, (1000, 2000))


@suite.test("the disk was last changed when the image was, until it is written to")
def _(directory):
    path = plain(directory)
    for at_directory in (False, True):
        os.utime(path, (1500000000, 1600000000))
        with mount.mount(path, directory=at_directory, foreground=False, writable=True) as mounted:
            check_equal(os.stat(mounted.disk).st_mtime, 1600000000, "its time")
            with opened(mounted.disk) as handle:
                os.pwrite(handle, b"x", 0)
            changed = os.stat(mounted.disk).st_mtime
            # The kernel does not count the time of a mount point itself.
            check(abs(changed - time.time()) < 100 or not at_directory, "it is still %r", changed)


@suite.test("the disk was last changed when any file was that holds a part of it")
def _(directory):
    base, path = plain(directory), os.path.join(directory, "overlay.qcow2")
    image.create(path, SIZE, backing=base, backing_format="qcow2")
    data = os.path.join(directory, "data.raw")
    image.create(os.path.join(directory, "data.qcow2"), SIZE, data_file=data)
    for top, part in ((path, base), (os.path.join(directory, "data.qcow2"), data)):
        os.utime(top, (1500000000, 1600000000))
        os.utime(part, (1500000000, 1600000500))
        for writable in (False, True):
            for at_directory in (False, True):
                with mount.mount(top, directory=at_directory, foreground=False,
                                 writable=writable) as mounted:
                    check_equal(os.stat(mounted.disk).st_mtime, 1600000500, "its time")
                    if at_directory:
                        check_equal(os.stat(mounted.path).st_mtime, 1600000500, "the directory's")


@suite.test("names cannot be made, removed or changed: EPERM, and not ENOSYS")
def _(directory):
    path = plain(directory)
    with mount.mount(path, directory=True, writable=True) as mounted:
        new = os.path.join(mounted.path, "new")
        for function, arguments in ((os.unlink, (mounted.disk,)), (os.rename, (mounted.disk, new)),
                                    (os.mkdir, (new,)), (os.symlink, ("x", new)),
                                    (os.link, (mounted.disk, new)), (os.mkfifo, (new,)),
                                    (os.open, (new, os.O_CREAT | os.O_WRONLY)),
                                    (os.rmdir, (os.path.join(mounted.path, "disk.raw"),))):
            refuses(errno.ENOTDIR if function is os.rmdir else errno.EPERM, function, *arguments)
        for command in (("rm", "-f", mounted.disk), ("touch", new), ("mkdir", new),
                        ("mv", mounted.disk, new)):
            done = tools.run(*command, status=None)
            check("not implemented" not in done.stderr and done.returncode != 0, "%s said %r",
                  command[0], done.stderr)
        check("disk.raw" in os.listdir(mounted.path), "the disk is gone")


@suite.test("statvfs tells what the disk occupies, and what is free on the host")
def _(directory):
    path = plain(directory)
    for at_directory in (False, True):
        with mount.mount(path, directory=at_directory) as mounted:
            host, told = os.statvfs(path), os.statvfs(mounted.path)
            free, used = told.f_bavail * told.f_frsize, os.stat(path).st_blocks * 512
            check(abs(free - host.f_bavail * host.f_frsize) < 256 * MiB, "%d are free, and not %d",
                  free, host.f_bavail * host.f_frsize)
            check_equal(told.f_bfree, told.f_bavail, "what is free")
            check(0 <= (told.f_blocks - told.f_bfree) * told.f_frsize - used < 65536,
                  "%d blocks are used", told.f_blocks - told.f_bfree)


@suite.test("stats.json counts what was written")
def _(directory):
    path = plain(directory)
    with mount.mount(path, directory=True, writable=True) as mounted:
        stats = os.path.join(mounted.path, "stats.json")
        if not os.path.exists(stats):
            raise tap.Skip("a build without jansson")
        with opened(mounted.disk) as handle:
            os.pwrite(handle, b"x" * MiB, MiB)
            os.fsync(handle)
            fallocate(handle, ZERO_RANGE | KEEP_SIZE, 0, MiB)
            os.ftruncate(handle, 20 * MiB)
        with open(stats, encoding="utf-8") as file:
            counted = json.load(file)
        check_equal(counted["bytes-written"], MiB, "bytes-written")
        for name in ("write", "fallocate", "fsync", "flush", "setattr"):
            check(counted["requests"][name] > 0, "no %s was counted", name)


@suite.test("a limit on the size of files fails the write, and the daemon goes on")
def _(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), SIZE)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MiB, hard))
    try:
        started = mount.mount(path, "cache=writethrough", writable=True)
        mounted = started.__enter__()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    try:
        with opened(mounted.disk) as handle:
            # What fits is written, up to the cluster, and then it is an error.
            written = os.pwrite(handle, b"x" * MiB * 4, 0)
            check(MiB <= written < 2 * MiB, "%d bytes were written", written)
            refuses(errno.EFBIG, os.pwrite, handle, b"x" * MiB * 4, written)
            check_equal(os.pread(handle, 10, SIZE - 10), bytes(10), "what is read")
    finally:
        with contextlib.suppress(mount.DaemonFailed):
            started.__exit__(None, None, None)
    done = tools.run("qemu-img", "check", "-q", path, status=None)
    check(done.returncode in (0, 3), "more than leaks: %s", done.stdout)


# --- read-only after all ------------------------------------------------------------------------


@suite.test("ro and rw: the later one counts, and rw is what nobody needs to say")
def _(directory):
    path = plain(directory)
    for options, writable in (([], True), (["rw"], True), (["ro", "rw"], True),
                              (["rw", "ro"], False), (["rw=off"], False), (["ro=off"], True)):
        with mount.mount(path, *options, writable=True) as mounted:
            check_equal(mounted.stderr(), "", "what it said")
            check_equal(os.access(mounted.disk, os.W_OK), writable, "writable with %r" % options)


@suite.test("an image that may not be written is mounted read-only, and one line says why; once it "
            "may be, a user writes to it",
            needs=[tools.root, tools.tool("setpriv", "fusermount3")])
def _(_directory):
    user = int(bad.NOBODY)
    prefix = bad.user_prefix(bad.NOBODY)
    with bad.public_directory() as public:
        home = os.path.join(public.path, "home")
        os.mkdir(home)
        path, at = plain(home), bad.mount_point(home)
        raw = with_raw(path, home)
        for name in (home, at, raw):
            os.chown(name, user, user)
        for mode, owner, says in ((0o444, 0, True), (0o644, user, False)):
            os.chown(path, owner, owner)
            os.chmod(path, mode)
            done = bad.start_and_end(path, at, user=bad.NOBODY, program=public.program)
            check_equal(done.returncode, 0, "the status (%s)" % done.stderr)
            try:
                if says:
                    bad.check_sentence(done.stderr, "mounting read-only: ", "permission", path)
                else:
                    check_equal(done.stderr, "", "what it said")
                    for name in (at, raw):
                        tools.run(*prefix, "dd", "if=/dev/zero", "of=" + name, "bs=1M", "count=20",
                                  "status=none", status=0 if name == raw else 1)
                    os.truncate(raw, SIZE)
            finally:
                tools.run(*prefix, "fusermount3", "-u", at)
            bad.wait_gone(at)
        check_image(path, raw)


@suite.test("an image on a read-only file system is mounted read-only, and one line says why",
            needs=[tools.root])
def _(directory):
    below = os.path.join(directory, "below")
    os.mkdir(below)
    path = plain(below)
    unchanged = compare.Unchanged(path)
    tools.run("mount", "--bind", below, below)
    try:
        tools.run("mount", "-o", "remount,bind,ro", below)
        with mount.mount(path, writable=True) as mounted:
            bad.check_sentence(mounted.stderr(), "mounting read-only: ", "image.qcow2")
            refuses(errno.EROFS, os.open, mounted.disk, os.O_RDWR)
    finally:
        check(run.unmount(below), "not unmounted")
    unchanged.check()


@suite.test("an image that is marked corrupt is mounted read-only, and one line says why")
def _(directory):
    path = plain(directory)
    with qcow2.Qcow2(path) as opened_image:
        opened_image["incompatible_features"] = qcow2.CORRUPT
    unchanged = compare.Unchanged(path)
    with mount.mount(path, writable=True) as mounted:
        check("mounting read-only: " in mounted.stderr() and "corrupt" in mounted.stderr(),
              "it said %r", mounted.stderr())
        refuses(errno.EROFS, os.open, mounted.disk, os.O_RDWR)
    unchanged.check()


@suite.test("with force-share the mount is read-only, and one line says why")
def _(directory):
    path = plain(directory)
    with mount.mount(path, "force-share", writable=True) as mounted:
        bad.check_sentence(mounted.stderr(), "mounting read-only: ", "force-share")


@suite.test("a mount that nothing is written to changes nothing of the image")
def _(directory):
    path = with_snapshot(directory)
    unchanged = compare.Unchanged(path)
    with mount.mount(path, writable=True) as mounted:
        with open(mounted.disk, "rb") as file:
            file.read()
    unchanged.check()


# --- lazy refcounts and repair ------------------------------------------------------------------


def crashed(directory, *options):
    """An image to which a daemon with lazy refcounts wrote and synced before it was killed."""
    path = plain(directory)
    raw = with_raw(path, directory)
    with mount.mount_that_ends_badly(path, "lazy-refcounts=on", *options, writable=True) as mounted:
        twin = Twin(mounted.disk, raw)
        twin.write(4 * MiB, image.pattern(MiB, 4))
        twin.sync()
        mounted.kill()
        with contextlib.suppress(OSError):
            twin.__exit__()
    return path, raw


@suite.test("after a crash with lazy-refcounts=on the next mount repairs the image")
def _(directory):
    path, raw = crashed(directory)
    check(image.info(path)["dirty-flag"], "the image is not marked dirty")
    with mount.mount(path, writable=True) as mounted:
        check("%" not in mounted.stderr(), "progress, and no terminal: %r", mounted.stderr())
        compare.check_files(mounted.disk, raw)
    check(not image.info(path)["dirty-flag"], "the image is still marked dirty")
    check_image(path, raw)


@suite.test("with repair=off an image that is marked dirty is refused, but for ro")
def _(directory):
    path, raw = crashed(directory)
    bad.refused(path, "marked dirty", "repair=off", options=["repair=off"])
    unchanged = compare.Unchanged(path)
    with mount.mount(path, "repair=off") as mounted:
        compare.check_files(mounted.disk, raw)
    unchanged.check()


@suite.test("without a crash lazy-refcounts=on leaves an image that is in order")
def _(directory):
    write_and_compare(directory, plain, "lazy-refcounts=on")


if __name__ == "__main__":
    if os.geteuid() == 0:
        bad.private_mounts()
    suite.main()
