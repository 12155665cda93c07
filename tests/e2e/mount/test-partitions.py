#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""partitions/: ranges of the disk as files, that never contradict the disk, and links to them."""

import contextlib
import errno
import fcntl
import json
import mmap
import os
import random
import re
import signal
import struct
import threading
import time
import zlib

from lib import bad, compare, files, image, mount, run, tap, tools
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.QEMU, tools.tool("sfdisk")])

SIZE = 64 * MiB
KEYS = ["by-label", "by-partlabel", "by-partuuid", "by-type", "by-uuid"]
TWO = "label: gpt\nstart=1MiB,size=20MiB,name=one\nstart=24MiB,size=20MiB,name=two\n"
LINUX = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"


def stamped(path, size=SIZE):
    """A raw disk that tells at each MiB, and a sector before, where that is."""
    with open(path, "wb") as file:
        file.truncate(size)
        for at in range(MiB, size, MiB):
            file.seek(at - 512)
            file.write(struct.pack(">Q", at - 512) * 64 + struct.pack(">Q", at) * 64)
    return path


def partitioned(directory, script=TWO, name="parts", size=SIZE, **options):
    raw = stamped(os.path.join(directory, name + ".raw"), size)
    tools.run("sfdisk", "-q", "--no-tell-kernel", "--wipe=never", raw, input=script)
    path = os.path.join(directory, name + ".qcow2")
    image.convert(raw, path, **options)
    return path


@contextlib.contextmanager
def mounted(path, *options, writable=True, **keywords):
    with mount.mount(path, *options, directory=True, writable=writable, **keywords) as found:
        found.parts = os.path.join(found.path, "partitions")
        yield found


@contextlib.contextmanager
def opened(path, flags=os.O_RDONLY):
    handle = os.open(path, flags)
    try:
        yield handle
    finally:
        os.close(handle)


def part(found, number):
    return os.path.join(found.parts, "%d.raw" % number)


def fails(code, call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        check_equal(errno.errorcode[error.errno], errno.errorcode[code],
                    "the error of %s%r" % (call.__name__, arguments[1:]))
    else:
        raise AssertionError("%s%r worked" % (call.__name__, arguments))


def read(path):
    with open(path, "rb") as file:
        return file.read()


def read_at(path, length, offset):
    with opened(path) as handle:
        return os.pread(handle, length, offset)


def write_at(path, data, offset):
    with opened(path, os.O_RDWR) as handle:
        check_equal(os.pwrite(handle, data, offset), len(data), "bytes written")
        os.fsync(handle)


# --- what there is --------------------------------------------------------------------------------


def shown(found):
    """Number, start and size of each, as the files tell."""
    result = []
    for name in os.listdir(found.parts):
        if name not in KEYS:
            check(re.fullmatch(r"[1-9][0-9]*\.raw", name), "a name: %s", name)
            result.append(int(name[:-4]))
    check_equal(result, sorted(result), "the order of the numbers")
    return [(number, os.path.getsize(part(found, number))) for number in result]


def sfdisk_says(path):
    done = tools.run("sfdisk", "--json", path, status=None)
    if done.returncode != 0:
        return []
    table = json.loads(done.stdout)["partitiontable"]
    sector = table.get("sectorsize", 512)
    found = []
    for entry in table.get("partitions", []):
        number = int(entry["node"][len(path):].lstrip("p"))
        # An MBR has no UUIDs: the kernel and udev make them of its identifier.
        uuid = entry.get("uuid", "%s-%02x" % (table["id"][2:], number))
        found.append(dict(entry, number=number, start=entry["start"] * sector,
                          size=entry["size"] * sector, uuid=uuid))
    return found


def check_as_sfdisk(found, what):
    """Names, sizes, places and links are those of the table on the disk, as sfdisk reads it."""
    expected = sfdisk_says(found.disk)
    check_equal(shown(found), [(entry["number"], entry["size"]) for entry in expected],
                "the partitions of %s" % what)
    with opened(found.disk) as disk:
        for entry in expected:
            with opened(part(found, entry["number"])) as handle:
                for at in (0, entry["size"] // MiB * MiB - 512, entry["size"] - 1024):
                    at = max(at, 0)
                    length = min(2048, entry["size"] - at)
                    check(os.pread(handle, 2048, at) == os.pread(disk, length, entry["start"] + at),
                          "%s: partition %d, byte %d, is not the disk's", what, entry["number"], at)
    linked = {}
    for name in os.listdir(os.path.join(found.parts, "by-partuuid")):
        linked[name] = os.readlink(os.path.join(found.parts, "by-partuuid", name))
    check_equal(linked, {entry["uuid"].lower(): "../%d.raw" % entry["number"]
                         for entry in expected if entry["uuid"]}, "by-partuuid of %s" % what)
    types = set()
    for name in os.listdir(os.path.join(found.parts, "by-type")):
        target = os.readlink(os.path.join(found.parts, "by-type", name))
        kind = name.partition("@")[0]
        types.add((int(target[3:-4]), kind if len(kind) > 2 else kind.lstrip("0")))
    check_equal(sorted(types), sorted((entry["number"], entry["type"].upper()
                                       if len(entry["type"]) > 2 else entry["type"])
                                      for entry in expected), "by-type of %s" % what)


def random_table(chance):
    """An sfdisk script of a table of a disk of 64 MiB."""
    lines, at = [], 1
    if chance.random() < 0.5:
        lines.append("label: gpt")
        for number in range(chance.randrange(0, 9)):
            lines.append("start=%dMiB,size=%dKiB,name=p%d" % (at, chance.randrange(1, 6000), number))
            at += 6 + chance.randrange(0, 2)
        return "\n".join(lines) + "\n"
    lines.append("label: dos")
    for _ in range(chance.randrange(0, 4)):
        lines.append("start=%dMiB,size=%dKiB,type=%s"
                     % (at, chance.randrange(1, 5000), chance.choice(["83", "7", "82", "c"])))
        at += 5 + chance.randrange(0, 2)
    if chance.random() < 0.7:
        lines.append("start=%dMiB,size=%dMiB,type=%s" % (at, 62 - at, chance.choice("5f")))
        for _ in range(chance.randrange(0, 6)):
            lines.append("start=%dMiB,size=%dKiB,type=83" % (at + 1, chance.randrange(1, 4000)))
            at += 5
            if at > 56:
                break
    return "\n".join(lines) + "\n"


def damage(path, chance):
    """Changes bytes of the first GPT, so that its backup counts; or nothing of an MBR."""
    with open(path, "r+b") as file:
        file.seek(512)
        if file.read(8) != b"EFI PART":
            return
        at = chance.choice([512 + chance.randrange(92), 1024 + chance.randrange(8 * 128)])
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << chance.randrange(8)]))


