"""A prompt said again a little differently: boxes and clicks moved by millimetres, as another person would draw."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from segwise.geometry import Array, Grid
from segwise.prompt import Box, Mark, Points, Prompt, Stroke
from segwise.segmenter import Ask, Prediction, Segmenter, State
from segwise.wrappers import _fused

_MOST = 0.25  # of a box's edge: no face moves further


def looks(inner: Segmenter, state: State, asks: Sequence[Ask], *, n: int, mm: float) -> list[list[Prediction]]:
    """The model's answers to each ask: to the prompt as it was said, then to n - 1 that were drawn anew.

    What is drawn for a mark depends on the seed of the first round, the look and the mark's place in the prompt, so a
    prompt that grows keeps its beginning.
    """
    found: list[list[Prediction]] = [[] for _ in asks]
    for k in range(n):
        said = [_asked(ask, state.grid, k, mm) for ask in asks]
        for own, answer in zip(found, inner.segment(state, said), strict=True):
            own.append(answer)
    return found


def carried(ask: Ask, answers: Sequence[Prediction]) -> _fused.Rounds:
    """For the next round."""
    return _fused.Rounds(_fused.first_seed(ask), tuple(answers))


def _asked(ask: Ask, grid: Grid, k: int, mm: float) -> Ask:
    left = _fused.rounds(ask)
    previous = left.looks[k] if left is not None else None
    marks = tuple(
        _drawn(mark, grid, np.random.default_rng([_fused.first_seed(ask), k, i]), mm if k else 0.0)
        for i, mark in enumerate(ask.prompt.marks)
    )
    return dataclasses.replace(ask, prompt=Prompt(marks), previous=previous)


def _drawn(mark: Mark, grid: Grid, rng: np.random.Generator, mm: float) -> Mark:
    """The mark moved: faces by U(-mm, mm), points and strokes by N(0, mm/2) on each axis; texts and masks stay."""
    if mm == 0:
        return mark
    if isinstance(mark, Box):
        return _box(mark, grid, rng, mm)
    if isinstance(mark, Points):
        shift = rng.normal(0, mm / 2, mark.xyz_mm.shape)
        return Points(_inside(mark.xyz_mm, shift, grid), mark.positive, mark.drawn)
    if isinstance(mark, Stroke):
        shift = np.broadcast_to(rng.normal(0, mm / 2, 3), mark.xyz_mm.shape)
        return Stroke(_inside(mark.xyz_mm, shift, grid), mark.closed, mark.positive)
    return mark


def _box(box: Box, grid: Grid, rng: np.random.Generator, mm: float) -> Box:
    """Each face on its own; not along an edge of one voxel, which says on which slice the box lies."""
    lengths = np.linalg.norm(box.edges_mm, axis=1)
    voxels = np.abs(box.edges_mm @ np.linalg.inv(grid.affine)[:3, :3].T).max(axis=1)
    moved = rng.uniform(-mm, mm, (2, 3))
    most = _MOST * lengths * (voxels > 1.5)
    first, last = np.clip(moved, -most, most)
    units = box.edges_mm / np.maximum(lengths, 1e-9)[:, None]
    return Box(box.origin_mm + first @ units, units * (lengths - first + last)[:, None], box.drawn)


def _inside(places: Array, shift: Array, grid: Grid) -> Array:
    """Places moved, but for those that would leave the volume."""
    index = grid.index(places + shift)
    stays = np.all((index >= 0) & (index <= np.array(grid.shape) - 1), axis=1)
    return np.where(np.reshape(stays, (-1, 1)), places + shift, places)
