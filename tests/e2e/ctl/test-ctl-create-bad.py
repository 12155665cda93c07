#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What `qcow2ctl create` refuses, and what it leaves behind when it is cut off: nothing."""

import os
import re
import signal
import subprocess

from lib import bad, ctl, image, run, tap, tools
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.QEMU])
STRACE = tools.tool("strace")


def files(directory):
    return sorted(os.listdir(directory))


def refused(directory, *arguments, words=(), **keywords):
    """One sentence with the words, and no file more or less than before."""
    before = files(directory)
    told = ctl.refused("create", *arguments, words=words, cwd=directory, **keywords)
    check_equal(files(directory), before, "the directory, afterwards,")
    return told


def write_file(path, data=b""):
    with open(path, "wb") as file:
        file.write(data)
    return path


@suite.test("of a directory that was removed it is said that it was")
def _(directory):
    path = image.create(os.path.join(directory, "source"), MiB)
    script = 'mkdir gone; cd gone; rmdir ../gone; exec "$@"'
    for command in (["create", "a.qcow2", "1M"], ["convert", path, "a.qcow2"]):
        done = tools.run("sh", "-c", script, "sh", ctl.program(), *command, cwd=directory, status=1)
        bad.check_sentence(done.stderr, "a.qcow2", "the directory . was removed", program="qcow2ctl")


# --- options ---------------------------------------------------------------------------------

# -o, the size, and what the sentence says; qemu-img refuses all of them, too
IMPOSSIBLE = (
    ("compat=0.10,lazy_refcounts=on", "10G",
     ("lazy refcounts need compatibility level 1.1", "add compat=1.1")),
    ("compat=v2,extended_l2=on", "1M", ("extended L2", "compat=1.1")),
    ("compat=0.10,refcount_bits=8", "1M", ("refcount_bits=8", "compat=1.1")),
    ("compat=0.10,compression_type=zstd", "1M", ("compression_type=zstd", "compat=1.1")),
    ("compat=0.10,data_file=d.raw", "1M", ("data_file=d.raw", "compat=1.1")),
    ("extended_l2=on,cluster_size=8k", "1M", ("cluster_size=8192", "cluster_size=16k")),
    ("data_file_raw=on", "1M", ("data_file_raw=on", "data_file=PATH")),
    ("cluster_size=4M", "1M", ("cluster_size=4194304", "512 bytes to 2 MiB")),
    ("cluster_size=256", "1M", ("cluster_size=256", "512 bytes to 2 MiB")),
    ("cluster_size=3000", "1M", ("cluster_size=3000", "power of two")),
    ("cluster_size=0", "1M", ("cluster_size=0", "power of two")),
    ("refcount_bits=3", "1M", ("refcount_bits=3", "64 bits")),
    ("refcount_bits=128", "1M", ("refcount_bits=128", "64 bits")),
    ("refcount_bits=0", "1M", ("refcount_bits=0", "64 bits")),
    ("cluster_size=512", "129G", ("129 GiB", "32 MiB", "larger cluster_size", "128 GiB")),
    ("backing_fmt=raw", "1M", ("backing format raw", "-b")),
    ("backing_file=", "1M", ("backing file is empty",)),
    ("data_file=", "1M", ("data file is empty",)),
    ("encryption=on,encrypt.format=luks", "1M", ("encryption=on", "leave out one")),
    ("encrypt.format=aes,encrypt.iter-time=10", "1M", ("encrypt.iter-time", "LUKS")),
    ("encrypt.iter-time=10", "1M", ("encrypt.iter-time", "encrypt.format=luks")),
    ("encrypt.key-secret=s0", "1M", ("encrypt.key-secret", "encrypt.format=luks")),
    ("", "100E", ("100E", "2^63")),
    ("", "1E", ("1 EiB", "larger cluster_size", "2 PiB")),
    ("", "lots", ("'lots' is not a size", "10G")),
    ("", "-1", ("'-1' is not a size",)),
    ("", "9223372036854775807", ("2^63",)),
    ("size=1M", "1M", ("twice",)),
)

for impossible, impossible_size, impossible_words in IMPOSSIBLE:
    def _(directory, options=impossible, size=impossible_size, words=impossible_words):
        arguments = (["-o", options] if options else []) + ["a.qcow2", size]
        refused(directory, *arguments, words=words, status=64)
        if options not in ("encrypt.iter-time=10", "encrypt.key-secret=s0"):
            tools.run("qemu-img", "create", "-f", "qcow2", *arguments, cwd=directory, status=1)

    suite.test("refused before a byte is written: %s %s" % (impossible, impossible_size))(_)

