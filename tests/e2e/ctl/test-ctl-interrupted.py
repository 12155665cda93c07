#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""qcow2ctl interrupted in the last moment: its status tells what there is."""

import json
import os
import shutil
import signal

from lib import ctl, image, tap, tools
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.QEMU, tools.tool("strace")])

OLDER = b"older"


def signalled_at(call, which, *arguments, cwd):
    """qcow2ctl, which gets SIGTERM with its call of that name and number; what came of it."""
    # Killed by a signal, strace reports the same of itself.
    return tools.run("strace", "-f", "-o", "/dev/null", "-e", "trace=" + call, "-e",
                     "inject=%s:signal=TERM:when=%d" % (call, which), ctl.program(), *arguments,
                     status=None, cwd=cwd)


def source(directory):
    path = image.create(os.path.join(directory, "source"), 4 * MiB)
    image.io(path, image.write(0, 300 * KiB, seed=1))
    return path


def count_of(call, *arguments, cwd):
    """How often it calls that."""
    log = os.path.join(cwd, "log")
    tools.run("strace", "-f", "-o", log, "-e", "trace=" + call, ctl.program(), *arguments, cwd=cwd)
    with open(log) as file:
        count = sum(" %s(" % call in line for line in file)
    os.unlink(log)
    check(count > 0, "no %s", call)
    return count


# What makes TARGET, of `source`, and also in the place of an older file.
MAKERS = (("convert", "-O", "raw", "source", "target"), ("convert", "source", "target"),
          ("convert", "-c", "source", "target"), ("create", "--force", "target", "1M"))


@suite.test("a signal before the new file has its name leaves none, and an older one as it was")
def _(directory):
    source(directory)
    target = os.path.join(directory, "target")
    for arguments in MAKERS:
        last = count_of("fdatasync", *arguments, cwd=directory)
        os.unlink(target)
        done = signalled_at("fdatasync", last, *arguments, cwd=directory)
        check_equal(done.returncode, -signal.SIGTERM, "how %s ended" % (arguments,))
        check_equal(os.listdir(directory), ["source"], "what is there")
        with open(target, "wb") as file:
            file.write(OLDER)
        done = signalled_at("fdatasync", last, *arguments, cwd=directory)
        check_equal(done.returncode, -signal.SIGTERM, "how %s ended" % (arguments,))
        check_equal(sorted(os.listdir(directory)), ["source", "target"], "what is there")
        with open(target, "rb") as file:
            check_equal(file.read(), OLDER, "what the file holds")
        os.unlink(target)


@suite.test("a signal with the name, or behind it, is too late, and the status says that all is done")
def _(directory):
    path = source(directory)
    target = os.path.join(directory, "target")
    for arguments in MAKERS:
        for call in ("linkat", "rename", "fsync"):
            if call == "rename":
                with open(target, "wb") as file:
                    file.write(OLDER)
            done = signalled_at(call, 1, *arguments, cwd=directory)
            check_equal(done.returncode, 0, "how %s ended" % (arguments,))
            if arguments[0] == "convert":
                ctl.ctl("compare", path, target)
            else:
                ctl.ctl("check", target)
            os.unlink(target)
    check_equal(os.listdir(directory), ["source"], "what is there")


@suite.test("a disk that is all copied is salvaged, whatever signal comes then")
def _(directory):
    path = source(directory)
    for flags in ([], ["--map=map"], ["--json"]):
        done = signalled_at("fsync", 1, "salvage", *flags, "source", "target", cwd=directory)
        check_equal(done.returncode, 0, "how it ended")
        check("virtual-size" in done.stdout, "said: %s", done.stdout)
        ctl.ctl("compare", "-F", "raw", path, os.path.join(directory, "target"))
        os.unlink(os.path.join(directory, "target"))


@suite.test("interrupted before it has the new backing file's name rebase says so; behind that it is done")
def _(directory):
    path = source(directory)
    shutil.copyfile(path, os.path.join(directory, "other"))
    original = image.create(os.path.join(directory, "original"), 4 * MiB, backing="source",
                            backing_format="qcow2")
    image.io(original, image.write(MiB, 64 * KiB, seed=2))
    over = os.path.join(directory, "over")
    for flags in ([], ["-u"]):
        arguments = ("rebase", *flags, "-b", "other", "-F", "qcow2", "over")
        shutil.copyfile(original, over)
        last = count_of("fdatasync", *arguments, cwd=directory)
        statuses = set()
        for which in range(1, last + 1):
            shutil.copyfile(original, over)
            done = signalled_at("fdatasync", which, *arguments, cwd=directory)
            named = image.info(over)["backing-filename"]
            check(done.returncode in (0, -signal.SIGTERM), "it ended with %d", done.returncode)
            check_equal(named, "other" if done.returncode == 0 else "source",
                        "the backing file, after status %d" % done.returncode)
            statuses.add(done.returncode)
        check(0 in statuses, "a signal that comes with the last sync is too late")
        ctl.ctl("compare", original, over)


@suite.test("a signal after the last byte is too late for commit, which says what it did")
def _(directory):
    base = source(directory)
    over = image.create(os.path.join(directory, "over"), 4 * MiB, backing="source",
                        backing_format="qcow2")
    image.io(over, image.write(MiB, 64 * KiB, seed=2))
    raw = os.path.join(directory, "raw")
    ctl.ctl("convert", "-O", "raw", over, raw)
    originals = {path: shutil.copyfile(path, path + ".original") for path in (base, over)}
    last = count_of("fdatasync", "commit", "over", cwd=directory)
    for path, original in originals.items():
        shutil.copyfile(original, path)
    done = signalled_at("fdatasync", last, "commit", "--json", "over", cwd=directory)
    check_equal(done.returncode, 0, "how it ended")
    check(json.loads(done.stdout)["emptied"], "said: %s", done.stdout)
    for path in (base, over):
        ctl.ctl("compare", "-F", "raw", path, raw)


@suite.test("where its report cannot be written, salvage says that the file is made")
def _(directory):
    path = source(directory)
    target = os.path.join(directory, "target")
    for flags in ([], ["--json"]):
        done = tools.run("sh", "-c", 'exec "$@" >/dev/full', "sh", ctl.program(), "salvage", *flags,
                         path, target, status=1)
        check("target: is made, but that could not be printed" in done.stderr, "said: %s",
              done.stderr)
        ctl.ctl("compare", "-F", "raw", path, target)
        os.unlink(target)


if __name__ == "__main__":
    suite.main()
