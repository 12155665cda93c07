#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Encrypted images, LUKS and the old AES: read, written, and kept from who has no key."""

import json
import os
import random
import subprocess

from lib import bad, compare, ctl, encrypted, mount, qcow2, tap, tools, write
from lib import model as model_test
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.QEMU, encrypted.library])
SIZE = 16 * MiB
KEY = b"a passphrase"

KINDS = {
    "LUKS": {},
    "LUKS with subclusters": {"extended_l2": "on", "cluster_size": "128k"},
    "AES": {"kind": "aes", "cluster_size": "4k"},
}


def make(kind, directory, name="image.qcow2", data=KEY):
    """An image of that kind, empty; its path, and that of its key."""
    key = encrypted.key_file(directory, "key", data)
    return encrypted.template(os.path.join(directory, name), SIZE, key, **KINDS[kind]), key


def model(directory):
    path = os.path.join(directory, "model.raw")
    with open(path, "wb") as file:
        file.truncate(SIZE)
    return path


def check_contents(path, key, expected):
    """QEMU, and a new read-only mount, read what is in the raw file."""
    raw = encrypted.to_raw(path, path + ".raw", key)
    compare.check_files(raw, expected)
    os.unlink(raw)
    with mount.mount(path, "key-file=" + key) as mounted:
        compare.check_files(mounted.disk, expected)


def holds(path, data):
    with open(path, "rb") as file:
        return data in file.read()


# --- both ways -------------------------------------------------------------------------------


def both_ways(kind):
    @suite.test("%s: QEMU reads what we write, and we what QEMU writes" % kind)
    def _(directory):
        path, key = make(kind, directory)
        expected = model(directory)
        for seed in (1, 2):
            with mount.mount(path, "key-file=" + key, writable=True) as mounted:
                write.scribble(mounted.disk, expected, seed=seed, operations=120)
                compare.check_files(mounted.disk, expected)
            encrypted.check_clean(path, key)
            check_contents(path, key, expected)
            offset, length = 777 * 512 * seed, 3 * MiB + 512
            encrypted.io(path, key, "write -q -P %d %d %d" % (seed, offset, length),
                         "write -q -z 12M 1M", "discard -q 14M 1M")
            with open(expected, "r+b") as file:
                file.seek(offset)
                file.write(bytes([seed]) * length)
                file.seek(12 * MiB)
                file.write(bytes(MiB))
                file.seek(14 * MiB)
                file.write(bytes(MiB))
            check_contents(path, key, expected)


for a_kind in KINDS:
    both_ways(a_kind)


@suite.test("a data file is encrypted, and holes in it are no zeros", needs=[tools.DATA_FILE])
def _(directory):
    key = encrypted.key_file(directory, "key", KEY)
    path = encrypted.create(os.path.join(directory, "image.qcow2"), SIZE, key,
                            data_file=os.path.join(directory, "data.raw"))
    expected = model(directory)
    with mount.mount(path, "key-file=" + key, writable=True) as mounted:
        write.scribble(mounted.disk, expected, seed=5, operations=150)
    check_contents(path, key, expected)
    # The same bytes of one file everywhere, but only one of the two disks is decrypted.
    encrypted.io(path, key, "write -q -P 7 0 %d" % SIZE)
    ctl.ctl("compare", "-q", "--key-file=" + key, "-f", "qcow2", "-F", "raw", path,
            os.path.join(directory, "data.raw"), status=1)


@suite.test("rebase reads both chains, each with its key")
def _(directory):
    key = encrypted.key_file(directory, "key", KEY)
    other = encrypted.key_file(directory, "other", b"another one")
    old = encrypted.template(os.path.join(directory, "old.qcow2"), SIZE, key)
    new = encrypted.template(os.path.join(directory, "new.qcow2"), SIZE, other)
    encrypted.io(old, key, "write -q -P 3 0 4M")
    encrypted.io(new, other, "write -q -P 3 1M 2M", "write -q -P 4 8M 1M")
    path, keys = os.path.join(directory, "top.qcow2"), ("--key-file=" + key, "--key-file=" + other)
    tools.run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", old, "-F", "qcow2", path,
              str(SIZE))
    tools.run("cp", path, path + ".before")
    ctl.ctl("rebase", "-q", *keys, "-b", new, "-F", "qcow2", path)
    ctl.ctl("compare", "-q", *keys, path, path + ".before")


@suite.test("space that is reserved reads as zeros, and no hole of the file is one of the disk")
def _(directory):
    path, key = make("LUKS", directory)
    with mount.mount(path, "key-file=" + key, writable=True) as mounted:
        with write.opened(mounted.disk) as handle:
            write.fallocate(handle, write.FALLOC_KEEP_SIZE, 0, 4 * MiB)
            os.fsync(handle)
            check_equal(os.pread(handle, 4 * MiB, 0), bytes(4 * MiB), "what was reserved")
    encrypted.check_clean(path, key)
    check_contents(path, key, model(directory))


