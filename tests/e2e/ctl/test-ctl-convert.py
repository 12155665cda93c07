#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""qcow2ctl convert: copies that qemu-img finds in order and equal, and nothing half made."""

import json
import os
import random
import shutil
import signal
import stat

from lib import bad, compare, ctl, image, mount, qcow2, run, tap, tools, write
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.QEMU])
SIZE = 6 * MiB + 3 * KiB


def convert(*arguments, status=0, **keywords):
    return ctl.ctl("convert", *arguments, status=status, **keywords)


def mixed_raw(path, size=SIZE, seed=1):
    """Holes, zeros that are written, what compresses and what does not. Returns its path."""
    generator = random.Random(seed)
    with open(path, "wb") as file:
        file.truncate(size)
        for number in range(24):
            length = generator.choice((512, 4 * KiB, 70 * KiB, 300 * KiB))
            at = generator.randrange(0, size - length, 512)
            file.seek(at)
            file.write((generator.randbytes(length), b"line %06d\n" % number * (length // 12),
                        bytes(length))[number % 3])
        file.seek(size - 700)
        file.write(b"the end" * 100)
    return path


def check_image(path, raw):
    """Fails unless the image is in order, without leaks, and its disk is the raw file."""
    for command in (["qemu-img", "check", "-q", "-f", "qcow2", path],
                    ["qemu-img", "compare", "-q", "-f", "raw", "-F", "qcow2", raw, path]):
        tools.run(*command)
    check_equal(ctl.ctl("check", "-q", path).stdout, "", "what check says")


def extents(path, *arguments):
    return json.loads(ctl.ctl("map", "--json", *arguments, path).stdout)


def qemu_equal(first, second, first_format="qcow2", second_format="qcow2"):
    tools.run("qemu-img", "compare", "-q", "-f", first_format, "-F", second_format, first, second)


def written_bytes(path):
    """How much of the host file was written, and not only reserved."""
    return sum(end - start for start, end in image.host_data(path))


# --- what is copied ------------------------------------------------------------------------


@suite.test("every kind of image is copied to raw and to qcow2, as qemu-img reads it")
def _(directory):
    for kind in sorted(set(bad.MAKERS) - {"luks", "aes"}):
        place = os.path.join(directory, kind)
        os.mkdir(place)
        path = bad.sample(kind, place)
        before = compare.sha256(path)
        raw = os.path.join(place, "copy.raw")
        convert("-f", "qcow2", "-O", "raw", path, raw)
        compare.check_files(raw, image.to_raw(path, os.path.join(place, "expected.raw")))
        copy = os.path.join(place, "copy.qcow2")
        check_equal(convert("-c", path, copy).stdout, "", "what is said")
        check_image(copy, raw)
        check_equal(compare.sha256(path), before, "the image, afterwards,")


TARGETS = (
    {}, {"cluster_size": "512"}, {"cluster_size": "2M"}, {"compat": "0.10"},
    {"refcount_bits": "1"}, {"refcount_bits": "64", "cluster_size": "512"},
    {"refcount_bits": "2", "cluster_size": "4k"}, {"lazy_refcounts": "on"},
    {"compression_type": "zstd", "cluster_size": "16k"}, {"extended_l2": "on"},
    {"extended_l2": "on", "cluster_size": "16k", "compression_type": "zstd"},
)


@suite.test("every kind of qcow2 image can be the target, compressed or not",
            needs=[tools.ZSTD, tools.EXTENDED_L2])
def _(directory):
    raw = mixed_raw(os.path.join(directory, "raw"))
    path, back = (os.path.join(directory, name) for name in ("copy.qcow2", "back.raw"))
    for options in TARGETS:
        listed = ["-o", ",".join("%s=%s" % item for item in options.items())] if options else []
        sizes = []
        for flags in ([], ["-c"]):
            convert(*flags, "-f", "raw", "-O", "qcow2", *listed, raw, path)
            check_image(path, raw)
            sizes.append(os.path.getsize(path))
            kinds = {extent["compressed"] for extent in extents(path)}
            check_equal(True in kinds, bool(flags), "compressed clusters with %r" % options)
            convert("-O", "raw", path, back)
            compare.check_files(back, raw)
        # With counts of one bit no two can share a cluster; in 512 bytes there is little to gain.
        check(sizes[1] < sizes[0] or options.get("cluster_size") == "512" or
              sizes[1] == sizes[0] and options.get("refcount_bits") == "1",
              "%r: compressed %d bytes, plain %d", options, sizes[1], sizes[0])
        specific = image.info(path)["format-specific"]["data"]
        check_equal(specific["compat"], options.get("compat", "1.1"), "compat")
        check_equal(str(specific["refcount-bits"]), options.get("refcount_bits", "16"),
                    "refcount bits")


@suite.test("a copy is not larger than qemu-img's by more than 2 percent and two clusters",
            needs=[tools.ZSTD])
def _(directory):
    raw = bad.compressible_raw(os.path.join(directory, "raw"), 8 * MiB)
    ours, theirs = (os.path.join(directory, name) for name in ("ours", "theirs"))
    for options in ([], ["-c"], ["-c", "-o", "compression_type=zstd"],
                    ["-c", "-o", "cluster_size=4k"]):
        convert(*options, raw, ours)
        tools.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options, raw, theirs)
        image.settle(ours, theirs)
        for size in (lambda path: os.stat(path).st_size, lambda path: os.stat(path).st_blocks * 512):
            check(size(ours) <= size(theirs) * 1.02 + 128 * KiB, "%r: %d bytes, qemu-img has %d",
                  options, size(ours), size(theirs))


