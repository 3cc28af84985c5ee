"""Recipes: what they fill in, what wins over them, the paper's schedule and augmentation, and what a run records."""

import json
from dataclasses import FrozenInstanceError
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from fastai.callback.core import Callback
from fastai.callback.tracker import ReduceLROnPlateau
from fastai.optimizer import Adam
from fastai.torch_core import set_seed

from mura_fastai.data.augment import AugmentXray, xray_tfms
from mura_fastai.data.loaders import mura_dls
from mura_fastai.errors import InputError
from mura_fastai.models.cnn import MuraCNN
from mura_fastai.results.experiment import train
from mura_fastai.share.report_card import train_command
from mura_fastai.training.learner import mura_learner
from mura_fastai.training.optimizer import OPTIMIZERS, fused_adam
from mura_fastai.training.recipes import RECIPES, Recipe, recipe_settings, recipes_table
from mura_fastai.training.runs import read_settings, train_run
from mura_fastai.training.schedules import PlateauDecay, fit_schedule

FEW = dict(size=40, epochs=1, bs=16, num_workers=1, ci=None)


# ---------------------------------------------------------------- what a recipe fills in


def test_the_paper_is_what_was_published():
    paper = RECIPES["paper"]
    assert (paper.arch, paper.size, paper.bs, paper.lr) == ("densenet169", 320, 8, 1e-4)
    assert paper.schedule == "plateau" and paper.freeze_epochs == 0, "trained end to end"
    adam = torch.optim.Adam([torch.zeros(1)]).defaults
    told = OPTIMIZERS[paper.optimizer]
    assert (told["sqr_mom"], told["eps"], told["wd"]) == (adam["betas"][1], adam["eps"], adam["weight_decay"])
    with pytest.raises(FrozenInstanceError):
        paper.size = 224


def test_the_paper_turns_and_flips_and_changes_nothing_else():
    tfm = xray_tfms(**RECIPES["paper"].augment)[0]
    torch.manual_seed(0)
    theta, gain, bend, noise, box = tfm.draw(4000)
    turned = torch.rad2deg(torch.atan2(-theta[:, 0, 1], theta[:, 1, 1]))
    assert turned.abs().max() <= 30.01 and turned.std() == pytest.approx(30 / 3**0.5, rel=0.05), "evenly between"
    lengths = theta[:, :, :2].norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))  # no zoom
    assert torch.det(theta[:, :, :2]).sign().mean().abs() < 0.06, "half are flipped"
    assert not theta[:, :, 2].any(), "no shift"
    assert (gain == 1).all() and not bend.any() and not noise.any() and (box[:, :2] == box[:, 2:]).all()


@pytest.mark.parametrize("name", RECIPES)
def test_what_is_given_wins(name):
    filled = recipe_settings(name)
    assert filled == {"recipe": name, **RECIPES[name].settings()}
    told = recipe_settings(name, size=77, epochs=3, arch=filled["arch"], compile=True)
    assert told == filled | dict(size=77, epochs=3, compile=True)
    augment = recipe_settings("paper", augment={"max_rotate": 5.0})["augment"]
    assert augment == {**RECIPES["paper"].augment, "max_rotate": 5.0}


def test_what_was_made_for_another_kind_of_network_is_left_out():
    own = recipe_settings("strong", arch="mura_cnn")
    assert own == dict(
        recipe="strong", arch="mura_cnn", size=RECIPES["strong"].size, epochs=RECIPES["strong"].epochs, bs=32
    )
    assert recipe_settings("strong", arch="resnet18")["layer_decay"] == RECIPES["strong"].layer_decay
    assert recipe_settings("strong", arch="resnet18")["until"] == "layer3"  # the same network, other weights
    other = recipe_settings("strong", arch="densenet121")
    assert "until" not in other and other["pool"] == RECIPES["strong"].pool
    assert recipe_settings("paper", arch="mura_cnn", lr=3e-4)["lr"] == 3e-4


