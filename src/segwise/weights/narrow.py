"""Weights in fewer bits: bfloat16, or 8 bits with a scale for every output. Widened again when they are read.

In 8 bits, tensors of two axes or more (linear and convolution weights) are symmetric integers from -127 to 127, with
float32 scales under the same name and `SCALE` behind it; vectors (biases, norms) stay float32. Source of the scheme:
Krishnamoorthi, Quantizing deep convolutional networks, arXiv 1806.08342, section 3 (per-channel, symmetric).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from segwise.errors import WeightsError

Precision = Literal["bf16", "int8"]
SCALE = "::scale"  # no name of a torch module has a colon
LIMIT = 127


def narrowed(tensors: Mapping[str, Any], precision: Precision) -> dict[str, Any]:
    """Tensors in fewer bits; integers and what has one value stay as they are.

    Args:
        tensors: by name; a first axis is that of the outputs.
        precision: "bf16" or "int8".
    """
    import torch

    found: dict[str, Any] = {}
    for name, value in tensors.items():
        if not value.is_floating_point():
            found[name] = value
        elif precision == "bf16":
            found[name] = value.to(torch.bfloat16)
        elif value.ndim < 2:
            found[name] = value.float()
        else:
            own = value.float()
            most = own.abs().amax(dim=tuple(range(1, own.ndim)), keepdim=True)
            scale = (most / LIMIT).clamp(min=torch.finfo(torch.float32).tiny)
            found[name] = (own / scale).round().to(torch.int8)
            found[name + SCALE] = scale
    return found


def widened(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """What `narrowed` made in 8 bits as float32 again; other tensors as they are.

    Raises:
        WeightsError: a scale without its tensor, or of a shape that does not fit it.
    """
    import torch

    found = {name: value for name, value in tensors.items() if not name.endswith(SCALE)}
    for name, scale in tensors.items():
        if not name.endswith(SCALE):
            continue
        own = found.get(name.removesuffix(SCALE))
        fits = own is not None and own.dtype == torch.int8 and scale.is_floating_point() and scale.ndim == own.ndim
        if own is None or not fits or scale.numel() != own.shape[0] or scale.shape[0] != own.shape[0]:
            raise WeightsError(
                f"{name} is the scale of no 8-bit tensor in this file, or of another shape: a damaged file; write it "
                "again with segwise convert"
            )
        found[name.removesuffix(SCALE)] = own.float() * scale
    return found
