#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""partitions/ and its links: tables as sfdisk reads them, names, labels, hostile ones."""

import errno
import json
import os
import random
import struct
import time
import zlib

from lib import bad, image, tap, tools
from lib.image import MiB
from lib.partitions import (KEYS, LINUX, SIZE, mounted, opened, part, partitioned, read,
                            read_at, shown, stamped, write_at)
from lib.tap import check, check_equal
from lib.write import refuses

suite = tap.Suite(needs=[tools.fuse, tools.QEMU, tools.tool("sfdisk")])


# --- what there is --------------------------------------------------------------------------------


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
            check(time.monotonic() - before < bad.SOON, "it took %d seconds", time.monotonic() - before)
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
        refuses(errno.EROFS, os.open, os.path.join(place, "1.raw"), os.O_RDWR)
        refuses(errno.EPERM, os.truncate, os.path.join(place, "1.raw"), 0xfff)
        check_equal(os.stat(os.path.join(place, "1.raw")).st_mode & 0o222, 0, "writers' bits")
        check_equal(os.path.realpath(os.path.join(place, "..")), os.path.realpath(old), "its ..")
    with mounted(path, writable=False) as found:
        check_equal(shown(found), [(1, 4 * MiB)], "the partitions of a disk that is only read")
        refuses(errno.EROFS, os.open, part(found, 1), os.O_RDWR)


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


if __name__ == "__main__":
    suite.main()
