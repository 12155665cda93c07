#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""qcow2ctl rebase, with qemu-img rebase beside it: chains, snapshots, refusals, kill -9."""

import json
import os
import shutil

from lib import bad, chains, changed, compare, ctl, image, mount, tap, tools, write
from lib.bitmaps import all_bits
from lib.chains import allocated, bytes_of, chain, qcow2 as Q, raw as R
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.QEMU])

SUBCLUSTERS = {"extended_l2": "on", "cluster_size": "128k"}

# The chain; and what is to be behind it: other layers, the number of one of the chain, or nothing.
CASES = {
    "another of the same size": ((Q(2 * MiB), Q(2 * MiB)), (Q(2 * MiB),)),
    "a raw one": ((Q(2 * MiB), Q(2 * MiB)), (R(2 * MiB),)),
    "from a raw one": ((R(2 * MiB), Q(2 * MiB, cluster_size="4k")), (Q(2 * MiB),)),
    "none": ((R(MiB + 700), Q(2 * MiB), Q(2 * MiB)), ()),
    "where there was none": ((Q(2 * MiB),), (Q(3 * MiB),)),
    "one that is smaller": ((Q(2 * MiB, cluster_size="2M"), Q(2 * MiB)),
                            (Q(MiB, cluster_size="512"),)),
    "one that is larger, than all": ((R(MiB + 512), Q(2 * MiB + 512, cluster_size="512")),
                                     (Q(4 * MiB, cluster_size="512k"),)),
    "one that is larger than the old, raw": ((Q(MiB), Q(3 * MiB, cluster_size="2M")),
                                             (R(3 * MiB + 700),)),
    "version 2": ((Q(MiB, compat="0.10"), Q(2 * MiB, compat="0.10", cluster_size="8k")),
                  (Q(2 * MiB), Q(2 * MiB, cluster_size="1k"))),
    "version 2, where there was none": ((Q(2 * MiB, compat="0.10"),), (R(2 * MiB),)),
    "lazy refcounts": ((Q(2 * MiB), Q(2 * MiB, lazy_refcounts="on")), (Q(2 * MiB), R(2 * MiB))),
    "one further behind": ((R(2 * MiB), Q(MiB, cluster_size="4k"), Q(2 * MiB), Q(2 * MiB)), 0),
    "the same one": ((R(2 * MiB), Q(2 * MiB)), 0),
    "ten, to the sixth": ((R(MiB),) + tuple(Q(MiB + 64 * KiB * (n % 3), cluster_size=str(512 << n))
                                            for n in range(9)), 5),
    "ten, to four others": ((R(MiB),) + tuple(
        Q(MiB + 64 * KiB * (n % 3), cluster_size=str(512 << n)) for n in range(8, -1, -1)),
                            (R(MiB), Q(MiB), Q(MiB + 4 * KiB, cluster_size="4k"), Q(2 * MiB))),
}


def with_new(layers, new):
    """make(directory), which makes what is to be behind in new/, with other contents."""
    def make(directory):
        if not isinstance(new, int):
            os.mkdir(os.path.join(directory, "new"))
            below = None
            for number, layer in enumerate(new):
                name = chains.name_of(number, layer)
                chains.make_layer(os.path.join(directory, "new", name), layer, number + 3, below)
                below = name, layer.format
        return chain(*layers)(directory)
    return make


def named(layers, new):
    """The arguments that name it."""
    if new == ():
        return ["-b", ""]
    number, behind, place = (new, layers, "") if isinstance(new, int) else (len(new) - 1, new,
                                                                            "new/")
    return ["-b", place + chains.name_of(number, behind[number]), "-F", behind[number].format]


def without_old(path, new):
    """Removes each file of the chain that is not behind the image any more."""
    for name in os.listdir(os.path.dirname(path)):
        kept = name in ("new", os.path.basename(path)) or \
            isinstance(new, int) and int(name.split(".")[0]) <= new
        if not kept:
            os.unlink(os.path.join(os.path.dirname(path), name))


