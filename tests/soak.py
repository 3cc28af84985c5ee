"""How often do the 95 % intervals hold what is true? Thousands of simulated sets; `make soak` writes the table.

Everything is computed by the functions that `score` and `compare` call. Beside them stand intervals that take studies,
or single images, as independent (images are held against the truth of images), and that of the competition's script.
"""

import argparse
import multiprocessing
import os
import platform
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from simulation import SETTINGS, Setting, draw, truth

from mura_fastai.results.compare import compare
from mura_fastai.results.intervals import (
    asymptotic_bounds,
    auroc_variance,
    bootstrap_bounds,
    bootstrap_weights,
    kappa_variance,
)
from mura_fastai.results.measures import METRICS, auroc, confusion, kappa
from mura_fastai.results.paired import delong_test

SCORES = ("kappa", "auroc")
METHODS = {
    "bootstrap": "ours: patients drawn, BCa, by Student's t",
    "asymptotic": "ours: by formula, patients independent",
    "percentile": "the middle 95 % of the same draws of patients",
    "studies": "Fleiss, Cohen and Everitt; DeLong: studies independent",
    "images": "the same, single images independent",
    "official": "the competition's script: 1.96 variances",
}
GOAL = (0.94, 0.96)
# What must hold for the soak to pass, where the goal is known to be missed: few errors, or few patients, carry all.
FLOOR = {"mura": 0.935, "region": 0.925, "hard": 0.905, "strong": 0.895}
PAIRS = {"no difference": (0.0, 0.0), "a difference": (0.0, 0.1)}  # what each model gains


def studies_table(
    data: dict,  # from `draw`
    model: int = 0,
) -> pd.DataFrame:  # a studies table
    columns = {k: data[k] for k in ("patient", "region", "n_views", "label")}
    names = pd.Series(np.arange(len(data["label"]))).astype(str).str.zfill(6)
    return pd.DataFrame(columns | {"study": names, "split": "valid", "p_abnormal": data["p"][model]})


def _by_formula(label, p):
    "Score -+ 1.96 standard errors of rows that are taken as independent; 2 x SCORES."
    points, cm = np.array([kappa(label, p > 0.5), auroc(label, p)]), confusion(label, p > 0.5)
    variance = np.array([kappa_variance(cm), auroc_variance(label, p)])
    return points + 1.96 * np.array([[-1], [1]]) * np.sqrt(variance), points, variance


def _percentile(label, p, patient, n_boot, seed):
    "The middle 95 % of draws of patients; 2 x SCORES."
    draws = [(kappa(label, p > 0.5, w), auroc(label, p, w)) for w in bootstrap_weights(patient, n_boot, seed)]
    return np.nanquantile(np.concatenate(draws, 1), [0.025, 0.975], axis=1)


def intervals(
    setting: Setting,
    k: int,  # number of the set
    n_boot: int = 1000,
    methods: tuple = tuple(METHODS),
) -> dict:  # method -> 2 x SCORES, lo and hi
    "One simulated set, every interval of it."
    data = draw(setting, [1, k])
    label, p, patient = data["label"], data["p"][0], data["patient"]
    # only all studies together are of interest; a region there must be
    arrays = (label, p, p > 0.5, {"few": np.arange(2), "overall": np.arange(len(p))}, patient)
    columns = [METRICS.index(m) for m in SCORES]
    by_studies, points, variance = _by_formula(label, p)
    found = {
        "bootstrap": lambda: bootstrap_bounds(*arrays, n_boot, k)[:, 1, columns],
        "percentile": lambda: _percentile(label, p, patient, n_boot, k),
        "asymptotic": lambda: asymptotic_bounds(*arrays)[:, 1, columns],
        "studies": lambda: by_studies,
        "images": lambda: _by_formula(data["image_label"], data["image_p"])[0],
        "official": lambda: points + 1.96 * np.array([[-1], [1]]) * variance * [1, np.nan],
    }
    return {m: found[m]() for m in methods}


def differences(
    setting: Setting,
    k: int,  # number of the set
    gains: tuple = (0.0, 0.0),
    n_boot: int = 1000,
) -> np.ndarray:  # lo and hi of both differences, p of both, and the p of DeLong with studies independent
    "One simulated set read by two models whose errors are alike."
    data = draw(setting, [2, k], gains)
    a, b = (studies_table(data, model).assign(region="all") for model in (0, 1))
    row = compare(a, b, n_boot=n_boot, n_perm=1000, seed=k).loc["overall"]
    told = [row[f"{m}_{what}"] for what in ("diff_lo", "diff_hi", "p") for m in SCORES]
    return np.array([*told, delong_test(data["label"], *data["p"]).p])


def coverage(
    bounds: np.ndarray,  # sets x 2, lo and hi
    true: float,
) -> dict:  # share, its Monte Carlo error, below, above, width
    "How often the true value is inside; a missing interval does not hold it."
    lo, hi = bounds.T
    share = np.mean((lo <= true) & (true <= hi))
    width = np.nanmean(hi - lo) if np.isfinite(lo).any() else np.nan
    error = np.sqrt(share * (1 - share) / len(lo))
    return dict(share=share, error=error, below=np.mean(true < lo), above=np.mean(true > hi), width=width)


