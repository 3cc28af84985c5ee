"""Heat maps: what grad-cam computes, from a network that is left as it was, on the right place of the radiograph."""

import warnings
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from pytorch_grad_cam import GradCAM, HiResCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from mura_fastai.data.pixels import pad_square, read_grey
from mura_fastai.data.store import build_store
from mura_fastai.errors import InputError
from mura_fastai.models.backbones import create_net
from mura_fastai.models.cnn import mura_cnn
from mura_fastai.results.heatmaps import (
    METHODS,
    PLACES,
    HeatMapper,
    draw_heat,
    draw_heat_bar,
    heat_layer,
    heat_layers,
    heat_maps,
    heat_on,
    overlay,
    phantom_boxes,
    pointing_game,
    pointing_hits,
)
from mura_fastai.results.predict import predict_images
from mura_fastai.training.runs import load_run

SIZE = 128


def learner(net, size=SIZE):
    "As much of a Learner as a map needs."
    return SimpleNamespace(model=net, dls=SimpleNamespace(device=torch.device("cpu"), size=size))


def batch(n=3, size=SIZE, seed=0):
    x = torch.randn((n, 1, size, size), generator=torch.Generator().manual_seed(seed))
    return x, torch.zeros(n, dtype=torch.long)


def network(arch, size=SIZE, seed=0):
    "A network with random weights; statistics that are not those of batch norm's start, so that a mode matters."
    torch.manual_seed(seed)
    net = create_net(arch, pretrained=False, size=size)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.weight.data.uniform_(0.5, 1.5)
            m.running_mean.uniform_(-0.1, 0.1)
    return net


class Mean(nn.Module):
    "Convolutions, the mean over places, one linear layer."

    def __init__(self, inplace=False, step=4):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 6, 3, padding=1, stride=step), nn.BatchNorm2d(6)
        self.act, self.last, self.linear = nn.ReLU(inplace), nn.Conv2d(6, 5, 3, padding=1), nn.Linear(5, 1)

    def forward(self, x, region=None):
        return self.linear(self.last(self.act(self.norm(self.conv(x)))).mean((2, 3)))


class Bright(nn.Module):
    "Half its places see how bright it is above a level; the answer is their sum, weighted place by place."

    def __init__(self, level=0.5, places=16):
        super().__init__()
        self.pool, self.conv = nn.AdaptiveAvgPool2d(places), nn.Conv2d(1, 2, 1)
        self.conv.weight.data[:] = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
        self.conv.bias.data[:] = torch.tensor([-level, level])
        self.weight = nn.Parameter(torch.tensor([1.0, 0.0]).repeat_interleave(places**2)[None])

    def forward(self, x, region=None):
        return (self.conv(self.pool(x)).relu().flatten(1) * self.weight).sum(1)


# ---------------------------------------------------------------- the values


@pytest.mark.parametrize("method, oracle", [("gradcam", GradCAM), ("hirescam", HiResCAM)])
@pytest.mark.parametrize("arch", ["mura_cnn", "resnet18", "mobilenetv2_100"])
def test_maps_are_those_of_the_grad_cam_package(arch, method, oracle):
    net, (x, region) = network(arch), batch()
    for layer in {heat_layer(net, x[:1]), list(heat_layers(net, x[:1]))[-1]}:
        logits, maps = HeatMapper(learner(net), layer, method)(x, region)
        with oracle(model=net, target_layers=[dict(net.named_modules())[layer]]) as cam:
            targets = [ClassifierOutputTarget(0)] * len(x)
            final = cam(input_tensor=x, targets=targets)
            [kept], [grads] = cam.activations_and_grads.activations, cam.activations_and_grads.gradients
            raw = cam.get_cam_image(x, None, targets, kept.numpy(), grads.numpy(), False)
        torch.testing.assert_close(logits, cam.outputs.detach().reshape(-1))
        np.testing.assert_allclose(maps, np.maximum(raw, 0), rtol=1e-3, atol=1e-5 * np.abs(raw).max())
        # they enlarge with OpenCV and scale each map to its own maximum
        for heat, theirs in zip(maps.numpy(), final, strict=True):
            ours = heat_on(heat, (SIZE, SIZE))
            ours = (ours - ours.min()) / (ours.max() - ours.min() + 1e-12)
            assert np.abs(ours - theirs).max() < 1e-3


