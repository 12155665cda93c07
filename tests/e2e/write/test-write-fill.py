#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Clusters that are filled ahead with zeros, where each flush is for little: see src/meta/allocator.h."""

import os
import random

from lib import compare, image, mount, tap, tools, tracing, write
from lib.image import KiB, MiB
from lib.tap import check

suite = tap.Suite(needs=[tools.fuse, tools.QEMU, tools.root])
CLUSTER = 64 * KiB
COUNT = 256


def occupied(path):
    return os.stat(path).st_blocks * 512


def write_and_flush(disk, model, seed):
    """4 KiB at COUNT clusters, each flushed before the next is written."""
    generator = random.Random(seed)
    clusters = list(range(COUNT))
    generator.shuffle(clusters)
    with write.Direct(disk) as direct, write.opened(model) as plain:
        for cluster in clusters:
            offset = cluster * CLUSTER + 4 * KiB * generator.randrange(16)
            data = generator.randbytes(4 * KiB)
            direct.write(offset, data)
            direct.sync()
            write.write_all(plain, data, offset)



def filled_on(kind, *options, lazy=False, killed=False):
    @suite.test("clusters are filled ahead on %s%s%s, and nothing of that stays%s"
                % (kind, ", %s" % ", ".join(options) if options else "",
                   ", lazy refcounts" if lazy else "", " but leaks after a kill" if killed else ""),
                needs=[tools.tool("mkfs." + kind, "strace")])
    def _(directory):
        with write.small_host(directory, 512 * MiB, kind) as place:
            path = image.create(os.path.join(place, "image.qcow2"), COUNT * CLUSTER,
                                lazy_refcounts="on" if lazy else "off")
            model = write.model_of(path, directory)
            with mount.mount_that_ends_badly(path, *options, *mount.seen(), writable=True) as mounted:
                trace = os.path.join(directory, "trace")
                with tracing.noted(mounted.pids[0], "pwritev", trace):
                    write_and_flush(mounted.disk, model, 1)
                there = occupied(path)
                if killed:
                    mounted.kill()
                else:
                    mounted.stop()
            with open(trace, encoding="ascii", errors="replace") as lines:  # zeros, and nothing else
                fills = lines.read().count("pwritev(")
            check(fills >= 4, "%d requests that fill", fills)
            check(there > COUNT // 2 * CLUSTER, "only %d bytes occupied, of %d", there,
                  COUNT * CLUSTER)
            if lazy and killed:
                tools.run("qemu-img", "check", "-q", "-r", "all", path, status=None)
            write.check_clean(path, leaks=killed)
            write.check_contents(path, model)
            if not killed:
                most = (COUNT + 8) * CLUSTER
                check(os.path.getsize(path) <= most, "%d bytes long", os.path.getsize(path))


filled_on("ext4")
filled_on("ext4", "cache=none")
filled_on("ext4", lazy=True)
filled_on("ext4", killed=True)
filled_on("ext4", lazy=True, killed=True)
filled_on("xfs")


def not_filled_on(kind, *options):
    @suite.test("clusters are not filled on %s%s: the host would gain nothing"
                % (kind, ", %s" % ", ".join(options) if options else ""),
                needs=[tools.tool("mkfs." + kind)] if kind != "tmpfs" else [])
    def _(directory):
        with write.small_host(directory, 512 * MiB, kind) as place:
            path = image.create(os.path.join(place, "image.qcow2"), COUNT * CLUSTER)
            model = write.model_of(path, directory)
            with mount.mount(path, *options, writable=True) as mounted:
                write_and_flush(mounted.disk, model, 1)
                there = occupied(path)
            check(there < COUNT // 4 * CLUSTER, "%d bytes occupied", there)
            write.check_clean(path)
            write.check_contents(path, model)


not_filled_on("tmpfs")
not_filled_on("ext4", "cache=unsafe")


@suite.test("a host that is too full to fill anything takes what is written nevertheless")
def _(directory):
    with write.small_host(directory, 24 * MiB, "ext4") as place:
        path = image.create(os.path.join(place, "image.qcow2"), COUNT * CLUSTER)
        model = write.model_of(path, directory)
        room = os.statvfs(place)
        with open(os.path.join(place, "rest"), "wb") as file:  # all but 4 MiB
            file.write(bytes(room.f_bavail * room.f_frsize - 4 * MiB))
            os.fsync(file.fileno())
        with mount.mount(path, writable=True) as mounted:
            write_and_flush(mounted.disk, model, 1)
        write.check_clean(path)
        compare.check_files(write.contents(path, os.path.join(directory, "contents.raw")), model)


if __name__ == "__main__":
    suite.main()
