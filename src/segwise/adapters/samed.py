"""SAMed's adaptation: low-rank changes of queries and values, prompt encoder and mask decoder trained whole."""

from __future__ import annotations

import dataclasses

from segwise.adapters._tuning import at_least, copied, finished, named, refused, seeded
from segwise.card import AdapterCard
from segwise.errors import SpecError
from segwise.nets import blocks, lora
from segwise.nets.tuned import side
from segwise.segmenter import Parts

CARD = AdapterCard(
    title="SAMed",
    summary="LoRA on queries and values of every block, and the whole mask decoder and prompt encoder trained.",
    paper="https://arxiv.org/abs/2304.13785",
    fits=("sam", "litemedsam", "sam2"),
)


def apply(parts: Parts, *, rank: int = 4, seed: int = 0, checkpoint: str | None = None) -> Parts:
    """The net with fresh or trained changes; a fresh one changes nothing.

    Args:
        parts: of the base.
        rank: of the changes, which are not scaled.
        seed: of the first factors.
        checkpoint: a model folder, or a file of this adapter.

    Raises:
        SpecError: the net has no transformer blocks that the adapter knows.
        WeightsError: the file is missing, damaged or of another adapter.
    """
    at_least("samed", rank=rank)
    net = copied(parts)
    found = blocks.sites(net)
    if not found:
        raise refused(
            "samed",
            parts,
            "changes queries and values in the blocks of SAM's ViT, TinyViT or Hiera",
            "take lora, which knows convolutions, or decoder",
        )
    kept = {id(p) for p in net.parameters()} - side(net, "decoder")
    with seeded(seed):
        lora.placed(found, rank=rank)
    trained = [p for p in net.parameters() if id(p) not in kept]
    return finished(parts, net, trained, name="samed", arguments={"rank": rank}, seed=seed, checkpoint=checkpoint)


def merge(parts: Parts) -> Parts:
    """The additions folded into the projections: the same answers (within rounding) at the base's own cost.

    Raises:
        SpecError: there is none.
    """
    net = copied(parts)
    if not lora.merged(net):
        raise SpecError("there is no low-rank addition to merge: give parts that samed adapted")
    return dataclasses.replace(parts, net=net.eval(), weights=named(parts.weights, "merged"))
