#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""qcow2ctl mount and umount: from an image to its files and back, and nothing left behind."""

import contextlib
import json
import os
import random
import shutil
import struct
import subprocess
import zlib

from lib import bad, compare, ctl, files, image, mount, private, run, tap, tools
from lib.files import qcow2ctl
from lib.image import MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.root, tools.loop, tools.QEMU,
                         tools.tool("sfdisk", "debugfs"), tools.file_system("ext4")])


def directory_in(directory, name="files"):
    at = os.path.join(directory, name)
    os.mkdir(at)
    return at


def read(*parts):
    with open(os.path.join(*parts), "rb") as file:
        return file.read()


# --- one command -----------------------------------------------------------------------------


@suite.test("a plain umount ends all that mount made, and what was written is in the image")
def _(directory):
    path = files.whole(directory)
    at = directory_in(directory)
    done = qcow2ctl("mount", path, at)
    check_equal((done.stdout, done.stderr), ("", ""), "what it said")
    check_equal(read(at, "here"), b"from the image\n", "a file of the image")
    check_equal(bad.mount_table(at)[1], "ext4", "the type")
    with open(os.path.join(at, "new"), "wb") as file:
        file.write(b"x" * 3 * MiB)
    check_equal(len(files.listed(path)), 1, "the number of daemons")
    tools.run("umount", at)
    files.check_nothing_left(path)
    files.check_in_order(path)
    with files.mounted(path, at):
        check_equal(read(at, "new"), b"x" * 3 * MiB, "what was written")


@suite.test("-r writes to neither layer, and leaves a journal as it is")
def _(directory):
    path = files.whole(directory)
    at = directory_in(directory)
    with files.mounted(path, at):
        with open(os.path.join(at, "dirty"), "wb") as file:
            file.write(b"y" * MiB)
            os.fsync(file.fileno())
        tools.run("cp", "--sparse=always", path, path + ".crashed")  # its journal wants a replay
    before = compare.sha256(path + ".crashed")
    with files.mounted(path + ".crashed", at, "-r"):
        check("ro" in bad.mount_table(at)[2], "not read-only")
        check_equal(read(at, "here"), b"from the image\n", "a file")
    check_equal(compare.sha256(path + ".crashed"), before, "the image, afterwards,")


@suite.test("two partitions are listed with their file systems, and each can be chosen")
def _(directory):
    for label in ("gpt", "dos"):
        path = files.partitioned(directory, label, name=label)
        at = directory_in(directory, "files-" + label)
        done = ctl.ctl("mount", path, at, status=1)
        check("has 2 file systems; choose one with -p NUMBER" in done.stderr, "it said %s",
              done.stderr)
        check("ext4" in done.stderr and "one" in done.stderr and "two" in done.stderr,
              "no list: %s", done.stderr)
        found = json.loads(qcow2ctl("mount", "--list", "--json", path).stdout)["partitions"]
        check_equal([part["label"] for part in found], ["one", "two"], "the labels")
        choices = [("1", "one"), ("2", "two"), ("LABEL=two", "two"),
                   ("UUID=" + found[0]["uuid"].upper(), "one"),
                   ("PARTUUID=" + found[1]["partuuid"], "two")]
        for wanted, expected in choices:
            with files.mounted(path, at, "-p", wanted):
                check_equal(read(at, "here"), ("on %s\n" % expected).encode(), wanted)
        done = ctl.ctl("mount", "-p", "3", path, at, status=1)
        check(done.stderr.endswith("has no partition 3\n"), "it said %s", done.stderr)
        ctl.refused("mount", "-p", "x", path, at, words=["'x' is no partition"])
        files.check_nothing_left(path)


@suite.test("a disk with one file system among other things needs no choice")
def _(directory):
    raw = files.table(directory, "label: gpt\nstart=1MiB,size=8MiB,type=%s\nstart=16MiB,size=40MiB\n"
                      % "21686148-6449-6E6F-744E-656564454649", systems=[(16, 40, "ext4", "only")])
    path = os.path.join(directory, "only.qcow2")
    image.convert(raw, path)
    at = directory_in(directory)
    with files.mounted(path, at):
        check_equal(read(at, "here"), b"on only\n", "a file")


