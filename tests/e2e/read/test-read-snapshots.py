#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Internal snapshots and saved VM states, read through a directory mount."""

import contextlib
import os
import types

from lib import compare, image, mount, qcow2, tap, tools
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.QEMU])
SIZE = 24 * MiB


def snapshot(path, name):
    tools.run("qemu-img", "snapshot", "-c", name, path)


def snapshot_to_raw(path, name, raw):
    """The oracle: what qemu-img reads of a snapshot."""
    tools.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", "-l", name, path, raw,
              timeout=300)
    return raw


def make_series(directory, backing=False, resize=True, **options):
    """An image with snapshots first, second and third, of different sizes if it can be resized."""
    path = os.path.join(directory, "image.qcow2")
    if backing:
        image.sparse_raw(os.path.join(directory, "base.raw"), 20 * MiB)
        image.create(path, SIZE, backing="base.raw", backing_format="raw", **options)
    else:
        image.create(path, SIZE, **options)
    cluster_size = image.info(path)["cluster-size"]
    size = SIZE
    for number, name in enumerate(("first", "second", "third")):
        image.scribble(path, size, seed=50 + number, operations=50, cluster_size=cluster_size)
        snapshot(path, name)
        if resize:
            size += 3 * MiB + 512
            tools.run("qemu-img", "resize", path, str(size))
    image.scribble(path, size, seed=60, operations=50, cluster_size=cluster_size)
    return path


def series(name, needs=(), **options):
    """Every snapshot, and the active disk, read as qemu-img reads them."""
    @contextlib.contextmanager
    def prepare(directory):
        state = types.SimpleNamespace(directory=directory, image=make_series(directory, **options))
        state.unchanged = compare.Unchanged(state.image)
        with mount.mount(state.image, directory=True) as mounted:
            state.mounted = mounted
            yield state

    group = suite.group(name, prepare, "unmounting ends the daemon with status 0", needs)

    @group.test("the directory names the disk and the snapshots")
    def _(state):
        check_equal(sorted(os.listdir(os.path.join(state.mounted.path, "snapshots"))),
                    ["first", "second", "third"], "the snapshots")
        check("disk.raw" in os.listdir(state.mounted.path), "no disk.raw")
        check_equal(os.listdir(os.path.join(state.mounted.path, "snapshots", "first")),
                    ["disk.raw", "partitions"], "the files of a snapshot without VM state")

    @group.test("the active disk reads byte for byte as with qemu-img")
    def _(state):
        expected = image.to_raw(state.image, os.path.join(state.directory, "active.raw"))
        compare.check_files(state.mounted.disk, expected)
        compare.check_random_preads(state.mounted.disk, expected, count=50)
        extents = image.seek_extents(state.mounted.disk)
        compare.check_holes(extents, image.allocation_map(state.image), image.layers(state.image),
                            os.path.getsize(expected))

    for number, wanted in enumerate(("first", "second", "third")):
        @group.test("snapshot %s reads byte for byte as with qemu-img" % wanted)
        def _(state, wanted=wanted, number=number):
            expected = snapshot_to_raw(state.image, wanted,
                                       os.path.join(state.directory, wanted + ".raw"))
            path = os.path.join(state.mounted.path, "snapshots", wanted, "disk.raw")
            with qcow2.Qcow2(state.image) as opened:
                size = opened.snapshot_field(number, "extra_disk_size")
            check_equal(os.path.getsize(path), size, "the size")
            os.truncate(expected, size)  # qemu-img goes on to today's size of the disk
            compare.check_files(path, expected)
            compare.check_random_preads(path, expected, count=50)
            _check_zero_holes(path, expected)

    group.after("the image is unchanged, but for what the oracle did to its access time",
                _check_content)
    return group


def _check_content(state):
    """qemu-img read the image while it was mounted: the access time is its business."""
    now = compare.Unchanged(state.image)
    for name in ("sha256", "mtime", "size"):
        check_equal(now.before(state.image)[name], state.unchanged.before(state.image)[name], name)


def _check_zero_holes(path, expected):
    """Every hole of the snapshot reads zeros, and it has holes: qemu-img maps none of snapshots."""
    extents = image.seek_extents(path)
    size = os.path.getsize(expected)
    with open(expected, "rb") as file:
        position = 0
        for start, end in extents + [(size, size)]:
            file.seek(position)
            check(not any(file.read(start - position)), "the hole from %d holds data", position)
            position = end
    check(sum(end - start for start, end in extents) < size, "no hole at all")


