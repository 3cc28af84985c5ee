"""What must hold of every table: Hypothesis looks for one where it does not.

HYPOTHESIS_PROFILE=thorough tries a thousand tables each in place of a few."""

import os

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, brier_score_loss, cohen_kappa_score, roc_auc_score

from mura_fastai.errors import InputError
from mura_fastai.results.calibrate import choose_threshold, temper
from mura_fastai.results.compare import compare
from mura_fastai.results.intervals import asymptotic_bounds, bootstrap_bounds
from mura_fastai.results.measures import METRICS, auroc, average_precision, calibration, kappa
from mura_fastai.results.metrics import format_scores, score, scores_to_json
from mura_fastai.results.paired import delong_test, holm
from mura_fastai.results.pooling import POOLS, to_studies

pytestmark = pytest.mark.filterwarnings("error")

common = dict(deadline=None, derandomize="CI" in os.environ, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", max_examples=20, **common)
settings.register_profile("thorough", max_examples=int(os.environ.get("NEX", "1000")), **common)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

# Odd 64ths: 1 - p is exact, and neither p nor the mean of three of them is ever 0.5 or a tenth, where sides are taken.
odd = st.integers(0, 31).map(lambda k: (2 * k + 1) / 64)
# what a CSV can hold: all of unicode but NUL and halves of characters
names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6)


@st.composite
def tables(draw, p=odd, min_studies=1, max_studies=14):
    "A predictions table: studies of 1 or 3 views, in up to 3 regions, of up to 6 patients."
    study = st.tuples(
        st.sampled_from(["XR_HAND", "XR_WRIST", "XR_ELBOW"]),
        st.integers(0, 5),
        st.integers(0, 1),
        st.one_of(st.tuples(p), st.tuples(p, p, p)),
    )
    rows = []
    for i, (region, patient, label, views) in enumerate(
        draw(st.lists(study, min_size=min_studies, max_size=max_studies))
    ):
        key = dict(split="valid", region=region, patient=f"patient{patient}", study=f"study{i:02}", label=label)
        rows += [key | dict(path=f"{i}/{v}.png", view=v, p_abnormal=value) for v, value in enumerate(views)]
    return pd.DataFrame(rows)


@st.composite
def weighted(draw):
    "Labels, probabilities with ties and whole weights, both classes with some weight."
    row = st.tuples(st.integers(0, 1), st.integers(0, 8).map(lambda k: k / 8), st.integers(0, 3))
    y, p, w = map(np.array, zip(*draw(st.lists(row, min_size=2, max_size=25)), strict=True))
    assume(w[y == 0].sum() > 0 and w[y == 1].sum() > 0)
    return y, p, w


def same(a, b, **tolerance):
    "Two tables of scores agree but for rounding, and in what is missing."
    assert list(a.index) == list(b.index) and list(a.columns) == list(b.columns)
    np.testing.assert_allclose(a.to_numpy(float), b.to_numpy(float), **{"rtol": 1e-9, "atol": 1e-9} | tolerance)


def points(table, **options):
    return score(table, ci=None, **options)


# ---------------------------------------------------------------- images to studies


@given(tables(), st.randoms(use_true_random=False), st.sampled_from([*POOLS]))
def test_the_order_of_rows_changes_nothing(table, random, pool):
    order = list(range(len(table)))
    random.shuffle(order)
    shuffled = table.iloc[order]
    a, b = (to_studies(t, pool).sort_values("study", ignore_index=True) for t in (table, shuffled))
    pd.testing.assert_frame_equal(a, b, check_exact=True)
    for ci in ("bootstrap", "asymptotic"):
        a, b = (score(t, ci, pool=pool, n_boot=20) for t in (table, shuffled))
        pd.testing.assert_frame_equal(a, b, check_exact=True)


@given(tables(), st.sampled_from([*POOLS]))
def test_a_study_lies_between_its_views_and_is_pooled_once(table, pool):
    studies, views = to_studies(table, pool), table.groupby("study", sort=False)["p_abnormal"]
    p = studies["p_abnormal"].to_numpy()
    assert (p >= views.min() - 1e-12).all() and (p <= 1).all()
    assert pool == "noisy-or" or (p <= views.max() + 1e-12).all()
    assert studies["n_views"].sum() == len(table) and studies["study"].is_unique
    pd.testing.assert_frame_equal(to_studies(studies, pool), studies)


