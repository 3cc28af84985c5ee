"Interpretation from a predictions table, a Learner and a run: counts, top losses, pictures, heat maps."

import gc
import shutil
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix, log_loss

from mura_fastai.bench.growth import memory
from mura_fastai.data.pixels import read_grey
from mura_fastai.errors import InputError
from mura_fastai.results import interpret, pages, pictures
from mura_fastai.results.figures import FIGURES, figures, known_figures
from mura_fastai.results.heatmaps import heat_maps
from mura_fastai.results.interpret import MuraInterpretation
from mura_fastai.results.metrics import score
from mura_fastai.results.pictures import draw_picture, plain_text
from mura_fastai.results.scoring import decision_of, predictions_of
from mura_fastai.text import with_interval
from mura_fastai.training.runs import load_run


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
    assert sum(len(ax.images) for ax in fig.axes) == 6 and len({ax.get_position().x0 for ax in fig.axes}) == 3
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


def test_figures_of_a_table_are_written_and_closed(interp, tmp_path):
    open_before = plt.get_fignums()
    written = figures(interp, tmp_path / "new" / "figures", k=3, dpi=80)
    assert [f.name for f in written] == [name for name in FIGURES if name != "history.png"]
    for f in written:
        with Image.open(f) as im:
            assert im.format == "PNG" and min(im.size) > 200
    assert plt.get_fignums() == open_before
    pictures = {name for name, (_, _, holds) in FIGURES.items() if holds}
    assert pictures == {"top_losses_images.png", "top_losses_studies.png"}
    tables_only = figures(MuraInterpretation(interp.studies), tmp_path / "studies")
    assert [f.name for f in tables_only] == [f.name for f in written if f.name not in pictures]


def test_figures_that_were_promised_to_scripts_keep_their_names():
    old = "confusion_matrix confusion_by_region roc scores top_losses_images top_losses_studies"
    new = "precision_recall calibration thresholds probabilities regions history"
    assert {f"{name}.png" for name in (old + " " + new).split()} == set(FIGURES)


def hostile_table(preds, tmp_path):
    "One study of each of three regions with awkward names, two of one class; one picture is gone."
    bad = preds[:4].assign(label=[0, 1, 0, 0], view=1)
    bad["study"] = ["$\\frac{1}$/a", "<script>alert(1)</script>", "b\udcff\n", "=cmd"]
    bad["region"], bad["patient"] = ["$x_{0}$", "$x_{0}$", "<b>", "c\udcff"], ["p", "p", "q", None]
    bad["path"] = [str(tmp_path / "gone.png"), *preds["path"][1:4]]
    return bad


AWKWARD = {
    "hostile": hostile_table,
    "one study": lambda preds, _: preds[preds["study"] == preds["study"].iloc[1]],
    "perfect": lambda preds, _: preds.assign(p_abnormal=preds["label"].astype(float)),
    "no region, no patient": lambda preds, _: preds.drop(columns=["region", "patient"]),
    "all alike": lambda preds, _: preds.assign(p_abnormal=0.5),
}


@pytest.mark.parametrize("name", AWKWARD)
def test_every_figure_is_drawn_of_awkward_tables(preds, tmp_path, name):
    interp = MuraInterpretation(AWKWARD[name](preds, tmp_path))
    assert len(figures(interp, tmp_path / "figures", k=2, dpi=40)) == len(FIGURES) - 1
    if name == "hostile":
        said = words(interp.plot_roc("image"))
        assert "n/a (one class)" in said and "$x_{0}$" in said and "c?" in said


def test_curves_are_of_the_level_and_region_that_was_asked_for(interp):
    for level, table in (("study", interp.studies), ("image", interp.preds)):
        for draw in (interp.plot_roc, interp.plot_precision_recall, interp.plot_calibration, interp.plot_thresholds):
            assert f"{len(table)} {'studies' if level == 'study' else 'images'} of 20 patients" in words(draw(level))
        hand = table[table["region"] == "XR_HAND"]
        assert f"{len(hand)} " in words(interp.plot_probabilities(level, "XR_HAND"))
    with pytest.raises(InputError, match="XR_ELBOW"):
        interp.plot_roc(region="XR_KNEE")


def test_a_curve_says_the_same_scores_as_the_region_table(interp):
    row = interp.scores().loc["overall"]
    said = words(interp.plot_roc()) + words(interp.plot_precision_recall()) + words(interp.plot_thresholds())
    for name in ("auroc", "average_precision", "kappa", "specificity"):
        assert with_interval(row[name], row[f"{name}_lo"], row[f"{name}_hi"], 2) in said


