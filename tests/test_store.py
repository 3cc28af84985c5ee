"""A store holds the same pixels as the files, decodes nothing twice, and is never opened half made."""

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mura_fastai.bars import stderr_bar
from mura_fastai.data import store as module
from mura_fastai.data import store_files
from mura_fastai.data.pixels import pad_square, read_grey
from mura_fastai.data.reading import select_regions
from mura_fastai.data.store import Store, auto_store, build_store
from mura_fastai.errors import InputError
from mura_fastai.files import aside_of

SIZE, N = 32, 24
FILES = {"pixels.npy", "index.csv", "skipped.csv", ".lock"}


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


def files_of(folder):
    return {p.name for p in folder.iterdir()}


def interrupt_after(monkeypatch, count):
    "Ctrl-C in the middle of the file after so many."
    seen = []

    def interrupted(path):
        seen.append(path)
        if len(seen) > count:
            raise KeyboardInterrupt
        return read_grey(path)

    monkeypatch.setattr(module, "read_grey", interrupted)


# ---------------------------------------------------------------- what it holds


def test_it_holds_the_pixels_of_the_files_in_any_order(table, tmp_path):
    store = build_store(table, tmp_path / "store", SIZE)
    assert len(store) == N and store.skipped == []
    assert_whole(store, table.path)
    assert_whole(Store(tmp_path / "store"), table.path[::-1])
    assert store.rows(["elsewhere.png"]).tolist() == [-1]
    assert files_of(tmp_path / "store") == FILES


@pytest.mark.parametrize("size", [32, 33])  # whole words of eight pixels a row, and not
def test_batches_are_gathered_into_the_callers_memory_and_without_warnings(table, tmp_path, size):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store = build_store(table, tmp_path / "store", size)
        rows = torch.tensor([5, 0, 5, N - 1])
        out = torch.full((6, 1, size, size), 7, dtype=torch.uint8)
        got = store.gather(rows, out=out[1:5])
    assert got.data_ptr() == out[1].data_ptr() and (out[[0, 5]] == 7).all()
    right = np.stack([pad_square(read_grey(table.path[int(r)]), size) for r in rows])
    np.testing.assert_array_equal(out[1:5, 0], right)
    assert torch.equal(store.gather(rows.numpy()), out[1:5])


@pytest.mark.parametrize("row", [-1, N])
def test_a_row_that_the_store_lacks_is_an_error_and_never_another_image(table, tmp_path, row):
    store = build_store(table, tmp_path / "store", SIZE)
    with pytest.raises(IndexError):
        store.gather(np.array([0, row]))


def test_odd_file_names_are_found_again(table, tmp_path, decoded):
    names = ["a,b.png", 'a"b.png', "a\rb.png", "a\nb.png", "=a.png", " NA", "na\u00efve.png"]
    odd = [str(tmp_path / name) for name in names]
    for path, other in zip(odd, table.path, strict=False):
        shutil.copy(other, path)
    build_store(pd.DataFrame({"path": odd}), tmp_path / "store", SIZE)
    decoded.clear()
    assert_whole(build_store(pd.DataFrame({"path": odd}), tmp_path / "store", SIZE), odd)
    assert decoded == []


# ---------------------------------------------------------------- what is decoded again


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


def test_fewer_files_or_another_order_decode_nothing_and_lose_nothing(table, tmp_path, decoded):
    build_store(table, tmp_path / "store", SIZE)
    decoded.clear()
    build_store(table.sample(9, random_state=0), tmp_path / "store", SIZE)
    assert_whole(build_store(table[::-1], tmp_path / "store", SIZE), table.path)
    assert decoded == []


def test_a_store_grows_in_place_while_a_reader_goes_on(table, tmp_path):
    reader = build_store(table[:5], tmp_path / "store", SIZE)
    file, rows = tmp_path / "store" / "pixels.npy", reader.rows(list(table.path[:5]))
    before = file.stat()
    for end in (6, 9, 10, N):  # also over the number of digits in the header
        store = build_store(table[:end], tmp_path / "store", SIZE)
        assert_whole(reader, table.path[:5])
        assert store.rows(list(table.path[:5])).tolist() == rows.tolist(), "rows that are in use stay where they are"
    assert_whole(store, table.path)
    assert file.stat().st_ino == before.st_ino and file.stat().st_size == before.st_size + (N - 5) * SIZE**2
    assert len(np.load(file)) == N


