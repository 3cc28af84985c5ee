"""Which regions are confused most, and whether that is more than chance: errors by region with their intervals."""

import numpy as np
import pandas as pd

from mura_fastai.results.bands import share_table
from mura_fastai.results.calibrate import Decision
from mura_fastai.results.labelled import counted, in_words, labelled
from mura_fastai.results.pictures import VERDICTS, headed, new_figure, plain_text, tidy

_ERRORS = {  # kind of error -> of which rows, its words and its colour
    "wrong": ((0, 1), "wrong, of all", "black"),
    "missed": ((1,), "missed, of abnormal", VERDICTS[1, 0][1]),
    "false_alarms": ((0,), "false alarms, of normal", VERDICTS[0, 1][1]),
}


def region_errors(
    table: pd.DataFrame,  # studies, or images; see `labelled`
    decision: Decision | None = None,  # what decided; the table's own where not given
) -> pd.DataFrame:  # indexed by region, the most confused first
    """How often each region is wrong, with 95 % intervals, see `share_table`.

    Of wrong, missed and false_alarms: NAME and NAME_of, how many of how many, NAME_share, NAME_lo and NAME_hi. First
    comes the region that is surely wrong most often, by the lower end of its interval: one of ten rows does not get
    there by chance."""
    rows, _ = labelled(table, decision)
    label, region, parts = rows["label"], rows["region"], {}
    for name, (sides, *_) in _ERRORS.items():
        groups = {r: np.flatnonzero(label.isin(sides) & (region == r)) for r in sorted(region.unique())}
        part = share_table(label != rows["abnormal"], groups, rows["patient"])
        parts |= {name: part["hits"], f"{name}_of": part["n"]} | {f"{name}_{c}": part[c] for c in ("share", "lo", "hi")}
    told = pd.DataFrame(parts).rename_axis("region")
    return told.sort_values(["wrong_lo", "wrong_share"], ascending=False, kind="stable", na_position="last")


def plot_regions(
    table: pd.DataFrame,  # studies, or images; see `labelled`
    decision: Decision | None = None,  # what decided; the table's own where not given
):  # a matplotlib Figure
    "Which regions are confused most: the share that is wrong, missed, and falsely alarmed, with intervals."
    rows, decision = labelled(table, decision)
    told = region_errors(rows, decision)
    at = np.arange(len(told))
    fig = new_figure(7.4, 0.36 * len(told) + 2.2)
    axs = fig.subplots(1, 3, sharey=True)
    for ax, (name, (_, words, colour)) in zip(axs, _ERRORS.items(), strict=True):
        n, of, share, lo, hi = (told[f"{name}{c}"].to_numpy() for c in ("", "_of", "_share", "_lo", "_hi"))
        overall = n.sum() / max(of.sum(), 1)
        ax.axvline(overall, color="#777777", lw=1.2, ls=":")
        ax.hlines(at, lo, hi, color=colour, lw=2)
        apart = (lo > overall) | (hi < overall)
        for i in at:
            ax.plot(share[i], i, "o", ms=7, color=colour, mfc=colour if apart[i] else "white", clip_on=False)
            count = f"{n[i]}/{of[i]}" if of[i] else "n/a"
            ax.text(1, i, count, ha="right", va="center", fontsize=9, transform=ax.get_yaxis_transform())
        ax.set_title(words, fontsize=10, loc="left")
        tidy(ax, "x")
        reach = np.nanmax([0.1, *hi, *share])
        ax.set_xlim(0, 1.4 * reach)  # room for the counts
        step = next(o for o in (0.05, 0.1, 0.2, 0.5) if reach / o <= 2.5 or o == 0.5)
        ticks = np.arange(0, reach + 1e-9, step)
        ax.set_xticks(ticks, [f"{o:.0%}" for o in ticks])
    axs[0].set_yticks(at, [plain_text(r, 18) for r in told.index], fontsize=10, parse_math=False)
    axs[0].set_ylim(len(told) - 0.4, -0.6)
    note = (
        f"{counted(rows)}; {in_words(decision)}. 95 % intervals from draws of patients; sorted by the lower "
        "end of wrong. Dotted: all regions. Filled: apart from it, as one in twenty is by chance."
    )
    headed(fig, "Which regions the model confuses most", note)
    return fig
