"What trivial traits tell: planted ones are found, useless ones read a half, and files are described as they are."

import json
import os
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from mura_fastai.commands.audit import audit
from mura_fastai.data.traits import named_side, traits
from mura_fastai.errors import InputError
from mura_fastai.results.audit import audit_shortcuts, format_shortcuts, shortcuts_to_json
from mura_fastai.results.guessing import (
    classify,
    deal_folds,
    paired_auroc,
    paired_spearman,
    predict_folds,
    spline_basis,
)
from mura_fastai.results.metrics import to_studies
from mura_fastai.results.shortcuts import ALL, GROUPS, followed, shortcuts, study_traits


def invented(n=300, seed=0, patients=220, regions=("XR_HAND", "XR_WRIST"), abnormal=0.3):
    "`n` studies of one image each, and traits that say nothing of their labels."
    rng = np.random.default_rng(seed)
    images = pd.DataFrame({"path": [f"/data/{i:04}.png" for i in range(n)], "study": [f"s{i:04}" for i in range(n)]})
    images["patient"] = rng.integers(0, patients, n).astype(str)
    images["region"], images["split"] = rng.choice(regions, n), "valid"
    images["label"] = pd.array((rng.random(n) < abnormal).astype(int), dtype="Int64")
    table = pd.DataFrame({"path": images.path})
    for columns in GROUPS.values():
        for name in sorted(set(columns) - {"region", "n_views", "suffix", "format", "mode"}):
            table[name] = rng.normal(100, 10, n)
    return images, table.assign(suffix=".png", format="PNG", mode=rng.choice(["L", "RGB"], n))


def repainted(images, folder, brighter):
    "The pictures again, the abnormal ones brighter by some grey levels."
    folder.mkdir()
    rows = images.copy()
    for i, row in enumerate(images.itertuples()):
        grey = np.asarray(Image.open(row.path).convert("L")).astype(int)
        path = folder / f"{i:04}.png"
        Image.fromarray(np.clip(grey + brighter * row.label, 0, 255).astype(np.uint8)).save(path, compress_level=1)
        rows.loc[row.Index, "path"] = str(path)
    return rows


# ---------------------------------------------------------------- what is found


def test_brightness_planted_in_the_files_is_found_with_an_interval(images, tmp_path):
    found = shortcuts(repainted(images, tmp_path / "planted", 80), n_boot=50).loc["brightness"]
    assert found.auroc > 0.97 and 0.9 < found.auroc_lo <= found.auroc <= found.auroc_hi <= 1
    assert found.verdict == "strong"
    before = shortcuts(images, n_boot=50).loc["brightness"]
    assert before.auroc < 0.8 and before.auroc_lo < 0.6


def test_useless_traits_read_a_half_where_comparing_across_folds_reads_less():
    here, across = [], []
    for seed in range(60):
        images, table = invented(150, seed)
        label, patient = images.label.to_numpy(int), images.patient.to_numpy(str)
        basis = spline_basis(table[["width", "height"]])
        dealt = deal_folds(label, patient, 5, seed)
        p = predict_folds(classify, basis, label, dealt)
        here.append(paired_auroc(label, p, dealt)(np.ones((1, len(label))))[0])
        dealt = np.random.default_rng(seed).integers(0, 5, 1000)[None, images.patient.astype(int)]
        across.append(roc_auc_score(label, predict_folds(classify, basis, label, dealt)[0]))
    assert abs(np.mean(here) - 0.5) < 0.025  # its standard error is about .009
    assert np.mean(across) < 0.48


def test_intervals_of_useless_traits_hold_a_half_and_the_verdict_says_so():
    tables = [shortcuts(*invented(seed=s, patients=100_000), n_boot=50).drop("number of views") for s in range(2)]
    table = pd.concat(tables)
    assert ((table.auroc_lo <= 0.5) & (table.auroc_hi >= 0.5)).mean() > 0.7
    assert (table.verdict == "no sign").mean() > 0.8


