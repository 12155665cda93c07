#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""qcow2ctl attach, detach and list: an image as a loop device."""

import contextlib
import json
import os
import shutil
import signal
import socket

from lib import bad, compare, ctl, files, image, mount, run, tap, tools
from lib.files import qcow2ctl
from lib.image import MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.root, tools.loop, tools.QEMU,
                         tools.tool("sfdisk", "debugfs"), tools.file_system("ext4")])


@suite.test("attach prints the device, and its partitions exist when it returns")
def _(directory):
    for label in ("gpt", "dos"):
        path = files.partitioned(directory, label, name=label)
        done = qcow2ctl("attach", "--json", path)
        told = json.loads(done.stdout)
        try:
            check_equal([part["number"] for part in told["partitions"]], [1, 2], "the partitions")
            for part in told["partitions"]:
                check(os.path.exists(part["device"]), "there is no %s", part["device"])
            with mount.file_system(told["partitions"][1]["device"]) as at:
                with open(os.path.join(at, "here"), "rb") as file:
                    check_equal(file.read(), b"on two\n", "a file")
                done = ctl.ctl("detach", told["device"], status=1)
                check(at in done.stderr and "is mounted at" in done.stderr, "it said %s",
                      done.stderr)
            behind = mount.behind_loop(told["device"])
            qcow2ctl("detach", path)
            check_equal(files.listed(path), [], "the list")
            check(behind is not None and mount.behind_loop(told["device"]) != behind,  # it may be another's by now
                  "the device is still attached")
        finally:
            if files.listed(path):
                tools.run("losetup", "-d", told["device"], status=None)


@suite.test("what is written to the device is in the image when detach returns")
def _(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), 64 * MiB)
    data = os.path.join(directory, "data")
    with open(data, "wb") as file:
        file.write(os.urandom(8 * MiB))
    with files.attached(path) as device:
        tools.run("dd", "if=" + data, "of=" + device, "bs=1M", "seek=3", "status=none")
        qcow2ctl("detach", device)
        # Nobody has it open any more.
        tools.run("qemu-io", "-f", "qcow2", "-c", "read 0 512", path)
    raw = os.path.join(directory, "raw")
    image.to_raw(path, raw)
    with open(raw, "rb") as file, open(data, "rb") as expected:
        file.seek(3 * MiB)
        check(file.read(8 * MiB) == expected.read(), "other bytes")
    files.check_in_order(path)


@suite.test("-r attaches a device that cannot be written, and changes nothing")
def _(directory):
    path = files.whole(directory)
    before = compare.sha256(path)
    with files.attached(path, "-r") as device:
        check_equal(tools.output("blockdev", "--getro", device).strip(), "1", "read-only")
        check(tools.run("dd", "if=/dev/zero", "of=" + device, "count=1", status=None).returncode,
              "it was written")
        check_equal(files.listed(path)[0]["mode"], "ro", "the mode")
    check_equal(compare.sha256(path), before, "the image")


@suite.test("sector size and direct I/O are those that were asked for")
def _(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), 64 * MiB)
    with files.attached(path, "--sector-size", "4096", "--direct-io", "on") as device:
        check_equal(tools.output("blockdev", "--getss", device).strip(), "4096", "the sector size")
        check_equal(tools.output("losetup", "-nO", "DIO", device).strip(), "1", "direct I/O")
        tools.run("dd", "if=/dev/urandom", "of=" + device, "bs=1M", "count=4", "status=none")
    files.check_in_order(path)
    for arguments, expected in (([], "1"), (["--direct-io=auto"], "1"), (["--direct-io=off"], "0")):
        with files.attached(path, *arguments) as device:
            check_equal(tools.output("losetup", "-nO", "DIO", device).strip(), expected,
                        "direct I/O with %s" % arguments)


@suite.test("losetup -d ends the daemon, too")
def _(directory):
    path = files.whole(directory)
    with files.attached(path) as device:
        tools.run("losetup", "-d", device)
        files.check_nothing_left(path)


@suite.test("list tells image, mode, mount point, device and files, and nothing of the dead")
def _(directory):
    path = files.whole(directory)
    raw = bad.mount_point(directory, "raw")
    at = os.path.join(directory, "at")
    os.mkdir(at)
    with mount.mount(path, at=raw, writable=True) as mounted:
        with mount.loop_device(raw, writable=True) as device, mount.file_system(device) as place:
            found = files.listed(path)
            check_equal(len(found), 1, "the number of daemons")
            check_equal((found[0]["mode"], found[0]["mount-point"], found[0]["loop-devices"],
                         found[0]["file-systems"], found[0]["pid"]),
                        ("rw", os.path.realpath(raw), [device], [place], mounted.pids[0]), "the daemon")
            text = qcow2ctl("list").stdout
            for word in (os.path.realpath(path), "read-write", device, place):
                check(word in text, "no %s in %s", word, text)
    check_equal(files.listed(path), [], "the list, afterwards,")
    done = tools.run(run.program(), path, raw, env=files.environment())
    check_equal(done.stderr, "", "what it said")
    os.kill(files.listed(path)[0]["pid"], 9)
    bad.wait_for(lambda: not files.listed(path), "the list is empty")
    run.unmount(raw, lazy=True)


