#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What a server is asked for: requests of the size that it prefers, and L2 slices before a reader waits for them."""

import contextlib
import mmap
import os
import random
import threading
import time

from lib import compare, image, mount, nbd, qcow2, tap, tools
from lib.image import MiB
from lib.tap import check, check_equal

KiB = 1024
SIZE = 40 * MiB
suite = tap.Suite(needs=[tools.fuse, tools.QEMU, nbd.built])


class Asked:
    """The reads of a server, in the order in which they came."""

    def __init__(self, server):
        self._reads = []
        self._came = threading.Condition()
        server.before = self._note

    def _note(self, kind, offset, length):
        if kind == nbd.READ:
            with self._came:
                self._reads.append((offset, length))
                self._came.notify_all()
        time.sleep(0.001)

    def within(self, begin, end):
        with self._came:
            return [each for each in self._reads if begin <= each[0] < end]

    def wait_for(self, offset, length):
        """Until so much has been asked for at once. Whether it was."""
        def is_there():
            return any(at <= offset and offset + length <= at + many for at, many in self._reads)

        with self._came:
            return self._came.wait_for(is_there, timeout=tools.TIMEOUT)


@contextlib.contextmanager
def served(directory, blocks, *options, **of_image):
    """A disk without a hole on a server: (its requests, the mounted disk, where in the file it is, the L2 table)."""
    raw, path = os.path.join(directory, "raw"), os.path.join(directory, "image.qcow2")
    with open(raw, "wb") as file:
        file.write(random.Random(20).randbytes(SIZE))
    image.convert(raw, path, **of_image)
    with qcow2.Qcow2(path) as opened:
        table = opened.l1_entry(0) & 0x00fffffffffffe00

        def host(guest):
            cluster = opened.cluster_size
            return (opened.l2_entry(guest) & 0x00fffffffffffe00) + guest % cluster

        with open(path, "rb") as file, \
                nbd.Server(directory, file.read(), nbd.EVERYTHING | nbd.READ_ONLY, blocks=blocks) as server:
            asked = Asked(server)
            with mount.mount(server.address, "ro", *options) as mounted:
                yield asked, mounted.disk, host, table
                compare.check_files(mounted.disk, raw)


def read_direct(path, offset, length):
    handle = os.open(path, os.O_RDONLY | os.O_DIRECT)
    buffer = mmap.mmap(-1, length)  # aligned, as O_DIRECT wants it
    try:
        check_equal(os.preadv(handle, [buffer], offset), length, "the bytes read")
    finally:
        os.close(handle)
        buffer.close()


for blocks, slice_size in (((1, 256 * KiB, 1 * MiB), 256 * KiB), ((1, 4 * KiB, 32 * MiB), 64 * KiB), (None, 64 * KiB)):

    @suite.test("a server that %s: L2 tables in pieces of %d KiB, data of which 4 KiB are read no more than those"
                % ("prefers %d KiB" % (blocks[1] / KiB) if blocks else "prefers nothing", slice_size / KiB))
    def _(directory, blocks=blocks, slice_size=slice_size):
        with served(directory, blocks, cluster_size=2 * MiB) as (asked, disk, host, table):
            places = random.Random(3).sample(range(1, 20), 12)
            for place in places:
                read_direct(disk, place * 2 * MiB + 60 * KiB, 4 * KiB)
            check_equal(asked.within(table, table + 2 * MiB), [(table, slice_size)], "what was read of the L2 table")
            for place in places:
                at = host(place * 2 * MiB)
                check_equal(asked.within(at, at + 2 * MiB), [(at + 60 * KiB, 4 * KiB)], "what was read of the data")


@suite.test("a long read is cut where a block begins that the server prefers")
def _(directory):
    with served(directory, (1, 16 * KiB, 64 * KiB), cluster_size=2 * MiB) as (asked, disk, host, _table):
        at = host(4 * MiB)
        read_direct(disk, 4 * MiB + 4 * KiB, 128 * KiB)
        check_equal(sorted(asked.within(at, at + 2 * MiB)),
                    [(at + 4 * KiB, 60 * KiB), (at + 64 * KiB, 64 * KiB), (at + 128 * KiB, 4 * KiB)], "the requests")


@suite.test("a reader in order: each L2 slice is asked for before the data in front of what it maps was read")
def _(directory):
    covered = 64 * 64 * KiB  # by 512 bytes of the table
    with served(directory, None, "l2-cache-entry-size=512") as (asked, disk, _host, table):
        for at in range(0, SIZE - covered, 128 * KiB):
            read_direct(disk, at, 128 * KiB)
            if at % covered == covered // 2:
                check(asked.wait_for(table + (at // covered + 1) * 512, 512),
                      "at %d nobody has asked for the slice behind it", at)


@suite.test("who reads here and there has no L2 slice asked for but those that are needed")
def _(directory):
    covered = 64 * 64 * KiB
    with served(directory, None, "l2-cache-entry-size=512") as (asked, disk, _host, table):
        for at in (1, 7, 3):
            for within in random.Random(at).sample(range(0, covered, 256 * KiB), 8):
                read_direct(disk, at * covered + within, 4 * KiB)
        check_equal(sorted(asked.within(table, table + 64 * KiB)), [(table + at * 512, 512) for at in (1, 3, 7)],
                    "what was read of the L2 table")


if __name__ == "__main__":
    suite.main()
