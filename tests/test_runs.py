"""A run is a folder: what it holds, that it stands alone, and what it gives for files it has never seen."""

import json
import os
import re
import shutil
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from mura_fastai.confined import named_data
from mura_fastai.data.phantom import make_phantom
from mura_fastai.data.pixels import read_grey
from mura_fastai.data.store import build_store
from mura_fastai.errors import InputError
from mura_fastai.results.experiment import evaluate_run, interpret_run, predict, train
from mura_fastai.results.predict import predict_images
from mura_fastai.results.scoring import predictions_of
from mura_fastai.results.tables import evaluate_file, read_predictions
from mura_fastai.training.best import KeepBest
from mura_fastai.training.runs import load_run, train_run
from mura_fastai.training.tables import read_table

QUICK = dict(size=48, epochs=1, bs=16, num_workers=1, ci=None)


@pytest.fixture
def own_run(run, tmp_path):
    "A copy of the run that a test may change."
    return Path(shutil.copytree(run, tmp_path / "run"))


@pytest.fixture
def own_data(root, tmp_path):
    "A copy of the phantom that a test may change."
    return Path(shutil.copytree(root, tmp_path / "data"))


# ---------------------------------------------------------------- what the folder holds


def test_a_run_holds_what_another_machine_needs(run):
    names = {p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file()}
    assert names >= {
        "settings.yaml", "images.csv", "skipped.csv", "history.csv", "weights/best.safetensors", "predictions.csv",
        "metrics.json",
    }  # fmt: skip
    settings = yaml.safe_load((run / "settings.yaml").read_text())
    assert settings | dict(arch="mura_cnn", size=48, epochs=1, bs=16, seed=0) == settings
    assert settings["data"]["source"] == "mura" and re.fullmatch(r"[0-9a-f]{16}", settings["data"]["fingerprint"])
    assert {"torch", "fastai", "timm", "mura_fastai"} <= set(settings["versions"])


def test_its_table_is_the_one_it_was_trained_on(run, images):
    assert read_table(run / "images.csv").equals(images.reset_index(drop=True))


def test_a_row_of_history_an_epoch(run):
    history = pd.read_csv(run / "history.csv")
    assert list(history.epoch) == [0]
    assert {"train_loss", "tune_loss", "kappa", "auroc", "lr", "seconds"} <= set(history)


def test_only_valid_rows_are_predicted_and_scored(run, images):
    preds = pd.read_csv(run / "predictions.csv")
    assert list(preds.path) == list(images.path[images.split == "valid"])
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["split"] == "valid"
    assert metrics["scores"]["overall"]["n"] == images.study[images.split == "valid"].nunique()
    assert metrics["region_only"]["overall"]["n"] == metrics["scores"]["overall"]["n"]


def test_nothing_in_it_is_a_pickle(run):
    for file in run.rglob("*"):
        if file.is_file():
            # what torch.save writes is a zip or begins with a pickle's protocol mark
            assert not zipfile.is_zipfile(file), file
            assert file.read_bytes()[:1] != b"\x80", file


# ---------------------------------------------------------------- coming back


def test_a_loaded_run_predicts_the_same(run, images):
    again = predict_images(load_run(run), images[images.split == "valid"])
    np.testing.assert_allclose(again.p_abnormal, pd.read_csv(run / "predictions.csv").p_abnormal, atol=1e-6)


def test_a_run_needs_no_data_to_be_scored_loaded_and_used(own_run, own_data, root, images):
    table = pd.read_csv(own_run / "images.csv")
    table["path"] = table.path.str.replace(str(root), str(own_data / "gone"))
    table.to_csv(own_run / "images.csv", index=False)
    assert evaluate_run(own_run, ci=None).equals(evaluate_run(own_run, ci=None))
    one = images.path.iloc[0]
    assert predict([own_run], [one], out=None).p_abnormal.iloc[0] == pytest.approx(
        predict_images(load_run(own_run), images[:1]).p_abnormal.iloc[0]
    )


