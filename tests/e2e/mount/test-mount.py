#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A mount from its beginning to its end: the background, signals, names, permissions."""

import contextlib
import os
import signal
import stat
import subprocess

from lib import bad, compare, mount, run, tap, tools
from lib.image import MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.fuse, tools.QEMU])


# --- the background ------------------------------------------------------------------------------


@suite.test("out=$(qcow2fs ...) returns when the mount is there: no pipe is held")
def _(directory):
    path = bad.sample("plain", directory)
    expected = bad.contents(path)
    for at, name in bad.points(directory):
        with bad.unmounted_at_the_end(at):
            done = tools.run("sh", "-c", 'out=$("$0" -o ro "$1" "$2" 2>&1); echo "[$?$out]"',
                             run.program(), path, at, env={run.MARK: run.directory})
            check_equal(done.stdout, "[0]\n", "status and output")
            bad.check_disk(at, name, expected)


@contextlib.contextmanager
def with_pipe(*arguments, at, foreground=False):
    """A mount whose daemon was started with a pipe's end; the other end."""
    ours, its = os.pipe()
    try:
        with bad.unmounted_at_the_end(at):
            process = run.start([run.program(), *(["-f"] if foreground else []), "-o", "ro", *arguments, at],
                                pass_fds=(its,), stdin=subprocess.DEVNULL)
            os.close(its)
            its = -1
            if foreground:
                bad.wait_for(lambda: mount.is_mounted(at), "it is mounted")
            else:
                check_equal(process.wait(tools.TIMEOUT), 0, "the status")
            os.set_blocking(ours, False)
            yield ours
        process.wait(tools.TIMEOUT)
    finally:
        os.close(ours)
        if its >= 0:
            os.close(its)


@suite.test("in the background a daemon lets go of what it was started with; in the foreground it keeps it")
def _(directory):
    path, at = bad.sample("plain", directory), bad.mount_point(directory)
    expected = bad.contents(path)
    with with_pipe(path, at=at) as pipe:
        bad.wait_for(lambda: bad.is_at_end(pipe), "the pipe is let go of")
        bad.check_disk(at, "", expected)
    with with_pipe(path, at=at, foreground=True) as pipe:
        bad.check_disk(at, "", expected)
        check(not bad.is_at_end(pipe), "the pipe is let go of")
    bad.wait_for(lambda: not run.processes(run.directory), "no daemon runs")


@suite.test("an image and a descriptor to be told on, handed over, do their work in the background")
def _(directory):
    path, at = bad.sample("plain", directory), bad.mount_point(directory)
    expected = bad.contents(path)
    with open(path, "rb") as file, bad.unmounted_at_the_end(at):
        ours, its = os.pipe()
        process = run.start([run.program(), "-o", "ro", "--ready-fd=%d" % its, "/dev/fd/%d" % file.fileno(),
                             at], pass_fds=(its, file.fileno()), stdin=subprocess.DEVNULL)
        os.close(its)
        with open(ours, "rb") as told:
            check_equal(told.read(), b"\n", "what is told, to its end")
        check_equal(process.wait(tools.TIMEOUT), 0, "the status")
        bad.check_disk(at, "", expected)


@suite.test("a failure in the background is told by status and sentence too")
def _(directory):
    path, at = bad.sample("plain", directory), bad.mount_point(directory)
    os.truncate(path, 1000)
    done = tools.run("sh", "-c", 'out=$("$0" "$1" "$2" 2>&1); echo "$?$out"', run.program(), path,
                     at)
    check(done.stdout.startswith("1qcow2fs: " + path), "it says %r", done.stdout)
    check(not run.daemons(run.directory), "a daemon runs")


