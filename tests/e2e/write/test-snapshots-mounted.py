#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Snapshots of a disk that is mounted: mkdir, rmdir and mv in snapshots/, with QEMU as the oracle."""

import contextlib
import errno
import json
import mmap
import os
import random
import signal
import subprocess
import threading

from lib import bad, changed, ctl, image, mount, stamps, tap, tools, write
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.QEMU])
SIZE = 6 * MiB
FILE_SYSTEM = 96 * MiB
FILE_SYSTEM_SNAPSHOTS = 100 if write.long_run() else 12
KILLS = 20 if write.long_run() else 5


def read(path):
    with open(path, "rb") as file:
        return file.read()


def listed(path):
    return [each["name"] for each in image.info(path).get("snapshots", ())]


# --- what they show ---------------------------------------------------------------------------

class Disk:
    """A mounted disk that stays open to write, and what it and its snapshots must show."""

    def __init__(self, mounted, expected, chance):
        self.path = os.path.join(mounted.path, "snapshots")
        self.disk, self.chance = mounted.disk, chance
        self.state = bytearray(expected)
        self.kept = {name: read(self.view(name)) for name in os.listdir(self.path)}
        self.number = 0

    def view(self, name):
        return os.path.join(self.path, name, "disk.raw")

    def some(self):
        return self.chance.choice(sorted(self.kept)) if self.kept else None

    def write(self, handle):
        for _ in range(self.chance.randrange(1, 12)):
            length = self.chance.randrange(1, 90 * KiB)
            offset = self.chance.randrange(len(self.state) - length)
            data = self.chance.randbytes(length)
            kind = self.chance.random()
            if kind < 0.6:
                write.write_all(handle, data, offset)
            elif kind < 0.8:
                with mmap.mmap(handle, len(self.state)) as pages:
                    pages[offset:offset + length] = data
            else:
                (write.punch if kind < 0.9 else write.zero)(handle, offset, length)
                data = bytes(length)
            self.state[offset:offset + length] = data

    def make(self):
        self.number += 1
        name = "made-%d" % self.number
        os.mkdir(os.path.join(self.path, name))
        self.kept[name] = bytes(self.state)

    def remove(self):
        name = self.some()
        if name:
            os.rmdir(os.path.join(self.path, name))
            del self.kept[name]

    def rename(self):
        name = self.some()
        if name:
            self.number += 1
            new = "named-%d" % self.number
            os.rename(os.path.join(self.path, name), os.path.join(self.path, new))
            self.kept[new] = self.kept.pop(name)

    def judge(self):
        check_equal(sorted(os.listdir(self.path)), sorted(self.kept), "the names")
        check_equal(os.stat(self.path).st_nlink, len(self.kept) + 2, "the links of snapshots/")
        for name, expected in self.kept.items():
            check(read(self.view(name)) == expected, "snapshot %s shows something else", name)

    def step(self, handle):
        self.write(handle)
        self.chance.choice((self.make, self.make, self.remove, self.rename))()
        self.judge()


def mixed(number, kind, *options, arguments=()):
    @suite.test("made, removed and renamed among writes that the kernel still holds: %s (%s)"
                % (kind, " ".join(options + tuple(arguments)) or "as it is"), needs=write.needs(kind))
    def _(directory):
        path = write.make(kind, directory, write.source(directory, SIZE))
        chance = random.Random(number)
        with mount.mount(path, *options, directory=True, writable=True, arguments=arguments) as mounted:
            disk = Disk(mounted, read(mounted.disk), chance)
            with write.opened(mounted.disk) as handle:
                for _step in range(8):
                    disk.step(handle)
            disk.judge()
        write.check_clean(path)
        shown = changed.digest(path)
        check(shown.pop(None) == disk.state, "the disk shows something else")
        check_equal(sorted(shown), sorted(disk.kept), "the snapshots that QEMU finds")
        for name, found in shown.items():
            check(found == disk.kept[name], "QEMU reads something else of snapshot %s", name)


mixed(1, "clusters of 64 KiB")
mixed(2, "clusters of 4 KiB", "lazy-refcounts=on", *write.SMALL_CACHES)
mixed(3, "subclusters", "cache=none")
mixed(4, "compressed clusters", arguments=["-s"])
mixed(5, "internal snapshots", "threads=1")
mixed(6, "version 2", "growable")
mixed(7, "lazy refcounts", "cache=writethrough")
mixed(8, "a chain of three", "cache=unsafe")


