"""LoRA: low-rank changes beside frozen linear layers and convolutions, and the layers with the change folded in.

Source: Hu et al., LoRA, arXiv 2106.09685, section 4.1: W + (alpha / rank) B A with B zero at first. Convolutions: A has
the kernel and B is 1 x 1 x 1, as in LoCon (arXiv 2309.14859, section 3). Written here because no package covers joint
projections whose q, k and v lie in another order for every encoder, and convolutions in 3D.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segwise.nets.int8 import Int8Linear
from segwise.nets.tiny_vit import ConvNorm, WindowAttention
from segwise.nets.tuned import Place, modules_of

Targets = Literal["auto", "qkv", "qv", "all-linear", "conv"]
_CONVS = {nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}
_JOINT, _APART = ("qkv",), ("q_proj", "k_proj", "v_proj")  # how projections of attention are called


class LowRankLinear(nn.Module):
    """A linear layer and scale * B A x beside it.

    Args:
        inner: the layer, frozen.
        rank: of the change.
        scale: of the change.
        rows: int64 [n] each, groups of outputs that have a pair of factors of their own; outputs in none stay as they
            are. (): one pair for all.
    """

    rows: Tensor

    def __init__(self, inner: nn.Linear | Int8Linear, *, rank: int, scale: float, rows: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self.inner, self.scale = inner, scale
        groups = list(rows) or [torch.arange(inner.out_features)]
        self.a = nn.Parameter(_uniform(len(groups), rank, inner.in_features, fan=inner.in_features))
        self.b = nn.Parameter(torch.zeros(len(groups), len(groups[0]), rank))
        self.register_buffer("rows", torch.cat(groups), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        y = self.inner(x)
        if len(self.a) == 1 and len(self.rows) == y.shape[-1]:
            return y + self.scale * F.linear(F.linear(x, self.a[0]), self.b[0])  # type: ignore[no-any-return]
        low = F.linear(x, self.a.flatten(0, 1)).unflatten(-1, self.a.shape[:2])  # type: ignore[no-untyped-call]  # [..., groups, rank]
        change = torch.einsum("...gr,gor->...go", low, self.b).flatten(-2)
        return y.index_add(-1, self.rows, (self.scale * change).to(y.dtype))  # type: ignore[no-any-return]

    def merged(self) -> nn.Linear:
        """One linear layer with the same answers."""
        inner = self.inner.widened() if isinstance(self.inner, Int8Linear) else self.inner
        with torch.no_grad():
            change = self.scale * (self.b @ self.a).flatten(0, 1)  # [groups * n, in]
            inner.weight.index_add_(0, self.rows, change)
        return inner


class LowRankConv(nn.Module):
    """A convolution and, beside it, one of the same kernel to few channels and a 1 x 1 (x 1) one back.

    Args:
        inner: the convolution, frozen, of one group.
        rank: channels between.
        scale: of the change.
    """

    def __init__(self, inner: nn.Conv2d | nn.Conv3d, *, rank: int, scale: float) -> None:
        super().__init__()
        self.inner, self.scale = inner, scale
        self.a = nn.Parameter(_uniform(rank, *inner.weight.shape[1:], fan=inner.weight[0].numel()))
        self.b = nn.Parameter(torch.zeros(inner.out_channels, rank))

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, ...] -> as the convolution."""
        inner: Any = self.inner
        back = self.b.view(*self.b.shape, *[1] * (inner.weight.dim() - 2))
        low = inner._conv_forward(x, self.a, None)  # its own strides and padding
        return inner(x) + self.scale * _CONVS[type(inner)](low, back)  # type: ignore[no-any-return]

    def merged(self) -> nn.Conv2d | nn.Conv3d:
        """One convolution with the same answers."""
        with torch.no_grad():
            self.inner.weight += self.scale * torch.einsum("or,r...->o...", self.b, self.a)
        return self.inner


def adapted(net: nn.Module, *, place: Place, targets: Targets, rank: int, scale: float) -> list[nn.Parameter]:
    """Put fresh factors beside the layers of a net (in place); [] if it has no such layer on that side.

    Args:
        net: `PromptNet` or `ClosedNet`.
        place: the side.
        targets: "qkv" all projections of attention, "qv" those of queries and values, "all-linear" all linear layers,
            "conv" all convolutions of one group that no batch normalisation follows, "auto" "qkv" or, without
            attention, "conv".
        rank, scale: of the changes.
    """
    if targets == "auto":
        return adapted(net, place=place, targets="qkv", rank=rank, scale=scale) or adapted(
            net, place=place, targets="conv", rank=rank, scale=scale
        )
    factors: list[nn.Parameter] = []
    parents = dict(net.named_modules())
    for name, layer in modules_of(net, place).items():
        parent = parents[name.rpartition(".")[0]]
        new: nn.Module | None = None
        if targets == "conv" and isinstance(layer, nn.Conv2d | nn.Conv3d) and not isinstance(parent, ConvNorm):
            if type(layer) in _CONVS and layer.groups == 1:
                new = LowRankConv(layer, rank=rank, scale=scale)
        elif targets != "conv" and type(layer) is nn.Linear:
            rows = _rows(name.rpartition(".")[2], layer, parent, targets)
            new = None if rows is None else LowRankLinear(layer, rank=rank, scale=scale, rows=rows)
        if new is not None:
            net.set_submodule(name, new)
            factors += [new.get_parameter("a"), new.get_parameter("b")]
    return factors


def merged(net: nn.Module) -> int:
    """Fold all low-rank changes into their layers (in place); how many there were."""
    found = [(name, m) for name, m in net.named_modules() if isinstance(m, LowRankLinear | LowRankConv)]
    for name, module in reversed(found):  # the inner ones first
        net.set_submodule(name, module.merged())
    return len(found)


def _rows(name: str, layer: nn.Linear, parent: nn.Module, targets: Targets) -> Sequence[Tensor] | None:
    """Which outputs of a linear layer get a pair of factors each; None: the layer is no target, (): all as one."""
    if targets == "all-linear":
        return ()
    if name in _APART:
        return () if targets == "qkv" or name != "k_proj" else None
    if name not in _JOINT:
        return None
    if targets == "qkv":
        return ()
    q, _, v = torch.arange(layer.out_features).chunk(3)
    if isinstance(parent, WindowAttention):  # each head's q, k and v lie together
        q, _, v = torch.arange(layer.out_features).view(parent.heads, 3, -1).transpose(0, 1).flatten(1)
    return q, v


def _uniform(*shape: int, fan: int) -> Tensor:
    """As LoRA's authors begin A; fan: inputs of an output."""
    bound = 1 / math.sqrt(fan)
    return torch.empty(*shape).uniform_(-bound, bound)
