"""An answer in plain sentences: what its probability means, what it rests on, and what it does not say."""

import math
from dataclasses import dataclass

from mura_fastai.results.calibrate import HIGHEST, LOWEST, Decision
from mura_fastai.share.app_answers import Answer
from mura_fastai.share.app_record import FEW, Neighbours, Record

RESEARCH = "Research only. Not a medical device: nothing here may be used for diagnosis or treatment."
NOT_SAID = (
    "A heat map shows what raised this network's probability, not where a lesion is: "
    "it may point beside one, and a study called normal has a hottest place too."
)


@dataclass(frozen=True)
class Words:
    "What the page says of one answer."

    verdict: str  # a few words
    probability: str  # a sentence
    meaning: list[str]  # sentences: what such a probability was worth, on whom, at which share of abnormal ones
    cautions: list[str]  # sentences: why to trust it less


def region_name(
    region: str,  # as a run calls it; "" for none
) -> str:
    "XR_WRIST is the wrist to people."
    return region.removeprefix("XR_").replace("_", " ").lower() or "another region"


def in_100(
    share: float,  # from 0 to 1
) -> str:
    "A share as a whole number of a hundred."
    return f"{100 * share:.0f}"


def apart(
    p: float,  # a probability
    threshold: float,  # what it is held against
) -> tuple[str, str]:
    "Both numbers, with as many digits as tell them apart."
    digits = next((d for d in (2, 3, 4, 5) if round(p, d) != round(threshold, d)), 2)
    return f"{p:.{digits}f}", f"{threshold:.{digits}f}"


def words_of(
    answer: Answer,
    record: Record,  # of the run that answered
    decision: Decision,  # likewise
) -> Words:
    "The sentences of one answer, in the order in which they are read."
    p, threshold = apart(answer.p_abnormal, answer.threshold)
    said = "abnormal" if answer.abnormal else "normal"
    probability = (
        f"Probability of abnormal {p}, {'above' if answer.abnormal else 'not above'} the threshold {threshold}: "
        f"the network calls this study {said}."
    )
    meaning = [*_near(record.neighbours(answer.p_abnormal, answer.region), record), *_worth(answer, record)]
    meaning.append(_base(answer, record))
    return Words(f"Called {said}", probability, meaning, _cautions(answer, record, decision))


def _near(near: Neighbours | None, record: Record) -> list[str]:
    "How often a study with such a probability was abnormal."
    if near is None:
        n = len(record.studies)
        why = f"has only {n} scored studies" if n else "keeps no scored studies (mura evaluate RUN makes them)"
        return [f"What a probability like this is worth is not known: the run {why}."]
    of = f"{region_name(near.region)} studies" if near.region else "studies of all regions"
    were = "was" if near.abnormal == 1 else "were"
    return [
        f"Of the {near.n} valid {of} with the nearest probabilities ({near.lowest:.2f} to {near.highest:.2f}), "
        f"{near.abnormal} {were} abnormal: {in_100(near.share)} % "
        f"(95 % interval {in_100(near.lo)} to {in_100(near.hi)})."
    ]


def _worth(answer: Answer, record: Record) -> list[str]:
    "Sensitivity and specificity of the threshold: of the region where that has enough studies, else of all."
    own, every = record.rates(answer.region), record.rates("overall")
    if every is None:
        return []
    enough = own is not None and min(own["n_abnormal"], own["n"] - own["n_abnormal"]) >= FEW / 2
    rates, who = (own, f"valid {region_name(answer.region)}") if enough else (every, "valid")
    normal = int(rates["n"] - rates["n_abnormal"])
    parts = []
    for name, n, words in (
        ("sensitivity", rates["n_abnormal"], "found {} of {:.0f} abnormal {} studies"),
        ("specificity", normal, "left {} of {:.0f} normal {} studies alone"),
    ):
        if not math.isnan(rates[name]):
            lo, hi = rates[f"{name}_lo"], rates[f"{name}_hi"]
            between = "" if math.isnan(lo) else f", 95 % interval {in_100(lo)} to {in_100(hi)}"
            counts = words.format(round(rates[name] * n), n, who)
            parts.append(f"{counts} ({name} {in_100(rates[name])} %{between})")
    return [f"At this threshold the network {' and '.join(parts)}."] if parts else []


