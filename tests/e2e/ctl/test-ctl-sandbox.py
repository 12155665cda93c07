#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The box of commands that only read: who takes one over by an image can do nothing with it."""

import errno
import json
import os
import signal
import subprocess

from lib import bad, compare, ctl, image, intruder, qcow2, run, tap, tools
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.QEMU])
COMMANDS = ["info", "audit", "check", "map", "compare", "diff", "hash", "timeline", "measure",
            "snapshot", "salvage", "picture"]


def built_in():
    if "libseccomp yes" not in ctl.ctl("-V").stdout:
        return "this build has no libseccomp"
    return None


def arguments(command, directory, path):
    """The command line of each command that only reads."""
    new = os.path.join(directory, "made")
    return {"info": ["info", path], "audit": ["info", "--audit", path],
            "check": ["check", path], "map": ["map", path],
            "compare": ["compare", path, path], "diff": ["diff", path, path],
            "hash": ["hash", path], "timeline": ["timeline", path],
            "measure": ["measure", path], "snapshot": ["snapshot", "-l", path],
            "salvage": ["salvage", "--map", new + ".map", path, new],
            "picture": ["map", "--svg", new + ".svg", path]}[command]


def taken_over(directory, argv, words, hides=None, old=False):
    """Runs qcow2ctl, which tries the words when it has the first bytes of an image."""
    env, says = intruder.environment(directory, words, hides, reads=True, old=old)
    done = subprocess.run([ctl.program()] + argv, env=env, stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=tools.TIMEOUT, check=False)
    return done, intruder.answers(says)


@suite.test("in each command nothing is opened, made, changed, started, or talked to from inside",
            needs=[built_in])
def _(directory):
    path = bad.sample("snapshots", directory)
    for command in COMMANDS:
        done, found = taken_over(directory, arguments(command, directory, path),
                                 ["nothing"] + intruder.REFUSED)
        check_equal((command, found.pop("nothing", "nothing was tried")), (command, 0), "what is no harm")
        check_equal((command, [word for word in intruder.REFUSED if found.get(word) in (0, None)]),
                    (command, []), "what was possible")
        check_equal(set(found.values()) - {errno.ENOSYS, errno.EACCES, errno.EPERM}, set(),
                    "the errors")
        check_equal((command, done.returncode, done.stderr), (command, 0, ""), "status and sentence")


@suite.test("in each command what only an intruder does ends it", needs=[built_in])
def _(directory):
    path = bad.sample("snapshots", directory)
    for number, word in enumerate(intruder.DEADLY + ["exec"] * len(COMMANDS)):
        command = COMMANDS[number % len(COMMANDS)]
        done, found = taken_over(directory, arguments(command, directory, path), [word, "nothing"])
        check_equal((command, done.returncode), (command, -signal.SIGSYS), "its end")
        check_equal(found, {word: None}, "what came of it")


@suite.test("with --sandbox=off, and in what writes, all that is possible: so these tests see")
def _(directory):
    words = ["read-passwd", "write-file", "chmod", "mkdir", "process", "code", "kill"]
    path = bad.sample("plain", directory)
    for argv in (["info", "--sandbox=off", path], ["check", "--repair=leaks", path],
                 ["snapshot", "-c", "one", path]):
        _done, found = taken_over(directory, argv, words)
        check_equal(found, dict.fromkeys(words, 0), "what came of it")
        os.rmdir(os.path.join(directory, "new"))


@suite.test("without libseccomp the rest holds; strict says what is missing, and on says nothing",
            needs=[built_in])
def _(directory):
    library, path = "libseccomp.so.2", bad.sample("plain", directory)
    done, found = taken_over(directory, ["info", path], ["read-passwd", "write-file", "mkdir"],
                             hides=library)
    check_equal((set(found.values()), done.returncode, done.stderr), ({errno.EACCES}, 0, ""),
                "what came of it")
    done, found = taken_over(directory, ["info", "--sandbox=strict", path], ["nothing"],
                             hides=library)
    check_equal((found, done.returncode), ({}, 1), "what was read, and the status")
    bad.check_sentence(done.stderr, "--sandbox=strict", "libseccomp", program="qcow2ctl")
    ctl.refused("check", "--sandbox=strict", "--repair=all", path, words=["--repair writes"],
                unchanged=[path])


@suite.test("on a kernel without Landlock the system calls keep all files closed", needs=[built_in])
def _(directory):
    path = bad.sample("snapshots", directory)
    for command in COMMANDS:
        words = arguments(command, directory, path)
        words[1:1] = ["--sandbox=strict"]
        done, found = taken_over(directory, words, ["read-passwd", "write-file", "make-file", "mkdir"],
                                 old=True)
        check_equal((command, set(found.values())), (command, {errno.ENOSYS}), "what came of it")
        check_equal((command, done.returncode, done.stderr), (command, 0, ""), "status and sentence")


@suite.test("strict does what on does", needs=[built_in])
def _(directory):
    path = bad.sample("snapshots", directory)
    for command in COMMANDS:
        done = []
        for how in ("off", "on", "strict"):
            words = arguments(command, directory, path)
            done.append(ctl.ctl(words[0], "--sandbox=" + how, *words[1:]))
            for name in os.listdir(directory):
                if name.startswith("made"):
                    done.append(compare.sha256(os.path.join(directory, name)))
                    os.unlink(os.path.join(directory, name))
        said = [(each.stdout, each.stderr) for each in done if not isinstance(each, str)]
        check_equal((command, said[1:]), (command, [said[0], said[0]]), "what was said")
        made = [each for each in done if isinstance(each, str)]
        check_equal(len(set(made)) * 3, len(made), "what was made")


