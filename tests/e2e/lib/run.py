# SPDX-License-Identifier: MIT
"""One run of a test file: settings, the temporary directory, and its end.

Whatever the way a run ends, nothing stays behind: no mount or loop device under
the temporary directory, no daemon, no directory. Three nets hold that:

1. context managers undo what they did (mount.py);
2. clean_up() when the run ends, also by SIGTERM, SIGINT or SIGHUP;
3. the guard, a process of its own that cleans up when the run is killed, and
   kills the daemons of a test that takes too long (a read from a daemon that
   hangs cannot be ended in any other way).
"""

import atexit
import glob
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from . import tools

SOURCE = os.path.realpath(os.environ.get(
    "QCOW2FS_SRCDIR", os.path.join(os.path.dirname(__file__), "..", "..", "..")))
TEMPORARY = os.path.abspath(os.environ.get(
    "QCOW2FS_TMP", os.path.join(tempfile.gettempdir(), "qcow2fs-test-%d" % os.getuid())))
TEST_SECONDS = float(os.environ.get("QCOW2FS_TEST_SECONDS", 300))
MARK = "QCOW2FS_TEST_RUN"  # in the environment of every daemon, with the run's directory

directory = None  # of this run, made by begin()
_guard = None     # the end of a pipe that the guard reads


def program():
    """The qcow2fs under test: $QCOW2FS, or a build in or next to the source tree."""
    given = os.environ.get("QCOW2FS")
    if given:
        found = os.path.abspath(given)
    else:
        places = [SOURCE, os.path.join(SOURCE, "build*"), os.path.join(SOURCE, "..", "build*")]
        built = [path for place in places
                 for path in sorted(glob.glob(os.path.join(place, "src", "qcow2fs")))
                 if os.path.isfile(path) and os.access(path, os.X_OK)]
        if not built:
            raise FileNotFoundError("no built qcow2fs found: set QCOW2FS to its path")
        found = os.path.abspath(built[0])
    if not os.access(found, os.X_OK):
        raise FileNotFoundError("%s is not there, or cannot be run" % found)
    return found


def _unescape(path):
    """/proc/self/mountinfo writes blanks and backslashes as octal numbers."""
    return path.encode("latin-1").decode("unicode_escape").encode("latin-1").decode(
        "utf-8", "surrogateescape") if "\\" in path else path


