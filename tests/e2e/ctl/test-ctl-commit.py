#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""qcow2ctl commit, with qemu-img commit beside it: chains, refusals, kill -9."""

import json
import os

from lib import bad, chains, changed, compare, ctl, image, mount, qcow2, tap, tools, write
from lib.bitmaps import ranges
from lib.chains import allocated, bytes_of, chain, name_of, qcow2 as Q, raw as R
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.QEMU])
FORMAT_EXTENSION = bytes.fromhex("e2792aca")  # its type: the name of the backing file's format


CHAINS = {
    "two of one kind": (Q(2 * MiB), Q(2 * MiB)),
    "a raw base": (R(2 * MiB), Q(2 * MiB)),
    "a smaller raw base, no multiple of a sector": (R(MiB + 700), Q(2 * MiB, cluster_size="4k")),
    "a smaller base": (Q(MiB, cluster_size="512"), Q(2 * MiB + 512)),
    "a larger base": (Q(3 * MiB, cluster_size="512k"), Q(MiB + 512, cluster_size="512")),
    "a larger raw base": (R(3 * MiB), Q(MiB + 512, cluster_size="2M")),
    "three, the base above a longer one": (R(4 * MiB), Q(MiB, cluster_size="4k"),
                                           Q(3 * MiB, cluster_size="16k")),
    "version 2": (Q(MiB, compat="0.10"), Q(2 * MiB, compat="0.10", cluster_size="8k")),
    "version 2 under version 3": (R(2 * MiB), Q(2 * MiB, compat="0.10"), Q(2 * MiB)),
    "snapshots in both": (Q(2 * MiB, snapshot=True), Q(2 * MiB, snapshot=True)),
    "lazy refcounts": (Q(2 * MiB, lazy_refcounts="on"), Q(2 * MiB, lazy_refcounts="on")),
}


def check_same(ours, theirs, before, base):
    """Bases that show the same, an overlay that shows what it did, and nothing wrong in either."""
    check(bytes_of(ours) == before, "the disk shows something else than before")
    mine, other = (os.path.join(os.path.dirname(each), base) for each in (ours, theirs))
    if base.endswith(".raw"):
        check(bytes_of(mine) == bytes_of(other), "%s shows something else than by QEMU", base)
    else:
        tools.run("qemu-img", "compare", "-q", mine, other)
        write.check_clean(mine)
    write.check_clean(ours)
    check_equal(changed.facts_of_chain(ours), changed.facts_of_chain(theirs), "the facts")


def between(path, base):
    """The digests of the files that are neither."""
    return {name: compare.sha256(os.path.join(os.path.dirname(path), name))
            for name in os.listdir(os.path.dirname(path))
            if name not in (base, os.path.basename(path))}


def changing(layers):
    return ["--change-snapshots"] if any(each.snapshot for each in layers[1:]) else []


def same(name, layers):
    @suite.test("committed as qemu-img does it: " + name)
    def _(directory):
        ours, theirs = chains.twins(directory, chain(*layers))
        base = name_of(len(layers) - 2, layers[-2])
        before, untouched = bytes_of(ours), between(ours, base)
        told = ctl.ctl("commit", *changing(layers), ours).stdout
        check(told.startswith("Image committed.") and told.count("\n") == 1, "it said %r", told)
        tools.run("qemu-img", "commit", "-q", "-f", "qcow2", theirs)
        check_same(ours, theirs, before, base)
        check(chains.is_empty(ours), "the image has something of its own")
        ctl.ctl("commit", "-q", "-p", ours)
        check(bytes_of(ours) == before, "the disk shows something else, done twice")
        check_equal(between(ours, base), untouched, "the files behind the base")


for title, layers in CHAINS.items():
    same(title, layers)

LONG = {
    "of one size": (R(2 * MiB), Q(2 * MiB, cluster_size="4k"), Q(2 * MiB), Q(2 * MiB)),
    "a shorter one between": (Q(3 * MiB, cluster_size="4k"), Q(MiB), Q(3 * MiB)),
    "a longer one between": (R(MiB), Q(3 * MiB), Q(2 * MiB, cluster_size="512")),
    "ten": (R(MiB),) + tuple(Q(MiB + 64 * KiB * (n % 3), cluster_size=str(512 << n))
                             for n in range(9)),
}


