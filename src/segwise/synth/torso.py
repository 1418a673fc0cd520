"""A torso from the dome of the liver to the kidneys, on a CT scale."""

from __future__ import annotations

import numpy as np

from segwise.geometry import Array, Grid
from segwise.synth.phantom import Painter, Phantom, Tissue
from segwise.synth.shapes import Space, blob, curve, cut, join, tube

HEIGHT_MM = 132.0
CAVITY = Tissue(-98, 16, 12)  # fat around the organs


def torso(seed: int, *, spacing_mm: float = 1.8) -> Phantom:
    """A torso of one imaginary person.

    Args:
        seed: decides the person: size, fat, place and shape of every organ, whether there is a gallbladder or a lesion.
        spacing_mm: of the fine, isotropic grid.

    Returns:
        Labels on a fine grid of about 350 x 260 x 132 mm; array axes towards S, P, L.
    """
    rng = np.random.default_rng([seed, 1])
    size = rng.uniform(0.92, 1.08)
    grid = _grid(350 * size, 262 * size, spacing_mm)
    space = Space.of(grid, rng, warp_mm=2.6, scale_mm=34)
    space = Space((space.xyz / np.float32(size)).astype(np.float32), grid)
    paint = Painter(grid)
    body = _wall(paint, space, rng)
    _spine_and_ribs(paint, space, rng, body)
    _organs(paint, space, rng)
    _vessels(paint, space, rng)
    return paint.done(Tissue(-1000.0))


def _grid(width: float, depth: float, spacing: float) -> Grid:
    shape = (int(HEIGHT_MM / spacing), int(depth / spacing), int(width / spacing))
    affine = np.diag([0.0, 0.0, 0.0, 1.0])
    affine[2, 0], affine[1, 1], affine[0, 2] = spacing, -spacing, -spacing  # d to S, h to P, w to L
    affine[:3, 3] = [(shape[2] - 1) * spacing / 2, (shape[1] - 1) * spacing / 2, -(shape[0] - 1) * spacing / 2]
    return Grid(shape, affine)


def _wall(paint: Painter, space: Space, rng: np.random.Generator) -> Array:
    fat = rng.uniform(8, 24)
    outer = blob(space, (0, 0, 0), (160, 112, 400), power=2.4)
    muscle = blob(space, (0, 2, 0), (160 - fat, 112 - fat * 0.8, 400), power=2.4)
    inner = blob(space, (0, 8, 0), (146 - fat, 92 - fat * 0.8, 400), power=2.3)
    paint.paint(outer, Tissue(-104, 9, 9))  # subcutaneous fat
    paint.paint(muscle, Tissue(54, 11, 5))
    paint.paint(inner, CAVITY)
    for side in (-1, 1):  # back muscles
        back = blob(space, (side * 34, -74 + fat * 0.5, 0), (27, 19, 400), power=2.6)
        paint.paint(back, Tissue(58, 13, 4), within=outer)
    return inner


def _spine_and_ribs(paint: Painter, space: Space, rng: np.random.Generator, body: Array) -> None:
    base = -54 + rng.uniform(-3, 3)
    z = space.xyz[2] + rng.uniform(-12, 12)
    disc = np.abs((z / 31) % 1 - 0.5) > 0.41
    column = blob(space, (0, base, 0), (21, 17, 400), power=2.5)
    column = column + np.where(disc, 1.6, 0.0).astype(np.float32)
    paint.paint(column, Tissue(175, 32, 4))
    paint.labels[(column < 0) & disc] = 0
    paint.paint(np.where(disc, column, 9.0), Tissue(88, 10, 5))
    paint.paint(cut(column, column + 2.2), Tissue(420, 60, 3), within=np.where(disc, 9.0, -1.0))
    arch = join(blob(space, (0, base - 26, 0), (15, 13, 400)), blob(space, (0, base - 39, 0), (4, 14, 400)), soft_mm=6)
    paint.paint(arch, Tissue(330, 55, 3))
    paint.paint(blob(space, (0, base - 25, 0), (8.5, 7.5, 400)), Tissue(32, 6, 5), name="spinal cord")
    shell = np.abs(body + 5.5) - 4.0
    slope = space.xyz[1] * 0.33 + np.abs(space.xyz[0]) * 0.12
    rib = np.abs(((space.xyz[2] + slope + rng.uniform(0, 27)) / 27) % 1 - 0.5) * 27 - 5.0
    paint.paint(np.maximum(shell, rib), Tissue(290, 60, 3), within=np.where(space.xyz[2] > -34, -1.0, 1.0))


