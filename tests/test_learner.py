"""The learner: the published loss, scores of studies, errors instead of NaN, and what fastai users know."""

import itertools

import numpy as np
import pandas as pd
import pytest
import timm
import torch
import torch.nn.functional as F
from fastai.callback.core import Callback
from fastai.torch_core import set_seed
from safetensors.torch import save_file
from sklearn.metrics import cohen_kappa_score, log_loss, roc_auc_score
from torch import nn

from mura_fastai.data.loaders import mura_dls
from mura_fastai.errors import InputError, TrainingError
from mura_fastai.models.cnn import MuraCNN
from mura_fastai.results.heatmaps import heat_maps
from mura_fastai.results.predict import predict_images
from mura_fastai.training.learner import RegionWeightedBCE, mura_learner, study_auroc

SIZE, BS = 40, 16
TRAIN_COUNTS = dict(  # published images of MURA's train split: normal, abnormal
    XR_ELBOW=(2925, 2006), XR_FINGER=(3138, 1968), XR_FOREARM=(1164, 661), XR_HAND=(4059, 1484),
    XR_HUMERUS=(673, 599), XR_SHOULDER=(4211, 4168), XR_WRIST=(5765, 3987),
)  # fmt: skip


def tiny():
    return MuraCNN(widths=(4, 8), grid=2, hidden=8)


def learner(images, net=None, seed=0, **kwargs):
    set_seed(seed)
    return mura_learner(mura_dls(images, SIZE, BS), net or tiny(), **kwargs)


def quietly(learn, method, *args, **kwargs):
    with learn.no_bar(), learn.no_logging():
        return getattr(learn, method)(*args, **kwargs)


# ---------------------------------------------------------------- the loss


@pytest.fixture(scope="module")
def mura_loss():
    labels = [(r, y) for r, counts in TRAIN_COUNTS.items() for y in (0, 1) for _ in range(counts[y])]
    table = pd.DataFrame(labels, columns=["region", "label"]).astype({"label": "Int64"})
    return RegionWeightedBCE.from_images(table, ["#na#", *sorted(TRAIN_COUNTS)])


def test_the_weights_are_the_published_ones(mura_loss):
    weight = dict(zip(["#na#", *sorted(TRAIN_COUNTS)], mura_loss.weights.tolist(), strict=True))
    assert weight["XR_WRIST"][1] == pytest.approx(5765 / 9752) and weight["XR_WRIST"][0] == pytest.approx(3987 / 9752)
    assert weight["XR_HAND"][1] == pytest.approx(4059 / 5543) and weight["XR_HAND"][0] == pytest.approx(1484 / 5543)
    normal, abnormal = (sum(c[y] for c in TRAIN_COUNTS.values()) for y in (0, 1))
    assert weight["#na#"] == pytest.approx([abnormal / 36808, normal / 36808])


def test_the_loss_is_scikit_learns_with_sample_weights(mura_loss):
    rng = np.random.default_rng(0)
    logits, labels, regions = rng.normal(0, 3, (50, 1)), rng.integers(0, 2, 50), rng.integers(1, 8, 50)
    probs = 1 / (1 + np.exp(-logits[:, 0]))
    names = ["#na#", *sorted(TRAIN_COUNTS)]
    counts = [TRAIN_COUNTS.get(n) for n in names]
    weights = np.array([counts[r][1 - y] / sum(counts[r]) for r, y in zip(regions, labels, strict=True)])
    ours = mura_loss(torch.tensor(logits), torch.tensor(labels), torch.tensor(regions)).item()
    total = log_loss(labels, probs, sample_weight=weights, labels=[0, 1], normalize=False)
    assert ours == pytest.approx(total / 50, rel=1e-5)
    by_hand = -weights * np.where(labels == 1, np.log(probs), np.log(1 - probs))
    each = RegionWeightedBCE(mura_loss.weights, reduction="none")
    rows = each(torch.tensor(logits), torch.tensor(labels), torch.tensor(regions))
    np.testing.assert_allclose(rows, by_hand, rtol=1e-4)


