"""A net that remembers slices on a volume: prompted slices are answered and remembered, the others recall them.

Every prompted slice answers for itself. From the first of them the target is followed upwards to the end of the range,
then downwards: each slice recalls the prompted slices and the last ones answered, is answered without a mark, and is
remembered in turn. Targets do not see each other.

A thick box prompts its middle slice and ends the range. Without one the whole volume is followed, as the original does
(stop="end"); other stop rules leave out the slice that breaks them and what lies behind it, and marks on several slices
are their range.

Source: Ravi et al., SAM 2, arXiv 2408.00714, and its video predictor (facebookresearch/sam2); fresh directions: Ma et
al., MedSAM2, arXiv 2504.03600, and its `medsam2_infer_3D_CT.py`.
Deviations: state is passed, not kept: a later round answers all prompted slices again, with what the round before left
of them as mask prompt. The original answers a slice that it has followed before by what it recalls, and a correction
there is not remembered as prompted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Self

import numpy as np
import torch
from scipy import ndimage

from segwise.errors import SpecError
from segwise.geometry import Array, Grid
from segwise.lifts.planes import Piece, Planes, marked, nothing, split
from segwise.lifts.propagate import AREA_FACTOR, LEAST_QUALITY, by_slice, together
from segwise.nets.contract import Decoded, Marks, MemoryNet
from segwise.nets.marks import mapped
from segwise.prompt import Box, Prompt
from segwise.segmenter import Ask, Parts, Prediction, State, Tree, expect

Stop = Literal["end", "empty", "quality", "area"]
STOPS = ("end", "empty", "quality", "area")


@dataclass(frozen=True)
class Kept:
    """What is remembered of a slice.

    Attributes:
        tree: of the net, first axis 1.
        prompted: a person's marks answered it.
    """

    tree: Tree
    prompted: bool


@dataclass
class Track:
    """One object on its way through the slices; lives inside one call of `segment`.

    Attributes:
        marks: by prompted slice, one query each.
        low, high: the range, half-open.
        ranged: the marks bound it; else the stop rule ends it.
        bank: what is remembered, by slice.
        found: the answers, by slice.
        area: foreground voxels of the last slice in the direction of travel; only counted for stop="area".
        ended: the stop rule ended this direction.
    """

    marks: dict[int, Marks]
    low: int
    high: int
    ranged: bool = True
    bank: dict[int, Kept] = field(default_factory=dict)
    found: dict[int, Decoded] = field(default_factory=dict)
    area: int = 0
    ended: bool = False

    @property
    def start(self) -> int:
        """The first prompted slice."""
        return min(self.marks)


class Memory(Planes):
    """The Segmenter of a 2D net that remembers slices.

    Args:
        parts: a `MemoryNet` and a `SliceFrame`.
        stop: what ends a direction: the "end" of the volume; an "empty" mask; a predicted "quality" below 0.5; an
            "area" that more than doubles or halves. An empty mask ends the last two, too.
        fresh: downwards, only the prompted slices are remembered (MedSAM2); else also what was found upwards (SAM 2).
        largest: of the answer only its largest component stays; the logits of others change their sign.
        every: 0: a thick box prompts its middle slice; n: each n-th of the slices that any mark lies on is prompted.

    Raises:
        SpecError: the net cannot remember; or no such stop rule.
    """

    def __init__(
        self, parts: Parts, *, stop: Stop = "end", fresh: bool = False, largest: bool = False, every: int = 0
    ) -> None:
        if not isinstance(parts.net, MemoryNet):
            raise SpecError(
                "lift=memory needs a net that remembers slices; this one does not. "
                "It can: slices, propagate, orthogonal"
            )
        if stop not in STOPS:
            raise SpecError(f'stop is "{stop}", expected one of {", ".join(STOPS)}')
        if every < 0:
            raise SpecError(f"every is {every}, expected 0 or more")
        self.stop, self.fresh, self.largest, self.every = stop, fresh, largest, every
        super().__init__(parts)
        self.remembering: MemoryNet = parts.net

    def rebuilt(self, parts: Parts) -> Self:
        """The same lift around other parts."""
        return type(self)(parts, stop=self.stop, fresh=self.fresh, largest=self.largest, every=self.every)

    def _settings(self) -> tuple[str, ...]:
        every = (str(self.every),) if self.every else ()
        return (*super()._settings(), self.stop, str(self.fresh), str(self.largest), *every)

    def segment(self, state: State, asks: Sequence[Ask]) -> list[Prediction]:
        """One prediction an ask, on the box of slices reached. Slices are encoded once for all asks.

        Raises:
            PromptError: a prompt says nothing that the net can use on any slice.
        """
        tracks = [self.tracks(state, ask) for ask in asks]
        self.follow(state, [track for own in tracks for track in own])
        predictions = []
        for ask, own in zip(asks, tracks, strict=True):
            pieces = {place: together(self._pieces(own, place)) for place in sorted({p for t in own for p in t.found})}
            prediction = self.assembled(state, ask, pieces)
            predictions.append(_largest(prediction) if self.largest else prediction)
        return predictions

    def tracks(self, state: State, ask: Ask) -> list[Track]:
        """What an ask follows: as many objects as the slice with most queries has (several boxes on one slice).

        Raises:
            PromptError: the prompt says nothing that the net can use on any slice.
        """
        grid = state.volume.grid
        prompts = thinned(ask.prompt, grid, self.every) if self.every else by_slice(ask.prompt, grid)
        queries = {}
        for place in sorted(prompts):
            window = self.window(state, place)
            marks = self.frame.marks(prompts[place], window, self.seen(ask, window))
            if len(marks.image):
                queries[place] = split(marks)
        if not queries:
            raise nothing(ask.prompt)
        low, high, ranged = self._range(state, ask.prompt)
        return [
            Track({place: own[min(i, len(own) - 1)] for place, own in queries.items()}, low, high, ranged)
            for i in range(max(len(own) for own in queries.values()))
        ]

    def _range(self, state: State, prompt: Prompt) -> tuple[int, int, bool]:
        """(low, high, whether the marks bound it): the slices that may be followed."""
        grid = state.volume.grid
        spans = marked(prompt, grid)
        boxes = marked(Prompt(tuple(mark for mark in prompt.marks if isinstance(mark, Box))), grid)
        low, high = min(first for first, _ in spans), max(last for _, last in spans)
        thick = any(last - first > 1 for first, last in boxes)
        if thick or (self.stop != "end" and high - low > 1):
            return low, high, True
        return 0, grid.shape[0], False

    @torch.no_grad()
    def follow(self, state: State, tracks: Sequence[Track]) -> None:
        """Answer and remember the prompted slices of tracks, then follow each upwards, then downwards."""
        low, high = min((t.low for t in tracks), default=0), max((t.high for t in tracks), default=0)
        expect(high - low, "slices" if self.stop == "end" else "slices at most")
        for place in sorted({place for track in tracks for place in track.marks}):
            features = self._features(state, place)
            for track in (track for track in tracks if place in track.marks):
                self._prompted(features, track, place)
        if not tracks:
            return
        starts = [track.start for track in tracks]
        self._walk(state, tracks, range(min(starts), max(track.high for track in tracks)), reverse=False)
        for track in tracks:
            _forget(track, track.start, 0 if self.fresh else self.remembering.reach)
        self._walk(state, tracks, range(max(starts), min(track.low for track in tracks) - 1, -1), reverse=True)

    def _prompted(self, features: Tree, track: Track, place: int) -> None:
        decoded = self.remembering.decode(features, on_device(track.marks[place], self._device))
        track.found[place] = decoded
        track.bank[place] = Kept(self.remembering.remember(features, decoded, prompted=True), prompted=True)

    def _walk(self, state: State, tracks: Sequence[Track], places: Iterable[int], *, reverse: bool) -> None:
        """One direction; all tracks that need a slice are asked while its features are at hand."""
        for track in tracks:
            track.ended = False
        for place in places:
            for track in tracks:
                if place in track.marks and self.stop == "area":
                    track.area = self._area(state, track.found[place], place)
            active = [track for track in tracks if _wants(track, place, reverse=reverse)]
            if active:
                features = self._features(state, place)
                for alike in self._batches(active):
                    self._step(state, features, alike, place, reverse=reverse)

    def _step(self, state: State, features: Tree, tracks: Sequence[Track], place: int, *, reverse: bool) -> None:
        """One slice of tracks that remember the same slices."""
        banks = [track.bank for track in tracks]
        slices = list(banks[0])
        offsets = [other - place if reverse else place - other for other in slices]
        trees = [_stacked([bank[other].tree for bank in banks]) for other in slices]
        flags = [banks[0][other].prompted for other in slices]
        net = self.remembering
        recalled = net.recall(features, trees, offsets, prompted=flags, n_slices=state.volume.grid.shape[0])
        decoded = net.decode(recalled, Marks(torch.arange(len(tracks), device=self._device)))
        kept = net.remember(features, decoded, prompted=False)
        for i, track in enumerate(tracks):
            own = _row(decoded, i)
            if not track.ranged and self._ends(state, track, own, place):
                track.ended = True
                continue
            track.found[place] = own
            track.bank[place] = Kept(mapped(_picked(i), kept), prompted=False)
            _forget(track, place, net.reach)

    def _batches(self, tracks: Sequence[Track]) -> list[list[Track]]:
        """Tracks that remember the same slices together; one by one on a CPU, as more are slower there."""
        if self._device.type == "cpu":
            return [[track] for track in tracks]
        found: dict[tuple[tuple[int, bool], ...], list[Track]] = {}
        for track in tracks:
            found.setdefault(tuple((place, kept.prompted) for place, kept in track.bank.items()), []).append(track)
        return list(found.values())

    def _ends(self, state: State, track: Track, decoded: Decoded, place: int) -> bool:
        """Whether an answer breaks the stop rule."""
        if self.stop == "end":
            return False
        area = self._area(state, decoded, place)
        last, track.area = track.area, area
        if self.stop == "quality":
            return not area or (decoded.quality is not None and float(decoded.quality.max()) < LEAST_QUALITY)
        return not area or (self.stop == "area" and not last / AREA_FACTOR <= area <= last * AREA_FACTOR)

    def shown(self, state: State, decoded: Decoded, place: int) -> Array:
        """float32 [M, H, W]: an answer on its slice of the prepared volume."""
        return self._piece([decoded]).on(self.frame, self.window(state, place))

    def _area(self, state: State, decoded: Decoded, place: int) -> int:
        return int((self.shown(state, decoded, place) > 0).sum())

    def _features(self, state: State, place: int) -> Tree:
        (features,) = self.features(state, [place])
        return mapped(lambda x: x.to(self._device), features)

    def _pieces(self, tracks: Sequence[Track], place: int) -> list[Piece]:
        """What the tracks of one ask answered on a slice."""
        return [self._piece([track.found[place]]) for track in tracks if place in track.found]


def thinned(prompt: Prompt, grid: Grid, every: int) -> dict[int, Prompt]:
    """What prompts each n-th of the slices that a mark lies on, a thick box's included: the prompt itself."""
    places = sorted({place for first, last in marked(prompt, grid) for place in range(first, last)})
    return dict.fromkeys(places[::every], prompt)


