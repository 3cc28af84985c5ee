"An interrupted training ends as one that never was: to the last bit, wherever and however it was interrupted."

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from forked import Mura
from safetensors.torch import load_file, save_file
from whole import state_parts

from mura_fastai.data.loaders import mura_dls
from mura_fastai.errors import InputError
from mura_fastai.files import aside_of, replacing, sweep
from mura_fastai.results import experiment
from mura_fastai.results.experiment import resume, train
from mura_fastai.training import best, fitting, keeping, schedules
from mura_fastai.training.beside import OF_WEIGHTS
from mura_fastai.training.interrupts import Stops, saying_how_to_go_on
from mura_fastai.training.keeping import KeepState
from mura_fastai.training.resume import resume_run
from mura_fastai.training.runs import train_run
from mura_fastai.training.state import read_state, read_told, state_file

QUICK = dict(size=32, bs=8, num_workers=1)


@pytest.fixture(autouse=True, scope="module")
def hangups():
    "`nohup` starts the tests, and what they start, with a lost terminal ignored."
    if not hasattr(signal, "SIGHUP") or signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


UNIX = pytest.mark.skipif(sys.platform != "linux", reason="signals and /proc")


class Cut(BaseException):
    "Stands for whatever ends a process: nothing in the package heeds it."


def stop(*_):
    raise Cut


@pytest.fixture(scope="module")
def few(images):
    "Some rows of the shared phantom: four batches of 8 an epoch."
    return pd.concat([images[images.split == s].head(n) for s, n in (("train", 32), ("tune", 8), ("valid", 8))])


@pytest.fixture
def cut(monkeypatch):
    "Have the training end without notice once it has seen so many batches, those of tune among them."
    after_batch, seen = KeepState.after_batch, [0]

    def set_cut(at):
        def counted(self):
            after_batch(self)
            seen[0] += 1
            if seen[0] == at:
                raise Cut

        seen[0] = 0
        monkeypatch.setattr(KeepState, "after_batch", counted)

    return set_cut


def history(run):
    return pd.read_csv(run / "history.csv").drop(columns="seconds")


@contextmanager
def seen_states(seen):
    "Meanwhile all states that are written: by their places, part by part."
    write = keeping.write_state

    def written(folder, state):
        seen[state.place] = state_parts(state)
        write(folder, state)

    with pytest.MonkeyPatch.context() as m:
        m.setattr(keeping, "write_state", written)
        yield seen


def assert_same(run, other):
    "Last weights, generators, place, history and best weights are the same to the last bit."
    assert state_parts(read_state(run)) == state_parts(read_state(other))
    pd.testing.assert_frame_equal(history(run), history(other), check_exact=True)
    for name in ("weights/best.safetensors", "predictions.csv"):
        if (other / name).exists():
            assert (run / name).read_bytes() == (other / name).read_bytes(), name


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    "A file of weights for a tiny network of timm, whose body is then trained from them."
    import timm

    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file({k: v.contiguous() for k, v in timm.create_model("test_resnet").state_dict().items()}, file)
    return file


# ---------------------------------------------------------------- the same to the last bit

# Of 4 training batches and 1 tune batch an epoch; the batches between two states, and where it is cut.
CASES = {
    "after an epoch": (dict(epochs=2), None, [7]),
    "after two of three epochs, whose ninths do not add up": (dict(epochs=3, bs=10), None, [9]),
    "in mid-epoch": (dict(epochs=2), 2, [8]),
    "after the last batch of an epoch": (dict(epochs=2), 4, [5]),
    "again and again": (dict(epochs=2), 1, [1, 2, 3]),
    "on a plateau": (dict(epochs=3, lr=1e-6, schedule="plateau", optimizer="adam"), 2, [13]),
    "in 16 bits, the loss scaled": (dict(epochs=1, precision="fp16", arch="test_resnet", pretrained=False), 2, [3]),
    "studies, their views pooled": (dict(epochs=2, views="attention", bs=4), 2, [4]),
    "the head of a pretrained network alone": (dict(epochs=1, freeze_epochs=2), 2, [8]),
    "between head and body": (dict(epochs=1, freeze_epochs=1), None, [6]),
    "all of a pretrained network": (dict(epochs=1, freeze_epochs=1, layer_decay=0.5), 2, [8]),
    "a pretrained network that was never frozen": (dict(epochs=1, freeze_epochs=0), 2, [3]),
}


@pytest.fixture(scope="module")
def undisturbed_states():
    "Of each run that `whole` has made: its states after every batch."
    return {}


@pytest.fixture(scope="module")
def whole(few, tmp_path_factory, undisturbed_states):
    "A run of these settings that nobody interrupted, made once. Nobody changes it."
    made = {}

    def of(settings):
        key = repr(settings)
        if key not in made:
            out = tmp_path_factory.mktemp("whole") / "run"
            with seen_states({}) as seen:
                made[key] = train_run(few, out, store=False, save_every=1, **QUICK | settings)
            undisturbed_states[out] = seen
        return made[key]

    return of


