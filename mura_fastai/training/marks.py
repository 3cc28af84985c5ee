"""Which files a training learns from: marks by which it knows them again when it goes on, wherever they lie by then."""

import hashlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from mura_fastai.data.fingerprints import file_stamps
from mura_fastai.data.inspection import inspect_images
from mura_fastai.data.pixels import pad_square, read_grey
from mura_fastai.data.store import Store, whole_store
from mura_fastai.errors import BadImage, InputError
from mura_fastai.text import name_some, one_of
from mura_fastai.training.state import State
from mura_fastai.training.state_rules import PIXELS, SQUARES, STAMPS

ANEW = "put it back, or train anew into another folder (mura train --out)"


def file_marks(
    paths: list[str],  # of the images, all of them readable
    size: int,  # side of the square that the network sees, pixels
    store: Store | None = None,  # that holds them decoded
    state: State | None = None,  # where the training goes on
) -> dict[str, torch.Tensor]:  # int64, a number an image: `STAMPS`, and `SQUARES` or `PIXELS`
    """Each file's size and time in one number, and its pixels in another: files that were copied have other times.

    Nothing is decoded for it: where a store holds the squares that the network sees these are marked, else all pixels
    of the file, which are known since it was looked at. Where a state is given, files of another stamp must have the
    pixels that it knows. Raises `InputError` that names those that have not."""
    stamps, kept = file_stamps(paths), {} if state is None else state.tensors
    known = [kind for kind in (SQUARES, PIXELS) if kind in kept]
    changed = np.flatnonzero(stamps != kept[STAMPS].numpy()) if state is not None else np.array([], int)
    if len(changed):
        refuse_unmarked(paths, changed, state)
        files = [paths[i] for i in changed]
        # A store of the user's own may hold them as they were before.
        fresh = store if store is None else whole_store(store.path, files, size)
        other = changed[_marks(files, known[0], size, fresh) != kept[known[0]].numpy()[changed]]
        if len(other):
            raise InputError(f"{name_some([paths[i] for i in other], 1)}: changed since the training began; {ANEW}")
        print(f"{one_of(len(changed), 'file')} with another size or time and the same pixels", file=sys.stderr)
    kind = known[0] if known else PIXELS if store is None else SQUARES
    marks = kept[kind] if known else torch.from_numpy(_marks(paths, kind, size, store))
    return {STAMPS: torch.from_numpy(stamps), kind: marks}


def refuse_unmarked(
    paths: list[str],  # of all images
    changed: np.ndarray,  # positions of those with another stamp
    state: State,
):
    "Raise `InputError` for changed files of a state that knows no pixels, as earlier versions left it."
    if len(changed) and not {SQUARES, PIXELS} & state.tensors.keys():
        raise InputError(f"{name_some([paths[i] for i in changed], 1)}: changed since the training began; {ANEW}")


def _marks(paths: list[str], kind: str, size: int, store: Store | None) -> np.ndarray:
    "A number for the pixels of each file; 0 for one that cannot be read."
    if kind == PIXELS:
        hashes = [bytes.fromhex(told[:16]) for told in inspect_images(paths).pixel_hash]
        return np.frombuffer(b"".join(h or bytes(8) for h in hashes), "<i8").astype(np.int64)
    rows = paths if store is None else store.rows(paths)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # neither decoding nor hashing holds the interpreter's lock
        blocks = pool.map(lambda some: [_mark(_square(row, size, store)) for row in some], _blocks(rows))
        return np.array([mark for block in blocks for mark in block], np.int64)


def _blocks(rows: list[str] | np.ndarray, n: int = 64) -> list:
    return [rows[i : i + n] for i in range(0, len(rows), n)]


def _square(row: str | int, size: int, store: Store | None) -> np.ndarray | None:
    "As the store holds it, or as it would; None for a file that cannot be read."
    if store is not None:
        return store.array[row]
    try:
        return pad_square(read_grey(row), size)
    except BadImage:
        return None


def _mark(square: np.ndarray | None) -> int:
    if square is None:
        return 0
    return int.from_bytes(hashlib.blake2b(square, digest_size=8).digest(), "little", signed=True)
