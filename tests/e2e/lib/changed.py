# SPDX-License-Identifier: MIT
"""Commands of qcow2ctl that change an image, side by side with qemu-img, and cut off.

    ours, theirs = changed.twins(directory, make)    two images that are alike
    changed.facts(path)                              what qemu-img info says, but for times
    changed.cut_off(directory, make, command, judge) the command killed at every write
"""

import hashlib
import itertools
import os
import shutil

from . import ctl, image, run, tools, write
from .tap import check, check_equal

STRACE = tools.tool("strace")
_VARYING = ("filename", "actual-size", "full-backing-filename", "children")


def twins(directory, make):
    """make(directory) -> path, twice."""
    made = []
    for name in ("ours", "theirs"):
        place = os.path.join(directory, name)
        os.makedirs(place)
        made.append(make(place))
    return made


def facts(path):
    """What qemu-img info says of the image, without what two equal images differ in."""
    found = image.info(path)
    for name in _VARYING:
        found.pop(name, None)
    for snapshot in found.get("snapshots", ()):
        for name in ("date-sec", "date-nsec"):
            snapshot.pop(name)
    found.get("format-specific", {}).get("data", {}).pop("data-file", None)
    return found


def snapshots(path):
    return [each["name"] for each in image.info(path).get("snapshots", ())]


def digest(path):
    """What the disk and each snapshot show, as QEMU reads them."""
    raw = path + ".digest.raw"
    shown = {}
    for name in [None] + snapshots(path):
        which = [] if name is None else ["-l", "snapshot.name=" + name]
        tools.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", *which, path, raw)
        with open(raw, "rb") as file:
            shown[name] = file.read()
        os.unlink(raw)
    return shown


def check_shown(path, expected, but=None):
    """Fails unless disk (but where `but` says so) and snapshots show what is expected."""
    found = digest(path)
    check_equal(sorted(found, key=str), sorted(expected, key=str), "the snapshots")
    for name in expected:
        if name is not None or not but:
            check(found[name] == expected[name], "%s shows other bytes of %s than before", path,
                  "the disk" if name is None else "snapshot " + name)


def traced(call, number, arguments, cwd):
    """Runs qcow2ctl, killed at that call; whether it was."""
    log = os.path.join(run.directory, "strace.log")
    done = tools.run("strace", "-f", "-o", log, "-e", "trace=" + call, "-e",
                     "inject=%s:signal=KILL:when=%d" % (call, number), ctl.program(), *arguments,
                     status=None, cwd=cwd)
    with open(log, encoding="utf-8", errors="replace") as lines:
        killed = "+++ killed by SIGKILL" in lines.read()
    check(killed or done.returncode == 0, "not killed, and yet status %d: %s", done.returncode,
          done.stderr)
    return killed


def _numbers(most=24):
    """1, 2, 3 ... and further apart, the longer it takes."""
    number = 1
    for count in itertools.count():
        yield number
        number += 1 + max(0, count - most) // 4


def _bytes_of(place):
    """A digest of all files there, their names included."""
    digest = hashlib.sha256()
    for path in sorted(os.path.join(above, name) for above, _, names in os.walk(place)
                       for name in names):
        with open(path, "rb") as file:
            digest.update(b"%s %d " % (path.encode(), os.path.getsize(file.name)))
            for piece in iter(lambda: file.read(1 << 20), b""):  # pylint: disable=cell-var-from-loop
                digest.update(piece)
    return digest.digest()


def cut_off(directory, make, command, judge):
    """Kills command(path), arguments of qcow2ctl, at its writes, truncations and syncs, as long as it comes that far.

    make(directory) makes the image, and what it needs beside it. Each time judge(path) must be content
    with what is left, qemu-img check finds no error, and a second run succeeds, after which
    judge(path, done=True) is asked. What was left once before, to the byte, is not judged again.
    """
    seen = set()
    kept = os.path.join(directory, "kept")
    os.makedirs(kept)
    name = os.path.basename(make(kept))
    for call in ("pwrite64", "ftruncate", "fdatasync"):
        for number in _numbers():
            place = os.path.join(directory, "cut")
            shutil.copytree(kept, place)
            path = os.path.join(place, name)
            killed = traced(call, number, command(path), place)
            left = (killed, _bytes_of(place))
            if left not in seen:
                seen.add(left)
                write.check_clean(path, leaks=True)
                judge(path)
                ctl.ctl(*command(path))
                write.check_clean(path, leaks=killed)
                judge(path, done=True)
            shutil.rmtree(place)
            if not killed:
                break
    check(number > 1, "nothing was cut off")
