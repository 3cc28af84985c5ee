"The 95 % intervals hold the truth about as often as they say. Quick, with loose bounds: `make soak` measures it."

import numpy as np
import pytest
from simulation import HARD, MURA, REGION, SETTINGS, draw, replace, truth
from sklearn.metrics import cohen_kappa_score, roc_auc_score
from soak import PAIRS, SCORES, coverage, describe, differences, intervals, measure, measure_pairs, studies_table

from mura_fastai.results.metrics import score
from mura_fastai.results.paired import delong_test


@pytest.mark.parametrize("name", SETTINGS)
def test_the_known_truth_is_that_of_a_large_sample(name):
    "Four standard errors of kappa and AUROC, which are about .03 at 100 patients, or .07 where patients weigh more."
    big = draw(replace(SETTINGS[name], patients=60_000), 5)
    for label, p, images in ((big["label"], big["p"][0], False), (big["image_label"], big["image_p"], True)):
        found = [cohen_kappa_score(label, p > 0.5), roc_auc_score(label, p)]
        true = truth(SETTINGS[name], images)
        assert found == pytest.approx([true["kappa"], true["auroc"]], abs=0.01)


def test_simulated_patients_are_as_said():
    data = draw(replace(MURA, patients=20_000), 3)
    sizes = np.bincount(data["patient"])
    assert sizes.mean() == pytest.approx(1199 / 783, rel=0.02)
    # who has more studies is more often abnormal, so that counting patients once would give another answer
    often = data["label"][sizes[data["patient"]] > 2].mean()
    assert often > data["label"][sizes[data["patient"]] == 1].mean() + 0.03
    wrong = (data["p"][0] > 0.5) != data["label"]
    pairs = np.flatnonzero(np.diff(data["patient"]) == 0)
    assert np.corrcoef(wrong[pairs], wrong[pairs + 1])[0, 1] > 0.1


@pytest.mark.parametrize("ci", ["bootstrap", "asymptotic"])
def test_what_is_measured_is_what_score_gives(ci):
    data = draw(REGION, [1, 7])
    row = score(studies_table(data).assign(region="all"), ci=ci, n_boot=200, seed=7).loc["overall"]
    found = intervals(REGION, 7, n_boot=200, methods=(ci,))[ci]
    np.testing.assert_allclose(found, [[row[f"{m}_{end}"] for m in SCORES] for end in ("lo", "hi")])


def test_intervals_of_patients_hold_the_truth():
    "Of 200 sets 190 in the mean, with a standard deviation of 3."
    found = measure(REGION, 200, n_boot=300, methods=("bootstrap", "asymptotic", "official"))
    for method in ("bootstrap", "asymptotic"):
        for m in SCORES:
            assert 0.88 < found[method][m]["share"] < 0.995
    assert found["official"]["kappa"]["share"] < 0.3


def test_studies_or_images_taken_as_independent_promise_too_much():
    found = measure(HARD, 120, n_boot=300, methods=("bootstrap", "asymptotic", "studies", "images"))
    for m in SCORES:
        assert found["images"][m]["share"] < found["studies"][m]["share"] < 0.8
        assert min(found["bootstrap"][m]["share"], found["asymptotic"][m]["share"]) > 0.84


def test_equal_models_are_seldom_told_apart_where_patients_are_the_unit():
    "Of 300 equally good pairs DeLong's test finds 15 different in the mean; many times that without patients."
    ours, naive = [], []
    for k in range(300):
        data = draw(HARD, [3, k], PAIRS["no difference"])
        ours.append(delong_test(data["label"], *data["p"], data["patient"]).p < 0.05)
        naive.append(delong_test(data["label"], *data["p"]).p < 0.05)
    assert 0.005 < np.mean(ours) < 0.12 < 0.2 < np.mean(naive)


def test_the_interval_of_a_difference_holds_it():
    found = measure_pairs(REGION, 50, PAIRS["a difference"], n_boot=200)
    for m in SCORES:
        assert found[m]["true"] > 0.01 and found[m]["share"] > 0.86


def test_coverage_counts_misses_on_both_sides_and_missing_intervals():
    c = coverage(np.array([[0, 1], [0.6, 1], [0, 0.4], [np.nan, np.nan]]), 0.5)
    assert (c["share"], c["below"], c["above"]) == (0.25, 0.25, 0.25)
    assert c["width"] == pytest.approx(1.8 / 3)


def test_the_same_number_gives_the_same_set():
    a, b = (differences(REGION, 4, n_boot=20) for _ in range(2))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(draw(REGION, 4)["p"][0, :9], draw(REGION, 5)["p"][0, :9])


def test_the_table_says_what_falls_short():
    bounds = dict(share=0.9, error=0.01, below=0.1, above=0.0, width=0.2)
    lines = describe(REGION, {"bootstrap": {m: bounds for m in SCORES}, "official": {m: bounds for m in SCORES}})
    assert sum("off by 4.0" in line for line in lines) == 2
    assert max(map(len, lines)) < 100
