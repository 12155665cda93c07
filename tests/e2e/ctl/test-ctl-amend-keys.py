#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""`qcow2ctl amend -o encrypt.*`: keys of LUKS are added, exchanged and erased, as QEMU does it."""

import json
import os

from lib import ctl, encrypted, qcow2, tap, tools
from lib.image import MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.QEMU, encrypted.library])
KEYS = {"one": b"the first", "two": b"the second\n", "three": b"3"}


def make(directory):
    """An image whose disk has a pattern; its path, and those of the keys. `one` opens it."""
    keys = {name: encrypted.key_file(directory, name, data) for name, data in KEYS.items()}
    path = encrypted.template(os.path.join(directory, "image.qcow2"), MiB, keys["one"])
    encrypted.io(path, keys["one"], "write -q -P 7 0 64k")
    return path, keys


def amend(path, words, *arguments, **keywords):
    return ctl.ctl("amend", "-q", "-o", words, *arguments, path, **keywords)


def add(path, keys, opens, fresh, more=""):
    amend(path, "encrypt.state=active,encrypt.iter-time=10" + more, "--key-file=" + keys[opens],
          "--new-key-file=" + keys[fresh])


def theirs(path, keys, words, opens="one"):
    """QEMU's, where secrets are named as the keys are."""
    secrets = [part for name, key in keys.items()
               for part in ("--object", "secret,id=%s,file=%s" % (name, key))]
    return encrypted.quickly("qemu-img", "amend", *secrets, "-o", words, "--image-opts",
                             "driver=qcow2,file.filename=%s,encrypt.key-secret=%s" % (path, opens))


def slots(path):
    """Those in use, as QEMU and we see them."""
    told = json.loads(tools.output("qemu-img", "info", "--output=json", path))
    ours = json.loads(ctl.ctl("info", "--json", path).stdout)
    found = [[number for number, slot in
              enumerate(one["format-specific"]["data"]["encrypt"]["slots"]) if slot["active"]]
             for one in (told, ours)]
    check_equal(found[1], found[0], "the slots that we see")
    return found[0]


def opens(path, keys, *right):
    """These keys open it, for QEMU and for us, and the others do not."""
    for name, key in keys.items():
        done = encrypted.io(path, key, "read -q -P 7 0 64k", status=None)
        check_equal(done.returncode == 0, name in right, "that QEMU opens it with " + name)
        done = ctl.ctl("compare", "-q", "--key-file=" + key, path, path, status=None)
        check_equal(done.returncode == 0, name in right, "that we open it with " + name)


def material(path, slot):
    with open(path, "rb") as file:
        data = file.read()
    at = data.index(b"LUKS\xba\xbe") + 4096 + slot * 258048
    return data[at:at + 256000]


@suite.test("a key is added, by us or by QEMU, and both open the disk with each")
def _(directory):
    path, keys = make(directory)
    add(path, keys, "one", "two")
    check_equal(slots(path), [0, 1], "the slots")
    opens(path, keys, "one", "two")
    done = theirs(path, keys, "encrypt.state=active,encrypt.new-secret=three,encrypt.iter-time=10", "two")
    check_equal(done.returncode, 0, "QEMU's status: " + done.stderr)
    check_equal(slots(path), [0, 1, 2], "the slots")
    opens(path, keys, "one", "two", "three")
    add(path, keys, "three", "two", ",encrypt.keyslot=6")
    check_equal(slots(path), [0, 1, 2, 6], "the slots")
    encrypted.check_clean(path, keys["two"])


@suite.test("a key is erased, of a slot or of all that have it, and its bytes are overwritten")
def _(directory):
    path, keys = make(directory)
    add(path, keys, "one", "two")
    add(path, keys, "one", "two", ",encrypt.keyslot=6")
    before = material(path, 1)
    amend(path, "encrypt.state=inactive", "--old-key-file=" + keys["two"])
    check_equal(slots(path), [0], "the slots")
    opens(path, keys, "one")
    after = material(path, 1)
    check(all(before[at:at + 64] != after[at:at + 64] for at in range(0, 256000, 64)), "it is there")
    add(path, keys, "one", "three")
    amend(path, "encrypt.state=inactive,encrypt.keyslot=0")
    opens(path, keys, "three")
    amend(path, "encrypt.state=inactive,encrypt.keyslot=0")  # as after a power cut in between
    done = theirs(path, keys, "encrypt.state=active,encrypt.new-secret=one,encrypt.iter-time=10", "three")
    check_equal(done.returncode, 0, "QEMU's status: " + done.stderr)
    done = theirs(path, keys, "encrypt.state=inactive,encrypt.old-secret=three", "one")
    check_equal(done.returncode, 0, "QEMU's status: " + done.stderr)
    opens(path, keys, "one")


