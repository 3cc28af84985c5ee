"""Plots as part of a page: matplotlib's SVG, cleaned, in the page's own fonts, and in the colours of its theme."""

import io
import re
import xml.etree.ElementTree as ET

import numpy as np
from fastcore.xml import FT, B, Div, Figcaption, Figure, P, Safe, ft
from matplotlib import rc_context
from matplotlib.colors import to_hex
from matplotlib.image import AxesImage
from matplotlib.text import Text

from mura_fastai.results.pictures import COLOURS

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
# The series colours once more, for a dark ground: each at least 4.5 times as bright as it.
DARK_COLOURS = ("#4ba3e3", "#f0b030", "#2fc79a", "#e29cc4", "#86cdf5", "#f58a4b", "#a9b3be")
# What is written in a figure -> the token of the page that takes its place
TOKENS = {c.lower(): f"--series-{i}" for i, c in enumerate(COLOURS)} | {
    "#000000": "--ink", "#ffffff": "--paper",
    **dict.fromkeys(("#333333", "#444444", "#555555", "#666666", "#777777", "#888888", "#999999"), "--muted"),
    **dict.fromkeys(("#aaaaaa", "#b0b0b0", "#bbbbbb", "#cccccc", "#d0d0d0", "#dddddd", "#e5e5e5", "#eeeeee"), "--line"),
}  # fmt: skip
MANY = 4000  # points of one line or cloud, from which on it is drawn as a picture: the file stays small
SPARE = 6  # points to the right: letters of the page's font may be a little wider than those of matplotlib's
LEAST = 0.74  # of its own width, to which a plot shrinks on a narrow screen; below that its letters are too small


def _series(colours) -> str:
    return "".join(f"--series-{i}:{c};" for i, c in enumerate(colours))


STYLE = f"""
:root {{ {_series(COLOURS)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_series(DARK_COLOURS)} }} }}
@media print {{ :root {{ {_series(COLOURS)} }} }}
.plots {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); gap: 1rem 2rem;
  align-items: start; }}
.plots > * {{ min-width: 0; }}
.chart {{ margin: 1rem 0; }}
.chart svg {{ display: block; width: 100%; stroke-linejoin: round; }}
.chart svg {{ fill: var(--ink); overflow: visible; }} .chart .sheet svg {{ fill: #000000; }}
.chart text {{ font-family: inherit; white-space: pre; }}
.chart .sheet {{ background: #ffffff; border-radius: var(--round); padding: .3rem; width: fit-content;
  max-width: 100%; }}
.chart figcaption {{ margin: 0 0 .5rem; }} .chart .foot {{ font-size: .82rem; color: var(--muted); margin: .3rem 0 0; }}
.chart figcaption b {{ display: block; color: var(--ink); font-size: 1.02rem; }}
@media print {{ .plots {{ display: block; }} .chart svg {{ min-width: 0 !important; max-height: 105mm; }}
  .chart .wide {{ overflow: visible; }} .chart .sheet {{ padding: 0; }} }}
"""


def chart(
    fig,  # a matplotlib Figure with a title; pyplot lets go of it
    name: str,  # unique on the page: letters, digits, -
    how: str = "",  # how to read it
    told: bool = True,  # whether its own note belongs to it here
) -> FT:
    """A figure of the page: the plot, which scrolls in its own box where the screen is too narrow, and its caption.

    Its title and the note at its foot become part of the caption, where they break as the screen is wide."""
    from matplotlib import pyplot as plt

    title, foot = fig.get_suptitle(), fig.get_supxlabel()
    for words, put in ((title, fig.suptitle), (foot, fig.supxlabel)):
        if words:
            put("")
    coloured = has_own_ground(fig)
    svg, width = inline_svg(fig, name, f"{title}. {how}".strip(), themed=not coloured)
    plt.close(fig)
    # A picture of its own colours stands on white in the dark theme too: its letters were chosen for that.
    svg = Div(svg, cls="sheet") if coloured else svg
    box = Div(svg, cls="wide", tabindex="0", role="group", aria_label=f"Plot: {title}")
    small = P(foot.replace("\n", " "), cls="foot") if told and foot else None
    return Figure(Figcaption(B(title), how), box, small, cls="chart", style=f"max-width:{width + 12:.0f}px")


def has_own_ground(
    fig,  # a matplotlib Figure
) -> bool:
    "Whether letters may stand on a colour or a picture, so that exchanging black and white would hide them."
    white = [t for t in fig.findobj(Text) if t.get_text().strip() and to_hex(t.get_color()) == "#ffffff"]
    return bool(white or fig.findobj(AxesImage))


