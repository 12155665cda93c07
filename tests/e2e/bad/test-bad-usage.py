#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What users get wrong: mount points, options and their values. And the options' effect.

A mistake in the command line ends with status 2, anything else that goes wrong with 1; both say
one sentence on standard error and nothing on standard output.
"""

import hashlib
import json
import os
import re
import socket
import subprocess

from lib import bad, compare, ctl, image, mount, private, qcow2, run, tap, tools
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.QEMU])
SIZE = 8 << 30


def fails(status, *arguments, words=(), **keywords):
    """The program ends with that status and one sentence with the words."""
    done = bad.start_and_end(*arguments, **keywords)
    bad.check_sentence(done.stderr, *words)
    check_equal(done.stdout, "", "standard output")
    check_equal(done.returncode, status, "the exit status (%s)" % done.stderr.rstrip("\n"))
    return done.stderr


def empty_image(directory, size=SIZE, **options):
    return image.create(os.path.join(directory, "image.qcow2"), size, **options)


# --- the command line -------------------------------------------------------------------------


@suite.test("wrong arguments end with status 2 and say what is wrong")
def _(directory):
    path, at = empty_image(directory), bad.mount_point(directory)
    for arguments, words in (
            ([], ["--help"]),
            ([path], ["mount point"]),
            ([path, at, "third"], ["'third'", "one argument too many"]),
            (["-x", path, at], ["-x", "--help"]),
            (["-fx", path, at], ["-x"]),
            (["--frobnicate", path, at], ["--frobnicate", "--help"]),
            ([path, at, "--frobnicate"], ["--frobnicate"]),
            (["--version=3"], ["--version=3"]),
            (["-f", path, at, "-o"], ["-o", "value"]),
            (["-o"], ["-o", "value"]),
            (["--help=everything"], ["everything"]),
            (["--", path, at, "-f"], ["'-f'", "one argument too many"])):
        fails(2, *arguments, words=words)
    check(not mount.is_mounted(at), "it was mounted")


@suite.test("--help and -h, --version and -V tell and end with status 0")
def _(directory):
    del directory
    texts = []
    for arguments in (["--help"], ["-h"], ["-h", "image", "mountpoint"]):
        done = bad.start_and_end(*arguments)
        check_equal((done.returncode, done.stderr), (0, ""), "how %r ends" % arguments)
        check(done.stdout.startswith("Usage: qcow2fs "), "it begins with %r", done.stdout[:40])
        check(all(len(line) <= 80 for line in done.stdout.splitlines()), "a line over 80 columns")
        texts.append(done.stdout)
    check(len(set(texts)) == 1, "the texts differ")
    for word in ("-f", "-d", "-s", "-o", "--ready-fd=", "--help", "--version", "ro", "force-share",
                 "data-file=", "allow-probed-backing", "l2-cache-size=", "l2-cache-entry-size=",
                 "refcount-cache-size=", "cache-size=", "cache-clean-interval=", "threads=", "nbd-timeout=",
                 "data-cache-size=", "uid=", "gid=", "umask=", "allow_other", "losetup", "umount"):
        check(word in texts[0], "--help does not mention %s", word)
    for arguments in (["--version"], ["-V"]):
        done = bad.start_and_end(*arguments)
        check_equal((done.returncode, done.stderr), (0, ""), "how %r ends" % arguments)
        check(re.match(r"qcow2fs \d+\.\d+\.\d+\nlibfuse \d+\.\d+", done.stdout), "it says %r",
              done.stdout)
        for library in ("zlib", "libzstd", "libdeflate", "libgcrypt", "libnbd", "libseccomp",
                        "jansson"):
            check(re.search(r"^%s (yes|no)$" % library, done.stdout, re.M), "no line on %s",
                  library)


@suite.test("requests over io_uring are refused, with what is missing for them, or served")
def _(directory):
    path, at = bad.sample("plain", directory), bad.mount_point(directory)
    version = [int(number) for number in re.search(
        r"libfuse (\d+)\.(\d+)", tools.output(run.program(), "--version")).groups()]
    try:
        with mount.mount(path, "io-uring=on", at=at):
            check(version >= [3, 18], "mounted with libfuse %d.%d", *version)
            check_equal(os.path.getsize(at), bad.SIZE, "the size")
    except mount.MountFailed as failed:
        missing = "libfuse 3.18" if version < [3, 18] else "fuse/parameters/enable_uring"
        bad.check_sentence(failed.stderr, "io-uring=on", missing)
    with mount.mount(path, "io-uring=off", at=at):
        pass


@suite.test("a full standard output is an error of --help and --version")
def _(directory):
    del directory
    for option in ("--help", "--version"):
        done = tools.run("sh", "-c", 'exec "$0" "$@" >/dev/full', run.program(), option, status=None)
        check_equal(done.returncode, 1, "the exit status of %s" % option)
        bad.check_sentence(done.stderr, "the output could not be written", "No space left")


@suite.test("the program works without standard descriptors, and writes into no file for it")
def _(directory):
    path = bad.sample("plain", directory)
    before = compare.Unchanged(path)
    at = bad.mount_point(directory)
    tools.run("sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-', run.program(), "-o", "ro", path, at,
              env={run.MARK: run.directory})
    try:
        check_equal(os.path.getsize(at), bad.SIZE, "the size")
        check_equal(bad.unreadable(at, MiB, bad.contents(path)), [], "the offsets of EIO")
    finally:
        check(run.unmount(at), "it cannot be unmounted")
    before = before.before(path)["sha256"]
    check_equal(compare.sha256(path), before, "the image")


# --- options --------------------------------------------------------------------------------------


@suite.test("who writes what other programs call it is told what is meant here")
def _(directory):
    path, at = empty_image(directory), bad.mount_point(directory)
    for arguments, word in ((["-r"], "-o ro"), (["--read-only"], "-o ro"), (["-w"], "for writing"),
                            (["-u"], "qcow2ctl umount"), (["-p"], "qcow2ctl mount -p"),
                            (["--snapshot=one"], "snapshots/NAME/disk.raw"),
                            (["-o", "snapshot=one"], "snapshots/NAME/disk.raw"),
                            (["-o", "offset=1048576"], "losetup --offset"),
                            (["-o", "ro,partition=1"], "qcow2ctl mount -p")):
        fails(2, *arguments, path, at, words=[word])


@suite.test("a label of SELinux reaches the kernel, in quotes, with its commas",
            needs=[tools.tool("strace")])
def _(directory):
    path, at = empty_image(directory), bad.mount_point(directory)
    log = os.path.join(directory, "log")
    for given in ('context="system_u:object_r:tmp_t:s0:c1,c2",nosuid',
                  'nosuid,context=system_u:object_r:tmp_t:s0:c1\\,c2'):
        process = run.start(["strace", "-f", "-s", "500", "-o", log, "-e", "trace=mount",
                             run.program(), "-f", "-o", "ro," + given, path, at],
                            stderr=subprocess.PIPE)
        bad.wait_for(lambda: mount.is_mounted(at) or process.poll() is not None, "mounted, or refused")
        if mount.is_mounted(at):
            check(run.unmount(at), "it cannot be unmounted")
            process.communicate()
        else:
            told = process.communicate()[1].decode()
            check("SELinux" in told, "it said %r", told)  # which this kernel does not run
        with open(log, encoding="utf-8") as file:
            calls = file.read()
        check('context=\\"system_u:object_r:tmp_t:s0:c1,c2\\"' in calls, "the kernel got %s", calls)
    fails(2, "-o", 'context="a"b"', path, at, words=["quote"])


@suite.test("a directory that is not empty is mounted on with nonempty alone")
def _(directory):
    path, at = empty_image(directory), os.path.join(directory, "full")
    os.mkdir(at)
    with open(os.path.join(at, "mine"), "wb"):
        pass
    fails(1, "-o", "ro", path, at, words=[at, "not empty", "-o nonempty"])
    check_equal(os.listdir(at), ["mine"], "what is in it")
    with mount.mount(path, "nonempty", at=at, directory=True):
        check("disk.raw" in os.listdir(at), "the disk is not there")
    check_equal(os.listdir(at), ["mine"], "what is in it afterwards")


@suite.test("without /dev/fuse the remedy is that of a container where this is one",
            needs=[tools.root])
def _(directory):
    path, at = empty_image(directory), bad.mount_point(directory)
    script = 'mount -t tmpfs none /dev && exec env "$@"'
    inside = ["--device /dev/fuse", "start the container"]
    is_one = os.path.exists("/.dockerenv") or os.path.exists("/run/.containerenv")
    for variable, words in (("container=", inside if is_one else ["modprobe fuse"]),
                            ("container=podman", inside)):
        unset = ["-u", "container"] if variable == "container=" else [variable]
        done = tools.run(*private.prefix(), "sh", "-c", script, "sh", *unset, run.program(),
                         "-f", "-o", "ro", path, at, status=1)
        bad.check_sentence(done.stderr, "/dev/fuse", *words)


@suite.test("a mount repairs what it can, gives nothing up for that, and else shows the disk read-only")
def _(directory):
    path, at = bad.sample("bitmaps", directory), bad.mount_point(directory)
    with qcow2.Qcow2(path) as opened:
        opened["incompatible_features"] |= 1  # dirty: it is checked, and repaired
        opened.set_bitmap_field(0, "name_size", 0)
    before = compare.Unchanged(path)
    done = bad.start_and_end(path, at)
    try:
        check_equal(done.returncode, 0, "the exit status")
        check("bitmap directory" in done.stderr and "mounting read-only" in done.stderr and
              "qcow2ctl check" in done.stderr, "it said %s", done.stderr)
    finally:
        run.unmount(at)
    before.check()
    for status in (3, 0):  # first the directory; then what was its
        tools.run(ctl.program(), "check", "--repair=all", path, status=status)
    with mount.mount(path, at=at, writable=True) as mounted, open(mounted.disk, "r+b") as disk:
        disk.write(b"written")
    tools.run("qemu-img", "check", path)


@suite.test("in a user namespace that does not know the image's group the disk is read and written",
            needs=[tools.user_namespaces])
def _(directory):
    path, at = bad.sample("plain", directory), os.path.join(directory, "at")
    expected = bytes(64 * KiB) + bad.contents(path)[64 * KiB:]
    os.mkdir(at)
    if os.geteuid() == 0:
        os.chown(path, 0, 12345)
    script = """"$0" "$1" "$2"
        dd if=/dev/zero of="$2/disk.raw" bs=64k count=1 conv=notrunc,fsync status=none
        sha256sum < "$2/disk.raw"; umount "$2" """
    done = tools.run("unshare", "-U", "-r", "-m", "sh", "-ec", script, run.program(), path, at,
                     env={run.MARK: run.directory})
    check_equal(done.stdout.split()[0], hashlib.sha256(expected).hexdigest(), "the disk")


@suite.test("an unknown option is named, with the nearest one")
def _(directory):
    path, at = empty_image(directory), bad.mount_point(directory)
    for option, nearest in (("cash-size=1M", "cache-size"), ("l2-cachesize=1M", "l2-cache-size"),
                            ("force-shared", "force-share"), ("RO", "ro"), ("thread=3", "threads"),
                            ("datafile=x", "data-file"), ("alow_other", "allow_other"),
                            ("refcount-cache-siez=1M", "refcount-cache-size"),
                            ("l2-cache-size-entry=4k", None), ("frobnicate", None), ("", None)):
        if not option:
            continue
        name = option.split("=")[0]
        words = ["unknown option '%s'" % name]
        words += ["did you mean %s?" % nearest] if nearest else []
        told = fails(2, "-f", "-o", "ro," + option, path, at, words=words)
        check(nearest or "did you mean %s?" % name not in told, "it said %s", told)
    fails(2, "-o", "x" * 5000, path, at, words=["unknown option 'xxx"])
    fails(2, "-o", "\x1b[2J\n", path, at, words=["unknown option '?[2J?'"])
    check(not mount.is_mounted(at), "it was mounted")


@suite.test("a malformed value is named, with what it should be")
def _(directory):
    path, at = empty_image(directory), bad.mount_point(directory)
    sizes = ("l2-cache-size", "refcount-cache-size", "cache-size", "data-cache-size",
             "l2-cache-entry-size")
    for name in sizes:
        for value in ("", "x", "1Q", "-1", "+1", " 1", "1 ", "1k5", "1.k", ".5k", "0x10", "1e3",
                      "1kk", "1,5M", "64KiBB", "k"):
            fails(2, "-o", "%s=%s" % (name, value.replace(",", "\\,")), path, at,
                  words=["option %s=" % name, "is not a size"])
        fails(2, "-o", name, path, at, words=[name, "its value is missing"])
        for value in ("9223372036854775808", "99999999999999999999999", "8E", "16384P"):
            fails(2, "-o", "%s=%s" % (name, value), path, at, words=[value, "out of range"])
    for value in ("511", "4M", "0"):
        fails(2, "-o", "l2-cache-entry-size=" + value, path, at,
              words=["l2-cache-entry-size=" + value, "out of range"])
    for value in ("513", "3000", "128K", "1M"):
        fails(2, "-o", "l2-cache-entry-size=" + value, path, at,
              words=["l2-cache-entry-size", "power of two", "65536"])
    for name, values in (("threads", ("0", "257", "99999999999999999999")),
                         ("cache-clean-interval", ("604801",)), ("nbd-timeout", ("0", "86401")),
                         ("uid", ("4294967295",)), ("gid", ("4294967296",)),
                         ("mode", ("1000", "7777")), ("umask", ("1777",))):
        for value in values:
            fails(2, "-o", "%s=%s" % (name, value), path, at, words=[value, "out of range"])
    for name in ("threads", "cache-clean-interval", "uid", "gid"):
        for value in ("", "x", "-1", "1.5", "1k", "0x1", "root"):
            fails(2, "-o", "%s=%s" % (name, value), path, at, words=["is not a number"])
    for name in ("mode", "umask"):
        for value in ("", "8", "0o644", "rw", "-644", "u=r"):
            fails(2, "-o", "%s=%s" % (name, value), path, at, words=["is not a file mode"])
    for name in ("ro", "force-share", "allow-probed-backing", "allow_other"):
        for value in ("", "maybe", "2", "ON"):
            fails(2, "-o", "%s=%s" % (name, value), path, at, words=["neither on nor off"])
    for name in ("data-file", "fsname", "subtype"):
        fails(2, "-o", name, path, at, words=[name, "its value is missing"])
    fails(2, "-o", "=5", path, at, words=["no name"])
    check(not mount.is_mounted(at), "it was mounted")


@suite.test("at most two of cache-size, l2-cache-size and refcount-cache-size")
def _(directory):
    path, at = empty_image(directory), bad.mount_point(directory)
    fails(2, "-o", "cache-size=4M,l2-cache-size=2M,refcount-cache-size=1M", path, at,
          words=["cache-size, l2-cache-size and refcount-cache-size", "leave one out"])
    fails(2, "-o", "cache-size=4M,l2_cache_size=2M", "-o", "refcount_cache_size=1M", path, at,
          words=["leave one out"])
    fails(2, "-o", "cache-size=1M,l2-cache-size=2M", path, at, words=["l2-cache-size", "larger"])
    fails(2, "-o", "cache-size=1M,refcount-cache-size=2M", path, at,
          words=["refcount-cache-size", "larger"])
    check(not mount.is_mounted(at), "it was mounted")


# --- mount points ---------------------------------------------------------------------------------


@suite.test("a mount point that is missing, below a file, a loop, a FIFO, a device, a socket")
def _(directory):
    path = empty_image(directory)
    before = compare.Unchanged(path)

    def place(name):
        return os.path.join(directory, name)

    fails(1, "-f", path, place("missing"), words=[place("missing"), "make an empty file"])
    fails(1, "-f", path, path + "/below", words=[path + "/below", "Not a directory"])
    os.symlink("loop", place("loop"))
    fails(1, "-f", path, place("loop"), words=[place("loop"), "symbolic links"])
    os.symlink("nowhere", place("dangling"))
    fails(1, "-f", path, place("dangling"), words=[place("dangling"), "No such file"])
    os.mkfifo(place("fifo"))
    fails(1, "-f", path, place("fifo"), words=[place("fifo"), "is a FIFO"])
    fails(1, "-f", path, "/dev/null", words=["/dev/null", "is a character device"])
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(directory)  # a socket's path must be short
        try:
            listener.bind("socket")
        finally:
            os.chdir(here)
        fails(1, "-f", path, place("socket"), words=[place("socket"), "is a socket"])
    fails(1, "-f", path, place("x" * 300), words=["File name too long"])
    fails(1, path, place("missing"), words=[place("missing")])  # not only in the foreground
    before.check()


@suite.test("a block device is no mount point", needs=[tools.loop])
def _(directory):
    path = empty_image(directory)
    raw = image.sparse_raw(os.path.join(directory, "raw"), MiB)
    with mount.loop_device(raw) as device:
        fails(1, "-f", path, device, words=[device, "is a block device"])


@suite.test("a dead mount of another type is no mount point, and the sentence says how to get rid of it")
def _(directory):
    path, at = empty_image(directory), bad.mount_point(directory)
    process = run.start([run.program(), "-f", "-o", "ro,subtype=other", path, at])
    try:
        bad.wait_for(lambda: mount.is_mounted(at), "mounted")
        os.stat(at)
        process.kill()
        process.wait()
        fails(1, "-f", path, at, words=[at, "not connected", "fusermount3 -u"])
    finally:
        process.kill()
        process.wait()
        run.unmount(at, lazy=True)


# --- read-only ------------------------------------------------------------------------------------


@suite.test("it is mounted for writing, but with ro read-only, and says nothing of either")
def _(directory):
    path, at = bad.sample("plain", directory), bad.mount_point(directory)
    for arguments, kernel in (([], "rw"), (["-o", "rw"], "rw"), (["-o", "ro=off"], "rw"),
                              (["-o", "ro"], "ro"), (["-o", "rw,ro=on"], "ro"),
                              (["-o", "ro,rw"], "rw"), (["-o", "rw", "-o", "ro"], "ro")):
        done = bad.start_and_end(*arguments, path, at)
        try:
            check_equal((done.returncode, done.stdout, done.stderr), (0, "", ""),
                        "status and output with %r" % arguments)
            with open("/proc/self/mounts", encoding="utf-8") as lines:
                line = next(line for line in lines if at in line.split())
            check(kernel in line.split()[3].split(","), "not mounted %s: %s", kernel, line)
        finally:
            check(run.unmount(at), "not unmounted")
            bad.wait_for(lambda: not run.processes(run.directory), "the end of the daemon")


@suite.test("nothing under the mount can be changed: EROFS")
def _(directory):
    path = bad.sample("snapshots", directory)
    before = compare.Unchanged(path)
    with mount.mount(path, directory=True) as mounted:
        top = mounted.path
        disk = mounted.disk
        attempts = {
            "write": lambda: os.open(disk, os.O_WRONLY),
            "read and write": lambda: os.open(disk, os.O_RDWR),
            "truncate at opening": lambda: os.open(disk, os.O_RDONLY | os.O_TRUNC),
            "truncate": lambda: os.truncate(disk, 0),
            "chmod": lambda: os.chmod(disk, 0o777),
            "chown": lambda: os.chown(disk, 1, 1),
            "utime": lambda: os.utime(disk),
            "unlink": lambda: os.unlink(disk),
            "create": lambda: os.open(os.path.join(top, "new"), os.O_CREAT | os.O_WRONLY),
            "mkdir": lambda: os.mkdir(os.path.join(top, "new")),
            "rmdir": lambda: os.rmdir(os.path.join(top, "snapshots", "first")),
            "rename": lambda: os.rename(disk, os.path.join(top, "new")),
            "link": lambda: os.link(disk, os.path.join(top, "new")),
            "symlink": lambda: os.symlink("x", os.path.join(top, "new")),
            "mkfifo": lambda: os.mkfifo(os.path.join(top, "new")),
            "write a snapshot": lambda: os.open(os.path.join(top, "snapshots", "first",
                                                             "disk.raw"), os.O_WRONLY),
        }
        for name, attempt in attempts.items():
            try:
                attempt()
            except OSError as error:
                check_equal(error.errno, 30, "errno of %s" % name)
            else:
                raise AssertionError("%s succeeded" % name)
        check(not os.access(disk, os.W_OK), "access(2) says that it can be written")
    before.check()


# --- cache sizes ----------------------------------------------------------------------------------


def budgets(path, *options):
    with mount.mount(path, *options, directory=True) as mounted:
        with open(os.path.join(mounted.path, "stats.json"), encoding="utf-8") as file:
            pools = json.load(file)["cache"]
        return tuple(pools[pool]["budget"] for pool in ("l2", "refcount", "data"))


@suite.test("cache sizes, in QEMU's and in libvirt's spelling, are the budgets in stats.json")
def _(directory):
    path = empty_image(directory)  # 8 GiB in 64 KiB clusters: 1 MiB of L2 tables
    full, least_l2, least_refcount = MiB, 8 * KiB, 256 * KiB
    data = budgets(path)[2]  # by default a part of the memory
    check(32 * MiB <= data <= 1024 * MiB, "the budget for data is %d", data)
    for options, expected in (
            ([], (full, least_refcount, data)),
            (["l2-cache-size=512K"], (512 * KiB, least_refcount, data)),
            (["l2_cache_size=512k"], (512 * KiB, least_refcount, data)),
            (["l2-cache-size=524288"], (512 * KiB, least_refcount, data)),
            (["l2-cache-size=0.5M"], (512 * KiB, least_refcount, data)),
            (["l2-cache-size=512KiB"], (512 * KiB, least_refcount, data)),
            (["l2-cache-size=1G"], (full, least_refcount, data)),
            (["l2-cache-size=0"], (least_l2, least_refcount, data)),
            (["l2-cache-size=1,l2-cache-size=700K"], (700 * KiB, least_refcount, data)),
            (["l2-cache-size=0", "l2-cache-entry-size=512"], (KiB, least_refcount, data)),
            (["l2-cache-size=0", "l2_cache_entry_size=64K"], (128 * KiB, least_refcount, data)),
            (["refcount-cache-size=1G"], (full, least_refcount, data)),
            (["refcount-cache-size=1"], (full, least_refcount, data)),
            (["cache-size=1M"], (768 * KiB, least_refcount, data)),
            (["cache_size=512K"], (256 * KiB, least_refcount, data)),
            (["cache-size=1G"], (full, least_refcount, data)),
            (["cache-size=0"], (least_l2, least_refcount, data)),
            (["cache-size=1M", "l2-cache-size=300K"], (300 * KiB, least_refcount, data)),
            (["cache-size=1M", "refcount-cache-size=900K"], (124 * KiB, least_refcount, data)),
            (["l2-cache-size=100K", "refcount-cache-size=100K"], (100 * KiB, least_refcount, data)),
            (["data-cache-size=1M"], (full, least_refcount, MiB)),
            (["data_cache_size=0"], (full, least_refcount, 0)),
            (["cache-clean-interval=0"], (full, least_refcount, data)),
            (["cache_clean_interval=1", "threads=1"], (full, least_refcount, data))):
        check_equal(budgets(path, *options), expected, "the budgets with %r" % options)


@suite.test("the caches of a chain are as large as all its images can use")
def _(directory):
    empty_image(directory)
    top = image.create(os.path.join(directory, "top.qcow2"), 4 << 30, backing="image.qcow2",
                       backing_format="qcow2", cluster_size="4k")
    check_equal(budgets(top)[0], MiB + 8 * MiB, "the budget for L2 tables")
    check_equal(budgets(top, "l2-cache-size=1G")[0], 9 * MiB, "its limit")
    huge = image.create(os.path.join(directory, "huge.qcow2"), 64 << 40)
    unasked = budgets(huge)[0]  # at most a part of the memory
    check(32 * MiB <= unasked <= 256 * MiB and unasked % MiB == 0, "%d are taken unasked", unasked)
    extended = os.path.join(directory, "extended.qcow2")
    image.create(extended, SIZE, extended_l2="on")
    check_equal(budgets(extended)[0], 2 * MiB, "the budget with extended L2 entries")


def _minimal(kind, needs=()):
    @suite.test("an image (%s) reads the same with the smallest caches" % kind, needs=needs)
    def _(directory):
        path = bad.sample(kind, directory)
        expected = os.path.join(directory, "expected")
        image.to_raw(path, expected)
        for options in (["l2-cache-size=0", "refcount-cache-size=0", "data-cache-size=0",
                         "l2-cache-entry-size=512"],
                        ["cache-size=0", "l2-cache-entry-size=4K", "data-cache-size=1"],
                        ["threads=1", "cache-clean-interval=1", "data-cache-size=70K"]):
            with mount.mount(path, *options) as mounted:
                compare.check_files(mounted.disk, expected)
                compare.check_direct_reads(mounted.disk, expected, count=60)
                compare.check_random_preads(mounted.disk, expected, count=60)
        with mount.mount(path, arguments=["-s"]) as mounted:
            compare.check_files(mounted.disk, expected)
            compare.check_random_preads(mounted.disk, expected, count=60)


_minimal("plain")
_minimal("small")
_minimal("backing")
_minimal("zstd", needs=[tools.ZSTD])
_minimal("extended", needs=[tools.EXTENDED_L2])


@suite.test("an L2 entry size that only the top image's clusters allow is cut for the others")
def _(directory):
    base = image.create(os.path.join(directory, "base.qcow2"), 4 * MiB, cluster_size="512")
    image.io(base, image.write(MiB, MiB, 1))
    top = image.create(os.path.join(directory, "top.qcow2"), 4 * MiB, backing="base.qcow2",
                       backing_format="qcow2", cluster_size="2M")
    expected = bad.contents(top)
    with mount.mount(top, "l2-cache-entry-size=2M") as mounted:
        check_equal(bad.unreadable(mounted.disk, 64 * KiB, expected), [], "the offsets of EIO")
    at = bad.mount_point(directory)
    fails(2, "-o", "l2-cache-entry-size=1K", base, at, words=["l2-cache-entry-size", "512"])


@suite.test("data-file in place of the recorded name", needs=[tools.DATA_FILE])
def _(directory):
    path = bad.sample("datafile", directory)
    expected = bad.contents(path)
    moved = os.path.join(directory, "a, b\\c=d")
    os.rename(os.path.join(directory, "data.raw"), moved)
    option = "data-file=" + moved.replace("\\", "\\\\").replace(",", "\\,")
    with mount.mount(path, option) as mounted:
        check_equal(bad.unreadable(mounted.disk, 64 * KiB, expected), [], "the offsets of EIO")
    with qcow2.Qcow2(path) as opened:
        opened.remove_extension(qcow2.EXTENSION_DATA_FILE)
    with mount.mount(path, option, foreground=False) as mounted:
        check_equal(bad.unreadable(mounted.disk, 64 * KiB, expected), [], "the offsets of EIO")


if __name__ == "__main__":
    suite.main()
