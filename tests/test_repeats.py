"Folds and seeds: who is dealt where, what is kept and taken up again, and what the numbers over several trainings say."

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import wraps
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from mura_fastai.bench.frontier import frontier
from mura_fastai.data.sources import csv_images
from mura_fastai.data.studies import patient_split
from mura_fastai.errors import InputError
from mura_fastai.results.experiment import compare_runs, resume, train
from mura_fastai.results.metrics import score
from mura_fastai.results.pooling import to_studies
from mura_fastai.results.repeats import (
    decided_studies,
    evaluate_repeats,
    format_repeats,
    out_of_fold,
    repeats_of,
    score_repeats,
)
from mura_fastai.results.scoring import evaluate_run
from mura_fastai.results.tables import evaluate_file, read_predictions
from mura_fastai.training.beside import OF_WEIGHTS
from mura_fastai.training.edits import difference
from mura_fastai.training.plans import is_repeats, read_repeats
from mura_fastai.training.repeats import fold_tables, official_splits, sub_runs
from mura_fastai.training.resume import resume_run
from mura_fastai.training.runs import load_run, read_settings, train_run
from mura_fastai.training.state import state_file
from mura_fastai.training.tables import read_table

# 40 px: no other test has a store of this size
QUICK = dict(size=40, epochs=1, bs=8, num_workers=1, ci=None)
NAMES = ["fold0-seed3", "fold1-seed3", "fold0-seed4", "fold1-seed4"]


@pytest.fixture(scope="module")
def crossed(root, tmp_path_factory):
    "Two folds by two seeds on the shared phantom. Nobody changes it: copy it first."
    return train(root, tmp_path_factory.mktemp("repeats") / "run", folds=2, seeds=2, seed=3, **QUICK)[0]


@pytest.fixture
def own(crossed, tmp_path):
    "A copy that a test may change."
    return Path(shutil.copytree(crossed, tmp_path / "run"))


def times(run):
    return {p: p.stat().st_mtime_ns for p in sorted(run.rglob("*")) if p.is_file()}


# ---------------------------------------------------------------- who is dealt where


def test_folds_hold_no_patient_together_and_each_row_of_train_once(crossed, images):
    tables = [read_table(crossed / name / "images.csv") for name in NAMES[:2]]
    reported = [t[t.split == "valid"] for t in tables]
    dealt = images[images.split.isin(("train", "tune"))]
    assert sorted(pd.concat(reported).path) == sorted(dealt.path)
    assert not set(reported[0].patient) & set(reported[1].patient)
    for table in tables:
        sides = [set(table.patient[table.split == s]) for s in ("train", "tune", "valid")]
        assert all(sides) and not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]


def test_official_valid_rows_are_in_no_fold(crossed, images):
    spared = set(images.path[images.split == "valid"])
    for sub in sub_runs(crossed):
        assert not spared & set(read_table(sub / "images.csv").path)
        assert not spared & set(read_predictions(sub / "predictions.csv").path)


def test_folds_go_with_the_split_seed_and_not_with_the_seed(crossed, images):
    first, second = (pd.read_csv(crossed / f"fold1-seed{s}" / "images.csv") for s in (3, 4))
    pd.testing.assert_frame_equal(first, second)
    same, other = (fold_tables(images, 2, split_seed)[1] for split_seed in (0, 1))
    assert list(same.split) == list(first.split)
    assert set(other.path[other.split == "valid"]) != set(same.path[same.split == "valid"])


@pytest.mark.parametrize("column, official", [(False, set()), (True, {"train", "valid"})])
def test_valid_rows_are_dealt_too_where_the_source_has_no_split_of_its_own(tmp_path, images, column, official):
    rows = images.assign(path=[f"{i}.png" for i in range(len(images))]).replace({"split": {"tune": "train"}})
    for path, name in zip(images.path, rows.path, strict=True):
        os.link(path, tmp_path / name)
    rows[[c for c in rows if c != "split" or column]].to_csv(tmp_path / "own.csv", index=False)
    table = csv_images(tmp_path / "own.csv")
    assert (table.split == "valid").any() and official_splits(table, "csv") == official
    reported = pd.concat([t[t.split == "valid"] for t in fold_tables(table, 3, 0, official_splits(table, "csv"))])
    expected = table[table.split != "valid"] if official else table
    assert sorted(reported.path) == sorted(expected.path)


