"""Readings of studies of patients, drawn from a population whose kappa and AUROC are known exactly.

A patient's studies resemble each other in label and in score, patients of one kind have more studies than those of the
other and another model's luck, and regions differ: all that makes a study no independent piece of evidence. Given its
label, kind, region and number of views a study's score is normal, so the population's scores are sums over a table
of such cells, and no sampling is needed to know the truth.

What is estimated is a score over the studies of the population: a patient counts as often as it has studies. The number
of studies in a set is random, the number of patients fixed, as where patients are enrolled.
"""

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from scipy.special import expit, ndtr, ndtri

VIEWS = {1: 0.12, 2: 0.35, 3: 0.38, 4: 0.11, 5: 0.04}  # share of studies with that many images: 2.6 in the mean


@dataclass(frozen=True)
class Kind:
    "Patients of one kind."

    share: float  # of the patients
    sizes: dict  # number of studies: share of the patients
    abnormal: float  # share of the studies
    high: float  # mean score of an abnormal study, in standard deviations above the threshold
    low: float  # and of a normal one below it


@dataclass(frozen=True)
class Setting:
    "A population, and how many patients a set has."

    name: str
    patients: int
    kinds: tuple
    label_icc: float  # share of the variance behind the label that belongs to the patient
    shift: float  # share of the score's variance that lifts all studies of a patient alike
    ease: float  # share that makes all studies of a patient easy or hard alike, normal and abnormal ones
    view: float = 0.25  # share that belongs to the single image
    # share of the studies, what is added to the probit of being abnormal, and to the distance from the threshold
    regions: tuple = ((0.4, 0.0, 0.0), (0.25, 0.2, 0.25), (0.2, -0.2, -0.2), (0.15, 0.1, -0.35))
    stay: float = 0.7  # how often a study is of its patient's own region

    @property
    def mean_sizes(self):
        return np.array([sum(m * share for m, share in k.sizes.items()) for k in self.kinds])

    @property
    def study_shares(self):
        "Share of the studies of each kind of patient: kinds with more studies weigh more."
        mass = np.array([k.share for k in self.kinds]) * self.mean_sizes
        return mass / mass.sum()


ONCE = {1: 0.72, 2: 0.18, 3: 0.07, 4: 0.02, 5: 0.01}  # 1.42
AGAIN = {1: 0.45, 2: 0.30, 3: 0.15, 4: 0.07, 5: 0.03}  # 1.93

# like MURA's valid: 783 patients, 1,199 studies in the mean, kappa .70, AUROC .93
MURA = Setting(
    "mura",
    783,
    (Kind(0.78, ONCE, 0.38, 0.86, 1.16), Kind(0.22, AGAIN, 0.62, 0.98, 0.98)),
    label_icc=0.5,
    shift=0.2,
    ease=0.25,
)
# one region of it: 150 studies
REGION = replace(MURA, name="region", patients=98)
# the same with a model better than the best radiologist (kappa .78), and blind to a twentieth of the studies
STRONG = replace(
    REGION,
    name="strong",
    kinds=(Kind(0.78, ONCE, 0.38, 1.52, 1.78), Kind(0.22, AGAIN, 0.62, 1.52, 1.58)),
    regions=((0.45, 0.0, 0.0), (0.3, 0.2, 0.25), (0.2, -0.2, -0.2), (0.05, 0.1, -2.35)),
)
# few patients, many studies each, and who comes often is mostly abnormal and mostly read well
FEW = {m: 1 / 6 for m in (1, 2, 3, 4, 5, 6)}
MANY = {m: 1 / 12 for m in range(7, 19)}
HARD = Setting(
    "hard",
    60,
    (Kind(0.65, FEW, 0.35, 0.75, 1.0), Kind(0.35, MANY, 0.65, 1.1, 0.9)),
    label_icc=0.6,
    shift=0.3,
    ease=0.3,
)
SETTINGS = {s.name: s for s in (MURA, REGION, HARD, STRONG)}


