"""What may be seen on a phantom's bones: the four kinds of abnormality, and harmless things that look like them.

The shares follow the review of abnormal studies in the MURA paper (arXiv 1712.06957): among 100 of them 53 fractures,
48 with hardware, 35 degenerative, 29 other; a study may have several.
"""

from dataclasses import dataclass

import numpy as np

from mura_fastai.data.phantom_bones import Skeleton, U, tube
from mura_fastai.data.phantom_draw import Canvas

KINDS = {"fracture": 0.53, "hardware": 0.48, "degenerative": 0.35, "other": 0.29}


@dataclass
class Finding:
    "One abnormality of a study: where it sits, and the numbers it is drawn with."

    kind: str
    form: str
    bone: int
    u: float
    side: int  # -1 left, 1 right of the axis
    numbers: np.ndarray  # shares of one, each drawing rule takes what it needs
    joint: tuple | None = None
    shown: tuple = ()  # one flag a view


FORMS = {
    "fracture": {"displaced": 0.55, "complete": 0.33, "hairline": 0.12},
    "hardware": {"plate": 0.6, "pin": 0.25, "screw": 0.15},
    "degenerative": {"joint": 1.0},
    "other": {"lytic": 0.35, "sclerotic": 0.20, "exostosis": 0.30, "swelling": 0.15},
}


def pick(rng, weights: dict) -> str:
    "One key, by weight."
    p = np.array(list(weights.values()), float)
    return list(weights)[rng.choice(len(p), p=p / p.sum())]


def kinds_of(rng) -> list[str]:
    "The kinds of one abnormal study: each by its share, at least one."
    while True:
        kinds = [k for k, share in KINDS.items() if rng.random() < share * 0.88]
        if kinds:
            return kinds


def places(skeleton: Skeleton, inside) -> tuple[list, list]:
    "Places of bones (index, u) and joints that `inside` (a test of points) finds in the middle of the picture."
    steps, spots = np.arange(0.1, 0.95, 0.05), []
    for i in skeleton.main:
        bone = skeleton.bones[i]
        good = inside(bone.a[:, None] + (bone.b - bone.a)[:, None] * steps)
        spots += [(i, float(u)) for u in steps[good]]
    joints = [j for j in skeleton.joints if inside(skeleton.bones[j[0]].at(j[1]))]
    return spots, joints


def choose(rng, skeleton: Skeleton, spots, joints, n_views: int, one_view: float | None = None) -> list[Finding]:
    """Findings of one study; normal studies draw none of theirs, so that framing says nothing about the label.

    In a fifth of the studies one view alone shows the lesions; in a share `one_view` of them all, hardware too."""
    weights = np.array([skeleton.bones[i].half(u) for i, u in spots])  # the larger, the likelier
    share_alone = 0.2 if one_view is None else one_view
    found, lone = [], int(rng.integers(n_views)) if rng.random() < share_alone else None  # the view that shows a lesion
    for kind in kinds_of(rng):
        form = pick(rng, FORMS[kind])
        bone, u = spots[rng.choice(len(spots), p=weights / weights.sum())]
        if kind == "hardware" and found and found[0].kind == "fracture":
            bone, u = found[0].bone, found[0].u  # a plate sits on the fracture it holds
        joint = joints[rng.integers(len(joints))] if kind == "degenerative" and joints else None
        if kind == "degenerative" and joint is None:
            kind, form = "other", "lytic"
        share = {"hardware": 0.97, "degenerative": 0.88}.get(kind, 0.78)
        shown = rng.random(n_views) < share
        shown[rng.integers(n_views)] = True
        if lone is not None and (kind != "hardware" or one_view is not None):
            shown = np.arange(n_views) == lone
        found.append(
            Finding(
                kind,
                form,
                bone,
                float(u),
                int(rng.choice([-1, 1])),
                rng.random(12),
                joint,
                tuple(bool(s) for s in shown),
            )
        )
    return found


