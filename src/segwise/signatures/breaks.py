"""Slice discontinuity: the mask does not go on smoothly from one slice to the next.

Source: slice jitter, holes, disappearance and return as failures of slice-wise and propagated masks, survey
arXiv 2506.10825; the measures are our own. A true shape changes too, so what is measured is what smooth change cannot
make: a slice that disagrees with both of its neighbours where these agree.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from segwise.geometry import Array
from segwise.signatures.look import Found, Seen, ends_of


def with_reference(seen: Seen) -> dict[str, Found]:
    """Components corrected for the reference's own change of shape: only what it does not have itself counts.

    Returns:
        gaps: share of the reference's slices that are empty although slices on both sides are painted.
        holes: share of the mask's area: enclosed holes where the reference is.
        odd: share of the mask that disagrees with both neighbouring slices, less that of the reference.
        detour: how much further (in 1 - DSC) two slices are apart by way of the one between them, by area, less that of
            the reference: slices that change in one direction make no detour.
        stairs: share of neighbouring slices that hardly differ although others around them do, less the reference's.
    """
    assert seen.reference is not None
    own = _signs(seen.prediction)
    base = _signs(seen.reference)
    low, high = seen.ends
    lost = np.zeros_like(seen.prediction)
    lost[low:high] = seen.reference[low:high] & (seen.areas[low:high] == 0)[:, None, None]
    n = max(1, seen.reference_ends[1] - seen.reference_ends[0])
    holes = _holes(seen.prediction) & seen.reference
    found = {"gaps": Found(float(lost.any(axis=(1, 2)).sum()) / n, lost)}
    found["holes"] = Found(float(holes.sum()) / max(1, int(seen.areas.sum())), holes)
    for name in ("odd", "stairs", "detour"):
        found[name] = Found(max(0.0, own[name].value - base[name].value), own[name].where)
    return found


def without(seen: Seen) -> dict[str, Found]:
    """The same from the mask and the image: with an image, odd counts only what the tissue contradicts as well.

    A voxel that only this slice has counts if its tissue is rather that of the surroundings, one that only this slice
    lacks if it is rather the core's.
    """
    mask, areas = seen.prediction, seen.areas
    low, high = seen.ends
    empty = np.zeros(len(areas), dtype=bool)
    empty[low:high] = areas[low:high] == 0
    found = _signs(mask)
    gone = np.zeros_like(mask)
    for i in map(int, np.flatnonzero(empty)):  # a gap shows where its neighbours are
        gone[i] = mask[max(0, i - 1)] | mask[i + 1]
    found["gaps"] = Found(float(empty.sum()) / max(1, high - low), gone if empty.any() else np.zeros_like(mask))
    holes = _holes(mask)
    found["holes"] = Found(float(holes.sum()) / max(1, int(areas.sum())), holes)
    if seen.sight is not None and seen.sight.core is not None:
        odd = found["odd"].where & (mask != seen.framed(seen.sight.core))
        found["odd"] = Found(float(odd.sum()) / max(1, int(areas.sum())), odd)
    return found


def _signs(mask: Array) -> dict[str, Found]:
    """odd, stairs and detour of a mask."""
    low, high = ends_of(mask.sum(axis=(1, 2)))
    inner = mask[low:high]
    where = np.zeros_like(mask)
    if len(inner) < 4 or not inner.any():
        return dict.fromkeys(("odd", "stairs", "detour"), Found(0.0, where))
    before, here, after = inner[:-2], inner[1:-1], inner[2:]
    odd = (here & ~before & ~after) | (~here & before & after)
    where[low + 1 : high - 1] = odd
    areas = inner.sum(axis=(1, 2))
    common = (inner[1:] & inner[:-1]).sum(axis=(1, 2))
    change = 1 - 2 * common / np.maximum(areas[1:] + areas[:-1], 1)  # [n - 1]
    still = _still(change)
    found = Found(float(still.mean()), _at(mask, still.astype(float), low))
    return {
        "odd": Found(float(odd.sum()) / float(inner.sum()), where),
        "stairs": found,
        "detour": _detour(mask, low, high),
    }


def _detour(mask: Array, low: int, high: int) -> Found:
    inner = mask[low:high]
    areas = inner.sum(axis=(1, 2)).astype(float)
    near = 1 - 2 * (inner[1:] & inner[:-1]).sum(axis=(1, 2)) / np.maximum(areas[1:] + areas[:-1], 1)
    far = 1 - 2 * (inner[2:] & inner[:-2]).sum(axis=(1, 2)) / np.maximum(areas[2:] + areas[:-2], 1)
    more = np.maximum(0, near[1:] + near[:-1] - far) * (far < 0.9)  # beyond, slices no longer overlap in any case
    return Found(float((more * areas[1:-1]).sum()) / max(1.0, float(areas[1:-1].sum())), _at(mask, more, low))


def _still(change: Array) -> Array:
    """bool [n]: changes below a quarter of the mean of the five around them, of a row of changes [n]."""
    padded = np.pad(change, 2)
    n = np.pad(np.ones_like(change), 2)
    total = np.sum([padded[i : i + len(change)] for i in range(5)], axis=0)
    around = total / np.sum([n[i : i + len(change)] for i in range(5)], axis=0)
    return np.asarray(change < 0.25 * around)


def _holes(mask: Array) -> Array:
    """bool [N, H, W]: background that a slice's mask encloses."""
    found = np.zeros_like(mask)
    for i in np.flatnonzero(mask.any(axis=(1, 2))):
        found[i] = ndimage.binary_fill_holes(mask[i]) & ~mask[i]
    return found


def _at(mask: Array, by_slice: Array, low: int) -> Array:
    """The mask on the worst slice of a row of numbers that begins one slice after `low`."""
    where = np.zeros_like(mask)
    if len(by_slice) and by_slice.max() > 0:
        i = int(by_slice.argmax()) + low + 1
        where[i] = mask[i] if mask[i].any() else mask[i - 1]
    return where
