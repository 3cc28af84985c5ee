"""The bench compares the same job, reckons rightly, and says what it measured on."""

import json
import os
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from mura_fastai.bench import augmentation, growth, loaders, prediction, rivals, steps, suite, training
from mura_fastai.bench.data import BenchData, bench_data
from mura_fastai.bench.measure import Case, Timing, best_of, drain, hardware, machine_name, measure, with_ratios
from mura_fastai.bench.report import goals, text, write_report
from mura_fastai.commands.bench import bench as command
from mura_fastai.data.augment import GREY_STATS
from mura_fastai.data.pixels import pad_square, read_grey
from mura_fastai.data.store import Store
from mura_fastai.errors import InputError
from mura_fastai.models.cnn import mura_cnn
from mura_fastai.training.precision import Autocast

CPU, SIZE, BS = torch.device("cpu"), 64, 8


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    "Nothing is measured here, and threads of small networks wait for each other where the machine is busy."
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(images):
    return BenchData(images.head(24).reset_index(drop=True), SIZE, {})


@pytest.fixture(scope="module")
def store(data, tmp_path_factory):
    return data.build(tmp_path_factory.mktemp("bench") / "store")[0]


@pytest.fixture(scope="module")
def reference(data):
    "The first batch as it should be: BS x 1 x SIZE x SIZE bytes."
    return np.stack([pad_square(read_grey(p), SIZE) for p in data.files(BS)[0]])[:, None]


# ---------------------------------------------------------------- reckoning


def test_medians_and_ratios_are_those_of_the_rounds():
    "Ratios 2, 2 and 5 round by round: their median is 2, while the medians' own ratio is 4."
    seconds = {"slow": iter([99, 0.2, 0.05, 0.25]), "fast": iter([99, 0.1, 0.025, 0.05])}  # the first warms up
    cases = [Case(n, lambda s=s: Timing(1, next(s))) for n, s in seconds.items()]
    job = with_ratios(measure(cases, rounds=3), "slow")
    slow, fast = job["cases"]
    assert slow["rounds"] == [5, 20, 4] and fast["rounds"] == [10, 40, 20]
    assert (fast["median"], fast["min"], fast["max"]) == (statistics.median([10, 40, 20]), 10, 40)
    assert (fast["ratio"]["median"], fast["ratio"]["min"], fast["ratio"]["max"]) == (2, 2, 5)
    assert slow["ratio"] == {"median": 1, "min": 1, "max": 1}


def test_every_round_runs_every_case_and_begins_with_another():
    order = []
    cases = [Case(n, lambda n=n: order.append(n) or Timing(1, 1.0)) for n in "abc"]
    measure(cases, rounds=3)
    assert "".join(order) == "abc" + "bca" + "cab" + "abc"


def test_what_cannot_be_measured_stays_in_the_table():
    job = with_ratios(measure([Case("a", lambda: Timing(2, 1.0)), Case("b", None, "n/a: why")], rounds=1), "a")
    assert job["cases"][1]["median"] is None and job["cases"][1]["ratio"] is None


def test_batches_before_the_clock_are_not_counted(monkeypatch):
    now, made = [0.0], []
    monkeypatch.setattr("mura_fastai.bench.measure.time.perf_counter", lambda: now[0])

    def epoch():
        for i in range(12):
            made.append(i)
            now[0] += 1.0
            yield (torch.zeros(4),)

    timing = drain(epoch, CPU, seconds=5, skip=3, group=2)
    # The clock starts with the third batch; five seconds later a group of two is half made, and is waited for.
    assert made == list(range(9))
    assert (timing.images, timing.seconds, timing.startup) == (4 * 6, 6.0, 1.0)
    made.clear()
    timing = drain(epoch, CPU, seconds=5, skip=0)
    assert (len(made), timing.images, timing.seconds) == (5, 4 * 5, 5.0)


def test_a_short_epoch_is_followed_by_another_and_a_tiny_one_is_refused():
    started = []

    def epoch():
        started.append(1)
        return iter([(torch.zeros(4),)] * 5)

    timing = drain(epoch, CPU, seconds=0.01, skip=2)
    assert len(started) > 1 and 4 * 3 * (len(started) - 1) < timing.images <= 4 * 3 * len(started)
    assert drain(epoch, CPU, seconds=1e-9, skip=0).images % 4 == 0
    with pytest.raises(ValueError, match="5 batches"):
        drain(epoch, CPU, seconds=0.01, skip=5)


