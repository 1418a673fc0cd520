"""Over-segmentation: the mask runs into what lies beside the target.

Source: over-segmentation as a failure of promptable models, survey arXiv 2506.10825; volume ratio and share outside
the dilated reference after Metrics Reloaded (arXiv 2206.01653, absolute volume difference; boundary tolerance of NSD).
The components without a reference are our own.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from segwise.geometry import Array
from segwise.signatures.look import Found, Seen

AROUND = 0.1  # of the box's size on each side, and at least one voxel: the prompt's neighbourhood


def with_reference(seen: Seen) -> dict[str, Found]:
    """Components on the slices that the reference is on (beyond its ends it is `overrun`).

    Returns:
        outside: share of the prediction there that lies beyond the reference dilated by the tolerance.
        excess: by how much the prediction there is larger than the reference, in volumes of the reference.
        Both 0 for an empty reference (that is `hallucination`).
    """
    assert seen.reference is not None
    low, high = seen.reference_ends
    on = np.zeros_like(seen.prediction)
    on[low:high] = seen.prediction[low:high]
    wrong = on & ~seen.near
    n, n_reference = int(on.sum()), int(seen.reference_areas.sum())
    return {
        "outside": Found(float(wrong.sum()) / n if n else 0.0, wrong),
        "excess": Found(max(0.0, n / n_reference - 1) if n_reference else 0.0, on & ~seen.reference),
    }


def without(seen: Seen) -> dict[str, Found]:
    """Components from the mask and its prompt.

    Returns:
        beyond: share of the mask outside the neighbourhood of the prompt's boxes within the slices (their hull, widened
            by a tenth of its size); 0 without a box.
        filled: share of the box that the mask fills; most organs fill half. 0 without a box over several slices.
        bulge: share of a slice's area that neither of the slices two further on both sides has, in the worst slice with
            three more on each side: a leak appears at once, an organ widens over several slices.
        lobes: share of the mask behind necks: what an opening cuts off as a piece of its own.
    """
    nothing = np.zeros_like(seen.prediction)
    found = {"beyond": Found(0.0, nothing), "filled": Found(0.0, nothing)}
    total = int(seen.areas.sum())
    if seen.box is not None and total:
        out = seen.prediction & ~_neighbourhood(seen)
        found["beyond"] = Found(float(out.sum()) / total, out)
        if seen.is_long:
            inside = _cut(seen, seen.box)
            found["filled"] = Found(float(inside.sum()) / float(np.prod(seen.box[1] - seen.box[0])), seen.prediction)
    return found | {"bulge": _bulge(seen), "lobes": _lobes(seen)}


def _neighbourhood(seen: Seen) -> Array:
    """bool [1, H, W]: rows and columns near the box."""
    assert seen.box is not None
    size = seen.box[1] - seen.box[0]
    more = np.maximum(1, np.ceil(AROUND * size)).astype(int)
    shape = seen.prediction.shape
    near = np.zeros((1, *shape[1:]), dtype=bool)
    low = np.clip(seen.box[0] - more, 0, shape)
    high = np.clip(seen.box[1] + more, 0, shape)
    near[:, low[1] : high[1], low[2] : high[2]] = True
    return near


def _cut(seen: Seen, box: Array) -> Array:
    low, high = np.clip(box, 0, seen.prediction.shape)
    return seen.prediction[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]


def _bulge(seen: Seen) -> Found:
    mask, areas = seen.prediction, seen.areas
    where = np.zeros_like(mask)
    if len(mask) < 7:
        return Found(0.0, where)
    fresh = mask[2:-2] & ~mask[4:] & ~mask[:-4]
    share = fresh.sum(axis=(1, 2)) / np.maximum(areas[2:-2], 1)
    share[areas[2:-2] < 0.2 * areas.max()] = 0
    worst = float(share.max())
    at = np.flatnonzero(share == worst) if worst else []
    for i in at:
        where[i + 2] = fresh[i]
    return Found(worst, where)


def _lobes(seen: Seen) -> Found:
    """What falls off when the mask is eroded by a fifth of its greatest depth, grown back without meeting again."""
    import edt

    mask = seen.prediction
    if not mask.any():
        return Found(0.0, mask)
    depth = edt.edt(np.ascontiguousarray(mask), anisotropy=seen.spacing_mm, parallel=1)
    cores, n = ndimage.label(depth > 0.35 * depth.max())
    if n < 2:
        return Found(0.0, np.zeros_like(mask))
    sizes = np.bincount(cores.ravel())[1:]
    main = int(sizes.argmax()) + 1
    other = (cores > 0) & (cores != main)
    return Found(float(other.sum()) / float(sizes.sum()), other)
