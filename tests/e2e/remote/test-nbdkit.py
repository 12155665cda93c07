#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""-o nbdkit=WORDS, and addresses nbdkit:WORDS: a server for the life of the mount, and not longer."""

import contextlib
import glob
import json
import os
import signal
import socket
import subprocess
import tempfile

from lib import bad, compare, ctl, mount, nbd, run, tap, tools
from lib.image import MiB
from lib.nbd import NBDKIT, some_image
from lib.tap import check, check_equal
from lib.web import web_server

suite = tap.Suite(needs=[tools.fuse, tools.QEMU, *NBDKIT])
CURL = [nbd.plugin("curl")]


def beside():
    """The processes of nbdkit, and those that keep it, of this run: {pid: name}."""
    found = {}
    for pid in run.processes(run.directory):
        with contextlib.suppress(OSError), open("/proc/%d/comm" % pid, encoding="ascii") as file:
            name = file.read().strip()
            if name in ("nbdkit", "qcow2fs-nbdkit"):
                found[pid] = name
    return found


def check_nothing_left(sockets):
    bad.wait_for(lambda: not beside(), "the end of all processes")
    check_no_more(sockets)


def check_no_more(sockets):
    """Those of other tests, which run beside this one, are there for a moment only."""
    bad.wait_for(lambda: set(sockets_of()) <= set(sockets), "no socket of nbdkit has a name any more")


def sockets_of():
    return sorted(glob.glob(os.path.join(tempfile.gettempdir(), "qcow2fs-??????")))


# --- plugins and filters --------------------------------------------------------------------------


@suite.test("file: what the option's words serve is mounted, and nothing is left of it")
def _(directory):
    path, raw = some_image(directory)
    before = sockets_of()
    with mount.mount("nbdkit:file " + path, "nbdkit", "ro") as mounted:
        check_equal(sorted(beside().values()), ["nbdkit", "qcow2fs-nbdkit"], "what runs")
        check_no_more(before)
        compare.check_files(mounted.disk, raw)
        compare.check_random_preads(mounted.disk, raw, count=60)
    check_equal(beside(), {}, "what runs when the daemon has ended")
    check_nothing_left(before)


@suite.test("IMAGE is the last of the option's words, with all that is in its name")
def _(directory):
    path, raw = some_image(directory)
    strange = os.path.join(directory, "a 'b' \"c\" \\ d")
    os.rename(path, strange)
    at = os.path.join(directory, "at")
    open(at, "w").close()
    with mount.mount(strange, "ro", "nbdkit=file", at=at) as mounted:
        compare.check_files(mounted.disk, raw)
    with mount.mount(os.path.basename(strange), "ro", "nbdkit=--filter=cow file", at=at,
                     cwd=directory) as mounted:
        compare.check_files(mounted.disk, raw)
    # To nbdkit such a word would be an option, which runs a program.
    switch = "--run=touch proof"
    os.rename(strange, os.path.join(directory, switch))
    done = tools.run(run.program(), "-o", "ro,nbdkit=file", "--", switch, at, status=None, cwd=directory)
    try:
        check_equal((done.returncode, done.stderr), (0, ""), "mounting a name that begins with -")
        compare.check_files(at, raw)
        check_equal(os.path.exists(os.path.join(directory, "proof")), False, "that nbdkit ran it")
    finally:
        if mount.is_mounted(at):
            run.unmount(at)


@suite.test("with the option IMAGE may be left out")
def _(directory):
    path, raw = some_image(directory)
    at = os.path.join(directory, "at")
    open(at, "w").close()
    done = run.start([run.program(), "-o", "ro,nbdkit=file 'file=%s'" % path, at])
    check_equal(done.wait(), 0, "its status")
    try:
        compare.check_files(at, raw)
    finally:
        run.unmount(at)
    check_nothing_left(sockets_of())


@suite.test("memory: what has no image is one sentence; a raw disk of it has an overlay")
def _(directory):
    at = os.path.join(directory, "at")
    open(at, "w").close()
    done = tools.run(run.program(), "-o", "ro,nbdkit=memory", "1M", at, status=1)
    bad.check_sentence(done.stderr, "nbdkit:memory 1M", "qcow2")
    with mount.mount("nbdkit:memory 1M", "nbdkit", "overlay", "format=raw", at=at, writable=True) as mounted:
        with open(mounted.disk, "r+b") as disk:
            disk.write(b"x" * 5000)
        compare.forget(mounted.disk)
        with open(mounted.disk, "rb") as disk:
            check(disk.read() == b"x" * 5000 + bytes(MiB - 5000), "other bytes")