series("snapshots of different sizes")
series("snapshots of version 2", compat="0.10", resize=False)
series("snapshots in 4 KiB clusters on a raw base", cluster_size="4k", backing=True)
series("snapshots with extended L2 entries", extended_l2="on", needs=[tools.EXTENDED_L2])
series("snapshots in 512-byte clusters", cluster_size="512")


# --- VM state -----------------------------------------------------------------------

# By the specification VM state is stored after the disk, from the first L1 entry on that maps
# no part of the disk. So data written behind the end of a disk that is then declared smaller
# becomes VM state.


def make_vmstate(directory, state_size, wide_field=True, **options):
    """Disk data in the first 3 MiB, `state_size` bytes of VM state; returns path, both sizes."""
    path = os.path.join(directory, "image.qcow2")
    disk = 3 * MiB + 512
    image.create(path, 1 * MiB, **options)
    with qcow2.Qcow2(path) as opened:
        start = -(-disk // opened.l1_entry_covers) * opened.l1_entry_covers
    tools.run("qemu-img", "resize", path, str(start + state_size + (-state_size % 512)))
    half = state_size // 2 // 4096 * 4096
    image.io(path, image.write(0, disk, 1), image.write(start, half, 2),
             image.write(start + half + 8192, state_size - half - 8192, 3))
    snapshot(path, "running")
    with qcow2.Qcow2(path) as opened:
        check(opened.snapshot_field(0, "extra_data_size") >= 16, "no 64-bit VM state size")
        opened.set_snapshot_field(0, "extra_disk_size", disk)
        opened.set_snapshot_field(0, "vm_state_size", state_size if not wide_field else 7)
        opened.set_snapshot_field(0, "extra_vm_state_size", state_size)
    wanted = (image.pattern(half, 2) + bytes(8192) + image.pattern(state_size - half - 8192, 3))
    return path, disk, wanted


def vmstate(name, state_size, needs=(), **options):
    @suite.test(name, needs=needs)
    def _(directory):
        path, disk, wanted = make_vmstate(directory, state_size, **options)
        with mount.mount(path, directory=True) as mounted:
            where = os.path.join(mounted.path, "snapshots", "running")
            check_equal(sorted(os.listdir(where)), ["disk.raw", "partitions", "vmstate.raw"],
                        "its files")
            check_equal(os.path.getsize(os.path.join(where, "disk.raw")), disk, "the disk's size")
            with open(os.path.join(where, "disk.raw"), "rb") as file:
                compare.check_bytes(file.read(), image.pattern(disk, 1), 0)
            raw = os.path.join(where, "vmstate.raw")
            check_equal(os.path.getsize(raw), state_size, "the VM state's size")
            with open(raw, "rb") as file:
                compare.check_bytes(file.read(), wanted, 0)
            expected = os.path.join(directory, "vmstate.expected")
            with open(expected, "wb") as file:
                file.write(wanted)
            compare.check_random_preads(raw, expected, count=50, longest=100 * KiB)


vmstate("VM state is a file of its own", 2 * MiB)
vmstate("VM state of an odd length ends where it ends", 100 * KiB + 777)
vmstate("VM state in 4 KiB clusters spans many L2 tables", 9 * MiB, cluster_size="4k")
vmstate("VM state in 512-byte clusters", 1 * MiB + 5, cluster_size="512")
vmstate("VM state with extended L2 entries", 2 * MiB, extended_l2="on",
        needs=[tools.EXTENDED_L2])


@suite.test("a snapshot without extra data has the size of the disk")
def _(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), 4 * MiB, compat="0.10")
    image.io(path, image.write(0, MiB, 1))
    snapshot(path, "old")
    image.io(path, image.write(0, MiB, 2))
    expected = snapshot_to_raw(path, "old", os.path.join(directory, "old.raw"))
    with qcow2.Qcow2(path) as opened:
        entry = opened.snapshots()[0]
        extra = opened.snapshot_field(0, "extra_data_size")
        names = opened.read(entry.position + 40 + extra, len(entry.id) + len(entry.name))
        opened.set_snapshot_field(0, "extra_data_size", 0)
        opened.write(entry.position + 40, names)
    with mount.mount(path, directory=True) as mounted:
        compare.check_files(os.path.join(mounted.path, "snapshots", "old", "disk.raw"), expected)


if __name__ == "__main__":
    suite.main()
