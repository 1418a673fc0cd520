"""Retention decay: the target is lost along the propagation, the further from the prompt the more.

Source: loss of track with distance from the prompted slice, as video models are judged (SAM 2, arXiv 2408.00714,
section 6) and the survey arXiv 2506.10825 names it; the components are our own.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy import ndimage

from segwise.geometry import Array
from segwise.signatures.look import Found, Seen, ends_of
from segwise.signatures.sight import WELL, Sight


def with_reference(seen: Seen) -> dict[str, Found]:
    """Components over the reference's slices.

    Returns:
        lost: share of the reference's slices beyond the mask's ends; 1 for an empty mask.
        falling: share of the target found in the third of the slices nearest to the prompt, less that in the farthest
            third, the worse of both directions. Without a box the prompt is taken to be in the middle.
        Both 0 for an empty reference.
    """
    assert seen.reference is not None
    low, high = seen.reference_ends
    where = np.zeros_like(seen.prediction)
    if high == low:
        return {"lost": Found(0.0, where), "falling": Found(0.0, where)}
    first, last = seen.ends if seen.areas.any() else (low, low)
    gone = np.ones(len(where), dtype=bool)
    gone[first:last] = False
    occupied = seen.reference_areas > 0
    where[gone] = seen.reference[gone]
    hits = (seen.prediction & seen.reference).sum(axis=(1, 2))[low:high]
    areas = seen.reference_areas[low:high]
    start = (high - low - 1) / 2 if seen.start is None else seen.start - low
    falls = [_fall(hits, areas, np.arange(len(areas)) - start, side) for side in (-1, 1)]
    missed = seen.reference & ~seen.prediction
    return {
        "lost": Found(float((gone & occupied).sum()) / float(occupied.sum()), where),
        "falling": Found(max(0.0, *falls), missed),
    }


def without(seen: Seen) -> dict[str, Found]:
    """Components of the mask, its prompt and the image.

    Returns:
        lost: share of the prompt's slices beyond the mask's ends; 1 for an empty mask that a box asked for; 0 unless
            boxes span several slices.
        short: share of the box that the mask does not reach within the slices, on its rows or columns, the worse (of a
            box on one slice: on that slice).
        fading: how much smaller than near the prompt the mask is on average, the worse of both directions, over the
            range of boxes on several slices.
        waning: the same over the mask's own range, where the range was not told.
        ragged: how much more compact (4 pi area / outline²) its slices are near the prompt than in the farthest third
            on a side, the worse of both.
        farther: share of the outline whose edge lies well outside of it, in the farthest quarter of the slices on a
            side less near the middle (near a box on one slice: near that).
        goes_on: share of an end slice beyond which two slices look like the core, times the root of its share of the
            largest area: organs taper. No end counts that a box over several slices ends with.
        gnawed: share of tissue like the core in what a closing by two voxels adds, in the farthest third of the slices
            on a side less near the middle.
        The last three are 0 without an image.
    """
    nothing = Found(0.0, np.zeros_like(seen.prediction))
    if not seen.areas.any():
        gone = Found(float(seen.box is not None), nothing.where)
        return {"lost": gone, "short": gone, "fading": nothing, "waning": nothing, "ragged": nothing, **_seen(seen)}
    shares = [_unreached(seen, axis) for axis in range(3)] if seen.box is not None else [0.0, 0.0, 0.0]
    fading = _fading(seen)
    return {
        "lost": Found(shares[0] if seen.is_long else 0.0, seen.prediction),
        "short": Found(max(shares[1:]), seen.prediction),
        "fading": fading if seen.is_long else nothing,
        "waning": nothing if seen.is_long else fading,
        "ragged": _ragged(seen),
        **_seen(seen),
    }


def _seen(seen: Seen) -> dict[str, Found]:
    """What the image says; all 0 without one."""
    found = dict.fromkeys(("farther", "goes_on", "gnawed"), Found(0.0, np.zeros_like(seen.prediction)))
    if seen.sight is None:
        return found
    places, steps = seen.sight.outline
    if len(places):
        outside = np.zeros_like(seen.prediction)
        outside[tuple(places.T)] = steps >= WELL
        there = np.bincount(places[:, 0], minlength=len(outside))
        found["farther"] = _farther(seen, outside, there, part=4)
    if seen.sight.core is not None:
        found["goes_on"] = _goes_on(seen, seen.sight)
        gaps = seen.framed(_closed(seen.sight.mask) & seen.sight.core)
        found["gnawed"] = _farther(seen, gaps, seen.areas + gaps.sum(axis=(1, 2)), part=3)
    return found


def _farther(seen: Seen, wrong: Array, n: Array, *, part: int) -> Found:
    """How much more is wrong in the farthest part of the slices on a side than near the middle or the prompt.

    bool [N, H, W], and [N] how many could be wrong by slice; one of `part` parts.
    """
    low, high = seen.ends
    share = wrong.sum(axis=(1, 2))[low:high] / np.maximum(n[low:high], 1)
    middle = (high - low - 1) / 2 if seen.start is None or seen.is_long else seen.start - low
    away = np.arange(high - low) - middle
    near = np.abs(away) <= max(1.0, (high - low) / 6)
    most, where = 0.0, np.zeros_like(wrong)
    for side in (-1, 1) if near.any() else ():
        far = np.argsort(away * side, kind="stable")[-max(1, (high - low) // part) :]
        more = float(share[far].mean() - share[near].mean())
        if more > most:
            most = more
            where[:] = False
            where[low + far] = wrong[low + far]
    return Found(most, where)


def _goes_on(seen: Seen, sight: Sight) -> Found:
    """Share of an end slice whose next two slices look like the core, by the root of its share of the largest area."""
    assert sight.core is not None
    areas = sight.mask.sum(axis=(1, 2))
    low, high = ends_of(areas)
    most, where = 0.0, np.zeros_like(sight.mask)
    for end, step in ((high - 1, 1), (low, -1)):
        if seen.is_long and seen.box is not None:  # the user said where it ends
            told = seen.box[1, 0] - 1 if step > 0 else seen.box[0, 0]
            if (told - end - sight.low[0]) * step <= seen.loose(0):
                continue
        inner = ndimage.binary_erosion(sight.mask[end])
        there = inner if inner.sum() >= 6 else sight.mask[end]
        shares = []
        for i in (end + step, end + 2 * step):
            if not 0 <= i < len(areas) or np.array_equal(sight.image[:, i], sight.image[:, i - step]):
                break  # the image ends here, or is filled up with copies
            shares.append(float(sight.core[i][there].mean()))
        if len(shares) == 2 and (share := min(shares) * float(np.sqrt(there.sum() / areas.max()))) > most:
            most = share
            where[:] = False
            where[end] = sight.mask[end]
    return Found(most, seen.framed(where))


def _closed(mask: Array) -> Array:
    """bool [n, h, w]: what a closing by two voxels adds to each slice."""
    disc = (np.hypot(*np.mgrid[-2:3, -2:3]) <= 2.5).astype(np.uint8)
    wide = np.pad(mask, ((0, 0), (3, 3), (3, 3))).astype(np.uint8)
    closed = np.stack([cv2.morphologyEx(one, cv2.MORPH_CLOSE, disc) for one in wide])[:, 3:-3, 3:-3]
    return np.asarray(closed.astype(bool) & ~mask)


def _ragged(seen: Seen) -> Found:
    low, high = seen.ends
    mask = seen.prediction[low:high]
    areas = seen.areas[low:high].astype(float)
    rows = np.abs(np.diff(mask.astype(np.int8), axis=1)).sum(axis=(1, 2))
    columns = np.abs(np.diff(mask.astype(np.int8), axis=2)).sum(axis=(1, 2))
    compact = 4 * np.pi * areas / np.maximum(rows + columns, 1).astype(float) ** 2
    start = (len(areas) - 1) / 2 if seen.start is None else seen.start - low
    away = np.arange(len(areas)) - start
    falls, where = [0.0], np.zeros_like(seen.prediction)
    for side in (-1, 1):
        order = np.argsort(np.abs(away) + np.where(away * side >= 0, 0, len(areas)), kind="stable")
        order = order[: int((away * side >= 0).sum())]
        n = len(order) // 3
        if n and areas[order[-n:]].sum() and areas[order[:n]].sum():
            near, far = (np.average(compact[part], weights=areas[part]) for part in (order[:n], order[-n:]))
            if near - far > max(falls):
                where[:] = False
                where[low + order[-n:]] = mask[order[-n:]]
            falls.append(float(near - far))
    return Found(max(falls), where)


def _fall(hits: Array, areas: Array, away: Array, side: int) -> float:
    """Found share near the prompt less that far from it, on one side; 0 with fewer than 4 slices there. [n]."""
    there = away * side >= 0
    order = np.argsort(np.abs(away[there]), kind="stable")
    n = len(order) // 3
    if len(order) < 4 or not n:
        return 0.0
    found, whole = hits[there][order], areas[there][order]
    near, far = (found[part].sum() / max(1, whole[part].sum()) for part in (slice(0, n), slice(-n, None)))
    return float(near - far) if whole[-n:].sum() else 0.0


def _unreached(seen: Seen, axis: int) -> float:
    """Share of the box along an axis beyond the mask's own box at either end, its faces as loose as drawn ones are."""
    assert seen.box is not None
    others = tuple(a for a in range(3) if a != axis)
    mask = seen.prediction
    if not seen.is_long and axis:  # a box on one slice says how large the target is there
        i = int(seen.box[0, 0])
        mask = mask[i : i + 1] if 0 <= i < len(mask) else mask[:0]
    low, high = ends_of(np.asarray(mask.any(axis=others)))
    a, b = (int(v) for v in seen.box[:, axis])
    loose, size = seen.loose(axis), max(1, b - a)
    return min(1.0, max(0, min(low, b) - a - loose) / size + max(0, b - max(high, a) - loose) / size)


def _fading(seen: Seen) -> Found:
    low, high = seen.ends
    if seen.is_long and seen.box is not None:
        low, high = int(seen.box[0, 0]), int(seen.box[1, 0])
    where = np.zeros_like(seen.prediction)
    if high - low < 5 or not seen.areas.any():
        return Found(0.0, where)
    areas = np.array([seen.areas[i] if 0 <= i < len(seen.areas) else 0 for i in range(low, high)], dtype=float)
    start = (len(areas) - 1) / 2 if seen.start is None else seen.start - low
    away = np.arange(len(areas)) - start
    level = float(areas[np.abs(away) <= max(1.0, 0.1 * len(areas))].max(initial=0.0))
    if not level:
        return Found(1.0, seen.prediction)
    sides = [areas[away * side >= 0] for side in (-1, 1)]
    worst = max(1 - float(side.mean()) / level for side in sides if len(side))
    return Found(max(0.0, worst), seen.prediction)
