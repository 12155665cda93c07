#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What a directory mount shows: names of snapshots, attributes, info.json, stats.json."""

import errno
import json
import mmap
import os
import stat
import struct

from lib import bad, compare, image, mount, qcow2, tap, tools
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.QEMU])
NAME_MAX = 255


# --- names of snapshots ---------------------------------------------------------------------------


def write_snapshots(path, entries):
    """Replaces the snapshot table: (ID, name) each, all with the L1 table of the first one."""
    with qcow2.Qcow2(path) as opened:
        first = opened.snapshots()[0].position
        fixed = opened.read(first, 12)  # L1 table: offset and size
        extra = opened.read(first + 40, 16)
        table = b""
        for snapshot_id, name in entries:
            table += fixed + struct.pack(">HHIIQII", len(snapshot_id), len(name), 1600000000, 7,
                                         123, 0, 16) + extra + snapshot_id + name
            table += bytes(-len(table) % 8)
        end = -(-opened.end() // opened.cluster_size) * opened.cluster_size
        opened.write(end, table)
        opened["snapshots_offset"] = end
        opened["nb_snapshots"] = len(entries)


def quoted(name, most=NAME_MAX):
    """The name as a file's: what src/fuse/names.h promises, found in another way."""
    found, used = "", 0
    for letter in name.decode("utf-8", "surrogateescape"):
        raw = letter.encode("utf-8", "surrogateescape")
        if ord(letter) < 32 or letter in "/%\x7f" or 0xDC80 <= ord(letter) <= 0xDCFF:
            raw = b"%%%02X" % raw[0]
        if used + len(raw) > most:
            break
        found += raw.decode()
        used += len(raw)
    return found


# ID, name, the file's name (None: as quoted() says)
HOSTILE = [
    (b"1", b"plain", None),
    (b"2", b"with blanks, commas and \\ # ' \"", None),
    (b"3", b"a/b", "a%2Fb"),
    (b"4", b"/etc/passwd", "%2Fetc%2Fpasswd"),
    (b"5", b"../../../etc/passwd", "..%2F..%2F..%2Fetc%2Fpasswd"),
    (b"6", b".", "%2E"),
    (b"7", b"..", "%2E%2E"),
    (b"8", b"...", "..."),
    (b"9", b".hidden", ".hidden"),
    (b"10", b"", "id-10"),
    (b"11/..", b"", "id-11%2F.."),
    (b"12", b"\x1b[2J\x07\n\r\t\x7f", "%1B[2J%07%0A%0D%09%7F"),
    (b"13", b"100%", "100%25"),
    (b"14", b"%2F", "%252F"),
    (b"15", "ünïcödé €𝄞".encode(), "ünïcödé €𝄞"),
    (b"16", b"bad \xff\xfe \xc3( \xed\xa0\x80 \xc0\xaf \xf8", None),
    (b"17", b"cut \xe2\x82", "cut %E2%82"),
    (b"18", b"x" * 255, "x" * 255),
    (b"19", b"y" * 256, "y" * 255),
    (b"20", b"z" * 1000, "z" * 255),
    (b"21", "é".encode() * 200, "é" * 127),
    (b"22", b"/" * 200, "%2F" * 85),
    (b"23", b"twice", "twice@23"),
    (b"24", b"twice", "twice@24"),
    (b"25", b"thrice", "thrice%#24"),
    (b"25", b"thrice", "thrice%#25"),
    (b"26", b"w" * 300, "w" * 252 + "@26"),
    (b"27", b"w" * 299, "w" * 252 + "@27"),
    (b"28", b"zero\0byte", "zero"),
    (b"29", b"disk.raw", "disk.raw"),
    (b"30", b"snapshots", "snapshots"),
    (b"", b"no ID", "no ID"),
    (b"31", b"id-10", None),
]


def check_hostile(top, expected, disk):
    places = os.path.join(top, "snapshots")
    check_equal(os.listdir(places), expected, "the names, in the order of the table")
    seen = set()
    for name in expected:
        place = os.path.join(places, name)
        check_equal(os.listdir(place), ["disk.raw", "partitions"], "what is in %r" % name)
        with open(os.path.join(place, "disk.raw"), "rb") as file:
            compare.check_bytes(file.read(), disk, 0)
        check_equal(os.path.realpath(os.path.join(place, "..")), places, "its ..")
        seen.add(os.stat(place).st_ino)
        seen.add(os.stat(os.path.join(place, "disk.raw")).st_ino)
    check_equal(len(seen), 2 * len(expected), "the number of inodes")


@suite.test("snapshots of any name have names of their own, and none leads elsewhere")
def _(directory):
    path = bad.sample("snapshots", directory)
    with mount.mount(path, directory=True) as mounted:
        with open(os.path.join(mounted.path, "snapshots", "first", "disk.raw"), "rb") as file:
            disk = file.read()
    # IDs 25 are equal on purpose; "id-10" is the name of two: one has no other.
    write_snapshots(path, [(entry[0], entry[1]) for entry in HOSTILE])
    expected = [entry[2] if entry[2] is not None else quoted(entry[1]) for entry in HOSTILE]
    expected[9], expected[32] = "id-10@10", "id-10@31"
    with mount.mount(path, directory=True) as mounted:
        check_hostile(mounted.path, expected, disk)
        for name in ("a/b", "../x", "plain@1", "id-10", "twice", "PLAIN", "%2f", "x" * 254):
            check(not os.path.exists(os.path.join(mounted.path, "snapshots", name)),
                  "there is a %s", name)
        for name in ("x" * 256, "gone"):
            try:
                os.stat(os.path.join(mounted.path, "snapshots", name))
            except OSError as error:
                check(error.errno in (errno.ENOENT, errno.ENAMETOOLONG), "errno %d of %s",
                      error.errno, name[:20])
        with open(os.path.join(mounted.path, "info.json"), encoding="utf-8") as file:
            told = json.load(file)["snapshots"]
        check_equal(len(told), len(HOSTILE), "the snapshots in info.json")
        check_equal(told[3]["name"], "/etc/passwd", "a name in info.json")
        check_equal(told[14]["name"], HOSTILE[14][1].decode(), "a name in info.json")


@suite.test("many snapshots of one name, and thousands of names, are listed and found")
def _(directory):
    path = bad.sample("snapshots", directory)
    for entries, expected in (
            ([(b"%d" % number, b"snapshot %d" % number) for number in range(3000)],
             ["snapshot %d" % number for number in range(3000)]),
            ([(b"%d" % number, b"same") for number in range(2000)],
             ["same@%d" % number for number in range(2000)]),
            ([(b"same", b"same") for _ in range(1000)],
             ["same%%#%d" % number for number in range(1000)]),
            ([(b"%d" % number, b"long" * 100) for number in range(1000)],
             [("long" * 64)[:NAME_MAX - 1 - len(str(number))] + "@%d" % number
              for number in range(1000)])):
        write_snapshots(path, entries)
        with mount.mount(path, directory=True) as mounted:
            places = os.path.join(mounted.path, "snapshots")
            check_equal(os.listdir(places), expected, "the names")
            with os.scandir(places) as found:
                check(all(entry.is_dir() for entry in found), "not all are directories")
            check_equal(len(tools.output("ls", "-lU", places).splitlines()), len(expected) + 1,
                        "lines of ls -l")
            check_equal(os.stat(places).st_nlink, len(expected) + 2, "the links of snapshots/")
            check_equal(os.statvfs(mounted.path).f_files, 6 + 6 + (2 + 6) * len(expected),
                        "the number of inodes that statvfs tells")
            for name in expected[::97]:
                check_equal(os.path.getsize(os.path.join(places, name, "disk.raw")), bad.SIZE,
                            "the size of %s" % name)


@suite.test("a directory that is read piece by piece, and again from any place, is complete")
def _(directory):
    path = bad.sample("snapshots", directory)
    write_snapshots(path, [(b"%d" % number, b"n%d" % number) for number in range(500)])
    with mount.mount(path, directory=True) as mounted:
        places = os.path.join(mounted.path, "snapshots")
        several = [os.scandir(places) for _ in range(3)]
        names = [[], [], []]
        for _ in range(500):
            for listing, found in zip(several, names):
                found.append(next(listing).name)
        for listing, found in zip(several, names):
            check(next(listing, None) is None, "more than 500 names")
            listing.close()
            check_equal(found, ["n%d" % number for number in range(500)], "the names")


@suite.test("vmstate.raw is there where a snapshot has VM state, and nowhere else")
def _(directory):
    path = bad.sample("snapshots", directory)
    with qcow2.Qcow2(path) as opened:  # the L1 table of each must map it
        at = -(-opened.end() // opened.cluster_size) * opened.cluster_size
        table = opened.read(opened.snapshot_field(1, "l1_table_offset"), 8)
        opened.write(at, table + bytes(opened.cluster_size - 8))
        opened.set_snapshot_field(1, "l1_table_offset", at)
        opened.set_snapshot_field(1, "l1_size", 2)
        opened.set_snapshot_field(1, "extra_vm_state_size", 70000)
    with mount.mount(path, directory=True) as mounted:
        places = os.path.join(mounted.path, "snapshots")
        for name, files in (("first", ["disk.raw", "partitions"]),
                            ("second", ["disk.raw", "partitions", "vmstate.raw"]),
                            ("third", ["disk.raw", "partitions"])):
            check_equal(os.listdir(os.path.join(places, name)), files, "what is in %s" % name)
        check(not os.path.exists(os.path.join(places, "first", "vmstate.raw")), "first has one")
        with open(os.path.join(places, "second", "vmstate.raw"), "rb") as file:
            check_equal(file.read(), bytes(70000), "VM state that nobody wrote")


@suite.test("an image without snapshots has an empty directory for them")
def _(directory):
    path = bad.sample("plain", directory)
    with mount.mount(path, directory=True) as mounted:
        check_equal(sorted(os.listdir(mounted.path)),
                    ["disk.raw", "info.json", "partitions", "snapshots", "stats.json",
                     "stats.prom"], "the names")
        check_equal(os.listdir(os.path.join(mounted.path, "snapshots")), [], "the snapshots")
        check_equal(os.stat(mounted.path).st_nlink, 4, "the links")
        check_equal(stat.S_IMODE(os.stat(os.path.join(mounted.path, "snapshots")).st_mode) & 0o222,
                    0, "who may make one")


# --- attributes -----------------------------------------------------------------------------------


@suite.test("types, sizes, times and blocks are those of the image")
def _(directory):
    path = bad.sample("snapshots", directory)
    os.utime(path, ns=(1600000000123456789, 1500000000987654321))
    image.settle(path)
    host = os.stat(path)
    with mount.mount(path, directory=True) as mounted:
        disk = os.stat(mounted.disk)
        snapshot = os.stat(os.path.join(mounted.path, "snapshots", "first", "disk.raw"))
        for status, what in ((disk, "the disk"), (snapshot, "a snapshot")):
            check(stat.S_ISREG(status.st_mode), "%s is not a regular file", what)
            check_equal(status.st_size, bad.SIZE, "the size of %s" % what)
            check_equal(status.st_mtime_ns, host.st_mtime_ns, "the time of %s" % what)
            check_equal(status.st_nlink, 1, "the links of %s" % what)
        check_equal(disk.st_blocks, host.st_blocks, "the blocks of the disk")
        check_equal(snapshot.st_blocks, min(host.st_blocks, bad.SIZE // 512),
                    "the blocks of a snapshot")
        check_equal(disk.st_blksize, 4096, "the block size")
        for name in ("", "snapshots", "snapshots/first"):
            check(stat.S_ISDIR(os.stat(os.path.join(mounted.path, name)).st_mode),
                  "%s is no directory", name)
        info = os.stat(os.path.join(mounted.path, "info.json"))
        with open(os.path.join(mounted.path, "info.json"), "rb") as file:
            check_equal(len(file.read()), info.st_size, "the size of info.json")
        inodes = [os.stat(os.path.join(top, name)).st_ino
                  for top, names, files in os.walk(mounted.path) for name in names + files]
        check_equal(len(set(inodes)), len(inodes), "inodes without their doubles")
        check_equal(os.statvfs(mounted.path).f_files, len(inodes) + 1, "f_files")
        check_equal(os.statvfs(mounted.path).f_namemax, NAME_MAX, "f_namemax")


@suite.test("a disk of nearly 2^63 bytes has its size, and is a hole")
def _(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), 1 << 50, cluster_size="2M")
    image.io(path, image.write((1 << 50) - 4096, 4096, 1))
    with mount.mount(path) as mounted:
        check_equal(os.path.getsize(mounted.disk), 1 << 50, "the size")
        check_equal(image.seek_extents(mounted.disk), [((1 << 50) - 2 * MiB, 1 << 50)],
                    "the data of the disk")
        with open(mounted.disk, "rb") as file:
            file.seek(-4096, 2)
            compare.check_bytes(file.read(), image.pattern(4096, 1), (1 << 50) - 4096)


@suite.test("a disk of no bytes is an empty file")
def _(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), 0)
    with mount.mount(path, directory=True) as mounted:
        with open(mounted.disk, "rb") as file:
            check_equal(file.read(), b"", "the disk")
        check_equal(os.path.getsize(mounted.disk), 0, "the size")
        check_equal(image.seek_extents(mounted.disk), [], "the data")


# --- info.json ------------------------------------------------------------------------------------

NEWER = {"children"}   # what later versions of qemu-img add
OURS = {"disk-size", "details"}  # what we say besides, of a snapshot and of an image


def check_same(ours, theirs, where):
    """All that we say is what qemu-img says, and nothing of that is missing."""
    if isinstance(theirs, dict):
        check(isinstance(ours, dict), "%s is %r, for qemu-img %r", where, ours, theirs)
        check_equal(sorted(set(ours) - OURS), sorted(set(theirs) - NEWER),
                    "the keys of %s" % where)
        for key in set(ours) & set(theirs):
            check_same(ours[key], theirs[key], "%s.%s" % (where, key))
    elif isinstance(theirs, list):
        check_equal(len(ours), len(theirs), "the length of %s" % where)
        for index, (one, other) in enumerate(zip(ours, theirs)):
            check_same(one, other, "%s[%d]" % (where, index))
    else:
        check_equal(ours, theirs, where)


def info(kind, needs=()):
    @suite.test("info.json says what qemu-img info says, key by key (%s)" % kind, needs=needs)
    def _(directory):
        path = chain(directory) if kind == "chain" else bad.sample(kind, directory)
        image.settle(*[os.path.join(directory, name) for name in os.listdir(directory)
                       if os.path.isfile(os.path.join(directory, name))])
        with mount.mount(path, directory=True) as mounted:
            with open(os.path.join(mounted.path, "info.json"), encoding="utf-8") as file:
                ours = json.load(file)
        theirs = json.loads(tools.output("qemu-img", "info", "--output=json", "--backing-chain",
                                         path))
        behind = ours.pop("backing-chain")
        check_same([ours, *behind], theirs, "info")


def chain(directory):
    bad.sample("snapshots", directory)
    middle = image.create(os.path.join(directory, "middle.qcow2"), 4 * MiB, backing="image.qcow2",
                          backing_format="qcow2", compat="0.10")
    with qcow2.Qcow2(middle) as opened:
        opened.remove_extension(qcow2.EXTENSION_BACKING_FORMAT)
    return image.create(os.path.join(directory, "top.qcow2"), 3 * MiB, backing=middle,
                        backing_format="qcow2", lazy_refcounts="on")


info("plain")
info("version2")
info("small")
info("snapshots")
info("backing")
info("chain")
info("bitmaps")
info("zstd", needs=[tools.ZSTD])
info("extended", needs=[tools.EXTENDED_L2])
info("datafile", needs=[tools.DATA_FILE])


# --- stats.json -----------------------------------------------------------------------------------


def stats(mounted):
    with open(os.path.join(mounted.path, "stats.json"), encoding="utf-8") as file:
        return json.load(file)


def compressed(directory):
    """An image of compressed clusters, and the raw file that it was made from."""
    raw = bad.compressible_raw(os.path.join(directory, "raw"), 16 * MiB)
    path = image.convert(raw, os.path.join(directory, "image.qcow2"), "-c")
    with qcow2.Qcow2(path) as opened:
        clusters = sum(bool(opened.l2_entry(guest) & qcow2.L2_COMPRESSED)
                       for guest in range(0, 16 * MiB, 64 * KiB))
    check(clusters > 200, "only %d compressed clusters", clusters)
    return path, raw, clusters


def read_backwards(path, expected):
    """4K at a time past the page cache: in order, the daemon would go ahead, and keep nothing."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECT)
    buffer = mmap.mmap(-1, 4 * KiB)
    try:
        for offset in reversed(range(0, len(expected), 4 * KiB)):
            os.preadv(handle, [buffer], offset)
            check_equal(buffer[:] == expected[offset:offset + 4 * KiB], True, "at %d" % offset)
    finally:
        os.close(handle)
        buffer.close()


@suite.test("each compressed cluster is inflated once, and each L2 slice read once")
def _(directory):
    path, raw, clusters = compressed(directory)
    with mount.mount(path, directory=True) as mounted:
        before = stats(mounted)
        with open(raw, "rb") as file:
            for _ in range(2):
                read_backwards(mounted.disk, file.read())
                file.seek(0)
        after = stats(mounted)
    data, tables = after["cache"]["data"], after["cache"]["l2"]
    check_equal(before["cache"]["data"]["misses"], 0, "misses before the first read")
    check_equal(data["misses"], clusters, "clusters that were inflated")
    check_equal(data["hits"], 2 * 16 * clusters - clusters, "reads that found them inflated")
    check_equal(data["evictions"], 0, "clusters that were dropped")
    check_equal(data["entries"], clusters, "clusters that are kept")
    check_equal(tables["misses"], 1, "slices that were read")
    check(tables["hits"] >= 2 * 16 * clusters - 1, "%d hits", tables["hits"])
    read = 2 * 16 * MiB
    check(read <= after["bytes-read"] - before["bytes-read"] <= read + 4096, "bytes-read: %d",
          after["bytes-read"] - before["bytes-read"])
    check(after["requests"]["read"] - before["requests"]["read"] >= read // (4 * KiB),
          "read requests: %r", after["requests"])
    check_equal(after["errors"], 0, "errors")


@suite.test("a cache that is too small evicts, and stays within its budget")
def _(directory):
    path, raw, _clusters = compressed(directory)
    with mount.mount(path, "data-cache-size=256K", directory=True) as mounted:
        compare.check_direct_reads(mounted.disk, raw, count=300)
        data = stats(mounted)["cache"]["data"]
    check_equal(data["budget"], 256 * KiB, "the budget")
    check(0 < data["bytes"] <= data["budget"], "%d bytes are kept", data["bytes"])
    check(data["evictions"] > 0, "nothing was evicted")
    check_equal(data["entries"], data["misses"] - data["evictions"], "entries")


@suite.test("every kind of request is counted")
def _(directory):
    path = bad.sample("snapshots", directory)
    with mount.mount(path, directory=True) as mounted:
        before = stats(mounted)["requests"]
        os.listdir(os.path.join(mounted.path, "snapshots"))
        os.stat(os.path.join(mounted.path, "snapshots", "third"))
        os.statvfs(mounted.path)
        image.seek_extents(mounted.disk)
        with open(mounted.disk, "rb") as file:
            file.read(4096)
        # A file is released some time after it was closed.
        bad.wait_for(lambda: stats(mounted)["requests"]["release"] > before["release"], "a release is counted")
        after = stats(mounted)["requests"]
        for kind in ("lookup", "open", "read", "lseek", "opendir", "readdir", "statfs"):
            check(after[kind] > before[kind], "no %s was counted: %d, %d", kind, before[kind],
                  after[kind])
        check(stats(mounted)["uptime-seconds"] >= 0, "the uptime")


if __name__ == "__main__":
    suite.main()
