"Comparisons: DeLong by its definition, permutations counted out, statsmodels, and what cannot be compared."

import json
from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm, ttest_ind_from_stats
from scipy.stats import t as t_distribution
from sklearn.metrics import cohen_kappa_score, roc_auc_score
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from mura_fastai.errors import InputError
from mura_fastai.results.compare import FEW, compare
from mura_fastai.results.forest import plot_forest, save_forests
from mura_fastai.results.intervals import bootstrap_weights
from mura_fastai.results.metrics import score, to_studies
from mura_fastai.results.paired import delong_macro, delong_test, holm, mcnemar_test, swap_test
from mura_fastai.results.verdicts import compare_sentences, comparison_to_json, format_comparison, seed_noise

REGIONS = ("XR_ELBOW", "XR_HAND", "XR_WRIST")


def studies(n=240, seed=0, patients=130):
    "Labels of `n` studies, several a patient and across regions."
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"study": [f"s{i:04}" for i in range(n)], "split": "valid"})
    table["region"], table["patient"] = rng.choice(REGIONS, n), [f"p{i}" for i in rng.integers(0, patients, n)]
    return table.assign(n_views=2, label=(rng.random(n) < 0.45).astype(int))


def model(table, seed, skill=1.5, shared=0.7):
    "Probabilities for a studies table; models share a part of their luck, which depends on the table alone."
    own, common = np.random.default_rng(seed + 100), np.random.default_rng(7)
    luck = np.sqrt(shared) * common.normal(size=len(table)) + np.sqrt(1 - shared) * own.normal(size=len(table))
    return table.assign(p_abnormal=norm.cdf(skill * (table["label"] - 0.5) + luck).round(2))  # rounded: ties


@pytest.fixture(scope="module")
def table():
    return studies()


@pytest.fixture(scope="module")
def arms(table):
    return model(table, 1, 1.2), model(table, 2, 1.9)


@pytest.fixture(scope="module")
def compared(arms):
    return compare(*arms, n_boot=400, n_perm=2000)


def by_definition(y, a, b):
    "Difference of two AUROCs and its standard error from all pairs, as DeLong, DeLong and Clarke-Pearson define it."
    wins = [(p[y == 1][:, None] > p[y == 0]) + 0.5 * (p[y == 1][:, None] == p[y == 0]) for p in (a, b)]
    rows, columns = (wins[1] - wins[0]).mean(1), (wins[1] - wins[0]).mean(0)
    return rows.mean(), np.sqrt(rows.var(ddof=1) / len(rows) + columns.var(ddof=1) / len(columns))


# ---------------------------------------------------------------- DeLong

# 43 ovarian cancer patients: albumin, total protein, Krebs-Goplerud score, and who died within two months. The data of
# DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988) 837, without the six who lack a value, as printed in the SAS
# User's Guide, SAS/STAT, The LOGISTIC Procedure, "Comparing Receiver Operating Characteristic Curves".
OVARIAN = """
3.0 5.8 10 0 3.2 6.3 5 1 3.9 6.8 3 1 2.8 4.8 6 0 3.2 5.8 3 1 0.9 4.0 5 0 2.5 5.7 8 0 1.6 5.6 5 1 3.8 5.7 5 1 3.7 6.7 6 1
3.2 5.4 4 1 3.8 6.6 6 1 4.1 6.6 5 1 3.6 5.7 5 1 4.3 7.0 4 1 3.6 6.7 4 0 2.3 4.4 6 1 4.2 7.6 4 0 4.0 6.6 6 0 3.5 5.8 6 1
3.8 6.8 7 1 3.0 4.7 8 0 4.5 7.4 5 1 3.7 7.4 5 1 3.1 6.6 6 1 4.1 8.2 6 1 4.3 7.0 5 1 4.3 6.5 4 1 3.2 5.1 5 1 2.6 4.7 6 1
3.3 6.8 6 0 1.7 4.0 7 0 3.7 6.1 5 1 3.3 6.3 7 1 4.2 7.7 6 1 3.5 6.2 5 1 2.9 5.7 9 0 2.1 4.8 7 1 2.8 6.2 8 0 4.0 7.0 7 1
3.3 5.7 6 1 3.7 6.9 5 1 3.6 6.6 5 1"""


