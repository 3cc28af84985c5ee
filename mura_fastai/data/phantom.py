"""A synthetic MURA: invented radiographs in MURA's exact layout, with the truth about every abnormality beside them.

`phantom.csv` in the root has a row for each image and finding (`path, study, kind, form, shown, x0, y0, x1, y1`): the
kind of abnormality (normal, fracture, hardware, degenerative, other), whether this view shows it, and its box in pixels
of the file, empty where the view does not show it. Nothing here is made from anybody's radiographs.
"""

import csv
import math
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path

import numpy as np

from mura_fastai.data.phantom_views import REGIONS, Study, draw_study
from mura_fastai.data.pixels import MIN_SIDE
from mura_fastai.data.studies import mura_images
from mura_fastai.errors import InputError
from mura_fastai.files import FULL, refuse_file

try:
    import fcntl
except ImportError:  # Windows: what a killed process left stays there
    fcntl = None

COLUMNS = ("path", "study", "kind", "form", "shown", "x0", "y0", "x1", "y1")
# The narrowest view is then as wide as an image must be to be read at all.
SMALLEST = math.ceil(MIN_SIDE / min(region.aspect[0] for region in REGIONS.values()))


def make_phantom(
    root,  # folder to fill; it is the dataset's own folder, as MURA-v1.1 is
    studies: int = 400,  # studies in all, a fifth of them valid
    seed: int = 0,  # same seed and versions, same bytes
    size: int = 512,  # longest side of the pictures, pixels; `SMALLEST` at the least
    workers: int | None = None,  # processes; a core each where not given, and none for small phantoms
    progress=None,  # called with (studies done, studies in all) as they are made
    one_view: float | None = None,  # share of studies of which one view alone shows what is abnormal; a fifth or so
):
    """Write a phantom and return its images table (`mura_images(root)`). It is whole or not there.

    InputError on a folder that holds something or cannot be written; OSError where the disk is full, naming the space.
    """
    root = Path(root).resolve()
    if studies < 10 or size < SMALLEST:
        raise InputError(
            f"a phantom needs at least 10 studies of {SMALLEST} pixels, not {studies} of {size}: raise studies or size "
            f"(narrower views would have a side under {MIN_SIDE} pixels, too small to train on)"
        )
    refuse_file(root)
    if root.exists() and any(root.iterdir()):
        raise InputError(f"{root} is not an empty folder: name a new one, or remove it first")
    if one_view is not None and not 0 <= one_view <= 1:
        raise InputError(f"one_view is {one_view}: give a share of the studies, from 0 to 1")
    plan = plan_studies(studies, seed)
    rows = []
    with _beside(root) as making:
        draw = partial(write_study, making, root.name, seed, size, one_view=one_view)
        try:
            for new in _map(draw, plan, size, workers):
                rows.append(new)
                if progress:
                    progress(len(rows), len(plan))
            _write_tables(making, root.name, plan, [row for new in rows for row in new])
        except OSError as e:
            if e.errno not in FULL:
                raise
            drawn = sum(f.stat().st_size for f in making.rglob("*.png")) * len(plan) / max(len(rows), 1) / 1e6
            raise OSError(e.errno, f"{e.strerror}; {studies} studies need about {drawn:.0f} MB", str(root)) from None
        making.chmod(0o755)
        try:
            if root.exists():
                root.rmdir()
            making.rename(root)
        except OSError:
            if not root.exists() or not any(root.iterdir()):
                raise
            raise InputError(f"{root}: another process has filled it meanwhile; name a new folder") from None
    return mura_images(root)


@contextmanager
def _beside(root: Path) -> Iterator[Path]:
    """A new folder beside `root`'s place, which goes unless it was moved: half a phantom never passes for a whole one.

    Its process holds a lock on it; those that nobody holds are of killed ones, and are taken away.
    """
    prefix = f".{root.name}-drawing-"
    with ExitStack() as kept:
        try:
            root.parent.mkdir(parents=True, exist_ok=True)
            with _held(root.parent, wait=True):  # nobody looks between a folder and its lock
                for old in [f for f in root.parent.iterdir() if f.name.startswith(prefix)]:
                    with _held(old) as nobodys:
                        if nobodys:
                            shutil.rmtree(old, ignore_errors=True)
                making = Path(tempfile.mkdtemp(prefix=prefix, dir=root.parent))
                kept.callback(shutil.rmtree, making, ignore_errors=True)
                kept.enter_context(_held(making))
        except OSError as e:
            fault = f"no phantom can be drawn there ({e.strerror or e})"
            raise InputError(f"{root}: {fault}; choose another folder") from None
        yield making