@suite.test("what is written through a partition is in a snapshot, and a partition of it can be read")
def _(directory):
    path = os.path.join(directory, "image.qcow2")
    image.create(path, 8 * MiB)
    with mount.mount(path, directory=True, writable=True) as mounted:
        tools.run("sfdisk", "-q", mounted.disk, input="label: dos\nstart=2048, size=4096\n")
        part = os.path.join(mounted.path, "partitions", "1.raw")
        with write.opened(part) as handle:
            for number in (b"one", b"two"):
                write.write_all(handle, number * 1000, 5)
                os.mkdir(os.path.join(mounted.path, "snapshots", number.decode()))
        for number in (b"one", b"two"):
            at = os.path.join(mounted.path, "snapshots", number.decode(), "partitions", "1.raw")
            check(read(at)[5:3005] == number * 1000, "snapshot %r shows something else", number)
        os.rmdir(os.path.join(mounted.path, "snapshots", "one"))
        check(read(at)[5:3005] == b"two" * 1000, "the other one is not what it was")
    write.check_clean(path)


# --- names, and what cannot be --------------------------------------------------------------------

@suite.test("a name is what the tree shows again: others are refused, and nothing has changed")
def _(directory):
    path = os.path.join(directory, "image.qcow2")
    image.create(path, MiB)
    with mount.mount(path, directory=True, writable=True) as mounted:
        places = os.path.join(mounted.path, "snapshots")
        names = {"plain": "plain", "with space": "with space", "a%2Fb": "a/b", "%2E": ".",
                 "100%25": "100%", "\u00e4\u4e2d": "\u00e4\u4e2d", "id-5": "id-5", "x" * 255: "x" * 255}
        for name in names:
            os.mkdir(os.path.join(places, name))
            os.stat(os.path.join(places, name, "disk.raw"))
        check_equal(sorted(os.listdir(places)), sorted(names), "the names")
        for name in ("100%", "a%2fb", "a\nb", b"\xff", "%00", "\x7f"):
            at = os.path.join(os.fsencode(places), os.fsencode(name))
            write.refuses(errno.EINVAL, os.mkdir, at)
            write.refuses(errno.EINVAL, os.rename, os.path.join(os.fsencode(places), b"plain"), at)
        write.refuses(errno.ENAMETOOLONG, os.mkdir, os.path.join(places, "x" * 256))
        write.refuses(errno.EEXIST, os.mkdir, os.path.join(places, "plain"))
        write.refuses(errno.EEXIST, os.rename, os.path.join(places, "plain"), os.path.join(places, "id-5"))
        write.refuses(errno.ENOENT, os.rmdir, os.path.join(places, "none"))
        check_equal(sorted(os.listdir(places)), sorted(names), "the names")
    check_equal(sorted(listed(path)), sorted(names.values()), "the names in the image")


@suite.test("everything else in the tree stays as it is: EPERM; EROFS where it is only read")
def _(directory):
    path = os.path.join(directory, "image.qcow2")
    image.create(path, MiB)
    with mount.mount(path, directory=True, writable=True) as mounted:
        at = mounted.path
        one = os.path.join(at, "snapshots", "one")
        os.mkdir(one)
        check(os.stat(one).st_mtime > os.stat(path).st_mtime - 5, "it has no time")
        for function, arguments in (
                (os.mkdir, (os.path.join(at, "new"),)), (os.mkdir, (os.path.join(one, "new"),)),
                (os.rmdir, (os.path.join(at, "snapshots"),)), (os.rmdir, (os.path.join(one, "partitions"),)),
                (os.unlink, (os.path.join(one, "disk.raw"),)),
                (os.rename, (one, os.path.join(at, "other"))),
                (os.rename, (os.path.join(at, "partitions"), os.path.join(at, "snapshots", "p"))),
                (os.rename, (os.path.join(at, "disk.raw"), os.path.join(at, "snapshots", "d")))):
            write.refuses(errno.EPERM, function, *arguments)
        check_equal(os.listdir(os.path.join(at, "snapshots")), ["one"], "the snapshots")
    with mount.mount(path, directory=True) as mounted:
        write.refuses(errno.EROFS, os.mkdir, os.path.join(mounted.path, "snapshots", "two"))
        write.refuses(errno.EROFS, os.rmdir, os.path.join(mounted.path, "snapshots", "one"))


