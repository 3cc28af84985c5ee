"""Recipes: settings of `train_run` that go together, under a name. The one place of their numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from mura_fastai.errors import InputError


@dataclass(frozen=True)
class Recipe:
    "What one recipe fills in: settings of `train_run`; None leaves its default."

    what: str  # a line for those who choose
    arch: str
    size: int  # pixels
    epochs: int
    bs: int
    freeze_epochs: int | None = None
    lr: float | None = None
    layer_decay: float | None = None
    weight_decay: float | None = None
    schedule: str | None = None
    optimizer: str | None = None
    until: str | None = None
    pool: str | None = None
    dropout: float | None = None
    region_aware: bool | None = None
    augment: Mapping | None = None

    def settings(self) -> dict:
        "Those that are set."
        set_here = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "what"}
        return {k: v for k, v in set_here.items() if v is not None}


RECIPES = {
    # Of its ensemble of five one network; images keep their aspect on a black square instead of being stretched to it,
    # and the best epoch is chosen by AUROC, not by loss. The number of epochs is not in the paper.
    "paper": Recipe(
        "protocol of Rajpurkar et al. 2018 (arXiv 1712.06957)", "densenet169", 320, epochs=20, bs=8, freeze_epochs=0,
        lr=1e-4, schedule="plateau", optimizer="adam",
        augment=dict(max_rotate=30.0, min_zoom=1.0, max_zoom=1.0, max_shift=0.0, max_lighting=0.0, p=1.0, flip=True),
    ),
    # Both were measured on FracAtlas, 2,227 radiographs to learn from: the README has the figures.
    "quick": Recipe("from scratch, minutes on two cores", "mura_cnn", 128, epochs=24, bs=64),
    "strong": Recipe(
        "a pretrained network up to its third stage, rates that fall layer by layer", "resnet18.tv_in1k", 192, epochs=8,
        bs=32, freeze_epochs=1, lr=2e-3, layer_decay=0.7, until="layer3", pool="catavgmax",
    ),
}  # fmt: skip
_OF_NET = {
    "lr",
    "freeze_epochs",
    "layer_decay",
    "weight_decay",
    "until",
    "pool",
    "dropout",
}  # made for the recipe's kind of network
_OF_PRETRAINED = {"lr", "freeze_epochs", "layer_decay"}  # for one whose body has learned already


def recipe_settings(
    name: str,  # one of `RECIPES`
    **given,  # settings of `train_run`, which win
) -> dict:  # for `train_run`: what is given, and what the recipe fills in; `recipe` names it
    """Fill in what is not given. `train_run(images, **recipe_settings("paper", size=224))`.

    Of `augment` each change wins by itself. Where `arch` is given and of another kind (mura_cnn for a network of timm,
    or the other way round), rates and options made for the recipe's network stay at their defaults; a stage to cut
    after goes with the recipe's own network alone. Rates made for a pretrained network stay at their defaults where
    nothing is pretrained."""
    from mura_fastai.models.backbones import OWN
    from mura_fastai.training.schedules import starts_trained

    if name not in RECIPES:
        raise InputError(f"unknown recipe {name!r}; the known ones are {', '.join(RECIPES)}")
    filled = RECIPES[name].settings()
    if (given.get("arch", filled["arch"]) in OWN) != (filled["arch"] in OWN):
        filled = {k: v for k, v in filled.items() if k not in _OF_NET}
    if given.get("arch", filled["arch"]).split(".")[0] != filled["arch"].split(".")[0]:
        filled.pop("until", None)  # a stage of this very network
    if filled["arch"] not in OWN and not starts_trained({"arch": filled["arch"], **given}):
        filled = {k: v for k, v in filled.items() if k not in _OF_PRETRAINED}
    changes = {**filled.get("augment", {}), **(given.get("augment") or {})}
    return {"recipe": name, **filled, **given, **({"augment": changes} if changes else {})}


def recipes_table() -> str:
    "What each recipe sets, as a Markdown table; an empty place is the default of `mura train`."
    rows = [f.name for f in fields(Recipe) if any(getattr(r, f.name) is not None for r in RECIPES.values())]
    lines = [["", *RECIPES], ["---"] * (len(RECIPES) + 1)]
    lines += [[_name(row), *(_cell(getattr(r, row)) for r in RECIPES.values())] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _name(field: str) -> str:
    return "for" if field == "what" else f"`--{field.replace('_', '-')}`"


def _cell(value) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k}={v}" for k, v in value.items())
    return "" if value is None else str(value)
