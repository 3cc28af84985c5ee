"""Where a probability becomes a decision: temperature and threshold, chosen on `tune`, on nothing that is reported."""

import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

from mura_fastai.errors import InputError
from mura_fastai.files import read_yaml, write_text
from mura_fastai.results.intervals import asymptotic_bounds
from mura_fastai.results.measures import METRICS, RATES, confusion, cross_entropy
from mura_fastai.results.pooling import POOLS, to_studies
from mura_fastai.text import one_of

FORMAT = 1  # of decision.yaml
RULES = "kappa, youden, or a wanted sensitivity such as sensitivity=0.9"
LOWEST, HIGHEST = 0.05, 20.0  # temperatures
_EDGE = 1e-7  # probabilities are kept that far from 0 and 1, where the odds end


@dataclass(frozen=True)
class Decision:
    "How the views of a study become a probability, and the probability a decision."

    threshold: float = 0.5  # a study is abnormal above it, after the temperature
    temperature: float = 1.0  # the study's log odds are divided by it: above 1 the model was too sure of itself
    pool: str = "mean"  # how views become a study
    by: str = "fixed"  # what chose the threshold
    regions: dict = field(default_factory=dict)  # region -> its own {threshold, temperature}
    chosen_on: dict = field(default_factory=dict)  # split, studies, abnormal, and what was gained on them

    def __post_init__(self):
        if self.pool not in POOLS:
            raise InputError(f"there is no pool {self.pool!r}: choose one of {', '.join(POOLS)}")
        if not 0 <= self.threshold <= 1:
            raise InputError(f"the threshold is {self.threshold}: give a probability from 0 to 1")
        if not 0 < self.temperature < float("inf"):
            raise InputError(f"the temperature is {self.temperature}: give a number above 0")

    def apply(
        self,
        preds: pd.DataFrame,  # predictions table, or studies that carry no decision yet
    ) -> pd.DataFrame:  # a row a study; `p_abnormal` calibrated, and `abnormal`, the decision, 0 or 1
        "Pool the views, calibrate and decide. Raises `InputError` for studies that were decided before."
        if is_decided(preds) and "path" not in preds:
            raise InputError("these studies carry decisions already: start from the predictions of images")
        studies = to_studies(preds, self.pool)
        p, threshold = self.calibrated(studies["p_abnormal"], studies["region"]), self.thresholds(studies["region"])
        studies = studies.assign(p_abnormal=p, abnormal=(p > threshold).astype("int64"))
        studies.attrs["decision"] = asdict(self)
        return studies

    def calibrated(
        self,
        p,  # n probabilities
        region,  # n regions
    ) -> np.ndarray:  # n probabilities
        "After the temperature of each one's region."
        return temper(p, [self.regions.get(r, {}).get("temperature", self.temperature) for r in region])

    def thresholds(
        self,
        region,  # n regions
    ) -> np.ndarray:  # n thresholds
        "What a calibrated probability is held against."
        return np.array([self.regions.get(r, {}).get("threshold", self.threshold) for r in region], float)


def is_decided(
    table: pd.DataFrame,  # predictions or studies table
) -> bool:
    "Whether it carries decisions: studies with `abnormal`, or images with `p_study` and `abnormal` of their studies."
    return "abnormal" in table and ("p_study" in table if "path" in table else "n_views" in table)


def studies_as_decided(
    table: pd.DataFrame,  # one that `is_decided`
    pool: str = "mean",  # how views become a study, where the table does not say
) -> pd.DataFrame:  # a row a study, with `abnormal`
    "The studies of a table as it decides them itself. Raises `InputError` for what is no probability or decision."
    studies = to_studies(table, pool)
    if "path" not in table:
        return studies
    own = table.drop_duplicates("study").set_index("study").loc[studies["study"]]
    p, said = (pd.to_numeric(own[c], errors="coerce").to_numpy(float) for c in ("p_study", "abnormal"))
    if not (((p >= 0) & (p <= 1)).all() and np.isin(said, (0, 1)).all()):
        raise InputError("p_study is no number from 0 to 1, or abnormal not 0 or 1: drop or correct these columns")
    return studies.assign(p_abnormal=p, abnormal=said.astype("int64"))


