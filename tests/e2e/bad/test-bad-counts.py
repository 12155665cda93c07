#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Images too large to be compared before the first write: a table that is counted as free, or that
is two tables, keeps them from being written nevertheless."""

import errno
import os

from lib import compare, image, mount, qcow2, tap, tools, write
from lib.image import KiB
from lib.tap import check

suite = tap.Suite(needs=[tools.fuse, tools.QEMU])

SIZE = 2 << 40  # with a snapshot, which could have as many tables as the disk
CLUSTER = 64 * KiB


def large(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), SIZE)
    image.io(path, image.write(0, CLUSTER, 1))
    tools.run("qemu-img", "snapshot", "-c", "kept", path)
    image.io(path, image.write(0, CLUSTER, 2))
    return path


def snapshot_l1(opened):
    return opened.snapshot_field(0, "l1_table_offset")


def block(opened):
    return opened.number(opened.refcount_table_entry_position(0), 8)


TABLES = {
    "L1 table": lambda opened: opened["l1_table_offset"],
    "refcount table": lambda opened: opened["refcount_table_offset"],
    "refcount block": block,
    "snapshot table": lambda opened: opened["snapshots_offset"],
    "L1 table of a snapshot": snapshot_l1,
    "L2 table": lambda opened: opened.l1_entry(0) & 0x00fffffffffffe00,
}


def refused(path, *words):
    before = compare.Unchanged(path)
    with mount.mount(path, writable=True) as mounted:
        with write.Direct(mounted.disk) as direct:
            write.refuses(errno.EROFS, direct.write, SIZE // 2, b"x" * 4096)
        said = mounted.stderr()
    check(all(word in said for word in words), "%r are not all in %r", words, said)
    before.check()


def counted_as_free(name):
    @suite.test("a large image whose %s is counted as free is not written" % name)
    def _(directory):
        path = large(directory)
        with qcow2.Qcow2(path) as opened:
            offset = TABLES[name](opened)
            opened.set_refcount(offset, 0)
        refused(path, "the %s at 0x%x is counted as free" % (name, offset), "--repair")


for table in TABLES:
    counted_as_free(table)


def used_twice(name, other):
    @suite.test("a large image whose snapshot names the %s as its own L1 table is not written"
                % name)
    def _(directory):
        path = large(directory)
        with qcow2.Qcow2(path) as opened:
            offset = TABLES[name](opened)
            opened.set_snapshot_field(0, "l1_table_offset", offset)
        refused(path, "the cluster at 0x%x is two tables, one in the %s" % (offset, other))


used_twice("L1 table", "L1 table")
used_twice("refcount table", "refcount table")
used_twice("refcount block", "snapshot tables")
used_twice("L2 table", "snapshot tables")


def data_cluster(opened, offset):
    return opened.l2_entry(offset) & 0x00fffffffffffe00


@suite.test("a cluster in use that is counted as free is found when its L2 table is read: it is not "
            "handed out, and what was written before stays")
def _(directory):
    path = large(directory)
    image.io(path, image.write(SIZE // 2, CLUSTER, 3))
    with qcow2.Qcow2(path) as opened:
        offset = data_cluster(opened, SIZE // 2)
        opened.set_refcount(offset, 0)
    with mount.mount(path, writable=True) as mounted, write.opened(mounted.disk) as handle:
        os.pwrite(handle, b"a" * 512, 0)
        os.fsync(handle)
        with write.Direct(mounted.disk) as direct:
            write.refuses(errno.EROFS, direct.write, SIZE // 2 + CLUSTER, b"x" * 4096)
            write.refuses(errno.EROFS, direct.write, CLUSTER, b"x" * 4096)
        check(os.pread(handle, 512, 0) == b"a" * 512, "what was written is gone")
        check(os.pread(handle, CLUSTER, SIZE // 2) == image.pattern(CLUSTER, 3),
              "the cluster was overwritten")
        said = mounted.stderr()
    what = "the cluster in use at 0x%x is counted as free" % offset
    check(said.count(what) == 1 and "--repair" in said, "not said once: %r", said)
    tools.run("qemu-img", "check", "-r", "all", path)
    image.io(path, "read -P 0x61 0 512")


@suite.test("repair=on compares an image of any size")
def _(directory):
    path = large(directory)
    with qcow2.Qcow2(path) as opened:
        opened.set_refcount(data_cluster(opened, 0), 0)
    with mount.mount(path, "repair=on", writable=True) as mounted:
        with write.opened(mounted.disk) as handle:
            os.pwrite(handle, b"x" * 512, SIZE // 2)
            os.fsync(handle)
        check("were repaired" in mounted.stderr(), "%r", mounted.stderr())
    write.check_clean(path)


@suite.test("a large image in order is written")
def _(directory):
    path = large(directory)
    with mount.mount(path, writable=True) as mounted, write.opened(mounted.disk) as handle:
        os.pwrite(handle, b"x" * 512, SIZE // 2)
        os.fsync(handle)
    write.check_clean(path)


if __name__ == "__main__":
    suite.main()
