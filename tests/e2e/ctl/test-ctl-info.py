#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""qcow2ctl info: what qemu-img info says and more, of good images and of bad ones.

That it does so for every kind of image is tested with each of the read matrix (lib/matrix.py).
"""

import contextlib
import importlib.util
import json
import os
import random
import shutil

from lib import bad, compare, ctl, image, infos, mount, qcow2, run, tap, tools
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.QEMU])
FIRST = 112 + 8  # where the data of the first extension begins


def module(name):
    """Another test file, for what it defines."""
    path = os.path.join(run.SOURCE, "tests", "e2e", name + ".py")
    spec = importlib.util.spec_from_file_location(os.path.basename(name).replace("-", "_"), path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def chain(directory):
    """Two overlays, the lower one with snapshots below it, the upper one of another version."""
    bad.sample("snapshots", directory)
    middle = image.create(os.path.join(directory, "middle.qcow2"), 4 * MiB, backing="image.qcow2",
                          backing_format="qcow2", compat="0.10")
    return image.create(os.path.join(directory, "top.qcow2"), 3 * MiB,
                        backing=os.path.basename(middle), backing_format="qcow2",
                        lazy_refcounts="on")


def sample(kind, directory):
    path = chain(directory) if kind == "chain" else bad.sample(kind, directory)
    image.settle(*[os.path.join(directory, name) for name in os.listdir(directory)])
    return path


KINDS = {"plain": (), "version2": (), "small": (), "snapshots": (), "backing": (), "chain": (),
         "bitmaps": (), "zstd": [tools.ZSTD], "extended": [tools.EXTENDED_L2],
         "datafile": [tools.DATA_FILE]}


# --- against qemu-img ----------------------------------------------------------------------


def against_qemu(kind, needs):
    @suite.test("says what qemu-img info says, key by key (%s)" % kind, needs=needs)
    def _(directory):
        path = sample(kind, directory)
        infos.check_info(path)
        alone = infos.json_info(path)
        infos.check_same(alone, infos.qemu_info(path))
        check_equal([alone, *alone.pop("backing-chain")], infos.json_info(path, "--backing-chain"),
                    "the chain")


for a_kind, its_needs in KINDS.items():
    against_qemu(a_kind, its_needs)


@suite.test("says of encrypted images what qemu-img says, without a key")
def _(directory):
    for kind in ("luks", "aes"):
        try:
            path = sample(kind, directory)
        except tools.CommandFailed:
            continue  # a qemu-img built without it
        infos.check_same(infos.json_info(path), infos.qemu_info(path))


@suite.test("files are named as qemu-img names them, from wherever it is called")
def _(directory):
    chain(directory)
    os.mkdir(os.path.join(directory, "below"))
    for cwd, name in ((directory, "top.qcow2"), (directory, "./top.qcow2"),
                      (os.path.join(directory, "below"), "../top.qcow2")):
        infos.check_info(name, cwd=cwd)
    path = image.create(os.path.join(directory, "prefix.qcow2"), MiB, backing="file:image.qcow2",
                        backing_format="qcow2")
    infos.check_info(os.path.basename(path), cwd=directory)


@suite.test("a data file is told as it is recorded, and where it was found",
            needs=[tools.DATA_FILE])
def _(directory):
    tools.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file=d.raw", "a.qcow2", "1M",
              cwd=directory)
    told = infos.json_info("a.qcow2", cwd=directory)
    infos.check_same(told, infos.qemu_info("a.qcow2", cwd=directory))
    check_equal(told["details"]["data-file-path"], "d.raw", "the path")
    told = infos.json_info("../a.qcow2", cwd=make_directory(directory, "below"))
    check_equal(told["details"]["data-file-path"], "../d.raw", "the path from below")


def make_directory(directory, name):
    path = os.path.join(directory, name)
    os.mkdir(path)
    return path


@suite.test("fragmentation is counted as qemu-img check counts it")
def _(directory):
    for kind in ("plain", "version2", "small", "snapshots", "backing"):
        path = sample(kind, directory)
        ours = infos.json_info(path, "--fragmentation")["details"]["fragmentation"]
        theirs = json.loads(tools.output("qemu-img", "check", "--output=json", path))
        for key in ("total-clusters", "allocated-clusters", "compressed-clusters",
                    "fragmented-clusters", "image-end-offset"):
            check_equal(ours[key], theirs.get(key, 0), "%s of %s" % (key, kind))
        check("fragmentation" not in infos.json_info(path)["details"], "counted unasked")


# --- what we say besides --------------------------------------------------------------------


@suite.test("tells features by name, extensions, and the cache sizes of the documentation")
def _(directory):
    path = image.create(os.path.join(directory, "a.qcow2"), 1 << 40, lazy_refcounts="on")
    with qcow2.Qcow2(path) as opened:
        opened["autoclear_features"] = 1 << 60
        opened["compatible_features"] = opened["compatible_features"] | 1 << 61
        opened.remove_extension(qcow2.EXTENSION_FEATURE_NAMES)
        opened.append_extension(qcow2.EXTENSION_FEATURE_NAMES,
                                bytes([2, 60]) + b"time travel".ljust(46, b"\0"))
        opened.append_extension(0x12345678, b"seven b")
    told = infos.json_info(path)["details"]
    check_equal(told["features"], {
        "incompatible": [],
        "compatible": [{"bit": 0, "name": "lazy refcounts", "known": True},
                       {"bit": 61, "name": "", "known": False}],
        "autoclear": [{"bit": 60, "name": "time travel", "known": False}]}, "the features")
    check_equal([(one["type"], one["known"], one["length"]) for one in told["header-extensions"]],
                [("0x6803f857", True, 48), ("0x12345678", False, 7)], "the extensions")
    check_equal(told["header-extensions"][0]["offset"], FIRST, "an offset")
    sizes = told["cache-sizes"]
    check_equal(sizes["l2-cache-size"] * 65536 // 8, 1 << 40, "the disk that is covered")
    unasked = sizes["default-l2-cache-size"]
    check(32 * MiB <= unasked <= 128 * MiB, "%d are taken unasked", unasked)
    check_equal(sizes["default-l2-cache-covers"], unasked * 65536 // 8, "what is by default")
    text = ctl.ctl("info", path).stdout
    for words in ("1 TiB (1099511627776 bytes)", "time travel, bit 60 (unknown)", "0x12345678",
                  "lazy refcounts, bit 0", "l2-cache-size=134217728"):
        check(words in text, "no %r in:\n%s", words, text)


@suite.test("the text tells of snapshots, bitmaps, files and the chain")
def _(directory):
    text = ctl.ctl("info", sample("snapshots", directory)).stdout
    check(all(name in text for name in ("first", "second", "third")), "no snapshots in:\n%s", text)
    text = ctl.ctl("info", sample("bitmaps", directory)).stdout
    check("64 KiB" in text and "one" in text and "two" in text, "no bitmaps in:\n%s", text)
    text = ctl.ctl("info", chain(directory)).stdout
    check("    1   qcow2  4 MiB" in text and "    2   qcow2  2 MiB" in text,
          "no chain in:\n%s", text)
    text = ctl.ctl("info", "--backing-chain", os.path.join(directory, "top.qcow2")).stdout
    check_equal(text.count("image: "), 3, "the images that are told of")


@suite.test("terminal commands in names are not printed")
def _(directory):
    path = sample("snapshots", directory)
    with qcow2.Qcow2(path) as opened:
        snapshot = opened.snapshots()[0]
        names = snapshot.position + snapshot.length - 8
        opened.write(names, b"\x1b[31m\x9bX")
        opened.append_extension(qcow2.EXTENSION_FEATURE_NAMES,
                                bytes([1, 50]) + b"\x1b[2J\n".ljust(46, b"\0"))
        opened["compatible_features"] = 1 << 50
    for option in ("--audit", "--fragmentation"):
        text = ctl.ctl("info", option, path).stdout
        check(all(ord(letter) >= 32 or letter == "\n" for letter in text), "in: %r", text)
        check("?[2J?" in text, "the feature is not named in: %r", text)


@suite.test("options: -f qcow2, --output, -q, and what is wrong")
def _(directory):
    path = sample("plain", directory)
    expected = ctl.ctl("info", "--json", path).stdout
    check_equal(ctl.ctl("info", "-f", "qcow2", "--output=json", path).stdout, expected, "the JSON")
    check_equal(ctl.ctl("info", "--output", "human", path).stdout, ctl.ctl("info", path).stdout,
                "the text")
    check_equal(ctl.ctl("info", "-q", "--json", path).stdout, "", "what -q prints")
    ctl.refused("info", status=64)
    ctl.refused("info", path, path, status=64)
    ctl.refused("info", "--jsn", path, words=["--json"], status=64)
    ctl.refused("info", "-f", "raw", path, words=["qcow2"], status=64)
    ctl.refused("info", "--output=xml", path, words=["xml"], status=64)


# --- images that cannot be opened -----------------------------------------------------------


def described(path, *words, **_keywords):
    """In the place of bad.refused(): the image is described as far as possible, then refused."""
    before = compare.sha256(path)
    done = ctl.ctl("info", path, status=1)
    bad.check_sentence(done.stderr, *words, program="qcow2ctl")
    check("image: " in done.stdout and "problems:" in done.stdout, "described so:\n%s",
          done.stdout)
    told = infos.json_info(path, status=1)
    check(len(told["details"]["problems"]) > 0, "no problems")
    with qcow2.Qcow2(path) as opened:
        if opened["version"] in (2, 3):
            size = opened["virtual_size"]  # JSON has no integers of 64 bits without a sign
            check_equal(told["virtual-size"], size if size < 1 << 63 else float(size), "the size")
            check_equal(told["details"]["snapshot-count"], opened["nb_snapshots"], "the snapshots")
    found = infos.json_info(path, "--audit")["audit"]
    check(any(one["grade"] == "danger" or one["code"] == "encrypted" for one in found),
          "the audit found only %r", found)
    check_equal(compare.sha256(path), before, "the image, afterwards,")


@contextlib.contextmanager
def refusals_replaced():
    kept = bad.refused
    bad.refused = described
    try:
        yield
    finally:
        bad.refused = kept


def adopt():
    """Every damaged image that a mount refuses."""
    for group in module("bad/test-bad-image").suite.groups:
        for sentence, function, _needs in group.during:
            if not function.__qualname__.startswith("case."):
                continue

            @suite.test("described and refused: " + sentence,
                        needs=[need for need in group.needs if need is not tools.fuse])
            def _(directory, function=function):
                with refusals_replaced():
                    function(directory)


adopt()


@suite.test("what is no qcow2 image is refused with a sentence alone")
def _(directory):
    path = os.path.join(directory, "thing")
    ctl.refused("info", path, words=["no such image"])
    for data, words in ((b"", "an empty file"), (b"This is a text", "is not a qcow2 image"),
                        (b"QFI\xfb\0\0\0\1" + bytes(100), "qcow image of version 1")):
        with open(path, "wb") as file:
            file.write(data)
        ctl.refused("info", "--audit", path, words=[words], unchanged=[path])
    ctl.refused("info", directory, words=["is a directory"])


@suite.test("a chain is shown up to the file that is missing")
def _(directory):
    path = chain(directory)
    os.unlink(os.path.join(directory, "image.qcow2"))
    done = ctl.ctl("info", "--backing-chain", path, status=1)
    check_equal(done.stdout.count("image: "), 2, "the images that are shown")
    bad.check_sentence(done.stderr, "middle.qcow2", "image.qcow2: no such backing file",
                       program="qcow2ctl")
    told = infos.json_info(path, "--backing-chain", status=1)
    check_equal([len(one["details"]["problems"]) for one in told], [0, 1], "the problems")
    check_equal(told[1]["full-backing-filename"], os.path.join(directory, "image.qcow2"), "the name")
    os.unlink(os.path.join(directory, "middle.qcow2"))
    told = infos.json_info(path, status=1)
    check_equal(told["backing-chain"], [], "the chain")
    check_equal(told["backing-filename"], "middle.qcow2", "the name")


@suite.test("images cut off at every length are described, and never do harm")
def _(directory):
    path = sample("small", directory)
    whole = open(path, "rb").read()
    generator = random.Random(3)
    lengths = {4, 71, 72, 103, 104, 112, 4095, 4096, 8192, 12288, len(whole) - 1}
    lengths |= {generator.randrange(len(whole)) for _ in range(30)}
    for length in sorted(lengths):
        with open(path, "wb") as file:
            file.write(whole[:length])
        done = ctl.ctl("info", "--json", "--audit", path, status=None)
        check_equal(done.returncode, 0, "the status for %d bytes (%s)" % (length, done.stderr))
        found = json.loads(done.stdout)["audit"]
        if length < 8192:
            check(any(one["grade"] == "danger" for one in found), "%d bytes: %r", length, found)


def mutated(kind, number, needs=()):
    @suite.test("%d mutated images are described or refused, and left alone (%s)" % (number, kind),
                needs=needs)
    def _(directory):
        mutating = module("bad/test-bad-mutated")
        original = sample(kind, directory)
        areas = mutating.areas(original)
        generator = random.Random("info " + kind)
        path = os.path.join(directory, "mutated.qcow2")
        for index in range(number):
            shutil.copyfile(original, path)
            what = "%d: %s" % (index, mutating.mutate(path, generator, areas))
            before = compare.sha256(path)
            done = ctl.ctl("info", "--json", "--audit", path, status=None)
            check(done.returncode in (0, 1), "%s: status %d", what, done.returncode)
            if done.returncode == 0:
                check("audit" in json.loads(done.stdout), "%s: no audit", what)
            else:
                bad.check_sentence(done.stderr, program="qcow2ctl")
            done = ctl.ctl("info", path, status=None)
            check(done.returncode in (0, 1), "%s: status %d", what, done.returncode)
            check_equal(done.returncode == 0, done.stderr == "", "%s: whether it is silent" % what)
            check_equal(compare.sha256(path), before, what)


mutated("plain", 80)
mutated("snapshots", 80)
mutated("extended", 40, needs=[tools.EXTENDED_L2])


# --- the audit ------------------------------------------------------------------------------


def audit(path, *arguments):
    """{code: finding}"""
    return {found["code"]: found for found in infos.json_info(path, "--audit", *arguments)["audit"]}


@suite.test("the audit of images that qemu-img makes finds nothing bad")
def _(directory):
    for kind in ("plain", "small", "version2", "snapshots"):
        found = audit(sample(kind, directory))
        grave = [code for code, one in found.items() if one["grade"] != "note"]
        # Their data were overwritten with zeros in part, which version 2 cannot do in place.
        check_equal(grave, [] if kind == "version2" else ["zeroed-data"], "what is found in " + kind)
        check("file-longer" not in found, "%s: %r", kind, found)


@suite.test("the audit finds what was deleted with a snapshot, and what hides elsewhere")
def _(directory):
    path = image.create(os.path.join(directory, "a.qcow2"), 4 * MiB)
    secret = "write -q -P 7 0 256k"
    tools.run("qemu-io", "-f", "qcow2", "-c", secret, path)
    tools.run("qemu-img", "snapshot", "-c", "evidence", path)
    check("snapshot" in audit(path), "no snapshot")
    tools.run("qemu-io", "-f", "qcow2", "-c", "write -q -P 8 0 256k", path)
    tools.run("qemu-img", "snapshot", "--image-opts", "-d", "evidence",
              "driver=qcow2,pass-discard-snapshot=off,file.filename=" + path)
    found = audit(path)
    check("snapshot" not in found, "a snapshot is left: %r", found)
    check_equal(found["deleted-data"]["grade"], "warning", "the grade")
    with open(path, "rb") as file:
        data = file.read()
    free = [at for at in range(0, len(data), 65536) if data[at:at + 4] == b"\7\7\7\7"]
    check_equal(len(free), 4, "the clusters with what was deleted")
    check(found["deleted-data"]["offset"] <= free[0], "the offset is %r", found["deleted-data"])
    check(int(found["deleted-data"]["text"].split()[-1]) >= 4, "%r", found["deleted-data"])
    end = os.path.getsize(path)
    with open(path, "r+b") as file:
        file.seek(60000)
        file.write(b"hidden")
        file.seek(-(-end // 65536) * 65536 + 70000)
        file.write(b"behind")
    found = audit(path)
    check_equal(found["header-slack"]["offset"], 60000, "the offset of the slack")
    check_equal(found["data-behind-end"]["offset"], -(-end // 65536) * 65536 + 65536,
                "the offset of what is behind")
    text = ctl.ctl("info", "--audit", path).stdout
    for words in ("audit: 0 danger, 4 warning", "deleted-data, at offset", "header-slack"):
        check(words in text, "no %r in:\n%s", words, text)


@suite.test("the audit finds what was overwritten with zeros and is still there")
def _(directory):
    path = image.create(os.path.join(directory, "a.qcow2"), 4 * MiB)
    image.io(path, "write -q -P 7 0 1M", "write -q -z 256k 128k")
    found = audit(path)["zeroed-data"]
    check_equal((found["grade"], found["text"].split()[-1]), ("warning", "2"), "%r" % found)
    with open(path, "rb") as file:
        file.seek(found["offset"])
        check_equal(file.read(4), b"\7" * 4, "what is there")
    tools.run("qemu-img", "snapshot", "-c", "evidence", path)
    check("zeroed-data" in audit(path), "not with a snapshot that does not show it either")


@suite.test("the audit finds clusters that a killed writer left")
def _(directory):
    path = image.create(os.path.join(directory, "a.qcow2"), 4 * MiB)
    tools.run("qemu-io", "-f", "qcow2", "-c", "write -q -P 7 0 1M", path)
    with qcow2.Qcow2(path) as opened:
        opened.set_l2_entry(3, 0)
    theirs = json.loads(tools.run("qemu-img", "check", "--output=json", path, status=3).stdout)
    found = audit(path)["leaked-clusters"]
    check(": %d, of which 1 hold data" % theirs["leaks"] in found["text"], "%r", found)


@suite.test("the audit names backing files outside, behind links, of no recorded format")
def _(directory):
    below = make_directory(directory, "below")
    base = image.create(os.path.join(directory, "base.qcow2"), MiB)
    os.symlink(base, os.path.join(below, "link.qcow2"))
    path = image.create(os.path.join(below, "a.qcow2"), MiB, backing="link.qcow2",
                        backing_format="qcow2")
    with qcow2.Qcow2(path) as opened:
        opened.remove_extension(qcow2.EXTENSION_BACKING_FORMAT)
    found = audit(path)
    for code in ("backing-file-outside", "backing-file-symlink", "backing-format-unrecorded"):
        check(code in found, "no %s in %r", code, found)
    check(directory in found["backing-file-outside"]["text"], "not said where: %r", found)


# --- while others have it open --------------------------------------------------------------


@suite.test("an image in use is refused, its holder named, and read with -U")
def _(directory):
    path = sample("plain", directory)
    with bad.held(path) as process:
        sentence = ctl.refused("info", path, words=["open for writing", "qemu-io", "-U"])
        check(str(process.pid) in sentence, "the process is not named: %s", sentence)
        ctl.refused("info", "--audit", "--json", path, words=["open for writing"])
        told = infos.json_info(path, "-U")
        infos.check_same(told, infos.qemu_info(path, "-U"))
    with bad.held(path, "-r"):
        infos.json_info(path)


@suite.test("a backing file in use ends the chain, and its holder is named")
def _(directory):
    path = chain(directory)
    with bad.held(os.path.join(directory, "middle.qcow2")):
        done = ctl.ctl("info", path, status=1)
        bad.check_sentence(done.stderr, "middle.qcow2", "qemu-io", program="qcow2ctl")
        check("virtual size:" in done.stdout, "nothing is shown")
        infos.json_info(path, "--force-share")


@suite.test("an image that is mounted to be written is refused", needs=[tools.fuse])
def _(directory):
    path = sample("plain", directory)
    with mount.mount(path, writable=True):
        ctl.refused("info", path, words=["open for writing", "qcow2fs"])


def in_the_mount(kind, needs):
    @suite.test("info.json in a mount is what qcow2ctl info says (%s)" % kind,
                needs=[tools.fuse, *needs])
    def _(directory):
        path = sample(kind, directory)
        expected = ctl.ctl("info", "--json", path).stdout
        with mount.mount(path, directory=True) as mounted:
            with open(os.path.join(mounted.path, "info.json"), encoding="utf-8") as file:
                told = file.read()
            check_equal(ctl.ctl("info", "--json", path).stdout, told, "info.json while mounted")
        check_equal(told, expected, "info.json")


for a_kind, its_needs in KINDS.items():
    in_the_mount(a_kind, its_needs)


@suite.test("a large sparse image is described at once, and audited without reading its holes")
def _(directory):
    path = image.create(os.path.join(directory, "a.qcow2"), 1 << 42, preallocation="off")
    image.io(path, image.write(0, 64 * KiB, 1), image.write((1 << 42) - 64 * KiB, 64 * KiB, 2))
    os.truncate(path, 1 << 40)
    found = audit(path)
    check_equal(found["file-longer"]["grade"], "note", "the grade")
    check_equal(infos.json_info(path)["virtual-size"], 1 << 42, "the size")


if __name__ == "__main__":
    suite.main()
