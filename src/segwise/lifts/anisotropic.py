"""Resizing as nnU-Net does it: in plane and across thick slices by different rules where voxels are anisotropic.

Source: Isensee et al., nnU-Net, Nat Methods 2021 (arXiv 1809.10486), "resampling": cubic splines, with nearest
neighbours across slices where the largest spacing is more than three times the smallest; its inference code. Voxels
cover the same field of view before and after (`Grid.resized`, half-pixel convention, edges repeated).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from segwise.geometry import Array, Grid, Shape

THICK = 3.0  # largest over smallest spacing from which slices are resized apart
SAME = 1e-5  # relative difference below which two spacings are one


def thick_axis(
    now_mm: Sequence[float], then_mm: Sequence[float], *, threshold: float = THICK, force: bool | None = None
) -> int | None:
    """The axis across thick slices, if they are to be resized apart from it.

    Args:
        now_mm, then_mm: spacings before and after; the first that is anisotropic decides.
        threshold: largest over smallest spacing.
        force: the plans' `force_separate_z`: True and False override the threshold.
    """
    if force is False:
        return None
    for spacing in (now_mm,) if force else (now_mm, then_mm):
        if force or max(spacing) / min(spacing) > threshold:
            axes = [i for i, s in enumerate(spacing) if s > max(spacing) * (1 - SAME)]
            return axes[0] if len(axes) == 1 else None
    return None


def resized(values: Array, shape: Shape, *, order: int, apart: int | None = None, order_apart: int = 0) -> Array:
    """A channel in another number of voxels, by splines, cut to its own range.

    Args:
        values: [D, H, W].
        shape: wanted.
        order: of the splines.
        apart: an axis to be resized apart from the others, or None.
        order_apart: of the splines along it.

    Returns:
        float64 [*shape]; the values themselves where the shape is theirs.
    """
    if values.shape == tuple(shape):
        return values
    found = values.astype(np.float64)
    if apart is None:
        return _zoomed(found, shape, order)
    flat = tuple(n for axis, n in enumerate(shape) if axis != apart)
    found = np.stack([_zoomed(image, flat, order) for image in np.moveaxis(found, apart, 0)], axis=apart)
    n, wanted = values.shape[apart], shape[apart]
    if n == wanted:
        return found
    places = [np.arange(size, dtype=np.float64) for size in shape]
    places[apart] = n / wanted * (places[apart] + 0.5) - 0.5
    if order_apart == 0:
        return np.asarray(np.take(found, np.clip(np.floor(places[apart] + 0.5), 0, n - 1).astype(int), axis=apart))
    where = np.stack(np.meshgrid(*places, indexing="ij"))
    return np.asarray(ndimage.map_coordinates(found, where, order=order_apart, mode="nearest"))


def _zoomed(values: Array, shape: Sequence[int], order: int) -> Array:
    if values.shape == tuple(shape):
        return values
    factors = [after / before for before, after in zip(values.shape, shape, strict=True)]
    found = ndimage.zoom(values, factors, order=order, mode="nearest", grid_mode=True)
    return np.asarray(np.clip(found, values.min(), values.max()) if order > 1 else found)


def straight(logits: Array, have: Grid, want: Grid, *, apart: int | None = None, order_apart: int = 0) -> Array:
    """Logits at the voxels of a grid whose axes run along those of theirs: linear, edges repeated.

    Args:
        logits: [K, *have.shape].
        have, want: grids that differ in place and spacing along their axes only.
        apart: an axis with its own order, or None.
        order_apart: along it, 0 or 1.

    Returns:
        float32 [K, *want.shape].
    """
    matrix = np.linalg.inv(have.affine) @ want.affine
    found = logits.astype(np.float32)
    for axis in range(3):
        n = have.shape[axis]
        at = np.clip(matrix[axis, axis] * np.arange(want.shape[axis]) + matrix[axis, 3], 0, n - 1)
        if axis == apart and order_apart == 0:
            found = np.take(found, np.clip(np.floor(at + 0.5 + 1e-9), 0, n - 1).astype(int), axis=axis + 1)
            continue
        low = np.minimum(np.floor(at + 1e-9).astype(int), max(n - 2, 0))
        share = np.clip(at - low, 0, 1)
        share[share < 1e-9] = 0
        if not share.any() and np.array_equal(low, np.arange(n)):
            continue
        share = share.astype(np.float32).reshape([-1 if i == axis + 1 else 1 for i in range(4)])
        upper = np.take(found, np.minimum(low + 1, n - 1), axis=axis + 1)
        found = np.take(found, low, axis=axis + 1) * (1 - share) + upper * share
    return np.asarray(found, dtype=np.float32)
