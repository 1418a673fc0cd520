"""A net that takes marks as channels of its input, around a whole volume: crop, zoom out, refine, remember.

Every mark is followed by a prediction, as in the original with its automatic run; several marks of one ask go in
their order. What is remembered between marks (`Board`) is a value: the marks as small stamps, the mask so far, and the
running intensity; it travels in `Prediction.carry`, so that a mark after an undo equals that mark on a fresh session.

Source: Isensee et al., nnInteractive (arXiv 2503.08373) and its package 2.5.0. Deviation: on a CPU with dense storage
the original divides its stored marks by the running intensity in place whenever a crop is a view; here never.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from segwise.errors import PromptError
from segwise.geometry import Array, Grid, Volume, bounds, regrid
from segwise.lifts import interactive_plan as plan
from segwise.prompt import Box, MaskMark, Points, Prompt, Stroke
from segwise.segmenter import Ask, Learned, Parts, Prediction, State, Store, Tree

HALF_MAX = float(np.finfo(np.float16).max)
INK = 1.0  # size of the logits: the original answers with a mask
_CODE = "interactive-1"

Kind = Literal["points", "bbox2d", "bbox3d", "scribble", "lasso"]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What the checkpoint's metadata says.

    Attributes:
        patch: voxels of the net's input.
        channels: of marks and the previous mask.
        previous: channel of the previous mask.
        pairs: kind -> (positive, negative) channel.
        supported: kinds the net was trained for.
        decay: weight of a mark once the next one is made; 1 for none.
        radius: of a point, voxels.
        thickness: of a stroke, voxels an axis.
        initial: a whole mask may be given.
    """

    patch: tuple[int, int, int]
    channels: int
    previous: int
    pairs: dict[str, tuple[int, int]]
    supported: frozenset[str]
    decay: float
    radius: int
    thickness: tuple[int, int, int]
    initial: bool = True


class Stamp(NamedTuple):
    """Values float16 at a box of one channel; they replace what is there, or are its lower bound."""

    channel: int
    box: Array
    values: Array
    replaces: bool


class Mark(NamedTuple):
    """One interaction: pixels of a box, or a point; kind "mask" is a whole mask."""

    kind: str
    positive: bool
    box: Array
    pixels: Array | None


@dataclass(frozen=True)
class Board:
    """All that one mark leaves for the next.

    Attributes:
        shape: of the image.
        stamps: the marks, oldest first.
        intensity: of the newest mark.
        previous: packed bits of the previous-mask channel.
        mask: packed bits of the answer (they differ where a coarse answer was not refined).
    """

    shape: tuple[int, ...]
    stamps: tuple[Stamp, ...] = ()
    intensity: float = 1.0
    previous: bytes = b""
    mask: bytes = b""

    def bits(self, packed: bytes) -> Array:
        """bool [D, H, W] of packed bits."""
        n = int(np.prod(self.shape))
        if not packed:
            return np.zeros(self.shape, dtype=bool)
        return np.unpackbits(np.frombuffer(packed, dtype=np.uint8), count=n).astype(bool).reshape(self.shape)

    def drawn(self, box: Array, rules: Rules) -> Tensor:
        """float16 [channels, *box]: the marks as stored and the previous mask, zeros outside."""
        sides = (box[:, 1] - box[:, 0]).tolist()
        out = np.zeros((rules.channels, *sides), dtype=np.float16)
        for stamp in self.stamps:
            there = np.stack([np.maximum(stamp.box[:, 0], box[:, 0]), np.minimum(stamp.box[:, 1], box[:, 1])], axis=1)
            if (there[:, 1] <= there[:, 0]).any():
                continue
            target = out[(stamp.channel, *plan.slices(there - box[:, :1]))]
            values = stamp.values[plan.slices(there - stamp.box[:, :1])]
            target[...] = values if stamp.replaces else np.maximum(target, values)
        found = torch.from_numpy(out)
        found[rules.previous] = plan.cut(torch.from_numpy(self.bits(self.previous)), box).half()
        return found


def ball(radius: int) -> Array:
    """float64 [2r+1]^3: a point's values, 1 in the middle."""
    side = np.arange(-radius, radius + 1)
    inside = (side[:, None, None] ** 2 + side[:, None] ** 2 + side**2) <= radius**2
    distance = ndimage.distance_transform_edt(inside)
    return np.asarray(distance / distance.max())


def added(board: Board, mark: Mark, rules: Rules) -> Board:
    """The board with a mark; a whole mask clears it."""
    if mark.kind == "mask" and mark.pixels is not None:
        bits = np.packbits(mark.pixels).tobytes()
        return Board(board.shape, previous=bits, mask=bits)
    board = _aged(board, rules)
    channel = rules.pairs[mark.kind][0 if mark.positive else 1]
    box, values = mark.box, np.full(tuple(mark.box[:, 1] - mark.box[:, 0]), board.intensity)
    if mark.kind == "points":
        values = ball(rules.radius) * board.intensity
        box = np.stack([mark.box[:, 0] - rules.radius, mark.box[:, 0] + rules.radius + 1], axis=1)
        inside = plan.clipped(box, board.shape)
        values, box = values[plan.slices(inside - box[:, :1])], inside
    elif mark.pixels is not None:
        values = mark.pixels * board.intensity
    stamp = Stamp(channel, box, values.astype(np.float16), mark.kind.startswith("bbox"))
    return replace(board, stamps=(*board.stamps, stamp))


