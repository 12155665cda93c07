#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What `qcow2ctl create` makes, beside what qemu-img makes of the same words."""

import fcntl
import json
import os
import random
import struct

from lib import compare, ctl, image, mount, tap, tools
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.QEMU, tools.EXTENDED_L2, tools.DATA_FILE])

GiB = 1 << 30


def program(name):
    return {"ours": ctl.program(), "qemu": "qemu-img"}[name]


def create_both(directory, *arguments, image_name="a.qcow2"):
    """The same command line for both programs, each in a directory of its own."""
    places = []
    for name in ("ours", "qemu"):
        place = os.path.join(directory, name)
        os.makedirs(place, exist_ok=True)
        path = os.path.join(place, image_name)
        if os.path.exists(path):
            os.unlink(path)
        tools.run(program(name), "create", "-f", "qcow2", *arguments, cwd=place)
        places.append(path)
    return places


def qemu_info(path):
    """What qemu-img says of an image, but for what depends on where it is and how full."""
    told = json.loads(tools.output("qemu-img", "info", "--output=json", os.path.basename(path),
                                   cwd=os.path.dirname(path)))
    for key in ("actual-size", "children"):
        told.pop(key, None)
    return told


def check_clean(path):
    done = tools.run("qemu-img", "check", "--output=json", os.path.basename(path),
                     cwd=os.path.dirname(path))
    told = json.loads(done.stdout)
    for key in ("corruptions", "leaks", "check-errors"):
        check(not told.get(key), "%s: %r", key, told)


def check_same(directory, *arguments):
    """Both make an image that is in order and of which qemu-img says the same; our path."""
    ours, qemu = create_both(directory, *arguments)
    check_equal(qemu_info(ours), qemu_info(qemu), "what qemu-img info says of our image")
    check_clean(ours)
    return ours, qemu


def check_usable(path, size):
    """QEMU writes to it, and reads that back among zeros; then it is still in order."""
    place, name = os.path.split(path)
    size = (size + 511) // 512 * 512
    expected = bytearray(size)
    length = min(size, 100 * KiB)
    for offset, seed in ((0, 1), (size - length, 2)):
        tools.run("qemu-io", "-f", "qcow2", "-c", image.write(offset, length, seed), name,
                  cwd=place)
        expected[offset:offset + length] = image.pattern(length, seed)
    check_clean(path)
    raw = os.path.join(place, "disk.raw")
    tools.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", name, raw, cwd=place)
    with open(raw, "rb") as disk:
        compare.check_bytes(disk.read(), bytes(expected), 0)
    os.unlink(raw)


def first_cluster(path, length=64 * KiB):
    with open(path, "rb") as file:
        return file.read(length)


# --- the matrix --------------------------------------------------------------------------

COMPAT = ("0.10", "1.1", "v2", "v3")
CLUSTERS = ("512", "1k", "4096", "16k", "64k", "128K", "1M", "2M")
REFCOUNTS = ("1", "2", "4", "8", "16", "32", "64")
PREALLOCATION = ("off", "metadata", "falloc", "full")


