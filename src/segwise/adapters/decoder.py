"""Decoder tuning: the encoder stays as it is, and so do the features that were stored of it."""

from __future__ import annotations

from segwise.adapters._tuning import copied, finished, refused
from segwise.card import AdapterCard
from segwise.nets.tuned import normalising, side
from segwise.segmenter import Parts

CARD = AdapterCard(
    title="Decoder only",
    summary=(
        "Trains what is behind the image encoder (prompt encoder and mask decoder; of the default model the way up of "
        "its U-Net); stored image features stay good."
    ),
    fits=("sam", "litemedsam", "sam2", "default"),
)


def apply(parts: Parts, *, seed: int = 0, checkpoint: str | None = None) -> Parts:
    """The net with its decoder to be trained, or trained.

    Args:
        parts: of the base.
        seed: nothing is drawn; as in the other adapters.
        checkpoint: a model folder, or a file of this adapter.

    Raises:
        SpecError: the net has no decoder apart from its encoder.
        WeightsError: the file is missing, damaged or of another adapter.
    """
    net = copied(parts)
    inside = side(net, "decoder") - normalising(net, batch=True)
    trained = [p for p in net.parameters() if id(p) in inside]
    if not trained:
        raise refused("decoder", parts, "tunes the part behind a promptable net's encoder", "take full, norm or lora")
    return finished(parts, net, trained, name="decoder", arguments={}, seed=seed, checkpoint=checkpoint)
