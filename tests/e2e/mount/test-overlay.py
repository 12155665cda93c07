#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""-o overlay: a disk that programs may write, over an image of which nothing changes."""

import errno
import json
import os
import signal
import time

from lib import bad, compare, evidence, files, image, mount, qcow2, run, tap, tools, write
from lib.files import qcow2ctl
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.QEMU])

LOOP = [tools.root, tools.loop, tools.file_system("ext4"), tools.tool("debugfs")]


def case(directory):
    """Where the evidence is, and where overlays are."""
    places = [os.path.join(directory, name) for name in ("case", "scratch")]
    for place in places:
        os.mkdir(place)
    return places


def overlay(path, scratch, *options, **keywords):
    return mount.mount(path, "overlay", "overlay-dir=" + scratch, *options, writable=True,
                       **keywords)


def stats(mounted):
    with open(os.path.join(mounted.path, "stats.json"), encoding="utf-8") as file:
        return json.load(file)


def check_written(path, scratch, model, *options, seed=1):
    """Writes to the disk and to a raw file alike, and compares all of them."""
    with overlay(path, scratch, *options) as mounted:
        compare.check_files(mounted.disk, model)
        write.scribble(mounted.disk, model, seed, operations=40)
        compare.check_files(mounted.disk, model)
        compare.forget(mounted.disk)
        compare.check_files(mounted.disk, model)
        check_equal(os.listdir(scratch), [], "what lies where the overlay is")


for kind in ("plain", "version2", "small", "zstd", "extended", "snapshots", "backing", "datafile"):
    @suite.test("an image (%s) is written, and nothing of its files changes" % kind)
    def _(directory, kind=kind):
        case_directory, scratch = case(directory)
        path = bad.sample(kind, case_directory)
        model = write.model_of(path, directory)
        shown = compare.sha256(model)
        with evidence.untouched(case_directory):
            check_written(path, scratch, model)
            with mount.mount(path) as again:  # it is gone
                check_equal(compare.sha256(again.disk), shown, "the disk, afterwards,")


@suite.test("a raw disk is written, too, whatever its size and whatever a guest wrote to its beginning")
def _(directory):
    case_directory, scratch = case(directory)
    path = write.source(case_directory, 3 * MiB)
    os.truncate(path, 3 * MiB + 1000)
    with open(path, "r+b") as file:  # a boot sector
        file.seek(510)
        file.write(b"\x55\xaa")
    model = os.path.join(directory, "model")
    write.copy_image(path, model)
    with evidence.untouched(case_directory):
        check_written(path, scratch, model)
    with open(path, "r+b") as file:  # what a guest with bad intent would write there
        file.write(b"QFI\xfb\0\0\0\3")
    write.copy_image(path, model)
    with evidence.untouched(case_directory):
        check("header" in mount.mount_fails(path, "overlay", writable=True).stderr, "it was not said")
        check_written(path, scratch, model, "format=raw")


@suite.test("what looks like no disk is taken for a raw one, and a line says so")
def _(directory):
    path = os.path.join(directory, "archive")
    with open(path, "wb") as file:
        file.write(b"\x1f\x8b\x08" + b"\0" * 4093)
    with overlay(path, directory) as mounted:
        check("gzip" in mounted.stderr() and "format=raw" in mounted.stderr(), "it said %r",
              mounted.stderr())
    with overlay(path, directory, "format=raw") as mounted:
        check_equal(mounted.stderr(), "", "what it said")


@suite.test("a journal is replayed, files are written and trimmed, and the evidence is as it was",
            needs=LOOP)
