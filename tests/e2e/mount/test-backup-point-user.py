#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The manual page's round of incremental backups, by somebody without rights, with a disk that changes
its size and backups that have to be made again."""

import os
import shutil

from lib import backups, bad, ctl, files, tap, tools, write

suite = tap.Suite(needs=[tools.fuse, tools.QEMU, tools.tool("setpriv", "fusermount3")])

# Writes each number of MiB that it is given.
SCRIBBLE = """
scribble() {
    for at; do
        head -c 70000 /dev/urandom |
        dd of=image/disk.raw bs=70000 count=1 seek=$((at * 1048576 + 5000)) oflag=seek_bytes \\
           iflag=fullblock conv=notrunc status=none
    done
}
same() {
    restore "$@"
    cmp restored.raw image/disk.raw
}
"""
ROUND = """
mkdir image backup
qcow2ctl create -q -f qcow2 disk.qcow2 16M
qcow2fs -o shrink disk.qcow2 image
trap "qcow2ctl umount image" EXIT
scribble 1 3 15
first
same
scribble 2 9
next 1
same 1
scribble 2 5
(cp() { command cp "$@" && false; }; ! next 2)  # what there is of it is written over
next 2
same 1 2
scribble 14 12 4
truncate -s 13M image/disk.raw
next 3
same 1 2 3
truncate -s 11M image/disk.raw
truncate -s 15M image/disk.raw
scribble 14
next 4
same 1 2 3 4
test -z "$(ls image/snapshots)"
"""


@suite.test("each backup is restored, whatever became of the disk's size, and of the backup before")
def _(directory):
    del directory
    with bad.public_directory() as public:
        shutil.copy2(ctl.program(), os.path.join(public.path, "qcow2ctl"))
        home = os.path.join(public.path, "home")
        os.mkdir(home)
        if os.geteuid() == 0:
            os.chown(home, 65534, 65534)
        # Masked as that of most users is: what is copied is written again all the same.
        tools.run(*bad.user_prefix(bad.NOBODY), "sh", "-euc",
                  "umask 022\n" + backups.script() + SCRIBBLE + ROUND, cwd=home,
                  env=dict(files.environment(), PATH=public.path + ":" + tools.PATH, HOME=home))
        write.check_clean(os.path.join(home, "disk.qcow2"))


if __name__ == "__main__":
    if os.geteuid() == 0:
        bad.private_mounts()
    suite.main()
