"""Studies whose label is likely wrong: confident learning, as a list for a radiologist and a sheet of their pictures.

Northcutt, Jiang and Chuang, "Confident learning: estimating uncertainty in dataset labels", J. Artificial Intelligence
Research 70 (2021) 1373. Only predictions of studies that the network was not trained on can tell: it has learnt the
labels of the others, the wrong ones too.
"""

import csv
import io
import textwrap
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mura_fastai.data.studies import LABEL_NAMES
from mura_fastai.errors import InputError
from mura_fastai.files import replacing
from mura_fastai.results.measures import auroc
from mura_fastai.results.moments import Moment
from mura_fastai.results.pages import attention_of
from mura_fastai.results.pictures import VERDICTS
from mura_fastai.results.pooling import to_studies
from mura_fastai.results.repeats import decided_studies, out_of_fold, repeats_of
from mura_fastai.results.sheets import Entry, contact_sheet, write_pages
from mura_fastai.text import aligned, one_line, one_of, short
from mura_fastai.training.plans import is_repeats
from mura_fastai.training.tables import read_table

SAME = 1e-9  # the mean of equal probabilities may differ from them in its last bit
LEAST = 2  # studies of each label, without which there is no threshold to speak of
COLUMNS = (
    "rank", "study", "region", "patient", "split", "n_views", "label", "suggested", "p_abnormal", "doubt", "paths",
    "verdict", "comment",
)  # fmt: skip
READERS = ("verdict", "comment")  # columns that are the reader's
BETWEEN = " | "  # the paths of a study, in one cell
DANGEROUS = ("=", "+", "-", "@", "\t", "\r", "\n")  # a spreadsheet may take a cell that begins so for a formula
A_PAGE = 12  # studies on a page of pictures
REMEDY = "mura train --folds 5 predicts each study by a network that never saw it"


class Confident(NamedTuple):
    "What confident learning reads from labels and probabilities of two classes."

    thresholds: np.ndarray  # 2: the mean probability of a label among the studies that carry it
    joint: np.ndarray  # 2 x 2 counts: rows the given label, columns the one that the network is sure of
    estimate: np.ndarray  # the same, scaled so that each row sums to all studies of that label
    off_diagonal: np.ndarray  # n bool: sure of the other label


def confident_learning(
    label,  # n given labels, 0 or 1, both of them there
    p,  # n probabilities of label 1, of studies that the network was not trained on
) -> Confident:
    """The confident joint of given and likely true labels: Northcutt, Jiang and Chuang (2021), section 3.1.

    A study counts for a label where its probability of it reaches the threshold, which is what the network says on
    average of studies with that label: a network that is unsure of one label in general is held against that. One
    that reaches both counts for the likelier, one that reaches none for nothing."""
    label = np.asarray(label, int)
    both = np.stack([1 - np.asarray(p, float), np.asarray(p, float)], 1)
    own = both[np.arange(len(label)), label]
    thresholds = np.array([own[label == k].mean() for k in (0, 1)])
    sure = both >= thresholds - SAME
    likely = np.where(sure.all(1), both.argmax(1), sure.argmax(1))
    counts = sure.any(1)
    joint = np.zeros((2, 2), int)
    np.add.at(joint, (label[counts], likely[counts]), 1)
    # a label of which no study is sure would have no shares: one is taken to be right
    joint = np.maximum(joint, np.eye(2, dtype=int))
    estimate = joint / joint.sum(1, keepdims=True) * np.bincount(label, minlength=2)[:, None]
    return Confident(thresholds, joint, estimate, counts & (likely != label))


