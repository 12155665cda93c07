#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""docs/pictures.md shows what qcow2ctl map --svg draws; and a browser shows that as it is meant.

The browser is Chromium, which is large: QCOW2FS_LONG=1 wants it, otherwise it is asked where it is there.
"""

import json
import os
import re
import struct
import zlib

from lib import bad, ctl, image, qcow2, run, tap, tools
from lib.image import MiB
from lib.tap import check, check_equal

suite = tap.Suite(needs=[tools.QEMU])
DOCS = os.path.join(run.SOURCE, "docs")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((name for name in BROWSERS if tools.have(name)), None)
LONG = os.environ.get("QCOW2FS_LONG") == "1"
SCHEMES = ("dark", "light")  # as the browser numbers them


def text_of(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def pictures_of_page(page="pictures.md"):
    return re.findall(r"!\[[^]]+\]\((pictures/[a-z-]+\.svg)\)", text_of(os.path.join(DOCS, page)))


def look(svg):
    """What all pictures have in common: the style and the patterns."""
    return re.search(r"<style>.*</defs>", svg, re.DOTALL).group(0)


@suite.test("the pages show all pictures that are beside them, and those of disks look as they are drawn now")
def _(directory):
    named = pictures_of_page()
    check(len(named) >= 5, "only %r", named)
    there = ["pictures/" + name for name in os.listdir(os.path.join(DOCS, "pictures"))]
    check_equal(sorted(named + pictures_of_page("performance.md")), sorted(there), "the pictures")
    now = look(ctl.ctl("map", "--svg=-", bad.sample("plain", directory)).stdout)
    for name in named:
        check_equal(look(text_of(os.path.join(DOCS, name))), now, "the look of %s" % name)


# --- in the browser ------------------------------------------------------------------------------

SCRIPT = """
const box = element => { const b = element.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom]; };
const fill = element => getComputedStyle(element).fill;
const own = element => Array.from(element.children).find(child => child.tagName == 'title');
const touches = root => cell => {
    const [left, top, right, bottom] = box(cell);
    const found = root.elementFromPoint((left + right) / 2, (top + bottom) / 2);
    return found === cell && own(cell) !== undefined && own(cell).textContent.length > 10;
};
const tell = root => {
    const svg = root.querySelector('svg');
    svg.scrollIntoView();
    const touched = Array.from(svg.querySelectorAll('.over path')).map(touches(root));
    return {
    dark: matchMedia('(prefers-color-scheme: dark)').matches,
    page: fill(svg.querySelector('.page')),
    size: box(svg),
    texts: Array.from(svg.querySelectorAll('text')).map(text =>
        ({text: text.textContent, box: box(text), fill: fill(text),
          inside: Array.from(text.children).map(fill), size: parseFloat(getComputedStyle(text).fontSize)})),
    cells: touched.length, touched: touched.filter(Boolean).length,
    bar: Array.from(svg.querySelectorAll(':scope > rect')).filter(own).map(part => own(part).textContent),
    legend: Array.from(svg.querySelectorAll('rect[rx][class^=k]')).map(mark => ({kind: mark.getAttribute('class'), fill: fill(mark)})),
    drawn: Array.from(new Set(Array.from(svg.querySelectorAll('[class^=k]')).map(mark => mark.getAttribute('class')))),
    };
};
document.getElementById('told').textContent =
    JSON.stringify(Array.from(document.querySelectorAll('div')).map(place => tell(place.shadowRoot)));