@suite.test("many refcount blocks and L2 tables are written, with data that is shared between them")
def _(directory):
    raw = bad.compressible_raw(os.path.join(directory, "raw"), 3 * MiB)
    with open(raw, "r+b") as file:  # an image of some MiB, and far behind it some more
        file.truncate(40 * MiB)
        file.seek(39 * MiB)
        file.write(random.Random(3).randbytes(MiB - 100))
    path = os.path.join(directory, "image")
    for flags in ([], ["-c"]):
        convert(*flags, "-o", "cluster_size=512,refcount_bits=64", raw, path)
        check_image(path, raw)


@suite.test("a data file holds the data, and a raw one is the disk")
def _(directory):
    raw = mixed_raw(os.path.join(directory, "raw"))
    for name, more in (("plain", ""), ("raw", ",data_file_raw=on")):
        path, data = (os.path.join(directory, name + end) for end in (".qcow2", ".data"))
        convert("-o", "data_file=%s%s" % (data, more), raw, path)
        check_image(path, raw)
        if more:
            with open(data, "rb") as file, open(raw, "rb") as expected:
                check(file.read().rstrip(b"\0") == expected.read().rstrip(b"\0"),
                      "the data file is not the disk")
    ctl.refused("convert", "-c", "-o", "data_file=x", raw, path, words=["-c", "data_file"],
                status=64)


@suite.test("a snapshot is copied by its name, its ID, and as qemu-img calls them")
def _(directory):
    path = bad.sample("snapshots", directory)
    expected = os.path.join(directory, "expected.raw")
    tools.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", "-l", "second", path, expected)
    for wanted in ("second", "2", "snapshot.name=second", "snapshot.id=2"):
        copy = os.path.join(directory, "copy.qcow2")
        convert("-l", wanted, path, copy)
        check_image(copy, expected)
    ctl.refused("convert", "-l", "fourth", path, os.path.join(directory, "new"),
                words=[path, "'fourth'"], unchanged=[path])


# --- zeros ------------------------------------------------------------------------------------


@suite.test("holes and zeros take no place, unless -S says so")
def _(directory):
    raw = os.path.join(directory, "raw")
    with open(raw, "wb") as file:
        file.truncate(8 * MiB)
        file.write(bytes(MiB) + b"x" * 64 * KiB)  # zeros that are written
        file.seek(4 * MiB)
        file.write(b"y" * 4096 + bytes(8192) + b"z" * 4096)
    path, back = (os.path.join(directory, name) for name in ("copy.qcow2", "back.raw"))
    for zeros, data in ((None, [(MiB, 64 * KiB), (4 * MiB, 64 * KiB)]), ("0", [(0, 8 * MiB)]),
                        ("64k", [(MiB, 64 * KiB), (4 * MiB, 64 * KiB)])):
        flags = [] if zeros is None else ["-S", zeros]
        convert(*flags, raw, path)
        check_image(path, raw)
        found = [(extent["start"], extent["length"]) for extent in extents(path) if extent["data"]]
        check_equal(found, data, "the data of the copy with -S %s" % zeros)
        convert(*flags, "-O", "raw", path, back)
        compare.check_files(back, raw)
    for zeros, blocks in (("4k", 64 * KiB + 8 * KiB), ("0", 8 * MiB)):
        convert("-S", zeros, "-O", "raw", path, back)
        compare.check_files(back, raw)
        image.settle(back)
        check_equal(written_bytes(back), blocks,
                    "bytes of the raw copy with -S %s" % zeros)


