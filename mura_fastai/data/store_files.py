"""The files of a store: an array of bytes that grows where it is, and the index that says whose they are.

What makes a crash harmless is the order of writing: the array's file is extended, then its header, then the index is
replaced. So an array may be longer than its index, never shorter; and nobody's mapped pages are ever taken away.
"""

import csv
import errno
import io
import os
import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mura_fastai.errors import InputError
from mura_fastai.files import replacing

FILES = ("pixels.npy", "index.csv", "skipped.csv")  # of a store
TODO, GOOD, BAD, LATER = range(4)  # LATER: begun for another table, not decoded, and asked for by none since

_COLUMNS = ("path", "state", "status", "reason")
_NO_RESERVE = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)  # file systems that cannot set room aside


@dataclass
class Index:
    "A row an image, in the array's order. Lists: changing a table row by row takes as long as decoding."

    path: list[str] = field(default_factory=list)
    state: list[str] = field(default_factory=list)  # `file_state` before it was decoded, in hex; "" for a missing file
    status: list[int] = field(default_factory=list)  # TODO, GOOD, BAD or LATER
    reason: list[str] = field(default_factory=list)  # why it is bad

    def __len__(self) -> int:
        return len(self.path)

    def add(self, path: str):
        self.path.append(path)
        self.state.append("")
        self.status.append(TODO)
        self.reason.append("")

    def copy(self) -> "Index":
        return Index(self.path[:], self.state[:], self.status[:], self.reason[:])

    def bad(self) -> list[dict]:  # `{"path", "reason"}`
        rows = zip(self.path, self.status, self.reason, strict=True)
        return [{"path": p, "reason": r} for p, s, r in rows if s == BAD]


def read_store(
    path: Path,  # a store's folder
) -> tuple[Index, np.memmap] | None:  # the array: uint8, at least as many images as the index has rows x size x size
    "Index and array, mapped for reading; None where they are missing, damaged or do not belong together."
    try:
        with open(path / "index.csv", newline="", encoding="utf-8", errors="surrogateescape") as f:
            columns = [list(c) for c in zip(*csv.reader(f), strict=True)]
        if tuple(c.pop(0) for c in columns) != _COLUMNS:
            return None
        columns[2] = [int(s) for s in columns[2]]
        index = Index(*columns)
        array = open_array(path)
    except (OSError, ValueError, OverflowError, csv.Error):  # whatever a header may claim of the array
        return None
    sound = set(index.status) <= set(range(4)) and [s == BAD for s in index.status] == [r != "" for r in index.reason]
    return (index, array) if len(array) >= len(index) > 0 and sound else None


def open_array(
    path: Path,  # a store's folder
) -> np.memmap:  # uint8, images x size x size
    "The array, mapped for reading. Raises `OSError` or `ValueError` where it is missing or not one of a store."
    try:
        array = np.lib.format.open_memmap(path / "pixels.npy", "r")
    except OSError:
        raise
    except Exception as e:  # NumPy reads the header as Python's own source: there is hardly a kind it cannot raise
        raise ValueError(f"{path}: the array's header is damaged ({type(e).__name__})") from None
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[1] != array.shape[2] or not array.flags.c_contiguous:
        raise ValueError(f"{path}: {array.dtype} {array.shape} is no array of a store")
    return array


def write_index(
    path: Path,  # a store's folder
    index: Index,
):
    "Replace the index. What it calls decoded must be on disk by then."
    with replacing(path / "index.csv") as aside:
        _write_rows(aside, _COLUMNS, zip(index.path, index.state, index.status, index.reason, strict=True))


def write_skipped(
    path: Path,  # a store's folder
    index: Index,
):
    "Name the bad files in skipped.csv."
    with replacing(path / "skipped.csv") as aside:
        _write_rows(aside, ("path", "reason"), ((b["path"], b["reason"]) for b in index.bad()))


def _write_rows(file: Path, names: tuple, rows):
    # The module's own line ends, \r\n: with others it would not quote a \r inside a file's name.
    with open(file, "w", newline="", encoding="utf-8", errors="surrogateescape") as f:
        csv.writer(f).writerows([names, *rows])


