"""What adapters of transformer blocks share: a module beside another one, and a bottleneck."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Beside(nn.Module):
    """`inner(x) + scale * adapter(x)`: an adapter parallel to a module of a block.

    Args:
        inner: what the adapter stands beside.
        adapter: the same shapes in and out.
        scale: of the adapter's answer.
    """

    def __init__(self, inner: nn.Module, adapter: nn.Module, *, scale: float = 1.0) -> None:
        super().__init__()
        self.inner = inner
        self.adapter = adapter
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> the same shape."""
        return self.inner(x) + self.scale * self.adapter(x)  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """A narrow linear layer, GELU and a linear layer back; a fresh one answers 0 (with `skip`, its input).

    Args:
        width: in and out.
        hidden: between.
        skip: add the input.
    """

    def __init__(self, width: int, hidden: int, *, skip: bool) -> None:
        super().__init__()
        self.D_fc1 = nn.Linear(width, hidden)  # the published checkpoints call them so
        self.D_fc2 = nn.Linear(hidden, width)
        self.skip = skip
        nn.init.zeros_(self.D_fc2.weight)
        nn.init.zeros_(self.D_fc2.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> the same shape."""
        change: Tensor = self.D_fc2(F.gelu(self.D_fc1(x)))
        return x + change if self.skip else change
