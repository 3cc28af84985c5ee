"""What a run is worth: a verdict in a sentence, key figures, scores by region with intervals, and who gets confused."""

import numpy as np
import pandas as pd
from fastcore.xml import FT, Caption, Div, Em, P, Span, Table, Tbody, Td, Th, Thead, Tr, ft

from mura_fastai.data.studies import LABEL_NAMES
from mura_fastai.results.metrics import name_of
from mura_fastai.results.tables import read_scores
from mura_fastai.share.charts import interval_bar
from mura_fastai.share.report_card import KINDS
from mura_fastai.share.report_facts import Facts
from mura_fastai.share.report_parts import bullets, folded, note, section, table, tile, tiles
from mura_fastai.text import one_of, short, with_interval

FEW = 10  # studies of a label, below which a region's scores are hardly evidence
MAIN, OTHERS = ("auroc", "kappa", "sensitivity", "specificity"), ("average_precision", "accuracy", "f1", "brier", "ece")
EXPLAINED = {
    "auroc": "the chance that an abnormal study gets a higher probability than a normal one; .5 is guessing",
    "kappa": "agreement of decisions with the truth beyond chance; 0 is chance, 1 perfect",
    "sensitivity": "share of the abnormal studies that are found",
    "specificity": "share of the normal studies that are called normal",
}

STYLE = """
.matrices { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 14rem), 1fr)); gap: 1rem 1.6rem;
  margin-bottom: 1.4rem; align-items: end; }
.matrix table { margin: 0; width: 100%; table-layout: fixed; } .matrix th { font-weight: 400; font-size: .86rem; }
.matrix caption { color: var(--ink); font-weight: 600; }
.matrix th, .matrix td { text-align: center; padding: .35rem; border: 0; vertical-align: middle; }
.matrix tbody th { text-align: right; padding-left: 0; }
.matrix td { border: 2px solid var(--paper); border-radius: 4px; line-height: 1.25;
  background: color-mix(in srgb, var(--tone) calc(var(--share) * var(--depth)), var(--sheet)); }
.matrix td b { display: block; font-size: 1.15rem; } .matrix td small { color: inherit; }
.matrix { break-inside: avoid; }
@media (max-width: 34rem) { .matrices { grid-template-columns: 1fr 1fr; gap: 1rem; }
  .matrix th { font-size: .74rem; } .matrix th, .matrix td { padding: .2rem; } .matrix caption { font-size: .84rem; } }
@media print { .matrices { grid-template-columns: repeat(4, 1fr); gap: 4mm; }
  .matrix table, .matrix caption, .matrix th { font-size: 7.5pt; } .matrix td b { font-size: 10pt; }
  .matrix th, .matrix td { padding: .6mm; } }
"""


def cell(
    row: pd.Series,  # of scores
    metric: str,  # its column
    digits: int | None = None,  # 3, or 2 for a mean over seeds, which tells no more
) -> str:
    "A score with its interval, and with its spread over seeds where it has one."
    if np.isnan(row[metric]):
        one_class = row["n_abnormal"] in (0, row["n"]) and metric in ("kappa", "auroc")
        return "n/a (one class)" if one_class else "n/a"
    lo, hi, sd = (row.get(f"{metric}_{end}", np.nan) for end in ("lo", "hi", "seed_sd"))
    digits = digits or (3 if np.isnan(row.get(f"{metric}_seed_sd", np.nan)) else 2)
    return with_interval(row[metric], lo, hi, digits) + ("" if np.isnan(sd) else f" ± {short(sd, 2)}")


def what_it_is(facts: Facts) -> str:
    "The network in a few words: custom CNN, 128 px, from random weights."
    s, plan = facts.settings, facts.plan
    start = "from pretrained weights" if s.get("pretrained") else "from random weights"
    repeats = ""
    if plan:
        folds, seeds = plan.get("folds"), len(plan["seeds"])
        repeats = f", {one_of(folds, 'fold')} by {one_of(seeds, 'seed')}" if folds else f", {one_of(seeds, 'seed')}"
    return f"{s['arch']} ({s['size']} px, {start}{repeats})"


