"""What pooling the views inside the network is worth where one view alone shows the abnormality: a phantom, trained.

    python benchmarks/views_on_phantom.py PHANTOM OUT --seeds 0,1 > benchmarks/views_on_phantom.txt

A phantom is drawn at PHANTOM (where there is none yet) of which every abnormal study shows it in one view alone, and
its studies of three or four views are dealt out by patient. Four ways to learn from them, all else equal, as many
pictures a step too: single images with the study's label, their probabilities averaged; and whole studies, their
features pooled by mean, maximum and gated attention. The runs lie in OUT; one that is there already is not trained
again. Each difference of AUROC is paired, study by study, with a 95 % interval over patients (`mura compare`).
"""

import argparse
import os
import platform
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mura_fastai.data.phantom import make_phantom
from mura_fastai.data.store import build_store
from mura_fastai.data.studies import mura_images
from mura_fastai.results.compare import compare
from mura_fastai.results.metrics import score
from mura_fastai.results.pooling import to_studies
from mura_fastai.results.scoring import predictions_of
from mura_fastai.training.runs import train_run

ARMS = {"images": None, "mean": "mean", "max": "max", "attention": "attention"}


def dealt(images: pd.DataFrame, train: int, tune: int) -> pd.DataFrame:
    "Studies of three views and more: so many for training, so many to choose the epoch on, all others to score."
    images = images[images.groupby("study")["path"].transform("size") >= 3]
    studies = images.drop_duplicates("study").patient.value_counts()
    studies = studies.sample(frac=1, random_state=0)  # patients, in an order of their own
    before = studies.cumsum() - studies
    split = np.select([before < train, before < train + tune], ["train", "tune"], "valid")
    return images.assign(split=images.patient.map(dict(zip(studies.index, split.tolist(), strict=True)))).reset_index(
        drop=True
    )


def found(preds: pd.DataFrame, phantom: Path) -> tuple[int, int, float, float]:
    "Abnormal studies whose heaviest view is the one that shows it, of how many; by chance; that view's mean weight."
    truth = pd.read_csv(phantom / "phantom.csv")
    shows = truth[truth.shown == 1].path.unique()
    sick = preds[preds.label == 1]
    sick = sick.assign(shows=[p.removeprefix(f"{phantom.resolve().parent}/") in set(shows) for p in sick.path])
    top = sick.loc[sick.groupby("study").attention.idxmax()]
    by = sick.groupby("study").shows
    assert (by.sum() == 1).all()
    return int(top.shows.sum()), len(top), float(by.mean().mean()), float(sick.attention[sick.shows].mean())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("phantom", type=Path, help="where the phantom is, or will be")
    parser.add_argument("out", type=Path, help="folder for the runs")
    parser.add_argument("--studies", type=int, default=2600, help="of the phantom, those of one or two views too")
    parser.add_argument("--train", type=int, default=600, help="studies to train on")
    parser.add_argument("--tune", type=int, default=120, help="studies to choose the epoch on")
    parser.add_argument("--size", type=int, default=96, help="pixels")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--bs", type=int, default=16, help="studies a batch; of single images 3.3 times as many")
    parser.add_argument("--seeds", default="0", help="of weights and order, such as 0,1")
    parser.add_argument("--arms", default=",".join(ARMS), help=f"some of {', '.join(ARMS)}")
    parser.add_argument("--arch", default="mura_cnn")
    args = parser.parse_args()
    if not args.phantom.exists():
        make_phantom(args.phantom, args.studies, 0, args.size, one_view=1.0)
    images = dealt(mura_images(args.phantom), args.train, args.tune)
    store = build_store(images, args.out / "store", args.size)
    n = images.drop_duplicates("study").groupby("split").label.agg(["size", "sum"])
    print(" ".join(["python benchmarks/views_on_phantom.py PHANTOM OUT", *sys.argv[3:]]))
    threads = torch.get_num_threads()
    print(f"{platform.machine()}, {os.cpu_count()} cores, {threads} thread(s), PyTorch {torch.__version__}")
    print(f"{args.arch}, {args.size} px, {args.epochs} epochs, phantom of seed 0, {len(images)} images of studies:")
    for split in ("train", "tune", "valid"):
        print(f"  {split:6} {n['size'][split]:5} studies, {n['sum'][split]:4} abnormal")
    many = round(args.bs * len(images) / images.study.nunique())
    tables = {arm: [] for arm in args.arms.split(",")}
    for seed in map(int, args.seeds.split(",")):
        for arm in tables:
            run, began = args.out / f"{arm}-{seed}", time.perf_counter()
            if not (run / "weights" / "best.safetensors").exists():
                bs = many if arm == "images" else args.bs
                train_run(
                    images, run, args.arch, args.size, args.epochs, bs, seed=seed, store=store.path, views=ARMS[arm],
                    pretrained=False,
                )  # fmt: skip
            preds = predictions_of(run)
            tables[arm].append(preds)
            auroc = score(preds, ci=None).loc["overall", "auroc"]
            told = f"seed {seed}  {arm:10} AUROC {auroc:.3f}"
            if "attention" in preds and arm != "mean":
                hits, of, chance, weight = found(preds, args.phantom)
                told += f"  heaviest view shows it: {hits} of {of} ({hits / of:.0%}; by chance {chance:.0%}), "
                told += f"its mean weight {weight:.2f}"
            print(f"{told}  ({time.perf_counter() - began:.0f} s)", flush=True)
    if "images" in tables:
        tables["images, max"] = [to_studies(p, "max") for p in tables["images"]]
    print("\ndifferences of AUROC, mean over seeds, 95 % intervals over patients")
    for a, b in (("attention", "mean"), ("attention", "images"), ("attention", "images, max"), ("attention", "max"),
                 ("max", "mean"), ("mean", "images")):  # fmt: skip
        if a in tables and b in tables:
            one = tables[b] if len(tables[b]) > 1 else tables[b][0]
            two = tables[a] if len(tables[a]) > 1 else tables[a][0]
            row = compare(one, two, names=[b, a], metrics=("auroc",)).loc["overall"]
            diff, lo, hi = (row[f"auroc_diff{end}"] for end in ("", "_lo", "_hi"))
            print(f"{f'{a} - {b}':25} {diff:+.3f} [{lo:+.3f}, {hi:+.3f}]  p {row['auroc_p']:.2g}")


if __name__ == "__main__":
    main()
