"""The frontier: costs as reckoned by hand, scores as everywhere else, no unlike runs, a plot that can be read."""

import json
import shutil
from itertools import combinations
from math import nan
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
import yaml
from torch import nn

from mura_fastai.bench import frontier as floor
from mura_fastai.bench.frontier import Network, frontier, speed_cases
from mura_fastai.bench.frontier_plot import draw, pareto, round_down
from mura_fastai.bench.frontier_text import data_line, headline, text
from mura_fastai.errors import InputError
from mura_fastai.models.backbones import create_net
from mura_fastai.models.cost import Cost, network_cost
from mura_fastai.results.metrics import score
from mura_fastai.results.scoring import decision_of
from mura_fastai.results.tables import read_predictions

FAST = dict(rounds=0, n_boot=50, device="cpu", progress=None)
TINY = Network("mura_cnn", 48)


@pytest.fixture
def two(run, tmp_path):
    "The shared run, and a copy with another network that ranks at random."
    return run, other_run(run, tmp_path / "other", arch="resnet18")


def other_run(run, folder, seed=0, noise=1.0, **settings):
    "A copy of a run with other predictions and settings."
    shutil.copytree(run, folder)
    change(folder / "settings.yaml", settings)
    preds = pd.read_csv(folder / "predictions.csv", dtype={"study": str, "patient": str})
    rng = np.random.default_rng(seed)
    preds["p_abnormal"] = (1 - noise) * preds.p_abnormal + noise * rng.random(len(preds))
    preds.to_csv(folder / "predictions.csv", index=False)
    return folder


def change(file, settings):
    told = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(told | settings))


# ---------------------------------------------------------------- cost


def test_a_small_network_costs_what_a_hand_reckons():
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 2))
    convolution, linear = 8 * 8 * 4 * (3 * 3 * 1), 256 * 2
    assert network_cost(net, 8) == Cost((9 * 4 + 4) + 2 * 4 + (256 * 2 + 2), convolution + linear)
    assert net.training and next(net.parameters()).device.type == "cpu" and net[1].num_batches_tracked == 0


def test_resnet18_costs_what_papers_say_and_less_with_one_channel_and_one_logit():
    of_paper, ours = network_cost(timm.create_model("resnet18"), 224, channels=3), create_net("resnet18", False)
    assert 1.81e9 <= of_paper.multiply_adds <= 1.82e9 and of_paper.parameters == 11_689_512
    saved = 112 * 112 * 64 * 7 * 7 * 2 + 512 * 999
    cost = network_cost(ours, 224).multiply_adds
    assert cost == of_paper.multiply_adds - saved
    assert network_cost(ours, 448).multiply_adds - 512 == 4 * (cost - 512)  # all but the classifier


def test_attention_is_counted():
    tokens, d = 14 * 14 + 1, 192
    layer = tokens * d * 3 * d + 2 * tokens * tokens * d + tokens * d * d + 2 * tokens * d * 4 * d
    net = timm.create_model("vit_tiny_patch16_224", num_classes=1)
    assert network_cost(net, 224, channels=3).multiply_adds == 12 * layer + 14 * 14 * d * 3 * 16 * 16 + d


# ---------------------------------------------------------------- the front


def test_on_the_front_is_what_no_other_beats_for_less():
    points = [(1, 0.7), (2, 0.8), (3, 0.8), (4, 0.75), (5, 0.9), (5, 0.85), (9, nan), (0.5, nan)]
    assert pareto(points) == [True, True, False, False, True, False, False, False]
    assert pareto([(1, 0.7), (1, 0.7)]) == [True, True]
    assert pareto([]) == []


