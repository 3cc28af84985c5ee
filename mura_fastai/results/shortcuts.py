"""What can be guessed without looking at a bone: the label from trivial traits, and a run's probabilities from them."""

from pathlib import Path

import numpy as np
import pandas as pd

from mura_fastai.data.pixels import stderr_bar
from mura_fastai.data.sources import find_source, read_images
from mura_fastai.data.traits import traits as read_traits
from mura_fastai.errors import InputError
from mura_fastai.files import replacing
from mura_fastai.results.guessing import (
    REPEATS,
    by_region,
    classify,
    deal_folds,
    out_of_fold,
    paired_auroc,
    paired_spearman,
    ranks_in,
    regress,
    spline_basis,
    with_bounds,
)
from mura_fastai.results.pooling import to_studies
from mura_fastai.results.tables import read_predictions
from mura_fastai.text import aligned, short, with_interval

# Name of a group -> columns of the traits table (and region and n_views, which the studies table has)
GROUPS = {
    "region": ("region",),
    "number of views": ("n_views",),
    "size": ("width", "height", "pixels"),
    "orientation": ("aspect", "landscape"),
    "brightness": ("brightness", "contrast"),
    "borders": ("black", "border_black", "border_flat", "border_brightness"),
    "file format": ("suffix", "format", "mode", "bytes_per_pixel"),
    "laterality": ("mass_x", "half_balance", "side_named"),
}
ALL = "all together"


def study_traits(
    studies: pd.DataFrame,  # from `to_studies`
    images: pd.DataFrame,  # their images: `path, study`
    traits: pd.DataFrame,  # from `data.traits.traits`, matched by `path`
) -> pd.DataFrame:  # the studies, and each trait as the mean over the views that have it, text as shares of the views
    "A row a study. InputError where no trait belongs to any of the images."
    by_path = traits.drop_duplicates("path").set_index("path")
    if not by_path.index.isin(images["path"]).any():
        raise InputError("the traits are of other files than the images: call traits(images) for these")
    rows = by_path.reindex(images["path"]).reset_index().assign(study=images["study"].to_numpy())
    wanted = [c for columns in GROUPS.values() for c in columns if c in rows]
    text = [c for c in wanted if not pd.api.types.is_numeric_dtype(rows[c])]
    shares = pd.get_dummies(rows[text].replace("", np.nan), columns=text, prefix_sep="=", dtype=float)
    means = pd.concat([rows[[c for c in wanted if c not in text]], shares], axis=1).groupby(rows["study"]).mean()
    means = means.round(9)  # the last bit of a mean depends on the order of the views, and equal ones must tie
    return studies.merge(means, "left", left_on="study", right_index=True)


def _columns(studies: pd.DataFrame, group: str) -> pd.DataFrame:
    "The columns that a group stands for."
    if group == ALL:
        return pd.concat([_columns(studies, g) for g in GROUPS], axis=1)
    parts = [studies[[c for c in studies if c == name or str(c).startswith(f"{name}=")]] for name in GROUPS[group]]
    if group == "region":
        return pd.get_dummies(studies["region"].astype(str), prefix="region", dtype=float)
    return pd.concat(parts, axis=1).astype(float)


def _found(row: pd.Series, name: str) -> bool:
    """Whether an AUROC lies above .5 by more than one and a half times its lower half-interval.

    Once would call too much: the draws leave the models as they are, and in invented data where traits said nothing
    the lower end lay above .5 in 6 to 8 of 100 tables instead of in 2.5. With one and a half it is 1 to 3."""
    return bool(row[name] - 0.5 > 1.5 * (row[name] - row[f"{name}_lo"]))


def _verdict(row: pd.Series, group: str) -> str:
    "Words for an AUROC and its interval."
    if np.isnan(row["auroc"]):
        return "n/a (one class, or too few patients)"
    if not _found(row, "auroc"):
        return "no sign"
    strength = "slight" if row["auroc"] < 0.6 else "clear" if row["auroc"] < 0.75 else "strong"
    return strength + ("" if group == "region" or _found(row, "within_region") else ", no sign within a region")


def _ready(images: pd.DataFrame, traits: pd.DataFrame | None, n_boot: int, folds: int) -> pd.DataFrame:
    "The labelled studies with their traits, in an order that does not depend on that of the rows."
    if n_boot < 1 or folds < 2:
        raise InputError(f"{n_boot} draws and {folds} folds: give at least 1 draw and 2 folds")
    if "path" not in images:
        raise InputError("the table has no column path: traits are read from the images, give a row an image")
    images = images[images["label"].notna()] if "label" in images else images[:0]
    if images.empty:
        raise InputError("no image has a label: there is nothing to predict")
    traits = read_traits(images, stderr_bar("reading images")) if traits is None else traits
    studies = to_studies(images).sort_values("study", ignore_index=True)
    return study_traits(studies, images, traits)