def sampled(count):
    """Combinations that are possible, each value of each option in several of them."""
    generator = random.Random("create")
    for number in range(count):
        compat = COMPAT[number % len(COMPAT)]
        version3 = compat in ("1.1", "v3")
        cluster = CLUSTERS[number // 2 % len(CLUSTERS)]
        options = {"compat": compat, "cluster_size": cluster,
                   "preallocation": generator.choice(PREALLOCATION)}
        if version3:
            options["refcount_bits"] = REFCOUNTS[number // 2 % len(REFCOUNTS)]
            options["lazy_refcounts"] = generator.choice(("on", "off"))
            options["compression_type"] = generator.choice(("zlib", "zstd"))
            if cluster in ("16k", "64k", "128K", "1M", "2M"):
                options["extended_l2"] = generator.choice(("on", "off"))
            if generator.random() < 0.3:
                options["data_file"] = "d.raw"
                options["data_file_raw"] = generator.choice(("on", "off"))
        size = generator.choice((512, 1000, 64 * KiB, MiB, 5 * MiB + 512))
        yield options, size


for index, (matrix_options, matrix_size) in enumerate(sampled(32)):
    def _(directory, options=matrix_options, size=matrix_size):
        words = ",".join("%s=%s" % pair for pair in options.items())
        ours, qemu = check_same(directory, "-o", words, "a.qcow2", str(size))
        if options["preallocation"] == "off" and options.get("data_file_raw") != "on" \
                and options["cluster_size"] not in ("512", "1k"):
            check_equal(first_cluster(ours, 112), first_cluster(qemu, 112), "the header's fields")
        check_usable(ours, size)

    suite.test("as qemu-img: %s, %d" % (" ".join("%s=%s" % pair for pair in
                                                 matrix_options.items()), matrix_size))(_)


@suite.test("the first cluster is that of qemu-img, byte for byte")
def _(directory):
    for arguments in (["a.qcow2", "10G"],
                      ["-o", "compat=0.10", "a.qcow2", "10G"],
                      ["-o", "compat=1.1,lazy_refcounts=on", "a.qcow2", "10G"],
                      ["-o", "compression_type=zstd,extended_l2=on", "a.qcow2", "3M"],
                      ["-o", "data_file=d.raw", "a.qcow2", "3M"],
                      ["-u", "-b", "base", "-F", "raw", "a.qcow2", "3M"],
                      ["-u", "-b", "base", "-F", "raw", "-o", "compat=v2", "a.qcow2", "3M"],
                      ["a.qcow2", "0"]):
        for name in ("ours", "qemu"):
            data = os.path.join(directory, name, "d.raw")
            if os.path.exists(data):
                os.unlink(data)
        ours, qemu = create_both(directory, *arguments)
        check_equal(first_cluster(ours), first_cluster(qemu), "%s: it" % " ".join(arguments))


@suite.test("sizes mean what they mean to qemu-img")
def _(directory):
    for size in ("0", "1", "511", "512", "513", "1b", "10k", "1.5M", "10G", "1T", "0.5G", "1P",
                 "64T", "2K"):
        check_same(directory, "-o", "cluster_size=2M", "a.qcow2", size)
    check_same(directory, "-o", "size=3M", "a.qcow2")
    check_same(directory, "-o", "cluster_size=512", "a.qcow2", "128G")


@suite.test("the command of the documents works: compat=1.1,lazy_refcounts=on, 10G")
def _(directory):
    ours, _qemu = check_same(directory, "-o", "compat=1.1,lazy_refcounts=on", "a.qcow2", "10G")
    told = qemu_info(ours)
    check_equal(told["virtual-size"], 10 * GiB, "the size")
    check_equal(told["format-specific"]["data"]["lazy-refcounts"], True, "lazy refcounts")


@suite.test("options may be written with dashes, apart, and more than once; the last one counts")
def _(directory):
    path = os.path.join(directory, "a.qcow2")
    ctl.ctl("create", "-q", "-o", "cluster-size=4k,lazy-refcounts", "-o", "cluster_size=8k",
            "-ocompat=v3", path, "1M")
    told = qemu_info(path)
    check_equal(told["cluster-size"], 8 * KiB, "the cluster size")
    check_equal(told["format-specific"]["data"]["lazy-refcounts"], True, "lazy refcounts")


# --- what is printed -----------------------------------------------------------------------


@suite.test("one line says what was made, -q says nothing, and nothing is said on stderr")
def _(directory):
    done = ctl.ctl("create", "a.qcow2", "10G", cwd=directory)
    check_equal(done.stdout.count("\n"), 1, "the lines")
    for word in ("a.qcow2", "10 GiB", "10737418240 bytes", "compat=1.1", "cluster_size=65536",
                 "refcount_bits=16", "compression_type=zlib", "preallocation=off"):
        check(word in done.stdout, "no %r in %r", word, done.stdout)
    check_equal(done.stderr, "", "standard error")
    done = ctl.ctl("create", "-q", "-b", "a.qcow2", "-F", "qcow2", "b.qcow2", cwd=directory)
    check_equal(done.stdout + done.stderr, "", "what -q says")
    done = ctl.ctl("create", "-b", "a.qcow2", "-F", "qcow2", "-o", "lazy_refcounts=on", "c.qcow2",
                   cwd=directory)
    for word in ("backing file a.qcow2 (qcow2)", "lazy_refcounts=on"):
        check(word in done.stdout, "no %r in %r", word, done.stdout)


@suite.test("a file name cannot command the terminal")
def _(directory):
    done = ctl.ctl("create", "a\033[2J.qcow2", "1M", cwd=directory)
    check("\033" not in done.stdout, "it can: %r", done.stdout)


def json_of(*arguments, directory):
    return json.loads(ctl.ctl("create", *arguments, cwd=directory).stdout)


@suite.test("--json says what qemu-img info says of the image, key by key")
def _(directory):
    with open(os.path.join(directory, "base.raw"), "wb") as base:
        base.truncate(MiB)
    for arguments in (["a.qcow2", "1M"],
                      ["-o", "compat=0.10,cluster_size=4k", "a.qcow2", "1M"],
                      ["-o", "lazy_refcounts=on,extended_l2=on,refcount_bits=1", "a.qcow2", "1M"],
                      ["-b", "base.raw", "-F", "raw", "a.qcow2"],
                      ["-o", "data_file=d.raw,data_file_raw=on,compression_type=zstd", "a.qcow2",
                       "1M"]):
        for how in ("--json", "--output=json"):
            told = json_of("--force", how, *arguments, directory=directory)
            known = qemu_info(os.path.join(directory, "a.qcow2"))
            check_equal(told.pop("preallocation"),
                        "metadata" if "d.raw" in " ".join(arguments) else "off", "preallocation")
            for key, value in told.items():
                check_equal(value, known[key], "%s: %s" % (" ".join(arguments), key))
    check_equal(ctl.ctl("create", "--output=human", "b.qcow2", "1M",
                        cwd=directory).stdout.count("\n"), 1, "the lines")


# --- preallocation ---------------------------------------------------------------------------


def host_bytes(path):
    return os.stat(path).st_blocks * 512


@suite.test("preallocation=metadata takes no space, falloc and full all of it, as with qemu-img")
def _(directory):
    for mode in PREALLOCATION:
        for more in ("", ",extended_l2=on", ",compat=0.10"):
            ours, qemu = check_same(directory, "-o", "preallocation=%s%s" % (mode, more),
                                    "a.qcow2", "16M")
            space = host_bytes(ours)
            if mode in ("falloc", "full"):
                check(space >= 16 * MiB, "%s takes %d bytes", mode, space)
            else:
                check(space < 2 * MiB, "%s takes %d bytes", mode, space)
            if mode != "off" and not more:
                check_equal([extent[:4] for extent in image.allocation_map(ours)],
                            [extent[:4] for extent in image.allocation_map(qemu)], "the map")


@suite.test("what is preallocated is written in place, by QEMU and through a mount",
            needs=[tools.fuse])
def _(directory):
    for options in ("preallocation=metadata", "preallocation=falloc,extended_l2=on"):
        path = os.path.join(directory, "a.qcow2")
        ctl.ctl("create", "--force", "-o", options, path, "8M")
        size = os.path.getsize(path)
        image.io(path, image.write(MiB, MiB, 1))
        with mount.mount(path, writable=True) as mounted:
            handle = os.open(mounted.disk, os.O_RDWR)
            os.pwrite(handle, image.pattern(MiB, 2), 3 * MiB + 512)
            os.fsync(handle)
            os.close(handle)
        check_equal(os.path.getsize(path), size, "the file's size")
        check_clean(path)
        with mount.mount(path) as mounted, open(mounted.disk, "rb") as disk:
            data = disk.read()
        compare.check_bytes(data[MiB:2 * MiB], image.pattern(MiB, 1), MiB)
        compare.check_bytes(data[3 * MiB + 512:4 * MiB + 512], image.pattern(MiB, 2), 3 * MiB)
        check_equal(data[:MiB].count(0) + data[4 * MiB + 512:].count(0), 5 * MiB - 512, "zeros")


@suite.test("metadata of a large disk is made at once, and in order")
def _(directory):
    ours, _qemu = check_same(directory, "-o", "preallocation=metadata,refcount_bits=64",
                             "a.qcow2", "64G")
    check(host_bytes(ours) < 32 * MiB, "it takes %d bytes", host_bytes(ours))


@suite.test("with extended_l2, a preallocated image shows its backing file")
def _(directory):
    base = os.path.join(directory, "base.raw")
    with open(base, "wb") as file:
        file.write(image.pattern(MiB, 3))
    path = os.path.join(directory, "a.qcow2")
    ctl.ctl("create", "-q", "-b", "base.raw", "-F", "raw", "-o",
            "extended_l2=on,preallocation=metadata", path)
    tools.run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", path, base)
    image.io(path, image.write(10000, 5000, 4))
    check_clean(path)
    raw = image.to_raw(path, os.path.join(directory, "raw"))
    with open(raw or os.path.join(directory, "raw"), "rb") as disk:
        data = disk.read()
    expected = bytearray(image.pattern(MiB, 3))
    expected[10000:15000] = image.pattern(5000, 4)
    compare.check_bytes(data, bytes(expected), 0)


# --- backing files ------------------------------------------------------------------------------


def make_base(directory, size=3 * MiB):
    raw = os.path.join(directory, "base.raw")
    with open(raw, "wb") as file:
        file.write(image.pattern(MiB, 1))
        file.truncate(size)
    return image.convert(raw, os.path.join(directory, "base.qcow2")), raw


@suite.test("a backing file gives the size, and is shown; the same by -b -F and by -o")
def _(directory):
    qcow2, raw = make_base(directory)
    for base, form in ((qcow2, "qcow2"), (raw, "raw")):
        for arguments in (["-b", base, "-F", form],
                          ["--backing", base, "--backing-format=" + form],
                          ["-o", "backing_file=%s,backing_fmt=%s" % (base, form)],
                          ["-o", "backing_file=nothing,backing_fmt=none", "-b", base, "-F", form]):
            path = os.path.join(directory, "top.qcow2")
            ctl.ctl("create", "--force", *arguments, path)
            told = qemu_info(path)
            check_equal(told["virtual-size"], 3 * MiB, "the size")
            check_equal(told["backing-filename"], base, "the backing file")
            check_equal(told["backing-filename-format"], form, "its format")
            tools.run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", path, raw)
    check_same(directory, "-b", qcow2, "-F", "qcow2", "a.qcow2")
    check_same(directory, "-b", qcow2, "-F", "qcow2", "a.qcow2", "10M")
    check_same(directory, "-b", raw, "-F", "raw", "-o", "size=512", "a.qcow2")
    check_same(directory, "-b", raw, "-F", "file", "a.qcow2")


@suite.test("the size of a raw backing file is rounded up to sectors, as by qemu-img")
def _(directory):
    base = os.path.join(directory, "odd.raw")
    with open(base, "wb") as file:
        file.truncate(1000)
    ours, _qemu = check_same(directory, "-b", base, "-F", "raw", "a.qcow2")
    check_equal(qemu_info(ours)["virtual-size"], 1024, "the size")


@suite.test("a relative backing file is looked for beside the image, and recorded as it was given")
def _(directory):
    make_base(directory)
    os.mkdir(os.path.join(directory, "images"))
    ctl.ctl("create", "-b", "../base.qcow2", "-F", "qcow2", "images/top.qcow2", cwd=directory)
    path = os.path.join(directory, "images", "top.qcow2")
    check_equal(qemu_info(path)["backing-filename"], "../base.qcow2", "the backing file")
    ctl.ctl("create", "-b", "top.qcow2", "-F", "qcow2", "images/upper.qcow2", cwd=directory)
    tools.run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", "images/upper.qcow2", "base.raw",
              cwd=directory)


@suite.test("-u records a backing file that is not there, of any format")
def _(directory):
    for name, form in (("nowhere.vmdk", "vmdk"), ("nbd://host/export", "raw")):
        ours, qemu = create_both(directory, "-u", "-b", name, "-F", form, "a.qcow2", "1M")
        check_equal(qemu_info(ours), qemu_info(qemu), "what qemu-img info says of our image")


@suite.test("a comma in a name is written twice, as for qemu-img")
def _(directory):
    raw = make_base(directory)[1]
    base = os.path.join(directory, "a,b.raw")
    os.rename(raw, base)
    check_same(directory, "-o", "backing_file=%s,backing_fmt=raw" % base.replace(",", ",,"),
               "a.qcow2")


@suite.test("a raw backing file that looks like an image is taken as raw, with a warning")
def _(directory):
    qcow2, _raw = make_base(directory)
    path = os.path.join(directory, "top.qcow2")
    done = ctl.ctl("create", "-q", "-b", qcow2, "-F", "raw", path)
    check("looks like a qcow2 image" in done.stderr and done.stderr.count("\n") == 1,
          "it says %r", done.stderr)
    check_equal(qemu_info(path)["virtual-size"], (os.path.getsize(qcow2) + 511) // 512 * 512,
                "the size")


# --- data files ---------------------------------------------------------------------------------


@suite.test("a data file is made as long as the disk, and QEMU and a mount use it",
            needs=[tools.fuse])
def _(directory):
    for more in ("", ",data_file_raw=on", ",data_file_raw=on,extended_l2=on",
                 ",preallocation=falloc", ",preallocation=full,data_file_raw=on"):
        ctl.ctl("create", "--force", "-o", "data_file=d.raw" + more, "a.qcow2", "3M",
                cwd=directory)
        data, path = (os.path.join(directory, name) for name in ("d.raw", "a.qcow2"))
        check_equal(os.path.getsize(data), 3 * MiB, "the data file's size")
        check_equal(host_bytes(data) >= 3 * MiB, "prealloc" in more, "whether it takes its space")
        tools.run("qemu-io", "-f", "qcow2", "-c", image.write(65536, 65536, 5), "a.qcow2",
                  cwd=directory)
        with mount.mount(path, writable=True) as mounted:
            handle = os.open(mounted.disk, os.O_RDWR)
            check_equal(os.pread(handle, 65536, 65536) == image.pattern(65536, 5), True, "the data")
            os.pwrite(handle, image.pattern(65536, 6), 2 * MiB)
            os.close(handle)
        check_clean(path)
        if "raw=on" in more:
            with open(data, "rb") as file:
                disk = file.read()
            compare.check_bytes(disk[2 * MiB:2 * MiB + 65536], image.pattern(65536, 6), 2 * MiB)
            compare.check_bytes(disk[65536:131072], image.pattern(65536, 5), 65536)


@suite.test("a raw data file that exists keeps what it holds, which is the disk",
            needs=[tools.fuse])
def _(directory):
    data, path = (os.path.join(directory, name) for name in ("d.raw", "a.qcow2"))
    for more, length in (("", MiB), (",extended_l2=on", MiB), ("", 3 * MiB)):
        with open(data, "wb") as file:
            file.write(image.pattern(length, 7))
        ctl.ctl("create", "-q", "-o", "data_file=%s,data_file_raw=on%s" % (data, more), path, "2M")
        check_equal(os.path.getsize(data), max(length, 2 * MiB), "its size")
        with open(data, "rb") as file:
            compare.check_bytes(file.read(length), image.pattern(length, 7), 0)
        with mount.mount(path) as mounted, open(mounted.disk, "rb") as disk:
            compare.check_bytes(disk.read()[:MiB], image.pattern(length, 7)[:MiB], 0)
        check_clean(path)
        os.unlink(path)


# --- the file itself ------------------------------------------------------------------------------


@suite.test("the umask says who may read the image and its data file")
def _(directory):
    for mask, mode in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664)):
        tools.run("sh", "-c", "umask %o && exec \"$@\"" % mask, "sh", ctl.program(), "create",
                  "-o", "data_file=d.raw", "a.qcow2", "1M", cwd=directory)
        for name in ("a.qcow2", "d.raw"):
            path = os.path.join(directory, name)
            check_equal(os.stat(path).st_mode & 0o7777, mode, "the mode of %s" % name)
            os.unlink(path)