@suite.test("random and damaged tables are shown as sfdisk reads them, again after each change")
def _(directory):
    path = image.convert(stamped(os.path.join(directory, "disk.raw")),
                         os.path.join(directory, "disk.qcow2"))
    with mounted(path) as found:
        check_equal(os.listdir(found.parts), KEYS, "what is there of a disk without a table")
        for seed in range(300 if os.environ.get("QCOW2FS_LONG") else 20):
            chance = random.Random(seed)
            tools.run("sfdisk", "-q", "--no-tell-kernel", "--wipe=never", found.disk,
                      input=random_table(chance))
            if chance.random() < 0.3:
                damage(found.disk, chance)
            check_as_sfdisk(found, "table %d" % seed)


@suite.test("a table of 4096-byte sectors, and a hybrid one, are shown")
def _(directory):
    path = partitioned(directory)
    with mounted(path) as found:
        mbr = bytearray(read_at(found.disk, 512, 0))
        mbr[446 + 16:446 + 32] = struct.pack("<BBBBBBBBII", 0x80, 0, 2, 0, 0x83, 255, 255, 255,
                                             2048, 40960)
        write_at(found.disk, bytes(mbr), 0)
        check_equal(shown(found), [(1, 20 * MiB), (2, 20 * MiB)], "a hybrid table: the GPT counts")
    raw = stamped(os.path.join(directory, "large.raw"))
    with open(raw, "r+b") as file:
        file.truncate(SIZE)
        write_gpt(file, [(256, 511, LINUX, "x")], sector=4096)
    with mounted(image.convert(raw, raw + ".qcow2"), writable=False) as found:
        check_equal(shown(found), [(1, MiB)], "a table of large sectors")
        check(read(part(found, 1)) == read_at(found.disk, MiB, MiB), "its partition differs")


def guid(text):
    fields = text.split("-")
    return struct.pack("<IHH", *(int(field, 16) for field in fields[:3])) + \
        bytes.fromhex(fields[3] + fields[4])


def write_gpt(file, entries, sector=512, count=128, protective=True):
    """A GPT of (first, last, type, name), without its backup; `count` is what the header says."""
    if protective:
        file.seek(0)
        file.write(bytes(446) + struct.pack("<BBBBBBBBII", 0, 0, 2, 0, 0xee, 255, 255, 255, 1,
                                            0xffffffff) + bytes(48) + b"\x55\xaa")
    table = bytearray()
    for number, (first, last, kind, name) in enumerate(entries):
        raw_name = name if isinstance(name, bytes) else name.encode("utf-16-le")
        table += guid(kind) + struct.pack("<QQ", number + 1, 7) + struct.pack("<QQQ", first, last, 0)
        table += raw_name[:72].ljust(72, b"\0")
    table = bytes(table).ljust(min(count, 65536) * 128, b"\0")
    header = struct.pack("<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, 0, 0, 1, 2, 3, 1000,
                         b"d" * 16, 2, count, 128, zlib.crc32(table))
    header = header[:16] + struct.pack("<I", zlib.crc32(header)) + header[20:]
    file.seek(sector)
    file.write(header)
    file.seek(2 * sector)
    file.write(table)


