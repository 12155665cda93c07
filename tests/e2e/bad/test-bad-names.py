#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Names that an image brings along: what they may lead to, and with whose rights it is opened."""

import contextlib
import os
import shutil
import stat
import types

from lib import bad, compare, ctl, image, mount, qcow2, tap, tools
from lib.image import KiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.QEMU])
SECRET = b"only for root" + b"x" * 65523
OTHER = b"for another.." + b"y" * 65523
USER, SECOND = 65534, 4242


def overlay(path, name, backing_format="raw"):
    """An empty image whose backing file is recorded as `name`, whatever that is."""
    image.create(path, len(SECRET), cluster_size="64k")
    with qcow2.Qcow2(path) as opened:
        opened.set_backing_file(name.encode())
        if backing_format is not None:
            opened.append_extension(qcow2.EXTENSION_BACKING_FORMAT, backing_format.encode())
    return path


def on_data(directory, path, name):
    """An image whose disk is in the data file recorded as `name`."""
    data = os.path.join(directory, "made.raw")
    image.create(path, len(SECRET), cluster_size="64k", data_file=data)
    image.io(path, "write -q 0 64k")
    with qcow2.Qcow2(path) as opened:
        opened.remove_extension(qcow2.EXTENSION_DATA_FILE)
        opened.append_extension(qcow2.EXTENSION_DATA_FILE, name.encode())
    os.unlink(data)
    return path


def put(path, contents, mode=0o600, owner=None):
    with open(path, "wb") as file:
        file.write(contents)
    os.chmod(path, mode)
    if owner is not None:
        os.chown(path, owner, owner)
    return path


# --- what is no file ------------------------------------------------------------------------------


def kernel_file(name, *words):
    @suite.test("%s is no backing file, and no data file" % name, needs=[tools.DATA_FILE])
    def _(directory):
        top = overlay(os.path.join(directory, "top.qcow2"), name, backing_format=None)
        data = on_data(directory, os.path.join(directory, "data.qcow2"), name)
        for path in (top, data):
            for options in ((), ("ro",)):
                bad.refused(path, *words, options=options)
            for command in (("info",), ("info", "--audit"), ("map",)):
                done = ctl.ctl(*command, path, status=None)
                check(done.returncode == 1 or "--audit" in command, "%r ended with %d", command,
                      done.returncode)
                for word in words:
                    check(word in done.stderr + done.stdout, "no %r in %r", word, done)
        ctl.refused("resize", data, "+1M", words=words)
        ctl.refused("amend", "-o", "lazy_refcounts=on", data, words=words)


kernel_file("/proc/self/mem", "the kernel's own", "procfs")
kernel_file("/proc/kmsg", "the kernel's own", "procfs")
kernel_file("/proc/self/../self/task/../mem", "the kernel's own", "procfs")
kernel_file("/sys/kernel/mm/transparent_hugepage/enabled", "the kernel's own", "sysfs")
kernel_file("/dev/null", "is a character device")
kernel_file("/proc/self/fd/0", "link of /proc")
kernel_file("/dev/stdin", "link of /proc")


@suite.test("a file of the kernel's own is no image either")
def _(directory):
    at = bad.mount_point(directory)
    for name in ("/proc/self/mem", "/proc/kmsg"):
        done = bad.start_and_end("-f", "-o", "ro", name, at)
        check_equal(done.returncode, 1, "the exit status")
        bad.check_sentence(done.stderr, name, "the kernel's own")
        for command in ("info", "check", "map"):
            ctl.refused(command, name, words=["the kernel's own"])
        ctl.refused("create", "--force", name, "1M", words=["the kernel's own"])
        ctl.refused("create", "-b", name, "-F", "raw", os.path.join(directory, "new.qcow2"),
                    words=["the kernel's own"])


@suite.test("a link, and a chain of two images, lead to no file of the kernel's own either")
def _(directory):
    os.symlink("/proc/kmsg", os.path.join(directory, "innocent.raw"))
    middle = overlay(os.path.join(directory, "middle.qcow2"), "innocent.raw")
    top = overlay(os.path.join(directory, "top.qcow2"), "middle.qcow2", "qcow2")
    bad.refused(top, "innocent.raw", "the kernel's own", named=middle)


# --- whose rights ---------------------------------------------------------------------------------


