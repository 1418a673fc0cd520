"""Candidates: of several masks one is chosen, by the model's predicted quality or by how well the masks agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from segwise.card import WrapperCard
from segwise.errors import SpecError
from segwise.geometry import Array, Volume, regrid
from segwise.segmenter import OUTSIDE, Ask, Prediction, Segmenter, State, Store
from segwise.wrappers import _fused, _redrawn

CARD = WrapperCard(
    title="Candidates",
    summary="All masks that a model gives for n prompts (moved by millimetres) compete; one is chosen, none is mixed.",
    paper="https://arxiv.org/abs/2304.02643 (section 3: several masks with a predicted IoU); agreement is ours",
)


def wrap(
    segmenter: Segmenter, *, by: Literal["quality", "agreement"] = "agreement", n: int = 4, mm: float = 3.0
) -> Segmenter:
    """The model with a choice.

    Args:
        segmenter: the model.
        by: "quality": the greatest predicted quality; "agreement": the greatest mean DSC with the other masks.
        n: prompts, the given one included; with 1 the model's own candidates compete.
        mm: how far prompts are moved, as by `jitter`.

    Raises:
        SpecError: n below 1, or mm not above 0.
    """
    if n < 1 or mm <= 0:
        raise SpecError(f"candidates: n is {n} and mm is {mm:g}, expected n of 1 or more and mm above 0")
    return Candidates(segmenter, by, n, mm)


class Candidates(Segmenter):
    """Asks about several prompts on one encoding, and hands out one of all masks."""

    def __init__(self, inner: Segmenter, by: str, n: int, mm: float) -> None:
        self._inner, self._by, self._n, self._mm = inner, by, n, mm
        self.digest = _fused.named(inner.digest, "candidates", by, n, mm)
        self.encoder = inner.encoder

    def encode(self, volume: Volume, *, store: Store) -> State:
        """The model's own."""
        return self._inner.encode(volume, store=store)

    def segment(self, state: State, asks: Sequence[Ask]) -> list[Prediction]:
        """One prediction an ask: the chosen candidate, with the number it was chosen by as its quality.

        Raises:
            SpecError: by=quality, and the model predicts none.
        """
        found = _redrawn.looks(self._inner, state, asks, n=self._n, mm=self._mm)
        return [self._chosen(ask, own) for ask, own in zip(asks, found, strict=True)]

    def _chosen(self, ask: Ask, answers: Sequence[Prediction]) -> Prediction:
        grid = _fused.around([one.grid for one in answers])
        logits = np.concatenate([regrid(one.logits, one.grid, grid, order=0, outside=OUTSIDE) for one in answers])
        worth = self._qualities(answers) if self._by == "quality" else agreement(logits > 0)
        best = int(np.argmax(worth))
        presences = [one.presence for one in answers if one.presence is not None]
        return Prediction(
            ask.prompt,
            logits[best][None],
            grid,
            quality=worth[[best]],
            presence=float(np.mean(presences)) if len(presences) == len(answers) else None,
            carry=_redrawn.carried(ask, answers),
        )

    def _qualities(self, answers: Sequence[Prediction]) -> Array:
        known = [one.quality for one in answers if one.quality is not None]
        if len(known) < len(answers):
            raise SpecError("candidates(by=quality) needs a model that predicts its quality; use by=agreement")
        return np.concatenate(known)


def agreement(masks: Array) -> Array:
    """float64 [N]: mean DSC of each mask with the others, 1 for two empty ones and for a mask alone. bool [N, ...]."""
    flat = masks.reshape(len(masks), -1).astype(np.float32)
    both, sizes = (flat @ flat.T).astype(np.float64), flat.sum(axis=1, dtype=np.float64)
    whole = sizes[:, None] + sizes
    dice = np.where(whole > 0, 2 * both / np.maximum(whole, 1), 1.0)
    others = len(masks) - 1
    return (dice.sum(axis=1) - np.diag(dice)) / others if others else np.ones(1)
