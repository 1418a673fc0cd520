"""Tensors of a weight file, read without executing anything in it."""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from segwise.errors import WeightsError

_HEADER_LIMIT = 100_000_000  # bytes; safetensors' own limit
STATE_KEYS = ("model", "state_dict", "model_state_dict", "network_weights", "net")  # where training scripts save it


def tensors(path: Path) -> dict[str, Any]:
    """Name -> tensor of a safetensors or torch file, on the CPU; the file's ending does not matter.

    A torch file that nests its state dict under "model", "state_dict" or "model_state_dict" is unwrapped.

    Raises:
        WeightsError: not such a file, damaged, or it holds objects other than tensors and plain containers.
    """
    return flat(held(path), path.name)


def held(path: Path) -> Mapping[str, Any]:
    """All that a safetensors or torch file holds, on the CPU: tensors in plain containers.

    Raises:
        WeightsError: not such a file, damaged, or it holds objects other than tensors and plain containers.
    """
    if safetensors_header(path) is not None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(str(path)))
        except (SafetensorError, ValueError) as error:
            raise WeightsError(f"{path.name} is a damaged safetensors file: {error}") from error
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise WeightsError(
            f"{path.name} is not a file of plain tensors ({type(error).__name__}); "
            "expected safetensors or a torch state dict. Segwise never runs code from a weight file"
        ) from error
    if not isinstance(found, Mapping):
        raise WeightsError(f"{path.name} holds a {type(found).__name__}, expected names with tensors")
    return found


def flat(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The state dict in what a file holds: itself, or the entry under which training scripts save it.

    Raises:
        WeightsError: there is none; `name` is the file's, for the message.
    """
    import torch

    for key in STATE_KEYS:
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not content or not all(isinstance(v, torch.Tensor) for v in content.values()):
        raise WeightsError(
            f"{name} holds {', '.join(list(map(str, content))[:4]) or 'nothing'} …, expected names with tensors, "
            f"or these under one of {', '.join(STATE_KEYS)}"
        )
    return dict(content)


def signature(path: Path) -> str:
    """SHA-256 over the sorted names and shapes of a file's tensors: what a card's `WeightFile.signature` holds."""
    header = safetensors_header(path)
    if header is not None:
        pairs = [(k, tuple(v["shape"])) for k, v in header.items() if k != "__metadata__"]
    else:
        pairs = [(k, tuple(v.shape)) for k, v in tensors(path).items()]
    return signature_of(pairs)


def signature_of(pairs: Iterable[tuple[str, tuple[int, ...]]]) -> str:
    """`signature` from names and shapes."""
    lines = sorted(f"{name} {'x'.join(map(str, shape))}" for name, shape in pairs)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def safetensors_header(path: Path) -> dict[str, Any] | None:
    """The header of a safetensors file (name -> dtype, shape, data_offsets), or None if it is none."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(9)
        if len(start) < 9 or start[8:] != b"{":
            return None
        length = struct.unpack("<Q", start[:8])[0]
        if length > min(size - 8, _HEADER_LIMIT):
            return None
        text = start[8:] + stream.read(length - 1)
    try:
        header = json.loads(text)
    except ValueError:
        return None
    entries = [v for k, v in header.items() if k != "__metadata__"]
    return header if entries and all(isinstance(v, dict) and "shape" in v for v in entries) else None