def test_scores_are_those_of_mura_evaluate_and_the_front_is_marked(two, tmp_path):
    document = frontier(two, tmp_path / "out", **FAST | dict(n_boot=2000))
    for row, run in zip(document["runs"], two, strict=True):
        expected = score(read_predictions(run / "predictions.csv"), decision=decision_of(run))
        for metric in ("auroc", "average_precision"):
            for name in (metric, f"{metric}_lo", f"{metric}_hi"):
                assert row["scores"]["overall"][name] == pytest.approx(expected.loc["overall", name], abs=1e-9)
        cost = network_cost(create_net(row["arch"], False), 48)
        assert (row["parameters"], row["multiply_adds"]) == (cost.parameters, cost.multiply_adds)
    costs = [(r["multiply_adds"], r["scores"]["overall"]["auroc"]) for r in document["runs"]]
    assert [r["on_front"] for r in document["runs"]] == pareto(costs)
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == ["frontier.json", "frontier.png", "frontier.txt"]
    assert json.loads((tmp_path / "out" / "frontier.json").read_text()) == document
    assert (tmp_path / "out" / "frontier.txt").read_text() == text(document)


def test_what_is_counted_is_the_network_that_was_trained_not_the_whole_one_of_that_name(run, tmp_path):
    form = dict(arch="resnet18", until="layer1", pool="catavgmax", dropout=0.1, region_aware=True)
    cut, whole = other_run(run, tmp_path / "cut", **form), other_run(run, tmp_path / "whole", arch="resnet18")
    regions = yaml.safe_load((run / "settings.yaml").read_text())["data"]["regions"]
    rows = frontier([cut, whole], **FAST)["runs"]
    expected = create_net("resnet18", False, until="layer1", pool="catavgmax", n_regions=1 + len(regions))
    cost = network_cost(expected, 48)
    assert (rows[0]["parameters"], rows[0]["multiply_adds"]) == (cost.parameters, cost.multiply_adds)
    assert rows[1]["parameters"] > 10 * rows[0]["parameters"]
    assert rows[0]["network"].startswith("resnet18 to layer1") and rows[1]["network"] == "resnet18"
    timed = speed_cases(Network.of(yaml.safe_load((cut / "settings.yaml").read_text())), 2, 0.01, torch.device("cpu"))
    assert all("to layer1" in case.name for case in timed)


def knowing(run, folder, arch, share):
    "A copy of a run that has so much of the label in its predictions: all is right at 1, all wrong at -1."
    other_run(run, folder, arch=arch)
    preds = pd.read_csv(run / "predictions.csv", dtype={"study": str, "patient": str})
    told = preds.label if share > 0 else 1 - preds.label
    preds["p_abnormal"] = abs(share) * told + (1 - abs(share)) * preds.p_abnormal
    preds.to_csv(folder / "predictions.csv", index=False)
    return folder


def test_the_gain_is_the_paired_difference_between_the_best_and_the_next_cheaper_on_the_front(run, tmp_path):
    better = knowing(run, tmp_path / "better", "resnet18", 0.9)
    document = frontier([better, run], **FAST)
    gain, (dear, cheap) = document["gain"], document["runs"]
    assert (gain["best"], gain["over"]) == ("better", run.name)
    assert gain["times"] == dear["multiply_adds"] / cheap["multiply_adds"] > 1
    aurocs = [r["scores"]["overall"]["auroc"] for r in (dear, cheap)]
    assert gain["auroc_diff"] == pytest.approx(aurocs[0] - aurocs[1]) and gain["auroc_diff"] > 0
    # One that is beaten costs nearly as much, and another one on the front is cheaper still: neither is named.
    small = knowing(run, tmp_path / "small", "mura_cnn_small", -0.2)
    beaten = knowing(run, tmp_path / "beaten", "mura_cnn_large", -0.9)
    document = frontier([small, beaten, better, run], **FAST)
    costs = {r["name"]: r["multiply_adds"] for r in document["runs"]}
    assert costs["small"] < costs[run.name] < costs["beaten"] < costs["better"]
    assert {r["name"]: r["on_front"] for r in document["runs"]} == {
        "small": True, run.name: True, "beaten": False, "better": True
    }  # fmt: skip
    assert document["gain"] == gain


