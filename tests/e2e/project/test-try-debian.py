# SPDX-License-Identifier: MIT
"""contrib/try-debian runs in a chroot what it is told, and leaves nothing behind.

The chroot is a small one, of programs of this machine: another debootstrap makes it.
"""

import contextlib
import os
import re
import shutil
import signal

from lib import mount, run, tap, tools
from lib.tap import check, check_equal

TRY, TRY_PACKAGE = (os.path.join(run.SOURCE, "contrib", name) for name in ("try-debian", "try-package"))
PROGRAMS = ("sh", "cat", "ls", "sleep")
DEBOOTSTRAP = """#!/bin/sh
while [ "${1#--}" != "$1" ]; do shift; done
echo "$*" >"$ASKED"
[ "$1" != nothing ] || { echo "no such release" >&2; exit 1; }
cp -a "$ROOT/." "$2"
"""


def mirror_known():
    """The need for an apt that knows a mirror of Debian."""
    missing = tools.tool("apt-get", "apt-config", "unshare", "ldd")()
    if missing is not None:
        return missing
    told = tools.run("apt-get", "indextargets", "Created-By: Packages", status=None).stdout
    return None if re.search(r"^Repo-URI: .*debian/?$", told, re.MULTILINE) else "no mirror here"


suite = tap.Suite(needs=[tools.root, tools.root_is_mounted, tools.tool("pivot_root"), mirror_known])


def small_root(root):
    """A root in which PROGRAMS run."""
    for name in ("proc", "sys", "dev", "root", "tmp", "usr/bin"):
        os.makedirs(os.path.join(root, name))
    for name in PROGRAMS:
        path = shutil.which(name, path=tools.PATH)
        shutil.copy(os.path.realpath(path), os.path.join(root, "usr", "bin", name))
        for library in re.findall(r"(?:=> |^\s)(/\S+)", tools.output("ldd", path), re.MULTILINE):
            place = root + library
            os.makedirs(os.path.dirname(place), exist_ok=True)
            shutil.copy(library, place)
    return root


class Tried:
    """Where try-debian runs, with another debootstrap."""

    def __init__(self, directory):
        programs = os.path.join(directory, "programs")
        self.place = os.path.join(directory, "place")
        self.asked = os.path.join(directory, "asked")
        for name in (programs, self.place):
            os.mkdir(name)
        with open(os.path.join(programs, "debootstrap"), "w", encoding="ascii") as file:
            file.write(DEBOOTSTRAP)
            os.fchmod(file.fileno(), 0o755)
        self.environment = {"TMPDIR": self.place, "PATH": "%s:%s" % (programs, tools.PATH),
                            "ASKED": self.asked, "ROOT": small_root(os.path.join(directory, "root"))}

    def run(self, *arguments, status=0):
        done = tools.run(TRY, *arguments, status=status, env=self.environment)
        check_equal(os.listdir(self.place), [], "what is left")
        return done


@suite.test("a command runs in the sources, in the chroot, with /proc and /dev")
def _(directory):
    tried = Tried(directory)
    done = tried.run("--command=cat README.md; ls /proc/self/exe /dev/null /usr/bin", "trixie")
    check("\n# qcow2fs\n" in done.stdout, "it said %s", done.stdout)
    for name in ("/proc/self/exe", "/dev/null", *PROGRAMS):
        check("\n%s\n" % name in done.stdout, "no %s: %s", name, done.stdout)
    check("\npython3\n" not in done.stdout, "it was in no chroot: %s", done.stdout)
    with open(tried.asked, encoding="ascii") as file:
        asked = file.read().split()
    check_equal(asked[0], "trixie", "the release that debootstrap was asked for")
    check(re.match(r"\w+:/.*debian/?$", asked[2]), "it was asked for %s", asked)


@suite.test("a command that fails is reported, and so is a release that cannot be had")
def _(directory):
    tried = Tried(directory)
    done = tried.run("--command=exit 3", "sid", status=1)
    check("FAIL: sid: exit 3 ended with status 3\n" in done.stdout, "it said %s", done.stdout)
    done = tried.run("nothing", status=1)
    check("no chroot of nothing could be made" in done.stderr, "it said %s", done.stderr)


for option, command in (("--package", "try-package"), ("--cross=s390x", "try-cross s390x")):
    @suite.test("%s runs contrib/%s in the chroot" % (option, command))
    def _(directory, option=option, command=command):
        tried = Tried(directory)
        done = tried.run(option, "trixie", status=1)  # which has no apt
        check("FAIL: trixie: contrib/%s ended with" % command in done.stdout, "it said %s", done.stdout)


def killed(directory, meanwhile=lambda: None):
    tried = Tried(directory)
    pipe = os.path.join(directory, "pipe")
    os.mkfifo(pipe)
    # The other end of the pipe is open as long as something runs in the chroot.
    with open(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb") as reading:
        with open(pipe, "wb") as writing:
            process = run.start([TRY, "--command=echo here; sleep 1000", "trixie"], stdout=writing,
                                stderr=writing, env=tried.environment)
        os.set_blocking(reading.fileno(), True)
        said = b""
        while b"here\n" not in said.split(b"== ")[-1]:
            more = os.read(reading.fileno(), 4096)
            check(more, "it ended early: %s", said)
            said += more
        meanwhile()
        process.send_signal(signal.SIGTERM)
        while os.read(reading.fileno(), 4096):
            pass
    check_equal(process.wait(tools.TIMEOUT), 130, "the status")
    check_equal(os.listdir(tried.place), [], "what is left")


@suite.test("killed, it ends what runs in the chroot, and removes it")
def _(directory):
    killed(directory)


@suite.test("a daemon that was mounted before ends when it is unmounted meanwhile", needs=[tools.fuse])
def _(directory):
    path = os.path.join(directory, "image.qcow2")
    tools.run("qemu-img", "create", "-q", "-f", "qcow2", path, "1M")
    with contextlib.ExitStack() as stack:
        stack.enter_context(mount.mount(path))
        killed(directory, stack.close)  # which waits for its end


@suite.test("--help tells, and a wrong command line is refused")
def _(_directory):
    check("--command=COMMAND" in tools.output(TRY, "--help"), "no help")
    for arguments in ((), ("trixie", "sid"), ("--no-such-option", "sid")):
        check("Usage: " in tools.run(TRY, *arguments, status=1).stderr, "no usage")
    check("Usage: " in tools.output(TRY_PACKAGE, "--help"), "no help")
    check("Usage: " in tools.run(TRY_PACKAGE, "bookworm", status=1).stderr, "no usage")


if __name__ == "__main__":
    suite.main()
