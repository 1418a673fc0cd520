"""A 3D U-Net whose skip connections, shortcuts and coarse heads can each be taken away.

Source: Çiçek et al., 3D U-Net, MICCAI 2016 (arXiv 1606.06650), after Ronneberger et al., arXiv 1505.04597. Differs:
strided convolutions instead of pooling, instance normalisation and leaky ReLU, all as nnU-Net (arXiv 1809.10486) has
them, so that `skips`, `residual` and `deep` are the only differences between its variants.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segwise.nets.planned import PlannedNet

SLOPE = 0.01


class Stage(nn.Module):
    """Two 3x3x3 convolutions, each normalised and bent; the first may halve the sides.

    Args:
        n_in, n_out: channels.
        stride: 1 or 2.
        residual: what came in, brought to size by a 1x1x1 convolution, is added before the last bend (He et al.).
    """

    def __init__(self, n_in: int, n_out: int, *, stride: int = 1, residual: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(n_in, n_out, 3, stride, 1, bias=False)
        self.norm1 = nn.InstanceNorm3d(n_out, affine=True)
        self.conv2 = nn.Conv3d(n_out, n_out, 3, 1, 1, bias=False)
        self.norm2 = nn.InstanceNorm3d(n_out, affine=True)
        self.shortcut = nn.Conv3d(n_in, n_out, 1, stride, bias=False) if residual else None

    def forward(self, x: Tensor) -> Tensor:
        """[B, n_in, D, H, W] -> [B, n_out, D / stride, ...]."""
        inner = nn.functional.leaky_relu(self.norm1(self.conv1(x)), SLOPE)
        inner = self.norm2(self.conv2(inner))
        return nn.functional.leaky_relu(inner if self.shortcut is None else inner + self.shortcut(x), SLOPE)


class UNet(PlannedNet):
    """The net. `encode` and `decode` are apart, so that something may stand between them.

    Args:
        channels: of the image.
        classes: heads: labels with background, or regions.
        features: channels of each stage; each stage but the first halves the sides.
        skips: the decoder sees the encoder's features of its own size; else only what comes from below.
        residual: of every stage.
        deep: while training, up to three decoder stages answer, the coarsest one never.
    """

    def __init__(
        self,
        *,
        channels: int,
        classes: int,
        features: Sequence[int],
        skips: bool = True,
        residual: bool = False,
        deep: bool = True,
    ) -> None:
        super().__init__()
        self.channels, self.multiple, self.skips, self.deep = channels, 2 ** (len(features) - 1), skips, deep
        widths = (channels, *features)
        self.down = nn.ModuleList(
            Stage(a, b, stride=2 if i else 1, residual=residual)
            for i, (a, b) in enumerate(zip(widths, features, strict=False))
        )
        rising = list(zip(features[:0:-1], features[-2::-1], strict=True))  # (from below, own), the coarsest first
        self.up = nn.ModuleList(nn.ConvTranspose3d(a, b, 2, 2) for a, b in rising)
        self.joined = nn.ModuleList(Stage(2 * b if skips else b, b, residual=residual) for _, b in rising)
        answering = rising[max(len(rising) - 3, min(1, len(rising) - 1)) :] if deep else rising[-1:]
        self.heads = nn.ModuleList(nn.Conv3d(b, classes, 1) for _, b in answering)

    def encode(self, image: Tensor) -> list[Tensor]:
        """[B, C, D, H, W] -> features of each stage, the finest first."""
        found = []
        for stage in self.down:
            image = stage(image)
            found.append(image)
        return found

    def decode(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Features, the finest first -> logits, the finest first; only these unless training."""
        x, found = features[-1], []
        silent = len(self.up) - len(self.heads)
        for i, (up, stage) in enumerate(zip(self.up, self.joined, strict=True)):
            x = up(x)
            x = stage(torch.cat((x, features[-i - 2]), dim=1) if self.skips else x)
            if i >= silent and (self.training or i == len(self.up) - 1):
                found.append(self.heads[i - silent](x))
        return found[::-1]

    def answers(self, image: Tensor) -> list[Tensor]:
        """[B, C, D, H, W] -> logits, the finest first."""
        return self.decode(self.encode(image))
