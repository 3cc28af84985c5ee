"A run whose data lies elsewhere now: said once, it goes on as if it had always lain there; nothing else is shown."

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from forked import Mura
from PIL import Image
from safetensors.torch import load_file
from whole import torn

from mura_fastai.confined import told_folder
from mura_fastai.data.sources import csv_images
from mura_fastai.data.store import build_store
from mura_fastai.data.studies import mura_images
from mura_fastai.errors import InputError, NoData
from mura_fastai.results import experiment
from mura_fastai.results.experiment import train
from mura_fastai.results.moments import Moment
from mura_fastai.training.alone import alone
from mura_fastai.training.keeping import KeepState
from mura_fastai.training.marks import PIXELS, SQUARES
from mura_fastai.training.relocate import relocate_run
from mura_fastai.training.resume import resume_run
from mura_fastai.training.runs import read_settings, train_run
from mura_fastai.training.state import State, packed, read_state, read_told, state_file
from mura_fastai.training.tables import lost_data

UNIX = pytest.mark.skipif(sys.platform != "linux", reason="signals and /proc")
QUICK = dict(size=32, bs=16, num_workers=1)
TIMES = itertools.count(10**18, 10**12)
TABLES = ("images.csv", "predictions.csv", "predictions-tune.csv")


class Cut(BaseException):
    "Stands for whatever ends a process: nothing in the package heeds it."


def unpack(source: Path, place: Path) -> Path:
    "The same files at another time: other stamps, the same pixels."
    shutil.copytree(source, place, copy_function=shutil.copyfile)
    when = next(TIMES)
    for file in place.rglob("*.png"):
        os.utime(file, ns=(when, when))
    return place


def files(folder):
    "All that lies there, but for locks."
    return {
        str(f.relative_to(folder)): f.read_bytes()
        for f in sorted(folder.rglob("*"))
        if f.is_file() and not f.name.startswith((".lock", ".keeping"))
    }


def refused(told, *words):
    "One line, nothing on stdout, exit code 2."
    code, out, err = told
    assert (code, out) == (2, "") and err.count("\n") == 1, err
    for word in words:
        assert word in err, err


def refused_last(told, *words):
    "As `refused`, after other lines."
    refused((*told[:2], told[2].splitlines(True)[-1]), *words)


@pytest.fixture
def here(root, tmp_path):
    "The shared phantom, where it lies now."
    return unpack(root, tmp_path / "session 2" / "MURA")


@pytest.fixture
def mailed(run, tmp_path):
    "A finished run, its data not on this machine."
    copy = Path(shutil.copytree(run, tmp_path / "mailed"))
    settings = read_settings(copy)
    was = settings["data"]["path"]
    for file in [copy / "settings.yaml", *copy.glob("*.csv")]:
        file.write_bytes(file.read_bytes().replace(was.encode(), b"/content/session-1/MURA"))
    return copy


# ---------------------------------------------------------------- the paths


def test_paths_and_nothing_else_become_others(mailed, here):
    before, probs = files(mailed), pd.read_csv(mailed / "predictions.csv").p_abnormal
    assert relocate_run(mailed, here) == here
    after = files(mailed)
    changed = {k for k in before if before[k] != after[k]}
    assert before.keys() == after.keys() and changed == {"settings.yaml", *TABLES}
    for name in TABLES:
        assert b"/content" not in after[name]
        assert after[name].replace(str(here).encode(), b"/content/session-1/MURA") == before[name], "to the last digit"
    told = read_settings(mailed)
    assert told["data"]["path"] == str(here)
    assert Moment(mailed).predictions().p_abnormal.tolist() == probs.tolist(), "kept, and not made anew"
    relocate_run(mailed, here)
    assert files(mailed) == after, "said again, nothing changes"


def test_a_run_comes_back_as_it_was(mailed, here, tmp_path):
    before = files(mailed)
    relocate_run(mailed, here)
    unpack(here, tmp_path / "third")
    relocate_run(mailed, tmp_path / "third")
    (tmp_path / "back").mkdir()
    for table in TABLES:
        text = (mailed / table).read_bytes()
        (mailed / table).write_bytes(text.replace(str(tmp_path / "third").encode(), b"/content/session-1/MURA"))
    text = (mailed / "settings.yaml").read_bytes()
    (mailed / "settings.yaml").write_bytes(text.replace(str(tmp_path / "third").encode(), b"/content/session-1/MURA"))
    assert files(mailed) == before


