#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""qcow2ctl mount of each kind of file system, by the kernel or by a FUSE program, as root and as an
ordinary user: the files are there, and nothing is left."""

import json
import os
import shutil

from lib import bad, ctl, files, image, mount, run, tap, tools
from lib.image import MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.root, tools.loop, tools.QEMU])
CONTENT = b"from the image\n"


def in_kernel(kind):
    return tools.file_system(kind)() is None


def sources(directory):
    place = os.path.join(directory, "files")
    os.mkdir(place)
    with open(os.path.join(place, "here"), "wb") as file:
        file.write(CONTENT)
    return place


def by_mkfs(raw, directory, kind):
    with open(raw, "wb") as file:
        file.truncate(64 * MiB)
    files.make_file_system(raw, kind)
    here = os.path.join(sources(directory), "here")
    if kind == "vfat":
        tools.run("mcopy", "-i", raw, here, "::here")
    elif kind == "exfat":
        at = os.path.join(directory, "inside")  # no program copies into one
        os.mkdir(at)
        tools.run("mount", "-o", "loop", "-t", "exfat-fuse", raw, at)
        try:
            shutil.copy(here, at)
        finally:
            tools.run("umount", at)
    else:
        tools.run("ntfscp", "-q", raw, here, "here")


class Kind:
    """`tools` make one, `program` mounts one without the kernel's help."""

    def __init__(self, make, needed, program, writable=False, as_user=True):
        self.make, self.needs = make, tools.tool(*needed)
        self.program, self.writable, self.as_user = program, writable, as_user


KINDS = {
    "vfat": Kind(lambda raw, at: by_mkfs(raw, at, "vfat"), ["mkfs.vfat", "mcopy"], "fusefat", True),
    # Debian's is set-uid root, and root may not look into a user's mount.
    "ntfs": Kind(lambda raw, at: by_mkfs(raw, at, "ntfs"), ["mkfs.ntfs", "ntfscp"], "ntfs-3g", True,
                 as_user=False),
    # It mounts devices alone, which is root's.
    "exfat": Kind(lambda raw, at: by_mkfs(raw, at, "exfat"), ["mkfs.exfat", "mount.exfat-fuse"],
                  "mount.exfat-fuse", True, as_user=False),
    "squashfs": Kind(lambda raw, at: tools.run("mksquashfs", sources(at), raw, "-quiet",
                                               "-no-progress"), ["mksquashfs"], "squashfuse"),
    "iso9660": Kind(lambda raw, at: tools.run("genisoimage", "-quiet", "-R", "-o", raw,
                                              sources(at)), ["genisoimage"], "fuseiso"),
    "erofs": Kind(lambda raw, at: tools.run("mkfs.erofs", raw, sources(at)), ["mkfs.erofs"],
                  "erofsfuse"),
}


def made(kind, directory):
    raw, path = os.path.join(directory, "disk.raw"), os.path.join(directory, "disk.qcow2")
    KINDS[kind].make(raw, directory)
    image.convert(raw, path)
    os.unlink(raw)
    at = os.path.join(directory, "at")
    os.mkdir(at)
    return path, at


def look(kind, prefix, program, path, directory):
    """Mounts it from within its directory, reads, writes where that can be, and unmounts."""
    def do(*argv, **keywords):
        return tools.run(*prefix, *argv, env=files.environment(), cwd=directory, **keywords)

    at = os.path.join(directory, "at")
    done = do(program, "mount", path, "at")
    check_equal((done.stdout, done.stderr), ("", ""), "what it said")
    try:
        check_equal(do("sh", "-c", "cat at/here 2>/dev/null || cat at/HERE").stdout.encode(),
                    CONTENT, "the file")
        found = [item for item in json.loads(do(program, "list", "--json").stdout)
                 if item["image"] == path]
        check_equal([(item["file-systems"], item["mount-point"]) for item in found], [([at], "")],
                    "how it is listed")
        if KINDS[kind].writable:
            do("sh", "-ec", "echo new > at/new")
        do(program, "umount", "at")
        check(not mount.is_mounted(at), "still mounted")
        check(path not in do(program, "list").stdout, "still listed")
    finally:
        if mount.is_mounted(at):
            run.unmount(at, lazy=True)
    files.check_in_order(path)


for name, each in KINDS.items():
    @suite.test("%s: root gets the files, by the kernel or by a program" % name,
                needs=[each.needs] + ([] if in_kernel(name) else [tools.tool(each.program)]))
    def _(directory, kind=name):
        path, _at = made(kind, directory)
        look(kind, [], ctl.program(), path, directory)

    if each.as_user:
        @suite.test("%s: an ordinary user gets the files by %s, or its name" % (name, each.program),
                    needs=[each.needs, tools.tool("setpriv", "fusermount3")])
        def _(directory, kind=name):
            with files.place_of_user() as (home, program):
                path, at = [shutil.move(item, home) for item in made(kind, directory)]
                for item in (home, path, at):
                    os.chown(item, 65534, 65534)
                if tools.have(KINDS[kind].program):
                    look(kind, bad.user_prefix(bad.NOBODY), program, path, home)
                else:
                    done = tools.run(*bad.user_prefix(bad.NOBODY), program, "mount", path, at,
                                     status=1)
                    bad.check_sentence(done.stderr, KINDS[kind].program, "install it",
                                       program="qcow2ctl")


def refused_to_user(kind, *words):
    @suite.test("%s: an ordinary user is told why %s does not do it" % (kind, KINDS[kind].program),
                needs=[KINDS[kind].needs, tools.tool("setpriv", "fusermount3"),
                       tools.tool(KINDS[kind].program)])
    def _(directory):
        with files.place_of_user() as (home, program):
            path, at = [shutil.move(item, home) for item in made(kind, directory)]
            for item in (home, path, at):
                os.chown(item, 65534, 65534)
            done = tools.run(*bad.user_prefix(bad.NOBODY), program, "mount", path, at, status=1)
            bad.check_sentence(done.stderr, *words, program="qcow2ctl")
            check(not mount.is_mounted(at), "mounted")
            files.check_nothing_left(path)


refused_to_user("exfat", "mount.exfat-fuse", "block devices", "as root")
refused_to_user("ntfs", "ntfs-3g", "allow_other")


if __name__ == "__main__":
    suite.main()