def _(directory):
    case_directory, scratch = case(directory)
    live = files.whole(directory)
    path = os.path.join(case_directory, "crashed.qcow2")
    at = os.path.join(directory, "files")
    os.mkdir(at)
    with files.mounted(live, at):
        with open(os.path.join(at, "unfinished"), "wb") as file:
            file.write(b"y" * MiB)
            os.fsync(file.fileno())
        write.copy_image(live, path)  # its journal wants a replay
    before = evidence.Evidence(case_directory)
    with files.mounted(path, at, "-o", "overlay,overlay-dir=" + scratch):
        check_equal(bad.mount_table(at)[1], "ext4", "the type")
        check_equal(os.path.getsize(os.path.join(at, "unfinished")), MiB, "what the journal had")
        told = files.listed(path)[0]
        check_equal((told["mode"], told["overlay"]), ("rw", True), "what qcow2ctl list says")
        check("read-only, with an overlay" in qcow2ctl("list").stdout, "it is not in the list")
        with open(os.path.join(at, "new"), "wb") as file:
            file.write(b"z" * 2 * MiB)
        os.unlink(os.path.join(at, "here"))
        os.sync()
        tools.run("fstrim", at)
        check_equal(os.listdir(scratch), [], "what lies where the overlay is")
    before.check()
    with files.mounted(path, at, "-r", "-o", "overlay,overlay-dir=" + scratch):
        check(not os.path.exists(os.path.join(at, "new")), "the overlay is still there")
    before.check()


@suite.test("an attached device takes another file system, and the evidence is as it was", needs=LOOP)
def _(directory):
    case_directory, scratch = case(directory)
    path = files.whole(case_directory)
    with evidence.untouched(case_directory):
        with files.attached(path, "-o", "overlay,overlay-dir=" + scratch) as device:
            tools.run("mkfs.ext4", "-q", "-F", "-L", "other", device)
            tools.run("blkdiscard", "-f", device)
            with open(device, "rb") as file:
                check_equal(file.read(64 * KiB), bytes(64 * KiB), "the device, afterwards,")
        check("other" not in qcow2ctl("mount", "--list", path).stdout, "it is on the image")


@suite.test("images that are read with a warning are written over: dirty, corrupt, cut off")
def _(directory):
    for name, bit in (("dirty", 1), ("corrupt", 2), ("cut off", 0)):
        place = os.path.join(directory, name.replace(" ", "-"))
        os.mkdir(place)
        case_directory, scratch = case(place)
        path = bad.sample("snapshots" if name == "cut off" else "plain", case_directory)
        with qcow2.Qcow2(path) as opened:
            opened["incompatible_features"] |= bit
            table = opened["snapshots_offset"]
        if name == "cut off":
            os.truncate(path, table + 20)
        with mount.mount(path) as mounted:
            lines = mounted.stderr()
            model = write.model_of_disk(mounted.disk, place) if name != "cut off" else None
        check(lines != "", "an image that is %s is mounted without a word", name)
        with evidence.untouched(case_directory):
            with overlay(path, scratch) as mounted:
                check_equal(mounted.stderr(), lines, "what is said of an image that is %s" % name)
                if model is not None:
                    write.scribble(mounted.disk, model, 5, operations=20)
                    compare.check_files(mounted.disk, model)


@suite.test("an image that others read is written over; one that another writes is refused")
def _(directory):
    case_directory, scratch = case(directory)
    path = bad.sample("plain", case_directory)
    model = write.model_of(path, directory)
    with bad.held(path, "-r"), mount.mount(path), evidence.untouched(case_directory):
        check_written(path, scratch, model)
    with overlay(path, scratch):
        done = tools.run("qemu-io", "-f", "qcow2", "-c", "write 0 512", path, status=None)
        check("lock" in done.stdout + done.stderr, "qemu-io writes to it: %s", done.stdout)
    with bad.held(path):
        bad.refused(path, "force-share", options=("overlay",))
        with overlay(path, scratch, "force-share") as mounted, write.Direct(mounted.disk) as disk:
            disk.write(0, b"q" * 4096)
            check_equal(disk.read(0, 4096), b"q" * 4096, "what was written")