@suite.test("the daemon is a leader of its own session, at home in /, without the caller's files")
def _(directory):
    path, at = bad.sample("plain", directory), bad.mount_point(directory)
    with mount.mount(path, *mount.seen(), at=at, foreground=False, cwd=directory) as mounted:
        pid = mounted.pids[0]
        check_equal(os.getsid(pid), pid, "its session")
        check_equal(os.readlink("/proc/%d/cwd" % pid), "/", "its working directory")
        for name in os.listdir("/proc/%d/fd" % pid):
            target = os.readlink("/proc/%d/fd/%s" % (pid, name))
            check(target in ("/dev/null", "/dev/fuse", path) or
                  target.startswith(("anon_inode:", "socket:", "pipe:", "/run/qcow2fs",
                                     "/run/user/", "/tmp/qcow2fs-", "/sys/devices/virtual/bdi/")),
                  "it has %s open", target)


def ends_by(number, foreground):
    how = "in the foreground" if foreground else "in the background"

    @suite.test("%s ends the daemon %s: no mount, no process, status 0"
                % (signal.Signals(number).name, how))
    def _(directory):
        path = bad.sample("plain", directory)
        before = compare.Unchanged(path)
        for at, name in bad.points(directory):
            with mount.mount(path, at=at, directory=bool(name),
                             foreground=foreground) as mounted:
                with open(mounted.disk, "rb") as file:
                    file.read(MiB)
                os.kill(mounted.pids[0], number)
                bad.wait_gone(at)
                mounted.wait()
                check_equal(mounted.stderr(), "", "what it said")
        before.check()


for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    for where in (True, False):
        ends_by(each, where)


# --- unmounting -----------------------------------------------------------------------------------


@suite.test("umount, and fusermount3 -u, end the daemon", needs=[tools.tool("fusermount3")])
def _(directory):
    path = bad.sample("plain", directory)
    for command in (["umount"], ["fusermount3", "-u"]):
        for foreground in (True, False):
            for at, name in bad.points(directory):
                if command[0] == "umount" and os.geteuid() != 0:
                    continue
                with mount.mount(path, at=at, directory=bool(name),
                                 foreground=foreground) as mounted:
                    check_equal(os.path.getsize(mounted.disk), bad.SIZE, "the size")
                    tools.run(*command, at)
                    mounted.wait()
                check(not mount.is_mounted(at), "still mounted")


@suite.test("while a loop device uses the disk umount says EBUSY; detached, it works",
            needs=[tools.loop])
def _(directory):
    path = bad.sample("plain", directory)
    expected = bad.contents(path)
    for at, name in bad.points(directory):
        with mount.mount(path, at=at, directory=bool(name)) as mounted:
            with mount.loop_device(mounted.disk) as device:
                done = tools.run("umount", at, status=None)
                check(done.returncode != 0 and "busy" in done.stderr, "umount said %r",
                      done.stderr)
                with open(device, "rb") as file:
                    compare.check_bytes(file.read(), expected, 0)
                if os.geteuid() == 0:
                    done = tools.run("fusermount3", "-u", at, status=None)
                    check(done.returncode != 0, "fusermount3 -u succeeded")
                check(mount.is_mounted(at), "it was unmounted")
            tools.run("umount", at)
            mounted.wait()


@suite.test("an open file, and a working directory, keep the mount busy, not forever")
def _(directory):
    path = bad.sample("plain", directory)
    with mount.mount(path, directory=True) as mounted:
        with open(mounted.disk, "rb") as file:
            check(not run.unmount(mounted.path), "it was unmounted under an open file")
            check_equal(len(file.read()), bad.SIZE, "the bytes read")
        sleeper = subprocess.Popen(["sleep", "60"], cwd=mounted.path)
        try:
            check(not run.unmount(mounted.path), "it was unmounted under a working directory")
        finally:
            sleeper.kill()
            sleeper.wait()
        check(run.unmount(mounted.path), "it cannot be unmounted")
        mounted.wait()


