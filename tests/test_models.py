"""Networks: one grey channel in, one logit out; weights from a file that is never run; errors that say what to do."""

import copy
import json
import os
import pickle
import random
import re
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from mura_fastai.data.loaders import mura_dls
from mura_fastai.errors import InputError
from mura_fastai.models.backbones import OWN, _check_hub, _config, check_net, create_net, timm_net
from mura_fastai.models.cnn import SIZES, MuraCNN, SmoothMaxPool, mura_cnn
from mura_fastai.models.cost import network_cost
from mura_fastai.models.weights import fill, load_pretrained, read_weights
from mura_fastai.training.learner import mura_learner

SMALL = dict(widths=(4, 8, 12), grid=4, hidden=16)


@pytest.fixture(scope="module")
def resnet_file(tmp_path_factory):
    "A three-channel ResNet-18 with a classifier of 1000, and its weights as a file."
    torch.manual_seed(0)
    net = timm.create_model("resnet18").eval()
    file = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    save_file(net.state_dict(), file)
    return net, file


def without(net, prefix):
    return {k: v for k, v in net.state_dict().items() if not k.startswith(prefix)}


def grouped(net):
    "Ids of the weights in each group."
    return [[id(p) for p in group] for group in net.param_groups()]


# ---------------------------------------------------------------- the custom CNN


@pytest.mark.parametrize("shape", [(64, 64), (65, 65), (33, 47), (128, 40), (320, 320)])
def test_mura_cnn_gives_one_logit_at_any_size(shape):
    assert mura_cnn().eval()(torch.rand(2, 1, *shape)).shape == (2, 1)


def test_mura_cnn_takes_classes_and_channels_and_is_called_with_the_region_all_the_same():
    net = MuraCNN(num_classes=3, in_chans=2, **SMALL).eval()
    assert net(torch.rand(2, 2, 32, 32), torch.tensor([0, 1])).shape == (2, 3)


def test_mura_cnn_sees_the_same_at_another_exposure():
    "Brighter, or with more contrast: neither is a finding."
    torch.manual_seed(0)
    net, x = mura_cnn().eval(), torch.rand(2, 1, 64, 64)
    torch.testing.assert_close(net(1.5 * x - 0.3), net(x), atol=1e-4, rtol=0)
    with_square = x.clone()
    with_square[:, :, 20:40, 20:40] = 0
    assert (net(with_square) - net(x)).abs().max() > 5e-4  # what else changes does matter


def test_the_plain_network_is_what_it_says_and_knows_its_size():
    net = create_net("plain_cnn", size=48).eval()
    convs = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [c.out_channels for c in convs] == [16, 32, 64, 128] and {c.kernel_size for c in convs} == {(3, 3)}
    x = torch.rand(2, 1, 48, 48)
    torch.testing.assert_close(net.classifier(net.features(x)), net(x))
    with pytest.raises(InputError, match="one size"):
        create_net("plain_cnn")


def test_every_weight_of_mura_cnn_learns():
    torch.manual_seed(0)
    net = MuraCNN(**SMALL)
    net(torch.randn(4, 1, 40, 40)).square().sum().backward()
    silent = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_mura_cnn_learns_a_spot_wherever_it_is():
    torch.manual_seed(0)
    net = MuraCNN(dropout=0, **SMALL)
    opt = torch.optim.Adam(net.parameters(), 1e-2)

    def batch(n):
        x, y = torch.randn(n, 1, 32, 32) * 0.3, torch.randint(0, 2, (n,))
        for i in y.nonzero().flatten():
            r, c = torch.randint(2, 28, (2,))
            x[i, 0, r : r + 3, c : c + 3] += 2
        return x, y.float()

    for _ in range(40):
        x, y = batch(32)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(net(x)[:, 0], y)
        opt.zero_grad()
        loss.backward()
        opt.step()
    x, y = batch(200)
    with torch.no_grad():
        assert ((net.eval()(x)[:, 0] > 0) == y).float().mean() > 0.9


# What each part of it is there for, with random weights: training may use it as far as the network gives it.


def given_to(net, part, x):
    "What one of the network's parts is given as it looks at pictures."
    seen = []
    handle = getattr(net, part).register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0] + 0))
    with torch.no_grad():
        net(x)
    handle.remove()
    return seen[0]


