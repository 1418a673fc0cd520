"""Flips: the mirrored body is asked about as well, and the answers are averaged."""

from __future__ import annotations

import itertools
from typing import Literal

import numpy as np

from segwise import anatomy
from segwise.card import WrapperCard
from segwise.segmenter import Segmenter
from segwise.wrappers._fused import named
from segwise.wrappers._turned import Turn, Turned

CARD = WrapperCard(
    title="Flips",
    summary="The body and its mirror images answer (2, 4 or 8 looks); left and right change places in the words too.",
    paper="Test-time augmentation by mirroring, as in nnU-Net (Isensee et al., doi:10.1038/s41592-020-01008-z)",
)


def wrap(segmenter: Segmenter, *, axes: Literal["x", "xy", "xyz"] = "x") -> Segmenter:
    """The model with its mirror images.

    Args:
        segmenter: the model.
        axes: patient axes that are mirrored, in every combination: "x" asks twice, "xy" four times, "xyz" eight times.
    """
    turns = []
    for signs in itertools.product(*((1.0, -1.0) if axis in axes else (1.0,) for axis in "xyz")):
        turns.append(Turn(np.diag(signs), anatomy.mirrored if signs[0] < 0 else str))
    return Turned(segmenter, turns, digest=named(segmenter.digest, "flips", axes))
