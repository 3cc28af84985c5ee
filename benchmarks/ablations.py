"""What each part of `mura_cnn` is worth: networks that differ in one thing, trained alike on one split of FracAtlas.

    python benchmarks/ablations.py FRACATLAS OUT > benchmarks/ablations.txt

FracAtlas's valid rows are not looked at: the others are dealt out anew by patient, two thirds to learn from and a third
to score on. Every network has the same pictures, augmentation, epochs and schedule, and the weights of its last epoch
are scored, so that nothing is chosen. Predictions lie in OUT; what is there is not trained again, and `--report` tells
of it without training. Each difference of AUROC is paired, radiograph by radiograph, with a 95 % interval over patients
(`mura compare`), and held against what other seeds change.
"""

import argparse
import sys
import time
from pathlib import Path

import pandas as pd
import torch
from fastai.torch_core import set_seed
from telling import (
    COLUMNS,
    LEGEND,
    adjusted,
    command,
    common_options,
    differences,
    made_with,
    sentences,
    settle,
    which_seeds,
)
from torch import nn

from mura_fastai.data.loaders import mura_dls
from mura_fastai.data.reading import read_data
from mura_fastai.data.store import auto_store
from mura_fastai.data.studies import patient_split
from mura_fastai.models.cnn import SIZES, LocalContrast, MuraCNN, SmoothMaxPool, mura_cnn
from mura_fastai.models.cost import network_cost
from mura_fastai.models.heads import GeM
from mura_fastai.models.plain import PlainCNN
from mura_fastai.results.compare import compare
from mura_fastai.results.metrics import score
from mura_fastai.results.predict import predict_images
from mura_fastai.results.tables import read_predictions, write_predictions
from mura_fastai.training.learner import mura_learner


class ChannelAttention(nn.Module):
    "Squeeze and excitation (Hu et al. 2018, arXiv 1709.01507)."

    def __init__(self, channels: int):
        super().__init__()
        hidden = max(8, channels // 8)
        self.weigh = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, channels, 1),
            nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weigh(x)


def replaced(net: nn.Module, kind: type, make) -> nn.Module:
    "The network with each module of this kind replaced by what `make` makes of it."
    for name, module in list(net.named_modules()):
        if isinstance(module, kind):
            net.set_submodule(name, make(module))
    return net


def with_head(net: MuraCNN, pool: nn.Module, pooled: int) -> MuraCNN:
    net.pool = pool
    net.head[0], net.head[1] = nn.BatchNorm1d(pooled), nn.Linear(pooled, net.n_features)
    return net


class Standardised(nn.Module):
    "The grey picture alone, at the exposure that `LocalContrast` brings it to."

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return LocalContrast()(x)[:, : x.shape[1]]


def grey_alone() -> MuraCNN:
    net = mura_cnn()
    net.contrast = Standardised()
    net.stem[0] = nn.Conv2d(1, net.stem[0].out_channels, 3, padding=1, bias=False)
    return net