for kind in ("xfs", "btrfs"):
    @suite.test("%s is mounted, written, and read again" % kind, needs=[tools.file_system(kind)])
    def _(directory, kind=kind):
        path = files.whole(directory, kind, size=320 * MiB)
        at = directory_in(directory)
        with files.mounted(path, at):
            check_equal(bad.mount_table(at)[1], kind, "the type")
            with open(os.path.join(at, "new"), "wb") as file:
                file.write(b"z" * MiB)
        files.check_in_order(path)
        with files.mounted(path, at, "-r"):
            check_equal(read(at, "new"), b"z" * MiB, "what was written")


@suite.test("mount -t qcow2 and an unmount by its helper do the same")
def _(directory):
    path = files.partitioned(directory)
    at = directory_in(directory)
    helper = os.path.join(directory, "mount.qcow2")
    os.symlink(ctl.program(), helper)
    tools.run(helper, path, at, "-n", "-o", "rw,partition=2,noatime,fs.commit=77,discard=ignore",
              env=files.environment())
    try:
        check_equal(read(at, "here"), b"on two\n", "a file")
        check("noatime" in bad.mount_table(at)[2], "options: %s", bad.mount_table(at)[2])
        check("commit=77" in bad.mount_table(at)[2], "options: %s", bad.mount_table(at)[2])
    finally:
        run.unmount(at)
    files.check_nothing_left(path)
    done = tools.run(helper, path, at, "-o", "ro,partition=7", status=32,
                     env=files.environment())
    bad.check_sentence(done.stderr, "has no partition 7", program="qcow2ctl")


@suite.test("mount(8) and umount(8) find the helpers, and umount waits for the daemon")
def _(directory):
    path = files.whole(directory)
    at = directory_in(directory)
    raw = bad.mount_point(directory, "raw")  # a file: of a directory umount(8) may not ask whose it is
    upper, work = directory_in(directory, "upper"), directory_in(directory, "work")
    for name in ("mount.qcow2", "umount.fuse.qcow2fs"):
        os.symlink(ctl.program(), os.path.join(upper, name))
    # /sbin with two names more, for these commands alone. An overlay wants a file system of its own kind.
    script = """
        mount --bind "$1" "$1"
        mkdir "$1/tmp"; mount -t tmpfs none "$1/tmp"; mkdir "$1/tmp/upper" "$1/tmp/work"
        cp -P "$2"/* "$1/tmp/upper"
        sbin=$(readlink -f /sbin)
        mount -t overlay -o lowerdir="$sbin",upperdir="$1/tmp/upper",workdir="$1/tmp/work" none "$sbin"
        # An empty utab would have umount(8) of util-linux 2.42 not look for a helper of a subtype.
        [ ! -e /run/mount ] || mount -t tmpfs none /run/mount
        "$5" "$3" "$6"
        umount "$6"
        # Returned, so the locks are free: nobody has the image open.
        qemu-io -f qcow2 -c "write 0 512" "$3" >/dev/null
        mount -t qcow2 -o ro "$3" "$4"
        cat "$4/here"
        umount "$4"
        """
    done = tools.run(*private.prefix(), "sh", "-euc", script, "sh", work, upper, path, at,
                     run.program(), raw, env=files.environment())
    check_equal(done.stdout, "from the image\n", "the file")
    files.check_nothing_left(path)


# --- what cannot be ---------------------------------------------------------------------------


@suite.test("what cannot be mounted is one sentence, and leaves nothing")
def _(directory):
    path = files.whole(directory)
    at = directory_in(directory)
    full = directory_in(directory, "full")
    with open(os.path.join(full, "file"), "wb"):
        pass
    empty = os.path.join(directory, "empty.qcow2")
    image.create(empty, 10 * MiB)
    ctl.refused("mount", path, full, words=["is not empty", "--nonempty"])
    ctl.refused("mount", path, path, words=["is no directory"])
    ctl.refused("mount", path, os.path.join(directory, "none"), words=["No such file"])
    ctl.refused("mount", empty, at, words=["neither partitions nor a file system"])
    ctl.refused("mount", os.path.join(directory, "none.qcow2"), at, words=["none.qcow2"])
    ctl.refused("mount", "-o", "nonsense=1", path, at, words=["nonsense"])
    ctl.refused("mount", path, words=["where to?"], status=64)
    with bad.held(path):
        ctl.refused("mount", path, at, words=[path])
    done = ctl.ctl("mount", "--fs-options", "nonsense", path, at, status=1)
    check("wrong fs type, bad option" in done.stderr or "nonsense" in done.stderr, "it said %s",
          done.stderr)
    files.check_nothing_left(path)
    qcow2ctl("mount", "--nonempty", path, full)
    qcow2ctl("umount", full)


