# SPDX-License-Identifier: MIT
"""The images of a run. Each is a Disk: a qcow2 image, and the raw file of the same contents."""

import collections
import contextlib
import os
import random
import shutil
import subprocess
import time

from lib import encrypted, image, run, tools

from . import trees

KiB, MiB, GiB, TiB = 1 << 10, 1 << 20, 1 << 30, 1 << 40

CLUSTER = 64 * KiB
CHAIN_SIZE_MAX = 512 * MiB
CHAIN_CLUSTERS = 24   # that each overlay of a chain has of its own
SECONDS_TO_MAKE = 900
BITMAPS = (("pages", "4k"), ("clusters", "64k"), ("large", "1M"))

# raw: None where no target needs it; key: the file with the key of an encrypted image, or None
Disk = collections.namedtuple("Disk", "directory raw qcow2 size key", defaults=(None,))


def _noise(path, size):
    """Bytes that neither compress nor are found to be zeros."""
    block = random.Random(size).randbytes(4 * MiB)
    with open(path, "wb") as file:
        for start in range(0, size, len(block)):
            file.write(block[:size - start])


def _prose(path, size):
    """What compresses to a bit less than half, as file systems full of programs and texts do.

    Words of a vocabulary, with numbers in between that nothing can compress.
    """
    generator = random.Random(size)
    words = ["".join(generator.choices("etaoinshrdlucmfwypvbgkjqxz", k=generator.randint(2, 11)))
             for _ in range(6000)]
    text = bytearray()
    while len(text) < min(size, 32 * MiB):
        text += " ".join(generator.choices(words, k=400)).encode("ascii")
        text += generator.randbytes(500)
    with open(path, "wb") as file:
        for start in range(0, size, len(text)):
            file.write(text[:size - start])


def _sparse(path, size):
    with open(path, "wb") as file:
        file.truncate(size)


def fresh(directory, size, **options):
    """A new image without any data, and a raw file that is one hole."""
    disk = Disk(directory, os.path.join(directory, "disk.raw"),
                os.path.join(directory, "disk.qcow2"), size)
    _sparse(disk.raw, size)
    image.create(disk.qcow2, size, **options)
    return disk


def add_bitmaps(disk):
    """Three enabled bitmaps, which record what is written."""
    for name, granularity in BITMAPS:
        tools.run("qemu-img", "bitmap", "--add", "-g", granularity, disk.qcow2, name)
    return disk


def _with_key(disk):
    """The disk with a key, and how qemu-img is told to encrypt with it: LUKS, aes-256-xts."""
    disk = disk._replace(key=os.path.join(disk.directory, "key"))
    with open(disk.key, "w", encoding="ascii") as file:
        file.write("a key of the benchmark")
    return disk, ["--object", "secret,id=key,file=" + disk.key, "-o",
                  "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10"]


