#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""qcow2ctl backup-point: an incremental backup of a disk in use, and no change that is lost."""

import json
import os
import random
import shutil
import threading

from lib import backups, ctl, image, mount, tap, tools, write
from lib.bitmaps import bitmaps, ranges
from lib.image import KiB, MiB
from lib.tap import check, check_equal

SIZE = 20 * MiB
ROUNDS = 20

suite = tap.Suite(needs=[tools.fuse, tools.QEMU, tools.tool("qemu-nbd")])


def create(directory, size=SIZE, name="nightly"):
    path = os.path.join(directory, "image.qcow2")
    tools.run("qemu-img", "create", "-q", "-f", "qcow2", path, str(size))
    image.io(path, image.write(0, size, 1))
    if name is not None:
        tools.run("qemu-img", "bitmap", "--add", path, name)
    return path


def point(path, *arguments, **keywords):
    return ctl.ctl("backup-point", "--bitmap=nightly", *arguments, path, **keywords)


def refused(path, *arguments, words=()):
    return ctl.refused("backup-point", "--bitmap=nightly", *arguments, path, words=words)


def of_point(mounted, file="disk.raw"):
    return os.path.join(mounted.path, "bitmaps", "backup-nightly", file)


def marked(mounted, name):
    with open(os.path.join(mounted.path, "bitmaps", name, "extents.json"), encoding="ascii") as file:
        return [[one["start"], one["length"]] for one in json.load(file)["extents"]]


def names(mounted):
    """What there is of bitmaps and of snapshots."""
    place = os.path.join(mounted.path, "bitmaps")
    return (sorted(os.listdir(place)) if os.path.isdir(place) else [],
            sorted(os.listdir(os.path.join(mounted.path, "snapshots"))))


def contents(path):
    with open(path, "rb") as file:
        return file.read()


def apply(mounted, onto):
    """The increment of the point that is open, put on a backup."""
    with open(of_point(mounted), "rb") as file, open(onto, "r+b") as backup:
        for start, length in marked(mounted, "backup-nightly"):
            file.seek(start)
            backup.seek(start)
            backup.write(file.read(length))


class Round:
    """The manual page's functions, called in a directory with a disk mounted at image/."""

    def __init__(self, directory, mounted):
        self.directory = directory
        self.programs = os.path.join(directory, "bin")
        os.mkdir(self.programs)
        os.symlink(ctl.program(), os.path.join(self.programs, "qcow2ctl"))
        os.symlink(mounted.path, os.path.join(directory, "image"))
        os.mkdir(os.path.join(directory, "backup"))

    def call(self, *arguments, status=0, first=""):
        tools.run("sh", "-eu", "-c", backups.script() + first + "\n" + " ".join(arguments), cwd=self.directory,
                  status=status, env=tools.environment(PATH=self.programs + ":" + tools.PATH))

    def restored(self, *numbers):
        self.call("restore", *map(str, numbers))
        return contents(os.path.join(self.directory, "restored.raw"))


