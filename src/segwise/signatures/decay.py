"""Retention decay: the target is lost along the propagation, the further from the prompt the more.

Source: loss of track with distance from the prompted slice, as video models are judged (SAM 2, arXiv 2408.00714,
section 6) and the survey arXiv 2506.10825 names it; the components are our own.
"""

from __future__ import annotations

import numpy as np

from segwise.geometry import Array
from segwise.signatures.look import Found, Seen, ends_of


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
    """Components of the mask and its prompt.

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
    """
    nothing = Found(0.0, np.zeros_like(seen.prediction))
    if not seen.areas.any():
        gone = Found(float(seen.box is not None), nothing.where)
        return {"lost": gone, "short": gone, "fading": nothing, "waning": nothing, "ragged": nothing}
    shares = [_unreached(seen, axis) for axis in range(3)] if seen.box is not None else [0.0, 0.0, 0.0]
    fading = _fading(seen)
    return {
        "lost": Found(shares[0] if seen.is_long else 0.0, seen.prediction),
        "short": Found(max(shares[1:]), seen.prediction),
        "fading": fading if seen.is_long else nothing,
        "waning": nothing if seen.is_long else fading,
        "ragged": _ragged(seen),
    }


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