def test_a_competitor_is_measured_at_its_best():
    slow_once = iter([1, 1, 2, 1, 3, 2])  # the second option has a hiccup at its first try
    best, tried = best_of([dict(x=0), dict(x=1), dict(x=2)], lambda x: Timing(next(slow_once), 1.0))
    assert best == dict(x=1) and [t["images_per_s"] for t in tried] == [1, 3, 2]


def test_a_cpu_adds_the_times_of_decoding_and_forward_passes_a_gpu_does_not():
    assert prediction.possible_rate(100, 300, CPU) == pytest.approx(75)
    assert prediction.possible_rate(100, 300, torch.device("cuda")) == 100


def test_flatness_is_the_dearest_over_the_cheapest_and_the_largest_less_the_smallest():
    def size(n, rounds, mb):
        return dict(n=n, us_an_image=dict(median=statistics.median(rounds)), rounds=rounds, anonymous_mb=mb)

    flat = growth.flatness([size(10, [10, 20, 30], 500), size(20, [15, 25, 30], 650), size(30, [10, 40, 60], 600)])
    assert flat["cost"] == {"median": 40 / 20, "min": 1.5, "max": 2.0} and flat["memory_mb"] == 150
    assert growth.flatness([]) == dict(cost=None, memory_mb=None)


def test_sizes_that_do_not_fit_are_left_out_and_named():
    fitting, left_out = growth.those_that_fit((40_000, 1000, 4000), 100_000, free=2.7e9, ram=100)
    assert fitting == [1000, 4000] and len(left_out) == 1 and "40,000" in left_out[0] and "disk" in left_out[0]
    fitting, left_out = growth.those_that_fit((1000, 40_000), 100_000, free=1e12, ram=4)
    assert fitting == [1000] and "memory" in left_out[0]


def test_goals_are_met_missed_or_not_measured():
    def job(name, median):
        ratio = None if median is None else dict(median=median, min=median - 1, max=median + 1)
        return dict(cases=[dict(name=n, ratio=ratio) for n in ([name] if isinstance(name, str) else name)])

    both = ("ours, resident", "ours, from disk (warm)")
    sections = dict(
        loaders=dict(uint8=job(both, 20.0), float=job("ours, resident", None)),
        training=dict(net=job("ours, mura_learner", 0.97)),
        growth=dict(sizes=[dict(n=1000), dict(n=40_000)], cost=dict(median=1.2, min=1.1, max=1.3), memory_mb=3.0),
    )
    found = goals(sections)
    assert [g["met"] for g in found] == [False, True, None, True, False, True]
    assert "1,000 to 40,000" in found[4]["what"]


# ---------------------------------------------------------------- the same job


def first_batches(data, store, job):
    "The first batch of everybody, in the files' order where they can be told to keep it."
    files, same = data.files(4 * BS), dict(size=SIZE, bs=BS, job=job, device=CPU)
    plan = loaders.Plan(data, BS, 1, 0.01, 4, CPU)
    starts = {
        "fastai": rivals.fastai_batches(*files, workers=0, shuffle=False, **same),
        "fastai, shuffled": rivals.fastai_batches(*files, workers=0, **same),
        "torch": rivals.torch_batches(*files, workers=0, shuffle=False, **same),
        "torch, normalised later": rivals.torch_batches(*files, workers=0, in_worker=False, shuffle=False, **same),
        "timm": rivals.timm_batches(*files, workers=0, **same),
        "timm, no prefetcher": rivals.timm_batches(*files, workers=0, prefetcher=False, **same),
        "ours, from files": lambda: iter(loaders.our_dls(plan, 32, job, store=None).train),
        "ours, from disk": lambda: iter(loaders.our_dls(plan, 32, job, store=store, resident=False).train),
        "ours, resident": lambda: iter(loaders.our_dls(plan, 32, job, store=store, resident=True).train),
    }
    if job == "uint8":
        starts["array"] = rivals.array_batches(store.array, files[1], bs=BS, workers=0, device=CPU, shuffle=False)
    return {name: next(start()) for name, start in starts.items()}


