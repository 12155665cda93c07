#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Chains of backing files: names, formats, sizes and cluster sizes mixed."""

import os
import random

from lib import compare, image, matrix, mount, qcow2, tap, tools, tree
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.QEMU, tools.MKE2FS])


def forget_format(path):
    """Removes the recorded format of the backing file."""
    with qcow2.Qcow2(path) as opened:
        opened.remove_extension(qcow2.EXTENSION_BACKING_FORMAT)


def layer(directory, name, size, backing, backing_format, **options):
    """An overlay on the recorded name `backing`, made without a look at that file."""
    return image.create(os.path.join(directory, name), size, backing=backing,
                        backing_format=backing_format, **options)


def cluster_size(options):
    text = options.get("cluster_size", "64k")
    return int(text[:-1]) * {"k": KiB, "M": MiB}[text[-1]] if text[-1] in "kM" else int(text)


def mixed_chain(sizes, recorded=True, base_size=35 * MiB + 3 * 512, **features):
    """A raw base and four overlays of other sizes, names, versions and cluster sizes."""
    def make(directory):
        os.mkdir(os.path.join(directory, "below"))
        base = image.sparse_raw(os.path.join(directory, "below", "base.raw"), base_size)
        plan = [
            ("below/1.qcow2", "base.raw", "raw", {"compat": "0.10"}),
            ("below/2.qcow2", "file:" + os.path.join(directory, "below", "1.qcow2"), "qcow2",
             {"cluster_size": "4k"}),
            ("3.qcow2", "below/2.qcow2", "qcow2", {"cluster_size": "2M"}),
            ("4.qcow2", os.path.join(directory, "3.qcow2"), "qcow2", features),
        ]
        check(os.path.getsize(base) == base_size, "the base is wrong")
        for number, ((name, backing, kind, options), size) in enumerate(zip(plan, sizes)):
            path = layer(directory, name, size, backing, kind, **options)
            image.scribble(path, size, seed=100 + number, operations=40,
                           cluster_size=cluster_size(options))
            if not recorded:
                forget_format(path)
        return path
    return make


matrix.read(suite, "five images, each longer than the one below",
            mixed_chain([36 * MiB, 40 * MiB, 44 * MiB, 48 * MiB]))
matrix.read(suite, "five images, longer and shorter in turn",
            mixed_chain([48 * MiB, 20 * MiB + 512, 40 * MiB, 64 * MiB - 1024]))
matrix.read(suite, "five images, the top one the shortest",
            mixed_chain([48 * MiB, 64 * MiB, 40 * MiB, 10 * MiB + 7 * 512]))
matrix.read(suite, "five images, no format recorded",
            mixed_chain([36 * MiB, 30 * MiB, 44 * MiB, 48 * MiB], recorded=False),
            options=["allow-probed-backing"])
matrix.read(suite, "five images, subclusters on top",
            mixed_chain([36 * MiB, 30 * MiB, 44 * MiB, 48 * MiB], extended_l2="on"),
            needs=[tools.EXTENDED_L2])
matrix.read(suite, "five images, clusters of 512 bytes on top",
            mixed_chain([36 * MiB, 30 * MiB, 44 * MiB, 48 * MiB], cluster_size="512"))


def odd_base(directory):
    """A raw base whose last sector is not whole."""
    base = os.path.join(directory, "base.raw")
    with open(base, "wb") as file:
        file.write(random.Random(5).randbytes(3 * MiB + 1000))
    path = layer(directory, "top.qcow2", 5 * MiB, "base.raw", "raw")
    image.io(path, image.write(MiB, 70000, 1))
    return path


matrix.read(suite, "a raw base that ends within a sector", odd_base)


def rubbish_past_the_end(directory):
    """A backing image with data past its end, in its last cluster and in clusters of their own."""
    base = image.create(os.path.join(directory, "base.qcow2"), 4 * MiB)
    image.io(base, image.write(0, 4 * MiB, 1))
    with qcow2.Qcow2(base) as opened:
        opened["virtual_size"] = 2 * MiB + 5 * 512
    return layer(directory, "top.qcow2", 6 * MiB, "base.qcow2", "qcow2")


matrix.read(suite, "a backing image with rubbish past its end", rubbish_past_the_end)


