#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Damage that shows only when the damaged part is read: EIO for that part, and no other.

Each bad range is read with O_DIRECT, so that what the test sees is what the daemon answered.
"""

import contextlib
import os
import random
import re
import time
import zlib

from lib import bad, compare, image, mount, qcow2, tap, tools
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.QEMU])
FAR = 0x7FFF0000
CLUSTER = 64 * KiB
OTHERS = "guest offset 0x%x cannot be read (host offset 0x%x)"


# --- impossible table entries ---------------------------------------------------------------------


def check_damage(path, expected, start, end, log, block=None, options=(), quiet=False):
    """Exactly the guest range [start, end) of the mounted image cannot be read; the log says so."""
    before = compare.Unchanged(path)
    size = len(expected)
    block = block or CLUSTER
    with mount.mount(path, *options) as mounted:
        found = bad.unreadable(mounted.disk, block, expected)
        check_equal(found, list(range(start, min(end, size), block)), "the offsets of EIO")
        with bad.Blocks(mounted.disk) as blocks:
            if start > 0:  # up to the damage, and over its edge
                compare.check_bytes(blocks.read(start - block, block),
                                    expected[start - block:start], start - block)
                check(blocks.read(start - 512, 1024) is None, "a read over the edge succeeded")
            if end < size:
                check(blocks.read(end - 512, 1024) is None, "a read over the end succeeded")
        compare.forget(mounted.disk)
        with open(mounted.disk, "rb", buffering=0) as file:  # through the kernel's cache
            if end < size:
                file.seek(end)
                compare.check_bytes(file.read(block), expected[end:end + block], end)
            file.seek(start)
            try:
                file.read(512)
            except OSError as error:
                check_equal(error.errno, 5, "errno")
            else:
                raise AssertionError("a buffered read of what is bad succeeded")
        lines = mounted.stderr().splitlines()
        if not quiet:
            check(any(all(word in line for word in log) for line in lines),
                  "no line with %r in the log: %r", log, lines[:10])
        check(all(line.startswith("qcow2fs: " + path) for line in lines), "the lines %r", lines)
    before.check()


def damage(sentence, kind, edit, block=None, needs=(), options=()):
    """edit(opened) damages an image and returns (start, end, words for the log)."""
    @suite.test(sentence, needs=needs)
    def _(directory):
        path = bad.sample(kind, directory)
        expected = bad.contents(path)
        with qcow2.Qcow2(path) as opened:
            start, end, log = edit(opened)
        check_damage(path, expected, start, end, log, block, options)


def l1(value, *words):
    """Entry 3 of a small image's L1 table, which maps 2 MiB each, has that value."""
    def edit(opened):
        table = opened.l1_entry(0) & qcow2.HOST_OFFSET_MASK
        number = value(table) if callable(value) else value
        opened.set_l1_entry(0, number)
        return 0, bad.SIZE, ["guest offset 0x0 ", "0x%016x" % number, *words]
    return edit


damage("an L1 entry that is not the start of a cluster", "small",
       l1(lambda table: qcow2.COPIED | table | 0x200, "not the start of a cluster"), block=4096)
damage("an L1 entry past the end of the file", "small", l1(qcow2.COPIED | FAR, "0x%x" % FAR,
                                                           "past the end"), block=4096)
damage("an L1 entry with the highest offset possible", "small",
       l1(qcow2.COPIED | 0x00FFFFFFFFFFF000, "past the end"), block=4096)


def l2(guest, value, *words, cluster=CLUSTER):
    """The L2 entry of a guest cluster has that value."""
    def edit(opened):
        position = opened.l2_entry_position(guest)
        number = value(opened.number(position, 8)) if callable(value) else value
        opened.set_number(position, 8, number)
        return guest, guest + cluster, ["guest offset 0x%x " % guest,
                                        "host offset 0x%x" % position, "0x%016x" % number, *words]
    return edit


MISALIGNED = "not the start of a cluster"
damage("an L2 entry that is not the start of a cluster", "plain",
       l2(5 * CLUSTER, lambda entry: entry | 0x200, MISALIGNED))