@suite.test("a signal while a file is open ends the daemon; the reader gets an error, no hang")
def _(directory):
    path = bad.sample("plain", directory)
    with mount.mount(path) as mounted:
        with open(mounted.disk, "rb", buffering=0) as file:
            check_equal(len(file.read(4096)), 4096, "the bytes read")
            os.kill(mounted.pids[0], signal.SIGTERM)
            bad.wait_for(lambda: not mount.is_mounted(mounted.path), "unmounted")
            compare_error = None
            try:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                os.pread(file.fileno(), 4096, MiB)
            except OSError as error:
                compare_error = error.errno
            check(compare_error in (None, 5, 103, 107), "errno %s", compare_error)
        mounted.wait()


@suite.test("mounted and unmounted fifty times, nothing is left")
def _(directory):
    path, at = bad.sample("plain", directory), bad.mount_point(directory)
    for number in range(50):
        with mount.mount(path, at=at, foreground=bool(number % 2)):
            if number % 5:
                check_equal(os.path.getsize(at), bad.SIZE, "the size")
    check(not run.daemons(run.directory), "a daemon is left")


# --- names ----------------------------------------------------------------------------------------

NAMES = ["a b", "a,b", "a\\b", "a\\,b", "a\\040b", "a=b", ",", "-f", "ünïcödé", "a\tb", "a'b\"c",
         "a:b", "a#b", "%s%n", "\udcff\udc80"]


@suite.test("images and mount points of any name are mounted and unmounted")
def _(directory):
    path = bad.sample("plain", directory)
    expected = bad.contents(path)
    for name in NAMES:
        place = os.path.join(directory, name)
        os.mkdir(place)
        named = os.path.join(place, name + ".qcow2")
        os.link(path, named)
        for at in (os.path.join(place, name), os.path.join(place, name + ".dir")):
            if at.endswith(".dir"):
                os.mkdir(at)
            with mount.mount(named, at=bad.mount_point(place, name) if not at.endswith(".dir")
                             else at, directory=at.endswith(".dir")) as mounted:
                bad.check_disk(mounted.disk, "", expected)
        os.unlink(named)


@suite.test("relative names work from where the program is started, a leading - behind --")
def _(directory):
    path = bad.sample("plain", directory)
    expected = bad.contents(path)
    below = os.path.join(directory, "below")
    os.mkdir(below)
    for relative, at in (("../image.qcow2", "disk"), ("./../below/../image.qcow2", "./d/../disk"),
                         ("../image.qcow2", "-o")):
        os.makedirs(os.path.join(below, "d"), exist_ok=True)
        full = bad.mount_point(below, os.path.basename(at))
        with bad.unmounted_at_the_end(full):
            done = bad.start_and_end("-o", "ro", "--", relative, at, cwd=below)
            check_equal((done.returncode, done.stderr), (0, ""), "how it ended")
            bad.check_disk(full, "", expected)
            check_equal(bad.mount_table(full)[0], path, "the source in the mount table")


@suite.test("options behind the image and the mount point count, as mount.fuse writes them")
def _(directory):
    path, at = bad.sample("plain", directory), bad.mount_point(directory)
    with bad.unmounted_at_the_end(at):
        done = bad.start_and_end(path, at, "-o", "ro", "-o", "fsname=some\\,thing,subtype=other")
        check_equal((done.returncode, done.stderr), (0, ""), "how it ended")
        check_equal(bad.mount_table(at)[:2], ("some,thing", "fuse.other"), "the mount table")


@suite.test("a mount point in a symbolic link's place is where the link leads")
def _(directory):
    path = bad.sample("plain", directory)
    real = bad.mount_point(directory, "real")
    link = os.path.join(directory, "link")
    os.symlink("real", link)
    image_link = os.path.join(directory, "image-link")
    os.symlink(path, image_link)
    with bad.unmounted_at_the_end(real):
        check_equal(bad.start_and_end("-o", "ro", image_link, link).returncode, 0, "the status")
        check(mount.is_mounted(real), "not mounted there")
        check_equal(os.path.getsize(link), bad.SIZE, "the size")