def check_places(path, mode, size):
    """Fails unless each cluster of the disk has a place in the file, and the host what is said."""
    found = json.loads(tools.output("qemu-img", "map", "--output=json", path))
    check(all("offset" in extent for extent in found), "no place: %r", found)
    places = sorted(extent["offset"] for extent in found)
    check_equal([extent["offset"] for extent in found], places, "the order of the places")
    image.settle(path)
    occupied = os.stat(path).st_blocks * 512
    check(occupied < 3 * MiB if mode == "metadata" else occupied >= size,
          "%s: %d bytes of the host", mode, occupied)
    if mode == "full":
        check(written_bytes(path) >= size, "%d bytes were written", written_bytes(path))


@suite.test("preallocated, each cluster has its place, and the host's space", needs=[tools.EXTENDED_L2])
def _(directory):
    raw, path, back = (os.path.join(directory, name) for name in ("raw", "copy.qcow2", "back"))
    with open(raw, "wb") as file:
        file.truncate(SIZE)
        for at in (64 * KiB, 3 * MiB + 4096, SIZE - 700):
            file.seek(at)
            file.write(b"data" * 175)
    for number, options in enumerate(("", "cluster_size=512", "extended_l2=on", "compat=0.10")):
        for mode in ("metadata", "falloc", "full")[:3 if number != 1 else 2]:
            given = ",".join(filter(None, (options, "preallocation=" + mode)))
            convert("-o", given, raw, path)
            check_image(path, raw)
            if options != "extended_l2=on":  # what is not there yet has no offset to be told
                check_places(path, mode, SIZE)
            image.settle(path)
            check(mode == "metadata" or os.stat(path).st_blocks * 512 >= SIZE, "%s: space", given)
    for mode in ("falloc", "full"):
        convert("-O", "raw", "-o", "preallocation=" + mode, path, back)
        compare.check_files(back, raw)
        image.settle(back)
        check(os.stat(back).st_blocks * 512 >= SIZE, "%s: space of a raw file", mode)
    check_equal(written_bytes(back), SIZE, "bytes of a raw file that were written")


@suite.test("a preallocated data file is reserved or written, and above a base nothing hides it",
            needs=[tools.EXTENDED_L2])
def _(directory):
    raw = mixed_raw(os.path.join(directory, "raw"))
    path, data = (os.path.join(directory, name) for name in ("copy.qcow2", "data"))
    for more in ("", ",data_file_raw=on", ",extended_l2=on,data_file_raw=on"):
        for mode in ("metadata", "falloc", "full"):
            convert("-o", "data_file=%s%s,preallocation=%s" % (data, more, mode), raw, path)
            check_image(path, raw)
            check_equal(os.path.getsize(data), SIZE + (-SIZE % 512), "the data file's size")
            image.settle(data)
            check(mode == "metadata" or os.stat(data).st_blocks * 512 >= SIZE, "%s: no space", mode)
    base = shutil.copyfile(raw, os.path.join(directory, "base.raw"))
    with open(base, "r+b") as file:  # a few subclusters differ
        file.seek(2 * MiB + 6 * KiB)
        file.write(b"other" * 100)
    for mode in ("metadata", "full"):
        convert("-f", "raw", "-B", base, "-F", "raw", "-o", "extended_l2=on,preallocation=" + mode,
                raw, path)
        check_image(path, raw)
        own = sum(extent["length"] for extent in extents(path)
                  if extent["depth"] == 0 and extent["present"])
        check(own <= 8 * KiB, "%d bytes are its own", own)
    ctl.refused("convert", "-B", base, "-F", "raw", "-o", "preallocation=full", raw, path,
                words=["extended_l2=on"], unchanged=[path])


@suite.test("a preallocated image on a device shows nothing of what that held", needs=[tools.loop])
def _(directory):
    raw = mixed_raw(os.path.join(directory, "raw"))
    host = os.path.join(directory, "host")
    for options in ("", ",extended_l2=on"):
        for mode in ("metadata", "falloc", "full"):
            with open(host, "wb") as file:
                file.write(b"\xa5" * (8 * MiB))
            with mount.loop_device(host, writable=True) as device:
                convert("-o", "preallocation=" + mode + options, raw, device)
                check_image(device, raw)
    with mount.loop_device(host, writable=True) as device:
        convert("-O", "raw", "-o", "preallocation=full", raw, device)
        with open(device, "rb") as file, open(raw, "rb") as expected:
            compare.check_bytes(file.read(SIZE), expected.read(), 0)