def test_most_confused_regions_are_ranked_by_what_is_sure(interp):
    errors = interp.region_errors()
    cm = {r: interp.confusion_matrix(region=r) for r in interp.regions}
    for region, row in errors.iterrows():
        assert (row["missed"], row["missed_of"]) == (cm[region][1, 0], cm[region][1].sum())
        assert (row["false_alarms"], row["wrong_of"]) == (cm[region][0, 1], cm[region].sum())
        assert row["wrong_lo"] <= row["wrong_share"] <= row["wrong_hi"]
    assert errors["wrong_lo"].is_monotonic_decreasing
    small = pd.DataFrame(dict(study=["a", "b"], patient=["a", "b"], region="tiny", label=1, p_abnormal=0.1))
    many = [dict(study=f"s{i}", patient=f"s{i}", region="large", label=i % 2, p_abnormal=0.4) for i in range(60)]
    told = MuraInterpretation(pd.concat([small, pd.DataFrame(many)])).region_errors()
    assert list(told.index) == ["large", "tiny"] and told.loc["tiny", "wrong_share"] == 1  # 2 of 2 against 30 of 60


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


@pytest.fixture(scope="module")
def of_run(run):
    return MuraInterpretation.from_run(run)


def test_from_a_run_it_holds_what_the_run_predicts_and_decides(run, of_run, tmp_path):
    kept = predictions_of(run)
    assert set(of_run.preds["split"]) == {"valid"} and of_run.decision == decision_of(run) and of_run.learn is None
    np.testing.assert_array_equal(of_run.given["p_abnormal"], kept["p_abnormal"])
    assert known_figures(of_run) == list(FIGURES)
    assert "kept: epoch 1" in words(of_run.plot_history())
    with pytest.raises(InputError, match="no run is known"):
        MuraInterpretation(kept).plot_history()
    assert words(MuraInterpretation(kept).plot_history(run)) == words(of_run.plot_history())
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "history.csv").unlink()
    assert "history.png" not in known_figures(MuraInterpretation(kept, run=copy))
    with pytest.raises(InputError, match=r"history\.csv"):
        of_run.plot_history(copy)


def pixels_of(fig):
    "The pictures of a figure, and whether each has colour."
    pictures = [np.asarray(im.get_array()) for ax in fig.axes for im in ax.images]
    return [(p, p.ndim == 3 and bool((p.max(-1) != p.min(-1)).any())) for p in pictures]


