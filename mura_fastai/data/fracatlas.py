"""FracAtlas: 4,083 radiographs of arms, legs, hips and shoulders, fractured or not, to the images table."""

import os
from pathlib import Path

import pandas as pd

from .gather import Progress, checked, existing_folder, image_files, leave_out, two_labels
from .inspection import limit_bad
from .lookalikes import COPY, group_pairs, lookalike_pairs
from .studies import finish_images, patient_split
from .tables import Without, parse_labels, read_table

FRACATLAS_REGIONS = ("hand", "leg", "hip", "shoulder")
_FOLDERS = {"Non_fractured": 0, "Fractured": 1}
PASSED_ON = ("hardware", "multiscan", "frontal", "lateral", "oblique")  # further columns, 0 or 1


def _group(rows: pd.DataFrame, skipped: list[dict]) -> pd.DataFrame:
    "Set `patient` to the group of look-alikes, named by the pixels of one; near-copies must agree on the label."
    i, j, alike = lookalike_pairs(rows._look)
    rows = rows.assign(
        _copy=group_pairs(i[alike > COPY], j[alike > COPY], len(rows)), _group=group_pairs(i, j, len(rows))
    )
    rows = leave_out(rows, two_labels(rows, "_copy"), "same picture under both labels", skipped)
    name = rows.sort_values("_pixel_hash").drop_duplicates("_group").set_index("_group")._pixel_hash
    return rows.assign(patient="look" + rows._group.map(name).str[:12])


def fracatlas_images(
    root: str | Path,  # the folder that holds dataset.csv and images/
    max_bad: float = 0.05,  # greatest share of unreadable files that is left out without an error
    valid_pct: float = 0.2,  # share of images that is only ever reported on
    tune_pct: float = 0.1,  # share of the remaining ones on which epochs and thresholds are chosen
    seed: int = 0,  # another seed, another split
    progress: Progress = None,  # called with (done, all) while files are decoded
    without: Without = None,  # files, and lines of dataset.csv, to pass over
) -> pd.DataFrame:  # the images table, with FracAtlas's flags, `width` and `height` as further columns
    """FracAtlas (doi:10.1038/s41597-023-02432-4) in its own layout.

    It has no patients: `patient` is the group of look-alikes, named by its pixels, and `study` the image's name.
    Truncated files, copies (one stays, none if their labels differ) and images whose folder and CSV row disagree are
    left out and named in `attrs["skipped"]`. Image numbers go with the label there, so neither the order of the rows
    nor the split depends on them. Raises `InputError` for a damaged dataset.csv and for more than `max_bad` bad files.
    """
    root = existing_folder(root)
    csv = root / "dataset.csv"
    flags = (*FRACATLAS_REGIONS, "mixed", "fractured", *PASSED_ON)
    table = read_table(csv, ("image_id", *flags), without)
    for flag in flags:
        table[flag] = parse_labels(table, flag, csv)
    files, skipped = image_files(root / "images", without)
    on_disk = pd.DataFrame({"path": files, "image_id": [os.path.basename(f) for f in files]}, dtype="str")
    on_disk["folder"] = [_FOLDERS.get(Path(f).parent.name) for f in files]
    rows = on_disk.merge(table.drop_duplicates("image_id"), on="image_id", how="left")
    lost = sorted(set(table.image_id) - set(rows.image_id))
    missing = [{"path": str(root / "images" / name), "reason": "missing"} for name in lost]
    limit_bad(missing, len(table), max_bad)
    skipped += missing
    rows = leave_out(rows, rows._line.isna() | rows.folder.isna(), "not in dataset.csv, or in no known folder", skipped)
    twice = table.image_id[table.groupby("image_id").fractured.transform("nunique") > 1]
    conflict = (rows.folder != rows.fractured) | rows.image_id.isin(twice)
    conflict |= rows.groupby("image_id").folder.transform("nunique") > 1
    rows = leave_out(rows, conflict, "folder and dataset.csv disagree on the label", skipped)
    rows = checked(rows.assign(label=rows.fractured), skipped, max_bad, progress, look=True)
    rows = _group(rows, skipped)
    parts = rows[list(FRACATLAS_REGIONS)].astype(int)
    one = (parts.sum(axis=1) == 1) & (rows.mixed == 0)
    rows["region"] = parts.idxmax(axis=1).where(one, "mixed")
    rows["study"], rows["view"] = rows.image_id.str.rpartition(".")[0], 1
    rows = rows.sort_values(["patient", "_pixel_hash"])
    rows = rows.rename(columns={"_width": "width", "_height": "height"})
    rows = rows[["path", "region", "patient", "study", "view", "label", *PASSED_ON, "width", "height"]]
    return finish_images(patient_split(rows, valid_pct, tune_pct, seed), skipped)