@contextmanager
def _held(folder: Path, wait: bool = False) -> Iterator[bool]:
    "Lock a folder; whether this process has it now. The system takes the lock from a process that ends."
    number = None
    if fcntl is not None:
        with suppress(OSError):  # held by another, gone, or on a file system without such locks
            opened = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                number = opened
            finally:
                if number is None:
                    os.close(opened)
    try:
        yield number is not None
    finally:
        if number is not None:
            os.close(number)


def is_phantom(
    root: str | Path,  # a dataset's folder
) -> bool:
    "Whether its radiographs are drawn: the file that tells the truth of each gives it away."
    return (Path(root) / "phantom.csv").exists()


def plan_studies(studies: int, seed: int) -> list[Study]:
    "Which studies there are: splits, regions, labels and patients, the shares met as closely as whole numbers allow."
    rng = np.random.default_rng(np.random.SeedSequence([seed, 1]))
    plan, patient = [], 0
    for split, count in (("train", studies - round(studies / 5)), ("valid", round(studies / 5))):
        wanted = [
            (r, y) for r, n in _shares(count).items() for y in (0, 1) for _ in range(_part(n, REGIONS[r].abnormal, y))
        ]
        wanted = [wanted[i] for i in rng.permutation(len(wanted))]
        numbers = {}
        while wanted:
            patient += 1
            for _ in range(min(int(rng.choice([1, 2, 3], p=[0.84, 0.12, 0.04])), len(wanted))):
                region, label = wanted.pop()
                k = numbers[patient, region] = numbers.get((patient, region), 0) + 1
                plan.append(Study(len(plan), split, region, patient, k, label))
    return plan


def _shares(count: int) -> dict[str, int]:
    "Studies of each region, by largest remainder."
    exact = {r: count * x.share for r, x in REGIONS.items()}
    whole = {r: int(x) for r, x in exact.items()}
    for r in sorted(exact, key=lambda r: whole[r] - exact[r])[: count - sum(whole.values())]:
        whole[r] += 1
    return whole


def _part(n: int, abnormal: float, label: int) -> int:
    "Studies with a label among `n`; both labels from two studies on."
    sick = min(max(round(n * abnormal), 1), n - 1) if n > 1 else round(n * abnormal)
    return sick if label else n - sick


def _map(draw, plan: list[Study], size: int, workers: int | None):
    "`draw` over the plan in order, in processes where that pays."
    workers = workers or (1 if len(plan) * size * size < 3e6 else _cores())
    if workers == 1:
        yield from map(draw, plan)
        return
    # fork starts at once and never runs the caller's script again, as spawn does; the children only draw and write
    context = get_context("fork" if sys.platform == "linux" else "spawn")
    # Ctrl-C reaches the children too: this process alone answers it, and then draws no more
    pool = ProcessPoolExecutor(workers, context, _begin_worker)
    try:
        yield from pool.map(draw, plan, chunksize=4)
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_worker():
    "In a child, at first. It ends with its parent: killed, that could not tell it so, and it would wait for ever."
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end_with_parent():
        parent_process().join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _cores() -> int:
    "Cores this process may use."
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def write_study(
    root: Path, name: str, seed: int, size: int, study: Study, one_view: float | None = None
) -> list[tuple]:
    "Draw and save the views of one study; its rows of `phantom.csv`, which call the root `name`."
    folder = root / study.folder
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i, (picture, findings) in enumerate(draw_study(seed, study, size, one_view=one_view), 1):
        picture.save(folder / f"image{i}.png", compress_level=1)
        path = f"{name}/{study.folder}/image{i}.png"
        rows += [(path, study.key, f.kind, f.form, int(box is not None), *(box or ("",) * 4)) for f, box in findings]
        rows += [(path, study.key, "normal", "", 0, "", "", "", "")] if not findings else []
    return rows


def _write_tables(root: Path, name: str, plan: list[Study], rows: list[tuple]):
    "MURA's four CSVs and `phantom.csv`, in the order of region, patient and study."
    plan = sorted(plan, key=lambda s: (s.split, s.region, s.patient, s.study))
    order = {f"{name}/{s.folder}": i for i, s in enumerate(plan)}
    rows = sorted(rows, key=lambda r: order[r[0].rpartition("/")[0]])
    for split in ("train", "valid"):
        studies = [(f"{name}/{s.folder}/", s.label) for s in plan if s.split == split]
        paths = dict.fromkeys(r[0] for r in rows if r[0].startswith(f"{name}/{split}/"))
        _write_csv(root / f"{split}_labeled_studies.csv", studies)
        _write_csv(root / f"{split}_image_paths.csv", [(p,) for p in paths])
    _write_csv(root / "phantom.csv", [COLUMNS, *rows])


def _write_csv(path: Path, rows):
    with open(path, "w", newline="", encoding="utf-8") as f:
        csv.writer(f, lineterminator="\n").writerows(rows)
