"""What is said about ONE target: marks in world millimetres, in the order made.

A `Prompt` is made once, written to a ledger, and replayed on any grid: the file's, a resampled one, a crop. `on(grid)`
gives indices. float64 throughout: float32 would move a half-open face.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from segwise.errors import PromptError
from segwise.geometry import Array, Grid, Volume, regrid


@dataclass(frozen=True, eq=False)
class Points:
    """Clicks.

    Attributes:
        xyz_mm: float64 [N, 3].
        positive: bool [N]; False says "not this".
        drawn: a person made them; False: they were filled in between.
    """

    xyz_mm: Array
    positive: Array
    drawn: bool = True
    kind = "points"

    def __post_init__(self) -> None:
        xyz = _frozen(np.asarray(self.xyz_mm, dtype=np.float64).reshape(-1, 3), "points")
        positive = _frozen(np.asarray(self.positive, dtype=bool).reshape(-1), "signs")
        if len(xyz) != len(positive) or not len(xyz):
            raise PromptError(
                f"points: {len(xyz)} places and {len(positive)} signs, expected the same number, at least 1"
            )
        object.__setattr__(self, "xyz_mm", xyz)
        object.__setattr__(self, "positive", positive)


@dataclass(frozen=True, eq=False)
class Box:
    """A box, possibly oblique, faces included: `origin_mm` is a corner (of the voxel, not its centre).

    Attributes:
        origin_mm: float64 [3].
        edges_mm: float64 [3, 3], one edge vector a row.
        drawn: a person made it; False: it was filled in between.
    """

    origin_mm: Array
    edges_mm: Array
    drawn: bool = True
    kind = "box"

    def __post_init__(self) -> None:
        object.__setattr__(self, "origin_mm", _frozen(np.asarray(self.origin_mm, dtype=np.float64).reshape(3), "box"))
        object.__setattr__(self, "edges_mm", _frozen(np.asarray(self.edges_mm, dtype=np.float64).reshape(3, 3), "box"))

    @staticmethod
    def of(grid: Grid, low: Sequence[int], high: Sequence[int]) -> Box:
        """The half-open index box low..high of a grid; one voxel thick on an axis makes a slice's box."""
        low_, high_ = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
        if low_.shape != (3,) or high_.shape != (3,) or (high_ <= low_).any():
            raise PromptError(f"box {low_.tolist()}..{high_.tolist()}: expected low < high on three axes (d, h, w)")
        return Box(grid.mm(low_ - 0.5)[0], grid.affine[:3, :3].T * (high_ - low_)[:, None])

    def corners_mm(self) -> Array:
        """float64 [8, 3]."""
        bits = np.array(list(np.ndindex(2, 2, 2)), dtype=np.float64)
        return np.asarray(self.origin_mm + bits @ self.edges_mm)


@dataclass(frozen=True, eq=False)
class Stroke:
    """A line drawn by hand: a scribble, or a contour when closed.

    Attributes:
        xyz_mm: float64 [N, 3], in drawing order.
        closed: the last point joins the first.
        positive: False draws on what is not the target.
    """

    xyz_mm: Array
    closed: bool = False
    positive: bool = True
    kind = "stroke"

    def __post_init__(self) -> None:
        xyz = _frozen(np.asarray(self.xyz_mm, dtype=np.float64).reshape(-1, 3), "stroke")
        if not len(xyz):
            raise PromptError("stroke has no point, expected at least 1")
        object.__setattr__(self, "xyz_mm", xyz)


@dataclass(frozen=True, eq=False)
class MaskMark:
    """A mask given as a prompt: a bool volume of one channel."""

    volume: Volume
    kind = "mask"


@dataclass(frozen=True)
class Text:
    """The target's name in words."""

    words: str
    kind = "text"


Mark = Points | Box | Stroke | MaskMark | Text
KINDS = ("points", "box", "stroke", "mask", "text")


