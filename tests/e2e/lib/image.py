# SPDX-License-Identifier: MIT
"""Making images with qemu-img and qemu-io, and asking what they say of an image."""

import collections
import fcntl
import json
import os
import random
import struct

from . import run, tools

KiB, MiB = 1 << 10, 1 << 20

# offset: on the host, None where qemu-img names none; depth: 0 is the active image
MapExtent = collections.namedtuple("MapExtent", "start length depth data offset")
Layer = collections.namedtuple("Layer", "path format data_path granularity")


# --- making ---------------------------------------------------------------------


def _options(options):
    return ["-o", ",".join("%s=%s" % (name, value) for name, value in options.items())] \
        if options else []


def create(path, size, backing=None, backing_format=None, **options):
    """Makes an empty qcow2 image; options are those of qemu-img's -o. Returns its path."""
    behind = [] if backing is None else ["-u", "-b", backing, "-F", backing_format]
    tools.run("qemu-img", "create", "-q", "-f", "qcow2", *behind, *_options(options), path,
              str(size))
    return path


def convert(source, path, *arguments, source_format="raw", **options):
    """Makes a qcow2 image with the contents of another. Returns its path."""
    tools.run("qemu-img", "convert", "-f", source_format, "-O", "qcow2", *arguments,
              *_options(options), source, path, timeout=300)
    return path


def io(path, *commands, image_format="qcow2", status=0):
    """Runs qemu-io commands on an image; discards free clusters."""
    arguments = []
    for command in commands:
        arguments += ["-c", command]
    return tools.run("qemu-io", "-f", image_format, "-d", "unmap", *arguments, path,
                     status=status)


_pattern_files = {}


def pattern_file(seed, length=MiB):
    """A file of pseudo-random bytes for `write -s`: no two sectors of it are equal."""
    if (seed, length) not in _pattern_files:
        path = os.path.join(run.directory, "pattern-%d-%d" % (seed, length))
        with open(path, "wb") as file:
            file.write(random.Random(seed).randbytes(length))
        _pattern_files[seed, length] = path
    return _pattern_files[seed, length]


def write(offset, length, seed):
    """The qemu-io command that writes pseudo-random bytes."""
    return "write -q -s %s %d %d" % (pattern_file(seed), offset, length)


