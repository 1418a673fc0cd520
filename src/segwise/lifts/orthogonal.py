"""A 2D net on a volume in three planes: axial, coronal and sagittal slices answer, and the three answers are fused.

A voxel is foreground if the mean of the planes' probabilities is above one half; a plane that was not asked about a
voxel says no. Marks lie in all three planes as they lie in the world; a box that is one voxel thin in a plane's rows or
columns says nothing there, so that plane is left out for it.

Source: the fusion of orthogonal planes is common practice (Prasoon et al., MICCAI 2013, "2.5D"; Roth et al., arXiv
1407.5759); the rule of the mean is Segwise's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from segwise.errors import SpecError
from segwise.geometry import Array, Grid, Volume, regrid
from segwise.lifts.planes import AXES, Planes, nothing
from segwise.lifts.slices import Slices
from segwise.prompt import Prompt
from segwise.segmenter import OUTSIDE, Ask, Learned, Parts, Prediction, State, Store, expect

FEW = 2  # voxels in rows or columns from which a box says something in a plane
_EDGE = 1e-7  # probabilities are kept this far from 0 and 1


@dataclass(frozen=True)
class Triple(State):
    """The volume prepared for each plane, in the order of `AXES`.

    Attributes:
        planes: one state a plane; `volume` is the axial one's.
    """

    planes: tuple[State, ...] = ()


class Orthogonal(Learned):
    """The Segmenter of a 2D promptable net that asks slices of three planes.

    Args:
        parts: a `PromptNet` and a frame with a `plane` (a dataclass, as `GreyFrame`).
        lift: what answers in one plane.
    """

    def __init__(self, parts: Parts, *, lift: type[Planes] = Slices) -> None:
        if not dataclasses.is_dataclass(parts.frame) or not hasattr(parts.frame, "plane"):
            raise SpecError("lift=orthogonal needs a frame that can show any plane; this one shows only its own")
        self.parts = parts
        self.lift: type[Planes] = lift
        self.planes: tuple[Planes, ...] = tuple(
            lift(dataclasses.replace(parts, frame=dataclasses.replace(parts.frame, plane=plane))) for plane in AXES
        )
        self.encoder = "+".join(plane.encoder for plane in self.planes)
        self.digest = "orthogonal:" + "+".join(plane.digest for plane in self.planes)

    def rebuilt(self, parts: Parts) -> Self:
        """The same lift around other parts."""
        return type(self)(parts, lift=self.lift)

    def encode(self, volume: Volume, *, store: Store) -> Triple:
        """The volume as each plane's frame prepares it; slices are encoded when an ask first needs them."""
        states = tuple(plane.encode(volume, store=store) for plane in self.planes)
        return Triple(states[0].volume, volume.grid, store, planes=states)

    def segment(self, state: State, asks: Sequence[Ask]) -> list[Prediction]:
        """One prediction an ask, on the smallest crop that holds what the planes answered.

        Its presence is the mean of the planes', where they have one.

        Raises:
            PromptError: a prompt says nothing in any plane.
        """
        assert isinstance(state, Triple)
        found: list[list[tuple[str, Prediction]]] = [[] for _ in asks]
        for name, plane, own in zip(AXES, self.planes, state.planes, strict=True):
            asked = [i for i, ask in enumerate(asks) if _says(ask.prompt, own.volume.grid)]
            if asked:
                expect(0, "slices", part=f"{name} plane")
                answers = plane.segment(own, [_of_plane(asks[i], name) for i in asked])
                for i, answer in zip(asked, answers, strict=True):
                    found[i].append((name, answer))
        expect(0, "slices", part="")
        return [_fused(ask, answers) for ask, answers in zip(asks, found, strict=True)]


def _of_plane(ask: Ask, plane: str) -> Ask:
    """The ask with what this plane left in the round before."""
    carry = (ask.previous.carry or {}).get(plane) if ask.previous is not None else None
    previous = None if ask.previous is None else dataclasses.replace(ask.previous, carry=carry)
    return dataclasses.replace(ask, previous=previous)


def _says(prompt: Prompt, grid: Grid) -> bool:
    """Whether a plane's slices can use a prompt: it has a mark other than boxes, or a box with rows and columns.

    Words have no place: they say something in every plane.
    """
    placed = prompt.on(grid)
    sizes = placed.boxes[:, 1] - placed.boxes[:, 0]
    return bool(
        placed.words or len(placed.points) or placed.mask is not None or (sizes[:, 1:] >= FEW).all(axis=1).any()
    )


def _fused(ask: Ask, answers: Sequence[tuple[str, Prediction]]) -> Prediction:
    if not answers:
        raise nothing(ask.prompt)
    predictions = [answer for _, answer in answers]
    grid = _around([p.grid for p in predictions])
    shares = np.zeros((max(len(p.logits) for p in predictions), *grid.shape), dtype=np.float64)
    for prediction in predictions:
        logits = regrid(prediction.logits, prediction.grid, grid, order=0, outside=OUTSIDE)
        shares[: len(logits)] += _probability(logits) / len(predictions)
    shares = np.clip(shares, _EDGE, 1 - _EDGE)
    qualities = [p.quality for p in predictions if p.quality is not None]
    presences = [p.presence for p in predictions if p.presence is not None]
    return Prediction(
        ask.prompt,
        np.log(shares / (1 - shares)).astype(np.float32),
        grid,
        quality=np.mean(qualities, axis=0) if len(qualities) == len(predictions) else None,
        presence=float(np.mean(presences)) if len(presences) == len(predictions) else None,
        carry={name: answer.carry for name, answer in answers},
    )


def _probability(logits: Array) -> Array:
    return 1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -60, 60)))


def _around(grids: Sequence[Grid]) -> Grid:
    """The smallest crop of the file's grid that holds crops of it."""
    first = grids[0]
    lows = [np.rint(first.index(grid.mm([[0, 0, 0]]))[0]).astype(int) for grid in grids]
    highs = [low + np.array(grid.shape) for low, grid in zip(lows, grids, strict=True)]
    return first.crop(np.min(lows, axis=0).tolist(), np.max(highs, axis=0).tolist())
