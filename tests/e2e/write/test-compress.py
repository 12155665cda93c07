#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""-o compress: whole clusters that are new are compressed as they are written."""

import errno
import json
import os
import random

from lib import bad, compare, evidence, image, mount, stamps, tap, tools, write
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.QEMU])
SIZE = 10 * MiB

KINDS = {
    "version 3": ({}, []),
    "version 2": ({"compat": "0.10"}, []),
    "zstd": ({"compression_type": "zstd"}, [tools.ZSTD]),
    "clusters of 4 KiB": ({"cluster_size": "4k"}, []),
    "subclusters": ({"extended_l2": "on", "cluster_size": "128k"}, [tools.EXTENDED_L2]),
    "2-bit refcounts": ({"refcount_bits": 2}, []),
    "lazy refcounts": ({"lazy_refcounts": "on"}, []),
}


def empty(directory, size=SIZE, **options):
    return image.create(os.path.join(directory, "image.qcow2"), size, **options)


def compressed_clusters(path):
    """How many there are, of how many, as QEMU counts."""
    found = json.loads(tools.run("qemu-img", "check", "--output=json", path, status=None).stdout)
    return found.get("compressed-clusters", 0), found.get("allocated-clusters", 0)


def copy(source, disk, *arguments):
    """By the page cache, in pieces of 1 MiB, holes left out; and it is synced."""
    tools.run("dd", "if=" + source, "of=" + disk, "bs=1M", "conv=notrunc,sparse,fsync", *arguments)


# --- filling it ---------------------------------------------------------------------------------


def fills(kind, *options):
    made_with, needs = KINDS[kind]

    @suite.test("a disk that is filled is compressed, and QEMU reads it: %s"
                % " ".join((kind, *options)), needs=needs)
    def _(directory):
        raw = write.source(directory, SIZE)
        path = empty(directory, **made_with)
        with mount.mount(path, "compress", *options, writable=True) as mounted:
            check_equal(mounted.stderr(), "", "what it said")
            copy(raw, mounted.disk)
            compare.check_files(mounted.disk, raw)
        write.check_contents(path, raw)
        found, allocated = compressed_clusters(path)
        check(allocated // 4 < found < allocated, "%d of %d clusters are compressed", found,
              allocated)
        plain = image.convert(raw, path + ".plain", **made_with)
        check(image.info(path)["actual-size"] < image.info(plain)["actual-size"] * 3 / 4,
              "it is not smaller")


for _kind in KINDS:
    if "refcounts" not in _kind:  # of which more below
        fills(_kind)
fills("version 3", "cache=none", "threads=1")


