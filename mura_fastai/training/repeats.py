"""Folds and seeds: one recipe trained many times, each training a run of its own, taken up where it was stopped."""

import gc
import inspect
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import yaml

from mura_fastai.confined import refuse_links
from mura_fastai.data.pixels import stderr_bar
from mura_fastai.data.store import Store, auto_store
from mura_fastai.data.studies import finish_images, patient_folds, tune_split
from mura_fastai.errors import InputError
from mura_fastai.files import read_yaml, write_text
from mura_fastai.provenance import checkout, versions
from mura_fastai.schema import REPEATS, check_values
from mura_fastai.text import one_of
from mura_fastai.training.alone import alone
from mura_fastai.training.beside import KEPT, best_file
from mura_fastai.training.fitting import provenance_of, table_digest
from mura_fastai.training.interrupts import saying_how_to_go_on
from mura_fastai.training.keeping import has_learned, lacks_best
from mura_fastai.training.marks import ANEW
from mura_fastai.training.resume import is_trained, resume_run
from mura_fastai.training.runs import read_settings, store_name, taken_back, train_run
from mura_fastai.training.state import DamagedState, read_state, read_told

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


def official_splits(
    images: pd.DataFrame,  # an images table as it was read
    source: str | None = None,  # mura, fracatlas, folder or csv
) -> set[str]:  # some of train, tune, valid and test
    "The splits that the source itself makes; the others were dealt out by patient as it was read."
    # Where nobody says, a valid row is taken for an official one: it is better spared than used up.
    return set(images.attrs.get("official", () if source == "fracatlas" else ("train", "valid", "test")))


def fold_tables(
    images: pd.DataFrame,  # an images table
    folds: int,  # how many
    split_seed: int = 0,  # another seed, other folds; the seeds of training leave them alone
    official: set[str] = frozenset(("valid", "test")),  # splits of the source's own, from `official_splits`
) -> list[pd.DataFrame]:  # for each fold its images table, whose valid rows are that fold
    """Deal the rows out to folds by patient; each fold in turn is valid, and a tenth of the rest is tune.

    Valid and test rows of an official split are in none of the tables, so that they stay unseen. Raises `InputError`
    for fewer patients than folds."""
    pool = images[(images.split != "test") & ~((images.split == "valid") & ("valid" in official))]
    if pool.patient.nunique() < folds:
        raise InputError(f"{folds} folds of {one_of(pool.patient.nunique(), 'patient')}: ask for fewer (--folds)")
    fold, tables = patient_folds(pool, folds, split_seed), []
    for f in range(folds):
        table = pool.assign(split=np.where(fold == f, "valid", "train")).astype({"split": "str"})
        tables.append(finish_images(tune_split(table, seed=split_seed), images.attrs.get("skipped")))
    return tables


