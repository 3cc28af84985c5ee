"""Bad input, made for real: what each kind gets, on the command line, and that nothing of it is lost in silence."""

import csv
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from mura_fastai.data.audit import audit_data
from mura_fastai.data.reading import read_data
from mura_fastai.errors import InputError

HERE = Path(__file__).parent


@pytest.fixture
def data(root, tmp_path):
    "A copy of the phantom that a test may spoil."
    return Path(shutil.copytree(root, tmp_path / "data"))


def picture(seed: int, side=64) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side - 8), np.uint8)


def edit_line(file: Path, number: int, change):
    lines = file.read_text(encoding="utf-8").splitlines()
    lines[number - 1] = change(lines[number - 1])
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


# ---------------------------------------------------------------- files that cannot be used, or are converted


def damaged(file: Path):
    data = bytearray(file.read_bytes())
    data[data.index(b"IDAT") + 10] ^= 1
    file.write_bytes(data)


def frames(file: Path):
    Image.fromarray(picture(1)).save(file, "TIFF", save_all=True, append_images=[Image.fromarray(picture(2))])


def rotated(file: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(3)).save(file, "JPEG", exif=exif)


def saved(mode: str, kind: str, seed: int):
    return lambda file: Image.fromarray(picture(seed)).convert(mode).save(file, kind)


# what is done to a file, and what `mura audit` calls it
LEFT_OUT = {
    "missing": Path.unlink,
    "empty (0 bytes)": lambda f: f.write_bytes(b""),
    "truncated": lambda f: f.write_bytes(f.read_bytes()[:-300]),
    "damaged (bad checksum)": damaged,
    "not an image but HTML or XML": lambda f: f.write_text("<!doctype html><title>Sign in</title>"),
    "too many pixels (12000 x 12000; at most 50 million)": lambda f: Image.new("1", (12000, 12000)).save(f),
    "several frames (2)": frames,
    "32-bit float pixels; save it as 8- or 16-bit grey": lambda f: Image.new("F", (64, 64), 0.5).save(f, "TIFF"),
    "too small (31 x 40 px; at least 32 a side)": lambda f: Image.new("L", (31, 40)).save(f),
}
CONVERTED = {
    "16 bits: rescaled by its own percentiles": lambda f: Image.fromarray(picture(4).astype(np.uint16) * 16).save(f),
    "colour: made grey": saved("RGB", "PNG", 5),
    "transparency: laid on black": saved("RGBA", "PNG", 6),
    "palette: made grey": saved("P", "PNG", 7),
    "1 bit: made black and white": saved("1", "PNG", 8),
    "CMYK: made grey": saved("CMYK", "TIFF", 9),
    "EXIF rotation: turned upright": rotated,
}


def spoil(data: Path) -> dict[str, str]:
    "One file of each kind, no two in one study; kind: file."
    files = sorted(data.glob("train/*/*/*/image1.png"))
    done = dict(zip([*LEFT_OUT, *CONVERTED], files[::2], strict=False))
    assert len(done) == len(LEFT_OUT) + len(CONVERTED)
    for kind, file in done.items():
        (LEFT_OUT | CONVERTED)[kind](file)
    return {kind: str(file) for kind, file in done.items()}


def test_the_audit_names_every_file_and_what_training_does_with_it(mura, data):
    done = spoil(data)
    for name in (".DS_Store", "._image1.png"):
        (data / "valid" / name).write_bytes(b"\0")
    code, out, err = mura("audit", data, "--json")
    told = json.loads(out)
    assert (code, err, told["trains"]) == (0, "", True)
    where = {p["problem"]: (p["training"], p["where"]) for p in told["problems"]}
    assert {k: where[k] for k in LEFT_OUT} == {k: ("leaves out", [done[k]]) for k in LEFT_OUT}
    some = where.pop("colour: made grey")  # the phantom, like MURA, has such files of its own
    assert some[0] == "converts" and done["colour: made grey"] in some[1]
    others = CONVERTED.keys() - {"colour: made grey"}
    assert {k: where[k] for k in others} == {k: ("converts", [done[k]]) for k in others}
    assert where["macOS leftover, no image"][0] == "ignores" and len(where["macOS leftover, no image"][1]) == 2
    assert where["more unreadable files than --max-bad lets pass"][0] == "warns"
    code, out, err = mura("audit", data)
    rows = [line for line in out.splitlines() if re.match("leaves out|converts", line)]
    assert code == 0 and len(rows) == len(done) and sum("  1  train/XR_" in row for row in rows) == len(done) - 1


# ---------------------------------------------------------------- what is refused: all of it at once, and only that


def listed(data, split="train"):
    return data / f"{split}_image_paths.csv"


def labels(data, split="train"):
    return data / f"{split}_labeled_studies.csv"


def other_sign(line: str) -> str:
    return line[:-1] + str(1 - int(line[-1]))


def move_patient(data: Path):
    "The first valid patient gets the number of one in train."
    known = re.search(r"patient\d+", listed(data).read_text())[0]
    mine = re.search(r"patient\d+", listed(data, "valid").read_text())[0]
    for file in (listed(data, "valid"), labels(data, "valid")):
        file.write_text(file.read_text().replace(mine, known))
    for folder in data.glob(f"valid/*/{mine}"):
        folder.rename(folder.with_name(known))


def link_out(data: Path):
    file = sorted(data.glob("train/*/*/*/*.png"))[40]
    shutil.move(file, data.parent / "elsewhere.png")
    file.symlink_to(data.parent / "elsewhere.png")


