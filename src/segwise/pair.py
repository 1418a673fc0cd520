"""What a metric sees: a reference and a prediction on one grid, with counts and surface distances made once.

A measure that has no value is `undefined("why")`: a nan that carries its reason, which `reason(value)` reads back, so
that a record can hold null with the reason and a report can count them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import edt
import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from segwise.errors import GridError
from segwise.geometry import Array, Grid, bounds
from segwise.prompt import Prompt

EQUAL_MM = 1e-6  # a distance this little above a tolerance counts as the tolerance: headers hold float32
FEW = 5_000  # surface elements up to which a tree of them is searched
DENSE = 40  # voxels an element up to which a distance transform of the cut is faster than the tree
LARGE = 24_000_000  # voxels of a cut above which its distance transform is one in float32, of a tenth of the memory
_CODE = np.array([[[128, 64], [32, 16]], [[8, 4], [2, 1]]], dtype=np.uint8)  # bit of each of a cube's 8 voxels


class Undefined(float):
    """A nan that knows why: `reason` in words."""

    reason: str

    def __new__(cls, reason: str) -> Undefined:
        """A nan with its reason."""
        made = super().__new__(cls, float("nan"))
        made.reason = reason
        return made

    def __getnewargs__(self) -> tuple[str]:  # type: ignore[override]
        return (self.reason,)


def undefined(why: str) -> float:
    """The value of a measure that has none, with the reason in words."""
    return Undefined(why)


def reason(value: float) -> str:
    """Why a value is undefined; "" for a number, "not a number" for a nan that does not say."""
    if isinstance(value, Undefined):
        return value.reason
    return "not a number" if np.isnan(value) else ""


@dataclass(frozen=True, eq=False)
class Surfaces:
    """Distances between two surfaces, weighted by area.

    A surface element sits where 8 neighbouring voxels are not all alike; its area is that of the marching-cubes
    triangles there, its distance that to the nearest element of the other surface.

    Attributes:
        reference_mm, prediction_mm: float [N], [M] distances to the other surface, ascending.
        reference_mm2, prediction_mm2: float64 [N], [M] areas in the same order.
    """

    reference_mm: Array
    prediction_mm: Array
    reference_mm2: Array
    prediction_mm2: Array

    def dice(self, tolerance_mm: float) -> float:
        """Share of both areas that lies within a tolerance of the other surface, in [0, 1]."""
        near = self.reference_mm2[self.reference_mm <= tolerance_mm + EQUAL_MM].sum()
        near += self.prediction_mm2[self.prediction_mm <= tolerance_mm + EQUAL_MM].sum()
        return float(near / (self.reference_mm2.sum() + self.prediction_mm2.sum()))


@dataclass(frozen=True, eq=False)
class Pair:
    """A reference and a prediction of one target.

    Attributes:
        reference: bool [D, H, W], or None where there is none.
        prediction: bool [D, H, W].
        grid: where both lie.
        prompt: what was asked, or None if not known.
        image: [C, D, H, W] of the scan, or None: only signatures of failure look at it.
        whole: bool [D, H, W], the prediction before what the reference leaves open was cut out of it, where it was.

    Raises:
        GridError: a mask is not bool or not of the grid's shape, or the image is not.
    """

    reference: Array | None
    prediction: Array
    grid: Grid
    prompt: Prompt | None = None
    image: Array | None = None
    whole: Array | None = None

    def __post_init__(self) -> None:
        for name, mask in (("reference", self.reference), ("prediction", self.prediction), ("whole", self.whole)):
            if mask is not None and (mask.dtype != bool or mask.shape != self.grid.shape):
                raise GridError(f"{name} is {mask.dtype} {mask.shape}, expected bool {self.grid.shape}")
        if self.image is not None and (self.image.ndim != 4 or self.image.shape[1:] != self.grid.shape):
            raise GridError(f"image is {self.image.shape}, expected channels and {self.grid.shape}")

    @cached_property
    def n_reference(self) -> int:
        """Voxels of the reference; 0 without one."""
        return 0 if self.reference is None else int(np.count_nonzero(self.reference))

    @cached_property
    def n_prediction(self) -> int:
        """Voxels of the prediction."""
        return int(np.count_nonzero(self.prediction))

    @cached_property
    def n_both(self) -> int:
        """Voxels of both."""
        return 0 if self.reference is None else int(np.count_nonzero(self.reference & self.prediction))

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel."""
        return float(abs(np.linalg.det(self.grid.affine[:3, :3]))) / 1000

    @property
    def gap(self) -> str:
        """What is missing: "no reference", "both empty", "reference empty", "prediction empty", or ""."""
        if self.reference is None:
            return "no reference"
        if not self.n_reference:
            return "reference empty" if self.n_prediction else "both empty"
        return "" if self.n_prediction else "prediction empty"

    @property
    def dice(self) -> float:
        """2 |both| / (|reference| + |prediction|); undefined without a reference or if both are empty."""
        if self.gap in ("no reference", "both empty"):
            return undefined(self.gap)
        return 2 * self.n_both / (self.n_reference + self.n_prediction)

    @cached_property
    def surfaces(self) -> Surfaces | None:
        """Distances between the two surfaces, made on first use; None if a mask is empty or there is no reference."""
        if self.gap or self.reference is None:
            return None
        found = bounds(self.reference | self.prediction)
        assert found is not None  # neither is empty
        cut = tuple(slice(a, b) for a, b in zip(*found, strict=True))
        return between(self.reference[cut], self.prediction[cut], self.grid.affine[:3, :3])

    def surface_dice(self, tolerance_mm: float) -> float:
        """As `Surfaces.dice`; 0 if one mask is empty, undefined if both are or without a reference."""
        if self.gap in ("no reference", "both empty"):
            return undefined(self.gap)
        return 0.0 if self.surfaces is None else self.surfaces.dice(tolerance_mm)


