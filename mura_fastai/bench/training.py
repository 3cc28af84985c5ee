"""Training side by side: our Learner, fastai's as it comes, a loop by hand, and the ceiling that none can pass."""

import gc
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from fastai.callback.channelslast import ChannelsLast
from fastai.callback.fp16 import AMPMode, MixedPrecision
from fastai.learner import Learner
from fastai.losses import BCEWithLogitsLossFlat
from torch import nn

from mura_fastai.bench import rivals
from mura_fastai.bench.measure import Case, Timing, best_of, cores, drain, measure, with_ratios
from mura_fastai.bench.steps import LR, Plan, Step, fit_once
from mura_fastai.data.loaders import mura_dls
from mura_fastai.data.store import Store
from mura_fastai.models.backbones import create_net
from mura_fastai.training.learner import mura_learner

CEILING = "ceiling: one batch that never leaves the device"


def our_learner(
    plan: Plan,
    store: Store,
    arch: str,  # mura_cnn or any timm name
    rows: int,  # an epoch
) -> Learner:
    "The Learner that users get, from random weights."
    dls = mura_dls(plan.data.rows(rows), size=plan.data.size, bs=plan.bs, store=store, device=plan.device, max_bad=None)
    return mura_learner(dls, arch, pretrained=False)


def stock_learner(
    plan: Plan,
    arch: str,  # mura_cnn or any timm name
    rows: int,  # an epoch
) -> Learner:
    "The same network in fastai's own Learner over its own DataBlock, with its callbacks for speed."
    dls = rivals.fastai_dls(*plan.data.files(rows), plan.data.size, plan.bs, "augmented", cores(), plan.device)
    net = create_net(arch, pretrained=False, size=plan.data.size)
    cbs = [ChannelsLast()]
    if plan.device.type == "cuda":
        cbs.append(MixedPrecision(AMPMode.BF16 if plan.precision == "bf16" else AMPMode.FP16))
    return Learner(dls, net, loss_func=BCEWithLogitsLossFlat(), cbs=cbs)


def ceiling_step(
    plan: Plan,
    store: Store,
    arch: str,  # mura_cnn or any timm name
) -> tuple[Step, Iterator]:  # the step; one batch again and again, augmented anew each time
    "The network, loss, optimizer and augmentation of our Learner, with nothing around them and nothing to load."
    learn = our_learner(plan, store, arch, plan.bs)
    net, loss = learn.model.to(plan.device), learn.loss_func.to(plan.device)
    learn.create_opt()
    raw = mura_dls(
        plan.data.rows(plan.bs), size=plan.data.size, bs=plan.bs, store=store, device=plan.device, batch_tfms=[],
        max_bad=None,
    ).train.one_batch()  # fmt: skip
    opt = getattr(learn.opt, "opt", learn.opt)  # without fastai's wrapper around a torch optimizer
    step = Step(net, loss, opt, learn.precision)
    region, label = (raw[i].as_subclass(torch.Tensor) for i in (1, -1))
    augment = learn.dls.train.after_batch
    augment.split_idx = 0  # what an epoch of training sets

    def batches() -> Iterator:
        while True:
            yield augment(raw)[0].as_subclass(torch.Tensor), label, region

    return step, batches()


def bare_step(
    plan: Plan,
    net: nn.Module,
) -> Step:
    "What one writes by hand: channels last, autocast, fused AdamW, the plain loss."
    net = net.to(plan.device, memory_format=torch.channels_last)
    opt = torch.optim.AdamW(net.parameters(), lr=LR, fused=True)

    def loss(pred: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(pred[:, 0], label.float())

    return Step(net, loss, opt, plan.precision)


def bare_batches(
    plan: Plan,
    rows: int,  # an epoch
) -> tuple[rivals.Batches, dict]:  # starts an epoch; the settings that were fastest
    "The data of the loop by hand: PyTorch's workers, torchvision's augmentation, at their best settings."
    files, workers = plan.data.files(rows), cores()

    def start(**settings) -> rivals.Batches:
        return rivals.torch_batches(*files, plan.data.size, plan.bs, "augmented", workers, plan.device, **settings)

    def trial(**settings) -> Timing:
        skip = settings["prefetch"] * workers
        return drain(start(**settings), plan.device, plan.seconds / 2, skip=skip, group=workers)

    options = [dict(prefetch=p, in_worker=w) for p in (2, 4) for w in (True, False)]
    best, tried = best_of(options, trial) if plan.search else (options[0], [])
    return start(**best), dict(workers=workers, **best, tried=tried)


def training_cases(
    plan: Plan,
    store: Store,
    arch: str,  # mura_cnn or any timm name
    bare: tuple[rivals.Batches, dict],  # from `bare_batches`
) -> list[Case]:
    "The four ways to train one network."
    rows = plan.batches * plan.bs
    ours, stock = our_learner(plan, store, arch, rows), stock_learner(plan, arch, rows)
    by_hand = bare_step(plan, create_net(arch, pretrained=False, size=plan.data.size))
    start, settings = bare
    top, fixed = ceiling_step(plan, store, arch)

    def bare_run() -> Timing:
        epoch = start()
        try:
            return by_hand.run(epoch, plan)
        finally:
            epoch.close()

    full = plan.precision if plan.device.type == "cuda" else "fp32: its mixed precision does nothing on a CPU"
    return [
        Case(CEILING, lambda: top.run(fixed, plan), top.precision),
        Case("ours, mura_learner", lambda: fit_once(ours, plan), ours.precision),
        Case("loop by hand, torch DataLoader", bare_run, plan.precision, settings),
        Case("stock fastai Learner", lambda: fit_once(stock, plan), f"channels last, {full}", dict(workers=cores())),
    ]


def bench_training(
    plan: Plan,
    archs: Iterable[str],  # mura_cnn or timm names
    folder: Path,  # a temporary one, for a store
) -> dict:  # for each architecture reference and cases
    "Images a second that are trained on."
    store, _ = plan.data.build(folder / "warm")
    section = {}
    say = plan.progress
    if say:
        say("training: looking for the best settings of the loop by hand")
    bare = bare_batches(plan, (plan.batches + 8 * cores()) * plan.bs)
    for arch in archs:
        cases = training_cases(plan, store, arch, bare)
        records = measure(cases, plan.rounds, say and (lambda line, a=arch: say(f"training, {a}: {line}")))
        section[arch] = with_ratios(records, CEILING)
        del cases
        gc.collect()
        if plan.device.type == "cuda":
            torch.cuda.empty_cache()
    return section
