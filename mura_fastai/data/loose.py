"""Pictures that nobody labelled: files, folders, lists of paths. Same table, labels missing."""

import os
import re
from pathlib import Path

import pandas as pd

from mura_fastai.data.gather import flag_unreadable, image_files, mura_study
from mura_fastai.data.pixels import SUFFIXES
from mura_fastai.data.sources import find_source, read_images
from mura_fastai.data.studies import finish_images
from mura_fastai.errors import InputError

_REGION = re.compile(r"XR_[A-Z]+")


def loose_images(
    paths: list[str],  # image files
    split: str = "valid",  # of all rows
) -> pd.DataFrame:  # the images table, labels missing
    """One row a file. Study, patient and region come from MURA's folder names where a path has them.

    Otherwise each file is a study of its own, named by its path, and its region is what XR_... in the path says.
    """
    rows = []
    for path in map(os.path.abspath, paths):
        plain = path.replace(os.sep, "/")
        study, region = mura_study(plain), _REGION.search(plain)
        if study:
            region, patient, _ = study.split("/")
        else:
            region, patient, study = region[0] if region else "", plain, plain
        rows.append(dict(path=path, region=region, patient=patient, study=study))
    table = pd.DataFrame(rows, columns=["path", "region", "patient", "study"]).drop_duplicates("path")
    table["view"] = table.groupby("study").cumcount() + 1
    return finish_images(table.assign(split=split, label=None))


def input_images(
    inputs: list[str | Path],  # image files, folders, dataset roots, headerless CSVs of image paths
) -> pd.DataFrame:  # the images table of all of them; `attrs["skipped"]` names what could not be used
    """What `mura predict` was pointed at, as one table. A dataset keeps its labels, other files have none.

    Paths in a CSV resolve against its folder, or that folder's parent where they begin with the folder's name.
    """
    tables, skipped = [], []
    for item in map(Path, inputs):
        table = _one_input(item)
        skipped += table.attrs.get("skipped", [])
        tables.append(table)
    images = pd.concat(tables, ignore_index=True)
    twice = images.path.duplicated()
    skipped += [{"path": p, "reason": "named twice, read once"} for p in images.path[twice]]
    images = images[~twice]
    if images.empty:
        raise InputError(f"no image in {', '.join(map(str, inputs))}; files end in {', '.join(SUFFIXES)}")
    return finish_images(flag_unreadable(images, {})[0], skipped)


def _one_input(item: Path) -> pd.DataFrame:
    if item.suffix.lower() == ".csv":
        return read_images(item, "csv", max_bad=1.0) if _has_header(item) else _listed(item)
    if item.is_file():
        return loose_images([str(item)])
    if not item.is_dir():
        raise InputError(f"{item}: no such file or folder; check the name")
    if (item / "train_image_paths.csv").exists() or (item / "dataset.csv").exists():
        return read_images(item, find_source(item), max_bad=1.0)
    files, skipped = image_files(item.absolute())
    images = loose_images(files)
    images.attrs["skipped"] = skipped
    return images


def _has_header(file: Path) -> bool:
    "A table of one's own begins with the names of its columns; MURA's lists begin with a path."
    try:
        with open(file, encoding="utf-8-sig") as f:
            first = [cell.strip().strip('"') for cell in f.readline().split(",")]
    except (OSError, UnicodeDecodeError):
        return False  # reading it as a list says what is wrong
    return "path" in first and "label" in first


def _listed(file: Path) -> pd.DataFrame:
    "The images that a headerless CSV lists, one path a line."
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; check the name") from None
    except UnicodeDecodeError:
        raise InputError(f"{file}: not UTF-8 text; save the list as UTF-8") from None
    except OSError as e:
        raise InputError(f"{file}: cannot be read ({e.strerror or e}); mend that, and give the command again") from None
    folder, paths, missing = file.absolute().parent, [], []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        # The first component is the data set's name in its own lists, whatever its folder is called.
        choices = [folder / line, folder / Path(*Path(line).parts[1:])]
        try:
            real = [Path(os.path.realpath(c)) for c in choices]
            inside = [c for c, r in zip(choices, real, strict=True) if r.is_relative_to(os.path.realpath(folder))]
            found = next((c for c in inside if c.is_file()), None)
        except (OSError, ValueError) as e:  # too long, or a null byte in it
            why = getattr(e, "strerror", None) or e
            raise InputError(f"{file}, line {number}: {line[:80]!r} is no file's name ({why}); correct it") from None
        if len(inside) < len(choices) or Path(line).is_absolute():
            raise InputError(
                f"{file}, line {number}: {line!r} leads out of {folder}; list files below the CSV's folder"
            )
        (paths if found else missing).append(str(found or folder / line))
    images, gone = flag_unreadable(loose_images(paths), {p: mura_study(p) or p for p in missing})
    once = dict.fromkeys(paths)
    twice = [p for p in once if paths.count(p) > 1] if len(once) < len(paths) else []
    images.attrs["skipped"] = [{"path": p, "reason": "missing"} for p in missing] + gone
    images.attrs["skipped"] += [{"path": p, "reason": "listed twice"} for p in twice]
    return images
