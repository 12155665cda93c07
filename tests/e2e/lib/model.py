# SPDX-License-Identifier: MIT
"""The model test: random operations on an image, a plain buffer as the oracle.

The program tests/model/model does the operations; here are the images it works on, and what
must be true of them afterwards. A test file names its kinds of images, and gets a test for each
combination with a cluster size, a size of the caches and a number of threads:

    model.matrix(suite, model.Kind("version 2", make, compat="0.10"))

QCOW2FS_MODEL_SEED gives all of them another seed; a failure names the one that it had.
QCOW2FS_LONG=1 makes them longer; under a sanitizer they are shorter, and fewer. QCOW2FS_MODEL is
the program, where it is not beside the one under test.
"""

import contextlib
import functools
import os
import random
import shutil
import zlib

from . import bitmaps, compare, image, run, tap, tools
from .image import KiB, MiB
from .tap import check_equal

SIZE = 8 * MiB
PIECES, PIECE = 30, 70000

LONG = os.environ.get("QCOW2FS_LONG") == "1"
SANITIZE = os.environ.get("QCOW2FS_SANITIZE", "no") not in ("", "no")
OPERATIONS = 120  # of all threads together, in each of the rounds
FACTOR = (5 if LONG else 1) * (0.4 if SANITIZE else 1)

CLUSTERS = (512, 4 * KiB, 64 * KiB, 2 * MiB)
SMALLEST = "l2-cache-size=1024,l2-cache-entry-size=512"
CACHES = {"default": "", "smallest": SMALLEST}
THREADS = (1, 8)
# name, granularity
BITMAPS = (("sectors", "512"), ("pages", "4k"), ("large", "1M"), ("whole", "2G"),
           ("still", "512", "--disable"), ("still-large", "64k", "--disable"))


def program():
    """The built program, beside the one under test."""
    build = os.path.dirname(os.path.dirname(run.program()))
    return os.environ.get("QCOW2FS_MODEL", os.path.join(build, "tests", "model", "model"))


def built():
    """The need for it."""
    return None if os.access(program(), os.X_OK) else "%s is not built" % program()


class Kind:
    """A kind of image.

    `make(directory, source, **options)` makes it, from the raw file `source` where it is to hold
    something, and returns its path; `options` are those of qemu-img's -o. `resize`: its disk can
    change its size. `lazy`: it is written with lazy refcounts. `saves`: it can have snapshots, which
    are then made and removed among the rest. `compress`: what is written is compressed.
    `bitmaps`: it has bitmaps, which are followed, and others come and go. `serve(path)` is a context manager that gives the name by which it is opened.
    """

    def __init__(self, name, make, resize=True, lazy=False, saves=True, compress=False, bitmaps=False,
                 clusters=CLUSTERS, needs=(), serve=contextlib.nullcontext, read_cache=None, **options):
        self.name, self.make, self.options, self.serve = name, make, options, serve
        self.resize, self.lazy, self.saves, self.compress = resize, lazy, saves, compress
        self.bitmaps, self.clusters, self.needs = bitmaps, clusters, list(needs)
        self.read_cache = read_cache


# --- making ---------------------------------------------------------------------


def path_in(directory):
    return os.path.join(directory, "image.qcow2")


def random_source(directory, seed):
    """A raw file with holes and data."""
    path = os.path.join(directory, "source.raw")
    generator = random.Random(seed)
    with open(path, "wb") as file:
        file.truncate(SIZE)
        for _ in range(PIECES):
            length = generator.randint(1, PIECE)
            file.seek(generator.randint(0, SIZE - length))
            file.write(generator.randbytes(length))
    return path


def empty(directory, _source, **options):
    """An image of nothing."""
    return image.create(path_in(directory), SIZE, **options)


def filled(directory, source, **options):
    return image.convert(source, path_in(directory), **options)


def compressed(directory, source, **options):
    return image.convert(source, path_in(directory), "-c", **options)


# --- what must be true -----------------------------------------------------------


def snapshots(path):
    return [each["name"] for each in image.info(path).get("snapshots", [])]


def snapshot_to_raw(path, name, raw):
    """What the snapshot shows; qemu-img takes today's size of the disk for it."""
    tools.run("qemu-img", "convert", "-l", "snapshot.name=" + name, "-f", "qcow2", "-O", "raw",
              path, raw)
    return raw


def check_image(path, expected):
    """No error, no leak, not dirty, and the contents that the model says; a raw data file is the
    disk itself."""
    info = image.info(path)
    data = info["format-specific"]["data"]
    tools.run("qemu-img", "check", "-q", path)
    check_equal(info["virtual-size"], os.path.getsize(expected), "the disk's size")
    check_equal(info["dirty-flag"], False, "the dirty flag")
    if data.get("data-file-raw"):
        compare.check_files(os.path.join(os.path.dirname(path), data["data-file"]), expected)
    tools.run("qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", path, expected)


