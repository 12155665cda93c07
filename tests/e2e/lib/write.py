# SPDX-License-Identifier: MIT
"""Writing through a mount: images to be written, and what must hold of them afterwards.

    path = write.make("subclusters", directory, raw)   an image with the contents of `raw`
    write.scribble(mounted.disk, model, seed=1)        the same changes to the disk and a model
    write.check_clean(path)                            qemu-img check finds nothing
    write.check_contents(path, model)                  QEMU, and a new mount, read the model
"""

import contextlib
import ctypes
import errno
import json
import mmap
import os
import random

from . import compare, image, mount, run, tools
from .image import KiB, MiB
from .tap import Skip, check

FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE = 0x01, 0x02, 0x10

# The smallest caches that are accepted.
SMALL_CACHES = ("l2-cache-size=8k", "l2-cache-entry-size=4k", "refcount-cache-size=16k",
                "data-cache-size=192k")

# --- images to be written ---------------------------------------------------------------


def _plain(*arguments, **options):
    def make(path, raw):
        image.convert(raw, path, *arguments, **options)
    return make


def _chain(path, raw):
    """The first half is in a raw file, the second in an image upon it; the top is empty."""
    size = os.path.getsize(raw)
    directory = os.path.dirname(path)
    base, middle = os.path.join(directory, "base.raw"), os.path.join(directory, "middle.qcow2")
    tools.run("cp", "--sparse=always", raw, base)
    os.truncate(base, size // 2 // 512 * 512)
    tools.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=4k",
              "-B", "base.raw", "-F", "raw", raw, middle)
    image.create(path, size, backing="middle.qcow2", backing_format="qcow2")


def _snapshots(path, raw):
    """Every cluster belongs to two snapshots too."""
    image.convert(raw, path, cluster_size="16k")
    for name in ("first", "second"):
        tools.run("qemu-img", "snapshot", "-c", name, path)


def _data_file(path, raw):
    image.convert(raw, path, data_file=os.path.join(os.path.dirname(path), "data.raw"))


_MAKERS = {
    "clusters of 64 KiB": (_plain(), []),
    "clusters of 4 KiB": (_plain(cluster_size="4k"), []),
    "clusters of 2 MiB": (_plain(cluster_size="2M"), []),
    "subclusters": (_plain(extended_l2="on", cluster_size="128k"), [tools.EXTENDED_L2]),
    "compressed clusters": (_plain("-c"), []),
    "zstd": (_plain("-c", compression_type="zstd"), [tools.ZSTD]),
    "a chain of three": (_chain, []),
    "internal snapshots": (_snapshots, []),
    "version 2": (_plain(compat="0.10"), []),
    "lazy refcounts": (_plain(lazy_refcounts="on"), []),
    "1-bit refcounts": (_plain(refcount_bits=1), []),
    "a data file": (_data_file, [tools.DATA_FILE]),
}


