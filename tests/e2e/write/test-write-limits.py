#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writing where something is in the way: a full host, a limit, a quota, another writer; and
what else stands in the image."""

import contextlib
import errno
import os
import random

from lib import bad, compare, image, mount, qcow2, stamps, tap, tools, write
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.QEMU])
HOST = 24 * MiB       # of the small host file system
BALLAST = 6 * MiB     # of it, to be removed when it is full
SIZE = 64 * MiB
STEP = 256 * KiB


def at(number):
    """The places that are written to, one after the other: all over the disk."""
    return number * 37 % (SIZE // STEP) * STEP


class Filling:
    """A disk being filled, and a model of what has been acknowledged."""

    def __init__(self, disk, model):
        self.disk, self.model = disk, model
        self.number = 0
        self.refused = set()  # what failed: old or new

    def _data(self, number):
        return image.pattern(STEP, number % 8)

    def step(self, handle, direct):
        """Writes one piece and syncs it; raises OSError."""
        offset, data = at(self.number), self._data(self.number)
        try:
            if direct is not None:
                direct.write(offset, data)
            else:
                write.write_all(handle, data, offset)
            os.fsync(handle)
        except OSError:
            self.refused.add(offset)
            raise
        with write.opened(self.model) as plain:
            write.write_all(plain, data, offset)
        self.number += 1

    def until_refused(self, buffered, number=errno.ENOSPC):
        with write.opened(self.disk) as handle, write.Direct(self.disk) as direct:
            def fill():
                for _ in range(SIZE // STEP):
                    self.step(handle, None if buffered else direct)
            write.refuses(number, fill)
        check(self.number > 4, "refused at once")

    def go_on(self, steps=8):
        """Writes again what was refused, and some more."""
        with write.opened(self.disk) as handle, write.Direct(self.disk) as direct:
            for _ in range(steps):
                self.step(handle, direct)
        self.refused.clear()

    def check(self, disk):
        """All that was acknowledged is there, and nothing else but what was refused."""
        with open(disk, "rb") as found, open(self.model, "rb") as expected:
            for offset in range(0, SIZE, STEP):
                got, wanted = found.read(STEP), expected.read(STEP)
                if offset not in self.refused:
                    compare.check_bytes(got, wanted, offset)


def ballast(place):
    path = os.path.join(place, "ballast")
    with open(path, "wb") as file:
        file.write(random.Random(3).randbytes(BALLAST))
        os.fsync(file.fileno())
    return path


def full_host(kind, host_needs, buffered, lazy):
    how = "buffered" if buffered else "direct"

    @suite.test("a full host (%s): ENOSPC for %s writes%s, all else stays, and writing goes on "
                "when there is space" % (kind, how, ", lazily counted" if lazy else ""),
                needs=[tools.loop, *host_needs])
    def _(directory):
        with write.small_host(directory, HOST, kind) as place:
            path = image.create(os.path.join(place, "image.qcow2"), SIZE, cluster_size="16k",
                                lazy_refcounts="on" if lazy else "off")
            spare = ballast(place)
            model = write.model_of(path, directory)
            with mount.mount(path, writable=True) as mounted:
                filling = Filling(mounted.disk, model)
                filling.until_refused(buffered)
                compare.forget(mounted.disk)
                filling.check(mounted.disk)
                os.unlink(spare)
                filling.go_on()
                filling.check(mounted.disk)
            write.check_clean(path)
            raw = write.contents(path, os.path.join(directory, "contents.raw"))
            filling.check(raw)


full_host("tmpfs", [], buffered=False, lazy=False)
full_host("tmpfs", [], buffered=True, lazy=False)
full_host("tmpfs", [], buffered=False, lazy=True)
full_host("ext4", [tools.MKE2FS], buffered=False, lazy=False)
full_host("ext4", [tools.MKE2FS], buffered=True, lazy=True)


@suite.test("a host that stays full leaves an image without errors, and what was flushed",
            needs=[tools.loop])
def _(directory):
    for lazy in (False, True):
        with write.small_host(directory, HOST) as place:
            path = image.create(os.path.join(place, "image.qcow2"), SIZE, cluster_size="4k",
                                lazy_refcounts="on" if lazy else "off")
            model = write.model_of(path, directory)
            with mount.mount_that_ends_badly(path, writable=True) as mounted:
                filling = Filling(mounted.disk, model)
                filling.until_refused(False)
            if lazy:  # it may not have found the space for its counts
                path = write.copy_image(path, os.path.join(directory, "copy.qcow2"))
                with mount.mount(path, writable=True):
                    pass
            write.check_clean(path, leaks=True)
            filling.check(write.contents(path, os.path.join(directory, "contents.raw")))


@suite.test("a full host: many small writes at once lose nothing that was acknowledged",
            needs=[tools.loop])
def _(directory):
    with write.small_host(directory, HOST) as place:
        ledger = stamps.Ledger(SIZE // stamps.BLOCK)
        path = image.create(os.path.join(place, "image.qcow2"), SIZE, cluster_size="4k")
        spare = ballast(place)
        with mount.mount_that_ends_badly(path, writable=True) as mounted:
            writers = stamps.start(mounted.disk, ledger, 3)
            for writer in writers:
                writer.join(tools.TIMEOUT)
                writer.stop()
            stamps.join(writers)
            check(any(writer.error is not None for writer in writers), "it never was full")
            for writer in writers:
                check(writer.error is None or writer.error.errno in (errno.ENOSPC, errno.EIO),
                      "%s", writer.error)
            os.unlink(spare)
            with write.Direct(mounted.disk) as direct:
                for _ in range(3):  # what could not be written is told until it has been
                    write.refuses(errno.ENOSPC, direct.sync)
        write.check_clean(path)
        ledger.check(write.contents(path, os.path.join(directory, "contents.raw")))


@suite.test("a limit of the file's size (RLIMIT_FSIZE) gives EFBIG, and kills nobody",
            needs=[tools.tool("prlimit")])
def _(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), SIZE)
    model = write.model_of(path, directory)
    with mount.mount(path, writable=True) as mounted:
        pid = str(mounted.pids[0])
        tools.run("prlimit", "--pid", pid, "--fsize=%d:unlimited" % (6 * MiB))
        filling = Filling(mounted.disk, model)
        filling.until_refused(False, errno.EFBIG)
        tools.run("prlimit", "--pid", pid, "--fsize=unlimited:unlimited")
        filling.go_on()
    write.check_clean(path)
    write.check_contents(path, model)


@suite.test("a quota that is used up gives EDQUOT, and writing goes on when there is more",
            needs=[tools.loop, tools.tool("mkfs.btrfs", "btrfs"), tools.file_system("btrfs")])
def _(directory):
    with write.small_host(directory, 256 * MiB, "btrfs") as place:
        tools.run("btrfs", "quota", "enable", place)
        tools.run("btrfs", "qgroup", "limit", str(24 * MiB), place)
        path = image.create(os.path.join(place, "image.qcow2"), SIZE)
        model = write.model_of(path, directory)
        with mount.mount(path, writable=True) as mounted:
            filling = Filling(mounted.disk, model)
            filling.until_refused(False, errno.EDQUOT)
            tools.run("btrfs", "qgroup", "limit", "none", place)
            filling.go_on()
        write.check_clean(path)
        filling.check(write.contents(path, os.path.join(directory, "contents.raw")))


@suite.test("an image on a block device is written, until the device is full",
            needs=[tools.loop])
def _(directory):
    """What a device holds where nothing was written is not zeros."""
    backing = os.path.join(directory, "device.raw")
    with open(backing, "wb") as file:
        for _ in range(HOST // MiB):
            file.write(image.pattern(MiB, 7))
    for lazy in ("on", "off"):
        with mount.loop_device(backing, writable=True) as device:
            image.create(device, SIZE, lazy_refcounts=lazy)
            model = write.model_of(device, directory)
            with mount.mount(device, writable=True) as mounted:
                with write.Direct(mounted.disk) as direct, write.opened(model) as plain:
                    for number in range(20):  # parts of clusters: the rest must be zeros
                        direct.write(number * 1500 * KiB, image.pattern(1024, number % 8))
                        write.write_all(plain, image.pattern(1024, number % 8),
                                        number * 1500 * KiB)
                    direct.sync()
                compare.check_files(mounted.disk, model)
                filling = Filling(mounted.disk, model)
                filling.until_refused(False)
                filling.check(mounted.disk)
            write.check_clean(device)
            filling.check(write.contents(device, os.path.join(directory, "contents.raw")))


@suite.test("nothing is written past the end of the disk, unless it is growable")
def _(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), 4 * MiB)
    data = image.pattern(64 * KiB, 1)
    with mount.mount(path, writable=True) as mounted:
        with write.Direct(mounted.disk) as direct:
            write.refuses(errno.ENOSPC, direct.write, 4 * MiB, data)
        with write.opened(mounted.disk) as handle:
            def buffered():
                os.pwrite(handle, data, 4 * MiB)
                os.fsync(handle)
            write.refuses(errno.ENOSPC, buffered)
        bad.wait_for(lambda: os.path.getsize(mounted.disk) == 4 * MiB, "its size is the disk's")
    check_equal(image.info(path)["virtual-size"], 4 * MiB, "the virtual size")
    with mount.mount(path, "growable", writable=True) as mounted, \
            write.opened(mounted.disk) as handle:
        write.write_all(handle, data, 5 * MiB)
        check_equal(os.path.getsize(mounted.disk), 5 * MiB + 64 * KiB, "the size")
        os.fsync(handle)
    write.check_clean(path)
    check_equal(image.info(path)["virtual-size"], 5 * MiB + 64 * KiB, "the virtual size")
    compare.check_bytes(bad.contents(path)[4 * MiB:], bytes(MiB) + data, 4 * MiB)


@suite.test("that the host cannot punch holes is told in one line, and what was discarded is zeros",
            needs=[tools.loop])
def _(directory):
    with write.small_host(directory, HOST, "ramfs") as place:
        path = image.create(os.path.join(place, "image.qcow2"), 4 * MiB)
        with mount.mount(path, writable=True) as mounted, write.opened(mounted.disk) as handle:
            for _turn in range(3):
                write.write_all(handle, image.pattern(MiB, 1), MiB)
                os.fsync(handle)
                write.fallocate(handle, write.FALLOC_PUNCH_HOLE | write.FALLOC_KEEP_SIZE, MiB, MiB)
                os.fsync(handle)
            os.fsync(handle)  # what the last commit dropped is given back with the next
            check_equal(mounted.stderr().count("cannot punch holes"), 1, "how often it is told")
            check_equal(os.pread(handle, MiB, MiB), bytes(MiB), "what was discarded")
        write.check_clean(path)


# --- another writer -----------------------------------------------------------------------------


def lock_refused(*argv):
    done = tools.run(*argv, status=None)
    check(done.returncode != 0 and "lock" in done.stderr, "%r: %s", argv,
          done.stdout + done.stderr)


def writers(foreground):
    @suite.test("while an image is mounted for writing (%s), nobody else writes or reads it "
                "without asking for that" % ("foreground" if foreground else "background"))
    def _(directory):
        path = bad.sample("plain", directory)
        before = bad.contents(path)
        with mount.mount(path, writable=True, foreground=foreground) as mounted:
            process = "qcow2fs (pid %d)" % mounted.pids[0]
            for options in ([], ["ro"]):
                bad.refused(path, "has this image open", process, options=options)
            bad.refused(path, "has this image open for writing", "force-share", options=["ro"])
            for argv in (["qemu-io", "-f", "qcow2", "-c", "write 0 512", path],
                         ["qemu-img", "info", path],
                         ["qemu-img", "check", path],
                         ["qemu-img", "snapshot", "-c", "new", path],
                         ["qemu-img", "convert", "-O", "raw", path,
                          os.path.join(directory, "out.raw")]):
                lock_refused(*argv)
            tools.run("qemu-img", "info", "-U", path)
            out = os.path.join(directory, "out.raw")
            tools.run("qemu-img", "convert", "-U", "-O", "raw", path, out)
            with open(out, "rb") as file:
                compare.check_bytes(file.read(), before, 0)
            with mount.mount(path, "force-share") as other:
                with open(other.disk, "rb") as file:
                    compare.check_bytes(file.read(), before, 0)
        tools.run("qemu-img", "check", path)
        check_equal(bad.contents(path), before, "the disk")


writers(True)
writers(False)


@suite.test("an image that somebody reads or writes is not mounted for writing")
def _(directory):
    path = bad.sample("plain", directory)
    with mount.mount(path) as mounted:
        bad.refused(path, "uses this image", "qcow2fs (pid %d)" % mounted.pids[0])
    with bad.held(path) as process:
        bad.refused(path, "has this image open for writing", "qemu-io (pid %d)" % process.pid)
    with bad.held(path, "-r") as process:
        bad.refused(path, "uses this image", "qemu-io (pid %d)" % process.pid)
    with mount.mount(path, writable=True):
        pass


@suite.test("a backing file can be read by others, and not be written, while its overlay is")
def _(directory):
    path = bad.sample("backing", directory)
    base = os.path.join(directory, "base.raw")
    model = write.model_of(path, directory)
    with mount.mount(path, writable=True) as mounted:
        lock_refused("qemu-io", "-f", "raw", "-c", "write 0 512", base)
        tools.run("qemu-io", "-r", "-f", "raw", "-c", "read 0 512", base)
        write.scribble(mounted.disk, model, seed=3, operations=40)
    write.check_clean(path)
    write.check_contents(path, model)


# --- the modes of the host's cache -----------------------------


@suite.test("the modes of the host's cache all write the same")
def _(directory):
    raw = write.source(directory, 8 * MiB)
    for mode in ("writeback", "none", "writethrough", "directsync", "unsafe"):
        for kind in ("clusters of 4 KiB", "a chain of three", "subclusters"):
            place = os.path.join(directory, mode + "-" + kind.replace(" ", "-"))
            os.mkdir(place)
            path = write.make(kind, place, raw)
            model = write.model_of(path, place)
            with mount.mount(path, "cache=" + mode, writable=True) as mounted:
                write.scribble(mounted.disk, model, seed=11, operations=60)
                compare.forget(mounted.disk)
                compare.check_files(mounted.disk, model)
            write.check_clean(path)
            write.check_contents(path, model)
            if mode in ("none", "unsafe"):
                write.check_contents(path, model, "cache=" + mode)


@suite.test("cache=writethrough and directsync: what a write has returned survives a kill")
def _(directory):
    for mode in ("writethrough", "directsync"):
        path = image.create(os.path.join(directory, mode + ".qcow2"), 8 * MiB)
        model = write.model_of(path, directory)
        with write.to_be_killed(path, "cache=" + mode, "metadata-interval=0") as mounted:
            with write.Direct(mounted.disk) as direct, write.opened(model) as plain:
                for number in range(20):
                    data = image.pattern(20 * KiB, number % 8)
                    direct.write(number * 300 * KiB, data)
                    write.write_all(plain, data, number * 300 * KiB)
            mounted.kill()
        write.check_clean(path, leaks=True)
        write.check_contents(path, model)


# --- what else stands in the image -----------------------------


def bitmaps(path):
    """{name: flags} of the bitmaps that QEMU would use."""
    found = image.info(path)["format-specific"]["data"].get("bitmaps", [])
    return {bitmap["name"]: bitmap["flags"] for bitmap in found}


def write_something(path, model, seed=1):
    with mount.mount(path, writable=True) as mounted:
        write.scribble(mounted.disk, model, seed=seed, operations=40, longest=64 * KiB)


@suite.test("persistent bitmaps stay as they are while nothing is written")
def _(directory):
    path = bad.sample("bitmaps", directory)
    unchanged = compare.Unchanged(path).before(path)["sha256"]
    with mount.mount(path, writable=True) as mounted:
        with write.Direct(mounted.disk) as direct:
            direct.read(0, MiB)
            direct.sync()
    check_equal(compare.sha256(path), unchanged, "the image")
    check_equal(bitmaps(path), {"one": ["auto"], "two": ["auto"]}, "the bitmaps")


@suite.test("before the first write persistent bitmaps are in use: nobody trusts them after a crash")
def _(directory):
    path = bad.sample("bitmaps", directory)
    with mount.mount(path, writable=True) as mounted, write.Direct(mounted.disk) as direct:
        direct.write(0, image.pattern(4096, 5))
        with qcow2.Qcow2(path) as opened:  # R6: before the data
            usable = (opened["autoclear_features"] & qcow2.AUTOCLEAR_BITMAPS
                      and not opened.bitmap_field(0, "flags") & 1)
        check(not usable, "the bitmap would be trusted after a crash")
        write.scribble(mounted.disk, write.model_of_disk(mounted.disk, directory), seed=1,
                       operations=20)
        model = write.model_of_disk(mounted.disk, directory)
    check_equal(bitmaps(path), {"one": ["auto"], "two": ["auto"]}, "the bitmaps at the end")
    write.check_clean(path)
    write.check_contents(path, model)


@suite.test("header extensions and compatible features that nobody knows survive")
def _(directory):
    path = bad.sample("plain", directory)
    kinds = (0x12345678, 0xDEADBEEF)
    with qcow2.Qcow2(path) as opened:
        for number, kind in enumerate(kinds):
            opened.append_extension(kind, b"not ours %d" % number * (number + 1))
        before = opened.extensions()
        opened["compatible_features"] |= 1 << 60
    model = write.model_of(path, directory)
    write_something(path, model)
    with mount.mount(path, "shrink", writable=True) as mounted:
        os.truncate(mounted.disk, 5 * MiB)
    os.truncate(model, 5 * MiB)
    with qcow2.Qcow2(path) as opened:
        check_equal([(old.type, old.data) for old in opened.extensions()],
                    [(old.type, old.data) for old in before], "the extensions")
        check_equal(opened["compatible_features"], 1 << 60, "the compatible features")
    write.check_clean(path)
    write.check_contents(path, model)


@suite.test("autoclear features that nobody knows are cleared by the first write, not before")
def _(directory):
    path = bad.sample("plain", directory)
    with qcow2.Qcow2(path) as opened:
        opened["autoclear_features"] = 1 << 40
    model = write.model_of(path, directory)
    with mount.mount(path, writable=True) as mounted, qcow2.Qcow2(path) as opened:
        compare.check_files(mounted.disk, model)
        check_equal(opened["autoclear_features"], 1 << 40, "the feature after reading")
        with write.Direct(mounted.disk) as direct:
            direct.write(0, image.pattern(512, 1))
        check_equal(opened["autoclear_features"], 0, "the feature after a write")


@suite.test("an image marked corrupt is mounted read-only, and left alone")
def _(directory):
    path = bad.sample("plain", directory)
    model = write.model_of(path, directory)
    with qcow2.Qcow2(path) as opened:
        opened["incompatible_features"] |= qcow2.CORRUPT
    unchanged = compare.Unchanged(path)
    write.check_read_only(path, model, "corrupt")
    unchanged.check()


if __name__ == "__main__":
    suite.main()
