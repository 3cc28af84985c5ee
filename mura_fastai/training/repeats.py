"""Folds and seeds: one recipe trained many times, each training a run of its own, taken up where it was stopped."""

import gc
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd

from mura_fastai.bars import stderr_bar
from mura_fastai.data.store import Store, auto_store
from mura_fastai.data.studies import finish_images, patient_folds, tune_split
from mura_fastai.errors import InputError
from mura_fastai.models.backbones import check_net
from mura_fastai.provenance import checkout, versions
from mura_fastai.text import one_of
from mura_fastai.training.alone import alone
from mura_fastai.training.beside import KEPT, best_file
from mura_fastai.training.best import has_learned, lacks_best
from mura_fastai.training.fitting import provenance_of, table_digest
from mura_fastai.training.interrupts import saying_how_to_go_on
from mura_fastai.training.plans import (
    FILE,
    FORMAT,
    Repeat,
    check_repeats,
    is_begun,
    is_repeats,
    plan_repeats,
    plan_settings,
    read_repeats,
    write_plan,
)
from mura_fastai.training.resume import is_trained, resume_run
from mura_fastai.training.runs import read_settings, store_name, taken_back, train_run
from mura_fastai.training.schedules import check_rate
from mura_fastai.training.state import DamagedState, read_state, read_told


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
    asked, plan = plan_settings(settings) | {"store": store_name(store)}, plan_repeats(folds, seeds)
    if asked["lr"] is not None:
        check_rate(asked["lr"])
    check_net(*(asked[k] for k in ("arch", "size", "until", "pool", "dropout", "region_aware")))
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
            write_plan(out, record)
            images = images()
        split_seed, official = data.get("split_seed", 0), official_splits(images, data.get("source"))
        tables = {None: images} if folds is None else dict(enumerate(fold_tables(images, folds, split_seed, official)))
        record["data"] = provenance_of(images, data) | {"table": table_digest(images)[:16]}
        write_plan(out, record)
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