def test_figures_without_the_data_leave_the_pictures_out(own_run):
    preds = pd.read_csv(own_run / "predictions.csv")
    preds["path"] = "/gone/" + preds.study + ".png"
    preds.to_csv(own_run / "predictions.csv", index=False)
    interp, files = interpret_run(own_run, k=2)
    assert all(f.stat().st_size > 1000 for f in files) and {f.parent for f in files} == {own_run / "figures"}


def test_figures_of_other_rows_do_not_replace_the_runs_own(own_run):
    files = interpret_run(own_run, split="tune", k=2)[1]
    assert {f.parent for f in files} == {own_run / "figures" / "tune"}


def test_predictions_are_kept_whatever_the_times_of_a_copied_folder_say(own_run):
    kept = own_run / "predictions.csv"
    kept.write_text(kept.read_text().replace("XR_WRIST", "XR_ELBOW"))
    later = kept.stat().st_mtime + 10
    os.utime(own_run / "weights" / "best.safetensors", (later, later))
    assert "XR_WRIST" not in set(predictions_of(own_run).region)


def test_better_weights_take_away_what_was_made_with_the_former_ones(own_run):
    history = SimpleNamespace(rows=[{"auroc": 0.6, "tune_loss": 1.0, "epoch": 0}])
    best = KeepBest(own_run, history)
    best.learn = SimpleNamespace(model=torch.nn.Linear(2, 1))
    best.after_epoch()
    gone = ("predictions.csv", "predictions-tune.csv", "decision.yaml", "metrics.json")
    assert not [name for name in gone if (own_run / name).exists()] and (own_run / "settings.yaml").exists()
    (own_run / "predictions.csv").touch()
    history.rows.append({"auroc": 0.5, "tune_loss": 0.1, "epoch": 1})
    best.after_epoch()
    assert (own_run / "predictions.csv").exists(), "an epoch that is no better leaves them"


# ---------------------------------------------------------------- training


def test_an_existing_run_is_refused_and_left_alone(run, root):
    before = (run / "settings.yaml").read_bytes()
    with pytest.raises(InputError, match="holds a run already.*--out"):
        train(root, run, **QUICK)
    assert (run / "settings.yaml").read_bytes() == before


def test_the_same_seed_gives_the_same_run_and_another_seed_another(run, root, tmp_path):
    again, _ = train(root, tmp_path / "again", **QUICK)
    other, _ = train(root, tmp_path / "other", seed=1, **QUICK)
    p = [read_predictions(r / "predictions.csv") for r in (run, again, other)]
    assert p[0].p_abnormal.equals(p[1].p_abnormal)
    assert not np.allclose(p[0].p_abnormal, p[2].p_abnormal)
    assert list(p[0].path) == list(p[2].path), "a seed of training leaves the split alone"


def test_some_regions_only(root, tmp_path):
    run, scores = train(root, tmp_path / "run", regions="XR_WRIST, XR_HAND", **QUICK)
    assert set(read_table(run / "images.csv").region) == {"XR_WRIST", "XR_HAND"}
    assert list(scores.index) == ["XR_HAND", "XR_WRIST", "overall", "macro"]
    with pytest.raises(InputError, match="XR_KNEE.*XR_WRIST"):
        train(root, tmp_path / "none", regions=["XR_KNEE"], **QUICK)
    assert not (tmp_path / "none").exists()


def test_files_left_out_are_named_in_the_run(own_data, tmp_path):
    bad = sorted(own_data.glob("train/*/*/*/image1.png"))[3]
    bad.write_bytes(bad.read_bytes()[:200])
    run, _ = train(own_data, tmp_path / "run", **QUICK)
    skipped = pd.read_csv(run / "skipped.csv")
    assert skipped.reason[skipped.path == str(bad)].tolist() == ["truncated"]
    assert str(bad) not in set(read_table(run / "images.csv").path)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(bs=10_000), "less than one batch.*--bs"),
        (dict(arch="resnet5O"), "unknown architecture.*did you mean"),
        (dict(source="dicom"), "unknown source.*mura"),
        (dict(weights="absent.safetensors", arch="resnet18"), "no such file of weights"),
        (dict(epochs=0), "epochs"),
    ],
)
def test_what_is_wrong_beforehand_is_one_line_and_no_run(root, tmp_path, options, message):
    with pytest.raises(InputError, match=message) as e:
        train(root, tmp_path / "run", **QUICK | options)
    assert "\n" not in str(e.value)
    assert not (tmp_path / "run" / "settings.yaml").exists()


