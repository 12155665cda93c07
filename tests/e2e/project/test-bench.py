# SPDX-License-Identifier: MIT
"""The benchmark works: not how fast anything is."""

import json
import os
import shutil
import xml.etree.ElementTree

from lib import bad, encrypted, image, nbd, qcow2, run, tap, tools

FAST = "sandbox,sandbox-info,read-qd1,allocate-4k,allocate-sync,seq-cold,zstd,fill-zlib," \
       "memory-idle,memory-reads,chain-8,mount-1g,text-mount,text-tool,libraries,memory-mount"
BENCH = os.path.join(run.SOURCE, "tests", "bench", "run")
JOBS = "job-list,job-copy-chain5,job-copy-luks,job-fill,job-sha256-zlib,job-backup,job-grow"
TAILS = "tail-read-alone-50,tail-read-fill-99.9,tail-write-discard-max,tail-write-commit-99," \
        "tail-write-snapshot-99.9,tail-read-clean-50"
FAMILIES = ("size", "chain", "snapshots", "mounts")
DECOMPRESS = os.path.join(os.path.dirname(os.path.dirname(run.program())), "tests", "bench",
                          "decompress")
FAR = "far-seq,far-qd4,far-qd32"
FAR_FLOOR = os.path.join(os.path.dirname(DECOMPRESS), "far-floor")

suite = tap.Suite(needs=[tools.fuse, tools.QEMU, tools.ZSTD, tools.tool("fio")])


def is_built(program):
    return lambda: None if os.access(program, os.X_OK) else "%s is not built" % program


def measure(directory, *arguments):
    """Runs the benchmark in its quick mode; returns its JSON document and the chart's path."""
    results, svg = os.path.join(directory, "results.json"), os.path.join(directory, "chart.svg")
    run.watch_for(10 * tools.TIMEOUT)  # all that it measures is work
    tools.run("python3", BENCH, "--quick", "--disk", directory, "--json", results, "--svg", svg,
              *arguments, env={"QCOW2FS": run.program()}, timeout=9 * tools.TIMEOUT)
    with open(results, encoding="utf-8") as file:
        return json.load(file), svg


def dots(path):
    """In a picture."""
    return xml.etree.ElementTree.parse(path).getroot().findall(".//{http://www.w3.org/2000/svg}circle")


def check_drawn(directory, found, name, legend):
    """A dot for each number, and one for each target."""
    numbers = sum(len(row["medians"]) for row in found["workloads"])
    tap.check_equal(len(dots(os.path.join(directory, name + ".svg"))), numbers + legend,
                    "the dots of %s" % name)


def check_measured(found, names, *labels):
    """These rows, no other, and in each a number of each of these targets."""
    tap.check_equal(sorted(row["name"] for row in found["workloads"]), sorted(names.split(",")),
                    "what was measured")
    for row in found["workloads"]:
        tap.check_equal(row["failed"], {}, "what failed in %s" % row["name"])
        tap.check(all(row["medians"].get(label, 0) > 0 for label in labels), "%s: %s", row["name"],
                  row["medians"])


@suite.test("the benchmark measures reading, writing, memory, chains and mounting")
def _(directory):
    found, svg = measure(directory, "--targets", "raw,qcow2fs", "--only", FAST)
    tap.check_equal(sorted(row["name"] for row in found["workloads"]), sorted(FAST.split(",")),
                    "what was measured")
    for row in found["workloads"]:
        needs_stats = row["name"] == "memory-reads" and "qcow2fs" in row["failed"]
        tap.check(needs_stats or "qcow2fs" in row["medians"], "%s: %s", row["name"], row["failed"])
    xml.etree.ElementTree.parse(svg)


@suite.test("the benchmark measures whole jobs, each by its own way to the files",
            needs=[tools.root, tools.loop, tools.tool("rsync"), encrypted.library])
def _(directory):
    found, _svg = measure(directory, "--jobs", "--targets", "raw,qsd,qcow2fs", "--only", JOBS,
                         "--pictures", directory)
    check_measured(found, JOBS, "raw", "qsd", "qcow2fs")
    check_drawn(directory, found, "jobs", len({label for row in found["workloads"] for label in row["medians"]}))


@suite.test("the benchmark measures another qcow2fs beside the one that is built")
def _(directory):
    other = os.path.join(directory, "other")
    shutil.copy(run.program(), other)
    found, _svg = measure(directory, "--targets", "qcow2fs", "--only", "read-qd1,mount-1g", "--before", other)
    check_measured(found, "read-qd1,mount-1g", "qcow2fs", "before")
    for row in found["workloads"]:
        tap.check_equal([goal["goal"] for goal in row["goals"]][-1], ">= 0.95 x before", "a goal of %s" % row["name"])
    done = tools.run("python3", BENCH, "--quick", "--disk", directory, "--only", "read-qd1", "--targets",
                     "qcow2fs", "--before", "/nowhere/qcow2fs", env={"QCOW2FS": run.program()})
    tap.check("before is left out: no program /nowhere/qcow2fs" in done.stdout, done.stdout)


@suite.test("the benchmark measures servers that are far away, beside clients of theirs",
            needs=nbd.NBDKIT)
def _(directory):
    found, _svg = measure(directory, "--targets", "qsd,qcow2fs", "--only", FAR)
    check_measured(found, FAR, "qsd", "qcow2fs")
    for row in found["workloads"]:
        tap.check(len(row["medians"]) > 2, "no client of the server: %s", row["medians"])
        tap.check(row["name"] == "far-seq" or row["medians"].get("floor", 0) > 0,
                  "no floor: %s", row["medians"])