def shortcuts(
    images: pd.DataFrame,  # an images table; rows without a label are left out
    traits: pd.DataFrame | None = None,  # from `data.traits.traits`; read from the files where not given
    folds: int = 5,  # of the cross-validation; fewer where a class has fewer patients
    n_boot: int = 2000,  # draws of patients
    seed: int = 0,  # of the folds and the draws
) -> pd.DataFrame:  # indexed by trait group, the strongest first, "all together" last
    """What trivial traits alone tell of the label: what a model may be cheating with, and has to beat.

    Columns: studies, auroc, within_region (each with _lo and _hi), verdict. For each group of `GROUPS` a logistic
    regression on splines predicts the label of studies whose patients it has not seen, three times over.

    - auroc compares studies of one held-out fold only, and pools these pairs. Compared across folds, a trait that says
      nothing falls below .5: a model's base rate is lower just where the held-out fold has more abnormal studies.
      The folds are alike in label alone, see `deal_folds`. .5 is then what a useless trait reads on average; clearly
      less is no sign of anything but shares that were made alike on purpose, as a phantom's are from region to region.
    - within_region compares studies of one region only (and one fold), by a model that may see each trait differently
      in each region: what a model could gain that is used in one region. NaN for the region itself. All together
      are taken alike in all regions, or there would be too much to fit; more may be in them than is found here.
    - The intervals are percentiles over draws of patients, the predictions as they are. They hold what the choice of
      patients does to the score, not what it does to the fitted model, and are too narrow for it: with traits that
      said nothing (invented data, 400 and 1,500 studies) about 82 of 100 held .5. The verdict allows for that.

    Traits are associations, not faults: size may well follow from what was examined. A trait that is found here *can*
    be used; `followed` says whether a run does. One class, or one patient in a class: NaN. InputError: no labels."""
    studies = _ready(images.assign(p_abnormal=0.0), traits, n_boot, folds)  # `to_studies` wants some probability
    label, patient = studies["label"].to_numpy(int), studies["patient"].astype(str).to_numpy()
    region, names = pd.factorize(studies["region"].astype(str), sort=True)
    dealt = deal_folds(label, patient, folds, seed) if len(set(label)) > 1 else None
    rows = {}
    for group in [*GROUPS, ALL]:
        found = np.full((2, 3), np.nan)
        if dealt is not None:
            basis = spline_basis(_columns(studies, group))
            scorers = [paired_auroc(label, out_of_fold(classify, basis, label, dealt), dealt)]
            if group != "region":
                wide = basis if group == ALL else by_region(basis, region)
                p = out_of_fold(classify, wide, label, dealt)
                scorers.append(paired_auroc(label, p, dealt * len(names) + region))
            found[: len(scorers)] = with_bounds(scorers, patient, n_boot, seed)
        rows[group] = [len(studies), *found.ravel()]
    bounded = [f"{c}{end}" for c in ("auroc", "within_region") for end in ("", "_lo", "_hi")]
    table = pd.DataFrame.from_dict(rows, "index", columns=["studies", *bounded]).rename_axis("traits")
    table["verdict"] = [_verdict(row, group) for group, row in table.iterrows()]
    table = _strongest_first(table, "auroc")
    table.attrs = _told(studies, dealt, n_boot, seed)
    return table


def _told(studies: pd.DataFrame, dealt: np.ndarray | None, n_boot: int, seed: int) -> dict:
    "What a table rests on."
    return dict(
        studies=len(studies), abnormal=int(studies["label"].sum()), patients=int(studies["patient"].nunique()),
        regions=int(studies["region"].nunique()), folds=0 if dealt is None else int(dealt.max()) + 1, repeats=REPEATS,
        n_boot=n_boot, seed=seed,
    )  # fmt: skip


def _strongest_first(table: pd.DataFrame, by: str) -> pd.DataFrame:
    return pd.concat([table.drop(ALL).sort_values(by, ascending=False, kind="stable"), table.loc[[ALL]]])


