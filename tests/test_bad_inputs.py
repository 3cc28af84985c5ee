"""Bad input, made for real: what each kind gets, on the command line, and that nothing of it is lost in silence."""

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

from mura_fastai.confined import refuse_outside
from mura_fastai.data.audit import audit_data
from mura_fastai.data.fracatlas import FRACATLAS_REGIONS, PASSED_ON
from mura_fastai.data.reading import read_data
from mura_fastai.errors import InputError

HERE = Path(__file__).parent
KEPT = HERE / "fixtures" / "run-format-1"  # made by the version that first wrote this format, from the phantom


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


def both_labels(data: Path):
    first = labels(data, "valid").read_text().split()[0]
    with open(labels(data, "valid"), "a") as f:
        f.write(re.sub("_(posi|nega)tive", "", other_sign(first)) + "\n")


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
    "study with two labels": both_labels,
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
    assert err.startswith("mura: ") and "would refuse it, for 10 reasons:" in err and err.count("\n") == 1


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


def problems(told: dict, inside) -> dict[str, list[str]]:
    "Of the audit's JSON: where each problem is, named from a folder on."
    return {p["problem"]: [w.replace(f"{inside}/", "") for w in p["where"]] for p in told["problems"]}


def test_a_refused_row_hides_nothing_else_of_a_table(mura, own, tmp_path):
    rows = (
        "pics/6.png,1,p2,valid,1", "pics/7.png,0,p7,train,1", "pics/8.png,maybe,p8,valid,1", "pics/9.png,1,p9,valid,1",
        "pics/10.png,0,p10,valid,1", "pics/gone.png,1,p11,valid,1", "pics/lost.png,x,p3,train,1",
        "pics/11.png,1,p11,nowhere,1",
    )  # fmt: skip
    file, pics = own(*rows), tmp_path / "own/pics"
    (pics / "8.png").write_bytes((pics / "8.png").read_bytes()[:-200])
    (pics / "10.png").write_bytes((pics / "1.png").read_bytes())
    (pics / "11.png").write_bytes((pics / "2.png").read_bytes())
    code, out, err = mura("audit", file, "--json")
    told, where = json.loads(out), problems(json.loads(out), tmp_path / "own")
    assert code == 2 and not told["trains"] and (told["images"], told["patients"]) == (6, 5)
    assert len(where["label that is not 0, 1 or blank"]) == 2 and len(where["unknown split"]) == 1
    assert sorted(where["missing"]) == ["pics/gone.png", "pics/lost.png"], "of a good row, and of a refused one"
    assert where["truncated"] == ["pics/8.png"], "of a refused row"
    assert where["patient in both train and valid"] == ["p2"]
    assert sorted(where["same pixels under both labels"]) == ["pics/1.png", "pics/10.png"]
    assert where["same pixels under two patients"] == ["pics/2.png = pics/11.png"], "of a refused row"
    assert told["unchecked"] and not {"missing files", "doubled pixels"} & set(told["unchecked"])
    code, out, err = mura("audit", file)
    assert "6 images can be used, without what is refused" in out and "not checked until that is mended: " in out


def test_what_no_table_can_be_made_of_says_what_was_not_looked_for(mura, own, tmp_path):
    (tmp_path / "own/pics/3.png").write_bytes((tmp_path / "own/pics/2.png").read_bytes())
    (tmp_path / "own/pics/4.png").unlink()
    code, out, _ = mura("audit", own(header="file,label,patient,split,view"), "--json")
    told = json.loads(out)
    assert code == 2 and told["images"] == 0 and {"missing files", "doubled pixels"} <= set(told["unchecked"])
    file = own(header="path,lable,patient,split,view")
    told = json.loads(mura("audit", file, "--json")[1])
    where = problems(told, tmp_path / "own")
    assert "no column label" in where["CSV that cannot be read"][0] and where["missing"] == ["pics/4.png"]
    assert where["same pixels under two patients"] == ["pics/2.png = pics/3.png"] and told["unchecked"]
    assert "not checked until that is mended: " in mura("audit", file)[1]
    assert not json.loads(mura("audit", own(), "--json")[1])["unchecked"]