def test_without_a_region_all_weigh_one(mura_loss):
    logits, labels = torch.randn(9, 1), torch.randint(0, 2, (9,))
    plain = F.binary_cross_entropy_with_logits(logits[:, 0], labels.float())
    torch.testing.assert_close(mura_loss(logits, labels), plain)


def test_in_training_the_region_of_each_row_reaches_the_loss(images):
    learn, seen = learner(images), []

    class Watch(Callback):
        def after_loss(self):
            each = F.binary_cross_entropy_with_logits(self.pred[:, 0], self.yb[0].float(), reduction="none")
            rows = self.dl.batch_rows(self.iter)
            known = self.dls.train.items
            share = rows.region.map(known.label.astype(float).groupby(known.region).mean()).to_numpy()
            weight = np.where(rows.label == 1, 1 - share, share)
            seen.append((self.loss.item(), float((each.detach() * torch.tensor(weight)).mean())))

        order = 50
        run_valid = False

    quietly(learn, "fit", 1, 1e-3, cbs=Watch())
    assert len(seen) == len(learn.dls.train)
    for loss, expected in seen:
        assert loss == pytest.approx(expected, rel=1e-4)


def test_one_class_in_a_region_gives_no_nan():
    table = pd.DataFrame({"region": ["a", "a", "b"], "label": [1, 1, 0]}).astype({"label": "Int64"})
    loss = RegionWeightedBCE.from_images(table, ["#na#", "a", "b"])
    assert loss(torch.zeros(3, 1), torch.tensor([1, 1, 0]), torch.tensor([1, 1, 2])).isfinite()


def test_whoever_knows_only_the_region_is_told_its_share_of_abnormal_images():
    rows = [("a", 1)] * 3 + [("a", 0)] * 9 + [("b", 1)] * 6 + [("b", 0)] * 2 + [("c", 1)] * 4
    table = pd.DataFrame(rows, columns=["region", "label"]).astype({"label": "Int64"})
    loss = RegionWeightedBCE.from_images(table, ["#na#", "a", "b", "c"])
    shares = loss.unweigh(torch.full((4,), 0.5), torch.arange(4))
    # c was seen with one label only: its share is nobody's knowledge, and that of all stands in
    assert shares.tolist() == pytest.approx([13 / 24, 3 / 12, 6 / 8, 13 / 24])
    certain = loss.unweigh(torch.tensor([0.0, 1.0]), torch.tensor([1, 1]))
    assert certain.tolist() == pytest.approx([0, 1])


# ---------------------------------------------------------------- scores of studies


def studies_of(learn, ds_idx):
    "What scikit-learn says of the probabilities, averaged over the views of each study."
    dl = learn.dls[ds_idx]
    with learn.no_bar():
        probs = learn.get_preds(dl=learn.dls.test_dl(dl.items))[0].numpy()
    # The loss makes every region look balanced; its share of abnormal training images, as prior odds, mends that.
    train = learn.dls.train.items
    prior = dl.items.region.map(train.label.astype(float).groupby(train.region).mean()).to_numpy(float)
    odds = probs / (1 - probs) * prior / (1 - prior)
    rows = dl.items.assign(p=odds / (1 + odds)).groupby("study").agg({"label": "first", "p": "mean"})
    return rows.label.astype(int), rows.p


def test_the_scores_of_an_epoch_are_of_tunes_studies(images):
    # all rows that are not trained on, so that there are studies of both labels
    learn = learner(images.assign(split=images.split.replace({"valid": "tune"})))
    quietly(learn, "fit", 1, 1e-2)
    assert learn.recorder.metric_names[1:-1] == ["train_loss", "valid_loss", "kappa", "auroc"]
    _, _, kappa, auroc = learn.recorder.values[-1]
    labels, p = studies_of(learn, 1)
    assert auroc == pytest.approx(roc_auc_score(labels, p))
    assert kappa == pytest.approx(cohen_kappa_score(labels, p > 0.5))
    assert len(labels) < len(learn.dls.valid.items)