def followed(
    preds: pd.DataFrame,  # predictions table, a row an image; rows without a label are left out
    traits: pd.DataFrame | None = None,  # from `data.traits.traits`; read from the files where not given
    folds: int = 5,  # of the cross-validation
    n_boot: int = 2000,  # draws of patients
    seed: int = 0,  # of the folds and the draws
) -> pd.DataFrame:  # indexed by trait group, the strongest first, "all together" last
    """How far a run's probabilities follow trivial traits, among studies of the same label.

    Columns: studies, rho, within_region (each with _lo and _hi), rho_normal, rho_abnormal. A ridge regression learns
    the rank of a study's probability from the splines of `shortcuts` and the label; rho is Spearman's correlation of
    the probability with what is so predicted for patients it has not seen. Only studies of one cell (label, held-out
    fold) are ranked, where the label itself tells nothing, and the cells are pooled. 0: the probability does not
    follow the traits; 1: it is nothing but them. rho squared is about the share of the ranks that they account for.

    Why among the same label: a good model is high where the label is 1, and so agrees with whatever goes with the
    label, without having used it. What is left among the normal ones, or among the abnormal ones, is not explained
    by being right. It is no proof of cheating either: in some regions a finding is easier to see, and a grainy picture
    makes any reader unsure. within_region compares studies of one region (and label and fold) only.
    The intervals are percentiles over draws of patients, ranks and predictions as they are, and too narrow where a run
    follows nothing: in invented data 74 to 83 of 100 held 0. InputError: no labels."""
    studies = _ready(preds, traits, n_boot, folds)
    label, patient = studies["label"].to_numpy(int), studies["patient"].astype(str).to_numpy()
    region, names = pd.factorize(studies["region"].astype(str), sort=True)
    p, cell = studies["p_abnormal"].to_numpy(float), label * len(names) + region
    rank, known = ranks_in(p, np.zeros(len(p))), 10.0 * label[:, None]  # large, so that no penalty holds it back
    dealt = deal_folds(label, patient, folds, seed)
    rows = {}
    for group in [*GROUPS, ALL]:
        found = np.full((4, 3), np.nan)
        if dealt is not None:
            basis = np.hstack([spline_basis(_columns(studies, group)), known])
            guess = out_of_fold(regress, basis, rank, dealt)
            rho = paired_spearman(p, guess, dealt * 2 + label)
            scorers = [rho, *(lambda w, c=c, rho=rho: rho(w * (label == c)) for c in (0, 1))]
            if group != "region":
                wide = basis if group == ALL else by_region(basis, region)
                guess = out_of_fold(regress, wide, rank, dealt)
                scorers.append(paired_spearman(p, guess, dealt * 2 * len(names) + cell))
            found[: len(scorers)] = with_bounds(scorers, patient, n_boot, seed)
            found[1:3][[c not in label for c in (0, 1)]] = np.nan
        rows[group] = [len(studies), *found[0], *found[3], found[1, 0], found[2, 0]]
    bounded = [f"{c}{end}" for c in ("rho", "within_region") for end in ("", "_lo", "_hi")]
    columns = ["studies", *bounded, "rho_normal", "rho_abnormal"]
    table = _strongest_first(pd.DataFrame.from_dict(rows, "index", columns=columns).rename_axis("traits"), "rho")
    table.attrs = _told(studies, dealt, n_boot, seed)
    return table


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
        f"{t['studies']} studies ({t['abnormal']} abnormal) of {t['patients']} patients; "
        f"{t['folds']} folds by patient, {t['repeats']} times;\n"
        f"95 % intervals: bootstrap of patients, {t['n_boot']} draws"
    )
    return "\n".join([*aligned([head, *rows]), note, meaning(table)])


def meaning(
    table: pd.DataFrame,  # from `shortcuts` or `followed`
) -> str:
    "What the table means, in a sentence or two."
    main = "auroc" if "auroc" in table else "rho"
    if table[main].isna().all():
        return "One class, or too few patients: nothing can be said."
    first, every = table.index[0], table.loc[ALL]
    if main == "rho":
        return (
            f"Among studies of the same label, the run follows {first} most (rho {table.loc[first, 'rho']:.2f}); "
            f"all traits together\naccount for about {max(every['rho'], 0) ** 2:.0%} of how it ranks them."
        )
    if not (table["verdict"] != "no sign").any():
        return "None of these traits tells anything of the label."
    told = f"A model that knew only {first} would reach AUROC {table.loc[first, 'auroc']:.2f}, "
    told += f"and one that knew only these traits {every['auroc']:.2f}"
    if table.attrs["regions"] > 1:
        told += f" ({every['within_region']:.2f}\nwithin a region)"
    return told + ": what a network scores beyond that is what it has seen."


def shortcuts_to_json(
    table: pd.DataFrame,  # from `shortcuts` or `followed`
) -> dict:  # what the table rests on, its meaning, and under "traits" group -> {column: number, text or None}
    "The table ready for `json.dumps`: NaN becomes None."
    rows = {
        str(group): {
            k: v if isinstance(v, str) else int(v) if k == "studies" else None if np.isnan(v) else float(v)
            for k, v in row.items()
        }
        for group, row in table.iterrows()
    }
    return {**table.attrs, "meaning": " ".join(meaning(table).split()), "traits": rows}


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
    if (data / "settings.yaml").exists():
        images = read_predictions(data / "images.csv", ("path", "split", "region", "patient", "study", "label"))
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
        raise InputError(
            f"{data}: none of {len(images)} images can be read, such as {images.path.iloc[0]}; is it there?"
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