def alter(skeleton: Skeleton, f: Finding):
    "Change the bones themselves, before they are drawn: breaks, spurs, worn joints, bumps."
    bone, r = skeleton.bones[f.bone], f.numbers
    if f.kind == "fracture":
        far = {"displaced": (1.1 + 0.8 * r[0]) * f.side, "complete": 0.35 * f.side * r[0], "hairline": 0.0}[f.form]
        depth = {"displaced": 0.9, "complete": 0.7 + 0.25 * r[1], "hairline": 0.55 + 0.2 * r[1]}[f.form]
        gap = {"displaced": 0.28 + 0.2 * r[2], "complete": 0.20 + 0.13 * r[2], "hairline": 0.1}[f.form]
        bone.cut = {
            "u": f.u,
            "slope": 1.6 * (r[3] - 0.5),
            "jag": (np.resize(r, 9) - 0.5) * 0.45,
            "gap": gap,
            "depth": depth,
            "shift": far,
        }
    elif f.kind == "degenerative":
        i, end_i, j, end_j = f.joint
        gap = skeleton.bones[j].at(end_j) - skeleton.bones[i].at(end_i)
        for k, end, move in ((i, end_i, 0.42), (j, end_j, -0.42)):
            _wear(skeleton.bones[k], end, gap * np.float32(move * (0.7 + 0.5 * r[0])), r)
    elif f.form == "exostosis":
        bump = (
            (0.8 + 0.8 * r[0])
            * bone.half(f.u)
            * np.exp(-(((U - f.u) * bone.length / (bone.half(f.u) * (0.5 + 0.5 * r[1]))) ** 2))
        )
        if f.side < 0:
            bone.left = (bone.left + bump).astype(np.float32)
        else:
            bone.right = (bone.right + bump).astype(np.float32)
    elif f.form == "swelling":
        p = bone.at(f.u)
        d = (bone.b - bone.a) / bone.length
        out = np.array([-d[1], d[0], 0], np.float32) * np.float32(f.side * skeleton.ref * (2.2 + r[0]))
        skeleton.flesh.append(
            tube(
                p + out - d * skeleton.ref * 3,
                p + out + d * skeleton.ref * 3,
                skeleton.ref * (2.4 + r[1]),
                skeleton.ref * (2.4 + r[2]),
            )
        )


def _wear(bone, end, move, r):
    "Narrow the joint at one end of a bone, whiten the bone under it, and let spurs grow."
    size = min(max(bone.half(0.08 if end == 0 else 0.92), 1e-3), 0.055)
    away = np.abs(U - end) * bone.length / size
    if end == 0:
        bone.a = bone.a + move
    else:
        bone.b = bone.b + move
    spur = (0.3 + 0.3 * r[1]) * size * np.exp(-(((away - 0.3) / 0.28) ** 2))
    bone.left = (bone.left + spur).astype(np.float32)
    bone.right = (bone.right + spur * (0.4 + r[2])).astype(np.float32)
    bone.dense = (bone.dense * (1 + (0.7 + 0.6 * r[3]) * np.exp(-((away / 0.7) ** 2)))).astype(np.float32)


def overlay(canvas: Canvas, skeleton: Skeleton, f: Finding):
    "Draw what lies on or in the drawn bones: metal and holes."
    bone, r = skeleton.bones[f.bone], f.numbers
    half = bone.half(f.u) * canvas.view.zoom * canvas.px * canvas.broaden(bone)
    if f.kind == "hardware":
        {"plate": _plate, "pin": _pin, "screw": _screw}[f.form](canvas, bone, f, half)
    elif f.form in ("lytic", "sclerotic"):
        place = canvas.blot(
            canvas.spot(bone, f.u, 0.3 * f.side), half * (0.65 + 0.3 * r[0]), 0.7 + 0.6 * r[1], 2.0 + 2 * r[2]
        )
        if place:
            where, mask = place
            canvas.bone[where] *= 1 - (0.6 + 0.25 * r[3]) * mask if f.form == "lytic" else 1 + (0.7 + 0.4 * r[3]) * mask


def span_u(canvas, bone, pixels) -> float:
    "Pixels along a bone as a share of it."
    return float(pixels / canvas.frame(bone)[3])


def _plate(canvas, bone, f, half):
    r = f.numbers
    long = min(half * (3.0 + 2.0 * r[0]), 0.42 * canvas.frame(bone)[3])
    edge, du = f.side * (0.25 + 0.55 * r[1]), span_u(canvas, bone, long)
    lo, hi = max(f.u - du, 0.03), min(f.u + du, 0.97)
    value, thick = 0.66 + 0.25 * r[2], max(half * (0.22 + 0.16 * r[3]), 0.0065 * canvas.px)
    p, q = canvas.spot(bone, lo, edge), canvas.spot(bone, hi, edge)
    canvas.bar(p, q, thick, value)
    for k in np.linspace(0.08, 0.92, 4 + int(4 * r[4])):
        s = p + (q - p) * k
        end = canvas.spot(bone, lo + (hi - lo) * k, -f.side * (0.55 + 0.4 * r[5]))
        canvas.bar(s, end, max(half * 0.09, 0.003 * canvas.px), value * 0.95)


def _pin(canvas, bone, f, half):
    r = f.numbers
    for k in range(1 + int(2 * r[0])):
        du = span_u(canvas, bone, half * (2.5 + 2.5 * r[1]))
        p = canvas.spot(bone, f.u - du, 0.9 * f.side * (1 - 0.7 * k))
        q = canvas.spot(bone, f.u + du * 0.8, -0.7 * f.side * (1 - 0.9 * k))
        canvas.bar(p, q, max(half * 0.10, 0.0045 * canvas.px), 0.66 + 0.25 * r[2])


def _screw(canvas, bone, f, half):
    r = f.numbers
    for k in range(1 + int(2.5 * r[0])):
        u = f.u + span_u(canvas, bone, half * 0.8 * k)
        p, q = (
            canvas.spot(bone, u, 1.05 * f.side),
            canvas.spot(bone, u + span_u(canvas, bone, half * (r[1] - 0.5)), -0.8 * f.side),
        )
        value = 0.62 + 0.25 * r[2]
        canvas.bar(p, q, max(half * 0.13, 0.0055 * canvas.px), value)
        head = (q - p) / max(float(np.hypot(*(q - p))), 1e-3)
        across = np.array([-head[1], head[0]]) * max(half * 0.2, 1.4)
        canvas.bar(p - across, p + across, max(half * 0.09, 0.8), value)


