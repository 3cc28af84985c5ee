"""Bones as shapes: an axis in three dimensions, and tables along it.

Each bone is a straight axis with its half-widths to the left and to the right tabulated along it, from the end nearer
the trunk (u = 0) to the other (u = 1). x runs to the right and y down the picture, z towards the reader; the unit is
the skeleton's own (about the length of a humerus or of a hand).
"""

from dataclasses import dataclass, field, replace

import numpy as np

STEPS = 96  # table entries along a bone
U = np.linspace(0, 1, STEPS, dtype=np.float32)


@dataclass
class Bone:
    "One bone: axis from `a` to `b`, outline, wall, and how strongly it takes up the beam along its length."

    a: np.ndarray  # (x, y, z) of the end nearer the trunk
    b: np.ndarray  # (x, y, z) of the other end
    left: np.ndarray  # half-widths on the left of the axis, STEPS long
    right: np.ndarray  # half-widths on the right
    wall: np.ndarray  # thickness of the cortex
    lateral: float = 1.0  # width seen from the side over width seen from the front
    flat: float = 1.0  # below 1 for flat bones, which take up less than their width says
    dense: np.ndarray = field(default_factory=lambda: np.ones(STEPS, np.float32))  # relative density
    cut: dict | None = None  # a break, set by the fracture finding

    @property
    def length(self) -> float:
        return float(np.linalg.norm(self.b - self.a))

    def at(self, u: float) -> np.ndarray:
        "The point of the axis at `u`."
        return self.a + (self.b - self.a) * np.float32(u)

    def half(self, u: float) -> float:
        "Half-width at `u`."
        i = int(round(float(np.clip(u, 0, 1)) * (STEPS - 1)))
        return float(self.left[i] + self.right[i]) / 2

    def middle(self, u: float) -> float:
        "How far right of the axis the middle of the bone lies at `u`."
        i = int(round(float(np.clip(u, 0, 1)) * (STEPS - 1)))
        return float(self.right[i] - self.left[i]) / 2


@dataclass
class Skeleton:
    "Bones, the flesh around them, and the joints between them (bone, end, bone, end)."

    bones: list
    flesh: list  # Bone objects whose wall is ignored
    joints: list
    ref: float  # half-width of a bone of usual brightness
    main: list  # indices of the bones that findings sit on

    def copy(self) -> "Skeleton":
        "Another skeleton whose bones can be altered apart from this one's."
        return Skeleton([replace(b) for b in self.bones], [*self.flesh], self.joints, self.ref, self.main)


def vec(x, y, z=0.0) -> np.ndarray:
    return np.array([x, y, z], np.float32)


def outline(length, shaft, head, tail, sides=(1, 1, 1, 1), reach=0.24, cap=0.5, cortex=0.36):
    "Left and right half-widths and wall of a long bone; `sides` scales head left, head right, tail left, tail right."
    swell = [np.where(x < 1, 0.5 + 0.5 * np.cos(np.pi * np.minimum(x, 1)), 0) for x in (U / reach, (1 - U) / reach)]
    away = [np.minimum(U * length / (cap * head), 1), np.minimum((1 - U) * length / (cap * tail), 1)]
    ends = np.sqrt(1 - (1 - away[0]) ** 2) * np.sqrt(1 - (1 - away[1]) ** 2)
    waist = shaft * (1 + 0.06 * np.cos(2 * np.pi * U))
    left, right = (
        (waist + (head * h - waist) * swell[0] + (tail * t - waist) * swell[1]) * ends
        for h, t in (sides[::2], sides[1::2])
    )
    wall = shaft * (cortex - (cortex - 0.10) * np.clip(swell[0] + swell[1], 0, 1) ** 0.6)
    return left.astype(np.float32), right.astype(np.float32), wall.astype(np.float32)


def long_bone(a, b, shaft, head, tail, lateral=1.0, bow=0.0, **kw) -> Bone:
    "A long bone; `bow` bends its axis to the right by that many of its units in the middle."
    left, right, wall = outline(float(np.linalg.norm(b - a)), shaft, head, tail, **kw)
    bend = (bow * np.sin(np.pi * U) ** 2).astype(np.float32)
    return Bone(a, b, left - bend, right + bend, wall, lateral)


def knob(bone: Bone, radius: float, left: float, right: float, start: float = 0.0) -> Bone:
    "Widen a bone to at least a disc of `radius` that begins `start` from its first end (negative: from the last)."
    along = U * bone.length - start if start >= 0 else (1 - U) * bone.length + start
    disc = np.sqrt(np.maximum(radius**2 - (along - radius) ** 2, 0)).astype(np.float32)
    bone.left, bone.right = (
        np.maximum(bone.left, disc * np.float32(left)),
        np.maximum(bone.right, disc * np.float32(right)),
    )
    return bone


def short_bone(centre, height, width, tilt=0.0, lateral=1.0, flat=1.0) -> Bone:
    "A rounded block: carpals, or the cut end of something larger."
    d = vec(np.sin(tilt), np.cos(tilt)) * np.float32(height / 2)
    side = (width / 2 * (1 - np.abs(2 * U - 1) ** 2.6) ** 0.5).astype(np.float32)
    wall = np.full(STEPS, 0.11 * width, np.float32)
    return Bone(centre - d, centre + d, side, side.copy(), wall, lateral, flat)


def tube(a, b, wide_a, wide_b, flat=1.0, round_a=True, round_b=True) -> Bone:
    "Flesh from `a` to `b`."
    width = wide_a + (wide_b - wide_a) * U
    length = max(float(np.linalg.norm(b - a)), 1e-3)
    near = np.minimum(U * length / wide_a, 1) if round_a else 1
    far = np.minimum((1 - U) * length / wide_b, 1) if round_b else 1
    side = (width * np.sqrt(1 - (1 - near) ** 2) * np.sqrt(1 - (1 - far) ** 2)).astype(np.float32)
    return Bone(a, b, side, side.copy(), side, 1.0, flat)