# --- owners and permissions -----------------------------------------------------------------------


def modes(top):
    """(uid, gid, permissions) of the disk, and of the directory around it."""
    found = []
    for path in (os.path.join(top, "disk.raw"), top):
        status = os.stat(path)
        found.append((status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)))
    return found


@suite.test("owner, group and permissions are those of the image, without those to write",
            needs=[tools.root])
def _(directory):
    path = bad.sample("plain", directory)
    for mode, disk, around in ((0o644, 0o444, 0o555), (0o600, 0o400, 0o500), (0o640, 0o440, 0o550),
                               (0o777, 0o444, 0o555), (0o000, 0o400, 0o500), (0o222, 0o400, 0o500)):
        os.chmod(path, mode)
        os.chown(path, 12, 34)
        with mount.mount(path, directory=True) as mounted:
            check_equal(modes(mounted.path), [(12, 34, disk), (12, 34, around)],
                        "with an image of mode %o" % mode)


@suite.test("uid, gid, mode and umask are what stat says", needs=[tools.root])
def _(directory):
    path = bad.sample("snapshots", directory)
    os.chmod(path, 0o644)
    owner = (os.getuid(), os.getgid())
    for options, who, disk, around in (
            (["uid=1234", "gid=5678"], (1234, 5678), 0o444, 0o555),
            (["uid=0", "gid=4294967294"], (0, 4294967294), 0o444, 0o555),
            (["mode=640"], owner, 0o440, 0o550), (["mode=0777"], owner, 0o555, 0o555),
            (["mode=0"], owner, 0, 0), (["umask=077"], owner, 0o400, 0o500),
            (["umask=022"], owner, 0o444, 0o555), (["umask=0777"], owner, 0, 0),
            (["mode=664", "umask=007"], owner, 0o440, 0o550)):
        with mount.mount(path, *options, directory=True) as mounted:
            check_equal(modes(mounted.path), [(*who, disk), (*who, around)], "with %r" % options)
            check_equal(modes(os.path.join(mounted.path, "snapshots", "first")),
                        [(*who, disk), (*who, around)], "a snapshot with %r" % options)


@suite.test("others get in only with allow_other, and then as the permissions say",
            needs=[tools.root, tools.tool("setpriv")])
def _(directory):
    path = bad.sample("plain", directory)
    with bad.public_directory() as public:
        at = bad.mount_point(public.path)

        def reads(*command):
            done = tools.run(*bad.user_prefix(bad.NOBODY), *command, at, status=None)
            return done.returncode == 0

        for options, can_stat, can_read in ((["mode=444"], False, False),
                                            (["allow_other", "mode=444"], True, True),
                                            (["allow_other", "mode=400"], True, False),
                                            (["allow_other", "mode=444", "umask=004"], True, False),
                                            (["allow_other", "mode=400", "uid=65534"], True, True),
                                            (["allow_other", "mode=040", "gid=65534"], True, True),
                                            (["allow_other", "mode=004", "gid=65534"], True, False),
                                            (["allow_other=off", "mode=444"], False, False)):
            with mount.mount(path, *options, at=at):
                check_equal((reads("stat"), reads("sha256sum")), (can_stat, can_read),
                            "what others may with %r" % options)


@suite.test("allow_root and allow_other exclude each other")
def _(directory):
    path, at = bad.sample("plain", directory), bad.mount_point(directory)
    done = bad.start_and_end("-f", "-o", "ro,allow_other,allow_root", path, at)
    bad.check_sentence(done.stderr, "allow_root", "allow_other")
    check_equal(done.returncode, 2, "the exit status")


@suite.test("root's mount has its page cache's limits raised, before the first file is open",
            needs=[tools.root])
