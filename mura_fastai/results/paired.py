"""Tests of a difference between two models that were given the same studies. Patients are the unit, as everywhere."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import binomtest, norm

from mura_fastai.errors import InputError
from mura_fastai.results.intervals import placements, placements_variance
from mura_fastai.results.measures import RATES, macro_of, ratio

_NOTHING = 1e-12  # what rounding leaves of a difference that is none


class DeLong(NamedTuple):
    "What `delong_test` gives: two AUROCs, the second minus the first, its standard error and a two-sided p."

    auroc_a: float
    auroc_b: float
    diff: float
    se: float
    p: float


def normal_p(
    diff,  # differences
    se,  # their standard errors
) -> np.ndarray:
    "Two-sided p by the normal distribution. No difference is p 1; one without any spread cannot be judged: NaN."
    diff, se = np.broadcast_arrays(np.asarray(diff, float), np.asarray(se, float))
    spread, none = se > _NOTHING, (np.abs(diff) < _NOTHING) & (se <= _NOTHING)
    return np.where(spread, 2 * norm.sf(np.abs(diff) / np.where(spread, se, 1)), np.where(none, 1, np.nan))[()]


def mean_placements(
    label,  # n truths, 0 or 1
    p,  # n scores, or seeds x n
) -> np.ndarray:  # n `placements`, mean over the seeds; NaN where there is no AUROC
    "What each study adds to the AUROC that one training can be expected to give."
    label, p = np.asarray(label, float), np.atleast_2d(np.asarray(p, float))
    if np.isnan(p).any() or len(np.unique(label)) < 2:
        return np.full(len(label), np.nan)
    return np.mean([placements(label, one) for one in p], 0)


def delong_test(
    label,  # n truths, 0 or 1
    p_a,  # n scores of the first model, or seeds x n
    p_b,  # n scores of the second model, or seeds x n; not always as many seeds
    patient=None,  # n patients, any hashable; each study a patient of its own where not given
) -> DeLong:  # auroc_a, auroc_b, diff (second minus first), se, p
    """Are two AUROCs on the same studies different?

    DeLong, DeLong and Clarke-Pearson (Biometrics 44, 1988, 837), with the variance over patients of Obuchowski
    (Biometrics 53, 1997, 567), which is DeLong's where each patient has one study; by sorting, n log n, as Sun and Xu
    (IEEE Signal Processing Letters 21, 2014, 1389) have it. Of several seeds the AUROCs and their structural components
    are averaged. NaN where there is one class, a missing score, or fewer than two patients of a class. InputError:
    lengths that differ."""
    label, p_a, p_b = np.asarray(label, float), np.atleast_2d(p_a), np.atleast_2d(p_b)
    if {p_a.shape[1], p_b.shape[1], len(label) if patient is None else len(patient)} != {len(label)}:
        raise InputError("label, scores and patients differ in length: give one of each a study")
    a, b = mean_placements(label, p_a), mean_placements(label, p_b)
    auroc_a, auroc_b = (o[label > 0.5].mean() if not np.isnan(o).any() else np.nan for o in (a, b))
    diff, variance = auroc_b - auroc_a, placements_variance(label, b - a, patient)
    se = float(np.sqrt(variance)) if not np.isnan(diff) else np.nan
    return DeLong(float(auroc_a), float(auroc_b), float(diff), se, float(normal_p(diff, se)))


def delong_macro(
    label,  # n truths, 0 or 1
    p_a,  # seeds x n scores of the first model
    p_b,  # seeds x n scores of the second
    regions,  # a list of index arrays, one a region
    patient,  # n patients
) -> DeLong:
    "`delong_test` of the mean over the regions that have an AUROC; a patient's studies in several regions go together."
    label, patient = np.asarray(label, float), pd.factorize(np.asarray(patient, str))[0]
    regions = [i for i in regions if len(np.unique(label[i])) == 2]
    aurocs, pull = [], np.zeros(patient.max() + 1)
    for i in regions:
        a, b = mean_placements(label[i], p_a[:, i]), mean_placements(label[i], p_b[:, i])
        aurocs.append((a[label[i] > 0.5].mean(), b[label[i] > 0.5].mean()))
        for side in (label[i] > 0.5, label[i] < 0.5):
            own, apart = patient[i][side], (b - a)[side] - (b - a)[side].mean()
            n = len(np.unique(own))
            pull += np.sqrt(ratio(n, n - 1)) * np.bincount(own, apart / side.sum(), len(pull)) / len(regions)
    if not regions:
        return DeLong(*[np.nan] * 5)
    (auroc_a, auroc_b), se = np.mean(aurocs, 0), np.sqrt(pull @ pull)
    return DeLong(auroc_a, auroc_b, auroc_b - auroc_a, float(se), float(normal_p(auroc_b - auroc_a, se)))


def swap_test(
    label,  # n truths, 0 or 1
    pred_a,  # seeds x n decisions of the first model, 0 or 1
    pred_b,  # seeds x n decisions of the second, as many seeds
    groups,  # dict of index arrays: the regions, and after them all studies
    patient,  # n patients, any hashable
    rates=("kappa",),  # names in `RATES`
    n_perm: int = 10_000,  # random swaps
    seed: int = 0,  # of the swaps
    chunk: int = 1000,  # swaps at a time
) -> np.ndarray:  # (groups + 1) x rates: two-sided p; the groups, then macro
    """Are rates read off decisions different? A permutation test that swaps the two models for whole patients.

    Were the models alike, which of them said what of a patient would be a coin's toss. A patient is swapped with all
    studies and seeds at once, seed i with seed i; p = (k + 1) / (n_perm + 1), where k swapped sets differ as much as
    the real one (Phipson and Smyth, Stat. Applications in Genetics and Molecular Biology 9, 2010, 39). NaN where there
    is no such rate, 1 where the models decide alike."""
    truth = np.asarray(label, float)[:, None] > 0.5
    said = np.stack([np.atleast_2d(np.asarray(o, float)).T for o in (pred_a, pred_b)])  # 2 x n x seeds
    called = np.stack([said * ~truth, said * truth], -1)  # abnormal by the model: of the normal, of the abnormal
    codes = pd.factorize(np.asarray(patient, str), sort=True)[0]
    totals = np.array([[(~truth[i]).sum(), truth[i].sum()] for i in groups.values()], float)[:, None]
    start = np.stack([called[:, i].sum(1) for i in groups.values()], 1)  # 2 x groups x seeds x 2
    change = np.zeros((codes.max() + 1, *start.shape[1:]))
    for g, i in enumerate(groups.values()):
        np.add.at(change[:, g], codes[i], (called[1] - called[0])[i])
    change = change[change.any((1, 2, 3))]  # only who is judged differently matters

    def differences(*both):  # two times ... x groups x seeds x 2 counts to (groups + 1) x ... x rates
        cms = [np.stack([totals - o, o], -1) for o in both]
        a, b = (np.moveaxis(np.stack([RATES[r](cm).mean(-1) for r in rates], -1), -2, 0) for cm in cms)
        return np.concatenate([b - a, (macro_of(b, 0) - macro_of(a, 0))[None]])

    found, rng = differences(*start), np.random.default_rng(seed)
    reached = np.zeros(found.shape)
    for done in range(0, n_perm, chunk):
        swapped = rng.integers(0, 2, (min(chunk, n_perm - done), len(change))).astype(float)
        shift = (swapped @ change.reshape(len(change), start[0].size)).reshape(-1, *change.shape[1:])
        apart = differences(start[0] + shift, start[1] - shift)
        reached += (np.abs(apart) >= np.abs(found)[:, None] - _NOTHING).sum(1)
    return np.where(np.isnan(found), np.nan, (reached + 1) / (n_perm + 1))


def mcnemar_test(
    right_a,  # n: whether the first model decided rightly
    right_b,  # n: whether the second did
    patient,  # n patients
) -> float:  # NaN where a patient has several discordant studies: they are no independent tosses
    "McNemar's exact test of two accuracies (Psychometrika 12, 1947, 153); `swap_test` is the same with patients."
    right_a, right_b = np.asarray(right_a, bool), np.asarray(right_b, bool)
    discordant = right_a != right_b
    if not discordant.any():
        return 1.0
    if np.unique(np.asarray(patient, str)[discordant], return_counts=True)[1].max() > 1:
        return np.nan
    return float(binomtest(int(right_a[discordant].sum()), int(discordant.sum())).pvalue)


def holm(
    p,  # p-values, NaN where there is none
) -> np.ndarray:
    "p-values adjusted for their number (Holm, Scandinavian J. of Statistics 6, 1979, 65); NaN stays uncounted."
    p = np.asarray(p, float)
    adjusted, known = np.full(p.shape, np.nan), np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1)
    return adjusted
