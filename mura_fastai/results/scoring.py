"""A run and its rows: what it predicts of them, how it decides, and what that is worth."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd

from mura_fastai.errors import InputError
from mura_fastai.files import write_text
from mura_fastai.results.calibrate import Decision, choose_decision, write_decision
from mura_fastai.results.metrics import always_normal, check_interval, region_baseline, score, scores_to_json
from mura_fastai.results.moments import Moment, how_far
from mura_fastai.results.tables import scores_document
from mura_fastai.text import name_some, one_of
from mura_fastai.training.alone import trained_by
from mura_fastai.training.resume import edited_tables
from mura_fastai.training.runs import read_settings
from mura_fastai.training.tables import read_table


def predictions_of(
    run: str | Path,  # a run's folder
    data: str | Path | None = None,  # other data than the run's own
    split: str = "valid",  # rows to predict
    source: str | None = None,  # of data: mura, fracatlas, folder or csv
) -> pd.DataFrame:  # the predictions table
    "Predictions of a run: of its own valid and tune rows made once and read again, without data or a second pass."
    return Moment(run).predictions(data, split, source)


def warn_of_seen(
    runs: list[str | Path],  # folders of runs
    images: pd.DataFrame,  # labelled rows that are predicted, or scored
):
    "Say on stderr how many of these images a run was trained on, or chosen on: their scores are too good."
    tables = [read_table(Path(run) / "images.csv") for run in runs]
    for split, what in (("train", "trained on"), ("tune", "chosen on, epoch and threshold")):
        seen = set().union(*(t.path[t.split == split] for t in tables))
        n = (images["path"].isin(seen) & images["label"].notna()).sum()
        if n:
            told = f"{n} of {one_of(len(images), 'image')} {'was' if n == 1 else 'were'}"
            print(f"{told} {what}: their scores are too good", file=sys.stderr)


def decision_of(
    run: str | Path,  # a run's folder
) -> Decision:
    "How a run decides: what its decision.yaml says, or what is chosen on its tune rows and kept there."
    return Moment(run).decision()


def calibrate_run(
    run: str | Path,  # a run's folder
    by: str = "kappa",  # of the threshold: kappa, youden, or a wanted sensitivity such as sensitivity=0.9
    per_region: bool = False,  # numbers of their own for regions with enough studies
    temperature: bool = True,  # calibrate as well
    pool: str = "mean",  # how views become a study
    threshold: float | None = None,  # this one; nothing is chosen, and probabilities stay as they are
    least: int = 20,  # studies of each label that a choice needs
) -> Decision:
    "`mura calibrate`: choose anew, on the run's tune rows, how it decides; every later command decides so."
    if read_settings(run).get("views") and pool == "noisy-or":
        raise InputError(f"{run}: its network pools the views by itself, and noisy-or would count them anew; leave it")
    if threshold is not None and (by != "kappa" or per_region):
        raise InputError("a threshold is given, and a way to choose one: leave one of them out")
    decision, passing = None if threshold is None else Decision(threshold, pool=pool), _passing(run)
    if passing:
        print(passing, file=sys.stderr)
    if decision is not None:
        write_decision(decision, run)
        return decision
    now = Moment(run)
    decision = choose_decision(now.predictions(split="tune"), by, per_region, temperature, pool, least)
    if not now.keep(lambda: write_decision(decision, run)):
        remedy = "calibrate after the training's end" if passing else "choose for these (the same command)"
        raise InputError(f"{run}: better weights were put there meanwhile, and this choice was not kept; {remedy}")
    return decision


def _passing(run: str | Path) -> str:
    "Why a choice will not last: it is of weights that a training replaces, and goes with them. Empty where it will."
    goes = "with its next better epoch this choice is taken away again"
    if who := trained_by(run):
        return f"{run}: {who} is training it, and {goes}; calibrate after its end for one that stays"
    return f"{run}: mura resume may go on with it, and {goes}" if how_far(run) else ""


def evaluate_run(
    run: str | Path,  # a run's folder
    data: str | Path | None = None,  # other data than the run's own
    split: str = "valid",  # rows to score
    ci: str | None = "bootstrap",  # bootstrap, asymptotic, official or None
    source: str | None = None,  # of data: mura, fracatlas, folder or csv
    threshold: float | str | None = None,  # another than the run's: a number, or a rule to choose one by on tune
) -> pd.DataFrame:  # scores, indexed by region
    "`mura evaluate`: study-level scores, decided as the run decides; those of its own valid rows are kept with it."
    check_interval(ci)  # before anything is predicted
    now = Moment(run)
    preds = now.predictions(data, split, source)
    warn_of_seen([run], preds)
    if data is None and (edited := edited_tables(now.settings.get("data") or {})):
        since = f"{'was' if len(edited) == 1 else 'were'} edited since"
        print(f"{run}: {name_some(edited)} {since}; scored by the labels of then (images.csv)", file=sys.stderr)
    decision = now.decision()
    if isinstance(threshold, str):
        tune, calibrated = now.predictions(split="tune"), decision.temperature != 1
        decision = choose_decision(tune, threshold, bool(decision.regions), calibrated, decision.pool)
    elif threshold is not None:
        own = {region: told | {"threshold": threshold} for region, told in decision.regions.items()}
        decision = replace(decision, threshold=threshold, by="fixed", regions=own, chosen_on={})
    scores = score(preds, ci=ci, decision=decision)
    scores.attrs["region_only"] = scores_to_json(region_only(run, preds))
    scores.attrs["always_normal"] = scores_to_json(score(always_normal(preds), ci=None))
    if data is None and split == "valid" and threshold is None:
        text = json.dumps(scores_document(scores, split=split), indent=1)
        now.keep(lambda: write_text(Path(run) / "metrics.json", text))
    return scores


def region_only(
    run: str | Path,  # a run's folder
    preds: pd.DataFrame,  # what it predicted
) -> pd.DataFrame:  # scores, indexed by region
    "What knowing the region alone would score on the same rows; every model must beat it."
    images = read_table(Path(run) / "images.csv")
    return score(region_baseline(images[images.split.isin(("train", "tune"))], preds), ci=None)
