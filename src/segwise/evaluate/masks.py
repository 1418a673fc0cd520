"""Masks on disk: content-addressed, compressed, readable without their case."""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segwise.errors import RunError
from segwise.geometry import Array, Grid, bounds
from segwise.records import durable
from segwise.records.run import Run


@dataclass(frozen=True)
class Masks:
    """Masks by address: the hash of their voxels and grid.

    A file is one line of JSON (shape, affine, the box of the foreground) and that box's bits, deflated.
    """

    folder: Path

    @staticmethod
    def of(run: Run) -> Masks:
        """Those of a run."""
        return Masks(run.path / "masks")

    def put(self, mask: Array, grid: Grid) -> str:
        """Store a bool [D, H, W] mask; its address. Storing twice is free."""
        low, high, packed = _packed(mask)
        address = _address(mask.shape, low, packed, grid)
        path = self._path(address)
        if not path.exists():
            head = {"shape": grid.shape, "affine": grid.affine.tolist(), "grid": grid.digest, "low": low, "high": high}
            durable.write_whole(path, json.dumps(head).encode() + b"\n" + zlib.compress(packed, 6))
        return address

    def get(self, address: str) -> tuple[Array, Grid]:
        """bool [D, H, W] and its grid.

        Raises:
            RunError: it is not there, or not what its address says.
        """
        head, body = self._parts(address)
        low, high = head["low"], head["high"]
        grid = Grid(tuple(head["shape"]), np.array(head["affine"]))
        mask = np.zeros(grid.shape, dtype=bool)
        size = [b - a for a, b in zip(low, high, strict=True)]
        packed = zlib.decompress(body)
        bits = np.unpackbits(np.frombuffer(packed, dtype=np.uint8), count=int(np.prod(size))).astype(bool)
        mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = bits.reshape(size)
        if _address(grid.shape, low, packed, grid) != address:
            raise RunError(f"mask {address} of {self.folder.parent} is damaged; run the comparison again to remake it")
        return mask, grid

    def has(self, address: str) -> bool:
        """Whether it is stored."""
        return self._path(address).exists()

    def _parts(self, address: str) -> tuple[dict[str, Any], bytes]:
        try:
            head, body = self._path(address).read_bytes().split(b"\n", 1)
            return dict(json.loads(head)), body
        except (OSError, ValueError) as error:
            raise RunError(f"mask {address} of {self.folder.parent} cannot be read: {error}") from error

    def _path(self, address: str) -> Path:
        return self.folder / address[:2] / f"{address}.mask"


def box_of(mask: Array) -> tuple[list[int], list[int]]:
    """Half-open low and high corner of a mask's foreground; zeros if it is empty. bool [D, H, W]."""
    low, high = bounds(mask) or ((0, 0, 0), (0, 0, 0))
    return list(low), list(high)


def _packed(mask: Array) -> tuple[list[int], list[int], bytes]:
    low, high = box_of(mask)
    crop = mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    return low, high, np.packbits(crop).tobytes()


def _address(shape: tuple[int, ...], low: list[int], packed: bytes, grid: Grid) -> str:
    words = repr((tuple(shape), low, grid.digest)).encode()
    return hashlib.blake2b(words + packed, digest_size=16).hexdigest()