@pytest.mark.parametrize("arch", ["resnet18", "regnetx_002", None])
def test_the_three_methods_agree_where_the_mean_and_one_linear_layer_follow(arch):
    net, (x, region) = network(arch) if arch else Mean(), batch()
    cam = HeatMapper(learner(net), method="cam")
    logits, maps = cam(x, region)
    assert maps.max() > 0
    for method in ("gradcam", "hirescam"):
        torch.testing.assert_close(HeatMapper(learner(net), cam.layer, method)(x, region)[1], maps)


def test_what_places_add_is_the_logit():
    "Without the cut at zero: a network of which every place speaks for abnormal."
    net, (x, region) = Mean(), batch()
    net.last.weight.data.abs_()
    net.last.bias.data.abs_()
    net.linear.weight.data.abs_()
    for method in METHODS:
        logits, maps = HeatMapper(learner(net), "last", method)(x, region)
        torch.testing.assert_close(maps.sum((1, 2)) + net.linear.bias.detach(), logits)


@pytest.mark.parametrize("arch", ["mura_cnn", "convnext_atto"])
def test_cam_is_refused_where_more_than_a_mean_and_a_linear_layer_follow(arch):
    net = network(arch)
    with pytest.raises(InputError, match="global average pool and one linear layer.*hirescam"):
        HeatMapper(learner(net), method="cam")


def test_cam_is_refused_on_a_layer_that_is_not_the_pooled_one():
    with pytest.raises(InputError, match="global average pool and one linear layer"):
        HeatMapper(learner(network("resnet18")), "body.layer3", "cam")


def test_places_that_a_network_tells_apart_are_not_mixed_up():
    "The finding lies in a corner. The mean gradient, Grad-CAM's, does not know that only this corner counts."
    net, x = Bright(), torch.zeros(1, 1, SIZE, SIZE)
    x[..., 8:16, 8:16], x[..., 64:80, 96:112] = 0.8, 1.0  # what counts, and what is brighter and does not
    net.weight.data[:, 1:17], net.weight.data[:, 18:] = 0, 0
    _, [heat] = HeatMapper(learner(net), "conv")(x, batch(1)[1])
    _, [mean] = HeatMapper(learner(net), "conv", "gradcam")(x, batch(1)[1])
    assert np.unravel_index(int(heat.argmax()), heat.shape) == (1, 1) and heat.sum() == heat.max()
    assert np.unravel_index(int(mean.argmax()), mean.shape) == (8, 12)


