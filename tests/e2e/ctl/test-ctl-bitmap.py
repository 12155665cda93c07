#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""qcow2ctl bitmap, with qemu-img bitmap beside it: the same bitmaps with the same bits; refusals;
kill -9."""

import os
import random
import shutil
import struct

from lib import bad, changed, ctl, image, qcow2, tap, tools, write
from lib.bitmaps import all_bits, bitmaps, entry_of, ranges
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.QEMU, tools.tool("qemu-nbd")])


def bitmap(*arguments, **keywords):
    return ctl.ctl("bitmap", *arguments, **keywords)


def scribble(path, size, chance, count=6):
    image.io(path, *("write -P 7 %d %d" % (chance.randrange(size // 512) * 512, 512)
                     for _ in range(count)))


# --- among operations of QEMU -------------------------------------------------------------------


def choose(chance, names, size):
    """qemu-img's words for a change, and ours; what is refused by both is left out."""
    kind = chance.choice(["add", "add", "remove", "clear", "enable", "disable", "merge", "merge"])
    if kind == "add" or not names:
        name = "bitmap %d" % chance.randrange(10 ** 6)
        least = max(9, (size - 1).bit_length() - 22)
        options = [] if chance.randrange(3) == 0 else ["-g", str(1 << chance.randrange(least, 22))]
        return ["--add", *options], name
    name = chance.choice(names)
    if kind == "merge":
        return ["--merge", chance.choice(names)], name
    return ["--" + kind], name


for options, size in (("cluster_size=512", 300 * KiB + 512), ("cluster_size=4k", 40 * MiB),
                      ("cluster_size=64k", 5 * MiB), ("cluster_size=2M,lazy_refcounts=on", 9 * MiB),
                      ("cluster_size=16k,extended_l2=on,refcount_bits=64", 700 * KiB)):
    @suite.test("as qemu-img does it, change by change: %s" % options)
    def _(directory, options=options, size=size):
        chance = random.Random(options)
        ours, theirs = [os.path.join(directory, name) for name in ("ours.qcow2", "theirs.qcow2")]
        for path in (ours, theirs):
            tools.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, path, str(size))
        for number in range(15):
            words, name = choose(chance, [one[0] for one in bitmaps(theirs)], size)
            tools.run("qemu-img", "bitmap", *words, theirs, name)
            words = ["--merge=" + words[1]] if words[0] == "--merge" else words
            bitmap("-q", *words, ours, name)
            if number % 3 == 2:
                seed = chance.random()
                for path in (ours, theirs):
                    scribble(path, size, random.Random(seed))
            check_equal(bitmaps(ours), bitmaps(theirs), "the bitmaps after %s" % words)
            write.check_clean(ours)
        check_equal(all_bits(ours), all_bits(theirs), "the bits")
        check(any(bits for _, _, bits in all_bits(ours).values()), "nothing was ever set")
        # Without any again, the image is as it would be without them.
        for name in [one[0] for one in bitmaps(ours)]:
            bitmap("-q", "--remove", ours, name)
        write.check_clean(ours)
        check_equal(bitmaps(ours), [], "the bitmaps")
        tools.run("qemu-img", "compare", "-q", ours, theirs)


@suite.test("several changes at once, in their order, and merged from another image")
def _(directory):
    base, other = [os.path.join(directory, name) for name in ("base.qcow2", "other.qcow2")]
    tools.run("qemu-img", "create", "-q", "-f", "qcow2", base, "10M")
    tools.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=512", other, "10M")
    bitmap("--add", "-g", "512", other, "day")
    image.io(other, "write 1M 512", "write 9M 3k", "write -z 5M 64k")
    done = bitmap("--add", "--disable", "--merge=day", "-b", other, base, "kept")
    check_equal(done.stdout.splitlines(), ["Bitmap 'kept' added.", "Bitmap 'kept' merged.",
                                           "Bitmap 'kept' disabled."], "what it said")
    check_equal(bitmaps(base), [("kept", 65536, [])], "the bitmap")
    check_equal(ranges(base, "kept"), [[MiB, 65536], [5 * MiB, 65536], [9 * MiB, 65536]], "its bits")
    image.io(base, "write 0 64k")  # it is disabled
    bitmap("--add", "-g", "4k", base, "fine")
    bitmap("--merge=kept", "--clear", "--enable", base, "fine")
    check_equal(ranges(base, "fine"), [[MiB, 65536], [5 * MiB, 65536], [9 * MiB, 65536]], "the finer one")
    image.io(base, "write 3M 1")
    check_equal(ranges(base, "fine")[1], [3 * MiB, 4096], "what QEMU adds to it")
    check_equal(ranges(base, "kept"), [[MiB, 65536], [5 * MiB, 65536], [9 * MiB, 65536]], "the other one")
    write.check_clean(base)
    write.check_clean(other)