@suite.test("the floor of far servers shows the bytes that the server has, and no more of them than it is told to",
            needs=[*nbd.NBDKIT, is_built(FAR_FLOOR)])
def _(directory):
    kept, shown = os.path.join(directory, "kept"), os.path.join(directory, "shown")
    data = os.urandom(1 << 20)
    with open(kept, "wb") as file:
        file.write(data)
    with nbd.only_address(nbd.nbdkit(directory, "file", kept)) as address:
        with open(shown, "wb"):
            pass
        served = run.start([FAR_FLOOR, address, shown, str(len(data) - 100)])
        bad.wait_for(lambda: os.path.ismount(shown) or served.poll() is not None, "a mount")
        with open(shown, "rb") as file:
            tap.check(file.read() == data[:-100], "other bytes")
        tap.check(run.unmount(shown), "it stays mounted")
        tap.check_equal(served.wait(tools.TIMEOUT), 0, "its status")
        done = tools.run(FAR_FLOOR, address, shown, str(len(data) + 1), status=1)
        tap.check("has no 1048577 bytes" in done.stderr, done.stderr)
    tools.run(FAR_FLOOR, status=2)


@suite.test("the benchmark measures how long the slowest requests take, whatever else goes on")
def _(directory):
    found, _svg = measure(directory, "--tails", "--targets", "raw,floor,qcow2fs", "--only", TAILS,
                          "--pictures", directory)
    check_measured(found, TAILS, "qcow2fs")
    check_drawn(directory, found, "tails", len({label for row in found["workloads"] for label in row["medians"]}))


@suite.test("the benchmark draws how time and memory grow, and says how steep that is, beside other rows")
def _(directory):
    found, _svg = measure(directory, "--growth", "--tails", "--only",
                          ",".join((*FAMILIES, "tail-read-alone-50")), "--pictures", directory,
                          "--targets", "qsd,qcow2fs")
    check_measured(found, "tail-read-alone-50", "qsd", "qcow2fs")
    tap.check_equal({one["name"].split("-")[0] for one in found["growth"]}, set(FAMILIES),
                    "what was measured")
    for one in found["growth"]:
        what = "%s of %s" % (one["name"], one["line"])
        tap.check_equal((one["failed"], len(one["points"])), (None, 2), what)
        tap.check(all(value > 0 for _place, value in one["points"]) and one["slope"] is not None,
                  "%s: %s", what, one)
    for family in FAMILIES:
        curves = dots(os.path.join(directory, "growth-%s.svg" % family))
        mine = [one for one in found["growth"] if one["name"].startswith(family + "-")]
        tap.check_equal(len(curves), 2 * len(mine), "the points in the picture of %s" % family)


@suite.test("the benchmark shows how fast decompression alone is, beside what serves the image",
            needs=[is_built(DECOMPRESS)])
def _(directory):
    found, _svg = measure(directory, "--targets", "qcow2fs", "--only", "zlib,zstd")
    check_measured(found, "zlib,zstd", "library", "qcow2fs")
    for row in found["workloads"]:
        tap.check_equal(sorted(row["medians"]), ["library", "qcow2fs"], "what was measured")


@suite.test("the program that decompresses says what it cannot measure",
            needs=[is_built(DECOMPRESS)])
def _(directory):
    plain = image.create(os.path.join(directory, "plain.qcow2"), 1 << 20)
    for status, arguments, sentence in (
            (2, [], "usage: decompress IMAGE [THREADS]"), (2, [plain, "0"], "usage: "),
            (2, [plain, "2x"], "usage: "), (1, [plain], "has no compressed cluster"),
            (1, [os.path.join(directory, "nothing")], "nothing")):
        done = tools.run(DECOMPRESS, *arguments, status=status)
        tap.check_equal(done.stdout, "", "what it printed")
        tap.check(sentence in done.stderr and done.stderr.count("\n") == 1, "it said: %s",
                  done.stderr)


@suite.test("no speed is shown of an image with a damaged compressed cluster",
            needs=[is_built(DECOMPRESS)])
def _(directory):
    raw, path = (os.path.join(directory, name) for name in ("disk.raw", "disk.qcow2"))
    with open(raw, "wb") as file:
        file.write(b"compressible " * 100000)
    image.convert(raw, path, "-c")
    with qcow2.Qcow2(path) as opened:
        host_offset, _sectors = opened.compressed_descriptor(5 * opened.cluster_size)
        opened.write(host_offset, b"\xff" * 16)
    done = tools.run(DECOMPRESS, path, "3", status=1)
    tap.check_equal(done.stdout, "", "what it printed")
    tap.check("its data is damaged" in done.stderr, "it said: %s", done.stderr)


@suite.test("the benchmark leaves a target out that is missing, and says how to get it")
def _(directory):
    done = tools.run("python3", BENCH, "--quick", "--disk", directory, "--only", "mount-1g",
                     "--targets", "qsd,qcow2fs", "--qsd", "/nowhere/storage-daemon",
                     env={"QCOW2FS": run.program()})
    tap.check("qsd is left out: no /nowhere/storage-daemon: apt-get install" in done.stdout,
              "it said:\n%s", done.stdout)


if __name__ == "__main__":
    suite.main()