def noise(n, size, seed=0):
    return torch.rand(n, 1, size, size, generator=torch.Generator().manual_seed(seed))


def with_finding(x, row, col, side):
    x = x.clone()
    x[..., row : row + side, col : col + side] += 1
    return x


def moved_by(a, b):
    "How far features lie from others, as a share of these."
    return ((a - b).norm() / b.norm()).item()


@pytest.fixture
def net():
    torch.manual_seed(0)
    return mura_cnn().eval()


def test_half_of_what_mura_cnn_looks_at_hardly_knows_a_slow_change_of_exposure(net):
    x, slow = noise(1, 96), torch.linspace(-1, 1, 96)
    for other in (x + slow, x * (1 + 0.6 * slow) + 0.5 * slow):
        given = zip(*(given_to(net, "stem", image).unbind(1) for image in (other, x)), strict=True)
        changed = [moved_by(a, b) for a, b in given]
        assert sum(c < 0.25 for c in changed) == 1 and sum(c > 0.8 for c in changed) == 1, changed


def test_a_shift_by_a_pixel_changes_mura_cnns_last_map_far_less_than_with_plain_max_pools(net):
    plain = copy.deepcopy(net)
    for name in [n for n, m in net.named_modules() if isinstance(m, SmoothMaxPool)]:
        plain.set_submodule(name, torch.nn.MaxPool2d(2))
    x = torch.nn.functional.avg_pool2d(noise(1, 98), 3, 1)
    changed = [moved_by(*(given_to(n, "pool", image) for image in (x.roll(1, 3), x))) for n in (net, plain)]
    assert changed[0] < changed[1] / 2


def test_mura_cnn_tells_a_finding_from_the_same_one_in_another_quarter(net):
    blank = 0.3 * noise(1, 128)
    with torch.no_grad():
        none, here, there = map(net.features, (blank, with_finding(blank, 24, 24, 12), with_finding(blank, 88, 88, 12)))
    # of a mean over the whole picture, a finding leaves the same wherever it is: a tenth, for what borders do
    assert (here - there).norm() > 0.3 * (here - none).norm()


def test_a_small_finding_is_not_drowned_by_the_picture_around_it(net):
    changed = []
    for size in (64, 256):
        blank, at = 0.3 * noise(1, size), size // 4 - 4
        with torch.no_grad():
            changed.append((net.features(with_finding(blank, at, at, 8)) - net.features(blank)).norm())
    assert changed[1] > 0.25 * changed[0], "of means, a sixteenth would be left, or little more"


def test_every_size_of_mura_cnn_costs_what_is_published():
    root = Path(__file__).parents[1]
    cells = json.loads((root / "nbs" / "20_models.cnn.ipynb").read_text(encoding="utf-8"))["cells"]
    printed = "".join("".join(out.get("text", "")) for cell in cells for out in cell.get("outputs", ()))
    cost = {name: network_cost(mura_cnn(widths=widths), 128) for name, widths in SIZES.items()}
    assert (cost["mura_cnn"].parameters, cost["mura_cnn"].multiply_adds) == (393_249, 133_640_320)
    for name, c in cost.items():
        giga = f"{c.multiply_adds / 1e9:.3f} G"
        assert f"{name:15} {c.parameters:>10,} weights {giga:>8} multiply-adds at 128 px" in printed
    readme = " ".join((root / "README.md").read_text(encoding="utf-8").split())
    for name in ("mura_cnn", "mura_cnn_small"):
        of = f"{cost[name].multiply_adds / 1e9:.3f} G multiply-adds"
        assert of in readme and f"{cost[name].parameters / 1e6:.1f} M weights" in readme


# ---------------------------------------------------------------- timm's networks

NETS = [
    ("resnet18", 64),
    ("resnet50", 64),
    ("vit_tiny_patch16_224", 64),
    ("densenet169", 64),
    pytest.param("vgg19", 64, marks=pytest.mark.slow),
    pytest.param("vgg19_bn", 64, marks=pytest.mark.slow),
    ("deit_tiny_distilled_patch16_224", 64),
    ("convnext_atto", 64),
    ("efficientnet_b0", 64),
]


