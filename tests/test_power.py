"Power: published figures, other implementations, and sets that are drawn to see whether the promise holds."

import json

import numpy as np
import pytest
from scipy.stats import norm
from statsmodels.stats.inter_rater import cohens_kappa

from mura_fastai.errors import InputError
from mura_fastai.results.intervals import kappa
from mura_fastai.results.paired import delong_test, swap_test
from mura_fastai.results.power import SIZES, auroc_se, format_power, kappa_se, power, power_to_json


def test_the_interval_of_muras_baseline_on_the_hidden_test_is_a_tenth_and_not_its_square():
    row = power(207, kappa=0.705).iloc[0]
    assert row["kappa_half_width"] == pytest.approx(0.098, abs=0.002)


def test_the_standard_error_of_kappa_is_that_of_statsmodels():
    wrong = 0.3 * 0.45 * 0.55
    theirs = cohens_kappa(1000 * np.array([[0.55 - wrong, wrong], [wrong, 0.45 - wrong]]))
    assert theirs.kappa == pytest.approx(0.7)
    assert kappa_se(0.7, 0.45, 1000) == pytest.approx(theirs.std_kappa)


def test_the_standard_error_of_an_auroc_is_that_of_scores_with_exponential_distributions():
    "Hanley and McNeil's formula is exact for them: of 40 normal and 30 abnormal studies, over many sets."
    rng, found = np.random.default_rng(0), []
    for _ in range(3000):
        low, high = rng.exponential(1, 40), rng.exponential(4, 30)  # AUROC 4 / 5
        found.append((high[:, None] > low).mean())
    assert np.mean(found) == pytest.approx(0.8, abs=0.01)
    assert np.std(found) == pytest.approx(auroc_se(0.8, 30 / 70, 70), rel=0.06)


def decisions(n, prevalence, kappas, phi, rng):
    "Truth and two models' decisions, of these kappas in the mean, whose errors are correlated by `phi`."
    y = rng.random(n) < prevalence
    of_truth = np.where(y, 1 - prevalence, prevalence)[:, None]  # as many errors of either kind
    wrong = (1 - np.array(kappas)) * of_truth
    both = wrong.prod(1) + phi * np.sqrt((wrong * (1 - wrong)).prod(1))
    u = rng.random(n)
    a = u < wrong[:, 0]
    b = (u < both) | ((u >= wrong[:, 0]) & (u < wrong.sum(1) - both))
    return y.astype(float), (y ^ a).astype(float), (y ^ b).astype(float)


def test_a_set_shows_the_smallest_difference_in_kappa_with_the_power_that_was_asked():
    rng, n, found = np.random.default_rng(1), 400, []
    gap = power(n, kappa=0.7, correlation=0.5).iloc[0]["kappa_diff_paired"]
    groups = {"all": np.arange(n), "overall": np.arange(n)}
    for _ in range(240):
        y, a, b = decisions(n, 0.45, (0.7 - gap / 2, 0.7 + gap / 2), 0.5, rng)
        p = swap_test(y, a[None], b[None], groups, np.arange(n), n_perm=300)[1, 0]
        found.append((p < 0.05, kappa(y, a), kappa(y, b)))
    shown, a, b = np.array(found, float).T
    assert np.corrcoef(a, b)[0, 1] == pytest.approx(0.5, abs=0.12) and np.mean(b - a) == pytest.approx(gap, abs=0.01)
    assert 0.72 < shown.mean() < 0.88