@suite.test("what gets much smaller needs little, and no more than with qemu-img convert -c")
def _(directory):
    raw = os.path.join(directory, "text.raw")
    with open(raw, "wb") as file:
        generator = random.Random(1)
        words = [generator.randbytes(6).hex().encode() for _ in range(500)]
        while file.tell() < SIZE:
            file.write(b" ".join(generator.choices(words, k=4000)) + b"\n")
        file.truncate(SIZE)
    path = empty(directory)
    with mount.mount(path, "compress", writable=True) as mounted:
        copy(raw, mounted.disk)
    write.check_contents(path, raw)
    found, allocated = compressed_clusters(path)
    check(found >= allocated * 9 // 10, "%d of %d clusters are compressed", found, allocated)
    other = image.convert(raw, path + ".other", "-c")
    sizes = [os.path.getsize(each) for each in (path, other)]
    check(sizes[0] < sizes[1] * 1.15, "%d bytes, and %d of qemu-img convert -c", *sizes)


@suite.test("refcounts of one bit: each cluster is compressed alone, and the image is in order")
def _(directory):
    raw = write.source(directory, SIZE)
    path = empty(directory, refcount_bits=1)
    with mount.mount(path, "compress", writable=True) as mounted:
        copy(raw, mounted.disk)
    write.check_contents(path, raw)
    check(compressed_clusters(path)[0] > 0, "nothing is compressed")


@suite.test("a file system that is made and filled there is whole, and so it is for QEMU",
            needs=[tools.MKE2FS])
def _(directory):
    tree = os.path.join(directory, "tree")
    os.mkdir(tree)
    tools.run("cp", "-r", os.path.dirname(os.path.abspath(__file__)), tree)
    path = empty(directory, 64 * MiB)
    with mount.mount(path, "compress", writable=True) as mounted:
        tools.run("mke2fs", "-q", "-t", "ext4", "-d", tree, mounted.disk)
        tools.run("e2fsck", "-fn", mounted.disk)
        model = write.model_of_disk(mounted.disk, directory)
    write.check_contents(path, model)
    tools.run("e2fsck", "-fn", model)
    check(compressed_clusters(path)[0] > 0, "nothing is compressed")


# --- and then ------------------------------------------------------------------------------------


def changes(kind, *options):
    made_with, needs = KINDS[kind]

    @suite.test("writes of any kind are read back, and in the image: %s"
                % " ".join((kind, *options)), needs=needs)
    def _(directory):
        path = empty(directory, **made_with)
        model = write.model_of(path, directory)
        raw = write.source(directory, SIZE // 2)
        with mount.mount(path, "compress", *options, writable=True) as mounted:
            copy(raw, mounted.disk)
            copy(raw, model)
            write.scribble(mounted.disk, model, seed=7, operations=30)
            copy(raw, mounted.disk, "seek=5")
            copy(raw, model, "seek=5")
            write.scribble(mounted.disk, model, seed=8, operations=30)
            compare.check_files(mounted.disk, model)
            compare.forget(mounted.disk)
            compare.check_files(mounted.disk, model)
        write.check_contents(path, model)
        write.check_clean(path)


changes("version 3")
changes("clusters of 4 KiB", *write.SMALL_CACHES)
changes("subclusters")
changes("2-bit refcounts", "cache=none")
changes("lazy refcounts")


@suite.test("what is written again, and parts of clusters, are plain from then on")
def _(directory):
    path = empty(directory)
    with mount.mount(path, "compress", writable=True) as mounted, \
            write.Direct(mounted.disk) as direct:
        direct.write(0, b"a" * MiB)
        direct.write(2 * MiB, b"b" * 4096)
        direct.write(0, b"c" * 4096)
    check_equal(compressed_clusters(path), (15, 17), "compressed clusters, and all")


@suite.test("a snapshot of a disk that is being filled shows what it was")
def _(directory):
    path = empty(directory)
    raw = write.source(directory, SIZE)
    at = os.path.join(directory, "at")
    os.mkdir(at)
    with mount.mount(path, "compress", at=at, directory=True, writable=True) as mounted:
        disk = os.path.join(at, "disk.raw")
        copy(raw, disk, "count=4")
        os.mkdir(os.path.join(at, "snapshots", "before"))
        copy(raw, disk)
        with open(os.path.join(at, "snapshots", "before", "disk.raw"), "rb") as file:
            kept = file.read()
        del mounted
    with open(raw, "rb") as file:
        check_equal(kept == file.read(4 * MiB) + bytes(SIZE - 4 * MiB), True, "what it shows")
    write.check_contents(path, raw)
    tools.run("qemu-img", "snapshot", "-d", "before", path)
    write.check_clean(path)


@suite.test("an overlay is written compressed, and the image behind it is not changed")
def _(directory):
    place = os.path.join(directory, "case")
    os.mkdir(place)
    base = image.create(os.path.join(place, "base.qcow2"), SIZE)
    before = evidence.Evidence(place)
    kept = os.path.join(directory, "kept.qcow2")
    raw = write.source(directory, SIZE)
    with mount.mount(base, "overlay=" + kept, "compress=zlib", writable=True) as mounted:
        copy(raw, mounted.disk)
    before.check()
    tools.run("qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", kept, raw)
    check(compressed_clusters(kept)[0] > 0, "nothing is compressed")


# --- when things go wrong ------------------------------------------------------------------------


@suite.test("a full host: ENOSPC, what was acknowledged is there, and it goes on when there is space",
            needs=[tools.root])
def _(directory):
    data = [random.Random(seed).randbytes(8 * KiB) * 32 for seed in range(8)]  # of 256 KiB
    with write.small_host(directory, 6 * MiB) as place:
        path = empty(place, 512 * MiB, cluster_size="16k")
        spare = os.path.join(place, "ballast")
        with open(spare, "wb") as file:
            file.write(bytes(2 * MiB))
        with mount.mount(path, "compress", writable=True) as mounted, \
                write.Direct(mounted.disk) as direct:
            done = [0]

            def fill():
                while done[0] * 256 * KiB < 512 * MiB:
                    direct.write(done[0] * 256 * KiB, data[done[0] % 8])
                    direct.sync()
                    done[0] += 1

            write.refuses(errno.ENOSPC, fill)
            check(done[0] > 8, "refused at once")
            for number in range(done[0]):
                compare.check_bytes(direct.read(number * 256 * KiB, 256 * KiB), data[number % 8],
                                    number * 256 * KiB)
            os.unlink(spare)
            for number in range(done[0], done[0] + 4):
                direct.write(number * 256 * KiB, data[number % 8])
            direct.sync()
        write.check_clean(path)
        raw = write.contents(path, os.path.join(directory, "contents.raw"))
        with open(raw, "rb") as file:
            for number in range(done[0] + 4):
                compare.check_bytes(file.read(256 * KiB), data[number % 8], number * 256 * KiB)
        check(compressed_clusters(path)[0] > 0, "nothing is compressed")


@suite.test("killed while it is filled: all that was acknowledged is there, nothing is foreign")
def _(directory):
    ledger = stamps.Ledger(16 * MiB // stamps.BLOCK)
    path = empty(directory, 16 * MiB, cluster_size="4k")
    for seed in range(10 if write.long_run() else 2):
        with write.to_be_killed(path, "compress") as mounted:
            writers = stamps.start(mounted.disk, ledger, seed)
            stamps.wait(writers)
            mounted.kill()
            stamps.join(writers)
        if mount.is_mounted(mounted.path):
            tools.run("umount", "-l", mounted.path)
        write.check_clean(path, leaks=True)
        with mount.mount(path, "compress", writable=True) as mounted:
            ledger.check(mounted.disk)
            ledger.settle(mounted.disk)
    check(compressed_clusters(path)[0] > 0, "nothing is compressed")


# --- what it cannot be ---------------------------------------------------------------------------


@suite.test("a type that is not the image's, or none at all, and an image that has no compressed "
            "clusters, are refused with a sentence")
def _(directory):
    key = os.path.join(directory, "key")
    with open(key, "w", encoding="ascii") as file:
        file.write("abc123")
    for kind, option, words in (
            ("plain", "compress=zstd", ("compression type", "zlib")),
            ("version2", "compress=zstd", ("compression type", "zlib")),
            ("datafile", "compress", ("data file",)),
            ("luks", "compress=zlib,key-file=" + key, ("encrypted",))):
        bad.refused(bad.sample(kind, directory), *words, options=(option,), status=2)
    path = bad.sample("plain", directory)
    for option in ("compress=lzma", "compress=on", "compress=ZLIB"):
        bad.refused(path, option, "zlib and zstd", options=(option,), status=2, named="compress")
    for also in ("ro", "force-share", "at-snapshot=x", "salvage", "evidence"):
        bad.refused(path, "compress", "only read", options=("compress", also), status=2,
                    named="compress")
    large = image.create(os.path.join(directory, "large.qcow2"), SIZE, cluster_size="2M")
    bad.refused(large, "2 MiB", options=("compress",), status=2)
    with mount.mount(path, "compress=zlib", writable=True) as mounted:
        check_equal(mounted.stderr(), "", "what it said")


if __name__ == "__main__":
    suite.main()
