#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writing images of NBD servers: every byte, discarding, refusals, errors; and what a lost server costs."""

import contextlib
import errno
import json
import mmap
import os
import random
import signal
import types

from lib import bad, compare, ctl, image, mount, nbd, run, tap, tools
from lib.image import KiB, MiB
from lib.nbd import NBDKIT, built, nbdkit, qemu_nbd
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.QEMU, built])
ROOM = 48 * MiB  # of the export; an image of DISK bytes needs less
DISK = 16 * MiB
SMALL = 4 * MiB
BLOCK = 64 * KiB


def new_image(directory, *, room=ROOM, size=DISK, name="image.qcow2", **options):
    """An empty image in a file of fixed size, as on a device."""
    path = image.create(os.path.join(directory, name), size, **options)
    os.truncate(path, room)
    return path


def new_contents(directory, *, size=SMALL, room=3 * SMALL, **options):
    """The bytes of one, for nbd.Server."""
    path = new_image(directory, size=size, room=room, **options)
    with open(path, "rb") as file:
        return file.read()


def check_result(path, raw):
    tools.run("qemu-img", "check", "-q", path)
    tools.run("qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", path, raw)


def written(address, *options, **keywords):
    return mount.mount(address, "locking=off", *options, writable=True, **keywords)


def patterns(disk, raw, seed=1, count=60):
    """Random writes, zeroing and fsyncs, the same to both files."""
    generator = random.Random(seed)
    with open(disk, "r+b", buffering=0) as one, open(raw, "r+b", buffering=0) as other:
        for _ in range(count):
            length = generator.choice((1, 511, 512, 4096, 65536, 300000))
            at = generator.randrange(DISK - length)
            data = generator.randbytes(length)
            for file in (one, other):
                os.pwrite(file.fileno(), data, at)
            if generator.random() < 0.2:
                at = generator.randrange(DISK - MiB)
                for name in (disk, raw):
                    tools.run("fallocate", "-p", "-o", str(at), "-l", str(300 * KiB), name)
            if generator.random() < 0.2:
                os.fsync(one.fileno())


@contextlib.contextmanager
def opened(path, flags=os.O_RDWR):
    """Its descriptor; what is wrong when it is closed does not count."""
    disk = os.open(path, flags)
    try:
        yield disk
    finally:
        with contextlib.suppress(OSError):
            os.close(disk)


def errno_of(function, *arguments):
    try:
        function(*arguments)
    except OSError as error:
        return error.errno
    return 0


# --- every byte ---------------------------------------------------------------------------------

for kind, options in (("clusters of 64 KiB", {}), ("clusters of 512 bytes", {"cluster_size": 512}),
                      ("extended L2 entries", {"extended_l2": "on"}),
                      ("lazy refcounts", {"lazy_refcounts": "on"}), ("version 2", {"compat": "0.10"})):

    @suite.test("%s: what is written through nbdkit is in the image" % kind, needs=NBDKIT)
    def _(directory, options=options):
        path, raw = new_image(directory, **options), os.path.join(directory, "raw")
        image.sparse_raw(raw, DISK)
        image.to_raw(path, raw)
        with nbdkit(directory, "file", path, writable=True) as (address, _process):
            with written(address) as mounted:
                patterns(mounted.disk, raw)
                compare.check_files(mounted.disk, raw)
        check_equal(os.path.getsize(path), ROOM, "the size of the export")
        check_result(path, raw)


@suite.test("nbdkit's memory, that qemu-img has formatted, and reads afterwards", needs=NBDKIT)
def _(directory):
    raw, copy = os.path.join(directory, "raw"), os.path.join(directory, "copy")
    with open(raw, "wb") as file:
        file.truncate(DISK)
    with nbdkit(directory, "memory", str(ROOM), writable=True) as (address, _process):
        tools.run("qemu-img", "create", "-q", "-f", "qcow2", address, str(DISK))
        with written(address) as mounted:
            patterns(mounted.disk, raw, seed=2)
        tools.run("qemu-img", "check", "-q", "-f", "qcow2", address)
        tools.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", address, copy)
    compare.check_files(copy, raw)