def verdict(facts: Facts) -> FT:
    "What, on what, how well, and against what: one paragraph that may stand alone."
    all_, base = facts.scores.loc["overall"], facts.scores.attrs["region_only"]["overall"]
    n, abnormal = int(all_["n"]), int(all_["n_abnormal"])
    what, data = what_it_is(facts), KINDS[facts.source].name
    rows = f"{one_of(n, 'held-out study', 'held-out studies')} ({abnormal:,} abnormal)"
    rows += "" if facts.flaw else " that nothing was chosen on"
    if np.isnan(all_["auroc"]):
        unknown = "They are of one class: how well it tells the two apart cannot be said."
        return P(f"{what} was scored on {rows}, of {data}. {unknown}", cls="lead")
    words = [f"{what} tells abnormal from normal studies of {data} with AUROC ", ft("b", cell(all_, "auroc"))]
    words += [" and kappa ", ft("b", cell(all_, "kappa")), f", on {rows}. "]
    alone, lo = base["auroc"], all_.get("auroc_lo", np.nan)
    if alone is not None and not np.isnan(alone):
        words.append(f"Knowing the region alone gives AUROC {short(alone)} and kappa {short(base['kappa'])}")
        better = "the network's whole interval lies above that"
        unsure = "the network's interval reaches down to that, so this set does not show that it is better"
        words.append(". " if np.isnan(lo) else f": {better if lo > alone else unsure}. ")
    always = facts.scores.attrs["always_normal"]["overall"]["accuracy"]
    words.append(f"Always saying normal would be right in {always:.0%} of the studies, and find nothing.")
    words.append(f" But these scores are too good: {facts.flaw}." if facts.flaw else "")
    return P(*words, cls="lead")


def key_figures(facts: Facts) -> FT:
    "The tiles."
    row = facts.scores.loc["overall"]

    def one(metric, name):
        lo, hi, sd = (row.get(f"{metric}_{end}", np.nan) for end in ("lo", "hi", "seed_sd"))
        under = [] if np.isnan(lo) else [f"95 %: {short(lo, 2)} to {short(hi, 2)}"]
        under += [] if np.isnan(sd) else [f"± {short(sd, 2)} between seeds"]
        return tile(name, short(row[metric], 2), "; ".join(under))

    studies = f"{row['n_abnormal']:,.0f} abnormal, {facts.interp.studies['patient'].nunique():,} patients"
    each = [one("auroc", "AUROC"), one("kappa", "kappa"), one("sensitivity", "abnormal found")]
    each += [one("specificity", "normal recognised"), tile("studies scored", f"{row['n']:,.0f}", studies)]
    return tiles(*each)


def _scale(scores: pd.DataFrame, metric: str) -> tuple[float, float]:
    "Ends of the bars of a column: from guessing on, or from its lowest end."
    lows = [scores[c].min() for c in (metric, f"{metric}_lo") if c in scores]
    start = 0.5 if metric == "auroc" else 0.0
    return float(np.nanmin([start, *lows])), 1.0


def score_tables(facts: Facts) -> list[FT]:
    "Scores by region, with bars; and the other scores."
    scores, base = facts.scores, facts.scores.attrs["region_only"]
    bars = {m: _scale(scores, m) for m in ("auroc", "kappa")}
    rows = []
    for region, row in scores.iterrows():
        alone = base.get(region, {})
        alone = {m: np.nan if alone.get(m) is None else alone[m] for m in bars}
        cells = [_region(region, row)]
        for m in MAIN:
            ends = [row.get(f"{m}_{end}", np.nan) for end in ("lo", "hi")]
            bar = interval_bar(row[m], *ends, *bars[m], alone[m]) if m in bars else ""
            cells.append((cell(row, m), bar))
        rows.append([*cells, f"{row['n']:,.0f}", f"{row['n_abnormal']:,.0f}", short(alone["auroc"])])
    scale = "; ".join(f"{name_of(m)} from {short(lo, 2)} to {short(hi, 2)}" for m, (lo, hi) in bars.items())
    words = (
        f"By region: score [95 % interval]. The bars show the same ({scale}); "
        "the grey tick is what knowing the region alone gives, the last column its AUROC."
    )
    head = ["region", *map(name_of, MAIN), "studies", "abnormal", "region alone"]
    main = table(words, head, rows, numbers=(5, 6, 7), sums=2, label="Table: scores by region")
    rows = [[_region(r, row), *(cell(row, m) for m in OTHERS)] for r, row in scores.iterrows()]
    more = table("The other scores by region.", ["region", *map(name_of, OTHERS)], rows, sums=2)
    return [main, folded("The other scores: " + ", ".join(map(name_of, OTHERS)), more)]


def _region(name: str, row: pd.Series):
    if name == "overall":
        return ft("b", "all studies")
    if name == "macro":
        return ft("b", "mean of regions")
    few = min(row["n_abnormal"], row["n"] - row["n_abnormal"]) < FEW
    return (name, Span(" (few)", cls="muted")) if few else name


