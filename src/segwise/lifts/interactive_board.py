"""What a session of marks remembers (`Board`), how a mark is written on it, and which marks a prompt has.

A board is a value: the marks as small stamps, the mask so far and the running intensity; adding a mark makes a new one.

Source: Isensee et al., nnInteractive (arXiv 2503.08373) and its package 2.5.0.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from segwise.errors import PromptError
from segwise.geometry import Array, Grid, bounds
from segwise.lifts import interactive_plan as plan
from segwise.prompt import Box, MaskMark, Points, Prompt, Stroke

HALF_MAX = float(np.finfo(np.float16).max)


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
