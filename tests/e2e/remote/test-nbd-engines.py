#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What nbdkit brings along: web servers, TLS, servers that end; and nbdkit that serves the disk of a mount.

Ceph, which is large, behind qemu-nbd: QCOW2FS_LONG=1 wants it, otherwise it is asked where it is there.
"""

import contextlib
import os

from lib import ceph, compare, ctl, image, mount, nbd, tap, tools, twin
from lib.image import MiB
from lib.nbd import NBDKIT, nbdkit, some_image
from lib.tap import check, check_equal
from lib.web import web_server

suite = tap.Suite(needs=[tools.fuse, tools.QEMU])


CURL = [*NBDKIT, nbd.plugin("curl")]
LONG = os.environ.get("QCOW2FS_LONG") == "1"


# --- a web server -------------------------------------------------------------------------------


@suite.test("an image of a web server", needs=CURL)
def _(directory):
    path, raw = some_image(directory)
    with web_server(path) as url, nbdkit(directory, "curl", url) as (address, _process):
        with mount.mount(address, "ro") as mounted:
            compare.check_files(mounted.disk, raw)
            compare.check_random_preads(mounted.disk, raw, count=40)


for word, sentence in (("error", "that answers with an error now and then"),
                       ("short", "whose answers are too short now and then")):

    @suite.test("a web server %s: nbdkit's retry has every byte" % sentence, needs=CURL)
    def _(directory, word=word):
        path, raw = some_image(directory)
        seen = []

        def trouble(number):
            if number % 9 == 8:
                seen.append(number)
                return word
            return None

        with web_server(path, trouble) as url:
            with nbdkit(directory, "--filter=retry", "curl", url, "retry-delay=1",
                        "retry-exponential=no", "retries=20") as (address, _process):
                with mount.mount(address, "ro") as mounted:
                    compare.check_files(mounted.disk, raw)
        check(seen, "it has answered all")


def bytes_or_error(disk, raw, end):
    """Reads piece by piece; how many failed. What is read is right."""
    failed = 0
    with open(disk, "rb", buffering=0) as one, open(raw, "rb") as other:
        os.posix_fadvise(one.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for at in range(0, end, 65536):
            try:
                data = os.pread(one.fileno(), 65536, at)
            except OSError:
                failed += 1
                continue
            check(data == os.pread(other.fileno(), 65536, at), "other bytes at %d", at)
    return failed


@suite.test("a web server that fails, and nobody tries again: EIO, and no wrong byte", needs=CURL)
def _(directory):
    path, raw = some_image(directory)
    state = {"fails": False}
    with web_server(path, lambda _number: "short" if state["fails"] else None) as url:
        with nbdkit(directory, "curl", url) as (address, _process):
            with mount.mount(address, "ro") as mounted:
                state["fails"] = True
                check(bytes_or_error(mounted.disk, raw, 4 * MiB) > 0, "nothing failed")
                state["fails"] = False
                compare.forget(mounted.disk)
                check_equal(bytes_or_error(mounted.disk, raw, 20 * MiB), 0, "failures afterwards")


# --- servers that change, or end ----------------------------------------------------------------


@suite.test("an export that shrinks: EIO for what is gone, and no wrong byte", needs=NBDKIT)
def _(directory):
    path, raw = some_image(directory)
    with nbdkit(directory, "file", path) as (address, _process):
        with mount.mount(address, "ro") as mounted:
            os.truncate(path, 10 * MiB)
            failed = bytes_or_error(mounted.disk, raw, 20 * MiB)
            check(failed > 0, "nothing failed")


@suite.test("a server that ends with its last connection ends when it is unmounted, and not before", needs=NBDKIT)
def _(directory):
    path, raw = some_image(directory)
    with nbdkit(directory, "--filter=exitlast", "file", path) as (address, process):
        with mount.mount(address, "ro") as mounted:
            compare.check_files(mounted.disk, raw)
            check(process.poll() is None, "it has ended")
        check_equal(process.wait(tools.TIMEOUT), 0, "its status")


# --- TLS ----------------------------------------------------------------------------------------


def certificates(directory):
    """A directory with those of an authority, and of a server at localhost."""
    place = os.path.join(directory, "pki")
    os.mkdir(place)

    def openssl(*words):
        tools.run("openssl", *words, cwd=place)

    new = ("req", "-newkey", "rsa:2048", "-nodes", "-subj")
    openssl(*new, "/CN=authority", "-x509", "-days", "2", "-keyout", "ca-key.pem", "-out", "ca-cert.pem")
    openssl(*new, "/CN=localhost", "-keyout", "server-key.pem", "-out", "server.csr")
    with open(os.path.join(place, "names"), "w") as file:
        file.write("subjectAltName=DNS:localhost\n")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca-cert.pem", "-CAkey", "ca-key.pem",
            "-CAcreateserial", "-days", "2", "-extfile", "names", "-out", "server-cert.pem")
    return place


@suite.test("nbds:// with certificates of a directory that the address names",
            needs=[*NBDKIT, tools.tool("openssl")])
def _(directory):
    path, raw = some_image(directory)
    place, port = certificates(directory), nbd.free_port()
    served = nbd.server(os.path.join(directory, "tls"), "nbdkit", "-f", "-r", "-i", "127.0.0.1", "-p",
                        str(port), "-P", os.path.join(directory, "tls.pid"), "--tls=require",
                        "--tls-certificates=" + place, "file", path)
    with served:
        with mount.mount("nbds://localhost:%d/?tls-certificates=%s" % (port, place), "ro") as mounted:
            compare.check_files(mounted.disk, raw)
        ctl.refused("info", "nbd://127.0.0.1:%d/" % port, words=["NBD server", "TLS"])


# --- Ceph ---------------------------------------------------------------------------------------


if LONG or all(need() is None for need in ceph.NEEDS):

    @suite.test("an image in an RBD volume is read, and written: what fsync has acknowledged is there",
                needs=[nbd.built, tools.tool("qemu-nbd"), *ceph.NEEDS])
    def _(directory):
        path, raw = some_image(directory)
        new, copy = os.urandom(MiB), os.path.join(directory, "copy.qcow2")
        with ceph.cluster(directory) as cluster:
            cluster.make_volume(path)
            with nbd.qemu_nbd(directory, cluster.volume, "-e", "4") as (address, _process):
                with mount.mount(address, "ro") as mounted:
                    compare.check_files(mounted.disk, raw)
                    compare.check_random_preads(mounted.disk, raw, count=60)
            with nbd.qemu_nbd(directory, cluster.volume, writable=True) as (address, _process):
                with mount.mount(address, "locking=off", writable=True) as mounted:
                    with twin.Twin(mounted.disk, raw) as both:
                        both.write(3 * MiB, new)
                        both.sync()
                    mounted.kill()
            cluster.ask("rbd", "export", ceph.POOL + "/" + ceph.VOLUME, copy)
        ctl.ctl("check", "-q", copy)
        ctl.ctl("compare", "-q", "-f", "qcow2", "-F", "raw", copy, raw)


# --- the other way round ------------------------------------------------------------------------


@suite.test("nbdcopy both ways, of the disk of a mount that nbdkit serves",
            needs=[*NBDKIT, tools.tool("nbdcopy")])
def _(directory):
    path, raw = some_image(directory)
    other, copy = os.path.join(directory, "other"), os.path.join(directory, "copy")
    with mount.mount(path, writable=True) as mounted:
        with nbdkit(directory, "file", mounted.disk, writable=True) as (address, _process):
            tools.run("nbdcopy", address, copy)
            compare.check_files(copy, raw)
            image.sparse_raw(other, 20 * MiB)
            tools.run("nbdcopy", "--flush", other, address)
        compare.check_files(mounted.disk, other)
    tools.run("qemu-img", "check", "-q", path)
    tools.run("qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", path, other)


if __name__ == "__main__":
    suite.main()