@suite.test("qemu-nbd", needs=[tools.tool("qemu-nbd")])
def _(directory):
    path, raw = new_image(directory), os.path.join(directory, "raw")
    image.to_raw(path, raw)
    with qemu_nbd(directory, path, writable=True) as (address, _process):
        with written(address) as mounted:
            patterns(mounted.disk, raw, seed=3)
    check_result(path, raw)


@suite.test("blocks that the server insists on are written as a whole, and nothing is lost around", needs=NBDKIT)
def _(directory):
    path, raw = new_image(directory, cluster_size=512), os.path.join(directory, "raw")
    image.to_raw(path, raw)
    with nbdkit(directory, "--filter=blocksize-policy", "file", path, "blocksize-minimum=4096",
                "blocksize-preferred=4096", "blocksize-maximum=64K", "blocksize-error-policy=error",
                writable=True) as (address, _process):
        with written(address) as mounted:
            patterns(mounted.disk, raw, seed=4)
            compare.check_files(mounted.disk, raw)
    check_result(path, raw)


@suite.test("no zeroes from the server: they are written", needs=NBDKIT)
def _(directory):
    path, raw = new_image(directory), os.path.join(directory, "raw")
    image.to_raw(path, raw)
    with nbdkit(directory, "--filter=nozero", "file", path, writable=True) as (address, _process):
        with written(address) as mounted:
            patterns(mounted.disk, raw, seed=5)
    check_result(path, raw)


@suite.test("what is discarded gives its space on the server back", needs=NBDKIT)
def _(directory):
    path = new_image(directory)
    with nbdkit(directory, "file", path, writable=True) as (address, _process):
        with written(address) as mounted:
            with open(mounted.disk, "r+b") as disk:
                disk.write(os.urandom(8 * MiB))
                os.fsync(disk.fileno())
                full = os.stat(path).st_blocks * 512
                tools.run("fallocate", "-p", "-o", "0", "-l", str(8 * MiB), mounted.disk)
                os.fsync(disk.fileno())
        check(os.stat(path).st_blocks * 512 < full - 7 * MiB, "the file has %d bytes, had %d",
              os.stat(path).st_blocks * 512, full)
    tools.run("qemu-img", "check", "-q", path)


@suite.test("the export is full: ENOSPC, and the image is in order", needs=NBDKIT)
def _(directory):
    path = new_image(directory, room=4 * MiB)
    with nbdkit(directory, "file", path, writable=True) as (address, _process):
        with mount.mount_that_ends_badly(address, "locking=off", writable=True) as mounted:
            with opened(mounted.disk) as disk:
                def fill():
                    for i in range(8):
                        os.pwrite(disk, os.urandom(MiB), i * MiB)
                        os.fsync(disk)

                check_equal(errno_of(fill), errno.ENOSPC, "8 MiB into 4 MiB")
    tools.run("qemu-img", "check", "-q", path)


# --- refusals -----------------------------------------------------------------------------------


def mounted_read_only(address, *options):
    """What it says of an image that it only reads."""
    with mount.mount(address, *options, writable=True) as mounted:
        check(not os.stat(mounted.disk).st_mode & 0o222, "it can be written")
        return mounted.stderr()


@suite.test("nothing is written without locking=off, since a server has no locks")
def _(directory):
    contents = new_contents(directory)
    with nbd.Server(directory, contents) as server:
        bad.check_sentence(mounted_read_only(server.address), "no locks", "locking=off")
        ctl.refused("resize", server.address, "+1M", words=["no locks", "--locking=off"])
        check(not set(server.counts) & set(nbd.WRITES), "something was written: %r", server.counts)


@suite.test("an export that is only read, and one without flush, are only read")
def _(directory):
    contents = new_contents(directory)
    for flags, words in ((nbd.EVERYTHING | nbd.READ_ONLY, ["lets nobody write"]),
                         (nbd.EVERYTHING & ~nbd.HAS_FLUSH, ["no flush", "cache=unsafe"])):
        with nbd.Server(directory, contents, flags) as server:
            said = mounted_read_only(server.address, "locking=off").splitlines(keepends=True)
            bad.check_sentence([line for line in said if "read-only" in line][0], *words)
            ctl.refused("resize", "--locking=off", server.address, "+1M", words=words[:1])
    with nbd.Server(directory, contents, nbd.EVERYTHING & ~nbd.HAS_FLUSH) as server:
        with written(server.address, "cache=unsafe") as mounted:
            with open(mounted.disk, "r+b") as disk:
                disk.write(b"mine")
        with mount.mount(server.address, "ro") as mounted, open(mounted.disk, "rb") as disk:
            check_equal(disk.read(4), b"mine", "what was written")


