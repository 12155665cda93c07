# SPDX-License-Identifier: MIT
"""NBD servers: nbdkit, qemu-nbd, and one of our own that does what no real one would.

Server keeps what it serves in memory, like a server with a volatile cache: what is written is
stable only once a flush was answered. It hangs, hangs up, and loses its power when a test says so.
"""

import contextlib
import os
import random
import signal
import socket
import struct
import subprocess
import threading
import time

from . import image, run, tools
from .image import MiB
from .tap import check

READ, WRITE, DISCONNECT, FLUSH, TRIM, ZEROES = 0, 1, 2, 3, 4, 6
WRITES = (WRITE, TRIM, ZEROES)
READ_ONLY, HAS_FLUSH, HAS_FUA, HAS_TRIM, HAS_ZEROES, MULTI_CONN = 2, 4, 8, 32, 64, 256
EVERYTHING = 1 | HAS_FLUSH | HAS_FUA | HAS_TRIM | HAS_ZEROES | MULTI_CONN
OPT_ABORT, OPT_GO = 2, 7
REP_ACK, REP_INFO, REP_UNSUPPORTED = 1, 3, 0x80000001
INFO_EXPORT, INFO_BLOCK_SIZE = 0, 3
EIO, EINVAL = 5, 22


def some_image(directory, size=20 * MiB):
    """An image and the raw disk that it shows: (its path, that of the disk)."""
    raw, path = os.path.join(directory, "raw"), os.path.join(directory, "image.qcow2")
    with open(raw, "wb") as file:
        file.write(random.Random(7).randbytes(size))
    image.convert(raw, path)
    return path, raw


def built():
    done = tools.run(run.program(), "-V")
    return None if "libnbd yes" in done.stdout else "built without libnbd"


NBDKIT = [built, tools.tool("nbdkit")]


def plugin(name):
    def missing():
        done = tools.run("nbdkit", "--dump-plugin", name, status=None)
        return None if done.returncode == 0 else "nbdkit has no plugin " + name

    return missing


def free_port():
    """Of TCP; nobody else takes it in a moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# --- real ones ----------------------------------------------------------------------------------


@contextlib.contextmanager
def server(place, *command):
    """One that runs in the foreground, and makes the socket `place`; (address, process)."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not os.path.exists(place + ".pid"):
            check(process.poll() is None and time.monotonic() < deadline, "%s did not begin",
                  command[0])
            time.sleep(0.01)
        yield "nbd+unix:///?socket=" + place, process
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()
        for name in (place, place + ".pid"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)


def nbdkit(directory, *words, name="socket", writable=False):
    place = os.path.join(run.short(directory), name)
    return server(place, "nbdkit", "-f", *([] if writable else ["-r"]), "-U", place, "-P",
                  place + ".pid", *words)


def qemu_nbd(directory, path, *words, name="qemu", writable=False):
    place = os.path.join(run.short(directory), name)
    return server(place, "qemu-nbd", *([] if writable else ["-r"]), "-t", "-f", "raw", "-k", place,
                  "--pid-file", place + ".pid", *words, path)


@contextlib.contextmanager
def only_address(served):
    with served as (address, _process):
        yield address


