"""The frontier as one picture: AUROC over multiply-adds, dots as large as their networks, a line along the front."""

import textwrap
from collections.abc import Sequence
from math import floor, isnan, log10, nan, sqrt

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from mura_fastai.bench.frontier_text import data_line, headline
from mura_fastai.results.pictures import COLOURS, headed, new_figure, plain_text, tidy

FRONT, BEHIND = COLOURS[0], "#767676"
LARGEST = 1100  # points squared: the dot of the network with the most parameters
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
    told = textwrap.fill(headline(document), 82)
    names = ("filled, on the line: the front, no other run is as good for less; hollow: another one is. By point "
             "estimates: the best of several is flattered by chance, and overlapping bars are no test (mura compare "
             "is one).")  # fmt: skip
    headed(fig, told, f"{data_line(document)}.\n{names[0].upper()}{names[1:]}")
    if not runs:
        return fig
    x = [r["multiply_adds"] / 1e9 for r in runs]
    y, lo, hi = (np.array([_number(r, f"auroc{end}") for r in runs]) for end in ("", "_lo", "_hi"))
    lo, hi = np.where(np.isnan(lo), y, lo), np.where(np.isnan(hi), y, hi)
    scale = LARGEST / max(r["parameters"] for r in runs)
    area = [r["parameters"] * scale for r in runs]
    colours = [FRONT if r["on_front"] else BEHIND for r in runs]
    front = sorted((a, b) for a, b, r in zip(x, y, runs, strict=True) if r["on_front"])
    ax.plot(*zip(*front, strict=True), color=FRONT, lw=1.5, alpha=0.5, zorder=1)
    ax.vlines(x, lo, hi, color=colours, lw=1.6, zorder=2)
    for a, b, s, colour, r in zip(x, y, area, colours, runs, strict=True):
        # White below, so that no bar shows through a hollow dot.
        ax.scatter(a, b, s=s, facecolor=colour if r["on_front"] else "white", edgecolor=colour, lw=1.6, zorder=3)
    ax.set_xlim(min(x) / 2.2, max(x) * 2.2)
    pad = 0.12 * max(max(hi) - min(lo), 0.02)
    ax.set_ylim(min(lo) - pad, max(hi) + pad)
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    _size_key(fig, [r["parameters"] for r in runs], scale)
    fig.draw_without_rendering()  # the layout; places are known after it
    place_names(ax, x, y, area, lo, hi, [plain_text(r["name"], 30) for r in runs], colours)
    return fig


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
        handles=marks, loc="outside right upper", frameon=False, fontsize=9, title="parameters\n(area)",
        title_fontsize=9, labelspacing=1.6, handletextpad=1.2, borderpad=1.2,
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
):
    "Write each name where it covers no dot, no bar and no other name; with a line to its dot where that is far."
    pixels = ax.figure.dpi / 72
    spots = ax.transData.transform(np.column_stack([x, y]))
    ends = [ax.transData.transform(np.column_stack([x, end]))[:, 1] for end in (lo, hi)]
    radii = [sqrt(s) / 2 * pixels for s in area]
    taken = [Bbox([[a - r, b - r], [a + r, b + r]]) for (a, b), r in zip(spots, radii, strict=True)]
    taken += [Bbox([[a - 1, low], [a + 1, high]]) for (a, _), low, high in zip(spots, *ends, strict=True)]
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
