"""LoRA: frozen layers with a low-rank change beside them, which folds into them afterwards."""

from __future__ import annotations

import dataclasses
from typing import Literal

from segwise.adapters._tuning import at_least, copied, finished, named, refused, seeded
from segwise.card import AdapterCard
from segwise.errors import SpecError
from segwise.nets import low_rank
from segwise.segmenter import Parts

CARD = AdapterCard(
    title="LoRA",
    summary="Low-rank changes of the attention's projections (of a net without attention: of its convolutions).",
    paper="https://arxiv.org/abs/2106.09685",
    fits=("sam", "litemedsam", "sam2", "default"),
)


def apply(
    parts: Parts,
    *,
    rank: int = 4,
    alpha: float | None = None,
    targets: Literal["auto", "qkv", "qv", "all-linear", "conv"] = "auto",
    place: Literal["encoder", "decoder", "both"] = "encoder",
    seed: int = 0,
    checkpoint: str | None = None,
) -> Parts:
    """The net with fresh or trained low-rank changes; a fresh one changes nothing.

    Args:
        parts: of the base.
        rank: of the changes.
        alpha: the changes are scaled by alpha / rank; None: by 1.
        targets: "qkv" all projections of attention, "qv" those of queries and values, "all-linear" all linear layers,
            "conv" convolutions; "auto" qkv, or conv in a net without attention.
        place: the side of the net.
        seed: of the first factors.
        checkpoint: a model folder, or a file of this adapter.

    Raises:
        SpecError: the net has no such layer on that side.
        WeightsError: the file is missing, damaged or of another adapter.
    """
    at_least("lora", rank=rank, alpha=rank if alpha is None else alpha)
    net = copied(parts)
    with seeded(seed):
        scale = 1.0 if alpha is None else alpha / rank
        trained = low_rank.adapted(net, place=place, targets=targets, rank=rank, scale=scale)
    if not trained:
        layers = {
            "auto": "attention or plain convolutions",
            "qkv": "projections of attention",
            "qv": "projections of attention",
            "all-linear": "linear layers",
            "conv": "convolutions without batch normalisation",
        }[targets]
        side = "net" if place == "both" else place
        raise refused(
            "lora", parts, f"changes {layers} in the {side} (targets={targets})", "take other targets= or place="
        )
    own = {"rank": rank, "scale": scale, "targets": targets, "place": place}
    return finished(parts, net, trained, name="lora", arguments=own, seed=seed, checkpoint=checkpoint)


def merge(parts: Parts) -> Parts:
    """The changes folded into the layers: the same answers (within rounding) at the base's own cost.

    Raises:
        SpecError: there is none.
    """
    net = copied(parts)
    if not low_rank.merged(net):
        raise SpecError("there is no low-rank change to merge: give parts that lora or qlora adapted")
    return dataclasses.replace(parts, net=net.eval(), weights=named(parts.weights, "merged"))