@suite.test("read-only media are written over", needs=LOOP)
def _(directory):
    case_directory, scratch = case(directory)
    tools.run("mount", "-t", "tmpfs", "qcow2fs-test", case_directory)
    try:
        path = bad.sample("plain", case_directory)
        model = write.model_of(path, directory)
        os.truncate(path, -(-os.path.getsize(path) // 4096) * 4096)
        tools.run("mount", "-o", "remount,ro", case_directory)
        check_written(path, scratch, model)
        image.to_raw(path, model)
        with mount.loop_device(path) as device:
            check_written(device, scratch, model)
    finally:
        _ = run.unmount(case_directory) or run.unmount(case_directory, lazy=True)


@suite.test("without room for the overlay a write is ENOSPC, and reading goes on", needs=[tools.root])
def _(directory):
    case_directory = case(directory)[0]
    path = bad.sample("plain", case_directory)
    model = write.model_of(path, directory)
    size = os.path.getsize(model)
    before = evidence.Evidence(case_directory)
    with write.small_host(directory, 1200 * KiB) as small, \
            open(model, "rb") as expected:
        with overlay(path, small) as mounted, write.Direct(mounted.disk) as disk:
            taken = fill(disk, size)
            check(0 < taken < size, "%d bytes of %d were taken", taken, size)
            rest = expected.seek(taken) and expected.read()
            compare.check_bytes(disk.read(taken + 64 * KiB, size - taken - 64 * KiB),
                                rest[64 * KiB:], taken + 64 * KiB)
            compare.check_bytes(disk.read(0, taken), b"f" * taken, 0)
            disk.write(0, b"g" * 64 * KiB)  # where there is room already
            check_equal(disk.read(0, 64 * KiB), b"g" * 64 * KiB, "what was written there")
        check_equal(os.listdir(small), [], "what is left")
        free = os.statvfs(small)
        check_equal(free.f_bfree, free.f_blocks, "the free blocks, when it is unmounted,")
    before.check()


def fill(disk, size, block=64 * KiB):
    """Writes until that is ENOSPC; how much was taken."""
    for offset in range(0, size, block):
        try:
            disk.write(offset, b"f" * block)
        except OSError as error:
            check_equal(error.errno, errno.ENOSPC, "the error")
            return offset
    return size


@suite.test("overlay-max bounds what the overlay occupies, which stats.json tells")
def _(directory):
    case_directory, scratch = case(directory)
    path = image.create(os.path.join(case_directory, "image.qcow2"), 64 * MiB)
    with evidence.untouched(case_directory), \
            overlay(path, scratch, "overlay-max=8M", directory=True) as mounted, \
            write.Direct(mounted.disk) as disk:
        first = stats(mounted)["overlay"]
        check_equal(first["max"], 8 * MiB, "the bound")
        check(first["occupied"] < MiB, "it begins with %d bytes", first["occupied"])
        taken = fill(disk, 64 * MiB)
        check(7 * MiB <= taken < 8 * MiB, "%d bytes were taken", taken)
        occupied = stats(mounted)["overlay"]["occupied"]
        check(taken <= occupied <= 8 * MiB, "%d bytes are occupied", occupied)
        check(os.statvfs(mounted.path).f_bfree < 100, "df says that there is room")
        with open(mounted.disk, "rb") as file:
            compare.check_bytes(file.read(taken), b"f" * taken, 0)
        with open(mounted.disk, "r+b") as file:
            write.punch(file.fileno(), 0, 4 * MiB)  # makes room
            os.fsync(file.fileno())
        disk.write(32 * MiB, b"h" * MiB)
        compare.check_bytes(disk.read(32 * MiB, MiB), b"h" * MiB, 32 * MiB)
        # What the kernel holds and finds no room is lost; but so is all of it when this ends, with status 0.
        handle = os.open(mounted.disk, os.O_RDWR)
        os.write(handle, b"l" * 12 * MiB)
        write.refuses(errno.ENOSPC, os.fsync, handle)
        write.close(handle)


@suite.test("killed, a daemon leaves nothing of its overlay; told to end, it ends well")
def _(directory):
    case_directory, scratch = case(directory)
    path = bad.sample("plain", case_directory)
    with evidence.untouched(case_directory):
        with write.to_be_killed(path, "overlay", "overlay-dir=" + scratch) as mounted:
            with write.Direct(mounted.disk) as disk:
                disk.write(0, b"k" * MiB)
                disk.sync()
            check_equal(os.listdir(scratch), [], "what lies where the overlay is")
            mounted.kill()
        check_equal(os.listdir(scratch), [], "what is left")
        with overlay(path, scratch) as mounted:
            with open(mounted.disk, "r+b", buffering=0) as file:
                file.write(b"t" * MiB)
            began = time.monotonic()
            mounted.signal(signal.SIGTERM)
            check(time.monotonic() - began < bad.SOON, "it took %d seconds", time.monotonic() - began)


@suite.test("what is shown is the image's: its name, description, snapshots, times, owner, partitions",
            needs=[tools.tool("sfdisk")])
def _(directory):
    case_directory, scratch = case(directory)
    path = files.partitioned(case_directory)
    tools.run("qemu-img", "snapshot", "-c", "before", path)
    os.chmod(path, 0o440)
    with mount.mount(path, directory=True) as mounted:
        names = {place: sorted(os.listdir(os.path.join(mounted.path, place)))
                 for place in ("", "snapshots", "snapshots/before", "partitions")}
        plain = os.stat(mounted.disk)
        with open(os.path.join(mounted.path, "info.json"), encoding="utf-8") as file:
            info = json.load(file)
    with evidence.untouched(case_directory), overlay(path, scratch, directory=True) as mounted:
        for place, expected in names.items():
            check_equal(sorted(os.listdir(os.path.join(mounted.path, place))), expected, place)
        shown = os.stat(mounted.disk)
        check_equal((shown.st_size, shown.st_mtime_ns, shown.st_uid, shown.st_mode & 0o777),
                    (plain.st_size, plain.st_mtime_ns, plain.st_uid, 0o640), "the disk's attributes")
        with open(os.path.join(mounted.path, "info.json"), encoding="utf-8") as file:
            told = json.load(file)
        check_equal(told.pop("overlay"), {"kept": False}, "what is said of the overlay")
        check_equal(told, info, "info.json")
        check_equal(bad.mount_table(mounted.path)[0], os.path.realpath(path), "the source")
        before = compare.sha256(os.path.join(mounted.path, "snapshots/before/disk.raw"))
        place = os.path.join(mounted.path, "snapshots")
        write.refuses(errno.EPERM, os.mkdir, os.path.join(place, "new"))
        write.refuses(errno.EPERM, os.rmdir, os.path.join(place, "before"))
        write.refuses(errno.EPERM, os.rename, os.path.join(place, "before"), place + "/after")
        with write.Direct(os.path.join(mounted.path, "partitions/1.raw")) as part:
            part.write(0, b"p" * 4096)
        with write.Direct(mounted.disk) as disk:
            check_equal(disk.read(MiB, 4096), b"p" * 4096, "the partition's bytes, in the disk,")
            disk.write(0, b"d" * 4096)
        check(os.stat(mounted.disk).st_mtime_ns > plain.st_mtime_ns, "its time stands still")
        check_equal(compare.sha256(os.path.join(mounted.path, "snapshots/before/disk.raw")), before,
                    "the snapshot, afterwards,")


@suite.test("snapshot=on is the same, and read-only it shows what ro shows")
def _(directory):
    case_directory, scratch = case(directory)
    path = bad.sample("plain", case_directory)
    with evidence.untouched(case_directory):
        with mount.mount(path, "snapshot=on", "overlay-dir=" + scratch, writable=True) as mounted, \
                write.Direct(mounted.disk) as disk:
            disk.write(0, b"s" * 4096)
        with mount.mount(path) as plain, mount.mount(path, "overlay") as mounted:
            compare.check_files(mounted.disk, plain.disk)
            check_equal(os.stat(mounted.disk).st_mode & 0o222, 0, "the bits to write")


@suite.test("a user without rights writes over what he can only read",
            needs=[tools.root, tools.tool("setpriv", "fusermount3")])
def _(directory):
    del directory
    with bad.public_directory() as public:
        case_directory = os.path.join(public.path, "case")
        os.mkdir(case_directory)
        path = bad.sample("plain", case_directory)
        os.chmod(path, 0o444)
        at = bad.mount_point(public.path)
        scratch = os.path.join(public.path, "scratch")
        os.mkdir(scratch)
        for name in (at, scratch):
            os.chown(name, 65534, 65534)
        before = compare.sha256(path), os.stat(path).st_mtime_ns, os.listdir(case_directory)
        done = bad.start_and_end("-o", "overlay,overlay-dir=" + scratch, path, at, user=bad.NOBODY,
                                 program=public.program)
        try:
            check_equal((done.returncode, done.stderr.count("its time of access")), (0, 1),
                        done.stderr)
            tools.run(*bad.user_prefix(bad.NOBODY), "dd", "if=/dev/zero", "of=" + at, "bs=64k",
                      "count=4", "conv=notrunc,fsync")
        finally:
            tools.run(*bad.user_prefix(bad.NOBODY), "fusermount3", "-u", at, status=None)
            bad.wait_gone(at)
        check_equal((compare.sha256(path), os.stat(path).st_mtime_ns, os.listdir(case_directory)),
                    before, "the evidence")


@suite.test("what does not go together is refused in a sentence")
def _(directory):
    path = bad.sample("snapshots", directory)
    for options, words in (
            (("overlay-max=9M",), ("overlay-max", "add overlay")),
            (("overlay-dir=/tmp",), ("overlay-dir", "add overlay")),
            (("format=raw",), ("needs no qcow2fs", "overlay")),
            (("overlay=on",), ("overlay alone", "./on")),
            (("overlay=",), ("overlay= is empty", "overlay alone")),
            (("overlay", "overlay-max=9"), ("out of range", "1 MiB")),
            (("snapshot=one",), ("at-snapshot=NAME", "snapshots/NAME/disk.raw"))):
        bad.refused(path, *words, options=options, status=2, named=words[0])
    bad.refused(path, "overlay-dir=DIR", "/nowhere/at/all",
                options=("overlay", "overlay-dir=/nowhere/at/all"))


# --- a snapshot in place of the active state ----------------------------------------------------


def snapshots_of(path, directory):
    """{name: a raw file of what it shows}."""
    found = {}
    for entry in image.info(path)["snapshots"]:
        raw = os.path.join(directory, "at-" + entry["name"])
        tools.run("qemu-img", "convert", "-f", "qcow2", "-l", "snapshot.name=" + entry["name"], "-O",
                  "raw", path, raw)
        found[entry["name"]] = raw
    return found


@suite.test("at-snapshot shows the disk of that snapshot, by name or ID, read-only")
def _(directory):
    case_directory = case(directory)[0]
    path = bad.sample("snapshots", case_directory)
    entries = image.info(path)["snapshots"]
    shown = snapshots_of(path, directory)
    with evidence.untouched(case_directory):
        for entry in entries:
            for wanted in (entry["id"], entry["name"]):
                with mount.mount(path, "at-snapshot=" + wanted, directory=True,
                                 writable=True) as mounted:
                    compare.check_files(mounted.disk, shown[entry["name"]])
                    check_equal(mounted.stderr(), "", "what it said")
                    check_equal(os.stat(mounted.disk).st_mode & 0o222, 0, "the bits to write")
                    with open(os.path.join(mounted.path, "info.json"), encoding="utf-8") as file:
                        check_equal(json.load(file)["at-snapshot"]["id"], entry["id"], "info.json")
        check("no snapshot 'x'" in mount.mount_fails(path, "at-snapshot=x").stderr, "it was not said")


@suite.test("with an overlay such a disk is written, of another size and over a chain, too")
def _(directory):
    case_directory, scratch = case(directory)
    base = image.create(os.path.join(case_directory, "base.qcow2"), 4 * MiB)
    image.io(base, image.write(0, 3 * MiB, seed=1))
    path = image.create(os.path.join(case_directory, "image.qcow2"), 5 * MiB, backing="base.qcow2",
                        backing_format="qcow2")
    image.io(path, image.write(MiB, MiB, seed=2))
    tools.run("qemu-img", "snapshot", "-c", "small", path)
    tools.run("qemu-img", "resize", "-q", path, "7M")
    image.io(path, image.write(MiB // 2, MiB, seed=3))
    model = snapshots_of(path, directory)["small"]
    os.truncate(model, 5 * MiB)  # qemu-img makes it as large as the active disk
    with evidence.untouched(case_directory):
        check_written(path, scratch, model, "at-snapshot=small", seed=7)
    with qcow2.Qcow2(path) as opened:
        offset = opened["snapshots_offset"]
        opened.write(offset + 8, b"\xff\xff\xff\xff")  # its l1_size
    bad.refused(path, options=("at-snapshot=small",))


@suite.test("a raw disk has no snapshot to show")
def _(directory):
    path = write.source(directory, MiB)
    failed = mount.mount_fails(path, "overlay", "at-snapshot=x", writable=True)
    check("no snapshots" in failed.stderr, "it said %s", failed.stderr)


if __name__ == "__main__":
    suite.main()
