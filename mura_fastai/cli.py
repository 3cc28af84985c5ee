"""The command `mura`: parse, call one function, print. Results go to stdout, progress to stderr."""

import json
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

# Nothing heavy is imported up here: PyTorch and fastai take seconds, `mura --help` a fraction of one.
import mura_fastai
from mura_fastai.errors import InputError
from mura_fastai.exits import exit_codes

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,  # plain text: half the time, and the same in a pipe
    pretty_exceptions_enable=False,
    add_completion=False,
)

# Options that several commands share. What they do is written once, at the functions they are handed to.
Data = Annotated[Path, typer.Argument(help="A dataset's folder, or a CSV with the columns path and label.")]
OtherData = Annotated[Path | None, typer.Argument(help="Other data than the run's own.", show_default=False)]
Run = Annotated[Path, typer.Argument(help="A run's folder, made by mura train.")]
Source = Annotated[str | None, typer.Option(help="mura, fracatlas, folder or csv; found out where not given.")]
Regions = Annotated[str | None, typer.Option(help="Some regions only, such as XR_WRIST,XR_HAND.")]
SplitSeed = Annotated[int, typer.Option(help="Another seed, another split of data that has no official one.")]
MaxBad = Annotated[float, typer.Option(help="Share of unusable files that is left out without an error.")]
AllowLeaks = Annotated[bool, typer.Option("--allow-leaks", help="Go on although a patient is in train and valid.")]
Arch = Annotated[str, typer.Option(help="mura_cnn, or any timm name such as resnet50.a1_in1k.")]
Size = Annotated[int, typer.Option(min=32, help="Side of the padded square that images become, in pixels.")]
Batch = Annotated[int, typer.Option("--bs", min=1, help="Images a batch.")]
Seed = Annotated[int, typer.Option(help="Of weights, order and augmentation; the split stays.")]
NoPretrained = Annotated[bool, typer.Option("--no-pretrained", help="Start a timm network from random weights.")]
Weights = Annotated[Path | None, typer.Option(help="A local file of pretrained weights, instead of timm's hub.")]
AllowMissing = Annotated[bool, typer.Option("--allow-missing", help="Layers that --weights lacks start fresh.")]
Workers = Annotated[int | None, typer.Option(min=0, help="Threads that decode; the number of cores where not given.")]
Split = Annotated[str, typer.Option(help="Which rows: train, tune, valid or test.")]
Ci = Annotated[str, typer.Option(help="95 % intervals: bootstrap (of patients), asymptotic, official or none.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, and nothing else there.")]


def _version(wanted: bool):
    if wanted:
        print(f"mura_fastai {mura_fastai.__version__}")
        raise typer.Exit


@app.callback()
def _mura(
    version: Annotated[bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)] = 0,
):
    """Bone X-ray studies, normal or abnormal: train networks on MURA and score them honestly, study by study.

    New here? `mura demo` does the whole job on invented radiographs in three minutes.
    Every command is a function too: `from mura_fastai.all import *`.

    For research only; nothing here is fit for clinical use.
    """


@contextmanager
def _quiet_import():
    "fastai scripts a function as it is imported, and PyTorch tells the user that this will have to change one day."
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)
        yield


def _experiment():
    "The functions behind the commands that need PyTorch."
    with _quiet_import():
        from mura_fastai.results import experiment
    return experiment


def _ci(name: str) -> str | None:
    return None if name == "none" else name


def _print_json(document):
    # `NaN` is no JSON; paths may hold bytes that are no UTF-8, so everything beyond ASCII is escaped.
    print(json.dumps(document, indent=1, allow_nan=False))


def _print_scores(scores, as_json: bool, **told):
    "The score table, and what knowing the region alone would score; or both as one document."
    from mura_fastai.results.metrics import format_scores
    from mura_fastai.results.tables import scores_document

    if as_json:
        _print_json(scores_document(scores, **told))
        return
    print(format_scores(scores))
    baseline = scores.attrs.get("baseline")
    if baseline is not None:
        row = baseline.loc["overall"]
        print(f"Knowing the region alone: kappa {row.kappa:.3f}, AUROC {row.auroc:.3f} overall")


@app.command()
def demo(
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where runs and pictures go; runs/demo-TIME.")] = None,
    studies: Annotated[int, typer.Option(min=60, help="Invented studies to learn from and to score.")] = 480,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training data, each network.")] = 8,
    size: Size = 96,
    seed: Seed = 0,
):
    """The whole job on invented radiographs, in three minutes.

    Two networks are trained, scored, compared and drawn.

    \b
    mura demo
    """
    with _quiet_import():
        from mura_fastai.share.demo import demo
    demo(out, studies=studies, epochs=epochs, size=size, seed=seed)