def lvm_label():
    """The label of a physical volume; its checksum is a CRC-32 with another beginning."""
    covered = struct.pack("<I8s32s", 32, b"LVM2 001", b"0123456789abcdefghijklmnopqrstuv")
    covered = covered.ljust(512 - 20, b"\0")
    checksum = ~zlib.crc32(covered, ~0xf597a6cf & 0xffffffff) & 0xffffffff
    return struct.pack("<8sQI", b"LABELONE", 1, checksum) + covered


@suite.test("LUKS, LVM, RAID and swap are named as what they are, with what goes on from there")
def _(directory):
    cases = [
        (0x0, b"LUKS\xba\xbe\x00\x01", "is encrypted (crypto_LUKS)", "cryptsetup"),
        (0x200, lvm_label(), "LVM2_member", "vgchange"),
    ]
    at = directory_in(directory)
    for number, (offset, magic, what, remedy) in enumerate(cases):
        raw = os.path.join(directory, "%d.raw" % number)
        with open(raw, "wb") as file:
            file.truncate(32 * MiB)
            file.seek(offset)
            file.write(magic)
        path = raw + ".qcow2"
        image.convert(raw, path)
        ctl.refused("mount", path, at, words=[what, remedy])
    swap = os.path.join(directory, "swap.raw")
    with open(swap, "wb") as file:
        file.truncate(32 * MiB)
    tools.run("mkswap", swap)
    image.convert(swap, swap + ".qcow2")
    ctl.refused("mount", swap + ".qcow2", at, words=["is swap space"])


# --- umount -------------------------------------------------------------------------------------


@suite.test("qcow2ctl umount takes any part of the stack for all of it")
def _(directory):
    path = files.whole(directory)
    at, raw = directory_in(directory), directory_in(directory, "raw")
    for part in (at, path):
        qcow2ctl("mount", path, at)
        qcow2ctl("umount", part)
        check_equal(files.listed(path), [], "the list")
    device = "/dev/" + os.path.basename(at)
    qcow2ctl("mount", path, at)
    device = files.listed(path)[0]["loop-devices"][0]
    qcow2ctl("umount", device)
    check_equal(files.listed(path), [], "the list")
    for part in (raw, os.path.join(raw, "disk.raw"), path):
        tools.run(run.program(), path, raw, env=files.environment())
        qcow2ctl("umount", part)
        check(not mount.is_mounted(raw), "still mounted")
        check_equal(files.listed(path), [], "the list")
    ctl.refused("umount", at, words=["no running qcow2fs"])


@suite.test("what is in use is refused by the name of who uses it, and --lazy detaches it")
def _(directory):
    path = files.whole(directory)
    at = directory_in(directory)
    qcow2ctl("mount", path, at)
    with subprocess.Popen(["sleep", "1000"], cwd=at) as sleeper:
        try:
            ctl.refused("umount", at, words=["is in use by sleep (%d)" % sleeper.pid, "--lazy"])
            check(mount.is_mounted(at), "unmounted all the same")
            qcow2ctl("umount", "--lazy", at)
            check(not mount.is_mounted(at), "still mounted")
            check_equal(len(files.listed(path)), 1, "daemons while it is in use")
        finally:
            sleeper.kill()
    files.check_nothing_left(path)


@suite.test("an image that is mounted twice is asked for by its mount point")
def _(directory):
    path = files.whole(directory)
    one, two = directory_in(directory, "one"), directory_in(directory, "two")
    with files.mounted(path, one, "-r"), files.mounted(path, two, "-r"):
        ctl.refused("umount", path, words=["is mounted 2 times"])
        qcow2ctl("umount", one)
        check(mount.is_mounted(two), "both are gone")


