"""A 3D promptable net that sees one cube of a volume at a time: the marks say which.

The first round places the cube (`placed`); its features are kept in the store by its place. Later rounds keep the cube
as long as all points lie in it, and the net takes back its own low-resolution logits. Where a point lies outside, the
cube moves to where a first round would have put it, the logits move along, and the answer is that of the new cube
alone: what the last round found beyond it is given up.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal, Self

import numpy as np
import torch

from segwise.errors import SpecError
from segwise.geometry import Array, Grid, Volume, bounds, regrid
from segwise.lifts.planes import MARGIN, covering, nothing
from segwise.nets.contract import Decoded, Marks, PromptNet
from segwise.nets.marks import mapped
from segwise.prompt import Prompt
from segwise.segmenter import OUTSIDE, Ask, Frame, Learned, Parts, Prediction, State, Store, Tree

Placed = Literal["marks", "volume"]
PLACED = ("marks", "volume")
_CODE = "crop-1"  # raised when features or answers of unchanged parts change


class CropFrame(Frame[Marks]):
    """The preprocessing of a 3D net with views of one size; a window may reach beyond the prepared volume.

    `marks` returns no query (Q = 0) for a prompt that says nothing in the window that the net can use.

    Attributes:
        carries: the next round takes back the low-resolution logits of this one.
    """

    carries: bool = False

    def window(self, grid: Grid, centre: Sequence[int]) -> Grid:
        """The cube around an index."""
        low = np.asarray(centre, dtype=int) - np.array(self.shape) // 2
        return grid.crop(low.tolist(), (low + self.shape).tolist())

    def follow(self, mask: Array, window: Grid) -> Marks:
        """No query: one cube is one answer."""
        return Marks(torch.zeros(0, dtype=torch.int64))

    @abstractmethod
    def view(self, prepared: Volume, window: Grid) -> Array:
        """float32 [C, *shape]."""


class Crop(Learned):
    """The Segmenter of a 3D promptable net with a cube for a view.

    Args:
        parts: a `PromptNet` and a `CropFrame`.
        placed: where the cube of a first round lies: around the middle of the "marks", or in the middle of the
            "volume".
    """

    def __init__(self, parts: Parts, *, placed: Placed = "marks") -> None:
        if placed not in PLACED:
            raise SpecError(f'crop is placed by "{placed}", expected one of {", ".join(PLACED)}')
        self.parts, self.placed = parts, placed
        self.net: PromptNet = parts.net.eval()
        self.frame: CropFrame = parts.frame  # type: ignore[assignment]
        self._device = next((p.device for p in self.net.parameters()), torch.device("cpu"))
        own = (_CODE, torch.__version__, str(self._device), parts.frame.digest)
        self.encoder = _hashed(*own, content(self.net.encoding))
        self.digest = _hashed(self.encoder, parts.weights, content(self.net), repr(parts.frame), placed)

    def rebuilt(self, parts: Parts) -> Self:
        """The same lift around other parts."""
        return type(self)(parts, placed=self.placed)

    def encode(self, volume: Volume, *, store: Store) -> State:
        """Bring the volume into the net's frame; a cube is encoded when an ask first needs it."""
        return State(self.frame.prepare(volume), volume.grid, store)

    def segment(self, state: State, asks: Sequence[Ask]) -> list[Prediction]:
        """One prediction an ask, on the part of the input's grid that its cube covers.

        Raises:
            PromptError: a prompt says nothing that the net can use on this volume.
        """
        return [self._answer(state, ask) for ask in asks]

    def cube(self, state: State, ask: Ask) -> Grid:
        """Where the net looks for an ask.

        Raises:
            PromptError: the prompt has no point or box on this volume.
        """
        grid = state.volume.grid
        places = spots(ask.prompt, grid)
        if not len(places):
            raise nothing(ask.prompt)
        carried = self._carried(ask)
        if carried is not None and _inside(places, grid, carried[0]):
            return carried[0]
        middle = (np.array(grid.shape) - 1) / 2 if self.placed == "volume" else (places.min(0) + places.max(0)) / 2
        window = self.frame.window(grid, np.floor(middle + 0.5).astype(int).tolist())
        if carried is not None and not _inside(places[-1:], grid, window):
            window = self.frame.window(grid, np.floor(places[-1] + 0.5).astype(int).tolist())
        return window

    @torch.no_grad()
    def _answer(self, state: State, ask: Ask) -> Prediction:
        window = self.cube(state, ask)
        marks = self.frame.marks(ask.prompt, window, self._seen(ask, window))
        if not len(marks.image):
            raise nothing(ask.prompt)
        own = mapped(lambda x: x.to(self._device), self._features(state.volume, window, state.store))
        given = {name: getattr(marks, name) for name in ("image", "points", "signs", "boxes", "low_res", "tokens")}
        moved = {k: mapped(lambda x: x.to(self._device), v) for k, v in given.items() if v is not None}
        decoded = self.net.decode(own, Marks(**moved))
        logits = decoded.logits.amax(dim=0).cpu().numpy()  # [M, D, H, W]
        part = _part(logits, window)
        there = covering(state.grid, part)
        quality = None if decoded.quality is None else decoded.quality.mean(dim=0).cpu().numpy()
        return Prediction(
            ask.prompt,
            np.ascontiguousarray(regrid(logits, window, there, order=1, outside=OUTSIDE), dtype=np.float32),
            there,
            quality=quality,
            carry=self._carry(decoded, window) if self.frame.carries else None,
        )

    def _features(self, volume: Volume, window: Grid, store: Store) -> Tree:
        def make(_: list[int]) -> list[Tree]:
            view = torch.from_numpy(self.frame.view(volume, window))[None].to(self._device)
            return [mapped(lambda x: x.cpu(), self.net.encode(view))]

        return store.get([f"{self.encoder}:{volume.digest}:{window.digest}"], make)[0]

    def _carry(self, decoded: Decoded, window: Grid) -> Tree:
        """The cube, and of the low-resolution logits [1, ...] those of the best candidate."""
        if decoded.low_res is None:
            return None
        best = 0 if decoded.quality is None else int(decoded.quality[0].argmax())
        best = best if best < decoded.low_res.shape[1] else 0
        return {"affine": window.affine, "low_res": decoded.low_res[0, best : best + 1].cpu().numpy()}

    def _carried(self, ask: Ask) -> tuple[Grid, Array] | None:
        carry = ask.previous.carry if ask.previous is not None else None
        return None if not carry else (Grid(self.frame.shape, carry["affine"]), carry["low_res"])

    def _seen(self, ask: Ask, window: Grid) -> Tree:
        """The last round's low-resolution logits in this cube; 0 where it did not look."""
        carried = self._carried(ask)
        if carried is None or carried[0] == window:
            return None if carried is None else carried[1]
        have, low_res = carried
        small = low_res.shape[-3:]
        return regrid(low_res, have.resized(small), window.resized(small), order=1, outside=0.0)


