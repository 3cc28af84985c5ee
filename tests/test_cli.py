"""The command `mura`: quick to ask for help, plain in its errors, and with nothing but results on stdout."""

import functools
import inspect
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import typer
from safetensors.torch import save_file

import mura_fastai
from mura_fastai import cli
from mura_fastai.errors import InputError, TrainingError
from mura_fastai.exits import SIGNALS
from mura_fastai.models.backbones import create_net
from mura_fastai.results import experiment
from mura_fastai.results.lr_search import find_lr
from mura_fastai.share.demo import compare_scores, demo, demo_phantom
from mura_fastai.text import one_of
from mura_fastai.training.recipes import recipe_settings
from mura_fastai.training.runs import train_run

MURA = [sys.executable, Path(__file__).parents[1] / "cli.py"]
COMMANDS = {c.name or c.callback.__name__: c.callback for c in cli.app.registered_commands}
HEAVY = {"torch", "fastai", "timm", "pandas", "numpy", "matplotlib", "sklearn", "PIL"}


@pytest.fixture(scope="module")
def run(run, tmp_path_factory):
    "A copy of the run, since `mura evaluate` keeps the last scores in it."
    return Path(shutil.copytree(run, tmp_path_factory.mktemp("copies") / "first"))


# ---------------------------------------------------------------- help


@pytest.mark.parametrize("arguments", ["--help", "--version", "train --help"])
def test_help_imports_nothing_heavy(arguments):
    code = "import sys; from mura_fastai.cli import main\ntry: main()\n"
    code += "except SystemExit: print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code, *arguments.split()], capture_output=True, text=True)
    assert "train" in done.stdout or mura_fastai.__version__ in done.stdout
    assert "mura_fastai.cli" in done.stderr
    assert not HEAVY & set(done.stderr.split())


def test_counting_and_scoring_a_file_need_no_pytorch(root, run):
    code = "import sys; sys.modules['torch'] = None; from mura_fastai.cli import main; main()"
    for arguments in (["summarize", root], ["evaluate", "--predictions", run / "predictions.csv"]):
        done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
        assert done.returncode == 0 and not done.stderr, done.stderr


def test_the_root_starts_the_same_command():
    done = subprocess.run([*MURA, "--version"], capture_output=True, text=True)
    assert done.stdout == f"mura_fastai {mura_fastai.__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_an_example_and_explains_every_option(mura, name):
    code, out, _ = mura(name, "--help")
    assert code == 0 and f"\n  mura {name} " in out.replace(f"mura {name}\n", f"mura {name} \n")
    for parameter in inspect.signature(COMMANDS[name]).parameters.values():
        assert parameter.annotation is typer.Context or parameter.annotation.__metadata__[0].help, parameter.name


@pytest.mark.parametrize(
    "name, function",
    [
        ("train", train_run),
        ("train", experiment.train),
        ("lr-find", find_lr),
        ("interpret", experiment.interpret_run),
        ("demo", demo),
    ],
)
def test_defaults_are_those_of_the_function(name, function):
    told = {n: p.default for n, p in inspect.signature(COMMANDS[name]).parameters.items()}
    meant = {n: p.default for n, p in inspect.signature(function).parameters.items()}
    shared = {n for n in told.keys() & meant.keys() if told[n] is not inspect.Parameter.empty}
    assert len(shared) >= 4
    assert {n: told[n] for n in shared} == {n: meant[n] for n in shared}


def test_every_command_is_a_public_function():
    names = dict(phantom="make_phantom", prepare="build_store", interpret="interpret_run", audit="audit_shortcuts")
    names |= dict(calibrate="calibrate_run", compare="compare_runs", report="write_report", app="serve")
    names["lr-find"], names["relocate"] = "find_lr", "relocate_run"
    public = vars(__import__("mura_fastai.all", fromlist=["all"]))
    assert {names.get(n, n) for n in COMMANDS} <= set(public["__all__"])


# ---------------------------------------------------------------- results


