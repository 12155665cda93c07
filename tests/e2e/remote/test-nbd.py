#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Images of NBD servers, nbdkit and qemu-nbd: every byte, holes, servers that fail, hang or go away."""

import contextlib
import hashlib
import json
import os
import random
import socket
import subprocess
import threading
import time
import types

from lib import bad, compare, ctl, image, mount, nbd, run, tap, tools
from lib.image import MiB
from lib.nbd import NBDKIT, built, nbdkit, qemu_nbd
from lib.tap import check, check_equal


suite = tap.Suite(needs=[tools.fuse, tools.QEMU])


def some_image(directory, size=40 * MiB, **options):
    raw, path = os.path.join(directory, "raw"), os.path.join(directory, "image.qcow2")
    image.sparse_raw(raw, size)
    image.convert(raw, path, **options)
    return path, raw


def digest(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


# --- every byte ---------------------------------------------------------------------------------

for kind in ("plain", "compressed", "zstd", "extended", "v2"):
    options = {"plain": {"cluster_size": 512}, "compressed": {}, "zstd": {"compression_type": "zstd"},
               "extended": {"extended_l2": "on"}, "v2": {"compat": "0.10"}}[kind]

    @suite.test("%s: what nbdkit serves reads as the file does" % kind, needs=NBDKIT)
    def _(directory, kind=kind, options=options):
        path, raw = some_image(directory, **options) if kind not in ("compressed", "zstd") else (
            os.path.join(directory, "image.qcow2"), os.path.join(directory, "raw"))
        if kind in ("compressed", "zstd"):
            image.sparse_raw(raw, 20 * MiB)
            image.convert(raw, path, "-c", **options)
        before = digest(path)
        with nbdkit(directory, "file", path) as (address, _process):
            check_equal(json.loads(ctl.ctl("info", "--json", address).stdout)["virtual-size"],
                        os.path.getsize(raw), "the size")
            ctl.ctl("check", "-q", address)
            ctl.ctl("compare", "-q", "-f", "qcow2", "-F", "raw", address, raw)
            with mount.mount(address, "ro") as mounted:
                compare.check_files(mounted.disk, raw)
                compare.check_random_preads(mounted.disk, raw, count=60)
                compare.check_direct_reads(mounted.disk, raw, count=20)
        check_equal(digest(path), before, "the image")


@suite.test("qemu-nbd serves the file of an image, and of its snapshots", needs=[built, tools.tool("qemu-nbd")])
def _(directory):
    path, raw = some_image(directory)
    tools.run("qemu-img", "snapshot", "-c", "then", path)
    image.io(path, "write -P 77 1M 300k")
    now = os.path.join(directory, "now")
    image.to_raw(path, now)
    with qemu_nbd(directory, path) as (address, _process):
        with mount.mount(address, "ro", directory=True) as mounted:
            compare.check_files(os.path.join(mounted.path, "disk.raw"), now)
            compare.check_files(os.path.join(mounted.path, "snapshots/then/disk.raw"), raw)


@suite.test("requests of blocks that the server insists on, and of no more than it takes", needs=NBDKIT)
def _(directory):
    path, raw = some_image(directory, cluster_size=512)
    os.truncate(path, (os.path.getsize(path) + 4095) // 4096 * 4096)
    with nbdkit(directory, "--filter=blocksize-policy", "file", path, "blocksize-minimum=4096",
                "blocksize-preferred=4096", "blocksize-maximum=64K", "blocksize-error-policy=error"
                ) as (address, _process):
        with mount.mount(address, "ro") as mounted:
            compare.check_files(mounted.disk, raw)
            compare.check_random_preads(mounted.disk, raw, count=60)


@suite.test("a raw disk: its holes are those that the server tells of", needs=NBDKIT)
def _(directory):
    raw = os.path.join(directory, "raw")
    with open(raw, "wb") as file:
        file.truncate(64 * MiB)
        for at in (3 * MiB, 40 * MiB):
            file.seek(at)
            file.write(b"\x55" * MiB)
    with nbdkit(directory, "file", raw) as (address, _process):
        with mount.mount(address, "overlay", "format=raw", writable=True) as mounted:
            compare.check_files(mounted.disk, raw)
            check_equal(image.seek_extents(mounted.disk), image.seek_extents(raw), "the extents")


@suite.test("an overlay of a local file on it is written, the export only read", needs=NBDKIT)
def _(directory):
    path, raw = some_image(directory)
    before = digest(path)
    with nbdkit(directory, "file", path) as (address, _process):
        with mount.mount(address, "overlay", writable=True) as mounted:
            with open(mounted.disk, "r+b") as disk:
                disk.seek(MiB)
                disk.write(b"mine")
                os.fsync(disk.fileno())
            with open(mounted.disk, "rb") as disk, open(raw, "rb") as file:
                shown, expected = disk.read(), bytearray(file.read())
                expected[MiB:MiB + 4] = b"mine"
                check(shown == expected, "it shows other bytes")
    check_equal(digest(path), before, "the image")


@suite.test("convert copies from it", needs=NBDKIT)
def _(directory):
    path, raw = some_image(directory)
    with nbdkit(directory, "file", path) as (address, _process):
        copy = os.path.join(directory, "copy.qcow2")
        ctl.ctl("convert", "-q", address, copy)
    tools.run("qemu-img", "compare", "-q", copy, path)


# --- several connections, and what is read ahead ------------------------------------------------


def slowly(_kind, _offset, _length):
    time.sleep(0.003)


def full_image(directory):
    raw, path = os.path.join(directory, "raw"), os.path.join(directory, "image.qcow2")
    with open(raw, "wb") as file:
        file.write(random.Random(20).randbytes(40 * MiB))
    image.convert(raw, path)
    return path, raw


def contents_of(path):
    with open(path, "rb") as file:
        return file.read()


for several in (True, False):

    @suite.test("a reader in order: %s" % ("at most four connections, where the server offers several"
                                           if several else "one connection, where it offers no more"))
    def _(directory, several=several):
        path, raw = full_image(directory)
        flags = nbd.EVERYTHING if several else nbd.EVERYTHING & ~nbd.MULTI_CONN
        with nbd.Server(directory, contents_of(path), flags | nbd.READ_ONLY) as server:
            server.before = slowly
            with mount.mount(server.address, "ro") as mounted:
                check_equal(server.accepted, 1, "the connections of a mount that nobody reads")
                compare.check_files(mounted.disk, raw)
            if several:
                check(2 <= server.accepted <= 4, "%d connections", server.accepted)
            else:
                check_equal(server.accepted, 1, "the connections")


@suite.test("a server that takes one connection, and says that it takes several, is read all the same")
def _(directory):
    path, raw = full_image(directory)
    with nbd.Server(directory, contents_of(path), nbd.EVERYTHING | nbd.READ_ONLY) as server:
        server.before = slowly
        server.most = 1
        with mount.mount(server.address, "ro") as mounted:
            compare.check_files(mounted.disk, raw)
        check(server.accepted > 1, "it has not asked for more")


def is_held(end):
    """Whether who made the connection has not given it up."""
    try:
        return end.recv(1, socket.MSG_DONTWAIT) != b""
    except BlockingIOError:
        return True


@suite.test("a server that lets others hang where they knock: nobody waits until they are given up")
def _(directory):
    path, raw = full_image(directory)
    for _ in range(4):  # a machine that is held up for that long proves nothing
        with nbd.Server(directory, contents_of(path), nbd.EVERYTHING | nbd.READ_ONLY) as server:
            server.before = slowly
            server.most, server.hung = 1, []
            with mount.mount(server.address, "ro") as mounted:
                compare.check_files(mounted.disk, raw)
                check(server.accepted > 1, "it has not asked for more")
                if all(map(is_held, server.hung)):
                    return
    check(False, "all was read only when they had been given up")


@suite.test("a server that loses its connections while it is read ahead: every byte all the same")
def _(directory):
    path, raw = full_image(directory)
    with nbd.Server(directory, contents_of(path), nbd.EVERYTHING | nbd.READ_ONLY) as server:
        asked = iter(range(1, 1000000))

        def before(_kind, _offset, _length):
            slowly(_kind, _offset, _length)
            return "cut" if next(asked) % 20 == 0 else None

        server.before = before
        with mount.mount(server.address, "ro") as mounted:
            compare.check_files(mounted.disk, raw)
        check(server.accepted > 2, "%d connections", server.accepted)


# --- servers in trouble -------------------------------------------------------------------------


@suite.test("a server that is killed and comes again: reads wait, and get every byte", needs=NBDKIT)
def _(directory):
    path, raw = some_image(directory)
    with contextlib.ExitStack() as stack:
        address, process = stack.enter_context(nbdkit(directory, "file", path))
        mounted = stack.enter_context(mount.mount(address, "ro"))
        with open(mounted.disk, "rb", buffering=0) as disk, open(raw, "rb") as file:
            for _ in range(3):
                process.kill()
                process.wait()
                os.unlink(os.path.join(run.short(directory), "socket"))
                os.unlink(os.path.join(run.short(directory), "socket.pid"))
                reader = subprocess.Popen(["cmp", mounted.disk, raw])
                _address, process = stack.enter_context(nbdkit(directory, "file", path))
                check_equal(reader.wait(), 0, "the status of cmp")
                compare.forget(mounted.disk)
            check_equal(disk.read(4096), file.read(4096), "the first bytes")


@suite.test("the server of a backing file, whose address an image has told, comes again: so is it asked again",
            needs=NBDKIT)
def _(directory):
    path, raw = some_image(directory)
    with contextlib.ExitStack() as stack:
        address, process = stack.enter_context(nbdkit(directory, "file", path))
        overlay = image.create(os.path.join(directory, "overlay.qcow2"), 40 * MiB, backing=address,
                               backing_format="qcow2")
        mounted = stack.enter_context(mount.mount(overlay, "ro", "follow=all"))
        nbd.kill(process, os.path.join(run.short(directory), "socket"))
        stack.enter_context(nbdkit(directory, "file", path))
        compare.check_files(mounted.disk, raw)


@contextlib.contextmanager
def tunnel(directory, to):
    """A socket whose connections lead to the socket `to`; while .away is set they are hung up."""
    state = types.SimpleNamespace(away=False, refused=threading.Semaphore(0), ends=[])
    listener = socket.socket(socket.AF_UNIX)
    place = os.path.join(run.short(directory), "tunnel")

    def hang_up(*ends):
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def carry(source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        hang_up(source, target)

    def serve():
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                if state.away:
                    near.close()
                    state.refused.release()
                    continue
                far = socket.socket(socket.AF_UNIX)
                far.connect(to)
                state.ends += [near, far]
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=carry, args=ends, daemon=True).start()

    state.hang_up = lambda: hang_up(*state.ends)
    listener.bind(place)
    listener.listen()
    threading.Thread(target=serve, daemon=True).start()
    try:
        yield "nbd+unix:///?socket=" + place, state
    finally:
        hang_up(listener, *state.ends)
        listener.close()
        for end in state.ends:
            end.close()


@suite.test("a tunnel that hangs up while the other end is away: a read waits for it", needs=NBDKIT)
def _(directory):
    path, raw = some_image(directory)
    with contextlib.ExitStack() as stack:
        stack.enter_context(nbdkit(directory, "file", path))
        address, state = stack.enter_context(tunnel(directory, os.path.join(run.short(directory), "socket")))
        mounted = stack.enter_context(mount.mount(address, "ro"))
        state.away = True
        state.hang_up()
        reader = subprocess.Popen(["cmp", mounted.disk, raw])
        for _ in range(8):  # more often than the kernel itself tries again
            while not state.refused.acquire(timeout=0.1):
                check(reader.poll() is None, "cmp has ended with %r", reader.returncode)
        state.away = False
        check_equal(reader.wait(), 0, "the status of cmp")


@suite.test("a server that closes each connection after a while is asked again", needs=NBDKIT)
def _(directory):
    path, raw = some_image(directory)
    with nbdkit(directory, "--filter=error", "file", path, "error-pread=ESHUTDOWN",
                "error-pread-rate=2%") as (address, _process):
        with mount.mount(address, "ro") as mounted:
            compare.check_files(mounted.disk, raw)


@suite.test("an error of the server is EIO, and no wrong byte", needs=NBDKIT)
def _(directory):
    path, raw = some_image(directory)
    trouble = os.path.join(directory, "trouble")
    with nbdkit(directory, "--filter=error", "file", path, "error-pread=EIO", "error-pread-rate=100%",
                "error-file=" + trouble) as (address, _process):
        with mount.mount(address, "ro") as mounted:
            with open(mounted.disk, "rb", buffering=0) as disk, open(raw, "rb") as file:
                expected = file.read(8 * MiB)
                os.posix_fadvise(disk.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
                open(trouble, "w").close()
                failed = 0
                for at in range(0, 8 * MiB, 65536):
                    try:
                        check(os.pread(disk.fileno(), 65536, at) == expected[at:at + 65536],
                              "other bytes at %d", at)
                    except OSError:
                        failed += 1
                check(failed > 0, "nothing failed")
                os.unlink(trouble)
                check(os.pread(disk.fileno(), 8 * MiB, 0) == expected, "other bytes afterwards")


def pieces(disk, raw):
    """Reads all of a disk, piece by piece; how many failed. What is read is right."""
    failed = 0
    with open(disk, "rb", buffering=0) as one, open(raw, "rb") as other:
        os.posix_fadvise(one.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for at in range(0, os.path.getsize(raw), 65536):
            try:
                compare.check_bytes(os.pread(one.fileno(), 65536, at), os.pread(other.fileno(), 65536, at), at)
            except OSError:
                failed += 1
    return failed


@suite.test("each request in turn fails, or has a short answer: EIO for the first, and no wrong byte")
def _(directory):
    path, raw = some_image(directory, size=2 * MiB)
    contents, number = contents_of(path), 0
    state = types.SimpleNamespace(words={}, asked=0, failed=0, done=False)

    def before(_kind, _offset, _length):
        state.asked += 1
        return state.words.get(state.asked)

    while not state.done:
        number += 1
        for word in (nbd.EIO, "short"):
            with nbd.Server(directory, contents, nbd.EVERYTHING | nbd.READ_ONLY) as server:
                server.before, state.asked, state.words = before, 0, {number: word}
                try:
                    with mount.mount(server.address, "ro") as mounted:
                        failed = pieces(mounted.disk, raw)
                        compare.forget(mounted.disk)
                        check_equal(pieces(mounted.disk, raw), 0, "failures afterwards")
                except mount.MountFailed as refused:
                    bad.check_sentence(refused.stderr, "Input/output error")
                    failed = 1
                check(word != "short" or failed == 0, "request %d: a short answer is %d errors", number, failed)
                state.failed += failed
                state.done = state.asked < number
    check(state.failed > 1, "%d requests, and %d failed", number, state.failed)


@suite.test("a server that says that it has more than it has: EIO for that; less: what lies there is no zero")
def _(directory):
    raw = os.path.join(directory, "raw")
    with open(raw, "wb") as file:
        file.write(random.Random(3).randbytes(2 * MiB))
    with nbd.Server(directory, contents_of(raw), nbd.EVERYTHING | nbd.READ_ONLY, size=3 * MiB) as server:
        with mount.mount(server.address, "overlay", "format=raw", writable=True) as mounted:
            check_equal(os.path.getsize(mounted.disk), 3 * MiB, "the size")
            check_equal(pieces(mounted.disk, raw), 0, "failures of what there is")
            with open(mounted.disk, "rb", buffering=0) as disk:
                try:
                    os.pread(disk.fileno(), 4096, 2 * MiB + 65536)
                    check(False, "it was read")
                except OSError as error:
                    check_equal(error.errno, 5, "the error")
    path = image.convert(raw, os.path.join(directory, "image.qcow2"))
    with nbd.Server(directory, contents_of(path), nbd.EVERYTHING | nbd.READ_ONLY, size=MiB) as server:
        try:
            with mount.mount(server.address, "ro") as mounted:
                check(pieces(mounted.disk, raw) > 0, "nothing failed")
        except mount.MountFailed as refused:
            bad.check_sentence(refused.stderr, server.address)


@suite.test("another export in its place, of another size, is not read", needs=NBDKIT)
def _(directory):
    path, _raw = some_image(directory)
    other = os.path.join(directory, "other")
    with open(other, "wb") as file:
        file.truncate(MiB)
    with contextlib.ExitStack() as stack:
        address, process = stack.enter_context(nbdkit(directory, "file", path))
        mounted = stack.enter_context(mount.mount(address, "ro"))
        process.kill()
        process.wait()
        os.unlink(os.path.join(run.short(directory), "socket"))
        os.unlink(os.path.join(run.short(directory), "socket.pid"))
        stack.enter_context(nbdkit(directory, "file", other))
        with open(mounted.disk, "rb", buffering=0) as disk:
            try:
                os.pread(disk.fileno(), 65536, 20 * MiB)
            except OSError:
                return
        check(False, "it was read")


# --- refusals -----------------------------------------------------------------------------------


@suite.test("what cannot be had is one sentence")
def _(directory):
    at = os.path.join(directory, "at")
    open(at, "w").close()
    nowhere = "nbd+unix:///?socket=%s/nowhere" % run.short(directory)
    if built() is not None:
        done = tools.run(run.program(), "-o", "ro", nowhere, at, status=1)
        bad.check_sentence(done.stderr, "libnbd")
        return
    for address, words in ((nowhere, ["NBD server", "nowhere"]),
                           ("nbd+unix:///?socket=relative", ["whole path"]),
                           ("nbd+vsock://1:1/", ["NBD server"]),
                           ("nbd://localhost:1/", ["NBD server"])):
        done = tools.run(run.program(), "-o", "ro,nbd-timeout=2", address, at, status=1)
        bad.check_sentence(done.stderr, *words)
        if "vsock" not in address:  # it is tried for a minute where nobody refuses it
            ctl.refused("info", address, words=words)


@suite.test("an image's word alone is no reason to ask a server", needs=NBDKIT)
def _(directory):
    path, raw = some_image(directory)
    with nbdkit(directory, "file", path) as (address, _process):
        overlay = os.path.join(directory, "overlay.qcow2")
        tools.run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", address,
                  overlay, "40M")
        at = os.path.join(directory, "at")
        open(at, "w").close()
        for options in ("ro", "ro,follow=files", "ro,follow=beside", "ro,follow=none"):
            done = tools.run(run.program(), "-o", options, overlay, at, status=1)
            bad.check_sentence(done.stderr, "backing file", "nbd+unix", "follow=")
        ctl.refused("map", overlay, words=["nbd+unix", "--follow=all"])
        with mount.mount(overlay, "follow=all", at=at) as mounted:
            compare.check_files(mounted.disk, raw)
        check_equal(ctl.ctl("info", "--follow=all", overlay).stderr, "", "what info says")
        # Not even then are files of this machine opened by it.
        greedy = os.path.join(directory, "greedy.qcow2")
        for more in ("&tls-certificates=/etc", "&tls%2Dpsk-file=/etc/shadow", ";tls-psk-file=/x"):
            tools.run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b",
                      address + more, greedy, "40M")
            done = tools.run(run.program(), "-o", "ro,follow=all", greedy, at, status=1)
            bad.check_sentence(done.stderr, "certificates", "word")
        if os.geteuid() == 0:  # Nobody can be asked in his name.
            os.chown(overlay, int(bad.NOBODY), int(bad.NOBODY))
            done = tools.run(run.program(), "-o", "ro,allow_other,follow=all", overlay, at, status=1)
            bad.check_sentence(done.stderr, "nbd+unix", "backing file", "trust-names")
            with mount.mount(overlay, "allow_other", "follow=all", "trust-names", at=at) as mounted:
                compare.check_files(mounted.disk, raw)
    # An image on a server that is behind itself.
    with nbdkit(directory, "file", path) as (address, _process):
        tools.run("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", address, path)
        done = tools.run(run.program(), "-o", "ro,follow=all", address, at, status=1)
        bad.check_sentence(done.stderr, "part of a cycle", "nbd+unix")
        ctl.refused("map", "--follow=all", address, words=["part of a cycle"])


@suite.test("an image of a server leads to no local file, unless the user says so", needs=NBDKIT)
def _(directory):
    raw, base, path, overlay, at, copy = (os.path.join(directory, name) for name in (
        "raw", "base", "image.qcow2", "overlay.qcow2", "at", "copy"))
    image.sparse_raw(base, MiB)
    open(at, "w").close()
    for what, words in (("backing file", ["create", "-q", "-f", "qcow2", "-F", "raw", "-b", raw, path]),
                        ("backing file", ["create", "-q", "-f", "qcow2", "-F", "raw", "-b", "file:" + raw, path]),
                        ("data file", ["convert", "-O", "qcow2", "-o",
                                       "data_file=%s,data_file_raw=on" % raw, base, path])):
        image.sparse_raw(raw, MiB)
        tools.run("qemu-img", *words)
        option = what.replace(" ", "-")
        with nbdkit(directory, "file", path) as (address, _process):
            done = tools.run(run.program(), "-o", "ro", address, at, status=1)
            bad.check_sentence(done.stderr, what, "server", option + "=PATH", "trust-names")
            ctl.refused("convert", "-O", "raw", address, copy, words=["server", what])
            for options in (option + "=" + raw, "trust-names"):
                with mount.mount(address, "ro", options, at=at) as mounted:
                    compare.check_files(mounted.disk, raw)
            # Nor behind an overlay of this machine, whose base the user has named.
            tools.run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "elsewhere",
                      overlay, "1M")
            done = tools.run(run.program(), "-o", "ro,backing-file=" + address, overlay, at, status=1)
            bad.check_sentence(done.stderr, what, "server", "trust-names")
    # A name without a directory is one beside the image, on the server: it is not asked for that.
    tools.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", "raw", path)
    with nbdkit(directory, "file", path) as (address, _process):
        done = tools.run(run.program(), "-o", "ro,trust-names", address, at, status=1)
        bad.check_sentence(done.stderr, "backing file", "relative name")


if __name__ == "__main__":
    suite.main()
