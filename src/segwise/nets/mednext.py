"""MedNeXt: a U-Net of ConvNeXt blocks, residual on its ways down and up as well.

Source: Roy et al., MedNeXt, MICCAI 2023 (arXiv 2303.09975), sections 2.1 and 2.2, written from the paper. Differs: a
way up is aligned by torch's `output_padding`; the paper does not say how it pads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segwise.nets.planned import PlannedNet


class Block(nn.Module):
    """Depthwise convolution, a norm of each channel, expansion, GELU, compression; what came in is added.

    Args:
        n_in, n_out: channels.
        ratio: how many times wider it is inside.
        kernel: side of the depthwise convolution, 3 or 5.
        way: "same" size, "down" (half) or "up" (twice).
    """

    def __init__(self, n_in: int, n_out: int, *, ratio: int, kernel: int, way: str = "same") -> None:
        super().__init__()
        pad = kernel // 2
        self.shortcut: nn.Module = nn.Identity()
        if way == "up":
            self.depthwise: nn.Module = nn.ConvTranspose3d(n_in, n_in, kernel, 2, pad, 1, groups=n_in)
            self.shortcut = nn.ConvTranspose3d(n_in, n_out, 1, 2, 0, 1)
        else:
            self.depthwise = nn.Conv3d(n_in, n_in, kernel, 2 if way == "down" else 1, pad, groups=n_in)
            if way == "down":
                self.shortcut = nn.Conv3d(n_in, n_out, 1, 2)
        self.norm = nn.GroupNorm(n_in, n_in)
        self.expand = nn.Conv3d(n_in, ratio * n_in, 1)
        self.compress = nn.Conv3d(ratio * n_in, n_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, n_in, D, H, W] -> [B, n_out, ...]."""
        inner = nn.functional.gelu(self.expand(self.norm(self.depthwise(x))))
        return torch.as_tensor(self.compress(inner) + self.shortcut(x))


class MedNeXt(PlannedNet):
    """The net: a stem, stages of blocks with ways down and up between them, sums as skip connections.

    Args:
        channels: of the image.
        classes: heads.
        features: channels of the first stage; each way down doubles them.
        blocks: of each stage on the way down, the coarsest last; the way up has as many.
        ratios: expansion of each of these stages.
        kernel: of the depthwise convolutions.
        deep: while training every size answers.
    """

    def __init__(
        self,
        *,
        channels: int,
        classes: int,
        features: int,
        blocks: Sequence[int],
        ratios: Sequence[int],
        kernel: int = 3,
        deep: bool = True,
    ) -> None:
        super().__init__()
        n = len(blocks)
        self.multiple, self.deep = 2 ** (n - 1), deep
        widths = [features * 2**i for i in range(n)]

        def stage(i: int) -> nn.Module:
            return nn.Sequential(*(Block(w := widths[i], w, ratio=ratios[i], kernel=kernel) for _ in range(blocks[i])))

        def way(a: int, b: int, name: str) -> nn.Module:
            return Block(widths[a], widths[b], ratio=ratios[b], kernel=kernel, way=name)

        self.stem = nn.Conv3d(channels, features, 1)
        self.down = nn.ModuleList(stage(i) for i in range(n))
        self.halve = nn.ModuleList(way(i, i + 1, "down") for i in range(n - 1))
        self.rise = nn.ModuleList(way(i + 1, i, "up") for i in reversed(range(n - 1)))
        self.up = nn.ModuleList(stage(i) for i in reversed(range(n - 1)))
        answering = widths[::-1] if deep else widths[:1]
        self.heads = nn.ModuleList(nn.Conv3d(w, classes, 1) for w in answering)  # the coarsest first

    def answers(self, image: Tensor) -> list[Tensor]:
        """[B, C, D, H, W] -> logits, the finest first."""
        x, kept = self.stem(image), []
        for i, stage in enumerate(self.down):
            x = stage(x)
            if i < len(self.halve):
                kept.append(x)
                x = self.halve[i](x)
        sizes = [x]
        for rise, stage in zip(self.rise, self.up, strict=True):
            x = stage(rise(x) + kept.pop())
            sizes.append(x)
        if self.training and self.deep:
            return [head(x) for head, x in zip(self.heads, sizes, strict=True)][::-1]
        return [self.heads[-1](x)]