def _aged(board: Board, rules: Rules) -> Board:
    """The running intensity a step up; all is scaled down before half precision overflows."""
    intensity = board.intensity * (1 / rules.decay)
    if intensity <= HALF_MAX:
        return replace(board, intensity=intensity)
    target = HALF_MAX / 10
    scale = target / intensity
    stamps = tuple(s._replace(values=s.values * np.float16(scale)) for s in board.stamps)
    return replace(board, stamps=stamps, intensity=target)


def looked(mark: Mark, patch: Sequence[int]) -> tuple[list[int], float]:
    """(centre, zoom) of the first look at a mark."""
    if mark.kind == "points":
        return [int(i) for i in mark.box[:, 0]], 1.0
    box = mark.box
    if mark.pixels is not None:
        found = bounds(mark.pixels.astype(bool))
        if found is None:
            raise PromptError(f"the {mark.kind} has no voxel on this volume")
        box = mark.box[:, :1] + np.array(found).T
    centre, zoom = plan.around(box, patch)
    return centre, min(plan.FARTHEST, zoom)


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
        small = [plan.spread(drawn[i : i + 1], size) if i in thin else drawn[i : i + 1] for i in range(len(drawn))]
        drawn = torch.cat([F.interpolate(c[None], rules.patch, mode="area")[0] for c in small])
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
    board, changed = refined(net, image, board, found, box, cover, rules)
    return Step(board, centre, zooms, crops, first, cover, changed)


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


def refined(
    net: Any, image: Tensor, board: Board, found: Tensor, box: Array, cover: plan.Cover, rules: Rules
) -> tuple[Board, Array]:
    """The coarse answer as previous mask, then every patch at full resolution in turn; and the box written."""
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
    return replace(board, previous=_packed(previous), mask=_packed(mask)), plan.clipped(span, board.shape)


def marks(prompt: Prompt, grid: Grid, rules: Rules, *, box3d: str = "refuse") -> list[Mark]:
    """The marks of a prompt on a grid, one for each interaction, in order; those wholly outside are left out.

    Raises:
        PromptError: a 3D box that the net was not trained for, words, or nothing that lies on the volume.
    """
    found: list[Mark] = []
    for mark in prompt.marks:
        placed = Prompt((mark,)).on(grid)
        if isinstance(mark, Points):
            for place, positive in zip(placed.points, placed.positive, strict=True):
                low = np.clip([round(float(i)) for i in place], 0, np.array(grid.shape) - 1)
                found.append(Mark("points", bool(positive), np.stack([low, low + 1], axis=1), None))
        elif isinstance(mark, Box):
            found += [_boxed(b.T, rules, box3d) for b in placed.boxes]
        elif isinstance(mark, Stroke):
            pixels = _line(mark, grid, rules.thickness)
            kind = "lasso" if mark.closed else "scribble"
            there = bounds(pixels)
            if there is not None:
                box = np.array(there).T
                found.append(Mark(kind, mark.positive, box, pixels[plan.slices(box)]))
        elif isinstance(mark, MaskMark) and placed.mask is not None and placed.mask.any():
            whole = np.array([[0, n] for n in grid.shape])
            found.append(Mark("mask", True, whole, placed.mask))
    refused = sorted({m.kind for m in found} - rules.supported - ({"mask"} if rules.initial else set()))
    if refused:
        raise PromptError(
            f"this checkpoint takes no {', '.join(refused)}; it takes {', '.join(sorted(rules.supported))}"
        )
    return found


def _boxed(box: Array, rules: Rules, box3d: str) -> Mark:
    sides = box[:, 1] - box[:, 0]
    flat = bool((sides == 1).any())
    if not flat and "bbox3d" not in rules.supported:
        if box3d != "middle-slice":
            raise PromptError(
                f"a box of {'x'.join(map(str, sides))} voxels is 3D and this checkpoint takes boxes on one slice only; "
                'expected a box one voxel thick on an axis, or the model with box3d="middle-slice"'
            )
        middle = int(box[0].sum()) // 2
        box, flat = np.array([[middle, middle + 1], *box[1:].tolist()]), True
    return Mark("bbox2d" if flat and "bbox2d" in rules.supported else "bbox3d", True, box, None)


def _line(stroke: Stroke, grid: Grid, thickness: Sequence[int]) -> Array:
    """bool [*grid.shape]: a stroke as voxels; one voxel thick along an axis that it does not leave."""
    points = grid.index(stroke.xyz_mm)
    points = np.concatenate([points, points[:1]]) if stroke.closed else points
    flat = np.ptp(points, axis=0) < 0.5
    parts = [points[:1]]
    for a, b in itertools.pairwise(points):
        n = max(1, int(np.ceil(np.abs(b - a).max() * 4)))
        parts.append(a + (b - a) * (np.arange(1, n + 1) / n)[:, None])
    line = np.concatenate(parts)
    sides = np.where(flat, 1, thickness)
    first = np.where(flat, np.floor(line + 0.5), np.ceil(line - sides / 2 - 1e-6)).astype(int)
    out = np.zeros(grid.shape, dtype=bool)
    for offset in np.ndindex(*(int(s) for s in sides)):
        places = first + offset
        inside = ((places >= 0) & (places < grid.shape)).all(axis=1)
        out[tuple(places[inside].T)] = True
    return out


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
