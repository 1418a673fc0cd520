"""The model that ships with Segwise, from nothing, on generated worlds and phantoms."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from segwise import assemble
from segwise.segmenter import Learned
from segwise.synth.regions import region
from segwise.synth.worlds import world
from segwise.training import halves
from segwise.training.contract import Recipe, Settings
from segwise.training.interactive import Interactive
from segwise.training.regions import Make, Regions, held

STEPS = 3_000
BATCH = 8
BODY = {  # how often a region of the body is drawn beside a world
    "abdomen": 0.26,
    "thorax": 0.24,
    "pelvis": 0.14,
    "brain": 0.14,
    "neck": 0.10,
    "thigh": 0.06,
    "torso": 0.03,
    "head": 0.03,
}


def recipe(*, seed: int = 0, steps: int | None = None) -> Recipe:
    """The training of `default`.

    Args:
        seed: of the net's start and of everything generated.
        steps: optimiser steps of the whole schedule; None: those of the shipped weights.
    """
    model = assemble.build(f"default(untrained={seed})").segmenter
    assert isinstance(model, Learned)
    net, frame = model.parts.net, model.parts.frame
    shown: Any = frame  # the frame of this model looks at regions: `RegionFrame`
    families: tuple[tuple[Make, float], ...] = (
        (world, 1.0),
        *((functools.partial(region, name), share) for name, share in BODY.items()),
    )
    stream = Regions(shown, families, size=BATCH, seed=seed)
    user = assemble.prompter("cvpr2025(n=99)")
    checks = held(Regions(shown, families, size=2, seed=seed, held=True), 32)
    settings = Settings(steps=STEPS if steps is None else steps, rate=1.5e-3, warmup=100, validate_every=60, seed=seed)
    return Recipe(
        name="default",
        objective=Interactive(net, frame, user, held=checks),
        stream=stream,
        settings=settings,
        save=save,
        note="trained on generated volumes only",
    )


def save(out: Path, net: nn.Module, known: Mapping[str, Any]) -> list[Path]:
    """The weights as half precision in `default.safetensors`, with what is known of the run in its header."""
    return halves.save(out / "default.safetensors", net, known)