def add_bitmaps(path):
    for name, granularity, *disabled in BITMAPS:
        tools.run("qemu-img", "bitmap", "--add", "-g", granularity, path, name, *disabled)


def check_bitmaps(path, expected):
    """QEMU finds in them what the model says, and whether they are enabled; and no others."""
    found = {name: flags for name, _, flags in bitmaps.bitmaps(path)}
    with open(expected + ".bitmaps", encoding="ascii") as lines:
        for name, enabled, *numbers in map(str.split, lines):
            check_equal(found.pop(name), ["auto"] if enabled == "1" else [], "the flags of %s" % name)
            numbers = list(map(int, numbers))
            check_equal(bitmaps.ranges(path, name), [list(pair) for pair in zip(numbers[::2], numbers[1::2])],
                        "what %s has" % name)
    check_equal(found, {}, "what else it has")


def check_snapshots(path, before):
    for name, raw in before.items():
        after = snapshot_to_raw(path, name, raw + ".after")
        compare.check_files(after, raw, min(os.path.getsize(after), os.path.getsize(raw)))


# --- tests ------------------------------------------------------------------------


def _seed(sentence):
    given = os.environ.get("QCOW2FS_MODEL_SEED", "1")
    return zlib.crc32((given + sentence).encode("utf-8"))


def _options(kind, caches, threads, seed, read_cache):
    operations = int(OPERATIONS * FACTOR / threads)
    given = ["seed=%d" % seed, "threads=%d" % threads, "operations=%d" % max(operations, 1)]
    given += [caches] if caches else []
    given += ["resize"] if kind.resize else []
    given += ["discard"] if seed % 2 else []
    given += ["snapshots"] if kind.saves else []
    given += ["lazy-refcounts"] if kind.lazy else []
    given += ["compress"] if kind.compress else []
    given += ["bitmaps"] if kind.bitmaps else []
    if kind.read_cache:
        given += ["read-cache=" + read_cache, "read-cache-size=%s" % kind.read_cache]
    return ",".join(given)


@contextlib.contextmanager
def _prepared(kind, cluster, directory):
    """What the tests of one kind and cluster size begin with, made once, as it is slow to make: each
    gets a copy of it, in the place where it was made, as images know the files behind by their path."""
    seed = _seed("%s, clusters of %d bytes" % (kind.name, cluster))
    place, kept = os.path.join(directory, "now"), os.path.join(directory, "kept")
    os.mkdir(place)
    path = kind.make(place, random_source(place, seed), cluster_size=cluster, **kind.options)
    if kind.bitmaps:
        add_bitmaps(path)
    before = {name: snapshot_to_raw(path, name, os.path.join(place, name + ".raw"))
              for name in snapshots(path)}
    expected = image.to_raw(path, os.path.join(place, "expected.raw"))
    if kind.bitmaps:
        image.create(expected + ".other", SIZE, cluster_size=4 * KiB)
    os.rename(place, kept)

    @contextlib.contextmanager
    def copied():
        tools.run("cp", "-a", kept, place)
        try:
            yield path, before, expected
        finally:
            shutil.rmtree(place)

    yield copied


def _work(kind, caches, threads, sentence, copied):
    seed = _seed(sentence)
    tap.diagnose("seed %d" % seed)
    with copied() as (path, before, expected):
        with kind.serve(path) as name:
            given = _options(kind, caches, threads, seed, expected + ".cache")
            done = tools.run(program(), name, expected, given, timeout=3000 if LONG else None)
        check_equal(done.stdout + done.stderr, "", "what it said")
        check_image(path, expected)
        check_snapshots(path, before)
        if kind.bitmaps:
            check_bitmaps(path, expected)


def _combinations(cluster):
    """(name of the caches, threads); under a sanitizer what finds most."""
    for caches in CACHES:
        for threads in THREADS:
            hard = caches == "smallest" and threads > 1
            if not SANITIZE or (hard and cluster in (512, 16 * KiB, 64 * KiB)):
                yield caches, threads


def matrix(suite, kind):
    """Adds a test for each combination."""
    for cluster in kind.clusters:
        combinations = list(_combinations(cluster))
        if combinations:
            group = suite.group("", functools.partial(_prepared, kind, cluster), None, kind.needs)
        for caches, threads in combinations:
            sentence = ("%s, clusters of %d bytes, %s caches, %s: reads what was written, and is "
                        "in order" % (kind.name, cluster, caches,
                                      "1 thread" if threads == 1 else "%d threads" % threads))
            group.test(sentence, functools.partial(_work, kind, CACHES[caches], threads, sentence))