@pytest.mark.parametrize(
    "edit, message",
    [
        (lambda s: "", "settings"),
        (lambda s: s.replace("size: 48", "size: many"), "size"),
        (lambda s: s.replace("format: 1", "format: 99"), "newer version"),
        (lambda s: "!!python/object/apply:os.system ['touch /tmp/owned']", "plain YAML"),
    ],
)
def test_broken_settings_are_one_line(own_run, edit, message):
    file = own_run / "settings.yaml"
    file.write_text(edit(file.read_text()))
    with pytest.raises(InputError, match=message):
        load_run(own_run)


def test_weights_cut_short_are_one_line(own_run):
    file = own_run / "weights" / "best.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match="best.safetensors"):
        load_run(own_run)


# ---------------------------------------------------------------- predicting


@pytest.fixture(scope="module")
def valid(run):
    return read_predictions(run / "predictions.csv").set_index("path").p_abnormal


def relative(paths, root):
    return [f"MURA-v1.1/{Path(p).relative_to(root).as_posix()}" for p in paths]


@pytest.mark.parametrize("kind", ["files", "folder", "CSV", "dataset"])
def test_the_same_images_get_the_same_probability_however_they_are_named(run, root, valid, own_data, tmp_path, kind):
    files = [str(own_data / Path(p).relative_to(root)) for p in valid.index]
    if kind == "CSV":
        (own_data / "list.csv").write_text("\n".join(relative(valid.index, root)) + "\n")
    inputs = dict(files=files, folder=[own_data / "valid"], CSV=[own_data / "list.csv"], dataset=[own_data])[kind]
    preds = predict([run], inputs, out=tmp_path / "p.csv", format="table").set_index("path")
    np.testing.assert_allclose(preds.p_abnormal[files], valid, atol=1e-6)
    assert set(preds.study[files]) == set(read_predictions(run / "predictions.csv").study)
    assert preds.label.notna().all() == (kind == "dataset"), "files alone have no label"
    assert len(read_predictions(tmp_path / "p.csv")) == len(preds)


def test_a_bad_file_is_named_and_gets_no_probability(run, root, valid, tmp_path):
    (tmp_path / "good.png").write_bytes(Path(valid.index[0]).read_bytes())
    (tmp_path / "cut.png").write_bytes(Path(valid.index[0]).read_bytes()[:300])
    (tmp_path / "page.png").write_text("<html>not found</html>")
    preds = predict([run], [tmp_path], out=None)
    assert preds.path.tolist() == [str(tmp_path / "good.png")]
    assert {Path(s["path"]).name for s in preds.attrs["skipped"]} == {"cut.png", "page.png"}
    with pytest.raises(InputError, match="none of 1 image can be read.*cut.png"):
        predict([run], [tmp_path / "cut.png"], out=None)


def test_runs_together_give_the_mean(run, own_run, valid, tmp_path):
    from safetensors.torch import load_file, save_file

    file = own_run / "weights" / "best.safetensors"
    save_file({k: v + 0.1 * torch.ones_like(v) if "weight" in k else v for k, v in load_file(file).items()}, file)
    one, two, both = (predict(r, [valid.index[0]], None).p_abnormal[0] for r in ([run], [own_run], [run, own_run]))
    assert one != two and both == pytest.approx((one + two) / 2)


@pytest.mark.parametrize("line", ["/etc/passwd", "../outside.png"])
def test_a_list_leads_nowhere_else(run, tmp_path, line):
    (tmp_path / "in").mkdir()
    (tmp_path / "outside.png").write_bytes(b"x")
    (tmp_path / "in" / "list.csv").write_text(line + "\n")
    with pytest.raises(InputError, match="list.csv, line 1"):
        predict([run], [tmp_path / "in" / "list.csv"], out=None)


