#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Lazy refcounts, step by step, in the bytes of the file: rule R5 of docs/design.md."""

import os
import re
import signal

from lib import bad, compare, image, mount, qcow2, tap, tools, tracing, write
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.QEMU])
SIZE = 16 * MiB
WRITTEN = 2 * MiB     # of the disk, before the test begins
FAR = 8 * MiB         # where nothing has been written


def make(directory, **options):
    """An image, lazily counted, with data at its beginning; and a model of its disk."""
    path = image.create(os.path.join(directory, "image.qcow2"), SIZE,
                        **dict({"lazy_refcounts": "on"}, **options))
    image.io(path, image.write(0, WRITTEN, 1))
    check(not is_dirty(path), "it is dirty already")
    return path, write.model_of(path, directory)


def is_dirty(path):
    with qcow2.Qcow2(path) as opened:
        return bool(opened["incompatible_features"] & qcow2.DIRTY)


def count_of(path, guest_offset):
    """(what the file has as the cluster's refcount, its host offset) of a guest offset."""
    with qcow2.Qcow2(path) as opened:
        if opened.l2_entry_position(guest_offset) is None:
            return None, 0
        offset = opened.l2_entry(guest_offset) & qcow2.HOST_OFFSET_MASK
        return opened.refcount(offset), offset


def change(disk, model, offset, data, sync=True):
    """Writes to the disk past the page cache, and to the model."""
    with write.Direct(disk) as direct, write.opened(model) as plain:
        direct.write(offset, data)
        write.write_all(plain, data, offset)
        if sync:
            direct.sync()


def data(seed, length=64 * KiB):
    return image.pattern(length, seed)


def kill_while_dirty(path, model):
    """Leaves a dirty image behind, in which all that is in the model was flushed."""
    with write.to_be_killed(path) as mounted:
        change(mounted.disk, model, FAR, data(3, 3 * 64 * KiB))
        change(mounted.disk, model, FAR + MiB, data(4))
        mounted.kill()
    check(is_dirty(path), "it is not dirty")


# --- when the bit is set -----------------------------


@suite.test("a writable mount alone does not make the image dirty")
def _(directory):
    path, model = make(directory)
    unchanged = compare.Unchanged(path).before(path)["sha256"]
    with mount.mount(path, writable=True) as mounted:
        compare.check_files(mounted.disk, model)
        check(not is_dirty(path), "it is dirty")
    check_equal(compare.sha256(path), unchanged, "the image")


@suite.test("writing where there are clusters already does not make the image dirty")
def _(directory):
    path, model = make(directory)
    with mount.mount(path, writable=True) as mounted:
        change(mounted.disk, model, 100 * KiB, data(2))
        check(not is_dirty(path), "it is dirty")
        before, _offset = count_of(path, 100 * KiB)
        check_equal(before, 1, "the refcount")
    check(not is_dirty(path), "it is dirty afterwards")
    write.check_clean(path)
    write.check_contents(path, model)


@suite.test("an allocation makes the image dirty; a clean unmount makes it clean")
def _(directory):
    path, model = make(directory)
    with mount.mount(path, writable=True) as mounted:
        change(mounted.disk, model, FAR, data(2))
        check(is_dirty(path), "it is not dirty")
    check(not is_dirty(path), "it is dirty after the unmount")
    write.check_clean(path)
    write.check_contents(path, model)


@suite.test("a flush writes no refcounts while the image is dirty; a clean unmount writes all")
def _(directory):
    path, model = make(directory)
    with mount.mount(path, writable=True) as mounted:
        for number in range(10):
            change(mounted.disk, model, FAR + number * 64 * KiB, data(number))
            count, offset = count_of(path, FAR + number * 64 * KiB)
            check(offset != 0, "the flushed mapping is not in the file")
            check_equal(count, 0, "the refcount of the cluster at %d" % offset)
    for number in range(10):
        check_equal(count_of(path, FAR + number * 64 * KiB)[0], 1, "the refcount")
    write.check_clean(path)
    write.check_contents(path, model)


@suite.test("without lazy refcounts, a flush has written the counts, and nothing becomes dirty")
def _(directory):
    for options, mounted_with in (({"lazy_refcounts": "off"}, ()),
                                  ({}, ("lazy-refcounts=off",))):
        path, model = make(directory, **options)
        with mount.mount(path, *mounted_with, writable=True) as mounted:
            for number in range(10):
                change(mounted.disk, model, FAR + number * 64 * KiB, data(number))
                check_equal(count_of(path, FAR + number * 64 * KiB)[0], 1, "the refcount")
                check(not is_dirty(path), "it is dirty")
        check(not is_dirty(path), "it is dirty afterwards")
        write.check_clean(path)
        write.check_contents(path, model)
        with qcow2.Qcow2(path) as opened:
            check_equal(opened["compatible_features"] & qcow2.LAZY_REFCOUNTS,
                        0 if options else qcow2.LAZY_REFCOUNTS, "the image's own choice")


