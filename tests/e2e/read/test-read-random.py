#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Pseudo-random contents in many combinations of features: data, zeros, discards, compression."""

import os

from lib import image, matrix, tap, tools
from lib.image import MiB

suite = tap.Suite(needs=[tools.fuse, tools.QEMU])
SIZE = 24 * MiB + 5 * 512


def scribbled(number, cluster_bits, backing, **options):
    def make(directory):
        path = os.path.join(directory, "image.qcow2")
        if backing:
            base = image.sparse_raw(os.path.join(directory, "base.raw"), 20 * MiB, seed=number)
            image.create(path, SIZE, backing=os.path.basename(base), backing_format="raw",
                         cluster_size=1 << cluster_bits, **options)
        else:
            image.create(path, SIZE, cluster_size=1 << cluster_bits, **options)
        image.scribble(path, SIZE, seed=number, operations=120, cluster_size=1 << cluster_bits)
        return path
    return make


COMBINATIONS = []
for bits in (9, 12, 16, 21):
    for behind in (False, True):
        COMBINATIONS.append((bits, behind, {"compat": "0.10"}))
        COMBINATIONS.append((bits, behind, {"compression_type": "zstd"}))
        if bits >= 14:
            COMBINATIONS.append((bits, behind, {"extended_l2": "on"}))
COMBINATIONS.append((14, True, {"extended_l2": "on"}))
COMBINATIONS.append((18, True, {"extended_l2": "on", "compression_type": "zstd"}))

NEEDS = {"compression_type": tools.ZSTD, "extended_l2": tools.EXTENDED_L2}

for index, (bits, behind, features) in enumerate(COMBINATIONS):
    told = ["clusters of %d bytes" % (1 << bits)]
    told += ["%s=%s" % item for item in features.items()]
    told += ["on a raw base"] if behind else []
    matrix.read(suite, ", ".join(told), scribbled(index, bits, behind, **features),
                needs=[NEEDS[name] for name in features if name in NEEDS])

if __name__ == "__main__":
    suite.main()
