"""What the lifts of 2D nets share: slices of a volume as views, features through the store, answers pasted together.

A 2D model's frame prepares the volume with its slices along the first axis; a window is one slice of it. The lifts
differ only in which slices are asked with which marks: `slices` asks every marked slice, `propagate` goes on from one
to the next.
"""

from __future__ import annotations

import hashlib
import itertools
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from segwise.errors import PromptError
from segwise.geometry import SHARED_VOXELS, Array, Grid, Volume, regrid
from segwise.nets.contract import Decoded, Marks, PromptNet
from segwise.nets.marks import alike, joined, mapped, taken
from segwise.prompt import Points, Prompt
from segwise.segmenter import OUTSIDE, Ask, Frame, Learned, Parts, Prediction, State, Store, Tree, step

AXES: Mapping[str, str] = {
    "axial": "SPL",
    "coronal": "PIL",
    "sagittal": "LIP",
}  # slices, rows, columns as one reads them
MARGIN = 4  # voxels kept around the foreground of an answer
QUERIES = 16  # at most in one call of the decoder; on a CPU one by one, as more leave its cache and are slower
_CODE = "planes-1"  # raised when features or answers of unchanged parts change


class SliceFrame(Frame[Marks]):
    """The preprocessing of a 2D net: slices along the first axis of the prepared volume, D = 1 in a view.

    `marks` returns no query (Q = 0) for a slice on which the prompt says nothing that the net can use; several boxes
    on one slice are several queries. `follow` returns no query for a mask that leaves nothing to follow.

    Attributes:
        carries: the next round takes back the low-resolution logits of this one.
        chunk: how many neighbouring slices the lift shows the encoder at once (`lifts.chunks`); 1: each by itself.
    """

    carries: bool = False
    chunk: int = 1

    @abstractmethod
    def restore(self, logits: Array, window: Grid) -> Array:
        """Logits of views, float32 [Q, M, 1, h, w], on the slice they show: float32 [Q, M, *window.shape]."""


class Piece(NamedTuple):
    """What the net answered to one ask on one slice: its queries, which enclose the target together.

    Attributes:
        logits: float32 [Q, M, 1, h, w], on the view.
        quality: float32 [Q, M], or None.
        low_res: [Q, M, h, w] for the next round, or None if the frame does not carry it.
    """

    logits: Array
    quality: Array | None
    low_res: Array | None

    def rows(self, low: int, high: int) -> Piece:
        """Some of the queries."""
        quality, low_res = (None if x is None else x[low:high] for x in (self.quality, self.low_res))
        return Piece(self.logits[low:high], quality, low_res)

    def on(self, frame: SliceFrame, window: Grid) -> Array:
        """float32 [M, H, W] on the slice: of several queries the greatest logit."""
        return np.asarray(frame.restore(self.logits, window).max(axis=0)[:, 0])


class Planes(Learned):
    """A 2D promptable net on volumes, slice by slice.

    Args:
        parts: a `PromptNet` and a `SliceFrame`.
    """

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.net: PromptNet = parts.net.eval()
        self.frame: SliceFrame = parts.frame  # type: ignore[assignment]
        self._device = next((p.device for p in self.net.parameters()), torch.device("cpu"))
        self.encoder = _hashed(
            _CODE, torch.__version__, str(self._device), parts.frame.digest, _content(self.net.encoding)
        )
        self.digest = _hashed(self.encoder, parts.weights, _content(self.net), *self._settings())

    def rebuilt(self, parts: Parts) -> Self:
        """The same lift around other parts."""
        return type(self)(parts)

    def _settings(self) -> tuple[str, ...]:
        """What besides the parts decides the answers."""
        return type(self).__name__, repr(self.frame)

    def encode(self, volume: Volume, *, store: Store) -> State:
        """Turn, window and scale the volume; slices are encoded when an ask first needs them."""
        return State(self.frame.prepare(volume), volume.grid, store)

    def window(self, state: State, place: int) -> Grid:
        """The grid of a slice of the prepared volume."""
        return self.frame.window(state.volume.grid, (place, 0, 0))

    def features(self, state: State, places: Sequence[int]) -> list[Tree]:
        """Features of slices, each with a first axis of 1, through the store. Encoded one by one on a CPU."""
        windows = [self.window(state, place) for place in places]
        keys = [f"{self.encoder}:{state.volume.digest}:{window.digest}" for window in windows]

        def make(missing: list[int]) -> list[Tree]:
            return [self._encoded(state.volume, windows[i]) for i in missing]

        found = state.store.get(keys, make)
        step()
        return found

    @torch.no_grad()
    def _encoded(self, volume: Volume, window: Grid) -> Tree:
        view = torch.from_numpy(np.require(self.frame.view(volume, window), requirements="W"))[None].to(self._device)
        return mapped(lambda x: x.cpu(), self.net.encode(view))

    @torch.no_grad()
    def answers(self, features: Tree, asked: Sequence[Marks]) -> list[Piece]:
        """Ask the decoder about one slice: queries of the same make share a call, whoever asks."""
        features = mapped(lambda x: x.to(self._device), features)
        pieces: dict[int, Piece] = {}
        for members in alike(asked).values():
            together = joined([asked[i] for i in members])
            n = len(together.image)
            step = 1 if self._device.type == "cpu" else QUERIES
            batches = [taken(together, slice(i, i + step), self._device) for i in range(0, n, step)]
            whole = self._piece([self.net.decode(features, batch) for batch in batches])
            ends = np.cumsum([0, *(len(asked[i].image) for i in members)])
            for i, low, high in zip(members, ends[:-1], ends[1:], strict=True):
                pieces[i] = whole.rows(low, high)
        return [pieces[i] for i in range(len(asked))]

    def _piece(self, decoded: Sequence[Decoded]) -> Piece:
        return Piece(
            torch.cat([d.logits for d in decoded]).cpu().numpy(),
            _rows([d.quality for d in decoded]),
            _rows([d.low_res for d in decoded]) if self.frame.carries else None,
        )

    def assembled(self, state: State, ask: Ask, pieces: Mapping[int, Piece]) -> Prediction:
        """One prediction from the answers on slices: the box of what is foreground; slices not asked are OUTSIDE."""
        places = sorted(pieces)
        first, last = places[0], places[-1]
        grid = state.volume.grid
        slices = {p: pieces[p].on(self.frame, self.window(state, p)) for p in places}
        row, column = (_extent(slices.values(), axis, n) for axis, n in ((1, grid.shape[1]), (2, grid.shape[2])))
        crop = grid.crop((first, row.start, column.start), (last + 1, row.stop, column.stop))
        logits = np.full((len(slices[first]), *crop.shape), OUTSIDE, dtype=np.float32)
        for place in places:
            logits[:, place - first] = slices.pop(place)[:, row, column]
        quality = [piece.quality.mean(axis=0) for piece in pieces.values() if piece.quality is not None]
        own = covering(state.grid, crop)
        return Prediction(
            ask.prompt,
            np.ascontiguousarray(regrid(logits, crop, own, order=1, outside=OUTSIDE)),
            own,
            quality=np.mean(quality, axis=0) if quality else None,
            carry=self._carry(state, pieces) if self.frame.carries else None,
        )

    def seen(self, ask: Ask, window: Grid) -> Tree:
        """What the round before left for a slice, or None."""
        carry = ask.previous.carry if ask.previous is not None else None
        return carry.get(window.digest) if carry else None

    def _carry(self, state: State, pieces: Mapping[int, Piece]) -> Tree:
        """By window: low-resolution logits [1, h, w] of the query and candidate with the greatest quality."""
        kept = {}
        for place, piece in pieces.items():
            if piece.low_res is not None:
                own, best = (
                    (0, 0) if piece.quality is None else np.divmod(piece.quality.argmax(), len(piece.quality[0]))
                )
                best = best if best < piece.low_res.shape[1] else 0
                kept[self.window(state, place).digest] = piece.low_res[own, best : best + 1]
        return kept