@pytest.mark.parametrize(("arch", "size"), NETS)
def test_networks_of_timm_take_one_channel_and_learn_in_three_groups(arch, size):
    net = create_net(arch, pretrained=False, size=size)
    net(torch.rand(2, 1, size, size), torch.zeros(2, dtype=torch.long)).sum().backward()
    assert net.eval()(torch.rand(1, 1, size, size)).shape == (1, 1)
    groups = grouped(net)
    assert len(groups) == 3 and all(groups)
    assert sorted(i for g in groups for i in g) == sorted(id(p) for p in net.parameters())
    assert all(p.grad is not None for p in net.parameters())
    first_layer, classifier = next(net.parameters()), net.body.get_classifier()
    heads = classifier if isinstance(classifier, tuple) else (classifier,)
    assert id(first_layer) in groups[0]
    assert set(groups[2]) >= {id(p) for head in heads for p in head.parameters()}


def test_an_unknown_name_gets_similar_ones():
    with pytest.raises(InputError, match=r"unknown architecture 'resnet81'; did you mean .*resnet18"):
        create_net("resnet81", pretrained=False)
    for wrong, near in (("muracnn", "mura_cnn"), ("plaincnn", "plain_cnn"), ("MURA_CNN_Large", "mura_cnn_large")):
        with pytest.raises(InputError, match=f"did you mean {near}"):
            create_net(wrong)


def test_a_name_like_no_other_is_told_how_to_list_them_in_a_shell(mura):
    with pytest.raises(InputError, match="there are mura_cnn.*, plain_cnn, and timm's") as e:
        create_net("qqqqqqqqqqqq")
    command = str(e.value).split("name: ")[1]
    done = subprocess.run(command.replace("python", sys.executable, 1), shell=True, capture_output=True, text=True)
    assert "resnet18" in done.stdout.split(), done.stderr
    told = " ".join(mura("train", "--help")[1].split())
    assert all(f" {name}," in told for name in OWN)


# ---------------------------------------------------------------- weights from a file


def pretrained(arch, tmp_path, **kwargs):
    "A three-channel network of timm, every one of its statistics and biases at random, and its file."
    torch.manual_seed(0)
    net = timm.create_model(arch, **kwargs).eval()
    for v in net.state_dict().values():
        v += 0.1 * torch.rand_like(v) if v.ndim == 1 else 0
    save_file(net.state_dict(), tmp_path / f"{arch}.safetensors")
    return net, tmp_path / f"{arch}.safetensors"


def as_seen(net, size=64):
    "Dark grey pictures as the package normalises one channel, and as this network's three are."
    mean, std = (torch.tensor(net.pretrained_cfg[k])[:, None, None] for k in ("mean", "std"))
    assert len(set(mean.flatten().tolist())) == 3
    grey = 0.4 * torch.rand(2, 1, size, size)
    return (grey - mean.mean()) / std.mean(), (grey - mean) / std


@pytest.mark.parametrize("arch", ["convnext_atto", "deit_tiny_distilled_patch16_224"])
def test_one_channel_sees_in_grey_what_three_channels_saw_each_at_its_statistics(arch, tmp_path):
    net, file = pretrained(arch, tmp_path, **({"img_size": 64} if "deit" in arch else {}))
    one, (grey, colour) = timm_net(arch, weights=file, size=64).eval(), as_seen(net)
    with torch.no_grad():
        there, here = net.forward_features(colour), one.body.forward_features(grey)
    torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-4)
    assert one(grey).shape == (2, 1)  # the classifier of 1000 is dropped


@pytest.mark.parametrize("arch", ["resnet18", "tf_efficientnet_b0"])
def test_before_a_batch_norm_only_the_rim_is_another(arch, tmp_path):
    net, file = pretrained(arch, tmp_path)
    one, (grey, colour), seen = timm_net(arch, weights=file).eval(), as_seen(net), []
    summed = timm.create_model(arch, pretrained=True, pretrained_cfg_overlay=dict(file=str(file)), in_chans=1).eval()
    for body, x in ((net, colour), (one.body, grey), (summed, grey)):
        body.bn1.register_forward_hook(lambda m, inputs, out: seen.append(out))
        with torch.no_grad():
            body(x)
    there, here, plain = seen
    inner = (..., slice(2, -2), slice(2, -2))
    torch.testing.assert_close(here[inner], there[inner], rtol=1e-4, atol=1e-4)
    assert (here - there).norm() < (plain - there).norm() / 3, "than by timm's sum"


