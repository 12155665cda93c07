#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Backing files and data files that cannot or must not be used: each gets one sentence."""

import os
import shutil

from lib import bad, compare, image, mount, qcow2, tap, tools
from lib.image import KiB, MiB
from lib.tap import check_equal

suite = tap.Suite(needs=[tools.fuse, tools.QEMU])


def written(data):
    def make(path):
        with open(path, "wb") as file:
            file.write(data)
    return make


def created(kind):
    return lambda path: tools.run("qemu-img", "create", "-q", "-f", kind, path, "4M")


# --- backing files ----------------------------------------------------------------------


def behind(sentence, name, *words, backing_format="raw", prepare=None, named="image.qcow2"):
    """An image whose backing file is recorded as `name` is refused; `named`: the file to blame."""
    @suite.test(sentence)
    def _(directory):
        path = bad.sample("backing", directory)
        told = name.replace("DIRECTORY", directory)
        with qcow2.Qcow2(path) as opened:
            opened.remove_extension(qcow2.EXTENSION_BACKING_FORMAT)
            opened.set_backing_file(told.encode("utf-8", "surrogateescape"))
            if backing_format is not None:
                opened.append_extension(qcow2.EXTENSION_BACKING_FORMAT, backing_format.encode())
        if prepare is not None:
            prepare(directory)
        bad.refused(path, *words, named=named)


behind("a backing file that is missing", "gone.raw", "backing file", "gone.raw", "no such")
behind("a backing file with an absolute name that is missing", "DIRECTORY/no/gone.raw",
       "/no/gone.raw")
behind("a backing file that is a directory", "below", "backing file", "is a directory",
       prepare=lambda directory: os.mkdir(os.path.join(directory, "below")))
behind("a backing file that is a FIFO", "pipe", "backing file", "is a pipe",
       prepare=lambda directory: os.mkfifo(os.path.join(directory, "pipe")))
behind("a backing file that is a link to itself", "loop", "backing file", "symbolic links",
       prepare=lambda directory: os.symlink("loop", os.path.join(directory, "loop")))
behind("an image that is its own backing file", "image.qcow2", "cycle", backing_format="qcow2")
behind("an image that is its own raw backing file", "image.qcow2", "cycle")
behind("a backing file on the network", "nbd://localhost/export", "nbd://localhost/export",
       "no server is asked on an image's word alone")
behind("a backing file over HTTPS", "https://example.org/disk.qcow2", "protocol 'https:'",
       backing_format="qcow2")
behind("a backing file described as JSON", 'json:{"driver":"null-co","size":"1M"}', "json:",
       "QEMU's syntax")
behind("a backing file whose format is vmdk", "base.raw", "'vmdk'", "base.raw",
       backing_format="vmdk")
behind("a backing file whose format is a terminal command", "base.raw", "'?[2J'",
       backing_format="\x1b[2J")
behind("a backing file that is said to be qcow2 and is not", "base.raw", "not a qcow2 image",
       backing_format="qcow2", named="base.raw")
behind("a backing file with a name of control characters", "\x1b[31m\n\x7f", "?[31m??")
behind("a backing file of no recorded format that is a VMDK image", "other", "a VMDK image",
       backing_format=None,
       prepare=lambda directory: created("vmdk")(os.path.join(directory, "other")))
behind("an empty file as a qcow2 backing file", "empty", "an empty file", backing_format="qcow2",
       named="empty", prepare=lambda directory: written(b"")(os.path.join(directory, "empty")))


@suite.test("a backing file's name of zero bytes, or with a zero byte in it, cannot reach far")
def _(directory):
    path = bad.sample("backing", directory)
    with qcow2.Qcow2(path) as opened:
        opened.set_backing_file(b"base.raw\0and more")
    with mount.mount(path) as mounted:
        check_equal(os.path.getsize(mounted.disk), bad.SIZE, "the size")


@suite.test("a cycle of three images")
def _(directory):
    paths = [os.path.join(directory, "%d.qcow2" % number) for number in range(3)]
    for number, path in enumerate(paths):
        image.create(path, MiB, backing="%d.qcow2" % ((number + 1) % 3), backing_format="qcow2")
    for path in paths:
        bad.refused(path, "is part of a cycle", others=paths)
    os.unlink(paths[0])
    os.symlink("1.qcow2", paths[0])
    bad.refused(paths[2], "is part of a cycle", others=paths[1:])


@suite.test("a damaged image behind a good one is named in the sentence")
def _(directory):
    path = os.path.join(directory, "top.qcow2")
    base = bad.sample("plain", directory)
    image.create(path, MiB, backing="image.qcow2", backing_format="qcow2")
    with qcow2.Qcow2(base) as opened:
        opened["cluster_bits"] = 5
    bad.refused(path, "cluster_bits is 5", named=base, others=[base])


