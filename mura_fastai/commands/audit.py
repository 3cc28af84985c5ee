"""The command `mura audit`: what is in the data that should not be, before anything is trained on it."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from mura_fastai.commands import shared
from mura_fastai.errors import InputError


def audit(
    data: Annotated[Path, typer.Argument(help="A dataset's folder, a CSV, or (with --shortcuts) a run's folder.")],
    shortcuts: Annotated[bool, typer.Option("--shortcuts", help="What trivial traits tell of the label.")] = False,
    source: shared.Source = None,
    split_seed: shared.SplitSeed = 0,
    allow_leaks: shared.AllowLeaks = False,
    n_boot: Annotated[int, typer.Option("--draws", min=1, help="Draws of patients for the intervals.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of the folds and the draws.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="With --shortcuts: a picture, PNG or SVG.")] = None,
    as_json: shared.AsJson = False,
):
    """What is wrong with the data, and what a network may cheat with.

    All problems at once, and what training would do about each: refuse, leave out, warn, convert or ignore. The exit
    code is 2 where it would refuse. With --shortcuts: what region, size, orientation, brightness, borders, file
    format, bright side and number of views tell of the label; of a run also how far its probabilities follow them.

    \b
    mura audit MURA-v1.1
    mura audit MURA-v1.1 --shortcuts
    mura audit runs/resnet50 --shortcuts
    """
    if shortcuts:
        _shortcuts(data, source, split_seed, n_boot, seed, out, as_json)
        return
    if out is not None:
        raise InputError("--out draws what --shortcuts finds: add --shortcuts")
    if (data / "settings.yaml").exists():
        raise InputError(f"{data} is a run: add --shortcuts, or name the data it was trained on")
    from mura_fastai.bars import stderr_bar
    from mura_fastai.data.audit import audit_data, audit_to_json, format_audit
    from mura_fastai.data.gather import by_reason
    from mura_fastai.text import name_some, one_of

    found = audit_data(data, source, split_seed, allow_leaks, stderr_bar("checking images"))
    images, skipped = found.attrs["images"], found.attrs["skipped"]
    counts = {} if images is None else {what: images[what].nunique() for what in ("patient", "study")}
    counts = {"patients": counts.get("patient", 0), "studies": counts.get("study", 0)}
    counts["images"] = 0 if images is None else len(images)
    refused = found[found.training == "refuses"]
    if as_json:
        reasons = {reason: len(paths) for reason, paths in by_reason(skipped).items()}
        told = dict(data=str(data), source=found.attrs["source"], **counts, trains=refused.empty)
        told["unchecked"] = found.attrs["unchecked"]
        shared.print_json({**told, "problems": audit_to_json(found), "reasons": reasons, "skipped": skipped})
    else:
        print(format_audit(found, data.parent if found.attrs["source"] == "csv" else data))
        if images is not None:
            rest = ", without what is refused" if len(refused) else ""
            print(f"{data}: " + ", ".join(f"{n} {what}" for what, n in counts.items()) + f" can be used{rest}")
    if len(refused):
        reasons = [f"{problem} ({n:,})" for problem, n in refused.groupby("problem", sort=False).size().items()]
        told = f"for {one_of(len(reasons), 'reason')}: {name_some(reasons)}; mend what is listed"
        raise InputError(f"{data}: mura train would refuse it, {told}")


def _shortcuts(data, source, split_seed, n_boot, seed, out, as_json):
    "`mura audit --shortcuts`, of data or of a run."
    from mura_fastai.results.audit import audit_shortcuts, format_shortcuts, shortcuts_to_json

    tables = audit_shortcuts(data, source, split_seed, out, n_boot=n_boot, seed=seed)
    told, run = tables["shortcuts"], tables["followed"]
    if as_json:
        followed = None if run is None else shortcuts_to_json(run)
        shared.print_json({"data": str(data), "shortcuts": shortcuts_to_json(told), "followed": followed})
        return
    print(f"What traits alone tell of the label, {data}:\n{format_shortcuts(told)}")
    if run is not None:
        print(
            f"\nHow far the run's probabilities follow them, valid studies of the same label:\n{format_shortcuts(run)}"
        )
    if out is not None:
        print(f"drawn in {out}", file=sys.stderr)
