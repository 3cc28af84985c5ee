"""The whole job in three minutes, on invented radiographs: two networks trained, scored, compared, drawn."""

import hashlib
import shutil
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import yaml

from mura_fastai.bars import stderr_bar
from mura_fastai.confined import refuse_links
from mura_fastai.data import phantom_anatomy, phantom_draw, phantom_findings, phantom_views
from mura_fastai.data.fingerprints import cache_folder
from mura_fastai.data.phantom import make_phantom
from mura_fastai.data.studies import LABEL_NAMES, mura_images, summarize
from mura_fastai.errors import InputError
from mura_fastai.files import read_yaml, write_text
from mura_fastai.results.experiment import interpret_run, resume, train
from mura_fastai.results.interpret import MuraInterpretation
from mura_fastai.results.measures import auroc
from mura_fastai.results.pictures import COLOURS, VERDICTS, draw_confusion, draw_picture
from mura_fastai.results.scoring import evaluate_run
from mura_fastai.schema import DEMO as RULES
from mura_fastai.schema import check_values
from mura_fastai.share.report import write_report
from mura_fastai.text import aligned, one_of, ruled
from mura_fastai.training.alone import alone, refuse_busy, trained_by
from mura_fastai.training.interrupts import BEGUN, DEMO, saying_how_to_go_on
from mura_fastai.training.runs import read_settings

FORMAT = 1  # of demo.yaml
ARCHS = ("mura_cnn", "resnet10t")  # both from random weights: the demo needs no network


def _phantom_folder(studies: int, seed: int = 0, size: int = 256) -> Path:
    drawing = hashlib.sha256()
    for module in (phantom_anatomy, phantom_draw, phantom_findings, phantom_views):
        drawing.update(Path(module.__file__).read_bytes())
    return cache_folder() / "phantoms" / f"{studies}-{size}px-seed{seed}-{drawing.hexdigest()[:8]}"


def demo_phantom(
    studies: int,  # in all
    seed: int = 0,  # of the phantom
    size: int = 256,  # longest side of the pictures, pixels
) -> tuple[Path, pd.DataFrame]:  # its folder, and its images table
    "A phantom in the user's cache folder, by its settings and the way phantoms are drawn; taken as it is where whole."
    root = _phantom_folder(studies, seed, size)
    if root.exists():
        try:
            images = mura_images(root)
            if not images.attrs["skipped"]:
                return root, images
        except InputError:
            pass  # a table is gone or cut off
        shutil.rmtree(root)
    return root, make_phantom(root, studies, seed, size, progress=stderr_bar("drawing studies"))


def demo(
    folder: str | Path | None = None,  # where runs and pictures go; where not given that of the last such demo in runs
    # that was interrupted, or else runs/demo-TIME
    studies: int = 400,  # invented studies, a fifth of them to score on
    epochs: int = 10,  # passes over the training data
    size: int = 96,  # side of the padded square in pixels
    bs: int = 32,  # images a batch
    seed: int = 0,  # of weights, order and augmentation
    archs: tuple[str, ...] = ARCHS,  # networks to compare, from random weights
) -> Path:  # the folder
    """`mura demo`: make a phantom, train networks on it, print their scores side by side, draw and report all of it.

    One that was interrupted goes on where it is given the same again, or by `resume_demo`. Raises `InputError` for a
    folder that holds a whole demo, or one of other settings."""
    asked = dict(studies=studies, epochs=epochs, size=size, bs=bs, seed=seed, archs=list(archs))
    if folder is None and (folder := _interrupted(asked)):
        print(f"going on with the demo in {folder}, which was interrupted; another one: --out", file=sys.stderr)
    folder = Path(folder or Path("runs") / f"demo-{time.strftime('%Y%m%d-%H%M%S')}")
    _timed(folder, asked)
    return folder


def resume_demo(
    folder: str | Path,  # of a demo
) -> bool:  # False where nothing was left to do
    """Go on with a demo that was interrupted.

    Raises `InputError` where its demo.yaml cannot be read, and as `demo` does."""
    folder = Path(folder)
    if (folder / "report.html").exists():
        return False
    _timed(folder, _asked_of(folder))
    return True


def _asked_of(folder: Path) -> dict:
    "What a demo was asked for."
    refuse_links(folder)
    asked = read_yaml(folder / DEMO)
    check_values(asked, RULES, tuple(RULES), FORMAT, folder / DEMO)
    return {k: asked[k] for k in RULES if k != "format"}


