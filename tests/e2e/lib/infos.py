# SPDX-License-Identifier: MIT
"""What `qcow2ctl info` and `qemu-img info` say of an image, compared."""

import json

from . import ctl, tools
from .tap import check, check_equal

# What later versions of qemu-img add: 8.0 a tree of its own objects, 9.0 whether a LUKS header
# is in another file, which it never is for qcow2.
NEWER = {"children", "detached-header"}


def json_info(path, *arguments, status=0, cwd=None):
    return json.loads(ctl.ctl("info", "--json", *arguments, path, status=status, cwd=cwd,
                              seconds=tools.TIMEOUT).stdout)


def qemu_info(path, *arguments, cwd=None):
    return json.loads(tools.output("qemu-img", "info", "-f", "qcow2", "--output=json", *arguments,
                                   path, cwd=cwd))


def _check_size(ours, theirs, where):
    """QEMU sees whole sectors: of a raw file one more, of a qcow2 image one less."""
    check(abs(ours - theirs) < 512 and theirs % 512 == 0, "%s is %d, for qemu-img %d", where, ours,
          theirs)


def check_same(ours, theirs, where="info"):
    """Fails unless we say all that qemu-img says; we may say more."""
    if isinstance(theirs, dict):
        check(isinstance(ours, dict), "%s is %r, for qemu-img %r", where, ours, theirs)
        missing = set(theirs) - set(ours) - NEWER
        check(not missing, "%s lacks %s", where, ", ".join(sorted(missing)))
        for key in set(theirs) - NEWER:
            check_same(ours[key], theirs[key], "%s.%s" % (where, key))
    elif isinstance(theirs, list):
        check_equal(len(ours), len(theirs), "the length of %s" % where)
        for index, (one, other) in enumerate(zip(ours, theirs)):
            check_same(one, other, "%s[%d]" % (where, index))
    elif where.endswith(".virtual-size"):
        _check_size(ours, theirs, where)
    else:
        check_equal(ours, theirs, where)


def check_info(path, cwd=None):
    """Fails unless both say the same of every image of the chain."""
    check_same(json_info(path, "--backing-chain", cwd=cwd),
               qemu_info(path, "--backing-chain", cwd=cwd))