@suite.test("a disk that ends within a cluster grows, and its new bytes are zeros")
def _(directory):
    path, key = make("LUKS", directory)
    ctl.ctl("resize", "--key-file=" + key, "--shrink", path, str(5 * MiB + 512))
    with mount.mount(path, "key-file=" + key, writable=True) as mounted:
        with write.opened(mounted.disk) as handle:
            write.write_all(handle, b"x" * (MiB + 512), 4 * MiB)
    ctl.ctl("resize", "--key-file=" + key, "--shrink", path, str(4 * MiB + 1024))
    ctl.ctl("resize", "--key-file=" + key, path, str(6 * MiB))
    expected = os.path.join(directory, "expected.raw")
    with open(expected, "wb") as file:
        file.seek(4 * MiB)
        file.write(b"x" * 1024)
        file.truncate(6 * MiB)
    check_contents(path, key, expected)


def at_random(kind, threads, **options):
    """tests/model/model: any bytes, by many threads, with snapshots; QEMU reads what was written."""
    @suite.test("%s %s, %d threads: random operations" % (kind, options, threads),
                needs=[model_test.built, *([tools.EXTENDED_L2] if "extended_l2" in options else ())])
    def _(directory):
        key = encrypted.key_file(directory, "key", KEY)
        path = encrypted.template(os.path.join(directory, "image.qcow2"), SIZE, key,
                                  kind=kind, **options)
        expected = model(directory)
        done = tools.run(model_test.program(), path, expected,
                         "seed=%d,threads=%d,operations=%d,%s,resize,discard,snapshots,key-file=%s"
                         % (threads, threads, 150 // threads, model_test.SMALLEST, key))
        check_equal(done.stdout + done.stderr, "", "what it said")
        encrypted.check_clean(path, key)
        compare.check_files(encrypted.to_raw(path, path + ".raw", key), expected)


for some_threads in (1, 8):
    at_random("aes", some_threads, cluster_size=512)
    at_random("luks", some_threads, cluster_size="64k")
    at_random("luks", some_threads, extended_l2="on", cluster_size="128k")


# --- snapshots and chains -----------------------------------------------------------------------


@suite.test("snapshots of LUKS and AES show the old disk; making one needs no key")
def _(directory):
    for kind in ("LUKS", "AES"):
        path, key = make(kind, directory, kind + ".qcow2")
        encrypted.io(path, key, "write -q -P 1 0 4M")
        ctl.ctl("snapshot", "-c", "old", path)
        encrypted.io(path, key, "write -q -P 2 1M 1M")
        with mount.mount(path, "key-file=" + key, directory=True, writable=True) as mounted:
            disk = os.path.join(mounted.path, "disk.raw")
            old = os.path.join(mounted.path, "snapshots", "old", "disk.raw")
            with write.opened(disk) as handle:
                write.write_all(handle, b"\3" * 1000, 3 * MiB + 100)
            with open(old, "rb") as file:
                check_equal(file.read(4 * MiB), b"\1" * 4 * MiB, "the snapshot of " + kind)
        with mount.mount(path, "key-file=" + key) as mounted, open(mounted.disk, "rb") as file:
            check_equal(file.read(4 * MiB), b"\1" * MiB + b"\2" * MiB + b"\1" * (MiB + 100) +
                        b"\3" * 1000 + b"\1" * (MiB - 1100), "the disk of " + kind)
        encrypted.check_clean(path, key)


def check_vm_state(path, key, name, wanted):
    """What vmstate.raw of a snapshot shows begins with these bytes; the disk is written meanwhile."""
    with mount.mount(path, "key-file=" + key, directory=True, writable=True) as mounted:
        with write.opened(os.path.join(mounted.path, "disk.raw")) as handle:
            write.write_all(handle, b"\4" * MiB, 0)
        with open(os.path.join(mounted.path, "snapshots", name, "vmstate.raw"), "rb") as file:
            compare.check_bytes(file.read(len(wanted)), wanted, 0)
            file.seek(len(wanted) // 2 + 77)
            rest = wanted[len(wanted) // 2 + 77:]
            check_equal(file.read(len(rest)), rest, "a part of it")


@suite.test("the VM state of a snapshot is decrypted: what lies behind the disk, by its own offset")
def _(directory):
    # Data behind the end of a disk that is then declared smaller is VM state: test-read-snapshots.py.
    # QEMU 7.2 itself aborts where it saves one in an encrypted image: its parts are no whole sectors.
    for kind in KINDS:
        if kind == "LUKS with subclusters" and tools.EXTENDED_L2():
            continue
        key = encrypted.key_file(directory, "key", KEY)
        path, state = os.path.join(directory, kind.replace(" ", "-") + ".qcow2"), 300 * KiB + 512
        encrypted.create(path, 2048 * MiB, key, **KINDS[kind])
        with qcow2.Qcow2(path) as opened:
            start = opened.l1_entry_covers
        encrypted.io(path, key, "write -q -P 1 0 2M", "write -q -P 2 %d 100k" % start,
                     "write -q -P 3 %d %d" % (start + 200 * KiB, state - 200 * KiB))
        ctl.ctl("snapshot", "-c", "running", path)
        with qcow2.Qcow2(path) as opened:
            opened.set_snapshot_field(0, "extra_disk_size", 2 * MiB)
            opened.set_snapshot_field(0, "extra_vm_state_size", state)
        check_vm_state(path, key, "running", b"\2" * 100 * KiB + bytes(100 * KiB) +
                       b"\3" * (state - 200 * KiB))


@suite.test("the images of a chain have keys of their own, or none")
def _(directory):
    base, key = make("LUKS", directory, "base.qcow2")
    other = encrypted.key_file(directory, "other", b"another one, of the top")
    encrypted.io(base, key, "write -q -P 1 0 4M")
    top = encrypted.create(os.path.join(directory, "top.qcow2"), SIZE, other, "-u", "-b",
                           "base.qcow2", "-F", "qcow2")
    plain = os.path.join(directory, "plain.qcow2")
    tools.run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2",
              plain, str(SIZE))
    with mount.mount(top, "key-file=" + key, "key-file=" + other, writable=True) as mounted:
        with write.opened(mounted.disk) as handle:
            write.write_all(handle, b"\2" * 5000, MiB - 500)
    raw = encrypted.to_raw(top, os.path.join(directory, "top.raw"), other, key, backing="s1")
    with mount.mount(top, "key-file=" + other, "key-file=" + key) as mounted:
        compare.check_files(mounted.disk, raw)
    with open(raw, "rb") as file:
        check_equal(file.read(2 * MiB), b"\1" * (MiB - 500) + b"\2" * 5000 + b"\1" * (MiB - 4500),
                    "the disk")
    with mount.mount(plain, "key-file=" + key) as mounted, open(mounted.disk, "rb") as file:
        check_equal(file.read(MiB), b"\1" * MiB, "the plain image's disk")
    bad.refused(top, "the key is not one of this image", options=["key-file=" + other],
                named="base.qcow2")


# --- keys -----------------------------------------------------------------------------------------


@suite.test("a wrong key, none, and one that cannot be read: one sentence")
def _(directory):
    path, key = make("LUKS", directory)
    wrong = encrypted.key_file(directory, "wrong", b"a passphrasf")
    newline = encrypted.key_file(directory, "newline", KEY + b"\n")
    empty = encrypted.key_file(directory, "empty", b"")
    large = encrypted.key_file(directory, "large", KEY * 700000)
    bad.refused(path, "the key is not one of this image", options=["key-file=" + wrong])
    bad.refused(path, "none of the keys", options=["key-file=" + wrong, "key-file=" + empty])
    bad.refused(path, "newline", options=["key-file=" + newline])
    bad.refused(path, "the key is not one", options=["key-file=" + empty])
    bad.refused(path, "is encrypted, and no key was given", "key-file=")
    failed = mount.mount_fails(path, "key-file=" + large)
    check("8 MiB" in failed.stderr, "it said %s", failed.stderr)
    failed = mount.mount_fails(path, "key-file=" + os.path.join(directory, "none"))
    check("No such file" in failed.stderr, "it said %s", failed.stderr)
    bad.refused(path, "iterations", options=["key-file=" + key, "key-iterations-max=1"])


@suite.test("an image with the old AES takes no key that is another's, and no empty one")
def _(directory):
    base, key = make("AES", directory, "base.qcow2")
    first = encrypted.key_file(directory, "first", b"of the overlay")
    empty = encrypted.key_file(directory, "empty", b"")
    encrypted.io(base, key, "write -q -P 7 0 1M")
    raw = encrypted.to_raw(base, os.path.join(directory, "disk.raw"), key)
    top = encrypted.create(os.path.join(directory, "top.qcow2"), SIZE, first, "-u", "-b", base,
                           "-F", "qcow2")
    compared = [ctl.program(), "compare", "-F", "raw"]
    ctl.ctl(*compared[1:], "--key-file=" + first, "--key-file=" + key, top, raw)
    bad.refused(base, "an empty key", options=["key-file=" + empty])
    shown, ended = encrypted.at_terminal([*compared, top, raw], b"of the overlay\n", KEY + b"\n")
    check_equal(ended, 0, "its status; it showed %r" % shown)
    check(b"base.qcow2: " in shown, "nobody asked for that of the base: %r", shown)
    shown, ended = encrypted.at_terminal([*compared, base, raw], b"\x04")
    check(ended != 0, "the end of input was taken for an answer: %r", shown)


@suite.test("a key comes from standard input, from systemd, or from a terminal, which shows none")
def _(directory):
    path, key = make("LUKS", directory)
    encrypted.io(path, key, "write -q -P 7 0 1M")
    raw = encrypted.to_raw(path, os.path.join(directory, "disk.raw"), key)
    command = [ctl.program(), "compare", "-F", "raw", path, raw]
    done = subprocess.run([*command, "--key-file=-"], input=KEY, capture_output=True, check=False)
    check_equal(done.returncode, 0, "the status; it said %s" % done.stderr)
    credentials = os.path.join(directory, "credentials")
    os.mkdir(credentials)
    encrypted.key_file(credentials, "qcow2fs.key", KEY)
    done = subprocess.run(command, env=tools.environment(CREDENTIALS_DIRECTORY=credentials),
                          stdin=subprocess.DEVNULL, capture_output=True, check=False)
    check_equal(done.returncode, 0, "the status; it said %s" % done.stderr)
    for typed, status in ((KEY, 0), (b"wrong", 2)):
        shown, ended = encrypted.at_terminal(command, typed + b"\n")
        check(b"Passphrase for " in shown, "it showed %r", shown)
        check(typed not in shown, "it shows the passphrase: %r", shown)
        check_equal(ended != 0, status != 0, "that it failed: %r" % shown)


@suite.test("info, check and map need no key; convert, compare and measure take it")
def _(directory):
    path, key = make("LUKS", directory)
    encrypted.io(path, key, "write -q -P 7 1M 2M")
    ctl.ctl("check", path)
    ctl.ctl("info", path)
    listed = json.loads(ctl.ctl("map", "--output=json", path).stdout)
    check(any(one["data"] and one["start"] == MiB for one in listed), "map lists %s", listed)
    raw = os.path.join(directory, "ours.raw")
    ctl.ctl("convert", "--key-file=" + key, "-O", "raw", path, raw)
    theirs = encrypted.to_raw(path, os.path.join(directory, "theirs.raw"), key)
    compare.check_files(raw, theirs)
    ctl.ctl("compare", "--key-file=" + key, "-F", "raw", path, raw)
    ctl.ctl("measure", "--key-file=" + key, path)


# --- secrets ----------------------------------------------------------------------------------------


@suite.test("neither key nor plaintext is in the image, in an overlay, or in what a core would hold")
def _(directory):
    generator = random.Random(17)
    data, secret = generator.randbytes(64 * KiB), generator.randbytes(16).hex()[:16].encode()
    path, key = make("AES", directory, data=secret)  # its key is the passphrase as it is
    with mount.mount(path, "key-file=" + key, *mount.seen(), writable=True) as mounted:
        with write.Direct(mounted.disk) as direct:
            direct.write(MiB, data)
            direct.sync()
            check_equal(direct.read(MiB, len(data)), data, "what was written")
        found = ["0x%x" % start for start, area in encrypted.dumped(mounted.pids[0]) if secret in area]
        check_equal(found, [], "where the key is in memory that a core has")
        check(secret.decode() not in open("/proc/%d/cmdline" % mounted.pids[0]).read(), "it is shown")
    check(not holds(path, data[:64]), "the image has the plaintext")
    check(not holds(path, secret), "the image has the key")
    before = os.stat(path).st_mtime_ns
    with mount.mount(path, "overlay,overlay-dir=" + directory, "key-file=" + key, *mount.seen(),
                     writable=True) as mounted:
        with write.Direct(mounted.disk) as direct:
            direct.write(2 * MiB, data)
            direct.write(MiB + 4096, b"z" * 4096)
            check_equal(direct.read(2 * MiB, len(data)), data, "what was written")
            check_equal(direct.read(MiB, 8192), data[:4096] + b"z" * 4096, "what was copied")
        listed = "/proc/%d/fd" % mounted.pids[0]
        for name in os.listdir(listed):
            if directory in os.readlink(os.path.join(listed, name)):
                check(not holds(os.path.join(listed, name), data[:64]), "an overlay has plaintext")
                check(not holds(os.path.join(listed, name), data[8192:8256]), "what is copied")
    check_equal(os.stat(path).st_mtime_ns, before, "the time of the image")
    failed = mount.mount_fails(path, "overlay=" + os.path.join(directory, "kept.qcow2"),
                               "key-file=" + key, writable=True)
    check("is not encrypted" in failed.stderr, "it said %s", failed.stderr)
    check(not os.path.exists(os.path.join(directory, "kept.qcow2")), "it was left behind")


if __name__ == "__main__":
    suite.main()