@suite.test("a backing file that a user may not read", needs=[tools.tool("setpriv")])
def _(directory):
    with bad.public_directory() as public:
        path = bad.sample("backing", public.path)
        base = os.path.join(public.path, "base.raw")
        os.chmod(path, 0o644)
        os.chmod(base, 0o600 if os.geteuid() == 0 else 0)
        at = bad.mount_point(public.path)
        if os.geteuid() == 0:
            os.chown(at, 65534, 65534)
        bad.refused(path, "no permission to read this backing file", "base.raw", user=bad.NOBODY,
                    at=at, program=public.program, others=[])


# --- images that are only guessed to be qcow2 -----------------------------------------------------


def guessed(directory):
    """An overlay of no recorded format on a raw disk into which a guest wrote a qcow2 header."""
    secret = os.path.join(directory, "secret.raw")
    with open(secret, "wb") as file:
        file.write(b"secret! " * 8192)
    trap = os.path.join(directory, "disk.raw")
    image.create(trap, 64 * KiB, backing=secret, backing_format="raw")
    top = image.create(os.path.join(directory, "top.qcow2"), 64 * KiB, backing="disk.raw",
                       backing_format="qcow2")
    with qcow2.Qcow2(top) as opened:
        opened.remove_extension(qcow2.EXTENSION_BACKING_FORMAT)
    return top, trap


@suite.test("a guessed qcow2 image may not name a further file, unless that is allowed")
def _(directory):
    top, trap = guessed(directory)
    bad.refused(top, "allow-probed-backing", "no format is recorded", named=trap, others=[trap])
    with mount.mount(top, "allow-probed-backing") as mounted:
        with open(mounted.disk, "rb") as file:
            compare.check_bytes(file.read(), b"secret! " * 8192, 0)
        check_equal(mounted.stderr(), "", "what the daemon said")


@suite.test("a guessed qcow2 image may not name a data file, unless that is allowed",
            needs=[tools.DATA_FILE])
def _(directory):
    trap = bad.sample("datafile", directory)
    wanted = bad.contents(trap)
    top = image.create(os.path.join(directory, "top.qcow2"), bad.SIZE, backing="image.qcow2",
                       backing_format="qcow2")
    with qcow2.Qcow2(top) as opened:
        opened.remove_extension(qcow2.EXTENSION_BACKING_FORMAT)
    bad.refused(top, "allow-probed-backing", "data file", named=trap, others=[trap])
    with mount.mount(top, "allow_probed_backing") as mounted:
        with open(mounted.disk, "rb") as file:
            compare.check_bytes(file.read(), wanted, 0)


@suite.test("a guessed qcow2 image that names nothing is read")
def _(directory):
    base = bad.sample("plain", directory)
    top = image.create(os.path.join(directory, "top.qcow2"), bad.SIZE, backing="image.qcow2",
                       backing_format="qcow2")
    with qcow2.Qcow2(top) as opened:
        opened.remove_extension(qcow2.EXTENSION_BACKING_FORMAT)
    wanted = bad.contents(base)
    with mount.mount(top) as mounted, open(mounted.disk, "rb") as file:
        compare.check_bytes(file.read(), wanted, 0)


# --- data files -----------------------------------------------------------------------------------


def data_file(sentence, edit, *words, options=()):
    @suite.test(sentence, needs=[tools.DATA_FILE])
    def _(directory):
        path = bad.sample("datafile", directory)
        edit(directory, path)
        bad.refused(path, *words, options=[option.replace("DIRECTORY", directory)
                                           for option in options])


def renamed(name):
    def edit(_directory, path):
        with qcow2.Qcow2(path) as opened:
            opened.remove_extension(qcow2.EXTENSION_DATA_FILE)
            if name is not None:
                opened.append_extension(qcow2.EXTENSION_DATA_FILE, name)
    return edit


def replaced(make):
    def edit(directory, _path):
        name = os.path.join(directory, "data.raw")
        os.unlink(name)
        make(name)
    return edit


data_file("a data file that is missing", replaced(lambda name: None), "data file", "no such")
data_file("a data file that is a directory", replaced(os.mkdir), "data file", "is a directory")
data_file("a data file that is a FIFO", replaced(os.mkfifo), "data file", "is a pipe")
data_file("a data file that is not named", renamed(None), "does not name it", "data-file=")
data_file("a data file on the network", renamed(b"nbd:localhost:10809"), "protocol 'nbd:'")
data_file("a data file described as JSON", renamed(b'json:{"driver":"null-co"}'), "json:")
data_file("a data file named by an option that is missing", lambda *_: None, "other.raw", "no such",
          options=["data-file=DIRECTORY/other.raw"])


@suite.test("a data file of which two are meant", needs=[tools.DATA_FILE])
def _(directory):
    path = bad.sample("datafile", directory)
    renamed(b"data.raw")(directory, path)
    elsewhere = os.path.join(directory, "elsewhere")
    os.mkdir(elsewhere)
    shutil.copyfile(os.path.join(directory, "data.raw"), os.path.join(elsewhere, "data.raw"))
    bad.refused(path, "data.raw", "two different files", cwd=elsewhere)
    with mount.mount(path, cwd=directory) as mounted:
        check_equal(os.path.getsize(mounted.disk), bad.SIZE, "the size")


if __name__ == "__main__":
    suite.main()
