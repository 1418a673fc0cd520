"""What the tests of adapters share: small bases with an image and marks, and answers as one vector."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from segwise import assemble
from segwise.lifts.slices import Slices
from segwise.models import litemedsam
from segwise.nets.contract import Marks
from segwise.nets.sam import MaskDecoder, PromptEncoder, SamNet, TwoWayTransformer
from segwise.nets.tiny_vit import TinyViT
from segwise.segmenter import Parts

NANOS = {
    "sam": "sam(size=nano, candidates=three)",
    "sam2": "sam2(size=nano, lift=slices, candidates=three)",
    "default": "default(precision=fp32)",
}
BASES = (*NANOS, "litemedsam")
SIDE = 32


@dataclass(frozen=True)
class Base:
    """A base with what it can be asked."""

    learned: Any
    image: torch.Tensor
    asked: tuple[Marks, ...]

    @property
    def parts(self) -> Parts:
        return self.learned.parts


@functools.cache
def base(name: str) -> Base:
    """A base by its model's name; the same net for all tests: adapters must not change it."""
    if name == "litemedsam":
        return _tiny()
    learned = assemble.segmenter(NANOS[name])
    generator = torch.Generator().manual_seed(1)
    depth, side = (16, 16) if name == "default" else (1, learned.frame.shape[1])  # the U-Net takes any size
    image = torch.randn(1, 1 if name == "default" else 3, depth, side, side, generator=generator)
    names = {"sam": "prompt_encoder", "sam2": "sam_prompt_encoder"}
    quarter = 4 * learned.net.get_submodule(names[name]).grid[0] if name in names else 0
    return Base(learned, image, _asked(side, quarter, depth=depth))


def _tiny() -> Base:
    """LiteMedSAM's net, small and random; its batch normalisations have statistics of their own."""
    torch.manual_seed(0)
    encoder = TinyViT(
        widths=(8, 12, 16, 16), depths=(1, 1, 1, 1), heads=(1, 2, 2, 2), windows=(3, 3, 4, 3), embedding=16
    )
    transformer = TwoWayTransformer(width=16, heads=2, hidden=32)
    decoder = MaskDecoder(width=16, transformer=transformer, head_hidden=16)
    prompts = PromptEncoder(width=16, grid=(8, 8), size=(SIDE, SIDE), mask_width=8)
    net = SamNet(encoder, prompts, decoder)
    for key, value in net.named_buffers():
        if key.endswith("running_mean"):
            value.normal_()
        if key.endswith("running_var"):
            value.uniform_(0.5, 2)
    parts = Parts(net.eval(), litemedsam.LiteFrame(), None, "small")
    return Base(Slices(parts), torch.rand(1, 3, 1, SIDE, SIDE), _asked(SIDE, 32))


def _asked(side: int, quarter: int, *, depth: int = 1) -> tuple[Marks, ...]:
    """A box; a positive and a negative point with the logits of a round before; a lone point."""
    one, far = torch.zeros(1, dtype=torch.int64), float(depth - 1)
    box = torch.tensor([[[0, 4, 6], [far, side / 2, side / 1.5]]])
    points = torch.tensor([[[far / 2, 9, 11], [far / 3, 3, side - 4.0]]])
    shape = (depth, side, side) if depth > 1 else (quarter, quarter)
    low = torch.linspace(-4, 4, math.prod(shape)).view(1, 1, *shape)
    signs = torch.tensor([[1.0, 0.0]])
    return (
        Marks(one, boxes=box),
        Marks(one, points=points, signs=signs, low_res=low),
        Marks(one, points=points[:, :1], signs=signs[:, :1]),
    )


def answers(parts: Parts, of: Base) -> torch.Tensor:
    """Logits and quality of all that is asked, in one vector."""
    features = parts.net.encode(of.image)
    found = [parts.net.decode(features, marks) for marks in of.asked]
    quality = [d.quality[d.quality.isfinite()].flatten() for d in found]
    presence = [d.presence.flatten() for d in found if d.presence is not None]
    return torch.cat([*(d.logits.flatten() for d in found), *quality, *presence])


def stirred(parts: Parts, *, by: float = 0.05, seed: int = 3) -> Parts:
    """The same parts with every trained tensor moved at random, as training would (in place)."""
    generator = torch.Generator().manual_seed(seed)
    for value in parts.net.parameters():
        if value.requires_grad:
            value.data += by * torch.randn(value.shape, generator=generator)
    return replace(parts, weights=f"{parts.weights} stirred")