NAMES = [("plain", "plain"), ("a/b", "a%2Fb"), ("..", "%2E%2E"), (".", "%2E"), ("100%", "100%25"),
         ("twin", "twin@6"), ("twin", "twin@7"), ("twin@6", "twin@6@8"), ("é€𝄞", "é€𝄞"),
         ("", None), ("x" * 36, "x" * 36), ("\x1b[2J\n", "?[2J?"), (b"\x00\xd8" * 3, "???")]


@suite.test("names in a table lead nowhere else, are no commands, and all are different")
def _(directory):
    raw = stamped(os.path.join(directory, "names.raw"))
    with open(raw, "r+b") as file:
        write_gpt(file, [(2048 * number, 2048 * number + 7, LINUX, name)
                         for number, (name, _shown) in enumerate(NAMES, 1)])
    with mounted(image.convert(raw, raw + ".qcow2"), writable=False) as found:
        place = os.path.join(found.parts, "by-partlabel")
        links = {name: os.readlink(os.path.join(place, name)) for name in os.listdir(place)}
        # One twin's name with its number is the third's own: both then have further endings.
        twins = {name for name in links if name.startswith("twin")}
        check_equal(len(twins), 3, "the number of twins")
        check_equal({name: links[name] for name in links if name not in twins},
                    {name: "../%d.raw" % number for number, (_name, name) in enumerate(NAMES, 1)
                     if name is not None and not name.startswith("twin")}, "the links")
        for name, target in links.items():
            check("/" not in name and name not in (".", ".."), "the name %r", name)
            status = os.stat(os.path.join(place, name))
            check_equal(status.st_ino, os.stat(os.path.join(found.parts, target[3:])).st_ino,
                        "what %r leads to" % name)
        for name in ("nothing", "plain2", "x" * 300):
            check(not os.path.lexists(os.path.join(place, name)), "there is %s", name[:10])
        for name in ("0.raw", "01.raw", "+1.raw", "1.raw ", "65537.raw", "18446744073709551617.raw",
                     "4294967297.raw", "-1.raw", "1.RAW", "raw", "99.raw"):
            check(not os.path.lexists(os.path.join(found.parts, name)), "there is %r", name)


def chain(file, links, first=2048):
    """An MBR with an extended partition, whose records lie, and lead, where `links` says."""
    def entry(kind, start, sectors):
        return struct.pack("<BBBBBBBBII", 0, 0, 2, 0, kind, 255, 255, 255, start, sectors)
    file.seek(0)
    file.write(bytes(446) + entry(5, first, 100000) + bytes(48) + b"\x55\xaa")
    for place, target in links:
        file.seek((first + place) * 512)
        file.write(bytes(446) + entry(0x83, 1, 2) + entry(5, target, 3) + bytes(32) + b"\x55\xaa")


HOSTILE = {
    "a chain that leads to itself": (lambda file: chain(file, [(0, 0)]), 2),
    "a chain in a circle": (lambda file: chain(file, [(0, 10), (10, 20), (20, 10)]), 4),
    "a chain past the end": (lambda file: chain(file, [(0, 99999999)]), 2),
    "a chain of thousands": (lambda file: chain(file, [(at * 4, at * 4 + 4)
                                                       for at in range(3000)]), 1024),
    "partitions on top of each other": (lambda file: write_gpt(
        file, [(2048, 4095, LINUX, "a")] * 20 + [(0, 131071, LINUX, "all")]), 21),
    "partitions past the end": (lambda file: write_gpt(
        file, [(2048, 1 << 62, LINUX, "a"), (1 << 54, 1 << 55, LINUX, "b"),
               (2**64 - 1, 2**64 - 1, LINUX, "c"), (4096, 4000, LINUX, "d")]), 1),
    "a million entries": (lambda file: write_gpt(file, [(34, 40, LINUX, "a")], count=1000000), 1),  # what its MBR shows
    "65536 entries": (lambda file: write_gpt(file, [(34, 40, LINUX, "same")] * 65536,
                                             count=65536), 1024),
}

