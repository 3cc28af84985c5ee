"""Commands about speed and cost: `mura bench` and `mura frontier`."""

from pathlib import Path
from typing import Annotated

import typer

from mura_fastai.commands import shared


def bench(
    data: Annotated[
        Path | None, typer.Argument(help="A dataset's folder or CSV; a phantom where not given.", show_default=False)
    ] = None,
    source: shared.Source = None,
    what: Annotated[
        str | None, typer.Option(help="Some only of loaders,augmentation,training,prediction,growth.")
    ] = None,
    archs: Annotated[str | None, typer.Option(help="Networks to train. [mura_cnn,resnet18,resnet50]")] = None,
    size: Annotated[int | None, typer.Option(min=32, help="Side of the padded square, in pixels. [320]")] = None,
    bs: Annotated[int | None, typer.Option(min=1, help="Images a batch of the loaders. [64]")] = None,
    train_bs: Annotated[
        int | None, typer.Option(min=1, help="Images a batch of training and prediction. [64; 16 on a CPU]")
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Measurements of each case, in turns. [5]")] = None,
    images: Annotated[int | None, typer.Option(min=64, help="Images of the data, at the most. [1000]")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small numbers, to see that everything runs.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Three files of this name; benchmarks/MACHINE-DATE.")
    ] = None,
    as_json: shared.AsJson = False,
):
    """Speed, side by side with fastai, PyTorch and timm.

    Loaders, augmentation, training, prediction and growth, measured in turns in one run: medians and their range.

    \b
    mura bench
    mura bench MURA-v1.1 --what loaders,growth
    """
    with shared.quiet_import():
        from mura_fastai.bench import report, suite
    if out:
        from mura_fastai.files import refuse_closed

        refuse_closed(report.files_of(out)[0])
    document = suite.bench(
        data, source, _names(what), _names(archs), size, bs, train_bs, rounds, images, quick,
    )  # fmt: skip
    files = report.write_report(document, out or Path("benchmarks") / document["name"])
    if as_json:
        shared.print_json(document)
    else:
        print(report.text(document))
        print("\n".join(str(f) for f in files))


def frontier(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="On the same data and split; seeds or folds of one recipe as one folder, or A,B,C."
        ),
    ],
    regions: Annotated[str | None, typer.Option(help="Show the scores of some regions too.")] = None,
    bs: Annotated[int, typer.Option(min=2, help="Images a batch, of the speeds.")] = 64,
    rounds: Annotated[int, typer.Option(min=0, help="Measurements of each speed, in turns; 0 for none.")] = 5,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of frontier.json, frontier.txt and frontier.png.")
    ] = Path("frontier"),
    as_json: shared.AsJson = False,
):
    """What each network costs, beside what it scores.

    Multiply-adds, parameters and images a second on this machine, AUROC and average precision with their intervals; a
    table, and a plot that marks the runs that no other beats for less.

    \b
    mura frontier runs/mura_cnn runs/resnet18 runs/resnet50 -o frontier
    mura frontier runs/a runs/b --rounds 0 --regions XR_HAND,XR_WRIST
    """
    with shared.quiet_import():
        from mura_fastai.bench import frontier as floor
        from mura_fastai.bench.frontier_text import text
        from mura_fastai.bench.report import files_of
    document = floor.frontier(runs, out, shared.names(regions), bs, rounds)
    if as_json:
        shared.print_json(document)
    else:
        print(text(document))
        print("\n".join(str(f) for f in files_of(out / "frontier")))


def _names(words: str | None) -> tuple[str, ...] | None:
    "Names with commas between them."
    return None if words is None else tuple(w.strip() for w in words.split(",") if w.strip())