@suite.test("--force replaces an image, keeps its mode and owner, and follows a symbolic link")
def _(directory):
    old, link = (os.path.join(directory, name) for name in ("old.qcow2", "link.qcow2"))
    ctl.ctl("create", "-q", old, "1M")
    os.chmod(old, 0o640)
    if os.geteuid() == 0:
        os.chown(old, 12345, 54321)
    owner = os.stat(old)
    os.symlink("old.qcow2", link)
    ctl.ctl("create", "-q", "--force", link, "2M")
    check(os.path.islink(link), "the link is gone")
    check_equal(qemu_info(old)["virtual-size"], 2 * MiB, "the size")
    now = os.stat(old)
    check_equal((now.st_mode, now.st_uid, now.st_gid),
                (owner.st_mode, owner.st_uid, owner.st_gid), "mode and owner")
    check_equal(sorted(os.listdir(directory)), ["link.qcow2", "old.qcow2"], "the directory")


@suite.test("--force makes an image on a block device, in which nothing of what was there shows",
            needs=[tools.loop])
def _(directory):
    backing = os.path.join(directory, "device")
    for mode in PREALLOCATION:
        with open(backing, "wb") as file:
            file.write(image.pattern(8 * MiB, 8))
        with mount.loop_device(backing, writable=True) as device:
            ctl.refused("create", device, "4M", words=("exists already", "--force"),
                        unchanged=[backing])
            if mode != "off":
                ctl.refused("create", "--force", "-o", "preallocation=" + mode, device, "8M",
                            words=("this device has 8 MiB",), unchanged=[backing])
            ctl.ctl("create", "-q", "--force", "-o", "preallocation=" + mode, device, "4M")
            tools.run("qemu-img", "check", "-f", "qcow2", device)
            raw = os.path.join(directory, "raw")
            tools.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", device, raw)
            with open(raw, "rb") as disk:
                check_equal(disk.read().count(0), 4 * MiB, "zeros (%s)" % mode)
    with mount.loop_device(backing, writable=True) as device:
        ctl.ctl("create", "-q", "--force", "-o", "data_file=%s" % device,
                os.path.join(directory, "a.qcow2"), "8M")
        ctl.refused("create", "-o", "data_file=%s,data_file_raw=on" % device,
                    os.path.join(directory, "b.qcow2"), "9M", words=("this device has 8 MiB",))


