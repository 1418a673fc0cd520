"""SAMed's low-rank change of queries and values in SAM's image encoder.

Source: Zhang and Liu, SAMed (arXiv 2304.13785), section 3.2: q += B_q A_q x and v += B_v A_v x, without a scale, added
to the frozen joint projection. Its files hold `w_a_000`, `w_b_000`, ...: index 2 * block is q, 2 * block + 1 is v.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from segwise.nets.sam_vit import ImageEncoderViT, Shapes

_PARTS = ("q", "v")


class QkvLora(nn.Module):
    """A joint projection to queries, keys and values with low-rank additions to the first and the last.

    Args:
        qkv: the projection, width -> 3 * width.
        width: of a token.
        rank: of the additions.
    """

    def __init__(self, qkv: nn.Module, *, width: int, rank: int) -> None:
        super().__init__()
        self.qkv = qkv
        self.a_q, self.a_v = (nn.Linear(width, rank, bias=False) for _ in _PARTS)
        self.b_q, self.b_v = (nn.Linear(rank, width, bias=False) for _ in _PARTS)
        for down, up in ((self.a_q, self.b_q), (self.a_v, self.b_v)):
            nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5))
            nn.init.zeros_(up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., 3 * width]."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return torch.cat([q + self.b_q(self.a_q(x)), k, v + self.b_v(self.a_v(x))], dim=-1)


def adapted(encoder: ImageEncoderViT, *, rank: int) -> None:
    """Wrap the projections of all blocks (in place); a fresh one changes nothing."""
    width = encoder.pos_embed.shape[-1]
    blocks: list[Any] = list(encoder.blocks)
    for block in blocks:
        block.attn.qkv = QkvLora(block.attn.qkv, width=width, rank=rank)


def rank_of(shapes: Shapes) -> int:
    """The rank in a file of SAMed; 0 if it is none."""
    return int(shapes["w_a_000"][0]) if "w_a_000" in shapes else 0


def named(base: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """SAM's image encoder and a file of SAMed by our net's keys; the file's decoder and prompt encoder count."""
    out = {_wrapped(key): value for key, value in base.items() if key.startswith("image_encoder.")}
    for key, value in own.items():
        found = re.fullmatch(r"w_([ab])_(\d+)", key)
        if found is None:
            out[key] = value
        else:
            block, part = divmod(int(found[2]), 2)
            out[f"image_encoder.blocks.{block}.attn.qkv.{found[1]}_{_PARTS[part]}.weight"] = value
    return out


def published(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our net's state dict as SAMed saves it: without the frozen image encoder."""
    out = {}
    for key, value in tensors.items():
        found = re.fullmatch(r"image_encoder\.blocks\.(\d+)\.attn\.qkv\.([ab])_([qv])\.weight", key)
        if found is not None:
            out[f"w_{found[2]}_{2 * int(found[1]) + _PARTS.index(found[3]):03d}"] = value
        elif not key.startswith("image_encoder."):
            out[key] = value
    return out


def _wrapped(key: str) -> str:
    return re.sub(r"\.attn\.qkv\.(weight|bias)$", r".attn.qkv.qkv.\1", key)