@given(tables(), st.data(), st.sampled_from([np.nan, -0.01, 1.01, np.inf, "high", None]))
def test_a_wrong_probability_is_refused_by_the_name_of_its_image(table, data, wrong):
    at = data.draw(st.integers(0, len(table) - 1))
    bad = table.assign(p_abnormal=[wrong if i == at else p for i, p in enumerate(table["p_abnormal"])])
    with pytest.raises(InputError) as error:
        score(bad)
    assert f" {table['path'].iloc[at]}:" in str(error.value) and "p_abnormal" in str(error.value)


@given(tables(), st.data())
def test_any_text_may_name_a_patient_a_study_or_a_region(table, data):
    "Empty, of blanks, with line breaks or right to left; not the two words that stand for all regions."
    new = {}
    for column in ("patient", "study", "region"):
        old = table[column].unique()
        free = names.filter(lambda o: o not in ("overall", "macro"))
        found = data.draw(st.lists(free, min_size=len(old), max_size=len(old), unique=True))
        new[column] = table[column].map(dict(zip(old, found, strict=True)))
    named = table.assign(**new)
    a, b = score(table, "asymptotic"), score(named, "asymptotic")
    back = dict(zip(new["region"], table["region"], strict=True))
    same(a, b.rename(index=lambda r: back.get(r, r)).reindex(a.index), atol=1e-6)
    assert scores_to_json(b).keys() == {*back, "overall", "macro"}
    format_scores(b)


# ---------------------------------------------------------------- what a score must not depend on


@given(tables())
def test_new_names_in_the_same_order_change_nothing_at_all(table):
    "The draws go by the order of the patients' names: the order kept, they are the same draws."
    new = table.assign(**{c: "x" + table[c] for c in ("patient", "study", "region")})
    for ci in ("bootstrap", "asymptotic"):
        a, b = (score(t, ci, n_boot=30) for t in (table, new))
        pd.testing.assert_frame_equal(a, b.rename(index=lambda r: r.removeprefix("x")), check_exact=True)


@given(tables(), st.permutations(range(14)))
def test_new_names_of_studies_change_no_more_than_rounding(table, order):
    new = table.assign(study=table["study"].map(lambda o: f"{order[int(o.removeprefix('study'))]:02}"))
    for ci in ("bootstrap", "asymptotic"):
        a, b = (score(t, ci, n_boot=30) for t in (table, new))
        same(a[list(METRICS)], b[list(METRICS)])
        same(a, b, atol=1e-4)  # the derivative behind the intervals is numerical


@given(tables(), st.permutations(range(6)))
def test_new_names_of_patients_move_only_the_draws(table, order):
    new = table.assign(patient=table["patient"].map(lambda o: f"patient{order[int(o.removeprefix('patient'))]}"))
    same(points(table), points(new))
    same(score(table, "asymptotic"), score(new, "asymptotic"), atol=1e-5)


@given(tables())
def test_the_same_studies_once_more_under_the_same_patients_tell_nothing_new(table):
    again = pd.concat([table, table.assign(study=table["study"] + "again", path=table["path"] + "again")])
    for ci in ("bootstrap", "asymptotic"):
        a, b = (score(t, ci, n_boot=40).drop(columns=["n", "n_abnormal"]) for t in (table, again))
        same(a[list(METRICS)], b[list(METRICS)])
        same(a, b, atol=1e-4)


@given(tables(min_studies=4))
def test_the_same_studies_of_other_patients_narrow_the_interval(table):
    "By formula; what a bootstrap of few patients gives is not that regular."
    again = table.assign(**{c: table[c] + "again" for c in ("study", "patient", "path")})
    a, b = (score(t, "asymptotic") for t in (table, pd.concat([table, again])))
    same(a[list(METRICS)], b[list(METRICS)])
    for m in METRICS:
        once, twice = (t.loc["overall", f"{m}_hi"] - t.loc["overall", f"{m}_lo"] for t in (a, b))
        assert np.isnan(once) or twice <= once + 1e-9


