#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What check and the audit say of a LUKS header; what needs no key; Ctrl-C while keys are derived."""

import json
import os
import signal
import subprocess
import time

from lib import compare, ctl, encrypted, infos, qcow2, run, tap, tools
from lib.checks import CLEAN, ERRORS
from lib.image import MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.QEMU])
KEY = b"the key"
SLOTS, SLOT = 208, 48  # where the slots are in the header, and how long each is
STATE, ITERATIONS, KEY_OFFSET, STRIPES = 0, 4, 40, 44  # fields of a slot
PAYLOAD = 104


def make(directory, name="image.qcow2"):
    """The path of an image, and of its key."""
    key = encrypted.key_file(directory, "key", KEY)
    return encrypted.template(os.path.join(directory, name), MiB, key), key


class Header:
    """The LUKS header of an image, to be changed."""

    def __init__(self, path):
        self.path = path
        with qcow2.Qcow2(path) as opened:
            place = opened.extension(qcow2.EXTENSION_ENCRYPTION).position + 8
            self.offset = opened.number(place, 8)

    def put(self, at, number):
        with open(self.path, "r+b") as file:
            file.seek(self.offset + at)
            file.write(number.to_bytes(4, "big"))

    def get(self, at):
        with open(self.path, "rb") as file:
            file.seek(self.offset + at)
            return int.from_bytes(file.read(4), "big")

    def put_slot(self, slot, field, number):
        self.put(SLOTS + slot * SLOT + field, number)

    def get_slot(self, slot, field):
        return self.get(SLOTS + slot * SLOT + field)

    def activate(self, slot, key_offset=None):
        """As slot 0 is; it opens nothing."""
        self.put_slot(slot, STATE, self.get_slot(0, STATE))
        self.put_slot(slot, ITERATIONS, self.get_slot(0, ITERATIONS))
        self.put_slot(slot, STRIPES, self.get_slot(0, STRIPES))
        if key_offset is not None:
            self.put_slot(slot, KEY_OFFSET, key_offset)


def overlap(header):
    header.activate(3, header.get_slot(0, KEY_OFFSET) + 1)


def in_header(header):
    header.put_slot(0, KEY_OFFSET, 1)


def behind_area(header):
    header.activate(7, 1 << 20)


def in_payload(header):
    header.put(PAYLOAD, header.get_slot(0, KEY_OFFSET) + 2)


def payload_in_header(header):
    header.put(PAYLOAD, 1)


def no_iteration(header):
    header.put_slot(0, ITERATIONS, 0)


def few_iterations(header):
    header.put_slot(0, ITERATIONS, 999)


def unknown_state(header):
    header.put_slot(5, STATE, 77)


def none_left(header):
    header.put_slot(0, STATE, 0xDEAD)


def no_header(header):
    header.put(0, 0)


FAULTS = ((overlap, "error", "key slots 0 and 3 overlap"),
          (in_header, "error", "key slot 0 cannot be used: its key material would lie in the header"),
          (behind_area, "error", "key slot 7 cannot be used: its key material does not lie within"),
          (in_payload, "error", "overlaps the payload"),
          (payload_in_header, "error", "its payload would begin at byte 512, inside the header"),
          (no_iteration, "error", "key slot 0 cannot be used: it asks for no iteration"),
          (no_header, "error", "there is no LUKS header of version 1"),
          (few_iterations, "note", "key slot 0 has 999 iterations, fewer than 1000"),
          (unknown_state, "note", "key slot 5 has the unknown state 0x0000004d"),
          (none_left, "note", "no key slot is in use"))


def faulty(change, kind, words):
    @suite.test("check and audit tell: " + words)
    def _(directory):
        path = make(directory)[0]
        status = ERRORS if kind == "error" else CLEAN
        change(Header(path))
        before = compare.sha256(path)
        found = json.loads(ctl.ctl("check", "--json", path, status=status).stdout)
        check(any(each["kind"] == kind and words in each["text"] for each in found["findings"]),
              "check found %s", found)
        check_equal("corruptions" in found, kind == "error", "that it is counted")
        text = ctl.ctl("check", path, status=status).stdout
        check(kind + ": encryption header: " in text and words in text, "it said %s", text)
        check_equal("in order" in text, kind != "error", "that it is in order")
        graded = [each for each in infos.json_info(path, "--audit", status=None)["audit"]
                  if words in each["text"]]
        check_equal([each["grade"] for each in graded],
                    ["danger" if kind == "error" else "warning"], "the grades in the audit")
        check_equal(compare.sha256(path), before, "the image")


for fault in FAULTS:
    faulty(*fault)


@suite.test("a header that QEMU made, with one slot and with eight, has nothing to tell")
def _(directory):
    path, key = make(directory)
    encrypted.check_clean(path, key)
    check("findings" not in json.loads(ctl.ctl("check", "--json", path).stdout), "a finding")
    header = Header(path)
    for slot in range(1, 8):
        header.activate(slot)
    encrypted.check_clean(path, key)
    check("findings" not in json.loads(ctl.ctl("check", "--json", path).stdout), "a finding")
    codes = {each["code"] for each in infos.json_info(path, "--audit")["audit"]}
    check(not any(code.startswith("encryption-header") for code in codes), "the audit: %s", codes)


