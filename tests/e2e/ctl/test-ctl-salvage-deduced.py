#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""qcow2ctl salvage deduces what one kind of damage left unclear, and takes time that has a bound."""

import os
import random
import shutil
import struct

from lib import ctl, mount, qcow2, salvaging, tap, tools
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.QEMU])
SECONDS = 180  # what has a bound takes a few on an idle machine; what has none takes many minutes


def recovered(directory, kind, damage):
    """What comes back of a sample after damage(opened, number of bytes of its cluster)."""
    sample = salvaging.Sample(salvaging.SAMPLES[kind](directory, kind))
    damaged, raw = (os.path.join(directory, name) for name in ("damaged", "raw"))
    shutil.copyfile(sample.path, damaged)
    with qcow2.Qcow2(damaged) as opened:
        damage(opened, opened.cluster_size)
    if os.path.exists(raw):
        os.unlink(raw)
    ctl.ctl("salvage", "--quiet", damaged, raw, status=None, seconds=SECONDS)
    return sample.recovered(damaged, raw)


def all_is_right(directory, kind, damage):
    counted = recovered(directory, kind, damage)
    check_equal(counted["right"], counted["all"], "the bytes of %s that are right" % kind)
    check(counted["all"] > 8 * MiB, "only %d bytes are left of %s", counted["all"], kind)


def table_of(opened, index):
    return opened.l1_entry(index) & qcow2.HOST_OFFSET_MASK


@suite.test("where the active table was cut off, a snapshot's L1 table is not taken for one")
def _(directory):
    all_is_right(directory, "snapshots-64k",
                 lambda opened, _size: opened.file.truncate(table_of(opened, 0)))


@suite.test("the L1 tables of snapshots are found where the table of snapshots was cut off, or is junk")
def _(directory):
    def cut(opened, _size):
        opened.file.truncate(table_of(opened, 1) & ~0xFFF)
    def junk(opened, size):
        opened.write(opened["snapshots_offset"], random.Random(9).randbytes(size))
        opened.write(table_of(opened, 1), random.Random(9).randbytes(size))
    for damage in (cut, junk):
        counted = recovered(directory, "snapshots-4k", damage)
        check_equal(counted["missed"], 0, "bytes whose place is told and that are not right")
        check(counted["told"] > 8 * MiB, "only %d bytes are told", counted["told"])
        os.unlink(os.path.join(directory, "snapshots-4k"))


@suite.test("incompatible features that cannot be say nothing of extended L2 entries")
def _(directory):
    for kind in ("compressed", "plain-64k", "subclusters"):
        place = os.path.join(directory, kind)
        os.mkdir(place)
        # Unknown ones; and a data file, which is named nowhere.
        for value in (0x74C350F9B2D168E8, 0x74C350F9B2D168F8, 0x17, 0x07):
            def damage(opened, _size, value=value):
                opened["incompatible_features"] = value
            all_is_right(place, kind, damage)
            shutil.rmtree(place)
            os.mkdir(place)


@suite.test("an L1 table whose length is lost is longer than a damaged disk size says")
def _(directory):
    def damage(opened, _size):
        opened["l1_size"] = 0
        opened["virtual_size"] = 16223488
    all_is_right(directory, "snapshots-4k", damage)


@suite.test("an L1 table has not more entries than the file has room for, where no size says so")
def _(directory):
    def damage(opened, _size):
        opened["l1_size"] = 4 << 20
        opened["virtual_size"] = 0
        opened["l1_table_offset"] = 0
        opened["nb_snapshots"] = 0
    all_is_right(directory, "snapshots-64k", damage)


@suite.test("a refcount table is not longer than the file needs, whatever the header says")
def _(directory):
    for kind, clusters in (("version-2", 190), ("plain-64k", 100), ("plain-4k", 1 << 20),
                           ("snapshots-64k", 0)):
        def damage(opened, _size, clusters=clusters):
            opened["refcount_table_clusters"] = clusters
        all_is_right(directory, kind, damage)


@suite.test("an L1 table that is looked for goes on behind a sector that was lost")
def _(directory):
    def damage(opened, size):
        opened.write(opened["l1_table_offset"] + 4 * size, bytes(size))
        opened.write(0, bytes(104))
    all_is_right(directory, "plain-512", damage)


