#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Bitmaps of an image that is amended, resized, rebased or committed: bit for bit as qemu-img leaves
them, but where it forgets something, or marks what has not changed; and what is not kept is said."""

import os

from lib import ctl, image, tap, tools, write
from lib.bitmaps import all_bits, bitmaps, entry_of, rounded
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.QEMU, tools.EXTENDED_L2, tools.tool("qemu-nbd")])
SIZE = 10 * MiB
GRANULARITY = {"coarse": 64 * KiB, "fine": 512, "off": 4 * KiB, "bad": 64 * KiB}


def create(path, size=SIZE, base=None, bad=False, **options):
    """Two that record, one that is disabled and has something, and, `bad`, one that is inconsistent."""
    image.create(path, size, base, "qcow2", **options)
    for name, granularity in GRANULARITY.items():
        if name != "bad" or bad:
            tools.run("qemu-img", "bitmap", "--add", "-g", str(granularity), path, name)
    image.io(path, "write -q -P 1 1M 4k")
    tools.run("qemu-img", "bitmap", "--disable", path, "off")
    image.io(path, "write -q -P 2 9M 8k", "write -q -P 3 2M 100k")
    if bad:
        with open(path, "r+b") as file:
            file.seek(entry_of(file, b"bad") + 12)
            file.write(b"\0\0\0\3")
    return path


def with_set(found, begin, length):
    """The same, with that set in each."""
    return {name: (granularity, flags, rounded([*bits, [begin, length]], granularity, begin + length))
            for name, (granularity, flags, bits) in found.items()}


def by_both(directory, make, arguments):
    """The bits of each image after the command, whose words may be names of make()'s files: ours, and
    qemu-img's; and before."""
    found = []
    for program in ("before", "ours", "theirs"):
        place = os.path.join(directory, program)
        os.mkdir(place)
        names = make(place)
        words = [os.path.join(place, word) if word in names else word for word in arguments]
        if program == "ours":
            check_equal(ctl.ctl(*words).stderr, "", "what it said")
        elif program == "theirs":
            tools.run("qemu-img", *words)
        paths = [os.path.join(place, name) for name in names]
        for path in paths:
            write.check_clean(path)
        found.append([all_bits(path) for path in paths])
    before, ours, theirs = found
    return ours, theirs, before


# --- one image ------------------------------------------------------------------------------------

KINDS = {"clusters of 64 KiB": {}, "clusters of 512 bytes": {"cluster_size": 512},
         "extended L2 entries": {"extended_l2": "on"}}


def test_one(words, arguments, gains=0):
    for kind, options in KINDS.items():
        @suite.test("%s, %s: %s" % (arguments[0], kind, words))
        def _(directory, options=options):
            def make(place):
                create(os.path.join(place, "image"), **options)
                return ["image"]

            (ours,), (theirs,), (before,) = by_both(directory, make, arguments)
            check_equal(set(theirs), set(before), "those that QEMU keeps")
            check_equal(ours, with_set(theirs, SIZE, gains) if gains else theirs, "the bitmaps")


test_one("another feature leaves them as they are", ["amend", "-q", "-o", "lazy_refcounts=on", "image"])
test_one("so do wider refcounts", ["amend", "-q", "-o", "refcount_bits=64", "image"])
test_one("so do narrow ones", ["amend", "-q", "-o", "refcount_bits=1", "image"])
test_one("what the disk gains is set, and QEMU sets nothing", ["amend", "-q", "-o", "size=20M", "image"],
         gains=10 * MiB)
test_one("what the disk gains is set, and QEMU sets nothing", ["resize", "-q", "image", "+3M"],
         gains=3 * MiB)
test_one("a smaller disk has the bits that are left", ["resize", "-q", "--shrink", "image", "2M"])


@suite.test("resize: old bytes that become zeros are set, of which QEMU's bitmap says nothing")
def _(directory):
    path = create(os.path.join(directory, "image"))
    for size in ("8M", "10M"):
        ctl.ctl("resize", "-q", "--shrink", path, size)
    for name, (_, _, bits) in all_bits(path).items():
        check([8 * MiB, 2 * MiB] in bits, "%s has %r", name, bits)


for each in (["resize", "-q", "IMAGE", "20M"], ["resize", "-q", "--shrink", "IMAGE", "9M"],
             ["amend", "-q", "-o", "size=20M", "IMAGE"], ["amend", "-q", "-o", "refcount_bits=64", "IMAGE"]):
    @suite.test("%s: one that is inconsistent stays so, and the others are true" % " ".join(each))
    def _(directory, arguments=each):
        path, good = (create(os.path.join(directory, name), bad=name == "bad") for name in ("bad", "good"))
        said = ctl.ctl(*[path if word == "IMAGE" else word for word in arguments]).stderr
        if "refcount_bits" not in arguments[-2]:
            check("'bad' is inconsistent" in said and said.count("\n") == 1, "it said %r", said)
        ctl.ctl(*[good if word == "IMAGE" else word for word in arguments])
        found = all_bits(path)
        check_equal(found.pop("bad"), (64 * KiB, ["auto", "in-use"], None), "the one that is inconsistent")
        check_equal(found, all_bits(good), "the others")
        write.check_clean(path)
        tools.run("qemu-img", "bitmap", "--remove", path, "bad")
        image.io(path, "write -q 4M 4k")
        check([4 * MiB, 4 * KiB] in all_bits(path)["fine"][2], "QEMU does not go on with them")
        write.check_clean(path)