def residual_alone(size: int) -> MuraCNN:
    "Everything at once: what is left is a stem, three residual blocks and the plain network's end."
    net = replaced(grey_alone(), SmoothMaxPool, lambda m: nn.MaxPool2d(2))
    return with_head(net, nn.Flatten(), 96 * (size // 16) ** 2)


def with_attention() -> MuraCNN:
    net = mura_cnn()
    for stage in net.stages:
        branch = stage[0].branch
        branch.append(ChannelAttention(branch[-1][0].out_channels))
    return net


def with_dropout() -> MuraCNN:
    net = mura_cnn()
    for stage in net.stages:
        stage.append(nn.Dropout(0.2))
    return net


def without_batch_norm() -> MuraCNN:
    net = replaced(mura_cnn(), nn.BatchNorm2d, lambda m: nn.GroupNorm(m.num_features // 8, m.num_features))
    return replaced(net, nn.BatchNorm1d, lambda m: nn.LayerNorm(m.num_features))


# The last map of 96 px has 6 x 6 places.
NETS = {
    "mura_cnn": lambda size: mura_cnn(),
    "grey alone, no local contrast": lambda size: grey_alone(),
    "max-pool, not smoothed": lambda size: replaced(mura_cnn(), SmoothMaxPool, lambda m: nn.MaxPool2d(2)),
    "head: every place, no peak": lambda size: with_head(mura_cnn(), nn.Flatten(), 96 * (size // 16) ** 2),
    "no contrast, max-pools, every place": residual_alone,
    "head: mean and peak, no grid": lambda size: mura_cnn(grid=1),
    "head: generalised mean": lambda size: with_head(mura_cnn(), GeM(), 96),
    "channel attention": lambda size: with_attention(),
    "group norm, layer norm in head": lambda size: without_batch_norm(),
    "dropout .2 after every stage": lambda size: with_dropout(),
    "a fourth stage, 3 x 3 grid": lambda size: mura_cnn(widths=(16, 32, 48, 64, 96), grid=3),
    "mura_cnn_small": lambda size: mura_cnn(widths=SIZES["mura_cnn_small"]),
    "mura_cnn_large": lambda size: mura_cnn(widths=SIZES["mura_cnn_large"]),
    "plain_cnn": PlainCNN,
}
# What its files are called: the row's name of the time when folders that still exist were trained.
FORMERLY = {"no contrast, max-pools, every place": "these three at once"}
SETTINGS = ("size", "epochs", "bs", "lr")


def file_of(out: Path, name: str, seed: int) -> Path:
    "Where a network's predictions lie."
    plain = FORMERLY.get(name, name).replace(" ", "_").replace(",", "").replace(":", "")
    return out / f"{plain}-{seed}.csv"


def trained(images, net, seed: int, args, store, epochs: int | None = None, **options):
    "Predictions of the rows that are scored, after the last epoch. `net`: a name, or what makes it for a side."
    set_seed(seed, reproducible=True)
    dls = mura_dls(images, args.size, args.bs, store=store, max_bad=None)
    learn = mura_learner(dls, net if isinstance(net, str) else net(args.size), pretrained=False, **options)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(epochs or args.epochs, args.lr)
    return predict_images(learn, images[images.split == "tune"], store=store)


def parser(about: str, nets: list[str] | None = None) -> argparse.ArgumentParser:
    "The command line, with a choice of networks where there are some."
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("data", help="FracAtlas's folder")
    common_options(parser)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--bs", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    if nets:
        parser.add_argument("--only", nargs="+", default=nets, choices=nets, metavar="NET", help="some of the networks")
    return parser


def split_rows(args) -> tuple:
    "The rows to learn from (train) and to score on (tune), and their pixels where something is trained."
    images = read_data(args.data, "fracatlas", None, 0.05, 0, False, args.size)
    images = images[images.split != "valid"].reset_index(drop=True)
    images = patient_split(images.assign(split="train"), valid_pct=0.33, seed=5)
    images.loc[images.split == "valid", "split"] = "tune"
    return images, None if args.report else auto_store(images, args.size, None)


def header(told: str, args, kept: dict, images):
    "What was run, on what."
    print(told)
    print(f"{args.size} px, {args.epochs} epochs, batches of {args.bs}, highest learning rate {args.lr}")
    print(made_with(args, kept))
    learnt, scored = images[images.split == "train"], images[images.split == "tune"]
    print(f"{len(learnt)} to learn from, {len(scored)} scored ({(scored.label == 1).sum()} abnormal)")


def main():
    options = parser(__doc__, list(NETS))
    args = options.parse_args()
    kept = settle(args, SETTINGS)
    args.seeds = which_seeds(args, "mura_cnn")
    args.only = list(dict.fromkeys(["mura_cnn", *args.only]))  # the base first
    if args.report:
        args.only = [name for name in args.only if any(file_of(args.out, name, s).exists() for s in args.seeds)]
    images, store = split_rows(args)
    preds = {name: [] for name in args.only}
    for seed in args.seeds:  # all networks of one seed, then of the next: what is unfinished can be told already
        for name, tables in preds.items():
            file = file_of(args.out, name, seed)
            if not file.exists():
                if args.report:
                    continue
                started = time.perf_counter()
                write_predictions(trained(images, NETS[name], seed, args, store), file)
                print(f"{name}, seed {seed}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
            tables.append(read_predictions(file))
    header(command("ablations.py", options, args), args, kept, images)
    report(preds, args)


def report(preds: dict, args):
    "A row a network, each held against the first one."
    first, *others = preds
    table = compare(*preds.values(), names=list(preds), metrics=("auroc",)) if others else None
    minus = differences(table) if others else {}
    print(f"\n{'':36}{'M mult-adds':>12} {'AUROC':>7} {'':8} n  {COLUMNS}")
    for name, tables in preds.items():
        cost = network_cost(NETS[name](args.size), args.size).multiply_adds / 1e6
        aurocs = pd.Series([score(t, ci=None).loc["overall", "auroc"] for t in tables])
        spread = f"sd {aurocs.std():.3f}" if len(tables) > 1 else ""
        print(f"{name:36}{cost:12.0f} {aurocs.mean():7.3f} {spread:8} {len(tables)}  {minus.get(name, '')}".rstrip())
    print(f"n: trainings, sd: between them; difference: from {first}\n{LEGEND}")
    if others:
        print(f"{adjusted(others)}\n\n{sentences(table)}")


if __name__ == "__main__":
    main()
