"""Med-SA's adapters: behind the attention and beside the MLP of every block, along depth, and hyper-prompting."""

from __future__ import annotations

from segwise.adapters._tuning import copied, finished, refused, seeded
from segwise.card import AdapterCard
from segwise.errors import SpecError
from segwise.nets import blocks, hyper_prompt, space_depth
from segwise.nets.contract import PromptNet
from segwise.nets.sam import SamNet
from segwise.nets.sam_vit import ImageEncoderViT
from segwise.segmenter import Parts

CARD = AdapterCard(
    title="Med-SA",
    summary=(
        "Adapters behind the attention and beside the MLP of every block of the encoder, attention along the depth of "
        "chunks (chunk=, SAM's own encoder), and adapters in the decoder whose weights the prompt makes."
    ),
    paper="https://arxiv.org/abs/2304.12620",
    fits=("sam", "litemedsam", "sam2"),
    volumes=True,
)


def apply(
    parts: Parts,
    *,
    hidden: int = 0,
    chunk: int = 0,
    prompts: bool = True,
    released: bool = False,
    seed: int = 0,
    checkpoint: str | None = None,
) -> Parts:
    """The net with fresh or trained adapters; fresh ones change nothing.

    Args:
        parts: of the base.
        hidden: of the adapters; 0: a quarter of a token's width (in the decoder at most 32).
        chunk: how many slices attend to each other, where the lift shows whole chunks; 0: as many as the model shows at
            once (lift=chunks), which else are single slices; 1: each only to itself.
        prompts: adapters in the decoder too, one of them the hyper-prompting one.
        released: as the released code instead of the paper, on SAM's own encoder only: the norm sees the padding of
            windows, and prompt encoder and decoder (its blocks a little changed) are trained whole in place of
            adapters in them, whatever prompts= says. Such a net differs from its base from the start.
        seed: of the adapters' first weights.
        checkpoint: a model folder, or a file of this adapter.

    Raises:
        SpecError: the net has no transformer blocks that the adapters know, or chunk= is no number of slices that the
            encoder can lay out, or not as many as the model shows at once.
        WeightsError: the file is missing, damaged or of another adapter.
    """
    if hidden < 0 or chunk < 0:
        raise SpecError(f"med-sa: hidden is {hidden} and chunk {chunk}, expected 0 or more")
    shown = getattr(parts.frame, "chunk", 1)
    if shown > 1 and chunk not in (0, 1, shown):
        raise SpecError(f"med-sa: chunk is {chunk}, and this model shows {shown} slices at once; leave it at 0")
    chunk = 0 if chunk == 1 or max(chunk, shown) == 1 else chunk or shown
    net = copied(parts)
    found = blocks.sites(net)
    if not found:
        raise refused(
            "med-sa",
            parts,
            "puts adapters into the transformer blocks of SAM's ViT, TinyViT or Hiera",
            "take lora, ssf or decoder",
        )
    grid = _grid(net, shown) if chunk else (0, 0)
    kept = {id(p) for p in net.parameters()}
    own: dict[str, object] = {"hidden": hidden, "chunk": chunk, "prompts": prompts}
    with seeded(seed):
        if released:
            own = {"hidden": hidden, "chunk": chunk, "released": True}
            kept -= _as_released(net, hidden=hidden, chunk=chunk)
        else:
            space_depth.placed(found, hidden=hidden, chunk=chunk, grid=grid)
            if prompts and isinstance(net, PromptNet):
                hyper_prompt.placed(net.answering, hidden=hidden)
    trained = [p for p in net.parameters() if id(p) not in kept]
    return finished(parts, net, trained, name="med-sa", arguments=own, seed=seed, checkpoint=checkpoint)


def _as_released(net: PromptNet, *, hidden: int, chunk: int) -> set[int]:
    """The released code's net; the identities of what it trains beside its adapters.

    Raises:
        SpecError: the net is not SAM with its own encoder.
    """
    if not isinstance(net, SamNet) or not isinstance(net.image_encoder, ImageEncoderViT):
        raise SpecError("med-sa(released=true) changes SAM's own encoder and decoder; this net has others: take sam")
    sizes = dict.fromkeys(("space", "depth", "mlp"), hidden) if hidden else None
    space_depth.adapted(net.image_encoder, chunk=chunk, hidden=sizes)
    space_depth.replaced(net.mask_decoder)
    return {id(p) for p in net.answering.parameters()}


def _grid(net: PromptNet, shown: int) -> tuple[int, int]:
    """(h, w) of the map of SAM's own encoder.

    Raises:
        SpecError: it is another one.
    """
    for module in net.modules():
        if isinstance(module, ImageEncoderViT):
            return int(module.pos_embed.shape[1]), int(module.pos_embed.shape[2])
    raise SpecError(
        "med-sa(chunk=) runs the attention once more along depth, which TinyViT's table of places in a window and "
        f"Hiera's pooled queries do not allow: {'give chunk=1' if shown > 1 else 'leave chunk=0'}, or take sam"
    )
