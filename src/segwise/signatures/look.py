"""A pair of masks as slices along one axis, cut to what is foreground: what every signature looks at."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import edt
import numpy as np
from scipy import ndimage

from segwise.errors import SpecError
from segwise.geometry import Array, bounds
from segwise.pair import Pair
from segwise.signatures import sight as sights
from segwise.signatures.sight import Sight

PLANES = {"axial": "SPL", "coronal": "PIL", "sagittal": "LIP"}  # slices, rows, columns
TOLERANCE_MM = 2.0  # how far beyond the reference still counts as its border; at least one voxel in the slice
LOOSE_MM = 3.0  # how far a face of a drawn box may be off; at least one voxel
TOUCHING = np.ones((3, 3, 3), dtype=bool)  # 26 neighbours


@dataclass(frozen=True, eq=False)
class Seen:
    """Masks with the slicing axis first, cut to their common box with a frame of background.

    Attributes:
        prediction: bool [N, H, W].
        reference: bool [N, H, W], or None.
        box: int64 [2, 3], half-open hull of the prompt's boxes in the cut's indices (it may reach beyond the cut), or
            None if the prompt has no box.
        is_long: the hull of the boxes spans more than one slice, so that it tells where the target ends.
        start: where the prompt lies along the axis, in the cut's indices: the middle of the hull; None without a box.
        spacing_mm: between slices, rows and columns.
        axis: of the file's array that the slices lie along.
        low: [3] index of the cut's first voxel in the moved array.
        voxel_ml: volume of a voxel.
        sight: the image around the prediction, or None without an image or a prediction.
    """

    prediction: Array
    reference: Array | None
    box: Array | None
    is_long: bool
    start: float | None
    spacing_mm: tuple[float, float, float]
    axis: int
    low: tuple[int, int, int]
    voxel_ml: float
    sight: Sight | None = None

    @property
    def imaged(self) -> bool:
        """The image says what tissue is the target's."""
        return self.sight is not None and self.sight.core is not None

    @cached_property
    def areas(self) -> Array:
        """int64 [N] voxels of the prediction by slice."""
        return np.asarray(self.prediction.sum(axis=(1, 2)), dtype=np.int64)

    @cached_property
    def reference_areas(self) -> Array:
        """int64 [N] voxels of the reference by slice; zeros without one."""
        return np.zeros_like(self.areas) if self.reference is None else self.reference.sum(axis=(1, 2))

    @cached_property
    def ends(self) -> tuple[int, int]:
        """Half-open first and last slice of the prediction; (0, 0) if it is empty."""
        return ends_of(self.areas)

    @cached_property
    def reference_ends(self) -> tuple[int, int]:
        """The same of the reference."""
        return ends_of(self.reference_areas)

    def loose(self, axis: int) -> int:
        """Voxels along an axis that a face of the prompt's box may be off."""
        return max(1, round(LOOSE_MM / self.spacing_mm[axis]))

    @cached_property
    def pieces(self) -> tuple[Array, Array]:
        """int32 [N, H, W] the prediction's 26-connected components from 1, and int64 [K] their voxels."""
        labelled, n = ndimage.label(self.prediction, structure=TOUCHING)
        return labelled, np.bincount(labelled.ravel(), minlength=n + 1)[1:]

    @cached_property
    def near(self) -> Array:
        """bool [N, H, W]: within the tolerance of the reference."""
        assert self.reference is not None
        reach = max(TOLERANCE_MM, *self.spacing_mm[1:]) + 1e-6
        away = edt.edt(~np.ascontiguousarray(self.reference), anisotropy=self.spacing_mm, parallel=1)
        return np.asarray(self.reference | (away <= reach)) if self.reference.any() else self.reference

    def framed(self, values: Array) -> Array:
        """[N, H, W]: an array [n, h, w] of `sight` in this frame; 0 beyond."""
        assert self.sight is not None
        found = np.zeros(self.prediction.shape, dtype=values.dtype)
        low = np.array(self.sight.low)
        first, last = np.maximum(low, 0), np.minimum(low + values.shape, found.shape)
        here = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
        found[here] = values[tuple(slice(a, b) for a, b in zip(first - low, last - low, strict=True))]
        return found

    def place(self, mask: Array) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
        """(slice, low, high) in the file's array order of what is true: its fullest slice and its half-open box.

        bool [N, H, W], not empty.
        """
        found = bounds(mask)
        assert found is not None
        low, high = ([int(a + b) for a, b in zip(corner, self.low, strict=True)] for corner in found)
        fullest = int(mask.sum(axis=(1, 2)).argmax()) + self.low[0]
        for corner in (low, high):
            corner.insert(self.axis, corner.pop(0))
        return fullest, tuple(low), tuple(high)