def test_fracatlas_has_no_official_split_and_mura_has(images):
    assert official_splits(images, "fracatlas") == set()
    assert "valid" in official_splits(images, "mura")


@pytest.mark.parametrize("plan, told", [(dict(folds=1), "two"), (dict(seeds=0), "one"), (dict(folds=999), "patients")])
def test_plans_that_cannot_be_carried_out_are_refused(root, tmp_path, plan, told):
    with pytest.raises(InputError, match=told):
        train(root, tmp_path / "run", **plan, **QUICK)


# ---------------------------------------------------------------- the folder


def test_each_training_is_a_whole_run_in_a_folder_that_says_what_was_asked(crossed):
    told, _ = read_repeats(crossed)
    assert (told["folds"], told["seeds"], told["settings"]["size"]) == (2, [3, 4], 40)
    assert told["data"]["fingerprint"] and is_repeats(crossed) and not is_repeats(crossed / NAMES[0])
    assert [p.name for p in sub_runs(crossed)] == NAMES
    for sub in sub_runs(crossed):
        settings = read_settings(sub)
        assert settings["data"]["fold"] == int(sub.name[4]) and settings["seed"] == int(sub.name[-1])
        assert json.loads((sub / "metrics.json").read_text())["split"] == "valid"
    assert load_run(sub).dls.size == 40
    assert evaluate_run(sub, ci=None).loc["overall", "n"] > 0


def test_a_training_in_it_is_the_one_that_the_same_table_and_seed_give_alone(crossed, tmp_path):
    sub = crossed / "fold1-seed4"
    options = dict(size=40, epochs=1, bs=8, num_workers=1, seed=4, store=read_settings(sub)["store"])
    alone = train_run(read_table(sub / "images.csv"), tmp_path / "alone", **options)
    evaluate_run(alone, ci=None)
    ours, theirs = (read_predictions(r / "predictions.csv").p_abnormal for r in (sub, alone))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_images_are_decoded_into_one_store_for_all_trainings(crossed, images):
    [store] = (Path(os.environ["MURA_CACHE"]) / "stores").glob("*-40")
    assert len(pd.read_csv(store / "index.csv")) == len(images)
    for sub in sub_runs(crossed):
        assert read_settings(sub)["store"] == str(store)


def test_a_single_run_and_several_do_not_share_a_folder(own, run, root, tmp_path):
    with pytest.raises(InputError, match="several"):
        train(root, own, **QUICK)
    with pytest.raises(InputError, match="single run"):
        train(root, shutil.copytree(run, tmp_path / "one"), seeds=2, **QUICK)


# ---------------------------------------------------------------- going on


def test_a_run_whose_state_cannot_be_read_just_now_is_left_alone(own):
    "Too many open files, a newer version: no reason to begin anew, and none to take anything away."
    (own / NAMES[0] / "metrics.json").unlink()
    state = state_file(own / NAMES[0])
    state.unlink()
    state.mkdir()
    with pytest.raises(InputError, match="cannot be read now"):
        resume(own, ci=None)
    assert (own / NAMES[0] / "weights" / "best.safetensors").exists()


