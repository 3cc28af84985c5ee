"""A synthetic MURA: invented radiographs in MURA's exact layout, with the truth about every abnormality beside them.

`phantom.csv` in the root has a row for each image and finding (`path, study, kind, form, shown, x0, y0, x1, y1`): the
kind of abnormality (normal, fracture, hardware, degenerative, other), whether this view shows it, and its box in pixels
of the file, empty where the view does not show it. Nothing here is made from anybody's radiographs.
"""

import csv
import os
import shutil
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from mura_fastai.data import phantom_anatomy as anatomy
from mura_fastai.data.phantom_draw import Canvas, View, develop, expose, stamp
from mura_fastai.data.phantom_findings import alter, box_of, choose, harmless, harmless_of, overlay
from mura_fastai.data.studies import mura_images
from mura_fastai.errors import InputError


@dataclass(frozen=True)
class Region:
    "How one of MURA's study types is pictured."

    build: str  # function of phantom_anatomy
    centre: tuple  # point of the skeleton in the middle
    zoom: float  # longest sides per unit of the skeleton
    aspect: tuple  # width over height, from and to
    angles: tuple  # usual turns about the long axis, degrees
    share: float  # of the studies: between MURA's and equal, so that small phantoms hold every region
    abnormal: float  # share of its studies


REGIONS = {
    "XR_ELBOW": Region("arm", (0.0, 0.02), 2.0, (0.62, 1.0), (0, 40, 85), 0.14, 0.40),
    "XR_FINGER": Region("hand", (0.0, 0.0), 2.7, (0.36, 0.75), (0, 35, 75), 0.14, 0.39),
    "XR_FOREARM": Region("arm", (0.0, 0.41), 1.1, (0.36, 0.72), (0, 85), 0.10, 0.38),
    "XR_HAND": Region("hand", (-0.01, -0.26), 1.16, (0.68, 1.0), (0, 35, 65), 0.15, 0.36),
    "XR_HUMERUS": Region("arm", (0.01, -0.50), 0.92, (0.36, 0.72), (0, 80), 0.09, 0.42),
    "XR_SHOULDER": Region("shoulder", (0.14, 0.10), 1.15, (0.8, 1.3), (0, 18, -18, 40), 0.18, 0.44),
    "XR_WRIST": Region("hand", (0.0, -0.02), 2.2, (0.5, 0.9), (0, 40, 85), 0.20, 0.40),
}
VIEWS = (0.12, 0.30, 0.42, 0.16)  # share of studies with 1, 2, 3 and 4 views
COLUMNS = ("path", "study", "kind", "form", "shown", "x0", "y0", "x1", "y1")


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


def make_phantom(
    root,  # folder to fill; it is the dataset's own folder, as MURA-v1.1 is
    studies: int = 400,  # studies in all, a fifth of them valid
    seed: int = 0,  # same seed and versions, same bytes
    size: int = 512,  # longest side of the pictures, pixels
    workers: int | None = None,  # processes; a core each where not given, and none for small phantoms
):
    "Write a phantom and return its images table (`mura_images(root)`). Raises InputError on a folder that holds something."
    root = Path(root).resolve()
    if studies < 10 or size < 32:
        raise InputError(
            f"a phantom needs at least 10 studies of 32 pixels, not {studies} of {size}: raise --studies or --size"
        )
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise InputError(f"{root} is not an empty folder: name a new one, or remove it first")
    plan = plan_studies(studies, seed)
    root.parent.mkdir(parents=True, exist_ok=True)
    # made beside its place and moved there when done, so that an interrupted phantom is never taken for a whole one
    making = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        draw = partial(write_study, making, root.name, seed, size)
        rows = [row for rows in _map(draw, plan, size, workers) for row in rows]
        _write_tables(making, root.name, plan, rows)
        making.chmod(0o755)
        if root.exists():
            root.rmdir()
        making.rename(root)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
    return mura_images(root)


def plan_studies(studies: int, seed: int) -> list[Study]:
    "Which studies there are: splits, regions, labels and patients, the shares met as closely as whole numbers allow."
    rng = np.random.default_rng(np.random.SeedSequence([seed, 1]))
    plan, patient = [], 0
    for split, count in (("train", studies - round(studies / 5)), ("valid", round(studies / 5))):
        wanted = [
            (r, y) for r, n in _shares(count).items() for y in (0, 1) for _ in range(_part(n, REGIONS[r].abnormal, y))
        ]
        wanted = [wanted[i] for i in rng.permutation(len(wanted))]
        numbers = {}
        while wanted:
            patient += 1
            for _ in range(min(int(rng.choice([1, 2, 3], p=[0.84, 0.12, 0.04])), len(wanted))):
                region, label = wanted.pop()
                k = numbers[patient, region] = numbers.get((patient, region), 0) + 1
                plan.append(Study(len(plan), split, region, patient, k, label))
    return plan