def test_the_table_and_the_picture_tell_what_a_network_started_from(run, tmp_path):
    file = "/somewhere/else/resnet18_in1k.safetensors"
    given = {
        "fresh": dict(arch="resnet18", pretrained=False, weights=None),
        "own": dict(arch="resnet18", pretrained=True, weights=file),
        "hub": dict(arch="resnet18.tv_in1k", pretrained=True, weights=None),
        "any": dict(arch="resnet18", pretrained=True, weights=None),
    }
    runs = [other_run(run, tmp_path / name, **settings) for name, settings in given.items()]
    document = frontier(runs, tmp_path / "out", **FAST)
    told = {r["name"]: r["weights"] for r in document["runs"]}
    timms = timm.create_model("resnet18").pretrained_cfg["tag"]
    assert told == dict(fresh="scratch", own="file: resnet18_in1k.safetensors", hub="hub: tv_in1k", any=f"hub: {timms}")
    table, names = text(document), {t.get_text() for t in draw(document).axes[0].texts}
    rows = {line.strip(" *").split("  ")[0]: line for line in table.splitlines()}
    assert all(f"  {weights}  " in rows[name] for name, weights in told.items())
    assert names - {""} == {"fresh", "own (pretrained)", "hub (pretrained)", "any (pretrained)"}
    assert "/somewhere" not in (tmp_path / "out" / "frontier.json").read_text()


def test_seeds_in_one_folder_are_one_point_with_their_mean(run, tmp_path):
    folder = tmp_path / "seeds"
    folder.mkdir()
    for i in range(2):
        other_run(run, folder / f"seed{i}", seed=i, noise=0.5)
    (folder / "repeats.yaml").write_text(yaml.safe_dump(dict(format=1, folds=None, seeds=[0, 1])))
    document = frontier([run, folder], **FAST)
    apart = frontier([folder / "seed0", folder / "seed1"], **FAST)["runs"]
    told = document["runs"][1]
    assert told["seeds"] == 2 and told["name"] == "seeds"
    mean = np.mean([r["scores"]["overall"]["auroc"] for r in apart])
    assert told["scores"]["overall"]["auroc"] == pytest.approx(mean)
    assert data_line(document).endswith("valid rows, 1 to 2 seeds") and "phantom" in data_line(document)


def test_runs_on_other_data_or_other_studies_are_refused(two, tmp_path):
    run, other = two
    told = yaml.safe_load((other / "settings.yaml").read_text())["data"]
    change(other / "settings.yaml", dict(data=told | dict(fingerprint="0" * 16)))
    with pytest.raises(InputError, match=f"{other}: other data or another split than {run}.*{'0' * 16}"):
        frontier(two, tmp_path / "out", **FAST)
    change(other / "settings.yaml", dict(data={"path": told["path"], "source": told["source"]}))
    with pytest.raises(InputError, match="keeps no fingerprint"):
        frontier(two, **FAST)
    change(other / "settings.yaml", dict(data=told))
    preds = pd.read_csv(other / "predictions.csv")
    preds[preds.study != preds.study[0]].to_csv(other / "predictions.csv", index=False)
    with pytest.raises(InputError, match="of other studies"):
        frontier(two, **FAST)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="no run given"):
        frontier([], **FAST)
    with pytest.raises(InputError, match="a file; name a folder"):
        frontier([run], run / "settings.yaml", **FAST)


# ---------------------------------------------------------------- speed