def measure(
    setting: Setting,
    sets: int,  # how many
    run=map,  # `map` over set numbers, or that of a pool of processes
    **options,  # of `intervals`
) -> dict:  # method -> score -> `coverage`
    "Coverage of every method in one setting."
    each = list(run(partial(intervals, setting, **options), range(sets)))
    true = {method: truth(setting, images=method == "images") for method in each[0]}
    return {
        method: {m: coverage(np.stack([e[method][:, i] for e in each]), true[method][m]) for i, m in enumerate(SCORES)}
        for method in each[0]
    }


def measure_pairs(
    setting: Setting,
    sets: int,  # how many
    gains: tuple,  # of both models
    run=map,  # as of `measure`
    **options,  # of `differences`
) -> dict:  # score -> `coverage` of the difference, with `rejected`, the share of p below .05; also "naive"
    "Coverage of the interval of a paired difference, and how often its test finds one."
    each = np.stack(list(run(partial(differences, setting, gains=gains, **options), range(sets))))
    a, b = (truth(setting, gain=g) for g in gains)
    told = {}
    for i, m in enumerate(SCORES):
        told[m] = coverage(each[:, [i, 2 + i]], b[m] - a[m])
        told[m] |= dict(rejected=np.mean(each[:, 4 + i] < 0.05), true=b[m] - a[m])
    told["naive"] = np.mean(each[:, 6] < 0.05)
    return told


def describe(
    setting: Setting,
    found: dict,  # from `measure`
) -> list[str]:
    "One setting as lines of text."
    true, images = truth(setting), truth(setting, images=True)
    studies = setting.patients * np.array([k.share for k in setting.kinds]) @ setting.mean_sizes
    lines = [f"{setting.name}: {setting.patients} patients, {studies:.0f} studies in the mean"]
    for m in SCORES:
        name = "AUROC" if m == "auroc" else m
        lines.append(f"  {name} {true[m]:.4f} (images {images[m]:.4f})   covered %     below  above   mean width  goal")
        for method, scores in found.items():
            c = scores[m]
            if np.isnan(c["width"]):
                continue
            short = max(GOAL[0] - c["share"], c["share"] - GOAL[1])
            goal = (
                ""
                if method not in ("bootstrap", "asymptotic")
                else "met"
                if short <= 0
                else f"off by {100 * short:.1f}"
            )
            lines.append(
                f"    {method:25s} {100 * c['share']:6.1f} +- {100 * c['error']:.1f}"
                f"   {100 * c['below']:5.1f}  {100 * c['above']:5.1f}   {c['width']:10.4f}  {goal}".rstrip()
            )
    return lines


def describe_pairs(
    setting: Setting,
    name: str,  # in `PAIRS`
    found: dict,  # from `measure_pairs`
) -> list[str]:
    lines = []
    for m in SCORES:
        c, word = found[m], "AUROC" if m == "auroc" else m
        naive = f" (studies independent: {100 * found['naive']:.1f} %)" if m == "auroc" else ""
        lines.append(
            f"  {setting.name:7s} {name:14s} {word:6s} {c['true']:+.4f}   covered {100 * c['share']:5.1f} +- "
            f"{100 * c['error']:.1f} %   p < .05 in {100 * c['rejected']:5.1f} %{naive}"
        )
    return lines


def main() -> int:  # exit code: 1 where an interval of ours covers less than `FLOOR`
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=int, default=4000, help="simulated sets in each setting")
    parser.add_argument("--pairs", type=int, default=800, help="simulated sets in each comparison of two models")
    parser.add_argument("--boot", type=int, default=1000, help="resamples in each set")
    parser.add_argument("--out", type=Path, help="file for the table")
    told = parser.parse_args()
    os.environ |= {
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }  # one process a core, not one thread a core each
    start, lines, missed = time.time(), [], []

    def say(*more):
        lines.extend(more)
        print(*more, sep="\n", flush=True)

    say(
        f"Coverage of 95 % intervals, {told.sets} simulated sets a setting, {told.boot} resamples a set; "
        f"{datetime.now(UTC):%Y-%m-%d}",
        f"python {platform.python_version()}, numpy {np.__version__}, pandas {pd.__version__}; "
        "+- is the Monte Carlo error; below, above: % of sets whose interval the truth is below, above",
        *(f"  {name:10s} {what}" for name, what in METHODS.items()),
    )
    processes = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=processes) as pool:
        run = partial(pool.map, chunksize=20)
        for setting in SETTINGS.values():
            found = measure(setting, told.sets, run, n_boot=told.boot)
            say("", *describe(setting, found))
            for method, m in ((o, m) for o in ("bootstrap", "asymptotic") for m in SCORES):
                if found[method][m]["share"] < FLOOR[setting.name]:
                    missed.append(f"{setting.name}, {method}, {m}: below {100 * FLOOR[setting.name]:.1f} %")
        say(
            "",
            f"Two models on the same studies, errors correlated, {told.pairs} sets: interval and test of `compare`",
        )
        for setting in SETTINGS.values():
            for name, gains in PAIRS.items():
                say(*describe_pairs(setting, name, measure_pairs(setting, told.pairs, gains, run, n_boot=told.boot)))
    say("", f"{time.time() - start:.0f} s on {os.cpu_count()} cores", *missed)
    if told.out:
        told.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
