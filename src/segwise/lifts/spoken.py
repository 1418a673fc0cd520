"""`Spoken`: a 3D net that is asked in words and sees a volume window by window.

Each window is encoded once for all structures that are asked in one call, and what each one is answered is blended over
the windows, as probabilities or as logits. What is kept in the store is, of each query, the box where it is > 0 and its
greatest value anywhere: that is the presence score, P(the structure is in this volume) only as far as the net's own
probabilities can be believed. Nobody calibrated it.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from segwise.geometry import Array, Grid, Volume
from segwise.lifts.ranking import REACH_MM, answer
from segwise.lifts.tiles import Tiling, blended
from segwise.lifts.windows import Painting, layers, painted
from segwise.lifts.worded import joined, last_words
from segwise.nets.contract import Marks
from segwise.prompt import Prompt
from segwise.segmenter import Ask, Frame, Learned, Parts, Prediction, State, Store, Tree

VERSION = 1
SUMS_BYTES = 1 << 30  # of blended queries at a time; more of them run the windows again
EPS = 1e-7  # probabilities are kept this far from 0 and 1


class SpokenFrame(Frame[Marks]):
    """The preprocessing of such a net. `shape` is the size of a window."""

    @abstractmethod
    def asked(self, words: str, *, modality: str) -> Marks:
        """The queries that some words mean, of which the greatest answer counts; `tokens` is a dict of [Q, ...].

        Args:
            words: the structure's name, as a person typed it.
            modality: of the prepared volume, "" if it is not known.

        Raises:
            NoSuchStructure: the model does not know it.
            PromptError: the model cannot be asked about such an image.
        """

    def marks(self, prompt: Prompt, window: Grid, seen: Tree) -> Marks:
        """The queries of the prompt's last text: they have no place."""
        return self.asked(last_words(prompt), modality="")

    def follow(self, mask: Array, window: Grid) -> Marks:
        """No query: a mask has no name."""
        return Marks(torch.zeros(0, dtype=torch.int64))


class Spoken(Learned):
    """The lift.

    Args:
        parts: a `PromptNet` with `words(tokens) -> Tensor [Q, ...]`, which runs once a call and whose answer `decode`
            finds in `Marks.tokens`; a `SpokenFrame`.
        tiling: of the windows.
        blend: what is averaged over the windows, "probabilities" or "logits".
    """

    def __init__(self, parts: Parts, tiling: Tiling, *, blend: str = "probabilities") -> None:
        self.parts, self.tiling, self.blend = parts, tiling, blend
        words = ("spoken", VERSION, parts.weights, parts.frame.digest, tiling, blend)
        self.encoder = hashlib.blake2b(repr(words).encode(), digest_size=16).hexdigest()
        self.digest = hashlib.blake2b(repr((self.encoder, REACH_MM)).encode(), digest_size=16).hexdigest()

    def rebuilt(self, parts: Parts) -> Self:
        """The same lift around other parts."""
        return type(self)(parts, self.tiling, blend=self.blend)

    def encode(self, volume: Volume, *, store: Store) -> State:
        """Bring the volume into the net's frame; windows run when something is first asked for."""
        return State(self.parts.frame.prepare(volume), volume.grid, store)

    def segment(self, state: State, asks: Sequence[Ask]) -> list[Prediction]:
        """One prediction an ask; its presence is the greatest blended probability in the volume.

        Raises:
            NoSuchStructure: a text names nothing the model knows.
            PromptError: an ask has no text, or the model cannot be asked about such an image.
        """
        frame: Any = self.parts.frame
        modality = state.volume.channels[0].modality
        asked = [_rows(frame.asked(last_words(ask.prompt), modality=modality)) for ask in asks]
        wanted = {self._key(state, row): row for rows in asked for row in rows}
        found = dict(zip(wanted, self._answers(state, wanted), strict=True))
        return [
            self._prediction(state, ask.prompt, [found[self._key(state, row)] for row in rows])
            for ask, rows in zip(asks, asked, strict=True)
        ]

    def _key(self, state: State, row: Marks) -> str:
        said = hashlib.blake2b(digest_size=16)
        for name, value in sorted(row.tokens.items()):
            said.update(f"{name} {value.dtype} {tuple(value.shape)}".encode() + value.numpy().tobytes())
        return f"spoken-{self.encoder}-{state.volume.digest}-{said.hexdigest()}"

    def _answers(self, state: State, wanted: dict[str, Marks]) -> list[Tree]:
        """What is kept of each query, through the store."""
        rows = list(wanted.values())
        n = max(1, int(SUMS_BYTES // (4 * self.tiling.patch[0] * np.prod(state.volume.grid.shape[1:]))))

        def make(missing: list[int]) -> list[Tree]:
            chunks = [missing[i : i + n] for i in range(0, len(missing), n)]
            return [kept for chunk in chunks for kept in self._run(state.volume, [rows[i] for i in chunk])]

        return state.store.get(list(wanted), make) if wanted else []

    def _run(self, prepared: Volume, rows: list[Marks]) -> list[Tree]:
        """All windows, once, for some queries."""
        most = np.full(len(rows), -np.inf)
        slabs = self._watched(self.logits(prepared, joined(rows)), most)
        found = layers(slabs, half=False)
        none = {"low": np.zeros(3, np.int64), "values": np.zeros((0, 0, 0), np.float32)}
        return [{**found.get(str(i), none), "most": np.float64(most[i])} for i in range(len(rows))]

    def logits(self, prepared: Volume, queries: Marks) -> Iterator[Tensor]:
        """The blended answers as logits on the prepared grid, in slabs [Q, d, H, W] along its first axis."""
        net, frame = self.parts.net.eval(), self.parts.frame
        device = next((p.device for p in net.parameters()), torch.device("cpu"))
        view = torch.from_numpy(np.array(frame.view(prepared, prepared.grid), dtype=np.float32))
        probable = self.blend == "probabilities"
        with torch.inference_mode():
            words = net.words({name: value.to(device) for name, value in queries.tokens.items()})
        marks = Marks(torch.zeros_like(queries.image), tokens=words)

        @torch.inference_mode()
        def one(window: Tensor, low: tuple[int, int, int]) -> Tensor:
            found = net.decode(net.encode(window.to(device)), marks).logits[:, 0].float()
            return torch.as_tensor(found.sigmoid() if probable else found)

        for slab in blended(view, self.tiling, one):
            yield torch.logit(slab.cpu(), eps=EPS) if probable else slab.cpu()

    @staticmethod
    def _watched(slabs: Iterator[Tensor], most: Array) -> Iterator[Tensor]:
        """The slabs as they are; `most` [Q] becomes the greatest value of each query."""
        for slab in slabs:
            np.maximum(most, slab.amax(dim=(1, 2, 3)).numpy(), out=most)
            yield slab

    def _prediction(self, state: State, prompt: Prompt, kept: list[Tree]) -> Prediction:
        """The greatest of some queries."""
        n = len(kept)
        there = {str(i): tree for i, tree in enumerate(kept) if tree["values"].size}
        logits, low = painted(there, Painting.apart(n), np.ones(n, dtype=bool))
        most = max(float(tree["most"]) for tree in kept)
        presence = float(1 / (1 + np.exp(-np.clip(most, -50, 50))))
        return answer(prompt, logits, low, lattice=state.volume.grid, grid=state.grid, presence=presence)


def _rows(marks: Marks) -> list[Marks]:
    """Each query by itself."""
    return [
        Marks(marks.image[i : i + 1], tokens={name: value[i : i + 1] for name, value in marks.tokens.items()})
        for i in range(len(marks.image))
    ]