def test_refused_lines_of_mura_hide_nothing_else(mura, data):
    good = json.loads(mura("audit", data, "--json")[1])["images"]
    for spoil_it in REFUSED.values():
        spoil_it(data)
    files = [str(data / line.partition("/")[2]) for line in listed(data).read_text().split() if "/XR_KNEE/" not in line]
    files = [f for f in files if f.endswith("image1.png") and os.path.isfile(f) and not os.path.islink(f)]
    unlabelled = next(f for f in files if os.path.dirname(f) not in "".join(labels(data).read_text()))
    os.unlink(files[-1])
    Path(files[-2]).write_bytes(Path(files[-3]).read_bytes())
    os.unlink(unlabelled)
    code, out, err = mura("audit", data, "--json")
    told, where = json.loads(out), problems(json.loads(out), data)
    assert code == 2 and good - 25 < told["images"] < good
    assert sorted(where["missing"]) == sorted(f.removeprefix(f"{data}/") for f in (files[-1], unlabelled))
    assert set(where["same pixels under two patients"][0].split(" = ")) == {
        f.removeprefix(f"{data}/") for f in files[-3:-1]
    }
    assert {p["problem"] for p in told["problems"] if p["training"] == "refuses"} == set(REFUSED)
    assert "what test_image_paths.csv lists" in told["unchecked"]
    # The line after the table has no file and no line of it: those are in the table.
    assert err.count("/") == str(data).count("/") and len(err) < len(str(data)) + 300


def test_a_link_that_leads_out_hides_nothing_else_of_a_folder(mura, tmp_path):
    for k in range(12):
        file = tmp_path / "own" / ("normal", "abnormal")[k % 2] / f"{k}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(k)).save(file)
    (tmp_path / "secret.png").write_bytes(file.read_bytes())
    file.unlink()
    file.symlink_to(tmp_path / "secret.png")
    (tmp_path / "own/normal/2.png").write_bytes(b"")
    code, out, _ = mura("audit", tmp_path / "own", "--json")
    told, where = json.loads(out), problems(json.loads(out), tmp_path / "own")
    assert code == 2 and told["images"] == 10 and where["link that leads out of the data"] == ["abnormal/11.png"]
    assert where["empty (0 bytes)"] == ["normal/2.png"]


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


# ---------------------------------------------------------------- a machine that is too small

