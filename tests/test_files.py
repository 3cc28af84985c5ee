"""Half-written files: nobody can lay a link where one will be, and what is swept is known to be dead."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mura_fastai.files import aside_of, replacing, sweep, write_bytes, write_text

HERE = Path(__file__).parent
UNIX = pytest.mark.skipif(sys.platform == "win32", reason="links, signals and modes of Unix")
HALF = """
import os, signal, socket, sys
host, file, number = sys.argv[1:]
if host:
    socket.gethostname = lambda: host
from mura_fastai.files import replacing
with replacing(file) as aside:
    aside.write_text("half")
    os.kill(os.getpid(), int(number))
"""


def half(file: Path, host: str = "", number: int = signal.SIGKILL) -> subprocess.Popen:
    "A real process that gives itself a signal while it writes; under the name of another machine where one is given."
    path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", HALF, host, file, str(int(number))]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path})


def leave_half(file: Path, host: str = "") -> Path:
    before = set(file.parent.iterdir())
    assert half(file, host).wait() == -signal.SIGKILL
    (left,) = set(file.parent.iterdir()) - before
    return left


def names(folder: Path) -> set[str]:
    return {f.name for f in folder.iterdir()}


@UNIX
def test_a_link_laid_beforehand_is_not_written_through(tmp_path):
    "Under every name that follows from the file's and from the process: its own, and those that come next."
    victim, folder = tmp_path / "victim", tmp_path / "shared"
    victim.write_text("dear")
    folder.mkdir()
    for pid in range(max(os.getpid() - 50, 1), os.getpid() + 50):
        for name in (f".table.{pid}.csv", f".table.csv.{pid}", f".table.{pid}"):
            (folder / name).symlink_to(victim)
    for i in range(5):
        with replacing(folder / "table.csv") as aside:
            aside.write_text(f"mine {i}")
            seen = aside.name
        (folder / seen).symlink_to(victim)  # the names of the last time are known now
    (folder / "table.csv").unlink()
    (folder / "table.csv").symlink_to(victim)
    write_text(folder / "table.csv", "mine")
    assert victim.read_text() == "dear" and not (folder / "table.csv").is_symlink()
    assert (folder / "table.csv").read_text() == "mine"


@UNIX
def test_what_became_a_link_meanwhile_does_not_take_the_files_place(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("dear")
    write_text(tmp_path / "a.csv", "old")
    with pytest.raises(OSError, match="a.csv"), replacing(tmp_path / "a.csv") as aside:
        aside.write_text("new")
        aside.unlink()
        aside.symlink_to(victim)
    assert (tmp_path / "a.csv").read_text() == "old" and names(tmp_path) == {"victim", "a.csv"}


def test_names_of_half_written_files_are_never_the_same(tmp_path):
    drawn = set()
    for _ in range(20):
        with replacing(tmp_path / "a.csv") as aside:
            assert aside.is_file() and aside.stat().st_size == 0 and aside.suffix == ".csv"
            drawn.add(aside.name)
            aside.write_text("x")
    assert len(drawn) == 20 and names(tmp_path) == {"a.csv"}


def figure(file: Path):
    fig, ax = plt.subplots()
    ax.plot([1, 2])
    fig.savefig(file)
    plt.close(fig)


WRITERS = {
    "a.npy": lambda f: np.save(f, np.zeros(3)),
    "a.npz": lambda f: np.savez(f, a=np.zeros(3)),
    "a.csv": lambda f: pd.DataFrame({"a": [1]}).to_csv(f, index=False),
    "b.png": lambda f: Image.new("L", (8, 8)).save(f),
    "c.png": figure,
    "c.svg": figure,
    "c.pdf": figure,
    "no suffix": lambda f: f.write_bytes(b"x"),
    ".hidden": lambda f: f.write_bytes(b"x"),
    "run.2024": lambda f: f.write_bytes(b"x"),
    "a.b-c": lambda f: f.write_bytes(b"x"),
    "n" * 251 + ".csv": lambda f: f.write_bytes(b"x"),
    "é" * 120 + ".csv": lambda f: f.write_bytes(b"x"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_whoever_opens_the_file_by_itself_writes_what_it_would_write_elsewhere(tmp_path, name):
    (tmp_path / "there").mkdir()
    for _ in range(2):  # a new file, and one in the place of another
        with replacing(tmp_path / name) as aside:
            WRITERS[name](aside)
    WRITERS[name](tmp_path / "there" / name)
    assert names(tmp_path) == {"there", name}
    got, wanted = (tmp_path / name).read_bytes(), (tmp_path / "there" / name).read_bytes()
    assert len(got) == len(wanted) and (got == wanted or name in ("a.npz", "c.svg", "c.pdf"))  # these tell the time
    if sys.platform != "win32":
        assert (tmp_path / name).stat().st_mode == (tmp_path / "there" / name).stat().st_mode


@UNIX
def test_a_dead_writers_file_goes_a_living_ones_stays(tmp_path):
    file = tmp_path / "p.csv"
    lives = half(file, number=signal.SIGSTOP)
    try:
        os.waitid(os.P_PID, lives.pid, os.WSTOPPED | os.WNOWAIT)  # half way
        (living,) = tmp_path.iterdir()
        other = leave_half(tmp_path / "q.csv")
        leave_half(file)
        write_text(file, "whole")
        assert names(tmp_path) == {"p.csv", living.name, other.name}, "another file's stays until that is written"
        sweep(tmp_path)
        assert names(tmp_path) == {"p.csv", living.name}
    finally:
        lives.kill()
        lives.wait()
    sweep(tmp_path)
    assert names(tmp_path) == {"p.csv"}


def this_host(folder: Path) -> str:
    with replacing(folder / "x") as aside:
        return re.search("[0-9a-f]{12}(?=-)", aside.name)[0]


@UNIX
@pytest.mark.parametrize("host", ["node-7", "../../etc/x", "näme.with odd\n%s", "a" * 300, "-1-0"])
def test_of_another_machine_only_what_nobody_has_written_to_for_a_week_is_swept(tmp_path, host):
    "A number of a process there means nothing here: that one may be alive."
    file = tmp_path / "p.csv"
    left = leave_half(file, host)
    assert left.parent == tmp_path and re.fullmatch(r"\.p\.[0-9a-f]{12}-\d+-[0-9a-f]{16}\.csv", left.name)
    for age, stays in ((0, True), (6 * 24 * 3600, True), (8 * 24 * 3600, False)):
        os.utime(left, (time.time() - age,) * 2)
        write_text(file, "whole")
        sweep(tmp_path)
        sweep(tmp_path, "p.csv", alone=True)  # a lock of this machine may not reach the other one
        assert left.exists() == stays


@UNIX
def test_nothing_that_looks_like_a_half_written_file_is_swept(tmp_path):
    "A hidden file of somebody's, with a number in its name, is no leftover."
    with subprocess.Popen(["true"]) as gone:
        pass
    left, folder = aside_of(tmp_path / "p.csv", gone.pid), aside_of(tmp_path / "p.csv", gone.pid)
    lives, other = aside_of(tmp_path / "p.csv", 1), aside_of(tmp_path / "q.csv", gone.pid)
    alike = [f".p.{gone.pid}.csv", ".p.20240101.csv", f"{left.name}.gz", left.name[1:], f".p.{gone.pid}"]
    for file in (left, lives, other, *(tmp_path / name for name in alike)):
        file.write_text("half")
    folder.mkdir()
    write_text(tmp_path / "p.csv", "whole")
    assert names(tmp_path) == {"p.csv", *alike, lives.name, other.name, folder.name}
    sweep(tmp_path)
    assert names(tmp_path) == {"p.csv", *alike, lives.name, folder.name}


@UNIX
@pytest.mark.skipif(not hasattr(os, "fork") or os.getuid() != 0, reason="takes the rights of root to give them up")
def test_what_cannot_be_swept_does_not_keep_anybody_from_writing(tmp_path):
    "A folder as /tmp is: everybody writes, nobody takes away what is another's."
    with subprocess.Popen(["true"]) as gone:
        pass
    shared, hidden = tmp_path / "shared", tmp_path / "hidden"
    for folder, mode in ((shared, 0o1777), (hidden, 0o1733)):
        folder.mkdir()
        folder.chmod(mode)
    aside_of(shared / "p.csv", gone.pid).symlink_to("/nowhere")
    for folder in (*tmp_path.parents, tmp_path):
        if str(folder).startswith("/tmp/"):
            folder.chmod(folder.stat().st_mode | 0o011)
    pid = os.fork()
    if pid == 0:
        try:
            os.setgid(65534)
            os.setuid(65534)
            write_bytes(shared / "p.csv", b"whole")
            write_bytes(hidden / "p.csv", b"whole")  # a folder that cannot be listed
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert (shared / "p.csv").read_bytes() == (hidden / "p.csv").read_bytes() == b"whole"
