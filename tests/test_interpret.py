"Interpretation from a predictions table and from a Learner: counts, top losses, pictures."

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix, log_loss

from mura_fastai.errors import InputError
from mura_fastai.results.interpret import FIGURES, MuraInterpretation, figures
from mura_fastai.results.metrics import score
from mura_fastai.results.pictures import draw_picture, plain_text


@pytest.fixture(scope="module")
def preds(tmp_path_factory):
    "40 studies of 1 to 4 views in three regions, a small picture each."
    root, rng, rows = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0), []
    for i in range(40):
        region, label = ("XR_ELBOW", "XR_HAND", "XR_WRIST")[i % 3], int(i % 5 < 2)
        for view in range(1, 2 + i % 4):
            path = root / f"{i}_{view}.png"
            Image.fromarray(rng.integers(0, 255, (40 + i, 60), dtype=np.uint8)).save(path)
            p = np.clip(0.3 + 0.4 * label + 0.25 * rng.normal(), 0.01, 0.99)
            row = dict(
                path=str(path), split="valid", region=region, patient=f"p{i // 2}", study=f"{region}/p{i // 2}/study{i}"
            )
            rows.append(row | dict(view=view, label=label, p_abnormal=p))
    return pd.DataFrame(rows).astype({"label": "Int64"})


@pytest.fixture(scope="module")
def interp(preds):
    return MuraInterpretation(preds)


@pytest.fixture(autouse=True)
def no_figure_stays_and_no_setting_moves():
    before = dict(matplotlib.rcParams)
    yield
    assert dict(matplotlib.rcParams) == before
    plt.close("all")


def words(fig):
    "All that is written in a figure."
    fig.draw_without_rendering()
    return "\n".join(t.get_text() for t in fig.findobj(matplotlib.text.Text))


# ---------------------------------------------------------------- tables


def test_confusion_counts_images_and_studies_like_scikit_learn(interp, preds):
    y, p = preds["label"].to_numpy(int), preds["p_abnormal"]
    np.testing.assert_array_equal(interp.confusion_matrix("image"), confusion_matrix(y, p > 0.5))
    pooled = preds.groupby("study").agg({"label": "first", "p_abnormal": "mean", "region": "first"})
    for region in (None, "XR_HAND"):
        t = pooled if region is None else pooled[pooled["region"] == region]
        expected = confusion_matrix(t["label"].astype(int), t["p_abnormal"] > 0.3)
        np.testing.assert_array_equal(interp.confusion_matrix(region=region, threshold=0.3), expected)
    assert sum(interp.confusion_matrix(region=r).sum() for r in interp.regions) == 40


def test_confusion_and_scores_tell_the_same(preds):
    interp = MuraInterpretation(preds, threshold=0.4, pool="max")
    cm, row = interp.confusion_matrix(), interp.scores(ci=None).loc["overall"]
    assert row["sensitivity"] == cm[1, 1] / cm[1].sum() and row["specificity"] == cm[0, 0] / cm[0].sum()
    pd.testing.assert_series_equal(row, score(preds, ci=None, threshold=0.4, pool="max").loc["overall"])


def test_top_losses_are_plain_cross_entropy_and_sorted(interp):
    for level, n in (("image", len(interp.preds)), ("study", 40)):
        top = interp.top_losses(level=level)
        assert len(top) == n and top["loss"].is_monotonic_decreasing
        assert top["loss"].mean() == pytest.approx(log_loss(top["label"].astype(int), top["p_abnormal"]))
        assert interp.top_losses(3, level, largest=False)["loss"].is_monotonic_increasing
    assert len(interp.top_losses(4)) == 4 and len(interp.losses) == len(interp.preds)


