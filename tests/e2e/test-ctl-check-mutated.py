#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Damaged images, from fixed seeds: `qcow2ctl check` finds what `qemu-img check` finds, and what
it repairs is in order for both, with every byte of the disk that could be read before.

Differences that are meant (docs/design.md says why): QEMU rounds the size of the disk down to
sectors; reads zeros past the end of the file, also for snapshots; gives up where the refcount
table is impossible or cannot be read, which is repaired here; does not mind something else in the
cluster of a table, once both are counted; and still looks into a block that it does not trust.
"""

import os
import random
import shutil

from lib import bad, checks, damage, qcow2, tap, tools
from lib.checks import CLEAN, ERRORS, FAILED
from lib.image import MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.QEMU, tools.tool("prlimit")])

LONG = os.environ.get("QCOW2FS_LONG") == "1"
LARGEST = 64 * MiB


def found(verdict, text):
    return any(text in finding["text"] for finding in verdict.found.get("findings", []))


def tolerated(theirs, mine, path):
    """A difference between the verdicts that is meant."""
    if theirs is None or theirs.status == FAILED:
        return mine.status == ERRORS or "bitmap" in mine.said
    if mine.status == FAILED:
        return "snapshot table" in mine.said
    with qcow2.Qcow2(path) as opened:
        ragged = opened["virtual_size"] % 512 != 0
    keys = {key for key, _theirs, _ours in checks.differences(theirs, mine)}
    if ragged and keys == {"total-clusters"} and theirs.status == mine.status:
        return True
    # For QEMU, a block whose entry has reserved bits set still says what the counts are.
    return theirs.status == mine.status == ERRORS and \
        (found(mine, "has reserved bits set") or
         (keys == {"corruptions"} and found(mine, "holds a table")))


def check_verdict(path, what):
    theirs, mine = checks.of_qemu(path), checks.ours(path)
    same = theirs is not None and theirs.status == mine.status and \
        (mine.found is None or theirs.found is None or not checks.differences(theirs, mine))
    check(same or tolerated(theirs, mine, path), "%s: qemu-img says %r, qcow2ctl %r", what, theirs,
          mine)
    return mine, same


def contents(path, raw, *arguments):
    """What can be read, zeros for the rest; None where nothing can."""
    with qcow2.Qcow2(path) as opened:
        if opened["virtual_size"] > LARGEST:
            return None
    done = tools.run(*checks.LIMITED, "qemu-img", "convert", "--salvage", "-f", "qcow2", "-O",
                     "raw", *arguments, path, raw, status=None)
    if done.returncode != 0:
        return None
    with open(raw, "rb") as file:
        return file.read()


def check_contents(before, after, what):
    check(after is not None and len(after) == len(before), "%s: cannot be read any more", what)
    for offset in range(0, len(before), 512):
        block = before[offset:offset + 512]
        check(after[offset:offset + 512] == block or not any(block),
              "%s: the bytes at %d are others after the repair", what, offset)


def check_repair(path, what, directory, snapshot):
    """Repairs the image. Returns the status afterwards."""
    raw = os.path.join(directory, "contents.raw")
    names = [()] + ([("-l", "first")] if snapshot else [])
    before = [contents(path, raw, *name) for name in names]
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
            check_contents(data, contents(path, raw, *name), what)
    return repaired.status


def mutated(kind, count, needs=()):
    sentence = "damaged images (%s) get the verdict of qemu-img, and lose nothing by a repair"

    @suite.test(sentence % kind, needs=needs)
    def _(directory):
        path = bad.sample(kind, directory)
        pristine = os.path.join(directory, "pristine")
        shutil.copyfile(path, pristine)
        tally = {"same": 0, "errors": 0, "repaired": 0}
        for seed in range(count * (10 if LONG else 1)):
            shutil.copyfile(pristine, path)
            name = "%s %d" % (kind, seed)
            what = "%s (%s)" % (name, damage.damage(path, random.Random(name)))
            verdict, same = check_verdict(path, what)
            tally["same"] += same
            if verdict.status == CLEAN:
                continue
            tally["errors"] += 1
            tally["repaired"] += check_repair(path, what, directory, kind == "snapshots") == CLEAN
        tap.diagnose("%s: %r of %d" % (kind, tally, count))
        check(tally["repaired"] > count // 5, "only %d could be repaired", tally["repaired"])


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