def find_suspects(
    preds: pd.DataFrame,  # predictions table, a row an image, of rows that the network was not trained on
    studies: pd.DataFrame | None = None,  # its studies as a run pools and calibrates them; means of views if not given
) -> pd.DataFrame:  # a row a suspect study with `COLUMNS`, the likeliest first; see below for its `attrs`
    """Labelled studies of which the network is sure that the other label is right, and likelier than the given one.

    The first is `confident_learning`'s off-diagonal; the second bars what a rare label's low threshold lets in.
    Thresholds are those of all regions together: own ones for each region found no more flipped labels of a phantom.
    `doubt` is the probability of the suggested label and the order of the list, `paths` the views with `BETWEEN`
    between them; `verdict` and `comment` are for the reader to fill in. `attrs` tells what was looked at: `studies`,
    `labelled` and `suspects` (of each given label), `estimate` (how many of each label confident learning takes to be
    wrong, the network's own errors among them), `thresholds`, `auroc`, `splits`, `unlabelled`.
    InputError: rows of train, no labels or fewer than `LEAST` of either, and what `to_studies` refuses."""
    studies = to_studies(preds) if studies is None else studies
    known = studies[studies["label"].notna()]
    trained = int((known["split"] == "train").sum())
    if trained:
        are = "is" if trained == 1 else "are"
        raise InputError(
            f"{trained} of {len(known)} studies {are} of train, whose labels the network has learnt; {REMEDY}"
        )
    label, p = known["label"].to_numpy(int), known["p_abnormal"].to_numpy(float)
    numbers = np.bincount(label, minlength=2)
    if numbers.min() < LEAST:
        told = " and ".join(f"{n} labelled {word}" for n, word in zip(numbers, LABEL_NAMES, strict=True))
        raise InputError(f"{told}: a wrong label is told by the others; look at rows with at least {LEAST} of each")
    found, words, doubt = confident_learning(label, p), np.array(LABEL_NAMES), np.where(label, 1 - p, p)
    suspect = found.off_diagonal & (doubt > 0.5)
    rows = known.assign(label=words[label], suggested=words[1 - label], doubt=doubt, verdict="", comment="")[suspect]
    # by name too, so that equal doubts come in the same order always
    rows = rows.sort_values(["doubt", "study"], ascending=[False, True], kind="stable", ignore_index=True)
    paths = preds.groupby("study")["path"].agg(BETWEEN.join) if "path" in preds else {}
    rows["paths"] = [paths.get(study, "") for study in rows["study"]]
    rows = rows.assign(rank=np.arange(1, len(rows) + 1))[[*COLUMNS]]
    rows.attrs = dict(
        studies=len(known),
        labelled=_by_label(numbers),
        suspects=_by_label(np.bincount(label[suspect], minlength=2)),
        estimate=_by_label(found.estimate[[0, 1], [1, 0]].round(1)),
        thresholds=_by_label(found.thresholds.round(4)),
        auroc=round(float(auroc(label, p)), 4),
        splits={str(k): int(n) for k, n in known["split"].value_counts().items()},
        unlabelled=len(studies) - len(known),
    )
    return rows


def _by_label(numbers) -> dict:
    return dict(zip(LABEL_NAMES, np.asarray(numbers).tolist(), strict=True))


def suspects_of_run(
    run: str | Path,  # a run's folder, or one that holds the runs of several folds or seeds
    *args,  # of `out_of_sample`
    **kwargs,  # of `out_of_sample`: data, split, source
) -> tuple[pd.DataFrame, pd.DataFrame]:  # from `find_suspects`; the predictions table they are of
    "`mura interpret --suspects`: the suspects among what a run predicted and had not been trained on."
    studies, preds = out_of_sample(run, *args, **kwargs)
    return find_suspects(preds, studies), preds


def out_of_sample(
    run: str | Path,  # a run's folder, or one that holds the runs of several folds or seeds
    data: str | Path | None = None,  # other data than the run's own
    split: str = "valid",  # rows to look at; never those of train
    source: str | None = None,  # of data: mura, fracatlas, folder or csv
) -> tuple[pd.DataFrame, pd.DataFrame]:  # studies, pooled and calibrated as the run decides; the predictions of images
    """Predictions by networks that had not seen the rows; of several seeds the mean.

    InputError: rows that the run was trained on, and rows other than the reported ones of a folder of several runs."""
    if is_repeats(run):
        if data is not None or split != "valid":
            raise InputError(f"{run}: holds several runs, looked at on what each reports; leave data and split away")
        return _mean_of_seeds(run), out_of_fold(run)
    if split == "train":
        raise InputError(f"{run}: was trained on its train rows and has learnt their labels; {REMEDY}")
    now = Moment(run)
    preds, own = now.predictions(data, split, source), read_table(Path(run) / "images.csv")
    trained = int(preds["path"].isin(own["path"][own["split"] == "train"]).sum())
    if trained:
        raise InputError(f"{run}: was trained on {trained} of these {one_of(len(preds), 'image')}; {REMEDY}")
    return now.decision().apply(preds), preds


