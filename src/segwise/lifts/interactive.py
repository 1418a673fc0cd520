"""A net that takes marks as channels of its input, around a whole volume: crop, zoom out, refine, remember.

Every mark is followed by a prediction, as in the original with its automatic run; several marks of one ask go in
their order. What is remembered between marks (`Board`) is a value: the marks as small stamps, the mask so far, and the
running intensity; it travels in `Prediction.carry`, so that a mark after an undo equals that mark on a fresh session.

Source: Isensee et al., nnInteractive (arXiv 2503.08373) and its package 2.5.0. Deviation: on a CPU with dense storage
the original divides its stored marks by the running intensity in place whenever a crop is a view; here never.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from segwise.errors import PromptError
from segwise.geometry import Array, Volume, bounds, regrid
from segwise.lifts import interactive_plan as plan
from segwise.lifts.interactive_board import Board, Mark, Rules, added, looked, marks
from segwise.prompt import Prompt
from segwise.segmenter import Ask, Learned, Parts, Prediction, State, Store, Tree

INK = 1.0  # size of the logits: the original answers with a mask
_CODE = "interactive-1"


def asked(image: Tensor, board: Board, box: Array, zoom: float, rules: Rules) -> tuple[Tensor, Tensor]:
    """The net's input [1 + channels, *patch] for a crop, and the previous mask [*patch] float16."""
    drawn = board.drawn(box, rules)
    view = plan.cut(image, box)
    before = drawn[rules.previous].clone()
    if tuple(view.shape[-3:]) != rules.patch:
        size = plan.odd(zoom * 2 - 1)
        thin = (
            {c for k in ("points", "scribble") if k in rules.supported for c in rules.pairs[k]} if size > 1 else set()
        )
        before = F.interpolate(before[None, None], rules.patch, mode="nearest")[0, 0]
        drawn = torch.cat(
            [
                plan.shrunk(plan.thickened(drawn[i : i + 1], size) if i in thin else drawn[i : i + 1], rules.patch)
                for i in range(len(drawn))
            ]
        )
        view = F.interpolate(view[None], rules.patch, mode="trilinear")[0]
    return torch.cat([view, _even(drawn, board, rules).float()]), before


def _even(drawn: Tensor, board: Board, rules: Rules) -> Tensor:
    """Marks divided by the running intensity, in place on a copy: the newest is 1."""
    if board.intensity != 1:
        for channel in range(len(drawn)):
            if channel != rules.previous:
                drawn[channel] /= board.intensity
    return drawn


class Step(NamedTuple):
    """What one mark did.

    Attributes:
        board: afterwards.
        centre, zooms, crops: of all looks.
        first: the first look's input, if it was asked for, and its logits.
        cover: the refining patches.
        changed: the box that was written, inside the image.
    """

    board: Board
    centre: list[int]
    zooms: list[float]
    crops: list[Array]
    first: tuple[Tensor, Tensor] | None
    cover: plan.Cover
    changed: Array


@torch.no_grad()
def step(
    net: Any,
    image: Tensor,
    board: Board,
    mark: Mark,
    rules: Rules,
    random: np.random.RandomState,
    *,
    autozoom: bool = True,
    keep: bool = False,
) -> Step:
    """Add a mark and predict.

    Args:
        net: [1, C, *patch] -> list of logits [1, 2, *patch].
        image: float32 [1, D, H, W], normalised.
        board: before; not changed.
        mark: on the image's voxels.
        rules: of the checkpoint.
        random: for the refining patches.
        autozoom: look from further away while the answer runs out of the crop.
        keep: return the first input and logits.
    """
    centre, zoom = looked(mark, rules.patch)
    board = added(board, mark, rules)
    zooms: list[float] = []
    crops: list[Array] = []
    first = None
    while True:
        box = plan.crop(centre, zoom, rules.patch)
        view, before = asked(image, board, box, zoom, rules)
        logits = net(view[None])[0][0]
        if keep and first is None:
            first = (view, logits)
        zooms.append(zoom)
        crops.append(box)
        found = logits.argmax(0)
        if not autozoom or zoom >= plan.FARTHEST or not plan.grown(found, before):
            break
        zoom = min(plan.FARTHEST, zoom * plan.GROWTH)
    if zoom == 1:
        board = _pasted(board, found, box)
        none = plan.Cover(np.empty((0, 3, 2), dtype=np.int64), 0)
        return Step(board, centre, zooms, crops, first, none, plan.clipped(box, board.shape))
    sides = tuple(int(n) for n in box[:, 1] - box[:, 0])
    if tuple(found.shape) != sides:
        found = (F.interpolate(found[None, None].float(), sides, mode="trilinear")[0, 0] >= 0.5).long()
    cover = _planned(board, found, box, centre, rules, random, whole=mark.kind == "mask")
    changed = plan.clipped(plan.union(cover.boxes), board.shape)
    return Step(refined(net, image, board, found, box, cover, rules), centre, zooms, crops, first, cover, changed)


def _pasted(board: Board, found: Tensor, box: Array) -> Board:
    previous, mask = (torch.from_numpy(board.bits(b)) for b in (board.previous, board.mask))
    for target in (previous, mask):
        plan.paste(target, found.bool(), box)
    return replace(board, previous=_packed(previous), mask=_packed(mask))


def _packed(mask: Tensor) -> bytes:
    return np.packbits(mask.numpy()).tobytes()


