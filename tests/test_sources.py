"""Other people's data to the one table: what is left out is named, what looks alike stays together."""

import csv
import os
import re
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import ndimage

from mura_fastai.data.audit import audit_data
from mura_fastai.data.gather import image_files
from mura_fastai.data.inspection import inspect_images
from mura_fastai.data.lookalikes import group_pairs, lookalike_pairs
from mura_fastai.data.sources import csv_images, find_source, folder_images, fracatlas_images, read_images
from mura_fastai.errors import InputError

FLAGS = ["hand", "leg", "hip", "shoulder", "mixed", "hardware", "multiscan", "fractured", "fracture_count"]
FLAGS += ["frontal", "lateral", "oblique"]
FRACATLAS = Path(__file__).parents[2] / "shared" / "fracatlas"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("MURA_CACHE", str(tmp_path_factory.mktemp("cache")))


def picture(seed: int, height=120, width=100) -> np.ndarray:
    "A bright limb on black: all alike from afar, none like another in its fine structure."
    rng = np.random.default_rng(seed)
    x = (np.arange(width) / width - rng.uniform(0.4, 0.6)) / rng.uniform(0.15, 0.25)
    limb = np.exp(-(x**2)) * np.linspace(0.8, 1, height)[:, None]
    grain = ndimage.gaussian_filter(rng.normal(0, 1, (height, width)), width / 60)
    return np.uint8(np.clip(limb * (150 + 25 * grain / grain.std()), 0, 255))


def save(path: Path, a: np.ndarray, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(a).save(path, **options)


def reasons(images) -> dict:
    "File name: reason."
    return {os.path.basename(s["path"]): s["reason"] for s in images.attrs["skipped"]}


def cut(path: Path, kept=0.5):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])


@pytest.fixture
def fracatlas(tmp_path):
    "60 images in FracAtlas's layout, with each of its known traps once."
    root, rows = tmp_path / "FracAtlas", []
    rng = np.random.default_rng(1)
    for k in range(60):
        fractured = k < 20  # numbers go with the label, as they do there
        folder = "Fractured" if fractured else "Non_fractured"
        a = picture(k)
        if k == 31:
            a = picture(30)  # exact copy, one label
        if k == 41:
            a = picture(11)  # exact copy, two labels
        if k == 33:  # the same picture, darker, a little moved, and saved anew
            a = np.uint8(np.roll(picture(32), 4, 0) * 0.7 + 10)
        if k == 42:
            a = np.uint8(picture(12) * 0.9)  # near-copy with the other label
        save(root / "images" / folder / f"IMG{k:07d}.jpg", a, quality=95)
        region = FLAGS[rng.integers(4)]
        row = dict.fromkeys(FLAGS, 0) | {region: 1, "fractured": int(fractured), "lateral": 1}
        if k == 31:  # the copy has the same region, so it does not matter which of the two stays
            row = rows[30] | {}
        if k == 50:
            row |= {"hand": 1, "leg": 1, "hip": 0, "shoulder": 0}
        if k == 51:
            row |= {"mixed": 1}
        rows.append({**row, "image_id": f"IMG{k:07d}.jpg"})
    rows[5]["fractured"] = 0  # folder and row disagree
    cut(root / "images/Non_fractured/IMG0000055.jpg")
    save(root / "images/Non_fractured/IMG0000099.jpg", picture(99))  # in no row
    (root / "images/Non_fractured/._IMG0000040.jpg").write_bytes(b"\0\5\x16\7")
    (root / "images/.DS_Store").write_bytes(b"\0")
    pd.DataFrame(rows).to_csv(root / "dataset.csv", index=False)
    return root


def test_fracatlas_traps_are_left_out_and_named(fracatlas):
    images = fracatlas_images(fracatlas)
    why = reasons(images)
    assert why.pop("IMG0000005.jpg") == "folder and dataset.csv disagree on the label"
    assert why.pop("IMG0000055.jpg") == "truncated"
    assert why.pop("IMG0000031.jpg").startswith("same pixels as ") and "IMG0000030" in set(images.study)
    assert why.pop("IMG0000011.jpg") == why.pop("IMG0000041.jpg") == "same pixels under both labels"
    assert why.pop("IMG0000012.jpg") == why.pop("IMG0000042.jpg") == "same picture under both labels"
    assert why.pop("IMG0000099.jpg").startswith("not in dataset.csv")
    assert why.pop("._IMG0000040.jpg") == why.pop(".DS_Store") == "macOS leftover, no image"
    assert not why and len(images) == 60 - 7
    images.to_csv(fracatlas / "t.csv")
    assert set(pd.concat([images, images]).columns) == set(images.columns), "attrs do not hinder joining"


