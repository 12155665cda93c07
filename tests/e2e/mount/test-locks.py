#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The locks that QEMU and qcow2fs hold on an image, from both sides."""

import contextlib
import json
import os

from lib import bad, compare, image, mount, run, tap, tools
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.QEMU])
WRITING = "has this %s open for writing"


def check_disk(path, expected):
    check_equal(bad.unreadable(path, 256 * KiB, expected), [], "the offsets of EIO")


def writer_says(path, image_format="qcow2"):
    """What somebody who wants to write is told; "" when it works."""
    done = tools.run("qemu-io", "-f", image_format, "-c", "write -P 1 0 512", path, status=None)
    if "wrote 512/512" in done.stdout:
        return ""
    return done.stdout + done.stderr


def check_locked(path, image_format="qcow2"):
    told = writer_says(path, image_format)
    check("lock" in told, "a writer is not kept out: %r", told)


def refused_for(path, process, what="image", named=None, foreground=True):
    """The sentence names the file, who has it open, and the way around it."""
    bad.refused(path, WRITING % what, "qemu-io (pid %d)" % process.pid, "force-share",
                named=named or path, foreground=foreground)


# --- QEMU was first ------------------------------------------------------------------------------


@suite.test("an image that QEMU has open for writing is refused, unless force-share is given")
def _(directory):
    path = bad.sample("plain", directory)
    expected = bad.contents(path)
    with bad.held(path) as process:
        refused_for(path, process)
        refused_for(path, process, foreground=False)
        bad.refused(path, WRITING % "image", options=["ro", "force-share=off"])
        for spelling in ("force-share", "force_share", "force-share=on"):
            with mount.mount(path, spelling) as mounted:
                check_disk(mounted.disk, expected)
                check_equal(mounted.stderr(), "", "what it said")
        with mount.mount(path, "force-share", foreground=False) as mounted:
            check_disk(mounted.disk, expected)
    with mount.mount(path) as mounted:
        check_disk(mounted.disk, expected)


@suite.test("an image that qemu-nbd exports for writing is refused, for reading it is not",
            needs=[tools.tool("qemu-nbd")])
def _(directory):
    path = bad.sample("plain", directory)
    expected = bad.contents(path)
    for options, refused in ((["--read-only"], False), ([], True)):
        with nbd(path, directory, *options) as process:
            if refused:
                bad.refused(path, WRITING % "image", "(pid %d)" % process.pid)
            else:
                with mount.mount(path) as mounted:
                    check_disk(mounted.disk, expected)


@contextlib.contextmanager
def nbd(path, directory, *options):
    """qemu-nbd with an export."""
    place = os.path.join(run.short(directory), "nbd")
    process = run.start(["qemu-nbd", "-f", "qcow2", "-t", "-k", place, "--pid-file", place + ".pid", *options,
                         path])
    try:
        # It has its socket before it opens the image, and this file behind that.
        bad.wait_for(lambda: os.path.exists(place + ".pid") or process.poll() is not None, "qemu-nbd")
        check(process.poll() is None, "qemu-nbd ended with status %s", process.poll())
        yield process
    finally:
        process.terminate()
        process.wait()
        for name in (place, place + ".pid"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)


@suite.test("a backing file that QEMU has open for writing is refused, unless force-share is given")
def _(directory):
    path = bad.sample("backing", directory)
    base = os.path.join(directory, "base.raw")
    expected = bad.contents(path)
    with bad.held(base, image_format="raw") as process:
        refused_for(path, process, "backing file", named=base)
        refused_for(path, process, "backing file", named=base, foreground=False)
        with mount.mount(path, "force-share") as mounted:
            check_disk(mounted.disk, expected)


@suite.test("an overlay that QEMU writes to keeps nobody from its backing file")
def _(directory):
    base = bad.sample("plain", directory)
    top = image.create(os.path.join(directory, "top.qcow2"), bad.SIZE, backing="image.qcow2",
                       backing_format="qcow2")
    expected = bad.contents(base)
    with bad.held(top) as process:
        refused_for(top, process)
        with mount.mount(base) as mounted:
            check_disk(mounted.disk, expected)


@suite.test("a data file that QEMU has open for writing is refused, unless force-share is given",
            needs=[tools.DATA_FILE])
def _(directory):
    path = bad.sample("datafile", directory)
    data = os.path.join(directory, "data.raw")
    expected = bad.contents(path)
    with bad.held(data, image_format="raw") as process:
        refused_for(path, process, "data file", named=data)
        with mount.mount(path, "force-share") as mounted:
            check_disk(mounted.disk, expected)
    with bad.held(path) as process:
        refused_for(path, process)


@suite.test("a reading QEMU is in nobody's way, nor is one that shares everything")
def _(directory):
    path = bad.sample("backing", directory)
    expected = bad.contents(path)
    with bad.held(path, "-r"), bad.held(path, "-r", "-U"), mount.mount(path) as mounted:
        check_disk(mounted.disk, expected)


