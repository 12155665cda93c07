#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The harness itself: its comparisons notice, its nets hold, its output is TAP."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import time

from lib import compare, image, mount, qcow2, run, tap, tools, tree
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite()


def fails(function, *arguments, error=AssertionError):
    """What the function raises; fails when it raises nothing."""
    try:
        function(*arguments)
    except error as raised:
        return str(raised)
    raise RuntimeError("%s noticed nothing" % function.__name__)


# --- comparisons ----------------------------------------------------------------------


def two_files(directory, size=5 * MiB + 777):
    paths = [os.path.join(directory, name) for name in ("actual", "expected")]
    data = random.Random(1).randbytes(size)
    for path in paths:
        with open(path, "wb") as file:
            file.write(data)
    return paths


def flip(path, position):
    with open(path, "r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 0x10]))


@suite.test("one byte flipped anywhere is found by the comparison of files")
def _(directory):
    actual, expected = two_files(directory)
    size = os.path.getsize(expected)
    compare.check_files(actual, expected)
    for position in (0, 1, MiB - 1, MiB, 3 * MiB + 5, size - 1):
        flip(actual, position)
        told = fails(compare.check_files, actual, expected)
        check("at byte %d " % position in told, "byte %d, and it said: %s", position, told)
        flip(actual, position)
    compare.check_files(actual, expected)


@suite.test("a byte too many or too few is found by the comparison of files")
def _(directory):
    actual, expected = two_files(directory)
    os.truncate(actual, os.path.getsize(expected) - 1)
    fails(compare.check_files, actual, expected)
    os.truncate(actual, os.path.getsize(expected) + 1)
    fails(compare.check_files, actual, expected)
    fails(compare.check_files, expected, actual)


@suite.test("a page that is wrong is found by each of the random reads")
def _(directory):
    actual, expected = two_files(directory, size=600 * KiB)
    checks = (compare.check_random_preads, compare.check_direct_reads, compare.check_mapped_reads)
    for function in checks:
        function(actual, expected)
    flip(actual, 300 * KiB)
    for function in checks:
        fails(function, actual, expected)


def one_layer(path, granularity=64 * KiB):
    return [image.Layer(path, "qcow2", path, granularity)]


@suite.test("data where none is mapped, and a hole where the host has data, are found")
def _(directory):
    host = os.path.join(directory, "host")
    with open(host, "wb") as file:
        file.write(b"x" * 192 * KiB)
        file.truncate(320 * KiB)
    layers = one_layer(host)
    mapped = [image.MapExtent(0, 64 * KiB, 0, True, 0),
              image.MapExtent(64 * KiB, 64 * KiB, 0, False, None),
              image.MapExtent(128 * KiB, 128 * KiB, 0, True, 128 * KiB)]
    size = 256 * KiB
    good = [(0, 64 * KiB), (128 * KiB, 256 * KiB)]
    compare.check_holes(good, mapped, layers, size)
    # 192 to 256 KiB are mapped to a hole of the host: both answers are right there.
    compare.check_holes([(0, 64 * KiB), (128 * KiB, 192 * KiB)], mapped, layers, size)
    for wrong in ([(0, 256 * KiB)],
                  [(0, 64 * KiB + 512), (128 * KiB, 256 * KiB)],
                  [(0, 64 * KiB)],
                  [(0, 64 * KiB), (128 * KiB + 512, 256 * KiB)],
                  [(0, 64 * KiB), (128 * KiB, 192 * KiB + 512)],
                  []):
        fails(compare.check_holes, wrong, mapped, layers, size)


@suite.test("preallocated space never written counts as a hole of the host",
            needs=[tools.tool("fallocate")])
def _(directory):
    path = os.path.join(directory, "host")
    tools.run("fallocate", "-l", str(MiB), path)
    check_equal(image.host_data(path), [], "the data of an empty file")
    with open(path, "r+b") as file:
        file.seek(256 * KiB)
        file.write(b"x" * 64 * KiB)
    check_equal(image.host_data(path), [(256 * KiB, 320 * KiB)], "the data of the file")


@suite.test("a touched, changed or merely read file is found by Unchanged")
def _(directory):
    path = os.path.join(directory, "file")
    with open(path, "wb") as file:
        file.write(b"x" * 100000)
    before = compare.Unchanged(path)
    before.check()
    compare.sha256(path)
    if os.stat(path).st_atime_ns != before.before(path)["atime"]:  # not on a noatime mount
        check("atime" in fails(before.check), "the access time was not compared")
    before = compare.Unchanged(path)
    modified = os.stat(path).st_mtime_ns
    flip(path, 5)
    os.utime(path, ns=(modified - 3600 * 10**9, modified))
    check("sha256" in fails(before.check), "the bytes were not compared")
    before = compare.Unchanged(path)
    os.utime(path)
    check("mtime" in fails(before.check), "the time was not compared")


@suite.test("a missing, a foreign and a changed file are found in the tree",
            needs=[tools.MKE2FS, tools.loop])
def _(directory):
    source = tree.source(tree.SMALL)
    copy = os.path.join(directory, "copy")
    with mount.loop_device(source.raw) as device, mount.file_system(device) as top:
        check(tree.check_tree(top, source.manifest) >= tree.SMALL.files, "too few files")
        tools.run("cp", "-a", top, copy)
    tree.check_tree(copy, source.manifest)
    victim = os.path.join(copy, "made", "random-1")
    flip(victim, 1000)
    check("random-1" in fails(tree.check_tree, copy, source.manifest), "not the file that changed")
    flip(victim, 1000)
    os.rename(victim, victim + "x")
    check("random-1" in fails(tree.check_tree, copy, source.manifest), "not the missing file")
    os.rename(victim + "x", victim)
    tree.check_tree(copy, source.manifest)


@suite.test("sanitizer reports are found in what a daemon said")
def _(_directory):
    for report in ("==1==ERROR: AddressSanitizer: heap-use-after-free", "a.c:1:2: runtime error: x",
                   "WARNING: ThreadSanitizer: data race"):
        fails(mount._check_reports, "before\n%s\nafter" % report, error=mount.DaemonFailed)
    mount._check_reports("a backing file is missing")


# --- running programs ------------------------------------------------------------------


@suite.test("a program that fails or hangs fails the test, with its output")
def _(_directory):
    told = fails(tools.run, "sh", "-c", "echo was broken >&2; exit 3", error=tools.CommandFailed)
    check("was broken" in told and "status 3" in told, "it said: %s", told)
    started = time.monotonic()
    try:
        tools.run("sleep", "100", timeout=0.2)
    except tools.CommandFailed:
        check(time.monotonic() - started < 50, "the time limit was not kept")
    else:
        raise RuntimeError("a program that hangs was waited for")


def run_file(directory, text, words=(), wait=True, **environment):
    """Runs a test file with this text; (status, output) or the running process."""
    path = os.path.join(directory, "test-inner.py")
    with open(path, "w", encoding="ascii") as file:
        file.write("import os, sys, time\nsys.path.insert(0, %r)\n"
                   "from lib import mount, run, tap, tools\nsuite = tap.Suite()\n"
                   % os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        file.write(textwrap.dedent(text))
        file.write("\nsuite.main()\n")
    values = tools.environment(QCOW2FS_TMP=os.path.join(directory, "tmp"), QCOW2FS="/bin/true")
    values.pop("CI", None)
    values.update(environment)
    process = subprocess.Popen([sys.executable, path, *words], stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, env=values, encoding="utf-8")
    if not wait:
        return process
    output = process.communicate(timeout=tools.TIMEOUT)[0]
    return process.returncode, output


INNER = """
    @suite.test("one is fine")
    def _(directory):
        assert os.path.isdir(directory)

    @suite.test("two fails")
    def _(directory):
        tap.check(False, "value %d\\nand a second line", 7)

    @suite.test("three has no tool", needs=[tools.tool("qcow2fs-no-such-tool")])
    def _(directory):
        raise RuntimeError

    @suite.test("four goes on")
    def _(directory):
        pass
"""


@suite.test("a failed test is reported with its reason, and the rest go on")
def _(directory):
    status, output = run_file(directory, INNER)
    lines = output.splitlines()
    check_equal(lines[0], "1..4", "the plan")
    check_equal([line for line in lines if not line.startswith("#")][1:],
                ["ok 1 - one is fine", "not ok 2 - two fails",
                 "ok 3 - three has no tool # SKIP no qcow2fs-no-such-tool here",
                 "ok 4 - four goes on"], "the results")
    check("value 7" in output and "\n# and a second line\n" in output, "no reason: %s", output)
    check_equal(status, 1, "the exit status")


@suite.test("what would be skipped fails in CI")
def _(directory):
    output = run_file(directory, INNER, CI="true")[1]
    check("not ok 3 - three has no tool\n" in output, "it said: %s", output)


@suite.test("words choose among the tests")
def _(directory):
    status, output = run_file(directory, INNER, words=["four"])
    check("1..1" in output and "ok 1 - four goes on" in output, "it said: %s", output)
    check_equal(status, 0, "the exit status")


@suite.test("a group whose preparation or end fails is reported line by line")
def _(directory):
    output = run_file(directory, """
        import contextlib
        @contextlib.contextmanager
        def broken(directory):
            raise RuntimeError("cannot be made")
            yield
        group = suite.group("A", broken, "ends well")
        group.test("is read", lambda state: None)
        group.after("is unchanged", lambda state: None)

        @contextlib.contextmanager
        def bad_end(directory):
            yield directory
            raise RuntimeError("ended badly")
        group = suite.group("B", bad_end, "ends well")
        group.test("is read", lambda state: None)
        group.after("is unchanged", lambda state: None)
    """)[1]
    check_equal([line for line in output.splitlines() if "ok " in line and line[0] != "#"],
                ["not ok 1 - A: is read", "not ok 2 - A: ends well", "not ok 3 - A: is unchanged",
                 "ok 4 - B: is read", "not ok 5 - B: ends well", "ok 6 - B: is unchanged"],
                "the results")
    check("cannot be made" in output and "ended badly" in output, "no reasons: %s", output)


HANGING = """
    @suite.test("hangs")
    def _(directory):
        raw = os.path.join(directory, "raw")
        tools.run("mke2fs", "-q", "-t", "ext4", raw, "4m")
        with mount.loop_device(raw) as device, mount.file_system(device, options="ro") as top:
            child = run.start(["sleep", "1000"])
            print("# ready %s %s %d %s" % (top, device, child.pid, run.directory), flush=True)
            time.sleep(1000)
"""


def killed_by(number, directory):
    """What is left of a test that was killed by that signal while it had all sorts of things."""
    process = run_file(directory, HANGING, wait=False)
    for line in process.stdout:
        if line.startswith("# ready"):
            break
    else:
        raise AssertionError("the test did not start")
    top, device, child, inner = line.split()[2:]
    check(mount.is_mounted(top), "no mount to be undone")
    behind = mount.behind_loop(device)
    check(behind is not None, "no loop device to be undone")
    process.send_signal(number)
    process.communicate(timeout=tools.TIMEOUT)
    deadline = time.monotonic() + tools.TIMEOUT
    left = ["everything"]
    while left and time.monotonic() < deadline:
        left = [what for what, there in (
            ("mount", mount.is_mounted(top)),
            ("loop device", mount.behind_loop(device) == behind),
            ("directory", os.path.exists(inner)),
            ("process", os.path.exists("/proc/%s/fd" % child)
             and int(child) in run.daemons(inner))) if there]
        time.sleep(0.05)
    return left


for name in ("SIGTERM", "SIGINT", "SIGKILL"):
    @suite.test("a test killed by %s leaves no mount, device, process or directory" % name,
                needs=[tools.MKE2FS, tools.loop])
    def _(directory, name=name):
        check_equal(killed_by(getattr(signal, name), directory), [], "what is left")


@suite.test("a daemon that does not end is killed, and the test fails")
def _(directory):
    mounted = mount.Mount("image", os.path.join(directory, "mnt"), (), False, True, (), None, False)
    mounted._process = run.start(["sleep", "1000"])
    mounted.pids = [mounted._process.pid]
    with open(os.path.join(mounted._logs, "stderr"), "wb"):
        pass
    kept, mount.END_SECONDS = mount.END_SECONDS, 0.2
    try:
        told = fails(mounted.stop, error=mount.DaemonFailed)
    finally:
        mount.END_SECONDS = kept
    check("still ran" in told, "it said: %s", told)
    check_equal(mounted._process.poll(), -signal.SIGKILL, "its status")


@suite.test("a test that takes too long loses its daemons")
def _(directory):
    status, output = run_file(directory, """
        @suite.test("waits for a daemon that hangs")
        def _(directory):
            tap.check_equal(run.start(["sleep", "1000"]).wait(), -9, "the status")
    """, QCOW2FS_TEST_SECONDS="0.3")
    check_equal(status, 0, "the exit status (%s)" % output)


# --- editing images -----------------------------------------------------------------------


@suite.test("the fields of an image are those that qemu-img tells", needs=[tools.QEMU])
def _(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), 10 * MiB, cluster_size="4k",
                        refcount_bits="2", backing="base.raw", backing_format="raw")
    with qcow2.Qcow2(path) as opened:
        check_equal(opened["magic"], qcow2.MAGIC, "magic")
        check_equal(opened["virtual_size"], 10 * MiB, "virtual_size")
        check_equal(opened.cluster_size, 4096, "cluster size")
        check_equal(opened["refcount_order"], 1, "refcount_order")
        check_equal(opened.backing_file(), b"base.raw", "backing file")
        check_equal(opened.extension(qcow2.EXTENSION_BACKING_FORMAT).data, b"raw", "format")
        check_equal(opened.refcount(0), 1, "refcount of the header")
        opened.append_extension(0x12121212, b"abc")
        opened.remove_extension(qcow2.EXTENSION_BACKING_FORMAT)
        kept = [old.type for old in opened.extensions()]
        check_equal(kept[-1], 0x12121212, "the last extension")
        check(qcow2.EXTENSION_BACKING_FORMAT not in kept, "the format is still there")
    told = image.info(path)
    check_equal(told["backing-filename"], "base.raw", "the name after the edit")
    check("backing-filename-format" not in told, "the format is still there")
    with qcow2.Qcow2(path) as opened:
        opened.set_backing_file(None)
    check("backing-filename" not in image.info(path), "the name is still there")
    with qcow2.Qcow2(path) as opened:
        opened.set_backing_file(b"other.raw")
        opened.append_extension(qcow2.EXTENSION_BACKING_FORMAT, b"raw")
    told = image.info(path)
    check_equal(told["backing-filename"], "other.raw", "the new name")
    check_equal(told["backing-filename-format"], "raw", "the new format")


@suite.test("L2 entries and refcounts are found where qemu-img put them", needs=[tools.QEMU])
def _(directory):
    for options in ({"cluster_size": "4k"}, {"refcount_bits": "1"}, {"extended_l2": "on"},
                    {"compat": "0.10"}, {"refcount_bits": "64"}):
        path = image.create(os.path.join(directory, "image.qcow2"), 10 * MiB, **options)
        image.io(path, image.write(5 * MiB, 2048, 1))
        with qcow2.Qcow2(path) as opened:
            entry = opened.l2_entry(5 * MiB)
            host = entry & qcow2.HOST_OFFSET_MASK
            check(entry & qcow2.COPIED, "the entry is %x", entry)
            compare.check_bytes(opened.read(host, 2048), image.pattern(2048, 1), host)
            check_equal(opened.refcount(host), 1, "the refcount")
            if opened.extended_l2:
                check_equal(opened.l2_bitmap(5 * MiB), 1, "the bitmap")
            opened.set_refcount(host, 0)
        told = tools.run("qemu-img", "check", path, status=None)
        check("refcount=0" in told.stdout + told.stderr, "qemu-img check finds nothing wrong")
        with qcow2.Qcow2(path) as opened:
            opened.set_refcount(host, 1)
        tools.run("qemu-img", "check", path)
        with qcow2.Qcow2(path) as opened:
            opened.set_l2_entry(5 * MiB, 0)
        if options != {"extended_l2": "on"}:
            extents = image.allocation_map(path)
            check(not any(extent.data for extent in extents), "still mapped")


@suite.test("compressed descriptors, snapshots and bitmaps are edited where they are",
            needs=[tools.QEMU])
def _(directory):
    path = image.create(os.path.join(directory, "image.qcow2"), 10 * MiB)
    image.io(path, "write -q -c -P 7 0 64k")
    for name in ("one", "number two"):
        tools.run("qemu-img", "snapshot", "-c", name, path)
        tools.run("qemu-img", "bitmap", "--add", path, "bitmap of " + name)
    with qcow2.Qcow2(path) as opened:
        host, sectors = opened.compressed_descriptor(0)
        before = opened.l2_entry(0)
        opened.set_compressed_descriptor(0, host, sectors)
        check_equal(opened.l2_entry(0), before, "the entry written back")
        check_equal([entry.name for entry in opened.snapshots()], [b"one", b"number two"], "names")
        check_equal(opened.snapshot_field(1, "extra_disk_size"), 10 * MiB, "its disk size")
        check_equal(opened.bitmaps_field("nb_bitmaps"), 2, "the bitmaps")
        check_equal(opened.bitmap_field(1, "granularity_bits"), 16, "its granularity")
        opened.set_bitmap_field(1, "granularity_bits", 20)
    bitmaps = image.info(path)["format-specific"]["data"]["bitmaps"]
    check_equal([bitmap["granularity"] for bitmap in bitmaps], [65536, MiB], "granularities")


if __name__ == "__main__":
    suite.main()
