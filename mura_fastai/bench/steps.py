"""Timing of training steps: from within `learn.fit`, and in a loop by hand."""

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import perf_counter

import fastai.callback.progress  # noqa: F401  adds no_bar to Learner
import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.learner import Learner
from torch import nn

from mura_fastai.bench.data import BenchData
from mura_fastai.bench.measure import Timing, cores, synchronize
from mura_fastai.training.precision import resolve_precision

LR = 1e-4  # small: nothing is to diverge while the clock runs
STEPS = 4  # the fewest that are timed
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}


@dataclass
class Plan:
    "What trainings are measured with."

    data: BenchData
    bs: int  # images a batch
    rounds: int
    seconds: float  # a measurement, at least
    batches: int  # an epoch
    device: torch.device
    progress: Callable[[str], None] | None = None
    search: bool = True  # look for the best settings of the loop by hand; else the first ones have to do

    @property
    def precision(self) -> str:
        "The fastest of the device: bf16, fp16 or fp32."
        return resolve_precision("auto", self.device)

    @property
    def skip(self) -> int:
        "Steps before the clock starts."
        return 2 if self.device.type == "cpu" else max(2, min(2 * cores(), self.batches // 4))


class Stopwatch:
    "Counts steps, and knows when to start the clock and when to stop it."

    def __init__(
        self,
        plan: Plan,
    ):
        self.plan, self.began, self.clock, self.steps, self.seconds = plan, perf_counter(), None, 0, None
        self.startup = None

    def got_batch(self):
        "The first batch is here."
        if self.startup is None:
            self.startup = perf_counter() - self.began

    def stepped(self) -> bool:  # whether it is enough
        "A step was handed to the device."
        self.steps += 1
        if self.steps == self.plan.skip:
            synchronize(self.plan.device)
            self.clock = perf_counter()
        timed = self.steps - self.plan.skip
        if timed < STEPS or perf_counter() - self.clock < self.plan.seconds:
            return False
        self.stop()
        return True

    def stop(self):
        "Wait for the device, and take the time."
        if self.seconds is None:
            synchronize(self.plan.device)
            self.seconds = perf_counter() - self.clock

    def timing(self) -> Timing:
        self.stop()
        return Timing((self.steps - self.plan.skip) * self.plan.bs, self.seconds, self.startup)


class Timed(Callback):
    "Time the steps of a `fit` from within, and end it when they are enough."

    order, run_valid = 1000, False  # after all that others do at the end of a batch

    def __init__(
        self,
        plan: Plan,
    ):
        self.plan = plan

    def before_train(self):
        self.watch = Stopwatch(self.plan)

    def before_batch(self):
        self.watch.got_batch()

    def after_batch(self):
        if self.watch.stepped():
            raise CancelFitException

    def after_train(self):
        self.watch.stop()


def fit_once(
    learn: Learner,
    plan: Plan,
) -> Timing:
    "One measurement through `learn.fit`."
    timed = Timed(plan)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, LR, cbs=timed)
    return timed.watch.timing()


@dataclass
class Step:
    "Everything that one step of a loop by hand needs."

    net: nn.Module  # called with the images, in training mode
    loss: Callable  # of N x 1 logits and the labels, or what `args` holds besides
    opt: torch.optim.Optimizer
    precision: str  # bf16, fp16 or fp32

    def __post_init__(self):
        self.dtype = DTYPES[self.precision]

    def run(
        self,
        batches: Iterable,  # of (images, further arguments of the loss)
        plan: Plan,
    ) -> Timing:
        "Train on batch after batch until it is enough."
        watch, device = Stopwatch(plan), plan.device
        scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")
        self.net.train()
        for x, *args in batches:
            watch.got_batch()
            with torch.autocast(device.type, self.dtype) if self.dtype else contextlib.nullcontext():
                pred = self.net(x)
            loss = self.loss(pred.float(), *args)
            scaler.scale(loss).backward()
            scaler.step(self.opt)
            scaler.update()
            self.opt.zero_grad()
            if watch.stepped():
                break
        return watch.timing()
