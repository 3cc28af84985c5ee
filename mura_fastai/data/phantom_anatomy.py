"""The skeletons of an invented arm, hand and shoulder, and the flesh around them.

Bones have places in three dimensions, so that several views of one study show the same bones. Proportions are rough
ones; every patient's differ a little.
"""

import numpy as np

from mura_fastai.data.phantom_bones import Bone, Skeleton, knob, long_bone, outline, short_bone, tube, vec

CARPALS = [  # x, y, height, width, tilt: in units of a hand, the wrist at the origin, fingers up
    (-0.062, -0.030, 0.082, 0.050, 0.5), (-0.012, -0.034, 0.058, 0.056, 0.0), (0.038, -0.030, 0.050, 0.048, -0.3),
    (0.050, -0.046, 0.036, 0.034, 0.0), (-0.098, -0.088, 0.050, 0.052, 0.3), (-0.052, -0.092, 0.044, 0.040, 0.0),
    (-0.004, -0.094, 0.078, 0.050, 0.0), (0.048, -0.090, 0.062, 0.052, -0.2),
]  # fmt: skip
RAYS = [  # x, y of the base of the metacarpal; direction in degrees; four lengths (thumb: three)
    (-0.118, -0.108, -42, (0.150, 0.104, 0.072)),
    (-0.062, -0.128, -11, (0.212, 0.134, 0.078, 0.056)),
    (-0.014, -0.136, -2, (0.204, 0.148, 0.092, 0.060)),
    (0.026, -0.128, 6, (0.182, 0.138, 0.086, 0.060)),
    (0.060, -0.114, 15, (0.168, 0.108, 0.062, 0.052)),
]


def hand(rng) -> Skeleton:
    "Hand and wrist with the ends of the forearm, fingers up, the wrist joint at the origin."
    g = rng.uniform(0.9, 1.12)  # how stout the bones are
    bones, flesh, joints = [], [], []
    bones.append(
        long_bone(
            vec(-0.048, 0.62),
            vec(-0.048, 0.0),
            0.026 * g,
            0.03,
            0.062 * g,
            0.75,
            sides=(1, 1, 1.12, 0.9),
            reach=0.26,
            cap=0.22,
        )
    )
    bones.append(long_bone(vec(0.062, 0.62), vec(0.058, 0.012), 0.021 * g, 0.03, 0.031 * g, 0.95, reach=0.2, cap=0.35))
    for x, y, h, w, tilt in CARPALS:
        jig = rng.normal(0, 0.003, 2)
        bones.append(
            short_bone(
                vec(x + jig[0], y + jig[1], rng.uniform(-0.02, 0.02)), h, w * min(g, 1.05), tilt + rng.normal(0, 0.1)
            )
        )
    joints += [(0, 1, 2, 1), (0, 1, 3, 1), (2, 0, 6, 1), (3, 0, 8, 1)]
    spread = rng.uniform(0.6, 1.25)
    for k, (x, y, angle, lengths) in enumerate(RAYS):
        _ray(
            rng,
            k,
            vec(x, y, 0.03 if k == 0 else 0.0),
            np.deg2rad(angle * (1 if k == 0 else spread)),
            lengths,
            g,
            bones,
            flesh,
            joints,
        )
    flesh.append(tube(vec(0.0, 0.07), vec(-0.01, -0.33), 0.115, 0.165, flat=0.62))
    flesh.append(tube(vec(0.005, 0.75), vec(0.0, -0.03), 0.175, 0.118, flat=0.75, round_a=False))
    return Skeleton(bones, flesh, joints, 0.024, [0, 1, *range(10, len(bones))])


def _ray(rng, k, start, angle, lengths, g, bones, flesh, joints):
    "One metacarpal and its phalanges, appended to the lists."
    shafts = (0.0185, 0.0165, 0.0135, 0.0105)
    curl, at = rng.uniform(-0.05, 0.12), start
    for i, length in enumerate(lengths):
        lift = np.sin(curl * i * (k + 2) / 3)
        d = vec(np.sin(angle), -np.cos(angle), lift)
        d /= np.linalg.norm(d)
        s = shafts[i + (k == 0 and i > 0)] * g
        last = i == len(lengths) - 1
        head, tail = (1.62 * s, 1.5 * s) if not last else (1.7 * s, 1.05 * s)
        bones.append(long_bone(at, at + d * np.float32(length), s, head, tail, 0.9, reach=0.3, cap=0.42))
        if i:
            joints.append((len(bones) - 2, 1, len(bones) - 1, 0))
            pad = (0.0, 0.03, 0.03, 0.026)[min(i, 3)]
            flesh.append(
                tube(
                    at - d * np.float32(0.05),
                    at + d * np.float32(length + (0.022 if last else 0.02)),
                    pad * 1.12,
                    pad * (0.9 if last else 1.05),
                    flat=0.95,
                )
            )
        elif k == 0:
            flesh.append(tube(at, at + d * np.float32(length + 0.02), 0.055, 0.04, flat=0.8))
        at = at + d * np.float32(length + 0.0085)
        angle = angle + rng.normal(0, 0.03)


