# SPDX-License-Identifier: MIT
"""The programs are built with what their compiler has against mistakes, and with what the user says."""

import os
import re
import stat

from lib import ctl, run, tap, tools
from lib.tap import check, check_equal

suite = tap.Suite()
BUILD = os.path.dirname(os.path.dirname(run.program()))
# What a program is told by: the words for it, options that ask for it, and whether it is there.
FEATURES = (
    ("a guarded stack", "-fstack-protector-strong",
     lambda told: "__stack_chk_fail" in told.symbols),
    ("calls of the C library that know their buffers", "-D_FORTIFY_SOURCE=3",
     lambda told: re.search(r"\b__\w+_chk\b", told.symbols.replace("__stack_chk", "")) is not None),
    ("targets of indirect jumps marked", "-fcf-protection",
     lambda told: re.search(r"x86 feature:.*IBT.*SHSTK", told.notes) is not None),
    ("branches marked and returns signed", "-mbranch-protection=standard",
     lambda told: re.search(r"AArch64 feature:.*BTI.*PAC", told.notes) is not None),
    ("another address at each start", "-fPIE -pie", lambda told: told.type == "DYN"),
    ("relocations that are read-only", "-Wl,-z,relro", lambda told: "GNU_RELRO" in told.segments),
    ("all relocations done at the start", "-Wl,-z,now",
     lambda told: re.search(r"\bBIND_NOW\b|\bFLAGS_1\b.*\bNOW\b", told.dynamic) is not None),
)
PROBE = """
#include <string.h>
int main(int count, char **arguments)
{
    char copy[16];
    memcpy(copy, arguments[0], (unsigned)count);
    return copy[count / 2];
}
"""


class Told:
    """What readelf tells of a program; and of one of its objects, as the C library's own objects
    decide whether the whole program is marked."""

    def __init__(self, path, part):
        def readelf(option, path=path):
            return tools.output("readelf", "--wide", option, path)

        self.type = re.search(r"Type: +(\w+)", readelf("--file-header")).group(1)
        self.segments = readelf("--segments")
        self.dynamic = readelf("--dynamic")
        self.symbols = readelf("--dyn-syms")
        self.notes = readelf("--notes", part)

    def features(self):
        return [words for words, _options, there in FEATURES if there(self)]


def made(name):
    """The value of a variable in the Makefile of the build."""
    with open(os.path.join(BUILD, "Makefile"), encoding="utf-8") as file:
        return re.search(r"^%s = ?(.*)$" % name, file.read(), re.MULTILINE).group(1)


def own_flags():
    """The need for a build with no other flags than configure's own."""
    if not os.path.exists(os.path.join(BUILD, "Makefile")):
        return "no build beside the program"
    if os.environ.get("QCOW2FS_SANITIZE", "no") != "no":
        return "built with sanitizers"
    if made("CFLAGS") != "-g -O2" or made("CPPFLAGS") or made("LDFLAGS"):
        return "built with flags of the user's own"
    return None


def from_here():
    """The need for sources that a second build can be configured from."""
    if os.path.exists(os.path.join(run.SOURCE, "config.status")):
        return "the sources themselves were configured"
    return None if os.access(os.path.join(run.SOURCE, "configure"), os.X_OK) else "no ./configure"


@suite.test("both programs have all that their compiler can give them",
            needs=[tools.tool("readelf"), own_flags])
def _(directory):
    with open(os.path.join(directory, "probe.c"), "w", encoding="ascii") as file:
        file.write(PROBE)
    probe = os.path.join(directory, "probe")
    wanted = []
    for words, options, there in FEATURES:
        done = tools.run("sh", "-c", "{0} -O2 -U_FORTIFY_SOURCE {1} -c probe.c && {0} {1} -o probe "
                         "probe.o".format(made("CC"), options), status=None, cwd=directory)
        if done.returncode == 0 and there(Told(probe, probe + ".o")):
            wanted.append(words)
    check("a guarded stack" in wanted, "this compiler has nothing: %s", done.stderr)
    for path in (run.program(), ctl.program()):
        part = os.path.join(BUILD, "src", "{0}-{0}.o".format(os.path.basename(path)))
        lacks = set(wanted) - set(Told(path, part).features())
        check(not lacks, "%s lacks %s", path, ", ".join(sorted(lacks)))


@suite.test("a compiler that lacks some gives the others, and the user's flags win",
            needs=[tools.tool("readelf", "make"), from_here])
def _(directory):
    compiler = os.path.join(directory, "cc")
    with open(compiler, "w", encoding="ascii") as file:
        file.write("""#!/bin/sh
for word; do
    case $word in
    -fcf-protection | -mbranch-protection=* | -D_FORTIFY_SOURCE=3 | *-z,now*)
        echo "$word is not known" >&2
        exit 1 ;;
    esac
done
exec cc "$@"
""")
    os.chmod(compiler, os.stat(compiler).st_mode | stat.S_IXUSR)
    build = os.path.join(directory, "build")
    os.mkdir(build)
    tools.run(os.path.join(run.SOURCE, "configure"), "--disable-dependency-tracking",
              "CC=%s" % compiler, "CFLAGS=-O2 -fno-stack-protector", "LDFLAGS=-no-pie", cwd=build,
              timeout=5 * tools.TIMEOUT)
    program = os.path.join("tests", "races", "fsx")  # small, and with no library
    tools.run("make", "V=1", program, cwd=build)
    told = Told(os.path.join(build, program), os.path.join(build, program))
    there = told.features()
    check("relocations that are read-only" in there, "it has only %s", there)
    check("calls of the C library that know their buffers" in there, "it has only %s", there)
    check_equal(told.type, "EXEC", "the type, with -no-pie")
    check("a guarded stack" not in there, "-fno-stack-protector did not win")


if __name__ == "__main__":
    suite.main()
