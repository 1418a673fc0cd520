"""Where voxels are: `Grid`, `Volume` and the one resampling, `regrid`.

Arrays are `[C, D, H, W]` or `[D, H, W]`; an index is `(d, h, w)` in array order with a voxel's centre at the integer.
`x, y, z` are millimetres in patient space, RAS+ (x to the right, y to the front, z to the head). A grid's affine maps
`(d, h, w, 1)` to `(x, y, z, 1)`. LPS, XYXY and (z, y, x) exist only inside the `io` or `models` file that needs them.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from segwise.errors import GridError

Array = NDArray[Any]
Shape = tuple[int, int, int]

_LETTERS = (("L", "R"), ("P", "A"), ("I", "S"))  # negative and positive end of x, y, z
_PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}  # the patient axis a plane's slices are stacked along
SHARED_VOXELS = 1e-3  # voxels: two lattices this close at every corner are the same lattice


@dataclass(frozen=True, eq=False)
class Grid:
    """A box of voxels in patient space.

    Attributes:
        shape: (D, H, W), each at least 1.
        affine: float64 [4, 4], read-only: (d, h, w, 1) -> (x, y, z, 1) in mm, RAS+.

    Raises:
        GridError: the shape is not three positive integers, or the affine is not finite and invertible.
    """

    shape: Shape
    affine: Array

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        if len(shape) != 3 or min(shape) < 1:
            raise GridError(f"shape is {self.shape}, expected three positive sizes (D, H, W)")
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise GridError(f"affine is {affine.tolist()}, expected 4x4 finite numbers")
        if abs(np.linalg.det(affine[:3, :3])) < 1e-12:
            raise GridError("affine is singular: two voxel axes point the same way or a spacing is 0")
        affine.setflags(write=False)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", affine)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Grid) and self.shape == other.shape and np.array_equal(self.affine, other.affine)

    def __hash__(self) -> int:
        return hash((self.shape, self.affine.tobytes()))

    @property
    def digest(self) -> str:
        """Short hash of shape and affine."""
        return hashlib.blake2b(repr(self.shape).encode() + self.affine.tobytes(), digest_size=8).hexdigest()

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Lengths of the affine's columns, (d, h, w)."""
        d, h, w = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(d), float(h), float(w)

    @property
    def directions(self) -> Array:
        """float64 [3, 3]: column i is the unit vector along array axis i."""
        return np.asarray(self.affine[:3, :3] / np.array(self.spacing_mm))

    @property
    def centre_mm(self) -> Array:
        """float64 [3]: the middle of the box."""
        return np.asarray(self.mm([(n - 1) / 2 for n in self.shape])[0])

    @property
    def skew(self) -> float:
        """Largest |cosine| between two voxel axes: 0 for an orthogonal grid."""
        d = self.directions
        return float(max(abs(d[:, i] @ d[:, j]) for i, j in ((0, 1), (0, 2), (1, 2))))

    @property
    def axes(self) -> str:
        """Where the array axes point, as three letters: "SPL" for axial slices with rows to P, columns to L."""
        order = _assign(self.directions)
        return "".join(_LETTERS[world][int(self.directions[world, i] > 0)] for i, world in enumerate(order))

    def axis_of(self, plane: str) -> int:
        """The array axis along which slices of a plane ("axial", "coronal", "sagittal") are stacked."""
        if plane not in _PLANES:
            raise GridError(f'no plane "{plane}"; expected axial, coronal or sagittal')
        return _assign(self.directions).index(_PLANES[plane])

    def mm(self, index: ArrayLike) -> Array:
        """Indices [N, 3] (or one, [3]) -> float64 [N, 3] mm."""
        points = np.atleast_2d(np.asarray(index, dtype=np.float64))
        return np.asarray(points @ self.affine[:3, :3].T + self.affine[:3, 3])

    def index(self, xyz_mm: ArrayLike) -> Array:
        """Millimetres [N, 3] (or one, [3]) -> float64 [N, 3] indices, not rounded, possibly outside."""
        inverse = np.linalg.inv(self.affine)
        points = np.atleast_2d(np.asarray(xyz_mm, dtype=np.float64))
        return np.asarray(points @ inverse[:3, :3].T + inverse[:3, 3])

    def crop(self, low: Sequence[int], high: Sequence[int]) -> Grid:
        """The half-open index box low..high as a grid of its own; it may reach beyond this one."""
        low_, high_ = np.asarray(low, dtype=int), np.asarray(high, dtype=int)
        if (high_ <= low_).any():
            raise GridError(f"crop {low_.tolist()}..{high_.tolist()} is empty")
        return self._from(np.eye(3), low_, high_ - low_)

    def resized(self, shape: Sequence[int]) -> Grid:
        """The same field of view in another number of voxels (half-pixel convention)."""
        step = np.array(self.shape) / np.array(shape)
        return self._from(np.diag(step), step / 2 - 0.5, shape)

    def toward(self, axes: str) -> Grid:
        """The same voxels with the array axes permuted and flipped to point to `axes`, e.g. "SPL"; never resamples."""
        order = _assign(self.directions)
        steps, start, shape = np.zeros((3, 3)), np.zeros(3), []
        for new, letter in enumerate(_checked(axes)):
            world = next(i for i, pair in enumerate(_LETTERS) if letter in pair)
            old = order.index(world)
            flip = (self.directions[world, old] > 0) != (letter == _LETTERS[world][1])
            steps[old, new] = -1 if flip else 1
            start[old] = self.shape[old] - 1 if flip else 0
            shape.append(self.shape[old])
        return self._from(steps, start, shape)

    def straight(self) -> Grid:
        """The orthogonal grid nearest to a sheared one: polar directions, the same spacing, covering all its voxels."""
        u, _, vt = np.linalg.svd(self.directions)
        matrix = (u @ vt) * np.array(self.spacing_mm)
        corners = self.mm(list(itertools.product(*((-0.5, n - 0.5) for n in self.shape))))
        local = corners @ np.linalg.inv(matrix).T
        low = local.min(axis=0)
        shape = np.maximum(1, np.ceil(local.max(axis=0) - low - 1e-6).astype(int))
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = matrix, matrix @ (low + 0.5)
        return Grid(tuple(shape), affine)

    def canonical(
        self,
        axes: str,
        *,
        spacing_mm: Sequence[float] | None = None,
        shape: Sequence[int] | None = None,
        centre_mm: ArrayLike | None = None,
        aligned: bool = False,
    ) -> Grid:
        """An orthogonal grid over the same place with its array axes towards `axes`.

        Args:
            axes: three letters, e.g. "SPL".
            spacing_mm: (d, h, w) of the new axes; default: this grid's.
            shape: default: as many voxels as cover this grid.
            centre_mm: default: this grid's centre.
            aligned: along the patient's axes; default: along this grid's own axes, made orthogonal.
        """
        turned = self.toward(axes)
        if spacing_mm is None and shape is None and centre_mm is None and not aligned and turned.skew < 1e-6:
            return turned
        if aligned:
            unit = np.zeros((3, 3))
            for i, letter in enumerate(axes):
                world = next(k for k, pair in enumerate(_LETTERS) if letter in pair)
                unit[world, i] = 1 if letter == _LETTERS[world][1] else -1
        else:
            u, _, vt = np.linalg.svd(turned.directions)
            unit = u @ vt
        spacing = np.array(turned.spacing_mm if spacing_mm is None else spacing_mm, dtype=np.float64)
        matrix = unit * spacing
        if shape is None:
            corners = turned.mm(list(itertools.product(*((-0.5, n - 0.5) for n in turned.shape))))
            extent = np.ptp(corners @ np.linalg.inv(matrix).T, axis=0)
            shape = tuple(int(n) for n in np.maximum(1, np.ceil(extent - 1e-3)))
        centre = turned.centre_mm if centre_mm is None else np.asarray(centre_mm, dtype=np.float64)
        affine = np.eye(4)
        affine[:3, :3] = matrix
        affine[:3, 3] = centre - matrix @ ((np.array(shape) - 1) / 2)
        return Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)

    def close(self, other: Grid, *, tolerance_mm: float = 1e-2) -> bool:
        """Whether both have one shape and no corner differs by more than a tolerance."""
        if self.shape != other.shape:
            return False
        corners = list(itertools.product(*((0, n - 1) for n in self.shape)))
        return bool(np.abs(self.mm(corners) - other.mm(corners)).max() <= tolerance_mm)

    def _from(self, steps: Array, start: ArrayLike, shape: Sequence[int]) -> Grid:
        affine = np.eye(4)
        affine[:3, :3] = self.affine[:3, :3] @ steps
        affine[:3, 3] = self.mm(start)[0]
        return Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)


