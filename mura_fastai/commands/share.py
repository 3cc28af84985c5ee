"""Commands of the share floor: `mura demo`, `mura report` and `mura app`."""

from pathlib import Path
from typing import Annotated

import typer

from mura_fastai.commands import shared


def demo(
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where runs and pictures go; runs/demo-TIME.")] = None,
    studies: Annotated[int, typer.Option(min=60, help="Invented studies to learn from and to score.")] = 400,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training data, each network.")] = 10,
    size: shared.Size = 96,
    seed: shared.Seed = 0,
):
    """The whole job on invented radiographs, in three minutes.

    Two networks are trained, scored, compared and drawn. One that was interrupted goes on where the same command is
    given again, or by mura resume with its folder.

    \b
    mura demo
    """
    with shared.quiet_import():
        from mura_fastai.share.demo import demo
    demo(out, studies=studies, epochs=epochs, size=size, seed=seed)


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs; several are compared.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The HTML file; RUN/report.html where one run is given.")
    ] = None,
    no_pixels: Annotated[
        bool, typer.Option("--no-pixels", help="Leave every radiograph out: MURA's may not be shared.")
    ] = False,
    k: Annotated[int, typer.Option("--top", "-k", min=1, help="Studies of the largest losses to show.")] = 12,
    pdf: Annotated[bool, typer.Option("--pdf", help="Print it too, by an installed Chromium.")] = False,
    as_json: shared.AsJson = False,
):
    """All that a run knows, as one HTML file.

    Scores with intervals, plots, the worst errors with heat maps, the shortcut audit, a model card. It opens offline,
    on a phone too, and prints to A4.

    \b
    mura report runs/resnet50 -o resnet50.html --no-pixels
    mura report runs/mura_cnn runs/resnet50 -o both.html --pdf
    """
    with shared.quiet_import():
        from mura_fastai.share.report import write_report
    files = write_report(runs, out, pixels=not no_pixels, k=k, pdf=pdf)
    if as_json:
        shared.print_json({"files": list(map(str, files))})
        return
    for file in files:
        print(f"{file} ({file.stat().st_size / 1e6:.1f} MB)")


def app(
    run: shared.Run,
    port: Annotated[int, typer.Option(help="Where the page listens; 0 for any port that is free.")] = 8000,
    host: Annotated[
        str, typer.Option(help="Another address of this machine, such as 0.0.0.0 for all: others can then ask, too.")
    ] = "127.0.0.1",
    token: Annotated[
        bool, typer.Option("--token", help="Ask for a token on this machine too; elsewhere one is always asked for.")
    ] = False,
    open: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
):
    """A local page to try a run on one study after another.

    Each view with its heat map, the study's probability against the threshold, and what that means. Nothing that is
    sent to it is kept. Research only.

    \b
    mura app runs/resnet50 --open
    """
    with shared.quiet_import():
        from mura_fastai.share.app import serve
    serve(run, port=port, host=host, token=token, open=open)
