"""From an invented skeleton to a grey picture: the beam through flesh, bone and metal, then film, grain and markers."""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image

from mura_fastai.data.phantom_bones import STEPS, Bone

LETTERS = {
    "L": ("1000", "1000", "1000", "1000", "1000", "1000", "1111"),
    "R": ("1110", "1001", "1001", "1110", "1010", "1001", "1001"),
}


@dataclass
class View:
    "How one picture is taken. Lengths are shares of the longest side."

    theta: float  # turn about the long axis, radians
    centre: np.ndarray  # point of the skeleton (x, y) at the middle of the field
    zoom: float  # units of the skeleton to longest sides
    spin: float  # rotation in the picture, radians
    width: float  # of the frame, longest side 1
    height: float
    field: tuple  # collimated field: centre x, y, half-width, half-height, tilt


@lru_cache(maxsize=1)
def textures() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    "Fixed tiles that pictures take random crops of: spongy bone, grain, clouds; each of zero mean and unit spread."
    rng = np.random.default_rng(20180117)
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(512), np.fft.rfftfreq(512), indexing="ij"))
    noise = np.fft.rfft2(rng.standard_normal((512, 512)))
    bands = [np.exp(-((f - 0.20) ** 2) / 0.008), np.exp(-((f / 0.02) ** 2))]
    spongy, clouds = (np.fft.irfft2(noise * b) for b in bands)
    grain = rng.standard_normal((1024, 1024)).astype(np.float32)
    grain = 0.62 * grain + 0.38 * (np.roll(grain, 1, 0) + np.roll(grain, 1, 1) + np.roll(grain, (1, 1), (0, 1)))
    return tuple((t / t.std()).astype(np.float32) for t in (spongy, grain, clouds))


def crop(tile: np.ndarray, shape, at) -> np.ndarray:
    "A piece of a tile from the position `at` (two shares of one); wraps round where the tile is too small."
    y, x = (int(a * n) for a, n in zip(at, tile.shape, strict=True))
    if y + shape[0] <= tile.shape[0] and x + shape[1] <= tile.shape[1]:
        return tile[y : y + shape[0], x : x + shape[1]]
    rows, cols = ((o + np.arange(k)) % n for o, k, n in zip((y, x), shape, tile.shape, strict=True))
    return tile[rows[:, None], cols]


def stretch(tables: np.ndarray, steps: int) -> np.ndarray:
    "Tables (k, STEPS) at `steps` even places, by linear interpolation."
    at = np.arange(steps, dtype=np.float32) * np.float32((STEPS - 1) / (steps - 1))
    low = np.minimum(at.astype(np.int32), STEPS - 2)
    return tables[:, low] + (tables[:, low + 1] - tables[:, low]) * (at - low)


class Strip(NamedTuple):
    "The part of a canvas that a bone may cover, and the bone's tables at that size, in pixels."

    where: tuple  # slices of the canvas
    u: np.ndarray  # along the bone
    v: np.ndarray  # to the right of its axis
    step: np.ndarray  # index into the tables
    length: float
    scale: float  # pixels to a unit of the skeleton, across the bone
    left: np.ndarray
    right: np.ndarray
    wall: np.ndarray
    dense: np.ndarray


