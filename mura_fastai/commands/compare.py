"""Commands that compare: `mura compare` and `mura power`."""

from pathlib import Path
from typing import Annotated

import typer

from mura_fastai.commands import shared
from mura_fastai.errors import InputError


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN RUN...",
            help="Two or more, each held against the first; seeds of one recipe as one folder, or A,B,C.",
        ),
    ],
    data: Annotated[Path | None, typer.Option(help="Other data than the runs' own.")] = None,
    split: shared.Split = "valid",
    source: shared.Source = None,
    metrics: Annotated[str, typer.Option(help="Scores to compare, with commas between them.")] = "kappa,auroc",
    plot: Annotated[
        Path | None, typer.Option(help="Draw scores and differences here, a figure for each score.")
    ] = None,
    as_json: shared.AsJson = False,
):
    """Which run is better, and whether this set can tell.

    Scores, paired differences with intervals, and tests, per region and overall, on the studies that all runs have.

    \b
    mura compare runs/mura_cnn runs/resnet50
    mura compare runs/a runs/b runs/c --metrics kappa,auroc,sensitivity --plot forest.png
    """
    if len(runs) < 2:
        raise InputError("one run is no comparison: give two or more (mura evaluate scores a single one)")
    if plot:
        from mura_fastai.results.pictures import check_picture

        check_picture(plot)  # before anything is predicted
    table, _ = shared.experiment().compare_runs(
        runs, data=data, split=split, source=source, metrics=shared.names(metrics)
    )
    from mura_fastai.results.verdicts import comparison_to_json, format_comparison

    figures = []
    if plot:
        from mura_fastai.results.forest import save_forests

        figures = save_forests(table, plot)
    if as_json:
        shared.print_json(comparison_to_json(table) | {"split": split, "figures": list(map(str, figures))})
        return
    print(format_comparison(table))
    for file in figures:
        print(f"figure: {file}")


def power(
    n: Annotated[int | None, typer.Option(help="Studies of the set; MURA's sets where not given.", min=2)] = None,
    kappa: Annotated[float, typer.Option(help="Kappa of one model.")] = 0.7,
    auroc: Annotated[float | None, typer.Option(help="AUROC of one model; left out where not given.")] = None,
    prevalence: Annotated[float, typer.Option(help="Share of abnormal studies; .45 in MURA's valid set.")] = 0.45,
    correlation: Annotated[float, typer.Option(help="Of the two models' scores: .4 to .9 was measured.")] = 0.5,
    per_patient: Annotated[float, typer.Option(help="Studies a patient, in the mean.")] = 1.0,
    icc: Annotated[float, typer.Option(help="Correlation of errors between studies of one patient.")] = 0.0,
    power: Annotated[float, typer.Option(help="Wanted chance to show a difference that is there.")] = 0.8,
    as_json: shared.AsJson = False,
):
    """How many studies a difference needs.

    How sure one score of a set is, and the smallest difference between two models that the set can show.

    \b
    mura power
    mura power --n 400 --kappa 0.65 --auroc 0.88
    """
    from mura_fastai.results.power import format_power, power_to_json
    from mura_fastai.results.power import power as power_of

    table = power_of(
        n, kappa, auroc, prevalence, correlation, power, per_patient=per_patient, icc=icc
    )  # fmt: skip
    if as_json:
        shared.print_json(power_to_json(table))
    else:
        print(format_power(table))
