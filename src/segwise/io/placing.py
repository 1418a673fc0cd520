"""From a file's axes to a `Grid`: LPS becomes RAS, rounded direction cosines are repaired, shear is named."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from segwise.errors import FileError, GridError
from segwise.geometry import Array, Grid, Shape
from segwise.io.scan import Finding

EXACT_SKEW = 1e-6  # float32 headers reach 1e-7: not worth a word
ROUNDED_SKEW = 1e-3  # cosines rounded to three digits; across 512 voxels it moves a corner by half a voxel
SMALLEST_MM, LARGEST_MM, FARTHEST_MM = 1e-6, 1e5, 1e7  # beyond these a header is damaged, not a scan of anything
LPS = np.diag([-1.0, -1.0, 1.0])


def placed(name: str, shape: Shape, columns: ArrayLike, origin: ArrayLike, *, lps: bool) -> Grid:
    """The grid of an array whose axis n steps by `columns[:, n]` mm from `origin`.

    Args:
        name: of the file, for messages.
        shape: (D, H, W).
        columns: [3, 3] in the order of the array axes (d, h, w).
        origin: [3], the centre of voxel (0, 0, 0).
        lps: the numbers are LPS+ and become RAS+.

    Raises:
        FileError: the geometry is not finite or two axes coincide.
    """
    turn = LPS if lps else np.eye(3)
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.asarray(columns, dtype=np.float64)
    affine[:3, 3] = turn @ np.asarray(origin, dtype=np.float64)
    try:
        with np.errstate(all="ignore"):
            sizes = np.linalg.norm(affine[:3, :3], axis=0)
            if not ((sizes > SMALLEST_MM) & (sizes < LARGEST_MM)).all() or np.abs(affine[:3, 3]).max() > FARTHEST_MM:
                raise GridError("spacing or place out of range")
            return Grid(shape, affine)
    except GridError:
        raise FileError(
            f"{name}: the header gives no usable geometry: a spacing is 0 or not a number, or two axes point the same "
            "way; correct the header, or convert it with a tool that knows the scan"
        ) from None


def repaired(grid: Grid) -> tuple[Grid, list[Finding]]:
    """An orthogonal grid instead of one with rounded cosines, and what to say; a true shear stays as it is.

    The axes become the nearest orthogonal ones (polar decomposition) with the same spacing about the same centre, so
    that no corner moves by more than about a quarter of a voxel in 512. Masks still go back on the file's own affine.
    """
    skew = grid.skew
    if skew <= EXACT_SKEW:
        return grid, []
    if skew > ROUNDED_SKEW:
        angle = float(np.degrees(np.arcsin(min(1.0, skew))))
        return grid, [
            Finding(
                "warning",
                "shear",
                f"the axes are not orthogonal: {angle:.2f} degrees of shear (a tilted gantry, or a registration)",
                "models see it resampled to an orthogonal grid; masks are mapped back to the file's own grid",
            )
        ]
    u, _, vt = np.linalg.svd(grid.directions)
    matrix = (u @ vt) * np.array(grid.spacing_mm)
    affine = np.eye(4)
    affine[:3, :3] = matrix
    affine[:3, 3] = grid.centre_mm - matrix @ ((np.array(grid.shape) - 1) / 2)
    better = Grid(grid.shape, affine)
    moved = float(np.abs(better.mm(_corners(grid.shape)) - grid.mm(_corners(grid.shape))).max())
    return better, [
        Finding(
            "note",
            "rounded-directions",
            f"the direction cosines are rounded (skew {skew:.1e}, tolerance {ROUNDED_SKEW:.0e})",
            f"made orthogonal; no corner moves by more than {moved:.3f} mm, masks keep the file's own affine",
        )
    ]


def _corners(shape: Shape) -> Array:
    return np.asarray(np.array(list(np.ndindex(2, 2, 2))) * (np.array(shape) - 1))


def shape_findings(shape: Shape) -> list[Finding]:
    """A warning if an array is a single slice."""
    if min(shape) > 1:
        return []
    return [
        Finding(
            "warning",
            "one-slice",
            f"one slice is not a volume: the shape is {' x '.join(map(str, shape))}",
            "read as it is; models that need depth will see one slice",
        )
    ]


def checked_spacing(name: str, spacing_mm: tuple[float, float, float]) -> Array:
    """float64 [3] of a spacing that a user gave.

    Raises:
        FileError: not three positive numbers.
    """
    values = np.asarray(spacing_mm, dtype=np.float64)
    if values.shape != (3,) or not np.isfinite(values).all() or (values <= 0).any():
        raise FileError(f"{name}: spacing_mm is {spacing_mm}, expected three positive numbers (d, h, w)")
    return values
