#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Packages: what their files say is what is installed. QCOW2FS_LONG=1 builds Debian's, too."""

import fnmatch
import os
import re

from lib import run, tap, tools
from lib.tap import check, check_equal

suite = tap.Suite()
BUILD = os.path.dirname(os.path.dirname(run.program()))
LONG = os.environ.get("QCOW2FS_LONG") == "1"


def text_of(*path):
    with open(os.path.join(run.SOURCE, *path), encoding="utf-8") as file:
        return file.read()


def version():
    return re.search(r"^AC_INIT\(\[qcow2fs\], \[(.*)\]\)$", text_of("configure.ac"), re.M).group(1)


@suite.test("all packages are of the version of configure.ac")
def _(_directory):
    found = {
        "debian": re.match(r"qcow2fs \((.*)-\d+\) ", text_of("contrib", "debian", "changelog")),
        "rpm": re.search(r"^Version: +(.*)$", text_of("contrib", "rpm", "qcow2fs.spec"), re.M),
        "alpine": re.search(r"^pkgver=(.*)$", text_of("contrib", "alpine", "APKBUILD"), re.M),
    }
    for name, match in found.items():
        check(match is not None, "%s: there is no version", name)
        check_equal(match.group(1), version(), "the version of " + name)


@suite.test("Debian's own tools can read its files", needs=[tools.tool("dpkg-parsechangelog")])
def _(directory):
    changelog = os.path.join(run.SOURCE, "contrib", "debian", "changelog")
    said = tools.run("dpkg-parsechangelog", "--all", "-l", changelog)
    check_equal(said.stderr, "", "what is wrong with the changelog")
    os.makedirs(os.path.join(directory, "debian"))
    with open(os.path.join(directory, "debian", "control"), "w", encoding="utf-8") as file:
        file.write(text_of("contrib", "debian", "control"))
    said = tools.run("dpkg-checkbuilddeps", cwd=directory, status=None).stderr
    check("syntax" not in said and "error: error" not in said, "it said: %s", said)


@suite.test("the shell can read the APKBUILD")
def _(_directory):
    tools.run("sh", "-n", os.path.join(run.SOURCE, "contrib", "alpine", "APKBUILD"))


@suite.test("links between the installed documents lead to what is installed", needs=[tools.tool("make")])
def _(directory):
    root, top = os.path.join(directory, "root"), "/usr/share/doc/qcow2fs"
    tools.run("make", "-s", "-C", BUILD, "install-data", "DESTDIR=" + root, "prefix=/usr", "docdir=" + top,
              timeout=300)
    links = []
    for place, _, names in os.walk(root + top):
        for name in names:
            if name.endswith(".md"):
                with open(os.path.join(place, name), encoding="utf-8") as file:
                    found = re.findall(r"\]\(([^)#:]+)[^):]*\)", file.read())
                links += [(name, os.path.join(place, link)) for link in found]
    check(len(links) > 10, "there are %d links", len(links))
    check_equal([(name, link[len(root):]) for name, link in links if not os.path.exists(link)], [],
                "what leads nowhere")


@suite.test("the spec file of RPM names each file that is installed, and no other",
            needs=[tools.tool("make", "rpmspec")])
def _(directory):
    root = os.path.join(directory, "root")
    tools.run("make", "-s", "-C", BUILD, "install", "DESTDIR=" + root, "prefix=/usr",
              "MOUNT_HELPER_DIR=/usr/sbin", "docdir=/usr/share/doc/qcow2fs", "mandir=/usr/share/man",
              timeout=300)
    spec = os.path.join(run.SOURCE, "contrib", "rpm", "qcow2fs.spec")
    expanded = tools.output("rpmspec", "-P", spec, "--define", "_unitdir /lib/systemd/system",
                            "--define", "_pkgdocdir /usr/share/doc/qcow2fs")
    named = [line for line in expanded.split("%files\n")[1].split("%changelog")[0].split("\n")
             if line.startswith("/") and not line.startswith("/lib/systemd")]
    check(len(named) > 10, "it names %d files", len(named))
    installed = {os.path.join(place, name)[len(root):] for place, _, names in os.walk(root)
                 for name in names}
    matches = {pattern: {path for path in installed if fnmatch.fnmatch(
        path, pattern + "*" if pattern.endswith("/") else pattern)} for pattern in named}
    check_equal([pattern for pattern, paths in matches.items() if not paths], [],
                "what is named and not installed")
    check_equal(installed - set().union(*matches.values()), set(), "what is installed and not named")


def built_by_debian(_directory):
    tools.run("make", "-C", BUILD, "deb", timeout=3000)
    place = os.path.join(BUILD, "deb")
    changes = [name for name in os.listdir(place) if name.endswith(".changes")]
    said = tools.run("lintian", "--allow-root", "--fail-on", "error,warning",
                     os.path.join(place, changes[0]), timeout=600, status=None)
    check_equal((said.returncode, said.stdout), (0, ""), "what lintian finds")


if LONG:  # it takes minutes
    suite.test("make deb makes a package in which lintian finds nothing",
               needs=[tools.tool("make", "dpkg-buildpackage", "dh", "lintian")])(built_by_debian)

if __name__ == "__main__":
    suite.main()
