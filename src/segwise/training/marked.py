"""Slices of labelled cases for a promptable 2D net: a slice, some of its structures, what is said of each first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from segwise.assemble import Prompter
from segwise.case import Target
from segwise.errors import TrainingError
from segwise.geometry import Array, Grid, Volume
from segwise.prompt import Prompt
from segwise.segmenter import Frame
from segwise.training.augment import Change, changed, drawn
from segwise.training.prepared import Prepared, mapped

LEAST = 12  # voxels of a structure on its slice
TARGETS = 4  # at most, a slice
TOP = 255.0  # of prepared slices, grey levels


class Asked(NamedTuple):
    """One structure on a slice.

    Attributes:
        mask: bool [1, H, W].
        prompt: what is said first.
        name: of the structure.
    """

    mask: Array
    prompt: Prompt
    name: str


class Slice(NamedTuple):
    """A slice with what is asked about it.

    Attributes:
        view: float32 [3, 1, S, S].
        window: its grid, (1, H, W).
        asked: at least one; none on a slice that is shown as another one's neighbour and has none of its structures.
        key: of the view, equal for equal views; "" for one that was changed.
    """

    view: Array
    window: Grid
    asked: tuple[Asked, ...]
    key: str

    def target(self, i: int) -> Target:
        """The reference of one."""
        one = self.asked[i]
        return Target(one.name, one.mask, self.window)


@dataclass(frozen=True)
class MarkedSlices:
    """The stream.

    Attributes:
        cases: prepared by `frame`; of the training subjects only.
        frame: of the net.
        users: what says the first word; one is drawn a batch, as the queries of a batch are of one make.
        size: slices a batch, or chunks of slices where `frame.chunk` is more than 1.
        targets: at most, a slice.
        seed: of everything drawn.
        augment: change slices; not where their features are kept.
        mirror: axes (of slice, row, column) that may be mirrored.
    """

    cases: tuple[Prepared, ...]
    frame: Frame[Any]
    users: tuple[Prompter, ...]
    size: int = 2
    targets: int = TARGETS
    seed: int = 0
    augment: bool = True
    mirror: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self) -> None:
        if not any(case.there for case in self.cases):
            raise TrainingError("no training case has any of the structures; expected one at least")
        if not any(_largest(case, name) >= LEAST for case in self.cases for name in case.there):
            raise TrainingError(
                f"no structure of the training cases fills {LEAST} voxels of a slice; expected larger ones, or finer "
                "scans"
            )

    @property
    def views(self) -> int:
        """How many different slices there are, each with a structure at least."""
        return sum(len({p[0] for name in case.there for p in case.places(name).tolist()}) for case in self.cases)

    def batch(self, index: int) -> list[Slice]:
        """`size` slices, or chunks of neighbouring slices one after the other."""
        rng = np.random.default_rng([self.seed, index])
        user = self.users[int(rng.integers(len(self.users)))]
        found: list[Slice] = []
        n = getattr(self.frame, "chunk", 1)
        while len(found) < self.size * n:
            found += self._chunk(rng, user, n)
        return found

    def _chunk(self, rng: np.random.Generator, user: Prompter, n: int) -> list[Slice]:
        """Empty if nothing is left to ask about."""
        fit = [case for case in self.cases if case.there]
        case = fit[int(rng.integers(len(fit)))]
        name = case.there[int(rng.integers(len(case.there)))]
        places = case.places(name)
        place = int(places[int(rng.integers(len(places)))][0])
        change = drawn(rng, mirror=[a for a in self.mirror if a], flat=True) if self.augment else Change()
        one = made(self.frame, case, place, name, user, rng, change=change, most=self.targets)
        if one is None or n == 1:
            return [] if one is None else [one]
        return beside(self.frame, case, one, place, place - int(rng.integers(n)), user, rng, change=change)


def made(
    frame: Frame[Any],
    case: Prepared,
    place: int,
    first: str,
    user: Prompter,
    rng: np.random.Generator,
    *,
    change: Change = Change(),  # noqa: B008 - frozen
    most: int = TARGETS,
) -> Slice | None:
    """A slice of a case, or None if nothing is left to ask about.

    Args:
        frame: of the net.
        case: prepared.
        place: of the slice.
        first: the structure that is asked about in any case; others that are there follow.
        user: says the first word.
        rng: of the choice and of the user's draws.
        change: of the image and the masks.
        most: structures.
    """
    found, marks = _shown(frame, case, place, change)
    ids = [case.names.index(first) + 1]
    ids += [i for i in rng.permutation(np.unique(marks[marks > 0])).tolist() if i != ids[0]]
    asked = _asked(case, found.window, marks, ids, user, rng, most)
    return found._replace(asked=asked) if asked else None


def beside(
    frame: Frame[Any],
    case: Prepared,
    one: Slice,
    place: int,
    start: int,
    user: Prompter,
    rng: np.random.Generator,
    *,
    change: Change = Change(),  # noqa: B008 - frozen
) -> list[Slice]:
    """A slice and its neighbours, `frame.chunk` from one on, with the same structures asked about on each.

    Beyond the ends the last slice is shown again, and nothing is asked about it. Arguments as `made`'s, and:

    Args:
        one: the slice.
        place: of it.
        start: of the first one; may lie before the volume.
    """
    ids = [case.names.index(asked.name) + 1 for asked in one.asked]
    found = []
    for i in range(start, start + frame.chunk):  # type: ignore[attr-defined]
        other, marks = _shown(frame, case, min(max(i, 0), case.grid.shape[0] - 1), _again(change, i - place))
        inside = 0 <= i < case.grid.shape[0]
        asked = _asked(case, other.window, marks, ids, user, rng, len(ids)) if inside else ()
        found.append(one if i == place else other._replace(asked=asked))
    return found


def _again(change: Change, step: int) -> Change:
    """The same with other noise."""
    return replace(change, seed=change.seed + step) if change.noise else change


def _shown(frame: Frame[Any], case: Prepared, place: int, change: Change) -> tuple[Slice, Array]:
    """A slice that nothing is asked about yet, and its labels [1, H, W]."""
    volume, labels = mapped(case)
    window = frame.window(case.grid, (place, 0, 0))
    image, marks = volume.array[:, place : place + 1], np.asarray(labels[place : place + 1])
    key = ""
    if change == Change():
        key = f"{volume.digest}:{place}"
    else:
        image, marks = _altered(image, marks, change)
    shown = Volume(image, window, volume.channels, f"{volume.digest}:{place}")
    return Slice(frame.view(shown, window), window, (), key), marks


def _asked(
    case: Prepared,
    window: Grid,
    marks: Array,
    ids: Sequence[int],
    user: Prompter,
    rng: np.random.Generator,
    most: int,
) -> tuple[Asked, ...]:
    asked: list[Asked] = []
    for i in ids:
        mask = marks == i
        if mask.sum() >= LEAST and len(asked) < most:
            said = user.first(Target(case.names[i - 1], mask, window), int(rng.integers(2**31)))
            asked += [] if said is None else [Asked(mask, said, case.names[i - 1])]
    return tuple(asked)


def _largest(case: Prepared, name: str) -> int:
    """Voxels of a structure on the slice that has most of it."""
    return int((mapped(case)[1] == case.names.index(name) + 1).sum(axis=(1, 2)).max())


def checked(frame: Frame[Any], cases: Sequence[Prepared], user: Prompter, *, n: int, seed: int) -> list[list[Slice]]:
    """The same slices or chunks of some cases every time, one structure each: what a learning curve is measured on."""
    found: list[list[Slice]] = []
    size = getattr(frame, "chunk", 1)
    rng = np.random.default_rng([seed, 78])
    wanted = [(case, name) for case in cases for name in case.there]
    for i in rng.permutation(len(wanted)).tolist()[:n]:
        case, name = wanted[i]
        places = case.places(name)[:, 0]
        place = int(np.median(places))
        one = made(frame, case, place, name, user, rng, most=1)
        if one is not None:
            found.append([one] if size == 1 else beside(frame, case, one, place, place - size // 2, user, rng))
    return found


def _altered(image: Array, marks: Array, change: Change) -> tuple[Array, Array]:
    """Grey levels and labels of one slice after a change: scaled to mean 0 and deviation 1, changed, scaled back."""
    values = image.astype(np.float32)
    mean, std = float(values.mean()), max(float(values.std()), 1.0)
    new, labels = changed((values - mean) / std, marks, change, marks.shape)
    back = new * std + mean
    if image.dtype.kind in "ui":
        back = np.rint(np.clip(back, 0, TOP))
    return np.ascontiguousarray(back.astype(image.dtype)), labels