def how_scored(facts: Facts) -> list:
    "What the numbers are of: lines."
    attrs, d = facts.scores.attrs, facts.decision
    lines = [f"{name_of(m)}: {EXPLAINED[m]}" for m in MAIN]
    if d is None:
        lines.append("Each training decides by the temperature and the threshold that were chosen on its own tune rows")
    else:
        by = f"chosen on {d.chosen_on.get('split', 'tune')} by {d.by}" if d.by != "fixed" else "fixed, not chosen"
        own = "; regions with enough studies have numbers of their own" if d.regions else ""
        lines.append(
            f"A study's probability is the {d.pool} over its views, at temperature {d.temperature:.2f}; "
            f"it is called abnormal above {d.threshold:.3f} ({by}){own}"
        )
    if attrs.get("n_boot"):
        lines.append(
            f"Intervals: 95 %, by {attrs['n_boot']:,} bootstrap draws of patients: what other patients of the same "
            "source would change, not what another training, threshold or hospital would. Shares without any error "
            "have Wilson's interval, other perfect scores none: no draw shows errors that were not met"
        )
    if attrs.get("trainings", 1) > 1:
        lines.append(
            f"Mean over {attrs['trainings']} seeds; ±: standard deviation between them, no part of the interval"
        )
    if attrs.get("incomplete"):
        n = len(attrs["incomplete"])
        lines.append(f"{one_of(n, 'study', 'studies')} had views that could not be read, and were scored on the others")
    few = [r for r, row in facts.scores.iloc[:-2].iterrows() if min(row.n_abnormal, row.n - row.n_abnormal) < FEW]
    if few:
        lines.append(f"(few): fewer than {FEW} normal or abnormal studies, hardly evidence")
    return lines


def matrix(
    title: str,
    cm: np.ndarray,  # 2 x 2 counts: rows are the truth, columns the prediction
) -> FT:
    "A confusion matrix as a table: counts, and rates within the truth; shaded by the rate."
    totals = cm.sum(1)
    tones = (("--muted", "--alarm"), ("--missed", "--muted"))

    def field(i, j):
        rate = cm[i, j] / totals[i] if totals[i] else 0.0
        depth = 26 if i == j else 45  # per cent, at which all letters can still be read in both themes
        look = f"--share:{rate:.2f};--depth:{depth}%;--tone:var({tones[i][j]})"
        return Td(ft("b", f"{cm[i, j]:,}"), ft("small", f"{rate:.0%}" if totals[i] else "none"), style=look)

    head = Thead(Tr(Td(ft("small", "truth")), *(Th(f"said {name}", scope="col") for name in LABEL_NAMES)))
    body = Tbody(*(Tr(Th(LABEL_NAMES[i], scope="row"), field(i, 0), field(i, 1)) for i in (0, 1)))
    return Div(Table(Caption(title), head, body), cls="matrix")


def confusions(facts: Facts) -> list:
    "All studies, then the regions, and in words what is confused most."
    interp, parts = facts.interp, []
    for name in [None, *(interp.regions if len(interp.regions) > 1 else [])]:
        cm = interp.confusion_matrix(region=name)
        parts.append(matrix(f"{name or 'all studies'}, n = {cm.sum():,}", cm))
    cm = interp.confusion_matrix()
    told = P(
        f"Of {one_of(int(cm[1].sum()), 'abnormal study', 'abnormal studies')} it misses {cm[1, 0]:,}; "
        f"of {one_of(int(cm[0].sum()), 'normal study', 'normal studies')} it calls {cm[0, 1]:,} abnormal. ",
        Em("Orange"), " stands for what is missed, ", Em("blue"), " for false alarms, the deeper the larger the share.",
    )  # fmt: skip
    out = [told, Div(*parts, cls="matrices")]
    if facts.plan:
        seed = facts.plan["seeds"][0]
        out.insert(0, note(f"Counts, figures and pictures are of the trainings with seed {seed} alone."))
    errors = interp.most_confused()[:5]
    if errors:
        items = [f"{truth}, called {said}: {one_of(n, 'study', 'studies')}" for truth, said, n in errors]
        out += [ft("p", ft("b", "Most frequent errors")), bullets(*items)]
    return out


def scores_section(facts: Facts, level: int) -> FT:
    "Tables and what they mean."
    main, more = score_tables(facts)
    body = [main, folded("What these numbers mean, and how they were made", bullets(*how_scored(facts))), more]
    if facts.plan:
        body.append(_trainings(facts))
    if facts.scores["auroc"].isna().any():
        body.append(note("n/a (one class): a region without both normal and abnormal studies has no such score."))
    return section(f"{facts.key}scores", "Scores", *body, level=level)


def _trainings(facts: Facts) -> FT:
    "A row a training, from its own metrics.json."
    rows = []
    for sub in facts.subs:
        told = read_scores(sub / "metrics.json")["scores"]["overall"]
        row = pd.Series({k: np.nan if v is None else v for k, v in told.items()})
        rows.append([sub.name, f"{row['n']:,.0f}", f"{row['n_abnormal']:,.0f}", *(cell(row, m) for m in MAIN)])
    head = ["training", "studies", "abnormal", *map(name_of, MAIN)]
    return table("Each training by itself, on the studies that it was not trained on.", head, rows, numbers=(1, 2))
