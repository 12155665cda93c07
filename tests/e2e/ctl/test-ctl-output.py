#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Output that cannot be written: a status that is no answer, and a sentence that says what was done all the same."""

import functools
import json
import os
import shutil
import tempfile

from lib import bad, ctl, image, run, tap, tools
from lib.image import MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.QEMU])

# Words, the status, and what the sentence says that was done, with which file; None: nothing. All also with --json,
# but where that is said.
HUMAN, JSON = ("human",), ("json",)
BOTH = HUMAN + JSON
CASES = [
    (["create", "new.qcow2", "1M"], 1, "new.qcow2: is made", BOTH),
    (["convert", "a.qcow2", "new.qcow2"], 1, "new.qcow2: is made", JSON),
    (["commit", "top.qcow2"], 1, "top.qcow2: is committed", BOTH),
    (["rebase", "-u", "-b", "a.qcow2", "-F", "qcow2", "top.qcow2"], 1, "top.qcow2: is rebased", BOTH),
    (["amend", "-o", "lazy_refcounts=on", "a.qcow2"], 1, "a.qcow2: is amended", BOTH),
    (["resize", "a.qcow2", "+1M"], 1, "a.qcow2: is resized", BOTH),
    (["snapshot", "-c", "second", "a.qcow2"], 1, "a.qcow2: is changed", HUMAN),
    (["snapshot", "-d", "first", "a.qcow2"], 1, "a.qcow2: is changed", HUMAN),
    (["bitmap", "--add", "a.qcow2", "new"], 1, "a.qcow2: is changed", HUMAN),
    (["check", "--repair=leaks", "leaks.qcow2"], 1, "leaks.qcow2: is repaired", BOTH),
    (["check", "leaks.qcow2"], 1, None, BOTH),
    (["check", "a.qcow2"], 1, None, BOTH),
    (["info", "a.qcow2"], 1, None, BOTH),
    (["info", "--audit", "a.qcow2"], 1, None, BOTH),
    (["map", "a.qcow2"], 1, None, BOTH),
    (["map", "pieces.qcow2"], 1, None, BOTH),  # more than a buffer holds
    (["measure", "a.qcow2"], 1, None, BOTH),
    (["snapshot", "-l", "a.qcow2"], 1, None, BOTH),
    (["hash", "a.qcow2"], 1, None, BOTH),
    (["timeline", "a.qcow2"], 1, None, BOTH),
    (["salvage", "a.qcow2", "disk.raw"], 1, "disk.raw: is made", BOTH),
    (["list"], 1, None, JSON),
    (["compare", "a.qcow2", "a.qcow2"], 2, None, BOTH),
    (["compare", "a.qcow2", "pieces.qcow2"], 2, None, BOTH),
    (["diff", "a.qcow2", "a.qcow2"], 2, None, BOTH),
    (["diff", "a.qcow2", "pieces.qcow2"], 2, None, BOTH),
    (["--help"], 1, None, HUMAN),
    (["--version"], 1, None, HUMAN),
    (["convert", "--help"], 1, None, HUMAN),
    (["compare", "--help"], 2, None, HUMAN),
]


CLUSTER = 64 << 10


@functools.cache
def images():
    """A directory with the images of the cases, made once."""
    made = tempfile.mkdtemp(dir=run.directory)
    a, top, leaks, pieces = (os.path.join(made, name + ".qcow2") for name in ("a", "top", "leaks", "pieces"))
    for path in (a, leaks, pieces):
        image.create(path, 8 * MiB)
    tools.run("qemu-img", "snapshot", "-c", "first", a)
    image.create(top, 8 * MiB, backing="a.qcow2", backing_format="qcow2")
    with open(leaks, "r+b") as file:  # one cluster more is counted than is used
        free = -(-os.path.getsize(leaks) // CLUSTER)
        file.seek(2 * CLUSTER + 2 * free)
        file.write(b"\0\1")
        file.truncate((free + 1) * CLUSTER)
    image.io(pieces, *("write -q %d 64k" % at for at in range(0, 8 * MiB, 2 * CLUSTER)))
    return made


def run_full(words, directory):
    """With nowhere to write standard output to: (the status, what it said)."""
    with open("/dev/full", "wb") as full, open(os.path.join(directory, "said"), "w+b") as said:
        process = run.start([ctl.program(), *words], stdout=full, stderr=said, cwd=directory)
        status = process.wait(tools.TIMEOUT)
        said.seek(0)
        return status, said.read().decode()


for words, status, done, kinds in CASES:
    for kind in kinds:

        @suite.test("%s%s: %d" % (" ".join(words), " --json" if kind == "json" else "", status))
        def _(directory, words=words, status=status, done=done, kind=kind):
            shutil.copytree(images(), directory, dirs_exist_ok=True)
            got, said = run_full([words[0], "--json", *words[1:]] if kind == "json" else words, directory)
            check_equal(got, status, "the status (%s)" % said)
            said = said.splitlines(True)[-1]
            bad.check_sentence(said, "No space left on device", program="qcow2ctl")
            if kind == "json":
                check_equal((json.loads(said)["errno"], json.loads(said)["status"]), (28, status), "its numbers")
            check_equal("but that could not be printed" in said, done is not None, "that something was done (%s)" % said)
            check(done is None or done in said, "it says %s", said)
            for name in ("a.qcow2", "new.qcow2") if done is not None and "new" in done else ("a.qcow2",):
                tools.run("qemu-img", "check", "-q", os.path.join(directory, name))


if __name__ == "__main__":
    suite.main()
