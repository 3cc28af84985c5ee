"""Augmentation: one warp that is torchvision's, a tone curve that keeps black black, chance drawn on the host."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fastai.torch_core import set_seed
from fasttransform import Pipeline
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from mura_fastai.data.augment import GREY_STATS, AugmentXray, ScaleGrey, TensorXray, affine, tone, warp, xray_tfms

N = 64


def smooth(*shape, seed=0):
    "Random pictures without fine detail, so that interpolation of either kind agrees."
    coarse = torch.rand(shape[0], 1, 6, 6, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, shape[1:], mode="bicubic").clamp(0, 1) * 255


def one(value, n=1):
    return torch.full((n,), float(value))


@pytest.mark.parametrize("shape", [(96, 96), (64, 96), (96, 64)])
@pytest.mark.parametrize(
    "degrees, zoom, shift",
    [(0, 1, (0, 0)), (17, 1, (0, 0)), (-30, 1.15, (0, 0)), (0, 0.9, (0, 0)), (0, 1, (0.125, -0.0625))],
)
def test_the_warp_is_torchvisions(shape, degrees, zoom, shift):
    x, side = smooth(1, *shape), max(shape)
    ours = warp(x, affine(one(1), one(degrees), one(zoom), torch.tensor([shift])))
    told = dict(angle=-degrees, translate=[round(s * side) for s in shift], scale=zoom, shear=[0.0, 0.0])
    theirs = tv.affine(x, **told, interpolation=InterpolationMode.BILINEAR, fill=0.0)
    # The outermost pixels are mixed with what lies outside by another rule.
    inside = warp(torch.ones_like(x), affine(one(1), one(degrees), one(zoom), torch.tensor([shift]))) > 0.999
    assert inside.float().mean() > 0.5 and (ours - theirs)[inside].abs().max() < 1
    assert (ours - x).abs().mean() > 5 or (degrees, zoom, shift) == (0, 1, (0, 0))


def test_a_flip_goes_together_with_the_rest():
    x, still = smooth(2, 80, 80), torch.zeros(2, 2)
    turned = warp(x, affine(one(1, 2), one(12, 2), one(1.1, 2), still))
    both = warp(x, affine(one(-1, 2), one(12, 2), one(1.1, 2), still))
    torch.testing.assert_close(both, turned.flip(-1), atol=0.05, rtol=0)


def test_what_comes_from_outside_is_black():
    white = torch.full((1, 1, 64, 64), 255.0)
    out = warp(white, affine(one(1), one(45), one(1), torch.zeros(1, 2)))[0, 0]
    assert out[0, 0] == out[-1, -1] == 0 and out[32, 32] == 255
    assert warp(white, affine(one(1), one(0), one(0.5), torch.zeros(1, 2))).mean() == pytest.approx(255 / 4, rel=0.02)


def test_coordinates_are_exact_whatever_the_network_computes_in():
    x, theta = smooth(4, 320, 320), affine(one(1, 4), one(20, 4), one(1, 4), torch.zeros(4, 2))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(warp(x, theta), warp(x, theta).float())
        inside = warp(x, theta)
    torch.testing.assert_close(inside, warp(x, theta))


@pytest.mark.parametrize("bend", [-0.4, -0.2, 0.0, 0.2, 0.4])
def test_the_tone_curve_keeps_black_white_and_order(bend):
    grey = torch.arange(256.0).view(1, 1, 1, -1)
    got = tone(grey.clone(), one(1), one(bend)).flatten().numpy()
    x = np.arange(256) / 255
    np.testing.assert_allclose(got, x * (1 + bend - bend * x), atol=1e-6)
    assert got[0] == 0 and got[-1] == pytest.approx(1) and (np.diff(got) > 0).all()


def test_a_gain_brightens_each_image_by_its_own_and_nothing_above_white():
    grey = torch.full((3, 1, 8, 8), 204.0)
    got = tone(grey, torch.tensor([0.5, 1.0, 1.5]), one(0, 3))
    assert got.amax((1, 2, 3)).tolist() == pytest.approx([0.4, 0.8, 1.0])


def test_every_change_stays_within_what_was_asked_for():
    set_seed(0)
    theta, gain, bend, noise, box = AugmentXray(p=1, max_noise=0.1, max_erase=0.2).draw(4000)
    zoom = 1 / theta[:, :, 0].norm(dim=1)
    degrees = torch.rad2deg(torch.atan2(-theta[:, 0, 1], theta[:, 1, 1]))
    width, height = box[:, 2] - box[:, 0], box[:, 3] - box[:, 1]
    for name, values, lo, hi in (
        ("zoom", zoom, 0.9, 1.15), ("degrees", degrees, -30, 30), ("shift", theta[:, :, 2] / 2, -0.05, 0.05),
        ("gain", gain, 0.9, 1.1), ("bend", bend, -0.2, 0.2), ("noise", noise, 0, 0.1), ("area", width * height, 0, 0.2),
    ):  # fmt: skip
        assert lo - 1e-5 <= values.min() and values.max() <= hi + 1e-5, name
        assert values.max() - values.min() > 0.95 * (hi - lo), name
    assert box.min() >= 0 and box.max() <= 1


def test_p_is_the_share_of_images_that_a_change_is_made_to():
    set_seed(0)
    theta, gain, *_ = AugmentXray(p=0.3).draw(4000)
    assert (gain != 1).float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert (theta[:, 0, 1] != 0).float().mean().item() == pytest.approx(0.3, abs=0.03)
    flips = theta[:, 0, 0].sign()
    assert (flips < 0).float().mean().item() == pytest.approx(0.5, abs=0.03)
    theta, gain, *_ = AugmentXray(p=0, flip=False).draw(10)
    assert (gain == 1).all() and torch.equal(theta, torch.eye(2, 3).expand(10, 2, 3))


def test_noise_and_erasing_are_per_image():
    x = TensorXray(torch.full((N, 1, 64, 64), 128, dtype=torch.uint8))
    quiet = dict(max_rotate=0, min_zoom=1, max_zoom=1, max_shift=0, max_lighting=0, p=1)
    set_seed(0)
    spread = AugmentXray(max_noise=0.1, **quiet)(x, split_idx=0).flatten(1).std(1)
    assert 0 < spread.min() < 0.02 and 0.08 < spread.max() < 0.11
    erased = (AugmentXray(max_erase=0.25, **quiet)(x, split_idx=0) == 0).flatten(1).float().mean(1)
    assert erased.max() < 0.28 and erased.unique().numel() > N / 2


def test_only_training_batches_are_changed_and_all_are_scaled():
    x = TensorXray(smooth(N, 48, 48).to(torch.uint8))
    scaled = (x.as_subclass(torch.Tensor).float() / 255 - GREY_STATS[0]) / GREY_STATS[1]
    tune, train = Pipeline(xray_tfms(), split_idx=1)(x), Pipeline(xray_tfms(), split_idx=0)(x)
    torch.testing.assert_close(tune.as_subclass(torch.Tensor), scaled)
    assert (train.as_subclass(torch.Tensor) - scaled).abs().mean() > 0.1
    assert x.dtype == torch.uint8 and type(train) is TensorXray


def test_scaling_leaves_its_input_alone_and_can_be_undone():
    x = TensorXray(torch.rand(2, 1, 8, 8))
    before, scale = x.clone(), ScaleGrey(0.3, 0.2)
    torch.testing.assert_close(scale.decode(scale(x)), before)
    assert torch.equal(x, before)


def test_the_same_seed_changes_alike():
    x = TensorXray(smooth(N, 48, 48).to(torch.uint8))
    changed = []
    for seed in (1, 1, 2):
        set_seed(seed)
        changed.append(AugmentXray(max_noise=0.1, max_erase=0.1)(x, split_idx=0))
    assert torch.equal(changed[0], changed[1]) and not torch.equal(changed[0], changed[2])