def test_a_header_without_room_to_grow_costs_a_copy_and_no_pixels(table, tmp_path, decoded):
    build_store(table[:5], tmp_path / "store", SIZE)
    file = tmp_path / "store" / "pixels.npy"
    head = str({"descr": "|u1", "fortran_order": False, "shape": (5, SIZE, SIZE)})
    short = b"\x93NUMPY\x01\x00" + (len(head) + 1).to_bytes(2, "little") + head.encode() + b"\n"
    file.write_bytes(short + np.load(file).tobytes())
    reader = Store(tmp_path / "store")
    decoded.clear()
    assert_whole(build_store(table, tmp_path / "store", SIZE), table.path)
    assert sorted(decoded) == sorted(table.path[5:])
    assert_whole(reader, table.path[:5])


def test_a_file_that_vanished_is_bad_and_not_served_from_old_pixels(table, tmp_path, images):
    build_store(table, tmp_path / "store", SIZE)
    gone = table.path[7]
    Path(gone).unlink()
    store = build_store(table, tmp_path / "store", SIZE)
    assert store.skipped == [{"path": gone, "reason": "missing"}]
    assert not store.gather(store.rows([gone])).any()
    assert_whole(store, table.path.drop(7))
    shutil.copy(images.path.iloc[-1], gone)
    store = build_store(table, tmp_path / "store", SIZE)
    assert store.skipped == []
    assert_whole(store, table.path)


def test_another_size_is_made_anew(table, tmp_path, decoded):
    build_store(table, tmp_path / "store", SIZE)
    decoded.clear()
    store = build_store(table, tmp_path / "store", 40)
    assert store.size == 40 and len(decoded) == N
    assert_whole(store, table.path)


# ---------------------------------------------------------------- interruptions


def test_an_interrupted_build_is_no_store_and_goes_on_where_it_was(table, tmp_path, monkeypatch, decoded):
    monkeypatch.setattr(module, "BLOCK", 5)
    interrupt_after(monkeypatch, 12)
    with pytest.raises(KeyboardInterrupt):
        build_store(table, tmp_path / "store", SIZE, workers=1)
    with pytest.raises(InputError, match="not a whole store; mura prepare makes or finishes one"):
        Store(tmp_path / "store")
    monkeypatch.setattr(module, "read_grey", lambda p: decoded.append(p) or read_grey(p))
    assert_whole(build_store(table, tmp_path / "store", SIZE), table.path)
    assert sorted(decoded) == sorted(table.path[10:])  # the two tasks that were finished are kept


