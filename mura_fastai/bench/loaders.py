"""Loaders side by side: ours and its rivals make the same batches of the same files, as fast as each of them can."""

import gc
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter

import torch
from fastai.data.core import DataLoaders

from mura_fastai.bench import rivals
from mura_fastai.bench.data import BenchData
from mura_fastai.bench.measure import Case, Timing, best_of, cores, drain, measure, synchronize, with_ratios
from mura_fastai.data.augment import ScaleGrey
from mura_fastai.data.loaders import mura_dls
from mura_fastai.data.store import Store

PREFETCH = (2, 4, 8)  # batches ahead that PyTorch's worker processes are tried with
WHAT_COLD_MEANS = (
    "before each pass the array's pages are dropped from the page cache (fsync, then posix_fadvise DONTNEED, with no "
    "mapping of the file open in the process), then every row is read once in shuffled order; caches below the "
    "operating system, such as a hypervisor's, stay as they are"
)


@dataclass
class Plan:
    "What the loaders are measured with."

    data: BenchData
    bs: int  # images a batch
    rounds: int
    seconds: float  # a measurement, at least
    batches: int  # an epoch, at least
    device: torch.device
    progress: Callable[[str], None] | None = None
    search: bool = True  # look for a competitor's best settings; else the first ones have to do

    @property
    def workers(self) -> int:
        "Processes of a competitor: all cores."
        return cores()


def bench_loaders(
    plan: Plan,
    folder: Path,  # a temporary one, for stores
) -> dict:  # the store's figures; for each job reference and cases
    "Batches of bytes, of normalised floats, and of augmented normalised floats: images a second of each loader."
    store, built = plan.data.build(folder / "warm")
    section = dict(store=built, cold=WHAT_COLD_MEANS)
    for job in rivals.JOBS:
        cases = [*rival_cases(plan, store, job), *our_cases(plan, store, folder / "cold", job)]
        section[job] = with_ratios(measure(cases, plan.rounds, _saying(plan, job)), _stock(plan.workers))
    return section


def _saying(plan: Plan, job: str) -> Callable[[str], None] | None:
    return plan.progress and (lambda line: plan.progress(f"loaders, {job}: {line}"))


def _stock(workers: int) -> str:
    return f"stock fastai, {workers} workers"


def rival_cases(
    plan: Plan,
    store: Store,  # for the case that reads its array
    job: str,  # one of `rivals.JOBS`
) -> list[Case]:
    "Every competitor at its best settings, which are looked for here where there is a choice."
    workers, say = plan.workers, _saying(plan, job)
    # An epoch that lasts, after all batches that the most eager processes make ahead.
    files = plan.data.files((plan.batches + workers * max(PREFETCH)) * plan.bs)
    same = dict(size=plan.data.size, bs=plan.bs, job=job, device=plan.device)

    def run(batches: rivals.Batches, seconds: float, settings: dict) -> Timing:
        ahead = settings.get("prefetch", 2) * settings.get("workers", workers)
        return drain(batches, plan.device, seconds, skip=max(2, ahead), group=workers)

    def case(name: str, start: Callable[..., rivals.Batches], options: list[dict], note: str = "") -> Case:
        best, tried = options[0], []
        if len(options) > 1 and plan.search:
            if say:
                say(f"{name}: looking for its best settings")
            best, tried = best_of(options, lambda **o: run(start(**o), plan.seconds / 2, o))
        batches = start(**best)
        settings = best | (dict(tried=tried) if tried else {})
        return Case(name, lambda: run(batches, plan.seconds, best), note, settings)

    floats = job != "uint8"
    torch_options = [dict(workers=workers, prefetch=p) for p in PREFETCH]
    if floats:  # image by image in the processes, or whole batches on the device
        torch_options = [o | dict(in_worker=w) for o in torch_options for w in (True, False)]
    timm_note = {
        "uint8": "no shuffling", "float": "no shuffling; pads with mean grey", "augmented": "no rotation; its own crop"
    }  # fmt: skip
    cases = [
        case("stock fastai, 0 workers", partial(rivals.fastai_batches, *files, **same), [dict(workers=0)]),
        case(_stock(workers), partial(rivals.fastai_batches, *files, **same), [dict(workers=workers)]),
        case("torch DataLoader, torchvision v2", partial(rivals.torch_batches, *files, **same), torch_options),
        case(
            "timm create_loader", partial(rivals.timm_batches, *files, workers=workers, **same),
            [dict(prefetcher=p) for p in ((True, False) if floats else (True,))], timm_note[job],
        ),
    ]  # fmt: skip
    if job == "uint8":
        start = partial(rivals.array_batches, store.array, files[1], bs=plan.bs, device=plan.device)
        options = [dict(workers=0), *(dict(workers=workers, prefetch=p) for p in PREFETCH)]
        cases.append(case("torch DataLoader on our store's array", start, options, "decoded before, as ours is"))
    return cases


