"""What the models share that answer a list of names on windows of a CT: universal and pcnet."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from segwise import anatomy
from segwise.errors import WeightsError
from segwise.geometry import Array, Grid, Volume, regrid
from segwise.lifts.spoken import SpokenFrame
from segwise.nets.contract import Marks

_CODE = "axes RAS, resampled linearly, then HU to 0..1, cut: 1"


@dataclass(frozen=True)
class NamedFrame(SpokenFrame):
    """CT with axes to R, A, S, resampled, a window of HU to 0..1, cut.

    Attributes:
        names: common name -> channels of the net that answer it, of which the greatest counts.
        patch: side of a window in voxels.
        spacing_mm: of the voxels, equal on all axes.
        window_hu: what becomes 0 and 1.
    """

    names: Mapping[str, tuple[int, ...]]
    patch: int
    spacing_mm: float
    window_hu: tuple[float, float]

    @property
    def shape(self) -> tuple[int, int, int]:  # type: ignore[override]
        """Of a window."""
        return self.patch, self.patch, self.patch

    @property
    def digest(self) -> str:  # type: ignore[override]
        """Of all that changes a view, and of the names."""
        words = (_CODE, self.patch, self.spacing_mm, self.window_hu, sorted(self.names.items()))
        return hashlib.blake2b(repr(words).encode(), digest_size=16).hexdigest()

    def prepare(self, volume: Volume) -> Volume:
        """float32 [1, D, H, W] in 0..1; only the first channel is used, what is no number counts as the lowest."""
        low, high = self.window_hu
        grid = volume.grid.canonical("RAS", spacing_mm=(self.spacing_mm,) * 3)
        values = np.nan_to_num(volume.array[:1].astype(np.float32), nan=low, posinf=high, neginf=low)
        moved = regrid(values, volume.grid, grid, order=1, outside=low)
        scaled = np.clip((moved.astype(np.float32) - np.float32(low)) / np.float32(high - low), 0, 1)
        return Volume.of(scaled, grid, volume.channels[:1])

    def window(self, grid: Grid, centre: Sequence[int]) -> Grid:
        """A window around an index."""
        low = [c - self.patch // 2 for c in centre]
        return grid.crop(low, [a + self.patch for a in low])

    def view(self, prepared: Volume, window: Grid) -> Array:
        """float32 [1, D, H, W]: the part of the prepared volume that the window shows, 0 beyond."""
        return np.asarray(regrid(prepared.array, prepared.grid, window, order=0, outside=0.0), dtype=np.float32)

    def asked(self, words: str, *, modality: str) -> Marks:
        """The channels that some words mean, as queries {"class": int64 [Q]}.

        Raises:
            NoSuchStructure: none of the names.
        """
        channels = [c for name in anatomy.among(words, tuple(self.names)) for c in self.names[name]]
        return Marks(torch.zeros(len(channels), dtype=torch.int64), tokens={"class": torch.tensor(channels)})


def listed(config: Mapping[str, Any], channels: int, *, field: str, beside: str) -> dict[str, tuple[int, ...]] | None:
    """The names that config.json beside a checkpoint gives its channels; None if it gives none.

    Args:
        config: its content; `config[field]` is a list of names, "" for a channel that nobody is to ask for.
        channels: of the net.
        field, beside: for the message.

    Raises:
        WeightsError: there are not as many names as channels, or one comes twice.
    """
    said = config.get(field)
    if said is None:
        return None
    if not isinstance(said, list) or len(said) != channels or not all(isinstance(name, str) for name in said):
        came = f"{len(said)} entries" if isinstance(said, list) else type(said).__name__
        raise WeightsError(f'"{field}" in the config.json beside {beside} has {came}, expected {channels} names')
    found: dict[str, tuple[int, ...]] = {}
    for channel, name in enumerate(said):
        common = anatomy.resolve(name).name
        if common in found:
            raise WeightsError(f'"{field}" in the config.json beside {beside} names "{common}" twice')
        if name:
            found[common] = (channel,)
    return found
