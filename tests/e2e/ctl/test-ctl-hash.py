#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""qcow2ctl hash: what sha256sum and its like say of a mount, without one."""

import hashlib
import json
import os
import pty
import re
import select
import shlex
import shutil
import subprocess

from lib import bad, ctl, encrypted, image, mount, qcow2, tap, tools
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.QEMU, encrypted.library])
SUMS = ("sha256", "sha1", "sha224", "sha384", "sha512", "md5", "b2")
STRACE = tools.tool("strace")


def make(directory):
    """A chain of a raw file, an image and one with snapshots, of which two share a name."""
    base, middle, path = (os.path.join(directory, name) for name in ("base", "middle", "top"))
    image.sparse_raw(base, 3 * MiB + 700)
    image.create(middle, 5 * MiB, backing="base", backing_format="raw")
    image.io(middle, image.write(2 * MiB, 200 * KiB, 1))
    image.create(path, 6 * MiB + 512, backing="middle", backing_format="qcow2", cluster_size="4k")
    for number, name in enumerate(("a\\b", "twice", "twice", "%/.")):
        image.io(path, image.write(number * MiB + 512, 100 * KiB, 3 + number),
                 "write -q -z %d 64k" % (number * 70000 // 512 * 512))
        tools.run("qemu-img", "snapshot", "-c", name, path)
    image.io(path, image.write(6 * MiB, 512, 9))
    return path


def files(path, *arguments, **keywords):
    told = ctl.ctl("hash", "--json", *arguments, path, **keywords)
    return {file["name"]: file for file in json.loads(told.stdout)["files"]}


def visible(top):
    """All that a directory mount shows whole: names of disk.raw and vmstate.raw."""
    return sorted(os.path.relpath(os.path.join(place, name), top)
                  for place, _, names in os.walk(top) for name in names
                  if name in ("disk.raw", "vmstate.raw"))


@suite.test("the manifest is what sha256sum and its like say of a mount over a directory",
            needs=[tools.fuse])
def _(directory):
    path = make(directory)
    host = [os.path.realpath(os.path.join(directory, name)) for name in ("top", "middle", "base")]
    with mount.mount(path, directory=True) as mounted:
        top = os.path.dirname(mounted.disk)
        for algorithm in SUMS:
            manifest = ctl.ctl("hash", "-a", algorithm, "--piecewise=1M", path).stdout
            kept = os.path.join(directory, "manifest")
            with open(kept, "w") as file:
                file.write(manifest)
            said = tools.output(algorithm + "sum", "-c", "--strict", kept, cwd=top)
            check_equal(said.count(": OK"), 1 + 4 + 3, "how many are right: " + said)
            plain = [line for line in manifest.splitlines() if not line.startswith("#")]
            theirs = tools.output(algorithm + "sum", "disk.raw", *host, cwd=top).splitlines()
            check(set(theirs) <= set(plain), "theirs is %s, ours %s", theirs, plain)
        told = files(path)
        check_equal(sorted(name for name in told if not name.startswith("/")), visible(top),
                    "the names")
    check_equal([name for name in told if name.startswith("/")], host, "the host's files")
    check_equal({told[name]["kind"] for name in told}, {"disk", "snapshot", "file"}, "the kinds")


@suite.test("pieces, on any number of threads, are those of the bytes that QEMU reads")
def _(directory):
    path = make(directory)
    raw = image.to_raw(path, os.path.join(directory, "raw"))
    with open(raw, "rb") as file:
        data = file.read()
    for size in (64 * KiB, 1000 * 1000, 1 << 40):
        expected = [hashlib.sha1(data[at:at + size]).hexdigest()
                    for at in range(0, len(data), size)]
        for jobs in ("1", "3"):
            told = files(path, "-a", "sha1", "--piecewise=%d" % size, "-j", jobs)["disk.raw"]
            check_equal(told["pieces"], expected, "pieces of %d" % size)
            check_equal(told["digest"], hashlib.sha1(data).hexdigest(), "of all")
    lines = ctl.ctl("hash", "--piecewise=4M", path).stdout.splitlines()
    check(re.fullmatch(r"# [0-9a-f]{64}  4194304\+%d  disk\.raw" % (len(data) - 4 * MiB), lines[1]),
          "it said %s", lines[1])


@suite.test("what is known to be zeros is not read", needs=[STRACE])
def _(directory):
    path = image.create(os.path.join(directory, "image"), 200 * MiB, preallocation="metadata")
    image.io(path, image.write(100 * MiB, MiB, 1), "write -q -z 20M 20M")
    log = os.path.join(directory, "log")
    tools.run("strace", "-f", "-o", log, "-e", "trace=pread64,preadv,preadv2,read", ctl.program(),
              "hash", path)
    with open(log) as file:
        read = sum(int(found) for found in re.findall(r"(?m)= ([0-9]+)$", file.read()))
    check(2 * MiB < read < 6 * MiB, "%d bytes were read", read)


@suite.test("what cannot be read has no digest and is told, and all else has one")
def _(directory):
    path = make(directory)
    whole = files(path)
    with qcow2.Qcow2(path) as opened:
        opened.set_l2_entry(0, (1 << 63) | 12345 << 20)
        opened.set_snapshot_field(1, "l1_table_offset", 12345)
    done = ctl.ctl("hash", path, status=1)
    check("disk.raw: has no digest: it cannot be read at offset 0" in done.stderr, "it said %s",
          done.stderr)
    check("3 of its files have no digest" in done.stderr, "it said %s", done.stderr)
    told = files(path, status=1)
    broken = {name for name, file in told.items() if "error" in file}
    check_equal(len(broken), 3, "how many have none")
    check("disk.raw" in broken, "the disk has one")
    for name in set(whole) - broken:
        check(name == os.path.realpath(path) or told[name] == whole[name], "%s differs", name)


@suite.test("raw files, data files and encrypted disks have digests, too")
def _(directory):
    raw = image.sparse_raw(os.path.join(directory, "raw"), MiB + 700)
    told = files(raw)
    with open(raw, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    check_equal([told[name]["digest"] for name in ("disk.raw", os.path.realpath(raw))],
                [digest, digest], "the digests")
    key = encrypted.key_file(directory, "key", b"k")
    path = encrypted.create(os.path.join(directory, "luks"), MiB, key)
    encrypted.io(path, key, "write -q -P 7 5k 99k")
    found = files(path, "--key-file=" + key)["disk.raw"]["digest"]
    expected = b"\0" * 5120 + b"\7" * 99 * 1024
    check_equal(found, hashlib.sha256(expected.ljust(MiB, b"\0")).hexdigest(), "of the disk")
    other = image.create(os.path.join(directory, "with"), MiB,
                         data_file=os.path.join(directory, "data"))
    check(os.path.realpath(os.path.join(directory, "data")) in files(other), "no data file")


@suite.test("names with ends of lines, backslashes and control characters are as sha256sum has them")
def _(directory):
    for name in ("an\nend", "back\\slash", "bell\a and \033[31mred\t", "\r", "plain"):
        path = image.create(os.path.join(directory, name), MiB)
        manifest = ctl.ctl("hash", path).stdout.splitlines(True)[1]
        check_equal(manifest, tools.output("sha256sum", os.path.realpath(path)), "of %r" % name)
        said = tools.run("sha256sum", "-c", "--strict", input=manifest).stdout
        check(said.endswith(": OK\n"), "of %r sha256sum says %s", name, said)


@suite.test("on a terminal names have no control characters", needs=[tools.tool("script")])
def _(directory):
    path = image.create(os.path.join(directory, "x\033[31my"), MiB)
    said = tools.output("script", "-q", "-e", "-c", "%s hash %s" % (ctl.program(), shlex.quote(path)),
                        os.path.join(directory, "log"))
    check("x?[31my" in said and "\033[31m" not in said, "it says %r", said)


@suite.test("on a terminal it shows how far it is", needs=[STRACE])
def _(directory):
    path = image.create(os.path.join(directory, "image"), 16 * MiB)
    image.io(path, image.write(0, 16 * MiB, 1))
    master, slave = pty.openpty()
    with subprocess.Popen(["strace", "-f", "-o", "/dev/null", "-e", "trace=pread64,preadv,preadv2",
                           "-e", "inject=pread64,preadv,preadv2:delay_enter=300000:when=8..14",
                           ctl.program(), "hash", "-j", "1", path], stdout=subprocess.DEVNULL,
                          stderr=slave) as process:
        os.close(slave)
        told = b""
        while select.select([master], [], [], tools.TIMEOUT)[0]:
            try:
                told += os.read(master, 4096)
            except OSError:  # nobody holds the other end
                break
        check_equal(process.wait(tools.TIMEOUT), 0, "the status")
    os.close(master)
    for word in (b"making digests: ", b" %, ", b" left"):
        check(word in told, "no %r in %r", word, told)


@suite.test("BLAKE3 is that of its authors where the library is here, else a sentence names it")
def _(directory):
    path = os.path.join(directory, "raw")
    whole = bytes(number % 251 for number in range(102400))  # as in the authors' test vectors
    for length, digest in ((0, "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"),
                           (102400,
                            "bc3e3d41a1146b069abffad3c0d44860cf664390afce4d9661f7902e7943e085")):
        with open(path, "wb") as file:
            file.write(whole[:length])
        done = ctl.ctl("hash", "-a", "b3", "-f", "raw", "--piecewise=64k", path, status=None)
        if done.returncode != 0:
            bad.check_sentence(done.stderr, "b3", "libblake3", program="qcow2ctl")
            continue
        check_equal([line.split()[0] for line in done.stdout.splitlines()
                     if not line.startswith("#")], [digest, digest], "of %d bytes" % length)


@suite.test("an image that is written to is refused, and so is what has no meaning")
def _(directory):
    path = bad.sample("plain", directory)
    copy = os.path.join(directory, "copy")
    shutil.copyfile(path, copy)
    with bad.held(path):
        ctl.refused("hash", path, words=[path])
        check_equal(files(path, "-U")["disk.raw"], files(copy)["disk.raw"], "the disk with -U")
    for arguments in (["-a", "crc"], ["-j", "0"], ["--piecewise=1k"], [path, path]):
        ctl.refused("hash", *arguments, path, status=64)
    ctl.refused("hash", path + "-not", words=[path + "-not"])


if __name__ == "__main__":
    suite.main()
