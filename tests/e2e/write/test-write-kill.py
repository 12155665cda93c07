#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The daemon is killed while it writes: what was acknowledged is there, nothing is foreign."""

import contextlib
import os
import random
import signal
import time

from lib import bad, compare, image, mount, run, stamps, tap, tools, tracing, write
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.QEMU])
BLOCKS = 16 * MiB // stamps.BLOCK
KILLS = 10 if write.long_run() else 2
LAZY = "lazy refcounts"


def check_disk(path, ledger):
    """QEMU, and a read-only mount, read what the ledger knows."""
    raw = write.contents(path)
    try:
        ledger.check(raw)
    finally:
        os.unlink(raw)
    with mount.mount(path) as mounted:
        ledger.check(mounted.disk)


def kill_while_writing(path, ledger, seed, *options):
    """Returns what the writers have been acknowledged."""
    generator = random.Random(seed)
    with write.to_be_killed(path, *options) as mounted:
        writers = stamps.start(mounted.disk, ledger, seed)
        stamps.wait(writers)
        time.sleep(generator.uniform(0, 0.7))
        mounted.kill()
        acknowledged = stamps.join(writers)
    if mount.is_mounted(mounted.path):
        run.unmount(mounted.path, lazy=True)
    return acknowledged


def survives(kind, *options, lazy=False):
    name = " ".join((kind, *options))

    @suite.test("killed %d times: all that was acknowledged is there, nothing is foreign: %s"
                % (KILLS, name), needs=write.needs(kind))
    def _(directory):
        ledger = stamps.Ledger(BLOCKS)
        raw = ledger.fill(os.path.join(directory, "source.raw"))
        path = write.make(kind, directory, raw)
        check_disk(path, ledger)
        acknowledged = 0
        for number in range(KILLS):
            acknowledged += kill_while_writing(path, ledger, 10 + number, *options)
            if lazy:
                copy = write.copy_image(path, path + ".copy")
                tools.run("qemu-img", "check", "-q", "-r", "all", copy, status=None)
                write.check_clean(copy, leaks=True)
                check_disk(copy, ledger)
                os.unlink(copy)
            else:
                write.check_clean(path, leaks=True)
            check_disk(path, ledger)
            with mount.mount(path, *options, writable=True) as mounted:
                ledger.check(mounted.disk)
                ledger.settle(mounted.disk)
            write.check_clean(path, leaks=True)
        check(acknowledged >= 4 * KILLS, "only %d syncs in all", acknowledged)
        with mount.mount(path, writable=True) as mounted:
            model = write.model_of_disk(mounted.disk, directory)
            write.scribble(mounted.disk, model, seed=3)
        write.check_clean(path, leaks=True)
        write.check_contents(path, model)


survives("clusters of 64 KiB")
survives("clusters of 4 KiB", "metadata-interval=1")
survives("internal snapshots")
survives(LAZY, lazy=True)
survives("subclusters", "discard=unmap")
survives("compressed clusters", *write.SMALL_CACHES)
survives("a chain of three", "lazy-refcounts=on", *write.SMALL_CACHES, lazy=True)
if write.long_run():
    survives("clusters of 2 MiB")
    survives("version 2")
    survives("1-bit refcounts")
    survives("a data file")
    survives("clusters of 64 KiB", "cache=none")
    survives("clusters of 64 KiB", "cache=directsync")
    survives("internal snapshots", "lazy-refcounts=on", lazy=True)


# --- clusters that are dropped, and not yet free (R4) -----------------------------


