#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The daemon is killed under a mounted ext4: after journal replay all that was fsynced is there."""

import contextlib
import os
import random
import signal
import threading
import time

from lib import image, mount, run, stamps, tap, tools, write
from lib.image import MiB
from lib.tap import check

DISK = 160 * MiB
WRITERS = 4
FILES = 12       # of one writer, whose contents are known
NOISE = 6        # files of one writer that it never fsyncs, nor looks at
LONGEST = 40     # blocks of one file
ROUNDS = 10 if write.long_run() else 5
CACHES = ("writeback", "none", "writethrough", "directsync", "unsafe")

suite = tap.Suite(needs=[tools.fuse, tools.QEMU, tools.loop, tools.file_system("ext4"),
                         tools.tool("mkfs.ext4", "e2fsck")])


def sync_directory(path):
    with write.opened(path, os.O_RDONLY | os.O_DIRECTORY) as handle:
        os.fsync(handle)


class File:
    """What is known of a file: its contents, a list of generations, one for each block.

    None stands for a file that is not there. `tried` is what it will be when the operation that
    is under way has ended; `whole`: it is one or the other, as a rename or an unlink leaves it.
    """

    def __init__(self, writer, number):
        self.name = "file-%d" % number
        self.first = (writer * FILES + number) * LONGEST * 2  # its blocks have numbers of their own
        self.kept = None
        self.tried = None
        self.whole = False
        self.busy = False

    def data(self, generations, start=0):
        return b"".join(stamps.block(self.first + start + index, generation)
                        for index, generation in enumerate(generations))

    def trying(self, generations, whole):
        self.tried, self.whole, self.busy = generations, whole, True

    def acknowledge(self):
        self.kept, self.busy = self.tried, False

    # --- after a crash ------------------------------------------------------

    def _states(self):
        return [self.kept, self.tried] if self.busy else [self.kept]

    def _check_mixed(self, found):
        """Each block is of one state or the other; one that was appended may be zeros."""
        check(self.kept is not None and found is not None, "%s is not there", self.name)
        check(len(self.data(self.kept)) <= len(found) <= len(self.data(self.tried)),
              "%s has %d bytes", self.name, len(found))
        for position in range(0, len(found), 512):
            number, within = divmod(position, stamps.BLOCK)
            states = [state[number] for state in (self.kept, self.tried) if number < len(state)]
            states += [0] if number >= len(self.kept) else []
            part = found[position:position + 512]
            check(any(part == stamps.block(self.first + number, state)[within:within + len(part)]
                      for state in states), "%s + %d holds %s; acknowledged is %r, tried %r",
                  self.name, position, part[:32].hex(), self.kept, self.tried)

    def check(self, directory):
        """Fails unless it is what was acknowledged, or what was being made of it."""
        path = os.path.join(directory, self.name)
        try:
            with open(path, "rb") as file:
                found = file.read()
        except FileNotFoundError:
            found = None
        for state in self._states():
            if found == (None if state is None else self.data(state)):
                self.kept, self.busy = state, False
                return
        check(self.busy and not self.whole, "%s is %s; acknowledged is %r, tried %r", self.name,
              "not there" if found is None else "%d bytes, beginning with %s"
              % (len(found), found[:32].hex()), self.kept, self._states())
        self._check_mixed(found)
        os.unlink(path)  # it is neither, so nobody knows it any more
        sync_directory(directory)
        self.kept, self.busy = None, False


