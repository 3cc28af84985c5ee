"""From data to scores: what the commands do, each a function."""

import json
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from fastai.torch_core import set_seed

from mura_fastai.data.loaders import mura_dls
from mura_fastai.data.loose import input_images
from mura_fastai.data.pixels import stderr_bar
from mura_fastai.data.sources import find_source, read_images
from mura_fastai.data.store import auto_store, build_store, store_folder
from mura_fastai.data.studies import SPLITS, finish_images
from mura_fastai.errors import InputError
from mura_fastai.files import replacing, write_text
from mura_fastai.results.interpret import MuraInterpretation, figures
from mura_fastai.results.metrics import cross_entropy, region_baseline, score
from mura_fastai.results.predict import predict_images
from mura_fastai.results.tables import read_predictions, scores_document, write_predictions
from mura_fastai.training.learner import mura_learner
from mura_fastai.training.runs import load_run, read_settings, read_table, train_run


def select_regions(
    images: pd.DataFrame,  # an images table
    regions: list[str] | str | None,  # names, or one text with commas; all where not given
) -> pd.DataFrame:
    "The rows of some regions. Raises `InputError` for a region that is not in the table."
    if not regions:
        return images
    wanted = [r.strip() for r in (regions.split(",") if isinstance(regions, str) else regions)]
    known = sorted(set(images.region))
    unknown = [r for r in wanted if r not in known]
    if unknown:
        raise InputError(f"no region {unknown[0]!r} in the data; there are {', '.join(known)}")
    return finish_images(images[images.region.isin(wanted)], images.attrs.get("skipped"))


def read_data(
    data: str | Path,  # a dataset's folder, or a CSV
    source: str | None = None,  # mura, fracatlas, folder or csv; found out where not given
    regions: list[str] | str | None = None,  # some regions only
    max_bad: float = 0.05,  # share of unusable files that is left out without asking
    split_seed: int = 0,  # another seed, another split (of data without an official one)
    allow_leaks: bool = False,  # go on although a patient is in both train and valid
    size: int | None = None,  # of the cache's store, which is about to be used: MURA's files are decoded into it once
) -> pd.DataFrame:  # the images table
    "The images table that the commands work on, with what was left out said on stderr."

    def by_store(images: pd.DataFrame) -> list[dict]:
        return auto_store(images, size, stderr_bar("decoding images")).skipped

    images = read_images(
        data, source, max_bad=max_bad, seed=split_seed, allow_leaks=allow_leaks,
        progress=stderr_bar("checking images"), check=by_store if size else None,
    )  # fmt: skip
    skipped = images.attrs["skipped"]
    if skipped:
        print(f"left out {len(skipped)} files, such as {_named(skipped[0])}", file=sys.stderr)
    return select_regions(images, regions)


def _named(bad: dict) -> str:
    return f"{bad['path']} ({bad['reason']})"


def train(
    data: str | Path,  # a dataset's folder, or a CSV
    out: str | Path | None = None,  # the run's folder
    source: str | None = None,  # mura, fracatlas, folder or csv; found out where not given
    regions: list[str] | str | None = None,  # some regions only
    split_seed: int = 0,  # another seed, another split
    allow_leaks: bool = False,  # go on although a patient is in both train and valid
    max_bad: float = 0.05,  # share of unusable files that is left out without asking
    ci: str | None = "bootstrap",  # intervals of the scores
    **settings,  # of `train_run`: arch, size, epochs, bs, lr, seed, pretrained, weights, ...
) -> tuple[Path, pd.DataFrame]:  # the run's folder; scores of its valid rows, indexed by region
    "`mura train`: read the data, train on train, choose on tune, score on valid; all of it kept in a run folder."
    source = source or find_source(data)
    size = settings.get("size", 320) if settings.get("store") in (None, True) else None
    images = read_data(data, source, regions, max_bad, split_seed, allow_leaks, size)
    told = dict(path=str(Path(data).absolute()), source=source, split_seed=split_seed)
    out = train_run(images, out, max_bad=max_bad, data=told, **settings)
    return out, evaluate_run(out, ci=ci)


def evaluate_run(
    run: str | Path,  # a run's folder
    data: str | Path | None = None,  # other data than the run's own
    split: str = "valid",  # rows to score
    ci: str | None = "bootstrap",  # bootstrap, asymptotic, official or None
    source: str | None = None,  # of data: mura, fracatlas, folder or csv
) -> pd.DataFrame:  # scores, indexed by region
    "`mura evaluate`: study-level scores. Of the run's own valid rows they are kept in its folder."
    preds = predictions_of(run, data, split, source)
    scores = score(preds, ci=ci)
    scores.attrs["baseline"] = baseline_of(run, preds)
    if data is None and split == "valid":
        write_text(Path(run) / "metrics.json", json.dumps(scores_document(scores, split=split), indent=1))
    return scores


def predictions_of(
    run: str | Path,  # a run's folder
    data: str | Path | None = None,  # other data than the run's own
    split: str = "valid",  # rows to predict
    source: str | None = None,  # of data: mura, fracatlas, folder or csv
) -> pd.DataFrame:  # the predictions table
    "Predictions of a run: its own valid ones are made once and read again, so they need no data and no second pass."
    run, settings = Path(run), read_settings(run)
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}; the known ones are {', '.join(SPLITS)}")
    kept, own = run / "predictions.csv", read_table(run / "images.csv")
    mine = data is None and split == "valid"
    if mine and kept.exists() and kept.stat().st_mtime >= (run / "weights" / "best.safetensors").stat().st_mtime:
        return read_predictions(kept)
    # Data without an official split is split as the run's was, or rows it trained on would come as valid ones.
    seed = (settings.get("data") or {}).get("split_seed", 0)
    images = own if data is None else read_data(data, source, max_bad=1.0, split_seed=seed)
    images = images[images.split == split]
    if images.empty:
        raise InputError(f"{data or run}: no rows of split {split!r}")
    seen = set(own.path[own.split.isin(("train", "tune"))])
    if split in ("valid", "test") and images.path.isin(seen).any():
        print(
            f"{images.path.isin(seen).sum()} of {len(images)} images were trained on; scores are too good",
            file=sys.stderr,
        )
    # Where the run's images lie decoded already, they are taken as they are.
    decoded = store_folder(own, settings["size"]) if data is None else None
    store = build_store(images, decoded, settings["size"], wait=True) if decoded and decoded.exists() else None
    preds = predict_images(load_run(run), images, max_bad=settings.get("max_bad", 0.05) if mine else 1.0, store=store)
    if mine:
        write_predictions(preds, kept)
    return preds


