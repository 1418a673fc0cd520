"""A small 3D U-Net that looks at one region of a volume, told by box, clicks and its own last answer where to look.

Ours; residual blocks after He et al. (arXiv 1603.05027), the U after Çiçek et al. (arXiv 1606.06650), group norm
(arXiv 1803.08494). Early fusion: the marks are channels beside the image (see `focus_channels`), so `encode` computes
only what the image alone decides, and every word costs one pass of the whole net on 40^3 voxels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segwise.nets import focus_channels
from segwise.nets.contract import Decoded, Marks, PromptNet, Tree

SIDE = 40
WIDTHS = (16, 32, 64, 96)
DEPTHS = (0, 1, 2, 2)  # residual blocks a level on the way down
GROUPS = 8  # of channels that are normalised together
ENFORCED = 2.0  # the least size of the logit at a click


class Block(nn.Module):
    """Two convolutions and what came, added."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(GROUPS, width)
        self.conv2 = nn.Conv3d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(GROUPS, width)

    def forward(self, x: Tensor) -> Tensor:
        """[Q, C, D, H, W] -> the same shape."""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + x)


class FocusUNet(PromptNet):
    """See the file.

    Args:
        widths: channels a level; the first at the full 40^3.
        depths: residual blocks a level on the way down.
    """

    def __init__(self, *, widths: Sequence[int] = WIDTHS, depths: Sequence[int] = DEPTHS) -> None:
        super().__init__()
        levels = range(1, len(widths))
        self.stem = nn.Conv3d(len(focus_channels.NAMES), widths[0], 3, padding=1, bias=False)
        self.stem_norm = nn.GroupNorm(GROUPS, widths[0])
        self.down = nn.ModuleList(nn.Conv3d(widths[i - 1], widths[i], 2, stride=2) for i in levels)
        self.blocks = nn.ModuleList(nn.Sequential(*(Block(widths[i]) for _ in range(depths[i]))) for i in levels)
        self.up = nn.ModuleList(nn.Conv3d(widths[i], widths[i - 1], 1) for i in levels)
        self.merge = nn.ModuleList(Block(widths[i]) for i in range(1, len(widths) - 1))
        self.last = nn.Conv3d(widths[0], widths[0], 3, padding=1, bias=False)
        self.last_norm = nn.GroupNorm(GROUPS, widths[0])
        self.head = nn.Conv3d(widths[0], 1, 1)
        self.judge = nn.Sequential(nn.Linear(widths[-1] + 2 * widths[1] + 2, 64), nn.ReLU(), nn.Linear(64, 1))

    @property
    def answering(self) -> nn.Module:
        """The way up, and the judge."""
        return nn.ModuleList([self.up, self.merge, self.last, self.last_norm, self.head, self.judge])

    def encode(self, image: Tensor) -> Tree:
        """[B, 1, D, H, W] grey levels of any scale -> what of the channels depends on the image alone."""
        return focus_channels.seen(image)

    def decode(self, features: Tree, marks: Marks) -> Decoded:
        """One candidate a query, with its predicted DSC; the logits are also what the next round takes back."""
        with torch.no_grad():
            shown = focus_channels.channels(features, marks)
        logits, quality = self(shown)
        logits = enforced(logits, marks)
        return Decoded(logits, quality=quality, low_res=logits)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Channels [Q, C, D, H, W] -> logits [Q, 1, D, H, W], predicted DSC [Q, 1], float32."""
        first = F.relu(self.stem_norm(self.stem(x)))
        passed, x = [], first
        for down, blocks in zip(self.down, self.blocks, strict=True):
            x = blocks(down(x))
            passed.append(x)
        deepest = x.float().mean(dim=(2, 3, 4))
        for i in range(len(passed) - 2, -1, -1):
            x = F.interpolate(self.up[i + 1](x), scale_factor=2, mode="nearest") + passed[i]
            x = self.merge[i](x)
        half = x
        x = F.interpolate(self.up[0](x), scale_factor=2, mode="nearest") + first
        x = F.relu(self.last_norm(self.last(x)))
        logits = self.head(x).float()
        return logits, self._judged(deepest, half, logits)

    def _judged(self, deepest: Tensor, half: Tensor, logits: Tensor) -> Tensor:
        """The predicted DSC, from features in and out of the answer; it does not bend the answer."""
        chance = F.avg_pool3d(torch.sigmoid(logits.detach()), 2)  # at the half resolution
        seen = half.detach().float()
        inside = (seen * chance).sum(dim=(2, 3, 4)) / (chance.sum(dim=(2, 3, 4)) + 1e-3)
        outside = (seen * (1 - chance)).sum(dim=(2, 3, 4)) / ((1 - chance).sum(dim=(2, 3, 4)) + 1e-3)
        doubt = (chance * (1 - chance)).sum(dim=(2, 3, 4)) / (chance.sum(dim=(2, 3, 4)) + 1e-3)
        told = torch.cat([deepest.detach(), inside, outside, chance.mean(dim=(2, 3, 4)), doubt], dim=1)
        device = logits.device.type
        with contextlib.nullcontext() if device == "meta" else torch.autocast(device, enabled=False):
            return torch.sigmoid(self.judge(told))


def focus_unet_of(shapes: Mapping[str, Sequence[int]]) -> FocusUNet:
    """The net, untrained, with the widths and depths that a file's keys have; the shipped ones where it lacks them."""
    widths = [shapes.get("stem.weight", (WIDTHS[0],))[0]]
    while (key := f"down.{len(widths) - 1}.weight") in shapes:
        widths.append(shapes[key][0])
    if len(widths) < 3 or any(width % GROUPS or not width for width in widths):
        return FocusUNet()
    names = [key.split(".")[:3] for key in shapes if key.startswith("blocks.")]
    depths = [len({name[2] for name in names if name[1] == str(i)}) for i in range(len(widths) - 1)]
    return FocusUNet(widths=widths, depths=[0, *depths])


def enforced(logits: Tensor, marks: Marks) -> Tensor:
    """Logits that agree with the clicks at the clicked voxels."""
    if marks.points is None or marks.signs is None:
        return logits
    least, most = torch.full_like(logits, -torch.inf), torch.full_like(logits, torch.inf)
    size = marks.points.new_tensor(logits.shape[-3:]) - 1
    places = torch.minimum((marks.points + 0.5).floor().clamp(min=0), size).long()
    for q, (points, signs) in enumerate(zip(places.tolist(), marks.signs.tolist(), strict=True)):
        for (d, h, w), sign in zip(points, signs, strict=True):
            if sign > 0:
                least[q, :, d, h, w] = ENFORCED
            elif sign == 0:
                most[q, :, d, h, w] = -ENFORCED
    return torch.minimum(torch.maximum(logits, least), most)
