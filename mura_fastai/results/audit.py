"""The shortcut audit of data or of a run: in words, as numbers, as a picture."""

from pathlib import Path

import numpy as np
import pandas as pd

from mura_fastai.bars import stderr_bar
from mura_fastai.confined import refuse_links
from mura_fastai.data.sources import find_source, read_images
from mura_fastai.data.traits import traits as read_traits
from mura_fastai.errors import InputError
from mura_fastai.files import read_yaml, replacing
from mura_fastai.results.pictures import check_picture
from mura_fastai.results.shortcuts import ALL, followed, shortcuts
from mura_fastai.results.tables import read_predictions
from mura_fastai.text import aligned, one_of, plain_rows, short, with_interval
from mura_fastai.training.tables import lost_data, own_images


def format_shortcuts(
    table: pd.DataFrame,  # from `shortcuts` or `followed`
) -> str:
    "The table as plain text, with lines that say what it is and what it means."
    main = "auroc" if "auroc" in table else "rho"
    plain = [c for c in ("rho_normal", "rho_abnormal", "verdict") if c in table]
    head = [
        "traits",
        main.upper() if main == "auroc" else main,
        "within a region",
        *(c.replace("_", " ") for c in plain),
    ]
    rows = [
        [str(group), *(with_interval(row[c], row[f"{c}_lo"], row[f"{c}_hi"]) for c in (main, "within_region"))]
        + [row[c] if c == "verdict" else short(row[c]) for c in plain]
        for group, row in table.iterrows()
    ]
    t = table.attrs
    note = (
        f"{one_of(t['studies'], 'study')} ({t['abnormal']} abnormal) of {one_of(t['patients'], 'patient')}; "
        f"{t['folds']} folds by patient, {t['repeats']} times;\n"
        f"95 % intervals: bootstrap of patients, {t['n_boot']} draws"
    )
    low = main == "auroc" and (table["auroc_hi"] < 0.5).any()
    below = ["Below .5 read .5: in few studies, or such as were dealt evenly, what is held out runs against the rest."]
    return "\n".join([*aligned([head, *rows]), note, *(below if low else []), meaning(table)])


def meaning(
    table: pd.DataFrame,  # from `shortcuts` or `followed`
) -> str:
    "What the table means, in a sentence or two."
    main = "auroc" if "auroc" in table else "rho"
    if table[main].isna().all():
        return "One class, or too few patients: nothing can be said."
    every = table.loc[ALL]
    if main == "rho" and table.attrs["studies"] < 50:
        return f"{one_of(table.attrs['studies'], 'study is', 'studies are')} too few to say more."
    if main == "rho":
        first, shown = table.index[0], with_interval(every["rho"], every["rho_lo"], every["rho_hi"], 2)
        return (
            f"Among studies of the same label, the run follows {first} most (rho {short(table.loc[first, 'rho'], 2)}); "
            f"all traits together\nfollow its order with rho {shown}, whose square is the share that they account for."
        )
    signs = [group for group in table.index if table.loc[group, "verdict"] != "no sign"]
    if not signs:
        return "No sign that any of these traits tells something of the label."
    alone = [f"{group} would reach AUROC {table.loc[group, 'auroc']:.2f}" for group in signs if group != ALL][:1]
    within = f" ({every['within_region']:.2f}\nwithin a region)" if table.attrs["regions"] > 1 else ""
    alone.append(f"all of these traits {every['auroc']:.2f}{within}")
    return f"A model that knew only {', and one that knew '.join(alone)}: read a network's AUROC beside that."


def shortcuts_to_json(
    table: pd.DataFrame,  # from `shortcuts` or `followed`
) -> dict:  # what the table rests on, its meaning, and under "traits" group -> {column: number, text or None}
    "The table ready for `json.dumps`: NaN becomes None."
    return {**table.attrs, "meaning": " ".join(meaning(table).split()), "traits": plain_rows(table, whole=("studies",))}


