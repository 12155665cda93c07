#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""qcow2ctl resize, with qemu-img resize beside it: sizes, refusals, preallocation, kill -9."""

import json
import os
import resource

from lib import bad, changed, ctl, image, mount, qcow2, tap, tools, write
from lib.bitmaps import bitmaps
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.QEMU])
OLD = bad.SIZE


def size_of(path):
    return image.info(path)["virtual-size"]


def bytes_of(path):
    return changed.digest(path)[None]


# --- the same as qemu-img ---------------------------------------------------------------------

# SIZE, and the size that comes of it
SIZES = (("+1M", OLD + MiB), ("3M", 3 * MiB), ("+512", OLD + 512), ("1.5G", 1536 * MiB),
         ("-1M", OLD - MiB), ("1536k", 1536 * KiB), ("-512", OLD - 512), ("512", 512),
         ("+0", OLD), ("2097152", OLD))

KINDS = ("plain", "version2", "small", "zstd", "extended", "backing")


def same(kind):
    @suite.test("resized as qemu-img does it: %s" % kind,
                needs={"zstd": [tools.ZSTD], "extended": [tools.EXTENDED_L2]}.get(kind, ()))
    def _(directory):
        kept = bad.sample(kind, directory)
        for number, (size, expected) in enumerate(SIZES):
            paths = []
            for name in ("ours", "theirs"):
                place = os.path.join(directory, "%s-%d" % (name, number))
                os.mkdir(place)
                for other in os.listdir(directory):
                    if os.path.isfile(os.path.join(directory, other)):
                        write.copy_image(os.path.join(directory, other),
                                         os.path.join(place, other))
                paths.append(os.path.join(place, os.path.basename(kept)))
            ours, theirs = paths
            told = ctl.ctl("resize", "-f", "qcow2", "--shrink", ours, size).stdout
            check(told.startswith("Image resized.") and told.count("\n") == 1
                  and str(expected) in told, "it said %r", told)
            tools.run("qemu-img", "resize", "-q", "-f", "qcow2", "--shrink", theirs, size)
            check_equal(size_of(ours), expected, "the size after " + size)
            check_equal(changed.facts(ours), changed.facts(theirs), "the facts after " + size)
            write.check_clean(ours)
            tools.run("qemu-img", "compare", "-q", "-f", "qcow2", "-F", "qcow2", ours, theirs)


for each in KINDS:
    same(each)


@suite.test("snapshots keep their size and show what they did, whatever becomes of the disk")
def _(directory):
    path = bad.sample("snapshots", directory)
    before = changed.digest(path)
    for size in ("+3M", "-4M", "+100k"):
        ctl.ctl("resize", "-q", "--shrink", path, size)
        write.check_clean(path)
    for name in changed.snapshots(path):
        copy = write.copy_image(path, path + ".copy")
        tools.run("qemu-img", "snapshot", "-a", name, copy)
        check_equal(size_of(copy), OLD, "the size of snapshot " + name)
        check(bytes_of(copy) == before[name], "snapshot %s shows something else", name)


@suite.test("what a disk gains reads as zeros, also where the backing file is longer, in each "
            "version")
def _(directory):
    image.sparse_raw(os.path.join(directory, "base.raw"), 4 * MiB, pieces=40)
    for level in ("1.1", "0.10"):
        for size in (MiB, MiB + 512, 100 * KiB + 512):
            path = image.create(os.path.join(directory, "a.qcow2"), size, backing="base.raw",
                                backing_format="raw", compat=level)
            before = bytes_of(path)
            for larger in (size + 512, 2 * MiB, 5 * MiB):
                ctl.ctl("resize", "-q", path, str(larger))
                check(bytes_of(path) == before + bytes(larger - size),
                      "%d bytes, then %d: not zeros", size, larger)
            write.check_clean(path)
            os.unlink(path)