@dataclass(frozen=True, eq=False)
class Placed:
    """A prompt on a grid.

    Attributes:
        points: float64 [N, 3] indices, not rounded (points, then the points of strokes); those outside are dropped.
        positive: bool [N].
        boxes: int64 [M, 2, 3] half-open low and high corners, cut to the grid; those wholly outside are dropped.
        mask: bool [D, H, W] union of the mask marks, or None.
        words: the texts, in order.
    """

    points: Array
    positive: Array
    boxes: NDArray[np.int64]
    mask: Array | None
    words: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Prompt:
    """An ordered tuple of marks about one target; a round only appends.

    Equality and hash go by content (`digest`).
    """

    marks: tuple[Mark, ...] = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Prompt) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def kinds(self) -> frozenset[str]:
        """Which kinds of mark it holds."""
        return frozenset(mark.kind for mark in self.marks)

    @property
    def n_interactions(self) -> int:
        """What a person did: each point, box, stroke and mask is one; text and what was filled in between are none."""
        made = [mark for mark in self.marks if not isinstance(mark, Points | Box) or mark.drawn]
        return sum(len(m.xyz_mm) if isinstance(m, Points) else not isinstance(m, Text) for m in made)

    @property
    def digest(self) -> str:
        """Hash of all marks, float64 bit by bit."""
        return hashlib.blake2b(json.dumps(self.to_json(), sort_keys=True).encode(), digest_size=16).hexdigest()

    def also(self, *marks: Mark) -> Prompt:
        """This prompt with marks appended."""
        return Prompt(self.marks + marks)

    def since(self, earlier: Prompt | None) -> tuple[Mark, ...]:
        """The marks added after an earlier prompt.

        Raises:
            PromptError: this prompt does not begin with the earlier one.
        """
        if earlier is None:
            return self.marks
        n = len(earlier.marks)
        if Prompt(self.marks[:n]) != earlier:
            raise PromptError("a round may only append marks: the prompt does not begin with the previous one")
        return self.marks[n:]

    def moved(self, matrix: Array) -> Prompt:
        """All marks under an affine [4, 4] of patient space (mm to mm); text stays."""
        linear, shift = np.asarray(matrix)[:3, :3], np.asarray(matrix)[:3, 3]

        def one(mark: Mark) -> Mark:
            if isinstance(mark, Points):
                return Points(mark.xyz_mm @ linear.T + shift, mark.positive, mark.drawn)
            if isinstance(mark, Box):
                return Box(linear @ mark.origin_mm + shift, mark.edges_mm @ linear.T, mark.drawn)
            if isinstance(mark, Stroke):
                return Stroke(mark.xyz_mm @ linear.T + shift, mark.closed, mark.positive)
            if isinstance(mark, MaskMark):
                volume = mark.volume
                grid = Grid(volume.grid.shape, np.asarray(matrix) @ volume.grid.affine)
                return MaskMark(Volume.of(volume.array, grid, volume.channels))
            return mark

        return Prompt(tuple(one(mark) for mark in self.marks))

    def on(self, grid: Grid) -> Placed:
        """Indices of all marks on a grid: faces of boxes rounded; a box empty on an axis is the voxel of its centre."""
        points, positive, boxes, words = [np.empty((0, 3))], [np.empty(0, dtype=bool)], [], []
        mask: Array | None = None
        for mark in self.marks:
            if isinstance(mark, Points | Stroke):
                places = grid.index(mark.xyz_mm)
                signs = mark.positive if isinstance(mark, Points) else np.full(len(places), mark.positive)
                keep = ((places >= -0.5) & (places < np.array(grid.shape) - 0.5)).all(axis=1)
                points.append(places[keep])
                positive.append(signs[keep])
            elif isinstance(mark, Box):
                box = _placed_box(mark, grid)
                boxes += [] if box is None else [box]
            elif isinstance(mark, MaskMark):
                there = regrid(mark.volume.array[0].astype(bool), mark.volume.grid, grid, order=0, outside=0)
                mask = there if mask is None else mask | there
            else:
                words.append(mark.words)
        return Placed(
            np.concatenate(points),
            np.concatenate(positive),
            np.array(boxes, dtype=np.int64).reshape(-1, 2, 3),
            mask,
            tuple(words),
        )

    def to_json(self) -> list[dict[str, Any]]:
        """Marks as plain values; floats repeat exactly."""
        return [_mark_json(mark) for mark in self.marks]

    @staticmethod
    def from_json(marks: Sequence[Mapping[str, Any]]) -> Prompt:
        """The inverse of `to_json`.

        Raises:
            PromptError: not a list of marks.
        """
        try:
            return Prompt(tuple(_mark_of(mark) for mark in marks))
        except (KeyError, TypeError, ValueError) as error:
            raise PromptError(f"not a prompt: {error}") from error


