"""The views of one invented study: which bones, how each picture of them is taken, and where its findings lie in it."""

from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image

from mura_fastai.data import phantom_anatomy as anatomy
from mura_fastai.data.phantom_draw import Canvas, View, develop, expose, stamp
from mura_fastai.data.phantom_findings import alter, box_of, choose, harmless, harmless_of, overlay, places


@dataclass(frozen=True)
class Region:
    "How one of MURA's study types is pictured."

    build: str  # function of phantom_anatomy
    centre: tuple  # point of the skeleton in the middle
    zoom: float  # longest sides per unit of the skeleton
    aspect: tuple  # width over height, from and to
    angles: tuple  # usual turns about the long axis, degrees
    bends: bool  # another pose for each view
    share: float  # of the studies: between MURA's and equal, so that small phantoms hold every region
    abnormal: float  # share of its studies


REGIONS = {
    "XR_ELBOW": Region("arm", (0.0, 0.02), 2.0, (0.62, 1.0), (0, 40, 85), True, 0.14, 0.40),
    "XR_FINGER": Region("hand", (0.0, 0.0), 2.7, (0.36, 0.75), (0, 35, 75), False, 0.14, 0.39),
    "XR_FOREARM": Region("arm", (0.0, 0.41), 1.1, (0.36, 0.72), (0, 85), False, 0.10, 0.38),
    "XR_HAND": Region("hand", (-0.01, -0.26), 1.16, (0.68, 1.0), (0, 35, 65), False, 0.15, 0.36),
    "XR_HUMERUS": Region("arm", (0.01, -0.50), 0.92, (0.36, 0.72), (0, 80), False, 0.09, 0.42),
    "XR_SHOULDER": Region("shoulder", (0.14, 0.10), 1.15, (0.8, 1.3), (0, 18, -18, 40), False, 0.18, 0.44),
    "XR_WRIST": Region("hand", (0.0, -0.02), 2.2, (0.5, 0.9), (0, 40, 85), False, 0.20, 0.40),
}
VIEWS = (0.12, 0.30, 0.42, 0.16)  # share of studies with 1, 2, 3 and 4 views


@dataclass(frozen=True)
class Study:
    "One study to be made."

    number: int  # over the whole phantom
    split: str
    region: str
    patient: int
    study: int  # within the patient and region
    label: int

    @property
    def key(self) -> str:
        return f"{self.region}/patient{self.patient:05d}/study{self.study}"

    @property
    def folder(self) -> str:
        return f"{self.split}/{self.key}_{'positive' if self.label else 'negative'}"


def draw_study(seed: int, study: Study, size: int, abnormal: bool | None = None, one_view: float | None = None) -> list:
    """The views of one study as (picture, [(finding, box or None)]); box is (x0, y0, x1, y1) in pixels.

    `abnormal` overrides the label: the same bones, beam and grain with and without the findings.
    """
    region = REGIONS[study.region]
    body = np.random.SeedSequence([seed, 2, study.patient, list(REGIONS).index(study.region)])
    design, *films = np.random.SeedSequence([seed, 3, study.number]).spawn(5)
    rng = np.random.default_rng(design)
    n_views = 1 + int(rng.choice(4, p=VIEWS))
    angles = np.deg2rad(
        [region.angles[i % len(region.angles)] for i in rng.permutation(max(len(region.angles), 4))][:n_views]
    )
    build = partial(_skeleton, body, study.region, ray=int(rng.integers(5)), alone=bool(rng.random() < 0.5))
    whole, centre, spin = build(0.0)

    def inside(p):
        x, y = (p[0] - centre[0]) * region.zoom, (p[1] - centre[1]) * region.zoom
        across, along = x * np.cos(spin) - y * np.sin(spin), x * np.sin(spin) + y * np.cos(spin)
        return (abs(across) < 0.32 * region.aspect[0]) & (abs(along) < 0.30)

    spots, joints = places(whole, inside)
    findings, things = choose(rng, whole, spots, joints, n_views, one_view), harmless_of(rng, whole, spots)
    colour = rng.random() < 0.3
    drawn = findings if (study.label if abnormal is None else abnormal) else []
    out = []
    for k, (angle, seq) in enumerate(zip(angles, films, strict=False)):
        seen = [f for f in drawn if f.shown[k]]
        skeleton = build(angle)[0] if region.bends else whole.copy()
        posed = skeleton, centre, spin
        picture, boxes = _picture(np.random.default_rng(seq), region, posed, angle, findings, seen, things, size)
        picture = Image.fromarray(picture)
        boxes = iter(boxes)
        where = [(f, next(boxes) if f.shown[k] else None) for f in drawn]
        out.append((picture.convert("RGB") if colour else picture, where))
    return out