@suite.test("a file is written through it")
def _(directory):
    path, raw = some_image(directory)
    with mount.mount("nbdkit:file " + path, "nbdkit", writable=True) as mounted:
        check("locking=off" in mounted.stderr(), "it says %r", mounted.stderr())
        compare.check_files(mounted.disk, raw)
        check(not os.access(mounted.disk, os.W_OK) or os.geteuid() == 0, "it can be written")
    with open(path, "r+b") as file:  # an export has the size that it has
        file.truncate(64 * MiB)
    with mount.mount("nbdkit:file " + path, "nbdkit", "locking=off", writable=True) as mounted:
        with open(mounted.disk, "r+b") as disk:
            for at in range(0, 20 * MiB, MiB):
                disk.seek(at)
                disk.write(b"%08d" % at * 8192)
            os.fsync(disk.fileno())
        with open(raw, "r+b") as disk:
            for at in range(0, 20 * MiB, MiB):
                disk.seek(at)
                disk.write(b"%08d" % at * 8192)
        compare.forget(mounted.disk)
        compare.check_files(mounted.disk, raw)
    tools.run("qemu-img", "check", "-q", path)
    tools.run("qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", path, raw)


@suite.test("curl, of a web server", needs=CURL)
def _(directory):
    path, raw = some_image(directory)
    at = os.path.join(directory, "at")
    open(at, "w").close()
    with web_server(path) as url:
        with mount.mount(url, "ro", "nbdkit=curl", at=at) as mounted:
            compare.check_files(mounted.disk, raw)
        with mount.mount("nbdkit:curl url=" + url, "nbdkit", "ro", at=at) as mounted:
            compare.check_random_preads(mounted.disk, raw, count=60)
    check_nothing_left(sockets_of())


@suite.test("curl behind retry, of a web server that fails now and then", needs=CURL)
def _(directory):
    path, raw = some_image(directory)
    with web_server(path, lambda number: "error" if number % 9 == 8 else None) as url:
        with mount.mount("nbdkit:--filter=retry curl %s retry-delay=1 retry-exponential=no "
                         "retries=20" % url, "nbdkit", "ro") as mounted:
            compare.check_files(mounted.disk, raw)


@suite.test("the filters delay and error: every byte, or EIO")
def _(directory):
    path, raw = some_image(directory, 40 * MiB)
    trouble = os.path.join(directory, "trouble")
    with mount.mount("nbdkit:--filter=error --filter=delay file %s rdelay=1ms error-pread=EIO "
                     "error-pread-rate=100%% error-file=%s" % (path, trouble), "nbdkit", "ro") as mounted:
        compare.check_files(mounted.disk, raw)
        compare.forget(mounted.disk)
        open(trouble, "w").close()
        failed = 0
        with open(mounted.disk, "rb", buffering=0) as disk, open(raw, "rb") as file:
            os.posix_fadvise(disk.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            for at in range(0, 40 * MiB, MiB):  # more than what is read ahead
                try:
                    check(os.pread(disk.fileno(), 4096, at) == os.pread(file.fileno(), 4096, at),
                          "other bytes at %d", at)
                except OSError:
                    failed += 1
        check(failed > 0, "nothing failed")
        os.unlink(trouble)
        compare.check_files(mounted.disk, raw)


@suite.test("an overlay on it is written, and so is what is behind an image and named to be so")
def _(directory):
    path, raw = some_image(directory)
    with mount.mount("nbdkit:file " + path, "nbdkit", "overlay", writable=True) as mounted:
        with open(mounted.disk, "r+b") as disk:
            disk.write(b"mine")
            disk.flush()
            os.fsync(disk.fileno())
        with open(mounted.disk, "rb") as disk:
            check_equal(disk.read(4), b"mine", "what it shows")
    top = os.path.join(directory, "top.qcow2")
    tools.run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "gone", top, "20M")
    with mount.mount(top, "nbdkit", "backing-file=nbdkit:file " + path, writable=True) as mounted:
        compare.check_files(mounted.disk, raw)


# --- how it ends ----------------------------------------------------------------------------------


