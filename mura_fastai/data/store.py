"""All images of a table, decoded once: one array of bytes on disk, from which whole batches are gathered."""

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import filelock
import numpy as np
import pandas as pd
import torch

from mura_fastai.data.fingerprints import cache_folder, file_state
from mura_fastai.data.gather import Progress
from mura_fastai.data.pixels import pad_square, read_grey
from mura_fastai.data.store_files import (
    BAD,
    FILES,
    GOOD,
    LATER,
    TODO,
    Index,
    PixelFile,
    fit_array,
    read_store,
    write_index,
    write_skipped,
)
from mura_fastai.errors import BadImage, InputError
from mura_fastai.files import refuse_file, sweep

BLOCK = 16  # images a task: with one each, threads spend half their time on handing over
FLUSH = 0.25  # seconds between two flushes: what waits to be written at the end would hold everybody up
SAVE = 5.0  # seconds between two entries in the index, of which a large one takes a tenth: what a power cut costs


class Store:
    """Decoded images of one size: `pixels.npy` (uint8, images x size x size) and `index.csv` (a row an image).

    The array is memory-mapped: only what is gathered is read, and processes share it. It stays as it is while another
    process adds images.
    """

    def __init__(
        self,
        path: str | Path,  # the store's folder, made by `build_store`
    ):
        self.path = Path(path)
        found = read_store(self.path)
        if found is None or TODO in found[0].status:
            raise InputError(f"{path}: not a whole store; mura prepare makes or finishes one")
        index, array = found
        self.array, self.size, self.skipped = np.asarray(array)[: len(index)], array.shape[1], index.bad()
        self._row = {p: i for i, (p, s) in enumerate(zip(index.path, index.status, strict=True)) if s != LATER}

    def __len__(self) -> int:
        return len(self.array)

    def rows(
        self,
        paths: list[str],  # files
    ) -> np.ndarray:  # int64: their rows in the array; -1 where the store lacks one
        "Where the store holds these files."
        return np.array([self._row.get(p, -1) for p in paths], np.int64)

    def gather(
        self,
        rows: np.ndarray | torch.Tensor,  # n rows of the array
        out: torch.Tensor | None = None,  # where to put them: uint8, n x 1 x size x size, contiguous
    ) -> torch.Tensor:  # uint8, n x 1 x size x size
        "A whole batch by index. Raises `IndexError` for a row that the store lacks, -1 too."
        rows = np.asarray(rows)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self)}: the store lacks some of them")
        if out is None:
            out = torch.empty(len(rows), 1, self.size, self.size, dtype=torch.uint8)
        # One thread moves as much as memory gives. `torch.index_select` is a fourth faster with all cores to itself,
        # and falls to a tenth as soon as others compute: its threads wait for each other in every batch.
        np.take(self.array, rows, axis=0, out=out.view(len(rows), self.size, self.size).numpy(), mode="clip")
        return out


def build_store(
    images: pd.DataFrame,  # a table with a column `path`
    path: str | Path,  # the store's folder
    size: int = 320,  # side of the padded square in pixels
    workers: int | None = None,  # decoding threads; one more than cores unless set
    progress: Progress = None,  # called with (done, all)
    wait: bool = False,  # for another process that is writing the same store, instead of an error
) -> Store:
    """Decode every image once, by all cores. A second call adds what is new, redoes what has changed, keeps the rest.

    A store grows: files of other tables stay in it. Interrupted, it goes on where it was; one that is not whole is
    never opened. Raises `InputError` where another process is writing it, the folder cannot be written, or the disk
    has too little space.
    """
    path, files = Path(path), list(dict.fromkeys(images.path))
    if not files:
        raise InputError(f"{path}: no images to decode; check the table")
    with _locked(path, wait):
        for name in FILES:  # another file there may be anybody's
            sweep(path, name, alone=True)
        index, todo = _plan(path, files, size)
        if todo:
            _decode(path, index, todo, workers or (os.cpu_count() or 1) + 1, progress)
        write_skipped(path, index)
        return Store(path)  # before anybody else begins to add to it


def whole_store(
    path: str | Path,  # a folder that may be a store
    files: list[str],  # images that are asked for
    size: int,  # side of the padded square in pixels
) -> Store | None:  # None where it lacks one of them, or holds one as it was before
    "A store that has all these files as they are now. Nothing is written: the folder may be anybody's."
    found = read_store(Path(path))
    if found is None or found[1].shape[1] != size or TODO in found[0].status:
        return None
    index = found[0]
    held = {p: s for p, s, status in zip(index.path, index.state, index.status, strict=True) if status in (GOOD, BAD)}
    fresh = all((state := file_state(f).hex()) and held.get(f) == state for f in files)
    return Store(path) if fresh else None