def audit_shortcuts(
    data: str | Path,  # a dataset's folder, a CSV, or a run's folder
    source: str | None = None,  # of data: mura, fracatlas, folder or csv; found out where not given
    split_seed: int = 0,  # of data without an official split
    out: str | Path | None = None,  # a picture of the tables, PNG or SVG
    **kwargs,  # of `shortcuts` and `followed`: folds, n_boot, seed
) -> dict[str, pd.DataFrame | None]:  # "shortcuts"; "followed", None for data; "images", the table that was audited
    """`mura audit --shortcuts`: what trivial traits tell of the label of all rows, and of a run's probabilities.

    The run's own images are read where its table says they are; its probabilities are those of predictions.csv (valid
    rows). InputError for a run without predictions, and where none of the files can be read."""
    data, preds = Path(data), None
    if out is not None:
        check_picture(out)  # before anything is read
    if (data / "repeats.yaml").exists():
        raise InputError(f"{data}: holds several runs; name one of them, or the data")
    if (data / "settings.yaml").exists():
        refuse_links(data)
        told = read_yaml(data / "settings.yaml").get("data")
        images = own_images(data, told)
        if not (data / "predictions.csv").exists():
            raise InputError(f"{data}: no predictions.csv yet; mura evaluate {data} writes it")
        preds = read_predictions(
            data / "predictions.csv", ("path", "study", "region", "patient", "label", "p_abnormal")
        )
    else:
        bar = stderr_bar("checking images")
        images = read_images(
            data,
            source or find_source(data),
            max_bad=1.0,
            seed=split_seed,
            allow_leaks=True,
            decode=False,
            progress=bar,
        )
    known = read_traits(images, stderr_bar("reading images"))
    if known["width"].isna().all():
        lost = None if preds is None else lost_data(data, told, images.path)
        raise lost or InputError(
            f"{data}: none of {one_of(len(images), 'image')} can be read, such as {images.path.iloc[0]}; is it there?"
        )
    tables = {"shortcuts": shortcuts(images, known, **kwargs), "followed": None, "images": images}
    if preds is not None:
        tables["followed"] = followed(preds, known, **kwargs)
    if out is not None:
        draw_shortcuts(tables["shortcuts"], tables["followed"], out)
    return tables


def draw_shortcuts(
    table: pd.DataFrame,  # from `shortcuts`
    run: pd.DataFrame | None,  # from `followed`, or None
    file: str | Path,  # the picture, PNG or SVG
):
    "A row a trait group: its score and interval, over all regions and within them; beside it what a run follows."
    from matplotlib.figure import Figure

    panels = [(table, "auroc", "AUROC of the label", (0.5, 1))]
    panels += [] if run is None else [(run, "rho", "rank correlation with the run's\nprobability, same label", (0, 1))]
    fig = Figure(figsize=(1.6 + 4 * len(panels), 1 + 0.42 * len(table)), layout="constrained")
    axes = fig.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    fig.suptitle("What trivial traits tell, seen alone")
    place = np.arange(len(table))[::-1]
    for ax, (t, name, words, (chance, best)) in zip(axes, panels, strict=True):
        t = t.loc[table.index]
        ax.axvline(chance, color="#999999", ls=":")
        for column, shift, colour, marker in ((name, 0.12, "#0072B2", "o"), ("within_region", -0.12, "#E69F00", "s")):
            span = [t[column] - t[f"{column}_lo"], t[f"{column}_hi"] - t[column]]
            label = "all regions" if column == name else "within a region"
            ax.errorbar(
                t[column], place + shift, xerr=np.clip(span, 0, None), fmt=marker, color=colour, ms=5, label=label
            )
        low = np.nanmin([chance - 0.05, *t[[f"{name}_lo", "within_region_lo"]].min()])
        ax.set(xlim=(low, best + 0.02), xlabel=words)
        ax.set_yticks(place, table.index)
        ax.spines[["top", "right"]].set_visible(False)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False, fontsize=9)
    with replacing(file) as aside:
        fig.savefig(aside, dpi=110)
