# SPDX-License-Identifier: MIT
"""The parts of tests/bench/run.

places      where the images of a run lie: in memory, and on a disk
images      the images of a run, made when first needed
targets     what is measured: qcow2fs, its peers, and what bounds them
fio         the jobs that measure
workloads   the rows of the table, and what each must reach
start       rows of how much code there is, and what an idle mount takes
jobs        the rows of --jobs
backups     that of an incremental backup
growth      the curves of --growth: time and memory against a size or a number
slopes      how steep they are, their table and JSON file
loglog      their pictures
results     medians, ratios, the table and the JSON file
chart       the SVG chart

The guard that leaves no mount and no daemon behind, and the running of programs, are those of
the end-to-end tests (tests/e2e/lib).
"""
