"""In what numbers and where the forward pass runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from segwise.errors import TrainingError
from segwise.nets.half import has_bf16


def autocast(precision: str, device: str) -> contextlib.AbstractContextManager[Any]:
    """bfloat16 where it is asked for, or where "auto" finds a device that has it.

    Weights are cast anew at every use: torch's cache would answer with those of before the last optimiser step for as
    long as one context lasts.
    """
    return torch.autocast(device, dtype=torch.bfloat16, enabled=_halved(precision, device), cache_enabled=False)


def sound(precision: str, device: str) -> contextlib.AbstractContextManager[Any]:
    """Right gradients of 3D convolutions; to be held over the forward and the backward pass (which may recompute).

    On processors that compute bfloat16 themselves, oneDNN's gradient of a convolution's weights is wrong, often not
    finite, and writes outside of its memory where the image is smaller than the kernel along an axis (seen with torch
    2.13: kernels of 3 at 2 slices, of 5 at 3 or 4). Such convolutions, small ones, run in float32 here.
    """
    return _Sound() if device == "cpu" and _halved(precision, device) else contextlib.nullcontext()


def check_device(device: str) -> None:
    """Raises:
    TrainingError: torch does not know the device, or it is not there.
    """
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise TrainingError(f'device "{device}" cannot be used ({reason}); cpu always can') from error


class _Sound(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func is not torch.conv3d or not torch.is_autocast_enabled("cpu") or not _tight(*args, **given):
            return func(*args, **given)
        with torch.autocast("cpu", enabled=False):
            widened = [_wide(value) for value in args]
            said = func(*widened, **{key: _wide(value) for key, value in given.items()})
        return said.to(torch.bfloat16)


def _tight(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> bool:
    """The image is no larger than the kernel along some axis."""
    apart = (dilation,) * 3 if isinstance(dilation, int) else tuple(dilation) * (3 // len(dilation))
    reach = [step * (size - 1) + 1 for step, size in zip(apart, weight.shape[2:], strict=True)]
    return any(1 < wide >= side for wide, side in zip(reach, input.shape[-3:], strict=True))


def _wide(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) else value


def _halved(precision: str, device: str) -> bool:
    return precision == "bf16" or (precision == "auto" and has_bf16(device))
