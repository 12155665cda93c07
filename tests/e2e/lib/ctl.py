# SPDX-License-Identifier: MIT
"""Running qcow2ctl."""

import os

from . import bad, compare, run
from .tap import check_equal


def program():
    """The qcow2ctl under test: $QCOW2CTL, or the one beside the qcow2fs under test."""
    found = os.environ.get("QCOW2CTL") or os.path.join(os.path.dirname(run.program()), "qcow2ctl")
    if not os.access(found, os.X_OK):
        raise FileNotFoundError("%s is not there, or cannot be run" % found)
    return os.path.abspath(found)


def ctl(*arguments, status=0, user=None, cwd=None, env=None, seconds=bad.REFUSAL_SECONDS):
    """Runs qcow2ctl; what subprocess.run() gives, as text. `status` None stands for any."""
    done = bad.start_and_end(*arguments, user=user, cwd=cwd, env=env, seconds=seconds,
                             program=program())
    if status is not None:
        check_equal(done.returncode, status, "the exit status of qcow2ctl %s (%s)"
                    % (" ".join(map(str, arguments)), done.stderr.rstrip("\n")))
    return done


def refused(*arguments, words=(), status=1, unchanged=(), **keywords):
    """Fails unless qcow2ctl refuses with one sentence that holds the words, and the files are as
    before. Returns the sentence."""
    before = [compare.sha256(path) for path in unchanged]
    done = ctl(*arguments, status=status, **keywords)
    bad.check_sentence(done.stderr, *words, program="qcow2ctl")
    check_equal([compare.sha256(path) for path in unchanged], before, "the files, afterwards,")
    return done.stderr
