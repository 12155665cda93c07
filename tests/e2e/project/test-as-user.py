#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Other test files, run by an ordinary user: each of them is a test of this one.

Run by root, who has all others run as himself. Without more it takes a few that are about the ends of a mount, its
permissions and its box; with QCOW2FS_AS_USER=all (tests/run --user) all that have a mount or a command
of qcow2ctl in them.
"""

import glob
import os
import shutil
import sys
import tempfile

from lib import as_user, run, tap, tools
from lib.tap import check, diagnose

E2E = as_user.E2E
FEW = ["mount/test-mount.py", "mount/test-sandbox.py", "mount/test-partitions-written.py",
       "write/test-snapshots-mounted.py"]
ROOMS = ["bad", "ctl", "mount", "read", "remote", "write"]
SECONDS = 3000  # for one of them

# Without root's rights there is less that can be tested. What else is missing root's run would miss, too.
REASONS = ("needs root",)

suite = tap.Suite(needs=[tools.root, tools.fuse, tools.QEMU, tools.tool("fusermount3", "mount")])


def chosen():
    if os.environ.get("QCOW2FS_AS_USER", "") != "all":
        return FEW
    found = [path for room in ROOMS for path in sorted(glob.glob(os.path.join(E2E, room, "test-*.py")))]
    return [os.path.relpath(path, E2E) for path in found
            if not os.path.basename(path).startswith("test-model-")]


def results(text):
    """How many passed, what was skipped, and what failed, each with what was said of it."""
    passed, skipped, failed, shows = 0, [], [], False
    for line in text.splitlines():
        if line.startswith(("ok ", "not ok ")):
            shows = line.startswith("not ok ")
            if shows:
                failed.append(line)
            elif " # SKIP " in line:
                skipped.append(line)
            else:
                passed += 1
        elif shows or line.startswith("Bail out!"):
            failed.append(line)
    return passed, skipped, failed


def runs(name):
    @suite.test("an ordinary user's %s" % name)
    def _(_directory):
        top = tempfile.mkdtemp(prefix="user-", dir=run.directory)
        run.watch_for(SECONDS)
        try:
            # What a user cannot do is skipped, in CI, too.
            done = tools.run(sys.executable, os.path.join(E2E, "lib", "as_user.py"), top, name,
                             status=None, timeout=SECONDS, env={"CI": ""})
        finally:
            shutil.rmtree(top, ignore_errors=True)
        passed, skipped, failed = results(done.stdout)
        for line in failed:
            diagnose(line)
        unexpected = [line for line in skipped if not line.endswith(REASONS)]
        check(done.returncode == 0 and not failed, "exit status %d\n%s", done.returncode, done.stderr)
        check(not unexpected, "skipped for another reason:\n%s", "\n".join(unexpected))
        check(passed or (skipped and name not in FEW), "nothing was tested")
        diagnose("%d passed, %d need root" % (passed, len(skipped)))


for each in chosen():
    runs(each)


if __name__ == "__main__":
    suite.main()
