#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""qcow2ctl snapshot of a disk that qcow2fs has mounted: whatever is named, its daemon does it."""

import json
import os
import socket
import subprocess

from lib import bad, changed, ctl, files, image, mount, tap, tools, write
from lib.files import qcow2ctl
from lib.image import KiB, MiB
from lib.frozen import is_frozen
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.QEMU, tools.fuse])
needs_root = [tools.root, tools.loop, tools.tool("debugfs", "dumpe2fs", "strace"),
              tools.file_system("ext4")]


def names(path):
    return [each["name"] for each in json.loads(qcow2ctl("snapshot", "--json", path).stdout)]


def put(disk, offset, data):
    with write.opened(disk) as handle:
        write.write_all(handle, data, offset)


# --- the raw file ---------------------------------------------------------------------------------


for directory_mount in (False, True):
    @suite.test("made, listed, renamed and removed, of a mount on a %s"
                % ("directory" if directory_mount else "file"))
    def _(directory, is_directory=directory_mount):
        path = bad.sample("plain", directory)
        with mount.mount(path, directory=is_directory, writable=True) as mounted:
            states = {}
            # By the raw file, the image, and where it is mounted.
            for number, named in enumerate((mounted.disk, path, mounted.path)):
                put(mounted.disk, number * 64 * KiB, image.pattern(64 * KiB, number + 1))
                name = "state %d" % number
                done = qcow2ctl("snapshot", "-c", name, named)
                check_equal(done.stdout, "Snapshot '%s' (ID %d) made.\n" % (name, number + 1),
                            "what it said")
                with open(mounted.disk, "rb") as disk:
                    states[name] = disk.read()
                check_equal(names(named), sorted(states), "the list, by %s" % named)
            qcow2ctl("snapshot", "--rename=state 0", "first", mounted.disk)
            states["first"] = states.pop("state 0")
            qcow2ctl("snapshot", "-q", "-d", "2", path)
            del states["state 1"]
            if is_directory:
                check_equal(sorted(os.listdir(os.path.join(mounted.path, "snapshots"))),
                            sorted(states), "what is shown")
            told = json.loads(qcow2ctl("snapshot", "--json", "-c", "last", path).stdout)
            check_equal(sorted(each["name"] for each in told), sorted([*states, "last"]),
                        "the list after it")
            for arguments, words in ((["-c", "first"], ["first", "already"]),
                                     (["-d", "none"], ["no snapshot 'none'"]),
                                     (["-a", "first"], ["is mounted", "unmount it first"]),
                                     (["-c", "n" * 20000], ["too long"])):
                ctl.refused("snapshot", *arguments, path, words=words)
            with open(mounted.disk, "rb") as disk:
                states["last"] = disk.read()
        write.check_clean(path)
        found = changed.digest(path)
        del found[None]
        check(found == states, "the snapshots are %r, or show something else", sorted(found))


@suite.test("of an image that is only read, or has a data file, nothing is made, and that is said")
def _(directory):
    path = bad.sample("plain", directory)
    with mount.mount(path):
        ctl.refused("snapshot", "-c", "one", path, words=[path, "qcow2fs (pid "], unchanged=[path])
    path = bad.sample("datafile", directory)
    with mount.mount(path, writable=True):
        ctl.refused("snapshot", "-c", "one", path, words=["data file"])


@suite.test("an overlay's image has its snapshots shown, and not changed")
def _(directory):
    path = bad.sample("plain", directory)
    with mount.mount(path, "overlay", writable=True):
        ctl.refused("snapshot", "-c", "one", path, words=[path], unchanged=[path])


@suite.test("what is no question of ours is not answered, and the next one is")
def _(directory):
    path = bad.sample("plain", directory)
    with mount.mount(path, writable=True) as mounted:
        place = "/run/qcow2fs" if os.geteuid() == 0 else None
        for text in (b"", b"x", b"version=1\0", b"version=9\0ask=status\0", b"version=1\0ask=x\0",
                     b"\0" * 100, b"a" * 20000, b"version=1\0ask=snapshot-make\0"):
            if place is None:
                break
            asked(os.path.join(place, "%d.control" % mounted.pids[0]), text)
        qcow2ctl("snapshot", "-q", "-c", "one", path)
        check_equal(names(path), ["one"], "the list")
    write.check_clean(path)