@contextlib.contextmanager
def place():
    """A home of a user, and a directory of root's that holds a secret."""
    with bad.public_directory() as public:
        state = types.SimpleNamespace(path=public.path)
        state.home = os.path.join(public.path, "home")
        state.secrets = os.path.join(public.path, "secrets")
        for directory in (state.home, state.secrets):
            os.mkdir(directory)
            os.chmod(directory, 0o755)
        state.secret = put(os.path.join(state.secrets, "root.raw"), SECRET)
        state.at = bad.mount_point(public.path)
        state.image = os.path.join(state.home, "disk.qcow2")
        yield state


def given(path, user=USER, mode=0o600):
    os.chown(path, user, user)
    os.chmod(path, mode)
    return path


def reads(user, path):
    """What the user reads of a file; None where that fails."""
    done = tools.run("setpriv", "--reuid=%d" % user, "--regid=%d" % user, "--clear-groups",
                     "head", "-c", "13", path, status=None)
    return done.stdout if done.returncode == 0 else None


def whose(sentence, *needs):
    return suite.test(sentence, needs=[tools.root, tools.tool("setpriv"), *needs])


REFUSED = ("root.raw", "user nobody", "trust-names")


@whose("root does not show others what a user's image names and the user cannot read")
def _(_directory):
    with place() as state:
        given(overlay(state.image, state.secret))
        bad.refused(state.image, "may not read", *REFUSED, options=("ro", "allow_other"),
                    at=state.at)
        bad.refused(state.image, "may not read", *REFUSED, options=("allow_other",), at=state.at)
        with mount.mount(state.image, "allow_other", "trust-names", at=state.at) as mounted:
            check_equal(reads(USER, mounted.disk), SECRET[:13].decode(), "what he reads then")
        os.chmod(state.secret, 0o644)
        with mount.mount(state.image, "allow_other", at=state.at) as mounted:
            check_equal(reads(USER, mounted.disk), SECRET[:13].decode(), "of what he may read")
        os.chmod(state.secrets, 0o700)
        bad.refused(state.image, "may not read", *REFUSED, options=("ro", "allow_other"),
                    at=state.at)


@whose("a link, a relative name and a name through a directory lead no further")
def _(_directory):
    with place() as state:
        os.symlink(state.secret, os.path.join(state.home, "link"))
        for name in ("link", "../secrets/root.raw", "./../home/link"):
            given(overlay(state.image, name))
            bad.refused(state.image, "may not read", "user nobody", options=("ro", "allow_other"),
                        at=state.at)
            bad.refused("disk.qcow2", "may not read", "user nobody", cwd=state.home,
                        options=("ro", "allow_other"), at=state.at)


@whose("root keeps what a user's image shows to himself, but for its data file")
def _(directory):
    with place() as state:
        given(overlay(state.image, state.secret))
        with mount.mount(state.image, at=state.at) as mounted, open(mounted.disk, "rb") as file:
            compare.check_bytes(file.read(), SECRET, 0)
        check_equal(ctl.ctl("create", "-q", "-b", state.image, "-F", "qcow2",
                            os.path.join(directory, "new.qcow2")).stderr, "", "what create said")


@whose("root writes no data file that the owner of the image could not write", tools.DATA_FILE)
def _(directory):
    with place() as state:
        given(on_data(directory, state.image, state.secret))
        os.chmod(state.secret, 0o644)
        for options in (("allow_other",), ()):
            with mount.mount(state.image, *options, at=state.at, writable=True) as mounted:
                check("mounting read-only" in mounted.stderr(), "not a word of it: %r",
                      mounted.stderr())
                for word in ("may not write", *REFUSED):
                    check(word in mounted.stderr(), "no %r in %r", word, mounted.stderr())
                check_equal(stat.S_IMODE(os.stat(mounted.disk).st_mode) & 0o222, 0, "to be written")
        with mount.mount(state.image, "trust-names", at=state.at, writable=True) as mounted:
            with open(mounted.disk, "r+b") as file:
                file.write(b"changed")
        with open(state.secret, "rb") as file:
            check_equal(file.read(7), b"changed", "what root had allowed")


