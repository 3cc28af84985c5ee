"""Every file looked at once before training: which can be used, how large they are, which hold the same pixels."""

import hashlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from ..errors import BadImage, NoImages
from . import fingerprints, pixels

LOOK_SIDE = 64  # px of the thumbnail that `lookalikes` compares


def _inspect(path: str, look: bool) -> dict:
    "One row of `inspect_images`."
    row = dict(reason="", width=0, height=0, mode="", pixel_hash="", look=b"")
    try:
        a, mode = pixels.decode_file(path)
    except BadImage as e:
        return row | dict(reason=e.reason)
    digest = hashlib.sha256(f"{a.shape}".encode())
    digest.update(a)
    row |= dict(height=a.shape[0], width=a.shape[1], mode=mode, pixel_hash=digest.hexdigest()[:32])
    if look:
        small = Image.fromarray(a).resize((LOOK_SIDE, LOOK_SIDE), Image.Resampling.BOX)
        row["look"] = small.tobytes()
    return row


def inspect_images(
    paths: Iterable[str | Path],  # files to decode
    look: bool = False,  # also make the thumbnails that `lookalikes` compares
    workers: int | None = None,  # threads; the number of cores unless set
    progress: Callable[[int, int], None] | None = None,  # called with (done, all), e.g. `stderr_bar("checking")`
    cache: bool = True,  # keep the rows in the user's cache folder, by path, size and time of change
) -> pd.DataFrame:  # `path, reason ("" where all is well), width, height, mode, pixel_hash, look (64 x 64 as bytes)`
    "Decode every file once and say all that anybody asks of it before training. A second call decodes what changed."
    paths = [str(p) for p in paths]
    with fingerprints.opened(paths, look, enabled=cache) as known:
        todo = [i for i, row in enumerate(known.rows) if row is None]
        # Threads, not processes: Pillow decodes without the interpreter's lock, so two of them take half the time,
        # and nothing has to be started, pickled or guarded by `if __name__ == "__main__"`.
        pool = ThreadPoolExecutor(workers or os.cpu_count() or 1)
        try:
            for n, (i, row) in enumerate(zip(todo, pool.map(lambda i: _inspect(paths[i], look), todo), strict=True)):
                known.rows[i] = row
                if progress:
                    progress(n + 1, len(todo))
        finally:
            pool.shutdown(cancel_futures=True)
        table = pd.DataFrame(known.rows, columns=["reason", "width", "height", "mode", "pixel_hash", "look"])
    return pd.concat([pd.Series(paths, name="path", dtype=object), table], axis=1)


def check_images(
    paths: Iterable[str | Path],  # files to decode
    workers: int | None = None,  # threads
    progress: Callable[[int, int], None] | None = None,  # called with (done, all)
) -> list[dict]:  # `{"path", "reason"}` of each file that cannot be used
    "The files that `read_grey` would refuse."
    table = inspect_images(paths, workers=workers, progress=progress)
    return table.loc[table.reason != "", ["path", "reason"]].to_dict("records")


def limit_bad(
    bad: list[dict],  # `{"path", "reason"}` of the files that cannot be used
    total: int,  # number of files in all
    max_bad: float = 0.05,  # greatest share that is left out without asking
    remedy: str | None = None,  # beside repairing them, where there is no option --max-bad
):
    "Raise `NoImages` when more than `max_bad` of the files cannot be used: then something else is wrong."
    if len(bad) <= max_bad * total:
        return
    shown = "; ".join(f"{b['path']} ({b['reason']})" for b in bad[:3])
    more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
    most = "--max-bad" if remedy is None else "max_bad"
    remedy = remedy or f"or allow more with --max-bad {min(1, np.ceil(len(bad) / total * 100) / 100):g}"
    raise NoImages(
        f"{len(bad)} of {total} images ({len(bad) / total:.0%}) cannot be used, more than {most} {max_bad:g}: "
        f"{shown}{more}; repair them, {remedy}"
    )


def leave_out_bad(
    images: pd.DataFrame,  # any table with a column `path`
    max_bad: float = 0.05,  # greatest share that is left out without asking
    progress: Callable[[int, int], None] | None = None,  # called with (done, all)
) -> tuple[pd.DataFrame, list[dict]]:  # the rows that can be read; `{"path", "reason"}` of the others
    "Decode what was not decoded before, and keep the rows that `read_grey` accepts. `InputError` above `max_bad`."
    bad = check_images(images.path, progress=progress)
    limit_bad(bad, len(images), max_bad)
    return images[~images.path.isin([b["path"] for b in bad])], bad
