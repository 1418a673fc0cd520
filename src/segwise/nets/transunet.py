"""TransUNet in 3D: a U-Net whose coarsest features are the words of a transformer.

Sources: Chen et al., TransUNet, arXiv 2102.04306 (2D), and 3D TransUNet, arXiv 2310.07781, its encoder. Differs: the
encoder is a plain one of `nets/unet.py`, not a ResNet-50 trained on photographs; a word is one voxel of the coarsest
features; the transformer decoder of the 3D paper is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from segwise.errors import SpecError
from segwise.nets.planned import Maskable, PlannedNet, fitting
from segwise.nets.unet import UNet


class TransUNet(PlannedNet):
    """The net.

    Args:
        channels: of the image.
        classes: heads.
        patch: the size it sees: places are learned for it.
        features: of the U-Net.
        depth: layers of the transformer.
        heads: of its attention.
        width: of its words.
        deep: while training, coarser stages answer too.
    """

    def __init__(
        self,
        *,
        channels: int,
        classes: int,
        patch: Sequence[int],
        features: Sequence[int],
        depth: int,
        heads: int,
        width: int,
        deep: bool = True,
    ) -> None:
        super().__init__()
        if width % heads:
            raise SpecError(f"width is {width}, expected a multiple of heads ({heads})")
        self.unet = UNet(channels=channels, classes=classes, features=features, deep=deep)
        self.multiple, self.patch = self.unet.multiple, tuple(patch)
        fitting(patch, self.multiple)
        self.words = nn.Conv3d(features[-1], width, 1)
        self.places = nn.Parameter(torch.randn(1, prod(n // self.multiple for n in patch), width) * 0.02)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, 0.0, nn.functional.gelu, batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.back = nn.Conv3d(width, features[-1], 1)

    def answers(self, image: Tensor) -> list[Tensor]:
        """[B, C, D, H, W] -> logits, the finest first."""
        features = self.unet.encode(image)
        return self.unet.decode([*features[:-1], self.back(self._mixed(features[-1]))])

    def maskable(self) -> Maskable:
        """U-Net encoder and transformer; its convolutions overlap, so voxels are hidden."""

        def deep(image: Tensor) -> Tensor:
            return self._mixed(self.unet.encode(image)[-1])

        prefixes = ("unet.down.", "words.", "places", "layers.", "norm.")
        channels, width = self.unet.channels, self.words.out_channels
        return Maskable(prefixes, None, channels, 1, self.multiple, deep, width, self.multiple)

    def _mixed(self, coarsest: Tensor) -> Tensor:
        """[B, features, d, h, w] -> [B, width, d, h, w]: every word knows of every other."""
        deep = self.words(coarsest)
        words = deep.flatten(2).transpose(1, 2) + self.places  # [B, N, width]
        for layer in self.layers:
            words = layer(words)
        return torch.as_tensor(self.norm(words).transpose(1, 2).reshape(deep.shape))