def inline_svg(
    fig,  # a matplotlib Figure
    name: str,  # begins the ids of its parts, which must not meet those of another one
    label: str,  # read to people who do not see it
    themed: bool = True,  # black, white, greys and series colours follow the page's theme
) -> tuple[Safe, float]:  # the svg element; its natural width in CSS pixels
    """The figure as an svg element for the middle of a page.

    Only shapes, text and embedded pictures come through: scripts, links and addresses are dropped, all text is
    escaped anew. Text stays text, so that it can be searched and follows the page's font."""
    for line in fig.findobj(lambda o: hasattr(o, "get_xdata") or hasattr(o, "get_offsets")):
        points = line.get_xdata() if hasattr(line, "get_xdata") else line.get_offsets()
        if np.size(points) > MANY:
            line.set_rasterized(True)
    for words in fig.findobj(Text):
        # bytes of a file name that are no text
        words.set_text(words.get_text().encode("utf-8", "replace").decode())
    told = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        # tight: what a layout found no room for is not cut off
        fig.savefig(
            told, format="svg", dpi=150, facecolor="none", bbox_inches="tight", pad_inches=0.04,
            metadata={"Date": None, "Creator": None},
        )  # fmt: skip
    root = ET.fromstring(told.getvalue().encode("utf-8", "replace"))
    width, height = (float(o) for o in root.get("viewBox").split()[2:])
    width += SPARE
    _clean(root, name, themed)
    root.attrib.clear()
    for key, value in {
        "viewBox": f"0 0 {width:g} {height:g}", "role": "img", "aria-label": label,
        # a point of print is 4/3 of a CSS pixel
        "style": f"max-width:{width * 4 / 3:.0f}px;min-width:{width * 4 / 3 * LEAST:.0f}px",
    }.items():  # fmt: skip
        root.set(key, value)
    ET.register_namespace("", SVG)
    ET.register_namespace("xlink", XLINK)
    return Safe(ET.tostring(root, encoding="unicode")), width * 4 / 3


_KEPT = {"g", "path", "text", "tspan", "use", "image", "defs", "clipPath", "rect", "linearGradient", "stop", "pattern"}


def _clean(root: ET.Element, name: str, themed: bool):
    "Drop what a page must not hold, and ids that nothing refers to; the others begin with the name."
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] not in _KEPT:
                parent.remove(child)
    told = ET.tostring(root, encoding="unicode")
    used = set(re.findall(r'href="#([^"]+)"', told)) | set(re.findall(r"url\(#([^)]+)\)", told))
    for element in root.iter():
        for key, value in list(element.attrib.items()):
            plain = key.rpartition("}")[2]
            if plain.startswith("on") or (plain == "id" and value not in used):
                del element.attrib[key]
            elif plain == "id":
                element.set(key, f"{name}-{value}")
            elif plain == "href":
                _keep_inside(element, key, value, name)
            else:
                element.set(key, _attribute(plain, value, name, themed))


def _keep_inside(element: ET.Element, key: str, value: str, name: str):
    "A reference stays where it leads to a part of this figure, or to a picture that it holds itself."
    if value.startswith("#"):
        element.set(key, f"#{name}-{value[1:]}")
    elif not value.startswith("data:image/png;base64,"):
        del element.attrib[key]


def _attribute(plain: str, value: str, name: str, themed: bool) -> str:
    value = value.replace("url(#", f"url(#{name}-")
    if plain == "style":
        value = re.sub(r"font-family:[^;]+;?\s*", "", value)
    if plain in ("style", "fill", "stroke") and themed:
        value = re.sub(r"#[0-9a-fA-F]{6}\b", lambda m: _token(m[0]), value)
    if plain in ("d", "x", "y", "transform", "width", "height", "points"):
        # a hundredth of a point is less than any printer can show
        value = re.sub(r"-?\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), value)
        value = " ".join(value.split())
    return value


def _token(colour: str) -> str:
    "The page's token of a colour; colours without one stay."
    token = TOKENS.get(colour.lower())
    return f"var({token})" if token else colour


def interval_bar(
    x: float,  # the score
    lo: float,  # its interval; NaN for none
    hi: float,
    least: float,  # at the left end of the bar
    most: float,  # at its right end
    mark: float = np.nan,  # a place to compare with, such as what the region alone scores
) -> FT | str:  # "" where there is no score
    "A score and its interval as a small picture beside its number, so nothing that has to be read aloud."
    if np.isnan(x):
        return ""
    width, height = 110, 14

    def at(v):
        return round(4 + (width - 8) * float(np.clip((v - least) / (most - least), 0, 1)), 1)

    parts = [ft("line", x1=4, x2=width - 4, y1=7, y2=7, cls="track")]
    if not np.isnan(mark):
        parts.append(ft("line", x1=at(mark), x2=at(mark), y1=1, y2=height - 1, cls="mark"))
    if not np.isnan(lo):
        parts.append(ft("line", x1=at(lo), x2=at(hi), y1=7, y2=7, cls="reach"))
    parts.append(ft("circle", cx=at(x), cy=7, r=4))
    return ft("svg", *parts, viewBox=f"0 0 {width} {height}", width=width, height=height, cls="bar", aria_hidden="true")
