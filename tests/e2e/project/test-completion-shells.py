#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Completion of zsh and fish, asked of the shells themselves: what they offer, given what was typed."""

import os
import pty
import select
import shlex
import shutil
import subprocess

from lib import ctl, run, tap, tools
from lib.tap import check, check_equal

PLACE = os.path.join(run.SOURCE, "contrib", "completion")
PROGRAMS = os.path.dirname(ctl.program())
IMAGES = ["a.qcow2", "b.QCOW2", "c.img", "folder", "with space.qcow2"]

suite = tap.Suite()

# An interactive zsh at a terminal: Tab calls its completion, whose compadd tells what it is given that
# fits. Nothing is put into the line.
ZSHRC = r"""
fpath=({place} $fpath)
autoload -U compinit
compinit -D -u
zstyle ':completion:*' completer _complete
compadd() {{
    local -a hits
    if [[ " ${{@[1,(i)--]}} " == *' '-(A|O|D)' '* ]]; then
        builtin compadd "$@"
        return
    fi
    builtin compadd -A hits "$@"
    (( ! $#hits )) || print -rl -- "${{hits[@]}}" >>{found}
    builtin compadd "$@"
}}
_asked() {{
    : >{found}
    _main_complete
    compstate[insert]=
    compstate[list]=
    print END-OF-ANSWER
}}
zle -C asked complete-word _asked
bindkey '^I' asked
bindkey -e '^U' kill-whole-line
cd {cwd}
export PATH={programs}:$PATH
PS1='READY-FOR-MORE '
"""


class Zsh:
    """One zsh, asked line after line."""

    def __init__(self, directory, cwd):
        place = os.path.join(directory, "zsh")
        os.mkdir(place)
        self._found = os.path.join(place, "found")
        with open(os.path.join(place, ".zshrc"), "w", encoding="utf-8") as file:
            file.write(ZSHRC.format(found=self._found, cwd=cwd,
                                    place=shlex.quote(PLACE), programs=shlex.quote(PROGRAMS)))
        self._pid, self._terminal = pty.fork()
        if self._pid == 0:
            os.environ.update(ZDOTDIR=place, TERM="dumb", HOME=place)
            os.execvp("zsh", ["zsh", "-d", "-i"])
        self._wait_for(b"READY-FOR-MORE")

    def _wait_for(self, text):
        seen = b""
        while text not in seen:
            check(select.select([self._terminal], [], [], tools.TIMEOUT)[0], "zsh says only %r", seen)
            seen += os.read(self._terminal, 65536)

    def offered(self, line):
        os.write(self._terminal, line.encode() + b"\t")
        self._wait_for(b"END-OF-ANSWER")
        with open(self._found, encoding="utf-8") as file:
            found = file.read().split("\n")
        os.write(self._terminal, b"\x15")  # the whole line goes
        return [word.replace("\\ ", " ") for word in found if word]

    def close(self):
        os.write(self._terminal, b"\x15exit\n")
        os.close(self._terminal)
        os.waitpid(self._pid, 0)


class Fish:
    """What `complete -C` says is what fish shows."""

    def __init__(self, _directory, cwd):
        script = ("source %s/qcow2fs.fish; while read -l line; complete -C $line; echo END-OF-ANSWER; end"
                  % shlex.quote(PLACE))
        self._process = subprocess.Popen(
            ["fish", "--no-config", "-c", script], cwd=cwd, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8",
            env=tools.environment(PATH=PROGRAMS + ":" + tools.PATH))

    def offered(self, line):
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        answer = []
        for word in self._process.stdout:
            if word == "END-OF-ANSWER\n":
                break
            answer.append(word.rstrip("\n"))
        check(self._process.poll() is None, "fish ended at %r: %r", line, answer)
        found = []
        # Whole words: the part that the others show is behind the last = and comma.
        begin = max(line.rfind(" "), line.rfind("="), line.rfind(",")) + 1
        skip = begin - (line.rfind(" ") + 1)
        for word in answer:
            word = word.split("\t")[0].rstrip("/")
            found.append(word[2:] if line.split(" ")[-1][:2] == "-o" and skip == 0 else word[skip:])
        return found

    def close(self):
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(tools.TIMEOUT)


def names(*arguments):
    return ctl.ctl(*arguments).stdout.split()


def flags_of(lines):
    return sorted({line.split("=")[0] for line in lines})


