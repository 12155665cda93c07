#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""-o read-cache=FILE: what a server was asked for once is read here, and nothing else is."""

import contextlib
import os
import random

from lib import bad, compare, image, mount, nbd, run, tap, tools
from lib.image import MiB
from lib.nbd import NBDKIT
from lib.tap import check, check_equal
from lib.web import web_server

suite = tap.Suite(needs=[tools.fuse, tools.QEMU, nbd.built])
CURL = [*NBDKIT, nbd.plugin("curl")]


def some_image(directory, size=20 * MiB, room=0):
    raw, path = os.path.join(directory, "raw"), os.path.join(directory, "image.qcow2")
    with open(raw, "wb") as file:
        file.write(random.Random(7).randbytes(size))
    image.convert(raw, path)
    with open(path, "r+b") as file:
        file.truncate(os.path.getsize(path) + room)
    return path, raw


def contents(path):
    with open(path, "rb") as file:
        return file.read()


@contextlib.contextmanager
def served(directory, data, **options):
    """A server, and what of it is read: .asked is a list of (kind, offset, length)."""
    with nbd.Server(directory, data, **options) as server:
        server.asked = []
        server.before = lambda *request: server.asked.append(request)
        yield server


def reads(server):
    return [request for request in server.asked if request[0] == nbd.READ]


# --- reading --------------------------------------------------------------------------------------


@suite.test("a file that is not kept has no name, and each block is asked for once")
def _(directory):
    path, raw = some_image(directory)
    cache = os.path.join(directory, "cache")
    with served(directory, contents(path)) as server:
        with mount.mount(server.address, "ro", "read-cache=" + cache) as mounted:
            check(not os.path.exists(cache), "it has a name")
            compare.check_files(mounted.disk, raw)
            before = len(reads(server))
            for _ in range(2):
                compare.forget(mounted.disk)
                compare.check_files(mounted.disk, raw)
                compare.check_random_preads(mounted.disk, raw, count=50)
            check_equal(len(reads(server)), before, "the reads of the server")
        check(not os.path.exists(cache), "something is left")
        with mount.mount(server.address, "ro", "read-cache=" + cache) as mounted:
            compare.check_files(mounted.disk, raw)
        check(len(reads(server)) > before + 20, "the next mount has read only %d times",
              len(reads(server)) - before)


@suite.test("a file that is kept: the second run reads here, but for some samples")
def _(directory):
    path, raw = some_image(directory)
    cache = os.path.join(directory, "cache")
    options = ("ro", "read-cache=" + cache, "read-cache-keep")
    with served(directory, contents(path)) as server:
        for kill in (False, True, False):
            with (mount.mount_that_ends_badly if kill else mount.mount)(
                    server.address, *options, foreground=False) as mounted:
                compare.check_files(mounted.disk, raw)
                if kill:
                    mounted.kill()
        server.asked.clear()
        with mount.mount(server.address, *options) as mounted:
            compare.check_files(mounted.disk, raw)
            compare.check_random_preads(mounted.disk, raw, count=50)
        check(len(reads(server)) <= 8, "the reads of the server: %r", reads(server))
        check_equal(os.stat(cache).st_mode & 0o777, 0o600, "its mode")


@suite.test("of a web server: no request for what is kept", needs=CURL)
def _(directory):
    path, raw = some_image(directory)
    cache, seen = os.path.join(directory, "cache"), []
    with web_server(path, seen=seen) as url:
        for times in range(2):
            seen.clear()
            with mount.mount("nbdkit:curl url=" + url, "nbdkit", "ro", "read-cache=" + cache,
                             "read-cache-keep") as mounted:
                compare.check_files(mounted.disk, raw)
        got = sum(last + 1 - first for first, last in seen)
        check(got <= 2 * MiB, "the second run has got %d bytes", got)


