"""What a command says where it refuses: one line that names the thing and what to do, and nothing of the machinery."""

import argparse
import os
import pickle
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mura_fastai.errors import InputError
from mura_fastai.files import read_yaml
from mura_fastai.models.weights import read_weights

HERE = Path(__file__).parent
UNIX = pytest.mark.skipif(sys.platform == "win32", reason="signals and locks of Unix")


def said(told: tuple, *words: str) -> str:
    "The one line of a command that refused, without what is before it."
    code, out, err = told
    assert (code, out) == (2, "") and err.count("\n") == 1 and err.startswith("mura: "), err
    for word in words:
        assert word in err, err
    return err[6:-1]


# ---------------------------------------------------------------- weights


class Bomb:
    def __reduce__(self):
        return open, ("canary", "w")


def legacy(content, file: Path):
    torch.save(content, file, _use_new_zipfile_serialization=False)


PICKLES = {
    "pickle": lambda f: f.write_bytes(pickle.dumps({"a": Bomb()})),
    "protocol 2": lambda f: f.write_bytes(pickle.dumps({"a": Bomb()}, 2)),
    "torch": lambda f: torch.save({"a": Bomb()}, f),
    "torch of old": lambda f: legacy({"a": Bomb()}, f),
    "a whole network": lambda f: torch.save(torch.nn.Linear(2, 2), f),
    "weights and more": lambda f: torch.save({"model": {"a": torch.ones(2)}, "args": argparse.Namespace(lr=1)}, f),
}


@pytest.mark.parametrize("kind", PICKLES)
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_pickle_is_called_one_and_what_to_do_instead_is_told(mura, root, tmp_path, monkeypatch, recwarn, name, kind):
    monkeypatch.chdir(tmp_path)
    PICKLES[kind](tmp_path / name)
    how = ["--arch", "resnet18", "--size", 48, "--bs", 16, "--no-store", "--out", tmp_path / "run"]
    line = said(mura("train", root, *how, "--weights", tmp_path / name), f"{tmp_path / name}: a pickle, which can run")
    assert "save_file(net.state_dict(), 'net.safetensors')" in line and len(line) < 350 + len(str(tmp_path))
    assert not re.search(r"weights_only|torch\.load|Unpickl|\x1b|convert", line)
    assert not [w for w in recwarn if "pickle" in str(w.message)]
    assert not (tmp_path / "canary").exists() and not (tmp_path / "run").exists()


def test_that_recipe_makes_a_file_that_is_read(tmp_path):
    net = torch.nn.Linear(2, 2)
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    assert read_weights(tmp_path / "net.safetensors").keys() == net.state_dict().keys()


@pytest.mark.parametrize("write", [torch.save, legacy])
@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"model": s, "epoch": 3}])
def test_plain_state_dicts_stay_allowed(tmp_path, write, wrap):
    write(wrap({"a": torch.ones(2)}), tmp_path / "w.pth")
    assert read_weights(tmp_path / "w.pth")["a"].tolist() == [1, 1]


def a_zip(file: Path):
    with zipfile.ZipFile(file, "w") as z:
        z.writestr("x", "y")


NO_WEIGHTS = {
    "html": lambda f: f.write_text("<!doctype html>"), "empty": lambda f: f.write_bytes(b""), "a ZIP": a_zip,
    "zeros": lambda f: f.write_bytes(bytes(100)), "a length": lambda f: f.write_bytes(b"\x80" + bytes(7) + b"{"),
}  # fmt: skip


@pytest.mark.parametrize("kind", NO_WEIGHTS)
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_what_is_no_pickle_is_not_called_one(tmp_path, name, kind):
    NO_WEIGHTS[kind](tmp_path / name)
    with pytest.raises(InputError, match=r"give a \.safetensors file|get it once more|a pickle") as e:
        read_weights(tmp_path / name)
    assert (": a pickle" in str(e.value)) == (kind == "a ZIP" and name == "w.safetensors")
    assert "Weights only" not in str(e.value) and "\n" not in str(e.value)


# ---------------------------------------------------------------- settings

