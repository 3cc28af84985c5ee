"""Growth: what an image costs, in time and memory, in a data set of a thousand images and in one of forty thousand."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from shutil import disk_usage, rmtree
from statistics import median

import numpy as np
import pandas as pd

import mura_fastai
from mura_fastai.bench.measure import ram_gb, spread

SIZES = (1000, 4000, 16000, 40000)  # images; MURA has 40,561
CHUNK = 512  # images a write
SPARE = 2e9  # bytes of disk that stay free


def grow_store(
    array: np.ndarray,  # uint8, m x size x size: decoded images
    folder: Path,  # a new one
    n: int,  # images
):
    "Write a store of n images: those of another one, again and again."
    folder.mkdir(parents=True)
    size = array.shape[1]
    pixels = np.lib.format.open_memmap(folder / "pixels.npy", "w+", np.uint8, (n, size, size))
    for start in range(0, n, CHUNK):
        rows = np.arange(start, min(start + CHUNK, n))
        pixels[rows] = array[rows % len(array)]
    pixels.flush()
    del pixels
    rows = pd.DataFrame({"path": [f"image{i}.png" for i in range(n)], "state": "", "status": 1, "reason": ""})
    rows.to_csv(folder / "index.csv", index=False, lineterminator="\r\n")


def grow_table(
    images: pd.DataFrame,  # an images table
    n: int,  # images
) -> pd.DataFrame:  # n rows: train, and a batch's worth of tune; the paths of `grow_store`
    "The table of such a store."
    table = images.iloc[np.arange(n) % len(images)].reset_index(drop=True)
    tune = np.arange(n) >= n - max(1, n // 20)
    return table.assign(path=[f"image{i}.png" for i in range(n)], split=np.where(tune, "tune", "train"))


def memory() -> dict:  # anonymous and resident, in MB; None where the system does not tell
    "What this process holds: `anonymous` is its own, `resident` also the pages of mapped files that are in memory."
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return dict(anonymous=int(lines["RssAnon"].split()[0]) / 1024, resident=int(lines["VmRSS"].split()[0]) / 1024)
    except (OSError, KeyError):
        return dict(anonymous=None, resident=None)


class Peak(threading.Thread):
    "Looks at the memory of this process again and again, and keeps the highest values."

    def __init__(
        self,
        every: float = 0.02,  # seconds
    ):
        super().__init__(daemon=True)
        self.every, self.done, self.highest = every, threading.Event(), memory()

    def run(self):
        while not self.done.wait(self.every):
            for kind, value in memory().items():
                if value is not None:
                    self.highest[kind] = max(self.highest[kind], value)

    def stop(self) -> dict:
        self.done.set()
        self.join()
        return self.highest


# ---------------------------------------------------------------- in a process of its own


def serve(
    folder: Path,  # holds store/ and images.csv
    bs: int,  # images a batch
    images: int,  # a measurement, at least: whole epochs of them
    seconds: float,  # a measurement, at least
    device: str,  # such as cpu
):
    "Open a store of one size, and measure an epoch or several for every line that comes in; answers are lines of JSON."
    import torch

    from mura_fastai.bench.measure import synchronize
    from mura_fastai.data.loaders import mura_dls
    from mura_fastai.data.store import Store

    peak, on = Peak(), torch.device(device)
    peak.start()
    table = pd.read_csv(folder / "images.csv", dtype={"view": "Int64"}, keep_default_na=False)
    started = time.perf_counter()
    store = Store(folder / "store")
    opened = time.perf_counter() - started
    dls = mura_dls(table, size=store.size, bs=bs, store=store, batch_tfms=[], resident=False, device=on)
    made = time.perf_counter() - started - opened
    _tell(dict(open_s=opened, loaders_s=made))
    for line in sys.stdin:
        if line.strip() == "end":
            break
        spent, steady, firsts, counted, after_first = 0.0, 0.0, [], 0, 0
        while counted < images or spent < seconds:
            began = now = time.perf_counter()
            for i, batch in enumerate(dls.train):
                if i == 0:
                    firsts.append(time.perf_counter() - began)
                    now = time.perf_counter()
                else:
                    after_first += len(batch[0])
                counted += len(batch[0])
            synchronize(on)
            spent += time.perf_counter() - began
            steady += time.perf_counter() - now
        _tell(
            dict(images=counted, us_an_image=spent / counted * 1e6, us_steady=steady / max(after_first, 1) * 1e6,
                 first_batch_ms=median(firsts) * 1e3)
        )  # fmt: skip
    _tell(peak.stop())


def _tell(answer: dict):
    print(json.dumps(answer), flush=True)


class Process:
    "A process of its own that holds a store of one size."

    def __init__(
        self,
        folder: Path,  # holds store/ and images.csv
        bs: int,  # images a batch
        images: int,  # a measurement, at least
        seconds: float,  # a measurement, at least
        device: str,
    ):
        here = str(Path(mura_fastai.__file__).parents[1])
        paths = os.pathsep.join(p for p in (here, os.environ.get("PYTHONPATH")) if p)
        # fastai scripts a function as it is imported, and PyTorch warns of it: once in the user's process is enough.
        quiet = ["-W", "ignore:`torch.jit.script` is deprecated:FutureWarning"]
        told = [str(x) for x in (folder, bs, images, seconds, device)]
        words = [sys.executable, *quiet, "-m", "mura_fastai.bench.growth", *told]
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": paths}
        )
        self.opened = self._answer()

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a process that measured growth ended by itself (exit code {self.process.wait()})")
        return json.loads(line)

    def measure(self) -> dict:
        "One measurement."
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self._answer()

    def end(self) -> dict:  # its memory at the highest
        self.process.stdin.write("end\n")
        self.process.stdin.flush()
        highest = self._answer()
        self.process.stdin.close()
        self.process.wait()
        return highest

    def kill(self):
        self.process.kill()
        self.process.wait()


# ---------------------------------------------------------------- in the process that compares them


def bench_growth(
    array: np.ndarray,  # uint8, m x size x size: decoded images
    images: pd.DataFrame,  # their images table
    folder: Path,  # a temporary one, on the disk where stores are kept
    sizes: tuple[int, ...] = SIZES,  # images
    bs: int = 64,  # images a batch
    rounds: int = 5,
    seconds: float = 1.5,  # a measurement, at least
    device: str = "cpu",
    progress: Callable[[str], None] | None = None,
) -> dict:  # sizes: a record each; flatness; left out
    "The same measurement in data sets of growing size, each in a process of its own, in turns."
    say = progress or (lambda line: None)
    folder.mkdir(parents=True, exist_ok=True)
    fitting, left_out = those_that_fit(sizes, array[0].size, disk_usage(folder).free, ram_gb())
    running = {}
    try:
        for n in fitting:
            say(f"growth: writing a store of {n} images")
            grow_store(array, folder / str(n) / "store", n)
            grow_table(images, n).to_csv(folder / str(n) / "images.csv", index=False)
            running[n] = Process(folder / str(n), bs, max(fitting), seconds, device)
        turns = {n: [] for n in running}
        for turn in range(rounds + 1):
            order = list(running)
            for n in order[turn % max(len(order), 1) :] + order[: turn % max(len(order), 1)]:
                say(f"growth: {n} images, {f'round {turn} of {rounds}' if turn else 'warm-up'}")
                answer = running[n].measure()
                if turn:
                    turns[n].append(answer)
        records = [_record(n, turns[n], running[n].opened, running[n].end()) for n in running]
    finally:
        for process in running.values():
            process.kill()
        rmtree(folder, ignore_errors=True)
    return dict(sizes=records, left_out=left_out, **flatness(records))


def those_that_fit(
    sizes: tuple[int, ...],  # images
    bytes_an_image: int,
    free: float,  # bytes of disk
    ram: float | None,  # GB of memory
) -> tuple[list[int], list[str]]:  # the sizes that fit; a line about each of the others
    "All stores lie on disk at once, and in the page cache, since they are measured in turns and warm."
    fitting, left_out, taken = [], [], 0
    for n in sorted(sizes):
        taken += n * bytes_an_image
        if taken > free - SPARE:
            left_out.append(
                f"{n:,} images: {taken / 1e9:.1f} GB in all are too much for {free / 1e9:.1f} GB of free disk"
            )
        elif ram is not None and taken > 0.7 * ram * 2**30:
            left_out.append(f"{n:,} images: {taken / 1e9:.1f} GB in all would not stay in {ram} GB of memory")
        else:
            fitting.append(n)
            continue
        taken -= n * bytes_an_image
    return fitting, left_out


def _record(n: int, turns: list[dict], opened: dict, highest: dict) -> dict:
    "The figures of one size."
    return dict(
        n=n, images=[t["images"] for t in turns], us_an_image=spread([t["us_an_image"] for t in turns]),
        rounds=[round(t["us_an_image"], 3) for t in turns], us_steady=spread([t["us_steady"] for t in turns]),
        first_batch_ms=spread([t["first_batch_ms"] for t in turns]), **opened,
        anonymous_mb=highest["anonymous"], resident_mb=highest["resident"],
    )  # fmt: skip


def flatness(
    records: list[dict],  # one a size
) -> dict:  # cost: the dearest size over the cheapest; memory_mb: the largest less the smallest
    "How much the cost of an image and the memory change with the size of the data set."
    if not records:
        return dict(cost=None, memory_mb=None)
    costs = [r["us_an_image"]["median"] for r in records]
    held = [r["anonymous_mb"] for r in records]
    by_round = [max(turn) / min(turn) for turn in zip(*(r["rounds"] for r in records), strict=True)]
    return dict(
        cost=dict(median=max(costs) / min(costs), min=min(by_round), max=max(by_round)),
        memory_mb=None if None in held else max(held) - min(held),
    )


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), sys.argv[5])