@app.command()
def phantom(
    root: Annotated[Path, typer.Argument(help="A new folder; it will look like MURA's own.")],
    studies: Annotated[int, typer.Option(help="Studies in all, a fifth of them valid.")] = 400,
    seed: Annotated[int, typer.Option(help="Same seed and versions, same bytes.")] = 0,
    size: Annotated[int, typer.Option(help="Longest side of the pictures, in pixels.")] = 512,
):
    """Make synthetic radiographs in MURA's layout.

    The truth about each of them is in phantom.csv.

    \b
    mura phantom data/phantom --studies 400
    """
    from mura_fastai.data.phantom import make_phantom
    from mura_fastai.data.pixels import stderr_bar

    images = make_phantom(root, studies, seed, size, progress=stderr_bar("drawing studies"))
    print(f"{root}: {images.study.nunique()} studies, {len(images)} images; next: mura train {root} --size 128")


@app.command()
def summarize(
    data: Data,
    source: Source = None,
    max_bad: MaxBad = 0.05,
    split_seed: SplitSeed = 0,
    allow_leaks: AllowLeaks = False,
    as_json: AsJson = False,
):
    """Count patients, studies, images: per split and region.

    \b
    mura summarize MURA-v1.1
    """
    from mura_fastai.data import studies
    from mura_fastai.data.pixels import stderr_bar
    from mura_fastai.data.sources import read_images

    images = read_images(
        data, source, max_bad=max_bad, seed=split_seed, allow_leaks=allow_leaks, decode=False,
        progress=stderr_bar("checking images"),
    )  # fmt: skip
    table, skipped = studies.summarize(images), images.attrs["skipped"]
    tune = int(images.study[images.split == "tune"].nunique())
    if as_json:
        rows = table.reset_index().astype(object).where(lambda t: t.notna(), None).to_dict("records")
        _print_json({"table": rows, "tune_studies": tune, "skipped": skipped})
        return
    shown = table.assign(abnormal_share=[f"{x:.1%}" if x == x else "n/a" for x in table.abnormal_share])
    print(shown.rename(columns=lambda c: c.replace("_", " ")).reset_index().to_string(index=False))
    print(f"{tune} of train's studies are set aside as tune: epochs and thresholds are chosen on them alone")
    for reason, paths in _by_reason(skipped).items():
        print(f"left out, {reason}: {len(paths)}, such as {paths[0]}")


def _by_reason(skipped: list[dict]) -> dict[str, list[str]]:
    "Paths of what was left out, by the reason up to its first detail, the most frequent first."
    reasons = {}
    for row in skipped:
        name = "same pixels as another" if row["reason"].startswith("same pixels as") else row["reason"]
        reasons.setdefault(name, []).append(row["path"])
    return dict(sorted(reasons.items(), key=lambda kv: -len(kv[1])))


@app.command("lr-find")
def lr_find(
    data: Data,
    source: Source = None,
    arch: Arch = "mura_cnn",
    size: Size = 320,
    bs: Batch = 64,
    regions: Regions = None,
    weights: Weights = None,
    no_pretrained: NoPretrained = False,
    allow_missing: AllowMissing = False,
    seed: Seed = 0,
    split_seed: SplitSeed = 0,
    max_bad: MaxBad = 0.05,
    allow_leaks: AllowLeaks = False,
    workers: Workers = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A PNG file for the curve.")] = None,
    as_json: AsJson = False,
):
    """Search for a learning rate.

    The loss over rising rates, and where its valley lies.

    \b
    mura lr-find MURA-v1.1 --arch resnet50.a1_in1k -o lr.png
    """
    found = _experiment().find_lr(
        data, arch, size, bs, source, regions, split_seed, allow_leaks, max_bad, seed, not no_pretrained, weights,
        allow_missing, workers, figure=out,
    )  # fmt: skip
    if as_json:
        _print_json({"lr": found, "figure": str(out) if out else None})
    else:
        print(f"{found:.2g}\ntry: mura train {data} --arch {arch} --size {size} --lr {found:.2g}")


@app.command()
def train(
    data: Data,
    source: Source = None,
    arch: Arch = "mura_cnn",
    size: Size = 320,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training data, the frozen ones apart.")] = 10,
    bs: Batch = 64,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate; by the kind of network.")] = None,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The run's folder; runs/TIME-ARCH.")] = None,
    regions: Regions = None,
    weights: Weights = None,
    no_pretrained: NoPretrained = False,
    allow_missing: AllowMissing = False,
    freeze_epochs: Annotated[int, typer.Option(min=0, help="Before, for the head of a pretrained network.")] = 1,
    split_seed: SplitSeed = 0,
    max_bad: MaxBad = 0.05,
    allow_leaks: AllowLeaks = False,
    no_store: Annotated[
        bool, typer.Option("--no-store", help="Decode every epoch; keep nothing in the cache.")
    ] = False,
    precision: Annotated[str, typer.Option(help="fp32, bf16, or auto: bf16 where the device computes in it.")] = "auto",
    workers: Workers = None,
    ci: Ci = "bootstrap",
    as_json: AsJson = False,
):
    """Train a network, and score it.

    Train on train, choose the epoch on tune, score on valid; all of it is kept in a run's folder.

    \b
    mura train MURA-v1.1 --arch resnet50.a1_in1k --epochs 30 --out runs/resnet50
    """
    run, scores = _experiment().train(
        data, out, source, regions, split_seed, allow_leaks, max_bad, _ci(ci), arch=arch, size=size, epochs=epochs,
        bs=bs, lr=lr, seed=seed, pretrained=not no_pretrained, weights=weights, allow_missing=allow_missing,
        freeze_epochs=freeze_epochs, store=not no_store, precision=precision, num_workers=workers,
    )  # fmt: skip
    _print_scores(scores, as_json, run=str(run), split="valid")
    if not as_json:
        print(f"The run lies in {run}; next: mura interpret {run}")


