"""A net's answers on overlapping windows, blended into one, slab by slab in bounded memory.

Two ways to place and weigh windows are in use, and a net is only itself with its own: nnU-Net's (windows spread evenly,
a filtered gaussian times 10, sums in half precision, zeros around a small image) and MONAI's (whole steps from the
start with the last window at the end, an analytic gaussian, float32).

Sources: Isensee et al., nnU-Net, Nat Methods 2021 (arXiv 1809.10486) and its inference code; MONAI's
`sliding_window_inference`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from segwise.geometry import Shape
from segwise.segmenter import expect, step

SIGMA = 1 / 8  # of the gaussian, in window sizes
LEAST = 1e-3  # MONAI's smallest weight
Answer = Callable[[Tensor, tuple[int, int, int]], Tensor]


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """How windows lie over a view and how their answers are blended.

    Attributes:
        patch: (d, h, w) of a window; 1 on an axis means every index of it once.
        step: greatest distance of two windows, in window sizes.
        spread: nnU-Net's way; else MONAI's.
        peak: greatest weight (nnU-Net 10, so that half precision holds small ones).
        half: sums are kept in half precision.
        padding: around an image smaller than a window: "constant" (zeros) or "replicate".
    """

    patch: Shape
    step: float
    spread: bool
    peak: float = 1.0
    half: bool = False
    padding: str = "constant"

    @staticmethod
    def nnunet(patch: Shape, *, step: float = 0.5) -> Tiling:
        """As nnU-Net predicts."""
        return Tiling(patch=patch, step=step, spread=True, peak=10.0, half=True)

    @staticmethod
    def monai(patch: Shape, *, overlap: float, padding: str = "constant") -> Tiling:
        """As MONAI's sliding window with gaussian blending."""
        return Tiling(patch=patch, step=1 - overlap, spread=False, padding=padding)

    def starts(self, shape: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
        """First indices of the windows along each axis of an image at least as large as one."""
        d, h, w = (self._starts(n, p) for n, p in zip(shape, self.patch, strict=True))
        return d, h, w

    def _starts(self, n: int, patch: int) -> list[int]:
        if patch == 1:
            return list(range(n))
        if not self.spread:
            step = patch if n == patch else max(1, int(patch * self.step))
            return [min(i * step, n - patch) for i in range(int(np.ceil((n - patch) / step)) + 1)]
        count = int(np.ceil((n - patch) / (patch * self.step))) + 1
        return [round((n - patch) / (count - 1) * i) if count > 1 else 0 for i in range(count)]

    def weights(self) -> Tensor:
        """[*patch], > 0, half or float32."""
        if not self.spread:
            found = torch.ones(())
            for i, n in enumerate(self.patch):
                x = torch.arange(n, dtype=torch.float32) - (n - 1) / 2
                found = found.unsqueeze(-1) * torch.exp(x**2 / (-2 * (n * SIGMA) ** 2))[(None,) * i]
            return (found.clamp(min=max(float(found.min()), LEAST)) * self.peak).to(self._dtype)
        middle = np.zeros([n for n in self.patch if n > 1] or [1])
        middle[tuple(n // 2 for n in middle.shape)] = 1
        blurred = torch.from_numpy(ndimage.gaussian_filter(middle, [n * SIGMA for n in middle.shape], mode="constant"))
        found = (blurred / blurred.max() * self.peak).to(self._dtype)
        found[found == 0] = found[found != 0].min()
        return found.reshape(self.patch)

    def padded(self, view: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
        """A view [C, D, H, W] at least as large as a window, and how much was added before each axis."""
        lack = [max(p - n, 0) for n, p in zip(view.shape[1:], self.patch, strict=True)]
        low = (lack[0] // 2, lack[1] // 2, lack[2] // 2)
        if not any(lack):
            return view, low
        sides = [side for a, n in reversed(list(zip(low, lack, strict=True))) for side in (a, n - a)]
        return F.pad(view[None], sides, mode=self.padding)[0], low

    @property
    def _dtype(self) -> torch.dtype:
        return torch.float16 if self.half else torch.float32


def blended(view: Tensor, tiling: Tiling, answer: Answer) -> Iterator[Tensor]:
    """The blended answer in slabs along the first axis; no more than a window's depth of it is in memory.

    Args:
        view: [C, D, H, W].
        tiling: of the windows.
        answer: (window [1, C, *patch], its first index in the view) -> [K, *patch], its own to keep; the index is
            negative in the padding.

    Yields:
        [K, d, H, W], in order; together [K, D, H, W].
    """
    padded, before = tiling.padded(view)
    weights, depth = tiling.weights().to(view.device), tiling.patch[0]
    planes, rows, columns = tiling.starts(padded.shape[1:])
    count = torch.zeros((depth, *padded.shape[2:]), dtype=weights.dtype, device=view.device)
    total: Tensor | None = None
    at = 0
    expect(len(planes) * len(rows) * len(columns), "windows")
    for start in planes:
        if total is not None and start > at:
            yield from _own(total[:, : start - at] / count[: start - at], at, before, view.shape[1:])
            total, count = _moved(total, start - at, axis=1), _moved(count, start - at, axis=0)
        at = start
        for row, column in itertools.product(rows, columns):
            here = tuple(slice(a, a + n) for a, n in zip((start, row, column), tiling.patch, strict=True))
            low = (start - before[0], row - before[1], column - before[2])
            found = answer(padded[(slice(None), *here)][None].contiguous(), low)
            if total is None:
                total = torch.zeros((len(found), *count.shape), dtype=weights.dtype, device=view.device)
            total[(slice(None), slice(None), *here[1:])] += found.to(view.device) * weights
            count[(slice(None), *here[1:])] += weights
            step()
    if total is not None:
        yield from _own(total / count, at, before, view.shape[1:])


def mirrored(net: Callable[[Tensor], Tensor], axes: Sequence[int]) -> Callable[[Tensor], Tensor]:
    """A net's mean answer over all mirrorings of some axes.

    Args:
        net: [B, C, D, H, W] -> [B, K, D, H, W].
        axes: of (D, H, W), 0 to 2; () for none.
    """
    flips = [tuple(a + 2 for a in c) for n in range(len(axes)) for c in itertools.combinations(axes, n + 1)]

    def mean(image: Tensor) -> Tensor:
        found = net(image).clone()
        for flip in flips:
            found += torch.flip(net(torch.flip(image, flip)), flip)
        return found / (len(flips) + 1)

    return mean


def _moved(sums: Tensor, by: int, *, axis: int) -> Tensor:
    """Sums shifted by some planes, zeros behind."""
    out = torch.zeros_like(sums)
    n = sums.shape[axis]
    out.narrow(axis, 0, n - by).copy_(sums.narrow(axis, by, n - by))
    return out


def _own(slab: Tensor, at: int, before: Sequence[int], shape: Sequence[int]) -> Iterator[Tensor]:
    """A padded slab [K, d, H, W] that begins at a plane, without the padding."""
    first, last = max(at, before[0]), min(at + slab.shape[1], before[0] + shape[0])
    if first < last:
        rows, columns = (slice(b, b + n) for b, n in zip(before[1:], shape[1:], strict=True))
        yield slab[:, first - at : last - at, rows, columns]
