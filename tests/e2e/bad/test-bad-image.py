#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Images that cannot be mounted: each gets one sentence, exit status 1, and is left alone.

Also cut-off images, which may be mounted as far as they go, but never show a wrong byte.
"""

import gzip
import os
import random
import stat
import struct

from lib import bad, compare, mount, qcow2, tap, tools
from lib.image import MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.QEMU])
HUGE = 0xFFFFFFFF
FAR = 0x7FFF0000  # a multiple of every cluster size used, far past the end of the file


def case(sentence, kind, edit, *words, needs=()):
    """An image of that kind, edited, is refused with the words."""
    @suite.test(sentence, needs=needs)
    def _(directory):
        path = bad.sample(kind, directory)
        with qcow2.Qcow2(path) as opened:
            found = edit(opened)
        more = [] if found is None else [found] if isinstance(found, str) else list(found)
        bad.refused(path, *words, *more)


def field(name, value, kind="plain", words=None, title=None, needs=()):
    """One header field set to a value, which the sentence names."""
    def edit(opened):
        opened[name] = value
    case(title or "%s %s (%s)" % (name, value if value < 10**6 else hex(value), kind), kind, edit,
         *(words if words is not None else [name, str(value)]), needs=needs)


# --- what is not a qcow2 image ------------------------------------------------------------


def not_qcow2(sentence, make, *words, needs=()):
    @suite.test("%s is refused as what it is" % sentence, needs=needs)
    def _(directory):
        path = os.path.join(directory, "not an image")
        make(path)
        bad.refused(path, *words)


def written(data, length=0):
    def make(path):
        with open(path, "wb") as file:
            file.write(data)
            if length:
                file.truncate(length)
    return make


def created(kind):
    return lambda path: tools.run("qemu-img", "create", "-q", "-f", kind, path, "4M")


def partitioned(path):
    sector = bytearray(512)
    sector[446:462] = bytes([0, 0, 2, 0, 0x83, 0, 0, 0]) + struct.pack("<II", 2048, 2048)
    sector[510:] = b"\x55\xaa"
    written(bytes(sector), 2 * MiB)(path)


def file_system(path):
    written(b"", 4 * MiB)(path)
    tools.run("mke2fs", "-q", "-t", "ext4", "-F", path)


LOOKS = "is not a qcow2 image, it looks like "
not_qcow2("a VMDK image", created("vmdk"), LOOKS + "a VMDK image", "qemu-img convert")
not_qcow2("a VDI image", created("vdi"), LOOKS + "a VirtualBox VDI image")
not_qcow2("a VHDX image", created("vhdx"), LOOKS + "a VHDX image")
not_qcow2("a VHD image", created("vpc"), LOOKS + "a VHD image")
not_qcow2("a QED image", created("qed"), LOOKS + "a QED image")
not_qcow2("a Parallels image", created("parallels"), LOOKS + "a Parallels image")
not_qcow2("a qcow image of version 1", created("qcow"), "a qcow image of version 1")
not_qcow2("a partitioned raw disk", partitioned, LOOKS + "a raw disk with an MBR partition table",
          "it needs no qcow2fs")
not_qcow2("an ext4 file system", file_system, LOOKS + "a raw ext2, ext3 or ext4 file system",
          needs=[tools.MKE2FS])
not_qcow2("a gzip file", written(gzip.compress(b"QFI\xfb" * 100)),
          LOOKS + "a file compressed with gzip")
not_qcow2("an empty file", written(b""), LOOKS + "an empty file")
not_qcow2("a file of zeros", written(b"", MiB), LOOKS + "a file that begins with zeros")
not_qcow2("a text", written(b"This is a text, not an image.\n" * 50),
          LOOKS + "a file of an unknown format")
not_qcow2("a file of three bytes", written(b"QFI"), LOOKS)
not_qcow2("a file of the magic number alone", written(b"QFI\xfb"), "4 bytes long, too short")
not_qcow2("the beginning of a header", written(b"QFI\xfb\0\0\0\3" + bytes(63)), "71 bytes long")
not_qcow2("a header of zeros", written(b"QFI\xfb\0\0\0\3" + bytes(MiB)), "cluster_bits", "is 0")


@suite.test("terminal commands in a file's name do not get into the sentence")
def _(directory):
    path = os.path.join(directory, "a\x1b[31mb\nc\x9b")
    written(b"text")(path)
    at = bad.mount_point(directory)
    done = bad.start_and_end("-f", path, at)
    bad.check_sentence(done.stderr, "a?[31mb?c", "it looks like")
    check_equal(done.returncode, 1, "the exit status")


@suite.test("an image that is missing, a dangling link, a directory, a FIFO, a device")
def _(directory):
    path = os.path.join(directory, "thing")
    bad.refused(path, "no such image")
    os.symlink("nowhere", path)
    bad.refused(path, "a symbolic link to a file that does not exist")
    os.unlink(path)
    os.mkdir(path)
    bad.refused(path, "is a directory")
    os.rmdir(path)
    os.mkfifo(path)
    bad.refused(path, "is a pipe")
    bad.refused("/dev/null", "is a character device")
    bad.refused(os.path.join(bad.sample("plain", directory), "below"), "Not a directory",
                at=bad.mount_point(directory))
    check(stat.S_ISFIFO(os.stat(path).st_mode), "the FIFO is gone")


@suite.test("an image that a user may not read", needs=[tools.tool("setpriv")])
def _(directory):
    place = bad.public_directory()
    with place as public:
        path = bad.sample("plain", public.path)
        os.chmod(path, 0o640)
        os.chmod(os.path.dirname(path), 0o755)
        at = bad.mount_point(public.path)
        if os.geteuid() == 0:
            os.chown(at, 65534, 65534)
        else:
            os.chmod(path, 0)
        bad.refused(path, "no permission to read this image", "mode 0%o" %
                    stat.S_IMODE(os.stat(path).st_mode), user=bad.NOBODY, at=at,
                    program=public.program)
        os.chmod(path, 0o644)
        os.chmod(os.path.dirname(path), 0)
        if os.geteuid() == 0:
            done = bad.start_and_end("-f", path, "/mnt", user=bad.NOBODY, program=public.program)
            bad.check_sentence(done.stderr, path, "no permission to enter a directory")
        os.chmod(os.path.dirname(path), 0o755)


# --- the header -----------------------------------------------------------------------------

field("version", 4, words=["version 4"])
field("version", HUGE, words=["version %d" % HUGE])
field("version", 0, words=["version 0"])
for bits in (0, 8, 22, 64, HUGE):
    field("cluster_bits", bits)
field("cluster_bits", 13, kind="extended", words=["cluster_bits", "13", "extended L2"],
      needs=[tools.EXTENDED_L2])
for length in (0, 72, 103, 105, 65536 + 8, HUGE):
    field("header_length", length)
for size in (1 << 63, (1 << 64) - 1):
    field("virtual_size", size, words=["size", str(size)])
field("virtual_size", 1 << 50, words=["L1 table is too small", str(1 << 50)],
      title="a virtual size of 1 PiB with an L1 table for less")
field("virtual_size", (1 << 63) - 1, words=["L1 table is too small", str((1 << 63) - 1)],
      title="the largest virtual size with an L1 table for less")
field("l1_size", 0, words=["L1 table is too small"])
field("l1_size", 4194305)
field("l1_size", HUGE)
field("l1_size", 4194304, words=["L1 table", "33554432 bytes", "does not lie within the file"])
field("l1_table_offset", 0, words=["L1 table", "overlaps the header"])
field("l1_table_offset", 0x30200, words=["l1_table_offset", "0x30200"])
field("l1_table_offset", FAR, words=["L1 table", "0x%x" % FAR])
field("l1_table_offset", 1 << 63, words=["L1 table", "0x8000000000000000"])
field("l1_table_offset", (1 << 64) - 65536, words=["L1 table", "0xffffffffffff0000"])
field("refcount_order", 7)
field("refcount_order", HUGE)
field("refcount_table_clusters", 0)
field("refcount_table_clusters", HUGE)
field("refcount_table_clusters", 129)
field("refcount_table_clusters", 128, words=["refcount table", "8388608 bytes"])
field("refcount_table_offset", 0, words=["refcount table", "overlaps the header"])
field("refcount_table_offset", 0x10001, words=["refcount_table_offset", "0x10001"])
field("refcount_table_offset", FAR, words=["refcount table", "0x%x" % FAR])
field("refcount_table_offset", (1 << 64) - 65536, words=["refcount table", "0xffffffffffff0000"])
field("nb_snapshots", 1, words=["snapshot table", "overlaps the header"],
      title="a snapshot table at offset 0")
field("nb_snapshots", 65537, kind="snapshots", words=["snapshot"])
field("nb_snapshots", HUGE, kind="snapshots", words=["snapshot"])
field("nb_snapshots", 60000, kind="snapshots", words=["snapshot table"])
field("snapshots_offset", 0x1001, kind="snapshots", words=["snapshots_offset", "0x1001"])
field("snapshots_offset", FAR, kind="snapshots", words=["snapshot table", "0x%x" % FAR])
field("snapshots_offset", (1 << 64) - 4096, kind="snapshots", words=["0xfffffffffffff000"])
field("crypt_method", 2, words=["LUKS", "crypt_method 2"])
field("crypt_method", 3)
field("crypt_method", HUGE)
field("backing_file_offset", 8, kind="backing")
field("backing_file_offset", 4097, kind="backing")
field("backing_file_offset", 1 << 63, kind="backing")
field("backing_file_size", 1024, kind="backing")
field("backing_file_size", HUGE, kind="backing")


def backing_over_the_cluster(opened):
    opened["backing_file_offset"] = 4096 - 100
    opened["backing_file_size"] = 101


case("a backing file's name that runs over the first cluster", "backing", backing_over_the_cluster,
     "backing_file_size", "101")


def overlap(first, second):
    def edit(opened):
        opened[first] = opened[second]
    return edit


case("an L1 table over the refcount table", "plain",
     overlap("l1_table_offset", "refcount_table_offset"), "L1 table", "overlaps", "refcount table")
case("a refcount table over the L1 table", "plain",
     overlap("refcount_table_offset", "l1_table_offset"), "overlaps")
case("a snapshot table over the L1 table", "snapshots",
     overlap("snapshots_offset", "l1_table_offset"), "snapshot table", "overlaps the L1 table")
case("a snapshot table over the refcount table", "snapshots",
     overlap("snapshots_offset", "refcount_table_offset"), "overlaps the refcount table")


def large_l1(opened):
    """The L1 table is said to be as long as to reach the refcount table behind it."""
    at, table = opened["l1_table_offset"], opened["refcount_table_offset"]
    new = opened.end() // opened.cluster_size * opened.cluster_size + opened.cluster_size
    opened.write(new, opened.read(table, opened.cluster_size))
    opened["refcount_table_offset"] = new
    opened["l1_size"] = (new - at) // 8 + 1
    opened.write(new + opened.cluster_size - 1, b"\0")


case("an L1 table that runs into the refcount table", "plain", large_l1, "L1 table", "overlaps")


# --- features ---------------------------------------------------------------------------------


def features(bits, table=None):
    def edit(opened):
        opened["incompatible_features"] = opened["incompatible_features"] | bits
        if table is not None:
            opened.remove_extension(qcow2.EXTENSION_FEATURE_NAMES)
            opened.append_extension(qcow2.EXTENSION_FEATURE_NAMES, b"".join(
                bytes([kind, bit]) + name.ljust(46, b"\0") for kind, bit, name in table))
    return edit


case("an incompatible feature without a name", "plain", features(1 << 37, []),
     "incompatible features", "bit 37")
case("an incompatible feature with a name", "plain",
     features(1 << 37, [(1, 37, b"not this"), (0, 36, b"nor this"), (0, 37, b"time travel")]),
     "'time travel' (bit 37)")
case("two incompatible features, one of them named", "plain",
     features(1 << 63 | 1 << 5, [(0, 5, b"x" * 46)]), "'%s' (bit 5), bit 63" % ("x" * 46))
case("all unknown incompatible features", "plain", features(((1 << 64) - 1) & ~0x1f, []),
     "bit 5, bit 6", "bit 63")
case("a feature whose name is a terminal command", "plain",
     features(1 << 9, [(0, 9, b"\x1b[2J\n")]), "?[2J?' (bit 9)")
case("an incompatible feature in an image with a backing file", "backing",
     features(1 << 40, [(0, 40, b"flux")]), "'flux' (bit 40)")


def compression(flag, value):
    def edit(opened):
        bits = opened["incompatible_features"] & ~qcow2.COMPRESSION_TYPE
        opened["incompatible_features"] = bits | (qcow2.COMPRESSION_TYPE if flag else 0)
        opened["compression_type"] = value
    return edit


case("compression type zlib with the feature bit of another", "zstd", compression(True, 0),
     "compression_type is 0", needs=[tools.ZSTD])
case("compression type zstd without its feature bit", "zstd", compression(False, 1),
     "compression_type is 1", needs=[tools.ZSTD])
case("an unknown compression type", "plain", compression(True, 2), "compression type is 2")
case("compression type 255", "plain", compression(True, 255), "compression type is 255")


@suite.test("encrypted images that qemu-img makes, LUKS and AES, without their key")
def _(directory):
    for kind in ("luks", "aes"):
        try:
            path = bad.sample(kind, directory)
        except tools.CommandFailed:
            continue  # a qemu-img built without it; the edited headers above say the same
        bad.refused(path, "is encrypted, and no key was given")


# --- header extensions --------------------------------------------------------------------------


def extension(kind, length, data=b""):
    """Appends an extension whose length is said to be `length`."""
    def edit(opened):
        opened.append_extension(kind, data)
        opened.set_number(opened.extensions()[-1].position + 4, 4, length)
        return "0x%08x" % kind
    return edit


case("an unknown extension that runs over the first cluster", "plain",
     extension(0x12345678, 65536), "65536 bytes long")
case("an extension of nearly 4 GiB", "plain", extension(0x12345678, HUGE), str(HUGE))
case("an extension whose padding would wrap around", "plain", extension(0x12345678, HUGE - 6),
     str(HUGE - 6))
case("an extension that runs into the backing file's name", "backing",
     extension(0x12345678, 100, b"1234"), "100 bytes long")
case("a data file's name that runs over", "datafile",
     lambda opened: opened.set_number(opened.extension(qcow2.EXTENSION_DATA_FILE).position + 4, 4,
                                      70000), "70000", needs=[tools.DATA_FILE])


def long_backing_format(opened):
    opened.remove_extension(qcow2.EXTENSION_BACKING_FORMAT)
    opened.append_extension(qcow2.EXTENSION_BACKING_FORMAT, b"q" * 16)


case("a backing format of 16 letters", "backing", long_backing_format, "format", "16 bytes")


def bitmaps(name, value, *words):
    def edit(opened):
        opened.set_bitmaps_field(name, value)
    case("bitmaps extension: %s 0x%x" % (name, value), "bitmaps", edit, *words)


bitmaps("nb_bitmaps", 0, "0 bitmaps")
bitmaps("nb_bitmaps", 65536, "65536 bitmaps")
bitmaps("nb_bitmaps", 60000, "60000 bitmaps")
bitmaps("reserved", 7, "reserved", "0x7")
bitmaps("directory_size", 1, "1 bytes")
bitmaps("directory_size", (1 << 64) - 1, str((1 << 64) - 1))
bitmaps("directory_offset", 0, "0x0")
bitmaps("directory_offset", 0x10200, "0x10200")
bitmaps("directory_offset", FAR, "0x%x" % FAR)
bitmaps("directory_offset", (1 << 64) - 65536, "0xffffffffffff0000")
case("a bitmaps extension of 23 bytes", "bitmaps",
     lambda opened: opened.set_number(opened.extension(qcow2.EXTENSION_BITMAPS).position + 4, 4,
                                      23), "23 bytes")


# --- the snapshot table -----------------------------------------------------------------------


def table_at_the_end(opened):
    """Moves the snapshot table to where the file ends."""
    snapshots = opened.snapshots()
    length = snapshots[-1].position + snapshots[-1].length - snapshots[0].position
    table = opened.read(snapshots[0].position, length)
    end = -(-opened.end() // opened.cluster_size) * opened.cluster_size
    opened.write(end, table)
    opened["snapshots_offset"] = end


def last_snapshot(name, value):
    def edit(opened):
        table_at_the_end(opened)
        opened.set_snapshot_field(2, name, value)
    return edit


OVER = "entry 3 of the snapshot table"
case("a snapshot with 1025 bytes of extra data", "snapshots",
     last_snapshot("extra_data_size", 1025), OVER, "1025")
case("a snapshot with 4 GiB of extra data", "snapshots", last_snapshot("extra_data_size", HUGE),
     OVER, str(HUGE))
case("a snapshot whose extra data runs over the file", "snapshots",
     last_snapshot("extra_data_size", 1024), OVER, "runs over the end of the file")
case("a snapshot whose ID runs over the file", "snapshots", last_snapshot("id_length", 65535), OVER,
     "runs over the end of the file")
case("a snapshot whose name runs over the file", "snapshots", last_snapshot("name_length", 65535),
     OVER, "runs over the end of the file")


def one_more(opened):
    table_at_the_end(opened)
    opened["nb_snapshots"] = 4


case("a snapshot more than there are", "snapshots", one_more, "snapshot table")


# --- images that were cut off ---------------------------------------------------------------------


def _host_of(path):
    """Where each guest cluster of plain data lies in the file: {guest offset: host offset}."""
    with qcow2.Qcow2(path) as opened:
        found = {}
        for guest in range(0, opened["virtual_size"], opened.cluster_size):
            position = opened.l2_entry_position(guest)
            if position is None:
                continue
            entry = opened.number(position, 8)
            host = entry & qcow2.HOST_OFFSET_MASK
            if not entry & (qcow2.L2_COMPRESSED | qcow2.L2_ZERO) and host:
                found[guest] = host
        return found, opened.cluster_size


def check_cut(path, length, expected, hosts, cluster, last_table):
    """All that can be read of the cut image is right, and what is there can be read."""
    with mount.mount(path) as mounted, bad.Blocks(mounted.disk) as blocks:
        for offset, data in blocks.all(cluster):
            host = hosts.get(offset)
            wanted = expected[offset:offset + cluster]
            if data is None:
                check(host is None or host >= length or last_table > length,
                      "cut to %d: the cluster at %d, at %s of the file, cannot be read", length,
                      offset, host)
            elif host is not None and host < length < host + cluster:
                # The last cluster of a file need not be whole: its rest reads as zeros.
                kept = length - host
                compare.check_bytes(data, wanted[:kept] + bytes(len(wanted) - kept), offset)
            else:
                compare.check_bytes(data, wanted, offset)


def cut(kind, seed, count, needs=()):
    @suite.test("an image (%s) cut to any length is refused, or shows no wrong byte" % kind,
                needs=needs)
    def _(directory):
        path = bad.sample(kind, directory)
        expected = bad.contents(path)
        whole = os.path.getsize(path)
        hosts, cluster = _host_of(path)
        with qcow2.Qcow2(path) as opened:
            tables = [opened.l1_entry(index) & qcow2.HOST_OFFSET_MASK
                      for index in range(opened["l1_size"])]
        last_table = max(tables) + cluster
        generator = random.Random(seed)
        edges = [edge + step for edge in range(0, whole, cluster) for step in (-512, -1, 0, 1, 700)]
        lengths = {length for length in generator.sample(edges, min(count, len(edges)))
                   if 0 <= length < whole}
        lengths |= {0, 1, 71, 72, 103, 104, 112, 511, 512, whole - 1, last_table - 1, last_table}
        mounted = 0
        for length in sorted(lengths, reverse=True):
            os.truncate(path, length)
            try:
                check_cut(path, length, expected, hosts, cluster, last_table)
                mounted += 1
            except mount.MountFailed as failed:
                check_equal(failed.status, 1, "cut to %d: the exit status" % length)
                bad.check_sentence(failed.stderr, path)
            check_equal(os.path.getsize(path), length, "the length of the image")
        check(0 < mounted < len(lengths), "mounted %d of %d", mounted, len(lengths))


cut("small", 1, 60)
cut("snapshots", 2, 40)
cut("zstd", 3, 20, needs=[tools.ZSTD])
cut("extended", 4, 30, needs=[tools.EXTENDED_L2])
cut("version2", 5, 15)


@suite.test("a cut image says at mounting what is missing")
def _(directory):
    path = bad.sample("small", directory)
    with qcow2.Qcow2(path) as opened:
        end = opened.l2_entry_position(0)
        opened.set_l1_entry(0, qcow2.COPIED | FAR)
    with mount.mount(path) as mounted:
        bad.check_sentence(mounted.stderr(), path, "was cut off", "L2 tables", "(1 of them)")
    check(end > 0, "no L2 table")


if __name__ == "__main__":
    suite.main()