def test_delong_is_its_definition_on_the_data_of_its_paper():
    albumin, protein, score, y = np.array(OVARIAN.split(), float).reshape(-1, 4).T
    for a, b in ((-score, albumin), (-score, protein), (albumin, protein)):
        found, (diff, se) = delong_test(y, a, b), by_definition(y, a, b)
        np.testing.assert_allclose(found[:2], [roc_auc_score(y, a), roc_auc_score(y, b)])
        np.testing.assert_allclose(found[2:], [diff, se, 2 * norm.sf(abs(diff) / se)])
    assert delong_test(y, albumin, protein).auroc_b == pytest.approx(0.65, abs=0.005)  # the paper's, of 49 patients


def test_delong_of_several_seeds_is_the_mean_of_their_pairs(table):
    y = table["label"].to_numpy()[:90]
    a, b = ([model(table, i)["p_abnormal"].to_numpy()[:90] for i in own] for own in ((0, 1, 2), (8, 9)))
    found = delong_test(y, a, b)
    assert found.diff == pytest.approx(np.mean([by_definition(y, p, q)[0] for p, q in product(a, b)]))
    jackknife = leave_one_patient_out(y, a, b, np.arange(len(y)))
    assert found.se == pytest.approx(jackknife, rel=0.03)


def leave_one_patient_out(y, a, b, patient):
    "Jackknife standard error of the difference of mean AUROCs."
    patients, values = np.unique(patient), []
    for one in patients:
        kept = patient != one
        values.append(
            np.mean([roc_auc_score(y[kept], p[kept]) for p in b])
            - np.mean([roc_auc_score(y[kept], p[kept]) for p in a])
        )
    return np.sqrt((len(values) - 1) * np.var(values))


def test_delong_of_patients_is_a_jackknife_of_patients_and_counts_a_study_given_twice_once(table, arms):
    y, patient = table["label"].to_numpy(), table["patient"].to_numpy()
    a, b = (t["p_abnormal"].to_numpy() for t in arms)
    clustered = delong_test(y, a, b, patient)
    assert clustered.se == pytest.approx(leave_one_patient_out(y, [a], [b], patient), rel=0.02)
    assert delong_test(y, a, b, np.arange(len(y))) == delong_test(y, a, b)
    twice = delong_test(np.tile(y, 2), np.tile(a, 2), np.tile(b, 2), np.tile(patient, 2))
    np.testing.assert_allclose(twice, clustered)


def test_delong_of_the_mean_over_regions_agrees_with_a_jackknife_of_patients(table, arms):
    y, patient, region = (table[c].to_numpy() for c in ("label", "patient", "region"))
    a, b = (t["p_abnormal"].to_numpy() for t in arms)
    regions = [np.flatnonzero(region == r) for r in REGIONS]
    found, values = delong_macro(y, a[None], b[None], regions, patient), []
    for one in np.unique(patient):
        kept = [i[patient[i] != one] for i in regions]
        values.append(np.mean([roc_auc_score(y[i], b[i]) - roc_auc_score(y[i], a[i]) for i in kept]))
    assert found.diff == pytest.approx(np.mean([by_definition(y[i], a[i], b[i])[0] for i in regions]))
    assert found.se == pytest.approx(np.sqrt((len(values) - 1) * np.var(values)), rel=0.03)


def test_delong_agrees_with_the_bootstrap_of_patients(compared, table, arms):
    found = delong_test(table["label"], *(t["p_abnormal"] for t in arms), table["patient"])
    row = compared.loc["overall"]
    assert (row["auroc_diff_hi"] - row["auroc_diff_lo"]) / (2 * 1.96) == pytest.approx(found.se, rel=0.15)
    assert row["auroc_p"] == found.p


# ---------------------------------------------------------------- permutation, McNemar, Holm


def test_the_permutation_is_the_share_of_all_swaps_that_differ_as_much():
    rng = np.random.default_rng(3)
    y, patient = rng.integers(0, 2, 30), rng.integers(0, 9, 30).astype(str)
    a, b = ((np.where(rng.random((2, 30)) < q, y, 1 - y)) for q in (0.6, 0.85))
    names, reached = np.unique(patient), []
    kappas = lambda d: np.mean([cohen_kappa_score(y, o) for o in d])  # noqa: E731
    found = abs(kappas(b) - kappas(a))
    for swaps in product([False, True], repeat=len(names)):
        swapped = np.isin(patient, names[list(swaps)])
        one, other = np.where(swapped, b, a), np.where(swapped, a, b)
        reached.append(abs(kappas(other) - kappas(one)) >= found - 1e-12)
    p = swap_test(y, a, b, {"all": np.arange(30), "overall": np.arange(30)}, patient, n_perm=20_000)
    np.testing.assert_allclose(p[:, 0], np.mean(reached), atol=0.015)


