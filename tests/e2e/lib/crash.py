# SPDX-License-Identifier: MIT
"""The programs of tests/crash, which look at what crashes and faults can leave of an image.

QCOW2FS_CRASH_SEED gives all of them another seed; QCOW2FS_LONG=1 makes them look at all there is,
and at more than a million states; under a sanitizer they look at fewer.
"""

import os
import subprocess

from . import run, tap, tools

LONG = os.environ.get("QCOW2FS_LONG") == "1"
SANITIZE = os.environ.get("QCOW2FS_SANITIZE", "no")
SANITIZED = SANITIZE not in ("", "no")
SEED = int(os.environ.get("QCOW2FS_CRASH_SEED", "1"))

SEEDS = range(SEED, SEED + (5 if LONG else 1))
STATES = (5500 if LONG else 480) // (8 if SANITIZED else 1)  # of a workload, for each seed
STEP = (1 if LONG else 29) * (8 if SANITIZED else 1)  # every so many calls of a workload fail
TIMEOUT = 3000


def program(name):
    """A built program, beside the one under test."""
    build = os.path.dirname(os.path.dirname(run.program()))
    return os.path.join(build, "tests", "crash", name)


def built():
    """The need for them."""
    try:
        missing = [name for name in ("explore", "explore-r4", "faults")
                   if not os.access(program(name), os.X_OK)]
    except FileNotFoundError:
        return "nothing is built"
    return "%s is not built" % ", ".join(missing) if missing else None


def workloads(threads=None):
    """The names of all workloads; with threads=True or False, of those of several, or one."""
    if built():
        return ["any"]
    lines = subprocess.run([program("explore"), "list"], stdout=subprocess.PIPE, check=True,
                           encoding="utf-8").stdout.splitlines()
    words = [line.split() for line in lines]
    return [line[0] for line in words if threads is None or threads == (len(line) > 1)]


def _run(name, directory, status, *arguments):
    done = tools.run(program(name), *arguments, timeout=TIMEOUT, status=None,
                     env={"QCOW2FS_TMP": directory})
    last = done.stdout.strip().split("\n")[-1]
    if done.returncode != status:
        tap.diagnose(done.stdout[:6000])
        tap.diagnose(done.stderr[:6000])
    tap.check(done.returncode == status, "%s %s ended with status %d instead of %d: %s", name,
              " ".join(arguments), done.returncode, status, last)
    return last


def finds_nothing(name, directory, *arguments):
    tap.diagnose(_run(name, directory, 0, *arguments))


def finds_violations(name, directory, *arguments):
    """It must: something was broken for it to see."""
    tap.diagnose(_run(name, directory, 1, *arguments))