def _organs(paint: Painter, space: Space, rng: np.random.Generator) -> None:
    def jitter(mm: float) -> Array:
        return rng.normal(0, mm, 3)

    for _ in range(9):  # loops of bowel, some with gas
        at = np.array((rng.uniform(-80, 70), rng.uniform(14, 62), rng.uniform(-90, -30)))
        loop = curve(at + rng.normal(0, 17, (4, 3)).cumsum(axis=0) * 0.8, 9)
        bowel = tube(space, loop, rng.uniform(9, 15) * np.ones(9))
        paint.paint(bowel, Tissue(48, 14, 5))
        paint.labels[bowel + rng.uniform(2.5, 9) < 0] = _like(paint, float(rng.choice((-850.0, 18.0, 70.0))), 18)
    lungs = [blob(space, np.array((side * 74, -8, 86)) + jitter(3), (58, 70, 62), power=2.2) for side in (-1, 1)]
    for side, lung in zip(("left", "right"), lungs, strict=True):
        paint.paint(lung, Tissue(-840, 45, 5), name=f"{side} lung")
    dome = np.array((78, 8, 12)) + jitter(4)
    liver = join(
        blob(space, dome, (64 * rng.uniform(0.92, 1.08), 66, 56), power=2.3),
        blob(space, dome + (-62, 26, 10), (56, 32, 24 * rng.uniform(0.8, 1.2)), tilt=(0, 12, 0)),
        soft_mm=14,
    )
    liver = cut(liver, lungs[1] - 2)
    liver_tissue = Tissue(rng.uniform(82, 122), 9, 4)
    paint.paint(liver, liver_tissue, name="liver")
    for _ in range(3):  # vessels of the liver
        start = dome + jitter(8) + (-34, 4, -6)
        path = curve([start, start + jitter(10) + (30, 4, 12), start + jitter(16) + (68, 6, 22)], 7)
        paint.labels[(tube(space, path, np.linspace(4.6, 1.6, 7)) < 0) & (liver < -2)] = _like(paint, 168, 8)
    if rng.random() < 0.5:
        lesion = blob(space, dome + jitter(13), rng.uniform(9, 19, 3))
        paint.paint(lesion, Tissue(rng.uniform(38, 64), 8, 4), name="liver tumor", within=liver)
    spleen = cut(
        blob(space, np.array((-104, -28, 26)) + jitter(4), (24, 44, 40 * rng.uniform(0.85, 1.2)), tilt=(0, 0, -24)),
        blob(space, np.array((-74, -12, 22)), (24, 28, 40)),
    )
    paint.paint(cut(spleen, lungs[0] - 2), Tissue(rng.uniform(104, 134), 9, 4), name="spleen")
    _stomach(paint, space, rng)
    for side, sign in (("left", -1), ("right", 1)):
        _kidney(paint, space, rng, side, np.array((sign * 66, -48, -32 + (8 if sign < 0 else -4))) + jitter(5))
    if rng.random() < 0.75:
        gall = blob(space, dome + (-30, 40, -42) + jitter(4), (13, 15, 22), tilt=(24, 0, 0))
        paint.paint(gall, Tissue(9, 5, 6), name="gallbladder")
    pancreas = curve([(-58, 4, 4), (-26, 16, -4), (4, 14, -10), (24, 8, -24)] + rng.normal(0, 3, (4, 3)), 12)
    paint.paint(tube(space, pancreas, [7, 8, 8, 9, 9, 8, 9, 10, 11, 12, 12, 10]), Tissue(82, 17, 5), name="pancreas")


def _like(paint: Painter, value: float, texture: float) -> int:
    label = len(paint.tissues) + 1
    paint.tissues[label] = Tissue(value, texture)
    return label


def _stomach(paint: Painter, space: Space, rng: np.random.Generator) -> None:
    path = curve(
        [(-66, 6, 52), (-64, 26, 22), (-48, 48, -8), (-14, 56, -18), (16, 46, -16)] + rng.normal(0, 4, (5, 3)), 12
    )
    radii = np.array([23, 27, 30, 30, 28, 25, 22, 19, 16, 14, 12, 10]) * rng.uniform(0.8, 1.12)
    stomach = tube(space, path, radii)
    paint.paint(stomach, Tissue(52, 12, 5), name="stomach")
    inside = stomach + 3.5
    fluid, gas = Tissue(rng.uniform(8, 34), 14, 7), Tissue(-960, 8, 6)
    level = float(path[3, 1]) + rng.uniform(2, 16)
    for tissue, part in ((fluid, inside), (gas, np.maximum(inside, level - space.xyz[1]))):
        label = _like(paint, tissue.value, tissue.texture)
        paint.labels[part < 0] = label
        paint.names[label] = "stomach"


def _kidney(paint: Painter, space: Space, rng: np.random.Generator, side: str, centre: Array) -> None:
    sign = -1 if side == "left" else 1
    bean = cut(
        blob(space, centre, (27, 26, 50 * rng.uniform(0.88, 1.12)), tilt=(0, sign * 10, sign * 14)),
        blob(space, centre + (-sign * 28, 8, 0), (17, 15, 20)),
    )
    paint.paint(bean + 0.0, Tissue(rng.uniform(168, 205), 14, 4), name=f"{side} kidney")
    medulla = np.maximum(bean + 7, -np.cos(space.xyz[2] * 0.32) * 4)
    label = _like(paint, rng.uniform(118, 150), 12)
    paint.labels[(medulla < 0)] = label
    paint.names[label] = f"{side} kidney"
    paint.paint(blob(space, centre + (-sign * 20, 5, 0), (12, 8, 18)), Tissue(-70, 14, 5))


def _vessels(paint: Painter, space: Space, rng: np.random.Generator) -> None:
    zs = np.linspace(-90, 90, 7)
    sway = rng.normal(0, 2.5, (7, 2)).cumsum(axis=0) * 0.5
    aorta = np.stack([-13 + sway[:, 0], -25 + sway[:, 1], zs], axis=1)
    cava = np.stack([22 + sway[::-1, 0], -20 + sway[::-1, 1], zs], axis=1)
    bright = rng.uniform(165, 280)
    paint.paint(tube(space, curve(aorta, 13), [11.5] * 13), Tissue(bright, 8, 5), name="aorta")
    paint.paint(tube(space, curve(cava, 13), [12.5] * 13), Tissue(bright * 0.75, 10, 5), name="inferior vena cava")
