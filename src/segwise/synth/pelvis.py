"""A pelvis: hip bones, gluteal muscles, bladder, prostate or uterus, bowel, iliac vessels, at times a sarcoma."""

from __future__ import annotations

import numpy as np

from segwise.geometry import Array
from segwise.synth.abdomen import filled
from segwise.synth.phantom import Tissue
from segwise.synth.room import Patch, joined
from segwise.synth.skeleton import MUSCLE, column, mass, pair, wall
from segwise.synth.stage import BONE, MARROW, SIDES, Stage
from segwise.synth.worlds import World


def pelvis(seed: int, *, spacing_mm: float = 2.5) -> World:
    """The pelvis of one imaginary person.

    Args:
        seed: decides the person: size, fat, sex, a sarcoma.
        spacing_mm: of the isotropic grid.

    Returns:
        About 350 x 240 x 240 mm on a HU scale, with up to some 45 targets.
    """
    stage = Stage.of((352, 242, 240), seed, 23, spacing_mm=spacing_mm, warp_mm=2.4)
    rng = stage.rng
    fat = rng.uniform(8, 28)
    wall(stage, (172, 114, 900), fat_mm=fat, muscle_mm=rng.uniform(3, 7))
    _muscles(stage)
    z = np.array([116.0, 84, 52])
    spine = np.stack([0 * z, -44 + 6 * np.sin(z / 50), z], axis=1)
    column(stage, spine, ["vertebra L3", "vertebra L4", "vertebra L5"], wide_mm=22, cord=False)
    _bowel(stage)
    _vessels(stage)
    _bones(stage)
    _organs(stage)
    if rng.random() < 0.5:
        sarcoma(
            stage, np.array([rng.choice((-1, 1)) * rng.uniform(60, 110), rng.uniform(-60, 30), rng.uniform(-100, 40)])
        )
    return stage.done()


def sarcoma(stage: Stage, at: Array, *, size_mm: float | None = None) -> None:
    """A large mass of uneven tissue within muscle, perhaps with oedema around that is not part of it."""
    rng = stage.rng
    size = float(np.exp(rng.uniform(np.log(28), np.log(130)))) if size_mm is None else size_mm
    if rng.random() < 0.4:
        around = stage.egg(at, size * rng.uniform(0.45, 0.65, 3), rough=0.25)
        stage.put(around, stage.like(Tissue(35, 10, 6)))
    mass(stage, "sarcoma", at, size, Tissue(MUSCLE.value + rng.normal(-10, 22), 14, 6), ragged=0.15)


def _muscles(stage: Stage) -> None:
    muscle = stage.like(MUSCLE)
    pair(stage, "gluteus maximus", (88, -76, -34), (54, 24, 84), muscle, tilt=(0, 28, -34))
    pair(stage, "gluteus medius", (110, -18, 22), (26, 46, 62), muscle, tilt=(0, 14, -24))
    pair(stage, "gluteus minimus", (98, 4, 8), (16, 36, 42), muscle, tilt=(0, 18, -30))
    pair(stage, "iliopsoas", (64, 12, 44), (24, 24, 86), muscle, tilt=(14, -18, 0))
    pair(stage, "iliacus", (84, -4, 60), (18, 34, 44), muscle, tilt=(0, 20, -36))
    pair(stage, "rectus abdominis", (30, 88, 40), (28, 8, 120), muscle)
    pair(stage, "back muscle", (34, -82, 70), (28, 18, 84), muscle)
    pair(stage, "obturator", (52, -6, -62), (10, 30, 30), muscle, tilt=(0, 0, -20))
    pair(stage, "adductor", (54, 20, -108), (26, 34, 40), muscle)
    pair(stage, "quadriceps", (104, 46, -104), (32, 34, 50), muscle)
    pair(stage, "tensor fasciae latae", (126, 44, -30), (12, 22, 58), muscle)
    pair(stage, "hamstring", (80, -50, -112), (30, 26, 44), muscle)


