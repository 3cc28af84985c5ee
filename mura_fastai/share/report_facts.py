"""What a report knows of a run: its folder read once, and a way to say things without this machine's paths."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from mura_fastai.data.phantom import is_phantom
from mura_fastai.errors import InputError
from mura_fastai.results.calibrate import Decision, read_decision
from mura_fastai.results.interpret import MuraInterpretation
from mura_fastai.results.measures import cross_entropy
from mura_fastai.results.metrics import always_normal, score, scores_to_json
from mura_fastai.results.moments import Moment
from mura_fastai.results.repeats import decided_studies, evaluate_repeats, out_of_fold, repeats_of, score_repeats
from mura_fastai.results.scoring import region_only
from mura_fastai.results.tables import read_scores
from mura_fastai.training.plans import is_repeats, read_repeats
from mura_fastai.training.repeats import sub_runs
from mura_fastai.training.runs import read_settings
from mura_fastai.training.tables import own_images
from mura_fastai.training.within import refuse_unfinished

# From the start of an absolute path to its last part. It would rather take a word too many than leave a folder.
_FOLDERS = re.compile(r"""(?<![\w.~/])/(?=[^\s/])[^\n:'"]*/""")


@dataclass(eq=False)
class Facts:
    "One run, or the runs of one recipe (folds, seeds), as a report needs it."

    name: str  # in the report
    run: Path
    key: str  # begins the ids of its sections
    settings: dict  # of the run, or of the first of several
    plan: dict | None  # repeats.yaml, where there are several
    subs: list  # folders of the runs that were trained: itself, or several
    moments: list  # of each of them: heat maps are of the weights that predicted, or there are none
    images: pd.DataFrame  # the images table
    skipped: pd.DataFrame | None  # path, reason; None where it is not known
    preds: pd.DataFrame  # of the valid rows
    decision: Decision | None  # None where each of several runs has its own
    scores: pd.DataFrame  # indexed by region; attrs hold `region_only` and `always_normal`
    interp: MuraInterpretation
    hidden: list = field(default_factory=list)  # (folder of this machine, what is said instead), the longest first

    @property
    def data(self) -> dict:
        "Where the images came from, as settings.yaml or repeats.yaml has it."
        return ((self.plan or self.settings).get("data") or {}) | {
            k: v for k, v in (self.settings.get("data") or {}).items() if k in ("path", "source", "split_seed")
        }

    @property
    def root(self) -> str:
        "The folder of the data, as the paths of the images begin."
        return _root_of(self.data.get("path"), self.images["path"])

    @property
    def source(self) -> str:
        "What kind of data: phantom, mura, fracatlas, folder or csv."
        source = self.data.get("source") or "folder"
        # A phantom has MURA's own layout, and must not be taken for it where its files are gone.
        drawn = source == "mura" and self.data.get("phantom", is_phantom(self.root))
        return "phantom" if drawn else source

    @property
    def leaked(self) -> int:
        "How many patients are both among those that were trained or chosen on and those that are reported."
        split, patient = self.images["split"], self.images["patient"]
        return len(set(patient[split == "valid"]) & set(patient[split.isin(("train", "tune"))]))

    @property
    def flaw(self) -> str:
        "Why the scores are better than they should be; empty where nothing is known against them."
        why = []
        if self.leaked:
            who = f"{self.leaked:,} {'patient is' if self.leaked == 1 else 'patients are'}"
            why.append(f"{who} both among those trained or chosen on and those reported")
        if self.decision is not None and self.decision.chosen_on.get("split", "tune") != "tune":
            why.append("the threshold was chosen on studies that are reported")
        return ", and ".join(why)

    @property
    def epochs(self) -> int:
        "Epochs that were asked for, those of the head alone among them."
        return self.settings["epochs"] + self.settings.get("freeze_epochs", 0)

    @property
    def there(self) -> bool:
        "Whether any of the images that are reported on is on this machine."
        return "path" in self.preds and any(map(os.path.exists, self.preds["path"].head(200)))

    def tell(
        self,
        text,  # anything
    ) -> str:
        "As text, with folders of this machine shortened: a report is passed on, and they name people."
        text = str(text)
        for folder, name in self.hidden:
            text = text.replace(folder, name)
        return _FOLDERS.sub("", text)

    def setting(
        self,
        value,  # of settings.yaml
    ) -> str:
        "A setting in one line; a path is its last part alone."
        if isinstance(value, str) and "/" in value:
            return Path(value).name
        words = {None: "none", True: "yes", False: "no"}
        return words[value] if value is None or isinstance(value, bool) else self.tell(value)

    def short(
        self,
        path,  # of an image
    ) -> str:
        "A path from the data's folder on, or its last part where it lies elsewhere."
        path = str(path)
        if path.startswith(self.root + "/"):
            return path[len(self.root) + 1 :]
        return Path(path).name if path.startswith("/") else path


def _root_of(told: str | None, paths: pd.Series) -> str:
    "The named folder where images lie in it; else the deepest one that holds all of them."
    told = str(told).rstrip("/") if told else ""
    if told and len(paths) and str(paths.iloc[0]).startswith(told + "/"):
        return told
    try:
        return os.path.commonpath([os.path.dirname(p) for p in paths.head(2000)])
    except ValueError:  # none, or relative and absolute ones
        return told


def name_runs(
    runs: list,  # folders
) -> list[str]:
    "Names of the folders, with a number where two are called alike (as `compare_runs` has it)."
    names = [Path(run).absolute().name for run in runs]
    return [f"{name} ({i})" if names.count(name) > 1 else name for i, name in enumerate(names, 1)]


def read_facts(
    run: str | Path,  # a run's folder, or one that holds several
    name: str,  # in the report
    key: str = "",  # begins the ids of its sections
) -> Facts:
    "Read a run and score it. InputError: no run, or one without predictions whose data is not there."
    run = Path(run)
    plan = read_repeats(run)[0] if is_repeats(run) else None
    if plan:
        refuse_unfinished(run)
    subs = sub_runs(run) if plan else [run]
    settings, tables = read_settings(subs[0]), [own_images(one, read_settings(one).get("data")) for one in subs]
    moments = [Moment(one) for one in subs]  # before their predictions are read
    skipped = [_read_skipped(one / "skipped.csv") for one in subs]
    skipped = None if any(told is None for told in skipped) else pd.concat(skipped).drop_duplicates(ignore_index=True)
    read = _several if plan else _single
    preds, decision, scores, interp = read(run, moments[0])
    facts = Facts(
        name, run, key, settings, plan, subs, moments, tables[0], skipped, preds, decision, scores, interp,
    )  # fmt: skip
    facts.hidden = _hidden(facts)
    return facts


def _single(run: Path, now: Moment):
    preds, decision = now.predictions(), now.decision()
    interp = MuraInterpretation(preds, decision=decision, run=now, learn=now.loaded)
    scores = score(preds, decision=decision)
    scores.attrs["region_only"] = scores_to_json(region_only(run, preds))
    scores.attrs["always_normal"] = scores_to_json(score(always_normal(preds), ci=None))
    return preds, decision, scores, interp


def _several(run: Path, now: Moment):
    "Scores of all of them together; what is drawn is of the first seed, whose folds cover every study once."
    tables, views = repeats_of(run, decided_studies), repeats_of(run, _calibrated)[0]
    scores = score_repeats(tables)
    if not (run / "metrics.json").exists():
        evaluate_repeats(run)
    told = read_scores(run / "metrics.json")
    scores.attrs |= {k: told[k] for k in ("region_only", "always_normal", "folds", "seeds") if k in told}
    # Each training decides in its own way; the interpretation by itself would know one way only, and draws no threshold
    # where regions have their own.
    apart = Decision(regions={"each training": {}})
    interp = MuraInterpretation(views, decision=apart, run=now)
    first = tables[0].rename(columns={"abnormal": "predicted"}).astype({"label": "Int64"})
    interp.studies = first.assign(loss=cross_entropy(first["label"], first["p_abnormal"])).reset_index(drop=True)
    return out_of_fold(run), None, scores, interp


def _calibrated(run: Path, preds: pd.DataFrame) -> pd.DataFrame:
    decision = read_decision(run) or Decision()
    return preds.assign(p_abnormal=decision.calibrated(preds["p_abnormal"], preds["region"]))


def _read_skipped(file: Path) -> pd.DataFrame | None:
    "What a run left out; None where its file is not there, or none: then nobody knows."
    try:
        return pd.read_csv(file, dtype="str", keep_default_na=False, encoding_errors="surrogateescape")[
            ["path", "reason"]
        ]
    except (OSError, ValueError, KeyError):
        return None


def _hidden(facts: Facts) -> list[tuple[str, str]]:
    data = str(facts.data.get("path") or "").rstrip("/")
    told = {facts.root: Path(facts.root).name, data: Path(data).name, str(facts.run.absolute()): facts.name}
    told |= {str(facts.run): facts.name, str(Path.home()): "~", os.path.abspath("."): "."}
    told |= {os.path.realpath(folder): name for folder, name in list(told.items()) if folder}
    return sorted(((k, v) for k, v in told.items() if len(k) > 3 and "/" in k), key=lambda o: -len(o[0]))


def facts_of(
    runs: list,  # folders
) -> list[Facts]:
    "All runs of a report. InputError as `read_facts`, before any of them is predicted where one is no run."
    for run in runs:
        (read_repeats if is_repeats(run) else read_settings)(run)
    if len({Path(run).resolve() for run in runs}) < len(runs):
        raise InputError("a run is named twice: name each run once")
    several = len(runs) > 1
    return [
        read_facts(run, name, f"r{i}-" if several else "")
        for i, (run, name) in enumerate(zip(runs, name_runs(runs), strict=True), 1)
    ]
