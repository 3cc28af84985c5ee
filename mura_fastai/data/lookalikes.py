"""Groups of pictures that show the same thing, for data without patient numbers: no split divides a group."""

from collections.abc import Sequence

import numpy as np
from scipy import fft, ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from .inspection import LOOK_SIDE

# Chosen on FracAtlas by looking at the pairs. Whole-picture correlation alone does not tell one patient's foot from
# another's (both .97); fine structure after alignment does: copies, crops and re-exposures lie above .83, most of them
# above .95; from .75 to .8 repeats of one patient mix with a few strangers, which costs nothing, as groups stay at 5
# or less; from .72 down strangers chain (17 images, at .70 36).
COARSE = 0.92  # correlation of the 16 x 16 pictures that makes a pair worth aligning
FINE = 0.75  # correlation of the aligned fine structure that makes it look-alike
COPY = 0.95  # from here up it is the same exposure, saved or cropped anew
MAX_SHIFT = 12  # of 64 px, about a fifth of the picture
_BLOCK = 1024


def _unit(x: np.ndarray) -> np.ndarray:
    "Each picture as a vector of mean 0 and length 1, so that a product is a correlation."
    x = x.reshape(len(x), -1)
    x = x - x.mean(axis=1, keepdims=True)
    return x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-6)


def _coarse_pairs(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    "Pairs whose pictures agree roughly, found a block of rows at a time: memory stays linear."
    n, side = len(pictures), 16
    step = LOOK_SIDE // side
    small = _unit(pictures.reshape(n, side, step, side, step).mean(axis=(2, 4)))
    found = []
    for a in range(0, n, _BLOCK):
        i, j = np.nonzero(small[a : a + _BLOCK] @ small[a:].T > COARSE)
        found.append(np.stack([i, j])[:, i < j] + a)
    return tuple(np.concatenate(found, axis=1))


def _aligned(pictures: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    "Correlation of the fine structure of each pair at the best shift of up to `MAX_SHIFT` pixels."
    used, where = np.unique(np.concatenate([i, j]), return_inverse=True)
    i, j = where[: len(i)], where[len(i) :]
    # Without the slow part, exposure no longer counts; clipped, a bright border or marker does not outweigh the bone.
    fine = np.clip(pictures[used] - ndimage.gaussian_filter(pictures[used], (0, 2, 2), truncate=3), -25, 25)
    waves = fft.rfft2(_unit(fine).reshape(fine.shape))
    near = np.minimum(np.arange(LOOK_SIDE), LOOK_SIDE - np.arange(LOOK_SIDE)) <= MAX_SHIFT
    best = np.empty(len(i), np.float32)
    for a in range(0, len(i), _BLOCK):
        product = waves[i[a : a + _BLOCK]] * waves[j[a : a + _BLOCK]].conj()
        every_shift = fft.irfft2(product, s=(LOOK_SIDE, LOOK_SIDE))
        best[a : a + _BLOCK] = every_shift[:, near][:, :, near].max(axis=(1, 2))
    return best


def lookalike_pairs(
    looks: Sequence[bytes],  # the `look` column of `inspect_images`: 64 x 64 grey pixels each
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # positions i and j, and how alike the two are: `FINE` to 1
    """Pairs that are copies, crops, small shifts or other exposures of one picture.

    Mirrored and turned copies are not looked for: FracAtlas has none.
    """
    pictures = np.frombuffer(b"".join(looks), np.uint8).reshape(-1, LOOK_SIDE, LOOK_SIDE).astype(np.float32)
    i, j = _coarse_pairs(pictures) if len(pictures) > 1 else (np.zeros(0, int), np.zeros(0, int))
    alike = _aligned(pictures, i, j) if len(i) else np.zeros(0, np.float32)
    return i[alike > FINE], j[alike > FINE], alike[alike > FINE]


def group_pairs(
    i: np.ndarray,  # one end of each pair
    j: np.ndarray,  # the other
    n: int,  # number of pictures in all
) -> np.ndarray:  # a group number for each picture; one that is in no pair has a group of its own
    "Number pictures so that those linked by pairs, directly or through others, share a number."
    return connected_components(coo_matrix((np.ones(len(i)), (i, j)), shape=(n, n)), directed=False)[1]
