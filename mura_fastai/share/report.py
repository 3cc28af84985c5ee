"""One HTML file that tells all of a run, or of several: opened offline, read on a phone, printed, passed on."""

import sys
import time
from pathlib import Path

from fastcore.xml import FT, H1, P, Strong

from mura_fastai.bars import stderr_bar
from mura_fastai.data.traits import traits
from mura_fastai.errors import InputError
from mura_fastai.files import refuse_closed, write_text
from mura_fastai.results.shortcuts import followed, shortcuts
from mura_fastai.share import cards, charts, report_parts, report_scores
from mura_fastai.share.look import document
from mura_fastai.share.pdf import find_chromium, print_pdf
from mura_fastai.share.report_card import KINDS, card_section, reproduce_section
from mura_fastai.share.report_compare import compared, comparison_section, sentences, side_by_side
from mura_fastai.share.report_data import data_section, shortcut_section, training_section
from mura_fastai.share.report_facts import Facts, facts_of
from mura_fastai.share.report_parts import bullets, contents, note, notice, section, table
from mura_fastai.share.report_plots import plots_of
from mura_fastai.share.report_scores import confusions, key_figures, scores_section, verdict
from mura_fastai.text import one_of
from mura_fastai.training.tables import lost_data

STYLE = report_parts.STYLE + report_scores.STYLE + charts.STYLE + cards.STYLE


def write_report(
    runs: str | Path | list[str | Path],  # one run's folder or several; a folder of folds or seeds counts as one
    out: str | Path | None = None,  # the HTML file; `report.html` in the folder of the only run where not given
    pixels: bool = True,  # False leaves every radiograph out, so that the report of MURA may be shared
    k: int = 12,  # studies of the largest losses to show, of all runs together; of several runs at least 3 each
    pdf: bool = False,  # print it as well, by an installed Chromium
) -> list[Path]:  # the HTML file, and the PDF beside it
    """`mura report`: write one self-contained HTML file, whole or not at all.

    What a run's folder holds is enough; where its images are on this machine too, radiographs, heat maps and the audit
    of shortcuts come with it. InputError: no run, no file name for several runs, no Chromium for a PDF."""
    runs = [runs] if isinstance(runs, str | Path) else list(runs)
    out = _place(runs, out)
    if k < 1:
        raise InputError(f"k is {k}: ask for at least one study (--top)")
    if pdf:
        find_chromium()  # not after minutes of work
    text = report_html(facts_of(runs), pixels, k)
    write_text(out, text)
    return [out, print_pdf(out, out.with_suffix(".pdf"))] if pdf else [out]


def _place(runs: list, out) -> Path:
    "Where the report goes."
    if not runs:
        raise InputError("no run given; a run's folder holds settings.yaml (mura train makes one)")
    if out is None and len(runs) > 1:
        raise InputError("several runs: say where their report goes (-o FILE.html)")
    given, out = out is not None, Path(runs[0]) / "report.html" if out is None else Path(out)
    if out.is_dir() or out.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"{out}: give the report a name that ends in .html (-o FILE.html)")
    if given:  # else it is the run that is missing, and named by who reads it
        refuse_closed(out)
    return out