damage("an L2 entry half a cluster off", "plain",
       l2(5 * CLUSTER, lambda entry: entry + 0x8000, MISALIGNED))
damage("an L2 entry past the end of the file", "plain",
       l2(5 * CLUSTER, qcow2.COPIED | FAR, "0x%x" % FAR, "past the end"))
damage("an L2 entry with the highest offset possible", "plain",
       l2(5 * CLUSTER, qcow2.COPIED | 0x00FFFFFFFFFF0000, "past the end"))
damage("an L2 entry of a zero cluster with a host offset that is not the start of a cluster",
       "plain", l2(5 * CLUSTER, lambda entry: entry | 0x201, MISALIGNED))
damage("the first L2 entry damaged", "plain", l2(0, lambda entry: entry | 0x400, MISALIGNED))
damage("the last L2 entry damaged", "plain",
       l2(bad.SIZE - CLUSTER, qcow2.COPIED | FAR, "past the end"))
damage("a zero cluster in an image of version 2", "version2",
       l2(5 * CLUSTER, lambda entry: entry | 1, "version 2"))
damage("a zero cluster without a host offset in an image of version 2", "version2",
       l2(5 * CLUSTER, 1, "version 2"))
damage("a compressed cluster past the end of the file", "plain",
       l2(5 * CLUSTER, qcow2.L2_COMPRESSED | FAR, "compressed", "past the end"))
damage("a compressed cluster at the highest offset possible", "plain",
       l2(5 * CLUSTER, (1 << 63) - 1, "compressed", "past the end"))
damage("a compressed cluster in an image with a data file", "datafile",
       l2(5 * CLUSTER, qcow2.L2_COMPRESSED | 0x50000, "compressed", "data file"),
       needs=[tools.DATA_FILE])
damage("a cluster elsewhere in the data file than where it belongs", "datafile",
       l2(5 * CLUSTER, qcow2.COPIED | 6 * CLUSTER, "not the guest offset"),
       needs=[tools.DATA_FILE])
damage("a cluster of a data file past its end and not where it belongs", "datafile",
       l2(5 * CLUSTER, qcow2.COPIED | FAR, "not the guest offset"), needs=[tools.DATA_FILE])


def subclusters(guest, bitmap, entry=None):
    def edit(opened):
        if entry is not None:
            opened.set_l2_entry(guest, entry)
        opened.set_l2_bitmap(guest, bitmap)
        return guest, guest + 16 * KiB, ["guest offset 0x%x " % guest, "0x%016x" % bitmap,
                                         "impossible subcluster bitmap"]
    return edit


for title, bitmap, entry in (
        ("a subcluster both allocated and zero", 1 << 32 | 1, None),
        ("all subclusters both allocated and zero", (1 << 64) - 1, None),
        ("the last subcluster both allocated and zero", 1 << 63 | 1 << 31, None),
        ("a subcluster allocated without a host cluster", 1, 0),
        ("subclusters allocated without a host cluster", 0xFFFFFFFF, qcow2.COPIED)):
    damage(title, "extended", subclusters(48 * KiB, bitmap, entry), block=16 * KiB,
           needs=[tools.EXTENDED_L2])
damage("a cluster with subclusters past the end of the file", "extended",
       l2(48 * KiB, qcow2.COPIED | FAR, "past the end", cluster=16 * KiB), block=16 * KiB,
       needs=[tools.EXTENDED_L2])
damage("a cluster with subclusters at no cluster's start", "extended",
       l2(48 * KiB, lambda entry: entry | 0x800, MISALIGNED, cluster=16 * KiB), block=16 * KiB,
       needs=[tools.EXTENDED_L2])


def same_as_qemu(sentence, kind, edit, needs=()):
    """What the format reserves or leaves open is read as QEMU reads it."""
    @suite.test(sentence, needs=needs)
    def _(directory):
        path = bad.sample(kind, directory)
        with qcow2.Qcow2(path) as opened:
            edit(opened)
        expected = bad.contents(path)
        with mount.mount(path) as mounted:
            check_equal(bad.unreadable(mounted.disk, 4 * KiB, expected), [], "the offsets of EIO")
            check_equal(mounted.stderr(), "", "what the daemon said")


