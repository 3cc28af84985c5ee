"""Which of two models, or of many, is better, and whether this set can tell: paired on the same studies."""

from itertools import product

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from mura_fastai.errors import InputError
from mura_fastai.results.intervals import bca_bounds, bootstrap_weights, influence, mean_of_trainings, without_perfect
from mura_fastai.results.measures import METRICS, RATES, point_scores, ratio
from mura_fastai.results.metrics import counts_of, decided, groups_of
from mura_fastai.results.paired import delong_macro, delong_test, holm, mcnemar_test, normal_p, swap_test
from mura_fastai.text import name_some

CORRECTIONS = ("holm", None)
# Below five patients of a class a normal distribution promises too much: with two abnormal among 62 that differ by
# chance alone, DeLong's p is below .002 in 2.6 % of sets; from five on it keeps its level.
FEW = 5
_NEEDED = (1.959964 + 0.841621) ** 2  # a two-sided test at .05 with 80 % power
_COLUMNS = (
    "a", "b", "diff", "diff_lo", "diff_hi", "p", "p_adjusted", "n_needed",
    "a_lo", "a_hi", "b_lo", "b_hi", "a_seed_sd", "b_seed_sd",
)  # fmt: skip


def _decided(
    preds,  # a predictions table, a studies table or a decided studies table
    pool: str,  # how views become a study
) -> pd.DataFrame:  # indexed by study: region, patient, label, p_abnormal, abnormal
    "One row a study, with the decision: column `abnormal` where the table has it, or p_abnormal above 0.5."
    studies = decided(preds, None, pool).set_index("study")
    bad = ~studies["abnormal"].isin([0, 1])
    if bad.any():
        raise InputError(f"abnormal is not 0 or 1 in {name_some(studies.index[bad])}: decide again or drop the column")
    return studies


def _decisions(arm) -> str:
    "How the tables of an arm were decided, in words."
    told = [t.attrs.get("decision") for t in arm]
    if not all(told):
        return "as the table says"
    pools, over = ({o[key] for o in told} for key in ("pool", "threshold"))
    above = " to ".join(dict.fromkeys(f"{o:.2f}" for o in (min(over), max(over))))
    apart = ", by region" if told[0].get("regions") else ""
    return f"{' or '.join(sorted(pools))} over views, abnormal above {above}{apart}"


def _common(
    arms,  # lists of `_decided` tables, one a seed
    names,  # of the arms
) -> tuple[list, dict]:  # the arms with the same labelled studies in the same order; how many studies each lost
    "What can be compared: studies with a label that all arms and seeds have."
    tables = [t for arm in arms for t in arm]
    known = pd.concat([t["label"] for t in tables]).dropna().astype(int)
    torn = known.groupby(level=0).nunique()
    if (torn > 1).any():
        raise InputError(f"labels differ between the arms for {name_some(torn.index[torn > 1])}: correct the tables")
    label = known.groupby(level=0).first()
    common = label.index
    for t in tables:
        common = common.intersection(t.index)
    if not len(common):
        raise InputError("the arms have no labelled study in common: compare runs on the same split of the same data")
    common = common.sort_values()
    first = tables[0].loc[common]
    for column in ("region", "patient"):
        for t in tables[1:]:
            differ = (t.loc[common, column].astype(str) != first[column].astype(str)).to_numpy()
            if differ.any():
                raise InputError(
                    f"{column} differs between the arms for {name_some(common[differ])}: give both the same"
                )
    left_out = {}
    for name, arm in zip(names, arms, strict=True):
        own = label.index.intersection(pd.Index(np.unique(np.concatenate([t.index for t in arm]))))
        left_out[name] = len(own) - len(common)
    return [[t.loc[common].assign(label=label[common]) for t in arm] for arm in arms], left_out


def _bootstrap(label, arms, groups, patient, n_boot, seed):
    "arms x n_boot x (groups + 1) x METRICS: the mean over each arm's seeds, all from the same draws of patients."
    draws = [
        np.stack([mean_of_trainings(point_scores, label, zip(*arm, strict=True), groups, w) for arm in arms])
        for w in bootstrap_weights(patient, n_boot, seed)
    ]
    draws = np.concatenate(draws, 1)
    single = [len(np.unique(patient[i])) < 2 for i in groups.values()]
    draws[:, :, np.flatnonzero(single)] = np.nan
    return draws


def _deviation(draws):
    "Standard deviation over the resamples that have the score; NaN where none has."
    none = np.isfinite(draws).sum(0) < 2
    return np.where(none, np.nan, np.nanstd(np.where(none, 0.0, draws), 0, ddof=1))