for foreground in (False, True):

    @suite.test("a daemon in the %sground that is killed leaves nothing" % ("fore" if foreground else "back"))
    def _(directory, foreground=foreground):
        path, _raw = some_image(directory)
        before = sockets_of()
        with mount.mount_that_ends_badly("nbdkit:file " + path, "nbdkit", "ro",
                                         foreground=foreground) as mounted:
            check_equal(len(beside()), 2, "what runs")
            mounted.kill()
            check_nothing_left(before)


@suite.test("nbdkit is killed: reads are EIO, and who kept it ends with the mount")
def _(directory):
    path, _raw = some_image(directory)
    with mount.mount("nbdkit:file " + path, "nbdkit", "ro", "nbd-timeout=1") as mounted:
        for pid, name in beside().items():
            if name == "nbdkit":
                os.kill(pid, signal.SIGKILL)
        with open(mounted.disk, "rb", buffering=0) as disk:
            try:
                os.pread(disk.fileno(), 4096, 10 * MiB)
                check(False, "it was read")
            except OSError:
                pass
    check_nothing_left(sockets_of())


@suite.test("a signal to end that each process gets ends nbdkit last: what is not flushed is written")
def _(directory):
    path, _raw = some_image(directory)
    with open(path, "r+b") as file:
        file.truncate(64 * MiB)
    with mount.mount("nbdkit:file " + path, "nbdkit", "locking=off", writable=True,
                     foreground=True) as mounted:
        with open(mounted.disk, "r+b") as disk:
            disk.write(b"kept" * 1024 * 1024)
        for pid in [*beside(), *mounted.pids]:
            os.kill(pid, signal.SIGTERM)
    check_nothing_left(sockets_of())
    with mount.mount(path, "ro") as mounted, open(mounted.disk, "rb") as disk:
        check(disk.read(4 * MiB) == b"kept" * 1024 * 1024, "other bytes")


# --- refusals -------------------------------------------------------------------------------------


@suite.test("what keeps it from serving is one sentence, and the words of nbdkit")
def _(directory):
    path, _raw = some_image(directory)
    at = os.path.join(directory, "at")
    open(at, "w").close()
    with web_server(path) as url:
        for words, expected in (("nosuchplugin x", ["nbdkit", "nosuchplugin"]),
                                ("file " + directory + "/missing", ["nbdkit", "missing"]),
                                ("file 'x", ["quotes"]),
                                ("file x\\", ["quotes"]),
                                ("", ["plugin"]),
                                ("curl %s-not-there" % url.replace("127.0.0.1:", "127.0.0.1:1"),
                                 ["nbdkit"])):
            done = tools.run(run.program(), "-o", "ro,nbdkit", "nbdkit:" + words, at, status=1)
            bad.check_sentence(done.stderr, *expected)
            ctl.refused("info", "--nbdkit", "nbdkit:" + words, words=expected)
    nowhere = dict(os.environ, PATH=os.path.join(directory, "nowhere"))
    done = subprocess.run([run.program(), "-o", "ro,nbdkit", "nbdkit:file " + path, at], env=nowhere,
                          capture_output=True, encoding="utf-8", check=False)
    check_equal(done.returncode, 1, "its status")
    bad.check_sentence(done.stderr, "nbdkit is not there", "install")
    check_nothing_left(sockets_of())


@suite.test("no program is started on an image's word, whatever is allowed")
def _(directory):
    path, _raw = some_image(directory)
    at, proof = os.path.join(directory, "at"), os.path.join(directory, "proof")
    open(at, "w").close()
    top = os.path.join(directory, "top.qcow2")
    name = "nbdkit:eval get_size='touch %s; echo 20M'" % proof
    tools.run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", name, top, "20M")
    for options in ("ro", "ro,follow=all", "ro,nbdkit,follow=all,trust-names",
                    "overlay,nbdkit,follow=all,trust-names"):
        done = tools.run(run.program(), "-o", options, top, at, status=1)
        bad.check_sentence(done.stderr, "no program is started", "nbdkit:eval")
    for options in ((), ("--follow=all",), ("--nbdkit", "--follow=all", "--trust-names")):
        ctl.refused("map", *options, top, words=["no program is started"])
    check_equal(beside(), {}, "what runs")
    check(not os.path.exists(proof), "it was run")


# --- names of files -------------------------------------------------------------------------------


