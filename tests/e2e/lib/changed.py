# SPDX-License-Identifier: MIT
"""Commands of qcow2ctl that change an image, side by side with qemu-img, and cut off.

    ours, theirs = changed.twins(directory, make)    two images that are alike
    changed.facts(path)                              what qemu-img info says, but for times
    changed.cut_off(directory, make, command, judge) the command killed after every write
"""

import hashlib
import json
import os

from . import ctl, image, recorded, run, tools, write
from .tap import check, check_equal

STRACE = recorded.STRACE
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
    return _without_varying(image.info(path))


def facts_of_chain(path):
    """The same of the image and of all that is behind it, by one process."""
    return [_without_varying(each) for each in json.loads(tools.output(
        "qemu-img", "info", "--output=json", "--backing-chain", path))]


def _without_varying(found):
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


def _some_of(states, most=32):
    """Each state; and not all any more, the more there are."""
    skip = 0
    for count, state in enumerate(states):
        if skip > 0:
            skip -= 1
            continue
        yield state
        skip = max(0, count - most) // 4


def _digest(files):
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(b"%s %d " % (path.encode(), len(files[path])))
        digest.update(files[path])
    return digest.digest()


def cut_off(directory, make, command, judge, power_cuts=0):
    """Kills command(path), arguments of qcow2ctl, after each of its writes, truncations and syncs.

    make(directory) makes the image, and what it needs beside it. Each time judge(path) must be content
    with what is left, qemu-img check finds no error, and a second run succeeds, after which
    judge(path, done=True) is asked. So it is, but for the second run, where the power is cut: for each
    stretch between two syncs, in so many states. What was left once before is not judged again.
    """
    place = os.path.join(directory, "cut")
    os.makedirs(place)
    path = make(place)
    recording = recorded.record(place, command(path))
    check(recording.calls, "it has written nothing")
    seen = set()

    def is_new(files):
        known = len(seen)
        seen.add(_digest(files))
        if len(seen) > known:
            recorded.put(files, place)
        return len(seen) > known

    write.check_clean(path)
    judge(path, done=True)
    for files in _some_of(recording.kills()):
        if is_new(files):
            write.check_clean(path, leaks=True)
            judge(path)
            ctl.ctl(*command(path))
            write.check_clean(path, leaks=True)
            judge(path, done=True)
    for files in recording.power_cuts(1, power_cuts):
        if is_new(files):
            write.check_clean(path, leaks=True)
            judge(path)
