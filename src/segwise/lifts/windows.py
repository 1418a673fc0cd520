"""`Windows`: a closed-label net that sees a volume window by window; a target is a label asked for by name.

The windows run once a volume and their blended logits are brought to the input's own grid at once, slab by slab, as
the original programs do before they take the best class. What is kept in the store is small:

- nets whose classes exclude each other (`paint=None`): a ranking of the best classes (`lifts.ranking`).
- nets with independent classes (`paint`): of each channel the box where it is > 0.

Memory: the sums of one window's depth of planes for all classes, one slab on the input's grid, and what is kept.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from segwise.errors import PromptError
from segwise.geometry import Array, Grid, Volume, regrid
from segwise.lifts.ranking import RANKS, REACH_MM, RIM, Slab, answer, box, covering, kept, margin, ranked, slices
from segwise.lifts.tiles import Tiling, blended, mirrored
from segwise.prompt import Prompt
from segwise.segmenter import OUTSIDE, Ask, Frame, Learned, Parts, Prediction, State, Store, Tree

VERSION = 1
Restore = Callable[[Array, Grid, Grid], Array]
KEPT_BYTES = 3 << 28  # 768 MiB: a store in memory keeps it
SLAB_BYTES = 1 << 28  # of float32 logits on the input's grid


class WindowFrame(Frame[tuple[str, ...]]):
    """The preprocessing of a net that sees windows; its marks are the labels that a prompt's text means.

    `shape` is the size of a window. `view(prepared, prepared.grid)` is the whole volume.
    """

    @abstractmethod
    def restore(self, logits: Array, have: Grid, want: Grid) -> Array:
        """Logits [K, *have.shape] on the prepared lattice, at the voxels of a slab: float [K, *want.shape]."""


@dataclass(frozen=True)
class Painting:
    """Independent classes that are painted over one another.

    Attributes:
        colours: of each channel, what it paints.
        covers: of each label (in the order of `Parts.labels`), the colours that belong to it.
    """

    colours: tuple[int, ...]
    covers: tuple[frozenset[int], ...]

    @staticmethod
    def apart(n: int) -> Painting:
        """Channels that know nothing of each other: each label is its own channel, > 0."""
        return Painting((), tuple(frozenset({i}) for i in range(n)))


class Windows(Learned):
    """The lift of closed-label nets that see windows.

    Args:
        parts: a `ClosedNet`; logits come back linearly unless its frame is a `WindowFrame`. With
            `paint=None` its channel 0 is background and channel i answers `labels[i - 1]`.
        tiling: of the windows.
        mirror: axes (0 to 2 of the window) over whose mirrorings answers are averaged.
        paint: the channels are independent, > 0 each.
    """

    def __init__(
        self, parts: Parts, tiling: Tiling, *, mirror: Sequence[int] = (), paint: Painting | None = None
    ) -> None:
        if not parts.labels:
            raise ValueError("Windows needs a closed list of labels")
        self.parts, self.tiling, self.mirror, self.paint = parts, tiling, tuple(mirror), paint
        words = ("windows", VERSION, RANKS, parts.weights, parts.frame.digest, tiling, self.mirror, paint)
        self.encoder = hashlib.blake2b(repr(words).encode(), digest_size=16).hexdigest()
        self.digest = hashlib.blake2b(repr((self.encoder, parts.labels, REACH_MM)).encode(), digest_size=16).hexdigest()

    def rebuilt(self, parts: Parts) -> Self:
        """The same lift around other parts."""
        return type(self)(parts, self.tiling, mirror=self.mirror, paint=self.paint)

    def encode(self, volume: Volume, *, store: Store) -> State:
        """Bring the volume into the net's frame; the windows run when the first target is asked for."""
        return State(self.parts.frame.prepare(volume), volume.grid, store)

    def segment(self, state: State, asks: Sequence[Ask]) -> list[Prediction]:
        """One prediction an ask: the label or labels that its text names.

        Raises:
            NoSuchStructure: a text names nothing on the list.
            PromptError: an ask has no text.
        """
        wanted = [self._named(ask.prompt, state) for ask in asks]
        if not wanted:
            return []
        lattice = lattice_of(state)
        key = f"windows-{self.encoder}-{state.volume.digest}-{state.grid.digest}"
        found = state.store.get([key], lambda _: [self._keep(state, lattice)])[0]
        place = lattice if lattice is not None else state.grid
        return [self._answer(ask.prompt, found, named, place, state) for ask, named in zip(asks, wanted, strict=True)]

    def logits(self, prepared: Volume) -> Iterator[Tensor]:
        """The blended logits on the prepared grid, in slabs [K, d, H, W] along its first axis."""
        net, frame = self.parts.net.eval(), self.parts.frame
        device = next((p.device for p in net.parameters()), torch.device("cpu"))
        call = mirrored(lambda image: net(image)[0], self.mirror)
        view = torch.from_numpy(np.array(frame.view(prepared, prepared.grid), dtype=np.float32))

        @torch.inference_mode()
        def one(window: Tensor, low: tuple[int, int, int]) -> Tensor:
            return call(window.to(device))[0]

        return blended(view, self.tiling, one)

    def _restore(self, logits: Array, have: Grid, want: Grid) -> Array:
        frame = self.parts.frame
        return frame.restore(logits, have, want) if isinstance(frame, WindowFrame) else linearly(logits, have, want)

    def _named(self, prompt: Prompt, state: State) -> Array:
        """bool [labels]: which ones a prompt means."""
        if "text" not in prompt.kinds:
            came = ", ".join(sorted(prompt.kinds)) or "nothing"
            raise PromptError(f"a model with a closed list of labels takes the target's name as text; came: {came}")
        named = self.parts.frame.marks(prompt, state.volume.grid, None)
        return np.array([label in named for label in self.parts.labels or ()])

    def _keep(self, state: State, lattice: Grid | None) -> Tree:
        """What of all logits is kept, on the lattice."""
        if lattice is None:
            return {}
        n = len(self.parts.labels or ()) + (self.paint is None)
        slabs = restored(self.logits(state.volume), state.volume.grid, lattice, self._restore)
        if self.paint is not None:
            return layers(slabs)
        ranks = int(np.clip(KEPT_BYTES // (3 * np.prod(lattice.shape)), 2, RANKS))
        found, best = ranked(slabs, shape=lattice.shape, n_classes=n, ranks=ranks, half=True)
        return kept(found, best, best != 0)

    def _answer(self, prompt: Prompt, found: Tree, named: Array, lattice: Grid, state: State) -> Prediction:
        nothing = np.zeros((0, 0, 0), dtype=np.float32)
        if not found:
            return answer(prompt, nothing, np.zeros(3, np.int64), lattice=lattice, grid=state.grid)
        if self.paint is None:
            logits, low = margin(found, np.concatenate([[False], named])), found["low"]
        else:
            logits, low = painted(found, self.paint, named)
        return answer(prompt, logits, low, lattice=lattice, grid=state.grid)


def lattice_of(state: State) -> Grid | None:
    """The input's own voxels where the prepared volume lies, with the axes in the prepared order; None if nowhere."""
    crop = covering(state.grid, state.volume.grid)
    return None if crop is None else crop.toward(state.volume.grid.axes)


def restored(slabs: Iterator[Tensor], have: Grid, want: Grid, restore: Restore) -> Iterator[Tensor]:
    """Slabs on a prepared grid as slabs on another lattice whose first axis runs the same way.

    Args:
        slabs: [K, d, H, W], together on `have`.
        have, want: grids.
        restore: brings a part of the one onto a part of the other, as `WindowFrame.restore`.

    Yields:
        float [K, d, H', W'], together on `want`.
    """
    needs = _needs(have, want)
    held: Tensor | None = None
    first = done = 0  # first plane held; planes of `want` handed out
    for slab in slabs:
        held = slab if held is None else torch.cat((held, slab), dim=1)
        end = first + held.shape[1]
        ready = int((needs[:, 1] < end).sum()) if end < have.shape[0] else want.shape[0]
        step = max(1, int(SLAB_BYTES // (4 * len(held) * want.shape[1] * want.shape[2])))
        for low in range(done, ready, step):
            high = min(low + step, ready)
            a, b = needs[low:high, 0].min() - first, needs[low:high, 1].max() + 1 - first
            part = have.crop((first + a, 0, 0), (first + b, *have.shape[1:]))
            wanted = want.crop((low, 0, 0), (high, *want.shape[1:]))
            yield torch.from_numpy(np.ascontiguousarray(restore(held[:, a:b].numpy(), part, wanted)))
        done = max(done, ready)
        if done < want.shape[0]:
            keep = int(needs[done:, 0].min())
            held, first = held[:, keep - first :].clone(), keep


def _needs(have: Grid, want: Grid) -> Array:
    """int [planes of want, 2]: the first and last plane of `have` around each plane of `want`, cut to `have`."""
    corners = [(0, 0), (0, want.shape[2] - 1), (want.shape[1] - 1, 0), (want.shape[1] - 1, want.shape[2] - 1)]
    places = np.array([(d, h, w) for d in range(want.shape[0]) for h, w in corners])
    at = have.index(want.mm(places))[:, 0].reshape(-1, 4)
    low, high = np.floor(at.min(axis=1) - 1e-6), np.ceil(at.max(axis=1) + 1e-6)
    found = np.clip(np.stack([low, high], axis=1), 0, have.shape[0] - 1).astype(int)
    found[:, 1] = np.maximum.accumulate(found[:, 1])
    return np.asarray(found)


def layers(slabs: Iterator[Tensor], *, half: bool = True) -> Tree:
    """Of each channel the box where it is > 0, with RIM around: {"0": {"low": [3], "values": [d, h, w]}, …}."""
    pieces: dict[int, list[Slab]] = {}
    at = n = 0
    for slab in slabs:
        logits = slab.float().numpy()
        n = len(logits)
        for channel in np.flatnonzero((logits > 0).any(axis=(1, 2, 3))):
            low, high = box(logits[channel] > 0)
            low, high = np.maximum(low - RIM, 0), np.minimum(high + RIM, logits.shape[1:])
            cut = logits[channel][slices(low, high)]
            values = _signed(cut) if half else cut.copy()
            pieces.setdefault(int(channel), []).append(Slab(low + np.array((at, 0, 0)), values, np.zeros(0)))
        at += logits.shape[1]
    return {"n": n, **{str(channel): _layer(found) for channel, found in pieces.items()}}


def _signed(logits: Array) -> Array:
    """Half precision that keeps the sign of every value."""
    half = np.clip(logits, -60000, 60000).astype(np.float16)
    return np.asarray(np.where((logits > 0) & (half <= 0), np.float16(6e-8), half))


def _layer(pieces: list[Slab]) -> Tree:
    low = np.min([piece.low for piece in pieces], axis=0)
    high = np.max([piece.low + piece.values.shape for piece in pieces], axis=0)
    values = np.full(tuple(high - low), OUTSIDE, dtype=pieces[0].values.dtype)
    for piece in pieces:
        values[slices(piece.low - low, piece.low - low + piece.values.shape)] = piece.values
    return {"low": low.astype(np.int64), "values": values}


def painted(found: Tree, paint: Painting, named: Array) -> tuple[Array, Array]:
    """The logit of some labels of independent channels, and where it begins; an empty array if none is anywhere.

    A channel counts where it is > 0 and no later one that paints something else lies over it: the logit is the least of
    its own and minus the later ones', the greatest of that over the channels that paint a colour of the labels. So it
    is > 0 exactly where the painted colour belongs to them. Without colours the channel of a label counts alone.
    """
    colours = paint.colours or tuple(range(len(named)))
    own = frozenset().union(*(cover for cover, chosen in zip(paint.covers, named, strict=True) if chosen))
    inside = [i for i, colour in enumerate(colours) if colour in own and str(i) in found]
    if not inside:
        return np.zeros((0, 0, 0), dtype=np.float32), np.zeros(3, np.int64)
    low = np.min([found[str(i)]["low"] for i in inside], axis=0)
    high = np.max([found[str(i)]["low"] + found[str(i)]["values"].shape for i in inside], axis=0)
    logits = np.full(tuple(high - low), OUTSIDE, dtype=np.float32)
    for i in inside:
        over = _on(found[str(i)], low, high)
        later = range(i + 1, len(colours)) if paint.colours else ()
        for j in later:
            if colours[j] not in own and str(j) in found:
                over = np.minimum(over, -_on(found[str(j)], low, high))
        logits = np.maximum(logits, over)
    return logits, low


def _on(layer: Tree, low: Array, high: Array) -> Array:
    """A layer's values in a box, OUTSIDE where it has none: float32 [d, h, w]."""
    out = np.full(tuple(high - low), OUTSIDE, dtype=np.float32)
    first = np.maximum(layer["low"], low)
    last = np.minimum(layer["low"] + layer["values"].shape, high)
    if (first < last).all():
        out[slices(first - low, last - low)] = layer["values"][slices(first - layer["low"], last - layer["low"])]
    return out


def linearly(logits: Array, have: Grid, want: Grid) -> Array:
    """Logits [K, *have.shape] at the voxels of another grid, interpolated linearly; OUTSIDE beyond `have`."""
    return regrid(logits.astype(np.float32), have, want, order=1, outside=OUTSIDE)