class Writer(threading.Thread):
    """Changes its files, one after the other, each change followed by fsync, until that fails.

    What fsync says after the daemon was killed counts for nothing: when the commit of a transaction
    has failed and ended, ext4 finds nothing left to wait for, and fsync of a directory succeeds.
    """

    def __init__(self, place, files, number, seed):
        super().__init__(daemon=True)
        self.place = os.path.join(place, "writer-%d" % number)
        self.files = files
        self.generator = random.Random(seed)
        self.generation = seed * 100000
        self.acknowledged = 0
        self.error = None
        self.over = False  # set before the daemon is killed

    def _new(self, blocks):
        self.generation += 1
        return [self.generation] * blocks


    def _replace(self, known):
        """Writes a new file, and renames it over the old one."""
        generations = self._new(self.generator.randint(1, LONGEST))
        path = os.path.join(self.place, known.name)
        known.trying(generations, whole=True)
        with write.opened(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as handle:
            write.write_all(handle, known.data(generations), 0)
            os.fsync(handle)
        os.rename(path + ".new", path)
        sync_directory(self.place)

    def _remove(self, known):
        known.trying(None, whole=True)
        os.unlink(os.path.join(self.place, known.name))
        sync_directory(self.place)

    def _overwrite(self, known):
        """In place, and past the file's end."""
        start = self.generator.randint(0, len(known.kept))
        new = self._new(self.generator.randint(1, LONGEST - min(start, LONGEST - 1)))
        known.trying(known.kept[:start] + new + known.kept[start + len(new):], whole=False)
        with write.opened(os.path.join(self.place, known.name)) as handle:
            write.write_all(handle, known.data(new, start), start * stamps.BLOCK)
            os.fdatasync(handle)

    def _make_noise(self):
        """What comes and goes unsynced, so that clusters change their owners."""
        path = os.path.join(self.place, "noise-%d" % self.generator.randrange(NOISE))
        if os.path.exists(path) and self.generator.random() < 0.5:
            os.unlink(path)
            return
        with write.opened(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) as handle:
            os.write(handle, b"noise" * self.generator.randint(1, 100000))

    def _change(self):
        known = self.generator.choice(self.files)
        kind = self.generator.random()
        if known.kept is None or kind < 0.25:
            self._replace(known)
        elif kind < 0.35:
            self._remove(known)
        else:
            self._overwrite(known)
        if not self.over:
            known.acknowledge()
            self.acknowledged += 1

    def run(self):
        try:
            os.makedirs(self.place, exist_ok=True)
            while not self.over:
                self._change()
                if self.generator.random() < 0.3:
                    self._make_noise()
        except OSError as error:
            self.error = error


class Disk:
    """An image with an ext4 on it, and the record of what its files hold."""

    def __init__(self, kind, directory):
        raw = os.path.join(directory, "source.raw")
        with open(raw, "wb") as file:
            file.truncate(DISK)
        tools.run("mkfs.ext4", "-q", "-F", "-m", "0", "-J", "size=4", "-E",
                  "lazy_itable_init=0,nodiscard", raw)
        self.path = write.make(kind, directory, raw)
        os.unlink(raw)
        self.files = [[File(writer, number) for number in range(FILES)]
                      for writer in range(WRITERS)]

    @contextlib.contextmanager
    def mounted(self, mounted, direct=False, discard=False):
        arguments = ["--direct-io=on"] if direct else []
        options = "rw,discard" if discard else "rw"
        with mount.loop_device(mounted.disk, *arguments, writable=True) as device, \
                mount.file_system(device, "ext4", options) as place:
            yield place

    def kill_while_writing(self, seed, *options):
        """Returns how many changes the writers had acknowledged."""
        generator = random.Random(seed)
        with write.to_be_killed(self.path, *options) as mounted, \
                self.mounted(mounted, seed % 3 == 0, seed % 4 < 2) as place:
            writers = [Writer(place, self.files[number], number, seed * WRITERS + number)
                       for number in range(WRITERS)]
            for writer in writers:
                writer.start()
            try:
                stamps.wait(writers)
                time.sleep(generator.uniform(0, 1))
            finally:
                for writer in writers:
                    writer.over = True
                # It is unmounted when nothing is left upon it.
                os.kill(mounted.pids[0], signal.SIGKILL)
                acknowledged = stamps.join(writers)
        return acknowledged

    def check(self, *options):
        """Replays the journal; all that was acknowledged must be there."""
        with mount.mount(self.path, *options, writable=True) as mounted:
            with self.mounted(mounted) as place:
                for number, files in enumerate(self.files):
                    for known in files:
                        known.check(os.path.join(place, "writer-%d" % number))
            with mount.loop_device(mounted.disk) as device:
                tools.run("e2fsck", "-fn", device)


def modes(kind):
    """(options, whether it is lazy) of each round: all cache modes, eager and lazy in turn."""
    for number in range(ROUNDS):
        lazy = number % 2 == 1 and kind != "version 2"
        options = ["cache=" + CACHES[number % len(CACHES)]]
        options += ["lazy-refcounts=on"] if lazy else []
        options += write.SMALL_CACHES if number % 4 == 3 else ()
        yield options, lazy


def survives(kind, seed):
    @suite.test("killed %d times under ext4: no corruption, and the journal brings back all that "
                "was fsynced: %s" % (ROUNDS, kind), needs=write.needs(kind))
    def _(directory):
        disk = Disk(kind, directory)
        acknowledged = 0
        for number, (options, lazy) in enumerate(modes(kind)):
            told = "round %d, %s" % (number, ",".join(options))
            try:
                acknowledged += disk.kill_while_writing(seed + number, *options)
                if not lazy:
                    write.check_clean(disk.path, leaks=True)
                disk.check()
                write.check_clean(disk.path, leaks=True)
            except Exception:
                tap.diagnose(told)
                raise
        tap.diagnose("%d changes were acknowledged" % acknowledged)
        check(acknowledged >= 5 * ROUNDS, "only %d changes in all", acknowledged)


survives("clusters of 64 KiB", 1)
if write.long_run():
    for place, each in enumerate(("clusters of 4 KiB", "internal snapshots", "subclusters",
                                  "compressed clusters", "a chain of three", "version 2",
                                  "1-bit refcounts", "a data file", "clusters of 2 MiB")):
        survives(each, 100 * (place + 2))


if __name__ == "__main__":
    suite.main()