@suite.test("a key that is added or erased clears autoclear bits that are not known (R6)")
def _(directory):
    path, keys = make(directory)

    def changes(change):
        with qcow2.Qcow2(path) as opened:
            opened["autoclear_features"] |= 1 << 50
        change()
        with qcow2.Qcow2(path) as opened:
            check_equal(opened["autoclear_features"], 0, "the bits")

    changes(lambda: add(path, keys, "one", "two"))
    changes(lambda: amend(path, "encrypt.state=inactive,encrypt.keyslot=0"))
    opens(path, keys, "two")


@suite.test("a key is exchanged: the new one is there before the old one is erased")
def _(directory):
    path, keys = make(directory)
    told = ctl.ctl("amend", "--json", "-o", "encrypt.state=active,encrypt.iter-time=10",
                   "--old-key-file=" + keys["one"], "--new-key-file=" + keys["two"], path)
    check_equal(json.loads(told.stdout)["amended"], {"keyslots-filled": [1], "keyslots-erased": [0]},
                "what it said")
    opens(path, keys, "two")


@suite.test("QEMU's words: secrets by --object")
def _(directory):
    path, keys = make(directory)
    amend(path, "encrypt.state=active,encrypt.iter-time=10,encrypt.key-secret=a,encrypt.new-secret=b",
          "--object=secret,id=a,file=" + keys["one"], "--object=secret,id=b,file=" + keys["two"])
    opens(path, keys, "one", "two")
    amend(path, "encrypt.state=inactive,encrypt.old-secret=a", "--object=secret,id=a,file=" + keys["one"])
    opens(path, keys, "two")


@suite.test("what would lose the disk, or makes no sense, is refused, as QEMU refuses it")
def _(directory):
    path, keys = make(directory)
    key, new = "--key-file=" + keys["one"], "--new-key-file=" + keys["two"]
    old = "--old-key-file="
    for words, arguments, said, status, qemu in (
            ("encrypt.state=inactive,encrypt.keyslot=0", (), ("nobody could ever",), 1,
             "encrypt.state=inactive,encrypt.keyslot=0"),
            ("encrypt.state=inactive", (old + keys["one"],), ("--force",), 1,
             "encrypt.state=inactive,encrypt.old-secret=one"),
            ("encrypt.state=inactive", (old + keys["two"],), ("no key slot",), 1,
             "encrypt.state=inactive,encrypt.old-secret=two"),
            ("encrypt.state=active,encrypt.keyslot=0", (key, new), ("is in use",), 1,
             "encrypt.state=active,encrypt.keyslot=0,encrypt.new-secret=two"),
            ("encrypt.state=active", ("--key-file=" + keys["two"], new), ("not one of this",), 1, None),
            ("encrypt.state=active", (key,), ("no key was given",), 1, "encrypt.state=active"),
            ("encrypt.state=inactive", (), ("which key",), 64, "encrypt.state=inactive"),
            ("encrypt.state=inactive,encrypt.keyslot=1", (new,), ("no new one",), 64, None),
            ("encrypt.state=inactive,encrypt.keyslot=8", (), ("8",), 64,
             "encrypt.state=inactive,encrypt.keyslot=8"),
            ("encrypt.keyslot=1", (), ("encrypt.state",), 64, "encrypt.keyslot=1"),
            ("encrypt.state=inactive,encrypt.keyslot=1,size=2M", (), ("alone",), 64, None)):
        ctl.refused("amend", "-o", words, *arguments, path, words=said, status=status, unchanged=[path])
        if qemu is not None:
            check(theirs(path, keys, qemu).returncode != 0, "QEMU does it: %s", words)
    opens(path, keys, "one")
    amend(path, "encrypt.state=inactive,encrypt.keyslot=0", "--force")
    opens(path, keys)


@suite.test("other images have no key slots; a disk that grows is given its key")
def _(directory):
    path, keys = make(directory)
    plain, aes = (os.path.join(directory, name) for name in ("plain.qcow2", "aes.qcow2"))
    ctl.ctl("create", "-q", plain, "1M")
    ctl.ctl("create", "-q", "-o", "encryption=on", "--key-file=" + keys["one"], aes, "1M")
    for other, said in ((plain, "not encrypted"), (aes, "old AES")):
        ctl.refused("amend", "-o", "encrypt.state=inactive,encrypt.keyslot=1", other, words=(said,),
                    unchanged=[other])
    ctl.ctl("amend", "-q", "--shrink", "-o", "size=%d" % (32 * 1024 + 512), "--key-file=" + keys["one"],
            path)
    ctl.ctl("amend", "-q", "-o", "size=2M", "--key-file=" + keys["one"], path)
    encrypted.io(path, keys["one"], "read -P 7 0 33280", "read -P 0 33280 1M")


if __name__ == "__main__":
    suite.main()
