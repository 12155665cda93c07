#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Bash completion of qcow2fs and qcow2ctl: what it offers, given what was typed."""

import os
import shlex
import subprocess

from lib import ctl, run, tap, tools
from lib.tap import check, check_equal

SCRIPT = os.path.join(run.SOURCE, "contrib", "completion", "qcow2fs")
HELPERS = "/usr/share/bash-completion/bash_completion"


def has_helpers():
    return None if os.path.exists(HELPERS) else "no bash-completion here"


suite = tap.Suite(needs=[tools.tool("bash")])

# As bash does it: the line is split at blanks, and at each = and :, which are words themselves.
# COMPREPLY is what the function offers; readline puts it in place of the last word.
ASK = r"""
set -u
{load}
export PATH={path}:$PATH
COMP_LINE=$1
COMP_POINT=${{#COMP_LINE}}
COMP_WORDBREAKS=$2
spaced=$1
case $2 in *=*) spaced=${{spaced//=/ = }} ;; esac
case $2 in *:*) spaced=${{spaced//:/ : }} ;; esac
read -ra COMP_WORDS <<<"$spaced"
[[ $spaced != *[[:space:]] || $1 == *[=:] ]] || COMP_WORDS+=('')
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
COMPREPLY=()
line=$(complete -p "${{COMP_WORDS[0]}}") || exit 3
[[ $line == *' -F '* ]] || exit 4
line=${{line##* -F }}
"${{line%% *}}" "${{COMP_WORDS[0]}}" "${{COMP_WORDS[COMP_CWORD]}}" ''
printf '%s\n' "${{COMPREPLY[@]+"${{COMPREPLY[@]}}"}}"
"""
BREAKS = " \t\n\"'><=;|&(:"


def offered(line, cwd="/", load=None, breaks=BREAKS):
    """What is offered in place of the last word of the line, in order."""
    program = os.path.dirname(ctl.program())
    script = ASK.format(load=load or "source " + shlex.quote(SCRIPT), path=shlex.quote(program))
    done = subprocess.run(["bash", "--norc", "-c", script, "bash", line, breaks], cwd=cwd,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env=tools.environment(), encoding="utf-8", timeout=tools.TIMEOUT, check=False)
    check_equal((done.returncode, done.stderr), (0, ""), "what bash said to %r" % line)
    return [word for word in done.stdout.split("\n") if word]


def expect(line, expected, **keywords):
    check_equal(sorted(offered(line, **keywords)), sorted(expected), "what is offered for %r" % line)


def includes(line, *expected, without=(), **keywords):
    found = offered(line, **keywords)
    for word in expected:
        check(word in found, "%r is not offered for %r: %r", word, line, found)
    for word in without:
        check(word not in found, "%r is offered for %r: %r", word, line, found)


def files(directory):
    for name in ("a.qcow2", "b.QCOW2", "c.img", "notes.txt", "picture.svg", "with space.qcow2"):
        with open(os.path.join(directory, name), "wb"):
            pass
    os.mkdir(os.path.join(directory, "folder"))
    return {"cwd": directory}


def names(*arguments):
    return ctl.ctl(*arguments).stdout.split()


# --- qcow2ctl ------------------------------------------------------------------------------


@suite.test("the commands are those of the program, and so are its flags")
def _(_directory):
    known = names("--help=names")
    commands = [name for name in known if not name.startswith("-")]
    check("create" in commands and "map" in commands, "the commands are %r", commands)
    expect("qcow2ctl ", known)
    expect("qcow2ctl cre", ["create"])
    expect("qcow2ctl --v", ["--version"])
    expect("qcow2ctl nothing ", [])


@suite.test("each command offers every flag that it has")
def _(_directory):
    for command in names("--help=names"):
        if command.startswith("-"):
            continue
        lines = names(command, "--help=names")
        flags = {line.split("=")[0] for line in lines if line.startswith("--")}
        found = {word.rstrip("=") for word in offered("qcow2ctl %s --" % command)}
        check_equal(found, flags, "the flags of %s" % command)
        for line in lines:
            if line.startswith("--") and "=" in line and "<" not in line:
                flag, word = line.split("=", 1)
                includes("qcow2ctl %s %s=%s" % (command, flag, word[:1]), word)


@suite.test("a value is offered behind = and in the next argument, to a letter too")
def _(_directory):
    expect("qcow2ctl map --output=", ["human", "json"])
    expect("qcow2ctl map --output=j", ["json"])
    expect("qcow2ctl map --output j", ["json"])
    expect("qcow2ctl map -f ", ["qcow2"])
    expect("qcow2ctl map --max-length=", [])
    expect("qcow2ctl map --max-length 1", [])
    includes("qcow2ctl map --s", "--start-offset=", "--snapshot=", "--svg=", without=["--json"])


@suite.test("without = among the letters that break words, whole words are offered")
def _(directory):
    keywords = files(directory)
    breaks = BREAKS.replace("=", "").replace(":", "")
    expect("qcow2ctl map --output=j", ["--output=json"], breaks=breaks)
    expect("qcow2ctl map --svg=p", ["--svg=picture.svg"], breaks=breaks, **keywords)
    includes("qcow2fs -o ro,cache=n", "ro,cache=none", breaks=breaks)