def test_scores_of_the_shuffled_rows_belong_to_their_studies(images):
    learn = learner(images)
    shuffled = learn.dls.test_dl(learn.dls.train.items, with_labels=True, shuffle=True)
    _, _, auroc = quietly(learn, "validate", dl=shuffled)
    assert auroc == pytest.approx(roc_auc_score(*studies_of(learn, 0)))


def test_one_class_on_tune_is_not_a_number_and_no_error(images):
    learn = learner(images.assign(label=images.label.mask(images.split == "tune", 0)))
    quietly(learn, "fit", 1, 1e-3)
    assert np.isnan(learn.recorder.values[-1][-1])


def test_only_tune_is_validated_on(images):
    learn, seen = learner(images), set()

    class Watch(Callback):
        def after_batch(self):
            if not self.training:
                seen.update(self.dl.batch_rows(self.iter).path)

    quietly(learn, "fit", 1, 1e-3, cbs=Watch())
    assert seen == set(images.path[images.split == "tune"])
    rows = pd.concat([dl.items for dl in learn.dls.loaders])
    assert not set(rows.path) & set(images.path[images.split == "valid"])


# ---------------------------------------------------------------- a loss that is no number


@pytest.mark.parametrize(("batch", "epoch", "value"), [(0, 0, np.nan), (3, 0, np.inf), (2, 1, np.nan)])
def test_a_loss_that_is_no_number_names_epoch_batch_and_images(images, batch, epoch, value):
    learn = learner(images)
    per_epoch = len(learn.dls.train)
    calls, rows = itertools.count(), []

    class Poison(Callback):
        order = -10

        def after_loss(self):
            if self.training and next(calls) == epoch * per_epoch + batch:
                rows.extend(self.dl.batch_rows(self.iter).path)
                self.learn.loss_grad = self.learn.loss = self.loss * value

    with pytest.raises(TrainingError) as e:
        quietly(learn, "fit", 3, 1e-3, cbs=Poison())
    told = str(e.value)
    assert f"epoch {epoch}, batch {batch} (images {rows[0]} and {BS - 1} more)" in told
    assert "lower the learning rate" in told and "\n" not in told


def test_no_step_is_taken_on_a_loss_that_is_no_number(images):
    learn = learner(images)
    with pytest.raises(TrainingError, match="the loss is not a number"):
        quietly(learn, "fit", 3, 1e30)  # diverges by itself
    seen = learn.recorder.losses
    assert all(np.isfinite(float(x)) for x in seen)


def test_the_search_for_a_learning_rate_may_diverge(images, tmp_path):
    learn = learner(images, path=tmp_path)  # fastai leaves a folder there
    found = quietly(learn, "lr_find", end_lr=1e4, num_it=30, show_plot=False)
    assert 1e-7 < found.valley < 1e4


def test_a_training_set_below_one_batch_is_refused(images):
    with pytest.raises(InputError, match="less than one batch of 999; lower the batch size"):
        mura_dls(images, SIZE, 999)


# ---------------------------------------------------------------- what fastai users know


@pytest.mark.parametrize("method", ["fit_one_cycle", "fine_tune", "fit_flat_cos"])
def test_fastais_recipes_run_and_change_the_weights(images, method):
    learn = learner(images)
    before = {k: v.clone() for k, v in learn.model.state_dict().items()}
    quietly(learn, method, 1)
    assert any(not torch.equal(v, before[k]) for k, v in learn.model.named_parameters())
    assert np.isfinite(learn.recorder.values[-1][:2]).all()


