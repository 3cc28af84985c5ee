"""One probability on its scale: the threshold, and how the run's valid studies lie, normal ones below the line."""

import numpy as np
from fastcore.xml import FT, Div, Figcaption, Figure, Span, ft

_MIDDLE, _REACH, _HEIGHT = 92, 54, 176  # px: where the line lies, how far the longest bar goes, and the whole
STYLE = """
.scale svg { display: block; width: 100%; height: 176px; overflow: visible; font-size: .8rem; }
.scale text { fill: var(--ink); paint-order: stroke; stroke: var(--sheet); stroke-width: 4px; stroke-linejoin: round; }
.scale .tick { fill: var(--muted); }
.scale .up { fill: var(--missed); } .scale .down { fill: var(--alarm); }
.scale .line { stroke: var(--muted); stroke-width: 1; }
.scale .limit { stroke: var(--ink); stroke-width: 2; stroke-dasharray: 5 4; }
.scale .here { stroke: var(--ink); stroke-width: 3; } .scale path { fill: var(--ink); }
.scale .strong { font-weight: 700; font-size: .9rem; }
.keys { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; }
.keys span::before { content: ""; display: inline-block; width: .8em; height: .8em; margin-right: .4em;
  border-radius: 2px; background: var(--missed); }
.keys .below::before { background: var(--alarm); }
@media (forced-colors: active) { .scale rect { forced-color-adjust: none; } }
"""


def scale(
    p: str,  # the study's probability, as it is written
    threshold: str,  # likewise
    counts: np.ndarray,  # 2 x bins: valid studies that are normal, abnormal; from `Record.histogram`
    where: str = "",  # their region; all where not given
) -> FT:
    "A picture of a probability, and the same in words for those who do not see it."
    bins, (normal, abnormal) = counts.shape[1], counts.sum(1)
    bars = []
    for side, name in ((1, "up"), (0, "down")):
        for k, n in enumerate(counts[side]):
            long = round(_REACH * float(n) / max(int(counts[side].max()), 1), 1)  # rarer ones would not be seen
            y = _MIDDLE - 1 - long if side else _MIDDLE + 1
            if n:
                bars.append(ft("rect", x=_at(k / bins, 0.1), width=f"{90 / bins:.2f}%", y=y, height=long, cls=name))
    here, limit = float(p), float(threshold)
    marks = [
        ft("line", x1=_at(0), x2=_at(1), y1=_MIDDLE, y2=_MIDDLE, cls="line"),
        ft("line", x1=_at(limit), x2=_at(limit), y1=30, y2=_HEIGHT - 24, cls="limit"),
        ft("line", x1=_at(here), x2=_at(here), y1=24, y2=_MIDDLE + 8, cls="here"),
        ft("svg", ft("path", d="M-7,16 L7,16 L0,28 Z"), x=_at(here), overflow="visible"),
        _text(here, 12, f"this study {p}", "strong"),
        _text(limit, _HEIGHT - 10, f"threshold {threshold}"),
    ]
    ends = [_text(v, _HEIGHT - 10, f"{v:g}", "tick") for v in (0, 1) if abs(v - limit) > 0.3]
    above = "above" if here > limit else "not above"
    label = f"The study's probability, {p}, lies {above} the threshold, {threshold}, on a scale from 0 to 1."
    svg = ft("svg", *bars, *marks, *ends, role="img", aria_label=label)
    keys = Div(
        Span("abnormal, above the line", cls="above"), Span("normal, below the line", cls="below"), cls="keys"
    )  # fmt: skip
    whose = f"valid {where} studies" if where else "valid studies"
    told = f"Bars: where the run's {abnormal} abnormal and {normal} normal {whose} lie, each kind by itself."
    return Figure(svg, Figcaption(told, keys) if normal + abnormal else "", cls="scale")


def _at(value: float, more: float = 0.0) -> str:
    "Where a probability stands, in percent of the width: the picture is as wide as its place, its letters stay."
    return f"{5 + 90 * value + more:.2f}%"


def _text(value: float, y: int, words: str, name: str | None = None) -> FT:
    "A text at a probability that does not leave the picture."
    anchor = "start" if value < 0.15 else "end" if value > 0.85 else "middle"
    return ft("text", words, x=_at(value), y=y, text_anchor=anchor, cls=name)
