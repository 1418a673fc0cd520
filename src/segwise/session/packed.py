"""A mask in few bytes: the bits of its box, compressed."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from segwise.geometry import Array, bounds


@dataclass(frozen=True)
class Packed:
    """A mask [D, H, W].

    Attributes:
        shape: of the whole mask.
        low, high: half-open corners of the box that holds its foreground; equal if it is empty.
        bits: of the box, row by row, compressed.
    """

    shape: tuple[int, int, int]
    low: tuple[int, int, int]
    high: tuple[int, int, int]
    bits: bytes

    @staticmethod
    def of(mask: Array) -> Packed:
        """From bool [D, H, W]."""
        box = bounds(mask)
        low, high = box if box is not None else ((0, 0, 0), (0, 0, 0))
        inner = mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        d, h, w = mask.shape
        return Packed((d, h, w), _three(low), _three(high), zlib.compress(np.packbits(inner).tobytes(), 6))

    def mask(self) -> Array:
        """bool [D, H, W]."""
        out = np.zeros(self.shape, dtype=bool)
        size = tuple(b - a for a, b in zip(self.low, self.high, strict=True))
        n = int(np.prod(size))
        raw = zlib.decompressobj().decompress(self.bits, -(-n // 8)) if n else b""
        inner = np.unpackbits(np.frombuffer(raw, dtype=np.uint8), count=n).astype(bool)
        out[tuple(slice(a, b) for a, b in zip(self.low, self.high, strict=True))] = inner.reshape(size)
        return out

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        place = {"shape": list(self.shape), "low": list(self.low), "high": list(self.high)}
        return {**place, "bits": base64.b64encode(self.bits).decode("ascii")}

    @staticmethod
    def from_json(held: Mapping[str, Any]) -> Packed:
        """The inverse of `to_json`.

        Raises:
            KeyError, TypeError, ValueError: not what `to_json` makes, or a box outside the shape.
        """
        shape, low, high = (_three(held[key]) for key in ("shape", "low", "high"))
        if not all(0 <= a <= b <= n for a, b, n in zip(low, high, shape, strict=True)):
            raise ValueError(f"the box {low}..{high} of a mask does not lie in {shape}")
        return Packed(shape, low, high, base64.b64decode(held["bits"], validate=True))


def _three(values: Any) -> tuple[int, int, int]:
    d, h, w = (int(value) for value in values)
    return d, h, w
