#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What the daemon has to say reaches the journal, with fields; without one, syslog.

Each mount has a /run of its own, where this test, or a real systemd-journald, is the journal.
"""

import contextlib
import json
import os
import shlex
import socket
import subprocess

from lib import bad, ctl, private, qcow2, run, tap, tools
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.root, tools.fuse, tools.QEMU])
JOURNALD = "/lib/systemd/systemd-journald"


def damaged(directory, name="image.qcow2"):
    """An image of which one cluster cannot be read, which the log tells; and a mount point."""
    path, at = os.path.join(directory, name), os.path.join(directory, "at")
    os.rename(bad.sample("plain", directory), path)
    with qcow2.Qcow2(path) as opened:
        opened.set_l2_entry(0, qcow2.COPIED | 1 << 40)
    os.mkdir(at)
    return path, at


def listener(directory, name):
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.settimeout(tools.TIMEOUT)
    made.bind(os.path.join(run.short(directory), name))
    return made


def fields(datagram):
    """As systemd's documentation of the protocol has it."""
    found = {}
    while datagram:
        name, mark, rest = datagram.partition(b"\n")
        if b"=" in name:
            name, _, value = name.partition(b"=")
        else:
            length, rest = int.from_bytes(rest[:8], "little"), rest[8:]
            value, mark, rest = rest[:length], rest[length:length + 1], rest[length + 1:]
        check_equal(mark, b"\n", "what ends %r" % name)
        check(name not in found, "%r twice", name)
        found[name.decode()] = os.fsdecode(value)
        datagram = rest
    return found


# /run is empty but for what the caller asks for; so is /dev but for what a mount needs.
ALONE = """
set -e
mount -t tmpfs -o mode=755 none /run
mkdir -p /run/systemd/journal
mkdir dev
mount -t tmpfs -o mode=755 none dev
cp -a /dev/null /dev/zero /dev/urandom /dev/fuse dev
ln -s "$SOCKETS/log" dev/log
mount --bind dev /dev
"""
JOURNAL = 'ln -s "$SOCKETS/journal" /run/systemd/journal/socket\n'
MOUNT = '"$QCOW2FS" $FOREGROUND -o ro "$IMAGE" "$AT"\n'
READ = '! cat "$AT/disk.raw" >/dev/null 2>&1\n'  # some lines: the kernel reads ahead
UNMOUNT = '"$QCOW2CTL" umount "$AT"\n'


@contextlib.contextmanager
def alone(directory, script, path, at, **keywords):
    """The script, which runs with mounts of its own; it must succeed in the end."""
    environment = dict(keywords.pop("env", {}), QCOW2FS=run.program(), QCOW2CTL=ctl.program(),
                       IMAGE=path, AT=at, FOREGROUND=keywords.pop("foreground", ""),
                       SOCKETS=run.short(directory))
    with run.start(private.prefix() + ["sh", "-c", ALONE + script], cwd=directory, env=environment,
                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **keywords) as process:
        try:
            yield process
            check_equal(process.wait(tools.TIMEOUT), 0, "the status of the script")
        finally:
            process.kill()


def check_fields(found, path, at):
    check(path in found["MESSAGE"] and "cannot be read" in found["MESSAGE"], "MESSAGE is %r",
          found["MESSAGE"])
    check("\n" not in found["MESSAGE"], "MESSAGE is %r", found["MESSAGE"])
    for name, value in (("PRIORITY", "3"), ("SYSLOG_FACILITY", "3"), ("SYSLOG_IDENTIFIER", "qcow2fs"),
                        ("QCOW2FS_IMAGE", path), ("QCOW2FS_MOUNT_POINT", at)):
        check_equal(found.get(name), value, name)
    check(int(found["SYSLOG_PID"]) > 1, "SYSLOG_PID is %r", found["SYSLOG_PID"])


@suite.test("a message of a mount in the background has its image and its mount point as fields")
def _(directory):
    path, at = damaged(directory)
    with listener(directory, "journal") as journal, \
            listener(directory, "log") as syslog, \
            alone(directory, JOURNAL + MOUNT + READ + UNMOUNT, path, at) as process:
        check_fields(fields(journal.recv(1 << 20)), path, at)
        check_equal(process.wait(tools.TIMEOUT), 0, "the status of the script")
        syslog.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            raise AssertionError("syslog was told %r as well" % syslog.recv(1 << 20))


