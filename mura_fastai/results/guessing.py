"""Guessing from a few columns: small models that see no patient twice, and how well they do inside a stratum."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from mura_fastai.results.intervals import bootstrap_weights

REPEATS = 3  # of the whole cross-validation: what one way to deal out the folds does by chance becomes small
FREQUENT = 0.02  # share of the rows from which on one exact value, such as a width, gets a column of its own
RIDGE = 30.0  # penalty of the squared coefficients of standardised columns


def spline_basis(
    values: pd.DataFrame,  # n rows of numbers; NaN is a value of its own
) -> np.ndarray:  # n x k
    """n x k standardised columns in which a straight line can bend: cubic B-splines of ranks, and frequent values.

    Ranks, so that one giant image moves no knot; made without the labels, so that all rows may take part."""
    from sklearn.preprocessing import SplineTransformer

    parts = [np.zeros((len(values), 0))]
    for _, x in values.items():
        known = x.notna().to_numpy()
        counts = x.value_counts()
        if len(counts) + (not known.all()) < 2:
            continue
        parts.append(~known[:, None])
        if len(counts) > 2:
            rank = ((x.rank() - 0.5) / known.sum()).fillna(0.5).to_numpy()[:, None]
            bend = SplineTransformer(5, knots=np.linspace(0, 1, 5)[:, None], include_bias=False).fit(rank)
            parts.append(bend.transform(rank) * known[:, None])
        frequent = counts[counts >= max(FREQUENT * len(x), 2)].index.sort_values()[len(counts) == 2 :]
        parts += [(x == value).to_numpy()[:, None] for value in frequent]
    basis = np.hstack(parts).astype(float)
    basis = basis[:, basis.std(0) > 1e-9]
    return (basis - basis.mean(0)) / basis.std(0)


def by_region(
    basis: np.ndarray,  # n x k
    region: np.ndarray,  # n names or numbers
) -> np.ndarray:  # n x (k + regions * (1 + k)); as it is for one region
    """The columns for all, and for each region its base and how its columns depart from those of all.

    The latter at half size: the penalty then holds them back more."""
    names = np.unique(region)
    if len(names) < 2:
        return basis
    own = np.hstack([np.ones((len(basis), 1)), basis / 2])
    return np.hstack([basis, *(own * (region == r)[:, None] for r in names)])


def deal_folds(
    label: np.ndarray,  # n truths, 0 or 1
    patient: np.ndarray,  # n patients
    folds: int = 5,  # at most; as many as patients of the rarer class, where those are fewer
    seed: int = 0,  # of the dealing
    repeats: int = REPEATS,  # ways to deal
) -> np.ndarray | None:  # repeats x n fold numbers, all studies of a patient in one; None for fewer than two
    """Folds alike in the share of abnormal studies, and in nothing else.

    Folds alike in region and label too would be wrong here: the held-out fold would then repeat the chance of the
    others (a region that happens to hold more abnormal studies would do so in every fold), and a region that says
    nothing would seem to say something."""
    folds = min([folds, *(len(set(patient[label == c])) for c in set(label))])
    if folds < 2:
        return None
    rng, codes = np.random.default_rng(seed), pd.factorize(patient, sort=True)[0]
    abnormal, studies = np.bincount(codes, label), np.bincount(codes)
    out = np.zeros((repeats, len(label)), int)
    for row in out:
        # Like beside like, equals in any order, and dealt out as cards are.
        order = np.lexsort((rng.random(len(studies)), studies, abnormal))
        fold = np.empty(len(studies), int)
        fold[order] = rng.permutation(folds)[np.arange(len(studies)) % folds]
        row[:] = fold[codes]
    return out


def classify(
    basis: np.ndarray,  # n x k
    label: np.ndarray,  # n truths, 0 or 1
) -> Callable[[np.ndarray], np.ndarray]:  # function of m x k that gives m scores
    "Logistic regression with a squared penalty; a constant where there is one class or no column."
    from sklearn.linear_model import LogisticRegression

    if len(set(label)) < 2 or not basis.shape[1]:
        return lambda x: np.zeros(len(x))
    return LogisticRegression(C=1 / RIDGE, solver="newton-cholesky").fit(basis, label).decision_function


def regress(
    basis: np.ndarray,  # n x k
    target: np.ndarray,  # n numbers
) -> Callable[[np.ndarray], np.ndarray]:  # function of m x k that gives m numbers
    "Ridge regression; a constant where there is no column."
    from sklearn.linear_model import Ridge

    return Ridge(RIDGE).fit(basis, target).predict if basis.shape[1] else lambda x: np.zeros(len(x))


def predict_folds(
    fit: Callable,  # `classify` or `regress`
    basis: np.ndarray,  # n x k
    target: np.ndarray,  # n
    folds: np.ndarray,  # repeats x n, from `deal_folds`
) -> np.ndarray:  # repeats x n
    "Repeats x n predictions, each by a model that saw no study of that patient."
    out = np.zeros(folds.shape)
    for fold, row in zip(folds, out, strict=True):
        for k in np.unique(fold):
            held = fold == k
            row[held] = fit(basis[~held], target[~held])(basis[held])
    return out.round(9)  # equal traits must tie, to the last bit


def paired_auroc(
    label: np.ndarray,  # n truths, 0 or 1
    p: np.ndarray,  # repeats x n scores
    stratum: np.ndarray,  # repeats x n numbers from 0: only studies of one stratum are compared
) -> Callable[[np.ndarray], np.ndarray]:  # function of b x n weights that gives b AUROCs; NaN without a pair
    "Share of the pairs (abnormal, normal) inside the strata in which the abnormal study scores higher, ties half."
    repeats, n = p.shape
    stratum = (stratum + (stratum.max() + 1) * np.arange(repeats)[:, None]).ravel()
    # Place of each score among all scores, after all of the strata before it: one sort then serves every stratum.
    place = np.unique(p.ravel(), return_inverse=True)[1] + stratum * (p.size + 1)
    order = np.argsort(place, kind="stable")
    abnormal = np.tile(label > 0.5, repeats)[order]
    high, low = order[abnormal], order[~abnormal]
    edges = [np.searchsorted(place[low], place[high], side) for side in ("left", "right")]
    ends = [np.searchsorted(stratum[low], stratum[high], side) for side in ("left", "right")]

    def of(weights: np.ndarray) -> np.ndarray:
        below = np.zeros((len(weights), len(low) + 1))
        np.cumsum(weights[:, low % n], 1, out=below[:, 1:])
        w = weights[:, high % n]
        wins = np.einsum("bi,bi->b", w, (below[:, edges[0]] + below[:, edges[1]]) / 2 - below[:, ends[0]])
        pairs = np.einsum("bi,bi->b", w, below[:, ends[1]] - below[:, ends[0]])
        return np.divide(wins, pairs, out=np.full(len(w), np.nan), where=pairs > 0)

    return of


def ranks_in(
    x: np.ndarray,  # n numbers
    stratum: np.ndarray,  # n numbers
) -> np.ndarray:  # n
    "Ranks inside each stratum, as shares of it: (0, 1]."
    return pd.Series(x).groupby(stratum).rank(pct=True).to_numpy()


def paired_spearman(
    p: np.ndarray,  # n probabilities
    guess: np.ndarray,  # repeats x n guesses
    stratum: np.ndarray,  # repeats x n numbers from 0: ranks and means are of one stratum
) -> Callable[[np.ndarray], np.ndarray]:  # function of b x n weights that gives b correlations; 0 for a constant
    "Spearman's rank correlation inside the strata, pooled over them; the ranks stay as they are when weights change."
    repeats, n = guess.shape
    stratum = pd.factorize((stratum + (stratum.max() + 1) * np.arange(repeats)[:, None]).ravel())[0]
    x, y = ranks_in(np.tile(p, repeats), stratum), ranks_in(guess.ravel(), stratum)
    order = np.argsort(stratum, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(stratum[order]) > 0])
    x, y, row = x[order], y[order], order % n

    def of(weights: np.ndarray) -> np.ndarray:
        w = weights[:, row]
        total, sx, sy = (np.add.reduceat(w * v, starts, 1) for v in (1, x, y))
        share = np.divide(1, total, out=np.zeros_like(total), where=total > 0)
        xy, xx, yy = ((w @ v) - (s * share).sum(1) for v, s in ((x * y, sx * sy), (x * x, sx**2), (y * y, sy**2)))
        varied = np.minimum(xx, yy) > 1e-9 * n  # below it stands what rounding leaves of a constant
        return np.divide(xy, np.sqrt(np.where(varied, xx * yy, 1)), out=np.zeros(len(w)), where=varied)

    return of


def with_bounds(
    scorers: list[Callable],  # functions of b x n weights that give b scores
    patient: np.ndarray,  # n patients
    n_boot: int = 2000,  # draws of patients
    seed: int = 0,  # of the draws
) -> np.ndarray:  # scorers x (point, lo, hi)
    "Each score, and its 95 % percentiles over draws of patients; NaN bounds for one patient."
    out = np.full((len(scorers), 3), np.nan)
    out[:, 0] = [of(np.ones((1, len(patient))))[0] for of in scorers]
    if len(set(patient)) > 1:
        draws = [[of(w) for of in scorers] for w in bootstrap_weights(patient, n_boot, seed, chunk=64)]
        for k, values in enumerate(np.concatenate(draws, 1)):
            if not np.isnan(out[k, 0]):
                out[k, 1:] = np.nanpercentile(values, [2.5, 97.5])
    return out + 0.0  # no -0.0
