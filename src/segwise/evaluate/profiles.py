"""Reference and prediction slice by slice, a few numbers beside a record: `report` draws them and needs no mask."""

from __future__ import annotations

from typing import Any

import numpy as np

from segwise.geometry import Array, Grid
from segwise.records.types import Record

PLANES = {"axial": "SPL", "coronal": "PIL", "sagittal": "LIP"}  # slices, rows, columns, as models of slices see them
BEYOND = 2  # slices kept on both sides of what is foreground


def profile(record: Record, grid: Grid, reference: Array, prediction: Array) -> dict[str, Any]:
    """What `crops` stores of the slices of the model's plane (axial if it has none).

    Args:
        record: its resolved arguments may name a plane.
        grid: of both masks.
        reference, prediction: bool [D, H, W].

    Returns:
        {"slices": int64 [3, N] voxels of reference, of prediction and of both, towards the head (S), the back (P) or
        the left (L); "slices_at": float64 (index of the first slice, mm between slices, mm² of a voxel's face)}; {} if
        both masks are empty.
    """
    plane = str(record.resolved.get("plane", "axial"))
    turned = grid.toward(PLANES.get(plane, PLANES["axial"]))
    step = np.diff(grid.index(turned.mm(np.array([[0.0, 0, 0], [1.0, 0, 0]]))), axis=0)[0]
    axis = int(np.abs(step).argmax())
    others = tuple(a for a in range(3) if a != axis)
    counts = np.stack([mask.sum(axis=others) for mask in (reference, prediction, reference & prediction)])
    counts = counts if step[axis] > 0 else counts[:, ::-1]
    there = np.flatnonzero(counts.any(axis=0))
    if not len(there):
        return {}
    low, high = max(0, int(there[0]) - BEYOND), min(counts.shape[1], int(there[-1]) + 1 + BEYOND)
    through, *face = turned.spacing_mm
    return {
        "slices": np.ascontiguousarray(counts[:, low:high]).astype(np.int64),
        "slices_at": np.array([low, through, face[0] * face[1]]),
    }
