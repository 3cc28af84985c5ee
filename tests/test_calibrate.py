"Thresholds and temperature: where an exhaustive search finds them, kept with the run, never chosen on the report."

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.optimize import brute
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score, log_loss, recall_score, roc_curve

from mura_fastai.errors import InputError
from mura_fastai.results.calibrate import (
    Decision,
    choose_decision,
    choose_threshold,
    decide_together,
    fit_temperature,
    read_decision,
    temper,
    write_decision,
)
from mura_fastai.results.compare import compare
from mura_fastai.results.metrics import score
from mura_fastai.results.pooling import to_studies
from mura_fastai.results.scoring import calibrate_run, decision_of, evaluate_run
from mura_fastai.results.tables import read_predictions


def studies_table(n=400, seed=0, boldness=1.0, split="tune", prefix=""):
    "One view a study, 30 % abnormal, log odds `boldness` times too far from zero."
    rng = np.random.default_rng(seed)
    label = (rng.random(n) < 0.3).astype(int)
    logit = np.log(0.3 / 0.7) + 1.5 * (label - 0.3) + rng.normal(size=n)
    # what the logit is worth, by an independent fit, so that a boldness of 1 is calibrated
    fit = LogisticRegression(C=1e9).fit(logit[:, None], label)
    p = 1 / (1 + np.exp(-boldness * fit.decision_function(logit[:, None])))
    names = [f"{prefix}s{i}" for i in range(n)]
    region = np.where(np.arange(n) % 4 == 0, "XR_HAND", "XR_WRIST")
    return pd.DataFrame(
        dict(path=names, study=names, patient=names, region=region, split=split, label=label, p_abnormal=p)
    )


@pytest.fixture(scope="module")
def tune():
    return studies_table()


# ---------------------------------------------------------------- choosing


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("digits", [1, 8])  # with many ties, with none
def test_no_threshold_has_a_better_kappa_or_youden_index(seed, digits):
    t = studies_table(120, seed)
    y, p = t.label.to_numpy(), t.p_abnormal.round(digits).to_numpy()
    best = max(cohen_kappa_score(y, p > c) for c in np.linspace(0, 1, 2001))
    assert cohen_kappa_score(y, p > choose_threshold(y, p, "kappa")) == pytest.approx(best)
    fpr, tpr, _ = roc_curve(y, p)
    said = p > choose_threshold(y, p, "youden")
    assert recall_score(y, said) + recall_score(1 - y, ~said) - 1 == pytest.approx((tpr - fpr).max())


@pytest.mark.parametrize("wanted", [0.5, 0.8, 0.9, 1.0])
def test_a_wanted_sensitivity_is_kept_with_the_fewest_false_alarms(tune, wanted):
    y, p = tune.label.to_numpy(), tune.p_abnormal.to_numpy()
    said = p > choose_threshold(y, p, f"sensitivity={wanted}")
    assert recall_score(y, said) >= wanted
    fpr, tpr, _ = roc_curve(y, p, drop_intermediate=False)
    assert recall_score(1 - y, ~said) == pytest.approx(1 - fpr[tpr >= wanted].min())


def test_the_threshold_lies_between_two_probabilities_and_separates_what_can_be_separated():
    assert choose_threshold([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9]) == pytest.approx(0.4)
    assert choose_threshold([0, 1, 0, 1], np.full(4, 0.3), "sensitivity=1") < 0.3


def test_of_equally_good_thresholds_the_one_nearest_to_one_half_is_taken():
    y, p = [0, 1, 0, 1], np.array([0.1, 0.2, 0.6, 0.9])
    assert cohen_kappa_score(y, p > 0.15) == cohen_kappa_score(y, p > 0.75) == 0.5
    assert choose_threshold(y, p) == pytest.approx(0.75)


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_boldness_and_no_other_has_a_smaller_loss(true):
    t = studies_table(2000, 1, true)
    y, p = t.label.to_numpy(), t.p_abnormal.to_numpy()
    found = fit_temperature(y, p)
    logits = np.log(p / (1 - p))
    grid = brute(lambda x: log_loss(y, 1 / (1 + np.exp(-logits / np.exp(x[0])))), [(-2, 2)], Ns=400)
    assert found == pytest.approx(np.exp(grid[0]), rel=1e-2) and found == pytest.approx(true, rel=0.02)


