# SPDX-License-Identifier: MIT
"""What is measured. Each target shows a Disk as a file.

    raw        the plain file itself: what no file system in user space can beat
    floor      libfuse's example passthrough_ll over that file: what FUSE costs at the least
    qsd        qemu-storage-daemon's FUSE export, writable; of several versions, if given
    nbdfuse    libnbd's nbdfuse over qemu-nbd
    qcowmount  libqcow's, read-only
    qcow2fs    ours
    before     ours, too: another program (--before)

and for jobs that need files (jobs.py)

    guestmount libguestfs', with a virtual machine of its own; it shows no disk

All with the page cache of the host, and their own defaults but for the Tuning.
"""

import contextlib
import os
import re
import subprocess
import time

from lib import run, tools

START_SECONDS = 60
END_SECONDS = 30
BEFORE = "before"
REMOTE = "remote"  # a tuning: the image is at an address, and only read
EXAMPLES = "/usr/share/doc/libfuse3-dev/examples"


class CannotServe(Exception):
    """This target cannot show this disk; the text says why."""


class Served:
    """A disk that is shown: `path` is the raw file, `pid` the daemon's, None without one."""

    def __init__(self, path, process=None, ready=0.0):
        self.path = path
        self.pid = process.pid if process is not None else None
        self.ready = ready  # seconds from exec to the first stat(2) that shows the disk

    def private_memory(self):
        """RssAnon of the daemon, bytes."""
        with open("/proc/%d/status" % self.pid, encoding="ascii", errors="replace") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines
                        if line.startswith("RssAnon:"))


def _said(log):
    log.seek(0)
    return log.read().decode("utf-8", "backslashreplace").strip()[-500:]


def _wait_until_shown(process, path, size, log):
    deadline = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(OSError):
            if os.stat(path).st_size == size:
                return
        if process.poll() is not None:
            raise CannotServe("ended with status %d: %s" % (process.returncode, _said(log)))
        if time.monotonic() > deadline:
            raise CannotServe("did not show the disk within %d seconds: %s"
                              % (START_SECONDS, _said(log)))
        time.sleep(0.0002)


