# SPDX-License-Identifier: MIT
"""The file-system images that most tests read, and the manifests of their files.

Each is an ext4 file system made once from a directory tree (parts of /usr, sparse
files, pseudo-random bytes), kept in $QCOW2FS_TMP/fixtures for every test file that
follows; a lock makes parallel test files build it once.
"""

import collections
import contextlib
import fcntl
import hashlib
import json
import os
import random
import shutil
import stat

from . import run, tools
from .image import MiB
from .tap import check, check_equal

FORMAT = 1  # to be raised when what is built changes

# image: bytes of the raw image; data and files: what it holds at least
Size = collections.namedtuple("Size", "image data files random sparse")
LARGE = Size(600 * MiB, 300 * MiB, 3000, 12 * MiB, 4)
SMALL = Size(48 * MiB, 16 * MiB, 300, 2 * MiB, 2)

SOURCES = ("/usr/share/doc", "/usr/lib/python3", "/usr/include", "/usr/share/perl",
           "/usr/lib/python3.11", "/usr/lib/gcc", "/usr/lib/x86_64-linux-gnu", "/usr/lib",
           "/usr/share", "/usr/bin")
FROM_ONE_SOURCE = 1500  # files
LONGEST = 24 * MiB      # of one file, bytes

Source = collections.namedtuple("Source", "raw manifest size")


# --- building -------------------------------------------------------------------------


class _Builder:
    """Fills a directory, and writes down what it holds."""

    def __init__(self, top, size):
        self.top, self.size = top, size
        self.files, self.links = {}, {}
        self.bytes = 0

    def file(self, name, pieces, length):
        """A file of `length` bytes: pieces are (offset, bytes), the rest is a hole."""
        path = os.path.join(self.top, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as out:
            out.truncate(length)
            for offset, data in pieces:
                out.seek(offset)
                out.write(data)
                self.bytes += len(data)
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            for data in iter(lambda: file.read(MiB), b""):
                digest.update(data)
        self.files[name] = [length, digest.hexdigest()]

    def copy(self, path, most):
        name = path.lstrip("/")
        with contextlib.suppress(OSError):
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                target = os.readlink(path)
                os.makedirs(os.path.dirname(os.path.join(self.top, name)), exist_ok=True)
                os.symlink(target, os.path.join(self.top, name))
                self.links[name] = target
            elif stat.S_ISREG(status.st_mode) and status.st_size <= most:
                with open(path, "rb") as file:
                    data = file.read()
                self.file(name, [(0, data)] if data else [], len(data))

    def full(self):
        return self.bytes >= self.size.data and len(self.files) >= self.size.files

    def copy_source(self, top):
        """Copies from one directory, as much as is still wanted; many small files at first."""
        taken = len(self.files)
        for directory, subdirectories, names in os.walk(top):
            subdirectories.sort()
            for name in sorted(names):
                path = os.path.join(directory, name)
                if self.full() or len(self.files) - taken >= FROM_ONE_SOURCE:
                    return
                if path.lstrip("/") not in self.files and path.lstrip("/") not in self.links:
                    self.copy(path, min(LONGEST, self.size.data // 4))

    def make(self):
        generator = random.Random(20)
        for number in range(4):
            length = self.size.random // 4 + number
            self.file("made/random-%d" % number, [(0, generator.randbytes(length))], length)
        for number in range(self.size.sparse):
            pieces = [(generator.randrange(0, 16 * MiB), generator.randbytes(5000))
                      for _ in range(8)]
            self.file("made/sparse-%d" % number, pieces, 17 * MiB + number)
        self.file("made/empty", [], 0)
        for top in SOURCES:
            if not self.full() and os.path.isdir(top):
                self.copy_source(top)
        number = 0
        while not self.full():  # a host with a small /usr
            length = max(1000, self.size.data // self.size.files)
            data = generator.randbytes(length // 2) + b"qcow2fs " * (length // 16)
            self.file("made/filler/%d/%d" % (number // 100, number), [(0, data)], len(data))
            number += 1


def _build(size, top):
    staging = os.path.join(top, "tree")
    os.makedirs(staging)
    builder = _Builder(staging, size)
    builder.make()
    raw = os.path.join(top, "source.raw")
    identity = "6c1e7c9e-5a0c-4b67-9f0e-716332667301"
    tools.run("mke2fs", "-q", "-t", "ext4", "-d", staging, "-U", identity, "-L", "qcow2fs",
              "-E", "hash_seed=%s,root_owner=0:0,lazy_itable_init=0" % identity,
              "-J", "size=4", "-m", "0", "-N", str(3 * size.files + 3000), raw,
              "%dk" % (size.image // 1024), timeout=300, env={"E2FSPROGS_FAKE_TIME": "1700000000"})
    tools.run("e2fsck", "-fn", raw, timeout=300)
    shutil.rmtree(staging)
    with open(os.path.join(top, "manifest.json"), "w", encoding="ascii") as file:
        json.dump({"files": builder.files, "links": builder.links}, file)


@contextlib.contextmanager
def locked(path):
    """Holds the lock file at `path`, against other test files."""
    with open(path, "a", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def source(size=LARGE):
    """The raw ext4 image of that size, built when it is not there yet. Never to be changed."""
    fixtures = os.path.join(run.TEMPORARY, "fixtures")
    os.makedirs(fixtures, exist_ok=True)
    name = "ext4-%dM-%d-%s" % (size.image // MiB, FORMAT,
                               hashlib.sha256(repr((size, SOURCES)).encode()).hexdigest()[:8])
    top = os.path.join(fixtures, name)
    with locked(os.path.join(fixtures, "lock")):
        if not os.path.isdir(top):
            building = top + ".building"
            shutil.rmtree(building, ignore_errors=True)
            os.makedirs(building)
            try:
                _build(size, building)
                os.rename(building, top)
            finally:
                shutil.rmtree(building, ignore_errors=True)
    return Source(os.path.join(top, "source.raw"), os.path.join(top, "manifest.json"), size.image)


# --- checking -------------------------------------------------------------------------


def _names(top):
    """The relative names of all files and of all symbolic links below a directory."""
    files, links = set(), set()
    for directory, subdirectories, names in os.walk(top):
        for name in names + subdirectories:
            path = os.path.join(directory, name)
            if os.path.islink(path):
                links.add(os.path.relpath(path, top))
            elif name in names:
                files.add(os.path.relpath(path, top))
    return files, links


def _digest(path, buffer):
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        with memoryview(buffer) as view:
            for length in iter(lambda: file.readinto(view), 0):
                digest.update(view[:length])
    return digest.hexdigest()


def check_tree(top, manifest):
    """Fails unless the directory holds what the manifest says; returns the number of files."""
    with open(manifest, encoding="ascii") as file:
        wanted = json.load(file)
    files, links = _names(top)
    check_equal(sorted(files ^ set(wanted["files"])), [], "files too many or missing")
    check_equal(sorted(links ^ set(wanted["links"])), [], "links too many or missing")
    for name, target in wanted["links"].items():
        check_equal(os.readlink(os.path.join(top, name)), target, "target of %s" % name)
    buffer = bytearray(MiB)
    wrong = []
    for name, (length, digest) in wanted["files"].items():
        path = os.path.join(top, name)
        if os.path.getsize(path) != length or _digest(path, buffer) != digest:
            wrong.append(name)
    check(not wrong, "%d of %d files are not what they were, the first: %s",
          len(wrong), len(wanted["files"]), wrong[:5])
    return len(wanted["files"])
