#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""-o overlay=FILE: what was written over an image is kept, in an image that QEMU opens as well."""

import errno
import json
import os
import time

from lib import bad, compare, evidence, files, image, mount, run, tap, tools, write
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.QEMU])


def case(directory):
    """Where the evidence is, and where overlays are."""
    places = [os.path.join(directory, name) for name in ("case", "kept")]
    for place in places:
        os.mkdir(place)
    return places


def overlay(path, kept, *options, **keywords):
    return mount.mount(path, "overlay=" + kept, *options, writable=True, **keywords)


def check_kept(kept, model):
    """QEMU finds the overlay in order, and reads what is in the raw file."""
    write.check_clean(kept)
    raw = image.to_raw(kept, kept + ".raw")
    compare.check_files(raw, model)
    os.unlink(raw)
    tools.run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", kept, model)


for kind in ("plain", "backing", "datafile"):
    @suite.test("what was written over an image (%s) is kept, gone on with, and QEMU's" % kind)
    def _(directory, kind=kind):
        case_directory, place = case(directory)
        path = bad.sample(kind, case_directory)
        kept = os.path.join(place, "kept.qcow2")
        model = write.model_of(path, directory)
        before = evidence.Evidence(case_directory)
        for seed in (1, 2):
            with overlay(path, kept) as mounted:
                check_equal(mounted.stderr(), "", "what it said")
                compare.check_files(mounted.disk, model)
                write.scribble(mounted.disk, model, seed, operations=40)
                compare.check_files(mounted.disk, model)
        before.check()
        check_equal(os.listdir(place), ["kept.qcow2"], "what is there")
        check_kept(kept, model)
        with mount.mount(kept) as mounted:
            compare.check_files(mounted.disk, model)
        image.io(kept, image.write(MiB, 100 * KiB, seed=3))  # QEMU writes to it, too
        image.to_raw(kept, model)
        with mount.mount(path, "overlay=" + kept) as mounted:  # ro
            compare.check_files(mounted.disk, model)


@suite.test("the backing file is recorded so that QEMU finds it: beside the overlay, or elsewhere")
def _(directory):
    case_directory, place = case(directory)
    path = bad.sample("plain", case_directory)
    link = os.path.join(directory, "latest")
    os.symlink(path, link)
    colon = os.path.join(case_directory, "a:b.qcow2")
    write.copy_image(path, colon)
    for source, kept, name in ((path, os.path.join(place, "far"), os.path.realpath(path)),
                               (path, os.path.join(case_directory, "near"), "image.qcow2"),
                               (link, os.path.join(directory, "link"), os.path.realpath(path)),
                               (colon, os.path.join(case_directory, "colon"), "./a:b.qcow2")):
        with overlay(source, kept):
            pass
        told = image.info(kept)
        check_equal((told["backing-filename"], told["backing-filename-format"]), (name, "qcow2"),
                    "what %s records" % os.path.basename(kept))
        tools.run("qemu-img", "compare", kept, path)
    with mount.mount("image.qcow2", "overlay=../kept/relative", cwd=case_directory, writable=True):
        pass
    check_equal(image.info(os.path.join(place, "relative"))["backing-filename"],
                os.path.realpath(path), "what an overlay of a relative name records")
    os.chmod(path, 0o600)
    with overlay(path, os.path.join(place, "private")):
        pass
    check_equal(os.stat(os.path.join(place, "private")).st_mode & 0o077, 0,
                "what others may with an overlay of an image that they may not read")


@suite.test("a raw disk, whose size is no multiple of a sector, too, has its format recorded")
def _(directory):
    path = write.source(directory, 2 * MiB)
    os.truncate(path, 2 * MiB + 1000)
    with open(path, "r+b") as file:
        file.write(b"QFI\xfb\0\0\0\3")
    kept = os.path.join(directory, "kept")
    model = os.path.join(directory, "model")
    write.copy_image(path, model)
    os.truncate(model, 2 * MiB + 1024)
    with overlay(path, kept, "format=raw") as mounted:
        compare.check_files(mounted.disk, model)
        write.scribble(mounted.disk, model, 1, operations=20)
    check_equal(image.info(kept)["backing-filename-format"], "raw", "the recorded format")
    check_kept(kept, model)
    # It looks like qcow2; and so would be shown as something else.
    with open(path, "r+b") as file:
        file.write(open(image.create(os.path.join(directory, "x"), 2 * MiB), "rb").read(65536))
    failed = mount.mount_fails(path, "overlay=" + kept, writable=True)
    check("format=raw" in failed.stderr, "it said %s", failed.stderr)
    with overlay(path, kept, "format=raw"):
        pass