def test_a_temperature_keeps_the_order_and_one_changes_nothing():
    p = np.array([0, 0.1, 0.1, 0.4, 0.999, 1])
    np.testing.assert_array_equal(temper(p, 1), p)
    for t in (0.3, 4):
        changed = temper(p, t)
        assert (np.diff(changed) >= 0).all() and changed[1] == changed[2] and ((changed >= 0) & (changed <= 1)).all()


# ---------------------------------------------------------------- a decision


def test_a_decision_calibrates_studies_then_decides_and_a_region_may_have_its_own():
    views = pd.DataFrame(
        dict(
            path=list("abc"), study=["x", "x", "y"], region=["XR_HAND", "XR_HAND", "XR_WRIST"],
            patient=list("ppq"), label=[1, 1, 0], p_abnormal=[0.2, 0.6, 0.5],
        )
    )  # fmt: skip
    own = {"XR_HAND": {"threshold": 0.38, "temperature": 1.0}}
    got = Decision(threshold=0.4, temperature=2.0, regions=own).apply(views).set_index("study")
    assert got.loc["x", "p_abnormal"] == 0.4 and got.loc["x", "abnormal"] == 1
    assert got.loc["y", "p_abnormal"] == 0.5 and got.loc["y", "abnormal"] == 1
    assert Decision(threshold=0.4).apply(views)["abnormal"].tolist() == [0, 1]
    with pytest.raises(InputError, match="carry decisions already"):
        Decision().apply(got.reset_index())


def test_regions_with_too_few_studies_share_the_decision_of_all(tune):
    few = tune[(tune.region == "XR_WRIST") | (np.arange(len(tune)) < 60)]
    decision = choose_decision(few, per_region=True)
    assert set(decision.regions) == {"XR_WRIST"}
    wrist = few[few.region == "XR_WRIST"]
    assert decision.regions["XR_WRIST"]["temperature"] == fit_temperature(wrist.label, wrist.p_abnormal)


def test_scores_use_the_decision_and_say_so(tune):
    bold, decision = studies_table(300, 5, 3.0, "valid", "v"), choose_decision(studies_table(500, 4, 3.0))
    plain, decided = (score(bold, ci=None, **o).loc["overall"] for o in ({}, dict(decision=decision)))
    assert decided.ece < plain.ece / 2 and decided.brier < plain.brier and decided.auroc == plain.auroc
    studies = decision.apply(bold)
    assert decided.kappa == pytest.approx(cohen_kappa_score(studies.label.astype(int), studies.abnormal))
    assert score(studies, ci=None).loc["overall"].equals(decided), "studies that carry decisions are scored by them"
    told = score(bold, ci=None, decision=decision).attrs
    assert told["threshold"] == decision.threshold and told["decision"]["chosen_on"]["split"] == "tune"


def test_models_together_average_calibrated_probabilities_and_thresholds(tune):
    a, b = Decision(threshold=0.2), Decision(threshold=0.6, temperature=2.0)
    both = decide_together([tune, tune], [a, b])
    p = (tune.p_abnormal + temper(tune.p_abnormal, 2.0)) / 2
    np.testing.assert_allclose(both["p_abnormal"], p)
    assert (both["abnormal"] == (p > 0.4)).all()
    assert decide_together([tune], [a]).equals(a.apply(tune))
    with pytest.raises(InputError, match="differ in their studies"):
        decide_together([tune, tune[1:]], [a, b])


# ---------------------------------------------------------------- nothing is chosen on what is reported