def test_one_channel_of_a_file_is_taken_as_it_is(tmp_path):
    net, file = pretrained("resnet18", tmp_path, in_chans=1)
    one, x = timm_net("resnet18", weights=file).eval(), torch.rand(1, 1, 64, 64)
    assert torch.equal(one.body.forward_features(x), net.forward_features(x))


def test_a_whole_network_of_one_logit_comes_back_with_its_classifier(tmp_path):
    torch.manual_seed(1)
    net = timm_net("resnet18", pretrained=False).eval()
    file = tmp_path / "own.pt"
    torch.save({"state_dict": net.body.state_dict()}, file)
    again = timm_net("resnet18", weights=file).eval()
    x = torch.rand(1, 1, 64, 64)
    assert torch.equal(net(x), again(x))


def test_weights_of_the_custom_cnn_come_back(tmp_path):
    net = mura_cnn().eval()
    save_file(net.state_dict(), tmp_path / "own.safetensors")
    x = torch.rand(1, 1, 64, 64)
    assert torch.equal(create_net("mura_cnn", weights=tmp_path / "own.safetensors").eval()(x), net(x))


def test_layers_that_a_file_lacks_are_named_or_start_fresh_on_demand(resnet_file, tmp_path):
    net, _ = resnet_file
    file = tmp_path / "short.safetensors"
    save_file(without(net, "layer4"), file)
    with pytest.raises(
        InputError, match=r"lacks layer4\.0\..* and \d+ more of resnet18; allow_missing=True lets them start fresh"
    ):
        timm_net("resnet18", weights=file)
    body = timm.create_model("resnet18", num_classes=1, in_chans=1)
    fresh, _ = load_pretrained(body, file, allow_missing=True)
    assert len(fresh) > 10 and all(n.startswith(("layer4", "fc.")) for n in fresh)
    assert torch.equal(body.layer3[0].conv1.weight, net.layer3[0].conv1.weight)
    assert timm_net("resnet18", weights=file, allow_missing=True)(torch.rand(2, 1, 64, 64)).shape == (2, 1)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda net: net.state_dict() | {"layer9.weight": torch.zeros(3)}, "layer9.weight"),
        (lambda net: net.state_dict() | {"layer1.0.bn1.weight": torch.zeros(3)}, "layer1.0.bn1.weight"),
        (lambda net: {"something": torch.zeros(3)}, "something"),
        (lambda net: {}, "conv1.weight"),
    ],
)
def test_weights_of_another_network_are_named(resnet_file, tmp_path, change, named):
    file = tmp_path / "other.safetensors"
    save_file(change(resnet_file[0]), file)
    with pytest.raises(InputError, match="weights of another network.*do not fit resnet18") as e:
        timm_net("resnet18", weights=file, allow_missing=True)
    assert named in str(e.value)


def test_the_custom_cnn_refuses_a_resnets_weights(resnet_file):
    with pytest.raises(InputError, match="weights of another network") as e:
        fill(mura_cnn(), resnet_file[1])
    assert "\n" not in str(e.value)


# ---------------------------------------------------------------- files that are no weights


class Bomb:
    "Unpickled, it writes a file."

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return open, (str(self.canary), "w")


@pytest.mark.parametrize("name", ["model.pth", "model.pt", "model.pkl", "model.bin", "model.safetensors", "model"])
@pytest.mark.parametrize("write", [lambda o, f: f.write_bytes(pickle.dumps(o)), torch.save])
def test_nothing_in_a_file_is_run(tmp_path, name, write):
    canary, file = tmp_path / "canary", tmp_path / name
    write({"conv1.weight": Bomb(canary)}, file)
    for load in (read_weights, lambda f: create_net("mura_cnn", weights=f), lambda f: timm_net("resnet18", weights=f)):
        with pytest.raises(InputError, match=name) as e:
            load(file)
        assert "\n" not in str(e.value)
    assert not canary.exists()


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, -1])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_files_that_are_cut_short_are_one_line(tmp_path, keep, suffix):
    whole, file = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(mura_cnn().state_dict(), whole)
    data = whole.read_bytes()
    file.write_bytes(data[: int(len(data) * keep) if keep == 0.5 else keep])
    with pytest.raises(InputError, match="cut") as e:
        read_weights(file)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_weights_that_are_no_numbers_are_refused_and_named(tmp_path, kind):
    net = create_net("mura_cnn", pretrained=False)
    state, file = net.state_dict(), tmp_path / f"net.{kind}"
    state["classifier.weight"][0, 3] = float("nan")
    (save_file if kind == "safetensors" else torch.save)(state, file)
    with pytest.raises(InputError, match="not every weight is a number .classifier.weight"):
        fill(net, file)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.zeros(3)])
