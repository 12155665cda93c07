#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Images changed in their structure, from seeds: what we read of them is what QEMU reads.

tests/fuzz/dump makes each image from its seed and reads it through our library; qemu-img reads
it with --salvage, which goes on behind a sector that it cannot read. A difference is a fault of
ours, or one of ALLOWED, each of which docs/design.md (section 9) explains.

The seeds from $QCOW2FS_FUZZ_SEED (1) on are tried: SHORT of them, and for
$QCOW2FS_FUZZ_SECONDS of CPU time, 1800 in the long run, if that is longer.
"""

import collections
import os
import re
import struct
import time

from lib import run, tap, tools
from lib.tap import check

suite = tap.Suite(needs=[tools.QEMU])

DUMP = os.path.join(os.path.dirname(os.path.dirname(run.program())), "tests", "fuzz", "dump")
SECTOR = 512
MOST = 1 << 20
SHORT = 120
LONG = "QCOW2FS_LONG" in os.environ
FIRST = int(os.environ.get("QCOW2FS_FUZZ_SEED", 1))
SECONDS = float(os.environ.get("QCOW2FS_FUZZ_SECONDS", 1800 if LONG else 0))

# Differences that are meant: what differs, and what our own words for it must hold.
ALLOWED = [
    ("QEMU reads it", "past the end of the file"),
    ("we refuse it", "does not lie within the file"),
    ("we refuse it", "overlaps"),
    ("we refuse it", "runs over the end of the file"),
    ("we refuse it", "the header field header_length is"),
    ("we refuse it", "the name must lie between the header and the end of the first cluster"),
    ("we refuse it", "too small for its disk"),
]


def needs_dump():
    return None if os.access(DUMP, os.X_OK) else "%s is not built (it needs libcheck)" % DUMP


def cpu_seconds():
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def spawn(*argv):
    return tools.run(*argv, status=None, timeout=60)


class Reading:
    """What one program read: `refused` with a reason, or bytes, and {offset of sector: why not}."""

    def __init__(self):
        self.refused = None
        self.size = None
        self.bad = {}
        self.data = b""


def read_ours(path, directory, snapshot):
    reading = Reading()
    out = os.path.join(directory, "ours.raw")
    done = spawn(DUMP, "read", path, out, str(MOST), *([snapshot] if snapshot else []))
    check(done.returncode == 0, "dump ended with status %d: %s", done.returncode, done.stderr)
    for line in done.stdout.splitlines():
        word, _, rest = line.partition(" ")
        if word == "refused":
            reading.refused = rest
        elif word == "size":
            reading.size = int(rest)
        elif word == "bad":
            offset, _, why = rest.partition(" ")
            reading.bad[int(offset)] = why
    with open(out, "rb") as file:
        reading.data = file.read()
    return reading


def header_size(path):
    with open(path, "rb") as file:
        header = file.read(32)
    return struct.unpack(">Q", header[24:32])[0] if len(header) == 32 else 0


def read_qemu(path, directory, snapshot, size):
    """Of `size` bytes of the disk, as that is what we think it has."""
    reading = Reading()
    raw = os.path.join(directory, "qemu.raw")
    length = min(size, MOST) // SECTOR * SECTOR
    if snapshot:
        done = spawn("qemu-img", "convert", "--salvage", "-l", "snapshot.id=" + snapshot,
                     "-f", "qcow2", "-O", "raw", path, raw)
    else:
        done = spawn("qemu-img", "convert", "--salvage", "-O", "raw", "--image-opts",
                     "driver=raw,offset=0,size=%d,file.driver=qcow2,file.file.driver=file,"
                     "file.file.filename=%s" % (length, path), raw)
    if done.returncode != 0:
        reading.refused = done.stderr.strip().splitlines()[-1] if done.stderr else "?"
        return reading
    for match in re.finditer(r"error while reading offset (\d+): (.*)", done.stderr):
        # One warning for each sector, or one for a whole request that was then read in parts.
        reading.bad[int(match.group(1)) // SECTOR * SECTOR] = match.group(2)
    with open(raw, "rb") as file:
        reading.data = file.read(MOST)
    return reading


def differences(ours, qemu):
    """(what differs, our words for it, QEMU's) of each sector that is not the same."""
    if ours.refused and qemu.refused:
        return
    if ours.refused:
        yield "we refuse it", ours.refused, ""
        return
    if qemu.refused:
        yield "QEMU refuses it", "", qemu.refused
        return
    length = min(len(ours.data), len(qemu.data)) // SECTOR * SECTOR
    for at in range(0, length, SECTOR):
        if at in ours.bad and at in qemu.bad:
            continue
        if at in ours.bad:
            yield "QEMU reads it", ours.bad[at], "0x%x" % at
        elif at in qemu.bad:
            yield "we read it", "", "0x%x: %s" % (at, qemu.bad[at])
        elif ours.data[at:at + SECTOR] != qemu.data[at:at + SECTOR]:
            yield "other bytes", "", "0x%x" % at


# What QEMU does not open is no image to compare with; tests of ours say what we do with it.
OUT_OF_SCOPE = ("QEMU refuses it",)


def is_allowed(what, ours):
    return what in OUT_OF_SCOPE or any(what == allowed and words in ours
                                       for allowed, words in ALLOWED)


def shape(what, ours, qemu):
    """The same text for the same kind of difference."""
    text = re.sub(r"/\S*/", "", "%s: %s%s" % (what, ours, "" if ours else " | " + qemu))
    return re.sub(r"0x[0-9a-f]+|\d+", "N", text)[:200]


def try_seed(seed, directory, tally, faults):
    path = os.path.join(directory, "image.qcow2")
    made = spawn(DUMP, "make", str(seed), path)
    check(made.returncode == 0, "dump make %d: %s", seed, made.stderr)
    for snapshot in (None, "1") if "snapshots" in made.stdout else (None,):
        ours = read_ours(path, directory, snapshot)
        size = header_size(path) if ours.size is None else ours.size
        qemu = read_qemu(path, directory, snapshot, size)
        tally["images"] += 1
        tally["read by both"] += not ours.refused and not qemu.refused
        seen = set()
        for what, words, other in differences(ours, qemu):
            kind = shape(what, words, other)
            if kind in seen:
                continue
            seen.add(kind)
            if is_allowed(what, words):
                tally[what] += 1
            else:
                faults[kind].append("%d%s" % (seed, " (snapshot)" if snapshot else ""))


@suite.test("what we read of a changed image is what QEMU reads", needs=[needs_dump])
def _(directory):
    run.watch_for(max(run.TEST_SECONDS, 4 * SECONDS))
    spawn(DUMP, "files", directory)
    tally, faults = collections.Counter(), collections.defaultdict(list)
    end = cpu_seconds() + SECONDS
    seed = FIRST
    # Names of files in an image are looked for beside it, and by QEMU in the current directory.
    before = os.getcwd()
    os.chdir(directory)
    began = time.monotonic()
    try:
        while seed < FIRST + SHORT or cpu_seconds() < end:
            try_seed(seed, directory, tally, faults)
            seed += 1
    finally:
        os.chdir(before)
    tap.diagnose("seeds %d to %d in %d s: %s" % (
        FIRST, seed - 1, time.monotonic() - began,
        ", ".join("%d %s" % (count, name) for name, count in sorted(tally.items()))))
    for kind, seeds in sorted(faults.items()):
        tap.diagnose("%d times, seeds %s: %s" % (len(seeds), ", ".join(seeds[:5]), kind))
    check(not faults, "%d kinds of difference that are not meant", len(faults))
    check(tally["read by both"] > (seed - FIRST) // 4, "only %d were read by both",
          tally["read by both"])


if __name__ == "__main__":
    suite.main()
