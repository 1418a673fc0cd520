"""The same body seen turned or mirrored: no voxel is computed anew, the affine says where the voxels lie.

A turn is a rotation or reflection of patient space about the middle of the volume. The array stays; its affine and
the marks are moved. A model that lays volumes along the patient's axes is then shown the turned body, and its answer
lies on the same voxels as before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from segwise.geometry import Array, Grid, Volume
from segwise.prompt import Box, Prompt, Text
from segwise.segmenter import Ask, Prediction, Segmenter, State, Store
from segwise.wrappers import _fused


@dataclass(frozen=True)
class Turn:
    """One look at a body.

    Attributes:
        linear: float64 [3, 3], orthogonal: where x, y and z go.
        words: what a text says of the turned body.
        needs_depth: it is left out where the boxes of a prompt are one voxel thin on some axis together; where it is
            not, they are said as the one box around them, and the round before is not gone on from.
    """

    linear: Array
    words: Callable[[str], str] = str
    needs_depth: bool = False

    def about(self, grid: Grid) -> Array:
        """float64 [4, 4]: mm to mm, about the middle of a grid."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.linear
        matrix[:3, 3] = grid.centre_mm - self.linear @ grid.centre_mm
        return matrix


@dataclass(frozen=True)
class Looks(State):
    """One state of the wrapped model for each turn."""

    looks: tuple[State, ...] = ()


class Turned(Segmenter):
    """Asks a model about every turn of the body, and takes the mean of the probabilities.

    Args:
        inner: the model.
        turns: the first one is the body as it is.
        digest: of model and wrapper.
    """

    def __init__(self, inner: Segmenter, turns: Sequence[Turn], *, digest: str) -> None:
        self._inner = inner
        self._turns = tuple(turns)
        self.digest = digest
        self.encoder = f"{inner.encoder} in {len(self._turns)} turns {digest}"

    def encode(self, volume: Volume, *, store: Store) -> Looks:
        """A state for each turn; what is alike has one place in the store."""
        states = []
        for turn in self._turns:
            grid = Grid(volume.grid.shape, turn.about(volume.grid) @ volume.grid.affine)
            turned = (
                volume if np.array_equal(turn.linear, np.eye(3)) else Volume.of(volume.array, grid, volume.channels)
            )
            states.append(self._inner.encode(turned, store=store))
        return Looks(states[0].volume, volume.grid, store, looks=tuple(states))

    def segment(self, state: State, asks: Sequence[Ask]) -> list[Prediction]:
        """One prediction an ask: one candidate, on the crop that holds all answers."""
        assert isinstance(state, Looks)
        found: list[list[Prediction]] = [[] for _ in asks]
        places: list[list[Grid]] = [[] for _ in asks]
        for k, (turn, own) in enumerate(zip(self._turns, state.looks, strict=True)):
            asked = [(i, said) for i, ask in enumerate(asks) if (said := _asked(ask, turn, state.grid, k))]
            answers = self._inner.segment(own, [said for _, said in asked]) if asked else []
            for (i, _), answer in zip(asked, answers, strict=True):
                found[i].append(answer)
                places[i].append(_fused.on_grid(answer, own.grid, state.grid))
        return [
            _fused.mean(
                ask.prompt, list(zip(own, where, strict=True)), _fused.Rounds(_fused.first_seed(ask), tuple(own))
            )
            for ask, own, where in zip(asks, found, places, strict=True)
        ]


def _asked(ask: Ask, turn: Turn, grid: Grid, k: int) -> Ask | None:
    """What one look is asked; None where it has nothing to answer."""
    prompt, left = ask.prompt, _fused.rounds(ask)
    if turn.needs_depth:
        boxes = prompt.on(grid).boxes  # [M, 2, 3]
        if len(boxes):
            low, high = boxes[:, 0].min(axis=0), boxes[:, 1].max(axis=0)
            if (high - low < 2).any():
                return None
            prompt = _enclosed(prompt, grid, low, high)
        left = None
    moved = _told(prompt.moved(turn.about(grid)), turn)
    previous = left.looks[k] if left is not None and k < len(left.looks) else None
    return dataclasses.replace(ask, prompt=moved, previous=previous)


def _told(prompt: Prompt, turn: Turn) -> Prompt:
    marks = (Text(turn.words(mark.words)) if isinstance(mark, Text) else mark for mark in prompt.marks)
    return Prompt(tuple(marks))


def _enclosed(prompt: Prompt, grid: Grid, low: Array, high: Array) -> Prompt:
    """The prompt with one box in the place of all its boxes."""
    others = tuple(mark for mark in prompt.marks if not isinstance(mark, Box))
    return Prompt((Box.of(grid, low.tolist(), high.tolist()), *others))
