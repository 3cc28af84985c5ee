"""A heat map over its radiograph: enlarged to the picture, laid over it in colour, and what the colours mean."""

from functools import lru_cache

import numpy as np
from PIL import Image

from mura_fastai.errors import InputError
from mura_fastai.results.pictures import draw_picture

STRENGTH = 0.6  # how much of the radiograph the strongest colour covers
# Of inferno, which is even to the eye and to colour-blind eyes: from purple, since black would pass for a dark part of
# the radiograph, to orange, since light yellow would pass for metal.
_COLOURS = ("inferno", 0.3, 0.85)


def heat_on(
    heat: np.ndarray,  # h x w, over the padded square
    shape: tuple[int, int],  # height and width of the picture
) -> np.ndarray:  # float32, height x width
    """A map as large as the picture: enlarged bilinearly, and what lies over the padding cut away (see `pad_square`).

    Between the middles of two places values run straight from one to the other, so nothing is hotter than the network
    had it."""
    (tall, wide), (h, w) = shape[:2], heat.shape
    side = max(tall, wide)
    left, top = (1 - wide / side) / 2 * w, (1 - tall / side) / 2 * h
    whole = Image.fromarray(np.ascontiguousarray(heat, np.float32))
    return np.array(whole.resize((wide, tall), Image.Resampling.BILINEAR, box=(left, top, w - left, h - top)))


@lru_cache(maxsize=4)
def _blends(strength: float) -> np.ndarray:
    "The colour of each level of heat over each grey value: uint8, 256 x 256 x 3."
    from matplotlib import colormaps

    name, first, last = _COLOURS
    level, grey = np.linspace(0, 1, 256), np.arange(256.0)[None, :, None]
    colour = 255 * colormaps[name](first + (last - first) * level)[:, None, :3]
    cover = strength * level[:, None, None] ** 0.75
    return (grey * (1 - cover) + colour * cover + 0.5).astype(np.uint8)


def overlay(
    grey: np.ndarray,  # uint8, height x width
    heat: np.ndarray,  # a map over the padded square, or one of the picture's own shape
    top: float | None = None,  # the value in full colour, and above it; the map's maximum where not given
    strength: float = STRENGTH,  # how much the strongest colour covers, 0 to 1
) -> np.ndarray:  # uint8, height x width x 3
    """The radiograph with its heat in colour. Cold places show the radiograph alone, and so does a map of zeros.

    Pictures that are compared, such as the views of a study, need one `top`: with each picture's own maximum even a
    normal one looks hot somewhere."""
    if not 0 <= strength <= 1:
        raise InputError(f"strength is {strength}: choose a number from 0 (no colour) to 1 (nothing but colour)")
    heat = heat if heat.shape == grey.shape else heat_on(heat, grey.shape)
    top = float(heat.max()) if top is None else top
    share = np.clip(heat / top, 0, 1) if top > 0 else np.zeros(grey.shape)
    return _blends(float(strength))[np.rint(255 * share).astype(np.uint8), grey]


def draw_heat(
    ax,  # where to draw
    path,  # image file
    heat: np.ndarray | None,  # its map over the padded square; None draws the radiograph alone
    colour: str | None = None,  # of a frame around it
    top: float | None = None,  # the value in full colour; the map's maximum where not given
    strength: float = STRENGTH,  # how much the strongest colour covers, 0 to 1
):
    "One radiograph with its heat, drawn as `draw_picture` does; a grey square that says why where it cannot be read."
    draw_picture(ax, path, colour)
    if heat is not None and ax.images:
        grey = np.asarray(ax.images[0].get_array())
        ax.images[0].set_data(overlay(grey, heat, top, strength))


def heat_ramp(
    width: int = 256,  # px
    height: int = 12,  # px
    strength: float = STRENGTH,  # that of the pictures
) -> np.ndarray:  # uint8, height x width x 3
    "All colours from cold to hot, over dark grey as over a radiograph: what a legend shows."
    ramp = np.broadcast_to(np.linspace(0, 1, width, dtype=np.float32), (height, width))
    return overlay(np.full((height, width), 96, np.uint8), ramp, 1.0, strength)


def draw_heat_bar(
    ax,  # where to draw: a strip, which lies or stands
    words: tuple[str, str] = ("none", "strongest of this study"),  # what no colour means, and full colour
    title: str = "speaks for abnormal",  # what the colour is the amount of
    stands: bool = False,  # hot is above, not to the right
    strength: float = STRENGTH,  # that of the pictures
):
    "The legend of heat maps, in words: values differ from network to network, and no reader knows them."
    ramp = heat_ramp(strength=strength)
    ax.imshow(ramp.transpose(1, 0, 2)[::-1] if stands else ramp, aspect="auto")
    ends = dict(fontsize=9, parse_math=False)
    if stands:
        ax.yaxis.tick_right()
        ax.set(xticks=[])
        ax.set_yticks([255, 0], words, **ends)
        ax.set_title(title, fontsize=9, loc="left")
    else:
        ax.set(yticks=[])
        ax.set_xticks([0, 255], words, **ends)
        for text, side in zip(ax.get_xticklabels(), ("left", "right"), strict=True):
            text.set_horizontalalignment(side)
        ax.set_title(title, fontsize=9)
    ax.tick_params(length=0)