def test_most_confused_lists_kinds_of_error_as_fastai_does(interp):
    errors = interp.most_confused()
    assert [e[2] for e in errors] == sorted((e[2] for e in errors), reverse=True)
    cm = interp.confusion_matrix()
    assert sum(e[2] for e in errors) == cm[0, 1] + cm[1, 0]
    worst = errors[0]
    region, true = worst[0].split()
    i = ["normal", "abnormal"].index(true)
    assert worst[1] != true and interp.confusion_matrix(region=region)[i, 1 - i] == worst[2]
    assert not interp.most_confused(min_val=99)


def test_rows_without_a_label_are_kept_but_not_counted(preds):
    unknown = preds.assign(label=preds["label"].mask(preds["region"] == "XR_HAND"))
    interp = MuraInterpretation(unknown)
    assert len(interp.preds) == len(preds) and interp.regions == ["XR_ELBOW", "XR_WRIST"]
    assert interp.confusion_matrix("image").sum() == (preds["region"] != "XR_HAND").sum()
    assert interp.top_losses()["loss"].notna().all()


def test_what_cannot_be_shown_is_refused_by_name(interp, preds):
    with pytest.raises(InputError, match="study or image"):
        interp.confusion_matrix("patient")
    with pytest.raises(InputError, match="XR_ELBOW, XR_HAND, XR_WRIST"):
        interp.confusion_matrix(region="XR_KNEE")
    with pytest.raises(InputError, match="has a label"):
        MuraInterpretation(preds.drop(columns="label")).confusion_matrix()
    with pytest.raises(InputError, match="no column path"):
        MuraInterpretation(interp.studies).plot_top_losses(2)


def test_the_table_that_was_given_is_not_changed(preds):
    before = preds.copy()
    MuraInterpretation(preds).top_losses(3)
    pd.testing.assert_frame_equal(preds, before)


def test_the_classification_report_is_the_region_table(interp, capsys):
    interp.print_classification_report()
    said = capsys.readouterr().out
    assert all(name in said for name in ("XR_ELBOW", "overall", "macro", "AUROC", "["))


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("level", ["study", "image"])
def test_counts_and_rates_are_both_written(interp, level):
    cm = interp.confusion_matrix(level)
    for normalize in (False, True):
        said = words(interp.plot_confusion_matrix(level, normalize=normalize))
        assert f"{cm[1, 0]}" in said and f"{cm[1, 0] / cm[1].sum():.0%}" in said
    said = words(interp.plot_confusion_matrix(level, by_region=True))
    assert all(f"{r}, n = " in said for r in interp.regions) and "all regions" in said


def test_top_images_say_label_prediction_probability_and_region(interp):
    worst = interp.top_losses(1).iloc[0]
    fig = interp.plot_top_losses(4)
    said = words(fig)
    assert f"p = {worst['p_abnormal']:.2f}, loss {worst['loss']:.2f}" in said
    assert worst["region"] in said and "true " in said and "predicted " in said and worst["study"] in said
    assert "may not be shared" in said
    assert sum(len(ax.images) for ax in fig.axes) == 4


def test_top_studies_show_all_their_views(interp):
    worst = interp.top_losses(2, "study")
    fig = interp.plot_top_losses(2, level="study")
    assert sum(len(ax.images) for ax in fig.axes) == worst["n_views"].sum()
    views = interp.preds[interp.preds["study"] == worst["study"].iloc[0]]
    assert all(f"p = {p:.2f}" in words(fig) for p in views["p_abnormal"])


def test_studies_of_one_view_fill_a_page(preds):
    interp = MuraInterpretation(preds[preds["view"] == 1])
    fig = interp.plot_top_losses(6, level="study")
    assert sum(len(ax.images) for ax in fig.axes) == 6 and fig.get_figwidth() > 8
    assert all(s in words(fig) for s in interp.top_losses(6, "study")["study"])