def test_a_trait_that_neither_rises_nor_falls_is_seen():
    images, table = invented()
    table["width"] = np.where(images.label == 1, 500, np.where(np.arange(300) % 2, 300, 700))
    found = shortcuts(images, table, n_boot=50)
    assert found.index[0] == "size" and found.auroc["size"] > 0.98 and found.index[-1] == ALL
    assert found.auroc[ALL] > 0.95
    assert "size would reach AUROC 1.00" in format_shortcuts(found)


def test_a_trait_that_only_names_the_region_is_told_from_one_that_works_within_a_region():
    images, table = invented(600, patients=100_000)
    wrist = (images.region == "XR_WRIST").to_numpy()
    images["label"] = pd.array((np.random.default_rng(1).random(600) < np.where(wrist, 0.7, 0.1)).astype(int), "Int64")
    table["height"] += 100 * wrist
    opposite = np.where(wrist, 1, -1) * (images.label.to_numpy(int) - 0.5)
    table["brightness"] = 100 + 20 * opposite + np.random.default_rng(2).normal(0, 3, 600)
    found = shortcuts(images, table, n_boot=100)
    region, size, bright = (found.loc[g] for g in ("region", "size", "brightness"))
    assert region.auroc > 0.75 and np.isnan(region.within_region) and region.verdict == "strong"
    assert size.auroc > 0.7 and size.within_region_lo < 0.5 and size.verdict.endswith("no sign within a region")
    assert bright.within_region > 0.97 and "within" not in bright.verdict


def test_the_number_of_views_counts_images_of_a_study():
    images, table = invented()
    second = images[images.label == 1].assign(path=lambda t: t.path + "-2")
    more = pd.concat([images, second])
    both = pd.concat([table, table.assign(path=table.path + "-2")])
    found = shortcuts(more, both, n_boot=20)
    assert found.auroc["number of views"] == 1 and (found.studies == 300).all()


# ---------------------------------------------------------------- what it rests on


def test_folds_never_split_a_patient_and_are_alike_in_label():
    images, _ = invented(500, patients=150)
    label, patient = images.label.to_numpy(int), images.patient.to_numpy(str)
    dealt = deal_folds(label, patient, 5, seed=3)
    assert dealt.shape == (3, 500) and not (dealt[0] == dealt[1]).all()
    for fold in dealt:
        assert pd.Series(fold).groupby(patient).nunique().max() == 1
        assert np.ptp([label[fold == k].mean() for k in range(5)]) < 0.1
        assert np.ptp(np.bincount(fold, minlength=5)) < 50


def test_the_auroc_of_pairs_is_scikit_learns_in_each_fold_weighted_by_its_pairs():
    rng = np.random.default_rng(0)
    label, p, fold = rng.integers(0, 2, 200), rng.integers(0, 9, (2, 200)) / 9, rng.integers(0, 4, (2, 200))
    weights = rng.integers(0, 3, (3, 200)).astype(float)
    for w, ours in zip(weights, paired_auroc(label, p, fold)(weights), strict=True):
        wins = pairs = 0
        for r, k in np.ndindex(2, 4):
            at = fold[r] == k
            n = w[at & (label == 1)].sum() * w[at & (label == 0)].sum()
            wins, pairs = wins + n * roc_auc_score(label[at], p[r, at], sample_weight=w[at]), pairs + n
        assert ours == pytest.approx(wins / pairs, abs=1e-12)


def test_the_rank_correlation_is_scipys():
    rng = np.random.default_rng(0)
    p, guess = rng.normal(size=150), rng.normal(size=(1, 150))
    guess[0] += p
    one = np.ones((1, 150))
    ours = paired_spearman(p, guess, np.zeros((1, 150), int))(one)[0]
    assert ours == pytest.approx(spearmanr(p, guess[0])[0], abs=1e-9)
    half = (np.arange(150) < 75).astype(int)[None]
    assert paired_spearman(p + 50 * half[0], guess - 50 * half, half)(one)[0] > 0.5  # only inside the halves
    assert paired_spearman(p, guess * 0, half)(one)[0] == 0


