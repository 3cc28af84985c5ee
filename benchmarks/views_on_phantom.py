"""What pooling the views inside the network is worth where one view alone shows the abnormality: a phantom, trained.

    python benchmarks/views_on_phantom.py PHANTOM OUT --seeds 0 > benchmarks/views_on_phantom.txt

A phantom is drawn at PHANTOM (where there is none yet) of which every abnormal study shows it in one view alone. Its
studies of three or four views, normal ones and those with hardware (what so few pixels can show), are dealt out to
train and valid; train holds as many of either label. Four ways to learn from them, all else equal, the pictures of a
step too: single images with their study's label, the probabilities averaged (or the largest taken); and whole studies,
their features pooled by mean, maximum and gated attention. The weights are those of the last epoch, so that nothing is
chosen. Predictions lie in OUT; what is there is not trained again. Each difference of AUROC is paired, study by study,
with a 95 % interval over patients (`mura compare`).
"""

import argparse
import os
import platform
import sys
import time
from pathlib import Path

import pandas as pd
import torch
from ablations import same_settings
from fastai.torch_core import set_seed

from mura_fastai.data.loaders import mura_dls
from mura_fastai.data.phantom import make_phantom
from mura_fastai.data.store import build_store
from mura_fastai.data.studies import mura_images
from mura_fastai.models.cnn import MuraCNN
from mura_fastai.results.compare import compare
from mura_fastai.results.metrics import score
from mura_fastai.results.pooling import to_studies
from mura_fastai.results.predict import predict_images
from mura_fastai.results.tables import read_predictions, write_predictions
from mura_fastai.training.learner import mura_learner

ARMS = {"attention": "attention", "mean": "mean", "images": None, "max": "max"}
PAIRS = [
    ("attention", "mean"), ("attention", "images"), ("attention", "images, max"), ("attention", "max"),
    ("max", "mean"), ("mean", "images"),
]  # fmt: skip


def dealt(phantom: Path, kind: str, train: int, tune: int) -> pd.DataFrame:
    "Studies of three views and more, normal or with this kind of finding: so many of either label, the rest valid."
    images, truth = mura_images(phantom), pd.read_csv(phantom / "phantom.csv")
    images = images[images.groupby("study")["path"].transform("size") >= 3]
    images = images[(images.label == 0) | images.study.isin(truth.study[truth.kind == kind])]
    studies = images.drop_duplicates("study").sample(frac=1, random_state=0)
    rank = studies.groupby("label").cumcount()
    studies["part"] = "valid"
    studies.loc[rank < train + tune, "part"] = "tune"
    studies.loc[rank < train, "part"] = "train"
    # A patient with studies on both sides is scored by none of them.
    seen = set(studies.patient[studies.part != "valid"])
    studies = studies[(studies.part != "valid") | ~studies.patient.isin(seen)]
    images = images[images.study.isin(studies.study)]
    return images.assign(split=images.study.map(studies.set_index("study").part)).reset_index(drop=True)


def trained(images: pd.DataFrame, store, views: str | None, seed: int, args) -> pd.DataFrame:
    "Predictions of the valid rows, after the last epoch."
    set_seed(seed, reproducible=True)
    by, bs = ("image", round(3.3 * args.bs)) if views is None else ("study", args.bs)
    dls = mura_dls(images, args.size, bs, store=store, by=by)
    learn = mura_learner(dls, MuraCNN(grid=1, hidden=64), views=views)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(args.epochs, args.lr)
    return predict_images(learn, images[images.split == "valid"], store=store)


def found(preds: pd.DataFrame, phantom: Path) -> str:
    "How often the heaviest view of an abnormal study is the one that shows it."
    truth = pd.read_csv(phantom / "phantom.csv")
    shows = {str(phantom.resolve().parent / path) for path in truth.path[truth.shown == 1]}
    sick = preds[preds.label == 1].assign(shows=lambda t: t.path.isin(shows))
    by = sick.groupby("study")
    assert (by.shows.sum() == 1).all()
    hits, of = int(sick.shows[by.attention.idxmax()].sum()), by.ngroups
    weight, chance = sick.attention[sick.shows].mean(), by.shows.mean().mean()
    return f"the view that shows it weighs most in {hits} of {of}, {weight:.2f} in the mean (by chance {chance:.2f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("phantom", type=Path, help="where the phantom is, or will be")
    parser.add_argument("out", type=Path, help="folder for the predictions")
    parser.add_argument("--kind", default="hardware", help="of abnormality; studies with others alone are left out")
    parser.add_argument("--studies", type=int, default=5000, help="of the phantom, those of one or two views too")
    parser.add_argument("--train", type=int, default=360, help="studies of either label to train on")
    parser.add_argument("--tune", type=int, default=20, help="of either label, that loaders need; nothing is chosen")
    parser.add_argument("--size", type=int, default=64, help="pixels; the phantom is drawn at 96")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--bs", type=int, default=16, help="studies a batch; of single images 3.3 times as many")
    parser.add_argument("--seeds", default="0", help="of weights and order, such as 0,1")
    parser.add_argument("--arms", default=",".join(ARMS), help=f"some of {', '.join(ARMS)}")
    args = parser.parse_args()
    same_settings(args, ("kind", "studies", "train", "tune", "size", "epochs", "lr", "bs"))
    if not args.phantom.exists():
        make_phantom(args.phantom, args.studies, 0, 96, one_view=1.0)
    images = dealt(args.phantom, args.kind, args.train, args.tune)
    store = build_store(images, args.out / f"store-{args.size}", args.size)
    n = images.drop_duplicates("study").groupby("split").label.agg(["size", "sum"])
    threads = torch.get_num_threads()
    print(" ".join(["python benchmarks/views_on_phantom.py PHANTOM OUT", *sys.argv[3:]]))
    print(f"{platform.machine()}, {os.cpu_count()} cores, {threads} thread(s), PyTorch {torch.__version__}")
    print(f"MuraCNN(grid=1, hidden=64), {args.size} px, {args.epochs} epochs, highest learning rate {args.lr:g}")
    for split in ("train", "valid"):
        print(f"  {split:6} {n['size'][split]:5} studies, {n['sum'][split]:4} abnormal")
    tables = {arm: [] for arm in args.arms.split(",")}
    for seed in map(int, args.seeds.split(",")):
        for arm in tables:
            file, began, worked = args.out / f"{arm}-{seed}.csv", time.perf_counter(), time.process_time()
            if not file.exists():
                write_predictions(trained(images, store, ARMS[arm], seed, args), file)
            preds = read_predictions(file)
            tables[arm].append(preds)
            auroc = score(preds, ci=None).loc["overall", "auroc"]
            told = f"seed {seed}  {arm:10} AUROC {auroc:.3f}  "
            told += f"({time.process_time() - worked:.0f} s of a core, {time.perf_counter() - began:.0f} s)"
            told += f"  {found(preds, args.phantom)}" if arm in ("attention", "max") else ""
            print(told, flush=True)
    if "images" in tables:
        tables["images, max"] = [to_studies(p, "max") for p in tables["images"]]
    print("\ndifferences of AUROC, mean over seeds, 95 % intervals over patients")
    for a, b in PAIRS:
        if a in tables and b in tables:
            row = compare(tables[b], tables[a], names=[b, a], metrics=("auroc",)).loc["overall"]
            diff, lo, hi = (row[f"auroc_diff{end}"] for end in ("", "_lo", "_hi"))
            print(f"{f'{a} - {b}':25} {diff:+.3f} [{lo:+.3f}, {hi:+.3f}]  p {row['auroc_p']:.2g}")


if __name__ == "__main__":
    main()
