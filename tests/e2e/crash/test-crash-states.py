#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Every state of the image that a crash can leave is in order: see tests/crash/README.md."""

from lib import crash, tap, tools

suite = tap.Suite(needs=[tools.QEMU, crash.built])

# ThreadSanitizer has nothing to say of one thread.
for workload in crash.workloads(threads=True if crash.SANITIZE == "thread" else None):
    @suite.test("%s: whatever a crash leaves is in order, with all that was flushed" % workload)
    def _(directory, workload=workload):
        for seed in crash.SEEDS:
            crash.finds_nothing("explore", directory, "workload=" + workload, "seed=%d" % seed,
                                "states=%d" % crash.STATES)

if __name__ == "__main__":
    suite.main()