@pytest.mark.parametrize("case", CASES)
def test_interrupted_anywhere_it_goes_on_and_ends_as_if_never(
    few, pretrained, whole, undisturbed_states, tmp_path, cut, case
):
    settings, every, cuts = CASES[case]
    if "freeze_epochs" in settings:
        settings = settings | dict(arch="test_resnet", weights=pretrained)
    expected = whole(settings)
    cut(cuts[0])
    with pytest.raises(Cut):
        train_run(few, tmp_path / "run", store=False, save_every=every, **QUICK | settings)
    for at in cuts[1:]:
        cut(at)
        with pytest.raises(Cut):
            resume_run(tmp_path / "run")
    assert not read_told(tmp_path / "run")["done"]
    cut(None)
    told = tmp_path / "run" / "settings.yaml"
    told.write_text(yaml.safe_dump(yaml.safe_load(told.read_text()) | {"save_every": 1}))
    with seen_states({}) as seen:
        resume_run(tmp_path / "run")
    assert_same(tmp_path / "run", expected)
    # The last state knows no optimizer any more; those in the middle of an epoch do.
    assert any("tensors of opt" in parts and place[2] for place, parts in seen.items())
    for place, parts in seen.items():
        assert parts == undisturbed_states[expected][place], place


def test_with_other_threads_it_goes_on_to_the_same_bits(few, whole, tmp_path, cut):
    cut(8)
    with pytest.raises(Cut):
        train_run(few, tmp_path / "run", epochs=2, store=False, save_every=2, **QUICK)
    cut(None)
    resume_run(tmp_path / "run", num_workers=3)
    assert_same(tmp_path / "run", whole(dict(epochs=2)))


def test_on_a_plateau_the_rate_falls_at_the_same_epoch(few, tmp_path, cut, monkeypatch, capsys):
    "No loss is low enough here: after two epochs without a better one, the first of them before the interruption."
    for name, value in (("min_delta", 1e9), ("patience", 2)):
        monkeypatch.setitem(schedules.PLATEAU, name, value)
    settings = QUICK | dict(epochs=4, lr=1e-3, schedule="plateau", optimizer="adam", store=False)
    whole = train_run(few, tmp_path / "whole", **settings)
    assert history(whole).lr.tolist() == pytest.approx([1e-3, 1e-3, 1e-3, 1e-4])
    cut(13)
    with pytest.raises(Cut):
        train_run(few, tmp_path / "run", save_every=2, **settings)
    told = read_told(tmp_path / "run")
    assert told["place"] == [0, 2, 2] and told["plateau"][0][1] == 1
    cut(None)
    capsys.readouterr()
    resume_run(tmp_path / "run")
    assert "learning rate 0.0001 from here on" in capsys.readouterr().err
    assert_same(tmp_path / "run", whole)


@pytest.mark.parametrize("by", ["image", "study"])
def test_a_pass_may_begin_at_any_of_its_batches(few, by):
    dl = mura_dls(few, 32, 4, by=by, max_views=1, batch_tfms=[], device="cpu").train
    before = dl.rng.getstate()
    whole = list(dl)
    for first in (2, len(whole)):
        dl.rng.setstate(before)
        dl.first_batch = first
        rest = list(dl)
        assert len(rest) == len(whole) - first and len(dl.made) == len(whole)
        for got, meant in zip(rest, whole[first:], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(got, meant, strict=True))
    assert len(list(dl)) == len(whole), "the next pass begins at its start"


def test_pretrained_weights_are_not_needed_again(few, pretrained, tmp_path, cut):
    file = shutil.copy(pretrained, tmp_path / "own.safetensors")
    cut(6)
    with pytest.raises(Cut):
        train_run(few, tmp_path / "run", epochs=1, arch="test_resnet", weights=file, **QUICK)
    Path(file).unlink()
    assert read_told(resume_run(tmp_path / "run"))["done"]


def test_before_anything_was_learned_it_starts_anew(few, whole, tmp_path, cut, capsys):
    cut(1)
    with pytest.raises(Cut):
        train_run(few, tmp_path / "run", epochs=2, store=False, **QUICK)
    assert read_state(tmp_path / "run") is None
    cut(None)
    resume_run(tmp_path / "run")
    assert "from the start" in capsys.readouterr().err
    assert_same(tmp_path / "run", whole(dict(epochs=2)))


def test_settings_are_on_disk_before_the_data_is_read(root, tmp_path, monkeypatch):
    read = experiment.read_data

    def stopped(*_):
        raise Cut

    monkeypatch.setattr(experiment, "read_data", stopped)
    with pytest.raises(Cut):
        train(root, tmp_path / "run", epochs=1, regions="XR_WRIST,XR_HAND", ci=None, **QUICK)
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"settings.yaml", ".lock"}
    with pytest.raises(InputError, match="mura resume"):
        experiment.evaluate(tmp_path / "run")
    monkeypatch.setattr(experiment, "read_data", read)
    _, scores = resume(tmp_path / "run", ci=None)
    assert list(scores.index) == ["XR_HAND", "XR_WRIST", "overall", "macro"]


