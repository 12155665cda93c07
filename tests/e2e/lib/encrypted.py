# SPDX-License-Identifier: MIT
"""Encrypted images, and what QEMU, which needs their keys, says of them."""

import json
import os

from . import run, tools
from .tap import check

_templates = {}


def key_file(directory, name, data):
    path = os.path.join(directory, name)
    with open(path, "wb") as file:
        file.write(data)
    return path


def _secrets(*keys):
    arguments = []
    for number, key in enumerate(keys):
        arguments += ["--object", "secret,id=s%d,file=%s" % (number, key)]
    return arguments


def create(path, size, key, *arguments, kind="luks", **options):
    """An image that qemu-img makes. For LUKS it measures how fast it is, which takes seconds."""
    options = {"encrypt.format": kind, "encrypt.key-secret": "s0", **options}
    if kind == "luks":
        options.setdefault("encrypt.iter-time", 10)
    listed = ",".join("%s=%s" % item for item in options.items())
    command = ["qemu-img", "create", "-q", *_secrets(key), "-f", "qcow2", "-o", listed, *arguments,
               path, str(size)]
    for _ in range(10):
        done = tools.run(*command, status=None)
        if "accurate CPU usage" not in done.stderr:  # it is on a machine that is busy, for QEMU
            break
    check(done.returncode == 0, "qemu-img create said %s", done.stderr)
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
    return tools.run("qemu-io", "-d", "unmap", *_secrets(key), *arguments, "--image-opts",
                     options_of(path), status=status)


def to_raw(path, raw, *keys, backing=None):
    """What QEMU reads, as a raw file."""
    tools.run("qemu-img", "convert", *_secrets(*keys), "--image-opts",
              options_of(path, backing=backing), "-O", "raw", raw)
    return raw


def check_clean(path, key):
    done = tools.run("qemu-img", "check", *_secrets(key), "--output=json", "--image-opts",
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
            memory.seek(start)
            yield start, memory.read(end - start)