# What the command line itself is about: exit status 64.
USAGE = (
    (["a.qcow2", "1M", "2M"], ("'2M' is one argument too many",)),
    ([], ("IMAGE [SIZE]",)),
    (["-o", "cluster_sise=4k", "a.qcow2", "1M"], ("cluster_sise", "cluster_size")),
    (["-o", "compat=0.11", "a.qcow2", "1M"], ("0.11", "1.1")),
    (["-o", "preallocation=some", "a.qcow2", "1M"], ("some", "metadata")),
    (["-o", "compression_type=lzma", "a.qcow2", "1M"], ("lzma", "zstd")),
    (["-o", "lazy_refcounts=maybe", "a.qcow2", "1M"], ("maybe",)),
    (["-o", "refcount_bits=many", "a.qcow2", "1M"], ("many",)),
    (["-o", "cluster_size=1X", "a.qcow2", "1M"], ("1X",)),
    (["-f", "raw", "a.qcow2", "1M"], ("raw", "qcow2")),
    (["--forse", "a.qcow2", "1M"], ("--forse", "--force")),
    (["-z", "a.qcow2", "1M"], ("-z",)),
    (["a.qcow2", "1M", "-b"], ("-b",)),
)

for usage_arguments, usage_words in USAGE:
    def _(directory, arguments=tuple(usage_arguments), words=usage_words):
        refused(directory, *arguments, words=words, status=64)

    suite.test("a command line that cannot be understood: create %s"
               % " ".join(usage_arguments))(_)


@suite.test("encryption=off is no encryption, and is taken")
def _(directory):
    ctl.ctl("create", "-q", "-o", "encryption=off", "a.qcow2", "1M", cwd=directory)


@suite.test("an image without a size is refused, also with a backing file that is not looked at")
def _(directory):
    refused(directory, "a.qcow2", words=("a.qcow2", "SIZE", "10G"), status=64)
    refused(directory, "-u", "-b", "base", "-F", "raw", "a.qcow2", words=("SIZE", "-u"), status=64)


# --- names -------------------------------------------------------------------------------------


@suite.test("what exists is not overwritten: image, data file, empty file, link to nowhere")
def _(directory):
    path = os.path.join(directory, "a.qcow2")
    image.create(path, MiB)
    data = write_file(os.path.join(directory, "d.raw"), b"precious")
    write_file(os.path.join(directory, "empty"))
    os.symlink("nowhere", os.path.join(directory, "link"))
    os.mkfifo(os.path.join(directory, "fifo"))
    refused(directory, "a.qcow2", "1M", words=("a.qcow2: exists already", "--force"),
            unchanged=[path])
    refused(directory, "-o", "data_file=d.raw", "b.qcow2", "1M",
            words=("d.raw: exists already", "--force"), unchanged=[data])
    for name in ("empty", "link", "fifo", "."):
        refused(directory, name, "1M", words=("exists already",))
    refused(directory, "--force", "link", "1M", words=("symbolic link",))
    refused(directory, "--force", "fifo", "1M", words=("pipe",))
    refused(directory, "--force", ".", "1M", words=("directory",))
    refused(directory, "--force", "-o", "data_file=fifo", "b.qcow2", "1M", words=("pipe",))


@suite.test("places where no file can be made are refused, and named")
def _(directory):
    write_file(os.path.join(directory, "file"))
    refused(directory, "no/such/a.qcow2", "1M", words=("no directory no/such/",))
    refused(directory, "file/a.qcow2", "1M", words=("file/",))
    refused(directory, "n" * 300, "1M", words=("too long",))
    refused(directory, "", "1M", words=())
    refused(directory, "-o", "data_file=%s/no/such/d.raw" % directory, "a.qcow2", "1M",
            words=("no/such",))


@suite.test("a directory in which one may not write is refused, and named", needs=[tools.root])
def _(_directory):
    with bad.public_directory() as public:
        os.chmod(public.path, 0o755)
        refused(public.path, "a.qcow2", "1M", words=("no permission", "directory"),
                user=bad.NOBODY)
        kept = write_file(os.path.join(public.path, "kept"), b"x")
        refused(public.path, "--force", "kept", "1M", words=("no permission",), user=bad.NOBODY,
                unchanged=[kept])