def arm(rng, flex: float = 0.15) -> Skeleton:
    "Humerus, radius and ulna, the elbow at the origin bent by `flex` radians (towards the reader), shoulder up."
    g = rng.uniform(0.9, 1.12)
    s, c = np.float32(np.sin(flex)), np.float32(np.cos(flex))
    down, fore = vec(0, c, s), vec(0, -s, c)  # along the forearm, and across it
    bones = [
        _humerus(g),
        long_bone(
            vec(-0.042, 0) + down * np.float32(0.012),
            vec(-0.075, 0) + down * np.float32(0.78),
            0.021 * g,
            0.033,
            0.052,
            0.85,
            bow=-0.022,
            reach=0.15,
            cap=0.3,
        ),
        long_bone(
            vec(0.03, 0) - down * np.float32(0.085) - fore * np.float32(0.03),
            vec(0.055, 0) + down * np.float32(0.77),
            0.022 * g,
            0.05,
            0.026,
            1.1,
            bow=0.006,
            reach=0.2,
            cap=0.5,
        ),
    ]
    joints = [(0, 1, 1, 0), (0, 1, 2, 0)]
    for x, y, h, w, tilt in CARPALS:
        bones.append(
            short_bone(
                vec(-x * 0.85, 0, rng.uniform(-0.01, 0.01)) + down * np.float32(0.79 - y * 0.85), h * 0.8, w * 0.8, tilt
            )
        )
    for x in (-0.05, 0.0, 0.04, 0.08):
        bones.append(
            long_bone(
                vec(x, 0) + down * np.float32(0.9),
                vec(x * 1.4, 0) + down * np.float32(1.07),
                0.016,
                0.026,
                0.024,
                reach=0.3,
            )
        )
    bones.append(Bone(vec(0.30, -1.1), vec(0.21, -0.82), *outline(0.3, 0.06, 0.05, 0.05), flat=0.5))
    joints += [(1, 1, 3, 1), (1, 1, 4, 1)]
    fat = rng.uniform(0.85, 1.25)
    flesh = [
        tube(vec(0.02, -1.3), vec(0.0, 0.06), 0.24 * fat, 0.145 * fat, round_a=False),
        tube(-down * np.float32(0.10), down * np.float32(0.80), 0.165 * fat, 0.098 * fat),
        tube(down * np.float32(0.7), down * np.float32(1.1), 0.1 * fat, 0.12 * fat, flat=0.8),
    ]
    return Skeleton(bones, flesh, joints, 0.036, [0, 1, 2])


def _humerus(g: float) -> Bone:
    "A whole humerus, its head to the right (towards the trunk), its lower end two rounded rolls."
    bone = long_bone(
        vec(0.035, -1.0),
        vec(0.0, -0.002),
        0.037 * g,
        0.055,
        0.088,
        0.72,
        bow=0.008,
        sides=(1, 1, 0.92, 1.12),
        reach=0.17,
        cap=0.62,
    )
    return knob(bone, 0.078, 0.75, 1.25)


def shoulder(rng, turn: float = 0.0) -> Skeleton:
    "Head of the humerus at the origin, trunk to the right; `turn` swings the arm out (radians)."
    g = rng.uniform(0.92, 1.1)
    out = vec(-np.sin(turn), np.cos(turn), 0)
    bones = [
        knob(
            long_bone(vec(-0.03, -0.125), out * np.float32(1.0), 0.058 * g, 0.085, 0.09, 0.9, reach=0.26, cap=0.9),
            0.122,
            0.72,
            1.28,
        ),
        Bone(
            vec(0.18, -0.10), vec(0.17, 0.125), *outline(0.23, 0.034, 0.05, 0.05, sides=(0.8, 1.2, 0.8, 1.2)), flat=1.2
        ),
        Bone(
            vec(0.32, -0.16),
            vec(0.42, 0.60),
            *outline(0.78, 0.10, 0.135, 0.03, sides=(0.85, 1.2, 1, 1), reach=0.6, cortex=0.12),
            flat=0.42,
        ),
        long_bone(
            vec(0.92, -0.27, 0.1), vec(0.10, -0.29, 0.02), 0.032 * g, 0.05, 0.04, 0.9, bow=0.03 * rng.choice([-1, 1])
        ),
        Bone(vec(0.36, -0.19, -0.06), vec(0.03, -0.255, -0.04), *outline(0.34, 0.035, 0.04, 0.055, cap=0.6), flat=0.9),
        Bone(vec(0.25, -0.10, 0.1), vec(0.15, -0.165, 0.14), *outline(0.13, 0.03, 0.04, 0.032, cap=0.8), flat=1.1),
    ]
    joints = [(0, 0, 1, 0), (3, 1, 4, 1)]
    for k in range(6):
        y, bulge = -0.16 + 0.155 * k, 0.05 + 0.02 * k
        rib = long_bone(
            vec(1.05, y - 0.05, -0.25),
            vec(0.52 - 0.03 * k, y + 0.13 + 0.02 * k, 0.0),
            0.026,
            0.026,
            0.022,
            bow=bulge,
            cortex=0.5,
        )
        rib.flat = 0.8
        bones.append(rib)
    fat = rng.uniform(0.9, 1.2)
    flesh = [
        tube(vec(0.06, -0.10), out * np.float32(1.1), 0.27 * fat, 0.21 * fat, round_b=False),
        tube(vec(0.78, -0.52), vec(0.72, 1.2), 0.42, 0.52, flat=0.42),
        tube(vec(0.0, -0.10), vec(0.95, -0.42), 0.25 * fat, 0.22, flat=0.9, round_b=False),
    ]
    bones[3].flat = 1.5
    return Skeleton(bones, flesh, joints, 0.062, [0, 1, 3, 4])
