"""Several trainings of one recipe in one score: their mean, how sure the studies make it, how far seeds differ."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from mura_fastai.errors import InputError
from mura_fastai.files import write_text
from mura_fastai.results.calibrate import read_decision
from mura_fastai.results.intervals import (
    bca_bounds,
    bootstrap_weights,
    influence,
    mean_of_trainings,
    without_perfect,
)
from mura_fastai.results.measures import METRICS, cross_entropy, point_scores
from mura_fastai.results.metrics import (
    always_normal,
    counts_of,
    decided,
    incomplete_of,
    region_baseline,
    score,
    score_table,
    scores_to_json,
    study_arrays,
)
from mura_fastai.results.tables import own_predictions, scores_document, write_predictions
from mura_fastai.training.plans import read_repeats
from mura_fastai.training.runs import read_settings
from mura_fastai.training.tables import read_table
from mura_fastai.training.within import refuse_unfinished


def refuse_interval(
    ci: str | None,  # kind of interval
):
    "Raise `InputError` for an interval that several trainings cannot have."
    if ci not in ("bootstrap", None):
        raise InputError(f"there is no {ci!r} interval of several trainings: choose bootstrap or none (--ci)")


def score_repeats(
    tables: list[pd.DataFrame],  # one a seed: predictions or (decided) studies tables of the same studies
    ci: str | None = "bootstrap",  # kind of 95 % interval: bootstrap or None
    pool: str = "mean",  # how views become a study
    n_boot: int = 2000,  # bootstrap: resamples
    seed: int = 0,  # bootstrap: of the draws
) -> pd.DataFrame:  # indexed by region, then "overall" and "macro", with the columns of `score` and NAME_seed_sd
    """Each score as the mean over trainings of the score of one of them; the ensemble's is another, mostly better one.

    NAME_lo and NAME_hi are the 95 % interval of that mean over patients, by the draws of `score`, the same for all
    seeds: what other patients would change. NAME_seed_sd is the standard deviation between seeds (n - 1; NaN for one
    seed): what another seed would change. Neither holds the other. In cross-validation a seed's score is that of all
    folds' studies together, so that its AUROC also compares probabilities of different networks.
    A table with a column `abnormal` is decided by it, another one by p_abnormal > 0.5. Raises `InputError` as `score`
    does, and for tables that differ in their studies or labels."""
    refuse_interval(ci)
    if not tables:
        raise InputError("no table of predictions: give one a seed")
    if n_boot < 1:
        raise InputError(f"n_boot is {n_boot}: give at least 1, or ci=None for no interval")
    tables = [decided(t, pool=pool) for t in tables]
    seeds, arrays = zip(*map(study_arrays, tables), strict=True)
    keys = ["study", "region", "patient", "label"]
    for i, studies in enumerate(seeds):
        if not studies[keys].equals(seeds[0][keys]):
            raise InputError(f"tables 1 and {i + 1} differ in studies or labels: give predictions of the same rows")
    label, _, _, groups, patient = arrays[0]
    told = [(p, pred) for _, p, pred, _, _ in arrays]
    each = np.stack([point_scores(label, p, pred, groups) for p, pred in told])
    scores = counts_of(label, groups)
    scores[list(METRICS)] = each.mean(0)
    if ci:
        bounds = _bounds_of_mean(label, told, groups, patient, n_boot, seed)
        for m, name in enumerate(METRICS):
            scores[f"{name}_lo"], scores[f"{name}_hi"] = bounds[:, :, m]
    scores[[f"{name}_seed_sd" for name in METRICS]] = each.std(0, ddof=1) if len(told) > 1 else np.nan
    how = [t.attrs.get("decision") for t in tables]
    # Tables of several folds come without: each fold may have been decided in its own way.
    alike = how[0] and not how[0].get("regions") and all(h == how[0] for h in how)
    alike = how[0] if alike else {"threshold": "as decided", "pool": "as decided"}
    scores.attrs = {"ci": ci, "threshold": alike["threshold"], "pool": alike["pool"], "trainings": len(told)}
    scores.attrs |= ({"n_boot": n_boot, "seed": seed} if ci else {}) | incomplete_of(seeds[0])
    return scores


def _bounds_of_mean(label, told, groups, patient, n_boot, seed) -> np.ndarray:
    "95 % intervals of the means over seeds, 2 x (groups + 1) x METRICS, as `bootstrap_bounds` has them of one."
    weights = bootstrap_weights(patient, n_boot, seed)
    draws = np.concatenate([mean_of_trainings(point_scores, label, told, groups, w) for w in weights])
    points = mean_of_trainings(point_scores, label, told, groups)
    pulls = mean_of_trainings(influence, label, told, groups, patient)
    return without_perfect(bca_bounds(draws, points, pulls, groups, patient), points, label, groups, patient)


def decided_studies(
    run: Path,  # one run
    preds: pd.DataFrame,  # its predictions
) -> pd.DataFrame:  # a row a study
    "The studies of one run, decided as that run has it. Its own temperature and threshold come in here, nowhere else."
    # A finished run without a decision had too few tune rows to choose one: it decides at one half.
    return decided(preds, decision=read_decision(run))


def repeats_of(
    run: str | Path,  # the folder of all runs
    form: Callable[[Path, pd.DataFrame], pd.DataFrame] | None = None,  # makes a table of a run and its predictions
) -> list[pd.DataFrame]:  # one a seed: predictions of its valid rows, all folds one after another, with `fold`
    "The predictions of each seed. Raises `InputError` where one of the runs is not finished."
    run, seeds = Path(run), {}
    refuse_unfinished(run)
    for repeat in read_repeats(run)[1]:
        sub = run / repeat.name
        table = own_predictions(sub / "predictions.csv", read_settings(sub).get("data"))
        table = form(sub, table) if form else table
        seeds.setdefault(repeat.seed, []).append(table if repeat.fold is None else table.assign(fold=repeat.fold))
    return [pd.concat(tables, ignore_index=True) for tables in seeds.values()]


def out_of_fold(
    run: str | Path,  # the folder of all runs
) -> pd.DataFrame:  # the predictions table: `p_seedN` a seed, `p_abnormal` their mean, `fold` where there are folds
    """Every reported image once, predicted by the networks that never saw its patient.

    An image that one of the seeds could not read is left out."""
    tables = [t.set_index("path") for t in repeats_of(run)]
    seeds = read_repeats(run)[0]["seeds"]
    p = pd.concat({f"p_seed{s}": t.p_abnormal for s, t in zip(seeds, tables, strict=True)}, axis=1, join="inner")
    # In the order of the data, which all runs keep.
    order = read_table(Path(run) / read_repeats(run)[1][0].name / "images.csv").path
    rows = tables[0].drop(columns=["p_abnormal", "loss"]).join(p, how="inner")
    rows = rows.loc[order[order.isin(rows.index)]].rename_axis("path").reset_index()
    rows["p_abnormal"] = rows[list(p)].mean(axis=1)
    rows["loss"] = cross_entropy(rows.label, rows.p_abnormal)
    return rows


def evaluate_repeats(
    run: str | Path,  # the folder of all runs
    ci: str | None = "bootstrap",  # bootstrap or None
) -> pd.DataFrame:  # scores as of `score_repeats`, indexed by region
    "Score all runs of a folder together; predictions.csv and metrics.json are kept in it."
    run, (told, plan) = Path(run), read_repeats(run)
    scores = score_repeats(repeats_of(run, decided_studies), ci)
    preds = out_of_fold(run)
    scores.attrs |= {"folds": told["folds"], "seeds": told["seeds"]}
    scores.attrs["region_only"] = scores_to_json(score(_region_only(run, plan, preds), ci=None))
    scores.attrs["always_normal"] = scores_to_json(score(always_normal(preds), ci=None))
    write_predictions(preds, run / "predictions.csv")
    write_text(run / "metrics.json", json.dumps(scores_document(scores, split="valid"), indent=1))
    return scores


def _region_only(run: Path, plan: list, preds: pd.DataFrame) -> pd.DataFrame:
    "What knowing the region alone would predict; of folds by the shares of all of them."
    if plan[0].fold is not None:
        # Shares counted on the other folds run against those of the held-out one, and would rank regions backwards.
        return region_baseline(preds, preds)
    images = read_table(run / plan[0].name / "images.csv")
    return region_baseline(images[images.split.isin(("train", "tune"))], preds)


def format_repeats(
    scores: pd.DataFrame,  # from `score_repeats`
    metrics: tuple = ("kappa", "auroc", "sensitivity", "specificity"),  # columns; the first two with their intervals
) -> str:
    "The scores as a plain text table, up to 100 characters wide, with lines that say which number is which."
    # More than two intervals with a spread each would not fit a terminal.
    return "\n".join([*score_table(scores, tuple(metrics[:2]), tuple(metrics[2:])), *_notes(scores.attrs)])


def _notes(how: dict) -> list[str]:
    n = how["trainings"]
    of = "One training" if n == 1 else f"Mean over {n} trainings, a seed each"
    of += f", of {how['folds']} folds" if how.get("folds") else ""
    at = how["threshold"]
    decided = "as each run decides" if isinstance(at, str) else f"{how['pool']} over views, abnormal above {at:.3g}"
    notes = [f"{of}. Studies, {decided}"]
    if how["ci"]:
        notes.append(f"[ ]: 95 % interval, if other patients were drawn: bootstrap of patients, {how['n_boot']} draws")
    return notes if n == 1 else [*notes, "±: standard deviation between the seeds, which is no part of the interval"]