def test_fracatlas_table_has_its_form(fracatlas):
    images = fracatlas_images(fracatlas)
    assert list(images.columns[:7]) == ["path", "split", "region", "patient", "study", "view", "label"]
    assert {"hardware", "multiscan", "frontal", "lateral", "oblique", "width", "height"} <= set(images)
    assert (images.lateral == 1).all() and (images.width == 100).all()
    assert images.study.is_unique and set(images.view) == {1} and set(images.label) == {0, 1}
    by_study = images.set_index("study").region
    assert by_study["IMG0000050"] == by_study["IMG0000051"] == "mixed"
    assert set(by_study) == {"hand", "leg", "hip", "shoulder", "mixed"}
    assert all(("/Fractured/" in p) == bool(y) for p, y in zip(images.path, images.label, strict=True))


def test_fracatlas_lookalikes_share_a_patient_and_never_a_border(fracatlas):
    for seed in range(8):
        images = fracatlas_images(fracatlas, seed=seed)
        one = images.set_index("study").loc[["IMG0000032", "IMG0000033"]]
        assert one.patient.nunique() == one.split.nunique() == 1
        assert images.patient.nunique() == len(images) - 1, "strangers are not drawn together"


def test_fracatlas_split_and_order_ignore_the_image_number(fracatlas, tmp_path):
    "Renumbered the other way round, the same pictures lie in the same splits and rows."
    images = fracatlas_images(fracatlas)
    assert np.abs(np.corrcoef(images.index, images.study.str[3:].astype(int))[0, 1]) < 0.5
    other = tmp_path / "renumbered"
    table = pd.read_csv(fracatlas / "dataset.csv")
    table["new"] = [f"IMG{1000 - int(n[3:10]):07d}.jpg" for n in table.image_id]
    for old, new in zip(table.image_id, table.new, strict=True):
        (path,) = fracatlas.rglob(old)
        (other / "images" / path.parent.name).mkdir(parents=True, exist_ok=True)
        (other / "images" / path.parent.name / new).write_bytes(path.read_bytes())
    table.assign(image_id=table.new).drop(columns="new").to_csv(other / "dataset.csv", index=False)
    again = fracatlas_images(other)
    assert list(again.patient) == list(images.patient) and list(again.split) == list(images.split)


def test_a_refused_flag_of_fracatlas_hides_nothing_else(fracatlas):
    before = audit_data(fracatlas)
    known = set(zip(before.problem, before["where"], strict=True)) - {("one class in valid: scores are n/a", "hand")}
    lines = (fracatlas / "dataset.csv").read_text().splitlines()
    for k, change in ((50, lambda s: s.replace(",1,", ",x,", 1)), (51, lambda s: s + ",0")):
        at = next(n for n, line in enumerate(lines) if f"IMG{k:07d}" in line)
        lines[at] = change(lines[at])
    (fracatlas / "dataset.csv").write_text("\n".join(lines) + "\n")
    cut(next(fracatlas.rglob("IMG0000050.jpg")))
    found = audit_data(fracatlas)
    new = {(p, os.path.basename(w)) for p, w in zip(found.problem, found["where"], strict=True) if (p, w) not in known}
    assert known <= set(zip(found.problem, found["where"], strict=True))
    assert "regions of one class in valid" in found.attrs["unchecked"]
    assert {p for p, _ in new if not p.endswith("that is not 0, 1 or blank")} == {
        "row of more or fewer cells than the header", "truncated",
    }  # fmt: skip
    assert ("truncated", "IMG0000050.jpg") in new and len(new) == 3
    assert len(found.attrs["images"]) == len(before.attrs["images"]) - 2


