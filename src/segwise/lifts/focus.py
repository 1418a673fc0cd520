"""A 3D promptable net that looks at the region the marks are about, whatever the size of the scan.

The window of a box is that box with a margin, on whole voxels of the scan; a view shows it on the net's own grid, so a
word costs the same on any scan. Later rounds keep the window as long as their marks lie in it, and the net takes back
its own logits. Points without a box are given a box of a guessed size, which grows until the answer no longer fills it.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from segwise.errors import PromptError
from segwise.geometry import Array, Grid, Volume, bounds, regrid
from segwise.lifts.focus_frame import FocusFrame
from segwise.nets.contract import Decoded, Marks, PromptNet
from segwise.nets.half import has_bf16
from segwise.prompt import MaskMark, Points, Prompt, Stroke
from segwise.segmenter import OUTSIDE, Ask, Learned, Parts, Prediction, State, Store, Tree

REACH_MM = (25.0, 50.0, 100.0, 200.0)  # half sides of the window around points without a box, tried in order
FULL = 0.5  # an answer that takes up more of a face of its window than this share goes on beyond it
Index = NDArray[np.int64]
_CODE = "focus-1"


class Focus(Learned):
    """The Segmenter of a net that looks at one region.

    Args:
        parts: a `PromptNet` and a `FocusFrame`.
        precision: of the net: "auto" is bfloat16 where the processor has it.
    """

    def __init__(self, parts: Parts, *, precision: str = "auto") -> None:
        self.parts, self.precision = parts, precision
        self.net: PromptNet = parts.net.eval()
        self.frame: FocusFrame = parts.frame  # type: ignore[assignment]
        self._device = next((p.device for p in self.net.parameters()), torch.device("cpu"))
        self._half = precision == "bf16" or (precision == "auto" and has_bf16(self._device.type))
        self.encoder = _hashed(_CODE, parts.frame.digest, "seen-1")
        self.digest = _hashed(self.encoder, parts.weights, str(self._half), torch.__version__, str(self._device))

    def rebuilt(self, parts: Parts) -> Self:
        """The same lift around other parts."""
        return type(self)(parts, precision=self.precision)

    def encode(self, volume: Volume, *, store: Store) -> State:
        """Bring the volume into the net's frame; there is nothing else to be known before a mark is made."""
        return State(self.frame.prepare(volume), volume.grid, store)

    def segment(self, state: State, asks: Sequence[Ask]) -> list[Prediction]:
        """One prediction an ask, on the part of the input's grid that its window covers.

        Raises:
            PromptError: the prompt has no box, no positive point and no mask on this volume.
        """
        return [self._answer(state, ask) for ask in asks]

    def _answer(self, state: State, ask: Ask) -> Prediction:
        grid = state.volume.grid
        said = dense(ask.prompt, grid)
        before = _carried(ask, grid, said)
        if before is not None:
            return self._answered(state, ask, said, before)
        low, high, certain = extent(said, grid)
        if certain:
            return self._answered(state, ask, said, Looked(self.frame.around(grid, low, high)))
        for reach in REACH_MM:
            room = np.ceil(reach / np.array(grid.spacing_mm)).astype(np.int64)
            window = self.frame.around(grid, np.maximum(low - room, 0), np.minimum(high + room, grid.shape), margin=0)
            answer = self._answered(state, ask, said, Looked(window))
            if not goes_on(answer.carry.logits[0], window, grid):
                break
        return answer

    def _answered(self, state: State, ask: Ask, said: Prompt, before: Looked) -> Prediction:
        """Look at a window with all that was said and, from the second round on, the last answer."""
        window = before.window
        with one_thread(), torch.no_grad():
            features = before.features or self._seen(state.volume, window)
            logits, quality = self._looked(features, said, window, before.logits)
        best = 0 if quality is None else int(quality.argmax())
        fine = np.stack([self.frame.restore(one, window) for one in logits])
        there = _onto(state.grid, window)
        answer = regrid(fine, window, there, order=1, outside=OUTSIDE)
        return Prediction(
            ask.prompt,
            np.ascontiguousarray(answer, dtype=np.float32),
            there,
            quality=quality,
            carry=Looked(window, logits[best : best + 1], features),
        )

    def _seen(self, volume: Volume, window: Grid) -> Tree:
        """What the net makes of the image of a window; later rounds keep it."""
        view = torch.from_numpy(self.frame.view(volume, window))[None].to(self._device)
        return self.net.encode(view)

    def _looked(self, features: Tree, said: Prompt, window: Grid, seen: Array | None) -> tuple[Array, Array | None]:
        """Logits float32 [M, side, side, side] of a window, and their predicted DSC [M]."""
        marks = self.frame.marks(said, window, seen)
        moved = {
            name: value.to(self._device)
            for name in ("image", "points", "signs", "boxes", "low_res")
            if (value := getattr(marks, name)) is not None
        }
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._half):
            decoded: Decoded = self.net.decode(features, Marks(**moved))
        quality = None if decoded.quality is None else decoded.quality[0].float().cpu().numpy().astype(np.float64)
        return decoded.logits[0].float().cpu().numpy(), quality