def scribble(disk, generator, operations=12):
    """Writes, zeros and discards."""
    with write.opened(disk) as handle, write.Direct(disk) as direct:
        for _ in range(operations):
            offset = generator.randrange(SIZE // 512 - 600) * 512
            length = generator.randint(1, 300) * 512
            kind = generator.random()
            if kind < 0.5:
                direct.write(offset, generator.randbytes(length))
            elif kind < 0.7:
                os.pwrite(handle, generator.randbytes(length - 7), offset + 3)
            elif kind < 0.85:
                write.punch(handle, offset, length)
            else:
                write.zero(handle, offset, length)


@suite.test("the round of the manual page: %d increments are restored, each as the disk was" % ROUNDS)
def _(directory):
    path = create(directory, name=None)
    generator = random.Random(3)
    states = []
    with mount.mount(path, "discard=unmap", directory=True, writable=True) as mounted:
        rounds = Round(directory, mounted)
        scribble(mounted.disk, generator)
        rounds.call("first")
        full = contents(mounted.disk)
        for number in range(1, ROUNDS + 1):
            scribble(mounted.disk, generator)
            if number % 5 == 0:  # one that fails: the next one has what it should have had
                rounds.call("next", str(number), status=1, first="cp() { false; }")
                scribble(mounted.disk, generator)
            rounds.call("next", str(number))
            states.append(contents(mounted.disk))
        check_equal(names(mounted), (["nightly"], []), "what is left")
        check(rounds.restored() == full, "the full backup differs")
        check(rounds.restored(*range(1, ROUNDS + 1)) == states[-1], "all of them on top of it differ")
        for number in range(1, ROUNDS + 1):  # each on top of what the one before gave
            check(rounds.restored(number) == states[number - 1], "backup %d differs", number)
            os.rename(os.path.join(directory, "restored.raw"), os.path.join(directory, "backup", "full.raw"))
    write.check_clean(path)


@suite.test("what is written while a backup is made is not in it, and is in the next")
def _(directory):
    path = create(directory)
    backup = os.path.join(directory, "backup.raw")
    with mount.mount(path, directory=True, writable=True) as mounted, write.Direct(mounted.disk) as direct:
        shutil.copyfile(mounted.disk, backup)
        direct.write(MiB, b"a" * 64 * KiB)
        direct.write(2 * MiB, b"a" * 64 * KiB)
        check_equal(point(path).stdout, "Backup point of bitmap 'nightly' made.\n", "what it said")
        then = contents(mounted.disk)
        direct.write(2 * MiB, b"b" * 64 * KiB)
        direct.write(3 * MiB, b"b" * 64 * KiB)
        check_equal(marked(mounted, "backup-nightly"), [[MiB, 64 * KiB], [2 * MiB, 64 * KiB]], "the old")
        check_equal(marked(mounted, "nightly"), [[2 * MiB, 64 * KiB], [3 * MiB, 64 * KiB]], "the new")
        refused(path, words=["nightly", "already", "--done", "--failed"])
        apply(mounted, backup)
        check(contents(backup) == then, "the backup is not the disk at its point")
        check_equal(point(mounted.path, "--done").stdout, "Backup point of bitmap 'nightly' done.\n", "what it said")
        check_equal(names(mounted), (["nightly"], []), "what is left")
        point(path, "-q")
        apply(mounted, backup)
        point(path, "-q", "--done")
        check(contents(backup) == contents(mounted.disk), "the next backup is not the disk")
    write.check_clean(path)


@suite.test("with a writer that never stops, backups that fail now and then miss nothing")
def _(directory):
    path = create(directory)
    backup = os.path.join(directory, "backup.raw")
    ends = threading.Event()

    def scribble_on(disk):
        generator = random.Random(9)
        with write.Direct(disk) as direct:
            while not ends.is_set():
                direct.write(generator.randrange(SIZE // 4096) * 4096, generator.randbytes(4096))

    with mount.mount(path, directory=True, writable=True) as mounted:
        shutil.copyfile(mounted.disk, backup)
        writer = threading.Thread(target=scribble_on, args=(mounted.disk,))
        writer.start()
        try:
            for number in range(9):
                point(path, "-q")
                if number % 3 == 1:
                    point(path, "-q", "--failed")
                    continue
                apply(mounted, backup)
                there = os.path.join(mounted.path, "snapshots", "backup-nightly", "disk.raw")
                check(contents(backup) == contents(there), "backup %d is not the disk at its point", number)
                point(path, "-q", "--done")
        finally:
            ends.set()
            writer.join()
        point(path, "-q")
        apply(mounted, backup)
        check(contents(backup) == contents(mounted.disk), "the last backup is not the disk")
        point(path, "-q", "--done")
    write.check_clean(path)


STEPS = [  # what a backup point consists of: killed behind any of them, it has done those before
    ["bitmap", "--add", "IMAGE", "backup-nightly"],
    ["bitmap", "--merge=nightly", "IMAGE", "backup-nightly"],
    ["bitmap", "--clear", "IMAGE", "nightly"],
    ["snapshot", "-c", "backup-nightly", "IMAGE"],
    ["bitmap", "--disable", "IMAGE", "backup-nightly"],
]


def do_steps(path, steps):
    for step in steps:
        ctl.ctl(*[step[0], "-q"] + [path if word == "IMAGE" else word for word in step[1:]])


def test_cut_off(done):
    @suite.test("cut off behind step %d of %d: --failed takes it back, and nothing is missing" % (done, len(STEPS)))
    def _(directory):
        path = create(directory)
        with mount.mount(path, directory=True, writable=True) as mounted, write.Direct(mounted.disk) as direct:
            for number, step in enumerate(STEPS[:done]):
                direct.write(number * MiB, b"%d" % number * 4096)
                do_steps(path, [step])
            direct.write(10 * MiB, b"z" * 4096)
            refused(path, words=["already", "--failed"])
            if done < 4:
                refused(path, "--done", words=["snapshot", "--failed"])
            point(path, "-q", "--failed")
            check_equal(names(mounted), (["nightly"], []), "what is left")
            check_equal(marked(mounted, "nightly"),
                        [[number * MiB, 64 * KiB] for number in list(range(done)) + [10]], "what is marked")
        write.check_clean(path)


for each in range(1, len(STEPS) + 1):
    test_cut_off(each)

ENDS = {
    "--done": [["bitmap", "--remove", "IMAGE", "backup-nightly"]],
    "--failed": [["bitmap", "--merge=backup-nightly", "IMAGE", "nightly"],
                 ["bitmap", "--remove", "IMAGE", "backup-nightly"]],
}


def test_end_cut_off(how, done):
    @suite.test("%s cut off behind step %d can be given again" % (how, done))
    def _(directory):
        path = create(directory)
        with mount.mount(path, directory=True, writable=True) as mounted, write.Direct(mounted.disk) as direct:
            direct.write(MiB, b"a" * 4096)
            point(path, "-q")
            direct.write(2 * MiB, b"b" * 4096)
            do_steps(path, ENDS[how][:done])
            point(path, "-q", how)
            check_equal(names(mounted), (["nightly"], []), "what is left")
            check_equal(marked(mounted, "nightly"),
                        [[place * MiB, 64 * KiB] for place in ((2,) if how == "--done" else (1, 2))], "what is marked")
        write.check_clean(path)


for way, stages in ENDS.items():
    for each in range(len(stages) + 1):
        test_end_cut_off(way, each)


def test_killed(done):
    @suite.test("kill -9 of the daemon behind step %d: no bitmap claims to be true and misses a write" % done)
    def _(directory):
        path = create(directory)
        with write.to_be_killed(path) as running, write.Direct(running.disk) as direct:
            for number, step in enumerate(STEPS[:done]):
                direct.write(number * MiB, b"%d" % number * 4096)
                if step[0] == "snapshot":
                    before = contents(running.disk)
                do_steps(path, [step])
            direct.write(10 * MiB, b"z" * 4096)
            direct.sync()
            running.kill()
        flags = {name: flags for name, _, flags in bitmaps(path)}
        check("in-use" in flags["nightly"], "the bitmap that recorded claims to be true")
        check_equal("in-use" in flags["backup-nightly"], done < len(STEPS), "the old one, inconsistent,")
        write.check_clean(path, leaks=True)
        with mount.mount(path, directory=True, writable=True) as mounted:
            refused(path, "--failed", words=["nightly", "inconsistent"])
            if done == len(STEPS):  # the backup goes on
                with open(of_point(mounted), "rb") as file:
                    for start, length in marked(mounted, "backup-nightly"):
                        file.seek(start)
                        check(file.read(length) == before[start:start + length], "what is read differs")
                check_equal([start for start, _ in marked(mounted, "backup-nightly")],
                            [number * MiB for number in range(done)], "what is marked")
                point(path, "-q", "--done")
                check_equal(names(mounted), (["nightly"], []), "what is left")
            ctl.ctl("bitmap", "--remove", path, "nightly")


for each in range(1, len(STEPS) + 1):
    test_killed(each)


@suite.test("a step that fails is taken back, and the sentence says why")
def _(directory):
    path = create(directory)
    with mount.mount(path, directory=True, writable=True) as mounted, write.Direct(mounted.disk) as direct:
        direct.write(MiB, b"a" * 4096)
        refused(path, "--freeze=%s" % directory, words=[directory])
        check_equal(names(mounted), (["nightly"], []), "what is left")
        check_equal(marked(mounted, "nightly"), [[MiB, 64 * KiB]], "what is marked")
        refused(path, "--done", words=["snapshot"])
        refused(path, "--failed", words=["no bitmap"])
        ctl.refused("backup-point", "--bitmap=absent", path, words=["absent"])
        ctl.ctl("bitmap", "-q", "--disable", path, "nightly")
        refused(path, words=["nightly", "disabled"])
        check_equal(names(mounted), (["nightly"], []), "what is left, then")
    refused(path, words=["not mounted"])


@suite.test("--failed without the bitmap that goes on is refused, and all stays as it was")
def _(directory):
    path = create(directory)
    with mount.mount(path, directory=True, writable=True) as mounted, write.Direct(mounted.disk) as direct:
        direct.write(MiB, b"a" * 4096)
        point(path, "-q")
        ctl.ctl("bitmap", "-q", "--remove", path, "nightly")
        refused(path, "--failed", words=["nightly"])
        check_equal(names(mounted), (["backup-nightly"], ["backup-nightly"]), "what is left")
        ctl.ctl("bitmap", "-q", "--add", path, "nightly")
        point(path, "-q", "--failed")
        check_equal(names(mounted), (["nightly"], []), "what is left then")
        check_equal(marked(mounted, "nightly"), [[MiB, 64 * KiB]], "what is marked")
    write.check_clean(path)


@suite.test("mistakes on the command line")
def _(directory):
    path = create(directory)
    for arguments in ([path], ["--bitmap=a", "--done", "--failed", path],
                      ["--bitmap=a", "--done", "--freeze=/mnt", path], ["--bitmap=a"]):
        ctl.refused("backup-point", *arguments, status=64)
    ctl.refused("backup-point", "--bitmap=" + "n" * 1017, path, status=64, words=["1016 bytes", "backup-"])
    ctl.refused("backup-point", "--bitmap=" + "n" * 1016, path, words=["not mounted"])


@suite.test("an image that is mounted over itself is refused, and the sentence says what to do")
def _(directory):
    path = create(directory)
    with mount.mount(path, at=path, writable=True):
        for how in ([], ["--done"], ["--failed"]):
            refused(path, *how, words=["mounted over itself", "qcow2fs IMAGE DIRECTORY"])


@suite.test("the granularity of the old bitmap is that of the new one, and QEMU reads both")
def _(directory):
    path = create(directory, name=None)
    ctl.ctl("bitmap", "-q", "--add", "-g", "512", path, "nightly")
    with mount.mount(path, directory=True, writable=True) as mounted, write.Direct(mounted.disk) as direct:
        direct.write(MiB, b"a" * 512)
        point(path, "-q")
        direct.write(2 * MiB, b"a" * 512)
    check_equal(bitmaps(path), [("backup-nightly", 512, []), ("nightly", 512, ["auto"])], "the bitmaps")
    check_equal(ranges(path, "backup-nightly"), [[MiB, 512]], "the old one")
    check_equal(ranges(path, "nightly"), [[2 * MiB, 512]], "the new one")
    write.check_clean(path)


if __name__ == "__main__":
    suite.main()