def or_l2(bits, guest=5 * CLUSTER):
    return lambda opened: opened.set_l2_entry(guest, opened.l2_entry(guest) | bits)


same_as_qemu("reserved bits of an L1 entry change nothing", "plain",
             lambda opened: opened.set_l1_entry(0, opened.l1_entry(0) | 0x7F000000000001FF))
same_as_qemu("reserved bits of an L2 entry change nothing", "plain", or_l2(0x3F000000000001FE))
same_as_qemu("the copied flag changes nothing", "plain",
             lambda opened: opened.set_l2_entry(CLUSTER, opened.l2_entry(CLUSTER) & ~qcow2.COPIED))
same_as_qemu("bit 0 of an L2 entry means nothing with subclusters", "extended",
             or_l2(1, 48 * KiB), needs=[tools.EXTENDED_L2])
same_as_qemu("two guest clusters may share one host cluster", "plain",
             lambda opened: opened.set_l2_entry(3 * CLUSTER, opened.l2_entry(5 * CLUSTER)))
same_as_qemu("an L2 table may serve as data", "plain",
             lambda opened: opened.set_l2_entry(3 * CLUSTER, opened.l1_entry(0)))
same_as_qemu("an L1 entry may name the header", "small",
             lambda opened: opened.set_l1_entry(0, 0))


# --- compressed clusters ------------------------------------------------------------------------


def first_compressed(opened):
    """The guest offset of the first compressed cluster."""
    for guest in range(0, opened["virtual_size"], opened.cluster_size):
        if opened.l2_entry_position(guest) and opened.l2_entry(guest) & qcow2.L2_COMPRESSED:
            return guest
    raise AssertionError("no compressed cluster")


def deflated(data):
    maker = zlib.compressobj(9, zlib.DEFLATED, -12)
    return maker.compress(data) + maker.flush()


def compressed(change, title="inflate"):
    def edit(opened):
        guest = first_compressed(opened)
        host, sectors = opened.compressed_descriptor(guest)
        change(opened, guest, host, sectors)
        host = opened.compressed_descriptor(guest)[0]
        return guest, guest + opened.cluster_size, ["guest offset 0x%x " % guest,
                                                    "host offset 0x%x)" % host, title]
    return edit


