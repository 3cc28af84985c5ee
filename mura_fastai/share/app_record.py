"""What a run's own valid studies say of one probability: how often such a study was abnormal, and how sure that is."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mura_fastai.results.intervals import wilson
from mura_fastai.results.metrics import score
from mura_fastai.results.moments import Moment
from mura_fastai.training.tables import read_table

FEW = 20  # studies; below that number a share or a score says next to nothing
OWN = 60  # valid studies from which on a region is looked at alone
NEAREST = 50  # studies at the most that are looked at around a probability
RATES = ("sensitivity", "specificity", "auroc")


@dataclass(frozen=True)
class Neighbours:
    "The valid studies whose probabilities come closest to one."

    n: int
    abnormal: int
    lo: float  # Wilson's interval of the abnormal share, on as many cases as there are patients
    hi: float
    lowest: float  # of their probabilities
    highest: float
    region: str | None  # None where studies of all regions were looked at

    @property
    def share(self) -> float:
        return self.abnormal / self.n


@dataclass(frozen=True)
class Record:
    "The labelled valid studies of a run, decided as it decides, and what they are worth."

    studies: pd.DataFrame  # study, region, patient, label, p_abnormal, abnormal; no rows where nothing was scored
    scores: pd.DataFrame  # from `score`, indexed by region and "overall"; no rows likewise
    bases: pd.DataFrame  # of train, indexed by region and "all": images, and `share`, which of them are abnormal

    def of_region(
        self,
        region: str,  # any; one without valid studies has no rows
    ) -> pd.DataFrame:
        "The valid studies of one region."
        return self.studies[self.studies["region"] == region]

    def comparable(
        self,
        region: str,  # of a study
    ) -> tuple[pd.DataFrame, str | None]:  # valid studies, and their region; None where they are of all
        "What a study is held against: its own region where that has `OWN` valid studies, else all of them."
        own = self.of_region(region)
        return (own, region) if len(own) >= OWN else (self.studies, None)

    def neighbours(
        self,
        p: float,  # the probability of a study
        region: str,  # its region
    ) -> Neighbours | None:  # None for fewer than `FEW` studies
        "Of the `comparable` studies those nearest to a probability: a fifth of them, ten to `NEAREST`, ties all taken."
        table, of = self.comparable(region)
        if len(table) < FEW:
            return None
        distance = (table["p_abnormal"] - p).abs().to_numpy().round(12)  # equal ones tie
        k = int(np.clip(len(table) // 5, 10, NEAREST))
        near = table[distance <= np.sort(distance)[k - 1]]
        abnormal, patients = int(near["label"].sum()), near["patient"].nunique()
        lo, hi = wilson(abnormal / len(near), patients)
        ends = near["p_abnormal"].min(), near["p_abnormal"].max()
        return Neighbours(len(near), abnormal, float(lo), float(hi), *map(float, ends), of)

    def rates(
        self,
        region: str,  # or "overall"
    ) -> pd.Series | None:  # n, n_abnormal, and each of `RATES` with _lo and _hi; None without valid studies
        "What the decision is worth in one region, or in all."
        return self.scores.loc[region] if region in self.scores.index else None

    def histogram(
        self,
        region: str,  # of a study
        bins: int = 20,  # of equal width
    ) -> np.ndarray:  # 2 x bins counts: normal, abnormal
        "How the probabilities of the `comparable` studies lie."
        table, edges = self.comparable(region)[0], np.linspace(0, 1, bins + 1)
        p, label = table["p_abnormal"].to_numpy(float), table["label"].to_numpy(float)
        return np.stack([np.histogram(p[label == side], edges)[0] for side in (0, 1)])


def read_record(
    now: Moment,  # of a run
) -> Record:  # without studies where the run keeps no predictions of its valid rows
    "What a run knows of itself. Nothing is predicted for it."
    decision, images = now.decision(), read_table(now.run / "images.csv")
    train = images[images["split"] == "train"]
    abnormal = train["label"].astype(float).groupby(train["region"])
    bases = pd.DataFrame(dict(images=abnormal.size(), share=abnormal.mean()))
    bases.loc["all"] = len(train), train["label"].astype(float).mean()
    preds = now.kept_predictions("valid")
    preds = pd.DataFrame(columns=["label"]) if preds is None else preds
    preds = preds[preds["label"].notna()]
    if preds.empty:
        empty = pd.DataFrame(columns=["study", "region", "patient", "label", "p_abnormal", "abnormal"])
        return Record(empty, pd.DataFrame(), bases)
    return Record(decision.apply(preds), score(preds, "asymptotic", decision=decision), bases)
