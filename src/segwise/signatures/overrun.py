"""Over-propagation: the mask goes on past the target's end.

Source: over-propagation of slice-to-slice prompting (a box re-seeded from the last mask) and of memory models, survey
arXiv 2506.10825. The components are our own.
"""

from __future__ import annotations

import numpy as np

from segwise.geometry import Array
from segwise.signatures.look import Found, Seen

ALIKE = 0.9  # DSC of neighbouring slices of a tail
STEADY = 0.25  # the area of a tail stays within this share of its last slice's


def with_reference(seen: Seen) -> dict[str, Found]:
    """Components beyond the reference's first and last slice.

    Returns:
        past: slices painted without a break beyond an end, in extents of the reference, the worse of the two ends.
        volume: the volume of both runs, in volumes of the reference. Both 0 for an empty reference.
    """
    assert seen.reference is not None
    low, high = seen.reference_ends
    where = np.zeros_like(seen.prediction)
    if high == low:
        return {"past": Found(0.0, where), "volume": Found(0.0, where)}
    after, before = _run(seen.areas[high:]), _run(seen.areas[:low][::-1])
    where[high : high + after] = seen.prediction[high : high + after]
    where[low - before : low] = seen.prediction[low - before : low]
    volume = float(where.sum()) / float(seen.reference_areas.sum())
    return {"past": Found(max(after, before) / (high - low), where), "volume": Found(volume, where)}


def without(seen: Seen) -> dict[str, Found]:
    """Components of the mask, its prompt and the image.

    Returns:
        past: slices painted beyond the prompt's range (its ends as loose as `LOOSE_MM`), in its extents, the worse of
            the two ends; 0 unless boxes span several slices.
        volume: their volume as a share of the mask.
        tail: share of the mask's slices in the longest run at an end over which area and outline hardly change.
        blunt: how wide the mask ends where neither tissue nor edges are the target's: the last slice's area as a share
            of the largest, times how much less of it looks like the mask's core, and how much less of its outline lies
            on a step of intensity, than in the middle third of the slices; the worse end. 0 without an image.
    """
    where = np.zeros_like(seen.prediction)
    found = {"past": Found(0.0, where), "volume": Found(0.0, where)}
    if seen.is_long and seen.box is not None and seen.areas.any():
        n = int(seen.box[1, 0] - seen.box[0, 0])
        ends = seen.box[0, 0] - seen.loose(0), seen.box[1, 0] + seen.loose(0)
        low, high = (int(v) for v in np.clip(ends, 0, len(seen.areas)))
        where[:low], where[high:] = seen.prediction[:low], seen.prediction[high:]
        n_past = max(int((seen.areas[:low] > 0).sum()), int((seen.areas[high:] > 0).sum()))
        found = {
            "past": Found(n_past / n, where),
            "volume": Found(float(where.sum()) / float(seen.areas.sum()), where),
        }
    return found | {"tail": _tail(seen), "blunt": _blunt(seen)}


def _blunt(seen: Seen) -> Found:
    where = np.zeros_like(seen.prediction)
    if seen.sight is None or seen.sight.core is None:
        return Found(0.0, where)
    sight, (low, high) = seen.sight, seen.ends
    own = slice(low - sight.low[0], high - sight.low[0])
    areas, own_tissue, fit = seen.areas[low:high], sight.familiar[own], sight.fit[own]
    n = high - low
    middle = np.flatnonzero(areas[n // 3 : n - n // 3]) + n // 3
    if not len(middle):
        return Found(0.0, where)
    lost = float(np.median(own_tissue[middle]) + np.median(fit[middle])) - own_tissue - fit
    values = np.maximum(lost, 0)[[0, -1]] * areas[[0, -1]] / areas.max()
    for i, value in zip((low, high - 1), values, strict=True):
        if 0 < value == values.max():
            where[i] = seen.prediction[i]
    return Found(float(values.max()), where)


def _run(areas: Array) -> int:
    """How many slices from the first on are painted without a break."""
    empty = np.flatnonzero(areas == 0)
    return int(empty[0]) if len(empty) else len(areas)


def _tail(seen: Seen) -> Found:
    low, high = seen.ends
    where = np.zeros_like(seen.prediction)
    if high - low < 5:
        return Found(0.0, where)
    forth, back = _steady(seen.prediction[low:high][::-1]), _steady(seen.prediction[low:high])
    if forth >= back:
        where[high - forth : high] = seen.prediction[high - forth : high]
    if back >= forth:
        where[low : low + back] = seen.prediction[low : low + back]
    return Found(max(forth, back) / (high - low), where)


def _steady(mask: Array) -> int:
    """Slices from the first on that look alike; 0 if that is one or two."""
    areas = mask.sum(axis=(1, 2)).astype(float)
    common = (mask[1:] & mask[:-1]).sum(axis=(1, 2))
    alike = 2 * common / np.maximum(areas[1:] + areas[:-1], 1) >= ALIKE
    alike &= np.abs(areas[1:] / areas[0] - 1) <= STEADY
    changed = np.flatnonzero(~alike)
    n = int(changed[0]) + 1 if len(changed) else len(mask)
    return n if n > 2 else 0
