#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What the worst images cost each command that only reads: memory that is bounded, and an end."""

import contextlib
import os
import resource
import signal
import struct
import subprocess

from lib import bad, ctl, image, qcow2, run, tap, tools
from lib.image import KiB, MiB
from lib.tap import check, check_equal

GiB, PiB = MiB << 10, MiB << 30
L1_MOST = 32 * MiB
MEMORY = 192 * MiB
SECONDS = 120  # no promise, but an end
SANITIZED = os.environ.get("QCOW2FS_SANITIZE", "no") not in ("", "no")
TICKS = os.sysconf("SC_CLK_TCK")

suite = tap.Suite(needs=[tools.QEMU])


def limit():
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * MiB, 64 * MiB))  # what salvage writes


def start(words):
    return subprocess.Popen([ctl.program()] + words, stdin=subprocess.DEVNULL,
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                            env=tools.environment(**{run.MARK: run.directory}),
                            preexec_fn=None if SANITIZED else limit)


def ends(*words):
    """With a status of its own, and a sentence that does not speak of memory."""
    with start(list(words)) as process:
        _out, said = process.communicate(timeout=SECONDS)
    check(0 <= process.returncode <= 3, "%s ended with %d: %s", words[0], process.returncode, said)
    check("out of memory" not in said, "%s: %s", words[0], said)


def has_worked(process):
    """It has ended, or had half a second of a processor."""
    with contextlib.suppress(FileNotFoundError), open("/proc/%d/stat" % process.pid,
                                                      encoding="ascii") as file:
        fields = file.read().rsplit(")", 1)[1].split()
        return process.poll() is not None or int(fields[11]) + int(fields[12]) > TICKS // 2
    return True


def ends_at_a_signal(*words):
    """What reads all that the disk shows: as long as that is, and no longer than it is wanted."""
    with start(list(words)) as process:
        bad.wait_for(lambda: has_worked(process), "half a second of work")
        process.send_signal(signal.SIGINT)
        _out, said = process.communicate(timeout=SECONDS)
    check(process.returncode in (-signal.SIGINT, 0, 1, 2), "%s ended with %d: %s", words[0],
          process.returncode, said)
    check("out of memory" not in said, "%s: %s", words[0], said)


def all_commands(directory, path, reads_all):
    """`reads_all` judges those that read what the disk shows."""
    for words in (["info"], ["info", "--backing-chain", "--json"], ["info", "--audit"],
                  ["info", "--fragmentation"], ["check"], ["timeline"], ["measure"],
                  ["snapshot", "-l"]):
        ends(*words, path)
    target = os.path.join(directory, "salvaged")
    for words in (["map", path], ["map", "--svg", target + ".svg", path], ["hash", path],
                  ["compare", path, path], ["diff", path, path],
                  ["salvage", "--map", target + ".map", path, target]):
        reads_all(*words)


# --- the images ------------------------------------------------------------------------------


def largest(directory):
    """2 EiB of nothing: an L1 table of 32 MiB, in a hole."""
    path = image.create(os.path.join(directory, "largest.qcow2"), 2048 * PiB, cluster_size="2M")
    return path


def all_over(directory):
    """An L1 table that names one L2 table all over, which names one cluster all over; 64 GiB."""
    path = image.create(os.path.join(directory, "over.qcow2"), 64 * GiB)
    image.io(path, image.write(0, 64 * KiB, 1))
    with qcow2.Qcow2(path) as opened:
        l1, l2 = opened["l1_table_offset"], opened.l1_entry(0) & ((1 << 56) - 512)
        opened.write(l1, opened.read(l1, 8) * (64 * GiB // (512 * MiB)))
        opened.write(l2, opened.read(l2, 8) * 8192)
    return path


def many_names(directory):
    """510 snapshots with IDs and names of 64 KiB, in a hole, with one L1 table of 32 MiB."""
    path = image.create(os.path.join(directory, "names.qcow2"), MiB)
    with qcow2.Qcow2(path) as opened:
        table = -(-opened.end() // MiB) * MiB
        size = (40 + 16 + 2 * 65535 + 7) // 8 * 8
        l1_table = table + -(-size * 510 // MiB) * MiB
        for number in range(510):
            opened.write(table + number * size, struct.pack(
                ">QIHHIIQIIQQ", l1_table, L1_MOST // 8, 65535, 65535, 0, 0, 0, 0, 16, 0, 2 * GiB))
        opened["snapshots_offset"], opened["nb_snapshots"] = table, 510
    os.truncate(path, l1_table + L1_MOST)
    return path


def cluster_of_zeros(directory):
    """Compressed clusters that all are the same few bytes, of 2 MiB each; 16 GiB."""
    path = image.create(os.path.join(directory, "zip.qcow2"), 16 * GiB, cluster_size="2M")
    image.io(path, "write -q -c -P 1 0 2M")
    with qcow2.Qcow2(path) as opened:
        l2 = opened.l1_entry(0) & ((1 << 56) - 512)
        opened.write(l2, opened.read(l2, 8) * 8192)
    return path


WORST = (
    ("2 EiB that nobody has written", largest),
    ("one L2 table, and one cluster, that are named all over", all_over),
    ("64 MiB of names in a hole, and 510 snapshots with one L1 table of 32 MiB", many_names),
    ("compressed clusters of 2 MiB that are all the same bytes", cluster_of_zeros),
)


def test_worst(sentence, make):
    @suite.test(sentence)
    def _(directory):
        all_commands(directory, make(directory), ends_at_a_signal)


for each in WORST:
    test_worst(*each)


@suite.test("the largest bitmap directory")
def _(directory):
    path = bad.sample("bitmaps", directory)
    with qcow2.Qcow2(path) as opened:
        directory_at = -(-opened.end() // MiB) * MiB
        entry = struct.pack(">QIIBBHI", 0, 0, 1, 1, 16, 1, 0) + b"b" + bytes(7)
        opened.write(directory_at, entry * 65535)
        for name, value in (("nb_bitmaps", 65535), ("directory_size", 65535 * 32),
                            ("directory_offset", directory_at)):
            opened.set_bitmaps_field(name, value)
    ends("info", "--json", path)
    ends("info", "--audit", path)
    ends("check", path)
    ends("timeline", path)
    before = os.stat(path).st_size
    ends("bitmap", "--remove", path, "not-there")
    check_equal(os.stat(path).st_size, before, "the size of the file")


if __name__ == "__main__":
    suite.main()
