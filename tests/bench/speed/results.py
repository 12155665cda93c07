# SPDX-License-Identifier: MIT
"""From the numbers of each round to medians, ratios and verdicts; the table and the JSON file.

A ratio is the median of the ratios of the rounds, not the ratio of medians: what two targets
reach in the same round they reach on a machine that is as busy with other things, and what
such things do to both of them alike cancels out.
"""

import json
import os
import platform
import statistics
import time

from lib import run, tools

from .workloads import Limit

COLUMNS = ("raw", "floor", "qsd", "nbdfuse", "qcowmount", "qcow2fs")


def _any_of(labels):
    if len(labels) > 2:
        return "the best of " + ", ".join(labels)
    return ("the better of " if len(labels) > 1 else "") + " and ".join(labels)


class Row:
    """The results of one workload: `values` of each label (a number each round), `failed`."""

    def __init__(self, workload, expand, goals=()):
        self.workload = workload
        self.goals = (*workload.goals, *goals)
        self.values = {}
        self.failed = {}
        self._expand = expand  # label -> the labels that stand for it (versions of qsd)

    def add(self, label, value):
        self.values.setdefault(label, []).append(value)

    def fail(self, label, why):
        self.failed[label] = why

    def median(self, label):
        return statistics.median(self.values[label]) if self.values.get(label) else None

    def better(self, labels):
        """Of these labels the one with the better median; None when none has been measured."""
        found = [name for label in labels for name in self._expand(label) if self.values.get(name)]
        pick = min if self.workload.less_is_better else max
        return pick(found, key=self.median) if found else None

    def ratio(self, ours, theirs):
        """How many times better: the median over the rounds."""
        pairs = list(zip(self.values[ours], self.values[theirs]))
        if self.workload.less_is_better:
            pairs = [(b, a) for a, b in pairs]
        return statistics.median(a / b if b else float("inf") for a, b in pairs)

    def verdict(self, goal):
        """(text of the goal, number reached or None, whether that is enough or None)."""
        ours = goal.ours
        if isinstance(goal, Limit):
            value = self.median(ours)
            text = "<= %g %s" % (goal.most, self.workload.unit)
            return text, value, None if value is None else value <= goal.most
        theirs = self.better(goal.versus)
        text = ">= %g x %s" % (goal.ratio, _any_of(goal.versus))
        if ours != "qcow2fs":
            text = "%s: %s" % (ours, text)
        if theirs is None or not self.values.get(ours):
            return text, None, None
        value = self.ratio(ours, theirs)
        return text, value, value >= goal.ratio

    def verdicts(self):
        return [self.verdict(goal) for goal in self.goals]


# --- the machine -----------------------------------------------------------------------------


def _first(path, start):
    try:
        with open(path, encoding="utf-8", errors="replace") as lines:
            return next((line.split(":", 1)[1].strip() for line in lines
                         if line.startswith(start)), "")
    except OSError:
        return ""


def _file_system(path):
    return tools.output("stat", "-f", "-c", "%T", path).strip()


def _commit():
    done = tools.run("git", "-C", run.SOURCE, "describe", "--always", "--dirty", status=None) \
        if tools.have("git") else None
    return done.stdout.strip() if done is not None and done.returncode == 0 else ""


def machine(places):
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": _commit(),
        "processor": _first("/proc/cpuinfo", "model name"),
        "processors": os.cpu_count(),
        "memory": _first("/proc/meminfo", "MemTotal"),
        "kernel": platform.release(),
        "disk": _file_system(places.disk),
        "fio": tools.output("fio", "--version").strip(),
    }


def describe(facts):
    return ("%(date)s, %(processors)s processors (%(processor)s), %(memory)s of memory, Linux "
            "%(kernel)s, disk: %(disk)s, %(fio)s" % facts
            + (", commit %s" % facts["commit"] if facts["commit"] else ""))


# --- the table -------------------------------------------------------------------------------


def number(value):
    """Three digits that count, thousands as k."""
    if value is None:
        return ""
    if value >= 1000:
        return "%.3gk" % (value / 1000) if value < 999500 else "%.4gk" % (value / 1000)
    return "%.3g" % value


def reached(value, enough):
    """Never rounded up to what was missed."""
    return "%s %s" % (number(value), "pass") if enough else "%.4g FAIL" % value


def _cell(row, label):
    if row.values.get(label):
        return number(row.median(label))
    return "failed" if label in row.failed else ""


def _goal_text(verdict):
    text, value, enough = verdict
    if value is None:
        return "%s: not measured" % text
    return "%s: %s" % (text, reached(value, enough))


def _other_labels(row, columns):
    """What has no column of its own, as text."""
    rest = [label for label in row.values if label not in columns]
    return "; ".join("%s %s" % (label, number(row.median(label))) for label in rest)


def table(rows, columns):
    """Markdown, aligned so that it can be read as it is."""
    head = ["workload", "unit", *columns, "others", "must reach: reached"]
    lines = [head]
    for row in rows:
        goals = [_goal_text(verdict) for verdict in row.verdicts()]
        lines.append([row.workload.title, row.workload.unit,
                      *(_cell(row, label) for label in columns), _other_labels(row, columns),
                      "<br>".join(goals)])
    if not any(line[-2] for line in lines[1:]):
        lines = [line[:-2] + line[-1:] for line in lines]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]) - 1)] + [0]
    text = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |"
            for line in lines]
    text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(text)


def summary(rows):
    verdicts = [verdict for row in rows for verdict in row.verdicts()]
    return "%d goals reached, %d missed, %d not measured" % (
        sum(enough is True for *_, enough in verdicts),
        sum(enough is False for *_, enough in verdicts),
        sum(enough is None for *_, enough in verdicts))


def document(rows):
    return [{
        "name": row.workload.name,
        "title": row.workload.title,
        "unit": row.workload.unit,
        "less-is-better": row.workload.less_is_better,
        "rounds": row.values,
        "medians": {label: row.median(label) for label in row.values},
        "failed": row.failed,
        "goals": [{"goal": text, "reached": value, "pass": enough}
                  for text, value, enough in row.verdicts()],
    } for row in rows]


def write_json(path, told):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(told, file, indent=2)
        file.write("\n")