def _wants(track: Track, place: int, *, reverse: bool) -> bool:
    """Whether a track is to be followed on a slice."""
    inside = track.low <= place < track.start if reverse else track.start < place < track.high
    return inside and not track.ended and place not in track.marks


def _forget(track: Track, place: int, reach: int) -> None:
    """Drop what neither the next slice nor the first one of the other direction can recall."""
    far = [
        other
        for other, kept in track.bank.items()
        if not kept.prompted and min(abs(place - other), abs(track.start - other)) >= reach
    ]
    for other in far:
        del track.bank[other]


def on_device(marks: Marks, device: torch.device) -> Marks:
    """Queries with all tensors on a device."""
    changed = {name: value.to(device) for name, value in vars(marks).items() if isinstance(value, torch.Tensor)}
    return replace(marks, **changed)


def _row(decoded: Decoded, i: int) -> Decoded:
    """One query's answer."""
    changed = {name: value[i : i + 1] for name, value in vars(decoded).items() if value is not None}
    return replace(decoded, **changed)


def _picked(i: int) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: x[i : i + 1]


def _stacked(trees: Sequence[Tree]) -> Tree:
    """Trees of one target each as one, along the first axis."""
    first = trees[0]
    if len(trees) == 1:
        return first
    if isinstance(first, dict):
        return {key: _stacked([tree[key] for tree in trees]) for key in first}
    if isinstance(first, list | tuple):
        return type(first)(_stacked([tree[i] for tree in trees]) for i in range(len(first)))
    return torch.cat(list(trees))


def _largest(prediction: Prediction) -> Prediction:
    """A prediction without what does not hang together with its largest component (over faces, edges and corners)."""
    mask = prediction.logits[0] > 0
    labels, n = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    if n < 2:
        return prediction
    keep = labels == 1 + int(np.bincount(labels.ravel())[1:].argmax())
    logits = np.where(mask & ~keep, -prediction.logits, prediction.logits)
    return replace(prediction, logits=logits)