for kind, (write_table, expected) in HOSTILE.items():
    @suite.test("a hostile table is read in no time, and shows what it can: %s" % kind)
    def _(directory, write_table=write_table, expected=expected):
        raw = os.path.join(directory, "hostile.raw")
        with open(raw, "wb") as file:
            write_table(file)
            file.truncate(SIZE)
        with mounted(image.convert(raw, raw + ".qcow2")) as found:
            before = time.monotonic()
            sizes = shown(found)
            check(time.monotonic() - before < 10, "it took %d seconds", time.monotonic() - before)
            check_equal(len(sizes), expected, "the number of partitions")
            check(all(size <= SIZE for _number, size in sizes), "sizes %r", sizes[:10])
            for key in KEYS:
                names = os.listdir(os.path.join(found.parts, key))
                check_equal(len(set(names)), len(names), "the names in %s" % key)
            for number, size in sizes[:2]:
                check_equal(len(read(part(found, number))), size, "the bytes of %d" % number)
                check_equal(os.stat(part(found, number)).st_size, size, "its size")


@suite.test("the disk of a snapshot has its own partitions, which cannot be written")
def _(directory):
    path = partitioned(directory)
    tools.run("qemu-img", "snapshot", "-c", "before", path)
    with mounted(path) as found:
        old = os.path.join(found.path, "snapshots", "before")
        expected = read(part(found, 1))
        tools.run("sfdisk", "-q", "--no-tell-kernel", "--wipe=never", found.disk,
                  input="label: dos\nstart=3MiB,size=4MiB\n")
        write_at(found.disk, b"new" * 1000, MiB)
        check_equal(shown(found), [(1, 4 * MiB)], "the partitions of the disk")
        check_equal(os.listdir(old), ["disk.raw", "partitions"], "what the snapshot has")
        place = os.path.join(old, "partitions")
        check_equal(os.listdir(place), KEYS + ["1.raw", "2.raw"], "its partitions")
        check(read(os.path.join(place, "1.raw")) == expected, "its first partition has changed")
        check_equal(os.path.realpath(os.path.join(place, "by-partlabel", "two")),
                    os.path.join(os.path.realpath(place), "2.raw"), "a link")
        fails(errno.EROFS, os.open, os.path.join(place, "1.raw"), os.O_RDWR)
        fails(errno.EPERM, os.truncate, os.path.join(place, "1.raw"), 0xfff)
        check_equal(os.stat(os.path.join(place, "1.raw")).st_mode & 0o222, 0, "writers' bits")
        check_equal(os.path.realpath(os.path.join(place, "..")), os.path.realpath(old), "its ..")
    with mounted(path, writable=False) as found:
        check_equal(shown(found), [(1, 4 * MiB)], "the partitions of a disk that is only read")
        fails(errno.EROFS, os.open, part(found, 1), os.O_RDWR)


# --- labels and UUIDs of file systems -------------------------------------------------------------

MAKERS = [
    ("mkfs.ext4", 8, ["-q", "-F", "-L", "an ext4"]), ("mkfs.ext2", 4, ["-q", "-F", "-L", "twin"]),
    ("mkfs.ext3", 8, ["-q", "-F", "-L", "twin"]), ("mkfs.xfs", 320, ["-q", "-f", "-L", "an xfs"]),
    ("mkfs.btrfs", 128, ["-q", "-f", "-L", "b/../t r"]), ("mkfs.vfat", 8, ["-F", "12", "-n", "FAT12"]),
    ("mkfs.vfat", 20, ["-F", "16", "-n", "A FAT16"]), ("mkfs.vfat", 40, ["-F", "32", "-n", "FAT32"]),
    ("mkfs.vfat", 8, []), ("mkfs.ntfs", 8, ["-q", "-F", "-f", "-L", "an NTFS"]),
    ("mkfs.exfat", 8, ["-L", "an exfat"]), ("mkfs.f2fs", 64, ["-q", "-f", "-l", "an f2fs"]),
    ("mkswap", 4, ["-q", "-L", "swap"]),
]


def make_systems(directory):
    """A raw disk with one of each kind that can be made here; and how many those are."""
    makers = [maker for maker in MAKERS if tools.have(maker[0])]
    at, script = 1, "label: gpt\n"
    for _program, size, _arguments in makers:
        script += "start=%dMiB,size=%dMiB\n" % (at, size)
        at += size
    raw = os.path.join(directory, "systems.raw")
    with open(raw, "wb") as file:
        file.truncate((at + 8) * MiB)
    tools.run("sfdisk", "-q", "--no-tell-kernel", raw, input=script)
    at = 1
    for program, size, arguments in makers:
        made = raw + ".part"
        with open(made, "wb") as file:
            file.truncate(size * MiB)
        tools.run(program, *arguments, made)
        tools.run("dd", "if=" + made, "of=" + raw, "bs=1M", "seek=%d" % at, "conv=notrunc,sparse",
                  "status=none")
        os.unlink(made)
        at += size
    return raw, len(makers)


def blkid_says(path):
    done = tools.run("blkid", "-p", "-o", "export", path, status=None)
    lines = [line.partition("=") for line in done.stdout.splitlines()]
    return {name: value.replace("\\", "") for name, _equals, value in lines
            if name in ("LABEL", "UUID")}


