"""What folds say of the rows that no design saw: FracAtlas's official valid split, out of fold.

    python benchmarks/untouched.py FRACATLAS runs/plain runs/resnet18 runs/mura_cnn > benchmarks/untouched.txt

`mura_cnn` was put together by training on FracAtlas's rows that are not valid of its official split (`ablations.py`),
and five folds score these rows too. Here each folder of folds is scored on the official valid rows alone: no part was
chosen on them, and every one is predicted by networks that never saw its patient. The last run is held against each of
the others, radiograph by radiograph, with a 95 % interval over patients (`mura compare`). Nothing is trained.
"""

import argparse
from pathlib import Path

from fastai.torch_core import default_device
from telling import command, sentences

from mura_fastai.bench.measure import hardware
from mura_fastai.bench.report import machine_lines
from mura_fastai.data.reading import read_data
from mura_fastai.results.compare import compare
from mura_fastai.results.experiment import arm_of

METRICS = ("auroc", "average_precision", "kappa")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="FracAtlas's folder")
    parser.add_argument("runs", nargs="+", type=Path, help="folders of folds; the last is held against the others")
    args = parser.parse_args()
    images = read_data(args.data, "fracatlas")
    official = set(images.study[images.split == "valid"])
    # Both splits come from the same table of usable files, so that a study has one name in both.
    arms = [[t[t.study.isin(official)].reset_index(drop=True) for t in arm_of(run)[0]] for run in args.runs]
    names = [run.name for run in args.runs]
    print(command(Path(__file__).name, parser, argparse.Namespace(data=args.data)), *(f"runs/{n}" for n in names))
    print(*machine_lines(hardware(default_device())), sep="\n")
    print(f"{len(official)} official valid studies, {int(arms[-1][0].label.sum())} abnormal, each out of fold\n")
    for name, arm in zip(names[:-1], arms[:-1], strict=True):
        table = compare(arm, arms[-1], names=[name, names[-1]], metrics=METRICS)
        row = table.loc["overall"]
        for metric in METRICS:
            told = [f"{n} {row[f'{metric}_{side}']:.3f}" for n, side in ((name, "a"), (names[-1], "b"))]
            print(f"{metric:18}{',  '.join(told)}")
        print(sentences(table), end="\n\n")


if __name__ == "__main__":
    main()