@suite.test("twenty images at once, and two hundred, are listed, and gone again")
def _(directory):
    count = 200 if os.environ.get("QCOW2FS_LONG") else 20
    first = files.whole(directory, size=16 * MiB)
    points = []
    try:
        for number in range(count):
            path = os.path.join(directory, "%d.qcow2" % number)
            shutil.copy(first, path)
            points.append(directory_in(directory, "at-%d" % number))
            qcow2ctl("mount", path, points[-1])
        found = files.listed()
        check_equal(len(found), count, "the number in the list")
        check_equal(sorted(sum((item["file-systems"] for item in found), [])), sorted(points),
                    "where they are")
    finally:
        for at in points:
            tools.run("umount", at, status=None)
    bad.wait_for(lambda: not files.listed(), "all are gone")


@suite.test("a daemon that failed is heard of by who waits for its end")
def _(directory):
    path = files.whole(directory)
    at = directory_in(directory)
    for _ in range(20):  # until it is killed before it has ended by itself
        qcow2ctl("mount", path, at)
        pid = files.listed(path)[0]["pid"]
        with subprocess.Popen(["sh", "-c", "exec \"$0\" umount \"$1\"", ctl.program(), at],
                              stderr=subprocess.PIPE, text=True) as waiting:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
            status = waiting.wait(tools.TIMEOUT)
        with contextlib.suppress(Exception):
            run.unmount(at, lazy=True)
        files.check_nothing_left(path)
        if status != 0:
            break
    check(status != 0, "it says that all is well")


# --- without root ---------------------------------------------------------------------------------


def as_user(*argv, user=bad.NOBODY, **keywords):
    return tools.run(*bad.user_prefix(user), *argv, env=files.environment(), **keywords)


@suite.test("an ordinary user gets the files by a FUSE program, of a whole disk and of a partition",
            needs=[tools.tool("fuse2fs", "setpriv", "fusermount3")])
def _(directory):
    del directory
    with files.place_of_user() as (home, program):
        at = directory_in(home)
        for path, arguments, expected in (
                (files.whole(home), [], b"from the image\n"),
                (files.partitioned(home), ["-p", "2"], b"on two\n")):
            for name in (home, path, at):
                os.chown(name, 65534, 65534)
            done = as_user(program, "mount", *arguments, path, at)
            check_equal(done.stdout, "", "what it printed")
            bad.check_sentence(done.stderr, at, "not yours to write", "--fs-options=fakeroot",
                               program="qcow2ctl")
            try:
                # Only the user may look.
                check_equal(as_user("cat", os.path.join(at, "here")).stdout.encode(), expected,
                            "a file")
                check(at in as_user(program, "list").stdout, "not in the list")
                as_user("cp", "/bin/true", os.path.join(at, "copy"), status=None)
                as_user(program, "umount", at)
                check(not mount.is_mounted(at), "still mounted")
                check_equal(as_user(program, "list").stdout, "", "the list")
            finally:
                if mount.is_mounted(at):
                    run.unmount(at, lazy=True)
            files.check_in_order(path)


@suite.test("an ordinary user writes where only root may with fakeroot, and is told of it where he may not",
            needs=[tools.tool("fuse2fs", "setpriv", "fusermount3")])
def _(directory):
    del directory
    with files.place_of_user() as (home, program):
        path, at = files.whole(home), directory_in(home)
        for name in (home, path, at):
            os.chown(name, 65534, 65534)
        for arguments, status in ((["--fs-options=fakeroot"], 0), (["-r"], 1), (["-r", "--fs-options=fakeroot"], 1)):
            done = as_user(program, "mount", *arguments, path, at)
            try:
                check_equal((done.stdout, done.stderr), ("", ""), "what it said")
                done = as_user("cp", "/bin/true", os.path.join(at, "copy"), status=None)
                check_equal(done.returncode, status, "the status of a copy (%s)" % done.stderr)
                as_user(program, "umount", at)
            finally:
                if mount.is_mounted(at):
                    run.unmount(at, lazy=True)
        files.check_in_order(path)


