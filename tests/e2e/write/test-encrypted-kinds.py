#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""`qcow2ctl create -o encrypt.*`, beside qemu-img: every cipher, mode, IV and hash, both ways."""

import concurrent.futures
import json
import os
import random

from lib import compare, ctl, encrypted, mount, tap, tools, write
from lib.image import KiB, MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.QEMU, encrypted.library])
SIZE = MiB
KEY = b"a passphrase"

MODES = ("xts", "cbc", "ecb", "ctr")
IVS = ("plain", "plain64", "essiv")
HASHES = ("md5", "sha1", "sha224", "sha256", "sha384", "sha512", "ripemd160")


def pattern(directory):
    """A raw disk: data, and nothing behind it but a sector at the end."""
    path = os.path.join(directory, "disk.raw")
    with open(path, "wb") as file:
        file.write(random.Random(17).randbytes(200 * KiB + 512))
        file.seek(SIZE - 512)
        file.write(b"x" * 512)
    return path


def zeros(path):
    with open(path, "wb") as file:
        file.truncate(SIZE)
    return path


def words(**options):
    named = {"encrypt." + name.replace("_", "-"): value for name, value in options.items()}
    return ",".join("%s=%s" % item for item in
                    {"encrypt.format": "luks", "encrypt.iter-time": 10, **named}.items())


def theirs(path, raw, key, **options):
    """An encrypted image that qemu-img makes, and fills with the raw disk; what it said."""
    return encrypted.quickly("qemu-img", "convert", *encrypted.secrets(key), "-f", "raw", "-O", "qcow2",
                             "-o", words(**options) + ",encrypt.key-secret=s0", raw, path)


def ours(path, raw, key, **options):
    done = ctl.ctl("create", "-q", "-o", words(**options), "--key-file=" + key, path, str(SIZE),
                   status=None)
    if done.returncode == 0:
        done = ctl.ctl("convert", "-n", "--key-file=" + key, "-f", "raw", "-O", "qcow2", raw, path)
    return done


def described(path):
    told = json.loads(tools.output("qemu-img", "info", "--output=json", path))
    told = told["format-specific"]["data"]["encrypt"]
    del told["uuid"]
    for slot in told["slots"]:
        slot["iters"] = slot.get("iters", 0) >= 1000
    told["master-key-iters"] = told["master-key-iters"] >= 1000
    return told


def both_ways(directory, raw, key, **options):
    """What is wrong with one combination, or None; and whether there is such a thing."""
    name = "-".join(options.values())
    made, written = (os.path.join(directory, "%s-%s" % (name, who)) for who in ("qemu", "ours"))
    there, here = theirs(made, raw, key, **options), ours(written, raw, key, **options)
    try:
        if (there.returncode == 0) != (here.returncode == 0):
            # The only one that libgcrypt does not have.
            return (None if options.get("cipher_alg") == "twofish-192" else "%s: %s against %s" % (
                name, there.stderr, here.stderr)), False
        if there.returncode != 0:
            return None, False
        ctl.ctl("compare", "-q", "--key-file=" + key, "-F", "raw", made, raw)
        tools.run("qemu-img", "compare", *encrypted.secrets(key), "--image-opts",
                  encrypted.options_of(written), "driver=raw,file.filename=" + raw)
        if options.get("cipher_mode", "cbc") == "cbc":  # once for each cipher, IV and hash
            check_equal(described(written), described(made), "what qemu-img says of it")
        return None, True
    except (AssertionError, tools.CommandFailed) as failed:
        return "%s: %s" % (name, failed), True
    finally:
        for path in (made, written):
            if os.path.exists(path):
                os.unlink(path)


def matrix(directory, combinations, count):
    raw, key = pattern(directory), encrypted.key_file(directory, "key", KEY)
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        done = list(threads.map(lambda one: both_ways(directory, raw, key, **one), combinations))
    check_equal([wrong for wrong, _ in done if wrong], [], "what is wrong")
    check_equal(sum(exists for _, exists in done), count, "how many there are")


