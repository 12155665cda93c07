#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""qcow2ctl bitmap of a disk that is mounted: its qcow2fs does it, and no write is missed."""

import os
import threading

from lib import bad, ctl, image, mount, tap, tools, write
from lib.bitmaps import bitmaps, ranges, rounded
from lib.image import KiB, MiB

suite = tap.Suite(needs=[tools.fuse, tools.QEMU, tools.tool("qemu-nbd")])


def create(directory, *names):
    path = os.path.join(directory, "image.qcow2")
    tools.run("qemu-img", "create", "-q", "-f", "qcow2", path, "20M")
    for name in names:
        tools.run("qemu-img", "bitmap", "--add", path, name)
    return path


def bitmap(*arguments):
    return ctl.ctl("bitmap", *arguments).stdout.splitlines()


@suite.test("each change, between writes: what came before it is before it, what comes after is after")
def _(directory):
    path = create(directory, "old", "gone")
    with mount.mount(path, writable=True) as mounted, open(mounted.disk, "r+b", buffering=0) as disk:
        def put(offset):  # the kernel has it, and has not handed it over
            os.pwrite(disk.fileno(), b"x" * 4096, offset)
        put(0)
        tap.check_equal(bitmap("--add", "-g", "64k", path, "new"), ["Bitmap 'new' added."], "it said")
        put(MiB)
        bitmap("-q", "--clear", mounted.path, "old")
        put(2 * MiB)
        bitmap("-q", "--disable", path, "new")
        put(3 * MiB)
        bitmap("-q", "--merge=new", path, "old")
        bitmap("-q", "--add", "--disable", "--merge=old", path, "copy")
        bitmap("-q", "--remove", path, "gone")
        put(4 * MiB)
        bitmap("-q", "--enable", path, "copy")
        put(5 * MiB)
    tap.check_equal([name for name, _, _ in bitmaps(path)], ["copy", "new", "old"], "the bitmaps")
    for name, places in (("new", (1, 2)), ("old", (1, 2, 3, 4, 5)), ("copy", (1, 2, 3, 5))):
        tap.check_equal(ranges(path, name), [[place * MiB, 64 * KiB] for place in places], name)
    write.check_clean(path)


@suite.test("where there were none, the first that is made records from then on")
def _(directory):
    path = create(directory)
    with mount.mount(path, writable=True) as mounted, write.Direct(mounted.disk) as direct:
        direct.write(0, b"a" * 4096)
        bitmap("--add", path, "first")
        direct.write(MiB, b"a" * 4096)
        bitmap("--remove", path, "first")
        direct.write(2 * MiB, b"a" * 4096)
        bitmap("--add", path, "second")
        direct.write(3 * MiB, b"a" * 4096)
    tap.check_equal(ranges(path, "second"), [[3 * MiB, 64 * KiB]], "the bits")
    write.check_clean(path)


@suite.test("changed while others write without a pause: nothing is missing")
def _(directory):
    path = create(directory, "all", "other")
    ends = threading.Event()
    done = []

    def scribble(disk, first):
        with write.Direct(disk) as direct:
            for number in range(first, 320, 2):
                if ends.is_set():
                    break
                direct.write(number * 64 * KiB, b"w" * 4096)
                done.append([number * 64 * KiB, 4096])

    with mount.mount(path, writable=True) as mounted:
        threads = [threading.Thread(target=scribble, args=(mounted.disk, first)) for first in (0, 1)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(6):
                bitmap("-q", "--clear", path, "other")
                bitmap("-q", "--add", path, "new")
                bitmap("-q", "--remove", path, "new")
        finally:
            ends.set()
            for thread in threads:
                thread.join()
    tap.check_equal(ranges(path, "all"), rounded(done, 64 * KiB, 20 * MiB), "the bits")
    write.check_clean(path)


@suite.test("after kill -9 none that claims to be true misses a write")
def _(directory):
    path = create(directory, "all")
    with write.to_be_killed(path) as running, write.Direct(running.disk) as direct:
        direct.write(0, b"a" * 4096)
        direct.sync()
        bitmap("-q", "--add", path, "new")
        direct.write(MiB, b"a" * 4096)
        direct.sync()
        running.kill()
    tap.check_equal({flags for _, _, flags in ((a, b, tuple(c)) for a, b, c in bitmaps(path))},
                    {("auto", "in-use")}, "the flags")
    write.check_clean(path, leaks=True)


@suite.test("refused, with the daemon's own sentence")
def _(directory):
    path = create(directory, "there")
    os.mkdir(os.path.join(directory, "other"))
    other = bad.sample("bitmaps", os.path.join(directory, "other"))
    with mount.mount(path, writable=True):
        for arguments, words in ((["--add", path, "there"], ["there", "already"]),
                                 (["--clear", path, "absent"], ["absent", "info"]),
                                 (["--merge=absent", path, "there"], ["absent"]),
                                 (["--merge=one", "-b", other, path, "there"], ["mounted", "unmount"])):
            ctl.refused("bitmap", *arguments, words=words)
    with mount.mount(path):
        ctl.refused("bitmap", "--clear", path, "there", words=["qcow2fs"])
    for options, words in (([], "read-only"), (["overlay"], "overlay")):
        with mount.mount(path, *options, directory=True, writable=bool(options)) as mounted:
            for place in (mounted.path, mounted.disk):
                ctl.refused("bitmap", "--clear", place, "there", words=[place, words, "umount"])
                ctl.refused("snapshot", "-c", "new", place, words=[place, words, "umount"])
    tap.check_equal(bitmaps(path), [("there", 65536, ["auto"])], "the bitmaps")


@suite.test("-b may name the image itself")
def _(directory):
    path = create(directory, "one", "two")
    with mount.mount(path, writable=True) as mounted, write.Direct(mounted.disk) as direct:
        bitmap("-q", "--disable", path, "two")
        direct.write(MiB, b"a" * 4096)
        bitmap("-q", "--merge=one", "-b", path, mounted.path, "two")
    tap.check_equal(ranges(path, "two"), [[MiB, 64 * KiB]], "the bits")


if __name__ == "__main__":
    suite.main()
