"""From data to scores: what the commands do, each a function."""

import json
import sys
from pathlib import Path

import pandas as pd

from mura_fastai.data.loaders import mura_dls
from mura_fastai.data.loose import input_images
from mura_fastai.data.pixels import stderr_bar
from mura_fastai.data.sources import find_source, read_images
from mura_fastai.data.studies import SPLITS, finish_images
from mura_fastai.errors import InputError
from mura_fastai.files import replacing, write_text
from mura_fastai.results.interpret import MuraInterpretation, figures
from mura_fastai.results.metrics import cross_entropy, region_baseline, score, scores_to_json, to_studies
from mura_fastai.results.predict import predict_images
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
) -> pd.DataFrame:  # the images table
    "The images table that the commands work on, with what was left out said on stderr."
    bar = stderr_bar("checking images")
    images = read_images(
        data, source, max_bad=max_bad, seed=split_seed, allow_leaks=allow_leaks, progress=bar
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
    images = read_data(data, source, regions, max_bad, split_seed, allow_leaks)
    told = dict(path=str(Path(data).absolute()), source=source, split_seed=split_seed)
    out = train_run(images, out, max_bad=max_bad, data=told, **settings)
    return out, evaluate_run(out, ci=ci)


def evaluate_run(
    run: str | Path,  # a run's folder
    data: str | Path | None = None,  # other data than the run's own
    split: str = "valid",  # rows to score
    ci: str | None = "bootstrap",  # bootstrap, asymptotic, official or None
) -> pd.DataFrame:  # scores, indexed by region
    "`mura evaluate`: study-level scores. Of the run's own valid rows they are kept in its folder."
    preds = predictions_of(run, data, split)
    scores = score(preds, ci=ci)
    scores.attrs["baseline"] = baseline_of(run, preds) if data is None else None
    if data is None and split == "valid":
        told = dict(split=split, **{k: v for k, v in scores.attrs.items() if k != "baseline"})
        told |= dict(scores=scores_to_json(scores), region_only=scores_to_json(scores.attrs["baseline"]))
        write_text(Path(run) / "metrics.json", json.dumps(told, indent=1))
    return scores


def evaluate_file(
    predictions: str | Path,  # a predictions table as CSV
    ci: str | None = "bootstrap",  # bootstrap, asymptotic, official or None
) -> pd.DataFrame:  # scores, indexed by region
    "Score a predictions table that was written before, by `mura predict` or by anybody else."
    return score(read_predictions(predictions), ci=ci)


def predictions_of(
    run: str | Path,  # a run's folder
    data: str | Path | None = None,  # other data than the run's own
    split: str = "valid",  # rows to predict
) -> pd.DataFrame:  # the predictions table
    "Predictions of a run: its own valid ones are made once and read again, so they need no data and no second pass."
    run, settings = Path(run), read_settings(run)
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}; the known ones are {', '.join(SPLITS)}")
    kept = run / "predictions.csv"
    own = data is None and split == "valid"
    if own and kept.exists() and kept.stat().st_mtime >= (run / "weights" / "best.safetensors").stat().st_mtime:
        return read_predictions(kept)
    images = read_table(run / "images.csv") if data is None else read_data(data, max_bad=1.0)
    images = images[images.split == split]
    if images.empty:
        raise InputError(f"{data or run}: no rows of split {split!r}")
    preds = predict_images(load_run(run), images, max_bad=settings.get("max_bad", 0.05))
    if own:
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
) -> tuple[MuraInterpretation, list[Path]]:  # the interpretation, and the figures written
    "`mura interpret`: confusion matrices and top losses, drawn into the run's folder `figures`."
    interp = MuraInterpretation(predictions_of(run, data, split))
    return interp, figures(interp, Path(run) / "figures", k)


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
    pretrained: bool = True,  # ImageNet weights for a timm network
    weights: str | Path | None = None,  # a local file of weights instead of timm's hub
    figure: str | Path | None = None,  # where to draw the curve; nowhere where not given
) -> float:  # the suggested highest learning rate
    "`mura lr-find`: fastai's search for a learning rate, its valley."
    dls = mura_dls(read_data(data, source), size=size, bs=bs)
    learn = mura_learner(dls, arch, pretrained=pretrained, weights=weights)
    with learn.no_bar(), learn.no_logging():
        valley = learn.lr_find(show_plot=False).valley
    if figure is not None:
        import matplotlib.pyplot as plt

        fig = learn.recorder.plot_lr_find(return_fig=True)
        fig.savefig(figure)
        plt.close(fig)
    return float(valley)


def read_predictions(
    file: str | Path,  # a predictions table as CSV
) -> pd.DataFrame:
    "A predictions table from a file. Raises `InputError` where it is none."
    try:
        preds = pd.read_csv(file, dtype={c: "str" for c in ("path", "split", "region", "patient", "study")})
    except (OSError, ValueError) as e:
        raise InputError(f"{file}: not a predictions table ({' '.join(str(e).split())[:120]})") from None
    lost = [c for c in ("study", "region", "patient", "label", "p_abnormal") if c not in preds]
    if lost:
        raise InputError(
            f"{file}: no column {lost[0]!r}; a predictions table has study, region, patient, label, p_abnormal"
        )
    return preds


def write_predictions(preds: pd.DataFrame, file: Path):
    "Write a predictions table as CSV, whole or not at all."
    with replacing(file) as aside:
        preds.to_csv(aside, index=False, errors="surrogateescape")


def studies_of(preds: pd.DataFrame) -> pd.DataFrame:
    "One row a study of a predictions table, the most suspicious first."
    return to_studies(preds).sort_values("p_abnormal", ascending=False, ignore_index=True)
