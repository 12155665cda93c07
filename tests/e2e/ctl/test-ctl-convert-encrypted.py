#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""qcow2ctl convert makes encrypted images: QEMU, which needs the key for it, reads what was copied."""

import os

from lib import compare, ctl, encrypted, mount, tap, tools
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.QEMU, encrypted.library])
SIZE = 5 * MiB + 512 * 7  # ends within a cluster, and within a subcluster
MARK = b"what the disk says"


def disk(directory):
    """Data, zeros, and data again up to the end."""
    path = os.path.join(directory, "disk.raw")
    with open(path, "wb") as file:
        file.truncate(SIZE)
    for offset, length in ((0, 300 * KiB), (MiB + 512 * 3, 512), (2 * MiB, MiB), (SIZE - 70000, 70000)):
        fill(path, offset, length)
    return path


def fill(path, offset, length):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write((MARK * (length // len(MARK) + 1))[:length])


def make(directory, target, *flags, **options):
    """A copy of the disk that was made with these options."""
    options = {"encrypt.format": "luks", **options}
    if options["encrypt.format"] == "luks":
        options.setdefault("encrypt.iter-time", 10)
    listed = ",".join("%s=%s" % item for item in options.items())
    return ctl.ctl("convert", *flags, "-o", listed, os.path.join(directory, "disk.raw"), target)


def check_copy(path, key, raw):
    """It is the disk, in order, and nobody reads it in the file."""
    compare.check_files(encrypted.to_raw(path, path + ".read", key), raw)
    os.unlink(path + ".read")
    encrypted.check_clean(path, key)
    with open(path, "rb") as file:
        check(MARK not in file.read(SIZE * 2), "%s holds the disk as it is", path)


KINDS = (
    {}, {"encrypt.format": "aes"}, {"cluster_size": "512"}, {"cluster_size": "2M"}, {"compat": "0.10"},
    {"encrypt.cipher-alg": "aes-128", "encrypt.cipher-mode": "cbc", "encrypt.ivgen-alg": "essiv"},
    {"extended_l2": "on"}, {"preallocation": "metadata"}, {"preallocation": "falloc"},
    {"preallocation": "full"}, {"preallocation": "metadata", "extended_l2": "on"},
    {"preallocation": "full", "encrypt.format": "aes"}, {"refcount_bits": "1", "cluster_size": "4k"},
)


@suite.test("an encrypted image of any kind can be the target; what its file has more reads as zeros")
def _(directory):
    raw, key = disk(directory), encrypted.key_file(directory, "key", b"the key")
    path = os.path.join(directory, "copy.qcow2")
    for number, options in enumerate(KINDS):
        make(directory, path, "--new-key-file=" + key, *["-S", "0"] * (number % 2), **options)
        check_copy(path, key, raw)
    for options in ({}, {"extended_l2": "on"}):
        os.truncate(raw, SIZE)
        make(directory, path, "--new-key-file=" + key, **options)
        os.truncate(raw, SIZE + MiB)
        tools.run("qemu-img", "resize", "-q", *encrypted.secrets(key), "--image-opts",
                  encrypted.options_of(path), str(SIZE + MiB))
        check_copy(path, key, raw)


@suite.test("from one encrypted image to another with a key of its own, also by QEMU's words; with bitmaps")
def _(directory):
    raw = disk(directory)
    old, new = (encrypted.key_file(directory, name, name.encode()) for name in ("old", "new"))
    first, second = (os.path.join(directory, name) for name in ("first.qcow2", "second.qcow2"))
    make(directory, first, "--new-key-file=" + old)
    ctl.ctl("bitmap", "--add", first, "since-monday")
    quickly = "encrypt.format=luks,encrypt.iter-time=10"
    for named in (["-o", quickly, "--new-key-file=" + new],
                  ["-o", quickly + ",encrypt.key-secret=n", "--object", "secret,id=n,file=" + new]):
        ctl.ctl("convert", "--bitmaps", "--key-file=" + old, *named, first, second)
        check_copy(second, new, raw)
        check("since-monday" in ctl.ctl("info", second).stdout, "it has no bitmap")
        refused = encrypted.quickly("qemu-io", *encrypted.secrets(old), "-c", "read 0 512",
                                    "--image-opts", encrypted.options_of(second))
        check(refused.returncode != 0, "the old key opens it")


@suite.test("above a base only what differs is encrypted, and a data file holds it encrypted")
def _(directory):
    raw, key = disk(directory), encrypted.key_file(directory, "key", b"the key")
    base = os.path.join(directory, "base.raw")
    tools.run("cp", raw, base)
    fill(raw, 4 * MiB + 512, 1000)
    path, data = (os.path.join(directory, name) for name in ("copy.qcow2", "data"))
    for options in ({}, {"extended_l2": "on"}):
        make(directory, path, "-B", "base.raw", "-F", "raw", "--new-key-file=" + key, **options)
        check_copy(path, key, raw)
        check(os.path.getsize(path) < 3 * MiB, "it is %d bytes long", os.path.getsize(path))
    make(directory, path, "--new-key-file=" + key, data_file=data)
    check_copy(path, key, raw)
    with open(data, "rb") as file:
        check(MARK not in file.read(), "the data file holds the disk as it is")


@suite.test("on a device that held something else", needs=[tools.root, tools.loop])
def _(directory):
    raw, key = disk(directory), encrypted.key_file(directory, "key", b"the key")
    behind = os.path.join(directory, "behind")
    with open(behind, "wb") as file:
        file.write(b"old " * (4 * MiB))
    for options in ({}, {"extended_l2": "on"}, {"preallocation": "metadata"}):
        with mount.loop_device(behind, writable=True) as device:
            make(directory, device, "--new-key-file=" + key, **options)
        check_copy(behind, key, raw)


@suite.test("what is typed twice at a terminal is the key")
def _(directory):
    raw, path = disk(directory), os.path.join(directory, "copy.qcow2")
    key = encrypted.key_file(directory, "key", b"typed")
    for kind in ("luks,encrypt.iter-time=10", "aes"):
        shown, status = encrypted.at_terminal(
            [ctl.program(), "convert", "-o", "encrypt.format=" + kind, raw, path], b"typed\n", b"typed\n")
        check_equal(status, 0, "status, with %r" % shown)
        check_copy(path, key, raw)
        os.unlink(path)


@suite.test("without a key, or with two, or an empty one, nothing is made")
def _(directory):
    disk(directory)
    key = encrypted.key_file(directory, "key", b"the key")
    empty = encrypted.key_file(directory, "empty", b"")
    before = sorted(os.listdir(directory))
    source, target = (os.path.join(directory, name) for name in ("disk.raw", "copy.qcow2"))
    for flags, words in (([], ["copy.qcow2", "no key was given", "--new-key-file=FILE"]),
                         (["--new-key-file=" + key, "--new-key-file=" + key], ["2 key files"]),
                         (["--new-key-file=" + empty], ["empty"]),
                         (["--new-key-file=missing"], ["missing"])):
        ctl.refused("convert", "-o", "encrypt.format=luks", *flags, source, target, words=words)
        check_equal(sorted(os.listdir(directory)), before, "the files")


if __name__ == "__main__":
    suite.main()
