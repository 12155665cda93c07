#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Images that were cut off: read-only, what can be read is shown, and what not is said.

The oracle is qemu-img convert --salvage, which takes zeros for what is missing; here it is EIO.
"""

import os

from lib import bad, compare, ctl, image, mount, qcow2, run, tap, tools
from lib.image import KiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.QEMU])


def moved_to_the_end(path, table, length, keep):
    """Puts `length` bytes of the table that the header field (or "bitmaps") names at the file's
    end, of which the file then keeps so many."""
    end = -(-os.path.getsize(path) // (64 * KiB)) * 64 * KiB
    with qcow2.Qcow2(path) as opened:
        if table == "bitmaps":
            offset = opened.bitmaps_field("directory_offset")
            opened.set_bitmaps_field("directory_offset", end)
        else:
            offset = opened[table]
            opened[table] = end
        copy = opened.read(offset, length)
    with open(path, "r+b") as file:
        file.seek(end)
        file.write(copy[:keep])
        file.truncate(end + keep)


def salvaged(path):
    """What qemu-img makes of it."""
    raw = os.path.join(run.directory, "salvaged.raw")
    tools.run("qemu-img", "convert", "--salvage", "-O", "raw", path, raw)
    with open(raw, "rb") as file:
        return file.read()


def check_shown(path, wanted, lost, *words, by_qemu=True):
    """The image is mounted, says the words, and shows what qemu-img does, but EIO for what is
    lost; is refused for writing, with the way to read it. Returns its snapshots that are shown."""
    oracle = salvaged(path) if by_qemu else wanted
    before = compare.Unchanged(path)
    with mount.mount(path, directory=True) as mounted:
        check_equal(bad.unreadable(mounted.disk, 4 * KiB, wanted), lost, "the offsets of EIO")
        bad.unreadable(mounted.disk, 4 * KiB, oracle)  # where it is not EIO, it is the same
        for word in words:
            check(word in mounted.stderr(), "no %r in: %s", word, mounted.stderr())
        place = os.path.join(mounted.path, "snapshots")
        names = sorted(os.listdir(place)) if os.path.isdir(place) else []
        for name in names:
            bad.unreadable(os.path.join(place, name, "disk.raw"), 4 * KiB)
    before.check()
    bad.refused(path, words[0], "-o ro, which shows what can be read")
    return names


@suite.test("where the snapshot table is not in the file, or in part, the rest is shown")
def _(directory):
    for keep, names in ((0, []), (10, []), (100, ["first"])):
        path = bad.sample("snapshots", directory)
        wanted = bad.contents(path)
        moved_to_the_end(path, "snapshots_offset", 4 * KiB, keep)
        shown = check_shown(path, wanted, [], "snapshot table",
                            "of its 3 snapshots" if keep > 0 else "can be read without it")
        check_equal(shown, names, "the snapshots, with %d bytes of the table" % keep)
        ctl.ctl("map", path)
        ctl.refused("resize", path, "+1M", words=["snapshot table"])


@suite.test("where the refcount table or the bitmap directory is not in the file, the disk is shown")
def _(directory):
    for kind, table, word in (("small", "refcount_table_offset", "refcount table"),
                              ("bitmaps", "bitmaps", "bitmap directory")):
        path = bad.sample(kind, directory)
        wanted = bad.contents(path)
        moved_to_the_end(path, table, 512, 0)
        check_shown(path, wanted, [], word, "can be read without it is shown",
                    by_qemu=kind != "bitmaps")  # QEMU does not open it


@suite.test("where a part of the L1 table is in the file, what it maps is shown, the rest is EIO")
def _(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), 512 * KiB, cluster_size="1k")
    image.io(path, image.write(0, 512 * KiB, 1))
    wanted = bad.contents(path)
    moved_to_the_end(path, "l1_table_offset", 4 * 8, 2 * 8)  # each maps 128 KiB
    check_shown(path, wanted, list(range(256 * KiB, 512 * KiB, 4 * KiB)), "L1 table", "is shown")


@suite.test("an image of which the disk's L1 table is lost, but not the snapshots'")
def _(directory):
    path = bad.sample("snapshots", directory)
    wanted = bad.contents(path)
    moved_to_the_end(path, "l1_table_offset", 4 * KiB, 0)
    names = check_shown(path, wanted, list(range(0, len(wanted), 4 * KiB)), "L1 table", "is shown")
    check_equal(names, ["first", "second", "third"], "the snapshots")


@suite.test("a backing image that was cut off is read, and its overlay is not written")
def _(directory):
    path = bad.sample("snapshots", directory)
    wanted = bad.contents(path)
    overlay = os.path.join(directory, "overlay.qcow2")
    tools.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", path, "-F", "qcow2", overlay)
    moved_to_the_end(path, "snapshots_offset", 4 * KiB, 0)
    with mount.mount(overlay) as mounted:
        check_equal(bad.unreadable(mounted.disk, 4 * KiB, wanted), [], "the offsets of EIO")
    bad.refused(overlay, path, "-o ro", named=path)


@suite.test("a header that is damaged otherwise, or of which nothing is left, is refused")
def _(directory):
    path = bad.sample("small", directory)
    moved_to_the_end(path, "l1_table_offset", 4 * KiB, 7)
    bad.refused(path, "L1 table", options=["ro"])
    path = bad.sample("snapshots", directory)
    with qcow2.Qcow2(path) as opened:
        opened["snapshots_offset"] = opened["l1_table_offset"]
    bad.refused(path, "snapshot table", "overlaps", options=["ro"])


if __name__ == "__main__":
    suite.main()
