"""How learning rates go over epochs and layers."""

import math
import sys

import numpy as np
from fastai.callback.tracker import ReduceLROnPlateau
from fastai.learner import Learner

from mura_fastai.errors import InputError
from mura_fastai.models.backbones import OWN
from mura_fastai.text import one_of

SCHEDULES = ("one-cycle", "plateau")
PLATEAU = dict(patience=1, factor=10.0, min_delta=0.0)  # of "plateau": epochs without a lower loss, and what then
_SPREAD = 100  # the head's rate over that of the first layers, which are pretrained; as of fastai's `fine_tune`


class PlateauDecay(ReduceLROnPlateau):
    """fastai's, that also reaches the rates of PyTorch's own optimizers, and says so on stderr.

    fastai writes the new rate into what `hypers` gives; of a wrapped optimizer that is a copy, and nothing happens."""

    def after_epoch(self):
        super(ReduceLROnPlateau, self).after_epoch()  # whether this is a new best
        self.wait = 0 if self.new_best else self.wait + 1
        if self.wait < self.patience:
            return
        rates = [max(h["lr"] / self.factor, self.min_lr) for h in self.opt.hypers]
        self.opt.set_hyper("lr", rates)
        self.wait = 0
        print(f"tune loss has not fallen: learning rate {rates[-1]:.1g} from here on", file=sys.stderr)


def layer_rates(
    lr: float,  # of the head
    decay: float,  # factor from one layer to the one below it
    n: int,  # groups of parameters, the head's among them
) -> np.ndarray:  # n rates, the first layer's first
    """Learning rates that fall layer by layer from the head down: lr * decay**(depth below the head).

    What lies near the pixels is general and keeps what it learned from photographs; what lies near the answer moves.
    After ELECTRA (Clark et al. 2020, arXiv 2003.10555) and BEiT (Bao et al. 2022, arXiv 2106.08254). fastai's
    `fit_one_cycle`, `fit` and `fit_flat_cos` take them as they are, on a Learner made with `by_layer=True`:
    `learn.fit_one_cycle(10, layer_rates(1e-3, 0.75, len(learn.opt.param_lists)))`.
    Mind the depth: 0.75 leaves the first of 12 layers 4 % of the rate, and the first of 80 nothing.
    """
    if not 0 < decay <= 1:
        raise InputError(f"layer decay {decay}: it is a factor above 0 and up to 1, such as 0.75 (--layer-decay)")
    return lr * decay ** np.arange(n - 1, -1, -1.0)


def starts_trained(
    settings: dict,  # of `train_run`, those left at their defaults or not
) -> bool:
    "Whether they are of a network whose body is pretrained."
    weights = settings.get("pretrained", True) or settings.get("weights")
    return settings.get("arch", "mura_cnn") not in OWN and bool(weights)


def frozen_epochs(
    asked: int | None,  # by the user; None leaves it open
    settings: dict,  # of `train_run`
) -> int:
    "For how many epochs the head is trained alone. `InputError` where some are asked and nothing is pretrained."
    trained = starts_trained(settings)
    if asked and not trained:
        told = f"{one_of(asked, 'frozen epoch')}: nothing of {settings.get('arch', 'mura_cnn')} is pretrained"
        raise InputError(f"{told}; leave --freeze-epochs (freeze_epochs=) out, or give 0")
    return int(trained) if asked is None else asked


def check_rate(
    lr: float,  # highest learning rate
):
    "Raise `InputError` for one that trains nothing, or uphill."
    if not 0 < lr < math.inf:
        raise InputError(f"learning rate {lr}: give a number above 0, such as 0.001 (lr=, --lr)")


def check_schedule(
    schedule: str,  # one of `SCHEDULES`
):
    "Raise `InputError` for an unknown one."
    if schedule not in SCHEDULES:
        raise InputError(f"unknown schedule {schedule!r}; the known ones are {', '.join(SCHEDULES)}")


def fit_schedule(
    learn: Learner,  # from `mura_learner`, frozen where its body is pretrained
    epochs: int,  # with all layers, the frozen ones apart
    lr: float,  # highest rate
    freeze_epochs: int = 0,  # before, for the head alone
    layer_decay: float | None = None,  # factor from layer to layer; needs a Learner made with `by_layer=True`
    schedule: str = "one-cycle",  # or "plateau": divided by ten whenever the tune loss has not fallen in an epoch
    cbs: list = (),  # callbacks of every epoch
):
    """One-cycle (Smith 2018, arXiv 1803.09820); fastai's `fine_tune` where the head is trained alone before.

    `fine_tune` halves the rate once all layers learn. Of a pretrained body the groups have rates in equal steps of a
    logarithmic scale, a hundredth in the first, whether its head was trained alone before or not; with `layer_decay`
    they are what `layer_rates` says. Where nothing is pretrained all learn at one rate. "plateau" fits at one rate, the
    head alone before where asked, and lowers it as `PLATEAU` says.
    Raises `InputError` for an unknown schedule, for a rate that is not above 0, for `layer_decay` with a
    Learner that is not by layer, and for `freeze_epochs` with one of a single group."""
    check_schedule(schedule)
    check_rate(lr)
    if learn.opt is None:
        learn.create_opt()
    n = len(learn.opt.param_lists)
    if layer_decay is not None and n != len(getattr(learn.model, "layer_groups", list)()):
        raise InputError("rates that fall layer by layer need a Learner made with by_layer=True (or no layer_decay)")
    if freeze_epochs and n == 1:
        raise InputError("the network is one group of parameters, so none can be frozen; leave freeze_epochs out")
    rates = lr if layer_decay is None else layer_rates(lr, layer_decay, n)
    if schedule == "plateau":
        if freeze_epochs:
            learn.freeze()
            learn.fit(freeze_epochs, lr, cbs=cbs)
        learn.unfreeze()
        learn.fit(epochs, rates, cbs=[*cbs, PlateauDecay(**PLATEAU)])
    elif freeze_epochs:
        span = {} if layer_decay is None else {"lr_mult": lr / rates[0]}
        learn.fine_tune(epochs, base_lr=lr, freeze_epochs=freeze_epochs, cbs=cbs, **span)
    else:
        if layer_decay is None and getattr(learn, "pretrained", False):
            rates = slice(lr / _SPREAD, lr)
        learn.unfreeze()
        learn.fit_one_cycle(epochs, rates, cbs=cbs)