def links(found, key):
    place = os.path.join(found.parts, key)
    return {name: os.readlink(os.path.join(place, name)) for name in os.listdir(place)}


@suite.test("labels and UUIDs are those that blkid finds, and follow what is written",
            needs=[tools.tool("blkid", "mkfs.ext4", "tune2fs")])
def _(directory):
    raw, count = make_systems(directory)
    path = image.convert(raw, os.path.join(directory, "systems.qcow2"))
    os.unlink(raw)
    with mounted(path) as found:
        told = {number: blkid_says(part(found, number)) for number in range(1, count + 1)}
        check_equal(links(found, "by-uuid"), {values["UUID"]: "../%d.raw" % number
                                              for number, values in told.items()
                                              if "UUID" in values}, "by-uuid")
        labels = [values.get("LABEL") for values in told.values()]
        check(len(set(labels)) > count // 2, "blkid found no more than %r", labels)
        expected = {}
        for number, label in enumerate(labels, 1):
            if label is not None:
                name = label.replace("/", "%2F")
                expected[name if labels.count(label) == 1 else "%s@%d" % (name, number)] = \
                    "../%d.raw" % number
        check_equal(links(found, "by-label"), expected, "by-label")
        tools.run("tune2fs", "-L", "renamed", part(found, 1))
        check_equal(links(found, "by-label").get("renamed"), "../1.raw", "the new label")
        check("an ext4" not in links(found, "by-label"), "the old label is still there")
        # What is two things at once is none.
        write_at(part(found, 1), b"XFSB", 0)
        check("../1.raw" not in links(found, "by-label").values(), "an ext4 and an XFS has a label")


@suite.test("a file system that lies about itself has no label, and is no danger")
def _(directory):
    path = partitioned(directory)
    fat = bytearray(512)
    fat[11:13], fat[13], fat[14:16], fat[16] = b"\x00\x02", 128, b"\xff\xff", 255
    fat[36:40], fat[44:48], fat[82:90], fat[510:] = b"\xff" * 4, b"\xff" * 4, b"FAT32   ", b"\x55\xaa"
    ntfs = bytearray(512)
    ntfs[3:11], ntfs[11:13], ntfs[13], ntfs[48:56] = b"NTFS    ", b"\x00\x02", 255, b"\xff" * 8
    exfat = bytearray(512)
    exfat[3:11], exfat[88:92], exfat[96:100] = b"EXFAT   ", b"\xff" * 4, b"\xff" * 4
    exfat[108:110] = b"\x0c\x0d"
    with mounted(path) as found:
        for boot in (fat, ntfs, exfat):
            for _ in range(8):
                write_at(part(found, 1), bytes(boot), 0)
                check_equal(links(found, "by-label"), {}, "labels")
                for number in random.Random(boot[3]).sample(range(11, 80), 3):
                    boot[number] ^= 0xff if number not in (82, 83, 84, 85, 86) else 0


# --- the two never contradict each other ----------------------------------------------------------


def versions(text):
    return (text * (4 * KiB // len(text) + 1))[:4 * KiB]


@suite.test("what is written through a partition is in the disk, whoever has it in its cache")
def _(directory):
    path = partitioned(directory, "label: dos\nstart=1MiB,size=50MiB,type=5\nstart=2MiB,size=8MiB\n")
    with mounted(path) as found:
        with opened(found.disk) as disk, opened(part(found, 5)) as same, \
                opened(part(found, 1)) as around:
            views = [(os.pread, disk, 2 * MiB), (os.pread, same, 0), (os.pread, around, MiB)]
            maps = [mmap.mmap(handle, 32 * KiB, mmap.MAP_SHARED, mmap.PROT_READ, offset=base)
                    for _call, handle, base in views]
            for number in range(50):
                at, data = number % 7 * 4 * KiB + number, versions(b"%d;" % number)
                for call, handle, base in views:
                    call(handle, 64 * KiB, base)
                with opened(part(found, 5 if number % 2 else 1), os.O_RDWR) as writer:
                    os.pwrite(writer, data, at + (0 if number % 2 else MiB))
                    # with no sync, and not closed
                    for (call, handle, base), mapped in zip(views, maps):
                        check(call(handle, 4 * KiB, base + at) == data, "write %d: a reader", number)
                        if at + 4 * KiB <= 32 * KiB:
                            check(mapped[at:at + 4 * KiB] == data, "write %d: a mapping", number)
            for mapped in maps:
                mapped.close()
        # nobody has it open now, but the kernel has pages of it
        read(found.disk)
        write_at(part(found, 5), b"while it was closed", 100)
        check_equal(read_at(found.disk, 19, 2 * MiB + 100), b"while it was closed", "the disk")
        with opened(part(found, 5), os.O_RDWR) as writer:
            read(found.disk)
            os.pwrite(writer, b"WHILE", 100)
            check_equal(read_at(found.disk, 5, 2 * MiB + 100), b"WHILE", "the disk")
            fcntl_punch(writer, 0, 4096)
            check_equal(read_at(found.disk, 4096, 2 * MiB), bytes(4096), "what was punched out")
    image.convert(path, path + ".raw", "-O", "raw", source_format="qcow2")


def fcntl_punch(handle, offset, length):
    """fallocate() with FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE."""
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(handle, 3, ctypes.c_int64(offset), ctypes.c_int64(length)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


@suite.test("what is written through the disk, and synced, is in the partition")
def _(directory):
    path = partitioned(directory)
    with mounted(path) as found:
        with opened(part(found, 1)) as first, opened(part(found, 2)) as second, \
                opened(found.disk, os.O_RDWR) as disk:
            mapped = mmap.mmap(first, MiB, mmap.MAP_SHARED, mmap.PROT_READ)
            for number in range(30):
                at, data = number * 5000, versions(b"%d:" % number)
                os.pread(first, MiB, 0)
                os.pread(second, MiB, 0)
                os.pwrite(disk, data, MiB + at)
                os.pwrite(disk, data, 24 * MiB + at)
                os.fsync(disk)
                check(mapped[at:at + len(data)] == data, "write %d: the mapping", number)
                check(os.pread(first, len(data), at) == data, "write %d: the first", number)
                check(os.pread(second, len(data), at) == data, "write %d: the second", number)
            mapped.close()


@contextlib.contextmanager
def reader_process(path, base, stable):
    """Looks at eight bytes until it is told to end; gives a function that waits for its verdict."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            handle = os.open(path, os.O_RDONLY)
            while True:
                known = stable[:8]
                if known == b"\xff" * 8:
                    status = 0
                    break
                if os.pread(handle, 8, base) < known:
                    break
        finally:
            os._exit(status)
    try:
        yield lambda: os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


@suite.test("readers of all files see each flushed write, whichever file it went through")
def _(directory):
    path = partitioned(directory)
    stable = mmap.mmap(-1, 4096)  # the last that was flushed; all ones: the end
    with mounted(path, "threads=2") as found:
        write_at(part(found, 1), bytes(8), 8 * KiB)
        with reader_process(found.disk, MiB + 8 * KiB, stable) as one, \
                reader_process(part(found, 1), 8 * KiB, stable) as other:
            for number in range(1, 200):
                written = struct.pack(">Q", number)
                if number % 2:
                    write_at(part(found, 1), written, 8 * KiB)
                else:
                    write_at(found.disk, written, MiB + 8 * KiB)
                stable[:8] = written
            stable[:8] = b"\xff" * 8
            check_equal(one(), 0, "the verdict of who reads the disk")
            check_equal(other(), 0, "the verdict of who reads the partition")


@suite.test("disk.raw and a partition are not open to write at the same time: EBUSY")
def _(directory):
    path = partitioned(directory)
    with mounted(path) as found:
        for one, other in ((found.disk, part(found, 1)), (part(found, 2), found.disk)):
            with opened(one, os.O_RDWR):
                fails(errno.EBUSY, os.open, other, os.O_WRONLY)
                with opened(other):
                    pass
            # That it was closed arrives in its own time, and nobody hears of that.
            for _ in range(100):
                for name in (one, other):
                    with opened(name, os.O_RDWR) as handle:
                        os.pwrite(handle, b"x", 5 * KiB)
        with opened(part(found, 1), os.O_RDWR), opened(part(found, 2), os.O_RDWR), \
                opened(part(found, 1), os.O_WRONLY):
            pass
        # one that waits gets it when the other is closed
        handle = os.open(found.disk, os.O_RDWR)
        closer = threading.Timer(0.1, os.close, [handle])
        closer.start()
        with opened(part(found, 1), os.O_RDWR):
            closer.join()


@suite.test("a partition is data and holes where the disk is, up to its end")
def _(directory):
    path = image.create(os.path.join(directory, "holes.qcow2"), SIZE)
    places = [(MiB - 64 * KiB, 128 * KiB), (3 * MiB, 64 * KiB), (21 * MiB - 64 * KiB, 128 * KiB),
              (30 * MiB, MiB)]
    image.io(path, *[image.write(at, length, 1) for at, length in places])
    with mounted(path) as found:
        tools.run("sfdisk", "-q", "--no-tell-kernel", "--wipe=never", found.disk, input=TWO)
    with mounted(path) as found:
        check_equal(image.seek_extents(part(found, 1)),
                    [(0, 64 * KiB), (2 * MiB, 2 * MiB + 64 * KiB), (20 * MiB - 64 * KiB, 20 * MiB)],
                    "the data of the first")
        check_equal(image.seek_extents(part(found, 2)), [(6 * MiB, 7 * MiB)],
                    "the data of the second")
        with opened(part(found, 2), os.O_RDWR) as writer:
            os.pwrite(writer, b"x", 10 * MiB)
            check_equal(image.seek_extents(part(found, 2)),
                        [(6 * MiB, 7 * MiB), (10 * MiB, 10 * MiB + 64 * KiB)],
                        "the data, after a write")
            fcntl_punch(writer, 6 * MiB, MiB)
            check_equal(os.lseek(writer, 0, os.SEEK_DATA), 10 * MiB, "the first data")
            fails(errno.ENXIO, os.lseek, writer, 11 * MiB, os.SEEK_DATA)
            check_equal(os.lseek(writer, 11 * MiB, os.SEEK_HOLE), 11 * MiB, "a hole")


@suite.test("the size of a partition is fixed, and nothing is written behind its end")
def _(directory):
    path = partitioned(directory)
    behind = 21 * MiB
    for options in ((), ("growable", "shrink")):
        with mounted(path, *options) as found:
            name, before = part(found, 1), read_at(found.disk, 4 * KiB, behind)
            for size in (0x1000, 20 * MiB - 1, 20 * MiB + 512, 1 << 40):
                fails(errno.EPERM, os.truncate, name, size)
            os.truncate(name, 20 * MiB)
            with opened(name, os.O_RDWR | os.O_TRUNC) as writer:  # as a shell's >
                check_equal(os.fstat(writer).st_size, 20 * MiB, "the size")
                fails(errno.EPERM, os.ftruncate, writer, 0)
                fails(errno.ENOSPC, os.pwrite, writer, b"x", 20 * MiB)
                fails(errno.ENOSPC, os.posix_fallocate, writer, 20 * MiB - 512, 1024)
                check_equal(os.pwrite(writer, b"y" * 4096, 20 * MiB - 1000), 1000, "bytes written")
                fcntl_punch(writer, 20 * MiB - 512, 4096)
                os.fsync(writer)
            check_equal(read_at(name, 4096, 20 * MiB - 1000), b"y" * 488 + bytes(512), "the end")
            check(read_at(found.disk, 4 * KiB, behind) == before, "what is behind has changed")
            check_equal(os.path.getsize(found.disk), SIZE, "the size of the disk")
            os.utime(name)
            fails(errno.EPERM, os.chmod, name, 0o777)
            fails(errno.EPERM, os.chown, name, 12345, -1)
            for target in (name, os.path.join(found.parts, "by-partlabel", "one")):
                try:
                    os.unlink(target)
                except OSError as error:
                    check(error.errno in (errno.EPERM, errno.ENOSYS), "errno %d", error.errno)


@suite.test("a partition that moves is another file, and who has the old one open keeps it")
def _(directory):
    path = partitioned(directory)
    with mounted(path) as found:
        inodes = [os.stat(part(found, number)).st_ino for number in (1, 2)]
        with opened(part(found, 1)) as first, opened(part(found, 2)) as second:
            old = os.pread(second, 4096, 0)
            tools.run("sfdisk", "-q", "--no-tell-kernel", "--wipe=never", found.disk,
                      input=TWO.replace("start=24MiB,size=20", "start=30MiB,size=10"))
            check_equal(shown(found), [(1, 20 * MiB), (2, 10 * MiB)], "the partitions")
            check_equal(os.stat(part(found, 1)).st_ino, inodes[0], "one that has not moved")
            check(os.stat(part(found, 2)).st_ino != inodes[1], "one that moved is the same file")
            check(os.pread(second, 4096, 0) == old, "the old one has changed")
            check_equal(os.fstat(second).st_size, 20 * MiB, "the size of the old one")
            check(read_at(part(found, 2), 4096, 0) == read_at(found.disk, 4096, 30 * MiB),
                  "the new one has other bytes than the disk")
            write_at(found.disk, b"to all", 30 * MiB)
            check_equal(os.pread(second, 6, 6 * MiB), b"to all", "the old one")
            tools.run("sfdisk", "-q", "--delete", found.disk, "1")
            check_equal(shown(found), [(2, 10 * MiB)], "the partitions")
            check_equal(os.listdir(os.path.join(found.parts, "by-partlabel")), ["two"], "the names")
            check_equal(os.fstat(first).st_size, 20 * MiB, "the size of one that is gone")
            check_equal(len(os.pread(first, 4096, 0)), 4096, "the bytes of one that is gone")


@suite.test("where the disk becomes smaller a partition reads as zeros, and cannot be written there")
def _(directory):
    path = partitioned(directory)
    with mounted(path, "shrink", "growable") as found:
        with opened(part(found, 2), os.O_RDWR) as writer, opened(part(found, 2)) as reader:
            check(any(os.pread(reader, 10 * MiB, 10 * MiB)), "nothing to lose")
            os.truncate(found.disk, 34 * MiB)
            check(not any(os.pread(reader, 10 * MiB, 10 * MiB)), "what is gone is still shown")
            check_equal(os.fstat(reader).st_size, 20 * MiB, "the size of an open file")
            fails(errno.ENOSPC, os.pwrite, writer, b"x", 10 * MiB)
            check_equal(os.pwrite(writer, b"x" * 1024, 10 * MiB - 512), 512, "bytes written")
            check_equal(os.lseek(reader, 15 * MiB, os.SEEK_HOLE), 15 * MiB, "a hole")
            fails(errno.ENXIO, os.lseek, reader, 15 * MiB, os.SEEK_DATA)
            check_equal(os.path.getsize(found.disk), 34 * MiB, "the size of the disk")
        check_equal(shown(found), [(1, 20 * MiB), (2, 10 * MiB)], "the partitions")


@suite.test("what was written to a partition that is open survives a SIGTERM, and the image is sound")
def _(directory):
    path = partitioned(directory)
    with mounted(path) as found:
        handle = os.open(part(found, 1), os.O_RDWR)
        reader = os.open(found.disk, os.O_RDONLY)
        os.pread(reader, MiB, MiB)
        os.pwrite(handle, b"not synced" * 1000, 12345)
        found.signal(signal.SIGTERM)
        for each in (handle, reader):
            with contextlib.suppress(OSError):
                os.close(each)
    tools.run("qemu-img", "check", "-q", path)
    with mounted(path, writable=False) as found:
        check_equal(read_at(found.disk, 10000, MiB + 12345), b"not synced" * 1000, "the disk")


# --- used by others -------------------------------------------------------------------------------


@suite.test("a file system is made, mounted, filled and checked on a partition's file",
            needs=[tools.root, tools.loop, tools.file_system("ext4"), tools.MKE2FS])
def _(directory):
    path = partitioned(directory)
    with mounted(path) as found:
        name = os.path.join(found.parts, "by-partlabel", "two")
        before = read(part(found, 1))
        tools.run("mkfs.ext4", "-q", "-F", name)
        with mount.loop_device(name, writable=True) as device:
            with mount.file_system(device, options="rw") as place:
                with open(os.path.join(place, "file"), "wb") as file:
                    file.write(image.pattern(3 * MiB, 3))
        tools.run("e2fsck", "-f", "-n", part(found, 2))
        with mount.loop_device(found.disk, "-o", str(24 * MiB), "--sizelimit", str(20 * MiB)) as device:
            with mount.file_system(device) as place:
                check(read(os.path.join(place, "file")) == image.pattern(3 * MiB, 3), "the file")
        check(read(part(found, 1)) == before, "the other partition has changed")
    tools.run("qemu-img", "check", "-q", path)


@suite.test("a user without rights writes to a partition of his own mount",
            needs=[tools.tool("setpriv", "fusermount3")])
def _(_directory):
    with bad.public_directory() as public:
        home = os.path.join(public.path, "home")
        os.mkdir(home)
        path = partitioned(home)
        at = os.path.join(home, "mnt")
        os.mkdir(at)
        if os.geteuid() == 0:
            for name in (home, path, at):
                os.chown(name, 65534, 65534)

        def user(*argv, **keywords):
            return tools.run(*bad.user_prefix(bad.NOBODY), *argv, env={run.MARK: run.directory},
                             **keywords)

        user(public.program, path, at)
        try:
            one = os.path.join(at, "partitions", "1.raw")
            user("dd", "of=" + os.path.join(at, "partitions", "by-partlabel", "one"), "bs=4k",
                 "seek=1", "conv=notrunc,fsync", "status=none", input="from a user")
            check(user("dd", "if=" + one, "bs=4k", "skip=1", "count=1", "status=none")
                  .stdout.startswith("from a user"), "the partition")
            check(user("dd", "if=" + os.path.join(at, "disk.raw"), "bs=4k", "skip=257", "count=1",
                       "status=none").stdout.startswith("from a user"), "the disk")
        finally:
            user("fusermount3", "-u", at)
            bad.wait_gone(at)
        tools.run("qemu-img", "check", "-q", path)


@suite.test("a mount point that is a file has no partitions, and stats.json counts what was asked")
def _(directory):
    path = partitioned(directory)
    with mounted(path) as found:
        read(part(found, 1))
        with open(os.path.join(found.path, "stats.json"), encoding="utf-8") as file:
            told = json.load(file)
        check(told["bytes-read"] >= 20 * MiB, "bytes read: %r", told["bytes-read"])
        inodes = [os.lstat(os.path.join(top, name)).st_ino
                  for top, names, others in os.walk(found.path) for name in names + others]
        check_equal(len(set(inodes)), len(inodes), "inodes without their doubles")
    with mount.mount(path) as found:
        check(not os.path.isdir(found.path), "a directory")


if __name__ == "__main__":
    suite.main()
