#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""evidence/ of a mount: what nothing refers to, what is hidden, slack and tables, to the byte."""

import errno
import json
import os
import random
import shutil

from lib import bad, damage, encrypted, evidence, image, mount, qcow2, tap, tools
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.QEMU])
TABLES = (None, "header", "l1", "l2", "refcount-blocks", "refcount-table", "snapshot-table")
DELETED = b"nobody refers to this any more. "


# --- the oracle -----------------------------------------------------------------------------------


def references(path):
    """{cluster: what it is used for}, found by a walk of its own through the tables of an image."""
    found = {}
    with qcow2.Qcow2(path) as opened:
        size, per_table = opened.cluster_size, opened.cluster_size // opened.l2_entry_size

        def use(offset, length, kind):
            for cluster in range(offset // size, -(-(offset + length) // size)):
                found.setdefault(cluster, kind)

        def walk(table, entries):
            use(table, entries * 8, "l1")
            for index in range(entries):
                l2 = opened.l1_entry(index, table) & qcow2.HOST_OFFSET_MASK
                if l2 == 0:
                    continue
                use(l2, size, "l2")
                for number in range(per_table):
                    entry = opened.number(l2 + number * opened.l2_entry_size, 8)
                    if entry & qcow2.L2_COMPRESSED:
                        bits = 62 - (opened["cluster_bits"] - 8)
                        at = entry & ((1 << bits) - 1)
                        sectors = (entry & (qcow2.L2_COMPRESSED - 1)) >> bits
                        use(at, (sectors + 1) * 512 - at % 512, "data")
                    elif entry & qcow2.HOST_OFFSET_MASK:
                        use(entry & qcow2.HOST_OFFSET_MASK, size, "data")

        use(0, size, "header")
        walk(opened["l1_table_offset"], opened["l1_size"])
        for index in range(opened["nb_snapshots"]):
            walk(opened.snapshot_field(index, "l1_table_offset"),
                 opened.snapshot_field(index, "l1_size"))
        if opened["nb_snapshots"]:
            last = opened.snapshots()[-1]
            use(opened["snapshots_offset"], last.position + last.length
                - opened["snapshots_offset"], "snapshot-table")
        table, clusters = opened["refcount_table_offset"], opened["refcount_table_clusters"]
        use(table, clusters * size, "refcount-table")
        for index in range(clusters * size // 8):
            block = opened.number(table + index * 8, 8) & ~0x1FF
            if block:
                use(block, size, "refcount-blocks")
        return found, size, opened.end()


def wanted(path, kind):
    """The bytes of the clusters of one kind, None for those that nothing refers to, in order."""
    found, size, end = references(path)
    with open(path, "rb") as file:
        whole = file.read()
    return b"".join(whole[at:at + size] for at in range(0, end, size)
                    if found.get(at // size) == kind)


def shown(mounted, name):
    """(bytes, JSON) of NAME.raw and NAME.json, which agree with the files that they are of."""
    path = os.path.join(mounted.path, "evidence", name)
    with open(path + ".raw", "rb") as file:
        data = file.read()
    with open(path + ".json", encoding="utf-8") as file:
        said = json.load(file)
    check_equal(len(data), os.stat(path + ".raw").st_size, "the bytes of %s.raw" % name)
    check_equal(said["size"], len(data), "the size that %s.json says" % name)
    at = 0
    for piece in said["pieces"]:
        check_equal(piece["raw-offset"], at, "where a piece of %s begins" % name)
        with open(piece.get("file", said["file"]), "rb") as file:
            file.seek(piece["host-offset"])
            check(file.read(piece["length"]) == data[at:at + piece["length"]],
                  "%s: the piece at %d is not the file's", name, at)
        at += piece["length"]
    check_equal(at, len(data), "the end of the last piece of %s" % name)
    return data, said


def show(path, options=(), **keywords):
    return mount.mount(path, "evidence", *options, directory=True, writable=True, **keywords)


# --- what is shown --------------------------------------------------------------------------------


def remains(path):
    """An image with a snapshot that was removed, and clusters that were freed with what they had."""
    cluster = image.info(path)["cluster-size"]
    tools.run("qemu-img", "snapshot", "-c", "gone", path)
    image.io(path, image.write(0, 256 * KiB, 5))
    with qcow2.Qcow2(path) as opened:  # an L2 entry that is lost, with what it named
        opened.set_l2_entry(cluster, 0)
    with open(path, "r+b") as file:  # and something behind the last cluster
        file.seek(0, 2)
        file.write(DELETED * 100)


@suite.test("unreferenced.raw and tables/ have the clusters that a walk of the tables finds, and all "
            "of the evidence stays as it was")
def _(directory):
    for kind in ("plain", "version2", "small", "extended", "snapshots", "backing"):
        place = os.path.join(directory, kind)
        os.mkdir(place)
        path = bad.sample(kind, place)
        remains(path)
        expected = {name: wanted(path, name) for name in TABLES}
        with evidence.untouched(place), show(path) as mounted:
            top = os.path.join(mounted.path, "evidence")
            check_equal(sorted(os.listdir(top)),
                        ["hidden.json", "hidden.raw", "past-disk.json", "past-disk.raw",
                         "slack.json", "slack.raw", "tables", "unreferenced.json",
                         "unreferenced.raw"], "the names")
            for each in ("unreferenced", "hidden", "slack"):
                with open(os.path.join(top, each + ".raw"), "rb") as file:
                    check_equal(len(file.read()), os.stat(file.name).st_size, "bytes of " + each)
        with show(path) as mounted:
            data, said = shown(mounted, "unreferenced")
            check(data == expected[None], "%s: unreferenced.raw is not what it should be", kind)
            check(DELETED in data, "%s: what lies behind the last cluster is not there", kind)
            check(said["complete"], "%s: not all was found", kind)
            for name in TABLES[1:]:
                check(shown(mounted, "tables/" + name)[0] == expected[name],
                      "%s: tables/%s.raw is wrong", kind, name)
            check_equal(os.stat(os.path.join(mounted.path, "evidence")).st_mode & 0o222, 0,
                        "the bits to write")


@suite.test("bitmaps and the LUKS header are in tables/")
def _(directory):
    for kind, name in (("bitmaps", "bitmaps"), ("luks", "encryption-header")):
        place = os.path.join(directory, kind)
        os.mkdir(place)
        path = bad.sample(kind, place)
        options = ["key-file=" + encrypted.key_file(directory, "key", b"abc123")] \
            if kind == "luks" else []
        with show(path, options) as mounted:
            data, _said = shown(mounted, "tables/" + name)
            check(len(data) > 0 and data.count(0) < len(data), "%s is empty", name)
            if kind == "luks":
                check_equal(data[:6], b"LUKS\xba\xbe", "the beginning of the LUKS header")
            data, _said = shown(mounted, "unreferenced")
            found, size, end = references(path)
            check(len(data) < end - len(found) * size or end % size == 0,
                  "clusters of %s are among the unreferenced", name)


@suite.test("hidden.raw has what zero clusters keep, to the subcluster; slack.raw what lies behind "
            "the ends of tables and disks")
def _(directory):
    path = image.create(os.path.join(directory, "a.qcow2"), 3 * MiB + 4096)
    image.io(path, image.write(0, 3 * MiB + 4096, 1))
    with qcow2.Qcow2(path) as opened:
        host = opened.l2_entry(MiB) & qcow2.HOST_OFFSET_MASK
        opened.set_l2_entry(MiB, opened.l2_entry(MiB) | qcow2.L2_ZERO)
        last = opened.l2_entry(3 * MiB) & qcow2.HOST_OFFSET_MASK
        opened.write(last + 5000, DELETED)
        opened.write(opened["l1_table_offset"] + 1000, DELETED)
    with show(path) as mounted:
        data, said = shown(mounted, "hidden")
        check_equal([(piece["host-offset"], piece["length"]) for piece in said["pieces"]],
                    [(host, 65536)], "the hidden pieces")
        check(data == image.pattern(4 * MiB, 1)[MiB:MiB + 65536], "hidden.raw is wrong")
        data, said = shown(mounted, "slack")
        places = {piece["what"]: piece for piece in said["pieces"]}
        check_equal(places["disk-slack"]["host-offset"], last + 4096, "the slack of the disk")
        check_equal(sorted(places), ["disk-slack", "header-slack", "l1-slack"], "kinds of slack")
        check_equal(data.count(DELETED), 2, "how often it is there")
    path = image.create(os.path.join(directory, "b.qcow2"), 4 * MiB, extended_l2="on",
                        cluster_size="64k")
    image.io(path, image.write(0, 65536, 1), "write -q -z 4096 2048")
    with qcow2.Qcow2(path) as opened:
        host = opened.l2_entry(0) & qcow2.HOST_OFFSET_MASK
    with show(path) as mounted:
        _data, said = shown(mounted, "hidden")
        check_equal([(piece["host-offset"], piece["length"]) for piece in said["pieces"]],
                    [(host + 4096, 2048)], "the hidden subclusters")


@suite.test("past-disk.raw has what data files and raw images hold behind the end of their disk")
def _(directory):
    base = os.path.join(directory, "base.raw")
    with open(base, "wb") as file:
        file.write(bytes(2 * MiB) + DELETED)
    path = image.create(os.path.join(directory, "a.qcow2"), 2 * MiB, backing="base.raw",
                        backing_format="raw")
    with show(path) as mounted:
        data, said = shown(mounted, "past-disk")
        check_equal((data, said["pieces"][0]["file"]), (DELETED, base), "what lies behind its disk")
    path = image.create(os.path.join(directory, "b.qcow2"), MiB, data_file_raw="on",
                        data_file=os.path.join(directory, "data.raw"))
    with open(os.path.join(directory, "data.raw"), "ab") as file:
        file.write(DELETED)
    with show(path) as mounted:
        check_equal(shown(mounted, "past-disk")[0], DELETED, "what lies behind the disk")


@suite.test("what is read of it at any place is the same, and holes of the host are holes")
def _(directory):
    path = bad.sample("snapshots", directory)
    remains(path)
    with open(path, "r+b") as file:
        file.truncate(os.path.getsize(path) + 8 * MiB)
        file.seek(0, 2)
        file.write(DELETED)
    chance = random.Random(7)
    with show(path) as mounted:
        raw = os.path.join(mounted.path, "evidence", "unreferenced.raw")
        expected = wanted(path, None)
        handle = os.open(raw, os.O_RDONLY)
        try:
            for _ in range(300):
                at = chance.randrange(len(expected) + 1000)
                length = chance.randrange(1, 300000)
                check(os.pread(handle, length, at) == expected[at:at + length],
                      "%d bytes at %d are wrong", length, at)
            hole = os.lseek(handle, 0, os.SEEK_HOLE)
            check(hole < len(expected) - 4 * MiB, "there is no hole before %d", hole)
            data = os.lseek(handle, hole, os.SEEK_DATA)
            check(expected.count(0, hole, data) == data - hole, "data in a hole at %d", hole)
            try:
                os.lseek(handle, len(expected), os.SEEK_DATA)
                check(False, "data behind the end")
            except OSError as error:
                check_equal(error.errno, errno.ENXIO, "errno behind the end")
        finally:
            os.close(handle)
        for name in ("x", "unreferenced", "tables.raw", "l1.raw"):
            check(not os.path.exists(os.path.join(mounted.path, "evidence", name)),
                  "%s exists", name)
        check_equal(os.path.realpath(os.path.join(mounted.path, "evidence", "tables", "..")),
                    os.path.join(mounted.path, "evidence"), "the .. of tables/")


@suite.test("nothing is forced: what is marked dirty or corrupt stays so, and nobody can write")
def _(directory):
    for features in (qcow2.DIRTY, qcow2.CORRUPT, qcow2.DIRTY | qcow2.CORRUPT):
        place = os.path.join(directory, str(features))
        os.mkdir(place)
        path = bad.sample("plain", place)
        remains(path)
        with qcow2.Qcow2(path) as opened:
            opened["incompatible_features"] |= features
        with evidence.untouched(place), show(path) as mounted:
            with open(os.path.join(mounted.path, "evidence", "unreferenced.raw"), "rb") as file:
                check(DELETED in file.read(), "what lies behind the last cluster is not there")
            for name in ("disk.raw", "evidence/unreferenced.raw", "evidence/new"):
                try:
                    os.close(os.open(os.path.join(mounted.path, name), os.O_RDWR | os.O_CREAT))
                    check(False, "%s can be written", name)
                except OSError as error:
                    check(error.errno in (errno.EROFS, errno.EACCES, errno.EPERM), "%s: %s", name,
                          error)


# --- what does not go -----------------------------------------------------------------------------


@suite.test("it needs a directory, no overlay, and an image whose references can be counted")
def _(directory):
    path = bad.sample("snapshots", directory)
    failed = mount.mount_fails(path, "evidence", writable=True)
    check_equal(failed.status, 1, "the status over a file")
    bad.check_sentence(failed.stderr, "directory")
    failed = mount.mount_fails(path, "evidence", "overlay", directory=True, writable=True)
    check_equal(failed.status, 2, "the status with an overlay")
    bad.check_sentence(failed.stderr, "overlay")
    with mount.mount(path, directory=True) as mounted:
        check("evidence" not in os.listdir(mounted.path), "evidence/ is there unasked")
    with qcow2.Qcow2(path) as opened:
        opened.set_snapshot_field(1, "extra_data_size", 1 << 30)
    failed = mount.mount_fails(path, "evidence", directory=True)
    bad.check_sentence(failed.stderr, "snapshot")


@suite.test("damaged images show what they have, or are refused with a sentence")
def _(directory):
    for kind in ("plain", "snapshots", "bitmaps", "extended"):
        place = os.path.join(directory, kind)
        os.mkdir(place)
        path = bad.sample(kind, place)
        damaged = os.path.join(place, "damaged.qcow2")
        for seed in range(25):
            chance = random.Random("%s %d" % (kind, seed))
            shutil.copyfile(path, damaged)
            damage.damage(damaged, chance)
            with qcow2.Qcow2(damaged) as opened:
                if opened["virtual_size"] > 64 * MiB:
                    continue
            try:
                with show(damaged) as mounted:
                    for name in ("unreferenced", "hidden", "slack", "tables/l1", "tables/l2"):
                        shown(mounted, name)
            except mount.MountFailed as failed:
                check_equal(failed.status, 1, "the status with %s, seed %d" % (kind, seed))


if __name__ == "__main__":
    suite.main()
