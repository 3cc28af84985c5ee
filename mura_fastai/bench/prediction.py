"""Prediction side by side: whole tables at once against one file after the other, beside what the parts alone take."""

from collections.abc import Callable
from math import ceil
from time import perf_counter

import torch
from fastai.learner import Learner

from mura_fastai.bench.augmentation import byte_batch
from mura_fastai.bench.data import BenchData
from mura_fastai.bench.measure import Case, Timing, cores, measure, spread, synchronize, with_ratios
from mura_fastai.data.augment import TensorXray
from mura_fastai.data.decoding import decode_batches
from mura_fastai.data.loaders import mura_dls
from mura_fastai.results.predict import predict_images
from mura_fastai.training.learner import mura_learner

LOOP, OURS = "learn.predict, file by file", "ours, predict_images"
DECODE, FORWARD = "decoding alone, all cores", "forward passes alone"


def prediction_cases(
    learn: Learner,
    data: BenchData,
    files: int,  # that are predicted at once
    singles: int,  # that are predicted one by one
    bs: int,  # images a batch
) -> list[Case]:
    "Whole tables, single files, and the two parts of the work on their own."
    device, many = learn.dls.device, data.images.head(files)
    batch = byte_batch(data, bs, device)
    [x] = learn.dls.valid.after_batch((TensorXray(batch),))
    x = x.as_subclass(torch.Tensor)

    def clocked(job: Callable, images: int) -> Timing:
        started = perf_counter()
        job()
        synchronize(device)
        return Timing(images, perf_counter() - started)

    def one_by_one():
        with learn.no_bar():
            for path in many.path.head(singles):
                learn.predict(path)

    def decode():
        paths = many.path.tolist()
        for _ in decode_batches([paths[i : i + bs] for i in range(0, len(paths), bs)], data.size):
            pass

    def forward():
        learn.model.to(device).eval()
        with torch.inference_mode():
            for _ in range(ceil(len(many) / bs)):
                learn.model(x)

    return [
        Case(LOOP, lambda: clocked(one_by_one, min(singles, len(many))), f"{min(singles, len(many))} files"),
        Case(OURS, lambda: clocked(lambda: predict_images(learn, many), len(many)), f"{len(many)} files"),
        Case(DECODE, lambda: clocked(decode, len(many)), f"{cores()} threads"),
        Case(FORWARD, lambda: clocked(forward, ceil(len(many) / bs) * bs), f"batches of {bs}, one that stays there"),
    ]


def bench_prediction(
    data: BenchData,
    arch: str,  # mura_cnn or any timm name
    bs: int,  # images a batch
    rounds: int,
    files: int,  # that are predicted at once
    singles: int,  # that are predicted one by one
    device: torch.device,
    progress: Callable[[str], None] | None = None,
) -> dict:  # arch; reference and cases; the share of what decoding and forward passes allow
    "Images a second that are predicted from their files."
    dls = mura_dls(data.rows(bs), size=data.size, bs=bs, device=device, max_bad=None)
    learn = mura_learner(dls, arch, pretrained=False)
    cases = prediction_cases(learn, data, files, singles, bs)
    say = progress and (lambda line: progress(f"prediction: {line}"))
    records = measure(cases, rounds, say)
    rates = {r["name"]: r["rounds"] for r in records}
    parts = zip(rates[OURS], rates[DECODE], rates[FORWARD], strict=True)
    share = spread([ours / possible_rate(d, f, device) for ours, d, f in parts])
    return dict(arch=arch, **with_ratios(records, LOOP), share_of_possible=share)


def possible_rate(
    decode: float,  # images a second
    forward: float,  # images a second
    device: torch.device,
) -> float:  # images a second
    "On a GPU decoding and forward passes go on side by side; on a CPU they share the cores, and their times add up."
    return min(decode, forward) if device.type == "cuda" else 1 / (1 / decode + 1 / forward)
