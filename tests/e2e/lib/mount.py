# SPDX-License-Identifier: MIT
"""Mounting images with the program under test, loop devices and file systems on them.

All are context managers; each undoes what it did, in whatever way its body ends.
"""

import contextlib
import os
import subprocess
import tempfile
import time

from . import run, tools

START_SECONDS = tools.TIMEOUT
END_SECONDS = tools.TIMEOUT
REPORTS = ("ERROR: AddressSanitizer", "ERROR: LeakSanitizer", "WARNING: ThreadSanitizer",
           "runtime error:", "UndefinedBehaviorSanitizer")


class MountFailed(Exception):
    """The program did not mount: `status` is its exit status, `stderr` what it said."""

    def __init__(self, status, stderr):
        super().__init__("exit status %s, and it said:\n%s" % (status, stderr))
        self.status = status
        self.stderr = stderr


class DaemonFailed(Exception):
    """The daemon did not end as it should."""


def is_mounted(path):
    path = os.path.realpath(path)
    return any(point == path for point, _kind in run.mounts())


def seen():
    """The options of a daemon that this process can look into: in its box it shows itself to root alone."""
    return () if os.geteuid() == 0 else ("sandbox=off",)


DIRTY_BYTES = 80 << 20  # the most, where the kernel can be told


def _limit(device, name):
    with open("/sys/class/bdi/%d:%d/%s" % (os.major(device), os.minor(device), name), encoding="ascii") as file:
        return int(file.read())


def page_cache_limits(device):
    """What the kernel may read ahead of a device's files (KiB), and its share of what is dirty."""
    return _limit(device, "read_ahead_kb"), _limit(device, "max_ratio")


def dirty_shares_raised(device):
    """What the share may be once it has been raised: bounded in bytes, too, by how much memory there is then."""
    try:
        of_one = _limit(device, "max_bytes") / _limit(device, "max_ratio")
    except FileNotFoundError:
        return {5}
    return {min(5, max(1, int(DIRTY_BYTES / of_one * around))) for around in (0.8, 0.9, 1, 1.1, 1.2)}


def _runs(pid):
    """Whether the process is there, and not one that only waits for init to notice its end.

    One whose other threads are still ending has its files open, and its locks.
    """
    try:
        with open("/proc/%d/stat" % pid, encoding="utf-8", errors="replace") as file:
            ended = file.read().rpartition(")")[2].split()[0] in ("Z", "X")
        return not ended or len(os.listdir("/proc/%d/task" % pid)) > 1
    except (FileNotFoundError, ProcessLookupError):
        return False


def _without_children(pids):
    """A steward that has begun just now has the name of its daemon still."""
    found = []
    for pid in sorted(pids):
        with contextlib.suppress(OSError), open("/proc/%d/stat" % pid, "rb") as file:
            if int(file.read().rpartition(b") ")[2].split()[1]) not in pids:
                found.append(pid)
    return found


def _check_reports(text):
    for report in REPORTS:
        if report in text:
            raise DaemonFailed("a sanitizer reported:\n%s" % text)