def _interrupted(asked: dict) -> Path | None:
    "The last demo in runs that was asked for the same, is not whole, and that nobody is about."
    for file in sorted(Path("runs").glob(f"demo-*/{DEMO}"), reverse=True):
        folder = file.parent
        runs = {arch: folder / arch for arch in asked["archs"] if (folder / arch / "settings.yaml").exists()}
        try:
            if not (folder / "report.html").exists() and _asked_of(folder) == asked:
                for arch, run in runs.items():
                    _refuse_other(run, _settings_of(asked, arch), _phantom_folder(asked["studies"]))
                if not any(map(trained_by, [folder, *runs.values()])):
                    return folder
        except InputError:  # of another version, or no longer whole
            continue
    return None


def _settings_of(asked: dict, arch: str) -> dict:
    "Those of `train`."
    return {k: asked[k] for k in ("size", "epochs", "bs", "seed")} | {"pretrained": False, "arch": arch}


def _timed(folder: Path, asked: dict):
    started = time.perf_counter()
    with saying_how_to_go_on(folder), alone(folder):
        _make_demo(folder, asked)
    print(f"{time.perf_counter() - started:.0f} s in all", file=sys.stderr)


def _make_demo(folder: Path, asked: dict):
    "What `demo` does."
    studies, archs = asked["studies"], asked["archs"]
    if any((folder / name).exists() for name in BEGUN if name != DEMO):
        raise InputError(f"{folder}: holds a run of yours; choose another folder for the demo (--out)")
    begun = {arch: folder / arch for arch in archs if (folder / arch / "settings.yaml").exists()}
    if begun and (folder / "report.html").exists():  # which comes last
        raise InputError(f"{folder}: holds a demo already; choose another folder (--out) or remove it")
    for run in begun.values():
        refuse_busy(run)
    for arch, run in begun.items():
        _refuse_other(run, _settings_of(asked, arch), _phantom_folder(studies))
    if (folder / DEMO).exists() and begun:
        _refuse_unlike(folder, _asked_of(folder), asked)
    write_text(folder / DEMO, yaml.safe_dump({"format": FORMAT, **asked}, sort_keys=False))
    root, images = demo_phantom(studies)
    counts = summarize(images).xs("all", level="region")
    print(f"Invented radiographs in MURA's layout: {root}")
    for split, row in counts.iterrows():
        held = f"{one_of(int(row.studies), 'study')}, {one_of(int(row.images), 'image')}"
        print(f"  {split}: {held}, {row.abnormal_share:.0%} abnormal")
    scores, interps = {}, {}
    for arch in archs:
        how = f"{one_of(asked['epochs'], 'epoch')} at {asked['size']} px, from random weights"
        print(f"\n{arch}, {how}", file=sys.stderr)
        if arch in begun:
            run, scores[arch] = resume(begun[arch])
            if scores[arch] is None:  # it was whole
                scores[arch] = evaluate_run(run)
        else:
            run, scores[arch] = train(root, folder / arch, "mura", **_settings_of(asked, arch))
        interps[arch], _ = interpret_run(run)
    print(f"\nScores of {len(interps[archs[0]].studies)} valid studies, which nothing was chosen on:\n")
    print(compare_scores(scores))
    picture = folder / "demo.png"
    fig = draw_demo(interps, scores)
    fig.savefig(picture, dpi=110)
    plt.close(fig)
    first = folder / archs[0]
    report = write_report([folder / arch for arch in archs], folder / "report.html")[0]
    print(f"\nLook at {picture}, then open {report} in a browser: scores, plots, the worst errors with heat maps.")
    print(f"Go on with: mura app {first}, mura predict {first} FILES, mura train YOUR-DATA --help")


def _refuse_other(run: Path, settings: dict, data: Path):
    "Raise `InputError` for a run that is not what this demo would train."
    there = read_settings(run)
    _refuse_unlike(run, there | {"data": (there.get("data") or {}).get("path")}, settings | {"data": str(data)})


def _refuse_unlike(run: Path, there: dict, asked: dict):
    if changed := [k for k in asked if there.get(k) != asked[k]]:
        k = changed[0]
        raise InputError(
            f"{run}: was begun with {k} {there.get(k)}, now {k} {asked[k]}; choose another folder (--out), or remove it"
        )


