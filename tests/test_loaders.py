"""Batches are what the table says: the file's own pixels, region and label; augmentation only where it belongs."""

import shutil
import threading
import time
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.transforms import IntToFloatTensor, Normalize, ToTensor
from fastai.distributed import DistributedDL
from fastai.torch_core import set_seed
from fastai.vision.augment import aug_transforms
from PIL import Image

from mura_fastai.data import decoding, resident
from mura_fastai.data.augment import GREY_STATS, TensorXray, xray_tfms
from mura_fastai.data.batches import study_code
from mura_fastai.data.loaders import XrayBlock, mura_dls
from mura_fastai.data.pixels import pad_square, read_grey
from mura_fastai.data.store import build_store
from mura_fastai.data.studies import LABEL_NAMES
from mura_fastai.errors import BadImage, InputError
from mura_fastai.models.cnn import MuraCNN
from mura_fastai.results.interpret import MuraInterpretation
from mura_fastai.training.learner import mura_learner

SIZE, BS = 48, 16


@pytest.fixture(scope="module")
def dls(images):
    return mura_dls(images, SIZE, BS)


@pytest.fixture(scope="module")
def learn(images):
    set_seed(0)
    learn = mura_learner(mura_dls(images, SIZE, BS), MuraCNN(widths=(4, 8), grid=2, hidden=8))
    with learn.no_bar(), learn.no_logging():
        yield learn


@pytest.fixture(autouse=True)
def no_figure_stays():
    yield
    plt.close("all")


def pixels_of(paths, size=SIZE):
    return np.stack([pad_square(read_grey(p), size) for p in paths])


def titles():
    return [ax.get_title().split("\n") for ax in plt.gcf().axes if ax.get_title()]


def painted(tmp_path, images, picture):
    "The images table with every train picture the same."
    file = tmp_path / "painted.png"
    Image.fromarray(picture).save(file)
    return images.assign(path=images.path.where(images.split != "train", str(file)))


# ---------------------------------------------------------------- what a batch is


def test_a_batch_is_image_region_study_label(dls, images):
    image, region, study, label = dls.train.one_batch()
    assert image.shape == (BS, 1, SIZE, SIZE) and image.dtype == torch.float32 and isinstance(image, TensorXray)
    assert region.shape == study.shape == label.shape == (BS,) and dls.n_inp == 3
    rows = dls.train.batch_rows(0)
    assert [dls.vocab[0][i] for i in region] == rows.region.tolist()
    assert study.tolist() == [study_code(s) for s in rows.study]
    assert label.tolist() == rows.label.tolist()
    assert list(dls.vocab[-1]) == list(LABEL_NAMES)