def test_the_plan_of_folds_is_on_disk_before_the_data_is_read(root, tmp_path, monkeypatch):
    read, run = experiment.read_data, tmp_path / "run"

    monkeypatch.setattr(experiment, "read_data", stop)
    with pytest.raises(Cut):
        train(root, run, epochs=1, seeds=2, store=False, regions="XR_WRIST,XR_HAND", ci=None, **QUICK)
    assert {p.name for p in run.iterdir()} == {"repeats.yaml", ".lock"}
    monkeypatch.setattr(experiment, "read_data", read)
    _, scores = resume(run, ci=None)
    assert list(scores.index) == ["XR_HAND", "XR_WRIST", "overall", "macro"] and scores.attrs["seeds"] == [0, 1]
    told = [yaml.safe_load((run / name).read_text()) for name in ("repeats.yaml", "seed1/settings.yaml")]
    assert told[0]["data"]["fingerprint"] == told[1]["data"]["fingerprint"]
    assert not told[0]["settings"]["store"] and not told[1]["store"], "it was begun without a store"


def test_a_plan_that_meets_wrong_input_leaves_nothing(root, tmp_path):
    with pytest.raises(InputError, match="XR_NOSE"):
        train(root, tmp_path / "a" / "run", seeds=2, regions="XR_NOSE", **QUICK)
    assert not list(tmp_path.iterdir())


def test_to_go_on_is_offered_where_there_is_something_to_go_on_with(tmp_path, capsys):
    def said(**options):
        with pytest.raises(KeyboardInterrupt), saying_how_to_go_on(tmp_path, **options):
            raise KeyboardInterrupt
        return capsys.readouterr().err

    assert "resume" not in said() and said(command="mura demo") == "stopped; to go on: mura demo\n"
    (tmp_path / "repeats.yaml").touch()
    assert said() == f"stopped; to go on: mura resume {tmp_path}\n"


@pytest.mark.slow
def test_folds_and_seeds_go_on_in_the_middle_of_one(root, tmp_path, capsys):
    options = dict(seeds=2, epochs=2, regions="XR_WRIST", size=32, bs=4, num_workers=1, ci=None)
    whole, scores = train(root, tmp_path / "whole", **options)
    run, after_batch = tmp_path / "run", KeepState.after_batch

    def in_second(self):
        after_batch(self)
        if self.folder.name == "seed1" and (len(self.history.rows), self.iter) == (1, 2):
            raise Cut

    with pytest.MonkeyPatch.context() as m:
        m.setattr(KeepState, "after_batch", in_second)
        with pytest.raises(Cut):
            train(root, run, save_every=2, **options)
    before = (run / "seed0" / "predictions.csv").stat().st_mtime_ns
    capsys.readouterr()
    _, again = resume(run, ci=None)
    told = capsys.readouterr().err
    assert "seed 0: finished before" in told and "seed 1: not finished before, going on" in told
    assert "going on after 1 epoch and" in told
    assert (run / "seed0" / "predictions.csv").stat().st_mtime_ns == before
    assert_same(run / "seed1", whole / "seed1")
    pd.testing.assert_frame_equal(again, scores, check_exact=True)


# ---------------------------------------------------------------- a crash between two files


def test_best_weights_that_a_crash_swallowed_are_those_of_the_state(few, whole, tmp_path, monkeypatch):
    whole = whole(dict(epochs=2))
    run, write = tmp_path / "run", best.save_best

    def crash(*_):
        raise Cut

    monkeypatch.setattr(best, "save_best", crash)
    with pytest.raises(Cut):
        train_run(few, run, epochs=2, store=False, **QUICK)
    assert read_told(run)["place"] == [0, 1, 0] and not (run / "weights" / "best.safetensors").exists()
    monkeypatch.setattr(best, "save_best", write)
    resume_run(run)
    assert_same(run, whole)


@pytest.mark.parametrize("harm", ["gone", "torn", "of an epoch before"])
def test_best_weights_of_the_last_epoch_are_made_good_when_nothing_is_left_to_train(whole, tmp_path, harm):
    expected, run = whole(dict(epochs=1)), tmp_path / "run"
    shutil.copytree(expected, run)
    told, best = read_told(run), run / "weights" / "best.safetensors"
    assert told["done"] and told["best"][1] == 0  # one epoch: the best and the last
    (run / "predictions.csv").write_text("of other weights")
    if harm == "gone":
        best.unlink()
    elif harm == "torn":
        best.write_bytes(best.read_bytes()[:-8])
    else:
        save_file({k: v + 1 for k, v in load_file(best).items()}, best)
    resume_run(run)
    assert_same(run, expected)
    assert not (run / "predictions.csv").exists()


