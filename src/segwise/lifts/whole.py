"""`Whole`: a closed-label net that sees the volume at once; a target is a label asked for by name.

The net runs once a volume, in slabs where it can (`StreamedNet`). What it says is kept in the store as a ranking
(`lifts.ranking`): for every voxel of the box around what is not background, the best RANKS classes with their logits.
It takes 5 bytes a rank: 60 to 130 MB for a head, whether the net knows 18 classes or 104 (all logits in float32 would
be 229 MB and 1.3 GB).

A prediction must lie on a crop of the input's grid, which is not the net's: the logits, not the mask, are interpolated
linearly onto that crop. Where both grids share their voxels this copies. The crop is the target's own voxels and
REACH_MM around them, within the box of what is not background.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Self

import cc3d
import numpy as np
import torch

from segwise.errors import GridError, PromptError
from segwise.geometry import Array, Volume
from segwise.lifts.ranking import RANKS, REACH_MM, Slab, answer, kept, margin, ranked
from segwise.nets.contract import ClosedNet, StreamedNet
from segwise.prompt import Prompt
from segwise.segmenter import Ask, Learned, Parts, Prediction, State, Store, Tree

VERSION = 2


class Whole(Learned):
    """The lift of closed-label whole-volume nets.

    Args:
        parts: a `ClosedNet` whose channel 0 is background and channel i answers `labels[i - 1]`; a frame whose window
            is the whole prepared volume and whose marks are the names among `labels` that a prompt's text means.
        tidy: keep the largest 26-connected component of what is not background; elsewhere background wins.
    """

    def __init__(self, parts: Parts, *, tidy: bool = False) -> None:
        if not parts.labels:
            raise ValueError("Whole needs a closed list of labels")
        self.parts, self.tidy = parts, tidy
        words = ("whole", VERSION, RANKS, parts.weights, parts.frame.digest, tidy)
        self.encoder = hashlib.blake2b(repr(words).encode(), digest_size=16).hexdigest()
        self.digest = hashlib.blake2b(repr((self.encoder, parts.labels, REACH_MM)).encode(), digest_size=16).hexdigest()

    def rebuilt(self, parts: Parts) -> Self:
        """The same lift around other parts."""
        return type(self)(parts, tidy=self.tidy)

    def encode(self, volume: Volume, *, store: Store) -> State:
        """Bring the volume into the net's frame; the net itself runs when the first target is asked for."""
        return State(self.parts.frame.prepare(volume), volume.grid, store)

    def segment(self, state: State, asks: Sequence[Ask]) -> list[Prediction]:
        """One prediction an ask: the label or labels that its text names.

        Raises:
            NoSuchStructure: a text names nothing on the list.
            PromptError: an ask has no text.
        """
        wanted = [self._channels(ask.prompt, state) for ask in asks]
        if not wanted:
            return []
        key = f"whole-{self.encoder}-{state.volume.digest}"
        ranking = state.store.get([key], lambda _: [self._ranking(state.volume)])[0]
        lattice, grid = state.volume.grid, state.grid
        return [
            answer(ask.prompt, margin(ranking, chosen), ranking["low"], lattice=lattice, grid=grid)
            for ask, chosen in zip(asks, wanted, strict=True)
        ]

    def _channels(self, prompt: Prompt, state: State) -> Array:
        """bool [K]: the net's classes that a prompt means."""
        labels = self.parts.labels or ()
        if "text" not in prompt.kinds:
            came = ", ".join(sorted(prompt.kinds)) or "nothing"
            raise PromptError(f"a model with a closed list of labels takes the target's name as text; came: {came}")
        named = self.parts.frame.marks(prompt, state.volume.grid, None)
        return np.array([False, *(label in named for label in labels)])

    def _ranking(self, prepared: Volume) -> Tree:
        frame, net = self.parts.frame, self.parts.net
        centre = [n // 2 for n in prepared.grid.shape]
        window = frame.window(prepared.grid, centre)
        if window.shape != prepared.grid.shape:
            raise GridError(f"the frame's window is {window.shape}, expected all of {prepared.grid.shape}")
        found, best = _run(net, frame.view(prepared, window), len(self.parts.labels or ()) + 1)
        keep = best != 0
        if self.tidy and keep.any():
            keep = np.asarray(cc3d.largest_k(keep, k=1, connectivity=26)) > 0
        return kept(found, best, keep)


@torch.inference_mode()
def _run(net: ClosedNet, view: Array, n_classes: int) -> tuple[list[Slab], Array]:
    """Rankings slab by slab, and the best class of every voxel, [D, H, W]."""
    net.eval()
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    image = torch.from_numpy(np.array(view, dtype=np.float32))[None].to(device)  # [1, C, D, H, W]
    slabs = net.slabs(image) if isinstance(net, StreamedNet) else iter([net(image)[0]])
    d, h, w = view.shape[1:]
    return ranked((slab[0] for slab in slabs), shape=(d, h, w), n_classes=n_classes, ranks=RANKS)