@suite.test("an image that is its own backing file, or data file, is refused under any name")
def _(directory):
    path = os.path.join(directory, "a.qcow2")
    refused(directory, "-u", "-b", "a.qcow2", "-F", "qcow2", "./a.qcow2", "1M",
            words=("its own backing file",))
    refused(directory, "-o", "data_file=%s" % path, "a.qcow2", "1M", words=("its own data file",))
    image.create(path, MiB)
    os.link(path, os.path.join(directory, "hard"))
    os.symlink("a.qcow2", os.path.join(directory, "soft"))
    top = os.path.join(directory, "top.qcow2")
    ctl.ctl("create", "-q", "-b", "a.qcow2", "-F", "qcow2", top)
    for name in ("a.qcow2", "hard", "soft", path):
        refused(directory, "--force", "-b", name, "-F", "qcow2", "a.qcow2",
                words=("its own backing file",), unchanged=[path])
        refused(directory, "--force", "-o", "data_file=%s" % os.path.join(directory, name),
                "a.qcow2", "1M", words=("its own data file",), unchanged=[path])
    refused(directory, "--force", "-b", "top.qcow2", "-F", "qcow2", "a.qcow2",
            words=("part of its backing chain", "top.qcow2"), unchanged=[path, top])
    refused(directory, "--force", "-b", "top.qcow2", "-F", "qcow2", "-o", "data_file=a.qcow2",
            "new.qcow2", words=("part of its backing chain",), unchanged=[path, top])
    refused(directory, "--force", "-b", "a.qcow2", "-F", "qcow2", "-o", "data_file=a.qcow2",
            "new.qcow2", words=("as its data file and as its backing file",), unchanged=[path])


@suite.test("a relative data file that QEMU and qcow2fs would not both find is refused")
def _(directory):
    os.mkdir(os.path.join(directory, "images"))
    told = refused(directory, "-o", "data_file=d.raw", "images/a.qcow2", "1M",
                   words=("'d.raw' is relative", "absolute path"))
    check_equal(files(os.path.join(directory, "images")), [], "the images (%s)" % told)


# --- backing files ---------------------------------------------------------------------------------


@suite.test("a backing file without its format is refused, and the format it looks like named")
def _(directory):
    image.create(os.path.join(directory, "base.qcow2"), MiB)
    write_file(os.path.join(directory, "base.raw"), b"\0" * MiB)
    refused(directory, "-b", "base.qcow2", "a.qcow2", words=("add -F qcow2",))
    refused(directory, "-b", "base.raw", "a.qcow2", words=("-F raw",))
    refused(directory, "-u", "-b", "nowhere", "a.qcow2", "1M", words=("-F raw or -F qcow2",))


@suite.test("a backing file that is missing, of another format, or no image is refused")
def _(directory):
    write_file(os.path.join(directory, "base.raw"), b"\0" * MiB)
    write_file(os.path.join(directory, "base.vmdk"), b"KDMV" + b"\0" * KiB)
    os.mkdir(os.path.join(directory, "folder"))
    refused(directory, "-b", "nowhere", "-F", "raw", "a.qcow2",
            words=("nowhere", "no such backing file", "-u"))
    refused(directory, "-b", "nowhere", "-F", "qcow2", "a.qcow2", "1M", words=("nowhere", "-u"))
    refused(directory, "-b", "base.raw", "-F", "qcow2", "a.qcow2", words=("not a qcow2 image",))
    refused(directory, "-b", "base.vmdk", "-F", "vmdk", "a.qcow2", words=("'vmdk'", "convert"))
    refused(directory, "-b", "folder", "-F", "raw", "a.qcow2", words=("directory",))
    refused(directory, "-b", "nbd://host/x", "-F", "raw", "a.qcow2", words=("nbd",))
    refused(directory, "-b", "base.raw", "-F", "a-very-long-format", "-u", "a.qcow2", "1M",
            words=("18 bytes",), status=64)
    refused(directory, "-u", "-b", "n" * 1024, "-F", "raw", "a.qcow2", "1M",
            words=("1024 bytes",), status=64)
    refused(directory, "-u", "-b", "n" * 600, "-F", "raw", "-o", "cluster_size=512", "a.qcow2",
            "1M", words=("512 bytes", "larger clusters"), status=64)
    image.create(os.path.join(directory, "orphan.qcow2"), MiB, "gone", "raw")
    refused(directory, "-b", "orphan.qcow2", "-F", "qcow2", "a.qcow2", words=("gone",))


