# SPDX-License-Identifier: MIT
"""Rows of the table: how much code there is, what it loads, and what an idle mount takes."""

import os
import shutil
import time

from lib import ctl, run, tools

from .images import GiB, KiB, MiB
from .targets import CannotServe
from .workloads import Limit, Line, Workload

SERVERS = (Line("qsd", "qsd"), Line("qcow2fs", "qcow2fs"))
TOOLS = (Line("qemu-img", "qemu-img"), Line("qcow2fs", "qcow2fs"))


def _text(path):
    """KiB of code and constants in a program, without its libraries."""
    if not tools.have("size"):
        raise CannotServe("no size: apt-get install binutils")
    said = tools.output("size", "--format=berkeley", path)
    return int(said.splitlines()[1].split()[0]) / KiB


def _server_text(context, line, _workload):
    program = run.program() if line.kind == "qcow2fs" else context.targets[line.kind].program
    return _text(shutil.which(program, path=tools.PATH))


def _tool_text(_context, line, _workload):
    return _text(ctl.program() if line.kind == "qcow2fs" else
                 shutil.which("qemu-img", path=tools.PATH))


def _libraries(context, line, workload):
    with context.serve(line, workload.disk_for(context, line)) as served:
        with open("/proc/%d/maps" % served.pid, encoding="utf-8", errors="replace") as lines:
            names = {os.path.basename(text.split()[-1]) for text in lines}
    return sum(".so" in name and not name.startswith("ld-") for name in names)


def _idle(context, line, workload):
    with context.serve(line, workload.disk_for(context, line)) as served:
        time.sleep(0.2)
        return served.private_memory() / MiB


def rows():
    empty = "empty-%d" % GiB
    return (
        Workload("text-mount", "code and constants of who serves", "KiB", SERVERS, (), _server_text,
                 less_is_better=True, rounds=1),
        Workload("text-tool", "the same of qcow2ctl, qemu-img", "KiB", TOOLS, (), _tool_text,
                 less_is_better=True, rounds=1),
        Workload("libraries", "libraries of an idle mount", "", SERVERS, (), _libraries, empty,
                 less_is_better=True, rounds=1),
        Workload("memory-mount", "private memory, idle, 1 GiB", "MiB", SERVERS, (Limit(0.6),), _idle,
                 empty, less_is_better=True),
    )