def _end(process, mount_point, by_signal):
    """Unmounts. A daemon that outlives its mount is sent SIGTERM, upon which it unmounts."""
    if by_signal:
        process.terminate()
    else:
        for attempt in range(50):
            if run.unmount(mount_point):
                break
            time.sleep(0.01 * (attempt + 1))
        else:
            run.unmount(mount_point, lazy=True)
    try:
        process.wait(timeout=END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def daemon(argv, path, mount_point, size, by_signal=False, pass_fds=()):
    """Runs a daemon in the foreground until the body ends; gives a Served."""
    with open(os.path.join(run.directory, "daemon.log"), "w+b") as log:
        began = time.perf_counter()
        process = run.start(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                            pass_fds=pass_fds)
        try:
            _wait_until_shown(process, path, size, log)
            yield Served(path, process, time.perf_counter() - began)
        finally:
            if process.poll() is None:
                if any(point == mount_point for point, _kind in run.mounts()):
                    _end(process, mount_point, by_signal)
                else:
                    process.kill()
            process.wait()


class Target:
    """One column of the table. `kind` is one of the names above, `name` unique."""

    writes = True

    def __init__(self, name, places):
        self.name = name
        self.kind = name
        self.places = places

    def version(self):
        return ""

    def missing(self):
        """None, or what is missing and how to get it."""
        return None

    def serve(self, disk, tuning=""):
        """Context manager that gives a Served. `tuning` is "", "lazy" (refcounts),
        "minimum" (the smallest L2 cache) or, of qcow2fs only, "directory" (with stats.json),
        "compress", "clean" (the cache, each second) or "bitmaps" (the disk has some); REMOTE of
        these two."""
        raise NotImplementedError


class Raw(Target):
    @contextlib.contextmanager
    def serve(self, disk, tuning=""):
        yield Served(disk.raw)


class Floor(Target):
    """libfuse's passthrough_ll, as the package ships it.

    `cache=always` keeps the page cache across opens, as qcow2fs does. Threads are the library's
    default (many), and `clone_fd` gives each of them a channel of its own, as in qcow2fs.
    `writeback` lets the kernel gather what is written, as in qcow2fs: without it each buffered
    write is a request, and one that syncs after each write to a disk was several times as slow.
    """

    OPTIONS = "cache=always,writeback,clone_fd"

    def __init__(self, name, places, options=None):
        super().__init__(name, places)
        self.options = options or self.OPTIONS
        self._program = None

    def missing(self):
        if not os.path.exists(os.path.join(EXAMPLES, "passthrough_ll.c")):
            return "passthrough_ll.c is not in %s: apt-get install libfuse3-dev" % EXAMPLES
        if not tools.have("cc") or not tools.have("pkg-config"):
            return "no compiler: apt-get install gcc pkg-config"
        return None

    def version(self):
        return "passthrough_ll of libfuse %s, -o %s" % (
            tools.output("pkg-config", "--modversion", "fuse3").strip(), self.options)

    def _compiled(self):
        if self._program is None:
            program = os.path.join(run.directory, "passthrough_ll")
            flags = tools.output("pkg-config", "--cflags", "--libs", "fuse3").split()
            tools.run("cc", "-O2", "-w", "-o", program,
                      os.path.join(EXAMPLES, "passthrough_ll.c"), *flags)
            self._program = program
        return self._program

    @contextlib.contextmanager
    def serve(self, disk, tuning=""):
        at = self.places.mount_point()
        argv = [self._compiled(), "-f", "-o", "source=%s,%s" % (disk.directory, self.options), at]
        path = os.path.join(at, os.path.basename(disk.raw))
        with daemon(argv, path, at, disk.size) as served:
            yield served


class StorageDaemon(Target):
    def __init__(self, name, places, program, iothreads=False):
        super().__init__(name, places)
        self.kind = "qsd"
        self.program = program
        self.iothreads = iothreads

    def missing(self):
        if not tools.have(self.program):
            return "no %s: apt-get install qemu-system-common" % self.program
        return None

    def version(self):
        said = tools.output(self.program, "--version")
        return re.search(r"version (\S+)", said).group(1)

    def _argv(self, disk, tuning, at):
        image = "driver=qcow2,node-name=disk,file=file"
        if tuning == "lazy":
            image += ",lazy-refcounts=on"
        elif tuning == "minimum":
            image += ",l2-cache-entry-size=4096,l2-cache-size=8192"
        export = "type=fuse,id=export,node-name=disk,mountpoint=%s,writable=%s" % (
            at, "off" if tuning == REMOTE else "on")
        argv = [self.program]
        if disk.key:
            argv += ["--object", "secret,id=key,file=" + disk.key]
            image += ",encrypt.format=luks,encrypt.key-secret=key"
        if self.iothreads:
            for number in range(os.cpu_count()):
                argv += ["--object", "iothread,id=io%d" % number]
                export += ",iothread.%d=io%d" % (number, number)
        file = "driver=file,node-name=file,discard=unmap,filename=" + disk.qcow2.replace(",", ",,")
        if tuning == REMOTE:
            file = "driver=nbd,node-name=file,read-only=on,server.type=unix,server.path=" \
                + disk.qcow2.partition("socket=")[2]
            image += ",read-only=on"
        return argv + ["--blockdev", file, "--blockdev", image, "--export", export]

    def serve(self, disk, tuning="", monitor=None):
        at = self.places.mount_point(size=0)
        argv = self._argv(disk, tuning, at)
        if monitor is None:
            return daemon(argv, at, at, disk.size, by_signal=True)
        return daemon(argv + monitor.options, at, at, disk.size, by_signal=True,
                       pass_fds=[monitor.other.fileno()])

    def knows_iothreads(self, images):
        """Whether it can be given several threads for one export: by trying."""
        try:
            with self.serve(images.get("empty-%d" % (1 << 20))):
                return True
        except CannotServe:
            return False


class NbdFuse(Target):
    def missing(self):
        if not tools.have("nbdfuse"):
            return "no nbdfuse: apt-get install libnbd-bin"
        return None if tools.have("qemu-nbd") else "no qemu-nbd: apt-get install qemu-utils"

    def version(self):
        return tools.output("nbdfuse", "--version").split()[1]

    def serve(self, disk, tuning=""):
        at = self.places.mount_point(size=0)
        # Any number of connections, which lets nbdfuse have several.
        argv = ["nbdfuse", at, "[", "qemu-nbd", "--shared=0", "--cache=writeback",
                "--format=qcow2", disk.qcow2, "]"]
        return daemon(argv, at, at, disk.size)


class QcowMount(Target):
    writes = False

    def missing(self):
        return None if tools.have("qcowmount") else \
            "no qcowmount: apt-get install libqcow-utils"

    def version(self):
        return tools.output("qcowmount", "-V").split()[1]

    def serve(self, disk, tuning=""):
        at = self.places.mount_point()
        # -v is its only way to stay in the foreground; what it says is little.
        argv = ["qcowmount", "-v", disk.qcow2, at]
        return daemon(argv, os.path.join(at, "qcow1"), at, disk.size)


class GuestMount(Target):
    def missing(self):
        return None if tools.have("guestmount") else \
            "no guestmount: apt-get install guestfsd libguestfs-tools linux-image-amd64"

    def version(self):
        return tools.output("guestmount", "--version").split()[1]

    def serve(self, disk, tuning=""):
        raise CannotServe("it shows files alone")


class Qcow2fs(Target):
    def __init__(self, name, places, program=None):
        super().__init__(name, places)
        self._program = program

    def program(self):
        return self._program or run.program()

    def missing(self):
        try:
            program = self.program()
        except FileNotFoundError as error:
            return "%s: build it with ./configure && make" % error
        return None if os.access(program, os.X_OK) else "no program %s" % program

    def version(self):
        return tools.output(self.program(), "--version").splitlines()[0]

    def serve(self, disk, tuning=""):
        directory = tuning == "directory"
        at = self.places.mount_point(None if directory else 0)
        options = {"lazy": ["-o", "lazy-refcounts=on"],
                   "minimum": ["-o", "l2-cache-size=1"],
                   "compress": ["-o", "compress"],
                   "clean": ["-o", "cache-clean-interval=1"],
                   "no-sandbox": ["-o", "sandbox=off"], REMOTE: ["-o", "ro"]}.get(tuning, [])
        if disk.key:
            options += ["-o", "key-file=" + disk.key]
        argv = [self.program(), "-f", *options, disk.qcow2, at]
        return daemon(argv, os.path.join(at, "disk.raw") if directory else at, at, disk.size)


def storage_daemons(programs, places, images):
    """A target for each version, and another where it knows several threads."""
    found = []
    for program in programs:
        single = StorageDaemon("qsd", places, program)
        if single.missing():
            found.append(single)
            continue
        if len(programs) > 1:
            single.name = "qsd-" + single.version()
        found.append(single)
        several = StorageDaemon(single.name + "-iothreads", places, program, iothreads=True)
        if several.knows_iothreads(images):
            found.append(several)
    return found


def all_targets(places, images, qsd_programs, floor_options=None, before=None):
    return ([Raw("raw", places), Floor("floor", places, floor_options)]
            + storage_daemons(qsd_programs, places, images)
            + [NbdFuse("nbdfuse", places), QcowMount("qcowmount", places),
               GuestMount("guestmount", places), Qcow2fs("qcow2fs", places)]
            + ([Qcow2fs(BEFORE, places, before)] if before else []))
