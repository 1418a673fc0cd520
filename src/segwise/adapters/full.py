"""Full fine-tuning: every weight is trained."""

from __future__ import annotations

from segwise.adapters._tuning import copied, finished, refused
from segwise.card import AdapterCard
from segwise.nets.tuned import normalising
from segwise.segmenter import Parts

CARD = AdapterCard(
    title="Full fine-tuning",
    summary="Trains every weight but those of batch normalisation; its file is as large as the net.",
    fits=("sam", "litemedsam", "sam2", "default"),
)


def apply(parts: Parts, *, seed: int = 0, checkpoint: str | None = None) -> Parts:
    """The net with all to be trained, or trained.

    Args:
        parts: of the base.
        seed: nothing is drawn; as in the other adapters.
        checkpoint: a model folder, or a file of this adapter.

    Raises:
        SpecError: the net has no weights.
        WeightsError: the file is missing, damaged or of another adapter.
    """
    net = copied(parts)
    left = normalising(net, batch=True)
    trained = [p for p in net.parameters() if id(p) not in left]
    if not trained:
        raise refused("full", parts, "tunes the weights of a net", "take a model that has weights")
    return finished(parts, net, trained, name="full", arguments={}, seed=seed, checkpoint=checkpoint)
