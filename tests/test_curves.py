"Curves: numbers like scikit-learn's, bands that hold what they promise, figures that say what they show."

import matplotlib

matplotlib.use("Agg")

import io
import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import norm
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    average_precision_score,
    cohen_kappa_score,
    precision_recall_curve,
    precision_score,
    recall_score,
    roc_auc_score,
    roc_curve,
)

from mura_fastai.errors import InputError
from mura_fastai.results.bands import (
    GRID,
    precision_band,
    precision_recall_points,
    reliability,
    roc_band,
    roc_points,
    share_bounds,
    share_table,
    threshold_table,
)
from mura_fastai.results.calibrate import Decision, choose_decision
from mura_fastai.results.curves import (
    kept_epoch,
    plot_calibration,
    plot_history,
    plot_precision_recall,
    plot_probabilities,
    plot_roc,
    plot_thresholds,
    read_history,
)
from mura_fastai.results.intervals import wilson
from mura_fastai.results.labelled import in_words, labelled, scores_of
from mura_fastai.results.metrics import score
from mura_fastai.results.regions import plot_regions, region_errors
from mura_fastai.text import short

PLOTS = (plot_roc, plot_precision_recall, plot_calibration, plot_thresholds, plot_probabilities, plot_regions)


def drawn(n, seed=0, share=0.4, shift=1.5, per=1.3, ties=None):
    "n studies of patients that have `per` on average and are alike; probabilities of two shifted bells."
    rng = np.random.default_rng(seed)
    patient = np.sort(rng.integers(0, max(1, int(n / per)), n))
    alike = rng.normal(size=(2, n))[:, patient]
    label = (np.sqrt(0.5) * alike[0] + np.sqrt(0.5) * rng.normal(size=n) > norm.ppf(1 - share)).astype(float)
    p = norm.cdf(shift * label + np.sqrt(0.3) * alike[1] + np.sqrt(0.7) * rng.normal(size=n) - shift / 2)
    return label, p if ties is None else p.round(ties), patient


def a_table(n=160, seed=0, **columns):
    label, p, patient = drawn(n, seed)
    region = np.array(["XR_ELBOW", "XR_HAND", "XR_WRIST"])[np.arange(n) % 3]
    rows = dict(study=[f"s{i:04d}" for i in range(n)], split="valid", region=region, n_views=1, label=label.astype(int))
    return pd.DataFrame(rows | dict(patient=patient.astype(str), p_abnormal=p) | columns)


@pytest.fixture(scope="module")
def studies():
    "160 studies that a decision was applied to, which was chosen on others."
    decision = choose_decision(a_table(seed=1).assign(split="tune"))
    return decision.apply(a_table())


@pytest.fixture(autouse=True)
def no_figure_stays_and_no_setting_moves():
    before, open_before = dict(matplotlib.rcParams), plt.get_fignums()
    yield
    assert dict(matplotlib.rcParams) == before and plt.get_fignums() == open_before


def words(fig):
    "All that is written in a figure, without line breaks."
    fig.draw_without_rendering()
    said = "\n".join(t.get_text() for t in fig.findobj(matplotlib.text.Text))
    return re.sub(r"\s+", " ", said)


# ---------------------------------------------------------------- points, against scikit-learn


@pytest.mark.parametrize("ties", [None, 1])
def test_roc_points_are_those_of_scikit_learn(ties):
    label, p, _ = drawn(150, ties=ties)
    points = roc_points(label, p)
    alarms, found, thresholds = roc_curve(label, p, drop_intermediate=False)
    np.testing.assert_allclose(points["false_alarms"], alarms)
    np.testing.assert_allclose(points["sensitivity"], found)
    np.testing.assert_allclose(points["threshold"], thresholds)
    assert np.trapezoid(points["sensitivity"], points["false_alarms"]) == pytest.approx(roc_auc_score(label, p))