def fit_array(
    path: Path,  # a store's folder, locked
    rows: int,  # images
    size: int,  # side of their square in pixels
    old: np.memmap | None,  # the array to keep, of the same size; None for a new one in place of whatever is there
):
    """Give the array room for at least so many images. A new array takes the old index away.

    Raises `InputError` before anything has changed where the disk has too little space.
    """
    if old is not None and len(old) >= rows:
        return
    file, header = path / "pixels.npy", _header(rows, size)
    whole = len(header) + rows * size * size
    grows = old is not None and old.offset == len(header)  # numpy's header leaves room for a larger number
    have = file.stat().st_size if grows else 0
    free = shutil.disk_usage(path).free
    if whole - have > free:
        raise _too_little(path, whole - have, f"{free / 1e9:.2f} GB are free")
    if grows:
        with open(file, "r+b") as f:
            _reserve(f, path, have, whole)
            # Beyond the end that readers know: what is there already stays as it is.
            f.write(header)
            f.flush()
            os.fsync(f.fileno())
        return
    with replacing(file) as aside:
        with open(aside, "wb") as f:
            f.write(header)
            f.flush()
            _reserve(f, path, len(header), whole)
            if old is not None:
                with open(file, "rb") as source:
                    source.seek(old.offset)
                    shutil.copyfileobj(source, f, 2**24)
        if old is None:
            # Without its index a store is none: no reader can pair the new array with the old rows.
            (path / "index.csv").unlink(missing_ok=True)


def _header(rows: int, size: int) -> bytes:
    "The first bytes of a .npy file of uint8, rows x size x size."
    f = io.BytesIO()
    kind = np.lib.format.dtype_to_descr(np.dtype(np.uint8))
    np.lib.format.write_array_header_1_0(f, {"descr": kind, "fortran_order": False, "shape": (rows, size, size)})
    return f.getvalue()


def _reserve(f, path: Path, have: int, whole: int):
    "Extend a file. Its space is set aside now, so that a full disk is met here and not when half is decoded."
    try:
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(f.fileno(), 0, whole)
            except OSError as e:
                if e.errno not in _NO_RESERVE:
                    raise
        if os.fstat(f.fileno()).st_size < whole:
            os.truncate(f.fileno(), whole)
        os.fsync(f.fileno())
    except OSError as e:
        os.truncate(f.fileno(), have)
        raise _too_little(path, whole - have, e.strerror) from None


def _too_little(path: Path, needed: int, why: str) -> InputError:
    remedy = "make room, or choose another folder (MURA_CACHE moves that of the cache)"
    return InputError(f"{path}: the decoded images need {needed / 1e9:.2f} GB ({why}); {remedy}")


class PixelFile:
    """The array, open for writing by several threads.

    Written to and not mapped: a disk that is full after all is then an error, and no signal that ends the process.
    """

    def __init__(
        self,
        path: Path,  # a store's folder, locked
    ):
        array = open_array(path)
        self.size, self.start, self.turn = array.shape[1], array.offset, threading.Lock()
        self.file = open(path / "pixels.npy", "r+b")  # noqa: SIM115

    def __enter__(self) -> "PixelFile":
        return self

    def __exit__(self, *_):
        self.file.close()

    def put(
        self,
        rows: list[int],  # n rows of the array
        pixels: list[np.ndarray],  # n images: uint8, size x size
    ):
        "Write images, those of neighbouring rows at once."
        ends = np.flatnonzero(np.diff(rows) != 1) + 1
        with self.turn:
            for first, end in zip([0, *ends], [*ends, len(rows)], strict=True):
                if first < end:
                    self.file.seek(self.start + rows[first] * self.size**2)
                    self.file.write(b"".join(pixels[first:end]))

    def flush(self):
        "Return when all that was put before is on disk."
        with self.turn:
            self.file.flush()
        os.fsync(self.file.fileno())
