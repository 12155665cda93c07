#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The largest that the format allows: opened, read and written with bounded memory, or refused
with the limit named."""

import contextlib
import errno
import json
import os
import resource
import shutil
import struct
import subprocess

from lib import bad, compare, ctl, image, mount, qcow2, run, tap, tools, write
from lib.image import KiB, MiB
from lib.tap import check, check_equal

GiB, TiB = MiB << 10, MiB << 20
PiB = TiB << 10
L1_MOST = 32 * MiB
SNAPSHOTS = 65536
CHAIN = 1000
SANITIZED = os.environ.get("QCOW2FS_SANITIZE", "no") not in ("", "no")
SECONDS = 120  # for what walks over all of an image: no promise, but an end

suite = tap.Suite(needs=[tools.fuse, tools.QEMU])


# --- memory -----------------------------------------------------------------------------


def anonymous(pid):
    """Bytes of a process that no file is behind."""
    with open("/proc/%d/status" % pid, encoding="ascii", errors="replace") as lines:
        return next(int(line.split()[1]) * KiB for line in lines if line.startswith("RssAnon"))


def check_memory(mounted, most):
    """A sanitizer has memory of its own."""
    used = sum(anonymous(pid) for pid in mounted.pids)
    tap.diagnose("the daemon has %.1f MiB" % (used / MiB))
    check(SANITIZED or used <= most, "the daemon has %d bytes, more than %d", used, most)


def bounded(most, *arguments, status=0):
    """Runs qcow2ctl in so many bytes; returns what it printed."""
    def limit():
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))

    argv = [ctl.program(), *map(os.fspath, arguments)]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=SECONDS, encoding="utf-8",
                          env=tools.environment(**{run.MARK: run.directory}),
                          preexec_fn=None if SANITIZED else limit)
    check_equal(done.returncode, status, "the exit status of %s (%s)"
                % (" ".join(argv), done.stderr.rstrip("\n")))
    return done.stdout


# --- large disks ---------------------------------------------------------------------------


def write_here_and_there(path, places):
    image.io(path, *(image.write(offset, 64 * KiB, seed=number)
                     for number, offset in enumerate(places)))


def check_here_and_there(disk, places, first=0):
    with open(disk, "rb", buffering=0) as file:
        for number, offset in enumerate(places, first):
            compare.check_bytes(os.pread(file.fileno(), 64 * KiB, offset),
                                image.pattern(64 * KiB, number), offset)


def large(size, most, **options):
    """A disk so large, written by QEMU and by us at its ends and between."""
    sentence = ", ".join("%s=%s" % each for each in options.items())

    @suite.test("a disk of %d GiB (%s) is read, written and checked" % (size // GiB, sentence))
    def _(directory):
        path = image.create(os.path.join(directory, "image.qcow2"), size, **options)
        theirs = [0, size // 3 // MiB * MiB, size - 64 * KiB]
        ours = [MiB, size // 2, size // 5 * 4 // MiB * MiB, size - 256 * KiB]
        write_here_and_there(path, theirs)
        with mount.mount(path, writable=True) as mounted:
            check_equal(os.stat(mounted.disk).st_size, size, "the disk's size")
            check_here_and_there(mounted.disk, theirs)
            with write.opened(mounted.disk) as handle:
                for number, offset in enumerate(ours, 8):
                    write.write_all(handle, image.pattern(64 * KiB, number), offset)
                    os.fsync(handle)
            check_here_and_there(mounted.disk, ours, 8)
            check_memory(mounted, most)
        write.check_clean(path)
        image.io(path, *("read -q -P 0 %d 4096" % (offset + MiB) for offset in ours[:3]))
        check_equal(json.loads(bounded(most, "info", "--output=json", path))["virtual-size"], size,
                    "the size")
        bounded(most, "check", path)
        bounded(most, "map", path)
        with mount.mount(path) as mounted:
            check_here_and_there(mounted.disk, theirs)
            check_here_and_there(mounted.disk, ours, 8)
            with open(mounted.disk, "rb", buffering=0) as file:
                for offset in theirs + ours:
                    check_equal(file.seek(offset, os.SEEK_DATA), offset, "the next data")
                # From where nothing is mapped to the last data.
                check(file.seek(size // 5 * 4 + GiB, os.SEEK_DATA) >= size - 2 * MiB, "a seek")
            check_memory(mounted, most)


# An L1 table of 32 MiB maps 2 EiB with the largest clusters, and 128 GiB with the smallest.
large(64 * PiB, 64 * MiB, cluster_size="2M")
large(2048 * PiB, 192 * MiB, cluster_size="2M")
large(1024 * PiB, 192 * MiB, cluster_size="2M", extended_l2="on")
large(128 * GiB, 192 * MiB, cluster_size=512)


@suite.test("clusters of 2 MiB cost an idle mount two of them")
def _(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), GiB, cluster_size="2M",
                        preallocation="metadata")
    with mount.mount(path, writable=True) as mounted:
        check_equal(os.stat(mounted.disk).st_size, GiB, "the disk's size")
        check_memory(mounted, 6 * MiB)  # the refcount table, and the block of the file's end


@suite.test("a disk that needs a longer L1 table than 32 MiB is refused, and the limit named")
def _(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), 128 * GiB, cluster_size=512)
    ctl.refused("resize", path, "+512", words=["128 GiB"], unchanged=[path])
    with mount.mount(path, writable=True) as mounted:
        for size in (128 * GiB + 512, 2048 * PiB):
            write.refuses(27, os.truncate, mounted.disk, size)  # EFBIG
    ctl.refused("create", "-o", "cluster_size=512", path + ".new", str(128 * GiB + 512),
                words=["32 MiB"], status=64)
    with qcow2.Qcow2(path) as opened:
        opened["l1_size"] = L1_MOST // 8 + 1
    failed = mount.mount_fails(path)
    bad.check_sentence(failed.stderr, "l1_size is 4194305", "4194304", "32 MiB")
    tools.run("qemu-img", "info", path, status=1)


# --- 65536 snapshots --------------------------------------------------------------------------

SHARED_DISK = MiB


def write_snapshots(path, count):
    """Gives an image of clusters of 4 KiB snapshots: a table, and an L1 table for each.

    Every 64th holds what the disk does, the others nothing. The refcounts are left to a repair.
    """
    with qcow2.Qcow2(path) as opened:
        cluster, entry = opened.cluster_size, opened.l1_entry(0)
        tables = (opened.end() + cluster - 1) // cluster * cluster
        written = []
        for number in range(count):
            if number % 64 == 0:
                opened.set_number(tables + number * cluster, 8, entry & ~qcow2.COPIED)
            snapshot_id, name = b"%d" % (number + 1), b"snapshot %d" % number
            fixed = struct.pack(">QIHHIIQII", tables + number * cluster, 1, len(snapshot_id),
                                len(name), 1600000000 + number, 0, 0, 0, 16)
            each = fixed + struct.pack(">QQ", 0, SHARED_DISK) + snapshot_id + name
            written.append(each + bytes(-len(each) % 8))
        opened["snapshots_offset"] = tables + count * cluster
        opened["nb_snapshots"] = count
        written = b"".join(written)
        opened.write(opened["snapshots_offset"], written + bytes(-len(written) % cluster))


@suite.test("65536 snapshots are listed, read, checked, and kept while the disk is written")
def _(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), SHARED_DISK, cluster_size="4k")
    image.io(path, image.write(0, SHARED_DISK, seed=1))
    write_snapshots(path, SNAPSHOTS)
    bounded(256 * MiB, "check", "--repair=all", path)
    told = json.loads(bounded(256 * MiB, "info", "--output=json", path))
    check_equal(len(told["snapshots"]), SNAPSHOTS, "the snapshots of info")
    bounded(256 * MiB, "check", path)
    with mount.mount(path, directory=True, writable=True) as mounted:
        top = os.path.join(mounted.path, "snapshots")
        check_equal(set(os.listdir(top)), {"snapshot %d" % each for each in range(SNAPSHOTS)},
                    "the snapshots' names")
        with write.opened(mounted.disk) as handle:
            write.write_all(handle, image.pattern(MiB // 2, 2), 0)
            os.fsync(handle)
        write.refuses(errno.EMLINK, os.mkdir, os.path.join(top, "one more"))
        check("65536" in mounted.stderr(), "it said %s", mounted.stderr())
        for number in range(0, SNAPSHOTS, 4096 - 32):
            with open(os.path.join(top, "snapshot %d" % number, "disk.raw"), "rb") as file:
                expected = image.pattern(MiB, 1) if number % 64 == 0 else bytes(MiB)
                compare.check_bytes(file.read(), expected, 0)
        check_memory(mounted, 96 * MiB)
    write.check_clean(path)


@suite.test("65537 snapshots are refused, and the limit named")
def _(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), SHARED_DISK, cluster_size="4k")
    image.io(path, image.write(0, SHARED_DISK, seed=1))
    write_snapshots(path, SNAPSHOTS + 1)
    bad.check_sentence(mount.mount_fails(path).stderr, "65537", "65536")
    ctl.refused("info", path, words=["65537", "65536"], unchanged=[path])
    tools.run("qemu-img", "info", path, status=1)


# --- a chain of 1000 images ---------------------------------------------------------------------

EVERY = 50  # so many images of the chain, one holds data
CLUSTER = 4096


def chain(directory, count):
    """Images upon each other, data in some; returns the path of the last."""
    template = image.create(os.path.join(directory, "template.qcow2"), MiB, cluster_size=CLUSTER,
                            backing="x.qcow2", backing_format="qcow2")
    path = image.create(os.path.join(directory, "0.qcow2"), MiB, cluster_size=CLUSTER)
    for number in range(1, count):
        path = os.path.join(directory, "%d.qcow2" % number)
        shutil.copyfile(template, path)
        with qcow2.Qcow2(path) as opened:
            opened.set_backing_file(b"%d.qcow2" % (number - 1))
        if number % EVERY == 0:
            with qcow2.Qcow2(path) as opened:
                opened.set_backing_file(None)  # so that QEMU need not open all of them
            image.io(path, image.write(number * 512, 30 * 1000, seed=number % 7))
            with qcow2.Qcow2(path) as opened:
                opened.set_backing_file(b"%d.qcow2" % (number - 1))
    os.unlink(template)
    return path


def without_empty_ones(path, count):
    """Takes the images that hold nothing out of the chain: QEMU 10 crashes where there are so many."""
    behind = [number for number in range(count - 1) if number % EVERY == 0]
    for number in behind[1:]:
        with qcow2.Qcow2(os.path.join(os.path.dirname(path), "%d.qcow2" % number)) as opened:
            opened.set_backing_file(b"%d.qcow2" % (number - EVERY))
    with qcow2.Qcow2(path) as opened:
        opened.set_backing_file(b"%d.qcow2" % behind[-1])


@suite.test("1000 images are one chain")
def _(directory):
    path = chain(directory, CHAIN)
    raw = os.path.join(directory, "model.raw")
    with open(raw, "wb") as file:
        file.truncate(MiB)
        for number in range(EVERY, CHAIN, EVERY):
            # Whole clusters: when each was written, nothing was behind it.
            head = number * 512 % CLUSTER
            data = bytes(head) + image.pattern(30 * 1000, number % 7)
            file.seek(number * 512 - head)
            file.write(data + bytes(-len(data) % CLUSTER))
    with mount.mount(path, writable=True) as mounted:
        compare.check_files(mounted.disk, raw)
        with write.opened(mounted.disk) as handle, write.opened(raw) as plain:
            for each in (handle, plain):
                write.write_all(each, image.pattern(100 * KiB, 3), 333 * KiB)
        check_memory(mounted, 256 * MiB)
    with mount.mount(path) as mounted:
        compare.check_files(mounted.disk, raw)
    told = json.loads(bounded(256 * MiB, "info", "--backing-chain", "--output=json", path))
    check_equal(len(told), CHAIN, "the images of info")
    bounded(256 * MiB, "check", path)
    bounded(256 * MiB, "map", path)
    without_empty_ones(path, CHAIN)
    tools.run("qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", path, raw)
    write.check_clean(path)


@suite.test("1001 images are refused, and the limit named")
def _(directory):
    path = chain(directory, CHAIN + 1)
    bad.check_sentence(mount.mount_fails(path).stderr, "1000")


# --- what small files can ask for -------------------------------------------------------------------

def ask_for_much(path, lengths, snapshots, l1_size=L1_MOST // 8):
    """Gives an image, behind its end, a snapshot table in a hole, of entries whose ID and name are
    as long as that, and, in the same hole, an L1 table of 32 MiB for the disk and one for all
    snapshots."""
    with qcow2.Qcow2(path) as opened:
        table = -(-opened.end() // MiB) * MiB
        size = (40 + 16 + 2 * lengths + 7) // 8 * 8
        l1_table = table + -(-size * snapshots // MiB) * MiB
        for number in range(snapshots if lengths > 0 else 0):
            opened.write(table + number * size, struct.pack(
                ">QIHHIIQII", l1_table + L1_MOST, l1_size, lengths, lengths, 0, 0, 0, 0, 16))
        opened["snapshots_offset"], opened["nb_snapshots"] = table, snapshots
        opened["l1_table_offset"], opened["l1_size"] = l1_table, l1_size
    os.truncate(path, l1_table + 2 * L1_MOST)


def greedy_chain(directory, lengths, snapshots, count):
    """Such images upon each other; the path of the last, which takes a few MiB of its own at most."""
    template = image.create(os.path.join(directory, "template.qcow2"), MiB, backing="x.qcow2",
                            backing_format="qcow2")
    for number in range(count):
        path = os.path.join(directory, "%d.qcow2" % number)
        shutil.copyfile(template, path)
        with qcow2.Qcow2(path) as opened:
            opened.set_backing_file(b"%d.qcow2" % (number - 1) if number > 0 else None)
        ask_for_much(path, lengths, snapshots)
        check(os.stat(path).st_blocks * 512 < 4 * MiB, "%s is large", path)
    return path


@suite.test("16 images of 2 MB, each with 64 MiB of names in a hole and an L1 table of 32 MiB")
def _(directory):
    path = greedy_chain(directory, 65535, 510, 16)
    told = json.loads(bounded(128 * MiB, "info", "--backing-chain", "--json", path))
    check_equal([len(each["snapshots"]) for each in told], [510] * 16, "the snapshots")
    bounded(128 * MiB, "map", path)
    with mount.mount(path, directory=True) as mounted:
        compare.check_bytes(open(mounted.disk, "rb").read(), bytes(MiB), 0)
        check_memory(mounted, 128 * MiB)


@suite.test("40 images of many snapshots: one budget for all that are behind the first")
def _(directory):
    snapshots = 8192
    path = greedy_chain(directory, 0, snapshots, 40)
    told = json.loads(bounded(160 * MiB, "info", "--backing-chain", "--json", path))
    listed = [len(each.get("snapshots", [])) for each in told]
    check_equal(listed[0], snapshots, "the snapshots of the first")
    check(SNAPSHOTS // 2 < sum(listed[1:]) <= SNAPSHOTS, "%d of the others", sum(listed[1:]))
    for each, count in zip(told, listed):
        check_equal(count + each["details"].get("snapshots-unlisted", 0), snapshots, "all of them")
    text = bounded(64 * MiB, "info", "--backing-chain", path)
    check("snapshots: 8192 more, which are not listed here" in text, "not a word of the rest")
    with mount.mount(path, directory=True) as mounted:
        with open(os.path.join(mounted.path, "info.json"), "rb") as file:
            check_equal(len(json.load(file)["snapshots"]), snapshots, "the snapshots of info.json")
        check_memory(mounted, 160 * MiB)


@suite.test("200 snapshots that share an L1 table of 32 MiB, all hole, are read")
def _(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), MiB)
    ask_for_much(path, 3, 200)
    with qcow2.Qcow2(path) as opened:
        for number, snapshot in enumerate(opened.snapshots()):
            opened.write(snapshot.position + 40 + 16, b"%03d%03d" % (number, number))
            opened.write(snapshot.position + 40 + 8, struct.pack(">Q", MiB))
    with mount.mount(path, directory=True) as mounted, contextlib.ExitStack() as kept:
        top = os.path.join(mounted.path, "snapshots")
        check_equal(len(os.listdir(top)), 200, "the snapshots")
        for name in os.listdir(top):
            file = kept.enter_context(open(os.path.join(top, name, "disk.raw"), "rb"))
            compare.check_bytes(file.read(4 * KiB), bytes(4 * KiB), 0)
        check_memory(mounted, 96 * MiB)


# --- a disk whose metadata is all there ------------------------------------------------------------

@suite.test("1 TiB of preallocated metadata is opened, checked, mapped and written")
def _(directory):
    path = os.path.join(directory, "image.qcow2")
    bounded(256 * MiB, "create", "-o", "preallocation=metadata", path, str(TiB))
    write.check_clean(path)
    check_equal(json.loads(bounded(64 * MiB, "info", "--output=json", path))["virtual-size"], TiB,
                "the size")
    bounded(96 * MiB, "check", path)
    check_equal(len(json.loads(bounded(64 * MiB, "map", "--output=json", path))), 1, "the extents")
    places = [0, TiB // 3 // MiB * MiB, TiB - 64 * KiB]
    with mount.mount(path, writable=True) as mounted:
        with write.opened(mounted.disk) as handle:
            for number, offset in enumerate(places):
                write.write_all(handle, image.pattern(64 * KiB, number), offset)
            os.fsync(handle)
        check_here_and_there(mounted.disk, places)
        check_memory(mounted, 96 * MiB)
    write.check_clean(path)
    with mount.mount(path) as mounted, open(mounted.disk, "rb", buffering=0) as file:
        check_equal([file.seek(offset, os.SEEK_DATA) for offset in places], places, "the data")
        check_equal(file.seek(MiB, os.SEEK_DATA), places[1], "the next data")
        check_here_and_there(mounted.disk, places)
        check_memory(mounted, 96 * MiB)


if __name__ == "__main__":
    suite.main()