def test_the_order_of_the_rows_changes_nothing():
    images, table = invented()
    views = [images.iloc[:80].assign(path=images.path[:80] + f"-{k}") for k in (2, 3)]
    images = pd.concat([images, *views])
    widths = np.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]] * 40)  # equal means but for the last bit
    table = pd.concat([table, *(table.iloc[:80].assign(path=v.path) for v in views)])
    for k, v in enumerate([images.iloc[:80], *views]):
        table.loc[table.path.isin(v.path), "width"] = widths[:, k]
    assert study_traits(to_studies(images.assign(p_abnormal=0.5)), images, table).width[:80].nunique() == 1
    turned = shortcuts(images.sample(frac=1, random_state=1), table.sample(frac=1, random_state=2), n_boot=10)
    pd.testing.assert_frame_equal(shortcuts(images, table, n_boot=10), turned, check_exact=True)


# ---------------------------------------------------------------- what does not exist


def test_one_class_has_no_auroc_and_its_json_no_nan():
    images, table = invented(60)
    one = shortcuts(images.assign(label=0), table, n_boot=20)
    assert one.auroc.isna().all() and one.verdict.str.startswith("n/a").all()
    told = json.loads(json.dumps(shortcuts_to_json(one), allow_nan=False))
    assert told["traits"]["size"]["auroc"] is None and told["traits"]["size"]["studies"] == 60
    assert "nothing can be said" in format_shortcuts(one)
    single = shortcuts(images.assign(label=(images.patient == images.patient[0]).astype(int)), table, n_boot=20)
    assert single.auroc.isna().all()
    with pytest.raises(InputError, match="no image has a label"):
        shortcuts(images.assign(label=pd.NA), table)


def test_a_region_with_one_study_and_rows_without_a_label_do_no_harm():
    images, table = invented(100)
    images.loc[0, "region"] = "XR_ELBOW"
    images.loc[1:4, "label"] = pd.NA
    found = shortcuts(images, table, n_boot=50)
    assert found.within_region.drop("region").notna().all() and (found.studies == 96).all()
    json.dumps(shortcuts_to_json(found), allow_nan=False)


def test_traits_of_other_files_are_refused():
    images, table = invented(60)
    with pytest.raises(InputError, match="other files"):
        shortcuts(images, table.assign(path="elsewhere.png"))


# ---------------------------------------------------------------- what a run follows


def test_a_run_that_ranks_by_brightness_is_told_from_a_good_one_whose_labels_go_with_it():
    images, table = invented(400)
    rng, label = np.random.default_rng(5), images.label.to_numpy(int)
    table["brightness"] = 100 + 30 * label + rng.normal(0, 10, 400)
    cheat = images.assign(p_abnormal=1 / (1 + np.exp(-(table.brightness - 115) / 20)))
    good = images.assign(p_abnormal=np.clip(0.2 + 0.6 * label + rng.normal(0, 0.05, 400), 0, 1))
    cheated, seen = (followed(p, table, n_boot=100).loc["brightness"] for p in (cheat, good))
    assert cheated.rho > 0.95 and cheated.rho_lo > 0.9 and min(cheated.rho_normal, cheated.rho_abnormal) > 0.9
    assert seen.rho_lo < 0.1 and abs(seen.rho) < 0.2
    inside = (table.brightness - 100 - 30 * label) / 400  # falls with brightness, which rises with the label
    assert followed(images.assign(p_abnormal=0.2 + 0.6 * label - inside), table, n_boot=10).rho["brightness"] > 0.9


# ---------------------------------------------------------------- traits


