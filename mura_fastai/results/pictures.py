"""Drawing what results show: one radiograph, one confusion matrix, and text that a plot can hold."""

import textwrap
from pathlib import Path

import numpy as np

from ..data.pixels import read_grey
from ..data.studies import LABEL_NAMES
from ..errors import BadImage, InputError
from ..files import refuse_closed

# Okabe and Ito's colours, told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7F7F7F")
# (truth, prediction) -> word and colour; each kind of error has a colour of its own, everywhere
VERDICTS = {
    (0, 0): ("right", "#555555"),
    (0, 1): ("false alarm", "#0072B2"),
    (1, 0): ("missed", "#D55E00"),
    (1, 1): ("right", "#555555"),
}
NOT_TO_SHARE = "Holds pictures of the data set. Radiographs of MURA may not be shared."
LONGEST = 512  # px of a picture in a figure: more is not seen there, and a figure keeps what it is given


_WRITERS = ("agg", "cairo", "pdf", "pgf", "ps", "svg", "template")  # backends that only write files


def new_figure(
    width: float,  # in inches; seven make 640 px at 92 dots an inch, where text of 10 points can be read well
    height: float,
    layout: str | None = "constrained",  # None for axes that are put where they shall be
):  # a matplotlib Figure
    """An empty figure. pyplot knows of it where it can show it, in a notebook or a window, and keeps it nowhere else.

    pyplot holds on to a figure until it is closed, so a program that draws many would grow."""
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure

    make = Figure if plt.get_backend().lower() in _WRITERS else plt.figure
    return make(figsize=(width, height), layout=layout)


def tidy(
    ax,  # an axes that numbers are drawn in
    grid: str | None = "both",  # x, y or both
):
    "The look of all curves: a light grid behind, two spines, numbers large enough."
    if grid:  # half transparent, so that it is light on any background
        ax.grid(axis=grid, color="#888888", alpha=0.3, lw=0.7)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=10)


def headed(
    fig,  # a Figure
    title: str,  # what is to be learned
    below: str = "",  # how to read it, at the foot of the figure; broken into lines
):
    "A title at the upper left and a note at the lower left of a figure."
    # a layout finds room for the title by itself; a page of pictures has left it
    at = {} if fig.get_layout_engine() else {"y": 1 - 0.08 / fig.get_figheight()}
    fig.suptitle(title, x=0.01, ha="left", fontsize=13, parse_math=False, **at)
    width = int(fig.get_figwidth() * 14.2)  # characters of 9 points
    lines = [line for part in below.split("\n") for line in textwrap.wrap(part.replace(" %", "\u00a0%"), width)]
    if lines:
        fig.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=9, color="#555555", parse_math=False)


def picture_page(
    lines: int,  # blocks below each other
    columns: int,  # squares beside each other
    side: float,  # of a square, in inches
    caption: int,  # lines of text above each block
    rows: int = 1,  # of squares in a block
    foot: float = 0.35,  # room below all, in inches
):  # the Figure, and its axes: lines x rows x columns
    "A page of squares for pictures; a layout would shrink them all to make room for the longest caption."
    gap, above, below = 0.08, 0.17 * caption + 0.12, 0.24
    width = max(columns * (side + gap) + gap, 4.7)  # captions need as much
    block = above + rows * (side + gap) + below
    height = 0.36 + lines * block + foot
    fig = new_figure(width, height, layout=None)
    axs = np.empty((lines, rows, columns), object)
    for i, j, k in np.ndindex(axs.shape):
        top = height - 0.36 - i * block - above - j * (side + gap)
        place = gap + k * (side + gap), top - side, side, side
        axs[i, j, k] = fig.add_axes([o / total for o, total in zip(place, (width, height) * 2, strict=True)])
    return fig, axs


def check_picture(
    file: str | Path,  # to be drawn
):
    "Raise `InputError` for a name that ends in no kind of picture, and as `refuse_closed`."
    from matplotlib.figure import Figure

    if Path(file).suffix.lower()[1:] not in Figure().canvas.get_supported_filetypes():
        raise InputError(f"{file}: no kind of picture; end the name with .png, .pdf or .svg")
    refuse_closed(file)


def plain_text(
    text,  # anything, such as a file name
    width: int = 34,  # characters at most
) -> str:
    """Text that can be drawn: no line breaks, no characters a plot font lacks, cut in the middle.

    Names differ at their ends. Draw it with `parse_math=False`, or its dollar signs start a formula."""
    text = "".join(c if c.isprintable() and ord(c) < 0x500 else "?" for c in str(text))
    head = width // 3
    return text if len(text) <= width else f"{text[:head]}...{text[len(text) - (width - head - 3) :]}"


def draw_picture(
    ax,  # where to draw
    path,  # image file
    colour: str | None = None,  # of a frame around it
):
    "One radiograph, centred on a black square without axes; a grey one that says why where it cannot be read."
    ax.set(xticks=[], yticks=[], box_aspect=1)
    for spine in ax.spines.values():
        spine.set(color=colour or "black", linewidth=3 if colour else 1)
    try:
        grey = read_grey(path)
    except BadImage as e:
        words = f"picture not available\n{plain_text(e.reason, 30)}"
        ax.set_facecolor("#BBBBBB")
        ax.text(0.5, 0.5, words, ha="center", va="center", transform=ax.transAxes, parse_math=False, fontsize=9)
        return
    step = -(-max(grey.shape) // LONGEST)
    ax.imshow(grey[::step, ::step].copy(), cmap="gray", vmin=0, vmax=255)
    (h, w), half = ax.images[0].get_array().shape, max(ax.images[0].get_array().shape) / 2
    ax.set(
        facecolor="black", xlim=(w / 2 - half - 0.5, w / 2 + half - 0.5), ylim=(h / 2 + half - 0.5, h / 2 - half - 0.5)
    )


def draw_confusion(
    ax,  # where to draw
    cm: np.ndarray,  # 2 x 2 counts: rows are the truth, columns the prediction
    title: str,  # above it
    normalize: bool = False,  # shade by the rate in a row and write it first
    fontsize: int = 13,
):
    "One confusion matrix: counts and, of each true class, rates."
    totals = cm.sum(1, keepdims=True)
    rates = np.divide(cm, totals, out=np.zeros(cm.shape), where=totals > 0)
    shade = rates if normalize else cm / max(cm.max(), 1)
    ax.imshow(shade, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(2, 2):
        lines = [f"{cm[i, j]:,}", f"{rates[i, j]:.0%}" if totals[i, 0] else "none"]
        text = "\n".join(lines[::-1] if normalize else lines)
        colour = "white" if shade[i, j] > 0.5 else "black"
        ax.text(j, i, text, ha="center", va="center", fontsize=fontsize, color=colour)
    ax.set_title(title, fontsize=fontsize - 1, parse_math=False)
    ax.set_xticks([0, 1], LABEL_NAMES, fontsize=fontsize - 3)
    ax.set_yticks([0, 1], LABEL_NAMES, fontsize=fontsize - 3, rotation=90, va="center")
