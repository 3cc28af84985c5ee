"""A blinded review of suspect labels: a worksheet that gives nothing away, its pictures, its key, and what came of it.

Who sees a label and hears that it is doubted does not judge the picture alone any more. So the reader gets suspects
mixed with as many studies that nobody suspects, without label, probability or name: MURA writes the label into the
name of a study's folder. Only the controls tell how many labels such a reader would call wrong anyway.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from mura_fastai.data.studies import LABEL_NAMES
from mura_fastai.errors import InputError
from mura_fastai.results.intervals import wilson
from mura_fastai.results.pooling import to_studies
from mura_fastai.results.sheets import Entry, contact_sheet, write_pages
from mura_fastai.results.suspects import BETWEEN, read_cells, spare_reader, write_cells
from mura_fastai.text import aligned, with_interval

CANNOT_TELL = "cannot tell"
VERDICT_WORDS = (*LABEL_NAMES, CANNOT_TELL)
A_PAGE = 16  # pictures on a page, about
KINDS = ("suspect", "control")


def choose_controls(
    suspects: pd.DataFrame,  # from `find_suspects`: all of them
    preds: pd.DataFrame,  # the predictions they were found in
    k: int,  # how many suspects, from the first on, need one
    seed: int = 0,  # of the draw
) -> pd.DataFrame:  # studies, with `label` in words; fewer than k where there are no more
    "For each suspect a study that is none, of the same label and, as long as there is one, of the same region."
    studies = to_studies(preds)
    free = studies[studies["label"].notna() & ~studies["study"].isin(suspects["study"])]
    free = free.assign(label=np.array(LABEL_NAMES)[free["label"].to_numpy(int)])
    free = free.sample(frac=1, random_state=seed)
    taken = []
    for row in suspects[:k].itertuples():
        left = free[(free["label"] == row.label) & ~free["study"].isin(taken)]
        near = left[left["region"] == row.region]
        taken += list((near if len(near) else left)["study"][:1])
    return free.set_index("study").loc[taken].reset_index()


def write_review(
    suspects: pd.DataFrame,  # from `find_suspects`
    preds: pd.DataFrame,  # the predictions they were found in
    folder: str | Path,  # where the files go
    k: int = 50,  # suspects to have judged, from the first on; as many controls come along
    seed: int = 0,  # of the controls and the order
) -> list[Path]:  # the files written
    """review.csv, the worksheet with `verdict` and `comment` to fill in; review.pdf, its pictures; review-key.csv.

    The reader gets the first two; the key says which number is which study. Raises `InputError` for no suspects, for
    predictions without paths, and where a worksheet that somebody has begun to fill in lies there."""
    folder = Path(folder)
    sheet, key = folder / "review.csv", folder / "review-key.csv"
    if suspects.empty or "path" not in preds:
        raise InputError("nothing to review: no suspect study, or a table without the paths of its images")
    spare_reader(sheet)
    controls = choose_controls(suspects, preds, k, seed)
    rows = pd.concat([suspects[:k].assign(kind=KINDS[0]), controls.assign(kind=KINDS[1])], ignore_index=True)
    rows = rows.sample(frac=1, random_state=seed, ignore_index=True)
    views = preds[preds["study"].isin(rows["study"])].groupby("study")["path"].agg(list)
    rows = rows.assign(number=np.arange(1, len(rows) + 1), paths=rows["study"].map(views), verdict="", comment="")
    write_cells(rows[["number", "region", "n_views", "verdict", "comment"]], sheet)
    told = ["number", "kind", "study", "region", "patient", "label", "paths"]
    write_cells(rows[told].assign(paths=rows["paths"].map(BETWEEN.join)), key)
    pages = (_draw_page(page, len(rows)) for _, page in rows.groupby((rows["paths"].str.len().cumsum() - 1) // A_PAGE))
    return [sheet, *write_pages(pages, folder / "review.pdf"), key]


def _draw_page(rows: pd.DataFrame, of: int):
    "Pictures with their numbers, and nothing that tells the label."
    entries = [Entry(r.paths, [f"{r.number}   {r.region}"]) for r in rows.itertuples()]
    title = f"Normal or abnormal? Studies {rows['number'].iloc[0]} to {rows['number'].iloc[-1]} of {of}"
    note = f"Write {', '.join(VERDICT_WORDS[:2])} or {CANNOT_TELL} beside each number in review.csv."
    return contact_sheet(entries, title, [(note, "#333333")], across=4)


def read_review(
    folder: str | Path,  # where `write_review` wrote, with the worksheet filled in
) -> pd.DataFrame:  # a row a study: those of the key, and `verdict` and `comment` of the reader
    """The filled worksheet beside its key. A verdict is normal, abnormal, cannot tell, or blank.

    Read as spreadsheets save it: with commas or semicolons, with or without a byte-order mark, in any order of rows.
    Raises `InputError`, with the line, for another verdict, and for a number that is twice there or not in the key."""
    sheet = read_cells(Path(folder) / "review.csv", ("number", "region", "verdict"))
    key = read_cells(Path(folder) / "review-key.csv", ("number", "kind", "region", "label"))
    known, seen, verdicts = {r["number"]: r["region"] for r in key}, set(), []
    for line, row in enumerate(sheet, 2):
        if not any(row.values()):  # spreadsheets keep rows that were emptied
            continue
        where, number = f"{Path(folder) / 'review.csv'}, line {line}", (row.get("number") or "").strip()
        verdict = " ".join((row.get("verdict") or "").lower().split())
        if number not in known or number in seen:
            fault = "there twice; take one line away" if number in seen else "not in the key; write it as it was"
            raise InputError(f"{where}: number {number!r} is {fault}")
        if (row.get("region") or "") != known[number]:
            raise InputError(f"{where}: region is not that of the key; review-key.csv belongs to another worksheet")
        if verdict not in ("", *VERDICT_WORDS):
            raise InputError(f"{where}: verdict {verdict!r}; write {', '.join(VERDICT_WORDS)}, or nothing")
        seen.add(number)
        verdicts.append({"number": number, "verdict": verdict, "comment": row.get("comment") or ""})
    filled = pd.DataFrame(verdicts, columns=["number", "verdict", "comment"])
    table = pd.DataFrame(key).merge(filled, "left", "number").fillna({"verdict": "", "comment": ""})
    return table.astype({"number": int})


def review_result(
    review: pd.DataFrame,  # from `read_review`
) -> (
    pd.DataFrame
):  # a row for suspects and one for controls: given, judged, cannot_tell, wrong, share, share_lo, share_hi
    """How many labels the reader calls wrong: among the suspects, and among those that nobody suspected.

    The share is of those judged normal or abnormal, with Wilson's 95 % interval; NaN where none was."""
    rows = {}
    for kind in KINDS:
        mine = review[review["kind"] == kind]
        judged = mine[mine["verdict"].isin(LABEL_NAMES)]
        wrong = int((judged["verdict"] != judged["label"]).sum())
        share = wrong / len(judged) if len(judged) else np.nan
        ends = wilson(share, len(judged)) if len(judged) else (np.nan, np.nan)
        rows[kind] = [len(mine), len(judged), int((mine["verdict"] == CANNOT_TELL).sum()), wrong, share, *ends]
    columns = ["given", "judged", "cannot_tell", "wrong", "share", "share_lo", "share_hi"]
    return pd.DataFrame.from_dict(rows, "index", columns=columns).rename_axis("kind")


def format_review(
    result: pd.DataFrame,  # from `review_result`
) -> str:
    "The result as a plain text table, and what it says."
    rows = [("", "given", "judged", "cannot tell", "label wrong", "share [95 % interval]")]
    for kind, r in result.iterrows():
        counts = [str(int(r[c])) for c in ("given", "judged", "cannot_tell", "wrong")]
        rows.append((f"{kind}s", *counts, with_interval(r["share"], r["share_lo"], r["share_hi"])))
    lines = aligned(rows, right=(1, 2, 3, 4))
    lines += ["", "What is called wrong among the controls would be called wrong anyway. One reader is one opinion:"]
    return "\n".join([*lines, "have labels that are to be changed judged by a second one."])
