#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""qcow2ctl diff: the ranges in which the bytes that QEMU reads of two disks differ."""

import json
import os
import re
import shutil

from lib import bad, ctl, image, qcow2, tap, tools
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.QEMU])
STRACE = tools.tool("strace")
SECTOR = 512


def diff(*arguments, status=1):
    done = ctl.ctl("diff", "--json", *arguments, status=status)
    return [(found["start"], found["length"]) for found in json.loads(done.stdout)]


def states(path, *names):
    """What QEMU reads of the disk (None) and of snapshots."""
    found = []
    for name in names:
        raw = path + ".raw"
        tools.run("qemu-img", "convert", "-f", "qcow2", *(["-l", name] if name else []), "-O",
                  "raw", path, raw)
        with open(raw, "rb") as file:
            found.append(file.read())
        os.unlink(raw)
    return found


def expected(a, b):
    size = max(len(a), len(b))
    a, b = (each.ljust(size, b"\0") for each in (a, b))
    ranges = []
    for at in range(0, size, SECTOR):
        if a[at:at + SECTOR] == b[at:at + SECTOR]:
            continue
        if ranges and sum(ranges[-1]) == at:
            ranges[-1] = (ranges[-1][0], ranges[-1][1] + min(SECTOR, size - at))
        else:
            ranges.append((at, min(SECTOR, size - at)))
    return ranges


def make(directory, **options):
    """An image above another; two snapshots; zeros that were written, and a change taken back."""
    base, path = (os.path.join(directory, name) for name in ("base", "top"))
    image.create(base, 5 * MiB)
    image.io(base, image.write(0, 3 * MiB, 1))
    image.create(path, 6 * MiB + 512, backing="base", backing_format="qcow2", **options)
    image.io(path, image.write(MiB, 200 * KiB, 2))
    tools.run("qemu-img", "snapshot", "-c", "one", path)
    image.io(path, image.write(MiB + 3 * 512, 512, 3), image.write(MiB + 9 * 512, 70 * KiB, 4),
             "write -q -z 2M 99k", "write -q -P 0 4M 64k", image.write(6 * MiB, 512, 5))
    tools.run("qemu-img", "snapshot", "-c", "two", path)
    image.io(path, image.write(2 * MiB, 99 * KiB, 1), "write -q -P 8 5M 100")
    return path


def same(name, needs=(), **options):
    @suite.test("snapshots and the disk differ where QEMU reads other bytes: " + name, needs=needs)
    def _(directory):
        path = make(directory, **options)
        other = os.path.join(directory, "other")
        shutil.copyfile(path, other)
        names = ("one", "two", None)
        bytes_of = states(path, *names)
        for a, of_a in zip(names, bytes_of):
            for b, of_b in zip(names, bytes_of):
                wanted = expected(of_a, of_b)
                for file in (path, other):  # of one image, and of two that share no cluster
                    operands = ["%s%s" % (each, "@" + name if name else "")
                                for each, name in ((path, a), (file, b))]
                    check_equal(diff(*operands, status=1 if wanted else 0), wanted,
                                "the ranges of %s and %s" % (a, b))


same("64 KiB clusters")
same("512-byte clusters", cluster_size="512")
same("2 MiB clusters", cluster_size="2M")
same("version 2", compat="0.10", cluster_size="4k")
same("subclusters", needs=[tools.EXTENDED_L2], extended_l2="on")


@suite.test("it is said in words: ranges, what they come to, other sizes, identical disks")
def _(directory):
    a = image.sparse_raw(os.path.join(directory, "a"), MiB + 700)
    b = os.path.join(directory, "b")
    shutil.copyfile(a, b)
    check_equal(ctl.ctl("diff", a, b).stdout, "The disks are identical.\n", "what is said")
    with open(b, "r+b") as file:
        file.seek(MiB + 600)
        file.write(b"new")
        file.truncate(2 * MiB)
    done = ctl.ctl("diff", a, b, status=1)
    check_equal(done.stdout.split()[:4], ["Offset", "Length", str(MiB + 512), "188"], "the range")
    check("The sizes differ: %d and %d bytes" % (MiB + 700, 2 * MiB) in done.stdout, "said %s",
          done.stdout)
    check("1 ranges, with 188 bytes" in done.stdout, "said %s", done.stdout)
    check_equal(ctl.ctl("diff", "-q", a, b, status=1).stdout, "", "what -q says")


@suite.test("two snapshots of 1 TiB are compared by their tables", needs=[STRACE])
def _(directory):
    path = image.create(os.path.join(directory, "image"), 1 << 40, preallocation="metadata",
                        cluster_size="256k")
    tools.run("qemu-img", "snapshot", "-c", "one", path)
    image.io(path, image.write(500 << 30, MiB, 3))
    tools.run("qemu-img", "snapshot", "-c", "two", path)
    log = os.path.join(directory, "log")
    done = tools.run("strace", "-f", "-o", log, "-e", "trace=pread64,preadv", ctl.program(), "diff",
                     "--json", path + "@one", path + "@two", status=None)
    check_equal(json.loads(done.stdout), [{"start": 500 << 30, "length": MiB}], "the ranges")
    with open(log) as file:
        read = sum(int(found) for found in re.findall(r"(?m)= ([0-9]+)$", file.read()))
    check(read < 4 * MiB, "%d bytes were read", read)


@suite.test("IMAGE@SNAPSHOT: a file of that name first, and names with an @")
def _(directory):
    path = image.create(os.path.join(directory, "a@b"), MiB)
    image.io(path, image.write(0, 512, 1))
    tools.run("qemu-img", "snapshot", "-c", "x@y", path)
    image.io(path, image.write(0, 512, 2))
    check_equal(diff(path, path + "@x@y"), [(0, 512)], "the ranges")
    shutil.copyfile(path, path + "@x@y")
    check_equal(diff(path, path + "@x@y", status=0), [], "the ranges to a file of that name")
    ctl.refused("diff", path, path + "@not", words=["not"], status=2)
    ctl.refused("diff", path, os.path.join(directory, "none@x"), words=["none@x"], status=2)
    ctl.refused("diff", path, words=["diff"], status=64)


@suite.test("what cannot be read is told, with status 2, and leaves the list without its end")
def _(directory):
    path = bad.sample("small", directory)
    copy = os.path.join(directory, "copy")
    shutil.copyfile(path, copy)
    image.io(copy, image.write(0, 512, 77))
    with qcow2.Qcow2(copy) as opened:
        opened.set_l2_entry(bad.SIZE // 4 + 64 * KiB, (1 << 63) | 12345 << 20)
    done = ctl.ctl("diff", "--json", path, copy, status=2)
    check(copy in done.stderr and "]" not in done.stdout, "it said %s", done.stdout + done.stderr)


if __name__ == "__main__":
    suite.main()
