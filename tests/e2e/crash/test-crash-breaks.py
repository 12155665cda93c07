#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The explorers of tests/crash see each rule of docs/design.md broken."""

from lib import crash, tap, tools

suite = tap.Suite(needs=[tools.QEMU, crash.built])

BROKEN = (
    ("R1", "overwrite", "data that comes after the entry that shows it"),
    ("R1", "reuse", "an entry that shows what another guest cluster left"),
    ("R2", "reuse", "a reference before its count"),
    ("R3", "grow-l1", "a header before the L1 table that it names"),
    ("R5", "lazy", "lazy counts before the dirty bit"),
    ("R6", "bitmap-again", "a change before the bitmaps say that they are in use"),
    ("R7", "small", "a flush that returned before its sync"),
)

for rule, workload, what in BROKEN:
    @suite.test("%s: the explorer sees %s" % (rule, what))
    def _(directory, rule=rule, workload=workload):
        crash.finds_violations("explore", directory, "workload=" + workload, "break=" + rule,
                               "states=480")


@suite.test("R4: the explorer sees code that frees clusters before their references are gone")
def _(directory):
    crash.finds_violations("explore-r4", directory, "workload=reuse", "states=480")


@suite.test("the fault explorer sees calls that fail and say that they succeeded")
def _(directory):
    crash.finds_violations("faults", directory, "workload=small", "kind=silent", "step=7")


@suite.test("one state can be looked at again, and its story told")
def _(directory):
    told = [tools.output(crash.program("explore"), "workload=fill", "states=480", "state=200",
                         env={"QCOW2FS_TMP": directory}) for _ in range(2)]
    tap.check_equal(told[0], told[1], "the second story")
    tap.check("changed sectors arrived" in told[0], "it is no story:\n%s", told[0])


if __name__ == "__main__":
    suite.main()