def compare_scores(
    scores: dict[str, pd.DataFrame],  # by architecture, from `train`: with `region_only` in `attrs`
) -> str:  # a text table
    "Kappa and AUROC of every region, side by side; overall with intervals; what the region alone scores last."
    tables = list(scores.values())
    regions, baseline = [r for r in tables[0].index if r != "macro"], tables[0].attrs["region_only"]

    def cell(row: pd.Series, name: str) -> str:
        ends = [row[f"{name}_{end}"] for end in ("lo", "hi")] if row.name == "overall" else [np.nan]
        interval = " [{:.2f}, {:.2f}]".format(*ends) if np.isfinite(ends).all() else ""
        return f"{row[name]:.2f}{interval}" if np.isfinite(row[name]) else "n/a"

    rows = [["", "", *[a for arch in scores for a in (arch, "")], "region only", ""]]
    rows += [["region", "n", *["kappa", "AUROC"] * (len(tables) + 1)]]
    for region in regions:
        cells = [cell(t.loc[region], m) for t in tables for m in ("kappa", "auroc")]
        by_region = [baseline[region][m] for m in ("kappa", "auroc")]
        base = ["n/a" if o is None or np.isnan(o) else f"{o:.2f}" for o in by_region]
        rows.append([region, str(tables[0].loc[region, "n"]), *cells, *base])
    half = all(t.attrs.get("threshold", 0.5) == 0.5 for t in tables)
    note = f"Studies, mean over views, abnormal {'above 0.5' if half else 'as each run decides'}"
    return "\n".join([*ruled(aligned(rows), last=1), f"{note}; 95 % intervals: bootstrap of patients"])


def draw_demo(
    interps: dict[str, MuraInterpretation],  # by architecture
    scores: dict[str, pd.DataFrame],  # by architecture
) -> plt.Figure:
    "One overview: radiographs with what was said of them, the ROC curves of all networks, their confusion matrices."
    fig = plt.figure(figsize=(12, 9.6), layout="constrained")
    above, below = fig.subfigures(2, 1, height_ratios=[1.15, 1])
    first = next(iter(interps))
    _draw_pictures(above, interps[first], first)
    axs = below.subplots(1, 1 + len(interps), width_ratios=[1.25, *[1] * len(interps)])
    axs[0].plot([0, 1], [0, 1], ":", color="#999999", lw=1)
    for (arch, interp), colour in zip(interps.items(), COLOURS, strict=False):
        label, p = (interp.studies[c].to_numpy(float) for c in ("label", "p_abnormal"))
        steps = np.r_[np.inf, np.unique(p)[::-1]]
        curve = [[(p[label == c] >= s).mean() for s in steps] for c in (0, 1)]
        axs[0].plot(*curve, color=colour, lw=2.2, label=f"{arch}: AUROC {auroc(label, p):.2f}")
    axs[0].set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", title="Finding more costs false alarms")
    axs[0].set_xlabel("false alarms, of the normal studies")
    axs[0].set_ylabel("found, of the abnormal studies")
    axs[0].legend(loc="lower right", frameon=False)
    for ax, (arch, interp) in zip(axs[1:], interps.items(), strict=True):
        cm = interp.confusion_matrix()
        draw_confusion(ax, cm, f"{arch}: {cm.sum()} studies\nkappa {scores[arch].loc['overall', 'kappa']:.2f}")
        ax.set_xlabel("predicted")
    axs[1].set_ylabel("true")
    fig.suptitle("Invented radiographs, and what two small networks learned from them in a minute each", fontsize=14)
    return fig


def _draw_pictures(fig, interp: MuraInterpretation, arch: str):
    "The first normal and the first abnormal study of each region, framed by what a network says of them."
    studies = interp.studies.merge(interp.preds.drop_duplicates("study")[["study", "path"]], on="study")
    axs = fig.subplots(2, len(interp.regions), squeeze=False)
    for (label, column), ax in np.ndenumerate(axs):
        found = studies[(studies.region == interp.regions[column]) & (studies.label == label)]
        if found.empty:
            ax.axis("off")
            continue
        row = found.iloc[0]
        word, colour = VERDICTS[label, row.predicted]
        draw_picture(ax, row.path, colour)
        ax.set_title(f"{row.region.removeprefix('XR_').lower()}: {LABEL_NAMES[label]}", fontsize=10)
        ax.set_xlabel(f"p = {row.p_abnormal:.2f}, {word}", fontsize=9, color=colour)
    fig.suptitle(f"One view of a normal and an abnormal study, and what {arch} says of the whole study", fontsize=11)