def _shares(count: int) -> dict[str, int]:
    "Studies of each region, by largest remainder."
    exact = {r: count * x.share for r, x in REGIONS.items()}
    whole = {r: int(x) for r, x in exact.items()}
    for r in sorted(exact, key=lambda r: whole[r] - exact[r])[: count - sum(whole.values())]:
        whole[r] += 1
    return whole


def _part(n: int, abnormal: float, label: int) -> int:
    "Studies with a label among `n`; both labels from two studies on."
    sick = min(max(round(n * abnormal), 1), n - 1) if n > 1 else round(n * abnormal)
    return sick if label else n - sick


def _map(draw, plan: list[Study], size: int, workers: int | None):
    "`draw` over the plan in order, in processes where that pays."
    workers = workers or (1 if len(plan) * size * size < 3e6 else os.cpu_count() or 1)
    if workers == 1:
        yield from map(draw, plan)
        return
    # fork starts at once and never runs the caller's script again, as spawn does; the children only draw and write
    context = get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from pool.map(draw, plan, chunksize=4)


def write_study(root: Path, name: str, seed: int, size: int, study: Study) -> list[tuple]:
    "Draw and save the views of one study; its rows of `phantom.csv`, which call the root `name`."
    folder = root / study.folder
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i, (picture, findings) in enumerate(draw_study(seed, study, size), 1):
        picture.save(folder / f"image{i}.png", compress_level=1)
        path = f"{name}/{study.folder}/image{i}.png"
        rows += [(path, study.key, f.kind, f.form, int(box is not None), *(box or ("",) * 4)) for f, box in findings]
        rows += [(path, study.key, "normal", "", 0, "", "", "", "")] if not findings else []
    return rows


def draw_study(seed: int, study: Study, size: int, abnormal: bool | None = None) -> list:
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
        return (
            abs(x * np.cos(spin) - y * np.sin(spin)) < 0.32 * region.aspect[0]
            and abs(x * np.sin(spin) + y * np.cos(spin)) < 0.30
        )

    findings, things = choose(rng, whole, inside, n_views), harmless_of(rng, whole, inside)
    colour = rng.random() < 0.3
    drawn = findings if (study.label if abnormal is None else abnormal) else []
    out = []
    for k, (angle, seq) in enumerate(zip(angles, films)):
        skeleton, centre, spin = build(angle)
        picture, boxes = _picture(
            np.random.default_rng(seq), region, skeleton, centre, spin, angle, findings, drawn, things, k, size
        )
        picture = Image.fromarray(picture)
        out.append((picture.convert("RGB") if colour else picture, list(zip(drawn, boxes))))
    return out


def _skeleton(body, name: str, angle: float, ray: int, alone: bool):
    "The study's bones as posed for a view from `angle`, the point in the middle, and the turn that sets them upright."
    rng, region = np.random.default_rng(body), REGIONS[name]
    if region.build == "arm":
        flex = 0.1 + 1.45 * np.sin(abs(angle)) ** 2 if name == "XR_ELBOW" else 0.08
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


def _picture(rng, region, skeleton, centre, spin, angle, findings, drawn, things, k, size):
    "One view as a uint8 array, and a box (or None) for each finding drawn."
    pose, tissue, film_rng = rng.spawn(3)  # apart, so that a finding changes nothing but itself
    pixels = size if size < 160 else size // 2  # detail beyond half the size would be grain
    for attempt in range(8):
        view = _sample_view(pose, region, centre, spin, angle, careful=attempt == 7)
        canvas = Canvas(view, pixels, skeleton.ref, tissue)
        if all(_in_field(canvas, skeleton, f) for f in findings):
            break
    for f in drawn:
        if f.shown[k]:
            alter(skeleton, f)
    for bone in skeleton.flesh:
        canvas.draw_flesh(bone)
    for bone in skeleton.bones:
        canvas.draw_bone(bone)
    harmless(canvas, skeleton, things)
    boxes = []
    for f in drawn:
        if f.shown[k]:
            overlay(canvas, skeleton, f)
        boxes.append(box_of(canvas, skeleton, f) if f.shown[k] else None)
    look = _look(pose)
    film = expose(canvas, look, film_rng)
    film, boxes = _turn(film, boxes, flip=pose.random() < 0.5, quarter=pose.random() < 0.06)
    scale = size / max(film.shape)
    w, h = (max(round(n * scale), 8) for n in film.shape[::-1])
    picture = develop(np.ascontiguousarray(film), (w, h), look, film_rng)
    if pose.random() < 0.85:
        corner = (float(pose.choice([0.03, 0.9])), float(pose.uniform(0.04, 0.96)))
        stamp(picture, str(pose.choice(["L", "R"])), corner, pose.uniform(0.035, 0.07), int(pose.uniform(190, 256)))
    return picture, [None if b is None else _clip(b * scale, w, h) for b in boxes]