REFUSED = {
    "CSV that cannot be read": lambda d: (d / "test_image_paths.csv").write_bytes(b"\xff\xfe\n"),
    "label that is not 0 or 1": lambda d: edit_line(labels(d), 3, lambda s: s[:-1] + "yes"),
    "label that conflicts with the folder's name": lambda d: edit_line(labels(d), 5, other_sign),
    "study with two labels": lambda d: labels(d, "valid").write_text(
        labels(d, "valid").read_text() + re.sub("_(posi|nega)tive", "", other_sign(labels(d, "valid").read_text().split()[0]))
    ),
    "study with images and no label": lambda d: edit_line(labels(d), 7, lambda s: ""),
    "a study where an image is to be listed": lambda d: edit_line(listed(d), 20, lambda s: s.rpartition("/")[0] + "/"),
    "line that names no image or study of its split": lambda d: edit_line(
        listed(d), 22, lambda s: "MURA/train/../../../etc/x.png"
    ),
    "unknown region XR_KNEE": lambda d: edit_line(listed(d), 24, lambda s: re.sub("XR_[A-Z]+", "XR_KNEE", s)),
    "link that leads out of the data": link_out,
    "patient in both train and valid": move_patient,
}  # fmt: skip


def test_the_audit_lists_together_what_training_refuses_one_by_one(mura, data):
    for spoil_it in REFUSED.values():
        spoil_it(data)
    LEFT_OUT["truncated"](sorted(data.glob("train/*/*/*/image1.png"))[-1])
    code, out, err = mura("audit", data, "--json")
    told = json.loads(out)
    refused = {p["problem"] for p in told["problems"] if p["training"] == "refuses"}
    assert code == 2 and refused == set(REFUSED) and not told["trains"]
    assert "truncated" in {p["problem"] for p in told["problems"]}, "files are looked at all the same"
    assert err.startswith("mura: ") and "would refuse it, for 10 reason(s)" in err and err.count("\n") == 1


@pytest.mark.parametrize("fault", [None, *REFUSED])
def test_the_audit_refuses_where_training_does(mura, data, fault):
    if fault:
        REFUSED[fault](data)
    refuses = (audit_data(data).training == "refuses").any()
    try:
        read_data(data, max_bad=1.0)
    except InputError as e:
        assert refuses and "\n" not in str(e)
    else:
        assert not refuses
    code, out, err = mura("summarize", data)
    assert (code, out != "") == ((2, False) if fault else (0, True)) and err.count("\n") <= 1


@pytest.fixture
def own(tmp_path):
    "Twelve pictures, and a function that writes the table beside them."
    (tmp_path / "own" / "pics").mkdir(parents=True)
    for k in range(12):
        Image.fromarray(picture(k)).save(tmp_path / f"own/pics/{k}.png")

    def write(*lines, header="path,label,patient,split,view"):
        file = tmp_path / "own" / "mine.csv"
        rows = [f"pics/{k}.png,{k % 2},p{k},{'valid' if k > 7 else 'train'},1" for k in range(12)]
        file.write_text("\n".join([header, *rows[: 12 - len(lines)], *lines]) + "\n")
        return file

    return write


OWN = {
    "path that is blank or leads out of the data": "../secret.png,1,p,valid,1",
    "label that is not 0, 1 or blank": "pics/9.png,maybe,q,valid,1",
    "unknown split": "pics/10.png,1,r,holdout,1",
    "view that is no number": "pics/11.png,1,s,valid,first",
    "row of more or fewer cells than the header": "pics/8.png,1",
    "patient in both train and valid": "pics/11.png,1,p1,valid,2",
}


def test_a_table_of_ones_own_is_audited_row_by_row_and_refused_where_training_does(mura, own):
    code, out, err = mura("audit", own(*OWN.values()), "--json")
    told = {p["problem"]: p["where"] for p in json.loads(out)["problems"] if p["training"] == "refuses"}
    assert code == 2 and set(told) == set(OWN) and err.count("\n") == 1
    assert "line 8: '../secret.png'" in told["path that is blank or leads out of the data"][0]
    for fault, line in OWN.items():
        file = own(line)
        assert set(audit_data(file).query("training == 'refuses'").problem) == {fault}
        assert mura("summarize", file)[0] == 2
    assert mura("audit", own())[0] == 0 == mura("summarize", own())[0]


def test_pictures_of_two_patients_or_labels_that_are_one_are_warned_of(mura, data):
    files = sorted(data.glob("train/*/*/*_negative/image1.png"))[:2]
    sick = sorted(data.glob("train/*/*/*_positive/image1.png"))[0]
    files[1].write_bytes(files[0].read_bytes())
    sick.write_bytes(files[0].read_bytes())
    found = audit_data(data)
    warned = found[found.training == "warns"].set_index("problem")["where"]
    for problem in ("same pixels under two patients", "same pixels under two labels"):
        assert all(str(f) in warned[problem] for f in (*files, sick))
    assert mura("audit", data)[0] == 0


def test_one_class_is_no_fault(mura, data, tmp_path):
    keep = [s for s in labels(data, "valid").read_text().split() if s.endswith("0")]
    labels(data, "valid").write_text("\n".join(keep) + "\n")
    names = [s for s in listed(data, "valid").read_text().split() if "_negative" in s]
    listed(data, "valid").write_text("\n".join(names) + "\n")
    code, out, _ = mura("audit", data)
    assert code == 0 and "one class in valid: scores are n/a" in out
    rows = [dict(study=f"s{i}", region="XR_HAND", patient=f"p{i}", label=0, p_abnormal=i / 9) for i in range(9)]
    pd.DataFrame(rows).to_csv(tmp_path / "p.csv", index=False)
    code, out, _ = mura("evaluate", "--predictions", tmp_path / "p.csv", "--ci", "none")
    assert code == 0 and "n/a (one class)" in out
