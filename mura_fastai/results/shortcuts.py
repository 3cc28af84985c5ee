"""What can be guessed without looking at a bone: the label from trivial traits, and a run's probabilities from them."""

import numpy as np
import pandas as pd

from mura_fastai.bars import stderr_bar
from mura_fastai.data.traits import traits as read_traits
from mura_fastai.errors import InputError
from mura_fastai.results.guessing import (
    REPEATS,
    by_region,
    classify,
    deal_folds,
    paired_auroc,
    paired_spearman,
    predict_folds,
    ranks_in,
    regress,
    spline_basis,
    with_bounds,
)
from mura_fastai.results.pooling import to_studies
from mura_fastai.text import one_of

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
        raise InputError(f"{one_of(n_boot, 'draw')} and {one_of(folds, 'fold')}: give at least 1 draw and 2 folds")
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
            scorers = [paired_auroc(label, predict_folds(classify, basis, label, dealt), dealt)]
            if group != "region":
                wide = basis if group == ALL else by_region(basis, region)
                p = predict_folds(classify, wide, label, dealt)
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
            guess = predict_folds(regress, basis, rank, dealt)
            rho = paired_spearman(p, guess, dealt * 2 + label)
            scorers = [rho, *(lambda w, c=c, rho=rho: rho(w * (label == c)) for c in (0, 1))]
            if group != "region":
                wide = basis if group == ALL else by_region(basis, region)
                guess = predict_folds(regress, wide, rank, dealt)
                scorers.append(paired_spearman(p, guess, dealt * 2 * len(names) + cell))
            found[: len(scorers)] = with_bounds(scorers, patient, n_boot, seed)
            found[1:3][[c not in label for c in (0, 1)]] = np.nan
        rows[group] = [len(studies), *found[0], *found[3], found[1, 0], found[2, 0]]
    bounded = [f"{c}{end}" for c in ("rho", "within_region") for end in ("", "_lo", "_hi")]
    columns = ["studies", *bounded, "rho_normal", "rho_abnormal"]
    table = _strongest_first(pd.DataFrame.from_dict(rows, "index", columns=columns).rename_axis("traits"), "rho")
    table.attrs = _told(studies, dealt, n_boot, seed)
    return table
