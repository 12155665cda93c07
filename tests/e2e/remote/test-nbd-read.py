#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The images of the read matrix, of nbdkit and qemu-nbd on a unix socket; each third time with a read cache.

The files of a chain, and data files, are served as well, one by one: what the images say of each other
are the addresses then. Where programs are slow, of sanitizers, it is each seventh of them.
"""

import contextlib
import importlib.util
import os

from lib import matrix, nbd, qcow2, tap, tools, tree
from lib.nbd import NBDKIT

QEMU_NBD = tools.tool("qemu-nbd")
suite = tap.Suite(needs=[tools.fuse, tools.QEMU, tools.MKE2FS, *NBDKIT, QEMU_NBD])
STRIDE = 1 if os.environ.get("QCOW2FS_SANITIZE", "no") in ("", "no") else 7
READ = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "read")


def load(name):
    """Has the suite tell its kinds of images, which are in matrix.kinds afterwards."""
    spec = importlib.util.spec_from_file_location(name, os.path.join(READ, "test-read-%s.py" % name))
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def files_of(state):
    """Those of the chain, and data files, the image first."""
    found = [layer.path for layer in state.layers]
    return found + [layer.data_path for layer in state.layers if layer.data_path not in found]


def refer(layer, behind, addresses):
    """Has an image name the addresses of the file behind it, and of its data file."""
    with qcow2.Qcow2(layer.path) as opened:
        data = addresses[layer.data_path].encode("ascii")
        kept = [(each.type, data if each.type == qcow2.EXTENSION_DATA_FILE else each.data)
                for each in opened.extensions()
                if each.type != qcow2.EXTENSION_FEATURE_NAMES]  # in 512 bytes is no room for both
        name = opened.backing_file()
        if name is not None:
            opened.set_backing_file(None)
        opened.set_extensions(kept)
        if name is not None:
            opened.set_backing_file(addresses[behind.path].encode("ascii"))


def by_server(index):
    @contextlib.contextmanager
    def serve(state):
        with contextlib.ExitStack() as stack:
            addresses = {}
            for number, path in enumerate(files_of(state)):
                if (index + number) % 2:
                    served = nbd.qemu_nbd(state.directory, path, name="q%d" % number)
                else:
                    served = nbd.nbdkit(state.directory, "file", path, name="n%d" % number)
                addresses[path] = stack.enter_context(nbd.only_address(served))
            if len(addresses) > 1:
                for layer, behind in zip(state.layers, [*state.layers[1:], None]):
                    if layer.format == "qcow2":
                        refer(layer, behind, addresses)
            yield addresses[state.layers[0].path]

    return serve


for each in ("clusters", "formats", "headers", "layouts", "random", "chains"):
    load(each)
for at, kind in list(enumerate(matrix.kinds))[::STRIDE]:
    options = [*kind.options, "follow=all"]
    if at % 3 == 2:
        options.append("read-cache=/var/tmp/qcow2fs-test")
    matrix.served(suite, kind._replace(options=options, holds=kind.holds and tree.SMALL), by_server(at))

if __name__ == "__main__":
    suite.main()