def shell(name, kind):
    """The tests of one shell."""

    def test(sentence):
        def register(function):
            @suite.test("%s: %s" % (name, sentence), needs=[tools.tool(name)])
            def _(directory):
                cwd = os.path.join(directory, "there")
                os.mkdir(cwd)
                for file in ("a.qcow2", "b.QCOW2", "c.img", "notes.txt", "picture.svg",
                             "with space.qcow2"):
                    with open(os.path.join(cwd, file), "wb"):
                        pass
                os.mkdir(os.path.join(cwd, "folder"))
                asked = kind(directory, cwd)

                def expect(line, *expected):
                    found = sorted({word.rstrip("=") for word in asked.offered(line)})
                    begun = line.split(" ")[-1]
                    if name == "fish" and begun.startswith("--") and "=" not in begun:
                        # fish 4 offers behind them what has the letters anywhere
                        found = [word for word in found if word.startswith(begun)]
                    check_equal(found, sorted(expected), "what is offered for %r" % line)

                try:
                    function(expect)
                finally:
                    asked.close()
        return register

    @test("the commands are those of the program, and so are their flags")
    def _(expect):
        expect("qcow2ctl cre", "create")
        expect("qcow2ctl nothing ")
        commands = [word for word in names("--help=names") if not word.startswith("-")]
        expect("qcow2ctl ", *[word for word in names("--help=names")
                              if name == "zsh" or not word.startswith("-")])
        for command in commands:
            lines = [line for line in names(command, "--help=names") if line.startswith("--")]
            expect("qcow2ctl %s --" % command, *flags_of(lines))

    @test("a value is offered behind = and in the next argument, to a letter too")
    def _(expect):
        expect("qcow2ctl map --output=", "human", "json")
        expect("qcow2ctl map --output=j", "json")
        expect("qcow2ctl map --output j", "json")
        expect("qcow2ctl map -f ", "qcow2")
        expect("qcow2ctl map --max-length ")
        expect("qcow2ctl map --s", "--start-offset", "--snapshot", "--sandbox", "--svg")

    @test("an image is offered where one belongs, any file where there is none, else nothing")
    def _(expect):
        expect("qcow2ctl map ", *IMAGES)
        expect("qcow2ctl map -U --output json ", *IMAGES)
        expect("qcow2ctl map no", "notes.txt")
        expect("qcow2ctl map a.qcow2 ")
        expect("qcow2ctl map --svg p", "picture.svg")
        expect("qcow2ctl map --svg=p", "picture.svg")
        expect("qcow2ctl create -b no", "notes.txt")

    @test("a list takes names, values, and after a comma the next")
    def _(expect):
        values = flags_of(names("create", "--help=values"))
        expect("qcow2ctl create -o ", *values)
        expect("qcow2ctl create -o compat=v", "v2", "v3")
        expect("qcow2ctl create --options=compat=v", "v2", "v3")
        expect("qcow2ctl create -ocompat=v", "v2", "v3")
        expect("qcow2ctl create -o compat=v3,", *[value for value in values if value != "compat"])

    @test("the mount options of qcow2fs, its flags, images and mount points")
    def _(expect):
        known = flags_of(tools.run(run.program(), "--help=names").stdout.split())
        expect("qcow2fs -o ", *known)
        expect("qcow2fs -o cache=w", "writeback", "writethrough")
        expect("qcow2fs -o ro,l2_", "l2_cache_size", "l2_cache_entry_size")
        expect("qcow2fs -o cache=none,", *[word for word in known if word != "cache"])
        expect("qcow2fs -o data-file=pic", "picture.svg")
        expect("qcow2fs -o ro,data_file=pic", "picture.svg")
        expect("qcow2fs --v", "--version")
        expect("qcow2fs ", *IMAGES)
        expect("qcow2fs -f -o ro a.qcow2 f", "folder")
        expect("qcow2fs a.qcow2 p", "picture.svg")
        expect("qcow2fs a.qcow2 folder ")
        expect("qcow2fs a.qcow2 folder -o ro,rep", "repair")


shell("zsh", Zsh)
shell("fish", Fish)


@suite.test("fish finds it under both names where vendors put it", needs=[tools.tool("fish")])
def _(directory):
    place = os.path.join(directory, "fish", "vendor_completions.d")
    os.makedirs(place)
    shutil.copy(os.path.join(PLACE, "qcow2fs.fish"), place)
    os.symlink("qcow2fs.fish", os.path.join(place, "qcow2ctl.fish"))
    for line, expected in (("qcow2ctl cre", "create"), ("qcow2fs --v", "--version")):
        done = tools.run("fish", "-c", "complete -C '%s'" % line,
                         env={"XDG_DATA_DIRS": directory, "HOME": directory,
                              "PATH": PROGRAMS + ":" + tools.PATH})
        check_equal([word.split("\t")[0] for word in done.stdout.split("\n") if word], [expected],
                    line)


if __name__ == "__main__":
    suite.main()