def kill(process, place):
    """As a crash ends it: another may take its place."""
    process.kill()
    process.wait()
    for name in (place, place + ".pid"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


# --- one of our own -----------------------------------------------------------------------------


class Server:
    """Serves `contents` at the socket `place` of a directory, until it is closed.

    `before(kind, offset, length)` is called with the lock held before each request is done; what it
    returns is a word: None (do it), "hang" (never answer), "cut" (lose the power, before it is
    done), "short" (do it, send a part of the answer, and hang up), "hold" (do it, and answer when
    release() is called), or a number, which is the error that is answered. `size`: what it says that
    it has. `blocks`: the least, the best and the largest size of a request, as it says; None: it says nothing.
    """

    def __init__(self, directory, contents, flags=EVERYTHING, name="own", size=None, blocks=None):
        self.place = os.path.join(run.short(directory), name)
        self.address = "nbd+unix:///?socket=" + self.place
        self.current, self.stable = bytearray(contents), bytearray(contents)
        self.flags = flags
        self.size = len(contents) if size is None else size
        self.blocks = blocks
        self.unflushed = []  # (offset, bytes)
        self.counts = {}
        self.zeroed = []  # (offset, length)
        self.before = lambda kind, offset, length: None
        self.lock = threading.RLock()
        self.ends = set()
        self.sending = {}  # a lock for each connection
        self.accepted = 0  # connections, so far
        self.most = 1 << 30  # connections that it takes; others are hung up
        self.held = []  # (connection, answer) of those that are held
        self.hung = None  # a list: they hang in place of that, and are here
        self.generation = 0
        self.generator = random.Random(1)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.place)
        self.listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.hang_up()
        for end in self.hung or []:
            end.close()
        os.unlink(self.place)

    def hang_up(self):
        """All connections, as a server does that begins anew."""
        with self.lock:
            self.generation += 1
            for end in self.ends:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            self.ends = set()

    def release(self):
        """Answers all that is held."""
        with self.lock:
            held, self.held = self.held, []
        for end, answer in held:
            with contextlib.suppress(OSError):  # who had asked may be gone
                self._send(end, answer)

    def _send(self, end, answer):
        with self.sending.setdefault(end, threading.Lock()):
            end.sendall(answer)

    def cut_power(self):
        """Of what was not flushed some is there afterwards, in any order, the rest is lost."""
        with self.lock:
            self.generator.shuffle(self.unflushed)
            for offset, data in self.unflushed:
                for at in range(0, len(data), 512):
                    if self.generator.random() < 0.5:
                        sector = data[at:at + 512]
                        self.stable[offset + at:offset + at + len(sector)] = sector
            self.unflushed = []
            self.current = bytearray(self.stable)
            self.hang_up()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                end, _ = self.listener.accept()
                with self.lock:
                    if self.accepted >= self.most:
                        self.accepted += 1
                        if self.hung is None:
                            end.close()
                        else:
                            self.hung.append(end)
                        continue
                    self.ends.add(end)
                    self.accepted += 1
                    generation = self.generation
                threading.Thread(target=self._serve, args=(end, generation), daemon=True).start()

    def _serve(self, end, generation):
        with contextlib.suppress(OSError, EOFError):
            if self._greet(end):
                while self._request(end, generation):
                    pass
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()

    @staticmethod
    def _receive(end, length):
        data = bytearray()
        while len(data) < length:
            part = end.recv(length - len(data))
            if not part:
                raise EOFError
            data += part
        return bytes(data)

    def _greet(self, end):
        end.sendall(b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3))
        self._receive(end, 4)
        while True:
            _magic, option, length = struct.unpack(">QII", self._receive(end, 16))
            self._receive(end, length)

            def reply(kind, data=b"", option=option):
                end.sendall(struct.pack(">QIII", 0x3e889045565a9, option, kind, len(data)) + data)

            if option == OPT_GO:
                reply(REP_INFO, struct.pack(">HQH", INFO_EXPORT, self.size, self.flags))
                if self.blocks is not None:
                    reply(REP_INFO, struct.pack(">HIII", INFO_BLOCK_SIZE, *self.blocks))
                reply(REP_ACK)
                return True
            if option == OPT_ABORT:
                reply(REP_ACK)
                return False
            reply(REP_UNSUPPORTED)

    def _request(self, end, generation):
        _magic, _flags, kind, cookie, offset, length = struct.unpack(">IHHQQI",
                                                                     self._receive(end, 28))
        data = self._receive(end, length) if kind == WRITE else bytes(length if kind == ZEROES else 0)
        if kind == DISCONNECT:
            return False
        with self.lock:
            if generation != self.generation:
                return False
            self.counts[kind] = self.counts.get(kind, 0) + 1
            word = self.before(kind, offset, length)
            if word == "hang":
                return True
            if word == "cut":
                self.cut_power()
                return False
            answer = b""
            short, held = word == "short", word == "hold"
            word = None if short or held else word
            if word is None and offset + length > len(self.current):
                word = EINVAL
            if word is None and kind == READ:
                answer = bytes(self.current[offset:offset + length])
            elif word is None and kind in (WRITE, ZEROES):
                self.current[offset:offset + length] = data
                self.unflushed.append((offset, data))
                if kind == ZEROES:
                    self.zeroed.append((offset, length))
            elif word is None and kind == FLUSH:
                for at, written in self.unflushed:
                    self.stable[at:at + len(written)] = written
                self.unflushed = []
            answer = struct.pack(">IIQ", 0x67446698, word or 0, cookie) + answer
            if held:
                self.held.append((end, answer))
                return True
        self._send(end, answer[:len(answer) // 2] if short else answer)
        return not short
