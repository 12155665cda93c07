#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""No write that was acknowledged is ever lost, whatever runs beside it: see tests/races/README.md."""

from lib import races, run, tap, tools

suite = tap.Suite(needs=[tools.QEMU, races.built])
SECONDS = 5400 if races.LONG else 20 if races.SANITIZED else 75  # of two at once
FREE_SECONDS = 1200 if races.LONG else 60 if races.SANITIZED else 15
FAR = 1000000000  # seeds of the two never meet


if races.SANITIZE != "thread":  # of one thread at a time it has nothing to say
    @suite.test("whichever thread is held up at whichever lock, the disk shows what it must")
    def _(directory):
        run.watch_for(SECONDS * 3 + 120)
        races.side_by_side("races", directory, *(
            ["seed=%d" % (races.SEED + n * FAR), "seconds=%d" % SECONDS, "processor=%d" % n]
            for n in range(2)))


@suite.test("with all threads at once on real locks it does, too")
def _(directory):
    run.watch_for(FREE_SECONDS * 3 + 120)
    races.single("races", directory, "mode=free", "seed=%d" % races.SEED,
                 "seconds=%d" % FREE_SECONDS, seconds=FREE_SECONDS)


if not races.SANITIZED:
    @suite.test("it sees a disk whose new size is shown before what it gains reads as zeros")
    def _(directory):
        races.single("races-grow", directory, "only=grow", "calm=1", "seconds=60", expected=1)

    @suite.test("it sees a bit that is cleared before the write that it stands for is done")
    def _(directory):
        races.single("races-bitmaps", directory, "only=bitmaps", "calm=1", "steady=1", "seconds=60", expected=1)

    @suite.test("it sees a preallocation that writes old bytes over newer ones")
    def _(directory):
        # Found in 4 of 5 minutes, so it has ten: each with other schedules, and the first that sees it counts.
        for attempt in range(10):
            try:
                races.single("races-preallocate", directory, "only=preallocate", "calm=1",
                             "steady=1", "kind=extended-on-chain", "seconds=60",
                             "seed=%d" % (attempt * 1000003 + 1), expected=1)
                return
            except AssertionError:
                if attempt == 9:
                    raise

    @suite.test("the same seed is the same run, told with everything that happened")
    def _(directory):
        told = [tools.output(races.program("races"), "seed=11", "runs=3", "tell=1", "qemu=0",
                             env={"QCOW2FS_TMP": directory}).rpartition("\n3 runs")[0]
                for _ in range(2)]
        tap.check_equal(told[0], told[1], "the second story")
        tap.check(" bytes at " in told[0], "it is no story:\n%s", told[0])


if __name__ == "__main__":
    suite.main()
