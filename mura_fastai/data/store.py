"""All images of a table, decoded once: one array of bytes on disk, from which whole batches are gathered."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import filelock
import numpy as np
import pandas as pd
import torch

from mura_fastai.data.fingerprints import cache_folder, file_state
from mura_fastai.data.gather import Progress
from mura_fastai.data.pixels import pad_square, read_grey
from mura_fastai.errors import BadImage, InputError
from mura_fastai.files import replacing

CHUNK = 1024  # images between two entries in the index: what an interruption costs at the most
_TODO, _GOOD, _BAD = 0, 1, 2


class Store:
    """Decoded images of one size: `pixels.npy` (uint8, images x size x size) and `index.csv` (a row an image).

    The array is memory-mapped: only what is gathered is read, and processes share it.
    """

    def __init__(
        self,
        path: str | Path,  # the store's folder, made by `build_store`
    ):
        self.path = Path(path)
        self.index = _read_index(self.path)
        if self.index is None or (self.index.status == _TODO).any():
            raise InputError(f"{path}: not a whole store; mura prepare makes or finishes one")
        self.array = np.load(self.path / "pixels.npy", mmap_mode="r")
        self.size = self.array.shape[1]
        self._row = {p: i for i, p in enumerate(self.index.path)}

    def __len__(self) -> int:
        return len(self.index)

    @property
    def skipped(self) -> list[dict]:  # `{"path", "reason"}`
        "The files that cannot be used; their pixels are black and nobody should gather them."
        return self.index.loc[self.index.status == _BAD, ["path", "reason"]].to_dict("records")

    def rows(
        self,
        paths: list[str],  # files
    ) -> np.ndarray:  # their rows in the array; -1 where the store lacks one
        "Where the store holds these files."
        return np.array([self._row.get(p, -1) for p in paths], np.int64)

    def gather(
        self,
        rows: np.ndarray,  # n rows of the array
    ) -> torch.Tensor:  # uint8, n x 1 x size x size
        "A whole batch by index."
        return torch.from_numpy(self.array[rows])[:, None]


def build_store(
    images: pd.DataFrame,  # a table with a column `path`
    path: str | Path,  # the store's folder
    size: int = 320,  # side of the padded square in pixels
    workers: int | None = None,  # decoding threads; the number of cores unless set
    progress: Progress = None,  # called with (done, all)
    wait: bool = False,  # for another process that is writing the same store, instead of an error
) -> Store:
    """Decode every image once, by all cores. A second call redoes only what is new or has changed.

    Interrupted, it goes on where it was; a store that is not whole is never opened. Raises `InputError` where another
    process is writing it.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(path / ".lock", timeout=-1 if wait else 0):
            index, pixels = _prepare(path, list(dict.fromkeys(images.path)), size)
            _fill(path, index, pixels, size, workers, progress)
    except filelock.Timeout:
        raise InputError(f"{path}: another process is writing this store; wait for it to end") from None
    return Store(path)


def auto_store(
    images: pd.DataFrame,  # an images table
    size: int,  # side of the padded square in pixels
    progress: Progress = None,  # called with (done, all)
) -> Store:
    "The store of these images in the user's cache folder, made or brought up to date."
    name = pd.util.hash_pandas_object(images.path, index=False).sum()
    return build_store(
        images, cache_folder() / "stores" / f"{int(name):016x}-{size}", size, progress=progress, wait=True
    )


def _read_index(path: Path) -> pd.DataFrame | None:
    "The store's index, or None where there is none that fits its array."
    try:
        text = {"path": "str", "state": "str", "reason": "str"}
        index = pd.read_csv(path / "index.csv", dtype=text, keep_default_na=False)
        header = np.load(path / "pixels.npy", mmap_mode="r")
    except (OSError, ValueError):
        return None
    fits = header.dtype == np.uint8 and header.ndim == 3 and len(header) == len(index) and "status" in index
    return index if fits else None


def _write_index(path: Path, index: pd.DataFrame):
    with replacing(path / "index.csv") as aside:
        index.to_csv(aside, index=False)


def _prepare(path: Path, files: list[str], size: int) -> tuple[pd.DataFrame, np.ndarray]:
    "The index of `files`, with what an earlier build did marked as done, and the array opened for writing."
    old = _read_index(path)
    index = pd.DataFrame({"path": files, "state": [file_state(f).hex() for f in files], "status": _TODO, "reason": ""})
    pixels_file = path / "pixels.npy"
    if old is not None and np.load(pixels_file, mmap_mode="r").shape[1:] == (size, size):
        known = index.merge(old.assign(row=old.index), on=["path", "state"], how="left", suffixes=("_new", ""))
        done = (known.status.fillna(_TODO).gt(_TODO) & (known.state != "")).to_numpy()
        index.loc[done, "status"] = known.status[done].astype(int)
        index.loc[done, "reason"] = known.reason[done]
        if list(old.path) == files:
            _write_index(path, index)
            return index, np.lib.format.open_memmap(pixels_file, "r+")
    else:
        done, known = np.zeros(len(index), bool), None
    with replacing(pixels_file) as aside:
        pixels = np.lib.format.open_memmap(aside, "w+", np.uint8, (len(files), size, size))
        if known is not None and done.any():
            before = np.load(pixels_file, mmap_mode="r")
            for part in np.array_split(np.flatnonzero(done), -(-done.sum() // CHUNK)):
                pixels[part] = before[known.row.to_numpy()[part].astype(int)]
        pixels.flush()
        # Without its index a store is none: no reader can pair the new array with the old rows.
        (path / "index.csv").unlink(missing_ok=True)
    _write_index(path, index)
    return index, np.lib.format.open_memmap(pixels_file, "r+")


def _fill(path: Path, index: pd.DataFrame, pixels: np.ndarray, size: int, workers: int | None, progress: Progress):
    "Decode what is still to do. The index is written after the pixels it speaks of are on disk."
    todo, files = np.flatnonzero(index.status == _TODO), index.path.tolist()

    def decode(row: int) -> str:
        try:
            pixels[row] = pad_square(read_grey(files[row]), size)
        except BadImage as e:
            pixels[row] = 0
            return e.reason
        return ""

    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        for start in range(0, len(todo), CHUNK):
            part = todo[start : start + CHUNK]
            for n, (row, reason) in enumerate(zip(part, pool.map(decode, part), strict=True), start + 1):
                index.loc[row, ["status", "reason"]] = [_BAD if reason else _GOOD, reason]
                if progress:
                    progress(n, len(todo))
            pixels.flush()
            _write_index(path, index)
    bad = index.loc[index.status == _BAD, ["path", "reason"]]
    with replacing(path / "skipped.csv") as aside:
        bad.to_csv(aside, index=False)
