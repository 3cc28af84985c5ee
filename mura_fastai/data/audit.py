"""What is wrong with data, all of it at once, and what training would do about each."""

import os
from pathlib import Path

import pandas as pd

from mura_fastai.data.gather import Progress
from mura_fastai.data.inspection import inspect_images
from mura_fastai.data.refusals import Found, csv_refusals, folder_refusals, fracatlas_refusals, mura_refusals
from mura_fastai.data.sources import SOURCES, find_source, read_images
from mura_fastai.errors import InputError
from mura_fastai.text import aligned, one_line

# What training does about a problem, the worst first.
TRAINING = ("refuses", "leaves out", "warns", "converts", "ignores")
MAX_BAD = 0.05  # share of unreadable files that `mura train` leaves out without asking
_REFUSALS = {
    "mura": mura_refusals, "csv": csv_refusals, "fracatlas": fracatlas_refusals, "folder": folder_refusals,
}  # fmt: skip
_MILDER = {"macOS leftover": "ignores", "listed twice": "warns"}  # how reasons begin; all others leave a file out
_READABLE = ("same pixels", "same picture", "listed", "macOS", "study", "its study", "in no folder", "not in", "folder")
# What is looked for in a table as a whole, once all of its rows are fine; and all that needs a table at all.
_LATER = ("splits left empty", "regions of one class in valid", "studies of two labels")
_ALL = ("missing files", "files that cannot be read", "doubled pixels", "patients in train and valid", *_LATER)
_MODES = {
    "RGB": "colour: made grey", "RGBA": "transparency: laid on black", "LA": "transparency: laid on black",
    "P": "palette: made grey", "PA": "palette: made grey", "1": "1 bit: made black and white",
    "CMYK": "CMYK: made grey",
}  # fmt: skip


def audit_data(
    path: str | Path,  # a dataset's folder, or a CSV
    source: str | None = None,  # mura, fracatlas, folder or csv; found out where not given
    split_seed: int = 0,  # of data without an official split
    allow_leaks: bool = False,  # a patient in train and valid is no reason to refuse
    progress: Progress = None,  # called with (done, all) while files are decoded
) -> pd.DataFrame:  # `problem`, `training` (one of `TRAINING`), `where`: a row a file, a line, a patient or a study
    """Every problem of the data and what training would do about it: nothing stops at the first.

    Rows and links that training refuses are left out, and all the rest is read as training would: `attrs["images"]` is
    the table it would get without them (None where none can be made), `attrs["skipped"]` what that leaves out. The
    files of refused rows are looked at as well. What could not be looked at is `attrs["unchecked"]`, in words;
    `attrs["source"]` is the reader. Files are decoded in parallel, once: what the user's cache knows is not decoded
    again. Raises `InputError` only where there is no data at all."""
    source = source or find_source(path)
    if source not in SOURCES:
        raise InputError(f"unknown source {source!r}; the known ones are {', '.join(SOURCES)}")
    path, found, images, skipped = Path(path).expanduser().absolute(), Found(), None, []
    rows = _REFUSALS[source](path, found)
    clean = not any(training == "refuses" for _, training, _ in found)
    options = dict(max_bad=1.0, seed=split_seed, allow_leaks=True, progress=progress)
    try:
        images = read_images(path, source, without=found.without, **options)
    except InputError as e:
        if clean:
            found.add("no table can be made of it", [e])
    if images is not None:
        skipped = images.attrs["skipped"]
        _left_out(skipped, len(images), found)
        _unlabelled(images, found)
    if images is not None and clean:
        _splits(images, found)
        apart, patients = rows[:0], images[["split", "patient"]]
    else:  # what was refused is looked at all the same, by what its own row tells
        named = {s["path"] for s in skipped}
        patients = rows[~rows.path.isin(named) & rows.split.notna()]
        apart = rows if images is None else rows[~rows.path.isin({*images.path, *named})]
        later = _LATER if len(rows) else _ALL
        found.unchecked += later[:-1] if source == "mura" else later  # its CSVs tell a study's label by themselves
    held = patients.split.isin(("valid", "test"))
    both = set(patients.patient[held].dropna()) & set(patients.patient[~held].dropna())
    found.add("patient in both train and valid", sorted(both), "warns" if allow_leaks else "refuses")
    files = [] if images is None else [*images.path, *(s["path"] for s in skipped if os.path.isfile(s["path"]))]
    _pixels(files, images, apart.drop_duplicates("path"), source, found, progress)
    table = pd.DataFrame(found, columns=["problem", "training", "where"], dtype="str").drop_duplicates()
    table = table.sort_values("training", key=lambda t: t.map(TRAINING.index), kind="stable", ignore_index=True)
    table.attrs = {"images": images, "skipped": skipped, "source": source, "unchecked": found.unchecked}
    return table


