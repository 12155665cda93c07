# SPDX-License-Identifier: MIT
"""Disks with partitions, and their files under a mount."""

import contextlib
import errno
import os
import re
import struct

from . import image, mount, tools
from .image import MiB
from .tap import check, check_equal

SIZE = 64 * MiB
KEYS = ["by-label", "by-partlabel", "by-partuuid", "by-type", "by-uuid"]
TWO = "label: gpt\nstart=1MiB,size=20MiB,name=one\nstart=24MiB,size=20MiB,name=two\n"
LINUX = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"


def stamped(path, size=SIZE):
    """A raw disk that tells at each MiB, and a sector before, where that is."""
    with open(path, "wb") as file:
        file.truncate(size)
        for at in range(MiB, size, MiB):
            file.seek(at - 512)
            file.write(struct.pack(">Q", at - 512) * 64 + struct.pack(">Q", at) * 64)
    return path


def partitioned(directory, script=TWO, name="parts", size=SIZE, **options):
    raw = stamped(os.path.join(directory, name + ".raw"), size)
    tools.run("sfdisk", "-q", "--no-tell-kernel", "--wipe=never", raw, input=script)
    path = os.path.join(directory, name + ".qcow2")
    image.convert(raw, path, **options)
    return path


@contextlib.contextmanager
def mounted(path, *options, writable=True, **keywords):
    with mount.mount(path, *options, directory=True, writable=writable, **keywords) as found:
        found.parts = os.path.join(found.path, "partitions")
        yield found


@contextlib.contextmanager
def opened(path, flags=os.O_RDONLY):
    handle = os.open(path, flags)
    try:
        yield handle
    finally:
        os.close(handle)


def part(found, number):
    return os.path.join(found.parts, "%d.raw" % number)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def read_at(path, length, offset):
    with opened(path) as handle:
        return os.pread(handle, length, offset)


def write_at(path, data, offset):
    with opened(path, os.O_RDWR) as handle:
        check_equal(os.pwrite(handle, data, offset), len(data), "bytes written")
        os.fsync(handle)


def shown(found):
    """Number, start and size of each, as the files tell."""
    result = []
    for name in os.listdir(found.parts):
        if name not in KEYS:
            check(re.fullmatch(r"[1-9][0-9]*\.raw", name), "a name: %s", name)
            result.append(int(name[:-4]))
    check_equal(result, sorted(result), "the order of the numbers")
    return [(number, os.path.getsize(part(found, number))) for number in result]