def _differences(seeds_a, seeds_b, draws_a, draws_b, pulls_a, pulls_b, frame):
    "All of `_COLUMNS` but p, by name, each (groups + 1) x METRICS; also the standard error `se` of the difference."
    label, groups, patient, n = frame
    a, b = seeds_a.mean(0), seeds_b.mean(0)
    diff, se = np.where(np.abs(b - a) < 1e-12, 0.0, b - a), _deviation(draws_b - draws_a)
    # A difference lies on both sides alike, so that its standard error and Student's t serve it better than BCa does.
    patients = np.array([len(np.unique(patient[i])) for i in [*groups.values(), slice(None)]])[:, None]
    reach = stdtrit(np.maximum(patients - 1, 1), 0.975) * np.sqrt(patients / np.maximum(patients - 1, 1))
    # arms that never differ on these patients may differ on others: no draw can show that
    half = np.where(se < 1e-12, np.nan, reach * se)
    farthest = np.where(np.array(METRICS) == "kappa", 2, 1)
    lo, hi = np.clip(diff - half, -farthest, farthest), np.clip(diff + half, -farthest, farthest)
    values = dict(a=a, b=b, diff=diff, diff_lo=lo, diff_hi=hi, se=se)
    values["n_needed"] = np.ceil(n[:, None] * _NEEDED * ratio(se, diff) ** 2)
    for side, draws, pulls, seeds in (("a", draws_a, pulls_a, seeds_a), ("b", draws_b, pulls_b, seeds_b)):
        bounds = bca_bounds(draws, seeds.mean(0), pulls, groups, patient)
        values[f"{side}_lo"], values[f"{side}_hi"] = without_perfect(bounds, seeds.mean(0), label, groups, patient)
        values[f"{side}_seed_sd"] = seeds.std(0, ddof=1) if len(seeds) > 1 else np.full(a.shape, np.nan)
    return values


def _few(label, groups, patient):
    "Groups + 1 booleans: whether a class has too few patients for a normal distribution; macro is as its regions are."
    least = [[len(np.unique(patient[i][label[i] == c])) for c in (0, 1)] for i in groups.values()]
    few = np.min(least, 1) < FEW
    return np.append(few, (few & (np.min(least, 1) > 0))[:-1].any())


def _tests(label, a, b, groups, patient, metrics, values, n_perm, seed):
    "(groups + 1) x metrics p-values, and of each metric the words for its test."
    p, said = np.full(values["diff"].shape, np.nan), {}
    few = _few(label, groups, patient)
    rates = [m for m in metrics if m in RATES]
    swaps = len(a[0]) == len(b[0]) and rates
    if swaps:
        swapped = swap_test(label, a[1], b[1], groups, patient, rates, n_perm, seed)
    for m, name in enumerate(metrics):
        if name == "auroc":
            each = [delong_test(label[i], a[0][:, i], b[0][:, i], patient[i]).p for i in groups.values()]
            each.append(delong_macro(label, a[0], b[0], [*groups.values()][:-1], patient).p)
            p[:, m], said[name] = np.where(few, np.nan, each), "DeLong's test, patients as clusters (Obuchowski)"
        elif name in rates and swaps:
            p[:, m] = swapped[:, rates.index(name)]
            said[name] = f"permutation of the arms within patients, {n_perm} times"
            if name == "accuracy" and len(a[0]) == 1:
                right = [(d[0] > 0.5) == (label > 0.5) for d in (a[1], b[1])]
                exact = np.array([mcnemar_test(*(r[i] for r in right), patient[i]) for i in groups.values()])
                p[:-1, m] = np.where(np.isnan(exact), p[:-1, m], exact)
                said[name] = f"McNemar's exact test; where a patient has several discordant studies, {said[name]}"
        else:
            p[:, m] = np.where(few, np.nan, normal_p(values["diff"][:, m], values["se"][:, m]))
            said[name] = "normal distribution, standard error of the bootstrap"
    return p, said


def _check(arms, names, metrics, n_boot, n_perm, correct):
    "InputError for an option that cannot be."
    unknown = [m for m in metrics if m not in METRICS]
    if unknown or not metrics:
        raise InputError(f"there is no metric {unknown[0] if unknown else ''!r}: choose from {', '.join(METRICS)}")
    if correct not in CORRECTIONS:
        raise InputError(f"there is no correction {correct!r}: choose one of {', '.join(map(str, CORRECTIONS))}")
    if n_boot < 2 or n_perm < 1:
        raise InputError(f"n_boot is {n_boot} and n_perm {n_perm}: give at least 2 and 1")
    if len(names) != len(arms) or len(set(names)) < len(names):
        raise InputError(f"{len(arms)} arms need as many different names, not {', '.join(names)}")
    if not all(arms):
        raise InputError(f"{names[[bool(a) for a in arms].index(False)]}: no table at all; give one a training seed")


