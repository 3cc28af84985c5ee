"""Commands of the results floor: `mura evaluate`, `mura interpret` and `mura predict`."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from mura_fastai.commands import shared
from mura_fastai.errors import InputError


def evaluate(
    paths: Annotated[list[Path] | None, typer.Argument(metavar="[RUN] [DATA]", help="A run; other data.")] = None,
    predictions: Annotated[Path | None, typer.Option(help="Score this CSV of predictions instead of a run.")] = None,
    split: Annotated[str | None, typer.Option(help="Which rows: train, tune, valid or test. [valid]")] = None,
    source: shared.Source = None,
    ci: shared.Ci = "bootstrap",
    as_json: shared.AsJson = False,
):
    """Score a run, or any table of predictions.

    Per region and overall, study by study, with intervals.

    \b
    mura evaluate runs/resnet50
    mura evaluate runs/resnet50 other/MURA --split test
    mura evaluate MURA-v1.1 --predictions predictions.csv
    """
    paths = paths or []
    if len(paths) > (1 if predictions else 2) or not (paths or predictions):
        raise InputError("give RUN, RUN DATA, --predictions FILE, or DATA --predictions FILE")
    if predictions:
        from mura_fastai.results.tables import evaluate_file

        scores = evaluate_file(predictions, *paths, split=split, ci=shared.interval(ci), source=source)
        told = dict(predictions=str(predictions), split=split)
    else:
        split = split or "valid"
        scores = shared.experiment().evaluate_run(*paths, split=split, ci=shared.interval(ci), source=source)
        told = dict(run=str(paths[0]), split=split)
    lost = scores.attrs.get("unpredicted")
    if lost:
        print(f"{lost} studies of {paths[0]} have no prediction; scored on the rest", file=sys.stderr)
    shared.print_scores(scores, as_json, **told)


def interpret(
    run: shared.Run,
    data: shared.OtherData = None,
    split: shared.Split = "valid",
    k: Annotated[int, typer.Option("--top", "-k", min=1, help="How many of the largest losses to show.")] = 9,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where the figures go; RUN/figures.")] = None,
    source: shared.Source = None,
    as_json: shared.AsJson = False,
):
    """What a run gets wrong.

    Confusion matrices and top losses, as figures and in words.

    \b
    mura interpret runs/resnet50
    """
    interp, files = shared.experiment().interpret_run(run, data, split, k, out, source)
    top = interp.top_losses(k)
    if as_json:
        matrices = {r or "overall": interp.confusion_matrix(region=r).tolist() for r in [*interp.regions, None]}
        rows = json.loads(top.to_json(orient="records", double_precision=15))
        shared.print_json({"figures": list(map(str, files)), "confusion": matrices, "top_losses": rows})
        return
    interp.print_classification_report()
    print("\nMost frequent errors, of studies:")
    for truth, said, n in interp.most_confused()[:5]:
        print(f"  {n:>4}  {truth}, predicted {said}")
    print("\nTop losses, of images:")
    names = ("normal", "abnormal")
    for row in top.itertuples():
        truth = f"{names[row.label]}, predicted {names[row.predicted]}"
        print(f"  {row.loss:5.2f}  p {row.p_abnormal:.2f}  {truth:<28}  {row.study} view {row.view}")
    print(f"\n{len(files)} figures in {files[0].parent}: {', '.join(f.name for f in files)}")


def predict(
    arguments: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN... INPUT...",
            help="Folders that hold settings.yaml are runs, whose probabilities are averaged. The rest is input: "
            "image files, folders, dataset roots, headerless CSVs of image paths.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The table of predictions.")] = Path("predictions.csv"),
    as_json: shared.AsJson = False,
):
    """The probability of abnormal, of images and studies.

    \b
    mura predict runs/resnet50 some/folder one.png -o predictions.csv
    """
    runs = [a for a in arguments if (a / "settings.yaml").exists()]
    inputs = [a for a in arguments if a not in runs]
    if not inputs:
        raise InputError("no input given; name image files, a folder, a dataset's root or a CSV of image paths")
    preds = shared.experiment().predict(runs, inputs, out)
    from mura_fastai.results.tables import studies_of

    studies, skipped = studies_of(preds), preds.attrs["skipped"]
    for row in skipped:
        print(f"skipped {row['path']}: {row['reason']}", file=sys.stderr)
    if as_json:
        rows = json.loads(studies.to_json(orient="records", double_precision=15))
        shared.print_json({"predictions": str(out), "images": len(preds), "studies": rows, "skipped": skipped})
        return
    print(studies[["study", "region", "n_views", "p_abnormal"]].head(10).round(3).to_string(index=False))
    if len(studies) > 10:
        print(f"... and {len(studies) - 10} more studies, less suspicious than these")
    print(f"{len(preds)} images, {len(studies)} studies, {len(skipped)} skipped; all images in {out}")
