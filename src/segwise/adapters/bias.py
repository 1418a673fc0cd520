"""BitFit: the biases of the net are trained, nothing else."""

from __future__ import annotations

from typing import Literal

from segwise.adapters._tuning import copied, finished, refused
from segwise.card import AdapterCard
from segwise.nets.tuned import normalising, side
from segwise.segmenter import Parts

CARD = AdapterCard(
    title="BitFit",
    summary="Trains the biases of the net's layers (not those of batch normalisation) and nothing else.",
    paper="https://arxiv.org/abs/2106.10199",
    fits=("sam", "litemedsam", "sam2", "default"),
)


def apply(
    parts: Parts,
    *,
    place: Literal["encoder", "decoder", "both"] = "both",
    seed: int = 0,
    checkpoint: str | None = None,
) -> Parts:
    """The net with its biases to be trained, or trained.

    Args:
        parts: of the base.
        place: the side of the net.
        seed: nothing is drawn; as in the other adapters.
        checkpoint: a model folder, or a file of this adapter.

    Raises:
        SpecError: the net has no bias on that side.
        WeightsError: the file is missing, damaged or of another adapter.
    """
    net = copied(parts)
    inside = side(net, place) - normalising(net, batch=True)
    trained = [p for name, p in net.named_parameters() if name.endswith("bias") and id(p) in inside]
    if not trained:
        raise refused("bias", parts, f"tunes biases (place={place})", "take another place=")
    own = {"place": place}
    return finished(parts, net, trained, name="bias", arguments=own, seed=seed, checkpoint=checkpoint)