def test_rates_that_were_made_for_pretrained_weights_are_left_out_where_there_are_none():
    strong = RECIPES["strong"].settings()
    kept = {k: v for k, v in strong.items() if k not in ("lr", "layer_decay", "freeze_epochs")}
    for arch in ({}, dict(arch="densenet121")):
        told = recipe_settings("strong", pretrained=False, weights=None, **arch)
        other = {"until": None} if arch else {}  # a stage of the recipe's own network
        assert told | other == {"recipe": "strong", **kept, "pretrained": False, "weights": None, **arch, **other}
    given = dict(lr=3e-4, layer_decay=0.9)
    assert recipe_settings("strong", pretrained=False, **given).items() >= given.items()
    assert recipe_settings("strong", pretrained=False, weights="w.safetensors").items() >= strong.items()
    assert recipe_settings("quick", pretrained=False).items() >= RECIPES["quick"].settings().items()


def test_an_unknown_recipe_names_those_that_there_are(root, tmp_path):
    with pytest.raises(InputError, match="unknown recipe 'best'; the known ones are paper, quick, strong"):
        train(root, tmp_path / "run", recipe="best")
    assert not (tmp_path / "run").exists()


def test_the_table_tells_every_number(mura):
    lines = recipes_table().splitlines()
    assert lines[0] == "|  | paper | quick | strong |" and all(line.count("|") == 5 for line in lines)
    cells = {line.split(" | ")[0].strip("| `"): line for line in lines[2:]}
    assert "densenet169" in cells["--arch"] and "0.0001" in cells["--lr"] and "max_rotate=30" in cells["--augment"]
    told = " ".join(mura("train", "--help")[1].split())
    assert all(f"{name}: {recipe.what}" in told for name, recipe in RECIPES.items())
    assert recipes_table() in (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    for row in cells:
        assert row == "for" or f"{row} " in told, "the table speaks of options that there are"


# ---------------------------------------------------------------- on the command line


@pytest.fixture
def asked(monkeypatch):
    "What `mura train` would train."
    from mura_fastai.results import experiment

    calls = []

    def note(data, out, *args, **settings):
        calls.append(experiment.recipe_settings(args[-1], **settings) if args[-1] else settings)
        raise InputError("enough")

    monkeypatch.setattr(experiment, "train", note)
    return calls


def test_on_the_command_line_what_is_given_wins(mura, asked):
    mura("train", "x", "--recipe", "paper", "--size", 320, "--bs", 64, "--epochs", 10, "--augment", "max_rotate=5")
    # 64 and 10 are the defaults, and given all the same
    assert asked[0]["bs"] == 64 and asked[0]["epochs"] == 10 and asked[0]["lr"] == 1e-4
    assert asked[0]["augment"] == {**RECIPES["paper"].augment, "max_rotate": 5.0} and asked[0]["arch"] == "densenet169"
    mura("train", "x", "--recipe", "quick", "--seed", 3)
    assert asked[1].items() >= RECIPES["quick"].settings().items() and asked[1]["seed"] == 3
    mura("train", "x")
    assert asked[2].items() >= dict(arch="mura_cnn", size=320, epochs=10, bs=64, schedule="one-cycle").items()


@pytest.mark.parametrize("text", ["max_rotate", "max_rotate=much", "=3="])
def test_changes_of_images_that_cannot_be_read_are_one_line(mura, text):
    code, _, err = mura("train", "x", "--augment", text)
    assert code == 2 and "is no name=value" in err


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(schedule="cosine"), "unknown schedule 'cosine'; the known ones are one-cycle, plateau"),
        (dict(optimizer="sgd"), "unknown optimizer 'sgd'; the known ones are fastai, adam"),
        (dict(augment={"max_turn": 3.0}), "no change of images is called 'max_turn'; there are max_rotate, min_zoom"),
        (dict(augment={"p": "often"}), "augmentation p='often'"),
    ],
)
def test_what_is_unknown_is_one_line_and_no_run(root, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        train(root, tmp_path / "run", **FEW | options)
    assert not (tmp_path / "run" / "settings.yaml").exists()


# ---------------------------------------------------------------- what a run records


def test_a_run_records_the_recipe_and_every_value_it_came_to(mura, root, tmp_path):
    few = ["--arch", "resnet18", "--until", "layer1", "--no-pretrained", "--size", 40, "--epochs", 2, "--bs", 16]
    code, _, err = mura("train", root, "--recipe", "paper", *few, "--ci", "none", "--out", tmp_path / "run")
    assert code == 0 and "recipe paper: resnet18 at 40 px, 2 epochs" in err, err
    kept = read_settings(tmp_path / "run")
    meant = dict(recipe="paper", arch="resnet18", until="layer1", size=40, epochs=2, bs=16, lr=1e-3, freeze_epochs=0)
    meant |= dict(schedule="plateau", plateau=dict(patience=1, factor=10.0, min_delta=0.0), optimizer="adam")
    assert kept | meant == kept
    usual = {k: getattr(xray_tfms()[0], k) for k in kept["augment"]}
    assert kept["augment"] == usual | RECIPES["paper"].augment
    facts = SimpleNamespace(settings=kept, plan=None, data={}, leaked=False, name="run", root="data")
    words = " ".join(map(str, train_command(facts)))
    assert "--schedule plateau --optimizer adam --augment min_zoom=1.0,max_zoom=1.0,max_shift=0.0" in words


@pytest.mark.parametrize(
    ("given", "told", "not_told"),
    [
        (dict(epochs=2), "px, 1 + 2 epochs; it gave --arch resnet18.tv_in1k --size 192 --bs 32", "left out"),
        (dict(epochs=2, freeze_epochs=0), "px, 2 epochs; it gave", "--freeze-epochs"),
        (dict(recipe="quick", arch="resnet18", freeze_epochs=None), "px, 1 + 24 epochs; it gave --size", "left out"),
        (dict(arch="mura_cnn"), "px, 8 epochs; it gave --size 192 --epochs 8 --bs 32; made for another start, and left "
         "out: --freeze-epochs --lr --layer-decay --until --pool", "+"),
    ],
)  # fmt: skip
def test_a_recipe_says_what_it_gave_and_what_it_left_out(tmp_path, root, capsys, given, told, not_told):
    with pytest.raises(InputError, match="unknown optimizer"):  # nothing has to be trained for it
        train(root, tmp_path / "run", **{"recipe": "strong", "optimizer": "none", **given})
    line = capsys.readouterr().err.splitlines()[0]
    assert told in line and not_told not in line, line


def test_a_run_without_a_recipe_records_its_values_too(run):
    kept = yaml.safe_load((run / "settings.yaml").read_text())
    assert (
        kept
        | dict(recipe=None, schedule="one-cycle", plateau=None, optimizer="fastai", layer_decay=None, weight_decay=None)
        == kept
    )
    assert kept["augment"]["max_rotate"] == 30 and kept["augment"]["flip"] is True


def test_the_images_are_changed_as_the_run_says(images, tmp_path, monkeypatch):
    seen = []

    def stop(learn, *_):
        seen.append([t for t in learn.dls.train.after_batch.fs if isinstance(t, AugmentXray)])
        raise InputError("enough")

    monkeypatch.setattr("mura_fastai.training.fitting.fit_schedule", stop)
    with pytest.raises(InputError, match="enough"):
        train_run(
            images, tmp_path / "run", size=40, epochs=1, bs=16, augment=dict(max_rotate=7, flip=False), store=False
        )
    (tfm,) = seen[0]
    assert tfm.max_rotate == 7 and tfm.flip is False and tfm.max_zoom == AugmentXray().max_zoom


@pytest.mark.parametrize(
    ("optimizer", "given", "used"), [("fastai", None, 0.01), ("adam", None, 0), ("adam", 0.3, 0.3)]
)
def test_the_weights_decay_as_the_run_says(images, tmp_path, monkeypatch, optimizer, given, used):
    seen = []

    def stop(learn, *_):
        learn.create_opt()
        seen.extend(group["weight_decay"] for group in learn.opt.opt.param_groups)
        raise InputError("enough")

    monkeypatch.setattr("mura_fastai.training.fitting.fit_schedule", stop)
    with pytest.raises(InputError, match="enough"):
        train_run(
            images,
            tmp_path,
            size=40,
            epochs=1,
            bs=16,
            optimizer=optimizer,
            weight_decay=given,
            store=False,
            pretrained=0,
        )
    assert seen and set(seen) == {used}


def test_a_weight_decay_out_of_range_is_refused_before_anything_is_read(images, tmp_path):
    with pytest.raises(InputError, match="weight decay -1.*--weight-decay"):
        train_run(images, tmp_path / "run", weight_decay=-1)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("lr", [-1, 0, "nan", "inf"])
def test_a_rate_that_trains_nothing_is_refused_before_anything_is_read(mura, root, images, tmp_path, lr):
    code, out, err = mura("train", root, "--size", 40, "--lr", lr, "--out", tmp_path / "run")
    assert (code, out) == (2, "") and err.count("\n") == 1 and "learning rate" in err and "--lr" in err
    with pytest.raises(InputError, match="learning rate.*lr="):
        train_run(images, tmp_path / "run", lr=float(lr))
    with pytest.raises(InputError, match="learning rate"):
        train(root, tmp_path / "run", folds=2, lr=float(lr), **FEW)
    learn = mura_learner(mura_dls(images, 40, 16), MuraCNN(widths=(4, 8), grid=2, hidden=8))
    with pytest.raises(InputError, match="learning rate"):
        fit_schedule(learn, 1, float(lr))
    with pytest.raises(InputError, match="learning rate"):
        mura_learner(learn.dls, MuraCNN(widths=(4, 8), grid=2, hidden=8), lr=float(lr))
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- the rate on a plateau


class Told(Callback):
    "Replaces the tune loss by what the test says, before anybody looks at it; notes the rates of each epoch."

    order = 51  # right after the recorder

    def __init__(self, losses):
        self.losses, self.rates = losses, []

    def before_batch(self):
        if self.training and self.iter == 0:
            self.rates.append([h["lr"] for h in self.opt.hypers])

    def after_epoch(self):
        values = self.recorder.values[-1]
        values[1] = self.losses[self.epoch]


def rates_of(images, opt_func, decay, losses, **kwargs):
    set_seed(0)
    table = pd.concat([images[images.split == s].head(16) for s in ("train", "tune")])
    learn = mura_learner(
        mura_dls(table, 40, 16), MuraCNN(widths=(4, 8), grid=2, hidden=8), opt_func=opt_func, metrics=[]
    )
    told = Told(losses)
    with learn.no_bar(), learn.no_logging():
        learn.fit(len(losses), 1e-2, cbs=[told, decay(**kwargs)])
    return [r[0] for r in told.rates]


LOSSES = [0.9, 0.8, 0.85, 0.7, 0.7, 0.72, 0.1]


def test_the_rate_falls_by_ten_whenever_the_tune_loss_has_not_fallen(images, capsys):
    rates = rates_of(images, fused_adam, PlateauDecay, LOSSES)
    assert rates == pytest.approx([1e-2, 1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-5])
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("tune loss has not fallen") == 3
    # fastai's own says the same of fastai's own optimizer
    assert rates == pytest.approx(rates_of(images, Adam, ReduceLROnPlateau, LOSSES))


def test_patience_and_a_least_step_are_heeded_as_fastai_does(images):
    for kwargs in (dict(patience=2), dict(min_delta=0.15), dict(factor=2.0, min_lr=4e-3)):
        ours = rates_of(images, fused_adam, PlateauDecay, LOSSES, **kwargs)
        assert ours == pytest.approx(rates_of(images, Adam, ReduceLROnPlateau, LOSSES, **kwargs)), kwargs


def test_a_plateau_may_follow_frozen_epochs_and_rates_by_layer(images):
    set_seed(0)
    learn = mura_learner(mura_dls(images, 40, 16), "resnet18", pretrained=False, until="layer1", by_layer=True)
    told = Told([0.5, 0.9, 0.9])
    with learn.no_bar(), learn.no_logging():
        fit_schedule(learn, 3, 1e-2, 1, 0.5, "plateau", [told])
    frozen, *rest = told.rates
    assert frozen == pytest.approx([1e-2] * 4)
    top = np.array([1e-2 / 8, 1e-2 / 4, 1e-2 / 2, 1e-2])
    assert np.array(rest) == pytest.approx(np.array([top, top, top / 10]))


def test_json_stays_one_document_while_the_rate_falls(mura, root, tmp_path):
    few = ["--size", 40, "--epochs", 3, "--bs", 16, "--ci", "none", "--lr", 1e-9, "--schedule", "plateau"]
    code, out, _ = mura("train", root, *few, "--out", tmp_path / "run", "--json")
    assert code == 0 and json.loads(out)["split"] == "valid"


def test_every_recipe_is_of_options_that_train_run_has():
    import inspect

    known = inspect.signature(train_run).parameters
    assert set(Recipe.__dataclass_fields__) - {"what"} <= set(known)
