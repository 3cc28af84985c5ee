"""Pages of radiographs with what was said of them: top losses by image and by study, with heat maps."""

import pandas as pd

from mura_fastai.data.studies import LABEL_NAMES
from mura_fastai.results.overlays import draw_heat, draw_heat_bar
from mura_fastai.results.pictures import VERDICTS, draw_picture, picture_page, plain_text
from mura_fastai.text import one_of


def _caption(row):
    "Verdict, truth and prediction, and region of a row; and the verdict's colour."
    truth, said = int(row["label"]), int(row["predicted"])
    word, colour = VERDICTS[truth, said]
    numbers = f"{word} (p = {row['p_abnormal']:.2f}, loss {row['loss']:.2f})"
    return [numbers, f"true {LABEL_NAMES[truth]}, predicted {LABEL_NAMES[said]}", plain_text(row["region"], 30)], colour


def attention_of(
    view,  # a row of a predictions table
) -> str:  # such as "attention 71 %"; "" where views were judged one by one
    "How much a view weighed in what a network that pools views said of its study."
    return f"attention {view['attention']:.0%}".replace("%", " %") if pd.notna(view.get("attention")) else ""


def _hottest(heats):
    return max((float(h.max()) for h in heats if h is not None), default=0.0)


def _heat_bar(fig, words):
    "What the colours mean, above the note at the foot of a page."
    width, height = fig.get_size_inches()
    ax = fig.add_axes([0.08 / width, 0.78 / height, 1 - 0.16 / width, 0.1 / height])
    draw_heat_bar(ax, words)


def image_page(
    rows: pd.DataFrame,  # images, or studies of one view: path, study, region, label, predicted, p_abnormal, loss
    heats: list | None = None,  # their heat maps, see `heat_maps`; each picture is then shown without and with
):  # a matplotlib Figure
    "A page of images, a caption over each: verdict, probability and loss, truth and prediction, region."
    twice, columns = (1, 3) if heats is None else (2, 2)
    columns = min(columns, len(rows))
    lines = -(-len(rows) // columns)
    side, foot = (2.4, 0.35) if heats is None else (1.78, 1.2)
    fig, axs = picture_page(lines, columns * twice, side, 3, foot=foot)
    for i, (_, row) in enumerate(rows.iterrows()):
        ax = axs.flat[twice * i]
        caption, colour = _caption(row)
        draw_picture(ax, row["path"], colour)
        ax.set_title("\n".join(caption), fontsize=10, loc="left", parse_math=False)
        view = f", view {row['view']}" if pd.notna(row.get("view")) else ""
        share = attention_of(row)
        view += f", {share}" if share else ""
        ax.set_xlabel(plain_text(row["study"], 34) + view, fontsize=7.5, parse_math=False, loc="left")
        if heats is not None:
            draw_heat(axs.flat[2 * i + 1], row["path"], heats[i], colour)
    for ax in axs.flat[twice * len(rows) :]:
        ax.axis("off")
    if heats is not None:
        _heat_bar(fig, ("none", "strongest of each picture by itself"))
    return fig


def study_page(
    rows: pd.DataFrame,  # studies: study, region, label, predicted, p_abnormal, loss
    views: pd.DataFrame,  # their images: study, path, p_abnormal; view and attention where views were pooled
    heats: list | None = None,  # heat maps of the views, in their order; they stand below them, on one scale a study
    most: int = 5,  # views that are shown; how many there are besides is said
):  # a matplotlib Figure
    "Of each study all views side by side, each with its own probability (or attention), and a caption above."
    heats = None if heats is None else dict(zip(views.index, heats, strict=True))
    views = dict(list(views.groupby("study")))
    columns = min(most, max(len(v) for v in views.values()))
    side, foot = (1.78 if columns < 5 else 1.5), (0.35 if heats is None else 1.2)
    fig, axs = picture_page(len(rows), columns, side, 2, 1 if heats is None else 2, foot)
    for block, (_, row) in zip(axs, rows.iterrows(), strict=True):
        mine = views[row["study"]]
        (verdict, truth, region), colour = _caption(row)
        more = f", {one_of(len(mine) - columns, 'more view')} not shown" if len(mine) > columns else ""
        title = f"{verdict}, {truth}\n{region}, {plain_text(row['study'], 40)}{more}"
        block[0, 0].set_title(title, fontsize=10, loc="left", parse_math=False)
        top = None if heats is None else _hottest([heats[n] for n in mine.index])
        for column, (n, view) in zip(block.T, mine.iterrows(), strict=False):
            draw_picture(column[0], view["path"], colour)
            if heats is not None:
                draw_heat(column[1], view["path"], heats[n], colour, top)
            # Views that were pooled before they were judged have no probability of their own.
            share = attention_of(view)
            own = f"view {view['view']} · {share}" if share else f"p = {view['p_abnormal']:.2f}"
            column[-1].set_xlabel(own, fontsize=10)
        for ax in block[:, len(mine) :].flat:
            ax.axis("off")
    if heats is not None:
        _heat_bar(fig, ("none", "strongest of the study's views"))
    return fig