class Mount:
    """A mounted image.

    `path` is the mount point; `disk` the raw file; `stderr()` what the daemon has said
    (of a daemon in the background: up to when it went there).
    """

    def __init__(self, image, at, options, directory, foreground, arguments, cwd, writable):
        self.image = os.fspath(image)
        self.path = at
        self.directory = directory
        self.foreground = foreground
        self.disk = os.path.join(at, "disk.raw") if directory else at
        self.pids = []
        self._cwd = cwd
        self._logs = tempfile.mkdtemp(prefix="daemon-", dir=run.directory)
        options = (() if writable else ("ro",)) + tuple(options)
        self._argv = [run.program()] + (["-f"] if foreground else []) + list(arguments)
        self._argv += ["-o", ",".join(options)] if options else []
        self._argv += [self.image, at]
        self._process = None

    def stderr(self):
        with open(os.path.join(self._logs, "stderr"), encoding="utf-8",
                  errors="backslashreplace") as file:
            return file.read()

    # --- starting -------------------------------------------------------------

    def _environment(self):
        """Sanitizers of a daemon that has closed its stderr report to files."""
        if self.foreground:
            return {}
        where = "log_path=%s" % os.path.join(self._logs, "sanitizer")
        return {name: (os.environ[name] + ":" if os.environ.get(name) else "") + where
                for name in ("ASAN_OPTIONS", "TSAN_OPTIONS", "UBSAN_OPTIONS", "LSAN_OPTIONS")}

    def start(self):
        known = set(run.daemons(run.directory))
        with open(os.path.join(self._logs, "stderr"), "wb") as errors:
            self._process = run.start(self._argv, stdin=subprocess.DEVNULL, stdout=errors,
                                      stderr=errors, cwd=self._cwd, env=self._environment())
        deadline = time.monotonic() + START_SECONDS
        while True:
            status = self._process.poll()
            if status is not None:
                break
            if self.foreground and is_mounted(self.path):
                break
            if time.monotonic() > deadline:
                self.kill()
                raise MountFailed("none: killed after %d seconds" % START_SECONDS, self.stderr())
            time.sleep(0.005)
        if status is not None and (self.foreground or status != 0):
            self.check_reports()
            raise MountFailed(status, self.stderr())
        if not is_mounted(self.path):
            raise MountFailed("0 before the mount was there", self.stderr())
        os.stat(self.disk)
        self.pids = [self._process.pid] if self.foreground else _without_children(
            set(run.daemons(run.directory)) - known)

    # --- ending ---------------------------------------------------------------

    def kill(self):
        """Ends the daemon as SIGKILL does, and takes the dead mount away."""
        for pid in self.pids or [self._process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        self._process.wait()
        deadline = time.monotonic() + END_SECONDS
        while any(_runs(pid) for pid in self.pids) and time.monotonic() < deadline:
            time.sleep(0.002)
        if is_mounted(self.path):
            _ = run.unmount(self.path) or run.unmount(self.path, lazy=True)

    def _unmount(self):
        for attempt in range(50):
            if not is_mounted(self.path) or run.unmount(self.path):
                return True
            time.sleep(0.01 * (attempt + 1))
        run.unmount(self.path, lazy=True)
        return False

    def _running(self):
        if self.foreground:
            return self._process.poll() is None
        return any(_runs(pid) for pid in self.pids)

    def has_ended(self):
        return not self._running()

    def wait(self):
        """Waits until the unmounted daemon has ended, and judges how."""
        deadline = time.monotonic() + END_SECONDS
        while self._running():
            if time.monotonic() > deadline:
                self.kill()
                raise DaemonFailed("the daemon still ran %d seconds after the unmount; it said:\n%s"
                                   % (END_SECONDS, self.stderr()))
            time.sleep(0.005)
        self.check_reports()
        status = self._process.poll()
        if status != 0:
            raise DaemonFailed("the daemon ended with status %s; it said:\n%s"
                               % (status, self.stderr()))

    def check_reports(self):
        for name in sorted(os.listdir(self._logs)):
            with open(os.path.join(self._logs, name), encoding="utf-8",
                      errors="backslashreplace") as file:
                _check_reports(file.read())

    def signal(self, number):
        """Ends the daemon by a signal, and waits for it."""
        for pid in self.pids:
            os.kill(pid, number)
        self.wait()

    def stop(self):
        """Unmounts, and waits for the daemon."""
        if self._process.returncode is not None and self.foreground:
            return  # signal() has judged it
        unmounted = self._unmount()
        self.wait()
        if not unmounted:
            raise DaemonFailed("%s was busy: something still had it open" % self.path)


@contextlib.contextmanager
def mount(image, *options, at=None, directory=False, foreground=True, arguments=(), cwd=None,
          writable=False):
    """Mounts `image` and gives a Mount.

    at          the mount point; made in the run's directory when not given
    directory   whether the mount point is a directory (it is made so)
    options     items for -o
    writable    without it, -o begins with ro
    arguments   further arguments, before the image
    foreground  run with -f as a child, its stderr captured and its status checked;
                otherwise as a user starts it, in the background
    """
    if at is None:
        place = tempfile.mkdtemp(prefix="mnt-", dir=run.directory)
        at = place if directory else os.path.join(place, "disk.raw")
        if not directory:
            with open(at, "wb"):
                pass
    mounted = Mount(image, at, options, directory, foreground, arguments, cwd, writable)
    try:
        mounted.start()
    except OSError:  # it mounted, but does not answer
        mounted.kill()
        raise
    try:
        yield mounted
    finally:
        mounted.stop()


@contextlib.contextmanager
def mount_that_ends_badly(image, *options, **keywords):
    """As mount(), where the daemon is killed, or may fail to end well. What the body finds counts."""
    found = None
    with contextlib.suppress(DaemonFailed):
        with mount(image, *options, **keywords) as mounted:
            try:
                yield mounted
            except BaseException as error:
                found = error
                raise
    if found is not None:
        raise found  # a DaemonFailed has taken its place


def mount_fails(image, *options, **keywords):
    """Mounts an image that must be refused; returns the MountFailed."""
    try:
        with mount(image, *options, **keywords):
            pass
    except MountFailed as failed:
        return failed
    raise AssertionError("%s was mounted, and should have been refused" % image)


@contextlib.contextmanager
def loop_device(path, *arguments, writable=False):
    """A loop device on `path`, read-only unless `writable`; gives the device's name."""
    device = tools.output("losetup", *([] if writable else ["-r"]), *arguments, "--find", "--show",
                          path).strip()
    try:
        yield device
    finally:
        _detach(device)


def behind_loop(device):
    """The file behind a loop device; None where it has none."""
    with contextlib.suppress(OSError), \
            open("/sys/block/%s/loop/backing_file" % os.path.basename(device), encoding="utf-8",
                 errors="surrogateescape") as file:
        return file.read()
    return None


def _detach(device):
    behind = behind_loop(device)
    tools.run("losetup", "-d", device)
    deadline = time.monotonic() + END_SECONDS
    # udev or blkid may hold it for a moment, and afterwards it may be another's.
    while behind is not None and behind_loop(device) == behind:
        if time.monotonic() > deadline:
            raise AssertionError("%s is still attached: something has it open" % device)
        time.sleep(0.01)


@contextlib.contextmanager
def file_system(device, kind="ext4", options="ro"):
    """The file system on a device, mounted; gives its directory."""
    place = tempfile.mkdtemp(prefix="fs-", dir=run.directory)
    tools.run("mount", "-t", kind, "-o", options, device, place)
    try:
        yield place
    finally:
        for attempt in range(50):
            if run.unmount(place):
                break
            time.sleep(0.01 * (attempt + 1))
        else:
            run.unmount(place, lazy=True)
            raise AssertionError("%s was busy" % place)
        os.rmdir(place)
