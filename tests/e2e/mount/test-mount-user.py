#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Mounting without root's rights, by way of fusermount3.

Run by root, the test has mounts of its own, in which everybody may open /dev/fuse, and the
user is nobody. Run by somebody else, it is this user.
"""

import contextlib
import os
import types

from lib import bad, compare, ctl, image, mount, run, tap, tools
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.QEMU, tools.tool("setpriv", "fusermount3")])
IS_ROOT = os.geteuid() == 0


def as_user(*argv, user=bad.NOBODY, **keywords):
    return tools.run(*bad.user_prefix(user), *argv, env={run.MARK: run.directory}, **keywords)


@contextlib.contextmanager
def place():
    """A directory of the user with an image and two mount points."""
    with bad.public_directory() as public:
        state = types.SimpleNamespace(program=public.program)
        state.home = os.path.join(public.path, "home")
        os.mkdir(state.home)
        state.image = bad.sample("snapshots", state.home)
        state.expected = bad.contents(state.image)
        state.file = bad.mount_point(state.home, "disk")
        state.directory = os.path.join(state.home, "dir")
        os.mkdir(state.directory)
        if IS_ROOT:
            for name in (state.home, state.image, state.file, state.directory):
                os.chown(name, 65534, 65534)
        os.chmod(state.image, 0o600)
        yield state


@contextlib.contextmanager
def mounted(state, at, options="ro"):
    """Mounted by the user, in the background."""
    done = as_user(state.program, "-o", options, state.image, at)
    check_equal((done.stdout, done.stderr), ("", ""), "what it said")
    try:
        yield at
    finally:
        if mount.is_mounted(at):
            as_user("fusermount3", "-u", at)
        bad.wait_gone(at)


def user_reads(path):
    """Whether the user reads of a file what root reads of another: its checksum."""
    done = as_user("sha256sum", path, status=None)
    return done.stdout.split()[0] if done.returncode == 0 else None


def digest(data):
    return compare.hashlib.sha256(data).hexdigest()


@suite.test("a user makes, renames and removes snapshots of his disk while it is mounted")
def _(_directory):
    with place() as state, mounted(state, state.directory, "rw"):
        made = os.path.join(state.directory, "snapshots", "his own")
        script = ("import os; f = os.open(%r, os.O_RDWR); os.pwrite(f, b'written', 5); os.mkdir(%r); "
                  "os.pwrite(f, b'changed', 5)" % (os.path.join(state.directory, "disk.raw"), made))
        as_user("python3", "-c", script)
        for where, word in ((os.path.join(made, "disk.raw"), "written"),
                            (os.path.join(state.directory, "disk.raw"), "changed")):
            check_equal(as_user("sh", "-c", 'head -c 12 "$0" | tail -c 7', where).stdout, word, where)
        as_user("mv", made, made + ", renamed")
        as_user("rmdir", made + ", renamed")
        check_equal(as_user("ls", os.path.dirname(made)).stdout.split(), ["first", "second", "third"],
                    "what is left")


@suite.test("a user mounts on a file and on a directory, reads, and unmounts")
def _(_directory):
    with place() as state:
        before = compare.Unchanged(state.image)
        for at, name in ((state.file, ""), (state.directory, "disk.raw")):
            with mounted(state, at):
                disk = os.path.join(at, name) if name else at
                check_equal(user_reads(disk), digest(state.expected), "the disk")
                if name:
                    names = as_user("ls", at).stdout.split()
                    check({"disk.raw", "snapshots"} <= set(names), "the names %r", names)
                    told = as_user("cat", os.path.join(at, "info.json")).stdout
                    check('"virtual-size": %d' % bad.SIZE in told, "info.json: %s", told)
                    check(user_reads(os.path.join(at, "snapshots", "first", "disk.raw")),
                          "the snapshot cannot be read")
                as_user("fusermount3", "-u", at)
                bad.wait_gone(at)
        before.check()


@suite.test("what the kernel may read ahead of a user's mount stays as it is, without a word",
            needs=[tools.root])
def _(_directory):
    with place() as state:
        with mounted(state, state.file):
            check_equal(user_reads(state.file), digest(state.expected), "the disk")
            device = int(as_user("stat", "-c", "%d", state.file).stdout)
            check_equal(mount.page_cache_limits(device), (128, 1), "its limits")


@suite.test("a user mounts an image over itself")
def _(_directory):
    with place() as state:
        with mounted(state, state.image):
            check_equal(user_reads(state.image), digest(state.expected), "the disk")
            check_equal(as_user("stat", "-c", "%s", state.image).stdout.strip(), str(bad.SIZE),
                        "the size")


@suite.test("what a user mounts belongs to the user, unless uid and gid say otherwise")
def _(_directory):
    user = "65534 65534" if IS_ROOT else "%d %d" % (os.getuid(), os.getgid())
    with place() as state:
        for options, expected in (("ro", user + " 400"), ("ro,umask=0777", user + " 0"),
                                  ("ro,mode=0444", user + " 444"),
                                  ("ro,mode=444,umask=077,uid=12,gid=34", "12 34 400")):
            with mounted(state, state.file, options):
                told = as_user("stat", "-c", "%u %g %a", state.file).stdout.strip()
                check_equal(told, expected, "what stat says with %s" % options)


@suite.test("others, root too, are kept out of what a user mounts", needs=[tools.root])
def _(_directory):
    with place() as state, mounted(state, state.file, "ro,mode=444"):
        check_equal(as_user("stat", state.file, user="65533", status=None).returncode, 1,
                    "the exit status of another user's stat")
        try:
            os.stat(state.file)
        except PermissionError:
            pass
        else:
            raise AssertionError("root can look at it")


@contextlib.contextmanager
def fuse_conf(directory, text):
    """Another /etc/fuse.conf, for this process alone."""
    path = os.path.join(directory, "fuse.conf")
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
    tools.run("mount", "--bind", path, "/etc/fuse.conf")
    try:
        yield
    finally:
        tools.run("umount", "/etc/fuse.conf")


def has_fuse_conf():
    """The need for a file that can be covered."""
    return None if os.path.exists("/etc/fuse.conf") else "no /etc/fuse.conf here"


@suite.test("allow_other and allow_root need user_allow_other in fuse.conf, and then work",
            needs=[tools.root, has_fuse_conf])
def _(directory):
    os.chmod(directory, 0o755)
    with place() as state:
        with fuse_conf(directory, "# nothing\n"):
            for option in ("allow_other", "allow_root"):
                bad.refused(state.image, "user_allow_other", options=["ro", option],
                            user=bad.NOBODY, at=state.file, program=state.program)
        with fuse_conf(directory, "user_allow_other\n"):
            with mounted(state, state.file, "ro,allow_other,mode=444"):
                done = as_user("sha256sum", state.file, user="65533")
                check_equal(done.stdout.split()[0], digest(state.expected), "what others read")
                with open(state.file, "rb") as file:
                    check_equal(file.read(), state.expected, "what root reads")
            with mounted(state, state.file, "ro,allow_root,mode=444"):
                with open(state.file, "rb") as file:
                    check_equal(file.read(), state.expected, "what root reads")
                check_equal(as_user("stat", state.file, user="65533", status=None).returncode, 1,
                            "the exit status of another user's stat")


@suite.test("an image in a user's mount has that user's rights, whoever owns it there",
            needs=[tools.root, has_fuse_conf])
def _(directory):
    os.chmod(directory, 0o755)
    secret = os.path.join(directory, "secret.raw")
    image.sparse_raw(secret, image.MiB)
    os.chmod(secret, 0o600)
    before = compare.sha256(secret)
    with place() as state:
        inner = image.create(os.path.join(directory, "inner.qcow2"), image.MiB, backing=secret,
                             backing_format="raw")
        image.io(inner, "write -q -P 7 0 64k")
        image.convert(inner, state.image)  # its disk is an image
        with fuse_conf(directory, "user_allow_other\n"), \
                mounted(state, state.file, "allow_other,uid=0,gid=0"):
            check_equal(os.stat(state.file).st_uid, 0, "its owner, by the user's word")
            for command in (["map"], ["hash"], ["commit", "-d"], ["info", "--backing-chain"]):
                ctl.refused(*command, state.file, words=["user nobody", "trust-names"])
            ctl.ctl("map", "--trust-names", state.file)
    check_equal(compare.sha256(secret), before, "root's file")


@suite.test("a mount point that is not the user's is refused with one sentence",
            needs=[tools.root])
def _(_directory):
    with place() as state:
        for at in (state.file, state.directory):
            os.chown(at, 0, 0)
            bad.refused(state.image, at, user=bad.NOBODY, at=at, program=state.program)
            bad.refused(state.image, at, user=bad.NOBODY, at=at, program=state.program,
                        foreground=False)
        done = as_user(state.program, state.image, "/root/x", status=None)
        bad.check_sentence(done.stderr, "/root/x")
        check_equal(done.returncode, 1, "the exit status")


@suite.test("a user's daemon ends by SIGTERM, and by the user's fusermount3 alone",
            needs=[tools.root])
def _(_directory):
    with place() as state, mounted(state, state.file) as at:
        done = as_user("fusermount3", "-u", at, user="65533", status=None)
        check(done.returncode != 0 and mount.is_mounted(at), "another user unmounted it")
        pid, = run.daemons(run.directory)
        as_user("kill", "-TERM", str(pid))
        bad.wait_gone(at)


@suite.test("a user cannot have set-user-ID programs or devices by way of a mount")
def _(_directory):
    with place() as state, mounted(state, state.file, "ro,suid,dev"):
        options = bad.mount_table(state.file)[2]
        check({"nosuid", "nodev"} <= set(options), "the options %r", options)


if __name__ == "__main__":
    if IS_ROOT:
        bad.private_mounts()
    suite.main()