@suite.test("an empty disk of 1 TiB is copied at once, both ways")
def _(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), 1 << 40)
    image.io(path, image.write((1 << 40) - MiB, MiB, 1))
    raw, back = (os.path.join(directory, name) for name in ("raw", "back.qcow2"))
    convert("-O", "raw", path, raw)
    convert(raw, back)
    qemu_equal(path, back)
    check(os.stat(raw).st_blocks * 512 < 2 * MiB and os.path.getsize(back) < 3 * MiB,
          "the copies are large")


@suite.test("with --json it is told what was copied, or what is wrong", needs=[tools.EXTENDED_L2])
def _(directory):
    raw, path = (os.path.join(directory, name) for name in ("raw", "copy"))
    with open(raw, "wb") as file:
        file.truncate(2 * MiB)
        file.seek(64 * KiB)
        file.write(b"data" * 32 * KiB)
    for flags, copied in (([], 128 * KiB), (["-c"], 128 * KiB), (["-o", "extended_l2=on"], 128 * KiB),
                          (["-O", "raw"], 128 * KiB), (["-S", "0"], 2 * MiB)):
        told = json.loads(convert("--json", *flags, "-f", "raw", raw, path).stdout)
        check_equal(told, {"filename": path, "format": "raw" if "-O" in flags else "qcow2",
                           "virtual-size": 2 * MiB, "copied": copied}, "what %r tells" % flags)
    check_equal(convert("--json", "-q", raw, path).stdout, "", "what --quiet leaves of it")
    for status, arguments in ((64, ("-S", "1", raw, path)), (1, (raw + "x", path))):
        said = json.loads(convert("--output=json", *arguments, status=status).stderr)
        check_equal(said["status"], status, "the status in %r" % said)


# --- with something behind it -------------------------------------------------------------------


@suite.test("above a base only what differs is written, whatever the sizes and kinds are",
            needs=[tools.EXTENDED_L2])