def _planned(
    board: Board,
    found: Tensor,
    box: Array,
    centre: list[int],
    rules: Rules,
    random: np.random.RandomState,
    *,
    whole: bool,
) -> plan.Cover:
    """The refining patches of a coarse answer on its crop; `whole`: all that was there counts as changed."""
    before = torch.from_numpy(board.bits(board.previous))
    seen = region = plan.clipped(box, board.shape)
    there = bounds(before.numpy()) if whole else None
    if there is not None:
        region = plan.union(np.stack([region, np.array(there).T]))
    changed = torch.zeros(tuple((region[:, 1] - region[:, 0]).tolist()), dtype=torch.bool)
    differ = found[plan.slices(seen - box[:, :1])].bool() != before[plan.slices(seen)]
    changed[plan.slices(seen - region[:, :1])] = plan.opened(differ)
    if whole:
        changed |= before[plan.slices(region)]
    cover = plan.cover(changed.numpy(), rules.patch, random)
    if not len(cover.boxes):
        return plan.Cover(plan.crop(centre, 1.0, rules.patch)[None], 0)
    return cover._replace(boxes=cover.boxes + region[None, :, :1])


def refined(net: Any, image: Tensor, board: Board, found: Tensor, box: Array, cover: plan.Cover, rules: Rules) -> Board:
    """The coarse answer as previous mask, then every patch at full resolution in turn."""
    previous, mask = (torch.from_numpy(board.bits(b)) for b in (board.previous, board.mask))
    plan.paste(previous, found.bool(), box)
    board = replace(board, previous=_packed(previous))
    span = plan.union(cover.boxes)
    drawn = _even(board.drawn(span, rules), board, rules)
    for patch in cover.boxes:
        own = plan.slices(patch - span[:, :1])
        view = torch.cat([plan.cut(image, patch), drawn[(slice(None), *own)].float()])
        drawn[(rules.previous, *own)] = net(view[None])[0][0].argmax(0).half()
    for target in (previous, mask):
        plan.paste(target, drawn[rules.previous] > 0.5, span)
    return replace(board, previous=_packed(previous), mask=_packed(mask))


class Interactive(Learned):
    """The Segmenter of a net that takes marks as channels.

    Args:
        parts: the net ([1, C, *patch] -> list of logits, two heads) and its frame.
        rules: of the checkpoint.
        box3d: what becomes of a box that is 3D for a net that takes flat ones: "refuse" or "middle-slice".
        autozoom: as in `step`.
    """

    def __init__(self, parts: Parts, rules: Rules, *, box3d: str = "refuse", autozoom: bool = True) -> None:
        self.parts, self.rules, self.box3d, self.autozoom = parts, rules, box3d, autozoom
        words = (_CODE, parts.weights, parts.frame.digest, repr(rules), box3d, autozoom)
        self.encoder = self.digest = hashlib.blake2b(repr(words).encode(), digest_size=16).hexdigest()

    def rebuilt(self, parts: Parts) -> Self:
        """The same around other parts."""
        return type(self)(parts, self.rules, box3d=self.box3d, autozoom=self.autozoom)

    def encode(self, volume: Volume, *, store: Store) -> State:
        """Normalise the volume; there is nothing to keep: the net sees image and marks at once."""
        return State(self.parts.frame.prepare(volume), volume.grid, store)

    def segment(self, state: State, asks: Sequence[Ask]) -> list[Prediction]:
        """One mask an ask; logits are +1 and -1."""
        planned = [self._marks(state, ask) for ask in asks]  # all are checked before the first is computed
        return [self._answer(state, ask, new, board) for ask, (board, new) in zip(asks, planned, strict=True)]

    def _marks(self, state: State, ask: Ask) -> tuple[Board, list[Mark]]:
        grid = state.volume.grid
        carry: Tree = ask.previous.carry if ask.previous is not None else None
        board = carry if isinstance(carry, Board) else Board(grid.shape)
        new = ask.prompt.since(ask.previous.prompt if isinstance(carry, Board) and ask.previous else None)
        found = marks(Prompt(tuple(new)), grid, self.rules, box3d=self.box3d)
        if not found and not isinstance(carry, Board):
            kinds = ", ".join(sorted(ask.prompt.kinds)) or "nothing"
            raise PromptError(f"the prompt ({kinds}) has no point, box, stroke or mask on this volume")
        return board, found

    def _answer(self, state: State, ask: Ask, new: list[Mark], board: Board) -> Prediction:
        device = next(self.parts.net.parameters(), torch.empty(0)).device
        random = np.random.RandomState(ask.seed % 2**32)
        image = torch.from_numpy(np.array(state.volume.array, dtype=np.float32))

        def net(view: Tensor) -> list[Tensor]:
            return [self.parts.net(view.to(device))[0].cpu()]

        for mark in new:
            board = step(net, image, board, mark, self.rules, random, autozoom=self.autozoom).board
        mask = board.bits(board.mask)
        there = bounds(mask) or ((0, 0, 0), (1, 1, 1))
        part = state.volume.grid.crop(*there)
        own = part.toward(state.grid.axes)
        logits = np.where(regrid(mask[plan.slices(np.array(there).T)], part, own, order=0, outside=0), INK, -INK)
        return Prediction(ask.prompt, np.ascontiguousarray(logits[None], dtype=np.float32), own, carry=board)