def test_too_many_bad_files_stop_and_max_bad_lets_them_pass(fracatlas):
    for k in range(22, 27):
        cut(fracatlas / f"images/Non_fractured/IMG{k:07d}.jpg")
    with pytest.raises(InputError, match=r"(?s)6 of .*IMG0000022.jpg \(truncated\).*--max-bad"):
        fracatlas_images(fracatlas)
    assert len(fracatlas_images(fracatlas, max_bad=0.2)) == 60 - 7 - 5


def test_lookalikes_survive_crop_exposure_and_shift_but_strangers_stay_apart(tmp_path):
    a = picture(0, 200, 160)
    crop = a.copy()
    crop[-12:] = 0
    again = [a, np.uint8(a * 0.6), np.roll(a, 5, 1), crop, picture(1, 200, 160), np.full((200, 160), 7, np.uint8)]
    for k, b in enumerate(again):
        save(tmp_path / f"{k}.png", b)
    looks = inspect_images([tmp_path / f"{k}.png" for k in range(6)], look=True).look
    i, j, alike = lookalike_pairs(looks)
    group = group_pairs(i, j, 6)
    assert len(set(group[:4])) == 1 and len(set(group)) == 3 and (alike > 0.75).all()
    assert len(lookalike_pairs(looks[:1])[0]) == 0 and len(group_pairs(*[np.zeros(0, int)] * 2, 0)) == 0


def make_tree(root: Path, names: list[str]):
    for name in names:
        save(root / name, picture(zlib.crc32(name.encode())))


@pytest.mark.parametrize(
    "normal, abnormal",
    [
        ("normal", "abnormal"),
        ("Negative", "POSITIVE"),
        ("0", "1"),
        ("Non-Fractured", "fractured"),
        ("no fracture", "Fracture"),
    ],
)
def test_folder_names_are_labels(tmp_path, normal, abnormal):
    make_tree(tmp_path, [f"{f}/{k}.png" for f in (normal, abnormal) for k in range(6)])
    images = folder_images(tmp_path)
    assert find_source(tmp_path) == "folder" and len(images) == 12 and not images.attrs["skipped"]
    assert all(
        Path(p).parent.name == (abnormal if y else normal) for p, y in zip(images.path, images.label, strict=True)
    )
    assert set(images.region) == {"all"} and set(images.split) == {"train", "tune", "valid"}
    assert images.study.is_unique and images.patient.nunique() == 12
    assert not images.study.str.contains("normal|positive|fractured|train", case=False).any(), "no label in the key"


def test_folder_keeps_an_official_split_region_patient_and_study(tmp_path):
    studies = [("train", p, "positive" if p % 2 else "negative") for p in range(10)]
    studies += [("valid", 20, "positive"), ("valid", 21, "negative")]
    names = [f"{s}/XR_WRIST/patient{p:02d}/study1_{y}/image{v}.png" for s, p, y in studies for v in (1, 2)]
    make_tree(tmp_path, names)
    images = folder_images(tmp_path)
    assert set(images.region) == {"XR_WRIST"} and images.study.nunique() == 12 and images.patient.nunique() == 12
    assert images.study.str.fullmatch(r"XR_WRIST/patient\d\d/study1").all() and set(images.view) == {1, 2}
    assert set(images.patient[images.split == "valid"]) == {"patient20", "patient21"}
    assert set(images.split) == {"train", "tune", "valid"}
    assert (images.label == images.path.str.contains("positive")).all()


def test_folder_region_is_the_folder_above_the_label(tmp_path):
    folders = [f"{s}/{r}/{y}" for s in ("train", "val") for r in ("Elbow", "Knee") for y in ("normal", "abnormal")]
    make_tree(tmp_path, [f"{f}/{k}.png" for f in folders for k in range(4)])
    images = folder_images(tmp_path)
    assert set(images.region) == {"Elbow", "Knee"} and images.study.is_unique and (images.split == "valid").sum() == 16


def test_folder_with_train_and_test_only_takes_valid_from_train(tmp_path):
    make_tree(
        tmp_path, [f"{s}/{y}/{k}.png" for s in ("Train", "Test") for y in ("normal", "abnormal") for k in range(10)]
    )
    images = folder_images(tmp_path)
    assert images.split.value_counts()["test"] == 20 and set(images.split) == {"train", "tune", "valid", "test"}
    assert (images.path.str.contains("/Test/") == (images.split == "test")).all()