@pytest.mark.parametrize("stored", [False, True])
def test_without_transforms_come_the_bytes_of_the_files(images, stored, tmp_path):
    store = build_store(images, tmp_path / "store", SIZE) if stored else None
    dls = mura_dls(images, SIZE, BS, store=store, batch_tfms=[])
    for dl in dls.loaders:
        seen = 0
        for i, (image, _, _, label) in enumerate(dl):
            rows = dl.batch_rows(i)
            assert image.dtype == torch.uint8
            np.testing.assert_array_equal(image[:, 0], pixels_of(rows.path))
            assert label.tolist() == rows.label.tolist()
            seen += len(image)
        # fastai trains on whole batches only, and validates on all rows
        assert seen == (len(dl.items) // BS * BS if dl is dls.train else len(dl.items))


def test_the_splitter_takes_train_and_tune_and_nothing_that_is_reported(dls, images):
    for dl, split in zip(dls.loaders, ("train", "tune"), strict=True):
        assert dl.items.path.tolist() == images.path[images.split == split].tolist()


def test_tune_comes_in_the_tables_order_and_is_never_augmented(dls):
    expected = (pixels_of(dls.valid.items.path) / 255 - GREY_STATS[0]) / GREY_STATS[1]
    for _ in range(2):
        got = torch.cat([b[0] for b in dls.valid])
        np.testing.assert_allclose(got[:, 0], expected, atol=1e-5)


# ---------------------------------------------------------------- chance


def order_of(images, seed):
    set_seed(seed)
    dl = mura_dls(images, SIZE, BS, batch_tfms=[]).train
    passes = []
    for _ in range(2):
        list(dl)
        passes.append(dl.items.path.iloc[dl.order].tolist())
    return passes


def test_training_order_is_shuffled_anew_each_epoch_and_reproduces_with_the_seed(images):
    first, again, other = order_of(images, 3), order_of(images, 3), order_of(images, 4)
    assert first == again != other
    train = images.path[images.split == "train"].tolist()
    assert first[0] != first[1] and first[0] != train[: len(first[0])]
    for files in first:  # each once, in whole batches
        assert len(set(files)) == len(files) == len(train) // BS * BS and set(files) <= set(train)


def test_augmentation_differs_from_image_to_image_and_reproduces_with_the_seed(images, tmp_path):
    rng = np.random.default_rng(0)
    table = painted(tmp_path, images, rng.integers(0, 255, (SIZE, SIZE), dtype=np.uint8))
    batches = []
    for seed in (0, 0, 1):
        set_seed(seed)
        batches.append(mura_dls(table, SIZE, BS, batch_tfms=xray_tfms(p=1)).train.one_batch()[0])
    a, b, c = batches
    assert torch.equal(a, b) and not torch.equal(a, c)
    apart = torch.cdist(a.flatten(1), a.flatten(1)) + torch.eye(BS) * 99
    assert apart.min() > 1


def test_pictures_are_flipped_left_and_right_but_never_upside_down(images, tmp_path):
    picture = np.zeros((SIZE, SIZE), np.uint8)
    picture[: SIZE // 2, : SIZE // 2] = 255  # white at the top left
    table = painted(tmp_path, images, picture)
    set_seed(0)
    x = mura_dls(table, SIZE, BS, batch_tfms=xray_tfms(max_rotate=5)).train.one_batch()[0][:, 0]
    half = SIZE // 2
    assert (x[:, :half].mean((1, 2)) > x[:, half:].mean((1, 2))).all()
    left = x[:, :, :half].mean((1, 2)) > x[:, :, half:].mean((1, 2))
    assert 0 < left.sum() < BS


def test_what_rotation_brings_in_is_black(images, tmp_path):
    table = painted(tmp_path, images, np.full((SIZE, SIZE), 255, np.uint8))
    set_seed(0)
    x = mura_dls(table, SIZE, BS).train.one_batch()[0][:, 0] * GREY_STATS[1] + GREY_STATS[0]
    corners = torch.stack([x[:, i, j] for i in (0, -1) for j in (0, -1)])
    assert (corners < 0.01).float().mean() > 0.3  # mirrored or repeated borders would be white throughout
    assert (x[:, SIZE // 2, SIZE // 2] > 0.5).all()


# ---------------------------------------------------------------- where pixels lie


@pytest.fixture(scope="module")
def store(images, tmp_path_factory):
    return build_store(images, tmp_path_factory.mktemp("stores") / "store", SIZE)


@pytest.mark.parametrize("held", [None, False, True])
def test_batches_are_the_same_wherever_the_pixels_lie(images, store, held):
    passes = []
    for kwargs in (dict(), dict(store=store, resident=held)):
        set_seed(0)
        dls = mura_dls(images, SIZE, BS, batch_tfms=[], **kwargs)
        passes.append([b for dl in dls.loaders for b in dl])
    assert len(passes[0]) == len(passes[1]) > 4
    for decoded, gathered in zip(*passes, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(decoded, gathered, strict=True))


def test_the_loaders_say_where_their_pixels_lie(images, store):
    assert mura_dls(images, SIZE, BS).where == "files are decoded each epoch"
    assert "from the store's memory map" in mura_dls(images, SIZE, BS, store=store).where
    held = mura_dls(images, SIZE, BS, store=store, resident=True)
    assert "gathered in the main memory" in held.where
    train, tune = (dl.resident for dl in held.loaders)
    assert train is tune and len(train.pixels) == images.split.isin(("train", "tune")).sum()
    with pytest.raises(InputError, match="resident=True needs a store"):
        mura_dls(images, SIZE, BS, resident=True)


def test_pixels_go_to_a_gpu_only_where_they_leave_room_to_train_in(images, store, monkeypatch):
    rows, gpu, made = np.arange(len(store)), torch.device("cuda"), []
    monkeypatch.setattr(resident, "Resident", lambda *args: made.append(args) or "on the GPU")
    n_bytes = len(store) * SIZE**2
    for free, fits in ((2 * n_bytes, True), (n_bytes + 1, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10 * free))
        held, told = resident.place_pixels(store, rows, gpu)
        assert (held == "on the GPU") == fits and ("GPU memory" in told) == fits
        assert resident.place_pixels(store, rows, gpu, resident=False)[0] is None
    assert len(made) == 1
    with pytest.raises(InputError, match="they would fill it; leave resident=True out"):
        resident.place_pixels(store, rows, gpu, resident=True)


def test_rows_that_are_not_held_on_the_device_come_from_the_store(images, store):
    dls = mura_dls(images, SIZE, BS, store=store, resident=True, batch_tfms=[])
    valid = images[images.split == "valid"]
    got = torch.cat([b[0] for b in dls.test_dl(valid)])
    np.testing.assert_array_equal(got[:, 0], pixels_of(valid.path))


def test_batches_are_made_ahead_and_in_order():
    started = []

    def task(i):
        return lambda: started.append(i) or i

    batches = resident.ahead(map(task, range(9)), depth=2)
    assert next(batches) == 0
    while len(started) < 3:  # one in use, two ahead
        time.sleep(0.01)
    assert [next(batches), *batches] == list(range(1, 9)) and sorted(started) == list(range(9))
    with pytest.raises(ZeroDivisionError):
        list(resident.ahead([lambda: 1 / 0]))


class Stream:
    "Stands for a GPU's stream, and writes down who waits for what."

    def __init__(self, told):
        self.told = told

    def __enter__(self):
        self.told.append("copy")

    def __exit__(self, *_):
        pass

    def wait_event(self, event):
        self.told.append(f"wait {event.i}")


def test_each_batch_is_copied_while_the_one_before_is_in_use(monkeypatch):
    told, made = [], iter(range(9))

    class Event:
        def __init__(self):
            self.i = next(made)

        def record(self, stream):
            told.append(f"record {self.i}")

    monkeypatch.setattr(resident, "_copy_stream", lambda device: Stream(told))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(told))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: told.append("keep"))
    batches = resident.copied_ahead((torch.full((2,), i) for i in range(3)), torch.device("cpu"))
    assert next(batches).tolist() == [0, 0]
    assert told == ["copy", "record 0", "copy", "record 1", "wait 0", "keep"]
    assert [b[0].item() for b in batches] == [1, 2]
    assert told[6:] == ["copy", "record 2", "wait 1", "keep", "wait 2", "keep"]


def test_two_batches_are_decoded_ahead_and_who_stops_early_leaves_nothing_running(images, monkeypatch):
    read = []
    monkeypatch.setattr(decoding, "read_grey", lambda p: read.append(p) or read_grey(p))
    dl, threads = mura_dls(images, SIZE, BS, batch_tfms=[]).train, threading.active_count()
    batches = iter(dl)
    next(batches)
    time.sleep(0.5)  # time enough to decode all, were that asked for
    assert BS <= len(read) <= 3 * BS  # the batch in use, and two ahead
    batches.close()
    while threading.active_count() > threads:
        time.sleep(0.01)


# ---------------------------------------------------------------- what fastai's loaders can be asked for


def test_an_exported_learner_holds_no_radiograph(images, store, tmp_path):
    learn = mura_learner(
        mura_dls(images, SIZE, BS, store=store, resident=True), MuraCNN(widths=(4, 8), grid=2, hidden=8)
    )
    learn.path = tmp_path
    learn.export()
    assert (tmp_path / "export.pkl").stat().st_size < store.array.nbytes / 4


def test_the_block_works_in_a_datablock_of_ones_own(images):
    rows = images[images.split == "train"].head(40)
    block = DataBlock((XrayBlock(SIZE), CategoryBlock), getters=[lambda r: r["path"], lambda r: r["region"]])
    dls = block.dataloaders(rows, bs=8)
    image, region = dls.train.one_batch()
    assert image.shape == (8, 1, SIZE, SIZE) and region.shape == (8,) and dls.n_inp == 1
    assert dls.train.batch_rows(0).region.tolist() == [dls.vocab[i] for i in region]
    dls.show_batch(max_n=2)


def test_arguments_that_fastai_users_give_are_taken(images):
    dls = mura_dls(images, SIZE, BS, pin_memory=True, batch_tfms=[])
    assert len(dls.train.one_batch()) == 4
    slow = dls.valid.new(after_item=[ToTensor(), lambda x: x], bs=7)
    assert [len(b[0]) for b in slow][:1] == [7] and slow.batch_rows(1).equals(slow.items.iloc[7:14])


def test_rows_are_drawn_by_their_weight(images):
    abnormal = images.label.astype(int)
    set_seed(0)
    dls = mura_dls(images, SIZE, BS, wgts=0.2 + 0.8 * abnormal, batch_tfms=[])
    seen = torch.cat([b[-1] for _ in range(12) for b in dls.train]).float().mean().item()
    share = abnormal[images.split == "train"].mean()
    assert seen == pytest.approx(share / (share + 0.2 * (1 - share)), abs=0.05)
    assert "_weight" not in dls.train.items and dls.valid.wgts is None
    only = mura_dls(images, SIZE, BS, wgts=(images.region == "XR_WRIST").astype(float), batch_tfms=[]).train
    assert {r for b in only for r in b[1].tolist()} == {only.vocab[0].o2i["XR_WRIST"]}
    assert sorted(only.new(shuffle=False).get_idxs()) == list(range(only.n))  # a loader to predict with sees all


@pytest.mark.parametrize("held", [None, True])
def test_two_processes_share_an_epoch(images, store, held, monkeypatch):
    "fastai's `DistributedDL` around each loader; the one thing replaced is the network between the processes."
    dl = mura_dls(images, SIZE, BS, store=store, resident=held, batch_tfms=[]).valid
    monkeypatch.setattr(DistributedDL, "_broadcast", lambda self, idxs, rank: list(idxs))
    parts = [torch.cat([b[2] for b in DistributedDL(dl, rank, 2)]) for rank in (0, 1)]
    assert len(parts[0]) == len(parts[1])
    assert torch.cat(parts)[: dl.n].tolist() == [study_code(s) for s in dl.items.study]


def test_files_that_cannot_be_read_may_be_left_out_and_named(images, tmp_path):
    bad = tmp_path / "cut.png"
    bad.write_bytes(Path(images.path[0]).read_bytes()[:200])
    rows = images[:40].assign(path=images.path[:40].mask(images.index[:40].isin([3, *range(16, 32)]), str(bad)))
    dl = mura_dls(images, SIZE, BS, batch_tfms=[]).test_dl(rows, skip_bad=True)
    batches = list(dl)
    good = rows.path != str(bad)
    assert [len(b[0]) for b in batches] == [15, 8]  # a batch of bad files alone is none
    np.testing.assert_array_equal(torch.cat([b[0] for b in batches])[:, 0], pixels_of(rows.path[good]))
    assert dl.items.path.iloc[dl.order].tolist() == rows.path[good].tolist()
    assert [b["path"] for b in dl.bad] == [str(bad)] * 17 and dl.bad[0]["reason"] == "truncated"
    assert dl.batch_rows(1).path.tolist() == rows.path[32:].tolist()


def test_fastais_own_augmentation_can_be_used_instead(images):
    tfms = [IntToFloatTensor(), *aug_transforms(max_warp=0), Normalize.from_stats([0.5], [0.25], dim=1, cuda=False)]
    x = mura_dls(images, SIZE, BS, batch_tfms=tfms).train.one_batch()[0]
    assert x.shape == (BS, 1, SIZE, SIZE) and -2.01 <= x.min() < x.max() <= 2.01


# ---------------------------------------------------------------- what is shown


@pytest.mark.parametrize("split", [0, 1])
def test_show_batch_says_region_study_and_label(dls, images, split):
    dls[split].show_batch(max_n=5)
    known = images.set_index("study")
    shown = titles()
    assert len(shown) == 5
    for region, study, label in shown:
        row = known.loc[[f"{region}/{study}"]].iloc[0]
        assert row.region == region and LABEL_NAMES[row.label] == label


def test_show_batch_of_one_image_repeated_and_of_a_batch_from_outside(dls):
    dls.train.show_batch(max_n=4, unique=True)
    assert len({tuple(t) for t in titles()}) == 1
    batch = dls.train.one_batch()
    dls.train.show_batch(batch, max_n=3)
    told = [[dls.vocab[0][r], LABEL_NAMES[y]] for r, y in zip(batch[1][:3], batch[-1][:3], strict=True)]
    assert titles() == told


def test_an_unlabelled_table_can_be_shown(dls, images):
    dls.test_dl(images.assign(label=pd.NA)).show_batch(max_n=2)
    assert [t[0] for t in titles()] == images.region[:2].tolist()


# ---------------------------------------------------------------- what fastai users do with it


def test_predict_takes_a_row_and_a_path(learn, images):
    row = images[images.split == "valid"].iloc[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        by_row, by_path = learn.predict(row), learn.predict(Path(row.path))
    assert by_row[0] in LABEL_NAMES and by_row[0] == LABEL_NAMES[by_row[1]]
    assert by_row[1] == int(by_row[2] > 0.5) and by_row[2] == by_path[2]


def test_test_dl_takes_unlabelled_tables_labelled_ones_and_paths(learn, images):
    rows = images[images.split == "valid"]
    probs = [
        learn.get_preds(dl=learn.dls.test_dl(items))[0]
        for items in (rows, rows.assign(label=pd.NA), rows[["path", "region"]], rows.path.tolist())
    ]
    assert all(p.shape == (len(rows),) and torch.equal(p, probs[0]) for p in probs)
    labels = learn.get_preds(dl=learn.dls.test_dl(rows, with_labels=True))[1]
    assert labels.tolist() == rows.label.tolist()


def test_get_preds_of_the_shuffled_loader_comes_in_the_tables_order(learn):
    assert learn.get_preds(ds_idx=0)[1].tolist() == learn.dls.train.items.label.tolist()


def test_an_unknown_region_is_no_error(learn, images):
    rows = images[images.split == "valid"].assign(region="XR_TOE")
    assert learn.get_preds(dl=learn.dls.test_dl(rows))[0].isfinite().all()


def test_tta_averages_over_augmented_copies(learn):
    set_seed(0)
    probs, labels = learn.tta(n=2)
    assert labels.tolist() == learn.dls.valid.items.label.tolist()
    assert ((probs > 0) & (probs < 1)).all() and not torch.equal(probs, learn.get_preds()[0])


def test_show_results_holds_the_prediction_beside_the_truth(learn):
    learn.show_results(max_n=4)
    assert len(titles()) == 4
    for _, told in titles():
        truth, said = told.split(", predicted ")
        assert {truth, said} <= set(LABEL_NAMES)


def test_an_interpretation_of_the_learner_counts_tunes_errors(learn):
    interp = MuraInterpretation.from_learner(learn)
    probs, labels = learn.get_preds()
    regions = torch.tensor([learn.dls.vocab[0].o2i[r] for r in learn.dls.valid.items.region])
    probs = learn.loss_func.unweigh(probs, regions)
    wrong = int(((probs > 0.5).long() != labels).sum())
    assert sum(n for *_, n in interp.most_confused(level="image")) == wrong > 0


# ---------------------------------------------------------------- what is wrong with the input


def test_a_bad_file_is_left_out_with_a_warning_and_never_met(images, tmp_path):
    bad = tmp_path / "cut.png"
    bad.write_bytes(Path(images.path[0]).read_bytes()[:200])
    row = images.index[images.split == "train"][0]
    table = images.assign(path=images.path.mask(images.index == row, str(bad)))
    with pytest.raises(BadImage):
        read_grey(bad)
    with pytest.warns(UserWarning, match=r"1 unusable image\(s\) left out, such as .*cut\.png: truncated"):
        dls = mura_dls(table, SIZE, BS)
    assert str(bad) not in set(dls.train.items.path)
    assert len(list(dls.train)) == (images.split == "train").sum() // BS
    with pytest.raises(InputError, match="cut.png"):
        mura_dls(table, SIZE, BS, max_bad=0.001)


def test_a_bad_file_in_the_store_is_left_out_too(images, tmp_path):
    bad = tmp_path / "empty.png"
    bad.touch()
    row = images.index[images.split == "tune"][0]
    table = images.assign(path=images.path.mask(images.index == row, str(bad)))
    store = build_store(table, tmp_path / "store", SIZE)
    with pytest.warns(UserWarning, match=r"empty\.png: empty"):
        dls = mura_dls(table, SIZE, BS, store=store)
    assert len(dls.valid.items) == (images.split == "tune").sum() - 1


def test_files_that_vanish_later_are_named(images, tmp_path):
    copy = tmp_path / "one.png"
    shutil.copy(images.path[0], copy)
    row = images.index[images.split == "tune"][0]
    dls = mura_dls(images.assign(path=images.path.mask(images.index == row, str(copy))), SIZE, BS)
    copy.unlink()
    with pytest.raises(BadImage, match=r"one\.png: missing"):
        list(dls.valid)


@pytest.mark.parametrize(
    ("change", "kwargs", "message"),
    [
        (lambda t: t[t.split != "tune"], {}, "no image of split 'tune'.*patient_split"),
        (lambda t: t[t.split != "train"], {}, "no image of split 'train'"),
        (lambda t: t.assign(label=t.label.mask(t.split == "tune")), {}, "no label; train and tune rows need 0 or 1"),
        (lambda t: t, {"bs": 4096}, "less than one batch of 4096; lower the batch size"),
    ],
)
def test_a_table_that_cannot_be_trained_on_is_one_line(images, change, kwargs, message):
    with pytest.raises(InputError, match=message):
        mura_dls(change(images), **dict(size=SIZE, bs=BS) | kwargs)


def test_a_store_of_another_size_or_other_files_is_refused(images, tmp_path):
    store = build_store(images, tmp_path / "store", 32)
    with pytest.raises(InputError, match="a store of 32 px, not of 48"):
        mura_dls(images, SIZE, BS, store=store)
    part = build_store(images[images.split != "tune"], tmp_path / "part", SIZE)
    with pytest.raises(InputError, match=r"part: lacks .*png and \d+ more"):
        mura_dls(images, SIZE, BS, store=part)