# --- we were first --------------------------------------------------------------------------------


def check_qemu_reads(path, directory, expected):
    """The tools that only read work while the image is mounted."""
    told = json.loads(tools.output("qemu-img", "info", "--output=json", path))
    check_equal(told["virtual-size"], bad.SIZE, "the virtual size")
    check_equal(bad.contents(path), expected, "what qemu-img convert reads")
    tools.run("qemu-img", "map", path)
    tools.run("qemu-img", "measure", "-O", "raw", path)
    tools.run("qemu-img", "check", path)
    tools.run("qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", path, path)
    told = tools.output("qemu-io", "-r", "-f", "qcow2", "-c", "read 0 65536", path)
    check("read 65536/65536" in told, "qemu-io says %r", told)
    tools.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", path, "-F", "qcow2",
              os.path.join(directory, "overlay.qcow2"))


def ours(foreground):
    how = "in the foreground" if foreground else "in the background"

    @suite.test("a mounted image (%s) can be read by QEMU, and not be written" % how)
    def _(directory):
        path = bad.sample("backing", directory)
        base = os.path.join(directory, "base.raw")
        expected = bad.contents(path)
        before = compare.Unchanged(path).before(path)["sha256"]
        with mount.mount(path, foreground=foreground) as mounted:
            check_qemu_reads(path, directory, expected)
            check_locked(path)
            check_locked(base, "raw")
            for command in (["snapshot", "-c", "new"], ["resize"], ["amend", "-o", "compat=1.1"]):
                words = [*command[:1], *command[1:], path]
                if command[0] == "resize":
                    words = ["resize", path, "+1M"]
                done = tools.run("qemu-img", *words, status=None)
                check(done.returncode != 0 and "lock" in done.stderr, "qemu-img %r: %r", words,
                      done.stderr)
            check_disk(mounted.disk, expected)
            check_equal(compare.sha256(path), before, "the image")
        check_equal(writer_says(path), "", "what a writer is told afterwards")
        check_equal(writer_says(base, "raw"), "", "what a writer of the backing file is told")

    @suite.test("a mounted image's data file (%s) cannot be written by QEMU" % how,
                needs=[tools.DATA_FILE])
    def _(directory):
        path = bad.sample("datafile", directory)
        data = os.path.join(directory, "data.raw")
        with mount.mount(path, foreground=foreground):
            check_locked(path)
            check_locked(data, "raw")
        check_equal(writer_says(data, "raw"), "", "what a writer of the data file is told")
        check_equal(writer_says(path), "", "what a writer of the image is told")


ours(True)
ours(False)


@suite.test("a mount that was killed leaves no lock")
def _(directory):
    path = bad.sample("plain", directory)
    with mount.mount_that_ends_badly(path) as mounted:
        check_locked(path)
        mounted.kill()
    check_equal(writer_says(path), "", "what a writer is told")


@suite.test("a refused mount leaves no lock")
def _(directory):
    path = bad.sample("plain", directory)
    done = bad.start_and_end(path, os.path.join(directory, "missing"))
    check_equal(done.returncode, 1, "the exit status")
    check_equal(writer_says(path), "", "what a writer is told")


@suite.test("an image mounted with force-share does not keep a writer out")
def _(directory):
    path = bad.sample("plain", directory)
    with mount.mount(path, "force-share"):
        check_equal(writer_says(path), "", "what a writer is told")


@suite.test("several mounts of one image, and of what it shares with others, live together")
def _(directory):
    base = bad.sample("plain", directory)
    tops = [image.create(os.path.join(directory, "top%d.qcow2" % number), bad.SIZE,
                         backing="image.qcow2", backing_format="qcow2") for number in range(2)]
    expected = bad.contents(base)
    with contextlib.ExitStack() as mounts:
        disks = [mounts.enter_context(mount.mount(path, foreground=number % 2 == 0)).disk
                 for number, path in enumerate([base, base, tops[0], tops[1], tops[0]])]
        for disk in disks:
            check_disk(disk, expected)
        for path in [base, *tops]:
            check_locked(path)
    for path in tops:
        check_equal(writer_says(path), "", "what a writer is told")


@suite.test("what a writer has written since can be read, with force-share and mounted again")
def _(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), 4 * MiB)
    image.io(path, image.write(0, MiB, 1))
    first = image.pattern(MiB, 1) + bytes(3 * MiB)
    second = image.pattern(MiB, 1) + bytes(MiB) + image.pattern(2 * MiB, 2)
    with bad.held(path) as process:
        with mount.mount(path, "force-share") as mounted:
            check_disk(mounted.disk, first)
            for command in (image.write(2 * MiB, 2 * MiB, 2), "flush"):
                bad.tell(process, command)
        with mount.mount(path, "force-share") as mounted:
            check_disk(mounted.disk, second)


if __name__ == "__main__":
    suite.main()