def _bones(stage: Stage) -> None:
    rng = stage.rng
    rim, core = stage.like(BONE, by=60), stage.like(MARROW, by=50)
    sacrum = joined(
        stage.room,
        [
            stage.egg((0, -62, 26), (52, 20, 24), power=2.5),
            stage.egg((0, -80, -10), (34, 14, 34), tilt=(-22, 0, 0), power=2.3),
            stage.pipe([(0, -90, -34), (0, -82, -58), (0, -70, -70)], [9, 5]),
        ],
        soft=8 / stage.spacing_mm,
    )
    stage.cored(sacrum, "sacrum", rim_mm=1.8, rim=rim, core=core)
    for side, word in SIDES:
        cup = np.array((side * 88, 2, -46)) + rng.normal(0, 2, 3)
        stage.cored(_hip(stage, side, cup), f"{word} hip", rim_mm=1.8, rim=rim, core=core)
        stage.put(stage.egg(cup, (27, 27, 27)), Tissue(60, 8))
        neck = np.stack([cup, cup + (side * 32, -8, -18), cup + (side * 40, -10, -40), cup + (side * 34, -4, -84)])
        femur = joined(
            stage.room,
            [
                stage.egg(cup, (23, 23, 23)),
                stage.pipe(neck, [15, 17, 20, 16]),
                stage.egg(neck[1] + (side * 8, -6, 2), (14, 17, 20)),
            ],
            soft=6 / stage.spacing_mm,
        )
        stage.cored(femur, f"{word} femur", rim_mm=rng.uniform(2, 5), rim=rim, core=core)


def _hip(stage: Stage, side: int, cup: Array) -> Patch:
    """Wing, socket, the two branches around the hole, and the seat bone."""
    wing = stage.egg((side * 92, -26, 42), (9, 58, 62), tilt=(0, side * 20, -side * 38), power=2.4, rough=0.1)
    socket = stage.egg(cup, (33, 33, 33))
    front = np.array([cup + (-side * 26, 10, 6), (side * 40, 44, -52), (side * 6, 54, -66)])
    low = np.array([(side * 6, 52, -70), (side * 34, 24, -98), (side * 58, -24, -100)])
    seat = np.array([cup + (-side * 12, -26, -10), (side * 64, -40, -76), (side * 60, -30, -102)])
    parts = [wing, socket, stage.pipe(front, [13, 8, 10]), stage.pipe(low, [8, 7, 12]), stage.pipe(seat, [16, 14, 15])]
    return joined(stage.room, parts, soft=6 / stage.spacing_mm)