def across(name, layers):
    @suite.test("committed across the images between, and with -d: " + name)
    def _(directory):
        ours, theirs = chains.twins(directory, chain(*layers))
        base = os.path.join(os.path.dirname(ours), name_of(0, layers[0]))
        before, untouched = bytes_of(ours), between(ours, os.path.basename(base))
        told = json.loads(ctl.ctl("commit", "--json", "-b", base, ours).stdout)
        check_equal((told["filename"], told["base"], told["emptied"]), (ours, base, False),
                    "what it says")
        tools.run("qemu-img", "commit", "-q", "-f", "qcow2", "-b",
                  os.path.join(os.path.dirname(theirs), os.path.basename(base)), theirs)
        check_same(ours, theirs, before, os.path.basename(base))
        check_equal(between(ours, os.path.basename(base)), untouched, "the files between")
        # the images between are needed no more
        tools.run("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", os.path.basename(base), "-F",
                  layers[0].format, ours)
        check(bytes_of(ours) == before, "the base does not say it all")
        kept = allocated(ours)
        ctl.ctl("commit", "-q", "-d", ours)
        check_equal(allocated(ours), kept, "what the image has, with -d")
        check(bytes_of(ours) == before, "the disk shows something else")


for title, layers in LONG.items():
    across(title, layers)


def own_of_snapshot(path):
    """What the snapshot has without what is behind the image."""
    copy = write.copy_image(path, path + ".copy")
    tools.run("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", "", copy)
    return changed.digest(copy)["kept"]


@suite.test("what a snapshot has stays; what nothing has is free")
def _(directory):
    path = chain(R(2 * MiB), Q(2 * MiB, snapshot=True))(directory)
    image.io(path, image.write(0, MiB, 60))
    size, before, snapshot = os.stat(path).st_blocks, bytes_of(path), own_of_snapshot(path)
    ctl.ctl("commit", "-q", "--change-snapshots", path)
    check(bytes_of(path) == before, "the disk shows something else")
    check(own_of_snapshot(path) == snapshot, "the snapshot has something else")
    check(os.stat(path).st_blocks < size - 1000, "no host space was given back")
    write.check_clean(path)


def files_of(path, layers):
    return [os.path.join(os.path.dirname(path), name_of(number, each))
            for number, each in enumerate(layers)]


def shown_by_snapshots(path, layers):
    """{(number of the image, name): bytes}, of all that are above the base."""
    return {(number, name): shown
            for number, each in enumerate(files_of(path, layers)) if number > 0
            for name, shown in changed.digest(each).items() if name is not None}


def committed_as_snapshots_allow(directory, layers, write_more=lambda path: None):
    """Refused where by QEMU a snapshot shows something else, and done where not; which it was."""
    ours, theirs = chains.twins(directory, lambda place: prepared(place, layers, write_more))
    files, before = files_of(ours, layers), shown_by_snapshots(ours, layers)
    tools.run("qemu-img", "commit", "-q", "-f", "qcow2", "-d",
              "-b", files_of(theirs, layers)[0], theirs)
    by_qemu = shown_by_snapshots(theirs, layers)
    other = [key for key in before if by_qemu[key] != before[key]]
    if not other:
        ctl.ctl("commit", "-d", "-b", files[0], ours)
        check(shown_by_snapshots(ours, layers) == before, "a snapshot shows something else")
        return False
    number, name = max(other, key=lambda key: key[0])  # they are looked at from the image down
    said = ctl.refused("commit", "-d", "-b", files[0], ours,
                       words=(files[number] + ":", "'%s'" % name, "--change-snapshots"),
                       unchanged=files)
    at = next(at for at, pair in enumerate(zip(before[number, name], by_qemu[number, name]))
              if pair[0] != pair[1])
    check(" byte %d on" % at in str(said), "it said %r, not %d", said, at)
    ctl.ctl("commit", "-d", "--change-snapshots", "-b", files[0], ours)
    check(shown_by_snapshots(ours, layers) == by_qemu, "snapshots show something else than by QEMU")
    return True


def prepared(place, layers, write_more):
    path = chain(*layers)(place)
    write_more(path)
    return path


AFFECTED = {
    "of the image": (Q(2 * MiB), Q(2 * MiB, snapshot=True)),
    "above a raw base": (R(2 * MiB), Q(2 * MiB, snapshot=True, cluster_size="4k")),
    "of an image between": (Q(2 * MiB), Q(2 * MiB, snapshot=True), Q(2 * MiB)),
    "above an image between": (R(2 * MiB), Q(2 * MiB), Q(2 * MiB, snapshot=True)),
    "past the end of a smaller base": (Q(MiB), Q(2 * MiB, snapshot=True)),
    "of version 2": (Q(MiB), Q(2 * MiB, compat="0.10", snapshot=True)),
}