@pytest.mark.parametrize("by", ["the same command", "mura resume"])
def test_what_is_not_finished_is_trained_and_ends_as_if_never_stopped(own, crossed, root, capsys, by):
    (own / NAMES[1] / "predictions.csv").unlink()  # trained, and killed before it was scored
    if by == "mura resume":  # its state damaged, as a copied folder can be
        state = state_file(own / NAMES[2])
        state.write_bytes(state.read_bytes()[:-9])
    else:  # killed in its first epoch
        (own / NAMES[2] / "history.csv").write_text("epoch\n")
        shutil.rmtree(own / NAMES[2] / "weights")
        for name in OF_WEIGHTS:
            (own / NAMES[2] / name).unlink(missing_ok=True)
    shutil.rmtree(own / NAMES[3])  # not begun
    (own / "notes.txt").write_text("mine")
    before = times(own / NAMES[0])
    if by == "mura resume":
        resume(own, ci=None)
    else:
        train(root, own, folds=2, seeds=2, seed=3, **QUICK)
    told = capsys.readouterr().err
    assert times(own / NAMES[0]) == before
    assert "fold 1 of 2, seed 3: finished before" in told and "fold 2 of 2, seed 3: not finished" in told
    assert "fold 1 of 2, seed 4: not finished" in told and "fold 2 of 2, seed 4: training" in told
    assert "official" in told
    assert [p.name for p in sub_runs(own)] == NAMES and (own / "notes.txt").read_text() == "mine"
    # What a damaged state had learned is kept beside.
    assert [p.parts[-3] for p in own.glob("*.aside1/weights/best.safetensors")] == (
        [f"{NAMES[2]}.aside1"] if by == "mura resume" else []
    )
    ours, theirs = (out_of_fold(r).filter(like="p_").astype(float) for r in (own, crossed))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize(
    "change, named",
    [
        (dict(epochs=2), "epochs 1, now epochs 2"),
        (dict(lr=0.5), "lr None, now lr 0.5"),
        (dict(seeds=1), r"seeds \[3, 4\], now seeds \[3\]"),
        (dict(folds=None), "folds 2, now folds None"),
        (dict(split_seed=9), "split_seed 0, now split_seed 9"),
    ],
)
def test_other_settings_are_refused_with_the_difference(own, root, change, named):
    before = times(own)
    with pytest.raises(InputError, match=named) as error:
        train(root, own, **{**QUICK, "folds": 2, "seeds": 2, "seed": 3, **change})
    assert "\n" not in str(error.value) and times(own) == before


def test_folds_beside_a_single_run_are_told_in_words(crossed, run):
    for arms in ((crossed, run), (run, crossed)):
        for ask in (compare_runs, frontier):
            with pytest.raises(InputError, match=f"{crossed} is cross-validated, {run} is not.*same --folds"):
                ask(list(arms))


@pytest.mark.parametrize("left", [3, 1, 0])
def test_some_of_the_folds_are_not_scored_and_how_many_are_done_is_told(own, mura, left):
    for name in NAMES[left:]:
        shutil.rmtree(own / name)
    before = times(own)
    n = f"{left} of 4 trainings of folds and seeds {'is' if left == 1 else 'are'} finished"
    one = f"; one by itself: mura evaluate {own / NAMES[0]}" if left else ""
    for command in (["evaluate", own], ["compare", own, own], ["report", own, "-o", own / "r.html"]):
        code, out, err = mura(*command)
        assert (code, out) == (2, "")
        assert err == f"mura: {own}: {n}, and all are needed; go on: mura resume {own}{one}\n"
    assert times(own) == before
    if left:
        assert mura("evaluate", own / NAMES[0], "--ci", "none")[0] == 0


def test_a_misspelt_setting_of_a_plan_is_named(own, mura):
    file = own / "repeats.yaml"
    told = yaml.safe_load(file.read_text())
    for name, said in (("epcohs", "settings.epcohs is unknown (did you mean settings.epochs?)"),
                       ("note", "settings.note is unknown;")):  # fmt: skip
        file.write_text(yaml.safe_dump(told | {"settings": told["settings"] | {name: 3}}))
        code, out, err = mura("resume", own)
        assert (code, out) == (2, "") and said in err and err.count("\n") == 1
    file.write_text(yaml.safe_dump(told | {"sedes": [1]}))
    assert "sedes is unknown (did you mean seeds?)" in mura("resume", own)[2]


def test_a_seed_can_be_added_and_leaves_the_others_alone(own, root):
    before = times(own / NAMES[0])
    scores = train(root, own, folds=2, seeds=3, seed=3, **QUICK)[1]
    assert [p.name for p in sub_runs(own)] == [*NAMES, "fold0-seed5", "fold1-seed5"]
    assert times(own / NAMES[0]) == before and scores.attrs["seeds"] == [3, 4, 5]
    assert {"p_seed3", "p_seed5"} <= set(pd.read_csv(own / "predictions.csv"))


def test_a_plan_of_an_earlier_version_that_asked_a_fresh_network_for_frozen_epochs_goes_on(own, root):
    plan = own / "repeats.yaml"
    record = yaml.safe_load(plan.read_text())
    assert record["settings"]["freeze_epochs"] == 0
    plan.write_text(yaml.safe_dump(record | {"settings": record["settings"] | {"freeze_epochs": 1}}))
    train(root, own, folds=2, seeds=2, seed=3, **QUICK)
    plan.write_text(yaml.safe_dump(record | {"settings": record["settings"] | {"freeze_epochs": 1}}))
    resume(own, ci=None)