def test_suspects_are_listed_reviewed_blindly_and_never_overwritten(mura, run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    preds = pd.read_csv(copy / "predictions.csv")
    truth = preds.groupby("study").label.first()
    wrong = truth.index[[0, 1, -1, -2]]  # so that somebody is suspected, whatever the run has learned
    p = (preds.label - preds.study.isin(wrong)).abs()
    preds.assign(p_abnormal=p * 0.9 + 0.05).to_csv(copy / "predictions.csv", index=False)
    code, out, err = mura("interpret", copy, "--suspects", "--blind", "--json")
    told = json.loads(out)
    assert code == 0, err
    assert {r["study"] for r in told["list"]} == set(wrong)
    assert {Path(f).name for f in told["files"]} >= {"suspects.csv", "suspects.pdf", "review.csv", "review-key.csv"}
    sheet = pd.read_csv(copy / "suspects" / "review.csv", dtype=str)
    sheet.assign(verdict="normal").to_csv(copy / "suspects" / "review.csv", index=False)
    code, out, _ = mura("interpret", copy, "--reviewed", "--json")
    assert code == 0 and json.loads(out)["review"]["suspect"]["judged"] == len(wrong)
    code, _, err = mura("interpret", copy, "--suspects", "--blind")
    assert code == 2 and "holds verdicts" in err
    assert mura("interpret", copy, "--blind")[0] == mura("interpret", copy, "--reviewed", "--suspects")[0] == 2


def test_a_report_says_where_it_is_and_pixels_can_be_left_out(mura, run, tmp_path):
    code, out, _ = mura("report", run, "-o", tmp_path / "a.html", "--no-pixels")
    text = (tmp_path / "a.html").read_text()
    assert code == 0 and out.startswith(f"{tmp_path / 'a.html'} (") and "data:image" not in text
    code, out, _ = mura("report", run, "-o", tmp_path / "a.html", "--top", 2, "--json")
    assert json.loads(out) == {"files": [str(tmp_path / "a.html")]}
    assert "data:image/jpeg" in (tmp_path / "a.html").read_text()
    assert mura("report", tmp_path, "-o", tmp_path / "b.html")[0] == 2


def test_the_page_is_refused_what_it_cannot_serve(mura, run, tmp_path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, _, err = mura("app", run, "--port", taken.getsockname()[1])
    assert code == 2 and "taken" in err
    assert mura("app", tmp_path)[0] == 2


def test_summarize_counts_and_says_what_was_left_out(mura, root, images):
    code, out, _ = mura("summarize", root)
    assert code == 0 and f"{images.study[images.split == 'tune'].nunique()} of train's studies are set aside" in out
    told = json.loads(mura("summarize", root, "--json")[1])
    whole = {r["split"]: r["images"] for r in told["table"] if r["region"] == "all"}
    assert sum(whole.values()) == len(images) and told["skipped"] == []


def test_summarize_of_data_without_labels_is_json_too(mura, tmp_path, images):
    (tmp_path / "own.csv").write_text("path,label,split\na.png,,valid\nb.png,1,train\nc.png,0,train\n")
    for name, path in zip("abc", images.path, strict=False):
        (tmp_path / f"{name}.png").write_bytes(Path(path).read_bytes())
    code, out, _ = mura("summarize", tmp_path / "own.csv", "--json")
    shares = [r["abnormal_share"] for r in json.loads(out)["table"] if r["split"] == "valid"]
    assert code == 0 and shares == [None, None]
    assert "n/a" in mura("summarize", tmp_path / "own.csv")[1]


def test_train_prints_scores_on_stdout_and_epochs_on_stderr(mura, root, tmp_path):
    code, out, err = mura("train", root, "--size", 48, "--epochs", 1, "--bs", 16, "--out", tmp_path / "run")
    assert code == 0
    assert re.search(r"^overall +12 ", out, re.M) and "Knowing the region alone: kappa 0.000" in out
    assert f"mura interpret {tmp_path / 'run'}" in out
    assert re.search(r"^epoch  1/1  train loss \d", err, re.M) and "epoch" not in out
    assert "\x1b" not in out + err and "\r" not in out + err, "no colour and no bars in a pipe"


def test_json_is_one_document_and_what_the_run_keeps(mura, root, tmp_path, run):
    arguments = ["--size", 48, "--epochs", 1, "--bs", 16, "--ci", "none", "--regions", "XR_WRIST,XR_HAND"]
    code, out, _ = mura("train", root, *arguments, "--out", tmp_path / "run", "--json")
    told = json.loads(out)
    assert code == 0 and set(told["scores"]) == {"XR_HAND", "XR_WRIST", "overall", "macro"}
    kept = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert kept.items() <= told.items()
    told = json.loads(mura("evaluate", run, "--json")[1])
    assert told["scores"]["overall"]["n"] == 12 and "auroc_lo" in told["scores"]["overall"]


@pytest.mark.parametrize("ci, columns", [("none", 0), ("asymptotic", 18), ("official", 2)])
def test_intervals_on_demand(mura, run, ci, columns):
    told = json.loads(mura("evaluate", run, "--ci", ci, "--json")[1])
    assert sum(k.endswith(("_lo", "_hi")) for k in told["scores"]["overall"]) == columns


def test_evaluate_reads_a_file_with_and_without_its_data(mura, root, run):
    file = run / "predictions.csv"
    scores = [
        json.loads(mura("evaluate", *a, "--ci", "none", "--json")[1])["scores"]
        for a in ([run], ["--predictions", file], [root, "--predictions", file])
    ]
    assert scores[0] == scores[1] == scores[2]


def test_interpret_says_what_went_wrong_and_where_the_figures_are(mura, run, tmp_path):
    code, out, _ = mura("interpret", run, "--top", 2, "--out", tmp_path / "figures")
    assert code == 0 and "Top losses, of images:" in out and str(tmp_path / "figures") in out
    assert (tmp_path / "figures" / "confusion_matrix.png").exists()
    told = json.loads(mura("interpret", run, "--top", 2, "--out", tmp_path / "figures", "--json")[1])
    assert sum(map(sum, told["confusion"]["overall"])) == 12 and len(told["top_losses"]) == 2


def test_predict_tells_runs_from_input_and_names_what_it_skipped(mura, run, root, tmp_path):
    good = next(root.glob("valid/*/*/*/image1.png"))
    (tmp_path / "bad\n.png").write_bytes(b"")
    code, out, err = mura("predict", run, good, tmp_path / "bad\n.png", run, "-o", tmp_path / "p.csv")
    assert code == 0 and "1 image, 1 study, 1 skipped" in out and "skipped" in err
    assert pd.read_csv(tmp_path / "p.csv").path.tolist() == [str(good)]
    told = json.loads(mura("predict", run, good, "-o", tmp_path / "p.csv", "--json")[1])
    assert told["images"] == 1 and 0 < told["studies"][0]["p_abnormal"] < 1 and told["studies"][0]["label"] is None


def test_lr_find_searches_for_a_network_that_learns_whole_studies(mura, root):
    code, out, _ = mura("lr-find", root, "--size", 32, "--bs", 4, "--views", "attention")
    assert code == 0 and 1e-7 < float(out.split()[0]) < 1 and "--views attention --size 32 --bs 4" in out
    code, _, err = mura("lr-find", root, "--size", 32, "--bs", 4, "--views", "median")
    assert code == 2 and "mean, max, attention" in err


def test_lr_find_prints_a_rate_and_draws_the_curve(mura, root, tmp_path):
    code, out, _ = mura("lr-find", root, "--size", 32, "--bs", 8, "-o", tmp_path / "lr.png")
    assert code == 0 and 1e-6 < float(out.splitlines()[0]) < 1
    assert (tmp_path / "lr.png").stat().st_size > 5000


@pytest.mark.parametrize(
    "given",
    [
        [],
        "--arch resnet18 --no-pretrained --until layer1 --pool catavgmax --dropout .1 --layer-decay .6",
        "--weights [FILE] --arch resnet18 --until layer1 --allow-missing --seed 3 --split-seed 2 --workers 1",
        "--region-aware --regions XR_WRIST,XR_HAND --allow-leaks --augment max_rotate=5,flip=false --optimizer adam",
        "--recipe strong --size 320 --bs 8 --weights [FILE] --weight-decay .02",
        "--recipe quick --size 40 --bs 8 --views mean",
    ],
)
def test_what_lr_find_suggests_is_the_training_that_it_searched_for(mura, root, tmp_path, monkeypatch, given):
    file = tmp_path / "it's two words.safetensors"
    save_file(create_net("resnet18", False).body.state_dict(), file)
    given = [str(file) if word == "[FILE]" else word for word in (given.split() if given else given)]
    seen = {}

    def spy(data, **settings):
        seen.update(settings, data=data)
        return find_lr(data, **settings) if settings.get("layer_decay") == 0.6 else 1e-3  # a search takes its time

    monkeypatch.setattr("mura_fastai.results.lr_search.find_lr", functools.wraps(find_lr)(spy))
    small = [] if "--size" in given else ["--size", "32", "--bs", "8"]
    code, out, err = mura("lr-find", root, *given, *small, "--out", tmp_path / "lr.png")
    assert code == 0, err
    _, command = out.splitlines()
    assert command.startswith("try: mura train ")
    called, signature = {}, inspect.signature(experiment.train)

    def trained(*args, **kwargs):
        called.update(signature.bind(*args, **kwargs).arguments)
        raise InputError("seen")

    monkeypatch.setattr(experiment, "train", trained)
    assert "mura: seen" in (err := mura(*shlex.split(command.removeprefix("try: mura ")))[2]), err
    told = called.pop("settings")
    if called.get("recipe"):
        told = recipe_settings(called["recipe"], **told)
    for name in inspect.signature(find_lr).parameters.keys() - {"figure", "data", "max_bad"}:
        assert {**called, **told}.get(name) == seen.get(name), name
    assert called["data"] == root and called["max_bad"] == seen["max_bad"] and f"{told['lr']:.2g}" == out.split()[0]


def test_phantom_makes_one_and_says_what_is_next(mura, tmp_path):
    code, out, _ = mura("phantom", tmp_path / "p", "--studies", 10, "--size", 96)
    assert code == 0 and "10 studies" in out and f"mura train {tmp_path / 'p'}" in out
    assert (tmp_path / "p" / "phantom.csv").exists()


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["train", "absent"], "absent: no such folder"),
        (["train", "ROOT", "--bs", "9999"], "--bs"),
        (["train", "ROOT", "--bs", "1"], "mura_cnn cannot learn from one image"),
        (["lr-find", "ROOT", "--bs", "1"], "give two or more (bs=2, --bs 2)"),
        (["train", "ROOT", "--freeze-epochs", "3"], "nothing of mura_cnn is pretrained; leave --freeze-epochs"),
        (["train", "ROOT", "--arch", "resnet5O"], "did you mean"),
        (["train", "ROOT", "--max-bad", "7"], "--max-bad 7.0 is no share"),
        (["train", "ROOT", "--regions", "XR_KNEE"], "no region 'XR_KNEE'"),
        (["summarize", "absent"], "no such folder"),
        (["phantom", "ROOT"], "not an empty folder"),
        (["evaluate"], "give RUN"),
        (["evaluate", "absent"], "absent: no such folder"),
        (["resume", "absent"], "absent: no such folder"),
        (["resume", "ROOT"], "not a run; a run's folder"),
        (["evaluate", "RUN", "--ci", "narrow"], "bootstrap, asymptotic"),
        (["evaluate", "RUN", "ROOT", "more"], "give RUN"),
        (["evaluate", "--predictions", "absent.csv"], "absent.csv: no such file"),
        (["interpret", "ROOT"], "not a run"),
        (["predict", "RUN"], "no input given"),
        (["predict", "ROOT"], "no run given"),
        (["predict", "net.pth", "ROOT"], "net.pth: a file of weights and not a run; give the run's folder"),
        (["predict", "RUN", "net.safetensors"], "net.safetensors: a file of weights"),
        (
            ["predict", "WEIGHTS", "ROOT"],
            "best.safetensors: a file of weights and not a run; give the run's folder, [RUN]",
        ),
        (["evaluate", "WEIGHTS"], "a file of weights and not a run; give the run's folder, [RUN]"),
        # A folder that a file is to go into is never made: its name is wrong more often than new.
        (["predict", "RUN", "ROOT", "-o", "absent/p.csv"], "there is no folder [HERE]/absent; make it first"),
        (["report", "RUN", "-o", "absent/deep/r.html"], "there is no folder [HERE]/absent/deep; make it first"),
        (["lr-find", "ROOT", "-o", "absent/lr.png"], "there is no folder [HERE]/absent; make it first"),
        (["compare", "RUN", "RUN", "--plot", "absent/f.png"], "there is no folder [HERE]/absent; make it first"),
        (["audit", "ROOT", "--shortcuts", "-o", "absent/s.png"], "there is no folder [HERE]/absent; make it first"),
        (["bench", "ROOT", "--quick", "-o", "absent/b"], "there is no folder [HERE]/absent; make it first"),
    ],
)
def test_wrong_input_is_one_line_and_code_2(mura, run, root, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    known = {"RUN": run, "ROOT": root, "WEIGHTS": run / "weights" / "best.safetensors"}
    code, out, err = mura(*[known.get(a, a) for a in arguments])
    message = message.replace("[RUN]", str(run)).replace("[HERE]", str(tmp_path))
    assert (code, out) == (2, "")
    assert err.startswith("mura: ") and message in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir()), "nothing was begun"


