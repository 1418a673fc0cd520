"""A head from the base of the brain to the crown, on a T1-weighted MR scale."""

from __future__ import annotations

import numpy as np

from segwise.geometry import Array, Grid
from segwise.synth.phantom import Painter, Phantom, Tissue
from segwise.synth.shapes import Space, blob, curve, cut, join, noise, tube

_DEEP = {  # (left side's centre is mirrored), radii, value
    "thalamus": ((11, -16, 6), (9, 14, 9), 560),
    "putamen": ((26, 4, 2), (6.5, 15, 10), 520),
    "pallidum": ((19, 0, 0), (4.5, 9, 7), 640),
    "hippocampus": ((27, -20, -16), (7, 19, 6.5), 505),
    "amygdala": ((23, 3, -17), (7.5, 8, 7.5), 500),
}


def head(seed: int, *, spacing_mm: float = 1.25) -> Phantom:
    """The head of one imaginary person.

    Args:
        seed: decides the person: size, folding, ventricles, whether there is a tumor.
        spacing_mm: of the fine, isotropic grid.

    Returns:
        Labels on a fine grid of about 176 x 214 x 144 mm; array axes towards S, P, L.
    """
    rng = np.random.default_rng([seed, 2])
    size = rng.uniform(0.94, 1.06)
    grid = _grid(176 * size, 214 * size, 144 * size, spacing_mm)
    space = Space.of(grid, rng, warp_mm=1.7, scale_mm=26)
    space = Space((space.xyz / np.float32(size)).astype(np.float32), grid)
    paint = Painter(grid)
    brain = _skull(paint, space, rng)
    white = _hemispheres(paint, space, rng, brain)
    _below(paint, space)
    _deep(paint, space, rng)
    if rng.random() < 0.5:
        _tumor(paint, space, rng, white)
    return paint.done(Tissue(6.0, 0))


def _grid(width: float, depth: float, height: float, spacing: float) -> Grid:
    shape = (int(height / spacing), int(depth / spacing), int(width / spacing))
    affine = np.diag([0.0, 0.0, 0.0, 1.0])
    affine[2, 0], affine[1, 1], affine[0, 2] = spacing, -spacing, -spacing
    affine[:3, 3] = [
        (shape[2] - 1) * spacing / 2,
        (shape[1] - 1) * spacing / 2 - 14,
        -(shape[0] - 1) * spacing / 2 + 12,
    ]
    return Grid(shape, affine)


def _skull(paint: Painter, space: Space, rng: np.random.Generator) -> Array:
    outer = blob(space, (0, -14, 2), (80, 98, 84), power=2.15)
    neck = blob(space, (0, -26, -90), (52, 58, 60), power=2.4)
    scalp = join(outer, neck, soft_mm=16)
    paint.paint(scalp, Tissue(720, 60, 7))
    paint.paint(scalp + 5, Tissue(380, 50, 5))
    paint.paint(outer + 8, Tissue(110, 25, 4))  # bone
    paint.paint(outer + 10.5, Tissue(430, 90, 5))  # marrow
    paint.paint(outer + 12.5, Tissue(90, 15, 4))
    inner = outer + 15.0
    paint.paint(inner, Tissue(175, 20, 8))  # fluid around the brain
    return np.asarray(inner + rng.uniform(1.5, 4.0))


def _hemispheres(paint: Painter, space: Space, rng: np.random.Generator, brain: Array) -> Array:
    folds = noise(space.grid, rng, scale_mm=13) + 0.6 * noise(space.grid, rng, scale_mm=8)
    cleft = np.abs(space.xyz[0]) - 1.6
    cerebrum = np.maximum(brain + np.maximum(0, np.abs(folds) * -2.2 + 2.4), -cleft)
    floor = -22 - space.xyz[2] - np.maximum(0, space.xyz[1] + 22) * 0.15
    temporal = join(*(blob(space, (s * 44, 2, -26), (24, 42, 21)) for s in (-1, 1)))
    cerebrum = np.maximum(cerebrum, np.minimum(floor, temporal))
    white = cerebrum + 7.5 + 5.5 * np.clip(folds, -1.3, 1.3)
    white = join(white, blob(space, (0, -8, 14), (40, 58, 20)), soft_mm=6)
    sides = {"left": np.where(space.xyz[0] < 0, -1.0, 1.0), "right": np.where(space.xyz[0] >= 0, -1.0, 1.0)}
    for side, half in sides.items():
        paint.paint(cerebrum, Tissue(500, 22, 4), name=f"{side} cerebral cortex", within=half)
    inside = np.maximum(white, cerebrum + 2.2)
    for side, half in sides.items():
        paint.paint(inside, Tissue(735, 18, 6), name=f"{side} cerebral white matter", within=half)
    return np.asarray(inside)