@suite.test("a snapshot of which a file is open is not removed, and can be read to its end")
def _(directory):
    path = os.path.join(directory, "image.qcow2")
    image.convert(write.source(directory, MiB), path)
    with mount.mount(path, directory=True, writable=True) as mounted:
        one = os.path.join(mounted.path, "snapshots", "one")
        os.mkdir(one)
        expected = read(mounted.disk)
        with write.opened(mounted.disk) as handle, open(os.path.join(one, "disk.raw"), "rb") as view:
            write.write_all(handle, bytes(MiB), 0)
            write.refuses(errno.EBUSY, os.rmdir, one)
            os.rename(one, one + "-renamed")
            check(view.read() == expected, "it shows something else")
        os.rmdir(one + "-renamed")  # also where the close arrives after close(2) has returned
        check_equal(os.listdir(os.path.join(mounted.path, "snapshots")), [], "what is left")
    write.check_clean(path)


@suite.test("no room for a count, and no snapshots at all: refused, with a line in the log", needs=[tools.DATA_FILE])
def _(directory):
    for kind, number, words in (("1-bit refcounts", errno.EOVERFLOW, "refcount of 1 bits"),
                                ("a data file", errno.EOPNOTSUPP, "external data file")):
        path = write.make(kind, directory, write.source(directory, MiB))
        before = write.model_of(path, directory)
        with mount.mount(path, directory=True, writable=True) as mounted:
            write.refuses(number, os.mkdir, os.path.join(mounted.path, "snapshots", "one"))
            check(words in mounted.stderr(), "it said %s", mounted.stderr())
            check_equal(os.listdir(os.path.join(mounted.path, "snapshots")), [], "the snapshots")
        write.check_clean(path)
        write.check_contents(path, before)
        os.unlink(path)


@suite.test("a host without room: ENOSPC, nothing has changed, and it works when there is some again",
            needs=[tools.root])
def _(directory):
    with write.small_host(directory, 24 * MiB) as place:
        path = os.path.join(place, "image.qcow2")
        image.create(path, 8 * MiB, cluster_size=512)
        with mount.mount(path, directory=True, writable=True) as mounted:
            one = os.path.join(mounted.path, "snapshots", "one")
            with write.opened(mounted.disk) as handle:
                write.write_all(handle, b"1" * 4 * MiB, 0)
                os.fsync(handle)
                ballast = os.path.join(place, "ballast")
                with open(ballast, "wb", buffering=0) as file, contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(4096))
                write.refuses(errno.ENOSPC, os.mkdir, one)
                check_equal(os.listdir(os.path.dirname(one)), [], "the snapshots")
                os.unlink(ballast)
                os.mkdir(one)
                write.write_all(handle, b"2" * 4 * MiB, 0)
            check(read(os.path.join(one, "disk.raw"))[:4 * MiB] == b"1" * 4 * MiB, "it shows something else")
        write.check_clean(path)


# --- who looks meanwhile ---------------------------------------------------------------------------

@suite.test("info.json, and qcow2ctl info, say so at once; who has it open reads it to its end")
def _(directory):
    path = os.path.join(directory, "image.qcow2")
    image.create(path, MiB)
    with mount.mount(path, directory=True, writable=True) as mounted:
        told = os.path.join(mounted.path, "info.json")
        for number in range(1, 4):
            with open(told, "rb", buffering=0) as before:
                begun = before.read(10)
                os.mkdir(os.path.join(mounted.path, "snapshots", "s%d" % number))
                check_equal(len(json.loads(begun + before.read()).get("snapshots", ())), number - 1,
                            "what an open info.json says")
            names = ["s%d" % each for each in range(1, number + 1)]
            check_equal([each["name"] for each in json.loads(read(told))["snapshots"]], names, "info.json")
            check_equal(os.stat(told).st_size, len(read(told)), "its size")
            info = json.loads(ctl.ctl("info", "-U", "--json", path).stdout)
            check_equal([each["name"] for each in info["snapshots"]], names, "qcow2ctl info")
        os.rmdir(os.path.join(mounted.path, "snapshots", "s2"))
        check_equal([each["name"] for each in json.loads(read(told))["snapshots"]], ["s1", "s3"], "info.json")


