"""UniverSeg's net: a slice is segmented as the slices of a support set are, whatever the task.

Source: Butoi et al., UniverSeg, ICCV 2023 (arXiv 2304.06131), section 3.2; block layout and key names of the released
model (Apache-2.0), written anew. `CrossConv` convolves the query's features joined with each support slice's. A
convolution of joined channels is the sum of one over each part, so the query's part is computed once, not once a
support slice; that is the same up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segwise.errors import SpecError, WeightsError
from segwise.nets.contract import Decoded, Marks, PromptNet, Tree

THUMB, BINS = 32, 32  # of what slices are compared by: side of a thumbnail, grey levels of a histogram
RELEASED = (64, 64, 64, 64)


class Conv(nn.Module):
    """3x3 (or another kernel) and leaky ReLU, or without it."""

    def __init__(self, channels: int, out: int, *, kernel: int = 3, bends: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, padding=kernel // 2)
        self.bends = bends
        _begin(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, out, H, W]."""
        found = self.conv(x)
        return F.leaky_relu(found) if self.bends else found


class Each(nn.Module):
    """A layer over each slice of a set; the name of its one part is that of the released model."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.vmapped = layer

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, C, H, W] -> [B, S, out, H, W]."""
        return torch.unflatten(self.vmapped(x.flatten(0, 1)), 0, x.shape[:2])


class CrossConv(nn.Module):
    """The query with each support slice (equation 3)."""

    def __init__(self, query: int, support: int, out: int) -> None:
        super().__init__()
        self.cross_conv = nn.Conv2d(query + support, out, 3, padding=1)
        self.split = query
        _begin(self.cross_conv)

    def forward(self, query: Tensor, support: Tensor) -> Tensor:
        """[B, Cq, H, W], [B, S, Cs, H, W] -> [B, S, out, H, W]."""
        weight = self.cross_conv.weight
        own = F.conv2d(query, weight[:, : self.split], self.cross_conv.bias, padding=1)
        theirs = F.conv2d(support.flatten(0, 1), weight[:, self.split :], padding=1)
        return own[:, None] + torch.unflatten(theirs, 0, support.shape[:2])


class CrossBlock(nn.Module):
    """Query and support set exchange what they know (equations 4 and 5)."""

    def __init__(self, query: int, support: int, out: int) -> None:
        super().__init__()
        self.cross = CrossConv(query, support, out)
        self.target = Each(Conv(out, out))
        self.support = Each(Conv(out, out))

    def forward(self, query: Tensor, support: Tensor, *, last: bool = False) -> tuple[Tensor, Tensor]:
        """[B, Cq, H, W], [B, S, Cs, H, W] -> both with `out` channels; the set is left as it is in the last block."""
        mixed = self.cross(query, support)  # [B, S, out, H, W]
        found = self.target(mixed.mean(dim=1, keepdim=True))[:, 0]
        return found, mixed if last else self.support(mixed)