@pytest.mark.parametrize("ties", [None, 1])
def test_precision_recall_points_are_those_of_scikit_learn(ties):
    label, p, _ = drawn(150, ties=ties)
    points = precision_recall_points(label, p)
    precision, recall, thresholds = precision_recall_curve(label, p)
    np.testing.assert_allclose(points["precision"], precision[-2::-1])  # it ends with a point of its own, (0, 1)
    np.testing.assert_allclose(points["recall"], recall[-2::-1])
    np.testing.assert_allclose(points["threshold"], thresholds[::-1])
    area = (np.diff(points["recall"], prepend=0) * points["precision"]).sum()
    assert area == pytest.approx(average_precision_score(label, p))


def test_what_thresholds_score_is_what_scikit_learn_says():
    label, p, patient = drawn(150, ties=2)
    at = [0.0, 0.13, 0.5, 0.77, 1.0]  # some of them equal to a probability: abnormal is above the threshold
    table = threshold_table(label, p, patient, at, n_boot=20)
    for t, row in zip(at, table.itertuples(), strict=True):
        said = p > t
        assert row.kappa == pytest.approx(cohen_kappa_score(label, said))
        assert row.sensitivity == recall_score(label, said)
        assert row.specificity == recall_score(1 - label, ~said)
        if said.any():
            assert row.precision == pytest.approx(precision_score(label, said))
        else:
            assert np.isnan(row.precision)
    whole = threshold_table(label, p, patient, n_boot=20)["threshold"]
    assert whole.iloc[0] == 0 and whole.iloc[-1] == 1 and whole.is_monotonic_increasing and len(whole) <= 202


def test_reliability_is_scikit_learns_calibration_curve_of_equal_counts():
    label, p, patient = drawn(200)
    bins = reliability(label, p, patient, n_boot=20)
    share, mean = calibration_curve(label, p, n_bins=10, strategy="quantile")
    np.testing.assert_allclose(bins["share"], share)
    np.testing.assert_allclose(bins["p"], mean)
    assert (bins["n"] == 20).all()
    tied = reliability(label, p.round(1), patient, n_boot=20)
    assert tied["n"].sum() == 200 and (tied["p_lowest"].iloc[1:].to_numpy() > tied["p_highest"].iloc[:-1]).all()
    assert len(reliability(label[:50], p[:50], patient[:50], n_boot=20)) == 2  # 20 rows a bin, or fewer bins


# ---------------------------------------------------------------- bands


@pytest.mark.parametrize("band_of, points_of", [(roc_band, roc_points), (precision_band, precision_recall_points)])
def test_a_band_holds_its_curve_and_narrows_with_more_studies(band_of, points_of):
    widths = []
    for n in (150, 1200):
        band = band_of(*drawn(n), n_boot=200)
        x, y = band.columns[:2]
        known = band["lo"].notna()
        assert (band["lo"] <= band[y])[known].all() and (band[y] <= band["hi"])[known].all()
        assert band["lo"].min() >= 0 and band["hi"].max() <= 1
        points = points_of(*drawn(n)[:2])
        for _, row in band[band[x] > 0.3].iterrows():  # the curve's own height there
            near = points[y][(points[x] - row[x]).abs() < 0.02]
            assert near.min() - 0.02 <= row[y] <= near.max() + 0.02
        widths.append((band["hi"] - band["lo"])[known].mean())
    assert widths[1] < widths[0] / 2


def test_a_band_begins_where_there_is_something_to_read_it_off():
    label, p, patient = drawn(120)
    for band, side in ((roc_band, 0), (precision_band, 1)):
        table = band(label, p, patient, n_boot=20)
        np.testing.assert_array_equal(table["lo"].notna(), GRID * (label == side).sum() >= 1)


def test_more_studies_of_the_same_patients_do_not_narrow_a_band():
    label, p, patient = drawn(150)
    once = roc_band(label, p, patient, n_boot=300)
    twice = roc_band(np.tile(label, 2), np.tile(p, 2), np.tile(patient, 2), n_boot=300)
    known = once["lo"].notna()
    np.testing.assert_allclose((once["hi"] - once["lo"])[known], (twice["hi"] - twice["lo"])[known], atol=0.01)
    strangers = roc_band(np.tile(label, 2), np.tile(p, 2), np.arange(300), n_boot=300)
    inside = once["lo"].notna() & (GRID < 0.5)
    assert (strangers["hi"] - strangers["lo"])[inside].mean() < 0.8 * (once["hi"] - once["lo"])[inside].mean()


