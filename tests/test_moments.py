"What lies beside a run's weights is of these weights, although it was predicted with while it was trained."

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from fastcore.xml import to_xml
from forked import Mura

from mura_fastai.errors import InputError
from mura_fastai.models.weights import read_weights
from mura_fastai.results import moments
from mura_fastai.results.calibrate import Decision, read_decision, write_decision
from mura_fastai.results.interpret import MuraInterpretation
from mura_fastai.results.metrics import score
from mura_fastai.results.moments import Moment
from mura_fastai.results.predict import predict_images
from mura_fastai.results.scoring import calibrate_run, evaluate_run
from mura_fastai.results.tables import read_predictions, read_scores
from mura_fastai.share.cards import maps_of
from mura_fastai.share.report import losses_section
from mura_fastai.share.report_facts import read_facts
from mura_fastai.training import beside, best
from mura_fastai.training.alone import OWNER, alone, refuse_busy, trained_by
from mura_fastai.training.beside import KEPT, OF_WEIGHTS, best_file, placing, weights_mark
from mura_fastai.training.best import save_best
from mura_fastai.training.repeats import is_finished
from mura_fastai.training.runs import load_run
from mura_fastai.training.state import read_state, read_told, write_state
from mura_fastai.training.tables import read_table

UNIX = pytest.mark.skipif(sys.platform != "linux", reason="signals and /proc")


@pytest.fixture
def own(run, tmp_path):
    "A copy of the shared run that a test may change."
    return Path(shutil.copytree(run, tmp_path / "own"))


def kept(run):
    return {name for name in OF_WEIGHTS if (run / name).exists()}


def better(run, epoch=0):
    "What a training does at the end of an epoch that is better: other weights, and nothing of the former ones."
    save_best(run, {k: v * 1.5 if v.is_floating_point() else v for k, v in read_weights(best_file(run)).items()}, epoch)


def assert_of_its_weights(run):
    "What is kept is what the weights that are there say, predicted anew."
    learn, images = load_run(run), read_table(run / "images.csv")
    for split, name in KEPT.items():
        if (run / name).exists():
            ours = predict_images(learn, images[images.split == split])
            theirs = read_predictions(run / name)
            np.testing.assert_allclose(theirs.p_abnormal, ours.p_abnormal, atol=1e-6, err_msg=name)
    if (run / "metrics.json").exists():
        images = images[images.split == "valid"]
        scores = score(predict_images(learn, images), ci=None, decision=read_decision(run))
        told = read_scores(run / "metrics.json")["scores"]["overall"]
        assert {k: told[k] for k in ("kappa", "auroc")} == pytest.approx(
            dict(scores.loc["overall", ["kappa", "auroc"]])
        )


# ---------------------------------------------------------------- better weights while one predicts


@pytest.fixture
def while_predicting(monkeypatch):
    "Have something happen once, while a run is predicted with."
    predict, todo = moments.predict_images, []

    def disturbed(learn, images, **kwargs):
        preds = predict(learn, images, **kwargs)
        if todo:
            todo.pop()()
        return preds

    monkeypatch.setattr(moments, "predict_images", disturbed)
    return todo.append


def test_what_was_made_with_former_weights_is_shown_and_not_kept(own, while_predicting):
    before = evaluate_run(own, ci=None)
    for name in kept(own):
        (own / name).unlink()
    while_predicting(lambda: better(own))
    shown = evaluate_run(own, ci=None)  # the network is in memory: all of it is of one moment
    pd.testing.assert_frame_equal(shown, before)
    assert not kept(own)
    after = evaluate_run(own, ci=None)
    assert kept(own) == set(OF_WEIGHTS) and not after.equals(before)
    assert_of_its_weights(own)


def test_a_choice_on_former_weights_is_refused(own, while_predicting):
    (own / "decision.yaml").unlink(missing_ok=True)
    (own / KEPT["tune"]).unlink(missing_ok=True)
    while_predicting(lambda: better(own))
    with pytest.raises(InputError, match="better weights were put there meanwhile"):
        calibrate_run(own, least=1)
    assert not kept(own)
    calibrate_run(own, least=1)
    assert kept(own) == {KEPT["tune"], "decision.yaml"}


def test_a_choice_of_ones_own_meanwhile_stays(own, while_predicting):
    for name in kept(own):
        (own / name).unlink()
    now = Moment(own)
    while_predicting(lambda: write_decision(Decision(0.25), own))
    assert now.decision().threshold == 0.25 == read_decision(own).threshold


