"""Every region of the body that can be generated, by name, as a `World`."""

from __future__ import annotations

from collections.abc import Callable

from segwise.errors import InputError
from segwise.synth.abdomen import abdomen
from segwise.synth.brain import brain
from segwise.synth.head import head
from segwise.synth.limb import thigh
from segwise.synth.neck import neck
from segwise.synth.pelvis import pelvis
from segwise.synth.stage import as_world
from segwise.synth.thorax import thorax
from segwise.synth.torso import torso
from segwise.synth.worlds import World

REGIONS: dict[str, Callable[[int], World]] = {
    "abdomen": abdomen,
    "brain": brain,
    "head": lambda seed: as_world(head(seed, spacing_mm=2.0)),
    "neck": neck,
    "pelvis": pelvis,
    "thigh": thigh,
    "thorax": thorax,
    "torso": lambda seed: as_world(torso(seed, spacing_mm=3.0)),
}


def region(name: str, seed: int) -> World:
    """One person's region at the grid it is usually made on (1.8 to 3 mm).

    Args:
        name: one of `REGIONS`.
        seed: decides the person.

    Raises:
        InputError: no such region.
    """
    if name not in REGIONS:
        raise InputError(f'no region "{name}", expected one of {", ".join(REGIONS)}')
    return REGIONS[name](seed)
