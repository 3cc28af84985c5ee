"""An interrupted training goes on as if nothing had happened, or says what has changed since."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from fastai.torch_core import default_device

from mura_fastai.data.fingerprints import file_stamps
from mura_fastai.data.reading import read_data, source_tables
from mura_fastai.errors import InputError
from mura_fastai.provenance import checkout, versions
from mura_fastai.schema import SETTINGS, unknown_names
from mura_fastai.text import name_some, one_of
from mura_fastai.training.alone import alone
from mura_fastai.training.beside import best_file
from mura_fastai.training.best import KeepBest, has_learned, mend_best
from mura_fastai.training.edits import source_edits, table_edits
from mura_fastai.training.fitting import decisive, fit_run, provenance_of, table_digest
from mura_fastai.training.interrupts import saying_how_to_go_on
from mura_fastai.training.marks import ANEW, refuse_unmarked
from mura_fastai.training.progress import History
from mura_fastai.training.runs import read_settings
from mura_fastai.training.state import DamagedState, State, read_state, read_told, state_file
from mura_fastai.training.state_rules import STAMPS
from mura_fastai.training.tables import lost_data, own_images

_NUMBERS = {"epochs": int, "freeze_epochs": int, "lr": (int, float)}  # what going on rests on, besides reading


def resume_run(
    run: str | Path,  # a run's folder
    num_workers: int | None = None,  # decoding threads; as it was begun where not given
) -> Path:  # the run's folder, trained to its last epoch
    """Go on with a training where its last state is; from the start where there is none; not at all after its end.

    Interrupted anywhere, it ends with the history and the weights that it would have had: to the last bit on a CPU, as
    long as machine and packages are the same. Raises `InputError` that names the difference where settings, data or
    files have changed, where its state is damaged, and while another process trains it."""
    run = Path(run)
    read_settings(run)  # before a lock is put into a folder that is no run
    with saying_how_to_go_on(run), alone(run):
        settings = _settings(run)
        settings |= {} if num_workers is None else {"num_workers": num_workers}
        store = settings.get("store", True)
        store = True if isinstance(store, str) and not Path(store).exists() else None  # the cache was emptied
        if is_trained(run, settings):
            _end(run)
            return run
        state, data = read_state(run), settings.get("data") or {}
        if state is not None or "fold" in data:  # a fold is dealt by the plan that it is of
            refuse_edited(data, run)
        if state is None:
            settings = _as_begun_now(run, settings)
            return fit_run(run, settings, _images(run, settings), store)
        images = own_images(run, data)
        _refuse_changes(run, settings, images, state)
        _say_versions(settings)
        behind, batch = len(state.told["rows"]), state.place[2]
        within = f" and {one_of(batch, 'batch', 'batches')}" if batch else ""
        print(f"going on after {one_of(behind, 'epoch')}{within}", file=sys.stderr)
        return fit_run(run, settings, images, store, state)


def is_trained(
    run: str | Path,  # a run's folder
    settings: dict,  # of the run
) -> bool:
    "Whether a run has its last epoch behind it. Raises `InputError` where its state is damaged."
    told = read_told(run)
    if told is not None:
        return bool(told["done"])
    try:  # one of an earlier version
        epochs = len(pd.read_csv(Path(run) / "history.csv"))
    except (OSError, ValueError):
        return False
    asked = [settings.get("epochs"), settings.get("freeze_epochs", 0)]
    return all(isinstance(n, int) for n in asked) and epochs >= sum(asked) and best_file(run).exists()


def _settings(run: Path) -> dict:
    settings = read_settings(run)
    for name, kind in _NUMBERS.items():
        if not isinstance(settings.get(name), kind):
            raise InputError(f"{run / 'settings.yaml'}: {name} is missing or no number; was it edited?")
    if strange := unknown_names(settings, SETTINGS):
        print(f"{run / 'settings.yaml'}: {name_some(strange)}: unknown, and without effect", file=sys.stderr)
    return settings


def _end(run: Path):
    "Nothing is left to train; but a crash may have come between the last state and the best weights."
    state, history = read_state(run), History(run / "history.csv")
    if state is not None:
        history.rows = state.told["rows"]
        best = KeepBest(run, history)
        best.best, best.epoch_kept = state.told["best"]
        mend_best(best, state)
        history.write()
    print(f"{run}: all its epochs were trained before", file=sys.stderr)


def _as_begun_now(run: Path, settings: dict) -> dict:
    "Nothing was learned yet: it starts anew, with what is installed now."
    if best_file(run).exists():
        raise InputError(f"{run}: its state (weights/last) is gone, so it cannot go on; {ANEW}")
    if has_learned(run):
        raise InputError(f"{run}: its weights are gone, those of its state too (folder weights); {ANEW}")
    print("nothing was learned yet: from the start", file=sys.stderr)
    return settings | dict(versions=versions(), commit=checkout()["commit"])


def _images(run: Path, settings: dict) -> pd.DataFrame | Callable[[], pd.DataFrame]:
    "The table as it was begun with; where the run had not come to read its data, what reads it."
    data = settings.get("data") or {}
    # images.csv comes first, and alone it does not tell of what it was made. A table handed over from Python has no
    # source from which it could be read again.
    whole = (run / "images.csv").exists() and "fingerprint" in data
    whole = whole and ("fold" in data or not edited_tables(data))  # the source knows nothing of a fold's splits
    if data.get("path") and data.get("source") and not whole:
        if lost := lost_data(run, data):
            raise lost
        size = settings["size"] if settings.get("store", True) is True else None
        return partial(
            read_data, data["path"], data.get("source"), data.get("regions"), settings["max_bad"],
            data.get("split_seed", 0), data.get("allow_leaks", False), size,
        )  # fmt: skip
    images = own_images(run, data)
    if lost := lost_data(run, data, images.path):
        raise lost
    if (run / "skipped.csv").exists():
        skipped = pd.read_csv(run / "skipped.csv", dtype="str", encoding_errors="surrogateescape")
        images.attrs["skipped"] = skipped.to_dict("records")
    return images


def _refuse_changes(run: Path, settings: dict, images: pd.DataFrame, state: State):
    "Raise `InputError` where it would not be the same training any more."
    data = provenance_of(images, settings.get("data"))
    before, now = state.told["settings"], decisive(settings | {"data": data})
    if changed := [k for k in before if k not in ("data", "table") and before[k] != now.get(k)]:
        key, more = changed[0], f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        raise InputError(f"{run}: begun with {key} {before[key]}, now {key} {now.get(key)}{more}; {ANEW}")
    digest = table_digest(images)
    if before["data"] != now["data"] or before.get("table", digest) != digest:
        then = settings.get("data") or {}
        what = "other labels or splits" if before["data"] != now["data"] else "other regions or patients"
        if then.get("images") != data["images"]:
            what = f"{then.get('images')} images then, now {data['images']}"
        if not edited_tables(then):  # of which it was made: they tell which study
            what = table_edits(run, then, images) or what
        raise InputError(f"{run / 'images.csv'}: not the table it was begun with ({what}); {ANEW}")
    stamps, kept = file_stamps(images.path), state.tensors[STAMPS].numpy()
    if len(stamps) != len(kept):
        raise DamagedState(f"{state_file(run)}: of {len(kept)} files, not the {len(stamps)} of its images.csv; {ANEW}")
    if len(gone := np.flatnonzero(stamps == 0)):
        lost = lost_data(run, settings.get("data"), images.path)
        raise lost or InputError(f"{name_some(images.path[gone], 1)}: gone since the training began; {ANEW}")
    refuse_unmarked(images.path.tolist(), np.flatnonzero(stamps != kept), state)


def edited_tables(
    data: dict,  # of settings.yaml or repeats.yaml: path, source, and the `source_tables` where it knows them
) -> list[str]:
    "Names of the CSVs that the labels came from and that are others now; one that is away says nothing."
    then = data.get("tables") or {}
    now = source_tables(data["path"], data.get("source")) if then and data.get("path") else {}
    return [name for name in now if now[name] != then.get(name, now[name])]


def refuse_edited(
    data: dict,  # as of `edited_tables`
    run: Path,  # a run that was begun with it
):
    "Raise `InputError` where a CSV that the labels came from is another now, and says another thing."
    if (changed := edited_tables(data)) and (what := source_edits(run, data)):
        path = Path(data["path"])
        file = path if data.get("source") == "csv" else path / changed[0]
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        what = what.removeprefix(f"{file}: ")
        raise InputError(f"{file}{more}: edited since the training began ({what}); {ANEW}")


def _say_versions(settings: dict):
    then = (settings.get("versions") or {}) | {k: settings.get(k) for k in ("device", "commit")}
    now = versions() | dict(device=str(default_device()), commit=checkout()["commit"])
    if differ := [f"{k} {then[k]} (now {now.get(k)})" for k in then if then[k] != now.get(k)]:
        print(f"begun with {name_some(differ)}: its last digits may differ from now on", file=sys.stderr)
