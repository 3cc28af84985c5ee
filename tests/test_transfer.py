"""What is taken over from photographs: parts of a network, its head, and rates that fall from layer to layer."""

from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from fastai.callback.core import Callback
from fastai.torch_core import set_seed
from safetensors.torch import save_file
from timm.optim import param_groups_layer_decay

from mura_fastai.data.loaders import mura_dls
from mura_fastai.errors import InputError
from mura_fastai.models.backbones import create_net, timm_net
from mura_fastai.models.heads import GeM
from mura_fastai.models.views import StudyNet
from mura_fastai.results.experiment import train
from mura_fastai.results.predict import predict_images
from mura_fastai.results.tables import read_predictions
from mura_fastai.share.report_card import train_command
from mura_fastai.training.learner import mura_learner
from mura_fastai.training.runs import load_run, read_settings, train_run
from mura_fastai.training.schedules import fit_schedule, layer_rates

AS_READ = dict(data={}, leaked=False, name="run", root="data")  # what else the report's command asks of a run
CUTS = [
    ("resnet18", "layer3", 256), ("densenet121", "features.denseblock2", 512), ("mobilenetv2_100", "blocks.4", 96),
    ("convnext_atto", "stages.2", 160), ("regnety_002", "s2", 56),
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "A three-channel ResNet-18 with random weights, and its file."
    torch.manual_seed(0)
    net = timm.create_model("resnet18").eval()
    file = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    save_file(net.state_dict(), file)
    return net, file


def place_maps(net, stage, x):
    "What a stage gives as the whole network runs: the oracle."
    seen, stages = [], dict(net.named_modules())
    handle = stages[stage].register_forward_hook(lambda m, inputs, out: seen.append(out.clone()))
    with torch.no_grad():
        net(x)
    handle.remove()
    return seen[0]


# ---------------------------------------------------------------- features and classifier


@pytest.mark.parametrize(
    "arch", ["resnet18", "densenet121", "mobilenetv2_100", "convnext_atto", "vit_tiny_patch16_224"]
)
def test_a_network_is_its_features_and_a_linear_classifier(arch):
    torch.manual_seed(0)
    net = create_net(arch, pretrained=False, size=64).eval()
    x, region = torch.rand(2, 1, 64, 64), torch.tensor([1, 0])
    with torch.no_grad():
        features = net.features(x, region)
        assert features.shape == (2, net.n_features) and isinstance(net.classifier, torch.nn.Linear)
        torch.testing.assert_close(net.classifier(features), net(x, region))
        torch.testing.assert_close(net(x, region), net.body(x))  # timm's own way through


@pytest.mark.parametrize("arch", ["efficientvit_m0", pytest.param("volo_d1_224", marks=pytest.mark.slow)])
def test_a_network_that_is_more_than_its_features_and_a_classifier_is_itself_and_takes_nothing_between(arch):
    torch.manual_seed(0)
    net = timm_net(arch, pretrained=False).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.uniform_(0.1, 0.2)
    x = torch.rand(1, 1, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(net(x, torch.tensor([0])), net.body(x))
    for asked in (lambda: timm_net(arch, pretrained=False, n_regions=3), lambda: StudyNet(net)):
        with pytest.raises(InputError, match=f"{arch} is more than a linear classifier .*--region-aware, --views"):
            asked()


@pytest.mark.parametrize("arch", ["resnet18", "convnext_atto", "vit_tiny_patch16_224", "efficientnet_b0"])
def test_seeing_whether_regions_can_come_between_costs_no_luck_and_no_state(arch):
    nets = []
    for n_regions in (0, 3):
        torch.manual_seed(0)
        nets.append(timm_net(arch, pretrained=False, n_regions=n_regions))
        assert nets[-1].training and nets[-1].body.training
    nets.append(torch.rand(1))
    torch.manual_seed(0)
    timm_net(arch, pretrained=False)
    assert torch.equal(nets.pop(), torch.rand(1))
    plain, aware = (net.body.state_dict() for net in nets)
    assert all(torch.equal(plain[n], aware[n]) for n in plain)


# ---------------------------------------------------------------- the first stages alone


@pytest.mark.parametrize(("arch", "stage", "channels"), CUTS)
def test_a_cut_network_sees_what_the_whole_one_sees_at_that_stage(arch, stage, channels, tmp_path):
    torch.manual_seed(0)
    net, x = timm.create_model(arch, in_chans=1).eval(), torch.rand(2, 1, 64, 64)
    save_file(net.state_dict(), tmp_path / "whole.safetensors")
    there = place_maps(net, stage, x)
    cut = create_net(arch, weights=tmp_path / "whole.safetensors", until=stage, pool="avg").eval()
    with torch.no_grad():
        torch.testing.assert_close(cut.body.forward_features(x), there, rtol=1e-4, atol=1e-5)
        if arch != "convnext_atto":  # whose head begins with a norm
            torch.testing.assert_close(cut.features(x), there.mean((2, 3)), rtol=1e-4, atol=1e-5)
    assert cut.n_features == channels == there.shape[1]
    cut.train()(x).sum().backward()
    assert all(p.grad is not None for p in cut.parameters()), "nothing is left that nothing goes through"
    groups = cut.param_groups()
    assert len(groups) == 3 and all(groups)
    assert sum(p.numel() for p in cut.parameters()) == sum(p.numel() for g in groups for p in g)


def test_a_transformer_is_cut_after_a_block():
    x = torch.rand(2, 1, 64, 64)
    torch.manual_seed(0)
    whole = create_net("vit_tiny_patch16_224", pretrained=False, size=64).eval()
    torch.manual_seed(0)
    cut = create_net("vit_tiny_patch16_224", pretrained=False, size=64, until="blocks.3").eval()
    there = place_maps(whole.body, "blocks.3", x)
    with torch.no_grad():
        torch.testing.assert_close(cut.features(x), whole.body.norm(there)[:, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("arch", "stage"), [("hrnet_w18_small", "stage2"), ("coat_tiny", "parallel_blocks")])
def test_a_network_that_no_image_goes_through_once_it_is_cut_is_refused_as_it_is_made(arch, stage):
    with pytest.raises(InputError, match=f"{arch} cut after {stage} does not take images of 224 pixels.*--until"):
        create_net(arch, pretrained=False, size=224, until=stage)


def test_a_file_may_hold_what_was_cut_away_and_may_lack_it(whole, tmp_path):
    net, file = whole
    short = {k: v for k, v in net.state_dict().items() if not k.startswith(("layer4", "fc"))}
    save_file(short, tmp_path / "short.safetensors")
    cuts = [timm_net("resnet18", weights=f, until="layer3").eval() for f in (file, tmp_path / "short.safetensors")]
    x = torch.rand(1, 1, 64, 64)
    assert torch.equal(*(cut.features(x) for cut in cuts))
    assert all(cut.fresh == ["fc.weight", "fc.bias"] for cut in cuts), "nothing else is missing, or has to be allowed"
    save_file(short | {"layer9.weight": torch.zeros(2)}, tmp_path / "odd.safetensors")
    with pytest.raises(InputError, match="another network: layer9.weight do not fit"):
        timm_net("resnet18", weights=tmp_path / "odd.safetensors", until="layer3")
    save_file({k: v for k, v in short.items() if not k.startswith("layer2")}, tmp_path / "holes.safetensors")
    with pytest.raises(InputError, match="lacks layer2"):
        timm_net("resnet18", weights=tmp_path / "holes.safetensors", until="layer3")
    with pytest.raises(InputError, match="lacks layer4.*--allow-missing.*leaves them out .--until layer3"):
        timm_net("resnet18", weights=tmp_path / "short.safetensors")
    with pytest.raises(InputError, match="lacks layer2.*--allow-missing.$"):
        timm_net("resnet18", weights=tmp_path / "holes.safetensors")
    fresh = timm_net("resnet18", weights=tmp_path / "holes.safetensors", until="layer3", allow_missing=True).fresh
    assert len(fresh) > 10 and all(n.startswith(("layer2", "fc.")) for n in fresh)


def test_a_norm_of_the_head_is_no_classifier(tmp_path):
    net, file = timm.create_model("convnext_atto"), tmp_path / "w.safetensors"
    save_file({k: v for k, v in net.state_dict().items() if k != "head.norm.weight"}, file)
    with pytest.raises(InputError, match=r"lacks head\.norm\.weight of convnext_atto; .*--allow-missing"):
        timm_net("convnext_atto", weights=file)
    assert timm_net("convnext_atto", weights=file, allow_missing=True).fresh[0] == "head.norm.weight"
    save_file({k: v for k, v in net.state_dict().items() if not k.startswith("head.fc")}, file)
    net = timm_net("convnext_atto", weights=file)
    assert net.fresh == ["head.fc.weight", "head.fc.bias"], "a classifier is another one anyway"


def test_what_a_file_has_beside_the_network_is_told(tmp_path):
    regions = timm_net("resnet18", pretrained=False, until="layer1", pool="gem", n_regions=3)
    regions.body.global_pool.p.data += 1
    save_file(regions.state_dict(), tmp_path / "w.safetensors")
    plain = timm_net("resnet18", weights=tmp_path / "w.safetensors", until="layer1")
    assert sorted(plain.dropped) == ["film.scale", "film.shift", "global_pool.p"] and plain.fresh == []
    again = timm_net("resnet18", weights=tmp_path / "w.safetensors", until="layer1", pool="gem")
    assert again.body.global_pool.p.item() == 4 and sorted(again.dropped) == ["film.scale", "film.shift"]


@pytest.mark.parametrize("views", [None, "mean"])
def test_training_tells_what_starts_fresh_and_what_is_not_used(views, mura, root, whole, tmp_path):
    net = timm_net("resnet18", weights=whole[1], until="layer1", n_regions=8)
    save_file({k: v for k, v in net.state_dict().items() if "conv2" not in k}, tmp_path / "w.safetensors")
    options = ["--weights", tmp_path / "w.safetensors", "--until", "layer1", "--allow-missing"]
    options += ["--views", views] if views else []
    few = ["--size", 32, "--epochs", 1, "--bs", 16, "--ci", "none", "--out", tmp_path / "run"]
    code, _, err = mura("train", root, "--arch", "resnet18", *options, *few)
    assert code == 0, err
    assert "w.safetensors: starts fresh: layer1.0.conv2.weight, layer1.1.conv2.weight\n" in err
    assert "w.safetensors: not used: film.scale, film.shift\n" in err


@pytest.mark.parametrize("arch", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_a_file_of_another_picture_size_is_resampled_as_timm_does(arch, tmp_path):
    torch.manual_seed(0)
    file, cfg = tmp_path / "w.safetensors", timm.models.get_pretrained_cfg(arch)
    save_file(timm.create_model(arch).state_dict(), file)
    there = timm.create_model(arch, pretrained=True, img_size=96, pretrained_cfg_overlay=dict(file=str(file))).eval()
    here = timm_net(arch, weights=file, size=96).eval()
    mean, std = (torch.tensor(s)[:, None, None] for s in (cfg.mean, cfg.std))
    grey = torch.rand(2, 1, 96, 96)
    with torch.no_grad():
        seen = here.body.forward_features((grey - mean.mean()) / std.mean())
        torch.testing.assert_close(seen, there.forward_features((grey - mean) / std), rtol=1e-4, atol=1e-4)


def test_a_size_that_weights_cannot_be_turned_to_is_named(tmp_path):
    save_file(timm.create_model("pit_ti_224").state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"pos_embed do not fit pit_ti_224 at 96 pixels; .*--size"):
        timm_net("pit_ti_224", weights=tmp_path / "w.safetensors", size=96)


@pytest.mark.parametrize("wrapper", ["module.", "body.", "module.body."])
def test_names_that_a_wrapper_put_before_are_read(whole, tmp_path, wrapper):
    net, file = whole
    wrapped = {f"{wrapper}{k}": v for k, v in net.state_dict().items()}
    save_file(wrapped, tmp_path / "wrapped.safetensors")
    again = timm_net("resnet18", weights=tmp_path / "wrapped.safetensors").eval()
    x = torch.rand(1, 1, 64, 64)
    assert torch.equal(again.features(x), timm_net("resnet18", weights=file).eval().features(x))


def test_an_unknown_stage_names_those_that_there_are():
    with pytest.raises(InputError, match="resnet18 has no stage 'layer5'; its stages are act1, layer1, layer2, layer3"):
        create_net("resnet18", pretrained=False, until="layer5")
    with pytest.raises(InputError, match="until='layer3' is for timm's networks, not for mura_cnn"):
        create_net("mura_cnn", until="layer3")


# ---------------------------------------------------------------- the head


@pytest.mark.parametrize(
    ("pool", "formula"),
    [
        ("avg", lambda m: m.mean((2, 3))),
        ("max", lambda m: m.amax((2, 3))),
        ("avgmax", lambda m: (m.mean((2, 3)) + m.amax((2, 3))) / 2),
        ("catavgmax", lambda m: torch.cat([m.mean((2, 3)), m.amax((2, 3))], 1)),
        ("gem", lambda m: m.pow(3).mean((2, 3)).pow(1 / 3)),
    ],
)
@pytest.mark.parametrize("until", [None, "layer2"])
def test_the_head_pools_as_it_is_told(pool, formula, until, whole):
    net = timm_net("resnet18", weights=whole[1], until=until, pool=pool).eval()
    x = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        maps = net.body.forward_features(x)
        torch.testing.assert_close(net.features(x), formula(maps), rtol=1e-4, atol=1e-5)
        assert net(x).shape == (2, 1)


def test_a_pool_that_a_network_does_not_take_is_one_line():
    for arch, pool in (("resnet18", "median"), ("convnext_atto", "catavgmax"), ("vit_tiny_patch16_224", "max2")):
        with pytest.raises(InputError, match=f"{arch} takes no pooling '{pool}'.*avg, max, avgmax, catavgmax, gem"):
            create_net(arch, pretrained=False, pool=pool)
    with pytest.raises(InputError, match="no pooling 'gem'"):
        create_net("vit_tiny_patch16_224", pretrained=False, pool="gem")
    with pytest.raises(InputError, match="pool='max' is for timm's networks"):
        create_net("mura_cnn", pool="max")


def test_the_generalised_mean_is_refused_where_half_of_a_pretrained_map_would_vanish(tmp_path):
    for arch, taken in (
        ("convnext_atto", False),
        ("edgenext_xx_small", False),
        ("resnet18", True),
        ("lcnet_035", True),
    ):
        torch.manual_seed(0)
        net, file = timm.create_model(arch), tmp_path / "w.safetensors"
        save_file(net.state_dict(), file)
        if taken:
            lucky = timm_net(arch, weights=file, pool="gem")
            assert lucky.training and lucky.fresh[0].endswith("global_pool.p")
        else:
            with pytest.raises(InputError, match=r"'gem': (4|5)\d% of its last map is below zero.*--pool avg"):
                timm_net(arch, weights=file, pool="gem")
    # What has learned with it is taken, and draws nothing from the generator.
    net = timm_net("convnext_atto", pretrained=False, pool="gem")
    save_file(net.state_dict(), file)
    torch.testing.assert_close(timm_net("convnext_atto", weights=file, pool="gem").state_dict(), net.state_dict())


def test_the_power_of_the_generalised_mean_learns_with_the_head():
    torch.manual_seed(0)
    net = create_net("resnet18", pretrained=False, until="layer1", pool="gem")
    net(torch.rand(2, 1, 64, 64)).sum().backward()
    (gem,) = [m for m in net.modules() if isinstance(m, GeM)]
    assert gem.p.grad.abs() > 0
    for groups in (net.param_groups(), net.layer_groups()):
        assert id(gem.p) in {id(p) for p in groups[-1]}
    x = torch.zeros(1, 2, 3, 3, requires_grad=True)
    gem(x).sum().backward()
    assert x.grad.isfinite().all(), "zeros have no slope at a power below one"


@pytest.mark.parametrize("arch", ["resnet18", "convnext_atto", "mura_cnn"])
def test_dropout_drops_this_share_of_what_the_classifier_sees_and_only_in_training(arch):
    torch.manual_seed(0)
    net, seen = create_net(arch, pretrained=False, dropout=0.4), []
    last = [m for m in net.modules() if isinstance(m, torch.nn.Linear)][-1]
    last.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0].detach() + 0))
    x = torch.rand(8, 1, 64, 64)
    with torch.no_grad():
        net.eval()(x)
        lively = seen[0] != 0
        net.train()
        for m in net.modules():
            if isinstance(m, torch.nn.modules.batchnorm._BatchNorm):
                m.eval()
        net(x)
    assert (seen[1][lively] == 0).float().mean() == pytest.approx(0.4, abs=0.08)


# ---------------------------------------------------------------- rates by layer


@pytest.mark.parametrize("arch", ["resnet18", "vit_tiny_patch16_224", "mobilenetv2_100", "resnet50"])
def test_rates_by_layer_are_what_timm_says(arch):
    net = create_net(arch, pretrained=False)
    groups = net.layer_groups()
    ours = {id(p): r for g, r in zip(groups, layer_rates(0.01, 0.8, len(groups)), strict=True) for p in g}
    told = param_groups_layer_decay(net.body, layer_decay=0.8)
    theirs = {id(p): 0.01 * g["lr_scale"] for g in told for p in g["params"]}
    assert ours.keys() == theirs.keys() == {id(p) for p in net.parameters()}
    assert [ours[k] for k in theirs] == pytest.approx(list(theirs.values()))


def test_rates_by_layer_are_a_power_of_the_depth_below_the_head():
    net = create_net("densenet121", pretrained=False, until="features.denseblock1")
    groups = net.layer_groups()
    assert len(groups) == 8  # stem, six dense layers, classifier
    rates = layer_rates(1e-3, 0.5, len(groups))
    assert rates == pytest.approx([1e-3 / 128, 1e-3 / 64, 1e-3 / 32, 1e-3 / 16, 1e-3 / 8, 1e-3 / 4, 1e-3 / 2, 1e-3])
    where = {id(p): i for i, g in enumerate(groups) for p in g}
    assert where[id(net.body.features.conv0.weight)] == 0 and where[id(net.classifier.bias)] == 7
    whole = create_net("densenet121", pretrained=False)
    last, before = whole.layer_groups()[-1], whole.layer_groups()[-2]
    assert len(last) == 2 and id(whole.body.features.norm5.weight) in {id(p) for p in before}
    for decay in (0, -1, 1.5):
        with pytest.raises(InputError, match="--layer-decay"):
            layer_rates(1e-3, decay, 3)


@pytest.fixture
def layered(images, whole):
    "A Learner of four layers: stem, two blocks, head."
    set_seed(0)
    return mura_learner(mura_dls(images, 40, 16), "resnet18", weights=whole[1], until="layer1", by_layer=True)


class Rates(Callback):
    "The rate of each group in each epoch, at its highest; and how many weights of convolutions moved."

    def before_fit(self):
        self.seen = getattr(self, "seen", [])

    def before_epoch(self):
        self.seen.append(np.zeros(len(self.opt.hypers)))

    def before_step(self):
        self.seen[-1] = np.maximum(self.seen[-1], [h["lr"] for h in self.opt.hypers])


@pytest.mark.parametrize("freeze_epochs", [0, 1])
def test_in_training_each_layer_has_its_rate(layered, freeze_epochs):
    rates, first = Rates(), layered.model.body.conv1.weight.detach().clone()
    with layered.no_bar(), layered.no_logging():
        fit_schedule(layered, 1, 0.01, freeze_epochs, 0.5, cbs=[rates])
    # fastai's `fine_tune` halves the rate once all layers learn
    top = 0.005 if freeze_epochs else 0.01
    assert len(rates.seen) == 1 + freeze_epochs
    assert rates.seen[-1] == pytest.approx([top / 8, top / 4, top / 2, top], rel=0.05)
    assert not torch.equal(first, layered.model.body.conv1.weight)


@pytest.mark.parametrize("freeze_epochs", [0, 1])
def test_a_pretrained_body_learns_a_hundred_times_slower_than_its_head(images, whole, freeze_epochs):
    set_seed(0)
    learn, rates = mura_learner(mura_dls(images, 40, 16), "resnet18", weights=whole[1], until="layer1"), Rates()
    with learn.no_bar(), learn.no_logging():
        fit_schedule(learn, 1, 0.01, freeze_epochs, cbs=[rates])
    top = 0.005 if freeze_epochs else 0.01
    assert rates.seen[-1] == pytest.approx([top / 100, top / 10, top], rel=0.05)


def test_without_pretrained_weights_and_on_a_plateau_all_layers_learn_at_one_rate(images, whole):
    dls = mura_dls(images, 40, 16)
    for options, schedule in (dict(pretrained=False), "one-cycle"), (dict(weights=whole[1]), "plateau"):
        learn, rates = mura_learner(dls, "resnet18", until="layer1", **options), Rates()
        with learn.no_bar(), learn.no_logging():
            fit_schedule(learn, 1, 0.01, schedule=schedule, cbs=[rates])
        assert rates.seen[-1] == pytest.approx([0.01] * 3, rel=0.05)


def test_a_head_is_not_trained_alone_where_nothing_is_pretrained(mura, root, images, tmp_path):
    for options in (dict(), dict(arch="resnet18", pretrained=False)):
        with pytest.raises(InputError, match=r"3 frozen epochs: nothing of .* is pretrained; leave --freeze-epochs"):
            train_run(images, tmp_path / "run", freeze_epochs=3, **options)
        with pytest.raises(InputError, match="1 frozen epoch: nothing"):
            train(root, tmp_path / "run", folds=2, freeze_epochs=1, size=40, **options)
    assert not (tmp_path / "run").exists()
    for views, dls in (None, mura_dls(images, 40, 16)), ("mean", mura_dls(images, 40, 8, by="study")):
        learn = mura_learner(dls, views=views)
        with pytest.raises(InputError, match="one group of parameters, so none can be frozen; leave freeze_epochs out"):
            fit_schedule(learn, 1, 1e-3, freeze_epochs=1)
    few = ["--size", 40, "--epochs", 1, "--bs", 16, "--ci", "none", "--freeze-epochs", 0, "--out", tmp_path / "run"]
    code, _, err = mura("train", root, *few)
    assert code == 0 and read_settings(tmp_path / "run")["freeze_epochs"] == 0, err


def test_a_frozen_network_learns_with_its_head_alone(layered):
    before = {n: p.detach().clone() for n, p in layered.model.named_parameters()}
    assert {n for n, p in layered.model.named_parameters() if p.requires_grad and p.ndim > 1} == {"body.fc.weight"}
    with layered.no_bar(), layered.no_logging():
        layered.fit(1, 1e-2)
    moved = {n for n, p in layered.model.named_parameters() if p.ndim > 1 and not torch.equal(p, before[n])}
    assert moved == {"body.fc.weight"}


def test_the_custom_network_has_no_rates_by_layer(images):
    with pytest.raises(InputError, match="networks of timm"):
        mura_learner(mura_dls(images, 40, 16), by_layer=True)
    with pytest.raises(InputError, match="pool= goes with a network's name"):
        mura_learner(mura_dls(images, 40, 16), create_net("mura_cnn"), pool="max")
    three_groups = mura_learner(mura_dls(images, 40, 16), "resnet18", pretrained=False)
    for learn in (three_groups, mura_learner(mura_dls(images, 40, 16))):
        with pytest.raises(InputError, match="by_layer=True"):
            fit_schedule(learn, 1, 0.01, layer_decay=0.5)


def test_the_custom_network_takes_all_of_a_file_or_nothing(tmp_path):
    weights = create_net("mura_cnn").state_dict()
    save_file({k: v for k, v in weights.items() if not k.startswith("classifier")}, tmp_path / "w.safetensors")
    for allow, why in ((False, "classifier"), (True, "--allow-missing")):
        with pytest.raises(InputError, match=why):
            create_net("mura_cnn", weights=tmp_path / "w.safetensors", allow_missing=allow)


# ---------------------------------------------------------------- runs


def test_a_run_keeps_its_options_and_comes_back_with_them(mura, root, images, whole, tmp_path):
    options = ["--until", "layer1", "--pool", "gem", "--dropout", 0.2, "--layer-decay", 0.75, "--weights", whole[1]]
    few = ["--size", 40, "--epochs", 1, "--bs", 16, "--ci", "none", "--freeze-epochs", 1]
    code, _, err = mura("train", root, "--arch", "resnet18", *options, *few, "--out", tmp_path / "run")
    assert code == 0, err
    kept = read_settings(tmp_path / "run")
    assert kept | dict(until="layer1", pool="gem", dropout=0.2, layer_decay=0.75, pretrained=True) == kept
    learn = load_run(tmp_path / "run")
    assert sum(p.numel() for p in learn.model.parameters()) < 200_000
    again = predict_images(learn, images[images.split == "valid"])
    told = read_predictions(tmp_path / "run" / "predictions.csv")
    np.testing.assert_allclose(again.p_abnormal, told.p_abnormal, atol=1e-6)
    # and its weights are a start for other data
    best = tmp_path / "run" / "weights" / "best.safetensors"
    other = create_net("resnet18", weights=best, until="layer1", pool="gem").eval()
    x = torch.rand(1, 1, 40, 40)
    torch.testing.assert_close(other(x), learn.model.cpu()(x))
    words = " ".join(map(str, train_command(SimpleNamespace(settings=kept, plan=None, **AS_READ))))
    assert "--until layer1 --pool gem --dropout 0.2 --layer-decay 0.75" in words


def test_a_wrong_option_is_one_line_and_no_run(mura, root, tmp_path):
    few = ["--no-pretrained", "--size", 40, "--epochs", 1, "--bs", 16, "--out", tmp_path / "run"]
    for options, said in (
        (["--arch", "resnet18", "--until", "layer7"], "its stages are act1, layer1"),
        (["--arch", "resnet18", "--pool", "sum"], "takes no pooling 'sum'"),
        (["--arch", "resnet18", "--layer-decay", 7], "--layer-decay"),
        (["--layer-decay", 0.7], "networks of timm"),
    ):
        code, _, err = mura("train", root, *options, *few)
        assert code == 2 and said in err and "Traceback" not in err
        assert not (tmp_path / "run" / "settings.yaml").exists()