def _left_out(skipped: list[dict], kept: int, found: Found):
    "What the reader left out, by its reason."
    for row in skipped:
        reason = row["reason"]
        training = next((t for start, t in _MILDER.items() if reason.startswith(start)), "leaves out")
        detail = f" ({reason})" if reason.startswith("same pixels as") else ""
        found.add("same pixels as another" if detail else reason, [f"{row['path']}{detail}"], training)
    bad = sum(not s["reason"].startswith(_READABLE) for s in skipped)
    if bad > MAX_BAD * (kept + bad):
        share = f"{bad} of {kept + bad} files, {bad / (kept + bad):.0%}"
        found.add("more unreadable files than --max-bad lets pass", [share], "warns")


def _unlabelled(images: pd.DataFrame, found: Found):
    for split in ("train", "tune"):
        rows = images[images.split == split]
        found.add("row of train or tune without a label", rows.path[rows.label.isna()])


def _splits(images: pd.DataFrame, found: Found):
    "Splits without a row, and rows of one class, where no score can be had."
    empty = [s for s in ("train", "tune", "valid") if not (images.split == s).any()]
    found.add("no usable image", (f"split {s}" for s in empty))
    labelled = images[images.label.notna() & (images.split == "valid")]
    lone = [r for r, label in labelled.groupby("region").label if label.nunique() == 1]
    found.add("one class in valid: scores are n/a", lone, "warns")


def _pixels(files, images: pd.DataFrame | None, apart: pd.DataFrame, source: str, found: Found, progress: Progress):
    """Files that cannot be read (where no reader has said so), that are converted, and that hold the same picture.

    `apart` has what no reader has seen: a row a file, `path, patient, label` (missing where not known)."""
    seen = inspect_images(dict.fromkeys([*files, *apart.path]), look=source == "fracatlas", progress=progress)
    fine = seen.reason == ""
    for reason, rows in seen[~fine & seen.path.isin(apart.path)].groupby("reason"):
        found.add(reason, rows.path, "leaves out")
    for mode, rows in seen[fine].groupby("mode"):
        plain = mode.removesuffix(" turned")
        if plain != mode:
            found.add("EXIF rotation: turned upright", rows.path, "converts")
        if plain.startswith("I;16"):
            found.add("16 bits: rescaled by its own percentiles", rows.path, "converts")
        elif plain != "L":
            found.add(_MODES.get(plain, f"{plain}: made grey"), rows.path, "converts")
    columns = ["path", "patient", "label"]
    known = [t[columns].astype("object") for t in (images, apart) if t is not None and len(t)]
    if not known:
        return
    held = pd.concat(known, ignore_index=True)
    held["hash"] = held.path.map(dict(zip(seen.path, seen.pixel_hash, strict=True)))
    held = held[held.hash.notna() & (held.hash != "")]
    for column, problem in (("patient", "same pixels under two patients"), ("label", "same pixels under two labels")):
        several = held[held.groupby("hash")[column].transform("nunique") > 1]
        for _, rows in several.groupby("hash"):
            found.add(problem, [" = ".join(rows.path)], "warns")
    if source != "mura":  # there copies are no fault; the other readers leave them out
        first = held.drop_duplicates("hash").set_index("hash").path
        copies = held[held.path.isin(apart.path) & (held.hash.map(first) != held.path)]
        again = (f"{p} (same pixels as {first[h]})" for p, h in zip(copies.path, copies.hash, strict=True))
        found.add("same pixels as another", again, "leaves out")


def format_audit(
    table: pd.DataFrame,  # from `audit_data`
    root: str | Path,  # what the user calls the data: paths below it are shown from there on
) -> str:
    "A line a kind of problem: what training does, how many there are, the first of them."
    inside, rows = str(Path(root).expanduser().absolute()) + os.sep, [("training", "problem", "count", "such as")]
    for (training, problem), group in table.groupby(["training", "problem"], sort=False):
        rows.append((training, problem, f"{len(group):,}", one_line(group["where"].iloc[0].replace(inside, ""), 70)))
    if not len(table):
        return "No problem was found."
    later = table.attrs.get("unchecked")
    return "\n".join(
        [*aligned(rows, right=(2,)), *([f"not checked until that is mended: {', '.join(later)}"] if later else [])]
    )


def audit_to_json(
    table: pd.DataFrame,  # from `audit_data`
) -> list[dict]:  # training, problem, count, and where: all of them
    "The table ready for `json.dumps`, a row a kind of problem."
    groups = table.groupby(["training", "problem"], sort=False)["where"]
    return [
        dict(training=training, problem=problem, count=len(where), where=where.tolist())
        for (training, problem), where in groups
    ]
