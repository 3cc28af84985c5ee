"""What settings.yaml and repeats.yaml may hold: names, kinds and ranges, before anything is made of a value."""

import math
import re
from collections.abc import Callable
from pathlib import Path

from mura_fastai.errors import InputError

NO_LIMIT = math.inf


def _whole(lo: float = 0, hi: float = NO_LIMIT) -> tuple:
    to = f"from {lo} to {hi}" if hi < NO_LIMIT else f"from {lo} on"
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and lo <= v <= hi, f"a whole number {to}"


def _number(lo: float, hi: float) -> tuple:
    return lambda v: isinstance(v, int | float) and not isinstance(v, bool) and lo <= v <= hi, f"from {lo} to {hi}"


def _table(of: tuple) -> tuple:
    inside, what = of
    return lambda v: isinstance(v, dict) and all(isinstance(k, str) and inside(o) for k, o in v.items()), (
        f"a table of which each value is {what}"
    )


def _list(of: tuple) -> tuple:
    inside, what = of
    return lambda v: isinstance(v, list) and len(v) > 0 and all(map(inside, v)), f"a list of which each is {what}"


def _or(*kinds: tuple) -> tuple:
    return lambda v: any(fits(v) for fits, _ in kinds), " or ".join(what for _, what in kinds)


_NONE = (lambda v: v is None), "null"
_TEXT = (lambda v: isinstance(v, str)), "text"
_BOOL = (lambda v: isinstance(v, bool)), "true or false"
_SOURCE = (lambda v: v in ("mura", "fracatlas", "folder", "csv")), "mura, fracatlas, folder or csv"
# No name of a network holds a slash or a colon: timm would take such ones for folders and addresses to load from.
_NET = (lambda v: isinstance(v, str) and re.fullmatch(r"\w[\w.\-]*", v) is not None), "the name of a network"

# of settings.yaml, and of the table `data` in it and in repeats.yaml: name -> (test, what it must be)
SETTINGS: dict[str, tuple[Callable, str]] = {
    "format": _whole(1), "recipe": _or(_NONE, _TEXT), "arch": _NET, "size": _whole(1, 8192), "epochs": _whole(1),
    "freeze_epochs": _whole(), "bs": _whole(1, 10**6), "lr": _number(0, 1e6), "seed": _whole(),
    "layer_decay": _or(_NONE, _number(0, 1)), "schedule": _TEXT, "optimizer": _TEXT,
    "augment": _table(_or(_number(-1e6, 1e6), _BOOL)), "until": _or(_NONE, _TEXT), "pool": _or(_NONE, _TEXT),
    "dropout": _or(_NONE, _number(0, 1)), "region_aware": _BOOL, "views": _or(_NONE, _TEXT), "pretrained": _BOOL,
    "weights": _or(_NONE, _TEXT), "allow_missing": _BOOL, "precision": _TEXT, "compile": _BOOL,
    "store": _or(_BOOL, _TEXT), "num_workers": _or(_NONE, _whole(1)), "max_bad": _number(0, 1),
    "save_every": _or(_NONE, _whole(1)),
    "versions": _table(_or(_TEXT, _NONE)), "commit": _or(_NONE, _TEXT), "device": _TEXT,
}  # fmt: skip
DATA: dict[str, tuple[Callable, str]] = {
    "path": _or(_NONE, _TEXT), "source": _or(_NONE, _SOURCE), "split_seed": _whole(), "phantom": _BOOL,
    "regions": _or(_TEXT, _list(_TEXT)),  # as it was asked for, until the data has been read
    "allow_leaks": _BOOL, "images": _table(_whole()), "fingerprint": _TEXT, "folds": _whole(2), "fold": _whole(),
}  # fmt: skip
REPEATS: dict[str, tuple[Callable, str]] = {
    "format": _whole(1), "folds": _or(_NONE, _whole(2, 1000)), "seeds": _list(_whole()),
    "versions": _table(_or(_TEXT, _NONE)), "commit": _or(_NONE, _TEXT),
    "settings": ((lambda v: isinstance(v, dict)), "a table"),
}  # fmt: skip


def check_values(
    told: dict,  # as read from the file
    rules: dict[str, tuple[Callable, str]],  # SETTINGS or REPEATS
    needed: tuple[str, ...],  # names that must be there
    newest: int,  # format that this version knows
    file: str | Path,  # for the message
):
    """Raise `InputError` for the first value that is missing or cannot be; for a format of a newer version first.

    What the rules do not name is let through: a later version may write more, and nothing here reads it."""
    if SETTINGS["format"][0](told.get("format")) and told["format"] > newest:
        raise InputError(f"{file}: written by a newer version (format {told['format']}); upgrade mura_fastai")
    for name, (fits, what) in rules.items():
        if name in told or name in needed:
            _refuse(file, name, told.get(name), fits, what)
    data = told.get("data")
    if data is None:
        return
    _refuse(file, "data", data, lambda v: isinstance(v, dict), "a table")
    for name, (fits, what) in DATA.items():
        if name in data:
            _refuse(file, f"data.{name}", data[name], fits, what)


def _refuse(file, name: str, value, fits: Callable, what: str):
    if not fits(value):
        shown = "missing" if value is None else f"{str(value)[:60]!r}"
        raise InputError(f"{file}: {name} is {shown}, and must be {what}; correct it, or bring the file back as it was")