def test_a_precision_without_an_error_is_as_sure_as_those_it_was_counted_on():
    label, p = np.repeat([0, 1], 50), np.r_[np.linspace(0, 0.6, 50), np.linspace(0.5, 1, 50)]
    row = threshold_table(label, p, np.arange(100), [0.89], n_boot=100).iloc[0]
    assert row["precision"] == 1 and row["precision_lo"] == pytest.approx(wilson(1.0, (p > 0.89).sum())[0])


def test_bands_do_not_depend_on_the_order_of_rows_or_the_names_of_patients():
    label, p, patient = drawn(120, ties=2)
    order = np.random.default_rng(3).permutation(120)
    for band in (roc_band, precision_band, threshold_table, reliability):
        a = band(label, p, patient, n_boot=50)
        b = band(label[order], p[order], patient[order], n_boot=50)
        pd.testing.assert_frame_equal(a, b)


def test_where_nothing_varies_the_interval_is_wilsons_and_one_patient_has_none():
    bounds = share_bounds(np.array([1.0, 0.5]), np.array([[1.0, 0.4], [1.0, 0.6]]), np.array([12, np.nan]))
    np.testing.assert_allclose(bounds[:, 0], np.minimum(wilson(1.0, 12), 1))
    assert np.isnan(bounds[:, 1]).all()
    perfect = roc_band([0] * 30 + [1] * 20, [0.1] * 30 + [0.9] * 20, np.arange(50), n_boot=50)
    assert (perfect["hi"] == 1).iloc[10:].all() and perfect["lo"].iloc[10] == pytest.approx(wilson(1.0, 20)[0])
    for band in (roc_band, precision_band):
        one_patient = band([0, 1, 0, 1], [0.1, 0.9, 0.4, 0.6], ["a", "a", "b", "a"], n_boot=20)
        assert one_patient["lo"].isna().all()
        assert band([1, 1, 1], [0.1, 0.5, 0.9], ["a", "b", "c"], n_boot=20)["lo"].isna().all()  # one class


