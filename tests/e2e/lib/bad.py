# SPDX-License-Identifier: MIT
"""Bad input: images to be spoilt, and a program that must refuse them with one sentence.

Also what several tests of a hostile world need: blocks that can or cannot be read, somebody
who holds an image, a user without rights.
"""

import contextlib
import errno
import glob
import json
import mmap
import os
import random
import selectors
import shutil
import signal
import stat
import subprocess
import tempfile
import time

from . import compare, encrypted, image, mount, private, qcow2, run, tools
from .image import KiB, MiB
from .mount import REPORTS
from .tap import check, check_equal

REFUSAL_SECONDS = tools.TIMEOUT  # for what takes no time: a hang is to be seen, not a machine that is busy
SOON = 60  # seconds, on a busy machine; what is not to be done would last for hours
NOBODY = "65534"

# --- images to be spoilt -------------------------------------------------------------

SIZE = 2 * MiB


def _filled(path, size=SIZE, compress=True, **options):
    """Data, zeros, and some compressed clusters."""
    image.create(path, size, **options)
    cluster = image.info(path)["cluster-size"]
    commands = [image.write(0, size // 2, 1), "write -q -z %d %d" % (size // 4, cluster)]
    if compress:
        at = size // 2 // cluster * cluster
        commands += ["write -q -c -P %d %d %d" % (65 + number, at + number * cluster, cluster)
                     for number in range(4)]
    image.io(path, *commands)
    return path


def _plain(directory):
    return _filled(os.path.join(directory, "image.qcow2"))


def _version2(directory):
    return _filled(os.path.join(directory, "image.qcow2"), compat="0.10")


def _small(directory):
    return _filled(os.path.join(directory, "image.qcow2"), cluster_size="4k")


def _zstd(directory):
    return _filled(os.path.join(directory, "image.qcow2"), compression_type="zstd")


def _extended(directory):
    path = _filled(os.path.join(directory, "image.qcow2"), extended_l2="on", cluster_size="16k")
    image.io(path, image.write(SIZE - 100 * KiB, 2 * KiB, 2), "write -q -z %d 1024" % (5 * KiB))
    return path


def _snapshots(directory):
    path = _filled(os.path.join(directory, "image.qcow2"), cluster_size="4k")
    for number, name in enumerate(("first", "second", "third")):
        tools.run("qemu-img", "snapshot", "-c", name, path)
        image.io(path, image.write(number * 40 * KiB, 20 * KiB, 3 + number))
    return path


def _backing(directory):
    image.sparse_raw(os.path.join(directory, "base.raw"), SIZE // 2)
    path = image.create(os.path.join(directory, "image.qcow2"), SIZE, backing="base.raw",
                        backing_format="raw", cluster_size="4k")
    image.io(path, image.write(100 * KiB, 30 * KiB, 1), image.write(SIZE - 8 * KiB, 8 * KiB, 2))
    return path


def _data_file(directory):
    path = os.path.join(directory, "image.qcow2")
    return _filled(path, compress=False, data_file=os.path.join(directory, "data.raw"))


def _bitmaps(directory):
    path = _plain(directory)
    tools.run("qemu-img", "bitmap", "--add", path, "one")
    tools.run("qemu-img", "bitmap", "--add", path, "two")
    return path


def _encrypted(format_name):
    def make(directory):
        path = os.path.join(directory, "image.qcow2")
        extra = ",encrypt.iter-time=10" if format_name == "luks" else ""
        encrypted.make("qemu-img", "create", "-q", "--object", "secret,id=s0,data=abc123", "-f",
                       "qcow2", "-o",
                       "encrypt.format=%s,encrypt.key-secret=s0%s" % (format_name, extra), path,
                       "2M")
        return path
    return make


MAKERS = {"plain": _plain, "version2": _version2, "small": _small, "zstd": _zstd,
          "extended": _extended, "snapshots": _snapshots, "backing": _backing,
          "datafile": _data_file, "bitmaps": _bitmaps,
          "luks": _encrypted("luks"), "aes": _encrypted("aes")}


def sample(kind, directory):
    """A fresh copy, in `directory`, of the image of that kind; made once a run. Its path.

    Other files that it names are copied along; their names are recorded relatively, but for
    the data file, which stays where it was made.
    """
    kept = os.path.join(run.directory, "sample-" + kind)
    if not os.path.isdir(kept):
        os.mkdir(kept)
        try:
            MAKERS[kind](kept)
        except BaseException:
            shutil.rmtree(kept)  # nobody is to take a half of it for all
            raise
    for name in os.listdir(kept):
        shutil.copyfile(os.path.join(kept, name), os.path.join(directory, name))
    path = os.path.join(directory, "image.qcow2")
    if kind == "datafile":
        with qcow2.Qcow2(path) as opened:
            opened.remove_extension(qcow2.EXTENSION_DATA_FILE)
            opened.append_extension(qcow2.EXTENSION_DATA_FILE,
                                    os.path.join(directory, "data.raw").encode())
    return path


def compressible_raw(path, size, seed=1):
    """A raw file of which every cluster compresses, and no two are alike; some are holes."""
    generator = random.Random(seed)
    with open(path, "wb") as file:
        for _ in range(0, size, 4 * KiB):
            if generator.random() < 0.1:
                file.seek(4 * KiB, os.SEEK_CUR)
            else:
                file.write(generator.randbytes(64) * 64)
        file.truncate(size)
    return path


# --- refusals -----------------------------------------------------------------------------


def user_prefix(user):
    """The words that make a program run as somebody without rights."""
    if user is None or os.geteuid() != 0:
        return []
    return ["setpriv", "--reuid=" + user, "--regid=" + user, "--clear-groups"]


def start_and_end(*arguments, user=None, cwd=None, env=None, seconds=REFUSAL_SECONDS,
                  program=None):
    """Runs qcow2fs to its end; what subprocess.run() gives, as text. Never shows a report."""
    mark = dict(env or {}, **{run.MARK: run.directory})
    done = tools.run(*user_prefix(user), program or run.program(), *arguments, status=None,
                     timeout=seconds, cwd=cwd, env=mark)
    for report in REPORTS:
        check(report not in done.stderr, "a sanitizer reported:\n%s", done.stderr)
    return done


def check_sentence(text, *words, program="qcow2fs"):
    """One line that begins as it must and holds all the words."""
    if text.startswith("{"):  # with --json errors are JSON, too
        found = json.loads(text)
        check(isinstance(found["status"], int) and isinstance(found["errno"], int), "no numbers: %s",
              text)
        text = "%s: %s\n" % (program, found["error"])
    check(text.endswith("\n") and text.count("\n") == 1, "not one line: %r", text)
    check(text.startswith(program + ": "), "it does not begin with the program's name: %r", text)
    check(not text.endswith(".\n"), "it ends in a full stop: %r", text)
    check(all(ord(letter) >= 32 for letter in text[:-1]), "a control character in %r", text)
    for word in words:
        check(word in text, "no %r in: %s", word, text.rstrip("\n"))


def _kept_of(*paths):
    """What regular files are now: not their access times, which a probe may change."""
    found = {}
    for path in paths:
        if os.path.isfile(path):
            status = os.stat(path)
            digest = compare.sha256(path) if os.access(path, os.R_OK) else None
            found[path] = (digest, status.st_mtime_ns, status.st_size, status.st_mode)
    return found


def mount_point(directory, name="mnt"):
    """A file to mount on."""
    at = os.path.join(directory, name)
    if not os.path.exists(at):
        with open(at, "wb"):
            pass
    return at


def refused(path, *words, options=(), user=None, cwd=None, status=1, foreground=True,
            at=None, program=None, others=(), named=None):
    """Fails unless qcow2fs refuses to mount `path`: one sentence with the words and the name
    of the file to blame (by default the image), the status, nothing mounted, nothing changed.
    Returns the sentence."""
    at = at or mount_point(tempfile.mkdtemp(prefix="at-", dir=run.directory))
    full = os.path.join(cwd or "", path)
    before = _kept_of(full, *others)
    arguments = (["-f"] if foreground else []) + (["-o", ",".join(options)] if options else [])
    done = start_and_end(*arguments, path, at, user=user, cwd=cwd, program=program)
    try:
        check(not mount.is_mounted(at), "it was mounted")
    finally:
        run.unmount(at) if mount.is_mounted(at) else None  # pylint: disable=expression-not-assigned
    check_sentence(done.stderr, *words)
    check((named or os.path.basename(path)) in done.stderr, "the file is not named: %s",
          done.stderr)
    check_equal(done.returncode, status, "the exit status (%s)" % done.stderr.rstrip("\n"))
    check_equal(done.stdout, "", "standard output")
    check_equal(_kept_of(full, *others), before, "the files, after the refusal,")
    return done.stderr


# --- blocks that can or cannot be read ------------------------------------------------------


class Blocks:
    """A file read with O_DIRECT: each read is a request to the daemon, of that range alone."""

    def __init__(self, path):
        self._handle = os.open(path, os.O_RDONLY | os.O_DIRECT)
        self._buffer = mmap.mmap(-1, MiB)

    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        os.close(self._handle)
        self._buffer.close()

    def read(self, offset, length):
        """The bytes, or None for an I/O error. Any other error is raised."""
        try:
            with memoryview(self._buffer) as whole, whole[:length] as piece:
                got = os.preadv(self._handle, [piece], offset)
                return bytes(piece[:got])
        except OSError as error:
            if error.errno == errno.EIO:
                return None
            raise

    def all(self, block, size=None):
        """(offset, bytes or None) of every block."""
        size = os.fstat(self._handle).st_size if size is None else size
        for offset in range(0, size, block):
            yield offset, self.read(offset, block)


def unreadable(path, block, expected=None):
    """The offsets of the blocks that give EIO; all others must be what is in `expected`."""
    found = []
    with Blocks(path) as blocks:
        for offset, data in blocks.all(block):
            if data is None:
                found.append(offset)
            elif expected is not None:
                compare.check_bytes(data, expected[offset:offset + len(data)], offset)
    return found


def contents(path):
    """What qemu-img reads of an image, as bytes."""
    raw = tempfile.mktemp(suffix=".raw", dir=run.directory)
    image.to_raw(path, raw)
    with open(raw, "rb") as file:
        data = file.read()
    os.unlink(raw)
    return data


# --- somebody who has an image open -----------------------------------------------------------


@contextlib.contextmanager
def held(path, *arguments, image_format="qcow2"):
    """qemu-io that has the image open (for writing, unless -r is among the arguments)."""
    process = run.start(["qemu-io", "-f", image_format, *arguments, path], stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        told = _read_until(process.stdout, b"qemu-io> ")
        check(told.endswith(b"qemu-io> "), "qemu-io did not open %s: %r", path, told)
        yield process
    finally:
        process.stdin.close()
        try:
            process.wait(tools.TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def tell(process, command):
    """Gives a command to the qemu-io of held(), and waits until it is done."""
    process.stdin.write(command.encode() + b"\n")
    process.stdin.flush()
    told = _read_until(process.stdout, b"qemu-io> ")
    check(told.endswith(b"qemu-io> ") and b"rror" not in told, "%s: %r", command, told)


def _read_until(stream, ending, seconds=tools.TIMEOUT):
    told = b""
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while not told.endswith(ending) and selector.select(max(0, deadline - time.monotonic())):
            data = os.read(stream.fileno(), 4096)
            if not data:
                break
            told += data
    return told


def wait_for(condition, what, seconds=tools.TIMEOUT):
    """Waits until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        check(time.monotonic() < deadline, "still not after %d seconds: %s", seconds, what)
        time.sleep(0.01)


def is_at_end(pipe):
    """Whether nobody has the other end of a pipe, that of ours not waiting for anything."""
    try:
        return os.read(pipe, 1) == b""
    except BlockingIOError:
        return False


def stop(pid):
    """Stops a process. kill() returns before its threads have stopped, and they may go on with their work till then."""
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: all(_is_stopped(path) for path in glob.glob("/proc/%d/task/*/stat" % pid)),
             "each thread of process %d has stopped" % pid)


def _is_stopped(path):
    with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(path, "rb") as file:
        return file.read().rpartition(b") ")[2][:1] in b"TtZX"
    return True


# --- mounts that a test makes in its own way ----------------------------------------------------


def mount_table(path):
    """(source, type, options) of the mount at a path, as /proc/self/mounts has them."""
    found = None
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            source, point, kind, options = line.split()[:4]
            if point.encode("utf-8", "surrogateescape").decode("unicode_escape") == path:
                found = (source.encode().decode("unicode_escape"), kind, options.split(","))
    return found


def wait_gone(at):
    """Fails unless the mount, and the daemon that served it, are soon gone."""
    wait_for(lambda: not mount.is_mounted(at), "%s is unmounted" % at)
    wait_for(lambda: not run.processes(run.directory), "no daemon runs")


@contextlib.contextmanager
def unmounted_at_the_end(at):
    try:
        yield
    finally:
        if mount.is_mounted(at):
            check(run.unmount(at), "%s cannot be unmounted", at)
        wait_gone(at)


def points(directory):
    """A file and a directory to mount on, and where the disk appears."""
    at = os.path.join(directory, "dir")
    os.makedirs(at, exist_ok=True)
    yield mount_point(directory), ""
    yield at, "disk.raw"


def check_disk(at, name, expected):
    check_equal(unreadable(os.path.join(at, name) if name else at, 256 * KiB, expected), [],
                "the offsets of EIO")


# --- a place for a user without rights --------------------------------------------------------


class _Public:
    """`path`: a directory that everybody can enter; `program`: qcow2fs, for everybody."""

    def __init__(self, path, program):
        self.path, self.program = path, program


@contextlib.contextmanager
def public_directory():
    """A directory on a path that everybody can go, with a copy of the program in it."""
    top = run.directory if os.geteuid() != 0 else _open_way()
    path = tempfile.mkdtemp(prefix="public-", dir=top)
    os.chmod(path, 0o755)
    program = os.path.join(path, "qcow2fs")
    shutil.copy2(run.program(), program)
    os.chmod(program, 0o755)
    try:
        yield _Public(path, program)
    finally:
        run.clean_up(path)
        shutil.rmtree(path, ignore_errors=True)


def private_mounts():
    """Gives this process mounts of its own, in which everybody may open /dev/fuse.

    On some hosts only root may. To be called by root, before anything is mounted. Nothing of
    it is seen outside, and all of it goes with the process.
    """
    private.enter()
    if os.stat("/dev/fuse").st_mode & 0o6 == 0o6:
        return
    place = tempfile.mkdtemp(prefix="qcow2fs-test-")
    try:
        tools.run("mount", "-t", "tmpfs", "-o", "mode=755,dev", "qcow2fs-test", place)
        node = os.path.join(place, "fuse")
        os.mknod(node, 0o666 | stat.S_IFCHR, os.stat("/dev/fuse").st_rdev)
        os.chmod(node, 0o666)
        tools.run("mount", "--bind", node, "/dev/fuse")
        tools.run("umount", "-l", place)
    finally:
        os.rmdir(place)


def _open_way():
    """The run's directory where everybody can get there, the usual temporary one elsewhere."""
    os.chmod(run.directory, 0o711)
    done = tools.run(*user_prefix(NOBODY), "test", "-x", run.directory, status=None)
    return run.directory if done.returncode == 0 else tempfile.gettempdir()
