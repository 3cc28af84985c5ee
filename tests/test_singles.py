"""Batches of one image: networks that cannot learn from them say so before a training, never in its midst."""

import pandas as pd
import pytest
import torch
from fastai.torch_core import set_seed

from mura_fastai.data.loaders import mura_dls
from mura_fastai.errors import InputError
from mura_fastai.models.backbones import create_net
from mura_fastai.models.cnn import MuraCNN
from mura_fastai.results.lr_search import find_lr
from mura_fastai.training.learner import mura_learner
from mura_fastai.training.runs import train_run
from mura_fastai.training.singles import learns_from_one


def tiny():
    return MuraCNN(widths=(4, 8), grid=2, hidden=8)


def table(images, n=5, train=True):
    "So many rows to train on, some of these, and a few of tune."
    return pd.concat([images[(images.split == "train") & train].head(n), images[images.split == "tune"].head(4)])


def fit(dls, net=None, **kwargs):
    set_seed(0)
    learn = mura_learner(dls, tiny() if net is None else net, metrics=[], **kwargs)
    before = [p.detach().clone() for p in learn.model.parameters()]
    try:
        with learn.no_bar(), learn.no_logging():
            learn.fit(1, 1e-2)
    finally:
        learn.moved = not all(map(torch.equal, before, learn.model.parameters()))
        fit.last = learn
    return learn


@pytest.mark.parametrize(
    ("arch", "size", "can"),
    [("mura_cnn", 64, False), ("plain_cnn", 32, True), ("resnet18", 64, True), ("resnet18", 32, False)],
)
def test_which_networks_need_more_than_one_is_what_pytorch_says(arch, size, can):
    net = create_net(arch, pretrained=False, size=size)
    assert learns_from_one(net, size) is can
    assert net.training and all(p.device.type == "cpu" for p in net.parameters()), "it stays as it is"
    try:
        net(torch.rand(1, 1, size, size))
        went = True
    except ValueError:
        went = False
    assert went is can


@pytest.mark.parametrize("views", [None, "attention"])
def test_it_is_said_before_data_is_read(tmp_path, views):
    def read():
        raise AssertionError("data was read")

    data = dict(path=str(tmp_path), source="folder")
    with pytest.raises(InputError, match=r"mura_cnn cannot learn from one image.*--bs 2"):
        train_run(read, tmp_path / "run", size=64, bs=1, views=views, data=data)
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match=r"mura_cnn cannot learn from one image.*--bs 2"):
        find_lr(tmp_path / "absent", "mura_cnn", size=64, bs=1, views=views)
    with pytest.raises(AssertionError, match="data was read"):  # a network that can
        train_run(read, tmp_path / "run", "plain_cnn", size=64, bs=1, views=views, data=data)


def test_a_learner_says_it_before_its_first_step(images):
    with pytest.raises(InputError, match=r"^MuraCNN cannot learn from one image.*bs=2") as e:
        fit(mura_dls(table(images), 32, 1))
    assert "\n" not in str(e.value)
    assert not fit.last.moved
    with torch.inference_mode():
        fit.last.validate()  # only training takes statistics
    assert fit(mura_dls(table(images), 32, 1), "plain_cnn").moved


def test_no_epoch_ends_in_a_batch_of_one(images):
    "Five images in batches of two or four: the fifth is left out, by chance another one each time."
    for bs in (2, 4):
        assert fit(mura_dls(table(images), 32, bs)).moved
    with pytest.raises(InputError, match=r"in the last batch of an epoch.*drop_last"):
        fit(mura_dls(table(images), 32, 4, drop_last=False))
    assert not fit.last.moved
    assert fit(mura_dls(table(images), 32, 3, drop_last=False)).moved, "two are left"


@pytest.mark.parametrize("views", ["mean", "attention"])
def test_a_study_of_one_view_alone_is_one_image(images, views):
    n = images.groupby("study").study.transform("size")
    one, more = table(images, 3, n == 1), table(images, 6, n > 1)
    with pytest.raises(InputError, match="MuraCNN cannot learn from one image"):
        fit(mura_dls(one, 32, 1, by="study"), views=views)
    assert not fit.last.moved
    with pytest.raises(InputError, match="MuraCNN cannot learn from one image"):
        fit(mura_dls(more, 32, 1, by="study", max_views=1), views=views)
    assert fit(mura_dls(more, 32, 1, by="study"), views=views).moved, "several views have statistics"
    assert fit(mura_dls(one, 32, 2, by="study"), views=views).moved
