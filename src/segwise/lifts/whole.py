"""`Whole`: a closed-label net that sees the volume at once; a target is a label asked for by name.

The net runs once a volume, in slabs where it can (`StreamedNet`). What it says is kept in the store as a ranking: for
every voxel of the box around what is not background, the best RANKS classes with their logits, greatest first. That is
enough to answer any set of labels and takes 5 bytes a rank: 60 to 130 MB for a head, whether the net knows 18 classes
or 104 (all logits in float32 would be 229 MB and 1.3 GB).

An answer: the logit of a target S is the greatest logit over its labels minus the greatest over the rest, so on the
net's own grid it is > 0 exactly where the net's class lies in S. Where S (or the rest) has no class among the RANKS
best, its place is taken by the lowest ranked logit: the sign stays right, the size is a bound.

A prediction must lie on a crop of the input's grid, which is not the net's: the logits, not the mask, are interpolated
linearly onto that crop. Where both grids share their voxels this copies. The crop is the target's own voxels and
REACH_MM around them, within the box of what is not background.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import cc3d
import numpy as np
import torch

from segwise.errors import GridError, PromptError
from segwise.geometry import Array, Grid, Volume, regrid
from segwise.nets.contract import ClosedNet, StreamedNet
from segwise.prompt import Prompt
from segwise.segmenter import OUTSIDE, Ask, Learned, Parts, Prediction, State, Store, Tree

RANKS = 8
REACH_MM = 10.0
RIM = 2  # voxels of background that stay around a box, so that the logits at its faces can be interpolated
VERSION = 1


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
        return [_answer(ask.prompt, ranking, chosen, state) for ask, chosen in zip(asks, wanted, strict=True)]

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
        ranked, best = _run(net, frame.view(prepared, window), len(self.parts.labels or ()) + 1)
        kept = best != 0
        if self.tidy and kept.any():
            kept = np.asarray(cc3d.largest_k(kept, k=1, connectivity=26)) > 0
        if not kept.any():
            none = np.zeros((1, 0, 0, 0))
            return {"low": np.zeros(3, np.int64), "values": none.astype(np.float32), "classes": none.astype(np.uint8)}
        low, high = _box(kept)
        low, high = np.maximum(low - RIM, 0), np.minimum(high + RIM, kept.shape)
        values, classes = _joined(ranked, low, high)
        removed = (best != 0)[_slices(low, high)] & ~kept[_slices(low, high)]
        _background_wins(classes, removed)
        return {"low": low, "values": values, "classes": classes}


class _Ranked:
    """The ranking of one slab's box: low corner in the volume, values and classes [R, d, h, w]."""

    def __init__(self, low: Array, values: Array, classes: Array) -> None:
        self.low, self.values, self.classes = low, values, classes


@torch.inference_mode()
def _run(net: ClosedNet, view: Array, n_classes: int) -> tuple[list[_Ranked], Array]:
    """Rankings slab by slab, and the best class of every voxel, [D, H, W]."""
    net.eval()
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    image = torch.from_numpy(np.array(view, dtype=np.float32))[None].to(device)  # [1, C, D, H, W]
    dtype = np.dtype(np.uint8 if n_classes <= 256 else np.int16)
    best = np.zeros(view.shape[1:], dtype=dtype)
    ranked: list[_Ranked] = []
    at = 0
    slabs = net.slabs(image) if isinstance(net, StreamedNet) else iter([net(image)[0]])
    for logits, low, high in _boxed(slab[0] for slab in slabs):  # [K, d, H, W]
        if logits.shape[0] != n_classes or logits.shape[2:] != image.shape[3:]:
            raise GridError(f"the net answered {tuple(logits.shape)}, expected {n_classes} classes on {view.shape[1:]}")
        if (low < high).all():
            inside = logits[(slice(None), *_slices(low, high))].permute(1, 2, 3, 0)  # [d, h, w, K]
            values, classes = inside.float().topk(min(RANKS, n_classes), dim=-1)
            offset = np.array((at, 0, 0))
            order = _first(classes.to(torch.int16)).astype(dtype)
            ranked.append(_Ranked(low + offset, _first(values), order))
            best[_slices(low + offset, high + offset)] = order[0]
        at += logits.shape[1]
    return ranked, best


def _boxed(slabs: Iterable[torch.Tensor]) -> Iterator[tuple[torch.Tensor, Array, Array]]:
    """Each slab with the rows and columns around what is not background in it or in its neighbours (empty if none)."""
    held: torch.Tensor | None = None
    boxes: list[Array] = []  # of the slab before the held one, of the held one, of the next
    for logits in itertools.chain(slabs, [None]):
        boxes = [*boxes[-2:], np.zeros((0, 3)) if logits is None else _foreground(logits)]
        if held is not None:
            corners = np.concatenate(boxes).astype(np.int64)
            low, high = (corners.min(axis=0), corners.max(axis=0) + 1) if len(corners) else (np.zeros(3), np.zeros(3))
            low, high = np.maximum(low - RIM, 0), np.minimum(high + RIM, held.shape[1:]) if len(corners) else high
            low[0], high[0] = 0, held.shape[1]
            yield held, low.astype(np.int64), high.astype(np.int64)
        held = logits