def same(name, layers, new, needs=()):
    @suite.test("rebased as qemu-img does it: " + name, needs=needs)
    def _(directory):
        ours, theirs = chains.twins(directory, with_new(layers, new))
        before = bytes_of(ours)
        others = [os.path.join(place, each) for place, _, names in os.walk(os.path.dirname(ours))
                  for each in names if each != os.path.basename(ours)]
        untouched = [compare.sha256(each) for each in others]
        told = json.loads(ctl.ctl("rebase", "--json", *named(layers, new), ours).stdout)
        tools.run("qemu-img", "rebase", "-q", "-f", "qcow2", *named(layers, new), theirs)
        check_equal([compare.sha256(each) for each in others], untouched, "the other files")
        check_equal(changed.facts(ours), changed.facts(theirs), "the facts")
        check_equal(told["backing-filename"], named(layers, new)[1], "the name that it says")
        without_old(ours, new)
        check(bytes_of(ours) == before, "the disk shows something else than before")
        write.check_clean(ours)
        own = allocated(ours)
        # By QEMU 7.2 a disk of version 2 that had nothing behind it shows what the new file has.
        check(own <= allocated(theirs) or bytes_of(theirs) != before,
              "%d bytes are its own, by QEMU %d", own, allocated(theirs))
        again = json.loads(ctl.ctl("rebase", "--json", *named(layers, new), ours).stdout)
        check_equal((again["copied"], again["zeroed"], allocated(ours)), (0, 0, own),
                    "what is copied the second time")


for title, (layers, new) in CASES.items():
    same(title, layers, new)
same("subclusters", (Q(2 * MiB), Q(2 * MiB + 512, **SUBCLUSTERS)), (Q(2 * MiB, **SUBCLUSTERS),),
     needs=[tools.EXTENDED_L2])


@suite.test("a name with a colon is recorded as by QEMU, which takes it for no file; ./ makes it one")
def _(directory):
    ours, theirs = (image.create(os.path.join(directory, name), MiB) for name in ("ours", "theirs"))
    image.sparse_raw(os.path.join(directory, "c:d.raw"), MiB)
    for name, is_file in (("c:d.raw", False), ("nbd:host:1", False), ("./c:d.raw", True),
                          ("file:c:d.raw", True), ("../x/c:d.raw", True)):
        said = ctl.ctl("rebase", "-u", "-b", name, "-F", "raw", ours).stderr
        tools.run("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", name, "-F", "raw", theirs)
        check_equal(changed.facts(ours), changed.facts(theirs), "the facts with " + name)
        check_equal("a file of that name is -b './%s'" % name in said, not is_file, "the warning")
    ctl.ctl("rebase", "-u", "-b", "", ours)
    ctl.refused("rebase", "-b", "c:d.raw", "-F", "raw", ours, words=("'c:'", "./NAME"))
    ctl.ctl("rebase", "-b", "./c:d.raw", "-F", "raw", ours)


@suite.test("what only the old one hides stays hidden, and takes no space")
def _(directory):
    old = image.create(os.path.join(directory, "old.qcow2"), 64 * MiB)
    new = image.create(os.path.join(directory, "new.qcow2"), 64 * MiB, cluster_size="4k")
    path = image.create(os.path.join(directory, "image.qcow2"), 64 * MiB, backing="old.qcow2",
                        backing_format="qcow2")
    image.io(old, "write -z 1M 3M", image.write(30 * MiB, 4 * KiB, 1))
    image.io(new, *(image.write(n * MiB, MiB, n) for n in range(32)))
    before = bytes_of(path)
    told = json.loads(ctl.ctl("rebase", "--json", "-b", "new.qcow2", "-F", "qcow2", path).stdout)
    check_equal((told["copied"], told["zeroed"]), (64 * KiB, 32 * MiB - 64 * KiB), "what it says")
    os.unlink(old)
    check(bytes_of(path) == before, "the disk shows something else than before")
    check(os.stat(path).st_blocks * 512 < MiB, "it takes %d blocks", os.stat(path).st_blocks)