def test_a_batch_gives_what_single_images_give():
    net, (x, region) = network("mura_cnn"), batch(5)
    mapper = HeatMapper(learner(net))
    logits, maps = mapper(x, region)
    assert maps.shape[0] == 5 and maps.dtype == logits.dtype == torch.float32 and (maps >= 0).all()
    for i in range(5):
        one, single = mapper(x[i : i + 1], region[:1])
        torch.testing.assert_close(single[0], maps[i], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(one[0], logits[i], rtol=1e-4, atol=1e-6)


def test_what_works_in_place_behind_the_layer_changes_nothing():
    x, region = batch()
    torch.manual_seed(0)
    plain, inplace = Mean(), Mean(inplace=True)
    inplace.load_state_dict(plain.state_dict())
    for layer in ("conv", "norm", "act"):
        a, b = (HeatMapper(learner(net), layer)(x, region)[1] for net in (plain, inplace))
        assert a.max() > 0
        torch.testing.assert_close(a, b)


# ---------------------------------------------------------------- the network is left alone


def state(net):
    modes = [(name, m.training, len(m._forward_hooks), len(m._backward_hooks)) for name, m in net.named_modules()]
    weights = [(n, p.requires_grad, p.grad is None, p.detach().clone()) for n, p in net.named_parameters()]
    return modes, weights, {n: b.clone() for n, b in net.named_buffers()}


def same(before, after):
    assert before[0] == after[0]
    assert [w[:3] for w in before[1]] == [w[:3] for w in after[1]]
    assert all(torch.equal(a[3], b[3]) for a, b in zip(before[1], after[1], strict=True))
    assert all(torch.equal(b, after[2][n]) for n, b in before[2].items())


@pytest.mark.parametrize("method", METHODS)
def test_a_network_is_afterwards_what_it_was(method):
    net, (x, region) = network("resnet18"), batch(2)
    net.train()
    net.body.layer1.eval()  # as frozen batch norms are kept
    for p in net.body.layer2.parameters():
        p.requires_grad_(False)
    before = state(net)
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("error")
        torch.manual_seed(5)
        HeatMapper(learner(net), method=method)(x, region)
        drawn = torch.rand(1)
        torch.manual_seed(5)
        assert drawn == torch.rand(1)  # nobody else's random numbers are used up
    same(before, state(net))


def test_a_network_that_fails_is_left_alone_too():
    class Fails(Mean):
        fail = False

        def forward(self, x, region=None):
            logits = super().forward(x, region)
            if self.fail:
                raise RuntimeError("out of memory")
            return logits

    net, (x, region) = Fails().train(), batch()
    mapper, before = HeatMapper(learner(net)), state(net)
    net.fail = True
    with pytest.raises(RuntimeError, match="out of memory"):
        mapper(x, region)
    same(before, state(net))
    assert torch.is_grad_enabled()


def test_a_frozen_network_a_caller_without_gradients_and_16_bits_change_no_map():
    net, (x, region) = network("resnet18"), batch(2)
    mapper = HeatMapper(learner(net))
    logits, maps = mapper(x, region)
    net.requires_grad_(False)
    torch.testing.assert_close(mapper(x, region)[1], maps)
    with torch.inference_mode():
        torch.testing.assert_close(mapper(x.clone(), region)[1], maps)
        torch.testing.assert_close(HeatMapper(learner(net))(x.clone(), region)[1], maps)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(mapper(x, region)[1], maps)


def test_a_compiled_network_gives_the_same_maps():
    net, (x, region) = Mean().eval(), batch(2)
    maps = HeatMapper(learner(net))(x, region)[1]
    net.compile(backend="eager")
    net(x, region)  # compiled before there was any hook
    torch.testing.assert_close(HeatMapper(learner(net))(x, region)[1], maps)


# ---------------------------------------------------------------- the layer


CHOSEN = [
    ("mura_cnn", 128, "stages.2.0", 16),
    ("mura_cnn", 320, "stages", 20),  # at once the last stage's and the last of all stages' output
    ("resnet18", 128, "body.layer2", 16),
    ("resnet18", 320, "body.layer3", 20),
    ("efficientnet_b0", 128, "body.blocks.3.0.bn1", 16),
    ("densenet121", 128, "body.features.transition2.conv", 16),
    ("convnext_atto", 128, "body.stages.2.downsample.0", 16),
    ("mobilenetv2_100", 128, "body.blocks.3.0.bn1", 16),
    ("regnetx_002", 128, "body.s2", 16),
    ("resnext50_32x4d", 96, "body.layer1", 24),
]


@pytest.mark.parametrize("arch, size, name, places", CHOSEN)
def test_the_layer_chosen_is_the_deepest_that_is_fine_enough_and_that_all_goes_through(arch, size, name, places):
    net, (x, region) = network(arch, size), batch(1, size)
    assert heat_layer(net, x) == name
    assert heat_layers(net, x)[name] == (places, places) and places >= PLACES
    # cut there, and the picture matters no more
    handle = dict(net.named_modules())[name].register_forward_hook(lambda m, i, o: torch.ones_like(o))
    with torch.no_grad():
        assert torch.equal(net.eval()(x, region), net(batch(1, size, seed=1)[0], region))
    handle.remove()
    mapper = HeatMapper(learner(net, size))
    assert mapper.layer == name and mapper(x, region)[1].shape == (1, places, places)


def test_where_no_map_is_fine_the_finest_is_taken():
    net, (x, _) = Mean(step=8), batch(1, 64)
    assert heat_layer(net, x) == "last"
    net.last = nn.Conv2d(6, 5, 3, padding=1, stride=2)
    assert heat_layer(net, x) == "act"


@pytest.mark.parametrize("arch", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_networks_without_maps_are_refused_with_the_remedy(arch):
    net = create_net(arch, pretrained=False, size=64)
    with pytest.raises(InputError, match=r"name a layer that gives N x channels x height x width.*patch_embed.proj"):
        HeatMapper(learner(net, 64))
    _, maps = HeatMapper(learner(net, 64), "body.patch_embed.proj")(*batch(1, 64))
    assert maps.shape[1] > 1


@pytest.mark.parametrize(
    "layer, told", [("body.layer9", "no layer 'body.layer9'"), ("body.fc", "'body.fc' gives no N x channels")]
)
def test_a_layer_that_cannot_be_had_is_named_with_those_that_can(layer, told):
    with pytest.raises(InputError, match=f"{told}.*such as.*body.layer4"):
        HeatMapper(learner(network("resnet18")), layer)


def test_other_mistakes_are_told_in_one_line():
    with pytest.raises(InputError, match="no method 'lime'.*hirescam"):
        HeatMapper(learner(Mean()), method="lime")
    net = Mean()
    net.linear = nn.Linear(5, 2)
    with pytest.raises(InputError, match="one logit an image"):
        HeatMapper(learner(net))


# ---------------------------------------------------------------- tables


@pytest.fixture(scope="module")
def learn(run):
    return load_run(run)


def test_maps_are_in_the_tables_order_and_none_where_a_file_cannot_be_read(images, learn, tmp_path):
    table = images.sample(7, random_state=1)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n")
    table = pd.concat([table.iloc[:3], table.iloc[[0]].assign(path=str(broken)), table.iloc[3:], table.iloc[:1]])
    maps = heat_maps(learn, table, bs=3, num_workers=2)
    assert [m is None for m in maps] == [False] * 3 + [True] + [False] * 5
    mapper = HeatMapper(learn)
    for path, heat in zip(table.path, maps, strict=True):
        if path != str(broken):
            [alone] = heat_maps(learn, table[table.path == path].iloc[:1])
            np.testing.assert_allclose(heat, alone, rtol=1e-3, atol=1e-6)
    assert maps[0].shape == heat_layers(learn.model, torch.zeros(1, 1, 48, 48))[mapper.layer]
    np.testing.assert_array_equal(maps[0], maps[-1])
    assert heat_maps(learn, table.iloc[3:4]) == [None] and heat_maps(learn, table[:0]) == []


def test_the_network_sees_what_it_predicts_from(images, learn, tmp_path):
    rows = images.iloc[:6]
    dl = learn.dls.test_dl(rows, bs=6, resident=None, skip_bad=True)
    [b] = list(dl)
    logits, _ = HeatMapper(learn)(*[t.as_subclass(torch.Tensor) for t in b[:2]])
    p = learn.loss_func.unweigh(logits.double().sigmoid(), b[1].as_subclass(torch.Tensor))
    np.testing.assert_allclose(p, predict_images(learn, rows).p_abnormal, atol=1e-6)
    store = build_store(rows, tmp_path / "store", size=48)
    for a, b in zip(heat_maps(learn, rows), heat_maps(learn, rows, store=store), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)
    with pytest.raises(InputError, match="a store of 64 px, not of 48"):
        heat_maps(learn, rows, store=build_store(rows, tmp_path / "other", size=64))


# ---------------------------------------------------------------- on the picture


@pytest.mark.parametrize("shape", [(300, 120), (120, 300), (200, 200), (77, 301)])
def test_heat_lands_where_the_network_saw_it(shape):
    "A white square is padded as pictures are, the place that sees it is hot, and the heat must lie on the square."
    grey = np.zeros(shape, np.uint8)
    y, x = shape[0] // 4, shape[1] // 3
    grey[y - 8 : y + 8, x - 8 : x + 8] = 255
    heat = pad_square(grey, 64).reshape(32, 2, 32, 2).mean((1, 3))
    on = heat_on(heat, shape)
    assert on.shape == shape and on.dtype == np.float32
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    assert abs((on * rows).sum() / on.sum() + 0.5 - y) < 1.5 and abs((on * columns).sum() / on.sum() + 0.5 - x) < 1.5
    assert on.max() <= heat.max() and on.min() >= 0


def test_a_map_of_a_square_picture_keeps_its_values():
    heat = np.random.default_rng(0).random((9, 9), np.float32)
    np.testing.assert_array_equal(heat_on(heat, (9, 9)), heat)
    flat = heat_on(np.full((5, 5), 3.0), (111, 37))
    np.testing.assert_allclose(flat, 3, rtol=1e-6)


def test_cold_places_show_the_radiograph_alone():
    grey = np.random.default_rng(0).integers(0, 256, (50, 80), np.uint8)
    plain = np.repeat(grey[..., None], 3, 2)
    np.testing.assert_array_equal(overlay(grey, np.zeros((4, 4), np.float32)), plain)
    np.testing.assert_array_equal(overlay(grey, np.ones((4, 4), np.float32), strength=0), plain)
    np.testing.assert_array_equal(overlay(grey, np.zeros((4, 4), np.float32), top=2.0), plain)
    heat = np.zeros((50, 80), np.float32)
    heat[:10] = 1
    out = overlay(grey, heat)
    assert out.dtype == np.uint8 and out.shape == (50, 80, 3)
    np.testing.assert_array_equal(out[10:], plain[10:])
    assert (out[:10] != plain[:10]).any(-1).all()


def test_a_shared_top_keeps_the_order_of_pictures_and_strength_covers_more():
    grey, weak, strong = np.full((40, 40), 90, np.uint8), np.full((4, 4), 0.2), np.full((4, 4), 1.0)
    assert (overlay(grey, weak) == overlay(grey, strong)).all()  # each with its own top: both look hot

    def tint(heat, **kwargs):
        return np.abs(overlay(grey, heat, **kwargs).astype(int) - 90).sum()

    assert 0 < tint(weak, top=1.0) < tint(strong, top=1.0) / 2
    assert tint(strong, top=0.5) == tint(strong, top=1.0)  # hotter than the top is as hot as the top
    assert tint(strong, strength=0.2) < tint(strong, strength=0.6) < tint(strong, strength=1.0)
    with pytest.raises(InputError, match="strength is 2"):
        overlay(grey, weak, strength=2)


def test_colours_grow_lighter_with_heat_on_dark_grey():
    "The eye reads lightness as amount; so does who cannot tell red from green."
    ramp = overlay(np.full((1, 256), 60, np.uint8), np.linspace(0, 1, 256, dtype=np.float32)[None], 1.0)[0]
    light = ramp @ np.array([0.2126, 0.7152, 0.0722])
    assert (ramp[0] == 60).all() and (np.diff(light[64:]) > -1).all()
    assert light[-1] > light[128] + 15 > light[64] + 20


def test_drawing(images, tmp_path):
    fig, axs = plt.subplots(1, 4)
    path = images.path.iloc[0]
    heat = np.eye(8, dtype=np.float32)
    draw_heat(axs[0], path, heat, "#0072B2", top=2.0)
    shown = np.asarray(axs[0].images[0].get_array())
    grey = read_grey(path)
    np.testing.assert_array_equal(shown, overlay(grey, heat, 2.0))
    draw_heat(axs[1], path, None)
    np.testing.assert_array_equal(np.asarray(axs[1].images[0].get_array()), grey)
    draw_heat(axs[2], tmp_path / "gone.png", heat)
    assert "not available" in axs[2].texts[0].get_text()
    draw_heat_bar(axs[3], ("none", "much"))
    assert [t.get_text() for t in axs[3].get_xticklabels()] == ["none", "much"]
    fig.canvas.draw()
    plt.close(fig)


# ---------------------------------------------------------------- the pointing game


def square(path, height, width, at=None):
    "A black picture with a white square; its file, and the square's box."
    grey = np.zeros((height, width), np.uint8)
    if at:
        grey[at[1] : at[1] + 24, at[0] : at[0] + 24] = 255
    Image.fromarray(grey).save(path)
    return dict(path=str(path), x0=at[0], y0=at[1], x1=at[0] + 24, y1=at[1] + 24) if at else None


def test_a_network_that_looks_for_a_square_points_at_it(tmp_path):
    "From the file to the share: reading, padding, network, map, and back to pixels of the file."
    places = [(200, 90, (60, 150)), (90, 200, (10, 5)), (160, 160, (100, 40)), (300, 100, (2, 2)), (64, 500, (470, 30))]
    boxes = pd.DataFrame([square(tmp_path / f"{i}.png", *place) for i, place in enumerate(places)])
    net = Bright(level=0.1, places=32)
    x = torch.stack([torch.from_numpy(pad_square(read_grey(p), 256))[None].float() / 255 for p in boxes.path])
    maps = list(HeatMapper(learner(net, 256), "conv")(x, batch(len(x))[1])[1].numpy())
    found = pointing_game(maps, boxes, boxes).loc["all"]
    assert found.hits == found.n == 5 and found.energy > 0.5 and found.chance < 0.1


def test_the_pointing_game_by_hand(tmp_path):
    paths = [str(tmp_path / f"{i}.png") for i in range(5)]
    for path in paths:
        square(path, 100, 100)
    boxes = pd.DataFrame(
        [
            (paths[0], "fracture", 0, 0, 50, 50),  # a quarter of the picture
            (paths[1], "fracture", 50, 50, 100, 100),
            (paths[1], "hardware", 0, 50, 50, 100),
            (paths[2], "hardware", 40, 40, 60, 60),  # the middle, 4 % of the picture
            (paths[3], "hardware", 0, 0, 100, 10),
        ],
        columns=["path", "kind", "x0", "y0", "x1", "y1"],
    )
    corners = np.zeros((4, 2, 2), np.float32)
    corners[0, 0, 0] = 1  # in the box of 0
    corners[1, 1, 0] = 1  # of 1: in that of the hardware, not of the fracture
    corners[2, 0, 1] = 1  # of 2: beside the box; corners[3] is zero everywhere
    images = pd.DataFrame({"path": paths})
    maps = [*corners, np.ones((2, 2), np.float32)]  # the last picture has no box
    table = pointing_game(maps, images, boxes)
    assert table.index.tolist() == ["fracture", "hardware", "all"]
    assert table[["n", "hits"]].to_numpy().tolist() == [[2, 1], [3, 1], [4, 2]]
    assert table.share.tolist() == [1 / 2, 1 / 3, 2 / 4]
    assert table["empty"].tolist() == [0, 1, 1]
    np.testing.assert_allclose(
        table.chance, [(0.25 + 0.25) / 2, (0.25 + 0.04 + 0.1) / 3, (0.25 + 0.5 + 0.04 + 0.1) / 4]
    )
    # the middle pixel is (50, 50): in the fracture of 1, and in the box of 2
    np.testing.assert_allclose(table.centre, [1 / 2, 1 / 3, 2 / 4])
    lo, hi = 0.1500, 0.8500  # Wilson's interval of 2 of 4, from his formula
    np.testing.assert_allclose(table.loc["all", ["lo", "hi"]].astype(float), [lo, hi], atol=5e-4)
    hits = pointing_hits(maps, images, boxes)
    zero = hits[(hits.path == paths[3]) & (hits.kind == "all")].iloc[0]
    assert zero["empty"] and not zero.hit and zero.energy == 0
    # a map that is 1 in one corner of four and falls straight to 0 has so much of itself in that quarter
    on = heat_on(corners[0], (100, 100))
    first = hits[(hits.path == paths[0]) & (hits.kind == "all")].iloc[0]
    np.testing.assert_allclose(first.energy, on[:50, :50].sum() / on.sum())


def test_tolerance_is_a_share_of_the_longer_side(tmp_path):
    box = square(tmp_path / "a.png", 100, 200, (20, 40))
    heat = np.zeros((20, 20), np.float32)
    heat[9, 5] = 1  # the middle of the place is 55, 45 of the picture: 11 px to the right of the box
    table, images = pd.DataFrame([box]), pd.DataFrame({"path": [box["path"]]})
    assert pointing_game([heat], images, table, 0.05).loc["all", "hits"] == 0
    assert pointing_game([heat], images, table, 0.07).loc["all", "hits"] == 1


def test_unreadable_images_and_images_without_a_box_do_not_play(tmp_path):
    box = square(tmp_path / "a.png", 100, 100, (20, 40))
    images = pd.DataFrame({"path": [box["path"], str(tmp_path / "gone.png")]})
    heat = np.ones((3, 3), np.float32)
    assert pointing_game([heat, None], images, pd.DataFrame([box])).loc["all", "n"] == 1
    with pytest.raises(InputError, match="no image has both a map and a box"):
        pointing_game([None, heat], images, pd.DataFrame([box]))


def test_boxes_of_a_phantom_lie_in_its_pictures(images, root, tmp_path):
    boxes = phantom_boxes(root)
    assert set(boxes.path) <= set(images.path[images.label == 1]) and set(boxes.kind) >= {"fracture", "hardware"}
    for path, part in list(boxes.groupby("path"))[:5]:
        tall, wide = read_grey(path).shape
        assert (part.x0 < part.x1).all() and (part.x1 <= wide).all() and (part.y1 <= tall).all()
    moved = tmp_path / "other-name"
    moved.symlink_to(root)
    assert phantom_boxes(moved).path[0].startswith(str(moved))
    with pytest.raises(InputError, match="no phantom.csv"):
        phantom_boxes(tmp_path)
    # a map that is hot in the boxes points at them, whatever the pictures' shapes
    maps = []
    for path in images.path:
        part = boxes[boxes.path == path]
        grey = np.zeros(read_grey(path).shape, np.uint8)
        for x0, y0, x1, y1 in part[["x0", "y0", "x1", "y1"]].to_numpy(int)[:1]:
            grey[y0:y1, x0:x1] = 255
        maps.append(pad_square(grey, 96).astype(np.float32))
    found = pointing_game(maps, images, boxes).loc["all"]
    assert found.share > 0.97 and found.energy > 0.9


def test_mura_cnn_is_told_apart_by_places():
    "The reason for HiResCAM: its head weights places one by one, so Grad-CAM's mean gradient is not its own."
    net, (x, region) = mura_cnn(), batch(2)
    a, b = (HeatMapper(learner(net), "stages", m)(x, region)[1] for m in ("gradcam", "hirescam"))
    assert not torch.allclose(a, b, rtol=0.1)
