#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Random operations on images without anything behind them: see lib/model.py."""

from lib import model, tap, tools
from lib.image import KiB, MiB

suite = tap.Suite(needs=[tools.QEMU, model.built])
LARGE = (16 * KiB, 64 * KiB, 2 * MiB)

model.matrix(suite, model.Kind("version 2", model.filled, compat="0.10"))
model.matrix(suite, model.Kind("version 3", model.filled, compat="1.1"))
model.matrix(suite, model.Kind("extended L2 entries", model.filled, clusters=LARGE,
                               needs=[tools.EXTENDED_L2], extended_l2="on"))
model.matrix(suite, model.Kind("version 3, bitmaps", model.filled, bitmaps=True, clusters=(512, 64 * KiB),
                               needs=[tools.tool("qemu-nbd")]))
model.matrix(suite, model.Kind("extended L2 entries, bitmaps", model.filled, bitmaps=True,
                               clusters=LARGE, needs=[tools.EXTENDED_L2, tools.tool("qemu-nbd")],
                               extended_l2="on"))
model.matrix(suite, model.Kind("lazy refcounts", model.empty, lazy=True, lazy_refcounts="on"))
model.matrix(suite, model.Kind("preallocated metadata", model.empty, preallocation="metadata"))
model.matrix(suite, model.Kind("written compressed", model.empty, compress=True,
                               clusters=(4 * KiB,)))

if __name__ == "__main__":
    suite.main()
