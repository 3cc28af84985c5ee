"""Twisted files are read or refused in our words, and nothing else comes of them. `make soak` tries 10,000."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mura_fastai.data.loose import input_images
from mura_fastai.data.store import build_store
from mura_fastai.data.store_files import read_store
from mura_fastai.errors import InputError
from mura_fastai.files import read_yaml
from mura_fastai.results.competition import read_competition
from mura_fastai.results.tables import read_predictions

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks and limits as Linux has them")
def test_some_hundred_twisted_files(tmp_path):
    "Other ones each time: the message names the seed, and the inputs are kept."
    seed = int.from_bytes(os.urandom(2))
    command = [sys.executable, HERE / "fuzz.py", "--inputs", "400", "--seed", str(seed), "--keep", tmp_path / "kept"]
    path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stdout + done.stderr[-1000:]
    assert int(done.stdout.split()[0]) >= 400


# ---------------------------------------------------------------- what it has found


TEN = [",".join([f"*a{i}"] * 10) for i in range(10)]
BOMB = "0: &a0 [1]\n" + "".join(f"{i}: &a{i} [{ten}]\n" for i, ten in enumerate(TEN, 1))
MERGES = "0: &a0 {k: 1}\n" + "".join(f"{i}: &a{i} {{<<: [{ten}]}}\n" for i, ten in enumerate(TEN, 1))
NO_VALUES = ["a: 0x_", "a: 2024-13-45", "a: " + "9" * 5000, "[" * 1000, "a: !!timestamp x"]


@pytest.mark.parametrize("text", [BOMB, MERGES, "a: &a [*a]", "# " + "x" * 2**18, *NO_VALUES])
def test_yaml_that_python_cannot_make_a_value_of_is_no_settings(tmp_path, text):
    (tmp_path / "settings.yaml").write_text(text)
    with pytest.raises(InputError, match=r"settings.yaml(, line \d+)?: not plain YAML"):
        read_yaml(tmp_path / "settings.yaml")


@pytest.mark.parametrize("line", ["a\0b.png", "x" * 5000])
def test_a_line_that_is_no_files_name_is_told_with_its_number(tmp_path, line):
    (tmp_path / "list.csv").write_text(f"a.png\n{line}\n")
    with pytest.raises(InputError, match=r"list.csv, line 2: .* is no file's name"):
        input_images([tmp_path / "list.csv"])


@pytest.mark.parametrize("wrong", ["many", "-1", "1.5", "inf"])
def test_a_count_of_views_that_is_none_is_told(tmp_path, wrong):
    head = "study,region,patient,label,n_unreadable,p_abnormal"
    (tmp_path / "p.csv").write_text(f"{head}\na,XR_HAND,1,0,,0.2\nb,XR_HAND,2,1,{wrong},0.7\n")
    with pytest.raises(InputError, match=rf"p.csv: n_unreadable is '{wrong}(\.0)?' in 1 row;"):
        read_predictions(tmp_path / "p.csv")


def test_a_line_without_end_is_not_told_to_its_end(tmp_path):
    (tmp_path / "p.csv").write_text("x" * 10_000 + ",1\n")
    with pytest.raises(InputError, match="line 1: 'xxx") as e:
        read_competition(tmp_path / "p.csv")
    assert len(str(e.value)) <= 2000 and str(e.value).endswith("study1_positive/,1")


@pytest.mark.parametrize("header", [b"(((((", b"{'descr': '|u1', 'shape': (1,", b"\xff", b"{'shape': (99**99,)}"])
def test_an_array_with_a_damaged_header_is_no_store(images, tmp_path, header):
    build_store(images[:3], tmp_path / "store", 32)
    file = tmp_path / "store" / "pixels.npy"
    file.write_bytes(file.read_bytes()[:10] + header.ljust(118)[:118] + file.read_bytes()[128:])
    assert read_store(tmp_path / "store") is None


def test_a_flipped_byte_that_makes_a_good_image_bad_is_noticed(images, tmp_path):
    build_store(images[:3], tmp_path / "store", 32)
    file = tmp_path / "store" / "index.csv"
    file.write_text(file.read_text().replace(",1,", ",2,", 1))
    assert read_store(tmp_path / "store") is None
    assert build_store(images[:3], tmp_path / "store", 32).skipped == []