@suite.test("a long chain, names beside and elsewhere, and what is missing: all as without the box")
def _(directory):
    below = os.path.join(directory, "below")
    os.mkdir(below)
    base = image.sparse_raw(os.path.join(directory, "base.raw"), 2 * MiB)
    path, backing = "", os.path.abspath(base)
    for number in range(12):
        data = {"data_file": os.path.join(directory, "data.raw")} if number == 5 else {}
        path = image.create(os.path.join(below, "%d.qcow2" % number), 2 * MiB, backing=backing,
                            backing_format="qcow2" if number else "raw", **data)
        backing = os.path.basename(path)
        image.io(path, image.write(number * 64 * KiB, 64 * KiB, number))
    cases = [["info", "--backing-chain", path], ["map", path], ["hash", path],
             ["info", "--audit", path], ["map", "--follow=beside", path],
             ["map", "--follow=none", path], ["compare", path, os.path.join(below, "3.qcow2")],
             ["map", os.path.join(directory, "missing")], ["info", directory]]
    for case in cases:
        with_box, without = (ctl.ctl(case[0], "--sandbox=" + how, *case[1:], status=None)
                             for how in ("on", "off"))
        check_equal((with_box.returncode, with_box.stdout, with_box.stderr),
                    (without.returncode, without.stdout, without.stderr), " ".join(case))
    os.unlink(os.path.join(below, "4.qcow2"))
    ctl.refused("map", path, words=["4.qcow2", "no such backing file"])


@suite.test("names that mean a descriptor: what it is is read, whatever its number; a pipe is refused")
def _(directory):
    path = bad.sample("snapshots", directory)
    with open(path, "rb") as opened:
        for number, name in ((0, "/dev/stdin"), (3, "/dev/fd/3"), (4, "/proc/self/fd/4"),
                             (70, "/proc/thread-self/fd/70")):
            for command in COMMANDS:
                said = []
                for how in ("off", "on"):
                    argv = arguments(command, directory, name)
                    argv.insert(1, "--sandbox=" + how)
                    shell = 'exec %d<&%d; shift; exec "$@"' % (number, opened.fileno())
                    done = subprocess.run(["bash", "-c", shell, "", "", ctl.program()] + argv,
                                          pass_fds=[opened.fileno()], capture_output=True,
                                          text=True, timeout=tools.TIMEOUT, check=False)
                    said.append((done.returncode, done.stdout, done.stderr))
                    for made in os.listdir(directory):
                        if made.startswith("made"):
                            os.unlink(os.path.join(directory, made))
                check_equal((command, said[1]), (command, said[0]), "with the box")
                check_equal((command, said[1][0]), (command, 0), "its status")
    done = subprocess.run([ctl.program(), "info", "/dev/stdin"], input="nothing", text=True,
                          capture_output=True, timeout=tools.TIMEOUT, check=False)
    check_equal(done.returncode, 1, "of a pipe")
    bad.check_sentence(done.stderr, "/dev/stdin", "is a pipe", program="qcow2ctl")


@suite.test("names that mean the working directory, for root in a directory of another user",
            needs=[tools.root])
def _(directory):
    private = os.path.join(directory, "private")
    os.makedirs(os.path.join(private, "images"))
    tools.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file=data.raw",
              "images/image.qcow2", "1M", cwd=private)
    for name in ("", "images", "images/image.qcow2", "data.raw"):
        os.chown(os.path.join(private, name), int(bad.NOBODY), int(bad.NOBODY))
    os.chmod(private, 0o700)
    for how in ("on", "off"):
        ctl.ctl("map", "--trust-names", "--sandbox=" + how, "images/image.qcow2", cwd=private)


@suite.test("who takes a file of another user over by name gets what that user could read",
            needs=[tools.root])
def _(directory):
    secret = os.path.join(directory, "secret.raw")
    image.sparse_raw(secret, MiB)
    os.chmod(secret, 0o600)
    path = image.create(os.path.join(directory, "image.qcow2"), MiB, backing=os.path.abspath(secret),
                        backing_format="raw")
    os.chown(path, int(bad.NOBODY), int(bad.NOBODY))
    ctl.refused("map", path, words=["named by an image of user", "may not read it"])
    ctl.ctl("map", "--trust-names", path)


@suite.test("no process is left, whatever becomes of the command; and its directory is not in use")
def _(directory):
    path = bad.sample("plain", directory)
    for _number in range(20):
        ctl.ctl("info", path)
        check_equal(run.processes(run.directory), [], "processes")
    reading, writing = os.pipe()
    env = dict(os.environ, **{run.MARK: run.directory})
    with subprocess.Popen([ctl.program(), "salvage", path, os.path.join(directory, "made")],
                          env=env, stdout=writing, stderr=writing,
                          stdin=subprocess.DEVNULL) as process:
        os.close(writing)
        bad.wait_for(lambda: len(run.processes(run.directory)) > 1 or process.poll() is not None, "its other process")
        process.send_signal(signal.SIGKILL)
        with os.fdopen(reading, "rb") as file:
            file.read()  # ends when nobody has the pipe any more
    bad.wait_for(lambda: not run.processes(run.directory), "the end of all processes")


@suite.test("--version says whether it was built in")
def _(_directory):
    lines = ctl.ctl("-V").stdout.splitlines()
    check(any(line in ("libseccomp yes", "libseccomp no") for line in lines), "%r", lines)


if __name__ == "__main__":
    suite.main()