def test_choosing_on_reported_rows_is_refused_unless_told_so_in_as_many_words(tune):
    valid = tune.assign(split="valid")
    with pytest.raises(InputError, match="tune_on_reported"):
        choose_decision(valid)
    with pytest.raises(InputError, match="would be chosen on the rows that are reported"):
        score(valid, threshold="kappa")
    with pytest.raises(InputError, match="400 patients are in the rows to choose on and in those reported"):
        score(valid, threshold="kappa", tune=tune)
    own = score(valid, ci=None, threshold="kappa", tune_on_reported=True)
    assert own.attrs["decision"]["chosen_on"]["split"] == "reported rows"
    other = studies_table(400, 9, prefix="t")
    honest = score(valid, ci=None, threshold="kappa", tune=other)
    assert honest.attrs["threshold"] == pytest.approx(choose_threshold(other.label, other.p_abnormal), abs=1e-6)
    assert own.loc["overall", "kappa"] >= honest.loc["overall", "kappa"]


def test_of_few_studies_nothing_is_chosen_unless_asked_for(tune):
    with pytest.raises(InputError, match="at least 20 of each label"):
        choose_decision(tune[:40])
    assert 0 < choose_decision(tune[:40], least=1).threshold < 1
    with pytest.raises(InputError, match="of one class"):
        choose_threshold([1, 1], [0.1, 0.2])


@pytest.mark.parametrize("rule", ["accuracy", "sensitivity", "sensitivity=90", "sensitivity=-1", ""])
def test_an_unknown_rule_is_refused_with_the_known_ones(tune, rule):
    with pytest.raises(InputError, match="give kappa, youden, or a wanted sensitivity"):
        choose_decision(tune, rule)


# ---------------------------------------------------------------- with a run


def test_a_decision_is_plain_yaml_and_comes_back_as_it_was(tune, tmp_path):
    decision = choose_decision(tune, "youden", per_region=True)
    write_decision(decision, tmp_path)
    assert read_decision(tmp_path) == decision and read_decision(tmp_path / "nowhere") is None
    assert yaml.safe_load((tmp_path / "decision.yaml").read_text())["format"] == 1


@pytest.mark.parametrize(
    "text",
    ["threshold: 2\ntemperature: 1\npool: mean\n", "threshold: 0.5\ntemperature: 0\npool: mean\n", "[1, 2]",
     "threshold: 0.5\ntemperature: 1\npool: median\n", "threshold: 0.5\ntemperature: 1\npool: mean\nregions: {a: 3}\n",
     "format: 1\n", "!!python/object/apply:os.system ['true']", "pool: {}\nthreshold: 1\ntemperature: 1",
     "threshold: .nan\ntemperature: 1\npool: mean\n", "format: 9\nthreshold: 0.5\ntemperature: 1\npool: mean\n"],
)  # fmt: skip
def test_a_spoiled_decision_is_refused_in_one_line(tmp_path, text):
    (tmp_path / "decision.yaml").write_text(text)
    with pytest.raises(InputError) as e:
        read_decision(tmp_path)
    assert "decision.yaml" in str(e.value) and "\n" not in str(e.value)


@pytest.fixture
def own_run(run, tmp_path):
    return shutil.copytree(run, tmp_path / "run")


def test_every_command_decides_as_the_run_does(mura, own_run, root, tmp_path):
    calibrate_run(own_run, threshold=0.0)  # everything is abnormal, so that nobody can have overlooked it
    told = json.loads(mura("evaluate", own_run, "--json")[1])
    assert told["scores"]["overall"]["sensitivity"] == 1 and told["scores"]["overall"]["specificity"] == 0
    assert told["threshold"] == 0
    matrices = json.loads(mura("interpret", own_run, "--json")[1])["confusion"]
    assert matrices["overall"][0][0] == 0 and matrices["overall"][0][1] > 0
    out = tmp_path / "c.csv"
    assert mura("predict", own_run, root / "valid_image_paths.csv", "-o", out)[0] == 0
    assert {line.split(",")[1] for line in out.read_text().split()} == {"1"}
    told = json.loads(mura("predict", own_run, root, "-o", tmp_path / "t.csv", "--json")[1])
    assert {s["abnormal"] for s in told["studies"]} == {1}
    code, text, _ = mura("evaluate", root, "--predictions", tmp_path / "t.csv", "--json")
    assert code == 0 and json.loads(text)["scores"]["overall"]["specificity"] == 0
    assert evaluate_run(own_run, ci=None, threshold=0.99).loc["overall", "sensitivity"] == 0


