"""MURA's CSVs become one table, checked against themselves; splits keep patients whole."""

import time

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from mura_fastai.data.studies import (
    COLUMNS,
    finish_images,
    mura_images,
    patient_folds,
    patient_split,
    summarize,
)
from mura_fastai.errors import InputError

# Published image counts (normal, abnormal) per region.
IMAGES = {
    "train": dict(ELBOW=(2925, 2006), FINGER=(3138, 1968), FOREARM=(1164, 661), HAND=(4059, 1484),
                  HUMERUS=(673, 599), SHOULDER=(4211, 4168), WRIST=(5765, 3987)),
    "valid": dict(ELBOW=(235, 230), FINGER=(214, 247), FOREARM=(150, 151), HAND=(271, 189),
                  HUMERUS=(148, 140), SHOULDER=(285, 278), WRIST=(364, 295)),
}  # fmt: skip
STUDIES, PATIENTS = dict(train=13457, valid=1199), dict(train=11184, valid=783)


def spread(total, weights):
    "Whole numbers near `weights` that add up to `total`."
    share = np.array(weights) * total / sum(weights)
    whole = np.floor(share).astype(int)
    whole[np.argsort(whole - share)[: total - whole.sum()]] += 1
    return whole


def write_mura(root, images=IMAGES, studies=STUDIES, patients=PATIENTS, name="MURA-v1.1", touch=True):
    "A tree of MURA's shape: the four CSVs and empty files."
    first_patient = 1
    for split, regions in images.items():
        groups = [(r, label, n) for r, pair in regions.items() for label, n in enumerate(pair)]
        per_group = spread(studies[split], [g[2] for g in groups])
        paths, labelled, k = [], [], 0
        for (region, label, n), n_studies in zip(groups, per_group, strict=True):
            for n_views in spread(n, [1] * n_studies):
                # The last studies belong to patients met before, so that patients have several studies and regions.
                patient = first_patient + k % patients[split]
                study = f"{name}/{split}/XR_{region}/patient{patient:05}/study{1 + k // patients[split]}"
                study += f"_{('negative', 'positive')[label]}/"
                labelled.append(f"{study},{label}")
                paths += [f"{study}image{v + 1}.png" for v in range(n_views)]
                k += 1
        (root / f"{split}_image_paths.csv").write_text("\n".join(paths) + "\n")
        (root / f"{split}_labeled_studies.csv").write_text("\n".join(labelled) + "\n")
        first_patient += patients[split]
        if touch:
            for folder in labelled:
                (root / folder.split(",")[0].split("/", 1)[1]).mkdir(parents=True)
            for p in paths:
                (root / p.split("/", 1)[1]).touch()
    return root


SMALL = dict(
    images={s: {"WRIST": (20, 16), "HAND": (14, 10)} for s in ("train", "valid")},
    studies=dict(train=24, valid=20),
    patients=dict(train=18, valid=15),
)


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "renamed folder"
    root.mkdir()
    return write_mura(root, **SMALL)


def edit(file, change):
    file.write_text(change(file.read_text()))


def test_a_tree_of_muras_shape_has_the_published_counts_within_seconds(tmp_path):
    root = write_mura(tmp_path)
    start = time.perf_counter()
    counts = summarize(mura_images(root))
    print(f"read and summarised in {time.perf_counter() - start:.1f} s")
    for split, n_images, n_studies, n_patients in [("train", 36808, 13457, 11184), ("valid", 3197, 1199, 783)]:
        assert tuple(counts.loc[(split, "all"), ["images", "studies", "patients"]]) == (n_images, n_studies, n_patients)
        for region, (normal, abnormal) in IMAGES[split].items():
            row = counts.loc[(split, f"XR_{region}")]
            assert (row.images, row.abnormal_images) == (normal + abnormal, abnormal)


def test_the_table_has_the_promised_columns_and_types(tree):
    images = mura_images(tree)
    assert tuple(images.columns) == COLUMNS
    assert images.path.str.startswith(str(tree)).all() and set(images.split) == {"train", "tune", "valid"}
    assert images.study.str.fullmatch(r"XR_[A-Z]+/patient\d+/study\d+").all()
    assert str(images["view"].dtype) == "int64" and set(images.label) == {0, 1}
    assert images.attrs["skipped"] == []
    pd.concat([images, images])  # attrs must not get in the way


def test_a_patient_number_in_two_regions_is_one_patient_and_two_studies(tree):
    images = mura_images(tree)
    both = images.groupby("patient").region.nunique()
    patient = both.index[both > 1][0]
    rows = images[images.patient == patient]
    assert rows.study.nunique() > 1 and rows.split.nunique() == 1
    assert images.groupby("study").label.nunique().max() == 1


def test_byte_order_mark_line_ends_and_missing_trailing_slash_are_tolerated(tree):
    want = mura_images(tree)
    for file in tree.glob("*.csv"):
        text = file.read_text().replace("/,", ",").replace("\n", "\r\n")
        file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    pd.testing.assert_frame_equal(mura_images(tree), want)


