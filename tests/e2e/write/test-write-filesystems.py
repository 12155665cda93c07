#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""File systems made, filled, trimmed and grown on the mounted disk; QEMU has the last word."""

import contextlib
import os
import random
import types

from lib import bad, compare, image, mount, tap, tools, tree, write
from lib.image import KiB, MiB
from lib.tap import check

suite = tap.Suite(needs=[tools.fuse, tools.QEMU])
BALLAST = 64 * MiB
GROWTH = 160 * MiB
CAP_SYS_RESOURCE = 24
MEDIUM = tree.Size(240 * MiB, 100 * MiB, 3000, 8 * MiB, 2)


class Kind:
    """How one kind of file system is made, grown and checked."""

    def __init__(self, name, size, holds, make, grow, verify):
        self.name, self.size, self.holds = name, size, holds
        self.make, self.grow, self.verify = make, grow, verify
        programs = {make[0], verify[0], grow("", "")[0], "cp", "fstrim"}
        self.needs = [tools.loop, tools.MKE2FS, tools.tool(*sorted(programs)),
                      tools.file_system(name)]


KINDS = [
    Kind("ext4", 600 * MiB, tree.LARGE, ("mkfs.ext4", "-q", "-m", "0", "-E", "nodiscard"),
         lambda device, place: ("resize2fs", device), ("e2fsck", "-fn")),
    Kind("xfs", 512 * MiB, MEDIUM, ("mkfs.xfs", "-q", "-K"),
         lambda device, place: ("xfs_growfs", place), ("xfs_repair", "-n")),
    Kind("btrfs", 512 * MiB, MEDIUM, ("mkfs.btrfs", "-q", "-K"),
         lambda device, place: ("btrfs", "filesystem", "resize", "max", place),
         ("btrfs", "check")),
]


@contextlib.contextmanager
def attached(state, kind, options="rw"):
    """The file system on the mounted disk, mounted: (its directory, its device)."""
    with mount.loop_device(state.mounted.disk, writable=True) as device, \
            mount.file_system(device, kind.name, options) as place:
        yield place, device


def flush(disk):
    with write.opened(disk) as handle:
        os.fsync(handle)


def blocks(state):
    """What the image occupies, after all that was freed has been given back."""
    for _ in range(3):
        flush(state.mounted.disk)
    return write.blocks(state.image)


def copy_tree(state, kind):
    with mount.loop_device(tree.source(kind.holds).raw) as source, \
            mount.file_system(source) as top, attached(state, kind) as (place, _device):
        names = [os.path.join(top, name) for name in os.listdir(top) if name != "lost+found"]
        tools.run("cp", "-a", *names, place, timeout=300)
        tools.run("sync", "-f", place, timeout=300)


def check_tree(disk, kind, writable=False, options="ro"):
    with mount.loop_device(disk, writable=writable) as device, \
            mount.file_system(device, kind.name, options) as place:
        check(tree.check_tree(place, tree.source(kind.holds).manifest) > 0, "no file is there")