class Canvas:
    "A picture being drawn: thickness of flesh, bone and metal at each pixel, and the way from skeleton to pixel."

    def __init__(self, view: View, pixels: int, ref: float, rng: np.random.Generator):
        self.view, self.px, self.rng = view, pixels, rng
        self.w, self.h = max(round(view.width * pixels), 8), max(round(view.height * pixels), 8)
        self.flesh, self.bone, self.metal = (np.zeros((self.h, self.w), np.float32) for _ in range(3))
        self.ref = ref * view.zoom * pixels
        c, s = np.cos(view.spin), np.sin(view.spin)
        ct, st = np.cos(view.theta), np.sin(view.theta)
        turn = np.array([[c * ct, -s, c * st], [s * ct, c, s * st]])
        self.matrix = (turn * view.zoom * pixels).astype(np.float32)
        self.offset = np.array(view.field[:2]) * pixels - self.matrix[:, :2] @ np.array(view.centre)

    def project(self, point) -> np.ndarray:
        "Pixel (x, y) of a point (x, y, z) of the skeleton."
        return self.matrix @ point + self.offset

    def frame(self, bone: Bone):
        "Origin, unit vector along, unit vector across, and pixels of length of a bone as this view shows it."
        p, q = self.project(bone.a), self.project(bone.b)
        d = q - p
        length = max(float(np.hypot(*d)), 1e-3)
        e = d / length if length > 0.5 else np.array([0.0, 1.0])
        return p, e, np.array([-e[1], e[0]]), max(length, 2.0)

    def broaden(self, bone: Bone) -> float:
        "Width in this view over width from the front."
        return float(np.hypot(np.cos(self.view.theta), bone.lateral * np.sin(self.view.theta)))

    def spot(self, bone: Bone, u: float, v: float = 0.0) -> np.ndarray:
        "Pixel at `u` along a bone and `v` half-widths to the right of its middle."
        p, e, n, length = self.frame(bone)
        across = (bone.middle(u) + v * bone.half(u)) * self.view.zoom * self.px * self.broaden(bone)
        return p + e * length * u - n * across

    def patch(self, corners, pad=1.5):
        "Slices and pixel coordinates of the box round some points, or None where it misses the canvas."
        corners = np.asarray(corners)
        x0, y0 = np.maximum(np.floor(corners.min(0) - pad), 0).astype(int)
        x1, y1 = np.minimum(np.ceil(corners.max(0) + pad), (self.w, self.h)).astype(int)
        if x1 <= x0 or y1 <= y0:
            return None
        return (
            (slice(y0, y1), slice(x0, x1)),
            np.arange(x0, x1, dtype=np.float32) + 0.5,
            np.arange(y0, y1, dtype=np.float32)[:, None] + 0.5,
        )

    def strip(self, bone: Bone):
        "Where a bone lies; None where it is out of the picture."
        p, e, n, length = self.frame(bone)
        scale = self.view.zoom * self.px * self.broaden(bone)
        reach = float(max(bone.left.max(), bone.right.max())) * scale
        box = self.patch([p + n * reach, p - n * reach, p + e * length + n * reach, p + e * length - n * reach])
        if box is None:
            return None
        where, x, y = box
        e, n = e.astype(np.float32), n.astype(np.float32)
        u = (x - np.float32(p[0])) * e[0] + (y - np.float32(p[1])) * e[1]
        v = -((x - np.float32(p[0])) * n[0] + (y - np.float32(p[1])) * n[1])
        steps = int(2 * length) + 2
        step = np.clip(u * np.float32((steps - 1) / length), 0, steps - 1).astype(np.int32)
        tables = stretch(np.stack([bone.left * scale, bone.right * scale, bone.wall * scale, bone.dense]), steps)
        return Strip(where, u, v, step, length, scale, *tables)

    def draw_flesh(self, bone: Bone):
        place = self.strip(bone)
        if place is None:
            return
        half, mid = (place.left + place.right) / 2, (place.right - place.left) / 2
        rel = (place.v - mid[place.step]) / np.maximum(half, 1e-3)[place.step]
        thick = np.sqrt(np.maximum(1 - rel * rel, 0)) * bone.flat
        np.maximum(self.flesh[place.where], thick, out=self.flesh[place.where])

    def draw_bone(self, bone: Bone):
        place = self.strip(bone)
        if place is None:
            return
        spongy = crop(textures()[0], place.v.shape, self.rng.random(2))
        thick = self._wall_and_marrow(place, spongy)
        if bone.cut:
            thick = self._break(bone, place, thick, spongy)
        self.bone[place.where] += thick * (np.float32(bone.flat / self.ref) * place.dense)[place.step]

    def _wall_and_marrow(self, place: Strip, spongy, shift=0.0):
        "Path of the beam through cortex and, more weakly, spongy bone, in pixels; the axis moved by `shift`."
        half, mid, step = (place.left + place.right) / 2, (place.right - place.left) / 2 + shift, place.step
        off = place.v - mid.astype(np.float32)[step]
        off *= off
        inner = np.maximum(half - place.wall, 0)
        outer_path = np.sqrt(np.maximum((half * half)[step] - off, 0))
        inner_path = np.sqrt(np.maximum((inner * inner)[step] - off, 0))
        hollow = 0.5 + 0.28 * place.wall / place.wall.max()  # shafts are hollow, ends full of spongy bone
        return outer_path - inner_path * (hollow[step] - 0.045 * spongy)

    def _break(self, bone: Bone, place: Strip, thick, spongy):
        "The bone with its far part shifted at a jagged line, and the line itself."
        cut, length, wide = bone.cut, place.length, bone.half(bone.cut["u"]) * place.scale
        jag = np.interp(np.linspace(-1.6, 1.6, 64), np.linspace(-1.6, 1.6, len(cut["jag"])), cut["jag"]).astype(
            np.float32
        )
        across = np.clip((place.v / wide + 1.6) * 20, 0, 63).astype(np.int32)
        line = (
            place.u
            - np.float32(cut["u"] * length)
            - place.v * np.float32(cut["slope"])
            - jag[across] * np.float32(wide)
        )
        if cut["shift"]:
            along = np.linspace(0, length, len(place.wall), dtype=np.float32) - cut["u"] * length
            shift = np.exp(-np.maximum(along, 0) / (3.5 * wide)) * cut["shift"] * wide
            side = np.clip(line / 1.5 + 0.5, 0, 1)
            thick = thick * (1 - side) + self._wall_and_marrow(place, spongy, shift) * side
        gap = np.float32(max(cut["gap"] * wide, 0.0055 * self.px))
        return thick * (1 - np.float32(cut["depth"]) * np.exp(-((line / gap) ** 2)))

    def bar(self, p, q, half: float, value: float, on: str = "metal", ends: float = 1.0):
        "A straight bar from pixel `p` to `q`, `half` pixels to either side, with soft edges."
        p, q = np.asarray(p, np.float32), np.asarray(q, np.float32)
        d = q - p
        length = max(float(np.hypot(*d)), 1e-3)
        e = d / np.float32(length)
        box = self.patch([p - half, p + half, q - half, q + half])
        if box is None:
            return
        where, x, y = box
        u = (x - p[0]) * e[0] + (y - p[1]) * e[1]
        v = np.abs((y - p[1]) * e[0] - (x - p[0]) * e[1])
        mask = np.clip(half + 0.5 - v, 0, 1) * np.clip(np.minimum(u, length - u) / ends + 0.5, 0, 1)
        target = getattr(self, on)
        np.maximum(target[where], mask * np.float32(value), out=target[where])

    def blot(self, centre, radius: float, squash: float = 1.0, hard: float = 3.0):
        "Slices and weights (1 inside, 0 outside) of a soft disc, or None."
        box = self.patch([np.asarray(centre) - radius * 1.6, np.asarray(centre) + radius * 1.6])
        if box is None:
            return None
        where, x, y = box
        r = np.sqrt((x - np.float32(centre[0])) ** 2 + ((y - np.float32(centre[1])) * np.float32(squash)) ** 2)
        return where, (1 / (1 + np.exp(np.clip((r / np.float32(radius) - 1) * np.float32(hard * 2), -30, 30)))).astype(
            np.float32
        )


