"""The command `mura calibrate`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mura_fastai.commands import shared


def calibrate(
    run: Annotated[Path, typer.Argument(help="A run's folder, made by mura train.")],
    by: Annotated[str, typer.Option(help="kappa, youden, or a wanted sensitivity such as sensitivity=0.9.")] = "kappa",
    per_region: Annotated[bool, typer.Option("--per-region", help="Regions with enough studies decide apart.")] = False,
    no_temperature: Annotated[bool, typer.Option("--no-temperature", help="Leave probabilities as they are.")] = False,
    pool: Annotated[str, typer.Option(help="How views become a study: mean, max or noisy-or.")] = "mean",
    threshold: Annotated[
        float | None, typer.Option(help="Take this one; nothing is chosen.", show_default=False)
    ] = None,
    least: Annotated[int, typer.Option(min=1, help="Studies of each label that a choice needs.")] = 20,
    as_json: shared.AsJson = False,
):
    """Choose how a run decides.

    Threshold and temperature, on the tune rows, which nothing is reported of; every later command uses them.

    \b
    mura calibrate runs/resnet50 --by youden
    mura calibrate runs/resnet50 --by sensitivity=0.9 --per-region
    """
    with shared.quiet_import():
        from mura_fastai.results.scoring import calibrate_run
    decision = calibrate_run(run, by, per_region, not no_temperature, pool, threshold, least)
    if as_json:
        shared.print_json(asdict(decision))
        return
    from mura_fastai.results.calibrate import format_decision

    print(format_decision(decision))