def test_no_threshold_is_guessed_where_the_weights_are_others_or_damaged(own, root):
    (own / "decision.yaml").unlink(missing_ok=True)
    (own / KEPT["tune"]).unlink(missing_ok=True)
    now = Moment(own)
    better(own)
    with pytest.raises(InputError, match="give the command again"):
        now.decision()
    best_file(own).write_bytes(b"x" * 100)
    with pytest.raises(InputError, match="best.safetensors"):
        Moment(own).decision()
    best_file(own).unlink()
    with pytest.raises(InputError, match="best.safetensors: not there"):
        Moment(own).decision()


def test_without_images_to_choose_on_abnormal_is_above_a_half(own, capsys):
    for name in kept(own):
        (own / name).unlink()
    table = pd.read_csv(own / "images.csv")
    table.assign(path=table.path + ".gone").to_csv(own / "images.csv", index=False)
    assert Moment(own).decision() == Decision() and "on its own tune images" in capsys.readouterr().err
    table[table.split != "tune"].to_csv(own / "images.csv", index=False)
    assert Moment(own).decision() == Decision() and "no rows of split 'tune'" in capsys.readouterr().err


def test_heat_maps_are_of_the_weights_that_predicted(own):
    Moment(own).predictions()
    interp = MuraInterpretation.from_run(own)
    facts = read_facts(own, "run")
    better(own)
    with pytest.raises(InputError, match="give the command again"):
        interp.heat_maps(interp.top_losses(1))
    with pytest.raises(InputError, match="give the command again"):
        maps_of(facts.interp.preds[:1], {None: facts.interp.moment})


@pytest.mark.parametrize("folds", [None, 2])
def test_heat_maps_of_several_runs_are_of_the_weights_that_predicted(own, tmp_path, folds):
    "The former ones made the predictions that are shown; one of the runs is trained anew meanwhile."
    evaluate_run(own, ci=None)
    names, seeds = (["seed0", "seed1"], [0, 1]) if folds is None else (["fold0-seed0", "fold1-seed0"], [0])
    for name in names:
        shutil.copytree(own, tmp_path / "several" / name)
        if folds:  # each fold reports on its own rows
            file, k = tmp_path / "several" / name / "predictions.csv", names.index(name)
            table = pd.read_csv(file)
            table[table.patient.isin(sorted(set(table.patient))[k::2])].to_csv(file, index=False)
    plan = dict(format=1, folds=folds, seeds=seeds)
    (tmp_path / "several" / "repeats.yaml").write_text(yaml.safe_dump(plan))
    assert "No heat maps" not in to_xml(losses_section(read_facts(tmp_path / "several", "run"), 2, True, 4))
    facts = read_facts(tmp_path / "several", "run")
    better(tmp_path / "several" / names[0])
    text = to_xml(losses_section(facts, 2, True, 4))
    assert "No heat maps: " in text and "give the command again" in text


def test_kept_files_and_other_weights_are_never_mixed(own):
    now = Moment(own)
    assert now.predictions() is not None
    better(own)
    with pytest.raises(InputError, match="give the command again"):
        now.predictions(split="tune")  # neither of the former weights, which are gone, nor of these
    assert not kept(own)


def test_a_run_in_training_is_read_at_once_and_told_so(own, capsys):
    with alone(own):
        assert trained_by(own) is None, "the process itself is no other"
    code = "import sys; from mura_fastai.training.alone import alone\n"
    code += "with alone(sys.argv[1]): print(flush=True); sys.stdin.read()"
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", code, own], **pipes) as other:
        other.stdout.readline()
        now = Moment(own)
        assert f"another process ({other.pid} on" in capsys.readouterr().err
        expected = now.predictions(split="tune").p_abnormal
        better(own)
        np.testing.assert_allclose(now.predictions(split="tune").p_abnormal, expected, atol=1e-6)
        best_file(own).unlink()
        with pytest.raises(InputError, match="is training its first epoch"):
            load_run(own)
        other.kill()
    assert trained_by(own) is None, "the dead do not train, whatever they left"


def test_a_choice_for_a_run_in_training_is_made_and_said_to_pass(own, mura):
    code = "import sys; from mura_fastai.training.alone import alone\n"
    code += "with alone(sys.argv[1]): print(flush=True); sys.stdin.read()"
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", code, own], **pipes) as other:
        other.stdout.readline()
        for how in (["--least", 1], ["--threshold", 0.4]):
            code, out, err = mura("calibrate", own, *how)
            first = err.splitlines()[0]
            assert code == 0 and out and read_decision(own) is not None
            assert f"another process ({other.pid} on" in first and "with its next better epoch this choice is" in first
            assert "calibrate after its end" in first
        other.kill()
    assert mura("calibrate", own, "--threshold", 0.4)[2] == "", "nobody trains it now"


