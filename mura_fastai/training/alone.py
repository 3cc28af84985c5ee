"""One training a folder: a lock that its owner's death opens."""

import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

try:  # what filelock itself holds
    import fcntl
except ImportError:  # Windows
    fcntl = None

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
    lock = filelock.FileLock(folder / LOCK, timeout=0.2)  # who only asks, as `trained_by`, holds it for a moment
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout:
        raise InputError(f"{folder}: {_name_owner(folder)} is training there; wait for it to end") from None
    except OSError as e:
        if e.errno in FULL:
            raise
        raise InputError(f"{folder}: cannot be written ({e.strerror or e}); choose another folder (--out)") from None
    try:
        sweep(folder)  # others write there as well, without this lock
        for part in (folder / "weights", folder / "weights" / "last"):
            sweep(part, everywhere=True)
        owner = dict(pid=os.getpid(), host=socket.gethostname(), since=time.strftime("%Y-%m-%d %H:%M:%S"))
        write_text(folder / OWNER, json.dumps(owner))
        yield folder
    finally:
        with suppress(OSError):
            (folder / OWNER).unlink(missing_ok=True)
        lock.release()


def trained_by(
    folder: str | Path,  # of a run
) -> str | None:  # None where nobody does
    """Which other process trains there, in words. Nothing is written.

    The lock itself is asked: what its owner wrote of itself outlives it, and goes with a copied folder. Only where
    the lock cannot be asked (a share that knows none, another user's folder) is that believed."""
    folder = Path(folder)
    held, owner = _is_held(folder / LOCK), _read_owner(folder)
    here = owner is not None and owner["host"] == socket.gethostname()
    if held is False or (here and owner["pid"] == os.getpid()):
        return None
    if held:
        return _name_owner(folder)
    if owner is None or (here and not is_alive(owner["pid"])):
        return None
    return _named(owner, "; if that is no more: mura resume")


def refuse_busy(
    folder: str | Path,  # that holds a run already, for a new one
):
    "Raise `InputError` that names the process that trains there just now, as `trained_by`."
    if who := trained_by(folder):
        remedy = "wait for it to end, or choose another folder (--out)"
        raise InputError(f"{folder}: holds a run already, and {who} is training it; {remedy}")


def _is_held(file: Path) -> bool | None:
    "Whether somebody holds a lock; None where that cannot be told."
    if fcntl is None:
        return _is_held_elsewhere(file)
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two that ask are not in each other's way
    except OSError as e:
        return True if e.errno in (errno.EACCES, errno.EAGAIN) else None
    finally:
        os.close(handle)
    return False


def _is_held_elsewhere(file: Path) -> bool | None:
    "As `_is_held`, on Windows."
    if not file.exists():
        return False
    try:
        with filelock.FileLock(file, timeout=0):
            return False
    except filelock.Timeout:
        return True
    except OSError:
        return None


def _name_owner(folder: Path) -> str:
    "Who holds the lock, in words."
    owner = _read_owner(folder)
    return _named(owner) if owner else "another process"  # it has only just begun


def _named(owner: dict, more: str = "") -> str:
    return f"another process ({owner['pid']} on {owner['host']}, since {owner['since']}{more})"


def _read_owner(folder: str | Path) -> dict | None:
    try:
        owner = json.loads((Path(folder) / OWNER).read_text(encoding="utf-8"))
        return {"pid": int(owner["pid"]), "host": str(owner["host"]), "since": str(owner["since"])}
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