def test_numbered_folders_are_no_labels_where_words_are(tmp_path):
    make_tree(tmp_path, [f"{y}/{k}/a.png" for y in ("normal", "abnormal") for k in range(6)])
    images = folder_images(tmp_path)
    assert images.label.sum() == 6 and len(images) == 12


def test_folder_leaves_out_and_names(tmp_path):
    make_tree(tmp_path, [f"{y}/{k}.png" for y in ("normal", "abnormal") for k in range(6)] + ["other/x.png"])
    save(tmp_path / "normal/copy.png", picture(500))
    save(tmp_path / "abnormal/copy.png", picture(500))
    (tmp_path / "normal/._0.png").write_bytes(b"x")
    (tmp_path / "normal/notes.txt").write_text("x")
    why = Counter(re.sub(" as .*", "", s["reason"]) for s in folder_images(tmp_path).attrs["skipped"])
    assert why == {
        "in no folder that says normal or abnormal": 1,
        "same pixels under both labels": 2,
        "macOS leftover, no image": 1,
    }


def test_folder_study_with_both_labels_is_left_out(tmp_path):
    make_tree(tmp_path, [f"patient{p}/study1_{'positive' if p % 2 else 'negative'}/a.png" for p in range(8)])
    make_tree(tmp_path, ["patient0/study1_positive/b.png"])
    images = folder_images(tmp_path)
    assert "patient0" not in set(images.patient) and images.patient.nunique() == 7
    assert set(reasons(images).values()) == {"its study has images of both labels"}


def test_patient_on_both_sides_stops_unless_allowed(tmp_path):
    make_tree(tmp_path, [f"train/normal/patient{p}/a.png" for p in range(6)] + ["valid/abnormal/patient3/study2/a.png"])
    with pytest.raises(InputError, match="patient3.*allow_leaks"):
        folder_images(tmp_path)
    assert len(folder_images(tmp_path, allow_leaks=True)) == 7