def test_callbacks_and_arguments_of_the_learner_are_passed_on(images):
    class Count(Callback):
        n = 0

        def after_epoch(self):
            self.n += 1

    count = Count()
    learn = learner(images, cbs=count, wd=0.3, moms=(0.9, 0.8, 0.9), loss_func=torch.nn.BCEWithLogitsLoss(), metrics=[])
    assert learn.wd == 0.3 and learn.moms == (0.9, 0.8, 0.9) and isinstance(learn.loss_func, torch.nn.BCEWithLogitsLoss)
    assert count in learn.cbs and not list(learn.metrics)


def weights_after(images, seed):
    learn = learner(images, seed=seed)
    quietly(learn, "fit_one_cycle", 1, 1e-2)
    return torch.cat([p.detach().flatten() for p in learn.model.parameters()])


def test_the_same_seed_gives_the_same_weights_to_the_last_bit(images):
    assert torch.equal(weights_after(images, 0), weights_after(images, 0))
    assert not torch.equal(weights_after(images, 0), weights_after(images, 1))


# ---------------------------------------------------------------- pretrained networks


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    save_file(timm.create_model("resnet18").state_dict(), file)
    return file


def pretrained(images, weights):
    set_seed(0)
    return mura_learner(mura_dls(images, SIZE, BS), "resnet18", weights=weights)


def convolutions(learn):
    return {n: p.detach().clone() for n, p in learn.model.named_parameters() if p.ndim == 4}


def classifier(learn):
    return learn.model.body.get_classifier().weight


def test_a_pretrained_body_starts_frozen_and_its_classifier_learns(images, weights):
    learn = pretrained(images, weights)
    before, head = convolutions(learn), classifier(learn).detach().clone()
    quietly(learn, "fit", 1, 1e-2)
    after = convolutions(learn)
    assert all(torch.equal(before[n], after[n]) for n in before)
    assert not torch.equal(classifier(learn), head)


def test_fine_tune_trains_the_head_first_and_then_all(images, weights):
    learn = pretrained(images, weights)
    before, changed = convolutions(learn), []

    class Watch(Callback):
        def after_epoch(self):
            now = convolutions(self.learn)
            changed.append(sum(not torch.equal(before[n], now[n]) for n in before))

    quietly(learn, "fine_tune", 1, freeze_epochs=1, cbs=Watch())
    assert changed == [0, len(before)]


def test_learning_rates_reach_their_groups(images, weights):
    learn, seen = pretrained(images, weights), []
    learn.unfreeze()

    class Watch(Callback):
        def before_step(self):
            seen.append([h["lr"] for h in self.opt.hypers])

    quietly(learn, "fit", 1, slice(1e-5, 1e-3), cbs=Watch())
    assert seen[0] == pytest.approx([1e-5, 1e-4, 1e-3])
    groups = [{id(p) for p in group} for group in learn.opt.param_lists]
    assert id(learn.model.body.conv1.weight) in groups[0]
    assert id(learn.model.body.layer4[1].conv2.weight) in groups[1]
    assert id(classifier(learn)) in groups[2]


def test_random_weights_are_not_frozen(images):
    set_seed(0)
    learn = mura_learner(mura_dls(images, SIZE, BS), "resnet18", pretrained=False)
    before = convolutions(learn)
    quietly(learn, "fit", 1, 1e-3)
    after = convolutions(learn)
    assert all(not torch.equal(before[n], after[n]) for n in before)


def test_the_loaders_scale_as_the_network_was_trained(images):
    set_seed(0)
    raw = mura_dls(images, SIZE, BS, batch_tfms=[]).valid.one_batch()[0].float() / 255
    dls, learns = mura_dls(images, SIZE, BS), {}
    for arch, mean, std in (("vit_tiny_patch16_224", 0.5, 0.5), ("resnet18", 0.449, 0.226), ("mura_cnn", 0.449, 0.226)):
        learns[mean, std, arch] = mura_learner(dls, arch, pretrained=False)
    # each of them still, though all were made of the same loaders
    for (mean, std, arch), learn in learns.items():
        torch.testing.assert_close(
            learn.dls.valid.one_batch()[0].float(), (raw - mean) / std, rtol=1e-3, atol=5e-3, msg=arch
        )
        few = learn.dls.test_dl(images[images.split == "valid"].iloc[:2])
        assert few.one_batch()[0].min().item() == pytest.approx(-mean / std, abs=0.01)  # black
    assert learns[0.449, 0.226, "mura_cnn"].dls is dls


