#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Damaged images, from fixed seeds: `qcow2ctl check` finds what `qemu-img check` finds, and what
it repairs is in order for both, with every byte of the disk that could be read before.

Differences that are meant (docs/design.md says why): QEMU rounds the size of the disk down to
sectors; reads zeros past the end of the file, also for snapshots; gives up where the refcount
table is impossible or cannot be read, which is repaired here; does not mind something else in the
cluster of a table, once both are counted; still looks into a block that it does not trust; and
follows an L1 table of many more L2 tables than the file can hold to its end.
"""

import os
import random
import shutil
import struct

from lib import bad, checks, damage, qcow2, tap, tools
from lib.checks import CLEAN, ERRORS, FAILED
from lib.image import MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.QEMU, tools.tool("prlimit")])

LONG = os.environ.get("QCOW2FS_LONG") == "1"
# There it is only looked for errors of memory: the verdicts are those of the build without.
SANITIZE = os.environ.get("QCOW2FS_SANITIZE", "no") not in ("", "no")
LARGEST = 64 * MiB


def known_reasons(theirs, mine, path):
    """Whether what we found explains every count that differs, to the last one."""
    keys = {key for key, _theirs, _ours in checks.differences(theirs, mine)}
    lines = checks.all_findings(path)
    with qcow2.Qcow2(path) as opened:
        if opened["virtual_size"] % 512 != 0:
            keys -= {"total-clusters"}
    # For QEMU, a block whose entry has reserved bits set still says what the counts are.
    if any("of the refcount table, " in line and "has reserved bits set" in line for line in lines):
        return theirs.status == mine.status == ERRORS
    if any("names many more L2 tables than the file has clusters" in line for line in lines):
        keys -= {"corruptions", "leaks", "allocated-clusters", "fragmented-clusters",
                 "compressed-clusters"}
    more = mine.found.get("corruptions", 0) - theirs.found.get("corruptions", 0)
    if more == sum("holds a table, and is referred to as" in line for line in lines):
        keys -= {"corruptions"}
        return keys == set() and mine.status == (ERRORS if more else theirs.status)
    return keys == set() and theirs.status == mine.status


def sound_bitmap(theirs, path):
    """Whether QEMU gives up on a bitmap that the format allows: one with extra data, or with a bit
    for the bytes behind the last whole sector."""
    with qcow2.Qcow2(path) as opened:
        ragged = opened["virtual_size"] % 512 != 0
    return "Bitmap extra data is not supported" in theirs.said or \
        (ragged and "Could not read bitmap" in theirs.said)


def tolerated(theirs, mine, path):
    """A difference between the verdicts that is meant."""
    if theirs is None or theirs.status == FAILED:
        return mine.status == ERRORS or "bitmap" in mine.said or \
            (theirs is not None and sound_bitmap(theirs, path))
    if mine.status == FAILED:
        return "snapshot table" in mine.said
    return known_reasons(theirs, mine, path)


def check_verdict(path, what):
    theirs, mine = checks.of_qemu(path), checks.ours(path)
    same = theirs is not None and theirs.status == mine.status and \
        (mine.found is None or theirs.found is None or not checks.differences(theirs, mine))
    check(same or tolerated(theirs, mine, path), "%s: qemu-img says %r, qcow2ctl %r", what, theirs,
          mine)
    return mine, same


def contents(path, raw, snapshot):
    """What can be read, zeros for the rest; None where nothing can."""
    arguments = [] if snapshot is None else ["-l", snapshot]
    with qcow2.Qcow2(path) as opened:
        if opened["virtual_size"] > LARGEST:
            return None
    done = tools.run(*checks.LIMITED, "qemu-img", "convert", "--salvage", "-f", "qcow2", "-O",
                     "raw", *arguments, path, raw, status=None)
    if done.returncode != 0:
        return None
    with open(raw, "rb") as file:
        return file.read()


def is_l2_table(path, guest, snapshot):
    """Whether the entry of that guest offset names an L2 table of the active state as its data."""
    with qcow2.Qcow2(path) as opened:
        if opened["version"] > 2 and \
                opened["incompatible_features"] & qcow2.EXTERNAL_DATA_FILE:
            return False
        table = None
        if snapshot is not None:
            index = [entry.name for entry in opened.snapshots()].index(snapshot.encode())
            table = opened.snapshot_field(index, "l1_table_offset")
        entry = opened.l2_entry(guest, table)
        tables = {opened.l1_entry(index) & qcow2.HOST_OFFSET_MASK
                  for index in range(opened["l1_size"])}
        return entry & qcow2.L2_COMPRESSED == 0 and entry & qcow2.HOST_OFFSET_MASK in tables


def only_copied(before, after):
    """Whether two pieces of an L2 table differ in nothing but COPIED bits."""
    words = "!%dQ" % (len(before) // 8)
    return all(one ^ other in (0, qcow2.COPIED)
               for one, other in zip(struct.unpack(words, before), struct.unpack(words, after)))


def check_contents(before, after, damaged, snapshot, what):
    """A guest that reads an L2 table as its data sees the COPIED bits that a repair corrects there
    (as it sees those that qemu-img corrects): the table has no second copy. All else is kept."""
    check(after is not None and len(after) == len(before), "%s: cannot be read any more", what)
    for offset in range(0, len(before), 512):
        block, now = before[offset:offset + 512], after[offset:offset + 512]
        check(now == block or not any(block) or
              (is_l2_table(damaged, offset, snapshot) and only_copied(block, now)),
              "%s: the bytes at %d are others after the repair", what, offset)


def check_repair(path, what, directory, snapshot):
    """Repairs the image. Returns the status afterwards."""
    raw = os.path.join(directory, "contents.raw")
    names = [None] + (["first"] if snapshot else [])
    before = [contents(path, raw, name) for name in names]
    damaged = os.path.join(directory, "damaged.qcow2")
    shutil.copyfile(path, damaged)
    repaired = checks.ours(path, "--repair=all")
    check_equal(checks.ours(path).status, repaired.status, "%s: the status of a second check" % what)
    if repaired.status == CLEAN:
        theirs = checks.of_qemu(path)
        check(theirs.status == CLEAN or "Bitmap" in theirs.said or "bitmap" in theirs.said,
              "%s: repaired, but qemu-img says %r", what, theirs)
        with qcow2.Qcow2(path) as opened:
            features = opened["incompatible_features"] if opened["version"] > 2 else 0
            check_equal(features & (qcow2.DIRTY | qcow2.CORRUPT), 0, "%s: dirty, corrupt" % what)
    elif repaired.status == FAILED:
        check_equal(open(path, "rb").read() == open(damaged, "rb").read(), True,
                    "%s: unchanged" % what)
    for name, data in zip(names, before):
        if data is not None:
            check_contents(data, contents(path, raw, name), damaged, name, what)
    return repaired.status


def mutated(kind, count, needs=()):
    sentence = "damaged images (%s) get the verdict of qemu-img, and lose nothing by a repair"

    @suite.test(sentence % kind, needs=needs)
    def _(directory):
        path = bad.sample(kind, directory)
        pristine = os.path.join(directory, "pristine")
        shutil.copyfile(path, pristine)
        tally = {"same": 0, "errors": 0, "repaired": 0}
        cases = count * (10 if LONG else 1)
        for seed in range(cases):
            shutil.copyfile(pristine, path)
            name = "%s %d" % (kind, seed)
            what = "%s (%s)" % (name, damage.damage(path, random.Random(name)))
            if SANITIZE:
                checks.ours(path)
                checks.ours(path, "--repair=all")
                continue
            try:
                verdict, same = check_verdict(path, what)
                tally["same"] += same
                if verdict.status == CLEAN:
                    continue
                tally["errors"] += 1
                tally["repaired"] += check_repair(path, what, directory,
                                                  kind == "snapshots") == CLEAN
            except tools.CommandFailed as failed:
                raise AssertionError("%s: %s" % (what, failed)) from None
        tap.diagnose("%s: %r of %d" % (kind, tally, cases))
        check(SANITIZE or tally["repaired"] > count // 5, "only %d could be repaired", tally["repaired"])


mutated("plain", 40)
mutated("version2", 40)
mutated("small", 40)
mutated("snapshots", 40)
mutated("zstd", 20, needs=[tools.ZSTD])
mutated("extended", 40, needs=[tools.EXTENDED_L2])
mutated("datafile", 20, needs=[tools.DATA_FILE])
mutated("bitmaps", 30)


if __name__ == "__main__":
    suite.main()
