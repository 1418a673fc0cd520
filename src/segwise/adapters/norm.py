"""Normalisation tuning: the scale and shift of layer, channel and group norms are trained, nothing else."""

from __future__ import annotations

from typing import Literal

from segwise.adapters._tuning import copied, finished, refused
from segwise.card import AdapterCard
from segwise.nets.tuned import normalising, side
from segwise.segmenter import Parts

CARD = AdapterCard(
    title="Norm tuning",
    summary="Trains scale and shift of layer and group normalisation (batch normalisation stays as it is).",
    paper="https://arxiv.org/abs/2312.11420",
    fits=("sam", "litemedsam", "sam2", "default"),
)


def apply(
    parts: Parts,
    *,
    place: Literal["encoder", "decoder", "both"] = "both",
    seed: int = 0,
    checkpoint: str | None = None,
) -> Parts:
    """The net with its normalisations to be trained, or trained.

    Args:
        parts: of the base.
        place: the side of the net.
        seed: nothing is drawn; as in the other adapters.
        checkpoint: a model folder, or a file of this adapter.

    Raises:
        SpecError: the net has no such normalisation on that side.
        WeightsError: the file is missing, damaged or of another adapter.
    """
    net = copied(parts)
    inside = side(net, place) & normalising(net, batch=False)
    trained = [p for p in net.parameters() if id(p) in inside]
    if not trained:
        raise refused(
            "norm", parts, f"tunes layer and group normalisations (place={place})", "take another place=, or bias"
        )
    own = {"place": place}
    return finished(parts, net, trained, name="norm", arguments=own, seed=seed, checkpoint=checkpoint)
