"""A stage: a room measured in patient millimetres, on which anatomy is put as named structures.

Places are (x, y, z) mm from the middle of the stage, RAS+; array axes point towards S, P, L.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from segwise.geometry import Array, Grid
from segwise.synth.phantom import Phantom, Tissue
from segwise.synth.room import Patch, Room, ellipsoid, tube
from segwise.synth.shapes import curve, rotation
from segwise.synth.worlds import World, shown

_TO_INDEX = np.array([[0.0, 0, 1], [0, -1, 0], [-1, 0, 0]])  # (x, y, z) -> (d, h, w)
LEFT, RIGHT = -1, 1
SIDES = ((LEFT, "left"), (RIGHT, "right"))
BONE, MARROW = Tissue(480, 70, 3), Tissue(190, 40, 4)
FAT = Tissue(-100, 12, 9)


@dataclass(frozen=True, eq=False)
class Stage:
    """Where anatomy is put.

    Attributes:
        room: labels, tissues and targets so far; `room.rng` is every draw.
        spacing_mm: of the isotropic voxels.
    """

    room: Room
    spacing_mm: float

    @staticmethod
    def of(size_mm: Sequence[float], seed: int, salt: int, *, spacing_mm: float, warp_mm: float = 1.8) -> Stage:
        """An empty stage of (x, y, z) mm, filled with air."""
        rng = np.random.default_rng([seed, salt])
        shape = [max(8, int(n / spacing_mm)) for n in (size_mm[2], size_mm[1], size_mm[0])]
        room = Room.of(shape, rng, [], warp=warp_mm / spacing_mm, scale=32 / spacing_mm)
        room.label(Tissue(-1000.0, 4.0))
        return Stage(room, spacing_mm)

    @property
    def rng(self) -> np.random.Generator:
        """Where every draw comes from."""
        return self.room.rng

    def index(self, xyz_mm: ArrayLike) -> Array:
        """Millimetres [N, 3] or [3] -> float64 indices of the same shape."""
        middle = (np.array(self.room.labels.shape) - 1) / 2
        return np.asarray(middle + np.asarray(xyz_mm, dtype=np.float64) @ _TO_INDEX.T / self.spacing_mm)

    def coordinate(self, patch: Patch, axis: int) -> Array:
        """float32, of the patch's shape: x, y or z in mm of its voxels, bent as shapes are."""
        row = {0: 2, 1: 1, 2: 0}[axis]
        middle = (self.room.labels.shape[row] - 1) / 2
        near = (self.room.bent[(row, *patch.where)] - np.float32(middle)) * np.float32(self.spacing_mm)
        return np.asarray(near if axis == 2 else -near)

    def egg(
        self,
        centre: ArrayLike,
        radii: ArrayLike,
        *,
        tilt: tuple[float, float, float] = (0.0, 0.0, 0.0),
        power: float = 2.0,
        rough: float = 0.0,
    ) -> Patch:
        """A superquadric by centre and half axes (x, y, z) mm, turned about x, y, z by degrees."""
        turn = _TO_INDEX @ rotation(tilt) @ _TO_INDEX.T
        r = np.asarray(radii, dtype=np.float64)[[2, 1, 0]] / self.spacing_mm
        return ellipsoid(self.room, self.index(centre), np.maximum(r, 0.4), turn, power=power, rough=rough)

    def pipe(
        self, points: ArrayLike, radii: ArrayLike, *, flat: tuple[ArrayLike, float] | None = None, n: int = 10
    ) -> Patch:
        """A tube along a smooth curve through points [M, 3] mm; radii at the curve's ends or along it."""
        path = self.index(curve(points, n))
        room = self.room
        near = [np.clip(np.rint(path[:, i]).astype(int), 0, room.labels.shape[i] - 1) for i in range(3)]
        path = path - (room.bent[:, near[0], near[1], near[2]].T - np.stack(near, axis=1))
        given = np.atleast_1d(np.asarray(radii, dtype=np.float64)) / self.spacing_mm
        sizes = np.interp(np.linspace(0, 1, n), np.linspace(0, 1, len(given)), given)
        thin = None if flat is None else (_TO_INDEX @ np.asarray(flat[0], dtype=np.float64), flat[1])
        return tube(room, path, np.maximum(sizes, 0.45), flat=thin)

    def grown(self, patch: Patch, by_mm: float) -> Patch:
        """A patch made larger (or, below 0, smaller)."""
        return Patch(patch.where, patch.field - np.float32(by_mm / self.spacing_mm))

    def both(self, patch: Patch, field: Array) -> Patch:
        """Where a patch and a field of its own shape (any unit, negative inside) are both inside."""
        return Patch(patch.where, np.maximum(patch.field, field))

    def put(
        self, patch: Patch, tissue: Tissue, name: str = "", *, only: Sequence[int] = (), target: bool = True
    ) -> int:
        """Paint under a new label; with a name it is a target of its own unless `target` is False."""
        label = self.room.paint(patch, tissue, name, only=only)
        if name and target:
            self.room.target(name, label)
        return label

    def cored(self, patch: Patch, name: str, *, rim_mm: float, rim: Tissue, core: Tissue) -> tuple[int, int]:
        """A structure with a rim (cortical bone, a wall) around a core; one target."""
        outer = self.put(patch, rim, name, target=False)
        inner = self.put(self.grown(patch, -rim_mm), core, name, only=(outer,), target=False)
        self.room.target(name, outer, inner)
        return outer, inner

    def union(self, name: str, *labels: int) -> None:
        """Say that several labels together are a target."""
        self.room.target(name, *labels)

    def like(self, tissue: Tissue, *, by: float = 8.0) -> Tissue:
        """Nearly the same tissue."""
        return Tissue(float(tissue.value + self.rng.normal(0, by)), tissue.texture, tissue.grain_mm)

    def done(self) -> World:
        """What was put."""
        labels = self.room.labels
        affine = np.eye(4)
        affine[:3, :3] = _TO_INDEX.T * self.spacing_mm
        affine[:3, 3] = -affine[:3, :3] @ ((np.array(labels.shape) - 1) / 2)
        return shown(self.room, Grid((labels.shape[0], labels.shape[1], labels.shape[2]), affine))


def as_world(phantom: Phantom) -> World:
    """A phantom with every name as a target."""
    there = np.unique(phantom.labels).tolist()
    names = sorted({name for i, name in phantom.names.items() if i in there})
    targets = tuple((n, tuple(i for i in there if phantom.names.get(i) == n)) for n in names)
    return World(phantom, targets)