def train_repeats(
    images: pd.DataFrame | Callable[[], pd.DataFrame],  # an images table, or what reads one, called once the plan is on
    # disk
    out: str | Path | None,  # the folder of all runs; made from architecture and time where not given
    evaluate: Callable[[Path], object],  # called with the folder of each run; leaves predictions.csv and metrics.json
    folds: int | None = None,  # number of folds; None: the table's own split
    seeds: int = 1,  # trainings of each fold, by `seed`, `seed` + 1, ...
    seed: int = 0,  # the first of them
    store: Store | str | Path | bool | None = None,  # decoded images that all trainings take, as of `train_run`
    num_workers: int | None = None,  # decoding threads
    data: dict | None = None,  # where the images come from: path, source, split_seed
    **settings,  # of `train_run`: arch, size, epochs, bs, lr, ...
) -> Path:  # the folder of all runs
    """Train one recipe on each fold with each seed; every training leaves a whole run folder in `out`.

    Called again with the same settings, or with more seeds, it keeps the finished runs and goes on in an unfinished one
    where that was stopped. Raises `InputError` for changed settings or data, for a folder that holds a single run, and
    while another process trains there."""
    check_repeats(folds, seeds)
    data, seeds = data or {}, list(range(seed, seed + seeds))
    out = Path(out or Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{settings.get('arch', 'mura_cnn')}-repeats")
    asked, plan = _asked(settings) | {"store": store_name(store)}, plan_repeats(folds, seeds)
    record = dict(
        format=FORMAT, folds=folds, seeds=seeds, settings=asked, data=data, versions=versions(),
        commit=checkout()["commit"],
    )  # fmt: skip
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    mine = () if is_repeats(out) else (FILE,)
    # `mura resume` reads the data again, and of a table that was handed over it knows no source.
    again = None if data.get("path") and data.get("source") else "call train_repeats again, with the same"
    with saying_how_to_go_on(out, again), alone(out), taken_back(out, made, mine, partial(is_begun, out, plan)):
        if callable(images):
            _write_plan(out, record)
            images = images()
        split_seed, official = data.get("split_seed", 0), official_splits(images, data.get("source"))
        tables = {None: images} if folds is None else dict(enumerate(fold_tables(images, folds, split_seed, official)))
        record["data"] = provenance_of(images, data) | {"table": table_digest(images)[:16]}
        _write_plan(out, record)
        if store is None or store is True:
            # Once for all: some of the images alone would find another place in the cache.
            store = auto_store(images, asked["size"], stderr_bar("decoding images"))
        data = data | {k: v for k, v in record["data"].items() if k == "tables"}
        if folds and len(tables[0]) < len(images):
            n = len(images) - len(tables[0])
            left = one_of(n, "image of an official split is", "images of an official split are")
            print(f"{left} left out of all folds, to stay unseen", file=sys.stderr)
        for repeat in plan:
            begun = _start(out, repeat, folds)
            if begun is True:
                resume_run(out / repeat.name, num_workers)
            elif begun is False:
                fold = {} if folds is None else {"folds": folds, "fold": repeat.fold}
                train_run(
                    tables[repeat.fold], out / repeat.name, seed=repeat.seed, store=store, num_workers=num_workers,
                    data={**data, **fold}, **settings,
                )  # fmt: skip
            if begun is not None:
                evaluate(out / repeat.name)
                # A Learner and its callbacks hold each other, and with them the pixels on a GPU, until Python looks.
                gc.collect()
    return out


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


def _start(out: Path, repeat: Repeat, folds: int | None) -> bool | None:
    "Whether this run was begun and goes on; None for a finished one. What cannot go on is put aside. Said on stderr."
    run, name = out / repeat.name, f"seed {repeat.seed}"
    name = name if folds is None else f"fold {repeat.fold + 1} of {folds}, {name}"
    if is_finished(run):
        print(f"{name}: finished before, kept ({repeat.name})", file=sys.stderr)
        return None
    begun, how = (run / "settings.yaml").exists(), "training"
    if begun and not has_learned(run):
        with alone(run):  # it may be trained by itself
            if not has_learned(run):
                print(f"{name}: not finished before, from the start ({repeat.name})", file=sys.stderr, flush=True)
                # Its rows are dealt out anew: they are those of the plan of now.
                (run / "settings.yaml").unlink()
                return False
    if begun:
        settings = read_settings(run)  # what cannot be read is not taken away for that
        try:
            lost = read_state(run) is None and best_file(run).exists()
            lost = lost and not is_trained(run, settings)
        except DamagedState as e:  # a state that cannot be read just now is no reason to begin anew
            print(e, file=sys.stderr)
            lost = True
        how = "not finished before, anew" if lost else "not finished before, going on"
    print(f"{name}: {how} ({repeat.name})", file=sys.stderr, flush=True)
    if begun and lost:
        # Not removed: its best weights may be of use. In one step: half of a run must never pass for a run.
        aside = next(a for i in count(1) if not (a := out / f"{repeat.name}.aside{i}").exists())
        run.rename(aside)
        print(f"what it had learned is kept in {aside}", file=sys.stderr)
        return False
    return begun


def is_finished(
    run: str | Path,  # a run's folder
) -> bool:
    "Whether a run was trained to its last epoch, and predicted and scored."
    run = Path(run)
    try:
        trained = is_trained(run, read_settings(run)) and not lacks_best(run, read_told(run))
    except (InputError, OSError):
        return False
    return trained and all((run / name).exists() for name in (KEPT["valid"], "metrics.json"))


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
    refuse_links(run)
    return record, plan_repeats(record.get("folds"), record["seeds"])


def sub_runs(
    run: str | Path,  # the folder of all runs
) -> list[Path]:
    """The finished runs in it, in the order of training; on stderr how many are not.

    Raises `InputError` where there is none."""
    planned = [Path(run) / repeat.name for repeat in read_repeats(run)[1]]
    done = [one for one in planned if is_finished(one)]
    if not done:
        raise InputError(f"{run}: none of its runs is finished; mura resume goes on with them")
    if len(done) < len(planned):
        n = len(planned) - len(done)
        lost = f"{n} of {len(planned)} runs {'is' if n == 1 else 'are'} not finished"
        print(f"{run}: {lost}; going on without them", file=sys.stderr)
    return done


def _asked(settings: dict) -> dict:
    "The settings of `train_run` that all trainings share, those left at their defaults too."
    known = inspect.signature(train_run).parameters
    asked = {k: settings.get(k, p.default) for k, p in known.items() if k not in _NOT_ASKED}
    return {k: str(v) if isinstance(v, Path) else v for k, v in asked.items()}


def _write_plan(out: Path, record: dict):
    "Write repeats.yaml; refuse a plan other than the one that was begun in this folder."
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