# --- commands -----------------------------------------------------------------------------------


@suite.test("qcow2ctl changes an image there as it does a local one", needs=NBDKIT)
def _(directory):
    path, raw = new_image(directory), os.path.join(directory, "raw")
    image.sparse_raw(raw, DISK)
    off = "--locking=off"
    with nbdkit(directory, "file", path, writable=True) as (address, _process):
        with written(address) as mounted:
            tools.run("dd", "if=" + raw, "of=" + mounted.disk, "bs=1M", "conv=notrunc,fsync",
                      "status=none")
        ctl.ctl("snapshot", "-c", "then", off, address)
        ctl.ctl("bitmap", "--add", off, address, "changed")
        ctl.ctl("resize", off, address, "+1M")
        ctl.ctl("amend", "-o", "lazy_refcounts=on", off, address)
        ctl.ctl("check", "-q", "-r", "all", off, address)
        info = json.loads(ctl.ctl("info", "--json", address).stdout)
        check_equal([each["name"] for each in info["snapshots"]], ["then"], "the snapshots")
        check_equal(info["virtual-size"], DISK + MiB, "the size")
        ctl.ctl("snapshot", "-d", "then", off, address)
    tools.run("qemu-img", "check", "-q", path)


@suite.test("no new image is made at an address: one sentence says so")
def _(directory):
    raw = os.path.join(directory, "raw")
    image.sparse_raw(raw, MiB)
    address = "nbd+unix:///?socket=%s/own" % run.short(directory)
    for words in (["create", address, "1M"], ["convert", raw, address],
                  ["convert", "-O", "raw", raw, address]):
        ctl.refused(*words, words=["NBD", address])


# --- servers in trouble -------------------------------------------------------------------------


@suite.test("all is flushed: a server that is killed and comes again is written on", needs=NBDKIT)
def _(directory):
    path, raw = new_image(directory), os.path.join(directory, "raw")
    image.to_raw(path, raw)
    with contextlib.ExitStack() as stack:
        address, process = stack.enter_context(nbdkit(directory, "file", path, writable=True))
        with written(address, "metadata-interval=0") as mounted:
            for i in range(4):
                for name in (mounted.disk, raw):
                    with open(name, "r+b") as disk:
                        disk.seek(i * MiB)
                        disk.write(bytes([i + 1]) * 100000)
                        disk.flush()
                        os.fsync(disk.fileno())
                nbd.kill(process, os.path.join(run.short(directory), "socket"))
                _address, process = stack.enter_context(nbdkit(directory, "file", path,
                                                               writable=True))
    check_result(path, raw)


