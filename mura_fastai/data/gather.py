"""Steps that every source takes: find the files, decode them once, leave out what cannot be trusted and name it."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from ..errors import InputError
from .inspection import inspect_images, limit_bad
from .pixels import SUFFIXES
from .tables import Without

# Never opened, and not passed over in silence either: somebody takes them for part of the data.
OTHER_PICTURES = (".gif", ".webp", ".heic", ".heif", ".avif", ".jp2", ".dcm", ".dicom")
Progress = Callable[[int, int], None] | None
_MURA_STUDY = re.compile(r"(XR_[A-Z]+)/(patient\d+)/(study\d+)")


def plain_name(name: str) -> str:
    "Small letters, one kind of joint: `Non-Fractured` and `non fractured` are `non_fractured`."
    return re.sub(r"[-\s]+", "_", name.lower())


def is_inside(path: str, real_root: str) -> bool:
    "Does `path` stay below `real_root` after links and `..` are followed?"
    try:
        return os.path.commonpath([os.path.realpath(path), real_root]) == real_root
    except ValueError:  # another drive on Windows, a null byte
        return False


def image_files(
    root: Path,  # a folder
    without: Without = None,  # files to pass over
) -> tuple[list[str], list[dict]]:  # paths, sorted; and what was passed over
    "All image files below `root`. A link that leads out of it is an error before anything is opened."
    files, skipped, real_root = [], [], os.path.realpath(root)

    def closed(error: OSError):  # os.walk would pass over it in silence
        skipped.append({"path": str(error.filename), "reason": "a folder that cannot be read"})

    for folder, folders, names in os.walk(root, onerror=closed):
        folders.sort()
        for name in sorted(folders + names):
            path = os.path.join(folder, name)
            if without and path in without:
                continue
            if name.startswith("._") or name == ".DS_Store":
                skipped.append({"path": path, "reason": "macOS leftover, no image"})
            elif os.path.islink(path) and not is_inside(path, real_root):
                raise InputError(f"{path}: a link that leads out of {root}; put the file itself there, or remove it")
            elif name in folders:
                if os.path.islink(path):
                    skipped.append({"path": path, "reason": "a link to a folder, not followed"})
            elif name.lower().endswith(SUFFIXES):
                files.append(path)
            elif name.lower().endswith(OTHER_PICTURES):
                skipped.append({"path": path, "reason": "a picture of a kind that is not read; convert it to PNG"})
    good = [f for f in files if _is_text(f)]
    named = [os.fsencode(f).decode("utf-8", "backslashreplace") for f in files if not _is_text(f)]
    return good, skipped + [{"path": f, "reason": "the file's name is not UTF-8; rename it"} for f in named]


def _is_text(path: str) -> bool:
    "Tables are UTF-8; a name with stray bytes could be read but never written down."
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def leave_out(rows: pd.DataFrame, out: pd.Series, reason: str | pd.Series, skipped: list[dict]) -> pd.DataFrame:
    "The rows that stay; the others are named in `skipped`."
    reasons = reason[out] if isinstance(reason, pd.Series) else [reason] * int(out.sum())
    skipped += [{"path": p, "reason": r} for p, r in zip(rows.path[out], reasons, strict=True)]
    return rows[~out]


def two_labels(rows: pd.DataFrame, key: str) -> pd.Series:
    "Rows whose `key` occurs with both labels."
    return rows.label.astype("Float64").groupby(rows[key]).transform("nunique") > 1


def checked(
    rows: pd.DataFrame,  # with `path` and `label`
    skipped: list[dict],  # grows by what is left out
    max_bad: float,  # greatest share of unreadable files
    progress: Progress,
    look: bool = False,  # also thumbnails
) -> pd.DataFrame:  # rows of readable, unlike images, with `_width, _height, _pixel_hash` (and `_look`)
    "Decode all files once; leave out the unreadable ones, copies of one that stays, and copies with two labels."
    found = inspect_images(rows.path, look=look, progress=progress)
    # The underscore keeps them apart from columns that a user's own table may have.
    rows = rows.reset_index(drop=True).join(found.drop(columns="path").add_prefix("_"))
    bad = rows._reason != ""
    rows = leave_out(rows, bad, rows._reason, skipped)
    limit_bad(skipped[len(skipped) - int(bad.sum()) :], len(found), max_bad)
    rows = leave_out(rows, two_labels(rows, "_pixel_hash"), "same pixels under both labels", skipped)
    rows = rows.sort_values(["_pixel_hash", "label", "path"])  # a copy with a label before one without
    first = rows._pixel_hash.map(rows.drop_duplicates("_pixel_hash").set_index("_pixel_hash").path)
    rows = leave_out(rows, rows.path != first, "same pixels as " + first, skipped)
    if rows.empty:
        raise InputError(f"none of {len(found)} images can be used, such as {found.path.iloc[0]}: check the data")
    return rows.sort_index()


def existing_folder(root: str | Path) -> Path:
    "Absolute, links kept as the user named them."
    root = Path(root).expanduser().absolute()
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the folder that holds the images")
    return root


def mura_study(
    path: str,  # of an image or a folder
) -> str | None:  # XR_WRIST/patient11185/study1; None where the path has no such folders
    "The study that MURA's folders name."
    found = _MURA_STUDY.findall(path.replace(os.sep, "/"))
    return "/".join(found[-1]) if found else None


def flag_unreadable(
    images: pd.DataFrame,  # an images or predictions table: what can be used
    lost: dict[str, str],  # the views that cannot be used: path, and the study it belongs to
) -> tuple[pd.DataFrame, list[dict]]:  # the table with its flag; the studies of which no view is left, as skipped ones
    """Say in `n_unreadable` how many views each row's study has lost; the column is made where any has.

    A study that is nothing but its one file is not given again as a study: that file's line says all.
    """
    study = pd.Series(lost, dtype="str")
    n = images.study.map(study.value_counts()).fillna(0).astype("int64")
    if "n_unreadable" in images:  # in tables of one's own as text, in joined ones with gaps
        n += pd.to_numeric(images.n_unreadable, errors="coerce").fillna(0).astype("int64")
    if "n_unreadable" in images or n.any():
        images = images.assign(n_unreadable=n)
    gone = study[~study.isin(images.study)].drop_duplicates().items()
    folders = [os.path.dirname(p) for p, name in gone if not os.path.basename(name).startswith(Path(p).stem)]
    return images, [{"path": f, "reason": "study without a readable image"} for f in folders]


def by_reason(
    skipped: list[dict],  # path and reason
) -> dict[str, list[str]]:
    "Paths of what was left out, by the reason up to its first detail, the most frequent first."
    reasons = {}
    for row in skipped:
        name = "same pixels as another" if row["reason"].startswith("same pixels as") else row["reason"]
        reasons.setdefault(name, []).append(row["path"])
    return dict(sorted(reasons.items(), key=lambda kv: -len(kv[1])))
