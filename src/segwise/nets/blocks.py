"""Where the transformer blocks of an image encoder are, whatever its make: SAM's ViT, TinyViT, Hiera."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from segwise.nets.hiera import HieraBlock, PooledAttention
from segwise.nets.sam_vit import Block, SpatialAttention
from segwise.nets.tiny_vit import Block as TinyBlock
from segwise.nets.tiny_vit import WindowAttention


class Site(NamedTuple):
    """A block whose attention has a joint projection `attn.qkv` that no adapter has wrapped yet.

    Attributes:
        name: inside the net.
        block: with `attn`, `mlp`, `before_attn` and `before_mlp`.
        width, out: of the map before and behind the attention.
        heads: how many heads lie one after another in the projection, each with its q, k and v; 0: all q, all k, all v.
    """

    name: str
    block: Any
    width: int
    out: int
    heads: int


def sites(net: nn.Module) -> list[Site]:
    """The blocks of a net in order; [] if it has none of these, or if all are adapted already."""
    found = []
    for name, block in net.named_modules():
        if isinstance(block, Block | TinyBlock | HieraBlock) and isinstance(
            block.attn, SpatialAttention | WindowAttention | PooledAttention
        ):
            qkv = block.attn.qkv
            if type(qkv) is nn.Linear:
                heads = block.attn.heads if isinstance(block.attn, WindowAttention) else 0
                found.append(Site(name, block, qkv.in_features, qkv.out_features // 3, heads))
    return found
