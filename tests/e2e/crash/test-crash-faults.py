#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Whichever call of the host fails, the image stays in order: see tests/crash/README.md."""

from lib import crash, tap, tools

suite = tap.Suite(needs=[tools.QEMU, crash.built])

for workload in crash.workloads(threads=False):
    @suite.test("%s: whichever call fails, somebody is told, and nothing flushed is lost"
                % workload)
    def _(directory, workload=workload):
        crash.finds_nothing("faults", directory, "workload=" + workload, "seed=%d" % crash.SEED,
                            "step=%d" % crash.STEP)

if __name__ == "__main__":
    suite.main()