def _sample_view(rng, region, centre, spin, angle, careful: bool) -> View:
    "Frame, shutters and pose of one view."
    aspect = rng.uniform(*region.aspect)
    width, height = min(aspect, 1.0), min(1 / aspect, 1.0)
    shut = rng.uniform(0.0, 0.13, 4) * (rng.random(4) < 0.6) * (not careful)
    tilt = rng.normal(0, 0.07) if rng.random() < 0.35 else 0.0
    field = (
        width * (0.5 + (shut[0] - shut[1]) / 2),
        height * (0.5 + (shut[2] - shut[3]) / 2),
        width * (0.5 - (shut[0] + shut[1]) / 2),
        height * (0.5 - (shut[2] + shut[3]) / 2),
        tilt,
    )
    shift = rng.uniform(-0.05, 0.05, 2) * (not careful) / region.zoom
    turn = (
        spin
        + rng.normal(0, 0.13) * (not careful)
        + (np.pi if region.build != "shoulder" and rng.random() < 0.08 else 0)
    )
    return View(
        angle + rng.normal(0, 0.1),
        np.array(centre) + shift,
        region.zoom * rng.uniform(0.88, 1.12),
        turn,
        width,
        height,
        field,
    )


def _in_field(canvas: Canvas, skeleton, f) -> bool:
    "Is the middle of a finding well inside the shutters?"
    bone, u = (f.joint[0], f.joint[1]) if f.joint else (f.bone, f.u)
    x, y = canvas.spot(skeleton.bones[bone], u) / canvas.px
    cx, cy, a, b, _ = canvas.view.field
    return abs(x - cx) < a - 0.07 and abs(y - cy) < b - 0.07


def _look(rng) -> dict:
    "Exposure and contrast of one picture."
    return {
        "flesh": rng.uniform(0.35, 0.65), "bone": rng.uniform(0.55, 0.95), "dose": rng.uniform(0.9, 1.6), "floor": rng.uniform(0.0, 0.12),
        "gamma": rng.uniform(0.85, 1.5), "white": rng.uniform(0.72, 1.0), "metal": rng.uniform(0.85, 1.0), "heel": rng.normal(0, 0.07, 2),
        "fog": rng.uniform(0, 0.07), "shutter": rng.uniform(0, 0.04) * (rng.random() < 0.7), "grain": rng.uniform(0.008, 0.03),
    }  # fmt: skip


def _turn(film, boxes, flip: bool, quarter: bool):
    "Mirror and quarter-turn a picture and its boxes."
    h, w = film.shape
    if flip:
        film = film[:, ::-1]
        boxes = [None if b is None else np.array([w - b[2], b[1], w - b[0], b[3]]) for b in boxes]
    if quarter:
        film = np.rot90(film)
        boxes = [None if b is None else np.array([b[1], w - b[2], b[3], w - b[0]]) for b in boxes]
    return film, boxes


def _clip(box, w: int, h: int) -> tuple[int, int, int, int]:
    x0, y0, x1, y1 = box
    x0, y0 = int(np.clip(np.floor(x0), 0, w - 2)), int(np.clip(np.floor(y0), 0, h - 2))
    return x0, y0, int(np.clip(np.ceil(x1), x0 + 1, w)), int(np.clip(np.ceil(y1), y0 + 1, h))


def _write_tables(root: Path, name: str, plan: list[Study], rows: list[tuple]):
    "MURA's four CSVs and `phantom.csv`, in the order of region, patient and study."
    plan = sorted(plan, key=lambda s: (s.split, s.region, s.patient, s.study))
    order = {f"{name}/{s.folder}": i for i, s in enumerate(plan)}
    rows = sorted(rows, key=lambda r: order[r[0].rpartition("/")[0]])
    for split in ("train", "valid"):
        studies = [(f"{name}/{s.folder}/", s.label) for s in plan if s.split == split]
        paths = dict.fromkeys(r[0] for r in rows if r[0].startswith(f"{name}/{split}/"))
        _write_csv(root / f"{split}_labeled_studies.csv", studies)
        _write_csv(root / f"{split}_image_paths.csv", [(p,) for p in paths])
    _write_csv(root / "phantom.csv", [COLUMNS, *rows])


def _write_csv(path: Path, rows):
    with open(path, "w", newline="", encoding="utf-8") as f:
        csv.writer(f, lineterminator="\n").writerows(rows)
