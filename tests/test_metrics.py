"Scores: held against scikit-learn, statsmodels and slow loops, and what they do where a score does not exist."

import json

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from scipy.stats import bootstrap, norm, t
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    cohen_kappa_score,
    confusion_matrix,
    f1_score,
    roc_auc_score,
)
from statsmodels.api import OLS
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.proportion import proportion_confint

from mura_fastai.errors import InputError
from mura_fastai.results.intervals import auroc_variance, bootstrap_weights, influence, kappa_variance, placements
from mura_fastai.results.measures import METRICS, auroc, average_precision, confusion, cross_entropy, kappa
from mura_fastai.results.metrics import (
    always_normal,
    format_scores,
    region_baseline,
    score,
    scores_to_json,
    to_studies,
)


def predictions(n=120, seed=0, regions=("XR_HAND", "XR_WRIST", "XR_ELBOW"), patients=70):
    "`n` studies with 1 to 4 views and a probability that knows something of the label."
    rng, rows = np.random.default_rng(seed), []
    for i in range(n):
        region, patient, label = (
            regions[i % len(regions)],
            f"patient{rng.integers(patients):05}",
            int(rng.random() < 0.4),
        )
        for view in range(1, rng.integers(2, 6)):
            study = f"{region}/{patient}/study{i}"
            p = np.clip(0.3 + 0.3 * label + 0.25 * rng.normal(), 0, 1).round(2)  # rounded: ties
            row = dict(path=f"/x/{study}/image{view}.png", split="valid", region=region, patient=patient, study=study)
            rows.append(row | dict(view=view, label=label, p_abnormal=p))
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def preds():
    return predictions()


# ---------------------------------------------------------------- images to studies


def test_studies_are_pooled_over_views_in_order_of_first_appearance(preds):
    shuffled = preds.sample(frac=1, random_state=1)
    for pool, rule in {"mean": "mean", "max": "max", "noisy-or": lambda p: 1 - np.prod(1 - p)}.items():
        studies = to_studies(shuffled, pool)
        expected = shuffled.groupby("study", sort=False)["p_abnormal"].agg(rule)
        assert list(studies.columns) == ["study", "split", "region", "patient", "n_views", "label", "p_abnormal"]
        assert list(studies["study"]) == list(expected.index)
        np.testing.assert_allclose(studies["p_abnormal"], expected)
        assert list(studies["n_views"]) == list(shuffled.groupby("study", sort=False).size())


def test_studies_that_lack_views_are_flagged_and_named_with_their_scores(preds):
    lost = preds["study"].unique()[3]
    flagged = preds.assign(n_unreadable=(preds["study"] == lost) * 2)
    studies = to_studies(flagged).set_index("study")
    assert studies["n_unreadable"].sum() == studies.loc[lost, "n_unreadable"] == 2
    assert score(flagged, ci=None).attrs["incomplete"] == [lost] and "incomplete" not in score(preds, ci=None).attrs


def test_missing_labels_stay_missing_and_are_not_scored(preds):
    unknown = preds["study"].unique()[:7]
    some = preds.assign(label=preds["label"].where(~preds["study"].isin(unknown)))
    studies = to_studies(some)
    assert studies["label"].isna().sum() == 7
    assert score(some, ci=None).loc["overall", "n"] == 120 - 7
    assert to_studies(preds.drop(columns="label"))["label"].isna().all()
    with pytest.raises(InputError, match="label"):
        score(preds.drop(columns="label"))


def test_a_studies_table_is_scored_like_the_images_it_came_from(preds):
    pd.testing.assert_frame_equal(score(to_studies(preds)), score(preds))


def test_a_predictions_file_read_back_is_scored_the_same(preds, tmp_path):
    preds.to_csv(tmp_path / "p.csv", index=False)
    pd.testing.assert_frame_equal(score(pd.read_csv(tmp_path / "p.csv")), score(preds))