def report_html(
    all_facts: list[Facts],  # a run each
    pixels: bool = True,  # False leaves every radiograph out
    k: int = 12,  # studies of the largest losses, as of `write_report`
) -> str:  # the document
    "The whole report as text."
    several = len(all_facts) > 1
    k = max(3, k // len(all_facts)) if several else k
    told = compared([f.run for f in all_facts]) if several else None
    audits, parts, toc = {}, [], []
    if several:
        parts, toc = [comparison_section(all_facts, told)], [("comparison", "Comparison")]
    for facts in all_facts:
        if facts.there:  # a run from elsewhere may name any folder
            _say(f"{facts.name}: reading pictures{f' of {facts.root}' if pixels else ''} and drawing")
        else:
            _say(f"{facts.name}: drawing, without pictures and their audit")
            if lost := lost_data(facts.run, facts.data, facts.preds.get("path", ())):
                _say(str(lost))
        mine = _sections(facts, all_facts, pixels, k, audits)
        if several:
            parts.append(section(f"{facts.key}run", facts.name, verdict(facts), key_figures(facts), *mine))
            toc.append((f"{facts.key}run", facts.name, _titles(mine)))
        else:
            parts += mine
            toc += _titles(mine)
    head = _head(all_facts, told, any(_has_radiographs(p) for p in parts), pixels)
    title = " and ".join(f.name for f in all_facts[:2]) + (
        f" and {len(all_facts) - 2} more" if len(all_facts) > 2 else ""
    )
    return document(f"{title}: report", *head, contents(toc), *parts, style=STYLE)


def _say(what: str):
    print(what, file=sys.stderr, flush=True)


def _titles(parts: list[FT]) -> list[tuple]:
    "Ids and headings of sections."
    return [(p.attrs["id"], p.children[0].children[0]) for p in parts]


def _has_radiographs(part: FT) -> bool:
    return any("card" in str(o.attrs.get("class", "")).split() and _find(o, "img") for o in _find(part, "article"))


def _find(part, tag: str) -> list[FT]:
    "All elements of a name in a component."
    if not isinstance(part, FT):
        return []
    return [part] * (part.tag == tag) + [o for child in part.children for o in _find(child, tag)]


def _head(all_facts: list[Facts], told, radiographs: bool, pixels: bool) -> list:
    "Title, notices, verdict, key figures."
    several, first = len(all_facts) > 1, all_facts[0]
    kinds = list(dict.fromkeys(KINDS[f.source] for f in all_facts))
    names = " and ".join(kind.name for kind in kinds)
    title = f"{len(all_facts)} runs on {names}" if several else f"{first.name}: {first.settings['arch']} on {names}"
    out = [P(f"mura_fastai report, {time.strftime('%d %B %Y').lstrip('0')}", cls="eyebrow"), H1(title)]
    out.append(P(Strong("For research only: not a medical device."), " Nothing here may be used on patients."))
    if radiographs:
        for kind in kinds:
            say = note if kind.free else notice
            out.append(say(Strong(f"This file holds radiographs of {kind.name}."), " ", kind.shared))
    elif not pixels:
        out.append(note("Made without radiographs (--no-pixels)."))
    if any(kind.tells_names for kind in kinds):
        words = "Studies and files have their own names here: see to it that those tell of nobody who it is."
        out.append(note(words))
    if not radiographs and KINDS["phantom"] in kinds:
        out.append(note(Strong("Phantom results."), " The radiographs were drawn by a program."))
    if several:
        out += [side_by_side(all_facts), bullets(*sentences(told, all_facts))]
    else:
        out += [verdict(first), key_figures(first)]
    return out


def _sections(facts: Facts, all_facts: list[Facts], pixels: bool, k: int, audits: dict) -> list[FT]:
    "The sections of one run."
    level = 3 if len(all_facts) > 1 else 2
    plots = plots_of(facts)
    earlier = next((f for f in all_facts[: all_facts.index(facts)] if _same_data(f, facts)), None)
    return [
        scores_section(facts, level),
        section(f"{facts.key}errors", "Where it errs", *confusions(facts), *plots["errors"], level=level),
        section(f"{facts.key}trust", "Can its probabilities be trusted?", *plots["trust"], level=level),
        losses_section(facts, level, pixels, k),
        shortcut_section(facts, level, _audit(facts, audits)),
        training_section(facts, level, plots["training"]),
        data_section(facts, level, earlier),
        card_section(facts, level),
        reproduce_section(facts, level),
    ]


def _same_data(a: Facts, b: Facts) -> bool:
    return a.data.get("fingerprint") is not None and a.data.get("fingerprint") == b.data.get("fingerprint")


def _audit(facts: Facts, audits: dict):
    "The shortcut audit of a run, or why there is none."
    if not facts.there:
        return InputError("its images are not where the run says, and traits are read from them.")
    # Runs on the same rows and files share what is the same for them; without a fingerprint nobody knows.
    same = facts.data.get("fingerprint") or facts.key, facts.root
    try:
        if same in audits:
            known, told, first = audits[same]
        else:
            known = traits(facts.images, stderr_bar("reading images"))
            told, first = shortcuts(facts.images, known), facts
        tables = {"shortcuts": told, "followed": followed(facts.preds, known), "first": first}
    except InputError as e:
        return e
    audits[same] = known, told, first  # only now is it sure that the first one shows it
    return tables


def losses_section(
    facts: Facts,
    level: int,  # of its heading
    pixels: bool,  # False: as a table
    k: int,  # studies
) -> FT:
    "The studies that the network is most wrong about."
    title, name = "Where it is most wrong", f"{facts.key}losses"
    rows = facts.interp.top_losses(k, level="study")
    intro = P(
        "The studies with the largest loss: where the network was sure, and the label says otherwise. Some of these "
        "labels are wrong themselves; some findings cannot be seen on the views that there are."
    )
    if pixels and facts.there:
        # What is drawn is of the first seed, all its folds.
        runs = dict(enumerate(facts.moments)) if facts.plan and facts.plan.get("folds") else {None: facts.moments[0]}
        shown, fault = cards.cards(rows, facts.interp.preds, runs, facts.key)
        maps = P(
            "Heat maps (HiResCAM): colour where the network found evidence for abnormal, on one scale for all views of "
            "a study. They show where, not why, and not whether it is right."
        )
        return section(
            name, title, intro, note("No heat maps: ", facts.tell(fault)) if fault else maps, shown, level=level
        )
    why = (
        "Pictures are left out on request."
        if not pixels
        else "Its images are not where the run says: no pictures here."
    )
    body = [
        [r["study"], r["region"], ("normal", "abnormal")[int(r["label"])], f"{r['p_abnormal']:.2f}", f"{r['loss']:.2f}"]
        for _, r in rows.iterrows()
    ]
    head = ["study", "region", "truth", "p of abnormal", "loss"]
    words = f"{one_of(len(rows), 'study', 'studies')} by loss, the worst first."
    return section(name, title, intro, note(why), table(words, head, body, numbers=(3, 4)), level=level)
