#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Discards and zeroes through a loop device, and through fallocate."""

import contextlib
import os

from lib import compare, image, mount, tap, tools, write
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.QEMU])
LOOP = [tools.loop, tools.tool("blkdiscard")]
SIZE = 16 * MiB
# Offsets and lengths: whole clusters, parts of them, across L2 tables of small clusters.
RANGES = [(0, 64 * KiB), (64 * KiB + 512, 1024), (MiB - 4096, 8192), (3 * MiB + 512, 2 * MiB),
          (7 * MiB, 3 * MiB), (SIZE - 64 * KiB - 512, 64 * KiB + 512)]
KINDS = ("clusters of 64 KiB", "clusters of 4 KiB", "subclusters", "compressed clusters",
         "a chain of three", "internal snapshots", "version 2", "a data file")


def full_raw(directory):
    return write.source(directory, SIZE, holes=False)


@contextlib.contextmanager
def device(disk):
    with mount.loop_device(disk, writable=True) as name:
        yield name


def blkdiscard(*arguments):
    def change(disk, offset, length):
        with device(disk) as name:
            tools.run("blkdiscard", *arguments, "-o", str(offset), "-l", str(length), name)
    return change


def fallocate(*arguments):
    def change(disk, offset, length):
        tools.run("fallocate", *arguments, "-o", str(offset), "-l", str(length), disk)
    return change


def clear(model, offset, length):
    with write.opened(model) as plain:
        write.write_all(plain, bytes(length), offset)


def reads_zeros(what, change, needs=()):
    for kind in KINDS:
        @suite.test("%s: zeros in the range, nothing else changed, nothing old shows: %s"
                    % (what, kind), needs=[*needs, *write.needs(kind)])
        def _(directory, kind=kind):
            path = write.make(kind, directory, full_raw(directory))
            model = write.model_of(path, directory)
            with mount.mount(path, writable=True) as mounted:
                for offset, length in RANGES:
                    change(mounted.disk, offset, length)
                    clear(model, offset, length)
                compare.forget(mounted.disk)
                compare.check_files(mounted.disk, model)
            write.check_clean(path)
            write.check_contents(path, model)


reads_zeros("blkdiscard", blkdiscard(), LOOP)
reads_zeros("blkdiscard -z", blkdiscard("-z"), LOOP)
reads_zeros("fallocate -p", fallocate("-p"), [tools.tool("fallocate")])
reads_zeros("fallocate -z", fallocate("-z"), [tools.tool("fallocate")])


