"""A thigh: the shaft of a bone, muscles packed around it, vessels, fat, and at times a sarcoma among them."""

from __future__ import annotations

import numpy as np

from segwise.geometry import Array
from segwise.synth.pelvis import sarcoma
from segwise.synth.phantom import Tissue
from segwise.synth.skeleton import MUSCLE, wall
from segwise.synth.stage import BONE, FAT, Stage
from segwise.synth.worlds import World

_MUSCLES = (  # angle from the front in degrees, distance from the bone, half width, half depth, at which height
    ("rectus femoris", 0, 42, 24, 13, 10),
    ("vastus lateralis", 62, 36, 30, 18, 0),
    ("vastus medialis", -58, 34, 26, 18, -40),
    ("vastus intermedius", 8, 21, 27, 12, -10),
    ("sartorius", -52, 56, 16, 8, 30),
    ("gracilis", -112, 58, 10, 12, 20),
    ("adductor magnus", -140, 38, 26, 22, 40),
    ("adductor longus", -95, 36, 20, 14, 60),
    ("biceps femoris", 150, 46, 20, 19, -20),
    ("semitendinosus", 182, 54, 17, 13, -10),
    ("semimembranosus", -160, 44, 19, 15, -40),
)


def thigh(seed: int, *, spacing_mm: float = 2.0) -> World:
    """The thigh of one imaginary person.

    Args:
        seed: decides the person: fat, size of the muscles, a sarcoma (three in four have one).
        spacing_mm: of the isotropic grid.

    Returns:
        About 190 x 190 x 260 mm on a HU scale, with up to 20 targets.
    """
    stage = Stage.of((190, 190, 260), seed, 24, spacing_mm=spacing_mm, warp_mm=3.0)
    rng = stage.rng
    fat, side = rng.uniform(4, 22), rng.choice((-1, 1))
    bulk = rng.uniform(0.85, 1.1)
    wall(stage, np.array((86, 86, 900)) * rng.uniform(0.9, 1.05), fat_mm=fat, muscle_mm=1.5, power=2.1)
    muscle = stage.like(MUSCLE)
    every = list(_MUSCLES)
    rng.shuffle(every)
    for name, degrees, far, wide, deep, height in every:
        angle = np.radians(degrees) * side
        at = np.array([np.sin(angle) * far, np.cos(angle) * far, height]) * (bulk, bulk, 1) + rng.normal(0, 2, 3)
        radii = np.array([wide, deep, rng.uniform(110, 200)]) * (bulk, bulk, 1) * rng.uniform(0.9, 1.12, 3)
        patch = stage.egg(
            at, radii, tilt=(rng.normal(0, 4), rng.normal(0, 4), -np.degrees(angle)), power=2.6, rough=0.12
        )
        stage.put(stage.grown(patch, rng.uniform(0.3, 1.4)), FAT)
        stage.put(patch, stage.like(muscle, by=3), name)
    _inside(stage, int(side), bulk)
    if rng.random() < 0.75:
        turn, away = rng.uniform(0, 2 * np.pi), rng.uniform(20, 60)
        sarcoma(stage, np.array([np.sin(turn) * away, np.cos(turn) * away, rng.uniform(-80, 80)]))
    return stage.done()


def _inside(stage: Stage, side: int, bulk: float) -> None:
    """Bone with marrow fat, artery, vein, nerve."""
    rng = stage.rng
    path = np.array([(0, 4, 134), (0, 6, 0), (0, -2, -134)]) + rng.normal(0, 2, (3, 3))
    shaft = stage.pipe(path, rng.uniform(12, 16) * np.array([1.1, 1, 1.25]))
    marrow = Tissue(rng.uniform(-80, 60), 20, 4)
    stage.cored(shaft, "femur", rim_mm=rng.uniform(4, 7), rim=Tissue(1200, 60, 3), core=marrow)
    course: Array = np.array([(-30, 34, 134), (-34, 10, 30), (-20, -18, -60), (-6, -34, -134)]) * (side, 1, 1)
    for name, shift, wide, value in (("vein", -7, 5.5, 60.0), ("artery", 0, 4.0, 120.0)):
        vessel = stage.pipe(course * (bulk, bulk, 1) + (shift, shift, 0), wide)
        stage.put(stage.grown(vessel, 1.5), FAT)
        stage.put(vessel, Tissue(value + rng.normal(0, 40), 6), f"femoral {name}")
    nerve = stage.pipe(np.array([(6, -40, 134), (4, -34, 0), (0, -36, -134)]), 4.5, flat=((0, 1, 0), 1.6))
    stage.put(nerve, Tissue(20, 10), "sciatic nerve")
    if rng.random() < 0.4:
        knee = stage.egg((0, 0, -134), (38, 30, 34), power=2.4, rough=0.08)
        stage.cored(knee, "femur condyles", rim_mm=2, rim=BONE, core=stage.like(marrow))
