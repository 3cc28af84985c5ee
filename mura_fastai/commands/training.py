"""Commands of the training floor: `mura lr-find`, `mura train`, `mura resume` and `mura relocate`."""

import inspect
import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from mura_fastai.commands import shared
from mura_fastai.confined import resuming
from mura_fastai.errors import InputError
from mura_fastai.training.recipes import recipe_settings


def lr_find(
    ctx: typer.Context,
    data: shared.Data,
    recipe: shared.AnyRecipe = None,
    source: shared.Source = None,
    arch: shared.Arch = "mura_cnn",
    views: shared.Views = None,
    size: shared.Size = 320,
    bs: shared.Batch = 64,
    seed: shared.Seed = 0,
    regions: shared.Regions = None,
    weights: shared.Weights = None,
    no_pretrained: shared.NoPretrained = False,
    allow_missing: shared.AllowMissing = False,
    until: shared.Until = None,
    pool: shared.Pool = None,
    dropout: shared.Dropout = None,
    region_aware: shared.RegionAware = False,
    layer_decay: shared.LayerDecay = None,
    weight_decay: shared.WeightDecay = None,
    optimizer: shared.Optimizer = "fastai",
    augment: shared.Augment = None,
    split_seed: shared.SplitSeed = 0,
    max_bad: shared.MaxBad = 0.05,
    allow_leaks: shared.AllowLeaks = False,
    workers: shared.Workers = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A PNG file for the curve.")] = None,
    as_json: shared.AsJson = False,
):
    """Search for a learning rate.

    The loss over rising rates, and where its valley lies: the highest rate for mura train with the same options. Of a
    pretrained network the head alone learns meanwhile, as it does in the first epoch.

    \b
    mura lr-find MURA-v1.1 --arch resnet50.a1_in1k -o lr.png
    mura lr-find MURA-v1.1 --recipe strong
    """
    settings = dict(
        arch=arch, size=size, bs=bs, pretrained=not no_pretrained, weights=weights, allow_missing=allow_missing,
        until=until, pool=pool, dropout=dropout, region_aware=region_aware, layer_decay=layer_decay,
        weight_decay=weight_decay, optimizer=optimizer, augment=shared.pairs(augment) or None, views=views,
    )  # fmt: skip
    with shared.quiet_import():
        from mura_fastai.results.lr_search import find_lr

        if recipe is not None:
            # It says more than is looked for here: epochs, and a rate.
            filled = recipe_settings(recipe, **shared.left_open(ctx, settings))
            settings = {k: v for k, v in filled.items() if k in inspect.signature(find_lr).parameters}
    found = find_lr(
        data, source=source, regions=regions, split_seed=split_seed, allow_leaks=allow_leaks, max_bad=max_bad,
        seed=seed, num_workers=workers, figure=out, **settings,
    )  # fmt: skip
    if as_json:
        shared.print_json({"lr": found, "figure": str(out) if out else None})
    else:
        options = shared.given_options(ctx, ("out", "as_json"))
        command = f"mura train {shlex.quote(str(data))} {options}".rstrip()
        print(f"{found:.2g}\ntry: {command} --lr {found:.2g}")


