"""The run folder: everything that one training was, readable on another machine, and nothing in it a pickle."""

import hashlib
import inspect
import math
import sys
import time
from functools import partial
from pathlib import Path

import pandas as pd
import yaml
from fastai.callback.core import Callback
from fastai.learner import Learner
from fastai.torch_core import set_seed
from safetensors.torch import save

from mura_fastai.confined import refuse_links, refuse_outside
from mura_fastai.data.augment import AugmentXray, xray_tfms
from mura_fastai.data.loaders import mura_dls, usable_rows
from mura_fastai.data.pixels import stderr_bar
from mura_fastai.data.store import Store, auto_store
from mura_fastai.data.studies import finish_images
from mura_fastai.errors import InputError
from mura_fastai.files import read_yaml, replacing, write_text
from mura_fastai.models.backbones import OWN
from mura_fastai.models.views import POOLINGS
from mura_fastai.models.weights import fill
from mura_fastai.provenance import checkout, versions
from mura_fastai.schema import SETTINGS, check_values
from mura_fastai.text import name_some
from mura_fastai.training.learner import mura_learner
from mura_fastai.training.optimizer import OPTIMIZERS, fused_adam
from mura_fastai.training.progress import EpochLines, History
from mura_fastai.training.schedules import PLATEAU, check_schedule, fit_schedule, layer_rates

# What was made with the weights, and is nothing without them.
OF_WEIGHTS = ("predictions.csv", "predictions-tune.csv", "decision.yaml", "metrics.json")
FORMAT = 1  # of the run folder; a later version of the package reads every earlier one
LEARNING_RATES = {"own": 2e-3, "scratch": 1e-3, "pretrained": 1e-3}  # highest of the one-cycle schedule
FORM = ("until", "pool", "dropout", "region_aware", "views")  # settings of the network itself: its weights fit no other
# What training images go through, and by how much where nobody says.
CHANGES = {k: p.default for k, p in inspect.signature(AugmentXray.__init__).parameters.items() if k != "self"}
_NEEDED = ("format", "arch", "size", "epochs", "bs", "seed")  # what reading a run rests on


class KeepBest(Callback):
    "Keep the weights of the epoch with the best study-level AUROC on tune (the loss, where tune has one class)."

    order = 62  # after History

    def __init__(
        self,
        file: Path,  # where the best weights go
        history: History,  # whose rows are compared
    ):
        self.file, self.history, self.best, self.epoch_kept = Path(file), history, None, None

    def after_epoch(self):
        row = self.history.rows[-1]
        auroc = row.get("auroc", math.nan)
        value = -row["tune_loss"] if math.isnan(auroc) else auroc
        if self.best is None or value >= self.best:
            self.best, self.epoch_kept = value, row["epoch"]
            save_weights(self.learn.model, self.file)
            for name in OF_WEIGHTS:
                (self.file.parents[1] / name).unlink(missing_ok=True)


def save_weights(
    net,  # a module
    file: str | Path,  # a .safetensors file
):
    "Write a module's weights, whole or not at all."
    with replacing(file) as aside:
        # Not `save_file`: what it writes is closed to other users of a shared folder.
        aside.write_bytes(save({k: v.detach().cpu().contiguous() for k, v in net.state_dict().items()}))


