"""MA-SAM's adaptation: factor-tuned queries and values, convolutions along neighbouring slices, the decoder trained."""

from __future__ import annotations

import re
from pathlib import Path

from segwise.adapters._tuning import at_least, copied, finished, refused, seeded
from segwise.card import AdapterCard
from segwise.errors import SpecError, WeightsError
from segwise.nets import blocks, fact
from segwise.nets.tuned import side
from segwise.segmenter import Parts
from segwise.weights import folders

CARD = AdapterCard(
    title="MA-SAM",
    summary=(
        "Factor tuning (FacT) of queries and values, an adapter with a 3D convolution before the attention and the MLP "
        "of every block, and the mask decoder trained. Along depth it acts where the lift shows stacks of slices."
    ),
    paper="https://arxiv.org/abs/2309.08842",
    fits=("sam", "litemedsam", "sam2"),
    volumes=True,
)


def apply(
    parts: Parts,
    *,
    rank: int = 32,
    scale: float = 1.0,
    hidden: int = 0,
    slices: int = 0,
    decoder: bool = True,
    seed: int = 0,
    checkpoint: str | None = None,
) -> Parts:
    """The net with fresh or trained factors and adapters; fresh ones change nothing.

    Args:
        parts: of the base.
        rank, scale: of the factors.
        hidden: of the adapters; 0: half of a token's width, at most the 384 of the published ones.
        slices: of a stack; 0: as many as the model shows at once, which is 1 but for models of stacks and lift=chunks.
        decoder: train prompt encoder and mask decoder too, as the authors do.
        seed: of the first weights.
        checkpoint: a model folder, or a file of this adapter.

    Raises:
        SpecError: the net has no transformer blocks that the adapter knows, or the model shows other stacks.
        WeightsError: the file is missing, damaged, of another adapter, or was trained on single slices.
    """
    at_least("ma-sam", rank=rank, scale=scale)
    shown = max(1, parts.frame.shape[0], getattr(parts.frame, "chunk", 1))
    if slices not in (0, 1, shown):
        raise SpecError(
            f"ma-sam: slices is {slices}, and this model shows {shown} at once; leave it at 0, and give the model "
            "lift=chunks and chunk= where it has them"
        )
    net = copied(parts)
    found = blocks.sites(net)
    if not found:
        raise refused(
            "ma-sam",
            parts,
            "changes the attention of SAM's ViT, TinyViT or Hiera and puts adapters between its blocks",
            "take lora, ssf or decoder",
        )
    inside = side(net, "decoder") if decoder else set()
    kept = {id(p) for p in net.parameters()} - inside
    with seeded(seed):
        fact.placed(found, rank=rank, scale=scale, hidden=hidden, slices=slices or shown)
    trained = [p for p in net.parameters() if id(p) not in kept]
    own = {"rank": rank, "scale": scale, "hidden": hidden, "slices": slices or shown, "decoder": decoder}
    done = finished(parts, net, trained, name="ma-sam", arguments=own, seed=seed, checkpoint=checkpoint)
    if checkpoint is not None and (slices or shown) > 1 and _planar(Path(checkpoint).expanduser()):
        raise WeightsError(
            f"{checkpoint} was trained on single slices: its convolutions along depth never learned of neighbours; use "
            "it with slices=1 or without lift=chunks, or train one with lift=chunks"
        )
    return done


def _planar(path: Path) -> bool:
    """A model folder says that its adapter saw single slices; a file says nothing."""
    folder = path if path.is_dir() else path.parent
    if not folders.is_folder(folder):
        return False
    said = folders.read(folder).spec
    base = said.partition("+")[0]
    alone = "lift=chunks" not in base or re.search(r"\b(chunk|slices)=1\b", said) is not None
    return base.partition("(")[0] in ("sam", "medsam", "litemedsam") and alone
