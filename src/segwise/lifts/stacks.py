"""`Stacks`: a closed-label net that sees one slice, or a slice with its neighbours; a target is asked for by name.

The net runs once a volume, stack by stack, in memory for a few slices. What it says of a slice in several stacks is
averaged, and what is kept is a ranking of the best classes (`lifts.ranking`) on the slices as they are in the file, so
that an answer's sign is the original's own label on every voxel.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from segwise.errors import PromptError
from segwise.geometry import Array, Grid, Volume, regrid
from segwise.lifts.grey import SHEAR, lowest
from segwise.lifts.ranking import RANKS, REACH_MM, answer, kept, margin, ranked
from segwise.nets.contract import ClosedNet
from segwise.prompt import Prompt
from segwise.segmenter import Ask, Frame, Learned, Parts, Prediction, State, Store, Tree, expect, step

VERSION = 1
KEPT_BYTES = 3 << 28  # 768 MiB, if the box were the whole volume: a store in memory keeps it


@dataclass(frozen=True)
class StackFrame(Frame[tuple[str, ...]]):
    """The preprocessing of a net that sees stacks of slices; its marks are the labels that a prompt's text means.

    The prepared volume has its first and last slice repeated, so that every slice of the file has all its neighbours.

    Attributes:
        labels: the closed list, in channel order without background.
        size: side of a view.
        axes: where slices, rows and columns point, as "SPL".
        slices: of a stack, odd; the middle one is the window's own.
    """

    labels: tuple[str, ...]
    size: int = 512
    axes: str = "SPL"
    slices: int = 1

    @property
    def shape(self) -> tuple[int, int, int]:  # type: ignore[override]
        """(slices, size, size)."""
        return self.slices, self.size, self.size

    @abstractmethod
    def scaled(self, values: Array) -> Array:
        """Intensities of the whole volume as the net's training had them: float32 of the same shape."""

    @abstractmethod
    def shown(self, stack: Array) -> Array:
        """float32 [slices, H, W] -> [slices, size, size]."""

    @abstractmethod
    def scores(self, logits: Array, window: Grid) -> Array:
        """Logits of a view, float32 [K, slices, size, size], on its slices: float32 [K, slices, H, W].

        The class with the greatest score, summed over all stacks that show a slice, is its label.
        """

    def prepare(self, volume: Volume) -> Volume:
        """float32 [1, D + slices - 1, H, W], turned, scaled and padded; only the first channel is used.

        A sheared grid is resampled on the nearest orthogonal one.
        """
        turned = volume.grid.toward(self.axes)
        grid = turned if turned.skew < SHEAR else turned.canonical(self.axes)
        values = volume.array[:1]
        values = regrid(values, volume.grid, grid, order=1, outside=lowest(values))
        finite = np.nan_to_num(values.astype(np.float32), nan=lowest(values))
        return self.padded(Volume.of(self.scaled(finite), grid, volume.channels[:1]))

    def padded(self, volume: Volume) -> Volume:
        """The first and the last slice repeated for their missing neighbours."""
        half = self.slices // 2
        array = np.pad(volume.array, ((0, 0), (half, half), (0, 0), (0, 0)), mode="edge")
        shape = volume.grid.shape
        grid = volume.grid.crop((-half, 0, 0), (shape[0] + half, *shape[1:]))
        return Volume.of(array, grid, volume.channels)

    def inner(self, grid: Grid) -> Grid:
        """The file's slices of a prepared grid."""
        half = self.slices // 2
        return grid.crop((half, 0, 0), (grid.shape[0] - half, *grid.shape[1:]))

    def window(self, grid: Grid, centre: Sequence[int]) -> Grid:
        """The stack around a slice of a prepared grid, moved inwards where it would reach beyond."""
        half = self.slices // 2
        place = min(max(int(centre[0]), half), grid.shape[0] - 1 - half)
        return grid.crop((place - half, 0, 0), (place + half + 1, *grid.shape[1:]))

    def view(self, prepared: Volume, window: Grid) -> Array:
        """float32 [3, slices, size, size]: three equal channels."""
        stack = regrid(prepared.array[0], prepared.grid, window, order=1, outside=0)
        return np.repeat(self.shown(stack)[None], 3, axis=0)

    def follow(self, mask: Array, window: Grid) -> tuple[str, ...]:
        """Nothing: a mask names no label."""
        return ()