def _(directory):
    for number, (base_size, options) in enumerate((
            (SIZE, {}), (SIZE // 2, {"cluster_size": "4k"}), (SIZE + MiB, {"compat": "0.10"}),
            (SIZE, {"extended_l2": "on"}), (SIZE // 2, {"extended_l2": "on"}))):
        raw = mixed_raw(os.path.join(directory, "raw"), seed=number)
        base = os.path.join(directory, "base.raw")
        shutil.copyfile(raw, base)
        os.truncate(base, base_size)
        changed = sorted({number * 77777 + step * 900 * KiB for step in range(3)})
        with open(base, "r+b") as file:
            for at in changed:
                file.seek(at)
                file.write(b"other" * 100)
        listed = ["-o", ",".join("%s=%s" % item for item in options.items())] if options else []
        for flags in ([], ["-c"]):
            path = os.path.join(directory, "overlay.qcow2")
            convert(*flags, "-f", "raw", "-B", "base.raw", "-F", "raw", *listed, raw, path)
            check_image(path, raw)
            check_equal(image.info(path)["backing-filename"], "base.raw", "the backing file")
            own = sum(extent["length"] for extent in extents(path)
                      if extent["depth"] == 0 and extent["present"]
                      and extent["start"] + extent["length"] <= base_size)
            check(own <= 2 * len(changed) * 64 * KiB, "%d bytes are its own, %r", own, options)


@suite.test("an overlay is copied above its own base without what the base shows")
def _(directory):
    raw = bad.compressible_raw(os.path.join(directory, "raw"), 2 * MiB)
    base = image.convert(raw, os.path.join(directory, "base.qcow2"), "-c")
    path = image.create(os.path.join(directory, "over.qcow2"), 3 * MiB, backing="base.qcow2",
                        backing_format="qcow2")
    image.io(path, image.write(64 * KiB, 64 * KiB, 1), "write -q -z 512k 64k")
    copy = os.path.join(directory, "copy.qcow2")
    convert("-B", "base.qcow2", "-F", "qcow2", path, copy)
    qemu_equal(path, copy)
    found = [(extent["start"], extent["length"], extent["zero"]) for extent in extents(copy)
             if extent["depth"] == 0 and extent["start"] < 2 * MiB]
    check_equal(found, [(64 * KiB, 64 * KiB, False), (512 * KiB, 64 * KiB, True)], "its own extents")
    ctl.refused("convert", "-B", "base.qcow2", path, copy, words=["base.qcow2", "-F qcow2"])
    said = ctl.refused("convert", "-B", "none.qcow2", "-F", "qcow2", path, copy,
                       words=["none.qcow2"])
    check(" -u" not in said, "it advises what convert has not: %s", said)
    qemu_equal(path, copy)
    check(os.path.exists(base), "the base is gone")


# --- where it goes ---------------------------------------------------------------------------------


@suite.test("no file of what is copied is overwritten, by whatever name")
def _(directory):
    bad.sample("backing", directory)
    base = os.path.join(directory, "base.raw")
    path = shutil.copyfile(bad.sample("datafile", directory), os.path.join(directory, "data.qcow2"))
    over = image.create(os.path.join(directory, "over.qcow2"), 2 * MiB, backing="base.raw",
                        backing_format="raw")
    link, hard = (os.path.join(directory, name) for name in ("link", "hard"))
    os.symlink("over.qcow2", link)
    os.link(base, hard)
    for source, target in ((over, over), (over, link), (over, base), (over, hard),
                           (path, os.path.join(directory, "data.raw"))):
        for flags in ([], ["-n"], ["-O", "raw"]):
            ctl.refused("convert", *flags, source, target, words=[target, "what is copied"],
                        unchanged=[source, target])
    ctl.refused("convert", "-B", "over.qcow2", "-F", "qcow2", base, over, words=[over],
                unchanged=[over, base])


@suite.test("an older file is replaced with its mode, but not one that is in use")
def _(directory):
    raw = mixed_raw(os.path.join(directory, "raw"))
    path = os.path.join(directory, "image.qcow2")
    image.create(path, MiB)
    os.chmod(path, 0o640)
    with bad.held(path):
        ctl.refused("convert", raw, path, words=[path, "qemu-io"], unchanged=[path])
    convert(raw, path)
    check_image(path, raw)
    check_equal(stat.S_IMODE(os.stat(path).st_mode), 0o640, "the mode")
    ctl.refused("convert", raw, os.path.join(directory, "none", "image"), words=["none"])
    check_equal(sorted(os.listdir(directory)), ["image.qcow2", "raw"], "what is there")


@suite.test("a block device gets the disk, and zeros over what it held", needs=[tools.loop])
def _(directory):
    raw = mixed_raw(os.path.join(directory, "raw"))
    host = os.path.join(directory, "host")
    with open(host, "wb") as file:
        file.write(b"\xa5" * (8 * MiB))
    with mount.loop_device(host, writable=True) as device:
        convert("-f", "raw", "-O", "raw", raw, device)
        ctl.ctl("compare", "-f", "raw", "-F", "raw", raw, device, status=1)  # it is longer
        with open(device, "rb") as file, open(raw, "rb") as expected:
            compare.check_bytes(file.read(SIZE), expected.read(), 0)
            check_equal(set(file.read()), {0xa5}, "what is behind the disk")
        for flags in ([], ["-c"], ["-o", "extended_l2=on"]):
            convert(*flags, raw, device)
            check_image(device, raw)
        large = os.path.join(directory, "large")
        with open(large, "wb") as file:
            file.truncate(9 * MiB)
        ctl.refused("convert", "-O", "raw", large, device, words=[device, "larger device"])


@suite.test("with -n the copy goes into what exists, and what that has more stays")
def _(directory):
    raw = mixed_raw(os.path.join(directory, "raw"))
    path, flat = (os.path.join(directory, name) for name in ("image.qcow2", "flat"))
    image.create(path, 8 * MiB, preallocation="metadata", cluster_size="16k")
    image.io(path, "write -q -P 165 0 8M")
    with open(flat, "wb") as file:
        file.write(b"\xa5" * (8 * MiB))
    convert("-n", raw, path)
    convert("-n", "-O", "raw", raw, flat)
    qemu_equal(path, flat, second_format="raw")
    tools.run("qemu-img", "check", "-q", path)
    with open(flat, "rb") as file, open(raw, "rb") as expected:
        compare.check_bytes(file.read(SIZE), expected.read(), 0)
        check_equal(set(file.read()), {0xa5}, "what is behind the copy")
    small = image.create(os.path.join(directory, "small.qcow2"), MiB)
    ctl.refused("convert", "-n", raw, small, words=[small, "qcow2ctl resize"], unchanged=[small])
    ctl.refused("convert", "-n", raw, small + "-not", words=[small + "-not"])


# --- what goes wrong -------------------------------------------------------------------------------


def interrupted(directory, number, target):
    """Begins a copy that takes for ever, and ends it by a signal when it has written something."""
    source = os.path.join(directory, "source")
    with open(source, "wb") as file:
        file.truncate(1 << 40)
    process = run.start([ctl.program(), "convert", "-S", "0", "-f", "raw", "-O", "raw", source, target])

    def has_written():
        for name in os.listdir("/proc/%d/fd" % process.pid):
            try:
                status = os.stat("/proc/%d/fd/%s" % (process.pid, name))
            except OSError:
                continue
            if stat.S_ISREG(status.st_mode) and 0 < status.st_size < 1 << 40:
                return True
        return False

    bad.wait_for(has_written, "something written")
    process.send_signal(number)
    check_equal(process.wait(tools.TIMEOUT), -number, "how it ended")
    os.unlink(source)


@suite.test("interrupted, it leaves nothing, and what had the name before")
def _(directory):
    target = os.path.join(directory, "target")
    interrupted(directory, signal.SIGTERM, target)
    check_equal(os.listdir(directory), [], "what is there")
    with open(target, "wb") as file:
        file.write(b"older")
    interrupted(directory, signal.SIGINT, target)
    interrupted(directory, signal.SIGKILL, target)
    check_equal(os.listdir(directory), ["target"], "what is there")
    with open(target, "rb") as file:
        check_equal(file.read(), b"older", "what the file holds")


@suite.test("what cannot be read ends it with a sentence that names the offset, and nothing is left")
def _(directory):
    raw = bad.compressible_raw(os.path.join(directory, "raw"), 4 * MiB)
    path = image.convert(raw, os.path.join(directory, "image.qcow2"), "-c", "-S", "0")
    with qcow2.Qcow2(path) as opened:
        opened.write(opened.compressed_descriptor(3 * MiB)[0] + 1, b"\xff" * 60)
    target = os.path.join(directory, "target")
    for flags in (["-O", "raw"], ["-c"], []):
        done = convert(*flags, path, target, status=1)
        last = done.stderr.splitlines()[-1]
        check(path in last and "at offset %d " % (3 * MiB) in last, "said: %s", done.stderr)
    with qcow2.Qcow2(path) as opened:
        opened.set_l1_entry(0, opened.cluster_size + 512)
    done = convert("-O", "raw", path, target, status=1)
    check(path in done.stderr.splitlines()[-1], "said: %s", done.stderr)
    check_equal(sorted(os.listdir(directory)), ["image.qcow2", "raw"], "what is there")


@suite.test("on a full host it ends with a sentence, and nothing is left", needs=[tools.root])
def _(directory):
    raw = os.path.join(directory, "raw")
    with open(raw, "wb") as file:
        file.write(random.Random(1).randbytes(4 * MiB))
    with write.small_host(directory, 2 * MiB) as place:
        for flags in ([], ["-c"], ["-O", "raw"]):
            said = ctl.refused("convert", *flags, raw, os.path.join(place, "target"))
            check("No space left" in said and "make room" in said, "said: %s", said)
            check_equal(os.listdir(place), [], "what is there")


@suite.test("what has no meaning is refused before anything is looked at")
def _(directory):
    target = os.path.join(directory, "target")
    for flags, words in ((["-O", "raw", "-c"], ["-c"]), (["-O", "raw", "-B", "x"], ["-B"]),
                         (["-O", "raw", "-o", "compat=1.1"], ["-o"]), (["-S", "100"], ["-S 100"]),
                         (["-n", "-c"], ["-n", "-c"]), (["-n", "-B", "x"], ["-n", "-B"]),
                         (["-o", "size=1G"], ["size"]), (["--new-key-file=k"], ["--new-key-file"]),
                         (["-c", "-o", "encryption=on"], ["-c", "encrypt.format"]),
                         (["-c", "-o", "preallocation=full"], ["-c", "preallocation"]),
                         (["-O", "raw", "-o", "preallocation=metadata"], ["falloc or full"]),
                         (["-n", "-o", "preallocation=falloc"], ["-n", "-o"]),
                         (["-O", "vmdk"], ["vmdk"])):
        ctl.refused("convert", *flags, os.path.join(directory, "source"), target, words=words,
                    status=64)
    check_equal(os.listdir(directory), [], "what is there")


if __name__ == "__main__":
    suite.main()