def field_mask(canvas: Canvas) -> np.ndarray:
    "1 inside the collimated field, 0 under the shutters, at the canvas's size."
    cx, cy, a, b, tilt = canvas.view.field
    x = np.arange(canvas.w, dtype=np.float32) + 0.5 - np.float32(cx * canvas.px)
    y = (np.arange(canvas.h, dtype=np.float32) + 0.5 - np.float32(cy * canvas.px))[:, None]
    c, s = np.float32(np.cos(tilt)), np.float32(np.sin(tilt))
    return np.clip(a * canvas.px - np.abs(x * c + y * s), 0, 1) * np.clip(b * canvas.px - np.abs(y * c - x * s), 0, 1)


def expose(canvas: Canvas, look: dict, rng: np.random.Generator) -> np.ndarray:
    "The film of a finished canvas, 0 (black) to 1 (white): exposure, scatter, contrast, shutters."
    clouds = crop(textures()[2], canvas.bone.shape, rng.random(2))
    flesh = canvas.flesh * (1.6 - 0.6 * canvas.flesh) * (1 + 0.05 * clouds)
    beam = look["flesh"] * flesh + look["bone"] * canvas.bone
    film = 1 - np.exp(-look["dose"] * np.maximum(beam - look["floor"], 0))
    film = film ** np.float32(look["gamma"])
    sample = film[::3, ::3].ravel()
    kth = -max(sample.size // 100, 1)
    bright = max(float(np.partition(sample, kth)[kth]), 0.05)
    film = film * np.float32(look["white"] / bright**0.7)  # as a station windows a picture, so that bone is light
    film = film * (1 - canvas.metal) + canvas.metal * np.float32(look["metal"])
    ramp = (
        np.linspace(-1, 1, canvas.h, dtype=np.float32)[:, None] * look["heel"][0]
        + np.linspace(-1, 1, canvas.w, dtype=np.float32) * look["heel"][1]
    )
    film = film * (1 + ramp) + np.float32(look["fog"])
    mask = field_mask(canvas)
    return film * mask + np.float32(look["shutter"]) * (1 - mask)


def develop(film: np.ndarray, size: tuple[int, int], look: dict, rng: np.random.Generator) -> np.ndarray:
    "A film at its final size (width, height) with grain, as uint8."
    if film.shape != size[::-1]:
        film = np.asarray(Image.fromarray(film).resize(size, Image.Resampling.BICUBIC))
    grain = crop(textures()[1], film.shape, rng.random(2))
    film = film + grain * np.float32(look["grain"]) * np.sqrt(np.clip(film, 0, 1) * 0.8)
    return (np.clip(film, 0, 1) * 255 + 0.5).astype(np.uint8)


def stamp(picture: np.ndarray, letter: str, at: tuple[float, float], height: float, value: int):
    "A side marker, drawn in place; `at` and `height` are shares of the picture."
    glyph = np.array([[c == "1" for c in row] for row in LETTERS[letter]])
    k = max(round(height * max(picture.shape) / 7), 1)
    glyph = np.kron(glyph, np.ones((k, k), bool))
    y, x = (int(a * max(n - g, 0)) for a, n, g in zip(at, picture.shape, glyph.shape, strict=True))
    part = picture[y : y + glyph.shape[0], x : x + glyph.shape[1]]
    part[glyph[: part.shape[0], : part.shape[1]]] = value