@dataclass(frozen=True, eq=False)
class Looked:
    """What the rounds so far left of one target.

    Attributes:
        window: where the net looks, on the prepared volume's grid.
        logits: float32 [1, side, side, side] of the last look; None before the first.
        features: what the net made of the window's image; None before the first look.
    """

    window: Grid
    logits: Array | None = None
    features: Tree = None


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """A small net is quicker on one thread, and on a busy machine by far."""
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def extent(prompt: Prompt, grid: Grid) -> tuple[Index, Index, bool]:
    """The half-open index box of all marks, and whether a box or a mask says how large the target is.

    Raises:
        PromptError: no box, no positive point and no mask lies on the grid.
    """
    placed = prompt.on(grid)
    voxels = np.floor(placed.points[placed.positive] + 0.5).astype(np.int64)
    lows, highs = [*placed.boxes[:, 0], *voxels], [*placed.boxes[:, 1], *(voxels + 1)]
    found = None if placed.mask is None else bounds(placed.mask)
    if found is not None:
        lows, highs = [*lows, np.array(found[0])], [*highs, np.array(found[1])]
    if not lows:
        kinds = ", ".join(sorted(prompt.kinds)) or "no mark"
        raise PromptError(
            f"the prompt holds {kinds} but no box, no mask and no positive point inside the volume; "
            "expected at least one of them: give a box, or a point on the target"
        )
    low, high = np.min(lows, axis=0), np.max(highs, axis=0)
    clipped = np.maximum(low, 0), np.minimum(high, grid.shape)
    return clipped[0].astype(np.int64), clipped[1].astype(np.int64), bool(len(placed.boxes)) or found is not None


def dense(prompt: Prompt, grid: Grid) -> Prompt:
    """A prompt whose strokes are points along them, a voxel apart; everything else as it is."""
    step = min(grid.spacing_mm)

    def one(mark: Stroke) -> Points:
        places = np.concatenate([mark.xyz_mm, mark.xyz_mm[:1]]) if mark.closed else mark.xyz_mm
        legs = [
            np.linspace(a, b, max(1, int(np.ceil(np.linalg.norm(b - a) / step))), endpoint=False)
            for a, b in itertools.pairwise(places)
        ]
        every = np.concatenate([*legs, places[-1:]])
        thin = max(1, len(every) // 64)
        return Points(every[::thin], np.full(len(every[::thin]), mark.positive))

    return Prompt(tuple(one(mark) if isinstance(mark, Stroke) else mark for mark in prompt.marks))


def goes_on(logits: Array, window: Grid, grid: Grid) -> bool:
    """An answer without a box fills much of a face of its window that is not the scan's: it goes on beyond it."""
    found = logits > 0
    low = np.rint(grid.index(window.mm((0, 0, 0)))[0]).astype(int)
    high = low + window.shape
    faces = [
        face
        for axis in range(3)
        for face, inner in ((0, low[axis] > 0), (-1, high[axis] < grid.shape[axis]))
        if inner and found.take(face, axis=axis).mean() > 0
    ]
    return bool(faces) or bool(found.mean() > FULL)


def _carried(ask: Ask, grid: Grid, prompt: Prompt) -> Looked | None:
    """What the round before left, if all that was said since lies in its window."""
    if ask.previous is None or not isinstance(ask.previous.carry, Looked):
        return None
    found = ask.previous.carry
    everywhere, here = prompt.on(grid), prompt.on(found.window)
    if len(here.points) < len(everywhere.points) or len(here.boxes) < len(everywhere.boxes):
        return None
    return None if any(isinstance(m, MaskMark) for m in ask.prompt.since(ask.previous.prompt)) else found


def _onto(grid: Grid, window: Grid) -> Grid:
    """The crop of the input's grid that a window covers."""
    ends = np.array(np.meshgrid(*((-0.5, n - 0.5) for n in window.shape), indexing="ij")).reshape(3, -1).T
    corners = grid.index(window.mm(ends)) + 0.5
    low = np.maximum(np.floor(corners.min(axis=0) + 1e-6), 0).astype(np.int64)
    high = np.minimum(np.ceil(corners.max(axis=0) - 1e-6), grid.shape).astype(np.int64)
    return grid.crop(low.tolist(), np.maximum(high, low + 1).tolist())


def _hashed(*words: str) -> str:
    return hashlib.blake2b("\x1f".join(words).encode(), digest_size=16).hexdigest()
