"""Implicit shapes in patient millimetres: a field is negative inside, near zero on the surface, roughly in mm outside.

Every shape is a function of `Space`, the coordinates of a grid's voxels after a smooth random warp, so that no surface
is an exact ellipsoid and neighbours bend together.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

from segwise.geometry import Array, Grid

FAR_MM = 20.0  # fields are not worked out further than this from a shape: no crease is softer


@dataclass(frozen=True, eq=False)
class Space:
    """Warped coordinates of every voxel of a grid.

    Attributes:
        xyz: float32 [3, D, H, W] mm, RAS+.
        grid: the grid.
    """

    xyz: Array
    grid: Grid

    def around(self, low: Array, high: Array) -> tuple[slice, slice, slice]:
        """The part of the grid outside of which no coordinate lies within low..high (mm), for shapes to work in."""
        found = []
        for axis in range(3):
            use = np.ones(self.grid.shape[axis], dtype=bool)
            for world in range(3):
                least, most = self._reach[axis][world]
                use &= (most >= low[world]) & (least <= high[world])
            places = np.flatnonzero(use)
            found.append(slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0))
        return found[0], found[1], found[2]

    @functools.cached_property
    def _reach(self) -> list[list[tuple[Array, Array]]]:
        """For each array axis and each of x, y, z: its least and greatest value in every slice along that axis."""
        reach = []
        for axis in range(3):
            others = tuple(i for i in range(3) if i != axis)
            reach.append([(one.min(axis=others), one.max(axis=others)) for one in self.xyz])
        return reach

    @staticmethod
    def of(grid: Grid, rng: np.random.Generator, *, warp_mm: float, scale_mm: float) -> Space:
        """Coordinates displaced by smooth noise of a standard deviation and a correlation length in mm."""
        axes = [np.arange(n, dtype=np.float32) for n in grid.shape]
        index = np.stack(np.meshgrid(*axes, indexing="ij"))
        xyz = np.tensordot(grid.affine[:3, :3].astype(np.float32), index, axes=1)
        xyz += grid.affine[:3, 3].astype(np.float32)[:, None, None, None]
        for axis in range(3):
            xyz[axis] += warp_mm * noise(grid, rng, scale_mm=scale_mm)
        return Space(xyz, grid)


def noise(grid: Grid, rng: np.random.Generator, *, scale_mm: float) -> Array:
    """float32 [D, H, W]: smooth noise of mean 0 and standard deviation 1 with a correlation length in mm."""
    steps = [max(1.0, scale_mm / 2 / s) for s in grid.spacing_mm]
    coarse = [max(2, int(np.ceil(n / step)) + 4) for n, step in zip(grid.shape, steps, strict=True)]
    values = ndimage.gaussian_filter(rng.standard_normal(coarse).astype(np.float32), 1.0, mode="wrap")
    values = (values - values.mean()) / (values.std() + 1e-6)
    zoom = ndimage.affine_transform(values, [1 / s for s in steps], [1.5] * 3, grid.shape, order=3, mode="nearest")
    return np.asarray(zoom, dtype=np.float32)


def blob(
    space: Space,
    centre: ArrayLike,
    radii: ArrayLike,
    *,
    power: float = 2.0,
    tilt: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Array:
    """A superquadric: an ellipsoid for power 2, boxier above. `tilt` turns it about x, y, z in degrees."""
    middle, r = np.asarray(centre, dtype=np.float32), np.asarray(radii, dtype=np.float32)
    reach = np.abs(rotation(tilt)) @ r + FAR_MM
    part = space.around(middle - reach, middle + reach)
    local = space.xyz[(slice(None), *part)] - middle[:, None, None, None]
    local = np.tensordot(rotation(tilt).T.astype(np.float32), local, axes=1)
    scaled = np.abs(local / r[:, None, None, None])
    np.power(scaled, power, out=scaled)
    field = np.full(space.grid.shape, FAR_MM, dtype=np.float32)
    field[part] = (scaled.sum(axis=0) ** (1 / power) - 1) * float(r.min())
    return field


def tube(space: Space, path: ArrayLike, radii: ArrayLike) -> Array:
    """A tube around a polyline [N, 3] mm with a radius at every vertex."""
    points, sizes = np.asarray(path, dtype=np.float32), np.asarray(radii, dtype=np.float32)
    field = np.full(space.grid.shape, FAR_MM, dtype=np.float32)
    reach = float(sizes.max()) + FAR_MM
    part = space.around(points.min(axis=0) - reach, points.max(axis=0) + reach)
    xyz = space.xyz[(slice(None), *part)]
    best = np.full(xyz.shape[1:], np.inf, dtype=np.float32)
    for a, b, ra, rb in zip(points[:-1], points[1:], sizes[:-1], sizes[1:], strict=True):
        along = b - a
        local = xyz - a[:, None, None, None]
        t = np.clip(np.tensordot(along, local, axes=1) / float(along @ along), 0, 1)
        gap = np.sqrt(((local - along[:, None, None, None] * t) ** 2).sum(axis=0)) - (ra + (rb - ra) * t)
        np.minimum(best, gap, out=best)
    field[part] = best
    return field


def curve(points: ArrayLike, n: int) -> Array:
    """float64 [n, 3]: a smooth curve through points (Catmull-Rom by cubic interpolation over arc index)."""
    knots = np.asarray(points, dtype=np.float64)
    places = np.linspace(0, len(knots) - 1, n)
    return np.stack([ndimage.map_coordinates(knots[:, i], [places], order=2, mode="nearest") for i in range(3)], axis=1)


def join(*fields: Array, soft_mm: float = 0.0) -> Array:
    """Union, with its creases rounded over `soft_mm`."""
    out = fields[0]
    for other in fields[1:]:
        if soft_mm <= 0:
            out = np.minimum(out, other)
        else:
            h = np.clip(0.5 + 0.5 * (other - out) / soft_mm, 0, 1)
            out = other + (out - other) * h - soft_mm * h * (1 - h)
    return out


def cut(field: Array, *away: Array) -> Array:
    """What of a shape is in none of the others."""
    for other in away:
        field = np.maximum(field, -other)
    return field


def rotation(tilt: tuple[float, float, float]) -> Array:
    """float64 [3, 3]: turns about x, then y, then z by degrees."""
    out = np.eye(3)
    for axis, degrees in enumerate(tilt):
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        i, j = (axis + 1) % 3, (axis + 2) % 3
        step = np.eye(3)
        step[i, i], step[i, j], step[j, i], step[j, j] = c, -s, s, c
        out = step @ out
    return out
