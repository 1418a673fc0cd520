"""Real masks for benchmarks/failures.py: structures of real cases, split by name, and what is made of them.

Nothing is run from here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import ndimage

from segwise import anatomy
from segwise.datasets import case_json
from segwise.evaluate import references
from segwise.geometry import Array, Grid, Volume, bounds
from segwise.pair import Pair
from segwise.prompt import Box, Prompt
from segwise.synth.spoilt import Mask

SMALLEST = (150, 6)  # voxels, slices
LARGEST = 260_000  # voxels with the room around; more where there is time
JITTER_MM = 3.0
TWICE = ("mr_sarcoma_sts002", "mr_sarcoma_sts003", "mr_sarcoma_sts008", "mr_sarcoma_sts012")  # the masks of the CT


@dataclass(frozen=True, eq=False)
class Structure:
    """A real mask with room around it, slices first."""

    case: str
    subject: str
    name: str
    target: Mask
    grid: Grid
    image: Array  # [C, N, H, W]

    @property
    def calibrates(self) -> bool:
        """It belongs to the half of the names that thresholds may be drawn from."""
        return in_calibration(self.name)

    def pair(self, prediction: Array, prompter: str, seed: int) -> Pair:
        """With a prompt drawn from the reference: "box3d" with its faces jittered, or "box2d" on the middle slice."""
        low, high = (np.array(v) for v in bounds(self.target.mask) or ((0, 0, 0), (1, 1, 1)))
        rng = np.random.default_rng(seed)
        spread = np.rint(rng.uniform(-JITTER_MM, JITTER_MM, (2, 3)) / np.array(self.target.spacing_mm)).astype(int)
        if prompter == "box2d":
            areas = self.target.mask.sum(axis=(1, 2))
            middle = int((low[0] + high[0] - 1) // 2)
            middle = min(np.flatnonzero(areas), key=lambda i: abs(int(i) - middle))
            rows, columns = bounds(self.target.mask[middle]) or ((0, 0), (1, 1))
            low, high = np.array([middle, *rows]), np.array([middle + 1, *columns])
            spread[:, 0] = 0
        low, high = low + spread[0], high + spread[1]
        high = np.maximum(high, low + 1)
        return Pair(self.target.mask, prediction, self.grid, Prompt((Box.of(self.grid, low, high),)), self.image)


def in_calibration(name: str) -> bool:
    """Half of the names, left and right together, by their hash."""
    plain = anatomy.without_side(name) or name
    return hashlib.blake2b(plain.encode()).digest()[0] % 2 == 0


def structures(root: Path) -> Iterator[Structure]:
    """One side of every structure of every real case, large enough to have slices, small enough to be quick."""
    for case in case_json.cases(root):
        if case.id in TWICE:
            continue
        volume = case.volume()
        names = [s.name for s in case.structures if anatomy.side(s.name) != "right"]
        masks = references.masks(case, names)
        turned = volume.grid.toward("SPL")
        step = np.diff(volume.grid.index(turned.mm(np.array([[0.0, 0, 0], [1.0, 0, 0]]))), axis=0)[0]
        axis = int(np.abs(step).argmax())
        for name, mask in masks.items():
            box = bounds(mask)
            if box is None or mask.sum() < SMALLEST[0] or box[1][axis] - box[0][axis] < SMALLEST[1]:
                continue
            others = [other for key, other in masks.items() if key != name]
            found = _roomy(mask, others, volume, axis)
            if found[0].mask.size <= LARGEST:
                yield Structure(case.id, case.subject, name, *found)


def _roomy(mask: Array, others: list[Array], volume: Volume, axis: int) -> tuple[Mask, Grid, Array]:
    """The mask cut with 45 % of its size (6 voxels at least) on each side, beyond the image (repeated) if need be."""
    grid = volume.grid
    low, high = (np.array(v) for v in bounds(mask) or ((0, 0, 0), (1, 1, 1)))
    room = np.maximum(6, (0.45 * (high - low)).astype(int))
    order = [axis, *(a for a in range(3) if a != axis)]

    def cut(one: Array, *, mode: Literal["constant", "edge"] = "constant") -> Array:
        inner = one[tuple(slice(max(0, a), b) for a, b in zip(low - room, high + room, strict=True))]
        before = np.maximum(0, room - low)
        after = high - low + 2 * room - before - np.array(inner.shape)
        return np.ascontiguousarray(np.pad(inner, list(zip(before, after, strict=True)), mode=mode).transpose(order))

    own = cut(mask)
    rim = ndimage.binary_dilation(own, iterations=2) & ~own
    beside = max((cut(one) & ~own for one in others), key=lambda one: int((one & rim).sum()), default=None)
    beside = None if beside is None or not (beside & rim).any() else beside
    affine = grid.affine[:, [*order, 3]]
    spacing = tuple(float(grid.spacing_mm[a]) for a in order)
    image = np.stack([cut(one, mode="edge") for one in volume.array])
    return Mask(own, (spacing[0], spacing[1], spacing[2]), beside), Grid(own.shape, affine), image