def test_a_set_shows_the_smallest_difference_in_auroc_with_the_power_that_was_asked():
    rng, n, found = np.random.default_rng(2), 300, []
    gap = power(n, auroc=0.85, correlation=0.5, prevalence=0.4).iloc[0]["auroc_diff_paired"]
    ease = np.sqrt(2) * norm.ppf([0.85 - gap / 2, 0.85 + gap / 2])
    for _ in range(240):
        y, luck = rng.random(n) < 0.4, rng.multivariate_normal([0, 0], [[1, 0.52], [0.52, 1]], n)
        test = delong_test(y, *(y[:, None] * ease + luck).T)
        found.append((test.p < 0.05, test.auroc_a, test.auroc_b))
    shown, a, b = np.array(found, float).T
    assert np.corrcoef(a, b)[0, 1] == pytest.approx(0.5, abs=0.12) and np.mean(b - a) == pytest.approx(gap, abs=0.01)
    assert 0.70 < shown.mean() < 0.90


def test_no_difference_is_shown_more_often_than_was_allowed():
    rng, n = np.random.default_rng(4), 200
    groups = {"all": np.arange(n), "overall": np.arange(n)}
    drawn = (decisions(n, 0.45, (0.6, 0.6), 0.5, rng) for _ in range(240))
    p = [swap_test(y, a[None], b[None], groups, np.arange(n), n_perm=200)[1, 0] for y, a, b in drawn]
    assert np.mean(np.array(p) < 0.05) < 0.10


def test_pairing_helps_as_far_as_the_models_agree_and_sizes_count_by_their_root():
    alone, half, near = (power(500, correlation=r).iloc[0] for r in (0, 0.5, 0.9))
    assert alone["kappa_diff_paired"] == alone["kappa_diff_unpaired"] == half["kappa_diff_unpaired"]
    assert half["kappa_diff_paired"] == pytest.approx(alone["kappa_diff_paired"] / 2**0.5)
    assert near["kappa_diff_paired"] < half["kappa_diff_paired"]
    assert power(2000).iloc[0]["kappa_half_width"] == pytest.approx(half["kappa_half_width"] / 2)


def test_studies_of_one_patient_count_less_and_as_one_where_they_are_all_alike():
    row = power(1199, per_patient=1199 / 783, icc=1).iloc[0]
    assert row["n"] == 1199 and row["n_effective"] == pytest.approx(783)
    assert row["kappa_half_width"] == pytest.approx(power(783).iloc[0]["kappa_half_width"])
    assert power(1199, per_patient=1.53, icc=0).iloc[0]["n_effective"] == 1199


def test_without_a_size_it_tells_of_muras_sets():
    table = power(auroc=0.9)
    assert list(table["n"]) == list(SIZES.values()) and table["kappa_half_width"].is_monotonic_decreasing
    assert power({"mine": 619, "yours": 80}, kappa=None, auroc=0.8).index.tolist() == ["mine", "yours"]
    assert not [c for c in power(kappa=None, auroc=0.9) if "kappa" in c]


def test_text_and_json_hold_the_figures():
    table = power(207, kappa=0.705, auroc=0.929)
    text, plain = format_power(table), json.loads(json.dumps(power_to_json(table), allow_nan=False))
    assert max(map(len, text.splitlines())) < 100 and "80% power" in text
    for name, word in (("kappa", "kappa"), ("auroc", "AUROC")):
        assert word in text and f"{table.iloc[0][f'{name}_diff_paired']:.3f}"[1:] in text
    assert plain["sets"]["this set"] == {k: pytest.approx(v) for k, v in table.iloc[0].items()}
    assert plain["prevalence"] == 0.45


@pytest.mark.parametrize(
    "wrong, words",
    [
        (dict(kappa=1.2), "kappa is 1.2"),
        (dict(auroc=0.5), "auroc is 0.5"),
        (dict(prevalence=0), "prevalence is 0"),
        (dict(correlation=1), "correlation is 1"),
        (dict(power=0.01), "power is 0.01"),
        (dict(n=1), "1 study"),
        (dict(per_patient=0.5), "per_patient is 0.5"),
        (dict(icc=2), "icc 2"),
        (dict(kappa=None), "neither"),
    ],
)
def test_numbers_that_no_set_has_are_refused(wrong, words):
    with pytest.raises(InputError, match=words):
        power(**wrong)
