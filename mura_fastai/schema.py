"""What settings.yaml, repeats.yaml and a state may hold: names, kinds, ranges, before anything is made of a value."""

import math
import re
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path

import mura_fastai
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


def _list(of: tuple, least: int = 1, most: float = NO_LIMIT) -> tuple:
    inside, what = of
    return lambda v: isinstance(v, list) and least <= len(v) <= most and all(map(inside, v)), (
        f"a list of which each is {what}"
    )


def _row(*kinds: tuple) -> tuple:
    "A list of so many values, each of its own kind."
    return (
        lambda v: isinstance(v, list) and len(v) == len(kinds) and all(k[0](o) for k, o in zip(kinds, v, strict=True)),
        (f"a list of {', '.join(what for _, what in kinds)}"),
    )


def _names(**kinds: tuple) -> tuple:
    "A table that holds these names at least, each of its own kind."
    return lambda v: isinstance(v, dict) and all(k in v and fits(v[k]) for k, (fits, _) in kinds.items()), (
        f"a table of {', '.join(f'{k} ({what})' for k, (_, what) in kinds.items())}"
    )


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
    "layer_decay": _or(_NONE, _number(0, 1)), "weight_decay": _or(_NONE, _number(0, 1)),
    "schedule": _TEXT, "optimizer": _TEXT,
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
    "tables": _table(_TEXT), "table": _TEXT,
}  # fmt: skip
_UNRULED = ("data", "plateau")  # names in these files that have rules of their own, or need none
REPEATS: dict[str, tuple[Callable, str]] = {
    "format": _whole(1), "folds": _or(_NONE, _whole(2, 1000)), "seeds": _list(_whole()),
    "versions": _table(_or(_TEXT, _NONE)), "commit": _or(_NONE, _TEXT),
    "settings": (
        (lambda v: isinstance(v, dict) and SETTINGS["store"][0](v.get("store", True))),
        f"a table, in which store is {SETTINGS['store'][1]}",
    ),
}  # fmt: skip
DEMO: dict[str, tuple[Callable, str]] = {  # of demo.yaml
    "format": _whole(1), "studies": _whole(1, 10**5), "archs": _list(_NET, 1, 5),
    **{k: SETTINGS[k] for k in ("epochs", "size", "bs", "seed")},
}  # fmt: skip

_COUNT = _whole(0, 2**53)[0], "a whole number from 0 on"
_REAL = (lambda v: isinstance(v, float) or _COUNT[0](v)), "a number"  # nan and infinite too: JSON of Python has them
# What draws the next numbers is a place in a table of 624: NumPy and PyTorch would read on behind its end.
_TWISTER = _list(_whole(0, 2**32 - 1), 624, 624)
_PYTHON = (
    lambda v: (
        isinstance(v, list) and len(v) == 3 and _whole(3, 3)[0](v[0]) and _or(_NONE, _REAL)[0](v[2])
        and _list(_COUNT, 625, 625)[0](v[1]) and _TWISTER[0](v[1][:-1]) and v[1][-1] <= 624
    ),
    "a generator of Python",
)  # fmt: skip
_NUMPY = _row(((lambda v: v == "MT19937"), "MT19937"), _TWISTER, _whole(0, 624), _whole(0, 1), _REAL)
# of the plain values in a run's weights/last/state.safetensors
STATE: dict[str, tuple[Callable, str]] = {
    "place": _list(_COUNT, 3, 3), "rows": _list(_table(_REAL), 0), "done": _BOOL,
    "settings": _names(epochs=_whole(1, 2**53), freeze_epochs=_COUNT, data=_or(_NONE, _TEXT)),
    "best": _or(_row(_NONE, _NONE), _row(_REAL, _COUNT)),
    "random": _names(python=_PYTHON, numpy=_NUMPY), "loaders": _list(_PYTHON, 2, 2),
    "smooth": _COUNT, "train_iter": _COUNT, "pct_train": _number(0, 1.01),  # fastai adds it up: a little above 1
    "plateau": _list(_row(_REAL, _COUNT), 0),
    "scaler": _or(_NONE, _names(
        scale=_number(0, 3.5e38), growth_factor=_number(1, 1e6), backoff_factor=_number(0, 1),
        growth_interval=_whole(1, 2**31 - 1), _growth_tracker=_whole(0, 2**31 - 1),
    )),
    "groups": _list(_names(
        lr=_number(0, 1e6), betas=_list(_number(0, 1), 2, 2), eps=_number(0, 1), weight_decay=_number(0, 1e6),
    )),
}  # fmt: skip


def check_values(
    told: dict,  # as read from the file
    rules: dict[str, tuple[Callable, str]],  # SETTINGS or REPEATS
    needed: tuple[str, ...],  # names that must be there
    newest: int,  # format that this version knows
    file: str | Path,  # for the message
):
    """Raise `InputError` for the first value that is missing or cannot be; for a format of a newer version first.

    A name that looks like a misspelt one is refused too: it would count for nothing. Other names that the rules do not
    know are let through: a later version may write more, and nothing here reads it."""
    if SETTINGS["format"][0](told.get("format")) and told["format"] > newest:
        raise InputError(f"{file}: written by a newer version (format {told['format']}); upgrade mura_fastai")
    wrong, data = _misspelt(told, rules) or wrong_value(told, rules, needed), told.get("data")
    if wrong is None and data is not None:
        wrong = wrong_value({"data": data}, {"data": ((lambda v: isinstance(v, dict)), "a table")})
        wrong = wrong or wrong_value(
            {f"data.{k}": v for k, v in data.items()}, {f"data.{k}": v for k, v in DATA.items()}
        )
    if wrong is not None:
        raise InputError(f"{file}: {wrong}; correct it, or bring the file back as it was")


def unknown_names(
    told: dict,  # as read from the file
    rules: dict[str, tuple[Callable, str]],  # SETTINGS or REPEATS
) -> list[str]:
    "What is set there and counts for nothing."
    return [str(name) for name in told if name not in (*rules, *_UNRULED)]


def _misspelt(told: dict, rules: dict) -> str | None:
    "The first name that must mean another one, in words; in what a newer version wrote it may be one of its own."
    by = told.get("versions")
    if isinstance(by, dict) and _numbers(by.get("mura_fastai")) > _numbers(mura_fastai.__version__):
        return None
    inner = {"data": DATA} | ({"settings": SETTINGS} if "settings" in rules else {})
    for table, known in {"": rules, **inner}.items():
        there = told.get(table) if table else told
        for name in unknown_names(there, known) if isinstance(there, dict) else ():
            near, dot = get_close_matches(name, [*known, *_UNRULED], 1, 0.75), f"{table}." if table else ""
            if near or table == "settings":  # which are handed on, all of them
                return f"{dot}{name[:60]} is unknown" + (f" (did you mean {dot}{near[0]}?)" if near else "")
    return None


def _numbers(version: object) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", version)[:3]] if isinstance(version, str) else []


def wrong_value(
    told: dict,  # plain values
    rules: dict[str, tuple[Callable, str]],  # one of the tables above
    needed: Iterable[str] = (),  # names that must be there
) -> str | None:  # None where all may be
    "The first value that is missing or cannot be, in words."
    for name, (fits, what) in rules.items():
        value = told.get(name)
        if (name in told or name in needed) and not fits(value):
            shown = "missing" if value is None else f"{str(value)[:60]!r}"
            return f"{name} is {shown}, and must be {what}"
    return None
