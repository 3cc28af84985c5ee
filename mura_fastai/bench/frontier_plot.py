"""The frontier as one picture: AUROC over multiply-adds, dots as large as their networks, a line along the front."""

import textwrap
from collections.abc import Sequence
from itertools import pairwise, zip_longest
from math import floor, isnan, log10, nan, sqrt

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from mura_fastai.bench.frontier_text import data_line, headline, measured_line
from mura_fastai.results.pictures import COLOURS, headed, new_figure, plain_text, tidy

FRONT, BEHIND = COLOURS[0], "#6B6B6B"
FILLED, HOLLOW = "#A6CDE8", "white"  # light, so that the bars are seen through the dots
LARGEST = 1100  # points squared: the dot of the network with the most parameters
HOW_TO_READ = (
    "On the line: the front, no other run is as good for less; hollow: another one is. By point estimates: the best of "
    "several is flattered by chance, and bars that overlap are no test (mura compare is one)."
)
# Where a name may stand: direction from the dot, the nearest first.
_AROUND = ((1, 0), (1, 1), (1, -1), (-1, 0), (-1, 1), (-1, -1), (0, 1), (0, -1))


def pareto(
    points: Sequence[tuple[float, float]],  # cost and score of each
) -> list[bool]:  # whether it is on the front
    "Whether no other point is as cheap and as good, and better in one of both. What has no score is never on it."

    def beaten(cost: float, score: float) -> bool:
        return any(c <= cost and s >= score and (c < cost or s > score) for c, s in points)

    return [not isnan(score) and not beaten(cost, score) for cost, score in points]


def draw(
    document: dict,  # of `frontier`
) -> Figure:
    "The picture. Runs without an AUROC are left out."
    runs = [r for r in document["runs"] if r["scores"]["overall"]["auroc"] is not None]
    fig = new_figure(9, 5.8)
    ax = fig.subplots()
    tidy(ax)
    ax.set(xscale="log", xlabel="multiply-adds of one image, in G", ylabel="AUROC, 95 % interval")
    told = headline(document)
    claim, _, interval = told.partition(" (95 %")
    told = textwrap.fill(claim, 76, break_on_hyphens=False) + (f"\n(95 %{interval}" if interval else "")
    headed(fig, told, "\n".join([f"{data_line(document)}. {measured_line(document)}.", HOW_TO_READ]))
    if not runs:
        return fig
    x = [r["multiply_adds"] / 1e9 for r in runs]
    y, lo, hi = (np.array([_number(r, f"auroc{end}") for r in runs]) for end in ("", "_lo", "_hi"))
    lo, hi = np.where(np.isnan(lo), y, lo), np.where(np.isnan(hi), y, hi)
    scale = LARGEST / max(r["parameters"] for r in runs)
    area = [r["parameters"] * scale for r in runs]
    colours = [FRONT if r["on_front"] else BEHIND for r in runs]
    steps = _staircase(sorted((a, b) for a, b, r in zip(x, y, runs, strict=True) if r["on_front"]), max(x) * 2.2)
    ax.plot(*zip(*steps, strict=True), color=FRONT, lw=1.5, alpha=0.5, zorder=1)
    # The largest first, so that none hides a smaller one.
    for i in np.argsort(area)[::-1]:
        face = FILLED if runs[i]["on_front"] else HOLLOW
        ax.scatter(x[i], y[i], s=area[i], facecolor=face, edgecolor=colours[i], lw=1.4, zorder=2)
    ax.vlines(x, lo, hi, color=colours, lw=1.6, zorder=3)
    ax.scatter(x, y, s=14, color=colours, zorder=3)
    ax.set_xlim(min(x) / 2.2, max(x) * 2.2)
    pad = 0.12 * max(max(hi) - min(lo), 0.02)
    ax.set_ylim(min(lo) - pad, max(hi) + pad)
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    _size_key(fig, [r["parameters"] for r in runs], scale)
    fig.draw_without_rendering()  # the layout; places are known after it
    place_names(ax, x, y, area, lo, hi, [_label(r) for r in runs], colours, steps)
    return fig


def _staircase(front: list[tuple[float, float]], end: float) -> list[tuple[float, float]]:
    "The best that a budget of multiply-adds can have: between two runs of the front it is still the cheaper one."
    corners = [(b[0], a[1]) for a, b in pairwise(front)]
    return [p for pair in zip_longest(front, corners) for p in pair if p is not None] + [(end, front[-1][1])]