def store_folder(
    images: pd.DataFrame,  # an images table
    size: int,  # side of the padded square in pixels
) -> Path:  # not made yet
    "Where the user's cache folder keeps the store of these images: one for all that lies below their common folder."
    try:
        root = os.path.commonpath([os.path.dirname(os.path.abspath(p)) for p in images.path])
    except ValueError:  # two drives on Windows, an empty table
        root = ""
    name = hashlib.blake2b(root.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
    return cache_folder() / "stores" / f"{name}-{size}"


def auto_store(
    images: pd.DataFrame,  # an images table
    size: int,  # side of the padded square in pixels
    progress: Progress = None,  # called with (done, all)
) -> Store:
    "The store of these images in the user's cache folder, made or brought up to date."
    return build_store(images, store_folder(images, size), size, progress=progress, wait=True)


@contextmanager
def _locked(path: Path, wait: bool) -> Iterator[None]:
    "The folder, made where it is missing, with nobody else writing in it."
    refuse_file(path)
    lock = filelock.FileLock(path / ".lock", timeout=-1 if wait else 0)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout:
        raise InputError(f"{path}: another process is writing this store; wait for it to end") from None
    except OSError as e:
        raise InputError(f"{path}: no store can be written there ({e.strerror or e}); choose another folder") from None
    try:
        yield
    finally:
        lock.release()


def _plan(path: Path, files: list[str], size: int) -> tuple[Index, list[int]]:
    "The index, on disk too, with all that must be decoded marked so; its rows; and an array that has room for them."
    index, array = read_store(path) or (Index(), None)
    if array is not None and array.shape[1] != size:
        index, array = Index(), None
    begun = TODO in index.status
    index.status = [LATER if s == TODO else s for s in index.status]
    row, todo = {p: i for i, p in enumerate(index.path)}, []
    for file in files:
        state, i = file_state(file).hex(), row.get(file)
        if i is None:
            i = len(index)
            index.add(file)
        elif state and state == index.state[i] and index.status[i] in (GOOD, BAD):
            continue
        index.state[i], index.status[i], index.reason[i] = state, TODO, ""
        todo.append(i)
    fit_array(path, len(index), size, array)
    if todo or begun:
        write_index(path, index)
    return index, todo


def _decode(path: Path, index: Index, todo: list[int], workers: int, progress: Progress):
    "Fill these rows. The index is written after the pixels it speaks of are on disk, while decoding goes on."
    blocks = [todo[i : i + BLOCK] for i in range(0, len(todo), BLOCK)]
    stop, pool, done, flushed, saved = threading.Event(), ThreadPoolExecutor(workers), 0, 0.0, time.monotonic()
    with PixelFile(path) as file:
        try:
            # All tasks wait in the pool, so that its threads go on whatever this one does meanwhile.
            for n in pool.map(lambda rows: _decode_block(index, rows, file, stop), blocks):
                done, now = done + n, time.monotonic()
                if progress:
                    progress(done, len(todo))
                if now - saved >= SAVE:
                    _save(path, index, file)
                    saved = time.monotonic()
                elif now - flushed >= FLUSH:
                    file.flush()
                    flushed = time.monotonic()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
            _save(path, index, file)  # what was decoded is kept, however it ends


def _save(path: Path, index: Index, file: PixelFile):
    known = index.copy()  # before the flush: what is decoded from now on may not be on disk
    file.flush()
    write_index(path, known)


def _decode_block(index: Index, rows: list[int], file: PixelFile, stop: threading.Event) -> int:
    "Decode some rows, write their pixels, then mark them in the index. Returns how many they were."
    pixels, reasons = [], []
    for row in rows:
        if stop.is_set():
            break
        try:
            pixels.append(pad_square(read_grey(index.path[row]), file.size))
            reasons.append("")
        except BadImage as e:
            pixels.append(np.zeros((file.size, file.size), np.uint8))
            reasons.append(e.reason)
    rows = rows[: len(reasons)]
    file.put(rows, pixels)
    for row, reason in zip(rows, reasons, strict=True):
        index.reason[row], index.status[row] = reason, BAD if reason else GOOD
    return len(rows)
