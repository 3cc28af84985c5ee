"""One training a folder: a lock that its owner's death opens."""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from mura_fastai.errors import InputError
from mura_fastai.files import FULL, is_alive, refuse_file, sweep, write_text

LOCK, OWNER = ".lock", ".lock-owner.json"


@contextmanager
def alone(
    folder: str | Path,  # of a run, or of the runs of folds and seeds; made where it is missing
) -> Iterator[Path]:  # the folder
    """No other process trains in this folder meanwhile; what dead ones left half written in it is swept.

    The system itself opens the lock of a process that ends, however it ends. Raises `InputError` that names the process
    that holds it, and for a folder that cannot be written."""
    folder = Path(folder)
    refuse_file(folder, "choose another folder (--out)")
    lock = filelock.FileLock(folder / LOCK, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout:
        raise InputError(f"{folder}: {_owner(folder)} is training there; wait for it to end") from None
    except OSError as e:
        if e.errno in FULL:
            raise
        raise InputError(f"{folder}: cannot be written ({e.strerror or e}); choose another folder (--out)") from None
    try:
        for part in (folder, folder / "weights", folder / "weights" / "last"):
            sweep(part)
        told = dict(pid=os.getpid(), host=socket.gethostname(), since=time.strftime("%Y-%m-%d %H:%M:%S"))
        write_text(folder / OWNER, json.dumps(told))
        yield folder
    finally:
        with suppress(OSError):
            (folder / OWNER).unlink(missing_ok=True)
        lock.release()


def trained_by(
    folder: str | Path,  # of a run
) -> str | None:  # None where nobody does
    "Which other process trains there, in words. By what it left there: for what is said, and not for what is safe."
    told = _told(folder)
    if not told or (told["host"] == socket.gethostname() and (told["pid"] == os.getpid() or not is_alive(told["pid"]))):
        return None
    return _named(told)


def refuse_busy(
    folder: str | Path,  # that holds a run already, for a new one
):
    "Raise `InputError` that names the process that trains there just now. Nothing is written."
    folder = Path(folder)
    if not (folder / LOCK).exists():
        return
    lock = filelock.FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        remedy = "wait for it to end, or choose another folder (--out)"
        raise InputError(f"{folder}: holds a run already, and {_owner(folder)} is training it; {remedy}") from None
    except OSError:  # the lock is not ours to open, so nobody can tell
        return
    lock.release()


def _owner(folder: Path) -> str:
    "Who holds the lock, in words."
    told = _told(folder)
    return _named(told) if told else "another process"  # it has only just begun


def _named(told: dict) -> str:
    return f"another process ({told['pid']} on {told['host']}, since {told['since']})"


def _told(folder: str | Path) -> dict | None:
    try:
        told = json.loads((Path(folder) / OWNER).read_text(encoding="utf-8"))
        return {"pid": int(told["pid"]), "host": str(told["host"]), "since": str(told["since"])}
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
