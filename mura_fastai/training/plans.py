"""The plan of several trainings, repeats.yaml: what was asked for, and what a later call may not change any more."""

import inspect
from pathlib import Path
from typing import NamedTuple

import yaml

from mura_fastai.confined import refuse_links
from mura_fastai.errors import InputError
from mura_fastai.files import read_yaml, write_text
from mura_fastai.schema import REPEATS, check_values
from mura_fastai.text import one_of
from mura_fastai.training.best import has_learned
from mura_fastai.training.marks import ANEW
from mura_fastai.training.runs import train_run
from mura_fastai.training.schedules import frozen_epochs, starts_trained

FORMAT = 1  # of repeats.yaml
FILE = "repeats.yaml"
# Of `train_run`: what differs between the trainings of one plan, and what two calls may do differently all the same.
_NOT_ASKED = {"images", "out", "seed", "data", "store", "num_workers"}
_DIGESTS = {"fingerprint": "labels or splits", "table": "regions or patients"}  # of a plan's data, once it is read


class Repeat(NamedTuple):
    "One training of a plan."

    name: str  # of its folder
    fold: int | None  # the fold that is reported on, from 0; None without folds
    seed: int  # of the training


def plan_repeats(
    folds: int | None,  # number of folds; None: the table's own split
    seeds: list[int],  # of the trainings
) -> list[Repeat]:  # in the order of training: all folds of the first seed, then of the next
    "What is trained, and what the folders are called."
    if folds is None:
        return [Repeat(f"seed{s}", None, s) for s in seeds]
    return [Repeat(f"fold{f}-seed{s}", f, s) for s in seeds for f in range(folds)]


def check_repeats(
    folds: int | None,  # number of folds; None: the table's own split
    seeds: int,  # number of seeds
):
    "Raise `InputError` for numbers that make no plan."
    if folds is not None and folds < 2:
        raise InputError(f"{one_of(folds, 'fold')}: nothing would be left to train on; ask for at least two (--folds)")
    if seeds < 1:
        raise InputError(f"{seeds} seeds: nothing would be trained; ask for at least one (--seeds)")


def is_repeats(
    path: str | Path,  # any path
) -> bool:
    "Whether a folder holds the runs of several folds or seeds."
    return (Path(path) / FILE).is_file()


def read_repeats(
    run: str | Path,  # the folder of all runs
) -> tuple[dict, list[Repeat]]:  # what repeats.yaml holds; the plan
    "What was asked for. Raises `InputError` where the folder holds no repeats.yaml, or one of a newer version."
    file = Path(run) / FILE
    if not file.exists():
        raise InputError(f"{run}: no folder of several runs; mura train makes one with --folds or --seeds")
    record = read_yaml(file)
    check_values(record, REPEATS, ("format", "seeds"), FORMAT, file)
    if (settings := record.get("settings")) and not starts_trained(settings):
        settings["freeze_epochs"] = 0  # earlier versions wrote what they were asked for, and froze nothing
    refuse_links(run)
    return record, plan_repeats(record.get("folds"), record["seeds"])


def is_begun(
    out: Path,  # the folder of all runs
    plan: list[Repeat],
) -> bool:
    "Whether one of the trainings has read its data."
    return any((out / repeat.name / "settings.yaml").exists() for repeat in plan)


def learned_runs(
    out: str | Path,  # the folder of all runs
    plan: list[Repeat],
) -> list[Path]:
    "The trainings that have learned something: what they learned it of may not change any more."
    return [run for repeat in plan if has_learned(run := Path(out) / repeat.name)]


def plan_settings(
    settings: dict,  # some of `train_run`
) -> dict:  # plain values
    "The settings of `train_run` that all trainings share, those left at their defaults too."
    known = inspect.signature(train_run).parameters
    asked = {k: settings.get(k, p.default) for k, p in known.items() if k not in _NOT_ASKED}
    asked["freeze_epochs"] = frozen_epochs(asked["freeze_epochs"], asked)
    return {k: str(v) if isinstance(v, Path) else v for k, v in asked.items()}


def write_plan(
    out: Path,  # the folder of all runs
    record: dict,  # what repeats.yaml is to hold
):
    "Write repeats.yaml. Raises `InputError` for a plan other than the one that was begun in this folder."
    if (out / "settings.yaml").exists():
        raise InputError(f"{out}: holds a single run; choose another folder (--out) or remove it")
    if is_repeats(out):
        old, plan = read_repeats(out)
        if is_begun(out, plan):
            read = "fingerprint" in record["data"]
            before, now = _compared(old, read), _compared(record, read)
            if set(old["seeds"]) <= set(record["seeds"]):
                before["seeds"] = now["seeds"]  # more seeds of the same recipe
            if before.get("table") is None:  # of an earlier version
                before["table"] = now.get("table")
            learned = learned_runs(out, plan)
            if not learned:  # other rows than those that were read, but nothing is lost by it
                before |= {k: now[k] for k in ("images", *_DIGESTS) if k in now}
            _refuse_changes(out, before, now)
            if not read:  # what is refused once it is read shall not have changed the plan
                return
            # What is there says which version began it.
            record = {**old, "seeds": record["seeds"]} | ({} if learned else {"data": record["data"]})
    write_text(out / FILE, yaml.safe_dump(record, sort_keys=False, allow_unicode=True))


def _compared(record: dict, read: bool) -> dict:
    "What two calls must agree on; the fingerprint last, since it follows from others, and has to be `read` first."
    data = record.get("data") or {}
    known = inspect.signature(train_run).parameters
    asked = {k: p.default for k, p in known.items() if k not in _NOT_ASKED} | (record.get("settings") or {})
    asked["freeze_epochs"] = frozen_epochs(asked["freeze_epochs"], asked)
    for name in ("save_every", "store"):  # they change nothing of what is learned
        asked.pop(name, None)
    where = {k: data.get(k) for k in ("source", "split_seed", *(("regions", "images", *_DIGESTS) if read else ()))}
    return {"folds": record.get("folds"), "seeds": record["seeds"], **asked, **where}


def _refuse_changes(out: Path, old: dict, new: dict):
    changed = [k for k in new if old.get(k) != new[k]]
    if changed:
        key, more = changed[0], f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        if key in _DIGESTS:
            raise InputError(f"{out}: begun with other {_DIGESTS[key]} than the data has now; {ANEW}")
        raise InputError(
            f"{out}: begun with {key} {old.get(key)}, now {key} {new[key]}{more}; give the same settings to go on, or "
            "choose another folder (--out)"
        )
