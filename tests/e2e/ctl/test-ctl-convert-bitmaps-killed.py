#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""qcow2ctl convert --bitmaps, killed at each of its steps: no target has a bitmap that is believed and
is not the one of the source, and none of its own that misses what was copied."""

import collections
import os
import shutil

from lib import compare, ctl, image, tap, tools, write
from lib.bitmaps import all_bits
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.QEMU, tools.tool("qemu-nbd", "strace")])
SIZE = 3 * MiB
STEPS = ("pwrite64", "fdatasync", "fsync", "linkat", "ftruncate")
MOST = 14  # so many of the last of each are tried


def source(directory):
    """Bitmaps of which none is empty, and not all record."""
    path = image.create(os.path.join(directory, "source"), SIZE, cluster_size=4 * KiB)
    for name, granularity in (("fine", "512"), ("coarse", "64k"), ("still", "4k")):
        tools.run("qemu-img", "bitmap", "--add", "-g", granularity, path, name)
    image.io(path, "write -q -P 1 1M 20k", "write -q -P 2 2M 300k")
    tools.run("qemu-img", "bitmap", "--disable", path, "still")
    image.io(path, "write -q -P 3 64k 4k")
    return path


def existing(directory):
    """An image with a bitmap of its own."""
    path = image.create(os.path.join(directory, "existing"), SIZE)
    image.io(path, "write -q -P 9 0 2M")
    tools.run("qemu-img", "bitmap", "--add", "-g", "4k", path, "own")
    return path


def traced(inject, directory, *arguments):
    """Its exit status, and how often each of STEPS was called, by the thread that did most."""
    log = os.path.join(directory, "trace")
    status = tools.run("strace", "-f", "-o", log, "-e", "trace=" + ",".join(STEPS), *inject, ctl.program(),
                       "convert", "-q", "--bitmaps", *arguments, status=None).returncode
    counts = collections.Counter()
    with open(log, encoding="utf-8") as lines:
        for line in lines:
            pid, call = line.split()[:2]
            if "(" in call:
                counts[pid, call.split("(")[0]] += 1
    return status, {step: max(count for (_, call), count in counts.items() if call == step)
                    for step in STEPS if any(call == step for _, call in counts)}


def killed(directory, make):
    """Kills it at each step; gives what the arguments name as the target. `make` makes that anew."""
    _, counts = traced([], directory, *make())  # strace counts for each thread, and each call
    steps = [(call, number) for call, count in counts.items()
             for number in range(max(1, count - MOST), count + 1)]
    for call, number in steps:
        arguments = make()
        status, _ = traced(["-e", "inject=%s:signal=KILL:when=%d" % (call, number)], directory, *arguments)
        check(status != 0, "it was not killed by %s %d", call, number)
        yield "%s %d" % (call, number), arguments[-1]


@suite.test("a new image is there with all of them, or not at all")
def _(directory):
    path, copy = source(directory), os.path.join(directory, "copy")
    expected = all_bits(path)

    def make():
        if os.path.exists(copy):
            os.unlink(copy)
        return [path, copy]

    for step, target in killed(directory, make):
        if os.path.exists(target):
            tools.run("qemu-img", "check", "-q", target)
            tools.run("qemu-img", "compare", "-q", path, target)
            check_equal(all_bits(target), expected, "the bitmaps, step %s," % step)
        check_equal(sorted(os.listdir(directory)), sorted({"source", "trace", *(["copy"] * os.path.exists(copy))}),
                    "the files, step %s," % step)


def differences(one, other):
    """[offset, length] of each sector that is another one."""
    with open(one, "rb") as a, open(other, "rb") as b:
        return [[at, 512] for at in range(0, SIZE, 512) if a.read(512) != b.read(512)]


@suite.test("an image that was there has each as the source has it, or not at all; its own misses nothing")
def _(directory):
    path, kept, copy = source(directory), existing(directory), os.path.join(directory, "copy")
    expected, before, after = all_bits(path), kept + ".raw", copy + ".raw"
    image.to_raw(kept, before)
    found = collections.Counter()

    def make():
        shutil.copy(kept, copy)
        return ["-n", path, copy]

    for step, target in killed(directory, make):
        write.check_clean(target, leaks=True)
        bits = all_bits(target)
        _, flags, own = bits.pop("own")
        changed = differences(before, image.to_raw(target, after))
        if "in-use" in flags:
            found["in use"] += 1
        else:
            for at, length in changed:
                check(any(begin <= at and at + length <= begin + size for begin, size in own),
                      "step %s: %d has changed, and its own bitmap does not know it", step, at)
        for name, one in bits.items():
            check("in-use" in one[1] or one == expected[name], "step %s: bitmap %s is %r, expected %r", step,
                  name, one, expected[name])
        if bits:
            compare.check_files(after, image.to_raw(path, path + ".raw"))
        found[len(bits)] += 1
    check(all(found[count] for count in (0, 1, 2, 3)), "it was killed at %r", found)


if __name__ == "__main__":
    suite.main()
