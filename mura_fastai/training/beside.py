"""What lies beside the best weights of a run is of these weights, whoever trains, whoever predicts, whoever is killed.

A training puts better weights there for hours, while another process reads those of now, predicts with them for minutes
and comes to keep what it made. So both put things in place under one lock, held for that moment alone: a training takes
away what was made before it replaces the weights, and what was made is kept only where its weights are still there.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from mura_fastai.files import _flush_folder

LOCK = ".keeping"
# What a run keeps of its own rows: those that are reported, and those that are chosen on.
KEPT = {"valid": "predictions.csv", "tune": "predictions-tune.csv"}
# What was made with the weights, and is nothing without them.
OF_WEIGHTS = (*KEPT.values(), "decision.yaml", "metrics.json")


def best_file(
    run: str | Path,  # a run's folder
) -> Path:
    "Where a run keeps the weights of its best epoch."
    return Path(run) / "weights" / "best.safetensors"


def weights_mark(
    run: str | Path,  # a run's folder
) -> tuple[int, ...] | None:  # None where there are none
    "Which best weights a run has: others come as another file, so none needs to be read through for this."
    try:
        with open(best_file(run), "rb") as f:  # opened, since a shared folder may tell of a closed file what was
            told = os.fstat(f.fileno())
    except FileNotFoundError:
        return None
    return told.st_ino, told.st_mtime_ns, told.st_size


@contextmanager
def placing(
    run: str | Path,  # a run's folder
) -> Iterator[None]:
    "No other process changes the best weights meanwhile, nor what is made with them. To be held for moments."
    lock = filelock.FileLock(Path(run) / LOCK)
    try:
        lock.acquire()
    except OSError as e:
        # Another user's folder, or one on a disc that cannot be written: what is to be written says so itself.
        if e.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
    try:
        yield
    finally:
        lock.release()


def drop_made(
    run: str | Path,  # a run's folder, by who is `placing`
):
    "Take away what was made with the weights that are there, before others come; no power cut brings it back."
    made = [file for name in OF_WEIGHTS if (file := Path(run) / name).exists()]
    for file in made:
        file.unlink(missing_ok=True)
    if made:
        _flush_folder(Path(run))