@pytest.mark.parametrize(
    "change, names",
    [
        (lambda t: t.assign(label=t["label"].where(t.index != 1, 1 - t["label"])), "study0"),
        (lambda t: t.assign(p_abnormal=t["p_abnormal"].where(t.index != 3)), "image"),
        (lambda t: t.assign(p_abnormal=t["p_abnormal"] * 9 - 4), "image"),  # logits
        (lambda t: t.assign(label=t["label"] + 1), "label is not 0, 1"),
        (lambda t: t.assign(study=t["study"].str.split("/").str[-1].str[:6]), "differ in"),  # merges studies
        (lambda t: t.assign(study=t["study"].where(t.index > 0)), "1 row names no study"),
        (lambda t: t.drop(columns="p_abnormal"), "p_abnormal"),
        (lambda t: t[:0], "no rows"),
    ],
)
def test_a_wrong_table_is_refused_by_name(preds, change, names):
    with pytest.raises(InputError, match=names) as error:
        score(change(preds.assign(label=preds["label"].astype(float))))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("wrong", [dict(ci="exact"), dict(threshold=50), dict(pool="median"), dict(n_boot=0)])
def test_a_wrong_option_is_refused_with_the_choices(preds, wrong):
    with pytest.raises(InputError, match=r"choose|give"):
        score(preds, **wrong)


# ---------------------------------------------------------------- points


def test_scores_agree_with_scikit_learn_in_every_region(preds):
    scores, studies = score(preds, ci=None, threshold=0.45), to_studies(preds)
    for name, row in scores.drop("macro").iterrows():
        t = studies if name == "overall" else studies[studies["region"] == name]
        y, p = t["label"].to_numpy(int), t["p_abnormal"].to_numpy()
        (tn, fp), (fn, tp) = confusion_matrix(y, p > 0.45)
        share, said = calibration_curve(y, p, n_bins=10)
        sizes = pd.cut(pd.Series(p), np.linspace(0, 1, 11), include_lowest=True).value_counts(sort=False).to_numpy()
        expected = dict(
            kappa=cohen_kappa_score(y, p > 0.45), auroc=roc_auc_score(y, p),
            average_precision=average_precision_score(y, p), accuracy=(tp + tn) / len(y), sensitivity=tp / (tp + fn),
            specificity=tn / (tn + fp), f1=f1_score(y, p > 0.45), brier=brier_score_loss(y, p),
            ece=np.abs(share - said) @ sizes[sizes > 0] / len(y),
        )  # fmt: skip
        assert set(expected) == set(METRICS)
        np.testing.assert_allclose(row[list(expected)].astype(float), list(expected.values()))
        assert (row["n"], row["n_abnormal"]) == (len(y), y.sum())
    assert list(scores.index) == ["XR_ELBOW", "XR_HAND", "XR_WRIST", "overall", "macro"]
    np.testing.assert_allclose(scores.loc["macro", "kappa"], scores["kappa"].iloc[:3].mean())


def test_weighted_scores_agree_with_scikit_learn_and_with_repeated_rows():
    rng = np.random.default_rng(0)
    y, p, w = rng.integers(0, 2, 80), rng.random(80).round(1), rng.integers(0, 4, (5, 80))
    np.testing.assert_allclose(auroc(y, p, w), [roc_auc_score(y, p, sample_weight=o) for o in w])
    np.testing.assert_allclose(average_precision(y, p, w), [average_precision_score(y, p, sample_weight=o) for o in w])
    np.testing.assert_allclose(kappa(y, p > 0.5, w), [cohen_kappa_score(y, p > 0.5, sample_weight=o) for o in w])
    np.testing.assert_allclose(auroc(y, p, w[0]), auroc(y.repeat(w[0]), p.repeat(w[0])))
    np.testing.assert_array_equal(confusion(y, p > 0.5), confusion_matrix(y, p > 0.5))


def test_constant_probabilities_rank_nothing_and_agree_by_chance_only():
    y = np.array([0, 1, 1, 0, 1])
    assert auroc(y, np.full(5, 0.7)) == 0.5
    assert kappa(y, np.ones(5)) == 0
    assert kappa(y, y) == 1 and kappa(y, 1 - y) < 0 and auroc(y, -y) == 0


