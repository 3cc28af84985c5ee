"""Predictions as files: a table written once is scored anywhere, without the images, the network or PyTorch."""

import json
from pathlib import Path

import pandas as pd

from mura_fastai.confined import refuse_outside
from mura_fastai.data.sources import read_images
from mura_fastai.errors import InputError
from mura_fastai.files import replacing
from mura_fastai.results.calibrate import is_decided, read_decision, studies_as_decided
from mura_fastai.results.competition import is_competition, read_competition, without_ranking
from mura_fastai.results.metrics import always_normal, region_baseline, score, scores_to_json
from mura_fastai.results.pooling import to_studies
from mura_fastai.text import one_of

_TEXT = ("path", "split", "region", "patient", "study")


def write_predictions(
    preds: pd.DataFrame,  # predictions table
    file: str | Path,  # a CSV
):
    "Write a predictions table as CSV, whole or not at all."
    with replacing(file) as aside:
        preds.to_csv(aside, index=False, errors="surrogateescape")


def read_predictions(
    file: str | Path,  # a predictions table as CSV
    needed: tuple = ("study", "region", "patient", "label", "p_abnormal"),  # columns that must be there
) -> pd.DataFrame:
    "A predictions table from a file. Raises `InputError` where it is none."
    try:
        # Only an empty cell is a missing value: a patient may well be called NA.
        preds = pd.read_csv(
            file, dtype=dict.fromkeys(_TEXT, "str"), keep_default_na=False, na_values=[""],
            encoding_errors="surrogateescape",
        )  # fmt: skip
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; mura predict writes one") from None
    except (OSError, ValueError) as e:
        raise InputError(
            f"{file}: not a predictions table ({' '.join(str(e).split())[:120]}); mura predict writes one"
        ) from None
    lost = [c for c in needed if c not in preds]
    if lost:
        raise InputError(f"{file}: no column {lost[0]!r}; a predictions table has {', '.join(needed)}")
    for count in [c for c in ("n_views", "n_unreadable") if c in preds]:
        n = pd.to_numeric(preds[count], errors="coerce")
        wrong = preds[count].notna() & ~((n >= 0) & (n % 1 == 0))
        if wrong.any():
            shown = str(preds[count][wrong].iloc[0])[:100]
            rows = one_of(wrong.sum(), "row")
            raise InputError(f"{file}: {count} is {shown!r} in {rows}; it must be a whole number, or empty")
    return preds


def own_predictions(
    file: str | Path,  # in a run's folder
    data: dict | None,  # the table `data` of its settings
) -> pd.DataFrame:
    "`read_predictions` that a run keeps: as they may be opened, none of its images lies outside of its data."
    preds = read_predictions(file)
    refuse_outside(preds.get("path", ()), data, file)
    return preds


def _read_decided(predictions: str | Path, needed: tuple, threshold: float | str | None) -> pd.DataFrame:
    "The table of a file; its studies, decided, where it carries decisions or its run does, and no threshold is given."
    preds, folder = read_predictions(predictions, needed), Path(predictions).parent
    if threshold is not None:
        return preds
    if is_decided(preds):
        return studies_as_decided(preds)
    decision = read_decision(folder) if (folder / "settings.yaml").exists() else None
    return preds if decision is None else decision.apply(preds)


def _join_truth(
    given: pd.DataFrame,  # a row a study: `study`, `p_abnormal`, and what else is known of the prediction
    images: pd.DataFrame,  # the images table that holds the truth
    split: str,  # its rows that count
) -> tuple[pd.DataFrame, list[str], list[str]]:  # studies with truth and prediction; without the one, without the other
    "The predictions, study by study, beside the labels, regions and patients of the data."
    images = images[images["split"] == split]
    truth = images.assign(n_views=images.groupby("study")["path"].transform("size")).drop_duplicates("study")
    truth = truth[["study", "split", "region", "patient", "label", "n_views"]]
    answers = given[[c for c in ("study", "p_abnormal", "abnormal", "n_unreadable") if c in given]]
    missing = truth["study"][~truth["study"].isin(given["study"])].tolist()
    extra = given["study"][~given["study"].isin(truth["study"])].tolist()
    return truth.merge(answers, "inner", "study"), missing, extra


