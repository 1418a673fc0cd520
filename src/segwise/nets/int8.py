"""Linear layers whose frozen weights are kept in 8 bits, a scale for each output.

Source: the idea of QLoRA (Dettmers et al., arXiv 2305.14314: a frozen base in few bits under LoRA in full precision);
deviations: symmetric int8 per output instead of blockwise 4-bit NormalFloat, in plain torch, on any device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

LIMIT = 127


class _Product(torch.autograd.Function):
    """x W^T with W made anew in both directions, so that no wide copy of it waits for the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(weight, scale)
        return x @ wide(weight, scale, x.dtype).T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        weight, scale = ctx.saved_tensors
        return grads[0] @ wide(weight, scale, grads[0].dtype), None, None


class Int8Linear(nn.Module):
    """A frozen linear layer in 8 bits.

    Args:
        layer: whose weights are rounded; its bias stays.
    """

    weight: Tensor
    scale: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        own = layer.weight.detach().float()
        scale = (own.abs().amax(dim=1, keepdim=True) / LIMIT).clamp(min=torch.finfo(torch.float32).tiny)
        self.register_buffer("weight", (own / scale).round().to(torch.int8))  # [out, in]
        self.register_buffer("scale", scale)  # [out, 1]
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        if x.device.type != "meta" and torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        y: Tensor = _Product.apply(x, self.weight, self.scale)  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def widened(self) -> nn.Linear:
        """The same layer in float32, as rounded."""
        layer = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device=self.weight.device)
        with torch.no_grad():
            layer.weight.copy_(wide(self.weight, self.scale, torch.float32))
            if self.bias is not None:
                layer.bias.copy_(self.bias)
        return layer.requires_grad_(False)


def wide(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """int8 [out, in] and its scales -> [out, in]."""
    return (weight.to(torch.float32) * scale).to(dtype)


def narrowed(net: nn.Module) -> int:
    """Keep all linear layers inside a module in 8 bits (in place); how many there were."""
    found = [(name, m) for name, m in net.named_modules() if type(m) is nn.Linear]
    for name, layer in found:
        net.set_submodule(name, Int8Linear(layer))
    return len(found)


def widened(net: nn.Module) -> int:
    """Make all 8-bit layers of a module plain ones again, as rounded (in place); how many there were."""
    found = [(name, m) for name, m in net.named_modules() if isinstance(m, Int8Linear)]
    for name, layer in found:
        net.set_submodule(name, layer.widened())
    return len(found)