@suite.test("what a smaller disk has lost does not come back when it grows")
def _(directory):
    for kind in ("plain", "version2", "small", "extended"):
        path = bad.sample(kind, directory)
        image.io(path, image.write(0, OLD, 5))
        before = bytes_of(path)
        for size in (MiB, MiB - 512, 77 * KiB + 512):
            ctl.ctl("resize", "-q", "--shrink", path, str(size))
            ctl.ctl("resize", "-q", path, str(OLD))
            check(bytes_of(path) == before[:size] + bytes(OLD - size), "%s: old data shows", kind)
        write.check_clean(path)
        os.unlink(path)


@suite.test("what a cut-off shrink of another program left behind the end does not show")
def _(directory):
    path = bad.sample("plain", directory)
    image.io(path, image.write(0, OLD, 5))
    before = bytes_of(path)
    with qcow2.Qcow2(path) as opened:
        opened["virtual_size"] = MiB
    ctl.ctl("resize", "-q", path, "2M")
    check(bytes_of(path) == before[:MiB] + bytes(MiB), "old data shows")
    write.check_clean(path)


@suite.test("an external data file follows the disk when it is raw, and is long enough otherwise",
            needs=[tools.DATA_FILE])
def _(directory):
    for raw in ("on", "off"):
        data = os.path.join(directory, "data-%s.raw" % raw)
        path = image.create(os.path.join(directory, "a.qcow2"), OLD, data_file=data,
                            data_file_raw=raw)
        image.io(path, image.write(0, OLD, 2))
        before = bytes_of(path)
        for size in (3 * MiB, MiB, 2 * MiB):
            ctl.ctl("resize", "-q", "--shrink", path, str(size))
            check(os.path.getsize(data) >= size, "the data file is too short")
            check(raw == "off" or os.path.getsize(data) == size, "the data file is no raw disk")
            check(bytes_of(path) == before[:MiB] + (before[MiB:OLD] + bytes(MiB)
                                                    if size == 3 * MiB else bytes(size - MiB)),
                  "%s: the disk shows something else", raw)
        write.check_clean(path)
        os.unlink(path)


@suite.test("a huge disk is no more work than a small one")
def _(directory):
    path = bad.sample("plain", directory)
    for size in ("100T", "2P", "64T"):
        ctl.ctl("resize", "-q", "--shrink", path, size)
    check_equal(size_of(path), 64 << 40, "the size")
    write.check_clean(path)


