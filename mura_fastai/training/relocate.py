"""Where the data of a run lies now: unpacked anew under another path, or on a colleague's machine."""

import os
import sys
from contextlib import ExitStack
from pathlib import Path, PurePath
from typing import NamedTuple

import pandas as pd
import yaml

from mura_fastai.confined import data_folder, refuse_outside, told_folder
from mura_fastai.data.fingerprints import cache_folder
from mura_fastai.data.store import whole_store
from mura_fastai.errors import InputError
from mura_fastai.files import replacing, write_text
from mura_fastai.text import one_of
from mura_fastai.training.alone import alone
from mura_fastai.training.beside import KEPT, placing
from mura_fastai.training.plans import FILE, is_repeats, read_repeats
from mura_fastai.training.runs import read_settings

_IMAGES, _SKIPPED, _COPY = "images.csv", "skipped.csv", "same pixels as "  # the last: of a reason that names a file


class Move(NamedTuple):
    "Of one run, or of the plan of several: where its data lay and lies, and what tells so."

    file: Path  # its settings, or the plan
    told: dict  # what that will hold
    tables: tuple  # names of those beside it that hold paths
    old: PurePath  # the folder that the data lay in, perhaps on another system
    new: Path  # the one that it lies in


def relocate_run(
    run: str | Path,  # a run's folder, or one that holds the runs of several folds or seeds
    data: str | Path,  # where its data lies now: the folder, or the CSV
) -> Path:  # the folder of its images from now on
    """Say where the data of a run lies now, so that it can go on, predict, and show pictures of it.

    The paths in its tables are written anew, from the folder that its settings name to the given one; all else stays:
    weights, state, probabilities, decision, scores. Settings come last: until then no picture of the new place is
    shown, and the same call completes what was interrupted.
    Raises `InputError`, with nothing changed: where an image is not there, or leads elsewhere by a link; for a table
    that names files outside of the old place; while another process trains the run."""
    run, data = Path(run), Path(data).expanduser().absolute()
    data = Path(os.path.realpath(data)) if ".." in data.parts else data
    several = is_repeats(run)
    (read_repeats if several else read_settings)(run)  # before a lock is put into what is no run
    runs = sorted(file.parent for file in run.glob("*/settings.yaml")) if several else [run]
    with ExitStack() as locks:
        for folder in dict.fromkeys((run, *runs)):
            locks.enter_context(alone(folder))
        tables = (_IMAGES, _SKIPPED, *KEPT.values())
        moves = [_move(one / "settings.yaml", read_settings(one), data, tables) for one in runs]
        above = [_move(run / FILE, read_repeats(run)[0], data, (KEPT["valid"],), moves)] if several else []
        there = {move.file: _check(move) for move in (*moves, *above)}
        images = [path for move in moves for path in there[move.file]]
        _refuse_missing(run, (moves or above)[0], images)
        # A plan need not name its data: its table goes first, while its runs still know the old place.
        for move in above:
            _rewrite(move)
        for move in moves:
            with placing(move.file.parent):
                _rewrite(move)
                _write(move, there[move.file])
        for move in above:
            _write(move, images)
    return (moves or above)[0].new


def _move(file: Path, told: dict, data: Path, tables: tuple, runs: list[Move] = ()) -> Move:
    "What is to be done for one file of settings. `runs`: those of a plan, which may know the old place alone."
    there = told.get("data") or {}
    old = told_folder(there) or (runs[0].old if runs else None)
    if old is None:
        raise InputError(f"{file}: does not say where the data lay; put that folder into it, as data.path")
    is_csv = bool(there.get("path")) and there.get("source") == "csv"
    path = data / type(old)(there["path"]).name if is_csv and data.is_dir() else data
    if not (path.is_file() if is_csv else path.is_dir()):
        raise InputError(f"{path}: no such {'file; give the CSV' if is_csv else 'folder; give the folder'} of the data")
    now = there | ({"path": str(path)} if there.get("path") else {})
    if is_csv and len(there.get("tables") or ()) == 1:  # the CSV may be called otherwise now
        now["tables"] = dict(zip([path.name], there["tables"].values(), strict=True))
    if data_folder({"path": str(path), "source": there.get("source")}) is None:
        raise InputError(f"{path}: the data lies in {os.sep} itself; put it into a folder of its own")
    return Move(file, told | {"data": now}, tables, old, path.parent if is_csv else path)


