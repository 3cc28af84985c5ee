"""A training as the settings of a run say it: its Learner, what it leaves in the run's folder, where it goes on."""

import hashlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import yaml
from fastai.learner import Learner
from fastai.torch_core import set_seed

from mura_fastai.bars import stderr_bar
from mura_fastai.data.augment import AugmentXray, xray_tfms
from mura_fastai.data.loaders import mura_dls, usable_rows
from mura_fastai.data.store import Store, auto_store
from mura_fastai.errors import InputError
from mura_fastai.files import replacing, write_text
from mura_fastai.text import name_some
from mura_fastai.training.best import KeepBest, drop_doubtful, mend_best
from mura_fastai.training.interrupts import Stops, say_beforehand
from mura_fastai.training.keeping import KeepState
from mura_fastai.training.learner import mura_learner
from mura_fastai.training.marks import ANEW, file_marks
from mura_fastai.training.optimizer import optimizer_of
from mura_fastai.training.progress import EpochLines, History
from mura_fastai.training.schedules import fit_schedule
from mura_fastai.training.state import State, refuse_misfit

FORM = ("until", "pool", "dropout", "region_aware", "views")  # settings of the network itself: its weights fit no other
# What training images go through, and by how much where nobody says.
CHANGES = {k: p.default for k, p in inspect.signature(AugmentXray.__init__).parameters.items() if k != "self"}
# What makes a training this one: none of it may change on the way.
DECISIVE = (
    "arch", "size", "epochs", "freeze_epochs", "bs", "lr", "layer_decay", "weight_decay", "schedule", "plateau",
    "optimizer", "augment", *FORM, "seed", "precision", "compile",
)  # fmt: skip


def fit_run(
    out: Path,  # the run's folder, locked
    settings: dict,  # all that settings.yaml holds
    images: pd.DataFrame | Callable[[], pd.DataFrame],  # the images table, or what reads it
    store: Store | str | Path | bool | None = None,  # decoded images; as the settings say where not given
    state: State | None = None,  # where to go on; None: from the start
) -> Path:  # the run's folder
    "Train what the settings of a run say, to its end."
    if callable(images):
        write_settings(out, settings)
        images = images()
    skipped = images.attrs.get("skipped", [])
    if state is None:
        settings = _write_data(out, settings, images, skipped)
    decoded = _decoded(images, settings, store)
    # One that was usable and is no more is named below, whatever share may be left out.
    most = settings["max_bad"] if state is None else 1.0
    images, bad = usable_rows(images, decoded, most, stderr_bar("checking images"))
    if bad and state is not None:
        raise InputError(f"{bad[0]['path']}: {bad[0]['reason']} since the training began; {ANEW}")
    if bad and state is None:
        settings = _write_data(out, settings, images, [*skipped, *bad])
    marks = file_marks(images.path.tolist(), settings["size"], decoded, state)
    learn = _learner(settings, images, decoded, fresh=state is None)
    if state is None:
        say_beforehand()
    if state is not None:
        refuse_misfit(learn, state, out, settings["schedule"])
    epochs, freeze_epochs = settings["epochs"], settings["freeze_epochs"]
    history = History(out / "history.csv")
    best = KeepBest(out, history)
    with Stops() as stops:
        every = settings.get("save_every")
        held = decisive(settings) | {"table": table_digest(images)} if state is None else state.told["settings"]
        keep = KeepState(out, history, best, epochs + freeze_epochs, held, marks, every, stops, state)
        history.write()
        if state is not None:
            mend_best(best, state)
            drop_doubtful(out)
        keep.take_over_loops(learn)
        cbs = [history, EpochLines(history, epochs + freeze_epochs), best, keep]
        with learn.no_bar(), learn.no_logging():
            schedule, decay = settings["schedule"], settings["layer_decay"]
            fit_schedule(learn, epochs, settings["lr"], freeze_epochs, decay, schedule, cbs)
    print(f"kept the weights of epoch {best.epoch_kept + 1} ({best.by})", file=sys.stderr)
    return out


