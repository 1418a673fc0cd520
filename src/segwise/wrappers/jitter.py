"""Jitter: the prompt is said several times, moved by millimetres, and the answers are averaged."""

from __future__ import annotations

from collections.abc import Sequence

from segwise.card import WrapperCard
from segwise.errors import SpecError
from segwise.geometry import Volume
from segwise.segmenter import Ask, Prediction, Segmenter, State, Store
from segwise.wrappers import _fused, _redrawn

CARD = WrapperCard(
    title="Prompt jitter",
    summary="n prompts, the given one and others moved by millimetres, are answered and averaged; one encoding.",
    paper="https://arxiv.org/abs/2304.12306 (MedSAM trains with such boxes; asking with several is common practice)",
)


def wrap(segmenter: Segmenter, *, n: int = 4, mm: float = 3.0) -> Segmenter:
    """The model with several prompts.

    Args:
        segmenter: the model.
        n: prompts, the given one included.
        mm: faces of boxes move by U(-mm, mm), at most a quarter of the edge; clicks and strokes by N(0, mm/2) an axis.

    Raises:
        SpecError: n below 1, or mm not above 0.
    """
    if n < 1 or mm <= 0:
        raise SpecError(f"jitter: n is {n} and mm is {mm:g}, expected n of 1 or more and mm above 0")
    return Jitter(segmenter, n, mm)


class Jitter(Segmenter):
    """Asks about several prompts on one encoding."""

    def __init__(self, inner: Segmenter, n: int, mm: float) -> None:
        self._inner, self._n, self._mm = inner, n, mm
        self.digest = _fused.named(inner.digest, "jitter", n, mm)
        self.encoder = inner.encoder

    def encode(self, volume: Volume, *, store: Store) -> State:
        """The model's own."""
        return self._inner.encode(volume, store=store)

    def segment(self, state: State, asks: Sequence[Ask]) -> list[Prediction]:
        """One prediction an ask: one candidate, the mean of the answers."""
        found = _redrawn.looks(self._inner, state, asks, n=self._n, mm=self._mm)
        return [
            _fused.mean(ask.prompt, [(one, one.grid) for one in own], _redrawn.carried(ask, own))
            for ask, own in zip(asks, found, strict=True)
        ]