FS_IOC_GETFLAGS, FS_NOCOW = 0x80086601, 0x00800000
FS_IOC_FSGETXATTR, FS_XFLAG_EXTSIZE = 0x801C581F, 0x800


def flags_of(path):
    with open(path, "rb") as file:
        return struct.unpack("@l", fcntl.ioctl(file, FS_IOC_GETFLAGS, bytes(8)))[0]


def extent_size_of(path):
    with open(path, "rb") as file:
        told = fcntl.ioctl(file, FS_IOC_FSGETXATTR, bytes(28))
    flags, size = struct.unpack("=II", told[:8])
    return size if flags & FS_XFLAG_EXTSIZE else 0


@suite.test("nocow and extent_size_hint are told to the file systems that know them",
            needs=[tools.root, tools.tool("mkfs.xfs", "mkfs.btrfs")])
def _(directory):
    for kind, options, look, wanted in (
            ("xfs", "extent_size_hint=2M", extent_size_of, lambda size: size == 2 * MiB),
            ("btrfs", "nocow=on", flags_of, lambda flags: flags & FS_NOCOW != 0)):
        host = os.path.join(directory, kind)
        with open(host, "wb") as file:
            file.truncate(512 * MiB)
        tools.run("mkfs." + kind, "-q", host)
        with mount.loop_device(host, writable=True) as device, \
                mount.file_system(device, kind, "rw") as place:
            plain, path = os.path.join(place, "plain"), os.path.join(place, "a.qcow2")
            ctl.ctl("create", "-q", plain, "1G")
            done = ctl.ctl("create", "-q", "-o", options, path, "1G")
            check_equal(done.stderr, "", "what it said")
            check(wanted(look(path)) and not wanted(look(plain)), "%s: %r", kind, look(path))
            tools.run("qemu-img", "check", "-q", path)
        os.unlink(host)


@suite.test("where the file system does not know them the image is made without, and a line says so")
def _(directory):
    path = os.path.join(directory, "a.qcow2")
    done = ctl.ctl("create", "-q", "-o", "nocow=on,extent_size_hint=1M", path, "1G")
    check(done.stderr == "" or "is made without" in done.stderr, "it said %r", done.stderr)
    tools.run("qemu-img", "check", "-q", path)
    ctl.refused("create", "-o", "extent_size_hint=5G", os.path.join(directory, "b.qcow2"), "1G",
                words=["extent_size_hint"], status=64)


if __name__ == "__main__":
    suite.main()
