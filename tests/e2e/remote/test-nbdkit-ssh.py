#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Images of a machine with SSH, by nbdkit's ssh plugin: a server of our own, dropbear, with OpenSSH's SFTP."""

import contextlib
import os
import socket
import subprocess
import time

from lib import compare, ctl, image, mount, nbd, private, run, tap, tools, twin
from lib.image import MiB
from lib.nbd import NBDKIT, some_image
from lib.tap import check

SFTP = "/usr/lib/sftp-server"
suite = tap.Suite(needs=[tools.fuse, tools.root, tools.QEMU, *NBDKIT, nbd.plugin("ssh"), tools.tool("dropbear"),
                         lambda: None if os.path.exists(SFTP) else SFTP + " is not installed"])


def new_key(path):
    """Its public half, as known-hosts and authorized_keys have it."""
    tools.run("dropbearkey", "-t", "ed25519", "-f", path)
    shown = tools.run("dropbearkey", "-y", "-f", path).stdout
    return next(line for line in shown.splitlines() if line.startswith("ssh-ed25519 "))


def private_file(path, text):
    with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="ascii") as file:
        file.write(text)


class Server:
    """What root has as a home is a directory of the test's, in mounts of the server's own."""

    def __init__(self, directory):
        self.home = os.path.join(directory, "home")
        os.makedirs(os.path.join(self.home, ".ssh"), mode=0o700)
        self.identity = os.path.join(directory, "identity")
        self.known = os.path.join(directory, "known")
        self.port = nbd.free_port()
        key, passwd = os.path.join(directory, "key"), os.path.join(directory, "passwd")
        private_file(os.path.join(self.home, ".ssh", "authorized_keys"), new_key(key) + "\n")
        tools.run("dropbearconvert", "dropbear", "openssh", key, self.identity)
        self.host_key = os.path.join(directory, "host-key")
        self.know(new_key(self.host_key))
        with open(passwd, "w", encoding="ascii") as file:
            file.write("root:x:0:0:root:%s:/bin/sh\n" % self.home)
        self._process = run.start(
            [*private.prefix(), "sh", "-c", 'mount --bind "$0" /etc/passwd && exec dropbear "$@"', passwd, "-F", "-E",
             "-s", "-p", "127.0.0.1:%d" % self.port, "-r", self.host_key, "-P", os.path.join(directory, "ssh.pid")],
            stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def know(self, public_key):
        with open(self.known, "w", encoding="ascii") as file:
            file.write("[127.0.0.1]:%d %s\n" % (self.port, " ".join(public_key.split()[:2])))

    @property
    def words(self):
        return "ssh host=127.0.0.1 port=%d user=root identity=%s known-hosts=%s" % (self.port, self.identity, self.known)

    def wait(self):
        while True:
            check(self._process.poll() is None, "the server of SSH has ended")
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.01)

    def stop(self):
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def ssh_server(directory):
    server = Server(directory)
    try:
        server.wait()
        yield server
    finally:
        server.stop()


@suite.test("an image of a machine with SSH is read")
def _(directory):
    path, raw = some_image(directory)
    at = os.path.join(directory, "at")
    open(at, "w", encoding="ascii").close()
    with ssh_server(directory) as server:
        with mount.mount(path, "ro", "nbdkit=" + server.words, at=at) as mounted:
            compare.check_files(mounted.disk, raw)
            compare.check_random_preads(mounted.disk, raw, count=60)


@suite.test("and written: what fsync has acknowledged is in its file")
def _(directory):
    path, raw = some_image(directory)
    new = os.urandom(MiB)
    with ssh_server(directory) as server:
        with mount.mount("nbdkit:%s %s" % (server.words, path), "nbdkit", "locking=off",
                         writable=True) as mounted:
            with twin.Twin(mounted.disk, raw) as both:
                both.write(3 * MiB, new)
                both.sync()
            mounted.kill()
    ctl.ctl("check", "-q", path)
    image.to_raw(path, os.path.join(directory, "now"))
    compare.check_files(os.path.join(directory, "now"), raw)


@suite.test("a machine that is not the one that is known is asked for nothing")
def _(directory):
    path, _raw = some_image(directory)
    with ssh_server(directory) as server:
        server.know(new_key(os.path.join(directory, "another-key")))
        ctl.refused("info", "--nbdkit", "nbdkit:%s %s" % (server.words, path), words=["nbdkit", "host key"])


if __name__ == "__main__":
    suite.main()
