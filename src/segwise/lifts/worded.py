"""A 2D net that is asked in words, on a volume: words have no place, so every slice is asked.

The answers of the slices that say "here" make the volume's answer; the others are OUTSIDE. How surely a slice says so
is the frame's to judge; a volume is as sure as its surest slice.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from segwise.errors import PromptError
from segwise.geometry import Array, Grid, Volume
from segwise.lifts.planes import Piece, Planes, SliceFrame
from segwise.nets.contract import Marks
from segwise.nets.marks import mapped
from segwise.prompt import Prompt, Text
from segwise.segmenter import Ask, Prediction, State, Tree, expect


class WordFrame(SliceFrame):
    """The preprocessing of a 2D net that takes words.

    Subclasses add `asked` and `presence` to what a `SliceFrame` has.
    """

    @abstractmethod
    def asked(self, words: str, *, modality: str) -> Marks:
        """One query, the same for every slice.

        Args:
            words: the structure's name, as a person typed it.
            modality: of the prepared volume, "" if it is not known.

        Raises:
            NoSuchStructure: the model does not know it.
        """

    @abstractmethod
    def presence(self, prepared: Volume, window: Grid, logits: Array, words: str) -> float:
        """How surely one slice shows the structure, in [0, 1]; from 0.5 it counts.

        Args:
            prepared: the volume, from `prepare`.
            window: the slice.
            logits: float32 [M, 1, h, w] on the view.
            words: what was asked.
        """

    def marks(self, prompt: Prompt, window: Grid, seen: Tree) -> Marks:
        """The query of the prompt's last text."""
        return self.asked(last_words(prompt), modality="")

    def follow(self, mask: Array, window: Grid) -> Marks:
        """No query: a mask has no name."""
        return Marks(torch.zeros(0, dtype=torch.int64))


class Worded(Planes):
    """The Segmenter of a 2D net that takes words: all slices, all asks of a call together.

    The parts' frame is a `WordFrame`. Each slice is encoded once for all asks.
    """

    def segment(self, state: State, asks: Sequence[Ask]) -> list[Prediction]:
        """One prediction an ask; its presence is that of its surest slice.

        Raises:
            NoSuchStructure: a text names nothing the model knows.
            PromptError: a prompt has no text.
        """
        surest: list[tuple[float, int, Piece]] = []
        there: list[dict[int, Piece]] = [{} for _ in asks]
        for place, pieces, sure in self._slices(state, asks):
            if not surest:
                surest = [(p, place, piece) for p, piece in zip(sure, pieces, strict=True)]
            for i, (p, piece) in enumerate(zip(sure, pieces, strict=True)):
                if p > surest[i][0]:
                    surest[i] = (p, place, piece)
                if p >= 0.5:
                    there[i][place] = piece
        return [
            dataclasses.replace(self.assembled(state, ask, found or {place: piece}), presence=presence)
            for ask, found, (presence, place, piece) in zip(asks, there, surest, strict=True)
        ]

    def presence_by_slice(self, state: State, asks: Sequence[Ask]) -> Array:
        """float64 [A, D]: how surely each slice of the prepared volume shows what is asked."""
        sure = [sure for _, _, sure in self._slices(state, asks)]
        return np.array(sure, dtype=np.float64).T if asks else np.empty((0, state.volume.grid.shape[0]))

    def _slices(self, state: State, asks: Sequence[Ask]) -> Iterator[tuple[int, list[Piece], list[float]]]:
        """Slice by slice: its index, an answer an ask, a presence an ask."""
        frame = self.frame
        if not isinstance(frame, WordFrame):
            raise TypeError(f"{type(frame).__name__} is no WordFrame")
        words = [last_words(ask.prompt) for ask in asks]
        modality = state.volume.channels[0].modality
        queries = joined([frame.asked(text, modality=modality) for text in words]) if asks else None
        expect(state.volume.grid.shape[0], "slices")
        for place in range(state.volume.grid.shape[0] if queries else 0):
            (features,) = self.features(state, [place])
            pieces = self._said(features, queries)
            window = self.window(state, place)
            sure = [frame.presence(state.volume, window, p.logits[0], w) for p, w in zip(pieces, words, strict=True)]
            yield place, pieces, sure

    @torch.no_grad()
    def _said(self, features: Tree, queries: Marks | None) -> list[Piece]:
        """All queries in one call: which of them share words is the net's to decide."""
        if queries is None:
            return []
        own = mapped(lambda x: x.to(self._device), features)
        moved = Marks(queries.image.to(self._device), tokens=mapped(lambda x: x.to(self._device), queries.tokens))
        whole = self._piece([self.net.decode(own, moved)])
        return [whole.rows(i, i + 1) for i in range(len(queries.image))]


def last_words(prompt: Prompt) -> str:
    """The prompt's last text.

    Raises:
        PromptError: there is none.
    """
    words = [mark.words for mark in prompt.marks if isinstance(mark, Text)]
    if not words:
        came = ", ".join(sorted(prompt.kinds)) or "nothing"
        raise PromptError(f"this model takes the structure's name as text; came: {came}")
    return words[-1]


def joined(queries: Sequence[Marks]) -> Marks:
    """Queries of one slice as one call; their tokens have the same keys and lengths."""
    tokens = {key: torch.cat([marks.tokens[key] for marks in queries]) for key in queries[0].tokens}
    return Marks(torch.cat([marks.image for marks in queries]), tokens=tokens)
