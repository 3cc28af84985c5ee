"""What a run is meant for and what not: the model card (Mitchell et al. 2019), and how to make the run again."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from fastcore.xml import FT, Code, Li, P, Ul

from mura_fastai.data.studies import REGIONS
from mura_fastai.share.report_facts import Facts
from mura_fastai.share.report_parts import bullets, command, folded, listed, note, section
from mura_fastai.text import one_of, short
from mura_fastai.training.fitting import CHANGES


@dataclass(frozen=True)
class Kind:
    "What is known of a kind of data."

    name: str
    what: str  # it is
    licence: str  # and what follows from it
    shared: str  # what a report that holds its pictures says at its top
    free: bool = False  # whether it may be passed on with them
    limits: tuple = ()  # of what a model of it can be
    tells_names: bool = False  # whether names of its studies and files may say who somebody is


_OWN = Kind(
    "own data",
    "Radiographs of the user's own; this package knows of them only what their folders or their table says.",
    "Not known to this package. Whoever passes on the model or this report has to know it.",
    "Pass it on only if the licence of the data, and those who are seen on them, allow it.",
    False,
    ("What the label means, who made it and how, is not written down in the run.",),
    tells_names=True,
)
KINDS = {  # a kind of source -> what is known of it
    "mura": Kind(
        "MURA",
        "MURA (Stanford; Rajpurkar et al. 2018, arXiv 1712.06957): studies of the upper limb in seven regions, one "
        "hospital, each labelled normal or abnormal by a radiologist in clinical routine.",
        "Stanford's research-use agreement: for research, not for commerce; the radiographs may not be passed on in "
        "any form. A report without them is made by --no-pixels.",
        "MURA's agreement forbids passing its radiographs on, so this file may not be shared. "
        "mura report --no-pixels makes one without them.",
        False,
        (
            "One hospital, upper limb only, and labels of daily routine: other hospitals, machines and bodies differ.",
            "Abnormal is more than fracture: hardware, degenerative disease, lesions and subluxations count as well.",
            "A study's label says nothing of single views, and on some of them nothing is to be seen.",
        ),
    ),
    "phantom": Kind(
        "a phantom",
        "A phantom: radiographs that a program draws in MURA's layout, with findings drawn into them. Nobody's bones.",
        "None is needed: it holds nothing of anybody.",
        "They are drawn by a program, and nothing that is measured on them says anything of real ones.",
        True,
        ("Nothing that is measured on drawn radiographs says anything of real ones.",),
    ),
    "fracatlas": Kind(
        "FracAtlas",
        "FracAtlas (Abedeen et al., Scientific Data 10, 521, 2023): radiographs of hand (with the whole upper limb), "
        "leg, hip and shoulder from three hospitals in Bangladesh, labelled fractured or not.",
        "CC BY 4.0: name the authors above (doi 10.6084/m9.figshare.22363012) and say what was changed: here pictures "
        "are made smaller, grey and overlaid with heat maps.",
        "FracAtlas is licensed CC BY 4.0: whoever passes this on names its authors (Abedeen et al., Scientific Data "
        "10, 521, 2023).",
        True,
        (
            "It names no patients: look-alike pictures are kept on one side of the split, other pictures of a patient "
            "may not be.",
            "An image is taken for a study of its own.",
            "Abnormal means fractured here; other findings are in the normal class.",
        ),
    ),
    "folder": _OWN,
    "csv": _OWN,
}  # fmt: skip


def card_section(facts: Facts, level: int) -> FT:
    "The headings are those of Mitchell et al., Model Cards for Model Reporting, FAT* 2019, arXiv 1810.03993."
    kind, s, d, told = KINDS[facts.source], facts.settings, facts.decision, facts.scores.loc["overall"]
    counts = facts.images.groupby("split").agg(studies=("study", "nunique"), patients=("patient", "nunique"))

    def rows_of(*splits):
        found = [f"{s}: {one_of(c.studies, 'study', 'studies')} of {one_of(c.patients, 'patient')}"
                 for s, c in counts.iterrows() if s in splits]  # fmt: skip
        return "; ".join(found) or "none"

    regions = ", ".join(map(str, facts.interp.regions))
    reported, learned = rows_of("valid"), rows_of("train", "tune")
    if facts.plan and facts.plan.get("folds"):  # the counts above are of one fold
        patients = one_of(facts.interp.studies["patient"].nunique(), "patient")
        reported = f"every fold in turn: {one_of(int(told['n']), 'study', 'studies')} of {patients}"
        learned = f"in the first fold {learned}, in the others alike"
    apart = (
        f"But {facts.flaw}."
        if facts.flaw
        else "None of its patients was trained on, as far as the data tells, and neither epoch nor threshold was "
        "chosen on it."
    )
    chosen = (
        "epoch, temperature and threshold were" if d is None or d.chosen_on.get("split") == "tune" else "the epoch was"
    )
    body = {
        "Model details": f"{s['arch']}, fed grey pictures padded to a square of {s['size']} px, one answer an image; "
        f"trained by mura_fastai {s.get('versions', {}).get('mura_fastai', '')} "
        f"for up to {one_of(facts.epochs, 'epoch')}, of which the best on tune was kept. "
        "No licence of its own comes with the weights: that of the data binds them.",
        "Intended use": "Research on bone radiographs: comparing networks, recipes and data; finding labels and files "
        "worth a second look; teaching. Users are researchers and engineers.",
        "Out of scope": "Any use on patients: diagnosis, triage, a second reading, or putting people at ease. It is no "
        "medical device, and nobody has examined what it would do in a clinic. Regions, ages, machines and findings "
        "that were not in its training data.",
        "Factors": f"Scores are given by region ({regions}). Age, sex, machine and hospital are not told apart, "
        "so nobody knows how scores depend on them.",
        "Metrics": "Cohen's kappa and AUROC of studies, beside sensitivity, specificity and calibration, with 95 % "
        "intervals over patients where they can be had; what the region alone and always saying normal would score "
        "stands beside them.",
        "Evaluation data": f"{reported}. {kind.what} {apart}",
        "Training data": f"{learned}, from the same source. Weights were fitted on train; {chosen} chosen on tune.",
        "Quantitative analyses": f"AUROC {short(told['auroc'])}, kappa {short(told['kappa'])} over all; by region, "
        "with intervals, above. Whatever was tried on this data before can make these numbers look better than "
        "new data would.",
        "Data licence": kind.licence,
        "Ethical considerations": "Real radiographs are of people who did not choose this use; nobody should "
        "try to find out who they are. A network trained on few hospitals serves those worst who look least like "
        "their patients.",
        "Caveats and recommendations": bullets(
            *kind.limits,
            "A network uses whatever tells the label: see the audit of shortcuts above before believing its score.",
            "Heat maps show where evidence was taken from, not why, and not whether it is right.",
            "Before any other use: score it on data of the place where it would be used, region by region.",
        ),
    }
    lead = note("After Mitchell et al., Model Cards for Model Reporting (2019).")
    return section(f"{facts.key}card", "Model card", lead, listed(body), level=level)


def train_command(facts: Facts) -> list:
    "The words of the `mura train` that makes this run again."
    s, data, plan = facts.settings, facts.data, facts.plan
    asked = {**s, **((plan or {}).get("settings") or {})}
    words = ["mura", "train", _data_name(facts), "--source", data.get("source") or "folder", "--arch", s["arch"]]
    words += ["--size", s["size"], "--epochs", s["epochs"], "--bs", s["bs"], "--lr", s.get("lr")]
    words += ["--seed", plan["seeds"][0] if plan else s["seed"]]
    if plan and len(plan["seeds"]) > 1:
        words += ["--seeds", len(plan["seeds"])]
    if plan and plan.get("folds"):
        words += ["--folds", plan["folds"]]
    if s.get("weights"):
        words += ["--weights", Path(s["weights"]).name]
    elif s["arch"] != "mura_cnn" and not s.get("pretrained"):
        words += ["--no-pretrained"]
    words += ["--allow-missing"] if s.get("allow_missing") else []
    words += ["--freeze-epochs", s["freeze_epochs"]] if s.get("pretrained") else []
    for name in ("until", "pool", "dropout", "layer_decay", "weight_decay"):
        words += [f"--{name.replace('_', '-')}", s[name]] if s.get(name) is not None else []
    words += ["--region-aware"] if s.get("region_aware") else []
    words += ["--schedule", s["schedule"]] if s.get("schedule", "one-cycle") != "one-cycle" else []
    words += ["--optimizer", s["optimizer"]] if s.get("optimizer", "fastai") != "fastai" else []
    changes = [f"{k}={str(v).lower()}" for k, v in (s.get("augment") or {}).items() if CHANGES.get(k) != v]
    words += ["--augment", ",".join(changes)] if changes else []
    words += ["--split-seed", data["split_seed"]] if data.get("split_seed") else []
    some = data.get("source") == "mura" and set(data.get("regions") or REGIONS) < set(REGIONS)
    words += ["--regions", ",".join(data["regions"])] if some else []
    words += ["--allow-leaks"] if facts.leaked else []
    words += ["--max-bad", s["max_bad"]] if s.get("max_bad", 0.05) != 0.05 else []
    words += ["--precision", s["precision"]] if s.get("precision") else []
    words += ["--compile"] if s.get("compile") else []
    words += ["--no-store"] if s.get("store") is False and asked.get("store") is not None else []
    words += ["--out", facts.name]
    return words


def _data_name(facts: Facts) -> str:
    return Path(str(facts.data.get("path") or facts.root)).name or "DATA"


def reproduce_section(facts: Facts, level: int) -> FT:
    "Commands, versions, commit, fingerprint, seeds and hardware."
    s, d = facts.settings, facts.decision
    lines = [train_command(facts)]
    if d is not None and d.by != "fixed":
        calibrate = ["mura", "calibrate", facts.name, "--by", d.by, "--pool", d.pool]
        calibrate += ["--per-region"] if d.regions else []
        calibrate += ["--no-temperature"] if d.temperature == 1 and not d.regions else []
        lines.append(calibrate)
    elif d is not None and not d.chosen_on and (d.threshold, d.pool) != (0.5, "mean"):
        lines.append(["mura", "calibrate", facts.name, "--threshold", d.threshold, "--pool", d.pool])
    lines += [["mura", verb, facts.name] for verb in ("evaluate", "report")]
    seeds = ", ".join(map(str, facts.plan["seeds"])) if facts.plan else s["seed"]
    versions = (facts.plan or s).get("versions") or {}
    told = {
        "data": f"{_data_name(facts)}, fingerprint {facts.data.get('fingerprint', 'not kept')} "
        "(of studies, labels and splits)",
        "seeds": f"training {seeds}; split {facts.data.get('split_seed', 0)}",
        "source code": f"mura_fastai {versions.get('mura_fastai', '?')}, commit {s.get('commit') or 'not kept'}",
        "device": f"{s.get('device', '?')}, {s.get('precision', '?')}",
        "packages": ", ".join(f"{k} {v or 'not installed'}" for k, v in versions.items()),
    }
    words = P(
        "Names of folders are shortened to their last part. The same seed, versions and kind of device give the same "
        "weights on a CPU; another kind of device rounds in another way."
    )
    left = {"data", "versions", "format", "commit"}
    settings = [Li(k.replace("_", " "), " ", Code(facts.setting(v))) for k, v in s.items() if k not in left]
    return section(
        f"{facts.key}reproduce", "How to make it again", command(*map(in_lines, lines)), words, listed(told),
        folded("All settings", Ul(*settings, cls="names")), level=level,
    )  # fmt: skip


def in_lines(
    words: list,  # of a command; those that are None go
    width: int = 78,
) -> str:
    "A command as a shell takes it, broken before its options where it is long."
    parts, lines = [], []
    for word in (str(w) for w in words if w is not None):
        if parts and not word.startswith("--"):
            parts[-1].append(word)
        else:
            parts.append([word])
    for part in map(shlex.join, parts):
        if lines and len(lines[-1]) + len(part) + 3 <= width:
            lines[-1] += f" {part}"
        else:
            lines.append(f"    {part}" if lines else part)
    return " \\\n".join(lines)
