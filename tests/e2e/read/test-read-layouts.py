#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A whole file system read from images with external data files and preallocation."""

import os
import shutil

from lib import compare, image, matrix, mount, qcow2, tap, tools, tree

suite = tap.Suite(needs=[tools.fuse, tools.QEMU, tools.MKE2FS])


def converted(*arguments, **options):
    def make(directory, raw):
        return image.convert(raw, os.path.join(directory, "image.qcow2"), *arguments, **options)
    return make


def with_data_file(**options):
    def make(directory, raw):
        path = os.path.join(directory, "image.qcow2")
        recorded = os.path.join(directory, "image.data")
        image.convert(raw, path, data_file=recorded, **options)
        return path
    return make


def preallocated_partly(mode):
    """Preallocated, and one piece in three written."""
    def make(directory):
        path = image.create(os.path.join(directory, "image.qcow2"), 64 * image.MiB,
                            preallocation=mode)
        image.io(path, *[image.write(start * image.MiB, 700 * 1024, start % 7)
                         for start in range(0, 64, 3)])
        return path
    return make


matrix.read(suite, "an external data file", with_data_file(), holds=tree.LARGE,
            needs=[tools.DATA_FILE])
matrix.read(suite, "an external data file that is raw", with_data_file(data_file_raw="on"),
            holds=tree.LARGE, needs=[tools.DATA_FILE])
matrix.read(suite, "an external data file, extended L2 entries",
            with_data_file(extended_l2="on"), holds=tree.SMALL,
            needs=[tools.DATA_FILE, tools.EXTENDED_L2])
for mode in ("metadata", "falloc", "full"):
    matrix.read(suite, "preallocation=%s" % mode, converted(preallocation=mode),
                holds=tree.SMALL)
    matrix.read(suite, "preallocation=%s, written in part" % mode, preallocated_partly(mode))
matrix.read(suite, "lazy refcounts", converted(lazy_refcounts="on"), holds=tree.SMALL)


# --- names of data files -------------------------------------------------------------


def relative_data_file(directory):
    """An image whose data file is recorded as image.data; returns both, and what is to be read."""
    data = os.path.join(directory, "image.data")
    path = image.create(os.path.join(directory, "image.qcow2"), 8 * image.MiB, data_file=data)
    image.io(path, image.write(image.MiB, 3 * image.MiB, 1))
    expected = image.to_raw(path, os.path.join(directory, "expected.raw"))
    with qcow2.Qcow2(path) as opened:
        opened.set_extensions([
            (old.type, b"image.data" if old.type == qcow2.EXTENSION_DATA_FILE else old.data)
            for old in opened.extensions()])
    return path, data, expected


@suite.test("a data file of relative name is found beside the image", needs=[tools.DATA_FILE])
def _(directory):
    path, _data, expected = relative_data_file(directory)
    with mount.mount(path, cwd="/") as mounted:
        compare.check_files(mounted.disk, expected)


@suite.test("a data file of relative name is found where qemu-img looks, in the working directory",
            needs=[tools.DATA_FILE])
def _(directory):
    path, data, expected = relative_data_file(directory)
    elsewhere = os.path.join(directory, "elsewhere")
    os.mkdir(elsewhere)
    os.rename(data, os.path.join(elsewhere, "image.data"))
    with mount.mount(path, cwd=elsewhere) as mounted:
        compare.check_files(mounted.disk, expected)


@suite.test("two different data files of one relative name are not chosen from",
            needs=[tools.DATA_FILE])
def _(directory):
    path, data, _expected = relative_data_file(directory)
    elsewhere = os.path.join(directory, "elsewhere")
    os.mkdir(elsewhere)
    shutil.copy(data, elsewhere)
    failed = mount.mount_fails(path, cwd=elsewhere)
    tap.check("image.data" in failed.stderr, "it did not name the file: %s", failed.stderr)


@suite.test("the option data-file takes the place of the recorded name", needs=[tools.DATA_FILE])
def _(directory):
    path, data, expected = relative_data_file(directory)
    other = os.path.join(directory, "other, and \\ odd.data")
    os.rename(data, other)
    escaped = other.replace("\\", "\\\\").replace(",", "\\,")
    with mount.mount(path, "data-file=" + escaped) as mounted:
        compare.check_files(mounted.disk, expected)


if __name__ == "__main__":
    suite.main()