def train_run(
    images: pd.DataFrame,  # an images table with train and tune rows; the others are kept beside them, unseen
    out: str | Path | None = None,  # the run's folder; made from architecture and time where not given
    arch: str = "mura_cnn",  # "mura_cnn" or any timm name
    size: int = 320,  # side of the padded square in pixels
    epochs: int = 10,  # passes over train, the frozen ones apart
    bs: int = 64,  # images a batch; studies where views are pooled
    lr: float | None = None,  # highest learning rate; by the kind of network where not given
    seed: int = 0,  # of weights, order and augmentation; the split has its own
    pretrained: bool = True,  # ImageNet weights for a timm network
    weights: str | Path | None = None,  # a local file of weights instead of timm's hub
    allow_missing: bool = False,  # layers that `weights` lacks start fresh
    until: str | None = None,  # keep a timm network up to this stage, such as layer3 of a ResNet
    pool: str | None = None,  # a timm network's, over places: avg, max, avgmax, catavgmax or gem; its own if not given
    dropout: float | None = None,  # share of features dropped before the last layer; the network's own where not given
    region_aware: bool = False,  # let the region scale and shift the features before the last layer
    freeze_epochs: int = 1,  # epochs for the head alone before, where the body is pretrained
    layer_decay: float | None = None,  # factor of the learning rate from a timm network's layer to the one below
    schedule: str = "one-cycle",  # or "plateau": divided by ten whenever the tune loss has not fallen in an epoch
    optimizer: str = "fastai",  # Adam with fastai's defaults, or "adam": with those of its paper
    augment: dict | None = None,  # what differs from the defaults of `xray_tfms`, such as {"max_rotate": 10}
    recipe: str | None = None,  # for the record: the recipe that these settings come from, by `recipe_settings`
    store: str | Path | bool | None = None,  # decoded images: a store's folder; None: one in the cache; False: none
    precision: str = "auto",  # fp32, bf16, fp16, or auto: the fastest of the device
    compile: bool = False,  # have PyTorch compile the network; pays on a GPU in long runs
    num_workers: int | None = None,  # decoding threads
    max_bad: float = 0.05,  # share of unusable files that is left out without asking
    data: dict | None = None,  # where the images come from, for the record
    views: str | None = None,  # learn whole studies, their views pooled by mean, max or attention; None: single images
) -> Path:  # the run's folder
    """Train a network, choose its best epoch on tune, and leave a run folder.

    One-cycle for a network without pretrained weights; frozen epochs and then discriminative one-cycle for one with,
    or the rate divided by ten on a plateau (see `fit_schedule`).
    Raises `InputError` for what is wrong beforehand and `TrainingError` for a loss that is not a number.
    """
    out = Path(out or Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{arch.replace('/', '_')}")
    if (out / "settings.yaml").exists():
        raise InputError(f"{out}: holds a run already; choose another folder (--out) or remove it")
    refuse_links(out)
    if views is not None and views not in POOLINGS:  # not after an hour of decoding
        raise InputError(f"views are not pooled by {views!r}; choose one of {', '.join(POOLINGS)}")
    if views and compile:
        raise InputError("a network that pools views is not compiled: leave --compile (compile=True) out")
    if epochs < 1:
        raise InputError(f"{epochs} epochs: nothing would be trained; ask for at least one (--epochs)")
    own, starts_trained = arch in OWN, arch not in OWN and bool(pretrained or weights)
    if layer_decay is not None:
        layer_rates(1.0, layer_decay, 1)  # says so where it is no decay
    if optimizer not in OPTIMIZERS:
        raise InputError(f"unknown optimizer {optimizer!r}; the known ones are {', '.join(OPTIMIZERS)}")
    check_schedule(schedule)
    tfms = _augmentation(augment or {})
    lr = lr or LEARNING_RATES["own" if own else "pretrained" if starts_trained else "scratch"]
    if store is None or store is True:
        decoded = auto_store(images, size, stderr_bar("decoding images"))
    else:
        decoded = store if isinstance(store, Store) else Store(store) if store else None
    skipped = images.attrs.get("skipped", [])
    images, bad = usable_rows(images, decoded, max_bad, stderr_bar("checking images"))
    skipped = [*skipped, *bad]
    set_seed(seed, reproducible=True)
    by = "study" if views else "image"
    dls = mura_dls(
        images, size=size, bs=bs, store=decoded, batch_tfms=tfms, num_workers=num_workers, max_bad=None, by=by
    )
    form = dict(until=until, pool=pool, dropout=dropout, region_aware=region_aware, views=views)
    learn = mura_learner(
        dls, arch, pretrained=pretrained, weights=weights, allow_missing=allow_missing,
        by_layer=layer_decay is not None, precision=precision, compile=compile,
        opt_func=partial(fused_adam, **OPTIMIZERS[optimizer]), **form,
    )  # fmt: skip
    if fresh := getattr(learn.model, "fresh", None):
        print(f"{weights}: lacks {name_some(fresh)}, which start(s) fresh", file=sys.stderr)
    settings = dict(
        format=FORMAT, recipe=recipe, arch=arch, size=size, epochs=epochs,
        freeze_epochs=freeze_epochs if starts_trained else 0, bs=bs, lr=lr, layer_decay=layer_decay, schedule=schedule,
        plateau=dict(PLATEAU) if schedule == "plateau" else None, optimizer=optimizer,
        augment={k: getattr(tfms[0], k) for k in CHANGES}, **form, seed=seed, pretrained=starts_trained,
        weights=str(weights) if weights else None, allow_missing=allow_missing, precision=learn.precision,
        compile=compile,
        store=str(decoded.path) if store not in (None, True, False) else store is not False, num_workers=num_workers,
        max_bad=max_bad,
        data=provenance_of(images, data), versions=versions(),
        commit=checkout()["commit"], device=str(dls.device),
    )  # fmt: skip
    write_text(out / "settings.yaml", yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    _write_table(images, out / "images.csv")
    _write_table(pd.DataFrame(skipped, columns=["path", "reason"]), out / "skipped.csv")
    print(f"training in {learn.precision} on {dls.device}; {dls.where}", file=sys.stderr)
    history = History(out / "history.csv")
    best = KeepBest(out / "weights" / "best.safetensors", history)
    cbs = [history, EpochLines(history, epochs + settings["freeze_epochs"]), best]
    with learn.no_bar(), learn.no_logging():
        fit_schedule(learn, epochs, lr, settings["freeze_epochs"], layer_decay, schedule, cbs)
    print(f"kept the weights of epoch {best.epoch_kept + 1} (best on tune)", file=sys.stderr)
    return out


def _augmentation(augment: dict) -> list:
    "The transforms of batches, with these changes."
    if wrong := [k for k in augment if k not in CHANGES]:
        raise InputError(f"no change of images is called {wrong[0]!r}; there are {', '.join(CHANGES)}")
    if wrong := [k for k, v in augment.items() if not isinstance(v, (int, float))]:
        raise InputError(f"augmentation {wrong[0]}={augment[wrong[0]]!r}: a number, or true or false")
    return xray_tfms(**augment)


def load_run(
    run: str | Path,  # a run's folder
    num_workers: int | None = None,  # decoding threads
) -> Learner:  # with the best weights; its data need not be there
    "The Learner of a finished run: its loaders, its network, its best weights. Nothing in the folder is run."
    run = Path(run)
    settings = read_settings(run)
    best = run / "weights" / "best.safetensors"
    if not best.exists():
        raise InputError(f"{run}: no weights yet; train it to the end of an epoch first")
    images = read_table(run / "images.csv")
    refuse_outside(images.path, settings.get("data"), run / "images.csv")
    form = {k: settings.get(k) for k in FORM}  # an earlier run has none of them
    by = "study" if form["views"] else "image"
    dls = mura_dls(images, settings["size"], settings["bs"], num_workers=num_workers, max_bad=None, by=by)
    learn = mura_learner(dls, settings["arch"], pretrained=False, **form)
    fill(learn.model, best)
    learn.model.eval()
    return learn


def read_settings(
    run: str | Path,  # a run's folder
) -> dict:
    """The settings of a run, every value in its range.

    Raises `InputError` where it is none, or one of a newer version, and for a link in it that leads out of it."""
    file = Path(run) / "settings.yaml"
    if not file.exists() and (Path(run) / "repeats.yaml").exists():
        raise InputError(f"{run}: holds the runs of several folds or seeds; name one of the folders in it")
    if not file.exists():
        raise InputError(f"{run}: not a run; a run's folder holds settings.yaml (mura train makes one)")
    settings = read_yaml(file)
    check_values(settings, SETTINGS, _NEEDED, FORMAT, file)
    refuse_links(run)
    return settings


def read_table(
    file: str | Path,  # images.csv of a run
) -> pd.DataFrame:  # the images table
    "The images table of a run, as it was trained on."
    text = dict.fromkeys(("path", "split", "region", "patient", "study"), "str")
    try:
        rows = pd.read_csv(
            file, dtype=text, keep_default_na=False, na_values={"label": [""]}, encoding_errors="surrogateescape"
        )
        if not rows["label"].isin((0, 1)).where(rows["label"].notna(), True).all():
            raise ValueError("a label that is not 0, 1 or blank")
        return finish_images(rows)
    except (OSError, ValueError, KeyError) as e:
        raise InputError(f"{file}: not the images table of a run ({' '.join(str(e).split())[:120]})") from None


def _write_table(table: pd.DataFrame, file: Path):
    with replacing(file) as aside:
        table.to_csv(aside, index=False, errors="surrogateescape")


def provenance_of(images: pd.DataFrame, data: dict | None) -> dict:
    "Which data it was: where from, how many, and a fingerprint of studies, labels and splits."
    told = images[["study", "view", "label", "split"]].to_csv(index=False)
    return {
        **(data or {}),
        "regions": sorted(set(images.region)),
        "images": {s: int(n) for s, n in images.split.value_counts().items()},
        "fingerprint": hashlib.sha256(told.encode("utf-8", "surrogateescape")).hexdigest()[:16],
    }
