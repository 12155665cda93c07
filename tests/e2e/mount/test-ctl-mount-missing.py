#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""qcow2ctl mount and attach where something is missing: one sentence, and nothing is left behind."""

import contextlib
import os
import shutil

from lib import bad, ctl, files, image, mount, private, run, tap, tools
from lib.files import qcow2ctl
from lib.image import MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.root, tools.loop, tools.QEMU, tools.tool("debugfs"),
                         tools.file_system("ext4")])


def made(directory, **keywords):
    path, at = files.whole(directory, size=16 * MiB, **keywords), os.path.join(directory, "at")
    os.makedirs(at, exist_ok=True)
    return path, at


# --- devices -------------------------------------------------------------------------------------


def with_devices(nodes, *argv):
    """Runs a program where /dev has these nodes alone: status and what it said."""
    script = """
        place=$(mktemp -d); mount -t tmpfs -o mode=755,dev none "$place"
        for node in $1; do cp -a "/dev/$node" "$place/"; done
        mount --bind "$place" /dev
        shift; exec "$@"
        """
    done = tools.run(*private.prefix(), "sh", "-euc", script, "sh", " ".join(nodes), *argv,
                     status=None, env=files.environment())
    return done.returncode, done.stderr


BASE = ("null", "zero", "urandom")


@suite.test("without /dev/fuse both say so, and what to do")
def _(directory):
    path, at = made(directory)
    for command in (["mount", path, at], ["attach", path]):
        status, said = with_devices(BASE + ("loop-control",), ctl.program(), *command)
        check_equal(status, 1, "the status (%s)" % said)
        bad.check_sentence(said, "/dev/fuse", program="qcow2ctl")
    check(not mount.is_mounted(at), "mounted")
    files.check_nothing_left(path)


@suite.test("without a free loop device both fail, and take down what was set up")
def _(directory):
    path, at = made(directory)
    for command in (["mount", path, at], ["attach", path]):
        # The kernel gives a number, and there is no such node.
        status, said = with_devices(BASE + ("fuse", "loop-control"), ctl.program(), *command)
        check_equal(status, 1, "the status (%s)" % said)
        bad.check_sentence(said, "/dev/loop", program="qcow2ctl")
        check(not mount.is_mounted(at), "mounted")
        files.check_nothing_left(path)
    status, said = with_devices(BASE + ("fuse",), ctl.program(), "attach", path)
    check_equal(status, 1, "the status (%s)" % said)
    bad.check_sentence(said, "/dev/loop-control", program="qcow2ctl")
    files.check_nothing_left(path)


# --- programs ------------------------------------------------------------------------------------


@suite.test("a qcow2ctl without its qcow2fs says which program is missing")
def _(directory):
    path, at = made(directory)
    alone = os.path.join(directory, "bin")
    os.mkdir(alone)
    program = shutil.copy2(ctl.program(), alone)
    for command in (["mount", path, at], ["attach", path]):
        done = tools.run(program, *command, status=1,
                         env={"PATH": alone, run.MARK: run.directory})
        bad.check_sentence(done.stderr, "qcow2fs", program="qcow2ctl")
    files.check_nothing_left(path)


# --- rights --------------------------------------------------------------------------------------


@suite.test("-o trust-names reaches the daemon, by mount, attach and mount.qcow2")
def _(directory):
    raw = os.path.join(directory, "base.raw")
    with open(raw, "wb") as file:
        file.truncate(16 * MiB)
    files.make_file_system(raw, "ext4")
    files.put_file(raw, "here", b"from the image\n")
    at = os.path.join(directory, "at")
    os.mkdir(at)
    helper = os.path.join(directory, "mount.qcow2")
    os.symlink(ctl.program(), helper)
    with bad.public_directory() as public:
        path, data = (os.path.join(public.path, name) for name in ("image.qcow2", "data.raw"))
        image.create(path, 16 * MiB, data_file=data, data_file_raw="on")
        tools.run("qemu-img", "convert", "-n", "-f", "raw", "-O", "qcow2", raw, path)
        os.chown(path, int(bad.NOBODY), int(bad.NOBODY))
        os.chmod(data, 0o644)  # root's: the image's owner may read it, but not write
        done = qcow2ctl("mount", path, at)
        check("mounting read-only" in done.stderr and "trust-names" in done.stderr, "it said %s",
              done.stderr)
        qcow2ctl("umount", at)
        with files.mounted(path, at, "-o", "trust-names"):
            check("rw" in bad.mount_table(at)[2], "not to be written")
            with open(os.path.join(at, "here"), encoding="ascii") as file:
                check_equal(file.read(), "from the image\n", "a file")
        with files.attached(path, "-o", "trust-names") as device:
            check_equal(tools.output("blockdev", "--getro", device).strip(), "0", "read-only")
        tools.run(helper, path, at, "-o", "trust-names", env=files.environment())
        check("rw" in bad.mount_table(at)[2], "not to be written")
        qcow2ctl("umount", at)
        files.check_nothing_left(path)


