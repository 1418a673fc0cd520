"""A 2D net on a volume: prompted slices answer for themselves, their neighbours follow from mask to mask.

A thick box prompts its middle slice, int((last - first) / 2 + first); a mark on one slice prompts that slice. From
each prompted slice the answer goes on upwards, then downwards: the frame makes the next slice's marks from the mask
just found (`Frame.follow`). A slice follows the nearest prompted one, the lower of two equally near.

The range is the hull of the marks if they span more than one slice: where a mask comes out empty there, the prompted
slice's own marks are asked again. Else a stop rule ends it, and the slice that breaks it is left out.

Source: Ma et al., LiteMedSAM, CVPR 2024 challenge baseline (`CVPR24_LiteMedSAM_infer.py`): one 3D box per object.
Deviation: several boxes and prompted slices, and the stop rules, are Segwise's; the baseline always has a range.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, Self

import numpy as np

from segwise.errors import SpecError
from segwise.geometry import Array, Grid
from segwise.lifts.planes import Piece, Planes, marked, nothing, split
from segwise.nets.contract import Marks
from segwise.prompt import Box, Mark, Prompt
from segwise.segmenter import Ask, Parts, Prediction, State

Stop = Literal["empty", "quality", "area"]
STOPS = ("empty", "quality", "area")
LEAST_QUALITY = 0.5  # of the net's own prediction: below it a slice is not believed
AREA_FACTOR = 2.0  # an area this many times the slice before, or its inverse, is another structure


class _Seed(NamedTuple):
    """One query of a prompted slice, and the slices that follow it (half-open)."""

    place: int
    marks: Marks
    first: int
    last: int


class _Step(NamedTuple):
    piece: Piece
    mask: Array  # bool [1, H, W] of the best candidate


class Propagate(Planes):
    """The Segmenter of a 2D promptable net that goes from slice to slice.

    Args:
        parts: a `PromptNet` and a `SliceFrame`.
        stop: what ends a prompt without a range: an "empty" mask; a predicted "quality" below 0.5; an "area" that
            more than doubles or halves from one slice to the next. An empty mask ends the others too.
    """

    def __init__(self, parts: Parts, *, stop: Stop = "area") -> None:
        if stop not in STOPS:
            raise SpecError(f'stop is "{stop}", expected one of {", ".join(STOPS)}')
        self.stop = stop
        super().__init__(parts)

    def rebuilt(self, parts: Parts) -> Self:
        """The same lift around other parts."""
        return type(self)(parts, stop=self.stop)

    def _settings(self) -> tuple[str, ...]:
        return (*super()._settings(), self.stop)

    def segment(self, state: State, asks: Sequence[Ask]) -> list[Prediction]:
        """One prediction an ask, on the box of slices reached.

        Raises:
            PromptError: a prompt says nothing that the net can use on any slice.
        """
        return [self.assembled(state, ask, self._pieces(state, ask)) for ask in asks]

    def _pieces(self, state: State, ask: Ask) -> dict[int, Piece]:
        seeds, ranged = self._seeds(state, ask)
        if not seeds:
            raise nothing(ask.prompt)
        found: dict[int, list[Piece]] = {}
        for seed in seeds:
            for place, piece in self._chain(state, seed, ranged=ranged):
                found.setdefault(place, []).append(piece)
        return {place: together(pieces) for place, pieces in found.items()}

    def _seeds(self, state: State, ask: Ask) -> tuple[list[_Seed], bool]:
        grid = state.volume.grid
        spans = marked(ask.prompt, grid)
        if not spans:
            return [], False
        first, last = min(s[0] for s in spans), max(s[1] for s in spans)
        ranged = last - first > 1
        low, high = (first, last) if ranged else (0, grid.shape[0])
        prompts = by_slice(ask.prompt, grid)
        found = {}
        for place in sorted(prompts):
            window = self.window(state, place)
            marks = self.frame.marks(prompts[place], window, self.seen(ask, window))
            if len(marks.image):
                found[place] = marks
        places = sorted(found)
        ends = [low, *((a + b) // 2 + 1 for a, b in itertools.pairwise(places)), high]
        return [
            _Seed(place, query, ends[i], ends[i + 1]) for i, place in enumerate(places) for query in split(found[place])
        ], ranged

    def _chain(self, state: State, seed: _Seed, *, ranged: bool) -> list[tuple[int, Piece]]:
        """Upwards from the prompted slice to the end, then downwards from it."""
        start = self._step(state, seed.place, seed.marks)
        chain = [(seed.place, start.piece)]
        for places in (range(seed.place + 1, seed.last), range(seed.place - 1, seed.first - 1, -1)):
            chain += self._walk(state, seed, start, places, ranged=ranged)
        return chain

    def _walk(
        self, state: State, seed: _Seed, step: _Step, places: Iterable[int], *, ranged: bool
    ) -> list[tuple[int, Piece]]:
        walked = []
        for place in places:
            marks = self.frame.follow(step.mask, self.window(state, place))
            if not len(marks.image):
                if not ranged:
                    break
                marks = seed.marks
            then = self._step(state, place, marks)
            if not ranged and self._ends(step, then):
                break
            walked.append((place, then.piece))
            step = then
        return walked

    def _step(self, state: State, place: int, marks: Marks) -> _Step:
        (features,) = self.features(state, [place])
        (piece,) = self.answers(features, [marks])
        best = 0 if piece.quality is None else int(piece.quality.mean(axis=0).argmax())
        return _Step(piece, piece.on(self.frame, self.window(state, place))[best : best + 1] > 0)

    def _ends(self, before: _Step, now: _Step) -> bool:
        area, last = int(now.mask.sum()), int(before.mask.sum())
        if not area:
            return True
        if self.stop == "quality":
            return now.piece.quality is not None and float(now.piece.quality.max()) < LEAST_QUALITY
        return self.stop == "area" and not last / AREA_FACTOR <= area <= last * AREA_FACTOR


def together(pieces: Sequence[Piece]) -> Piece:
    """Several answers about one slice as one."""
    first = pieces[0]
    return Piece(
        np.concatenate([piece.logits for piece in pieces]),
        None if first.quality is None else np.concatenate([p.quality for p in pieces if p.quality is not None]),
        None if first.low_res is None else np.concatenate([p.low_res for p in pieces if p.low_res is not None]),
    )


def by_slice(prompt: Prompt, grid: Grid) -> dict[int, Prompt]:
    """What prompts each slice: the boxes whose middle it is, else those that lie over it, and all other marks."""
    middles: dict[int, list[Mark]] = {}
    others = [mark for mark in prompt.marks if not isinstance(mark, Box)]
    for mark in prompt.marks:
        if isinstance(mark, Box):
            for first, last in marked(Prompt((mark,)), grid):
                middles.setdefault(int((last - 1 - first) / 2 + first), []).append(mark)
    places = {place for first, last in marked(Prompt(tuple(others)), grid) for place in range(first, last)}
    return {
        place: Prompt((*middles.get(place, ()), *others)) if place in middles else prompt
        for place in sorted({*middles, *places})
    }