def _placed_box(box: Box, grid: Grid) -> Array | None:
    corners = grid.index(box.corners_mm())
    low, high = corners.min(axis=0) + 0.5, corners.max(axis=0) + 0.5  # faces, in voxels
    first, last = np.floor(low + 0.5 - 1e-6).astype(int), np.floor(high + 0.5 - 1e-6).astype(int)
    empty = last <= first
    centre = np.floor((low + high) / 2).astype(int)
    first, last = np.where(empty, centre, first), np.where(empty, centre + 1, last)
    first, last = np.maximum(first, 0), np.minimum(last, grid.shape)
    return None if (last <= first).any() else np.stack([first, last])


def _mark_json(mark: Mark) -> dict[str, Any]:
    filled = {"drawn": False} if isinstance(mark, Points | Box) and not mark.drawn else {}
    if isinstance(mark, Points):
        return {"kind": "points", "xyz_mm": mark.xyz_mm.tolist(), "positive": mark.positive.tolist(), **filled}
    if isinstance(mark, Box):
        return {"kind": "box", "origin_mm": mark.origin_mm.tolist(), "edges_mm": mark.edges_mm.tolist(), **filled}
    if isinstance(mark, Stroke):
        kind = {"kind": "stroke", "closed": mark.closed, "positive": mark.positive}
        return {**kind, "xyz_mm": mark.xyz_mm.tolist()}
    if isinstance(mark, MaskMark):
        grid = mark.volume.grid
        packed = zlib.compress(np.packbits(mark.volume.array[0].astype(bool)).tobytes(), 6)
        place = {"shape": list(grid.shape), "affine": grid.affine.tolist()}
        return {"kind": "mask", **place, "bits": base64.b64encode(packed).decode()}
    return {"kind": "text", "words": mark.words}


def _mark_of(mark: Mapping[str, Any]) -> Mark:
    kind = mark["kind"]
    if kind == "points":
        return Points(np.array(mark["xyz_mm"]), np.array(mark["positive"]), bool(mark.get("drawn", True)))
    if kind == "box":
        return Box(np.array(mark["origin_mm"]), np.array(mark["edges_mm"]), bool(mark.get("drawn", True)))
    if kind == "stroke":
        return Stroke(np.array(mark["xyz_mm"]), bool(mark["closed"]), bool(mark["positive"]))
    if kind == "mask":
        grid = Grid(tuple(mark["shape"]), np.array(mark["affine"]))
        bits = np.frombuffer(zlib.decompress(base64.b64decode(mark["bits"])), dtype=np.uint8)
        array = np.unpackbits(bits, count=int(np.prod(grid.shape))).astype(bool).reshape(grid.shape)
        return MaskMark(Volume.of(array, grid))
    if kind == "text":
        return Text(str(mark["words"]))
    raise PromptError(f'no mark "{kind}"; expected one of {", ".join(KINDS)}')


def _frozen(array: ArrayLike, what: str) -> Array:
    values = np.array(array)
    if values.dtype != bool and not np.isfinite(values).all():
        raise PromptError(f"{what}: coordinates must be finite numbers, came {values.tolist()}")
    values.setflags(write=False)
    return values
