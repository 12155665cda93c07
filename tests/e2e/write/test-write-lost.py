#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What the kernel acknowledged and could not be saved: no fsync says otherwise, and no exit status."""

import contextlib
import os
import signal
import subprocess

from lib import bad, image, mount, run, tap, tools
from lib.image import MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.root, tools.QEMU])


@contextlib.contextmanager
def small_host(directory, size):
    """A file system of its own, which is soon full."""
    at = os.path.join(directory, "host")
    os.mkdir(at)
    tools.run("mount", "-t", "tmpfs", "-o", "size=%d" % size, "none", at)
    try:
        yield at
    finally:
        run.unmount(at)


@contextlib.contextmanager
def served(path, at, *options):
    """A daemon in the foreground; yields its process, whose end is the body's matter."""
    argv = [run.program(), "-f", *(["-o", ",".join(options)] if options else []), path, at]
    log = os.path.join(run.directory, "log-%s" % os.path.basename(os.path.dirname(path)))
    with open(log, "w", encoding="utf-8") as errors:
        process = run.start(argv, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
    process.log = log
    try:
        bad.wait_for(lambda: mount.is_mounted(at) or process.poll() is not None, "it is mounted")
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        while mount.is_mounted(at):
            if not run.unmount(at, lazy=True):
                break


def said(process):
    with open(process.log, encoding="utf-8") as file:
        return file.read()


def point(directory):
    at = os.path.join(directory, "at")
    os.mkdir(at)
    return at


def try_fsync(file):
    try:
        os.fsync(file)
    except OSError as error:
        return error.errno
    return 0


@suite.test("after a failed write of the page cache every fsync fails, and the end has status 1")
def _(directory):
    with small_host(directory, MiB) as host:
        path = image.create(os.path.join(host, "image.qcow2"), 64 * MiB)
        at = point(directory)
        with served(path, at) as daemon:
            file = os.open(os.path.join(at, "disk.raw"), os.O_RDWR)
            os.pwrite(file, b"\7" * 4 * MiB, 0)
            results = [try_fsync(file) for _ in range(3)]
            check(all(results), "fsync three times: %s", results)
            with contextlib.suppress(OSError):
                os.close(file)
            check(run.unmount(at), "it cannot be unmounted")
            check_equal(daemon.wait(tools.TIMEOUT), 1, "the exit status")
            last = said(daemon).splitlines()[-1]
            check("bytes that programs had written are not in the image" in last, "it said %s",
                  last)


@suite.test("a write past the end of the disk is refused, and spoils nothing")
def _(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), MiB)
    at = point(directory)
    with served(path, at) as daemon:
        file = os.open(os.path.join(at, "disk.raw"), os.O_RDWR)
        with contextlib.suppress(OSError):
            os.pwrite(file, b"x" * 8192, MiB - 4096)
        try_fsync(file)
        for _ in range(2):  # it is told that it wrote past the end, for each time that was tried
            with contextlib.suppress(OSError):
                os.pwrite(file, b"y" * 4096, 0)
        os.pwrite(file, b"y" * 4096, 0)
        check_equal(try_fsync(file), 0, "a later fsync")
        with contextlib.suppress(OSError):
            os.close(file)
        bad.wait_for(lambda: run.unmount(at), "it is unmounted")  # its size may just be set anew
        check_equal(daemon.wait(tools.TIMEOUT), 0, "the exit status (%s)" % said(daemon))


@suite.test("what a file system on a loop device lost on a full host makes the status 1",
            needs=[tools.loop, tools.file_system("ext4")])
def _(directory):
    with small_host(directory, 12 * MiB) as host:
        path = image.create(os.path.join(host, "image.qcow2"), 256 * MiB)
        at = point(directory)
        with served(path, at) as daemon:
            disk = os.path.join(at, "disk.raw")
            tools.run("mkfs.ext4", "-q", "-F", disk)
            with mount.loop_device(disk, writable=True) as device, \
                    mount.file_system(device, options="rw") as files:
                with contextlib.suppress(OSError), \
                        open(os.path.join(files, "file"), "wb") as file:
                    file.write(os.urandom(30 * MiB))
            bad.wait_for(lambda: run.unmount(at), "it is unmounted")
            check_equal(daemon.wait(tools.TIMEOUT), 1, "the exit status")


@suite.test("an aborted connection is no unmount: the status is 1")
def _(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), 64 * MiB)
    at = point(directory)
    with served(path, at) as daemon:
        file = os.open(os.path.join(at, "disk.raw"), os.O_RDWR)
        os.pwrite(file, b"\5" * MiB, 0)
        tools.run("umount", "-i", "-f", at, status=None)
        check_equal(daemon.wait(tools.TIMEOUT), 1, "the exit status")
        check("was aborted" in said(daemon), "it said %s", said(daemon))
        with contextlib.suppress(OSError):
            os.close(file)