@pytest.mark.parametrize(
    "file, change, words",
    [
        ("train_labeled_studies.csv", lambda t: t.replace(",1", ",0", 1), "conflicts with the folder's name in line"),
        ("train_labeled_studies.csv", lambda t: t.replace(",1", ",2", 1), "expected STUDY_PATH,0 or STUDY_PATH,1"),
        ("train_labeled_studies.csv", lambda t: t.split("\n", 1)[1], "has images but no label"),
        ("train_labeled_studies.csv", lambda t: "", "empty"),
        ("valid_image_paths.csv", lambda t: t.replace("XR_WRIST", "XR_KNEE"), "unknown region XR_KNEE"),
        ("valid_image_paths.csv", lambda t: t.replace("MURA-v1.1/valid", "MURA-v1.1/../valid", 1), "line 1"),
        ("valid_image_paths.csv", lambda t: "/etc/passwd\n" + t, "line 1"),
        ("valid_image_paths.csv", lambda t: "just words\n" + t, "line 1"),
    ],
)
def test_a_wrong_line_is_named(tree, file, change, words):
    edit(tree / file, change)
    with pytest.raises(InputError, match=words) as e:
        mura_images(tree)
    assert file in str(e.value) and "\n" not in str(e.value)


def test_a_missing_csv_and_a_csv_that_is_not_text_are_named(tree):
    (tree / "valid_image_paths.csv").write_bytes(b"\xff\xfe\x00bad")
    with pytest.raises(InputError, match=r"valid_image_paths.csv: cannot be read as UTF-8"):
        mura_images(tree)
    (tree / "valid_image_paths.csv").unlink()
    with pytest.raises(InputError, match=r"valid_image_paths.csv: missing"):
        mura_images(tree)


def test_a_patient_in_train_and_valid_stops_unless_allowed(tree):
    line = (tree / "train_image_paths.csv").read_text().splitlines()[0].replace("/train/", "/valid/")
    study, _ = line.rsplit("/", 1)
    edit(tree / "valid_image_paths.csv", lambda t: t + line + "\n")
    edit(tree / "valid_labeled_studies.csv", lambda t: t + f"{study}/,0\n")
    with pytest.raises(InputError, match="in both train and valid"):
        mura_images(tree)
    assert len(mura_images(tree, allow_leaks=True))


def test_missing_doubled_and_macos_files_are_left_out_and_named(tree):
    images = mura_images(tree)
    gone = images.path.iloc[3]
    lines = (tree / "train_image_paths.csv").read_text().splitlines()
    junk = lines[0].replace("image1", "._image1")
    edit(tree / "train_image_paths.csv", lambda t: t + lines[0] + "\n" + junk + "\n")
    (tree / lines[3].split("/", 1)[1]).unlink()
    after = mura_images(tree)
    reasons = {s["reason"]: s["path"] for s in after.attrs["skipped"]}
    assert set(reasons) == {"missing", "listed twice", "macOS leftover, no image"}
    assert reasons["missing"] == gone and len(after) == len(images) - 1


def test_a_link_out_of_the_root_is_never_opened(tree, tmp_path):
    secret = tmp_path / "secret.png"
    secret.touch()
    path = tree / (tree / "train_image_paths.csv").read_text().splitlines()[0].split("/", 1)[1]
    path.unlink()
    path.symlink_to(secret)
    with pytest.raises(InputError, match="leads out of"):
        mura_images(tree)


def table(patients, seed=0):
    "Studies of `patients` patients: one to four each, several regions, one row a study."
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(patients), rng.integers(1, 5, patients))
    rows = pd.DataFrame(dict(patient=[f"p{w}" for w in who], study=[f"s{i}" for i in range(len(who))]))
    region = rng.choice(["XR_HAND", "XR_WRIST", "XR_ELBOW"], len(who), p=[0.6, 0.3, 0.1])
    label = rng.random(len(who)) < 0.4
    return finish_images(rows.assign(path=rows.study, split="", region=region, view=1, label=label.astype(int)))


def test_splits_keep_patients_whole_and_the_strata_alike():
    images = patient_split(table(800), valid_pct=0.2, tune_pct=0.1)
    assert images.groupby("patient").split.nunique().max() == 1
    share = images.split.value_counts(normalize=True)
    assert abs(share["valid"] - 0.2) < 0.01 and abs(share["tune"] - 0.08) < 0.01
    held = (images.split == "valid").groupby([images.region, images.label]).mean()
    assert held.between(0.17, 0.23).all(), held


def test_folds_are_as_even_as_scikit_learns():
    images = table(600, seed=3)
    strata = images.region + images.label.astype(str)

    def worst(fold):
        return pd.crosstab(fold, strata, normalize="columns").sub(0.2).abs().max().max()

    theirs = np.empty(len(images), int)
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    for i, (_, held) in enumerate(folds.split(images, strata, images.patient)):
        theirs[held] = i
    assert worst(patient_folds(images, 5)) <= worst(theirs) + 0.01


def test_the_seed_moves_the_split_and_nothing_else_does():
    images = table(200)
    assert patient_split(images, seed=1).split.equals(patient_split(images, seed=1).split)
    assert not patient_split(images, seed=1).split.equals(patient_split(images, seed=2).split)
    with pytest.raises(InputError, match="cannot be held out"):
        patient_split(images, valid_pct=1.5)


def test_two_patients_are_enough_and_one_is_not():
    images = table(40)
    two = images[images.patient.isin(["p1", "p2", "p3"])]
    assert set(patient_split(two).split) == {"train", "tune", "valid"}
    with pytest.raises(InputError, match="nothing to split"):
        patient_split(images[images.patient == "p1"])
