#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Overlays of images on media that are only read, and places that take no overlay."""

import contextlib
import os

from lib import bad, compare, image, mount, run, tap, tools, write
from lib.image import KiB, MiB
from lib.tap import check_equal

suite = tap.Suite(needs=[tools.fuse, tools.QEMU, tools.root, tools.loop])


@contextlib.contextmanager
def medium(source, place):
    """A squashfs of what is in `source`, at `place`: by the kernel, or else by a FUSE program."""
    packed = source + ".squashfs"
    tools.run("mksquashfs", source, packed, "-quiet", "-no-progress")
    os.mkdir(place)
    if tools.file_system("squashfs")() is None:
        tools.run("mount", "-t", "squashfs", "-o", "loop,ro", packed, place)
    else:
        tools.run("squashfuse", "-o", "allow_other", packed, place, env={run.MARK: run.directory})
    try:
        yield place
    finally:
        _ = run.unmount(place) or run.unmount(place, lazy=True)


@contextlib.contextmanager
def immutable(path):
    """While it is, nobody may change it, root neither."""
    if tools.run("chattr", "+i", path, status=None).returncode != 0:
        raise tap.Skip("no immutable files here")
    try:
        yield
    finally:
        tools.run("chattr", "-i", path)


def original(directory):
    """An image, and a raw disk, in a directory of their own. Returns it."""
    source = os.path.join(directory, "source")
    os.mkdir(source)
    write.copy_image(bad.sample("plain", directory), os.path.join(source, "image.qcow2"))
    write.source(source, MiB)
    for name in os.listdir(source):
        os.chmod(os.path.join(source, name), 0o444)
    return source


class User:
    """Mounts as somebody without rights, at a file of his own."""

    def __init__(self, public):
        self._public = public
        self.disk = bad.mount_point(public.path)
        os.chown(self.disk, 65534, 65534)

    @contextlib.contextmanager
    def mounted(self, path, *options):
        done = bad.start_and_end("-o", ",".join(options), path, self.disk, user=bad.NOBODY,
                                 program=self._public.program)
        try:
            check_equal((done.returncode, done.stderr), (0, ""), "the mount")
            yield self.disk
        finally:
            tools.run(*bad.user_prefix(bad.NOBODY), "fusermount3", "-u", self.disk, status=None)
            bad.wait_gone(self.disk)

    def refused(self, path, *words, options=(), named=None):
        bad.refused(path, *words, options=options, user=bad.NOBODY, at=self.disk, named=named,
                    program=self._public.program)

    def write(self, at, length):
        tools.run(*bad.user_prefix(bad.NOBODY), "dd", "if=/dev/urandom", "of=" + self.disk, "bs=4k",
                  "seek=%d" % (at // 4096), "count=%d" % (length // 4096), "conv=notrunc,fsync",
                  "oflag=direct")
        return tools.output(*bad.user_prefix(bad.NOBODY), "sha256sum", self.disk).split()[0]


@suite.test("on a squashfs an image and a raw disk are written over, kept, and gone on with by a user",
            needs=[tools.tool("mksquashfs", "squashfuse", "setpriv", "fusermount3")])
def _(directory):
    source = original(directory)
    with bad.public_directory() as public, medium(source, os.path.join(public.path, "medium")) as at:
        user = User(public)
        kept = os.path.join(public.path, "kept")
        os.mkdir(kept)
        os.chown(kept, 65534, 65534)
        for name in sorted(os.listdir(at)):
            path, overlay = os.path.join(at, name), os.path.join(kept, name + ".over")
            how = ("overlay=" + overlay,) + (() if name.endswith("qcow2") else ("format=raw",))
            with user.mounted(path, *how):
                shown = user.write(64 * KiB, 32 * KiB)
            with user.mounted(path, "ro", *how):
                check_equal(compare.sha256(image.to_raw(overlay, overlay + ".raw")), shown,
                            "what QEMU reads")
            with user.mounted(path, *how):
                shown = user.write(128 * KiB, 32 * KiB)
            write.check_clean(overlay)
            check_equal(os.stat(overlay).st_uid, 65534, "whose overlay it is")
            with mount.mount(path, *how, writable=True) as mounted:  # and by root
                check_equal(compare.sha256(mounted.disk), shown, "the disk")
            with user.mounted(path, "overlay", "overlay-dir=" + kept, *how[1:]):
                user.write(0, 4096)
        os.chown(kept, 0, 0)
        user.refused(path, "no permission to make", kept, options=("overlay=%s/new" % kept, "format=raw"),
                     named="new")
        user.refused(path, kept, "Permission denied", "-o overlay-dir=DIR",
                     options=("overlay", "overlay-dir=" + kept, "format=raw"))


@suite.test("a place that is only read takes no overlay, and lets a finished one be read",
            needs=[tools.tool("mksquashfs", "squashfuse")])
def _(directory):
    source = original(directory)
    path = os.path.join(source, "image.qcow2")
    kept = os.path.join(source, "kept")
    with mount.mount(path, "overlay=" + kept, writable=True) as mounted, \
            write.Direct(mounted.disk) as disk:
        disk.write(0, b"k" * 4096)
    with medium(source, os.path.join(directory, "medium")) as at:
        there = os.path.join(at, "image.qcow2")
        bad.refused(there, "only read", "another directory", options=("overlay=%s/new" % at,),
                    named="new")
        bad.refused(there, "Read-only file system", "-o overlay-dir=DIR",
                    options=("overlay", "overlay-dir=" + at))
        bad.refused(there, "open it read-only", options=("overlay=%s/kept" % at,), named="kept")
        with mount.mount(there, "overlay=%s/kept" % at) as mounted, \
                open(mounted.disk, "rb") as file:  # ro
            check_equal(file.read(4096), b"k" * 4096, "what was kept")


@suite.test("where nobody may change anything, root neither, a sentence says why",
            needs=[tools.tool("chattr")])
def _(directory):
    path = os.path.join(original(directory), "image.qcow2")
    place = os.path.join(directory, "place")
    os.mkdir(place)
    kept = os.path.join(place, "kept")
    with mount.mount(path, "overlay=" + kept, writable=True):
        pass
    with immutable(kept):
        bad.refused(path, "immutable", "lsattr", options=("overlay=" + kept,), named="kept")
        with mount.mount(path, "overlay=" + kept):  # ro
            pass
    with immutable(place):
        bad.refused(path, "immutable", "another directory", options=("overlay=%s/new" % place,),
                    named="new")
        bad.refused(path, place, "-o overlay-dir=DIR", options=("overlay", "overlay-dir=" + place))
    check_equal(os.listdir(place), ["kept"], "what is there")


if __name__ == "__main__":
    suite.main()
