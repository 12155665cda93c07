# SPDX-License-Identifier: MIT
"""File systems that stand still, as FIFREEZE makes them."""

import contextlib
import errno
import fcntl
import os

from .tap import check_equal

FIFREEZE, FITHAW = 0xC0045877, 0xC0045878


def is_frozen(at):
    """Whether it is: who freezes it once more is told so."""
    handle = os.open(at, os.O_RDONLY)
    try:
        fcntl.ioctl(handle, FIFREEZE, 0)
        fcntl.ioctl(handle, FITHAW, 0)
        return False
    except OSError as error:
        check_equal(error.errno, errno.EBUSY, "the error")
        return True
    finally:
        os.close(handle)


def thaw(at):
    """Whatever a test has come to, nothing of the machine stays frozen."""
    with contextlib.suppress(OSError):
        handle = os.open(at, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, FITHAW, 0)
        finally:
            os.close(handle)