@contextlib.contextmanager
def of_user_on_secret():
    """(the user's image, the file system of root's that it names): nobody but root may read that."""
    with bad.public_directory() as public:
        secret = os.path.join(public.path, "secret.raw")
        with open(secret, "wb") as file:
            file.truncate(16 * MiB)
        files.make_file_system(secret, "ext4")
        files.put_file(secret, "here", b"of root alone\n")
        os.chmod(secret, 0o600)
        path = os.path.join(public.path, "image.qcow2")
        ctl.ctl("create", "-q", "-b", secret, "-F", "raw", path)
        os.chown(path, int(bad.NOBODY), int(bad.NOBODY))
        yield path, secret


def above(path, at, helper):
    """Every command that puts something on the disk, or looks at it, as root."""
    return (["mount", path, at], ["mount", "-r", path, at], ["mount", "-o", "allow_other", path, at],
            ["mount", "--list", path], ["attach", path], ["attach", "-r", path], [helper, path, at])


@suite.test("nothing is put on a disk whose image names what its owner may not read")
def _(directory):
    at, helper = os.path.join(directory, "at"), os.path.join(directory, "mount.qcow2")
    os.mkdir(at)
    os.symlink(ctl.program(), helper)
    with of_user_on_secret() as (path, secret):
        for command in above(path, at, helper):
            program = [] if command[0] == helper else [ctl.program()]
            done = tools.run(*program, *command, status=None, env=files.environment())
            if mount.is_mounted(at):
                qcow2ctl("umount", at)
            check(done.returncode in (1, 32), "%s has status %d", command, done.returncode)
            for word in ("may not read", secret, "user nobody", "--trust-names"):
                check(word in done.stderr, "no %r of %r in %r", word, command, done.stderr)
            check_equal(done.stdout, "", "what %r printed" % command)
        files.check_nothing_left(path)


@suite.test("--trust-names of mount, attach and mount --list lets root look at it all the same")
def _(directory):
    at = os.path.join(directory, "at")
    os.mkdir(at)
    with of_user_on_secret() as (path, secret):
        for trusting in (["--trust-names"], ["-o", "trust-names"]):
            with files.mounted(path, at, *trusting):
                with open(os.path.join(at, "here"), encoding="ascii") as file:
                    check_equal(file.read(), "of root alone\n", "a file")
            with files.attached(path, *trusting) as device:
                tools.run("blkid", "-p", device)
            check("ext4" in qcow2ctl("mount", "--list", *trusting, path).stdout, "no list")
        os.chmod(secret, 0o644)
        with files.mounted(path, at):
            check(os.path.exists(os.path.join(at, "here")), "no file of what its owner may read")
        files.check_nothing_left(path)


# --- many ----------------------------------------------------------------------------------------


@suite.test("two images at once go their own ways, whichever ends first")
def _(directory):
    images = {}
    for name in ("one", "two"):
        path, _at = made(directory, name=name)
        images[name] = path, os.path.join(directory, "at-" + name)
        os.mkdir(images[name][1])
    for first, second in (("one", "two"), ("two", "one")):
        for path, at in images.values():
            qcow2ctl("mount", path, at)
        for name, (path, at) in images.items():
            with open(os.path.join(at, "name"), "w", encoding="ascii") as file:
                file.write(name + first)
        qcow2ctl("umount", images[first][1])
        check_equal([item["image"] for item in files.listed()], [images[second][0]], "what is left")
        with open(os.path.join(images[second][1], "name"), encoding="ascii") as file:
            check_equal(file.read(), second + first, "its file")
        qcow2ctl("umount", images[second][1])
        for path, _at in images.values():
            files.check_nothing_left(path)
            files.check_in_order(path)


if __name__ == "__main__":
    suite.main()
