#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""qcow2ctl compare: equal, different and where, with qemu-img's answers beside it."""

import json
import os
import random
import shutil
import time

from lib import bad, ctl, image, qcow2, tap, tools
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.QEMU])
TIB = 1 << 40


def compare(*arguments, status=0):
    return ctl.ctl("compare", *arguments, status=status)


def qemu(*arguments):
    """The exit status of qemu-img compare."""
    return tools.run("qemu-img", "compare", "-q", *arguments, status=None).returncode


def change(path, offset):
    with open(path, "r+b") as file:
        file.seek(offset)
        old = file.read(1)
        file.seek(offset)
        file.write(bytes([old[0] ^ 0x40]))


@suite.test("every kind of image equals what qemu-img makes of it, and one byte makes a difference")
def _(directory):
    generator = random.Random(1)
    for kind in sorted(set(bad.MAKERS) - {"luks", "aes"}):
        place = os.path.join(directory, kind)
        os.mkdir(place)
        path = bad.sample(kind, place)
        raw = image.to_raw(path, os.path.join(place, "raw"))
        done = compare("-p", path, raw)
        check_equal(done.stdout, "Images are identical.\n", "what is said of " + kind)
        copy = image.convert(raw, os.path.join(place, "copy.qcow2"), cluster_size="4k")
        compare("-f", "qcow2", "-F", "qcow2", path, copy)
        for offset in (0, bad.SIZE - 1, generator.randrange(bad.SIZE), generator.randrange(bad.SIZE)):
            change(raw, offset)
            done = compare(raw, path, status=1)
            check_equal(done.stdout, "Content mismatch at offset %d!\n" % offset, kind)
            check_equal(qemu(raw, path), 1, "the status of qemu-img")
            change(raw, offset)


@suite.test("of several differences the first is told, however many threads look")
def _(directory):
    size = 40 * MiB
    first = image.sparse_raw(os.path.join(directory, "first"), size, pieces=40)
    second = os.path.join(directory, "second")
    shutil.copyfile(first, second)
    generator = random.Random(2)
    offsets = sorted(generator.randrange(size) for _ in range(12))
    for offset in offsets:
        change(second, offset)
    for offset in offsets:
        done = compare("-f", "raw", "-F", "raw", first, second, status=1)
        check_equal(done.stdout, "Content mismatch at offset %d!\n" % offset, "what is said")
        change(second, offset)
    compare(first, second)


@suite.test("what a disk has more than the other must read as zeros, and with -s there is nothing more")
def _(directory):
    short, long = (os.path.join(directory, name) for name in ("short", "long"))
    image.sparse_raw(short, 3 * MiB + 700)
    shutil.copyfile(short, long)
    os.truncate(long, 5 * MiB)
    done = compare(short, long)
    check("size mismatch" in done.stdout and "identical" in done.stdout, "said: %s", done.stdout)
    check_equal(compare("-q", short, long).stdout, "", "what -q says")
    said = json.loads(compare("--json", "--strict", short, long, status=1).stdout)
    check_equal((said["equal"], said["difference"], said["offset"]),
                (False, "size", 3 * MiB + 700), "JSON")
    check_equal([each["virtual-size"] for each in said["images"]], [3 * MiB + 700, 5 * MiB], "sizes")
    check_equal((qemu(short, long), qemu("-s", short, long)), (0, 1), "statuses of qemu-img")
    with open(long, "r+b") as file:
        file.seek(4 * MiB + 5)
        file.write(b"x")
    for arguments in ((short, long), (long, short)):
        done = compare(*arguments, status=1)
        check("at offset %d!" % (4 * MiB + 5) in done.stdout, "said: %s", done.stdout)


@suite.test("zeros that are written equal zeros that are not, but with -s they do not")
def _(directory):
    holes = image.create(os.path.join(directory, "holes.qcow2"), 4 * MiB)
    zeros = image.create(os.path.join(directory, "zeros.qcow2"), 4 * MiB)
    image.io(zeros, "write -q -P 0 1M 64k")
    said = json.loads(compare("--json", holes, zeros).stdout)
    check_equal((said["equal"], sorted(said)), (True, ["equal", "images"]), "JSON")
    said = json.loads(compare("--json", "-s", holes, zeros, status=1).stdout)
    check_equal((said["difference"], said["offset"]), ("allocation", MiB), "JSON")
    check_equal(qemu("-s", holes, zeros), 1, "the status of qemu-img")