def test_other_data_is_refused(own, root, tmp_path):
    data = Path(shutil.copytree(root, tmp_path / "data"))
    lines = (data / "train_labeled_studies.csv").read_text().splitlines()
    study = lines[0].rpartition(",")[0].partition("/")[2].rstrip("/")
    (data / "train_labeled_studies.csv").write_text("\n".join(lines[1:]) + "\n")
    paths = (data / "train_image_paths.csv").read_text().splitlines()
    (data / "train_image_paths.csv").write_text("\n".join(p for p in paths if study not in p) + "\n")
    with pytest.raises(InputError, match="begun with images"):
        train(data, own, folds=2, seeds=2, seed=3, **QUICK)


def test_a_fold_that_learned_nothing_keeps_its_rows_where_its_csv_was_written_anew(own):
    fold = own / NAMES[0]
    rows = read_table(fold / "images.csv")
    shutil.rmtree(fold / "weights")
    for name in OF_WEIGHTS:  # a kill between the first epoch's line of history and its weights leaves that line alone
        (fold / name).unlink(missing_ok=True)
    settings = yaml.safe_load((fold / "settings.yaml").read_text())
    settings["data"]["tables"] = dict.fromkeys(settings["data"]["tables"], "of other bytes, which said the same")
    (fold / "settings.yaml").write_text(yaml.safe_dump(settings))
    resume_run(fold)
    assert read_table(fold / "images.csv").equals(rows)


def test_a_training_whose_weights_are_gone_is_not_trained_over(own, root):
    shutil.rmtree(own / NAMES[0] / "weights")
    kept = {f.name: f.read_bytes() for f in (own / NAMES[0]).glob("*.csv")}
    for go_on in (
        lambda: resume_run(own / NAMES[0]),
        lambda: train(root, own, folds=2, seeds=2, seed=3, **QUICK),
    ):
        with pytest.raises(InputError, match="its weights are gone"):
            go_on()
    with pytest.raises(InputError, match="best.safetensors: gone, and the run's state with it"):
        load_run(own / NAMES[0])
    assert {f.name: f.read_bytes() for f in (own / NAMES[0]).glob("*.csv")} == kept and "history.csv" in kept


@pytest.mark.parametrize(
    "then, now, told", [(None, 1, "blank then, 1 now"), (1, None, "1 then, blank now"), (1, 1, None)]
)
def test_a_label_that_is_filled_in_or_blanked_is_an_edit(then, now, told):
    def table(label):
        rows = dict(study=["a", "b"], label=pd.array([0, label], "Int64"), path=["a.png", "b.png"])
        return pd.DataFrame(rows | dict(region="hand", patient=["a", "b"], split="train"))

    found = difference(table(then), table(now))
    assert found == (told and f"study b: label {told}")


def test_a_refused_call_leaves_the_plan_as_it_was(own, root, tmp_path):
    plan = (own / "repeats.yaml").read_bytes()
    other = tmp_path / "other"
    shutil.copytree(root, other / root.name)
    gone = (other / root.name / "train_labeled_studies.csv").read_text().splitlines()[-1].rpartition(",")[0]
    for file in (other / root.name).glob("train_*.csv"):
        file.write_text("".join(line for line in file.read_text().splitlines(True) if not line.startswith(gone)))
    with pytest.raises(InputError, match="begun with"):
        train(other / root.name, own, folds=2, seeds=5, seed=3, **QUICK)
    assert (own / "repeats.yaml").read_bytes() == plan


def test_other_patients_deal_other_folds_and_are_refused(images, tmp_path, monkeypatch, capsys):
    "What is studied, its labels and its split are the same: the fingerprint does not tell."
    from mura_fastai.training import repeats

    def stopped(table, run, **_):
        run.mkdir()
        (run / "settings.yaml").write_text("format: 1\narch: mura_cnn\nsize: 40\nepochs: 1\nbs: 8\nseed: 0\n")
        state_file(run).parent.mkdir(parents=True)
        state_file(run).touch()  # else nothing is lost by beginning anew
        raise KeyboardInterrupt

    monkeypatch.setattr(repeats, "train_run", wraps(repeats.train_run)(stopped))
    for table, error, told in (
        (images, KeyboardInterrupt, "stopped; to go on: call train_repeats again, with the same"),
        (images.assign(patient=images.patient.iloc[::-1].to_numpy()), InputError, ""),
    ):
        with pytest.raises(error) as e:
            repeats.train_repeats(table, tmp_path / "run", lambda _: None, folds=2, store=False, size=40)
        assert told in capsys.readouterr().err
    assert "begun with other regions or patients than the data has now" in str(e.value)


