# SPDX-License-Identifier: MIT
"""What a command does to files, call by call; and what a kill, or a power cut, would have left.

    recording = recorded.record(place, ["commit", path])    qcow2ctl, to its end, in the directory
    for files in recording.kills(): ...                      after each call: {path: bytes}
    for files in recording.power_cuts(seed, 4): ...          each sector new or old since the last sync
    recorded.put(files, place)                               they are the directory's files

The process is one, and writes by one thread at a time: so what a kill leaves is what the calls before
it have done. A power cut leaves what was synced, by a sync of that very file; of what came later each
sector on its own, and each size, or not. All of that without a kill for each.
"""

import os
import random
import re

from . import ctl, run, tools
from .tap import check

STRACE = tools.tool("strace")
SECTOR = 512
_LONGEST = 4 << 20  # bytes of a write

_CALL = re.compile(r'^\d+ +(\w+)\(\d+<([^>]*)>(?:, (.*))?\) += (-?\d+)')
_ENDED = re.compile(r"^\d+ +(\+\+\+|---) ")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_ZEROING = ("FALLOC_FL_PUNCH_HOLE", "FALLOC_FL_ZERO_RANGE")


def _unhex(text):
    return bytes.fromhex(text.replace("\\x", ""))


class Call:
    """One call: a write of bytes, of zeros, a size, or a sync, of one file."""

    def __init__(self, name, path, arguments, returned):
        self.path, self.is_sync = path, name in ("fdatasync", "fsync")
        self.offset = self.data = self.size = None
        self.keeps_size = False
        if name in ("pwrite64", "pwritev"):
            self.data = b"".join(_unhex(each) for each in _STRING.findall(arguments))[:returned]
            self.offset = int(arguments.rsplit(", ", 1)[1])
            check(len(self.data) == returned, "%s: %d of %d bytes were traced", name,
                  len(self.data), returned)
        elif name == "ftruncate":
            self.size = int(arguments)
        elif name == "fallocate":
            mode, offset, length = arguments.split(", ")
            self.keeps_size = "FALLOC_FL_KEEP_SIZE" in mode
            if any(each in mode for each in _ZEROING):
                self.offset, self.data = int(offset), bytes(int(length))
            elif not self.keeps_size:
                self.size = int(offset) + int(length)  # it only grows so

    def apply(self, content):
        """Changes the file's bytes, a bytearray."""
        if self.size is not None:
            del content[self.size:]
            content.extend(bytes(self.size - len(content)))
        elif self.data is not None:
            data = self.data[:max(0, len(content) - self.offset)] if self.keeps_size else self.data
            content.extend(bytes(max(0, self.offset - len(content))))
            content[self.offset:self.offset + len(data)] = data


class Recording:
    def __init__(self, before, calls):
        self.before, self.calls = before, calls  # {path: bytes}; [Call]

    def kills(self):
        """What there is before each call, and after the last."""
        files = {path: bytearray(content) for path, content in self.before.items()}
        yield files
        for call in self.calls:
            if not call.is_sync:
                call.apply(files[call.path])
                yield files

    def power_cuts(self, seed, each):
        """For each stretch between two syncs, `each` of what may be there before the second ends."""
        generator = random.Random(seed)
        stable = {path: bytearray(content) for path, content in self.before.items()}
        pending = {path: [] for path in self.before}
        for call in self.calls + [None]:
            if call is not None and not call.is_sync:
                pending[call.path].append(call)
                continue
            if any(pending.values()):
                for number in range(each):
                    yield {path: _torn(stable[path], pending[path], generator, number)
                           for path in stable}
            if call is not None:
                for done in pending[call.path]:
                    done.apply(stable[call.path])
                pending[call.path] = []


def _torn(stable, pending, generator, number):
    """The file, of whose sectors each is as one of the pending calls left it, or none.

    The first time all calls but one have come through, the second time only one, and then any."""
    versions, content = [bytes(stable)], bytearray(stable)
    for call in pending:
        call.apply(content)
        versions.append(bytes(content))
    if len(versions) == 1:
        return stable
    chosen = generator.randrange(1, len(versions))
    if number < 2:
        content = bytearray(stable)
        for at, call in enumerate(pending):
            if (at == chosen - 1) == (number == 1):
                call.apply(content)
        return content
    result = bytearray(len(generator.choice(versions)))
    for at in range(0, len(result), SECTOR):
        there = [version[at:at + SECTOR] for version in versions]
        distinct = list(dict.fromkeys(there))
        sector = distinct[0] if len(distinct) == 1 else generator.choice(distinct)
        result[at:at + SECTOR] = sector.ljust(min(SECTOR, len(result) - at), b"\0")[:len(result) - at]
    return result


def _files(place):
    found = {}
    for above, _, names in os.walk(place):
        for name in names:
            path = os.path.join(above, name)
            with open(path, "rb") as file:
                found[path] = file.read()
    return found


def record(place, arguments):
    """Runs qcow2ctl in the directory, to success, and gives the Recording."""
    before = _files(place)
    log = os.path.join(run.directory, "recorded.log")
    tools.run("strace", "-f", "-y", "-xx", "-s", str(_LONGEST), "-o", log, "-e",
              "trace=pwrite64,pwritev,ftruncate,fallocate,fdatasync,fsync", ctl.program(),
              *arguments, cwd=place)
    calls = []
    with open(log, encoding="ascii", errors="replace") as lines:
        for line in lines:
            found = _CALL.match(line)
            check(found or _ENDED.match(line), "not understood: %s", line[:200])
            if found and int(found.group(4)) >= 0:
                path = _unhex(found.group(2)).decode()
                if path in before:
                    calls.append(Call(found.group(1), path, found.group(3), int(found.group(4))))
    os.unlink(log)
    recording = Recording(before, calls)
    *_, last = recording.kills()
    check(last == _files(place), "the recording of %s, %d calls, does not end in what is there",
          arguments, len(calls))
    return recording


def put(files, place):
    """Makes the files what the recording says, in the directory where they were recorded."""
    for path, content in files.items():
        check(path.startswith(place), "%s is not in %s", path, place)
        with open(path, "r+b") as file:
            file.truncate(0)
            for at in range(0, len(content), 1 << 16):
                piece = content[at:at + (1 << 16)]
                if piece.strip(b"\0"):
                    file.seek(at)
                    file.write(piece)
            file.truncate(len(content))
