# SPDX-License-Identifier: MIT
"""What `qcow2ctl check` and `qemu-img check` find in an image, compared."""

import collections
import json
import os

from . import ctl, tools
from .tap import check, check_equal

CLEAN, FAILED, ERRORS, LEAKS = 0, 1, 2, 3
COUNTS = ["check-errors", "corruptions", "leaks", "total-clusters", "allocated-clusters",
          "fragmented-clusters", "compressed-clusters", "image-end-offset"]

# status: of the program; found: its JSON, None where it printed none; said: standard error
Verdict = collections.namedtuple("Verdict", "status found said")

# A check of a small image takes a moment, but a repair waits for the host's disk, several times,
# and that may be busy with something else. Only a hang takes longer.
SECONDS = 120

# An oracle must not take the host with it, whatever a damaged image makes it do.
LIMITED = ["prlimit", "--as=4000000000", "--fsize=4000000000"]


def _verdict(done):
    try:
        found = json.loads(done.stdout)
    except ValueError:
        found = None
    return Verdict(done.returncode, found, done.stderr)


def of_qemu(path, *arguments, timeout=30):
    """What qemu-img check says; None where it takes too long."""
    try:
        return _verdict(tools.run(*LIMITED, "qemu-img", "check", "-f", "qcow2", "--output=json",
                                  *arguments, path, status=None, timeout=timeout))
    except tools.CommandFailed:
        return None


def _run(*arguments):
    """qcow2ctl check; one that does not end is told with what it did: all or nothing."""
    before = os.times().children_user
    try:
        return ctl.ctl("check", *arguments, status=None, seconds=SECONDS)
    except tools.CommandFailed as failed:
        spent = os.times().children_user - before
        raise tools.CommandFailed("%s\n%.1f seconds of processor time" % (failed, spent)) from None


def ours(path, *arguments):
    """What qcow2ctl check says: JSON of a known form, or one sentence."""
    found = _verdict(_run("--json", *arguments, path))
    check(found.status in (CLEAN, FAILED, ERRORS, LEAKS), "exit status %d: %s", found.status,
          found.said)
    if found.status == FAILED:
        check(found.said.count("\n") == 1 and "error" in json.loads(found.said),
              "not one sentence: %r", found.said)
    else:
        check_equal(found.said, "", "standard error")
        check(found.found is not None, "no JSON")
        check_equal(found.found["format"], "qcow2", "the format")
    return found


def all_findings(path):
    """Every line that qcow2ctl check has to say, also those that its JSON leaves out."""
    return _run("--verbose", path).stdout.split("\n")


def differences(theirs, mine):
    """The counts in which two verdicts with JSON differ: (key, theirs, ours)."""
    return [(key, theirs.found.get(key, 0), mine.found.get(key, 0)) for key in COUNTS
            if theirs.found.get(key, 0) != mine.found.get(key, 0)]


def check_same(path, what="the image"):
    """Fails unless both say the same of an image. Returns our verdict."""
    theirs, mine = of_qemu(path), ours(path)
    check_equal(mine.status, theirs.status, "the exit status for %s (%s)" % (what, mine.said))
    check_equal(differences(theirs, mine), [], "(key, theirs, ours) for %s" % what)
    check_equal({key for key in mine.found if not key.startswith("findings")},
                set(theirs.found), "the keys for %s" % what)
    return mine


def check_clean(path, what="the image"):
    """Fails unless both find nothing."""
    check_equal(check_same(path, what).status, CLEAN, "the verdict on %s" % what)
