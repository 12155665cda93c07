# SPDX-License-Identifier: MIT
"""What `qcow2ctl map` and `qemu-img map` say of an image, compared."""

import json
import os
import random

from . import ctl, tools
from .tap import check, check_equal

KEYS = ["start", "length", "depth", "present", "zero", "data", "compressed"]


def json_map(path, *arguments, cwd=None):
    """The extents that qcow2ctl lists, whose form is looked at."""
    text = ctl.ctl("map", "--json", *arguments, path, cwd=cwd).stdout
    extents = json.loads(text)
    check_equal(text.count("\n"), max(1, len(extents)), "the number of lines")
    for extent in extents:
        check_equal(list(extent)[:len(KEYS)], KEYS, "the keys")
        check(list(extent)[len(KEYS):] in ([], ["offset"]), "odd keys: %r", extent)
    return extents


def without_compressed(extents):
    """As qemu-img 7.2 lists them, which does not tell what is compressed."""
    return [{key: value for key, value in extent.items() if key != "compressed"}
            for extent in extents]


def qemu_map(path, *arguments, cwd=None):
    """The extents that qemu-img lists; where there is nothing it lists an empty one."""
    text = tools.output("qemu-img", "map", "-f", "qcow2", "--output=json", *arguments, path,
                        cwd=cwd)
    return [extent for extent in without_compressed(json.loads(text)) if extent["length"] > 0]


def _check_extents(actual, expected, what):
    for got, should in zip(actual, expected):
        check_equal(got, should, "%s: an extent" % what)
    check_equal(len(actual), len(expected), "%s: the number of extents" % what)


def _check_table(path, cwd):
    """The rows of qemu-img, which gives up at the first compressed cluster."""
    done = tools.run("qemu-img", "map", "-f", "qcow2", path, cwd=cwd, status=None)
    ours = ctl.ctl("map", path, cwd=cwd).stdout.splitlines()
    rows = [row for row in ours if row[32:48].rstrip() != "compressed"]
    expected = done.stdout.splitlines()
    if done.returncode == 0:
        check_equal(ours, expected, "the table")
    else:
        check("compressed" in done.stderr, "qemu-img failed: %s", done.stderr)
        check_equal(rows[:len(expected)], expected, "the table up to what is compressed")


def check_map(path, size, seed=1, windows=1, cwd=None):
    """Fails unless both say the same of the disk: as JSON, of parts of it, and as a table."""
    generator = random.Random(seed)
    # QEMU does not see the rest of a sector at the end.
    whole = ["--max-length=%d" % (size // 512 * 512)] if size % 512 else []
    _check_extents(without_compressed(json_map(path, *whole, cwd=cwd)),
                   qemu_map(path, *whole, cwd=cwd), os.path.basename(path))
    for _ in range(windows):
        start = generator.randrange(max(1, size // 512 * 512))
        length = generator.choice((1, 513, 65536, 100000, size // 3, size))
        length = max(1, min(length, size // 512 * 512 - start))
        part = ["--start-offset=%d" % start, "--max-length=%d" % length]
        _check_extents(without_compressed(json_map(path, *part, cwd=cwd)),
                       qemu_map(path, *part, cwd=cwd), "%s from %d, %d bytes"
                       % (os.path.basename(path), start, length))
    if not whole:
        _check_table(path, cwd)
