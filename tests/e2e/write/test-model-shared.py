#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Random operations on images that share clusters with snapshots, hold compressed clusters, or
keep their data in another file: see lib/model.py."""

import os

from lib import image, model, tap, tools
from lib.image import KiB, MiB

suite = tap.Suite(needs=[tools.QEMU, model.built])
LARGE = (16 * KiB, 64 * KiB, 2 * MiB)


def snapshot(path, name):
    tools.run("qemu-img", "snapshot", "-c", name, path)


def with_snapshots(directory, source, **options):
    path = model.filled(directory, source, **options)
    snapshot(path, "first")
    image.io(path, image.write(1 * MiB, 300 * KiB, seed=7))
    snapshot(path, "second")
    return path


def compressed_with_snapshot(directory, source, **options):
    path = model.compressed(directory, source, **options)
    snapshot(path, "only")
    return path


def with_data_file(directory, source, **options):
    path = image.create(model.path_in(directory), model.SIZE,
                        data_file=os.path.join(directory, "data.raw"), **options)
    tools.run("qemu-img", "convert", "-n", "-f", "raw", "-O", "qcow2", source, path)
    return path


model.matrix(suite, model.Kind("snapshots", with_snapshots))
model.matrix(suite, model.Kind("snapshots of version 2", with_snapshots, resize=False,
                               compat="0.10"))
model.matrix(suite, model.Kind("snapshots with extended L2 entries", with_snapshots,
                               clusters=LARGE, needs=[tools.EXTENDED_L2], extended_l2="on"))
model.matrix(suite, model.Kind("compressed", model.compressed))
model.matrix(suite, model.Kind("compressed, with a snapshot", compressed_with_snapshot))
model.matrix(suite, model.Kind("data file", with_data_file, saves=False, needs=[tools.DATA_FILE]))
model.matrix(suite, model.Kind("raw data file", with_data_file, saves=False, needs=[tools.DATA_FILE],
                               data_file_raw="on"))

model.matrix(suite, model.Kind("raw data file, bitmaps", with_data_file, saves=False, bitmaps=True,
                               clusters=(64 * KiB,), needs=[tools.DATA_FILE, tools.tool("qemu-nbd")],
                               data_file_raw="on"))

if __name__ == "__main__":
    suite.main()
