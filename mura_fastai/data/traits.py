"""Cheap facts about each file and picture that say nothing of bones: what a network may lean on instead of them."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from .inspection import LOOK_SIDE, inspect_images

BLACK = 8  # grey levels of 255; below it is what JPEG leaves of black
FLAT = 4  # grey levels; a row or column that varies less is constant but for the noise of JPEG
_HEADS = ((b"\x89PNG", "PNG"), (b"\xff\xd8\xff", "JPEG"), (b"II*\0", "TIFF"), (b"MM\0*", "TIFF"), (b"BM", "BMP"))
_WORD = {"left": -1, "right": 1}
_LETTER = {"l": -1, "lt": -1, "r": 1, "rt": 1}  # count in the file's own name only: folders are called L for much else


def traits(
    images: pd.DataFrame,  # any table with a column `path`
    progress: Callable[[int, int], None] | None = None,  # called with (done, all), e.g. `stderr_bar("reading images")`
) -> pd.DataFrame:  # a row an image, in the order and with the index of `images`
    """What a file and its thumbnail of 64 x 64 tell without any knowledge of radiographs.

    Columns: `path`; `width`, `height` (px), `pixels` (millions); `aspect` (log2 of width / height: 0 square, 1 twice as
    wide as high), `landscape` (1, 0, or .5 for a square); `brightness`, `contrast` (mean and standard deviation, grey
    levels 0 to 255); `black` (share of the picture that is black), `border_black` (share outside the box that holds all
    that is not black), `border_flat` (share outside the box left when constant rows and columns are cut off),
    `border_brightness` (mean of the outermost ring, grey levels); `suffix`, `format` (by the file's first bytes),
    `mode` (Pillow's name of colour mode and bit depth), `bytes_per_pixel`; `mass_x` (horizontal centre of brightness,
    -1 left edge to 1 right edge), `half_balance` (right half less left half, over their sum: -1 to 1), `side_named`
    (-1 left, 1 right, 0 neither or both, as the path has it).

    Where the brightness lies is a stand-in for laterality: it says which side is bright, not which side of the body.
    Files are decoded once, in threads; what the user's cache knows from an earlier check is not decoded again.
    A file that cannot be read has NaN (text: "") in all columns that need it, and is no error."""
    paths = [str(p) for p in images["path"]]
    seen = inspect_images(paths, look=True, progress=progress)
    fine = (seen["reason"] == "").to_numpy()
    table = pd.DataFrame({"path": paths})
    width, height = (np.where(fine, seen[c].astype(float), np.nan) for c in ("width", "height"))
    table["width"], table["height"], table["pixels"] = width, height, width * height / 1e6
    table["aspect"] = np.log2(width / height)
    table["landscape"] = np.where(fine, (1 + np.sign(width - height)) / 2, np.nan)
    pictures = [np.frombuffer(look, np.uint8) for look, ok in zip(seen["look"], fine, strict=True) if ok]
    for name, values in _pixel_facts(pictures).items():
        table[name] = np.nan
        table.loc[fine, name] = values
    table["suffix"] = [Path(p).suffix.lower() for p in paths]
    table["format"] = [_format(p) if ok else "" for p, ok in zip(paths, fine, strict=True)]
    table["mode"] = seen["mode"].where(fine, "")
    table["bytes_per_pixel"] = [_size(p) for p in paths] / (width * height)
    table["side_named"] = [float(named_side(p)) for p in paths]
    return table.set_index(images.index)


def named_side(
    path: str,  # of a file
) -> int:  # -1 left, 1 right, 0 neither or both
    "The side of the body that a path names: left or right as a word of it, or L, R, LT, RT as a word of the file name."
    words = re.split(r"[^a-z]+", path.lower())
    found = {_WORD[w] for w in words if w in _WORD}
    found |= {_LETTER[w] for w in re.split(r"[^a-z]+", Path(path).stem.lower()) if w in _LETTER}
    return found.pop() if len(found) == 1 else 0


def _format(path: str) -> str:
    try:
        with open(path, "rb") as f:
            head = f.read(4)
    except OSError:  # it was there when it was decoded
        return ""
    return next((name for start, name in _HEADS if head.startswith(start)), "")


def _size(path: str) -> float:
    try:
        return float(os.stat(path).st_size)
    except (OSError, ValueError):  # ValueError: a null byte in the name
        return np.nan


def _pixel_facts(pictures: list[np.ndarray]) -> dict[str, np.ndarray]:
    "What thumbnails (each 64 * 64 grey levels) tell, a value a picture."
    parts = [_facts_of(chunk) for chunk in _chunks(pictures)]
    return {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else ())}


def _chunks(pictures: list[np.ndarray], n: int = 2048) -> Iterator[np.ndarray]:
    "Some thousand pictures at a time as one array, which bounds the memory."
    for start in range(0, len(pictures), n):
        yield np.stack(pictures[start : start + n]).reshape(-1, LOOK_SIDE, LOOK_SIDE)


def _facts_of(a: np.ndarray) -> dict[str, np.ndarray]:
    "Facts of n x 64 x 64 grey levels."
    n, side = len(a), a.shape[1]
    grey = a.astype(np.float32)
    columns = grey.sum(1)
    total = columns.sum(1)
    place = (np.arange(side) + 0.5) / side * 2 - 1
    left, right = columns[:, : side // 2].sum(1), columns[:, side // 2 :].sum(1)
    ring = np.ones((side, side), bool)
    ring[1:-1, 1:-1] = False
    inked = a > BLACK
    varied = [(a.max(axis).astype(int) - a.min(axis)) > FLAT for axis in (1, 2)]
    return {
        "brightness": grey.mean((1, 2)),
        "contrast": grey.std((1, 2)),
        "black": 1 - inked.mean((1, 2)),
        "border_black": _outside(inked.any(1), inked.any(2)),
        "border_flat": _outside(*varied),
        "border_brightness": grey[:, ring].mean(1),
        # a black picture has its centre in the middle
        "mass_x": np.divide(columns @ place, total, out=np.zeros(n), where=total > 0),
        "half_balance": np.divide(right - left, total, out=np.zeros(n, np.float32), where=total > 0),
    }


def _outside(columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    "Share of each picture outside the box from the first to the last marked column and row (n x 64 each); 1 if none."

    def span(marked: np.ndarray) -> np.ndarray:
        first, last = marked.argmax(1), marked.shape[1] - 1 - marked[:, ::-1].argmax(1)
        return np.where(marked.any(1), (last - first + 1) / marked.shape[1], 0)

    return 1 - span(columns) * span(rows)
