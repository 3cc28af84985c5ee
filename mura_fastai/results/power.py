"""How large a set must be: how sure one score is, and the smallest difference between two models that it can show."""

import numpy as np
import pandas as pd
from scipy.stats import norm

from mura_fastai.errors import InputError
from mura_fastai.results.intervals import kappa_variance
from mura_fastai.text import aligned, one_of, plain_rows, short

# Studies of MURA: a region of the public valid set in the mean, the hidden test, the public valid set.
SIZES = {"a region of MURA's valid set": 171, "MURA's hidden test": 207, "MURA's valid set": 1199}


def kappa_se(
    kappa: float,  # Cohen's kappa
    prevalence: float,  # share of abnormal studies
    n: float,  # studies
) -> float:
    """Standard error of kappa where as many normal studies are called abnormal as abnormal ones normal.

    Fleiss, Cohen and Everitt, Psychological Bulletin 72 (1969) 323."""
    wrong = (1 - kappa) * prevalence * (1 - prevalence)
    cm = n * np.array([[1 - prevalence - wrong, wrong], [wrong, prevalence - wrong]])
    return np.sqrt(kappa_variance(cm))


def auroc_se(
    auroc: float,  # area under the ROC curve
    prevalence: float,  # share of abnormal studies
    n: float,  # studies
) -> float:
    "Standard error of an AUROC known by its value alone: Hanley and McNeil, Radiology 143 (1982) 29."
    abnormal, normal = n * prevalence, n * (1 - prevalence)
    two_high, two_low = auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)
    spread = (abnormal - 1) * (two_high - auroc**2) + (normal - 1) * (two_low - auroc**2)
    return np.sqrt((auroc * (1 - auroc) + spread) / (abnormal * normal))


def _check(sizes, **shares):
    "InputError for numbers that no set has."
    for name, (value, low, high) in shares.items():
        if value is not None and not low < value < high:
            raise InputError(f"{name} is {value}: give a number between {low} and {high}")
    for name, n in sizes.items():
        if n < 2:
            raise InputError(f"{name}: {one_of(n, 'study')}; give at least 2")


def power(
    n: int | dict[str, int] | None = None,  # studies of the set, or several sets by name; MURA's where not given
    kappa: float | None = 0.70,  # of one model; None leaves kappa out
    auroc: float | None = None,  # of one model; None leaves AUROC out
    prevalence: float = 0.45,  # share of abnormal studies
    correlation: float = 0.5,  # of two models' scores over sets like this one
    power: float = 0.8,  # wanted chance to show a difference that is there
    alpha: float = 0.05,  # chance to show one that is not, two-sided
    per_patient: float = 1.0,  # studies a patient, in the mean
    icc: float = 0.0,  # correlation of errors between studies of one patient
) -> pd.DataFrame:  # a row a set: n, n_effective, and for kappa and auroc half_width, diff_paired, diff_unpaired
    """What a set of `n` studies can tell.

    M_half_width: half of the 95 % interval of one model's score. M_diff_paired: the smallest difference between two
    models, judged on the same studies, that a test shows with the given power; M_diff_unpaired: where each is judged on
    `n` studies of its own. By the normal distribution, with `kappa_se` and `auroc_se` at the given score for both:
    se(difference) = se sqrt(2 (1 - correlation)).

    prevalence: 538 of the 1,199 studies of MURA's public valid set are abnormal. correlation: on FracAtlas, networks
    alike but for the seed gave .6 to .9 for kappa and .8 to 1 for AUROC, different networks .4 to .5, and .7 to .85. So
    .5 is a little much for the kappa of different networks, and else on the safe side. Studies of one patient are less
    evidence: n_effective = n / (1 + (per_patient - 1) icc), Kish, Survey Sampling, 1965; MURA's public valid set has
    1.53 studies a patient.

    InputError: numbers outside their range, or neither kappa nor auroc."""
    sizes = SIZES if n is None else dict(n) if isinstance(n, dict) else {"this set": n}
    if kappa is None and auroc is None:
        raise InputError("neither kappa nor auroc is given: give one, such as kappa=0.7")
    _check(
        sizes, kappa=(kappa, 0, 1), auroc=(auroc, 0.5, 1), prevalence=(prevalence, 0, 1), power=(power, alpha, 1),
        alpha=(alpha, 0, 1), correlation=(correlation, -1, 1),
    )  # fmt: skip
    if per_patient < 1 or not 0 <= icc <= 1:
        raise InputError(f"per_patient is {per_patient} and icc {icc}: give at least 1, and a number from 0 to 1")
    table = pd.DataFrame({"n": sizes}).rename_axis("set")
    table["n_effective"] = table["n"] / (1 + (per_patient - 1) * icc)
    reach = norm.ppf(1 - alpha / 2) + norm.ppf(power)
    for name, value, error in (("kappa", kappa, kappa_se), ("auroc", auroc, auroc_se)):
        if value is not None:
            se = np.array([error(value, prevalence, size) for size in table["n_effective"]])
            table[f"{name}_half_width"] = norm.ppf(0.975) * se
            table[f"{name}_diff_paired"] = reach * se * np.sqrt(2 * (1 - correlation))
            table[f"{name}_diff_unpaired"] = reach * se * np.sqrt(2)
    table.attrs = dict(
        kappa=kappa, auroc=auroc, prevalence=prevalence, correlation=correlation, power=power, alpha=alpha,
        per_patient=per_patient, icc=icc,
    )  # fmt: skip
    return table


def format_power(
    table: pd.DataFrame,  # from `power`
) -> str:
    "The table as text, below 100 characters wide, and what its columns mean."
    asked, blocks = table.attrs, []
    for name, word in (("kappa", "kappa"), ("auroc", "AUROC")):
        if asked[name] is None:
            continue
        head = [
            "",
            "studies",
            f"{word} {short(asked[name], 2)} +-",
            "smallest difference",
            "each on studies of its own",
        ]
        kept = [f"{name}_half_width", f"{name}_diff_paired", f"{name}_diff_unpaired"]
        rows = [[str(i), f"{r['n']:,.0f}", *(short(r[k]) for k in kept)] for i, r in table.iterrows()]
        blocks.append("\n".join(aligned([head, *rows], right=(1, 2, 3, 4))))
    note = (
        f"Smallest difference between two models that a set shows with {asked['power']:.0%} power at p "
        f"{short(asked['alpha'], 2)}:\non the same studies, their scores correlated by {asked['correlation']:g}, and "
        f"each on studies of its own.\n{asked['prevalence']:.0%} of the studies abnormal"
    )
    if asked["icc"] and asked["per_patient"] > 1:
        note += f"; {asked['per_patient']:g} a patient, whose errors are correlated by {asked['icc']:g}"
    return "\n\n".join([*blocks, f"{note}."])


def power_to_json(
    table: pd.DataFrame,  # from `power`
) -> dict:  # the question, and `sets`: name -> {column: number}
    "The table as plain numbers, ready for `json.dumps`."
    return {**table.attrs, "sets": plain_rows(table, whole=("n",))}
