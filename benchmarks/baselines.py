"""What a trained model must beat: the position prior and the best band of intensity, both from the training cases."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from segwise.case import Case
from segwise.geometry import Array, Volume

NORM = (44, 48, 64)  # voxels of the prior


def dice(a: Array, b: Array) -> float:
    """DSC of two masks, one of them not empty."""
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


class Baselines:
    """What knows no image, and what knows only brightness.

    Args:
        cases: to learn from.
        names: structures.
    """

    def __init__(self, cases: Sequence[Case], names: Sequence[str]) -> None:
        self.maps, self.cuts, self.bands = {}, {}, {}
        own = []
        for case in cases:
            volume = case.volume()
            here = [name for name in names if case.structure(name) is not None]
            own.append((volume, {t.name: t.mask for t in case.targets(here, volume.grid) if t.mask.any()}))
        for name in names:
            masks = [resized(masks[name], NORM) > 0.5 for _, masks in own if name in masks]
            self.maps[name] = np.mean(masks, axis=0)
            cuts = np.linspace(0.05, 0.95, 19)
            scores = [np.mean([dice(mask, self.maps[name] > cut) for mask in masks]) for cut in cuts]
            self.cuts[name] = float(cuts[int(np.argmax(scores))])
            self.bands[name] = self._band(name, [(v.array[0], m[name]) for v, m in own if name in m])

    def _band(self, name: str, pairs: list[tuple[Array, Array]]) -> tuple[float, float]:
        inside = np.concatenate([image[mask] for image, mask in pairs])
        low = np.percentile(inside, (1, 5, 10, 20, 30))
        high = np.percentile(inside, (70, 80, 90, 95, 99))
        bands = [(a, b) for a in low for b in high]
        scores = [np.mean([dice(mask, self._within(name, image, band)) for image, mask in pairs]) for band in bands]
        a, b = bands[int(np.argmax(scores))]
        return float(a), float(b)

    def _within(self, name: str, image: Array, band: tuple[float, float]) -> Array:
        reach = resized(self.maps[name] > 0.02, image.shape) > 0.5
        return (image >= band[0]) & (image <= band[1]) & reach

    def prior(self, name: str, volume: Volume) -> Array:
        """The training masks' mean, cut."""
        return resized(self.maps[name], volume.grid.shape) > self.cuts[name]

    def threshold(self, name: str, volume: Volume) -> Array:
        """The best band of intensity, where the organ lay in anyone."""
        return self._within(name, volume.array[0], self.bands[name])


def resized(values: Array, shape: tuple[int, ...]) -> Array:
    """A mask or map on as many voxels as wanted over the same field: persons differ in size."""
    own = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))[None, None]
    return F.interpolate(own, tuple(shape), mode="trilinear", align_corners=False)[0, 0].numpy()