@suite.test("a file that is something else is refused, and left as it is")
def _(directory):
    path = bad.sample("backing", directory)
    base = os.path.join(directory, image.info(path)["backing-filename"])
    other = os.path.join(directory, "other.qcow2")
    write.copy_image(path, other)
    kept, text, own, large, copy, nowhere = (os.path.join(directory, name) for name in
                                             ("kept", "text", "own", "large", "copy", "nowhere"))
    for of, at in ((other, kept), (path, large)):
        with overlay(of, at):
            pass
    with open(text, "w", encoding="utf-8") as file:
        file.write("no image\n" * 100)
    image.create(own, image.info(path)["virtual-size"])
    tools.run("qemu-img", "resize", "-q", large, "+1M")
    os.symlink("gone", nowhere)
    for file, words in ((kept, ("another image", other, path)), (text, ("is no overlay",)),
                        (own, ("nothing behind it",)), (large, ("resized", "mount")),
                        (path, ("that image itself",)), (base, ("behind that image",)),
                        (nowhere, ("symbolic link",)),
                        (os.path.join(directory, "not/there"), ("no directory",))):
        others = [each for each in (kept, text, own, large, base) if each != path]
        bad.refused(path, *words, options=("overlay=" + file,), others=others,
                    named=os.path.basename(file))
    os.symlink(path, copy)  # the same image by another name
    with overlay(copy, os.path.join(directory, "mine")):
        pass
    with overlay(path, os.path.join(directory, "mine")):
        pass


@suite.test("what cannot be kept honestly is refused in a sentence")
def _(directory):
    path = bad.sample("snapshots", directory)
    name = image.info(path)["snapshots"][0]["name"]
    for options, word in ((("at-snapshot=" + name,), "qemu-img convert -l"),
                          (("force-share",), "changes meanwhile"), (("snapshot=on",), "thrown away"),
                          (("overlay-dir=/tmp",), "overlay-dir")):
        bad.refused(path, word, options=("overlay=x",) + options, status=2, named=word)
    bad.refused(path, "no such overlay", options=("ro", "overlay=" + os.path.join(directory, "x")),
                named="x")


@suite.test("a mount that fails leaves no overlay behind")
def _(directory):
    path = bad.sample("plain", directory)
    kept = os.path.join(directory, "kept")
    busy = os.path.join(directory, "busy")
    os.makedirs(os.path.join(busy, "full"))
    for at, options in ((busy, ()), (os.path.join(directory, "none"), ()),
                        (bad.mount_point(directory), ("l2-cache-entry-size=100k",)),
                        (bad.mount_point(directory), ("lazy-refcounts=on", "backing-file=x"))):
        failed = mount.mount_fails(path, "overlay=" + kept, *options, at=at, writable=True)
        check(not os.path.exists(kept), "it is there after %s", failed.stderr)


@suite.test("an image that has changed since is told of, and one of another size refused")
def _(directory):
    path = bad.sample("plain", directory)
    kept = os.path.join(directory, "kept")
    with overlay(path, kept) as mounted, write.Direct(mounted.disk) as disk:
        disk.write(0, b"1" * 4096)
    with overlay(path, kept) as mounted:
        check_equal(mounted.stderr(), "", "what is said of one that has not changed")
    bad.wait_for(lambda: os.stat(kept).st_mtime < time.time() - 0.02, "a later time")
    image.io(path, image.write(MiB, 4096, seed=9))
    with overlay(path, kept) as mounted:
        check("written to after its overlay" in mounted.stderr(), "it said %r", mounted.stderr())
        with write.Direct(mounted.disk) as disk:
            check_equal(disk.read(0, 4096), b"1" * 4096, "what was kept")
    tools.run("qemu-img", "resize", "-q", path, "+1M")
    bad.refused(path, "resized", kept, options=("overlay=" + kept,))


@suite.test("overlay and image are locked as QEMU locks a chain")
def _(directory):
    path = bad.sample("plain", directory)
    kept = os.path.join(directory, "kept")
    with overlay(path, kept):
        bad.refused(path, "open for writing", options=("overlay=" + kept,), named="kept")
        for name in (path, kept):
            done = tools.run("qemu-io", "-f", "qcow2", "-c", "write 0 512", name, status=None)
            check("lock" in done.stdout + done.stderr, "qemu-io writes to %s: %s", name, done.stdout)
        tools.run("qemu-io", "-r", "-f", "qcow2", "-c", "read 0 512", path)
        with overlay(path, kept + "-2"):  # another one of the same image
            pass
    with bad.held(path):
        bad.refused(path, "open for writing", options=("overlay=" + kept,))
    with bad.held(path, "-r"), overlay(path, kept):
        pass


