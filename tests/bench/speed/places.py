# SPDX-License-Identifier: MIT
"""Where the images of a run lie.

On tmpfs everything costs processor time alone, and every target pays the same for it; how much a
sync costs shows only on a disk.
"""

import atexit
import os
import shutil
import tempfile

from lib import run, tools


class Places:
    """`memory` and `disk` are directories of this run, gone when it ends."""

    def __init__(self, disk):
        run.TEMPORARY = os.path.abspath(disk)
        run.begin()
        self.disk = os.path.join(run.directory, "disk")
        self.mounts = os.path.join(run.directory, "mounts")
        os.mkdir(self.disk)
        os.mkdir(self.mounts)
        self.memory = self._make_memory()

    def _make_memory(self):
        """A tmpfs of our own for root; for others the one that everybody has."""
        if os.geteuid() == 0:
            place = os.path.join(run.directory, "memory")
            os.mkdir(place)
            tools.run("mount", "-t", "tmpfs", "-o", "size=90%,mode=700", "qcow2fs-bench", place)
            return place
        place = tempfile.mkdtemp(prefix="qcow2fs-bench-", dir="/dev/shm")
        atexit.register(shutil.rmtree, place, ignore_errors=True)
        return place

    def new(self, where, prefix):
        """A new directory in `where`, "memory" or "disk"."""
        return tempfile.mkdtemp(prefix=prefix + "-", dir=getattr(self, where))

    def mount_point(self, size=None):
        """A new directory, or a file, to mount over."""
        place = tempfile.mkdtemp(prefix="at-", dir=self.mounts)
        if size is None:
            return place
        path = os.path.join(place, "disk.raw")
        with open(path, "wb"):
            pass
        return path

    def close(self):
        shutil.rmtree(self.memory if os.geteuid() else os.path.join(self.memory, "."),
                      ignore_errors=True)
        if os.geteuid() == 0:
            _ = run.unmount(self.memory) or run.unmount(self.memory, lazy=True)
