#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""qcow2ctl map --svg: a picture that is well-formed, true, not too large, and harms no file."""

import os
import random
import re
import shutil
import stat
import xml.etree.ElementTree as ElementTree

from lib import bad, compare, ctl, image, maps, qcow2, tap, tools
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.QEMU])
SVG = "{http://www.w3.org/2000/svg}"
LIMIT = 500000  # bytes of a picture
NAMES = ["data", "shared with snapshots", "compressed", "in the backing image", "two images down",
         "further down", "damaged: cannot be mapped", "zeros, with space kept", "zeros",
         "not allocated"]


class Picture:
    """What is said in a picture."""

    def __init__(self, data):
        check(len(data) < LIMIT, "the picture has %d bytes", len(data))
        self.root = ElementTree.fromstring(data)
        self.texts = ["".join(text.itertext()) for text in self.root.iter(SVG + "text")]
        self.title = self.root.findtext(SVG + "title")
        # What the pointer shows over the bar: a title for each kind.
        titles = [rect.findtext(SVG + "title") or "" for rect in self.root.findall(SVG + "rect")]
        self.amounts = dict(title.rsplit(": ", 1) for title in titles if title)
        check(set(self.amounts) <= set(NAMES), "unknown kinds: %r", self.amounts)
        self.cells = [path.findtext(SVG + "title")
                      for path in self.root.iter(SVG + "path") if path.findtext(SVG + "title")]

    def check_cells(self, start, end):
        """The cells follow each other from start to end."""
        for title in self.cells:
            first, last = re.match(r"0x([0-9a-f]+) to 0x([0-9a-f]+), at ", title).groups()
            check_equal(int(first, 16), start, "the start of a cell")
            start = int(last, 16)
        check_equal(start, end, "the end of the last cell")


def draw(path, *arguments, status=0):
    target = os.path.join(os.path.dirname(path), "picture.svg")
    done = ctl.ctl("map", "--svg", target, *arguments, path, status=status)
    check_equal(done.stdout, "", "standard output")
    with open(target, "rb") as file:
        return Picture(file.read())