def _cells(setting, images, gain):
    "Weight, share abnormal, mean of normal and of abnormal, variance of every cell of kind x region x views."
    rows = []
    for (kind, share), region, (views, often) in product(
        zip(setting.kinds, setting.study_shares, strict=True), setting.regions, VIEWS.items()
    ):
        weight = share * region[0] * often * (views if images else 1)
        abnormal = ndtr(ndtri(kind.abnormal) + region[1])
        spread = 1 - setting.view + setting.view / (1 if images else views)
        rows.append((weight, abnormal, -(kind.low + region[2] + gain), kind.high + region[2] + gain, spread))
    weight, *rest = np.array(rows).T
    return weight / weight.sum(), *rest


def truth(
    setting: Setting,
    images: bool = False,  # of single images in place of studies
    gain: float = 0.0,  # as of `draw`
) -> dict:  # kappa and auroc of the population, exact
    weight, abnormal, low, high, spread = _cells(setting, images, gain)
    positive, negative = weight * abnormal, weight * (1 - abnormal)
    tp, fp = positive @ ndtr(high / np.sqrt(spread)), negative @ ndtr(low / np.sqrt(spread))
    prevalence, said = positive.sum(), tp + fp
    chance = prevalence * said + (1 - prevalence) * (1 - said)
    agree = tp + negative.sum() - fp
    wins = ndtr((high[:, None] - low) / np.sqrt(spread[:, None] + spread))
    return {
        "kappa": (agree - chance) / (1 - chance),
        "auroc": positive @ wins @ negative / (positive.sum() * negative.sum()),
    }


def draw(
    setting: Setting,
    seed,  # of this set: a number or a sequence of numbers
    gains: tuple = (0.0,),  # of each model: what it adds to the distance from the threshold
    alike: float = 0.8,  # correlation of the models' errors, at every level
) -> dict:  # a value a study: label, patient, region, n_views, p (models x n); image_label, image_p (first model)
    "One set: `setting.patients` patients with all their studies."
    rng = np.random.default_rng(seed)
    kind = rng.choice(len(setting.kinds), setting.patients, p=[k.share for k in setting.kinds])
    size = np.empty(setting.patients, int)
    for i, k in enumerate(setting.kinds):
        size[kind == i] = rng.choice(list(k.sizes), (kind == i).sum(), p=list(k.sizes.values()))
    patient = np.repeat(np.arange(setting.patients), size)
    n, shares = len(patient), np.array([r[0] for r in setting.regions])
    own, other = rng.choice(len(shares), setting.patients, p=shares), rng.choice(len(shares), n, p=shares)
    region = np.where(rng.random(n) < setting.stay, own[patient], other)
    views = rng.choice(list(VIEWS), n, p=list(VIEWS.values()))
    study = np.repeat(np.arange(n), views)

    kinds = np.array([(k.abnormal, k.low, k.high) for k in setting.kinds])[kind[patient]].T
    lift, easier = np.array([r[1:] for r in setting.regions])[region].T
    icc = setting.label_icc
    latent = np.sqrt(icc) * rng.normal(size=setting.patients)[patient] + np.sqrt(1 - icc) * rng.normal(size=n)
    label = (latent < ndtri(kinds[0]) + lift).astype(int)

    def noise(k, share):  # for each model, correlated between them
        common, own = rng.normal(size=k), rng.normal(size=(len(gains), k))
        return np.sqrt(share) * (np.sqrt(alike) * common + np.sqrt(1 - alike) * own)

    rest = 1 - setting.shift - setting.ease - setting.view
    ease, shift = (noise(setting.patients, share)[:, patient] for share in (setting.ease, setting.shift))
    away = np.where(label, kinds[2], kinds[1]) + easier + np.array(gains)[:, None] + ease
    whole = np.where(label, away, -away) + shift + noise(n, rest)
    image = whole[:, study] + noise(len(study), setting.view)
    start = np.cumsum(views) - views
    s = np.add.reduceat(image, start, axis=1) / views
    return dict(
        label=label, patient=patient, region=region, n_views=views, p=expit(2 * s),
        image_label=label[study], image_p=expit(2 * image[0]),
    )  # fmt: skip
