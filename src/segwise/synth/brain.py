"""A brain within its skull, with folds, deep nuclei and ventricles, and in most people a tumor with oedema.

`head` is the demonstration's and stays as it is; this one is quicker, and its tumors have all the parts real ones have.
"""

from __future__ import annotations

import numpy as np

from segwise.geometry import Array
from segwise.synth.phantom import Tissue
from segwise.synth.room import Patch, joined
from segwise.synth.stage import SIDES, Stage
from segwise.synth.worlds import World

_DEEP = {  # right side's centre, half axes, value
    "thalamus": ((11, -16, 6), (9, 14, 9), 560),
    "putamen": ((26, 4, 2), (6.5, 15, 10), 520),
    "pallidum": ((19, 0, 0), (4.5, 9, 7), 640),
    "hippocampus": ((27, -20, -16), (7, 19, 6.5), 505),
    "amygdala": ((23, 3, -17), (7.5, 8, 7.5), 500),
}
_FLUID = Tissue(170, 12, 8)


def brain(seed: int, *, spacing_mm: float = 2.0) -> World:
    """The head of one imaginary person.

    Args:
        seed: decides the person: size, folding, ventricles, a tumor (two in three have one).
        spacing_mm: of the isotropic grid.

    Returns:
        About 170 x 205 x 150 mm on a T1-weighted MR scale, with up to some 40 targets.
    """
    stage = Stage.of((172, 208, 150), seed, 26, spacing_mm=spacing_mm)
    rng = stage.rng
    size = rng.uniform(0.92, 1.06)
    skull = stage.egg((0, 0, -8), np.array((80, 98, 84)) * size, power=2.15)
    _skull(stage, skull)
    inner = stage.grown(skull, -12)
    white = _cerebrum(stage, inner)
    _below(stage, size)
    _deep(stage, size)
    if rng.random() < 0.67:
        side = float(rng.choice((-1, 1)))
        at = np.array((side * rng.uniform(16, 46), rng.uniform(-50, 44), rng.uniform(-20, 44))) * size
        _tumor(stage, at, float(np.exp(rng.uniform(np.log(14), np.log(70)))), white)
    return stage.done()


def _skull(stage: Stage, skull: Patch) -> None:
    """Scalp with fat, bone with marrow, fluid; the bare brain in one person of five, as after skull stripping."""
    rng = stage.rng
    if rng.random() < 0.2:
        return
    layers = [(0.0, 720.0), (3, 380), (6, 110), (7.5, 430), (9.5, 90), (11, 175)]
    thick = rng.uniform(0.8, 1.15)
    labels = [stage.put(stage.grown(skull, -depth * thick), Tissue(value, 25, 5)) for depth, value in layers]
    for label in labels[2:5]:
        stage.room.names[label] = "skull"
    stage.union("skull", *labels[2:5])


def _cerebrum(stage: Stage, inner: Patch) -> tuple[int, ...]:
    """Cortex and white matter of both halves; returns the labels of white matter."""
    rng, mm = stage.rng, stage.spacing_mm
    x, y, z = (stage.coordinate(inner, i) for i in range(3))
    folds = stage.room.rough(inner.where, 0) + 0.3 * stage.room.rough(inner.where, 1)
    field = inner.field * mm
    thick, deep = rng.uniform(2.2, 3.6), rng.uniform(6, 16)
    furrow = np.maximum(np.abs(folds) * 4.5 * mm / 2 - rng.uniform(0.4, 1.6), -field - deep)  # a sheet of fluid
    floor = -30 - z - np.maximum(0, y + 12) * 0.15
    temporal = np.minimum(((np.abs(x) - 44) / 24) ** 2 + ((y - 14) / 42) ** 2 + ((z + 34) / 24) ** 2 - 1, 1) * 20
    bounds = np.maximum(np.maximum(field, 1.4 - np.abs(x)), np.minimum(floor, temporal))
    surface = np.maximum(bounds, -furrow)
    core = np.maximum(bounds + thick, thick - furrow)
    stem = ((x / 42) ** 2 + ((y - 4) / 60) ** 2 + ((z - 8) / 22) ** 2 - 1) * 15
    core = np.minimum(core, np.maximum(stem, surface + 1.5))
    white = []
    for side, word in SIDES:
        half = -side * x
        grey = stage.put(Patch(inner.where, np.maximum(surface, half)), Tissue(500, 22, 4), f"{word} cerebral cortex")
        inside = Patch(inner.where, np.maximum(core, half))
        white.append(stage.put(inside, Tissue(735, 18, 6), f"{word} cerebral white matter"))
        stage.union(f"{word} cerebrum", grey, white[-1])
    return tuple(white)