def affected(name, layers):
    @suite.test("a snapshot that would show something else is asked for: " + name)
    def _(directory):
        check(committed_as_snapshots_allow(directory, layers), "no snapshot is changed by it")


for title, layers in AFFECTED.items():
    affected(title, layers)


def what_it_has_itself(path):
    image.io(path, image.write(MiB, 64 * KiB, 8), "write -z 3M 64k")
    tools.run("qemu-img", "snapshot", "-c", "here", path)
    image.io(path, image.write(MiB, 64 * KiB, 9), image.write(3 * MiB, 64 * KiB, 9))


def what_the_base_says(path):
    tools.run("qemu-img", "snapshot", "-c", "here", path)
    # as chains.fill() has written there
    image.io(path, image.write(2 * MiB + 512, 63 * KiB, 20), "write -z 3M 64k")


def behind_a_shorter_one(path):
    tools.run("qemu-img", "snapshot", "-c", "here", path)
    image.io(path, image.write(2 * MiB, MiB, 11))


UNAFFECTED = {
    "what it has itself": ((R(4 * MiB), Q(4 * MiB)), what_it_has_itself),
    "where the base says the same": ((Q(4 * MiB), Q(4 * MiB)), what_the_base_says),
    "behind the end of a shorter image": ((R(4 * MiB), Q(MiB), Q(4 * MiB)), behind_a_shorter_one),
}


def unaffected(name, layers, write_more):
    @suite.test("no hindrance is a snapshot that shows the same afterwards: " + name)
    def _(directory):
        check(not committed_as_snapshots_allow(directory, layers, write_more), "it was refused")


for title, (these, more) in UNAFFECTED.items():
    unaffected(title, these, more)


# --- cut off --------------------------------------------------------------------------------------

@suite.test("killed at any moment the disk reads the same, and it can be given again",
            needs=[changed.STRACE])
def _(directory):
    place = os.path.join(directory, "first")
    os.mkdir(place)
    make = chain(Q(512 * KiB, cluster_size="16k"), Q(MiB, snapshot=True))
    before = bytes_of(make(place))

    clean = set()  # digests of bases that are

    def judge(path, done=False):
        base = os.path.join(os.path.dirname(path), "0.qcow2")
        check(bytes_of(path) == before, "the disk shows something else than before")
        if compare.sha256(base) not in clean:
            write.check_clean(base, leaks=True)
            clean.add(compare.sha256(base))
        check(not done or chains.is_empty(path), "not empty")

    changed.cut_off(directory, make, lambda path: ["commit", "-q", "--change-snapshots", path], judge, power_cuts=3)


def refused_after_warning(path, unchanged, *words):
    before = [compare.sha256(each) for each in unchanged]
    said = ctl.ctl("commit", path, status=1).stderr.splitlines()
    check(len(said) <= 2 and all(word in said[-1] for word in words), "it said %r", said)
    check_equal([compare.sha256(each) for each in unchanged], before, "the files, afterwards,")


@suite.test("a full host: a sentence, and the disk reads as before", needs=[tools.root])
def _(directory):
    path = chain(Q(4 * MiB, cluster_size="4k"), Q(4 * MiB))(directory)
    image.io(path, *(image.write(n * MiB, MiB, 50 + n) for n in range(4)))
    with write.small_host(directory, 3 * MiB) as place:
        base = write.copy_image(os.path.join(directory, "0.qcow2"),
                                os.path.join(place, "0.qcow2"))
        tools.run("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", base, "-F", "qcow2", path)
        before = bytes_of(path)
        refused_after_warning(path, [path], base, "No space left", "reads as before")
        check(bytes_of(path) == before, "the disk shows something else")
        write.check_clean(base)


# --- where it goes --------------------------------------------------------------------------------

@suite.test("into a block device, raw or an image; one that is too small or only read is refused",
            needs=[tools.root, tools.loop])
