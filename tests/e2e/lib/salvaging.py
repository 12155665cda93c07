# SPDX-License-Identifier: MIT
"""How much of damaged images comes back, by several tools, of what is still in the file.

    sample = salvaging.Sample(path)                # an image in order, and what its disk has
    salvaging.DAMAGES["header"](copy, generator)   # a copy of it is damaged
    sample.recovered(copy, raw)                    # a Counter of bytes:

    all           of clusters with data that the damaged file still has
    right         of these, what raw has in its place
    told          of all, whose place something in the damaged file tells (lib/told)
    missed        of told, what is not right
    older         what raw shows of a snapshot where the disk had, or has, something else
    wrong         what raw shows where it never was
"""

import collections
import os
import shutil

from . import bad, ctl, image, qcow2, told, tools
from .image import KiB, MiB


def _plain(directory, name, **options):
    """Filled from its beginning to its end, as a conversion or an installation does."""
    raw = os.path.join(directory, name + ".raw")
    with open(raw, "wb") as file:
        file.write(image.pattern(MiB, 11) + bytes(2 * MiB) + image.pattern(5 * MiB + 4096, 12)
                   + bytes(MiB) + image.pattern(3 * MiB, 13))
    path = image.convert(raw, os.path.join(directory, name), *options.pop("arguments", ()),
                         **options)
    os.unlink(raw)
    return path


def _lived(directory, name, snapshots=0, **options):
    """Written by a guest: formatted from its beginning to its end, then files here and there."""
    path = image.create(os.path.join(directory, name), 24 * MiB, **options)
    image.io(path, *(image.write(start * MiB, 4 * KiB, 7) for start in range(24)))
    image.io(path, *(image.write(start * 64 * KiB, length * 64 * KiB, start % 8)
                     for start, length in ((0, 60), (280, 40), (70, 64), (200, 31), (150, 20),
                                           (330, 50), (140, 9), (100, 1))))
    for number in range(snapshots):
        tools.run("qemu-img", "snapshot", "-c", "s%d" % number, path)
        image.io(path, image.write((20 + 90 * number) * 64 * KiB, 15 * 64 * KiB, 5),
                 image.write(300 * 64 * KiB, 6 * 64 * KiB, 6))
    return path


# The kinds of images, by name: how each is made.
SAMPLES = {
    "plain-64k": lambda at, name: _plain(at, name),
    "plain-4k": lambda at, name: _plain(at, name, cluster_size="4k"),
    "plain-512": lambda at, name: _plain(at, name, cluster_size="512"),
    "version-2": lambda at, name: _plain(at, name, compat="0.10", cluster_size="8k"),
    "subclusters": lambda at, name: _plain(at, name, cluster_size="16k", extended_l2="on"),
    "compressed": lambda at, name: _plain(at, name, arguments=["-c"], cluster_size="16k"),
    "lived-64k": lambda at, name: _lived(at, name),
    "lived-4k": lambda at, name: _lived(at, name, cluster_size="4k"),
    "lived-512": lambda at, name: _lived(at, name, cluster_size="512"),
    "snapshots-4k": lambda at, name: _lived(at, name, snapshots=2, cluster_size="4k"),
    "snapshots-64k": lambda at, name: _lived(at, name, snapshots=3),
}