def box_of(canvas: Canvas, skeleton: Skeleton, f: Finding) -> np.ndarray:
    "Corners (x0, y0, x1, y1) on the canvas of what a finding changed."
    if f.kind == "degenerative":
        i, end_i, j, end_j = f.joint
        a, b = skeleton.bones[i], skeleton.bones[j]
        points = []
        for bone, end in ((a, end_i), (b, end_j)):
            du = min(0.9 * bone.half(abs(end - 0.1)) / bone.length, 0.4)
            points += [canvas.spot(bone, abs(end - du), v) for v in (-1.45, 1.45)] + [canvas.spot(bone, end)]
        return _round(points, 1)
    bone = skeleton.bones[f.bone]
    half = bone.half(f.u) * canvas.view.zoom * canvas.px * canvas.broaden(bone)
    reach, side = {
        "plate": (min(half * (3.0 + 2.0 * f.numbers[0]), 0.42 * canvas.frame(bone)[3]), 1.0),
        "pin": (half * (2.6 + 2.6 * f.numbers[1]), 1.0), "screw": (half * 1.9, 1.25),
        "displaced": (half * 1.9, 1.9), "complete": (half * 1.3, 1.25), "hairline": (half * 1.2, 1.15),
        "lytic": (half * 1.1, 1.05), "sclerotic": (half * 1.1, 1.05),
        "exostosis": (half * 1.2, 2.3), "swelling": (half * 4, 5.0),
    }[f.form]  # fmt: skip
    du = span_u(canvas, bone, reach)
    lo, hi = (f.u - du, f.u + du) if f.form != "plate" else (max(f.u - du, 0.03), min(f.u + du, 0.97))
    return _round([canvas.spot(bone, u, v) for u in (lo, hi) for v in (-side, side)], 1.5)


def _round(points, pad):
    points = np.asarray(points)
    return np.concatenate([points.min(0) - pad, points.max(0) + pad])


def harmless(canvas: Canvas, skeleton: Skeleton, things: list):
    "Draw a study's harmless things: canals, growth lines, rings, clips."
    for name, index, u, r in things:
        bone = skeleton.bones[index]
        half = bone.half(u) * canvas.view.zoom * canvas.px * canvas.broaden(bone)
        if name == "canal":  # a vessel's way through the cortex: a short oblique dark line
            p, q = canvas.spot(bone, u, 0.95), canvas.spot(bone, u + span_u(canvas, bone, half * 1.6), 0.3)
            _shade(canvas, p, q, max(half * 0.05, 0.6), 0.25 + 0.2 * r[0])
        elif name == "growth":  # what is left of the growth plate: a line right across near the end
            p, q = canvas.spot(bone, u, -0.95), canvas.spot(bone, u, 0.95)
            _shade(canvas, p, q, max(half * 0.06, 0.6), (0.5 if r[0] < 0.5 else -0.5) * (0.5 + 0.5 * r[1]))
        elif name == "ring":  # jewellery round the flesh
            p, q = canvas.spot(bone, u, -1.9), canvas.spot(bone, u, 1.9)
            canvas.bar(p, q, max(half * 0.22, 1.2), 0.62 + 0.25 * r[1])
        elif name == "clip":  # a clip, a button, a piece of wire beside or over the bone
            p = canvas.spot(bone, u, 3.2 * (r[0] - 0.5) * 2)
            a, long = r[1] * np.pi, half * (0.6 + 1.2 * r[2])
            canvas.bar(p, p + long * np.array([np.cos(a), np.sin(a)]), max(half * 0.09, 0.8), 0.6 + 0.25 * r[3])


def _shade(canvas, p, q, half, amount):
    "Thin (amount above 0) or thicken the bone along a line."
    line = Canvas.__new__(Canvas)
    line.__dict__.update(canvas.__dict__, metal=np.zeros_like(canvas.bone))
    line.bar(p, q, half, 1.0)
    canvas.bone *= 1 - np.float32(amount) * line.metal


def harmless_of(rng, skeleton: Skeleton, spots) -> list:
    "Which harmless things a study has, whatever its label."
    out = []
    for name, share in (("canal", 0.35), ("growth", 0.25), ("ring", 0.12), ("clip", 0.10)):
        while rng.random() < share:
            fit = (
                spots
                if name != "ring"
                else [s for s in spots if skeleton.bones[s[0]].half(s[1]) < 0.02 and skeleton.bones[s[0]].length < 0.16]
            )
            if not fit:
                break
            bone, u = fit[rng.integers(len(fit))]
            out.append((name, bone, float(u) if name != "growth" else float(rng.choice([0.12, 0.88])), rng.random(4)))
            share *= 0.4
    return out