@whose("qcow2ctl as root looks at, and changes, no file that the owner could not", tools.DATA_FILE)
def _(directory):
    with place() as state:
        given(overlay(state.image, state.secret))
        for command in (("info",), ("map",), ("resize",), ("amend", "-o", "size=1M")):
            operands = [state.image] + (["1M"] if command == ("resize",) else [])
            done = ctl.ctl(*command, *operands, status=1)
            for word in ("may not read", *REFUSED):
                check(word in done.stderr, "no %r of %r in %r", word, command, done.stderr)
            check_equal(ctl.ctl(*command, "--trust-names", *operands).stderr, "", "what it said")
        data = given(on_data(directory, os.path.join(state.home, "data.qcow2"), state.secret))
        os.chmod(state.secret, 0o644)
        for command in (("resize", data, "1M"), ("amend", "-o", "lazy_refcounts=on", data)):
            ctl.refused(*command, words=("may not write", *REFUSED), unchanged=[state.secret])
        check_equal(os.path.getsize(state.secret), len(SECRET), "the size of root's file")
        ctl.ctl("resize", "--trust-names", data, "1M")


@whose("what an image names is opened with the rights of all whose images led there")
def _(_directory):
    with place() as state:
        second = put(os.path.join(state.secrets, "second.raw"), OTHER, 0o604, SECOND)
        middle = given(overlay(os.path.join(state.home, "middle.qcow2"), second), SECOND, 0o644)
        given(overlay(state.image, "middle.qcow2", "qcow2"))
        with mount.mount(state.image, "allow_other", "mode=444", at=state.at) as mounted:
            check_equal(reads(USER, mounted.disk), OTHER[:13].decode(), "what both may see")
        os.chmod(second, 0o600)
        bad.refused(state.image, "second.raw", "user nobody", options=("ro", "allow_other"),
                    at=state.at, named=middle)
        os.chown(middle, USER, USER)
        bad.refused(state.image, "second.raw", "user nobody", options=("ro", "allow_other"),
                    at=state.at, named=middle)
        given(middle, SECOND, 0o600)
        bad.refused(state.image, "middle.qcow2", "user nobody", options=("ro", "allow_other"),
                    at=state.at)
        given(overlay(middle, state.secret), SECOND, 0o644)
        given(state.secret)
        bad.refused(state.image, "root.raw", "user 4242", options=("ro", "allow_other"),
                    at=state.at, named=middle)


@whose("a file of root's that a user's image makes an image of has no rights of root's", tools.DATA_FILE)
def _(directory):
    with place() as state:
        middle = os.path.join(state.secrets, "guest.raw")  # what a guest wrote to its disk
        for make in (overlay, on_data):
            if make is overlay:
                overlay(middle, state.secret)
            else:
                on_data(directory, middle, state.secret)
            os.chmod(middle, 0o644)
            given(overlay(state.image, middle, "qcow2"))
            copy = os.path.join(directory, "copy.raw")
            bad.refused(state.image, *REFUSED, options=("ro", "allow_other"), at=state.at, named=middle)
            for command in (["convert", "-O", "raw", state.image, copy], ["map", state.image],
                            ["info", "--backing-chain", state.image], ["hash", state.image]):
                ctl.refused(*command, words=REFUSED)
            check(not os.path.exists(copy), "there is a copy")
            ctl.ctl("map", middle)  # which root names himself
            ctl.ctl("map", "--trust-names", state.image)


@whose("commit writes no file of root's by way of root's file that a user's image names")
def _(_directory):
    with place() as state:
        middle = overlay(os.path.join(state.secrets, "guest.raw"), state.secret)
        os.chmod(middle, 0o666)
        os.chmod(state.secret, 0o644)  # he may read it
        given(overlay(state.image, middle, "qcow2"))
        image.io(state.image, "write -q -P 7 0 64k")
        ctl.refused("commit", "-b", state.secret, state.image, words=["may not write", *REFUSED],
                    unchanged=[state.secret, state.image])


@whose("what the user who mounts names himself is opened with his rights")
def _(_directory):
    with place() as state:
        given(overlay(state.image, "gone.raw"))
        with mount.mount(state.image, "allow_other", "backing-file=" + state.secret,
                         at=state.at) as mounted, open(mounted.disk, "rb") as file:
            compare.check_bytes(file.read(), SECRET, 0)


