"""The competition's format: no header, and in each line the folder of a study and the decision about it."""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from mura_fastai.errors import InputError
from mura_fastai.files import write_text
from mura_fastai.results.metrics import decided

FORMATS = ("table", "competition")  # what `mura predict` writes
RANKED = ("auroc", "average_precision", "brier", "ece")  # scores that need probabilities: 0 and 1 alone rank nothing
# The end of a folder's name says the label: it is matched, so that it can be left away, and never read.
_FOLDER = re.compile(r"(?:.+/)?(XR_[A-Z]+)/(patient\d+)/(study\d+)(?:_positive|_negative)?")


def _lines(file: str | Path) -> list[tuple[int, str]]:
    "The lines of a CSV that are not blank, with their numbers."
    try:
        text = Path(file).read_text(encoding="utf-8-sig", errors="surrogateescape")
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; check the name") from None
    except OSError as e:
        raise InputError(f"{file}: cannot be read ({e.strerror or e}); mend that, and give the command again") from None
    return [(n, line.strip()) for n, line in enumerate(text.split("\n"), 1) if line.strip()]


def _key(folder: str) -> str | None:
    "MURA-v1.1/valid/XR_WRIST/patient11185/study1_positive is XR_WRIST/patient11185/study1."
    found = _FOLDER.fullmatch(folder.replace("\\", "/").rstrip("/"))
    return "/".join(found.groups()) if found else None


def competition_folders(
    inputs: list[str | Path],  # of `mura predict`
    format: str | None = None,  # table, competition, or None: competition where the input is its list of images
) -> dict[str, str] | None:  # study: its folder as the list writes it, in order of first appearance; None for a table
    """The studies that an output in the competition's format has to name.

    That is when the only input is a headerless CSV whose paths all are .../XR_REGION/patientN/studyN/IMAGE, where the
    study's folder may end in _positive or _negative. InputError: no such format; the competition's asked for without
    such a list; a study in two folders.
    """
    if format is not None and format not in FORMATS:
        raise InputError(f"there is no format {format!r}: choose one of {', '.join(FORMATS)}")
    if format == "table":
        return None
    needs = "the competition's format needs one headerless CSV of paths .../XR_REGION/patientN/studyN/IMAGE as input"
    if len(inputs) != 1 or Path(inputs[0]).suffix.lower() != ".csv":
        if format == "competition":
            raise InputError(f"{needs}; give it alone, or take --format table")
        return None
    lines, folders = _lines(inputs[0]), {}
    for number, line in lines:
        folder = line.rpartition("/")[0]
        study = _key(folder) if not line.endswith("/") else None
        if study is None:
            if format == "competition":
                raise InputError(f"{inputs[0]}, line {number}: {needs}; correct the line, or take --format table")
            return None
        if folders.setdefault(study, folder) != folder:
            raise InputError(
                f"{inputs[0]}, line {number}: {study} is in two folders, {folders[study]} and {folder}; "
                "leave one out, or take --format table"
            )
    return folders or None


def write_competition(
    studies: pd.DataFrame,  # studies table with `folder` as the competition's list writes it, decided or not
    file: str | Path,  # a CSV
):
    """Write one line a study, in the table's order: its folder with a slash at the end, and 0 or 1.

    Whole or not at all. InputError: no column `folder`, or a study without one.
    """
    if "folder" not in studies or studies["folder"].isna().any():
        raise InputError(f"{file}: not every study has a folder; fill the column as in the list of images")
    abnormal = studies["abnormal"] if "abnormal" in studies else decided(studies)["abnormal"]
    rows = zip(studies["folder"], abnormal, strict=True)
    write_text(file, "".join(f"{folder.rstrip('/')}/,{int(said)}\n" for folder, said in rows))


def is_competition(
    file: str | Path,  # a CSV of predictions
) -> bool:
    "Is it in the competition's format, and no table with the names of its columns above?"
    lines = [line for _, line in _lines(file)]
    if not lines or {"study", "p_abnormal"} & {cell.strip(' "') for cell in lines[0].split(",")}:
        return False
    return any(_key(line.rpartition(",")[0].strip(' "')) for line in lines)


def read_competition(
    file: str | Path,  # a CSV without header, one row a study: FOLDER,0 or FOLDER,1; or a probability of abnormal
) -> pd.DataFrame:  # a row a study: study, region, patient, folder, p_abnormal; and abnormal, where all are 0 or 1
    """The answers of a file in the competition's format, whoever wrote it. No label is read off a folder's name.

    The data set's folder may have any name; a slash at the folder's end, quotes, a byte order mark and Windows line
    ends make no difference. `attrs["hard"]` says whether all values are 0 or 1, `attrs["repeated"]` names studies that
    are listed more than once with one answer. InputError: no rows, a line of another form, a study with two answers.
    """
    table = pd.DataFrame([_row(file, number, line) for number, line in _lines(file)])
    if table.empty:
        raise InputError(f"{file}: no rows; one a study is expected, such as {_EXAMPLE}")
    answers = table.groupby("study")["p_abnormal"]
    torn = table[answers.transform("min") != answers.transform("max")]
    if len(torn):
        study = torn["study"].iloc[0]
        where = ", ".join(map(str, torn["line"][torn["study"] == study]))
        raise InputError(f"{file}: lines {where} give {study} different answers; leave one")
    hard, repeated = bool(table["p_abnormal"].isin([0, 1]).all()), table["study"][table["study"].duplicated()]
    table = table.drop_duplicates("study", ignore_index=True).drop(columns="line")
    if hard:
        table["abnormal"] = table["p_abnormal"].astype("int64")
    table.attrs = {"hard": hard, "repeated": repeated.unique().tolist()}
    return table


_EXAMPLE = "MURA-v1.1/valid/XR_WRIST/patient11185/study1_positive/,1"


def _row(file: str | Path, number: int, line: str) -> dict:
    "One line of the competition's format."
    folder, _, value = (part.strip(' "') for part in line.rpartition(","))
    study = _key(folder)
    if study is None:
        raise InputError(f"{file}, line {number}: {line!r} is not FOLDER_OF_A_STUDY,ANSWER such as {_EXAMPLE}")
    try:
        p = float(value)
    except ValueError:
        p = np.nan
    if not 0 <= p <= 1:
        raise InputError(f"{file}, line {number}: {value!r} is no answer; write 0, 1 or a probability of abnormal")
    region, patient, _ = study.split("/")
    return dict(line=number, study=study, region=region, patient=patient, folder=folder, p_abnormal=p)


def without_ranking(
    scores: pd.DataFrame,  # from `score`
) -> pd.DataFrame:  # the same, `RANKED` and their intervals NaN, `attrs["hard"]` True
    "The scores of decisions: a ranking of two values and probabilities that were never given are not scored."
    ranked = [c for c in scores if c.removesuffix("_lo").removesuffix("_hi") in RANKED]
    scores = scores.assign(**dict.fromkeys(ranked, np.nan))
    scores.attrs["hard"] = True
    return scores
