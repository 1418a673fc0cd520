"""A 2D net on a volume: prompted slices answer for themselves, their neighbours follow from mask to mask.

A thick box prompts its middle slice, int((last - first) / 2 + first); a mark on one slice prompts that slice. From
each prompted slice the answer goes on upwards, then downwards: the frame makes the next slice's marks from the mask
just found (`Frame.follow`). A slice follows the nearest prompted one, the lower of two equally near.

The range is the hull of the marks if they span more than one slice: where a mask comes out empty there, the prompted
slice's own marks are asked again. Else a stop rule ends it, and the slice that breaks it is left out.

With hold="image" a slice is also asked with the marks of a guess of the whole object, grown through the image from the
answer on the prompted slice (`lifts.growing`); of the two answers the surer one counts. Without a range as before.

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
from segwise.lifts.growing import grown
from segwise.lifts.planes import Piece, Planes, marked, nothing, split
from segwise.nets.contract import Marks
from segwise.prompt import Box, Mark, Prompt
from segwise.segmenter import Ask, Parts, Prediction, State, expect

Stop = Literal["empty", "quality", "area"]
STOPS = ("empty", "quality", "area")
Hold = Literal["mask", "image"]
HOLDS = ("mask", "image")
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
        hold: what the next slice's marks come from where there is a range: the last "mask", as the original has it, or
            a guess grown through the "image", which neither drifts nor runs off.
    """

    def __init__(self, parts: Parts, *, stop: Stop = "area", hold: Hold = "mask") -> None:
        if stop not in STOPS:
            raise SpecError(f'stop is "{stop}", expected one of {", ".join(STOPS)}')
        if hold not in HOLDS:
            raise SpecError(f'hold is "{hold}", expected one of {", ".join(HOLDS)}')
        self.stop, self.hold = stop, hold
        super().__init__(parts)

    def rebuilt(self, parts: Parts) -> Self:
        """The same lift around other parts."""
        return type(self)(parts, stop=self.stop, hold=self.hold)

    def _settings(self) -> tuple[str, ...]:
        return (*super()._settings(), self.stop, self.hold)

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
        expect(sum(seed.last - seed.first for seed in seeds), "slices" if ranged else "slices at most")
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
        guess = self._guess(state, seed, start) if self.hold == "image" and ranged else None
        for places in (range(seed.place + 1, seed.last), range(seed.place - 1, seed.first - 1, -1)):
            chain += self._walk(state, seed, start, places, ranged=ranged, guess=guess)
        return chain

    def _guess(self, state: State, seed: _Seed, start: _Step) -> Array:
        """bool [D, H, W]: where the object lies, grown from the prompted slice's answer over the seed's own range."""
        volume = state.volume
        return grown(
            volume.array[0],
            start.mask[0],
            place=seed.place,
            first=seed.first,
            last=seed.last,
            spacing_mm=volume.grid.spacing_mm,
        )

    def _walk(
        self,
        state: State,
        seed: _Seed,
        step: _Step,
        places: Iterable[int],
        *,
        ranged: bool,
        guess: Array | None,
    ) -> list[tuple[int, Piece]]:
        walked = []
        for place in places:
            asked = self._candidates(state, step, place, guess)
            if not asked and not ranged:
                break
            then = self._surest(state, place, asked or [seed.marks], step, guess)
            if not ranged and self._ends(step, then):
                break
            walked.append((place, then.piece))
            step = then
        return walked

    def _candidates(self, state: State, step: _Step, place: int, guess: Array | None) -> list[Marks]:
        """The marks a slice may be asked with: from the guess where it is not empty, and from the mask just found."""
        window = self.window(state, place)
        masks = [step.mask] if guess is None else [guess[place : place + 1], step.mask]
        return [marks for mask in masks if mask.any() and len((marks := self.frame.follow(mask, window)).image)]

    def _surest(self, state: State, place: int, asked: Sequence[Marks], last: _Step, guess: Array | None) -> _Step:
        """The answer of most predicted quality, likeness to the last mask and likeness to the guess, all alike."""
        steps = [self._step(state, place, marks) for marks in asked]
        if len(steps) == 1 or guess is None:
            return steps[0]

        def sure(step: _Step) -> float:
            quality = 0.0 if step.piece.quality is None else float(step.piece.quality.max())
            return quality + _alike(step.mask[0], last.mask[0]) + _alike(step.mask[0], guess[place])

        return max(steps, key=sure)

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


def _alike(a: Array, b: Array) -> float:
    """DSC of two masks; 0 if both are empty."""
    return 2 * float((a & b).sum()) / max(1, int(a.sum()) + int(b.sum()))


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
