"""How a run came about: its training, its data and what was left out of it, and what it may be cheating with."""

import numpy as np
import pandas as pd
from fastcore.xml import FT, A, Code, Li, P, Ul, ft

from mura_fastai.data.studies import summarize
from mura_fastai.errors import InputError
from mura_fastai.results.audit import meaning
from mura_fastai.results.curves import kept_epoch, read_history
from mura_fastai.share.charts import interval_bar
from mura_fastai.share.report_card import KINDS
from mura_fastai.share.report_facts import Facts
from mura_fastai.share.report_parts import folded, note, notice, section, table
from mura_fastai.text import one_of, with_interval

NAMED = 200  # left-out files of one reason that are named
COLUMNS = {"auroc": "AUROC", "tune_loss": "tune loss", "train_loss": "train loss", "lr": "learning rate"}


def training_section(facts: Facts, level: int, plots: list) -> FT:
    "Epoch by epoch, on tune; of several trainings the first."
    name = f"{facts.key}training"
    try:
        history = read_history(facts.subs[0])
        kept = kept_epoch(history)
    except (InputError, KeyError) as e:
        return section(name, "Training", note(f"No history: {facts.tell(e)}"), level=level)
    if kept is None:
        return section(name, "Training", note("No history: no epoch came to its end."), level=level)
    body = []
    if len(history) < facts.epochs:
        words = f"Not trained to its end: {len(history)} of {facts.epochs} epochs; all of this is of the best so far."
        body.append(notice(words))
    which = f"{one_of(len(facts.subs), 'training')}; the first of them, {facts.subs[0].name}: " if facts.plan else ""
    epochs = f"{one_of(len(history), 'epoch')}{_duration(history)}"
    body += [P(f"{which}{epochs}; the weights of epoch {kept + 1} were kept, the best on tune."), *plots]
    columns = list(history.columns[1:])
    rows = [
        [str(int(r["epoch"]) + 1) + (" (kept)" if i == kept else ""), *(_number(r[c]) for c in columns)]
        for i, (_, r) in enumerate(history.iterrows())
    ]
    head = ["epoch", *(COLUMNS.get(c, c) for c in columns)]
    every = table("Losses, and scores of tune, study by study.", head, rows, range(1, len(head)))
    return section(name, "Training", *body, folded("All epochs", every), level=level)


def _duration(history: pd.DataFrame) -> str:
    seconds = history["seconds"].sum() if "seconds" in history else 0
    return "" if not seconds > 0 else f" in {seconds:.0f} s" if seconds < 120 else f" in {seconds / 60:.0f} minutes"


def _number(x) -> str:
    "Three figures."
    return "n/a" if pd.isna(x) else f"{x:.3g}" if abs(x) < 0.01 else f"{x:.3f}" if abs(x) < 100 else f"{x:.0f}"


def data_section(facts: Facts, level: int, earlier: Facts | None = None) -> FT:
    "Splits, counts, patients, and what was left out and why; or that it is the data of an earlier run of the report."
    kind, images, name = KINDS[facts.source], facts.images, f"{facts.key}data"
    if earlier is not None:
        link = A(f"those of {earlier.name}", href=f"#{earlier.key}data")
        return section(name, "Data", P("The very same rows, labels and splits as ", link, "."), level=level)
    counts = summarize(images, fold_tune=False).reset_index()
    regions = [r for r in counts["region"].unique() if r != "all"]
    rows = []
    for _, r in counts[counts["region"] == "all"].iterrows():
        share = "n/a" if np.isnan(r.abnormal_share) else f"{r.abnormal_share:.1%}"
        rows.append([_SPLITS.get(r.split, r.split), f"{r.patients:,}", f"{r.studies:,}", f"{r.images:,}", share])
    body = [P(kind.what), P(f"Licence: {kind.licence}")]
    if facts.flaw:
        body.append(notice(f"{facts.flaw[0].upper()}{facts.flaw[1:]}: the scores are too good."))
    head = ["split", "patients", "studies", "images", "abnormal studies"]
    apart = "" if facts.leaked else " No patient is on both sides."
    body.append(table(f"Who was trained on, chosen on and reported.{apart}", head, rows, range(1, 5)))
    if facts.plan and facts.plan.get("folds"):
        body.append(note("Counted in the first fold; every other fold is dealt alike."))
    if len(regions) > 1:
        wide = counts[counts["region"] != "all"].set_index(["region", "split"])
        splits = list(dict.fromkeys(counts["split"]))
        rows = [[r, *(_studies(wide, r, s) for s in splits)] for r in regions]
        head = ["region", *splits]
        body.append(table("Studies by region and split (abnormal).", head, rows, range(1, len(head))))
    body += left_out(facts)
    return section(name, "Data", *body, level=level)


