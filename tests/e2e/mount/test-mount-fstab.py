#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Mounting by mount(8) and by a line of fstab.

mount(8) looks for qcow2fs where programs of the system are, whatever PATH says. So the test has
mounts of its own, in which /usr/local/sbin holds the program under test and nothing else.
"""

import contextlib
import os
import tempfile

from lib import bad, compare, mount, run, tap, tools
from lib.tap import check, check_equal

PLACE = "/usr/local/sbin"


def place():
    """The need for a directory that can be covered."""
    return None if os.path.isdir(PLACE) else "no %s here" % PLACE


suite = tap.Suite(needs=[tools.fuse, tools.QEMU, tools.root, place,
                         tools.tool("mount", "umount", "mount.fuse3")])


def mount8(*arguments, **keywords):
    """Runs mount(8), on a system where qcow2fs is installed."""
    if not os.path.samefile(os.path.join(PLACE, "qcow2fs"), run.program()):
        raise AssertionError("not the qcow2fs under test")
    return tools.run("mount", *arguments, env={run.MARK: run.directory}, **keywords)


def install():
    """Lets PLACE hold a link to the program under test, for this process alone."""
    bad.private_mounts()
    top = tempfile.mkdtemp(prefix="qcow2fs-test-")
    try:
        tools.run("mount", "-t", "tmpfs", "-o", "mode=755", "qcow2fs-test", top)
        with contextlib.suppress(FileNotFoundError):  # no program: the suite will say so
            os.symlink(run.program(), os.path.join(top, "qcow2fs"))
        tools.run("mount", "--move", top, PLACE)
    finally:
        os.rmdir(top)


@suite.test("mount -t fuse.qcow2fs mounts, and umount unmounts")
def _(directory):
    path = bad.sample("plain", directory)
    expected = bad.contents(path)
    for at, name in bad.points(directory):
        with bad.unmounted_at_the_end(at):
            done = mount8("-t", "fuse.qcow2fs", path, at, "-o", "ro")
            check_equal((done.stdout, done.stderr), ("", ""), "what mount said")
            bad.check_disk(at, name, expected)
            source, kind, options = bad.mount_table(at)
            check_equal((source, kind), (path, "fuse.qcow2fs"), "the mount table")
            check("ro" in options, "its options %r", options)
            tools.run("umount", at)


OPTIONS = ["ro", "rw", "defaults", "ro,user", "ro,users", "ro,nouser", "ro,owner", "ro,group",
           "ro,nofail", "ro,noauto", "ro,auto", "ro,_netdev", "ro,x-systemd.automount",
           "ro,x-systemd.requires=/srv,x-gvfs-show,X-mount.mkdir", "ro,comment=by hand",
           "ro,noatime", "ro,relatime,nodiratime", "ro,nosuid,nodev,noexec", "ro,suid,dev,exec",
           "ro,sync", "ro,async", "ro,allow_other,umask=022", "ro,uid=1000,gid=100,mode=640",
           "ro,l2-cache-size=1M",
           "ro,l2_cache_size=1M,cache_clean_interval=60", "ro,user=somebody", "ro,nonempty",
           "ro,lazytime", "ro,force-share,threads=2", "ro,default_permissions,max_read=65536"]


@suite.test("the options that mount(8) passes along are understood")
def _(directory):
    path, at = bad.sample("plain", directory), bad.mount_point(directory)
    for options in OPTIONS:
        with bad.unmounted_at_the_end(at):
            done = mount8("-t", "fuse.qcow2fs", "-o", options, path, at)
            check_equal(done.stderr, "", "what mount -o %s said" % options)
            check_equal(os.path.getsize(at), bad.SIZE, "the size")
            kernel = "ro" if "ro" in options.split(",") else "rw"
            check(kernel in bad.mount_table(at)[2], "not %s with -o %s", kernel, options)
        bad.wait_gone(at)


@suite.test("a bad option, and a bad image, make mount(8) fail")
def _(directory):
    path, at = bad.sample("plain", directory), bad.mount_point(directory)
    done = mount8("-t", "fuse.qcow2fs", "-o", "ro,cash-size=1M", path, at,
                     status=None)
    check(done.returncode != 0 and "did you mean cache-size?" in done.stderr, "it said %r",
          done.stderr)
    os.truncate(path, 60)
    done = mount8("-t", "fuse.qcow2fs", "-o", "ro", path, at, status=None)
    check(done.returncode != 0 and "60 bytes" in done.stderr, "it said %r", done.stderr)
    check(not mount.is_mounted(at), "it was mounted")


@suite.test("a line of fstab mounts by the mount point alone")
def _(directory):
    path = bad.sample("plain", directory)
    expected = bad.contents(path)
    spaced = os.path.join(directory, "my disk.qcow2")
    os.rename(path, spaced)
    fstab = os.path.join(directory, "fstab")
    for at, name in bad.points(directory):
        with open(fstab, "w", encoding="ascii") as file:
            file.write("# comment\n%s %s fuse.qcow2fs ro,noauto,nofail,user,_netdev,allow_other,"
                       "x-systemd.automount,l2-cache-size=64K 0 0\n"
                       % (spaced.replace(" ", "\\040"), at))
        with bad.unmounted_at_the_end(at):
            done = mount8("-T", fstab, at)
            check_equal(done.stderr, "", "what mount said")
            bad.check_disk(at, name, expected)
            check_equal(bad.mount_table(at)[0], spaced, "the source in the mount table")


@suite.test("the image is mounted over itself by mount(8)")
def _(directory):
    path = bad.sample("plain", directory)
    expected = bad.contents(path)
    before = compare.Unchanged(path)
    with bad.unmounted_at_the_end(path):
        mount8("-t", "fuse.qcow2fs", "-o", "ro", path, path)
        bad.check_disk(path, "", expected)
    before.check()


if __name__ == "__main__":
    if os.geteuid() == 0 and place() is None:
        install()
    suite.main()