@suite.test("with an error in the LUKS header the rest is repaired, and the dirty mark taken away")
def _(directory):
    path = make(directory)[0]
    overlap(Header(path))
    with qcow2.Qcow2(path) as opened:
        opened.set_refcount(opened.end() + 3 * opened.cluster_size, 1)
        opened["incompatible_features"] |= 1
        opened.file.truncate(opened.end() + 4 * opened.cluster_size)
    text = ctl.ctl("check", "--repair=all", path, status=ERRORS).stdout
    check("1 leaked cluster" in text and "No repair mends an encryption header" in text,
          "it said %s", text)
    check("marked dirty" not in text, "it is dirty: %s", text)


@suite.test("the clusters of the LUKS header are counted as its own")
def _(directory):
    path = make(directory)[0]
    offset = Header(path).offset
    with qcow2.Qcow2(path) as opened:
        opened.set_refcount(offset, 0)
    found = json.loads(ctl.ctl("check", "--json", path, status=ERRORS).stdout)
    check(any("clusters %d to" % (offset >> 16) in each["text"] for each in found["findings"]),
          "check found %s", found)
    ctl.ctl("check", "--repair=all", path)
    with qcow2.Qcow2(path) as opened:
        check_equal(opened.refcount(offset), 1, "the refcount of the header")


# --- Ctrl-C ---------------------------------------------------------------------------------------


def processor_time(pid):
    with open("/proc/%d/stat" % pid) as file:
        fields = file.read().rpartition(")")[2].split()
    return int(fields[11]) / os.sysconf("SC_CLK_TCK")


def end_each_way(directory, *arguments):
    """Runs it, ends it by each signal while it derives a key: all files are as before."""
    def files():
        return {name: compare.sha256(os.path.join(directory, name))
                for name in sorted(os.listdir(directory))}
    before = files()
    for number in (signal.SIGINT, signal.SIGTERM):
        command = run.start([ctl.program(), *arguments], stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=directory)
        while processor_time(command.pid) < 0.3:
            check(command.poll() is None, "it ended")
            time.sleep(0.02)
        command.send_signal(number)
        said = command.communicate(timeout=tools.TIMEOUT)
        check_equal((command.returncode, *said), (-number, "", ""), "status, and what it said")
        check_equal(files(), before, "the files")


@suite.test("create, convert and amend are ended at once by a signal while they derive a key",
            needs=[encrypted.library])
def _(directory):
    path, key = make(directory)
    fresh = encrypted.key_file(directory, "fresh", b"another key")
    hours = "encrypt.iter-time=%d" % (3 * 3600 * 1000)
    end_each_way(directory, "create", "-o", "encrypt.format=luks," + hours, "--key-file=" + key,
                 "new.qcow2", "1G")
    end_each_way(directory, "create", "--force", "-o", "encrypt.format=luks," + hours,
                 "--key-file=" + key, path, "1G")
    end_each_way(directory, "convert", "-o", "encrypt.format=luks," + hours, "--new-key-file=" + fresh,
                 "--key-file=" + key, path, "new.qcow2")
    end_each_way(directory, "amend", "-o", "encrypt.state=active," + hours, "--key-file=" + key,
                 "--new-key-file=" + fresh, path)


@suite.test("rebase -u changes names without a key, and asks for none")
def _(directory):
    path, key = make(directory)
    base = make(directory, "base.qcow2")[0]
    command = [ctl.program(), "rebase", "-q", "-u", "-b", "base.qcow2", "-F", "qcow2", path]
    shown, status = encrypted.at_terminal(command)
    check_equal((shown.strip(), status), (b"", 0), "what it shows, and its status")
    check_equal(infos.json_info(path)["backing-filename"], "base.qcow2", "the name")
    ctl.ctl("rebase", "-q", "-u", "-b", "", path)
    check("backing-filename" not in infos.json_info(path), "it has the name")
    encrypted.check_clean(path, key)
    check(os.path.exists(base), "the base is gone")


def interrupted(name, *arguments):
    @suite.test("%s is ended at once by a signal while it derives a key" % name,
                needs=[encrypted.library])
    def _(directory):
        base, key = make(directory, "base.qcow2")
        path = encrypted.template(os.path.join(directory, "top.qcow2"), MiB, key)
        ctl.ctl("rebase", "-u", "-b", "base.qcow2", "-F", "qcow2", "--key-file=" + key, path)
        Header(base).put_slot(0, ITERATIONS, 0xFFFFFFFF)  # an hour
        end_each_way(directory, *arguments, "--key-file=" + key, "--key-iterations-max=0", path)


interrupted("commit", "commit")
interrupted("rebase", "rebase", "-b", "")


@suite.test("Ctrl-C at the question for a passphrase ends it by SIGINT, without a sentence")
def _(directory):
    key = encrypted.key_file(directory, "key", b"secret")
    path = encrypted.create(os.path.join(directory, "image.qcow2"), MiB, key)
    raw = os.path.join(directory, "raw")
    for command in (["convert", "-O", "raw", path, raw], ["hash", path], ["compare", path, path]):
        script = "trap : INT; stty -a >before; \"$@\"; echo status $?; stty -a >after"
        shown, _ = encrypted.at_terminal(["/bin/bash", "-c", "cd %s; %s" % (directory, script), "bash",
                                          ctl.program(), *command], b"\x03")
        check_equal(shown.split(b": ", 1)[1].split(), [b"status", b"130"], "what it shows")
        modes = []
        for name in ("before", "after"):
            with open(os.path.join(directory, name), encoding="ascii") as file:
                modes.append(file.read())
        check_equal(modes[1], modes[0], "the terminal")
    check(not os.path.exists(raw), "a file was made")


if __name__ == "__main__":
    suite.main()
