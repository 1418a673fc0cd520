"""A phantom: who is where, before any image is made of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from segwise.geometry import Array, Grid


@dataclass(frozen=True)
class Tissue:
    """How one label looks.

    Attributes:
        value: mean intensity: HU for CT, arbitrary units for MR.
        texture: standard deviation of its smooth texture.
        grain_mm: correlation length of that texture.
    """

    value: float
    texture: float = 0.0
    grain_mm: float = 6.0


@dataclass
class Painter:
    """Labels painted over each other in order, later ones on top.

    Attributes:
        grid: the fine grid.
        labels: int16 [D, H, W], 0 is air.
        tissues: label id -> how it looks.
        names: label id -> structure name, for those that are targets.
    """

    grid: Grid
    labels: Array = field(init=False)
    tissues: dict[int, Tissue] = field(init=False)
    names: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.labels = np.zeros(self.grid.shape, dtype=np.int16)
        self.tissues = {}

    def paint(self, shape: Array, tissue: Tissue, *, name: str = "", within: Array | None = None) -> Array:
        """Paint a field's inside (where `within` is negative too); returns the bool mask painted."""
        mask = shape < 0
        if within is not None:
            mask &= within < 0
        label = len(self.tissues) + 1
        self.labels[mask] = label
        self.tissues[label] = tissue
        if name:
            self.names[label] = name
        return np.asarray(mask)

    def done(self, air: Tissue) -> Phantom:
        """What was painted."""
        return Phantom(self.labels, self.grid, {0: air, **self.tissues}, dict(self.names))


@dataclass(frozen=True, eq=False)
class Phantom:
    """A painted phantom.

    Attributes:
        labels: int16 [D, H, W] on a fine grid, 0 is air.
        grid: the fine grid.
        tissues: label id -> how it looks.
        names: label id -> common structure name, for those that are targets.
    """

    labels: Array
    grid: Grid
    tissues: dict[int, Tissue]
    names: dict[int, str]