@suite.test("root of a container, without rights outside, mounts and unmounts",
            needs=[tools.tool("fuse2fs", "setpriv"), tools.user_namespaces])
def _(directory):
    del directory
    with files.place_of_user() as (home, program):
        path, at = files.whole(home), directory_in(home)
        for name in (home, path, at):
            os.chown(name, 65534, 65534)
        script = '"$0" mount "$1" "$2" && cat "$2/here" && "$0" umount "$2" && "$0" list'
        done = as_user("unshare", "-U", "-r", "-m", "sh", "-euc", script, program, path, at)
        check_equal(done.stdout, "from the image\n", "the file, and an empty list")
        files.check_in_order(path)


@suite.test("a missing FUSE program is named with its package",
            needs=[tools.tool("setpriv")])
def _(directory):
    del directory
    with files.place_of_user() as (home, program):
        path, at = files.whole(home), directory_in(home)
        for name in (home, path, at):
            os.chown(name, 65534, 65534)
        # A PATH with fusermount3 and nothing else; the places that are always looked at are hidden.
        script = """
            mount -t tmpfs none /usr/local/sbin 2>/dev/null || true
            for at in /usr/sbin/fuse2fs /usr/bin/fuse2fs /usr/local/bin/fuse2fs; do
                [ ! -e $at ] || mount --bind /dev/null $at; done
            exec "$@"
            """
        done = tools.run(*private.prefix(), "sh", "-euc", script, "sh",
                         *bad.user_prefix(bad.NOBODY), program, "mount", path, at, status=1,
                         env=files.environment())
        check("fuse2fs" in done.stderr, "it said %s", done.stderr)


# --- partition tables against sfdisk ------------------------------------------------------------


def ours(path):
    found = json.loads(qcow2ctl("mount", "--list", "--json", path).stdout)
    return found["label-type"], [(part["number"], part["start"], part["size"], part["type"].upper())
                                 for part in found["partitions"]]


def theirs(raw):
    done = tools.run("sfdisk", "--json", raw, status=None)
    if done.returncode != 0:
        return "none", []
    found = json.loads(done.stdout)["partitiontable"]
    sector = found.get("sectorsize", 512)
    parts = []
    for part in found.get("partitions", []):
        number = int(part["node"][len(raw):].lstrip("p"))
        kind = part["type"].upper()
        parts.append((number, part["start"] * sector, part["size"] * sector,
                      kind if len(kind) > 2 else kind.rjust(2, "0")))
    return found["label"], parts


def random_table(seed):
    """An sfdisk script of a random table of a disk of 64 MiB."""
    chance = random.Random(seed)
    lines, at = [], 1
    if chance.random() < 0.5:
        lines.append("label: gpt")
        for _ in range(chance.randrange(0, 9)):
            length = chance.randrange(1, 6)
            lines.append("start=%dMiB,size=%dMiB" % (at, length))
            at += length + chance.randrange(0, 3)
    else:
        lines.append("label: dos")
        for _ in range(chance.randrange(0, 4)):
            length = chance.randrange(1, 6)
            lines.append("start=%dMiB,size=%dMiB,type=%s" % (at, length,
                                                             chance.choice(["83", "7", "82", "c"])))
            at += length + chance.randrange(0, 3)
        if chance.random() < 0.7:
            lines.append("start=%dMiB,size=%dMiB,type=%s" % (at, 62 - at, chance.choice(["5", "f"])))
            for _ in range(chance.randrange(0, 6)):
                at += 1
                length = chance.randrange(1, 4)
                if at + length >= 62:
                    break
                lines.append("start=%dMiB,size=%dMiB,type=83" % (at, length))
                at += length
    return "\n".join(lines) + "\n"


@suite.test("random partition tables are read as sfdisk reads them")
def _(directory):
    for seed in range(200 if os.environ.get("QCOW2FS_LONG") else 24):
        raw = files.table(directory, random_table(seed), size=64 * MiB, name="table-%d" % seed)
        path = raw + ".qcow2"
        image.convert(raw, path)
        check_equal(ours(path), theirs(raw), "the table of seed %d" % seed)
        os.unlink(raw)
        os.unlink(path)


if __name__ == "__main__":
    suite.main()