def test_best_weights_that_are_gone_for_good_are_called_so(few, tmp_path, mura):
    "In the state are those of the last epoch alone: the best one was before."
    run = train_run(few, tmp_path / "run", epochs=2, lr=1e-9, store=False, **QUICK)
    best, told, row = run / "weights" / "best.safetensors", read_told(run), [few.path.iloc[0], "-o", tmp_path / "p.csv"]
    assert told["done"]
    state = read_state(run)
    state.told["best"] = [1.0, 0]
    keeping.write_state(run, state)
    renamed = best.rename(best.with_name("mine.safetensors"))
    for command in (["resume", run], ["predict", run, *row]):
        code, out, err = mura(*command)
        assert (code, out) == (2, "") and "trains it" not in err
        assert f"{best}: gone, and the weights of epoch 1, the best, with it; if they are in mine.safetensors" in err
    renamed.unlink()
    code, _, err = mura("predict", run, *row)
    assert code == 2 and "with it; bring them back, or train anew into another folder" in err
    state.told["best"] = [1.0, 1]
    keeping.write_state(run, state)
    code, _, err = mura("predict", run, *row)
    assert code == 2 and f"last state holds these weights; bring them back: mura resume {run}\n" in err
    assert mura("resume", run, "--ci", "none")[0] == 0 and mura("predict", run, *row)[0] == 0


@pytest.mark.parametrize("harm", ["cut short", "a bit turned", "empty", "something else"])
def test_a_damaged_state_is_noticed(done, harm):
    file = state_file(done)
    held = bytearray(file.read_bytes())
    held[-100] ^= 4
    file.write_bytes({"cut short": held[:-100], "empty": b"", "a bit turned": held}.get(harm, b"PK\3\4" + held))
    for broken in (lambda: resume_run(done), lambda: read_state(done)):
        with pytest.raises(InputError, match="state.safetensors: damaged") as e:
            broken()
        assert "\n" not in str(e.value)


def test_leftovers_of_dead_processes_are_swept(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    told = (("state.safetensors", gone.pid), ("history.csv", gone.pid), ("notes.txt", os.getpid()))
    names = [*(aside_of(tmp_path / name, pid).name for name, pid in told), ".lock", "a.1"]
    for name in names:
        (tmp_path / name).touch()
    sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names[2:])
    sweep(tmp_path / "absent")


# ---------------------------------------------------------------- real processes


@pytest.fixture(scope="module")
def commands(tmp_path_factory, own_cache):
    mura = Mura(tmp_path_factory.mktemp("told"))
    yield mura
    mura.close()


@pytest.fixture(scope="module")
def arguments(root):
    options = dict(size=32, bs=16, workers=1, epochs=3, ci="none")
    return ["train", root, *(str(o) for k, v in options.items() for o in (f"--{k}", v))]


@pytest.fixture(scope="module")
def undisturbed(commands, arguments, tmp_path_factory):
    "A run of the real command that nobody interrupted. Nobody changes it: copy it first."
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    code, _, err = commands(*arguments, "--out", out)
    assert code == 0, err
    return out


@pytest.fixture
def done(undisturbed, tmp_path):
    "A copy of a finished run that a test may change."
    return Path(shutil.copytree(undisturbed, tmp_path / "done"))


@UNIX
@pytest.mark.slow
def test_a_killed_process_is_noticed_and_its_training_goes_on(commands, arguments, undisturbed, tmp_path):
    run = tmp_path / "run"
    process = commands.start(*arguments, "--out", run).until((run / "history.csv").exists)
    with pytest.raises(InputError, match=rf"another process \({process.pid} on .*\) is training there"):
        resume_run(run)
    code, out, err = commands(*arguments, "--out", run)
    assert code == 2 and "holds a run already" in err
    assert process.kill().end()[0] == -signal.SIGKILL
    aside_of(state_file(run), process.pid).write_bytes(b"half")
    code, out, err = commands("resume", run, "--ci", "none", "--json")
    assert code == 0, err
    assert json.loads(out)["run"] == str(run)
    assert_same(run, undisturbed)
    assert not list((run / "weights" / "last").glob(".*"))


@UNIX
@pytest.mark.slow
@pytest.mark.parametrize(
    "number, code, at",
    [
        (signal.SIGTERM, 143, "history.csv"),
        (signal.SIGINT, 130, "history.csv"),
        (signal.SIGTERM, 143, "settings.yaml"),
        (signal.SIGHUP, 129, "history.csv"),
    ],
)
def test_a_signal_saves_at_the_next_batch_and_says_how_to_go_on(
    commands, arguments, undisturbed, tmp_path, number, code, at
):
    run = tmp_path / "a run"
    process = commands.start(*arguments, "--out", run).until((run / at).exists)
    got, out, err = process.kill(number).end()
    assert got == code and out == ""
    assert "Traceback" not in err and err.splitlines()[-1] == f"stopped; to go on: mura resume '{run}'"
    assert bool(read_told(run)) == (at == "history.csv") and not (read_told(run) or {}).get("done")
    assert commands("resume", run, "--ci", "none")[0] == 0
    assert_same(run, undisturbed)


@UNIX
@pytest.mark.slow
def test_a_lost_connection_saves_too(arguments, undisturbed, tmp_path):
    "The process has a terminal of its own, which is closed in its midst; what it says meanwhile goes nowhere."
    run = tmp_path / "run"
    pid, terminal = pty.fork()
    if pid == 0:
        command = [sys.executable, Path(__file__).parents[1] / "cli.py", *arguments, "--out", run]
        os.execve(sys.executable, list(map(str, command)), os.environ | {"OMP_NUM_THREADS": "1"})
    said = b""
    while not (run / "history.csv").exists():
        said += os.read(terminal, 4096)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 129
    assert not read_told(run)["done"]
    assert f"if it is interrupted, go on: mura resume {run}" in said.decode()
    resume(run, ci=None)
    assert_same(run, undisturbed)


