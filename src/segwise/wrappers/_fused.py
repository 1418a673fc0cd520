"""Several answers about one target made into one: what the wrappers that ask more than once share.

Answers lie on crops of one grid. Beyond its crop an answer says no. A voxel is foreground if the mean of the answers'
probabilities is above one half.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segwise.geometry import Array, Grid, regrid
from segwise.prompt import Prompt
from segwise.segmenter import OUTSIDE, Ask, Prediction

_EDGE = 1e-7  # probabilities are kept this far from 0 and 1


@dataclass(frozen=True)
class Rounds:
    """What a wrapper carries from round to round.

    Attributes:
        seed: of the first round, so that what was drawn for a mark stays the same when marks are added.
        looks: the wrapped model's own predictions, one a look.
    """

    seed: int
    looks: tuple[Prediction, ...]


def named(inner: str, name: str, *arguments: object) -> str:
    """The digest of a wrapped model: that of the model, the wrapper and its arguments."""
    words = "\x1f".join(map(str, (inner, name, *arguments)))
    return f"{name}:{hashlib.blake2b(words.encode(), digest_size=12).hexdigest()}"


def rounds(ask: Ask) -> Rounds | None:
    """What the round before left, or None in the first."""
    carry = None if ask.previous is None else ask.previous.carry
    return carry if isinstance(carry, Rounds) else None


def first_seed(ask: Ask) -> int:
    """The seed of the first round of this target."""
    left = rounds(ask)
    return ask.seed if left is None else left.seed


def on_grid(prediction: Prediction, own: Grid, grid: Grid) -> Grid:
    """Where an answer lies on `grid`, of which `own` shows the same voxels elsewhere in the world."""
    low = np.rint(own.index(prediction.grid.mm([[0, 0, 0]]))[0]).astype(int)
    return grid.crop(low.tolist(), (low + prediction.grid.shape).tolist())


def around(grids: Sequence[Grid]) -> Grid:
    """The smallest crop that holds several crops of one grid."""
    first = grids[0]
    lows = [np.rint(first.index(grid.mm([[0, 0, 0]]))[0]).astype(int) for grid in grids]
    highs = [low + grid.shape for low, grid in zip(lows, grids, strict=True)]
    return first.crop(np.min(lows, axis=0).tolist(), np.max(highs, axis=0).tolist())


def mean(prompt: Prompt, answers: Sequence[tuple[Prediction, Grid]], carry: Rounds) -> Prediction:
    """One candidate: the mean probability of the best candidates, as a logit.

    Args:
        prompt: what was asked.
        answers: predictions, and where each lies on the asked volume's grid.
        carry: for the next round.

    Returns:
        Quality and presence are the means of the answers', None where an answer has none.
    """
    grid = around([place for _, place in answers])
    shares = np.zeros(grid.shape, dtype=np.float64)
    for answer, place in answers:
        shares += probability(regrid(answer.logits[answer.best], place, grid, order=0, outside=OUTSIDE)) / len(answers)
    shares = np.clip(shares, _EDGE, 1 - _EDGE)
    qualities = [answer.quality[answer.best] for answer, _ in answers if answer.quality is not None]
    presences = [answer.presence for answer, _ in answers if answer.presence is not None]
    return Prediction(
        prompt,
        np.log(shares / (1 - shares)).astype(np.float32)[None],
        grid,
        quality=np.array([np.mean(qualities)]) if len(qualities) == len(answers) else None,
        presence=float(np.mean(presences)) if len(presences) == len(answers) else None,
        carry=carry,
    )


def probability(logits: Array) -> Array:
    """float64 in (0, 1)."""
    return np.asarray(1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -60, 60))))