@pytest.mark.parametrize("job", rivals.JOBS)
def test_everybody_makes_the_same_batches(data, store, reference, job):
    batches = first_batches(data, store, job)
    kinds = {(tuple(b[0].shape), b[0].dtype, len(b[-1])) for b in batches.values()}
    assert kinds == {((BS, 1, SIZE, SIZE), torch.uint8 if job == "uint8" else torch.float32, BS)}
    labels = data.files(BS)[1]
    # fastai keeps no order where it shuffles, and pads to either side there; ours here is the training loader.
    in_order = [n for n in batches if "shuffled" not in n and not n.startswith("ours")]
    for name in in_order:
        x = batches[name][0].as_subclass(torch.Tensor).numpy().astype(float)
        if job == "uint8":
            assert np.abs(x - reference).mean() < 1.5, name
        if job == "float":
            padded = reference == 0 if name.startswith("timm") else np.zeros_like(reference, bool)
            off = np.abs(x * GREY_STATS[1] + GREY_STATS[0] - reference / 255)
            assert off[~padded].mean() < 1.5 / 255, name
        if not (name.startswith("timm") and job == "augmented"):
            assert batches[name][-1].tolist() == labels, name
    if job == "augmented":
        changed = {n: b[0].float().std().item() for n, b in batches.items()}
        assert all(0.2 < s < 3 for s in changed.values()), changed


def test_every_named_loader_counts_the_images_it_made(data, store, tmp_path):
    plan = loaders.Plan(data, BS, 1, 0.01, 16, CPU, search=False)
    cases = [*loaders.rival_cases(plan, store, "uint8"), *loaders.our_cases(plan, store, tmp_path / "cold", "uint8")]
    assert len({c.name for c in cases}) == len(cases) == 9
    for case in cases:
        timing = case.run()
        assert timing.images > 0 and timing.images % BS == 0 and timing.seconds > 0, case.name


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system cannot drop a file's pages")
def test_cold_reads_each_row_once(data, store, tmp_path):
    plan = loaders.Plan(data, BS, 1, 0.01, 4, CPU)
    assert loaders.cold_case(plan, store, tmp_path / "cold").run().images == len(data.images)


def test_both_augmentations_make_normalised_floats_of_the_same_bytes(data):
    batch = augmentation.byte_batch(data, BS, CPU)
    assert batch.shape == (BS, 1, SIZE, SIZE) and batch.dtype == torch.uint8
    made = {name: (make(), make()) for name, make in augmentation.augmentations(batch).items()}
    for name, (first, second) in made.items():
        assert first.shape == batch.shape and first.dtype == torch.float32, name
        assert not first.equal(second), name
        assert -2.1 < first.min() < -1.9 and 0.5 < first.max() < 2.5, name  # black and white, normalised
    assert batch.dtype == torch.uint8 and batch.equal(augmentation.byte_batch(data, BS, CPU))  # as it was


# ---------------------------------------------------------------- training and prediction


@pytest.fixture
def plan(data):
    return steps.Plan(data, BS, rounds=1, seconds=0.01, batches=16, device=CPU, search=False)


def test_the_ceiling_is_our_learner_without_the_learner(plan, store):
    learn = training.our_learner(plan, store, "mura_cnn", 64)
    learn.create_opt()
    step, fixed = training.ceiling_step(plan, store, "mura_cnn")
    assert [p.shape for p in step.net.parameters()] == [p.shape for p in learn.model.parameters()]
    assert repr(step.net) == repr(learn.model) and type(step.loss) is type(learn.loss_func)
    theirs, mine = getattr(learn.opt, "opt", learn.opt), step.opt
    assert type(mine) is type(theirs)
    kept = [{k: v for k, v in g.items() if k != "params"} for g in mine.param_groups]
    assert kept == [{k: v for k, v in g.items() if k != "params"} for g in theirs.param_groups]
    ours, (first, second) = learn.dls.train.one_batch(), (next(fixed), next(fixed))
    assert first[0].shape == ours[0].shape and first[0].dtype == ours[0].dtype and type(first[0]) is torch.Tensor
    assert not first[0].equal(second[0]) and first[1].equal(second[1])  # augmented anew, the same images
    # The same numbers as the Learner's.
    assert learn.precision == step.precision
    assert [cb.dtype for cb in learn.cbs if isinstance(cb, Autocast)] == [d for d in [step.dtype] if d]


def test_all_four_ways_to_train_train_and_count(plan, store):
    bare = training.bare_batches(plan, 32 * BS)
    for case in training.training_cases(plan, store, "mura_cnn", bare):
        timing = case.run()
        assert timing.images >= steps.STEPS * BS and timing.images % BS == 0 and timing.startup > 0, case.name


