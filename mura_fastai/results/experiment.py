"""From data to scores: what the commands do, each a function."""

import os
import sys
from functools import partial
from pathlib import Path

import pandas as pd

from mura_fastai.data.loose import input_images
from mura_fastai.data.phantom import is_phantom
from mura_fastai.data.reading import name_skipped, read_data
from mura_fastai.data.sources import find_source
from mura_fastai.errors import InputError
from mura_fastai.files import refuse_closed
from mura_fastai.results.calibrate import Decision, decide_together
from mura_fastai.results.compare import compare
from mura_fastai.results.competition import competition_folders, write_competition
from mura_fastai.results.figures import figures
from mura_fastai.results.heatmaps import HeatMapper
from mura_fastai.results.interpret import MuraInterpretation
from mura_fastai.results.measures import cross_entropy
from mura_fastai.results.metrics import check_interval
from mura_fastai.results.moments import Moment
from mura_fastai.results.predict import name_region, predict_images
from mura_fastai.results.repeats import decided_studies, evaluate_repeats, refuse_interval, repeats_of
from mura_fastai.results.review import read_review, review_result, write_review
from mura_fastai.results.scoring import evaluate_run, warn_of_seen
from mura_fastai.results.suspects import spare_reader, suspects_of_run, write_suspects
from mura_fastai.results.tables import write_predictions
from mura_fastai.text import one_of
from mura_fastai.training.interrupts import saying_how_to_go_on
from mura_fastai.training.plans import check_repeats, is_repeats, learned_runs, read_repeats
from mura_fastai.training.recipes import RECIPES, recipe_settings
from mura_fastai.training.repeats import is_finished, sub_runs, train_repeats
from mura_fastai.training.resume import refuse_edited, resume_run
from mura_fastai.training.runs import FORM, read_settings, refuse_weights, train_run
from mura_fastai.training.schedules import frozen_epochs
from mura_fastai.training.tables import lost_data
from mura_fastai.training.within import refuse_no_run


def train(
    data: str | Path,  # a dataset's folder, or a CSV
    out: str | Path | None = None,  # the run's folder
    source: str | None = None,  # mura, fracatlas, folder or csv; found out where not given
    regions: list[str] | str | None = None,  # some regions only
    split_seed: int = 0,  # another seed, another split
    allow_leaks: bool = False,  # go on although a patient is in both train and valid
    max_bad: float = 0.05,  # share of unusable files that is left out without asking
    ci: str | None = "bootstrap",  # intervals of the scores
    folds: int | None = None,  # cross-validation: each fold in turn is scored by what was trained on the others
    seeds: int = 1,  # trainings that differ in their seed alone
    recipe: str | None = None,  # fills in what `settings` leave open: a name in `RECIPES`
    **settings,  # of `train_run`: arch, size, epochs, bs, lr, seed, pretrained, weights, ...
) -> tuple[Path, pd.DataFrame]:  # the run's folder; scores of its valid rows, indexed by region
    """`mura train`: read the data, train on train, choose on tune, score on valid; all of it kept in a run folder.

    With folds or seeds the folder holds a run for each of them, and the scores are those of `score_repeats`."""
    check_interval(ci)  # not after hours of training
    if recipe is not None:
        given, settings = settings, recipe_settings(recipe, **settings)
        print(_done_by(recipe, given, settings), file=sys.stderr)
    repeated = folds is not None or seeds != 1
    if repeated:
        check_repeats(folds, seeds)
        refuse_interval(ci)
    elif out is not None and is_repeats(out):
        raise InputError(f"{out}: holds the runs of several folds or seeds; choose another folder (--out)")
    source = source or find_source(data)
    size = settings.get("size", 320) if settings.get("store") in (None, True) else None

    def read() -> pd.DataFrame:
        images = read_data(data, source, regions, max_bad, split_seed, allow_leaks, size)
        if folds is None and not (images.split == "valid").any():
            raise InputError(
                f"{data}: no usable image of split valid, so nothing could be scored; add some, or use --folds"
            )
        return images

    where = str(Path(data).expanduser().absolute())
    told = dict(path=where, source=source, split_seed=split_seed, phantom=is_phantom(data))
    told |= {"allow_leaks": True} if allow_leaks else {}
    told |= {} if regions is None else {"regions": regions if isinstance(regions, str) else list(regions)}
    if repeated:
        evaluate = partial(evaluate_run, ci=ci)
        out = train_repeats(read, out, evaluate, folds, seeds, max_bad=max_bad, data=told, **settings)
        with saying_how_to_go_on(out):
            return out, evaluate_repeats(out, ci)
    out = train_run(read, out, max_bad=max_bad, data=told, **settings)
    with saying_how_to_go_on(out):
        return out, evaluate_run(out, ci=ci)