@dataclass(frozen=True)
class Channel:
    """What a file says of one channel.

    Attributes:
        modality: "CT", "MR" or a finer name ("FLAIR", "T1c"); "" when the file does not say.
        window_hu: (low, high) display window of a CT, or None.
    """

    modality: str = ""
    window_hu: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels with their place.

    Attributes:
        array: [C, D, H, W], any real dtype, read-only.
        grid: where [D, H, W] lies.
        channels: one a C.
        digest: hash of values, grid and channels; made by `Volume.of`.
    """

    array: Array
    grid: Grid
    channels: tuple[Channel, ...]
    digest: str

    @staticmethod
    def of(array: Array, grid: Grid, channels: Sequence[Channel] = (Channel(),)) -> Volume:
        """A volume of [C, D, H, W] or [D, H, W] values on a grid.

        Raises:
            GridError: the array does not fit the grid or the channels.
        """
        array = np.asarray(array)
        array = array[None] if array.ndim == 3 else array
        if array.ndim != 4 or array.shape[1:] != grid.shape or array.shape[0] != len(channels):
            raise GridError(f"array is {array.shape}, expected ({len(channels)}, {', '.join(map(str, grid.shape))})")
        array = np.ascontiguousarray(array)
        if array.flags.writeable:
            array = array.view()
            array.setflags(write=False)
        digest = hashlib.blake2b(digest_size=16)
        digest.update(f"{array.dtype.str}{array.shape}{tuple(channels)}{grid.digest}".encode())
        digest.update(array.data.cast("B") if array.size else b"")
        return Volume(array, grid, tuple(channels), digest.hexdigest())

    def on(self, grid: Grid, *, order: int = 1, outside: float = 0.0) -> Volume:
        """This volume on another grid."""
        return Volume.of(regrid(self.array, self.grid, grid, order=order, outside=outside), grid, self.channels)


def regrid(array: Array, src: Grid, dst: Grid, *, order: int, outside: float) -> Array:
    """Values of one grid at the voxel centres of another: THE resampling of Segwise.

    Where both lattices share their voxels (up to axis order, flips and an offset) values are copied exactly, so it
    reorients, crops and pastes without loss. Elsewhere they are interpolated by splines; a place further than half a
    voxel outside `src` gets `outside`. Bool stays bool (interpolated as 0..1, > 0.5); other dtypes are kept when
    copied or for order 0 and become float32 when interpolated.

    Args:
        array: [..., D, H, W] on `src`.
        src: the grid of `array`.
        dst: the wanted grid.
        order: 0 nearest, 1 linear, 3 cubic spline.
        outside: value beyond `src`.

    Returns:
        [..., *dst.shape].

    Raises:
        GridError: `array` is not on `src`.
    """
    if array.shape[-3:] != src.shape:
        raise GridError(f"array is {array.shape}, expected (..., {', '.join(map(str, src.shape))})")
    if src == dst:
        return array
    matrix = np.linalg.inv(src.affine) @ dst.affine  # dst index -> src index
    lattice = _lattice(matrix, dst.shape)
    if lattice is not None:
        return _copied(array, *lattice, dst.shape, outside)
    flat = array.reshape(-1, *src.shape)
    dtype = array.dtype if order == 0 else np.dtype(np.float32)
    out = np.empty((len(flat), *dst.shape), dtype=dtype)
    for i, values in enumerate(flat):
        source = values if order == 0 else values.astype(np.float32)
        ndimage.affine_transform(
            source, matrix[:3, :3], matrix[:3, 3], dst.shape, output=out[i], order=order, mode="nearest"
        )
    out[:, ~_inside(matrix, src.shape, dst.shape)] = outside
    if array.dtype == bool and order > 0:
        out = out > 0.5
    return out.reshape(*array.shape[:-3], *dst.shape)


def _inside(matrix: Array, src: Shape, dst: Shape) -> Array:
    """bool [*dst]: the voxel's centre lies within src, half a voxel of rim included."""
    inside = np.ones(dst, dtype=bool)
    axes = [np.arange(n, dtype=np.float64) for n in dst]
    for row, n in zip(matrix[:3], src, strict=True):
        place = row[0] * axes[0][:, None, None] + row[1] * axes[1][:, None] + row[2] * axes[2] + row[3]
        inside &= (place > -0.5 - SHARED_VOXELS) & (place < n - 0.5 + SHARED_VOXELS)
    return inside