def add_file(place, name, size, seed):
    path = os.path.join(place, name)
    generator = random.Random(seed)
    with open(path, "wb") as file:
        for _ in range(size // MiB):
            file.write(generator.randbytes(MiB))
        file.flush()
        os.fsync(file.fileno())
    return path


def grow_before_mounting(state, kind):
    """The kernel grows a mounted ext4 only for who may use all resources."""
    if kind.name == "ext4" and not tools.has_capability(CAP_SYS_RESOURCE):
        with mount.loop_device(state.mounted.disk, writable=True) as device:
            tools.run("e2fsck", "-fp", device)
            tools.run("resize2fs", device, str((kind.size + GROWTH) // KiB) + "K")


def file_systems(image_kind, kind, **options):
    @contextlib.contextmanager
    def prepare(directory):
        state = types.SimpleNamespace(directory=directory)
        state.image = image.create(os.path.join(directory, "image.qcow2"), kind.size, **options)
        tree.source(kind.holds)
        with mount.mount(state.image, writable=True) as mounted:
            state.mounted = mounted
            yield state

    group = suite.group("%s on %s" % (kind.name, image_kind), prepare,
                        "unmounting ends the daemon with status 0", kind.needs)

    @group.test("is made, and filled with a tree of files")
    def _(state):
        with mount.loop_device(state.mounted.disk, writable=True) as device:
            tools.run(*kind.make, device)
        copy_tree(state, kind)
        check_tree(state.mounted.disk, kind)

    @group.test("gives the host its space back when deleted files are trimmed")
    def _(state):
        with attached(state, kind) as (place, _device):
            path = add_file(place, "ballast", BALLAST, 1)
            full = blocks(state)
            os.unlink(path)

            def trimmed():  # a file system may take its time to free what was deleted
                tools.run("sync", "-f", place)
                tools.run("fstrim", place)
                return (full - blocks(state)) * 512 > BALLAST * 3 // 4

            bad.wait_for(trimmed, "%d bytes are given back" % BALLAST)

    @group.test("grows with the disk")
    def _(state):
        os.truncate(state.mounted.disk, kind.size + GROWTH)
        grow_before_mounting(state, kind)
        with attached(state, kind) as (place, device):
            tools.run("losetup", "-c", device)
            tools.run(*kind.grow(device, place))
            after = os.statvfs(place).f_blocks * os.statvfs(place).f_frsize
            check(after > kind.size + GROWTH // 2, "it has %d bytes", after)
            path = add_file(place, "added", GROWTH // 2, 2)
            kept = compare.sha256(path)
            compare.forget(path)
            check(compare.sha256(path) == kept, "what was written to the grown file system")
            os.unlink(path)

    @group.test("is found clean by %s" % kind.verify[0])
    def _(state):
        with mount.loop_device(state.mounted.disk) as device:
            tools.run(*kind.verify, device)

    @group.test("has every file with its checksum, read again from the daemon")
    def _(state):
        compare.forget(state.mounted.disk)
        check_tree(state.mounted.disk, kind)

    @group.after("qemu-img check finds nothing")
    def _(state):
        write.check_clean(state.image)
        check(image.info(state.image)["virtual-size"] == kind.size + GROWTH, "the size")

    @group.after("QEMU reads a clean file system, with every file and its checksum")
    def _(state):
        state.raw = write.contents(state.image)
        with mount.loop_device(state.raw) as device:
            tools.run(*kind.verify, device)
        check_tree(state.raw, kind)

    @group.after("mounted read-only, it is the same")
    def _(state):
        with mount.mount(state.image) as mounted:
            compare.check_files(mounted.disk, state.raw)
            check_tree(mounted.disk, kind)


file_systems("clusters of 64 KiB", KINDS[0])
file_systems("subclusters", KINDS[1], extended_l2="on", cluster_size="128k")
file_systems("clusters of 4 KiB, lazily counted", KINDS[2], cluster_size="4k",
             lazy_refcounts="on")


# --- QEMU and qcow2fs by turns -----------------------------

SIZE = 24 * MiB + 512


def by_turns(kind):
    @suite.test("QEMU and qcow2fs write by turns, and read the same: %s" % kind,
                needs=write.needs(kind))
    def _(directory):
        raw = write.source(directory, SIZE)
        path = write.make(kind, directory, raw)
        size = image.info(path)["cluster-size"]
        for turn in range(4 if write.long_run() else 2):
            image.scribble(path, SIZE, seed=turn, operations=40, cluster_size=size,
                           compress=kind not in ("a data file",))
            model = write.model_of(path, directory)
            with mount.mount(path, writable=True) as mounted:
                compare.check_files(mounted.disk, model)
                write.scribble(mounted.disk, model, seed=100 + turn)
                compare.check_files(mounted.disk, model)
            write.check_clean(path)
            write.check_contents(path, model)


for name in ("clusters of 64 KiB", "clusters of 4 KiB", "clusters of 2 MiB", "subclusters",
             "compressed clusters", "zstd", "a chain of three", "internal snapshots", "version 2",
             "lazy refcounts", "1-bit refcounts", "a data file"):
    by_turns(name)


@suite.test("snapshots keep what they held while the disk is written",
            needs=write.needs("internal snapshots"))
def _(directory):
    raw = write.source(directory, SIZE)
    path = write.make("internal snapshots", directory, raw)
    model = write.model_of(path, directory)
    with mount.mount(path, writable=True) as mounted:
        write.scribble(mounted.disk, model, seed=7)
    for name in ("first", "second"):
        held = os.path.join(directory, "held.raw")
        tools.run("qemu-img", "convert", "-f", "qcow2", "-l", name, "-O", "raw", path, held)
        compare.check_files(held, raw)
    write.check_contents(path, model)
    for name in ("first", "second"):
        tools.run("qemu-img", "snapshot", "-d", name, path)
    write.check_clean(path)
    write.check_contents(path, model)


@suite.test("what is behind the image is never written",
            needs=write.needs("a chain of three"))
def _(directory):
    raw = write.source(directory, SIZE)
    path = write.make("a chain of three", directory, raw)
    behind = [os.path.join(directory, name) for name in ("base.raw", "middle.qcow2")]
    model = write.model_of(path, directory)
    unchanged = compare.Unchanged(*behind)
    with mount.mount(path, writable=True) as mounted:
        write.scribble(mounted.disk, model, seed=8, longest=64 * KiB)
    unchanged.check()
    write.check_contents(path, model)


if __name__ == "__main__":
    suite.main()
