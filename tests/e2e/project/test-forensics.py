#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The session of docs/forensics.md can be run as it stands there, and changes no evidence."""

import hashlib
import os
import random
import re
import shutil

from lib import bad, ctl, evidence, image, mount, qcow2, run, tap, tools
from lib.image import KiB, MiB
from lib.tap import check, check_equal

PAGE = os.path.join(os.environ.get("QCOW2FS_SRCDIR", run.SOURCE), "docs", "forensics.md")

suite = tap.Suite(needs=[tools.fuse, tools.QEMU])


def session():
    with open(PAGE, encoding="utf-8") as file:
        found = re.search(r"\*\*The session\.\*\*.*?\n\n((?:    [^\n]*\n|\n(?=    ))+)", file.read(),
                          re.DOTALL)
    check(found is not None, "the page shows no session")
    return re.sub("^    ", "", found.group(1), flags=re.MULTILINE)


def make_case(place):
    """The evidence, and the bytes of the disk in it."""
    path = image.create(os.path.join(place, "image.qcow2"), 8 * MiB, cluster_size="4k")
    secret = os.path.join(os.path.dirname(place), "secret")
    with open(secret, "wb") as file:
        file.write(b"SECRET-4711 " * 400)
    tools.run("qemu-io", "-f", "qcow2", "-c", "write -q -s %s 0 4096" % secret, path)
    image.io(path, image.write(64 * KiB, 7 * MiB, 1))
    tools.run("qemu-img", "snapshot", "-c", "gone", path)
    # Not discarded on the way: the host keeps what the snapshot had.
    tools.run("qemu-io", "-f", "qcow2", "-c", "write -q -P 7 0 4096", path)
    shutil.copyfile(path, path + ".before")
    with qcow2.Qcow2(path) as opened:  # the snapshot goes, as who does not discard removes it
        old = opened.l2_entry(0, opened.snapshot_field(0, "l1_table_offset"))
        opened["nb_snapshots"] = 0
    tools.run("qemu-img", "check", "-q", "-r", "all", path, status=None)
    with qcow2.Qcow2(path) as opened, open(path + ".before", "rb") as before:
        before.seek(old & qcow2.HOST_OFFSET_MASK)
        opened.write(old & qcow2.HOST_OFFSET_MASK, before.read(4096))
    os.unlink(path + ".before")
    disk = bad.contents(path)
    damaged = shutil.copyfile(path, os.path.join(place, "damaged.qcow2"))
    with qcow2.Qcow2(damaged) as opened:
        opened.write(0, random.Random(3).randbytes(20))
        opened["cluster_bits"] = opened["l1_table_offset"] = opened["l1_size"] = 0
    return disk


@suite.test("the session of docs/forensics.md finds what was deleted and what was damaged")
def _(directory):
    place = os.path.join(directory, "evidence")
    os.mkdir(place)
    digest = hashlib.sha256(make_case(place)).hexdigest()
    programs = os.path.join(directory, "bin")
    os.mkdir(programs)
    os.symlink(run.program(), os.path.join(programs, "qcow2fs"))
    os.symlink(ctl.program(), os.path.join(programs, "qcow2ctl"))
    try:
        with evidence.untouched(place):
            said = tools.run("sh", "-eu", "-c", session().replace("sha256sum evidence/", "true ")
                             .replace("sha256sum -c hashes", "true"), cwd=directory,
                             env={"PATH": programs + ":" + tools.PATH,
                                  run.MARK: run.directory}).stdout
    finally:
        at = os.path.join(directory, "case")
        if mount.is_mounted(at):
            run.unmount(at, lazy=True)
        bad.wait_gone(at)
    check_equal(said.count(digest), 2, "how often the digest of the disk is there: %s" % said)
    for word in ("SECRET-4711", "host-offset", "deduced", "accessed", "audit:"):
        check(word in said, "no %s in what it said: %s", word, said)
    with open(os.path.join(directory, "damaged.raw"), "rb") as file:
        check_equal(hashlib.sha256(file.read()).hexdigest(), digest, "the copy's digest")


if __name__ == "__main__":
    suite.main()
