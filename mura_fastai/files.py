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
_LARGEST, _MOST = 2**18, 10**5  # bytes of a file of settings, and values in it
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
    sweep(path.parent, path.name)
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
            if e.filename == str(aside):  # a name that nobody has heard of
                raise OSError(e.errno, e.strerror, str(path)) from None
            raise
        least = "" if size else "more than "
        size = size or (aside.stat().st_size if aside.exists() else 0)
        raise OSError(e.errno, f"{os.strerror(e.errno)}: it needs {least}{size / 1e6:.2f} MB", str(path)) from None
    finally:
        aside.unlink(missing_ok=True)


def refuse_closed(
    path: str | Path,  # a file that will be written, in the end
):
    "Raise `InputError` where it cannot be: said before the work and not after it."
    path = Path(path).absolute()
    folder = next(f for f in path.parents if f.exists())
    why = "it is a folder" if path.is_dir() else f"{folder} is no folder" if not folder.is_dir() else None
    if why is None and not os.access(folder, os.W_OK | os.X_OK):
        why = f"nothing can be written into {folder}"
    if why:
        raise InputError(f"{path}: {why}; choose another place")


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
    name: str | None = None,  # of one file there; all where not given
):
    "Take away what processes that are no more left half written there (`.name.PID.suffix`, as `replacing` names it)."
    mine = None if name is None else Path(name)
    with suppress(FileNotFoundError, NotADirectoryError):
        for file in Path(folder).iterdir():
            found = _ASIDE.fullmatch(file.name)
            if found and mine is not None and file.name != f".{mine.stem}.{found[1]}{mine.suffix}":
                continue
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


class _Plain(yaml.SafeLoader):
    "Without merge keys: a few lines of them can stand for billions of values."

    def flatten_mapping(self, node):
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.YAMLError("a merge key, <<")
        super().flatten_mapping(node)


def read_yaml(
    path: str | Path,  # a file of plain YAML: numbers, text, lists, tables
) -> dict:
    "Read settings; nothing but plain values is made of them. Raises `InputError` for anything else."
    path = Path(path)
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"{path.stat().st_size / 1e6:.1f} MB")
        got = yaml.load(path.read_text(encoding="utf-8"), _Plain)
        if _count(got, {}) >= _MOST:
            raise ValueError("aliases that stand for too many values")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except Exception as e:  # PyYAML lets through what Python says of a day 2024-13-45, a number 0x_, brackets in heaps
        raise InputError(f"{path}: not plain YAML ({' '.join(str(e).split())[:120]})") from None
    if not isinstance(got, dict):
        raise InputError(f"{path}: not a table of settings")
    return got


def _count(value: object, known: dict[int, int]) -> int:
    "Values in a value, those behind an alias each time; what holds itself has no end."
    if not isinstance(value, list | tuple | dict | set):
        return 1
    if id(value) not in known:
        known[id(value)] = _MOST  # until it is counted
        inside = [*value, *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count(v, known) for v in inside)
    return known[id(value)]