def train(
    ctx: typer.Context,
    data: shared.Data,
    recipe: shared.AnyRecipe = None,
    source: shared.Source = None,
    arch: shared.Arch = "mura_cnn",
    views: shared.Views = None,
    size: shared.Size = 320,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training data, the frozen ones apart.")] = 10,
    bs: shared.Batch = 64,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate; by the kind of network.")] = None,
    seed: shared.Seed = 0,
    seeds: Annotated[int, typer.Option(min=1, help="Train this often, with --seed, --seed + 1, ...")] = 1,
    folds: Annotated[
        int | None, typer.Option(min=2, help="Cross-validate: deal the patients to this many folds.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The run's folder; runs/TIME-ARCH.")] = None,
    regions: shared.Regions = None,
    weights: shared.Weights = None,
    no_pretrained: shared.NoPretrained = False,
    allow_missing: shared.AllowMissing = False,
    until: shared.Until = None,
    pool: shared.Pool = None,
    dropout: shared.Dropout = None,
    region_aware: shared.RegionAware = False,
    freeze_epochs: Annotated[
        int | None,
        typer.Option(min=0, help="Before, for the head of a pretrained network; 1 there.", show_default=False),
    ] = None,
    layer_decay: shared.LayerDecay = None,
    weight_decay: shared.WeightDecay = None,
    schedule: Annotated[
        str, typer.Option(help="Of the rate: one-cycle, or plateau: a tenth once the tune loss falls no more.")
    ] = "one-cycle",
    optimizer: shared.Optimizer = "fastai",
    augment: shared.Augment = None,
    split_seed: shared.SplitSeed = 0,
    max_bad: shared.MaxBad = 0.05,
    allow_leaks: shared.AllowLeaks = False,
    no_store: Annotated[
        bool, typer.Option("--no-store", help="Decode every epoch; keep nothing in the cache.")
    ] = False,
    store: Annotated[
        Path | None, typer.Option(help="A store that mura prepare made; else one in the cache.", show_default=False)
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32, bf16, fp16, or auto: the fastest of the device.")] = "auto",
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile the network: minutes first, then faster; for GPUs.")
    ] = False,
    save_every: Annotated[
        int | None, typer.Option(min=1, help="Batches between two saved states within an epoch.", show_default=False)
    ] = None,
    workers: shared.Workers = None,
    ci: shared.Ci = "bootstrap",
    as_json: shared.AsJson = False,
):
    """Train a network, and score it.

    Train on train, choose the epoch on tune, score on valid; all of it is kept in a run's folder. With --folds or
    --seeds it holds a run for each. What was interrupted, anywhere, goes on by mura resume.

    \b
    mura train MURA-v1.1 --arch resnet50.a1_in1k --epochs 30 --out runs/resnet50
    mura train MURA-v1.1 --views attention --bs 24 --out runs/attention
    mura train MURA-v1.1 --folds 5 --seeds 3 --out runs/folds
    mura train MURA-v1.1 --recipe paper --out runs/paper
    """
    if store and no_store:
        raise InputError("--store and --no-store exclude each other; give one of them")
    if out:  # with folds, the images would be read and decoded first
        from mura_fastai.files import refuse_file

        refuse_file(out, "choose another folder (--out)")
    settings = dict(
        arch=arch, size=size, epochs=epochs, bs=bs, lr=lr, seed=seed, pretrained=not no_pretrained, weights=weights,
        allow_missing=allow_missing, until=until, pool=pool, dropout=dropout, region_aware=region_aware,
        freeze_epochs=freeze_epochs, layer_decay=layer_decay, weight_decay=weight_decay, schedule=schedule,
        optimizer=optimizer, augment=shared.pairs(augment) or None, store=False if no_store else store,
        precision=precision, compile=compile, num_workers=workers, views=views, save_every=save_every,
    )  # fmt: skip
    if recipe is not None:
        settings = shared.left_open(ctx, settings)
    run, scores = shared.experiment().train(
        data, out, source, regions, split_seed, allow_leaks, max_bad, shared.interval(ci), folds, seeds, recipe,
        **settings,
    )  # fmt: skip
    _print_run(run, scores, as_json)


def resume(
    run: Annotated[Path, typer.Argument(help="A run's folder, or one of several folds or seeds, or of a demo.")],
    workers: shared.Workers = None,
    ci: shared.Ci = "bootstrap",
    as_json: shared.AsJson = False,
):
    """Go on with an interrupted training.

    From its last state to the end it had been given, as if nothing had happened; then it is scored as mura train does.

    \b
    mura resume runs/resnet50
    """
    if (run / "demo.yaml").exists() and not any((run / name).exists() for name in ("settings.yaml", "repeats.yaml")):
        _resume_demo(run, as_json)
        return
    run, scores = shared.experiment().resume(run, shared.interval(ci), workers)
    if scores is not None:
        _print_run(run, scores, as_json)
    elif as_json:
        shared.print_json(json.loads((run / "metrics.json").read_text(encoding="utf-8")) | {"run": str(run)})
    else:
        print(f"The run in {run} was finished before; its scores: mura evaluate {run}")


def _resume_demo(folder: Path, as_json: bool):
    if as_json:
        raise InputError(f"{folder}: a demo, which prints tables for people; leave --json out")
    with shared.quiet_import():
        from mura_fastai.share.demo import resume_demo
    if not resume_demo(folder):
        print(f"The demo in {folder} was finished before; open {folder / 'report.html'} in a browser")


def relocate(
    run: Annotated[Path, typer.Argument(help="A run's folder, or one of several folds or seeds.")],
    data: Annotated[Path, typer.Argument(help="Where its data lies now: the folder, or the CSV.")],
    as_json: shared.AsJson = False,
):
    """Say where the data of a run lies now.

    For data that was unpacked anew under another path, and for a run from another machine: the paths in the run's
    tables are written anew, once all its images are found there. Weights, predictions and scores stay; no image is
    moved or changed.

    \b
    mura relocate runs/resnet50 /content/MURA-v1.1
    mura relocate runs/folds /content/MURA-v1.1
    """
    with shared.quiet_import():
        from mura_fastai.training.relocate import relocate_run
        from mura_fastai.training.within import is_whole

    folder = relocate_run(run, data)
    if as_json:
        shared.print_json({"run": str(run), "data": str(folder)})
    else:
        more = "" if is_whole(run) else f"; its training goes on: {resuming(run)}"
        print(f"The data of {run} lies in {folder} now{more}")


def _print_run(run: Path, scores, as_json: bool):
    "The scores, where they lie, and what may come next."
    shared.print_scores(scores, as_json, run=str(run), split="valid")
    if as_json:
        return
    if "trainings" in scores.attrs:
        print(f"The runs lie in {run}, their predictions together in {run / 'predictions.csv'}")
    else:
        print(f"The run lies in {run}; next: mura interpret {run}")
