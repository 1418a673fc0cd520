"""Scans of bodies that nobody has, with names for what is in them, whole, cut, and with structures left out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from segwise.geometry import Array, Grid, Volume
from segwise.synth.abdomen import abdomen
from segwise.synth.absent import without
from segwise.synth.imaging import Scan, ct, mr
from segwise.synth.phantom import Phantom, Tissue
from segwise.synth.thorax import thorax
from segwise.synth.worlds import World

FIRST = 100_000  # seeds of the persons begin here; what is tested has smaller ones
NAMES = (
    "liver", "spleen", "pancreas", "stomach", "gallbladder", "left kidney", "right kidney", "left lung", "right lung",
    "aorta", "inferior vena cava", "spinal cord",
)  # fmt: skip
WHOLE = ("spinal cord",)  # a body without it is none
AIR = -900.0  # dark in every contrast
CUT = 0.6  # how often only some slices are shown


KNOTS = (-1000, -850, -100, 10, 55, 100, 180, 280, 430)  # HU; tissues lie between them, also in other contrasts


@dataclass(frozen=True)
class Body:
    """A kind of body.

    Attributes:
        make: (seed, spacing_mm=) -> what `synth` makes.
        share: of the scans.
    """

    make: Callable[..., World]
    share: float

    def phantom(self, seed: int, **given: float) -> Phantom:
        """One person, whose labels have the names that are asked for, the smallest structure first, and no others."""
        return named(self.make(seed, **given))


BODIES: Mapping[str, Body] = {"abdomen": Body(abdomen, 0.75), "thorax": Body(thorax, 0.25)}
SPACING_MM = (3.4, 4.4)  # finest and coarsest grid that they are made on


def named(world: World) -> Phantom:
    """A world as a phantom that names these structures only; where they overlap, the one with fewer labels."""
    found: dict[int, str] = {}
    for name, ids in sorted(world.targets, key=lambda target: -len(target[1])):
        found |= dict.fromkeys(ids, name) if name in NAMES else {}
    return replace(world.phantom, names=found)


@functools.lru_cache(maxsize=2048)
def scan(number: int) -> tuple[str, Scan]:
    """The scan of a number: which body it is of, and the scan; the same every time."""
    rng = np.random.default_rng([number, 7])
    kind = str(rng.choice(list(BODIES), p=[body.share for body in BODIES.values()]))
    body = BODIES[kind]
    phantom = body.phantom(FIRST + number, spacing_mm=float(rng.uniform(*SPACING_MM)))
    if rng.random() < 0.75:
        may = [name for name in NAMES if name not in WHOLE]
        phantom = without(phantom, set(rng.choice(may, size=rng.integers(1, 6), replace=False)))
    mapped = rng.random() < 0.25
    phantom = replace(phantom, tissues=_tissues(phantom.tissues, rng, mapped=mapped))
    spacing = (float(rng.uniform(3.0, 6.0)), 4.0, 4.0)
    if not mapped:
        return kind, ct(phantom, number, spacing_mm=spacing, noise_hu=float(rng.uniform(4, 18)))
    bias, snr = float(rng.uniform(0.05, 0.25)), float(rng.uniform(15, 50))
    return kind, mr(phantom, number, spacing_mm=spacing, snr=snr, bias=bias)


def _tissues(tissues: Mapping[int, Tissue], rng: np.random.Generator, *, mapped: bool) -> dict[int, Tissue]:
    """Every tissue a little brighter or darker; mapped: in a contrast of its own on an MR scale."""
    heights = rng.uniform(90, 900, len(KNOTS) if mapped else 0)
    found = {}
    for label, tissue in tissues.items():
        value = tissue.value * rng.uniform(0.9, 1.1) + rng.normal(0, 6)
        texture = tissue.texture
        if mapped:
            dark = tissue.value <= AIR
            grey = rng.uniform(2, 15) if dark else float(np.interp(tissue.value, KNOTS, heights))
            value = grey * rng.uniform(0.93, 1.07)
            texture = min(texture, 0.12 * value)
        found[label] = Tissue(value, texture, tissue.grain_mm)
    return found


def varied(found: Scan, rng: np.random.Generator, *, cut: float = CUT) -> tuple[Volume, Array]:
    """The scan of a person of other proportions, perhaps of a part of them only.

    Args:
        found: the scan.
        rng: every draw.
        cut: how often some slices are missing.

    Returns:
        The volume, and the labels on its grid.
    """
    array, labels, affine = found.volume.array, found.labels, found.volume.grid.affine.copy()
    scale = rng.uniform(0.92, 1.08) * rng.uniform(0.92, 1.08, 3)
    affine[:3, :3] = np.diag(scale) @ affine[:3, :3]
    low, high = np.zeros(3, int), np.array(labels.shape)
    for axis, chance, least in ((0, cut, 0.45), (1, 0.1, 0.7), (2, 0.15, 0.6)):
        if rng.random() < chance:
            size = int(labels.shape[axis] * rng.uniform(least, 0.98))
            low[axis] = rng.integers(0, labels.shape[axis] - size + 1)
            high[axis] = low[axis] + size
    grid = Grid(labels.shape, affine).crop(low.tolist(), high.tolist())
    part = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    values: Array = array[(slice(None), *part)].astype(np.float32)
    if found.volume.channels[0].modality == "MR":
        top = float(np.percentile(values, 99.5)) or 1.0
        values = top * np.clip(values / top, 0, 4) ** rng.uniform(0.75, 1.3)
    else:
        values = values + rng.normal(0, rng.uniform(0, 10), values.shape)
    return Volume.of(values.astype(np.float32), grid, found.volume.channels), labels[part]
