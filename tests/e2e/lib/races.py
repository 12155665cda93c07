# SPDX-License-Identifier: MIT
"""The programs of tests/races, which see whether a write that was acknowledged can be lost.

QCOW2FS_RACES_SEED gives them another seed; QCOW2FS_LONG=1 has them run for hours; under a sanitizer
they run for less.
"""

import os
import subprocess

from . import run, tap, tools

LONG = os.environ.get("QCOW2FS_LONG") == "1"
SANITIZE = os.environ.get("QCOW2FS_SANITIZE", "no")
SANITIZED = SANITIZE not in ("", "no")
SEED = int(os.environ.get("QCOW2FS_RACES_SEED", "1"))
PROGRAMS = ("races", "races-bitmaps", "races-grow", "races-preallocate", "fsx", "mounted")


def program(name):
    """A built program, beside the one under test."""
    build = os.path.dirname(os.path.dirname(run.program()))
    return os.path.join(build, "tests", "races", name)


def built():
    """The need for them."""
    try:
        missing = [name for name in PROGRAMS if not os.access(program(name), os.X_OK)]
    except FileNotFoundError:
        return "nothing is built"
    return "%s is not built" % ", ".join(missing) if missing else None


def _diagnose(text):
    tap.diagnose(text if len(text) < 8000 else text[:4000] + "\n...\n" + text[-4000:])


def check_end(name, arguments, status, output, expected=0):
    """It ended as it should; what it said is shown, and how to repeat it."""
    if status == expected:
        tap.diagnose(output.strip().split("\n")[-1])
        return
    _diagnose(output)
    tap.check(False, "%s %s ended with status %d instead of %d", name, " ".join(arguments), status,
              expected)


def single(name, directory, *arguments, expected=0, seconds=None):
    """Runs one of them to its end; True where it ended with `expected`."""
    done = tools.run(program(name), *arguments, timeout=(seconds or 600) * 3 + 120, status=None,
                     env={"QCOW2FS_TMP": directory})
    check_end(name, arguments, done.returncode, done.stdout + done.stderr, expected)


def side_by_side(name, directory, *commands):
    """Several at once, each on a processor of its own as far as there are so many."""
    started = []
    try:
        for arguments in commands:
            output = open(os.path.join(directory, "output-%d" % len(started)), "w+",
                          encoding="utf-8", errors="backslashreplace")
            started.append((arguments, output, run.start(
                [program(name), *arguments], stdout=output, stderr=output,
                stdin=subprocess.DEVNULL, env={"QCOW2FS_TMP": directory})))
        for arguments, output, process in started:
            status = process.wait()
            output.seek(0)
            check_end(name, arguments, status, output.read())
    finally:
        for _, output, process in started:
            if process.poll() is None:
                process.kill()
                process.wait()
            output.close()