@suite.test("one that is far too small: every byte, and it stays small")
def _(directory):
    path, raw = some_image(directory)
    cache = os.path.join(directory, "cache")
    with served(directory, contents(path)) as server:
        for _ in range(2):
            with mount.mount(server.address, "ro", "read-cache=" + cache, "read-cache-keep",
                             "read-cache-size=2M") as mounted:
                compare.check_files(mounted.disk, raw)
                compare.check_random_preads(mounted.disk, raw, count=60)
            check(os.path.getsize(cache) <= 2 * MiB, "it has %d bytes", os.path.getsize(cache))


@suite.test("a base on a server, behind an image of this machine that is written")
def _(directory):
    path, raw = some_image(directory)
    cache, top = os.path.join(directory, "cache"), os.path.join(directory, "top.qcow2")
    tools.run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "gone", top, "20M")
    with served(directory, contents(path)) as server:
        for _ in range(2):
            server.asked.clear()
            with mount.mount(top, "read-cache=" + cache, "read-cache-keep",
                             "backing-file=" + server.address, writable=True) as mounted:
                compare.check_files(mounted.disk, raw)
                with open(mounted.disk, "r+b") as disk, open(raw, "r+b") as file:
                    for each in (disk, file):
                        each.seek(MiB)
                        each.write(b"mine" * 1000)
                compare.forget(mounted.disk)
                compare.check_files(mounted.disk, raw)
        check(len(reads(server)) <= 8, "the reads of the server: %r", reads(server))


# --- writing --------------------------------------------------------------------------------------


def write_some(disk, raw, seed, count=40):
    generator = random.Random(seed)
    with open(disk, "r+b", buffering=0) as one, open(raw, "r+b", buffering=0) as other:
        for _ in range(count):
            at, data = generator.randrange(19 * MiB), generator.randbytes(generator.randrange(100000))
            for each in (one, other):
                os.pwrite(each.fileno(), data, at)
        os.fsync(one.fileno())


@suite.test("what is written is read, in this run and the next, and an ended run is kept")
def _(directory):
    path, raw = some_image(directory, room=20 * MiB)
    cache = os.path.join(directory, "cache")
    options = ("locking=off", "read-cache=" + cache, "read-cache-keep")
    with served(directory, contents(path)) as server:
        for seed in range(3):
            with mount.mount(server.address, *options, writable=True) as mounted:
                compare.check_files(mounted.disk, raw)
                write_some(mounted.disk, raw, seed)
                compare.forget(mounted.disk)
                compare.check_files(mounted.disk, raw)
        server.asked.clear()
        with mount.mount(server.address, "ro", *options) as mounted:
            compare.check_files(mounted.disk, raw)
        check(len(reads(server)) < 100, "%d reads of the server", len(reads(server)))
        with open(path, "wb") as file:
            file.write(server.current)
    tools.run("qemu-img", "check", "-q", path)
    tools.run("qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", path, raw)


@suite.test("a daemon that was killed while it wrote: the next one believes nothing of its cache")
def _(directory):
    path, raw = some_image(directory, room=20 * MiB)
    cache = os.path.join(directory, "cache")
    options = ("locking=off", "read-cache=" + cache, "read-cache-keep")
    with served(directory, contents(path)) as server:
        for seed in range(3):
            with mount.mount_that_ends_badly(server.address, *options, writable=True) as mounted:
                compare.check_files(mounted.disk, raw)
                write_some(mounted.disk, raw, seed)
                compare.forget(mounted.disk)
                compare.check_random_preads(mounted.disk, raw, count=20)
                mounted.kill()
            with mount.mount(server.address, "ro", *options) as mounted:
                compare.check_files(mounted.disk, raw)