@suite.test("entries that were lost are those of a snapshot where a refcount says so")
def _(directory):
    for junk in (bytes(1024), b"\xff" * 1024, random.Random(3).randbytes(1024)):
        def damage(opened, _size, junk=junk):
            found = [index for index in range(opened["l1_size"])
                     if opened.l1_entry(index) & qcow2.COPIED
                     and opened.l1_entry(index, opened.snapshot_field(1, "l1_table_offset"))]
            # Of the second half of that table nothing was changed after the last snapshot.
            opened.write(table_of(opened, found[-1]) + 3072, junk)
        all_is_right(directory, "snapshots-4k", damage)
        os.unlink(os.path.join(directory, "snapshots-4k"))


@suite.test("a table of which hardly anything is left is filled by what the next one has before it")
def _(directory):
    all_is_right(directory, "plain-4k", lambda opened, _size: opened.write(
        table_of(opened, 1) + 1024, random.Random(4).randbytes(3072)))


@suite.test("as many tables as entries were lost between two are theirs, whatever is left of these")
def _(directory):
    # Seven bytes of what is left of an entry are those of another table, too.
    all_is_right(directory, "lived-4k", lambda opened, _size: opened.write(
        opened["l1_table_offset"] + 6 * 8 + 5, bytes(36)))


@suite.test("an L1 table whose first clusters were lost with the header begins where QEMU puts it")
def _(directory):
    for first in (2, 3):  # the refcount block before it, too
        def damage(opened, size, first=first):
            opened.write(first * size, random.Random(6).randbytes((4 - first) * size))
            opened.write(0, b"\xff" * 104)
        all_is_right(directory, "plain-512", damage)
        os.unlink(os.path.join(directory, "plain-512"))


@suite.test("an entry that leads out of the file names what is left between its neighbours' clusters")
def _(directory):
    all_is_right(directory, "version-2", lambda opened, _size: opened.write(
        table_of(opened, 0) + 29 * 8 + 4, b"\x03\x5a"))


@suite.test("a subcluster that has data and is zeros has data")
def _(directory):
    all_is_right(directory, "subclusters", lambda opened, _size: opened.write(
        table_of(opened, 0) + 498 * 16 + 11, bytes.fromhex("e179b9a501")))


@suite.test("of two entries that name a cluster the one that goes on from its neighbour is right")
def _(directory):
    # Of a few bytes, and the snapshots have another cluster in the place of the right one.
    all_is_right(directory, "snapshots-4k", lambda opened, _size: opened.write(
        table_of(opened, 3) + 343 * 8 + 6, bytes(2)))


@suite.test("clusters that are left here and there are those of lost entries, where they are as many")
def _(directory):
    all_is_right(directory, "snapshots-4k", lambda opened, _size: opened.write(
        table_of(opened, 0) + 320 * 8, bytes(1024)))


@suite.test("a table of which hardly anything is left is the one that a snapshot has there, too")
def _(directory):
    def damage(opened, _size):
        opened.write(table_of(opened, 10) + 1024, random.Random(8).randbytes(3072))
    counted = recovered(directory, "snapshots-4k", damage)
    check(counted["told"] > 8 * MiB, "only %d bytes are told", counted["told"])
    check_equal(counted["missed"], 0, "bytes whose place is told and that are not right")


@suite.test("what has lost its place is in evidence/unreferenced.raw", needs=[tools.fuse])
def _(directory):
    def damage(opened, _size):
        for begin, length in ((192, 144), (352, 160)):  # with holes around: nothing tells where
            opened.write(table_of(opened, 4) + begin * 8, b"\xff" * 8 * length)
    sample = salvaging.Sample(salvaging.SAMPLES["lived-4k"](directory, "lived-4k"))
    with qcow2.Qcow2(sample.path) as opened:
        damage(opened, opened.cluster_size)
        size = opened.cluster_size
    with mount.mount(sample.path, "evidence", directory=True, writable=True) as mounted:
        with open(os.path.join(mounted.path, "evidence", "unreferenced.raw"), "rb") as file:
            found = file.read()
    there = {found[at:at + size] for at in range(0, len(found), size)}
    lost = [cluster for cluster in range(4 * 512 + 192, 4 * 512 + 512)
            if cluster * size in {guest for guest, _, _ in sample.places}
            and not 336 <= cluster % 512 < 352]
    check(len(lost) > 100, "only %d clusters have lost their places", len(lost))
    for cluster in lost:
        check(sample.disk[cluster * size:(cluster + 1) * size] in there,
              "cluster %d is not there", cluster)


