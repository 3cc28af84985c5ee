"""Contact sheets: studies with all their views at one size, in rows, a caption over each."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mura_fastai.files import replacing
from mura_fastai.results.pictures import NOT_TO_SHARE, draw_picture, plain_text

# inches
WIDTH = 12.4
GAP = 0.12  # between pictures
EDGE = 0.35
LINE = 0.165  # of a caption
FOOT = 0.45


class Entry(NamedTuple):
    "One study of a sheet."

    paths: list[str]  # of its views
    lines: list[str]  # the caption; the first line is bold
    colour: str = "#555555"  # of the rule above and the frames
    under: list[str] | None = None  # a few words below each view


def contact_sheet(
    entries: list[Entry],  # one a study; they stay in this order
    title: str,
    notes: list[tuple[str, str]],  # lines under the title: text and colour
    across: int = 6,  # pictures in a row; a study of more goes on in the next one
) -> Figure:  # as high as it has to be
    "The studies from left to right, as many in a row as fit; one that does not fit starts the next row."
    entries = [part for entry in entries for part in _parts(entry, across)]
    side = (WIDTH - 2 * EDGE + GAP) / across - GAP
    deep = max(len(e.lines) for e in entries)
    step = 0.16 + deep * LINE + side + (0.42 if any(any(e.under or ()) for e in entries) else 0.25)
    rows, head = _fill_rows([len(e.paths) for e in entries], across), 0.62 + 0.2 * len(notes)
    width, height = WIDTH, head + len(rows) * step + FOOT
    fig = Figure(figsize=(width, height))

    def write(x, y, text, **kwargs):
        fig.text(x / width, 1 - y / height, text, **{"va": "top", "parse_math": False} | kwargs)

    write(EDGE, 0.22, title, fontsize=15, fontweight="bold")
    for i, (text, colour) in enumerate(notes):
        write(EDGE, 0.58 + 0.2 * i, text, fontsize=10, color=colour)
    for number, row in enumerate(rows):
        left = EDGE
        for entry in entries[row]:
            _draw_entry(fig, write, entry, left, head + number * step, side, deep * LINE)
            left += len(entry.paths) * (side + GAP)
    write(EDGE, height - 0.2, NOT_TO_SHARE, fontsize=8, color="#555555", va="bottom")
    said = "Research only, not a medical device."
    write(width - EDGE, height - 0.2, said, fontsize=8, color="#555555", va="bottom", ha="right")
    return fig


def _draw_entry(fig: Figure, write, entry: Entry, left: float, top: float, side: float, caption: float):
    "One study, or a row of its views; places are in inches from the upper left corner."
    width, height = fig.get_size_inches()
    right = left + len(entry.paths) * (side + GAP) - GAP
    rule = [1 - (top + 0.08) / height] * 2
    fig.add_artist(Line2D([left / width, right / width], rule, color=entry.colour, lw=1.6))
    for i, line in enumerate(entry.lines):
        # 14 letters of this size take an inch
        line = plain_text(line, round((right - left) * 14))
        write(left, top + 0.14 + i * LINE, line, fontsize=8.5, fontweight="normal" if i else "bold")
    for i, path in enumerate(entry.paths):
        x, y = left + i * (side + GAP), top + 0.18 + caption + side
        draw_picture(fig.add_axes((x / width, 1 - y / height, side / width, side / height)), path, entry.colour)
        if entry.under:
            write(x + side / 2, y + 0.05, entry.under[i], ha="center", fontsize=8.5)


def _parts(entry: Entry, across: int) -> list[Entry]:
    "A study as pieces that fit a row each: no view is left out where somebody has to judge."
    parts = []
    for i in range(0, len(entry.paths), across):
        lines = [f"{entry.lines[0]}, continued"] if i else entry.lines
        under = entry.under and entry.under[i : i + across]
        parts.append(entry._replace(paths=entry.paths[i : i + across], lines=lines, under=under))
    return parts


def _fill_rows(sizes: list[int], across: int) -> list[slice]:
    "Which entries share a row."
    rows, start, used = [], 0, 0
    for i, size in enumerate(sizes):
        if used + size > across:
            rows.append(slice(start, i))
            start, used = i, 0
        used += size
    return [*rows, slice(start, len(sizes))]


def write_pages(
    pages: Iterable[Figure],  # drawn one after the other, so that they do not fill the memory
    file: str | Path,  # a PDF
) -> list[Path]:  # the file, or nothing where there are no pages; an old one is taken away then
    "Several figures as the pages of one PDF, whole or not at all."
    file, pages = Path(file), iter(pages)
    first = next(pages, None)
    if first is None:
        file.unlink(missing_ok=True)
        return []
    with replacing(file) as aside, PdfPages(aside) as pdf:
        pdf.savefig(first, dpi=200)
        for fig in pages:
            pdf.savefig(fig, dpi=200)
    return [file]