def test_what_was_left_out_is_named_where_it_lies_now(mailed, here):
    rows = ["/content/session-1/MURA/train/bad.png,truncated", "/elsewhere/x.png,missing"]
    rows += ["/content/session-1/MURA/a.png,same pixels as /content/session-1/MURA/b.png"]
    rows += ["/content/session-1/MURA/../../c.png,missing"]
    (mailed / "skipped.csv").write_text("path,reason\n" + "\n".join(rows) + "\n")
    relocate_run(mailed, here)
    told = (mailed / "skipped.csv").read_text().splitlines()[1:]
    assert told[:2] == [f"{here}/train/bad.png,truncated", rows[1]] and told[3] == rows[3]
    assert told[2] == f"{here}/a.png,same pixels as {here}/b.png"


@pytest.mark.parametrize("deeper", [True, False])
def test_one_place_may_hold_the_other(run, root, tmp_path, deeper):
    "An archive that unpacks into one folder more, or one less."
    outer, inner = tmp_path / "MURA", tmp_path / "MURA" / "MURA"
    old, new = (outer, inner) if deeper else (inner, outer)
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    was = read_settings(copy)["data"]["path"]
    for file in [copy / "settings.yaml", *copy.glob("*.csv")]:
        file.write_bytes(file.read_bytes().replace(was.encode(), str(old).encode()))
    unpack(root, new) if deeper else shutil.copytree(root, outer)
    for _ in range(2):
        relocate_run(copy, new)
        assert all(Path(p).is_file() and Path(p).parents[4] == new for p in pd.read_csv(copy / "images.csv").path)


def test_a_run_of_windows_finds_its_data(mailed, here):
    old = "D:\\data\\MURA"
    for name in TABLES:
        table = pd.read_csv(mailed / name)
        table["path"] = [old + p.removeprefix("/content/session-1/MURA").replace("/", "\\") for p in table.path]
        table.to_csv(mailed / name, index=False)
    settings = read_settings(mailed)
    settings["data"]["path"] = old
    (mailed / "settings.yaml").write_text(yaml.safe_dump(settings))
    assert str(told_folder(settings["data"])) == old
    relocate_run(mailed, here)
    assert all(map(os.path.isfile, pd.read_csv(mailed / "images.csv").path))


@pytest.mark.parametrize("by", ["its new name", "its folder"])
def test_a_csv_of_ones_own(images, tmp_path, by):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    names = [f"{i}.png" for i in range(len(images))]
    for path, name in zip(images.path, names, strict=True):
        shutil.copy(path, first / name)
    images.assign(path=names).to_csv(first / "own.csv", index=False)
    told = dict(path=str(first / "own.csv"), source="csv", tables={"own.csv": "0123"})
    run = train_run(csv_images(first / "own.csv"), tmp_path / "run", epochs=1, data=told, store=False, **QUICK)
    first.rename(second)
    name = "own.csv" if by == "its folder" else "renamed.csv"
    (second / "own.csv").rename(second / name)
    relocate_run(run, second if by == "its folder" else second / name)
    data = read_settings(run)["data"]
    assert data["path"] == str(second / name) and data["tables"] == {name: "0123"}
    assert all(map(os.path.isfile, pd.read_csv(run / "images.csv").path))
    with pytest.raises(InputError, match="no such file; give the CSV"):
        relocate_run(run, tmp_path)


# ---------------------------------------------------------------- what is refused, and changes nothing


def test_missing_images_are_counted_and_nothing_changes(mailed, here, mura):
    before, table = files(mailed), pd.read_csv(mailed / "images.csv")
    gone = here / table.path[7].removeprefix("/content/session-1/MURA/")
    gone.unlink()
    refused(mura("relocate", mailed, here), f"1 of {len(table)} images of {mailed} missing there, such as {gone}")
    refused(mura("relocate", mailed, here.parent), f"{len(table)} of {len(table)} images", f"give {here}")
    refused(mura("relocate", mailed, here / "absent"), f"{here / 'absent'}: no such folder")
    refused(mura("relocate", mailed, here / "train_image_paths.csv"), "no such folder")
    refused(mura("relocate", here, here), "not a run")
    assert files(mailed) == before and not (here / ".lock").exists()


