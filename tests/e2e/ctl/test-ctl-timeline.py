#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""qcow2ctl timeline: what an image says about time, and that asking leaves none."""

import json
import os

from lib import bad, ctl, evidence, image, qcow2, tap, tools
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.QEMU])
SECOND = 10 ** 9


def told(path, *arguments):
    return json.loads(ctl.ctl("timeline", "--json", *arguments, path).stdout)


@suite.test("snapshots, starts of the machine and times of files are in order, and nothing changes")
def _(directory):
    path = bad.sample("snapshots", directory)
    with qcow2.Qcow2(path) as opened:
        opened.set_snapshot_field(0, "date_sec", 1000000000)
        opened.set_snapshot_field(0, "date_nsec", 500)
        opened.set_snapshot_field(0, "vm_clock_nsec", 3600 * SECOND + 501)
        opened.set_snapshot_field(1, "date_sec", 900000000)
        opened.set_snapshot_field(1, "vm_clock_nsec", 0)
        opened.set_snapshot_field(2, "date_sec", 0)
    os.utime(path, ns=(10 ** 18 + 7, 2 * 10 ** 18))
    with evidence.untouched(directory):
        events = told(path)
        ctl.ctl("timeline", path)
        ctl.ctl("timeline", "--body", path)
    found = [(event["event"], event.get("name"), event.get("time")) for event in events]
    timed = [event for event in found if event[0] in ("snapshot", "machine-started")]
    check_equal(timed, [
        ("snapshot", "second", "1998-07-09T16:00:00.%09dZ" % events_nsec(events, "second")),
        ("machine-started", "first", "2001-09-09T00:46:39.999999999Z"),
        ("snapshot", "first", "2001-09-09T01:46:40.000000500Z"),
        ("snapshot", "third", None)], "the snapshots")
    times = [(event["seconds"], event["nanoseconds"]) for event in events if "time" in event]
    check_equal(times, sorted(times), "the order")
    check_equal(sorted(event["event"] for event in events if "name" not in event),
                ["accessed", "changed", "modified"], "the times of the file")


def events_nsec(events, name):
    return [event["nanoseconds"] for event in events if event.get("name") == name][0]


@suite.test("the body has the eleven fields of mactime, whatever the names are")
def _(directory):
    path = bad.sample("snapshots", directory)
    with qcow2.Qcow2(path) as opened:
        snapshot = opened.snapshots()[0]
        names = snapshot.position + snapshot.length - 8
        opened.set_snapshot_field(0, "date_sec", 1234567890)
        at = opened.read(snapshot.position, snapshot.length).index(b"first")
        opened.write(snapshot.position + at, b"a|b\n\x1b")
        check(names > 0, "a place")
    lines = ctl.ctl("timeline", "--body", path).stdout.splitlines()
    check_equal(len(lines), 1 + 3 + sum("started" in line for line in lines), "the lines")
    for line in lines:
        fields = line.split("|")
        check_equal(len(fields), 11, "the fields of %r" % line)
        check(all(field.isdigit() for field in fields[6:] + fields[4:6]), "no numbers: %r", line)
        check("\x1b" not in line, "an escape: %r", line)
    status = os.stat(path)
    check_equal(lines[0].split("|")[2:11],
                [str(status.st_ino), "r/r" + "rw-r--r--", str(status.st_uid), str(status.st_gid),
                 str(status.st_size), str(int(status.st_atime)), str(int(status.st_mtime)),
                 str(int(status.st_ctime)), "0"], "the file's line")
    check("1234567890" in ctl.ctl("timeline", "--body", path).stdout, "no date of the snapshot")


@suite.test("mactime reads the body, and has the times in its own order",
            needs=[tools.tool("mactime")])
def _(directory):
    path = bad.sample("snapshots", directory)
    with qcow2.Qcow2(path) as opened:
        opened.set_snapshot_field(0, "date_sec", 1000000000)
        opened.set_snapshot_field(0, "vm_clock_nsec", 3600 * SECOND)
        opened.set_snapshot_field(1, "date_sec", 1100000000)
        at = opened.read(opened.snapshots()[1].position, 200).index(b"second")
        opened.write(opened.snapshots()[1].position + at, b"|\x1b%1Bx")
    os.utime(path, (1200000000, 1200000000))
    body = os.path.join(directory, "body")
    with open(body, "w", encoding="utf-8") as file:
        file.write(ctl.ctl("timeline", "--body", path).stdout)
    lines = tools.output("mactime", "-b", body, "-d", "-y", "-z", "UTC").splitlines()
    found = [(line.split(",")[0], line.split(",")[2], line.rsplit(",", 1)[1]) for line in lines]
    for entry in (("2001-09-09T00:46:40Z", "...b",
                   '"%s (machine started before snapshot first)"' % path),
                  ("2001-09-09T01:46:40Z", "...b", '"%s (snapshot first)"' % path),
                  ("2004-11-09T11:33:20Z", "...b", '"%s (snapshot |?%%1Bx)"' % path),
                  ("2008-01-10T21:20:00Z", "ma..", '"%s"' % path)):
        check(entry in found, "no %s in %s", entry, found)


@suite.test("bitmaps are told by name, and files behind the image too")
def _(directory):
    path = bad.sample("bitmaps", directory)
    check(any(event["event"] == "bitmap" for event in told(path)), "no bitmap")
    base = image.create(os.path.join(directory, "base.qcow2"), 1 << 20)
    over = image.create(os.path.join(directory, "over.qcow2"), 1 << 20, backing="base.qcow2",
                        backing_format="qcow2")
    check_equal({event["file"] for event in told(over)}, {base, over}, "the files")
    ctl.refused("timeline", "--body", "--json", over, words=["--body"])


if __name__ == "__main__":
    suite.main()
