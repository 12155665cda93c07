#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""fio writes at random, from several jobs at once, and verifies what it reads."""

import os

from lib import compare, image, mount, tap, tools, write
from lib.image import MiB

suite = tap.Suite(needs=[tools.fuse, tools.QEMU, tools.tool("fio")])
PART = 10 * MiB     # of each job
JOBS = 4
SIZE = JOBS * PART + 3 * MiB
SIZES = "512/20:4k/40:12k/20:64k/12:300k/5:1m/3"


def part(number):
    """(offset, bytes) of a job: a part of its own, whose ends are no multiple of a cluster."""
    return number * PART + 512 * (1 + 7 * number), PART - MiB


def job(number, direct):
    offset, size = part(number)
    return ["--name=job%d" % number, "--offset=%d" % offset, "--size=%d" % size,
            "--direct=%d" % direct, "--randseed=%d" % (42 + number)]


def fio(disk, directory, *arguments, seconds=240):
    common = ["fio", "--filename=" + disk, "--allow_file_create=0", "--rw=randwrite",
              "--ioengine=psync", "--thread", "--bssplit=" + SIZES, "--blockalign=512",
              "--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--fallocate=none",
              "--group_reporting", "--minimal", "--eta=never", "--aux-path=" + directory]
    jobs = []
    for number in range(JOBS):
        jobs += job(number, number % 2)
    tools.run(*common, *arguments, *jobs, timeout=seconds, cwd=directory)


def check_between(disk, raw):
    """Fails unless what lies between the jobs' parts is what it was."""
    end = 0
    with open(disk, "rb") as found, open(raw, "rb") as expected:
        for offset, size in [part(number) for number in range(JOBS)] + [(SIZE, 0)]:
            for file in (found, expected):
                file.seek(end)
            compare.check_bytes(found.read(offset - end), expected.read(offset - end), end)
            end = offset + size


def verified(kind, *options, needs=()):
    name = kind + (", caches too small" if options else "")

    @suite.test("what fio writes at random is there, and stays: %s" % name,
                needs=[*write.needs(kind), *needs])
    def _(directory):
        raw = write.source(directory, SIZE)
        path = write.make(kind, directory, raw)
        with mount.mount(path, *options, writable=True) as mounted:
            fio(mounted.disk, directory, "--fdatasync=32", "--verify_backlog=64")
            compare.forget(mounted.disk)
            fio(mounted.disk, directory, "--verify_only")
        write.check_clean(path)
        model = write.model_of(path, directory)
        fio(model, directory, "--verify_only")
        check_between(model, raw)
        write.check_contents(path, model)


verified("clusters of 64 KiB")
verified("clusters of 4 KiB")
verified("subclusters")
verified("compressed clusters")
verified("a chain of three")
verified("internal snapshots")
verified("lazy refcounts")
verified("clusters of 64 KiB", *write.SMALL_CACHES)
verified("clusters of 4 KiB", *write.SMALL_CACHES)
verified("a chain of three", *write.SMALL_CACHES, "threads=1")


@suite.test("many requests in flight, on a loop device past the page cache, are all written",
            needs=[tools.loop])
def _(directory):
    raw = write.source(directory, SIZE)
    path = write.make("clusters of 64 KiB", directory, raw)
    with mount.mount(path, writable=True) as mounted, \
            mount.loop_device(mounted.disk, "--direct-io=on", writable=True) as device:
        fio(device, directory, "--ioengine=libaio", "--iodepth=16", "--fdatasync=64")
    write.check_clean(path)
    model = write.model_of(path, directory)
    fio(model, directory, "--verify_only")
    write.check_contents(path, model)


if __name__ == "__main__":
    suite.main()
