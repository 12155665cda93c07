# SPDX-License-Identifier: MIT
"""What --growth has found: points of a curve, how steep they are, the table and the JSON document."""

import math
import statistics

from .images import GiB, KiB, TiB
from .results import number

LINEAR = 1.15  # of the slope at the end: as much as measuring is off by
END = 3        # so many places are the end


def place_name(family, place):
    if not family.unit:
        return "%d" % place
    return "%d TiB" % (place // TiB) if place >= TiB else "%d GiB" % (place // GiB)


def amount(value, unit):
    """With the unit that suits it."""
    steps = ((1000, "s"), (1, "ms"), (0.001, "us")) if unit == "ms" else \
        ((KiB, "GiB"), (1, "MiB"), (1 / KiB, "KiB"))
    factor, name = next((step for step in steps if value >= step[0] * 0.999), steps[-1])
    return "%s %s" % (number(value / factor), name)


class Grown:
    """The points of a line of a curve: (place, number), and why there are no more."""

    def __init__(self, family, curve, label):
        self.family, self.curve, self.label = family, curve, label
        self.points = []
        self.failed = None

    @staticmethod
    def _slope(points):
        """Of the straight line in a log-log picture that fits best; None of fewer than two points."""
        if len(points) < 2:
            return None
        x, y = ([math.log(max(point[i], 1e-6)) for point in points] for i in (0, 1))
        return statistics.linear_regression(x, y).slope

    def is_own(self):
        return self.label.startswith("qcow2fs")

    def slope(self):
        return self._slope(self.points)

    def end(self):
        """The slope where it is largest."""
        return self._slope(self.points[-END:])

    def each(self):
        """What one more (GiB, image, ...) adds, from the first place to the last."""
        if len(self.points) < 2:
            return None
        (x, y), (to_x, to_y) = self.points[0], self.points[-1]
        return (to_y - y) / (to_x - x) * (GiB if self.family.unit else 1)

    def enough(self):
        """Whether it is at most linear; None where that cannot be told, or is not asked."""
        end = self.end()
        return end <= LINEAR if end is not None and self.is_own() else None

    def worse(self):
        """Whether it is of our own, and found to be worse than linear."""
        return self.enough() is False


# --- the table -----------------------------------------------------------------------------------


def _line(one):
    first, last = one.points[0], one.points[-1]
    cells = [one.curve.title, one.label]
    for place, value in (first, last):
        cells.append("%s: %s" % (place_name(one.family, place), amount(value, one.curve.unit)))
    if len(one.points) > 1:
        each = one.each()
        cells += ["%.2f" % one.slope(), "%.2f%s" % (one.end(), " FAIL" if one.worse() else ""),
                  amount(each, one.curve.unit) if each > 0 else "nothing"]
    else:
        cells += ["", "", ""]
    return cells


def table(family, found):
    """Markdown."""
    unit = "GiB" if family.unit else family.axis[:-1]
    rows = [["what", "of", "the least", "the most", "slope", "slope at the end",
             "for one more " + unit]]
    rows += [_line(one) for one in found if one.points]
    text = ["| %s |" % " | ".join(row) for row in rows]
    text.insert(1, "|" + "---|" * len(rows[0]))
    return "\n".join(text)


def failures(found):
    return ["%s, %s%s: %s" % (one.curve.title, one.label,
                              " behind %s" % place_name(one.family, one.points[-1][0])
                              if one.points else "", one.failed) for one in found if one.failed]


def summary(found):
    told = [one.enough() for one in found if one.enough() is not None]
    return "%d curves of qcow2fs are at most linear, %d are not" % (told.count(True), told.count(False))


def document(found):
    return [{
        "name": one.curve.name, "title": one.curve.title, "axis": one.family.axis,
        "unit": one.curve.unit, "line": one.label, "points": one.points, "failed": one.failed,
        "slope": one.slope(), "end": one.end(), "each": one.each(), "pass": one.enough(),
    } for one in found]
