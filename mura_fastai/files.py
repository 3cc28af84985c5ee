"""Files that are whole or not there: written aside, flushed, renamed."""

import errno
import hashlib
import os
import re
import secrets
import socket
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml

from mura_fastai.errors import InputError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no room: on the disk, for this user, in one file
_LARGEST, _MOST = 2**18, 10**5  # bytes of a file of settings, and values in it
_ASIDE = re.compile(r"\.(?P<stem>.*)\.(?P<host>[0-9a-f]{12})-(?P<pid>\d+)-[0-9a-f]{16}(?P<suffix>\.[^.]*)?", re.DOTALL)
_STALE = 7 * 24 * 3600.0  # seconds after which another machine's half-written file is taken for a dead process's
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


@contextmanager
def replacing(
    path: str | Path,  # the file to write or to replace
    size: int | None = None,  # bytes it will have, for who meets a full disk; what was written so far where not given
) -> Iterator[Path]:  # where to write it meanwhile, in the same folder
    """Write to the path that is given back; it takes the place of `path` when the block ends well, and goes if not.

    The file is there already, empty: nobody who may write in that folder can have laid a link under its name, which is
    drawn by lot. After the block the file and its name are on disk: a power cut leaves the old one or the new one.
    Raises `OSError` that names the file and the room it needs where the disk is full."""
    path = Path(path)
    _make_folder(path.parent)
    sweep(path.parent, path.name)
    aside, made = aside_of(path), False
    try:
        os.close(os.open(aside, _NEW, 0o666))
        made = True
        yield aside
        handle = os.open(aside, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(aside, path)
        flush_folder(path.parent)
    except OSError as e:
        if e.errno not in FULL:
            if str(e.filename) == str(aside):  # a name that nobody has heard of
                raise OSError(e.errno, e.strerror, str(path)) from None
            raise
        least = "" if size else "more than "
        size = size or (aside.stat().st_size if aside.exists() else 0)
        raise OSError(e.errno, f"{os.strerror(e.errno)}: it needs {least}{size / 1e6:.2f} MB", str(path)) from None
    finally:
        if made:
            aside.unlink(missing_ok=True)


def aside_of(
    path: str | Path,  # a file
    pid: int | None = None,  # of the process that writes it; this one where not given
) -> Path:  # in the same folder; another one each time
    "Under which name a process of this machine writes a file until it is whole: `.STEM.HOST-PID-RANDOM.SUFFIX`."
    path = Path(path)
    # The suffix stays, since some writers choose the format by it.
    own = f"{_host()}-{os.getpid() if pid is None else pid}-{secrets.token_hex(8)}"
    return path.with_name(f".{_short(path.stem)}.{own}{path.suffix}")


def refuse_closed(
    path: str | Path,  # a file that somebody named, and that will be written in the end
):
    """Raise `InputError` where it cannot be: said before the work and not after it.

    Its folder has to be there: one that is missing is a slip of the pen more often than a wish. Folders of runs, of
    figures and of stores are made; they are what somebody named."""
    path = Path(path).absolute()
    folder = next(f for f in path.parents if f.exists())
    if path.is_dir():
        why = "it is a folder; choose another place"
    elif not folder.is_dir():
        why = f"{folder} is no folder; choose another place"
    elif folder != path.parent:
        why = f"there is no folder {path.parent}; make it first, or correct its name"
    elif not os.access(folder, os.W_OK | os.X_OK):
        why = f"nothing can be written into {folder}; choose another place"
    else:
        return
    raise InputError(f"{path}: {why}")


def refuse_file(
    folder: str | Path,  # that will be made and written into
    remedy: str = "choose another folder",
):
    "Raise `InputError` where a file stands in its place, or in that of a folder above."
    for part in (Path(folder), *Path(folder).parents):
        if part.exists() and not part.is_dir():
            raise InputError(f"{part}: is a file, and no folder can be made there; {remedy}")


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
    alone: bool = False,  # nobody else of this machine can be writing now: a lock is held
    everywhere: bool = False,  # nor of another one: only who holds that lock ever writes there
):
    """Take away what processes that are no more left half written there, as `replacing` names it.

    Whether a process lives can be told of this machine's alone. What another one that shares the folder is writing
    stays, until nothing has been written to it for a week. What cannot be taken away stays too."""
    mine = None if name is None else (_short(Path(name).stem), Path(name).suffix)
    with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        for file in Path(folder).iterdir():
            found = _ASIDE.fullmatch(file.name)
            if found and mine in (None, (found["stem"], found["suffix"] or "")):
                with suppress(OSError):
                    _sweep_file(file, found.groupdict(), alone, everywhere)


