#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Names that would command the terminal: in every field of an image that holds one, and in the path
of the image itself. Whatever the programs print of them, by every command and by the daemon, on
either output, as text, JSON or a picture, is harmless there; and JSON still says what they are."""

import json
import os
import re
import subprocess

from lib import bad, ctl, image, qcow2, run, tap, tools
from lib.image import MiB
from lib.tap import check

suite = tap.Suite(needs=[tools.QEMU])

# ESC in C0, CSI in C1, DEL, an override of the direction, an isolate, a line separator, a tag.
HOSTILE = "\x1b[2J\x9b2J\x7f\u202egpj\u2066\u2028\U000e0041\n"
ENCODED = HOSTILE.encode() + b"\xff\x9b"  # and bytes that are no UTF-8
COMMANDS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f"
                      "\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]")


def is_harmless(done, what):
    """All of what it printed is UTF-8, without commands."""
    for name, data in (("standard output", done.stdout), ("standard error", done.stderr)):
        text = data.decode("utf-8")
        found = COMMANDS.search(text)
        check(found is None, "%s prints %r on %s: %r", what, found and found.group(), name,
              text[:2000])
        check("\n[2J" not in text and "\n2J" not in text, "%s lets a line end: %r", what, text)


def start(program, *arguments, directory=None):
    """Its outputs as bytes; any status but a signal's."""
    done = subprocess.run([program, *arguments], capture_output=True, cwd=directory, check=False,
                          timeout=bad.REFUSAL_SECONDS, stdin=subprocess.DEVNULL,
                          env=dict(os.environ, **{run.MARK: run.directory}))
    what = "%s %r" % (os.path.basename(program), arguments)
    check(done.returncode >= 0, "%s ended with %d", what, done.returncode)
    is_harmless(done, what)
    return done


def hostile_name(directory, suffix=b".qcow2"):
    return os.path.join(os.fsencode(directory), b"a" + ENCODED + suffix)


def with_fields(directory):
    """An image under a hostile path whose snapshot, bitmap, features and backing file are, too."""
    plain, path = os.path.join(directory, "plain.qcow2"), hostile_name(directory)
    image.create(plain, MiB)
    tools.run("qemu-img", "snapshot", "-c", "N" * 40, plain)
    tools.run("qemu-img", "bitmap", "--add", plain, "B" * 40)
    with qcow2.Qcow2(plain) as opened:
        snapshot = opened.snapshots()[0]
        names = snapshot.position + qcow2.SNAPSHOT_FIXED_LENGTH + \
            opened.number(snapshot.position + qcow2.SNAPSHOT["extra_data_size"][0], 4)
        opened.write(names + len(snapshot.id), ENCODED.ljust(40, b"N"))
        position = opened.bitmap_positions()[0] + 24
        opened.write(position, HOSTILE.encode().ljust(40, b"B"))
        opened.remove_extension(qcow2.EXTENSION_FEATURE_NAMES)
        opened.append_extension(qcow2.EXTENSION_FEATURE_NAMES,
                                bytes([1, 50]) + ENCODED.ljust(46, b"\0"))
        opened["compatible_features"] = 1 << 50
    os.rename(os.fsencode(plain), path)
    return path


def with_backing(directory, name=ENCODED + b".base", kind=b"qcow2"):
    path = os.path.join(directory, "over.qcow2")
    image.create(path, MiB)
    with qcow2.Qcow2(path) as opened:
        opened.append_extension(qcow2.EXTENSION_BACKING_FORMAT, kind)
        opened.set_backing_file(name)
    return os.fsencode(path)