def appended(stream):
    """Puts the stream at the end of the file and lets the cluster's entry name it."""
    def change(opened, guest, _host, _sectors):
        data = stream(opened) if callable(stream) else stream
        at = opened.end()
        opened.write(at, data)
        opened.set_compressed_descriptor(guest, at, (at % 512 + len(data) - 1) // 512)
    return change


DAMAGED = [
    ("compressed data of an impossible block type",
     lambda opened, guest, host, sectors: opened.write(host, b"\x07" * 8)),
    ("compressed data of zeros",
     lambda opened, guest, host, sectors: opened.write(host, bytes(8))),
    ("compressed data of ones",
     lambda opened, guest, host, sectors: opened.write(host, b"\xff" * 8)),
    ("compressed data of half a cluster", appended(lambda opened: deflated(
        bytes(range(256)) * (opened.cluster_size // 512)))),
    ("compressed data of a cluster less one byte", appended(lambda opened: deflated(
        b"x" * (opened.cluster_size - 1)))),
    ("compressed data of nothing", appended(deflated(b""))),
    ("compressed data that is cut off", appended(lambda opened: deflated(
        random.Random(8).randbytes(opened.cluster_size))[:-2000])),
    ("compressed data whose entry counts too few sectors",
     lambda opened, guest, host, sectors: _few_sectors(opened, guest)),
    ("compressed data with a byte of the stream's middle changed to nonsense",
     appended(lambda opened: deflated(bytes(range(256)) * (opened.cluster_size // 1024))
              + b"\xff" * 100)),
]


def _few_sectors(opened, guest):
    """A stream that needs three sectors, of which the entry counts one."""
    data = deflated(random.Random(9).randbytes(1200) + bytes(opened.cluster_size - 1200))
    at = -(-opened.end() // 512) * 512
    opened.write(at, data + bytes(-len(data) % 512))
    opened.set_compressed_descriptor(guest, at, 0)


for title, change in DAMAGED:
    damage("%s gives EIO for its cluster" % title, "plain", compressed(change))
damage("compressed data of ones gives EIO for its cluster, zstd", "zstd",
       compressed(DAMAGED[2][1]), needs=[tools.ZSTD])
damage("compressed data of zeros gives EIO for its cluster, zstd", "zstd",
       compressed(DAMAGED[1][1]), needs=[tools.ZSTD])
damage("deflated data in an image of type zstd gives EIO for its cluster", "zstd",
       compressed(appended(lambda opened: deflated(bytes(opened.cluster_size)))),
       needs=[tools.ZSTD])
same_as_qemu("compressed data of more than a cluster is a cluster", "plain",
             lambda opened: compressed(appended(lambda opened: deflated(
                 bytes(range(256)) * (opened.cluster_size // 128))))(opened))
same_as_qemu("compressed data may go on behind its stream", "plain",
             lambda opened: compressed(appended(lambda opened: deflated(
                 b"q" * opened.cluster_size) + b"\xff" * 5000))(opened))
same_as_qemu("compressed data may end with the file, not with the sector", "plain",
             lambda opened: compressed(appended(lambda opened: deflated(
                 random.Random(3).randbytes(opened.cluster_size))))(opened))


def flips(kind, seed, needs=()):
    @suite.test("flipped bits in compressed data (%s) give EIO, or what QEMU makes of them" % kind,
                needs=needs)
    def _(directory):
        path = bad.sample(kind, directory)
        generator = random.Random(seed)
        with qcow2.Qcow2(path) as opened:
            guest = first_compressed(opened)
            host, _sectors = opened.compressed_descriptor(guest)
            pristine = opened.read(host, 60)
        refused = 0
        for _ in range(40):
            changed = bytearray(pristine)
            for _ in range(generator.randint(1, 3)):
                changed[generator.randrange(len(changed))] ^= 1 << generator.randrange(8)
            with qcow2.Qcow2(path) as opened:
                opened.write(host, bytes(changed))
            told = tools.run("qemu-io", "-r", "-f", "qcow2", "-c",
                             "read -v %d 65536" % guest, path, status=None).stdout
            with mount.mount(path) as mounted, bad.Blocks(mounted.disk) as blocks:
                data = blocks.read(guest, CLUSTER)
            if "Input/output error" in told:
                check(data is None, "QEMU refuses %s, we read it", bytes(changed).hex())
                refused += 1
            else:
                check(data is not None, "QEMU reads %s, we refuse it", bytes(changed).hex())
                compare.check_bytes(data, _dumped(told), guest)
        check(refused > 0, "no flip made the data unreadable")


def _dumped(text):
    """The bytes of a hexadecimal dump of qemu-io."""
    found = bytearray()
    for line in text.splitlines():
        match = re.match(r"[0-9a-f]{8,}:  ((?:[0-9a-f]{2} )+)", line)
        if match:
            found += bytes.fromhex(match.group(1))
    return bytes(found)


flips("plain", 11)
flips("zstd", 12, needs=[tools.ZSTD])


# --- the chain, snapshots, the rest ---------------------------------------------------------------


@suite.test("damage in a backing image is EIO where the overlay shows it, and nowhere else")
def _(directory):
    base = bad.sample("plain", directory)
    top = image.create(os.path.join(directory, "top.qcow2"), bad.SIZE, backing="image.qcow2",
                       backing_format="qcow2")
    image.io(top, image.write(5 * CLUSTER, CLUSTER, 4))
    expected = bad.contents(top)
    with qcow2.Qcow2(base) as opened:
        for guest in (5 * CLUSTER, 7 * CLUSTER):
            opened.set_l2_entry(guest, opened.l2_entry(guest) | 0x200)
        position = opened.l2_entry_position(7 * CLUSTER)
    with mount.mount(top) as mounted:
        check_equal(bad.unreadable(mounted.disk, CLUSTER, expected), [7 * CLUSTER],
                    "the offsets of EIO")
        bad.check_sentence(mounted.stderr().splitlines(True)[0], base,
                           OTHERS % (7 * CLUSTER, position))


# field of the snapshot, value, words of the log, and the file of the snapshot that it spoils
IMPOSSIBLE = [
    ("l1_table_offset", FAR, "L1 table", "disk.raw"),
    ("l1_table_offset", 0x1001, "0x1001", "disk.raw"),
    ("l1_table_offset", (1 << 64) - 4096, "L1 table", "disk.raw"),
    ("l1_size", 0, "too small", "disk.raw"),
    ("l1_size", 0xFFFFFFFF, "4294967295", "disk.raw"),
    ("extra_disk_size", 1 << 62, "too small", "disk.raw"),
    ("extra_disk_size", (1 << 64) - 1, "too small", "disk.raw"),
    ("extra_vm_state_size", 1 << 62, "VM state", "vmstate.raw"),
    ("extra_vm_state_size", (1 << 64) - 1, "VM state", "vmstate.raw"),
]


@suite.test("what is impossible of a snapshot gives EIO; all others are read")
def _(directory):
    path = bad.sample("snapshots", directory)
    for name, value, words, spoilt in IMPOSSIBLE:
        with qcow2.Qcow2(path) as opened:
            before = opened.snapshot_field(1, name)
            opened.set_snapshot_field(1, name, value)
        with mount.mount(path, directory=True) as mounted:
            places = os.path.join(mounted.path, "snapshots")
            check_equal(sorted(os.listdir(places)), ["first", "second", "third"], "the snapshots")
            readable = ["first/disk.raw", "third/disk.raw", "../disk.raw"]
            if spoilt == "vmstate.raw":
                readable.append("second/disk.raw")
            for place in readable:
                check_equal(len(_all(os.path.join(places, place))), bad.SIZE,
                            "the bytes of %s" % place)
            for _ in range(3):
                check_equal(_errno(os.path.join(places, "second", spoilt)), 5,
                            "errno with %s %d" % (name, value))
            bad.check_sentence(mounted.stderr().splitlines(True)[0], path, words)
            with open(os.path.join(mounted.path, "info.json"), encoding="utf-8") as file:
                check("second" in file.read(), "info.json")
        with qcow2.Qcow2(path) as opened:
            opened.set_snapshot_field(1, name, before)


def _all(path):
    with open(path, "rb") as file:
        return file.read()


def _errno(path):
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError as error:
        return error.errno
    os.close(handle)
    return 0


@suite.test("an image marked corrupt or dirty is read, and the mark is mentioned")
def _(directory):
    path = bad.sample("plain", directory)
    expected = bad.contents(path)
    with qcow2.Qcow2(path) as opened:
        opened["incompatible_features"] = qcow2.CORRUPT | qcow2.DIRTY
    before = compare.Unchanged(path)
    with mount.mount(path) as mounted:
        check_equal(bad.unreadable(mounted.disk, CLUSTER, expected), [], "the offsets of EIO")
        lines = mounted.stderr().splitlines(keepends=True)
        check_equal(len(lines), 2, "the number of lines")
        bad.check_sentence(lines[0], path, "corrupt")
        bad.check_sentence(lines[1], path, "dirty")
    before.check()


# --- a host that cannot read ----------------------------------------------------------------------

# A disk that cannot be read is one of our own: the raw disk of a damaged image, mounted, is a
# file of the host of which one range gives EIO.


@contextlib.contextmanager
def failing_host(directory, start, length=CLUSTER):
    """A raw file that gives EIO in [start, start + length); gives its path and its bytes."""
    below = os.path.join(directory, "below")
    os.mkdir(below)
    path = _plain_data(os.path.join(below, "image.qcow2"))
    expected = bad.contents(path)
    with qcow2.Qcow2(path) as opened:
        for guest in range(start, start + length, CLUSTER):
            opened.set_l2_entry(guest, opened.l2_entry(guest) | 0x200)
    with mount.mount(path) as mounted:
        yield mounted.disk, expected


def _plain_data(path):
    image.create(path, bad.SIZE)
    image.io(path, image.write(0, bad.SIZE, 6))
    return path


@suite.test("what the host cannot read is EIO, with a line that names both offsets")
def _(directory):
    with failing_host(directory, 9 * CLUSTER) as (raw, expected):
        top = image.create(os.path.join(directory, "top.qcow2"), bad.SIZE, backing=raw,
                           backing_format="raw")
        with mount.mount(top) as mounted:
            check_equal(bad.unreadable(mounted.disk, CLUSTER, expected), [9 * CLUSTER],
                        "the offsets of EIO")
            line = mounted.stderr().splitlines(True)[0]
            bad.check_sentence(line, raw, OTHERS % (9 * CLUSTER, 9 * CLUSTER),
                               "Input/output error")
            with open(mounted.disk, "rb", buffering=0) as file:
                file.seek(10 * CLUSTER)
                compare.check_bytes(file.read(CLUSTER), expected[10 * CLUSTER:11 * CLUSTER],
                                    10 * CLUSTER)


@suite.test("what the host cannot read of a data file is EIO for its clusters alone",
            needs=[tools.DATA_FILE])
def _(directory):
    with failing_host(directory, 4 * CLUSTER, 2 * CLUSTER) as (raw, expected):
        path = os.path.join(directory, "image.qcow2")
        image.create(path, bad.SIZE, data_file=os.path.join(directory, "data.raw"))
        image.io(path, image.write(0, bad.SIZE, 6))
        with mount.mount(path, "data-file=" + raw) as mounted:
            check_equal(bad.unreadable(mounted.disk, CLUSTER, expected),
                        [4 * CLUSTER, 5 * CLUSTER], "the offsets of EIO")
            bad.check_sentence(mounted.stderr().splitlines(True)[0], path,
                               OTHERS % (4 * CLUSTER, 4 * CLUSTER), "Input/output error")


@suite.test("a part of an L2 table that the host cannot read is EIO for what it maps")
def _(directory):
    inner = image.create(os.path.join(directory, "inner.qcow2"), 40 * MiB)
    image.io(inner, image.write(MiB, MiB, 1), image.write(36 * MiB, MiB, 2))
    expected = bad.contents(inner)
    with qcow2.Qcow2(inner) as opened:
        lost = (opened.l1_entry(0) & qcow2.HOST_OFFSET_MASK) + 4096  # maps from 32 MiB on
    # The image file itself is the raw disk of another image, of which one cluster is damaged.
    outer = image.convert(inner, os.path.join(directory, "outer.qcow2"), cluster_size="4k")
    with qcow2.Qcow2(outer) as opened:
        opened.set_l2_entry(lost, opened.l2_entry(lost) | 0x200)
    with mount.mount(outer) as below, mount.mount(below.disk) as mounted:
        found = bad.unreadable(mounted.disk, MiB, expected)
        check_equal(found, list(range(32 * MiB, 40 * MiB, MiB)), "the offsets of EIO")
        line = mounted.stderr().splitlines(True)[0]
        bad.check_sentence(line, OTHERS % (32 * MiB, lost), "L2 table cannot be read")


@suite.test("a header that the host cannot read is refused")
def _(directory):
    with failing_host(directory, 0) as (raw, _expected):
        at = bad.mount_point(directory)
        done = bad.start_and_end("-f", raw, at)
        bad.check_sentence(done.stderr, raw, "cannot be read", "Input/output error")
        check_equal(done.returncode, 1, "the exit status")


@suite.test("a thousand bad reads are a few lines, and reads beside them go on")
def _(directory):
    path = bad.sample("plain", directory)
    expected = bad.contents(path)
    with qcow2.Qcow2(path) as opened:
        opened.set_l2_entry(5 * CLUSTER, opened.l2_entry(5 * CLUSTER) | 0x200)
    began = time.monotonic()
    with mount.mount(path, directory=True) as mounted:
        with bad.Blocks(mounted.disk) as blocks:
            for number in range(1000):
                check(blocks.read(5 * CLUSTER, 512) is None, "it was read")
                if number % 50 == 0:
                    compare.check_bytes(blocks.read(4 * CLUSTER, CLUSTER),
                                        expected[4 * CLUSTER:5 * CLUSTER], 4 * CLUSTER)
        lines = mounted.stderr().splitlines()
        most = 10 + 1 + int((time.monotonic() - began) * 0.2 + 1)
        check(5 <= len(lines) <= most, "%d lines: %r", len(lines), lines[-3:])
        with open(os.path.join(mounted.path, "stats.json"), encoding="utf-8") as file:
            check('"errors": 1000' in file.read(), "stats.json does not count the errors")


@suite.test("seeking holes past damage is EIO there, and works elsewhere")
def _(directory):
    path = bad.sample("plain", directory)
    with qcow2.Qcow2(path) as opened:
        opened.set_l2_entry(5 * CLUSTER, opened.l2_entry(5 * CLUSTER) | 0x200)
    with mount.mount(path) as mounted:
        handle = os.open(mounted.disk, os.O_RDONLY)
        try:
            check_equal(os.lseek(handle, 0, os.SEEK_DATA), 0, "the first data")
            check_equal(os.lseek(handle, 6 * CLUSTER, os.SEEK_DATA), 6 * CLUSTER, "data behind it")
            for whence in (os.SEEK_DATA, os.SEEK_HOLE):
                try:
                    os.lseek(handle, 5 * CLUSTER, whence)
                except OSError as error:
                    check_equal(error.errno, 5, "errno")
                else:
                    raise AssertionError("a seek in what is bad succeeded")
        finally:
            os.close(handle)


# --- a file that shrinks --------------------------------------------------------------------------


def lose_half(directory, cut, make, options=()):
    """Mounts what make(raw) makes, cuts `cut` to half: right bytes or EIO, and a line that says it."""
    raw = os.path.join(directory, "raw")
    expected = random.Random(12).randbytes(8 * MiB)
    with open(raw, "wb") as file:
        file.write(expected)
    with mount.mount(make(raw), *options) as mounted:
        path = os.path.join(directory, cut)
        os.truncate(path, os.path.getsize(path) // 2 // 512 * 512)
        lost = bad.unreadable(mounted.disk, CLUSTER, expected)
        check(len(lost) > 10, "only %d clusters are lost", len(lost))
        with open(mounted.disk, "rb") as file:  # no program is to take what is lost for a hole
            check_equal(os.lseek(file.fileno(), lost[-1], os.SEEK_DATA), lost[-1], "the next data")
        check("the file has become shorter than it was" in mounted.stderr(), "the log: %s",
              mounted.stderr()[:500])


def shrinking(sentence, cut, make, *options):
    @suite.test("a file that shrinks while it is mounted gives EIO, and no zeros: " + sentence)
    def _(directory):
        lose_half(directory, cut, lambda raw: make(directory, raw), options)


def converted(directory, raw, *arguments, **options):
    path = os.path.join(directory, "image.qcow2")
    image.convert(raw, path, *arguments, **options)
    return path


def overlaid(directory, raw):
    """All of the disk is in the overlay; the base holds something else, which must not show."""
    base = os.path.join(directory, "base.raw")
    with open(base, "wb") as file:
        file.write(b"old" * (8 * MiB // 3))
        file.truncate(8 * MiB)
    path = image.create(os.path.join(directory, "image.qcow2"), 8 * MiB, backing=base,
                        backing_format="raw")
    image.io(path, "write -s %s 0 8M" % raw)
    return path


def over(directory, raw):
    return image.create(os.path.join(directory, "image.qcow2"), 8 * MiB, backing=raw,
                        backing_format="raw")


shrinking("data", "image.qcow2", converted)
shrinking("past the page cache", "image.qcow2", converted, "cache=none")
shrinking("compressed clusters", "image.qcow2",
          lambda directory, raw: converted(directory, raw, "-c"))
shrinking("an overlay", "image.qcow2", overlaid)
shrinking("a raw backing file", "raw", over)
shrinking("a data file", "data", lambda directory, raw: converted(
    directory, raw, data_file=os.path.join(directory, "data")))


if __name__ == "__main__":
    suite.main()
