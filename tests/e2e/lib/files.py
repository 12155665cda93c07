# SPDX-License-Identifier: MIT
"""Images with partitions and file systems, and what qcow2ctl puts on top of an image."""

import contextlib
import json
import os
import shutil

from . import bad, ctl, image, mount, run, tools
from .image import MiB
from .tap import check

# What mkfs takes besides the file; -F and the like where it asks.
MAKERS = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-L", "LABEL"),
    "xfs": ("mkfs.xfs", "-q", "-f", "-L", "LABEL"),
    "btrfs": ("mkfs.btrfs", "-q", "-f", "-L", "LABEL"),
    "vfat": ("mkfs.vfat", "-n", "LABEL"),
    "exfat": ("mkfs.exfat", "-L", "LABEL"),
    "ntfs": ("mkfs.ntfs", "-q", "-F", "-f", "-L", "LABEL"),
}


def make_file_system(path, kind, label="files"):
    command = [label if word == "LABEL" else word for word in MAKERS[kind]]
    tools.run(*command, path)
    return path


def whole(directory, kind="ext4", size=64 * MiB, name="whole"):
    """An image whose disk is one file system, with a file `here` in it (ext4 alone)."""
    raw = os.path.join(directory, name + ".raw")
    with open(raw, "wb") as file:
        file.truncate(size)
    make_file_system(raw, kind)
    if kind == "ext4":
        put_file(raw, "here", b"from the image\n")
    path = os.path.join(directory, name + ".qcow2")
    image.convert(raw, path)
    os.unlink(raw)
    return path


def put_file(raw, name, content):
    source = raw + ".content"
    with open(source, "wb") as file:
        file.write(content)
    tools.run("debugfs", "-w", "-R", "write %s %s" % (source, name), raw)
    os.unlink(source)


def table(directory, script, size=128 * MiB, systems=(), name="parts"):
    """A raw disk partitioned by sfdisk; `systems`: (start, length, kind, label), in MiB."""
    raw = os.path.join(directory, name + ".raw")
    with open(raw, "wb") as file:
        file.truncate(size)
    tools.run("sfdisk", "-q", "--no-tell-kernel", raw, input=script)
    for start, length, kind, label in systems:
        part = raw + ".part"
        with open(part, "wb") as file:
            file.truncate(length * MiB)
        make_file_system(part, kind, label)
        if kind == "ext4":
            put_file(part, "here", ("on %s\n" % label).encode())
        tools.run("dd", "if=" + part, "of=" + raw, "bs=1M", "seek=%d" % start, "conv=notrunc",
                  "status=none")
        os.unlink(part)
    return raw


def partitioned(directory, label="gpt", name="parts"):
    """Two ext4 partitions, `one` and `two`."""
    raw = table(directory, "label: %s\nstart=1MiB,size=40MiB,type=L\nstart=48MiB,size=40MiB,type=L\n"
                % label, systems=[(1, 40, "ext4", "one"), (48, 40, "ext4", "two")], name=name)
    path = os.path.join(directory, name + ".qcow2")
    image.convert(raw, path)
    return path


def environment():
    """So that what is left over is found and ended."""
    return {run.MARK: run.directory}


def qcow2ctl(*arguments, **keywords):
    return ctl.ctl(*arguments, env=environment(), **keywords)


def listed(path=None):
    """What qcow2ctl list says: of the image at `path`, or all under the test's directory."""
    text = qcow2ctl("list", "--json").stdout
    found = json.loads(text)
    if path is not None:
        return [item for item in found if item["image"] == os.path.realpath(path)]
    top = os.path.realpath(run.directory)
    return [item for item in found if item["image"].startswith(top + "/")]


@contextlib.contextmanager
def mounted(path, at, *arguments):
    """qcow2ctl mount, and qcow2ctl umount at the end."""
    qcow2ctl("mount", *arguments, path, at)
    try:
        yield at
        if mount.is_mounted(at):
            qcow2ctl("umount", at)
    finally:
        if mount.is_mounted(at):
            run.unmount(at, lazy=True)


@contextlib.contextmanager
def attached(path, *arguments):
    """qcow2ctl attach; yields the device."""
    device = qcow2ctl("attach", *arguments, path).stdout.strip()
    try:
        yield device
        if listed(path):
            qcow2ctl("detach", path)
    finally:
        if listed(path):
            tools.run("losetup", "-d", device, status=None)


def check_nothing_left(path):
    """No daemon, so no mount and no loop device that needs one."""
    bad.wait_for(lambda: not listed(path), "the end of the daemon of %s" % path)
    # Its name goes from the list just before it ends.
    bad.wait_for(lambda: not [pid for pid in run.daemons(run.directory) if _serves(pid, path)],
                 "the end of the process")


def _serves(pid, path):
    try:
        with open("/proc/%d/cmdline" % pid, "rb") as file:
            return os.fsencode(path) in file.read().split(b"\0")
    except OSError:
        return False


def check_in_order(path):
    done = tools.run("qemu-img", "check", "-q", path, status=None)
    check(done.returncode == 0, "qemu-img check of %s: %s", path, done.stdout + done.stderr)


@contextlib.contextmanager
def place_of_user():
    """(home, qcow2ctl) of somebody without rights, who may open /dev/fuse."""
    with bad.public_directory() as public:
        program = os.path.join(public.path, "qcow2ctl")
        shutil.copy2(ctl.program(), program)
        os.chmod(program, 0o755)
        home = os.path.join(public.path, "home")
        os.mkdir(home)
        yield home, program