def _base(answer: Answer, record: Record) -> str:
    "Where a probability comes from: the share of abnormal ones that it takes for granted."
    key = answer.region if answer.region in record.bases.index else "all"
    images = "images" if key == "all" else f"{region_name(key)} images"
    share = in_100(record.bases.loc[key, "share"])
    return (
        f"It is meant for studies like those of training, where {share} of 100 {images} were abnormal. "
        "Where abnormal ones are rarer, the same picture deserves a lower probability."
    )


def _cautions(answer: Answer, record: Record, decision: Decision) -> list[str]:
    told, name, own = [], region_name(answer.region), record.rates(answer.region)
    if not answer.known:
        told.append(f"The network was not trained on this region ({name}): its answer says little.")
    elif len(record.studies) and (own is None or math.isnan(own["auroc"])):
        told.append(f"How well the network does on the {name} is not known: it has no valid studies of both labels.")
    elif own is not None and own["n"] < FEW:
        told.append(f"How well it does on the {name} is hardly known: {int(own['n'])} valid studies.")
    elif own is not None and own["auroc_lo"] < 0.5:
        told.append(f"On the {name} the network is not surely better than guessing: AUROC {own['auroc']:.2f}.")
    if answer.unreadable:
        n = len(answer.unreadable)
        told.append(f"{n} of {n + len(answer.views)} files could not be used; the answer rests on the others.")
    if decision.by == "fixed" and "not chosen" in decision.chosen_on:
        told.append("The threshold is one half because the run had too few studies to choose one on.")
    if decision.temperature in (LOWEST, HIGHEST):
        told.append("The run's studies could not calibrate its probabilities.")
    told += [f"{shown(v.name)}: {note}." for v in answer.views for note in v.notes]
    return told


def clean(
    name: str,  # from whoever sent it
    width: int = 60,  # characters at most
) -> str:
    "A name without characters that hide or turn round what stands beside them, cut in the middle."
    name = "".join(c if c.isprintable() else "?" for c in name)
    return name if len(name) <= width else f"{name[: width // 2]}...{name[-(width // 2 - 3) :]}"


def shown(
    name: str,  # of a file, from whoever sent it
    width: int = 60,  # characters at most
) -> str:
    "The last part of a file's name, see `clean`."
    return clean(name.replace("\\", "/").rstrip("/").rpartition("/")[2] or "unnamed", width)


def grounds(
    record: Record,
    decision: Decision,
    settings: dict,  # of the run
) -> list[tuple[str, str]]:  # term and what it is
    "What all answers of a run rest on."
    on, every, trained = decision.chosen_on, record.rates("overall"), int(record.bases.loc["all", "images"])
    inside = ", inside the network, which was trained on whole studies" if settings.get("views") else ""
    rows = [
        ("Network", f"{settings['arch']}, pictures of {settings['size']} px, trained on {trained} images"),
        ("Threshold", _chosen(decision, on)),
        ("Temperature", _temperature(decision)),
        ("Views", f"{settings.get('views') or decision.pool} over the views of a study" + inside),
    ]
    for region, own in decision.regions.items():
        rows.append((region_name(region), f"threshold {own['threshold']:.3f}, temperature {own['temperature']:.2f}"))
    if every is not None:
        auroc = f"{every['auroc']:.2f}" if math.isfinite(every["auroc"]) else "n/a"
        between = f" [{every['auroc_lo']:.2f}, {every['auroc_hi']:.2f}]" if math.isfinite(every["auroc_lo"]) else ""
        rows.append(
            ("Scored on", f"{every['n']:.0f} valid studies, {every['n_abnormal']:.0f} abnormal; AUROC {auroc}{between}")
        )
    return rows


def _chosen(decision: Decision, on: dict) -> str:
    if decision.by == "fixed":
        return f"{decision.threshold:.3f}, given, not chosen"
    return (
        f"{decision.threshold:.3f}, by {decision.by} on {on.get('studies', '?')} {on.get('split', 'tune')} studies, "
        f"{on.get('abnormal', '?')} abnormal"
    )


def _temperature(decision: Decision) -> str:
    if decision.temperature == 1:
        return "1: the network's probabilities as they are"
    sure = "too sure of itself" if decision.temperature > 1 else "too unsure of itself"
    return f"{decision.temperature:.2f}: before it, the network was {sure}"
