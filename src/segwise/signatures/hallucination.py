"""Hallucination: a mask where the target is not, on slices, in places or in whole volumes; noise segmented.

Source: hallucination of text-driven and memory models, survey arXiv 2506.10825; "always the same mask whatever the
prompt" is what their users report. False-positive volume per case after autoPET (Gatidis et al. 2023): components
that do not touch the reference.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from segwise.geometry import Array
from segwise.signatures.look import Found, Seen

CRUMB = 0.1  # of the largest component: smaller ones are crumbs


def with_reference(seen: Seen) -> dict[str, Found]:
    """Components that the reference does not have.

    Returns:
        apart: share of the mask in components that do not touch the dilated reference; 1 for an empty reference with a
            prediction.
    """
    assert seen.reference is not None
    labelled, sizes = seen.pieces
    if not len(sizes):
        return {"apart": Found(0.0, seen.prediction)}
    touched = np.unique(labelled[seen.near & seen.prediction])
    alone = np.ones(len(sizes) + 1, dtype=bool)
    alone[touched] = alone[0] = False
    return {"apart": Found(float(sizes[alone[1:]].sum()) / float(sizes.sum()), alone[labelled])}


def without(seen: Seen) -> dict[str, Found]:
    """Components of the mask alone.

    Returns:
        astray: share of the mask in components that do not touch a box over several slices; 0 without one.
        aside: share in components that lie beside the rows and columns of a box on one slice; 0 without one.
        crumbs: share of the mask in components smaller than a tenth of the largest.
        pieces: logarithm of the number of components.
        rough: share of the mask that an opening with the 6 neighbours takes away: noise has no inside.
    """
    labelled, sizes = seen.pieces
    if not len(sizes):
        nothing = Found(0.0, seen.prediction)
        return dict.fromkeys(("astray", "aside", "crumbs", "pieces", "rough"), nothing)
    total = float(sizes.sum())
    small = np.concatenate([[False], sizes < CRUMB * sizes.max()])
    crumbs = small[labelled]
    rest = np.concatenate([[False], sizes != sizes.max()])[labelled]
    opened = ndimage.binary_opening(seen.prediction)
    rough = seen.prediction & ~opened
    away = _astray(seen, labelled, sizes)
    none = Found(0.0, np.zeros_like(crumbs))
    return {
        "astray": away if seen.is_long else none,
        "aside": none if seen.is_long else away,
        "crumbs": Found(float(crumbs.sum()) / total, crumbs),
        "pieces": Found(float(np.log(len(sizes))), rest),
        "rough": Found(float(rough.sum()) / total, rough),
    }


def empty_slice_ml(seen: Seen) -> float:
    """False-positive volume per slice that is painted although the reference is not on it; 0 if none is."""
    painted = (seen.reference_areas == 0) & (seen.areas > 0)
    return float(seen.areas[painted].sum()) * seen.voxel_ml / max(1, int(painted.sum()))


def _astray(seen: Seen, labelled: Array, sizes: Array) -> Found:
    if seen.box is None:
        return Found(0.0, np.zeros_like(seen.prediction))
    low, high = np.clip(seen.box, 0, seen.prediction.shape)
    first, last = (low[0], high[0]) if seen.is_long else (0, len(labelled))
    inside = labelled[first:last, low[1] : high[1], low[2] : high[2]]
    alone = np.ones(len(sizes) + 1, dtype=bool)
    alone[np.unique(inside)] = False
    alone[0] = False
    return Found(float(sizes[alone[1:]].sum()) / float(sizes.sum()), alone[labelled])