# What an image may be given to, with what else it takes; of each the status of a refusal.
COMMANDS = [
    (["info", 0], 1), (["info", "--audit", 0], 1), (["check", 0], 1), (["check", "--sandbox=off", 0], 1),
    (["check", "-r", "all", 0], 1), (["check", "-r", "all", "--locking=off", 0], 1), (["map", 0], 1),
    (["compare", "good.qcow2", 0], 2), (["compare", "-f", "raw", 0, "good.qcow2"], 2),
    (["diff", 0, "good.qcow2"], 2), (["convert", 0, "made"], 1), (["convert", "good.qcow2", 0], 1),
    (["convert", "-B", 0, "-F", "raw", "good.qcow2", "made"], 1), (["commit", 0], 1),
    (["commit", "--locking=off", 0], 1), (["rebase", "-b", "good.qcow2", "-F", "qcow2", 0], 1),
    (["rebase", "-b", 0, "-F", "raw", "good.qcow2"], 1), (["measure", 0], 1),
    (["amend", "-o", "lazy_refcounts=on", 0], 1), (["resize", 0, "+1M"], 1),
    (["resize", "--locking=off", 0, "+1M"], 1), (["snapshot", "-l", 0], 1), (["snapshot", "-c", "new", 0], 1),
    (["bitmap", "--add", 0, "new"], 1), (["backup-point", "--bitmap=new", 0], 1), (["mount", 0, "at"], 1),
    (["mount", "--list", 0], 1), (["attach", 0], 1), (["hash", 0], 1),
    (["timeline", 0], 1), (["salvage", 0, "made"], 1), (["create", 0, "1M"], 1),
    (["create", "-b", 0, "-F", "raw", "made"], 1), (["umount", 0], 1), (["detach", 0], 1),
]


def named_like_an_address(directory):
    """An image whose name is an address of nbdkit that would run a program: (name, what that makes)."""
    os.mkdir(os.path.join(directory, "at"))
    name = "nbdkit:eval get_size='touch proof; echo 1M' pread='exit 1' close='#.qcow2'"
    for each in ("good.qcow2", name):
        tools.run("qemu-img", "create", "-q", "-f", "qcow2", os.path.join(directory, each), "1M")
    return name, os.path.join(directory, "proof")


@suite.test("a file's name runs no program: each command of qcow2ctl")
def _(directory):
    name, proof = named_like_an_address(directory)
    files = [os.path.join(directory, each) for each in ("good.qcow2", name)]
    before = os.listdir(directory)
    for words, status in COMMANDS:
        done = ctl.ctl(*[name if word == 0 else word for word in words], status=status, cwd=directory)
        bad.check_sentence(done.stderr, "nbdkit:eval", program="qcow2ctl")
        check(not os.path.exists(proof), "qcow2ctl %s has run it", " ".join(map(str, words)))
        check_equal(beside(), {}, "what runs behind qcow2ctl %s" % " ".join(map(str, words)))
    sentence = ctl.refused("check", name, words=["nbdkit", "program", "--nbdkit", "./NAME"], unchanged=files,
                           cwd=directory)
    check_equal(sentence.count("nbdkit:eval"), 1, "how often it is named")
    for words, status in ((["--nbdkit=off", name], 1), (["--nbdkit=" + name, name], 64), (["--nbdkit"], 64)):
        ctl.ctl("check", *words, status=status, cwd=directory)
    check_equal(sorted(os.listdir(directory)), sorted(before), "the files")
    ctl.ctl("check", "-q", "./" + name, cwd=directory)
    check(not os.path.exists(proof), "a file has run")
    ctl.ctl("info", "--nbdkit", name, status=1, cwd=directory)
    check(os.path.exists(proof), "what was meant was not run")  # so that the rest of this says something


