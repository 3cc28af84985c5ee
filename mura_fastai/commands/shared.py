"""What several commands share: their options, the way to PyTorch, and printing for people and as JSON.

No command file imports anything heavy at its top: PyTorch and fastai take seconds, `mura --help` a fraction of one.
"""

import json
import shlex
import warnings
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer

from mura_fastai.errors import InputError
from mura_fastai.exits import ending_at_once
from mura_fastai.training.recipes import RECIPES, Recipe

# What the options do is written once, at the functions they are handed to.
Data = Annotated[Path, typer.Argument(help="A dataset's folder, or a CSV with the columns path and label.")]
OtherData = Annotated[Path | None, typer.Argument(help="Other data than the run's own.", show_default=False)]
Run = Annotated[Path, typer.Argument(help="A run's folder, made by mura train.")]
Source = Annotated[str | None, typer.Option(help="mura, fracatlas, folder or csv; found out where not given.")]
Regions = Annotated[str | None, typer.Option(help="Some regions only, such as XR_WRIST,XR_HAND.")]
SplitSeed = Annotated[int, typer.Option(help="Another seed, another split of data that has no official one.")]
MaxBad = Annotated[float, typer.Option(help="Share of unusable files that is left out without an error.")]
AllowLeaks = Annotated[bool, typer.Option("--allow-leaks", help="Go on although a patient is in train and valid.")]
Arch = Annotated[
    str,
    typer.Option(
        help="mura_cnn, mura_cnn_small, mura_cnn_large, plain_cnn, or any timm name such as resnet50.a1_in1k."
    ),
]
Size = Annotated[int, typer.Option(min=32, help="Side of the padded square that images become, in pixels.")]
Views = Annotated[str | None, typer.Option(help="Learn whole studies, their views pooled by mean, max or attention.")]
Batch = Annotated[int, typer.Option("--bs", min=1, help="Images a batch; studies, where views are pooled.")]
Seed = Annotated[int, typer.Option(help="Of weights, order and augmentation; the split stays.")]
NoPretrained = Annotated[bool, typer.Option("--no-pretrained", help="Start a timm network from random weights.")]
Weights = Annotated[Path | None, typer.Option(help="A local file of pretrained weights, instead of timm's hub.")]
AllowMissing = Annotated[bool, typer.Option("--allow-missing", help="Layers that --weights lacks start fresh.")]
Until = Annotated[
    str | None,
    typer.Option(help="Keep a timm network up to this stage, such as layer3 of resnet18.", show_default=False),
]
Pool = Annotated[
    str | None,
    typer.Option(help="Of a timm network: avg, max, avgmax, catavgmax or gem; else its own.", show_default=False),
]
Dropout = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Share of features dropped before the last layer.", show_default=False),
]
RegionAware = Annotated[
    bool, typer.Option("--region-aware", help="Let the region scale and shift what the last layer sees.")
]
LayerDecay = Annotated[
    float | None,
    typer.Option(help="Factor of the rate from a timm network's layer to the one below.", show_default=False),
]
WeightDecay = Annotated[
    float | None,
    typer.Option(help="Of all weights but biases and norms; the optimizer's own.", show_default=False),
]
Optimizer = Annotated[str, typer.Option(help="Adam with the defaults of fastai (fastai) or of its paper (adam).")]
Augment = Annotated[
    str | None,
    typer.Option(help="Changes of images, such as max_rotate=10,flip=false (see xray_tfms).", show_default=False),
]
_RECIPES = "; ".join(f"{name}: {recipe.what}" for name, recipe in RECIPES.items())
AnyRecipe = Annotated[str | None, typer.Option(help=f"Fill in what is not given. {_RECIPES}.", show_default=False)]
Workers = Annotated[int | None, typer.Option(min=1, help="Threads that decode; the number of cores where not given.")]
Split = Annotated[str, typer.Option(help="Which rows: train, tune, valid or test.")]
Ci = Annotated[str, typer.Option(help="95 % intervals: bootstrap (of patients), asymptotic, official or none.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, and nothing else there.")]


@contextmanager
def quiet_import():
    """fastai scripts a function as it is imported, and PyTorch tells the user that this will have to change one day.

    It takes seconds, in which Ctrl-C ends the command at once."""
    with warnings.catch_warnings(), ending_at_once():
        warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)
        yield


def experiment():
    "The functions behind the commands that need PyTorch."
    with quiet_import():
        from mura_fastai.results import experiment
    return experiment


def interval(name: str) -> str | None:
    "The kind of interval as Python has it."
    return None if name == "none" else name


def left_open(
    ctx: typer.Context,
    settings: dict,  # by the names that the command has for them
) -> dict:  # those that a recipe may not fill in
    "The settings without those of a recipe that nobody gave."
    fills = {f.name for f in fields(Recipe)} & settings.keys()
    return {k: v for k, v in settings.items() if k not in fills or _given(ctx, k)}


def _given(ctx: typer.Context, name: str) -> bool:
    return ctx.get_parameter_source(name).name != "DEFAULT"


def given_options(
    ctx: typer.Context,
    without: tuple,  # names of options that mean nothing to another command
) -> str:
    "The options that were given, ready for a shell."
    words = []
    for option in ctx.command.params:
        value = ctx.params.get(option.name)
        if option.param_type_name == "option" and option.name not in without and _given(ctx, option.name):
            words += [option.opts[0]] if value is True else [option.opts[0], str(value)]
    return shlex.join(words)


def pairs(text: str | None) -> dict:
    "`a=1,b=true` as a dict of numbers and of true and false."
    found = {}
    for part in names(text):
        name, _, value = part.partition("=")
        try:
            found[name.strip()] = {"true": True, "false": False}.get(value.strip().lower())
            if found[name.strip()] is None:
                found[name.strip()] = float(value)
        except ValueError:
            raise InputError(
                f"{part!r} is no name=value with a number, true or false; give such pairs with commas between"
            ) from None
    return found


def names(text: str | None) -> tuple:
    "What stands between commas."
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def print_json(document):
    # `NaN` is no JSON; paths may hold bytes that are no UTF-8, so everything beyond ASCII is escaped.
    print(json.dumps(document, indent=1, allow_nan=False))


def print_scores(scores, as_json: bool, metrics: tuple = (), **told):
    "The score table, and what every model must beat; or all of it as one document."
    from mura_fastai.results.metrics import format_scores
    from mura_fastai.results.tables import scores_document

    if as_json:
        print_json(scores_document(scores, **told))
        return
    if "trainings" in scores.attrs:
        from mura_fastai.results.repeats import format_repeats

        print(format_repeats(scores, *([metrics] if metrics else [])))
    else:
        print(format_scores(scores, *([metrics] if metrics else [])))
    for name, who in (("region_only", "Knowing the region alone"), ("always_normal", "Always normal")):
        if name in scores.attrs:
            kappa, auroc, accuracy = (scores.attrs[name]["overall"][m] for m in ("kappa", "auroc", "accuracy"))
            if kappa is not None:
                print(f"{who}: kappa {kappa:.3f}, AUROC {auroc:.3f}, accuracy {accuracy:.3f} overall")


def print_skipped(
    skipped: list[dict],  # path and reason
):
    "What was left out, a line a reason."
    from mura_fastai.data.gather import by_reason

    for reason, paths in by_reason(skipped).items():
        print(f"left out, {reason}: {len(paths)}, such as {paths[0]}")
