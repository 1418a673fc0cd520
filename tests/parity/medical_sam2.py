"""Medical SAM 2: its 2D validation loop, from our frame, net and self-sorting lift, with the stored draws replayed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from parity.harness import Fixture
from parity.sam2 import UNUSED as SAM2_UNUSED
from parity.sam2 import film, places, rounded
from segwise.geometry import Array
from segwise.lifts.sorted_memory import SortedMemory, Step
from segwise.models import medical_sam2
from segwise.nets.sam2_memory import sine_places
from segwise.prompt import Points, Prompt
from segwise.segmenter import Ask, State
from segwise.store import FeatureStore

EVERY = 5  # the original takes prompts on each fifth step
UNUSED: dict[str, str] = SAM2_UNUSED | {
    r"^maskmem_tpos_enc$": "the 2D mode of Medical SAM 2 gives memories no time",
    r"^no_mem_embed$": "an empty bank adds zeros",
    r"^(obj_ptr_proj\.|no_obj_ptr$|mask_downsample\.)": "the 2D mode has no object pointers and takes no masks",
}


class Replay:
    """Draws as they were stored: one row an image, one table a step."""

    def __init__(self, draws: Array) -> None:
        self.rows = iter(draws.reshape(-1, draws.shape[-1]))

    def __call__(self, shares: Array) -> Sequence[int]:
        """The next image's."""
        return [place for place in next(self.rows).tolist() if place >= 0]


@torch.no_grad()
def outputs(fixture: Fixture) -> dict[str, Any]:
    """Every stored output."""
    found: dict[str, Any] = {}
    for run, n, batch in (("b1", "in.n1", 1), ("bN", "in.nB", int(fixture.io["in.B"]))):
        found |= one_run(fixture, run, int(fixture.io[n]), batch)
    return found


def loaded(fixture: Fixture, **changes: Any) -> SortedMemory:
    """Our model with the fixture's checkpoint, as the original runs."""
    model = medical_sam2.load(checkpoint=str(fixture.folder), **{"every": EVERY, **changes})
    assert isinstance(model, SortedMemory)
    return model


def clicks(fixture: Fixture, state: State, side: int) -> Prompt:
    """One click on each image of a stack, in mm."""
    shape = state.grid.shape
    xy = fixture.io["in.points"][: shape[0]].astype(np.float64) * np.array([shape[2], shape[1]]) / side
    index = places(xy)
    index[:, 0] = np.arange(shape[0])
    return Prompt((Points(state.grid.mm(index), fixture.io["in.labels"][: shape[0]] == 1),))


def one_run(fixture: Fixture, run: str, n: int, batch: int) -> dict[str, Any]:
    """The first n images in batches, with one fresh bank."""
    model = loaded(fixture, batch=batch, recalled=batch)
    volume = film(fixture.io["in.images"][:n])
    state = State(volume, volume.grid, FeatureStore())
    ask = Ask(clicks(fixture, state, model.frame.shape[1]))
    (track,) = model.tracks(state, ask)
    steps = list(model.steps(state, track, Replay(fixture.io[f"in.{run}_draws"])))
    answers = [answer for step in steps for answer in step.answers]
    decoded = [answer.decoded for answer in answers]
    images = torch.stack([answer.entry.tree["image"][0].view(-1, *grid(answer)) for answer in answers])
    found = {
        f"out.{run}_low_res_logits": torch.cat([d.logits[:, :, 0] for d in decoded]),
        f"out.{run}_iou": torch.cat([d.quality for d in decoded]),
        f"out.{run}_object_score": torch.cat([d.presence for d in decoded])[:, None],
        f"out.{run}_image_embed_first4": images[:, :4],
        f"out.{run}_pred_step0": shown(model, state, steps[0], fixture.io[f"out.{run}_pred_step0"].shape[-2:]),
        f"out.{run}_bank_images": padded([[entry.place for entry in step.bank] for step in steps], -1),
        **decided(run, steps),
        **remembered(model, run, steps, batch),
    }
    if run == "b1":
        found["out.model_input_0"] = model.frame.view(volume, model.window(state, 0))[:, 0]
    found[f"out.{run}_sampling_probabilities"] = weighted(steps, batch)
    return found


def weighted(steps: Sequence[Step], batch: int) -> Array:
    """[steps - 1, batch, longest bank]: the shares of each draw, padded with zeros."""
    shares = {(i, j): a.shares for i, step in enumerate(steps[1:]) for j, a in enumerate(step.answers)}
    table = np.zeros((len(steps) - 1, batch, max((len(s) for s in shares.values() if s is not None), default=0)))
    for place, row in shares.items():
        if row is not None:
            table[place][: len(row)] = row
    return table


def grid(answer: Any) -> tuple[int, int]:
    """(h, w) of a memory."""
    h, w = answer.entry.tree["map"].shape[2:]
    return h, w


def shown(model: SortedMemory, state: State, step: Step, size: Sequence[int]) -> torch.Tensor:
    """The logits of a step at the original's size of outputs; our frame moves its threshold to 0."""
    window = state.grid.crop((0, 0, 0), (1, 1, 1)).resized((1, *size))
    logits = np.concatenate([answer.decoded.logits.numpy() for answer in step.answers])
    return torch.from_numpy(model.frame.restore(logits, window)[:, :, 0] + model.frame.threshold)  # type: ignore[attr-defined]


def remembered(model: SortedMemory, run: str, steps: Sequence[Step], batch: int) -> dict[str, Any]:
    """What is kept of the first and of the last step, and its places."""
    first, last = (
        torch.cat([answer.entry.tree["map"].float() for answer in step.answers]) for step in (steps[0], steps[-1])
    )
    place = sine_places(first.shape[1], *first.shape[2:]).to(torch.bfloat16).float()
    return {
        f"out.{run}_memory_features_first": rounded(first),
        f"out.{run}_memory_features_last": rounded(last),
        f"out.{run}_memory_pos": place.expand(batch, -1, -1, -1),
    }


def decided(run: str, steps: Sequence[Step]) -> dict[str, Any]:
    """What the full bank decided, and how clear it was: (image, i, j, replaced) and four margins a row."""
    choices = [choice for step in steps for choice in step.choices]
    rows, margins = [], []
    for choice in choices:
        low, high = np.sort(choice.likeness), np.sort(choice.neighbours)[::-1]
        apart = abs(low[0] - choice.neighbours[choice.nearest])
        rows.append((choice.place, choice.least, choice.nearest, choice.replaced))
        margins.append((low[1] - low[0], high[0] - high[1], apart, abs(choice.gain)))
    return {
        f"out.{run}_bank_decisions": np.array(rows, dtype=np.int64).reshape(-1, 4),
        f"out.{run}_decision_margins": np.array(margins).reshape(-1, 4),
    }


def padded(rows: Sequence[Sequence[int]], value: int) -> Array:
    """[N, longest]."""
    longest = max(len(row) for row in rows)
    return np.array([[*row, *[value] * (longest - len(row))] for row in rows])