def _below(stage: Stage, size: float) -> None:
    rng = stage.rng
    lobes = [
        stage.egg(np.array((s * 23, -40, -52)) * size, np.array((29, 27, 23)) * size, rough=0.05) for s, _ in SIDES
    ]
    patch = joined(stage.room, lobes, soft=8 / stage.spacing_mm)
    x, z = stage.coordinate(patch, 0), stage.coordinate(patch, 2)
    leaves = np.sin(z * 1.1 + np.abs(x) * 0.12) * 2.6
    every = []
    for side, word in SIDES:
        half = -side * x
        outer = stage.put(stage.both(patch, half), Tissue(520, 25, 4), f"{word} cerebellar cortex")
        inner = Patch(patch.where, np.maximum(patch.field + (6.5 + leaves) / stage.spacing_mm, half))
        every += [outer, stage.put(inner, Tissue(700, 20, 4), f"{word} cerebellar white matter")]
    stage.union("cerebellum", *every)
    stem = np.array([(0, -2, -14), (0, -4, -38), (0, -12, -60), (0, -18, -98)]) * size
    stage.put(stage.pipe(stem, np.array([16, 14, 11, 8]) * rng.uniform(0.9, 1.1)), Tissue(690, 16, 5), "brain stem")
    stage.put(stage.egg((0, -24 * size, -42 * size), (8, 6, 12)), _FLUID, "fourth ventricle")


def _deep(stage: Stage, size: float) -> None:
    rng, up = stage.rng, np.array((0, 14, -6))
    wide = rng.uniform(0.7, 1.8)
    for side, word in SIDES:
        mirror = np.array((side, 1, 1)) * size
        for name, (centre, radii, value) in _DEEP.items():
            place = (np.array(centre) + up) * mirror + rng.normal(0, 0.9, 3)
            shape = stage.egg(place, np.array(radii) * size * rng.uniform(0.9, 1.12), tilt=(0, 0, side * 12), power=2.2)
            stage.put(shape, Tissue(value, 18, 4), f"{word} {name}")
        tail = (np.array([(13, 26, 4), (15, 12, 14), (17, -10, 20), (20, -26, 16)]) + up) * mirror
        stage.put(stage.pipe(tail, [7.5, 6, 4.2, 2.4]), Tissue(505, 16, 4), f"{word} caudate")
        horn = np.array([(7, 30, 8), (9, 12, 16), (11, -16, 20), (17, -42, 12), (27, -32, -8)]) + up
        bore = np.array([2.5, 6.5, 6, 5.5, 7, 7, 5, 2.2]) * wide
        stage.put(stage.pipe(horn * mirror, bore, n=14), _FLUID, f"{word} lateral ventricle")
        sinus = stage.egg((side * 30 * size, -70 * size, -20), (28, 4, 4), tilt=(0, 0, side * 24))
        stage.put(sinus, Tissue(float(rng.choice((60, 700))), 10), f"{word} transverse sinus")
    stage.put(stage.egg(np.array((0, -8, 2)) + up, (2.6 * wide, 14, 11)), _FLUID, "third ventricle")


def _tumor(stage: Stage, at: Array, size_mm: float, white: tuple[int, ...]) -> None:
    """Oedema along white matter, a core, an enhancing rim, a dead centre; targets: all of it, the core, the rim."""
    rng, room, mm = stage.rng, stage.room, stage.spacing_mm
    lobes = [
        stage.egg(at + rng.normal(0, size_mm * 0.15, 3), size_mm * rng.uniform(0.22, 0.42, 3), rough=0.2)
        for _ in range(int(rng.integers(1, 5)))
    ]
    core = joined(room, lobes, soft=size_mm * 0.12 / mm)
    reach = size_mm * rng.uniform(0.1, 0.45)
    around = stage.egg(at, [size_mm * 0.5 + reach] * 3, rough=0.3)
    swollen = Tissue(rng.uniform(380, 640), 30, 7)
    inside_skull = tuple(i for i, name in room.names.items() if name != "skull")
    only = white if rng.random() < 0.6 else inside_skull
    whole = [stage.put(around, swollen, "brain tumor", only=only, target=False)] if rng.random() < 0.75 else []
    solid = stage.put(
        core, Tissue(rng.uniform(300, 620), 40, 5), "brain tumor", only=(*inside_skull, *whole), target=False
    )
    inside = [solid]
    if rng.random() < 0.65:
        thick = size_mm * rng.uniform(0.05, 0.2) / mm
        uneven = core.field + thick * (0.4 + 0.8 * room.rough(core.where, 0))
        rim = Patch(core.where, np.maximum(core.field, -uneven - thick))
        bright = stage.put(rim, Tissue(rng.uniform(780, 1000), 60, 4), "brain tumor", only=inside, target=False)
        dead = Patch(core.where, uneven + thick)
        inside += [
            bright,
            stage.put(dead, Tissue(rng.uniform(190, 420), 35, 5), "brain tumor", only=(solid, bright), target=False),
        ]
        stage.union("enhancing tumor", bright)
    stage.union("tumor core", *inside)
    stage.union("brain tumor", *whole, *inside)
