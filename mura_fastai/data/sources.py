"""Any data to the one table: FracAtlas, a tree of normal and abnormal folders, a CSV of one's own, and MURA."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from ..errors import InputError
from .fracatlas import fracatlas_images
from .gather import (
    Progress,
    checked,
    existing_folder,
    flag_unreadable,
    image_files,
    is_inside,
    leave_out,
    mura_study,
    plain_name,
    two_labels,
)
from .inspection import check_images, limit_bad
from .studies import finish_images, mura_images, patient_split, refuse_leaks, tune_split
from .tables import Without, parse_labels, read_table

# Folder names (in small letters, "-" and " " as "_") and the label they stand for.
LABEL_FOLDERS = {
    "normal": 0, "negative": 0, "healthy": 0, "non_fractured": 0, "not_fractured": 0, "no_fracture": 0,
    "abnormal": 1, "positive": 1, "fractured": 1, "fracture": 1,
}  # fmt: skip
DIGIT_FOLDERS = {"0": 0, "1": 1}  # count only where no word is in the path: they may well number something else
SPLIT_FOLDERS = {
    "train": "train", "training": "train", "tune": "tune", "val": "valid", "valid": "valid", "validation": "valid",
    "test": "test", "testing": "test",
}  # fmt: skip
SOURCES = ("mura", "fracatlas", "folder", "csv")


def _nearest(parts: list[str], names: dict) -> int | None:
    "Position of the folder nearest to the file whose name is one of `names`."
    return next((i for i in reversed(range(len(parts))) if parts[i] in names), None)


def _read_folders(path: str) -> dict:
    "What the folders of one file say (`path` relative to the root): label, split, region, patient, study."
    *parts, name = path.split(os.sep)
    plain = [plain_name(p) for p in parts]
    # MURA's own folders end in the label: study1_positive
    words = [p.rpartition("_")[2] if re.fullmatch(r"study\w*_(positive|negative)", p) else p for p in plain]
    at = _nearest(words, LABEL_FOLDERS)
    names = LABEL_FOLDERS if at is not None else DIGIT_FOLDERS
    at = at if at is not None else _nearest(words, DIGIT_FOLDERS)
    split_at = _nearest(plain[:at], SPLIT_FOLDERS) if at is not None else None
    known = {i: p for i, p in enumerate(plain) if re.match(r"(patient|study)[_\d]", p)}
    patient = next((p for p in known.values() if p.startswith("patient")), "")
    study = next((re.sub(r"_(positive|negative)$", "", p) for p in known.values() if p.startswith("study")), "")
    region = next((p.upper() for p in parts if p.upper().startswith("XR_")), "")
    if not region and at and at - 1 != split_at and at - 1 not in known:
        region = parts[at - 1]
    bare = [
        p for i, p in enumerate(parts) if i not in (at, split_at) and i not in known and p.upper() != region.upper()
    ]
    return dict(
        label=None if at is None else names[words[at]],
        split="" if split_at is None else SPLIT_FOLDERS[plain[split_at]],
        region=region or "all", patient=patient, study=study, _own="/".join([*bare, name.rpartition(".")[0]]),
    )  # fmt: skip


def _key(region: pd.Series, patient: pd.Series, study: pd.Series) -> pd.Series:
    return (region + "/" + patient + "/" + study).str.replace("//", "/")


def _name_studies(rows: pd.DataFrame) -> pd.DataFrame:
    """Unique `study` and `patient` keys from what is known; an image of which nothing is known is a study of its own.

    `_own` is the image's path without label and split; where that names two images, a piece of the pixel hash follows.
    """
    own = rows._own.where(
        ~rows.duplicated(["region", "patient", "_own"], keep=False), rows._own + "-" + rows._pixel_hash.str[:8]
    )
    study = rows.study.where(rows.study != "", own)
    key = _key(rows.region, rows.patient, study)
    patient = rows.patient.where(rows.patient != "", key)
    return rows.assign(study=key, patient=patient)


def _number_views(rows: pd.DataFrame) -> pd.Series:
    return rows.sort_values("path").groupby("study").cumcount().add(1).reindex(rows.index)


def _split(rows: pd.DataFrame, valid_pct: float, tune_pct: float, seed: int, allow_leaks: bool) -> pd.DataFrame:
    """Keep the splits that the source names and make the ones that it lacks.

    Without any, all rows are dealt out by patient. Rows without a split beside others that have one are train's.
    """
    if (rows.split == "").all():
        return patient_split(rows, valid_pct, tune_pct, seed)
    rows = rows.assign(split=rows.split.replace("", "train"))
    if not allow_leaks:
        refuse_leaks(rows)
    train = rows[rows.split == "train"]
    if len(train) and not (rows.split == "valid").any():
        train = patient_split(train, valid_pct, tune_pct, seed)
    elif len(train) and not (rows.split == "tune").any():
        train = tune_split(train, tune_pct, seed)
    return pd.concat([train, rows[rows.split != "train"]]).sort_index()


def _finish(rows, skipped, max_bad, valid_pct, tune_pct, seed, allow_leaks, progress) -> pd.DataFrame:
    "What `folder_images` and `csv_images` have in common, once each row says what its source knows."
    begin, whole = len(skipped), rows
    rows = _name_studies(checked(rows, skipped, max_bad, progress))
    # A copy that was left out is no view less.
    unread = {s["path"] for s in skipped[begin:] if not s["reason"].startswith("same pixels")}
    lost = whole[whole.path.isin(unread) & (whole.study != "")]
    lost = dict(zip(lost.path, _key(lost.region, lost.patient, lost.study), strict=True))
    rows = leave_out(rows, two_labels(rows, "study"), "its study has images of both labels", skipped)
    if rows.empty:
        raise InputError("every study has images of both labels; check the labels")
    rows["view"] = rows.view.where(rows.view.notna(), _number_views(rows)) if "view" in rows else _number_views(rows)
    rows = rows[[c for c in rows if not c.startswith("_")]]
    official = sorted(set(rows.split) - {""})
    rows, gone = flag_unreadable(_split(rows, valid_pct, tune_pct, seed, allow_leaks), lost)
    images = finish_images(rows, skipped + gone)
    images.attrs["official"] = official  # the splits that the source itself makes
    return images


def folder_images(
    root: str | Path,  # any tree in which each image lies below a folder that says normal or abnormal
    max_bad: float = 0.05,  # greatest share of unreadable files that is left out without an error
    valid_pct: float = 0.2,  # share that is only ever reported on, where no folder is called valid
    tune_pct: float = 0.1,  # share of train on which epochs and thresholds are chosen
    seed: int = 0,  # another seed, another split
    allow_leaks: bool = False,  # go on although a patient is in both train and valid
    progress: Progress = None,  # called with (done, all) while files are decoded
    without: Without = None,  # files to pass over
) -> pd.DataFrame:  # the images table
    """A tree of folders called normal and abnormal (or one of `LABEL_FOLDERS`, or 0 and 1), in capitals or not.

    The one nearest to the image counts. Above it a folder of `SPLIT_FOLDERS` is kept as the official split. `region` is
    a folder XR_..., or else the one right above the label's, or "all". Folders patientN and studyN say whose image it
    is; without them each image is a study and a patient of its own: then repeats of one patient may lie on both sides
    of a split (exact copies do not).
    What cannot be used is named in `attrs["skipped"]`. Raises `InputError` if no folder carries a label, for a link
    that leads out of `root`, and for a patient in both train and valid.
    """
    root = existing_folder(root)
    files, skipped = image_files(root, without)
    rows = pd.DataFrame([{"path": f, **_read_folders(os.path.relpath(f, root))} for f in files])
    if rows.empty or rows.label.isna().all():
        raise InputError(f"{root}: no images in folders called {', '.join(LABEL_FOLDERS)}, 0 or 1; rename the folders")
    rows = leave_out(rows, rows.label.isna(), "in no folder that says normal or abnormal", skipped)
    return _finish(rows, skipped, max_bad, valid_pct, tune_pct, seed, allow_leaks, progress)


def csv_images(
    file: str | Path,  # a CSV with a header: `path` and `label`; if it likes `split, region, patient, study, view`
    max_bad: float = 0.05,  # greatest share of unreadable files that is left out without an error
    valid_pct: float = 0.2,  # share that is only ever reported on, where the table has no split
    tune_pct: float = 0.1,  # share of train on which epochs and thresholds are chosen
    seed: int = 0,  # another seed, another split
    allow_leaks: bool = False,  # go on although a patient is in both train and valid
    progress: Progress = None,  # called with (done, all) while files are decoded
    without: Without = None,  # lines to pass over
) -> pd.DataFrame:  # the images table; further columns pass through as text
    """A table of one's own: `path` relative to the CSV's folder and inside it, `label` 0, 1 or blank.

    Without `patient` and `study` each image is its own. Raises `InputError`, with the line's number, for a table
    that cannot be read, a label that is none, an unknown split, a path that leads out of the CSV's folder.
    """
    file = Path(file).expanduser().absolute()
    table = read_table(file, ("path", "label"), without)
    rows = table.assign(label=parse_labels(table, "label", file), _own=table.path.str.rsplit(".", n=1).str[0])
    for column, blank in (("split", ""), ("region", "all"), ("patient", ""), ("study", "")):
        rows[column] = rows[column].replace("", blank) if column in rows else blank
    splits = rows.split.map(SPLIT_FOLDERS | {"": ""})
    _stop_at(rows, splits.isna(), file, "split", "is none of train, tune, valid, test")
    rows["split"], real_root = splits, os.path.realpath(file.parent)
    outside = [not p or not is_inside(os.path.join(file.parent, p), real_root) for p in rows.path]
    _stop_at(rows, pd.Series(outside), file, "path", f"is blank or leads out of {file.parent}")
    rows["path"] = [_absolute(file.parent, p) for p in rows.path]
    if "view" in rows:
        _stop_at(rows, ~rows.view.str.fullmatch(r"\d{0,9}"), file, "view", "is no number")
        rows["view"] = pd.to_numeric(rows.view)
    skipped = []
    rows = leave_out(rows, two_labels(rows, "path"), "listed with both labels", skipped)
    rows = leave_out(rows, rows.duplicated("path"), "listed twice", skipped)
    if rows.empty:
        raise InputError(f"{file}: every path is listed with both labels; correct the labels")
    return _finish(rows, skipped, max_bad, valid_pct, tune_pct, seed, allow_leaks, progress)


def _absolute(folder: Path, path: str) -> str:
    "The path as users know it; one with `..` resolved, since what that means depends on the links before it."
    whole = os.path.join(folder, path)
    return os.path.realpath(whole) if ".." in Path(path).parts else os.path.normpath(whole)


def _stop_at(rows: pd.DataFrame, wrong: pd.Series, file: Path, column: str, fault: str):
    "Raise for the first wrong row, with its line and how many more there are."
    if wrong.any():
        first = rows[wrong.to_numpy()].iloc[0]
        more = f" (and {wrong.sum() - 1} more such lines)" if wrong.sum() > 1 else ""
        raise InputError(f"{file}, line {first._line}: {column} {first[column]!r} {fault}{more}; correct it")


def _is_mura(path: Path) -> bool:
    return any((path / f"{split}_image_paths.csv").is_file() for split in ("train", "valid"))


def _is_fracatlas(path: Path) -> bool:
    return (path / "dataset.csv").is_file() and (path / "images").is_dir()


def find_source(
    path: str | Path,  # what the user calls the data
) -> str:  # mura, fracatlas, folder or csv
    "Which reader fits what lies at `path`. Raises `InputError` that lists what was looked for."
    path = Path(path).expanduser().absolute()
    if path.is_file():
        if path.suffix.lower() == ".csv":
            return "csv"
        raise InputError(
            f"{path}: neither a folder nor a CSV; give the folder of the data or a CSV with path and label"
        )
    existing_folder(path)
    if _is_mura(path):
        return "mura"
    if _is_fracatlas(path):
        return "fracatlas"
    inner = [p for p in sorted(path.iterdir()) if p.is_dir() and (_is_mura(p) or _is_fracatlas(p))]
    if inner:
        raise InputError(f"{path}: the data lies one folder further down; give {inner[0]}")
    for folder, _, names in os.walk(path):
        if names and _read_folders(os.path.relpath(os.path.join(folder, "x"), path))["label"] is not None:
            return "folder"
    raise InputError(
        f"{path}: no data found; looked for train_image_paths.csv (MURA), dataset.csv and images/ (FracAtlas), "
        f"and folders called {', '.join(LABEL_FOLDERS)}, 0 or 1"
    )


def _mura_checked(path, max_bad, tune_pct, seed, allow_leaks, progress, check, without) -> pd.DataFrame:
    "MURA's table without the files that cannot be read. A study that loses some views keeps the rest."
    images = mura_images(path, tune_pct=tune_pct, seed=seed, allow_leaks=allow_leaks, without=without)
    skipped = list(images.attrs["skipped"])
    missing = [s for s in skipped if s["reason"] == "missing"]
    found = check(images) if check else check_images(images.path, progress=progress)
    named = set(images.path)
    bad = [b for b in found if b["path"] in named]
    limit_bad(missing + bad, len(images) + len(missing), max_bad)
    left = images[~images.path.isin({b["path"] for b in bad})]
    if left.empty:
        raise InputError(f"{path}: none of {len(images)} images can be read, such as {bad[0]['path']}; check the data")
    left, gone = flag_unreadable(left, {s["path"]: mura_study(s["path"]) for s in missing + bad})
    return finish_images(left, skipped + bad + gone)


def read_images(
    path: str | Path,  # a folder (MURA, FracAtlas, normal and abnormal folders) or a CSV
    source: str | None = None,  # mura, fracatlas, folder or csv; found out where not given
    max_bad: float = 0.05,  # greatest share of unreadable files that is left out without an error
    valid_pct: float = 0.2,  # share that is only ever reported on, where the source has no official split
    tune_pct: float = 0.1,  # share of train on which epochs and thresholds are chosen
    seed: int = 0,  # another seed, another split
    allow_leaks: bool = False,  # go on although a patient is in both train and valid
    progress: Progress = None,  # called with (done, all) while files are decoded, e.g. `bars.stderr_bar("checking")`
    decode: bool = True,  # False opens none of MURA's files: its CSVs say all; the other sources need the pixels
    check: Callable[[pd.DataFrame], list[dict]] | None = None,  # names MURA's bad files instead, as a store knows them
    without: Without = None,  # files, and lines of tables, to pass over: what an audit has refused
) -> pd.DataFrame:  # the images table, every file of it decoded once; `attrs["skipped"]` names the others
    "The one door to data: find the source, read its table, decode its files, leave out and name what cannot be used."
    if not 0 <= max_bad <= 1:
        raise InputError(f"--max-bad {max_bad} is no share; give one between 0 and 1, such as 0.05")
    source = source or find_source(path)
    if source not in SOURCES:
        raise InputError(f"unknown source {source!r}; the known ones are {', '.join(SOURCES)}")
    options = dict(max_bad=max_bad, tune_pct=tune_pct, seed=seed, progress=progress, without=without)
    if source == "mura" and not decode:
        return mura_images(path, tune_pct=tune_pct, seed=seed, allow_leaks=allow_leaks, without=without)
    if source == "mura":
        return _mura_checked(path, allow_leaks=allow_leaks, check=check, **options)
    if source == "fracatlas":  # its patients are look-alike groups and it has no split of its own: nothing can leak
        return fracatlas_images(path, valid_pct=valid_pct, **options)
    read = folder_images if source == "folder" else csv_images
    return read(path, valid_pct=valid_pct, allow_leaks=allow_leaks, **options)
