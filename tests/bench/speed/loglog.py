# SPDX-License-Identifier: MIT
"""The pictures of --growth: a panel for each curve of a family, both axes logarithmic.

Thin lines in the background rise as what is linear does: a curve that is as steep grows as its axis.
"""

import math

from .drawing import COLOURS, Axis, dot, line, page, text
from .slopes import amount, place_name

WIDE, HIGH = 500, 300          # of a panel
LEFT, RIGHT, TOP, BOTTOM = 64, 14, 40, 44
COLUMNS, HEAD, EDGE = 2, 84, 12


def _kinds(label):
    """(colour, whether it is dashed)"""
    return COLOURS[label.split(",")[0]], label.endswith("sparse")


def _decades(values):
    least = 10.0 ** math.floor(math.log10(min(values)))
    most = 10.0 ** math.ceil(math.log10(max(values)))
    return least, most if most > least else least * 10


def _grid(family, places, unit, x, y, bounds):
    low, high = bounds
    parts, value = [], low
    while value <= high * 1.001:
        at = y.place(value)
        parts.append(line("grid", x.at, at, x.at + x.length, at))
        tick = "%g %s" % (value, unit) if unit != "ms" else amount(value, unit)
        parts.append(text(x.at - 6, at + 4, tick, "soft", "end"))
        value *= 10
    for place in places:
        at = x.place(place)
        parts.append(line("grid", at, y.at, at, y.at + y.length))
        parts.append(text(at, y.at + 16, place_name(family, place), "soft", "middle"))
    return parts


def _linear(places, x, y, bounds):
    """Lines y = a x through the panel, a decade apart, each cut off where the panel ends."""
    low, high = bounds
    first, last = min(places), max(places)
    parts, start = [], low
    while start * last / first > low and start > low * first / last * 10:
        start /= 10
    while start <= high:
        points = [(place, start * place / first) for place in
                  (max(first, low / start * first), min(last, high / start * first))]
        if points[0][0] < points[1][0]:
            parts.append(line("linear", x.place(points[0][0]), y.place(points[0][1]),
                              x.place(points[1][0]), y.place(points[1][1])))
        start *= 10
    return parts


def _curve(one, x, y):
    colour, dashed = _kinds(one.label)
    places = [(x.place(place), y.place(value)) for place, value in one.points]
    parts = ['<path class="curve %s%s" d="M%s"/>' % (colour, " dashed" if dashed else "", "L".join(
        "%.1f %.1f" % place for place in places))]
    for (at_x, at_y), (place, value) in zip(places, one.points):
        parts.append(dot(colour + (" hollow" if dashed else ""), at_x, at_y, 3.5, "%s, %s: %s" % (
            one.label, place_name(one.family, place), amount(value, one.curve.unit))))
    return parts


def _slopes(found):
    told = {}
    for one in found:
        if one.end() is not None:
            name, _comma, kind = one.label.partition(", ")
            told.setdefault(name, []).append((kind + " %.2f" % one.end()).strip())
    return "slope at the end: " + "; ".join(
        "%s %s" % (name, ", ".join(slopes)) for name, slopes in told.items()) if told else ""


def _panel(family, curve, found, left, top):
    shown = [one for one in found if one.curve is curve and one.points]
    parts = [text(left + LEFT, top + 16, curve.title, "text head"),
             text(left + LEFT, top + 32, _slopes(shown), "soft")]
    values = [max(value, 1e-3) for one in shown for _place, value in one.points]
    if not values:
        return parts
    places = sorted({place for one in shown for place, _value in one.points})
    bounds = _decades(values)
    x = Axis(places[0], places[-1], left + LEFT, WIDE - LEFT - RIGHT)
    y = Axis(*bounds, top + HIGH - BOTTOM, TOP + BOTTOM - HIGH)
    parts += _linear(places, x, y, bounds) if len(places) > 1 else []
    parts += _grid(family, places, curve.unit, x, y, bounds)
    for one in shown:
        parts += _curve(one, x, y)
    return parts


def _legend(labels, top):
    parts, at = [], EDGE + LEFT
    for label in labels:
        colour, dashed = _kinds(label)
        parts.append('<path class="curve %s%s" d="M%d %dh26"/>' % (
            colour, " dashed" if dashed else "", at, top - 4))
        parts.append(text(at + 34, top, label, "text"))
        at += 60 + 7 * len(label)
    return parts


def write(path, heading, family, found):
    """The picture of a family, of what was found of its curves."""
    curves = [curve for curve in family.curves if any(one.curve is curve and one.points
                                                     for one in found)]
    labels = list(dict.fromkeys(one.label for one in found if one.points))
    width = 2 * EDGE + COLUMNS * WIDE
    height = HEAD + -(-len(curves) // COLUMNS) * HIGH + EDGE
    parts = [text(EDGE + LEFT, 30, family.title, "text name"),
             text(EDGE + LEFT, 48, heading, "soft"), *_legend(labels, 72)]
    for index, curve in enumerate(curves):
        parts += _panel(family, curve, found, EDGE + index % COLUMNS * WIDE,
                        HEAD + index // COLUMNS * HIGH)
    page(path, family.title, (width, height), parts)