# How many both can make: without xts and essiv there is cast5; what QEMU 7.2 makes with 24 bytes
# of a key and not xts, it cannot write to.
for cipher, number in (("aes-128", 12), ("aes-192", 3), ("aes-256", 12), ("cast5-128", 6),
                       ("serpent-128", 12), ("serpent-192", 3), ("serpent-256", 12),
                       ("twofish-128", 12), ("twofish-192", 0), ("twofish-256", 12)):
    def _(directory, cipher=cipher, number=number):
        matrix(directory, [{"cipher_alg": cipher, "cipher_mode": mode, "ivgen_alg": iv}
                           for mode in MODES for iv in IVS], number)

    suite.test("%s in each mode with each IV: QEMU reads ours, and we QEMU's" % cipher)(_)


@suite.test("each hash of keys, and of essiv where a cipher has a key as long")
def _(directory):
    matrix(directory, [{"hash_alg": name} for name in HASHES] +
           [{"ivgen_hash_alg": name, "ivgen_alg": "essiv", "cipher_mode": "cbc"}
            for name in HASHES], len(HASHES) + 2)


# --- other things of an image that is made ------------------------------------------------------


def check_empty(path, key):
    encrypted.check_clean(path, key)
    raw = encrypted.to_raw(path, path + ".raw", key)
    compare.check_files(raw, zeros(path + ".empty"))
    ctl.ctl("compare", "-q", "--key-file=" + key, "-F", "raw", path, raw)
    ctl.ctl("check", path)


for form in ({"compat": "0.10"}, {"cluster_size": "512"}, {"cluster_size": "2M"},
             {"extended_l2": "on"}, {"preallocation": "metadata"}, {"preallocation": "falloc"},
             {"preallocation": "full", "cluster_size": "4k"}, {"data_file": "data.raw"},
             {"preallocation": "metadata", "data_file": "data.raw"},
             {"preallocation": "metadata", "extended_l2": "on"}):
    for kind in ("luks", "aes"):
        def _(directory, form=form, kind=kind):
            key = encrypted.key_file(directory, "key", KEY)
            path = os.path.join(directory, "image.qcow2")
            listed = ["%s=%s" % item for item in form.items()] + ["encrypt.format=" + kind]
            if "data_file" in form:
                listed.append("data_file=" + os.path.join(directory, form["data_file"]))
            if kind == "luks":
                listed.append("encrypt.iter-time=10")
            ctl.ctl("create", "-q", "-o", ",".join(listed), "--key-file=" + key, "image.qcow2",
                    str(SIZE), cwd=directory)
            check_empty(path, key)
            expected = zeros(os.path.join(directory, "expected"))
            with mount.mount(path, "key-file=" + key, writable=True) as mounted:
                write.scribble(mounted.disk, expected, seed=3, operations=40)
            encrypted.check_clean(path, key)
            compare.check_files(encrypted.to_raw(path, path + ".raw", key), expected)

        suite.test("%s with %s is zeros, and takes data" % (kind, form),
                   needs=[tools.fuse, tools.EXTENDED_L2, tools.DATA_FILE])(_)


@suite.test("an overlay has a key of its own, above an image that has another or none")
def _(directory):
    key = encrypted.key_file(directory, "key", KEY)
    other = encrypted.key_file(directory, "other", b"another one")
    base, top = (os.path.join(directory, name) for name in ("base.qcow2", "top.qcow2"))
    raw = pattern(directory)
    check_equal(ours(base, raw, other).returncode, 0, "the status")
    ctl.ctl("create", "-q", "-o", words(), "--key-file=" + key, "-b", "base.qcow2", "-F", "qcow2", top)
    encrypted.io(base, other, "read 0 1")
    read = encrypted.to_raw(top, top + ".raw", key, other, backing="s1")
    compare.check_files(read, raw)
    ctl.ctl("compare", "-q", "--key-file=" + key, "--key-file=" + other, "-F", "raw", top, raw)
    ctl.ctl("create", "-q", "-o", words(), "--key-file=" + key, "-b", "disk.raw", "-F", "raw", "--force",
            top)
    ctl.ctl("compare", "-q", "--key-file=" + key, "-F", "raw", top, raw)


