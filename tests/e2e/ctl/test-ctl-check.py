#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What `qcow2ctl check` says and repairs, beside qemu-img check."""

import os
import pty
import random
import select
import shutil
import struct
import subprocess

from lib import bad, checks, ctl, image, mount, qcow2, run, tap, tools
from lib.checks import CLEAN, ERRORS, FAILED, LEAKS
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.QEMU, tools.tool("prlimit")])
STRACE = tools.tool("strace")


def read_file(path):
    with open(path, "rb") as file:
        return file.read()


def spoil(path, leaks=0, errors=0):
    """Raises some refcounts, and lowers others to 0: two errors each, for the COPIED bit too."""
    with qcow2.Qcow2(path) as opened:
        cluster = opened.cluster_size
        for index in range(leaks):
            opened.set_refcount(opened.end() + (3 + index) * cluster, 1)
        for index in range(errors):
            offset = opened.l2_entry(index * cluster) & qcow2.HOST_OFFSET_MASK
            opened.set_refcount(offset, 0)
        opened.file.truncate(opened.end() + (3 + leaks) * cluster)


def spoilt(directory, kind="small", **what):
    path = bad.sample(kind, directory)
    spoil(path, **what)
    return path


def human(path, *arguments, status):
    return ctl.ctl("check", *arguments, path, status=status).stdout


# --- bounds ---------------------------------------------------------------------------------------

SECONDS = 30  # of processor time: a second or two are needed, and hours where a place is read again


def big_endian(*numbers):
    return struct.pack(">%dQ" % len(numbers), *numbers)