@pytest.mark.parametrize("host", ["oldcontainer", socket.gethostname()])
def test_what_a_dead_training_said_of_itself_is_no_training(own, capsys, host):
    "A container that is gone, a folder that was copied, a number that another process has by now."
    told = dict(pid=os.getppid(), host=host, since="2026-01-01 00:00:00")
    (own / OWNER).write_text(json.dumps(told))
    for lock in (True, False):
        assert (own / ".lock").exists() == lock, "the training left it"
        assert trained_by(own) is None and refuse_busy(own) is None
        Moment(own)
        assert "training" not in capsys.readouterr().err
        best = best_file(own).rename(own / "aside")
        with pytest.raises(InputError, match="best.safetensors: not there.* mura resume"):
            load_run(own)
        best.rename(best_file(own))
        (own / ".lock").unlink(missing_ok=True)


@UNIX
def test_where_no_lock_can_be_asked_its_owner_is_believed(own, monkeypatch):
    def refused(*_):
        raise OSError(errno.ENOLCK, "no locks")

    (own / OWNER).write_text(json.dumps(dict(pid=7, host="oldcontainer", since="2026-01-01 00:00:00")))
    monkeypatch.setattr("fcntl.flock", refused)
    assert trained_by(own).endswith("(7 on oldcontainer, since 2026-01-01 00:00:00; if that is no more: mura resume)")
    with placing(own):
        pass


@UNIX
@pytest.mark.parametrize("kind", ["a folder", "a pipe", "a file above"])
def test_weights_that_are_no_file_are_refused_and_not_waited_for(own, kind):
    if kind == "a file above":
        shutil.rmtree(own / "weights")
        (own / "weights").write_text("x")
    else:
        best_file(own).unlink()
        os.mkfifo(best_file(own)) if kind == "a pipe" else best_file(own).mkdir()
    with pytest.raises(InputError, match=r"best\.safetensors: .*; bring the weights back"):
        Moment(own)


@UNIX
@pytest.mark.parametrize("kind", ["a folder", "a link"])
def test_what_is_no_lock_is_named(own, kind):
    (own / beside.LOCK).unlink(missing_ok=True)
    (own / beside.LOCK).mkdir() if kind == "a folder" else (own / beside.LOCK).symlink_to(own / "images.csv")
    with pytest.raises(InputError, match=r"\.keeping: .*; remove it"), placing(own):
        pass


@UNIX
def test_what_a_dead_machine_left_among_the_weights_goes_with_the_next_training(own):
    "Only who holds the lock writes there; in the run's folder others do."
    name = ".best.0123456789ab-1-0123456789abcdef.safetensors"
    last = own / "weights" / "last"
    last.mkdir(exist_ok=True)
    for folder in (own, last.parent, last):
        (folder / name).write_bytes(b"half")
    with alone(own):
        assert [(f / name).exists() for f in (own, last.parent, last)] == [True, False, False]


# ---------------------------------------------------------------- a crash between two steps


def test_weights_that_a_crash_swallowed_are_no_finished_run(run, own):
    "Killed between the last state and the weights of the last epoch, then evaluated, as if all was done."
    assert is_finished(own)
    state = read_state(own)
    assert state.told["best"][1] == 0
    state.told["rows"].append({**state.told["rows"][0], "epoch": 1})
    state.told["best"][1], state.told["place"], state.told["settings"]["epochs"] = 1, [0, 2, 0], 2
    state.tensors |= {k: v + 1 for k, v in state.tensors.items() if k.startswith("model.") and v.is_floating_point()}
    write_state(own, state)
    evaluate_run(own, ci=None)
    assert kept(own) == set(OF_WEIGHTS) and not is_finished(own)
    best.mend_best(_keeper(own, state), state)
    weights = read_weights(best_file(own))
    assert not kept(own) and all(torch.equal(v, weights[k]) for k, v in state.part("model").items())
    evaluate_run(own, ci=None)
    assert is_finished(own)


def _keeper(run, state):
    keeper = best.KeepBest(run, type("Rows", (), {"rows": state.told["rows"]}))
    keeper.best, keeper.epoch_kept = state.told["best"]
    return keeper


