# SPDX-License-Identifier: MIT
"""A tree of files as a system has it: thousands of small ones, and a few that are large."""

import os
import random

MEAN = 45 << 10  # bytes of a file


def make(directory, size, contents):
    """Files of `size` bytes in all, with pieces of the file `contents`."""
    chance = random.Random(size)
    with open(contents, "rb") as file:
        text = file.read(32 << 20)
    made = number = 0
    while made < size:
        large = number % 100 == 99
        length = min(int(chance.expovariate(1 / (40 * MEAN if large else MEAN / 2))) + 1,
                     size - made)
        place = os.path.join(directory, "%02d" % (number // 200 % 64), "%d" % (number // 50 % 4))
        os.makedirs(place, exist_ok=True)
        start = chance.randrange(len(text))
        with open(os.path.join(place, "file-%d" % number), "wb") as file:
            while length > 0:
                piece = text[start:start + length]
                file.write(piece)
                made += len(piece)
                length -= len(piece)
                start = 0
        number += 1


def copy_size(directory):
    """Bytes of all files below."""
    return sum(os.path.getsize(os.path.join(place, name))
               for place, _directories, names in os.walk(directory) for name in names)
