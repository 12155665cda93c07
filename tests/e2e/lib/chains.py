# SPDX-License-Identifier: MIT
"""Chains of images that differ in all that matters to who moves data between them.

    CHAIN = (chains.raw(MiB), chains.qcow2(2 * MiB, cluster_size="4k"))    from the last one behind
    make = chains.chain(*CHAIN)                                       make(directory) -> path
    ours, theirs = chains.twins(directory, make)                      the same, twice
    chains.bytes_of(path), chains.allocated(path)                     as QEMU reads them
"""

import os
import shutil

from . import image, qcow2 as qcow2_file, tools
from .image import KiB


class Layer:
    """An image of a chain: raw, or qcow2 with qemu-img's options, of so many bytes."""

    def __init__(self, size, is_raw=False, snapshot=False, **options):
        self.size, self.is_raw, self.snapshot, self.options = size, is_raw, snapshot, options

    @property
    def format(self):
        return "raw" if self.is_raw else "qcow2"


def qcow2(size, **options):
    return Layer(size, **options)


def raw(size):
    return Layer(size, is_raw=True)


def name_of(number, layer):
    return "%d.%s" % (number, layer.format)


def make_layer(path, layer, number, below=None):
    """One image at the path, above `below`, a name and a format; its contents are the number's."""
    if layer.is_raw:
        return image.sparse_raw(path, layer.size, seed=number)
    image.create(path, layer.size, backing=below and below[0], backing_format=below and below[1],
                 **layer.options)
    fill(path, layer, number)
    return path


def chain(*layers):
    """A function that makes the chain in a directory, the last above all others: its path."""
    def make(directory):
        below = path = None
        for number, layer in enumerate(layers):
            below, path = (name_of(number, layer), layer.format), make_layer(
                os.path.join(directory, name_of(number, layer)), layer, number, below)
        return path
    return make


def fill(path, layer, number):
    """Each layer has something in other places, hides something with zeros, and discards."""
    size, at = layer.size, 64 * KiB * (number % 5)
    version2 = layer.options.get("compat") == "0.10"
    image.io(path, image.write(at, 100 * KiB, 10 + number),
             image.write(size // 2 + at + 512, 70 * KiB, 20 + number),
             image.write((size - 4 * KiB) // 512 * 512, 4 * KiB, 30 + number),
             *([] if version2 else ["write -z %d 96k" % (size // 4 + at),
                                    "write -z -u %d 160k" % (size // 3 // 4096 * 4096),
                                    "discard %d 128k" % (at // 2)]))
    if layer.snapshot:
        tools.run("qemu-img", "snapshot", "-c", "kept", path)
        image.io(path, image.write(at + 64 * KiB, 80 * KiB, 40 + number))


def twins(directory, make):
    """make(directory) -> path once, and a copy of all that it has made."""
    ours, theirs = (os.path.join(directory, name) for name in ("ours", "theirs"))
    os.mkdir(ours)
    path = make(ours)
    shutil.copytree(ours, theirs)
    return path, os.path.join(theirs, os.path.basename(path))


def bytes_of(path):
    """What the disk shows, as QEMU reads it."""
    shown = path if path.endswith(".raw") else image.to_raw(path, path + ".bytes")
    with open(shown, "rb") as file:
        found = file.read()
    if shown != path:
        os.unlink(shown)
    return found


def is_empty(path):
    """Whether no entry of the image's L1 table names anything."""
    with qcow2_file.Qcow2(path) as opened:
        return not any(opened.l1_entry(index) for index in range(opened["l1_size"]))


def allocated(path):
    """The bytes of the disk that the image itself decides, zeros included."""
    return sum(each.length for each in image.allocation_map(path) if each.depth == 0)
