#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Random operations on images that NBD servers serve: see lib/model.py."""

import os

from lib import model, nbd, tap, tools
from lib.image import KiB, MiB
from lib.nbd import NBDKIT

suite = tap.Suite(needs=[tools.QEMU, model.built])
ROOM = 96 * MiB


def with_room(directory, source, **options):
    path = model.filled(directory, source, **options)
    os.truncate(path, ROOM)
    return path


def by_qemu_nbd(path):
    return nbd.only_address(nbd.qemu_nbd(os.path.dirname(path), path, "-e", "4", writable=True))


def by_nbdkit(*words, **keywords):
    def serve(path):
        served = nbd.nbdkit(os.path.dirname(path), *words, "file", path,
                            *("%s=%s" % (name.replace("_", "-"), value)
                              for name, value in keywords.items()), writable=True)
        return nbd.only_address(served)

    return serve


model.matrix(suite, model.Kind("served by nbdkit", with_room, clusters=(512, 64 * KiB), needs=NBDKIT,
                               serve=by_nbdkit()))
model.matrix(suite, model.Kind("served by nbdkit in blocks of 4 KiB", with_room, clusters=(4 * KiB,),
                               needs=NBDKIT, serve=by_nbdkit("--filter=blocksize-policy",
                                                             blocksize_minimum="4096",
                                                             blocksize_preferred="4096",
                                                             blocksize_maximum="64K",
                                                             blocksize_error_policy="error")))
model.matrix(suite, model.Kind("served by qemu-nbd", with_room, clusters=(64 * KiB,),
                               needs=[nbd.built, tools.tool("qemu-nbd")], serve=by_qemu_nbd))
model.matrix(suite, model.Kind("served by nbdkit, a read cache", with_room, clusters=(512, 64 * KiB),
                               needs=NBDKIT, serve=by_nbdkit(), read_cache="64M"))
model.matrix(suite, model.Kind("served by nbdkit, a read cache that is too small", with_room,
                               clusters=(4 * KiB,), needs=NBDKIT, serve=by_nbdkit(), read_cache="2M"))

if __name__ == "__main__":
    suite.main()