def test_two_processes_do_not_train_in_one_folder(own, root):
    code = "import filelock, sys\nwith filelock.FileLock(sys.argv[1]): print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, own / ".lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        with pytest.raises(InputError, match="another process"):
            train(root, own, folds=2, seeds=2, seed=3, **QUICK)
        other.stdin.close()


@pytest.mark.slow
def test_a_killed_process_is_taken_up_again(root, tmp_path):
    out = tmp_path / "run"
    start = [sys.executable, "-c", "from mura_fastai.cli import main; main()", "train", root, "--out", out, "--json"]
    options = dict(size=40, bs=8, workers=1, epochs=2, folds=2, seeds=2)
    command = [*start, *(o for k, v in options.items() for o in (f"--{k}", v))]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not (out / "fold1-seed0" / "history.csv").exists() and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert [p.name for p in sub_runs(out)] == ["fold0-seed0"]
    with pytest.raises(InputError, match="1 of 4 trainings of folds and seeds is finished"):
        repeats_of(out)
    before = times(out / "fold0-seed0")
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    assert times(out / "fold0-seed0") == before
    assert "fold 2 of 2, seed 0: not finished before" in done.stderr
    assert json.loads(done.stdout)["seeds"] == [0, 1] and len(sub_runs(out)) == 4


# ---------------------------------------------------------------- the predictions together


def test_the_table_has_each_image_once_with_a_column_a_seed(crossed, images):
    table = read_predictions(crossed / "predictions.csv")
    assert list(table.path) == list(images.path[images.split.isin(("train", "tune"))])
    np.testing.assert_allclose(table.p_abnormal, (table.p_seed3 + table.p_seed4) / 2)
    for name in NAMES:
        own = read_predictions(crossed / name / "predictions.csv").set_index("path").p_abnormal
        mine = table[table.fold == int(name[4])].set_index("path")[f"p_seed{name[-1]}"]
        assert len(own) and sorted(own.index) == sorted(mine.index)
        np.testing.assert_allclose(own, mine[own.index])
    label = table.label.to_numpy(float)
    np.testing.assert_allclose(table.loss, -np.log(np.where(label == 1, table.p_abnormal, 1 - table.p_abnormal)))


def test_the_table_is_scored_and_pooled_like_any_other(crossed):
    table = read_predictions(crossed / "predictions.csv")
    assert len(to_studies(table)) == table.study.nunique()
    pd.testing.assert_frame_equal(evaluate_file(crossed / "predictions.csv", ci=None), score(table, ci=None))


def test_without_folds_the_table_has_the_valid_rows_also_after_a_mistake_before_the_first_training(
    root, images, tmp_path
):
    with pytest.raises(InputError, match="no_such_network"):
        train(root, tmp_path / "run", seeds=2, arch="no_such_network", **QUICK)
    run, scores = train(root, tmp_path / "run", seeds=2, **QUICK)
    table = read_predictions(run / "predictions.csv")
    assert [p.name for p in sub_runs(run)] == ["seed0", "seed1"] and "fold" not in table
    assert list(table.path) == list(images.path[images.split == "valid"])
    assert scores.loc["overall", "n"] == table.study.nunique()


def test_scores_of_the_folder_are_those_of_its_seeds(crossed):
    scores = evaluate_repeats(crossed, ci=None)
    each = [score(t, ci=None) for t in repeats_of(crossed, decided_studies)]
    kappas = [s.loc["overall", "kappa"] for s in each]
    assert scores.loc["overall", "kappa"] == pytest.approx(np.mean(kappas))
    assert scores.loc["overall", "kappa_seed_sd"] == pytest.approx(abs(kappas[0] - kappas[1]) / np.sqrt(2))
    kept = json.loads((crossed / "metrics.json").read_text())
    assert (kept["folds"], kept["seeds"], kept["split"]) == (2, [3, 4], "valid")
    assert kept["scores"]["overall"]["auroc"] == pytest.approx(np.mean([s.loc["overall", "auroc"] for s in each]))
    assert kept["region_only"]["overall"]["n"] == kept["scores"]["overall"]["n"]