def compare(
    preds_a,  # predictions, studies or decided studies table of the first arm; a list: one a training seed
    preds_b,  # the second arm, which the first is compared with
    *more,  # further arms, all compared with the first
    names: list[str] | None = None,  # of the arms; A, B, C, ... where not given
    metrics: tuple = ("kappa", "auroc"),  # names in `METRICS`
    pool: str = "mean",  # how views become a study
    n_boot: int = 2000,  # draws of patients
    n_perm: int = 10_000,  # random swaps
    seed: int = 0,  # of draws and swaps
    correct: str | None = "holm",  # of the p-values of the regions: holm or None
) -> pd.DataFrame:  # indexed by region, then "overall" and "macro"; by (name, region) for more than two arms
    """Scores of two arms or more on the same studies, their paired differences, and what may be said of them.

    Only studies with a label count that all arms have. Of each metric M, for the first arm (a) and the other (b):
    M_a, M_b; M_diff, b minus a, with its 95 % interval M_diff_lo, M_diff_hi (Student's t on the standard error of a
    bootstrap that draws patients, the same ones for both); M_p, and M_p_adjusted by Holm's method over the regions of
    one comparison, and of "overall" and of "macro" over the further arms; M_n_needed, the studies a set like this
    needs to show the difference with 80 % power, were it as large as found; M_a_lo ... M_b_hi, the intervals of the
    scores themselves.

    p: AUROC by `delong_test`; kappa and other rates by `swap_test`, accuracy of single tables by `mcnemar_test`; other
    metrics, and rates of arms with unlike numbers of seeds, by the normal distribution with the bootstrap's standard
    error. `attrs["tests"]` says which. NaN where a score does not exist, and for all p but those of swaps and McNemar
    where a class has fewer than `FEW` patients.

    An arm's score is the mean over its seeds: what one training of the recipe can be expected to give, not the score
    of the ensemble. Intervals and p are about other patients, with these trainings as they are. How far trainings
    differ stands apart, in M_a_seed_sd and M_b_seed_sd (where an arm has seeds; NaN for a single one).

    `attrs`: names, seeds, n_common, left_out (labelled studies of each arm that another lacks), tests, and the options.
    InputError: as `to_studies`; also arms whose labels, regions or patients differ, nothing in common, unknown options.
    """
    arms = [list(o) if isinstance(o, (list, tuple)) else [o] for o in (preds_a, preds_b, *more)]
    names = [str(n) for n in names] if names else [chr(65 + i) for i in range(len(arms))]
    metrics = list(metrics)
    _check(arms, names, metrics, n_boot, n_perm, correct)
    decided_tables = [[_decided(t, pool) for t in arm] for arm in arms]
    tables, left_out = _common(decided_tables, names)
    first = tables[0][0]
    label, region, patient = (first[c].to_numpy(t) for c, t in (("label", float), ("region", str), ("patient", str)))
    arms = [[np.stack([t[c].to_numpy(float) for t in arm]) for c in ("p_abnormal", "abnormal")] for arm in tables]
    groups = groups_of(region)
    columns = [METRICS.index(m) for m in metrics]
    seeds = [np.stack([point_scores(label, p, d, groups) for p, d in zip(*arm, strict=True)]) for arm in arms]
    draws = _bootstrap(label, arms, groups, patient, n_boot, seed)
    pulls = [mean_of_trainings(influence, label, zip(*arm, strict=True), groups, patient) for arm in arms]
    counts = counts_of(label, groups)
    blocks = {}
    for b in range(1, len(arms)):
        frame = label, groups, patient, counts["n"].to_numpy()
        values = _differences(seeds[0], seeds[b], draws[0], draws[b], pulls[0], pulls[b], frame)
        values = {name: found[:, columns] for name, found in values.items()}
        p, tests = _tests(label, arms[0], arms[b], groups, patient, metrics, values, n_perm, seed)
        values |= {"p": p, "p_adjusted": np.vstack([np.apply_along_axis(holm, 0, p[:-2]), p[-2:]]) if correct else p}
        values["n_needed"] = np.where(np.isnan(p), np.nan, values["n_needed"])
        kept = [k for k in _COLUMNS if "seed" not in k or max(map(len, seeds)) > 1]
        found = {f"{name}_{k}": values[k][:, m] for m, name in enumerate(metrics) for k in kept}
        blocks[names[b]] = pd.concat([counts, pd.DataFrame(found, counts.index)], axis=1)
    if correct and len(blocks) > 1:  # as many questions to all studies together as there are further arms
        for column, end in product([f"{m}_p" for m in metrics], ("overall", "macro")):
            adjusted = holm(np.array([block.loc[end, column] for block in blocks.values()]))
            for block, p in zip(blocks.values(), adjusted, strict=True):
                block.loc[end, f"{column}_adjusted"] = p
    table = blocks[names[1]] if len(arms) == 2 else pd.concat(blocks, names=["name"])
    table.attrs = dict(
        names=names, seeds={n: len(s) for n, s in zip(names, seeds, strict=True)}, metrics=metrics, n_common=len(label),
        left_out=left_out, tests=tests,
        decided=dict(zip(names, map(_decisions, decided_tables), strict=True)),
        correct=correct, pool=pool, n_boot=n_boot, n_perm=n_perm, seed=seed,
    )  # fmt: skip
    return table
