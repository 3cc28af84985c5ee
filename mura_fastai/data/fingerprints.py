"""What inspecting a file found, kept in the user's cache folder, so that only changed files are decoded again."""

import hashlib
import os
import sys
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL

from ..files import replacing

RULES = 1  # raise it when `pixels` judges files or makes thumbnails differently: what was kept is then forgotten
_TEXT = ("reason", "mode", "pixel_hash")
_COUNT = ("width", "height")


def cache_folder() -> Path:  # not made yet
    "The user's cache folder for this package; the variable `MURA_CACHE` moves it."
    if os.environ.get("MURA_CACHE"):
        return Path(os.environ["MURA_CACHE"]).expanduser().absolute()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "mura_fastai"


def file_state(path: str) -> bytes:
    "16 bytes for this state of the file; empty where there is none, so that it is never kept."
    try:
        info = os.stat(path)
    except (OSError, ValueError):
        return b""
    state = f"\0{info.st_size}\0{info.st_mtime_ns}\0{RULES}\0{PIL.__version__}"
    name = os.path.abspath(path).encode("utf-8", "surrogateescape")
    return hashlib.blake2b(name + state.encode(), digest_size=16).digest()


def file_stamps(
    paths: Iterable[str],  # files
) -> np.ndarray:  # int64, a number for each: 0 where there is none
    "Size and time of each file in one number: another number, another state of the file."

    def stamp(path: str) -> int:
        try:
            info = os.stat(path)
        except (OSError, ValueError):
            return 0
        state = hashlib.blake2b(f"{info.st_size}\0{info.st_mtime_ns}".encode(), digest_size=8).digest()
        return int.from_bytes(state, "big") >> 1 or 1

    return np.array([stamp(p) for p in paths], np.int64)


def _file(paths: list[str], look: bool) -> Path:
    "One file for all that lies in one folder, so that a set does not carry the rows of the others."
    try:
        root = os.path.commonpath([os.path.dirname(os.path.abspath(p)) for p in paths])
    except ValueError:  # two drives on Windows
        root = ""
    name = hashlib.blake2b(root.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
    return cache_folder() / "fingerprints" / f"{name}{'-look' if look else ''}.npz"


def _load(file: Path, look: bool) -> dict[bytes, dict]:
    "What the file holds; nothing where it is missing, cut off or not ours."
    try:
        with np.load(file, allow_pickle=False) as z:
            columns = {c: z[c].tolist() for c in (*_TEXT, *_COUNT)}
            keys = [k.tobytes() for k in z["key"]]
            columns["look"] = [x.tobytes() for x in z["look"]] if look else [b""] * len(keys)
            rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
            for row in rows:  # a bad file has no thumbnail; the array holds zeros in its place
                row["look"] = b"" if row["reason"] else row["look"]
            # Earlier versions took a want of memory for a damaged file, and would leave it out for good.
            kept = zip(keys, rows, strict=True)
            return {key: row for key, row in kept if not row["reason"].startswith("damaged (MemoryError")}
    except Exception:  # zipfile, zlib and numpy raise many types for a damaged archive; decoding again is always right
        return {}


def _save(file: Path, rows: dict[bytes, dict], look: bool):
    "Write beside, then replace: a reader sees the old file or the new one. A read-only folder is no fault."
    arrays = {c: np.array([r[c] for r in rows.values()], dtype=np.str_) for c in _TEXT}
    arrays |= {c: np.array([r[c] for r in rows.values()], dtype=np.int32) for c in _COUNT}
    arrays["key"] = np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), 16)
    if look:
        side = max(len(r["look"]) for r in rows.values())
        pixels = b"".join(r["look"].ljust(side, b"\0") for r in rows.values())
        arrays["look"] = np.frombuffer(pixels, np.uint8).reshape(len(rows), side)
    try:
        with replacing(file) as aside, open(aside, "wb") as f:
            np.savez(f, **arrays)
    except OSError:
        pass


@contextmanager
def opened(
    paths: list[str],  # the files in question
    look: bool,  # with thumbnails
    enabled: bool = True,  # False neither reads nor writes the cache
):  # an object whose `rows` holds a dict or None for each path; fill in the missing ones
    "The known rows of `paths`; the ones that are filled in inside the block are kept, also when it ends early."
    if not enabled or not paths:
        yield SimpleNamespace(rows=[None] * len(paths))
        return
    file = _file(paths, look)
    old, keys = _load(file, look), [file_state(p) for p in paths]
    known = SimpleNamespace(rows=[old.get(k) for k in keys])
    missing = sum(r is None for r in known.rows)
    try:
        yield known
    finally:
        now = {k: r for k, r in zip(keys, known.rows, strict=True) if k and r is not None}
        if now and missing > sum(r is None for r in known.rows):
            # Rows of other subsets stay, up to as many again: changed files would otherwise pile up for ever.
            spare = [k for k in old if k not in now][: len(now) + 1000]
            _save(file, {k: old[k] for k in spare} | now, look)