def written(size):
    """A size as the picture writes whole numbers of KiB, MiB or GiB."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size % unit == 0:
            return "%d %s" % (size // unit, name)
    raise ValueError(size)


# --- that it is true -----------------------------------------------------------------------


@suite.test("the amounts are those of the image, kind by kind")
def _(directory):
    base = image.create(os.path.join(directory, "base.qcow2"), 16 * MiB)
    image.io(base, "write -q 8M 1M")
    image.io(base, "write -q -c -P 1 9M 64k")
    path = image.create(os.path.join(directory, "image.qcow2"), 16 * MiB, backing="base.qcow2",
                        backing_format="qcow2")
    image.io(path, "write -q -c -P 1 7M 64k")
    image.io(path, "write -q 0 2M", "write -q 4M 512k", "write -q -z 4M 256k",
             "write -q -z -u 5M 1M")
    picture = draw(path)
    check_equal(picture.amounts, {
        "data": "2.25 MiB, 14 %", "compressed": "64 KiB, < 1 %",
        "in the backing image": "1.06 MiB, 7 %", "zeros, with space kept": "256 KiB, 2 %",
        "zeros": "1 MiB, 6 %", "not allocated": "11.4 MiB, 71 %"}, "the amounts")
    picture.check_cells(0, 16 * MiB)
    check("21 % has data" in picture.texts, "the heading is missing: %r", picture.texts)
    check(any("chain of 2 images" in text for text in picture.texts), "%r", picture.texts)
    check(picture.title == path, "the title is %r", picture.title)


@suite.test("what snapshots share is told from what was written since")
def _(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), 16 * MiB)
    image.io(path, "write -q 0 8M")
    check_equal(draw(path).amounts["data"], "8 MiB, 50 %", "data before the snapshot")
    tools.run("qemu-img", "snapshot", "-c", "one", path)
    check_equal(draw(path).amounts["shared with snapshots"], "8 MiB, 50 %", "shared")
    image.io(path, "write -q 0 2M", "write -q 8M 1M")
    amounts = draw(path).amounts
    check_equal((amounts["data"], amounts["shared with snapshots"]),
                ("3 MiB, 19 %", "6 MiB, 38 %"), "data, and what is shared")
    check_equal(draw(path, "--snapshot=one").amounts,
                {"data": "8 MiB, 50 %", "not allocated": "8 MiB, 50 %"}, "the snapshot's amounts")
    tools.run("qemu-img", "snapshot", "-d", "one", path)
    check_equal(draw(path).amounts["data"], "9 MiB, 56 %", "data after the snapshot")


@suite.test("the images of a chain are told by their depth")
def _(directory):
    name, kind = "base.raw", "raw"
    image.sparse_raw(os.path.join(directory, name), MiB, pieces=0)
    for number in range(6):
        path = image.create(os.path.join(directory, "%d.qcow2" % number), 8 * MiB, backing=name,
                            backing_format=kind)
        image.io(path, "write -q %dM 1M" % number)
        name, kind = os.path.basename(path), "qcow2"
    amounts = draw(path).amounts
    check_equal({kind: text.split(",")[0] for kind, text in amounts.items()},
                {"data": "1 MiB", "in the backing image": "1 MiB", "two images down": "1 MiB",
                 "further down": "3 MiB", "not allocated": "2 MiB"}, "the amounts")


@suite.test("a file in the order of the disk is one piece, one in any order many")
def _(directory):
    def pieces(picture):
        return next(text for text in picture.texts if "reads the file" in text)
    path = image.create(os.path.join(directory, "image.qcow2"), 16 * MiB)
    check(any("No data" in text for text in draw(path).texts), "an empty disk has data")
    image.io(path, "write -q 0 16M")
    check("in one piece" in pieces(draw(path)), "%r", pieces(draw(path)))
    path = image.create(os.path.join(directory, "image.qcow2"), 16 * MiB)
    image.io(path, *["write -q %dM 1M" % number for number in range(15, -1, -1)])
    check("in 16 pieces, of 1 MiB" in pieces(draw(path)), "%r", pieces(draw(path)))


@suite.test("a part of the disk is drawn alone")
def _(directory):
    path = bad.sample("plain", directory)
    picture = draw(path, "--start-offset=512k", "--max-length=1M")
    picture.check_cells(512 * KiB, 1536 * KiB)
    check(any("0x80000 to 0x180000" in text for text in picture.texts), "%r", picture.texts)


@suite.test("damage is drawn, and told with exit status 1")
def _(directory):
    path = bad.sample("small", directory)
    with qcow2.Qcow2(path) as opened:
        for cluster in (3, 40, 41):
            opened.set_l2_entry(cluster * 4 * KiB, qcow2.COPIED | 1 << 50)
    picture = draw(path, status=1)
    check_equal(picture.amounts["damaged: cannot be mapped"], "12 KiB, < 1 %", "what is damaged")
    picture.check_cells(0, bad.SIZE)
    ctl.refused("map", "--svg", os.path.join(directory, "picture.svg"), path,
                words=[path, "0x3000", "qcow2ctl check"], unchanged=[path])
    with qcow2.Qcow2(path) as opened:
        opened.set_l1_entry(0, 1 << 50)
    amounts = draw(path, status=1).amounts
    check_equal(amounts, {"damaged: cannot be mapped": "2 MiB, 100 %"}, "without an L2 table")


@suite.test("a disk of which every L2 table is missing is drawn in no time")
def _(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), "16P", cluster_size="2M")
    with qcow2.Qcow2(path) as opened:
        opened.write(opened["l1_table_offset"], (1 << 50).to_bytes(8, "big") * opened["l1_size"])
    picture = draw(path, status=1)
    check_equal(picture.amounts, {"damaged: cannot be mapped": "16 PiB, 100 %"}, "the amounts")


# --- that it is well-formed and of bounded size -----------------------------------------------


@suite.test("every kind of image gives a well-formed picture")
def _(directory):
    for kind in sorted(set(bad.MAKERS) - {"luks", "aes"}):
        place = os.path.join(directory, kind)
        os.mkdir(place)
        draw(bad.sample(kind, place)).check_cells(0, bad.SIZE)
    for size in (0, 512, 1024, 513, 64 << 40):
        path = image.create(os.path.join(directory, "%d.qcow2" % size), 64 << 40,
                            cluster_size="2M")
        with qcow2.Qcow2(path) as opened:
            opened["virtual_size"] = size
        draw(path).check_cells(0, size)


@suite.test("the most mixed image that there can be gives a picture of less than 500 KB")
def _(directory):
    generator = random.Random(1)
    size, cluster = 16 * MiB, 512
    name, kind = "base.raw", "raw"
    image.sparse_raw(os.path.join(directory, name), size, pieces=200)
    for number in range(5):
        path = os.path.join(directory, "image%d.qcow2" % number)
        if number == 0:
            image.create(path, size, preallocation="metadata", cluster_size=cluster)
        else:
            shutil.copyfile(os.path.join(directory, "image0.qcow2"), path)
        tools.run("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", name, "-F", kind, path)
        with qcow2.Qcow2(path) as opened:
            _mix(opened, generator)
        name, kind = os.path.basename(path), "qcow2"
    tools.run("qemu-img", "snapshot", "-c", "one", path)
    with qcow2.Qcow2(path) as opened:
        _mix(opened, generator)
    picture = draw(path)
    check(len(picture.amounts) >= 8, "only %r", picture.amounts)


def _mix(opened, generator):
    """Entries of all kinds, in any order, all over an image; it is in no order afterwards."""
    for index in range(opened["l1_size"]):
        table = opened.l1_entry(index) & qcow2.HOST_OFFSET_MASK
        if table == 0:
            continue
        entries = b""
        opened.set_l1_entry(index, table | qcow2.COPIED)
        for _ in range(opened.cluster_size // 8):
            host = generator.randrange(64 << 10, 16 << 20) & ~511
            entries += generator.choice((0, 0, 0, 1, host, host | 1, host | qcow2.COPIED,
                                         host | qcow2.L2_COMPRESSED)).to_bytes(8, "big")
        opened.write(table, entries)


@suite.test("a picture is well-formed whatever the file and the snapshot are called")
def _(directory):
    names = ["a<b&c>d\"e'f]]>.qcow2", "\x01\x1b[31m\x7f.qcow2", "\ufffe\uffff\u0085\u202e.qcow2",
             "\udcff\udc80 \udced\udca0\udc80.qcow2", "%s%n&#0;.qcow2", "-.qcow2", "x" * 249 + ".qcow2",
             "\u4e16\u754c" * 40 + ".qcow2", "--><!-- <svg>.qcow2"]
    for name in names:
        path = os.path.join(directory, name)
        image.create(os.path.join(directory, "plain.qcow2"), MiB)
        os.rename(os.path.join(directory, "plain.qcow2"), path)
        tools.run("qemu-img", "snapshot", "-c", name[:60], path)
        picture = draw(path, "--snapshot=1")
        check(picture.title is not None and ".qcow2" in picture.title or len(name) > 100,
              "the title is %r", picture.title)
        check(picture.title.startswith(directory), "the title is %r", picture.title)
    check("a<b&c>d\"e'f]]>.qcow2" in draw(os.path.join(directory, names[0])).texts,
          "the name is not in the picture")


# --- that it harms no file -----------------------------------------------------------------------


@suite.test("no file of the image is ever replaced, by whatever name")
def _(directory):
    path = bad.sample("backing", directory)
    base = os.path.join(directory, "base.raw")
    with open(base, "r+b") as file:  # as if it were a picture
        file.write(b"<?xml")
    os.symlink(path, os.path.join(directory, "link.svg"))
    os.link(base, os.path.join(directory, "hard.svg"))
    for target in (path, base, os.path.join(directory, "link.svg"),
                   os.path.join(directory, "hard.svg")):
        ctl.refused("map", "--svg", target, path, words=[target, "the image itself"],
                    unchanged=[path, base])
    place = os.path.join(directory, "data")
    os.mkdir(place)
    path = bad.sample("datafile", place)
    data = os.path.join(place, "data.raw")
    ctl.refused("map", "--svg", data, path, words=[data, "the image itself"], unchanged=[path, data])


@suite.test("nothing but an older picture is replaced")
def _(directory):
    path = bad.sample("plain", directory)
    other = os.path.join(directory, "other.qcow2")
    shutil.copyfile(path, other)
    ctl.refused("map", "--svg", other, path, words=[other, "exists"], unchanged=[path, other])
    text = os.path.join(directory, "letter.txt")
    with open(text, "w", encoding="ascii") as file:
        file.write("Dear reader")
    ctl.refused("map", "--svg", text, path, words=[text, "exists"], unchanged=[path, text])
    for target in (directory, "/dev/null"):
        ctl.refused("map", "--svg", target, path, words=[target, "no regular file", "-"])
    missing = os.path.join(directory, "missing", "a.svg")
    ctl.refused("map", "--svg", missing, path, words=[missing])
    check_equal(sorted(os.listdir(directory)), ["image.qcow2", "letter.txt", "other.qcow2"],
                "the files")
    picture = os.path.join(directory, "picture.svg")
    with open(picture, "wb"):
        pass
    for _ in range(2):
        draw(path)
    os.rename(picture, os.path.join(directory, "real.svg"))
    os.symlink("real.svg", picture)
    with open(os.path.join(directory, "real.svg"), "w", encoding="ascii") as file:
        file.write("<svg />")
    draw(path)
    check(os.path.islink(picture), "the link is gone")
    check_equal(sorted(os.listdir(directory)), ["image.qcow2", "letter.txt", "other.qcow2",
                                                "picture.svg", "real.svg"], "the files")


@suite.test("a new picture has the mode that the umask gives, and - is standard output")
def _(directory):
    path = bad.sample("plain", directory)
    target = os.path.join(directory, "picture.svg")
    tools.run("sh", "-c", 'umask 027; exec %s map --svg "$1" "$2"' % ctl.program(), "sh", target,
              path)
    check_equal(stat.S_IMODE(os.stat(target).st_mode), 0o640, "the mode")
    told = ctl.ctl("map", "--svg=-", path).stdout
    with open(target, encoding="utf-8") as file:
        check_equal(told, file.read(), "standard output")


@suite.test("a picture that cannot be written, or is killed, leaves the older one")
def _(directory):
    path = bad.sample("plain", directory)
    draw(path)
    target = os.path.join(directory, "picture.svg")
    before = compare.sha256(target)
    done = tools.run("sh", "-c", 'ulimit -f 8; exec %s map --svg "$1" "$2"' % ctl.program(), "sh",
                     target, path, status=1)
    bad.check_sentence(done.stderr, target, "could not be written", program="qcow2ctl")
    check_equal(sorted(os.listdir(directory)), ["image.qcow2", "picture.svg"], "the files")
    if tools.have("strace"):
        for call in range(1, 4):
            tools.run("strace", "-f", "-o", os.path.join(directory, "trace"), "-e",
                      "inject=write:signal=KILL:when=%d" % call, ctl.program(), "map", "--svg",
                      target, path, status=None)
            check_equal(compare.sha256(target), before, "the older picture")
    draw(path)
    check_equal(compare.sha256(target), before, "the picture drawn again")


@suite.test("the picture and the list are of the same extents")
def _(directory):
    path = bad.sample("extended", directory)
    sums = {}
    for extent in maps.json_map(path):
        kind = "compressed" if extent["compressed"] else "data" if extent["data"] else \
            "zeros, with space kept" if "offset" in extent else \
            "zeros" if extent["present"] else "not allocated"
        sums[kind] = sums.get(kind, 0) + extent["length"]
    amounts = {kind: text.split(",")[0] for kind, text in draw(path).amounts.items()}
    check_equal(set(amounts), set(sums), "the kinds")
    for kind, size in sums.items():
        check(size >= MiB or amounts[kind] == written(size), "%s: %s of %d", kind, amounts[kind],
              size)


if __name__ == "__main__":
    suite.main()