def spots(prompt: Prompt, grid: Grid) -> Array:
    """float64 [N, 3]: where a prompt's points and the corners of its boxes lie on a grid, in indices."""
    placed = prompt.on(grid)
    corners = np.concatenate([placed.boxes[:, 0], placed.boxes[:, 1] - 1]).astype(np.float64)
    return np.concatenate([corners, placed.points])


def _inside(places: Array, grid: Grid, window: Grid) -> bool:
    index = np.floor(window.index(grid.mm(places)) + 0.5)
    return bool(((index >= 0) & (index < window.shape)).all())


def _part(logits: Array, window: Grid) -> Grid:
    """The box of what is foreground, with a margin; the whole cube if nothing is."""
    found = bounds(np.asarray((logits > 0).any(axis=0)))
    if found is None:
        return window
    low = np.maximum(np.array(found[0]) - MARGIN, 0)
    return window.crop(low.tolist(), np.minimum(np.array(found[1]) + MARGIN, window.shape).tolist())


def content(module: torch.nn.Module) -> str:
    """Digest of a module's class and of all it would save."""
    digest = hashlib.blake2b(type(module).__qualname__.encode(), digest_size=16)
    for name, tensor in module.state_dict().items():
        raw = tensor.detach().cpu().contiguous().view(-1)
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(raw.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _hashed(*words: str) -> str:
    return hashlib.blake2b("\x1f".join(words).encode(), digest_size=16).hexdigest()