@suite.test("-b may name the image itself, by whatever path")
def _(directory):
    path, link = os.path.join(directory, "image.qcow2"), os.path.join(directory, "link.qcow2")
    tools.run("qemu-img", "create", "-q", "-f", "qcow2", path, "10M")
    os.symlink(path, link)
    bitmap("-q", "--add", path, "one")
    image.io(path, "write 1M 64k")
    for number, source in enumerate((path, link)):
        bitmap("-q", "--add", "--merge=one", "-b", source, path, "of %d" % number)
        check_equal(ranges(path, "of %d" % number), [[MiB, 65536]], "its bits")
    write.check_clean(path)


@suite.test("bits of clusters that a merge does not touch stay where they are")
def _(directory):
    path = os.path.join(directory, "image.qcow2")
    tools.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=512", path, "8M")
    for name in ("low", "all"):
        bitmap("-q", "--add", "-g", "512", path, name)
    image.io(path, "write 3k 512")
    bitmap("-q", "--disable", path, "low")
    image.io(path, "write 7M 512", "write 4M 2k")
    bitmap("-q", "--merge=low", path, "all")
    write.check_clean(path)
    check_equal(ranges(path, "all"), [[3 * KiB, 512], [4 * MiB, 2 * KiB], [7 * MiB, 512]], "the bits")
    check_equal(ranges(path, "low"), [[3 * KiB, 512]], "the others")


@suite.test("extra data and entries of other kinds are kept as they are")
def _(directory):
    path = os.path.join(directory, "image.qcow2")
    tools.run("qemu-img", "create", "-q", "-f", "qcow2", path, "1M")
    for name in ("first", "other", "last"):
        tools.run("qemu-img", "bitmap", "--add", path, name)
    with open(path, "r+b") as file:
        at = entry_of(file, b"other")
        raw = file.read(32)
        file.seek(at + 16)
        file.write(b"\x07")  # a type that nobody knows
    ctl.refused("bitmap", "--clear", path, "other", words=["other", "kind"], unchanged=[path])
    bitmap("-q", "--remove", path, "first")
    with open(path, "rb") as file:
        entry_of(file, b"other")
        check_equal(file.read(32), raw[:16] + b"\x07" + raw[17:], "the entry that nobody knows")
    bitmap("-q", "--remove", path, "other")
    check_equal([one[0] for one in bitmaps(path)], ["last"], "what is left")
    write.check_clean(path)


# --- refusals -------------------------------------------------------------------------------------