def evaluate_file(
    predictions: str | Path,  # a CSV with study and p_abnormal (and label, region, patient, split), or a competition's
    data: str | Path | None = None,  # the data that was predicted: its labels, regions and patients count
    split: str | None = None,  # rows of one split; valid where data is given, else all
    ci: str | None = "bootstrap",  # bootstrap, asymptotic, official or None
    source: str | None = None,  # of data: mura, fracatlas, folder or csv
    split_seed: int = 0,  # of data without an official split
    threshold: float | str | None = None,  # a number, or a rule to choose one by; see `metrics.decided`
    tune: str | Path | None = None,  # predictions of other rows, on which a rule chooses
    tune_on_reported: bool = False,  # let a rule choose on what is reported
) -> pd.DataFrame:  # scores, indexed by region
    """Score predictions that were written before, by `mura predict` or by anybody else.

    A table of predictions, or a file in the competition's format (see `read_competition`), which needs `data`. What
    both sides name is scored: `attrs["missing"]` lists studies of the data's split without a prediction (their number
    is `attrs["unpredicted"]`), `attrs["extra"]` predicted ones that are not in it, `attrs["repeated"]` those on several
    lines. Where a competition's file holds 0 and 1 only, `attrs["hard"]` is True and scores that need probabilities
    are NaN. Without a threshold a table that carries decisions is scored by them (`mura predict` writes `p_study` and
    `abnormal`), and a run's own predictions.csv by the decision.yaml beside it.
    """
    competition = is_competition(predictions)
    if data is not None:
        split = split or "valid"
        needed = ("study", "p_abnormal")
        given = read_competition(predictions) if competition else _read_decided(predictions, needed, threshold)
        given = given if competition else to_studies(given)
        images = read_images(data, source, max_bad=1.0, seed=split_seed, decode=False)
        preds, missing, extra = _join_truth(given, images, split)
    elif competition:
        raise InputError(
            f"{predictions}: no labels in a competition's file, and a folder's name is none; "
            f"give the data too: mura evaluate DATA --predictions {predictions}"
        )
    else:
        preds, missing, extra = _read_decided(predictions, ("study", "p_abnormal", "label"), threshold), [], []
        if split is not None:
            preds = preds[preds["split"] == split] if "split" in preds else preds[:0]
    if split is not None and not len(preds) + len(missing):
        raise InputError(f"{data or predictions}: no rows of split {split!r}")
    if data is not None and preds.empty:
        where = images["split"][images["study"].isin(given["study"])].unique()
        found = f"they are in {', '.join(where)}" if len(where) else "a study is called XR_WRIST/patient00001/study1"
        raise InputError(f"{predictions}: none of its studies is in the {split} split of {data}; {found}")
    tune = None if tune is None else read_predictions(tune)
    scores = score(preds, ci, threshold, tune=tune, tune_on_reported=tune_on_reported)
    scores.attrs["always_normal"] = scores_to_json(score(always_normal(preds), ci=None))
    if data is not None and images["split"].isin(("train", "tune")).any():
        known = images[images["split"].isin(("train", "tune"))]
        scores.attrs["region_only"] = scores_to_json(score(region_baseline(known, preds), ci=None))
    scores.attrs["split"] = split
    if competition and given.attrs["hard"]:
        scores = without_ranking(scores)
    repeated = given.attrs["repeated"] if competition else []
    scores.attrs |= dict(unpredicted=len(missing), missing=missing, extra=extra, repeated=repeated)
    return scores


def studies_of(
    preds: pd.DataFrame,  # predictions table; where it carries decisions, so do its studies
) -> pd.DataFrame:
    "One row a study of a predictions table, the most suspicious first."
    studies = studies_as_decided(preds) if is_decided(preds) else to_studies(preds)
    return studies.sort_values("p_abnormal", ascending=False, kind="stable", ignore_index=True)


def read_scores(
    file: str | Path,  # metrics.json of a run
) -> dict:  # as of `scores_document`
    "The scores that a run keeps. Raises `InputError` where the file is none."
    try:
        told = json.loads(Path(file).read_text(encoding="utf-8"))
        tables = [told["scores"], *(told[k] for k in ("region_only", "always_normal") if k in told)]
        numbers = [
            v for table in tables for v in [table["overall"]["n"], *(v for r in table.values() for v in r.values())]
        ]
        good = all(isinstance(v, int | float | None) for v in numbers)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        good = False
    if not good:
        raise InputError(f"{file}: not the scores of a run; remove it, and mura evaluate {Path(file).parent} writes it")
    return told


def scores_document(
    scores: pd.DataFrame,  # from `score`; its `attrs`, such as the scores of the region alone, go along
    **told,  # what else belongs to them, such as split
) -> dict:  # ready for `json.dumps`: what was scored and how, then `scores` and `region_only` by region
    "The form in which scores are kept in metrics.json and printed by --json."
    return {**told, **scores.attrs, "scores": scores_to_json(scores)}
