"""Should the network know the region? One common network, one that is told the region, and one for each region.

    python benchmarks/regions.py FRACATLAS OUT --seeds 0 1 2 > benchmarks/regions.txt

The split, the schedule and the scores are those of `ablations.py`. The common network and the one that is told
(`--region-aware`) learn from all regions; the separate ones from hands alone and from legs alone, the two regions with
enough abnormal radiographs to learn from, in as many steps. All are scored on the same hands and legs.
"""

import sys

import pandas as pd
from ablations import header, parsed, split_rows, trained

from mura_fastai.results.compare import compare
from mura_fastai.results.tables import read_predictions, write_predictions

REGIONS = ("hand", "leg")


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
    args = parsed(__doc__)
    images, store = split_rows(args)
    preds = {arm: [] for arm in ("common", "region-aware", "separate")}
    for seed in args.seeds:
        for arm, tables in preds.items():
            file = args.out / f"{arm}-{seed}.csv"
            if not file.exists():
                write_predictions(predictions(arm, images, seed, args, store), file)
                print(f"{arm}, seed {seed}", file=sys.stderr)
            tables.append(read_predictions(file))
    header("regions.py", args, images)
    for region in REGIONS:
        rows = images[images.region == region]
        learnt, scored = rows[rows.split == "train"], rows[rows.split == "tune"]
        told = f"{len(learnt)} to learn from, {len(scored)} scored ({int(scored.label.sum())} abnormal)"
        print(f"of these {region}: {told}")
    print(f"\n{'':14}{'':10}{'AUROC':>8}  {'minus common, 95 % interval':28} sd between seeds")
    for arm, tables in preds.items():
        scores = compare(preds["common"], tables, names=["base", arm], metrics=("auroc",))
        for region in ("overall", *REGIONS):
            row = scores.loc[region]
            minus = "{:+.3f} [{:+.3f}, {:+.3f}]".format(*(row[f"auroc_diff{end}"] for end in ("", "_lo", "_hi")))
            spread = f"{row['auroc_b_seed_sd']:.3f}" if len(tables) > 1 else ""
            print(f"{arm:14}{region:10}{row['auroc_b']:8.3f}  {minus if arm != 'common' else '':28} {spread}")


if __name__ == "__main__":
    main()
