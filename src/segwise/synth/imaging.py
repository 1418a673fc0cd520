"""From a phantom to a scan: tissue intensities and texture, point spread, thick slices, bias field, noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from segwise.geometry import Array, Channel, Grid, Volume, regrid
from segwise.synth.phantom import Phantom
from segwise.synth.shapes import noise


@dataclass(frozen=True, eq=False)
class Scan:
    """A generated scan with its reference.

    Attributes:
        volume: [1, D, H, W] int16.
        labels: uint8 [D, H, W], 0 = background.
        names: label id -> common structure name.
        anatomy: what is rare in this person, in words; "" where nothing is.
    """

    volume: Volume
    labels: Array
    names: dict[int, str]
    anatomy: str = ""


def ct(phantom: Phantom, seed: int, *, spacing_mm: Sequence[float], noise_hu: float = 14.0) -> Scan:
    """A CT: HU, correlated noise that grows with attenuation, thick slices with partial volume.

    Args:
        phantom: on a HU scale.
        seed: of texture and noise.
        spacing_mm: (d, h, w) of the scan; d is the slice thickness.
        noise_hu: standard deviation of the noise in soft tissue.
    """
    rng = np.random.default_rng([seed, 3])
    fine = _tissue(phantom, rng)
    grid, image = _sliced(fine, phantom.grid, spacing_mm, blur_mm=0.8)
    grain = ndimage.gaussian_filter(rng.standard_normal(grid.shape), (0, 0.8, 0.8))
    inside = np.clip((image + 1000) / 1050, 0.2, 1.6)
    image = image + grain / grain.std() * noise_hu * inside
    return _scan(phantom, grid, np.clip(image, -1024, 3071), "CT")


def mr(phantom: Phantom, seed: int, *, spacing_mm: Sequence[float], snr: float = 26.0, bias: float = 0.18) -> Scan:
    """An MR scan: arbitrary units, a smooth multiplicative bias field, Rician noise, thick slices.

    Args:
        phantom: on an arbitrary scale.
        seed: of texture, bias field, gain and noise.
        spacing_mm: (d, h, w) of the scan.
        snr: mean of tissue over the standard deviation of the noise.
        bias: standard deviation of the logarithm of the bias field.

    Source: Gudbjartsson and Patz, 1995, doi:10.1002/mrm.1910340618 (the Rician distribution of MR magnitudes).
    """
    rng = np.random.default_rng([seed, 4])
    fine = _tissue(phantom, rng)
    grid, image = _sliced(fine, phantom.grid, spacing_mm, blur_mm=0.6)
    image = image * np.exp(bias * noise(grid, rng, scale_mm=110))
    sigma = float(image[image > 50].mean()) / snr
    real, imaginary = rng.normal(0, sigma, (2, *grid.shape))
    image = np.sqrt((image + real) ** 2 + imaginary**2) * rng.uniform(0.4, 1.6)
    return _scan(phantom, grid, np.clip(image, 0, 32767), "MR")


def _tissue(phantom: Phantom, rng: np.random.Generator) -> Array:
    """float32 [D, H, W]: tissue values with their textures on the fine grid."""
    ids = sorted(phantom.tissues)
    table = np.zeros((max(ids) + 1, 3), dtype=np.float32)
    for i in ids:
        tissue = phantom.tissues[i]
        table[i] = tissue.value, tissue.texture, tissue.grain_mm
    image = table[phantom.labels, 0]
    strength = table[phantom.labels, 1]
    coarse = table[phantom.labels, 2] > 4.5
    textures = [noise(phantom.grid, rng, scale_mm=scale) for scale in (4.0, 8.0)]
    return np.asarray(image + strength * np.where(coarse, textures[1], textures[0]))


def _sliced(fine: Array, grid: Grid, spacing_mm: Sequence[float], *, blur_mm: float) -> tuple[Grid, Array]:
    """The scan's grid and its values: point spread in the slice, a box profile of the slice's thickness across."""
    shape = [max(1, round(n * s / t)) for n, s, t in zip(grid.shape, grid.spacing_mm, spacing_mm, strict=True)]
    coarse = grid.canonical(grid.axes, spacing_mm=spacing_mm, shape=shape)
    out = fine
    for axis, (fine_mm, wide_mm) in enumerate(zip(grid.spacing_mm, spacing_mm, strict=True)):
        out = ndimage.gaussian_filter1d(out, blur_mm / fine_mm, axis=axis, mode="nearest")
        if wide_mm > 1.5 * fine_mm:
            out = ndimage.uniform_filter1d(out, max(1, round(wide_mm / fine_mm)), axis=axis, mode="nearest")
    return coarse, regrid(out.astype(np.float32), grid, coarse, order=1, outside=float(fine.min()))


def _scan(phantom: Phantom, grid: Grid, image: Array, modality: str) -> Scan:
    names = sorted(set(phantom.names.values()))
    ids = {name: i + 1 for i, name in enumerate(names)}
    table = np.zeros(max(phantom.tissues) + 1, dtype=np.uint8)
    for label, name in phantom.names.items():
        table[label] = ids[name]
    labels = regrid(table[phantom.labels], phantom.grid, grid, order=0, outside=0)
    kept = {i: name for name, i in ids.items() if (labels == i).any()}
    volume = Volume.of(np.rint(image).astype(np.int16), grid, (Channel(modality),))
    return Scan(volume, labels, kept)