def our_dls(
    plan: Plan,
    rows: int,  # an epoch
    job: str,  # one of `rivals.JOBS`
    **where,  # `store` and `resident` of `mura_dls`
) -> DataLoaders:
    "Our loaders for a job."
    tfms = {"uint8": [], "float": [ScaleGrey()], "augmented": None}[job]
    return mura_dls(
        plan.data.rows(rows),
        size=plan.data.size,
        bs=plan.bs,
        batch_tfms=tfms,
        device=plan.device,
        max_bad=None,
        **where,
    )


def our_cases(
    plan: Plan,
    store: Store,
    cold: Path,  # folder for a copy of the store that nobody else has open
    job: str,  # one of `rivals.JOBS`
) -> list[Case]:
    "Our loader from files, from disk and resident. Whole epochs are timed, with their start: ours are short."

    def case(name: str, note: str, skip: int, **where) -> Case:
        dls = our_dls(plan, plan.batches * plan.bs, job, **where)
        return Case(name, lambda: drain(lambda: iter(dls.train), plan.device, plan.seconds, skip), note)

    cases = [
        case("ours, from files", "threads decode, every epoch", skip=2, store=None),
        case("ours, from disk (warm)", "memory map; with the start of epochs", skip=0, store=store, resident=False),
        case("ours, resident", "in the device's memory; with the start of epochs", skip=0, store=store, resident=True),
    ]
    if job == "uint8":
        cases.insert(1, cold_case(plan, store, cold))
    return cases


def cold_case(
    plan: Plan,
    store: Store,
    folder: Path,  # for a copy of the store
) -> Case:
    "Our loader from a disk whose pages are in no cache of this system."
    name = "ours, from disk (cold)"
    if not hasattr(os, "posix_fadvise"):
        return Case(name, None, "n/a: this system cannot drop a file's pages")
    shutil.copytree(store.path, folder, dirs_exist_ok=True)

    def run() -> Timing:
        gc.collect()  # no mapping of the file may be left
        drop_pages(folder / "pixels.npy")
        dls = our_dls(plan, len(plan.data.images), "uint8", store=folder, resident=False)
        before, started = _read_bytes(), perf_counter()
        images = sum(len(b[0]) for b in dls.train)
        synchronize(plan.device)
        seconds, read = perf_counter() - started, _read_bytes() - before
        return Timing(images, seconds, more=dict(share_read_from_disk=read / (images * plan.data.size**2)))

    return Case(name, run, "each row once, in shuffled order")


def drop_pages(
    file: Path,  # of which this process has no mapping
):
    "Have the operating system forget what it keeps of a file in memory."
    with open(file, "rb+") as f:
        os.fsync(f.fileno())
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read_bytes() -> int:
    "What this process had read from disk so far; 0 where the system does not tell."
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return 0
    return int(dict(line.split(": ") for line in lines)["read_bytes"])
