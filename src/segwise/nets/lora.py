"""SAMed's low-rank change of queries and values in SAM's image encoder.

Source: Zhang and Liu, SAMed (arXiv 2304.13785), section 3.2: q += B_q A_q x and v += B_v A_v x, without a scale, added
to the frozen joint projection. Its files hold `w_a_000`, `w_b_000`, ...: index 2 * block is q, 2 * block + 1 is v.
Encoders whose heads lie one after another in that projection (TinyViT) are taken too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segwise.nets.blocks import Site
from segwise.nets.sam_vit import ImageEncoderViT, Shapes

_PARTS = ("q", "v")


class QkvLora(nn.Module):
    """A joint projection to queries, keys and values with low-rank additions to the first and the last.

    Args:
        qkv: the projection, width -> 3 * out.
        width: of a token.
        rank: of the additions.
        out: of queries, keys and values; None: width.
        heads: how many heads lie one after another, each with its q, k and v; 0: all q, all k, all v.
    """

    def __init__(self, qkv: nn.Module, *, width: int, rank: int, out: int | None = None, heads: int = 0) -> None:
        super().__init__()
        self.qkv, self.heads = qkv, heads
        self.a_q, self.a_v = (nn.Linear(width, rank, bias=False) for _ in _PARTS)
        self.b_q, self.b_v = (nn.Linear(rank, out or width, bias=False) for _ in _PARTS)
        for down, up in ((self.a_q, self.b_q), (self.a_v, self.b_v)):
            nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5))
            nn.init.zeros_(up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., 3 * out]."""
        q, k, v = parted(self.qkv(x), self.heads)
        return joined(q + self.b_q(self.a_q(x)), k, v + self.b_v(self.a_v(x)), self.heads)

    def merged(self) -> nn.Module:
        """The projection with the same answers."""
        inner: Any = self.qkv
        with torch.no_grad():
            q, v = self.b_q.weight @ self.a_q.weight, self.b_v.weight @ self.a_v.weight  # [out, width]
            inner.weight += joined(q.T, torch.zeros_like(q.T), v.T, self.heads).T
        return self.qkv


def parted(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """[..., 3 * out] -> queries, keys and values [..., out]; `heads` as in `QkvLora`."""
    if not heads:
        q, k, v = qkv.chunk(3, dim=-1)
        return q, k, v
    q, k, v = qkv.view(*qkv.shape[:-1], heads, 3, -1).unbind(-2)
    return q.flatten(-2), k.flatten(-2), v.flatten(-2)


def joined(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """The reverse of `parted`."""
    if not heads:
        return torch.cat([q, k, v], dim=-1)
    return torch.stack([x.view(*x.shape[:-1], heads, -1) for x in (q, k, v)], dim=-2).flatten(-3)


def adapted(encoder: ImageEncoderViT, *, rank: int) -> None:
    """Wrap the projections of all blocks (in place); a fresh one changes nothing."""
    width = encoder.pos_embed.shape[-1]
    blocks: list[Any] = list(encoder.blocks)
    for block in blocks:
        block.attn.qkv = QkvLora(block.attn.qkv, width=width, rank=rank)


def placed(sites: Sequence[Site], *, rank: int) -> None:
    """Wrap the projections of blocks of any make (in place)."""
    for site in sites:
        wrapped = QkvLora(site.block.attn.qkv, width=site.width, rank=rank, out=site.out, heads=site.heads)
        site.block.attn.qkv = wrapped


def merged(net: nn.Module) -> int:
    """Fold all additions into their projections (in place); how many there were."""
    found = [(name, m) for name, m in net.named_modules() if isinstance(m, QkvLora)]
    for name, module in found:
        net.set_submodule(name, module.merged())
    return len(found)


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
