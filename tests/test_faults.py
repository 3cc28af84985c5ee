"""Nothing is lost and nothing hangs: commands are killed, starved of disk, shut out, doubled. `make soak` does more."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from whole import READ, differences, torn

from mura_fastai.files import aside_of, write_text

HERE = Path(__file__).parent
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, /proc and limits as Linux has them")


def script(name, *arguments):
    "One of our programs for the soak, in a process without threads, which can fork."
    command = [sys.executable, HERE / f"{name}.py", *map(str, arguments)]
    path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})


@linux
@pytest.mark.slow
def test_five_kills_lose_nothing_and_leave_nothing_behind(tmp_path):
    "Trainings, a store, predictions, a phantom: what lies there is whole, and given again they end as if undisturbed."
    log = tmp_path / "kills.jsonl"
    seed = int.from_bytes(os.urandom(2))  # other moments each time; the message names it
    done = script("faults", "--kills", 5, "--seed", seed, "--log", log)
    assert done.returncode == 0, done.stdout
    kills = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(kills) == 5 and all(k["killed"] for k in kills)


ATTACKS = (
    "full_disk_in_training", "full_disk_for_a_store", "full_disk_for_a_phantom", "full_disk_for_predictions",
    "really_full_disk", "out_of_memory", "closed_folders", "nothing_open", "disk_fills_up_between_epochs",
    "two_trainings_at_once",
)  # fmt: skip


@pytest.fixture(scope="module")
def attacked():
    done = script("attacks", *ATTACKS)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


@linux
@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
def test_it_is_said_in_one_line_and_what_was_there_stays(attacked, name):
    if attacked[name]["wrong"] is None:
        pytest.skip("not possible for this user")
    assert attacked[name]["wrong"] == []


def test_what_a_killed_process_left_of_a_file_goes_when_the_file_is_written_anew(tmp_path):
    "Of that file, and of processes that are no more; nobody else's file that looks like it."
    gone = subprocess.Popen(["true"])
    gone.wait()
    asides = [aside_of(tmp_path / n, p) for n, p in (("p.csv", gone.pid), ("p.csv", os.getppid()), ("q.csv", gone.pid))]
    names = [*(aside.name for aside in asides), ".p.csv", asides[0].name[1:]]
    for name in names:
        (tmp_path / name).write_text("half")
    write_text(tmp_path / "p.csv", "whole")
    assert {f.name for f in tmp_path.iterdir()} == {"p.csv", *names[1:]}


def test_a_fault_would_be_seen(tmp_path):
    "The readers of the soak know a torn file of each kind from a whole one."
    whole = {"a.csv": "a,b\n1,2\n", "a.yaml": "format: 1\n", "a.json": "{}"}
    for name, text in whole.items():
        (tmp_path / name).write_text(text)
    assert torn(tmp_path) == [] and {Path(n).suffix for n in whole} < set(READ)
    for name, text in whole.items():
        (tmp_path / name).write_text(text[:-1] if name != "a.yaml" else "form")
    assert len(torn(tmp_path)) == 3
    assert differences({"a": 1, "b": 2}, {"a": 0, "c": 3}) == ["a is another", "b is left over", "c is lost"]
