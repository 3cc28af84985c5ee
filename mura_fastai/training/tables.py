"""The images table that a run keeps: read, held against the place of its data, and where nearly all of it is gone."""

import os
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from mura_fastai.confined import refuse_outside, relocating, told_folder
from mura_fastai.data.studies import finish_images
from mura_fastai.errors import InputError, NoData
from mura_fastai.text import one_of


def read_table(
    file: str | Path,  # images.csv of a run
) -> pd.DataFrame:  # the images table
    "The images table of a run, as it was trained on."
    text = dict.fromkeys(("path", "split", "region", "patient", "study"), "str")
    if not Path(file).exists():
        raise InputError(f"{file}: no such file; a run that was stopped before it had read its data: mura resume")
    try:
        rows = pd.read_csv(
            file, dtype=text, keep_default_na=False, na_values={"label": [""]}, encoding_errors="surrogateescape"
        )
        if not rows["label"].isin((0, 1)).where(rows["label"].notna(), True).all():
            raise ValueError("a label that is not 0, 1 or blank")
        return finish_images(rows)
    except (OSError, ValueError, KeyError) as e:
        raise InputError(
            f"{file}: not the images table of a run ({' '.join(str(e).split())[:120]}); bring it back as it was"
        ) from None


def own_images(
    run: str | Path,  # a run's folder
    data: dict | None,  # the table `data` of its settings
) -> pd.DataFrame:  # the images table
    "`read_table` of a run's images.csv, by whoever is about to open the files: none of them lies outside of its data."
    images = read_table(Path(run) / "images.csv")
    refuse_outside(images.path, data, Path(run) / "images.csv")
    return images


def lost_data(
    run: str | Path,  # a run's folder, or one that holds several
    data: dict | None,  # the table `data` of its settings
    paths: Iterable[str] = (),  # images of it that are asked for; none: the data as a whole
) -> NoData | None:  # None where it is there, or more than a tenth of these images
    "What is to be said where the data of a run is elsewhere than the run says, as on another machine."
    paths, where = [p for p in paths if isinstance(p, str)], told_folder(data)
    gone = [p for p in paths if not os.path.exists(p)]
    if paths and 10 * len(gone) < 9 * len(paths):
        return None
    if not paths and (where is None or os.path.exists(where)):
        return None
    missing = f"{len(gone):,} of {one_of(len(paths), 'image')} missing, such as {gone[0]}" if gone else "no such folder"
    if where is None:
        told = "settings.yaml does not say where it lay"
        return NoData(f"{run}: its data is not here ({missing}), and {told}; put that into it, as data.path")
    return NoData(f"{run}: its data is not at {where} ({missing}); to say where it is now: {relocating(run)}")