class Sample:
    """An image in order: which bytes of its disk come from where in its file."""

    def __init__(self, path):
        self.path = path
        self.disk = bad.contents(path)
        self.tables = told.Tables(path)
        self.places = []  # (guest offset, length, where its bytes end in the file)
        with qcow2.Qcow2(path) as opened:
            cluster = opened.cluster_size
            for guest in range(0, opened["virtual_size"], cluster):
                if opened.l2_entry_position(guest) is None:
                    continue
                entry = opened.l2_entry(guest)
                if entry & qcow2.L2_COMPRESSED:
                    host, sectors = opened.compressed_descriptor(guest)
                    end = host // 512 * 512 + (sectors + 1) * 512
                elif entry & qcow2.HOST_OFFSET_MASK:
                    end = (entry & qcow2.HOST_OFFSET_MASK) + cluster
                else:
                    continue
                length = min(cluster, len(self.disk) - guest)
                if self.disk.count(0, guest, guest + length) != length:
                    self.places.append((guest, length, end))
            self.end = opened.end()

    def recovered(self, damaged, raw):
        """What came back, in bytes."""
        bytes_of = collections.Counter()
        with open(damaged, "rb") as file:
            known = told.Told(self.tables, file.read())
        size = len(known.damaged)
        found = b""
        if os.path.exists(raw):
            with open(raw, "rb") as file:
                found = file.read()
        for guest, length, end in self.places:
            if end <= size or (size == self.end and end > size):  # the last one may be in part
                right = found[guest:guest + length] == self.disk[guest:guest + length]
                tells = known.tells(guest // self.tables.cluster)
                bytes_of.update({"all": length, "right": length * right, "told": length * tells,
                                 "missed": length * (tells and not right)})
        self._misplaced(found, bytes_of)
        return bytes_of

    def _misplaced(self, found, bytes_of):
        """Counts what is not the disk's; the first bytes of what was cut off are."""
        for guest in range(0, min(len(found), len(self.disk)), self.tables.cluster):
            shown = found[guest:guest + self.tables.cluster]
            whole = self.disk[guest:guest + self.tables.cluster]
            if shown != whole and not whole.startswith(shown.rstrip(b"\0")):
                older = any(each.startswith(shown.rstrip(b"\0"))
                            for each in self.tables.older(guest // self.tables.cluster))
                bytes_of["older" if older else "wrong"] += len(shown)


# --- damage ------------------------------------------------------------------------------


def _junk(generator, length):
    kind = generator.randrange(4)
    return (bytes(length) if kind == 0 else b"\xff" * length if kind == 1
            else generator.randbytes(length))


def _scribble(opened, generator, begin, end):
    """Bytes of one place of [begin, end): a few, or whole sectors, as disks lose them."""
    if generator.random() < 0.5:
        at = generator.randrange(begin, end)
        length = min(generator.choice((1, 2, 8, 40)), end - at)
    else:
        at = begin + generator.randrange((end - begin + 511) // 512) * 512
        length = min(512 * generator.choice((1, 1, 2, 8)), end - at)
    opened.write(at, _junk(generator, length))


def _header(path, generator):
    with qcow2.Qcow2(path) as opened:
        for _ in range(generator.randint(1, 3)):
            if generator.random() < 0.8:
                _scribble(opened, generator, 0, 104)
            else:
                _scribble(opened, generator, 0, min(opened.cluster_size, 4096))


def _l1(path, generator):
    with qcow2.Qcow2(path) as opened:
        begin = opened["l1_table_offset"]
        for _ in range(generator.randint(1, 3)):
            _scribble(opened, generator, begin, begin + 8 * opened["l1_size"])


def _l2(path, generator):
    with qcow2.Qcow2(path) as opened:
        tables = [opened.l1_entry(index) & qcow2.HOST_OFFSET_MASK
                  for index in range(opened["l1_size"])]
        tables = [each for each in tables if each != 0]
        for _ in range(generator.randint(1, 3)):
            begin = generator.choice(tables)
            _scribble(opened, generator, begin, begin + opened.cluster_size)


def _cut(path, generator):
    os.truncate(path, generator.randrange(os.path.getsize(path) // 8, os.path.getsize(path)))


DAMAGES = {"header": _header, "L1": _l1, "L2": _l2, "cut": _cut}


# --- the tools -----------------------------------------------------------------------------


def _own(damaged, raw):
    ctl.ctl("salvage", "--quiet", damaged, raw, status=None, seconds=300)


def _convert(damaged, raw):
    tools.run("qemu-img", "convert", "--salvage", "-f", "qcow2", "-O", "raw", damaged, raw,
              status=None, timeout=300)


def _check(damaged, raw):
    copy = shutil.copyfile(damaged, damaged + ".checked")
    tools.run("qemu-img", "check", "-q", "-f", "qcow2", "-r", "all", copy, status=None,
              timeout=300)
    _convert(copy, raw)
    os.unlink(copy)


TOOLS = {"qcow2ctl salvage": _own, "qemu-img convert --salvage": _convert,
         "qemu-img check -r all": _check}
