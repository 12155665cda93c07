# SPDX-License-Identifier: MIT
"""The SVG chart: for each workload a group of bars, each target in relation to qcow2fs.

A bar longer than the line at 1 is better than qcow2fs, whether more or less of the unit is
better. Ratios are on a logarithmic axis, where twice and half are as far from 1.
"""

import math
from xml.sax.saxutils import escape

from .results import number

WIDTH, LEFT, RIGHT, TOP = 1080, 450, 90, 70
BAR, GAP = 11, 12
LEAST, MOST = 1 / 32, 8
COLOURS = {"raw": "#9aa0a6", "floor": "#5f6368", "qsd": "#d9822b", "nbdfuse": "#8f5bb5",
           "qcowmount": "#3f9c6b", "qcow2fs": "#1a66c2", "qemu-img": "#d9822b"}
STYLE = ("text{font:12px sans-serif;fill:#202124}.small{font-size:10px;fill:#5f6368}"
         ".head{font-size:16px;font-weight:bold}")


def _colour(label):
    return COLOURS.get(label) or COLOURS.get(label.split("-")[0].split(" ")[0], "#b0b0b0")


def _x(ratio):
    span = math.log(MOST) - math.log(LEAST)
    inside = min(max(ratio, LEAST), MOST)
    return LEFT + (math.log(inside) - math.log(LEAST)) / span * (WIDTH - LEFT - RIGHT)


def _text(x, y, text, kind="", anchor="start"):
    return '<text x="%.1f" y="%.1f" text-anchor="%s"%s>%s</text>' % (
        x, y, anchor, ' class="%s"' % kind if kind else "", escape(text))


def _shown(rows):
    """Those with something to compare."""
    return [row for row in rows if row.values.get("qcow2fs") and len(row.values) > 1]


def _grid(height):
    parts = []
    ratio = LEAST
    while ratio <= MOST:
        x = _x(ratio)
        parts.append('<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="%s" stroke-width="%s"/>'
                     % (x, TOP - 8, x, height - 14, "#1a66c2" if ratio == 1 else "#e0e0e0",
                        1.5 if ratio == 1 else 1))
        name = "%g" % ratio if ratio >= 1 else "1/%g" % (1 / ratio)
        parts.append(_text(x, TOP - 14, name, "small", "middle"))
        ratio *= 2
    return parts


def _group(row, y):
    parts = [_text(LEFT - 80, y + BAR - 1, row.workload.title, anchor="end")]
    for label in row.values:
        ratio = 1.0 if label == "qcow2fs" else row.ratio(label, "qcow2fs")
        parts.append('<rect x="%.1f" y="%.1f" width="%.1f" height="%d" fill="%s"/>'
                     % (LEFT, y, max(1.0, _x(ratio) - LEFT), BAR - 2, _colour(label)))
        parts.append(_text(LEFT - 4, y + BAR - 3, label, "small", "end"))
        value = "%s %s" % (number(row.median(label)), row.workload.unit) \
            if label == "qcow2fs" else "%.2g" % ratio
        parts.append(_text(_x(ratio) + 4, y + BAR - 3, value, "small"))
        y += BAR
    return parts, y + GAP


def write(path, heading, rows):
    body, y = [], TOP
    for row in _shown(rows):
        parts, y = _group(row, y)
        body += parts
    height = y + 10
    parts = ['<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" '
             'viewBox="0 0 %d %d">' % (WIDTH, height, WIDTH, height),
             "<style>%s</style>" % STYLE,
             '<rect width="%d" height="%d" fill="white"/>' % (WIDTH, height),
             _text(16, 24, "Speed in relation to qcow2fs: longer is faster", "head"),
             _text(16, 40, heading, "small"), *_grid(height), *body, "</svg>"]
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(parts) + "\n")
