"""Images of label maps for training: any contrast, texture, blur, noise, bias and slice thickness, a few ms each.

`imaging` makes scans that look as a CT or MR should; this makes the crowd of images a net must not be surprised by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from segwise.errors import InputError
from segwise.geometry import Array
from segwise.synth.fields import along, areas, smooth
from segwise.synth.phantom import Tissue

STYLES = ("ct", "mr")


@dataclass(frozen=True, eq=False)
class Shot:
    """An image of a label map on a scan's grid.

    Attributes:
        image: float32 [d, h, w], arbitrary units.
        soft: float32 [K, d, h, w] in [0, 1]: the share of every voxel that each target fills.
        spacing_mm: (d, h, w) of this grid.
    """

    image: Array
    soft: Array
    spacing_mm: tuple[float, float, float]

    @property
    def masks(self) -> Array:
        """bool [K, d, h, w]: the voxels that each target fills at least by half."""
        return np.asarray(self.soft >= 0.5)


def appear(
    labels: Array,
    spacing_mm: Sequence[float],
    tissues: Mapping[int, Tissue],
    rng: np.random.Generator,
    *,
    style: str | None = None,
) -> Array:
    """A random image of a label map on its own grid.

    Args:
        labels: int [D, H, W], every id in `tissues`.
        spacing_mm: (d, h, w) voxel size.
        tissues: label id -> how it looks; equal values stay equal in the image.
        rng: every draw.
        style: "ct" (values as tissues have them, jittered), "mr" (random grey level a value) or None, drawn.

    Returns:
        float32 [D, H, W] of arbitrary scale and offset.

    Raises:
        InputError: an unknown style.
    """
    return shoot(labels, spacing_mm, tissues, rng, style=style).image


def shoot(
    labels: Array,
    spacing_mm: Sequence[float],
    tissues: Mapping[int, Tissue],
    rng: np.random.Generator,
    *,
    factors: Sequence[float] = (1, 1, 1),
    targets: Sequence[Sequence[int]] = (),
    style: str | None = None,
) -> Shot:
    """A random image of a label map on a coarser grid, with targets averaged in the same way.

    Args:
        labels: int [D, H, W], every id in `tissues`.
        spacing_mm: (d, h, w) voxel size of the labels.
        tissues: label id -> how it looks; equal values stay equal in the image.
        rng: every draw.
        factors: (d, h, w) fine voxels a scan voxel, any number; the field of view stays centred.
        targets: unions of label ids.
        style: "ct", "mr" or None, drawn.

    Returns:
        Image and targets of floor(D / factor) voxels along each axis.

    Raises:
        InputError: an unknown style.
    """
    style = str(rng.choice(STYLES, p=(0.45, 0.55))) if style is None else style
    if style not in STYLES:
        raise InputError(f'style is "{style}", expected one of {", ".join(STYLES)}')
    tables = _looks(tissues, rng, style)
    fine = _tissue(labels, spacing_mm, tables, rng)
    matrices = [areas(n, f) for n, f in zip(labels.shape, factors, strict=True)]
    coarse = any(f != 1 for f in factors)
    image = along(fine, matrices) if coarse else fine
    wide = tuple(float(s * f) for s, f in zip(spacing_mm, factors, strict=True))
    image = _acquired(image, _contrast(image), wide, rng, style)
    soft = np.zeros((len(targets), *image.shape), dtype=np.float32)
    for one, ids in zip(soft, targets, strict=True):
        member = np.zeros(len(tables[0]), dtype=np.float32)
        member[list(ids)] = 1
        one[:] = along(member[labels], matrices) if coarse else member[labels]
    return Shot(image, soft, (wide[0], wide[1], wide[2]))


def _looks(tissues: Mapping[int, Tissue], rng: np.random.Generator, style: str) -> tuple[Array, Array, Array]:
    """(means, textures, which texture), float32 by label id."""
    size = max(tissues) + 1
    means, textures, which = (np.zeros(size, dtype=np.float32) for _ in range(3))
    values = sorted({t.value for t in tissues.values()})
    greys = dict(zip(values, _ct(values, rng) if style == "ct" else _mr(values, rng), strict=True))
    spread = float(np.std(list(greys.values()))) + 1e-3
    strength = rng.choice((0.0, 0.4, 0.8, 1.4))
    drawn = {v: rng.gamma(1.2, 0.05) * spread for v in values}
    kind = {v: int(rng.integers(0, 3)) for v in values}
    for i, tissue in tissues.items():
        means[i] = greys[tissue.value]
        own = tissue.texture if style == "ct" else drawn[tissue.value]
        textures[i], which[i] = own * strength, kind[tissue.value]
    return means, textures, which


def _ct(values: Sequence[float], rng: np.random.Generator) -> list[float]:
    """Values as they are, each moved a little; contrast within soft tissue is stretched or squeezed."""
    squeeze = np.exp(rng.uniform(np.log(0.35), np.log(1.8)))
    found = []
    for value in values:
        soft = abs(value - 60) < 150
        moved = 60 + (value - 60) * squeeze if soft else value
        found.append(float(moved + rng.normal(0, 6 + 0.03 * abs(value))))
    return found


def _mr(values: Sequence[float], rng: np.random.Generator) -> list[float]:
    """A random grey level a value: by a random curve over the values, or independent; at times nearly alike."""
    n, kind = len(values), rng.random()
    if kind < 0.45:  # independent, but tissues that are nearly alike stay so
        bins = np.floor(np.array(values) / rng.choice((1.0, 8.0, 16.0)) + rng.random()).astype(int)
        ids = np.unique(bins, return_inverse=True)[1]
        greys = rng.uniform(0.05, 1, n)[ids] + rng.normal(0, 0.01, n)
    else:  # a curve: like values look alike
        knots = np.unique(np.quantile(values, np.linspace(0, 1, int(rng.integers(3, 10)))))
        heights = rng.uniform(0, 1, len(knots))
        heights = np.cumsum(heights) if kind < 0.65 else heights
        greys = np.interp(values, knots, heights / heights.max()) + rng.normal(0, 0.01, n)
    if rng.random() < 0.3:
        greys = 1 - greys
    if rng.random() < 0.25:  # barely visible
        greys = np.median(greys) + (greys - np.median(greys)) * rng.uniform(0.25, 0.6)
    if values[0] < -700 and rng.random() < 0.8:  # air gives no signal
        greys[np.array(values) < -700] = rng.uniform(0, 0.06)
    return [float(g) * 600 for g in np.clip(greys, 0, 1.3)]


def _tissue(labels: Array, spacing_mm: Sequence[float], tables: tuple[Array, ...], rng: np.random.Generator) -> Array:
    """float32 [D, H, W]: means and textures, edges softened, then the point spread."""
    means, textures, which = tables
    image = means[labels]
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    soft = rng.uniform(0, 1.6) * (rng.random() < 0.35) / spacing
    if soft.max() > 0.3:
        image = _blurred(image, soft)
    kinds = which[labels]
    strength = textures[labels]
    for kind in range(3):
        if textures[which == kind].any():
            scale = np.exp(rng.uniform(np.log(1.2), np.log(12))) / spacing
            scale *= np.exp(rng.normal(0, 0.4, 3)) if rng.random() < 0.3 else 1.0  # striated
            image = image + np.where(kinds == kind, strength, 0) * smooth(labels.shape, rng, scale=scale.tolist())
    return _blurred(image, rng.uniform(0.25, 0.9) / spacing)


def _blurred(image: Array, sigmas: Array) -> Array:
    for axis, sigma in enumerate(sigmas):
        if sigma > 0.25:
            image = ndimage.gaussian_filter1d(image, float(sigma), axis=axis, mode="nearest", truncate=3)
    return image


def _contrast(image: Array) -> float:
    """How far apart the tissues of an image are: between its 10th and 90th percentile, without the far ends."""
    few = image[::3, ::3, ::3]
    low, high = np.percentile(few, (10, 90))
    return float(max(high - low, few.std(), 1e-3))


def _acquired(image: Array, contrast: float, spacing: Sequence[float], rng: np.random.Generator, style: str) -> Array:
    """Bias, streaks, noise, gamma, scale and offset."""
    shape = image.shape
    sigma = contrast * _level(rng)
    if style == "ct":
        sigma = min(float(np.exp(rng.uniform(np.log(4.0), np.log(50.0)))), 0.4 * contrast)
    if style == "mr":
        if rng.random() < 0.7:
            scale = [rng.uniform(50, 120) / s for s in spacing]
            image = image * np.exp(np.float32(rng.uniform(0.03, 0.3)) * smooth(shape, rng, scale=scale))
        first, second = (_grain(shape, rng) * np.float32(sigma) for _ in range(2))
        image = np.sqrt((image + first) ** 2 + second**2)
    else:
        image = image + _grain(shape, rng) * np.float32(sigma)
        if rng.random() < 0.08:
            image = image + _streaks(shape, rng) * np.float32(sigma * rng.uniform(0.3, 1.0))
    if rng.random() < 0.3:
        low, high = float(image.min()), float(image.max())
        unit = np.clip((image - low) / max(high - low, 1e-6), 0, 1)
        image = low + (high - low) * unit ** np.float32(np.exp(rng.normal(0, 0.3)))
    if style == "mr" and rng.random() < 0.15:
        image = -image
    gain = np.exp(rng.normal(0, 1)) if style == "mr" else 1.0
    return np.asarray(image * np.float32(gain) + np.float32(rng.normal(0, 30)), dtype=np.float32)


def _level(rng: np.random.Generator) -> float:
    """Noise over contrast, mostly mild."""
    return float(np.exp(rng.uniform(np.log(0.01), np.log(0.25))))


def _grain(shape: Sequence[int], rng: np.random.Generator) -> Array:
    """float32 [D, H, W]: noise of standard deviation 1, white or correlated within slices or everywhere."""
    values = rng.standard_normal(shape, dtype=np.float32)
    kind = rng.random()
    if kind < 0.35:
        return values
    sigma = rng.uniform(0.4, 1.3)
    values = _blurred(values, np.array([sigma * (kind > 0.8), sigma, sigma]))
    return np.asarray(values / (values.std() + 1e-6))


def _streaks(shape: Sequence[int], rng: np.random.Generator) -> Array:
    """float32 [D, H, W]: rings or rays about a place in the slice, as a scanner's."""
    h, w = (np.arange(n, dtype=np.float32) - rng.uniform(-0.3, 1.3) * n for n in shape[1:])
    if rng.random() < 0.5:
        turn = np.sqrt(h[:, None] ** 2 + w**2) * np.float32(rng.uniform(0.5, 2))
    else:
        turn = np.arctan2(h[:, None], w) * np.float32(rng.integers(6, 30))
    fade = smooth((shape[0], 4, 4), rng, scale=3)[:, :1, :1]
    return np.asarray(np.sin(turn + rng.uniform(0, 6)) * (1 + fade), dtype=np.float32)
