"""What pooling the views inside the network is worth where one view alone shows the abnormality: a phantom, trained.

    python benchmarks/views_on_phantom.py PHANTOM OUT > benchmarks/views_on_phantom.txt

A phantom of which every abnormal study shows it in one view alone is drawn in the folder PHANTOM, where there is none
yet of this seed, number and size. Seed 0 is the one that size, epochs, learning rate and network were found on: another
one is scored. Its studies of three or four views, normal ones and those with hardware (what so few pixels can show),
are dealt out to train and valid; train holds as many of either label. Four ways to learn from them, all else equal, the
pictures of a step too: single images with their study's label, the probabilities averaged (or the largest taken); and
whole studies, their features pooled by mean, maximum and gated attention. The weights are those of the last epoch, so
that nothing is chosen. Predictions lie in OUT; what is there is not trained again. Each difference of AUROC is paired,
study by study, with a 95 % interval over patients (`mura compare`), and held against what other seeds change.
"""

import argparse
import sys
import time
from pathlib import Path

import pandas as pd
from fastai.torch_core import set_seed
from telling import COLUMNS, LEGEND, command, common_options, differences, made_with, sentences, settle, which_seeds

from mura_fastai.data.loaders import mura_dls
from mura_fastai.data.phantom import is_phantom, make_phantom
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
SETTINGS = ("kind", "studies", "phantom_seed", "train", "tune", "size", "epochs", "lr", "bs")
DRAWN, TUNED_ON = 96, 0  # pixels of the phantom's longer side; the seed of the phantom that settings were found on


def drawn(folder: Path, studies: int, seed: int) -> Path:
    "The phantom of this seed; its folder's name says all that it was drawn with."
    if is_phantom(folder):
        sys.exit(f"{folder}: a phantom, and it does not tell its seed; name a folder to draw one in")
    root = folder / f"one-view-{studies}-studies-{DRAWN}-px-seed-{seed}"
    if not root.exists():
        make_phantom(root, studies, seed, DRAWN, one_view=1.0)
    return root


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


def parser() -> argparse.ArgumentParser:
    "The command line."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("phantom", type=Path, help="folder where phantoms are, or will be")
    common_options(parser)
    parser.add_argument("--phantom-seed", type=int, default=1, help=f"its settings were found on seed {TUNED_ON}")
    parser.add_argument("--kind", default="hardware", help="of abnormality; studies with others alone are left out")
    parser.add_argument("--studies", type=int, default=5000, help="of the phantom, those of one or two views too")
    parser.add_argument("--train", type=int, default=360, help="studies of either label to train on")
    parser.add_argument("--tune", type=int, default=20, help="of either label, that loaders need; nothing is chosen")
    parser.add_argument("--size", type=int, default=64, help=f"pixels; the phantom is drawn at {DRAWN}")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--bs", type=int, default=16, help="studies a batch; of single images 3.3 times as many")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    return parser


def header(args, kept: dict, images: pd.DataFrame):
    "What was run, on what."
    print(command("views_on_phantom.py", parser(), args))
    same = "settings were found on it" if args.phantom_seed == TUNED_ON else f"settings were found on seed {TUNED_ON}"
    print(
        f"phantom of seed {args.phantom_seed} ({same}), {args.studies} studies, {DRAWN} px; abnormal: {args.kind} alone"
    )
    print(
        f"MuraCNN(grid=1, hidden=64), {args.size} px, {args.epochs} epochs, highest learning rate {args.lr:g},", end=" "
    )
    print(f"batches of {args.bs} studies or {round(3.3 * args.bs)} images")
    print(made_with(args, kept))
    n = images.drop_duplicates("study").groupby("split").label.agg(["size", "sum"])
    for split in ("train", "valid"):
        print(f"  {split:6} {n['size'][split]:5} studies, {n['sum'][split]:4} abnormal")


def main():
    args = parser().parse_args()
    kept = settle(args, SETTINGS)
    phantom = drawn(args.phantom, args.studies, args.phantom_seed)
    images = dealt(phantom, args.kind, args.train, args.tune)
    store = build_store(images, args.out / f"store-{args.size}", args.size)
    if args.report:
        args.arms = [arm for arm in args.arms if any(args.out.glob(f"{arm}-[0-9]*.csv"))]
    args.seeds = which_seeds(args, args.arms[0])
    header(args, kept, images)
    tables = {arm: [] for arm in args.arms}
    for seed in args.seeds:
        for arm in tables:
            file, began, worked = args.out / f"{arm}-{seed}.csv", time.perf_counter(), time.process_time()
            spent = ""
            if not file.exists():
                if args.report:
                    continue
                write_predictions(trained(images, store, ARMS[arm], seed, args), file)
                spent = f"  ({time.process_time() - worked:.0f} s of a core, {time.perf_counter() - began:.0f} s)"
            preds = read_predictions(file)
            tables[arm].append(preds)
            auroc = score(preds, ci=None).loc["overall", "auroc"]
            told = f"  {found(preds, phantom)}" if arm in ("attention", "max") else ""
            print(f"seed {seed}  {arm:10} AUROC {auroc:.3f}{spent}{told}", flush=True)
    if "images" in tables:
        tables["images, max"] = [to_studies(p, "max") for p in tables["images"]]
    pairs = [(a, b) for a, b in PAIRS if a in tables and b in tables]
    compared = {(a, b): compare(tables[b], tables[a], names=[b, a], metrics=("auroc",)) for a, b in pairs}
    print(f"\n{'AUROC, mean over seeds':25} {COLUMNS}")
    for (a, b), table in compared.items():
        print(f"{f'{a} - {b}':25} {differences(table)[a]}")
    print(f"{LEGEND}\n")
    print(*(sentences(table) for table in compared.values()), sep="\n")


if __name__ == "__main__":
    main()