@suite.test("killed between a write and its flush: EIO from then on, and what was flushed is read")
def _(directory):
    contents = new_contents(directory)
    with nbd.Server(directory, contents) as server:
        with mount.mount_that_ends_badly(server.address, "locking=off", "metadata-interval=0",
                                         writable=True) as mounted:
            with open(mounted.disk, "r+b") as file:
                file.write(b"\x11" * (2 * MiB))
                file.flush()
                os.fsync(file.fileno())
            compare.forget(mounted.disk)
            with opened(mounted.disk) as disk:
                os.pwrite(disk, b"\x22" * 65536, MiB)
                # The kernel hands it over; the flush that follows is not done.
                server.before = lambda kind, _offset, _length: (
                    "cut" if kind == nbd.FLUSH else None)
                check_equal(errno_of(os.fsync, disk), nbd.EIO, "fsync")
                server.before = lambda kind, _offset, _length: None
                before = dict(server.counts)
                os.pwrite(disk, b"\x33" * 65536, MiB + MiB // 2)
                check_equal(errno_of(os.fsync, disk), nbd.EIO, "fsync")
                check(not any(server.counts.get(kind, 0) > before.get(kind, 0)
                              for kind in (*nbd.WRITES, nbd.FLUSH)),
                      "something was written: %r, before %r", server.counts, before)
                compare.forget(mounted.disk)
                check_equal(os.pread(disk, 4096, 0), b"\x11" * 4096, "the first bytes")
                compare.forget(mounted.disk)
                check_equal(errno_of(os.pread, disk, 4096, MiB), nbd.EIO,
                            "reading what was not flushed")
        check_crashed(directory, server, {0: {0x11}, BLOCK: {0x11}, MiB: {0x11, 0x22}})


def lost_in_between(directory, what):
    """The server loses its power while nothing is under way: nobody hears of it before `what` is asked."""
    with nbd.Server(directory, new_contents(directory)) as server:
        with mount.mount_that_ends_badly(server.address, "locking=off", "metadata-interval=0",
                                         writable=True) as mounted:
            with opened(mounted.disk) as disk:
                os.pwrite(disk, b"\x11" * (2 * MiB), 0)
                os.fsync(disk)
            with opened(mounted.disk, os.O_RDWR | os.O_DIRECT) as disk, mmap.mmap(-1, 65536) as page:
                page[:] = b"\x22" * 65536
                check_equal(os.pwrite(disk, page, MiB), 65536, "bytes written")
                server.cut_power()
                if what == "read":
                    check_equal(errno_of(os.preadv, disk, [page], MiB), nbd.EIO, "reading what is lost")
                elif what == "write":
                    check_equal(errno_of(os.pwrite, disk, page, 0), nbd.EIO, "another write")
                check_equal(errno_of(os.fsync, disk), nbd.EIO, "fsync")
                check_equal(errno_of(os.fsync, disk), nbd.EIO, "another fsync")
                check_equal(os.preadv(disk, [page], 0), 65536, "bytes read of what was flushed")
                check_equal(bytes(page), b"\x11" * 65536, "what was flushed")
                server.most = before = server.accepted  # it is away: what is refused does not wait for it
                server.hang_up()
                check_equal(errno_of(os.preadv, disk, [page], MiB), nbd.EIO, "reading what is lost")
                check_equal(errno_of(os.fsync, disk), nbd.EIO, "fsync, of a server that is away")
                check_equal(server.accepted, before, "connections, with those that were tried meanwhile")
                server.most = 1 << 30
        check_crashed(directory, server, {0: {0x11}, BLOCK: {0x11}, MiB: {0x11, 0x22}})


for word in ("fsync", "read", "write"):
    @suite.test("lost while nothing is asked, between a write and its flush: EIO, first to a %s" % word)
    def _(directory, word=word):
        lost_in_between(directory, word)


def check_crashed(directory, server, expected, lazy=False):
    """What the server has kept: no error in it, and at each offset one of the expected bytes."""
    path = os.path.join(directory, "kept")
    with open(path, "wb") as file:
        file.write(server.stable)
    if lazy:  # R5: its counts may be wrong, but it says so
        tools.run("qemu-img", "check", "-q", "-r", "all", path, status=None)
    done = tools.run("qemu-img", "check", "--output=json", path, status=None)
    found = json.loads(done.stdout)
    check_equal(found.get("corruptions", 0) + found.get("check-errors", 0), 0, "errors")
    raw = image.to_raw(path, os.path.join(directory, "kept.raw"))
    with open(raw, "rb") as file:
        for offset, bytes_ in expected.items():
            file.seek(offset)
            found = set(file.read(512))
            check(found <= set(bytes_), "at %d: %r instead of %r", offset, found, bytes_)


def crash(directory, seed, **options):
    """Random writes, until the power of the server goes at a random request."""
    generator = random.Random(seed)
    contents = new_contents(directory, size=SMALL, room=3 * SMALL, **options)
    after = generator.randrange(2, 120)
    state = {"requests": 0}

    def before(kind, _offset, _length):
        state["requests"] += kind != nbd.READ
        return "cut" if state["requests"] == after else None

    blocks = SMALL // BLOCK
    kept = [{0} for _ in range(blocks)]  # what may be in each block
    shown = [0] * blocks
    lost = False
    with nbd.Server(directory, contents) as server:
        server.generator = generator
        with mount.mount_that_ends_badly(server.address, "locking=off", "metadata-interval=0",
                                         writable=True) as mounted:
            with opened(mounted.disk) as disk:
                server.before = before
                for value in range(1, 120):
                    first = generator.randrange(blocks)
                    count = min(generator.choice((1, 1, 1, 4, 16)), blocks - first)
                    for i in range(first, first + count):
                        kept[i].add(value)
                        shown[i] = value
                    if errno_of(os.pwrite, disk, bytes([value]) * (count * BLOCK),
                                first * BLOCK) != 0:
                        lost = True
                    if generator.random() < 0.3:
                        if errno_of(os.fsync, disk) == 0:
                            check(not lost or state["requests"] < after, "fsync said that all is well")
                            kept = [{each} for each in shown]
                        else:
                            lost = True
                    if lost:
                        break
                server.before = lambda kind, _offset, _length: None
                check_equal(errno_of(os.fsync, disk) != 0 if lost else True, True,
                            "fsync fails after a loss")
                compare.forget(mounted.disk)
                for i in range(0, blocks, 7):  # never an old byte in the place of a newer one
                    with contextlib.suppress(OSError):
                        found = set(os.pread(disk, 512, i * BLOCK))
                        check(found <= ({shown[i]} if not lost else kept[i]), "block %d: %r", i,
                              found)
        expected = {i * BLOCK: each for i, each in enumerate(kept)}
        check_crashed(directory, server, expected, lazy="lazy_refcounts" in options)


for kind, options in (("eager", {}), ("lazy", {"lazy_refcounts": "on"}),
                      ("small clusters", {"cluster_size": 4096})):

    @suite.test("%s: the server loses its power at any request: nothing that was flushed is lost" % kind)
    def _(directory, options=options):
        for seed in range(12):
            tap.diagnose("seed %d" % seed)
            crash(directory, seed, **options)


def write_until_it_fails(disk):
    """Three rounds of two blocks and an fsync; the last one that was acknowledged."""
    for value in (1, 2, 3):
        for at in (0, SMALL // 2):
            errno_of(os.pwrite, disk, bytes([value]) * BLOCK, at)
        if errno_of(os.fsync, disk) != 0:
            return value - 1
    return 3


for word in (nbd.EIO, "short", "cut"):

    @suite.test("each request of a writer in turn %s: what fsync has acknowledged is there, without errors" % {
        nbd.EIO: "fails", "short": "has a short answer", "cut": "loses the power of the server"}[word])
    def _(directory, word=word):
        contents = new_contents(directory, size=SMALL, room=3 * SMALL)
        state = types.SimpleNamespace(asked=0, number=0, failed=0)

        def before(_kind, _offset, _length):
            state.asked += 1
            return word if state.asked == state.number else None

        while state.asked >= state.number:
            state.number, state.asked = state.number + 1, 0
            with nbd.Server(directory, contents) as server:
                with mount.mount_that_ends_badly(server.address, "locking=off", "metadata-interval=0",
                                                 "nbd-timeout=2", writable=True) as mounted:
                    server.before = before
                    with opened(mounted.disk) as disk:
                        kept = write_until_it_fails(disk)
                        with server.lock:  # what the end of the mount flushes does not count
                            stable = bytes(server.stable)
                    server.before = lambda *_: None
                server.stable = stable
                expected = set(range(kept, 4))
                check_crashed(directory, server, {0: expected, SMALL // 2: expected})
                state.failed += kept < 3
        check(state.failed > 3, "%d requests, and %d of them mattered", state.number, state.failed)


@suite.test("errors of the server: EIO, no wrong byte, and an image without errors", needs=NBDKIT)
def _(directory):
    for what in ("pwrite", "zero", "pread"):
        path, raw = new_image(directory), os.path.join(directory, "raw")
        image.to_raw(path, raw)
        trouble = os.path.join(directory, "trouble")
        with nbdkit(directory, "--filter=error", "file", path, "error-%s=EIO" % what,
                    "error-%s-rate=20%%" % what, "error-file=" + trouble, writable=True
                    ) as (address, _process):
            with mount.mount_that_ends_badly(address, "locking=off", writable=True) as mounted:
                with open(trouble, "wb"):
                    pass
                with contextlib.suppress(OSError, AssertionError):
                    patterns(mounted.disk, raw, seed=6)
                os.unlink(trouble)
        done = tools.run("qemu-img", "check", "--output=json", path, status=None)
        check_equal(json.loads(done.stdout).get("corruptions", 0), 0, "errors after those of " + what)
        os.unlink(path)


@suite.test("a failed flush fails all that follow", needs=NBDKIT)
def _(directory):
    contents = new_contents(directory)
    with nbd.Server(directory, contents) as server:
        with mount.mount_that_ends_badly(server.address, "locking=off", writable=True) as mounted:
            with opened(mounted.disk) as disk:
                os.pwrite(disk, b"\x44" * 65536, 0)
                server.before = lambda kind, _offset, _length: (
                    nbd.EIO if kind == nbd.FLUSH else None)
                check_equal(errno_of(os.fsync, disk), nbd.EIO, "the flush that failed")
                server.before = lambda kind, _offset, _length: None
                os.pwrite(disk, b"\x55" * 65536, 0)
                check_equal(errno_of(os.fsync, disk), nbd.EIO, "the next")


# --- servers that do not answer -----------------------------------------------------------------


@suite.test("a server that hangs: EIO after nbd-timeout, and all is well when it goes on", needs=NBDKIT)
def _(directory):
    raw = os.path.join(directory, "raw")
    with open(raw, "wb") as file:
        file.write(os.urandom(DISK))
    path = image.convert(raw, os.path.join(directory, "image.qcow2"))
    with nbdkit(directory, "file", path) as (address, process):
        with mount.mount(address, "ro", "nbd-timeout=1") as mounted:
            with opened(mounted.disk, os.O_RDONLY) as disk:
                os.posix_fadvise(disk, 0, 0, os.POSIX_FADV_RANDOM)
                bad.stop(process.pid)
                check_equal(errno_of(os.pread, disk, 4096, 4 * MiB), nbd.EIO, "a read")
                process.send_signal(signal.SIGCONT)
            compare.check_files(mounted.disk, raw)


@suite.test("one read is never answered, others are: it fails, and they do not")
def _(directory):
    raw = os.path.join(directory, "raw")
    image.sparse_raw(raw, DISK)
    path = image.convert(raw, os.path.join(directory, "image.qcow2"))
    with open(path, "rb") as file:
        contents = file.read()
    extents = json.loads(tools.output("qemu-img", "map", "--output=json", path))
    held = [each for each in extents if each["data"]][-1]
    with nbd.Server(directory, contents) as server:
        with mount.mount(server.address, "ro", "nbd-timeout=3") as mounted:
            others = [each for each in extents if each["data"] and each is not held]
            server.before = lambda kind, offset, length: (
                "hang" if kind == nbd.READ and offset < held["offset"] + 4096 <= offset + length
                else None)
            with opened(mounted.disk, os.O_RDONLY) as disk, open(raw, "rb") as file:
                os.posix_fadvise(disk, 0, 0, os.POSIX_FADV_RANDOM)
                child = os.fork()
                if child == 0:
                    os._exit(errno_of(os.pread, disk, 4096, held["start"]))
                status = 0
                while status == 0:
                    for each in others[:4]:
                        check_equal(os.pread(disk, 4096, each["start"]),
                                    os.pread(file.fileno(), 4096, each["start"]), "another read")
                        compare.forget(mounted.disk)
                    pid, code = os.waitpid(child, os.WNOHANG)
                    status = pid
                check_equal(os.waitstatus_to_exitcode(code), nbd.EIO, "the read that is not answered")


@suite.test("a write that is not answered: EIO, and nothing is written afterwards")
def _(directory):
    contents = new_contents(directory)
    with nbd.Server(directory, contents) as server:
        with mount.mount_that_ends_badly(server.address, "locking=off", "nbd-timeout=1",
                                         writable=True) as mounted:
            with opened(mounted.disk) as disk:
                os.pwrite(disk, b"\x66" * 65536, 0)
                server.before = lambda kind, _offset, _length: (
                    "hang" if kind == nbd.WRITE else None)
                check_equal(errno_of(os.fsync, disk), nbd.EIO, "fsync")
                server.before = lambda kind, _offset, _length: None
                count = server.counts[nbd.WRITE]
                os.pwrite(disk, b"\x77" * 65536, 0)
                check_equal(errno_of(os.fsync, disk), nbd.EIO, "fsync")
                check_equal(server.counts[nbd.WRITE], count, "the writes that were sent")


if __name__ == "__main__":
    suite.main()
