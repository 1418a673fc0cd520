"""A neck: cervical spine with cord and canal, airway, gullet, vessels, glands and muscles."""

from __future__ import annotations

import numpy as np

from segwise.synth.phantom import Tissue
from segwise.synth.skeleton import MUSCLE, column, mass, pair, wall
from segwise.synth.stage import BONE, MARROW, SIDES, Stage
from segwise.synth.worlds import World


def neck(seed: int, *, spacing_mm: float = 1.8) -> World:
    """The neck of one imaginary person.

    Args:
        seed: decides the person: size, curve of the spine, contrast, an enlarged node or two.
        spacing_mm: of the isotropic grid.

    Returns:
        About 170 x 180 x 170 mm on a HU scale, with up to 45 targets.
    """
    stage = Stage.of((172, 180, 170), seed, 25, spacing_mm=spacing_mm)
    rng = stage.rng
    wall(stage, np.array((74, 82, 900)) * rng.uniform(0.88, 1.1), fat_mm=rng.uniform(2, 10), muscle_mm=2, power=2.2)
    _muscles(stage)
    n = 10
    z = np.linspace(84, -84, n)
    bow = -14 + rng.uniform(-2, 10) * np.cos(z / 55) + 0.08 * z * rng.uniform(-1, 1)
    names = [*(f"vertebra C{i}" for i in range(1, 8)), *(f"vertebra T{i}" for i in range(1, 4))]
    column(stage, np.stack([0 * z + rng.normal(0, 1), bow, z], axis=1), names, wide_mm=11.5)
    _front(stage)
    _vessels(stage)
    return stage.done()


def _muscles(stage: Stage) -> None:
    muscle = stage.like(MUSCLE)
    pair(stage, "trapezius", (30, -68, -20), (38, 6, 90), muscle, tilt=(0, 0, 16))
    pair(stage, "splenius", (22, -54, 0), (20, 10, 90), muscle, tilt=(0, 0, 20))
    pair(stage, "semispinalis", (15, -44, 0), (13, 12, 100), muscle)
    pair(stage, "levator scapulae", (42, -34, -10), (10, 12, 80), muscle)
    pair(stage, "scalene", (30, -6, -40), (11, 11, 50), muscle)
    pair(stage, "sternocleidomastoid", (44, 8, 0), (11, 17, 110), muscle, tilt=(16, 10, 0))
    pair(stage, "longus colli", (9, 4, 0), (6, 4, 90), muscle, rim_mm=0.3)


def _front(stage: Stage) -> None:
    rng = stage.rng
    gullet = stage.pipe([(0, 10, 30), (-3, 10, -40), (-5, 6, -90)], rng.uniform(5, 7), flat=((0, 1, 0), 1.5))
    stage.put(gullet, Tissue(50, 10), "esophagus")
    airway = stage.pipe([(0, 14, 90), (0, 20, 40), (0, 30, 10), (0, 24, -40), (0, 16, -90)], [10, 9, 8, 9, 9], n=14)
    ring = stage.put(stage.grown(airway, 2.2), Tissue(rng.uniform(80, 250), 40, 3), "larynx", target=False)
    stage.put(airway, Tissue(-985, 10), "airway")
    gristle = stage.egg((0, 36, 12), (19, 15, 16), power=2.2)
    body = stage.put(gristle, Tissue(rng.uniform(90, 260), 50, 3), "larynx", target=False)
    stage.union("larynx", body, ring)
    stage.put(stage.egg((0, 28, 12), (7, 12, 20)), Tissue(-985, 10))
    pair(stage, "thyroid lobe", (17, 22, -36), (9, 12, 24), Tissue(rng.uniform(90, 220), 8, 4), rim_mm=0.4)
    pair(stage, "submandibular gland", (32, 40, 54), (11, 16, 14), Tissue(rng.uniform(20, 90), 12, 4))
    pair(stage, "parotid gland", (56, -4, 76), (12, 18, 24), Tissue(rng.uniform(-40, 60), 18, 4))
    jaw = stage.pipe(
        [(52, 4, 84), (44, 34, 74), (22, 62, 66), (0, 70, 64), (-22, 62, 66), (-44, 34, 74), (-52, 4, 84)],
        6,
        flat=((0, 0, 1), 0.6),
        n=20,
    )
    stage.cored(jaw, "mandible", rim_mm=2.2, rim=BONE, core=MARROW)
    tongue = stage.egg((0, 38, 80), (24, 30, 22), rough=0.1)
    stage.put(tongue, stage.like(MUSCLE), "tongue")


def _vessels(stage: Stage) -> None:
    rng = stage.rng
    blood, venous = Tissue(rng.uniform(40, 320), 8), Tissue(rng.uniform(40, 220), 8)
    for side, word in SIDES:
        course = np.array(
            [(side * 22, 10, -90), (side * 28, 10, -20), (side * 30, 8, 30), (side * 32, 0, 90)]
        ) + rng.normal(0, 2, (4, 3))
        stage.put(stage.pipe(course, [4.2, 3.5]), blood, f"{word} common carotid artery")
        wide = rng.uniform(4, 8)
        stage.put(stage.pipe(course + (side * 10, 0, 0), [wide, wide * 0.8]), venous, f"{word} internal jugular vein")
        stage.put(stage.pipe([(side * 17, -12, -90), (side * 16, -13, 80)], 1.9), blood, f"{word} vertebral artery")
        for _ in range(int(rng.integers(0, 4))):
            at = course[int(rng.integers(0, 4))] + (side * rng.uniform(6, 18), rng.uniform(-14, 10), rng.normal(0, 12))
            if rng.random() < 0.3:
                mass(stage, "neck tumor", at, rng.uniform(12, 40), Tissue(rng.uniform(40, 110), 14, 4))
            else:
                node = stage.egg(at, rng.uniform(3, 9, 3), rough=0.1)
                stage.put(node, Tissue(rng.uniform(40, 100), 8), "lymph node")
