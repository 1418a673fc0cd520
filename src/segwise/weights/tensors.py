"""Tensors of a weight file, read without executing anything in it."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from segwise.errors import WeightsError
from segwise.weights.looks import WANTED, refuse_other
from segwise.weights.narrow import widened
from segwise.weights.stand_ins import known

_HEADER_LIMIT = 100_000_000  # bytes; safetensors' own limit
_SHARED_LIMIT = 8  # tied tensors stand under several names (nnU-Net: four); more than that is a lie
STATE_KEYS = ("model", "state_dict", "model_state_dict", "network_weights", "net")  # where training scripts save it


def tensors(path: Path) -> dict[str, Any]:
    """Name -> tensor of a safetensors or torch file, on the CPU; the file's ending does not matter.

    A torch file that nests its state dict under "model", "state_dict" or "model_state_dict" is unwrapped.

    Raises:
        WeightsError: not such a file, damaged, or it holds objects other than tensors and plain containers.
    """
    return flat(held(path), path.name)


def held(path: Path) -> Mapping[str, Any]:
    """All that a safetensors or torch file holds, on the CPU: tensors in plain containers, and inert numbers.

    Raises:
        WeightsError: not such a file, damaged, declaring more than it holds, or it holds objects other than these.
    """
    try:
        refuse_other(path)
        begins_as_safetensors = _begins_as_safetensors(path)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error
    found = _safetensors(path) if begins_as_safetensors else _torch(path)
    if not isinstance(found, Mapping):
        raise WeightsError(f"{path.name} holds a {type(found).__name__}, expected names with tensors")
    _check(found, path)
    return found


def _safetensors(path: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    if safetensors_header(path) is None:
        raise WeightsError(
            f"{path.name} begins like a safetensors file and its header does not fit the file: cut off, damaged or "
            f"hostile; {WANTED}: download or copy it again"
        )
    try:
        return dict(load_file(str(path)))
    except Exception as error:  # whatever a hostile header makes the library raise
        raise WeightsError(
            f"{path.name} is a damaged safetensors file: {_short(error)}; {WANTED}: download or copy it again"
        ) from error


def _torch(path: Path) -> Any:
    import torch

    try:
        with known(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a hostile pickle makes the reader raise
        asked = re.search(r"GLOBAL (\S+)", str(error))
        if asked:
            raise WeightsError(
                f"{path.name} asks for {asked[1]}, which is code and not a tensor: it is not a file of plain tensors. "
                f"Segwise never runs code from a weight file; {WANTED}: ask for its state dict alone"
            ) from error
        raise WeightsError(
            f"{path.name} is not a file of plain tensors, or cut off or damaged ({_short(error)}). Segwise never runs "
            f"code from a weight file; {WANTED}: download or copy it again"
        ) from error


def _short(error: Exception) -> str:
    """The first sentence of a library's message, without its advice."""
    text = " ".join(str(error).split()).partition(". ")[0]
    return f"{type(error).__name__}: {text[:160]}" if text and "weights_only" not in text else type(error).__name__


def _check(content: Mapping[Any, Any], path: Path) -> None:
    """Hold every tensor, however deep, against the bytes that stand for it.

    Raises:
        WeightsError: a tensor that is none of plain numbers, or of more values than its bytes give.
    """
    size, total = path.stat().st_size, 0
    for name, tensor in _all_tensors(content):
        what = _odd(tensor)
        if what:
            raise WeightsError(f"{path.name}: {name} is {what}, expected plain numbers; ask for the float version")
        n_bytes = tensor.numel() * tensor.element_size()
        total += n_bytes
        if n_bytes > size or total > _SHARED_LIMIT * size:
            raise WeightsError(
                f"{path.name}: {name} declares {tuple(tensor.shape)}, which is more than the file's {size:,} bytes: a "
                f"hostile file; {WANTED}"
            )


def _odd(tensor: Any) -> str:
    """In what way a tensor is none of plain numbers; "" if it is."""
    import torch

    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        return f"a {type(tensor).__name__}"
    if tensor.layout != torch.strided:
        return f"sparse ({tensor.layout})"
    if tensor.device.type != "cpu":
        return f"without values (on the device {tensor.device.type})"
    return f"quantised ({tensor.dtype})" if tensor.is_quantized else ""


def _all_tensors(content: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Tensors in containers within containers; one that holds itself is entered once."""
    import torch

    todo: list[tuple[str, Any]] = [("", content)]
    seen: set[int] = set()
    while todo:
        name, value = todo.pop()
        if isinstance(value, torch.Tensor):
            yield name, value
        elif isinstance(value, Mapping | list | tuple | set) and id(value) not in seen:
            seen.add(id(value))
            pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
            todo += [(f"{name}.{key}" if name else str(key), inner) for key, inner in pairs]


def _begins_as_safetensors(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(9)[8:] == b"{"


def flat(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The state dict in what a file holds: itself, or the entry under which training scripts save it; 8 bits widened.

    Raises:
        WeightsError: there is none; `name` is the file's, for the message.
    """
    import torch

    for key in STATE_KEYS:
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    odd = next((key for key in content if not isinstance(key, str)), None)
    if odd is not None:
        raise WeightsError(f"{name} names a tensor by {odd!r}, a {type(odd).__name__}; expected names in text")
    if not content or not all(isinstance(v, torch.Tensor) for v in content.values()):
        shown = ", ".join(key[:60] for key in list(content)[:4]) or "nothing"
        raise WeightsError(
            f"{name} holds {shown} …, expected names with tensors, or these under one of {', '.join(STATE_KEYS)}"
        )
    return widened(content)


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
    except (ValueError, RecursionError):
        return None
    if not isinstance(header, dict):
        return None
    entries = [v for k, v in header.items() if k != "__metadata__"]
    return header if entries and all(isinstance(v, dict) and _is_shape(v.get("shape")) for v in entries) else None


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(n, int) and n >= 0 for n in value)