def freed(directory, kind, change, *options):
    """(bytes that the image occupied, bytes that it occupies after half of it was cleared)."""
    path = write.make(kind, directory, full_raw(directory))
    files = [path] + [os.path.join(directory, "data.raw")] * (kind == "a data file")
    before = write.blocks(*files)
    model = write.model_of(path, directory)
    with mount.mount(path, *options, writable=True) as mounted:
        change(mounted.disk, 4 * MiB, SIZE // 2)
        clear(model, 4 * MiB, SIZE // 2)
    write.check_clean(path)
    write.check_contents(path, model)
    return before * 512, write.blocks(*files) * 512


def gives_back(kind, *options):
    @suite.test("what is discarded is given back to the host: %s"
                % " ".join((kind, *options)), needs=[*LOOP, *write.needs(kind)])
    def _(directory):
        before, after = freed(directory, kind, blkdiscard(), *options)
        check(before - after >= SIZE // 2 - MiB, "%d bytes before, %d after", before, after)


gives_back("clusters of 64 KiB")
gives_back("clusters of 4 KiB", "discard=unmap")
gives_back("subclusters")
gives_back("version 2")
gives_back("lazy refcounts")
gives_back("a data file")


def frees_nothing(what, change, *options, needs=()):
    @suite.test("%s %s gives nothing back to the host" % (what, " ".join(options)),
                needs=needs)
    def _(directory):
        before, after = freed(directory, "clusters of 64 KiB", change, *options)
        check(before - after < MiB, "%d bytes before, %d after", before, after)


frees_nothing("fallocate -p with", fallocate("-p"), "discard=ignore")
frees_nothing("fallocate -z", fallocate("-z"))


@suite.test("what was discarded is used again: the file does not grow without end", needs=LOOP)
def _(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), SIZE)
    with mount.mount(path, writable=True) as mounted:
        for number in range(6):
            with write.Direct(mounted.disk) as direct:
                direct.write(0, image.pattern(8 * MiB, number))
                direct.sync()
            blkdiscard()(mounted.disk, 0, 8 * MiB)
            with write.Direct(mounted.disk) as direct:
                direct.sync()
    check(os.path.getsize(path) < 24 * MiB, "the file has %d bytes", os.path.getsize(path))
    write.check_clean(path)
    check(write.blocks(path) * 512 < 2 * MiB, "it occupies %d bytes", write.blocks(path) * 512)


def never_shows_old(name, change, needs):
    """A disk whose backing image, and whose own past, hold data: neither may come back."""
    @suite.test("%s, written and discarded again, never shows what was there: an overlay" % name,
                needs=needs)
    def _(directory):
        raw = full_raw(directory)
        for compat, cluster_size in (("1.1", "64k"), ("0.10", "64k"), ("1.1", "4k")):
            path = image.create(os.path.join(directory, "image.qcow2"), SIZE, backing="source.raw",
                                backing_format="raw", compat=compat, cluster_size=cluster_size)
            model = write.model_of(path, directory)
            with mount.mount(path, writable=True) as mounted:
                for turn in range(2):
                    for offset, length in RANGES[1:]:
                        change(mounted.disk, offset, length)
                        clear(model, offset, length)
                    with write.Direct(mounted.disk) as direct, write.opened(model) as plain:
                        data = image.pattern(4096, 3 + turn)
                        for offset, length in RANGES[2:]:
                            where = (offset + length // 2) // 512 * 512
                            direct.write(where, data[:3 * 512])
                            write.write_all(plain, data[:3 * 512], where)
                    compare.check_files(mounted.disk, model)
            write.check_clean(path)
            write.check_contents(path, model)
            check_equal(compare.sha256(raw), compare.sha256(full_raw(directory)),
                        "the backing file")


never_shows_old("blkdiscard", blkdiscard(), LOOP)
never_shows_old("fallocate -z", fallocate("-z"), [tools.tool("fallocate")])


@suite.test("the whole disk can be discarded", needs=LOOP)
def _(directory):
    for kind in ("clusters of 64 KiB", "a chain of three", "version 2", "internal snapshots"):
        place = os.path.join(directory, kind.replace(" ", "-"))
        os.mkdir(place)
        path = write.make(kind, place, full_raw(place))
        with mount.mount(path, writable=True) as mounted, device(mounted.disk) as name:
            tools.run("blkdiscard", "-f", name)
        empty = os.path.join(place, "empty.raw")
        with open(empty, "wb") as file:
            file.truncate(SIZE)
        write.check_clean(path)
        write.check_contents(path, empty)


@suite.test("fallocate without a mode gives every cluster a place, and changes no byte",
            needs=[tools.tool("fallocate")])
def _(directory):
    for kind in ("clusters of 64 KiB", "subclusters", "a chain of three"):
        place = os.path.join(directory, kind.replace(" ", "-"))
        os.mkdir(place)
        raw = write.source(place, SIZE)
        path = write.make(kind, place, raw)
        model = write.model_of(path, place)
        with mount.mount(path, writable=True) as mounted:
            tools.run("fallocate", "-o", str(MiB), "-l", str(6 * MiB), mounted.disk)
            compare.check_files(mounted.disk, model)
        write.check_clean(path)
        write.check_contents(path, model)
        for extent in image.allocation_map(path):
            if MiB <= extent.start < 7 * MiB:
                check(extent.offset is not None and extent.depth == 0, "no place: %r", extent)


if __name__ == "__main__":
    suite.main()
