# SPDX-License-Identifier: MIT
"""The pictures of --jobs and --tails: a row for each, a dot for each target, on a logarithmic axis."""

import collections

from .drawing import COLOURS, Axis, dot, line, page, text
from .results import number

WIDTH, LEFT, RIGHT, HEAD, EDGE = 1024, 330, 24, 116, 12
ROW, STEP = 26, 13  # of a job; of a target of a tail
MOST_OF_RAW = 1.15


def _colour(label):
    known = next((name for name in COLOURS if label.startswith(name)), None)
    return COLOURS.get(label) or COLOURS.get(known, "k1")


def _head(title, under, heading, labels):
    parts = [text(EDGE + 8, 30, title, "text name"), text(EDGE + 8, 48, under, "soft"),
             text(EDGE + 8, 64, heading, "soft")]
    at = EDGE + 14
    for label in labels:
        parts.append(dot(_colour(label), at, 84, 4.5, label))
        parts.append(text(at + 10, 88, label, "text"))
        at += 34 + 7 * len(label)
    return parts


def _grid(axis, ticks, bottom):
    parts = []
    for value, name in ticks:
        at = axis.place(value)
        parts.append(line("grid", at, HEAD - 4, at, bottom))
        parts.append(text(at, HEAD - 8, name, "soft", "middle"))
    return parts


def _steps(values, base):
    """Powers of `base`, from below the least to above the most."""
    least, most = 1.0, 1.0
    while least > min(values):
        least /= base
    while most < max(values):
        most *= base
    found = [least]
    while found[-1] < most * 0.999:
        found.append(found[-1] * base)
    return found


def _labels(rows):
    return list(dict.fromkeys(label for row in rows for label in row.values))


def _write(path, words, heading, body):
    """`body` is (function of an axis and a top that gives parts, labels, ticks, height)."""
    draw, labels, ticks, high = body
    title, under = words
    axis = Axis(ticks[0][0], ticks[-1][0], LEFT, WIDTH - LEFT - RIGHT)
    height = HEAD + high + EDGE
    parts = _head(title, under, heading, labels) + _grid(axis, ticks, height - EDGE) + draw(axis)
    page(path, title, (WIDTH, height), parts)


# --- jobs -----------------------------------------------------------------------------------------


def _of_raw(row):
    """How many times as long as the plain file each target took: the medians of the rounds."""
    return {label: 1 / row.ratio(label, "raw") for label in row.values if row.ratio(label, "raw")}


def _job(row, axis, y):
    parts = [text(LEFT - 14, y + 4, row.workload.title, "text", "end"),
             line("grid", LEFT, y, WIDTH - RIGHT, y)]
    # The own one last, above all others.
    for label, times in sorted(_of_raw(row).items(), key=lambda one: one[0] == "qcow2fs"):
        parts.append(dot(_colour(label), axis.place(times), y, 5.5 if label == "qcow2fs" else 4.5,
                         "%s: %s %s, %.3g of raw" % (label, number(row.median(label)),
                                                     row.workload.unit, times)))
    return parts


def jobs(path, heading, rows):
    rows = [row for row in rows if row.values.get("raw")]
    if not rows:
        return
    ticks = [(value, "%g x" % value) for value in
             _steps([times for row in rows for times in _of_raw(row).values()], 2)]

    def draw(axis):
        at = axis.place(MOST_OF_RAW)
        parts = [line("goal", at, HEAD - 4, at, HEAD + ROW * len(rows))]
        for index, row in enumerate(rows):
            parts += _job(row, axis, HEAD + ROW * index + ROW // 2)
        return parts

    _write(path, ("Whole jobs", "how many times as long as with the plain file: further left is faster; "
                  "the broken line is the goal, 1.15"), heading,
           (draw, _labels(rows), ticks, ROW * len(rows)))


# --- tails ----------------------------------------------------------------------------------------


def _distributions(rows):
    """{title of the load: {label: [(percentile, us), ..]}}, in the order of the rows."""
    found = collections.OrderedDict()
    for row in rows:
        what, shown, load = row.workload.title.split(", ", 2)
        of = found.setdefault("%s: %s" % (load, what.split(" and ")[-1]), {})
        for label in row.values:
            of.setdefault(label, []).append((shown, row.median(label)))
    return found


def _tail(label, told, axis, y):
    places = [axis.place(max(value, 1)) for _shown, value in told]
    parts = [line("curve " + _colour(label), min(places), y, max(places), y)]
    for index, (at, (shown, value)) in enumerate(zip(places, told)):
        last = index == len(told) - 1
        parts.append(dot(_colour(label) + (" hollow" if last else ""), at, y, 2.5 + 0.5 * index,
                         "%s, %s: %s us" % (label, shown, number(value))))
    return parts


def tails(path, heading, rows):
    found = _distributions(rows)
    if not found:
        return
    values = [value for of in found.values() for told in of.values() for _shown, value in told]
    ticks = [(value, "%g us" % value if value < 1000 else "%g ms" % (value / 1000) if value < 1e6
              else "%g s" % (value / 1e6)) for value in _steps([max(one, 1) for one in values], 10)]

    def draw(axis):
        parts, y = [], HEAD + 10
        for title, of in found.items():
            middle = y + STEP * (len(of) - 1) / 2 + 4
            parts.append(text(LEFT - 14, middle, title, "text", "end"))
            for label, told in of.items():
                parts += _tail(label, told, axis, y)
                y += STEP
            y += STEP
        return parts

    _write(path, ("The slowest requests", "4K, one after another, meanwhile: the median, the slowest in a "
                  "hundred, in a thousand, of all (hollow)"), heading,
           (draw, _labels(rows), ticks, STEP * sum(1 + len(of) for of in found.values())))


def table(rows):
    """Markdown: all four of a target in one cell."""
    found = _distributions(rows)
    labels = _labels(rows)
    lines = ["| meanwhile | %s |" % " | ".join(labels), "|%s" % ("---|" * (1 + len(labels)))]
    for title, of in found.items():
        cells = [" / ".join(number(value) for _shown, value in of.get(label, ())) for label in labels]
        lines.append("| %s | %s |" % (title, " | ".join(cells)))
    return "\n".join(lines)