@given(tables(), st.data())
def test_the_ranking_alone_makes_auroc_and_average_precision(table, data):
    studies = to_studies(table)
    values = np.unique(studies["p_abnormal"])
    new = data.draw(st.lists(st.floats(0, 1), min_size=len(values), max_size=len(values), unique=True).map(sorted))
    mapped = studies.assign(p_abnormal=studies["p_abnormal"].map(dict(zip(values, new, strict=True))))
    # pooled means are rounded to 12 digits, so that equal ones tie
    assume(len(np.unique(np.round(new, 12))) == len(values))
    columns = ["auroc", "average_precision"]
    same(points(studies)[columns], points(mapped)[columns])


@given(tables())
def test_the_classes_are_treated_alike(table):
    swapped = table.assign(label=1 - table["label"], p_abnormal=1 - table["p_abnormal"])
    a, b = points(table), points(swapped)
    columns = ["kappa", "auroc", "accuracy", "brier", "ece"]
    same(a[columns], b[columns])
    same(
        a[["sensitivity", "specificity"]],
        b[["specificity", "sensitivity"]].set_axis(["sensitivity", "specificity"], axis=1),
    )


# ---------------------------------------------------------------- where scores must lie


@pytest.mark.parametrize("ci", ["bootstrap", "asymptotic", "official"])
@given(tables(p=st.one_of(odd, st.sampled_from([0.0, 0.5, 1.0]))))
def test_scores_lie_in_their_range_and_intervals_are_in_order(ci, table):
    scores = score(table, ci, n_boot=30)
    for m in METRICS:
        known = scores[m].dropna()
        assert known.between(-1 if m == "kappa" else 0, 1).all()
        if f"{m}_lo" in scores:
            lo, hi = scores[f"{m}_lo"], scores[f"{m}_hi"]
            assert (lo.isna() == hi.isna()).all() and (lo[lo.notna()] <= hi[hi.notna()]).all()
            assert scores.loc[lo.notna(), m].notna().all()
            if ci != "official":
                assert lo.dropna().ge(-1 if m == "kappa" else 0).all() and hi.dropna().le(1).all()


@given(tables(p=st.just(0.7)), st.sampled_from([0.0, 0.1, 0.3, 0.5, 1.0]))
def test_constant_probabilities_rank_nothing_and_agree_by_chance_only(table, p):
    row = points(table.assign(p_abnormal=p)).loc["overall"]
    if 0 < row["n_abnormal"] < row["n"]:
        assert row["auroc"] == 0.5 and row["kappa"] == 0
        assert row["average_precision"] == pytest.approx(row["n_abnormal"] / row["n"])
    else:
        assert np.isnan(row["auroc"]) and np.isnan(row["kappa"])


@pytest.mark.parametrize("ci", ["bootstrap", "asymptotic", "official", None])
@given(tables(min_studies=2))
def test_a_region_of_one_class_or_of_one_study_has_no_kappa_and_does_no_harm(ci, table):
    lonely = table.iloc[:1].assign(region="XR_HUMERUS", study="lonely", patient="alone")
    both = pd.concat([table, lonely])
    scores = score(both, ci, n_boot=20)
    for region, t in to_studies(both).groupby("region"):
        one = t["label"].nunique() == 1
        assert scores.loc[region, ["kappa", "auroc", "average_precision"]].isna().all() == one
    assert scores.loc["XR_HUMERUS", "n"] == 1 and scores.loc["XR_HUMERUS", "accuracy"] in (0, 1)
    regions = scores.drop(["overall", "macro"])
    np.testing.assert_allclose(scores.loc["macro", "kappa"], regions["kappa"].mean())
    assert "nan" not in format_scores(scores)


# ---------------------------------------------------------------- against repeated rows and scikit-learn


@given(weighted())
def test_whole_weights_are_repeated_rows_and_agree_with_scikit_learn(data):
    y, p, w = data
    yy, pp = y.repeat(w), p.repeat(w)
    for ours, theirs, decide in (
        (auroc, roc_auc_score, False),
        (average_precision, average_precision_score, False),
        (kappa, cohen_kappa_score, True),
    ):
        said, repeated = (p > 0.5, pp > 0.5) if decide else (p, pp)
        assert ours(y, said, w) == pytest.approx(ours(yy, repeated), abs=1e-12)
        assert ours(y, said, w) == pytest.approx(theirs(yy, repeated), abs=1e-9)
    for name, value in calibration(y, p, w).items():
        assert value == pytest.approx(calibration(yy, pp)[name], abs=1e-12)
    assert calibration(y, p, w)["brier"] == pytest.approx(brier_score_loss(yy, pp), abs=1e-12)