def look(pair: Pair, *, plane: str = "axial") -> Seen:
    """The slices of a pair.

    Args:
        pair: reference or None, prediction, grid, prompt or None, image or None.
        plane: "axial", "coronal" or "sagittal": whose slices count as neighbours.

    Raises:
        SpecError: an unknown plane.
    """
    if plane not in PLANES:
        raise SpecError(f'failures: plane is "{plane}", expected one of {", ".join(PLANES)}')
    turned = pair.grid.toward(PLANES[plane])
    step = np.diff(pair.grid.index(turned.mm(np.array([[0.0, 0, 0], [1.0, 0, 0]]))), axis=0)[0]
    axis = int(np.abs(step).argmax())
    spacing = list(pair.grid.spacing_mm)
    spacing.insert(0, spacing.pop(axis))
    reference = None if pair.reference is None else np.moveaxis(pair.reference, axis, 0)
    prediction = np.moveaxis(pair.prediction, axis, 0)
    both = prediction if reference is None else prediction | reference
    low, high = bounds(both) or ((0, 0, 0), (0, 0, 0))
    cut = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    box = _hull(pair, axis, low)
    there = None if pair.image is None else bounds(prediction)
    sight = None
    if pair.image is not None and there is not None:
        corners = np.array(there[0]), np.array(there[1])
        sight = sights.of(np.moveaxis(pair.image, axis + 1, 1), prediction, corners, [v - 1 for v in low])
    return Seen(
        prediction=np.pad(prediction[cut], 1),
        reference=None if reference is None else np.pad(reference[cut], 1),
        box=box,
        is_long=box is not None and bool(box[1, 0] - box[0, 0] > 1),
        start=None if box is None else float(box[0, 0] + box[1, 0] - 1) / 2,
        spacing_mm=(spacing[0], spacing[1], spacing[2]),
        axis=axis,
        low=(low[0] - 1, low[1] - 1, low[2] - 1),
        voxel_ml=pair.voxel_ml,
        sight=sight,
    )


@dataclass(frozen=True, eq=False)
class Found:
    """One component of a signature.

    Attributes:
        value: 0 where nothing is wrong, the higher the worse.
        where: bool [N, H, W] of `Seen`, the voxels that say so; all False where nothing is wrong.
    """

    value: float
    where: Array


def ends_of(values: Array) -> tuple[int, int]:
    """Half-open range of what is not zero; (0, 0) if nothing is. [N]."""
    there = np.flatnonzero(values)
    return (int(there[0]), int(there[-1]) + 1) if len(there) else (0, 0)


def _hull(pair: Pair, axis: int, low: tuple[int, ...]) -> Array | None:
    boxes = None if pair.prompt is None else pair.prompt.on(pair.grid).boxes
    if boxes is None or not len(boxes):
        return None
    hull = np.stack([boxes[:, 0].min(axis=0), boxes[:, 1].max(axis=0)])
    order = [axis, *(a for a in range(3) if a != axis)]
    return np.asarray(hull[:, order] - (np.array(low) - 1))
