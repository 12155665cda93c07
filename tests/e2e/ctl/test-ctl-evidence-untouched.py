#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What qcow2ctl is asked of evidence leaves no trace on it: no byte and no time; or it is told."""

import os
import shutil

from lib import bad, ctl, encrypted, evidence, image, qcow2, tap, tools
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.QEMU, encrypted.library])
TOLD = "its time of access"


def make(place):
    """A chain with a raw file at its end, an image with a data file, and one without a header."""
    os.mkdir(place)
    base, path, other, damaged = (os.path.join(place, name) for name in ("base", "top", "other",
                                                                         "damaged"))
    image.sparse_raw(base, 3 * MiB + 700)
    image.create(path, 5 * MiB, backing="base", backing_format="raw")
    image.io(path, image.write(2 * MiB, 200 * KiB, 1))
    tools.run("qemu-img", "snapshot", "-c", "one", path)
    image.io(path, image.write(3 * MiB, 200 * KiB, 2))
    image.create(other, 4 * MiB, data_file=os.path.join(place, "data"))
    image.io(other, image.write(MiB, 200 * KiB, 3))
    shutil.copyfile(path, damaged)
    with qcow2.Qcow2(damaged) as opened:
        opened.write(0, bytes(104))
    return path, other, damaged


def commands(place, target):
    path, other, damaged = (os.path.join(place, name) for name in ("top", "other", "damaged"))
    return (("hash", path), ("hash", "--json", "--piecewise=1M", "-j", "3", other),
            ("hash", "-f", "raw", damaged), ("timeline", path), ("timeline", "--body", other),
            ("info", "--audit", path), ("info", "--audit", "--json", other),
            ("diff", path + "@one", path), ("diff", "--json", path, other),
            ("salvage", damaged, target), ("salvage", "--json", other, target))


def run(target, *arguments, **keywords):
    """What is told on standard error."""
    done = bad.start_and_end(*arguments, **dict({"program": ctl.program()}, **keywords))
    check(done.returncode in ((0, 1) if arguments[0] == "diff" else (0,)), "%s: status %d: %s",
          arguments, done.returncode, done.stderr)
    if os.path.exists(target):
        os.unlink(target)
    return done.stderr


@suite.test("hash, timeline, info --audit, diff and salvage change no byte and no time of all files")
def _(directory):
    place = os.path.join(directory, "evidence")
    make(place)
    target = os.path.join(directory, "target")
    for sandbox in ("on", "off", "strict"):
        with evidence.untouched(place):
            for command, *others in commands(place, target):
                said = run(target, command, "--sandbox=" + sandbox, *others)
                check(TOLD not in said, "%s says to who owns it: %s", command, said)


@suite.test("who does not own it is told once that times of access may change, and nothing else does",
            needs=[tools.root, tools.tool("setpriv")])
def _(_directory):
    with bad.public_directory() as public:
        program = os.path.join(public.path, "qcow2ctl")
        shutil.copy2(ctl.program(), program)
        place, out = (os.path.join(public.path, name) for name in ("evidence", "out"))
        make(place)
        os.mkdir(out)
        os.chmod(out, 0o777)
        for name in os.listdir(place):
            os.chmod(os.path.join(place, name), 0o644)
        before = {name: os.stat(os.path.join(place, name)) for name in os.listdir(place)}
        target = os.path.join(out, "target")
        for arguments in commands(place, target):
            said = run(target, *arguments, user=bad.NOBODY, program=program)
            images = 2 if arguments[:2] == ("diff", "--json") else 1
            check_equal(said.count(TOLD), images, "how often %s tells it: %s" % (arguments, said))
        for name, was in before.items():
            now = os.stat(os.path.join(place, name))
            check_equal((now.st_mtime_ns, now.st_ctime_ns, now.st_size),
                        (was.st_mtime_ns, was.st_ctime_ns, was.st_size), "the times of " + name)


if __name__ == "__main__":
    suite.main()
