"""Adam in one kernel, as fastai's Learner wants it: schedules, parameter groups and weight decay stay fastai's."""

from collections.abc import Callable
from functools import partial

import torch
from fastai.optimizer import OptimWrapper

from mura_fastai.errors import InputError

# By the names that users give: fastai's own defaults, and those of Kingma & Ba (2015, arXiv 1412.6980).
OPTIMIZERS = {"fastai": {}, "adam": dict(sqr_mom=0.999, eps=1e-8, wd=0.0)}


class FusedAdamW(torch.optim.AdamW):
    """torch's fused AdamW that spares biases and norms the weight decay, as fastai's Learner and timm do.

    Loshchilov & Hutter (2019, arXiv 1711.05101). The decay stands in a multi-tensor multiplication of its own, so that
    no group has to be split in two and a slice of learning rates means what it says.
    """

    def __init__(
        self,
        params,  # parameters, or groups of them
        **kwargs,  # of `torch.optim.AdamW`
    ):
        super().__init__(params, fused=True, **kwargs)

    @torch.no_grad()
    def step(self, closure=None):
        decays = [group["weight_decay"] for group in self.param_groups]
        # Where losses are scaled: 1 for a step that overflowed and is left out, the decay with it.
        skipped = getattr(self, "found_inf", 0)
        for group, decay in zip(self.param_groups, decays, strict=True):
            weights = [p for p in group["params"] if p.grad is not None and p.ndim > 1]
            if decay and weights:
                torch._foreach_mul_(weights, 1 - group["lr"] * decay * (1 - skipped))
            group["weight_decay"] = 0.0
        try:
            return super().step(closure)
        finally:
            for group, decay in zip(self.param_groups, decays, strict=True):
                group["weight_decay"] = decay


def optimizer_of(
    name: str,  # one of `OPTIMIZERS`
    weight_decay: float | None = None,  # its own where not given
) -> Callable[..., OptimWrapper]:  # the `opt_func` of a Learner
    "Adam as a run's settings say it. Raises `InputError` for an unknown one, and for a decay that is none."
    if name not in OPTIMIZERS:
        raise InputError(f"unknown optimizer {name!r}; the known ones are {', '.join(OPTIMIZERS)}")
    if weight_decay is not None and not 0 <= weight_decay <= 1:
        raise InputError(f"weight decay {weight_decay}: give a number from 0 to 1, such as 0.1 (--weight-decay)")
    decay = {} if weight_decay is None else {"wd": weight_decay}
    return partial(fused_adam, **(OPTIMIZERS[name] | decay))


def fused_adam(
    params,  # parameter groups, from a Learner's splitter
    lr: float,  # learning rate
    mom: float = 0.9,  # decay of the mean gradient
    sqr_mom: float = 0.99,  # decay of the mean squared gradient
    eps: float = 1e-5,  # added to the root of that mean
    wd: float = 0.01,  # weight decay, of what has more than one dimension
) -> OptimWrapper:
    "fastai's `Adam` with its own defaults, in one kernel instead of a dozen for every parameter."
    groups = [list(group) for group in params]
    return OptimWrapper(groups, FusedAdamW, lr=lr, betas=(mom, sqr_mom), eps=eps, weight_decay=wd)
