#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Random operations on overlays: see lib/model.py. No base is changed by them."""

import os

from lib import image, model, tap, tools
from lib.image import KiB, MiB

suite = tap.Suite(needs=[tools.QEMU, model.built])
SHORT = 3 * MiB + 512
LARGE = (16 * KiB, 64 * KiB, 2 * MiB)


def on_raw(directory, source, **options):
    return image.create(model.path_in(directory), model.SIZE, backing=os.path.basename(source),
                        backing_format="raw", **options)


def on_short(directory, source, **options):
    """The base is shorter than the overlay, and ends within a cluster."""
    os.truncate(source, SHORT)
    return on_raw(directory, source, **options)


def on_long(directory, source, **options):
    """The overlay is shorter than the base: what it gains must not be the base's."""
    return image.create(model.path_in(directory), SHORT, backing=os.path.basename(source),
                        backing_format="raw", **options)


def on_qcow2(directory, source, *arguments, **options):
    base = image.convert(source, os.path.join(directory, "base.qcow2"), *arguments,
                         cluster_size=64 * KiB)
    return image.create(model.path_in(directory), model.SIZE, backing=os.path.basename(base),
                        backing_format="qcow2", **options)


def on_compressed(directory, source, **options):
    return on_qcow2(directory, source, "-c", **options)


model.matrix(suite, model.Kind("on a raw base", on_raw))
model.matrix(suite, model.Kind("on a shorter base", on_short))
model.matrix(suite, model.Kind("on a longer base", on_long))
model.matrix(suite, model.Kind("on a qcow2 base", on_qcow2))
model.matrix(suite, model.Kind("on a compressed base", on_compressed))
model.matrix(suite, model.Kind("version 2 on a longer base", on_long, compat="0.10"))
model.matrix(suite, model.Kind("extended L2 entries on a qcow2 base", on_qcow2, clusters=LARGE,
                               needs=[tools.EXTENDED_L2], extended_l2="on"))

if __name__ == "__main__":
    suite.main()