@suite.test("a server that loses what was not flushed: what is kept has none of it")
def _(directory):
    path, raw = some_image(directory, room=20 * MiB)
    cache = os.path.join(directory, "cache")
    options = ("locking=off", "read-cache=" + cache, "read-cache-keep", "nbd-timeout=2",
               "metadata-interval=0")
    with served(directory, contents(path)) as server:
        with mount.mount_that_ends_badly(server.address, *options, writable=True) as mounted:
            compare.check_files(mounted.disk, raw)
            with contextlib.suppress(OSError), open(mounted.disk, "r+b", buffering=0) as disk:
                for at in range(0, 10 * MiB, MiB):
                    os.pwrite(disk.fileno(), b"new " * 16384, at)
                compare.forget(mounted.disk)  # it reaches the server, and is read back from there
                for at in range(0, 10 * MiB, MiB):
                    os.pread(disk.fileno(), 65536, at)
                server.cut_power()
                os.fsync(disk.fileno())
        after = os.path.join(directory, "after")
        with open(path, "wb") as file:
            file.write(server.current)
        tools.run("qemu-img", "convert", "-O", "raw", path, after)
        with mount.mount(server.address, "ro", *options) as mounted:
            compare.check_files(mounted.disk, after)


# --- files that are not what they were ------------------------------------------------------------


@suite.test("a cache that was cut off, or bent, is no wrong byte; another export begins anew")
def _(directory):
    path, raw = some_image(directory)
    cache = os.path.join(directory, "cache")
    options = ("ro", "read-cache=" + cache, "read-cache-keep")
    generator = random.Random(5)
    with served(directory, contents(path)) as server:
        for times in range(8):
            with mount.mount(server.address, *options) as mounted:
                compare.check_files(mounted.disk, raw)
            size = os.path.getsize(cache)
            if times % 2:
                os.truncate(cache, generator.randrange(4096, size))
            else:
                with open(cache, "r+b") as file:
                    for _ in range(100):
                        file.seek(generator.randrange(100, size))
                        file.write(generator.randbytes(8))
    os.unlink(raw)
    path, raw = some_image(directory, 21 * MiB)
    with served(directory, contents(path)) as server:
        with mount.mount(server.address, *options) as mounted:
            compare.check_files(mounted.disk, raw)


# --- refusals -------------------------------------------------------------------------------------


@suite.test("what cannot be is one sentence, and nothing is overwritten")
def _(directory):
    path, _raw = some_image(directory, MiB)
    at, mine, dangling = (os.path.join(directory, name) for name in ("at", "mine", "link"))
    open(at, "w").close()
    with open(mine, "w", encoding="ascii") as file:
        file.write("my letters, some thousand of them " * 1000)
    os.symlink(mine, dangling)
    with served(directory, contents(path)) as server:
        for name, options, status, words in (
                (server.address, "read-cache=" + mine, 1, [mine, "read-cache-keep"]),
                (server.address, "read-cache-keep,read-cache=" + mine, 1, [mine, "something else"]),
                (server.address, "read-cache-keep,read-cache=" + dangling, 1, [dangling]),
                (server.address, "read-cache-keep,read-cache=" + directory, 1, [directory]),
                (server.address, "read-cache=%s/none/x" % directory, 1, ["none/x"]),
                (server.address, "read-cache-keep", 2, ["read-cache=FILE"]),
                (server.address, "read-cache-size=1M", 2, ["read-cache=FILE"]),
                (server.address, "read-cache-size=1k,read-cache=" + mine, 2, ["read-cache-size"]),
                (server.address, "force-share,read-cache=" + mine, 2, ["force-share"]),
                (path, "read-cache=%s/new" % directory, 2, ["nothing of this image is on a server"])):
            done = tools.run(run.program(), "-o", "ro," + options, name, at, status=status)
            bad.check_sentence(done.stderr, *words)
        check_equal(len(contents(mine)), 34000, "the bytes of the other file")
        cache = os.path.join(directory, "cache")
        with mount.mount(server.address, "ro", "read-cache-keep", "read-cache=" + cache):
            done = tools.run(run.program(), "-o", "ro,read-cache-keep,read-cache=" + cache,
                             server.address, at, status=1)
            bad.check_sentence(done.stderr, cache, "another program uses")
        os.chmod(cache, 0o622)
        done = tools.run(run.program(), "-o", "ro,read-cache-keep,read-cache=" + cache,
                         server.address, at, status=1)
        bad.check_sentence(done.stderr, cache, "0600")


if __name__ == "__main__":
    suite.main()
