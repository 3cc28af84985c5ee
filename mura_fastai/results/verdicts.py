"""A comparison in words: sentences, a table for the terminal, and plain numbers."""

import textwrap

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from mura_fastai.results.measures import ratio
from mura_fastai.results.metrics import name_of
from mura_fastai.results.pictures import plain_text
from mura_fastai.text import aligned, one_of, plain_rows, ruled, short, with_interval


def comparisons(
    table: pd.DataFrame,  # from `compare`
) -> dict:  # name of the arm that is compared with the first -> its part of the table, indexed by region
    "The comparisons that a table holds, one for two arms."
    if table.index.nlevels == 1:
        return {table.attrs["names"][1]: table}
    return {name: table.loc[name] for name in table.attrs["names"][1:]}


def _p(p) -> str:
    "A p-value as text, with two figures where they matter."
    return "n/a" if np.isnan(p) else "<.001" if p < 0.001 else short(p, 3 if p < 0.0995 else 2)


def _signed(x) -> str:
    return f"+{short(x, 3)}" if round(x, 3) > 0 else short(x, 3)


def seed_noise(
    row,  # a row of one comparison
    metric: str,  # of it
    seeds: tuple,  # number of seeds of the first and of the other arm
) -> float:  # NaN where no arm has two seeds
    """How far two recipes' mean scores may lie apart by their seeds alone, in 95 of 100 pairs of such trainings.

    Student's t, degrees of freedom by Welch, Biometrika 34 (1947) 28. An arm of one seed is taken to spread as the
    other does; below two degrees of freedom nothing is said."""
    sd = np.array([row.get(f"{metric}_{side}_seed_sd", np.nan) for side in "ab"], float)
    known, each = ~np.isnan(sd), np.where(np.isnan(sd), sd[::-1], sd) ** 2 / np.array(seeds)
    # one seed adds its share of the variance, and nothing to what is known of it
    own = each[known] ** 2 / (np.array(seeds)[known] - 1)
    df = ratio(each[known].sum() ** 2, own.sum())
    return float(stdtrit(df, 0.975) * np.sqrt(each.sum())) if df >= 2 else np.nan


def _verdict(row, metric, seeds) -> str:
    p, noise, n = row[f"{metric}_p_adjusted"], seed_noise(row, metric, seeds), row[f"{metric}_n_needed"]
    if np.isnan(p):
        return "this set cannot tell"
    words = "a difference that this set shows" if p < 0.05 else "no difference that this set could show"
    if not np.isnan(noise):
        apart = "more" if abs(row[f"{metric}_diff"]) > noise else "no more"
        words += f", and {apart} than what other seeds change (about {short(noise, 3)})"
    if p >= 0.05 and n > row["n"]:
        about = f"about {float(f'{n:.2g}'):,.0f}" if n < 1e6 else "more than a million"
        words += f"; it would take {about} studies to show one of this size"
    return words


def compare_sentences(
    table: pd.DataFrame,  # from `compare`
) -> list[str]:
    "What a comparison says, in plain sentences: overall, and in how many regions."
    lines, first = [], table.attrs["names"][0]
    for name, part in comparisons(table).items():
        for m in table.attrs["metrics"]:
            row, word = part.loc["overall"], name_of(m)
            diff, seeds = row[f"{m}_diff"], (table.attrs["seeds"][first], table.attrs["seeds"][name])
            if np.isnan(diff):
                lines.append(f"overall {word}: n/a, the set holds one class")
                continue
            if diff == 0 and np.isnan(row[f"{m}_diff_lo"]):
                lines.append(f"overall {word}: {name} and {first} do not differ on any study of this set.")
            else:
                way = "higher" if diff > 0 else "lower"
                bounds = f" [{short(row[f'{m}_diff_lo'], 3)}, {short(row[f'{m}_diff_hi'], 3)}]"
                bounds = "" if np.isnan(row[f"{m}_diff_lo"]) else bounds
                told = f"{name} is {short(abs(diff), 3)} {way} than {first}{bounds}, p {_p(row[f'{m}_p'])}"
                lines.append(f"overall {word}: {told}: {_verdict(row, m, seeds)}.")
            regions = part[f"{m}_p_adjusted"].iloc[:-2].dropna()
            shown = [str(r) for r in regions.index[regions < 0.05]]
            if len(regions) > 1:
                how = f" (p by {table.attrs['correct'].title()}'s method)" if table.attrs["correct"] else ""
                found = (
                    f"a difference in {', '.join(shown)}, of {len(regions)}"
                    if shown
                    else f"none in any of {len(regions)}"
                )
                lines.append(f"{word} by region: {found}{how}.")
    return lines


def format_comparison(
    table: pd.DataFrame,  # from `compare`
) -> str:
    "A text table for each comparison and metric, below 100 characters wide, then sentences and what was done."
    attrs, blocks = table.attrs, []
    first = attrs["names"][0]
    for name, part in comparisons(table).items():
        for m in attrs["metrics"]:
            arms = [plain_text(first, 16), plain_text(name, 16)]
            rows = [["region", "n", "abnormal", *arms, "difference", "p", "adjusted"]]
            for region, r in part.iterrows():
                a, b, diff, lo, hi = (r[f"{m}_{k}"] for k in ("a", "b", "diff", "diff_lo", "diff_hi"))
                scores = [short(a), short(b), with_interval(diff, lo, hi, 3, 3)] if not np.isnan(diff) else ["n/a"] * 3
                counts = [plain_text(region, 20), f"{r['n']:.0f}", f"{r['n_abnormal']:.0f}"]
                signed = scores[:2] + ["+" + scores[2] if round(diff, 3) > 0 else scores[2]]
                rows.append([*counts, *signed, _p(r[f"{m}_p"]), _p(r[f"{m}_p_adjusted"])])
            lines = ruled(aligned(rows, right=(1, 2, 3, 4, 6, 7)))
            blocks.append("\n".join([f"{name_of(m)}: {name} against {first}", *lines]))
    left_out = sum(attrs["left_out"].values())
    common = f"{one_of(attrs['n_common'], 'study')} that all have, {left_out} left out"
    note = [f"{common}; 95 % intervals by {attrs['n_boot']} draws of patients."]
    note += [f"{name}: {how}." for name, how in attrs["decided"].items()]
    note += [f"p of {name_of(m)}: {test}." for m, test in attrs["tests"].items()]
    told = [textwrap.fill(o, 98, subsequent_indent="  ") for o in [*compare_sentences(table), *note]]
    return "\n\n".join([*blocks, "\n".join(told)])


def comparison_to_json(
    table: pd.DataFrame,  # from `compare`
) -> dict:  # the attrs, `comparisons`: name -> region -> {column: number or None}, and `sentences`
    "A comparison ready for `json.dumps`: whole numbers stay whole, NaN becomes None."
    whole = ("n", "n_abnormal")
    finite = {name: part.where(np.isfinite(part)) for name, part in comparisons(table).items()}
    numbers = {name: plain_rows(part, whole) for name, part in finite.items()}
    return {**table.attrs, "comparisons": numbers, "sentences": compare_sentences(table)}