def unsynced_then_terminated(directory, hide):
    """Writes without a sync, has `hide` take the way to the disk away, and ends the daemon."""
    path = image.create(os.path.join(directory, "image.qcow2"), 64 * MiB)
    at = point(directory)
    with served(path, at) as daemon:
        file = os.open(os.path.join(at, "disk.raw"), os.O_RDWR)
        os.pwrite(file, b"\x55" * 3 * MiB, 12345)
        undo = hide(at)
        daemon.send_signal(signal.SIGTERM)
        check_equal(daemon.wait(tools.TIMEOUT), 0, "the exit status (%s)" % said(daemon))
        with contextlib.suppress(OSError):
            os.close(file)
        undo()
    raw = os.path.join(directory, "raw")
    image.to_raw(path, raw)
    with open(raw, "rb") as disk:
        disk.seek(12345)
        check(disk.read(3 * MiB) == b"\x55" * 3 * MiB, "the data is not in the image")


@suite.test("SIGTERM after umount -l saves what the kernel still held")
def _(directory):
    def hide(at):
        tools.run("umount", "-i", "-l", at)
        return lambda: None
    unsynced_then_terminated(directory, hide)


@suite.test("SIGTERM under another mount saves what the kernel still held")
def _(directory):
    def hide(at):
        tools.run("mount", "-t", "tmpfs", "none", at)
        return lambda: run.unmount(at)
    unsynced_then_terminated(directory, hide)


@suite.test("a path that leads elsewhere by now is not followed, whatever is there")
def _(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), 64 * MiB)
    home = os.path.join(directory, "home")
    parent = os.path.join(home, "parent")
    os.makedirs(parent)
    at = point(parent)
    precious = os.path.join(directory, "precious")
    os.mkdir(precious)
    with open(os.path.join(precious, "disk.raw"), "wb") as file:
        file.write(b"precious" * 1000)
    with served(path, at) as daemon:
        file = os.open(os.path.join(at, "disk.raw"), os.O_RDWR)
        os.rename(parent, os.path.join(home, "moved"))
        os.mkdir(parent)
        os.symlink(precious, at)
        # Past the end: the daemon has the kernel take the size again, by the path that it knows.
        for _ in range(20):
            with contextlib.suppress(OSError):
                os.pwrite(file, b"x" * 4096, 64 * MiB)
            try_fsync(file)
        try:
            os.pwrite(file, b"\x66" * MiB, 0)
        except OSError:  # who wrote past the end is told so by a later write, once
            os.pwrite(file, b"\x66" * MiB, 0)
        daemon.send_signal(signal.SIGTERM)
        check_equal(daemon.wait(tools.TIMEOUT), 0, "the exit status (%s)" % said(daemon))
        with contextlib.suppress(OSError):
            os.close(file)
        os.unlink(at)
        run.unmount(os.path.join(home, "moved", "at"), lazy=True)
    check_equal(os.path.getsize(os.path.join(precious, "disk.raw")), 8000, "the other file")
    raw = os.path.join(directory, "raw")
    image.to_raw(path, raw)
    with open(raw, "rb") as disk:
        check(disk.read(MiB) == b"\x66" * MiB, "the data is not in the image")


@suite.test("with few descriptors it is refused with a sentence, or serves and ends as it should")
def _(directory):
    refused = 0
    for number in range(6, 20):
        path = image.create(os.path.join(directory, "%d.qcow2" % number), 16 * MiB)
        at = os.path.join(directory, "at-%d" % number)
        os.mkdir(at)
        done = tools.run("sh", "-c", 'ulimit -n %d; exec "$0" "$@"' % number, run.program(), path, at,
                         env={run.MARK: run.directory}, status=None)
        if done.returncode != 0:
            check(done.returncode == 1 or (done.returncode == 127 and number < 8),
                  "%d descriptors: status %s, %s", number, done.returncode, done.stderr)
            refused += 1
            continue
        try:
            tools.run("dd", "if=/dev/zero", "of=" + os.path.join(at, "disk.raw"), "bs=64k", "count=40",
                      "conv=notrunc,fsync", "status=none")
        finally:
            check(run.unmount(at), "it cannot be unmounted")
        bad.wait_gone(at)
        tools.run("qemu-img", "check", "-q", path)
    check(0 < refused < 14, "%d of 14 were refused", refused)


if __name__ == "__main__":
    suite.main()