def _(directory):
    host, path, expected = (os.path.join(directory, name) for name in ("host", "over", "expected"))
    image.sparse_raw(host, 4 * MiB, seed=1)
    for size, kind in ((4 * MiB, "raw"), (3 * MiB, "qcow2"), (6 * MiB, "raw")):
        with mount.loop_device(host, writable=True) as device:
            if kind == "qcow2":
                tools.run("qemu-img", "create", "-q", "-f", "qcow2", device, "2M")
            image.create(path, size, backing=device, backing_format=kind)
            image.io(path, image.write(MiB, MiB, 3), "write -q -z 2M 100k")
            image.to_raw(path, expected)
            if size > 4 * MiB:
                ctl.refused("commit", path, words=(device, "make it larger"), unchanged=[path, host])
                continue
            ctl.ctl("commit", path)
            write.check_clean(path)
            for each, also in ((path, "qcow2"), (device, kind)):
                tools.run("qemu-img", "compare", "-f", also, "-F", "raw", each, expected)
    with mount.loop_device(host) as device:
        tools.run("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", device, "-F", "raw", path)
        ctl.refused("commit", path, words=(device, "read-only", "; make one image of both with "
                                           "qcow2ctl convert"), unchanged=[path, host])


@suite.test("a kept overlay is committed when it is not mounted any more", needs=[tools.fuse])
def _(directory):
    path = bad.sample("plain", directory)
    kept, expected = (os.path.join(directory, name) for name in ("kept", "expected"))
    with mount.mount(path, "overlay=" + kept, writable=True) as mounted:
        with open(mounted.disk, "r+b") as file:
            file.write(b"kept" * 1000)
        ctl.refused("commit", kept, words=("another program", "close it first"))
    image.to_raw(kept, expected)
    ctl.ctl("commit", kept)
    for each in (path, kept):
        write.check_clean(each)
        tools.run("qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", each, expected)


@suite.test("bitmaps of the base record what is written to it, those of what is emptied stay as they are")
def _(directory):
    path, base = [os.path.join(directory, name) for name in ("top.qcow2", "base.qcow2")]
    tools.run("qemu-img", "create", "-q", "-f", "qcow2", base, "1M")
    tools.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", path, "3M")
    image.io(path, "write 128k 64k")
    for each in (base, path):
        tools.run("qemu-img", "bitmap", "--add", each, "one")
    image.io(path, "write 256k 64k")
    for flags in (["-d"], []):
        check_equal(ctl.ctl("commit", *flags, path).stderr, "", "what it said")
        check_equal(ranges(path, "one"), [[256 * KiB, 64 * KiB]], "of the image")
        check_equal(ranges(base, "one"),
                    [[128 * KiB, 64 * KiB], [256 * KiB, 64 * KiB], [MiB, 2 * MiB]], "of the base")
        for each in (base, path):
            write.check_clean(each)


# --- refused --------------------------------------------------------------------------------------

@suite.test("refused: nothing behind, another image, a raw base only guessed to be, corrupt ones")
def _(directory):
    path = chain(R(MiB), Q(MiB), Q(MiB))(directory)
    base, middle = (os.path.join(directory, name) for name in ("0.raw", "1.qcow2"))
    alone = bad.sample("plain", directory)
    ctl.refused("commit", alone, words=(alone, "no backing file"), unchanged=[alone])
    for other in (alone, path, os.path.join(directory, "nowhere")):
        ctl.refused("commit", "-b", other, path, words=(other, "not behind"), unchanged=[path])
    with open(middle, "r+b") as file:  # qemu-img does not make such images any more
        header = file.read(4 * KiB)
        file.seek(0)
        file.write(header.replace(FORMAT_EXTENSION, b"none"))
    ctl.refused("commit", middle, words=(middle, "backing_fmt"), unchanged=[middle, base])
    for broken in (path, middle):
        with qcow2.Qcow2(broken) as opened:
            opened["incompatible_features"] = qcow2.CORRUPT
        refused_after_warning(path, [path, middle, base], broken, "corrupt")
        with qcow2.Qcow2(broken) as opened:
            opened["incompatible_features"] = 0


@suite.test("refused: what is in use, mounted or by QEMU")
def _(directory):
    path = chain(Q(MiB), Q(MiB))(directory)
    base = os.path.join(directory, "0.qcow2")
    files = [path, base]
    for used, writable in ((path, False), (base, False), (path, True)):
        with mount.mount(used, writable=writable):
            ctl.refused("commit", path, words=("another program", "close it first"), unchanged=files)
    with bad.held(base):
        ctl.refused("commit", path, words=("another program", "close it first"), unchanged=files)


if __name__ == "__main__":
    suite.main()