def test_a_file_without_a_state_dict_is_one_line(tmp_path, content):
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(InputError, match="holds no state dict; give a file that net.state_dict"):
        read_weights(tmp_path / "odd.pth")


def test_a_missing_file_and_a_folder_are_one_line(tmp_path):
    with pytest.raises(InputError, match="no such file of weights"):
        read_weights(tmp_path / "none.safetensors")
    with pytest.raises(InputError, match="folder"):
        read_weights(tmp_path)
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(InputError, match="folder"):
        read_weights(tmp_path / "folder.safetensors")


# ---------------------------------------------------------------- no network


def test_an_unreachable_hub_is_said_at_once(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise OSError("Network is unreachable")

    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    started = time.monotonic()
    with pytest.raises(
        InputError, match=r"resnet50\.a1_in1k: the hub cannot be reached; .*weights=FILE, --weights FILE"
    ):
        create_net("resnet50.a1_in1k")
    assert time.monotonic() - started < 30  # timm itself tries again for minutes


@pytest.fixture
def listening():
    "A port of this machine that takes connections and says nothing."
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_the_hub_is_asked_where_it_is_or_the_proxy_before_it(monkeypatch, listening):
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    cfg, here = _config("resnet18.a1_in1k"), "127.0.0.1"
    for hub, env, who in (
        (f"http://{here}:{listening}", {}, None),
        (f"https://{here}:{listening}/mirror", {}, None),
        (f"http://{here}:{closed}", {}, "hub"),
        ("https://hub.invalid", {"https_proxy": f"http://{here}:{listening}"}, None),
        ("https://hub.invalid", {"all_proxy": f"{here}:{listening}"}, None),
        ("https://hub.invalid", {"https_proxy": f"http://{here}:{closed}"}, f"proxy {here} before the hub"),
        (f"http://{here}:{listening}", {"http_proxy": f"http://{here}:{closed}", "no_proxy": here}, None),
        (f"http://{here}:{closed}", {"http_proxy": f"http://{here}:{listening}", "no_proxy": here}, "hub"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(constants, "ENDPOINT", hub)
            for name, value in env.items():
                patch.setenv(name, value)
            if who is None:
                _check_hub("resnet18.a1_in1k", cfg)
            else:
                with pytest.raises(InputError, match=f"the {who} cannot be reached; .*--weights FILE"):
                    _check_hub("resnet18.a1_in1k", cfg)


class Hub(BaseHTTPRequestHandler):
    "As much of the hub as one file needs; asked by itself or as a proxy."

    def do_HEAD(self):
        data = self.server.files.get(urlparse(self.path).path)
        self.send_response(200 if data else 404)
        for name, value in {"Content-Length": len(data or b""), "ETag": '"1"', "X-Repo-Commit": "0" * 40}.items():
            self.send_header(name, str(value))
        self.end_headers()
        return data or b""

    def do_GET(self):
        self.wfile.write(self.do_HEAD())

    def log_message(self, *_):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("proxied", [False, True])
def test_weights_of_the_hub_are_taken_over_as_those_of_a_file(proxied, resnet_file, tmp_path):
    _, file = resnet_file
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.files = {"/timm/resnet18.a1_in1k/resolve/main/model.safetensors": file.read_bytes()}
        threading.Thread(target=server.serve_forever, daemon=True).start()
        at = f"http://127.0.0.1:{server.server_port}"
        env = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")} | {"HF_HOME": str(tmp_path)}
        env |= {"HF_ENDPOINT": "http://hub.invalid", "HTTP_PROXY": at} if proxied else {"HF_ENDPOINT": at}
        code = "\n".join([
            "import sys, torch", "from safetensors.torch import save_file",
            "from mura_fastai.models.backbones import timm_net", "torch.manual_seed(3)",
            "save_file(timm_net('resnet18.a1_in1k').state_dict(), sys.argv[1])",
        ])  # fmt: skip
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "got.safetensors")], env=env, check=True, timeout=300
        )
        server.shutdown()
    torch.manual_seed(3)
    there, got = timm_net("resnet18.a1_in1k", weights=file).state_dict(), read_weights(tmp_path / "got.safetensors")
    assert got.keys() == there.keys() and all(torch.equal(got[n], there[n]) for n in there), "its classifier too"