def test_a_run_without_a_decision_gets_one_from_its_tune_rows(own_run):
    (own_run / "decision.yaml").unlink(missing_ok=True)
    calibrate_run(own_run, least=1, by="youden")
    kept = read_decision(own_run)
    tune = pd.read_csv(own_run / "predictions-tune.csv")
    assert set(tune.split) == {"tune"} and kept == choose_decision(tune, "youden", least=1) == decision_of(own_run)


def test_another_threshold_leaves_the_temperature_and_the_pool_of_the_run(own_run):
    decision = calibrate_run(own_run, by="youden", pool="max", least=1)
    own = evaluate_run(own_run, ci=None)
    assert decision.temperature != 1 and decision.pool == "max"
    for threshold in (decision.threshold, "youden"):
        if isinstance(threshold, float):
            pd.testing.assert_frame_equal(evaluate_run(own_run, ci=None, threshold=threshold), own)
        else:
            with pytest.raises(InputError, match="at least 20 of each label"):
                evaluate_run(own_run, ci=None, threshold=threshold)
    kept = json.loads((own_run / "metrics.json").read_text())
    evaluate_run(own_run, ci=None, threshold=0.01)
    assert json.loads((own_run / "metrics.json").read_text()) == kept, "a look with another threshold is not kept"


def test_another_threshold_takes_the_place_of_those_of_regions_too(own_run):
    write_decision(Decision(regions={"XR_WRIST": {"threshold": 1.0, "temperature": 1.0}}), own_run)
    assert evaluate_run(own_run, ci=None).loc["XR_WRIST", "specificity"] == 1
    assert evaluate_run(own_run, ci=None, threshold=0.0).loc["XR_WRIST", "specificity"] == 0


def test_the_table_of_predict_is_decided_alike_in_python_and_on_the_command_line(mura, own_run, root, tmp_path):
    calibrate_run(own_run, by="youden", least=1)
    assert mura("predict", own_run, root, "-o", tmp_path / "t.csv")[0] == 0
    table = read_predictions(tmp_path / "t.csv")
    told = json.loads(mura("evaluate", "--predictions", tmp_path / "t.csv", "--json")[1])["scores"]["overall"]
    assert told["kappa"] == score(table, ci=None).loc["overall", "kappa"]
    assert compare(table, table, n_boot=10, n_perm=10).loc["overall", "kappa_a"] == told["kappa"]
    studies = table.drop_duplicates("study")
    assert told["kappa"] == pytest.approx(cohen_kappa_score(studies.label, studies.abnormal))
    # and the run's own file by the decision beside it
    told = json.loads(mura("evaluate", "--predictions", own_run / "predictions.csv", "--json")[1])["scores"]
    assert told == json.loads(mura("evaluate", own_run, "--json")[1])["scores"]


def test_scores_of_rows_that_were_trained_or_chosen_on_are_called_too_good(mura, own_run, root, tmp_path):
    for split, what in (("train", "trained on"), ("tune", "chosen on")):
        code, _, err = mura("evaluate", own_run, "--split", split, "--ci", "none")
        assert code == 0 and what in err and "too good" in err
    assert "too good" not in mura("evaluate", own_run, "--ci", "none")[2]
    assert "were trained on" in mura("predict", own_run, root, "-o", tmp_path / "t.csv")[2]