def test_traits_are_those_of_the_files(tmp_path):
    left = np.zeros((128, 256), np.uint8)
    left[32:96, 64:128] = 200  # the left half of the picture; an eighth of it in all
    Image.fromarray(left).save(tmp_path / "left.png")
    Image.fromarray(np.full((100, 50, 3), 90, np.uint8)).save(tmp_path / "a_R.png", format="JPEG")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n")
    paths = [str(tmp_path / f) for f in ("left.png", "a_R.png", "broken.png", "gone.jpg")]
    t = traits(pd.DataFrame({"path": paths}, index=[7, 5, 3, 1]))
    assert list(t.index) == [7, 5, 3, 1] and list(t.path) == paths
    a, b = t.loc[7], t.loc[5]
    assert (a.width, a.height, a.pixels, a.aspect, a.landscape) == (256, 128, 256 * 128 / 1e6, 1, 1)
    assert a.brightness == pytest.approx(25) and a.black == a.border_black == 0.875 and a.border_brightness == 0
    assert a.half_balance == -1 and a.mass_x == pytest.approx(-0.25) and (a.format, a["mode"]) == ("PNG", "L")
    assert a.bytes_per_pixel == (tmp_path / "left.png").stat().st_size / (256 * 128)
    assert (b.suffix, b.format, b["mode"], b.landscape, b.side_named) == (".png", "JPEG", "RGB", 0, 1)
    assert b.border_flat == 1 and b.border_black == 0 and abs(b.half_balance) < 0.01
    bad = t.loc[[3, 1]]
    assert bad[["width", "brightness", "mass_x", "bytes_per_pixel"]].isna().all(axis=None)
    assert (bad.format == "").all() and (bad["mode"] == "").all()


@pytest.mark.parametrize(
    "path, side",
    [("a/left/1.png", -1), ("a/hand-Right.png", 1), ("L/hand.png", 0), ("x/hand_LT.png", -1), ("left/x_R.png", 0)]
    + [("bright/leftover.png", 0), ("MURA/train/XR_HAND/patient1/study1_positive/image1.png", 0)],
)
def test_the_side_is_read_as_a_word_of_the_path(path, side):
    assert named_side(path) == side


# ---------------------------------------------------------------- the command


def test_the_audit_of_data_names_what_is_left_out_and_is_one_json_document(images, tmp_path, capsys):
    rows = repainted(images[:40], tmp_path / "data", 80)
    (tmp_path / "data" / "0000.png").write_bytes(b"")
    table = rows[["path", "label", "patient", "study", "region"]].assign(path=rows.path.str.rsplit("/").str[-1])
    table.to_csv(tmp_path / "data" / "mine.csv", index=False)
    audit(tmp_path / "data" / "mine.csv", as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["images"] == 39 and told["reasons"] == {"empty (0 bytes)": 1}
    audit(tmp_path / "data" / "mine.csv")
    assert re.search(r"^leaves out +empty \(0 bytes\) +1 +0000.png$", capsys.readouterr().out, re.M)
    picture = tmp_path / "shortcuts.png"
    audit(tmp_path / "data" / "mine.csv", shortcuts=True, n_boot=20, out=picture, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["shortcuts"]["traits"]["brightness"]["auroc"] > 0.9 and told["followed"] is None
    assert Image.open(picture).size[0] > 300


def test_a_run_is_audited_from_its_folder_without_pytorch(images, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    where = os.path.commonpath(images.path.tolist())
    (run / "settings.yaml").write_text(f"format: 1\ndata: {{path: {where}}}\n")
    images.to_csv(run / "images.csv", index=False)
    with pytest.raises(InputError, match="mura evaluate"):
        audit_shortcuts(run)
    p = traits(images).brightness / 255
    images.assign(p_abnormal=p).to_csv(run / "predictions.csv", index=False)
    code = (
        "import sys; from pathlib import Path; from mura_fastai.commands.audit import audit\n"
        "audit(Path(sys.argv[1]), shortcuts=True, n_boot=20)\n"
        "assert not {'torch', 'fastai', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, run], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "follows brightness most" in done.stdout


def test_files_that_are_all_gone_stop_with_their_folder(images, tmp_path):
    (tmp_path / "settings.yaml").write_text("format: 1\n")
    gone = images.assign(path="/nowhere" + images.path, p_abnormal=0.5)
    gone.to_csv(tmp_path / "images.csv", index=False)
    gone.to_csv(tmp_path / "predictions.csv", index=False)
    with pytest.raises(InputError, match="its data is not here .* does not say where it lay"):
        audit_shortcuts(tmp_path)
