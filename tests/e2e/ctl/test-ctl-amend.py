#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""qcow2ctl amend, with qemu-img amend and rebase -u beside it: features, levels, names, kill -9."""

import os

from lib import bad, changed, ctl, image, mount, qcow2, tap, tools, write
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.QEMU])
SIZE = 4 * MiB


def snapshot(path, name):
    tools.run("qemu-img", "snapshot", "-c", name, path)


def amended(path, options, *flags):
    return ctl.ctl("amend", "-f", "qcow2", *flags, "-o", options, path).stdout


# --- images ---------------------------------------------------------------------------------------


def zeros(place, base=None, **options):
    """Zero clusters of every kind, with and without a place, in the disk and three snapshots."""
    behind = {}
    if base is not None:
        image.io(image.sparse_raw(os.path.join(place, "base.raw"), base),
                 image.write(0, base, 7), image_format="raw")
        behind = {"backing": "base.raw", "backing_format": "raw"}
    path = image.create(os.path.join(place, "image.qcow2"), SIZE, **behind, **options)
    step = SIZE // 16
    image.io(path, image.write(0, 6 * step, 1), "write -q -z %d %d" % (step, step),
             "write -q -z -u %d %d" % (7 * step, step), "write -q -z %d 512" % (15 * step + 512),
             "write -q -c -P 5 %d %d" % (12 * step, 64 * KiB))
    snapshot(path, "one")
    image.io(path, "write -q -z 0 %d" % step, "write -q -z -u %d %d" % (3 * step, step),
             image.write(7 * step, step // 2, 2))
    snapshot(path, "two")
    snapshot(path, "three")
    image.io(path, image.write(3 * step, step, 3), "discard -q %d %d" % (5 * step, step),
             "write -q -z %d %d" % (13 * step, 3 * step))
    return path


def plain(place, **options):
    path = image.create(os.path.join(place, "image.qcow2"), SIZE, **options)
    image.io(path, image.write(0, MiB, 1), "write -q -z %d %d" % (MiB, MiB))
    return path


def old_snapshots(place):
    """Version 2, with snapshots as programs before QEMU 1.1 wrote them: no extra data."""
    path = plain(place, compat="0.10")
    for name in ("one", "a longer name with many bytes"):
        snapshot(path, name)
        image.io(path, image.write(len(name) * 10 * KiB, 64 * KiB, 5))
    with qcow2.Qcow2(path) as opened:
        strip_extra_data(opened)
    write.check_clean(path)
    return path


def gone_back(place):
    """The disk has the data of a snapshot again that is gone; another's zero cluster keeps it."""
    path = image.create(os.path.join(place, "image.qcow2"), SIZE)
    image.io(path, image.write(0, MiB, 1))
    snapshot(path, "one")
    image.io(path, "write -q -z 0 64k")
    snapshot(path, "two")
    for option in ("-a", "-d"):
        tools.run("qemu-img", "snapshot", option, "one", path)
    return path


def strip_extra_data(opened):
    """Takes all extra data from the entries of the snapshot table."""
    start, entries, table = opened["snapshots_offset"], opened.snapshots(), b""
    for entry in entries:
        raw = opened.read(entry.position, entry.length)
        extra = int.from_bytes(raw[36:40], "big")
        names = int.from_bytes(raw[12:14], "big") + int.from_bytes(raw[14:16], "big")
        kept = raw[:36] + bytes(4) + raw[40 + extra:40 + extra + names]
        table += kept + bytes(-len(kept) % 8)
    opened.write(start, table)


ZEROS = {
    "no backing file": zeros,
    "a backing file": lambda place: zeros(place, base=SIZE),
    "a short backing file": lambda place: zeros(place, base=SIZE // 2 - 512),
    "small clusters": lambda place: zeros(place, base=SIZE // 2, cluster_size="4k"),
    "lazy refcounts": lambda place: zeros(place, lazy_refcounts="on"),
}

# --- the same as qemu-img --------------------------------------------------------------------------


def wider(sentence, make, *bits, needs=()):
    """Refcounts of other widths; qemu-img takes half a minute for some of them."""
    @suite.test("refcounts of %s bits: %s" % (", ".join(map(str, bits)), sentence), needs=needs)
    def _(directory):
        path = make(directory)
        before, facts = changed.digest(path), changed.facts(path)
        for each in bits:
            amended(path, "refcount_bits=%d" % each)
            facts["format-specific"]["data"]["refcount-bits"] = each
            check_equal(changed.facts(path), facts, "the facts")
            write.check_clean(path)
        image.io(path, image.write(SIZE - MiB, 64 * KiB, 6))
        write.check_clean(path)
        changed.check_shown(path, before, but=True)


def same(sentence, make, *steps, needs=()):
    """After each step, ours and qemu-img's image have the same facts, and show what they did."""
    @suite.test("as qemu-img amends it: %s" % sentence, needs=needs)
    def _(directory):
        ours, theirs = changed.twins(directory, make)
        before = changed.digest(ours)
        for options in steps:
            check_equal(amended(ours, options), "Image amended.\n", "what it said")
            tools.run("qemu-img", "amend", "-q", "-f", "qcow2", "-o", options, theirs)
            check_equal(changed.facts(ours), changed.facts(theirs), "the facts after " + options)
            write.check_clean(ours)
            changed.check_shown(ours, before)  # qemu-img 7.2 changes some snapshots here
        if "compat=0.10" not in steps:
            changed.check_shown(theirs, before)
        image.io(ours, image.write(SIZE - MiB, 64 * KiB, 6))  # it can still be written
        write.check_clean(ours)
        changed.check_shown(ours, before, but=True)


for title, maker in ZEROS.items():
    same("down and up, %s" % title, maker, "compat=0.10", "compat=1.1")
    wider(title, maker, 64, 8, 16)
same("down, where a snapshot's zeros keep what the disk has", gone_back, "compat=0.10")
same("lazy refcounts on and off", plain, "lazy_refcounts=on", "lazy_refcounts=on",
     "lazy_refcounts=off")
same("down, with lazy refcounts, by another name", lambda place: plain(place, lazy_refcounts="on"),
     "compat=v2", "compat=v3,lazy_refcounts=on")
same("up, with all at once", lambda place: plain(place, compat="0.10"),
     "compat=1.1,lazy_refcounts=on,refcount_bits=8")
wider("without snapshots", plain, 1, 2, 4, 32, 16)
same("refcounts of 8 bits", plain, "refcount_bits=8", "compat=0.10,refcount_bits=16")
same("up, with snapshots that have no extra data", old_snapshots, "compat=1.1", "compat=0.10")
same("what is so already", plain, "compat=1.1", "refcount_bits=16", "data_file_raw=off",
     "lazy_refcounts=off")
same("extended L2 entries", lambda place: plain(place, extended_l2="on"), "lazy_refcounts=on",
     needs=[tools.EXTENDED_L2])
wider("extended L2 entries", lambda place: plain(place, extended_l2="on"), 8,
      needs=[tools.EXTENDED_L2])
wider("zstd", lambda place: plain(place, compression_type="zstd"), 32, needs=[tools.ZSTD])


@suite.test("size= is resize; a smaller one needs --shrink")
def _(directory):
    path = plain(directory)
    shown = changed.digest(path)[None]
    ctl.refused("amend", "-o", "size=1M", path, words=("from byte 1048576 on", "--shrink"),
                unchanged=[path])
    for words, options in (("multiple of 512", "size=1000"), ("at most 2 PiB", "size=4P"),
                           ("at least 512", "size=0")):
        ctl.refused("amend", "-o", options, path, words=(words,), unchanged=[path])
    for size in (8 * MiB, 2 * MiB, 3 * MiB):
        amended(path, "size=%d,lazy_refcounts=on" % size, "--shrink")
        check_equal(image.info(path)["virtual-size"], size, "the size")
        write.check_clean(path)
    check(changed.digest(path)[None] == shown[:2 * MiB] + bytes(MiB), "the disk shows another")


@suite.test("snapshots of version 3 that record no size must be repaired before the disk can change")
def _(directory):
    path = bad.sample("snapshots", directory)
    before = changed.digest(path)
    with qcow2.Qcow2(path) as opened:
        strip_extra_data(opened)
    for arguments in (("resize", path, "8M"), ("amend", "-o", "size=8M", path)):
        ctl.refused(*arguments, words=("how large", "check --repair=all"), unchanged=[path])
    ctl.ctl("check", "-q", "--repair=all", path, status=None)
    write.check_clean(path)
    changed.check_shown(path, before)
    ctl.ctl("resize", path, "8M")
    write.check_clean(path)


@suite.test("a size and compat=1.1 at once, with snapshots that record no size")
def _(directory):
    path = old_snapshots(directory)
    ctl.refused("amend", "-o", "size=8M", path, words=("snapshots", "add compat=1.1"),
                unchanged=[path])
    amended(path, "compat=1.1,size=8M,refcount_bits=32")
    write.check_clean(path)
    for name in changed.snapshots(path):
        copy = write.copy_image(path, path + ".copy")
        tools.run("qemu-img", "snapshot", "-a", name, copy)
        check_equal(image.info(copy)["virtual-size"], SIZE, "the size of " + name)


# --- the header --------------------------------------------------------------------------------------


@suite.test("unknown extensions, bitmaps and unknown compatible features outlive a change; unknown "
            "autoclear bits do not")
def _(directory):
    path = bad.sample("bitmaps", directory)
    with qcow2.Qcow2(path) as opened:
        opened.append_extension(0x12345678, b"thirteen byte")
        opened["compatible_features"] |= 1 << 40
        opened["autoclear_features"] |= 1 << 50
    before = changed.facts(path)
    amended(path, "lazy_refcounts=on")
    with qcow2.Qcow2(path) as opened:
        check_equal([each.data for each in opened.extensions() if each.type == 0x12345678],
                    [b"thirteen byte"], "the unknown extension")
        check_equal(opened["compatible_features"], 1 << 40 | 1, "compatible_features")
        check_equal(opened["autoclear_features"], qcow2.AUTOCLEAR_BITMAPS, "autoclear_features")
    before["format-specific"]["data"]["lazy-refcounts"] = True
    check_equal(changed.facts(path), before, "the facts")
    write.check_clean(path)


CHANGES = (
    *("amend --shrink -o %s IMAGE" % options for options in (
        "lazy_refcounts=on", "refcount_bits=8", "refcount_bits=64", "size=8M", "size=2M",
        "size=8M,refcount_bits=32")),
    "resize IMAGE 8M", "snapshot -c two IMAGE", "snapshot -d one IMAGE", "snapshot -a one IMAGE",
    "snapshot --rename=one two IMAGE", "bitmap --add IMAGE new", "check --repair=leaks IMAGE",
    "check --repair=all IMAGE", "commit IMAGE", "rebase -b other.qcow2 -F qcow2 IMAGE",
    "rebase -u -b other.qcow2 -F qcow2 IMAGE")


@suite.test("whatever changes an image clears autoclear bits that are not known (R6)")
def _(directory):
    for name in ("base.qcow2", "other.qcow2"):
        image.create(os.path.join(directory, name), SIZE)
    for command in CHANGES:
        behind = "commit" in command or "rebase" in command
        path = plain(directory, **({"backing": "base.qcow2", "backing_format": "qcow2"}
                                   if behind else {}))
        if not behind:
            snapshot(path, "one")
        with qcow2.Qcow2(path) as opened:
            opened["autoclear_features"] |= 1 << 50
            end = -(-opened.end() // (64 * KiB)) * 64 * KiB
            opened.write(end, bytes(64 * KiB))
            opened.set_refcount(end, 1)  # what the unknown feature has
        ctl.ctl(*[path if each == "IMAGE" else each for each in command.split()])
        with qcow2.Qcow2(path) as opened:
            check_equal(opened["autoclear_features"] & ~qcow2.AUTOCLEAR_BITMAPS, 0,
                        "the bits after " + command)
        write.check_clean(path, leaks=True)
        os.unlink(path)


@suite.test("an image that is dirty is repaired first")
def _(directory):
    path = plain(directory, lazy_refcounts="on")
    before = changed.digest(path)
    with qcow2.Qcow2(path) as opened:
        opened["incompatible_features"] = qcow2.DIRTY
        opened.set_refcount(opened["l1_table_offset"] // 65536, 0)
    amended(path, "compat=0.10")
    write.check_clean(path)
    check_equal(image.info(path)["format-specific"]["data"]["compat"], "0.10", "compat")
    changed.check_shown(path, before)


# --- names of other files ------------------------------------------------------------------------


def overlay(place):
    """An image upon base.qcow2, with other.raw, other.qcow2 and upon.qcow2 beside it."""
    for name, seed in (("base", 1), ("other", 2)):
        base = image.create(os.path.join(place, name + ".qcow2"), SIZE)
        image.io(base, image.write(0, SIZE, seed))
        image.to_raw(base, os.path.join(place, name + ".raw"))
    path = image.create(os.path.join(place, "image.qcow2"), SIZE, backing="base.qcow2",
                        backing_format="qcow2")
    image.io(path, image.write(MiB, MiB, 3), "write -q -z %d %d" % (2 * MiB, 64 * KiB))
    image.create(os.path.join(place, "upon.qcow2"), SIZE, backing="image.qcow2",
                 backing_format="qcow2")
    return path


@suite.test("another backing file, another format, none: as qemu-img rebase -u does it")
def _(directory):
    ours, theirs = changed.twins(directory, overlay)
    for name, kind in (("other.raw", "raw"), ("other.qcow2", "qcow2"), ("./base.raw", "raw"),
                       ("base.qcow2", "qcow2"), ("", "")):
        told = amended(ours, "backing_file=%s,backing_fmt=%s" % (name, kind))
        check("disk now shows as " + name in told if name else "reads as zeros" in told,
              "it said %r", told)
        tools.run("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", name,
                  *(["-F", kind] if kind else []), theirs)
        check_equal(changed.facts(ours), changed.facts(theirs), "the facts with " + name)
        write.check_clean(ours)
        check_equal(changed.digest(ours), changed.digest(theirs), "the disk with " + name)
        check_equal(qcow2_bytes_of_names(ours, "other.raw") if name != "other.raw" else 0, 0,
                    "bytes of an old name in the header")


def qcow2_bytes_of_names(path, name):
    with open(path, "rb") as file:
        return file.read(64 * KiB).count(name.encode())


@suite.test("a format of its own: recorded anew, and forgotten")
def _(directory):
    path = overlay(directory)
    amended(path, "backing_file=other.raw,backing_fmt=raw")
    amended(path, "backing_fmt=")
    check_equal(image.info(path).get("backing-filename-format"), None, "the format")
    amended(path, "backing_fmt=raw")
    check_equal(image.info(path)["backing-filename-format"], "raw", "the format")
    write.check_clean(path)


@suite.test("a backing file that has moved is recorded anew, though the image cannot be opened")
def _(directory):
    path = overlay(directory)
    before = changed.digest(path)
    os.mkdir(os.path.join(directory, "new place"))
    os.rename(os.path.join(directory, "base.qcow2"),
              os.path.join(directory, "new place", "base.qcow2"))
    ctl.refused("amend", "-o", "size=8M", path, words=("base.qcow2",), unchanged=[path])
    amended(path, "backing_file=new place/base.qcow2,backing_fmt=qcow2")
    changed.check_shown(path, before)


NAMES = (
    ("backing_file=none.qcow2,backing_fmt=qcow2", ("none.qcow2", "no such backing file", "-u")),
    ("backing_file=other.raw", ("other.raw", "backing_fmt=")),
    ("backing_file=other.raw,backing_fmt=qcow2", ("other.raw", "not a qcow2 image")),
    ("backing_file=other.qcow2,backing_fmt=raw", ("other.qcow2", "as raw", "-u")),
    ("backing_file=image.qcow2,backing_fmt=qcow2", ("cycle",)),
    ("backing_file=upon.qcow2,backing_fmt=qcow2", ("cycle", "upon.qcow2")),
    ("backing_file=other.raw,backing_fmt=vmdk", ("vmdk",)),
    ("backing_file=nbd:host:1,backing_fmt=raw", ("nbd:",)),
    ("backing_file=%s,backing_fmt=raw" % ("x" * 1024), ("1023",)),
    ("backing_file=other.raw,backing_fmt=raw,size=8M", ("by itself",)),
    ("backing_file=other.raw,backing_fmt=raw,compat=0.10", ("by itself",)),
    ("backing_file=,backing_fmt=raw", ("without a backing file",)),
    ("data_file=other.raw", ("external data file", "create")),
    ("data_file_raw=on", ("data_file_raw=on", "new image")),
)

for name_options, name_words in NAMES:
    def _(directory, options=name_options, words=name_words):
        path = overlay(directory)
        ctl.refused("amend", "-o", options, path, words=words, unchanged=[path])

    suite.test("refused: %s" % name_options[:60])(_)


@suite.test("with -u names are recorded without a look")
def _(directory):
    path = overlay(directory)
    amended(path, "backing_file=none.qcow2,backing_fmt=qcow2", "-u")
    with qcow2.Qcow2(path) as opened:
        check_equal(opened.backing_file(), b"none.qcow2", "the name")
    amended(path, "backing_file=other.qcow2,backing_fmt=raw", "--backing-unchecked")
    check_equal(image.info(path)["backing-filename-format"], "raw", "the format")
    ctl.refused("amend", "-u", "-o", "backing_file=%s,backing_fmt=raw" % ("x" * 1024), path,
                words=("1023",), unchanged=[path])


@suite.test("a data file that has moved is recorded anew", needs=[tools.DATA_FILE])
def _(directory):
    path = bad.sample("datafile", directory)
    before = changed.digest(path)
    ctl.refused("amend", "-o", "data_file=", path, words=("data_file=PATH",), unchanged=[path])
    new = os.path.join(directory, "moved.raw")
    os.rename(os.path.join(directory, "data.raw"), new)
    ctl.refused("amend", "-o", "data_file=none.raw", path, words=("none.raw",), unchanged=[path])
    ctl.refused("amend", "-o", "data_file=image.qcow2", path, words=("its own data file",),
                unchanged=[path])
    amended(path, "data_file=" + new)
    changed.check_shown(path, before)
    write.check_clean(path)


@suite.test("data_file_raw=off, as qemu-img does it, and a backing file afterwards",
            needs=[tools.DATA_FILE])
def _(directory):
    path = plain(directory, data_file=os.path.join(directory, "data.raw"), data_file_raw="on")
    before = changed.digest(path)
    image.sparse_raw(os.path.join(directory, "other.raw"), SIZE)
    ctl.refused("amend", "-o", "backing_file=other.raw,backing_fmt=raw", path,
                words=("raw data file", "data_file_raw=off"), unchanged=[path])
    amended(path, "data_file_raw=on")
    amended(path, "data_file_raw=off")
    check_equal(image.info(path)["format-specific"]["data"]["data-file-raw"], False, "the bit")
    changed.check_shown(path, before)
    write.check_clean(path)


# --- what cannot be -----------------------------------------------------------------------------

IMPOSSIBLE = (
    ("plain", "cluster_size=4k", ("cluster_size cannot be changed", "new image")),
    ("plain", "extended_l2=on", ("extended_l2 cannot be changed", "new image")),
    ("plain", "compression_type=zstd", ("compression_type cannot be changed", "new image")),
    ("plain", "preallocation=full", ("preallocation cannot be changed", "resize")),
    ("plain", "encryption=on", ("encryption cannot be changed",)),
    ("plain", "encrypt.format=luks", ("encryption", "cannot be changed")),
    ("plain", "compat=0.10,lazy_refcounts=on", ("lazy refcounts need", "add compat=1.1")),
    ("version2", "lazy_refcounts=on", ("lazy refcounts need", "add compat=1.1")),
    ("version2", "refcount_bits=8", ("8 bits", "compat=1.1")),
    ("plain", "refcount_bits=5", ("refcount_bits=5", "64 bits")),
    ("plain", "compat=0.10,refcount_bits=32", ("32 bits", "compat=1.1")),
    ("snapshots", "refcount_bits=1", ("referred to", "refcounts of 1 bits", "snapshots")),
    ("extended", "compat=0.10", ("extended L2", "compat=0.10")),
    ("datafile", "compat=0.10", ("external data file", "compat=0.10")),
    ("zstd", "compat=0.10", ("zstd", "compat=0.10")),
    ("bitmaps", "compat=0.10", ("2 persistent bitmaps", "compat=0.10", "(qcow2ctl bitmap --remove)")),
    ("aes", "compat=0.10", ("is encrypted",)),
)
NEEDS = {"zstd": [tools.ZSTD], "extended": [tools.EXTENDED_L2], "datafile": [tools.DATA_FILE]}

for kind, impossible, impossible_words in IMPOSSIBLE:
    def _(directory, kind=kind, options=impossible, words=impossible_words):
        path = bad.sample(kind, directory)
        # What no image can become is wrong whatever the image is.
        wrong = "cannot be changed" in words[0] or options in ("refcount_bits=3", "refcount_bits=5") or \
            options.startswith("encrypt")
        ctl.refused("amend", "-o", options, path, words=(path, *words), unchanged=[path],
                    status=64 if wrong else 1)

    suite.test("refused: %s, of the image '%s'" % (impossible, kind),
               needs=NEEDS.get(kind, ()))(_)

for usage, usage_words in ((("a",), ("-o NAME=VALUE",)), (("-o", "compat=1.1"), ("missing",)),
                           (("-o", "compat=1.2", "a"), ("1.2", "0.10")),
                           (("-o", "lazy_refcount=on", "a"), ("lazy_refcounts",)),
                           (("-o", "lazy_refcounts=perhaps", "a"), ("perhaps", "on nor off")),
                           (("-o", "refcount_bits=128", "a"), ("128", "64")),
                           (("-o", "size=-1", "a"), ("size=-1",)),
                           (("-o", "compat=1.1", "a", "b"), ("'b'",))):
    def _(directory, arguments=usage, words=usage_words):
        with open(os.path.join(directory, "a"), "wb"):
            pass
        ctl.refused("amend", *arguments, words=words, status=64, cwd=directory)

    suite.test("a usage error: amend %s" % " ".join(usage))(_)


@suite.test("a corrupt image, and one whose refcounts do not add up, are refused")
def _(directory):
    path = plain(directory)
    snapshot(path, "one")
    with qcow2.Qcow2(path) as opened:
        opened.set_refcount(opened["l1_table_offset"] // 65536, 0)
    for options in ("compat=0.10", "refcount_bits=8,compat=0.10"):
        ctl.refused("amend", "-o", options, path, words=(path,), unchanged=[path])
    ctl.refused("amend", "-o", "compat=0.10", path, words=("damaged", "check --repair=all"))
    with qcow2.Qcow2(path) as opened:
        opened["incompatible_features"] = qcow2.CORRUPT
    ctl.refused("amend", "-o", "lazy_refcounts=on", path, words=(path, "marked corrupt"),
                unchanged=[path])


@suite.test("where a cluster in use is counted as free nothing is allocated; a header may change")
def _(directory):
    path = plain(directory)
    before = changed.digest(path)
    with qcow2.Qcow2(path) as opened:
        host_offset = opened.l2_entry(3 * 64 * KiB) & ~(1 << 63)
        opened.set_refcount(host_offset, 0)
    for options in ("size=2G", "size=2G,refcount_bits=8", "size=2G,compat=0.10", "compat=0.10"):
        ctl.refused("amend", "-o", options, path, words=("check --repair",), unchanged=[path])
    amended(path, "lazy_refcounts=on")
    changed.check_shown(path, before)
    amended(path, "refcount_bits=8,lazy_refcounts=off")  # all are counted anew
    write.check_clean(path)
    amended(path, "size=8M")
    write.check_clean(path)
    check(changed.digest(path)[None] == before[None] + bytes(8 * MiB - SIZE),
          "the disk shows other bytes")


@suite.test("header fields that cannot be give one sentence, and change nothing")
def _(directory):
    for kind in ("plain", "snapshots", "backing"):
        for name in ("version", "cluster_bits", "virtual_size", "l1_size", "l1_table_offset",
                     "refcount_table_offset", "refcount_table_clusters", "nb_snapshots",
                     "snapshots_offset", "backing_file_offset", "refcount_order",
                     "header_length", "incompatible_features"):
            if name == "snapshots_offset" and kind != "snapshots":
                continue  # means nothing without snapshots
            path = bad.sample(kind, directory)
            with qcow2.Qcow2(path) as opened:
                opened[name] = 0x7FFF0001
            ctl.refused("amend", "-o", "compat=0.10,size=8M", path, words=(path,),
                        unchanged=[path])


@suite.test("an image that another program has open is refused, and the program named")
def _(directory):
    path = plain(directory)
    with bad.held(path):
        ctl.refused("amend", "-o", "lazy_refcounts=on", path, words=(path, "qemu-io (pid "),
                    unchanged=[path])


@suite.test("a mounted image is refused, and the daemon named", needs=[tools.fuse])
def _(directory):
    path = plain(directory)
    with mount.mount(path):
        ctl.refused("amend", "-o", "lazy_refcounts=on", path, words=(path, "qcow2fs (pid "),
                    unchanged=[path])


# --- kill -9 --------------------------------------------------------------------------------------


def killed(sentence, make, options, *passing, needs=()):
    """Cut off everywhere, the image has the old facts, those of the whole change, or, where it
    is several, `passing` ones (options which lead to them); it shows what it did all the time."""
    @suite.test("killed at any moment: %s" % sentence, needs=[changed.STRACE, *needs])
    def _(directory):
        known = {}

        def remember(place):
            path = make(place)
            known["shown"] = changed.digest(path)
            known["facts"] = [changed.facts(path)]
            for each in (*passing, options):
                copy = write.copy_image(path, path + ".then")
                ctl.ctl("amend", "-q", "-o", each, copy)
                known["facts"].append(changed.facts(copy))
                os.unlink(copy)
            return path

        def judge(path, done=False):
            facts = changed.facts(path)
            check(facts == known["facts"][-1] if done else facts in known["facts"],
                  "its facts are %s", facts)
            changed.check_shown(path, known["shown"])

        changed.cut_off(directory, remember, lambda path: ["amend", "-q", "-o", options, path],
                        judge)


def few(place, base=None, **options):
    """A small image with zero clusters in the disk and two snapshots."""
    behind = {}
    if base is not None:
        image.sparse_raw(os.path.join(place, "base.raw"), base)
        behind = {"backing": "base.raw", "backing_format": "raw"}
    path = image.create(os.path.join(place, "image.qcow2"), 256 * KiB, cluster_size="16k",
                        **behind, **options)
    image.io(path, image.write(0, 64 * KiB, 1), "write -q -z 16k 16k", "write -q -z -u 128k 16k")
    if options.get("compat") != "0.10":
        snapshot(path, "one")
        snapshot(path, "two")
        image.io(path, "write -q -z 32k 16k")
    return path


killed("down", few, "compat=0.10")
killed("down, over a backing file", lambda place: few(place, base=256 * KiB), "compat=0.10")
killed("up, with snapshots that have no extra data", old_snapshots, "compat=1.1,lazy_refcounts=on")
killed("other refcounts", few, "refcount_bits=64")
killed("a backing file less", lambda place: few(place, compat="0.10"), "compat=1.1,refcount_bits=8",
       "compat=1.1")

if __name__ == "__main__":
    suite.main()