def _sweep_file(file: Path, named: dict, alone: bool, everywhere: bool):
    "Remove a half-written file, or a link in its place, whose process is dead."
    told = file.lstat()
    if everywhere or named["host"] == _host():
        dead = alone or everywhere or not is_alive(int(named["pid"]))
    else:
        dead = time.time() - told.st_mtime > _STALE
    if dead and (stat.S_ISREG(told.st_mode) or stat.S_ISLNK(told.st_mode)):
        file.unlink(missing_ok=True)


def _host() -> str:
    "This machine, as names of files have it: any name of a host becomes twelve hexadecimal digits."
    try:  # containers may share a host's name, and number their processes each for itself
        numbered = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        numbered = ""
    told = f"{socket.gethostname()}\n{numbered}".encode("utf-8", "surrogateescape")
    return hashlib.blake2b(told, digest_size=6).hexdigest()


def _short(stem: str) -> str:
    "A file's name without its suffix, or what stands for one that leaves no room for more."
    told = os.fsencode(stem)
    return stem if len(told) <= 180 else hashlib.blake2b(told, digest_size=16).hexdigest()


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
        flush_folder(made.parent)


def flush_folder(
    folder: Path,  # in which a name was made, replaced or removed
):
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
    "Without merge keys: a few lines of them can stand for billions of values. Whatever it refuses has its line."

    def construct_object(self, node, deep=False):
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, TypeError, AttributeError):  # of Python, for 2024-13-45 or 0x_
            what = f"{str(node.value)[:40]!r} is no {node.tag.rpartition(':')[2][:40]}"
            raise yaml.constructor.ConstructorError(None, None, what, node.start_mark) from None

    def flatten_mapping(self, node):
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, "a merge key, <<", key.start_mark)
        super().flatten_mapping(node)


def read_yaml(
    path: str | Path,  # a file of plain YAML: numbers, text, lists, tables
) -> dict:
    "Read settings; nothing but plain values is made of them. Raises `InputError` for anything else."
    path, data = Path(path), b""
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"too large, {path.stat().st_size / 1e6:.1f} MB")
        data = path.read_bytes()
        got = yaml.load(data.decode("utf-8"), _Plain)
        if _count(got, {}) >= _MOST:
            raise ValueError("aliases that stand for too many values")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; bring it back") from None
    except OSError as e:
        raise InputError(f"{path}: cannot be read ({e.strerror or e}); mend that, and give the command again") from None
    except Exception as e:  # PyYAML lets through what Python says of brackets in heaps, and more
        line, why = _fault(e, data)
        raise InputError(
            f"{path}{line}: not plain YAML ({why}); correct it, or bring the file back as it was"
        ) from None
    if not isinstance(got, dict):
        raise InputError(f"{path}: not a table of settings, name: value; bring the file back as it was")
    return got


def _fault(e: Exception, data: bytes) -> tuple[str, str]:
    "Where a file is no plain YAML, and why, without what its reader says of itself."
    line, why = None, str(e)
    if isinstance(e, yaml.MarkedYAMLError):
        mark = e.problem_mark or e.context_mark
        line, why = mark and mark.line + 1, (e.problem or e.context or "broken off").removeprefix("but ")
        # What a tag would make of the value is not known here, and not wanted.
        why = re.sub(r"could not determine a constructor for the tag '(.*)'", r"the tag \1", why, flags=re.DOTALL)
        why = why.replace("tag:yaml.org,2002:", "!!")
    elif isinstance(e, yaml.reader.ReaderError):
        # counted in characters, after a byte-order mark
        before = data.decode("utf-8").removeprefix("\ufeff")[: e.position]
        line, why = before.count("\n") + 1, f"a character {e.character:#x}"
    elif isinstance(e, UnicodeDecodeError):
        line, why = data[: e.start].count(b"\n") + 1, "not UTF-8"
    elif isinstance(e, RecursionError):
        why = "brackets within brackets without end"
    return f", line {line}" if line else "", " ".join(why.split())[:120]


def _count(value: object, known: dict[int, int]) -> int:
    "Values in a value, those behind an alias each time; what holds itself has no end."
    if not isinstance(value, list | tuple | dict | set):
        return 1
    if id(value) not in known:
        known[id(value)] = _MOST  # until it is counted
        inside = [*value, *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count(v, known) for v in inside)
    return known[id(value)]
