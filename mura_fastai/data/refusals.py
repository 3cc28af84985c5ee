"""All that a source would refuse of its tables and links, line by line: readers stop at the first, these go on."""

import csv
import io
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd

from mura_fastai.data.fracatlas import FRACATLAS_REGIONS, PASSED_ON
from mura_fastai.data.gather import is_inside
from mura_fastai.data.pixels import SUFFIXES
from mura_fastai.data.sources import SPLIT_FOLDERS, _absolute, _read_folders
from mura_fastai.data.studies import _PATH, REGIONS, SPLITS, _locate, _read_lines
from mura_fastai.data.tables import read_table
from mura_fastai.errors import InputError


class Found(list):
    """Problems as they are found: (problem, what training does, where).

    `without` is what readers are to pass over so that the rest can be read, and `unchecked` what nobody could look at,
    in words."""

    def __init__(self):
        super().__init__()
        self.without, self.unchecked = {}, []

    def add(
        self,
        problem: str,  # its kind, in words
        where: Iterable,  # files, lines or patients that have it
        training: str = "refuses",  # what training does about it
    ):
        "Note a problem in all these places."
        self += [(problem, training, str(w)) for w in where]

    def pass_over(
        self,
        file: str | Path,  # that a reader would refuse
        lines: Iterable[int] | None = None,  # of it alone
    ):
        "Have readers go on without a file, or without lines of it."
        known = self.without.get(str(file), set())
        self.without[str(file)] = None if lines is None or known is None else known | set(lines)


def walk(
    root: Path,  # a folder
    found: Found,  # grows by links that lead out, where `links` is set, and by leftovers of macOS
    links: bool = True,  # the source refuses every link that leads out
) -> list[str]:  # paths, sorted
    "All image files below a folder. Nothing outside of it is followed."
    files, real_root = [], os.path.realpath(root)
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(folders + names):
            path = os.path.join(folder, name)
            if name.startswith("._") or name == ".DS_Store":
                found.add("macOS leftover, no image", [path], "ignores")
            elif os.path.islink(path) and not is_inside(path, real_root):
                if links:
                    found.add("link that leads out of the data", [path])
                    found.pass_over(path)
            elif name.lower().endswith(SUFFIXES) and name not in folders:
                files.append(path)
    return files


def _rows(rows: Iterable[tuple]) -> pd.DataFrame:
    "A row an image that may be opened, whatever else is wrong with it; what is not known of it is missing."
    return pd.DataFrame(list(rows), columns=["path", "split", "patient", "label"], dtype="object")


# ---------------------------------------------------------------- MURA


def mura_refusals(
    root: Path,  # the folder that holds the CSVs
    found: Found,  # grows
) -> pd.DataFrame:  # a row a listed image that may be opened: `path, split, patient, label`
    "MURA's CSVs, line by line and against each other."
    images = []  # of each listed one: CSV, line, path, split, patient, label
    for split in ("train", "valid", "test")[: 2 + (root / "test_image_paths.csv").exists()]:
        file, unlabelled = root / f"{split}_image_paths.csv", {}
        labels = {} if split == "test" else _mura_labels(root / f"{split}_labeled_studies.csv", split, found)
        for line, inner, parts in _mura_lines(file, split, _lines(file, found), found):
            if (parts["file"] or "").startswith("._") or parts["file"] == ".DS_Store":
                continue
            if parts["file"] is None:
                found.add("a study where an image is to be listed", [f"{file}, line {line}"])
                found.pass_over(file, [line])
                continue
            study = _study(parts)
            if labels is not None and split != "test" and study not in labels:
                unlabelled.setdefault(study, f"{file}, line {line}: {study}")
            label = None if labels is None or split == "test" else labels.get(study)
            images.append((file, line, f"{root}/{inner}", split, parts["patient"], label))
            if label is None and split != "test":
                found.pass_over(file, [line])
        found.add("study with images and no label", unlabelled.values())
    inside, _ = _locate(root, pd.Series([path for _, _, path, *_ in images], dtype="str"))
    for (file, line, path, *_), ok in zip(images, inside, strict=True):
        if not ok:
            found.add("link that leads out of the data", [path])
            found.pass_over(file, [line])
    files, known = walk(root, found, links=False), {path for _, _, path, *_ in images}
    unread = tuple(f"{root / s}/" for s in SPLITS if found.without.get(f"{root / s}_image_paths.csv", ()) is None)
    found.add("image that no CSV lists", (f for f in files if f not in known and not f.startswith(unread)), "ignores")
    return _rows(row for (_, _, *row), ok in zip(images, inside, strict=True) if ok)