def pattern(length, seed):
    """The bytes that write() writes."""
    with open(pattern_file(seed), "rb") as file:
        data = file.read()
    return (data * (length // len(data) + 1))[:length]


def scribble(path, size, seed, operations, cluster_size, compress=True):
    """Writes, zeroes, discards and compresses at pseudo-random places of an image."""
    generator = random.Random(seed)
    longest = min(size, max(4 * cluster_size, 256 * KiB))
    commands, compressing = [], []
    for _ in range(operations):
        length = generator.randint(1, longest // 512) * 512
        if generator.random() < 0.4:
            length = min(length, 16 * KiB)
        start = generator.randint(0, (size - length) // 512) * 512
        kind = generator.random()
        if kind < 0.40:
            commands.append(write(start, length, generator.randint(0, 7)))
        elif kind < 0.50:  # of any length, at any offset
            length = min(length, generator.randint(1, 3 * cluster_size))
            commands.append(write(min(start + generator.randint(0, 511), size - length), length,
                                  generator.randint(0, 7)))
        elif kind < 0.65:
            commands.append("write -q -z %d %d" % (start, length))
        elif kind < 0.75:
            commands.append("write -q -z -u %d %d" % (start, length))
        elif kind < 0.88 or not compress:
            commands.append("discard -q %d %d" % (start, length))
        else:
            start -= start % cluster_size
            length = min(cluster_size, size - start)
            compressing.append("write -q -c -P %d %d %d" % (generator.randint(1, 255), start,
                                                            length))
    # qemu-io refuses to compress into clusters that are allocated: so that comes first, and
    # some may fail.
    if compressing:
        done = io(path, *compressing, status=None)
        if set((done.stdout + done.stderr).splitlines()) - {"write failed: Input/output error"}:
            raise tools.CommandFailed("qemu-io on %s said:\n%s" % (path, done.stderr))
    io(path, *commands)


def sparse_raw(path, size, seed=1, pieces=12):
    """A raw file with holes and pseudo-random data. Returns its path."""
    generator = random.Random(seed)
    with open(path, "wb") as file:
        file.truncate(size)
        for _ in range(pieces):
            length = generator.randint(1, min(size // 4, 2 * MiB))
            file.seek(generator.randint(0, size - length))
            file.write(generator.randbytes(length))
    return path


def settle(*paths):
    """Gives the host the time to place what was written: st_blocks is final afterwards."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


# --- asking ---------------------------------------------------------------------


def info(path):
    return json.loads(tools.output("qemu-img", "info", "--output=json", path))


def layers(path, image_format="qcow2"):
    """The Layers of the chain, the active image first."""
    chain = json.loads(tools.output("qemu-img", "info", "-f", image_format, "--output=json",
                                    "--backing-chain", path))
    found = []
    for image in chain:
        specific = image.get("format-specific", {}).get("data", {})
        granularity = image.get("cluster-size", 512) // (32 if specific.get("extended-l2") else 1)
        data_path = specific.get("data-file")
        if data_path is not None:
            data_path = os.path.join(os.path.dirname(image["filename"]), data_path)
        found.append(Layer(image["filename"], image["format"], data_path or image["filename"],
                           granularity if image["format"] == "qcow2" else 512))
    return found


def to_raw(path, raw):
    """The oracle of contents: what qemu-img reads, as a raw file. Returns its path."""
    tools.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, raw, timeout=300)
    return raw


def allocation_map(path):
    """The oracle of holes: the MapExtents that qemu-img sees."""
    extents = json.loads(tools.output("qemu-img", "map", "-f", "qcow2", "--output=json", path,
                                      timeout=300))
    return [MapExtent(extent["start"], extent["length"], extent["depth"], extent["data"],
                      extent.get("offset")) for extent in extents]


# --- host files --------------------------------------------------------------------


def seek_extents(path):
    """The data of a file as SEEK_DATA and SEEK_HOLE tell it: (start, end) in order.

    A mount says "data" where a search has come to when its time is over, as on a busy machine:
    a hole may be there, and from there it is asked again.
    """
    found = []
    handle = os.open(path, os.O_RDONLY)
    try:
        position, size = 0, os.fstat(handle).st_size
        while position < size:
            try:
                start = os.lseek(handle, position, os.SEEK_DATA)
            except OSError as error:
                if error.errno == 6:  # ENXIO: no data behind here
                    break
                raise
            end = os.lseek(handle, start, os.SEEK_HOLE)
            if position < start == end:
                position = start
                continue
            if not position <= start < end <= size:
                raise AssertionError("SEEK_DATA from %d gave %d, SEEK_HOLE from there %d, "
                                     "the file has %d bytes" % (position, start, end, size))
            found.append((start, end))
            position = end
    finally:
        os.close(handle)
    return found


FIEMAP = 0xC020660B
FIEMAP_SYNC = 1
FIEMAP_UNWRITTEN = 0x800
FIEMAP_LAST = 1


def host_data(path):
    """(start, end) of what a host file keeps; preallocated space never written is left out."""
    size = os.path.getsize(path)
    found = []
    handle = os.open(path, os.O_RDONLY)
    try:
        position, last = 0, size == 0
        while not last:
            request = bytearray(struct.pack("=QQLLLL", position, size - position, FIEMAP_SYNC, 0,
                                            512, 0) + bytes(512 * 56))
            try:
                fcntl.ioctl(handle, FIEMAP, request)
            except OSError:
                return seek_extents(path)
            count = struct.unpack_from("=L", request, 20)[0]
            last = count == 0
            for index in range(count):
                start, _physical, length, _, _, flags = struct.unpack_from("=QQQQQL", request,
                                                                           32 + index * 56)
                if not flags & FIEMAP_UNWRITTEN and start < size:
                    found.append((start, min(start + length, size)))
                position = start + length
                last = last or bool(flags & FIEMAP_LAST) or position >= size
    finally:
        os.close(handle)
    return found