ATTACKS = {
    "dots": "/content/session-1/MURA/../../../private.png",
    "dots in the midst": "/content/session-1/MURA/train/../../private.png",
    "elsewhere": "{private}",
    "a name like the old one": "/content/session-1/MURA2/private.png",
    "relative": "private.png",
    "empty": "",
    "the folder itself": "/content/session-1/MURA",
    "a link": "/content/session-1/MURA/link.png",
    "a link to a folder": "/content/session-1/MURA/linked/private.png",
}


@pytest.mark.parametrize("name", ["images.csv", "predictions.csv", "predictions-tune.csv"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_no_table_reaches_out_of_the_new_place(mailed, here, tmp_path, attack, name):
    private = tmp_path / "private.png"
    Image.fromarray(np.full((64, 64), 99, np.uint8)).save(private)
    (here / "link.png").symlink_to(private)
    (here / "linked").symlink_to(tmp_path)
    table = pd.read_csv(mailed / name)
    table.loc[3, "path"] = ATTACKS[attack].format(private=private)
    table.to_csv(mailed / name, index=False)
    before = files(mailed)
    with pytest.raises(InputError, match="lies outside of" if "link" in attack else "is not below") as e:
        relocate_run(mailed, here)
    assert str(mailed / name) in str(e.value) and files(mailed) == before


@pytest.mark.parametrize("path", [None, "relative/MURA", "/", "", 7])
def test_a_run_that_does_not_say_where_its_data_lay_is_refused(mailed, here, path):
    settings = read_settings(mailed)
    settings["data"]["path"] = path
    (mailed / "settings.yaml").write_text(yaml.safe_dump(settings))
    before = files(mailed)
    with pytest.raises(InputError, match="data.path"):
        relocate_run(mailed, here)
    assert files(mailed) == before


def test_the_whole_machine_is_no_place_of_data(mailed, tmp_path):
    for name in TABLES:
        (mailed / name).write_text("path\n")
    (tmp_path / "link").symlink_to("/")
    for place in ("/", tmp_path / "link"):
        with pytest.raises(InputError, match="the data lies in / itself"):
            relocate_run(mailed, place)


def test_a_run_in_training_is_refused(mailed, here):
    before = files(mailed)
    with alone(mailed), pytest.raises(InputError, match="is training there; wait for it to end"):
        relocate_run(mailed, here)
    assert files(mailed) == before


# ---------------------------------------------------------------- interrupted

KILLS = """
import json, shutil, sys
from pathlib import Path
from children import Child
from mura_fastai.errors import InputError
from mura_fastai.training.relocate import relocate_run
from mura_fastai.results.tables import own_predictions
from mura_fastai.training.runs import read_settings
from mura_fastai.training.tables import own_images
run, here, work = map(Path, sys.argv[1:])
files = lambda r: {f.name: f.read_bytes() for f in r.rglob("*") if f.is_file() and not f.name.startswith(".")}
whole = shutil.copytree(run, work / "whole")
steps = Child(lambda: relocate_run(whole, here), whole).wait().steps
between = 0
for at in range(1, steps + 1):
    one = shutil.copytree(run, work / str(at))
    assert Child(lambda: relocate_run(one, here), one, at).wait().code == -9, at
    told = read_settings(one)
    if files(one) not in (files(run), files(whole)):
        between += 1
        try:  # none of the new pictures is shown until the settings say so
            shown = [own_images(one, told["data"]).path, *(own_predictions(one / f, told["data"]).path
                     for f in ("predictions.csv", "predictions-tune.csv"))]
            assert not [p for paths in shown for p in paths if p.startswith(str(here))], at
        except InputError as e:
            assert "lies outside of" in str(e) and "mura relocate" in str(e), at
    done = Child(lambda: relocate_run(one, here), one).wait()
    assert done.code == 0 and files(one) == files(whole), (at, done.err)
print(json.dumps([steps, between]))
"""


@UNIX
@pytest.mark.slow
def test_killed_before_any_step_the_same_call_completes_it(mailed, here, tmp_path):
    (mailed / "skipped.csv").write_text("path,reason\n/content/session-1/MURA/x.png,truncated\n")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    work = tmp_path / "killed"
    work.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", KILLS, mailed, here, work], capture_output=True, text=True, env=env
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    steps, between = json.loads(done.stdout)
    assert steps > 15 and between > 3
    assert not torn(work / "whole")


@pytest.mark.parametrize("at", [1, 2, 3])
def test_interrupted_between_two_files_nothing_new_is_shown_until_it_is_completed(mailed, here, monkeypatch, mura, at):
    whole = Path(shutil.copytree(mailed, mailed.with_name("whole")))
    relocate_run(whole, here)
    replace, seen = os.replace, []

    def cut(source, target):
        if str(target).endswith((".csv", ".yaml")):
            seen.append(target)
            if len(seen) > at:
                raise Cut
        replace(source, target)

    with monkeypatch.context() as m, pytest.raises(Cut):
        m.setattr(os, "replace", cut)
        relocate_run(mailed, here)
    refused(mura("evaluate", mailed, "--ci", "none"), "lies outside of the run's data, /content", "mura relocate")
    relocate_run(mailed, here)
    assert files(mailed) == files(whole)


def test_an_interrupted_move_is_completed_before_another(mailed, here, monkeypatch, tmp_path):
    third, replace = unpack(here, tmp_path / "third"), os.replace

    def cut(source, target):
        if str(target).endswith(".yaml"):
            raise Cut
        replace(source, target)

    with monkeypatch.context() as m, pytest.raises(Cut):
        m.setattr(os, "replace", cut)
        relocate_run(mailed, here)
    with pytest.raises(InputError, match="is not below /content/.* give it that folder once more"):
        relocate_run(mailed, third)
    relocate_run(mailed, here)
    assert relocate_run(mailed, third) == third


@pytest.mark.parametrize("several", [False, True])
def test_what_had_not_read_its_data_yet_reads_it_where_it_lies_now(root, here, tmp_path, monkeypatch, mura, several):
    first, run = unpack(root, tmp_path / "first"), tmp_path / "run"

    def cut(*_):
        raise Cut

    with monkeypatch.context() as m, pytest.raises(Cut):
        m.setattr(experiment, "read_data", cut)
        train(first, run, epochs=1, ci=None, seeds=1 + several, **QUICK)
    shutil.rmtree(first)
    refused_last(mura("resume", run), f"its data is not at {first} (no such folder)", f"mura relocate {run} FOLDER")
    relocate_run(run, here)
    code, _, err = mura("resume", run, "--ci", "none")
    assert code == 0, err
    assert pd.read_csv(run / "predictions.csv").path.str.startswith(str(here)).all()


def test_predictions_that_were_begun_before_are_not_kept_after(mailed, here):
    "Another process had read the paths of before, and comes to keep what it made of them."
    now = Moment(mailed)
    relocate_run(mailed, here)
    assert not now.keep(lambda: pytest.fail("kept"))
    assert Moment(mailed).keep(lambda: None)


def test_a_store_that_knows_other_files_is_not_asked_for_them(mailed, here, images, tmp_path, capsys):
    build_store(images, tmp_path / "store", 48)
    settings = read_settings(mailed) | {"store": str(tmp_path / "store")}
    (mailed / "settings.yaml").write_text(yaml.safe_dump(settings))
    build_store(mura_images(here), tmp_path / "other", 48)
    relocate_run(mailed, here)
    assert read_settings(mailed)["store"] is True and str(tmp_path / "store") in capsys.readouterr().err
    (mailed / "settings.yaml").write_text(yaml.safe_dump(read_settings(mailed) | {"store": str(tmp_path / "other")}))
    relocate_run(mailed, here)
    assert read_settings(mailed)["store"] == str(tmp_path / "other") and not capsys.readouterr().err


# ---------------------------------------------------------------- a training goes on


@pytest.fixture(scope="module", params=[None, False], ids=["store", "no store"])
def begun(request, root, tmp_path_factory):
    "A run that was cut off in its second epoch, and one that was not; their data. Nobody changes them."
    folder = tmp_path_factory.mktemp("begun")
    data, after_batch, seen = unpack(root, folder / "data"), KeepState.after_batch, []
    images = mura_images(data)
    keep = pd.concat([images[images.split == s].head(n) for s, n in (("train", 48), ("tune", 8), ("valid", 8))])
    told = dict(path=str(data), source="mura")
    how = dict(epochs=2, store=request.param, save_every=1, data=told, **QUICK)
    train_run(keep, folder / "whole", **how)

    def counted(self):
        after_batch(self)
        seen.append(1)
        if len(seen) == 5:
            raise Cut

    with pytest.MonkeyPatch.context() as m, pytest.raises(Cut):
        m.setattr(KeepState, "after_batch", counted)
        train_run(keep, folder / "run", **how)
    kind = PIXELS if request.param is False else SQUARES
    assert {SQUARES, PIXELS} & read_state(folder / "run").tensors.keys() == {kind}
    return folder


@pytest.fixture
def half(begun, tmp_path):
    "A copy of the interrupted run, its data at another place and time, and the undisturbed run."
    run = Path(shutil.copytree(begun / "run", tmp_path / "half"))
    return run, unpack(begun / "data", tmp_path / "elsewhere" / "MURA"), begun / "whole"


def assert_same(run, whole):
    "All but the times of files, to the last bit."
    assert (run / "weights/best.safetensors").read_bytes() == (whole / "weights/best.safetensors").read_bytes()
    ours, theirs = (load_file(state_file(r)) for r in (run, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours if k != "data.stamps")
    rows = [pd.read_csv(r / "history.csv").drop(columns="seconds") for r in (run, whole)]
    pd.testing.assert_frame_equal(*rows, check_exact=True)


def spoil(file):
    "One pixel is another; size and time may be the same."
    with Image.open(file) as im:
        a = np.array(im)
    a[40, 40] = 255 - a[40, 40] if abs(255 - 2 * int(a[40, 40])) > 64 else 0
    Image.fromarray(a).save(file)


def test_data_unpacked_elsewhere_is_gone_on_with_to_the_same_bits(half, capsys):
    run, data, whole = half
    relocate_run(run, data)
    resume_run(run)
    assert "64 files with another size or time and the same pixels" in capsys.readouterr().err
    assert read_told(run)["done"]
    assert_same(run, whole)


def test_data_unpacked_anew_in_its_old_place_needs_no_word(begun, half):
    run, data, whole = half
    before = {f: f.stat().st_mtime_ns for f in (begun / "data").rglob("*.png")}
    try:
        for file in before:
            os.utime(file)
        resume_run(run)
    finally:
        for file, when in before.items():
            os.utime(file, ns=(when, when))
    assert_same(run, whole)


def test_one_changed_pixel_is_refused_by_the_name_of_its_file(half):
    run, data, whole = half
    relocate_run(run, data)
    wrong = Path(pd.read_csv(run / "images.csv").path[11])
    held, before = wrong.read_bytes(), files(run)
    spoil(wrong)
    with pytest.raises(InputError, match=f"^{wrong}: changed since the training began; put it back"):
        resume_run(run)
    assert files(run) == before
    wrong.write_bytes(held[:-20])
    with pytest.raises(InputError, match=f"^{wrong}: .*since the training began; put it back"):
        resume_run(run)
    wrong.write_bytes(held)
    resume_run(run)
    assert_same(run, whole)


def test_many_unreadable_files_are_no_matter_of_an_option(half, mura):
    run, data, _ = half
    relocate_run(run, data)
    for path in pd.read_csv(run / "images.csv").path[:30]:
        Path(path).write_bytes(Path(path).read_bytes()[:-20])
    told = mura("resume", run)
    assert told[0] == 2 and "truncated since the training began" in told[2] and "max-bad" not in told[2]


def test_a_state_of_an_earlier_version_knows_no_pixels(half, begun):
    run, data, whole = half
    state = read_state(run)
    tensors = {k: v for k, v in state.tensors.items() if k not in (SQUARES, PIXELS)}
    state_file(run).write_bytes(packed(State(state.told, tensors)))
    elsewhere = Path(shutil.copytree(run, run.with_name("elsewhere-run")))
    relocate_run(elsewhere, data)
    with pytest.raises(InputError, match="changed since the training began"):
        resume_run(elsewhere)
    resume_run(run)
    assert_same(run, whole)


def test_a_state_of_a_store_is_gone_on_with_without_one(half):
    "What is compared does not hang on where the pixels come from."
    run, data, whole = half
    settings = read_settings(run)
    (run / "settings.yaml").write_text(yaml.safe_dump(settings | {"store": not settings["store"]}))
    relocate_run(run, data)
    wrong = Path(pd.read_csv(run / "images.csv").path[3])
    held = wrong.read_bytes()
    spoil(wrong)
    with pytest.raises(InputError, match=f"^{wrong}: changed"):
        resume_run(run)
    wrong.write_bytes(held)
    resume_run(run)
    assert_same(run, whole)


def test_gone_data_is_told_of_as_gone_and_how_to_say_where_it_is(half, begun, mura):
    run, data, whole = half
    relocate_run(run, data)
    aside = data.rename(data.with_name("away"))
    refused(mura("resume", run), f"its data is not at {data} (64 of 64 images", f"mura relocate {run} FOLDER")
    shutil.rmtree(state_file(run).parent)
    (run / "weights" / "best.safetensors").unlink()
    (run / "history.csv").unlink()
    told = mura("resume", run)
    refused_last(told, f"its data is not at {data}", f"mura relocate {run} FOLDER")
    assert "max-bad" not in told[2]
    aside.rename(data)
    Path(pd.read_csv(run / "images.csv").path[2]).unlink()
    assert lost_data(run, read_settings(run)["data"], pd.read_csv(run / "images.csv").path) is None


def test_labels_edited_after_the_end_are_said_where_the_run_is_scored(mailed, here, mura):
    "What it is scored by is what it was trained with."
    relocate_run(mailed, here)
    assert "edited since" not in mura("evaluate", mailed)[2]
    file = here / "valid_labeled_studies.csv"
    file.write_text(file.read_text() + "\n")
    code, _, err = mura("evaluate", mailed)
    assert code == 0 and f"{file.name} was edited since; scored by the labels of then (images.csv)" in err


def test_a_blank_path_is_no_image_that_is_gone(tmp_path):
    here = tmp_path / "a.png"
    here.touch()
    assert lost_data(tmp_path, {"path": str(tmp_path)}, [float("nan"), str(here)]) is None
    assert "1 of 1 image" in str(lost_data(tmp_path, {"path": str(tmp_path)}, [float("nan"), "/gone/b.png"]))


@UNIX
@pytest.mark.slow
def test_a_night_on_a_notebook_that_disconnects(root, tmp_path):
    "Real processes: trained, stopped by a signal, data unpacked elsewhere, told so, gone on with."
    mura, first, second = Mura(tmp_path), unpack(root, tmp_path / "one"), tmp_path / "two"
    options = ["--size", 32, "--bs", 16, "--workers", 1, "--epochs", 3, "--ci", "none"]
    run, whole = tmp_path / "run", tmp_path / "whole"
    try:
        assert mura("train", first, *options, "--out", whole)[0] == 0
        process = mura.start("train", first, *options, "--out", run).until((run / "history.csv").exists)
        process.kill(signal.SIGSTOP)  # its epochs may be over before another command has begun
        code, out, err = mura("relocate", run, first)
        assert code == 2 and "is training there; wait for it to end" in err
        process.kill(signal.SIGTERM)
        assert process.kill(signal.SIGCONT).end()[0] == 143
        unpack(first, second)
        shutil.rmtree(first)
        refused(mura("resume", run), f"its data is not at {first}", "mura relocate")
        refused(mura("resume", run.parent), "not a run")
        told = mura("relocate", run, second)
        assert told[0] == 0 and told[1].startswith(f"The data of {run} lies in {second} now; ") and not told[2]
        code, out, err = mura("resume", run, "--ci", "none")
        assert code == 0 and "and the same pixels" in err, err
    finally:
        mura.close()
    assert_same(run, whole)
    ours, theirs = (pd.read_csv(r / "predictions.csv", dtype=str) for r in (run, whole))
    assert ours.p_abnormal.tolist() == theirs.p_abnormal.tolist()
    assert [p.removeprefix(str(second)) for p in ours.path] == [p.removeprefix(str(first)) for p in theirs.path]


@pytest.mark.slow
@pytest.mark.parametrize("folds", [None, 2])
def test_folds_and_seeds_go_on_elsewhere(root, tmp_path, folds, mura):
    first, run = unpack(root, tmp_path / "one"), tmp_path / "run"
    how = dict(epochs=2, ci=None, regions="XR_WRIST,XR_HAND", **QUICK | dict(bs=4))
    how |= dict(folds=2) if folds else dict(seeds=2)
    whole, _ = train(first, tmp_path / "whole", **how)
    last, after_batch = "fold1-seed0" if folds else "seed1", KeepState.after_batch

    def cut(self):
        after_batch(self)
        if self.folder.name == last and len(self.history.rows) == 1:
            raise Cut

    with pytest.MonkeyPatch.context() as m, pytest.raises(Cut):
        m.setattr(KeepState, "after_batch", cut)
        train(first, run, **how)
    second = unpack(first, tmp_path / "two")
    shutil.rmtree(first)
    refused(mura("resume", run), f"its data is not at {first}", f"mura relocate {run} FOLDER")
    code, out, _ = mura("relocate", run, second, "--json")
    assert code == 0 and json.loads(out) == {"run": str(run), "data": str(second)}
    assert yaml.safe_load((run / "repeats.yaml").read_text())["data"]["path"] == str(second)
    code, _, err = mura("resume", run, "--ci", "none")
    assert code == 0, err
    for sub in (run / last, run / ("fold0-seed0" if folds else "seed0")):
        assert_same(sub, whole / sub.name)
        assert read_settings(sub)["data"]["path"] == str(second)
    relocate_run(run, second)
    third = unpack(second, tmp_path / "three")
    relocate_run(run, third)
    for table in [*run.glob("*.csv"), *run.glob("*/images.csv"), *run.glob("*/predictions*.csv")]:
        assert str(second).encode() not in table.read_bytes() and str(third).encode() in table.read_bytes(), table


# ---------------------------------------------------------------- a run without its data

NEED = [["evaluate", "--ci", "none"], ["report"], ["interpret"], ["calibrate"], ["audit", "--shortcuts"]]


@pytest.mark.slow
def test_with_what_a_mailed_run_keeps_it_is_scored_and_reported(mailed, mura, tmp_path):
    assert mura("evaluate", mailed, "--ci", "none")[0] == 0
    assert mura("report", mailed, "-o", tmp_path / "r.html")[0] == 0
    code, _, err = mura("interpret", mailed, "--heat", "none")
    assert code == 0 and "its data is not at /content/session-1/MURA" in err and "mura relocate" in err


@pytest.mark.parametrize("command", NEED, ids=lambda c: c[0])
def test_a_mailed_run_says_that_its_data_is_elsewhere(mailed, mura, command):
    for name in ("predictions.csv", "predictions-tune.csv", "decision.yaml") if command[0] != "audit" else ():
        (mailed / name).unlink()
    told = mura(command[0], mailed, *command[1:])
    refused(told, "its data is not at /content/session-1/MURA", f"mura relocate {mailed} FOLDER")
    assert "max-bad" not in told[2]


@pytest.mark.parametrize("split", ["train", "tune"])
def test_other_rows_of_a_mailed_run(mailed, mura, split):
    (mailed / "predictions-tune.csv").unlink()
    refused(mura("evaluate", mailed, "--ci", "none", "--split", split), "its data is not at /content/session-1/MURA")


def test_a_mailed_run_predicts_other_pictures_and_says_what_it_lacks(mailed, mura, images, tmp_path):
    for name in ("predictions-tune.csv", "decision.yaml"):
        (mailed / name).unlink()
    code, out, err = mura("predict", mailed, images.path[0], "-o", tmp_path / "p.csv")
    assert code == 0 and "its own tune images, so abnormal is above 0.5" in err
    assert "its data is not at /content/session-1/MURA" in err and "cannot be used" not in err and "max-bad" not in err


def test_images_that_were_lost_are_no_matter_of_an_option(mailed, here, mura):
    relocate_run(mailed, here)
    (mailed / "predictions.csv").unlink()
    table = pd.read_csv(mailed / "images.csv")
    valid = table[table.split == "valid"].path.tolist()
    for path in valid[: len(valid) // 2]:
        Path(path).unlink()
    told = mura("evaluate", mailed, "--ci", "none")
    refused(told, "cannot be used, more than max_bad 0.05", f"max_bad in {mailed / 'settings.yaml'}")
    assert "--max-bad" not in told[2]
    settings = read_settings(mailed)
    (mailed / "settings.yaml").write_text(yaml.safe_dump(settings | {"max_bad": 0.6}))
    assert mura("evaluate", mailed, "--ci", "none")[0] == 0


def test_a_run_that_names_no_data_is_told_of_in_as_many_words(mailed):
    paths = pd.read_csv(mailed / "images.csv").path
    assert isinstance(lost_data(mailed, {}, paths), NoData) and "data.path" in str(lost_data(mailed, None, paths))
    assert "/content" in str(lost_data(mailed, {"path": "/content/x"})) and lost_data(mailed, {}) is None