_SPLITS = {
    "train": "train (weights)", "tune": "tune (epoch, threshold)", "valid": "valid (reported)", "test": "test (unused)",
}  # fmt: skip


def _studies(wide, region, split) -> str:
    if (region, split) not in wide.index:
        return "0"
    row = wide.loc[(region, split)]
    return f"{row.studies:,.0f} ({row.abnormal_studies:,.0f})"


def left_out(facts: Facts) -> list:
    "Files that were not used, by reason, each named."
    skipped = facts.skipped
    if skipped is None:
        return [note("Which files were left out is not known: the run has no skipped.csv that can be read.")]
    if skipped.empty:
        return [P("No file was left out.")]
    reasons, inside = {}, facts.root.rstrip("/") + "/"
    for path, reason in skipped[["path", "reason"]].itertuples(index=False):
        reason = reason.replace(inside, "") if len(inside) > 1 else reason
        plain = "the same pixels as another file" if reason.startswith("same pixels as") else facts.tell(reason)
        reasons.setdefault(plain, []).append((path, facts.tell(reason)))
    reasons = dict(sorted(reasons.items(), key=lambda o: -len(o[1])))
    total = len(skipped)
    parts = [P(f"{one_of(total, 'file was', 'files were')} left out, each for a reason:")]
    for reason, files in reasons.items():
        items = [Li(Code(facts.short(p)), f" ({r})" if r != reason and r else None) for p, r in files[:NAMED]]
        rest = len(files) - NAMED
        more = note(f"and {rest:,} more; skipped.csv of the run names all of them") if rest > 0 else None
        parts.append(folded(f"{reason}: {one_of(len(files), 'file')}", Ul(*items, cls="names"), more))
    return parts


def shortcut_section(
    facts: Facts,
    level: int,  # of its heading
    tables: dict | InputError,  # "shortcuts" and "followed", and as "first" the run that shows the former
) -> FT:
    "What trivial traits tell of the label (once for runs on the same data), and how far the run follows them."
    title, name = "What may it be cheating with?", f"{facts.key}shortcuts"
    intro = P(
        "A network uses whatever tells the label, bones or not. Small models were trained here that see no bone at "
        "all, only traits such as the region, the size or the brightness of a picture, each scored on patients that it "
        "had not seen. A score that they reach too is no sign of reading radiographs."
    )
    if isinstance(tables, InputError):
        return section(name, title, intro, notice(f"Not audited: {facts.tell(tables)}"), level=level)
    told, run, first = tables["shortcuts"], tables["followed"], tables["first"]
    body = [intro, P(ft("b", " ".join(meaning(told).split())))]
    if first is facts:
        words = f"What traits alone tell of the label: {_rests_on(told)}. The grey tick is guessing, .5."
        body.append(_trait_table(told, "auroc", "AUROC of the label", 0.5, words))
    else:
        link = A(f"stands at {first.name}", href=f"#{first.key}shortcuts")
        body = [P("What traits tell of the label ", link, ".")]
    body.append(P(ft("b", " ".join(meaning(run).split()))))
    words = (
        f"How far this run's probabilities follow the traits, among studies of the same label: {_rests_on(run)}. "
        "0, the grey tick: not at all; 1: they are nothing else. Following is no proof of cheating; a high value "
        "is a reason to look."
    )
    body.append(_trait_table(run, "rho", "rank correlation", 0.0, words))
    return section(name, title, *body, level=level)


def _trait_table(told: pd.DataFrame, main: str, what: str, chance: float, words: str) -> FT:
    "A row a group of traits: overall and within a region, in numbers and bars of one scale."
    least = float(np.nanmin([chance, *told[[f"{main}_lo", "within_region_lo"]].min()]))
    rows = []
    for group, r in told.iterrows():
        cells = [_bounded(r, column, least, chance) for column in (main, "within_region")]
        rows.append([group, *cells, *([r["verdict"]] if "verdict" in told else [])])
    head = ["traits", what, "within a region", *(["verdict"] if "verdict" in told else [])]
    return table(words, head, rows, sums=1, label=f"Table: {what} of traits")


def _bounded(row, column: str, least: float, chance: float) -> tuple:
    lo, hi = row[f"{column}_lo"], row[f"{column}_hi"]
    if np.isnan(row[column]):
        return "n/a", ""
    return with_interval(row[column], lo, hi, 2), interval_bar(row[column], lo, hi, least, 1.0, chance)


def _rests_on(table: pd.DataFrame) -> str:
    t = table.attrs
    what = f"{one_of(t['studies'], 'study', 'studies')} of {one_of(t['patients'], 'patient')}"
    # see `shortcuts`: the draws do not fit the models anew
    return f"{what}, 95 % intervals over patients with the small models as they are, so rather too narrow"
