# SPDX-License-Identifier: MIT
"""Somebody who has taken a process of ours over (lib/inside.c), and what it is that he tries."""

import os

from . import run

INSIDE = os.path.join(os.path.dirname(run.program()), "..", "tests", "e2e", "lib", "inside.so")
SANITIZED = os.environ.get("QCOW2FS_SANITIZE", "no") not in ("", "no")

# What fails, and the process goes on.
REFUSED = ["read-passwd", "write-file", "make-file", "list", "unlink", "unlinkat", "rename", "link",
           "symlink", "mkdir", "mknod", "chmod", "chown", "truncate", "kill", "unix", "terminal",
           "io-uring"]
if not SANITIZED:  # a sanitizer needs these for itself
    REFUSED += ["process", "code", "dumpable"]

# What ends it.
DEADLY = ["exec", "mount", "umount", "unshare", "setns", "chroot", "inet", "inet6", "packet", "bpf",
          "userfaultfd", "perf", "module", "kexec", "reboot", "keyctl", "handle", "vm-write"]
if not SANITIZED:
    DEADLY.append("ptrace")


def environment(directory, words, hides=None, reads=False, old=False):
    """For a process that tries the words, and where the file is in which it says what came of them."""
    says, victim = os.path.join(directory, "says"), os.path.join(directory, "victim")
    for name in (says, victim):
        with open(name, "w", encoding="ascii") as file:
            file.write("" if name == says else "victim")
    env = dict(os.environ, LD_PRELOAD=INSIDE, INSIDE_TRIES=" ".join(words), INSIDE_SAYS=says,
               INSIDE_VICTIM=victim, INSIDE_NEW=os.path.join(directory, "new"))
    env[run.MARK] = run.directory
    if hides is not None:
        env["INSIDE_HIDES"] = hides
    if old:  # a kernel without Landlock
        env["INSIDE_OLD"] = "1"
    if reads:
        env["INSIDE_READS"] = "1"
    return env, says


def answers(says):
    """Each word, with the errno that came of it; None: nothing came back."""
    found = {}
    with open(says, encoding="ascii") as file:
        for line in file:
            word, number = line.rstrip("\n").split(": ")
            found[word] = None if number == "begun" else int(number)
    return found
