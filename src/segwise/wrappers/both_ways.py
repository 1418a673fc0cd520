"""Both ways: the answer's own slices ask again, from both ends towards the other one, and the three answers vote.

A lift that carries a mask from slice to slice errs more the further it comes. Here two slices of its first answer,
well inside the ends, are made into boxes, and each is asked about alone, so that every slice is reached from either
side.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from segwise.card import WrapperCard
from segwise.errors import PromptError
from segwise.geometry import Array, Grid, Volume, bounds
from segwise.prompt import Box, Prompt, Text
from segwise.segmenter import Ask, Prediction, Segmenter, State, Store
from segwise.wrappers import _fused

CARD = WrapperCard(
    title="Both ways",
    summary="For lifts that propagate: boxes of two slices of the answer propagate back (3 passes); the mean decides.",
    paper="Forward-backward consistency of tracking (Kalal et al., doi:10.1109/ICPR.2010.675); the vote is ours",
)
_INSIDE = 0.25  # of the extent: how far from the ends the two slices lie
_LEAST = 3  # slices of an answer that can ask again


def wrap(segmenter: Segmenter, *, plane: Literal["axial", "coronal", "sagittal"] = "axial") -> Segmenter:
    """The model, propagating both ways.

    Args:
        segmenter: a model that takes boxes and propagates, e.g. with lift=propagate or lift=memory.
        plane: of the slices.
    """
    return BothWays(segmenter, plane)


class BothWays(Segmenter):
    """Asks once as it was asked, then from a slice near each end of the answer."""

    def __init__(self, inner: Segmenter, plane: str) -> None:
        self._inner, self._plane = inner, plane
        self.digest = _fused.named(inner.digest, "both-ways", plane)
        self.encoder = inner.encoder

    def encode(self, volume: Volume, *, store: Store) -> State:
        """The model's own."""
        return self._inner.encode(volume, store=store)

    def segment(self, state: State, asks: Sequence[Ask]) -> list[Prediction]:
        """One prediction an ask: the mean of the three answers; the first alone where it has too few slices."""
        left = [_fused.rounds(ask) for ask in asks]
        said = [dataclasses.replace(ask, previous=r.looks[0] if r else None) for ask, r in zip(asks, left, strict=True)]
        firsts = self._inner.segment(state, said)
        return [self._voted(state, ask, first) for ask, first in zip(asks, firsts, strict=True)]

    def _voted(self, state: State, ask: Ask, first: Prediction) -> Prediction:
        answers = [first]
        for prompt in _ends(ask.prompt, first, state.grid, self._plane):
            try:
                answers += self._inner.segment(state, [Ask(prompt, None, ask.seed)])
            except PromptError:  # a box this small may say nothing to the model; then the others decide
                continue
        carry = _fused.Rounds(_fused.first_seed(ask), (first,))
        return _fused.mean(ask.prompt, [(one, one.grid) for one in answers], carry)


def _ends(prompt: Prompt, first: Prediction, grid: Grid, plane: str) -> list[Prompt]:
    """One prompt each from two slices of an answer: its box there, beside the words of the prompt."""
    mask = first.mask(first.grid)
    axis = first.grid.axis_of(plane)
    occupied = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
    if len(occupied) < _LEAST:
        return []
    words = tuple(mark for mark in prompt.marks if isinstance(mark, Text))
    step = round(_INSIDE * (len(occupied) - 1))
    places = (occupied[step], occupied[len(occupied) - 1 - step])
    return [Prompt((*words, _box(mask, int(place), axis, first.grid))) for place in places]


def _box(mask: Array, place: int, axis: int, grid: Grid) -> Box:
    """The tight box of a mask on one slice, one voxel thick."""
    one = np.zeros_like(mask)
    index = tuple(place if a == axis else slice(None) for a in range(3))
    one[index] = mask[index]
    found = bounds(one)
    assert found is not None  # the slice is occupied
    return Box.of(grid, *found)