def test_training_trains_and_prediction_only_predicts(monkeypatch):
    nets, make = [], floor.bare_step
    monkeypatch.setattr(floor, "bare_step", lambda *a: nets.append(make(*a)) or nets[-1])
    train, predict = speed_cases(TINY, bs=2, seconds=0.01, device=torch.device("cpu"))
    net = nets[0].net
    before = [p.clone() for p in net.parameters()]
    timing = predict.run()
    assert timing.images > 0 and timing.seconds > 0 and not net.training
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    timing = train.run()
    assert timing.images >= 8 and net.training
    assert not any(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_a_step_of_training_is_in_the_precision_of_the_run():
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        seen = set()
        hook = nn.modules.module.register_module_forward_hook(
            lambda m, _, out, seen=seen: seen.add(out.dtype) if isinstance(m, nn.Conv2d) else None
        )
        try:
            train, predict = speed_cases(Network("mura_cnn", 48, precision), 2, 0.01, torch.device("cpu"))
            train.run()
            assert seen == {dtype}
            seen.clear()
            predict.run()
            assert seen == {torch.float32}
        finally:
            hook.remove()


def test_runs_of_one_network_share_one_measurement_and_all_take_turns(two, run, monkeypatch):
    asked = []

    def measure(cases, rounds, progress):
        asked.append(([c.name for c in cases], rounds))
        return [dict(name=c.name, median=i, min=i, max=i) for i, c in enumerate(cases)]

    monkeypatch.setattr(floor, "measure", measure)
    runs = frontier([two[0], two[1], run], **FAST | dict(rounds=3, bs=2))["runs"]
    [(names, rounds)] = asked
    assert rounds == 3 and len(names) == 4
    assert [r["training"]["median"] for r in runs] == [0, 2, 0] and [r["prediction"]["median"] for r in runs] == [
        1,
        3,
        1,
    ]
    assert [r["name"] for r in runs] == ["first (1)", "other", "first (3)"]


# ---------------------------------------------------------------- words and picture


@pytest.fixture
def crowd():
    "A document of nine runs, some of them close together, as `frontier` gives it."
    rows = [
        ("mobilenetv3_small", 1.5, 0.06, 0.812), ("mura_cnn", 1.3, 0.21, 0.842), ("efficientnet_b0", 4, 0.38, 0.871),
        ("convnext_atto", 3.4, 0.4, 0.868), ("vit_tiny", 5.5, 1.07, 0.842), ("convnextv2_pico", 8.6, 1.37, 0.901),
        ("resnet18", 11.2, 1.4, 0.893), ("densenet121", 6.9, 2.8, 0.894), ("$a_b$ resnet50", 23.5, 4.05, 0.889),
    ]  # fmt: skip
    runs = []
    for name, millions, giga, auroc in rows:
        scores = dict(n=900, n_abnormal=300, auroc=auroc, auroc_lo=auroc - 0.02, auroc_hi=auroc + 0.018)
        runs.append(
            dict(name=name, arch="any", size=224, precision="fp32", weights="scratch", seeds=3,
                 parameters=int(millions * 1e6), multiply_adds=int(giga * 1e9), scores={"overall": scores},
                 training=None, prediction=None)
        )  # fmt: skip
    for run, on in zip(runs, pareto([(giga, auroc) for _, _, giga, auroc in rows]), strict=True):
        run["on_front"] = on
    data = dict(source="fracatlas", name="FracAtlas", folds=5, studies=900, abnormal=300, patients=850)
    gain = dict(best="convnextv2_pico", over="efficientnet_b0", times=3.61, auroc_diff=0.03, lo=0.01, hi=0.05)
    hardware = dict(cpu="a processor", gpu=None)
    return dict(runs=runs, data=data, gain=gain, hardware=hardware, settings=dict(n_boot=2000, rounds=0, regions=[]))


def test_names_cover_neither_each_other_nor_a_dot(crowd):
    fig = draw(crowd)
    fig.draw_without_rendering()
    [ax] = fig.axes
    labels = [t for t in ax.texts if t.get_text()]
    assert [*sorted(t.get_text() for t in labels)] == sorted(r["name"] for r in crowd["runs"])
    boxes = [super(type(t), t).get_window_extent() for t in labels]  # without the line to the dot
    assert not [1 for a, b in combinations(boxes, 2) if a.overlaps(b)]
    frame, dots = ax.get_window_extent(), ax.transData.transform(
        [(r["multiply_adds"] / 1e9, r["scores"]["overall"]["auroc"]) for r in crowd["runs"]]
    )  # fmt: skip
    assert all(frame.contains(*c) for b in boxes for c in b.corners())
    assert not [1 for b in boxes for dot in dots if b.contains(*dot)]


def test_a_dot_is_as_large_as_its_network_and_filled_on_the_front(crowd):
    [ax] = draw(crowd).axes
    dots = {round(c.get_offsets()[0][0], 3): c for c in ax.collections if len(c.get_offsets()) == 1}
    area = [dots[round(r["multiply_adds"] / 1e9, 3)].get_sizes()[0] / r["parameters"] for r in crowd["runs"]]
    assert max(area) == pytest.approx(min(area))
    filled = [not np.allclose(dots[round(r["multiply_adds"] / 1e9, 3)].get_facecolor(), 1) for r in crowd["runs"]]
    assert filled == [r["on_front"] for r in crowd["runs"]] and 1 < sum(filled) < len(filled)


def test_the_headline_says_what_more_multiply_adds_buy_and_whether_it_may_be_chance(crowd):
    assert headline(crowd) == (
        "convnextv2_pico has the highest AUROC: +.030 over efficientnet_b0, the next cheaper on the front, for 3.61 x "
        "the multiply-adds (95 % interval +.010 to +.050)"
    )
    crowd["gain"] |= dict(auroc_diff=0.01, lo=-0.02, hi=0.04)
    assert headline(crowd).endswith("(95 % interval -.020 to +.040, which may be chance)")
    crowd["gain"] = None
    for run in crowd["runs"]:
        run["on_front"] = run["name"] == "mura_cnn"
    assert headline(crowd).startswith("mura_cnn has the highest AUROC, and no run needs fewer multiply-adds")
    assert data_line(crowd).endswith("850 groups of look-alikes, 5 folds out of fold, 3 seeds")


def test_the_title_breaks_before_its_interval_and_nowhere_in_a_name(crowd):
    crowd["gain"] |= dict(best="net (1)", over="net (2)")
    *claim, interval = draw(crowd).get_suptitle().splitlines()
    assert " ".join(claim) == headline(crowd).partition(" (95")[0] and max(map(len, claim)) <= 76
    assert interval == "(95 % interval +.010 to +.050)"


def test_runs_without_an_auroc_are_told_and_drawn_nowhere(crowd):
    for run in crowd["runs"]:
        run["scores"]["overall"] |= dict(auroc=None, auroc_lo=None, auroc_hi=None)
        run["on_front"] = False
    crowd["gain"] = None
    assert headline(crowd) == "No AUROC: the studies are all of one class"
    assert not draw(crowd).axes[0].collections


def test_the_key_has_round_numbers():
    assert [round_down(n) for n in (1, 1.9, 2, 4.9, 11.2e6, 5e6, 7)] == [1, 1, 2, 2, 10e6, 5e6, 5]


def test_the_command_prints_the_table_or_json_and_writes_three_files(mura, two, tmp_path):
    code, out, err = mura("frontier", *two, "--rounds", 0, "--regions", "XR_WRIST", "-o", tmp_path / "f")
    assert code == 0, err
    assert "first" in out and "mura_cnn, 48 px" in out and "not measured" in out and "\nXR_WRIST: " in out
    assert all(Path(line).exists() for line in out.splitlines()[-3:])
    code, out, _ = mura("frontier", *two, "--rounds", 0, "-o", tmp_path / "f", "--json")
    assert code == 0 and [r["arch"] for r in json.loads(out)["runs"]] == ["mura_cnn", "resnet18"]
    code, _, err = mura("frontier", *two, "--rounds", 0, "--regions", "XR_TOE", "-o", tmp_path / "f")
    assert code == 2 and "XR_TOE" in err and "XR_WRIST" in err
