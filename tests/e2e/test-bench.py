# SPDX-License-Identifier: MIT
"""The benchmark works: not how fast anything is."""

import json
import os
import xml.etree.ElementTree

from lib import run, tap, tools

FAST = "read-qd1,allocate-4k,allocate-sync,seq-cold,zstd,memory-idle,memory-reads,chain-8,mount-1g"
BENCH = os.path.join(run.SOURCE, "tests", "bench", "run")

suite = tap.Suite(needs=[tools.fuse, tools.QEMU, tools.ZSTD, tools.tool("fio")])


def measure(directory, *arguments):
    """Runs the benchmark in its quick mode; returns its JSON document and the chart's path."""
    results, svg = os.path.join(directory, "results.json"), os.path.join(directory, "chart.svg")
    tools.run("python3", BENCH, "--quick", "--disk", directory, "--json", results, "--svg", svg,
              *arguments, env={"QCOW2FS": run.program()})
    with open(results, encoding="utf-8") as file:
        return json.load(file), svg


@suite.test("the benchmark measures reading, writing, memory, chains and mounting")
def _(directory):
    found, svg = measure(directory, "--targets", "raw,qcow2fs", "--only", FAST)
    tap.check_equal(sorted(row["name"] for row in found["workloads"]), sorted(FAST.split(",")),
                    "what was measured")
    for row in found["workloads"]:
        needs_stats = row["name"] == "memory-reads" and "qcow2fs" in row["failed"]
        tap.check(needs_stats or "qcow2fs" in row["medians"], "%s: %s", row["name"], row["failed"])
    xml.etree.ElementTree.parse(svg)


@suite.test("the benchmark leaves a target out that is missing, and says how to get it")
def _(directory):
    done = tools.run("python3", BENCH, "--quick", "--disk", directory, "--only", "mount-1g",
                     "--targets", "qsd,qcow2fs", "--qsd", "/nowhere/storage-daemon",
                     env={"QCOW2FS": run.program()})
    tap.check("qsd is left out: no /nowhere/storage-daemon: apt-get install" in done.stdout,
              "it said:\n%s", done.stdout)


if __name__ == "__main__":
    suite.main()
