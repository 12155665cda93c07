# SPDX-License-Identifier: MIT
"""Running programs, and what this host has.

A "need" is a function that returns None, or why this host does not have it:
tests list their needs, and are skipped with that reason.
"""

import os
import shlex
import shutil
import subprocess

PATH = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/local/sbin:/usr/sbin:/sbin"
TIMEOUT = float(os.environ.get("QCOW2FS_TEST_TIMEOUT", 120))


class CommandFailed(Exception):
    """A program ended with an unexpected status, or not in time."""


def environment(**extra):
    values = dict(os.environ, PATH=PATH, LC_ALL="C", TZ="UTC")
    values.update(extra)
    return values


def _tail(text, lines=30):
    shown = text.splitlines()
    if len(shown) > lines:
        shown = ["(%d lines before)" % (len(shown) - lines)] + shown[-lines:]
    return "\n".join("    " + line for line in shown)


def run(*argv, timeout=None, status=0, cwd=None, env=None, input=None):
    """Runs a program to its end, and returns what subprocess.run() returns, as text.

    `status` is the expected exit status, None for any. Raises CommandFailed with the
    program's output otherwise, and when it takes longer than `timeout` seconds.
    """
    argv = [os.fspath(argument) for argument in argv]
    command = " ".join(shlex.quote(argument) for argument in argv)
    if len(command) > 1000:
        command = "%s ... %s" % (command[:600], command[-300:])
    limit = TIMEOUT if timeout is None else timeout
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL if input is None else None, input=input,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=limit, cwd=cwd,
            env=environment(**(env or {})), encoding="utf-8", errors="backslashreplace")
    except subprocess.TimeoutExpired as expired:
        output = expired.stderr or b""
        if isinstance(output, bytes):
            output = output.decode("utf-8", "backslashreplace")
        raise CommandFailed("%s: not ended after %g seconds\n%s"
                            % (command, limit, _tail(output))) from None
    if status is not None and done.returncode != status:
        raise CommandFailed("%s: exit status %d instead of %d\n%s"
                            % (command, done.returncode, status,
                               _tail(done.stdout + done.stderr)))
    return done


def output(*argv, **keywords):
    """The standard output of a program that succeeds."""
    return run(*argv, **keywords).stdout


def have(name):
    return shutil.which(name, path=PATH) is not None


def tool(*names):
    """The need for programs."""
    def need():
        missing = [name for name in names if not have(name)]
        return "no %s here" % ", ".join(missing) if missing else None
    return need


def root():
    """The need for root's rights."""
    return None if os.geteuid() == 0 else "needs root"


def fuse():
    """The need for FUSE mounts."""
    if not os.path.exists("/dev/fuse"):
        return "no /dev/fuse here"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse cannot be opened"
    if os.geteuid() != 0 and not have("fusermount3"):
        return "no fusermount3 here"
    return None


def loop():
    """The need for loop devices and for mounting what is on them."""
    if root() is not None:
        return root()
    if not os.path.exists("/dev/loop-control"):
        return "no loop devices here"
    return tool("losetup", "mount", "umount")()


def root_is_mounted():
    """The need for a root that is a mount point, as in a chroot it is not."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        return None if any(line.split(" ")[4] == "/" for line in lines) else "/ is no mount point"


def user_namespaces():
    """The need for namespaces of users, which the kernel makes in no chroot."""
    if not have("unshare"):
        return "no unshare here"
    done = run("unshare", "--user", "--map-root-user", "true", status=None)
    return None if done.returncode == 0 else "no user namespaces here"


def file_system(kind):
    """The need for a kernel that can mount file systems of that kind."""
    def need():
        with open("/proc/filesystems", encoding="ascii") as lines:
            known = {line.split()[-1] for line in lines}
        return None if kind in known else "this kernel has no %s" % kind
    return need


def has_capability(number):
    """Whether this process has that capability, one of capabilities(7)."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as lines:
        held = next(line.split()[1] for line in lines if line.startswith("CapEff:"))
    return bool(int(held, 16) >> number & 1)


def _create_option(option):
    """The need for a qemu-img that creates qcow2 images with `option`."""
    def need():
        missing = tool("qemu-img", "qemu-io")()
        if missing is not None:
            return missing
        known = run("qemu-img", "create", "-f", "qcow2", "-o", "help").stdout
        return None if option in known else "this qemu-img does not know %s" % option
    return need


QEMU = tool("qemu-img", "qemu-io")
MKE2FS = tool("mke2fs", "e2fsck")
ZSTD = _create_option("compression_type")
EXTENDED_L2 = _create_option("extended_l2")
DATA_FILE = _create_option("data_file_raw")