class UniverSegNet(PromptNet):
    """The net and its support set. A query is asked by the place of a structure in the set.

    Args:
        widths: features of each level; each but the first halves the sides.
        size: S, side of a slice.
        structures, pool: K and M, of the support set; 0 without one.

    Attributes:
        images, masks: uint8 [K, M, S, S]: grey levels, and 0 or 1.
    """

    images: Tensor
    masks: Tensor

    def __init__(
        self, widths: Sequence[int] = RELEASED, *, size: int = 128, structures: int = 0, pool: int = 0
    ) -> None:
        super().__init__()
        if size % 2 ** (len(widths) - 1) or len(widths) < 2:
            raise SpecError(
                f"size is {size} with {len(widths)} levels; expected sides that halve {len(widths) - 1} times"
            )
        down = zip([(1, 2), *((w, w) for w in widths)], widths, strict=False)
        self.enc_blocks = nn.ModuleList(CrossBlock(q, s, out) for (q, s), out in down)
        below, up = widths[-1], []
        for out in widths[-2::-1]:
            up.append(CrossBlock(below + out, below + out, out))
            below = out
        self.dec_blocks = nn.ModuleList(up)
        self.out_conv = Conv(below, 1, kernel=1, bends=False)
        for name in ("images", "masks"):
            none = torch.zeros(structures, pool, size, size, dtype=torch.uint8)
            self.register_buffer(name, none, persistent=structures > 0)  # without a set: the released keys

    def forward(self, query: Tensor, images: Tensor, masks: Tensor) -> Tensor:
        """Logits [B, 1, S, S] of queries [B, 1, S, S] in 0..1; images and masks [B, N, 1, S, S], N support slices."""
        support = torch.cat([images, masks], dim=2)
        skips = []
        for i, block in enumerate(self.enc_blocks):
            if i:
                query, support = F.max_pool2d(query, 2), _each(lambda x: F.max_pool2d(x, 2), support)
            query, support = block(query, support)
            skips.append((query, support))
        skips.pop()
        for block in self.dec_blocks:
            own, theirs = skips.pop()
            query = torch.cat([_doubled(query), own], dim=1)
            support = torch.cat([_each(_doubled, support), theirs], dim=2)
            query, support = block(query, support, last=not skips)
        found: Tensor = self.out_conv(query)
        return found

    def encode(self, image: Tensor) -> Tree:
        """[B, 1, 1, S, S] in 0..1 as it is: which support slices it meets is known only when something is asked."""
        return {"image": image[:, :, 0]}

    def decode(self, features: Tree, marks: Marks) -> Decoded:
        """Logits [Q, 1, 1, S, S]. `marks.tokens`: int64 [Q] "class", "support" (how many) and "like" (0 or 1)."""
        answers = []
        for i, (k, n, like) in enumerate(
            zip(*(marks.tokens[t].tolist() for t in ("class", "support", "like")), strict=True)
        ):
            query = features["image"][marks.image[i]][None]  # [1, 1, S, S]
            chosen = self.chosen(query, k, n, like=bool(like))
            images, masks = (x[k, chosen][None, :, None].to(query.dtype) for x in (self.images, self.masks))
            answers.append(self(query, images / 255, masks))
        return Decoded(torch.cat(answers)[:, :, None])

    def chosen(self, query: Tensor, structure: int, n: int, *, like: bool) -> Tensor:
        """int64 [n]: places in the pool of a structure: the first ones, or those most like the query [1, 1, S, S]."""
        pool = self.images[structure]
        n = min(n, len(pool))
        if not like:
            return torch.arange(n, device=pool.device)
        alike = described(pool[:, None].to(query.dtype) / 255) @ described(query)[0]
        return alike.argsort(descending=True, stable=True)[:n]


def described(images: Tensor) -> Tensor:
    """[N, F] of length 1: what slices are compared by, a thumbnail without its mean and a histogram of grey levels.

    Args:
        images: [N, 1, H, W] in 0..1.
    """
    small = F.interpolate(images, (THUMB, THUMB), mode="area").flatten(1)
    small = F.normalize(small - small.mean(dim=1, keepdim=True), dim=1)
    counts = torch.stack([torch.histc(image.float(), BINS, 0, 1) for image in images]).to(images.dtype)
    return torch.cat([small, F.normalize(counts.sqrt(), dim=1)], dim=1) / 2**0.5


def widths_of(shapes: Mapping[str, Sequence[int]], *, name: str) -> tuple[int, ...]:
    """Features of the levels of a checkpoint, from the shapes of its tensors.

    Raises:
        WeightsError: it is none of UniverSeg.
    """
    found: list[int] = []
    while (shape := shapes.get(f"enc_blocks.{len(found)}.cross.cross_conv.weight")) is not None:
        found.append(int(shape[0]))
    if len(found) < 2:
        raise WeightsError(f"{name} is no checkpoint of UniverSeg: it has no enc_blocks.1.cross.cross_conv.weight")
    return tuple(found)


def _begin(layer: nn.Conv2d) -> None:
    nn.init.kaiming_normal_(layer.weight, a=0.01)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)


def _each(change: Callable[[Tensor], Tensor], support: Tensor) -> Tensor:
    return torch.unflatten(change(support.flatten(0, 1)), 0, support.shape[:2])


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