def _foreground(logits: torch.Tensor) -> Array:
    """[K, d, H, W] -> the first and the last index (d, h, w) of what is not background, [2, 3]; [0, 3] if nothing."""
    mask = (logits.argmax(0) != 0).cpu().numpy()
    if not mask.any():
        return np.zeros((0, 3))
    low, high = _box(mask)
    return np.stack([low, high - 1])


def _first(ranks_last: torch.Tensor) -> Array:
    """[d, h, w, R] -> contiguous [R, d, h, w]."""
    return np.ascontiguousarray(ranks_last.permute(3, 0, 1, 2).cpu().numpy())


def _joined(ranked: list[_Ranked], low: Array, high: Array) -> tuple[Array, Array]:
    """All slabs in one box; a place that no slab's box covers is background, by an unknown lead. Empties the list."""
    ranks, dtype = len(ranked[0].values), ranked[0].classes.dtype
    shape = (ranks, *(high - low))
    values, classes = np.full(shape, OUTSIDE, dtype=np.float32), np.zeros(shape, dtype=dtype)
    values[0] = 0
    while ranked:
        piece = ranked.pop()
        first = np.maximum(piece.low, low)
        last = np.minimum(piece.low + piece.values.shape[1:], high)
        if (first < last).all():
            here, there = _slices(first - low, last - low), _slices(first - piece.low, last - piece.low)
            values[(slice(None), *here)] = piece.values[(slice(None), *there)]
            classes[(slice(None), *here)] = piece.classes[(slice(None), *there)]
    return values, classes


def _background_wins(classes: Array, removed: Array) -> None:
    """In removed voxels the winner and the background change places (in place); not ranked, background is last."""
    order = classes[:, removed]  # [R, n]
    winner = order[0].copy()
    where = np.where((order == 0).any(axis=0), (order == 0).argmax(axis=0), len(order) - 1)
    order[where, np.arange(order.shape[1])] = winner
    order[0] = 0
    classes[:, removed] = order


def _margin(ranking: Tree, chosen: Array) -> Array:
    """float32 [d, h, w]: the best logit over the chosen classes minus the best over the rest."""
    values, classes = ranking["values"], ranking["classes"]
    inside = outside = values[-1]
    for rank in reversed(range(len(values))):
        is_chosen = chosen[classes[rank]]
        inside = np.where(is_chosen, values[rank], inside)
        outside = np.where(is_chosen, outside, values[rank])
    return np.asarray(inside - outside, dtype=np.float32)


def _answer(prompt: Prompt, ranking: Tree, chosen: Array, state: State) -> Prediction:
    nothing = state.grid.crop((0, 0, 0), (1, 1, 1))
    empty = Prediction(prompt, np.full((1, 1, 1, 1), OUTSIDE, dtype=np.float32), nothing)
    if not ranking["values"].size:
        return empty
    margin = _margin(ranking, chosen)
    low, high = _box((margin > 0) | (margin == margin.max()))
    reach = np.ceil(REACH_MM / np.array(state.volume.grid.spacing_mm)).astype(int)
    low, high = np.maximum(low - reach, 0), np.minimum(high + reach, margin.shape)
    own = state.volume.grid.crop(low + ranking["low"], high + ranking["low"])
    crop = _covering(state.grid, own)
    if crop is None:
        return empty
    logits = regrid(margin[_slices(low, high)], own, crop, order=1, outside=OUTSIDE)
    return Prediction(prompt, np.ascontiguousarray(logits[None], dtype=np.float32), crop)


def _covering(grid: Grid, part: Grid) -> Grid | None:
    """The crop of `grid` that covers `part`; None if they do not meet."""
    faces = itertools.product(*((-0.5, n - 0.5) for n in part.shape))
    corners = grid.index(part.mm(list(faces)))
    low = np.clip(np.floor(corners.min(axis=0) + 0.5 + 1e-3), 0, None).astype(int)
    high = np.minimum(np.ceil(corners.max(axis=0) + 0.5 - 1e-3), grid.shape).astype(int)
    return grid.crop(low, high) if (low < high).all() else None


def _box(mask: Array) -> tuple[Array, Array]:
    """Half-open corners (int64 [3] each) of what is True; there must be something."""
    ends: list[Any] = []
    for axis in range(3):
        found = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        ends.append((found[0], found[-1] + 1))
    return np.array([e[0] for e in ends], dtype=np.int64), np.array([e[1] for e in ends], dtype=np.int64)


def _slices(low: Array, high: Array) -> tuple[slice, ...]:
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
