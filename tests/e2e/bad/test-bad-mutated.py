#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Mutated images: bytes of the metadata are replaced at random, from fixed seeds.

Whatever comes of it, the image is refused with a sentence, or mounted, read and unmounted,
without a crash, without a hang; and where QEMU and we can both read it, the bytes are the
same. Two differences are meant: a data cluster that begins past the end of the file is EIO
here and zeros with QEMU; QEMU rounds a virtual size down to sectors.
"""

import contextlib
import os
import random
import shutil

from lib import bad, mount, qcow2, run, tap, tools
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.QEMU])

MUTATED_SECONDS = 60  # for one of them, and so that none hangs
READ_MOST = 8 * MiB
LARGE = 64 * MiB
VALUES = [0, 1, 2, 0x1FF, 0x200, 0xFFF, 0x1000, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 32, 1 << 55,
          1 << 62, 1 << 63, (1 << 56) - 512, (1 << 63) - 1, (1 << 64) - 1, (1 << 64) - 4096,
          qcow2.COPIED | 0x5000, qcow2.COPIED | 0x30000, qcow2.L2_COMPRESSED | 0x5000]


def areas(path):
    """(start, length, weight) of the metadata of an image."""
    with qcow2.Qcow2(path) as opened:
        cluster = opened.cluster_size
        found = [(0, 112, 4), (opened.header_length, 600, 2),
                 (opened["l1_table_offset"], opened["l1_size"] * 8, 3),
                 (opened["refcount_table_offset"], 64, 1)]
        for index in range(opened["l1_size"]):
            table = opened.l1_entry(index) & qcow2.HOST_OFFSET_MASK
            if table:
                used = min(cluster, bad.SIZE // cluster * opened.l2_entry_size)
                found.append((table, used, 3))
        if opened["nb_snapshots"]:
            snapshots = opened.snapshots()
            end = snapshots[-1].position + snapshots[-1].length
            found.append((snapshots[0].position, end - snapshots[0].position, 4))
            for index in range(len(snapshots)):
                found.append((opened.snapshot_field(index, "l1_table_offset"), 16, 1))
        return found


def mutate(path, generator, found):
    """Changes a few places; returns what was done, for the report."""
    done = []
    with qcow2.Qcow2(path) as opened:
        for _ in range(generator.choice((1, 1, 1, 2, 3, 6))):
            start, length, _weight = generator.choices(found, [area[2] for area in found])[0]
            kind = generator.randrange(4)
            if kind == 0:  # a bit
                at = start + generator.randrange(length)
                data = bytes([(opened.read(at, 1) or b"\0")[0] ^ 1 << generator.randrange(8)])
            elif kind == 1:  # some bytes
                at = start + generator.randrange(length)
                data = generator.randbytes(generator.randint(1, 8))
            elif kind == 2:  # a field
                at = start + generator.randrange(max(1, length // 8)) * 8
                data = generator.choice(VALUES).to_bytes(8, "big")
            else:  # a small field
                at = start + generator.randrange(max(1, length // 4)) * 4
                data = (generator.choice(VALUES) & 0xFFFFFFFF).to_bytes(4, "big")
            opened.write(at, data)
            done.append("0x%x: %s" % (at, data.hex()))
    return ", ".join(done)


def oracle(path):
    """What qemu-img reads, as a file; None where it does not, or where that would be too much."""
    raw = os.path.join(os.path.dirname(path), "oracle.raw")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(raw)
    with qcow2.Qcow2(path) as opened:
        if opened["virtual_size"] > LARGE or opened["magic"] != qcow2.MAGIC:
            return None
    try:
        done = tools.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, raw, status=None,
                         timeout=20)
    except tools.CommandFailed:
        return None
    return raw if done.returncode == 0 else None


def explore(path):
    """Opens, reads and seeks what a file has, within bounds."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError as error:
        check_equal(error.errno, 5, "errno of opening %s" % path)
        return
    try:
        size = os.fstat(handle).st_size
        for start in sorted({0, max(0, size - 128 * KiB), size // 2}):
            for offset in range(start, min(size, start + 256 * KiB), 64 * KiB):
                with contextlib.suppress(OSError):
                    os.pread(handle, 64 * KiB, offset)
        position = 0
        with contextlib.suppress(OSError):
            for _ in range(500):
                position = os.lseek(handle, position, os.SEEK_DATA)
                position = os.lseek(handle, position, os.SEEK_HOLE)
    finally:
        os.close(handle)


def walk(mounted):
    """Goes through the tree, and explores every file."""
    count = 0
    for top, _directories, files in os.walk(mounted.path):
        for name in files:
            if count < 12:
                explore(os.path.join(top, name))
                count += 1
    os.statvfs(mounted.path)


def check_same(mounted, raw, what):
    """Where we read without EIO, the bytes are QEMU's. Returns how many blocks were bad."""
    block = 4 * KiB
    failed = 0
    disk = mounted.disk
    size = os.path.getsize(disk)
    check(os.path.getsize(raw) == size - size % 512 or size % 512,
          "%s: the size is %d, for QEMU %d", what, size, os.path.getsize(raw))
    with open(raw, "rb") as file, bad.Blocks(disk) as blocks:
        for offset in range(0, min(size, READ_MOST), MiB):
            expected = file.read(MiB)
            whole = blocks.read(offset, MiB)
            for start in range(0, len(expected), block):
                wanted = expected[start:start + block]
                got = blocks.read(offset + start, block) if whole is None \
                    else whole[start:start + block]
                if got is None:
                    failed += 1
                elif got[:len(wanted)] != wanted:
                    raise AssertionError("%s: the bytes at %d are not QEMU's"
                                         % (what, offset + start))
    for line in mounted.stderr().splitlines():
        # What QEMU can read, we can, but for what is not there.
        check("guest offset" not in line or "past the end" in line or size % 512,
              "%s: QEMU reads it, but: %s", what, line)
    return failed


def mutated(kind, count, needs=()):
    @suite.test("mutated images (%s) are refused, or read as QEMU reads them" % kind, needs=needs)
    def _(directory):
        path = bad.sample(kind, directory)
        pristine = os.path.join(directory, "pristine")
        shutil.copyfile(path, pristine)
        found = areas(path)
        tally = {"refused": 0, "mounted": 0, "compared": 0, "with EIO": 0}
        for seed in range(count):
            shutil.copyfile(pristine, path)
            what = "seed %d of %s (%s)" % (seed, kind, mutate(
                path, random.Random("%s %d" % (kind, seed)), found))
            raw = oracle(path)
            run.watch_for(MUTATED_SECONDS)
            try:
                with mount.mount(path, directory=True) as mounted:
                    tally["mounted"] += 1
                    if raw is not None:
                        tally["compared"] += 1
                        tally["with EIO"] += check_same(mounted, raw, what) > 0
                    walk(mounted)
            except mount.MountFailed as failed:
                check_equal(failed.status, 1, "%s: exit status" % what)
                lines = failed.stderr.splitlines(True)
                check(lines, "%s: no sentence", what)
                bad.check_sentence(lines[-1], path)
                tally["refused"] += 1
            except Exception as error:
                raise AssertionError("%s: %s" % (what, error)) from error
        run.watch_for(run.TEST_SECONDS)
        tap.diagnose("%s: %r" % (kind, tally))
        check(tally["compared"] > count // 10, "%d of %d could be compared", tally["compared"],
              count)


mutated("plain", 60)
mutated("version2", 60)
mutated("small", 60)
mutated("snapshots", 75)
mutated("backing", 45)
mutated("zstd", 45, needs=[tools.ZSTD])
mutated("extended", 60, needs=[tools.EXTENDED_L2])
mutated("datafile", 45, needs=[tools.DATA_FILE])
mutated("bitmaps", 30)


if __name__ == "__main__":
    suite.main()
