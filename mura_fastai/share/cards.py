"""Studies as cards: all views side by side, where the network saw what speaks for abnormal, and what it said."""

import base64
import io
from dataclasses import dataclass

import numpy as np
import pandas as pd
from fastai.learner import Learner
from fastcore.xml import FT, Article, B, Div, Figcaption, Figure, Header, Img, Input, Label, P, Small, Span, ft
from PIL import Image

from mura_fastai.data.pixels import read_grey
from mura_fastai.data.studies import LABEL_NAMES
from mura_fastai.errors import BadImage, InputError
from mura_fastai.results.heatmaps import heat_maps
from mura_fastai.results.moments import Moment
from mura_fastai.results.overlays import heat_ramp, overlay
from mura_fastai.results.pages import attention_of
from mura_fastai.results.pictures import VERDICTS
from mura_fastai.text import short
from mura_fastai.training.runs import load_run

LONGEST, QUALITY = 384, 78  # px of a picture's longer side; JPEG's scale
MOST = 6  # views of a study that are shown
CLASSES = {"missed": "missed", "false alarm": "alarm", "right": "good"}

STYLE = """
.cards { grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); align-items: stretch; }
.cards.broad { grid-template-columns: repeat(auto-fill, minmax(min(100%, 34rem), 1fr)); }
.card header { display: flex; flex-wrap: wrap; align-items: baseline; gap: .1rem .7rem; }
.card header b { font-size: 1.02rem; } .card p { margin: .1rem 0 .6rem; font-size: .88rem; color: var(--muted); }
.card.missed, .card.alarm, .card.good { color: inherit; border-top-width: 4px; }
.card.missed { border-top-color: var(--missed); } .card.alarm { border-top-color: var(--alarm); }
.card.good { border-top-color: var(--good); }
.views { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 14rem), 1fr)); gap: .6rem; }
.views figure { margin: 0; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(4.5rem, 1fr)); gap: 2px; background: #000; }
.pair img, .gone { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; background: #000; }
.gone { background: var(--line); color: var(--ink); font-size: .85rem; padding: .6rem; margin: 0; }
.views figcaption { margin: .2rem 0 0; font-size: .82rem; }
.look { border: 1px solid var(--line); border-radius: var(--round); padding: .4rem .9rem .6rem; margin: 0 0 1rem;
  display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; align-items: center; max-width: max-content; }
.look legend { color: var(--muted); font-size: .88rem; padding: 0 .3rem; }
.look label { display: inline-flex; gap: .4rem; align-items: center; min-height: 2rem; cursor: pointer; }
.looks:has(.plain:checked) .heat, .looks:has(.warm:checked) .grey { display: none; }
.ramp { display: flex; align-items: center; gap: .6rem; font-size: .88rem; color: var(--muted); margin: 0 0 1rem; }
.ramp img { width: 10rem; min-width: 5rem; height: .9rem; border-radius: 3px; }
@media print { .looks .heat, .looks .grey { display: block !important; } .look { display: none; }
  .cards, .cards.broad { display: block; } .card { margin-bottom: 4mm; padding: 2mm 3mm; }
  .views { grid-template-columns: repeat(3, 1fr); gap: 2mm; } .card p { margin-bottom: 1mm; }
  .two-up { display: grid !important; grid-template-columns: 1fr 1fr; gap: 4mm; }
  .two-up .views { grid-template-columns: 1fr; } .two-up .card { margin: 0; } }
"""


@dataclass
class Picture:
    "One view as the report shows it: JPEGs as data URIs, or why there is none."

    grey: str = ""
    heat: str = ""
    fault: str = ""


def data_uri(
    pixels: np.ndarray,  # uint8, height x width, or height x width x 3
) -> str:
    "A picture as part of a page, its longer side at most `LONGEST`."
    picture = Image.fromarray(pixels)
    picture.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()


def views_of(
    rows: pd.DataFrame,  # some studies
    preds: pd.DataFrame,  # predictions table
) -> pd.DataFrame:  # their images, in the order of the studies
    "The images of some studies, a few of each."
    mine = preds[preds["study"].isin(rows["study"])]
    mine = mine[mine.groupby("study").cumcount() < MOST]
    place = {study: i for i, study in enumerate(rows["study"])}
    return mine.iloc[np.argsort(mine["study"].map(place).to_numpy(), kind="stable")].reset_index(drop=True)


