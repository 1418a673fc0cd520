"""Changes of a patch that a net should not mind: turned, scaled, mirrored, noisy, blurred, brighter, coarser.

What is changed by how much is drawn first, as numbers that can be kept and looked at (`Change`), and applied then.
Kinds, ranges and chances follow nnU-Net (Isensee et al., Nat Methods 2021, supplement, note 4), with linear in place of
cubic interpolation. Images are normalised already (mean about 0, deviation about 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional as F

from segwise.geometry import Array

REACH = 1.3  # a patch that is turned is cut this much larger, where it has more than one voxel


@dataclass(frozen=True)
class Change:
    """What becomes of one patch; the defaults change nothing.

    Attributes:
        angles: radians about the axes (d, h, w).
        scale: > 1 shows less of the body, larger.
        mirror: of the axes (d, h, w).
        noise: standard deviation that is added.
        blur: standard deviation in voxels.
        brightness: factor.
        contrast: factor about the mean, within the range.
        coarse: the image is shown as if its voxels were this many times larger.
        gamma: exponent of the values between their least and greatest.
        inverted: the gamma is taken of the negative.
        seed: of the noise.
    """

    angles: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: float = 1.0
    mirror: tuple[bool, bool, bool] = (False, False, False)
    noise: float = 0.0
    blur: float = 0.0
    brightness: float = 1.0
    contrast: float = 1.0
    coarse: float = 1.0
    gamma: float = 1.0
    inverted: bool = False
    seed: int = 0

    @property
    def moves(self) -> bool:
        """It turns or scales."""
        return any(self.angles) or self.scale != 1


def drawn(rng: np.random.Generator, *, mirror: Sequence[int] = (0, 1, 2), flat: bool = False) -> Change:
    """One change.

    Args:
        rng: of all draws.
        mirror: axes that may be mirrored: not the one from left to right where labels have sides.
        flat: voxels are much longer on the first axis: it is only turned about it.
    """
    turn, resize = rng.random() < 0.2, rng.random() < 0.2
    most = math.radians(180 if flat else 30)
    angles = rng.uniform(-most, most, 3) if turn else np.zeros(3)
    if flat:
        angles[1:] = 0
    scale = rng.uniform(0.7, 1.0) if rng.random() < 0.5 else rng.uniform(1.0, 1.4)
    a, b, c = angles.tolist()
    d, h, w = (axis in mirror and bool(rng.random() < 0.5) for axis in range(3))
    return Change(
        angles=(a, b, c),
        scale=float(scale) if resize else 1.0,
        mirror=(d, h, w),
        noise=_maybe(rng, 0.1, math.sqrt(rng.uniform(0, 0.1)), 0.0),
        blur=_maybe(rng, 0.2, rng.uniform(0.5, 1.0), 0.0),
        brightness=_maybe(rng, 0.15, rng.uniform(0.75, 1.25), 1.0),
        contrast=_maybe(rng, 0.15, rng.uniform(0.75, 1.25), 1.0),
        coarse=_maybe(rng, 0.25, rng.uniform(1.0, 2.0), 1.0),
        gamma=_maybe(rng, 0.3, rng.uniform(0.7, 1.5), 1.0),
        inverted=bool(rng.random() < 0.25),
        seed=int(rng.integers(2**31)),
    )


def _maybe(rng: np.random.Generator, chance: float, value: float, otherwise: float) -> float:
    return float(value) if rng.random() < chance else otherwise


def reach(shape: Sequence[int], change: Change) -> tuple[int, int, int]:
    """How large a patch must be cut so that the change fills `shape`."""
    d, h, w = (math.ceil(n * REACH) if change.moves and n > 1 else n for n in shape)
    return d, h, w


def changed(image: Array, labels: Array, change: Change, shape: Sequence[int]) -> tuple[Array, Array]:
    """A patch after its change.

    Args:
        image: float32 [C, *reach(shape, change)].
        labels: uint8 [*reach(shape, change)].
        change: what to do.
        shape: of the patch.

    Returns:
        float32 [C, *shape] and uint8 [*shape].
    """
    if change.moves:
        image, labels = _moved(image, labels, change, shape)
    flips = [axis for axis, mirrored in enumerate(change.mirror) if mirrored]
    image, labels = np.flip(image, tuple(axis + 1 for axis in flips)), np.flip(labels, tuple(flips))
    return np.ascontiguousarray(_shown(image.astype(np.float32), change)), np.ascontiguousarray(labels)


def _moved(image: Array, labels: Array, change: Change, shape: Sequence[int]) -> tuple[Array, Array]:
    """Turned and scaled about the middle, in voxels."""
    centre = (np.array(labels.shape) - 1) / 2
    offsets = [np.arange(n, dtype=np.float32) - (n - 1) / 2 for n in shape]
    places = np.stack(np.meshgrid(*offsets, indexing="ij"), axis=-1) @ (_turn(change.angles).T / change.scale)
    size = np.maximum(np.array(labels.shape) - 1, 1)
    grid = torch.from_numpy(((places + centre) / size * 2 - 1)[..., ::-1].astype(np.float32).copy())[None]
    pixels = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))[None]
    marks = torch.from_numpy(labels.astype(np.float32))[None, None]
    own = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=True)[0]
    named = F.grid_sample(marks, grid, mode="nearest", padding_mode="zeros", align_corners=True)[0, 0]
    return own.numpy(), named.numpy().astype(np.uint8)


def _turn(angles: Sequence[float]) -> Array:
    found = np.eye(3)
    for axis, angle in enumerate(angles):
        one = np.eye(3)
        i, j = [k for k in range(3) if k != axis]
        one[i, i] = one[j, j] = math.cos(angle)
        one[i, j], one[j, i] = -math.sin(angle), math.sin(angle)
        found = found @ one
    return found


def _shown(image: Array, change: Change) -> Array:
    """The values: coarser, blurred, brighter, with more contrast, another gamma, noise."""
    if change.coarse > 1:
        image = np.stack([_coarser(channel, change.coarse) for channel in image])
    if change.blur:
        image = np.stack([_blurred(channel, change.blur) for channel in image])
    image = image * np.float32(change.brightness)
    if change.contrast != 1:
        mean = image.mean(axis=(1, 2, 3), keepdims=True)
        low, high = image.min(axis=(1, 2, 3), keepdims=True), image.max(axis=(1, 2, 3), keepdims=True)
        image = np.clip((image - mean) * np.float32(change.contrast) + mean, low, high)
    if change.gamma != 1:
        image = _gamma(image, change.gamma, inverted=change.inverted)
    if change.noise:
        rng = np.random.default_rng(change.seed)
        image = image + rng.normal(0, change.noise, image.shape).astype(np.float32)
    return image.astype(np.float32)


def _coarser(channel: Array, factor: float) -> Array:
    own = torch.from_numpy(np.ascontiguousarray(channel))[None, None]
    small = [max(1, round(n / factor)) for n in channel.shape]
    less = F.interpolate(own, small, mode="nearest-exact")
    return np.asarray(F.interpolate(less, channel.shape, mode="trilinear", align_corners=False)[0, 0].numpy())


def _blurred(channel: Array, sigma: float) -> Array:
    wide = [sigma if n > 1 else 0.0 for n in channel.shape]
    return np.asarray(ndimage.gaussian_filter(channel, wide, truncate=2.5))


def _gamma(image: Array, gamma: float, *, inverted: bool) -> Array:
    sign = np.float32(-1 if inverted else 1)
    image = image * sign
    axes = (1, 2, 3)
    low, high = image.min(axis=axes, keepdims=True), image.max(axis=axes, keepdims=True)
    mean, std = image.mean(axis=axes, keepdims=True), image.std(axis=axes, keepdims=True)
    bent = np.power((image - low) / np.maximum(high - low, 1e-7), gamma) * (high - low) + low
    again = (bent - bent.mean(axis=axes, keepdims=True)) / np.maximum(bent.std(axis=axes, keepdims=True), 1e-7)
    return np.asarray((again * std + mean) * sign, dtype=np.float32)