def test_a_missing_picture_is_a_grey_box_and_a_hostile_name_is_text(preds, tmp_path):
    bad = preds[:3].assign(study=["$\\frac{1}$/a", "two\nlines", "<script>" * 20], region="$x_{0}$", label=[0, 1, 0])
    bad["path"] = [str(tmp_path / "gone.png"), str(tmp_path / "$^$.png"), preds["path"].iloc[2]]
    (tmp_path / "$^$.png").write_bytes(b"<html>")
    for level in ("image", "study"):
        fig = MuraInterpretation(bad).plot_top_losses(3, level=level)
        fig.canvas.draw()  # a formula would fail here
        said = words(fig)
        assert said.count("picture not available") == 2 and "missing" in said and "$\\frac{1}$/a" in said
        assert sum(len(ax.images) for ax in fig.axes) == 1
    MuraInterpretation(bad).plot_confusion_matrix(by_region=True).canvas.draw()
    MuraInterpretation(bad).plot_roc().canvas.draw()


def test_names_are_cut_in_the_middle():
    assert plain_text("short/image1.png") == "short/image1.png"
    long = plain_text("XR_WRIST/" + "x" * 99 + "/image7.png", 30)
    assert len(long) == 30 and long.startswith("XR_WRIST/") and long.endswith("/image7.png")
    assert plain_text("a\nb\x00c\u4e2d\udcff") == "a?b?c??"


def test_a_large_picture_is_kept_small(tmp_path):
    Image.fromarray(np.zeros((3000, 1000), np.uint8)).save(tmp_path / "large.png")
    fig, ax = plt.subplots()
    draw_picture(ax, tmp_path / "large.png")
    assert max(ax.images[0].get_array().shape) <= 512
    assert (
        ax.get_xlim()[1] - ax.get_xlim()[0] == ax.get_ylim()[0] - ax.get_ylim()[1]
    )  # a square, the bone not stretched


def test_one_class_regions_are_named_not_drawn(preds):
    one = preds[(preds["region"] != "XR_HAND") | (preds["label"] == 0)]
    interp = MuraInterpretation(one)
    for fig in (interp.plot_roc(), interp.plot_confusion_matrix(by_region=True), interp.plot_scores(n_boot=50)):
        fig.canvas.draw()
        assert "n/a (one class)" in words(fig)


def test_figures_of_a_run_are_written_and_closed(interp, tmp_path):
    open_before = plt.get_fignums()
    written = figures(interp, tmp_path / "new" / "figures", k=3)
    assert [f.name for f in written] == list(FIGURES)
    for f in written:
        with Image.open(f) as im:
            assert im.format == "PNG" and min(im.size) > 200
    assert plt.get_fignums() == open_before
    tables_only = figures(MuraInterpretation(interp.studies), tmp_path / "studies")
    assert [f.name for f in tables_only] == [name for name in FIGURES if not name.startswith("top_losses")]


# ---------------------------------------------------------------- from a Learner


def test_from_a_learner_it_holds_the_predictions_of_its_rows(preds):
    from mura_fastai.data.loaders import mura_dls
    from mura_fastai.results.predict import predict_images
    from mura_fastai.training.learner import mura_learner

    images = preds.drop(columns="p_abnormal").assign(
        split=np.where(preds["patient"].isin(["p0", "p3", "p7"]), "tune", "train")
    )
    learn = mura_learner(mura_dls(images, size=32, bs=8, num_workers=0), "mura_cnn")
    interp = MuraInterpretation.from_learner(learn, threshold=0.4)
    tune = images[images["split"] == "tune"]
    assert list(interp.preds["path"]) == list(tune["path"]) and interp.learn is learn and interp.threshold == 0.4
    np.testing.assert_allclose(interp.preds["p_abnormal"], predict_images(learn, tune)["p_abnormal"], atol=1e-6)
    assert interp.confusion_matrix("image").sum() == len(tune)
    train = MuraInterpretation.from_learner(learn, ds_idx=0)
    assert set(train.preds["split"]) == {"train"} and len(train.preds) == (images["split"] == "train").sum()