def source(directory, size, seed=1, holes=True):
    """A raw file of pieces that do and do not compress, and of holes. Returns its path."""
    path = os.path.join(directory, "source.raw")
    generator = random.Random(seed)
    with open(path, "wb") as file:
        position = 0
        while position < size:
            length = min(generator.randint(1, 150) * 4 * KiB, size - position)
            kind = generator.randrange(3 if holes else 2)
            if kind == 0:
                file.write(generator.randbytes(length))
            elif kind == 1:
                file.write((generator.randbytes(64) * (length // 64 + 1))[:length])
            position += length
            file.seek(position)
        file.truncate(size)
    return path


def needs(kind):
    """What this host must have for images of that kind."""
    return _MAKERS[kind][1]


def make(kind, directory, raw):
    """An image of that kind, with the contents of a raw file. Returns its path."""
    path = os.path.join(directory, "image.qcow2")
    _MAKERS[kind][0](path, raw)
    return path


# --- changing a disk ----------------------------------------------------------------------

_libc = ctypes.CDLL(None, use_errno=True)


def fallocate(handle, mode, offset, length):
    """fallocate(2); raises OSError."""
    function = _libc.fallocate64 if hasattr(_libc, "fallocate64") else _libc.fallocate
    if function(handle, mode, ctypes.c_int64(offset), ctypes.c_int64(length)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def punch(handle, offset, length):
    fallocate(handle, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, offset, length)


def zero(handle, offset, length):
    fallocate(handle, FALLOC_ZERO_RANGE | FALLOC_KEEP_SIZE, offset, length)


def close(handle):
    """close(2), which may tell once more that something could not be written."""
    with contextlib.suppress(OSError):
        os.close(handle)


@contextlib.contextmanager
def opened(path, flags=os.O_RDWR):
    handle = os.open(path, flags)
    try:
        yield handle
    finally:
        close(handle)


def write_all(handle, data, offset):
    """pwrite(2) of all of it; raises OSError."""
    data = memoryview(data)
    while data:
        done = os.pwrite(handle, data, offset)
        data, offset = data[done:], offset + done


class Direct:
    """A file written, and read, past the kernel's page cache."""

    def __init__(self, path):
        self._handle = os.open(path, os.O_RDWR | os.O_DIRECT)
        self._buffer = mmap.mmap(-1, MiB)

    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        close(self._handle)
        self._buffer.close()

    def write(self, offset, data):
        with memoryview(self._buffer) as whole:
            for start in range(0, len(data), MiB):
                piece = data[start:start + MiB]
                whole[:len(piece)] = piece
                done = 0
                while done < len(piece):
                    with whole[done:len(piece)] as rest:
                        done += os.pwritev(self._handle, [rest], offset + start + done)

    def read(self, offset, length):
        with memoryview(self._buffer) as whole, whole[:length] as piece:
            return bytes(piece[:os.preadv(self._handle, [piece], offset)])

    def sync(self):
        os.fsync(self._handle)


def scribble(disk, model, seed, operations=150, longest=300 * KiB):
    """Changes the disk, buffered and not, and the model (a raw file of its size) alike."""
    generator = random.Random(seed)
    size = os.path.getsize(model)
    with opened(disk) as handle, opened(model) as plain, Direct(disk) as direct:
        for _ in range(operations):
            kind = generator.random()
            unit = 512 if kind < 0.5 else 1
            length = generator.randint(1, longest if generator.random() < 0.3 else 9 * KiB)
            length = max(1, length // unit) * unit
            offset = generator.randint(0, (size - length) // unit) * unit
            data = generator.randbytes(length)
            if kind < 0.40:
                direct.write(offset, data)
            elif kind < 0.75:
                write_all(handle, data, offset)
            elif kind < 0.95:
                (punch if kind < 0.85 else zero)(handle, offset, length)
                data = bytes(length)
            else:
                os.fsync(handle)
                continue
            write_all(plain, data, offset)
        if generator.random() < 0.5:
            os.fsync(handle)


# --- what must hold ---------------------------------------------------------------------------


def findings(path):
    """What qemu-img check finds: {"corruptions": 0, "leaks": 0, "check-errors": 0}."""
    done = tools.run("qemu-img", "check", "-f", "qcow2", "--output=json", path, status=None,
                     timeout=300)
    check(done.stdout.startswith("{"), "qemu-img check said %s", done.stdout + done.stderr)
    told = json.loads(done.stdout)
    return {name: told.get(name, 0) for name in ("corruptions", "leaks", "check-errors")}


def check_clean(path, leaks=False):
    """Fails where qemu-img check finds an error; or a leak, unless they are allowed."""
    found = findings(path)
    clean = found["corruptions"] == 0 and found["check-errors"] == 0 \
        and (leaks or found["leaks"] == 0)
    check(clean, "qemu-img check finds %s: %s", found, "" if clean else
          tools.run("qemu-img", "check", "-f", "qcow2", path, status=None).stderr[:1000])


def contents(path, raw=None):
    """What QEMU reads of the image, as a raw file: its path."""
    return image.to_raw(path, raw or path + ".contents.raw")


def check_contents(path, expected, *options):
    """Fails unless QEMU, and a new read-only mount, read what is in the raw file."""
    raw = contents(path)
    try:
        compare.check_files(raw, expected)
    finally:
        os.unlink(raw)
    with mount.mount(path, *options) as mounted:
        compare.check_files(mounted.disk, expected)


def check_read_only(path, expected, *words, options=()):
    """Fails unless a writable mount becomes a read-only one, and says why."""
    with mount.mount(path, *options, writable=True) as mounted:
        told = mounted.stderr()
        check("qcow2fs: mounting read-only: " + path in told, "it said %r", told)
        for word in words:
            check(word in told, "no %r in: %s", word, told)
        refuses(errno.EROFS, os.open, mounted.disk, os.O_RDWR)
        compare.check_files(mounted.disk, expected)


def model_of(path, directory, name="model.raw"):
    """A raw file with what the disk holds now, to be changed along with it."""
    return contents(path, os.path.join(directory, name))


def model_of_disk(disk, directory, name="model.raw"):
    """A raw file with what a mounted disk holds now, to be written, whatever the disk is."""
    model = os.path.join(directory, name)
    tools.run("cp", "--sparse=always", disk, model)
    os.chmod(model, 0o644)
    return model


def blocks(*paths):
    """The 512-byte blocks that files occupy on the host, when it has placed all."""
    image.settle(*paths)
    return sum(os.stat(path).st_blocks for path in paths)


@contextlib.contextmanager
def to_be_killed(path, *options, **keywords):
    """A writable mount whose daemon is killed, with SIGKILL, by whoever uses it."""
    with mount.mount_that_ends_badly(path, *options, writable=True, **keywords) as mounted:
        yield mounted
    mounted.check_reports()


@contextlib.contextmanager
def small_host(directory, size, kind="tmpfs"):
    """A file system of so many bytes, mounted; gives its directory. Only root can have one."""
    if os.geteuid() != 0:
        raise Skip("needs root")
    place = os.path.join(directory, "small-host")
    os.makedirs(place, exist_ok=True)
    if kind in ("tmpfs", "ramfs"):  # the latter has no limit
        tools.run("mount", "-t", kind, "-o", "size=%d" % size, "qcow2fs-test", place)
        try:
            yield place
        finally:
            _ = run.unmount(place) or run.unmount(place, lazy=True)
        return
    backing = os.path.join(directory, "small-host.raw")
    with open(backing, "wb") as file:
        file.truncate(size)
    tools.run("mkfs." + kind, "-q", backing)
    with mount.loop_device(backing, writable=True) as device, \
            mount.file_system(device, kind, "rw") as place:
        yield place


def refuses(number, function, *arguments):
    """Fails unless the function raises OSError with that number.

    Before it asks the daemon the kernel looks at the permissions of what is shown, which forbid to all but
    root what the daemon would refuse: they get EACCES.
    """
    expected = {number}
    if os.geteuid() != 0 and number in (errno.EPERM, errno.EROFS, errno.ENOTDIR):
        expected.add(errno.EACCES)
    try:
        function(*arguments)
    except OSError as error:
        check(error.errno in expected, "%s instead of %s of %s%r", errno.errorcode.get(error.errno),
              errno.errorcode[number], function.__name__, arguments[1:])
        return
    raise AssertionError("no %s: %s%r worked" % (errno.errorcode[number], function.__name__, arguments))


def long_run():
    """Whether the many rounds were asked for."""
    return bool(os.environ.get("QCOW2FS_LONG"))


def copy_image(path, to):
    """A copy of an image file, holes kept."""
    tools.run("cp", "--sparse=always", path, to)
    return to