@suite.test("after kill -9 the overlay is in order, and has what was synced")
def _(directory):
    case_directory, place = case(directory)
    path = bad.sample("plain", case_directory)
    model = write.model_of(path, directory)
    kept = os.path.join(place, "kept")
    for round_number in range(2):
        before = evidence.Evidence(case_directory)
        with write.to_be_killed(path, "overlay=" + kept) as mounted:
            write.scribble(mounted.disk, model, round_number, operations=30)
            with open(mounted.disk, "rb+") as file:
                os.fsync(file.fileno())
            mounted.kill()
        before.check()
        write.check_clean(kept, leaks=True)
        compare.check_files(image.to_raw(kept, os.path.join(directory, "raw")), model)
    with overlay(path, kept) as mounted:
        compare.check_files(mounted.disk, model)


@suite.test("without room for it a write is ENOSPC, and what is kept is in order", needs=[tools.root])
def _(directory):
    path = bad.sample("plain", directory)
    size = image.info(path)["virtual-size"]

    def check_full(kept, *options):
        taken = 0
        # Full is full for what the kernel holds as well: but here it holds nothing.
        with overlay(path, kept, *options, directory=True) as mounted, \
                write.Direct(mounted.disk) as disk:
            try:
                for taken in range(0, size, 64 * KiB):
                    disk.write(taken, b"f" * 64 * KiB)
            except OSError as error:
                check_equal(error.errno, errno.ENOSPC, "the error")
            check(0 < taken < size - 64 * KiB, "%d bytes of %d were taken", taken, size)
            with open(os.path.join(mounted.path, "stats.json"), encoding="utf-8") as file:
                told = json.load(file)["overlay"]
            check(taken <= told["occupied"] <= 1200 * KiB, "%r is told", told)
        write.check_clean(kept)
        with overlay(path, kept) as mounted, open(mounted.disk, "rb") as file:
            compare.check_bytes(file.read(taken), b"f" * taken, 0)

    with write.small_host(directory, 1200 * KiB) as small:
        check_full(os.path.join(small, "kept"))
    check_full(os.path.join(directory, "bounded"), "overlay-max=1M")


@suite.test("qcow2ctl mount keeps what was written to files, and goes on with it",
            needs=[tools.root, tools.loop, tools.file_system("ext4"), tools.tool("debugfs")])
def _(directory):
    case_directory, place = case(directory)
    path = files.whole(case_directory)
    at = os.path.join(directory, "files")
    os.mkdir(at)
    kept = os.path.join(place, "kept")
    before = evidence.Evidence(case_directory)
    for number in range(2):
        with files.mounted(path, at, "-o", "overlay=" + kept):
            check_equal(sorted(set(os.listdir(at)) - {"lost+found"}),
                        sorted(["here"] + ["new-%d" % each for each in range(number)]), "the files")
            with open(os.path.join(at, "new-%d" % number), "w", encoding="utf-8") as file:
                file.write("kept\n")
        files.check_nothing_left(path)
    before.check()
    files.check_in_order(kept)
    with files.mounted(kept, at, "-r"):
        check_equal(os.path.getsize(os.path.join(at, "new-1")), 5, "a file, by the overlay itself")
    with files.mounted(path, at, "-r"):
        check(not os.path.exists(os.path.join(at, "new-0")), "the image has changed")


@suite.test("a device that is read-only has an overlay that is kept", needs=[tools.root, tools.loop])
def _(directory):
    path = bad.sample("plain", directory)
    kept = os.path.join(directory, "kept")
    os.truncate(path, -(-os.path.getsize(path) // 4096) * 4096)
    model = write.model_of(path, directory)
    with mount.loop_device(path) as device:
        for seed in (1, 2):
            with overlay(device, kept) as mounted:
                write.scribble(mounted.disk, model, seed, operations=20)
                compare.check_files(mounted.disk, model)
        check_equal(image.info(kept)["backing-filename"], device, "what is recorded")
        check_kept(kept, model)
        node = os.path.join(run.directory, "node")
        os.mknod(node, 0o600 | 0o060000, os.stat(device).st_rdev)
        with overlay(node, kept) as mounted:  # the same device by another node
            check_equal(mounted.stderr(), "", "what it said")
            compare.check_files(mounted.disk, model)


if __name__ == "__main__":
    suite.main()
