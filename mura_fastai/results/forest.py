"""A comparison as one picture: the scores by region, and beside them the differences that the set shows."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mura_fastai.errors import InputError
from mura_fastai.files import replacing
from mura_fastai.results.metrics import name_of
from mura_fastai.results.pictures import COLOURS, check_picture, plain_text
from mura_fastai.results.verdicts import comparisons

_MARKERS = "osD^vPX"  # told apart in grey print too


def plot_forest(
    table: pd.DataFrame,  # from `compare`
    metric: str = "auroc",  # one of those compared
) -> Figure:
    """Left the scores of all arms by region, right their differences from the first arm; 95 % intervals, no difference
    at the line. A filled mark is a difference with p below .05, after the correction over regions.

    InputError: a metric that was not compared."""
    if metric not in table.attrs["metrics"]:
        raise InputError(f"{metric!r} was not compared: choose one of {', '.join(table.attrs['metrics'])}")
    parts = comparisons(table)
    first, others = table.attrs["names"][0], list(parts)
    regions = parts[others[0]]
    # a wider gap sets overall and macro apart from the regions
    rows = -np.arange(len(regions), dtype=float) - 0.5 * (np.arange(len(regions)) >= len(regions) - 2)
    fig = Figure(figsize=(9.5, 1.9 + 0.22 * len(regions) * (len(others) + 1)), layout="constrained")
    left, right = fig.subplots(1, 2, sharey=True, width_ratios=(1, 1))
    arms = [(first, parts[others[0]], "a"), *((name, parts[name], "b") for name in others)]
    spread = np.linspace(0.3, -0.3, len(arms)) if len(arms) > 2 else np.array([0.14, -0.14])
    for i, (_, part, side) in enumerate(arms):
        _marks(left, part, f"{metric}_{side}", rows + spread[i], i, np.ones(len(part), bool), np.ones(len(part), bool))
    for i, (_, part, _) in enumerate(arms[1:], 1):
        shown = (part[f"{metric}_p_adjusted"] < 0.05).to_numpy()
        place = rows if len(others) == 1 else rows + np.linspace(0.25, -0.25, len(others))[i - 1]
        _marks(right, part, f"{metric}_diff", place, i, shown, part[f"{metric}_p"].notna())
    right.axvline(0, color="#555555", linewidth=1)
    ends = [
        part[[f"{metric}_diff_lo", f"{metric}_diff_hi", f"{metric}_diff"]].abs().max().max() for part in parts.values()
    ]
    reach = 1.08 * np.nanmax([*ends, 0.01])
    right.set_xlim(-reach, reach)  # the same both ways: whoever is better is seen by the side
    labels = [
        f"{plain_text(r, 18)}  {n:,.0f} ({k:,.0f})"
        for r, n, k in zip(regions.index, regions.n, regions.n_abnormal, strict=True)
    ]
    labels[-1] = "macro  mean of regions"
    left.set_yticks(rows, labels)
    left.set_ylim(rows[-1] - 0.6, 0.6)
    for ax in (left, right):
        ax.axhline((rows[-3] + rows[-2]) / 2, color="#BBBBBB", linewidth=0.8)
        ax.grid(axis="x", color="#E5E5E5", linewidth=0.8)
        ax.tick_params(axis="y", length=0)
        ax.set_axisbelow(True)
        for spine in ("top", "right", "left"):
            ax.spines[spine].set_visible(False)
    word, one = name_of(metric), len(others) == 1
    title = f"Which differences in {word} do these {table.attrs['n_common']:,} studies show?"
    fig.suptitle(title, x=0.02, ha="left", fontsize=12.5, fontweight="bold")
    left.set_title("region, studies (abnormal)", fontsize=10, loc="left", x=-0.42)
    against = f"{plain_text(others[0] if one else 'each', 24)} minus {plain_text(first, 24)}"
    right.set_title(against, fontsize=10, loc="center", parse_math=False)
    left.set_xlabel(f"{word}, 95 % interval")
    right.set_xlabel("\u2190 lower          difference, 95 % interval          higher \u2192")
    untold = any(part[f"{metric}_p"].isna().any() for part in parts.values())
    _legend(fig, [name for name, *_ in arms], untold)
    return fig


def _marks(ax, part, column, rows, i, filled, told):
    "Points with intervals; a region without the score is said to have none."
    point, lo, hi = (part[c].to_numpy(float) for c in (column, f"{column}_lo", f"{column}_hi"))
    colour, marker = COLOURS[i % len(COLOURS)], _MARKERS[i % len(_MARKERS)]
    ax.hlines(rows, lo, hi, color=colour, linewidth=1.6, linestyles=np.where(told, "solid", "dotted"))
    for full in (True, False):
        which = (filled == full) & np.isfinite(point)
        face = colour if full else "white"
        ax.plot(
            point[which], rows[which], marker, color=colour, markerfacecolor=face, markersize=6, markeredgewidth=1.4
        )
    for row in rows[np.isnan(point)]:
        ax.text(0.5, row, "n/a", color=colour, fontsize=8, va="center", ha="center", transform=ax.get_yaxis_transform())


def _legend(fig, names, untold):
    marks = [
        Line2D([], [], color=COLOURS[i % len(COLOURS)], marker=_MARKERS[i % len(_MARKERS)], label=plain_text(name, 30))
        for i, name in enumerate(names)
    ]
    for face, words in (("#555555", "a difference that this set shows"), ("white", "none that it could show")):
        marks.append(
            Line2D([], [], linestyle="", color="#555555", marker="o", markerfacecolor=face, label=f"right: {words}")
        )
    if untold:
        words = "right: too few patients to tell"
        marks.append(
            Line2D([], [], linestyle="dotted", color="#555555", marker="o", markerfacecolor="white", label=words)
        )
    fig.legend(handles=marks, loc="outside lower center", ncols=3, frameon=False, fontsize=9)


def save_forests(
    table: pd.DataFrame,  # from `compare`
    file: str | Path,  # of the first metric; the others get their names in it: forest.png, forest-auroc.png
) -> list[Path]:  # the files written
    "One forest plot for each metric that was compared. InputError: a name that ends in no kind of picture."
    file, files = Path(file), []
    check_picture(file)
    for i, metric in enumerate(table.attrs["metrics"]):
        files.append(file if i == 0 else file.with_stem(f"{file.stem}-{metric}"))
        with replacing(files[-1]) as aside:
            plot_forest(table, metric).savefig(aside, dpi=150)
    return files
