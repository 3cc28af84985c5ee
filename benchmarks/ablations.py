"""What each part of `mura_cnn` is worth: networks that differ in one thing, trained alike on one split of FracAtlas.

    python benchmarks/ablations.py FRACATLAS OUT --seeds 0 1 2 > benchmarks/ablations.txt

FracAtlas's valid rows are not looked at: the others are dealt out anew by patient, two thirds to learn from and a third
to score on. Every network has the same pictures, augmentation, epochs and schedule, and the weights of its last epoch
are scored, so that nothing is chosen. Predictions lie in OUT; what is there is not trained again. Each difference of
AUROC is paired, radiograph by radiograph, with a 95 % interval over patients (`mura compare`); the spread between
seeds stands beside it, and is no part of it.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from fastai.torch_core import default_device, set_seed
from torch import nn

from mura_fastai.bench.measure import hardware
from mura_fastai.bench.report import machine_lines
from mura_fastai.data.loaders import mura_dls
from mura_fastai.data.reading import read_data
from mura_fastai.data.store import auto_store
from mura_fastai.data.studies import patient_split
from mura_fastai.models.cnn import SIZES, LocalContrast, MuraCNN, SmoothMaxPool, mura_cnn
from mura_fastai.models.cost import network_cost
from mura_fastai.models.heads import GeM
from mura_fastai.models.plain import PlainCNN
from mura_fastai.provenance import checkout
from mura_fastai.results.compare import compare
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
    "these three at once": residual_alone,
    "head: mean and peak, no grid": lambda size: mura_cnn(grid=1),
    "head: generalised mean": lambda size: with_head(mura_cnn(), GeM(), 96),
    "channel attention": lambda size: with_attention(),
    "group norm, layer norm in head": lambda size: without_batch_norm(),
    "dropout .2 after every stage": lambda size: with_dropout(),
    "a fourth stage, 3 x 3 grid": lambda size: mura_cnn(widths=(16, 32, 48, 64, 96), grid=3),
    "two blocks a stage": lambda size: mura_cnn(depth=2),
    "mura_cnn_small": lambda size: mura_cnn(widths=SIZES["mura_cnn_small"]),
    "mura_cnn_large": lambda size: mura_cnn(widths=SIZES["mura_cnn_large"]),
    "plain_cnn": PlainCNN,
}


def trained(images, net, seed: int, args, store, epochs: int | None = None, **options):
    "Predictions of the rows that are scored, after the last epoch. `net`: a name, or what makes it for a side."
    set_seed(seed, reproducible=True)
    dls = mura_dls(images, args.size, args.bs, store=store, max_bad=None)
    learn = mura_learner(dls, net if isinstance(net, str) else net(args.size), pretrained=False, **options)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(epochs or args.epochs, args.lr)
    return predict_images(learn, images[images.split == "tune"], store=store)


def parsed(about: str, names: list[str] | None = None) -> argparse.Namespace:
    "The command line."
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("data", help="FracAtlas's folder")
    parser.add_argument("out", type=Path, help="folder for predictions")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--bs", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    if names:
        parser.add_argument(
            "--only", nargs="+", default=names, choices=names, metavar="NET", help="some of the networks"
        )
    args = parser.parse_args()
    same_settings(args)
    return args


def same_settings(args, names: tuple = ("size", "epochs", "bs", "lr")):
    "What lies in OUT was trained alike, or nothing of it may be taken for it."
    told = json.dumps({k: vars(args)[k] for k in names} | {"commit": checkout()["commit"]})
    file = args.out / "settings.json"
    if file.exists() and file.read_text() != told:
        sys.exit(f"{args.out}: trained with {file.read_text()}, now {told}; name another folder")
    args.out.mkdir(parents=True, exist_ok=True)
    file.write_text(told)


def split_rows(args) -> tuple:
    "The rows to learn from (train) and to score on (tune), and their pixels."
    images = read_data(args.data, "fracatlas", None, 0.05, 0, False, args.size)
    images = images[images.split != "valid"].reset_index(drop=True)
    images = patient_split(images.assign(split="train"), valid_pct=0.33, seed=5)
    images.loc[images.split == "valid", "split"] = "tune"
    return images, auto_store(images, args.size, None)


def main():
    args = parsed(__doc__, list(NETS))
    images, store = split_rows(args)
    preds = {}
    for seed in args.seeds:  # all networks of one seed, then of the next: what is unfinished can be told already
        for name in dict.fromkeys(["mura_cnn", *args.only]):  # the base first
            file = args.out / f"{name.replace(' ', '_').replace(',', '').replace(':', '')}-{seed}.csv"
            if not file.exists():
                started = time.perf_counter()
                write_predictions(trained(images, NETS[name], seed, args, store), file)
                print(f"{name}, seed {seed}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
            preds.setdefault(name, []).append(read_predictions(file))
    header("ablations.py", args, images)
    report(preds, args)


def header(script: str, args, images):
    "What was run, on what."
    print(f"python benchmarks/{script} FRACATLAS OUT --seeds {' '.join(map(str, args.seeds))}")
    print(f"{args.size} px, {args.epochs} epochs, batches of {args.bs}, highest learning rate {args.lr}")
    print(*machine_lines(hardware(default_device())), sep="\n")
    learnt, scored = images[images.split == "train"], images[images.split == "tune"]
    print(f"{len(learnt)} to learn from, {len(scored)} scored ({(scored.label == 1).sum()} abnormal)")


def report(preds: dict, args):
    print(f"\n{'':32}{'M mult-adds':>12} {'AUROC':>12}   {'minus mura_cnn, 95 % interval':30} seeds")
    base = preds["mura_cnn"]
    for name, tables in preds.items():
        row = compare(base, tables, names=["base", name], metrics=("auroc",)).loc["overall"]
        cost = network_cost(NETS[name](args.size), args.size).multiply_adds / 1e6
        spread = f" sd {row['auroc_b_seed_sd']:.3f}" if len(tables) > 1 else ""
        minus = (
            ""
            if name == "mura_cnn"
            else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*(row[f"auroc_diff{end}"] for end in ("", "_lo", "_hi")))
        )
        print(f"{name:32}{cost:12.0f} {row['auroc_b']:7.3f}{spread:9}   {minus:30} {len(tables)}")


if __name__ == "__main__":
    main()
