"""Augmentation alone: one batch of bytes on the device, through fastai's transforms and through ours."""

from collections.abc import Callable, Iterator

import torch
from fastai.torch_core import TensorImageBW
from fasttransform import Pipeline

from mura_fastai.bench.data import BenchData
from mura_fastai.bench.measure import Case, drain, measure, with_ratios
from mura_fastai.bench.rivals import fastai_augment
from mura_fastai.data.augment import TensorXray, xray_tfms
from mura_fastai.data.pixels import pad_square, read_grey

STOCK = "fastai aug_transforms"


def byte_batch(
    data: BenchData,
    bs: int,  # images
    device: torch.device,
) -> torch.Tensor:  # uint8, bs x 1 x size x size
    "One batch that never leaves the device."
    pixels = [torch.from_numpy(pad_square(read_grey(p), data.size)) for p in data.files(bs)[0]]
    return torch.stack(pixels)[:, None].to(device)


def again(
    make: Callable[[], object],  # gives a batch
) -> Iterator:
    "The same again and again."
    while True:
        yield (make(),)


def augmentations(
    batch: torch.Tensor,  # uint8, N x 1 x H x W
) -> dict[str, Callable[[], torch.Tensor]]:  # by name: gives the batch augmented anew, in normalised floats
    "fastai's transforms and ours, as an epoch of training runs them."

    def of(kind: type, tfms: list) -> Callable[[], torch.Tensor]:
        pipeline, x = Pipeline(tfms, split_idx=0), batch.as_subclass(kind)
        for t in pipeline.fs:
            if isinstance(getattr(t, "mean", None), torch.Tensor):  # fastai's Normalize
                t.mean, t.std = t.mean.to(batch.device), t.std.to(batch.device)
        return lambda: pipeline(x)

    return {STOCK: of(TensorImageBW, fastai_augment()), "ours, xray_tfms": of(TensorXray, xray_tfms())}


def bench_augmentation(
    data: BenchData,
    bs: int,  # images a batch
    rounds: int,
    seconds: float,  # a measurement, at least
    device: torch.device,
    progress: Callable[[str], None] | None = None,
) -> dict:  # reference and cases
    "Images a second that are augmented."
    say = progress and (lambda line: progress(f"augmentation: {line}"))
    cases = [
        Case(name, lambda make=make: drain(lambda: again(make), device, seconds))
        for name, make in augmentations(byte_batch(data, bs, device)).items()
    ]
    return with_ratios(measure(cases, rounds, say), STOCK)