def _label(run: dict) -> str:
    "Its name, and whether it began with other data's weights."
    return plain_text(run["name"], 30) + ("" if run["weights"] == "scratch" else " (pretrained)")


def _number(run: dict, name: str) -> float:
    found = run["scores"]["overall"].get(name)
    return nan if found is None else found


def _size_key(fig: Figure, parameters: list[int], scale: float):
    "What the area of a dot stands for: up to three round numbers of parameters."
    ends = [round_down(p) for p in (min(parameters), sqrt(min(parameters) * max(parameters)), max(parameters))]
    marks = [
        Line2D([], [], ls="", marker="o", mfc="#DDDDDD", mec=BEHIND, ms=sqrt(p * scale), label=f"{p / 1e6:g} M")
        for p in dict.fromkeys(ends)
    ]
    fig.legend(
        handles=marks, loc="outside right center", frameon=False, fontsize=9, title="parameters\n(area)",
        title_fontsize=9, labelspacing=2.4, handletextpad=1.2, borderpad=1.2,
    )  # fmt: skip


def round_down(
    n: float,  # above 0
) -> float:
    "The next 1, 2 or 5 with zeros: 11.2 million becomes 10 million."
    power = 10 ** floor(log10(n))
    return next(m for m in (5, 2, 1) if m * power <= n * (1 + 1e-9)) * power


def place_names(
    ax: Axes,  # with its final limits, laid out
    x: Sequence[float],  # of the dots
    y: Sequence[float],
    area: Sequence[float],  # of the dots, in points squared
    lo: Sequence[float],  # lower ends of their bars
    hi: Sequence[float],  # upper ends
    names: Sequence[str],
    colours: Sequence[str],
    line: Sequence[tuple[float, float]],  # corners of a line that is better not covered either
):
    "Write each name where it covers no dot, no bar and no other name; with a line to its dot where that is far."
    pixels = ax.figure.dpi / 72
    spots = ax.transData.transform(np.column_stack([x, y]))
    ends = [ax.transData.transform(np.column_stack([x, end]))[:, 1] for end in (lo, hi)]
    radii = [sqrt(s) / 2 * pixels for s in area]
    taken = [Bbox([[a - r, b - r], [a + r, b + r]]) for (a, b), r in zip(spots, radii, strict=True)]
    taken += [Bbox([[a - 1, low], [a + 1, high]]) for (a, _), low, high in zip(spots, *ends, strict=True)]
    taken += [Bbox(ends).padded(3) for ends in pairwise(ax.transData.transform(line))]
    frame = ax.get_window_extent()
    for (a, b), r, name, colour in sorted(zip(spots, radii, names, colours, strict=True), key=lambda o: -o[0][1]):
        label = ax.annotate(
            name, (a, b), xycoords="figure pixels", fontsize=10, color=colour, parse_math=False, zorder=4
        )
        size = label.get_window_extent()
        best, least = None, None
        for gap in (4, 14, 28, 44, 64):
            for dx, dy in _AROUND:
                reach = gap * pixels + r * (0.75 if dx and dy else 1)
                left = a + dx * reach - (size.width if dx < 0 else size.width / 2 if dx == 0 else 0)
                down = b + dy * reach - (size.height if dy < 0 else size.height / 2 if dy == 0 else 0)
                box = Bbox.from_bounds(left, down, size.width, size.height)
                cost = sum(_shared(box, other) for other in taken) + 10 * (box.width * box.height - _shared(box, frame))
                if least is None or cost < least - 1e-6:
                    best, least, far = box, cost, gap > 20
            if least < 1e-6:
                break
        taken.append(best)
        label.remove()
        back = ax.transData.inverted()
        ax.annotate(
            name, back.transform((a, b)), xytext=((best.x0 - a) / pixels, (best.y0 - b) / pixels),
            textcoords="offset points", fontsize=10, color=colour, parse_math=False, zorder=4, in_layout=False,
            arrowprops=dict(arrowstyle="-", color=colour, lw=0.7, shrinkB=r / pixels) if far else None,
        )  # fmt: skip


def _shared(a: Bbox, b: Bbox) -> float:
    "Area that two boxes have in common, in pixels."
    both = Bbox.intersection(a, b)
    return both.width * both.height if both is not None else 0.0