def _(directory):
    path = bad.sample("plain", directory)
    for at, name in bad.points(directory):
        with mount.mount(path, at=at, directory=bool(name)):
            device = os.stat(at).st_dev
            check_equal(mount.page_cache_limits(device), (128, 1), "those of any FUSE mount")
            shares = mount.dirty_shares_raised(device)
            with open(os.path.join(at, name) if name else at, "rb"):
                read_ahead, share = mount.page_cache_limits(device)
                check(read_ahead == 1024 and share in shares, "with a file open: %d, %d of %r",
                      read_ahead, share, shares)


@suite.test("limits of the page cache that somebody has raised further stay",
            needs=[tools.root])
def _(directory):
    path, at = bad.sample("plain", directory), bad.mount_point(directory)
    with mount.mount(path, at=at):
        device = os.stat(at).st_dev
        with open("/sys/class/bdi/%d:%d/read_ahead_kb" % (os.major(device), os.minor(device)), "w",
                  encoding="ascii") as file:
            file.write("4096")
        shares = mount.dirty_shares_raised(device)
        with open(at, "rb"):
            read_ahead, share = mount.page_cache_limits(device)
            check(read_ahead == 4096 and share in shares, "with a file open: %d, %d of %r",
                  read_ahead, share, shares)
    with mount.mount(path, at=at):
        device = os.stat(at).st_dev
        with open("/sys/class/bdi/%d:%d/max_ratio" % (os.major(device), os.minor(device)), "w",
                  encoding="ascii") as file:
            file.write("7")
        with open(at, "rb"):
            check_equal(mount.page_cache_limits(device), (1024, 7), "with a file open")


@contextlib.contextmanager
def killed(directory, at_directory, foreground):
    """A mount with auto_unmount whose daemon has been killed: where it was."""
    path = bad.sample("plain", directory)
    at, _name = list(bad.points(directory))[at_directory]
    with mount.mount_that_ends_badly(path, "auto_unmount", at=at, directory=at_directory,
                                     foreground=foreground) as mounted:
        check_equal(os.path.getsize(mounted.disk), bad.SIZE, "the size")
        os.kill(mounted.pids[0], signal.SIGKILL)
        bad.wait_for(mounted.has_ended, "the daemon's end")
        yield at


@suite.test("auto_unmount takes the mount away when the daemon is killed, and nothing else stays")
def _(directory):
    for at_directory in (False, True):
        for foreground in (True, False):
            with killed(directory, at_directory, foreground) as at:
                bad.wait_gone(at)


@suite.test("with a file open in it, too; without auto_unmount the dead mount stays")
def _(directory):
    path, at = bad.sample("plain", directory), bad.mount_point(directory)
    for options in (("auto_unmount",), ()):
        with mount.mount_that_ends_badly(path, *options, at=at) as mounted:
            with open(at, "rb", buffering=0) as file:
                check_equal(len(file.read(4096)), 4096, "the bytes read")
                os.kill(mounted.pids[0], signal.SIGKILL)
                bad.wait_for(mounted.has_ended, "the daemon's end")
                bad.wait_for(lambda: not run.processes(run.directory), "the steward's end")
                check_equal(mount.is_mounted(at), not options, "whether it is mounted")
            check_equal(run.unmount(at), not options, "whether it can be unmounted")


@suite.test("what has come to lie on top of a mount meanwhile stays when its daemon is killed",
            needs=[tools.root])
def _(directory):
    path, at = bad.sample("plain", directory), os.path.join(directory, "dir")
    os.mkdir(at)
    with mount.mount_that_ends_badly(path, "auto_unmount", at=at, directory=True) as mounted:
        tools.run("mount", "-t", "tmpfs", "on-top", at)
        try:
            os.kill(mounted.pids[0], signal.SIGKILL)
            bad.wait_for(mounted.has_ended, "the daemon's end")
            bad.wait_for(lambda: not run.processes(run.directory), "the steward's end")
            check_equal(bad.mount_table(at)[0], "on-top", "what is mounted there")
        finally:
            tools.run("umount", at)
            check(run.unmount(at), "what lies below it cannot be unmounted")


if __name__ == "__main__":
    suite.main()
