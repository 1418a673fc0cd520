"""SAM 2's image encoder: a hierarchical transformer with windows, and a feature pyramid on its stages.

Source: Ryali et al., Hiera, arXiv 2306.00989; Bolya et al., arXiv 2311.05613 (windowed position); Ravi et al., SAM 2,
arXiv 2408.00714, appendix D. Parameters carry the names of the published checkpoints (`image_encoder.*`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-6  # of the trunk's norms
POOL = 2  # queries of a stage's first block are pooled by this, along both axes


class Feedforward(nn.Module):
    """Linear layers with GELU between."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """[..., widths[0]] -> [..., widths[-1]]."""
        for layer in self.layers[:-1]:
            x = F.gelu(layer(x))
        return self.layers[-1](x)  # type: ignore[no-any-return]


class PooledAttention(nn.Module):
    """Self-attention whose queries may be pooled, which halves the map."""

    def __init__(self, width: int, out: int, *, heads: int, pooled: bool) -> None:
        super().__init__()
        self.heads, self.pooled = heads, pooled
        self.qkv = nn.Linear(width, 3 * out)
        self.proj = nn.Linear(out, out)

    def forward(self, x: Tensor) -> Tensor:
        """[B, h, w, width] -> [B, h, w, out], or half of h and w if pooled."""
        b, h, w, _ = x.shape
        q, k, v = self.qkv(x).chunk(3, dim=-1)  # [B, h, w, out]
        if self.pooled:
            q = halved(q)
        h, w = q.shape[1:3]
        mixed = F.scaled_dot_product_attention(self._heads(q, b), self._heads(k, b), self._heads(v, b))
        return self.proj(mixed.transpose(1, 2).reshape(b, h, w, -1))  # type: ignore[no-any-return]

    def _heads(self, x: Tensor, b: int) -> Tensor:
        return x.reshape(b, x.shape[1] * x.shape[2], self.heads, -1).transpose(1, 2)  # [B, heads, h*w, out / heads]


class HieraBlock(nn.Module):
    """Attention inside windows (0: over the whole map) and an MLP; the first of a stage widens and halves the map.

    Attributes:
        before_attn, before_mlp: modules of adapters on the map [B, h, w, width or out]; nothing in Hiera itself.
    """

    def __init__(
        self, width: int, out: int, *, heads: int, window: int, pooled: bool, hidden: int | None = None
    ) -> None:
        super().__init__()
        self.window, self.pooled = window, pooled
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attn: nn.Module = PooledAttention(width, out, heads=heads, pooled=pooled)
        self.before_attn: nn.Module = nn.Identity()
        self.before_mlp: nn.Module = nn.Identity()
        self.norm2 = nn.LayerNorm(out, eps=EPS)
        self.mlp: nn.Module = Feedforward(out, hidden or 4 * out, out)
        if width != out:
            self.proj = nn.Linear(width, out)

    def forward(self, x: Tensor) -> Tensor:
        """[B, h, w, width] -> [B, h, w, out], or half of h and w if pooled."""
        skip = self.before_attn(x)
        x = self.norm1(skip)
        if hasattr(self, "proj"):
            skip = self.proj(x)
            skip = halved(skip) if self.pooled else skip
        h, w = skip.shape[1:3]
        x = self._windowed(x, h, w) if self.window else self.attn(x)
        x = self.before_mlp(skip + x)
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]

    def _windowed(self, x: Tensor, high: int, wide: int) -> Tensor:
        """Attention in windows; what is padded below and right of the map is cut off again."""
        b, h, w, _ = x.shape
        side = self.window
        x = F.pad(x, (0, 0, 0, -w % side, 0, -h % side))
        rows, columns = x.shape[1] // side, x.shape[2] // side
        x = x.view(b, rows, side, columns, side, -1).transpose(2, 3).flatten(0, 2)  # [B*windows, side, side, width]
        x = self.attn(x)
        side = x.shape[1]
        x = x.view(b, rows, columns, side, side, -1).transpose(2, 3).reshape(b, rows * side, columns * side, -1)
        return x[:, :high, :wide]


class PatchEmbed(nn.Module):
    """Overlapping patches at a quarter of the image's resolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, 7, 4, 3)

    def forward(self, image: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, H/4, W/4, width]."""
        return self.proj(image).permute(0, 2, 3, 1)  # type: ignore[no-any-return]


class Hiera(nn.Module):
    """Image -> a map a stage.

    Args:
        width: of the first stage; each stage doubles width and heads and halves the map.
        heads: of the first stage.
        stages: blocks a stage.
        windows: side of a window, by stage; a stage's first block still has the window of the stage before.
        whole: blocks that attend over the whole map.
        background: (h, w) of the learned position that is enlarged to the map.
        pools: how many of the later stages halve the map.
    """

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        stages: Sequence[int],
        windows: Sequence[int],
        whole: Sequence[int],
        background: tuple[int, int],
        pools: int = 3,
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(width)
        self.pos_embed = nn.Parameter(torch.zeros(1, width, *background))
        self.pos_embed_window = nn.Parameter(torch.zeros(1, width, windows[0], windows[0]))
        self.ends = [sum(stages[: i + 1]) - 1 for i in range(len(stages))]
        self.blocks = nn.ModuleList()
        for stage, blocks in enumerate(stages):
            for i in range(blocks):
                first = i == 0 and stage > 0
                window = windows[stage - 1 if first else stage]
                self.blocks.append(
                    HieraBlock(
                        width * 2 ** (stage - first),
                        width * 2**stage,
                        heads=heads * 2**stage,
                        window=0 if len(self.blocks) in whole else window,
                        pooled=first and stage <= pools,
                    )
                )

    def forward(self, image: Tensor) -> list[Tensor]:
        """[B, 3, H, W] -> a map [B, width, h, w] a stage, the finest first."""
        x = self.patch_embed(image)
        x = x + self._places(x.shape[1], x.shape[2])
        maps = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.ends:
                maps.append(x.permute(0, 3, 1, 2))
        return maps

    def _places(self, h: int, w: int) -> Tensor:
        """[1, h, w, width]: the enlarged background and the window's own position, repeated."""
        side = self.pos_embed_window.shape[-1]
        window = self.pos_embed_window.repeat(1, 1, h // side, w // side)
        return (F.interpolate(self.pos_embed, (h, w), mode="bicubic") + window).permute(0, 2, 3, 1)


class FpnNeck(nn.Module):
    """All stages at one width; some of them take up what the next coarser one found.

    Args:
        out: width of all maps.
        widths: of the stages, the coarsest first.
        top_down: stages (0 the finest) that add the coarser map.
        mode: how the coarser map is enlarged.
    """

    def __init__(self, *, out: int, widths: Sequence[int], top_down: Sequence[int], mode: str = "nearest") -> None:
        super().__init__()
        self.top_down, self.mode = tuple(top_down), mode
        self.convs = nn.ModuleList()
        for width in widths:
            lateral = nn.Sequential()
            lateral.add_module("conv", nn.Conv2d(width, out, 1))
            self.convs.append(lateral)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps, the finest first -> the same at width `out`."""
        last = len(maps) - 1
        found: list[Tensor] = []
        for stage in range(last, -1, -1):
            x = self.convs[last - stage](maps[stage])
            if stage in self.top_down and found:
                align = None if self.mode == "nearest" else False
                x = x + F.interpolate(found[-1], scale_factor=2.0, mode=self.mode, align_corners=align)
            found.append(x)
        return found[::-1]


class Sam2Encoder(nn.Module):
    """Trunk and neck.

    Args:
        trunk, neck: a `Hiera` and an `FpnNeck`.
        scalp: how many of the coarsest maps are not handed out.
    """

    def __init__(self, trunk: Hiera, neck: FpnNeck, *, scalp: int = 1) -> None:
        super().__init__()
        self.trunk, self.neck, self.scalp = trunk, neck, scalp

    def forward(self, image: Tensor) -> list[Tensor]:
        """[B, 3, H, W] -> maps [B, out, H/4, W/4], [B, out, H/8, W/8], [B, out, H/16, W/16]."""
        maps = self.neck(self.trunk(image))
        return maps[: len(maps) - self.scalp]  # type: ignore[no-any-return]


def halved(x: Tensor) -> Tensor:
    """[B, h, w, C] -> [B, h/2, w/2, C], the greatest of 2 x 2."""
    return F.max_pool2d(x.permute(0, 3, 1, 2), POOL, POOL).permute(0, 2, 3, 1)