@suite.test("an image is offered where one belongs, any file where there is none, else nothing")
def _(directory):
    keywords = files(directory)
    images = ["a.qcow2", "b.QCOW2", "c.img", "with space.qcow2", "folder"]
    expect("qcow2ctl map ", images, **keywords)
    expect("qcow2ctl map -U --output json ", images, **keywords)
    expect("qcow2ctl map --output=json a", ["a.qcow2"], **keywords)
    expect("qcow2ctl map no", ["notes.txt"], **keywords)
    expect("qcow2ctl map a.qcow2 ", [], **keywords)
    expect("qcow2ctl map --svg p", ["picture.svg"], **keywords)
    expect("qcow2ctl create -b no", ["notes.txt"], **keywords)
    expect("qcow2ctl resize a.qcow2 ", [], **keywords)
    expect("qcow2ctl map --svg=p", ["picture.svg"], **keywords)


@suite.test("a list takes names, values, and after a comma the next")
def _(_directory):
    known = {}
    for command in names("--help=names"):
        if "-o=<LIST>" in names(command, "--help=names"):
            known[command] = names(command, "--help=values")
    check(known, "no command takes a list")
    for command, values in known.items():
        check_list("qcow2ctl " + command, values)


def check_list(command, values):
    """What the command offers for its list, of which the program says `values`."""
    known = {line.split("=")[0] for line in values}
    found = {word.rstrip("=") for word in offered(command + " -o ")}
    check_equal(found, known, "the names for %s -o" % command)
    first = next(line for line in values if "=" in line and "<" not in line)
    name, word = first.split("=", 1)
    for begin in ("-o ", "--options=", "-o"):
        typed = command + " " + begin + name + "="
        includes(typed, word)
        following = offered(typed + word + ",")
        check(not any(item.rstrip("=").split(",")[-1] == name for item in following),
              "%s is offered again: %r", name, following)
        check_equal(len(following), len(known) - 1, "how many follow")


# --- qcow2fs ----------------------------------------------------------------------------------


@suite.test("the mount options of qcow2fs are offered, and their values")
def _(directory):
    keywords = files(directory)
    done = tools.run(run.program(), "--help=names")
    known = {line.split("=")[0] for line in done.stdout.split()}
    check_equal({word.rstrip("=") for word in offered("qcow2fs -o ")}, known, "the mount options")
    expect("qcow2fs -o cache=w", ["writeback", "writethrough"])
    includes("qcow2fs -o ro,ca", "ro,cache=", "ro,cache-size=")
    includes("qcow2fs -o ro,l2_", "ro,l2_cache_size=")
    includes("qcow2fs -o cache=none,", "none,ro", without=["none,cache="])
    expect("qcow2fs -o data-file=pic", ["picture.svg"], **keywords)
    expect("qcow2fs -o ro,data_file=pic", ["picture.svg"], **keywords)
    includes("qcow2fs -ocache=no", "none")


@suite.test("the flags of qcow2fs are offered, images, then mount points")
def _(directory):
    keywords = files(directory)
    expect("qcow2fs -", ["-f", "-d", "-s", "-o", "-h", "--help", "-V", "--version",
                          "--ready-fd="])
    expect("qcow2fs --v", ["--version"])
    expect("qcow2fs ", ["a.qcow2", "b.QCOW2", "c.img", "with space.qcow2", "folder"], **keywords)
    expect("qcow2fs -f -o ro a.qcow2 f", ["folder"], **keywords)
    expect("qcow2fs a.qcow2 p", ["picture.svg"], **keywords)
    expect("qcow2fs a.qcow2 folder ", [], **keywords)
    expect("qcow2fs a.qcow2 folder -o ro,rep", ["ro,repair"])


# --- where it is installed ---------------------------------------------------------------------


@suite.test("the package bash-completion finds it under both names", needs=[has_helpers])
def _(directory):
    place = os.path.join(directory, "bash-completion", "completions")
    os.makedirs(place)
    os.symlink(SCRIPT, os.path.join(place, "qcow2fs"))
    os.symlink("qcow2fs", os.path.join(place, "qcow2ctl"))
    for program, line, expected in (("qcow2ctl", "qcow2ctl map --output=j", ["json"]),
                                    ("qcow2fs", "qcow2fs -o cache=n", ["none"])):
        load = ("XDG_DATA_DIRS=%s; set +u; source %s; _completion_loader %s; set -u"
                % (shlex.quote(directory), HELPERS, program))
        expect(line, expected, load=load)


@suite.test("a program that is not there offers nothing, and says nothing")
def _(_directory):
    load = "source %s; qcow2fs() { return 127; }; qcow2ctl() { return 127; }" % shlex.quote(SCRIPT)
    expect("qcow2ctl ", [], load=load)
    expect("qcow2ctl map --", [], load=load)
    expect("qcow2fs -o ", [], load=load)


if __name__ == "__main__":
    suite.main()
