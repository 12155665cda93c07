#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""qcow2ctl measure: the numbers of qemu-img measure."""

import json
import os

from lib import bad, ctl, image, tap, tools
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.QEMU])
TARGETS = ("cluster_size=512", "cluster_size=2M", "compat=0.10", "refcount_bits=1",
           "refcount_bits=64,cluster_size=4k", "extended_l2=on,cluster_size=16k",
           "preallocation=falloc", "preallocation=metadata")


def same(*arguments):
    """Fails unless both say the same."""
    ours = json.loads(ctl.ctl("measure", "--json", *arguments).stdout)
    theirs = json.loads(tools.output("qemu-img", "measure", "--output=json", *arguments))
    check_equal(ours, theirs, "measure %s" % " ".join(arguments))
    return ours


@suite.test("an empty disk of any size needs what qemu-img says")
def _(_directory):
    for size in (0, 1, 1000, 64 * KiB, 10 * MiB, (1 << 30) + 512, 1 << 40, 50 << 40):
        same("-O", "raw", "--size=%d" % size)
        for kind in ("off", "falloc", "full"):
            same("-O", "raw", "-o", "preallocation=" + kind, "--size=%d" % size)
        for options in (None,) + TARGETS:
            if options and size > 1 << 30 and ("=512" in options or "=4k" in options):
                continue
            same("-O", "qcow2", *(["-o", options] if options else []), "--size=%d" % size)


@suite.test("every kind of image, and its snapshots, need what qemu-img says")
def _(directory):
    for kind in sorted(set(bad.MAKERS) - {"luks", "aes"}):
        place = os.path.join(directory, kind)
        os.mkdir(place)
        path = bad.sample(kind, place)
        same("-O", "raw", "-f", "qcow2", path)
        for options in (None,) + TARGETS:
            same("-O", "qcow2", "-f", "qcow2", *(["-o", options] if options else []), path)
        if kind == "snapshots":
            found = [same("-O", "qcow2", "-f", "qcow2", "-l", name, path)["required"]
                     for name in ("first", "second")]
            check(found[0] != 0 and found[1] != 0, "measured: %r", found)


@suite.test("bitmaps, of all granularities and with long names, take what qemu-img says")
def _(directory):
    path = os.path.join(directory, "image.qcow2")
    image.create(path, 600 * MiB, cluster_size=4 * KiB)
    found = [same("-O", "qcow2", path)["bitmaps"]]
    for number, granularity in enumerate(("512", "4k", "64k", "1M", "2G")):
        tools.run("qemu-img", "bitmap", "--add", "-g", granularity, path, "n" * (number * 250 + 1))
        for options in ("cluster_size=512", "cluster_size=64k", "cluster_size=2M"):
            found.append(same("-O", "qcow2", "-f", "qcow2", "-o", options, path)["bitmaps"])
    check(found[0] == 0 and all(found[1:]), "measured: %r", found)
    said = ctl.ctl("measure", "-o", "cluster_size=2M", path).stdout
    check_equal(said.splitlines()[-1], "bitmaps size: %d" % found[-1], "what is said")


@suite.test("a raw file is measured by its holes, and above a base all may be needed")
def _(directory):
    raw = image.sparse_raw(os.path.join(directory, "raw"), 20 * MiB + 700)
    image.settle(raw)
    for options in (None,) + TARGETS:
        same("-O", "qcow2", "-f", "raw", *(["-o", options] if options else []), raw)
    same("-O", "raw", "-f", "raw", raw)
    same("-O", "qcow2", "-f", "raw", "-o", "backing_file=%s,backing_fmt=raw" % raw, raw)


@suite.test("a copy has no more than what was measured")
def _(directory):
    raw = image.sparse_raw(os.path.join(directory, "raw"), 20 * MiB)
    for options in ("cluster_size=4k", "cluster_size=64k", "extended_l2=on"):
        copy = os.path.join(directory, "copy.qcow2")
        needed = json.loads(ctl.ctl("measure", "--json", "-o", options, raw).stdout)["required"]
        ctl.ctl("convert", "-o", options, raw, copy)
        check(os.path.getsize(copy) <= needed, "%s: the copy has %d bytes, measured were %d",
              options, os.path.getsize(copy), needed)


@suite.test("it is said in words, and what has no meaning is refused")
def _(directory):
    path = bad.sample("plain", directory)
    check_equal(ctl.ctl("measure", "--size=1000").stdout,
                "required size: 327680\nfully allocated size: 393216\n", "what is said")
    for arguments in ([], ["--size=1G", path], ["-O", "raw", "-o", "compat=1.1", path],
                      ["-O", "raw", "-o", "preallocation=metadata", path],
                      ["-o", "size=1G", path], ["-o", "encrypt.iter-time=9", path]):
        ctl.refused("measure", *arguments, status=64)
    ctl.refused("measure", "-o", "cluster_size=1000", path, words=["cluster_size=1000"])
    ctl.refused("measure", "-o", "cluster_size=512", "--size=1P", words=["cluster_size"])
    ctl.refused("measure", "-l", "none", path, words=[path, "'none'"])


if __name__ == "__main__":
    suite.main()
