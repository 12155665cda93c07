# SPDX-License-Identifier: MIT
"""Tests and their TAP output.

    suite = tap.Suite(needs=[tools.fuse])

    @suite.test("a sentence that is true when the test passes")
    def _(directory):
        ...

Tests run in the order in which they were registered, each with a directory of its
own that is removed afterwards. An exception fails its test alone. Tests that share a
costly preparation form a group (see Group). `test-NAME.py WORD...` runs only those
with all the words in their sentence.
"""

import os
import shutil
import sys
import tempfile
import time
import traceback

from . import run

IN_CI = os.environ.get("CI") == "true"


class Skip(Exception):
    """The test cannot run here; the text says why."""


def diagnose(text):
    """Shows text as TAP diagnostics."""
    for line in str(text).rstrip("\n").split("\n"):
        print("# " + line.encode("utf-8", "backslashreplace").decode("utf-8"), flush=True)


def check(condition, text, *values):
    """Fails the test with the text unless the condition holds."""
    if not condition:
        raise AssertionError(text % values if values else text)


def check_equal(actual, expected, what):
    check(actual == expected, "%s is %r, expected %r", what, actual, expected)


class Group:
    """Tests that share one prepared state.

    `prepare(directory)` is a context manager; what it gives is handed to each of the
    tests. Those added with after() run when it has ended. That its end succeeds (the
    daemon ended with status 0, say) is a test too: `ending` is its sentence.
    """

    def __init__(self, name, prepare, ending, needs):
        self.name, self.prepare, self.ending, self.needs = name, prepare, ending, needs
        self.during, self.behind = [], []

    def test(self, sentence, function=None, needs=()):
        """Adds a test of the prepared state; usable as a decorator."""
        return self._add(self.during, sentence, function, needs)

    def after(self, sentence, function=None, needs=()):
        """Adds a test that runs when the prepared state is gone."""
        return self._add(self.behind, sentence, function, needs)

    def _add(self, where, sentence, function, needs):
        if function is None:
            return lambda decorated: self._add(where, sentence, decorated, needs)
        where.append((self._full(sentence), function, list(self.needs) + list(needs)))
        return function

    def _full(self, sentence):
        return "%s: %s" % (self.name, sentence) if self.name else sentence

    def lines(self):
        """(sentence, function, needs) of all tests, in order; function None: the ending."""
        ending = [(self._full(self.ending), None, list(self.needs))] if self.ending else []
        return self.during + ending + self.behind


class Suite:
    def __init__(self, needs=()):
        self.needs = list(needs)
        self.groups = []
        self.number = 0
        self.failed = 0

    def group(self, name, prepare, ending, needs=()):
        made = Group(name, prepare, ending, self.needs + list(needs))
        self.groups.append(made)
        return made

    def test(self, sentence, needs=()):
        """Decorates a test of its own: function(directory)."""
        def decorate(function):
            made = self.group("", _nothing_shared, None, needs)
            made.test(sentence, function)
            return function
        return decorate

    # --- reporting ------------------------------------------------------------

    def _report(self, good, sentence, directive=""):
        self.number += 1
        self.failed += not good
        print("%s %d - %s%s" % ("ok" if good else "not ok", self.number,
                                sentence.replace("#", "\\#"), directive), flush=True)

    def _skip(self, sentence, why):
        if IN_CI:
            self._report(False, sentence)
            diagnose("cannot be skipped in CI: %s" % why)
        else:
            self._report(True, sentence, " # SKIP %s" % why)

    def _attempt(self, sentence, function, *arguments):
        """Runs one test and reports it."""
        began = time.monotonic()
        run.watch_for(run.TEST_SECONDS)
        try:
            function(*arguments)
        except Skip as skip:
            self._skip(sentence, skip)
        except Exception:  # pylint: disable=broad-except
            self._report(False, sentence)
            diagnose(traceback.format_exc())
        else:
            self._report(True, sentence)
        finally:
            run.watch_for(0)
            if os.environ.get("QCOW2FS_TEST_TIMES"):
                diagnose("%.2f s" % (time.monotonic() - began))

    # --- running --------------------------------------------------------------

    def _run_group(self, group):
        lines = group.lines()
        missing = next((why for why in (need() for need in group.needs) if why), None)
        if missing is not None:
            for sentence, _function, _needs in lines:
                self._skip(sentence, missing)
            return
        directory = tempfile.mkdtemp(prefix="test-", dir=run.directory)
        try:
            self._run_prepared(group, lines, directory)
        finally:
            for left in run.clean_up(directory):
                diagnose("left behind, and cleaned up: %s" % left)
            shutil.rmtree(directory, ignore_errors=True)

    def _run_prepared(self, group, lines, directory):
        context = group.prepare(directory)
        run.watch_for(run.TEST_SECONDS)
        try:
            state = context.__enter__()
        except Exception as error:  # pylint: disable=broad-except
            told = traceback.format_exc()
            for sentence, _function, _needs in lines:
                if isinstance(error, Skip):
                    self._skip(sentence, error)
                else:
                    self._report(False, sentence)
                    diagnose(told or "could not be prepared, see above")
                    told = None
            return
        entered = True
        try:
            for sentence, function, needs in lines:
                if function is None:
                    entered = False
                    self._attempt(sentence, context.__exit__, None, None, None)
                    continue
                missing = next((why for why in (need() for need in needs) if why), None)
                if missing is not None:
                    self._skip(sentence, missing)
                else:
                    self._attempt(sentence, function, state)
        finally:
            if entered:
                context.__exit__(None, None, None)

    def main(self):
        """Runs all, and ends the program."""
        words = sys.argv[1:]
        chosen = [group for group in self.groups
                  if all(any(word in line[0] for line in group.lines()) for word in words)]
        print("1..%d" % sum(len(group.lines()) for group in chosen), flush=True)
        run.begin()
        try:
            diagnose("testing %s" % run.program())
            for group in chosen:
                self._run_group(group)
        except FileNotFoundError as error:
            print("Bail out! %s" % error, flush=True)
            sys.exit(99)
        except run.Interrupted as signal_name:
            print("Bail out! ended by %s" % signal_name, flush=True)
            sys.exit(1)
        sys.exit(1 if self.failed else 0)


class _nothing_shared:  # pylint: disable=invalid-name
    """Prepares nothing: the state is the directory itself."""

    def __init__(self, directory):
        self.directory = directory

    def __enter__(self):
        return self.directory

    def __exit__(self, *_exception):
        return None
