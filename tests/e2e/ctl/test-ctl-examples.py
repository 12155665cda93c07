#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Each command's --help ends with examples, and each of them works as it stands there.

Only places are others (what is below /mnt, /srv and /dev/vg0 lies in the test's directory), a loop
device has the number that it got, and sizes are a thousandth.
"""

import os
import re
import shutil

from lib import ctl, encrypted, image, run, tap, tools
from lib.image import MiB
from lib.tap import check

SIZE = 20 * MiB
TWO = "label: gpt\nstart=1MiB,size=8MiB\nstart=10MiB,size=8MiB\n"

suite = tap.Suite(needs=[tools.QEMU, tools.fuse])


def examples(command):
    """The lines below "Examples:" at the end."""
    said = tools.output(ctl.program(), command, "--help")
    check("\nExamples:\n" in said, "%s --help has no examples", command)
    lines = said.split("\nExamples:\n")[1].splitlines()
    check(lines and all(line.startswith("  qcow2") or line.startswith("  (cd") for line in lines),
          "%s --help does not end with its examples: %r", command, lines)
    return [line.strip() for line in lines]


def commands():
    return re.findall("^  ([a-z-]+) ", tools.output(ctl.program(), "--help"), re.MULTILINE)


# --- what is there before an example ------------------------------------------------------------


class Place:
    """A directory with the files that examples name."""

    def __init__(self, directory):
        self.directory = directory
        for name in ("mnt", "e", "srv", "srv/new", "vg0"):
            os.mkdir(self.path(name))
        raw = self.path("disk.raw")
        with open(raw, "wb") as file:
            file.truncate(SIZE)
        tools.run("mkfs.ext4", "-q", "-L", "root", raw)
        for name in ("disk", "copy", "base", "evidence", "damaged", "srv/base"):
            image.convert(raw, self.path(name + ".qcow2"))
        for name in ("srv/new/base.raw", "vg0/disk"):
            shutil.copyfile(raw, self.path(name))
        self.make("overlay.qcow2", backing="base.qcow2")
        self.make("third.qcow2", backing="overlay.qcow2")
        with open(self.path("damaged.qcow2"), "r+b") as file:
            file.write(b"damaged!")
        for name in ("key", "k"):
            with open(self.path(name), "w", encoding="ascii") as file:
                file.write(name)

    def path(self, name):
        return os.path.join(self.directory, name)

    def make(self, name, backing):
        image.create(self.path(name), SIZE, backing=backing, backing_format="qcow2")

    def remove(self, *names):
        for name in names:
            os.remove(self.path(name))

    def run(self, text, status=0):
        """As a shell would, in the directory."""
        for old, new in (("/mnt/e", "e"), ("/mnt", "mnt"), ("/srv", "srv"), ("/dev/vg0", "vg0")):
            text = re.sub(r"(?<=[ =])%s\b" % old, self.path(new), text)
        text = re.sub(r"\b(\d+)G\b", r"\1M", text)
        return tools.run("sh", "-c", text, cwd=self.directory, status=status, env={
            "PATH": os.pathsep.join([os.path.dirname(run.program()), tools.PATH])})

    def partition(self):
        """disk.qcow2 has two partitions; the second is called root."""
        self.remove("disk.qcow2", "disk.raw")
        raw = self.path("disk.raw")
        with open(raw, "wb") as file:
            file.truncate(SIZE)
        tools.run("sfdisk", "-q", "--no-tell-kernel", raw, input=TWO)
        tools.run("mkfs.ext4", "-q", "-L", "root", "-E", "offset=%d" % (10 * MiB), raw, "8M")
        image.convert(raw, self.path("disk.qcow2"))

    def encrypt(self):
        self.run("qcow2ctl create -o encrypt.format=luks,encrypt.iter-time=10 --key-file=key "
                 "a.qcow2 8M")

    def add_key(self):
        self.encrypt()
        self.run("qcow2ctl amend -o encrypt.state=active,encrypt.iter-time=10 --key-file=key "
                 "--new-key-file=k a.qcow2")


def shell(*lines):
    def before(place):
        for line in lines:
            place.run(line)
    return before


MOUNT = "qcow2ctl mount disk.qcow2 /mnt"
SNAPSHOTS = shell("qcow2ctl snapshot -c monday disk.qcow2", "qcow2ctl snapshot -c friday disk.qcow2")
TAKE_ONE = shell("qcow2ctl snapshot -c before-upgrade disk.qcow2")

# An expression that is found in an example: what has to be done before it.
BEFORE = (
    ("^qcow2ctl create .*overlay.qcow2", lambda place: place.remove("overlay.qcow2")),
    ("^qcow2ctl convert .* disk.qcow2$", lambda place: place.remove("disk.qcow2")),
    ("^qcow2ctl convert .* /dev/vg0/disk", lambda place: place.remove("vg0/disk")),
    ("^qcow2ctl convert .* overlay.qcow2", lambda place: place.remove("overlay.qcow2")),
    ("^qcow2ctl salvage .* disk.raw", lambda place: place.remove("disk.raw")),
    ("^qcow2ctl amend .*state=active", Place.encrypt),
    ("^qcow2ctl amend .*state=inactive", Place.add_key),
    ("(-l |@)monday", SNAPSHOTS),
    ("^qcow2ctl snapshot (-a|--rename=)", TAKE_ONE),
    ("^qcow2ctl snapshot -d good", shell("qcow2ctl snapshot -c good disk.qcow2")),
    ("^qcow2ctl snapshot .*--freeze", shell(MOUNT)),
    ("^qcow2ctl bitmap --merge=monday --merge=tuesday",
     shell(*("qcow2ctl bitmap --add disk.qcow2 " + name for name in ("monday", "tuesday", "week")))),
    ("^qcow2ctl bitmap .*-b overlay", shell("qcow2ctl bitmap --add overlay.qcow2 monday")),
    ("^qcow2ctl bitmap --remove", shell("qcow2ctl bitmap --add disk.qcow2 monday")),
    ("^qcow2ctl backup-point", shell("qcow2ctl bitmap --add disk.qcow2 nightly", MOUNT)),
    ("^qcow2ctl backup-point .*--(done|failed)",
     shell("qcow2ctl backup-point --bitmap=nightly disk.qcow2")),
    ("^qcow2ctl mount .*(-p |--list)", Place.partition),
    ("^qcow2ctl umount", shell(MOUNT)),
    ("^qcow2ctl detach", shell("qcow2ctl attach disk.qcow2 > device")),
)
ROOT = {"mount", "umount", "attach", "detach", "backup-point"}


def needs_root(command, example):
    return command in ROOT or "--freeze" in example


def end(place):
    """Nothing stays: mounts and devices of images in the place."""
    for name in ("disk.qcow2", "evidence.qcow2"):
        place.run("qcow2ctl umount " + name, status=None)
        place.run("qcow2ctl detach " + name, status=None)
    for name in ("e", "mnt"):
        run.unmount(place.path(name))


def try_examples(command, root):
    @suite.test("examples of %s --help work%s" % (command, ", those for root" if root else ""),
                needs=[tools.root, tools.loop] if root else [encrypted.library]
                if command in ("create", "amend", "hash", "convert") else [])
    def _(directory):
        place = None
        for number, example in enumerate(wanted(command, root)):
            follows = place is not None and not example.startswith("qcow2ctl ")
            if not follows:
                at = os.path.join(directory, "%d" % number)
                os.mkdir(at)
                place = Place(at)
                for expression, before in BEFORE:
                    if re.search(expression, example):
                        before(place)
            try:
                place.run(as_here(place, example))
            finally:
                if not example.startswith("qcow2fs "):
                    end(place)


def as_here(place, example):
    """With the loop device that there is, and without what is not ours and not installed."""
    if "/dev/loop0" in example:
        with open(place.path("device"), encoding="ascii") as file:
            example = example.replace("/dev/loop0", file.read().split()[0])
    if "mactime" in example and not tools.have("mactime"):
        example = example.split(" && ")[0]
    return example


def wanted(command, root):
    return [example for example in examples(command) if needs_root(command, example) == root]


@suite.test("each command has examples at the end of its --help")
def _(_directory):
    for command in commands():
        check(len(examples(command)) > 0, "%s has none", command)


for each in commands() if os.access(ctl.program(), os.X_OK) else ():
    for for_root in (False, True):
        if wanted(each, for_root):
            try_examples(each, for_root)

if __name__ == "__main__":
    suite.main()