def _moved(path: str, move: Move) -> str | None:
    "Where a file lies now; None for one that was not below the old place."
    # Where one place holds the other, the inner one is meant. What begins with the new one was written before.
    for root in sorted((move.old, move.new), key=lambda root: -len(root.parts)):
        try:
            parts = type(root)(path).relative_to(root).parts
        except ValueError:
            continue
        return os.path.join(move.new, *parts) if parts and ".." not in parts else None
    return None


def _read(file: Path) -> pd.DataFrame | None:
    "A table as text, so that nothing but paths becomes another; None where there is none, or none with paths."
    if not file.exists():
        return None
    try:
        table = pd.read_csv(file, dtype="str", keep_default_na=False, encoding_errors="surrogateescape")
    except (OSError, ValueError) as e:
        why = " ".join(str(e).split())[:120]
        raise InputError(f"{file}: not a table of a run ({why}); bring it back as it was") from None
    return table if "path" in table else None


def _check(move: Move) -> list[str]:  # where the images of its table lie now
    "Raise `InputError` for a table with a path that was not below the old place, or leads out of the new one."
    found = []
    for file in (move.file.parent / name for name in move.tables if name != _SKIPPED):  # whose files nobody opens
        table = _read(file)
        paths = [] if table is None else [_moved(path, move) for path in table.path]
        if None in paths:
            wrong = table.path[paths.index(None)]
            raise InputError(
                f"{file}: {wrong!r} is not below {move.old}, where the run's data lay; correct the table, or, where "
                "mura relocate was interrupted, give it that folder once more"
            )
        refuse_outside(paths, {"path": str(move.new)}, file)
        found = paths if file.name == _IMAGES else found
    return found


def _refuse_missing(run: Path, move: Move, images: list[str]):
    "Raise `InputError` where images are not in the new place."
    images = list(dict.fromkeys(images))
    if missing := [path for path in images if not os.path.isfile(path)]:
        deeper = move.new / move.old.name
        inside = (deeper / os.path.relpath(missing[0], move.new)).is_file()
        remedy = f"give {deeper}" if inside else f"give the folder that stands for {move.old}"
        n = f"{len(missing):,} of {one_of(len(images), 'image')}"
        raise InputError(f"{move.new}: {n} of {run} missing there, such as {missing[0]}; {remedy}")


def _rewrite(move: Move):
    "Its tables with the paths of now, each whole or as it was."
    for file in (move.file.parent / name for name in move.tables):
        if (table := _read(file)) is None:
            continue
        now = table.assign(path=[_moved(path, move) or path for path in table.path])
        if file.name == _SKIPPED and "reason" in now:
            now["reason"] = [_reason(reason, move) for reason in now.reason]
        if not now.equals(table):
            with replacing(file) as aside:
                now.to_csv(aside, index=False, errors="surrogateescape")


def _reason(reason: str, move: Move) -> str:
    "Why a file was left out, where that names another file."
    other = reason.removeprefix(_COPY)
    return reason if other == reason else f"{_COPY}{_moved(other, move) or other}"


def _write(move: Move, images: list[str]):
    "Its settings, the last of its files. A store that does not know these files is of no more use."
    told = move.told
    settings = (told.get("settings") or {}) if move.file.name == FILE else told
    store = settings.get("store")
    if isinstance(store, str) and images and whole_store(store, images, settings.get("size", 0)) is None:
        if not Path(store).is_relative_to(cache_folder()):  # one of those is as good as another
            print(f"{store}: holds other files than those in {move.new}; the cache's is used instead", file=sys.stderr)
        settings = settings | {"store": True}
        told = told | {"settings": settings} if move.file.name == FILE else settings
    write_text(move.file, yaml.safe_dump(told, sort_keys=False, allow_unicode=True))