def test_a_study_exactly_at_the_threshold_is_normal():
    t = pd.DataFrame({"study": list("abcd"), "label": [0, 1, 0, 1], "p_abnormal": [0.5, 0.5, 0.2, 0.9]})
    assert score(t, ci=None).loc["overall", "sensitivity"] == 0.5


def test_nan_probabilities_give_nan_auroc():
    assert np.isnan(auroc([0, 1, 1], [0.1, np.nan, 0.9]))


# ---------------------------------------------------------------- where a score does not exist


@pytest.mark.parametrize("ci", ["bootstrap", "asymptotic", "official", None])
@pytest.mark.filterwarnings("error")
def test_a_region_with_one_class_is_not_available_and_not_in_the_mean(preds, ci):
    one = preds[(preds["region"] != "XR_HAND") | (preds["label"] == 0)]
    scores = score(one, ci=ci, n_boot=200)
    assert scores.loc["XR_HAND", ["kappa", "auroc", "sensitivity"]].isna().all()
    assert scores.loc["XR_HAND", "specificity"] == score(preds, ci=None).loc["XR_HAND", "specificity"]
    np.testing.assert_allclose(scores.loc["macro", "auroc"], scores.loc[["XR_ELBOW", "XR_WRIST"], "auroc"].mean())
    hand = next(o for o in format_scores(scores).splitlines() if o.startswith("XR_HAND"))
    assert hand.count("n/a (one class)") == 2 and "nan" not in hand.lower()
    plain = json.loads(json.dumps(scores_to_json(scores), allow_nan=False))
    assert plain["XR_HAND"]["kappa"] is None and plain["overall"]["n"] == scores.loc["overall", "n"]
    if ci in ("bootstrap", "asymptotic"):
        assert scores.loc["macro", "kappa_lo"] < scores.loc["macro", "kappa"] < scores.loc["macro", "kappa_hi"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("ci", ["bootstrap", "asymptotic", "official"])
def test_a_region_with_one_study_and_a_set_with_one_class_are_scored(preds, ci):
    single = pd.concat([preds, preds[:1].assign(region="XR_HUMERUS", study="s", patient="q")])
    row = score(single, ci=ci, n_boot=50).loc["XR_HUMERUS"]
    assert row["n"] == 1 and np.isnan(row["kappa"])
    if ci == "bootstrap":
        assert np.isnan(row["accuracy_lo"])  # one patient drawn again and again says nothing about others
    normal = score(preds[preds["label"] == 0], ci=ci, n_boot=50)
    assert normal["kappa"].isna().all() and normal["specificity"].notna().all()
    assert "n/a (one class)" in format_scores(normal)


# ---------------------------------------------------------------- intervals


def test_bootstrap_agrees_with_a_slow_loop_over_the_same_draws():
    "BCa as the textbook has it: scikit-learn's scores of repeated rows, each patient left out once for the skew."
    preds = predictions(60, seed=3, regions=("XR_HAND", "XR_WRIST"), patients=25)
    scores = score(preds, n_boot=200, seed=5)
    studies = to_studies(preds).sort_values("study", ignore_index=True)

    def slow(rows):
        y, p = rows["label"].to_numpy(int), rows["p_abnormal"].to_numpy()
        return [cohen_kappa_score(y, p > 0.5), roc_auc_score(y, p), average_precision_score(y, p)]

    weights = np.concatenate(list(bootstrap_weights(studies["patient"], 200, seed=5)))
    for name in ("XR_HAND", "XR_WRIST", "overall"):
        mine = studies if name == "overall" else studies[studies["region"] == name]
        draws = np.array([slow(mine.loc[mine.index.repeat(w[mine.index].astype(int))]) for w in weights])
        without = np.array([slow(mine[mine["patient"] != p]) for p in mine["patient"].unique()])
        n = mine["patient"].nunique()
        reach = t.ppf(0.975, n - 1) * np.sqrt(n / (n - 1))
        for m, metric in enumerate(("kappa", "auroc", "average_precision")):
            point, pull = slow(mine)[m], without[:, m].mean() - without[:, m]
            bias = norm.ppf(((draws[:, m] < point).mean() + (draws[:, m] <= point).mean()) / 2)
            skew = (pull**3).sum() / (6 * (pull**2).sum() ** 1.5)
            shares = [norm.cdf(bias + (bias + z) / (1 - skew * (bias + z))) for z in (-reach, reach)]
            found = scores.loc[name, [f"{metric}_lo", f"{metric}_hi"]].astype(float)
            # the pull of a patient is taken at its limit here and by leaving out there: not quite the same
            np.testing.assert_allclose(found, np.quantile(draws[:, m], shares), atol=0.02)


def test_bootstrap_agrees_with_scipy_on_patients(preds):
    studies = to_studies(preds)
    members = [g.index.to_numpy() for _, g in studies.groupby("patient")]
    y, p = studies["label"].to_numpy(int), studies["p_abnormal"].to_numpy()

    def statistic(patients):
        rows = np.concatenate([members[int(i)] for i in patients])
        return roc_auc_score(y[rows], p[rows])

    n = len(members)
    level = 2 * norm.cdf(t.ppf(0.975, n - 1) * np.sqrt(n / (n - 1))) - 1  # the widening for few patients
    theirs = bootstrap(
        (np.arange(n),), statistic, n_resamples=1500, vectorized=False, confidence_level=level, rng=0
    ).confidence_interval
    row = score(preds).loc["overall"]
    np.testing.assert_allclose([row["auroc_lo"], row["auroc_hi"]], [theirs.low, theirs.high], atol=0.012)


def test_a_perfect_score_gets_no_interval_of_no_width(preds):
    right = preds.assign(p_abnormal=preds["label"].astype(float))
    for ci in ("bootstrap", "asymptotic"):
        row = score(right, ci=ci).loc["overall"]
        assert row["kappa"] == row["auroc"] == row["sensitivity"] == 1
        assert np.isnan([row["kappa_lo"], row["auroc_hi"], row["f1_lo"], row["brier_lo"]]).all()
        macro = score(right, ci=ci).loc["macro"].astype(float)
        assert np.isnan(macro[["kappa_lo", "sensitivity_lo", "accuracy_hi"]]).all()
        n = to_studies(right).query("label == 1")["patient"].nunique()
        lo, hi = proportion_confint(n, n, method="wilson")
        assert row["sensitivity_lo"] == pytest.approx(lo) and row["sensitivity_hi"] == pytest.approx(hi)


def test_bootstrap_draws_patients_as_often_as_there_are_and_whole():
    patient = np.array(list("abcabbd"))
    w = np.concatenate(list(bootstrap_weights(patient, n_boot=300, chunk=128)))
    assert w.shape == (300, 7)
    assert (w[:, patient == "b"] == w[:, [1]]).all()
    assert (w[:, [0, 1, 2, 6]].sum(1) == 4).all()
    np.testing.assert_allclose(w.mean(0), 1, atol=0.2)


def test_views_or_studies_of_one_patient_are_no_new_evidence(preds):
    plain, views = score(preds), score(pd.concat([preds, preds.assign(view=preds["view"] + 9)]))
    np.testing.assert_allclose(views, plain)
    # the same studies once more under the same patients: as wide; under new patients: narrower by the root of two
    again = preds.assign(study=preds["study"] + "again")
    width = lambda t: np.subtract(*score(t).loc["overall", ["auroc_hi", "auroc_lo"]])  # noqa: E731
    same, new = (
        width(pd.concat([preds, again])),
        width(pd.concat([preds, again.assign(patient=preds["patient"] + "x")])),
    )
    assert same == pytest.approx(width(preds), rel=0.02)
    assert new == pytest.approx(width(preds) / np.sqrt(2), rel=0.15)


def test_scores_do_not_depend_on_the_order_of_rows(preds):
    pd.testing.assert_frame_equal(score(preds.sample(frac=1, random_state=3)), score(preds), check_exact=True)


def test_the_seed_moves_the_interval_only(preds):
    a, b = score(preds, seed=0), score(preds, seed=1)
    assert (a["kappa"] == b["kappa"]).all() and (a["kappa_lo"] != b["kappa_lo"]).all()
    pd.testing.assert_frame_equal(a, score(preds, seed=0), check_exact=True)


def test_asymptotic_intervals_agree_with_statsmodels_and_the_definition_of_delong(preds):
    strangers = preds.assign(patient=preds["study"])
    studies = to_studies(strangers)
    y, p = studies["label"].to_numpy(int), studies["p_abnormal"].to_numpy()
    row, cm = score(strangers, ci="asymptotic").loc["overall"], confusion_matrix(y, p > 0.5)
    theirs = cohens_kappa(cm)
    np.testing.assert_allclose([row["kappa_lo"], row["kappa_hi"]], [theirs.kappa_low, theirs.kappa_upp], atol=1e-5)
    for name, truths in {"sensitivity": (1,), "specificity": (0,), "accuracy": (0, 1)}.items():
        hits, n = sum(cm[c, c] for c in truths), sum(cm[c].sum() for c in truths)
        wilson = proportion_confint(hits, n, method="wilson")
        np.testing.assert_allclose([row[f"{name}_lo"], row[f"{name}_hi"]], wilson, atol=1e-5)
    # DeLong by its definition: how often each abnormal study beats the normal ones, and the other way round
    wins = (p[y == 1][:, None] > p[y == 0]) + 0.5 * (p[y == 1][:, None] == p[y == 0])
    by_rows, by_columns = wins.mean(1), wins.mean(0)
    variance = by_rows.var(ddof=1) / len(by_rows) + by_columns.var(ddof=1) / len(by_columns)
    np.testing.assert_allclose(auroc_variance(y, p), variance)
    np.testing.assert_allclose(placements(y, p)[y == 1], by_rows)
    a = row["auroc"]
    ends = expit(logit(a) + np.array([-1, 1]) * 1.959964 * np.sqrt(variance) / (a * (1 - a)))
    np.testing.assert_allclose([row["auroc_lo"], row["auroc_hi"]], ends, rtol=1e-6)
    brier = (p - y) ** 2
    half = 1.959964 * brier.std() / np.sqrt(len(y))
    np.testing.assert_allclose(row["brier_hi"] - row["brier"], half, rtol=1e-3)


def test_delong_gives_the_published_interval_of_the_classic_ratings():
    """109 CT images rated from 1 to 5: Hanley and McNeil, Radiology 143 (1982) 29, table I.

    Stata's Base Reference Manual, roctab, prints for them an area of 0.8932, standard error 0.0307 by DeLong, interval
    0.83295 to 0.95339."""
    ratings = {0: [33, 6, 6, 11, 2], 1: [3, 2, 2, 11, 33]}
    rows = [(np.full(sum(n), c), np.repeat(range(1, 6), n)) for c, n in ratings.items()]
    y, p = (np.concatenate(o) for o in zip(*rows, strict=True))
    area, se = auroc(y, p), np.sqrt(auroc_variance(y, p))
    assert (round(area, 4), round(se, 4)) == (0.8932, 0.0307)
    np.testing.assert_allclose([area - 1.959964 * se, area + 1.959964 * se], [0.83295, 0.95339], atol=5e-6)


def test_formulas_take_the_studies_of_a_patient_together():
    "Sums over patients, as statsmodels has them for clusters: here of accuracy, which is a mean."
    preds = predictions(150, seed=8, patients=40)
    studies = to_studies(preds).sort_values("study", ignore_index=True)
    y, p, patient = studies["label"].to_numpy(int), studies["p_abnormal"].to_numpy(), studies["patient"].to_numpy()
    right = ((p > 0.5) == y).astype(float)
    fit = OLS(right, np.ones(len(y))).fit(
        cov_type="cluster", cov_kwds={"groups": pd.factorize(patient)[0], "use_correction": False}
    )
    everything = {"all": np.arange(len(y)), "overall": np.arange(len(y))}
    pull = influence(y, p, p > 0.5, everything, patient)[:, 0]
    np.testing.assert_allclose((pull[:, METRICS.index("accuracy")] ** 2).sum(), fit.bse[0] ** 2, rtol=1e-4)
    # the same studies twice under the same patients tell nothing new, under new ones they halve the variance
    twice = np.concatenate([patient, patient])
    whole = auroc_variance(y, p, patient)
    np.testing.assert_allclose(auroc_variance(np.tile(y, 2), np.tile(p, 2), twice), whole, rtol=1e-9)


def test_official_interval_is_the_published_mistake(preds):
    "On the hidden test, 207 studies at kappa .705, the script printed .005; its root gives .10, which is believable."
    cm = np.array([[95, 13], [18, 81]])  # 207 studies
    assert _kappa(cm) == pytest.approx(0.70, abs=0.01)
    assert 1.96 * kappa_variance(cm) == pytest.approx(0.005, abs=0.0005)
    assert 1.96 * np.sqrt(kappa_variance(cm)) == pytest.approx(0.098, abs=0.003)
    preds = preds.assign(patient=preds["study"])
    official, sound = score(preds, ci="official"), score(preds, ci="asymptotic")
    half = sound.loc["overall", "kappa_hi"] - sound.loc["overall", "kappa"]
    assert official.loc["overall", "kappa_hi"] - official.loc["overall", "kappa"] == pytest.approx(
        half**2 / 1.96, rel=1e-3
    )
    assert "auroc_lo" not in official and "1.96 x the variance" in format_scores(official)


def _kappa(cm):
    y, yhat = np.repeat([0, 0, 1, 1], cm.ravel()), np.repeat([0, 1, 0, 1], cm.ravel())
    return kappa(y, yhat)


# ---------------------------------------------------------------- baseline, table


def test_region_baseline_counts_training_studies_not_images():
    train = pd.DataFrame(
        {
            "study": ["a", "a", "a", "b", "c", "d"],
            "region": ["H"] * 4 + ["W"] * 2,
            "label": [1, 1, 1, 0, 0, 0],
            "view": [1, 2, 3, 1, 1, 1],
        }
    )
    rows = pd.DataFrame({"study": list("xyz"), "region": ["H", "W", "new"], "label": [1, 0, 0]})
    preds = region_baseline(train, rows)
    np.testing.assert_allclose(preds["p_abnormal"], [0.5, 0, 0.25])
    np.testing.assert_allclose(preds["loss"].iloc[0], np.log(2))


def test_region_baseline_cannot_rank_inside_a_region(preds):
    scores = score(region_baseline(predictions(seed=9), preds))
    assert (scores["auroc"].iloc[:3] == 0.5).all() and (scores["kappa"].iloc[:3] == 0).all()


def test_always_normal_has_the_accuracy_of_the_majority_and_nothing_else(preds):
    row = score(always_normal(preds), ci=None).loc["overall"]
    share = to_studies(preds)["label"].mean()
    assert row["accuracy"] == pytest.approx(1 - share) and row["average_precision"] == pytest.approx(share)
    assert row["kappa"] == row["sensitivity"] == row["f1"] == 0 and row["auroc"] == 0.5 and row["brier"] == share


def test_cross_entropy_is_finite_at_the_ends_and_missing_without_a_label():
    loss = cross_entropy(pd.array([1, 0, None], dtype="Int64"), [0.0, 0.5, 0.5])
    assert loss[0] == pytest.approx(-np.log(1e-7)) and loss[1] == pytest.approx(np.log(2)) and np.isnan(loss[2])


def test_the_printed_table_fits_a_terminal_and_says_what_it_is(preds):
    text = format_scores(score(preds))
    assert max(map(len, text.splitlines())) < 100
    assert "nan" not in text and "2000 draws" in text and "mean over views" in text
    overall = score(preds).loc["overall"]
    assert f"{overall['kappa']:.3f}"[1:] in text
    assert "[" not in format_scores(score(preds, ci=None))
    assert "average precision" in text and "calibration error" in text
    assert "Brier" not in format_scores(score(preds), others=False)