def test_links_out_of_the_root_are_never_opened(tmp_path):
    make_tree(tmp_path / "data", [f"{y}/{k}.png" for y in ("normal", "abnormal") for k in range(3)])
    save(tmp_path / "secret.png", picture(7))
    (tmp_path / "data/normal/inside.png").symlink_to(tmp_path / "data/normal/0.png")
    assert len(image_files(tmp_path / "data")[0]) == 7
    (tmp_path / "data/normal/link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(InputError, match=r"link.png: a link that leads out"):
        folder_images(tmp_path / "data")
    (tmp_path / "data/normal/link.png").unlink()
    (tmp_path / "data/normal/up").symlink_to(tmp_path)
    with pytest.raises(InputError, match=r"normal/up: a link that leads out"):
        folder_images(tmp_path / "data")


def test_hostile_names_pass_and_stray_bytes_are_named(tmp_path):
    make_tree(tmp_path, [f"{y}/{k}.png" for y in ("normal", "abnormal") for k in range(3)])
    save(tmp_path / "normal/<script>alert(1)<.png", picture(70))
    save(tmp_path / "abnormal/=cmd|' '!A1,\"x.png", picture(71))
    try:
        (tmp_path / os.fsdecode(b"normal/\xff.png")).write_bytes((tmp_path / "normal/0.png").read_bytes())
    except OSError:
        pytest.skip("this file system wants UTF-8")
    images = folder_images(tmp_path)
    assert len(images) == 8 and list(reasons(images).values()) == ["the file's name is not UTF-8; rename it"]
    images.to_csv(tmp_path / "images.csv", index=False)
    assert list(pd.read_csv(tmp_path / "images.csv").path) == list(images.path)


@pytest.fixture
def own(tmp_path):
    "Twelve pictures, and a function that writes the table beside them."
    for k in range(12):
        save(tmp_path / f"pics/{k}.png", picture(k))

    def write(text: str | bytes, name="t.csv") -> Path:
        (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
        return tmp_path / name

    return write


def lines(n=12, start="path,label") -> str:
    return start + "\n" + "".join(f"pics/{k}.png,{k % 2}\n" for k in range(n))


def test_csv_needs_path_and_label_only(own):
    images = csv_images(own(b"\xef\xbb\xbf" + lines().encode()))
    assert len(images) == 12 and images.label.sum() == 6 and set(images.region) == {"all"}
    assert all(os.path.isabs(p) and os.path.exists(p) for p in images.path)
    assert set(images.split) == {"train", "tune", "valid"}


def test_csv_keeps_what_it_says_and_passes_the_rest_on(own):
    text = "label,path,patient,study,view,region,split,reason,width,Note\n" + "".join(
        f'{k // 2 % 2},pics/{k}.png,p{k // 2},s1,{k % 2 + 3},XR_HAND,{"valid" if k > 7 else "train"},why,w,"a, ""b"""\n'
        for k in range(12)
    )
    images = csv_images(own(text))
    assert images.patient.nunique() == images.study.nunique() == 6, "s1 of two patients are two studies"
    assert set(images.view) == {3, 4} and set(images.region) == {"XR_HAND"} and set(images.Note) == {'a, "b"'}
    assert set(images.reason) == {"why"} and set(images.width) == {"w"}
    assert (images.split == "valid").sum() == 4 and (images.split == "tune").any()
    assert not [c for c in images if c.startswith("_")]


def test_csv_blank_label_is_missing(own):
    images = csv_images(own(lines().replace("pics/3.png,1", "pics/3.png,")))
    assert images.label.isna().sum() == 1 and images.label.dtype == "Int64"


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "empty"),
        ("path,label\n", "no rows"),
        ("file,label\npics/0.png,1\n", "line 1: no column path; found file, label"),
        ("path,path,label\na,b,1\n", "line 1: a column's name occurs twice"),
        (b"path,label\npics/0.png,1\npics/\xff.png,0\n", "line 3: not UTF-8"),
        ("path,label\npics/0.png,1\n\npics/1.png\n", "line 4: 1 cells where the header has 2"),
        ('path,label\npics/0.png,1\n"pics/1.png,0\n', "line 3: unexpected end of data"),
        ("path,label\npics/0.png,1\npics/1.png,yes\npics/2.png,2\n", r"line 3: label is 'yes' \(and 1 more"),
        ("path,label\npics/0.png,1\n../secret.png,0\n", "line 3: path '../secret.png' is blank or leads out"),
        ("path,label\n/etc/hostname.png,1\n", "line 2: path '/etc/hostname.png' is blank or leads out"),
        ("path,label\npics/0.png,1\n,0\n", "line 3: path ''"),
        ("path,label\n\0,0\n", "line 2"),
        ("path,label,split\npics/0.png,1,holdout\n", "line 2: split 'holdout' is none of train, tune"),
        ("path,label,view\npics/0.png,1,first\n", "line 2: view 'first' is no number"),
    ],
)
def test_csv_faults_are_named_with_their_line(own, text, message):
    with pytest.raises(InputError, match=message) as e:
        csv_images(own(text))
    assert "t.csv" in str(e.value) and "\n" not in str(e.value)


