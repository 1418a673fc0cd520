"""Rotations: the body in quarter turns about its long axis is asked about as well, and the answers are averaged."""

from __future__ import annotations

from typing import Literal

import numpy as np

from segwise.card import WrapperCard
from segwise.errors import SpecError
from segwise.segmenter import Segmenter
from segwise.wrappers._fused import named
from segwise.wrappers._turned import Turn, Turned

CARD = WrapperCard(
    title="Rotations",
    summary="The body in 2 or 4 quarter turns about its long axis answers; no voxel is interpolated.",
    paper="Test-time augmentation by rotation (Moshkov et al., doi:10.1038/s41598-020-61808-3)",
)


def wrap(segmenter: Segmenter, *, n: Literal[2, 4] = 4) -> Segmenter:
    """The model with turned bodies.

    Args:
        segmenter: the model.
        n: looks: 2 are 0 and 180 degrees, 4 all quarter turns.

    Raises:
        SpecError: another number of looks.
    """
    if n not in (2, 4):
        raise SpecError(f"rotations: n is {n}, expected 2 or 4")
    turns = [Turn(_about_z(k * (4 // n))) for k in range(n)]
    return Turned(segmenter, turns, digest=named(segmenter.digest, "rotations", n))


def _about_z(quarters: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """float64 [3, 3], exact."""
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    return np.linalg.matrix_power(turn, quarters)
