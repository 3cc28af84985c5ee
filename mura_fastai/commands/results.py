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
    threshold: Annotated[
        str | None,
        typer.Option(help="Another than the run's: a number, or a rule (kappa, youden, sensitivity=0.9) for its tune."),
    ] = None,
    tune: Annotated[
        Path | None, typer.Option(help="With --predictions: other predictions, on which the rule chooses.")
    ] = None,
    tune_on_reported: Annotated[
        bool, typer.Option("--tune-on-reported", help="Let the rule choose on what is reported: too good to be true.")
    ] = False,
    metrics: Annotated[
        str, typer.Option(help="Columns to print; --json holds all of them.")
    ] = "kappa,auroc,sensitivity,specificity",
    as_json: shared.AsJson = False,
):
    """Score a run, or any table of predictions.

    Per region and overall, study by study, with intervals.

    \b
    mura evaluate runs/resnet50
    mura evaluate runs/resnet50 other/MURA --split test
    mura evaluate MURA-v1.1 --predictions predictions.csv

    Such a file is a table of predictions, or one in the competition's format.
    """
    from mura_fastai.results.metrics import check_metrics

    paths, metrics = paths or [], shared.names(metrics)
    check_metrics(metrics)  # before anything is scored
    if len(paths) > (1 if predictions else 2) or not (paths or predictions):
        raise InputError("give RUN, RUN DATA, --predictions FILE, or DATA --predictions FILE")
    if predictions:
        from mura_fastai.results.tables import evaluate_file

        how = dict(threshold=_threshold(threshold), tune=tune, tune_on_reported=tune_on_reported)
        scores = evaluate_file(predictions, *paths, split=split, ci=shared.interval(ci), source=source, **how)
        told = dict(predictions=str(predictions))
    else:
        split = split or "valid"
        if tune or tune_on_reported:
            raise InputError("a run chooses on its own tune rows: --tune and --tune-on-reported go with --predictions")
        scores = shared.experiment().evaluate(
            *paths, split=split, ci=shared.interval(ci), source=source, threshold=_threshold(threshold)
        )
        told = dict(run=str(paths[0]), split=split)
    _warn_of(scores, paths[0] if paths else None, predictions)
    shared.print_scores(scores, as_json, metrics, **told)


def _threshold(text: str | None) -> float | str | None:
    "A number where it is one; else a rule's name, which is looked at where it is used."
    try:
        return float(text)
    except (TypeError, ValueError):
        return text


def _warn_of(scores, data: Path | None, predictions: Path | None):
    "On stderr, what the scores do not rest on."
    from mura_fastai.text import name_some, one_of

    for name, fault in {
        "missing": f"of {data} without a prediction, scored on the rest",
        "extra": f"in {predictions} and not in this split of {data}, not counted",
        "repeated": f"on several lines of {predictions} with the same answer, counted once",
        "incomplete": "with views that could not be read, scored on the others",
    }.items():
        studies = scores.attrs.get(name)
        if studies:
            print(f"{one_of(len(studies), 'study')} {fault}: {name_some(studies)}", file=sys.stderr)
    if scores.attrs.get("hard"):
        print(f"{predictions} holds decisions, no probabilities: no AUROC, for nothing is ranked", file=sys.stderr)


def interpret(
    run: shared.Run,
    data: shared.OtherData = None,
    split: shared.Split = "valid",
    k: Annotated[
        int, typer.Option("--top", "-k", min=1, help="How many of the largest losses, or suspects, to show.")
    ] = 9,
    heat: Annotated[
        str, typer.Option(help="Heat maps of the largest losses: hirescam, gradcam, cam or none.")
    ] = "hirescam",
    suspects: Annotated[
        bool, typer.Option("--suspects", help="Instead: the studies whose label is likely wrong, listed and drawn.")
    ] = False,
    blind: Annotated[
        bool, typer.Option("--blind", help="With --suspects: a worksheet too, where controls hide who is suspected.")
    ] = False,
    reviewed: Annotated[
        bool, typer.Option("--reviewed", help="Instead: what came of that worksheet, once a reader has filled it in.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where the files go; RUN/figures, RUN/suspects.")
    ] = None,
    source: shared.Source = None,
    as_json: shared.AsJson = False,
):
    """What a run gets wrong, and where a label may be wrong.

    Confusion matrices, curves, and top losses with heat maps, as figures and in words.

    \b
    mura interpret runs/resnet50
    mura interpret runs/folds --suspects --blind
    mura interpret runs/folds --reviewed
    """
    if out:
        from mura_fastai.files import refuse_file

        refuse_file(out, "choose another folder (--out)")
    if reviewed and (suspects or blind):
        raise InputError("--reviewed reads a worksheet that is filled in already: leave --suspects and --blind away")
    if blind and not suspects:
        raise InputError("--blind adds a worksheet to the list of suspects: give --suspects --blind")
    if reviewed:
        _print_review(shared.experiment().reviewed_labels(run, data, split, out), as_json)
    elif suspects:
        _print_suspects(*shared.experiment().suspect_labels(run, data, split, out, source, blind), k, as_json)
    else:
        heat = None if heat == "none" else heat
        _print_errors(*shared.experiment().interpret_run(run, data, split, k, out, source, heat), k, as_json)


