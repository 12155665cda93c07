#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A whole file system read from images of every cluster size and refcount width."""

import os

from lib import image, matrix, tap, tools, tree

suite = tap.Suite(needs=[tools.fuse, tools.QEMU, tools.MKE2FS])


def converted(*arguments, **options):
    def make(directory, raw):
        return image.convert(raw, os.path.join(directory, "image.qcow2"), *arguments, **options)
    return make


matrix.read(suite, "512-byte clusters", converted(cluster_size="512"), holds=tree.SMALL)
matrix.read(suite, "512-byte clusters, version 2",
            converted(cluster_size="512", compat="0.10"), holds=tree.SMALL)
matrix.read(suite, "1 KiB clusters", converted(cluster_size="1k"), holds=tree.SMALL)
matrix.read(suite, "4 KiB clusters", converted(cluster_size="4k"), holds=tree.LARGE)
matrix.read(suite, "256 KiB clusters", converted(cluster_size="256k"), holds=tree.SMALL)
matrix.read(suite, "2 MiB clusters", converted(cluster_size="2M"), holds=tree.LARGE)
matrix.read(suite, "1-bit refcounts", converted(refcount_bits="1"), holds=tree.LARGE)
matrix.read(suite, "64-bit refcounts", converted(refcount_bits="64"), holds=tree.LARGE)
# With sparse detection in 4 KiB the clusters of 64 KiB are written in parts.
matrix.read(suite, "partly allocated clusters of extended L2 entries",
            converted("-S", "4k", extended_l2="on"), holds=tree.LARGE,
            needs=[tools.EXTENDED_L2])
matrix.read(suite, "extended L2 entries, 2 MiB clusters",
            converted("-S", "4k", extended_l2="on", cluster_size="2M"), holds=tree.SMALL,
            needs=[tools.EXTENDED_L2])
matrix.read(suite, "extended L2 entries, 16 KiB clusters",
            converted("-S", "4k", extended_l2="on", cluster_size="16k"), holds=tree.SMALL,
            needs=[tools.EXTENDED_L2])
matrix.read(suite, "the smallest L2 and data caches", converted(cluster_size="4k"),
            holds=tree.SMALL, options=["l2-cache-size=8k", "data-cache-size=0"])

if __name__ == "__main__":
    suite.main()
