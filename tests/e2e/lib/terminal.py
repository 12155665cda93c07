# SPDX-License-Identifier: MIT
"""Programs in a terminal of their own: what they write there, byte for byte."""

import fcntl
import os
import pty
import struct
import subprocess
import termios

from . import run


class InTerminal:
    """A program that has a terminal for all three of its standard descriptors, `columns` wide."""

    def __init__(self, argv, columns=80, rows=24, **keywords):
        self._ours, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        attributes = termios.tcgetattr(its)
        attributes[1] &= ~termios.OPOST  # a newline stays one
        attributes[3] &= ~termios.ECHO
        termios.tcsetattr(its, termios.TCSANOW, attributes)
        self.said = b""
        try:
            self.process = run.start([os.fspath(argument) for argument in argv], stdin=its, stdout=its,
                                     stderr=its, start_new_session=True, **keywords)
        finally:
            os.close(its)

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.process.kill()
        self.process.wait()
        os.close(self._ours)

    def read(self):
        """What it has written next; nothing at its end."""
        try:
            piece = os.read(self._ours, 1 << 16)
        except OSError:  # EIO: nobody has the other end any more
            piece = b""
        self.said += piece
        return piece

    def read_until(self, wanted):
        while wanted not in self.said:
            if not self.read():
                raise EOFError("it ended without %r, and wrote %r" % (wanted, self.said))

    def type(self, keys):
        os.write(self._ours, keys)

    def end(self):
        """All that it wrote, when it has ended; its status is `process.returncode`."""
        while self.read():
            pass
        self.process.wait()
        return self.said


def output(*argv, **keywords):
    """What a program writes to a terminal, and its status."""
    with InTerminal(argv, **keywords) as terminal:
        said = terminal.end()
        return said, terminal.process.returncode


def piped(*argv, env=None):
    """The same where standard output and error are one pipe."""
    process = run.start([os.fspath(argument) for argument in argv], stdin=subprocess.DEVNULL,
                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env or {})
    said, _ = process.communicate()
    return said, process.returncode
