#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Persistent bitmaps of a disk that is written through a mount, and by qcow2ctl: QEMU finds each
change in them, and no more than their granularity explains; after a crash it trusts none."""

import os
import random
import signal
import struct

from lib import bad, ctl, image, mount, tap, tools, write
from lib.bitmaps import all_bits, bitmaps, entry_of, ranges, rounded
from lib.image import KiB, MiB

suite = tap.Suite(needs=[tools.fuse, tools.QEMU, tools.tool("qemu-nbd")])


def create(directory, size, options="cluster_size=64k", named=(("one", "64k"),)):
    path = os.path.join(directory, "image.qcow2")
    if "data_file" in options:
        options += "=" + os.path.join(directory, "data.raw")
    tools.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, path, str(size))
    for name, granularity in named:
        tools.run("qemu-img", "bitmap", "--add", "-g", granularity, path, name)
    return path


def change(mounted, size, chance, count):
    """Writes, zeros and holes, past the kernel's cache; where they were."""
    changes = []
    with write.Direct(mounted.disk) as direct, write.opened(mounted.disk) as handle:
        for _ in range(count):
            offset = chance.randrange(size // 512) * 512
            length = min(size - offset, chance.choice([512, 4096, 70000 // 512 * 512, 300 * KiB]))
            kind = chance.randrange(4)
            if kind == 0:
                write.punch(handle, offset, length)
            elif kind == 1:
                write.zero(handle, offset, length)
            else:
                direct.write(offset, image.pattern(length, chance.randrange(1000)))
            changes.append([offset, length])
            if chance.randrange(10) == 0:
                direct.sync()
    return changes


# --- bits ---------------------------------------------------------------------------------------

GRANULARITIES = [("sector", "512"), ("page", "4k"), ("odd", "128k"), ("huge", "2G")]

for options, size in (("cluster_size=512", 4 * MiB), ("cluster_size=64k", 20 * MiB + 512),
                      ("cluster_size=64k,lazy_refcounts=on", 9 * MiB),
                      ("cluster_size=2M,extended_l2=on", 11 * MiB),
                      ("cluster_size=64k,data_file", 5 * MiB),
                      ("cluster_size=64k,data_file_raw=on,data_file", 5 * MiB)):
    @suite.test("what is set is what was written, zeroed and discarded: %s" % options)
    def _(directory, options=options, size=size):
        path = create(directory, size, options, GRANULARITIES + [("still", "64k")])
        tools.run("qemu-img", "bitmap", "--disable", path, "still")
        chance = random.Random(options)
        done = []
        for _ in range(3):  # QEMU goes on where we ended, and we where it did
            with mount.mount(path, writable=True) as mounted:
                done += change(mounted, size, chance, 12)
            check_all(path, done, size)
            write.check_clean(path)
            offset = chance.randrange(size // 512) * 512
            image.io(path, "write %d 512" % offset)
            done.append([offset, 512])
        check_all(path, done, size)
        tap.check_equal(ranges(path, "still"), [], "the one that is disabled")


def check_all(path, done, size):
    for name, granularity in GRANULARITIES:
        number = {"512": 512, "4k": 4096, "128k": 128 * KiB, "2G": 2 << 30}[granularity]
        tap.check_equal(ranges(path, name), rounded(done, number, size), "bits of %s" % name)


@suite.test("of each granularity from 512 bytes to 2 GiB, to the end of a disk that is no multiple of it")
def _(directory):
    size = (5 << 30) + 512
    each = [("of %d" % (512 << power), str(512 << power)) for power in range(23)]
    path = create(directory, size, named=each)
    done = [[0, 512], [(2 << 30) - 512, 1024], [(3 << 30) + 70000 // 512 * 512, 5 * MiB], [size - 512, 512]]
    with mount.mount(path, writable=True) as mounted:
        with write.Direct(mounted.disk) as direct, write.opened(mounted.disk) as handle:
            for offset, length in done[:2] + done[3:]:
                direct.write(offset, b"g" * length)
            write.punch(handle, *done[2])
    for name, granularity in each:
        tap.check_equal(ranges(path, name), rounded(done, int(granularity), size), name)
    write.check_clean(path)


@suite.test("what the kernel has cached is in them, and a mount that only reads changes nothing")
def _(directory):
    path = create(directory, 40 * MiB)
    with mount.mount(path, writable=True) as mounted:
        with open(mounted.disk, "r+b") as disk:
            disk.seek(7 * MiB + 100)
            disk.write(b"x" * 200000)
    tap.check_equal(ranges(path, "one"), rounded([[7 * MiB + 100, 200000]], 65536, 40 * MiB), "bits")
    with open(path, "rb") as file:
        before = file.read()
    with mount.mount(path, writable=True) as mounted, open(mounted.disk, "rb") as disk:
        disk.read()
    with open(path, "rb") as file:
        tap.check(file.read() == before, "the image changed")


@suite.test("three hundred of them, among others that are disabled")
def _(directory):
    names = ["bitmap %d" % number for number in range(300)]
    path = create(directory, 64 * MiB, "cluster_size=4k", [])
    for name in names:
        ctl.ctl("bitmap", "-q", "--add", "-g", "64k", path, name)
    for name in names[::3]:
        ctl.ctl("bitmap", "-q", "--disable", path, name)
    with mount.mount(path, writable=True) as mounted, write.Direct(mounted.disk) as direct:
        direct.write(33 * MiB, b"y" * 4096)
    for number in (0, 1, 2, 299):
        tap.check_equal(ranges(path, names[number]), [] if number % 3 == 0 else [[33 * MiB, 65536]],
                        names[number])
    tap.check_equal({tuple(flags) for _, _, flags in bitmaps(path)}, {(), ("auto",)}, "the flags")
    write.check_clean(path)


@suite.test("large ones, more than there is memory for if they were full, take what has changed")
def _(directory):
    size = 256 << 40
    path = create(directory, size, "cluster_size=2M", [])
    for number in range(5):  # of 512 MiB each
        ctl.ctl("bitmap", "-q", "--add", "-g", "64k", path, "of %d" % number)
    image.io(path, "write 100T 64k")
    done = [[100 << 40, 65536], [0, 4096], [(200 << 40) - 4096, 8192], [size - 4096, 4096]]
    with mount.mount(path, directory=True, writable=True) as mounted:
        with write.Direct(mounted.disk) as direct:
            for offset, length in done[1:]:
                direct.write(offset, b"l" * length)
        ctl.ctl("backup-point", "-q", "--bitmap=of 4", path)
        ctl.ctl("backup-point", "-q", "--bitmap=of 4", "--failed", path)
        with open("/proc/%d/status" % mounted.pids[0], encoding="ascii") as file:
            used = [int(line.split()[1]) for line in file if line.startswith("VmHWM:")]
        tap.check(os.environ.get("QCOW2FS_SANITIZE") or used[0] < 200 * 1024, "%s KiB of memory", used)
    for number in range(5):
        tap.check_equal(ranges(path, "of %d" % number), rounded(done, 65536, size), "of %d" % number)
    write.check_clean(path)


# --- sizes --------------------------------------------------------------------------------------

@suite.test("a disk of another size has bitmaps of that size; what it gains is set")
def _(directory):
    path = create(directory, 10 * MiB, "cluster_size=4k", [("one", "4k"), ("still", "512")])
    image.io(path, "write 9M 4k", "write 1M 4k")
    tools.run("qemu-img", "bitmap", "--clear", path, "one")
    tools.run("qemu-img", "bitmap", "--disable", path, "still")
    with mount.mount(path, "shrink", writable=True) as mounted:
        os.truncate(mounted.disk, 5 * MiB)
    tap.check_equal([ranges(path, "one"), ranges(path, "still")], [[], [[MiB, 4096]]], "made smaller")
    with mount.mount(path, "growable", writable=True) as mounted, open(mounted.disk, "ab") as disk:
        for _ in range(100):
            disk.write(image.pattern(60000, 1))
            disk.flush()
            os.fsync(disk.fileno())
    size = 5 * MiB + 100 * 60000 // 512 * 512 + 512
    size = os.path.getsize(path) and image.info(path)["virtual-size"]
    write.check_clean(path)
    tap.check_equal(ranges(path, "one"), [[5 * MiB, size - 5 * MiB]], "what it gained")
    tap.check_equal(ranges(path, "still"), [[MiB, 4096], [5 * MiB, size - 5 * MiB]],
                    "the one that is disabled, of which the smaller disk had forgotten that")
    # Old bytes that went with the end of the disk are zeros when it is as large again.
    tools.run("qemu-img", "bitmap", "--clear", path, "one")
    ctl.ctl("resize", "-q", "--shrink", path, "3M")
    ctl.ctl("resize", "-q", path, "7M")
    tap.check_equal(ranges(path, "one"), [[3 * MiB, 4 * MiB]], "smaller and larger")
    ctl.ctl("amend", "-q", "-o", "size=8M", path)
    tap.check_equal(ranges(path, "one"), [[3 * MiB, 5 * MiB]], "amend")
    tap.check_equal(ranges(path, "still"), [[MiB, 4096], [3 * MiB, 5 * MiB]], "the one that is disabled")
    write.check_clean(path)


# --- other commands -----------------------------------------------------------------------------

@suite.test("snapshots leave them as they are; going back to one sets all")
def _(directory):
    path = create(directory, 10 * MiB)
    image.io(path, "write 1M 64k")
    before = all_bits(path)
    ctl.ctl("snapshot", "-c", "kept", path)
    ctl.ctl("snapshot", "-c", "other", path)
    ctl.ctl("snapshot", "-d", "other", path)
    tap.check_equal(all_bits(path), before, "the bitmaps")
    with mount.mount(path, directory=True, writable=True) as mounted:
        os.mkdir(os.path.join(mounted.path, "snapshots", "live"))
        with write.Direct(mounted.disk) as direct:
            direct.write(5 * MiB, b"z" * 4096)
    tap.check_equal(ranges(path, "one"), [[MiB, 65536], [5 * MiB, 65536]], "the bits")
    ctl.ctl("snapshot", "-a", "kept", path)
    tap.check_equal(ranges(path, "one"), [[0, 10 * MiB]], "after going back")
    write.check_clean(path)


@suite.test("going back to a snapshot of another size")
def _(directory):
    path = create(directory, 10 * MiB, named=[("one", "64k"), ("still", "64k")])
    tools.run("qemu-img", "bitmap", "--disable", path, "still")
    ctl.ctl("snapshot", "-c", "kept", path)
    ctl.ctl("resize", "-q", path, "700M")
    ctl.ctl("snapshot", "-c", "large", path)
    gained = [[10 * MiB, 690 * MiB]]  # what a disk gains is set in all of them
    for name, size, still in (("kept", 10 * MiB, []), ("large", 700 * MiB, gained)):
        ctl.ctl("snapshot", "-a", name, path)
        tap.check_equal([ranges(path, "one"), ranges(path, "still")], [[[0, size]], still], name)
        write.check_clean(path)


# --- what is not kept ---------------------------------------------------------------------------

@suite.test("after kill -9 they are inconsistent: info, check and the next mount say so")
def _(directory):
    path = create(directory, 10 * MiB, named=[("lost", "64k"), ("still", "64k")])
    tools.run("qemu-img", "bitmap", "--disable", path, "still")
    mounted = write.to_be_killed(path)
    with mounted as running, write.Direct(running.disk) as direct:
        direct.write(0, b"a" * 4096)
        direct.sync()
        running.kill()
    tap.check_equal(bitmaps(path), [("lost", 65536, ["auto", "in-use"]), ("still", 65536, [])],
                    "the bitmaps")
    tap.check("in-use" in ctl.ctl("info", path).stdout, "info does not say so")
    told = ctl.ctl("check", "--repair=leaks", path)
    tap.check("'lost'" in told.stdout + told.stderr, "check does not say so: %s", told)
    write.check_clean(path, leaks=True)
    with mount.mount(path, writable=True) as running:
        with write.Direct(running.disk) as direct:
            direct.write(0, b"b" * 4096)
        said = running.stderr()
    tap.check("bitmap 'lost' is inconsistent" in said and "still" not in said, "it said %s", said)
    tap.check_equal(bitmaps(path)[0], ("lost", 65536, ["auto", "in-use"]), "the bitmap")
    ctl.ctl("bitmap", "-q", "--remove", path, "lost")
    write.check_clean(path, leaks=True)


@suite.test("one of a kind that is not known is inconsistent after a write, the others are kept")
def _(directory):
    path = create(directory, 10 * MiB, named=[("odd", "64k"), ("good", "64k"), ("later", "64k")])
    with open(path, "r+b") as file:
        entry_of(file, b"odd")
        file.seek(16, os.SEEK_CUR)
        file.write(b"\x07")  # its type
    with mount.mount(path, writable=True) as mounted:
        with write.Direct(mounted.disk) as direct:
            direct.write(2 * MiB, b"a" * 4096)
        said = mounted.stderr()
    tap.check("bitmap 'odd'" in said and "inconsistent from now on" in said, "it said %s", said)
    with open(path, "r+b") as file:
        entry_of(file, b"odd")
        file.seek(12, os.SEEK_CUR)
        tap.check_equal(struct.unpack(">I", file.read(4))[0], 3, "its flags")
        entry_of(file, b"odd")
        file.seek(16, os.SEEK_CUR)
        file.write(b"\x01")  # for QEMU
    for name in ("good", "later"):
        tap.check_equal(ranges(path, name), [[2 * MiB, 65536]], name)


@suite.test("a directory that cannot be read gives up all of them, and the disk is written")
def _(directory):
    path = create(directory, 10 * MiB)
    with open(path, "r+b") as file:
        at = entry_of(file, b"one")
        file.seek(at + 18)
        file.write(struct.pack(">H", 0))  # of no name
    with mount.mount(path, writable=True) as mounted:
        with write.Direct(mounted.disk) as direct:
            direct.write(2 * MiB, b"a" * 4096)
        said = mounted.stderr()
    tap.check("bitmap" in said and "inconsistent from now on" in said, "it said %s", said)
    tap.check_equal(bitmaps(path), [], "the bitmaps")


if __name__ == "__main__":
    suite.main()