@suite.test("where two files behind say the same, nothing is copied")
def _(directory):
    path = chain(R(2 * MiB), Q(2 * MiB))(directory)
    base = os.path.join(directory, "0.raw")
    image.convert(base, os.path.join(directory, "converted.qcow2"), "-c")
    own, before = allocated(path), bytes_of(path)
    ctl.ctl("rebase", "-q", "-b", "converted.qcow2", "-F", "qcow2", path)
    check_equal(allocated(path), own, "what it has")
    os.unlink(base)
    check(bytes_of(path) == before, "the disk shows something else than before")


@suite.test("-u changes the names alone, as qemu-img does it, also where nothing is there")
def _(directory):
    for number, arguments in enumerate((["-b", "/nowhere/base.raw", "-F", "raw"],
                                        ["-b", "0.qcow2", "-F", "raw"], ["-b", ""],
                                        ["-b", "x" * 500, "-F", "qcow2"])):
        place = os.path.join(directory, str(number))
        os.mkdir(place)
        ours, theirs = chains.twins(place, chain(Q(MiB), Q(MiB, compat="0.10")))
        ctl.ctl("rebase", "-u", *arguments, ours)
        tools.run("qemu-img", "rebase", "-u", "-f", "qcow2", *arguments, theirs)
        check_equal(changed.facts(ours), changed.facts(theirs), "the facts, " + str(arguments))
        if arguments == ["-b", ""]:
            check(bytes_of(ours) == bytes_of(theirs), "it shows something else than by QEMU")
            write.check_clean(ours)


@suite.test("persistent bitmaps stay true, and are told of where they may have become untrue")
def _(directory):
    path = chain(Q(MiB), Q(MiB))(directory)
    tools.run("qemu-img", "bitmap", "--add", path, "one")
    for name, words in (("0.qcow2", 0), ("./0.qcow2", 1)):
        said = ctl.ctl("rebase", "-u", "-b", name, "-F", "qcow2", path).stderr
        check_equal(said.count("persistent bitmaps (1) stay"), words, "what it said: %r" % said)
    check_equal(ctl.ctl("rebase", "-b", "0.qcow2", "-F", "qcow2", path).stderr, "",
                "of a rebase that changes nothing")
    image.io(path, "write 64k 64k")
    before = all_bits(path)
    check_equal(ctl.ctl("rebase", "-b", "", path).stderr, "", "of one that copies, and shows the same")
    check_equal(all_bits(path), before, "the bitmaps")


# --- snapshots --------------------------------------------------------------------------------

@suite.test("a snapshot that would show something else: refused, and with --change-snapshots as by QEMU")
def _(directory):
    layers = (Q(2 * MiB), Q(2 * MiB, snapshot=True))
    ours, theirs = chains.twins(directory, with_new(layers, (Q(2 * MiB),)))
    arguments = named(layers, (Q(2 * MiB),))
    before = changed.digest(ours)
    ctl.refused("rebase", *arguments, ours, words=(ours, "'kept'", "--change-snapshots"),
                unchanged=[ours])
    ctl.ctl("rebase", "--change-snapshots", *arguments, ours)
    tools.run("qemu-img", "rebase", "-q", "-f", "qcow2", *arguments, theirs)
    without_old(ours, ())
    after = changed.digest(ours)
    check(after[None] == before[None], "the disk shows something else than before")
    check(after["kept"] != before["kept"], "the snapshot shows what it did")
    check(after == changed.digest(theirs), "it shows something else than by QEMU")
    write.check_clean(ours)


@suite.test("a snapshot that shows the same afterwards is no hindrance")
def _(directory):
    path = chain(R(2 * MiB), Q(2 * MiB, snapshot=True))(directory)
    image.convert(os.path.join(directory, "0.raw"), os.path.join(directory, "other.qcow2"))
    before = changed.digest(path)
    ctl.ctl("rebase", "-b", "other.qcow2", "-F", "qcow2", path)
    os.unlink(os.path.join(directory, "0.raw"))
    check(changed.digest(path) == before, "it shows something else than before")


# --- cut off ----------------------------------------------------------------------------------

