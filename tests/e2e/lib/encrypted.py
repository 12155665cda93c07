# SPDX-License-Identifier: MIT
"""Encrypted images, and what QEMU, which needs their keys, says of them."""

import json
import mmap
import os
import pty

from . import run, tools
from .tap import check

_templates = {}


def key_file(directory, name, data):
    path = os.path.join(directory, name)
    with open(path, "wb") as file:
        file.write(data)
    return path


def secrets(*keys):
    arguments = []
    for number, key in enumerate(keys):
        arguments += ["--object", "secret,id=s%d,file=%s" % (number, key)]
    return arguments


def quickly(*command, timeout=None):
    """Runs a qemu-img that measures how fast it derives keys, which it would do for seconds."""
    clock = os.path.join(os.path.dirname(run.program()), "..", "tests", "e2e", "lib", "busy_clock.so")
    known = {"LD_PRELOAD": os.path.abspath(clock)} if os.path.exists(clock) else {}
    for _ in range(10):
        done = tools.run(*command, status=None, env=known, timeout=timeout)
        if "accurate CPU usage" not in done.stderr:  # it is on a machine that is busy, for QEMU
            break
    return done


def make(*command, timeout=None):
    """Runs a qemu-img that creates an encrypted image, and succeeds."""
    done = quickly(*command, timeout=timeout)
    check(done.returncode == 0, "%s said %s", " ".join(command), done.stderr)


def create(path, size, key, *arguments, kind="luks", **options):
    """An image that qemu-img makes."""
    options = {"encrypt.format": kind, "encrypt.key-secret": "s0", **options}
    if kind == "luks":
        options.setdefault("encrypt.iter-time", 10)
    listed = ",".join("%s=%s" % item for item in options.items())
    make("qemu-img", "create", "-q", *secrets(key), "-f", "qcow2", "-o", listed, *arguments, path,
         str(size))
    return path


def template(path, size, key, **options):
    """The same, made once for all images of one key, size and options."""
    with open(key, "rb") as file:
        known = (size, file.read(), *sorted(options.items()))
    if known not in _templates:
        made = os.path.join(run.directory, "template-%d.qcow2" % len(_templates))
        _templates[known] = create(made, size, key, **options)
    tools.run("cp", "--sparse=always", _templates[known], path)
    return path


def options_of(path, key="s0", backing=None):
    """How QEMU is told of an image: --image-opts."""
    text = "driver=qcow2,file.driver=file,file.filename=%s,encrypt.key-secret=%s" % (path, key)
    return text + (",backing.encrypt.key-secret=%s" % backing if backing else "")


def io(path, key, *commands, status=0):
    arguments = []
    for command in commands:
        arguments += ["-c", command]
    return tools.run("qemu-io", "-d", "unmap", *secrets(key), *arguments, "--image-opts",
                     options_of(path), status=status)


def to_raw(path, raw, *keys, backing=None):
    """What QEMU reads, as a raw file."""
    tools.run("qemu-img", "convert", *secrets(*keys), "--image-opts",
              options_of(path, backing=backing), "-O", "raw", raw)
    return raw


def check_clean(path, key):
    done = tools.run("qemu-img", "check", *secrets(key), "--output=json", "--image-opts",
                     options_of(path), status=None)
    check(done.stdout.startswith("{"), "qemu-img check said %s", done.stdout + done.stderr)
    told = json.loads(done.stdout)
    found = {name: told[name] for name in ("corruptions", "leaks", "check-errors")
             if told.get(name)}
    check(not found, "qemu-img check finds %s", found)


def library():
    """The need for a qcow2fs that was built with libgcrypt."""
    known = tools.run(run.program(), "--version", status=None).stdout
    return None if "libgcrypt yes" in known else "this qcow2fs was built without libgcrypt"


def at_terminal(command, *answers):
    """Runs a command at a terminal and answers its questions: what that shows, the status."""
    child, terminal = pty.fork()
    if child == 0:
        os.execv(command[0], command)
    shown = b""
    try:
        for number, answer in enumerate(answers):
            while shown.count(b": ") <= number:
                shown += os.read(terminal, 1000)
            os.write(terminal, answer)
        while True:
            shown += os.read(terminal, 1000)
    except OSError:  # it has ended
        pass
    os.close(terminal)
    return shown, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def dumped(pid):
    """What a core of the process would hold: (address, bytes) of each of its areas."""
    areas, start, end = [], 0, 0
    with open("/proc/%d/smaps" % pid, encoding="ascii", errors="replace") as lines:
        for line in lines:
            words = line.split()
            if "-" in words[0] and not words[0].endswith(":"):
                start, end = (int(part, 16) for part in words[0].split("-"))
                readable = words[1].startswith("rw") and "[v" not in line
            elif words[0] == "VmFlags:" and readable and "dd" not in words[1:]:
                areas.append((start, end))
    with open("/proc/%d/mem" % pid, "rb", buffering=0) as memory:
        for start, end in areas:
            while start < end:
                memory.seek(start)
                try:
                    found = memory.read(end - start)
                except OSError:  # a page that guards a stack is nobody's to read
                    found = b""
                if found:
                    yield start, found
                start += max(len(found), mmap.PAGESIZE)
