"""How many flipped labels the list of suspects finds: precision and recall on a phantom, measured by hand.

    python tests/suspects_measured.py PHANTOM OUT --flips 0,1 --size 128 --epochs 16

Of each flip seed 5 % of the studies, drawn at random, get the other label, in training too. Five folds are trained on
these labels, so that each study is predicted by a network that never saw it, and the list is held against the truth.
A folder of runs in OUT that is there already is only measured again.

Whether a study's own label is wrong has not reached the network that predicts it, so the flips of the held-out labels
can be drawn anew with the networks as they are: the mean over such draws, and their standard deviation, say how much of
one result is the luck of its flips.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, roc_auc_score

from mura_fastai.data.studies import mura_images
from mura_fastai.results.intervals import wilson
from mura_fastai.results.repeats import evaluate_repeats
from mura_fastai.results.scoring import evaluate_run
from mura_fastai.results.suspects import find_suspects, out_of_sample
from mura_fastai.text import aligned, short, with_interval
from mura_fastai.training.repeats import train_repeats


def flip_labels(images: pd.DataFrame, seed: int, share: float) -> tuple[pd.DataFrame, set]:
    "The images table with the labels of a share of its studies flipped, and the names of these."
    studies = np.array(sorted(images["study"].unique()))
    chosen = np.random.default_rng(seed).choice(studies, round(share * len(studies)), replace=False)
    wrong = images["study"].isin(chosen)
    images = images.assign(label=images["label"].where(~wrong, 1 - images["label"]))
    images.attrs["official"] = []  # the phantom's valid studies are dealt out to the folds too
    return images, set(chosen)


def share_of(hits: int, n: int) -> str:
    "A proportion with Wilson's interval, and what it is of."
    return f"{with_interval(hits / n, *wilson(hits / n, n))} ({hits} of {n})" if n else "n/a (none)"


def measure(run: Path, wrong: set) -> dict:
    "The list against the flipped studies; beside it all studies in the order of their loss, which needs no list."
    studies, preds = out_of_sample(run)
    suspects, flipped = find_suspects(preds, studies), studies["study"].isin(wrong).to_numpy()
    label, p = studies["label"].to_numpy(int), studies["p_abnormal"].to_numpy()
    doubt, hit = np.where(label, 1 - p, p), suspects["study"].isin(wrong).to_numpy()
    order = flipped[np.argsort(-doubt, kind="stable")]
    told = {
        "studies, flipped labels": f"{len(studies)}, {flipped.sum()}",
        "AUROC against the truth": short(roc_auc_score(np.where(flipped, 1 - label, label), p)),
        "precision of the list": share_of(hit.sum(), len(hit)),
        "recall of the list": share_of(hit.sum(), flipped.sum()),
    }
    for name in ("normal", "abnormal"):
        mine = (suspects["label"] == name).to_numpy()
        told[f"precision where labelled {name}"] = share_of(hit[mine].sum(), mine.sum())
    for k in (10, 20, flipped.sum()):
        told[f"precision of the first {k}"] = share_of(order[:k].sum(), k)
    chance = f"chance {short(flipped.mean())}"
    told["average precision, all by loss"] = f"{short(average_precision_score(flipped, doubt))}, {chance}"
    told["precision of all that p contradicts"] = share_of(flipped[doubt > 0.5].sum(), (doubt > 0.5).sum())
    told["recall of all that p contradicts"] = share_of(flipped[doubt > 0.5].sum(), flipped.sum())
    told["wrong labels, as estimated"] = f"{sum(suspects.attrs['estimate'].values()):.0f}"
    draws = redrawn(studies.assign(label=np.where(flipped, 1 - label, label)), flipped.sum())
    mean, sd = draws.mean(0), draws.std(0, ddof=1)
    for i, name in enumerate(("studies in the list", "precision", "recall")):
        digits = 3 if i else 0
        told[f"{name}, {len(draws)} draws of flips"] = f"{mean[i]:.{digits}f} ± {sd[i]:.{digits}f}"
    return told


def redrawn(studies: pd.DataFrame, flips: int, n: int = 300) -> np.ndarray:
    "n x 3: length, precision and recall of the list, with as many other held-out labels flipped each time."
    found = []
    for seed in range(n):
        wrong = set(studies["study"].sample(flips, random_state=seed))
        flipped = studies["study"].isin(wrong)
        suspects = find_suspects(studies.assign(label=studies["label"].where(~flipped, 1 - studies["label"])))
        hits = suspects["study"].isin(wrong).sum()
        found.append([len(suspects), hits / max(len(suspects), 1), hits / flips])
    return np.array(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phantom", type=Path, help="made by mura phantom")
    parser.add_argument("out", type=Path, help="a folder of runs for each flip seed goes in here")
    parser.add_argument("--flips", default="0", help="seeds of the flips, with commas")
    parser.add_argument("--share", type=float, default=0.05, help="of the studies whose label is flipped")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=16)
    asked = parser.parse_args()
    for seed in map(int, asked.flips.split(",")):
        images, wrong = flip_labels(mura_images(asked.phantom), seed, asked.share)
        run, evaluate = asked.out / f"flip{seed}", partial(evaluate_run, ci=None)
        if not (run / "metrics.json").exists():
            train_repeats(images, run, evaluate, folds=5, size=asked.size, epochs=asked.epochs)
            evaluate_repeats(run, None)
        print(f"\nflip seed {seed}", *aligned(list(measure(run, wrong).items())), sep="\n")


if __name__ == "__main__":
    main()