def decisive(
    settings: dict,  # of a run
) -> dict:  # plain values
    "What makes its training this one, the data by its fingerprint."
    return {k: settings.get(k) for k in DECISIVE} | {"data": (settings.get("data") or {}).get("fingerprint")}


def table_digest(
    images: pd.DataFrame,  # the images table
) -> str:
    "Of what a training uses of it besides what the fingerprint says: the region weighs the loss."
    return hashlib.sha256(
        images[["region", "patient"]].to_csv(index=False).encode("utf-8", "surrogateescape")
    ).hexdigest()


def write_settings(
    out: str | Path,  # a run's folder
    settings: dict,
):
    "Write settings.yaml."
    write_text(Path(out) / "settings.yaml", yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))


def _write_data(out: Path, settings: dict, images: pd.DataFrame, skipped: list[dict]) -> dict:
    "The table, what was left out of it, and last the settings with its fingerprint: they make the folder a run."
    _write_table(images, out / "images.csv")
    _write_table(pd.DataFrame(skipped, columns=["path", "reason"]), out / "skipped.csv")
    settings = settings | {"data": provenance_of(images, settings["data"])}
    write_settings(out, settings)
    return settings


def _write_table(table: pd.DataFrame, file: Path):
    with replacing(file) as aside:
        table.to_csv(aside, index=False, errors="surrogateescape")


def provenance_of(images: pd.DataFrame, data: dict | None) -> dict:
    "Which data it was: where from, how many, and a fingerprint of studies, labels and splits."
    rows = images[["study", "view", "label", "split"]].to_csv(index=False)
    return {
        **(data or {}),
        **({"tables": images.attrs["tables"]} if images.attrs.get("tables") else {}),
        "regions": sorted(set(images.region)),
        "images": {s: int(n) for s, n in images.split.value_counts().items()},
        "fingerprint": hashlib.sha256(rows.encode("utf-8", "surrogateescape")).hexdigest()[:16],
    }


def _decoded(images: pd.DataFrame, settings: dict, store: Store | str | Path | bool | None) -> Store | None:
    store = settings["store"] if store is None else store
    if store is True:
        return auto_store(images, settings["size"], stderr_bar("decoding images"))
    return store if isinstance(store, Store) else Store(store) if store else None


def _learner(settings: dict, images: pd.DataFrame, decoded: Store | None, fresh: bool) -> Learner:
    "The Learner of these settings, with the weights that they start from where it is to start."
    set_seed(settings["seed"], reproducible=True)
    views, precision, weights = settings["views"], settings["precision"], settings["weights"]
    dls = mura_dls(
        images, settings["size"], settings["bs"], decoded, augmentation(settings["augment"]), settings["num_workers"],
        max_bad=None, by="study" if views else "image",
    )  # fmt: skip
    learn = mura_learner(
        dls, settings["arch"], settings["pretrained"] and fresh, weights if fresh else None, settings["allow_missing"],
        by_layer=settings["layer_decay"] is not None, precision=precision, compile=settings["compile"],
        opt_func=optimizer_of(settings["optimizer"], settings.get("weight_decay")), **{k: settings[k] for k in FORM},
    )  # fmt: skip
    learn.pretrained = settings["pretrained"]  # also where it goes on with weights of its own
    net = getattr(learn.model, "net", learn.model)  # the one that pools views holds that of images
    for names, what in ((getattr(net, "fresh", ()), "starts fresh"), (getattr(net, "dropped", ()), "not used")):
        if names:
            print(f"{weights or settings['arch']}: {what}: {name_some(names)}", file=sys.stderr)
    print(f"training in {learn.precision} on {dls.device}; {dls.where}", file=sys.stderr)
    return learn


def augmentation(augment: dict) -> list:
    "The transforms of batches, with these changes."
    if wrong := [k for k in augment if k not in CHANGES]:
        raise InputError(f"no change of images is called {wrong[0]!r}; there are {', '.join(CHANGES)}")
    if wrong := [k for k, v in augment.items() if not isinstance(v, (int, float))]:
        raise InputError(f"augmentation {wrong[0]}={augment[wrong[0]]!r}: give a number, or true or false")
    return xray_tfms(**augment)