def test_csv_missing(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        csv_images(tmp_path / "none.csv")


def test_csv_link_out_of_its_folder_is_never_opened(own, tmp_path_factory):
    file = own(lines() + "pics/link.png,1\n")
    save(tmp_path_factory.mktemp("else") / "s.png", picture(1))
    (file.parent / "pics/link.png").symlink_to(tmp_path_factory.getbasetemp() / "else0/s.png")
    with pytest.raises(InputError, match="line 14.*leads out"):
        csv_images(file)


def test_csv_rows_that_contradict_or_repeat_are_left_out(own):
    extra = "pics/0.png,0\npics/1.png,0\nsub/../pics/../pics/2.png,0\nnone.png,1\n"
    why = Counter(
        (os.path.basename(s["path"]), s["reason"])
        for s in csv_images(own(lines() + extra), max_bad=0.1).attrs["skipped"]
    )
    assert why == {("0.png", "listed twice"): 1, ("1.png", "listed with both labels"): 2, ("2.png", "listed twice"): 1,
                   ("none.png", "missing"): 1}  # fmt: skip


def test_find_source_says_what_it_looked_for(fracatlas, tmp_path, own):
    assert find_source(fracatlas) == "fracatlas" and find_source(own(lines())) == "csv"
    (tmp_path / "m").mkdir()
    (tmp_path / "m/valid_image_paths.csv").write_text("")
    assert find_source(tmp_path / "m") == "mura"
    with pytest.raises(InputError, match="one folder further down; give .*FracAtlas"):
        find_source(fracatlas.parent)
    (tmp_path / "e").mkdir()
    with pytest.raises(InputError, match=r"train_image_paths.csv \(MURA\).*dataset.csv.*FracAtlas.*normal"):
        find_source(tmp_path / "e")
    with pytest.raises(InputError, match="no such folder"):
        find_source(tmp_path / "none")
    with pytest.raises(InputError, match="neither a folder nor a CSV"):
        find_source(tmp_path / "pics/0.png")


def test_read_images_is_one_door(fracatlas, own):
    assert len(read_images(fracatlas)) == 53 and len(read_images(own(lines()))) == 12
    assert len(read_images(fracatlas / "images", source="folder")) < 60
    with pytest.raises(InputError, match="unknown source 'MURA'; the known ones are mura, fracatlas, folder, csv"):
        read_images(fracatlas, source="MURA")
    with pytest.raises(InputError, match="--max-bad 5"):
        read_images(fracatlas, max_bad=5)


@pytest.fixture
def mura(tmp_path):
    "A tree in MURA's layout: 12 train and 4 valid patients, two views a study."
    root, listed = tmp_path / "MURA", {"train": [], "valid": []}
    for p in range(16):
        split, sign = "train" if p < 12 else "valid", "positive" if p % 2 else "negative"
        for view in (1, 2):
            name = f"{split}/XR_HAND/patient{p:05d}/study1_{sign}/image{view}.png"
            save(root / name, picture(10 * p + view))
            listed[split].append(name)
    for split, names in listed.items():
        with open(root / f"{split}_image_paths.csv", "w", newline="") as f:
            csv.writer(f).writerows([f"MURA-v1.1/{n}"] for n in names)
        studies = sorted({os.path.dirname(n) for n in names})
        with open(root / f"{split}_labeled_studies.csv", "w", newline="") as f:
            csv.writer(f).writerows([f"MURA-v1.1/{s}/", int(s.endswith("positive"))] for s in studies)
    return root


def test_mura_files_are_checked_and_a_study_keeps_its_readable_views(mura):
    assert find_source(mura) == "mura" and len(read_images(mura)) == 32
    cut(mura / "train/XR_HAND/patient00003/study1_positive/image1.png")
    cut(mura / "valid/XR_HAND/patient00012/study1_negative/image1.png")
    (mura / "valid/XR_HAND/patient00012/study1_negative/image2.png").unlink()
    with pytest.raises(InputError, match="3 of 32"):
        read_images(mura)
    images = read_images(mura, max_bad=0.1)
    assert (images.patient == "patient00003").sum() == 1 and (images.patient == "patient00012").sum() == 0
    assert Counter(s["reason"] for s in images.attrs["skipped"]) == {
        "missing": 1, "truncated": 2, "study without a readable image": 1}  # fmt: skip
    assert images.columns[:7].tolist() == ["path", "split", "region", "patient", "study", "view", "label"]
    assert images.n_unreadable.sum() == 1 and (images.patient[images.n_unreadable == 1] == "patient00003").all()


@pytest.mark.slow
@pytest.mark.skipif(not FRACATLAS.is_dir(), reason="needs FracAtlas beside the checkout")
def test_the_real_fracatlas():
    images = read_images(FRACATLAS)
    why = Counter(re.sub(" as .*", "", s["reason"]) for s in images.attrs["skipped"])
    assert why["truncated"] == 44 and why["folder and dataset.csv disagree on the label"] == 1
    assert all("/Non_fractured/" in s["path"] for s in images.attrs["skipped"] if s["reason"] == "truncated")
    assert why["same pixels"] == 70 and why["same pixels under both labels"] == 5
    assert len(images) + sum(why.values()) == 3214
    assert images.patient.value_counts().max() <= 5 and images.groupby("patient").split.nunique().max() == 1
    share = images.groupby("split").label.mean()
    assert share.max() - share.min() < 0.02