def test_a_step_by_hand_learns(plan):
    step = training.bare_step(plan, mura_cnn())
    before = [p.detach().clone() for p in step.net.parameters()]
    batches = [(torch.rand(BS, 1, SIZE, SIZE), torch.arange(BS) % 2)] * 20
    assert step.run(iter(batches), plan).images >= steps.STEPS * BS
    assert all(not a.equal(b) for a, b in zip(before, step.net.parameters(), strict=True))


# ---------------------------------------------------------------- growth


def test_a_grown_store_is_a_store(data, store, tmp_path):
    growth.grow_store(store.array, tmp_path / "grown", 61)
    table = growth.grow_table(data.images, 61)
    grown = Store(tmp_path / "grown")
    rows = grown.rows(table.path.tolist())
    assert rows.tolist() == list(range(61)) and grown.size == SIZE and not list(grown.skipped)
    np.testing.assert_array_equal(grown.gather(rows)[:, 0], store.array[np.arange(61) % len(store.array)])
    assert set(table.split) == {"train", "tune"}


@pytest.mark.slow
def test_growth_is_measured_by_processes_of_their_own(data, store, tmp_path):
    found = growth.bench_growth(store.array, data.images, tmp_path / "grown", (40, 80), BS, rounds=1, seconds=0.01)
    assert [r["n"] for r in found["sizes"]] == [40, 80] and not found["left_out"]
    for record in found["sizes"]:
        assert record["images"][0] >= 80 - BS and record["us_an_image"]["median"] > 0
        assert record["anonymous_mb"] is None or 50 < record["anonymous_mb"] < 5000
    assert not (tmp_path / "grown").exists()


# ---------------------------------------------------------------- what is kept


def paths_in(document):
    "Whatever looks like a path of this machine."
    homes = {str(Path.cwd()), str(Path.home()), os.environ["MURA_CACHE"], "/tmp", str(Path(__file__).parents[1])}
    return [h for h in homes if h in document]


def test_the_document_says_what_was_measured_on_what(root, tmp_path):
    document = suite.bench(root, what=("augmentation",), quick=True, out=tmp_path / "result", progress=None)
    kept = (tmp_path / "result.json").read_text()
    assert json.loads(kept) == json.loads(json.dumps(document)) and not paths_in(kept)
    machine = document["hardware"]
    assert machine["cores"] >= 1 and {"torch", "fastai", "timm", "python", "mura_fastai"} <= set(machine["versions"])
    assert document["settings"]["size"] == 96 and document["settings"]["quick"]
    assert document["data"]["kind"] == "mura" and document["data"]["formats"] == {"PNG": document["data"]["images"]}
    told = (tmp_path / "result.txt").read_text()
    assert told == text(document) and "AUGMENTATION" in told and "QUICK" in told and not paths_in(told)
    with Image.open(tmp_path / "result.png") as im:
        assert min(im.size) > 100
    assert not list(Path(os.environ["MURA_CACHE"]).glob("bench-*"))


def test_a_machine_has_a_name_for_files():
    name = machine_name(hardware(CPU))
    assert name == name.lower() and not set(name) & set(" /()_.:")


def test_wrong_words_are_named(root):
    with pytest.raises(InputError, match="unknown section 'speed'"):
        suite.bench(root, what=("speed",), progress=None)


def test_data_are_a_sample_of_readable_labelled_images(root):
    sample = bench_data(root, size=SIZE, images=10)
    assert len(sample.images) == 10 and sample.about["name"] == root.name and sample.about["median_side"] <= 96
    rows = sample.rows(25)
    assert (rows.split == "train").sum() == 25 and rows.path.nunique() == 10
    assert sample.files(25)[0] == rows.path[:25].tolist()


@pytest.mark.slow
def test_the_command_measures_everything_and_keeps_it(root, tmp_path):
    app = typer.Typer()
    app.command()(command)
    words = [root, "--quick", "--size", "64", "--rounds", "1", "--images", "64", "--out", tmp_path / "all"]
    done = CliRunner().invoke(app, [str(w) for w in words])
    assert done.exit_code == 0, done.output
    document = json.loads((tmp_path / "all.json").read_text())
    assert list(document["sections"]) == list(suite.WHAT) and len(document["goals"]) == 6
    for title in ("LOADERS", "AUGMENTATION", "TRAINING mura_cnn", "PREDICTION", "GROWTH", "GOALS"):
        assert title in done.stdout
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".txt", ".png"}
    assert not paths_in((tmp_path / "all.json").read_text())
    # The same document gives the same files again.
    assert write_report(document, tmp_path / "again")[1].read_text() == (tmp_path / "all.txt").read_text()