@suite.test("the size of the file is what measure says, as qemu-img measures it")
def _(directory):
    key = encrypted.key_file(directory, "key", KEY)
    listed = "encrypt.format=luks"
    here = json.loads(ctl.ctl("measure", "--json", "-o", listed, "--size", "1G").stdout)
    there = json.loads(encrypted.quickly(
        "qemu-img", "measure", *encrypted.secrets(key), "--output=json", "-O", "qcow2", "-o",
        listed + ",encrypt.key-secret=s0", "--size", "1G").stdout)
    check_equal(here, {name: there[name] for name in here}, "the sizes")


# --- keys -----------------------------------------------------------------------------------------


@suite.test("keys of one byte, of 8 MiB, with a newline, with zeros in them: what QEMU has for one")
def _(directory):
    path, raw = os.path.join(directory, "image.qcow2"), pattern(directory)
    for data in (b"x", b"\n", b"x\n", b"a long one " * 762600, KEY):
        key = encrypted.key_file(directory, "key", data)
        check_equal(ours(path, raw, key).returncode, 0, "the status")
        encrypted.io(path, key, "read -P 120 %d 512" % (SIZE - 512))
        os.unlink(path)
    key = encrypted.key_file(directory, "key", b"\0" * (8 << 20))  # QEMU would end it at the first
    check_equal(ours(path, raw, key).returncode, 0, "the status")
    ctl.ctl("compare", "-q", "--key-file=" + key, "-F", "raw", path, raw)


@suite.test("QEMU's words for a key file, and what of them is refused")
def _(directory):
    key = encrypted.key_file(directory, "key,1", KEY)
    path = os.path.join(directory, "image.qcow2")
    named = "%s,encrypt.key-secret=s" % words()
    secret = "--object=secret,id=s,file=" + key.replace(",", ",,")
    ctl.ctl("create", "-q", "-o", named, "--object=secret,id=t,file=none", secret, path, "1M")
    ctl.ctl("compare", "-q", "--key-file=" + key, path, path)
    os.unlink(path)
    for arguments, said in (
            (("-o", named), ("no such secret", "--object")),
            (("-o", named, "--object=secret,id=s,data=geheim"), ("data=", "list processes")),
            (("-o", named, "--object=secret,id=s,file=k,format=base64"), ("'format'",)),
            (("-o", named, "--object=secret,id=s"), ("an id and a file",)),
            (("-o", named, "--object=tls-creds,id=s,file=k"), ("'tls-creds'",)),
            (("-o", named, secret, "--key-file=" + key), ("given twice",)),
            (("-o", words(), "--key-file=" + key, "--key-file=" + key), ("2 key files",)),
            (("-o", words(), "--key-file=" + encrypted.key_file(directory, "empty", b"")),
             ("is empty",)),
            (("-o", words()), ("no key was given",)),
            (("--key-file=" + key,), ("encrypt.format=luks",)),
            (("-o", words() + ",data_file=d,data_file_raw=on", "--key-file=" + key), ("data_file_raw",)),
            (("-o", words() + ",compat=0.10,preallocation=full", "--key-file=" + key), ("compat=1.1",)),
            (("-o", words(cipher_alg="twofish-192"), "--key-file=" + key), ("twofish",))):
        done = ctl.refused("create", *arguments, path, "1M", words=said, status=None)
        check("geheim" not in done, "it shows the key: %s", done)
        check(not os.path.exists(path), "%s: an image was left", arguments)


@suite.test("a passphrase is typed twice, and not shown")
def _(directory):
    path = os.path.join(directory, "image.qcow2")
    command = [ctl.program(), "create", "-q", "-o", words(), path, "1M"]
    shown, status = encrypted.at_terminal(command, KEY + b"\n", b"another\n")
    check(status != 0 and b"not the same" in shown, "it showed %r", shown)
    shown, status = encrypted.at_terminal(command, KEY + b"\n", KEY + b"\n")
    check_equal(status, 0, "the status; it showed %r" % shown)
    check(KEY not in shown, "it shows the passphrase: %r", shown)
    encrypted.io(path, encrypted.key_file(directory, "key", KEY), "read 0 1M")


if __name__ == "__main__":
    suite.main()