@suite.test("with however few descriptors list and umount say all that there is, or that they cannot")
def _(directory):
    path, at = files.whole(directory), os.path.join(directory, "at")
    os.mkdir(at)
    limited = ["sh", "-c", 'ulimit -n "$0" && exec "$@"']
    with files.attached(path) as device, files.mounted(files.partitioned(directory), at, "-p", "1"):
        def settled(listed):
            return [{key: value for key, value in item.items() if key != "dirty"} for item in listed]

        whole = settled(files.listed())
        check_equal(len(whole), 2, "the number of all")
        for number in range(4, 60):
            done = tools.run(*limited, str(number), ctl.program(), "list", "--json", status=None)
            if done.returncode == 0:
                told = [item for item in json.loads(done.stdout) if item["image"].startswith(directory)]
                check_equal(settled(told), whole, "what is listed with %d descriptors" % number)
            else:
                bad.check_sentence(done.stderr, "Too many open files", program="qcow2ctl")
                check_equal((done.returncode, done.stdout), (1, ""), "status and output with %d" % number)
        for arguments in (["list"], ["umount", at], ["detach", device], ["snapshot", "-c", "x", path]):
            done = tools.run(*limited, "4", ctl.program(), *arguments, status=1)
            bad.check_sentence(done.stderr, "Too many open files", program="qcow2ctl")
        check(mount.is_mounted(at), "it was unmounted")


@suite.test("a daemon that is stopped keeps nobody waiting who asks for another")
def _(directory):
    first, second = files.whole(directory), os.path.join(directory, "second.qcow2")
    shutil.copyfile(first, second)
    with files.attached(first) as device, files.attached(second) as other:
        pid = files.listed(first)[0]["pid"]
        bad.stop(pid)
        try:
            # Its last answer is valid for a moment.
            bad.wait_for(lambda: device + ": whoever serves its file does not answer" in
                         qcow2ctl("list").stderr, "the sentence")
            check_equal(files.listed(second)[0]["loop-devices"], [other], "the other's device")
            done = qcow2ctl("detach", device, status=1)
            check("does not answer; continue or end that daemon" in done.stderr, "it said: %s",
                  done.stderr)
            qcow2ctl("detach", other)
            check_equal(files.listed(second), [], "the list of the other, afterwards,")
        finally:
            os.kill(pid, signal.SIGCONT)
        qcow2ctl("detach", device)
    for path in (first, second):
        files.check_in_order(path)


@suite.test("a daemon that is stopped is listed also where so many have asked it that none gets through")
def _(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), MiB)
    with mount.mount(path, directory=True, foreground=False, writable=True), contextlib.ExitStack() as asking:
        pid = files.listed(path)[0]["pid"]
        bad.stop(pid)
        try:
            with contextlib.suppress(BlockingIOError):
                for _ in range(1000):
                    other = asking.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
                    other.setblocking(False)
                    other.connect("/run/qcow2fs/%d.control" % pid)
            for arguments in (("list",), ("list", "--json"), ("top", "--once")):
                said = ctl.ctl(*arguments, seconds=bad.SOON).stdout
                check(os.path.basename(path) in said, "%s shows it not: %s", arguments, said)
        finally:
            os.kill(pid, signal.SIGCONT)


@suite.test("a mount that is gone, and whose daemon still has something to do, is not taken for the next")
def _(directory):
    first, second = files.whole(directory), os.path.join(directory, "second.qcow2")
    shutil.copyfile(first, second)
    places = [bad.mount_point(directory, name) for name in ("one", "two")]
    for _ in range(20):  # until nobody else is given the number in between
        with contextlib.ExitStack() as stack:
            gone = stack.enter_context(mount.mount(first, at=places[0], writable=True))
            device = os.stat(places[0]).st_dev
            bad.stop(gone.pids[0])
            stack.callback(os.kill, gone.pids[0], signal.SIGCONT)
            tools.run("umount", "-i", "-l", places[0])
            stack.enter_context(mount.mount(second, at=places[1], writable=True))
            if os.stat(places[1]).st_dev != device:
                continue
            with mount.loop_device(places[1], writable=True) as loop:
                for path, has in ((first, []), (second, [loop])):
                    check_equal(files.listed(path)[0]["loop-devices"], has, "the devices of " + path)
            qcow2ctl("umount", places[1])
            check_equal(files.listed(second), [], "the list, afterwards,")
            return
    check(False, "no mount has had the number of one that was gone")


@suite.test("what cannot be attached is one sentence, and leaves no device")
def _(directory):
    path = files.whole(directory)
    ctl.refused("attach", os.path.join(directory, "none.qcow2"), words=["none.qcow2"])
    ctl.refused("attach", "--sector-size", "1000", path, words=["Invalid argument"])
    with bad.held(path):
        ctl.refused("attach", path, words=[path])
    ctl.refused("detach", path, words=["no running qcow2fs"])
    files.check_nothing_left(path)


if __name__ == "__main__":
    suite.main()