COMMANDS_OF_QCOW2CTL = (
    ("info",), ("info", "--json"), ("info", "--audit"), ("info", "--audit", "--json"),
    ("info", "--backing-chain"), ("info", "--fragmentation"),
    ("check",), ("check", "--json"), ("check", "--repair=all"), ("check", "--verbose"),
    ("hash", "--json", "-j", "2"),  # without --json they are as sha256sum has them: test-ctl-hash.py
    ("map",), ("map", "--json"), ("map", "--svg=-"), ("map", "--snapshot", ENCODED),
    ("amend", "-o", "compat=1.1"), ("amend", "-u", "-o", b"backing_file=" + ENCODED),
    ("amend", "-o", b"refcount_bits=" + ENCODED), ("resize",), ("create",))


def of_all(path, directory):
    for command in COMMANDS_OF_QCOW2CTL:
        operands = ["+1M"] if command[0] == "resize" else ["1M"] if command[0] == "create" else []
        start(ctl.program(), *command, path, *operands, directory=directory)


@suite.test("an image with hostile fields at a hostile path: every command prints harmless text")
def _(directory):
    of_all(with_fields(directory), directory)


@suite.test("a damaged image at a hostile path: what check finds names it harmlessly")
def _(directory):
    path = with_fields(directory)
    with qcow2.Qcow2(path) as opened:
        opened.set_refcount(0, 7)
        opened.write(opened["snapshots_offset"], b"\xff" * 8)
    for command in (("check",), ("check", "--json"), ("check", "--repair=all")):
        done = start(ctl.program(), *command, path)
        check(done.returncode != 0, "%s finds nothing", command)
    start(ctl.program(), "info", "--audit", path)


@suite.test("hostile names of backing files, formats and data files are shown harmlessly")
def _(directory):
    of_all(with_backing(directory), directory)
    of_all(with_backing(directory, b"base", ENCODED[:20]), directory)
    path = bad.sample("datafile", directory)
    with qcow2.Qcow2(path) as opened:
        opened.remove_extension(qcow2.EXTENSION_DATA_FILE)
        opened.append_extension(qcow2.EXTENSION_DATA_FILE, ENCODED)
    of_all(os.fsencode(path), directory)


@suite.test("no file, options and operands that are hostile: sentences name them harmlessly")
def _(directory):
    of_all(hostile_name(directory, b".none"), directory)
    for arguments in ([ENCODED], ["check", b"--" + ENCODED], ["info", b"-f" + ENCODED, "a"],
                      ["map", b"--svg=" + ENCODED + b"/x", "a"], ["create", "a", ENCODED],
                      ["create", "-o", ENCODED, "a"], ["resize", "a", ENCODED],
                      ["info", b"--help=" + ENCODED]):
        done = start(ctl.program(), *arguments, directory=directory)
        check(done.returncode != 0, "%r was taken", arguments)
    made = hostile_name(directory, b".made")
    start(ctl.program(), "create", made, "1M")
    start(ctl.program(), "create", "--json", made + b"2", "1M")
    start(ctl.program(), "create", "-u", "-b", ENCODED, "-F", "raw", made + b"3", "1M")


@suite.test("JSON keeps the name: read again, it is the text of the image")
def _(directory):
    told = json.loads(start(ctl.program(), "info", "--json", with_fields(directory)).stdout)
    shown = HOSTILE + "\ufffd\ufffd"
    check(shown in told["filename"], "the file name is %r", told["filename"])
    check(told["snapshots"][0]["name"].startswith(shown), "%r", told["snapshots"])


@suite.test("the daemon names hostile images, options and mount points harmlessly")
def _(directory):
    at = bad.mount_point(directory)
    for arguments in ([with_backing(directory), at], [hostile_name(directory, b".none"), at],
                      ["-o", b"data-file=" + ENCODED, bad.sample("datafile", directory), at],
                      ["-o", ENCODED, "image", at], [b"--" + ENCODED], ["a", at, ENCODED],
                      [with_fields(directory), hostile_name(directory, b"/none")],
                      ["-o", b"cache=" + ENCODED, "image", at]):
        done = start(run.program(), "-f", *arguments, directory=directory)
        check(done.returncode != 0 and done.stderr, "%r was taken", arguments)


if __name__ == "__main__":
    suite.main()