@pytest.mark.parametrize(
    "arguments", [["tran"], ["train"], ["train", "x", "--epochs", "many"], ["train", "x", "--bs", 0]]
)
def test_wrong_usage_is_code_2(mura, arguments):
    code, out, err = mura(*arguments)
    assert (code, out) == (2, "") and "Error: " in err and "Traceback" not in err


@pytest.mark.parametrize(
    "error, code, line",
    [
        (InputError("no such thing"), 2, "mura: no such thing\n"),
        (InputError("evil\nname\x1b[31m"), 2, "mura: evil name?[31m\n"),
        (TrainingError("the loss is not a number"), 1, "mura: the loss is not a number\n"),
        (OSError(28, "No space left on device", "/runs/best.safetensors"), 1, "mura: /runs/best.safetensors: No space"),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA"), 1, "mura: the GPU's memory is full; lower --bs"),
        (MemoryError(), 1, "mura: the memory is full; lower --bs or --size, or end other programs\n"),
        (OSError(12, "Cannot allocate memory"), 1, "mura: the memory is full; lower --bs"),
        (RuntimeError("can't start new thread"), 1, "mura: no thread can be started"),
        (KeyboardInterrupt(), 130, "stopped; give the command again\n"),
    ],
)
def test_what_went_wrong_decides_the_exit_code(mura, root, monkeypatch, error, code, line):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(experiment, "train", fail)
    got = mura("train", root)
    assert got[:2] == (code, "") and got[2].startswith(line) and "Traceback" not in got[2]