def test_a_network_that_was_never_pretrained_says_so():
    with pytest.raises(InputError, match=r"timm knows none; .*--no-pretrained"):
        create_net("vit_base_patch16_18x2_224")


def test_plain_cnn_says_what_is_too_small_for_it():
    with pytest.raises(InputError, match="8 pixels: plain_cnn halves them 4 times"):
        create_net("plain_cnn", size=8)


@pytest.mark.parametrize("arch", ["mura_cnn", "mura_cnn_small", "mura_cnn_large"])
def test_the_custom_cnns_say_what_is_too_small_for_them(arch):
    create_net(arch, size=16)(torch.rand(2, 1, 16, 16))
    with pytest.raises(InputError, match=f"15 pixels: {arch} halves them 4 times; choose a larger size"):
        create_net(arch, size=15)


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize("repeats", [[], ["--folds", 2]])
def test_a_size_that_the_network_does_not_take_is_one_line_and_no_folder(mura, root, tmp_path, monkeypatch, repeats):
    monkeypatch.chdir(tmp_path)
    how = ["--arch", "inception_v3", "--no-pretrained", "--size", 48, "--epochs", 1, *repeats]
    code, out, err = mura("train", root, *how, "--out", "runs/inc")
    assert (code, out) == (2, "") and err.count("\n") == 1 and "inception_v3 does not take images of 48 pixels" in err
    assert not list(tmp_path.iterdir())
    such = int(re.search(r"such as (\d+), \(size=, --size\)", err)[1])
    assert create_net("inception_v3", False, size=such).eval()(torch.rand(1, 1, such, such)).shape == (1, 1)


def test_from_python_it_is_said_before_training(images):
    with pytest.raises(InputError, match="inception_v3 does not take images of 48 pixels.*size="):
        mura_learner(mura_dls(images, 48, 16, num_workers=1), "inception_v3", pretrained=False)


# hrnet adds maps of two paths, twins looks at the size as it is made, coatnet is built for it and fails all the same
@pytest.mark.parametrize("arch", ["hrnet_w18_small", "twins_svt_small", "coatnet_pico_rw_224"])
def test_the_size_that_is_named_instead_is_taken(arch):
    with pytest.raises(InputError, match=f"{arch} does not take images of 48 pixels") as e:
        check_net(arch, 48)
    check_net(arch, int(re.search(r"such as (\d+)", str(e.value))[1]))


@pytest.mark.parametrize("arch", ["resnet18", "levit_128", "mura_cnn"])
def test_trying_a_size_out_leaves_no_trace(arch):
    def state():
        return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()

    torch.manual_seed(0)
    before = state()
    check_net(arch, 64)
    with pytest.raises(InputError):
        check_net("twins_svt_small", 48)
    assert state() == before
    tried = create_net(arch, False, size=64)
    torch.manual_seed(0)
    built = timm.models.get_pretrained_cfg(arch) if arch != "mura_cnn" else None
    plain = mura_cnn() if built is None else timm.create_model(
        arch, num_classes=1, in_chans=1, **({"img_size": 64} if built.fixed_input_size else {})
    )  # fmt: skip
    own = getattr(tried, "body", tried)
    assert all(torch.equal(v, plain.state_dict()[k]) for k, v in own.state_dict().items())
    assert all(m.training for m in own.modules())


def test_a_network_that_asks_for_numbers_is_tried_with_numbers(monkeypatch):
    net = timm.create_model("resnet18", num_classes=1, in_chans=1)
    net.register_forward_pre_hook(lambda m, x: [x[0].sum().item(), None][1])  # shapes have none
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: net)
    assert timm_net("resnet18", pretrained=False, size=64).body is net