def test_top_losses_stand_beside_their_heat_maps(run, of_run):
    fig = of_run.plot_top_losses(3, heat="hirescam")
    said = words(fig)
    assert "none" in said and "strongest of each picture" in said and "speaks for abnormal" in said
    assert len(pixels_of(fig)) == 3 * 2 + 1  # plain, with heat, and the bar
    maps = of_run.heat_maps(of_run.top_losses(3), method="hirescam")
    assert len(maps) == 3 and all(m.ndim == 2 and m.min() >= 0 for m in maps)
    coloured = [is_coloured for _, is_coloured in pixels_of(fig)]
    assert coloured == [o for m in maps for o in (False, m.max() > 0)] + [True]
    expected = heat_maps(load_run(run), of_run.top_losses(3), method="hirescam")
    for a, b in zip(maps, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_heat_maps_of_a_study_share_one_scale(of_run, monkeypatch):
    worst = of_run.top_losses(2, "study")
    views = of_run.preds[of_run.preds["study"].isin(worst["study"])]
    # each view's map is constant: 1, 2, 3, ...; only the hottest of a study is in full colour
    monkeypatch.setattr(
        interpret, "heat_maps", lambda learn, rows, **k: [np.full((2, 2), i + 1.0) for i in range(len(rows))]
    )
    tops = []
    monkeypatch.setattr(pages, "draw_heat", lambda ax, path, heat, colour, top: tops.append((path, heat.max(), top)))
    of_run.plot_top_losses(2, level="study", heat="hirescam")
    of = views.set_index("path")["study"]
    hottest = {}
    for path, heat, _ in tops:
        hottest[of[path]] = max(heat, hottest.get(of[path], 0))
    assert len(tops) == len(views) and all(top == hottest[of[path]] for path, _, top in tops)


def test_each_image_gets_its_own_heat_map(of_run, monkeypatch):
    rows, given = of_run.top_losses(5), []
    made = [np.full((2, 2), i + 1.0) for i in range(5)]
    monkeypatch.setattr(interpret, "heat_maps", lambda learn, rows, **kwargs: made)
    monkeypatch.setattr(pages, "draw_heat", lambda ax, path, heat, *rest: given.append((path, heat.max())))
    of_run.plot_top_losses(5, heat="hirescam")
    assert given == list(zip(rows["path"], range(1, 6), strict=True))


def test_heat_maps_need_the_network_and_a_table_has_none(interp, run, of_run):
    with pytest.raises(InputError, match="from_run"):
        interp.plot_top_losses(2, heat="hirescam")
    other = MuraInterpretation(of_run.given)
    assert len(other.heat_maps(other.top_losses(1), learn=load_run(run))) == 1
    with pytest.raises(InputError, match="cam"):
        of_run.plot_top_losses(1, heat="smoothgrad")


def test_a_picture_that_is_gone_has_no_heat_and_says_so(of_run, tmp_path):
    moved = of_run.given.assign(path=[str(tmp_path / Path(p).name) for p in of_run.given["path"]])
    gone = MuraInterpretation(moved, run=of_run.run)
    assert gone.heat_maps(gone.top_losses(2)) == [None, None]
    assert words(gone.plot_top_losses(2, heat="hirescam")).count("picture not available") == 4
    gone.plot_top_losses(1, "study", heat="hirescam").canvas.draw()


def test_any_of_the_sorted_losses_can_be_asked_for(interp):
    third = interp.top_losses().iloc[2]
    said = words(interp.plot_top_losses([2]))
    assert f"loss {third['loss']:.2f}" in said and third["study"] in said
    with pytest.raises(InputError, match="at least one"):
        interp.plot_top_losses(0)


def test_what_fastai_users_know_goes_on(of_run, run):
    learn = load_run(run)
    with learn.no_bar():
        interp = MuraInterpretation.from_learner(learn)
        inputs, preds, targets, decoded, losses = interp[[0, 1]]
        interp.show_results([0, 1])
    assert len(preds) == len(targets) == len(decoded) == len(losses) == 2
    assert losses.tolist() == interp.preds["loss"][:2].tolist()


# ---------------------------------------------------------------- memory


def grown_by(rows, preds, learn):
    "How many MB a process grows while so many rows are interpreted; how many files are drawn, how many get heat maps."
    drawn, heated = [], []
    one = preds.iloc[np.arange(rows) % len(preds)].reset_index(drop=True)
    region = one["region"].iloc[0]
    table = one.assign(region=region, study=[f"{region}/p{i // 3}/study1" for i in range(rows)])
    table["patient"] = table["study"]
    table["label"], table["p_abnormal"] = np.arange(rows) // 3 % 2, np.random.default_rng(0).random(rows)
    gc.collect()
    before = memory()["anonymous"]
    with pytest.MonkeyPatch.context() as m:
        m.setattr(pictures, "read_grey", lambda path: drawn.append(path) or read_grey(path))
        m.setattr(interpret, "heat_maps", lambda learn, r, **k: heated.extend(r["path"]) or heat_maps(learn, r, **k))
        interp = MuraInterpretation(table, learn=learn)
        interp.confusion_matrix(), interp.most_confused(), interp.top_losses(), interp.region_errors()
        for draw in (interp.plot_roc, interp.plot_thresholds, interp.plot_calibration, interp.plot_probabilities):
            draw("image").canvas.draw()
        interp.plot_top_losses(4, heat="hirescam").canvas.draw()
        interp.plot_top_losses(2, level="study").canvas.draw()
    gc.collect()
    return memory()["anonymous"] - before, len(drawn), len(heated)


@pytest.mark.slow
@pytest.mark.skipif(memory()["anonymous"] is None, reason="the system does not tell how large a process is")
def test_memory_stays_flat_and_only_what_is_shown_is_opened(run):
    preds, learn = predictions_of(run), load_run(run)
    grown_by(4_000, preds, learn)  # what is made once: fonts, buffers, draws
    few, *opened = grown_by(4_000, preds, learn)
    many, *opened_of_many = grown_by(40_000, preds, learn)
    assert opened == opened_of_many == [4 * 2 + 2 * 3, 4]
    assert many - few < 150, f"{few:.0f} and {many:.0f} MB"  # the pixels alone would be 300
