#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The case of docs/forensics.md is solved by the session there, and no evidence changes."""

import hashlib
import os

from lib import casefile, encrypted, tap
from lib.tap import check, check_equal

suite = tap.Suite(needs=[*casefile.NEEDS, encrypted.library])


@suite.test("the session of docs/forensics.md solves its case and leaves the evidence as it was")
def _(directory):
    case = casefile.make(directory)
    digest = hashlib.sha256(case.disk).hexdigest()
    said = casefile.run_session(directory, "The session", case)
    check_equal(said.count(digest), 1, "how often the digest of the disk is there: %s" % said)
    for words in ("disk.raw: OK", "PLAN-7001", "SECRET-4711", "NESTED-815",
                  "removed-snapshot", "'before the raid' (id 1)", "nested-image", "made-by",
                  "host-offset", "deduced", "accessed", "4 MiB (4194304 bytes)"):
        check(words in said, "no %s in what it said: %s", words, said)
    with open(os.path.join(directory, "damaged.raw"), "rb") as file:
        check_equal(hashlib.sha256(file.read()).hexdigest(), digest, "the copy's digest")


@suite.test("what is to be found is hidden where the page says")
def _(directory):
    case = casefile.make(directory)
    check(case.files["plan.txt"] in case.disk, "the deleted file is not on the disk")
    for name in ("secret.txt", "photo.png"):
        check(case.files[name][:200] not in case.disk, "%s is on the disk", name)
        with open(os.path.join(case.place, "image.qcow2"), "rb") as file:
            check(case.files[name][:200] in file.read(), "%s is not in the image", name)


if __name__ == "__main__":
    suite.main()