def test_the_permutation_keeps_its_level_and_a_naive_one_would_not():
    "Patients of five studies judged alike: p below .05 in 5 % of sets where nothing is to be found."
    rng, found, naive = np.random.default_rng(0), [], []
    patient = np.repeat(np.arange(30), 5)
    groups = {"all": np.arange(150), "overall": np.arange(150)}
    for _ in range(150):
        y = np.repeat(rng.integers(0, 2, 30), 5)
        a, b = (np.repeat(rng.random(30) < 0.75, 5) == y for _ in range(2))
        found.append(swap_test(y, a[None], b[None], groups, patient, n_perm=200)[1, 0])
        naive.append(swap_test(y, a[None], b[None], groups, np.arange(150), n_perm=200)[1, 0])
    assert np.mean(np.array(found) < 0.05) < 0.11
    assert np.mean(np.array(naive) < 0.05) > 0.2


def test_accuracy_is_compared_by_mcnemar_where_patients_have_one_discordant_study(table):
    one = table.assign(patient=table["study"])
    a, b = model(one, 1), model(one, 2)
    c = compare(a, b, metrics=["accuracy"], n_boot=20, n_perm=20_000)
    right = [((t["p_abnormal"] > 0.5) == (t["label"] == 1)).to_numpy() for t in (a, b)]
    for name, i in ((r, (one["region"] == r).to_numpy()) for r in REGIONS):
        cells = [[(right[0][i] & right[1][i]).sum(), (right[0][i] & ~right[1][i]).sum()]]
        cells.append([(~right[0][i] & right[1][i]).sum(), (~right[0][i] & ~right[1][i]).sum()])
        assert c.loc[name, "accuracy_p"] == pytest.approx(mcnemar(cells, exact=True).pvalue)
    # with patients as they are, a patient's studies are no independent tosses
    assert np.isnan(mcnemar_test([1, 1, 0], [0, 0, 0], ["p", "p", "q"]))
    assert mcnemar_test([1, 1, 0], [0, 1, 1], ["p", "p", "q"]) == 1  # one discordant study each
    swapped = swap_test(
        table["label"], *((t["p_abnormal"] > 0.5).to_numpy(float)[None] for t in (a, b)),
        {"all": np.arange(len(a)), "overall": np.arange(len(a))}, table["patient"], ["accuracy"],
    )  # fmt: skip
    clustered = compare(a.assign(patient=table["patient"]), b.assign(patient=table["patient"]), metrics=["accuracy"])
    assert clustered.loc["overall", "accuracy_p"] == pytest.approx(swapped[1, 0], abs=0.02)


def test_regions_are_corrected_as_statsmodels_does_and_overall_is_not(compared):
    for m in ("kappa", "auroc"):
        expected = multipletests(compared[f"{m}_p"].iloc[:-2], method="holm")[1]
        np.testing.assert_allclose(compared[f"{m}_p_adjusted"].iloc[:-2], expected)
        np.testing.assert_array_equal(compared[f"{m}_p_adjusted"].iloc[-2:], compared[f"{m}_p"].iloc[-2:])
    p = np.array([0.03, np.nan, 0.01, 0.04])
    np.testing.assert_allclose(holm(p)[[0, 2, 3]], multipletests(p[[0, 2, 3]], method="holm")[1])
    assert np.isnan(holm(p)[1])


# ---------------------------------------------------------------- the table


def test_scores_are_those_of_score_and_differences_run_from_the_first_to_the_second(compared, arms):
    a, b = (score(t, ci=None) for t in arms)
    assert list(compared.index) == list(a.index) == [*REGIONS, "overall", "macro"]
    for m in ("kappa", "auroc"):
        np.testing.assert_allclose(compared[f"{m}_a"], a[m])
        np.testing.assert_allclose(compared[f"{m}_b"], b[m])
        np.testing.assert_allclose(compared[f"{m}_diff"], b[m] - a[m])
    assert (compared[["n", "n_abnormal"]] == a[["n", "n_abnormal"]]).all(axis=None)
    assert compared.loc["overall", "auroc_diff"] > 0  # the second arm was made the better one
    assert not [c for c in compared if "seed" in c]


