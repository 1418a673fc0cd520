"""A net that remembers slices, with a bank that sorts itself: slices come in any order, the most telling ones are kept.

Each slice is compared with all that the bank holds; it recalls a few of them, is answered with its marks or without,
and is remembered. A full bank takes a new memory only in place of one: of the entry least like the new one (i), the
nearest neighbour (j) goes if the new one is less like i than j is, and its predicted IoU is not more than 0.1 below
j's. No slice knows how far away another one lies, so that one prompt may stand for a volume or for unordered images.

Source: Zhu et al., Medical SAM 2, arXiv 2408.00874, section 3, as its authors' 2D loop does it (SuperMedIntel/
Medical-SAM2, `func_2d/function.py`, validation).
Deviations: memories are drawn with the ask's seed or are the likest ones (the original draws from the global generator,
in validation too). How many are recalled is an argument (the original: as many as a batch has images). The order begins
at a prompted slice, as an empty bank tells a slice without marks nothing (in the original all images of the first batch
have a click). A later round goes on with the bank of the round before, in which a slice has one entry at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Self

import numpy as np
import torch

from segwise.errors import SpecError
from segwise.geometry import Array
from segwise.lifts.memory import on_device, thinned
from segwise.lifts.planes import Piece, Planes, marked, nothing, split
from segwise.lifts.propagate import by_slice, together
from segwise.nets.contract import Decoded, Marks, SortableNet
from segwise.nets.marks import mapped
from segwise.prompt import Box, Prompt
from segwise.segmenter import Ask, Parts, Prediction, State, Tree

Drawing = Literal["top-k", "seeded"]
DRAWINGS = ("top-k", "seeded")
Order = Literal["file", "outward"]
ORDERS = ("file", "outward")
QUALITY_MARGIN = 0.1  # so much worse than the entry it replaces may a new one be
_BANKS = "sorted-memory"  # name of the banks in a carry
Draw = Callable[[Array], Sequence[int]]  # float [N] that sum to one -> positions in the bank


class Entry(NamedTuple):
    """What the bank holds of a slice.

    Attributes:
        place: the slice.
        tree: of the net, first axis 1.
        quality: predicted IoU.
    """

    place: int
    tree: Tree
    quality: float


@dataclass(frozen=True)
class Choice:
    """What a full bank decided about a new entry.

    Attributes:
        place: the new entry's slice.
        least: position of the entry least like it.
        nearest: position of that one's nearest neighbour, which may be replaced.
        replaced: whether it was.
        likeness: float [N] of the new entry to all.
        neighbours: float [N] of entry `least` to all, -inf to itself.
        gain: predicted IoU above the least that is accepted.
    """

    place: int
    least: int
    nearest: int
    replaced: bool
    likeness: Array
    neighbours: Array
    gain: float


class Answer(NamedTuple):
    """A slice's answer.

    Attributes:
        entry: what there is to remember.
        decoded: the answer.
        shares: float [N], how the bank's entries were weighted for the draw; None for an empty bank.
    """

    entry: Entry
    decoded: Decoded
    shares: Array | None


class Step(NamedTuple):
    """Slices answered together, and the bank after them."""

    answers: list[Answer]
    choices: list[Choice]
    bank: list[Entry]


@dataclass(frozen=True)
class Track:
    """One object on its way through the slices.

    Attributes:
        marks: by prompted slice, one query each.
        order: all slices asked, in order.
        bank: what the round before left.
    """

    marks: dict[int, Marks]
    order: list[int]
    bank: tuple[Entry, ...] = ()


class SortedMemory(Planes):
    """The Segmenter of a 2D net whose memories can be compared.

    Args:
        parts: a `SortableNet` and a `SliceFrame`.
        bank: entries from which on new ones must replace old ones.
        recalled: how many memories a slice recalls; "seeded" may draw one twice.
        draw: "top-k" recalls the likest ones; "seeded" draws by the softmax of likeness, with the ask's seed.
        order: "file" goes up from the first prompted slice and then takes those before it; "outward" the prompted
            slices and then ever more distant ones.
        every: 0: each mark prompts its slice, and a thick box its middle one; n: a thick box prompts all of its slices,
            and only each n-th step takes its prompts, counted from the first prompted slice.
        batch: slices a step: they see the same bank, and a bank that is not full takes them all.
        carry: a later round goes on with the bank.

    Raises:
        SpecError: memories of the net cannot be compared; or an argument is out of range.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        bank: int = 16,
        recalled: int = 4,
        draw: Drawing = "top-k",
        order: Order = "file",
        every: int = 0,
        batch: int = 1,
        carry: bool = True,
    ) -> None:
        if not isinstance(parts.net, SortableNet):
            raise SpecError("lift=sorted-memory needs a net whose memories can be compared; this one's cannot")
        for name, value, allowed in (("draw", draw, DRAWINGS), ("order", order, ORDERS)):
            if value not in allowed:
                raise SpecError(f'{name} is "{value}", expected one of {", ".join(allowed)}')
        for name, count, least in (
            ("bank", bank, 2),
            ("recalled", recalled, 1),
            ("every", every, 0),
            ("batch", batch, 1),
        ):
            if count < least:
                raise SpecError(f"{name} is {count}, expected at least {least}")
        self.bank, self.recalled, self.every, self.batch = bank, recalled, every, batch
        self.draw: Drawing = draw
        self.order: Order = order
        self.carry = carry
        super().__init__(parts)
        self.sorting: SortableNet = parts.net

    def _arguments(self) -> dict[str, object]:
        names = ("bank", "recalled", "draw", "order", "every", "batch", "carry")
        return {name: getattr(self, name) for name in names}

    def rebuilt(self, parts: Parts) -> Self:
        """The same lift around other parts."""
        return type(self)(parts, **self._arguments())  # type: ignore[arg-type]

    def _settings(self) -> tuple[str, ...]:
        return (*super()._settings(), repr(self._arguments()))

    def segment(self, state: State, asks: Sequence[Ask]) -> list[Prediction]:
        """One prediction an ask, on the box of slices reached.

        Raises:
            PromptError: a prompt says nothing that the net can use on any slice.
        """
        tracks = [self.tracks(state, ask) for ask in asks]
        return [self._predicted(state, ask, own) for ask, own in zip(asks, tracks, strict=True)]

    def _predicted(self, state: State, ask: Ask, tracks: Sequence[Track]) -> Prediction:
        found: dict[int, list[Piece]] = {}
        banks = []
        for i, track in enumerate(tracks):
            for step in self.steps(state, track, self._drawing(ask.seed, i)):
                for answer in step.answers:
                    found.setdefault(answer.entry.place, []).append(self._piece([answer.decoded]))
            banks.append(_packed(step.bank))
        prediction = self.assembled(state, ask, {place: together(found[place]) for place in sorted(found)})
        if not self.carry:
            return prediction
        return replace(prediction, carry={**(prediction.carry or {}), _BANKS: banks})

    def tracks(self, state: State, ask: Ask) -> list[Track]:
        """What an ask follows: as many objects as the slice with most queries has (several boxes on one slice).

        Raises:
            PromptError: the prompt says nothing that the net can use on any slice.
        """
        queries = {}
        for place, prompt in self._prompted(state, ask.prompt).items():
            window = self.window(state, place)
            marks = self.frame.marks(prompt, window, self.seen(ask, window))
            if len(marks.image):
                queries[place] = split(marks)
        if not queries:
            raise nothing(ask.prompt)
        low, high = self._range(state, ask.prompt)
        order = _rising(min(queries), low, high)
        if self.every:
            queries = {place: queries[place] for place in queries if not order.index(place) // self.batch % self.every}
        if self.order == "outward":
            order = sorted(order, key=lambda place: (min(abs(place - prompted) for prompted in queries), place))
        before = ((ask.previous.carry or {}) if ask.previous is not None else {}).get(_BANKS, [])
        return [
            Track(
                {place: own[min(i, len(own) - 1)] for place, own in queries.items()},
                order,
                tuple(before[i]) if i < len(before) else (),
            )
            for i in range(max(len(own) for own in queries.values()))
        ]

    def _prompted(self, state: State, prompt: Prompt) -> dict[int, Prompt]:
        """What prompts each slice, before steps are counted."""
        grid = state.volume.grid
        return thinned(prompt, grid, 1) if self.every else by_slice(prompt, grid)

    def _range(self, state: State, prompt: Prompt) -> tuple[int, int]:
        """(low, high) of the slices asked: a thick box bounds them, else all."""
        grid = state.volume.grid
        spans = marked(prompt, grid)
        boxes = marked(Prompt(tuple(mark for mark in prompt.marks if isinstance(mark, Box))), grid)
        if any(last - first > 1 for first, last in boxes):
            return min(first for first, _ in spans), max(last for _, last in spans)
        return 0, grid.shape[0]

    @torch.no_grad()
    def steps(self, state: State, track: Track, draw: Draw) -> Iterator[Step]:
        """The slices of a track, answered and remembered in its order."""
        bank = [entry._replace(tree=mapped(lambda x: x.to(self._device), entry.tree)) for entry in track.bank]
        for first in range(0, len(track.order), self.batch):
            places = track.order[first : first + self.batch]
            answers = [self._answered(state, track, place, bank, draw) for place in places]
            bank = [entry for entry in bank if entry.place not in places]  # asked again: the new one counts
            choices = []
            if len(bank) < self.bank:
                bank += [answer.entry for answer in answers]
            else:
                for answer in answers:
                    choice = chosen(self.sorting, bank, answer.entry)
                    choices.append(choice)
                    if choice.replaced:
                        bank = [*bank[: choice.nearest], *bank[choice.nearest + 1 :], answer.entry]
            yield Step(answers, choices, list(bank))

    def _answered(self, state: State, track: Track, place: int, bank: Sequence[Entry], draw: Draw) -> Answer:
        """A slice's answer, from what it recalls of the bank and its own marks, if it has some."""
        (features,) = self.features(state, [place])
        features = mapped(lambda x: x.to(self._device), features)
        shares, trees = None, [entry.tree for entry in bank]
        if bank:
            shares = self.sorting.likeness(features, trees).softmax(dim=0).cpu().numpy()
            drawn = [bank[i] for i in draw(shares)]
            features = self.sorting.recall(
                features,
                [entry.tree for entry in drawn],
                [place - entry.place for entry in drawn],
                prompted=[entry.place in track.marks for entry in drawn],
                n_slices=state.volume.grid.shape[0],
            )
        given = place in track.marks
        marks = track.marks[place] if given else Marks(torch.zeros(1, dtype=torch.int64))
        decoded = self.sorting.decode(features, on_device(marks, self._device))
        tree = self.sorting.remember(features, decoded, prompted=given)
        quality = 0.0 if decoded.quality is None else float(decoded.quality[0, 0])
        return Answer(Entry(place, tree, quality), decoded, shares)

    def _drawing(self, seed: int, i: int) -> Draw:
        """How the memories of an ask's i-th object are drawn."""
        if self.draw == "top-k":
            return lambda shares: np.argsort(-shares, kind="stable")[: self.recalled].tolist()
        generator = np.random.default_rng([seed, i])

        def drawn(shares: Array) -> list[int]:
            even = shares.astype(np.float64)
            return generator.choice(len(even), size=self.recalled, p=even / even.sum()).tolist()  # type: ignore[no-any-return]

        return drawn


def chosen(net: SortableNet, bank: Sequence[Entry], new: Entry) -> Choice:
    """What a full bank decides about a new entry."""
    n = len(bank)
    alike = net.closeness([*(entry.tree for entry in bank), new.tree]).cpu().numpy()
    likeness, among = alike[n, :n], alike[:n, :n].copy()
    np.fill_diagonal(among, -np.inf)
    least = int(likeness.argmin())
    nearest = int(among[least].argmax())
    gain = new.quality - (bank[nearest].quality - QUALITY_MARGIN)
    replaced = bool(likeness[least] < among[least, nearest] and gain > 0)
    return Choice(new.place, least, nearest, replaced, likeness, among[least], gain)


def _rising(start: int, low: int, high: int) -> list[int]:
    """Upwards from a slice to the end, then from the beginning up to it."""
    return [*range(start, high), *range(low, start)]


def _packed(bank: Sequence[Entry]) -> list[Entry]:
    """A bank that is kept between rounds: in bfloat16, off the device."""
    return [entry._replace(tree=mapped(lambda x: x.to("cpu", torch.bfloat16), entry.tree)) for entry in bank]