def killed(name, layers, new, **options):
    @suite.test("killed at any moment the disk reads the same, and it can be given again: " + name,
                needs=[changed.STRACE])
    def _(directory):
        make = with_new(layers, new)
        place = os.path.join(directory, "first")
        os.mkdir(place)
        before = bytes_of(make(place))

        def judge(path, done=False):
            check(bytes_of(path) == before, "the disk shows something else than before")
            behind = image.info(path).get("backing-filename", "")
            check(not done or behind == named(layers, new)[1], "%r is behind it", behind)

        changed.cut_off(directory, make,
                        lambda path: ["rebase", "-q", *named(layers, new), path], judge, power_cuts=3)


killed("another", (Q(512 * KiB, cluster_size="16k"), Q(MiB)), (Q(MiB, cluster_size="4k"),))
killed("none", (R(512 * KiB), Q(MiB, compat="0.10", cluster_size="16k")), ())


@suite.test("a full host: a sentence, and the disk has its old backing file")
def _(directory):
    base = image.sparse_raw(os.path.join(directory, "base.raw"), 8 * MiB, pieces=16)
    with write.small_host(directory, 2 * MiB) as place:
        path = image.create(os.path.join(place, "image.qcow2"), 8 * MiB, backing=base,
                            backing_format="raw")
        before, facts = bytes_of_elsewhere(path, directory), changed.facts(path)
        said = ctl.ctl("rebase", "-b", "", path, status=1).stderr.splitlines()
        check(all(word in said[-1] for word in (path, "No space left", "old backing file")),
              "it said %r", said)
        check_equal(changed.facts(path)["backing-filename"], facts["backing-filename"], "behind it")
        check(bytes_of_elsewhere(path, directory) == before, "the disk shows something else")
        write.check_clean(path, leaks=True)


def bytes_of_elsewhere(path, directory):
    shown = image.to_raw(path, os.path.join(directory, "shown.raw"))
    with open(shown, "rb") as file:
        return file.read()


# --- refused ----------------------------------------------------------------------------------

@suite.test("refused: no name or format, a cycle, nothing there, another format, a name too long")
def _(directory):
    path = chain(Q(MiB), Q(MiB, cluster_size="512"))(directory)
    base = os.path.join(directory, "0.qcow2")
    files = [path, base]

    def refused(*arguments, words, status=1):
        ctl.refused("rebase", *arguments, path, words=words, status=status, unchanged=files)

    refused(words=("-b NEW",), status=64)
    refused("-b", base, words=("-F qcow2",), status=64)
    refused("-b", path, "-F", "qcow2", words=("cycle",))
    refused("-b", "nowhere", "-F", "raw", words=("nowhere", "no such backing file", "-u"))
    refused("-b", base, "-F", "raw", words=(base, "looks like", "-u"))
    refused("-b", base, "-F", "vmdk", words=("vmdk",))
    other = image.sparse_raw(os.path.join(directory, "other.raw"), MiB)
    refused("-b", other, "-F", "qcow2", words=(other, "not a qcow2 image", "-F raw"))
    long = "/".join([directory] + ["."] * 225 + ["0.qcow2"])
    for unsafe in ([], ["-u"]):
        refused(*unsafe, "-b", long, "-F", "qcow2", words=("header", "512 bytes", "shorter names"))
    shutil.move(base, base + ".moved")
    files = [path]
    refused("-b", base + ".moved", "-F", "qcow2", words=("0.qcow2", "no such backing file"))
    ctl.ctl("rebase", "-q", "-u", "-b", "0.qcow2.moved", "-F", "qcow2", path)
    bytes_of(path)


@suite.test("refused: what is in use, mounted or by QEMU; not what is behind another")
def _(directory):
    path = chain(Q(MiB), Q(MiB))(directory)
    base = os.path.join(directory, "0.qcow2")
    for unsafe in ([], ["-u"]):
        for writable in (False, True):
            with mount.mount(path, writable=writable):
                ctl.refused("rebase", *unsafe, "-b", "", path, unchanged=[path],
                            words=("another program", "close it first"))
        with bad.held(path):
            ctl.refused("rebase", *unsafe, "-b", "", path, unchanged=[path],
                        words=("another program", "close it first"))
    with mount.mount(base):
        ctl.ctl("rebase", "-q", "-b", "", path)


if __name__ == "__main__":
    suite.main()
