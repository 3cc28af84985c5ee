"""A network that knows the region: it starts as if it did not, answers by region, and also where the region is new."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from fastai.torch_core import set_seed
from safetensors.torch import load_file, save_file

from mura_fastai.data.loaders import mura_dls
from mura_fastai.errors import InputError
from mura_fastai.models.backbones import create_net
from mura_fastai.models.regions import RegionFiLM
from mura_fastai.results.predict import predict_images
from mura_fastai.results.tables import read_predictions
from mura_fastai.training.learner import mura_learner
from mura_fastai.training.runs import load_run, read_settings

NETS = [("mura_cnn", {}), ("resnet18", dict(until="layer1", pool="gem")), ("convnext_atto", {})]


def moved(film, seed=0):
    "Scales and shifts as if they had been learned."
    torch.manual_seed(seed)
    for table in (film.scale, film.shift):
        table.data.normal_()
    return film


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 4, 6)])
def test_features_are_scaled_and_shifted_by_region(shape):
    x, region = torch.randn(shape), torch.tensor([2, 0, 1, 3, 2])
    film = RegionFiLM(4, 3)
    assert torch.equal(film(x, region), x), "it starts as the identity"
    moved(film)
    for i, code in enumerate(region):
        scale, shift = ((t[code - 1] if code else t.mean(0)).detach() for t in (film.scale, film.shift))
        expected = torch.stack([x[i, c] * (1 + scale[c]) + shift[c] for c in range(3)])
        torch.testing.assert_close(film(x, region)[i].detach(), expected)
    torch.testing.assert_close(film(x), film(x, torch.zeros(5, dtype=torch.long)))
    with pytest.raises(InputError, match="at least one known region"):
        RegionFiLM(1, 3)


def test_a_region_learns_from_its_own_images():
    film = RegionFiLM(4, 3)
    film(torch.rand(6, 3), torch.tensor([1, 1, 3, 3, 1, 3])).sum().backward()
    for table in (film.scale, film.shift):
        assert table.grad[[0, 2]].abs().min() > 0 and not table.grad[1].any()


@pytest.mark.parametrize(("arch", "options"), NETS)
def test_a_network_starts_as_if_it_knew_no_region_and_then_answers_by_it(arch, options):
    nets = []
    for n_regions in (0, 4):
        torch.manual_seed(0)
        nets.append(create_net(arch, pretrained=False, n_regions=n_regions, **options).eval())
    x, region = torch.rand(3, 1, 64, 64), torch.tensor([1, 2, 0])
    plain, aware = nets
    assert torch.equal(plain(x, region), aware(x, region))
    moved(aware.film)
    with torch.no_grad():
        same = torch.cat([x[:1]] * 4)
        assert len(set(aware(same, torch.arange(4)).flatten().tolist())) == 4
        features = aware.features(x, region)
        assert features.shape == (3, aware.n_features)
        torch.testing.assert_close(features, aware.film(plain.features(x, region), region))
        torch.testing.assert_close(aware(x, region), aware.classifier(features))
    aware(x, region).sum().backward()
    assert all(p.grad is not None for p in aware.parameters())
    groups = aware.param_groups()
    assert {id(aware.film.scale), id(aware.film.shift)} <= {id(p) for p in groups[-1]}, "it learns with the head"
    assert sum(len(g) for g in groups) == len(list(aware.parameters()))


def test_a_network_with_two_classifiers_says_that_it_cannot():
    with pytest.raises(InputError, match="more than a linear classifier"):
        create_net("deit_tiny_distilled_patch16_224", pretrained=False, n_regions=3)


def test_the_learner_gives_each_region_of_the_loaders_a_row(images):
    set_seed(0)
    learn = mura_learner(mura_dls(images, 40, 16), "resnet18", pretrained=False, until="layer1", region_aware=True)
    film = learn.model.film
    assert len(film.scale) == len(learn.dls.vocab[0]) - 1 == images.region[images.split != "valid"].nunique()
    learn.freeze()
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-2)
    assert film.shift.abs().min() > 0, "also while the body is frozen"
    with pytest.raises(InputError, match="region_aware= goes with a network's name"):
        mura_learner(learn.dls, create_net("mura_cnn"), region_aware=True)


@pytest.mark.parametrize("arch", ["mura_cnn", "resnet18"])
def test_a_run_keeps_it_and_answers_where_the_region_is_new(mura, root, images, tmp_path, arch):
    few = ["--no-pretrained", "--size", 40, "--epochs", 1, "--bs", 16, "--ci", "none", "--regions", "XR_WRIST,XR_HAND"]
    few += ["--until", "layer1"] if arch == "resnet18" else []
    code, _, err = mura("train", root, "--arch", arch, "--region-aware", *few, "--out", tmp_path / "run")
    assert code == 0, err
    assert read_settings(tmp_path / "run")["region_aware"] is True
    weights = load_file(tmp_path / "run" / "weights" / "best.safetensors")
    assert len(weights["film.scale"]) == 2 and weights["film.shift"].abs().min() > 0
    learn = load_run(tmp_path / "run")
    told = read_predictions(tmp_path / "run" / "predictions.csv")
    again = predict_images(learn, images[images.path.isin(told.path)])
    np.testing.assert_allclose(again.set_index("path").p_abnormal[told.path], told.p_abnormal, atol=1e-6)
    # a knee, and an image of no known region at all
    knees = images.head(3).assign(region="XR_KNEE")
    answers = predict_images(learn, knees)
    learn.model.film.scale.data[:] = learn.model.film.scale.mean(0)
    learn.model.film.shift.data[:] = learn.model.film.shift.mean(0)
    mean = predict_images(learn, knees)
    np.testing.assert_allclose(answers.p_abnormal, mean.p_abnormal, atol=1e-6)
    assert answers.p_abnormal.between(0, 1).all()
    code, out, err = mura("predict", tmp_path / "run", images.path[0], "-o", tmp_path / "p.csv")
    assert code == 0, err


def test_a_run_without_it_has_no_trace_of_it(run):
    assert read_settings(run)["region_aware"] is False
    assert not [n for n in load_file(run / "weights" / "best.safetensors") if n.startswith("film")]


def test_images_without_a_region_are_named_and_may_be_given_one(mura, run, images, tmp_path):
    wrist = images[(images.split == "valid") & (images.region == "XR_WRIST")].iloc[[0]]
    (tmp_path / "mine").mkdir()
    shutil.copy(wrist.path.iloc[0], tmp_path / "mine" / "a.png")
    aware = Path(shutil.copytree(run, tmp_path / "aware"))
    settings = yaml.safe_load((aware / "settings.yaml").read_text())
    (aware / "settings.yaml").write_text(yaml.safe_dump(settings | {"region_aware": True}))
    learn = mura_learner(load_run(run).dls, "mura_cnn", region_aware=True)
    moved(learn.model.film)
    save_file({k: v.contiguous() for k, v in learn.model.state_dict().items()}, aware / "weights" / "best.safetensors")
    out = ["-o", tmp_path / "p.csv"]

    code, _, err = mura("predict", aware, tmp_path / "mine", *out)
    assert code == 0 and err.count("\n") == 1 and "1 image has no region" in err and "--region says which (XR_" in err
    unknown = read_predictions(tmp_path / "p.csv").p_abnormal[0]

    code, told, err = mura("predict", aware, tmp_path / "mine", "--region", "XR_WRIST", *out)
    assert code == 0 and not err and "XR_WRIST" in told
    given = read_predictions(tmp_path / "p.csv").p_abnormal[0]
    assert given == pytest.approx(predict_images(load_run(aware), wrist).p_abnormal.iloc[0]) != pytest.approx(unknown)

    code, _, err = mura("predict", aware, tmp_path / "mine", "--region", "XR_KNEE", *out)
    assert code == 2 and "no region 'XR_KNEE'" in err and "it knows XR_" in err

    hand = images[(images.split == "valid") & (images.region == "XR_HAND")].path.iloc[0]
    assert mura("predict", aware, hand, "--region", "XR_WRIST", *out)[0] == 0
    assert read_predictions(tmp_path / "p.csv").region[0] == "XR_HAND", "what carries one keeps it"
    assert mura("predict", run, tmp_path / "mine", *out)[2] == "", "this network was not told any"