def baseline_of(
    run: str | Path,  # a run's folder
    preds: pd.DataFrame,  # what it predicted
) -> pd.DataFrame:  # scores, indexed by region
    "What knowing the region alone would score on the same rows; every model must beat it."
    images = read_table(Path(run) / "images.csv")
    return score(region_baseline(images[images.split.isin(("train", "tune"))], preds), ci=None)


def interpret_run(
    run: str | Path,  # a run's folder
    data: str | Path | None = None,  # other data than the run's own
    split: str = "valid",  # rows to interpret
    k: int = 9,  # top losses to show
    out: str | Path | None = None,  # where the figures go; the run's folder `figures` where not given
    source: str | None = None,  # of data: mura, fracatlas, folder or csv
) -> tuple[MuraInterpretation, list[Path]]:  # the interpretation, and the figures written
    "`mura interpret`: confusion matrices and top losses, drawn into the run's folder `figures`."
    interp = MuraInterpretation(predictions_of(run, data, split, source))
    if out is None:
        # Those of other rows lie apart, so that a run's own figures are always of its valid rows.
        name = "-".join(
            [*([Path(data).absolute().stem] if data else []), *([split] if data or split != "valid" else [])]
        )
        out = Path(run) / "figures" / name
    return interp, figures(interp, out, k)


def predict(
    runs: list[str | Path],  # folders of runs; the probabilities of several are averaged
    inputs: list[str | Path],  # image files, folders, dataset roots, headerless CSVs of image paths
    out: str | Path | None = "predictions.csv",  # the predictions table; None writes no file
) -> pd.DataFrame:  # the predictions table, a row an image
    "`mura predict`: the probability of abnormal for files, by one run or by several together."
    if not runs:
        raise InputError("no run given; a run's folder holds settings.yaml (mura train makes one)")
    images = input_images(inputs)
    tables = [predict_images(load_run(run), images) for run in runs]
    preds = tables[0].assign(p_abnormal=sum(t.p_abnormal for t in tables) / len(tables))
    preds["loss"] = cross_entropy(preds.label, preds.p_abnormal)
    if preds.empty:
        raise InputError(f"none of {len(images)} images can be read, such as {_named(preds.attrs['skipped'][0])}")
    if out is not None:
        write_predictions(preds, Path(out))
    return preds


def find_lr(
    data: str | Path,  # a dataset's folder, or a CSV
    arch: str = "mura_cnn",  # "mura_cnn" or any timm name
    size: int = 320,  # side of the padded square in pixels
    bs: int = 64,  # images a batch
    source: str | None = None,  # mura, fracatlas, folder or csv; found out where not given
    regions: list[str] | str | None = None,  # some regions only
    split_seed: int = 0,  # another seed, another split
    allow_leaks: bool = False,  # go on although a patient is in both train and valid
    max_bad: float = 0.05,  # share of unusable files that is left out without asking
    seed: int = 0,  # of weights, order and augmentation
    pretrained: bool = True,  # ImageNet weights for a timm network
    weights: str | Path | None = None,  # a local file of weights instead of timm's hub
    allow_missing: bool = False,  # layers that `weights` lacks start fresh
    num_workers: int | None = None,  # decoding threads
    figure: str | Path | None = None,  # where to draw the curve; nowhere where not given
) -> float:  # the suggested highest learning rate
    "`mura lr-find`: fastai's search for a learning rate, its valley."
    images = read_data(data, source, regions, max_bad, split_seed, allow_leaks, size)
    set_seed(seed, reproducible=True)
    # The same store that `train` takes: what is decoded here is decoded for it too.
    store = auto_store(images, size, stderr_bar("decoding images"))
    dls = mura_dls(images, size=size, bs=bs, store=store, num_workers=num_workers, max_bad=max_bad)
    learn = mura_learner(dls, arch, pretrained=pretrained, weights=weights, allow_missing=allow_missing)
    # fastai keeps the weights aside while it searches, in a folder that it makes under the learner's path.
    with tempfile.TemporaryDirectory() as aside, learn.no_bar(), learn.no_logging():
        learn.path = Path(aside)
        valley = float(learn.lr_find(show_plot=False).valley)
    if figure is not None:
        _draw_lr(learn.recorder, valley, f"{arch}, {size} px, batches of {bs}", figure)
    return valley


def _draw_lr(recorder, valley: float, title: str, file: str | Path):
    "The smoothed loss over the learning rate; its last steps, where it diverges, are left away as fastai does."
    fig, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    ax.plot(recorder.lrs[:-5], recorder.losses[:-5])
    ax.axvline(valley, color="#999999", ls=":", label=f"valley at {valley:.1e}")
    ax.set(xscale="log", xlabel="learning rate", ylabel="training loss, smoothed", title=title)
    ax.legend(frameon=False)
    with replacing(file) as aside:
        fig.savefig(aside, dpi=110)
    plt.close(fig)
