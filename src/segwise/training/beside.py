"""What a small SAM learns beside its masks: each pixel of the maps that masks are made of tells its grey level and
whether it lies in the box. From masks alone it takes many times longer to look at more than the box."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BINS, LEAST_GREY, MOST_GREY = 8, -2.1, 2.6  # of the grey levels of a normalised view
GREYS, BOXES = 0.5, 0.5  # weights


class Beside(nn.Module):
    """A net, and a linear head on its decoder's upscaled maps, which only its training has.

    Args:
        inner: the net.
        decoder: of the net, with `output_upscaling`, whose last module makes the maps.
    """

    def __init__(self, inner: Any, decoder: Any) -> None:
        super().__init__()
        self.inner = inner
        self.told = nn.Conv2d(decoder.iou_token.embedding_dim // 8, BINS + 1, 1)
        self._maps: list[Tensor] = []
        decoder.output_upscaling[-1].register_forward_hook(lambda _, __, maps: self._maps.append(maps))

    def loss(self, views: Tensor, boxes: Tensor | None) -> Tensor:
        """Scalar, of the decoder's last call.

        Args:
            views: [Q, 1, size, size] of each query, normalised.
            boxes: [Q, 2, 3] low and high corner in view pixels, inclusive, or None.
        """
        told = self.told(self._maps.pop())
        self._maps.clear()
        h, w = told.shape[-2:]
        size = views.shape[-1]
        grey = F.interpolate(views, (h, w), mode="area")
        place = ((grey - LEAST_GREY) / (MOST_GREY - LEAST_GREY)).clamp(0, 1) * (BINS - 1)
        wanted = (1 - (place - torch.arange(BINS).view(1, -1, 1, 1)).abs()).clamp(min=0)  # two bins share a level
        loss = GREYS * F.cross_entropy(told[:, :BINS].float(), wanted)
        if boxes is None:
            return loss
        rows, columns = ((torch.arange(n) + 0.5) * size / n - 0.5 for n in (h, w))
        tall, wide = (
            (axis >= boxes[:, 0, i, None] - 0.5) & (axis <= boxes[:, 1, i, None] + 0.5)
            for i, axis in ((1, rows), (2, columns))
        )
        box = (tall[:, :, None] & wide[:, None]).float()
        return loss + BOXES * F.binary_cross_entropy_with_logits(told[:, BINS].float(), box)
