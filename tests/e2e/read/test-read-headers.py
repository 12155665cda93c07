#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Images whose headers hold what is not needed to read them, and odd sizes."""

import os
import struct

from lib import compare, image, matrix, mount, qcow2, tap, tools, tree
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.QEMU, tools.MKE2FS])


def edited(edit, **options):
    """The file system in an image that was then edited."""
    def make(directory, raw):
        path = image.convert(raw, os.path.join(directory, "image.qcow2"), **options)
        with qcow2.Qcow2(path) as opened:
            edit(opened)
        return path
    return make


def set_bits(**bits):
    def edit(opened):
        for field, value in bits.items():
            opened[field] = opened[field] | value
    return edit


def header(name, edit, says=None, **options):
    return matrix.read(suite, name, edited(edit, **options), holds=tree.SMALL, says=says)


header("the dirty bit", set_bits(incompatible_features=qcow2.DIRTY), says="is marked dirty")
header("the corrupt bit", set_bits(incompatible_features=qcow2.CORRUPT),
       says="is marked corrupt")
header("unknown compatible features", set_bits(compatible_features=0xFFFFFFFFFFFFFF00))
header("unknown autoclear features", set_bits(autoclear_features=0xFFFFFFFFFFFFFF00))
header("the bitmaps bit without bitmaps", set_bits(autoclear_features=qcow2.AUTOCLEAR_BITMAPS))


def unknown_extensions(opened):
    opened.append_extension(0x51515151, b"not known to anybody")
    opened.append_extension(0x00000001, b"")


def long_header(opened):
    """A header of 128 bytes: later versions of the format may grow it."""
    kept = [(old.type, old.data) for old in opened.extensions()]
    opened["header_length"] = 128
    opened.write(105, bytes(7))
    opened.write(112, struct.pack(">QQ", 0, 0))
    opened.set_extensions(kept)


def no_feature_names(opened):
    opened.remove_extension(qcow2.EXTENSION_FEATURE_NAMES)


def short_header(opened):
    """A header of 104 bytes: without the compression type, as before QEMU 5.1."""
    kept = [(old.type, old.data) for old in opened.extensions()]
    opened["header_length"] = 104
    opened.set_extensions(kept)


header("unknown header extensions", unknown_extensions)
header("unknown header extensions of version 2", unknown_extensions, compat="0.10")
header("a header longer than today's", long_header)
header("a header of 104 bytes", short_header)
header("no feature name table", no_feature_names)


def with_bitmaps(directory, raw):
    path = image.convert(raw, os.path.join(directory, "image.qcow2"))
    for name, granularity in (("daily", "64k"), ("weekly", "1M")):
        tools.run("qemu-img", "bitmap", "--add", "-g", granularity, path, name)
    tools.run("qemu-img", "bitmap", "--disable", path, "weekly")
    image.io(path, *[image.write(start, 4096, 1) for start in range(40 << 20, 41 << 20, 65536)])
    return path


matrix.read(suite, "persistent bitmaps", lambda directory: with_bitmaps(
    directory, tree.source(tree.SMALL).raw))


def bitmap_in_use(directory):
    path = with_bitmaps(directory, tree.source(tree.SMALL).raw)
    with qcow2.Qcow2(path) as opened:
        opened.set_bitmap_field(0, "flags", opened.bitmap_field(0, "flags") | 1)
    return path


matrix.read(suite, "a bitmap left in use", bitmap_in_use)


def of_size(size, **options):
    """Written to the last byte."""
    def make(directory):
        path = image.create(os.path.join(directory, "image.qcow2"), size, **options)
        if size > 0:
            image.io(path, image.write(0, min(size, 70000), 1),
                     image.write(max(0, size - 3000), min(size, 3000), 2))
        return path
    return make


for size in (512, 65536 - 512, 65536 + 512, (3 << 20) + 7 * 512, (512 << 20) - 512):
    matrix.read(suite, "a disk of %d bytes" % size, of_size(size))
matrix.read(suite, "a disk of 2 MiB less 1 KiB in clusters of 2 MiB",
            of_size((2 << 20) - 1024, cluster_size="2M"))
matrix.read(suite, "a disk of 3 MiB and 512 bytes in subclusters",
            of_size((3 << 20) + 512, extended_l2="on"), needs=[tools.EXTENDED_L2])


def odd_size(size):
    """qemu-img makes whole sectors only: the header says the size, the disk was written before."""
    @suite.test("a disk of %d bytes reads to its last byte and no further" % size)
    def _(directory):
        path = of_size((size + 511) // 512 * 512)(directory)
        expected = image.to_raw(path, os.path.join(directory, "expected.raw"))
        with qcow2.Qcow2(path) as opened:
            opened["virtual_size"] = size
        os.truncate(expected, size)
        with mount.mount(path) as mounted:
            check_equal(os.stat(mounted.disk).st_size, size, "the size")
            compare.check_files(mounted.disk, expected)
            compare.check_random_preads(mounted.disk, expected)
            with open(mounted.disk, "rb") as file:
                file.seek(size - 1)
                check_equal(len(file.read()), 1, "the bytes from the last one on")
                check_equal(file.read(), b"", "what lies past the end")


for odd in (1, 511, 513, 65537, 200001):
    odd_size(odd)


@suite.test("a disk of no bytes is an empty file")
def _(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), 0)
    with mount.mount(path) as mounted:
        check_equal(os.stat(mounted.disk).st_size, 0, "the size")
        with open(mounted.disk, "rb") as file:
            check_equal(file.read(), b"", "what is read")
        check_equal(image.seek_extents(mounted.disk), [], "the data")


@suite.test("a disk of 8 EiB less 2 MiB reads at both ends and as a hole between")
def _(directory):
    size = (1 << 63) - (2 << 20)
    path = os.path.join(directory, "image.qcow2")
    # More than an L1 table can map with today's limit of 32 MiB: so large only in 2 MiB clusters.
    size = min(size, (32 << 20) // 8 * ((2 << 20) // 8) * (2 << 20) - (2 << 20))
    image.create(path, size, cluster_size="2M")
    image.io(path, image.write(0, 4096, 1), image.write(size - 4096, 4096, 2))
    with mount.mount(path) as mounted:
        check_equal(os.stat(mounted.disk).st_size, size, "the size")
        with open(mounted.disk, "rb", buffering=0) as file:
            compare.check_bytes(file.read(4096), image.pattern(4096, 1), 0)
            file.seek(size - 4096)
            compare.check_bytes(file.read(8192), image.pattern(4096, 2), size - 4096)
            file.seek(size // 2)
            check(not any(file.read(1 << 20)), "the middle is not zero")
        extents = image.seek_extents(mounted.disk)
        check_equal(len(extents), 2, "the number of pieces of data")
        check(extents[0][1] <= 2 << 20 and extents[1][0] >= size - (2 << 20),
              "the data is at %r", extents)


if __name__ == "__main__":
    suite.main()