def write_stamps(direct, ledger, first, count):
    """Stamps blocks with a new generation; nothing is acknowledged."""
    generation = ledger.new_generation()
    ledger.trying(first, count, generation)
    for start in range(first, first + count, MiB // stamps.BLOCK):
        direct.write(start * stamps.BLOCK, b"".join(
            stamps.block(number, generation)
            for number in range(start, min(start + MiB // stamps.BLOCK, first + count))))


def reuses_nothing_too_early(kind, *options):
    @suite.test("clusters that a discard or a write has dropped keep their bytes until that is "
                "stable: %s" % " ".join((kind, *options)), needs=write.needs(kind))
    def _(directory):
        half = 32 * MiB // stamps.BLOCK
        ledger = stamps.Ledger(2 * half)
        raw = ledger.fill(os.path.join(directory, "source.raw"), share=1)
        os.truncate(raw, 4096 * MiB)  # so that the L2 cache has room, and nothing is flushed
        path = write.make(kind, directory, raw)
        with write.to_be_killed(path, *options, "metadata-interval=0") as mounted, \
                write.Direct(mounted.disk) as direct, write.opened(mounted.disk) as handle:
            ledger.trying(0, half, 0)
            for start in range(0, half * stamps.BLOCK, MiB):
                write.punch(handle, start, MiB)
            # What was dropped would be taken for these, were it free already.
            write_stamps(direct, ledger, 0, half)
            write_stamps(direct, ledger, half, half)
            write_stamps(direct, ledger, 0, half)
            mounted.kill()
        write.check_clean(path, leaks=True)
        with mount.mount(path) as mounted:
            ledger.check(mounted.disk)


reuses_nothing_too_early("clusters of 64 KiB")
reuses_nothing_too_early("compressed clusters")
reuses_nothing_too_early("clusters of 64 KiB", "discard=ignore")


# --- ended, rather than killed -----------------------------


def ended_by(number, foreground):
    @suite.test("%s (%s) writes all that it has been given, and leaves a clean image"
                % (signal.Signals(number).name, "foreground" if foreground else "background"))
    def _(directory):
        path = image.create(os.path.join(directory, "image.qcow2"), 16 * MiB,
                            lazy_refcounts="on" if foreground else "off")
        model = write.model_of(path, directory)
        with mount.mount(path, "metadata-interval=0", writable=True,
                         foreground=foreground) as mounted:
            with write.opened(mounted.disk) as handle, write.opened(model) as plain:
                for offset in range(0, 15 * MiB, 900 * KiB):
                    data = image.pattern(200 * KiB, 1)
                    write.write_all(handle, data, offset)
                    write.write_all(plain, data, offset)
            os.kill(mounted.pids[0], number)
            bad.wait_for(lambda: not mount.is_mounted(mounted.path), "it is unmounted")
            mounted.wait()
        write.check_clean(path)
        write.check_contents(path, model)


ended_by(signal.SIGTERM, True)
ended_by(signal.SIGINT, True)
ended_by(signal.SIGTERM, False)
ended_by(signal.SIGHUP, True)


@suite.test("an unmount writes all that nobody has flushed")
def _(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), 16 * MiB)
    model = write.model_of(path, directory)
    with mount.mount(path, "metadata-interval=0", writable=True) as mounted:
        write.scribble(mounted.disk, model, seed=1)
    write.check_clean(path)
    write.check_contents(path, model)


@suite.test("SIGTERM while threads write keeps what was acknowledged")
def _(directory):
    ledger = stamps.Ledger(BLOCKS)
    raw = ledger.fill(os.path.join(directory, "source.raw"))
    path = write.make("clusters of 64 KiB", directory, raw)
    with mount.mount(path, writable=True) as mounted:
        writers = stamps.start(mounted.disk, ledger, 5)
        stamps.wait(writers)
        os.kill(mounted.pids[0], signal.SIGTERM)
        stamps.join(writers)
        bad.wait_for(lambda: not mount.is_mounted(mounted.path), "it is unmounted")
        mounted.wait()
    write.check_clean(path)
    check_disk(path, ledger)


def read_text(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def abort_connection(minor):
    """Ends a connection whose server cannot end: nothing may stay behind."""
    top = "/sys/fs/fuse/connections"
    if not os.listdir(top):
        tools.run("mount", "-t", "fusectl", "none", top)
    with contextlib.suppress(OSError), open("%s/%d/abort" % (top, minor), "w",
                                            encoding="ascii") as file:
        file.write("1")


@suite.test("a daemon that waits for the kernel to hand over its cache can be killed, and is gone",
            needs=[tools.tool("strace")])
def _(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), 16 * MiB)
    with write.to_be_killed(path, "metadata-interval=0", *mount.seen()) as mounted:
        pid = mounted.pids[0]
        minor = os.minor(os.stat(mounted.disk).st_dev)
        log = os.path.join(directory, "calls")
        with write.opened(mounted.disk) as handle:
            with tracing.injected(pid, "pwrite64", "delay_enter=20000000", log=log):
                write.write_all(handle, image.pattern(64 * KiB, 1), 0)
                os.kill(pid, signal.SIGTERM)  # asks for what was written; nothing comes of it
                bad.wait_for(lambda: "pwrite64(" in read_text(log), "a write that waits")
                os.kill(pid, signal.SIGKILL)
            try:
                bad.wait_for(mounted.has_ended, "no thread of it is left")
            finally:
                abort_connection(minor)
    if mount.is_mounted(mounted.path):
        run.unmount(mounted.path, lazy=True)
    with mount.mount(path, writable=True):
        pass  # its locks are gone as well
    write.check_clean(path, leaks=True)


if __name__ == "__main__":
    suite.main()
