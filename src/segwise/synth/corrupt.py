"""Graded damage to a generated scan, in five levels, for stress tests: noise, bias, motion, streaks, missing parts.

Every corruption is a pure function `(scan, level, seed) -> Scan`. Level 1 is what a reader hardly notices, level 5 what
makes a technician repeat the scan. References stay those of the undamaged scan, except where tissue is truly absent.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from segwise.errors import InputError
from segwise.geometry import Array, Volume
from segwise.synth.fields import smooth
from segwise.synth.imaging import Scan

LEVELS = range(1, 6)


def corrupted(scan: Scan, name: str, *, level: int, seed: int) -> Scan:
    """A scan with one corruption.

    Args:
        scan: left as it is.
        name: one of `CORRUPTIONS`.
        level: 1 (mild) to 5 (severe).
        seed: of every draw; the same seed gives the same place and pattern at all levels.

    Raises:
        InputError: an unknown name or level.
    """
    if name not in CORRUPTIONS:
        raise InputError(f'no corruption "{name}", expected one of {", ".join(CORRUPTIONS)}')
    if level not in LEVELS:
        raise InputError(f"level is {level}, expected 1 to 5")
    return CORRUPTIONS[name](scan, level, seed)


def noise(scan: Scan, level: int, seed: int) -> Scan:
    """Additive Gaussian noise (on MR of magnitudes: Rician) of 5 to 80 % of the contrast."""
    rng, image = _begin(scan, seed, 1)
    sigma = _contrast(scan) * 0.025 * 2**level
    if _is_mr(scan):
        real, imaginary = rng.normal(0, sigma, (2, *image.shape))
        return _with(scan, np.sqrt((image + real) ** 2 + imaginary**2))
    return _with(scan, image + rng.normal(0, sigma, image.shape))


def bias(scan: Scan, level: int, seed: int) -> Scan:
    """MR: a smooth factor whose logarithm spreads by 0.12 a level. CT: a smooth shift (cupping) of 25 HU a level."""
    rng, image = _begin(scan, seed, 2)
    scale = [max(4.0, 90 / s) for s in scan.volume.grid.spacing_mm]
    field = level * smooth(image.shape, rng, scale=scale)
    return _with(scan, image * np.exp(0.12 * field) if _is_mr(scan) else image + 25 * field)


def ghosts(scan: Scan, level: int, seed: int) -> Scan:
    """Copies shifted along the rows, as of a chest that moves, with 5 % (CT: 2 %) of the signal a level."""
    rng, image = _begin(scan, seed, 3)
    n = image.shape[1]
    low = image.min()
    step = max(2, int(n * rng.uniform(0.08, 0.25)))
    out = image.copy()
    for i in (1, 2):
        for sign in (-1, 1):
            out += (
                (0.05 if _is_mr(scan) else 0.02)
                * level
                / i
                * (np.roll(image, sign * i * step, axis=1) - low)
                * (1 if i == 1 else -1)
            )
    return _with(scan, out)


def motion(scan: Scan, level: int, seed: int) -> Scan:
    """Slices shifted against each other by up to 2 mm a level, and lines of k-space with wrong phase in between."""
    rng, image = _begin(scan, seed, 4)
    spacing = scan.volume.grid.spacing_mm
    drift = np.cumsum(rng.normal(0, 1, (len(image), 2)), axis=0)
    drift = drift / (np.abs(drift).max() + 1e-6) * 2.0 * level
    h, w = (np.fft.fftfreq(n) for n in image.shape[1:])
    lines = rng.random(image.shape[1]) < 0.06 * level
    out = np.empty_like(image)
    for i, (one, (dh, dw)) in enumerate(zip(image, drift, strict=True)):
        late = np.where(lines, rng.normal(0, 1.5, len(h)), 0.0)
        phase = h[:, None] * (dh / spacing[1] + late[:, None]) + w * dw / spacing[2]
        out[i] = np.fft.ifft2(np.fft.fft2(one) * np.exp(-2j * np.pi * phase)).real
    return _with(scan, out)


def streaks(scan: Scan, level: int, seed: int) -> Scan:
    """Rays from one bright place in a few slices, as metal makes, of 40 % of the contrast a level near it."""
    rng, image = _begin(scan, seed, 5)
    d, h, w = (rng.uniform(0.25, 0.75) * n for n in image.shape)
    spacing = scan.volume.grid.spacing_mm
    z = (np.arange(image.shape[0]) - d)[:, None, None] * spacing[0]
    y = (np.arange(image.shape[1]) - h)[:, None] * spacing[1]
    x = (np.arange(image.shape[2]) - w) * spacing[2]
    far = np.sqrt(x**2 + y**2)
    angle = np.arctan2(y, x)
    rays = sum(np.sin(k * angle + rng.uniform(0, 6)) for k in rng.integers(4, 20, 4)) / 2
    fade = np.exp(-((z / (8 + 4 * level)) ** 2)) / (1 + far / 40)
    metal = (far < 3 + level) & (np.abs(z) < 4 + 2 * level)
    out = image + 0.4 * level * _contrast(scan) * rays * fade
    return _with(scan, np.where(metal, image.max(), out))


def dropout(scan: Scan, level: int, seed: int) -> Scan:
    """Slices lost: 4 % a level are empty (the scan's least value), never two neighbours at levels 1 to 3."""
    rng, image = _begin(scan, seed, 6)
    order = rng.permutation(len(image))
    lost: list[int] = []
    for i in order:
        alone = all(abs(int(i) - other) > 1 for other in lost)
        if len(lost) < max(1, round(0.04 * level * len(image))) and (alone or level > 3):
            lost.append(int(i))
    out = image.copy()
    out[lost] = image.min()
    return _with(scan, out)


def cut_view(scan: Scan, level: int, seed: int) -> Scan:
    """A smaller field of view: 8 % a level is cut away along each axis, at random ends; labels are cut alike."""
    rng, image = _begin(scan, seed, 7)
    low, high = [], []
    for n in image.shape:
        away = min(n - 1, round(0.08 * level * n))
        first = round(away * rng.random())
        low.append(first)
        high.append(n - (away - first))
    part = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    grid = scan.volume.grid.crop(low, high)
    volume = Volume.of(scan.volume.array[(slice(None), *part)], grid, scan.volume.channels)
    return Scan(volume, scan.labels[part], _kept(scan.labels[part], scan.names))


def missing(scan: Scan, level: int, seed: int) -> Scan:
    """Organs that are not there: as many as the level says, filled like what surrounds them, and without reference."""
    rng, image = _begin(scan, seed, 8)
    ids = sorted(i for i in scan.names if (scan.labels == i).any())
    gone = rng.permutation(ids)[: min(level, len(ids) - 1)]
    out, labels = image.copy(), scan.labels.copy()
    for label in gone:
        _erase(out, labels, scan.labels == label, image, scan.labels == 0, rng)
    kept = _with(scan, out)
    return Scan(kept.volume, labels, _kept(labels, scan.names))


def without(scan: Scan, name: str, seed: int) -> Scan:
    """One organ that is not there, filled like what surrounds it; the scan as it is where it has none of that name."""
    rng, image = _begin(scan, seed, 9)
    out, labels = image.copy(), scan.labels.copy()
    for label in (i for i, own in scan.names.items() if own == name):
        _erase(out, labels, scan.labels == label, image, scan.labels == 0, rng)
    kept = _with(scan, out)
    return Scan(kept.volume, labels, _kept(labels, scan.names))


def _erase(out: Array, labels: Array, mask: Array, image: Array, free: Array, rng: np.random.Generator) -> None:
    """Fill what a mask covers with values from its rim (else from what is free), and drop its label; in place."""
    rim = _beside(mask) & (labels == 0)
    values = np.sort(image[rim] if rim.any() else image[free])
    values = values[len(values) // 4 : len(values) * 3 // 4 + 1]
    out[mask] = rng.choice(values, int(mask.sum())) if len(values) else image.min()
    labels[mask] = 0


CORRUPTIONS: dict[str, Callable[[Scan, int, int], Scan]] = {
    "noise": noise,
    "bias": bias,
    "ghosts": ghosts,
    "motion": motion,
    "streaks": streaks,
    "dropout": dropout,
    "cut-view": cut_view,
    "missing": missing,
}


def _begin(scan: Scan, seed: int, salt: int) -> tuple[np.random.Generator, Array]:
    return np.random.default_rng([seed, 31, salt]), scan.volume.array[0].astype(np.float64)


def _contrast(scan: Scan) -> float:
    """Between soft tissues: 150 HU, or from the 30th to the 95th percentile of an MR."""
    if not _is_mr(scan):
        return 150.0
    low, high = np.percentile(scan.volume.array, (30, 95))
    return float(max(high - low, 1.0))


def _is_mr(scan: Scan) -> bool:
    return scan.volume.channels[0].modality != "CT"


def _kept(labels: Array, names: dict[int, str]) -> dict[int, str]:
    there = set(np.unique(labels).tolist())
    return {i: name for i, name in names.items() if i in there}


def _beside(mask: Array) -> Array:
    """What touches a mask along an axis but is not in it."""
    near = np.zeros_like(mask)
    for axis in range(3):
        moved = np.moveaxis(mask, axis, 0)
        out = np.moveaxis(near, axis, 0)
        out[1:] |= moved[:-1]
        out[:-1] |= moved[1:]
    return np.asarray(near & ~mask)


def _with(scan: Scan, image: Array) -> Scan:
    """The scan with another image, in its own dtype and range."""
    dtype = scan.volume.array.dtype
    low = 0 if _is_mr(scan) else -1024
    if np.issubdtype(dtype, np.integer):
        image = np.clip(np.rint(image), np.iinfo(dtype).min, np.iinfo(dtype).max)
    values = np.maximum(image, low).astype(dtype)
    return Scan(Volume.of(values, scan.volume.grid, scan.volume.channels), scan.labels, scan.names)