def test_a_decision_in_a_run_decides_its_fold(own):
    before = evaluate_repeats(own, ci=None).loc["overall"]
    for sub in sub_runs(own):
        # all of fold 0 abnormal, none of fold 1
        told = dict(format=1, threshold=float(sub.name[4]), temperature=1.0, pool="mean", by="fixed", regions={})
        (sub / "decision.yaml").write_text(yaml.safe_dump(told))
    after, table = evaluate_repeats(own, ci=None).loc["overall"], repeats_of(own)[0].drop_duplicates("study")
    assert after.sensitivity == pytest.approx((table.fold[table.label == 1] == 0).mean()) != before.sensitivity
    assert after.specificity == pytest.approx((table.fold[table.label == 0] == 1).mean())


# ---------------------------------------------------------------- scores over seeds


def predictions(seed=0, n=90, patients=40):
    "The same `n` studies of two views for every seed, with probabilities of their own."
    same, rng = np.random.default_rng(99), np.random.default_rng(seed)
    label, patient = same.integers(0, 2, n), same.integers(patients, size=n)
    p = np.clip(0.3 + 0.3 * label + 0.25 * rng.normal(size=(2, n)), 0, 1).round(2)
    rows = dict(region=np.where(np.arange(n) % 2, "XR_HAND", "XR_WRIST"), patient=[f"p{i}" for i in patient])
    rows |= dict(split="valid", study=[f"s{i:03}" for i in range(n)], label=label)
    return pd.concat(
        [pd.DataFrame(rows | dict(path=[f"/{i}-{v}" for i in range(n)], view=v, p_abnormal=p[v])) for v in (0, 1)]
    )


def decide(table, threshold):
    studies = to_studies(table)
    return studies.assign(abnormal=(studies.p_abnormal > threshold).astype(int))


def test_mean_and_spread_agree_with_scikit_learn_seed_by_seed():
    tables = [predictions(s) for s in range(4)]
    scores = score_repeats(tables, ci=None)
    for region in ("XR_HAND", "XR_WRIST", "overall"):
        found = []
        for table in tables:
            studies = table.groupby(["study", "region", "label"], as_index=False).p_abnormal.mean()
            studies = studies if region == "overall" else studies[studies.region == region]
            y, p = studies.label, studies.p_abnormal.round(12)
            found.append([cohen_kappa_score(y, p > 0.5), roc_auc_score(y, p)])
        row = scores.loc[region]
        np.testing.assert_allclose(row[["kappa", "auroc"]].astype(float), np.mean(found, 0))
        np.testing.assert_allclose(row[["kappa_seed_sd", "auroc_seed_sd"]].astype(float), np.std(found, 0, ddof=1))


def test_scores_of_decided_studies_are_those_of_their_own_decisions():
    thresholds = (0.3, 0.6)
    tables = [decide(predictions(s), t) for s, t in enumerate(thresholds)]
    scores, each = score_repeats(tables, ci=None), [score(t, ci=None) for t in tables]
    np.testing.assert_allclose(scores.kappa, (each[0].kappa + each[1].kappa) / 2)
    by_hand = [
        cohen_kappa_score(t.label.astype(int), t.p_abnormal > o) for t, o in zip(tables, thresholds, strict=True)
    ]
    assert scores.loc["overall", "kappa"] == pytest.approx(np.mean(by_hand))
    assert "as each run decides" in format_repeats(scores)


def test_identical_seeds_have_no_spread_and_the_interval_of_one():
    table = predictions()
    scores, one = score_repeats([table] * 3, n_boot=200), score(table, n_boot=200)
    pd.testing.assert_frame_equal(scores[list(one)], one, rtol=1e-9, atol=1e-12)
    assert (scores.filter(like="_seed_sd").to_numpy() < 1e-12).all()


