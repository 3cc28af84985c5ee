"""Should the network know the region? One common network, one that is told the region, and one for each region.

    python benchmarks/regions.py FRACATLAS OUT > benchmarks/regions.txt

The split, the schedule and the scores are those of `ablations.py`. The common network and the one that is told
(`--region-aware`) learn from all regions; the separate ones from hands alone and from legs alone, the two regions with
enough abnormal radiographs to learn from, in as many steps. All are scored on the same hands and legs. `--report` tells
of what lies in OUT without training.
"""

import sys

import pandas as pd
from ablations import SETTINGS, header, parser, split_rows, trained
from telling import COLUMNS, LEGEND, adjusted, command, differences, sentences, settle, which_seeds

from mura_fastai.results.compare import compare
from mura_fastai.results.metrics import score
from mura_fastai.results.tables import read_predictions, write_predictions

REGIONS = ("hand", "leg")
ARMS = ("common", "region-aware", "separate")


def predictions(arm: str, images: pd.DataFrame, seed: int, args, store) -> pd.DataFrame:
    "Of the scored hands and legs, by networks of this kind."
    if arm == "separate":
        parts = [images[images.region == r].reset_index(drop=True) for r in REGIONS]
        shares = [(part.split == "train").sum() / (images.split == "train").sum() for part in parts]
        return pd.concat(
            trained(part, "mura_cnn", seed, args, store, round(args.epochs / share))
            for part, share in zip(parts, shares, strict=True)
        )
    found = trained(images, "mura_cnn", seed, args, store, region_aware=arm == "region-aware")
    return found[found.region.isin(REGIONS)]


def main():
    options = parser(__doc__)
    args = options.parse_args()
    kept = settle(args, SETTINGS)
    args.seeds = which_seeds(args, "common")
    images, store = split_rows(args)
    preds = {arm: [] for arm in ARMS}
    for seed in args.seeds:
        for arm, tables in preds.items():
            file = args.out / f"{arm}-{seed}.csv"
            if not file.exists():
                if args.report:
                    continue
                write_predictions(predictions(arm, images, seed, args, store), file)
                print(f"{arm}, seed {seed}", file=sys.stderr)
            tables.append(read_predictions(file))
    header(command("regions.py", options, args), args, kept, images)
    for region in REGIONS:
        rows = images[images.region == region]
        learnt, scored = rows[rows.split == "train"], rows[rows.split == "tune"]
        told = f"{len(learnt)} to learn from, {len(scored)} scored ({int(scored.label.sum())} abnormal)"
        print(f"of these {region}: {told}")
    report({arm: tables for arm, tables in preds.items() if tables})


def report(preds: dict):
    "Three rows an arm, each held against the common network."
    first, *others = preds
    print(f"\n{'':24}{'AUROC':>8} {'sd':>8}  n  {COLUMNS}")
    table = compare(*preds.values(), names=list(preds), metrics=("auroc",)) if others else None
    minus = {r: differences(table, r) if others else {} for r in ("overall", *REGIONS)}
    for arm, tables in preds.items():
        scores = [score(t, ci=None)["auroc"] for t in tables]
        for region, found in minus.items():
            aurocs = pd.Series([one[region] for one in scores])
            spread = f"{aurocs.std():8.3f}" if len(tables) > 1 else ""
            print(f"{arm:14}{region:10}{aurocs.mean():8.3f} {spread:8}  {len(tables)}  {found.get(arm, '')}".rstrip())
    print(f"n: trainings, sd: between them; difference: from {first}\n{LEGEND}")
    if others:
        print(f"{adjusted(others)}\n\n{sentences(table, regions=True)}")


if __name__ == "__main__":
    main()
