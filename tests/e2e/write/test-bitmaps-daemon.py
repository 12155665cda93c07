#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The same bitmaps in turn with qemu-storage-daemon, by its QMP and NBD, and with a mount: each finds
in them what the other has done."""

import contextlib
import json
import os
import random
import socket
import subprocess

from lib import bad, ctl, image, mount, run, tap, tools, write
from lib.bitmaps import bitmaps, ranges
from lib.image import KiB, MiB
from lib.tap import check, check_equal

SIZE = 24 * MiB + 1536
ROUNDS = 6

suite = tap.Suite(needs=[tools.fuse, tools.QEMU, tools.tool("qemu-storage-daemon", "qemu-nbd")])


class Daemon:
    """A qemu-storage-daemon that has the image open to write it, as node "disk"."""

    def __init__(self, path):
        self.path = path
        self.nbd, self.control = (os.path.join(run.short(path), name) for name in ("nbd", "qmp"))
        self.process = self.connection = self.lines = None

    def __enter__(self):
        place = self.control
        for old in (place, self.nbd):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(old)
        self.process = run.start(
            ["qemu-storage-daemon", "--chardev", "socket,path=%s,server=on,wait=off,id=c" % place,
             "--monitor", "chardev=c", "--blockdev", "driver=file,node-name=file,discard=unmap,filename=" + self.path,
             "--blockdev", "driver=qcow2,node-name=disk,file=file,discard=unmap",
             "--nbd-server", "addr.type=unix,addr.path=" + self.nbd,
             "--export", "type=nbd,id=e,node-name=disk,name=e,writable=on"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        bad.wait_for(lambda: os.path.exists(place) or self.process.poll() is not None, "its socket")
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.settimeout(tools.TIMEOUT)
        bad.wait_for(self._connected, "its connection")
        self.lines = self.connection.makefile("r", encoding="utf-8")
        self.lines.readline()  # its greeting
        self.ask("qmp_capabilities")
        return self

    def _connected(self):
        try:
            self.connection.connect(self.control)
            return True
        except OSError:
            check(self.process.poll() is None, "qemu-storage-daemon ended with status %s", self.process.poll())
            return False

    def ask(self, what, **arguments):
        self.connection.send(json.dumps({"execute": what, "arguments": arguments}).encode())
        while True:
            answer = json.loads(self.lines.readline())
            if "return" in answer or "error" in answer:
                check("return" in answer, "%s: %s", what, answer)
                return answer["return"]

    def bitmap(self, what, name, **more):
        self.ask("block-dirty-bitmap-" + what, node="disk", name=name, **more)

    def marked(self):
        """Of each bitmap the granularity, and whether it records."""
        node, = (each for each in self.ask("query-named-block-nodes") if each["node-name"] == "disk")
        return {each["name"]: (each["granularity"], each["recording"]) for each in node.get("dirty-bitmaps", ())}

    def io(self, *commands):
        words = [word for command in commands for word in ("-c", command)]
        tools.run("qemu-io", "-f", "raw", *words, "nbd+unix:///e?socket=" + self.nbd)

    def __exit__(self, *_error):
        if self.process.poll() is None:
            with contextlib.suppress(OSError, AssertionError, ValueError):
                self.ask("quit")
            try:
                self.process.wait(tools.TIMEOUT)
            finally:
                self.process.kill()
                self.process.wait()
        self.connection.close()

    def kill(self):
        self.process.kill()
        self.process.wait()


class Model:
    """What each bitmap must have: name -> [granularity, enabled, the set bits]."""

    def __init__(self):
        self.all = {}

    def mark(self, offset, length):
        for granularity, enabled, bits in self.all.values():
            if enabled:
                bits.update(range(offset // granularity, (offset + length - 1) // granularity + 1))

    def ranges(self, name):
        granularity, _, bits = self.all[name]
        found = []
        for bit in sorted(bits):
            begin, end = bit * granularity, min(SIZE, (bit + 1) * granularity)
            if found and sum(found[-1]) == begin:
                found[-1][1] += end - begin
            else:
                found.append([begin, end - begin])
        return found

    def merge(self, name, source):
        granularity, _, bits = self.all[name]
        for begin, length in self.ranges(source):
            bits.update(range(begin // granularity, (begin + length - 1) // granularity + 1))

    def check(self, path):
        check_equal(bitmaps(path), sorted((name, granularity, ["auto"] if enabled else [])
                                          for name, (granularity, enabled, _) in self.all.items()), "the bitmaps")
        for name in self.all:
            check_equal(ranges(path, name), self.ranges(name), "what QEMU finds in %s" % name)

    def check_mount(self, mounted):
        for name, (granularity, _, _) in self.all.items():
            with open(os.path.join(mounted.path, "bitmaps", name, "extents.json"), encoding="ascii") as file:
                said = json.load(file)
            check_equal((said["granularity"], [[each["start"], each["length"]] for each in said["extents"]]),
                        (granularity, self.ranges(name)), "what the mount finds in %s" % name)

    def check_daemon(self, daemon):
        check_equal(daemon.marked(), {name: (granularity, enabled)
                                      for name, (granularity, enabled, _) in self.all.items()}, "what QMP says")


def places(generator, count):
    for _ in range(count):
        offset = generator.randrange(SIZE // 512) * 512
        yield offset, min(SIZE - offset, 512 * generator.randint(1, 300))


def change_bitmap(model, generator, do):
    """One of them, by do(what, name, another name or a granularity)."""
    what = generator.choice(("add", "clear", "disable", "enable", "merge", "remove"))
    name = generator.choice(sorted(model.all))
    if what == "add" or (what == "remove" and len(model.all) < 3):
        name = "made-%d" % generator.randrange(10 ** 9)
        granularity = generator.choice((512, 4096, 64 * KiB, MiB, 2 << 30))
        do("add", name, granularity)
        model.all[name] = [granularity, True, set()]
    elif what == "merge":
        source = generator.choice([each for each in sorted(model.all) if each != name])
        do("merge", name, source)
        model.merge(name, source)
    else:
        do(what, name, None)
        if what == "clear":
            model.all[name][2].clear()
        elif what == "remove":
            del model.all[name]
        else:
            model.all[name][1] = what == "enable"


def by_daemon(daemon):
    def do(what, name, other):
        if what == "add":
            daemon.bitmap("add", name, persistent=True, granularity=other)
        elif what == "merge":
            daemon.ask("block-dirty-bitmap-merge", node="disk", target=name, bitmaps=[other])
        else:
            daemon.bitmap(what, name)
    return do


def by_ctl(path):
    def do(what, name, other):
        more = {"add": lambda: ["--add", "-g", str(other)], "merge": lambda: ["--merge", other]}
        ctl.ctl("bitmap", "-q", *more.get(what, lambda: ["--" + what])(), path, name)
    return do


def turn_of_daemon(path, model, generator):
    with Daemon(path) as daemon:
        model.check_daemon(daemon)
        for _ in range(4):
            change_bitmap(model, generator, by_daemon(daemon))
            for offset, length in places(generator, 3):
                daemon.io(generator.choice(("write -q -P 7 %d %d", "write -q -z %d %d", "discard -q %d %d"))
                          % (offset, length))
                model.mark(offset, length)
        model.check_daemon(daemon)


def turn_of_mount(path, model, generator):
    with mount.mount(path, directory=True, writable=True) as mounted:
        model.check_mount(mounted)
        with write.Direct(mounted.disk) as direct, write.opened(mounted.disk) as handle:
            for _ in range(4):
                change_bitmap(model, generator, by_ctl(path))
                for offset, length in places(generator, 3):
                    kind = generator.randrange(3)
                    if kind == 0:
                        write.punch(handle, offset, length)
                    elif kind == 1:
                        write.zero(handle, offset, length)
                    else:
                        direct.write(offset, image.pattern(length, generator.randrange(1000)))
                    model.mark(offset, length)
        model.check_mount(mounted)


def test_turns(options, seed):
    @suite.test("in turn, %d times, with everything that can be done to them: %s" % (ROUNDS, options))
    def _(directory):
        path = os.path.join(directory, "image.qcow2")
        tools.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, path, str(SIZE))
        generator, model = random.Random(seed), Model()
        for name, granularity in (("first", 64 * KiB), ("second", 512)):
            ctl.ctl("bitmap", "-q", "--add", "-g", str(granularity), path, name)
            model.all[name] = [granularity, True, set()]
        for number in range(ROUNDS):
            (turn_of_mount if number % 2 else turn_of_daemon)(path, model, generator)
            tools.run("qemu-img", "check", "-q", path)
            model.check(path)


test_turns("cluster_size=64k", 1)
test_turns("cluster_size=512", 2)
test_turns("cluster_size=16k,extended_l2=on,lazy_refcounts=on", 3)


@suite.test("what kill -9 of qemu-storage-daemon leaves is inconsistent here, and the other way round")
def _(directory):
    path = os.path.join(directory, "image.qcow2")
    tools.run("qemu-img", "create", "-q", "-f", "qcow2", path, str(SIZE))
    for name in ("one", "still"):
        tools.run("qemu-img", "bitmap", "--add", path, name)
    tools.run("qemu-img", "bitmap", "--disable", path, "still")
    with Daemon(path) as daemon:
        daemon.io("write -q 1M 64k")
        daemon.kill()
    flags = {name: flags for name, _, flags in bitmaps(path)}
    check("in-use" in flags["one"], "QEMU left it as if it were true: %s", flags)
    tools.run("qemu-img", "check", "-q", "-r", "all", path, status=None)
    with mount.mount(path, directory=True, writable=True) as mounted:
        with write.Direct(mounted.disk) as direct:
            direct.write(2 * MiB, b"a" * 4096)
        said = mounted.stderr()
        check_equal([word in said for word in ("'one' is inconsistent", "'still' is inconsistent")],
                    [True, "in-use" in flags["still"]], "what is said of each")
        for name in (name for name in flags if "in-use" in flags[name]):
            ctl.ctl("bitmap", "-q", "--remove", path, name)
        ctl.ctl("bitmap", "-q", "--add", path, "new")
    with write.to_be_killed(path) as running, write.Direct(running.disk) as direct:
        direct.write(3 * MiB, b"b" * 4096)
        direct.sync()
        running.kill()
    with Daemon(path) as daemon:
        node, = (each for each in daemon.ask("query-named-block-nodes") if each["node-name"] == "disk")
        new, = (each for each in node["dirty-bitmaps"] if each["name"] == "new")
        check(new.get("inconsistent"), "QEMU trusts it: %s", new)


if __name__ == "__main__":
    suite.main()
