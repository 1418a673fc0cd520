"""Gradient checkpointing: blocks whose inner values are thrown away and computed again when gradients are taken.

Source: Chen et al., Training deep nets with sublinear memory cost, arXiv 1604.06174. Answers and gradients stay the
same.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from segwise.errors import SpecError


def recompute(net: nn.Module) -> int:
    """Let every block of a net (an element of an outermost module list) be computed again; how many there are.

    Raises:
        SpecError: the net has no such blocks.
    """
    found = list(blocks(net))
    if not found:
        raise SpecError(f"{type(net).__name__} has no blocks in a list, so none can be computed again")
    for block in found:
        block.forward = functools.partial(_again, block.forward, block)
    return len(found)


def recomputable(net: nn.Module) -> bool:
    """Whether a net has blocks that `recompute` was not told of yet."""
    found = list(blocks(net))
    return bool(found) and not any(isinstance(block.forward, functools.partial) for block in found)


def _again(forward: Callable[..., Any], block: nn.Module, *given: Any, **named: Any) -> Any:
    if not torch.is_grad_enabled():  # not by `training`: frozen modules keep to evaluation inside a training
        return forward(*given, **named)
    return checkpoint(forward, *given, use_reentrant=False, **named)


def blocks(net: nn.Module) -> Iterator[nn.Module]:
    """What `recompute` computes again: elements of the outermost module lists, those without parameters left out."""
    for child in net.children():
        if isinstance(child, nn.ModuleList):
            yield from (block for block in child if next(block.parameters(), None) is not None)
        else:
            yield from blocks(child)
