"""Several runs side by side: what differs between them, what they score, and which difference this set can show."""

import numpy as np
import pandas as pd
from fastcore.xml import FT, ft

from mura_fastai.errors import InputError
from mura_fastai.results.experiment import compare_runs
from mura_fastai.results.forest import plot_forest
from mura_fastai.results.metrics import name_of
from mura_fastai.results.verdicts import compare_sentences, comparisons
from mura_fastai.share.charts import chart
from mura_fastai.share.report_facts import Facts
from mura_fastai.share.report_parts import note, notice, section, table
from mura_fastai.share.report_scores import cell
from mura_fastai.text import short, with_interval

_ALIKE = {"versions", "data", "commit", "format", "store", "num_workers"}  # settings that make no other model


def compared(
    runs: list,  # folders
) -> pd.DataFrame | InputError:  # from `compare`; or why they cannot be compared
    "The comparison of the runs, the first against each other one."
    try:
        return compare_runs(runs)[0]
    except InputError as e:
        return e


def sentences(
    told: pd.DataFrame | InputError,  # from `compared`
    all_facts: list[Facts],
) -> list[str]:
    "What the comparison says, in plain words."
    if isinstance(told, InputError):
        return [f"The runs cannot be compared: {all_facts[0].tell(told)}."]
    return [line[0].upper() + line[1:] for line in compare_sentences(told)]


def comparison_section(
    all_facts: list[Facts],
    told: pd.DataFrame | InputError,  # from `compared`
) -> FT:
    "Settings that differ, paired differences, forest plots."
    body = _differing(all_facts)
    if isinstance(told, InputError):
        body.append(notice(f"Not compared study by study: {all_facts[0].tell(told)}"))
        return section("comparison", "Comparison", *body)
    attrs = told.attrs
    for metric in attrs["metrics"]:
        how = (
            "Left each run's score, right its difference from the first run, on the same studies; bars are 95 % "
            "intervals. A filled mark is a difference that these studies show, a hollow one may be chance."
        )
        body.append(chart(plot_forest(told, metric), f"forest-{metric}", how))
    for name, part in comparisons(told).items():
        body += [_differences(name, part, attrs, metric) for metric in attrs["metrics"]]
    body.append(note(_method(attrs)))
    return section("comparison", "Comparison", *body)


def side_by_side(
    all_facts: list[Facts],
) -> FT:
    "A row a run: its scores over all studies."
    rows = []
    for f in all_facts:
        row = f.scores.loc["overall"]
        rows.append(
            [f.name, f"{row['n']:,.0f}", *(cell(row, m) for m in ("auroc", "kappa", "sensitivity", "specificity"))]
        )
    head = ["run", "studies", "AUROC", "kappa", "sensitivity", "specificity"]
    return table("All studies, each run as it decides: score [95 % interval].", head, rows, numbers=(1,))


def _differing(all_facts: list[Facts]) -> list:
    "The settings in which the runs differ."
    each = [
        {**f.settings, "data": f.data.get("fingerprint"), "split seed": f.data.get("split_seed", 0)} for f in all_facts
    ]
    for f, told in zip(all_facts, each, strict=True):
        told["trainings"] = len(f.subs)
    keys = [k for k in dict.fromkeys(k for told in each for k in told) if k not in _ALIKE or k == "data"]
    differ = [k for k in keys if len({str(told.get(k)) for told in each}) > 1]
    if not differ:
        return [note("The runs share all their settings.")]
    rows = [
        [k.replace("_", " "), *(f.setting(told.get(k, "")) for f, told in zip(all_facts, each, strict=True))]
        for k in differ
    ]
    return [table("Settings in which they differ.", ["setting", *(f.name for f in all_facts)], rows)]


def _differences(name: str, part: pd.DataFrame, attrs: dict, metric: str) -> FT:
    first, word, rows = attrs["names"][0], name_of(metric), []
    for region, r in part.iterrows():
        a, b, diff, lo, hi = (r[f"{metric}_{k}"] for k in ("a", "b", "diff", "diff_lo", "diff_hi"))
        shown = "n/a" if np.isnan(diff) else ("+" if round(diff, 3) > 0 else "") + with_interval(diff, lo, hi, 3, 3)
        named = {"overall": ft("b", "all studies"), "macro": ft("b", "mean of regions")}.get(region, region)
        p = [_p(r[f"{metric}_{k}"]) for k in ("p", "p_adjusted")]
        counts = f"{r['n']:,.0f}", f"{r['n_abnormal']:,.0f}"
        rows.append([named, shown, *p, short(a), short(b), *counts])
    head = ["region", "difference [95 % interval]", "p", "adjusted p", first, name, "studies", "abnormal"]
    words = f"{word}: {name} against {first}, on the same studies."
    return table(words, head, rows, numbers=(2, 3, 4, 5, 6, 7), sums=2)


def _p(p: float) -> str:
    return "n/a" if np.isnan(p) else "<.001" if p < 0.001 else short(p, 3 if p < 0.0995 else 2)


def _method(attrs: dict) -> str:
    left = sum(attrs["left_out"].values())
    tests = "; ".join(f"p of {name_of(m)}: {how}" for m, how in attrs["tests"].items())
    decided = "; ".join(f"{name}: {how}" for name, how in attrs["decided"].items())
    return (
        f"{attrs['n_common']:,} studies that all runs have, {left:,} left out; intervals by {attrs['n_boot']:,} draws "
        f"of patients. {tests}. Decisions: {decided}. Adjusted p: by Holm's method over the regions."
    )
