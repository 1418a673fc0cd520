"""Where encoded features are kept: content-addressed, in memory with a cap, and on disk if a folder is given.

`FeatureStore` is the `segmenter.Store` of Segwise. A value lies beside the seconds that making it took, so a hit still
reports what encoding costs: a model is not cheaper because another one encoded the same slice before.

A file holds arrays and numbers only (numpy's npz without objects); it is written beside its place and renamed, so a
reader sees all of it or none, and a damaged one counts as missing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
import threading
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segwise.geometry import Array
from segwise.segmenter import Tree

GIB = 1 << 30
LOOK = GIB // 4  # bytes written after which the folder is looked at again: others write there, too


@dataclass(frozen=True)
class _Kept:
    value: Tree
    seconds: float
    n_bytes: int


class FeatureStore:
    """Features by key, the least recently used leaving first.

    Attributes:
        charged_s: seconds of encoding asked for so far, hits included at what they cost when made. The difference of
            two readings is what the work between them would have cost with an empty store.
        spent_s: seconds of encoding really done.
        hits, misses: number of values found and made.

    Args:
        cap_bytes: of memory. A value larger than this is handed out and not kept.
        folder: where values are also kept on disk, or None.
        folder_cap_bytes: of disk.
    """

    def __init__(self, *, cap_bytes: int = GIB, folder: Path | None = None, folder_cap_bytes: int = 20 * GIB) -> None:
        self.cap_bytes, self.folder, self.folder_cap_bytes = cap_bytes, folder, folder_cap_bytes
        self.charged_s, self.spent_s, self.hits, self.misses = 0.0, 0.0, 0, 0
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._n_bytes = 0
        self._lock = threading.RLock()
        self._disk_bytes: int | None = None
        self._unseen = 0

    @property
    def n_bytes(self) -> int:
        """Bytes in memory."""
        return self._n_bytes

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, keys: Sequence[str], make_many: Callable[[list[int]], list[Tree]]) -> list[Tree]:
        """Values by key, those that are not there made in one call.

        Args:
            keys: any strings; equal keys mean equal values.
            make_many: given positions in `keys`, the values of them, in that order.

        Returns:
            One value a key. They are shared: nobody writes into them.
        """
        found = {key: self._find(key) for key in dict.fromkeys(keys)}
        missing = [key for key, kept in found.items() if kept is None]
        if missing:
            start = time.perf_counter()
            made = make_many([keys.index(key) for key in missing])
            spent = time.perf_counter() - start
            if len(made) != len(missing):
                raise ValueError(f"make_many made {len(made)} values, expected {len(missing)}")
            for key, value in zip(missing, made, strict=True):
                found[key] = self._keep(key, _Kept(value, spent / len(missing), size_of(value)), write=True)
            with self._lock:
                self.spent_s += spent
        kept = [item for item in (found[key] for key in keys) if item is not None]
        with self._lock:
            self.charged_s += sum(item.seconds for item in found.values() if item is not None)
            self.misses += len(missing)
            self.hits += len(found) - len(missing)
        return [item.value for item in kept]

    def clear(self) -> None:
        """Forget what is in memory; counters and files stay."""
        with self._lock:
            self._kept.clear()
            self._n_bytes = 0

    def _find(self, key: str) -> _Kept | None:
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None:
                self._kept.move_to_end(key)
                return kept
        kept = self._read(key)
        return None if kept is None else self._keep(key, kept, write=False)

    def _keep(self, key: str, kept: _Kept, *, write: bool) -> _Kept:
        if write and self.folder is not None:
            self._write(key, kept)
        with self._lock:
            old = self._kept.pop(key, None)
            self._n_bytes -= old.n_bytes if old else 0
            if kept.n_bytes <= self.cap_bytes:
                self._kept[key] = kept
                self._n_bytes += kept.n_bytes
            while self._n_bytes > self.cap_bytes:
                self._n_bytes -= self._kept.popitem(last=False)[1].n_bytes
        return kept

    def _path(self, folder: Path, key: str) -> Path:
        return folder / f"{hashlib.blake2b(key.encode(), digest_size=20).hexdigest()}.npz"

    def _read(self, key: str) -> _Kept | None:
        if self.folder is None:
            return None
        path = self._path(self.folder, key)
        try:
            with np.load(path, allow_pickle=False) as file:
                head = json.loads(str(file["head"]))
                if head["key"] != key:
                    return None
                value = _grown(head["tree"], file)
            os.utime(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError, EOFError, RuntimeError, zipfile.BadZipFile):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)  # damaged: it is made anew
            return None
        return _Kept(value, float(head["seconds"]), size_of(value))

    def _write(self, key: str, kept: _Kept) -> None:
        """Onto disk; a full or read-only disk costs a later encoding and nothing else."""
        if self.folder is None:
            return
        arrays: dict[str, Array] = {}
        head = {"key": key, "seconds": kept.seconds, "tree": _flat(kept.value, arrays)}
        place = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".part", delete=False) as file:
                place = Path(file.name)
                np.savez(file, head=np.array(json.dumps(head)), **arrays)  # type: ignore[arg-type]
            place.replace(self._path(self.folder, key))
        except OSError:
            if place is not None:
                with contextlib.suppress(OSError):
                    place.unlink(missing_ok=True)
            return
        self._evict(kept.n_bytes)

    def _evict(self, added: int) -> None:
        """Remove the files read longest ago while the folder is over its cap."""
        if self.folder is None:
            return
        with self._lock:
            self._unseen += added
            if (
                self._disk_bytes is not None
                and self._disk_bytes + added <= self.folder_cap_bytes
                and self._unseen < LOOK
            ):
                self._disk_bytes += added
                return
            self._unseen = 0
            files = []
            for path in self.folder.glob("*.npz"):
                with contextlib.suppress(FileNotFoundError):  # another worker may have evicted it
                    stat = path.stat()
                    files.append((stat.st_mtime_ns, stat.st_size, path))
            total = sum(size for _, size, _ in files)
            for _, size, path in sorted(files):
                if total <= self.folder_cap_bytes:
                    break
                path.unlink(missing_ok=True)
                total -= size
            self._disk_bytes = total


def size_of(tree: Tree) -> int:
    """Bytes of all arrays and tensors in a tree."""
    if isinstance(tree, dict):
        return sum(size_of(value) for value in tree.values())
    if isinstance(tree, list | tuple):
        return sum(size_of(value) for value in tree)
    return int(getattr(tree, "nbytes", 0))


def _flat(tree: Tree, arrays: dict[str, Array]) -> Any:
    """The tree's shape as plain values; its leaves are put into `arrays`."""
    if isinstance(tree, dict):
        return {"dict": [[key, _flat(value, arrays)] for key, value in tree.items()]}
    if isinstance(tree, list | tuple):
        return {"tuple" if isinstance(tree, tuple) else "list": [_flat(value, arrays) for value in tree]}
    if tree is None or isinstance(tree, str | bool | int | float):
        return {"plain": tree}
    name = f"a{len(arrays)}"
    if isinstance(tree, np.ndarray):
        arrays[name] = tree
        return {"array": name}
    kind, arrays[name] = _tensor_bytes(tree)
    return {"tensor": name, "dtype": kind, "shape": list(tree.shape)}


def _grown(shape: Any, file: Any) -> Tree:
    """The inverse of `_flat`."""
    (kind, inner), *_ = shape.items()
    if kind == "dict":
        return {key: _grown(value, file) for key, value in inner}
    if kind in ("list", "tuple"):
        values = [_grown(value, file) for value in inner]
        return tuple(values) if kind == "tuple" else values
    if kind == "plain":
        return inner
    if kind == "array":
        return file[inner]
    return _tensor(file[inner], shape["dtype"], shape["shape"])


def _tensor_bytes(tensor: Any) -> tuple[str, Array]:
    """(dtype, raw bytes) of a tensor: numpy has no bfloat16."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(tensor, torch.Tensor):
        raise TypeError(f"a feature is {type(tensor).__name__}, expected tuples, lists and dicts of arrays or tensors")
    flat = tensor.detach().cpu().contiguous().view(-1)
    return str(tensor.dtype).removeprefix("torch."), flat.view(torch.uint8).numpy()


def _tensor(raw: Array, dtype: str, shape: list[int]) -> Any:
    import torch

    tensor = torch.empty(shape, dtype=getattr(torch, dtype))
    if tensor.numel():
        tensor.view(-1).view(torch.uint8).copy_(torch.from_numpy(raw))
    return tensor
