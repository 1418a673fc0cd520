"""Biases that a merged adapter put behind layers which are published without one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from segwise.errors import WeightsError

TURNED = (nn.ConvTranspose2d, nn.ConvTranspose3d)  # outputs on the second axis of the weight
LAYERS = (nn.Linear, nn.Conv2d, nn.Conv3d, *TURNED)


def biased(net: nn.Module, names: Any) -> None:
    """Give layers a bias of zeros (in place).

    Args:
        net: as published.
        names: of the biases ("image_encoder.neck.0.bias"), as `biases` of config.json lists them.

    Raises:
        WeightsError: this is no list of names, or there is no such layer, or it has a bias.
    """
    if not isinstance(names, Sequence) or isinstance(names, str):
        raise WeightsError(f"config.json: biases is {names!r}, expected a list of names; write the folder again")
    layers = dict(net.named_modules())
    for name in names:
        layer: Any = layers.get(str(name).removesuffix(".bias"))
        if type(layer) not in LAYERS or layer.bias is not None or not str(name).endswith(".bias"):
            raise WeightsError(
                f"config.json: biases names {name}, and {type(net).__name__} has no such layer without a bias; write "
                "the folder again with segwise convert"
            )
        n = layer.weight.shape[1 if isinstance(layer, TURNED) else 0]
        layer.bias = nn.Parameter(torch.zeros(n, device=layer.weight.device), requires_grad=False)