def between(reference: Array, prediction: Array, linear: Array) -> Surfaces:
    """Surface distances of two masks that each hold something.

    Args:
        reference, prediction: bool [d, h, w], cut to their union; beyond them is background.
        linear: float64 [3, 3], the grid's affine without its shift; shear included.
    """
    codes = [_codes(mask) for mask in (reference, prediction)]
    table = _areas(np.ascontiguousarray(linear, dtype=np.float64).tobytes())
    borders = [(code != 0) & (code != 255) for code in codes]
    areas = [table[code[border]] for code, border in zip(codes, borders, strict=True)]
    way = _way(borders[0].size, sum(map(len, areas)), linear)
    away = [way(borders[i], borders[1 - i], linear) for i in (0, 1)]
    order = [np.argsort(distances, kind="stable") for distances in away]
    return Surfaces(away[0][order[0]], away[1][order[1]], areas[0][order[0]], areas[1][order[1]])


def _codes(mask: Array) -> Array:
    """uint8 [d+1, h+1, w+1]: which of the 8 voxels around each corner of the lattice are foreground, as bits."""
    padded = np.pad(mask, 1).view(np.uint8)
    d, h, w = (n + 1 for n in mask.shape)
    codes = np.zeros((d, h, w), dtype=np.uint8)
    for i, j, k in np.ndindex(2, 2, 2):
        codes += padded[i : i + d, j : j + h, k : k + w] * _CODE[i, j, k]
    return codes


def _way(n_voxels: int, n_elements: int, linear: Array) -> Callable[[Array, Array, Array], Array]:
    """How distances are found fastest: a tree is slow where large surfaces lie far apart, a transform in empty cuts."""
    products = linear.T @ linear
    sheared = np.abs(products - np.diag(np.diag(products))).max() > 1e-6 * np.diag(products).min()
    if n_elements <= FEW or n_voxels > DENSE * n_elements or sheared:
        return _nearest
    return _transformed if n_voxels <= LARGE else _roughly


def _nearest(here: Array, there: Array, linear: Array) -> Array:
    """float64 [N] mm from each of the N lattice corners in `here` to the nearest in `there`, both bool [d, h, w]."""
    corners, others = np.argwhere(here), np.argwhere(there)
    _, index = cKDTree(others @ linear.T).query(corners @ linear.T)
    return np.asarray(np.linalg.norm((corners - others[index]) @ linear.T, axis=1))


def _transformed(here: Array, there: Array, linear: Array) -> Array:
    """The same from a distance transform (no shear) that remembers which corner is the nearest."""
    spacing = np.linalg.norm(linear, axis=0)
    index = ndimage.distance_transform_edt(~there, sampling=spacing, return_distances=False, return_indices=True)
    return np.asarray(np.linalg.norm((np.argwhere(here) - index[:, here].T) @ linear.T, axis=1))


def _roughly(here: Array, there: Array, linear: Array) -> Array:
    """float32 [N], the same (no shear) of cuts that are too large for the memory of the others."""
    spacing = tuple(np.linalg.norm(linear, axis=0))
    return np.asarray(edt.edt(~there, anisotropy=spacing, black_border=False, parallel=1)[here])


@functools.lru_cache(maxsize=64)
def _areas(linear: bytes) -> Array:
    """float64 [256] mm²: area of the surface inside a cube of 8 voxels, by its code."""
    matrix = np.frombuffer(linear, dtype=np.float64).reshape(3, 3)
    sides = _triangles() @ matrix.T  # [256, T, 2, 3]
    return np.asarray(np.linalg.norm(np.cross(sides[:, :, 0], sides[:, :, 1]), axis=2).sum(axis=1) / 2)


@functools.cache
def _triangles() -> Array:
    """float64 [256, 5, 2, 3]: two sides of each triangle of the surface in a unit cube, by code; zero where fewer.

    The marching cubes of Lorensen and Cline on the cube's minority of voxels (so that a code and its complement agree),
    with vertices at the middles of edges.
    """
    from skimage.measure import marching_cubes

    sides = np.zeros((256, 5, 2, 3))
    for code in range(1, 255):
        cube = (_CODE & code) > 0
        cube = ~cube if cube.sum() > 4 else cube
        places, faces, _, _ = marching_cubes(cube.astype(np.float32), 0.5, method="lorensen")
        corners = np.rint(places * 2)[faces] / 2  # [T, 3, 3]
        sides[code, : len(corners)] = corners[:, 1:] - corners[:, :1]
    return sides
