# SPDX-License-Identifier: MIT
"""The end-to-end test harness: see ../README.md.

run.py      the run: settings, temporary directory, clean-up in every way of ending
tap.py      tests, groups of tests, TAP output
tools.py    running programs; what this host has
mount.py    mounting images, loop devices, file systems
infos.py    qcow2ctl info and qemu-img info, compared
image.py    making images; what qemu-img says of them
tree.py     the file-system image that most tests read, and its manifest
qcow2.py    reading and editing the structures of a qcow2 file
compare.py  bytes and holes of two files compared; the unchanged image
write.py    images to be written; what must hold of them afterwards
stamps.py   blocks that tell where they belong, and the threads that write them
matrix.py   the checks that every image of the read matrix goes through
"""
