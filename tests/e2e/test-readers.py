#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Many readers at once: whatever the others do, each reads what is there."""

import contextlib
import json
import os
import threading
import types

from lib import compare, image, mount, tap, tools
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.QEMU])
READERS = 8
SIZE = 24 * MiB


def at_once(*functions):
    """Runs the functions, each in a thread; raises what the first one that failed raised."""
    failed = []

    def guarded(function):
        try:
            function()
        except Exception as error:  # pylint: disable=broad-except
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def compressed(directory):
    """Every cluster compressed: what is decompressed is shared, and evicted under its readers."""
    raw = image.sparse_raw(os.path.join(directory, "source.raw"), SIZE, pieces=30)
    return image.convert(raw, os.path.join(directory, "image.qcow2"), "-c")


def chain(directory):
    """A raw base and three overlays with clusters of 4 KiB: many L2 slices."""
    name, kind = "base.raw", "raw"
    image.sparse_raw(os.path.join(directory, name), SIZE)
    for number in range(3):
        path = image.create(os.path.join(directory, "%d.qcow2" % number), SIZE, backing=name,
                            backing_format=kind, cluster_size="4k")
        image.scribble(path, SIZE, seed=70 + number, operations=60, cluster_size=4 * KiB)
        name, kind = os.path.basename(path), "qcow2"
    return path


def subclusters(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), SIZE, extended_l2="on")
    image.scribble(path, SIZE, seed=75, operations=150, cluster_size=64 * KiB)
    return path


def readers(name, make, *options, needs=()):
    @contextlib.contextmanager
    def prepare(directory):
        state = types.SimpleNamespace(directory=directory)
        path = make(directory)
        state.expected = image.to_raw(path, os.path.join(directory, "expected.raw"))
        with mount.mount(path, *options, directory=True) as mounted:
            state.mounted, state.disk = mounted, mounted.disk
            yield state

    group = suite.group(name, prepare, "unmounting ends the daemon with status 0", needs)

    @group.test("%d readers at once read what is there" % READERS)
    def _(state):
        compare.forget(state.disk)
        checks = (compare.check_random_preads, compare.check_direct_reads)
        at_once(*[lambda seed=seed: checks[seed % 2](state.disk, state.expected, seed=seed,
                                                     count=120, longest=200 * KiB)
                  for seed in range(READERS)])

    @group.test("%d readers of the same bytes at once read what is there" % READERS)
    def _(state):
        at_once(*[lambda: compare.check_direct_reads(state.disk, state.expected, seed=99,
                                                     count=120, longest=100 * KiB)
                  for _ in range(READERS)])

    @group.test("reads, walks over the holes and looks at the counters do not disturb each other")
    def _(state):
        wanted = image.seek_extents(state.disk)

        def walk():
            for _ in range(5):
                check_equal(image.seek_extents(state.disk), wanted, "the data of the disk")

        def look():
            path = os.path.join(state.mounted.path, "stats.json")
            before = -1
            for _ in range(50 if os.path.exists(path) else 0):
                with open(path, "rb") as file:
                    now = json.load(file)["bytes-read"]
                check(now >= before, "bytes-read went from %d to %d", before, now)
                before = now

        at_once(walk, walk, look, look, *[
            lambda seed=seed: compare.check_direct_reads(state.disk, state.expected, seed=seed,
                                                         count=100, longest=100 * KiB)
            for seed in range(4)])


SMALL_CACHES = ("l2-cache-size=8k", "l2-cache-entry-size=4k", "data-cache-size=192k")

readers("compressed clusters", compressed)
readers("compressed clusters, caches too small", compressed, *SMALL_CACHES)
readers("a chain of four", chain)
readers("a chain of four, caches too small", chain, *SMALL_CACHES)
readers("subclusters, in one thread", subclusters, "threads=1", needs=[tools.EXTENDED_L2])
readers("a chain of four, cleaned every second", chain, "cache-clean-interval=1")

if __name__ == "__main__":
    suite.main()
