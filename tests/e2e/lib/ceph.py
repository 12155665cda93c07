# SPDX-License-Identifier: MIT
"""A Ceph of one monitor and one OSD that keeps all in memory, for as long as it is needed.

Nothing of it is where a Ceph of this machine would be, and nobody has to prove who he is to it.
"""

import contextlib
import glob
import os
import subprocess
import uuid

from . import nbd, run, tools
from .image import MiB


def _driver():
    return None if glob.glob("/usr/lib/*/qemu/block-rbd.so") else "QEMU has no driver for RBD (qemu-block-extra)"


NEEDS = [*(tools.tool(name) for name in ("ceph-mon", "ceph-osd", "ceph", "rbd", "monmaptool")), _driver]
POOL, VOLUME = "pool", "volume"
SECONDS = 300  # for one command: it waits until the OSD is there


class Ceph:
    """In a directory, whose daemons end with stop()."""

    def __init__(self, directory):
        self._place = os.path.join(directory, "ceph")
        os.makedirs(os.path.join(self._place, "osd"))
        self.conf = os.path.join(self._place, "ceph.conf")
        self._daemons = []
        self._monitor, self._id = "[v2:127.0.0.1:%d]" % nbd.free_port(), str(uuid.uuid4())
        with open(self.conf, "w", encoding="ascii") as file:
            file.write("""[global]
fsid = {fsid}
mon host = {monitor}
public addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd crush chooseleaf type = 0
mon allow pool size one = true
run dir = {place}
admin socket = {sockets}/$name.asok
log file = {place}/$name.log
pid file = {place}/$name.pid
mon data = {place}/mon
mon pg warn on no replicas = false
osd data = {place}/osd
osd objectstore = memstore
memstore device bytes = 1G
osd class load list = *
""".format(fsid=self._id, monitor=self._monitor, place=self._place, sockets=run.short(directory)))

    def _daemon(self, *argv):
        self._daemons.append(run.start([*argv, "-c", self.conf, "-f"], stdin=subprocess.DEVNULL,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

    def ask(self, program, *argv):
        return tools.run(program, "-c", self.conf, *argv, timeout=SECONDS)

    def start(self):
        monitors = os.path.join(self._place, "monitors")
        tools.run("monmaptool", "--create", "--fsid", self._id, "--addv", "a", self._monitor, monitors)
        tools.run("ceph-mon", "-c", self.conf, "-i", "a", "--mkfs", "--monmap", monitors)
        self._daemon("ceph-mon", "-i", "a")
        osd = str(uuid.uuid4())
        number = self.ask("ceph", "osd", "new", osd).stdout.strip()
        tools.run("ceph-osd", "-c", self.conf, "-i", number, "--mkfs", "--osd-uuid", osd)
        self._daemon("ceph-osd", "-i", number)
        self.ask("ceph", "osd", "pool", "create", POOL, "8")
        self.ask("rbd", "pool", "init", POOL)

    def make_volume(self, path):
        """One that has what is in a file, and room for more."""
        self.ask("rbd", "import", "--image-format", "2", path, POOL + "/" + VOLUME)
        size = os.path.getsize(path) // MiB + 64
        self.ask("rbd", "resize", "--size", "%dM" % size, POOL + "/" + VOLUME)

    @property
    def volume(self):
        """As QEMU's programs name it."""
        return "rbd:%s/%s:conf=%s" % (POOL, VOLUME, self.conf)

    def stop(self):
        for daemon in reversed(self._daemons):
            daemon.kill()
            daemon.wait()


@contextlib.contextmanager
def cluster(directory):
    started = Ceph(directory)
    try:
        started.start()
        yield started
    finally:
        started.stop()