def _study(parts: re.Match) -> str:
    return "/".join((parts["region"], parts["patient"], parts["study"]))


def _lines(file: Path, found: Found) -> list[str]:
    try:
        return _read_lines(file)
    except InputError as e:
        found.add("CSV that cannot be read", [e])
        found.pass_over(file)
        found.unchecked.append(f"what {file.name} lists")
        return []


def _mura_lines(file: Path, split: str, lines: list[str], found: Found) -> Iterator[tuple[int, str, re.Match]]:
    "Number, path inside the data, and parts of each line that names a study or an image."
    for number, line in enumerate(lines, 1):
        inner = re.sub(r"^(\./)?[^/]+/", "", line.replace("\\", "/"), count=1)
        parts = _PATH.fullmatch(inner)
        if not line:
            continue
        if parts is None or parts["split"] != split or parts["file"] in ("..", "."):
            found.add("line that names no image or study of its split", [f"{file}, line {number}: {line}"])
            found.pass_over(file, [number])
        elif parts["region"] not in REGIONS:
            found.add(f"unknown region {parts['region']}", [f"{file}, line {number}"])
            found.pass_over(file, [number])
        else:
            yield number, inner, parts


def _mura_labels(file: Path, split: str, found: Found) -> dict[str, int | None] | None:
    "Labels by study, None of one whose label is refused; None as a whole where the CSV cannot be read."
    lines, labels, where = _lines(file, found), defaultdict(set), defaultdict(list)
    if not lines:
        return None
    cells = [line.rpartition(",")[::2] for line in lines]
    wrong = [n for n, (_, label) in enumerate(cells, 1) if lines[n - 1] and label.strip() not in ("0", "1")]
    found.add("label that is not 0 or 1", (f"{file}, line {n}: {lines[n - 1]}" for n in wrong))
    found.pass_over(file, wrong)
    for number, _, parts in _mura_lines(file, split, [path for path, _ in cells], found):
        label, study = cells[number - 1][1].strip(), _study(parts)
        where[study].append(number)
        labels[study].add(label if label in ("0", "1") else None)
        if parts["sign"] and label in ("0", "1") and (parts["sign"] == "positive") != (label == "1"):
            found.add("label that conflicts with the folder's name", [f"{file}, line {number}"])
            labels[study].add(None)
    found.add("study with two labels", (f"{file}: {study}" for study, both in labels.items() if {"0", "1"} <= both))
    sure = {study: int(*told) if len(told) == 1 and None not in told else None for study, told in labels.items()}
    found.pass_over(file, (n for study, label in sure.items() if label is None for n in where[study]))
    return sure


# ---------------------------------------------------------------- the other sources


def _cells(file: Path, needed: tuple, found: Found) -> pd.DataFrame:
    """The rows of a CSV that have as many cells as its header, with `line`; the others are named.

    Where a column is lacking other than the first one needed, which names the files, it is blank."""
    try:
        return read_table(file, needed).rename(columns={"_line": "line"})
    except InputError as e:
        fault, rows = e, []
    try:
        reader = csv.reader(io.StringIO(file.read_bytes().decode("utf-8-sig"), newline=""), strict=True)
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error):
        pass
    header = rows[0][1] if rows else []
    unique, ragged = len(set(header)) == len(header), [line for line, row in rows if len(row) != len(header)]
    if not ragged or not set(needed) <= set(header) or not unique:
        found.add("CSV that cannot be read", [fault])
    if needed[0] not in header or not unique:
        return pd.DataFrame({c: pd.Series(dtype="str") for c in (*needed, "line")})
    found.add("row of more or fewer cells than the header", (f"{file}, line {n}" for n in ragged))
    found.pass_over(file, ragged)
    good = [(line, row) for line, row in rows[1:] if len(row) == len(header)]
    table = pd.DataFrame([row for _, row in good], columns=header, dtype="str")
    lacking = dict.fromkeys((c for c in needed if c not in table), "")
    table = table.assign(**lacking, line=[line for line, _ in good])
    table.attrs["ragged"] = [
        name for line, row in rows if line in set(ragged) for name in row[header.index(needed[0]) :][:1]
    ]
    return table