def made(directory, cluster_bits, size, l1_size, virtual_size, pieces, length):
    path = os.path.join(directory, "hostile")
    with open(path, "wb") as file:
        file.truncate(length)
        for at, data in pieces:
            file.seek(at)
            file.write(data)
        file.seek(0)
        file.write(b"QFI\xfb" + struct.pack(">IQIIQIIQQIIQQQQII", 3, 0, 0, cluster_bits,
                                             virtual_size, 0, l1_size, 3 * size, size, 1, 0, 0, 0,
                                             0, 0, 4, 104))
    return path


@suite.test("a disk of 8 TiB whose L1 table leads nowhere is told in one piece for each table")
def _(directory):
    entries = 16 << 10
    path = made(directory, 16, 64 * KiB, entries, entries << 29,
                [(192 * KiB, b"\xff" * 8 * entries)], MiB)
    target, map_file = (os.path.join(directory, name) for name in ("target", "map"))
    done = ctl.ctl("salvage", "--map=" + map_file, path, target, status=1, seconds=SECONDS)
    check("%d bytes of its disk cannot be read" % (entries << 29) in done.stderr, "it said %s",
          done.stderr)
    check_equal(os.path.getsize(target), entries << 29, "the size of the copy")
    with open(map_file, encoding="ascii") as file:
        lines = [line.split() for line in file if not line.startswith("#")]
    check_equal(lines[1:], [["0x00000000", "0x%08X" % (entries << 29), "-"]], "the map")


@suite.test("what was cut off is told in pieces, and not sector by sector")
def _(directory):
    clusters, tables = 128 << 10, 16  # 8 GiB of data that are not there any more
    l2 = [struct.pack(">8192Q", *(qcow2.COPIED | (64 + number * 8192 + each) * 64 * KiB
                                  for each in range(8192))) for number in range(tables)]
    l1 = struct.pack(">16Q", *(qcow2.COPIED | (16 + number) * 64 * KiB
                               for number in range(tables)))
    path = made(directory, 16, 64 * KiB, tables, clusters * 64 * KiB,
                [(192 * KiB, l1), *((MiB + number * 64 * KiB, table)
                                    for number, table in enumerate(l2)),
                 (64 * 64 * KiB, b"this is there")], 320 * MiB)
    target, map_file = (os.path.join(directory, name) for name in ("target", "map"))
    ctl.ctl("salvage", "--quiet", "--map=" + map_file, path, target, status=1, seconds=SECONDS)
    with open(map_file, encoding="ascii") as file:
        lines = [line.split() for line in file if not line.startswith("#")]
    there = 320 * MiB - 64 * 64 * KiB
    check_equal(lines[1:], [["0x00000000", "0x%08X" % there, "+"],
                            ["0x%08X" % there, "0x%08X" % (clusters * 64 * KiB - there), "-"]],
                "the map")
    with open(target, "rb") as file:
        check_equal(file.read(13), b"this is there", "the data")


@suite.test("a file in which every cluster could be an L1 table is looked through once",
            needs=[tools.fuse])
def _(directory):
    clusters, chance = 512, random.Random(5)
    pages = [b"".join(struct.pack(">Q", qcow2.COPIED | chance.randrange(1, clusters) * 64 * KiB)
                      for _ in range(8192)) for _ in range(8)]
    path = made(directory, 16, 64 * KiB, 0, 0,
                [(number * 64 * KiB, pages[number % 8]) for number in range(1, clusters)],
                clusters * 64 * KiB)
    with mount.mount(path, "salvage", writable=True) as mounted:  # to copy it out would take long
        check(os.path.getsize(mounted.disk) > 1 << 30, "the disk is small")


if __name__ == "__main__":
    suite.main()
