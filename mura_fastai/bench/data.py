"""What is measured on: a phantom, or a sample of somebody's data; and its rows again and again, for long epochs."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import pandas as pd
from PIL import Image

from mura_fastai.bars import stderr_bar
from mura_fastai.data.inspection import leave_out_bad
from mura_fastai.data.sources import find_source, read_images
from mura_fastai.data.store import Store, build_store
from mura_fastai.errors import InputError
from mura_fastai.share.demo import demo_phantom

PHANTOM_PX = 512  # longest side of the phantom's pictures, as in MURA
IMAGES_A_STUDY = 2.6  # of the phantom, on average
TUNE_ROWS = 16  # loaders want a tune set; nothing is measured on it


@dataclass
class BenchData:
    "Images to measure with, all of them readable and labelled."

    images: pd.DataFrame  # an images table
    size: int  # side of the padded square in pixels
    about: dict  # what data it is, for the record; no path of the machine

    def build(
        self,
        folder: Path,  # a new one
    ) -> tuple[Store, dict]:  # the images decoded; images, seconds and images a second that it took
        "Decode all images into a store of their own, and say how long that took: what every epoch after it saves."
        started = perf_counter()
        store = build_store(self.images, folder, self.size)
        seconds = perf_counter() - started
        return store, dict(images=len(store), seconds=seconds, images_per_s=len(store) / seconds)

    def rows(
        self,
        n: int,  # training rows
    ) -> pd.DataFrame:  # n rows of split train, and a few of split tune
        "The images again and again, until there are enough."
        return repeat_rows(self.images, n)

    def files(
        self,
        n: int,  # files
    ) -> tuple[list[str], list[int]]:  # paths and labels
        "The files again and again, until there are enough: the rows of `rows` without their table."
        train = self.rows(n).iloc[:n]
        return train.path.tolist(), train.label.astype(int).tolist()


def repeat_rows(
    images: pd.DataFrame,  # an images table
    n: int,  # training rows
) -> pd.DataFrame:  # n rows of split train, and a few of split tune
    "Rows of a table again and again."
    table = images.iloc[np.arange(n + TUNE_ROWS) % len(images)].reset_index(drop=True)
    return table.assign(split=np.where(np.arange(len(table)) < n, "train", "tune"))


def bench_data(
    data: str | Path | None = None,  # a dataset's folder or CSV; a phantom of 512 px in the cache where not given
    source: str | None = None,  # mura, fracatlas, folder or csv; found out where not given
    size: int = 320,  # side of the padded square in pixels
    images: int = 1000,  # at the most
    seed: int = 0,  # of the sample
) -> BenchData:
    "Up to `images` images of a dataset, drawn at random, or of a phantom. Raises `InputError` where there are none."
    if data is None:
        _, table = demo_phantom(max(20, round(images / IMAGES_A_STUDY * 1.05)), size=PHANTOM_PX)
        told = dict(kind="phantom", name=f"phantom, {PHANTOM_PX} px")
    else:
        source = source or find_source(data)
        table = read_images(data, source, decode=False, progress=stderr_bar("checking images"))
        told = dict(kind=source, name=Path(data).name)
    table = table[table.label.notna()]
    table = table.sample(min(images, len(table)), random_state=seed)
    table, _ = leave_out_bad(table, progress=stderr_bar("checking images"))
    if table.empty:
        raise InputError(f"{data}: no labelled image to measure with")
    table = table.assign(label=table.label.astype(int)).reset_index(drop=True)
    return BenchData(table, size, told | dict(images=len(table), **_formats(table.path)))


def _formats(paths: pd.Series) -> dict:
    "File formats and median longer side, read from the headers; and the size of a file."
    formats, sides, kilobytes = Counter(), [], []
    for path in paths:
        with Image.open(path) as im:
            formats[im.format] += 1
            sides.append(max(im.size))
        kilobytes.append(Path(path).stat().st_size / 1000)
    return dict(formats=dict(formats), median_side=median(sides), median_kb=round(median(kilobytes), 1))
