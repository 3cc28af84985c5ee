"""The images table that commands work on: read, decoded once into the cache's store, some regions of it."""

import hashlib
import sys
from contextlib import suppress
from pathlib import Path

import pandas as pd

from mura_fastai.bars import stderr_bar
from mura_fastai.data.gather import by_reason
from mura_fastai.data.sources import find_source, read_images
from mura_fastai.data.store import auto_store
from mura_fastai.data.studies import finish_images
from mura_fastai.errors import InputError
from mura_fastai.text import name_some, one_of


def select_regions(
    images: pd.DataFrame,  # an images table
    regions: list[str] | str | None,  # names, or one text with commas; all where not given
) -> pd.DataFrame:
    "The rows of some regions. Raises `InputError` for a region that is not in the table."
    if not regions:
        return images
    wanted = [r.strip() for r in (regions.split(",") if isinstance(regions, str) else regions)]
    known = sorted(set(images.region))
    unknown = [r for r in wanted if r not in known]
    if unknown:
        raise InputError(f"no region {unknown[0]!r} in the data; there are {', '.join(known)}")
    return finish_images(images[images.region.isin(wanted)], images.attrs.get("skipped"))


def read_data(
    data: str | Path,  # a dataset's folder, or a CSV
    source: str | None = None,  # mura, fracatlas, folder or csv; found out where not given
    regions: list[str] | str | None = None,  # some regions only
    max_bad: float = 0.05,  # share of unusable files that is left out without asking
    split_seed: int = 0,  # another seed, another split (of data without an official one)
    allow_leaks: bool = False,  # go on although a patient is in both train and valid
    size: int | None = None,  # of the cache's store, which is about to be used: MURA's files are decoded into it once
) -> pd.DataFrame:  # the images table; `attrs["tables"]` are the `source_tables` that it was read from
    "The images table that the commands work on, with what was left out said on stderr."
    source = source or find_source(data)
    tables = source_tables(data, source)  # before they are read: who edits them meanwhile is noticed, too

    def by_store(images: pd.DataFrame) -> list[dict]:
        return auto_store(images, size, stderr_bar("decoding images")).skipped

    images = read_images(
        data, source, max_bad=max_bad, seed=split_seed, allow_leaks=allow_leaks,
        progress=stderr_bar("checking images"), check=by_store if size else None,
    )  # fmt: skip
    print_left_out(images.attrs["skipped"])
    images = select_regions(images, regions)
    images.attrs["tables"] = tables
    return images


def source_tables(
    data: str | Path,  # a dataset's folder, or a CSV
    source: str | None,  # mura, fracatlas, folder or csv
) -> dict[str, str]:  # name of the file -> digest; of what is there
    "The CSVs that labels come from, each as it is now: another digest, another table."
    data = Path(data).expanduser().absolute()
    mura = [f"{split}_{what}.csv" for split in ("train", "valid") for what in ("image_paths", "labeled_studies")]
    names = {"mura": [*mura, "test_image_paths.csv"], "fracatlas": ["dataset.csv"], "csv": [data.name]}.get(source, [])
    folder, found = data.parent if source == "csv" else data, {}
    for name in names:
        with suppress(OSError):  # away: who reads it will say so
            if (folder / name).is_file():
                with open(folder / name, "rb") as f:
                    found[name] = hashlib.file_digest(f, "sha256").hexdigest()[:16]
    return found


def print_left_out(
    skipped: list[dict],  # path and reason
):
    "What was left out, counted on stderr, a line a reason with the first few names."
    if skipped:
        print(f"left out {one_of(len(skipped), 'file')}, such as {name_skipped(skipped[0])}", file=sys.stderr)
    for reason, paths in by_reason(skipped).items():
        print(f"  {reason}: {len(paths)}, {name_some(paths)}", file=sys.stderr)


def name_skipped(
    bad: dict,  # path and reason
) -> str:
    "A file that was left out, and why, in a few words."
    return f"{bad['path']} ({bad['reason']})"