def _mean_of_seeds(run: str | Path) -> pd.DataFrame:
    "Each study once, as the seeds' networks that never saw it say together, each calibrated by its own run."
    first, *others = (t.set_index("study") for t in repeats_of(run, decided_studies))
    p = pd.concat([t["p_abnormal"] for t in (first, *others)], axis=1, join="inner").mean(axis=1).round(12)
    return first.loc[p.index].assign(p_abnormal=p).reset_index()


def _under(view) -> str:
    return attention_of(view) or f"p = {short(view['p_abnormal'], 2)}"


def draw_suspects(
    suspects: pd.DataFrame,  # rows from `find_suspects`, a page of them
    preds: pd.DataFrame,  # the predictions they were found in, with the paths of the views
) -> Figure:
    """Their pictures, numbered as in the list; over them the label, what the network takes it for, and where from.

    The colours are those of the two kinds of error elsewhere. Raises `InputError` for no studies or no paths."""
    if suspects.empty or "path" not in preds:
        raise InputError("nothing to draw: no suspect study, or a table without the paths of its images")
    views = dict(list(preds[preds["study"].isin(suspects["study"])].groupby("study")))
    entries = []
    for row in suspects.itertuples():
        mine = views[row.study]
        lines = [f"{row.rank}   labelled {row.label}", f"looks {row.suggested}, p = {short(row.p_abnormal, 2)}"]
        lines += [row.region, row.study.removeprefix(f"{row.region}/")]
        under = [_under(view) if len(mine) > 1 else "" for _, view in mine.iterrows()]
        entries.append(Entry(mine["path"].tolist(), lines, _colour(row.label), under))
    first, last, of = suspects["rank"].iloc[0], suspects["rank"].iloc[-1], suspects.attrs.get("suspects", {})
    title = f"Is the label wrong, or the network? Suspects {first} to {last}" + (
        f" of {sum(of.values())}" if of else ""
    )
    told = "its share of what was looked at" if "attention" in preds else "of that view alone"
    notes = [(f"p: the network's probability of abnormal; under a view, {told}", "#333333")]
    for label, other in (LABEL_NAMES, LABEL_NAMES[::-1]):
        notes.append((f"labelled {label}, looks {other}", _colour(label)))
    return contact_sheet(entries, title, notes)


def _colour(label: str) -> str:
    "Of a given label that is taken for the other one."
    given = LABEL_NAMES.index(label)
    return VERDICTS[given, 1 - given][1]


def defused(
    cell,  # text for a spreadsheet, such as a file name
) -> str:
    "Text that no spreadsheet takes for a formula: an apostrophe stands before what could be one."
    text = str(cell)
    return f"'{text}" if text.startswith(DANGEROUS) else text


def write_cells(
    table: pd.DataFrame,
    file: str | Path,  # a CSV that people open in a spreadsheet
):
    "Write a table as CSV in UTF-8, whole or not at all, its texts `defused`."
    texts = {c: table[c].map(defused) for c in table if not pd.api.types.is_numeric_dtype(table[c])}
    with replacing(file) as aside:
        table.assign(**texts).to_csv(aside, index=False, errors="surrogateescape")