@suite.test("preallocation with a backing file needs extended L2 entries, as for qemu-img")
def _(directory):
    write_file(os.path.join(directory, "base.raw"), b"\0" * MiB)
    for mode in ("metadata", "falloc", "full"):
        refused(directory, "-b", "base.raw", "-F", "raw", "-o", "preallocation=" + mode, "a.qcow2",
                words=("base.raw", "extended_l2=on"), status=64)
    refused(directory, "-b", "base.raw", "-F", "raw", "-o", "data_file=d,data_file_raw=on",
            "a.qcow2", words=("base.raw", "data_file_raw=on"), status=64)


for bad_kind in ("plain", "version2", "snapshots", "backing", "bitmaps"):
    def _(directory, kind=bad_kind):
        path = bad.sample(kind, directory)
        size = os.path.getsize(path)
        with open(path, "r+b") as file:
            file.truncate(4096 if kind == "plain" else 60)
        check(os.path.getsize(path) < size, "it is whole")
        refused(directory, "-b", "image.qcow2", "-F", "qcow2", "a.qcow2", words=("image.qcow2",),
                unchanged=[path])

    suite.test("a backing image that cannot be read is refused: %s" % bad_kind)(_)


@suite.test("a raw data file that exists is not preallocated, for that would overwrite it")
def _(directory):
    data = write_file(os.path.join(directory, "d.raw"), b"precious" * KiB)
    for mode in ("falloc", "full"):
        refused(directory, "-o", "data_file=d.raw,data_file_raw=on,preallocation=" + mode,
                "a.qcow2", "1M", words=("d.raw", "preallocation=" + mode, "--force"),
                unchanged=[data])


# --- images in use ------------------------------------------------------------------------------------


@suite.test("files that another program has open are refused also with --force, naming it",
            needs=[tools.DATA_FILE])
def _(directory):
    path = image.create(os.path.join(directory, "a.qcow2"), MiB)
    raw = write_file(os.path.join(directory, "d.raw"), b"\0" * MiB)
    with bad.held(path) as process:
        by = "qemu-io (pid %d)" % process.pid
        refused(directory, "--force", "a.qcow2", "1M", words=("a.qcow2", by), unchanged=[path])
        refused(directory, "-b", "a.qcow2", "-F", "qcow2", "b.qcow2", words=("a.qcow2", by))
        ctl.ctl("create", "-q", "-u", "-b", "a.qcow2", "-F", "qcow2", "b.qcow2", "1M",
                cwd=directory)
    with bad.held(path, "-r") as process:
        refused(directory, "--force", "a.qcow2", "1M", words=("a.qcow2",), unchanged=[path])
        ctl.ctl("create", "-q", "-b", "a.qcow2", "-F", "qcow2", "c.qcow2", cwd=directory)
    with bad.held(raw, image_format="raw") as process:
        by = "qemu-io (pid %d)" % process.pid
        for options in ("data_file=d.raw,data_file_raw=on", "data_file=d.raw"):
            refused(directory, "--force", "-o", options, "e.qcow2", "1M", words=("d.raw", by),
                    unchanged=[raw])
        refused(directory, "-o", "data_file=d.raw,data_file_raw=on", "e.qcow2", "1M",
                words=("d.raw", by), unchanged=[raw])


@suite.test("of eight that make the same image at once, one does")
def _(directory):
    started = [run.start([ctl.program(), "create", "-q", "-o", "preallocation=full", "a.qcow2",
                          "%dM" % size], cwd=directory, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE) for size in range(4, 12)]
    told = [process.communicate()[1].decode() for process in started]
    good = [process for process in started if process.returncode == 0]
    check_equal(len(good), 1, "how many succeeded (%r)" % told)
    check(all("a.qcow2" in text for text in told if text), "%r", told)
    check_equal(files(directory), ["a.qcow2"], "the directory")
    tools.run("qemu-img", "check", os.path.join(directory, "a.qcow2"))


# --- cut off, and failing ---------------------------------------------------------------------------

INJECTED = ("pwrite64", "ftruncate", "fdatasync", "fsync", "fallocate", "linkat", "rename",
            "fchown", "fchmod")


# A tracer is in the way of the leak sanitizer, which is one itself.
TRACED = {"ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0"}