YAML = {
    b"a: 1\nb: [1, 2\nc: 3\n": (3, "expected ',' or ']'"),
    b"a: 1\nb: c: d\n": (2, "mapping values are not allowed here"),
    b"a: 1\nb: !!python/object/apply:os.system ['x']\n": (2, "the tag !!python/object/apply:os.system"),
    b"a: 1\nb: !evil x\n": (2, "the tag !evil"),
    b"a: 1\n\tb: 2\n": (2, r"found character '\t'"),
    b"a: 1\nb: *x\n": (2, "undefined alias 'x'"),
    b"a: 1\nb: '\n": (3, "unexpected end"),
    b"a: &a {x: 1}\nb:\n  <<: *a\n": (3, "a merge key"),
    b"a: 1\nb: 2024-13-45\n": (2, "'2024-13-45' is no timestamp"),
    b"a: 1\nb:\n  c: 0x_\n": (3, "'0x_' is no int"),
    b"a: 1\n---\nb: 2\n": (2, "another document"),
    b"a: 1\nb: \x80\n": (2, "not UTF-8"),
    b"a: 1\nb: \x00\n": (2, "a character 0x0"),
    b"\xef\xbb\xbfa: 1\nb: \x01\n": (2, "a character 0x1"),
}


@pytest.mark.parametrize("text", YAML)
def test_yaml_is_refused_with_its_line_and_without_its_reader(mura, tmp_path, text):
    line, why = YAML[text]
    run = tmp_path / "run"
    run.mkdir()
    (run / "settings.yaml").write_bytes(text)
    told = said(mura("evaluate", run), f"{run / 'settings.yaml'}, line {line}: not plain YAML (", why, "; correct it")
    assert not re.search(r"unicode string|while |position|codec|literal|yaml\.org", told), told


def test_settings_that_cannot_be_read_are_not_called_bad(tmp_path):
    (tmp_path / "settings.yaml").mkdir()
    with pytest.raises(InputError, match=r"settings.yaml: cannot be read \(Is a directory\); mend that"):
        read_yaml(tmp_path / "settings.yaml")
    with pytest.raises(InputError, match="no such file; bring it back"):
        read_yaml(tmp_path / "other.yaml")


# ---------------------------------------------------------------- --out


@pytest.mark.parametrize("deep", [False, True])
def test_a_file_where_a_folder_is_to_be_is_named(mura, root, run, tmp_path, deep):
    file = tmp_path / "notes.txt"
    file.write_text("dear")
    out = file / "a" / "b" if deep else file
    small = ["--size", 32, "--epochs", 1, "--bs", 16]
    commands = {
        "train": ["train", root, *small, "--out", out], "folds": ["train", root, *small, "--folds", 2, "--out", out],
        "demo": ["demo", "--studies", 60, "--out", out], "prepare": ["prepare", root, "--size", 32, "-o", out],
        "phantom": ["phantom", out, "--studies", 10], "interpret": ["interpret", run, "--heat", "none", "-o", out],
        "suspects": ["interpret", run, "--suspects", "-o", out],
    }  # fmt: skip
    for arguments in commands.values():
        said(mura(*arguments), f"{file}: is a file, and no folder can be made there; choose another folder")
    assert file.read_text() == "dear" and list(tmp_path.iterdir()) == [file]


# ---------------------------------------------------------------- a run that is being trained


@UNIX
@pytest.mark.slow
def test_a_run_that_is_being_trained_is_not_to_be_removed(mura, root, tmp_path):
    "A real training, stopped in its midst: it lives, and whoever wants its folder hears of it."
    run, cache = tmp_path / "demo" / "mura_cnn", tmp_path / "cache"
    how = ["--size", "32", "--epochs", "50", "--bs", "16", "--no-store", "--workers", "1", "--ci", "none"]
    path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    known = {**os.environ, "PYTHONPATH": path, "MURA_CACHE": str(cache)}
    command = [sys.executable, HERE.parent / "cli.py", "train", root, *how, "--out", run]
    lives = subprocess.Popen(command, env=known, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 120
        while not (run / "history.csv").exists() and lives.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        lives.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, lives.pid, os.WSTOPPED | os.WNOWAIT)
        before = {f: f.stat().st_mtime_ns for f in run.rglob("*")}
        again = ["train", root, *how, "--out", run]
        for arguments in (again, [*again, "--folds", "2"], ["demo", "--studies", "60", "--out", run.parent]):
            line = said(mura(*arguments), f"{run}: ", f"another process ({lives.pid} on ", "wait for it to end")
            assert "remove" not in line
        said(mura("resume", run), f"another process ({lives.pid} on ", "is training there; wait for it to end")
        assert before == {f: f.stat().st_mtime_ns for f in run.rglob("*")}, "nothing of it was touched"
        said(mura("audit", run), "is a run")
    finally:
        lives.kill()
        lives.wait()
    line = said(mura(*again), f"{run}: holds a run already; go on with it (mura resume)")
    assert "another process" not in line
