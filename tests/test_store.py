"""A store holds the same pixels as the files, decodes nothing twice, and is never opened half made."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mura_fastai.data import store as module
from mura_fastai.data.pixels import pad_square, read_grey
from mura_fastai.data.store import Store, auto_store, build_store
from mura_fastai.errors import InputError

SIZE, N = 32, 24


@pytest.fixture
def table(images, tmp_path):
    "A table of copied files, which a test may change."
    folder = tmp_path / "files"
    folder.mkdir()
    paths = [shutil.copy(p, folder / f"{i}.png") for i, p in enumerate(images.path[:N])]
    return pd.DataFrame({"path": [str(p) for p in paths]})


@pytest.fixture
def decoded(monkeypatch):
    "The files that were decoded, in any order."
    seen = []
    monkeypatch.setattr(module, "read_grey", lambda p: seen.append(p) or read_grey(p))
    return seen


def assert_whole(store, paths):
    "The store holds the pixels of these files, found by their names."
    rows = store.rows(list(paths))
    assert (rows >= 0).all()
    got = store.gather(rows)
    assert got.shape == (len(paths), 1, store.size, store.size)
    np.testing.assert_array_equal(got[:, 0], np.stack([pad_square(read_grey(p), store.size) for p in paths]))


def overwrite(path, other):
    "Another picture in the place of `path`, of another time."
    shutil.copy(other, path)
    os.utime(path, ns=(1, 1))


def test_it_holds_the_pixels_of_the_files_in_any_order(table, tmp_path):
    store = build_store(table, tmp_path / "store", SIZE)
    assert len(store) == N and store.skipped == []
    assert_whole(store, table.path)
    assert_whole(Store(tmp_path / "store"), table.path[::-1])
    assert store.rows(["elsewhere.png"]).tolist() == [-1]


def test_a_second_build_decodes_nothing(table, tmp_path, decoded):
    build_store(table, tmp_path / "store", SIZE)
    assert sorted(decoded) == sorted(table.path)
    decoded.clear()
    assert_whole(build_store(table, tmp_path / "store", SIZE), table.path)
    assert decoded == []


def test_only_a_changed_and_an_added_file_are_decoded(table, tmp_path, decoded, images):
    build_store(table[:-1], tmp_path / "store", SIZE)
    decoded.clear()
    overwrite(table.path[3], images.path.iloc[-1])
    assert_whole(build_store(table, tmp_path / "store", SIZE), table.path)
    assert sorted(decoded) == sorted([table.path[3], table.path.iloc[-1]])


def test_fewer_files_or_another_order_decode_nothing_and_stay_right(table, tmp_path, decoded):
    build_store(table, tmp_path / "store", SIZE)
    decoded.clear()
    some = table.sample(9, random_state=0)
    store = build_store(some, tmp_path / "store", SIZE)
    assert_whole(store, some.path)
    assert len(store) == 9 and decoded == []


def test_another_size_is_made_anew(table, tmp_path, decoded):
    build_store(table, tmp_path / "store", SIZE)
    decoded.clear()
    store = build_store(table, tmp_path / "store", 40)
    assert store.size == 40 and len(decoded) == N
    assert_whole(store, table.path)


def test_an_interrupted_build_is_no_store_and_goes_on_where_it_was(table, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 5)
    seen = []

    def interrupted(path):
        seen.append(path)
        if len(seen) == 13:
            raise KeyboardInterrupt
        return read_grey(path)

    monkeypatch.setattr(module, "read_grey", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build_store(table, tmp_path / "store", SIZE, workers=1)
    with pytest.raises(InputError, match="not a whole store; mura prepare makes or finishes one"):
        Store(tmp_path / "store")
    again = []
    monkeypatch.setattr(module, "read_grey", lambda p: again.append(p) or read_grey(p))
    assert_whole(build_store(table, tmp_path / "store", SIZE), table.path)
    assert sorted(again) == sorted(table.path[10:])  # the two chunks that were finished are kept


@pytest.mark.parametrize("order", [1, -1])
def test_a_change_that_is_interrupted_leaves_no_mixture(table, tmp_path, monkeypatch, images, order):
    monkeypatch.setattr(module, "CHUNK", 5)
    build_store(table, tmp_path / "store", SIZE)
    for path in table.path[:8]:
        overwrite(path, images.path.iloc[-1])
    monkeypatch.setattr(module, "read_grey", lambda p: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        build_store(table[::order], tmp_path / "store", SIZE, workers=1)
    with pytest.raises(InputError, match="not a whole store"):
        Store(tmp_path / "store")
    monkeypatch.setattr(module, "read_grey", read_grey)
    assert_whole(build_store(table[::order], tmp_path / "store", SIZE), table.path)


def test_bad_files_are_named_and_looked_at_again_when_they_change(table, tmp_path, images):
    Path(table.path[2]).write_bytes(b"")
    Path(table.path[4]).unlink()
    store = build_store(table, tmp_path / "store", SIZE)
    named = pd.read_csv(tmp_path / "store" / "skipped.csv")
    assert named.to_dict("records") == store.skipped
    assert dict(zip(named.path, named.reason, strict=True)) == {
        table.path[2]: "empty (0 bytes)",
        table.path[4]: "missing",
    }
    assert_whole(store, table.path.drop([2, 4]))
    for i in (2, 4):
        overwrite(table.path[i], images.path.iloc[-1])
    store = build_store(table, tmp_path / "store", SIZE)
    assert store.skipped == [] and pd.read_csv(tmp_path / "store" / "skipped.csv").empty
    assert_whole(store, table.path)


def test_a_file_that_is_named_twice_is_kept_once(table, tmp_path):
    store = build_store(pd.concat([table, table]), tmp_path / "store", SIZE)
    assert len(store) == N


def test_a_store_that_another_process_writes_is_left_alone(table, tmp_path):
    build_store(table, tmp_path / "store", SIZE)
    hold = "import sys, filelock\nwith filelock.FileLock(sys.argv[1]): print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", hold, str(tmp_path / "store" / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="another process is writing this store; wait for it to end"):
            build_store(table, tmp_path / "store", SIZE)
        assert_whole(Store(tmp_path / "store"), table.path)  # reading goes on
        other.communicate()
    build_store(table, tmp_path / "store", SIZE)


@pytest.mark.parametrize("damage", ["pixels.npy", "index.csv"])
def test_a_damaged_store_is_refused_and_made_anew(table, tmp_path, damage):
    build_store(table, tmp_path / "store", SIZE)
    file = tmp_path / "store" / damage
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(InputError, match="not a whole store"):
        Store(tmp_path / "store")
    assert_whole(build_store(table, tmp_path / "store", SIZE), table.path)


def test_a_folder_that_is_no_store_is_refused(tmp_path):
    with pytest.raises(InputError, match="nowhere: not a whole store"):
        Store(tmp_path / "nowhere")


def test_the_store_of_the_cache_is_found_again_and_lies_there(table, decoded, monkeypatch, tmp_path):
    monkeypatch.setenv("MURA_CACHE", str(tmp_path / "cache"))
    first = auto_store(table, SIZE)
    decoded.clear()
    again = auto_store(table, SIZE)
    assert again.path == first.path and first.path.is_relative_to(tmp_path / "cache") and decoded == []
    assert auto_store(table[:5], SIZE).path != first.path