def _done_by(recipe: str, given: dict, settings: dict) -> str:
    "What a recipe made of the settings that were given, in a line."
    arch, size, epochs = (settings[k] for k in ("arch", "size", "epochs"))
    frozen = frozen_epochs(settings.get("freeze_epochs"), settings)
    told = f"recipe {recipe}: {arch} at {size} px, {f'{frozen} + ' if frozen else ''}{one_of(epochs, 'epoch')}"
    own = {k: v for k, v in RECIPES[recipe].settings().items() if given.get(k) is None}
    filled = [f"{_option(k)}{'' if k == 'augment' else f' {settings[k]}'}" for k in own if k in settings]
    left = [_option(k) for k in own if k not in settings]
    told += f"; it gave {' '.join(filled)}" if filled else ""
    return told + (f"; made for another start, and left out: {' '.join(left)}" if left else "")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def resume(
    run: str | Path,  # a run's folder, or one that holds the runs of several folds or seeds
    ci: str | None = "bootstrap",  # intervals of the scores
    num_workers: int | None = None,  # decoding threads; as it was begun where not given
) -> tuple[Path, pd.DataFrame | None]:  # the folder; the scores, None where all of it was done before
    """`mura resume`: go on with an interrupted training as if nothing had happened, and with all that comes after it.

    Raises `InputError` where settings or data have changed: see `resume_run` and `train_repeats`."""
    check_interval(ci)
    refuse_no_run(run)
    if is_repeats(run):
        told, plan = read_repeats(run)
        data, settings = told.get("data") or {}, told.get("settings") or {}
        if not (data.get("path") and data.get("source")):
            raise InputError(
                f"{run}: repeats.yaml names no data to be read again; call train_repeats with them, it goes on"
            )
        if lost := lost_data(run, data):
            raise lost
        if learned := learned_runs(run, plan):
            refuse_edited(data | {"folds": told["folds"]}, learned[0])
        settings = settings | {"seed": told["seeds"][0], "num_workers": num_workers}
        if isinstance(settings.get("store"), str) and not Path(settings["store"]).exists():
            settings["store"] = True
        return train(
            data["path"], run, data.get("source"), data.get("regions"), data.get("split_seed", 0),
            data.get("allow_leaks", False),
            ci=ci, folds=told["folds"], seeds=len(told["seeds"]), **settings,
        )  # fmt: skip
    before = is_finished(run)
    resume_run(run, num_workers)
    with saying_how_to_go_on(run):
        return Path(run), None if before else evaluate_run(run, ci=ci)


def evaluate(
    run: str | Path,  # a run's folder, or one that holds the runs of several folds or seeds
    *args,  # of `evaluate_run`
    ci: str | None = "bootstrap",  # bootstrap, asymptotic, official or None
    **kwargs,  # of `evaluate_run`: split, source, threshold
) -> pd.DataFrame:  # scores, indexed by region
    "`mura evaluate`: the scores of a run, or those of several trainings of one recipe."
    if not is_repeats(run):
        return evaluate_run(run, *args, ci=ci, **kwargs)
    if args or kwargs.get("split", "valid") != "valid" or kwargs.get("threshold") is not None:
        raise InputError(f"{run}: holds several runs, scored together on what each reports; give one of them for more")
    return evaluate_repeats(run, ci)


def compare_runs(
    runs: list[
        str | Path
    ],  # two or more; seeds of one recipe as one folder of runs, or with commas between their folders
    data: str | Path | None = None,  # other data than the runs' own
    split: str = "valid",  # rows to compare on
    source: str | None = None,  # of data: mura, fracatlas, folder or csv
    metrics: tuple = ("kappa", "auroc"),  # names in `METRICS`
) -> tuple[pd.DataFrame, list[str]]:  # see `compare`; names of the arms
    "`mura compare`: what each run decides, study by study, held against the first."
    arms, names = zip(*(arm_of(run, data, split, source) for run in runs), strict=True)
    if not set.intersection(*(set(t.study) for arm in arms for t in arm)):
        refuse_crossed(runs, [read_repeats(run)[0].get("folds") if is_repeats(run) else None for run in runs])
    names = [f"{name} ({i})" if names.count(name) > 1 else name for i, name in enumerate(names, 1)]
    return compare(*arms, names=names, metrics=metrics), names