def repaired(recorded):
    """The file system in a chain of five where every layer counts.

    Each layer holds rubbish where the ones above it hold what is right: the disk is only whole
    when every piece comes from the right layer.
    """
    features = [{}, {"cluster_size": "4k"}, {"cluster_size": "2M"}, {"extended_l2": "on"}]

    def make(directory, raw):
        generator = random.Random(17)
        size = os.path.getsize(raw)
        starts = generator.sample(range(0, size // (64 * KiB)), 160)
        pieces = [(start * 64 * KiB + generator.randint(0, 20) * 512,
                   generator.randint(1, 80) * 512) for start in starts]
        pieces = [(start, min(length, size - start)) for start, length in pieces]
        path = os.path.join(directory, "base.raw")
        tools.run("cp", "--sparse=always", raw, path)
        _overwrite(path, pieces)
        name, kind = "base.raw", "raw"
        for number, options in enumerate(features):
            path = layer(directory, "%d.qcow2" % number, size, name, kind, **options)
            commands = []
            for index, (start, length) in enumerate(pieces):
                if index % len(features) == number:  # this layer's task
                    commands.append("write -q -s %s %d %d"
                                    % (_cut(raw, directory, start, length), start, length))
                elif index % len(features) > number:  # to be put right further up
                    commands.append(image.write(start, length, number))
            image.io(path, *commands)
            for cut in os.listdir(directory):
                if cut.startswith("cut-"):
                    os.unlink(os.path.join(directory, cut))
            if not recorded:
                forget_format(path)
            name, kind = os.path.basename(path), "qcow2"
        return path
    return make


def _overwrite(path, pieces):
    with open(path, "r+b") as file:
        for start, length in pieces:
            file.seek(start)
            file.write(b"\x55" * length)


def _cut(raw, directory, start, length):
    """A file with one piece of the raw image."""
    path = os.path.join(directory, "cut-%d" % start)
    with open(raw, "rb") as source, open(path, "wb") as out:
        source.seek(start)
        out.write(source.read(length))
    return path


group = matrix.read(suite, "a file system put together from five images", repaired(True),
                    holds=tree.SMALL, needs=[tools.EXTENDED_L2])
group.test("is the file system that it was made from",
           lambda state: compare.check_files(state.mounted.disk, state.holds.raw))


def empty_overlays(directory, raw):
    tools.run("cp", "--sparse=always", raw, os.path.join(directory, "base.raw"))
    name, kind = "base.raw", "raw"
    for number in range(4):
        path = layer(directory, "%d.qcow2" % number, os.path.getsize(raw), name, kind)
        name, kind = os.path.basename(path), "qcow2"
    return path


matrix.read(suite, "four empty overlays on a raw file system", empty_overlays, holds=tree.LARGE)


def compressed_below(directory, raw):
    """The usual cloud image: a compressed base, an overlay of zeros, discards and data."""
    base = image.convert(raw, os.path.join(directory, "base.qcow2"), "-c")
    path = layer(directory, "top.qcow2", os.path.getsize(raw) + 8 * MiB, "base.qcow2", "qcow2")
    image.scribble(path, os.path.getsize(raw) + 8 * MiB, seed=3, operations=60,
                   cluster_size=64 * KiB)
    check(os.path.exists(base), "no base")
    return path


matrix.read(suite, "an overlay on a compressed image",
            lambda directory: compressed_below(directory, tree.source(tree.SMALL).raw))


def compressed_behind(directory):
    """Compressed clusters that are larger, and smaller, than those of the images above them."""
    raw = tree.source(tree.SMALL).raw
    size = os.path.getsize(raw)
    image.convert(raw, os.path.join(directory, "0.qcow2"), "-c", cluster_size="256k")
    path = layer(directory, "1.qcow2", size, "0.qcow2", "qcow2", cluster_size="4k")
    image.scribble(path, size, seed=4, operations=30, cluster_size=4 * KiB, compress=False)
    path = layer(directory, "2.qcow2", size, "1.qcow2", "qcow2", cluster_size="64k")
    image.scribble(path, size, seed=5, operations=10, cluster_size=64 * KiB, compress=False)
    return layer(directory, "3.qcow2", size, "2.qcow2", "qcow2")


matrix.read(suite, "a chain of four with a compressed base", compressed_behind)


def ends_behind(directory):
    """Images that end in the midst of a cluster, each shorter than all above it and the base."""
    base = image.create(os.path.join(directory, "0.qcow2"), 9 * MiB, cluster_size="4k")
    image.io(base, image.write(0, 9 * MiB, 1))
    for number, sectors in enumerate((4099, 1001, 3), 1):
        path = layer(directory, "%d.qcow2" % number, 9 * MiB - sectors * 512,
                     "%d.qcow2" % (number - 1), "qcow2", cluster_size="64k")
    return layer(directory, "top.qcow2", 9 * MiB, os.path.basename(path), "qcow2")


matrix.read(suite, "a chain of images that end at different places above a longer base", ends_behind)


def data_file_below(directory):
    size = 24 * MiB
    base = os.path.join(directory, "base.qcow2")
    image.create(base, size, data_file=os.path.join(directory, "base.data"))
    image.scribble(base, size, seed=8, operations=40, cluster_size=64 * KiB, compress=False)
    path = layer(directory, "top.qcow2", size, "base.qcow2", "qcow2")
    image.scribble(path, size, seed=9, operations=20, cluster_size=64 * KiB)
    return path


matrix.read(suite, "a backing image with a data file", data_file_below, needs=[tools.DATA_FILE])


@suite.test("a chain is found from any working directory, by a link too")
def _(directory):
    path = mixed_chain([36 * MiB, 30 * MiB, 44 * MiB, 48 * MiB])(directory)
    expected = image.to_raw(path, os.path.join(directory, "expected.raw"))
    with mount.mount(os.path.basename(path), cwd=directory) as mounted:
        compare.check_files(mounted.disk, expected)
    with mount.mount(os.path.join("..", os.path.basename(path)),
                     cwd=os.path.join(directory, "below"), foreground=False) as mounted:
        compare.check_files(mounted.disk, expected)


@suite.test("an image behind one of unrecorded format is not opened unasked")
def _(directory):
    make = mixed_chain([36 * MiB, 30 * MiB, 44 * MiB, 48 * MiB], recorded=False)
    failed = mount.mount_fails(make(directory))
    check("allow-probed-backing" in failed.stderr, "it did not name the option: %s", failed.stderr)


@suite.test("sixty images are one chain")
def _(directory):
    size = 4 * MiB
    name, kind = "base.raw", "raw"
    image.sparse_raw(os.path.join(directory, name), size)
    for number in range(60):
        path = layer(directory, "%d.qcow2" % number, size, name, kind)
        image.io(path, image.write(number * 64 * KiB + 512 * number, 20000, number % 8))
        name, kind = os.path.basename(path), "qcow2"
    expected = image.to_raw(path, os.path.join(directory, "expected.raw"))
    with mount.mount(path) as mounted:
        compare.check_files(mounted.disk, expected)
        check_equal(os.stat(mounted.disk).st_size, size, "the size")


if __name__ == "__main__":
    suite.main()