def test_intervals_are_students_on_the_spread_of_draws_of_patients_that_both_arms_share(arms):
    def apart(weights):
        of = [[t["label"], t["p_abnormal"]] for t in arms]
        kappas = [cohen_kappa_score(y, p > 0.5, sample_weight=weights) for y, p in of]
        aurocs = [roc_auc_score(y, p, sample_weight=weights) for y, p in of]
        return [kappas[1] - kappas[0], aurocs[1] - aurocs[0]]

    compared, patient = compare(*arms, n_boot=80, n_perm=20), arms[0]["patient"].to_numpy()
    draws = np.array([apart(w) for w in np.concatenate(list(bootstrap_weights(patient, 80)))])
    n, row, se = len(np.unique(patient)), compared.loc["overall"], np.std(draws, 0, ddof=1)
    for m, point, error in zip(("kappa", "auroc"), apart(np.ones(len(patient))), se, strict=True):
        ends = t_distribution.interval(0.95, n - 1, point, error * np.sqrt(n / (n - 1)))
        np.testing.assert_allclose(row[[f"{m}_diff_lo", f"{m}_diff_hi"]].astype(float), ends)
    assert row["auroc_n_needed"] == pytest.approx(240 * (2.801585 * se[1] / row["auroc_diff"]) ** 2, abs=1)


def test_arms_that_never_differ_here_may_differ_elsewhere(arms):
    row = compare(arms[0], arms[0], n_boot=50, n_perm=20).loc["overall"]
    assert row["kappa_diff"] == row["auroc_diff"] == 0 and row["kappa_p"] == 1
    assert np.isnan([row["kappa_diff_lo"], row["auroc_diff_hi"]]).all()


def test_pairing_narrows_the_difference(table):
    alike, other = [model(table, i, shared=0.95) for i in (1, 2)], [model(table, i, shared=0) for i in (1, 2)]
    width = lambda arms: np.subtract(*compare(*arms, n_boot=300).loc["overall", ["auroc_diff_hi", "auroc_diff_lo"]])  # noqa: E731
    assert width(alike) < 0.6 * width(other)


def test_images_studies_and_shuffled_rows_give_the_same(arms, compared):
    a, b = (pd.concat([t, t]).drop(columns="n_views").assign(path="x") for t in arms)
    found = compare(a.sample(frac=1, random_state=1), b, n_boot=400, n_perm=2000)
    pd.testing.assert_frame_equal(found, compared, check_exact=True)


def test_decisions_of_a_decided_table_count_instead_of_one_half(arms):
    a, b = arms
    decided = b.assign(abnormal=(b["p_abnormal"] > 0.3).astype(int))
    found = compare(a, decided, metrics=["sensitivity"], n_boot=20, n_perm=20)
    assert found.loc["overall", "sensitivity_b"] == (b["p_abnormal"] > 0.3)[b["label"] == 1].mean()
    with pytest.raises(InputError, match="s0000"):
        compare(a, decided.assign(abnormal=2))


def test_an_arm_of_seeds_scores_their_mean_and_tells_their_spread_apart(table):
    a, b = [model(table, i) for i in range(3)], [model(table, i, 1.9) for i in range(5, 8)]
    c = compare(a, b, n_boot=100, n_perm=500)
    each = np.array([[score(t, ci=None)["kappa"] for t in arm] for arm in (a, b)])
    np.testing.assert_allclose(c[["kappa_a", "kappa_b"]].T, each.mean(1))
    np.testing.assert_allclose(c[["kappa_a_seed_sd", "kappa_b_seed_sd"]].T, each.std(1, ddof=1))
    # three times the same training are no new evidence
    same, single = compare([a[0]] * 3, [b[0]] * 3, n_boot=100, n_perm=500), compare(a[0], b[0], n_boot=100, n_perm=500)
    np.testing.assert_allclose(same[single.columns], single)
    uneven = compare(a, b[0], n_boot=100)
    assert uneven["kappa_b_seed_sd"].isna().all()
    assert "permutation" in c.attrs["tests"]["kappa"] and "bootstrap" in uneven.attrs["tests"]["kappa"]
    row = uneven.loc["overall"]  # 2.8 standard errors are what n_needed studies would give
    assert row["kappa_p"] == pytest.approx(2 * norm.sf(2.801585 * (240 / row["kappa_n_needed"]) ** 0.5), rel=0.03)