SHORT = """
import resource, sys
from mura_fastai import cli
from mura_fastai.data import audit
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (40 << 20),) * 2)
cli.main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of memory")
def test_a_want_of_memory_is_no_fault_of_a_file(mura, own):
    file = own("pics/11.png,1,p11,valid,1")
    Image.new("L", (7000, 7000), 100).save(file.parent / "pics" / "11.png")
    command = [sys.executable, "-c", SHORT, "audit", str(file)]
    done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "") and done.stderr.count("\n") == 1
    assert f"{file.parent}/pics/11.png: the memory is full, and nothing is known against the file" in done.stderr
    assert "--workers" in done.stderr
    code, out, _ = mura("audit", file)
    assert code == 0 and "12 images can be used" in out, "nor is it kept against the file in the cache"


# ---------------------------------------------------------------- nothing vanishes in silence


@pytest.fixture
def own_run(tmp_path):
    "A small finished run that a test may spoil; its data is not there."
    return Path(shutil.copytree(KEPT / "run", tmp_path / "run"))


@pytest.fixture
def near_run(own_run, tmp_path):
    "The same, with the pictures of twelve of its valid images; not predicted yet."
    pictures = Path(shutil.copytree(KEPT / "pictures", tmp_path / "pictures"))
    table = pd.read_csv(own_run / "images.csv")
    table["path"] = table.path.str.replace("/data/MURA-small", str(pictures))
    table[(table.split != "valid") | table.path.map(os.path.exists)].to_csv(own_run / "images.csv", index=False)
    edit_settings(own_run, lambda s: s["data"].update(path=str(pictures)))
    for name in ("predictions.csv", "metrics.json"):
        (own_run / name).unlink()
    return own_run


def edit_settings(run: Path, change, name="settings.yaml"):
    told = yaml.safe_load((run / name).read_text())
    change(told)
    (run / name).write_text(yaml.safe_dump(told))


def test_files_that_are_lost_after_training_are_named_and_kept_in_skipped_csv(mura, near_run):
    edit_settings(near_run, lambda s: s.update(max_bad=0.5))
    files = [f for f in pd.read_csv(near_run / "images.csv").query("split == 'valid'").path]
    Path(files[0]).unlink()
    LEFT_OUT["truncated"](Path(files[1]))
    code, _, err = mura("evaluate", near_run, "--ci", "none")
    assert code == 0 and "left out 2 files" in err
    assert f"missing: 1, {files[0]}" in err and f"truncated: 1, {files[1]}" in err
    kept = pd.read_csv(near_run / "skipped.csv")
    assert dict(zip(kept.path, kept.reason, strict=True)) == {files[0]: "missing", files[1]: "truncated"}
    assert len(pd.read_csv(near_run / "predictions.csv")) == len(files) - 2
    assert "left out 2 files" not in mura("evaluate", near_run, "--ci", "none")[2], "said once, kept for good"


def test_every_file_of_a_folder_is_predicted_or_named(mura, own_run, tmp_path):
    folder = Path(shutil.copytree(KEPT / "pictures", tmp_path / "in"))
    files = sorted(folder.rglob("*.png"))
    files[0].write_bytes(b"")
    for name in ("a.gif", "b.webp", "._c.png", ".DS_Store"):
        (folder / name).write_bytes(b"GIF89a")
    code, out, err = mura("predict", own_run, folder, files[1], "-o", tmp_path / "p.csv", "--json")
    told = {Path(s["path"]).name: s["reason"] for s in json.loads(out)["skipped"]}
    assert code == 0 and set(told) == {"a.gif", "b.webp", "._c.png", ".DS_Store", files[0].name, files[1].name}
    assert all(f"skipped {folder / name}" in err for name in ("a.gif", "b.webp", "._c.png", ".DS_Store"))
    assert len(pd.read_csv(tmp_path / "p.csv")) == len(files) - 1


def test_a_list_that_names_a_file_twice_says_so(mura, own_run, tmp_path):
    pictures = Path(shutil.copytree(KEPT / "pictures", tmp_path / "in"))
    names = [f.relative_to(pictures).as_posix() for f in sorted(pictures.rglob("*.png"))]
    (pictures / "list.csv").write_text("\n".join(f"in/{n}" for n in [*names, names[0], "gone.png"]))
    code, _, err = mura("predict", own_run, pictures / "list.csv", "--format", "table", "-o", tmp_path / "p.csv")
    assert code == 0 and f"{names[0]}: listed twice" in err and "gone.png: missing" in err


@pytest.mark.slow
def test_training_counts_and_names_each_file_that_it_leaves_out(mura, data, tmp_path):
    done = spoil(data)
    how = ["--arch", "mura_cnn_small", "--size", 32, "--epochs", 1, "--bs", 16, "--ci", "none"]
    code, out, err = mura("train", data, *how, "--out", tmp_path / "run")
    assert code == 2 and re.search(r"9 of 169 images \(5%\).*--max-bad 0.06", err) and not (tmp_path / "run").exists()
    code, out, err = mura("train", data, *how, "--max-bad", 0.1, "--out", tmp_path / "run")
    assert code == 0 and "left out 9 files" in err
    assert all(f"  {kind}: 1, {done[kind]}\n" in err for kind in LEFT_OUT)
    kept = pd.read_csv(tmp_path / "run" / "skipped.csv")
    assert dict(zip(kept.reason, kept.path, strict=True)) == {kind: done[kind] for kind in LEFT_OUT}
    trained = set(pd.read_csv(tmp_path / "run" / "images.csv").path)
    assert trained.isdisjoint(kept.path) and {done[kind] for kind in CONVERTED} <= trained


def test_a_report_does_not_claim_that_nothing_was_left_out_where_nobody_knows(own_run):
    from mura_fastai.share.report_data import left_out
    from mura_fastai.share.report_facts import read_facts

    assert "No file was left out" in str(left_out(read_facts(own_run, "run")))
    (own_run / "skipped.csv").write_bytes(b"\x80")
    assert "not known" in str(left_out(read_facts(own_run, "run")))


# ---------------------------------------------------------------- nothing in a file is run


class Bomb:
    "Unpickled, it writes a file."

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return open, (str(self.canary), "w")


def refused(told: tuple, name: str = ""):
    "Exit code 2, nothing on stdout, one line that names the file."
    code, out, err = told
    assert (code, out) == (2, "") and "Traceback" not in err
    assert err.splitlines()[-1].startswith("mura: ") and err.count("mura: ") == 1 and name in err


DOORS = {
    "settings.yaml": ("evaluate", "predict", "interpret", "report"),
    "decision.yaml": ("evaluate", "predict", "interpret", "report"),
    "images.csv": ("evaluate", "predict", "interpret", "report"),
    "predictions.csv": ("evaluate", "interpret", "report"),
    "weights/best.safetensors": ("predict",),
}


@pytest.mark.parametrize("kind", ["pickle", "torch", "yaml", "python"])
@pytest.mark.parametrize("name", DOORS)
def test_a_run_runs_nothing_and_says_what_is_wrong_with_it(mura, own_run, tmp_path, name, kind):
    canary, file = tmp_path / "canary", own_run / name
    call = f"open({str(canary)!r}, 'w')"
    if kind == "pickle":
        file.write_bytes(pickle.dumps({"stem.weight": Bomb(canary)}))
    elif kind == "torch":
        torch.save({"stem.weight": Bomb(canary)}, file)
    else:
        text = f"!!python/object/apply:os.system ['touch {canary}']\n" if kind == "yaml" else f"import os\n{call}\n"
        file.write_text(text)
    for command in DOORS[name]:
        how = ["-o", tmp_path / f"out.{'html' if command == 'report' else 'csv'}"] if command != "evaluate" else []
        how = ["--heat", "none"] if command == "interpret" else how
        refused(mura(command, own_run, *([KEPT / "pictures"] if command == "predict" else []), *how), file.name)
    assert not canary.exists() and not list(tmp_path.glob("out.*"))


NO_NETS = ["os.system", "../x.py", "x.py", "model.ipynb", "hf-hub:timm/resnet18.a1_in1k", "hf_hub:timm/resnet18",
           "local-dir:LOCAL", "LOCAL", "resnet18.evil", "resnet18.hf-hub:x", "", "__import__('os')"]  # fmt: skip


@pytest.mark.parametrize("arch", NO_NETS)
def test_a_network_is_a_name_and_never_a_path_an_address_or_code(mura, own_run, tmp_path, arch):
    from mura_fastai.models.backbones import create_net

    local, canary = tmp_path / "local", tmp_path / "canary"
    local.mkdir()
    (local / "config.json").write_text('{"architecture": "resnet18", "num_classes": 1}')
    (local / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(canary)))
    (local / "model.ipynb").write_text("{}")
    arch = arch.replace("LOCAL", str(local))
    for pretrained in (False, True):
        with pytest.raises(InputError) as e:
            create_net(arch, pretrained=pretrained)
        assert "\n" not in str(e.value)
    edit_settings(own_run, lambda s: s.update(arch=arch, until=None))
    refused(mura("predict", own_run, KEPT / "pictures", "-o", tmp_path / "p.csv"))
    assert not canary.exists()


def test_files_that_are_given_are_read_as_what_they_should_be_and_nothing_else(mura, root, own_run, tmp_path):
    canary = tmp_path / "canary"
    for name in ("w.pth", "w.safetensors", "p.csv", "store/pixels.npy", "store/index.csv", "m.ipynb"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(pickle.dumps(Bomb(canary)))
    np.save(tmp_path / "store" / "pixels.npy", np.array([Bomb(canary)], object), allow_pickle=True)
    (tmp_path / "store" / "index.csv").write_text("path,state,status,reason\na.png,0,1,\n")
    train = ["train", root, "--size", 48, "--bs", 16, "--out", tmp_path / "run2"]
    refused(mura(*train, "--arch", "resnet18", "--weights", tmp_path / "w.pth"), "w.pth")
    refused(mura(*train, "--weights", tmp_path / "w.safetensors"), "w.safetensors")
    refused(mura(*train, "--store", tmp_path / "store"), "not a whole store")
    refused(mura("evaluate", "--predictions", tmp_path / "p.csv"), "p.csv")
    refused(mura("predict", own_run, tmp_path / "p.csv", "-o", tmp_path / "o.csv"), "p.csv")
    refused(mura("predict", own_run, tmp_path / "m.ipynb", "-o", tmp_path / "o.csv"), "m.ipynb")
    refused(mura("summarize", tmp_path / "p.csv"), "p.csv")
    assert not canary.exists() and not (tmp_path / "run2").exists()


VALUES = {
    "size: -5": dict(size=-5), "size: true": dict(size=True), "size: 10000000": dict(size=10**7), "bs: 0": dict(bs=0),
    "format: 99": dict(format=99), "views: [mean]": dict(views=["mean"]), "dropout: 7": dict(dropout=7),
    "max_bad: half": dict(max_bad="half"), "store: 7": dict(store=7), "data: text": dict(data="text"),
    "data.path: [a]": dict(data={"path": ["a"]}), "data.source: dicom": dict(data={"source": "dicom"}),
    "data.split_seed: x": dict(data={"split_seed": "x"}), "epochs: many": dict(epochs="many"),
}  # fmt: skip


@pytest.mark.parametrize("value", VALUES)
def test_a_setting_that_cannot_be_is_named(mura, own_run, value):
    edit_settings(own_run, lambda s: s.update(VALUES[value]))
    told = mura("evaluate", own_run, "--ci", "none")
    refused(told, "settings.yaml")
    assert "newer version" in told[2] if value.startswith("format") else value.split(":")[0] in told[2]


@pytest.mark.parametrize("seeds", [["../../run"], ["0/../../run"], [], 5, [True], [-1], "0"])
def test_a_plan_of_several_runs_names_no_other_folder(mura, own_run, tmp_path, seeds):
    several = tmp_path / "several"
    (several / "seed..").mkdir(parents=True)
    shutil.copytree(own_run, several / "seed0")
    (several / "repeats.yaml").write_text(yaml.safe_dump({"format": 1, "folds": None, "seeds": seeds}))
    refused(mura("evaluate", several, "--ci", "none"), "seeds is")


def test_scores_that_are_none_are_said_by_the_report(own_run, tmp_path):
    from mura_fastai.results.tables import read_scores

    assert read_scores(own_run / "metrics.json")["scores"]["overall"]["n"] == 12
    for text in ("", "[]", "null", '{"scores": 3}', '{"scores": {"overall": {"n": "<b>"}}}', "[" * 100_000):
        (own_run / "metrics.json").write_text(text)
        with pytest.raises(InputError, match="not the scores of a run"):
            read_scores(own_run / "metrics.json")


# ---------------------------------------------------------------- nothing outside is read or written


@pytest.mark.parametrize("name", ["figures", "weights", "suspects", "predictions.csv", "figures/roc.png"])
def test_a_link_that_leads_out_of_a_run_is_refused(mura, own_run, tmp_path, name):
    outside = tmp_path / "outside"
    outside.mkdir()
    link = own_run / name
    link.parent.mkdir(exist_ok=True)
    if link.is_dir():
        shutil.rmtree(link)
    link.unlink(missing_ok=True)
    link.symlink_to(outside)
    for command in (["evaluate", own_run], ["interpret", own_run, "--heat", "none"], ["report", own_run]):
        refused(mura(*command), f"{link}: a link that leads out of the run")
    refused(mura("predict", own_run, KEPT / "pictures", "-o", tmp_path / "p.csv"), str(link))
    assert not list(outside.iterdir())


def test_a_run_may_be_reached_by_a_link_and_may_hold_links_to_itself(mura, own_run, tmp_path):
    (tmp_path / "link").symlink_to(own_run)
    (own_run / "best").symlink_to("weights/best.safetensors")
    assert mura("evaluate", tmp_path / "link", "--ci", "none")[0] == 0


def test_a_new_run_is_not_written_through_a_link(mura, root, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "run" / "weights").symlink_to(tmp_path / "outside")
    refused(mura("train", root, "--size", 48, "--bs", 16, "--out", tmp_path / "run"), "leads out of the run")
    assert not list((tmp_path / "outside").iterdir())


def test_a_store_that_settings_name_is_never_written(mura, near_run, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    for name in ("index.csv", "skipped.csv", "pixels.npy", ".index.7.csv"):
        (mine / name).write_text("mine")
    edit_settings(near_run, lambda s: s.update(store=str(mine)))
    assert mura("evaluate", near_run, "--ci", "none")[0] == 0
    assert {f.name: f.read_text() for f in mine.iterdir()} == dict.fromkeys(
        ("index.csv", "skipped.csv", "pixels.npy", ".index.7.csv"), "mine"
    )


@pytest.mark.parametrize("name", ["images.csv", "predictions.csv"])
def test_a_run_shows_no_picture_of_elsewhere(mura, own_run, tmp_path, name):
    Image.fromarray(picture(1)).save(tmp_path / "private.png")
    table = pd.read_csv(own_run / name)
    table.loc[3, "path"] = str(tmp_path / "private.png")
    table.to_csv(own_run / name, index=False)
    refused(mura("report", own_run, "-o", tmp_path / "r.html"), "private.png' lies outside of the run's data")
    refused(mura("interpret", own_run, "--heat", "none"), "private.png' lies outside")
    assert not (tmp_path / "r.html").exists() and not (own_run / "figures").exists()


@pytest.fixture(scope="module")
def opened():
    "How often private.png is opened in this process from now on, through whatever library."
    names = []
    sys.addaudithook(
        lambda event, told: event == "open" and str(told[0]).endswith("private.png") and names.append(told[0])
    )
    return names


def root_by_a_link(folder: Path) -> str:
    (folder / "link").symlink_to("/")
    return str(folder / "link")


# what a run says of where its data lies, and by which nothing would be outside
NOWHERE = {
    "missing": lambda _: dict(),
    "null": lambda _: dict(path=None),
    "empty": lambda _: dict(path=""),
    "relative": lambda _: dict(path="data/MURA-small"),
    "a relative root": lambda _: dict(path="../" * 30),
    "/": lambda _: dict(path="/"),
    "//": lambda _: dict(path="//"),
    "/.": lambda _: dict(path="/usr/.."),
    "a link to /": lambda folder: dict(path=root_by_a_link(folder)),
    "a table in /": lambda _: dict(path="/mine.csv", source="csv"),
}


@pytest.mark.parametrize("where", NOWHERE)
@pytest.mark.parametrize("name", ["images.csv", "predictions.csv"])
def test_a_run_that_names_no_folder_of_data_shows_no_picture_of_this_machine(
    mura, own_run, tmp_path, opened, name, where
):
    private = tmp_path / "private.png"
    Image.fromarray(picture(1)).save(private)
    edit_settings(own_run, lambda s: s.update(data=NOWHERE[where](tmp_path)))
    code, out, _ = mura("evaluate", own_run, "--ci", "none")
    assert code == 0 and "kappa" in out, "names of images that are not here are names only"
    table = pd.read_csv(own_run / name)
    table.loc[table.split == "valid", "path"] = str(private)
    table.to_csv(own_run / name, index=False)
    before = {f: f.read_bytes() for f in own_run.rglob("*") if f.is_file()}
    opened.clear()
    commands = [
        ["report", own_run, "-o", tmp_path / "r.html"], ["interpret", own_run, "--heat", "none"],
        ["interpret", own_run, "--suspects", "-o", tmp_path / "f"], ["evaluate", own_run, "--ci", "none"],
    ]  # fmt: skip
    commands += [["audit", "--shortcuts", own_run]] if name == "images.csv" else []
    for command in commands:
        told = mura(*command)
        refused(told, f"{own_run / name}: '{private}' is on this machine, and settings.yaml does not say")
        assert "data.path" in told[2] and told[2].count("\n") == 1
    assert str(private) not in opened
    assert (
        before == {f: f.read_bytes() for f in own_run.rglob("*") if f.is_file()} and not (tmp_path / "r.html").exists()
    )


def test_a_path_that_leads_out_through_links_is_outside(tmp_path):
    private, data, disk = tmp_path / "disk" / "private" / "p.png", tmp_path / "data", tmp_path / "disk"
    for folder in (private.parent, disk / "train", data):
        folder.mkdir(parents=True)
    for file in (private, disk / "train" / "own.png", data / "own.png"):
        Image.fromarray(picture(1)).save(file)
    (data / "train").symlink_to(disk / "train")
    (data / "link.png").symlink_to(private)
    (tmp_path / "linked").symlink_to(data)
    outside = [data / "train" / ".." / "private" / "p.png", data / "train" / "own.png", data / "link.png"]
    told = [(path, data) for path in outside]
    if Path("/proc/self/root").exists():
        told.append((f"/proc/self/root{private}", "/proc/self"))
    for path, root in told:
        with pytest.raises(InputError, match="lies outside of the run's data"):
            refuse_outside([str(path)], dict(path=str(root)), "images.csv")
    for path in (data / "own.png", tmp_path / "linked" / "own.png", data / "." / "own.png"):
        for root in (data, tmp_path / "linked"):
            refuse_outside([str(path)], dict(path=str(root)), "images.csv")


@pytest.mark.parametrize("name", ["images.csv", "predictions.csv"])
def test_what_is_told_of_them_helps(mura, own_run, tmp_path, opened, name):
    Image.fromarray(picture(1)).save(tmp_path / "private.png")
    table = pd.read_csv(own_run / name)
    table.loc[table.split == "valid", "path"] = str(tmp_path / "private.png")
    table.to_csv(own_run / name, index=False)
    edit_settings(own_run, lambda s: s.update(data=dict(path=str(tmp_path))))
    opened.clear()
    _, _, err = mura(*(["audit", "--shortcuts"] if name == "images.csv" else ["interpret", "--heat", "none"]), own_run)
    assert "is on this machine" not in err and opened


def test_a_run_of_several_shows_no_picture_of_elsewhere_in_its_audit(mura, own_run, tmp_path, opened):
    "The report of several runs reads traits of the images of the first one from their files."
    Image.fromarray(picture(1)).save(tmp_path / "private.png")
    sub = tmp_path / "several" / "seed0"
    shutil.copytree(own_run, sub)
    plan = {"format": 1, "folds": None, "seeds": [0], "settings": {}}
    (tmp_path / "several" / "repeats.yaml").write_text(yaml.safe_dump(plan))
    table = pd.read_csv(sub / "images.csv")
    table.loc[table.split == "train", "path"] = str(tmp_path / "private.png")
    table.to_csv(sub / "images.csv", index=False)
    opened.clear()
    refused(mura("report", tmp_path / "several", "-o", tmp_path / "r.html"), "private.png' lies outside")
    assert not opened


def test_of_a_file_that_is_no_picture_nothing_is_shown(mura, near_run, tmp_path):
    secret = Path(pd.read_csv(near_run / "images.csv").query("split == 'valid'").path.iloc[0])
    secret.write_text("password: swordfish\n" * 50)
    edit_settings(near_run, lambda s: s.update(max_bad=0.5))
    told = mura("evaluate", near_run, "--ci", "none"), mura("predict", near_run, secret, "-o", tmp_path / "p.csv")
    assert told[0][0] == 0 and told[1][0] == 2 and "swordfish" not in str(told)
    assert not [f for f in near_run.rglob("*") if f.is_file() and b"swordfish" in f.read_bytes()]


# ---------------------------------------------------------------- no network

WATCH = """
import os, sys
def watch(event, args):
    if event in ("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        where = args[0] if event in ("socket.getaddrinfo", "socket.gethostbyname") else args[1]
        host = where[0] if isinstance(where, tuple) else where
        if isinstance(where, (str, bytes)) and event in ("socket.connect", "socket.bind"):
            return  # a socket of this machine alone
        if host not in ("127.0.0.1", "::1", "localhost", None, b"localhost"):
            os.write(2, f"NETWORK {event} {where}\\n".encode())
            os._exit(97)
sys.addaudithook(watch)
"""
COMMANDS = """
import sys
from mura_fastai import cli
def mura(*arguments):
    sys.argv = ["mura", *arguments]
    try:
        cli.main()
    except SystemExit as e:
        assert not e.code, (arguments, e.code)
mura("phantom", "data", "--studies", "40", "--size", "96")
mura("summarize", "data")
mura("audit", "data")
mura("prepare", "data", "--size", "32")
mura("train", "data", "--arch", "lcnet_050", "--until", "blocks.0", "--no-pretrained", "--size", "32", "--epochs", "1",
     "--bs", "8", "--out", "run", "--ci", "none")
mura("evaluate", "run", "--ci", "none")
mura("predict", "run", "data/valid", "-o", "p.csv")
mura("interpret", "run", "--heat", "none")
mura("report", "run", "-o", "run.html")
"""


def watched(tmp_path, code):
    "Run code in a process whose children, too, die at the first address that is not this machine's."
    (tmp_path / "watch").mkdir(exist_ok=True)
    (tmp_path / "watch" / "sitecustomize.py").write_text(WATCH)
    known = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(tmp_path / "watch"), str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
        "MPLBACKEND": "Agg",
        "MURA_CACHE": str(tmp_path / "cache"),
    }
    return subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=known, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.create_connection(('192.0.2.1', 443), timeout=1)",
        "import socket; socket.socket().bind(('0.0.0.0', 0))",
        "import urllib.request as u\ntry: u.urlopen('http://example.org', timeout=1)\nexcept OSError: pass",
    ],
)
def test_the_watch_sees_what_goes_out(tmp_path, code):
    done = watched(tmp_path, f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {code!r}]))")
    assert done.returncode == 97 and "NETWORK socket." in done.stderr


@pytest.mark.slow
def test_no_command_asks_for_an_address(tmp_path):
    done = watched(tmp_path, COMMANDS)
    assert done.returncode == 0 and "NETWORK" not in done.stderr, done.stderr[-2000:]
    assert (tmp_path / "run.html").stat().st_size > 100_000


# ---------------------------------------------------------------- runs of earlier versions


def test_a_run_of_format_1_is_read_and_gives_the_same_numbers(mura, own_run, tmp_path):
    kept = json.loads((own_run / "metrics.json").read_text())
    code, out, _ = mura("evaluate", own_run, "--json")
    told = json.loads(out)
    assert code == 0
    for region, row in kept["scores"].items():
        assert told["scores"][region] == pytest.approx(row, abs=1e-6), region
    assert told["region_only"] == kept["region_only"] and told["always_normal"] == kept["always_normal"]
    code, _, err = mura("predict", own_run, KEPT / "pictures", "-o", tmp_path / "p.csv")
    new = pd.read_csv(tmp_path / "p.csv").set_index(["study", "view"]).p_abnormal
    old = pd.read_csv(own_run / "predictions.csv").set_index(["study", "view"]).p_abnormal
    assert code == 0 and len(new) == 12
    np.testing.assert_allclose(new, old.loc[new.index], atol=1e-4)


@pytest.mark.slow
def test_a_run_of_format_1_has_its_report_and_figures(mura, own_run, tmp_path):
    assert mura("report", own_run, "-o", tmp_path / "r.html")[0] == 0
    assert ".486" in (tmp_path / "r.html").read_text()
    code, out, _ = mura("interpret", own_run)
    assert code == 0 and (own_run / "figures" / "history.png").exists()


def test_what_is_kept_of_old_runs_is_small_and_names_no_machine():
    files = [f for f in KEPT.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) < 150_000
    for file in files:
        assert not re.search(rb"/(home|root|tmp|work|Users)/", file.read_bytes()), file


def test_the_audit_of_fracatlas_opens_nothing_outside_of_it(tmp_path):
    "Rows that training refuses are looked at by the names that they give."
    root, outside = tmp_path / "FracAtlas", tmp_path / "outside.png"
    for i, folder in enumerate(["Fractured", "Non_fractured"] * 6):
        (root / "images" / folder).mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(i).integers(0, 255, (64, 64), dtype=np.uint8)
        Image.fromarray(noise).save(root / "images" / folder / f"IMG{i:07}.jpg")
    Image.new("RGB", (64, 64)).save(outside)  # its mode would be told
    columns = ["image_id", *FRACATLAS_REGIONS, "mixed", "fractured", *PASSED_ON]
    rows = [dict.fromkeys(columns, 0) | dict(image_id=f"IMG{i:07}.jpg", hand=1, fractured=1 - i % 2) for i in range(12)]
    for name in (str(outside), "../../outside.png"):
        rows.append(dict.fromkeys(columns, 0) | dict(image_id=name, hand="x", fractured=1))
    pd.DataFrame(rows, columns=columns).to_csv(root / "dataset.csv", index=False)
    found = audit_data(root, "fracatlas")
    assert (found.problem == "hand that is not 0, 1 or blank").any()
    assert not found.problem.str.contains("colour").any()
