"""V-Net: residual stages of large kernels, strided convolutions down, transposed ones up.

Source: Milletari et al., V-Net, 3DV 2016 (arXiv 1606.04797), section 2 and figure 2. Differs: instance normalisation
after each convolution (the paper has none); the shortcut of the first stage is a 1x1x1 convolution instead of the image
repeated, so that any number of channels fits; as many classes as wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from segwise.nets.planned import PlannedNet


class Stage(nn.Module):
    """`n` convolutions whose input is added to their output.

    Args:
        width: channels in and out.
        n: convolutions.
        kernel: side of each, odd.
        n_in: channels in, if others: then a 1x1x1 convolution is the shortcut.
    """

    def __init__(self, width: int, n: int, *, kernel: int, n_in: int = 0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(n):
            first = (n_in or width) if i == 0 else width
            layers += [nn.Conv3d(first, width, kernel, padding=kernel // 2, bias=False)]
            layers += [nn.InstanceNorm3d(width, affine=True), *([nn.PReLU(width)] if i < n - 1 else [])]
        self.convs = nn.Sequential(*layers)
        self.shortcut: nn.Module = nn.Conv3d(n_in, width, 1) if n_in else nn.Identity()
        self.bend = nn.PReLU(width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, n_in, D, H, W] -> [B, width, D, H, W]."""
        return torch.as_tensor(self.bend(self.convs(x) + self.shortcut(x)))


class VNet(PlannedNet):
    """The net.

    Args:
        channels: of the image.
        classes: heads.
        features: channels of each stage; each but the first halves the sides.
        kernel: side of the convolutions, odd.
    """

    def __init__(self, *, channels: int, classes: int, features: Sequence[int], kernel: int = 5) -> None:
        super().__init__()
        self.multiple = 2 ** (len(features) - 1)
        steps = list(pairwise(features))
        self.first = Stage(features[0], 1, kernel=kernel, n_in=channels)
        self.halve = nn.ModuleList(_bent(nn.Conv3d(a, b, 2, 2), b) for a, b in steps)
        self.down = nn.ModuleList(Stage(b, min(i + 2, 3), kernel=kernel) for i, (_, b) in enumerate(steps))
        below = [features[-1], *(2 * a for a, _ in steps[:0:-1])]  # a stage on the way up is twice as wide
        rising = [a for a, _ in steps[::-1]]
        self.rise = nn.ModuleList(_bent(nn.ConvTranspose3d(n, a, 2, 2), a) for n, a in zip(below, rising, strict=True))
        n = len(rising)
        self.up = nn.ModuleList(Stage(2 * a, min(n - i, 3), kernel=kernel) for i, a in enumerate(rising))
        self.head = nn.Conv3d(2 * features[0], classes, 1)

    def answers(self, image: Tensor) -> list[Tensor]:
        """[B, C, D, H, W] -> the logits, alone."""
        x = self.first(image)
        kept = []
        for halve, stage in zip(self.halve, self.down, strict=True):
            kept.append(x)
            x = stage(halve(x))
        for rise, stage in zip(self.rise, self.up, strict=True):
            x = stage(torch.cat((rise(x), kept.pop()), dim=1))
        return [self.head(x)]


def _bent(conv: nn.Module, width: int) -> nn.Module:
    return nn.Sequential(conv, nn.InstanceNorm3d(width, affine=True), nn.PReLU(width))
