#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""stats.prom: whether it is what Prometheus takes, and whether it counts what was asked."""

import math
import os
import re

from lib import bad, image, mount, tap, tools
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.QEMU])

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
SAMPLE = re.compile(r"(%s)(?:\{(%s(?:,%s)*)\})? (\S+)" % (NAME, LABEL, LABEL))
NUMBER = re.compile(r"[+-]?(?:Inf|[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)")
TYPES = ("counter", "gauge", "histogram")


def parse(text):
    """The text format 0.0.4, strictly: {family: (type, {(name, labels): value})}."""
    check(text.endswith("\n"), "the last line has no end")
    families, current, helped = {}, None, None
    for line in text.split("\n")[:-1]:
        if line.startswith("# HELP "):
            helped, words = line[7:].split(" ", 1)
            check(re.fullmatch(NAME, helped) and words, "a HELP line is %r", line)
            check(helped not in families, "%s comes twice", helped)
        elif line.startswith("# TYPE "):
            current, kind = line[7:].split(" ")
            check_equal(current, helped, "the family of a TYPE behind its HELP")
            check(kind in TYPES, "a type is %r", kind)
            families[current] = (kind, {})
        else:
            match = SAMPLE.fullmatch(line)
            check(match, "no sample: %r", line)
            name, labels, value = match.groups()
            check(NUMBER.fullmatch(value), "no number: %r", line)
            kind, samples = families[current]
            endings = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
            check(name in [current + ending for ending in endings], "%s in the family %s", name,
                  current)
            key = name, tuple(re.findall('([a-z]+)="([^"]*)"', labels or ""))
            check(key not in samples, "%r comes twice", key)
            samples[key] = float(value)
            check(not math.isnan(samples[key]) and samples[key] >= 0, "%r is %r", key, value)
    for name, (kind, samples) in families.items():
        check(samples, "%s has no samples", name)
        check((kind == "counter") == name.endswith("_total"), "%s is a %s", name, kind)
        if kind == "histogram":
            check_histogram(name, samples)
    return families


def check_histogram(name, samples):
    for kind in {dict(labels)["request"] for _name, labels in samples}:
        # In the order in which they stand there.
        buckets = [(float(dict(labels)["le"]), value) for (sample, labels), value in samples.items()
                   if sample == name + "_bucket" and dict(labels)["request"] == kind]
        check_equal(buckets, sorted(buckets), "the buckets of %s" % kind)
        check(len({limit for limit, _value in buckets}) == len(buckets), "limits come twice")
        check_equal(buckets[-1][0], math.inf, "the last bucket")
        check_equal(buckets[-1][1], samples[name + "_count", (("request", kind),)], "the count")
        total, limit = samples[name + "_sum", (("request", kind),)], 0
        lower = upper = 0
        for (limit, value), (below, before) in zip(buckets, [(0, 0)] + buckets):
            lower += (value - before) * below
            upper += (value - before) * limit if value > before else 0
        check(lower * 0.999 <= total <= upper * 1.001 + 1e-9, "%s: a sum of %r in [%r, %r]", kind,
              total, lower, upper)


def metrics(mounted):
    with open(os.path.join(mounted.path, "stats.prom"), encoding="utf-8") as file:
        return parse(file.read())


def value(found, name, **labels):
    return found[name][1][name, tuple(labels.items())]


def took(found, kind):
    return found["qcow2fs_request_duration_seconds"][1][
        "qcow2fs_request_duration_seconds_count", (("request", kind),)]


def read_directly(path, count):
    with bad.Blocks(path) as blocks:
        for i in range(count):
            check(blocks.read(i * 64 * KiB, 64 * KiB) is not None, "block %d cannot be read", i)


@suite.test("stats.prom is what Prometheus takes, and counts reads, with how long they took")
def _(directory):
    path = bad.sample("plain", directory)
    with mount.mount(path, directory=True) as mounted:
        before = metrics(mounted)
        read_directly(mounted.disk, 16)
        bad.wait_for(lambda: took(metrics(mounted), "read") >= 16 + took(before, "read"),
                     "reads that are timed")
        after = metrics(mounted)
    for name, kind in (("uptime_seconds", "gauge"), ("requests_total", "counter"),
                       ("cache_hits_total", "counter"), ("cache_bytes", "gauge"),
                       ("request_duration_seconds", "histogram")):
        check_equal(after["qcow2fs_" + name][0], kind, "the type of " + name)
    grown = {name: value(after, "qcow2fs_requests_total", request=name)
             - value(before, "qcow2fs_requests_total", request=name) for name in ("read", "write")}
    # Of stats.prom itself there are reads, too.
    check(grown["read"] >= 16, "reads: %r", grown)
    check_equal(grown["write"], 0, "writes")
    check(took(after, "read") <= value(after, "qcow2fs_requests_total", request="read"),
          "more reads took something than there were")
    check(value(after, "qcow2fs_read_bytes_total") - value(before, "qcow2fs_read_bytes_total")
          >= 16 * 64 * KiB, "too few bytes were read")
    check(took(after, "fsync") == 0 and value(after, "qcow2fs_errors_total") == 0, "what never was")


@suite.test("writes, syncs and an overlay are in stats.prom")
def _(directory):
    path = os.path.join(directory, "image.qcow2")
    image.create(path, 16 * MiB)
    with mount.mount(path, "overlay,overlay-max=1G", directory=True, writable=True) as mounted:
        with open(mounted.disk, "r+b", buffering=0) as file:
            file.write(b"x" * 256 * KiB)
            os.fsync(file.fileno())
        # A request is timed a moment after it was answered.
        bad.wait_for(lambda: took(metrics(mounted), "write") >= 1
                     and took(metrics(mounted), "fsync") == 1, "a write and a sync that are timed")
        found = metrics(mounted)
    check_equal(value(found, "qcow2fs_written_bytes_total"), 256 * KiB, "the bytes")
    check_equal(value(found, "qcow2fs_overlay_max_bytes"), 1024 * MiB, "the bound")
    check(value(found, "qcow2fs_overlay_occupied_bytes") >= 256 * KiB, "what it occupies")


@suite.test("what no exporter may write, the parser of this test does not take")
def _(_directory):
    good = ("# HELP a_total Some.\n# TYPE a_total counter\na_total 1\n"
            "# HELP b Some.\n# TYPE b gauge\nb{x=\"y\"} 2.5e-3\n")
    parse(good)
    for old, new in (("a_total 1", "a_total one"), ("a_total 1", "a-total 1"), ("2.5e-3\n", "2.5e-3"),
                     ("counter", "count"), ("a_total 1", "a_total 1\na_total 1"), ("y\"", "y"),
                     ("# TYPE b gauge", "# TYPE c gauge"), ("a_total 1", "a_total  1")):
        try:
            parse(good.replace(old, new))
        except (AssertionError, ValueError, KeyError):
            continue
        raise AssertionError("the parser takes %r" % new)


if __name__ == "__main__":
    suite.main()
