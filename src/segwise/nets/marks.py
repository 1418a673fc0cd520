"""Queries put together and taken apart: lifts and training ask a net about those of one make in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields

import torch
from torch import Tensor

from segwise.nets.contract import Marks, Tree


def mapped(change: Callable[[Tensor], Tree], tree: Tree) -> Tree:
    """A tree with every tensor changed."""
    if isinstance(tree, dict):
        return {key: mapped(change, value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(mapped(change, value) for value in tree)
    return change(tree)


def taken(marks: Marks, rows: slice, device: torch.device) -> Marks:
    """Some queries of many."""
    return Marks(**{name: mapped(lambda x: x[rows].to(device), value) for name, value in _fields(marks).items()})


def joined(parts: Sequence[Marks]) -> Marks:
    """The queries of many marks that are alike."""

    def join(trees: list[Tree]) -> Tree:
        first = trees[0]
        if isinstance(first, dict):
            return {key: join([tree[key] for tree in trees]) for key in first}
        if isinstance(first, list | tuple):
            return type(first)(join([tree[i] for tree in trees]) for i in range(len(first)))
        return torch.cat(trees)

    fields = [_fields(marks) for marks in parts]
    return Marks(**{name: join([f[name] for f in fields]) for name in fields[0]})


def alike(asked: Sequence[Marks]) -> dict[str, list[int]]:
    """Positions by make: the same kinds of mark and as many points, so that no padding changes an answer."""
    groups: dict[str, list[int]] = {}
    for i, marks in enumerate(asked):
        make = {name: mapped(lambda x: tuple(x.shape[1:]), value) for name, value in _fields(marks).items()}
        groups.setdefault(repr(make), []).append(i)
    return groups


def _fields(marks: Marks) -> dict[str, Tree]:
    found = {f.name: getattr(marks, f.name) for f in fields(marks)}
    return {name: value for name, value in found.items() if value is not None}