@suite.test("a field has the bytes of a name, whatever these are")
def _(directory):
    place = os.path.join(directory, "two\nlines = \udcff")
    os.mkdir(place)
    path, at = damaged(place, "PRIORITY=0\n.qcow2")
    with listener(directory, "journal") as journal, \
            alone(directory, JOURNAL + MOUNT + READ + UNMOUNT, path, at):
        found = fields(journal.recv(1 << 20))
        for name, value in (("PRIORITY", "3"), ("QCOW2FS_IMAGE", path), ("QCOW2FS_MOUNT_POINT", at)):
            check_equal(found.get(name), value, name)
        check("cannot be read" in found["MESSAGE"], "MESSAGE is %r", found["MESSAGE"])


for what, prepare in (("no journal", ""), ("a journal that has ended", "touch journal\n" + JOURNAL)):
    @suite.test("where there is %s syslog is told" % what)
    def _(directory, prepare=prepare):
        path, at = damaged(directory)
        with listener(directory, "log") as syslog, \
                alone(directory, prepare + MOUNT + READ + UNMOUNT, path, at):
            told = syslog.recv(1 << 20).decode()
        check(told.startswith("<27>"), "facility and priority: %s", told)
        check(" qcow2fs[" in told and path in told and "cannot be read" in told, "it was told %s",
              told)


def served(directory, stream):
    """What a mount in the foreground says on standard error, and to the journal, of one damaged cluster."""
    path, at = damaged(directory)
    script = (JOURNAL + '"$QCOW2FS" -f --ready-fd=%d -o ro "$IMAGE" "$AT" &\nread line <&%d\n'
              + READ + UNMOUNT + "wait $!\n")
    reading, writing = os.pipe()
    ours, its = socket.socketpair()
    with ours, its, listener(directory, "journal") as journal:
        try:
            status = os.fstat(its.fileno())
            named = "%d:%d" % (status.st_dev, status.st_ino + (0 if stream == "its own" else 1))
            with alone(directory, script % (writing, reading), path, at, stderr=its,
                       pass_fds=[reading, writing], env={"JOURNAL_STREAM": named}) as process:
                check_equal(process.wait(tools.TIMEOUT), 0, "the status of the script")
        finally:
            os.close(reading)
            os.close(writing)
        its.close()
        said = b"".join(iter(lambda: ours.recv(1 << 16), b"")).decode()
        journal.setblocking(False)
        told = []
        with contextlib.suppress(BlockingIOError):
            while True:
                told.append(fields(journal.recv(1 << 20)))
    return path, at, said, told


@suite.test("a service whose standard error is the journal tells it there, with fields, and once")
def _(directory):
    path, at, said, told = served(directory, "its own")
    check_equal(said, "", "standard error")
    check(told, "the journal was told nothing")
    for message in told:
        check_fields(message, path, at)


@suite.test("a program whose standard error is not that of the service writes there")
def _(directory):
    path, _at, said, told = served(directory, "another's")
    check("qcow2fs: %s" % path in said and "cannot be read" in said, "standard error has %r", said)
    check_equal(told, [], "what the journal was told")


def has_journald():
    missing = tools.tool("journalctl")()
    if missing is not None:
        return missing
    return None if os.access(JOURNALD, os.X_OK) else "no %s here" % JOURNALD


CONFIGURATION = "[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=\nForwardToWall=no\n"
REAL = """
mkdir -p /run/log/journal
mount --bind configuration /etc/systemd/journald.conf
%s & journald=$!
until [ -S /run/systemd/journal/socket ] && [ -S /run/systemd/journal/io.systemd.journal ]; do
    kill -0 $journald
    sleep 0.05
done
""" % JOURNALD


@suite.test("journalctl finds by image and by mount point what a real journal was told",
            needs=[has_journald])
def _(directory):
    path, at = damaged(directory)
    with open(os.path.join(directory, "configuration"), "w", encoding="ascii") as file:
        file.write(CONFIGURATION)
    asked = "".join(
        'journalctl --quiet --no-pager --output=json %s >%s\n' % (shlex.quote(match), name)
        for name, match in (("by-image", "QCOW2FS_IMAGE=" + path),
                            ("by-place", "QCOW2FS_MOUNT_POINT=" + at),
                            ("by-name", "SYSLOG_IDENTIFIER=qcow2fs"),
                            ("by-other", "QCOW2FS_IMAGE=" + at)))
    with alone(directory, REAL + MOUNT + READ + UNMOUNT + "journalctl --sync\n" + asked +
               "kill $journald\nwait $journald\n", path, at):
        pass
    for name in ("by-image", "by-place", "by-name"):
        with open(os.path.join(directory, name), encoding="utf-8") as file:
            lines = file.read().splitlines()
        check(lines, "no messages %s", name)
        for line in lines:
            check_fields(json.loads(line), path, at)
    check_equal(os.path.getsize(os.path.join(directory, "by-other")), 0, "messages of another image")


if __name__ == "__main__":
    suite.main()
