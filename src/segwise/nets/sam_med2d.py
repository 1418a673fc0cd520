"""SAM-Med2D: SAM with an adapter beside each block's MLP, and the best of its three masks.

Source: Cheng et al., SAM-Med2D (arXiv 2308.16184), section 3.2 and figure 3; sizes after its published checkpoint,
whose keys `image_encoder.blocks.N.Adapter.*` stand here under `blocks.N.mlp.adapter.*`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from segwise.nets.beside import Beside
from segwise.nets.contract import Decoded, Marks, PromptNet
from segwise.nets.sam import SamNet
from segwise.nets.sam_vit import Shapes, count, sam_of


class ChannelSpaceAdapter(nn.Module):
    """A gate a channel, then a strided convolution and back, with a skip and a norm.

    Args:
        width: channels.
        hidden: of the gate.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.channel = nn.Sequential(
            nn.Linear(width, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, width, bias=False), nn.Sigmoid()
        )
        self.spatial = nn.Sequential(
            nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False),
            nn.ReLU(),
            nn.ConvTranspose2d(width, width, 4, stride=2, padding=1, bias=False),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, h, w, width], h and w even, -> the same shape."""
        gate = self.channel(x.mean(dim=(1, 2)))[:, None, None]
        gated = (x * gate).permute(0, 3, 1, 2)
        return self.norm(x + self.spatial(gated).permute(0, 2, 3, 1))  # type: ignore[no-any-return]


class SamMed2dNet(PromptNet):
    """SAM that answers with the best of its three masks, as the authors' predictor does.

    Args:
        sam: with candidates "three" or "one".
    """

    def __init__(self, sam: SamNet) -> None:
        super().__init__()
        self.sam = sam

    @property
    def encoding(self) -> nn.Module:
        """The image encoder."""
        return self.sam.encoding

    def encode(self, image: Tensor) -> Tensor:
        """[B, 3, 1, S, S] -> [B, width, h, w]."""
        return self.sam.encode(image)

    def decode(self, features: Tensor, marks: Marks) -> Decoded:
        """One candidate a query: the one with the highest predicted IoU. `marks.low_res` are probabilities."""
        found = self.sam.decode(features, marks)
        if found.quality is None or found.low_res is None:
            return found
        query, best = torch.arange(len(found.quality), device=found.quality.device), found.quality.argmax(dim=1)
        logits, quality, low_res = (x[query, best][:, None] for x in (found.logits, found.quality, found.low_res))
        return Decoded(logits, quality, low_res=low_res)


def adapted(encoder: Any, *, hidden: int | None = None) -> None:
    """Put a fresh adapter beside the MLP of each block (in place).

    Args:
        encoder: SAM's `ImageEncoderViT`.
        hidden: of the gate; a quarter of the width by default.
    """
    width = encoder.pos_embed.shape[-1]
    blocks: list[Any] = list(encoder.blocks)
    for block in blocks:
        block.mlp = Beside(block.mlp, ChannelSpaceAdapter(width, hidden or width // 4))


def net_of(shapes: Shapes, config: Mapping[str, Any], *, best_of_three: bool = True) -> SamMed2dNet:
    """The net, untrained, with the sizes of a checkpoint; adapters where it has them.

    Raises:
        WeightsError: keys are missing.
    """
    sam = sam_of(shapes, config, candidates="three" if best_of_three else "one")
    gate = shapes.get("image_encoder.blocks.0.Adapter.channel.0.weight")
    if gate is not None and count(shapes, "image_encoder.blocks."):
        adapted(sam.image_encoder, hidden=int(gate[0]))
    return SamMed2dNet(sam)


def named(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict by our net's keys."""
    has = any(".Adapter." in key for key in tensors)
    return {f"sam.{_ours(key) if has else key}": value for key, value in tensors.items()}


def published(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our net's state dict by the published keys."""
    return {
        key.removeprefix("sam.").replace(".mlp.adapter.", ".Adapter.").replace(".mlp.inner.", ".mlp."): value
        for key, value in tensors.items()
    }


def _ours(key: str) -> str:
    key = re.sub(r"^(image_encoder\.blocks\.\d+)\.mlp\.", r"\1.mlp.inner.", key)
    return re.sub(r"^(image_encoder\.blocks\.\d+)\.Adapter\.", r"\1.mlp.adapter.", key)
