"""SAM's mask decoder and codes of places with three axes, as SAM-Med3D and SegVol have them.

Source: Kirillov et al., Segment Anything (arXiv 2304.02643), appendix A, in three dimensions: Wang et al., SAM-Med3D
(arXiv 2310.15161); Du et al., SegVol (arXiv 2311.13385). Parameters carry the names of their checkpoints.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segwise.nets.sam import NO_POINT, Mlp, TwoWayTransformer
from segwise.nets.sam_vit import Shapes, count

HEADS = 8  # of the decoder
Size = tuple[int, int, int]


class ChannelNorm3d(nn.Module):
    """Layer normalisation over the channels of [B, width, D, H, W]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, D, H, W] -> the same shape."""
        return F.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias, 1e-6).movedim(-1, 1)


class RandomPlaces3d(nn.Module):
    """Random Fourier features of a place.

    Args:
        features: frequencies.
        waves: "sc" for sine and cosine, "scs" for a second sine.
    """

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, features: int, *, waves: str) -> None:
        super().__init__()
        self.waves = waves
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(3, features))

    def forward(self, place: Tensor) -> Tensor:
        """[..., 3] in 0..1 -> [..., len(waves) * features]."""
        angle = 2 * math.pi * ((2 * place - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat([angle.sin() if wave == "s" else angle.cos() for wave in self.waves], dim=-1)

    def grid(self, size: Size, parts: Size) -> Tensor:
        """[width, *size]: the places of a grid's cells, the first two axes exchanged, divided by `parts`."""
        like = self.positional_encoding_gaussian_matrix
        axes = [
            (torch.arange(n, device=like.device, dtype=like.dtype) + 0.5) / part
            for n, part in zip(size, parts, strict=True)
        ]
        d, h, w = torch.meshgrid(*axes, indexing="ij")
        return self(torch.stack([h, d, w], dim=-1)).movedim(-1, 0)  # type: ignore[no-any-return]


class Kinds(Protocol):
    """The embeddings that a prompt encoder has for points."""

    point_embeddings: nn.ModuleList
    not_a_point_embed: nn.Embedding


def pointed(encoder: Kinds, placed: Tensor, signs: Tensor) -> Tensor:
    """Codes of places [Q, N, width] with the embedding of their kind: negative, positive or no point."""
    sign = signs.round().long()[..., None]
    negative, positive = (encoder.point_embeddings.get_parameter(f"{i}.weight") for i in (0, 1))
    kind = torch.where(sign == 1, positive, negative)
    return torch.where(sign == NO_POINT, encoder.not_a_point_embed.weight, placed + kind)


class MaskDecoder3d(nn.Module):
    """Image embedding and tokens -> masks at four times its resolution, and their predicted IoU.

    Args:
        width: of a token.
        masks: how many candidates, the first of them for unambiguous prompts.
        transformer: a `TwoWayTransformer`.
        head_depth, head_hidden: of the IoU head.
        norm: of the maps at twice the embedding's resolution; None for `ChannelNorm3d`.
        words: width of embedded words, whose likeness to the features is added to every mask; 0 for none.
    """

    def __init__(
        self,
        *,
        width: int,
        masks: int,
        transformer: nn.Module,
        head_depth: int = 3,
        head_hidden: int = 256,
        norm: nn.Module | None = None,
        words: int = 0,
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.iou_token = nn.Embedding(1, width)
        self.mask_tokens = nn.Embedding(masks, width)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose3d(width, width // 4, 2, 2),
            norm or ChannelNorm3d(width // 4),
            nn.GELU(),
            nn.ConvTranspose3d(width // 4, width // 8, 2, 2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(Mlp(width, width, width // 8, depth=3) for _ in range(masks))
        self.iou_prediction_head = Mlp(width, head_hidden, masks, depth=head_depth)
        if words:
            self.txt_align_upscaled_embedding = nn.Linear(words, width // 8)

    def forward(
        self,
        image: Tensor,
        places: Tensor,
        sparse: Tensor,
        dense: Tensor,
        *,
        candidates: slice,
        words: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Masks of some candidates.

        Args:
            image: [Q, width, d, h, w], a query's own image embedding.
            places: [1, width, d, h, w].
            sparse: [Q, T, width].
            dense: [Q, width, d, h, w].
            candidates: which of the masks, e.g. slice(0, 1).
            words: [Q, words], or None.

        Returns:
            (logits [Q, M, 4d, 4h, 4w], IoU [Q, M]).
        """
        q, _, d, h, w = image.shape
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])  # [1 + masks, width]
        tokens = torch.cat([own.expand(q, -1, -1), sparse], dim=1)
        seen = (image + dense).flatten(2).transpose(1, 2).contiguous()  # [Q, d*h*w, width]
        tokens, seen = self.transformer(seen, places.flatten(2).transpose(1, 2).contiguous(), tokens)
        upscaled = self.output_upscaling(seen.transpose(1, 2).reshape(q, -1, d, h, w))
        chosen = range(len(self.output_hypernetworks_mlps))[candidates]
        weights = torch.stack([self.output_hypernetworks_mlps[i](tokens[:, 1 + i]) for i in chosen], dim=1)
        logits = weights @ upscaled.flatten(2)
        if words is not None:
            logits = logits + self.txt_align_upscaled_embedding(words)[:, None] @ upscaled.flatten(2)
        quality = self.iou_prediction_head(tokens[:, 0])[:, candidates]
        return logits.view(q, len(chosen), *upscaled.shape[2:]), quality


def decoder_of(shapes: Shapes, *, heads: int = HEADS, norm: nn.Module | None = None) -> MaskDecoder3d:
    """A mask decoder with the sizes that keys "mask_decoder.*" have."""
    words = shapes.get("mask_decoder.txt_align_upscaled_embedding.weight", (0, 0))[1]
    masks, width = (int(n) for n in shapes["mask_decoder.mask_tokens.weight"])
    transformer = TwoWayTransformer(
        depth=count(shapes, "mask_decoder.transformer.layers."),
        width=width,
        heads=heads,
        hidden=int(shapes["mask_decoder.transformer.layers.0.mlp.lin1.weight"][0]),
    )
    return MaskDecoder3d(
        width=width,
        masks=masks,
        transformer=transformer,
        head_depth=count(shapes, "mask_decoder.iou_prediction_head.layers."),
        head_hidden=int(shapes["mask_decoder.iou_prediction_head.layers.0.weight"][0]),
        norm=norm,
        words=int(words),
    )