def refuse_crossed(
    runs: list[str | Path],  # folders of runs that are to be held against each other
    folds: list[int | None],  # of each; None: not cross-validated
):
    "Raise `InputError` where some of them are cross-validated and others are not: their studies are not the same."
    if None in folds and any(folds):
        crossed, plain = (
            next(r for r, n in zip(runs, folds, strict=True) if bool(n) == kind) for kind in (True, False)
        )
        why = f"{crossed} is cross-validated, {plain} is not, so they were scored on other studies"
        raise InputError(f"{why}; compare what was trained with the same --folds, or without")


def runs_of(
    run: str | Path,  # a run's folder, one that holds the runs of folds or seeds, or folders with commas between them
) -> list[Path]:
    "The folders of the single runs that are meant."
    return (
        sub_runs(run) if is_repeats(run) else [Path(run)] if Path(run).exists() else [*map(Path, str(run).split(","))]
    )


def arm_of(
    run: str | Path,  # as of `runs_of`: one recipe
    data: str | Path | None = None,  # other data than the runs' own
    split: str = "valid",  # rows that are decided
    source: str | None = None,  # of data: mura, fracatlas, folder or csv
) -> tuple[list[pd.DataFrame], str]:  # decided studies, one table a training (a seed, all folds together); a name
    "What is compared of a recipe. Raises `InputError` for runs of several recipes, and for folds on other rows."
    if is_repeats(run) and data is None and split == "valid":
        return repeats_of(run, decided_studies), Path(run).name
    if is_repeats(run) and read_repeats(run)[0]["folds"]:
        raise InputError(f"{run}: its folds are compared on what each reports; leave data and split away, or name runs")
    each = runs_of(run)
    recipes = {_recipe(read_settings(one)) for one in each}
    if len(recipes) > 1:
        raise InputError(f"{run}: not one recipe ({' and '.join(sorted(recipes))}); give them apart")
    tables = []
    for one in each:
        now = Moment(one)
        preds = now.predictions(data, split, source)
        warn_of_seen([one], preds)
        tables.append(now.decision().apply(preds))
    common = os.path.commonprefix([one.name for one in each]).rstrip("-_. ")
    return tables, (common if len(each) > 1 and common else each[0].name)


def _recipe(settings: dict) -> str:
    "What a run trained, in words."
    form = [f"{k} {settings[k]}" for k in FORM if settings.get(k) not in (None, False)]
    return ", ".join([f"{settings['arch']} at {settings['size']} px", *form])


def interpret_run(
    run: str | Path,  # a run's folder
    data: str | Path | None = None,  # other data than the run's own
    split: str = "valid",  # rows to interpret
    k: int = 9,  # top losses to show
    out: str | Path | None = None,  # where the figures go; the run's folder `figures` where not given
    source: str | None = None,  # of data: mura, fracatlas, folder or csv
    heat: str | None = "hirescam",  # heat maps of the top losses: hirescam, gradcam, cam or None
) -> tuple[MuraInterpretation, list[Path]]:  # the interpretation, and the figures written
    "`mura interpret`: confusion matrices, curves and top losses, drawn into the run's folder `figures`."
    interp = MuraInterpretation.from_run(run, data, split, source)
    told = read_settings(run).get("data")
    if data is None and (lost := lost_data(run, told, interp.preds.get("path", ()))):
        print(f"grey squares instead of pictures: {lost}", file=sys.stderr)
    if heat:
        learn = interp.network()
        try:
            HeatMapper(learn, method=heat)
        except InputError as e:  # a network without places: all else can be drawn
            print(f"no heat maps: {e}", file=sys.stderr)
            heat = None
    return interp, figures(interp, out or _beside(run, "figures", data, split), k, heat=heat)


def _beside(run: str | Path, name: str, data: str | Path | None, split: str) -> Path:
    "A folder in the run's. What is of other rows lies apart, so that a run's own is always of its valid rows."
    of = "-".join([*([Path(data).absolute().stem] if data else []), *([split] if data or split != "valid" else [])])
    return Path(run) / name / of