def test_the_interval_is_that_of_the_mean_over_the_same_draws():
    "The luck of single seeds cancels in their mean, so that its interval is narrower than theirs."
    tables = [predictions(s) for s in range(4)]
    width = lambda s: np.subtract(*s.loc["overall", ["auroc_hi", "auroc_lo"]])  # noqa: E731
    scores, each = score_repeats(tables, n_boot=500), [score(t, n_boot=500) for t in tables]
    assert width(scores) < np.mean([width(s) for s in each])
    # by hand: the middle of the draws of the mean; BCa moves its ends by little where nothing is skewed
    rng, studies = np.random.default_rng(5), [to_studies(t) for t in tables]
    names = sorted(set(studies[0].patient))
    rows = {n: np.flatnonzero(studies[0].patient == n) for n in names}
    label = studies[0].label.to_numpy(int)
    draws = []
    for _ in range(200):
        again = np.concatenate([rows[n] for n in rng.choice(names, len(names))])
        draws.append(np.mean([roc_auc_score(label[again], s.p_abnormal[again]) for s in studies]))
    np.testing.assert_allclose(
        scores.loc["overall", ["auroc_lo", "auroc_hi"]].astype(float), np.quantile(draws, [0.025, 0.975]), atol=0.015
    )


def test_one_seed_has_no_spread_to_show():
    scores = score_repeats([predictions()], n_boot=50)
    assert scores.filter(like="_seed_sd").isna().all(axis=None) and "±" not in format_repeats(scores)


def test_tables_of_other_studies_or_labels_are_refused():
    table = predictions()
    for other in (table[table.study != "s003"], table.assign(label=1 - table.label)):
        with pytest.raises(InputError, match="differ"):
            score_repeats([table, other], ci=None)
    with pytest.raises(InputError, match="bootstrap or none"):
        score_repeats([table], ci="official")
    with pytest.raises(InputError, match="no table"):
        score_repeats([])


def test_the_printed_table_fits_a_terminal_and_says_which_number_is_which():
    scores = score_repeats([predictions(s) for s in range(3)], n_boot=100)
    text = format_repeats(scores)
    row = scores.loc["overall"]
    cell = "{kappa:.2f} [{kappa_lo:.2f}, {kappa_hi:.2f}] ± {kappa_seed_sd:.2f}".format(**row).replace("0.", ".")
    assert cell in text and max(map(len, text.splitlines())) < 100
    assert "3 trainings" in text and "interval" in text and "standard deviation between the seeds" in text


def test_a_region_of_one_class_is_not_available(capsys):
    tables = [t[(t.region != "XR_HAND") | (t.label == 0)] for t in map(predictions, (0, 1))]
    scores = score_repeats(tables, n_boot=50)
    assert np.isnan(scores.loc["XR_HAND", "kappa"]) and np.isnan(scores.loc["XR_HAND", "kappa_seed_sd"])
    assert "n/a (one class)" in format_repeats(scores) and "nan" not in format_repeats(scores)


def test_the_command_prints_the_scores_of_all_trainings(mura, root, own):
    options = ["--size", 40, "--epochs", 1, "--bs", 8, "--workers", 1, "--ci", "none", "--out", own]
    code, out, err = mura("train", root, "--folds", 2, "--seeds", 2, "--seed", 3, *options)
    assert code == 0 and "±" in out and str(own / "predictions.csv") in out
    assert err.count("finished before, kept") == 4
    code, out, _ = mura("train", root, "--folds", 2, "--seeds", 2, "--seed", 3, *options, "--json")
    told = json.loads(out)
    assert told["scores"]["overall"]["kappa_seed_sd"] >= 0 and told["seeds"] == [3, 4] and told["run"] == str(own)
    for metrics in ([], ["--metrics", "auroc, f1,brier"]):
        code, out, _ = mura("evaluate", own, *metrics)
        assert code == 0 and max(map(len, out.splitlines())) < 100 and "Always normal" in out
        head = out.splitlines()[0].split()
        assert len(head) == len(set(head)), "each score once"
    code, _, err = mura("evaluate", own, "--split", "tune")
    assert code == 2 and "give one of them" in err
    code, _, err = mura("audit", own, "--shortcuts")
    assert code == 2 and "holds several runs" in err
    code, _, err = mura("train", root, "--seeds", 2, "--ci", "official", "--out", own)
    assert code == 2 and "bootstrap or none" in err


def test_a_split_of_ones_own_makes_other_folds_possible(images):
    "A table that `patient_split` dealt is folded whole where it is said that nothing of it is official."
    table = patient_split(images)
    reported = pd.concat([t[t.split == "valid"] for t in fold_tables(table, 4, official=set())])
    assert sorted(reported.path) == sorted(table.path)
