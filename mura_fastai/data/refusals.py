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
from mura_fastai.data.sources import SPLIT_FOLDERS, _read_folders
from mura_fastai.data.studies import _PATH, REGIONS, _locate, _read_lines
from mura_fastai.data.tables import read_table
from mura_fastai.errors import InputError


class Found(list):
    "Problems as they are found: (problem, what training does, where)."

    def add(
        self,
        problem: str,  # its kind, in words
        where: Iterable,  # files, lines or patients that have it
        training: str = "refuses",  # what training does about it
    ):
        "Note a problem in all these places."
        self += [(problem, training, str(w)) for w in where]


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
            elif name.lower().endswith(SUFFIXES) and name not in folders:
                files.append(path)
    return files


def _patients(rows: Iterable[tuple]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=["split", "patient"], dtype="str")


# ---------------------------------------------------------------- MURA


def mura_refusals(
    root: Path,  # the folder that holds the CSVs
    found: Found,  # grows
) -> tuple[list[str], pd.DataFrame]:  # listed files that are there; `split` and `patient` of the listed images
    "MURA's CSVs, line by line and against each other."
    listed, patients = [], []
    for split in ("train", "valid", "test")[: 2 + (root / "test_image_paths.csv").exists()]:
        labels = None if split == "test" else _mura_labels(root / f"{split}_labeled_studies.csv", split, found)
        file, unlabelled = root / f"{split}_image_paths.csv", {}
        for line, inner, parts in _mura_lines(file, split, _lines(file, found), found):
            if (parts["file"] or "").startswith("._") or parts["file"] == ".DS_Store":
                continue
            if parts["file"] is None:
                found.add("a study where an image is to be listed", [f"{file}, line {line}"])
                continue
            if labels is not None and _study(parts) not in labels:
                unlabelled.setdefault(_study(parts), f"{file}, line {line}: {_study(parts)}")
            listed.append(f"{root}/{inner}")
            patients.append((split, parts["patient"]))
        found.add("study with images and no label", unlabelled.values())
    inside, _ = _locate(root, pd.Series(listed, dtype="str"))
    found.add("link that leads out of the data", (p for p, ok in zip(listed, inside, strict=True) if not ok))
    files, known = walk(root, found, links=False), set(listed)
    found.add("image that no CSV lists", (f for f in files if f not in known), "ignores")
    return [f for f in files if f in known], _patients(patients)


def _study(parts: re.Match) -> str:
    return "/".join((parts["region"], parts["patient"], parts["study"]))


def _lines(file: Path, found: Found) -> list[str]:
    try:
        return _read_lines(file)
    except InputError as e:
        found.add("CSV that cannot be read", [e])
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
        elif parts["region"] not in REGIONS:
            found.add(f"unknown region {parts['region']}", [f"{file}, line {number}"])
        else:
            yield number, inner, parts


def _mura_labels(file: Path, split: str, found: Found) -> dict[str, set]:
    "Labels by study."
    lines, labels = _lines(file, found), defaultdict(set)
    cells = [line.rpartition(",")[::2] for line in lines]
    wrong = (n for n, (_, label) in enumerate(cells, 1) if lines[n - 1] and label.strip() not in ("0", "1"))
    found.add("label that is not 0 or 1", (f"{file}, line {n}: {lines[n - 1]}" for n in wrong))
    for number, _, parts in _mura_lines(file, split, [path for path, _ in cells], found):
        label = cells[number - 1][1].strip()
        if parts["sign"] and label in ("0", "1") and (parts["sign"] == "positive") != (label == "1"):
            found.add("label that conflicts with the folder's name", [f"{file}, line {number}"])
        labels[_study(parts)].add(label)
    found.add("study with two labels", (f"{file}: {study}" for study, both in labels.items() if len(both) > 1))
    return labels


# ---------------------------------------------------------------- the other sources


def _cells(file: Path, needed: tuple, found: Found) -> pd.DataFrame:
    "The rows of a CSV that have as many cells as its header, with `line`; the others are named."
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
    ragged = [line for line, row in rows if len(row) != len(header)]
    if not ragged or not set(needed) <= set(header) or len(set(header)) != len(header):
        found.add("CSV that cannot be read", [fault])
        return pd.DataFrame({c: pd.Series(dtype="str") for c in (*needed, "line")})
    found.add("row of more or fewer cells than the header", (f"{file}, line {n}" for n in ragged))
    good = [(line, row) for line, row in rows[1:] if len(row) == len(header)]
    return pd.DataFrame([row for _, row in good], columns=header, dtype="str").assign(line=[line for line, _ in good])


def _wrong(file: Path, table: pd.DataFrame, column: str, problem: str, good: pd.Series, found: Found):
    rows = table[~good.astype(bool)]
    found.add(problem, (f"{file}, line {n}: {v!r}" for n, v in zip(rows.line, rows[column], strict=True)))


def csv_refusals(
    file: Path,  # with the columns path and label
    found: Found,  # grows
) -> tuple[list[str], pd.DataFrame]:  # its files that may be opened; `split` and `patient` of its rows
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
    files = [os.path.join(file.parent, p) for p in table.path[inside]]
    splits = table.get("split", blank).map(SPLIT_FOLDERS).fillna("")
    return files, _patients(zip(splits, table.get("patient", blank), strict=True))


def fracatlas_refusals(
    root: Path,  # the folder that holds dataset.csv and images/
    found: Found,  # grows
) -> tuple[list[str], pd.DataFrame]:  # files; no patients, for there are none
    "The flags of dataset.csv, and links."
    file, flags = root / "dataset.csv", (*FRACATLAS_REGIONS, "mixed", "fractured", *PASSED_ON)
    table = _cells(file, ("image_id", *flags), found)
    for flag in flags:
        _wrong(file, table, flag, f"{flag} that is not 0, 1 or blank", table[flag].isin(("0", "1", "")), found)
    return walk(root / "images", found), _patients(())


def folder_refusals(
    root: Path,  # a tree of folders that say normal or abnormal
    found: Found,  # grows
) -> tuple[list[str], pd.DataFrame]:  # files; `split` and `patient` as their folders have them
    "Links; all else of a tree is left out, or refused as a whole."
    files = walk(root, found)
    told = [_read_folders(os.path.relpath(f, root)) for f in files]
    return files, _patients((t["split"], t["patient"]) for t in told)