class Stacks(Learned):
    """The lift of closed-label nets that see stacks of slices.

    Args:
        parts: a `ClosedNet` whose channel 0 is background and channel i answers `labels[i - 1]`; a `StackFrame`.
        count_from: what the number of stacks begins with by which the sum over stacks is divided. MA-SAM's begins with
            1, which makes all scores smaller and no other class the greatest.
    """

    def __init__(self, parts: Parts, *, count_from: int = 0) -> None:
        if not parts.labels:
            raise ValueError("Stacks needs a closed list of labels")
        self.parts, self.count_from = parts, count_from
        self.frame: StackFrame = parts.frame  # type: ignore[assignment]
        words = ("stacks", VERSION, RANKS, torch.__version__, parts.weights, parts.frame.digest, count_from)
        self.encoder = hashlib.blake2b(repr(words).encode(), digest_size=16).hexdigest()
        self.digest = hashlib.blake2b(repr((self.encoder, parts.labels, REACH_MM)).encode(), digest_size=16).hexdigest()

    def rebuilt(self, parts: Parts) -> Self:
        """The same lift around other parts."""
        return type(self)(parts, count_from=self.count_from)

    def encode(self, volume: Volume, *, store: Store) -> State:
        """Bring the volume into the net's frame; the net itself runs when the first target is asked for."""
        return State(self.frame.prepare(volume), volume.grid, store)

    def segment(self, state: State, asks: Sequence[Ask]) -> list[Prediction]:
        """One prediction an ask: the label or labels that its text names.

        Raises:
            NoSuchStructure: a text names nothing on the list.
            PromptError: an ask has no text.
        """
        wanted = [self._channels(ask.prompt, state) for ask in asks]
        if not wanted:
            return []
        key = f"stacks-{self.encoder}-{state.volume.digest}"
        found = state.store.get([key], lambda _: [self._ranking(state.volume)])[0]
        lattice = self.frame.inner(state.volume.grid)
        return [
            answer(ask.prompt, margin(found, chosen), found["low"], lattice=lattice, grid=state.grid)
            for ask, chosen in zip(asks, wanted, strict=True)
        ]

    def slabs(self, prepared: Volume) -> Iterator[torch.Tensor]:
        """Mean scores of the file's slices in order, one at a time: float32 [K, 1, H, W]."""
        frame, grid = self.frame, prepared.grid
        half, depth = frame.slices // 2, grid.shape[0]
        sums: dict[int, Array] = {}
        seen: dict[int, int] = {}
        expect(depth - 2 * half, "slices")
        for centre in range(half, depth - half):
            step()
            window = frame.window(grid, (centre, 0, 0))
            scores = frame.scores(self._logits(frame.view(prepared, window)), window)
            for i, place in enumerate(range(centre - half, centre + half + 1)):
                sums[place] = sums[place] + scores[:, i] if place in sums else scores[:, i]
                seen[place] = seen.get(place, 0) + 1
            done = centre - half if centre < depth - half - 1 else depth - half - 1
            for place in sorted(place for place in sums if place <= done):
                total, n = sums.pop(place), seen.pop(place)
                if half <= place < depth - half:
                    yield torch.from_numpy(total / np.float32(n + self.count_from))[:, None]

    @torch.inference_mode()
    def _logits(self, view: Array) -> Array:
        """float32 [3, n, S, S] -> [K, n, S, S]."""
        net: ClosedNet = self.parts.net.eval()
        device = next((p.device for p in net.parameters()), torch.device("cpu"))
        found: Array = net(torch.from_numpy(view)[None].to(device))[0][0].float().cpu().numpy()
        return found

    def _channels(self, prompt: Prompt, state: State) -> Array:
        """bool [K]: the net's classes that a prompt means."""
        labels = self.parts.labels or ()
        if "text" not in prompt.kinds:
            came = ", ".join(sorted(prompt.kinds)) or "nothing"
            raise PromptError(f"a model with a closed list of labels takes the target's name as text; came: {came}")
        named = self.frame.marks(prompt, state.volume.grid, None)
        return np.array([False, *(label in named for label in labels)])

    def _ranking(self, prepared: Volume) -> Tree:
        shape = self.frame.inner(prepared.grid).shape
        n = len(self.parts.labels or ()) + 1
        ranks = int(np.clip(KEPT_BYTES // (5 * np.prod(shape)), 2, RANKS))
        found, best = ranked(self.slabs(prepared), shape=shape, n_classes=n, ranks=ranks)
        return kept(found, best, best != 0)
