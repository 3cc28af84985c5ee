"""A run and its rows: what it predicts of them, how it decides, and what that is worth."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd

from mura_fastai.confined import refuse_outside
from mura_fastai.data.reading import print_left_out, read_data
from mura_fastai.data.store import Store, build_store, store_folder, whole_store
from mura_fastai.data.studies import SPLITS
from mura_fastai.errors import InputError
from mura_fastai.files import replacing, write_text
from mura_fastai.results.calibrate import Decision, choose_decision, read_decision, write_decision
from mura_fastai.results.metrics import always_normal, check_interval, region_baseline, score, scores_to_json
from mura_fastai.results.predict import predict_images
from mura_fastai.results.tables import read_predictions, scores_document, write_predictions
from mura_fastai.training.runs import load_run, read_settings, read_table

# What a run keeps of its own rows: those that are reported, and those that are chosen on.
KEPT = {"valid": "predictions.csv", "tune": "predictions-tune.csv"}


def predictions_of(
    run: str | Path,  # a run's folder
    data: str | Path | None = None,  # other data than the run's own
    split: str = "valid",  # rows to predict
    source: str | None = None,  # of data: mura, fracatlas, folder or csv
) -> pd.DataFrame:  # the predictions table
    "Predictions of a run: of its own valid and tune rows made once and read again, without data or a second pass."
    run, settings = Path(run), read_settings(run)
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}; the known ones are {', '.join(SPLITS)}")
    kept, own = run / KEPT.get(split, ""), read_table(run / "images.csv")
    mine = data is None and split in KEPT
    refuse_outside(own.path, settings.get("data"), run / "images.csv")
    if mine and kept.exists():  # training takes it away with every epoch that it keeps
        preds = read_predictions(kept)
        refuse_outside(preds.get("path", ()), settings.get("data"), kept)
        return preds
    # Data without an official split is split as the run's was, or rows it trained on would come as valid ones.
    seed = (settings.get("data") or {}).get("split_seed", 0)
    images = own if data is None else read_data(data, source, max_bad=1.0, split_seed=seed)
    images = images[images.split == split]
    if images.empty:
        raise InputError(f"{data or run}: no rows of split {split!r}")
    store = _decoded(settings, own, images) if data is None else None
    preds = predict_images(load_run(run), images, max_bad=settings.get("max_bad", 0.05) if mine else 1.0, store=store)
    known = {s["path"] for s in images.attrs.get("skipped", [])}
    print_left_out([s for s in preds.attrs["skipped"] if s["path"] not in known])
    if mine:
        _keep_skipped(run, preds.attrs["skipped"])
        write_predictions(preds, kept)
    return preds


def _decoded(settings: dict, own: pd.DataFrame, images: pd.DataFrame) -> Store | None:
    "Where the run's images lie decoded already: in the store it was trained from, or in the cache's for its table."
    named, size = settings.get("store"), settings["size"]
    if isinstance(named, str):  # whoever wrote the settings: what lies there is read, and never written
        return whole_store(named, images.path.tolist(), size)
    cached = store_folder(own, size)
    return build_store(images, cached, size, wait=True) if cached.exists() else None


def _keep_skipped(run: Path, skipped: list[dict]):
    "Name in the run's skipped.csv what could be read in training and cannot be any more."
    file, told = run / "skipped.csv", pd.DataFrame(skipped, columns=["path", "reason"])
    if told.empty:
        return
    try:
        old = pd.read_csv(file, dtype="str", keep_default_na=False, encoding_errors="surrogateescape")
        told = pd.concat([old, told]).drop_duplicates(["path", "reason"])
    except (OSError, ValueError, KeyError):
        pass  # a run that came without one
    with replacing(file) as aside:
        told.to_csv(aside, index=False, errors="surrogateescape")


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
            print(f"{n} of {len(images)} images were {what}: their scores are too good", file=sys.stderr)


def decision_of(
    run: str | Path,  # a run's folder
) -> Decision:
    "How a run decides: what its decision.yaml says, or what is chosen on its tune rows and kept there."
    kept = read_decision(run)
    if kept is not None:
        return kept
    try:
        tune = predictions_of(run, split="tune")
    except InputError as e:
        print(f"no threshold could be chosen, so abnormal is above 0.5: {e}", file=sys.stderr)
        return Decision()
    try:
        decision = choose_decision(tune)
    except InputError as e:
        print(f"no threshold was chosen, so abnormal is above 0.5: {e}", file=sys.stderr)
        decision = Decision(chosen_on={"not chosen": str(e)})
    write_decision(decision, run)
    return decision


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
    if threshold is None:
        decision = choose_decision(predictions_of(run, split="tune"), by, per_region, temperature, pool, least)
    elif by != "kappa" or per_region:
        raise InputError("a threshold is given, and a way to choose one: leave one of them out")
    else:
        decision = Decision(threshold, pool=pool)
    write_decision(decision, run)
    return decision


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
    preds = predictions_of(run, data, split, source)
    warn_of_seen([run], preds)
    decision = decision_of(run)
    if isinstance(threshold, str):
        tune, calibrated = predictions_of(run, split="tune"), decision.temperature != 1
        decision = choose_decision(tune, threshold, bool(decision.regions), calibrated, decision.pool)
    elif threshold is not None:
        own = {region: told | {"threshold": threshold} for region, told in decision.regions.items()}
        decision = replace(decision, threshold=threshold, by="fixed", regions=own, chosen_on={})
    scores = score(preds, ci=ci, decision=decision)
    scores.attrs["region_only"] = scores_to_json(region_only(run, preds))
    scores.attrs["always_normal"] = scores_to_json(score(always_normal(preds), ci=None))
    if data is None and split == "valid" and threshold is None:
        write_text(Path(run) / "metrics.json", json.dumps(scores_document(scores, split=split), indent=1))
    return scores


def region_only(
    run: str | Path,  # a run's folder
    preds: pd.DataFrame,  # what it predicted
) -> pd.DataFrame:  # scores, indexed by region
    "What knowing the region alone would score on the same rows; every model must beat it."
    images = read_table(Path(run) / "images.csv")
    return score(region_baseline(images[images.split.isin(("train", "tune"))], preds), ci=None)