def temper(
    p,  # n probabilities
    temperature,  # one number, or n; 1 changes nothing
) -> np.ndarray:  # n probabilities in the same order
    "Divide log odds by a temperature: Guo, Pleiss, Sun and Weinberger, ICML 2017."
    p, temperature = np.asarray(p, float), np.asarray(temperature, float)
    # rounded, as pooled means are, so that equal ones stay equal
    return np.where(temperature == 1, p, expit(logit(np.clip(p, _EDGE, 1 - _EDGE)) / temperature).round(12))


def fit_temperature(
    label,  # n truths, 0 or 1
    p,  # n probabilities
) -> float:  # from 0.05 to 20
    "The temperature with the smallest cross-entropy on these studies. Raises `InputError` for one class."
    label, p = _both_classes(label, p)
    best = minimize_scalar(
        lambda t: cross_entropy(label, temper(p, np.exp(t))).mean(), bounds=np.log([LOWEST, HIGHEST]), method="bounded"
    )
    # rounded, since the search ends a little before its limits
    return round(float(np.exp(best.x)), 3)


def choose_threshold(
    label,  # n truths, 0 or 1
    p,  # n probabilities
    by: str = "kappa",  # kappa, youden, or a wanted sensitivity such as sensitivity=0.9
) -> float:  # halfway between two neighbouring probabilities
    """The threshold with the best kappa, the best Youden index, or the highest that keeps a wanted sensitivity.

    Of several equally good ones the nearest to one half. Youden, Cancer 3 (1950) 32: sensitivity + specificity - 1.
    Raises `InputError` for one class, an unknown rule, and a sensitivity that no threshold reaches."""
    label, p = _both_classes(label, p)
    values = np.unique(p)
    between = np.concatenate([[values[0] / 2], (values[:-1] + values[1:]) / 2, [(values[-1] + 1) / 2]])
    truths = [np.sort(p[label == side]) for side in (0, 1)]
    not_over = np.stack([np.searchsorted(o, between, "right") for o in truths], -1)
    cm = np.stack([not_over, [len(o) for o in truths] - not_over], -1)
    sensitivity, specificity = RATES["sensitivity"](cm), RATES["specificity"](cm)
    wanted = _wanted_sensitivity(by)
    if wanted is not None:
        kept = between[sensitivity >= wanted - 1e-12]
        if not len(kept):
            lost = np.mean(p[label == 1] == 0)
            raise InputError(f"no threshold finds {wanted:.0%}: {lost:.0%} of the abnormal have probability 0")
        return float(kept.max())
    worth = RATES["kappa"](cm) if by == "kappa" else sensitivity + specificity
    best = between[worth >= worth.max() - 1e-12]
    return float(best[np.argmin(np.abs(best - 0.5))])


