"""SSF: a scale and a shift behind every layer, which fold into it afterwards."""

from __future__ import annotations

import dataclasses
from typing import Literal

from segwise.adapters._tuning import copied, finished, named, refused
from segwise.card import AdapterCard
from segwise.errors import SpecError
from segwise.nets import scale_shift
from segwise.segmenter import Parts

CARD = AdapterCard(
    title="SSF",
    summary="A trained scale and shift behind every linear layer, convolution and normalisation.",
    paper="https://arxiv.org/abs/2210.08823",
    fits=("sam", "litemedsam", "sam2", "default"),
)


def apply(
    parts: Parts,
    *,
    place: Literal["encoder", "decoder", "both"] = "encoder",
    seed: int = 0,
    checkpoint: str | None = None,
) -> Parts:
    """The net with fresh or trained scales and shifts; a fresh one changes nothing.

    Args:
        parts: of the base.
        place: the side of the net.
        seed: nothing is drawn; as in the other adapters.
        checkpoint: a model folder, or a file of this adapter.

    Raises:
        SpecError: the net has no layer of these on that side.
        WeightsError: the file is missing, damaged or of another adapter.
    """
    net = copied(parts)
    trained = scale_shift.adapted(net, place=place)
    if not trained:
        raise refused(
            "ssf",
            parts,
            f"tunes the outputs of linear layers, convolutions and normalisations (place={place})",
            "take another place=",
        )
    own = {"place": place}
    return finished(parts, net, trained, name="ssf", arguments=own, seed=seed, checkpoint=checkpoint)


def merge(parts: Parts) -> Parts:
    """Scales and shifts folded into the layers: the same answers (within rounding) at the base's own cost.

    Raises:
        SpecError: there is none.
    """
    net = copied(parts)
    if not scale_shift.merged(net):
        raise SpecError("there is no scale and shift to merge: give parts that ssf adapted")
    return dataclasses.replace(parts, net=net.eval(), weights=named(parts.weights, "merged"))
