"""The pointing game: of maps whose finding has a known place, how many have their hottest point there."""

from pathlib import Path

import numpy as np
import pandas as pd

from mura_fastai.data.pixels import read_grey
from mura_fastai.errors import InputError
from mura_fastai.results.intervals import wilson
from mura_fastai.results.overlays import heat_on


def phantom_boxes(
    root: str | Path,  # a phantom's folder
) -> pd.DataFrame:  # path, kind, x0, y0, x1, y1 in pixels of the file: a row for each finding that a view shows
    "Where the abnormalities of a phantom are, see `make_phantom`. `InputError` for a folder that is none."
    root = Path(root).expanduser().absolute()
    try:
        rows = pd.read_csv(root / "phantom.csv")
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{root}: no phantom.csv; only of a phantom is it known where the findings are") from None
    rows = rows[rows["shown"] == 1]
    # the first part is the folder's name when it was made, and it may have another by now
    paths = [str(root.joinpath(*Path(p).parts[1:])) for p in rows["path"]]
    return rows.assign(path=paths)[["path", "kind", "x0", "y0", "x1", "y1"]].reset_index(drop=True)


def point_at(
    heat: np.ndarray,  # a map over the padded square
    shape: tuple[int, int],  # height and width of the picture
) -> tuple[int, int] | None:  # column and row of a pixel; None for a map of zeros, which points nowhere
    "The hottest pixel of the picture; where several are, as along a border, the middlemost of them."
    return _highest(heat_on(heat, shape))


def _highest(values) -> tuple[int, int] | None:
    "Column and row of the highest value, the middlemost where several are; None where none is above 0."
    if not values.max() > 0:
        return None
    y, x = np.nonzero(values == values.max())
    i = np.argmin((x - x.mean()) ** 2 + (y - y.mean()) ** 2)
    return int(x[i]), int(y[i])


def _covered(boxes, shape, beside: float = 0.0) -> np.ndarray:
    "Which pixels lie in a box, or so many pixels beside one."
    inside = np.zeros(shape, bool)
    for x0, y0, x1, y1 in boxes[["x0", "y0", "x1", "y1"]].to_numpy(float):
        start = [max(0, int(np.floor(o - beside))) for o in (y0, x0)]
        inside[start[0] : int(np.ceil(y1 + beside)), start[1] : int(np.ceil(x1 + beside))] = True
    return inside


def _played(heat, boxes, tolerance) -> list[dict]:
    "One picture of the game: a row for each kind it shows, and one for all."
    grey = read_grey(boxes["path"].iloc[0])
    shape, point, hot = grey.shape, point_at(heat, grey.shape), heat_on(heat, grey.shape)
    bright = _highest(grey) or (0, 0)
    of_kind = {kind: part for kind, part in boxes.groupby("kind") if kind != "all"} if "kind" in boxes else {}
    rows = []
    for kind, part in (of_kind | {"all": boxes}).items():
        near, inside = _covered(part, shape, tolerance * max(shape)), _covered(part, shape)
        row = dict(path=boxes["path"].iloc[0], kind=kind, hit=point is not None and bool(near[point[::-1]]))
        row |= dict(chance=float(near.mean()), centre=bool(near[shape[0] // 2, shape[1] // 2]))
        row |= dict(bright=bool(near[bright[::-1]]))
        row |= dict(energy=float(hot[inside].sum(dtype=float) / hot.sum(dtype=float)) if point else 0.0)
        rows.append(row | dict(empty=point is None))
    return rows


def pointing_hits(
    maps: list,  # of `heat_maps`; None is passed over
    images: pd.DataFrame,  # the same rows
    boxes: pd.DataFrame,  # path, x0, y0, x1, y1 in pixels of the file, and perhaps kind; an image may have several rows
    tolerance: float = 0.0,  # how far beside a box still counts, as a share of the picture's longer side
) -> pd.DataFrame:  # of each image a row "all" and one a kind it shows: path, kind, hit and what it is held against
    "The pointing game image by image, see `pointing_game`. `InputError` where no image has a map and a box."
    of = dict(iter(boxes.groupby("path")))
    pairs = [(m, of[p]) for m, p in zip(maps, images["path"], strict=True) if m is not None and p in of]
    if not pairs:
        raise InputError("no image has both a map and a box, so nothing can be pointed at: are both of the same data?")
    return pd.DataFrame([row for heat, part in pairs for row in _played(heat, part, tolerance)])


def pointing_game(
    maps: list,  # of `heat_maps`; None is passed over
    images: pd.DataFrame,  # the same rows
    boxes: pd.DataFrame,  # path, x0, y0, x1, y1 in pixels of the file, and perhaps kind; an image may have several rows
    tolerance: float = 0.0,  # how far beside a box still counts, as a share of the picture's longer side
) -> pd.DataFrame:  # a row a kind, the last one "all"; columns n, hits, share, lo, hi and the others below
    """Of the images with a box, the share whose map is hottest in one: Zhang et al. 2016, arXiv 1608.00507.

    `lo` and `hi` are Wilson's 95 % interval, for which images are independent. Against it stand what a point thrown at
    random hits (`chance`, the share of the picture in boxes), what the picture's middle does (`centre`), and its
    brightest pixel (`bright`), which finds metal by itself. `energy` is the mean share of the heat that lies in boxes
    (as Wang et al. 2020, arXiv 1910.01279); `empty` counts maps of zeros: they point nowhere, which is a miss. A kind's
    row is of the images that show it, and of its boxes alone.

    Zhang et al. allowed 15 px beside a box, about `tolerance=0.03`."""
    rows = pointing_hits(maps, images, boxes, tolerance)
    groups, table = dict(iter(rows.groupby("kind"))), {}
    for kind in [*(k for k in groups if k != "all"), "all"]:
        part, n, hits = groups[kind], len(groups[kind]), int(groups[kind]["hit"].sum())
        lo, hi = wilson(hits / n, n)
        means = part[["chance", "centre", "bright", "energy"]].mean().to_dict()
        table[kind] = dict(n=n, hits=hits, share=hits / n, lo=lo, hi=hi, **means, empty=int(part["empty"].sum()))
    return pd.DataFrame.from_dict(table, orient="index")