def test_a_table_of_ones_own_is_read_by_its_header(run, root, valid, tmp_path):
    rows = [f"{Path(p).relative_to(root)},1" for p in valid.index[:3]]
    (root / "own.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
    try:
        preds = predict([run], [root / "own.csv"], out=None)
    finally:
        (root / "own.csv").unlink()
    assert preds.label.tolist() == [1, 1, 1]


@pytest.mark.parametrize("name", ["absent", "absent.png", "absent.csv"])
def test_an_input_that_is_not_there_is_named(run, tmp_path, name):
    with pytest.raises(InputError, match=name):
        predict([run], [tmp_path / name], out=None)


# ---------------------------------------------------------------- scoring


def test_other_data_is_scored_without_touching_the_runs_own_scores(own_run, tmp_path):
    other = make_phantom(tmp_path / "other", studies=30, seed=5, size=96, workers=1)
    before = (own_run / "metrics.json").read_bytes()
    scores = evaluate_run(own_run, tmp_path / "other", ci=None)
    assert scores.n["overall"] == other.study[other.split == "valid"].nunique()
    assert (own_run / "metrics.json").read_bytes() == before


def test_data_without_a_split_of_its_own_is_split_as_in_training(root, tmp_path, capsys):
    folders = tmp_path / "folders"
    table = read_table_of(root)
    for i, row in enumerate(table.itertuples()):
        place = folders / ("abnormal" if row.label else "normal") / f"patient{i // 2:03}"
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(row.path, place / f"{i}.png")
    run, scores = train(folders, tmp_path / "run", split_seed=3, **QUICK)
    again = evaluate_run(run, folders, ci=None)
    assert again.n["overall"] == scores.n["overall"] and again.auroc["overall"] == scores.auroc["overall"]
    assert "trained on" not in capsys.readouterr().err


def read_table_of(root):
    from mura_fastai.data.studies import mura_images

    table = mura_images(root)
    # one label a patient: studies of both would be left out
    return table.assign(key=table.patient + table.study).sort_values(["label", "key"], ignore_index=True)[:120]


def test_a_split_that_is_not_there_is_an_error(run):
    with pytest.raises(InputError, match="no rows of split 'test'"):
        predictions_of(run, split="test")
    with pytest.raises(InputError, match="unknown split.*train, tune, valid, test"):
        predictions_of(run, split="validation")


def test_a_table_of_predictions_is_scored_against_the_labels_of_the_data(own_run, root, tmp_path):
    whole = evaluate_run(own_run, ci=None)
    bare = read_predictions(own_run / "predictions.csv")[["study", "p_abnormal"]]
    bare.to_csv(tmp_path / "bare.csv", index=False)
    scores = evaluate_file(tmp_path / "bare.csv", root, ci=None)
    assert scores.auroc["overall"] == whole.auroc["overall"] and scores.attrs["unpredicted"] == 0
    lost = bare.study.iloc[0]
    bare[bare.study != lost].to_csv(tmp_path / "bare.csv", index=False)
    assert evaluate_file(tmp_path / "bare.csv", root, ci=None).attrs["unpredicted"] == 1
    with pytest.raises(InputError, match="no column 'label'"):
        evaluate_file(tmp_path / "bare.csv", ci=None)


def test_a_patient_called_na_is_a_patient(tmp_path):
    rows = "study,region,patient,label,p_abnormal\na/1,XR_HAND,NA,0,.2\na/2,XR_HAND,null,1,.7\n"
    (tmp_path / "p.csv").write_text(rows)
    assert read_predictions(tmp_path / "p.csv").patient.tolist() == ["NA", "null"]


# ---------------------------------------------------------------- how files are predicted


def test_a_file_is_decoded_once_and_no_loader_is_made_for_an_image(run, images, monkeypatch):
    from mura_fastai.data import decoding
    from mura_fastai.data.batches import XrayDL

    learn, read, made = load_run(run), [], []
    monkeypatch.setattr(decoding, "read_grey", lambda p: read.append(p) or read_grey(p))
    start = XrayDL.__init__
    monkeypatch.setattr(XrayDL, "__init__", lambda self, *a, **k: made.append(1) or start(self, *a, **k))
    valid = images[images.split == "valid"]
    predict_images(learn, valid)
    assert sorted(read) == sorted(valid.path) and len(made) == 1


def test_predictions_from_a_store_are_those_from_files(run, images, tmp_path):
    learn, rows = load_run(run), images[images.split == "valid"].reset_index(drop=True)
    (tmp_path / "cut.png").write_bytes(Path(rows.path[0]).read_bytes()[:200])
    rows.loc[5, "path"] = str(tmp_path / "cut.png")
    store = build_store(rows, tmp_path / "store", size=48)
    plain, stored = predict_images(learn, rows), predict_images(learn, rows, store=store)
    assert plain.path.tolist() == stored.path.tolist() == rows.path.drop(5).tolist()
    # Not to the last bit: other images share a batch, and sums are rounded in another order.
    np.testing.assert_allclose(plain.p_abnormal, stored.p_abnormal, atol=1e-6)
    assert plain.attrs["skipped"] == stored.attrs["skipped"] == [{"path": rows.path[5], "reason": "truncated"}]


def test_files_are_decoded_while_the_network_works(run, images, monkeypatch):
    "The last files are not read before the network has answered for the first ones."
    from mura_fastai.data import decoding

    learn, answered = load_run(run), threading.Event()
    valid, asked = images[images.split == "valid"], []

    def read(path):
        asked.append(path)
        if path == valid.path.iloc[-1]:
            assert answered.wait(60)
        return read_grey(path)

    monkeypatch.setattr(decoding, "read_grey", read)
    learn.model.register_forward_hook(lambda *_: answered.set())
    assert len(predict_images(learn, valid, bs=4, num_workers=2)) == len(valid) > 4 * 4


def test_a_store_of_another_size_is_no_store_for_a_run(run, images, tmp_path):
    store = build_store(images[:3], tmp_path / "store", size=64)
    with pytest.raises(InputError, match="a store of 64 px, not of 48"):
        predict_images(load_run(run), images[:3], store=store)


def test_too_many_bad_files_are_told_out_of_all(run, images, tmp_path):
    (tmp_path / "cut.png").write_bytes(Path(images.path[0]).read_bytes()[:200])
    rows = images[:10].assign(path=images.path[:10].mask(images.index[:10] < 2, str(tmp_path / "cut.png")))
    with pytest.raises(InputError, match="2 of 10 images"):
        predict_images(load_run(run), rows, max_bad=0.1)


def test_predict_images_agrees_with_fastais_predict(run, images):
    "One image at a time, through `learn.predict`, with the weights of the loss taken back."
    learn, rows = load_run(run), images[images.split == "valid"][:6]
    preds = predict_images(learn, rows)
    for (_, row), p in zip(rows.iterrows(), preds.p_abnormal, strict=True):
        told = learn.predict(row)[2].double()
        code = torch.tensor([learn.dls.vocab[0].o2i[row.region]])
        assert learn.loss_func.unweigh(told[None], code).item() == pytest.approx(p, abs=1e-5)


def test_training_from_a_store_and_from_files_is_the_same_training(run, root, tmp_path):
    "Batches, augmentation and order are the same to the last bit, and so are the weights."
    decoded, _ = train(root, tmp_path / "decoded", store=False, **QUICK)
    p = [read_predictions(r / "predictions.csv").p_abnormal for r in (run, decoded)]
    np.testing.assert_array_equal(p[0], p[1])


def test_a_store_made_before_is_taken_by_its_folder(root, images, tmp_path, monkeypatch):
    from mura_fastai.data import store as module

    build_store(images, tmp_path / "store", size=48)
    monkeypatch.setattr(module, "read_grey", None)  # nothing may be decoded
    monkeypatch.setattr("mura_fastai.training.fitting.auto_store", None)
    out = train_run(images, tmp_path / "run", store=tmp_path / "store", size=48, epochs=1, bs=16)
    assert (out / "weights" / "best.safetensors").exists()
    with pytest.raises(InputError, match="nowhere: not a whole store"):
        train_run(images, tmp_path / "other", store=tmp_path / "nowhere", size=48, epochs=1, bs=16)


def test_training_decodes_each_file_of_mura_once(own_data, tmp_path, monkeypatch):
    from mura_fastai.data import pixels

    monkeypatch.setenv("MURA_CACHE", str(tmp_path / "cache"))
    read, decode = [], pixels.decode_file
    monkeypatch.setattr(pixels, "decode_file", lambda p: read.append(str(p)) or decode(p))
    bad = sorted(own_data.glob("train/*/*/*/image1.png"))[3]
    bad.write_bytes(bad.read_bytes()[:200])
    run, _ = train(own_data, tmp_path / "run", **QUICK)
    table = read_table(run / "images.csv")
    assert sorted(read) == sorted([*table.path, str(bad)])
    assert pd.read_csv(run / "skipped.csv").path.tolist() == [str(bad)]


# ---------------------------------------------------------------- where the data of a run lies


def data_path(run: Path) -> str | None:
    return yaml.safe_load((run / "settings.yaml").read_text())["data"].get("path")


@pytest.mark.slow
@pytest.mark.parametrize("of", ["a function", "a relative folder"])
def test_a_run_made_from_python_knows_where_its_images_lie(root, images, tmp_path, monkeypatch, of):
    "Or neither could it be told from one that somebody sent, whose pictures are not shown."
    monkeypatch.chdir(root.parent)
    asked, data = (images, dict(path=root.name)) if of == "a relative folder" else (lambda: images, dict(source="mura"))
    run = train_run(asked, tmp_path / "run", size=32, epochs=1, bs=16, store=False, num_workers=1, data=data)
    assert data_path(run) == str(root)
    assert len(predictions_of(run)) == (images.split == "valid").sum(), "its own pictures are read"


def test_the_folder_of_the_data_is_the_deepest_that_holds_all_or_the_one_that_is_named(root, images, tmp_path):
    (tmp_path / "link").symlink_to(root)
    paths, asked = images.path, dict(source="mura")
    assert named_data(paths, None) == dict(path=str(root))
    assert named_data(paths, asked) == dict(path=str(root), source="mura") and asked == dict(source="mura")
    assert named_data(paths[:1], dict(path=None))["path"] == os.path.dirname(paths[0])
    assert named_data((), None) == {}, "a table without rows is refused in its own words"
    for given in (str(root.parent.parent), str(tmp_path / "link"), root):
        assert named_data(paths, dict(path=given))["path"] == str(given)


def elsewhere(images: pd.DataFrame, path: str) -> pd.DataFrame:
    table = images.copy()
    table.loc[5, "path"] = path
    return table


@pytest.mark.parametrize("kind", ["no common folder", "no common folder, read later", "/", "//", "a table in /"])
def test_what_has_no_folder_but_the_whole_machine_is_not_trained_on(images, tmp_path, kind):
    table = elsewhere(images, "/elsewhere-than-all/image.png")
    data = {"/": dict(path="/"), "//": dict(path="//"), "a table in /": dict(path="/mine.csv", source="csv")}.get(kind)
    remedy = "put it into a folder of its own" if data else "gather them in one"
    with pytest.raises(InputError, match=remedy) as e:
        train_run((lambda: table) if "later" in kind else table, tmp_path / "run", data=data)
    assert "\n" not in str(e.value) and not (tmp_path / "run").exists()


def test_images_outside_of_the_named_folder_are_told_before_training(root, images, tmp_path):
    shutil.copy(images.path[5], tmp_path / "other.png")
    with pytest.raises(InputError, match=rf"{root}: some of the images lie outside.*data=dict\(path=...\)"):
        train_run(elsewhere(images, str(tmp_path / "other.png")), tmp_path / "run", data=dict(path=str(root)))
    assert not (tmp_path / "run").exists()
