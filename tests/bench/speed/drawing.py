# SPDX-License-Identifier: MIT
"""What all pictures of the benchmark are drawn with: colours, light or dark, axes, words."""

import math
from xml.sax.saxutils import escape

STYLE = """
svg{font-family:system-ui,'DejaVu Sans',Helvetica,Arial,sans-serif;font-size:12px}
.page{fill:#fff}.text{fill:#1b2026}.soft{fill:#5b6570;font-size:11px}.grid{stroke:#dfe4e9}
.linear{stroke:#dfe4e9;stroke-dasharray:2 4}.name{font-size:19px;font-weight:600}
.head{font-size:14px;font-weight:600}.curve{fill:none;stroke-width:2.2}
.k0{stroke:#0072b2;fill:#0072b2}.k1{stroke:#d55e00;fill:#d55e00}.k2{stroke:#009e73;fill:#009e73}
.k3{stroke:#7a828b;fill:#7a828b}.k4{stroke:#a04b92;fill:#a04b92}.k5{stroke:#b58900;fill:#b58900}
.k6{stroke:#2f3740;fill:#2f3740}.k7{stroke:#56b4e9;fill:#56b4e9}
.curve{fill:none}.goal{stroke:#5b6570;stroke-dasharray:6 4}.dashed{stroke-dasharray:6 4}.hollow{fill:#fff}
@media (prefers-color-scheme:dark){
.page{fill:#15191e}.text{fill:#e8ebee}.soft{fill:#9aa5b1}.grid{stroke:#2b333b}.linear{stroke:#333d47}
.k0{stroke:#3f9fdc;fill:#3f9fdc}.k1{stroke:#ea6a1c;fill:#ea6a1c}.k2{stroke:#12b78a;fill:#12b78a}
.k3{stroke:#98a2ad;fill:#98a2ad}.k4{stroke:#cf86c2;fill:#cf86c2}.k5{stroke:#d9b23c;fill:#d9b23c}
.k6{stroke:#dfe4e9;fill:#dfe4e9}.k7{stroke:#9bd3f5;fill:#9bd3f5}
.curve{fill:none}.hollow{fill:#15191e}
}"""
COLOURS = {"qcow2fs": "k0", "qemu-img": "k1", "qsd": "k2", "raw": "k3", "nbdfuse": "k4",
           "qcowmount": "k5", "floor": "k6", "rsync": "k6", "guestmount": "k6", "alone": "k7",
           "qcow2ctl hash": "k7"}


class Axis:
    """From numbers to places of a picture; upwards the length is negative."""

    def __init__(self, least, most, at, length):
        self.least, self.most = math.log(least), math.log(max(most, least * 1.0001))
        self.at, self.length = at, length

    def place(self, value):
        return self.at + (math.log(value) - self.least) / (self.most - self.least) * self.length


def text(x, y, words, kind, anchor="start"):
    return '<text class="%s" x="%.1f" y="%.1f" text-anchor="%s">%s</text>' % (
        kind, x, y, anchor, escape(words))


def line(kind, x, y, to_x, to_y):
    return '<path class="%s" d="M%.1f %.1fL%.1f %.1f"/>' % (kind, x, y, to_x, to_y)


def dot(kind, x, y, radius, told):
    """With what a pointer that rests on it is told."""
    return '<circle class="%s" cx="%.1f" cy="%.1f" r="%.1f"><title>%s</title></circle>' % (
        kind, x, y, radius, escape(told))


def page(path, title, extent, parts):
    """Writes a picture of so many points, width and height."""
    around = ['<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d">'
              % (*extent, *extent), "<style>%s\n</style>" % STYLE,
              '<rect class="page" width="%d" height="%d" rx="6"/>' % extent,
              "<title>%s</title>" % escape(title)]
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(around + parts) + "\n</svg>\n")