def _print_errors(interp, files: list[Path], k: int, as_json: bool):
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
    from mura_fastai.text import one_of

    print(f"\n{one_of(len(files), 'figure')} in {files[0].parent}: {', '.join(f.name for f in files)}")


def _print_suspects(suspects, files: list[Path], k: int, as_json: bool):
    from mura_fastai.results.suspects import format_suspects, suspects_to_json

    if as_json:
        shared.print_json({"files": list(map(str, files)), **suspects_to_json(suspects)})
        return
    print(format_suspects(suspects, k))
    print(f"\nIn {files[0].parent}: {', '.join(f.name for f in files)}")
    if any(f.name == "review.csv" for f in files):
        print("Give the reader review.pdf and review.csv, and nothing else; the words to write stand in review.pdf.")


def _print_review(result, as_json: bool):
    from mura_fastai.results.review import format_review

    if as_json:
        shared.print_json({"review": json.loads(result.to_json(orient="index", double_precision=15))})
    else:
        print(format_review(result))


def predict(
    arguments: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN... INPUT...",
            help="Folders that hold settings.yaml are runs, whose probabilities are averaged. The rest is input: "
            "image files, folders, dataset roots, headerless CSVs of image paths.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file of predictions.")] = Path("predictions.csv"),
    format: Annotated[
        str | None,
        typer.Option(
            help="table: a row an image. competition: a row a study, its folder and 0 or 1. Where not given, the "
            "competition's if the input is one list of MURA's images."
        ),
    ] = None,
    region: Annotated[
        str | None, typer.Option(help="Of the images that carry none, such as XR_WRIST.", show_default=False)
    ] = None,
    as_json: shared.AsJson = False,
):
    """The probability of abnormal, of images and studies.

    Images in folders as MURA's, XR_WRIST/patient00011/study1_positive, make up that study. Any other image of a plain
    folder is a study of its own, and its region is what XR_... in its path says, or --region.

    \b
    mura predict runs/resnet50 some/folder one.png -o predictions.csv
    mura predict runs/resnet50 wrists --region XR_WRIST
    mura predict runs/resnet50 MURA-v1.1/valid_image_paths.csv -o predictions.csv
    """
    runs = [a for a in arguments if (a / "settings.yaml").exists() or (a / "repeats.yaml").exists()]
    inputs = [a for a in arguments if a not in runs]
    if not inputs:
        raise InputError("no input given; name image files, a folder, a dataset's root or a CSV of image paths")
    preds = shared.experiment().predict(runs, inputs, out, format, region)
    from mura_fastai.results.tables import studies_of
    from mura_fastai.text import name_some, one_of

    studies, skipped = studies_of(preds), preds.attrs["skipped"]
    incomplete = studies.study[studies.n_unreadable > 0].tolist()
    undecided, written = preds.attrs.get("undecided", []), preds.attrs["format"]
    for row in skipped:
        print(f"skipped {row['path']}: {row['reason']}", file=sys.stderr)
    if incomplete:
        lack = one_of(len(incomplete), "study lacks", "studies lack")
        print(f"{lack} views that could not be read: {name_some(incomplete)}", file=sys.stderr)
    if undecided:
        print(
            f"{one_of(len(undecided), 'study')} without a readable image, not in {out}: {name_some(undecided)}; "
            "the competition's script does not count such studies and does not say so",
            file=sys.stderr,
        )
    if as_json:
        rows = json.loads(studies.to_json(orient="records", double_precision=15))
        told = {"predictions": str(out), "format": written, "images": len(preds), "studies": rows}
        shared.print_json({**told, "skipped": skipped, "incomplete": incomplete, "undecided": undecided})
        return
    columns = ["study", "region", "n_views", *(["n_unreadable"] if incomplete else []), "p_abnormal", "abnormal"]
    print(studies[columns].head(10).round(3).to_string(index=False))
    if len(studies) > 10:
        print(f"... and {one_of(len(studies) - 10, 'more study')}, less suspicious than these")
    what = "all images" if written == "table" else "a decision for each study, in the competition's format,"
    counts = f"{one_of(len(preds), 'image')}, {one_of(len(studies), 'study')}"
    print(f"{counts}, {len(skipped)} skipped; {what} in {out}")
