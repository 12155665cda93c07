#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The open gate: which files an image may bring along by naming them (follow=)."""

import os

from lib import bad, compare, ctl, image, mount, qcow2, tap, tools
from lib.image import KiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.QEMU])
SIZE = 64 * KiB
CONTENTS = b"what is behind" + b"y" * (SIZE - 14)
READERS = (("info",), ("map",), ("hash",), ("measure",), ("convert", "-O", "raw"))


def raw(path, mode=0o644):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(CONTENTS)
    os.chmod(path, mode)
    return path


def overlay(path, name, backing_format="raw"):
    """An empty image whose backing file is recorded as `name`, whatever that is."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    image.create(path, SIZE, cluster_size="64k")
    with qcow2.Qcow2(path) as opened:
        opened.set_backing_file(name.encode())
        opened.append_extension(qcow2.EXTENSION_BACKING_FORMAT, backing_format.encode())
    return path


def shows(path, *options, at=None, contents=CONTENTS):
    with mount.mount(path, *options, at=at) as mounted, open(mounted.disk, "rb") as file:
        compare.check_bytes(file.read(), contents, 0)


def refused(path, follow, *words, **keywords):
    """By the mount, for reading and for writing, and by each command that opens the chain."""
    for options in (("ro",), ()):
        bad.refused(path, "follow=" + follow, *words, options=("follow=" + follow, *options),
                    **keywords)
    for command in READERS:
        target = [path + ".copy"] if command[0] == "convert" else []
        done = ctl.ctl(*command, "--follow=" + follow, path, *target, status=1)
        for word in ("--follow=", *words):
            check(word in done.stderr, "no %r of %r in %r", word, command, done.stderr)
        check(not os.path.exists(path + ".copy"), "a copy was made")


@suite.test("follow=beside opens what lies in the image's directory or below, however it is named")
def _(directory):
    home = os.path.join(directory, "home")
    top = os.path.join(home, "top.qcow2")
    raw(os.path.join(home, "sub", "base.raw"))
    os.symlink("sub/base.raw", os.path.join(home, "link.raw"))
    os.symlink("sub", os.path.join(home, "there"))
    for name in ("sub/base.raw", "./sub/base.raw", "sub/../sub/base.raw", "link.raw",
                 "there/base.raw", "file:sub/base.raw", os.path.join(home, "sub/base.raw")):
        overlay(top, name)
        shows(top, "follow=beside")
        for command in READERS:
            target = [os.path.join(directory, "copy")] if command[0] == "convert" else []
            check_equal(ctl.ctl(*command, "--follow=beside", top, *target).stderr, "", "%s of %s"
                        % (command[0], name))
        os.unlink(target[0])
    # The image is named by a path with a link, or by none at all.
    os.symlink(home, os.path.join(directory, "moved"))
    for name in ("sub/base.raw", os.path.join(home, "sub/base.raw"),
                 os.path.join(directory, "moved/sub/base.raw")):
        overlay(top, name)
        shows(os.path.join(directory, "moved", "top.qcow2"), "follow=beside")
    overlay(top, os.path.join(home, "sub/base.raw"))
    check_equal(tools.run(ctl.program(), "info", "--follow=beside", "top.qcow2", cwd=home).stderr,
                "", "named in its own directory")


@suite.test("follow=beside opens nothing else: by no .., no link, no absolute name, and no device")
def _(directory):
    home, secret = os.path.join(directory, "home"), raw(os.path.join(directory, "secret.raw"))
    raw(os.path.join(directory, "home-too", "secret.raw"))
    top = os.path.join(home, "top.qcow2")
    raw(os.path.join(home, "base.raw"))
    os.symlink("../secret.raw", os.path.join(home, "out.raw"))
    os.symlink(secret, os.path.join(home, "absolute.raw"))
    os.symlink("..", os.path.join(home, "above"))
    for name in ("../secret.raw", secret, "out.raw", "absolute.raw", "above/secret.raw",
                 "file:../secret.raw", home + "/../secret.raw", "above/home/base.raw",
                 os.path.join(directory, "home-too", "secret.raw"), "/etc/hostname"):
        overlay(top, name)
        refused(top, "beside", "backing file", "in its directory or below", "follow=files")
        if name != "/etc/hostname":
            shows(top)
            shows(top, "follow=files")
            shows(top, "follow=all")


@suite.test("each image of a chain may bring along what is beside itself, not beside the first")
def _(directory):
    top = os.path.join(directory, "top.qcow2")
    raw(os.path.join(directory, "base.raw"))
    middle = overlay(os.path.join(directory, "sub", "middle.qcow2"), "../base.raw")
    overlay(top, "sub/middle.qcow2", "qcow2")
    shows(top)
    refused(top, "beside", "backing file", "base.raw", named=middle)
    raw(os.path.join(directory, "sub", "base.raw"))
    overlay(middle, "base.raw")
    shows(top, "follow=beside")
    # What the user names is opened wherever it lies, and what that names lies beside it.
    alone = overlay(os.path.join(directory, "other", "alone.qcow2"), "gone.qcow2", "qcow2")
    shows(alone, "follow=beside", "backing-file=" + middle)


@suite.test("follow=beside opens no block device, and no FIFO or link to an open file either",
            needs=[tools.root])
def _(directory):
    top = os.path.join(directory, "top.qcow2")
    os.mkfifo(os.path.join(directory, "fifo"))
    os.symlink("/proc/self/fd/0", os.path.join(directory, "link"))
    os.symlink("/dev/null", os.path.join(directory, "null"))
    for name in ("fifo", "link", "null", "/proc/kmsg", "/dev/null"):
        for follow in ("beside", "files", "all"):
            overlay(top, name)
            bad.refused(top, "backing file", options=("ro", "follow=" + follow))
    tools.run("mknod", os.path.join(directory, "disk"), "b", "7", "200")
    overlay(top, "disk")
    bad.refused(top, "no regular file", "follow=beside", options=("ro", "follow=beside"))


@suite.test("follow=none opens nothing that an image names", needs=[tools.DATA_FILE])
def _(directory):
    top = overlay(os.path.join(directory, "top.qcow2"), "base.raw")
    base = raw(os.path.join(directory, "base.raw"))
    refused(top, "none", "backing file", "'base.raw'", "follow=beside")
    shows(top, "follow=none", "backing-file=" + base)
    # The user names the first; what that names he does not.
    second = overlay(os.path.join(directory, "second.qcow2"), "top.qcow2", "qcow2")
    bad.refused(second, "base.raw", "follow=none", named=top,
                options=("ro", "follow=none", "backing-file=" + top))
    data = os.path.join(directory, "data.raw")
    path = os.path.join(directory, "data.qcow2")
    image.create(path, SIZE, cluster_size="64k", data_file=data, data_file_raw="on")
    refused(path, "none", "data file", "data.raw", "follow=beside")
    shows(path, "follow=none", "data-file=" + data, contents=bytes(SIZE))
    shows(path, "follow=beside", contents=bytes(SIZE))
    shows(image_alone(directory), "follow=none", contents=bytes(SIZE))


def image_alone(directory):
    path = os.path.join(directory, "alone.qcow2")
    image.create(path, SIZE)
    return path


@suite.test("with follow=none not even the names of files are looked at", needs=[tools.tool("strace")])
def _(directory):
    top = overlay(os.path.join(directory, "top.qcow2"), "looked-for")
    done = tools.run("strace", "-f", "-e", "trace=%file", ctl.program(), "map", "--follow=none", top,
                     status=1)
    calls = [line for line in done.stderr.splitlines() if "looked-for" in line
             and not line.startswith("qcow2ctl:")]
    check_equal(calls, [], "calls with that name")


@suite.test("who changes an image names a new backing file wherever it lies")
def _(directory):
    elsewhere = raw(os.path.join(directory, "elsewhere", "base.raw"))
    top = os.path.join(directory, "home", "top.qcow2")
    os.makedirs(os.path.dirname(top))
    for follow in ("beside", "none"):
        image.create(top, SIZE)
        ctl.ctl("rebase", "--follow=" + follow, "-b", elsewhere, "-F", "raw", top)
        image.create(top, SIZE)
        ctl.ctl("amend", "--follow=" + follow, "-o",
                "backing_file=%s,backing_fmt=raw" % elsewhere, top)
        ctl.ctl("create", "--force", "-q", "--follow=" + follow, "-b", elsewhere, "-F", "raw", top)
        # But not what that names.
        middle = overlay(os.path.join(directory, "elsewhere", "middle.qcow2"), "../elsewhere/base.raw")
        image.create(top, SIZE)
        ctl.refused("rebase", "--follow=" + follow, "-b", middle, "-F", "qcow2", top,
                    words=[middle, "--follow="], unchanged=[top])
        ctl.refused("create", "--force", "--follow=" + follow, "-b", middle, "-F", "qcow2", top,
                    words=[middle, "--follow="], unchanged=[top])


@suite.test("follow=beside keeps to the rights of the image's owner, too", needs=[tools.root])
def _(_directory):
    with bad.public_directory() as public:
        home = os.path.join(public.path, "home")
        secret = raw(os.path.join(home, "sub", "secret.raw"), 0o600)
        top = overlay(os.path.join(home, "top.qcow2"), "sub/secret.raw")
        for path in (home, os.path.dirname(secret)):
            os.chmod(path, 0o755)
        os.chown(top, int(bad.NOBODY), int(bad.NOBODY))
        at = bad.mount_point(public.path)
        bad.refused(top, "may not read", options=("ro", "allow_other", "follow=beside"), at=at)
        bad.refused("top.qcow2", "may not read", options=("ro", "allow_other", "follow=beside"),
                    at=at, cwd=home)
        os.chmod(secret, 0o644)
        shows(top, "allow_other", "follow=beside", at=at)
        overlay(top, secret)
        os.chown(top, int(bad.NOBODY), int(bad.NOBODY))
        shows(top, "allow_other", "follow=beside", at=at)
        check_equal(tools.run(ctl.program(), "map", "--follow=beside", "top.qcow2", cwd=home).stderr,
                    "", "map in its directory")


if __name__ == "__main__":
    suite.main()