def test_shares_of_single_studies_have_about_wilsons_interval_and_alike_ones_a_wider_one():
    hit = np.repeat([1.0, 0.0], [30, 70])
    groups = {"all": np.arange(100), "few": np.arange(25, 35), "none": np.arange(0)}
    alone = share_table(hit, groups, np.arange(100), n_boot=2000)
    assert alone["n"].tolist() == [100, 10, 0] and alone["hits"].tolist() == [30, 5, 0]
    np.testing.assert_allclose(alone.loc["all", ["lo", "hi"]].astype(float), wilson(0.3, 100), atol=0.012)
    assert alone.loc["none", ["share", "lo", "hi"]].isna().all()
    alike = share_table(hit, groups, np.arange(100) // 5, n_boot=500)
    assert np.diff(alike.loc["all", ["lo", "hi"]].astype(float)) > 1.6 * np.diff(wilson(0.3, 100))


@pytest.mark.slow
def test_pointwise_bands_hold_the_truth_in_about_95_of_100_sets():
    at, share, shift = np.array([5, 10, 20, 30, 50, 70, 90]), 0.4, 1.5
    held = {name: [] for name in ("sensitivity", "precision", "kappa")}
    recall, z = at / 100, np.array([-0.5, 0.0, 0.5, 1.0])
    beyond = norm.sf(shift - norm.ppf(recall))  # false alarms at the threshold that finds so many
    truths = {
        "sensitivity": norm.cdf(shift + norm.ppf(at / 100)),
        "precision": share * recall / (share * recall + (1 - share) * beyond),
    }
    found, alarms = norm.sf(z - shift / 2), norm.sf(z + shift / 2)
    called = share * found + (1 - share) * alarms
    agree, chance = share * found + (1 - share) * (1 - alarms), share * called + (1 - share) * (1 - called)
    truths["kappa"] = (agree - chance) / (1 - chance)
    for seed in range(200):
        rows = drawn(300, seed, share, shift)
        tables = {
            "sensitivity": roc_band(*rows, n_boot=200, seed=seed).iloc[at],
            "precision": precision_band(*rows, n_boot=200, seed=seed).iloc[at],
            "kappa": threshold_table(*rows, norm.cdf(z), n_boot=200, seed=seed).rename(
                columns={"kappa_lo": "lo", "kappa_hi": "hi"}
            ),
        }
        for name, table in tables.items():
            held[name].append((table["lo"] <= truths[name]) & (truths[name] <= table["hi"]))
    for name, each in held.items():
        places = np.mean(each, 0)
        assert 0.92 <= places.mean() <= 0.985, (name, places)
        assert places.min() >= 0.88, (name, places)


# ---------------------------------------------------------------- what is drawn from


def test_rows_are_those_with_a_label_as_they_were_decided(studies):
    rows, decision = labelled(studies)
    assert decision.threshold == studies.attrs["decision"]["threshold"]
    assert rows["abnormal"].tolist() == studies["abnormal"].tolist()
    given = a_table().assign(label=pd.array([1, None] * 80, "Int64"))
    rows, decision = labelled(given, Decision(0.3))
    assert len(rows) == 80 and (rows["abnormal"] == (rows["p_abnormal"] > 0.3)).all()
    assert (labelled(given.assign(predicted=1))[0]["abnormal"] == 1).all()
    bare = labelled(given[["p_abnormal", "label"]])[0]
    assert set(bare["region"]) == {"unknown"} and bare["patient"].nunique() == 80
    for broken, match in ((given.drop(columns="label"), "label"), (given.assign(label=pd.NA), "label")):
        with pytest.raises(InputError, match=match):
            plot_roc(broken)
    with pytest.raises(InputError, match="from 0 to 1 in 1 row:"):
        plot_probabilities(given.assign(p_abnormal=[2.0] + [0.5] * 159))


def test_scores_beside_a_curve_are_those_of_score(studies):
    pd.testing.assert_frame_equal(scores_of(labelled(studies)[0]), score(studies), check_exact=True)


def test_of_very_many_rows_scores_stand_without_intervals(monkeypatch, studies):
    assert "AUROC [95 % interval]" in words(plot_roc(studies))
    monkeypatch.setattr("mura_fastai.results.labelled.MANY", 100)
    said = words(plot_roc(studies))
    assert (
        "[95 % interval]" not in said and f"all, 160: {short(score(studies).loc['overall', 'auroc'], 2)} " in said + " "
    )


def test_where_the_threshold_comes_from_is_said():
    assert in_words(Decision(0.4)) == "threshold 0.40, given and not chosen"
    assert "too few rows of tune" in in_words(Decision(chosen_on={"not chosen": "32 studies to choose on"}))
    chosen = choose_decision(a_table().assign(split="tune"), "sensitivity=0.9")
    assert "chosen for sensitivity of 0.9 on 160 studies of tune" in in_words(chosen)
    flattering = choose_decision(a_table(), "youden", tune_on_reported=True)
    assert "Youden index" in in_words(flattering) and in_words(flattering).endswith("too good")
    regional = choose_decision(a_table().assign(split="tune"), per_region=True, least=5)
    assert in_words(regional).startswith("thresholds by region")


# ---------------------------------------------------------------- figures


@pytest.mark.parametrize("plot", PLOTS, ids=lambda f: f.__name__)
def test_a_figure_can_be_read_where_it_is_put(studies, plot):
    fig = plot(studies)
    assert fig.get_figwidth() <= 7.5  # at 640 px no text is below 9 px then
    texts = [t for t in fig.findobj(matplotlib.text.Text) if t.get_text().strip() and t.get_visible()]
    assert min(t.get_fontsize() for t in texts) >= 9
    fig.draw_without_rendering()
    box = fig.bbox.padded(2)
    outside = [t.get_text() for t in texts if not box.containsx(t.get_window_extent().x1)]
    assert not [o for o in outside if o[0].isalpha()]
    said = words(fig)
    assert f"160 studies of {studies['patient'].nunique()} patients" in said
    svg = io.StringIO()
    fig.savefig(svg, format="svg", transparent=True)
    assert "<svg" in svg.getvalue()


def test_the_band_and_the_threshold_are_drawn(studies):
    scores = scores_of(labelled(studies)[0])
    for plot, band in ((plot_roc, roc_band), (plot_precision_recall, precision_band)):
        ax = plot(studies, scores=scores).axes[0]
        rows, _ = labelled(studies)
        told = band(rows["label"], rows["p_abnormal"], rows["patient"])
        edge = ax.collections[0].get_paths()[0].vertices[:, 1]
        assert (edge.min(), edge.max()) == pytest.approx((told["lo"].min(), told["hi"].max()))
        circles = [line for line in ax.lines if line.get_marker() == "o"]
        assert len(circles) == 1
    found = scores.loc["overall", "sensitivity"]
    assert circles[0].get_xdata()[0] == pytest.approx(found)


def test_between_two_probabilities_nothing_changes(studies):
    "Read off at the threshold in use, each line shows the score that its legend tells, also far from any study."
    quiet = studies.drop(columns=["abnormal", "predicted"], errors="ignore")
    quiet = quiet.assign(p_abnormal=quiet["p_abnormal"] * 0.35)
    for threshold in (0.5, 0.2, float(quiet["p_abnormal"].median())):
        decision = Decision(threshold)
        rows, _ = labelled(quiet, decision)
        all_ = scores_of(rows).loc["overall"]
        fig = plot_thresholds(quiet, decision)
        lines = {line.get_label().split()[0]: line for line in fig.axes[0].lines}
        place = next(x[0] for x in (o.get_xdata() for o in fig.axes[0].lines) if len(x) == 2 and x[0] == x[1])
        for name in ("sensitivity", "specificity", "kappa"):
            assert lines[name].get_drawstyle() == "steps-post"
            x, y = lines[name].get_data()
            assert y[np.searchsorted(x, place, "right") - 1] == pytest.approx(all_[name]), (threshold, name)


def test_regions_are_lines_of_their_own_or_left_out(studies):
    for plot in (plot_roc, plot_precision_recall):
        assert all(r in words(plot(studies)) for r in ("XR_ELBOW", "XR_HAND", "XR_WRIST"))
        assert "XR_HAND" not in words(plot(studies, by_region=False))


def test_calibration_shows_what_the_temperature_did(studies):
    label, p, _ = drawn(400, 5)
    sure = a_table(400, 5).assign(p_abnormal=1 / (1 + np.exp(-3 * np.log(p / (1 - p)))))
    decision = Decision(0.5, temperature=3.0)
    fig = plot_calibration(decision.apply(sure), decision)
    before, after = (line for line in fig.axes[0].lines if len(line.get_xdata()) > 2)
    raw = reliability(label, sure["p_abnormal"], sure["patient"])
    # a temperature leaves no probability nearer to 0 and 1 than 1e-7
    np.testing.assert_allclose(before.get_xdata(), raw["p"], atol=1e-6)
    np.testing.assert_allclose(after.get_xdata(), reliability(label, p, sure["patient"])["p"], atol=1e-3)
    assert "before the temperature" in words(fig)
    assert "before" not in words(plot_calibration(sure))


def test_probabilities_are_shares_of_each_class_and_colour_is_what_is_wrong(studies):
    fig = plot_probabilities(studies)
    heights = [sum(bar.get_height() for bar in bars) for bars in fig.axes[0].containers]
    rows, _ = labelled(studies)
    for side, (right, wrong) in ((1, heights[:2]), (0, heights[2:])):
        mine = rows[rows["label"] == side]
        error = (mine["abnormal"] != side).mean()
        assert abs(right) + abs(wrong) == pytest.approx(1) and abs(wrong) == pytest.approx(error)
        assert np.sign(right) == (1 if side else -1)
    said = words(fig)
    missed = ((rows["label"] == 1) & (rows["abnormal"] == 0)).sum()
    assert f"missed: {missed}" in said and "threshold" in said
    near_the_ends = studies.assign(p_abnormal=studies["p_abnormal"] ** 20)
    assert all("log odds" in words(plot(near_the_ends)) for plot in (plot_probabilities, plot_thresholds))
    assert "log odds" not in said


def test_a_region_of_few_does_not_lead_the_list_by_chance():
    few = a_table(3, study=["x", "y", "z"], region="few", label=1, p_abnormal=0.1, patient=["x", "y", "z"])
    many = a_table(200, region="many", p_abnormal=0.9)  # all normal ones are wrong
    errors = region_errors(pd.concat([few, many]), Decision())
    assert errors["wrong_share"].idxmax() == "few" and errors.index[0] == "many"


@pytest.mark.parametrize("plot", PLOTS, ids=lambda f: f.__name__)
def test_what_cannot_be_drawn_says_so(plot):
    awkward = {
        "one class": a_table(30, label=0),
        "one study": a_table(1),
        "perfect": a_table(40).assign(p_abnormal=lambda t: t["label"] * 0.8 + 0.1),
        "all alike": a_table(40, p_abnormal=0.5),
        "zeros": a_table(40, p_abnormal=0.0),
        "no region": a_table(40).drop(columns=["region", "patient"]),
        "hostile": a_table(40, region=["$x_{0}$", "<script>", "\udcff$", "\n"] * 10),
        "thresholds by region": a_table(90),
    }
    by_region = Decision(regions={"XR_HAND": {"threshold": 0.3, "temperature": 2.0}})
    for name, table in awkward.items():
        fig = plot(table, by_region if name == "thresholds by region" else None)
        fig.canvas.draw()  # a formula would fail here
        if name == "one class" and plot in (plot_roc, plot_precision_recall):
            assert "n/a (one class)" in words(fig)
        if name == "thresholds by region" and plot is not plot_calibration:
            assert "thresholds by region" in words(fig)


# ---------------------------------------------------------------- history


def a_history(**columns):
    losses = dict(train_loss=[0.6, 0.5, 0.4, 0.3], tune_loss=[0.6, 0.5, 0.45, 0.5])
    scores = dict(kappa=[0, 0.2, 0.5, 0.4], auroc=[0.5, 0.8, 0.7, 0.8])
    return pd.DataFrame(dict(epoch=range(4)) | losses | scores | columns)


@pytest.mark.parametrize(
    "columns", [{}, {"auroc": np.nan}, {"auroc": [0.9, 0.1, 0.2, 0.3]}, {"auroc": [np.nan, 0.5, 0.4, np.nan]}]
)
def test_the_kept_epoch_is_the_one_whose_weights_a_run_keeps(columns, tmp_path, monkeypatch):
    from mura_fastai.training import best

    class Rows:
        rows = []

    class Learn:
        model = torch.nn.Linear(1, 1)

    saved = []
    monkeypatch.setattr(best, "save_best", lambda *_: saved.append(len(Rows.rows) - 1))
    keep = best.KeepBest(tmp_path, Rows)
    keep.learn = Learn
    for _, row in a_history(**columns).iterrows():
        Rows.rows.append(row.to_dict())
        keep.after_epoch()
    assert kept_epoch(a_history(**columns)) == saved[-1] == keep.epoch_kept
    Rows.rows.clear()


def test_history_marks_what_is_kept_and_what_was_frozen():
    fig = plot_history(a_history(), frozen=2)
    assert fig.axes[0].patches[0].get_extents().transformed(fig.axes[0].transData.inverted()).x1 == pytest.approx(2.5)
    said = words(fig)
    assert "kept: epoch 4" in said and "head alone" in said and "best AUROC" in said
    assert "head alone" not in words(plot_history(a_history()))
    one_class = words(plot_history(a_history(auroc=np.nan)))
    assert "kept: epoch 3" in one_class and "lowest loss" in one_class
    plot_history(a_history()[:1]).canvas.draw()
    plot_history(a_history().drop(columns=["auroc", "kappa"])).canvas.draw()


def test_what_is_no_history_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match="no column tune_loss"):
        plot_history(a_history().drop(columns="tune_loss"))
    with pytest.raises(InputError, match="no epoch"):
        plot_history(a_history()[:0])
    with pytest.raises(InputError, match=r"history\.csv"):
        read_history(tmp_path)
    (tmp_path / "history.csv").write_text("")
    with pytest.raises(InputError, match="not the history"):
        read_history(tmp_path)
    a_history().to_csv(tmp_path / "history.csv", index=False)
    pd.testing.assert_frame_equal(read_history(tmp_path), a_history())