@suite.test("amend: compat=0.10, which QEMU loses them by, is refused")
def _(directory):
    path = create(os.path.join(directory, "image"), bad=True)
    ctl.refused("amend", "-o", "compat=0.10", path, unchanged=[path],
                words=["4 persistent bitmaps", "compat=0.10", "qcow2ctl bitmap --remove"])
    for name in GRANULARITY:
        ctl.ctl("bitmap", "-q", "--remove", path, name)
    ctl.ctl("amend", "-q", "-o", "compat=0.10", path)
    write.check_clean(path)


@suite.test("resize: one that would be too large is inconsistent, which is said, and the others are true")
def _(directory):
    path = create(os.path.join(directory, "image"), cluster_size=2 * MiB)
    ctl.ctl("bitmap", "-q", "--remove", path, "off")
    said = ctl.ctl("resize", "-q", path, "3T").stderr
    check("bitmap 'fine' would take more than 512 MiB" in said and said.count("\n") == 1, "it said %r", said)
    check_equal(bitmaps(path), [("coarse", 64 * KiB, ["auto"]), ("fine", 512, ["auto", "in-use"])], "the bitmaps")
    write.check_clean(path)


# --- with images behind ---------------------------------------------------------------------------


def chain(*sizes, **options):
    """makes `top` above `middle` above `base`, of those sizes, and `other`, which shows something else."""
    def make(place):
        names, below = ["base", "middle", "top"][:len(sizes) - 1] + ["top"], None
        for number, (name, size) in enumerate(zip(names, sizes)):
            below = create(os.path.join(place, name), size, below, **options)
            image.io(below, "write -q -P %d %dM 100k" % (number + 4, number + 3))
        image.io(create(os.path.join(place, "other")), "write -q -P 9 7M 64k")
        return names + ["other"]
    return make


def test_rebase(words, arguments):
    for kind, options in KINDS.items():
        @suite.test("rebase, %s: %s" % (kind, words))
        def _(directory, options=options):
            ours, theirs, before = by_both(directory, chain(SIZE, SIZE, **options), arguments)
            check_equal(ours, before, "the bitmaps")  # the disk shows what it has shown
            for name, (_, _, bits) in before[1].items():
                granularity, _, more = theirs[1][name]
                check_equal(rounded([*more, *bits], granularity, SIZE), more, "what QEMU has of %s" % name)


test_rebase("what is copied is no change, and QEMU's are a superset",
            ["rebase", "-b", "other", "-F", "qcow2", "top"])
test_rebase("nor is what is copied where nothing is behind any more", ["rebase", "-b", "", "top"])


@suite.test("another name that is recorded alone leaves them, as by QEMU, and what they do not say is said")
def _(directory):
    for number, arguments in enumerate((["rebase", "-u", "-b", "OTHER", "-F", "qcow2"],
                                        ["rebase", "-u", "-b", ""],
                                        ["amend", "-q", "-o", "backing_file=OTHER,backing_fmt=qcow2"],
                                        ["amend", "-q", "-o", "backing_file="])):
        place = os.path.join(directory, str(number))
        os.mkdir(place)
        chain(SIZE, SIZE)(place)
        path, other = (os.path.join(place, name) for name in ("top", "other"))
        before = all_bits(path)
        said = ctl.ctl(*[word.replace("OTHER", other) for word in arguments], path).stderr
        check("persistent bitmaps (3) stay as they are" in said and said.count("\n") == 1,
              "%r said %r", arguments, said)
        check_equal(all_bits(path), before, "the bitmaps")
        write.check_clean(path)
    check_equal(ctl.ctl("amend", "-q", "-o", "lazy_refcounts=on", path).stderr, "", "what else says it")


def test_commit(words, sizes, arguments, gains=0, kinds=("clusters of 64 KiB",)):
    for kind, options in ((each, KINDS[each]) for each in kinds):
        @suite.test("commit, %s: %s" % (kind, words))
        def _(directory, options=options):
            ours, theirs, _ = by_both(directory, chain(*sizes, **options), arguments)
            if gains:
                theirs[0] = with_set(theirs[0], SIZE, gains)
            check_equal(ours, theirs, "the bitmaps")


test_commit("the base records, the image keeps what it has", [SIZE, SIZE], ["commit", "-q", "top"],
            kinds=list(KINDS)[:2])  # of extended L2 entries QEMU writes, and marks, whole clusters
test_commit("so where nothing is emptied", [SIZE, SIZE], ["commit", "-q", "-d", "top"])
test_commit("so where images are between", [SIZE, SIZE, SIZE], ["commit", "-q", "-b", "base", "top"])
test_commit("what a smaller base gains is set, and QEMU sets nothing", [SIZE, 2 * SIZE], ["commit", "-q", "top"],
            gains=SIZE)
test_commit("a larger base keeps its size", [2 * SIZE, SIZE], ["commit", "-q", "top"])


@suite.test("commit: one of the base that is inconsistent stays so, and the others record")
def _(directory):
    found = {}
    for bad in (True, False):
        place = os.path.join(directory, str(bad))
        os.mkdir(place)
        chain(SIZE, SIZE, bad=bad)(place)
        said = ctl.ctl("commit", "-q", os.path.join(place, "top")).stderr
        check_equal(said.count("'bad' is inconsistent"), int(bad), "what it said: %r" % said)
        found[bad] = [all_bits(os.path.join(place, name)) for name in ("base", "top")]
        write.check_clean(os.path.join(place, "base"))
    for bits in found[True]:
        check_equal(bits.pop("bad"), (64 * KiB, ["auto", "in-use"], None), "the one that is inconsistent")
    check_equal(found[True], found[False], "the others")


if __name__ == "__main__":
    suite.main()
