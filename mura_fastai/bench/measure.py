"""Measuring side by side: every case once a round, in turns, so that what drifts hits all of them alike."""

import datetime
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import torch

from mura_fastai.provenance import checkout, versions


@dataclass
class Timing:
    "What one measurement of a case gave."

    images: int  # done while the clock ran
    seconds: float  # on that clock
    startup: float | None = None  # seconds before the clock: from asking for batches to the first of them
    more: dict = field(default_factory=dict)  # further numbers of this measurement, by name


@dataclass
class Case:
    "One way to do a job. `run` does it once, and comes back when the device is done."

    name: str  # as the table has it
    run: Callable[[], Timing] | None  # None where this machine cannot do it
    note: str = ""  # what is different about it, or why it cannot be done here
    settings: dict = field(default_factory=dict)  # workers and the like


def cores() -> int:
    "Cores this process may use."
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def synchronize(
    device: torch.device,  # that was given work
):
    "Wait until the device has done all of it."
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(
    cases: list[Case],
    rounds: int,  # measurements of each case
    progress: Callable[[str], None] | None = None,  # called with a line before each measurement
) -> list[dict]:  # a record a case, in the order given; see `record`
    "Warm up each case once, then measure in rounds: each round runs every case once and begins with another one."
    timings = {c.name: [] for c in cases}
    able = [c for c in cases if c.run]
    for turn in range(rounds + 1):
        at = turn % max(len(able), 1)
        for case in able[at:] + able[:at]:
            if progress:
                progress(f"{case.name}: {f'round {turn} of {rounds}' if turn else 'warm-up'}")
            timing = case.run()
            if turn:
                timings[case.name].append(timing)
    return [record(c, timings[c.name]) for c in cases]


def record(
    case: Case,
    timings: list[Timing],  # one a round
) -> dict:  # name, note, settings; images, rounds, median, min, max (images a second), startup (seconds), more
    "A case with its figures as JSON has them; without any, its figures are None."
    rates = [t.images / t.seconds for t in timings]
    startups = [t.startup for t in timings if t.startup is not None]
    more = {k: spread([t.more[k] for t in timings])["median"] for k in (timings[0].more if timings else ())}
    return dict(
        name=case.name, note=case.note, settings=case.settings, images=[t.images for t in timings],
        rounds=[round(r, 3) for r in rates], **(spread(rates) if rates else dict.fromkeys(("median", "min", "max"))),
        startup=median(startups) if startups else None, more=more,
    )  # fmt: skip


def spread(
    numbers: list[float],  # one a round
) -> dict:  # median, min, max
    "What is reported of some numbers."
    return dict(median=median(numbers), min=min(numbers), max=max(numbers))


def ratio(
    case: dict,  # a record of `measure`
    reference: dict,  # another one of the same rounds
) -> dict | None:  # median, min, max of the ratios round by round; None where one of them has no figures
    "How many times as fast: each round's rate over the reference's rate of the same round."
    if not case["rounds"] or not reference["rounds"]:
        return None
    return spread([a / b for a, b in zip(case["rounds"], reference["rounds"], strict=True)])


def with_ratios(
    records: list[dict],  # of `measure`
    reference: str,  # name of the case that the others are compared with
) -> dict:  # reference and cases: the records, each with its `ratio`
    "The records of one job beside their ratios."
    [base] = [r for r in records if r["name"] == reference]
    return dict(reference=reference, cases=[r | dict(ratio=ratio(r, base)) for r in records])


def drain(
    batches: Callable[[], Iterator],  # starts an epoch; its batches hold the images first
    device: torch.device,  # where they arrive
    seconds: float,  # the clock runs at least so long
    skip: int = 2,  # batches before the clock starts: worker processes have to be warm; 0 times whole epochs
    group: int = 1,  # batches come in groups of so many, since so many workers make them
) -> Timing:
    """Take batches for a while, epoch after epoch.

    With `skip` it is the steady state that is timed: what starts an epoch (processes, shuffling) is left off the clock.
    """
    images, spent, startups = 0, 0.0, []
    while spent < seconds:
        synchronize(device)
        started = time.perf_counter()
        clock, counted, taken, i = None if skip else started, 0, 0, -1
        epoch = batches()
        for i, batch in enumerate(epoch):
            if i == 0:
                startups.append(time.perf_counter() - started)
            if clock is None:
                if i + 1 >= skip:
                    synchronize(device)
                    clock = time.perf_counter()
                continue
            counted, taken = counted + len(batch[0]), taken + 1
            if taken % group == 0 and spent + time.perf_counter() - clock >= seconds:
                break
        if not counted:
            raise ValueError(f"an epoch of {i + 1} batches cannot be measured after {skip} of them are skipped")
        synchronize(device)
        spent += time.perf_counter() - clock
        images += counted
        if hasattr(epoch, "close"):
            epoch.close()
        del epoch  # the last reference: its worker processes end
    return Timing(images, spent, median(startups))


def best_of(
    options: list[dict],  # settings to try
    trial: Callable[..., Timing],  # measures with such settings
    tries: int = 2,  # of each, in turns; the faster one counts, so that a hiccup makes no straw man
) -> tuple[dict, list[dict]]:  # the fastest settings; all of them with their images a second
    "Try each of several settings: a competitor is measured at its best."
    rates = [0.0] * len(options)
    for _ in range(tries):
        for i, option in enumerate(options):
            timing = trial(**option)
            rates[i] = max(rates[i], timing.images / timing.seconds)
    tried = [o | dict(images_per_s=round(r, 1)) for o, r in zip(options, rates, strict=True)]
    return options[rates.index(max(rates))], tried


def hardware(
    device: torch.device,  # that was measured on
) -> dict:
    "Machine, system, versions, commit and date: what a figure means nothing without."
    gpu = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    return dict(
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        cpu=_cpu_model(), cores=cores(), torch_threads=torch.get_num_threads(), ram_gb=ram_gb(),
        gpu=gpu.name if gpu else None, gpu_memory_gb=round(gpu.total_memory / 2**30, 1) if gpu else None,
        cuda=torch.version.cuda if gpu else None, os=f"{platform.system()} {platform.release()}",
        machine=platform.machine(), load=load(),
        versions=versions(), **checkout(),
    )  # fmt: skip


def machine_name(
    machine: dict,  # from `hardware`
) -> str:  # such as amd-epyc-2-cores-2026-01-31
    "A name for files of results: processor, or GPU, and day."
    words = f"{machine['gpu'] or machine['cpu']} {machine['cores']} cores {machine['date'][:10]}".lower()
    return re.sub(r"[^a-z0-9]+", "-", words).strip("-")


def _cpu_model() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def ram_gb() -> float | None:
    "Memory of the machine; None where the system does not tell."
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def load() -> list[float] | None:
    "Processes that wanted a core in the last minute, five and fifteen; None where the system does not tell."
    return [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else None


def say(
    line: str,  # "" clears the last one
):
    "A line of progress: on a terminal each takes the place of the one before."
    if sys.stderr.isatty():
        print(f"\r\x1b[K{line[:110]}", end="", file=sys.stderr, flush=True)
    elif line:
        print(line, file=sys.stderr, flush=True)