def read_cells(
    file: str | Path,  # a CSV that may have gone through a spreadsheet
    needed: tuple[str, ...],  # columns that it must have
) -> list[dict]:  # column -> text, a dictionary a row
    "Rows with commas, semicolons or tabs between the cells, with or without a byte-order mark. Raises `InputError`."
    try:
        text = Path(file).read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError:
        raise InputError(f"{file}: missing; mura interpret RUN --suspects --blind writes it") from None
    first = text.split("\n", 1)[0]
    # not `splitlines`, which ends a line at characters that a comment may hold
    cells = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count))
    lost = [column for column in needed if column not in (cells.fieldnames or ())]
    if lost:
        raise InputError(f"{file}: no column {', '.join(lost)}; mura interpret RUN --suspects writes such files whole")
    return list(cells)


def spare_reader(
    file: str | Path,  # a list or a worksheet that is about to be written
):
    "`InputError` where such a file lies there already and somebody has begun to fill it in."
    rows = read_cells(file, READERS) if Path(file).exists() else []
    if any((row[column] or "").strip() for row in rows for column in READERS):
        raise InputError(f"{file}: holds verdicts or comments already; move it away, or choose another folder (--out)")


def write_suspects(
    suspects: pd.DataFrame,  # from `find_suspects`
    preds: pd.DataFrame,  # the predictions they were found in
    folder: str | Path,  # where the files go
    k: int = 60,  # studies to draw; the list holds all
) -> list[Path]:  # the files written
    """The list as suspects.csv, and its pictures as suspects.pdf, `A_PAGE` studies a page.

    A PDF keeps the pages together, prints, and can be enlarged to what the pictures hold. It is left out, and an old
    one taken away, where there is nothing to draw, so that the two always belong together. Raises `InputError` where a
    list that somebody has begun to fill in lies there."""
    folder, drawn = Path(folder), suspects[:k] if "path" in preds else suspects[:0]
    spare_reader(folder / "suspects.csv")
    write_cells(suspects, folder / "suspects.csv")
    pages = (draw_suspects(drawn[i : i + A_PAGE], preds) for i in range(0, len(drawn), A_PAGE))
    return [folder / "suspects.csv", *write_pages(pages, folder / "suspects.pdf")]


def format_suspects(
    suspects: pd.DataFrame,  # from `find_suspects`
    k: int = 10,  # rows to print
) -> str:
    "The first of the list, and what it means and what not, up to 100 characters wide."
    how = suspects.attrs
    each = [f"{how['suspects'][w]} of {how['labelled'][w]} labelled {w}" for w in LABEL_NAMES]
    lines = [f"Suspect labels: {len(suspects)} of {one_of(how['studies'], 'study')}, {' and '.join(each)}"]
    if len(suspects):
        rows = [("", "p", "label", "looks", "views", "study")]
        for r in suspects[:k].itertuples():
            rows.append((str(r.rank), short(r.p_abnormal, 2), r.label, r.suggested, str(r.n_views), one_line(r.study)))
        lines += ["", *aligned(rows, right=(0, 1, 4))]
        lines += [f"... and {len(suspects) - k} more"] if len(suspects) > k else []
    estimate = " and ".join(f"{how['estimate'][w]:.0f} labelled {w}" for w in LABEL_NAMES)
    told = [
        "A suspicion, not a verdict: the network is sure of the other label, and either may be wrong. The list holds "
        "wrong labels, findings that the network does not see, and normal things that it takes for findings. A "
        "radiologist decides. Research only, not a medical device.",
        f"Confident learning takes {estimate} for wrong. That is too many wherever the network errs, for it counts its "
        f"errors with them; its AUROC on these labels is {short(how['auroc'])}.",
    ]
    if "tune" in how["splits"]:
        tune = one_of(how["splits"]["tune"], "study is", "studies are")
        told += [f"{tune} of tune: epoch and threshold were chosen by such labels."]
    return "\n".join([*lines, "", *(line for text in told for line in textwrap.wrap(text, 98))])


def suspects_to_json(
    suspects: pd.DataFrame,  # from `find_suspects`
) -> dict:  # ready for `json.dumps`
    "What was looked at, and the list; the reader's empty columns are left out."
    rows = suspects.drop(columns=[*READERS])
    rows = [r | {"paths": r["paths"].split(BETWEEN) if r["paths"] else []} for r in rows.to_dict("records")]
    return {**suspects.attrs, "list": rows}