class Hostile:
    """Builds an image that asks for much: clusters of 2 MiB; refcounts of the first 2^20 of them."""

    def __init__(self, path, entries, virtual_size):
        self.file = open(path, "wb")
        self.cluster = 2 * MiB
        self.l1, self.l2, self.table, self.block, self.end = (n * self.cluster
                                                              for n in (1, 17, 18, 22, 23))
        self.header = dict(entries=entries, size=virtual_size, snapshots=0, snapshots_offset=0)
        self.extension = b""

    def put(self, offset, *numbers, times=1):
        self.file.seek(offset)
        self.file.write(big_endian(*numbers) * times)

    def done(self):
        header = self.header
        self.file.seek(0)
        self.file.write(struct.pack(
            ">IIQIIQIIQQIIQQQQII", 0x514649FB, 3, 0, 0, 21, header["size"], 0, header["entries"],
            self.l1, self.table, 4, header["snapshots"], header["snapshots_offset"], 0, 0,
            1 if self.extension else 0, 4, 104) + self.extension + bytes(8))
        self.file.seek(0, os.SEEK_END)
        self.file.truncate(-(-max(self.file.tell(), self.end) // self.cluster) * self.cluster)
        self.file.close()


def ends_soon(sentence, make):
    @suite.test("check and info --audit end soon: " + sentence)
    def _(directory):
        path = os.path.join(directory, "image.qcow2")
        make(path)
        for command in (["check"], ["info", "--audit"]):
            done = subprocess.run(["prlimit", "--cpu=%d" % SECONDS, ctl.program(), *command, path],
                                  stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
            check(done.returncode >= 0, "%s took more than %d seconds", command, SECONDS)


def one_block(path):
    made = Hostile(path, 1, MiB)
    made.put(made.table, made.block, times=1 << 20)
    made.done()


def sparse_tables(path):
    """A file of 15 TiB: the limit on how many tables an L1 table can name is no limit there."""
    made = Hostile(path, 1 << 22, (1 << 61) - 2 * MiB)
    made.put(made.table, made.block)
    made.put(made.l1, *(made.l2 if index % 2 else (1 << 42) + (index << 21)
                        for index in range(1 << 22)))
    made.put(made.l2, *(made.end + n * made.cluster for n in range(64)))
    made.end = 15 << 40  # ext4 has no larger ones
    made.done()


def shared_l1(path):
    made = Hostile(path, 1 << 22, (1 << 61) - 2 * MiB)
    made.put(made.table, made.block)
    made.put(made.l1, made.l2, times=1 << 22)
    made.put(made.l2, made.end, times=1 << 18)
    entries = b"".join(
        struct.pack(">QIHHIIQII", made.l1, (1 << 22) - number, 1, 1, 0, 0, 0, 0, 16) +
        big_endian(0, MiB) + b"1s" + bytes(6) for number in range(20000))
    made.file.seek(made.end)
    made.file.write(entries)
    made.header.update(snapshots=20000, snapshots_offset=made.end)
    made.end += made.cluster
    made.done()


def shared_bitmaps(path):
    made = Hostile(path, 1, 1 << 44)
    made.put(made.table, made.block)
    tables, count = made.end, 20000
    made.put(tables, *(tables + 32 * MiB + 2 * MiB * (n % 8) for n in range(1 << 20)))
    directory = tables + 16 * MiB
    entries = b"".join(struct.pack(">QIIBBHI", tables, (1 << 20) - number, 1, 1, 9, 1, 0) + b"b" +
                       bytes(7) for number in range(count))
    made.file.seek(directory)
    made.file.write(entries)
    made.extension = struct.pack(">IIIIQQ", 0x23852875, 24, count, 0, len(entries), directory)
    made.end = tables + 64 * MiB
    made.done()


ends_soon("a refcount table whose entries all name one block", one_block)
ends_soon("a sparse file of 15 TiB, L2 tables in its holes", sparse_tables)
ends_soon("20,000 snapshots share an L1 table that names one L2 table", shared_l1)
ends_soon("20,000 bitmaps share a table", shared_bitmaps)


@suite.test("tables that are shared count as often as they are named, as for qemu-img")
def _(directory):
    path = bad.sample("snapshots", directory)
    with qcow2.Qcow2(path) as opened:
        for index in range(1, 4):
            opened.set_l1_entry(index, opened.l1_entry(0))
    checks.check_same(path)


# --- verdicts --------------------------------------------------------------------------------


def agrees(kind, needs=()):
    @suite.test("an image (%s) is in order for both, and its JSON is that of qemu-img" % kind,
                needs=needs)
    def _(directory):
        checks.check_clean(bad.sample(kind, directory), kind)


for name, needs in (("plain", ()), ("version2", ()), ("small", ()), ("zstd", [tools.ZSTD]),
                    ("extended", [tools.EXTENDED_L2]), ("snapshots", ()), ("bitmaps", ()),
                    ("datafile", [tools.DATA_FILE])):
    agrees(name, needs)


@suite.test("encrypted images are checked without their key")
def _(directory):
    for kind in ("luks", "aes"):
        place = os.path.join(directory, kind)
        os.mkdir(place)
        path = bad.sample(kind, place)
        done = tools.run("qemu-img", "check", "--output=json", "--object",
                         "secret,id=s0,data=abc123", "--image-opts",
                         "driver=qcow2,encrypt.key-secret=s0,file.driver=file,file.filename=%s"
                         % path, status=None)
        theirs = checks.Verdict(done.returncode, checks.json.loads(done.stdout), done.stderr)
        mine = checks.ours(path)
        check_equal(mine.status, theirs.status, "the status of %s" % kind)
        check_equal(checks.differences(theirs, mine), [], "(key, theirs, ours) of %s" % kind)


@suite.test("the exit status is 0 for an image in order, 3 for leaks, 2 for errors, as qemu-img's")
def _(directory):
    path = bad.sample("small", directory)
    check("in order" in human(path, status=CLEAN), "it does not say so")
    spoil(path, leaks=2)
    check_equal(checks.check_same(path).status, LEAKS, "the status")
    check("0 errors, 2 leaked clusters" in human(path, status=LEAKS), "no summary")
    spoil(path, errors=1)
    check_equal(checks.check_same(path).status, ERRORS, "the status")
    check("2 errors, 2 leaked clusters" in human(path, status=ERRORS), "no summary")


@suite.test("--quiet prints nothing, and the status tells")
def _(directory):
    path = spoilt(directory, leaks=1)
    done = ctl.ctl("check", "-q", path, status=LEAKS)
    check_equal(done.stdout + done.stderr, "", "the output")


@suite.test("a hundred findings are printed and the others counted; --verbose prints all")
def _(directory):
    path = bad.sample("small", directory)
    with qcow2.Qcow2(path) as opened:
        for index in range(240):
            guest = index * opened.cluster_size
            if opened.l2_entry(guest) & qcow2.COPIED:
                opened.set_l2_entry(guest, opened.l2_entry(guest) ^ qcow2.COPIED)
    total = checks.check_same(path).found["corruptions"]
    check(total > 150, "only %d errors", total)
    lines = human(path, status=ERRORS).splitlines()
    check_equal(sum(line.startswith("error: ") for line in lines), 100, "findings printed")
    check("... and %d more, which --verbose prints" % (total - 100) in lines, "no rest: %r", lines)
    lines = human(path, "--verbose", status=ERRORS).splitlines()
    check_equal(sum(line.startswith("error: ") for line in lines), total, "findings printed")
    found = checks.ours(path).found
    check_equal((len(found["findings"]), found["findings-omitted"]), (100, total - 100), "in JSON")


@suite.test("neither a backing file nor a data file has to be there", needs=[tools.DATA_FILE])
def _(directory):
    for kind, other in (("backing", "base.raw"), ("datafile", "data.raw")):
        place = os.path.join(directory, kind)
        os.mkdir(place)
        path = bad.sample(kind, place)
        before = checks.ours(path)
        os.unlink(os.path.join(place, other))
        check_equal(checks.ours(path), before, "the verdict on %s" % kind)
        check_equal(before.status, CLEAN, "the status of %s" % kind)
    check("external data file, which was not looked at" in human(path, status=CLEAN), "no word")


# --- repairs ---------------------------------------------------------------------------------


@suite.test("--repair=leaks frees what is leaked, and leaves errors as they are")
def _(directory):
    path = spoilt(directory, leaks=3, errors=2)
    done = checks.ours(path, "--repair=leaks")
    check_equal(done.status, ERRORS, "the status")
    check_equal([done.found.get(key) for key in ("leaks-fixed", "corruptions-fixed", "leaks",
                                                 "corruptions")], [3, None, None, 4], "the counts")
    checks.check_same(path)


@suite.test("-r all repairs what qemu-img repairs, and counts it the same")
def _(directory):
    path = spoilt(directory, leaks=3, errors=2)
    copy = shutil.copyfile(path, path + ".copy")
    before = bad.contents(path)
    mine, theirs = checks.ours(path, "-r", "all"), checks.of_qemu(copy, "-r", "all")
    check_equal(mine.status, CLEAN, "the status")
    for key in ("leaks-fixed", "corruptions-fixed"):
        check_equal(mine.found.get(key), theirs.found.get(key), key)
    checks.check_clean(path)
    check_equal(bad.contents(path) == before, True, "the contents are what they were")
    check("repaired" not in human(path, "-r", "all", status=CLEAN), "it repaired again")


@suite.test("a repair ends with the dirty and the corrupt bit cleared, as with qemu-img")
def _(directory):
    for repair in ("leaks", "all"):
        for features in (qcow2.DIRTY, qcow2.CORRUPT, qcow2.DIRTY | qcow2.CORRUPT):
            path = bad.sample("small", directory)
            with qcow2.Qcow2(path) as opened:
                opened["incompatible_features"] |= features
            said = human(path, status=CLEAN)
            check_equal("marked dirty" in said, bool(features & qcow2.DIRTY), "the word on dirty")
            check_equal("marked corrupt" in said, bool(features & qcow2.CORRUPT), "and on corrupt")
            copy = shutil.copyfile(path, path + ".copy")
            checks.ours(path, "-r", repair)
            checks.of_qemu(copy, "-r", repair)
            with qcow2.Qcow2(path) as mine, qcow2.Qcow2(copy) as theirs:
                check_equal(mine["incompatible_features"], 0, "the features")
                check_equal(theirs["incompatible_features"], 0, "the features for qemu-img")


@suite.test("a dirty image with errors stays dirty when only leaks are repaired")
def _(directory):
    path = spoilt(directory, leaks=1, errors=1)
    with qcow2.Qcow2(path) as opened:
        opened["incompatible_features"] |= qcow2.DIRTY
    checks.ours(path, "--repair=leaks")
    with qcow2.Qcow2(path) as opened:
        check_equal(opened["incompatible_features"], qcow2.DIRTY, "the features")


@suite.test("unknown autoclear features are cleared by a repair, and by nothing else")
def _(directory):
    path = spoilt(directory, leaks=1)
    with qcow2.Qcow2(path) as opened:
        opened["autoclear_features"] |= 1 << 40
    checks.ours(path)
    with qcow2.Qcow2(path) as opened:
        check_equal(opened["autoclear_features"], 1 << 40, "the features after a check")
    checks.ours(path, "-r", "all")
    with qcow2.Qcow2(path) as opened:
        check_equal(opened["autoclear_features"], 0, "the features after a repair")


DESTROYED = {"past the end": ("refcount_table_offset", 1 << 40),
             "not at a cluster": ("refcount_table_offset", 4096 + 512),
             "of no clusters": ("refcount_table_clusters", 0),
             "too large": ("refcount_table_clusters", 1 << 20),
             "on the L1 table": ("refcount_table_offset", None),
             "on the header": ("refcount_table_offset", 0)}


@suite.test("a refcount table that is lost is made anew, with all that the image holds")
def _(directory):
    for what, (field, value) in DESTROYED.items():
        path = bad.sample("snapshots", directory)
        before = bad.contents(path)
        with qcow2.Qcow2(path) as opened:
            opened[field] = opened["l1_table_offset"] if value is None else value
        check_equal(checks.ours(path).status, ERRORS, "%s: the status" % what)
        check_equal(checks.ours(path, "--repair=all").status, CLEAN, "%s: the repair" % what)
        checks.check_clean(path, what)
        check_equal(bad.contents(path) == before, True, "%s: the contents" % what)


def snapshot_list(path):
    """Number, name and sizes; the count of instructions is extra data that need not be there."""
    return [line.split()[:7] for line in tools.output("qemu-img", "snapshot", "-l",
                                                      path).splitlines()[2:]]


@suite.test("snapshot entries that are too long or too short are written anew, as qemu-img does")
def _(directory):
    for lengths in ((0, 16, 16), (8, 8, 8), (24, 2000, 16), (16, 16, 1032)):
        path = bad.sample("snapshots", directory)
        listed = snapshot_list(path)
        set_extra_sizes(path, lengths)
        copy = shutil.copyfile(path, path + ".copy")
        theirs = checks.of_qemu(copy, "-r", "all")
        check_equal(checks.ours(path).status, ERRORS, "the status")
        mine = checks.ours(path, "-r", "all")
        check_equal(mine.status, CLEAN, "the status after the repair (%r)" % (mine,))
        check_equal(mine.found["corruptions-fixed"], theirs.found["corruptions-fixed"], "the count")
        checks.check_clean(path)
        check_equal(snapshot_list(path), listed, "the snapshots")


def set_extra_sizes(path, lengths):
    """Writes the snapshot table with other lengths of extra data, at the end of the file."""
    with qcow2.Qcow2(path) as opened:
        table = b""
        for index, (found, length) in enumerate(zip(opened.snapshots(), lengths)):
            entry = bytearray(opened.read(found.position, qcow2.SNAPSHOT_FIXED_LENGTH))
            extra = opened.read(found.position + len(entry),
                                opened.snapshot_field(index, "extra_data_size"))
            entry[36:40] = length.to_bytes(4, "big")
            entry += extra[:length].ljust(length, b"\0") + found.id + found.name
            table += entry.ljust((len(entry) + 7) // 8 * 8, b"\0")
        end = opened.end() // opened.cluster_size * opened.cluster_size + opened.cluster_size
        opened.write(end, table.ljust(2 * opened.cluster_size, b"\0"))
        for offset in (end, end + opened.cluster_size)[:(len(table) - 1) // opened.cluster_size + 1]:
            opened.set_refcount(offset, 1)
        opened.set_refcount(opened["snapshots_offset"], 0)
        opened["snapshots_offset"] = end
        opened.file.truncate(end + 2 * opened.cluster_size)


@suite.test("a table that something else refers to stays an error, and nothing is freed")
def _(directory):
    for field in ("l1_table_offset", "snapshots_offset"):
        path = bad.sample("snapshots", directory)
        with qcow2.Qcow2(path) as opened:
            guest = 200 * opened.cluster_size  # never written again after the last snapshot
            opened.set_l2_entry(guest, opened[field] | qcow2.COPIED)
        check_equal(checks.check_same(path).status, ERRORS, "the status")
        done = human(path, "--repair=all", status=ERRORS)
        check("cannot be repaired" in done and "in use twice" in done, "it said %s", done)
        found = checks.ours(path).found
        check_equal(found["corruptions"], 2, "the errors: the overlap, and the COPIED bit")
        check(found["leaks"] > 0, "the cluster that the entry named before is not kept")


# --- refusals --------------------------------------------------------------------------------


@suite.test("what is no image that can be checked is refused with one sentence and status 1")
def _(directory):
    path = bad.sample("small", directory)
    missing = os.path.join(directory, "missing")
    empty, raw = os.path.join(directory, "empty"), os.path.join(directory, "raw")
    with open(empty, "wb"), open(raw, "wb") as file:
        file.write(random.Random(1).randbytes(MiB))
    ctl.refused("check", missing, words=[missing, "no such image"])
    ctl.refused("check", directory, words=[directory, "is a directory"])
    for subject in (empty, raw):
        ctl.refused("check", subject, words=[subject], unchanged=[subject])
        ctl.refused("check", "-r", "all", subject, words=[subject], unchanged=[subject])
    for field, value, word in (("version", 7, "version 7"), ("cluster_bits", 40, "cluster_bits"),
                               ("l1_size", 1 << 30, "l1_size"),
                               ("refcount_order", 9, "refcount_order"),
                               ("incompatible_features", 1 << 50, "bit 50"),
                               ("nb_snapshots", 70000, "snapshot"),
                               ("l1_table_offset", 100, "l1_table_offset"),
                               ("virtual_size", 1 << 62, "L1 table")):
        bad.sample("small", directory)
        with qcow2.Qcow2(path) as opened:
            opened[field] = value
        for arguments in ((), ("--repair=all",)):
            ctl.refused("check", *arguments, path, words=[path, word], unchanged=[path])


@suite.test("a wrong command line is refused with status 64 and the word that is wrong")
def _(directory):
    path = bad.sample("small", directory)
    for arguments, word in ((("--repair=some", path), "some"), (("-r",), "-r"), ((), "IMAGE"),
                            ((path, path), "too many"), (("-f", "raw", path), "raw"),
                            (("-U", "-r", "all", path), "--force-share"),
                            (("--repai=all", path), "--repair"), (("-x", path), "-x"),
                            (("--output=xml", path), "xml")):
        ctl.refused("check", *arguments, words=[word], status=64, unchanged=[path])


@suite.test("an image that somebody writes is refused with the holder named; -U reads it")
def _(directory):
    path = bad.sample("small", directory)
    with bad.held(path):
        ctl.refused("check", path, words=[path, "qemu-io", "-U"])
        ctl.refused("check", "-r", "all", path, words=[path, "qemu-io"])
        check_equal(checks.ours(path, "-U").status, CLEAN, "the status with -U")
    with bad.held(path, "-r"):
        check_equal(checks.ours(path).status, CLEAN, "the status beside a reader")
        ctl.refused("check", "-r", "leaks", path, words=[path, "qemu-io"])
    checks.check_clean(path)


@suite.test("a mounted image is refused with qcow2fs named, unless it is only read",
            needs=[tools.fuse])
def _(directory):
    path = bad.sample("small", directory)
    with mount.mount(path, writable=True):
        ctl.refused("check", path, words=[path, "qcow2fs", "-U"])
        ctl.refused("check", "-r", "all", path, words=[path, "qcow2fs"])
    with mount.mount(path):
        check_equal(checks.ours(path).status, CLEAN, "the status beside a reader")
        ctl.refused("check", "-r", "all", path, words=[path, "qcow2fs"])


@suite.test("a disk that fails ends the check with status 1, and nothing is repaired",
            needs=[STRACE])
def _(directory):
    path = spoilt(directory, leaks=2)
    kept = read_file(path)
    for call in range(6, 10):
        done = tools.run("strace", "-f", "-o", "/dev/null", "-e", "trace=pread64", "-e",
                         "inject=pread64:error=EIO:when=%d" % call, ctl.program(), "check", "-r",
                         "all", path, status=None)
        if done.returncode == LEAKS or done.returncode == CLEAN:
            break
        check_equal(done.returncode, FAILED, "the status (%s)" % done.stderr)
        check("Input/output error" in done.stdout + done.stderr or "could not be read"
              in done.stderr, "it said %s%s", done.stdout, done.stderr)
        check_equal(read_file(path) == kept, True, "the image is unchanged")


# --- cut off ----------------------------------------------------------------------------------


def lost_counts(path):
    """Wrong counts and COPIED bits, all repaired in place."""
    spoil(path, leaks=3, errors=4)
    with qcow2.Qcow2(path) as opened:
        for guest in (8, 9, 12):
            entry = opened.l2_entry(guest * opened.cluster_size)
            opened.set_l2_entry(guest * opened.cluster_size, entry ^ qcow2.COPIED)
        opened["incompatible_features"] |= qcow2.DIRTY
        opened["autoclear_features"] |= 1 << 33


def lost_tables(path):
    """No refcount table, and a snapshot table with faults: both are made anew."""
    set_extra_sizes(path, (0, 2000, 16))
    with qcow2.Qcow2(path) as opened:
        opened.set_number(opened["refcount_table_offset"], 8, 0)
        opened["incompatible_features"] |= qcow2.DIRTY | qcow2.CORRUPT


def killed_everywhere(sentence, spoil_it):
    @suite.test(sentence, needs=[STRACE])
    def _(directory):
        path = bad.sample("snapshots", directory)
        before = bad.contents(path)
        first = tools.run("qemu-img", "convert", "-l", "first", "-O", "raw", path,
                          os.path.join(directory, "first.raw")) and \
            read_file(os.path.join(directory, "first.raw"))
        spoil_it(path)
        damaged = shutil.copyfile(path, path + ".damaged")
        for call in range(1, 1000):
            shutil.copyfile(damaged, path)
            done = tools.run("strace", "-f", "-o", "/dev/null", "-e", "trace=pwrite64", "-e",
                             "inject=pwrite64:signal=KILL:when=%d" % call, ctl.program(), "check",
                             "-q", "-r", "all", path, status=None)
            killed = done.returncode not in (CLEAN, FAILED, ERRORS, LEAKS)
            check(killed or done.returncode == CLEAN, "status %d: %s", done.returncode, done.stderr)
            check_equal(checks.ours(path, "-r", "all").status, CLEAN, "call %d: again" % call)
            checks.check_clean(path, "call %d" % call)
            check_equal(bad.contents(path) == before, True, "call %d: the contents" % call)
            if not killed:
                break
        tap.diagnose("%d calls" % call)
        check(call > 5, "only %d calls", call)
        check_equal(bad.contents(path) == before, True, "the contents")
        tools.run("qemu-img", "convert", "-l", "first", "-O", "raw", path,
                  os.path.join(directory, "first.raw"))
        check_equal(read_file(os.path.join(directory, "first.raw")) == first, True, "a snapshot's")


killed_everywhere("a repair in place killed at any write is completed by another", lost_counts)
killed_everywhere("a repair with new tables killed at any write is completed by another",
                  lost_tables)


# --- devices, large images ---------------------------------------------------------------------


@suite.test("refcounts are made anew on a block device, which cannot grow", needs=[tools.loop])
def _(directory):
    path = bad.sample("small", directory)
    before = bad.contents(path)
    with qcow2.Qcow2(path) as opened:
        opened.set_number(opened["refcount_table_offset"], 8, 0)
        opened.file.truncate(8 * MiB)
    with mount.loop_device(path, writable=True) as device:
        check_equal(checks.ours(device).status, ERRORS, "the status")
        check_equal(checks.ours(device, "--repair=all").status, CLEAN, "the repair")
        check_equal(checks.ours(device).status, CLEAN, "the status afterwards")
    checks.check_clean(path)
    check_equal(bad.contents(path) == before, True, "the contents are what they were")


@suite.test("a block device without room for new refcounts keeps what it has", needs=[tools.loop])
def _(directory):
    path = bad.sample("small", directory)
    before = bad.contents(path)
    with qcow2.Qcow2(path) as opened:
        opened.set_number(opened["refcount_table_offset"], 8, 0)
        opened.file.truncate((opened.end() + 4095) // 4096 * 4096)
    kept = read_file(path)
    with mount.loop_device(path, writable=True) as device:
        ctl.refused("check", "-r", "all", device, words=[device, "No space left"])
    check_equal(read_file(path)[:len(kept)] == kept, True, "the image is unchanged")
    check_equal(bad.contents(path) == before, True, "the contents")


def no_large_files(directory):
    try:
        with open(os.path.join(directory, "large"), "wb") as file:
            file.truncate(257 << 30)
    except OSError as error:
        raise tap.Skip("no files of 256 GiB here: %s" % error) from error
    os.unlink(os.path.join(directory, "large"))


def in_little_memory(path):
    """With the program itself and its libraries."""
    tools.run("prlimit", "--as=%d" % (32 * MiB), ctl.program(), "check", "-q", path)


@suite.test("64 TiB, nearly empty, and 256 GiB, all mapped, are checked within 32 MiB of addresses")
def _(directory):
    if os.environ.get("QCOW2FS_SANITIZE", "no") != "no":
        raise tap.Skip("a sanitizer takes more")
    no_large_files(directory)
    path = image.create(os.path.join(directory, "64T.qcow2"), 64 << 40)
    image.io(path, *[image.write(at, 64 * KiB, 1) for at in (0, 5 << 40, (64 << 40) - 64 * KiB)])
    in_little_memory(path)
    path = image.create(os.path.join(directory, "256G.qcow2"), 256 << 30, preallocation="metadata")
    in_little_memory(path)
    checks.check_clean(path)


# --- progress ----------------------------------------------------------------------------------


@suite.test("on a terminal a long check shows how far it is, how fast, and what is left",
            needs=[STRACE])
def _(directory):
    path = image.create(os.path.join(directory, "a.qcow2"), 4 * MiB, cluster_size=512,
                        preallocation="metadata")
    master, slave = pty.openpty()
    with subprocess.Popen(["strace", "-f", "-o", "/dev/null", "-e", "trace=pread64", "-e",
                           "inject=pread64:delay_enter=400000:when=3..9", ctl.program(), "check",
                           "-q", path], stdout=subprocess.DEVNULL, stderr=slave) as process:
        os.close(slave)
        told = b""
        while select.select([master], [], [], tools.TIMEOUT)[0]:
            try:
                data = os.read(master, 4096)
            except OSError:  # nobody holds the other end
                break
            told += data
        check_equal(process.wait(tools.TIMEOUT), CLEAN, "the status")
    os.close(master)
    for word in (b"checking: ", b" %, ", b" L2 tables/s, ", b" left"):
        check(word in told, "no %r in %r", word, told)


if __name__ == "__main__":
    suite.main()
