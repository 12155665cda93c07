# SPDX-License-Identifier: MIT
"""Files of which nothing may change: not a byte, not a time, not even one of their directory."""

import contextlib
import os

from . import compare, image
from .tap import check_equal

HOUR = 3600 * 10 ** 9


class Evidence:
    """What all files in a directory, and the directory itself, are now."""

    def __init__(self, directory):
        self.directory = directory
        self._names = sorted(os.listdir(directory))
        image.settle(*(os.path.join(directory, name) for name in self._names))
        self._files = compare.Unchanged(*(os.path.join(directory, name) for name in self._names))
        # As with the files: a time of access that the next one who lists it would change.
        modified = os.stat(directory).st_mtime_ns
        os.utime(directory, ns=(modified - HOUR, modified))
        self._times = self._look()

    def _look(self):
        status = os.stat(self.directory)
        return {"atime": status.st_atime_ns, "mtime": status.st_mtime_ns,
                "ctime": status.st_ctime_ns, "links": status.st_nlink}

    def check(self):
        """Fails unless all is as it was."""
        check_equal(self._look(), self._times, "the directory of the evidence")
        self._files.check()
        handle = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOATIME)
        try:
            check_equal(sorted(os.listdir(handle)), self._names, "the names in it")
        finally:
            os.close(handle)


@contextlib.contextmanager
def untouched(directory):
    """Fails unless all is as it was, whatever the body did."""
    before = Evidence(directory)
    yield before
    before.check()
