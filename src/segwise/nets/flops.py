"""What a net computes, counted in one way for all: floating-point operations of its matrix products and convolutions.

One multiply-add is two FLOPs. Counted by torch's FlopCounterMode on the meta device: shapes run through the net at its
published size, no weight and no arithmetic is needed. Element-wise work (norms, activations) is not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

Stages = Mapping[str, Callable[[], Any]]  # a part of a net -> a call that runs it once


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published size of a net, built on the meta device. It learns nothing: some modules cannot be counted otherwise.

    Attributes:
        label: as specs say it: "size=b".
        net: the torch module, untrained.
        stages: "encoder", "decoder" (or the model's own words) -> a call that runs it once.
        per: what one call stands for: "slice", "volume", "patch".
        input: in words: "3×1024×1024, one box".
        figure: what its authors publish, with the source; "" if nothing.
    """

    label: str
    net: torch.nn.Module
    stages: Stages
    per: str
    input: str
    figure: str = ""

    def __post_init__(self) -> None:
        self.net.requires_grad_(False)


def counted(call: Callable[[], Any]) -> int:
    """FLOPs of a call, twice its multiply-adds."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        call()
    return int(counter.get_total_flops())


def parameters(net: torch.nn.Module) -> int:
    """How many numbers a net learns."""
    return sum(p.numel() for p in net.parameters())
