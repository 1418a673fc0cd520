"""Quick smooth noise and area averages on voxel grids: small matrices along each axis, no resampling of volumes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from segwise.geometry import Array


def smooth(shape: Sequence[int], rng: np.random.Generator, *, scale: float | Sequence[float]) -> Array:
    """Smooth noise of mean 0 and standard deviation about 1, anywhere.

    Args:
        shape: (D, H, W) in voxels.
        rng: where the values come from.
        scale: correlation length in voxels, one for all axes or (d, h, w); below 1 an axis is white.

    Returns:
        float32 [D, H, W]: uniform cubic B-splines over normal coefficients.
    """
    scales = (scale,) * 3 if isinstance(scale, (int, float)) else tuple(scale)
    weights = [_spline(n, max(1.0, s), rng.random()) for n, s in zip(shape, scales, strict=True)]
    values = rng.standard_normal([w.shape[1] for w in weights], dtype=np.float32)
    return along(values, weights)


def along(values: Array, matrices: Sequence[Array]) -> Array:
    """Each axis of [d, h, w] multiplied by its own matrix [D, d], [H, h], [W, w] -> float32 [D, H, W]."""
    d, h, w = matrices
    out = (d @ values.reshape(values.shape[0], -1)).reshape(d.shape[0], *values.shape[1:])
    out = np.matmul(h, out)
    return np.asarray(out @ w.T, dtype=np.float32)


def areas(n: int, factor: float) -> Array:
    """Box averages along one axis.

    Args:
        n: fine voxels.
        factor: fine voxels a coarse one; 1 keeps the axis, below 1 repeats voxels.

    Returns:
        float32 [max(1, floor(n / factor)), n]: rows sum to 1; the coarse field of view is centred in the fine one.
    """
    m = max(1, int(n / factor + 1e-6))
    wide = min(float(factor), float(n))
    low = (n - m * wide) / 2 + np.arange(m)[:, None] * wide
    edges = np.arange(n)[None]
    shared = np.minimum(low + wide, edges + 1) - np.maximum(low, edges)
    return np.asarray(np.clip(shared, 0, None) / wide, dtype=np.float32)


def _spline(n: int, step: float, phase: float) -> Array:
    """float32 [n, m]: cubic B-splines with knots every `step` voxels, scaled to keep the standard deviation."""
    place = np.arange(n) / step + phase + 1
    m = int(place[-1]) + 3
    gap = np.abs(place[:, None] - np.arange(m)[None])
    near, far = 2 / 3 - gap**2 + gap**3 / 2, (2 - gap) ** 3 / 6
    weights = np.where(gap < 1, near, np.where(gap < 2, far, 0.0))
    return np.asarray(weights / np.sqrt((weights**2).sum(axis=1, keepdims=True)), dtype=np.float32)