def test_more_than_two_arms_are_all_compared_with_the_first(table, arms, compared):
    third = model(table, 9)
    found = compare(*arms, third, names=["old", "new", "third"], n_boot=400, n_perm=2000)
    assert list(found.index.names) == ["name", "region"] and list(found.index.levels[0]) == ["new", "third"]
    alone = {"new": compared, "third": compare(arms[0], third, n_boot=400, n_perm=2000)}
    for name, pair in alone.items():
        together = ["kappa_p_adjusted", "auroc_p_adjusted"]
        pd.testing.assert_frame_equal(found.loc[name].drop(columns=together), pair.drop(columns=together))
        pd.testing.assert_frame_equal(found.loc[name][together][:-2], pair[together][:-2])
    # all studies together are asked as often as there are further arms
    p = [pair.loc["overall", "kappa_p"] for pair in alone.values()]
    adjusted = multipletests(p, method="holm")[1]
    np.testing.assert_allclose([found.loc[(name, "overall"), "kappa_p_adjusted"] for name in alone], adjusted)


def test_only_common_labelled_studies_count_and_the_rest_is_told(arms):
    a, b = arms
    found = compare(
        a[10:], b[:-3].assign(label=b["label"].where(b.index != 12)), names=["x", "y"], n_boot=20, n_perm=20
    )
    assert found.attrs["n_common"] == found.loc["overall", "n"] == 240 - 10 - 3
    assert found.attrs["left_out"] == {"x": 3, "y": 10}
    kept = a[10:-3]
    assert found.loc["overall", "auroc_a"] == pytest.approx(roc_auc_score(kept["label"], kept["p_abnormal"]))


# ---------------------------------------------------------------- what cannot be compared