@suite.test("an image with lazy refcounts, and one that is marked dirty")
def _(directory):
    path = image.create(os.path.join(directory, "a.qcow2"), OLD, lazy_refcounts="on")
    image.io(path, image.write(0, OLD, 3))
    before = bytes_of(path)
    ctl.ctl("resize", "-q", path, "+1M")
    write.check_clean(path)
    with qcow2.Qcow2(path) as opened:
        opened["incompatible_features"] = qcow2.DIRTY
        opened.set_refcount(opened["l1_table_offset"] // 65536, 0)
    ctl.ctl("resize", "-q", path, "+1M")
    write.check_clean(path)
    check(bytes_of(path) == before + bytes(2 * MiB), "the disk shows something else")
    check_equal(image.info(path)["dirty-flag"], False, "the dirty bit")


# --- preallocation ------------------------------------------------------------------------------

for how in ("off", "metadata", "falloc", "full"):
    def _(directory, how=how):
        image.sparse_raw(os.path.join(directory, "base.raw"), 6 * MiB)
        for options in ({}, {"compat": "0.10"}, {"cluster_size": "4k"},
                        {"backing": "base.raw", "backing_format": "raw"}):
            path = image.create(os.path.join(directory, "a.qcow2"), 3 * MiB + 512, **options)
            before = bytes_of(path)
            ctl.ctl("resize", "-q", "--preallocation=" + how, path, "+4M")
            check(bytes_of(path) == before + bytes(4 * MiB), "%s: not zeros", options)
            write.check_clean(path)
            placed = sum(extent.length for extent in image.allocation_map(path)
                         if extent.offset is not None and extent.depth == 0)
            check(how == "off" or placed >= 4 * MiB, "%s: %d bytes have a place", options, placed)
            taken = os.stat(path).st_blocks * 512
            if how in ("falloc", "full"):
                check(taken >= 4 * MiB, "%s: the host has %d bytes for it", options, taken)
            os.unlink(path)

    suite.test("what is gained is preallocated, and reads as zeros: %s" % how)(_)


def written_by(function):
    """Bytes that the programs it has run have written to files."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_oublock
    function()
    return (resource.getrusage(resource.RUSAGE_CHILDREN).ru_oublock - before) * 512


def occupied(*paths):
    image.settle(*paths)
    return sum(os.stat(path).st_blocks * 512 for path in paths)


def as_much_space(how, name, **options):
    @suite.test("preallocation takes as much of the host's space as QEMU's: %s, %s" % (how, name))
    def _(directory):
        taken = []
        for who in "ours", "theirs":
            place = os.path.join(directory, who)
            os.mkdir(place)
            data = [os.path.join(place, "data.raw")] if "data" in name else []
            path = image.create(os.path.join(place, "a.qcow2"), 4 * MiB, **options,
                                **({"data_file": data[0]} if data else {}))
            arguments = "resize", "-q", "--preallocation=" + how
            if who == "ours":
                written = written_by(lambda path=path: ctl.ctl(*arguments, path, "100M"))
            else:
                tools.run("qemu-img", *arguments, "-f", "qcow2", path, "100M")
            taken.append(occupied(path, *data))
            write.check_clean(path)
            check(bytes_of(path) == bytes(100 * MiB), "%s: not zeros", who)
        check(abs(taken[0] - taken[1]) < MiB, "%d bytes, and QEMU %d", *taken)
        check(how == "full" or written < 4 * MiB, "%d bytes were written", written)


for how in ("metadata", "falloc", "full"):
    as_much_space(how, "clusters of 64 KiB")
    as_much_space(how, "extended L2 entries", extended_l2="on")
    as_much_space(how, "a data file")


@suite.test("where clusters that are free are used again, there are holes")
def _(directory):
    path = image.create(os.path.join(directory, "a.qcow2"), 32 * MiB)
    image.io(path, image.write(0, 32 * MiB, 1))
    ctl.ctl("resize", "-q", "--shrink", path, "1M")
    ctl.ctl("resize", "-q", "--preallocation=metadata", path, "100M")
    write.check_clean(path)
    check(bytes_of(path)[MiB:] == bytes(99 * MiB), "not zeros")
    check(occupied(path) < 4 * MiB, "the host has %d bytes for it", occupied(path))


@suite.test("preallocation in a data file")
def _(directory):
    data = os.path.join(directory, "data.raw")
    path = image.create(os.path.join(directory, "a.qcow2"), MiB, data_file=data)
    for how in ("metadata", "falloc", "full"):
        ctl.ctl("resize", "-q", "--preallocation=" + how, path, "+1M")
    write.check_clean(path)
    check_equal(os.path.getsize(data), 4 * MiB, "the length of the data file")
    check(os.stat(data).st_blocks * 512 >= 2 * MiB, "it was not preallocated")
    check(bytes_of(path) == bytes(4 * MiB), "not zeros")


@suite.test("a host without the space for it leaves the disk as it was", needs=[tools.loop])
def _(directory):
    with write.small_host(directory, 8 * MiB) as place:
        path = image.create(os.path.join(place, "a.qcow2"), MiB)
        for how in ("falloc", "full"):
            told = ctl.ctl("resize", "--preallocation=" + how, path, "+100M", status=1).stderr
            check("could not be given" in told and "No space" in told, "it said %r", told)
            check_equal(size_of(path), MiB, "the size")
            write.check_clean(path, leaks=True)


# --- refusals -----------------------------------------------------------------------------------

REFUSED = (
    ("1M", ("2097152", "from byte 1048576 on", "--shrink", "there is data from byte 1048576")),
    ("-512", ("from byte 2096640 on", "--shrink")),
    ("0", ("at least 512",)), ("-2M", ("at least 512",)), ("-9G", ("at least 512",)),
    ("1000", ("1000 bytes", "512", "1024")), ("+1", ("2097153", "2097664")),
    ("3P", ("at most 2 PiB", "cluster_size")), ("+7E", ("at most 2 PiB",)),
    ("9223372036854775807", ("at most 2 PiB",)),
)

for refused_size, refused_words in REFUSED:
    def _(directory, size=refused_size, words=refused_words):
        path = bad.sample("plain", directory)
        image.io(path, image.write(MiB, MiB, 1))
        ctl.refused("resize", path, size, words=(path, *words), unchanged=[path])
        tools.run("qemu-img", "resize", "-f", "qcow2", path, size, status=1)

    suite.test("refused: %s of 2 MiB" % refused_size)(_)

for usage, usage_words in ((("a",), ("missing", "SIZE")), (("a", "1M", "2M"), ("'2M'", "too many")),
                           (("a", "lots"), ("'lots'", "suffix")), (("a", ""), ("''",)),
                           (("a", "8E"), ("8E", "2^63")), (("a", "++1M"), ("'++1M'",)),
                           (("a", "--preallocation=all", "1M"), ("all", "falloc")),
                           (("a", "--shrinc", "1M"), ("--shrink",)),
                           (("-f", "raw", "a", "1M"), ("raw", "qcow2"))):
    def _(directory, arguments=usage, words=usage_words):
        ctl.refused("resize", *arguments, words=words, status=64, cwd=directory)

    suite.test("a usage error: resize %s" % " ".join(usage))(_)


@suite.test("where no data would be lost, the refusal says that")
def _(directory):
    path = image.create(os.path.join(directory, "a.qcow2"), 2 * MiB)
    ctl.refused("resize", path, "1M", words=("no data lies there", "--shrink"), unchanged=[path])


@suite.test("only a growing disk is preallocated, as by qemu-img")
def _(directory):
    path = bad.sample("plain", directory)
    ctl.refused("resize", "--shrink", "--preallocation=full", path, "1M",
                words=("--preallocation",), unchanged=[path])
    tools.run("qemu-img", "resize", "--shrink", "--preallocation=full", path, "1M", status=1)


@suite.test("snapshots in version 2 are in the way, and the sentence says how to go on")
def _(directory):
    path = image.create(os.path.join(directory, "a.qcow2"), 2 * MiB, compat="0.10")
    tools.run("qemu-img", "snapshot", "-c", "one", path)
    for size in ("3M", "1M"):
        ctl.refused("resize", "--shrink", path, size, words=("snapshots", "amend -o compat=1.1"),
                    unchanged=[path])
        tools.run("qemu-img", "resize", "--shrink", path, size, status=1)
    ctl.ctl("amend", "-q", "-o", "compat=1.1", path)
    ctl.ctl("resize", "-q", path, "3M")
    write.check_clean(path)


@suite.test("bitmaps get the size of the disk")
def _(directory):
    path = bad.sample("bitmaps", directory)
    before = bitmaps(path)
    check_equal(ctl.ctl("resize", path, "3M").stderr, "", "what it said")
    check_equal(size_of(path), 3 * MiB, "the size")
    check_equal(bitmaps(path), before, "the bitmaps")
    write.check_clean(path)


@suite.test("an image that another program has open is refused, and the program named")
def _(directory):
    path = bad.sample("plain", directory)
    with bad.held(path):
        ctl.refused("resize", path, "3M", words=(path, "qemu-io (pid "), unchanged=[path])
    with bad.held(path, "-r"):
        ctl.refused("resize", path, "3M", words=(path, "qemu-io (pid "), unchanged=[path])


@suite.test("a mounted image is refused, and the daemon named", needs=[tools.fuse])
def _(directory):
    path = bad.sample("plain", directory)
    with mount.mount(path):
        ctl.refused("resize", path, "3M", words=(path, "qcow2fs (pid "), unchanged=[path])


@suite.test("a corrupt image, no image, no file, a directory: one sentence")
def _(directory):
    path = bad.sample("plain", directory)
    with qcow2.Qcow2(path) as opened:
        opened["incompatible_features"] = qcow2.CORRUPT
    ctl.refused("resize", path, "3M", words=(path, "marked corrupt"), unchanged=[path])
    os.unlink(path)
    raw = image.sparse_raw(os.path.join(directory, "raw"), MiB)
    ctl.refused("resize", raw, "3M", words=(raw, "not a qcow2 image"), unchanged=[raw])
    ctl.refused("resize", os.path.join(directory, "none"), "3M", words=("none", "no such image"))
    ctl.refused("resize", directory, "3M", words=(directory, "directory"))


# --- kill -9 --------------------------------------------------------------------------------------


def killed(sentence, make, arguments, old, new, needs=()):
    """The command is cut off everywhere: the disk has the old or the new size, and its bytes."""
    @suite.test("killed at any moment: %s" % sentence, needs=[changed.STRACE, *needs])
    def _(directory):
        before = {}

        def remember(place):
            path = make(place)
            before["bytes"] = bytes_of(path)
            return path

        def judge(path, done=False):
            size = size_of(path)
            check(size == new or (size == old and not done), "it has %d bytes", size)
            check(bytes_of(path) == before["bytes"][:size] + bytes(max(0, size - old)),
                  "the disk shows something else")

        changed.cut_off(directory, remember,
                        lambda path: ["resize", "-q", *arguments, path, str(new)], judge)


def small(place):
    path = image.create(os.path.join(place, "a.qcow2"), MiB, cluster_size="512")
    image.io(path, image.write(0, MiB, 4))
    return path


def on_longer(place):
    image.sparse_raw(os.path.join(place, "base.raw"), 3 * MiB)
    path = image.create(os.path.join(place, "a.qcow2"), MiB + 512, backing="base.raw",
                        backing_format="raw")
    image.io(path, image.write(MiB - 64 * KiB, 64 * KiB, 4))
    return path


killed("growing, with another L1 table", small, [], MiB, 80 * MiB)
killed("growing over a longer backing file", on_longer, [], MiB + 512, 4 * MiB)
killed("shrinking", small, ["--shrink"], MiB, 300 * KiB)
killed("growing and preallocating", on_longer, ["--preallocation=full"], MiB + 512, 2 * MiB)


@suite.test("--json: what was done on standard output; errors and usage errors on standard error")
def _(directory):
    path = bad.sample("plain", directory)
    size = json.loads(ctl.ctl("info", "--json", path).stdout)["virtual-size"]
    told = json.loads(ctl.ctl("resize", "--json", path, "+1M").stdout)
    check_equal((told["filename"], told["virtual-size"], told["previous-virtual-size"]),
                (path, size + MiB, size), "resize --json")
    check_equal(ctl.ctl("resize", "--output=json", "-q", path, "+1M").stdout, "", "with -q")
    told = json.loads(ctl.ctl("amend", "--json", "-o", "lazy_refcounts=on", path).stdout)
    check_equal((told["filename"], told["amended"]), (path, {"lazy-refcounts": True}),
                "amend --json")
    missing = os.path.join(directory, "missing")
    for arguments in (("resize", missing, "1M"), ("amend", "-o", "compat=1.1", missing),
                      ("info", missing), ("check", missing), ("map", missing),
                      ("create", missing + "/a", "1M")):
        done = ctl.ctl(arguments[0], "--json", *arguments[1:], status=1)
        told = json.loads(done.stderr)
        check(missing in told["error"] and told["errno"] > 0, "it says %r", told)
        check_equal((done.stdout, told["status"]), ("", 1), "standard output, and the status")
    for arguments in (("resize", path, "abc"), ("amend", path), ("info",), ("check", "--bogus"),
                      ("map", "-f", "raw", path), ("create", missing), ("create", missing, "abc"),
                      ("create", "-o", "cluster_size=3", missing, "1M"), ("check", "--repair=x")):
        for how in (("--json",), ("--output", "json"), ()):
            done = ctl.ctl(arguments[0], *arguments[1:], *how, status=64)
            check(not how or json.loads(done.stderr)["status"] == 64, "%r", done.stderr)
            check(how or done.stderr.startswith("qcow2ctl: "), "%r", done.stderr)


@suite.test("no hint of an option that resize has not")
def _(directory):
    path = bad.sample("plain", directory)
    with bad.held(path):
        told = ctl.refused("resize", path, "+1M", words=[path, "close it first"])
        check("-U" not in told, "it says %s", told)


if __name__ == "__main__":
    suite.main()