@suite.test("two empty disks of 1 TiB, and what they have at their ends, are compared at once")
def _(directory):
    first, second = (image.create(os.path.join(directory, name), TIB) for name in "ab")
    raw = os.path.join(directory, "raw")
    with open(raw, "wb") as file:
        file.truncate(TIB)
    for path in (first, second):
        image.io(path, image.write(TIB - MiB, MiB, 1), image.write(TIB // 2 + 512, 512, 2))
    began = time.monotonic()
    compare(first, second)
    done = compare(first, raw, status=1)
    check("at offset %d!" % (TIB // 2 + 512) in done.stdout, "said: %s", done.stdout)
    check(time.monotonic() - began < bad.SOON, "it took %s seconds", time.monotonic() - began)


@suite.test("snapshots are compared with each other and with the active state")
def _(directory):
    path = bad.sample("snapshots", directory)
    old = os.path.join(directory, "old.qcow2")
    shutil.copyfile(path, old)
    tools.run("qemu-img", "snapshot", "-a", "second", old)
    compare("-l", "second", path, old)
    compare("--second-snapshot=second", old, path)
    compare("-l", "1", "-L", "first", path, path)
    done = compare("-l", "first", path, path, status=1)
    check("Content mismatch" in done.stdout, "said: %s", done.stdout)
    ctl.refused("compare", "-l", "fourth", path, path, words=[path, "'fourth'"], status=2)
    raw = image.to_raw(path, os.path.join(directory, "raw"))
    ctl.refused("compare", "-L", "first", path, raw, words=[raw, "no snapshots"], status=2)


@suite.test("what both show of one base is not read, and what is damaged is told by its offset")
def _(directory):
    raw = bad.compressible_raw(os.path.join(directory, "raw"), 4 * MiB)
    base = image.convert(raw, os.path.join(directory, "base.qcow2"), "-c", "-S", "0")
    over = [image.create(os.path.join(directory, name), 4 * MiB, backing="base.qcow2",
                         backing_format="qcow2") for name in ("a.qcow2", "b.qcow2")]
    for path in over:
        image.io(path, image.write(128 * KiB, 64 * KiB, 1))
    with qcow2.Qcow2(base) as opened:
        opened.write(opened.compressed_descriptor(2 * MiB)[0] + 1, b"\xff" * 60)
    compare(*over)  # the damaged cluster is in both
    done = compare(base, raw, status=2)
    check(base in done.stderr and "at offset %d " % (2 * MiB) in done.stderr.splitlines()[-1],
          "said: %s", done.stderr)
    check_equal(done.stdout, "", "standard output")
    image.io(over[1], image.write(64 * KiB, 4096, 3))
    done = compare(base, over[1], status=1)  # that comes first
    check("at offset %d!" % (64 * KiB) in done.stdout, "said: %s", done.stdout)


@suite.test("a map that is damaged is told, unless there is a difference before it")
def _(directory):
    path = bad.sample("small", directory)
    copy = os.path.join(directory, "copy.qcow2")
    shutil.copyfile(path, copy)
    with qcow2.Qcow2(copy) as opened:
        opened.set_l2_entry(bad.SIZE // 4 + 64 * KiB, (1 << 63) | 12345 << 20 | 512)
    for arguments in ((path, copy), (copy, path)):
        done = compare(*arguments, status=2)
        check(copy in done.stderr.splitlines()[-1], "said: %s", done.stderr)
        check_equal(done.stdout, "", "standard output")
    image.io(path, image.write(4096, 512, 5))
    done = compare(path, copy, status=1)
    check("at offset %d!" % 4096 in done.stdout, "said: %s", done.stdout)


@suite.test("the format is what it looks like, or what is said, and no other is taken for raw")
def _(directory):
    path = bad.sample("plain", directory)
    other = os.path.join(directory, "other.vmdk")
    tools.run("qemu-img", "convert", "-O", "vmdk", path, other)
    ctl.refused("compare", path, other, words=[other, "VMDK", "-f raw"], status=2,
                unchanged=[path, other])
    copy = os.path.join(directory, "copy")
    shutil.copyfile(path, copy)
    compare(path, copy)
    compare("-f", "raw", "-F", "raw", path, copy)
    check_equal(compare("-f", "raw", path, copy, status=1).returncode, 1, "the status")
    ctl.refused("compare", "-f", "qcow2", other, path, words=[other, "qcow2"], status=2)
    ctl.refused("compare", path, path + "-not", words=[path + "-not"], status=2)
    ctl.refused("compare", path, words=["compare", "A B"], status=64)


@suite.test("an image that is written to is refused, and read with -U")
def _(directory):
    path = bad.sample("plain", directory)
    copy = os.path.join(directory, "copy")
    shutil.copyfile(path, copy)
    with bad.held(path):
        ctl.refused("compare", copy, path, words=[path], status=2)
        compare("-U", copy, path)


if __name__ == "__main__":
    suite.main()
