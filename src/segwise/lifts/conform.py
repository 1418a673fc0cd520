"""The "conformed" space of FreeSurfer: 256^3 voxels of 1 mm, array axes to L, I, A, robustly scaled to 0..255.

Facts from niimath's -conform (BSD-2-Clause; after FastSurfer's conform.py), which is what brainchop runs: the grid lies
along the patient's axes; its voxel 128 on each axis is the place of the input's index shape / 2 (not (shape - 1) / 2);
values are scaled and cut first, then interpolated linearly, then rounded to 8 bits. The upper limit leaves 2 % of the
non-zero voxels above it (FreeSurfer's mri_convert: 0.1 %).

Nothing is made up at the border: a place before the centre of the first voxel of an axis, or at or beyond that of the
last one, is 0. Halves are rounded up. Of eight images seven came out as from niimath 1.0.20261016 (at most 390 of
16.8 M voxels differ, by one grey level), and one of 3 mm voxels differs by up to 18 grey levels.
"""

from __future__ import annotations

import numpy as np

from segwise.geometry import Array, Grid, Volume, regrid

AXES = "LIA"
SIZE = 256
BINS = 1000
PLACE = 1e-4  # voxels, of rounding in a sampling place
TOP = 0.98  # share of the non-zero voxels that stays below the upper limit (mri_convert itself: 0.999)


def conformed_grid(grid: Grid) -> Grid:
    """The conformed grid of an image's grid."""
    middle = grid.mm(np.array(grid.shape) / 2)[0]
    to_centre = (0.5, -0.5, 0.5)  # from voxel 128 back to 127.5, the middle of the box: L is -x, I is -z, A is +y
    return grid.canonical(AXES, spacing_mm=(1, 1, 1), shape=(SIZE,) * 3, centre_mm=middle + to_centre, aligned=True)


def limits(values: Array) -> tuple[float, float]:
    """The values that become 0 and 255: the least, and one that all but 2 % of the non-zero voxels stay below.

    Taken from a histogram of BINS bins between least and greatest value; the upper limit is the lower edge of the bin
    before the one in which the share is reached.
    """
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return low, low + 1
    counts, _ = np.histogram(values, bins=BINS, range=(low, high))
    nonzero = int(np.count_nonzero(np.abs(values) >= 1e-15))
    below = values.size - int((1 - TOP) * nonzero)
    reached = int(np.searchsorted(np.cumsum(counts), below))  # the bin in which the share is reached
    top = low + max(reached - 1, 1) * (high - low) / BINS
    return low, top


def conform(volume: Volume) -> Volume:
    """The first channel in conformed space: uint8 [1, 256, 256, 256]; 0 outside the image.

    Voxels that are not finite count as the least finite value.
    """
    values = np.asarray(volume.array[0], dtype=np.float32)
    finite = np.isfinite(values)
    if not finite.all():
        values = np.where(finite, values, values[finite].min() if finite.any() else np.float32(0))
    low, top = limits(values)
    scaled = np.clip((values - np.float32(low)) * np.float32(255 / (top - low)), 0, 255)
    grid = conformed_grid(volume.grid)
    moved = regrid(scaled, volume.grid, grid, order=1, outside=0.0)
    rounded = np.floor(moved + np.float32(0.5)).astype(np.uint8)
    return Volume.of(np.where(within(volume.grid, grid), rounded, np.uint8(0)), grid, volume.channels[:1])


def within(source: Grid, grid: Grid) -> Array:
    """bool [256, 256, 256]: which voxels of a conformed grid lie between the source's voxel centres.

    An axis of one voxel has nothing between and bounds nothing.
    """
    corner = source.index(grid.mm([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]))
    steps = np.arange(SIZE)
    inside = np.ones(grid.shape, dtype=bool)
    for axis, n in enumerate(source.shape):
        if n == 1:
            continue
        start, (d, h, w) = corner[0, axis], corner[1:, axis] - corner[0, axis]
        place = (start + d * steps)[:, None, None] + (h * steps)[:, None] + w * steps
        inside &= (place >= -PLACE) & (place < n - 1 - PLACE)
    return inside