@pytest.mark.parametrize(
    "change, options, words",
    [
        (lambda t: t.assign(label=t["label"].where(t.index != 4, 1 - t["label"])), {}, "labels differ.*s0004"),
        (lambda t: t.assign(patient=t["patient"].where(t.index != 4, "q")), {}, "patient differs.*s0004"),
        (lambda t: t.assign(study="other" + t["study"]), {}, "no labelled study in common"),
        (lambda t: t, dict(metrics=["auc"]), "no metric 'auc': choose"),
        (lambda t: t, dict(names=["x", "x"]), "different names"),
        (lambda t: t, dict(correct="bonferroni"), "choose one of holm"),
        (lambda t: t, dict(n_boot=1), "at least 2"),
        (lambda t: [], {}, "B: no table at all"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(arms, change, options, words):
    with pytest.raises(InputError, match=words) as error:
        compare(arms[0], change(arms[1]), **options)
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("error")
def test_where_a_score_does_not_exist_there_is_no_p_and_no_warning(table, arms):
    a, b = (t[(t["region"] != "XR_HAND") | (t["label"] == 0)] for t in arms)
    everything = ("kappa", "auroc", "sensitivity", "accuracy", "brier")
    c = compare(a, b, metrics=everything, n_boot=50, n_perm=50)
    assert c.loc["XR_HAND", ["kappa_diff", "kappa_p", "auroc_p", "auroc_diff_lo", "sensitivity_p"]].isna().all()
    assert c.loc[["XR_ELBOW", "macro"], ["kappa_p", "auroc_p"]].notna().all(axis=None)
    assert "nan" not in format_comparison(c).lower() and "n/a" in format_comparison(c)
    plain = json.loads(json.dumps(comparison_to_json(c), allow_nan=False))
    assert plain["comparisons"]["B"]["XR_HAND"]["kappa_p"] is None
    plot_forest(c, "kappa")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["identical", "constant", "one patient", "one class", "one study", "perfect"])
def test_odd_sets_are_compared_without_a_crash(table, arms, kind):
    a, b = arms
    if kind == "identical":
        b = a
    if kind == "constant":
        a, b = a.assign(p_abnormal=0.5), b.assign(p_abnormal=0.5)
    if kind == "one patient":
        a, b = a.assign(patient="p"), b.assign(patient="p")
    if kind == "one class":
        a, b = (t[t["label"] == 1] for t in arms)
    if kind == "one study":
        a, b = (t[:1] for t in arms)
    if kind == "perfect":
        a, b = a.assign(p_abnormal=1.0 * a["label"]), b.assign(p_abnormal=1.0 - b["label"])
    c = compare(a, b, n_boot=50, n_perm=50)
    overall = c.loc["overall"]
    if kind in ("identical", "constant"):
        assert (c[["kappa_p", "auroc_p"]] == 1).all(axis=None) and (c["auroc_diff"] == 0).all()
        assert c[["kappa_n_needed", "auroc_n_needed"]].isna().all(axis=None)
    elif kind == "one patient":
        assert overall["kappa_p"] == 1 and np.isnan(overall["auroc_p"]) and np.isnan(overall["kappa_diff_lo"])
    elif kind == "perfect":
        assert overall["kappa_p"] == pytest.approx(1 / 51) and overall["auroc_diff"] == -1
    else:
        assert c[["kappa_p", "auroc_p", "kappa_diff"]].isna().all(axis=None)
    assert compare_sentences(c) and "nan" not in format_comparison(c).lower()
    json.dumps(comparison_to_json(c), allow_nan=False)
    plot_forest(c)


def test_a_handful_of_abnormal_patients_gets_no_p_from_a_normal_distribution(table, arms):
    for k in (FEW - 1, FEW):
        kept = (table["region"] != "XR_HAND") | (table["label"] == 0)
        kept |= table.index.isin(table[~kept].drop_duplicates("patient").index[:k])
        c = compare(*(t[kept] for t in arms), n_boot=50, n_perm=50)
        assert c.loc["XR_HAND", "n_abnormal"] == k
        assert np.isnan(c.loc["XR_HAND", "auroc_p"]) == np.isnan(c.loc["macro", "auroc_p"]) == (k < FEW)
        assert c.loc[["XR_ELBOW", "overall"], "auroc_p"].notna().all() and c.loc["XR_HAND", "kappa_p"] <= 1


# ---------------------------------------------------------------- the commands


@pytest.fixture
def call(monkeypatch, compared):
    "The two commands in an app of their own, with a comparison that is at hand."
    import typer
    from typer.testing import CliRunner

    from mura_fastai.commands import compare as commands

    app, asked = typer.Typer(), []

    class Experiment:
        def compare_runs(runs, **options):
            asked.append((runs, options))
            return compared, compared.attrs["names"]

    monkeypatch.setattr(commands.shared, "experiment", lambda: Experiment)
    for command in (commands.compare, commands.power):
        app.command()(command)
    return lambda *a: (CliRunner().invoke(app, [str(o) for o in a], catch_exceptions=True), asked)


def test_the_command_hands_on_what_was_asked_and_prints_or_draws_it(call, compared, tmp_path):
    done, asked = call(
        "compare", "one", "two", "--metrics", "kappa, auroc", "--split", "test", "--plot", tmp_path / "f.png"
    )
    assert done.exit_code == 0 and done.stdout.startswith(format_comparison(compared))
    (runs, options) = asked[0]
    assert [str(r) for r in runs] == ["one", "two"]
    assert options == dict(data=None, split="test", source=None, metrics=("kappa", "auroc"))
    assert sorted(f.name for f in tmp_path.iterdir()) == ["f-auroc.png", "f.png"]
    plain = json.loads(call("compare", "one", "two", "--json")[0].stdout)
    assert plain["comparisons"]["B"]["overall"]["n"] == 240
    assert isinstance(call("compare", "one")[0].exception, InputError)


def test_the_command_power_prints_the_table_and_the_same_as_json(call):
    done, _ = call("power", "--n", 400, "--auroc", 0.9)
    assert done.exit_code == 0 and "AUROC .90" in done.stdout and "400" in done.stdout
    assert json.loads(call("power", "--n", 400, "--json")[0].stdout)["sets"]["this set"]["n"] == 400


# ---------------------------------------------------------------- words and pictures


def test_sentences_say_what_the_set_shows_and_what_it_would_take(table):
    a, close, far = model(table, 1), model(table, 2, 1.55), model(table, 3, 3.5)
    (small, *_), (large, *_) = (
        compare_sentences(compare(a, t, metrics=["auroc"], names=["old", "new"], n_boot=200)) for t in (close, far)
    )
    assert "new is" in large and "higher than old" in large and large.endswith("a difference that this set shows.")
    assert "no difference that this set could show; it would take about" in small or "more than a million" in small


def test_sentences_hold_a_difference_against_what_other_seeds_change(table):
    base = model(table, 1)
    noisy = [base.assign(p_abnormal=model(table, i, skill)["p_abnormal"]) for i, skill in enumerate((0.8, 1.5, 2.4))]
    c = compare(noisy, [base] * 3, metrics=["auroc"], n_boot=100)
    sd = np.std([roc_auc_score(t["label"], t["p_abnormal"]) for t in noisy], ddof=1)
    noise = seed_noise(c.loc["overall"], "auroc", (3, 3))
    # just that far apart, Welch's test of the seeds' scores gives .05
    assert ttest_ind_from_stats(noise, sd, 3, 0, 0, 3, equal_var=False).pvalue == pytest.approx(0.05)
    # a single training is taken to spread as the other arm does, and adds nothing to what is known of it
    uneven = compare(noisy, base, metrics=["auroc"], n_boot=100)
    expected = t_distribution.ppf(0.975, 2) * np.sqrt(sd**2 / 3 + sd**2)
    assert seed_noise(uneven.loc["overall"], "auroc", (3, 1)) == pytest.approx(expected)
    assert np.isnan(seed_noise(uneven.loc["overall"], "auroc", (2, 1))), "of two seeds nothing is said"
    text = compare_sentences(c)[0]
    assert f"no more than what other seeds change (about {noise:.3f})".replace("0.", ".") in text


def test_the_printed_table_fits_a_terminal_and_holds_the_numbers(compared):
    text = format_comparison(compared)
    assert max(map(len, text.splitlines())) < 100
    assert f"{compared.loc['XR_WRIST', 'auroc_b']:.3f}"[1:] in text
    assert "240 studies" in text and "DeLong" in text and "permutation" in text
    named = compare_sentences(compared)
    assert all(line.split(":")[0] in text for line in named)


def test_json_holds_every_number_of_the_table(compared):
    plain = json.loads(json.dumps(comparison_to_json(compared), allow_nan=False))
    back = pd.DataFrame(plain["comparisons"]["B"]).T[compared.columns]
    pd.testing.assert_frame_equal(back, compared, check_dtype=False, check_names=False)
    assert plain["n_common"] == 240 and plain["names"] == ["A", "B"]


def test_the_forest_shows_every_interval_and_fills_the_marks_of_what_is_shown(compared, arms, table, tmp_path):
    fig = plot_forest(compared, "auroc")
    left, right = fig.axes
    segments = right.collections[0].get_segments()
    np.testing.assert_allclose([s[:, 0] for s in segments], compared[["auroc_diff_lo", "auroc_diff_hi"]])
    shown = [line for line in right.lines if len(line.get_xdata()) and line.get_marker() == "s"]
    filled = next(line for line in shown if line.get_markerfacecolor() != "white")
    assert len(filled.get_xdata()) == (compared["auroc_p_adjusted"] < 0.05).sum()
    labels = [t.get_text() for t in left.get_yticklabels()]
    assert all(f"{n:.0f} (" in label for n, label in zip(compared["n"].iloc[:-1], labels[:-1], strict=True))
    three = compare(*arms, model(table, 5), names=["x", "$y", "z"], n_boot=20, n_perm=20)
    files = save_forests(three, tmp_path / "forest.png")
    assert [f.name for f in files] == ["forest.png", "forest-auroc.png"] and all(f.stat().st_size for f in files)
    with pytest.raises(InputError, match="brier"):
        plot_forest(compared, "brier")
    with pytest.raises(InputError, match="kind of picture"):
        save_forests(compared, tmp_path / "forest")


def test_every_studies_table_is_left_as_it_was(arms):
    before = [t.copy() for t in arms]
    compare(*arms, n_boot=20, n_perm=20)
    for t, kept in zip(arms, before, strict=True):
        pd.testing.assert_frame_equal(t, kept)
    assert len(to_studies(arms[0])) == 240