def marked(prompt: Prompt, grid: Grid) -> list[tuple[int, int]]:
    """The slices of a grid that each mark lies on, half-open (first, last), one entry a box, point or mask; no text."""
    placed = prompt.on(grid)
    spans = [(int(box[0, 0]), int(box[1, 0])) for box in placed.boxes]
    spans += [(place, place + 1) for place in np.floor(placed.points[:, 0] + 0.5).astype(int).tolist()]
    if placed.mask is not None:
        spans += [(place, place + 1) for place in np.flatnonzero(placed.mask.any(axis=(1, 2))).tolist()]
    return spans


def covering(grid: Grid, part: Grid) -> Grid:
    """The smallest crop of a grid whose voxels cover another one, as far as it reaches."""
    corners = part.mm(list(itertools.product(*((-0.5, n - 0.5) for n in part.shape))))
    faces = grid.index(corners) + 0.5
    low = np.clip(np.floor(faces.min(axis=0) + SHARED_VOXELS).astype(int), 0, np.array(grid.shape) - 1)
    high = np.clip(np.ceil(faces.max(axis=0) - SHARED_VOXELS).astype(int), low + 1, grid.shape)
    return grid.crop(low.tolist(), high.tolist())


def nothing(prompt: Prompt) -> PromptError:
    """The error of a prompt that no slice can use."""
    came = ", ".join(sorted(prompt.kinds)) or "no mark"
    points = [mark for mark in prompt.marks if isinstance(mark, Points)]
    if points and len(points) == len(prompt.marks) and not any(mark.positive.any() for mark in points):
        return PromptError(
            "the prompt has points beside the target only, which tell a model nothing to start from: "
            "give a box or a point on the target too"
        )
    return PromptError(
        f"the prompt says nothing on this volume that the model can use: came {came}; expected marks of a kind that "
        "the model takes, inside the volume (see: segwise show models NAME)"
    )


def split(marks: Marks) -> list[Marks]:
    """One by one."""
    device = marks.image.device
    return [taken(marks, slice(i, i + 1), device) for i in range(len(marks.image))]


def _extent(slices: Iterable[Array], axis: int, n: int) -> slice:
    """Where along an axis of [M, H, W] anything is foreground, with a margin; all of it if nothing is."""
    other = tuple(a for a in (0, 1, 2) if a != axis)
    there = np.zeros(n, dtype=bool)
    for logits in slices:
        there |= (logits > 0).any(axis=other)
    places = np.flatnonzero(there)
    if not len(places):
        return slice(0, n)
    return slice(max(0, int(places[0]) - MARGIN), min(n, int(places[-1]) + 1 + MARGIN))


def _rows(tensors: Sequence[Tensor | None]) -> Array | None:
    there = [tensor for tensor in tensors if tensor is not None]
    return torch.cat(there).cpu().numpy() if there else None


def _content(module: nn.Module) -> str:
    """Digest of a module's class and of all it would save."""
    digest = hashlib.blake2b(type(module).__qualname__.encode(), digest_size=16)
    for name, tensor in module.state_dict().items():
        raw = tensor.detach().cpu().contiguous().view(-1)
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(raw.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _hashed(*words: str) -> str:
    return hashlib.blake2b("\x1f".join(words).encode(), digest_size=16).hexdigest()
