#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The same through a mount, with the kernel's own parallel requests: see tests/races/README.md."""

import os

from lib import compare, image, mount, races, run, tap, tools, write
from lib.image import MiB

suite = tap.Suite(needs=[tools.fuse, tools.QEMU, races.built])
SIZE = 9 * MiB + 512
SECONDS = 900 if races.LONG else 6
OPERATIONS = 200000
GROWS = ("growable", "shrink")


def plain(directory, **options):
    return image.create(os.path.join(directory, "image.qcow2"), SIZE, **options)


def overlay(directory, **options):
    """On a raw file that is longer, so that what the disk gains must be hidden."""
    base = os.path.join(directory, "base.raw")
    with open(base, "wb") as file:
        file.write(b"\x05" * (2 * SIZE))
    return plain(directory, backing="base.raw", backing_format="raw", **options)


def subclusters(directory):
    return overlay(directory, extended_l2="on")


KINDS = {"an empty image": plain, "an overlay": overlay, "an overlay with subclusters": subclusters}


def through(name, sentence, kind, mount_options=(), arguments=(), needs=()):
    @suite.test(sentence % kind, needs=needs)
    def _(directory):
        run.watch_for(SECONDS * 3 + 300)
        path = KINDS[kind](directory)
        given = ["seed=%d" % races.SEED, *arguments]
        with mount.mount(path, *mount_options, writable=True) as mounted:
            races.single(name, directory, mounted.disk, *given, seconds=max(SECONDS, 600))
            shown = os.path.join(directory, "shown.raw")
            tools.run("cp", mounted.disk, shown)
        write.check_clean(path)
        os.truncate(shown, -(-os.path.getsize(shown) // 512) * 512)  # the image has whole sectors
        compare.check_files(image.to_raw(path, os.path.join(directory, "raw")), shown)


def limits():
    return ["operations=%d" % OPERATIONS] if races.LONG else ["seconds=%d" % SECONDS]


for kind in KINDS:
    subs = [tools.EXTENDED_L2] if kind == "an overlay with subclusters" else []
    through("mounted", "parallel direct requests of several MiB, beside fallocate: %s", kind,
            arguments=["mode=direct", "seconds=%d" % SECONDS], needs=subs)
    through("mounted", "stores to a mapping, beside fallocate: %s", kind,
            arguments=["mode=mapped", "seconds=%d" % SECONDS], needs=subs)
    through("mounted", "parallel direct writes past the end of a disk that grows: %s", kind, GROWS,
            ["mode=direct", "grows=1", "seconds=%d" % SECONDS], needs=subs)

for kind in ("an empty image", "an overlay with subclusters"):
    subs = [tools.EXTENDED_L2] if kind == "an overlay with subclusters" else []
    for direct in (0, 1):
        how = ", O_DIRECT" if direct else ""
        through("fsx", "fsx: %s" + how, kind, arguments=["direct=%d" % direct, *limits()],
                needs=subs)
        through("fsx", "fsx on a disk that grows and shrinks: %s" + how, kind, GROWS,
                ["direct=%d" % direct, "grows=1", "shrinks=1", *limits()], needs=subs)


@suite.test("what fio writes by io_uring, many requests in flight, is there",
            needs=[tools.tool("fio")])
def _(directory):
    path = subclusters(directory)
    with mount.mount(path, writable=True) as mounted:
        done = tools.run(
            "fio", "--name=many", "--filename=" + mounted.disk, "--allow_file_create=0",
            "--rw=randwrite", "--ioengine=io_uring", "--iodepth=32", "--direct=1",
            "--bssplit=512/20:4k/40:64k/30:1m/8:3m/2", "--blockalign=512", "--size=9m",
            "--verify=crc32c", "--verify_fatal=1", "--fdatasync=40", "--fallocate=none",
            "--randseed=%d" % races.SEED, "--minimal", "--aux-path=" + directory, cwd=directory,
            status=None)
        if "io_uring" in done.stderr and done.returncode != 0:
            raise tap.Skip("io_uring cannot be used here")
        tap.check_equal(done.returncode, 0, "fio's exit status: " + done.stderr[-1000:])
    write.check_clean(path)


if __name__ == "__main__":
    suite.main()
