"""Files decoded by threads, whole batches ahead of whoever uses them."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from fastcore.basics import defaults

from mura_fastai.data.pixels import pad_square, read_grey
from mura_fastai.errors import BadImage


def decode_batches(
    batches: Iterable[list[str]],  # paths of each batch
    size: int,  # side of the padded square in pixels
    threads: int | None = None,  # that decode; the number of cores unless set
    depth: int = 2,  # batches decoded while one is in use
    pinned: bool = False,  # into memory that a GPU reads by itself
) -> Iterator[tuple[torch.Tensor, list[BadImage | None]]]:  # pixels, uint8 n x 1 x size x size; faults
    "Batch after batch, in order, with each file's fault or None. The pixels of a file with a fault are undefined."
    threads = threads or defaults.cpus
    pool, under_way = ThreadPoolExecutor(threads), deque()

    def result(pixels: torch.Tensor, futures: list) -> tuple[torch.Tensor, list[BadImage | None]]:
        return pixels[:, None], [error for future in futures for error in future.result()]

    try:
        for paths in batches:
            pixels = torch.empty((len(paths), size, size), dtype=torch.uint8, pin_memory=pinned)
            # Several files a task: handing over each single one costs a tenth of the time.
            step = max(1, min(16, len(paths) // threads))
            parts = [slice(i, i + step) for i in range(0, len(paths), step)]
            under_way.append((pixels, [pool.submit(_decode_into, paths[p], pixels.numpy()[p]) for p in parts]))
            if len(under_way) > depth:
                yield result(*under_way.popleft())
        while under_way:
            yield result(*under_way.popleft())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _decode_into(paths: list[str], places: np.ndarray) -> list[BadImage | None]:
    "Decode files to where their pixels belong; what is wrong with one comes back."
    errors = []
    for path, place in zip(paths, places, strict=True):
        try:
            place[:] = pad_square(read_grey(path), len(place))
            errors.append(None)
        except BadImage as e:
            errors.append(e)
    return errors
