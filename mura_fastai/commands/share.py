"""Commands of the share floor: `mura demo`."""

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

    Two networks are trained, scored, compared and drawn.

    \b
    mura demo
    """
    with shared.quiet_import():
        from mura_fastai.share.demo import demo
    demo(out, studies=studies, epochs=epochs, size=size, seed=seed)
