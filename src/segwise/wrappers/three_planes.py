"""Three planes: the body laid so that coronal and sagittal slices come as axial ones answers too."""

from __future__ import annotations

import numpy as np

from segwise.card import WrapperCard
from segwise.segmenter import Segmenter
from segwise.wrappers._fused import named
from segwise.wrappers._turned import Turn, Turned

CARD = WrapperCard(
    title="Three planes",
    summary="A slice model answers in axial, coronal and sagittal slices (3 looks), whatever its lift; from 3D boxes.",
    paper="https://arxiv.org/abs/1407.5759 (2.5D; the rule of the mean is ours)",
)
_CORONAL = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])  # y becomes z
_SAGITTAL = np.array([[0.0, 0.0, -1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])  # x becomes z


def wrap(segmenter: Segmenter) -> Segmenter:
    """The model in three planes.

    Boxes are said to the other planes as the one box around them; boxes on a single slice say nothing there, and only
    the own plane answers. Later rounds begin anew in the other planes.

    Args:
        segmenter: the model.
    """
    turns = (Turn(np.eye(3)), Turn(_CORONAL, needs_depth=True), Turn(_SAGITTAL, needs_depth=True))
    return Turned(segmenter, turns, digest=named(segmenter.digest, "three-planes"))
