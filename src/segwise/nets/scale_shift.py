"""SSF: a scale and a shift behind layers, which fold into them afterwards.

Source: Lian et al., Scaling & Shifting Your Features, NeurIPS 2022 (arXiv 2210.08823), section 3.2: y = gamma * x +
beta behind each linear layer, convolution and normalisation, re-parameterised into the layer before. Begins at 1 and 0
(the authors draw both with a deviation of 0.02), so that a fresh one changes nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from segwise.nets.tiny_vit import ChannelNorm, ConvNorm
from segwise.nets.tuned import Place, modules_of

_LAST = (nn.Linear, nn.LayerNorm)  # channels on the last axis; else on the second
_FIRST = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.GroupNorm, ChannelNorm)
_TURNED = (nn.ConvTranspose2d, nn.ConvTranspose3d)  # outputs on the second axis of the weight


class ScaleShift(nn.Module):
    """A layer, times gamma and plus beta by channel.

    Args:
        inner: the layer, frozen.
        channels: of its answer.
        last: they are its last axis, else its second.
    """

    def __init__(self, inner: nn.Module, channels: int, *, last: bool) -> None:
        super().__init__()
        self.inner, self.last = inner, last
        self.gamma = nn.Parameter(torch.ones(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, *inputs: Tensor) -> Tensor:
        """As the layer."""
        y: Tensor = self.inner(*inputs)
        gamma, beta = (x if self.last else x.view(-1, *[1] * (y.dim() - 2)) for x in (self.gamma, self.beta))
        return y * gamma.to(y.dtype) + beta.to(y.dtype)  # under autocast the layer's own precision goes on

    def merged(self) -> nn.Module:
        """One layer with the same answers."""
        target: Any = self.inner.bn if isinstance(self.inner, ConvNorm) else self.inner
        with torch.no_grad():
            sizes = [1] * (target.weight.dim() - 1)
            by = self.gamma.view(1, -1, *sizes[1:]) if isinstance(target, _TURNED) else self.gamma.view(-1, *sizes)
            target.weight *= by
            if target.bias is None:
                target.bias = nn.Parameter(torch.zeros_like(self.beta), requires_grad=False)
            target.bias *= self.gamma
            target.bias += self.beta
        return self.inner


def adapted(net: nn.Module, *, place: Place) -> list[nn.Parameter]:
    """Put a fresh scale and shift behind the layers of a net (in place); [] if it has none on that side.

    A convolution with its batch normalisation counts as one layer. Layers of other makes (attention of other packages,
    embeddings) are left alone.
    """
    parents = dict(net.named_modules())
    added: list[nn.Parameter] = []
    layers: dict[str, nn.Module] = {}
    for name, module in modules_of(net, place).items():
        above = name.rpartition(".")[0]
        whole = isinstance(parents[above], ConvNorm)
        layers[above if whole else name] = parents[above] if whole else module
    for name, layer in layers.items():
        channels = _channels(layer)
        if channels:
            new = ScaleShift(layer, channels, last=type(layer) in _LAST)
            net.set_submodule(name, new)
            added += [new.gamma, new.beta]
    return added


def merged(net: nn.Module) -> int:
    """Fold all scales and shifts into their layers (in place); how many there were."""
    found = [(name, m) for name, m in net.named_modules() if isinstance(m, ScaleShift)]
    for name, module in reversed(found):
        net.set_submodule(name, module.merged())
    return len(found)


def _channels(layer: Any) -> int:
    """Of a layer's answer; 0 for one that gets no scale."""
    if isinstance(layer, ConvNorm):
        return int(layer.bn.num_features)
    if type(layer) is nn.LayerNorm and not (len(layer.normalized_shape) == 1 and layer.elementwise_affine):
        return 0
    if type(layer) not in (*_LAST, *_FIRST) or (type(layer) in _TURNED and layer.groups > 1):
        return 0
    return int(layer.weight.shape[1 if type(layer) in _TURNED else 0])