def _wrong(file: Path, table: pd.DataFrame, column: str, problem: str, good: pd.Series, found: Found):
    rows = table[~good.astype(bool)]
    found.add(problem, (f"{file}, line {n}: {v!r}" for n, v in zip(rows.line, rows[column], strict=True)))
    found.pass_over(file, rows.line)


def csv_refusals(
    file: Path,  # with the columns path and label
    found: Found,  # grows
) -> pd.DataFrame:  # a row an image that may be opened: `path, split, patient, label`
    "A table of one's own, row by row."
    table, real_root = _cells(file, ("path", "label"), found), os.path.realpath(file.parent)
    inside = pd.Series([bool(p) and is_inside(os.path.join(file.parent, p), real_root) for p in table.path], dtype=bool)
    inside.index = table.index
    _wrong(file, table, "path", "path that is blank or leads out of the data", inside, found)
    _wrong(file, table, "label", "label that is not 0, 1 or blank", table.label.isin(("0", "1", "")), found)
    blank = pd.Series("", table.index, dtype="str")
    if "split" in table:
        _wrong(file, table, "split", "unknown split", table.split.isin({*SPLIT_FOLDERS, ""}), found)
    if "view" in table:
        _wrong(file, table, "view", "view that is no number", table["view"].str.fullmatch(r"\d{0,9}"), found)
    table = table[inside]
    paths = [_absolute(file.parent, p) for p in table.path]
    splits = table.get("split", blank).map(SPLIT_FOLDERS | {"": ""})
    patients = table.get("patient", blank).replace("", None)
    return _rows(zip(paths, splits, patients, table.label.map({"0": 0, "1": 1}), strict=True))


def fracatlas_refusals(
    root: Path,  # the folder that holds dataset.csv and images/
    found: Found,  # grows
) -> pd.DataFrame:  # a row an image that may be opened: `path` and `label`; no patients, for there are none
    "The flags of dataset.csv, and links."
    file, flags = root / "dataset.csv", (*FRACATLAS_REGIONS, "mixed", "fractured", *PASSED_ON)
    table = _cells(file, ("image_id", *flags), found)
    for flag in flags:
        _wrong(file, table, flag, f"{flag} that is not 0, 1 or blank", table[flag].isin(("0", "1", "")), found)
    images = walk(root / "images", found)
    there = {os.path.basename(path) for path in images}
    refused = set(table.image_id[table.line.isin(found.without.get(str(file)) or ())])
    refused |= there.intersection(table.attrs.get("ragged", ()))
    refused = {name for name in refused if name and os.path.basename(name) == name}  # others lead out of the folder
    for path in images:  # or the reader would say that nobody listed them
        if os.path.basename(path) in refused:
            found.pass_over(path)
    labels = dict(zip(table.image_id, table.fractured.map({"0": 0, "1": 1}), strict=True))
    images += [str(root / "images" / name) for name in sorted(refused - there)]
    return _rows((path, None, None, labels.get(os.path.basename(path))) for path in images)


def folder_refusals(
    root: Path,  # a tree of folders that say normal or abnormal
    found: Found,  # grows
) -> pd.DataFrame:  # a row an image that may be opened: `path, split, patient, label`
    "Links; all else of a tree is left out, or refused as a whole."
    told = {path: _read_folders(os.path.relpath(path, root)) for path in walk(root, found)}
    return _rows((path, t["split"], t["patient"] or None, t["label"]) for path, t in told.items())