def traced(directory, inject, *arguments, before=()):
    """Runs it under strace, which does something to one of its system calls; whether it did."""
    log = os.path.join(run.directory, "trace")
    done = tools.run("strace", "-f", "-o", log, "-e", "trace=" + ",".join(INJECTED), "-e",
                     "inject=" + inject, *before, ctl.program(), "create", *arguments,
                     cwd=directory, status=None, env=TRACED)
    with open(log, encoding="utf-8", errors="replace") as lines:
        told = lines.read()
    return done, "(INJECTED)" in told or "--- SIG" in told or "+++ killed" in told


def calls(directory, *arguments):
    """How often it makes each of the calls."""
    log = os.path.join(run.directory, "trace")
    tools.run("strace", "-f", "-o", log, "-e", "trace=" + ",".join(INJECTED), ctl.program(),
              "create", *arguments, cwd=directory, env=TRACED)
    with open(log, encoding="utf-8", errors="replace") as lines:
        names = re.findall(r"^\d+ +(\w+)\(", lines.read(), re.MULTILINE)
    return {name: names.count(name) for name in INJECTED if name in names}


def check_no_half(directory, name="a.qcow2", old=None):
    """No file, or a whole image, or what was there before; a second run is not in the way."""
    path = os.path.join(directory, name)
    for left in files(directory):
        check(left in (name, "d.raw") or left.startswith(".qcow2ctl-"), "%s is there", left)
    if os.path.exists(path) and (old is None or open(path, "rb").read() != old):
        tools.run("qemu-img", "check", name, cwd=directory)
    ctl.ctl("create", "-q", "--force", name, "1M", cwd=directory)
    tools.run("qemu-img", "check", name, cwd=directory)
    for left in files(directory):
        os.unlink(os.path.join(directory, left))


CUT = (["-o", "preallocation=full,cluster_size=4k", "a.qcow2", "5M"],
       ["-o", "preallocation=falloc", "a.qcow2", "5M"],
       ["-o", "data_file=d.raw,data_file_raw=on", "a.qcow2", "5M"])

for cut_arguments in CUT:
    def _(directory, arguments=tuple(cut_arguments)):
        for name, count in calls(directory, *arguments).items():
            check_no_half(directory)
            for number in sorted({1, 2, (count + 1) // 2, count - 1, count} & set(
                    range(1, count + 1))):
                _done, happened = traced(directory, "%s:signal=KILL:when=%d" % (name, number),
                                         *arguments)
                check(happened, "%s number %d was never made", name, number)
                check(not any(left.startswith(".qcow2ctl-") for left in files(directory)),
                      "it left %s behind", files(directory))
                check_no_half(directory)

    suite.test("killed at any moment, it leaves no half image: %s" % " ".join(cut_arguments),
               needs=[STRACE])(_)


@suite.test("killed while it replaces an image, it leaves the old one or the new one",
            needs=[STRACE])
def _(directory):
    path = image.create(os.path.join(directory, "a.qcow2"), 3 * MiB)
    with open(path, "rb") as file:
        old = file.read()
    arguments = ["--force", "-o", "preallocation=metadata", "a.qcow2", "5M"]
    counted = calls(directory, *arguments)
    check({"linkat", "rename"} <= set(counted), "it makes the calls %r", counted)
    for name, count in counted.items():
        for number in range(1, count + 1):
            write_file(path, old)
            traced(directory, "%s:signal=KILL:when=%d" % (name, number), *arguments)
            check_no_half(directory, old=old)


@suite.test("an error of any of its calls is one sentence, and leaves nothing or the old image",
            needs=[STRACE])
def _(directory):
    path = image.create(os.path.join(directory, "a.qcow2"), 3 * MiB)
    with open(path, "rb") as file:
        old = file.read()
    arguments = ["--force", "-o", "preallocation=falloc", "a.qcow2", "5M"]
    counted = calls(directory, *arguments)
    for name in ("pwrite64", "ftruncate", "fdatasync", "fallocate", "linkat", "rename"):
        for number in range(1, counted[name] + 1):
            write_file(path, old)
            done, happened = traced(directory, "%s:error=ENOSPC:when=%d" % (name, number),
                                    *arguments)
            check(happened, "%s number %d was never made", name, number)
            bad.check_sentence(done.stderr, "a.qcow2", "No space left", program="qcow2ctl")
            check_equal(done.returncode, 1, "the exit status")
            with open(path, "rb") as file:
                check(file.read() == old, "the old image is changed (%s %d)", name, number)
            check_equal(files(directory), ["a.qcow2"], "the directory")