def choose_decision(
    tune: pd.DataFrame,  # predictions table of labelled rows that are not reported: the run's `tune`
    by: str = "kappa",  # of the threshold: kappa, youden, or sensitivity=0.9
    per_region: bool = False,  # numbers of their own for regions with `least` studies of each label
    temperature: bool = True,  # calibrate as well
    pool: str = "mean",  # how views become a study
    least: int = 20,  # studies of each label that a choice needs: of fewer it is a throw of dice
    tune_on_reported: bool = False,  # allow rows of valid or test; what is then reported of them is too good
) -> Decision:
    """Fit the temperature, then choose the threshold, on studies that nothing is reported of.

    Raises `InputError` for an unknown rule, fewer than `least` studies of a label, rows that were trained on, and,
    unless allowed in as many words, rows of valid or test."""
    _wanted_sensitivity(by)
    studies = to_studies(tune, pool)
    studies = studies[studies["label"].notna()]
    reported = studies["split"].isin(("valid", "test"))
    if reported.any() and not tune_on_reported:
        raise InputError(
            f"{one_of(reported.sum(), 'study')} of valid or test, which are reported, among these: choose on tune, "
            "or say tune_on_reported (--tune-on-reported) and that the score is too good"
        )
    if (studies["split"] == "train").any():
        raise InputError("rows of train are among those to choose on: the network knows them; choose on tune")
    abnormal = int(studies["label"].sum())
    if min(abnormal, len(studies) - abnormal) < least:
        there = f"{one_of(len(studies), 'study')} to choose on, {abnormal} abnormal"
        raise InputError(
            f"{there}: at least {least} of each label are needed; "
            "give a threshold, or ask for fewer (mura calibrate --least 1)"
        )
    regions = {}
    if per_region:
        fewest = studies.groupby("region")["label"].agg(lambda o: min((o == 1).sum(), (o == 0).sum()))
        mine = sorted(fewest.index[fewest >= max(least, 1)])
        regions = {r: _fit(studies[studies["region"] == r], by, temperature) for r in mine}
    told = dict(split="reported rows" if reported.any() else "tune", studies=len(studies), abnormal=abnormal)
    decision = Decision(**_fit(studies, by, temperature), pool=pool, by=by, regions=regions, chosen_on=told)
    return replace(decision, chosen_on=told | _gain(studies, decision))


def decide_together(
    tables: list[pd.DataFrame],  # predictions of the same rows, one a model
    decisions: list[Decision],  # of each
) -> pd.DataFrame:  # a row a study: the mean of the calibrated probabilities, and `abnormal`
    "Several models as one: a study is abnormal where its mean probability is above the mean of their thresholds."
    if len(tables) == 1:
        return decisions[0].apply(tables[0])
    each = [d.apply(t) for d, t in zip(decisions, tables, strict=True)]
    if len({d.pool for d in decisions}) > 1:
        pools = " and ".join(sorted({d.pool for d in decisions}))
        raise InputError(f"these runs pool views by {pools}: calibrate them alike (mura calibrate RUN --pool mean)")
    if any(list(t["study"]) != list(each[0]["study"]) for t in each):
        raise InputError("these predictions differ in their studies: predict the same images with each run")
    p = np.mean([t["p_abnormal"] for t in each], 0).round(12)
    threshold = np.mean([d.thresholds(each[0]["region"]) for d in decisions], 0)
    studies = each[0].assign(p_abnormal=p, abnormal=(p > threshold).astype("int64"))
    told = dict(threshold=float(np.mean([d.threshold for d in decisions])), pool=decisions[0].pool, by="fixed")
    studies.attrs["decision"] = told
    return studies


def write_decision(
    decision: Decision,
    run: str | Path,  # a run's folder
):
    "Keep it as decision.yaml, where every later command finds it."
    text = yaml.safe_dump({"format": FORMAT, **asdict(decision)}, sort_keys=False, allow_unicode=True)
    write_text(Path(run) / "decision.yaml", text)


def read_decision(
    run: str | Path,  # a run's folder
) -> Decision | None:  # None where the run has none yet
    "The decision of a run. Raises `InputError` where the file is not one."
    file = Path(run) / "decision.yaml"
    if not file.exists():
        return None
    told = read_yaml(file)
    if isinstance(told.get("format"), int) and told["format"] > FORMAT:
        raise InputError(f"{file}: written by a newer version (format {told['format']}); upgrade mura_fastai")
    told = {"regions": {}, "chosen_on": {}} | {k: v for k, v in told.items() if k != "format"}
    tables = isinstance(told["regions"], dict) and isinstance(told["chosen_on"], dict)
    numbers = [told, *told["regions"].values()] if tables else [None]
    known = set(told) <= set(Decision.__dataclass_fields__) and told.get("pool") in list(POOLS)
    if not known or not isinstance(told.get("by", ""), str) or not all(_is_sound(o) for o in numbers):
        raise InputError(f"{file}: not a decision; remove it, or write it anew with mura calibrate {run}")
    return Decision(**told)