def look_around(at, expected, ends, found):
    """Looks names up, lists them and reads snapshots that come and go; what is read must be right."""
    try:
        while not ends.is_set():
            for name in os.listdir(at):
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    os.stat(os.path.join(at, name)), os.listdir(os.path.join(at, name, "partitions"))
                    data = read(os.path.join(at, name, "disk.raw"))
                    check(data == expected[name[0]], "%s shows something else", name)
            json.loads(read(os.path.join(os.path.dirname(at), "info.json")))
    except Exception as error:  # pylint: disable=broad-except
        found.append(error)


@suite.test("names are looked up, listed and read all the while: each is there as a whole, or not")
def _(directory):
    path = os.path.join(directory, "image.qcow2")
    image.create(path, 2 * MiB, cluster_size=4096)
    expected = {"a": b"a" * 2 * MiB, "b": b"b" * 2 * MiB}
    with mount.mount(path, *write.SMALL_CACHES, directory=True, writable=True) as mounted:
        at = os.path.join(mounted.path, "snapshots")
        ends, found = threading.Event(), []
        readers = [threading.Thread(target=look_around, args=(at, expected, ends, found)) for _ in range(3)]
        for reader in readers:
            reader.start()
        with write.opened(mounted.disk) as handle:
            for number in range(12):
                letter = "ab"[number % 2]
                write.write_all(handle, expected[letter], 0)
                os.mkdir(os.path.join(at, "%s%d" % (letter, number)))
                if number > 2:
                    with contextlib.suppress(OSError):  # EBUSY: it is being read
                        os.rmdir(os.path.join(at, "%s%d" % ("ab"[(number - 3) % 2], number - 3)))
        ends.set()
        for reader in readers:
            reader.join()
        check(not found, "%r", found)
    write.check_clean(path)


# --- file systems ---------------------------------------------------------------------------------

def keep_busy(place, ends):
    """Files that come, grow and go, some of them synced."""
    chance, number = random.Random(1), 0
    while not ends.is_set():
        number += 1
        name = os.path.join(place, "f%d" % chance.randrange(30))
        with contextlib.suppress(FileNotFoundError), open(name, "ab" if chance.random() < 0.7 else "wb") as file:
            file.write(chance.randbytes(chance.randrange(1, 60000)))
            if number % 7 == 0:
                file.flush()
                os.fsync(file.fileno())
        if chance.random() < 0.2:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(place, "f%d" % chance.randrange(30)))


def check_file_system(view, directory):
    """Nothing but its journal has to be replayed."""
    raw = os.path.join(directory, "view.raw")
    tools.run("cp", "--sparse=always", view, raw)
    tools.run("e2fsck", "-y", "-E", "journal_only", raw)
    tools.run("e2fsck", "-fn", raw)
    os.unlink(raw)


def under_file_system(kind, *options):
    @suite.test("an ext4 is written to throughout %d snapshots: each is what a power cut leaves (%s%s)"
                % (FILE_SYSTEM_SNAPSHOTS, kind, "".join(", " + each for each in options)),
                needs=[tools.root, tools.loop, tools.file_system("ext4"),
                       tools.tool("mkfs.ext4", "e2fsck")] + write.needs(kind))
    def _(directory):
        raw = os.path.join(directory, "source.raw")
        with open(raw, "wb") as file:
            file.truncate(FILE_SYSTEM)
        tools.run("mkfs.ext4", "-q", "-F", "-J", "size=4", raw)
        path = write.make(kind, directory, raw)
        with mount.mount(path, *options, directory=True, writable=True) as mounted:
            at = os.path.join(mounted.path, "snapshots")
            with mount.loop_device(mounted.disk, writable=True) as device, \
                    mount.file_system(device, "ext4", "rw,discard") as place:
                ends = threading.Event()
                writer = threading.Thread(target=keep_busy, args=(place, ends))
                writer.start()
                try:
                    for number in range(FILE_SYSTEM_SNAPSHOTS):
                        os.mkdir(os.path.join(at, "s%d" % number))
                        check_file_system(os.path.join(at, "s%d" % number, "disk.raw"), directory)
                        if number % 3 == 2:
                            os.rmdir(os.path.join(at, "s%d" % (number - 1)))
                finally:
                    ends.set()
                    writer.join()
            for name in sorted(os.listdir(at)):
                check_file_system(os.path.join(at, name, "disk.raw"), directory)
        write.check_clean(path)