@UNIX
@pytest.mark.slow
def test_a_full_disk_leaves_the_last_good_state(commands, arguments, undisturbed, tmp_path):
    run = tmp_path / "run"
    process = commands.start(*arguments, "--out", run).until((run / "history.csv").exists)
    assert process.kill(signal.SIGTERM).end()[0] == 143
    before = state_file(run).read_bytes()
    code, out, err = commands("resume", run, most_bytes=len(before) // 2)
    assert code == 1 and out == "" and "Traceback" not in err
    last = err.splitlines()[-1]
    assert re.fullmatch(
        rf"mura: {state_file(run)}: .*: it needs [\d.]+ MB; make room, then go on: mura resume .*", last
    )
    assert state_file(run).read_bytes() == before
    assert commands("resume", run, "--ci", "none")[0] == 0
    assert_same(run, undisturbed)


@UNIX
def test_a_folder_that_cannot_be_written_is_wrong_input(commands, arguments, done):
    code, _, err = commands(*arguments, "--out", "/proc/run")
    assert code == 2 and "cannot be written" in err and "--out" in err


def test_a_signal_while_tune_is_scored_keeps_all_batches_of_the_epoch(few, whole, tmp_path, monkeypatch, capsys):
    after_batch = KeepState.after_batch

    def asked(self):
        if not self.training:
            self.stops.asked = signal.SIGTERM
        after_batch(self)

    with monkeypatch.context() as m:
        m.setattr(KeepState, "after_batch", asked)
        with pytest.raises(SystemExit) as e:
            train_run(few, tmp_path / "run", epochs=2, store=False, **QUICK)
    assert e.value.code == 143 and "mura resume" in capsys.readouterr().err
    assert read_told(tmp_path / "run")["place"] == [0, 0, 4]
    resume_run(tmp_path / "run")
    assert_same(tmp_path / "run", whole(dict(epochs=2)))


@pytest.fixture
def heeded():
    "Signals as a terminal has them: tests that run in the background begin with Ctrl-C ignored."
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@UNIX
@pytest.mark.parametrize("number, error", [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_a_second_signal_does_not_wait_for_the_batch(number, error, heeded):
    before = signal.getsignal(number)
    with pytest.raises(error), Stops() as stops:
        os.kill(os.getpid(), number)
        assert stops.asked == number
        os.kill(os.getpid(), number)
        pytest.fail("it went on")
    with pytest.raises(error), Stops():  # noted after the last batch: heeded at the end
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


# ---------------------------------------------------------------- what has changed since


@pytest.fixture(scope="module")
def begun(few, tmp_path_factory):
    "A run that was interrupted in its second epoch. Nobody changes it: copy it first."
    out, after_batch, seen = tmp_path_factory.mktemp("begun") / "run", KeepState.after_batch, []

    def counted(self):
        after_batch(self)
        seen.append(1)
        if len(seen) == 7:
            raise Cut

    with pytest.MonkeyPatch.context() as m:
        m.setattr(KeepState, "after_batch", counted)
        with pytest.raises(Cut):
            train_run(few, out, epochs=2, **QUICK)
    return out


@pytest.fixture
def half(begun, tmp_path):
    "A copy of an interrupted run that a test may change."
    return Path(shutil.copytree(begun, tmp_path / "half"))


@pytest.mark.parametrize(
    "change, named",
    [
        (dict(lr=0.5), "lr 0.002, now lr 0.5"),
        (dict(bs=4, seed=3), r"bs 8, now bs 4 \(and 1 more\)"),
        (dict(epochs=9), "epochs 2, now epochs 9"),
        (dict(arch="resnet18"), "arch mura_cnn, now arch resnet18"),
        (dict(epochs="many"), "epochs is 'many', and must be a whole number"),
    ],
)
def test_other_settings_are_refused_with_the_difference(half, mura, change, named):
    settings = yaml.safe_load((half / "settings.yaml").read_text())
    (half / "settings.yaml").write_text(yaml.safe_dump(settings | change))
    code, out, err = mura("resume", half)
    assert (code, out) == (2, "") and re.search(named, err) and err.count("\n") == 1


def test_a_misspelt_setting_is_named_with_the_one_that_was_meant(half, mura):
    file = half / "settings.yaml"
    settings = yaml.safe_load(file.read_text())

    def said(told, command="resume"):
        file.write_text(yaml.safe_dump(told))
        code, out, err = mura(command, half)
        return code, err

    lost = {k: v for k, v in settings.items() if k != "epochs"}
    for told in (settings, lost):
        code, err = said(told | {"epcohs": 3})
        assert code == 2 and err == (
            f"mura: {file}: epcohs is unknown (did you mean epochs?); correct it, or bring the file back as it was\n"
        )
    code, err = said(settings | {"data": settings["data"] | {"pth": "/elsewhere"}})
    assert code == 2 and "data.pth is unknown (did you mean data.path?)" in err
    # One's own notes, and what a later version writes, keep nobody from reading it.
    code, err = said(settings | {"note": "the third try"}, "evaluate")
    assert code == 0 and "note" not in err
    code, err = said(settings | {"seeds": 3, "versions": settings["versions"] | {"mura_fastai": "0.12.0"}}, "evaluate")
    assert code == 0, err
    code, err = said(settings | {"note": "the third try", "learning": 3})
    assert code == 0 and f"{file}: learning, note: unknown, and without effect\n" in err


def test_another_table_is_refused(half):
    table = pd.read_csv(half / "images.csv")
    table.assign(label=1 - table.label).to_csv(half / "images.csv", index=False)
    with pytest.raises(InputError, match="images.csv: not the table.*other labels or splits"):
        resume_run(half)
    table.assign(region=table.region[::-1].values).to_csv(half / "images.csv", index=False)
    with pytest.raises(InputError, match="images.csv: not the table.*other regions or patients"):
        resume_run(half)
    table[:-1].to_csv(half / "images.csv", index=False)
    with pytest.raises(InputError, match="images.csv: not the table.*then, now"):
        resume_run(half)


@pytest.mark.parametrize("what", ["gone", "changed"])
def test_other_files_are_refused_by_name(few, tmp_path, cut, what):
    own = few.copy()
    own["path"] = [str(shutil.copy(p, tmp_path / f"{i}.png")) for i, p in enumerate(few.path)]
    cut(6)
    with pytest.raises(Cut):
        train_run(own, tmp_path / "run", epochs=2, **QUICK)
    file = Path(own.path.iloc[5])
    file.unlink() if what == "gone" else file.write_bytes(Path(own.path.iloc[6]).read_bytes())
    with pytest.raises(InputError, match=f"^{file}: {what}"):
        resume_run(tmp_path / "run")


def own_table(images, folder):
    "The phantom's images as somebody's own CSV."
    names = [f"{i}.png" for i in range(len(images))]
    for path, name in zip(images.path, names, strict=True):
        os.link(path, folder / name)
    images.assign(path=names).to_csv(folder / "own.csv", index=False)
    return folder / "own.csv"


@pytest.fixture(params=["mura", "csv", "folds"])
def from_tables(request, root, images, tmp_path, monkeypatch):
    "A training from CSVs of its own that was interrupted; its folder, and one of the CSVs."
    if request.param == "csv":
        table = own_table(images, tmp_path)
    else:
        table = Path(shutil.copytree(root, tmp_path / "data")) / "valid_labeled_studies.csv"
    data, run, options = table if request.param == "csv" else table.parent, tmp_path / "run", dict(epochs=2, **QUICK)
    options |= dict(seeds=2) if request.param == "folds" else {}
    after_epoch = KeepState.after_epoch

    def stopped(self):
        after_epoch(self)
        raise Cut

    with monkeypatch.context() as m, pytest.raises(Cut):
        m.setattr(KeepState, "after_epoch", stopped)
        train(data, run, ci=None, **options)
    return run, table


def flip_first_label(table):
    "Of the first study in a CSV of labels; its key and its label before, no key where its name says the label too."
    text = table.read_text()
    if not text.startswith("path"):
        line, rest = text.split("\n", 1)
        table.write_text(f"{line[:-1]}{1 - int(line[-1])}\n{rest}")
        return None, int(line[-1])
    rows = pd.read_csv(table)
    study, label = rows.study[0], int(rows.label[0])
    rows.loc[rows.study == study, "label"] = 1 - label
    rows.to_csv(table, index=False)
    return f"{rows.region[0]}/{rows.patient[0]}/{study}", label


def test_labels_that_were_edited_since_are_refused_with_their_file(from_tables, mura):
    run, table = from_tables
    before = table.read_bytes()
    study, label = flip_first_label(table)
    code, out, err = mura("resume", run)
    assert (code, out) == (2, "") and err.count("\n") == 1
    # Where a folder's name says the label too, the line that goes against it is named.
    line = "the label conflicts with the folder's name in line 1"
    what = f"study {study}: label {label} then, {1 - label} now" if study else line
    assert f"{table}: edited since the training began ({what}); put it back" in err
    # Written anew, with the same in it: nobody is kept from going on.
    table.write_bytes(before.replace(b"\r", b"").replace(b"\n", b"\r\n"))
    assert mura("resume", run, "--ci", "none")[0] == 0


def test_labels_that_were_edited_before_anything_was_learned_are_taken(root, tmp_path, monkeypatch):
    data, run = tmp_path / root.name, tmp_path / "run"
    shutil.copytree(root, data)
    with monkeypatch.context() as m, pytest.raises(Cut):
        m.setattr(fitting, "_learner", lambda *_, **__: stop())
        train(data, run, epochs=1, ci=None, **QUICK)
    before = pd.read_csv(run / "images.csv")
    gone = (data / "train_labeled_studies.csv").read_text().splitlines()[-1].rpartition(",")[0]
    for file in data.glob("train_*.csv"):
        file.write_text("".join(line for line in file.read_text().splitlines(True) if not line.startswith(gone)))
    resume(run, ci=None)
    assert 0 < len(pd.read_csv(run / "images.csv")) < len(before)


@pytest.mark.parametrize("by", ["mura resume", "the same command"])
def test_a_plan_that_learned_nothing_yet_takes_the_labels_of_now(images, tmp_path, monkeypatch, mura, by):
    table, run = own_table(images, tmp_path), tmp_path / "run"
    options = ["--size", 32, "--bs", 8, "--workers", 1, "--epochs", 1, "--folds", 2, "--ci", "none", "--out", run]
    with monkeypatch.context() as m, pytest.raises(Cut):
        m.setattr(fitting, "_learner", lambda *_, **__: stop())
        mura("train", table, *options)
    assert (run / "fold0-seed0" / "settings.yaml").exists()
    study, label = flip_first_label(table)
    code, _, err = mura("resume", run, "--ci", "none") if by == "mura resume" else mura("train", table, *options)
    assert code == 0 and "fold 1 of 2, seed 0: not finished before, from the start (fold0-seed0)" in err, err
    told = [yaml.safe_load((run / f).read_text())["data"] for f in ("repeats.yaml", "fold0-seed0/settings.yaml")]
    assert told[0]["tables"] == told[1]["tables"]
    rows = pd.concat([pd.read_csv(run / name / "predictions.csv") for name in ("fold0-seed0", "fold1-seed0")])
    assert set(rows.label[rows.study == study]) == {1 - label}
    # From here on something would be lost.
    (run / "fold1-seed0" / "metrics.json").unlink()
    flip_first_label(table)
    code, _, err = mura("resume", run)
    assert code == 2 and f"(study {study}: label {1 - label} then, {label} now); put it back" in err
    code, _, err = mura("train", table, *options)
    assert code == 2 and f"{run}: begun with other labels or splits than the data has now; put it back" in err


def test_the_run_s_own_table_is_held_against_its_source(from_tables, mura):
    run, table = from_tables
    run = run if (run / "images.csv").exists() else run / "seed0"
    rows = pd.read_csv(run / "images.csv")
    study, label = rows.study.iloc[-1], int(rows.label.iloc[-1])
    for column, wrong in (("label", 1 - label), ("region", "XR_NOSE")):
        rows.assign(**{column: rows[column].where(rows.study != study, wrong)}).to_csv(run / "images.csv", index=False)
        code, _, err = mura("resume", run)
        told = f"study {study}: {column} {rows[column].iloc[-1]} then, {wrong} now"
        assert code == 2 and f"{run / 'images.csv'}: not the table it was begun with ({told}); put it back" in err
    rows[rows.study != study].to_csv(run / "images.csv", index=False)
    assert f"(study {study} then, and not now)" in mura("resume", run)[2]


def test_a_crash_between_the_table_and_its_settings_loses_neither(root, tmp_path, monkeypatch):
    with monkeypatch.context() as m, pytest.raises(Cut):
        m.setattr(fitting, "provenance_of", stop)
        train(root, tmp_path / "run", epochs=1, ci=None, **QUICK)
    assert (tmp_path / "run" / "images.csv").exists()
    resume(tmp_path / "run", ci=None)
    data = yaml.safe_load((tmp_path / "run" / "settings.yaml").read_text())["data"]
    assert {"fingerprint", "tables"} <= data.keys()


def test_labels_that_are_away_are_no_reason_to_refuse(from_tables, mura):
    run, table = from_tables
    table.rename(table.with_suffix(".away"))
    code, _, err = mura("resume", run, "--ci", "none")
    if (run / "settings.yaml").exists():
        assert code == 0, err
    else:  # folds are dealt from the data
        assert code == 2 and table.name in err and "edited" not in err


def test_a_run_of_an_earlier_version_knows_nothing_of_its_labels_file(from_tables, mura):
    run, table = from_tables
    for file in run.rglob("*.yaml"):
        told = yaml.safe_load(file.read_text())
        if "data" in told:
            assert table.name in told["data"].pop("tables")
            told.get("settings", {}).pop("store", None)
            file.write_text(yaml.safe_dump(told))
    table.write_bytes(table.read_bytes() + b"\n")
    assert mura("resume", run, "--ci", "none")[0] == 0


@pytest.mark.parametrize("earlier", [True, False])
def test_what_an_earlier_version_made_beside_its_weights_goes_when_the_training_goes_on(half, cut, earlier):
    # It left what was made with former weights beside better ones; those of now name their epoch, and what is there is
    # of them.
    best = half / "weights" / "best.safetensors"
    if earlier:
        save_file(load_file(best), best)
    weights = best.read_bytes()
    for name in OF_WEIGHTS:
        (half / name).write_text("of whichever weights")
    cut(1)
    with pytest.raises(Cut):
        resume_run(half)
    assert best.read_bytes() == weights
    assert {name for name in OF_WEIGHTS if (half / name).exists()} == (set() if earlier else set(OF_WEIGHTS))


def test_a_file_that_cannot_be_read_any_more_is_not_silently_left_out(few, tmp_path, cut, monkeypatch):
    cut(6)
    with pytest.raises(Cut):
        train_run(few, tmp_path / "run", epochs=2, **QUICK)
    usable = fitting.usable_rows
    bad = [{"path": few.path.iloc[0], "reason": "truncated"}]
    monkeypatch.setattr(fitting, "usable_rows", lambda images, *a: (usable(images, *a)[0][1:], bad))
    with pytest.raises(InputError, match="truncated since the training began"):
        resume_run(tmp_path / "run")


def test_a_state_that_is_gone_is_not_silently_begun_anew(half):
    shutil.rmtree(half / "weights" / "last")
    before = (half / "weights" / "best.safetensors").read_bytes()
    with pytest.raises(InputError, match="its state .* is gone"):
        resume_run(half)
    assert (half / "weights" / "best.safetensors").read_bytes() == before


# ---------------------------------------------------------------- finished, unfinished


def test_a_finished_run_stays_as_it_is(done, mura):
    before = {p: p.read_bytes() for p in done.rglob("*") if p.is_file()}
    code, out, err = mura("resume", done)
    assert code == 0 and "finished before" in out and "trained before" in err
    assert json.loads(mura("resume", done, "--json")[1])["run"] == str(done)
    assert {p: p.read_bytes() for p in done.rglob("*") if p.is_file()} == before


def test_what_comes_after_training_is_made_up_for(done, undisturbed, mura):
    for name in ("predictions.csv", "metrics.json"):
        (done / name).unlink()
    code, out, _ = mura("resume", done, "--ci", "none")
    assert code == 0 and "overall" in out and (done / "metrics.json").exists()
    ours, theirs = (pd.read_csv(r / "predictions.csv").p_abnormal for r in (done, undisturbed))
    assert ours.to_numpy() == pytest.approx(theirs.to_numpy(), abs=1e-6)


@pytest.mark.parametrize("command", ["evaluate", "predict", "report"])
def test_an_unfinished_run_can_be_used_or_says_what_is_missing(half, images, mura, tmp_path, command):
    more = dict(predict=[images.path[0], "-o", tmp_path / "p.csv"], report=["-o", tmp_path / "r.html"], evaluate=[])
    arguments = [command, half, *more[command]]
    code, _, err = mura(*arguments)
    told = read_told(half)
    n = f"{len(told['rows'])} of {told['settings']['epochs']} epochs"
    assert (
        code == 0 and f"{half}: interrupted after {n}; this is of the best so far; to go on: mura resume {half}" in err
    )
    for name in ("predictions.csv", "predictions-tune.csv", "decision.yaml", "metrics.json"):
        (half / name).unlink(missing_ok=True)
    (half / "weights" / "best.safetensors").unlink()
    code, _, err = mura(*arguments)
    assert code == 2 and "mura resume" in err and err.count("\n") == 1
    (half / "history.csv").unlink()
    code, _, err = mura(*arguments)
    assert code == 2 and err.count("\n") == 1


def test_a_choice_for_an_unfinished_run_is_said_to_pass(half, mura):
    code, out, err = mura("calibrate", half, "--threshold", 0.4)
    assert code == 0 and out and err.count("\n") == 1 and (half / "decision.yaml").exists()
    assert "mura resume may go on with it, and with its next better epoch this choice is taken away again" in err


def test_what_is_no_run_stays_untouched(tmp_path):
    with pytest.raises(InputError, match="not a run"):
        resume_run(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        resume_run(tmp_path / "absent")
    assert not list(tmp_path.iterdir())


def test_a_folder_of_runs_names_those_that_are_not_finished(half, done, mura):
    assert half.parent == done.parent
    code, out, err = mura("resume", half.parent)
    assert (code, out) == (2, "") and err.endswith(f"name one that is not finished: {half}\n")
    code, _, err = mura("evaluate", half.parent)
    assert code == 2 and f"name one of them: {done}, {half}\n" in err
    shutil.rmtree(half)
    code, _, err = mura("resume", half.parent)
    assert code == 2 and err.endswith(f"all of them finished: {done}\n")


def test_nothing_in_a_state_is_a_pickle(begun):
    tensors = load_file(state_file(begun))
    assert {"random.torch", "smooth.val", "data.stamps"} <= tensors.keys()
    assert state_file(begun).read_bytes()[:1] not in (b"\x80", b"P")


def test_a_file_is_on_disk_with_its_name_when_it_is_replaced(tmp_path, monkeypatch):
    flushed = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda f: flushed.append(os.readlink(f"/proc/self/fd/{f}")) or fsync(f))
    with replacing(tmp_path / "new" / "deep" / "a.txt") as aside:
        aside.write_text("x")
    assert flushed[-1] == str(tmp_path / "new" / "deep")  # after the rename
    assert {str(tmp_path), str(tmp_path / "new"), str(aside)} <= set(flushed)


@UNIX
def test_a_terminal_that_closes_sends_two_signals_and_the_batch_is_ended_all_the_same():
    "The shell sends one to its jobs, and as it ends the kernel another."
    ended = False
    with pytest.raises(SystemExit) as e, Stops():
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)
        ended = True
    assert ended and e.value.code == 129