def maps_of(
    views: pd.DataFrame,  # images; a column `fold` says which of several runs predicted them
    runs: dict,  # fold -> folder of the run, its Learner or its Moment; None for the only one
) -> list:  # of maps, or None
    "Heat maps by the network that predicted each image. InputError: no weights, or a network that gives no maps."
    maps = [None] * len(views)
    for fold, run in runs.items():
        which = np.arange(len(views)) if fold is None else np.flatnonzero(views["fold"] == fold)
        if len(which):
            if not isinstance(run, Learner):
                run = run.learn if isinstance(run, Moment) else load_run(run)
            found = heat_maps(run, views.iloc[which], num_workers=1)
            for i, heat in zip(which, found, strict=True):
                maps[i] = heat
    return maps


def pictures_of(
    views: pd.DataFrame,  # images
    maps: list | None,  # their heat maps
) -> list[Picture]:
    "Every view, read once. Views of a study share one scale of colours, so that they can be held side by side."
    maps = [None] * len(views) if maps is None else maps
    tops = {}
    for study, heat in zip(views["study"], maps, strict=True):
        tops[study] = max(tops.get(study, 0.0), 0.0 if heat is None else float(heat.max()))
    out = []
    for path, study, heat in zip(views["path"], views["study"], maps, strict=True):
        try:
            grey = read_grey(path)
        except BadImage as e:
            out.append(Picture(fault=e.reason))
            continue
        step = max(1, max(grey.shape) // (2 * LONGEST))
        warm = "" if heat is None else data_uri(overlay(grey[::step, ::step], heat, tops[study]))
        out.append(Picture(data_uri(grey), warm))
    return out


def card(
    row,  # a study: study, region, label, predicted, p_abnormal, loss, n_views
    views: pd.DataFrame,  # its images
    pictures: list[Picture],  # of them
    more: int = 0,  # views that are not shown
) -> FT:
    "One study."
    truth, said = int(row["label"]), int(row["predicted"])
    word, _ = VERDICTS[truth, said]
    head = Header(
        B(word.capitalize(), cls=CLASSES[word]),
        Span(f"truly {LABEL_NAMES[truth]}, said {LABEL_NAMES[said]}"),
    )
    told = P(
        f"p = {short(row['p_abnormal'], 2)}, loss {row['loss']:.2f}; {row['region']}, {row['study']}"
        + (f"; {more} more view{'s' * (more > 1)} not shown" if more else "")
    )
    shown = []
    for (_, view), picture in zip(views.iterrows(), pictures, strict=True):
        what = f"{row['region']}, {row['study']}, view {view.get('view', '')}"
        if picture.fault:
            inside = P("Picture not available: ", picture.fault, cls="gone")
        else:
            grey = Img(src=picture.grey, alt=f"Radiograph: {what}", decoding="async", cls="grey")
            warm = Img(src=picture.heat, alt=f"The same with heat map: {what}", decoding="async", cls="heat")
            inside = Div(grey, warm if picture.heat else None, cls="pair")
        number = f"view {view['view']}, " if pd.notna(view.get("view")) and row["n_views"] > 1 else ""
        own = attention_of(view) or f"p = {short(view['p_abnormal'], 2)}"
        shown.append(Figure(inside, Figcaption(number + own)))
    return Article(head, told, Div(*shown, cls="views"), cls=f"card {CLASSES[word]}")


def cards(
    rows: pd.DataFrame,  # studies, in order
    preds: pd.DataFrame,  # predictions table
    runs: dict,  # fold -> folder of the run, see `maps_of`
    key: str = "",  # begins the ids
) -> tuple[FT, str]:  # the cards; why there are no heat maps, or ""
    "All of them, with a switch between radiograph and heat map that needs no script."
    views, fault, maps = views_of(rows, preds), "", None
    try:
        maps = maps_of(views, runs)
    except InputError as e:
        fault = str(e)
    pictures = pictures_of(views, maps)
    each = []
    for _, row in rows.iterrows():
        which = np.flatnonzero(views["study"] == row["study"])
        mine = [pictures[i] for i in which]
        each.append(card(row, views.iloc[which], mine, int(row["n_views"]) - len(which)))
    broad = rows["n_views"].max() > 1
    box = Div(*each, cls="cards broad" if broad else "cards two-up")
    warm = any(p.heat for p in pictures)
    return Div(*(_switch(key) if warm else ()), box, cls="looks"), fault


def _switch(key: str) -> tuple[FT, ...]:
    names = {"both": "both", "plain": "radiographs", "warm": "heat maps"}
    buttons = [
        Label(Input(type="radio", name=f"{key}look", cls=cls, checked=cls == "both"), words)
        for cls, words in names.items()
    ]
    bar = data_uri(heat_ramp(192))
    words = "no evidence for abnormal", "strongest in this study"
    return (
        ft("fieldset", ft("legend", "Show"), *buttons, cls="look"),
        P(Small(words[0]), Img(src=bar, alt="", cls="scale"), Small(words[1]), cls="ramp"),
    )
