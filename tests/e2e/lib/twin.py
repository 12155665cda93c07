# SPDX-License-Identifier: MIT
"""A disk that is written to through a mount, and a plain file to which the same is done.

    path = twin.plain(directory)               an image with data, zeros and a compressed cluster
    raw = twin.with_raw(path, directory)       what is in it now
    with Twin(mounted.disk, raw) as both: ...  both are changed
    twin.check_image(path, raw)                QEMU finds the same in the image, and it in order
"""

import contextlib
import errno
import os
import random

from . import image, tools, write
from .image import MiB
from .tap import check_equal

SIZE = 16 * MiB
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = \
    write.FALLOC_KEEP_SIZE, write.FALLOC_PUNCH_HOLE, write.FALLOC_ZERO_RANGE


@contextlib.contextmanager
def opened(path, flags=os.O_RDWR):
    """Fails where close(2) does, which may tell that something could not be written."""
    handle = os.open(path, flags)
    try:
        yield handle
    finally:
        try:
            os.close(handle)
        except OSError as error:  # the daemon was ended meanwhile
            if error.errno != errno.ENOTCONN:
                raise


def check_image(path, raw):
    """Fails unless qemu-img finds the image in order, and in it what is in the raw file."""
    tools.run("qemu-img", "check", "-q", path)
    tools.run("qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", path, raw)
    check_equal(image.info(path)["virtual-size"], os.path.getsize(raw), "the size of the disk")


def occupied(path):
    with opened(path, os.O_RDONLY) as handle:
        os.fsync(handle)
    return os.stat(path).st_blocks * 512


class Twin:
    """The raw disk under a mount, and a plain file to which the same is done."""

    def __init__(self, disk, raw):
        self._handles = [os.open(disk, os.O_RDWR), os.open(raw, os.O_RDWR)]

    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        for handle in self._handles:
            os.close(handle)

    def write(self, offset, data):
        for handle in self._handles:
            check_equal(os.pwrite(handle, data, offset), len(data), "what was written")

    def fallocate(self, mode, offset, length):
        for handle in self._handles:
            write.fallocate(handle, mode, offset, length)

    def truncate(self, size):
        for handle in self._handles:
            os.ftruncate(handle, size)

    def sync(self):
        os.fsync(self._handles[0])

    def scribble(self, size, seed, operations):
        generator = random.Random(seed)
        for _ in range(operations):
            offset = generator.randrange(size)
            length = min(size - offset, generator.choice([1, 511, 4096, 65536, 300000]))
            kind = generator.random()
            if kind < 0.7:
                self.write(offset, generator.randbytes(length))
            elif kind < 0.8:
                self.fallocate(PUNCH_HOLE | KEEP_SIZE, offset, length)
            elif kind < 0.9:
                self.fallocate(ZERO_RANGE | KEEP_SIZE, offset, length)
            else:
                self.sync()


def with_raw(path, directory):
    """What is in an image now, as a plain file beside it."""
    return image.to_raw(path, os.path.join(directory, "twin.raw"))


def plain(directory, **options):
    path = image.create(os.path.join(directory, "image.qcow2"), SIZE, **options)
    image.io(path, image.write(0, 3 * MiB, 1), "write -q -c -P 7 8M 64k", "write -q -z 9M 1M")
    return path
