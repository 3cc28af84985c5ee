"""Predictions as files: a table written once is scored anywhere, without the images, the network or PyTorch."""

from pathlib import Path

import pandas as pd

from mura_fastai.data.sources import read_images
from mura_fastai.errors import InputError
from mura_fastai.files import replacing
from mura_fastai.results.metrics import score, scores_to_json, to_studies

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
        raise InputError(f"{file}: not a predictions table ({' '.join(str(e).split())[:120]})") from None
    lost = [c for c in needed if c not in preds]
    if lost:
        raise InputError(f"{file}: no column {lost[0]!r}; a predictions table has {', '.join(needed)}")
    return preds


def evaluate_file(
    predictions: str | Path,  # a CSV with study and p_abnormal, and what is known of label, region, patient, split
    data: str | Path | None = None,  # the data that was predicted: its labels, regions and patients count
    split: str | None = None,  # rows of one split; valid where data is given, else all
    ci: str | None = "bootstrap",  # bootstrap, asymptotic, official or None
    source: str | None = None,  # of data: mura, fracatlas, folder or csv
    split_seed: int = 0,  # of data without an official split
) -> pd.DataFrame:  # scores, indexed by region; `attrs["unpredicted"]` counts studies of data without a prediction
    "Score predictions that were written before, by `mura predict` or by anybody else."
    if data is None:
        preds = read_predictions(predictions, ("study", "p_abnormal", "label"))
    else:
        images = read_images(data, source, max_bad=1.0, seed=split_seed, decode=False)
        pooled = to_studies(read_predictions(predictions, ("study", "p_abnormal")))
        studies = images.drop_duplicates("study")[["study", "split", "region", "patient", "label"]]
        preds = studies.merge(pooled[["study", "n_views", "p_abnormal"]], "left", "study")
        split = split or "valid"
    if split is not None:
        preds = preds[preds["split"] == split] if "split" in preds else preds[:0]
        if preds.empty:
            raise InputError(f"{data or predictions}: no rows of split {split!r}")
    known = preds[preds["p_abnormal"].notna()] if data is not None else preds
    if known.empty:
        raise InputError(f"{predictions}: none of its studies is in {data}; study is XR_WRIST/patient00001/study1")
    scores = score(known, ci=ci)
    scores.attrs["unpredicted"] = len(preds) - len(known)
    return scores


def studies_of(
    preds: pd.DataFrame,  # predictions table
) -> pd.DataFrame:
    "One row a study of a predictions table, the most suspicious first."
    return to_studies(preds).sort_values("p_abnormal", ascending=False, kind="stable", ignore_index=True)


def scores_document(
    scores: pd.DataFrame,  # from `score`; `attrs["baseline"]` holds what the region alone scores, where that is known
    **told,  # what else belongs to them, such as split
) -> dict:  # ready for `json.dumps`: what was scored and how, then `scores` and `region_only` by region
    "The form in which scores are kept in metrics.json and printed by --json."
    how = {k: v for k, v in scores.attrs.items() if k != "baseline"}
    baseline = scores.attrs.get("baseline")
    return {
        **told, **how, "scores": scores_to_json(scores),
        "region_only": None if baseline is None else scores_to_json(baseline),
    }  # fmt: skip