def _is_sound(told) -> bool:
    "Whether a threshold and a temperature can be what they say; NaN is in no range."
    if not isinstance(told, dict):
        return False
    numbers = [told.get("threshold"), told.get("temperature")]
    plain = all(isinstance(o, int | float) and not isinstance(o, bool) for o in numbers)
    return plain and 0 <= numbers[0] <= 1 and 0 < numbers[1] < float("inf")


def _wanted_sensitivity(by: str) -> float | None:
    "The number of a rule sensitivity=NUMBER; None for kappa and youden; an InputError for anything else."
    if by in ("kappa", "youden"):
        return None
    found = re.fullmatch(r"sensitivity\s*[=:]\s*(0?\.\d+|1(?:\.0*)?)", str(by))
    if not found:
        raise InputError(f"no rule {by!r} to choose a threshold by: give {RULES}")
    return float(found[1])


def _both_classes(label, p):
    label, p = np.asarray(label, float), np.asarray(p, float)
    if len(set(label)) < 2:
        raise InputError(
            f"{one_of(len(label), 'study')} of one class: a threshold or temperature needs normal and abnormal ones"
        )
    return label, p


def _fit(studies: pd.DataFrame, by: str, temperature: bool) -> dict:
    label, p = studies["label"].to_numpy(float), studies["p_abnormal"].to_numpy()
    degree = fit_temperature(label, p) if temperature else 1.0
    # not rounded: it may lie between two probabilities that are closer than any rounding
    return dict(threshold=choose_threshold(label, temper(p, degree), by), temperature=degree)


def _gain(studies: pd.DataFrame, decision: Decision) -> dict:
    "Of the rows that it was chosen on, and so flattering: kappa and loss before and after; rates with intervals."
    after, label = decision.apply(studies), studies["label"].to_numpy(float)
    kappas = [RATES["kappa"](confusion(label, o)) for o in (studies["p_abnormal"] > 0.5, after["abnormal"])]
    losses = [cross_entropy(label, t["p_abnormal"]).mean() for t in (studies, after)]
    said, everybody = after["abnormal"].to_numpy(float), {"all": np.arange(len(label))}
    frame = label, after["p_abnormal"].to_numpy(), said, everybody, after["patient"].astype(str).to_numpy()
    bounds, told = asymptotic_bounds(*frame)[:, 0], {}
    for name in ("sensitivity", "specificity"):
        ends = bounds[:, METRICS.index(name)]
        told[name] = [round(float(o), 4) for o in (RATES[name](confusion(label, said)), *ends)]
    return dict(kappa=[round(float(k), 4) for k in kappas], loss=[round(float(x), 4) for x in losses]) | told


def format_decision(
    decision: Decision,
) -> str:
    "What was chosen, on what, and how far to trust it, in a few lines."
    on = decision.chosen_on
    lines = [
        f"abnormal above {decision.threshold:.3f}, temperature {decision.temperature:.2f}, {decision.pool} over views"
    ]
    for region, own in decision.regions.items():
        lines.append(f"  {region}: above {own['threshold']:.3f}, temperature {own['temperature']:.2f}")
    if decision.by == "fixed":
        return "\n".join([*lines, "given, not chosen" + (f": {on['not chosen']}" if on else "")])
    (k0, k1), (loss0, loss1) = on["kappa"], on["loss"]
    lines += [
        f"by {decision.by} on {on['studies']} studies of {on['split']}, {on['abnormal']} abnormal",
        f"on these same studies, so optimistic: kappa {k1:.2f} ({k0:.2f} at one half),",
        f"cross-entropy {loss1:.3f} ({loss0:.3f} before),",
    ]
    if decision.temperature in (LOWEST, HIGHEST):
        lines.append("the temperature stands at its limit: these studies cannot calibrate the probabilities")
    rates = [
        f"{name} {s:.2f} [{lo:.2f}, {hi:.2f}]"
        for name, (s, lo, hi) in ((n, on[n]) for n in ("sensitivity", "specificity"))
    ]
    return "\n".join([*lines, ", ".join(rates)])