def test_an_error_of_the_program_itself_is_not_hidden(monkeypatch, root):
    monkeypatch.setattr(experiment, "train", lambda *a, **k: 1 / 0)
    monkeypatch.setattr(sys, "argv", ["mura", "train", str(root)])
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        with pytest.raises(ZeroDivisionError):
            cli.main()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# PyTorch's second at the end, made long enough to be met for certain.
LEAVES_SLOWLY = """
import atexit, os, signal, sys, time
def leave():
    os.write(2, b"leaving\\n")
    time.sleep(1)
atexit.register(leave)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is started with it switched off
from mura_fastai import cli
sys.argv = ["mura", "power"]
cli.main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 0), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_signal_after_the_last_line_leaves_no_traceback_and_takes_nothing_back(number, code):
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
    with subprocess.Popen([sys.executable, "-c", LEAVES_SLOWLY], **pipes) as process:
        assert process.stderr.readline() == "leaving\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (code, "") and "kappa" in out, "written although stdout is a pipe"


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_ends_at_once_what_failed_and_is_slow_to_leave():
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
    failing = LEAVES_SLOWLY.replace('"power"', '"evaluate", "no-such-run"').replace("sleep(1)", "sleep(60)")
    with subprocess.Popen([sys.executable, "-c", failing], **pipes) as process:
        while process.stderr.readline() != "leaving\n":
            pass
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (-signal.SIGINT, "")


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_and_leaves_nothing_half_made(tmp_path, number, code):
    arguments = ["phantom", str(tmp_path / "p"), "--studies", "5000"]

    def heed_ctrl_c():  # a job in the background is started with it switched off
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    pipe = dict(stderr=subprocess.PIPE, preexec_fn=heed_ctrl_c)
    with subprocess.Popen([*MURA, *arguments], start_new_session=True, **pipe) as process:
        deadline = time.monotonic() + 60
        while not any(tmp_path.glob(".p-*/train/*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        # Ctrl-C reaches the whole group, a scheduler's SIGTERM the first process alone.
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        try:
            err = process.communicate(timeout=60)[1].decode()
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert process.returncode == code and "Traceback" not in err
    assert err.splitlines()[-1] == "stopped; give the command again"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("library", ["/torch/nn/", "/sklearn/", "/timm/"])
def test_a_signal_in_the_midst_of_imports_is_one_line(root, tmp_path, number, code, library):
    "It comes as soon as the process has opened a file of that library: seconds before anything is begun."
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    watch = (
        "import os, sys\n"
        "def seen(event, arguments, told=[]):\n"
        f"    if event == 'open' and {library!r} in str(arguments[0]) and not told:\n"
        f"        told.append(1); os.kill(os.getpid(), {int(number)})\n"
        "sys.addaudithook(seen)\n"
    )
    start = f"{heed}{watch}from mura_fastai.cli import main\nmain()"
    command = [sys.executable, "-c", start, "train", root, "--size", "32", "--out", tmp_path / "run"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr == "stopped; give the command again (nothing was begun yet)\n"
    assert not list(tmp_path.iterdir())


def test_results_survive_a_file_name_that_is_no_text(root, run, tmp_path):
    file = os.fsencode(tmp_path) + b"/odd\xff.png"
    with open(file, "wb") as f:
        f.write(next(root.glob("valid/*/*/*/image1.png")).read_bytes())
    out = os.fsencode(tmp_path / "p.csv")
    done = subprocess.run([*MURA, "predict", str(run), file, b"-o", out], capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"odd" in done.stdout and len(Path(os.fsdecode(out)).read_bytes().splitlines()) == 2


# ---------------------------------------------------------------- the demo


@pytest.mark.slow
def test_the_demo_runs_from_phantom_to_picture_and_overwrites_none(mura, tmp_path, monkeypatch):
    monkeypatch.setenv("MURA_CACHE", str(tmp_path / "cache"))
    arguments = ["--studies", 60, "--epochs", 1, "--size", 32]
    code, out, _ = mura("demo", *arguments, "--out", tmp_path / "demo")
    assert code == 0 and "region only" in out and str(tmp_path / "demo" / "demo.png") in out
    assert (tmp_path / "demo" / "demo.png").stat().st_size > 20_000
    assert len(list((tmp_path / "demo").glob("*/metrics.json"))) == 2
    assert mura("demo", *arguments, "--out", tmp_path / "demo")[0] == 2, "an earlier demo is not written over"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["settings.yaml", "repeats.yaml"])
def test_a_demo_does_not_move_into_the_folder_of_a_run(mura, tmp_path, name):
    (tmp_path / name).write_text("format: 1\n")
    code, _, err = mura("demo", "--out", tmp_path)
    assert code == 2 and "holds a run of yours; choose another folder" in err
    assert not (tmp_path / "demo.yaml").exists()


def test_a_demo_that_was_interrupted_goes_on(tmp_path, monkeypatch, capsys):
    from mura_fastai.share import demo as module
    from mura_fastai.training.keeping import KeepState

    monkeypatch.setenv("MURA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "write_report", lambda runs, out: [out.write_text("") or out])  # it takes longest
    folder, after_epoch, archs = tmp_path / "a demo", KeepState.after_epoch, ("mura_cnn", "test_resnet")
    how = dict(studies=60, size=32, bs=16, archs=archs)

    def stopped(self):
        after_epoch(self)
        if self.folder.name == archs[1]:
            raise KeyboardInterrupt

    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(KeepState, "after_epoch", stopped)
        demo(folder, epochs=2, **how)
    assert f"stopped; to go on: mura resume '{folder}'\n" in capsys.readouterr().err
    with pytest.raises(InputError, match="begun with bs 16, now bs 8; choose another folder"):
        demo(folder, epochs=2, **how | dict(bs=8))
    with pytest.raises(InputError, match="mura_cnn: was begun with epochs 2, now epochs 3"):
        demo(folder, epochs=3, **how)
    demo(folder, epochs=2, **how)
    told = capsys.readouterr()
    assert "all its epochs were trained before" in told.err and "going on after 1 epoch\n" in told.err
    assert (folder / "demo.png").exists() and "region only" in told.out
    assert [len(pd.read_csv(f)) for f in folder.glob("*/history.csv")] == [2, 2]
    with pytest.raises(InputError, match="holds a demo already"):
        demo(folder, epochs=2, **how)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="signals")
def test_a_killed_demo_goes_on_by_the_same_command_and_by_resume(mura, tmp_path, monkeypatch):
    from mura_fastai.share import demo as module

    monkeypatch.setenv("MURA_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    arguments = ["demo", "--studies", "60", "--epochs", "2", "--size", "32"]
    with subprocess.Popen([*MURA, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not list(tmp_path.glob("runs/*/mura_cnn/history.csv")) and process.poll() is None:
            time.sleep(0.005)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    [folder] = Path("runs").iterdir()
    asked = dict(studies=60, epochs=2, size=32, bs=32, seed=0, archs=list(module.ARCHS))
    assert module._interrupted(asked) == folder and module._interrupted(asked | {"seed": 1}) is None
    code = "import filelock, sys\nwith filelock.FileLock(sys.argv[1]): print('held', flush=True); sys.stdin.read()"
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", code, folder / ".lock"], **pipes) as other:
        other.stdout.readline()  # somebody is about it, though no network is trained just now
        assert module._interrupted(asked) is None
        code, _, err = mura("resume", folder)
        assert code == 2 and "another process" in err
        other.stdin.close()
    code, _, err = mura("resume", "runs")
    assert code == 2 and f"runs: not a run, but holds some; name one that is not finished: {folder}\n" in err
    monkeypatch.setattr(module, "interpret_run", lambda run: (_ for _ in ()).throw(KeyboardInterrupt))
    code, _, err = mura("demo", "--studies", "60", "--epochs", "1", "--size", "32", "--out", folder)
    assert code == 2 and "was begun with epochs 2, now epochs 1" in err
    code, _, err = mura(*arguments)
    assert code == 130 and err.startswith(f"going on with the demo in {folder}, which was interrupted")
    assert err.endswith(f"stopped; to go on: mura resume {folder}\n") and "Traceback" not in err
    code, _, err = mura("resume", folder, "--json")
    assert code == 2 and "leave --json out" in err
    monkeypatch.undo()
    monkeypatch.setenv("MURA_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    code, out, err = mura("resume", folder)
    assert code == 0 and "region only" in out and (folder / "report.html").exists(), err
    assert list(Path("runs").iterdir()) == [folder]
    assert "was finished before" in mura("resume", folder)[1]
    assert "all of them finished" in mura("resume", "runs")[2]


def test_the_demo_takes_its_phantom_again_and_makes_it_anew_where_a_file_is_lost(tmp_path, monkeypatch):
    monkeypatch.setenv("MURA_CACHE", str(tmp_path / "cache"))
    root, images = demo_phantom(20, size=96)
    made = {path: Path(path).stat().st_mtime_ns for path in images.path}
    assert demo_phantom(20, size=96)[0] == root
    assert {path: Path(path).stat().st_mtime_ns for path in images.path} == made, "a whole phantom is taken as it is"
    first = Path(images.path[0])
    first.unlink()
    demo_phantom(20, size=96)
    assert first.exists()


def test_scores_side_by_side_say_what_cannot_be_said():
    columns = ("n", "n_abnormal", "kappa", "auroc", "kappa_lo", "kappa_hi", "auroc_lo", "auroc_hi")
    rows = [[3, 0, None, None, None, None, None, None], [9, 4, 0.51, 0.8, 0.2, 0.7, 0.6, 0.9]]
    scores = pd.DataFrame([*rows, rows[1]], ["XR_HAND", "overall", "macro"], columns).astype(float)
    scores["n"] = scores.n.astype(int)
    scores.attrs["region_only"] = {region: {"kappa": 0.0, "auroc": 0.5} for region in scores.index}
    text = compare_scores({"mura_cnn": scores, "resnet10t": scores})
    hand, overall = (next(line for line in text.splitlines() if line.startswith(r)) for r in ("XR_HAND", "overall"))
    assert hand.split() == ["XR_HAND", "3", *["n/a"] * 4, "0.00", "0.50"]
    cells = ["0.51", "[0.20,", "0.70]", "0.80", "[0.60,", "0.90]"]
    assert overall.split() == ["overall", "9", *cells * 2, "0.00", "0.50"]


def test_one_is_not_several():
    assert (one_of(1, "study"), one_of(1199, "study"), one_of(0, "image")) == ("1 study", "1,199 studies", "0 images")
    assert (one_of(1, "file was", "files were"), one_of(2, "batch", "batches")) == ("1 file was", "2 batches")


def test_the_command_is_typers():
    "An option that Typer does not know how to read would fail at the first call only."
    assert typer.main.get_command(cli.app).commands.keys() == COMMANDS.keys()
