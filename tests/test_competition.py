"""The competition's files, and studies of which some views cannot be read."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from mura_fastai.data.loose import input_images
from mura_fastai.data.sources import csv_images, folder_images, read_images
from mura_fastai.data.studies import mura_images
from mura_fastai.errors import InputError
from mura_fastai.results.competition import read_competition, write_competition
from mura_fastai.results.experiment import predict
from mura_fastai.results.tables import evaluate_file, read_predictions


def official_kappa(truth, predictions, region=""):
    "What the competition's script does: two files without header, joined by the study's folder, and kappa of both."
    tables = [pd.read_csv(f, header=None, names=["study", "label"]) for f in (truth, predictions)]
    both = tables[0].merge(tables[1], on="study")
    both = both[both.study.str.contains(region)]
    return cohen_kappa_score(both.label_x, both.label_y)


def answers(root, value):
    "Lines of a competition's file for valid: `value` is called with the number and the label of each study."
    truth = [line.split(",") for line in (root / "valid_labeled_studies.csv").read_text().split()]
    return [f"{folder},{value(i, int(label))}" for i, (folder, label) in enumerate(truth)]


def write(file, lines):
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


def cut(file):
    "A file that really ends too early."
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 3])


def views(root, at_least):
    "Folders of valid studies with that many views."
    folders = sorted(p for p in root.glob("valid/*/*/*") if len(list(p.glob("*.png"))) >= at_least)
    return [f.relative_to(root).as_posix() for f in folders]


def key(folder):
    "valid/XR_HAND/patient00001/study1_positive as the tables name it."
    return "/".join(folder.split("/")[1:]).rpartition("_")[0]


@pytest.fixture
def own(root, tmp_path):
    "A copy of the phantom with little to train on, in a folder of another name, that a test may harm."
    own = Path(shutil.copytree(root, tmp_path / "renamed"))
    kept = sorted((own / "train").glob("*/*"))[:4]
    for file in own.glob("train_*.csv"):
        write(file, [line for line in file.read_text().split() if line.split("/")[3] in {p.name for p in kept}])
    return own


# ---------------------------------------------------------------- writing


def test_predict_answers_a_shuffled_list_of_images_study_by_study(mura, run, own, tmp_path):
    lines = (own / "valid_image_paths.csv").read_text().split()
    random.Random(4).shuffle(lines)
    (own / "list.csv").write_bytes(("\ufeff" + "\r\n".join(lines)).encode())
    code, out, err = mura("predict", run, own / "list.csv", "-o", tmp_path / "p.csv")
    assert code == 0 and not err and "in the competition's format" in out
    text = (tmp_path / "p.csv").read_bytes().decode()
    folders, said = zip(*(row.split(",") for row in text.splitlines()), strict=True)
    assert list(folders) == list(dict.fromkeys(line.rpartition("/")[0] + "/" for line in lines))
    means = read_predictions(run / "predictions.csv").groupby("study").p_abnormal.mean()
    assert [int(s) for s in said] == [int(means[key(f.partition("/")[2].rstrip("/"))] > 0.5) for f in folders]
    assert text.endswith("\n") and "\r" not in text


def test_the_label_in_a_folders_name_changes_no_answer(run, own, tmp_path):
    (a, b), swapped = (tmp_path / "a.csv", tmp_path / "b.csv"), {"positive": "negative", "negative": "positive"}
    predict([run], [own / "valid_image_paths.csv"], a)
    for folder in own.glob("valid/*/*/*"):
        name, _, sign = folder.name.rpartition("_")
        folder.rename(folder.with_name(f"{name}_{swapped[sign]}"))
    paths = (own / "valid_image_paths.csv").read_text().replace("_positive", "_x").replace("_negative", "_positive")
    (own / "valid_image_paths.csv").write_text(paths.replace("_x", "_negative"))
    predict([run], [own / "valid_image_paths.csv"], b)
    said = [read_competition(f).set_index("study").abnormal for f in (a, b)]
    assert len(said[0]) == 12 and said[0].equals(said[1])


@pytest.mark.parametrize(
    "lines, format, written",
    [
        ("mura", None, "competition"),
        ("mura", "table", "table"),
        ("bare", None, "table"),
        ("mixed", None, "table"),
        ("unlabelled", None, "competition"),
    ],
)
def test_the_format_follows_the_list(run, own, tmp_path, lines, format, written):
    first = views(own, 2)[0]
    shutil.copy(own / first / "image1.png", own / "loose.png")
    shutil.copytree(own / first, own / "test/XR_HAND/patient90001/study1")
    mine = [f"MURA-v1.1/{first}/image{i}.png" for i in (1, 2)]
    known = {"mura": mine, "bare": ["loose.png"], "mixed": [*mine, "loose.png"]}
    known["unlabelled"] = ["MURA-v1.1/test/XR_HAND/patient90001/study1/image1.png"]
    write(own / "list.csv", known[lines])
    assert predict([run], [own / "list.csv"], tmp_path / "p.csv", format).attrs["format"] == written
    if written == "competition":
        [row] = (tmp_path / "p.csv").read_text().splitlines()
        assert row.rpartition(",")[0] == known[lines][0].rpartition("/")[0] + "/"
    else:
        assert len(read_predictions(tmp_path / "p.csv")) == len(known[lines])


def test_a_format_that_cannot_be_written_is_refused_beforehand(mura, run, own, tmp_path):
    write(own / "list.csv", ["MURA-v1.1/" + views(own, 1)[0] + "/image1.png", "loose.png"])
    first = views(own, 1)[0]
    other = first.replace("positive", "x").replace("negative", "positive").replace("_x", "_negative")
    write(own / "torn.csv", [f"MURA-v1.1/{f}/image1.png" for f in (first, other)])
    for inputs, format, message in (
        ([own / "list.csv"], "competition", "list.csv, line 2: the competition's format needs"),
        ([own], "competition", "the competition's format needs one headerless CSV"),
        ([own / "list.csv", own / "torn.csv"], "competition", "give it alone"),
        ([own / "list.csv"], "kaggle", "no format 'kaggle': choose one of table, competition"),
        ([own / "torn.csv"], "competition", f"torn.csv, line 2: {key(first)} is in two folders"),
    ):
        code, out, err = mura("predict", run, *inputs, "--format", format, "-o", tmp_path / "p.csv")
        assert (code, out) == (2, "") and message in err and err.count("\n") == 1
        assert not (tmp_path / "p.csv").exists()


def test_what_is_read_is_written_again(root, tmp_path):
    lines = answers(root, lambda i, label: i % 3 % 2)
    write_competition(read_competition(write(tmp_path / "a.csv", lines)), tmp_path / "b.csv")
    assert (tmp_path / "b.csv").read_text().splitlines() == lines
    soft = read_competition(write(tmp_path / "a.csv", [line[:-1] + "0.5000001" for line in lines[:-1]] + lines[-1:]))
    write_competition(soft, tmp_path / "b.csv")
    assert {line[-1] for line in (tmp_path / "b.csv").read_text().splitlines()[:-1]} == {"1"}
    with pytest.raises(InputError, match="not every study has a folder"):
        write_competition(soft.drop(columns="folder"), tmp_path / "c.csv")


def test_a_decision_made_elsewhere_is_what_is_written(tmp_path):
    folders = [f"M/valid/XR_HAND/patient{i}/study1_negative" for i in (1, 2)]
    studies = pd.DataFrame(dict(study=["a", "b"], folder=folders, p_abnormal=[0.9, 0.1], abnormal=[0, 1]))
    write_competition(studies, tmp_path / "p.csv")
    assert (tmp_path / "p.csv").read_text() == f"{folders[0]}/,0\n{folders[1]}/,1\n"


# ---------------------------------------------------------------- scoring


@pytest.mark.parametrize("seed", range(4))
def test_kappa_is_that_of_the_competitions_script(root, tmp_path, seed):
    rng = np.random.default_rng(seed)
    file = write(tmp_path / "p.csv", answers(root, lambda i, label: label if rng.random() < 0.7 else 1 - label))
    scores, truth = evaluate_file(file, root, ci=None), root / "valid_labeled_studies.csv"
    assert scores.kappa["overall"] == pytest.approx(official_kappa(truth, file), abs=1e-12)
    both = scores.index[(scores.n_abnormal > 0) & (scores.n_abnormal < scores.n)].drop(["overall", "macro"])
    for region in both:
        assert scores.kappa[region] == pytest.approx(official_kappa(truth, file, region), abs=1e-12)
    assert len(both) >= 3 and scores.n["overall"] == 12


def test_a_runs_own_file_scores_as_its_table(mura, run, root, tmp_path):
    run = shutil.copytree(run, tmp_path / "run")  # its scores are written anew
    predict([run], [root / "valid_image_paths.csv"], tmp_path / "p.csv")
    told = [
        json.loads(mura("evaluate", *a, "--ci", "none", "--json")[1])["scores"]["overall"]
        for a in ([run], [root, "--predictions", tmp_path / "p.csv"])
    ]
    assert told[0]["sensitivity"] == told[1]["sensitivity"] and told[0]["kappa"] == told[1]["kappa"]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text,
        lambda text: text.replace("/,", ","),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text,
        lambda text: text.replace("MURA-small/", "my copy, of MURA/"),
        lambda text: text.replace("MURA-small/", ""),
        lambda text: text.replace("MURA-small/", "../some/where/"),
        lambda text: text.replace("/", "\\"),
        lambda text: text.replace("_positive", "_n").replace("_negative", "_positive").replace("_n", "_negative"),
        lambda text: text.replace("_positive", "").replace("_negative", ""),
        lambda text: "\n".join(reversed(text.split("\n"))),
        lambda text: text.replace(",", ", ").replace("MURA", '"MURA').replace("/,", '/",'),
        lambda text: text.replace(",1", ",1.0").replace(",0", ",0.0"),
    ],
)
def test_the_same_answers_score_the_same_however_they_are_written(root, tmp_path, change):
    text = "".join(f"{line}\n" for line in answers(root, lambda i, label: int(label == (i % 4 > 0))))
    (tmp_path / "a.csv").write_text(text)
    (tmp_path / "b.csv").write_bytes(change(text).encode())
    assert text.startswith("MURA-small/valid/XR_")
    a, b = (evaluate_file(tmp_path / f"{n}.csv", root, ci=None) for n in "ab")
    pd.testing.assert_frame_equal(a, b)
    assert 0 < a.accuracy["overall"] < 1 and b.attrs["hard"]


def test_probabilities_in_the_competitions_format_are_ranked(root, tmp_path):
    p = np.random.default_rng(0).random(12).round(3)
    file = write(tmp_path / "p.csv", answers(root, lambda i, label: p[i]))
    label = [int(line[-1]) for line in answers(root, lambda i, label: label)]
    scores = evaluate_file(file, root, ci=None)
    assert scores.auroc["overall"] == pytest.approx(roc_auc_score(label, p)) and not scores.attrs.get("hard")
    assert scores.kappa["overall"] == pytest.approx(cohen_kappa_score(label, p > 0.5))


def test_decisions_have_no_auroc_and_the_reason_is_said(mura, root, tmp_path):
    file = write(tmp_path / "p.csv", answers(root, lambda i, label: label))
    code, out, err = mura("evaluate", root, "--predictions", file, "--json")
    told = json.loads(out)
    assert code == 0 and told["hard"] and told["scores"]["overall"]["kappa"] == 1
    empty = {k for k, v in told["scores"]["overall"].items() if v is None}
    assert {"auroc", "auroc_lo", "auroc_hi"} <= empty and "sensitivity_lo" not in empty
    assert {k for row in told["scores"].values() for k in row if k.startswith(("brier", "ece", "average"))} <= empty
    assert err == f"{file} holds decisions, no probabilities: no AUROC, for nothing is ranked\n"


def test_studies_on_one_side_only_are_named(mura, root, tmp_path):
    lines = answers(root, lambda i, label: label)
    extra = [f"MURA-v1.1/valid/XR_WRIST/patient9999{i}/study1_negative/,0" for i in range(4)]
    file = write(tmp_path / "p.csv", [*lines[2:], *extra, lines[3]])
    code, out, err = mura("evaluate", root, "--predictions", file, "--ci", "none", "--json")
    told = json.loads(out)
    assert code == 0 and told["scores"]["overall"]["n"] == 10 and told["unpredicted"] == 2
    assert told["missing"] == [key(line.partition("/")[2]) for line in lines[:2]]
    assert told["extra"] == [f"XR_WRIST/patient9999{i}/study1" for i in range(4)]
    assert told["repeated"] == [key(lines[3].partition("/")[2])]
    assert f"2 studies of {root} without a prediction" in err and told["missing"][1] in err
    assert "4 studies in" in err and "XR_WRIST/patient99992/study1 and 1 more" in err
    assert "1 study on several lines" in err


def test_a_file_of_competition_needs_the_data(mura, root, tmp_path):
    file = write(tmp_path / "p.csv", answers(root, lambda i, label: label))
    code, out, err = mura("evaluate", "--predictions", file)
    assert (code, out) == (2, "") and f"mura evaluate DATA --predictions {file}" in err
    write(file, ["MURA-v1.1/valid/XR_HAND/patient99999/study1_positive/,1"])
    with pytest.raises(InputError, match="none of its studies is in"):
        evaluate_file(file, root)


GOOD = "M/valid/XR_HAND/patient1/study1_positive/,1"


@pytest.mark.parametrize(
    "lines, message",
    [
        ([GOOD, "", GOOD.replace(",1", ",2")], "line 3: '2' is no answer"),
        ([GOOD, GOOD.replace(",1", ",nan")], "line 2: 'nan' is no answer"),
        ([GOOD, GOOD.replace(",1", ",")], "line 2: '' is no answer"),
        ([GOOD, GOOD.replace(",1", ",abnormal")], "line 2: 'abnormal' is no answer"),
        ([GOOD, GOOD.replace(",1", "")], "line 2: .* is not FOLDER_OF_A_STUDY,ANSWER"),
        (["folder,label", GOOD], "line 1: 'folder,label' is not"),
        ([GOOD, GOOD.replace("/,", "/image1.png,")], "line 2: .* is not FOLDER_OF_A_STUDY"),
        ([GOOD, GOOD.replace("patient1/", "")], "line 2: .* is not FOLDER_OF_A_STUDY"),
        ([GOOD, GOOD.replace("patient1", "patient2"), GOOD.replace(",1", ",0")], "lines 1, 3 give XR_HAND/patient1/"),
        (
            [GOOD.replace(",1", ",.2"), GOOD.replace("positive", "negative")],
            "lines 1, 2 give XR_HAND/patient1/study1 different",
        ),
        ([], "no rows"),
    ],
)
def test_a_wrong_line_is_named_by_its_number(root, tmp_path, lines, message):
    file = write(tmp_path / "p.csv", lines)
    with pytest.raises(InputError, match=message) as e:
        read_competition(file)
    assert "\n" not in str(e.value) and str(file) in str(e.value)
    if lines:
        with pytest.raises(InputError, match=message):
            evaluate_file(file, root)


# ---------------------------------------------------------------- views that cannot be read


def harm(root):
    "One study loses a view, one all: their folders."
    some, none = views(root, 2)[:2]
    cut(root / some / "image1.png")
    for file in (root / none).glob("*.png"):
        cut(file)
    return some, none


def test_a_study_is_decided_on_the_views_that_are_left_and_flagged(mura, run, own, tmp_path):
    some, none = harm(own)
    file = tmp_path / "p.csv"
    code, out, err = mura("predict", run, own / "valid_image_paths.csv", "-o", file, "--json")
    told, written = json.loads(out), file.read_text().splitlines()
    assert code == 0 and len(written) == 11 and not [line for line in written if none in line]
    assert told["undecided"] == [key(none)] and told["incomplete"] == [key(some)]
    assert {s["study"]: s["n_unreadable"] for s in told["studies"] if s["n_unreadable"]} == {key(some): 1}
    assert f"1 study without a readable image, not in {file}: {key(none)}" in err
    assert "does not count such studies" in err and f"1 study lacks views that could not be read: {key(some)}" in err
    whole = read_predictions(run / "predictions.csv")
    left = whole[(whole.study == key(some)) & ~whole.path.str.endswith("image1.png")].p_abnormal.mean()
    [p] = [s["p_abnormal"] for s in told["studies"] if s["study"] == key(some)]
    assert p == pytest.approx(left, abs=1e-5)
    code, out, err = mura("evaluate", own, "--predictions", file, "--ci", "none", "--json")
    assert code == 0 and json.loads(out)["missing"] == [key(none)] and key(none) in err


def test_the_table_flags_a_study_for_whoever_scores_it_later(mura, run, own, tmp_path):
    some, none = harm(own)
    file = tmp_path / "p.csv"
    code, out, err = mura("predict", run, own, "-o", file)
    assert code == 0 and "n_unreadable" in out and f"{own / none}: study without a readable image" in err
    table = read_predictions(file)
    assert table.n_unreadable[table.study == key(some)].eq(1).all() and table.n_unreadable.max() == 1
    assert key(none) not in set(table.study)
    for arguments in ([own, "--predictions", file], ["--predictions", file, "--split", "valid"], [run, own]):
        code, out, err = mura("evaluate", *arguments, "--ci", "none", "--json")
        assert code == 0 and json.loads(out)["incomplete"] == [key(some)]
        assert f"1 study with views that could not be read, scored on the others: {key(some)}" in err


def test_nothing_is_flagged_where_all_can_be_read(mura, run, root, tmp_path):
    code, out, err = mura("predict", run, root / "valid_image_paths.csv", "-o", tmp_path / "p.csv", "--format", "table")
    assert code == 0 and not err and "n_unreadable" not in out
    assert (read_predictions(tmp_path / "p.csv").n_unreadable == 0).all()


@pytest.mark.parametrize("door", ["dataset", "list", "folder", "table", "in Python"])
def test_every_door_counts_a_view_that_is_missing_or_cut(run, own, door):
    from mura_fastai.results.predict import predict_images
    from mura_fastai.training.runs import load_run

    first = views(own, 3)[0]
    cut(own / first / "image1.png")
    lost = 1
    if door != "folder":  # a folder alone does not know of files that are not there
        (own / first / "image2.png").unlink()
        lost = 2
    if door == "table":
        rows = mura_images(own)
        rows = pd.concat([rows, rows[rows.study == key(first)].assign(path=str(own / first / "image2.png"))])
        rows.path = rows.path.str.removeprefix(f"{own}/")
        rows[["path", "label", "split", "region", "patient"]].assign(study=rows.study.str.rpartition("/")[2]).to_csv(
            own / "own.csv", index=False
        )
    images = {
        "dataset": lambda: input_images([own]),
        "list": lambda: input_images([own / "valid_image_paths.csv"]),
        "folder": lambda: input_images([own / "valid"]),
        "table": lambda: input_images([own / "own.csv"]),
        "in Python": lambda: mura_images(own),
    }[door]()
    images = images[(images.split == "valid") & (images.region == key(first).partition("/")[0])]
    preds = predict_images(load_run(run), images)
    flags = preds.groupby("study").n_unreadable.agg(["min", "max"])
    [mine] = [s for s in flags.index if key(first) in s]
    assert flags.loc[mine].tolist() == [lost, lost] and flags.drop(mine).max().max() == 0
    assert not [s for s in preds.attrs["skipped"] if s["reason"] == "study without a readable image"]


def test_a_folder_and_a_table_of_ones_own_flag_studies_of_several_views(own):
    first = views(own, 2)[0]
    cut(own / first / "image1.png")
    [study] = folder_images(own).query("n_unreadable > 0").study.unique()
    assert study.lower() == key(first).lower()
    (own / "own.csv").write_text(
        f"path,label,study\n{first}/image1.png,1,a\n{first}/image2.png,1,a\n"
        + "".join(f"{f}/image1.png,{i % 2},{i}\n" for i, f in enumerate(views(own, 1)) if f != first)
    )
    table = csv_images(own / "own.csv", max_bad=0.5)
    assert table.n_unreadable.sum() == 1 and table.study[table.n_unreadable == 1].item().endswith("a")


def test_a_study_whose_files_are_all_missing_is_named(own):
    first = views(own, 2)[0]
    for file in (own / first).glob("*.png"):
        file.unlink()
    for images in (read_images(own, max_bad=0.1), input_images([own / "valid_image_paths.csv"])):
        named = [s["path"] for s in images.attrs["skipped"] if s["reason"] == "study without a readable image"]
        assert len(named) == 1 and named[0].endswith(first) and key(first) not in set(images.study)
