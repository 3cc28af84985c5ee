"""`bench`: everything measured in one run, side by side, with settings and hardware beside the figures."""

import gc
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import torch
from fastai.torch_core import default_device

from mura_fastai.bench import loaders, steps, training
from mura_fastai.bench.augmentation import bench_augmentation
from mura_fastai.bench.data import BenchData, bench_data
from mura_fastai.bench.growth import SIZES, bench_growth
from mura_fastai.bench.measure import hardware, load, machine_name, say
from mura_fastai.bench.prediction import bench_prediction
from mura_fastai.bench.report import goals, write_report
from mura_fastai.data.fingerprints import cache_folder
from mura_fastai.errors import InputError

FORMAT = 1  # of the JSON document
WHAT = ("loaders", "augmentation", "training", "prediction", "growth")
ARCHS = ("mura_cnn", "resnet18", "resnet50")


@dataclass
class Settings:
    "What is measured how; everything that a figure depends on, and that is no property of the machine."

    what: tuple[str, ...] = WHAT
    archs: tuple[str, ...] = ARCHS
    size: int = 320  # side of the padded square in pixels
    bs: int = 64  # images a batch, of loaders
    train_bs: int = 64  # images a batch, of trainings and predictions
    rounds: int = 5
    seconds: float = 1.5  # a measurement, at least
    train_seconds: float = 4.0  # a measurement of training, at least: what is told apart there is a few percent
    images: int = 1000  # of the data, at the most
    batches: int = 256  # an epoch of a loader or a training, at least
    files: int = 500  # predicted at once
    singles: int = 40  # predicted one by one
    growth: tuple[int, ...] = SIZES  # images
    quick: bool = False  # these settings show that it runs, not how fast


# What `--quick` has instead: seconds, to see that everything runs.
QUICK = dict(
    archs=("mura_cnn",), size=96, bs=16, train_bs=8, rounds=2, seconds=0.05, train_seconds=0.05, images=128, batches=32,
    files=32, singles=3, growth=(200, 800), quick=True,
)  # fmt: skip


def bench(
    data: str | Path | None = None,  # a dataset's folder or CSV; a phantom in the cache folder where not given
    source: str | None = None,  # mura, fracatlas, folder or csv; found out where not given
    what: tuple[str, ...] | None = None,  # sections, of `WHAT`; all of them
    archs: tuple[str, ...] | None = None,  # networks that are trained; the first one predicts
    size: int | None = None,  # side of the padded square in pixels; 320
    bs: int | None = None,  # images a batch of the loaders; 64
    train_bs: int | None = None,  # images a batch of training and prediction; 64, and 16 on a CPU
    rounds: int | None = None,  # measurements of each case; 5
    images: int | None = None,  # a sample of so many; 1000
    quick: bool = False,  # small numbers, to see that it runs
    device: str | torch.device | None = None,  # the GPU where there is one
    out: str | Path | None = None,  # OUT.json, OUT.txt and OUT.png are written; nothing where not given
    progress: Callable[[str], None] | None = say,  # called with a line before each measurement
) -> dict:  # the document that OUT.json holds
    """Measure loaders, augmentation, training, prediction and growth, ours beside others, in rounds.

    Images a second as medians with their range; ratios are taken round by round. What this machine cannot measure is
    in the document with the reason. Raises `InputError` for unknown sections and where there is no image.
    """
    device = torch.device(device or default_device())
    given = dict(what=what, archs=archs, size=size, bs=bs, train_bs=train_bs, rounds=rounds, images=images)
    settings = Settings(**_defaults(device, quick) | {k: v for k, v in given.items() if v is not None})
    unknown = sorted(set(settings.what) - set(WHAT))
    if unknown:
        raise InputError(f"unknown section {unknown[0]!r}; the known ones are {', '.join(WHAT)}")
    machine, started = hardware(device), perf_counter()
    measured = bench_data(data, source, settings.size, settings.images)
    sections = {}
    for name in WHAT:  # in this order whatever the caller's
        if name in settings.what:
            with _work_folder() as folder:
                sections[name] = SECTIONS[name](measured, settings, device, folder, progress)
            gc.collect()
    if progress:
        progress("")
    machine["load_after"] = load()
    document = dict(
        format=FORMAT, name=machine_name(machine), device=str(device), hardware=machine,
        data=measured.about, settings=asdict(settings), seconds=round(perf_counter() - started, 1),
        sections=sections, goals=goals(sections),
    )  # fmt: skip
    if out:
        write_report(document, Path(out))
    return document


def _defaults(device: torch.device, quick: bool) -> dict:
    if quick:
        return QUICK
    # resnet50 trains a few images a second on two cores: what is measured has to come to an end.
    return dict(train_bs=16) if device.type == "cpu" else dict(batches=512)


def _work_folder() -> TemporaryDirectory:
    "A temporary folder on the disk where users' stores lie: another one may be slower, or be memory."
    cache_folder().mkdir(parents=True, exist_ok=True)
    return TemporaryDirectory(prefix="bench-", dir=cache_folder())


# ---------------------------------------------------------------- sections


def _loaders(data: BenchData, s: Settings, device, folder: str, progress) -> dict:
    plan = loaders.Plan(data, s.bs, s.rounds, s.seconds, s.batches, device, progress, not s.quick)
    return loaders.bench_loaders(plan, Path(folder))


def _augmentation(data: BenchData, s: Settings, device, folder: str, progress) -> dict:
    return bench_augmentation(data, s.bs, s.rounds, s.seconds, device, progress)


def _training(data: BenchData, s: Settings, device, folder: str, progress) -> dict:
    plan = steps.Plan(data, s.train_bs, s.rounds, s.train_seconds, s.batches, device, progress, not s.quick)
    return training.bench_training(plan, s.archs, Path(folder))


def _prediction(data: BenchData, s: Settings, device, folder: str, progress) -> dict:
    return bench_prediction(data, s.archs[0], s.train_bs, s.rounds, s.files, s.singles, device, progress)


def _growth(data: BenchData, s: Settings, device, folder: str, progress) -> dict:
    store, _ = data.build(Path(folder) / "seed")
    return bench_growth(
        store.array, data.images, Path(folder) / "grown", s.growth, s.bs, s.rounds, s.seconds, str(device), progress
    )


SECTIONS = dict(
    loaders=_loaders, augmentation=_augmentation, training=_training, prediction=_prediction, growth=_growth
)