def _organs(stage: Stage) -> None:
    rng = stage.rng
    soft = stage.like(MUSCLE)
    fill = rng.uniform(0.6, 1.35)
    bladder = stage.egg((rng.normal(0, 4), 28, -42 + 14 * fill), np.array((36, 28, 30)) * fill, power=2.2, rough=0.06)
    rim = stage.put(bladder, soft, "bladder", target=False)
    urine = Tissue(float(rng.choice((4.0, 10.0, 250.0))), 5, 7)
    inner = stage.put(stage.grown(bladder, -rng.uniform(1.5, 5)), urine, "bladder", only=(rim,), target=False)
    stage.union("bladder", rim, inner)
    rectum = [
        (0, -52, -100),
        (0, -48, -60),
        (4, -56, -20),
        (-10, -48, 12),
        (-40, -20, 30),
        (-82, 10, 60),
        (-96, 6, 118),
    ]
    gut = stage.pipe(np.array(rectum) + rng.normal(0, 4, (7, 3)), rng.uniform(13, 20), n=20)
    filled(stage, gut, "rectum and sigmoid", soft, rim_mm=rng.uniform(3, 6), level_mm=rng.uniform(-50, 0))
    if rng.random() < 0.5:
        gland = stage.egg((0, 4, -84), np.array((24, 18, 20)) * rng.uniform(0.85, 1.5), rough=0.06)
        zone = stage.egg((0, 9, -82), np.array((14, 11, 15)) * rng.uniform(0.7, 1.3), rough=0.1)
        whole = stage.put(gland, Tissue(48, 8, 4), "prostate", target=False)
        inside = stage.put(zone, Tissue(rng.uniform(45, 80), 16, 4), "prostate transition zone", only=(whole,))
        stage.union("prostate", whole, inside)
        pair(stage, "seminal vesicle", (16, -16, -62), (16, 7, 7), Tissue(35, 12, 4), tilt=(0, -20, 10))
    else:
        place = np.array((rng.normal(0, 6), -10, -34 + 18 * fill))
        body = joined(
            stage.room,
            [stage.egg(place, (27, 24, 34), tilt=(-30, 0, 0)), stage.egg((0, -18, -72), (17, 15, 20))],
            soft=4,
        )
        whole = stage.put(body, Tissue(rng.uniform(60, 120), 12, 5), "uterus", target=False)
        lining = stage.egg(place, (9, 5, 18), tilt=(-30, 0, 0))
        stage.union("uterus", whole, stage.put(lining, Tissue(rng.uniform(20, 90), 8), "uterus", only=(whole,)))
        pair(stage, "ovary", (48, -12, -10), (14, 10, 16), Tissue(30, 16, 4))


def _vessels(stage: Stage) -> None:
    rng = stage.rng
    blood, venous = Tissue(rng.uniform(40, 300), 8), Tissue(rng.uniform(40, 180), 8)
    for tissue, name, wide, shift in ((venous, "vein", 8.0, (5, -8, -4)), (blood, "artery", 6.0, (0, 0, 0))):
        for side, word in SIDES:
            path = np.array(
                [
                    (side * 6, -18, 92),
                    (side * 34, -10, 44),
                    (side * 62, 20, -10),
                    (side * 70, 52, -60),
                    (side * 74, 50, -118),
                ]
            )
            outer = stage.pipe(
                path + np.array(shift) * (side, 1, 1) + rng.normal(0, 2, (5, 3)), [wide, wide * 0.8], n=16
            )
            stage.put(outer, tissue, f"{word} iliac {name}")
            inner = np.array([(side * 34, -10, 44), (side * 44, -36, 10), (side * 46, -40, -40)]) + np.array(shift)
            stage.put(stage.pipe(inner, [wide * 0.6, 2]), tissue)
    trunk = [(-8, -18, 122), (0, -18, 88)]
    stage.put(stage.pipe(trunk, rng.uniform(7, 10), n=4), blood, "aorta")
    stage.put(stage.pipe(np.array(trunk) + (26, -4, 0), rng.uniform(8, 11), n=4), venous, "inferior vena cava")


def _bowel(stage: Stage) -> None:
    rng, parts = stage.rng, []
    soft = stage.like(MUSCLE)
    for _ in range(int(rng.integers(5, 12))):
        at = np.array((rng.uniform(-60, 60), rng.uniform(0, 66), rng.uniform(-10, 110)))
        loop = stage.pipe(at + rng.normal(0, 18, (5, 3)).cumsum(axis=0) * 0.7, rng.uniform(8, 14), n=12)
        rim = stage.put(loop, stage.like(soft), "small bowel", target=False)
        content = Tissue(float(rng.choice((-850.0, 18.0, 45.0, 70.0, 220.0))), 18)
        inner = stage.grown(loop, -rng.uniform(2, 6))
        parts += [rim, stage.put(inner, content, "small bowel", only=(rim,), target=False)]
    stage.union("small bowel", *parts)
    cecum = stage.pipe([(86, 22, 30), (98, 16, 70), (98, 4, 118)], rng.uniform(18, 26))
    filled(stage, cecum, "colon", soft, rim_mm=2.6, level_mm=rng.uniform(0, 40))
