"""Slices with something to ask about, labelled or not: what a student is shown beside its teacher.

A teacher can be asked about anything, so no label is needed: regions of like brightness stand for targets. Where there
are labels, half of the slices are asked about them. Everything is asked twice, by a tight mark and by another one, so
that a student learns how its teacher's answer moves with the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from segwise.errors import TrainingError
from segwise.geometry import Array, Grid, Volume, bounds
from segwise.prompt import Box, Points, Prompt
from segwise.segmenter import Frame
from segwise.training.marked import LEAST, Asked, Slice
from segwise.training.prepared import Prepared, mapped

REGION = "region"  # name of what no label names
LARGEST = 0.4  # of a slice, that a region may fill
TRIES = 8  # levels of brightness, and slices, that are tried
MOVED = 0.12  # of a box's side, by how much its faces are moved at most
CLICKS = 3
POINTED = 0.25  # of batches are asked by points, where points are taken


@dataclass(frozen=True)
class Anywhere:
    """The stream.

    Attributes:
        cases: prepared by `frame`; of the training subjects only.
        frame: of the teacher, which is the student's.
        takes: kinds of mark; of these boxes and points are made.
        size: slices a batch.
        targets: at most, a slice; each is asked about twice.
        labelled: share of slices that are asked about labels, in cases that have some.
        seed: of everything drawn.
    """

    cases: tuple[Prepared, ...]
    frame: Frame[Any]
    takes: frozenset[str] = frozenset({"box"})
    size: int = 2
    targets: int = 2
    labelled: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.cases:
            raise TrainingError("there is no case to learn from; expected one at least")

    def batch(self, index: int) -> list[Slice]:
        """`size` slices, or fewer where brightness tells nothing; one at least.

        Raises:
            TrainingError: no slice has anything to ask about.
        """
        rng = np.random.default_rng([self.seed, index])
        points = "box" not in self.takes or ("points" in self.takes and bool(rng.random() < POINTED))
        found: list[Slice] = []
        for _ in range(TRIES * self.size):
            one = self._slice(rng, points=points)
            found += [] if one is None else [one]
            if len(found) == self.size:
                break
        if not found:
            raise TrainingError(
                "no slice of the cases has anything to ask about; expected scans that are not of one value"
            )
        return found

    def _slice(self, rng: np.random.Generator, *, points: bool) -> Slice | None:
        case = self.cases[int(rng.integers(len(self.cases)))]
        name = ""
        if case.there and rng.random() < self.labelled:
            name = case.there[int(rng.integers(len(case.there)))]
        return made(self.frame, case, name, rng, points=points, most=self.targets)


def made(
    frame: Frame[Any], case: Prepared, name: str, rng: np.random.Generator, *, points: bool = False, most: int = 1
) -> Slice | None:
    """A slice of a case with questions in pairs, or None if it has nothing to ask about.

    Args:
        frame: of the net.
        case: prepared.
        name: of a structure that is there, or "" for regions of like brightness.
        rng: of everything drawn.
        points: asked by points, else by boxes.
        most: targets.
    """
    volume, labels = mapped(case)
    if name:
        places = case.places(name)[:, 0]
        place = int(places[int(rng.integers(len(places)))])
        marks = labels[place : place + 1]
        own = case.names.index(name) + 1
        ids = [own, *(i for i in rng.permutation(np.unique(marks[marks > 0])).tolist() if i != own)]
        masks = [(case.names[i - 1], marks == i) for i in ids]
    else:
        place = int(rng.integers(case.grid.shape[0]))
        masks = [(REGION, mask[None]) for mask in regions(volume.array[0, place], rng, most=most)]
    window = frame.window(case.grid, (place, 0, 0))
    asked: list[Asked] = []
    for what, mask in [one for one in masks if one[1].sum() >= LEAST][:most]:
        asked += [Asked(mask, prompt, what) for prompt in pair(mask, window, rng, points=points)]
    if not asked:
        return None
    shown = Volume(volume.array[:, place : place + 1], window, volume.channels, f"{volume.digest}:{place}")
    return Slice(frame.view(shown, window), window, tuple(asked), f"{volume.digest}:{place}")


def pair(mask: Array, window: Grid, rng: np.random.Generator, *, points: bool = False) -> tuple[Prompt, Prompt]:
    """Two prompts for one target: the tight box and one with its faces moved, or two draws of one to three points.

    Args:
        mask: bool [1, H, W], not empty.
        window: its grid.
        rng: of what is drawn.
        points: instead of boxes.
    """
    if points:
        places, n = np.argwhere(mask), int(rng.integers(1, CLICKS + 1))
        drawn = [places[rng.choice(len(places), size=n)] for _ in range(2)]
        first, second = (Prompt((Points(window.mm(where), np.ones(n, dtype=bool)),)) for where in drawn)
        return first, second
    found = bounds(mask)
    assert found is not None
    low, high = np.array(found[0]), np.array(found[1])
    move = np.rint(rng.uniform(-MOVED, MOVED, (2, 3)) * (high - low) + np.sign(rng.uniform(-1, 1, (2, 3)))).astype(int)
    move[:, 0] = 0
    first_, last = np.maximum(low - move[0], 0), np.minimum(high + move[1], mask.shape)
    thin = last <= first_
    boxes = (low, high), (np.where(thin, low, first_), np.where(thin, high, last))
    tight, loose = (Prompt((Box.of(window, a.tolist(), b.tolist()),)) for a, b in boxes)
    return tight, loose


def regions(image: Array, rng: np.random.Generator, *, most: int) -> list[Array]:
    """Connected regions of like brightness on a slice, larger ones likelier.

    Args:
        image: [H, W] grey levels.
        rng: draws the levels and which regions.
        most: regions, none of them in another one of the same level.

    Returns:
        bool [H, W] each, of LEAST voxels or more and no more than LARGEST of the slice; [] where nothing stands out.
    """
    smooth = ndimage.uniform_filter(image.astype(np.float32), 3)
    values = smooth[smooth > smooth.min()]
    for _ in range(TRIES if values.size >= LEAST else 0):
        low, high = np.quantile(values, np.sort(rng.random(2)))
        within = smooth >= low if rng.random() < 0.5 else (smooth >= low) & (smooth <= high)
        parts, n = ndimage.label(ndimage.binary_opening(within))
        sizes = np.bincount(parts.ravel(), minlength=n + 1)[1:]
        fit = np.flatnonzero((sizes >= LEAST) & (sizes <= LARGEST * image.size))
        if not len(fit):
            continue
        weight = np.sqrt(sizes[fit].astype(np.float64))
        chosen = rng.choice(fit, size=min(most, len(fit)), replace=False, p=weight / weight.sum())
        return [parts == i + 1 for i in chosen.tolist()]
    return []


def held_out(frame: Frame[Any], cases: Sequence[Prepared], *, n: int, seed: int, points: bool = False) -> list[Slice]:
    """The same slices of some cases every time, a question each: labelled structures where there are some.

    Args:
        frame: of the net.
        cases: that nothing is learned from.
        n: slices at most.
        seed: of what is drawn.
        points: asked by points, else by tight boxes.
    """
    rng = np.random.default_rng([seed, 80])
    wanted = [(case, name) for case in cases for name in (case.there or ("",) * TRIES)]
    found: list[Slice] = []
    while wanted and len(found) < n:
        begun = len(found)
        for i in rng.permutation(len(wanted)).tolist():
            case, name = wanted[i]
            one = made(frame, case, name, rng, points=points)
            if one is not None and len(found) < n:
                found.append(one._replace(asked=one.asked[:1]))
        if len(found) == begun:
            break
    return found
