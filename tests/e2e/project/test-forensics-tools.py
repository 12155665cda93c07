#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The Sleuth Kit, PhotoRec, libewf and xmount read what evidence mounts show, and change nothing."""

import glob
import os

from lib import casefile, tap, tools
from lib.tap import check

TOOLS = tools.tool("mmls", "fls", "icat", "tsk_recover", "photorec", "ewfacquire", "ewfverify", "xmount")

suite = tap.Suite(needs=[*casefile.NEEDS, tools.root, TOOLS])


def read(path):
    with open(path, "rb") as file:
        return file.read()


@suite.test("the session with other tools finds deleted files, and leaves the evidence as it was")
def _(directory):
    case = casefile.make(directory)
    said = casefile.run_session(directory, "In the hands of other tools", case)
    for words in ("0000002048", "letter.txt", "vm.qcow2"):
        check(words in said, "no %s in what was said: %s", words, said)
    check(read(os.path.join(directory, "plan.txt")) == case.files["plan.txt"],
          "icat has another file than the deleted one")
    for name in ("letter.txt", "vm.qcow2"):
        check(os.path.exists(os.path.join(directory, "files", name)), "tsk_recover has no %s", name)
    recovered = [read(path) for path in glob.glob(os.path.join(directory, "files", "*lan.txt"))]
    check(case.files["plan.txt"] in recovered, "tsk_recover has not the deleted file")
    carved = [read(path) for path in
              glob.glob(os.path.join(directory, "carved", "found*", "*.png"))]
    check(case.files["photo.png"] in carved, "photorec has not the picture, but %d others: %s",
          len(carved), os.listdir(os.path.join(directory, "carved")))
    check(os.path.getsize(os.path.join(directory, "copy.E01")) > 0, "there is no copy")


if __name__ == "__main__":
    suite.main()
