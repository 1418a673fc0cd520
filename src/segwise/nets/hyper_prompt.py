"""Med-SA's adapters in the mask decoder: one whose weights the prompt makes, one beside the MLP, one on the image.

Source: Wu et al., Medical SAM Adapter (arXiv 2304.12620), section 3.3, the hyper-prompting adapter: an embedding of the
prompt is projected and reshaped to matrices, W = Re(M(e)), which one after another act on the adapter's narrow
features, h <- ReLU(LN(W h)), between its way down and its way up. The authors' code has no such layer; written from
the paper. Deviations: the embedding is the mean of the prompt's tokens (zeros for a prompt without any), M has a narrow
middle, and the way up begins at zero, so that a fresh one changes nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segwise.nets.beside import Beside, Bottleneck
from segwise.nets.sam import MaskDecoder, TwoWayBlock, TwoWayTransformer
from segwise.nets.sam2_decoder import Sam2MaskDecoder

MLP_SCALE = 0.5
DEPTH = 2  # matrices that a prompt makes
MIDDLE = 16  # of the projection M


class HyperPrompt(nn.Module):
    """A bottleneck between whose layers matrices act that a prompt has made; a fresh one answers 0.

    Args:
        width: of a token, and of the prompt's.
        hidden: between.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.down = nn.Linear(width, hidden)
        self.middle = nn.Linear(width, MIDDLE)
        self.matrices = nn.ModuleList(nn.Linear(MIDDLE, hidden * hidden) for _ in range(DEPTH))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(DEPTH))
        self.up = nn.Linear(hidden, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor, prompt: Tensor) -> Tensor:
        """Tokens [B, T, width] and the embedding of the prompt [B, width] -> a change of the tokens."""
        low = self.down(x)  # [B, T, hidden]
        said = F.gelu(self.middle(prompt))
        for matrix, norm in zip(self.matrices, self.norms, strict=True):
            weight = matrix(said).view(-1, self.hidden, self.hidden)  # [B, hidden, hidden]
            low = F.relu(norm(low @ weight))
        return self.up(low)  # type: ignore[no-any-return]


class HyperPromptedBlock(nn.Module):
    """A block of SAM's two-way transformer with the three adapters; steps as in `sam.TwoWayBlock`.

    Args:
        inner: the block, frozen.
        width: of a token.
        hidden: of the adapters.
        own: how many tokens are the decoder's own, before those of the prompt.
    """

    def __init__(self, inner: TwoWayBlock, *, width: int, hidden: int, own: int) -> None:
        super().__init__()
        self.inner, self.own = inner, own
        self.prompted = HyperPrompt(width, hidden)
        self.image = Bottleneck(width, hidden, skip=True)
        inner.mlp = Beside(inner.mlp, Bottleneck(width, hidden, skip=False), scale=MLP_SCALE)  # type: ignore[assignment]

    def forward(self, tokens: Tensor, image: Tensor, token_place: Tensor, image_place: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [B, T, width] and image [B, h*w, width], each with its places, -> both, updated."""
        block = self.inner
        tokens = block.norm1(block.among(tokens, token_place))
        image_key = image + image_place
        found = block.cross_attn_token_to_image(tokens + token_place, image_key, image)
        tokens = block.norm2(tokens + (found + self.prompted(found, self._said(token_place))))
        tokens = block.norm3(tokens + block.mlp(tokens))
        change = block.cross_attn_image_to_token(image_key, tokens + token_place, tokens)
        return tokens, block.norm4(image + self.image(change))

    def _said(self, token_place: Tensor) -> Tensor:
        """[B, width]: the mean of the prompt's tokens, which the transformer takes as the tokens' places."""
        prompt = token_place[:, self.own :]
        return prompt.mean(dim=1) if prompt.shape[1] else torch.zeros_like(token_place[:, 0])


def placed(decoder: nn.Module, *, hidden: int) -> list[nn.Parameter]:
    """Put fresh adapters into the blocks of a mask decoder of SAM or SAM 2 (in place); [] if there is none.

    Args:
        decoder: a module with the mask decoder in it.
        hidden: of all adapters; 0: a quarter of a token's width, at most 32 (a matrix has hidden x hidden values).
    """
    added: list[nn.Parameter] = []
    for found in [m for m in decoder.modules() if isinstance(m, MaskDecoder | Sam2MaskDecoder)]:
        width = found.iou_token.embedding_dim
        own = found.mask_tokens.num_embeddings + (2 if isinstance(found, Sam2MaskDecoder) else 1)
        transformer: Any = found.transformer
        if not isinstance(transformer, TwoWayTransformer):
            continue
        for i, block in enumerate(transformer.layers):
            if isinstance(block, TwoWayBlock):
                new = HyperPromptedBlock(block, width=width, hidden=hidden or min(32, max(1, width // 4)), own=own)
                transformer.layers[i] = new
                beside: Any = block.mlp
                added += [*new.prompted.parameters(), *new.image.parameters(), *beside.adapter.parameters()]
    return added