under_file_system("clusters of 64 KiB")
under_file_system("clusters of 4 KiB", "lazy-refcounts=on")


# --- killed ----------------------------------------------------------------------------------------

class Changes(threading.Thread):
    """Makes and removes snapshots until the daemon is gone. What is `sure` was answered."""

    def __init__(self, mounted, disk):
        super().__init__(daemon=True)
        self.at, self.disk = os.path.join(mounted.path, "snapshots"), disk
        self.sure, self.maybe = {}, {}
        self.number = 0
        self.enough = threading.Event()

    def _step(self, handle):
        self.number += 1
        name = "s%d" % self.number
        block = stamps.block(self.number % 64, self.number)
        write.write_all(handle, block, self.number % 64 * stamps.BLOCK)
        self.disk[self.number % 64] = block
        self.maybe = {name: b"".join(self.disk)}
        os.mkdir(os.path.join(self.at, name))
        self.sure.update(self.maybe)
        if self.number % 2 == 0:
            name = random.Random(self.number).choice(sorted(self.sure))
            self.maybe = {name: self.sure.pop(name)}
            os.rmdir(os.path.join(self.at, name))
        self.maybe = {}
        if self.number >= 4:
            self.enough.set()

    def run(self):
        try:
            with write.opened(os.path.join(os.path.dirname(self.at), "disk.raw")) as handle:
                while True:
                    self._step(handle)
        except OSError:
            self.enough.set()


def check_only_copied(path):
    """No count is too low; COPIED bits may be behind the counts while the image is marked dirty."""
    if not image.info(path)["dirty-flag"]:
        write.check_clean(path, leaks=True)
        return
    told = tools.run("qemu-img", "check", "-f", "qcow2", path, status=None)
    for line in (told.stdout + told.stderr).splitlines():
        check(not line.startswith("ERROR") or "OFLAG_COPIED" in line, "qemu-img check finds: %s", line)


def killed(options, lazy):
    @suite.test("killed %d times while they are made and removed: what was answered is there, and whole (%s)"
                % (KILLS, options))
    def _(directory):
        for number in range(KILLS):
            path = os.path.join(directory, "image-%d.qcow2" % number)
            tools.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options + ",cluster_size=4096", path,
                      str(64 * stamps.BLOCK))
            with write.to_be_killed(path, directory=True) as mounted:
                changes = Changes(mounted, [bytes(stamps.BLOCK)] * 64)
                changes.start()
                changes.enough.wait()
                changes.join(random.Random(number).random() * 0.1)
                os.kill(mounted.pids[0], signal.SIGKILL)
                changes.join()
            if not lazy:
                check_only_copied(path)
            with mount.mount(path, directory=True, writable=True) as mounted:  # repairs what is dirty
                at = os.path.join(mounted.path, "snapshots")
                check(set(changes.sure) <= set(os.listdir(at)) <= set(changes.sure) | set(changes.maybe),
                      "there are %r; sure are %r, and maybe %r", os.listdir(at), sorted(changes.sure),
                      sorted(changes.maybe))
                for name in os.listdir(at):
                    check(read(os.path.join(at, name, "disk.raw")) == {**changes.sure, **changes.maybe}[name],
                          "snapshot %s shows something else", name)
            write.check_clean(path, leaks=True)


killed("compat=1.1", False)
killed("compat=1.1,lazy_refcounts=on", True)


@suite.test("a signal to end while one is made: it is there as a whole, or not, and the status is 0")
def _(directory):
    for number in range(4):
        path = os.path.join(directory, "image-%d.qcow2" % number)
        image.convert(write.source(directory, 4 * MiB), path, cluster_size=512)
        with mount.mount(path, directory=True, writable=True) as mounted:
            made = subprocess.Popen(["sh", "-c", "while mkdir snapshots/$((i += 1)); do :; done"],
                                    cwd=mounted.path, stderr=subprocess.DEVNULL)
            last = os.path.join(mounted.path, "snapshots", str(1 + 4 * number))
            bad.wait_for(lambda name=last: os.path.isdir(name), "some are made")
            check(made.poll() is None, "no more are made")
            mounted.signal(signal.SIGTERM)
            made.wait()
        write.check_clean(path)
        shown = changed.digest(path)
        check(all(data == shown[None] for data in shown.values()), "one shows something else")


if __name__ == "__main__":
    suite.main()