def test_ctrl_c_ends_soon_and_cancels_what_waits(table, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(module, "BLOCK", N // 2)
    monkeypatch.setattr(module, "read_grey", lambda p: seen.append(p) or time.sleep(0.05) or read_grey(p))

    def ctrl_c(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_store(table, tmp_path / "store", SIZE, workers=1, progress=ctrl_c)
    assert len(seen) < N - 4, "nor is the task finished that was under way"


def test_a_part_can_be_used_although_the_whole_was_interrupted(table, tmp_path, monkeypatch, decoded):
    monkeypatch.setattr(module, "BLOCK", 2)
    interrupt_after(monkeypatch, 4)
    with pytest.raises(KeyboardInterrupt):
        build_store(table, tmp_path / "store", SIZE, workers=1)
    monkeypatch.setattr(module, "read_grey", lambda p: decoded.append(p) or read_grey(p))
    part = table[:10]
    store = build_store(part, tmp_path / "store", SIZE)
    assert_whole(store, part.path)
    assert sorted(decoded) == sorted(table.path[4:10]) and store.skipped == []
    assert (store.rows(list(table.path[10:])) == -1).all(), "what was never decoded is not there"
    decoded.clear()
    assert_whole(build_store(table, tmp_path / "store", SIZE), table.path)
    assert sorted(decoded) == sorted(table.path[10:])


@pytest.mark.parametrize("order", [1, -1])
def test_a_change_that_is_interrupted_leaves_no_mixture(table, tmp_path, monkeypatch, images, order):
    monkeypatch.setattr(module, "BLOCK", 5)
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


BUILD = """
import sys, pandas as pd
from mura_fastai.data import store
real = store.read_grey
def slow(path):
    print(path, flush=True)
    store.threading.Event().wait(0.02)
    return real(path)
store.read_grey, store.SAVE, store.BLOCK = slow, 0, 2
store.build_store(pd.read_csv(sys.argv[1]), sys.argv[2], int(sys.argv[3]), workers=2)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_killed_build_is_no_store_and_is_finished_with_the_right_pixels(table, tmp_path, decoded):
    folder, many = tmp_path / "store", [str(tmp_path / "files" / f"copy{i}.png") for i in range(250)]
    for i, path in enumerate(many):
        shutil.copy(table.path[i % N], path)
    pd.DataFrame({"path": many}).to_csv(tmp_path / "table.csv", index=False)
    command = [sys.executable, "-c", BUILD, str(tmp_path / "table.csv"), str(folder), str(SIZE)]

    def kept():
        index = folder / "index.csv"
        return index.exists() and index.read_text().count(",1,")

    for files in np.random.default_rng().integers(1, 45, 2):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for _ in range(files):
                process.stdout.readline()
            while not kept() and process.stdout.readline():
                pass
            process.kill()
        assert process.returncode == -signal.SIGKILL
        with pytest.raises(InputError, match="not a whole store"):
            Store(folder)
    before = kept()
    assert_whole(build_store(pd.DataFrame({"path": many}), folder, SIZE), many)
    assert len(decoded) == len(many) - before < len(many), "it goes on where it was"
    assert files_of(folder) == FILES


def test_what_killed_builds_left_is_swept_and_nothing_else(table, tmp_path):
    build_store(table[:5], tmp_path / "store", SIZE)
    notes = aside_of(tmp_path / "store" / "notes.npy", 4711)
    left = [aside_of(tmp_path / "store" / name, 1) for name in ("pixels.npy", "index.csv", "skipped.csv")]
    for file in (*left, notes, tmp_path / "store" / ".pixels.1.npy", tmp_path / "store" / "pixels.1.npy"):
        file.write_bytes(b"x")
    build_store(table, tmp_path / "store", SIZE)
    assert files_of(tmp_path / "store") == FILES | {notes.name, ".pixels.1.npy", "pixels.1.npy"}


def test_an_array_that_is_longer_than_its_index_is_a_store_and_goes_on(table, tmp_path, decoded):
    "So it is left by a process that was killed between extending the one and writing the other."
    store = build_store(table[:9], tmp_path / "store", SIZE)
    with pytest.MonkeyPatch.context() as m:
        m.setattr(module, "write_index", lambda *_: (_ for _ in ()).throw(SystemExit(143)))
        with pytest.raises(SystemExit):
            build_store(table, tmp_path / "store", SIZE)
    assert len(np.load(tmp_path / "store" / "pixels.npy")) == N
    store = Store(tmp_path / "store")
    assert len(store) == 9
    assert_whole(store, table.path[:9])
    with pytest.raises(IndexError):
        store.gather(np.array([9]))
    decoded.clear()
    assert_whole(build_store(table, tmp_path / "store", SIZE), table.path)
    assert sorted(decoded) == sorted(table.path[9:])


def test_an_index_that_is_longer_than_its_array_is_no_store(table, tmp_path):
    build_store(table, tmp_path / "store", SIZE)
    file = tmp_path / "store" / "pixels.npy"
    np.save(file, np.load(file)[:-1])
    with pytest.raises(InputError, match="not a whole store"):
        Store(tmp_path / "store")
    assert_whole(build_store(table, tmp_path / "store", SIZE), table.path)


def test_the_index_never_speaks_of_pixels_that_are_not_on_disk(table, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SAVE", 0)
    monkeypatch.setattr(module, "BLOCK", 2)

    def full(self):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(module.PixelFile, "flush", full)
    with pytest.raises(OSError, match="Input/output error"):
        build_store(table, tmp_path / "store", SIZE)
    index = pd.read_csv(tmp_path / "store" / "index.csv")
    assert len(index) == N and (index.status == store_files.TODO).all()


def test_decoding_goes_on_while_the_index_is_written(table, tmp_path, monkeypatch):
    seen, all_decoded, waited = [], threading.Event(), []

    def read(path):
        seen.append(path)
        if len(seen) == N:
            all_decoded.set()
        return read_grey(path)

    def slow(path, index, write=module.write_index):
        if seen:
            waited.append(all_decoded.wait(60))
        write(path, index)

    monkeypatch.setattr(module, "SAVE", 0)
    monkeypatch.setattr(module, "BLOCK", 2)
    monkeypatch.setattr(module, "read_grey", read)
    monkeypatch.setattr(module, "write_index", slow)
    assert_whole(build_store(table, tmp_path / "store", SIZE, workers=1), table.path)
    assert len(waited) > 1 and all(waited)


# ---------------------------------------------------------------- bad files, folders, disks


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
    data = file.read_bytes()
    # Within a line: a whole number of lines is a smaller index, and a right one.
    file.write_bytes(data[: data.index(b",", len(data) // 2) if damage == "index.csv" else len(data) // 2])
    with pytest.raises(InputError, match="not a whole store"):
        Store(tmp_path / "store")
    assert_whole(build_store(table, tmp_path / "store", SIZE), table.path)


def test_a_folder_that_is_no_store_is_refused(tmp_path):
    with pytest.raises(InputError, match="nowhere: not a whole store"):
        Store(tmp_path / "nowhere")


def test_too_little_space_is_told_before_anything_is_decoded_or_changed(table, tmp_path, monkeypatch, decoded):
    build_store(table[:5], tmp_path / "store", SIZE)
    decoded.clear()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=19 * SIZE**2 - 1))
    for folder, size in (("store", SIZE), ("store", 400), ("new", SIZE)):
        with pytest.raises(InputError, match=rf"{folder}: the decoded images need 0.\d\d GB \(0.00 GB are free\)"):
            build_store(table, tmp_path / folder, size)
    assert decoded == [] and files_of(tmp_path / "new") == {".lock"}
    assert_whole(Store(tmp_path / "store"), table.path[:5])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=19 * SIZE**2))
    assert_whole(build_store(table, tmp_path / "store", SIZE), table.path)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="space cannot be set aside here")
@pytest.mark.parametrize("first", [0, 5])
def test_a_disk_that_fills_up_while_space_is_set_aside_loses_nothing(table, tmp_path, monkeypatch, decoded, first):
    if first:
        build_store(table[:first], tmp_path / "store", SIZE)
        size = (tmp_path / "store" / "pixels.npy").stat().st_size
    decoded.clear()

    def full(file, start, length):
        os.truncate(file, length - 1)  # as much as there was
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(
        InputError, match=r"store: the decoded images need 0.00 GB \(No space left on device\); make room"
    ):
        build_store(table, tmp_path / "store", SIZE)
    assert decoded == []
    if first:
        assert (tmp_path / "store" / "pixels.npy").stat().st_size == size
        assert_whole(Store(tmp_path / "store"), table.path[:first])
    else:
        assert files_of(tmp_path / "store") == {".lock"}


def test_a_file_system_that_cannot_set_space_aside_does_too(table, tmp_path, monkeypatch):
    def unknown(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unknown, raising=False)
    build_store(table[:5], tmp_path / "store", SIZE)
    assert_whole(build_store(table, tmp_path / "store", SIZE), table.path)


def test_a_folder_that_cannot_be_written_is_one_line(table, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file: is a file, .*; choose another folder"):
        build_store(table, tmp_path / "file" / "store", SIZE)

    def closed(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(module.filelock.FileLock, "acquire", closed)
    with pytest.raises(InputError, match=r"store: no store can be written there \(Permission denied\)"):
        build_store(table, tmp_path / "store", SIZE)


def test_an_empty_table_is_no_store(table, tmp_path):
    with pytest.raises(InputError, match="no images to decode"):
        build_store(table[:0], tmp_path / "store", SIZE)


# ---------------------------------------------------------------- the cache


def test_the_store_of_the_cache_is_found_again_and_lies_there(table, decoded, monkeypatch, tmp_path):
    monkeypatch.setenv("MURA_CACHE", str(tmp_path / "cache"))
    first = auto_store(table, SIZE)
    decoded.clear()
    again = auto_store(table, SIZE)
    assert again.path == first.path and first.path.is_relative_to(tmp_path / "cache") and decoded == []
    assert auto_store(table, 40).path != first.path
    assert_whole(first, table.path)


def test_an_added_file_is_the_only_one_that_is_decoded(table, decoded, monkeypatch, tmp_path):
    monkeypatch.setenv("MURA_CACHE", str(tmp_path / "cache"))
    auto_store(table[:-1], SIZE)
    decoded.clear()
    assert_whole(auto_store(table, SIZE), table.path)
    assert decoded == [table.path.iloc[-1]]
    assert len(list((tmp_path / "cache" / "stores").iterdir())) == 1


def test_regions_share_one_store(images, decoded, monkeypatch, tmp_path):
    monkeypatch.setenv("MURA_CACHE", str(tmp_path / "cache"))
    wrist, hand = select_regions(images, "XR_WRIST"), select_regions(images, "XR_HAND")
    first = auto_store(wrist, SIZE)
    assert sorted(decoded) == sorted(wrist.path)
    assert_whole(auto_store(hand, SIZE), hand.path)
    assert_whole(auto_store(images, SIZE), images.path)
    assert sorted(decoded) == sorted(images.path), "each file once"
    assert_whole(first, wrist.path)
    assert files_of(tmp_path / "cache" / "stores") == {first.path.name}


# ---------------------------------------------------------------- progress and the command


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_tells_count_rate_and_time_left(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    show = stderr_bar("decoding images")
    for _ in range(2):
        for done in (1, 2, 3):
            time.sleep(0.11)
            show(done, 3)
    lines = sys.stderr.getvalue().split("\n")
    assert len(lines) == 3 and lines[2] == ""
    for line in lines[:2]:
        last = line.split("\r")[-1]
        assert last.startswith("decoding images: 100%") and "3/3" in last and " images/s" in last
        assert "<00:0" in line
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert stderr_bar("decoding images") is None


@pytest.fixture
def prepare(mura, monkeypatch, tmp_path):
    "Call `mura prepare` with a cache of its own: exit code, stdout, stderr."
    monkeypatch.setenv("MURA_CACHE", str(tmp_path / "cache"))
    return partial(mura, "prepare")


def test_prepare_makes_the_store_that_train_takes(prepare, root, images, decoded):
    code, out, err = prepare(root, "--size", SIZE)
    assert (code, err) == (0, "") and f"{len(images)} images of {SIZE} px" in out and "images a second" in out
    assert f"mura train {root} --size {SIZE}" in out and len(decoded) == len(images)
    decoded.clear()
    assert_whole(auto_store(images, SIZE), images.path)
    assert decoded == []


def test_prepare_elsewhere_says_how_to_use_it(prepare, root, images, tmp_path):
    code, out, _ = prepare(root, "--size", SIZE, "-o", tmp_path / "own", "--workers", 1)
    assert code == 0 and f"--size {SIZE} --store {tmp_path / 'own'}" in out
    assert_whole(Store(tmp_path / "own"), images.path)
    assert not (tmp_path / "cache" / "stores").exists()


def test_prepare_is_one_json_document(prepare, root, images, tmp_path):
    code, out, _ = prepare(root, "--size", SIZE, "-o", tmp_path / "own", "--json")
    told = json.loads(out)
    assert code == 0 and told["store"] == str(tmp_path / "own") and told["size"] == SIZE and told["skipped"] == []
    assert told["images"] == told["decoded"] == len(images) and told["bytes"] >= len(images) * SIZE**2
    assert told["images_per_second"] == pytest.approx(len(images) / told["seconds"])
    again = json.loads(prepare(root, "--size", SIZE, "-o", tmp_path / "own", "--json")[1])
    assert (again["decoded"], again["images_per_second"]) == (0, None)


def test_prepare_names_bad_files_and_stops_above_the_share_with_nothing_decoded_twice(prepare, root, tmp_path, decoded):
    shutil.copytree(root, tmp_path / "MURA")
    bad = sorted((tmp_path / "MURA").rglob("*.png"))[:2]
    bad[0].write_bytes(b"")
    bad[1].write_bytes(b"<html>")
    code, out, err = prepare(tmp_path / "MURA", "--size", SIZE, "--max-bad", 0)
    assert (code, out) == (2, "") and err.startswith("mura: 2 of ") and err.count("\n") == 1
    decoded.clear()
    code, out, _ = prepare(tmp_path / "MURA", "--size", SIZE)
    assert code == 0 and decoded == []
    assert f"left out, empty (0 bytes): 1, such as {bad[0]}" in out and "HTML" in out
    told = json.loads(prepare(tmp_path / "MURA", "--size", SIZE, "--json")[1])
    assert [s["path"] for s in told["skipped"]] == [str(b) for b in bad]


def test_prepare_counts_the_bad_files_of_its_own_table_alone(prepare, root, table, tmp_path):
    for path in table.path:
        Path(path).write_bytes(b"")
    assert len(build_store(table, tmp_path / "own", SIZE).skipped) == N
    told = json.loads(prepare(root, "--size", SIZE, "-o", tmp_path / "own", "--json")[1])
    assert told["skipped"] == []


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["absent"], "absent: no such folder"),
        (["ROOT", "-o", "FILE"], "is a file"),
        (["ROOT", "--max-bad", 7], "--max-bad 7.0 is no share"),
        (["ROOT", "--source", "nih"], "unknown source"),
        (["ROOT", "--size", 8], "--size"),
    ],
)
def test_prepare_with_wrong_input_is_code_2(prepare, root, tmp_path, arguments, message):
    (tmp_path / "file").write_text("")
    code, out, err = prepare(*[{"ROOT": root, "FILE": tmp_path / "file"}.get(a, a) for a in arguments])
    assert (code, out) == (2, "") and message in err and "Traceback" not in err
