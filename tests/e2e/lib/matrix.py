# SPDX-License-Identifier: MIT
"""The checks that every image of the read matrix goes through.

    matrix.read(suite, "a plain image of version 3", lambda directory: ..., holds=tree.LARGE)

mounts the image that the function makes and returns, and compares what the mount
shows with what qemu-img says, byte for byte and hole for hole. served() does so with an image that
is reached by another name: all that read() was told of is in `kinds`.
"""

import collections
import contextlib
import os
import types

from . import checks, compare, ctl, image, infos, maps, mount, qcow2, tools, tree
from .tap import check, check_equal


Kind = collections.namedtuple("Kind", "name make holds needs options says")
kinds = []


def virtual_size(path):
    """The size in the header."""
    with qcow2.Qcow2(path) as opened:
        return opened["virtual_size"]


def _by_path(state):
    return contextlib.nullcontext(state.image)


def _prepare(kind, serve=_by_path):
    @contextlib.contextmanager
    def prepare(directory):
        state = types.SimpleNamespace(directory=directory, holds=None)
        if kind.holds is not None:
            state.holds = tree.source(kind.holds)
        path = kind.make(directory, *([state.holds.raw] if state.holds else []))
        state.image = path
        state.size = virtual_size(path)
        state.layers = image.layers(path)
        files = {layer.path for layer in state.layers} | {layer.data_path for layer in state.layers}
        image.settle(*files)
        state.expected = image.to_raw(path, os.path.join(directory, "expected.raw"))
        state.map = image.allocation_map(path)
        state.top_files = {state.layers[0].path, state.layers[0].data_path}
        try:
            with serve(state) as name:
                state.unchanged = compare.Unchanged(*sorted(files))
                with mount.mount(name, *kind.options) as mounted:
                    state.mounted = mounted
                    yield state
        finally:
            os.unlink(state.expected)
    return prepare


def _check_size(state):
    check_equal(os.stat(state.mounted.disk).st_size, state.size, "the size")


def _check_blocks(state):
    blocks = sum(os.stat(path).st_blocks for path in state.top_files)
    check_equal(os.stat(state.mounted.disk).st_blocks, blocks, "the number of blocks")


def _check_bytes(state):
    compare.check_files(state.mounted.disk, state.expected)


def _check_random(state):
    compare.check_random_preads(state.mounted.disk, state.expected)


def _check_holes(state):
    extents = image.seek_extents(state.mounted.disk)
    compare.check_holes(extents, state.map, state.layers, state.size)


def _check_map(state):
    maps.check_map(state.image, state.size)


def _check_info(state):
    infos.check_info(state.image)


def _check_verdict(state):
    checks.check_same(state.image)


def _check_copies(state):
    """What qcow2ctl copies QEMU reads: as qcow2, and where that is quick as a raw file, too."""
    for kind in ("qcow2",) if state.holds else ("qcow2", "raw"):
        copy = os.path.join(state.directory, "copy." + kind)
        ctl.ctl("convert", "-f", "qcow2", "-O", kind, state.image, copy)
        tools.run("qemu-img", "compare", "-q", "-f", kind, "-F", "raw", copy, state.expected)
        if kind == "qcow2":
            tools.run("qemu-img", "check", "-q", copy)
        os.unlink(copy)


def _check_fsck(state):
    with mount.loop_device(state.mounted.disk) as device:
        tools.run("e2fsck", "-fn", device)


def _check_tree(state):
    with mount.loop_device(state.mounted.disk) as device, \
            mount.file_system(device) as directory:
        files = tree.check_tree(directory, state.holds.manifest)
        check(files > 0, "the manifest is empty")


def _check_said(says):
    def check_said(state):
        told = state.mounted.stderr()
        if says is None:
            check_equal(told, "", "what the daemon has said")
        else:
            check(says in told and told.count("\n") == 1, "the daemon has said: %s", told)
    return check_said


def read(suite, name, make, holds=None, needs=(), options=(), says=None):
    """Adds the group of tests for one image; returns it.

    make(directory)            makes the image and returns its path; or, with `holds`,
    make(directory, raw)       makes one with the contents of the raw image of that size,
                               an ext4 file system, which is then checked as a whole

    `says` is part of the one line that the daemon is expected to say.
    """
    kind = Kind(name, make, holds, needs, options, says)
    kinds.append(kind)
    group = _group(suite, kind)
    group.test("occupies the blocks of its image and data file", _check_blocks)
    if holds is not None:
        group.test("e2fsck finds the file system on it clean", _check_fsck, [tools.loop])
        group.test("every file on it has its checksum", _check_tree, [tools.loop])
    group.after("bytes and times of its files are unchanged",
                lambda state: state.unchanged.check())
    if "allow-probed-backing" not in options:  # which qcow2ctl does not have
        group.test("what qcow2ctl convert makes of it QEMU reads the same", _check_copies)
        group.after("qcow2ctl maps it as qemu-img does", _check_map)
        group.after("qcow2ctl check finds what qemu-img check finds", _check_verdict)
        group.after("qcow2ctl info says what qemu-img info says", _check_info)
    return group


def _group(suite, kind, *serve):
    """What is checked however the image is reached."""
    group = suite.group(kind.name, _prepare(kind, *serve),
                        "unmounting ends the daemon with status 0", kind.needs)
    group.test("has the size that its header names", _check_size)
    group.test("reads byte for byte as with qemu-img", _check_bytes)
    group.test("random reads give what qemu-img gives", _check_random)
    group.test("has holes where qemu-img maps no data", _check_holes)
    group.after("the daemon said %s" % ("nothing" if kind.says is None else "that it " + kind.says),
                _check_said(kind.says))
    return group


def served(suite, kind, serve):
    """Adds the group of tests for one of the kinds, by another name.

    serve(state)    is a context manager that gives the name; it may change what the image and those
                    behind it (state.layers) say of each other. Access times are its affair.
    """
    group = _group(suite, kind, serve)
    group.after("bytes of its files, and times of changes, are unchanged",
                lambda state: state.unchanged.check(but=("atime",)))
    return group