def _skeleton(body, name: str, angle: float, ray: int, alone: bool):
    "The study's bones as posed for a view from `angle`, the point in the middle, and the turn that sets them upright."
    rng, region = np.random.default_rng(body), REGIONS[name]
    if region.build == "arm":
        flex = 0.1 + 1.45 * np.sin(angle) ** 2 if region.bends else 0.08
        return anatomy.arm(rng, flex), region.centre, 0.0
    if region.build == "shoulder":
        return anatomy.shoulder(rng, rng.uniform(0.05, 0.5)), region.centre, 0.0
    skeleton = anatomy.hand(rng)
    if name != "XR_FINGER":
        return skeleton, region.centre, 0.0
    first = 10 + (0 if ray == 0 else 3 + 4 * (ray - 1))
    tip, knuckle = (first + 2, first + 1) if ray == 0 else (first + 3, first + 1)
    if alone:
        skeleton.joints = [
            (j[0] - first, j[1], j[2] - first, j[3]) for j in skeleton.joints if j[0] >= first and j[2] <= tip
        ]
        skeleton.bones = skeleton.bones[first : tip + 1]
        skeleton.flesh = skeleton.flesh[3 * ray : 3 * ray + 3]
        skeleton.main = list(range(len(skeleton.bones)))
        tip, knuckle = tip - first, knuckle - first
    a, b = skeleton.bones[knuckle].a, skeleton.bones[tip].b
    middle = (a * 0.62 + b * 0.38) if ray else (a * 0.7 + b * 0.3)
    d = b - a
    return skeleton, (float(middle[0]), float(middle[1])), float(-np.arctan2(d[0], -d[1]))


def _picture(rng, region, posed, angle, findings, seen, things, size):
    "One view as a uint8 array, and the boxes of the findings `seen` in it; all `findings` are kept inside the field."
    skeleton, centre, spin = posed
    pose, tissue, film_rng = rng.spawn(3)  # apart, so that a finding changes nothing but itself
    pixels = size if size < 160 else size // 2  # detail beyond half the size would be grain
    for attempt in range(8):
        view = _sample_view(pose, region, centre, spin, angle, careful=attempt == 7)
        canvas = Canvas(view, pixels, skeleton.ref, tissue)
        if all(_in_field(canvas, skeleton, f) for f in findings):
            break
    for f in seen:
        alter(skeleton, f)
    for bone in skeleton.flesh:
        canvas.draw_flesh(bone)
    for bone in skeleton.bones:
        canvas.draw_bone(bone)
    harmless(canvas, skeleton, things)
    for f in seen:
        overlay(canvas, skeleton, f)
    boxes = [_within(box_of(canvas, skeleton, f), canvas) for f in seen]
    look = _look(pose)
    film = expose(canvas, look, film_rng)
    film, boxes = _turn(film, boxes, flip=pose.random() < 0.5, quarter=pose.random() < 0.04)
    scale = size / max(film.shape)
    w, h = (max(round(n * scale), 8) for n in film.shape[::-1])
    picture = develop(np.ascontiguousarray(film), (w, h), look, film_rng)
    if pose.random() < 0.85:
        corner = (float(pose.choice([0.03, 0.9])), float(pose.uniform(0.04, 0.96)))
        stamp(picture, str(pose.choice(["L", "R"])), corner, pose.uniform(0.035, 0.07), int(pose.uniform(190, 256)))
    return picture, [_clip(b * scale, w, h) for b in boxes]


