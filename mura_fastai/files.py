"""Files that are whole or not there: written aside, flushed, renamed."""

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml

from mura_fastai.errors import InputError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no room: on the disk, for this user, in one file
_ASIDE = re.compile(r"\..*\.(\d+)(\.\w+)?")


@contextmanager
def replacing(
    path: str | Path,  # the file to write or to replace
    size: int | None = None,  # bytes it will have, for who meets a full disk; what was written so far where not given
) -> Iterator[Path]:  # where to write it meanwhile, in the same folder
    """Write to the path that is given back; it takes the place of `path` when the block ends well, and goes if not.

    After the block the file and its name are on disk: a power cut leaves the old one or the new one. Raises `OSError`
    that names the file and the room it needs where the disk is full."""
    path = Path(path)
    _make_folder(path.parent)
    # The suffix stays, since some writers choose the format by it.
    aside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield aside
        with open(aside, "rb+") as f:
            os.fsync(f.fileno())
        os.replace(aside, path)
        _flush_folder(path.parent)
    except OSError as e:
        if e.errno not in FULL:
            raise
        least = "" if size else "more than "
        size = size or (aside.stat().st_size if aside.exists() else 0)
        raise OSError(e.errno, f"{os.strerror(e.errno)}: it needs {least}{size / 1e6:.2f} MB", str(path)) from None
    finally:
        aside.unlink(missing_ok=True)


def write_bytes(
    path: str | Path,  # the file to write or to replace
    data: bytes,
):
    "Write bytes, whole or not at all."
    with replacing(path, len(data)) as aside:
        aside.write_bytes(data)


def write_text(
    path: str | Path,  # the file to write or to replace
    text: str,
):
    "Write UTF-8 text, whole or not at all."
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


def sweep(
    folder: str | Path,  # any
):
    "Take away what processes that are no more left half written there (`.name.PID.suffix`, as `replacing` names it)."
    with suppress(FileNotFoundError, NotADirectoryError):
        for file in Path(folder).iterdir():
            found = _ASIDE.fullmatch(file.name)
            if found and not is_alive(int(found[1])) and file.is_file():
                file.unlink(missing_ok=True)


def is_alive(
    pid: int,  # a process of this machine
) -> bool:  # True too where it cannot be told
    "Whether a process with this number is there."
    if sys.platform == "win32":  # there the question itself would end the process
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        pass
    return True


def _make_folder(folder: Path):
    "Make a folder and those above it; their names are on disk when it returns."
    missing = [f for f in (folder, *folder.parents) if not f.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        _flush_folder(made.parent)


def _flush_folder(folder: Path):
    "Names live in the folder: until it is flushed, a power cut can bring the former one back."
    if sys.platform == "win32":  # a folder cannot be opened there
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # it may be written and not read
        return
    try:
        os.fsync(handle)
    except OSError as e:
        if e.errno != errno.EINVAL:  # a file system that has no such thing
            raise
    finally:
        os.close(handle)


def read_yaml(
    path: str | Path,  # a file of plain YAML: numbers, text, lists, tables
) -> dict:
    "Read settings; nothing but plain values is made of them. Raises `InputError` for anything else."
    try:
        got = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (UnicodeDecodeError, yaml.YAMLError, OSError) as e:
        raise InputError(f"{path}: not plain YAML ({' '.join(str(e).split())[:120]})") from None
    if not isinstance(got, dict):
        raise InputError(f"{path}: not a table of settings")
    return got
