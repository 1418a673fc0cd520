"""U-Nets of which each sees one channel of an image, fused in their features or in what they answer.

The survey asks whether modalities are better fused early or late: early is a `UNet` that sees all channels at once.
Source of the terms: Zhou et al., A review: deep learning for medical image segmentation using multi-modality fusion,
Array 2019 (arXiv 2004.10664), section 3: input-level, layer-level and decision-level fusion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from segwise.errors import SpecError
from segwise.nets.planned import PlannedNet
from segwise.nets.unet import UNet

FUSIONS = ("early", "features", "late")


class FusedUNet(PlannedNet):
    """One encoder a channel; the mean of their features is decoded once, or each is decoded and the logits averaged.

    Args:
        channels: of the image, 2 or more.
        classes: as `UNet`.
        features: as `UNet`.
        fusion: "features" or "late".
        settings: the others of `UNet`.

    Raises:
        SpecError: one channel, or no such fusion.
    """

    def __init__(
        self,
        *,
        channels: int,
        classes: int,
        features: Sequence[int],
        fusion: Literal["early", "features", "late"],
        **settings: Any,
    ) -> None:
        super().__init__()
        if channels < 2:
            raise SpecError(f"fusion={fusion} needs images of two channels or more, these have one; expected early")
        if fusion not in FUSIONS[1:]:
            raise SpecError(f'fusion is "{fusion}", expected one of {", ".join(FUSIONS)}')
        each = [UNet(channels=1, classes=classes, features=features, **settings) for _ in range(channels)]
        self.multiple, self.fusion = each[0].multiple, fusion
        if fusion == "features":
            for net in each[1:]:  # the first one decodes
                net.up, net.joined, net.heads = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.each = nn.ModuleList(each)

    def answers(self, image: Tensor) -> list[Tensor]:
        """[B, C, D, H, W] -> logits, the finest first."""
        nets = [net for net in self.each if isinstance(net, UNet)]
        encoded = [net.encode(image[:, i : i + 1]) for i, net in enumerate(nets)]
        if self.fusion == "features":
            return nets[0].decode([_mean(level) for level in zip(*encoded, strict=True)])
        found = [net.decode(features) for net, features in zip(nets, encoded, strict=True)]
        return [_mean(level) for level in zip(*found, strict=True)]


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean(dim=0)
