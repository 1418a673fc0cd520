"""SAM without prompts: its decoder answers one mask a class (SAMed, MA-SAM).

Source: Zhang and Liu, SAMed (arXiv 2304.13785), section 3.3; Chen et al., MA-SAM (arXiv 2309.08842), section 3.4. No
token but the masks' own, the "no mask" embedding on the image, and all masks of the decoder are handed out.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segwise.nets.contract import ClosedNet
from segwise.nets.sam import MaskDecoder, Mlp, PromptEncoder
from segwise.nets.sam_vit import ImageEncoderViT, Shapes, encoder_of, prompting_of
from segwise.nets.tiny_vit import ChannelNorm

FINER = (256, 64, 32, 16, 8)  # channels of MA-SAM's upscaling


class Classes(NamedTuple):
    """What the net says of N slices: low-resolution logits [N, K, h, w], class 0 is background, and IoU [N, K]."""

    low_res: Tensor
    iou: Tensor


class ClosedSam(ClosedNet):
    """An image encoder with SAM's decoder, asked without prompts.

    Args:
        image_encoder, prompt_encoder, mask_decoder: SAM's; as many mask tokens as classes and background.
        mean, std: of the three channels, taken off the image.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        image_encoder: ImageEncoderViT,
        prompt_encoder: PromptEncoder,
        mask_decoder: MaskDecoder,
        *,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
    ) -> None:
        super().__init__()
        self.image_encoder, self.prompt_encoder, self.mask_decoder = image_encoder, prompt_encoder, mask_decoder
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """[B, 3, D, S, S] -> [[B, K, D, S, S]]: stacks of D slices that the encoder sees as one batch."""
        b, _, d = image.shape[:3]
        low_res = self.classes(self.embed(image)).low_res
        size = self.prompt_encoder.size
        if tuple(low_res.shape[-2:]) != size:
            low_res = F.interpolate(low_res, size, mode="bilinear", align_corners=False)
        return [low_res.view(b, d, *low_res.shape[1:]).transpose(1, 2)]

    def embed(self, image: Tensor) -> Tensor:
        """[B, 3, D, S, S] -> [B * D, width, h, w]."""
        slices = image.transpose(1, 2).flatten(0, 1)  # [B * D, 3, S, S]
        return self.image_encoder((slices - self.mean) / self.std)  # type: ignore[no-any-return]

    def classes(self, embedding: Tensor) -> Classes:
        """[N, width, h, w] -> what is said of N slices."""
        n = len(embedding)
        prompts = self.prompt_encoder
        found = self.mask_decoder(
            embedding,
            prompts.places(),
            prompts.sparse(None, None, None, n),
            prompts.dense(None, n),
            candidates=slice(None),
        )
        return Classes(*found)


def net_of(shapes: Shapes, config: Mapping[str, Any]) -> ClosedSam:
    """The net with a plain image encoder, untrained.

    Args:
        shapes: SAM's image encoder under its own keys, prompt encoder and decoder of the adapted file.
        config: "decoder_num_heads", "pixel_mean", "pixel_std", which no shape tells.

    Raises:
        WeightsError: keys are missing.
    """
    encoder = encoder_of(shapes, config)
    grid = (encoder.size[0] // encoder.patch, encoder.size[1] // encoder.patch)
    prompts, decoder = prompting_of(shapes, config, grid=grid, size=encoder.size)
    if "mask_decoder.output_upscaling.9.weight" in shapes:
        first = shapes["mask_decoder.output_upscaling.0.weight"][0]
        widths = [first, *(shapes[f"mask_decoder.output_upscaling.{i}.weight"][1] for i in (0, 3, 6, 9))]
        finer(decoder, widths, masks=shapes["mask_decoder.mask_tokens.weight"][0])
    mean, std = config.get("pixel_mean", (0.0, 0.0, 0.0)), config.get("pixel_std", (1.0, 1.0, 1.0))
    return ClosedSam(encoder, prompts, decoder, mean=mean, std=std)


def resized(base: Mapping[str, Tensor], grid: tuple[int, int]) -> dict[str, Tensor]:
    """SAM's image encoder for another number of patches: positions and whole-map tables interpolated bilinearly.

    Args:
        base: by SAM's keys.
        grid: (h, w) of the embedding wanted.

    Returns:
        All tensors, the changed ones new; `base` itself where the grid is the same.
    """
    places = base["image_encoder.pos_embed"]
    old = tuple(int(n) for n in places.shape[1:3])
    if old == tuple(grid):
        return dict(base)
    out = dict(base)
    moved = F.interpolate(places.permute(0, 3, 1, 2), grid, mode="bilinear", align_corners=False)
    out["image_encoder.pos_embed"] = moved.permute(0, 2, 3, 1)
    for key, table in base.items():
        for ending, n, m in (("rel_pos_h", old[0], grid[0]), ("rel_pos_w", old[1], grid[1])):
            if key.endswith(ending) and len(table) == 2 * n - 1:
                size = (2 * m - 1, table.shape[1])
                out[key] = F.interpolate(table[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    return out


def finer(decoder: MaskDecoder, widths: Sequence[int], *, masks: int) -> None:
    """MA-SAM's upscaling by sixteen in place of SAM's by four (in place).

    Args:
        decoder: SAM's.
        widths: channels before and after each of the four transposed convolutions, e.g. `FINER`.
        masks: of the decoder.
    """
    layers: list[nn.Module] = []
    for i, (wide, narrow) in enumerate(itertools.pairwise(widths)):
        norm = [ChannelNorm(narrow)] if i < len(widths) - 2 else []
        layers += [nn.ConvTranspose2d(wide, narrow, 2, 2), *norm, nn.GELU()]
    decoder.output_upscaling = nn.Sequential(*layers)
    own = decoder.mask_tokens.embedding_dim
    decoder.output_hypernetworks_mlps = nn.ModuleList(Mlp(own, own, widths[-1], depth=3) for _ in range(masks))