@suite.test("a signal that ends it leaves nothing, and it ends by that signal", needs=[STRACE])
def _(directory):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        for when in (1, 2, 3):
            done, happened = traced(directory, "pwrite64:signal=%d:when=%d" % (number, when),
                                    "-o", "preallocation=full", "a.qcow2", "20M")
            check(happened, "there was no write number %d", when)
            check_equal(done.returncode, -number, "the exit status")
            check_equal(files(directory), [], "the directory")


@suite.test("a signal that is ignored, as under nohup, does not end it", needs=[STRACE])
def _(directory):
    done, happened = traced(directory, "pwrite64:signal=HUP:when=2", "-q", "-o",
                            "preallocation=full", "a.qcow2", "20M",
                            before=["sh", "-c", "trap '' HUP; exec \"$@\"", "sh"])
    check(happened, "there was no write number 2")
    check_equal((done.returncode, done.stderr), (0, ""), "the exit status, and what it says")
    tools.run("qemu-img", "check", os.path.join(directory, "a.qcow2"))


def without_tmpfile(directory, *more, before=()):
    """Runs it on a file system that has no files without a name, as it seems."""
    log = os.path.join(run.directory, "trace")
    arguments = [ctl.program(), "create", "-o", "preallocation=full", "a.qcow2", "20M"]

    def trace(*inject):
        done = tools.run(*before, "strace", "-f", "-o", log, "-e", "trace=openat,pwrite64", *inject,
                         *arguments, cwd=directory, status=None, env=TRACED)
        with open(log, encoding="utf-8", errors="replace") as lines:
            return done, [line for line in lines if "openat(" in line]

    _done, opened = trace("-e", "inject=pwrite64:signal=KILL:when=1")
    number = next(place for place, line in enumerate(opened, 1) if "O_TMPFILE" in line)
    done, opened = trace("-e", "inject=openat:error=EOPNOTSUPP:when=%d" % number, *more)
    check(any("O_TMPFILE" in line and "INJECTED" in line for line in opened), "it was not tried")
    return done


@suite.test("where files cannot be without a name, it makes one beside, and removes it",
            needs=[STRACE])
def _(directory):
    check_equal(without_tmpfile(directory).returncode, 0, "the exit status")
    check_equal(files(directory), ["a.qcow2"], "the directory")
    tools.run("qemu-img", "check", os.path.join(directory, "a.qcow2"))
    os.unlink(os.path.join(directory, "a.qcow2"))
    done = without_tmpfile(directory, before=["prlimit", "--fsize=%d" % MiB])
    bad.check_sentence(done.stderr, "a.qcow2", "File too large", program="qcow2ctl")
    check_equal((done.returncode, files(directory)), (1, []), "the status, and the directory")
    done = without_tmpfile(directory, "-e", "inject=pwrite64:signal=TERM:when=2")
    check_equal((done.returncode, files(directory)), (-signal.SIGTERM, []),
                "the status, and the directory")


@suite.test("a limit on the size of files is an error like any other")
def _(directory):
    for options, size in (("preallocation=full", "5M"), ("preallocation=metadata", "1G"),
                          ("preallocation=falloc", "5M")):
        done = tools.run("prlimit", "--fsize=%d" % MiB, ctl.program(), "create", "-o", options,
                         "a.qcow2", size, cwd=directory, status=1)
        bad.check_sentence(done.stderr, "a.qcow2", "File too large", program="qcow2ctl")
        check_equal(files(directory), [], "the directory")


@suite.test("a full file system is an error, and nothing is left on it", needs=[tools.root])
def _(directory):
    place = os.path.join(directory, "small")
    os.mkdir(place)
    tools.run("mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place)
    try:
        for mode in ("full", "falloc"):
            done = ctl.ctl("create", "-o", "preallocation=" + mode, "a.qcow2", "8M", cwd=place,
                           status=1)
            bad.check_sentence(done.stderr, "a.qcow2", "No space left", program="qcow2ctl")
            check_equal(files(place), [], "the directory")
            usage = os.statvfs(place)
            check(usage.f_bfree * usage.f_bsize > 3 * MiB, "its space is not given back")
    finally:
        tools.run("umount", place)


if __name__ == "__main__":
    suite.main()