def test_what_was_made_goes_before_the_weights_and_for_good(own, monkeypatch):
    "A power cut between the two leaves former weights and nothing made with them."
    done, flush = [], beside.flush_folder
    monkeypatch.setattr(beside, "flush_folder", lambda folder: done.append(str(folder)) or flush(folder))

    def cut(*_):
        assert not kept(own) and done == [str(own)]
        raise KeyboardInterrupt

    monkeypatch.setattr(best, "write_bytes", cut)
    before = best_file(own).read_bytes()
    with pytest.raises(KeyboardInterrupt):
        better(own)
    assert best_file(own).read_bytes() == before


def test_a_run_of_an_earlier_version_is_finished_although_its_weights_tell_no_epoch(own):
    from safetensors.torch import save_file

    save_file(read_weights(best_file(own)), best_file(own))
    assert not best.lacks_best(own, read_told(own)) and is_finished(own)


# ---------------------------------------------------------------- real processes


@pytest.fixture(scope="module")
def commands(tmp_path_factory, own_cache):
    mura = Mura(tmp_path_factory.mktemp("told"))
    yield mura
    mura.close()


@pytest.fixture
def training(commands, root, tmp_path):
    "A training of many short epochs, under way; its folder."
    how = dict(size=32, bs=16, workers=1, epochs=14, lr=1e-4, ci="none")
    options = [o for k, v in how.items() for o in (f"--{k}", v)]
    process = commands.start("train", root, *options, "--out", tmp_path / "run")
    return process.until(best_file(tmp_path / "run").exists), tmp_path / "run"


def wait_for(there, seconds=3):
    "As long as it may take, and not for ever: a process that is stopped may hold a lock."
    end = time.monotonic() + seconds
    while not there() and time.monotonic() < end:
        time.sleep(0.005)
    return there()


@UNIX
@pytest.mark.slow
def test_scoring_beside_a_training_leaves_nothing_of_former_weights(commands, training):
    "Each is stopped in the middle until better weights are there, and every third is killed then."
    (process, run), rng, ends, overtaken = training, np.random.default_rng(0), [], 0
    while process.alive():
        mark = weights_mark(run)
        other = commands.start("evaluate", run, "--ci", "none")
        time.sleep(rng.uniform(0.05, 0.5))
        other.kill(signal.SIGSTOP)
        wait_for(lambda m=mark: weights_mark(run) != m or not process.alive())
        overtaken += weights_mark(run) != mark
        other.kill(signal.SIGCONT)
        if len(ends) % 3 == 2:
            time.sleep(rng.uniform(0, 0.3))
            other.kill()
        ends.append(other.end())
        assert ends[-1][0] in (0, -signal.SIGKILL), ends[-1][2]
        process.kill(signal.SIGSTOP)
        assert_of_its_weights(run)
        process.kill(signal.SIGCONT)
    code, _, err = process.end()
    assert code == 0, err
    assert overtaken > 1 and any("is training it" in err for _, _, err in ends)
    assert kept(run) == set(OF_WEIGHTS)
    assert_of_its_weights(run)


@UNIX
@pytest.mark.slow
def test_a_training_that_is_killed_beside_one_that_scores_leaves_nothing_of_former_weights(commands, training):
    process, run = training
    for wait in (0.2, 0.4, 0.3):
        other = commands.start("evaluate", run, "--ci", "none")
        time.sleep(wait)
        process.kill().end()
        assert other.end()[0] == 0
        assert_of_its_weights(run)
        if wait != 0.3:
            epochs = len(read_told(run)["rows"])
            process = commands.start("resume", run, "--ci", "none")
            process.until(lambda n=epochs: len(read_told(run)["rows"]) > n)


@UNIX
def test_a_lock_of_another_process_is_waited_for(own, tmp_path):
    code = "import filelock, sys\nwith filelock.FileLock(sys.argv[1]): print('held', flush=True); sys.stdin.readline()"
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with subprocess.Popen([sys.executable, "-c", code, own / beside.LOCK], **pipes) as other:
        other.stdout.readline()
        before = best_file(own).read_bytes()
        pid = os.fork()
        if pid == 0:
            better(own)
            os._exit(0)
        time.sleep(0.3)
        assert best_file(own).read_bytes() == before and kept(own)
        other.stdin.write("\n")
        other.stdin.flush()
        assert os.waitpid(pid, 0)[1] == 0
    assert best_file(own).read_bytes() != before and not kept(own)
    with placing(own):
        pass