def test_weights_of_rows_come_along_where_a_network_scales_otherwise(images):
    dls = mura_dls(images, SIZE, BS, wgts=(images.label == 1).astype(float))
    vit = mura_learner(dls, "vit_tiny_patch16_224", pretrained=False)
    list(vit.dls.train)
    assert set(vit.dls.train.items.label.iloc[vit.dls.train.order]) == {1}


def test_weights_beside_a_module_are_refused(images, weights):
    with pytest.raises(InputError, match="weights= goes with a network's name"):
        mura_learner(mura_dls(images, SIZE, BS), tiny(), weights=weights)


def test_answers_on_tune_that_are_no_numbers_stop_the_training_in_words():
    metric = study_auroc()
    metric.rows = [[torch.tensor([0.2, float("nan")]), torch.tensor([0, 1]), torch.tensor([1, 2])]]
    with pytest.raises(TrainingError, match="1 of 2 answers on tune are not numbers; lower the learning rate"):
        _ = metric.value


# ---------------------------------------------------------------- networks of one's own


class Alone(nn.Module):
    "Takes the picture alone."

    def __init__(self):
        super().__init__()
        self.conv, self.end = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 1)

    def forward(self, x):
        return self.end(self.conv(x).relu().mean((2, 3)))


class Both(Alone):
    "Is told the region too, and keeps what it was told."

    def forward(self, x, code):
        self.told = code
        return super().forward(x)


BROUGHT = {
    "sequential": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1)
    ),
    "alone": Alone,
    "timm": lambda: timm.create_model("resnet10t", in_chans=1, num_classes=1),
    "timm, more arguments": lambda: timm.create_model("vit_tiny_patch16_224", in_chans=1, num_classes=1, img_size=48,
                                                      depth=1, embed_dim=12, num_heads=1),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROUGHT)
def test_a_network_that_takes_the_picture_alone_learns_predicts_and_is_looked_into(images, tmp_path, kind):
    net = BROUGHT[kind]()
    table = pd.concat([images[images.split == s].head(20) for s in ("train", "tune")])
    learn = mura_learner(mura_dls(table, 48, 16), net, path=tmp_path)
    before = [p.detach().clone() for p in net.parameters()]
    quietly(learn, "fine_tune", 1)
    assert any(not torch.equal(b, p) for b, p in zip(before, net.parameters(), strict=True)), "it is this very network"
    p = predict_images(learn, images.head(3)).p_abnormal
    assert p.between(0, 1).all()
    if "more" not in kind:  # tokens are no map of places
        assert heat_maps(learn, images.head(1))[0].ndim == 2
    learn.save("kept")
    again = mura_learner(mura_dls(table, 48, 16), BROUGHT[kind](), path=tmp_path).load("kept")
    assert predict_images(again, images.head(3)).p_abnormal.tolist() == pytest.approx(p.tolist())


def test_a_network_that_takes_the_region_is_told_it(images):
    net = Both()
    learn = learner(images, net)
    assert learn.model is net
    quietly(learn, "fit", 1)
    assert net.told.dtype == torch.long and net.told.max() >= 1


def test_another_number_of_outputs_is_told(images):
    with pytest.raises(InputError, match="32 numbers for 16 rows, not one logit each"):
        quietly(learner(images, nn.Sequential(nn.Flatten(), nn.Linear(SIZE * SIZE, 2))), "fine_tune", 1)
    with pytest.raises(InputError, match="resnet10t has 1000 outputs.*num_classes=1"):
        learner(images, timm.create_model("resnet10t", in_chans=1))
