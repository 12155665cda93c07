#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""qcow2ctl snapshot, with qemu-img snapshot beside it: made, removed, gone back to; refusals; kill -9."""

import json
import os
import random
import shutil

from lib import bad, changed, ctl, image, tap, tools, write
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.QEMU])
SECTOR = 512

KINDS = (("compat=0.10", 512), ("compat=1.1", 4096), ("compat=1.1,lazy_refcounts=on", 65536),
         ("compat=1.1,extended_l2=on", 16384), ("compat=1.1,refcount_bits=8", 1024),
         ("compat=1.1,refcount_bits=64", 512), ("compat=1.1,refcount_bits=4", 65536))


def listed(path):
    return json.loads(ctl.ctl("snapshot", "--json", path).stdout)


# --- among operations of QEMU -------------------------------------------------------------------

class Disk:
    """An image, and what it and its snapshots must show."""

    def __init__(self, path, options, cluster_size, chance):
        self.path, self.cluster_size, self.chance = path, cluster_size, chance
        self.size = chance.randrange(1, 12) * 512 * 100
        tools.run("qemu-img", "create", "-q", "-f", "qcow2", "-o",
                  "%s,cluster_size=%d" % (options, cluster_size), path, str(self.size))
        self.state = bytes(self.size)
        self.kept = {}  # by ID
        self.number = 0
        self.compresses = "extended_l2" not in options  # where QEMU only does so to free clusters

    def io(self, command, offset, length, byte):
        tools.run("qemu-io", "-f", "qcow2", "-c", command, self.path)
        state = bytearray(self.state)
        state[offset:offset + length] = bytes([byte]) * length
        self.state = bytes(state)

    def some_range(self):
        offset = self.chance.randrange(self.size // SECTOR) * SECTOR
        return offset, min(self.chance.randrange(1, 200) * SECTOR, self.size - offset)

    def write(self):
        offset, length = self.some_range()
        byte = self.chance.randrange(1, 256)
        self.io("write -P %d %d %d" % (byte, offset, length), offset, length, byte)

    def zero(self):
        offset, length = self.some_range()
        self.io("write -z -u %d %d" % (offset, length), offset, length, 0)

    def compress(self):
        if self.compresses and self.size >= self.cluster_size:
            offset = self.chance.randrange(self.size // self.cluster_size) * self.cluster_size
            byte = self.chance.randrange(1, 256)
            self.io("write -c -P %d %d %d" % (byte, offset, self.cluster_size), offset, self.cluster_size, byte)

    def made(self):
        self.kept[listed(self.path)[-1]["id"]] = self.state

    def make(self):
        self.number += 1
        ctl.ctl("snapshot", "-q", "-c", "ours-%d" % self.number, self.path)
        self.made()

    def make_theirs(self):
        self.number += 1
        tools.run("qemu-img", "snapshot", "-c", "theirs-%d" % self.number, self.path)
        self.made()

    def some(self):
        return self.chance.choice(sorted(self.kept)) if self.kept else None

    def name_of(self, number):
        return next(each["name"] for each in listed(self.path) if each["id"] == number)

    def remove(self):
        number = self.some()
        if number:
            ctl.ctl("snapshot", "-q", "-d", number, self.path)
            del self.kept[number]

    def remove_theirs(self):
        number = self.some()
        if number:
            tools.run("qemu-img", "snapshot", "-d", self.name_of(number), self.path)
            del self.kept[number]

    def go_back(self):
        number = self.some()
        if number:
            ctl.ctl("snapshot", "-q", "-a", number, self.path)
            self.state = self.kept[number]

    def go_back_theirs(self):
        number = self.some()
        if number:
            tools.run("qemu-img", "snapshot", "-a", number, self.path)
            self.state = self.kept[number]

    def rename(self):
        number = self.some()
        if number:
            self.number += 1
            ctl.ctl("snapshot", "-q", "--rename=" + number, "named-%d" % self.number, self.path)

    def judge(self):
        """What the image has become is in order, and shows what it must."""
        write.check_clean(self.path)
        check_equal(ctl.ctl("check", "-q", self.path).stderr, "", "what our check says")
        shown = changed.digest(self.path)
        check(shown[None] == self.state, "the disk shows something else")
        for each in listed(self.path):
            check(shown[each["name"]] == self.kept[each["id"]], "snapshot %s shows something else",
                  each["name"])


STEPS = (Disk.write,) * 3 + (Disk.make,) * 2 + (
    Disk.zero, Disk.compress, Disk.make_theirs, Disk.remove, Disk.remove, Disk.remove_theirs,
    Disk.go_back, Disk.go_back_theirs, Disk.rename)


def mixed(number, options, cluster_size):
    @suite.test("made, removed and gone back to, by us and by QEMU in turn: %s" % options,
                needs=[tools.EXTENDED_L2] if "extended" in options else ())
    def _(directory):
        disk = Disk(os.path.join(directory, "i.qcow2"), options, cluster_size, random.Random(number))
        for step in range(18):
            disk.chance.choice(STEPS)(disk)
            if step % 3 == 2:
                disk.judge()


for each_number, (each_options, each_size) in enumerate(KINDS):
    mixed(each_number, each_options, each_size)


def facts(path):
    """But for what QEMU records where there is no machine: some versions 0, we nothing."""
    found = changed.facts(path)
    for snapshot in found["snapshots"]:
        snapshot.pop("icount", None)
    return found


@suite.test("an entry is what QEMU would have written, and the others are what they were")
def _(directory):
    ours, theirs = changed.twins(directory, lambda place: bad.sample("snapshots", place))
    ctl.ctl("snapshot", "-q", "-c", "a further one", ours)
    tools.run("qemu-img", "snapshot", "-c", "a further one", theirs)
    check_equal(facts(ours), facts(theirs), "what qemu-img says of it")
    check_equal(listed(ours)[:-1], listed(theirs)[:-1], "the others")
    write.check_clean(ours)


@suite.test("a VM state goes with -d, and is kept by -a")
def _(directory):
    path = bad.sample("snapshots", directory)
    before = changed.digest(path)
    name = sorted(name for name in before if name)[0]
    ctl.ctl("snapshot", "-a", name, path)
    after = changed.digest(path)
    check(after[None] == before[name], "the disk is not what it was in %s", name)
    for each in before:
        check(each is None or after[each] == before[each], "snapshot %s has changed", each)
    for each in sorted(name for name in before if name):
        ctl.ctl("snapshot", "-q", "-d", each, path)
        write.check_clean(path)
    check_equal(listed(path), [], "the snapshots")
    check(changed.digest(path)[None] == before[name], "the disk has changed")


# --- what it says, and what it refuses ------------------------------------------------------------

@suite.test("the list, for people and for programs, and what was done in a line")
def _(directory):
    path = bad.sample("plain", directory)
    check_equal(ctl.ctl("snapshot", path).stdout, "", "the list of an image without snapshots")
    check_equal(ctl.ctl("snapshot", "-c", "one", path).stdout, "Snapshot 'one' (ID 1) made.\n",
                "what is said")
    told = ctl.ctl("snapshot", "-c", "two", "--json", path).stdout
    check_equal([(each["id"], each["name"]) for each in json.loads(told)],
                [("1", "one"), ("2", "two")], "the list afterwards")
    told = ctl.ctl("snapshot", "-l", path).stdout.splitlines()
    check(len(told) == 3 and told[0].startswith("ID") and told[2].endswith("two"), "it lists %r", told)
    check_equal(ctl.ctl("snapshot", "--rename=two", "three", path).stdout,
                "Snapshot 'two' (ID 2) renamed.\n", "what is said")
    check_equal(ctl.ctl("snapshot", "-q", "-d", "one", path).stdout, "", "what is said with -q")
    check_equal([each["name"] for each in listed(path)], ["three"], "the names")
    check_equal(ctl.ctl("snapshot", "-q", "-c", "four", path).stdout, "", "what is said with -q")
    check_equal([each["id"] for each in listed(path)], ["2", "3"], "the IDs")


@suite.test("what cannot be done is refused in a sentence, and nothing has changed")
def _(directory):
    path = bad.sample("plain", directory)
    ctl.ctl("snapshot", "-q", "-c", "one", path)
    ctl.ctl("snapshot", "-q", "-c", "1", path)
    kept = {"unchanged": [path]}
    ctl.refused("snapshot", "-c", "one", path, words=["'one' already"], **kept)
    ctl.refused("snapshot", "-c", "", path, words=["needs a name"], **kept)
    ctl.refused("snapshot", "-c", "n" * 65536, path, words=["65535"], **kept)
    ctl.refused("snapshot", "-d", "none", path, words=["no snapshot 'none'", "2"], **kept)
    ctl.refused("snapshot", "-d", "1", path, words=["'1'", "ID of one", "name of another"], **kept)
    ctl.refused("snapshot", "--rename=one", "1", path, words=["'1' already"], **kept)
    ctl.refused("snapshot", "-c", "a", "-d", "one", path, words=["one can be done"], status=64, **kept)
    ctl.refused("snapshot", "--rename=one", path, words=["NEW"], status=64, **kept)
    ctl.refused("snapshot", "-U", "-c", "a", path, words=["-U"], status=64, **kept)
    with bad.held(path):
        ctl.refused("snapshot", "-c", "two", path, words=["another program"], **kept)
    os.mkdir(os.path.join(directory, "d"))
    data = bad.sample("datafile", os.path.join(directory, "d"))
    ctl.refused("snapshot", "-c", "a", data, words=["data file", "overlay"], unchanged=[data])


@suite.test("counts that are too narrow for a further reference: a sentence, and all is as it was")
def _(directory):
    for bits, possible in ((1, 0), (2, 2), (4, 14)):
        path = os.path.join(directory, "narrow-%d.qcow2" % bits)
        tools.run("qemu-img", "create", "-q", "-f", "qcow2", "-o",
                  "refcount_bits=%d,cluster_size=4k" % bits, path, "1M")
        tools.run("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 300k", path)
        before = changed.digest(path)[None]
        for number in range(possible):
            ctl.ctl("snapshot", "-q", "-c", "s%d" % number, path)
        ctl.refused("snapshot", "-c", "too many", path, words=["%d bits" % bits, "refcount_bits=16"])
        write.check_clean(path)
        check_equal(len(listed(path)), possible, "the snapshots")
        check(changed.digest(path)[None] == before, "the disk has changed")


@suite.test("a damaged image gets none, and is not touched by the attempt")
def _(directory):
    path = os.path.join(directory, "damaged.qcow2")
    tools.run("qemu-img", "create", "-q", "-f", "qcow2", path, "4M")
    tools.run("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 1M", path)
    with open(path, "r+b") as file:
        file.seek(40)
        l1 = int.from_bytes(file.read(8), "big")
        file.seek(l1)
        table = int.from_bytes(file.read(8), "big") & 0xfffffffffffe00
        file.seek(table + 8)
        file.write((1 << 63 | 1 << 50).to_bytes(8, "big"))  # far past the end of the file
    done = ctl.ctl("snapshot", "-c", "a", path, status=1)
    check("check" in done.stderr, "it said %r", done.stderr)
    check_equal(image.info(path).get("snapshots", []), [], "the snapshots")


# --- killed ---------------------------------------------------------------------------------------

def killed(what, options, prepare, command):
    @suite.test("killed at any moment: %s, %s" % (what, options), needs=[changed.STRACE])
    def _(directory):
        kept = os.path.join(directory, "kept.qcow2")
        tools.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options + ",cluster_size=4k", kept, "512k")
        tools.run("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 300k", kept)
        for arguments in prepare:
            tools.run(*(kept if each is None else each for each in arguments))
        before = changed.digest(kept)
        last = shutil.copy(kept, kept + ".last")
        ctl.ctl(*command, last)
        wanted = changed.digest(last)
        path = os.path.join(directory, "cut.qcow2")
        number = 0
        for call in ("pwrite64", "fdatasync"):
            number = 0
            alive = True
            while alive:
                number += 1 + number // 8
                shutil.copy(kept, path)
                alive = changed.traced(call, number, [*command, path], directory)
                # Whoever writes to it repairs what was interrupted.
                ctl.ctl("check", "-q", "--repair=all", path)
                write.check_clean(path)
                check(changed.digest(path) in (before, wanted), "killed at %s %d: neither old nor new",
                      call, number)
        check(number > 1, "nothing was killed")


THEIRS = ("qemu-img", "snapshot", "-c", "there", None)
CHANGED = ("qemu-io", "-f", "qcow2", "-c", "write -P 9 100k 200k", None)

for each_options in ("compat=1.1", "compat=0.10"):
    killed("made", each_options, [THEIRS, CHANGED], ["snapshot", "-q", "-c", "new"])
    killed("removed", each_options, [THEIRS, CHANGED], ["snapshot", "-q", "-d", "there"])
    killed("gone back to", each_options, [THEIRS, CHANGED], ["snapshot", "-q", "-a", "there"])


@suite.test("other users' locks hold: nothing is changed beside a reader that relies on it")
def _(directory):
    path = bad.sample("plain", directory)
    with bad.held(path, "-r"):
        ctl.refused("snapshot", "-c", "two", path, words=["another program"], unchanged=[path])
        check_equal(listed(path), [], "the list, which can be read")


if __name__ == "__main__":
    suite.main()
