#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Many readers of a server that answers in bursts, and hangs up with a lot under way: every byte is right."""

import contextlib
import os
import random
import subprocess
import threading
import time

from lib import bad, compare, image, mount, nbd, run, tap, tools
from lib.image import MiB
from lib.tap import check_equal

KiB = 1024
SIZE = 16 * MiB
PAGE = 4 * KiB
SECONDS = 4
suite = tap.Suite(needs=[tools.fuse, tools.QEMU, nbd.built])


@contextlib.contextmanager
def served(directory, *options, **keywords):
    """(a server of our own, the bytes of its disk, the disk mounted)."""
    raw, path = os.path.join(directory, "raw"), os.path.join(directory, "image.qcow2")
    contents = random.Random(3).randbytes(SIZE)
    with open(raw, "wb") as file:
        file.write(contents)
    image.convert(raw, path)
    with open(path, "rb") as file:
        stored = file.read()
    with nbd.Server(directory, stored) as server:
        with mount.mount(server.address, *options, **keywords) as mounted:
            yield server, contents, mounted
            compare.check_files(mounted.disk, raw)


def hold(server):
    """What is read from here on is answered by release()."""
    server.before = lambda kind, _offset, _length: "hold" if kind == nbd.READ else None


def answer(server):
    """All that is held, and from here on at once."""
    with server.lock:
        server.before = lambda _kind, _offset, _length: None
    server.release()


def burst(server, contents, mounted):
    """Readers of pages and of longer pieces."""
    ended = threading.Event()
    generator = random.Random(11)
    failed = []

    def read(seed):
        numbers = random.Random(seed)
        with bad.Blocks(mounted.disk) as blocks:
            while not ended.is_set():
                length = numbers.choice((PAGE, PAGE, PAGE, 3 * PAGE, 64 * KiB))
                offset = numbers.randrange(SIZE // PAGE - length // PAGE) * PAGE
                data = blocks.read(offset, length)
                if data != contents[offset:offset + length]:
                    failed.append((offset, length, data and data[:16]))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(12)]
    server.before = lambda kind, _offset, _length: (
        "hold" if kind == nbd.READ and generator.random() < 0.8 else None)
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        time.sleep(generator.random() / 100)
        if generator.random() < 0.01:
            server.hang_up()
        server.release()
    ended.set()
    while any(thread.is_alive() for thread in threads):
        answer(server)
        time.sleep(0.01)
    check_equal(failed, [], "reads that were not right")


for title, of_mount, also in (("to be read", ["ro"], {}),
                              ("to be written, three threads", ["locking=off", "threads=3"], {"writable": True}),
                              ("one thread", ["ro", "threads=1"], {})):
    @suite.test("pages and longer pieces, bursts, and lost connections: %s" % title)
    def _(directory, of_mount=of_mount, also=also):
        with served(directory, *of_mount, **also) as (server, contents, mounted):
            burst(server, contents, mounted)


@suite.test("a reader that is killed before its answer comes, and others: each gets its own")
def _(directory):
    with served(directory, "ro") as (server, contents, mounted):
        hold(server)
        reader = run.start(["dd", "if=" + mounted.disk, "of=/dev/null", "bs=4k", "count=1", "skip=700",
                            "iflag=direct"], stderr=subprocess.DEVNULL)
        bad.wait_for(lambda: server.held, "it is asked for")
        found = {}

        def read(offset):
            with bad.Blocks(mounted.disk) as blocks:
                found[offset] = blocks.read(offset, PAGE)

        threads = [threading.Thread(target=read, args=(number * MiB,)) for number in range(8)]
        for thread in threads:
            thread.start()
        reader.kill()
        answer(server)
        reader.wait(tools.TIMEOUT)
        for thread in threads:
            thread.join()
        check_equal(found, {offset: contents[offset:offset + PAGE] for offset in found}, "what was read")
        check_equal(len(found), 8, "how many")


if __name__ == "__main__":
    suite.main()