def _sample_view(rng, region, centre, spin, angle, careful: bool) -> View:
    "Frame, shutters and pose of one view."
    aspect = rng.uniform(*region.aspect)
    width, height = min(aspect, 1.0), min(1 / aspect, 1.0)
    shut = rng.uniform(0.0, 0.13, 4) * (rng.random(4) < 0.6) * (not careful)
    tilt = rng.normal(0, 0.07) if rng.random() < 0.35 else 0.0
    middle = width * (0.5 + (shut[0] - shut[1]) / 2), height * (0.5 + (shut[2] - shut[3]) / 2)
    halves = width * (0.5 - (shut[0] + shut[1]) / 2), height * (0.5 - (shut[2] + shut[3]) / 2)
    centre = np.array(centre) + rng.uniform(-0.05, 0.05, 2) * (not careful) / region.zoom
    spin = spin + rng.normal(0, 0.10) * (not careful)
    if region.build != "shoulder" and rng.random() < 0.05:
        spin += np.pi  # upside down
    zoom = region.zoom * rng.uniform(0.88, 1.12)
    return View(angle + rng.normal(0, 0.1), centre, zoom, spin, width, height, (*middle, *halves, tilt))


def _in_field(canvas: Canvas, skeleton, f) -> bool:
    "Is the middle of a finding well inside the shutters?"
    bone, u = (f.joint[0], f.joint[1]) if f.joint else (f.bone, f.u)
    x, y = canvas.spot(skeleton.bones[bone], u) / canvas.px
    cx, cy, a, b, _ = canvas.view.field
    return abs(x - cx) < a - 0.07 and abs(y - cy) < b - 0.07


def _look(rng) -> dict:
    "Exposure and contrast of one picture."
    return {
        "flesh": rng.uniform(0.35, 0.65), "bone": rng.uniform(0.55, 0.95), "dose": rng.uniform(0.9, 1.6),
        "floor": rng.uniform(0.0, 0.12), "gamma": rng.uniform(0.85, 1.5), "white": rng.uniform(0.55, 0.85),
        "metal": rng.uniform(0.85, 1.0), "heel": rng.normal(0, 0.07, 2), "fog": rng.uniform(0, 0.07),
        "shutter": rng.uniform(0, 0.04) * (rng.random() < 0.7), "grain": rng.uniform(0.008, 0.03),
    }  # fmt: skip


def _turn(film, boxes, flip: bool, quarter: bool):
    "Mirror and quarter-turn a picture and its boxes."
    h, w = film.shape
    if flip:
        film = film[:, ::-1]
        boxes = [np.array([w - b[2], b[1], w - b[0], b[3]]) for b in boxes]
    if quarter:
        film = np.rot90(film)
        boxes = [np.array([b[1], w - b[2], b[3], w - b[0]]) for b in boxes]
    return film, boxes


def _within(box, canvas: Canvas):
    "The part of a box that the shutters leave open."
    cx, cy, a, b, _ = canvas.view.field
    edges = np.array([cx - a, cy - b, cx + a, cy + b]) * canvas.px
    return np.concatenate([np.clip(box[:2], edges[:2], edges[2:]), np.clip(box[2:], edges[:2], edges[2:])])


def _clip(box, w: int, h: int) -> tuple[int, int, int, int]:
    x0, y0, x1, y1 = box
    x0, y0 = int(np.clip(np.floor(x0), 0, w - 2)), int(np.clip(np.floor(y0), 0, h - 2))
    return x0, y0, int(np.clip(np.ceil(x1), x0 + 1, w)), int(np.clip(np.ceil(y1), y0 + 1, h))
