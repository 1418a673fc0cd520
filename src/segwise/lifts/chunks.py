"""`Chunks`: a 2D promptable net whose encoder sees some neighbouring slices at once.

The middle slice of the prompt's boxes, or without a box that of its first positive point, is the middle of a chunk, and
other chunks follow it without a gap on both sides; each chunk with a mark in it is encoded once, all its slices
together, and answers slice by slice. Later points move no chunk. Beyond the volume's ends the last slice is repeated.

A slice without a mark of its own takes those of the nearest slice of its chunk that has some (`spread`), or is left
out. Med-SA's authors give every slice a point from the reference, which no user could.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Self

import numpy as np
import torch

from segwise.errors import SpecError
from segwise.lifts.planes import Piece, Planes, marked, nothing
from segwise.nets.contract import Marks
from segwise.segmenter import Ask, Parts, Prediction, State, Tree, expect, step


class Chunks(Planes):
    """The Segmenter of a net that encodes slices in chunks.

    Args:
        parts: a `PromptNet` whose `encode` takes the slices of a chunk as its batch; a `SliceFrame`.
        chunk: how many slices.
        spread: slices without a mark take those of the nearest slice of their chunk.
    """

    def __init__(self, parts: Parts, *, chunk: int, spread: bool = True) -> None:
        if chunk < 1:
            raise SpecError(f"chunk is {chunk}, expected a number of slices, at least 1")
        self.chunk, self.spread = chunk, spread
        super().__init__(parts)
        made = hashlib.blake2b(repr(self.net.encoding).encode(), digest_size=8).hexdigest()  # how chunks are mixed
        self.encoder, self.digest = f"{self.encoder}:{made}", f"{self.digest}:{made}"

    def rebuilt(self, parts: Parts) -> Self:
        """The same lift around other parts."""
        return type(self)(parts, chunk=self.chunk, spread=self.spread)

    def _settings(self) -> tuple[str, ...]:
        return (*super()._settings(), str(self.chunk), str(self.spread))

    def segment(self, state: State, asks: Sequence[Ask]) -> list[Prediction]:
        """One prediction an ask, on the slices that have a mark or take one.

        Raises:
            PromptError: a prompt says nothing that the net can use on any slice.
        """
        return [self.assembled(state, ask, self._pieces(state, ask)) for ask in asks]

    def stacked(self, state: State, first: int) -> Tree:
        """Features of the chunk that begins with a slice (which may lie before the volume), first axis `chunk`."""
        key = f"{self.encoder}:{state.volume.digest}:{first}+{self.chunk}"
        return state.store.get([key], lambda _: [self._encoded_chunk(state, first)])[0]

    @torch.no_grad()
    def _encoded_chunk(self, state: State, first: int) -> Tree:
        last = state.volume.grid.shape[0] - 1
        places = [min(max(place, 0), last) for place in range(first, first + self.chunk)]
        views = [self.frame.view(state.volume, self.window(state, place)) for place in places]
        return self.net.encode(torch.from_numpy(np.stack(views)).to(self._device)).cpu()

    def _pieces(self, state: State, ask: Ask) -> dict[int, Piece]:
        own = self._marks(state, ask)
        if not own:
            raise nothing(ask.prompt)
        start = self._anchor(state, ask) - self.chunk // 2
        pieces = {}
        firsts = sorted({start + (place - start) // self.chunk * self.chunk for place in own})
        expect(len(firsts), "chunks")
        for first in firsts:
            features = self.stacked(state, first)
            step()
            for place, marks in self._spread(own, first, state.volume.grid.shape[0]).items():
                i = place - first
                (pieces[place],) = self.answers(features[i : i + 1], [marks])
        return pieces

    def _marks(self, state: State, ask: Ask) -> dict[int, Marks]:
        spans = marked(ask.prompt, state.volume.grid)
        found = {}
        for place in sorted({place for first, last in spans for place in range(first, last)}):
            window = self.window(state, place)
            marks = self.frame.marks(ask.prompt, window, self.seen(ask, window))
            if len(marks.image):
                found[place] = marks
        return found

    def _anchor(self, state: State, ask: Ask) -> int:
        """The middle slice of the boxes, or that of the first positive point."""
        placed = ask.prompt.on(state.volume.grid)
        if len(placed.boxes):
            return int(placed.boxes[:, 0, 0].min() + placed.boxes[:, 1, 0].max()) // 2
        return int(np.floor(placed.points[placed.positive][0, 0] + 0.5))

    def _spread(self, own: dict[int, Marks], first: int, depth: int) -> dict[int, Marks]:
        """The marks of a chunk's slices."""
        there = [place for place in own if first <= place < first + self.chunk]
        if not self.spread:
            return {place: own[place] for place in there}
        inside = range(max(first, 0), min(first + self.chunk, depth))
        return {place: own[min(there, key=lambda other: (abs(other - place), other))] for place in inside}
