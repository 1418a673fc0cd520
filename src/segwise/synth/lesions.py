"""Lesions of three kinds in five levels each, side by side in a block of tissue: what shape and contrast do to a model.

Irregular ones have ever rougher borders, branching ones ever more and thinner branches, vanishing ones ever less
contrast. All are of about the same size, so that a fall along the levels is the shape's.
"""

from __future__ import annotations

import numpy as np

from segwise.geometry import Array, Grid
from segwise.synth.phantom import Painter, Phantom, Tissue
from segwise.synth.shapes import Space, blob, curve, join, noise, tube

LEVELS = range(1, 6)
KINDS = ("irregular", "branching", "vanishing")
CONTRAST_HU = (60.0, 30.0, 15.0, 8.0, 4.0)  # of vanishing lesions, by level; the noise of a scan is 14 HU
TISSUE_HU, LESION_HU = 60.0, 130.0
CELL_MM = 48.0  # a lesion has so much room
RADIUS_MM = 12.0


def lesions(seed: int, *, spacing_mm: float = 2.0) -> Phantom:
    """A block of 240 x 144 x 56 mm with fifteen lesions.

    Args:
        seed: decides shapes, and which lesion lies where.
        spacing_mm: of the fine, isotropic grid.

    Returns:
        Labels with names like "branching lesion level 3"; array axes towards S, P, L.
    """
    rng = np.random.default_rng([seed, 61])
    grid = _grid(spacing_mm)
    space = Space.of(grid, rng, warp_mm=1.0, scale_mm=30)
    paint = Painter(grid)
    paint.paint(blob(space, (0, 0, 0), (119, 71, 400), power=6.0), Tissue(TISSUE_HU, 9, 5))
    cells = [(x, y) for y in (-1, 0, 1) for x in (-2, -1, 0, 1, 2)]
    places = rng.permutation(len(cells))
    for i, (kind, level) in enumerate((kind, level) for kind in KINDS for level in LEVELS):
        x, y = cells[places[i]]
        middle = np.array([x * CELL_MM, y * CELL_MM, 0.0]) + rng.uniform(-3, 3, 3)
        value = TISSUE_HU + CONTRAST_HU[level - 1] if kind == "vanishing" else LESION_HU
        shape = _SHAPES[kind](space, middle, level, rng)
        paint.paint(shape, Tissue(value, 6, 4), name=f"{kind} lesion level {level}")
    return paint.done(Tissue(-1000.0))


def _grid(spacing: float) -> Grid:
    shape = (int(56 / spacing), int(144 / spacing), int(240 / spacing))
    affine = np.diag([0.0, 0.0, 0.0, 1.0])
    affine[2, 0], affine[1, 1], affine[0, 2] = spacing, -spacing, -spacing  # d to S, h to P, w to L
    affine[:3, 3] = [(shape[2] - 1) * spacing / 2, (shape[1] - 1) * spacing / 2, -(shape[0] - 1) * spacing / 2]
    return Grid(shape, affine)


def _irregular(space: Space, middle: Array, level: int, rng: np.random.Generator) -> Array:
    """A ball whose border goes in and out by about 1.2 mm a level, over 8 mm; nothing of it lies far from the ball."""
    field, waves = blob(space, middle, (RADIUS_MM,) * 3), noise(space.grid, rng, scale_mm=8)
    return np.asarray(field + 1.2 * level * np.clip(waves, -1.6, 1.6))


def _branching(space: Space, middle: Array, level: int, rng: np.random.Generator) -> Array:
    """As many arms as the level and one more from one place; the more, the thinner."""
    arms = []
    radius = 8.0 / np.sqrt(level)
    for k in range(level + 1):
        angle = 2 * np.pi * k / (level + 1) + rng.uniform(-0.3, 0.3)
        way = np.array([np.cos(angle), np.sin(angle), rng.uniform(-0.5, 0.5)])
        ends = [middle, middle + way * 9 + rng.normal(0, 2, 3), middle + way * 18 + rng.normal(0, 3, 3)]
        arms.append(tube(space, curve(ends, 6), np.linspace(radius, 0.6 * radius, 6)))
    return join(*arms)


def _vanishing(space: Space, middle: Array, level: int, rng: np.random.Generator) -> Array:
    """A plain ball; its level is in its contrast."""
    return blob(space, middle, RADIUS_MM * rng.uniform(0.9, 1.1, 3))


_SHAPES = {"irregular": _irregular, "branching": _branching, "vanishing": _vanishing}