class Images:
    """Makes each image when it is first asked for, in memory."""

    def __init__(self, places, size):
        self.places = places
        self.size = size
        self._made = {}

    def get(self, name):
        if name not in self._made:
            directory = self.places.new("memory", name)
            kind, _, argument = name.partition("-")
            self._made[name] = getattr(self, "_make_" + kind)(directory, argument)
        return self._made[name]

    def drop(self, keep=()):
        """Gives the memory of all but these images back."""
        for name in [name for name in self._made if name not in keep]:
            shutil.rmtree(self._made.pop(name).directory)

    # --- recipes: NAME or NAME-ARGUMENT --------------------------------------------------

    def _make_plain(self, directory, _argument):
        """Every cluster allocated, in the order of the disk."""
        disk = fresh(directory, self.size)
        _noise(disk.raw, self.size)
        image.convert(disk.raw, disk.qcow2)
        return disk

    def _make_bitmaps(self, directory, argument):
        """The plain one, and bitmaps."""
        return add_bitmaps(self._make_plain(directory, argument))

    def _make_encrypted(self, directory, _argument):
        """As the plain one."""
        disk, encrypting = _with_key(fresh(directory, self.size))
        _noise(disk.raw, self.size)
        encrypted.make("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *encrypting, disk.raw,
                       disk.qcow2, timeout=SECONDS_TO_MAKE)
        return disk

    def _make_compressed(self, directory, kind):
        size = min(self.size, 512 * MiB)
        disk = fresh(directory, size)
        _prose(disk.raw, size)
        tools.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", "-o",
                  "compression_type=" + kind, disk.raw, disk.qcow2, timeout=SECONDS_TO_MAKE)
        return disk

    def _make_empty(self, directory, size):
        return fresh(directory, int(size))

    def _make_preallocated(self, directory, size):
        """Every cluster allocated, and none of them written: holes of the file."""
        disk = Disk(directory, os.path.join(directory, "disk.raw"),
                    os.path.join(directory, "disk.qcow2"), int(size))
        _sparse(disk.raw, disk.size)
        tools.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata",
                  disk.qcow2, size, timeout=SECONDS_TO_MAKE)
        return disk

    def _make_chain(self, directory, length):
        """A full image, with overlays that each have some clusters anywhere on the disk."""
        size = min(self.size, CHAIN_SIZE_MAX)
        raw = os.path.join(directory, "disk.raw")
        _noise(raw, size)
        last = image.convert(raw, os.path.join(directory, "0.qcow2"))
        os.remove(raw)
        generator = random.Random(int(length))
        for number in range(1, int(length)):
            path = os.path.join(directory, "%d.qcow2" % number)
            image.create(path, size, backing=os.path.basename(last), backing_format="qcow2")
            writes = ["write -q -P %d %d %d" % (number % 255 + 1,
                                                generator.randrange(size // CLUSTER) * CLUSTER,
                                                CLUSTER) for _ in range(CHAIN_CLUSTERS)]
            # Without what is behind it: whole clusters need nothing from there.
            alone = "json:" + '{"driver":"qcow2","file":{"driver":"file","filename":"%s"},' \
                '"backing":null}' % path
            tools.run("qemu-io", *[word for each in writes for word in ("-c", each)], alone)
            last = path
        return Disk(directory, None, last, size)

    def _make_tree(self, directory, _argument):
        """No image: the directory `tree`, and the size of a disk that it fits on."""
        place, text = os.path.join(directory, "tree"), os.path.join(directory, "text")
        os.mkdir(place)
        _prose(text, min(self.size, 32 * MiB))
        trees.make(place, self.size, text)
        os.remove(text)
        return Disk(directory, None, None, (self.size * 5 // 4 + 64 * MiB) // MiB * MiB)

    def _make_files(self, directory, kind):
        """The tree in an ext4, on a disk that is as large as it has to be."""
        tree = self.get("tree")
        raw, path = os.path.join(directory, "disk.raw"), os.path.join(directory, "disk.qcow2")
        _sparse(raw, tree.size)
        tools.run("mkfs.ext4", "-q", "-d", tree.directory, raw, timeout=SECONDS_TO_MAKE)
        disk = Disk(directory, raw, path, tree.size)
        convert = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2"]
        if kind in ("zlib", "zstd"):
            convert += ["-c", "-o", "compression_type=" + kind]
        elif kind == "luks":
            disk, encrypting = _with_key(disk)
            encrypted.make(*convert, *encrypting, raw, path, timeout=SECONDS_TO_MAKE)
            return disk
        if kind.startswith("chain"):
            return self._scatter(disk, int(kind[len("chain"):]))
        tools.run(*convert, raw, path, timeout=SECONDS_TO_MAKE)
        return disk

    def _scatter(self, disk, length):
        """The disk as a chain: each MiB of it is in one of the images."""
        last = os.path.join(disk.directory, "0.qcow2")
        image.create(last, disk.size)
        for number in range(length):
            if number > 0:
                behind, last = last, os.path.join(disk.directory, "%d.qcow2" % number)
                image.create(last, disk.size, backing=os.path.basename(behind),
                             backing_format="qcow2")
            with writable(last, disk.size) as target, open(disk.raw, "rb") as source:
                for start in range(number * MiB, disk.size, length * MiB):
                    data = os.pread(source.fileno(), MiB, start)
                    if data.strip(b"\0"):
                        os.pwrite(target, data, start)
        return disk._replace(qcow2=last)


@contextlib.contextmanager
def writable(path, size):
    """A descriptor of the disk in an image, by our own program."""
    at = path + ".mounted"
    with open(at, "wb"):
        pass
    with subprocess.Popen([run.program(), "-f", path, at]) as process:
        while os.stat(at).st_size != size and process.poll() is None:
            time.sleep(0.001)
        handle = os.open(at, os.O_RDWR)
        try:
            yield handle
        finally:
            os.close(handle)
            while not run.unmount(at):
                time.sleep(0.01)
    os.remove(at)