@app.command()
def evaluate(
    paths: Annotated[list[Path] | None, typer.Argument(metavar="[RUN] [DATA]", help="A run; other data.")] = None,
    predictions: Annotated[Path | None, typer.Option(help="Score this CSV of predictions instead of a run.")] = None,
    split: Annotated[str | None, typer.Option(help="Which rows: train, tune, valid or test. [valid]")] = None,
    source: Source = None,
    ci: Ci = "bootstrap",
    as_json: AsJson = False,
):
    """Score a run, or any table of predictions.

    Per region and overall, study by study, with intervals.

    \b
    mura evaluate runs/resnet50
    mura evaluate runs/resnet50 other/MURA --split test
    mura evaluate MURA-v1.1 --predictions predictions.csv
    """
    paths = paths or []
    if len(paths) > (1 if predictions else 2) or not (paths or predictions):
        raise InputError("give RUN, RUN DATA, --predictions FILE, or DATA --predictions FILE")
    if predictions:
        from mura_fastai.results.tables import evaluate_file

        scores = evaluate_file(predictions, *paths, split=split, ci=_ci(ci), source=source)
        told = dict(predictions=str(predictions), split=split)
    else:
        split = split or "valid"
        scores = _experiment().evaluate_run(*paths, split=split, ci=_ci(ci), source=source)
        told = dict(run=str(paths[0]), split=split)
    lost = scores.attrs.get("unpredicted")
    if lost:
        print(f"{lost} studies of {paths[0]} have no prediction; scored on the rest", file=sys.stderr)
    _print_scores(scores, as_json, **told)


@app.command()
def interpret(
    run: Run,
    data: OtherData = None,
    split: Split = "valid",
    k: Annotated[int, typer.Option("--top", "-k", min=1, help="How many of the largest losses to show.")] = 9,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where the figures go; RUN/figures.")] = None,
    source: Source = None,
    as_json: AsJson = False,
):
    """What a run gets wrong.

    Confusion matrices and top losses, as figures and in words.

    \b
    mura interpret runs/resnet50
    """
    interp, files = _experiment().interpret_run(run, data, split, k, out, source)
    top = interp.top_losses(k)
    if as_json:
        matrices = {r or "overall": interp.confusion_matrix(region=r).tolist() for r in [*interp.regions, None]}
        rows = json.loads(top.to_json(orient="records", double_precision=15))
        _print_json({"figures": list(map(str, files)), "confusion": matrices, "top_losses": rows})
        return
    interp.print_classification_report()
    print("\nMost frequent errors, of studies:")
    for truth, said, n in interp.most_confused()[:5]:
        print(f"  {n:>4}  {truth}, predicted {said}")
    print("\nTop losses, of images:")
    names = ("normal", "abnormal")
    for row in top.itertuples():
        truth = f"{names[row.label]}, predicted {names[row.predicted]}"
        print(f"  {row.loss:5.2f}  p {row.p_abnormal:.2f}  {truth:<28}  {row.study} view {row.view}")
    print(f"\n{len(files)} figures in {files[0].parent}: {', '.join(f.name for f in files)}")


@app.command()
def predict(
    arguments: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN... INPUT...",
            help="Folders that hold settings.yaml are runs, whose probabilities are averaged. The rest is input: "
            "image files, folders, dataset roots, headerless CSVs of image paths.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The table of predictions.")] = Path("predictions.csv"),
    as_json: AsJson = False,
):
    """The probability of abnormal, of images and studies.

    \b
    mura predict runs/resnet50 some/folder one.png -o predictions.csv
    """
    runs = [a for a in arguments if (a / "settings.yaml").exists()]
    inputs = [a for a in arguments if a not in runs]
    if not inputs:
        raise InputError("no input given; name image files, a folder, a dataset's root or a CSV of image paths")
    preds = _experiment().predict(runs, inputs, out)
    from mura_fastai.results.tables import studies_of

    studies, skipped = studies_of(preds), preds.attrs["skipped"]
    for row in skipped:
        print(f"skipped {row['path']}: {row['reason']}", file=sys.stderr)
    if as_json:
        rows = json.loads(studies.to_json(orient="records", double_precision=15))
        _print_json({"predictions": str(out), "images": len(preds), "studies": rows, "skipped": skipped})
        return
    print(studies[["study", "region", "n_views", "p_abnormal"]].head(10).round(3).to_string(index=False))
    if len(studies) > 10:
        print(f"... and {len(studies) - 10} more studies, less suspicious than these")
    print(f"{len(preds)} images, {len(studies)} studies, {len(skipped)} skipped; all images in {out}")


def main():
    "The console command."
    with exit_codes():
        app()
