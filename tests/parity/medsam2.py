"""MedSAM2: its script's outputs, from our frame and memory lift."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch

from parity.harness import Fixture, Near
from parity.sam2 import BFLOAT, UNUSED, lone, remembered, rounded, tracked
from segwise.geometry import Channel, Grid, Volume
from segwise.lifts.memory import Memory, Track
from segwise.models import medsam2
from segwise.prompt import Box, Prompt
from segwise.segmenter import Ask, State
from segwise.store import FeatureStore

__all__ = ["UNUSED", "outputs"]


def case(fixture: Fixture) -> tuple[Volume, Prompt]:
    """The volume in HU on a grid of 1 mm, slices to the head, and the box on its key slice."""
    values = fixture.io["in.volume_hu"]
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = 1, -1, -1, 1
    grid = Grid(values.shape, affine)
    place = int(fixture.io["in.key_slice"])
    x0, y0, x1, y1 = (int(corner) for corner in fixture.io["in.box"])
    return Volume.of(values[None], grid, (Channel("CT"),)), Prompt(
        (Box.of(grid, (place, y0, x0), (place + 1, y1 + 1, x1 + 1)),)
    )


def loaded(fixture: Fixture, **changes: Any) -> Memory:
    """Our model with the fixture's checkpoint and window."""
    low, high = (float(edge) for edge in fixture.io["in.window"])
    model = medsam2.load(checkpoint=str(fixture.folder), level=(low + high) / 2, width=high - low, **changes)
    assert isinstance(model, Memory)
    return model


@torch.no_grad()
def outputs(fixture: Fixture) -> dict[str, Any]:
    """Every stored output."""
    model = loaded(fixture, largest=False)
    volume, prompt = case(fixture)
    store = FeatureStore()
    state = model.encode(volume, store=store)
    place = int(fixture.io["in.key_slice"])
    (track,) = model.tracks(state, Ask(prompt))
    model.follow(state, [track])
    (union,) = model.segment(state, [Ask(prompt)])
    (largest,) = loaded(fixture, largest=True).segment(state, [Ask(prompt)])
    found: dict[str, Any] = {
        "out.uint8": state.volume.array[0],
        "out.model_input_key": model.frame.view(state.volume, model.window(state, place))[:, 0],
        "out.key_obj_ptr": track.found[place].pointer,
        "out.key_object_score": lone(track.found[place].presence[:, None], scores(fixture)),
        "out.key_maskmem": rounded(remembered(model, state, track.found[place], place, given=True)),
        "out.union_mask": union.mask(volume.grid),
        "out.largest_component": largest.mask(volume.grid),
    }
    for way in "FR":
        found[f"out.{way}_prompt_logits"] = model.shown(state, track.found[place], place)[None]
        found |= passed(fixture, way, model, state, track)
    return found


def scores(fixture: Fixture, way: str = "[FR]") -> list[np.ndarray]:
    """The object scores of the slices of a direction, or of both."""
    return [fixture.io[key] for key in fixture.outs if re.match(rf"out\.{way}_object_score_", key)]


def passed(fixture: Fixture, way: str, model: Memory, state: State, track: Track) -> dict[str, Any]:
    """What one direction answered and remembered, slice by slice."""
    found: dict[str, Any] = {}
    for place, decoded in track.found.items():
        if fixture.has(f"out.{way}_logits_{place}"):
            found[f"out.{way}_logits_{place}"] = tracked(model.shown(state, decoded, place)[0])
        if fixture.has(f"out.{way}_obj_ptr_{place}"):
            kept = remembered(model, state, decoded, place, given=False)
            found |= {
                f"out.{way}_obj_ptr_{place}": tracked(decoded.pointer),
                f"out.{way}_object_score_{place}": tracked(decoded.presence[:, None], among=scores(fixture, way)),
                f"out.{way}_maskmem_mean_{place}": Near(kept.mean(dim=(2, 3)), 2e-2, BFLOAT),
            }
    return found