@given(weighted(), st.integers(1, 40))
def test_many_weightings_at_once_are_each_of_them_alone(data, k):
    y, p, w = data
    many = np.random.default_rng(k).integers(0, 4, (3, len(w)))
    for f in (auroc, average_precision, kappa):
        np.testing.assert_allclose(f(y, p, many), [f(y, p, one) for one in many], rtol=1e-12)


# ---------------------------------------------------------------- decisions and comparisons


@given(weighted(), st.floats(0.05, 20))
def test_a_temperature_keeps_the_order_and_the_side_of_a_half(data, temperature):
    _, p, _ = data
    after = temper(p, temperature)
    assert (np.diff(after[np.argsort(p, kind="stable")]) >= 0).all()
    assert ((after > 0.5) <= (p > 0.5)).all() and ((after < 0.5) <= (p < 0.5)).all()


@given(weighted())
def test_no_threshold_has_a_better_kappa_than_the_chosen_one(data):
    y, p, _ = data
    assume(0 < y.sum() < len(y))
    chosen = choose_threshold(y, p, "kappa")
    assert 0 <= chosen <= 1
    others = [cohen_kappa_score(y, p > t / 16) for t in range(-1, 17, 2)]  # one between each two eighths
    assert kappa(y, p > chosen) >= max(others) - 1e-9


@settings(max_examples=10)
@given(tables(min_studies=3), st.integers(0, 99))
def test_to_compare_the_other_way_round_changes_the_sign_alone(table, k):
    other = table.assign(p_abnormal=np.random.default_rng(k).permutation(table["p_abnormal"]))
    ab, ba = (compare(*o, n_boot=20, n_perm=50) for o in ((table, other), (other, table)))
    for m in ("kappa", "auroc"):
        np.testing.assert_allclose(ab[f"{m}_diff"], -ba[f"{m}_diff"], atol=1e-12)
        np.testing.assert_allclose(ab[f"{m}_p"], ba[f"{m}_p"], atol=1e-9)
        assert ab[f"{m}_p"].dropna().between(0, 1).all()
    alone = compare(table, table, n_boot=20, n_perm=50)
    for m in ("kappa", "auroc"):
        assert (alone[f"{m}_diff"].dropna() == 0).all() and (alone[f"{m}_p"].dropna() == 1).all()


@given(weighted())
def test_delong_sees_no_difference_in_another_scale(data):
    y, p, _ = data
    told = delong_test(y, p, p**3)
    assert told.diff == 0 and (np.isnan(told.p) or told.p == 1)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_adjusted_p_values_are_no_smaller_keep_their_order_and_stay_below_one(p, random):
    adjusted = holm(p)
    assert (adjusted >= p).all() and (adjusted <= 1).all()
    assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0).all()
    order = list(range(len(p)))
    random.shuffle(order)
    np.testing.assert_array_equal(holm(np.array(p)[order]), adjusted[order])


@given(tables(min_studies=2))
def test_bounds_are_those_of_score(table):
    "The functions beneath, which the simulations call, give what the user sees."
    s = to_studies(table)
    label, p = s["label"].to_numpy(float), s["p_abnormal"].to_numpy()
    patient = s["patient"].astype(str).to_numpy()
    groups = {"all": np.arange(len(p)), "overall": np.arange(len(p))}
    for ci, found in (
        ("bootstrap", bootstrap_bounds(label, p, p > 0.5, groups, patient, 20)),
        ("asymptotic", asymptotic_bounds(label, p, p > 0.5, groups, patient)),
    ):
        row = score(table.assign(region="all"), ci, n_boot=20).loc["overall"]
        expected = [[row[f"{m}_{end}"] for m in METRICS] for end in ("lo", "hi")]
        np.testing.assert_allclose(found[:, 1], expected, atol=1e-9)
