"""The frontier: what each network costs, beside what it scores on the same studies."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePath
from typing import NamedTuple

import pandas as pd
import timm
import torch
from fastai.torch_core import default_device
from torch import nn

from mura_fastai.bench.augmentation import again
from mura_fastai.bench.data import BenchData
from mura_fastai.bench.frontier_plot import draw, pareto
from mura_fastai.bench.frontier_text import headline, text
from mura_fastai.bench.measure import Case, Timing, drain, hardware, load, machine_name, measure, say
from mura_fastai.bench.report import write_files
from mura_fastai.bench.steps import Plan
from mura_fastai.bench.training import bare_step
from mura_fastai.data.augment import GREY_STATS
from mura_fastai.data.phantom import is_phantom
from mura_fastai.errors import InputError
from mura_fastai.models.backbones import create_net
from mura_fastai.models.cost import network_cost
from mura_fastai.results.compare import compare
from mura_fastai.results.experiment import arm_of, refuse_crossed, runs_of
from mura_fastai.results.metrics import scores_to_json
from mura_fastai.results.repeats import score_repeats
from mura_fastai.training.plans import is_repeats, read_repeats
from mura_fastai.training.runs import read_settings

FORMAT = 1  # of the JSON document
BATCHES = 16  # an epoch of random bytes: how many steps pass before the clock starts depends on it


class Network(NamedTuple):
    "What the cost of a run's network depends on; how views are pooled costs next to nothing and is left out."

    arch: str
    size: int  # side of the images in pixels
    precision: str = "fp32"  # of training
    until: str | None = None  # the stage that it ends with, where that is not its own last one
    pool: str | None = None  # over places, where that is not its own
    dropout: float | None = None
    n_regions: int = 0  # region codes that scale its features

    @classmethod
    def of(
        cls,
        settings: dict,  # of a run
    ) -> "Network":
        form = {k: settings.get(k) for k in ("until", "pool", "dropout")}
        regions = (settings.get("data") or {}).get("regions") or ()
        n_regions = 1 + len(regions) if settings.get("region_aware") else 0  # the unknown one too
        return cls(settings["arch"], settings["size"], settings.get("precision", "fp32"), **form, n_regions=n_regions)

    def make(self) -> nn.Module:
        "This network with random weights."
        form = dict(until=self.until, pool=self.pool, dropout=self.dropout, n_regions=self.n_regions)
        return create_net(self.arch, pretrained=False, size=self.size, **form)

    def __str__(self) -> str:
        options = dict(to=self.until, pool=self.pool, regions=self.n_regions or None)
        return " ".join([self.arch, *(f"{k} {v}" for k, v in options.items() if v is not None)])


@dataclass
class Arm:
    "One recipe, trained once or with several folds and seeds."

    name: str
    path: str  # as it was given
    tables: list[pd.DataFrame]  # decided studies, one table a seed
    settings: dict  # of its first run
    folds: int | None  # None without cross-validation
    fingerprints: list[str]  # of the data and split of its runs; those of different folds differ

    @property
    def network(self) -> Network:
        return Network.of(self.settings)

    @property
    def studies(self) -> pd.DataFrame:
        "Those with a label, in order."
        told = self.tables[0]
        return told[told.label.notna()].sort_values("study", ignore_index=True)


def read_arms(
    runs: Sequence[str | Path],  # folders of runs; seeds of one recipe as one folder, or with commas between them
) -> list[Arm]:
    """What the runs predicted. Raises `InputError` for runs on other data or another split than the first one's.

    A point of the plot stands for the same studies as the others, or comparing them would mean nothing."""
    arms = [_read_arm(run) for run in runs]
    names = [a.name for a in arms]
    arms = [replace(a, name=f"{a.name} ({i})" if names.count(a.name) > 1 else a.name) for i, a in enumerate(arms, 1)]
    first = arms[0]
    keys = ["study", "label"]
    for arm in arms[1:]:
        refuse_crossed([first.path, arm.path], [first.folds, arm.folds])
        if arm.fingerprints != first.fingerprints:
            mine, other = (f"{' '.join(a.fingerprints[:2])}{' ...' * (len(a.fingerprints) > 2)}" for a in (arm, first))
            raise InputError(
                f"{arm.path}: other data or another split than {first.path} (fingerprint {mine}, there {other}); "
                "a frontier needs runs on the same studies: train them on one data set, same --split-seed and --folds"
            )
        if not arm.studies[keys].equals(first.studies[keys]):
            raise InputError(
                f"{arm.path}: its predictions are of other studies than those of {first.path} "
                f"({len(arm.studies)} and {len(first.studies)}); predict both anew (mura evaluate)"
            )
    return arms


def _read_arm(run: str | Path) -> Arm:
    tables, name = arm_of(run)
    settings = [read_settings(one) for one in runs_of(run)]
    found = sorted({str((s.get("data") or {}).get("fingerprint")) for s in settings})
    if "None" in found:
        raise InputError(f"{run}: its settings.yaml keeps no fingerprint of the data; train it anew")
    folds = read_repeats(run)[0].get("folds") if is_repeats(run) else None
    return Arm(name, str(run), tables, settings[0], folds, found)


def about(
    arm: Arm,  # the first one
) -> dict:  # source, name, folds, studies, abnormal, patients; no path of the machine
    "What data the scores are of, for the record."
    told = arm.settings.get("data") or {}
    root, source, studies = told.get("path", ""), told.get("source", "folder"), arm.studies
    if source == "mura" and told.get("phantom", is_phantom(root)):
        source = "phantom"
    names = {"mura": "MURA", "fracatlas": "FracAtlas", "phantom": "phantom (drawn, no patients)"}
    return dict(
        source=source, name=names.get(source, Path(root).name or source), folds=arm.folds, studies=len(studies),
        abnormal=int(studies.label.sum()), patients=int(studies.patient.nunique()),
    )  # fmt: skip


# ---------------------------------------------------------------- speed


def speed_cases(
    network: Network,
    bs: int,  # images a batch
    seconds: float,  # a measurement, at least
    device: torch.device,
) -> tuple[Case, Case]:  # training, prediction
    """A step of training (forward, backward, optimizer) in the run's precision; a forward pass in float32, as
    predictions are made.

    Both on one batch of random bytes that never leaves the device: the network's own speed, with nothing to load,
    decode or augment, and nothing compiled.
    """
    size = network.size
    plan = Plan(BenchData(pd.DataFrame(), size, {}), bs, 1, seconds, BATCHES, device)
    step = replace(bare_step(plan, network.make()), precision=network.precision)
    mean, std = GREY_STATS
    x = (torch.randint(0, 256, (bs, 1, size, size), dtype=torch.uint8, device=device) / 255 - mean) / std
    label = torch.randint(0, 2, (bs,), device=device)

    def train() -> Timing:
        return step.run(((x, label) for _ in iter(int, 1)), plan)

    def predict() -> Timing:
        step.net.eval()
        with torch.inference_mode():
            return drain(lambda: again(lambda: step.net(x)), device, seconds)

    name = f"{network}, {size} px, {network.precision}"
    return Case(f"training {name}", train), Case(f"prediction {name}", predict)


def measure_speed(
    networks: list[Network],
    bs: int,  # images a batch
    rounds: int,
    seconds: float,  # a measurement, at least
    device: torch.device,
    progress: Callable[[str], None] | None = None,
) -> dict:  # network -> training and prediction: median, min and max of images a second
    "Train and predict with each network in turns, so that what drifts hits all of them alike."
    unique = list(dict.fromkeys(networks))
    cases = [c for network in unique for c in speed_cases(network, bs, seconds, device)]
    records = [{k: r[k] for k in ("median", "min", "max")} for r in measure(cases, rounds, progress)]
    del cases
    gc.collect()
    return {n: dict(training=records[2 * i], prediction=records[2 * i + 1]) for i, n in enumerate(unique)}


# ---------------------------------------------------------------- all of it


def frontier(
    runs: Sequence[str | Path],  # folders of runs; seeds of one recipe as one folder, or with commas between them
    out: str | Path | None = None,  # a folder for frontier.json, .txt and .png; nothing is written where not given
    regions: Sequence[str] = (),  # whose scores the text shows besides; the document holds all of them
    bs: int = 64,  # images a batch, of the speeds
    rounds: int = 5,  # measurements of each speed; 0 for none
    seconds: float = 1.5,  # a measurement, at least
    n_boot: int = 2000,  # draws of patients for the intervals
    device: str | torch.device | None = None,  # the GPU where there is one
    progress: Callable[[str], None] | None = say,  # called with a line before each measurement
) -> dict:  # the document that frontier.json holds
    """Multiply-adds, parameters and images a second of each run's network, beside AUROC and average precision.

    Scores are those of `score_repeats`, of what each run reports (its valid rows, or all folds); multiply-adds of
    `network_cost` at the run's size. On the front is a run that no other beats: none has at least its AUROC for fewer
    multiply-adds, or a higher one for as many, by point estimates. `gain` is the paired difference (`compare`) between
    the best of the front and the next cheaper one there. `weights` of a run says what it started from. Raises
    `InputError` for runs on different studies, and for an unknown region.
    """
    if not runs:
        raise InputError("no run given; a run's folder holds settings.yaml (mura train makes one)")
    if out and Path(out).exists() and not Path(out).is_dir():
        raise InputError(f"{out}: a file; name a folder for the three files")  # not after minutes of measuring
    device = torch.device(device or default_device())
    arms, machine = read_arms(runs), hardware(device)
    known = sorted(set(arms[0].studies.region))
    unknown = [r for r in regions if r not in known]
    if unknown:
        raise InputError(f"no study of a region {unknown[0]!r} is scored; there are {', '.join(known)}")
    rows = [_row(arm, n_boot) for arm in arms]
    for row, on in zip(rows, pareto([(r["multiply_adds"], _auroc(r)) for r in rows]), strict=True):
        row["on_front"] = on
    speeds = measure_speed([a.network for a in arms], bs, rounds, seconds, device, progress) if rounds else {}
    for row, arm in zip(rows, arms, strict=True):
        row |= speeds.get(arm.network, dict(training=None, prediction=None))
    if progress:
        progress("")
    machine["load_after"] = load()
    document = dict(
        format=FORMAT, name=machine_name(machine), device=str(device), hardware=machine, data=about(arms[0]),
        settings=dict(bs=bs, rounds=rounds, seconds=seconds, n_boot=n_boot, regions=list(regions)),
        gain=_gain(arms, rows, n_boot), runs=rows,
    )  # fmt: skip
    document["headline"] = headline(document)
    if out:
        write_files(document, text(document), draw(document), Path(out) / "frontier")
    return document


def _row(arm: Arm, n_boot: int) -> dict:
    "What is known of an arm without running it."
    net = arm.network
    cost = network_cost(net.make(), net.size)
    scores = scores_to_json(score_repeats(arm.tables, n_boot=n_boot))
    told = dict(
        network=str(net), pretrained=bool(arm.settings.get("pretrained")), weights=weights_of(arm.settings)
    )  # fmt: skip
    return dict(name=arm.name, **net._asdict(), **told, seeds=len(arm.tables), **asdict(cost), scores=scores)


def weights_of(
    settings: dict,  # of a run
) -> str:  # "scratch", "file: NAME" or "hub: TAG", such as hub: a1_in1k
    "What a network started from."
    if settings.get("weights"):
        return f"file: {PurePath(settings['weights']).name}"
    if not settings.get("pretrained"):
        return "scratch"
    cfg = timm.models.get_pretrained_cfg(settings["arch"])
    return f"hub: {cfg.tag if cfg and cfg.tag else settings['arch']}"


def _auroc(row: dict) -> float:
    found = row["scores"]["overall"]["auroc"]
    return float("nan") if found is None else found


def _gain(arms: list[Arm], rows: list[dict], n_boot: int) -> dict | None:
    "What the best of the front has over the next cheaper one there; None where the front has no cheaper one."
    # Along the front more multiply-adds are always a higher AUROC; equals in both stand there together.
    front = sorted((i for i, r in enumerate(rows) if r["on_front"]), key=lambda i: rows[i]["multiply_adds"])
    cheaper = [i for i in front if rows[i]["multiply_adds"] < rows[front[-1]]["multiply_adds"]]
    if not cheaper:
        return None
    cheap, best = cheaper[-1], front[-1]
    table = compare(arms[cheap].tables, arms[best].tables, metrics=("auroc",), n_boot=n_boot)
    told = scores_to_json(table)["overall"]
    times = rows[best]["multiply_adds"] / rows[cheap]["multiply_adds"]
    diff, lo, hi = (told[f"auroc_diff{end}"] for end in ("", "_lo", "_hi"))
    return dict(best=rows[best]["name"], over=rows[cheap]["name"], times=times, auroc_diff=diff, lo=lo, hi=hi)