@whose("the disk's mode is no wider than that of any file behind it", tools.DATA_FILE)
def _(directory):
    def mode(*options, writable=False):
        with mount.mount(state.image, "allow_other", *options, at=state.at,
                         writable=writable) as mounted:
            return stat.S_IMODE(os.stat(mounted.disk).st_mode)

    with place() as state:
        overlay(state.image, state.secret)
        os.chmod(state.image, 0o666)
        for base, group, wanted in ((0o644, 0, 0o444), (0o600, 0, 0o400), (0o640, 0, 0o440),
                                    (0o640, 77, 0o400), (0o604, 77, 0o444)):
            os.chown(state.secret, 0, group)
            os.chmod(state.secret, base)
            check_equal(mode(), wanted, "with a backing file of mode %o, group %d" % (base, group))
        os.chmod(state.secret, 0o644)
        check_equal(mode(writable=True), 0o666, "of a disk to be written")
        check_equal(mode("mode=440"), 0o440, "with a mode of the user's choice")
        on_data(directory, state.image, state.secret)
        os.chmod(state.image, 0o666)
        os.chown(state.secret, 0, 0)
        os.chmod(state.secret, 0o664)
        check_equal(mode(writable=True), 0o664, "with a data file")


# --- a file that has moved ------------------------------------------------------------------------


@suite.test("a base that has moved is named by -o backing-file, and the sentence says so")
def _(directory):
    raw, moved = os.path.join(directory, "base.raw"), os.path.join(directory, "moved.raw")
    path = overlay(os.path.join(directory, "disk.qcow2"), "base.raw")
    top = overlay(os.path.join(directory, "top.qcow2"), "disk.qcow2", "qcow2")
    bad.refused(path, "base.raw", "-o backing-file=PATH", "qcow2ctl amend -u -o backing_file=PATH",
                options=("ro",))
    told = bad.refused(top, "base.raw", "qcow2ctl amend -u -o backing_file=PATH " + path,
                       options=("ro",), named=path)
    check("-o backing-file" not in told, "the option is not for an image behind: %s", told)
    done = ctl.ctl("info", path, status=1)
    check("qcow2ctl amend -u -o backing_file=PATH" in done.stderr, "no remedy in %r", done.stderr)
    put(moved, SECRET)
    with mount.mount(path, "backing-file=" + moved) as mounted, open(mounted.disk, "rb") as file:
        compare.check_bytes(file.read(), SECRET, 0)
    with mount.mount(path, "backing_file=moved.raw", cwd=directory, writable=True) as mounted:
        with open(mounted.disk, "r+b") as file:
            compare.check_bytes(file.read(), SECRET, 0)
            file.seek(0)
            file.write(b"new")
    check(not os.path.exists(raw), "a file was made")
    bad.refused(path, "elsewhere.raw", "no such backing file", options=("ro",
                "backing-file=elsewhere.raw"))
    alone = image.create(os.path.join(directory, "alone.qcow2"), 64 * KiB)
    bad.refused(alone, "has no backing file", options=("ro", "backing-file=" + moved))
    bad.refused(alone, "has no external data file", "leave out -o data-file=",
                options=("ro", "data-file=" + moved))
    bad.refused(moved, "has no external data file", options=("format=raw", "overlay", "data-file=" + raw))
    bad.refused(path, "cycle", options=("ro", "backing-file=" + path))


@suite.test("the sentence of a data file that has moved names both remedies",
            needs=[tools.DATA_FILE])
def _(directory):
    path = on_data(directory, os.path.join(directory, "disk.qcow2"), "data.raw")
    bad.refused(path, "-o data-file=PATH", "qcow2ctl amend -o data_file=PATH", options=("ro",))


# --- locks ----------------------------------------------------------------------------------------


@suite.test("locking=off takes no locks, and says what that means")
def _(directory):
    path = bad.sample("plain", directory)
    copy = os.path.join(directory, "copy.qcow2")
    shutil.copyfile(path, copy)
    with mount.mount(path, writable=True):
        bad.refused(path, "open for writing", options=("ro",))
        with mount.mount(path, "locking=off") as mounted:
            check("nothing keeps another program" in mounted.stderr(), "not a word: %r",
                  mounted.stderr())
        ctl.refused("resize", path, "+1M", words=["open for writing"])
    with mount.mount(copy, "locking=off", writable=True):
        ctl.ctl("check", copy)  # nobody is in its way
    ctl.ctl("resize", "--locking=off", copy, "+1M")
    ctl.ctl("amend", "--locking=off", "-o", "lazy_refcounts=on", copy)
    ctl.ctl("check", "--locking=off", "-r", "all", copy)


if __name__ == "__main__":
    suite.main()