"""


def browse(directory, scheme, *arguments):
    return tools.run(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
                     "--user-data-dir=" + os.path.join(directory, "browser"), "--window-size=1100,3000",
                     "--blink-settings=preferredColorScheme=%d" % SCHEMES.index(scheme), *arguments,
                     env={"HOME": directory}).stdout


def shown(directory, pictures, scheme):
    """What the browser has made of each of the pictures."""
    page = os.path.join(directory, "page.html")
    with open(page, "w", encoding="utf-8") as file:
        file.write('<!doctype html><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
                   '<body style="margin:0">%s<pre id="told"></pre><script>%s</script>'
                   # Each with a style of its own.
                   % ("".join('<div><template shadowrootmode="open">%s</template></div>'
                              % svg[svg.index("<svg"):] for svg in pictures), SCRIPT))
    dom = browse(directory, scheme, "--dump-dom", "file://" + page)
    told = re.search(r'<pre id="told">(.*?)</pre>', dom, re.DOTALL).group(1)
    for name, letter in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
        told = told.replace(name, letter)
    return json.loads(told)


def colour(text):
    return tuple(int(number) for number in re.match(r"rgb\((\d+), (\d+), (\d+)\)$", text).groups())


def luminance(text):
    parts = [value / 255 for value in colour(text)]
    parts = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(one, other):
    """As the Web Content Accessibility Guidelines have it: 1 to 21; 4.5 is readable."""
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def overlap(one, other):
    return (min(one[2], other[2]) - max(one[0], other[0]) > 1
            and min(one[3], other[3]) - max(one[1], other[1]) > 1)


def check_shown(told, scheme):
    check_equal(told["dark"], scheme == "dark", "whether it is dark")
    check((luminance(told["page"]) < 0.05) == told["dark"], "the page is %s in %s", told["page"], scheme)
    left, top, right, bottom = told["size"]
    check(right - left > 900 and bottom - top > 300, "its size is %r", told["size"])
    check(len(told["texts"]) > 10, "only %r", told["texts"])
    for text in told["texts"]:
        for ink in text["inside"] or [text["fill"]]:
            check(contrast(ink, told["page"]) >= 4.5, "%s on %s: %r", ink, told["page"], text["text"])
        check(text["size"] >= 11, "too small: %r", text)
        check(text["box"][0] >= left and text["box"][2] <= right and text["box"][1] >= top
              and text["box"][3] <= bottom, "past the border: %r", text)
    for number, text in enumerate(told["texts"]):
        for other in told["texts"][:number]:
            check(not overlap(text["box"], other["box"]), "%r lies over %r", text["text"], other["text"])
    check(told["cells"] > 0, "no squares")
    check_equal(told["touched"], told["cells"], "squares that tell the pointer what they are")
    kinds = {mark["kind"]: mark["fill"] for mark in told["legend"]}
    check_equal(len(told["bar"]), len(kinds), "parts of the bar with a title")
    # k8 and k9 are the bars beside the plot as well.
    check(set(told["drawn"]) - {"k8", "k9"} <= set(kinds), "%r are drawn, %r explained", told["drawn"], kinds)
    plain = [ink for ink in kinds.values() if not ink.startswith("url")]
    check_equal(len(set(plain)), len(plain), "colours of as many kinds")
    for ink in plain:
        for other in plain:
            distance = sum((a - b) ** 2 for a, b in zip(colour(ink), colour(other))) ** 0.5
            check(ink == other or distance > 40, "%s and %s are too near each other", ink, other)


def samples(directory):
    """Pictures of the page, and of all kinds at once, and of 16 TiB."""
    yield from (text_of(os.path.join(DOCS, name)) for name in pictures_of_page())
    backing, kind = "0.qcow2", "qcow2"
    image.create(os.path.join(directory, backing), 64 * MiB)
    for number in range(1, 5):
        path = image.create(os.path.join(directory, "%d.qcow2" % number), 64 * MiB, backing=backing,
                            backing_format=kind)
        image.io(os.path.join(directory, backing), "write -q %dM 3M" % (4 * number))
        backing = os.path.basename(path)
    image.io(path, "write -q 32M 2M")
    tools.run("qemu-img", "snapshot", "-c", "one", path)
    image.io(path, "write -q 40M 2M", "write -q -c -P 1 44M 128k", "write -q -z 46M 2M", "write -q 50M 1M",
             "write -q -z 50M 1M")
    with qcow2.Qcow2(path) as opened:
        opened.set_l2_entry(60 * MiB, qcow2.COPIED | 1 << 50)
    yield ctl.ctl("map", "--svg=-", path, status=1).stdout
    path = image.create(os.path.join(directory, "huge.qcow2"), "16T")
    image.io(path, *["write -q %dG 64k" % (number * 161) for number in range(100)])
    yield ctl.ctl("map", "--svg=-", path).stdout


def in_the_browser(directory):
    pictures = list(samples(directory))
    for svg in pictures:
        check(len(svg.encode()) < 2 * MiB, "%d bytes", len(svg))
    for scheme in SCHEMES:
        told = shown(directory, pictures, scheme)
        check_equal(len(told), len(pictures), "pictures in the browser")
        for picture in told:
            check_shown(picture, scheme)


def in_a_page(directory):
    for scheme in SCHEMES:
        target, page = os.path.join(directory, scheme + ".png"), os.path.join(directory, "page.html")
        with open(page, "w", encoding="utf-8") as file:  # its round corner is out of sight
            file.write('<!doctype html><meta name="color-scheme" content="light dark">'
                       '<img style="position:absolute;left:-12px;top:-12px" src="file://%s">'
                       % os.path.join(DOCS, pictures_of_page()[0]))
        browse(directory, scheme, "--screenshot=" + target, "file://" + page)
        with open(target, "rb") as file:
            data = file.read()
        pixels, at = b"", 8
        while at < len(data):
            length, name = struct.unpack(">I4s", data[at:at + 8])
            pixels += data[at + 8:at + 8 + length] if name == b"IDAT" else b""
            at += 12 + length
        # Whatever the filter of the first line, its first pixel is as it is.
        first = "rgb(%d, %d, %d)" % tuple(zlib.decompress(pixels)[1:4])
        check((luminance(first) < 0.05) == (scheme == "dark"), "%s in %s", first, scheme)


if LONG or BROWSER:
    NEEDS = [tools.tool(BROWSER or "chromium")]
    suite.test("in a browser all is readable, in light and dark, explained, and told to the pointer",
               needs=NEEDS)(in_the_browser)
    suite.test("a picture in a page is light or dark as the page is", needs=NEEDS)(in_a_page)

if __name__ == "__main__":
    suite.main()
