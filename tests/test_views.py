"""Whole studies: batches that hold their views, networks that pool them, runs that say so, and what they show."""

import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.distributed import DistributedDL
from fastai.torch_core import set_seed
from safetensors.torch import save_file

from mura_fastai.data.augment import AugmentXray
from mura_fastai.data.batches import study_code
from mura_fastai.data.loaders import mura_dls
from mura_fastai.data.store import build_store
from mura_fastai.errors import InputError
from mura_fastai.models.backbones import create_net, timm_net
from mura_fastai.models.cnn import MuraCNN
from mura_fastai.models.views import POOLINGS, GatedAttention, StudyNet
from mura_fastai.results.experiment import compare_runs, interpret_run, predict, train
from mura_fastai.results.interpret import MuraInterpretation
from mura_fastai.results.pooling import to_studies
from mura_fastai.results.predict import predict_images
from mura_fastai.results.scoring import calibrate_run, evaluate_run
from mura_fastai.share.app_answers import LoadedRun, Sent
from mura_fastai.share.cards import cards
from mura_fastai.training.learner import mura_learner
from mura_fastai.training.runs import load_run, read_settings, train_run
from mura_fastai.training.schedules import fit_schedule

SIZE, BS = 48, 8


@pytest.fixture(scope="module")
def store(images, tmp_path_factory):
    return build_store(images, tmp_path_factory.mktemp("store") / "s", SIZE)


@pytest.fixture(scope="module")
def dls(images, store):
    return mura_dls(images, SIZE, BS, store=store, by="study")


@pytest.fixture(scope="module")
def studied(root, tmp_path_factory):
    "A run of one epoch that pools views by attention. Nobody changes it: copy it first."
    out = tmp_path_factory.mktemp("runs") / "attention"
    return train(root, out, size=SIZE, epochs=1, bs=BS, num_workers=1, views="attention")[0]


@pytest.fixture(autouse=True)
def no_figure_stays():
    yield
    plt.close("all")


def tiny():
    return MuraCNN(widths=(4, 8), grid=2, hidden=8)


def net_of(pool, seed=0, net=None):
    set_seed(seed)
    return StudyNet(tiny() if net is None else net, pool).eval()


def some_studies(n=3, most=4, seed=0):
    "Pictures, regions, and how many of the places are views."
    rng = torch.Generator().manual_seed(seed)
    return torch.rand((n, most, 1, 32, 32), generator=rng), torch.arange(n), torch.tensor([4, 1, 2])[:n]


# ---------------------------------------------------------------- networks


@pytest.mark.parametrize("arch", ["mura_cnn", "resnet18", "vgg11", "convnext_atto", "vit_tiny_patch16_224"])
def test_a_network_is_its_classifier_after_its_features(arch):
    net = (tiny() if arch == "mura_cnn" else timm_net(arch, pretrained=False, size=64)).eval()
    x = torch.rand(2, 1, 64, 64)
    with torch.inference_mode():
        features = net.features(x, torch.zeros(2))
        assert features.shape == (2, net.n_features)
        torch.testing.assert_close(net.classifier(features), net(x), rtol=1e-4, atol=1e-5)


def test_a_network_with_two_classifiers_is_refused_in_a_line():
    with pytest.raises(InputError, match="has no n_features"):
        StudyNet(timm_net("deit_tiny_distilled_patch16_224", pretrained=False, size=64))


def test_other_ways_to_pool_and_other_networks_are_refused():
    with pytest.raises(InputError, match="not pooled by 'median'"):
        StudyNet(tiny(), "median")
    with pytest.raises(InputError, match="Linear: has no features"):
        StudyNet(torch.nn.Linear(2, 1))


@pytest.mark.parametrize("pool", POOLINGS)
def test_padding_changes_nothing_and_neither_does_the_order_of_views(pool):
    net, (x, region, n) = net_of(pool), some_studies()
    with torch.no_grad():
        wanted = net(x, region, n)
        other = x.clone()
        other[1, 1:], other[2, 2:] = torch.nan, 1e6  # what lies in the padding is never looked at
        assert torch.equal(net(other, region, n), wanted)
        wide = torch.cat([x, torch.full_like(x, 9.0)], 1)
        torch.testing.assert_close(net(wide, region, n), wanted)
        mask = torch.tensor([[1, 1, 1, 1], [0, 1, 0, 0], [1, 0, 0, 1]]).bool()
        moved = x.clone()
        moved[0], moved[1, 1], moved[2, 3], moved[2, 0] = x[0].flip(0), x[1, 0], x[2, 0], x[2, 1]
        torch.testing.assert_close(net(moved, region, mask), wanted)
        for i in range(3):  # nor does the company of other studies
            torch.testing.assert_close(net(x[i : i + 1, : n[i]], region[i : i + 1]), wanted[i : i + 1])