@suite.test("lazy-refcounts=on counts lazily where the image does not ask for it")
def _(directory):
    path, model = make(directory, lazy_refcounts="off")
    with mount.mount(path, "lazy-refcounts=on", writable=True) as mounted:
        change(mounted.disk, model, FAR, data(2))
        check(is_dirty(path), "it is not dirty")
        check_equal(count_of(path, FAR)[0], 0, "the refcount")
    check(not is_dirty(path), "it is dirty afterwards")
    write.check_clean(path)
    write.check_contents(path, model)
    with qcow2.Qcow2(path) as opened:
        check_equal(opened["compatible_features"], 0, "the image's own choice")


@suite.test("lazy-refcounts=on is refused for version 2, with what can be done")
def _(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), SIZE, compat="0.10")
    bad.refused(path, "lazy refcounts", "compat=0.10", "lazy-refcounts=on", "amend",
                options=["lazy-refcounts=on"], status=2)
    with mount.mount(path, "lazy-refcounts=off", writable=True) as mounted:
        with write.Direct(mounted.disk) as direct:
            direct.write(0, data(1))
    write.check_clean(path)


# --- in which order -----------------------------


class Trace:
    """strace of a daemon: its writes and syncs, in order."""

    CALLS = "pwrite64,pwritev,pwritev2,write,fdatasync,fsync,fallocate"

    def __init__(self, pid, path):
        self.path = path
        self.process = tracing.attach(pid, "-y", "-s", "16", "-o", path,
                                      "-e", "trace=" + self.CALLS)

    def end(self):
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=tools.TIMEOUT)

    def events(self, name):
        """("write", offset, length) when one begins and ("sync",) when one has ended, of a file."""
        found = []
        syncing = set()
        with open(self.path, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                pid, _blank, call = line.strip().partition(" ")
                call = call.strip()
                wrote = re.match(r'pwrite64\(\d+<([^>]*)>, .*, (\d+), (\d+)', call)
                if wrote and wrote[1].endswith(name):
                    found.append(("write", int(wrote[3]), int(wrote[2])))
                elif re.match(r"(pwritev|fallocate)", call) and name in call:
                    numbers = [int(value) for value in re.findall(r", (\d+)(?=[,) ])", call)]
                    found.append(("write", numbers[-1] if numbers else -1, 0))
                elif re.match(r"fd?a?t?a?sync\(", call) and name in call:
                    if "= 0" in call:
                        found.append(("sync",))
                    else:
                        syncing.add(pid)
                elif "sync resumed" in call and pid in syncing:
                    syncing.discard(pid)
                    found.append(("sync",))
        return found


def traced(directory, path, body, *options):
    """The events of the image's file while the body runs on the mounted disk."""
    with mount.mount(path, *options, "metadata-interval=0", *mount.seen(), writable=True) as mounted:
        trace = Trace(mounted.pids[0], os.path.join(directory, "trace"))
        try:
            body(mounted.disk)
        finally:
            trace.end()
    return trace.events(os.path.basename(path))


def position(events, wanted):
    where = [index for index, event in enumerate(events) if wanted(event)]
    check(where, "not among %r", events[:60])
    return where[0]


@suite.test("the dirty bit is written, and synced, before anything else is written",
            needs=[tools.tool("strace")])
def _(directory):
    path, model = make(directory)
    events = traced(directory, path, lambda disk: change(disk, model, FAR, data(2)))
    check_equal(events[0], ("write", qcow2.HEADER["incompatible_features"][0], 8),
                "the first event")
    check_equal(events[1], ("sync",), "the second event")
    write.check_clean(path)
    write.check_contents(path, model)


@suite.test("a flush syncs after the last write of the mapping", needs=[tools.tool("strace")])
def _(directory):
    for lazy in ("on", "off"):
        path, model = make(directory, lazy_refcounts=lazy)
        with qcow2.Qcow2(path) as opened:
            table = opened.l2_entry_position(FAR)
            cluster = opened.cluster_size
        events = traced(directory, path, lambda disk: change(disk, model, FAR, data(2)))
        mapping = position(events, lambda event: event[0] == "write"
                           and event[1] // cluster == table // cluster)
        check(("sync",) in events[mapping:], "no sync behind the mapping: %r", events)
        written = position(events, lambda event: event[0] == "write" and event[2] == 64 * KiB)
        check(written < mapping, "the mapping before the data: %r", events)
        write.check_contents(path, model)


@suite.test("what is copied to a new cluster is synced before the entry that names it (R1)",
            needs=[tools.tool("strace")])
def _(directory):
    """Clusters that a snapshot shares are copied; the L2 table is the disk's own already."""
    path, model = make(directory, lazy_refcounts="off")
    tools.run("qemu-img", "snapshot", "-c", "one", path)
    with mount.mount(path, writable=True) as mounted:
        change(mounted.disk, model, 0, data(8))
    events = traced(directory, path, lambda disk: change(disk, model, MiB, data(9, 10 * KiB)))
    with qcow2.Qcow2(path) as opened:
        entry, cluster = opened.l2_entry_position(MiB), opened.cluster_size
    _count, host_offset = count_of(path, MiB)

    def writes_of(start, end):
        return [index for index, event in enumerate(events) if event[0] == "write"
                and event[1] < end and event[1] + event[2] > start]

    copied, named = writes_of(host_offset, host_offset + cluster), writes_of(entry, entry + 8)
    check(copied and len(named) == 1, "the writes are %r", events)
    check(("sync",) in events[copied[-1]:named[0]], "no sync between the data and its entry: %r",
          events)
    check(("sync",) in events[named[0]:], "no sync behind the entry: %r", events)
    write.check_clean(path)
    write.check_contents(path, model)


@suite.test("a new L2 table is synced before the L1 entry that names it (R3)",
            needs=[tools.tool("strace")])
def _(directory):
    path, model = make(directory, lazy_refcounts="off")
    tools.run("qemu-img", "snapshot", "-c", "one", path)
    events = traced(directory, path, lambda disk: change(disk, model, 0, data(9)))
    with qcow2.Qcow2(path) as opened:
        pointer, table = opened.l1_entry_position(0), opened.l2_entry_position(0)
        cluster = opened.cluster_size
    named = position(events, lambda event: event[0] == "write"
                     and event[1] <= pointer < event[1] + event[2])
    written = [index for index, event in enumerate(events[:named]) if event[0] == "write"
               and event[1] // cluster == table // cluster]
    check(written, "the table is not written before its entry: %r", events)
    check(("sync",) in events[written[-1]:named], "no sync between the table and its entry: %r",
          events)
    check(("sync",) in events[named:], "no sync behind the L1 entry: %r", events)
    write.check_clean(path)
    write.check_contents(path, model)


# --- after a crash -----------------------------


@suite.test("a daemon that is killed leaves a dirty image, and all that was flushed")
def _(directory):
    path, model = make(directory)
    kill_while_dirty(path, model)
    compare.check_files(write.contents(path), model)


@suite.test("a read-only mount of a dirty image reads it, and leaves it alone")
def _(directory):
    path, model = make(directory)
    kill_while_dirty(path, model)
    unchanged = compare.Unchanged(path)
    with mount.mount(path) as mounted:
        compare.check_files(mounted.disk, model)
    unchanged.check()


@suite.test("repair=off refuses a dirty image, says why, and leaves it alone")
def _(directory):
    path, model = make(directory)
    kill_while_dirty(path, model)
    bad.refused(path, "marked dirty", "repair=off", options=["repair=off"])


@suite.test("a writable mount repairs a dirty image, says so, and keeps what was flushed")
def _(directory):
    path, model = make(directory)
    kill_while_dirty(path, model)
    with mount.mount(path, writable=True) as mounted:
        check(not is_dirty(path), "it is still dirty")
        compare.check_files(mounted.disk, model)
        told = mounted.stderr()
        check("repair" in told and os.path.basename(path) in told, "it said %r", told)
        change(mounted.disk, model, FAR + 2 * MiB, data(5))
        check(is_dirty(path), "it is not dirty again")
    write.check_clean(path)
    write.check_contents(path, model)


@suite.test("after a repair, what was allocated and never flushed is used again")
def _(directory):
    path, model = make(directory)
    with write.to_be_killed(path, "metadata-interval=0") as mounted:
        change(mounted.disk, model, FAR, data(3))
        with write.Direct(mounted.disk) as direct:
            direct.write(FAR + MiB, data(4, 3 * MiB))
            mounted.kill()  # a close would be a flush
    size = os.path.getsize(path)
    with mount.mount(path, writable=True) as mounted:
        compare.check_files(mounted.disk, model)
        change(mounted.disk, model, FAR + 4 * MiB, data(5, 3 * MiB))
    write.check_clean(path)
    write.check_contents(path, model)
    check(os.path.getsize(path) <= size + 256 * KiB, "the file has %d bytes after %d",
          os.path.getsize(path), size)


@suite.test("snapshots, subclusters and compressed clusters are counted right by a repair")
def _(directory):
    for kind in ("internal snapshots", "subclusters", "compressed clusters", "clusters of 4 KiB"):
        place = os.path.join(directory, kind.replace(" ", "-"))
        os.mkdir(place)
        raw = write.source(place, SIZE)
        path = write.make(kind, place, raw)
        model = write.model_of(path, place)
        with write.to_be_killed(path, "lazy-refcounts=on", "metadata-interval=1") as mounted:
            write.scribble(mounted.disk, model, seed=5, operations=60)
            with write.Direct(mounted.disk) as direct:
                direct.sync()
            mounted.kill()
        check(is_dirty(path), "it is not dirty")
        with mount.mount(path, writable=True) as mounted:
            compare.check_files(mounted.disk, model)
        write.check_clean(path)
        write.check_contents(path, model)


@suite.test("metadata-interval writes the mapping of what nobody flushed or closed")
def _(directory):
    path, model = make(directory)
    with write.to_be_killed(path, "metadata-interval=1") as mounted, \
            write.Direct(mounted.disk) as direct, write.opened(model) as plain:
        direct.write(FAR, data(3))
        write.write_all(plain, data(3), FAR)
        bad.wait_for(lambda: count_of(path, FAR)[1] != 0, "the mapping is written")
        mounted.kill()
    compare.check_files(write.contents(path), model)


if __name__ == "__main__":
    suite.main()
