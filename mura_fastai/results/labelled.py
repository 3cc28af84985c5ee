"""What curves are drawn from: the labelled rows, their scores, and how they were decided, in words."""

from math import isfinite

import numpy as np
import pandas as pd

from mura_fastai.errors import InputError
from mura_fastai.results.calibrate import Decision
from mura_fastai.results.metrics import score
from mura_fastai.text import one_of, with_interval

MANY = 5000  # rows above which the legends have no intervals: BCa's would take minutes, and be narrow


def labelled(
    table: pd.DataFrame,  # studies or images: p_abnormal, label; where known predicted or abnormal, region, patient
    decision: Decision | None = None,  # what decided; the table's own where not given
) -> tuple[pd.DataFrame, Decision]:
    """The labelled rows with study, region, patient, label and abnormal, sorted by study; and how they were decided.

    InputError: no labelled row, or no probability."""
    missing = [c for c in ("label", "p_abnormal") if c not in table]
    if missing:
        raise InputError(f"the table has no column {missing[0]}: curves need studies with label and p_abnormal")
    rows = table[table["label"].notna()]
    if not len(rows):
        raise InputError("no row of the table has a label: nothing to hold the probabilities against")
    if decision is None:
        decision = Decision(**table.attrs["decision"]) if table.attrs.get("decision") else Decision()
    names = rows["study"] if "study" in rows else pd.Series(rows.index.astype(str), rows.index)
    region = rows["region"].fillna("unknown").astype(str) if "region" in rows else "unknown"
    patient = (rows["patient"].fillna(names) if "patient" in rows else names).astype(str)
    p = pd.to_numeric(rows["p_abnormal"], errors="coerce").astype(float)
    if not p.between(0, 1).all():
        raise InputError(
            f"p_abnormal is no number from 0 to 1 in {one_of((~p.between(0, 1)).sum(), 'row')}: drop or correct them"
        )
    rows = rows.assign(study=names, region=region, patient=patient, p_abnormal=p, label=rows["label"].astype(float))
    own = [c for c in ("predicted", "abnormal") if c in rows]
    said = rows[own[0]].astype(float) if own else (p > decision.thresholds(rows["region"])).astype(float)
    # by name, so that a figure does not depend on the order of the rows
    return rows.assign(abnormal=said).sort_values(["study", "p_abnormal"], ignore_index=True), decision


def scores_of(
    rows: pd.DataFrame,  # from `labelled`
) -> pd.DataFrame:  # as of `score`
    "The scores of the rows, each as if it were a study; for studies just those of `score`."
    names = rows["study"] if rows["study"].is_unique else [f"{i:09d}" for i in range(len(rows))]
    known = rows[["region", "patient", "p_abnormal", "abnormal", "label"]].assign(study=names, n_views=1)
    known.attrs = {}
    return score(known, ci="bootstrap" if len(known) <= MANY else None)


def in_words(
    decision: Decision,
) -> str:
    "The threshold, and where it comes from."
    on, by = decision.chosen_on, decision.by.replace("=", " of ")
    at = "thresholds by region" if decision.regions else f"threshold {decision.threshold:.2f}"
    if decision.by == "fixed":
        return at + (
            ", since too few rows of tune could choose one" if "not chosen" in on else ", given and not chosen"
        )
    how = f"{at}, chosen for {'the Youden index' if by == 'youden' else by}"
    where = f"{on.get('studies', 'the')} studies of {on.get('split', 'tune')}"
    good = "" if on.get("split", "tune") == "tune" else ": what is shown is too good"
    return f"{how} on {where}{good}"


def counted(
    rows: pd.DataFrame,  # from `labelled`
) -> str:
    "What the rows are, in words."
    n = one_of(len(rows), "image" if "path" in rows else "study")
    return f"{n} of {one_of(rows['patient'].nunique(), 'patient')}, {rows['label'].mean():.0%} abnormal"


def score_in_words(
    row: pd.Series,  # of `score`
    name: str,  # one of its columns
) -> str:
    "A score with its interval, or n/a and why."
    lo, hi = (row.get(f"{name}_{end}", np.nan) for end in ("lo", "hi"))
    return with_interval(row[name], lo, hi, 2) if isfinite(row[name]) else "n/a (one class)"