def _below(paint: Painter, space: Space) -> None:
    lobes = join(*(blob(space, (s * 24, -62, -40), (29, 27, 23), power=2.2) for s in (-1, 1)), soft_mm=8)
    leaves = np.sin(space.xyz[2] * 1.1 + np.abs(space.xyz[0]) * 0.12) * 2.6
    for side, half in (
        ("left", np.where(space.xyz[0] < 0, -1.0, 1.0)),
        ("right", np.where(space.xyz[0] >= 0, -1.0, 1.0)),
    ):
        paint.paint(lobes, Tissue(520, 25, 4), name=f"{side} cerebellar cortex", within=half)
        paint.paint(lobes + 6.5 + leaves, Tissue(700, 20, 4), name=f"{side} cerebellar white matter", within=half)
    stem = tube(space, curve([(0, -16, -8), (0, -18, -30), (0, -26, -52), (0, -32, -90)], 9), np.linspace(16, 9, 9))
    paint.paint(stem, Tissue(690, 16, 5), name="brain stem")
    paint.paint(blob(space, (0, -37, -32), (8, 6, 12)), Tissue(180, 12, 6), name="fourth ventricle")


def _deep(paint: Painter, space: Space, rng: np.random.Generator) -> None:
    wide = rng.uniform(0.75, 1.7)
    for side, sign in (("left", -1), ("right", 1)):
        for name, (centre, size, value) in _DEEP.items():
            place = np.array(centre) * (sign, 1, 1) + rng.normal(0, 0.9, 3)
            shape = blob(space, place, np.array(size) * rng.uniform(0.9, 1.12), tilt=(0, 0, sign * 12), power=2.2)
            paint.paint(shape, Tissue(value, 18, 4), name=f"{side} {name}")
        horn = curve([(7, 30, 8), (9, 12, 16), (11, -16, 20), (17, -42, 12), (27, -32, -8)], 14) * (sign, 1, 1)
        radii = np.array([2.5, 5, 6.5, 6.5, 6, 5.5, 5.5, 6, 7, 7.5, 7, 5, 3.5, 2.2]) * wide
        caudate = curve([(13, 26, 4), (15, 12, 14), (17, -10, 20), (20, -26, 16)], 9) * (sign, 1, 1)
        tail = tube(space, caudate, [7.5, 7.5, 6.5, 5.5, 5, 4.2, 3.6, 3, 2.4])
        paint.paint(tail, Tissue(505, 16, 4), name=f"{side} caudate")
        paint.paint(tube(space, horn, radii), Tissue(165, 12, 8), name=f"{side} lateral ventricle")
    paint.paint(blob(space, (0, -8, 2), (2.6 * wide, 14, 11)), Tissue(170, 12, 6), name="third ventricle")


def _tumor(paint: Painter, space: Space, rng: np.random.Generator, white: Array) -> None:
    side = rng.choice((-1, 1))
    centre = np.array((side * rng.uniform(30, 44), rng.uniform(-42, 26), rng.uniform(10, 36)))
    lumps = [blob(space, centre + rng.normal(0, 7, 3), rng.uniform(9, 17, 3)) for _ in range(3)]
    mass = join(*lumps, soft_mm=6)
    oedema = cut(np.maximum(mass - rng.uniform(5, 10), white - 2), mass)
    paint.paint(oedema, Tissue(430, 30, 7))
    paint.paint(mass, Tissue(860, 60, 5), name="brain tumor")
    label = len(paint.tissues) + 1
    paint.tissues[label] = Tissue(290, 40, 6)
    paint.labels[mass < -5] = label
    paint.names[label] = "brain tumor"
