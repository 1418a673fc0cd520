"""The contracts between what runs models and the models: what `evaluate`, `session`, training and wrappers know.

A `Segmenter` encodes a volume once and answers asks about targets in it. Nothing hides on an object: a `State` holds
what encoding prepared, a `Prediction` carries what its model needs to go on, and `segment` is pure.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np

from segwise.errors import GridError
from segwise.geometry import Array, Grid, Volume, regrid
from segwise.prompt import Prompt

OUTSIDE = -1000.0  # the logit beyond a prediction's crop: finite, so that arithmetic on logits stays finite
Tree = Any  # nested tuples, lists and dicts of arrays or tensors


@dataclass(frozen=True, eq=False)
class Prediction:
    """A model's answer about one target.

    Attributes:
        prompt: what was asked, all of it.
        logits: float32 [M, d, h, w], > 0 is foreground; M candidates in the net's own order.
        grid: where the logits lie: a crop of the grid of the volume that was encoded; beyond it OUTSIDE.
        quality: float [M] predicted DSC (the card says of what), or None for one candidate without.
        presence: predicted probability that the target is in the volume at all, or None.
        carry: read by its own Segmenter only, in the next round of the same target; never stored on disk.
    """

    prompt: Prompt
    logits: Array
    grid: Grid
    quality: Array | None = None
    presence: float | None = None
    carry: Tree = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.logits.dtype != np.float32 or self.logits.shape[1:] != self.grid.shape or self.logits.ndim != 4:
            raise GridError(
                f"logits are {self.logits.dtype} {self.logits.shape}, expected float32 (M, *{self.grid.shape})"
            )

    @property
    def best(self) -> int:
        """The candidate with the greatest predicted quality; 0 without one."""
        return 0 if self.quality is None else int(np.argmax(self.quality))

    @property
    def absent(self) -> bool:
        """The model says that the target is not in the volume."""
        return self.presence is not None and self.presence < 0.5

    def mask(self, grid: Grid) -> Array:
        """bool [*grid.shape]: the best candidate's foreground on a grid; empty if absent. The only way to a mask."""
        if self.absent:
            return np.zeros(grid.shape, dtype=bool)
        return np.asarray(regrid(self.logits[self.best], self.grid, grid, order=1, outside=OUTSIDE) > 0)


@dataclass(frozen=True)
class Ask:
    """A question about one target.

    Attributes:
        prompt: all marks so far.
        previous: the prediction of the round before, or None in the first.
        seed: made from session, target and prompt; the only randomness a model may use.
    """

    prompt: Prompt
    previous: Prediction | None = None
    seed: int = 0


class Store(Protocol):
    """Content-addressed features."""

    def get(self, keys: Sequence[str], make_many: Callable[[list[int]], list[Tree]]) -> list[Tree]:
        """Values by key; `make_many(missing)` makes those of the positions in `keys` that are not there.

        The seconds spent making a value stay beside it and count again on every hit: what encoding costs does not
        depend on who asked first.
        """


@dataclass(frozen=True)
class State:
    """What `encode` prepared. Models may subclass it.

    Attributes:
        volume: as the model wants it (oriented, resampled, normalised), from `Frame.prepare`.
        grid: the grid of the volume as it came; predictions come back on crops of it.
        store: where features are kept.
    """

    volume: Volume
    grid: Grid
    store: Store


class Segmenter(ABC):
    """A model as everything else sees it.

    Attributes:
        digest: weights, preprocessing, code and precision: what decides its answers.
        encoder: the part of the digest that encoding depends on; equal encoders share features.
    """

    digest: str
    encoder: str

    @abstractmethod
    def encode(self, volume: Volume, *, store: Store) -> State:
        """Prepare a volume. Cheap: features are made on first need, through the store."""

    @abstractmethod
    def segment(self, state: State, asks: Sequence[Ask]) -> list[Prediction]:
        """One prediction an ask, in order. Pure: the same state and asks give the same bits, whatever was asked before.

        Raises:
            NoSuchStructure: a text names nothing the model knows.
            PromptError: a prompt says nothing that the model can use on this volume.
        """


Tick = Callable[[int, int, str], None]  # pieces done, pieces in all (0: nobody knows), what they are


@dataclass
class _Watch:
    tick: Tick
    done: int = 0
    total: int = 0
    what: str = "pieces"
    part: str = ""

    def tell(self) -> None:
        total = max(self.total, self.done) if self.total else 0
        self.tick(self.done, total, f"{self.what}{f' of the {self.part}' if self.part else ''}")


_watch: ContextVar[_Watch | None] = ContextVar("segwise_watch", default=None)


@contextlib.contextmanager
def watched(tick: Tick) -> Iterator[None]:
    """Whatever is segmented inside says how far it is; it changes no answer."""
    before = _watch.set(_Watch(tick))
    try:
        yield
    finally:
        _watch.reset(before)


def expect(total: int, what: str, *, part: str | None = None) -> None:
    """Say how many pieces of work are to come, at most. A lift's word, at its beginning.

    Args:
        total: pieces; 0 where it cannot be known.
        what: they are, in the plural: "slices".
        part: what they are all of ("axial plane"), from now on; "" for the volume again, None as before.
    """
    if (watch := _watch.get()) is not None:
        watch.done, watch.total, watch.what = 0, total, what
        watch.part = watch.part if part is None else part


def step() -> None:
    """Say that one more piece is done."""
    if (watch := _watch.get()) is not None:
        watch.done += 1
        watch.tell()


M = TypeVar("M")


class Frame(ABC, Generic[M]):
    """A net's preprocessing: the one that inference AND training use.

    `M` is the net's own marks (`nets.contract.Marks` for promptable ones).

    Attributes:
        shape: (D, H, W) of a view; D = 1 for a 2D net; 0 on an axis that is not fixed.
        digest: of everything below that changes the view.
    """

    shape: tuple[int, int, int]
    digest: str

    @abstractmethod
    def prepare(self, volume: Volume) -> Volume:
        """Orientation, spacing, intensity window, normalisation of the whole volume."""

    @abstractmethod
    def window(self, grid: Grid, centre: Sequence[int]) -> Grid:
        """The part of a prepared grid that one view shows, around an index (d, h, w)."""

    @abstractmethod
    def view(self, prepared: Volume, window: Grid) -> Array:
        """float32 [C, *shape]: the net's input for a window; equals that crop of the whole, bit for bit."""

    @abstractmethod
    def marks(self, prompt: Prompt, window: Grid, seen: Tree) -> M:
        """The prompt in view voxels; the only placing of marks, with the model's own rounding.

        `seen` is what the round before left for this window (low-resolution logits), or None.
        """

    @abstractmethod
    def follow(self, mask: Array, window: Grid) -> M:
        """The marks of a window from the mask of its neighbour, for propagation. bool [*window.shape] -> marks."""


@dataclass(frozen=True)
class Parts:
    """What a learned model is made of; adapters change it, training trains it.

    Attributes:
        net: a torch module of `nets.contract`.
        frame: its preprocessing.
        labels: the closed list it answers, in channel order without background, or None for a promptable net.
        weights: digest of the weights; "random" in front marks untrained ones.
    """

    net: Any
    frame: Frame[Any]
    labels: tuple[str, ...] | None
    weights: str


class Learned(Segmenter):
    """A Segmenter around a net: what adapters and training need."""

    parts: Parts

    @abstractmethod
    def rebuilt(self, parts: Parts) -> Self:
        """The same lift around other parts."""
