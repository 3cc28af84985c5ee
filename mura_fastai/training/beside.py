"""What lies beside the best weights of a run is of these weights, whoever trains, whoever predicts, whoever is killed.

A training puts better weights there for hours, while another process reads those of now, predicts with them for minutes
and comes to keep what it made. So both put things in place under one lock, held for that moment alone: a training takes
away what was made before it replaces the weights, and what was made is kept only where its weights are still there.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from mura_fastai.errors import InputError
from mura_fastai.files import flush_folder

LOCK = ".keeping"
# Another user's folder, or one on a disc that cannot be written: what is to be written says so itself. Then shares that
# know no locks.
LOCKLESS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
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
    """Which best weights a run has: others come as another file, so none needs to be read through for this.

    Raises `InputError` for what is no file, and for what may not be read."""
    file = best_file(run)
    try:
        # Opened, since a shared folder may tell of a closed file what was; and a pipe is not waited for.
        handle = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except FileNotFoundError:
        return None
    except OSError as e:
        raise InputError(f"{file}: cannot be read ({e.strerror or e}); bring the weights back as they were") from None
    try:
        info = os.fstat(handle)
    finally:
        os.close(handle)
    if not stat.S_ISREG(info.st_mode):
        raise InputError(f"{file}: no regular file; bring the weights back as they were")
    return info.st_ino, info.st_mtime_ns, info.st_size


@contextmanager
def placing(
    run: str | Path,  # a run's folder
) -> Iterator[None]:
    "No other process changes the best weights meanwhile, nor what is made with them. To be held for moments."
    lock = filelock.FileLock(Path(run) / LOCK)
    try:
        lock.acquire()
    except OSError as e:
        if e.errno in (errno.EISDIR, errno.ELOOP):
            raise InputError(f"{Path(run) / LOCK}: a folder or a link in the place of a lock; remove it") from None
        if e.errno not in LOCKLESS:
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
        flush_folder(Path(run))