def suspect_labels(
    run: str | Path,  # a run's folder, or one that holds the runs of several folds or seeds
    data: str | Path | None = None,  # other data than the run's own
    split: str = "valid",  # rows to look at; never those of train
    out: str | Path | None = None,  # where the list goes; the run's folder `suspects` where not given
    source: str | None = None,  # of data: mura, fracatlas, folder or csv
    blind: bool = False,  # a worksheet for a blinded reader as well
) -> tuple[pd.DataFrame, list[Path]]:  # from `find_suspects`; the files written
    "`mura interpret --suspects`: the studies whose label is likely wrong, as a list and as pictures."
    suspects, preds = suspects_of_run(run, data, split, source)
    out = Path(out or _beside(run, "suspects", data, split))
    spare_reader(out / "suspects.csv")
    worksheet = write_review(suspects, preds, out) if blind else []
    return suspects, [*write_suspects(suspects, preds, out), *worksheet]


def reviewed_labels(
    run: str | Path,  # as it was given to `suspect_labels`, as all that follows
    data: str | Path | None = None,
    split: str = "valid",
    out: str | Path | None = None,
) -> pd.DataFrame:  # see `review_result`
    "`mura interpret --reviewed`: what came of the worksheet of `suspect_labels`, once a reader has filled it in."
    return review_result(read_review(Path(out or _beside(run, "suspects", data, split))))


def predict(
    runs: list[str | Path],  # folders of runs; the probabilities of several are averaged
    inputs: list[str | Path],  # image files, folders, dataset roots, headerless CSVs of image paths
    out: str | Path | None = "predictions.csv",  # where the predictions go; None writes no file
    format: str | None = None,  # of `out`: table, competition, or by the input: see `competition_folders`
    region: str | None = None,  # of images that carry none; their path does not say XR_... and no table names it
) -> pd.DataFrame:  # the predictions table, a row an image; `attrs["format"]` is what was written
    """`mura predict`: the probability of abnormal for files, by one run or by several together.

    `p_abnormal` is an image's, as the network gives it; `p_study` its study's, pooled and calibrated, and `abnormal`
    the decision, both as the runs decide (see `decide_together`). In the competition's format `out` has a row a study
    of the input, in its order; those without a readable image are left out and named in `attrs["undecided"]`.
    """
    for given in inputs:
        refuse_weights(given)
    if not runs:
        raise InputError("no run given; a run's folder holds settings.yaml (mura train makes one)")
    if out is not None:
        refuse_closed(out)
    runs = [one for run in runs for one in (sub_runs(run) if is_repeats(run) else [run])]
    folders = competition_folders(inputs, format)
    images = name_region(input_images(inputs), runs, region)
    warn_of_seen(runs, images)
    tables, decisions = zip(*(_said_by(Moment(run), images) for run in runs), strict=True)
    preds = tables[0].assign(p_abnormal=sum(t.p_abnormal for t in tables) / len(tables))
    preds["loss"] = cross_entropy(preds.label, preds.p_abnormal)
    if all("attention" in t for t in tables):
        preds["attention"] = sum(t.attention for t in tables) / len(tables)
    else:  # what one run looked at says nothing of the others
        preds = preds.drop(columns="attention", errors="ignore")
    if preds.empty:
        bad = name_skipped(preds.attrs["skipped"][0])
        raise InputError(f"none of {one_of(len(images), 'image')} can be read, such as {bad}")
    studies = decide_together(tables, decisions).set_index("study")
    preds["p_study"], preds["abnormal"] = (preds["study"].map(studies[c]) for c in ("p_abnormal", "abnormal"))
    preds.attrs["format"] = "competition" if folders else "table"
    if folders:
        preds.attrs["undecided"] = [s for s in folders if s not in studies.index]
        studies = studies.loc[[s for s in folders if s in studies.index]].reset_index()
    if out is not None and folders:
        write_competition(studies.assign(folder=studies.study.map(folders)), out)
    elif out is not None:
        write_predictions(preds, Path(out))
    return preds


def _said_by(now: Moment, images: pd.DataFrame) -> tuple[pd.DataFrame, Decision]:
    "What a run predicts, and how it decides."
    return predict_images(now.learn, images), now.decision()
