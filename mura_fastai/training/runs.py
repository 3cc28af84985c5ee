"""The run folder: everything that one training was, readable on another machine, and nothing in it a pickle."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pandas as pd
from fastai.learner import Learner
from fastai.torch_core import default_device

from mura_fastai.confined import named_data, refuse_links
from mura_fastai.data.loaders import mura_dls
from mura_fastai.data.store import Store
from mura_fastai.errors import InputError, full_memory
from mura_fastai.files import read_yaml, refuse_file
from mura_fastai.models.backbones import OWN, check_net
from mura_fastai.models.views import POOLINGS
from mura_fastai.models.weights import fill
from mura_fastai.provenance import checkout, versions
from mura_fastai.schema import SETTINGS, check_values
from mura_fastai.text import name_some
from mura_fastai.training.alone import LOCK, OWNER, alone, refuse_busy, trained_by
from mura_fastai.training.beside import best_file
from mura_fastai.training.best import told_gone
from mura_fastai.training.fitting import CHANGES, FORM, augmentation, fit_run
from mura_fastai.training.interrupts import saying_how_to_go_on
from mura_fastai.training.learner import mura_learner
from mura_fastai.training.optimizer import optimizer_of
from mura_fastai.training.precision import resolve_precision
from mura_fastai.training.schedules import (
    PLATEAU,
    check_rate,
    check_schedule,
    frozen_epochs,
    layer_rates,
    starts_trained,
)
from mura_fastai.training.singles import refuse_singles
from mura_fastai.training.state import read_told, state_file
from mura_fastai.training.tables import own_images

FORMAT = 1  # of the run folder; a later version of the package reads every earlier one
LEARNING_RATES = {"own": 2e-3, "scratch": 1e-3, "pretrained": 1e-3}  # highest of the one-cycle schedule
_RUN = ("settings.yaml", "images.csv", "skipped.csv")  # what is written before anything is learned
_WEIGHTS = (".safetensors", ".pth", ".pt", ".pkl", ".ckpt", ".bin")  # how files of them are called
_NEEDED = ("format", "arch", "size", "epochs", "bs", "seed")  # what reading a run rests on


def train_run(
    images: pd.DataFrame | Callable[[], pd.DataFrame],  # an images table with train and tune rows, the others are kept
    # beside them, unseen; or what reads one, called once the settings are on disk
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
    freeze_epochs: int | None = None,  # before, for the head of a pretrained network alone; 1 where not given
    layer_decay: float | None = None,  # factor of the learning rate from a timm network's layer to the one below
    weight_decay: float | None = None,  # of all weights but biases and norms; the optimizer's own where not given
    schedule: str = "one-cycle",  # or "plateau": divided by ten whenever the tune loss has not fallen in an epoch
    optimizer: str = "fastai",  # Adam with fastai's defaults, or "adam": with those of its paper
    augment: dict | None = None,  # what differs from the defaults of `xray_tfms`, such as {"max_rotate": 10}
    recipe: str | None = None,  # for the record: the recipe that these settings come from, by `recipe_settings`
    store: str | Path | bool | None = None,  # decoded images: a store's folder; None: one in the cache; False: none
    precision: str = "auto",  # fp32, bf16, fp16, or auto: the fastest of the device
    compile: bool = False,  # have PyTorch compile the network; pays on a GPU in long runs
    num_workers: int | None = None,  # decoding threads
    max_bad: float = 0.05,  # share of unusable files that is left out without asking
    data: dict | None = None,  # where the images come from; `path`: the folder that holds all of them, found out
    # where not given. Later on, pictures are shown from there alone
    views: str | None = None,  # learn whole studies, their views pooled by mean, max or attention; None: single images
    save_every: int | None = None,  # batches between two saved states within an epoch; each epoch's end is saved anyway
) -> Path:  # the run's folder
    """Train a network, choose its best epoch on tune, and leave a run folder.

    One-cycle for a network without pretrained weights; frozen epochs and then discriminative one-cycle for one with,
    or the rate divided by ten on a plateau (see `fit_schedule`). Interrupted at any moment, it is taken up by
    `resume_run`; SIGTERM and Ctrl-C are heeded after the batch, once its state is on disk.
    Raises `InputError` for what is wrong beforehand and `TrainingError` for a loss that is not a number or a full disk.
    """
    out = Path(out or Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{arch.replace('/', '_')}")
    refuse_file(out, "choose another folder (--out)")
    if (out / "settings.yaml").exists():
        refuse_busy(out)
    _refuse_other_run(out)
    refuse_links(out)
    if views is not None and views not in POOLINGS:  # not after an hour of decoding
        raise InputError(f"views are not pooled by {views!r}; choose one of {', '.join(POOLINGS)}")
    if views and compile:
        raise InputError("a network that pools views is not compiled: leave --compile (compile=True) out")
    if epochs < 1:
        raise InputError(f"{epochs} epochs: nothing would be trained; ask for at least one (--epochs)")
    if save_every is not None and save_every < 1:
        raise InputError(f"a state every {save_every} batches: give one or more, or leave it out (--save-every)")
    start = dict(arch=arch, pretrained=pretrained, weights=weights)
    trained, freeze_epochs = starts_trained(start), frozen_epochs(freeze_epochs, start)
    if lr is not None:
        check_rate(lr)
    if layer_decay is not None:
        layer_rates(1.0, layer_decay, 1)  # says so where it is no decay
    optimizer_of(optimizer, weight_decay)  # so it does here
    check_schedule(schedule)
    tfms = augmentation(augment or {})
    check_net(arch, size, until, pool, dropout, region_aware)
    refuse_singles(bs, arch, size, until, pool)
    if callable(images) and not (data or {}).get("path"):  # by its settings alone nobody could read the data again
        images = images()
    data, device = named_data(() if callable(images) else images.path, data), default_device()
    settings = dict(
        format=FORMAT, recipe=recipe, arch=arch, size=size, epochs=epochs,
        freeze_epochs=freeze_epochs, bs=bs,
        lr=lr or LEARNING_RATES["own" if arch in OWN else "pretrained" if trained else "scratch"],
        layer_decay=layer_decay, weight_decay=weight_decay, schedule=schedule,
        plateau=dict(PLATEAU) if schedule == "plateau" else None, optimizer=optimizer,
        augment={k: getattr(tfms[0], k) for k in CHANGES}, until=until, pool=pool, dropout=dropout,
        region_aware=region_aware, views=views, seed=seed, pretrained=trained,
        weights=str(Path(weights).absolute()) if weights else None, allow_missing=allow_missing,
        precision=resolve_precision(precision, device), compile=compile, store=store_name(store),
        num_workers=num_workers, max_bad=max_bad, save_every=save_every, data=data, versions=versions(),
        commit=checkout()["commit"], device=str(device),
    )  # fmt: skip
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    with saying_how_to_go_on(out), alone(out), taken_back(out, made, _RUN, state_file(out).exists):
        _refuse_other_run(out)  # begun while this one waited for nothing
        return fit_run(out, settings, images, store)


def _refuse_other_run(out: Path):
    if (out / "settings.yaml").exists():
        raise InputError(
            f"{out}: holds a run already; go on with it (mura resume), choose another folder (--out) or remove it"
        )


@contextmanager
def taken_back(
    out: Path,  # a folder that training goes into
    made: list[Path],  # the folders that are made for it, itself first
    names: tuple[str, ...],  # of the files that are written before anything is learned
    learned: Callable[[], bool],  # whether something was
) -> Iterator[None]:
    """Wrong input that shows before anything was learned leaves no run behind, and none of the folders made for it.

    Nor does a batch too large for the memory: a smaller one is another training."""
    try:
        yield
    except Exception as e:
        if (isinstance(e, InputError) or full_memory(e)) and not learned():
            for name in (*names, *((OWNER, LOCK) if made else ())):
                (out / name).unlink(missing_ok=True)
            with suppress(OSError):  # other files are in it
                for folder in made:
                    folder.rmdir()
        raise


def store_name(
    store: Store | str | Path | bool | None,  # as of `train_run`
) -> str | bool:
    "As the settings have it: a folder; true: the cache's; false: none."
    if store is None or isinstance(store, bool):
        return store is not False
    return str(Path(getattr(store, "path", store)).absolute())


def load_run(
    run: str | Path,  # a run's folder
    num_workers: int | None = None,  # decoding threads
) -> Learner:  # with the best weights; its data need not be there
    "The Learner of a finished run: its loaders, its network, its best weights. Nothing in the folder is run."
    run = Path(run)
    settings = read_settings(run)
    best = best_file(run)
    if not best.exists() and (who := trained_by(run)):
        raise InputError(f"{run}: no weights yet; {who} is training its first epoch, wait for the end of that")
    if not best.exists():
        raise InputError(told_gone(run, read_told(run)))
    images = own_images(run, settings.get("data"))
    form = {k: settings.get(k) for k in FORM}  # an earlier run has none of them
    by = "study" if form["views"] else "image"
    dls = mura_dls(images, settings["size"], settings["bs"], num_workers=num_workers, max_bad=None, by=by)
    learn = mura_learner(dls, settings["arch"], pretrained=False, **form)
    fill(learn.model, best)
    learn.model.eval()
    return learn


def refuse_weights(
    path: str | Path,  # what was given for a run, or for an image
):
    "Raise `InputError` for a file of weights, by its name: that says nothing of the network, its images, its decision."
    path = Path(path)
    if path.suffix.lower() not in _WEIGHTS or path.is_dir():
        return
    home = next((f for f in path.absolute().parents[:2] if (f / "settings.yaml").exists()), None)
    remedy = f"give the run's folder, {home}"
    if home is None:
        remedy = "give the run's folder, which holds settings.yaml; to train from these: mura train DATA --weights FILE"
    raise InputError(f"{path}: a file of weights and not a run; {remedy}")


def read_settings(
    run: str | Path,  # a run's folder
) -> dict:
    """The settings of a run, every value in its range.

    Raises `InputError` where it is none, or one of a newer version, and for a link in it that leads out of it."""
    file = Path(run) / "settings.yaml"
    if not file.exists() and (Path(run) / "repeats.yaml").exists():
        raise InputError(f"{run}: holds the runs of several folds or seeds; name one of the folders in it")
    refuse_weights(run)
    if not file.exists():
        raise InputError(f"{run}: {_why_no_run(Path(run))}")
    refuse_links(run)  # before anything is read through one
    settings = read_yaml(file)
    check_values(settings, SETTINGS, _NEEDED, FORMAT, file)
    return settings


def _why_no_run(folder: Path) -> str:
    if not folder.exists():
        return "no such folder; give the one that mura train named (--out)"
    if inside := sorted(file.parent for file in folder.glob("*/settings.yaml")):
        return f"not a run, but holds some; name one of them: {name_some(inside)}"
    return "not a run; a run's folder holds settings.yaml (mura train makes one)"