def asked(path, text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connected:
        connected.settimeout(tools.TIMEOUT)
        connected.connect(path)
        if text:
            connected.send(text)
        connected.shutdown(socket.SHUT_WR)
        answer = connected.recv(65536)
        check(answer == b"" or b"error=0" not in answer, "answered: %r", answer)


# --- with a file system on it ---------------------------------------------------------------------


def needs_recovery(path, snapshot, directory):
    raw = os.path.join(directory, "state.raw")
    tools.run("qemu-img", "convert", "-l", "snapshot.name=" + snapshot, "-O", "raw", path, raw)
    head = tools.run("dumpe2fs", "-h", raw).stdout
    tools.run("e2fsck", "-fy", raw, status=None)
    tools.run("e2fsck", "-fn", raw)
    return "needs_recovery" in head


def content(path, snapshot, directory):
    raw = os.path.join(directory, "state.raw")
    tools.run("qemu-img", "convert", "-l", "snapshot.name=" + snapshot, "-O", "raw", path, raw)
    return tools.run("debugfs", "-R", "cat new", raw).stdout


@suite.test("--freeze makes a clean one of a file system that is mounted; without, it has a journal",
            needs=needs_root)
def _(directory):
    path, at = files.whole(directory), os.path.join(directory, "at")
    os.mkdir(at)
    with files.mounted(path, at):
        device = files.listed(path)[0]["loop-devices"][0]
        with open(os.path.join(at, "new"), "w", encoding="ascii") as file:
            file.write("once")
        qcow2ctl("snapshot", "-q", "-c", "frozen", "--freeze=" + at, at)
        with open(os.path.join(at, "new"), "w", encoding="ascii") as file:
            file.write("twice")
            file.flush()
            os.fsync(file.fileno())
        qcow2ctl("snapshot", "-q", "-c", "running", device)
        check(not is_frozen(at), "it still stands still")
        ctl.refused("snapshot", "-c", "x", "--freeze=" + directory, path,
                    words=[directory, "no file system on the disk"])
        check_equal(names(device), ["frozen", "running"], "the list")
    write.check_clean(path)
    check(not needs_recovery(path, "frozen", directory), "the frozen one is not clean")
    check(needs_recovery(path, "running", directory), "the other one is")
    check_equal(content(path, "frozen", directory), "once", "what was written before")
    ctl.refused("snapshot", "-c", "x", "--freeze=" + at, path, words=["not mounted for writing"])


@suite.test("killed while the file system stands still, it goes on", needs=needs_root)
def _(directory):
    path, at = files.whole(directory), os.path.join(directory, "at")
    os.mkdir(at)
    with files.mounted(path, at):
        done = subprocess.run(
            ["strace", "-o", "/dev/null", "-e", "inject=sendto:signal=KILL:when=1", ctl.program(),
             "snapshot", "-c", "x", "--freeze=" + at, path], check=False, timeout=tools.TIMEOUT,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=tools.environment())
        check(done.returncode != 0, "it was not killed")
        bad.wait_for(lambda: not is_frozen(at), "it goes on")
        with open(os.path.join(at, "new"), "w", encoding="ascii") as file:
            file.write("goes on")
            file.flush()
            os.fsync(file.fileno())
    files.check_in_order(path)


@suite.test("list tells what of the tables is not saved yet, and that it is after an fsync")
def _(directory):
    path = bad.sample("plain", directory)

    def dirty():
        return [item["dirty"] for item in files.listed(path)]

    with mount.mount(path, writable=True) as mounted:
        put(mounted.disk, 0, image.pattern(MiB, 3))
        check_equal(len(dirty()), 1, "the lines")
        with write.opened(mounted.disk) as handle:
            os.fsync(handle)
        bad.wait_for(lambda: dirty() == [0], "nothing is left to save")


if __name__ == "__main__":
    suite.main()