def mounts():
    """(mount point, type) of every mount, the oldest first."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            fields = line.rstrip("\n").split(" ")
            separator = fields.index("-", 6)
            found.append((_unescape(fields[4]), fields[separator + 1]))
    return found


def _inside(path, top):
    return path == top or path.startswith(top + os.sep)


def _try(*argv):
    try:
        return tools.run(*argv, timeout=60, status=None).returncode == 0
    except tools.CommandFailed:
        return False


def unmount(path, lazy=False):
    """Whether the mount at `path` could be unmounted."""
    if os.geteuid() == 0:
        return _try("umount", *(["-l"] if lazy else []), path)
    return _try("fusermount3", "-u", *(["-z"] if lazy else []), path)


# The names of processes that a daemon has beside it.
BESIDE = (b"qcow2fs-steward\n", b"qcow2fs-nbdkit\n", b"nbdkit\n")


def _is_of(entry, top):
    wanted = ("%s=%s" % (MARK, top)).encode("utf-8", "surrogateescape")
    try:
        with open(os.path.join(entry, "environ"), "rb") as file:
            return wanted in file.read().split(b"\0")
    except PermissionError:  # in its box a daemon shows its memory to nobody but root
        with open(os.path.join(entry, "cmdline"), "rb") as file:
            return os.fsencode(top + "/") in file.read()


def processes(top):
    """The processes that this run started as daemons (also those in the background), with their stewards."""
    found = []
    for entry in glob.glob("/proc/[0-9]*"):
        try:
            if _is_of(entry, top):
                found.append(int(entry.split("/")[2]))
        except OSError:
            continue
    return found


def _is_beside(pid):
    try:
        with open("/proc/%d/comm" % pid, "rb") as file:
            return file.read() in BESIDE
    except OSError:
        return False


def daemons(top):
    """Without what is beside them."""
    return [pid for pid in processes(top) if not _is_beside(pid)]


def kill_daemons(top):
    for pid in processes(top):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def _loop_devices(top):
    for entry in glob.glob("/sys/block/loop*/loop/backing_file"):
        try:
            with open(entry, encoding="utf-8", errors="surrogateescape") as file:
                if _inside(file.read().rstrip("\n"), top):
                    yield "/dev/" + entry.split("/")[3]
        except OSError:
            continue


def clean_up(top):
    """Undoes every mount, loop device and daemon under `top`. Returns what it found."""
    found = []
    for path, kind in reversed(mounts()):
        if _inside(path, top) and not kind.startswith("fuse"):
            found.append("mount of %s" % path)
            _ = unmount(path) or unmount(path, lazy=True)
    for device in _loop_devices(top):
        found.append("loop device %s" % device)
        _try("losetup", "-d", device)
    for path, _kind in reversed(mounts()):
        if _inside(path, top):
            found.append("mount of %s" % path)
            _ = unmount(path) or unmount(path, lazy=True)
    deadline = time.monotonic() + 5
    while found and processes(top) and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in processes(top):
        found.append("process %d" % pid)
    kill_daemons(top)
    return found


def _short_top(top):
    return os.path.join("/tmp", os.path.basename(top))


def _remove(top):
    for path in (top, _short_top(top)):
        shutil.rmtree(path, ignore_errors=True)


def _watch(top, pipe):
    """The guard: lines on the pipe set the deadline; its end is the end of the run."""
    deadline = None
    while True:
        wait = None if deadline is None else max(0, deadline - time.monotonic())
        if not select.select([pipe], [], [], wait)[0]:
            kill_daemons(top)
            deadline = time.monotonic() + 5
            continue
        told = os.read(pipe, 4096)
        if not told:
            break
        seconds = float(told.split()[-1])
        deadline = time.monotonic() + seconds if seconds > 0 else None
    if os.path.isdir(top):
        clean_up(top)
        _remove(top)


def _start_guard(top):
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            nothing = os.open(os.devnull, os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(nothing, number)
            os.close(writing)
            _watch(top, reading)
        finally:
            os._exit(0)
    os.close(reading)
    return writing


def watch_for(seconds):
    """Gives the present test that many seconds; 0 ends the watch."""
    if _guard is not None:
        os.write(_guard, b"%f\n" % seconds)


class Interrupted(BaseException):
    """A signal that ends the run."""


def _interrupt(number, _frame):
    raise Interrupted(signal.Signals(number).name)


def _end():
    global directory
    if directory is None:
        return
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for left in clean_up(directory):
        print("# left behind, and cleaned up: %s" % left, flush=True)
    _remove(directory)
    directory = None


def begin():
    """Makes the run's directory, and spreads the nets."""
    global directory, _guard
    os.makedirs(TEMPORARY, exist_ok=True)
    name = os.path.splitext(os.path.basename(sys.argv[0]))[0]
    directory = os.path.realpath(tempfile.mkdtemp(prefix=name + "-", dir=TEMPORARY))
    atexit.register(_end)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    _guard = _start_guard(directory)


def short(place):
    """A directory for the sockets of `place`, a directory or file of this run: their paths have at most 107 bytes.

    It goes with the run.
    """
    found = os.path.join(_short_top(directory), os.path.basename(place))
    os.makedirs(found, exist_ok=True)
    return found


def start(argv, **keywords):
    """Starts a program in the background, marked as belonging to this run."""
    extra = keywords.pop("env", {})
    return subprocess.Popen(argv, env=tools.environment(**dict(extra, **{MARK: directory})),
                            **keywords)
