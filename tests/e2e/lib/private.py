# SPDX-License-Identifier: MIT
"""Mounts of a process's own, also where its root is no mount point, as in a plain chroot.

`prefix()` is put before a command that shall have them, as `unshare --mount` would be elsewhere.
"""

import ctypes
import os
import sys

CLONE_NEWNS = 0x00020000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
MNT_DETACH = 2


def _call(function, *arguments):
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, "%s: %s" % (function.__name__, os.strerror(number)))


def _of_others():
    """The mount points of what others serve, or have on a loop device, the oldest first."""
    found = []
    with open("/proc/self/mountinfo", "rb") as lines:
        for line in lines:
            before, _dash, behind = line.partition(b" - ")
            kind, source = behind.split()[:2]
            if kind.startswith(b"fuse") and kind != b"fusectl" or source.startswith(b"/dev/loop"):
                path = before.split()[4]
                found.append(path.decode("unicode_escape").encode("latin-1"))
    return found


def enter():
    """Gives this process mounts of its own. Nothing of them is seen outside. To be called by root.

    It has none of those that are there and come to an end: as long as anybody has one it lives, whoever
    unmounts it elsewhere, and so would its daemon, and its loop device, which others wait for.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    _call(libc.unshare, CLONE_NEWNS)
    child = os.fork()
    if child == 0:
        # What a chroot stands on can be reached only from outside it, where entering one's own mounts
        # leads; it has its effect on all of them, and the chroot of the parent stays.
        try:
            namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY)
            _call(libc.setns, namespace, CLONE_NEWNS)
            _call(libc.mount, None, b"/", None, MS_REC | MS_PRIVATE, None)
            os._exit(0)
        except OSError as error:
            sys.stderr.write("%s\n" % error)
        finally:
            os._exit(1)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0:
        raise OSError("the mounts could not be made private")
    for path in reversed(_of_others()):
        libc.umount2(path, MNT_DETACH)


def prefix():
    return [sys.executable, os.path.abspath(__file__)]


if __name__ == "__main__":
    enter()
    os.execvp(sys.argv[1], sys.argv[1:])
