"""Over-segmentation: the mask runs into what lies beside the target.

Source: over-segmentation as a failure of promptable models, survey arXiv 2506.10825; volume ratio and share outside
the dilated reference after Metrics Reloaded (arXiv 2206.01653, absolute volume difference; boundary tolerance of NSD).
The components without a reference are our own.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy import ndimage

from segwise.geometry import Array
from segwise.signatures.look import Found, Seen, ends_of
from segwise.signatures.sight import WELL

WIDER = 0.25  # of the size of a box on one slice, on each side: how far the target may reach on other slices
NEAR = (1, 2, 2)  # standard deviations of what is near, in slices, rows and columns


def with_reference(seen: Seen) -> dict[str, Found]:
    """Components on the slices that the reference is on (beyond its ends it is `overrun`).

    Returns:
        outside: share of the prediction there that lies beyond the reference dilated by the tolerance.
        beside: share of it outside the reference itself (1 - precision): a thin mask moved by a voxel hides within
            the tolerance.
        excess: by how much the prediction there is larger than the reference, in volumes of the reference.
        All 0 for an empty reference (that is `hallucination`).
    """
    assert seen.reference is not None
    low, high = seen.reference_ends
    on = np.zeros_like(seen.prediction)
    on[low:high] = seen.prediction[low:high]
    wrong, beside = on & ~seen.near, on & ~seen.reference
    n, n_reference = int(on.sum()), int(seen.reference_areas.sum())
    return {
        "outside": Found(float(wrong.sum()) / n if n else 0.0, wrong),
        "beside": Found(float(beside.sum()) / n if n else 0.0, beside),
        "excess": Found(max(0.0, n / n_reference - 1) if n_reference else 0.0, beside),
    }


def without(seen: Seen) -> dict[str, Found]:
    """Components from the mask, its prompt and the image.

    Returns:
        beyond: share of the mask outside the rows and columns of a box over several slices.
        over: by how much the mask sticks out of that box, mean of its four sides within the slices, in its sizes.
        filled: share of that box that the mask fills; most organs fill half.
        slice: share of the mask outside the box on the one slice that it was drawn on.
        wide: share of the mask outside that slice's box, widened by a quarter of its size, on any slice.
        burst: area that appears from one slice to the next further than two voxels (and than the slices are apart) from
            what was there, in mean areas, the most over both directions: organs widen, leaks open.
        inner: voxels that the image's edges lie within the outline, on average.
        place: share of edges well within the outline where most of them are, at the tenth of its places with most.
        foreign: 1 less how much more likely the core's tissue is than that of the surroundings (log ratio, averaged
            nearby), at the tenth of the mask where it is least.
        Outside begins where a loosely drawn face could be (`LOOSE_MM`). The first three are 0 without a box over
        several slices, the next two without a box on one slice, the last three without an image.
    """
    nothing = np.zeros_like(seen.prediction)
    found = dict.fromkeys(("beyond", "over", "filled", "slice", "wide"), Found(0.0, nothing))
    total = int(seen.areas.sum())
    if seen.box is not None and total:
        found |= _long(seen, total) if seen.is_long else _flat(seen, total)
    return found | {"burst": _burst(seen), **_seen(seen)}


def _seen(seen: Seen) -> dict[str, Found]:
    """What the image says; all 0 without one."""
    nothing = np.zeros_like(seen.prediction)
    found = dict.fromkeys(("inner", "place", "foreign"), Found(0.0, nothing))
    if seen.sight is None:
        return found
    places, steps = seen.sight.outline
    if len(places):
        for name, wrong, value in (
            ("inner", steps < 0, float(np.clip(-steps, 0, None).mean())),
            ("place", steps <= -WELL, float(np.quantile(_near(steps <= -WELL, places), 0.9))),
        ):
            where = nothing.copy()
            where[tuple(places.T)] = wrong
            found[name] = Found(value, where)
    like = seen.sight.likeness
    if like is not None:
        mask = seen.sight.mask
        share = ndimage.gaussian_filter(mask.astype(np.float32), NEAR)
        local = ndimage.gaussian_filter(like * mask, NEAR) / np.maximum(share, 1e-3)
        least = float(np.quantile(local[mask], 0.1))
        found["foreign"] = Found(max(0.0, 1 - least), seen.framed(mask & (local <= least)))
    return found


def _near(wrong: Array, places: Array) -> Array:
    """float64 [P]: share of wrong places among those near each of the places [P, 3] of an outline."""
    low = places.min(axis=0)
    there, many = (np.zeros(places.max(axis=0) - low + 1) for _ in range(2))
    at = tuple((places - low).T)
    there[at], many[at] = wrong, 1
    share = ndimage.gaussian_filter(there, NEAR) / np.maximum(ndimage.gaussian_filter(many, NEAR), 1e-6)
    return np.asarray(share[at])


def _long(seen: Seen, total: int) -> dict[str, Found]:
    assert seen.box is not None
    out = seen.prediction & ~_column(seen, 0.0)
    size = seen.box[1] - seen.box[0]
    over = []
    for axis in (1, 2):
        low, high = ends_of(np.asarray(seen.prediction.any(axis=(0, 3 - axis))))
        first, last = int(seen.box[0, axis]) - seen.loose(axis), int(seen.box[1, axis]) + seen.loose(axis)
        over += [max(0, first - low) / size[axis], max(0, high - last) / size[axis]]
    low, high = np.clip(seen.box, 0, seen.prediction.shape)
    inside = seen.prediction[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    return {
        "beyond": Found(float(out.sum()) / total, out),
        "over": Found(float(np.mean(over)), out),
        "filled": Found(float(inside.sum()) / float(np.prod(size)), seen.prediction),
    }


def _flat(seen: Seen, total: int) -> dict[str, Found]:
    assert seen.box is not None
    wide = seen.prediction & ~_column(seen, WIDER)
    there = np.zeros_like(seen.prediction)
    i = int(seen.box[0, 0])
    if 0 <= i < len(there):
        there[i] = seen.prediction[i] & ~_column(seen, 0.0)[0]
    share = float(there.sum()) / max(1.0, float(seen.areas[i])) if 0 <= i < len(there) else 0.0
    return {"slice": Found(share, there), "wide": Found(float(wide.sum()) / total, wide)}


def _column(seen: Seen, more: float) -> Array:
    """bool [1, H, W]: rows and columns of the box, its faces as loose as drawn ones are, and a share of its size."""
    assert seen.box is not None
    shape = np.array(seen.prediction.shape)
    loose = np.array([seen.loose(axis) for axis in range(3)])
    wider = loose + np.ceil(more * (seen.box[1] - seen.box[0])).astype(int)
    near = np.zeros((1, *seen.prediction.shape[1:]), dtype=bool)
    low, high = np.clip(seen.box[0] - wider, 0, shape), np.clip(seen.box[1] + wider, 0, shape)
    near[:, low[1] : high[1], low[2] : high[2]] = True
    return near


def _burst(seen: Seen) -> Found:
    where = np.zeros_like(seen.prediction)
    low, high = seen.ends
    if high - low < 4:
        return Found(0.0, where)
    mask, areas = seen.prediction[low:high], seen.areas[low:high]
    reach = max(2, round(seen.spacing_mm[0] / min(seen.spacing_mm[1:])))
    round_ = np.hypot(*np.mgrid[-reach : reach + 1, -reach : reach + 1]) <= reach + 0.5
    wider = np.stack([cv2.dilate(one.astype(np.uint8), round_.astype(np.uint8)) for one in mask]).astype(bool)
    large = areas >= 0.3 * np.median(areas[areas > 0])
    up = (mask[1:] & ~wider[:-1]) & large[:-1, None, None]
    down = (mask[:-1] & ~wider[1:]) & large[1:, None, None]
    worst = 0.0
    for fresh, shift in ((up, 1), (down, 0)):
        by_slice = fresh.sum(axis=(1, 2)) / areas[areas > 0].mean()
        i = int(by_slice.argmax())
        if by_slice[i] > worst:
            worst = float(by_slice[i])
            where[:] = False
            where[low + i + shift] = fresh[i]
    return Found(worst, where)