@suite.test("a file's name runs no program: qcow2fs, mount.qcow2, and qcow2ctl mount's options")
def _(directory):
    name, proof = named_like_an_address(directory)
    helper = os.path.join(directory, "mount.qcow2")
    os.symlink(ctl.program(), helper)
    tools.run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", "gone",
              os.path.join(directory, "top.qcow2"), "1M")
    tools.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file=data", "away.qcow2", "1M",
              cwd=directory)
    before = sorted(os.listdir(directory))
    escaped = name.replace(",", "\\,")
    for options, path in (("ro", name), ("rw,locking=off", name), ("overlay,format=raw", name),
                          ("ro,salvage", name), ("ro,backing-file=" + escaped, "top.qcow2"),
                          ("ro,data-file=" + escaped, "away.qcow2"),
                          ("ro,nbdkit=file,backing-file=" + escaped, "top.qcow2")):
        for program in ([run.program(), "-o", options, path, "at"],
                        [run.program(), "-o", options, "--", path, "at"]):
            done = tools.run(*program, status=1, cwd=directory)
            bad.check_sentence(done.stderr, name, "-o nbdkit", "./NAME")
    done = tools.run(helper, name, "at", "-o", "ro", status=32, cwd=directory)
    check("-o nbdkit" in done.stderr, "mount.qcow2 says %r", done.stderr)
    # An option and its list as one word are a name that a wildcard can find, too.
    for word in ("-oro,%s.qcow2" % name.replace("nbdkit:", "nbdkit="), "-o" + name.replace("nbdkit:", "nbdkit=")):
        done = tools.run(run.program(), word, "at", status=2, cwd=directory)
        bad.check_sentence(done.stderr, "nbdkit=eval", "two words")
    check(not os.path.exists(proof), "it was run")
    check_equal(beside(), {}, "what runs")
    check_equal(sorted(os.listdir(directory)), before, "the files")
    check(not mount.is_mounted(os.path.join(directory, "at")), "it is mounted")
    for program in ([run.program(), "-o", "ro,nbdkit", name, "at"],
                    [helper, name, "at", "-o", "ro,nbdkit"],
                    [ctl.program(), "mount", "--list", "--nbdkit", name],
                    [ctl.program(), "mount", "--list", "-o", "nbdkit", name]):
        tools.run(*program, status=32 if program[0] == helper else 1, cwd=directory,
                  env={run.MARK: run.directory, "PATH": "%s:%s" % (os.path.dirname(run.program()),
                                                                   os.environ["PATH"])})
        check(os.path.exists(proof), "what was meant was not run by %s", " ".join(program))
        os.unlink(proof)
    check_nothing_left(sockets_of())


@suite.test("what a wildcard can find is no address of a server, either")
def _(directory):
    with socket.socket(socket.AF_UNIX) as listening:
        place = os.path.join(run.short(directory), "socket")
        listening.bind(place)
        listening.listen()
        listening.settimeout(0)
        where = place.replace("/", "%2F")
        for scheme in ("nbd", "nbd:unix", "nbd+unix", "nbds+unix", "nbd+vsock", "nbds+vsock", "nbd+ssh", "file",
                       "json", "unix"):
            name = "%s:?socket=%s#.qcow2" % (scheme, where)
            ctl.refused("info", name, words=["no such image"], cwd=directory)
            tools.run("qemu-img", "create", "-q", "-f", "qcow2", "./" + name, "1M", cwd=directory)
            ctl.ctl("info", name, cwd=directory)  # such a file is one
        try:
            listening.accept()
            check(False, "it was connected to")
        except BlockingIOError:
            pass


# --- the sandbox ----------------------------------------------------------------------------------


@suite.test("a daemon whose only server is its own has no network")
def _(directory):
    path, raw = some_image(directory)
    with mount.mount("nbdkit:file " + path, "nbdkit", "ro", directory=True) as mounted:
        compare.check_files(mounted.disk, raw)
        with open(os.path.join(mounted.path, "stats.json"), encoding="utf-8") as file:
            box = json.load(file)["sandbox"]
        check(box.get("network", True), "stats.json says %r", box)


# --- qcow2ctl -------------------------------------------------------------------------------------


@suite.test("commands that read take such an address, in their sandbox and without")
def _(directory):
    path, raw = some_image(directory)
    address = "nbdkit:file " + path
    for box in (("--nbdkit",), ("--nbdkit", "--sandbox=off")):
        check_equal(json.loads(ctl.ctl("info", *box, "--json", address).stdout)["virtual-size"], 20 * MiB,
                    "the size")
        ctl.ctl("check", *box, "-q", address)
        ctl.ctl("compare", *box, "-q", "-f", "qcow2", "-F", "raw", address, raw)
        ctl.ctl("map", *box, address)
        ctl.ctl("hash", *box, address)
        ctl.ctl("measure", *box, address)
    copy = os.path.join(directory, "copy.qcow2")
    ctl.ctl("convert", "-q", "--nbdkit", address, copy)
    tools.run("qemu-img", "compare", "-q", copy, path)
    ctl.ctl("compare", "-q", "--nbdkit", address, "nbdkit:file " + copy)
    check_nothing_left(sockets_of())


if __name__ == "__main__":
    suite.main()
