#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A whole file system read from images of every version and compression type."""

import os

from lib import image, matrix, tap, tools, tree

suite = tap.Suite(needs=[tools.fuse, tools.QEMU, tools.MKE2FS])


def converted(*arguments, **options):
    def make(directory, raw):
        return image.convert(raw, os.path.join(directory, "image.qcow2"), *arguments, **options)
    return make


matrix.read(suite, "version 3", converted(), holds=tree.LARGE)
matrix.read(suite, "version 2", converted(compat="0.10"), holds=tree.LARGE)
matrix.read(suite, "zstd compression", converted("-c", compression_type="zstd"),
            holds=tree.LARGE, needs=[tools.ZSTD])
matrix.read(suite, "zlib compression", converted("-c"), holds=tree.LARGE)
matrix.read(suite, "zlib compression, version 2, 4 KiB clusters",
            converted("-c", compat="0.10", cluster_size="4k"), holds=tree.SMALL)
matrix.read(suite, "zlib compression, 2 MiB clusters",
            converted("-c", cluster_size="2M"), holds=tree.SMALL)
matrix.read(suite, "zstd compression, 2 MiB clusters",
            converted("-c", cluster_size="2M", compression_type="zstd"),
            holds=tree.SMALL, needs=[tools.ZSTD])
matrix.read(suite, "zstd compression, extended L2 entries",
            converted("-c", extended_l2="on", compression_type="zstd"),
            holds=tree.SMALL, needs=[tools.ZSTD, tools.EXTENDED_L2])
matrix.read(suite, "zlib compression, 512-byte clusters",
            converted("-c", cluster_size="512"), holds=tree.SMALL)

if __name__ == "__main__":
    suite.main()