@pytest.mark.parametrize("pool", POOLINGS)
def test_weights_of_views_sum_to_one_and_are_zero_where_none_is(pool):
    net, (x, region, n) = net_of(pool), some_studies()
    net(x, region, n)
    assert net.attention is None  # only where it is asked for
    net.keep_attention = True
    net(x, region, n)
    padding = torch.arange(4) >= n[:, None]
    assert (net.attention[padding] == 0).all() and not net.attention.requires_grad
    torch.testing.assert_close(net.attention.sum(1), torch.ones(3))
    assert net.attention[1, 0] == 1  # one view


@pytest.mark.parametrize("pool", POOLINGS)
def test_a_study_of_one_view_is_what_the_network_says_of_that_image(pool):
    net, x = net_of(pool), torch.rand(3, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(net(x[:, None], None, torch.ones(3)), net.net(x))
        torch.testing.assert_close(net(x), net.net(x))


def test_attention_is_the_published_formula():
    pool, h, n = GatedAttention(6, 5), torch.randn(2, 3, 6), [3, 2]
    mask = torch.arange(3) < torch.tensor(n)[:, None]
    pooled, weights = (t.detach().numpy() for t in pool(h, mask))
    V, bv, U, bu, w = (p.detach().numpy() for p in (*pool.content.parameters(), *pool.gate.parameters(),
                                                    *pool.score.parameters()))  # fmt: skip
    for i in range(2):
        scores = [
            float(w[0] @ (np.tanh(V @ x + bv) / (1 + np.exp(-(U @ x + bu)))))
            for x in h[i, : n[i]].numpy().astype(float)
        ]
        a = np.exp(scores) / np.exp(scores).sum()
        assert weights[i, : n[i]] == pytest.approx(a, abs=1e-6)
        assert pooled[i] == pytest.approx(sum(a_k * x for a_k, x in zip(a, h[i].numpy(), strict=False)), abs=1e-5)


def test_mean_and_maximum_are_what_they_say():
    h, mask = torch.randn(2, 3, 4), torch.tensor([[1, 1, 1], [1, 1, 0]]).bool()
    mean, largest = (POOLINGS[name](4)(h, mask)[0] for name in ("mean", "max"))
    for i, n in enumerate((3, 2)):
        torch.testing.assert_close(mean[i], h[i, :n].mean(0))
        torch.testing.assert_close(largest[i], h[i, :n].amax(0))


@pytest.mark.parametrize("pool", POOLINGS)
def test_every_weight_has_a_gradient_and_padding_gives_none(pool):
    net, (x, region, n) = net_of(pool).train(), some_studies()
    x.requires_grad_()
    net(x, region, n).sum().backward()
    # the classifier's input is what all else learns through; of three pictures batch norm may leave single ones still
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert (x.grad[1, 1:] == 0).all() and (x.grad[2, 2:] == 0).all() and (x.grad[1, 0] != 0).any()


def test_the_pooling_learns_with_the_head():
    body = timm_net("resnet18", pretrained=False)
    groups, own = StudyNet(body).param_groups(), body.param_groups()
    assert [len(g) for g in groups] == [len(own[0]), len(own[1]), len(own[2]) + 5]
    assert sum(len(g) for g in groups) == len(list(StudyNet(body).parameters()))
    layers = StudyNet(body).layer_groups()
    assert [len(g) for g in layers[:-1]] == [len(g) for g in body.layer_groups()[:-1]]
    assert sum(len(g) for g in layers) == len(list(StudyNet(body).parameters()))


def test_weights_of_a_network_that_pools_views_start_one_that_does_not(tmp_path):
    net = StudyNet(timm_net("resnet18", pretrained=False))
    save_file(net.state_dict(), tmp_path / "best.safetensors")
    other = timm_net("resnet18", weights=tmp_path / "best.safetensors")
    assert torch.equal(other.body.layer4[1].conv2.weight, net.net.body.layer4[1].conv2.weight)


@pytest.mark.parametrize("arch", ["mura_cnn", "plain_cnn"])
def test_so_do_those_of_the_packages_own_networks_and_of_others_regions(arch, tmp_path):
    torch.manual_seed(0)
    x, file = torch.rand(2, 1, SIZE, SIZE), tmp_path / "best.safetensors"

    def start(n_regions=0):
        return create_net(arch, weights=file, size=SIZE, n_regions=n_regions).eval()

    for pooled in (False, True):
        net = create_net(arch, size=SIZE, n_regions=3).eval()
        net.film.scale.data.normal_()
        save_file((StudyNet(net, "attention") if pooled else net).state_dict(), file)
        plain = start()
        torch.testing.assert_close(plain(x), net.classifier(net.head(given_to_head(net, x))))
        assert plain.dropped == ["film.scale", "film.shift"] and plain.fresh == []
        region = torch.tensor([1, 2])
        assert torch.equal(start(3)(x, region), net(x, region)) and start(3).dropped == []
        other = start(5)  # of other regions: its own start as if there were none
        assert torch.equal(other(x, region), plain(x)) and other.dropped == other.fresh == ["film.scale", "film.shift"]
    save_file(plain.state_dict(), file)
    assert torch.equal(start(3)(x, region), plain(x)) and start(3).fresh == ["film.scale", "film.shift"]


def given_to_head(net, x):
    x = net.stages(net.stem(net.contrast(x)) if hasattr(net, "stem") else x)
    return net.pool(x) if hasattr(net, "pool") else x


def test_a_training_tells_what_of_a_file_it_has_no_use_for(images, tmp_path, monkeypatch, capsys):
    def stop(*_):
        raise InputError("enough")

    monkeypatch.setattr("mura_fastai.training.fitting.fit_schedule", stop)
    net = StudyNet(create_net("mura_cnn", n_regions=3))
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    for views in (None, "attention"):
        with pytest.raises(InputError, match="enough"):
            train_run(images, tmp_path / "run", size=32, bs=8, store=False, weights=tmp_path / "w.safetensors",
                      views=views)  # fmt: skip
        assert "w.safetensors: not used: film.scale, film.shift" in capsys.readouterr().err


# ---------------------------------------------------------------- batches


def test_a_batch_is_studies_with_all_their_views(dls, images, store):
    x, region, study, views, label = dls.valid.one_batch()
    tune = images[images.split == "tune"]
    of = tune.drop_duplicates("study")
    assert study.tolist() == [study_code(s) for s in of.study] and label.tolist() == of.label.tolist()
    assert [dls.vocab[0][i] for i in region] == of.region.tolist()
    assert views.sum(1).tolist() == tune.groupby("study", sort=False).size().tolist()
    assert x.shape == (len(of), views.shape[1], 1, SIZE, SIZE) and views.any(0).all()
    single = mura_dls(images, SIZE, BS, store=store).valid
    alone = torch.cat([b[0] for b in single])
    assert torch.equal(x[views.bool()], alone) and (x[~views.bool()] == 0).all()


def test_batches_of_files_are_those_of_the_store(images, dls):
    files = mura_dls(images, SIZE, BS, by="study").valid.one_batch()
    assert all(torch.equal(a, b) for a, b in zip(files, dls.valid.one_batch(), strict=True))


def test_an_epoch_holds_every_study_once_in_a_new_order(dls):
    passes = [[s for b in dls.train for s in b[2].tolist()] for _ in range(2)]
    n = dls.train.items.study.nunique() // BS * BS
    assert len(dls.train) * BS == n and all(len(set(p)) == n for p in passes) and passes[0] != passes[1]


def test_two_processes_share_an_epoch_and_count_studies(images, store, monkeypatch):
    dl = mura_dls(images, SIZE, 2, store=store, by="study").valid
    monkeypatch.setattr(DistributedDL, "_broadcast", lambda self, idxs, rank: list(idxs))
    parts = [DistributedDL(dl, rank, 2) for rank in (0, 1)]
    seen = [torch.cat([b[2] for b in part]) for part in parts]
    assert torch.cat(seen)[: dl.n].tolist() == [study_code(s) for s in dl.items.study.unique()]
    assert [part.i for part in parts] == [len(s) for s in seen]


def test_training_takes_other_views_each_epoch_and_prediction_takes_all(images, store):
    dls = mura_dls(images, SIZE, BS, store=store, by="study", max_views=2)
    many = dls.train.items.groupby("study").size()
    many = set(many.index[many > 2])
    seen = {}
    for _ in range(4):
        assert all(b[0].shape[1] <= 2 for b in dls.train)
        rows = dls.train.items.iloc[dls.train.order]
        for study, views in rows.groupby("study").view:
            seen.setdefault(study, set()).add(tuple(views))
    assert all(len(view) == 2 for s in many & set(seen) for view in seen[s])
    assert sum(len(seen[s]) > 1 for s in many & set(seen)) > len(many) / 2
    assert dls.valid.one_batch()[3].sum() == len(dls.valid.items)


def test_every_view_is_augmented_by_a_draw_of_its_own_and_padding_by_none(images, store, monkeypatch):
    drawn, draw = [], AugmentXray.draw
    monkeypatch.setattr(AugmentXray, "draw", lambda self, n: drawn.append(n) or draw(self, n))
    x, *_, views, _ = mura_dls(images, SIZE, BS, store=store, by="study").train.one_batch()
    assert drawn == [int(views.sum())] and (x[~views.bool()] == 0).all()


def test_a_study_loses_its_bad_view_and_goes_where_none_is_left(images, tmp_path, dls):
    some = images[images.split == "valid"].reset_index(drop=True)
    study = some.study.value_counts()
    two, one = study.index[study > 1][0], study.index[study == 1][0]
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    bad = [some.index[some.study == two][0], some.index[some.study == one][0]]
    some.loc[bad, "path"] = str(broken)
    dl = dls.test_dl(some, bs=3, skip_bad=True, store=None)
    batches = list(dl)
    assert sum(int(b[3].sum()) for b in batches) == len(some) - 2 and len(dl.bad) == 2
    codes = [c for b in batches for c in b[2].tolist()]
    assert study_code(one) not in codes and len(codes) == len(study) - 1
    assert sorted(dl.order) == sorted(set(range(len(some))) - set(bad))


def test_weighted_studies_are_drawn_by_their_weight(images, store):
    wgts = images.label.astype(int) * 9 + 1
    dls = mura_dls(images, SIZE, BS, store=store, by="study", wgts=wgts)
    set_seed(0)
    drawn = torch.cat([b[4] for _ in range(6) for b in dls.train]).float().mean()
    assert drawn > dls.train.items.drop_duplicates("study").label.astype(float).mean() + 0.2
    sizes = dls.train.items.groupby("study").size()
    codes = {study_code(s): n for s, n in sizes.items()}
    for b in dls.train:  # a study that is drawn twice in a row stays two
        assert b[3].sum(1).tolist() == [codes[c] for c in b[2].tolist()]


@pytest.mark.parametrize(
    "kwargs, message",
    [(dict(by="patient"), "by 'patient'"), (dict(max_views=0), "max_views is 0"), (dict(bs=400), "training studies")],
)
def test_what_cannot_be_batches_of_studies_is_one_line(images, kwargs, message):
    with pytest.raises(InputError, match=message):
        mura_dls(images, **(dict(size=SIZE, bs=BS, by="study") | kwargs))


def test_batches_and_results_can_be_looked_at(dls):
    dls.show_batch(max_n=2)
    titles = [ax.get_title() for ax in plt.gcf().axes if ax.get_title()]
    assert titles[0].startswith("study 1, view 1\n") and any(t.startswith("study 2, view 1\n") for t in titles)
    learn = mura_learner(dls, tiny(), views="mean")
    with learn.no_bar(), learn.no_logging():
        learn.show_results(max_n=2)
        assert any("predicted" in ax.get_title() for ax in plt.gcf().axes)
        assert learn.predict(dls.valid.items.iloc[0])[0] in ("normal", "abnormal")
        assert len(learn.tta()[0]) == dls.valid.items.study.nunique()


# ---------------------------------------------------------------- learners


def test_the_loss_weighs_studies_and_pooling_needs_studies(images, dls, store):
    learn = mura_learner(dls, tiny(), views="attention")
    rows = dls.train.items.drop_duplicates("study")
    region = rows.region.value_counts().index[0]
    share = rows.label[rows.region == region].astype(float).mean()
    code = dls.vocab[0].o2i[region]
    assert learn.loss_func.weights[code].tolist() == pytest.approx([share, 1 - share], abs=1e-6)
    with pytest.raises(InputError, match="by='study'"):
        mura_learner(mura_dls(images, SIZE, BS, store=store), tiny(), views="mean")
    with pytest.raises(InputError, match="say how views are pooled"):
        mura_learner(dls, tiny())
    with pytest.raises(InputError, match="not compiled"):
        mura_learner(dls, tiny(), views="mean", compile=True)


def test_rates_by_layer_need_layers_of_the_network_of_images(dls):
    with pytest.raises(InputError, match="by_layer=True"):
        fit_schedule(mura_learner(dls, "mura_cnn", views="mean"), 1, 1e-3, layer_decay=0.5)
    with pytest.raises(InputError, match="networks of timm"):
        mura_learner(dls, StudyNet(tiny()), by_layer=True)


def test_a_pretrained_body_is_frozen_and_the_attention_learns_with_the_classifier(dls, tmp_path):
    save_file(timm_net("resnet18", pretrained=False).body.state_dict(), tmp_path / "w.safetensors")
    learn = mura_learner(dls, "resnet18", weights=tmp_path / "w.safetensors", views="attention")
    learning = {n for n, p in learn.model.named_parameters() if p.requires_grad and p.ndim > 1}
    assert learning == {"net.body.fc.weight", "pool.content.weight", "pool.gate.weight", "pool.score.weight"}


@pytest.mark.parametrize("views", POOLINGS)
def test_predictions_give_each_view_its_studys_probability_and_weight(dls, images, views):
    set_seed(0)
    learn = mura_learner(dls, tiny(), views=views)
    valid = images[images.split == "valid"].sample(frac=1, random_state=0)  # views of a study lie apart
    preds = predict_images(learn, valid)
    assert preds.path.tolist() == valid.path.tolist()
    by = preds.groupby("study")
    assert (by.p_abnormal.nunique() == 1).all() and by.attention.sum().to_numpy() == pytest.approx(1, abs=1e-6)
    pooled = to_studies(preds).set_index("study").p_abnormal
    assert pooled.to_numpy() == pytest.approx(by.p_abnormal.first()[pooled.index].to_numpy(), abs=1e-9)
    study = preds.study.iloc[0]
    alone = predict_images(learn, valid[valid.study == study], bs=1)
    assert alone.p_abnormal.to_numpy() == pytest.approx(preds.p_abnormal[preds.study == study].to_numpy(), abs=1e-6)
    assert alone.attention.to_numpy() == pytest.approx(preds.attention[preds.study == study].to_numpy(), abs=1e-5)
    assert learn.model.attention is None


def test_one_batch_can_be_learned_by_heart(dls):
    "Gradients reach attention and body: the loss of eight studies falls to a fraction."
    set_seed(0)
    learn = mura_learner(dls, MuraCNN(widths=(8, 16), grid=2, hidden=16, dropout=0.0), views="attention")
    x, region, _, views, y = dls.train.one_batch()
    opt, losses = torch.optim.Adam(learn.model.parameters(), 3e-3), []
    x, region, views, y = (t.as_subclass(torch.Tensor) for t in (x, region, views, y))
    for _ in range(40):
        loss = learn.loss_func(learn.model(x, region, views), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


# ---------------------------------------------------------------- runs


def test_a_run_says_how_it_pools_and_is_loaded_so(studied, images):
    assert read_settings(studied)["views"] == "attention"
    learn = load_run(studied)
    assert isinstance(learn.model, StudyNet) and learn.dls.by == "study"
    kept = pd.read_csv(studied / "predictions.csv")
    again = predict_images(learn, images[images.split == "valid"], bs=3)
    assert again.p_abnormal.to_numpy() == pytest.approx(kept.p_abnormal.to_numpy(), abs=1e-6)
    assert again.attention.to_numpy() == pytest.approx(kept.attention.to_numpy(), abs=1e-5)


def test_a_run_of_a_former_version_is_of_single_images(run, tmp_path):
    old = shutil.copytree(run, tmp_path / "old")
    text = (old / "settings.yaml").read_text(encoding="utf-8")
    assert "views: null\n" in text
    (old / "settings.yaml").write_text(text.replace("views: null\n", ""), encoding="utf-8")
    assert load_run(old).dls.by == "image"


def test_it_is_scored_compared_and_drawn_as_other_runs_are(studied, run, tmp_path):
    own = shutil.copytree(studied, tmp_path / "own")
    scores = evaluate_run(own, ci=None)
    assert scores.loc["overall", "n"] == pd.read_csv(own / "predictions.csv").study.nunique()
    table, names = compare_runs([own, run])
    assert len(table) and names == ["own", run.name]
    interp, figures = interpret_run(own, k=2)
    assert {"top_losses_studies.png", "top_losses_images.png"} <= {f.name for f in figures}
    with pytest.raises(InputError, match="not one recipe .*views attention"):
        compare_runs([f"{own},{run}", run])
    with pytest.raises(InputError, match="noisy-or"):
        calibrate_run(own, pool="noisy-or")


def test_attention_stands_beside_each_view(studied):
    interp = MuraInterpretation.from_run(studied)
    fig = interp.plot_top_losses(2, "study")
    told = [ax.get_xlabel() for ax in fig.axes if "attention" in ax.get_xlabel()]
    shown = interp.preds[interp.preds.study.isin(interp.top_losses(2, "study").study)]
    wanted = {
        f"view {v} · attention {a:.0%}".replace("%", " %") for v, a in zip(shown.view, shown.attention, strict=True)
    }
    assert set(told) == wanted and len(told) == len(shown)
    page, _ = cards(interp.top_losses(2, "study"), interp.preds, {None: studied})
    assert "attention" in str(page)


def test_heat_maps_are_of_every_view(studied):
    interp = MuraInterpretation.from_run(studied)
    rows = interp.preds.iloc[::-1]
    maps = interp.heat_maps(rows)
    assert len(maps) == len(rows) and all(m.ndim == 2 for m in maps)
    again = interp.heat_maps(rows.iloc[[4]])
    assert np.allclose(maps[4], again[0], atol=1e-5)


def test_the_page_answers_for_the_study_as_predict_does(studied, images, tmp_path):
    valid = images[images.split == "valid"]
    study = valid.study.value_counts().index[0]
    files = valid.path[valid.study == study].tolist()
    table = predict([studied], files, tmp_path / "p.csv")
    loaded = LoadedRun(studied)
    sent = [Sent(path, Path(path).read_bytes()) for path in files]
    answer = loaded.answer(sent, study.split("/")[0])
    assert answer.p_abnormal == pytest.approx(table.p_study.iloc[0], abs=1e-6)
    told = [next(n for n in v.notes if n.startswith("attention")) for v in answer.views]
    wanted = table.set_index("path").attention[files]
    assert [n.split(" of")[0] for n in told] == [f"attention {a:.0%}".replace("%", " %") for a in wanted]


def test_runs_of_both_kinds_together_give_the_mean_and_no_weights(studied, run, images, tmp_path):
    files = images.path[images.split == "valid"].tolist()[:6]
    apart = [predict([one], files, None) for one in (studied, run)]
    both = predict([studied, run], files, None)
    assert both.p_abnormal.to_numpy() == pytest.approx(sum(t.p_abnormal for t in apart).to_numpy() / 2, abs=1e-9)
    assert "attention" in apart[0] and "attention" not in both and "attention" not in apart[1]


def test_the_command_trains_predicts_and_says_what_is_wrong(mura, root, tmp_path):
    out = tmp_path / "run"
    options = ("--size", SIZE, "--epochs", 1, "--bs", BS, "--ci", "none", "-o", out)
    code, told, _ = mura("train", root, "--views", "max", *options)
    assert code == 0 and "overall" in told and read_settings(out)["views"] == "max"
    code, *_ = mura("predict", out, root / "valid" / "XR_WRIST", "-o", tmp_path / "p.csv")
    assert code == 0 and "attention" in pd.read_csv(tmp_path / "p.csv")
    code, _, err = mura("train", root, "--views", "sum", *options[:-1], tmp_path / "other")
    assert code == 2 and "mean, max, attention" in err and not (tmp_path / "other").exists()