@suite.test("what cannot be is one sentence, and nothing is changed")
def _(directory):
    path = os.path.join(directory, "image.qcow2")
    tools.run("qemu-img", "create", "-q", "-f", "qcow2", path, "10G")
    bitmap("-q", "--add", path, "there")
    small = os.path.join(directory, "small.qcow2")
    tools.run("qemu-img", "create", "-q", "-f", "qcow2", small, "1G")
    bitmap("-q", "--add", small, "theirs")
    huge = os.path.join(directory, "huge.qcow2")
    tools.run("qemu-img", "create", "-q", "-f", "qcow2", huge, "64T")
    old = os.path.join(directory, "old.qcow2")
    tools.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=0.10", old, "1M")
    empty = os.path.join(directory, "empty.qcow2")
    tools.run("qemu-img", "create", "-q", "-f", "qcow2", empty, "0")
    for arguments, words in (
            (["--add", path, "there"], ["there", "already"]),
            (["--add", path, ""], ["1 to 1023 bytes"]),
            (["--add", path, "n" * 1024], ["1 to 1023 bytes", "1024"]),
            (["--add", "-g", "3k", path, "odd"], ["power of two", "3072"]),
            (["--remove", path, "absent"], ["absent", "info"]),
            (["--clear", path, "absent"], ["absent"]),
            (["--merge=absent", path, "there"], ["absent"]),
            (["--merge=theirs", "-b", small, path, "there"], ["different sizes"]),
            (["--add", "-g", "512", huge, "fine"], ["512 MiB", "granularity"]),
            (["--add", old, "new"], ["version 2", "compat=1.1"]),
            (["--add", empty, "new"], ["empty disk"])):
        ctl.refused("bitmap", *arguments, words=words, unchanged=[path, small, huge, old, empty])
    for arguments, words in (
            ([path, "there"], ["--add"]),
            (["--remove", "--add", path, "there"], ["--remove"]),
            (["--enable", "--disable", path, "there"], ["--enable"]),
            (["-g", "64k", "--clear", path, "there"], ["--granularity"]),
            (["-b", small, "--clear", path, "there"], ["--source-file"]),
            (["--add", path], ["NAME"])):
        ctl.refused("bitmap", *arguments, status=64, words=words, unchanged=[path])
    with bad.held(path, "-r"):
        ctl.refused("bitmap", "--clear", path, "there", words=["another program"], unchanged=[path])


@suite.test("an inconsistent bitmap can be removed, and nothing else")
def _(directory):
    path = os.path.join(directory, "image.qcow2")
    tools.run("qemu-img", "create", "-q", "-f", "qcow2", path, "1M")
    bitmap("-q", "--add", path, "lost")
    bitmap("-q", "--add", path, "good")
    with open(path, "r+b") as file:
        file.seek(entry_of(file, b"lost") + 12)
        file.write(struct.pack(">I", 3))  # in use, and enabled
    for words in (["--clear"], ["--disable"], ["--merge=good"]):
        ctl.refused("bitmap", *words, path, "lost", words=["lost", "inconsistent"], unchanged=[path])
    ctl.refused("bitmap", "--merge=lost", path, "good", words=["inconsistent"], unchanged=[path])
    bitmap("-q", "--remove", path, "lost")
    check_equal([one[0] for one in bitmaps(path)], ["good"], "what is left")
    write.check_clean(path)


@suite.test("bitmaps that were given up by a write are no hindrance to new ones")
def _(directory):
    path = os.path.join(directory, "image.qcow2")
    tools.run("qemu-img", "create", "-q", "-f", "qcow2", path, "1M")
    bitmap("-q", "--add", path, "stale")
    with qcow2.Qcow2(path) as opened:  # as a program leaves it that does not know them
        opened["autoclear_features"] = 0
    check_equal(bitmaps(path), [], "the bitmaps")
    bitmap("-q", "--add", path, "new")
    check_equal(bitmaps(path), [("new", 65536, ["auto"])], "the bitmaps")
    write.check_clean(path, leaks=True)


# --- killed ---------------------------------------------------------------------------------------

for what, words in (("added", ["--add"]), ("removed", ["--remove"]), ("merged", ["--merge=one"])):
    @suite.test("killed at any moment: %s" % what, needs=[changed.STRACE])
    def _(directory, words=words):
        kept = os.path.join(directory, "kept.qcow2")
        tools.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", kept, "512k")
        name = "new" if words == ["--add"] else "two"
        for each in ("one", "two"):
            tools.run("qemu-img", "bitmap", "--add", "-g", "4k", kept, each)
        image.io(kept, "write 100k 20k")
        tools.run("qemu-img", "bitmap", "--clear", kept, "two")
        before = all_bits(kept)
        last = shutil.copy(kept, kept + ".last")
        bitmap("-q", *words, last, name)
        wanted = all_bits(last)
        path = os.path.join(directory, "cut.qcow2")
        for call in ("pwrite64", "fdatasync"):
            number, alive = 0, True
            while alive:
                number += 1 + number // 5
                shutil.copy(kept, path)
                alive = changed.traced(call, number, ["bitmap", "-q", *words, path, name], directory)
                write.check_clean(path, leaks=True)
                check(all_bits(path) in (before, wanted), "killed at %s %d: neither old nor new",
                      call, number)
            check(number > 1, "nothing was killed")


if __name__ == "__main__":
    suite.main()
