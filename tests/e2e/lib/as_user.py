# SPDX-License-Identifier: MIT
"""Runs a test file as an ordinary user, with a name, a home and no rights: for root.

    python3 as_user.py TOP mount/test-mount.py [WORD...]

What he has is in TOP, an empty directory: his home, and a /tmp of his own. He has no XDG_RUNTIME_DIR. He finds the
sources and the build at a place that everybody can go to, wherever they are; may open /dev/fuse; and is in
the list of users, as fusermount3 asks for his name. All that is so in mounts of this process's
own: nothing is seen outside, and it goes with the process.
"""

import os
import sys

E2E = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

if __name__ == "__main__":
    sys.path.insert(0, E2E)

from lib import bad, run, tools  # pylint: disable=wrong-import-position

USER = 43210  # neither root, nor nobody, as whom other tests run
NAME = "qcow2fs-test"
PLACE = "/mnt"  # where TOP is for him: there on every system, and short, for the paths of sockets
LEFT_OUT = ("XDG_", "QCOW2FS_TMP", "TMPDIR", "MAIL")


class _Places:
    """The directories that he needs, bound into `top`, and what their files are called for him."""

    def __init__(self, top):
        self.top, self.known = top, []

    def bind(self, directory, name):
        tools.run("mount", "--bind", directory, self.make(name))
        self.known.append((os.path.realpath(directory), os.path.join(PLACE, name)))

    def make(self, name, mode=0o755, user=0):
        path = os.path.join(self.top, name)
        os.mkdir(path)
        os.chown(path, user, user)
        os.chmod(path, mode)
        return path

    def of(self, path):
        path = os.path.realpath(path)
        for directory, place in reversed(self.known):
            if path.startswith(directory + "/"):
                return place + path[len(directory):]
        return path


def _known_users(home):
    """The list of users, with him."""
    with open("/etc/passwd", encoding="utf-8", errors="surrogateescape") as file:
        known = file.read()
    if any(line.split(":")[2:3] == [str(USER)] for line in known.splitlines()):
        return known
    return known.rstrip("\n") + "\n%s:x:%d:%d::%s:/bin/sh\n" % (NAME, USER, USER, home)


def become(top):
    """This process becomes the user's. Its environment."""
    places = _Places(top)
    home = os.path.join(PLACE, "home")
    values = {name: value for name, value in os.environ.items() if not name.startswith(LEFT_OUT)}
    os.chmod(top, 0o755)
    bad.private_mounts()
    places.bind(run.SOURCE, "src")
    places.bind(os.path.dirname(os.path.dirname(run.program())), "build")
    values.update({name: places.of(values[name]) for name in ("QCOW2CTL",) if name in values},
                  QCOW2FS=places.of(run.program()), QCOW2FS_SRCDIR=os.path.join(PLACE, "src"),
                  PYTHONPATH=places.of(E2E), PYTHONDONTWRITEBYTECODE="1", HOME=home, USER=NAME,
                  LOGNAME=NAME)
    places.make("home", user=USER)
    places.make("tmp", mode=0o1777)
    with open(os.path.join(top, "passwd"), "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(_known_users(home))
    os.chmod(file.name, 0o644)
    tools.run("mount", "--bind", file.name, "/etc/passwd")
    tools.run("mount", "--rbind", top, PLACE)
    tools.run("mount", "--bind", os.path.join(PLACE, "tmp"), "/tmp")
    os.setgroups([])
    os.setresgid(USER, USER, USER)
    os.setresuid(USER, USER, USER)
    os.chdir(home)
    return values


def main():
    values = become(os.path.abspath(sys.argv[1]))
    argv = ["python3", os.path.join(values["PYTHONPATH"], sys.argv[2])] + sys.argv[3:]
    os.execvpe(argv[0], argv, values)  # the first that he may run: root's may lie in root's home


if __name__ == "__main__":
    main()