def test_rows_of_train_cannot_choose(tune):
    with pytest.raises(InputError, match="rows of train"):
        choose_decision(tune.assign(split="train"))
    with pytest.raises(InputError, match="rows of train"):
        score(studies_table(50, prefix="v"), threshold="kappa", tune=tune.assign(split="train"))
    for split in ("valid", "tune"):
        score(studies_table(50, prefix="v"), ci=None, threshold="kappa", tune=tune.assign(split=split))


def test_a_threshold_between_very_close_probabilities_is_kept_as_it_is(tmp_path):
    t = studies_table(100).assign(label=np.repeat([0, 1], 50), p_abnormal=np.repeat([4.0e-7, 4.2e-7], 50))
    decision = choose_decision(t, temperature=False)
    write_decision(decision, tmp_path)
    assert score(t, ci=None, decision=read_decision(tmp_path)).loc["overall", "kappa"] == 1


def test_a_sensitivity_that_no_threshold_reaches_is_refused():
    with pytest.raises(InputError, match="no threshold finds 100%: 50% of the abnormal have probability 0"):
        choose_threshold([0, 1, 1], [0.0, 0.0, 0.5], "sensitivity=1")


@pytest.mark.parametrize("wrong", [dict(threshold=1.2), dict(temperature=0), dict(pool="median")])
def test_a_decision_that_cannot_be_is_not_made(wrong):
    with pytest.raises(InputError, match=r"give|choose"):
        Decision(**wrong)


def test_rows_to_choose_on_without_a_rule_are_refused(tune):
    with pytest.raises(InputError, match="no rule to choose by"):
        score(tune, tune=tune)
    with pytest.raises(InputError, match="no rule to choose by"):
        score(tune, threshold=0.4, tune_on_reported=True)


def test_a_given_threshold_and_a_way_to_choose_one_exclude_each_other(mura, own_run):
    code, _, err = mura("calibrate", own_run, "--threshold", 0.4, "--by", "youden")
    assert code == 2 and "leave one of them out" in err


def test_too_small_a_tune_split_leaves_one_half_and_says_so(mura, own_run):
    (own_run / "decision.yaml").unlink(missing_ok=True)
    code, out, err = mura("evaluate", own_run, "--ci", "none")
    assert code == 0 and "abnormal above 0.5" in out and "at least 20 of each label" in err


def test_calibrate_prints_what_was_chosen_and_what_it_is_worth(mura, own_run):
    code, out, _ = mura("calibrate", own_run, "--by", "sensitivity=0.5", "--least", 1)
    assert code == 0 and "by sensitivity=0.5 on" in out and "[" in out
    code, out, _ = mura("calibrate", own_run, "--by", "sensitivity=0.5", "--least", 1, "--json")
    assert json.loads(out)["threshold"] == read_decision(own_run).threshold
    code, _, err = mura("calibrate", own_run, "--threshold", 3)
    assert code == 2 and "from 0 to 1" in err


def test_a_rule_for_a_file_needs_other_rows_or_plain_words(mura, own_run, tmp_path, tune):
    file, other = tmp_path / "p.csv", tmp_path / "tune.csv"
    tune.to_csv(file, index=False)
    studies_table(300, 3, prefix="o").to_csv(other, index=False)
    code, _, err = mura("evaluate", "--predictions", file, "--threshold", "youden")
    assert code == 2 and "--tune-on-reported" in err and len(err.splitlines()) == 1
    code, out, _ = mura("evaluate", "--predictions", file, "--threshold", "youden", "--tune", other)
    assert code == 0 and "threshold by youden on 300 studies of tune" in out
    code, out, _ = mura("evaluate", "--predictions", file, "--threshold", "youden", "--tune-on-reported")
    assert code == 0 and "on 400 studies of reported rows" in out
    code, out, _ = mura("evaluate", "--predictions", file, "--threshold", "0.3", "--json")
    t = to_studies(tune)
    expected = cohen_kappa_score(t.label.astype(int), t.p_abnormal > 0.3)
    assert json.loads(out)["scores"]["overall"]["kappa"] == pytest.approx(expected)
