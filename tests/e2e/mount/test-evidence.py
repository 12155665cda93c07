#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What an examiner is told of an image that is only read: one line for each thing to know."""

import os

from lib import bad, compare, image, mount, qcow2, tap, tools
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.QEMU])


def line(text, *words):
    """Exactly one line has all the words."""
    found = [each for each in text.splitlines() if all(word in each for word in words)]
    check_equal(len(found), 1, "the lines with %r of %r" % (words, text))


@suite.test("an image that is marked dirty is read as it is, and a line says so")
def _(directory):
    path = bad.sample("plain", directory)
    wanted = bad.contents(path)
    with qcow2.Qcow2(path) as opened:
        opened["incompatible_features"] |= 1
    before = compare.Unchanged(path)
    with mount.mount(path) as mounted, open(mounted.disk, "rb") as file:
        compare.check_bytes(file.read(), wanted, 0)
        line(mounted.stderr(), os.path.basename(path), "marked dirty")
    before.check()


@suite.test("a read-only block device is mounted read-only, and a line says so",
            needs=[tools.loop])
def _(directory):
    path = bad.sample("plain", directory)
    wanted = bad.contents(path)
    at = bad.mount_point(directory)
    os.truncate(path, -(-os.path.getsize(path) // 65536) * 65536)  # a device has whole sectors
    with mount.loop_device(path) as device:
        with mount.mount(device, at=at, writable=True) as mounted, open(mounted.disk, "rb") as file:
            compare.check_bytes(file.read(), wanted, 0)
            line(mounted.stderr(), "mounting read-only", device, "block device that is read-only")
            check_equal(os.stat(mounted.disk).st_mode & 0o222, 0, "the bits to write")


@suite.test("who does not own the image is told that its time of access may change",
            needs=[tools.root, tools.tool("setpriv", "fusermount3")])
def _(directory):
    with bad.public_directory() as public:
        path = bad.sample("plain", public.path)
        os.chmod(path, 0o644)
        at = bad.mount_point(public.path)
        os.chown(at, 65534, 65534)
        for owner, lines in ((0, 1), (65534, 0)):
            os.chown(path, owner, owner)
            done = bad.start_and_end("-o", "ro", path, at, user=bad.NOBODY,
                                     program=public.program)
            try:
                check_equal((done.returncode, done.stderr.count("its time of access")), (0, lines),
                            "with an image of user %d: %s" % (owner, done.stderr))
            finally:
                tools.run(*bad.user_prefix(bad.NOBODY), "fusermount3", "-u", at, status=None)
                bad.wait_gone(at)
    with mount.mount(image.create(os.path.join(directory, "own.qcow2"), 1 << 20)) as mounted:
        check_equal(mounted.stderr(), "", "what the owner is told")


if __name__ == "__main__":
    if os.geteuid() == 0:
        bad.private_mounts()
    suite.main()
