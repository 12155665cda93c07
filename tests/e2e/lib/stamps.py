# SPDX-License-Identifier: MIT
"""Blocks that tell where they belong and how old they are, written by threads of a test.

A block holds its own number and its generation, 256 times. The Ledger knows, of every block,
what has been acknowledged by an fsync and what has been tried since. After a crash each part
of a block must be one of these; anything older is lost, anything of another block is foreign.
"""

import os
import random
import struct
import threading

from . import bad, tools, write
from .tap import check

BLOCK = 4096
STRIPE = 5  # blocks of one writer in a row: no multiple of any cluster
PART = struct.Struct(">QQ")
MAGIC = 0x7163326673 << 24
ZERO = bytes(PART.size)


def block(number, generation):
    """The bytes of a block. Generation 0 is a block of zeros."""
    return PART.pack(MAGIC | number, generation) * (BLOCK // PART.size) if generation \
        else bytes(BLOCK)


class Ledger:
    """What may stand in each block of a disk."""

    def __init__(self, blocks):
        self.blocks = blocks
        self._kept = [0] * blocks           # generations that are acknowledged
        self._tried = [()] * blocks         # generations since
        self._next = 1
        self._mutex = threading.Lock()

    def fill(self, raw, seed=1, share=0.5):
        """Writes the raw file that the image begins with: half of the blocks hold data."""
        generator = random.Random(seed)
        generation = self.new_generation()
        with open(raw, "wb") as file:
            file.truncate(self.blocks * BLOCK)
            number = 0
            while number < self.blocks:
                length = min(generator.randint(1, 60), self.blocks - number)
                if generator.random() < share:
                    file.seek(number * BLOCK)
                    for index in range(number, number + length):
                        file.write(block(index, generation))
                        self._kept[index] = generation
                number += length
        return raw

    def new_generation(self):
        with self._mutex:
            self._next += 1
            return self._next

    def trying(self, first, count, generation):
        for number in range(first, first + count):
            self._tried[number] += (generation,)

    def acknowledge(self, touched):
        """All that was tried in these blocks is stable: the last is what they hold."""
        for number in touched:
            if self._tried[number]:
                self._kept[number] = self._tried[number][-1]
                self._tried[number] = ()

    def _check_block(self, number, data):
        allowed = [self._kept[number], *self._tried[number]]
        if any(data == block(number, generation) for generation in allowed):
            return
        parts = {PART.pack(MAGIC | number, one) if one else ZERO for one in allowed}
        for position in range(0, BLOCK, PART.size):
            part = data[position:position + PART.size]
            if part in parts:
                continue
            marked, generation = PART.unpack(part)
            what = "neither zeros nor a stamp: %s" % part.hex()
            if part == ZERO:
                what = "zeros"
            elif marked == MAGIC | number:
                what = "generation %d" % generation
            elif marked >> 24 == MAGIC >> 24:
                what = "FOREIGN: block %d, generation %d" % (marked & 0xFFFFFF, generation)
            raise AssertionError("block %d (guest offset %d) + %d holds %s; acknowledged is %d, "
                                 "tried since %r" % (number, number * BLOCK, position, what,
                                                     self._kept[number], self._tried[number]))

    def check(self, disk):
        """Fails unless every block is what was acknowledged, or newer."""
        with open(disk, "rb", buffering=0) as file:
            for number in range(self.blocks):
                self._check_block(number, os.pread(file.fileno(), BLOCK, number * BLOCK))

    def settle(self, disk):
        """What stands in the blocks is what they hold, also where a write was torn."""
        torn = []
        with open(disk, "rb", buffering=0) as file:
            for number in range(self.blocks):
                data = os.pread(file.fileno(), BLOCK, number * BLOCK)
                found = [one for one in (self._kept[number], *self._tried[number])
                         if data == block(number, one)]
                if found:
                    self._kept[number], self._tried[number] = found[0], ()
                else:
                    torn.append(number)
        return torn


class Writer(threading.Thread):
    """Writes, zeroes, discards and syncs its stripes until something fails, or stop()."""

    def __init__(self, disk, ledger, number, writers, seed, direct, pause=0):
        super().__init__(daemon=True)
        self.disk, self.ledger, self.number, self.writers = disk, ledger, number, writers
        self.direct, self.pause = direct, pause
        self.generator = random.Random(seed * 1000 + number)
        self.acknowledged = 0   # syncs
        self.error = None
        self._touched = set()
        self._stopping = threading.Event()

    def stop(self):
        self._stopping.set()

    def _range(self):
        stripes = self.ledger.blocks // STRIPE
        stripe = self.generator.randrange(stripes // self.writers) * self.writers + self.number
        first = self.generator.randrange(STRIPE)
        return stripe * STRIPE + first, self.generator.randint(1, STRIPE - first)

    def _change(self, handle, direct):
        first, count = self._range()
        kind = self.generator.random()
        generation = self.ledger.new_generation() if kind < 0.75 else 0
        self.ledger.trying(first, count, generation)
        self._touched.update(range(first, first + count))
        if generation == 0:
            change = write.punch if kind < 0.90 else write.zero
            change(handle, first * BLOCK, count * BLOCK)
            return
        data = b"".join(block(number, generation) for number in range(first, first + count))
        if self.direct:
            direct.write(first * BLOCK, data)
        else:
            write.write_all(handle, data, first * BLOCK)

    def run(self):
        try:
            with write.opened(self.disk) as handle, write.Direct(self.disk) as direct:
                while not self._stopping.is_set():
                    for _ in range(self.generator.randint(1, 20)):
                        self._change(handle, direct)
                    os.fsync(handle)
                    self.ledger.acknowledge(self._touched)
                    self._touched = set()
                    self.acknowledged += 1
                    self._stopping.wait(self.pause)
        except OSError as error:
            self.error = error


def start(disk, ledger, seed, writers=4, pause=0):
    """Starts writers, every second one past the page cache."""
    started = [Writer(disk, ledger, number, writers, seed, number % 2 == 1, pause)
               for number in range(writers)]
    for writer in started:
        writer.start()
    return started


def wait(writers, syncs=3):
    """Until each of them has something to lose."""
    bad.wait_for(lambda: all(each.acknowledged >= syncs or each.error for each in writers), "something to lose")
    for writer in writers:
        check(writer.error is None, "a writer failed: %s", writer.error)


def join(writers):
    """Waits for their end; returns the number of syncs that were acknowledged."""
    for writer in writers:
        writer.join(tools.TIMEOUT)
        check(not writer.is_alive(), "a writer hangs")
    return sum(writer.acknowledged for writer in writers)
