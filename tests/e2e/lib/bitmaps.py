# SPDX-License-Identifier: MIT
"""Persistent bitmaps, as QEMU sees them."""

import json
import os
import struct

from . import image, nbd, run, tools
from .tap import check


def bitmaps(path):
    """What QEMU says of them: name, granularity, flags."""
    found = image.info(path)["format-specific"]["data"].get("bitmaps", [])
    return sorted((one["name"], one["granularity"], sorted(one["flags"])) for one in found)


def ranges(path, name):
    """What is set in one, as QEMU shows it to a backup program: a list of [offset, length]."""
    place = os.path.join(run.short(path), "bits")
    with nbd.server(place, "qemu-nbd", "-r", "-t", "-f", "qcow2", "-B", name, "-k", place,
                    "--pid-file", place + ".pid", path):
        found = tools.output(
            "qemu-img", "map", "--output=json", "--image-opts",
            "driver=nbd,server.type=unix,server.path=%s,x-dirty-bitmap=qemu:dirty-bitmap:%s"
            % (place, name))
    merged = []
    for one in json.loads(found):
        if one["data"]:
            continue  # its name for what is not set
        if merged and merged[-1][0] + merged[-1][1] == one["start"]:
            merged[-1][1] += one["length"]
        else:
            merged.append([one["start"], one["length"]])
    return merged


def all_bits(path):
    """Every bitmap that is in order, with its bits."""
    return {name: (granularity, flags, None if "in-use" in flags else ranges(path, name))
            for name, granularity, flags in bitmaps(path)}


def entry_of(file, name):
    """Where the directory has its entry, at which the file stands then."""
    file.seek(0)
    first = file.read(4096)
    at = first.index(struct.pack(">II", 0x23852875, 24)) + 8
    count, _, size, offset = struct.unpack(">IIQQ", first[at:at + 24])
    check(count > 0, "there are no bitmaps")
    file.seek(offset)
    found = offset + file.read(size).index(name) - 24
    file.seek(found)
    return found


def rounded(changes, granularity, size):
    """What a bitmap has of changes, [offset, length] each: whole pieces of the disk, merged."""
    merged = []
    for offset, length in sorted(changes):
        if length == 0:
            continue
        begin = offset // granularity * granularity
        end = min(size, (offset + length + granularity - 1) // granularity * granularity)
        if merged and begin <= merged[-1][0] + merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end - merged[-1][0])
        else:
            merged.append([begin, end - begin])
    return merged