def _lattice(matrix: Array, dst: Shape) -> tuple[list[int], list[int], list[int]] | None:
    """(for each dst axis: its src axis, its sign; for each src axis: the offset) if voxel centres coincide."""
    steps = np.rint(matrix[:3, :3])
    if (np.abs(steps).sum(axis=0) != 1).any() or (np.abs(steps).sum(axis=1) != 1).any():
        return None
    offset = np.rint(matrix[:3, 3])
    corners = np.array(list(itertools.product(*((0, n - 1) for n in dst))), dtype=np.float64)
    error = corners @ (matrix[:3, :3] - steps).T + (matrix[:3, 3] - offset)
    if np.abs(error).max() > SHARED_VOXELS:
        return None
    source = [int(np.flatnonzero(steps[:, i])[0]) for i in range(3)]
    return source, [int(steps[s, i]) for i, s in enumerate(source)], [int(o) for o in offset]


def _copied(array: Array, source: list[int], sign: list[int], offset: list[int], dst: Shape, outside: float) -> Array:
    lead = array.ndim - 3
    out = np.full((*array.shape[:lead], *dst), outside, dtype=array.dtype)
    take: list[slice] = [slice(None)] * 3
    put: list[slice] = [slice(None)] * 3
    for i, (axis, step) in enumerate(zip(source, sign, strict=True)):
        n = array.shape[lead + axis]
        places = offset[axis] + step * np.arange(dst[i])
        valid = np.flatnonzero((places >= 0) & (places < n))
        if not len(valid):
            return out
        first, last = int(places[valid[0]]), int(places[valid[-1]])
        stop = last + step
        take[axis] = slice(first, None if stop < 0 else stop, step)
        put[i] = slice(int(valid[0]), int(valid[-1]) + 1)
    piece = array[(slice(None),) * lead + tuple(take)]
    piece = piece.transpose(*range(lead), *(lead + a for a in source))
    out[(slice(None),) * lead + tuple(put)] = piece
    return out


def _assign(directions: Array) -> list[int]:
    """For each array axis its nearest patient axis (0 x, 1 y, 2 z), each used once."""
    best = max(itertools.permutations(range(3)), key=lambda p: sum(abs(directions[w, i]) for i, w in enumerate(p)))
    return list(best)


def _checked(axes: str) -> str:
    if len(axes) != 3 or any(sum(letter in pair for letter in axes) != 1 for pair in _LETTERS):
        raise GridError(f'axes is "{axes}", expected three letters, one each of L/R, P/A, I/S, e.g. "SPL"')
    return axes


def bounds(mask: Array) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The half-open index box low..high around what is true in a mask of any number of axes; None if nothing is."""
    low: list[int] = []
    high: list[int] = []
    for axis in range(mask.ndim):
        cut = mask[tuple([slice(a, b) for a, b in zip(low, high, strict=True)])]
        there = np.flatnonzero(cut.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        if not len(there):
            return None
        low.append(int(there[0]))
        high.append(int(there[-1]) + 1)
    return tuple(low), tuple(high)
