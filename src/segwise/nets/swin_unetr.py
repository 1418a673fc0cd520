"""Swin UNETR as a backbone: MONAI's modules under their own keys, with the features that heads of text models read.

Source: Hatamizadeh et al., Swin UNETR, arXiv 2201.01266, and MONAI's `SwinUNETR`. Sizes come from the shapes of a
checkpoint (`sizes`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

PARTS = ("swinViT", "encoder1", "encoder2", "encoder3", "encoder4", "encoder10")
RISING = ("decoder5", "decoder4", "decoder3", "decoder2", "decoder1")
FIRST = "swinViT.patch_embed.proj.weight"


@dataclass(frozen=True, kw_only=True)
class SwinSize:
    """What a Swin UNETR is made of.

    Attributes:
        channels: of the image.
        width: channels at full resolution; the deepest features have 16 times as many.
        depths, heads: of each of the four stages.
        window: side of an attention window.
        classes: channels of the last convolution; 0 without it.
    """

    channels: int = 1
    width: int = 48
    depths: tuple[int, ...] = (2, 2, 2, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7
    classes: int = 0


class SwinFeatures(nn.Module):
    """Swin UNETR up to its last features."""

    multiple = 32  # of the sides of an image

    def __init__(self, size: SwinSize) -> None:
        super().__init__()
        from monai.networks.nets import SwinUNETR

        net = SwinUNETR(
            in_channels=size.channels,
            out_channels=max(size.classes, 1),
            feature_size=size.width,
            depths=size.depths,
            num_heads=size.heads,
            window_size=size.window,
        )
        for name in (*PARTS, *RISING, *(("out",) if size.classes else ())):
            self.add_module(name, getattr(net, name))
        self.size = size

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, D, H, W] -> deepest features [B, 16 F, D/32, H/32, W/32] and those at full size, [B, F, D, H, W]."""
        part = self.get_submodule
        hidden = part("swinViT")(image, True)
        skips = [part("encoder1")(image), *(part(f"encoder{i + 2}")(hidden[i]) for i in range(3)), hidden[3]]
        deep = part("encoder10")(hidden[4])
        x = deep
        for name, skip in zip(RISING, reversed(skips), strict=True):
            x = part(name)(x, skip)
        return deep, x


def found_at(keys: Sequence[str]) -> str | None:
    """What stands before the backbone's own names among some keys; None if there is no Swin UNETR."""
    return next((key.removesuffix(FIRST) for key in keys if key.endswith(FIRST)), None)


def sizes(shapes: Mapping[str, Sequence[int]], prefix: str) -> SwinSize:
    """The sizes of the Swin UNETR whose keys begin with a prefix.

    Raises:
        KeyError: a tensor is missing.
    """
    first = shapes[prefix + FIRST]
    depths, heads, window = [], [], 7
    for stage in range(1, 5):
        own = re.escape(f"{prefix}swinViT.layers{stage}.0.blocks.") + r"(\d+)\."
        depths.append(len({match[1] for key in shapes if (match := re.match(own, key))}))
        table = shapes[f"{prefix}swinViT.layers{stage}.0.blocks.0.attn.relative_position_bias_table"]
        heads.append(int(table[1]))
        window = (round(int(table[0]) ** (1 / 3)) + 1) // 2
    return SwinSize(
        channels=int(first[1]),
        width=int(first[0]),
        depths=tuple(depths),
        heads=tuple(heads),
        window=window,
        classes=int(shapes.get(f"{prefix}out.conv.conv.weight", (0,))[0]),
    )


def published_image(n: int) -> Tensor:
    """An empty cube of one channel."""
    return torch.empty(1, 1, n, n, n)
