"""What checkpoints of training scripts hold beside tensors, read as inert values: NumPy scalars and arrays, arguments.

nnU-Net keeps its losses as NumPy scalars, other scripts their command line as `argparse.Namespace`. torch refuses both
with `weights_only`. Here the names lead to the classes of this file, so that neither NumPy's own reconstruction (which
trusts what the file says of sizes and types) nor anything else of another library is called.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

_NUMBERS = ("b", "i", "u", "f", "c")  # kinds of dtype that are taken


class Kind:
    """A NumPy dtype, as pickles write it."""

    def __init__(self, code: object = "f8", *rest: object) -> None:
        self.code, self.order = str(code), "="

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "="):
            self.order = str(state[1])

    def read(self, raw: bytes) -> np.ndarray[Any, Any]:
        """Numbers from bytes.

        Raises:
            ValueError: the dtype is not one of numbers, or the bytes do not fit it.
        """
        import numpy as np

        kind = np.dtype(self.code).newbyteorder(self.order)  # type: ignore[arg-type]
        if kind.kind not in _NUMBERS:
            raise ValueError(f"an array of {self.code}, expected numbers")
        return np.frombuffer(raw, dtype=kind)


class Numbers:
    """A NumPy array, as pickles write it; `array` holds it once it is read."""

    array: np.ndarray[Any, Any]

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, by_column, raw = state
        raw = raw.encode("latin1") if isinstance(raw, str) else bytes(raw)
        self.array = kind.read(raw).reshape(tuple(shape), order="F" if by_column else "C")


class Given:
    """Arguments of a training script: attributes, nothing else."""


def _scalar(kind: Kind, raw: Any) -> Any:
    values = kind.read(raw.encode("latin1") if isinstance(raw, str) else bytes(raw))
    if values.size != 1:
        raise ValueError(f"a number of {values.size} values")
    return values[0].item()


def _empty(*ignored: object) -> Numbers:
    return Numbers()


def known() -> AbstractContextManager[Any]:
    """A context in which torch reads these names as the classes of this file."""
    import torch

    names: list[Any] = [(Kind, "numpy.dtype"), (Numbers, "numpy.ndarray"), (Given, "argparse.Namespace")]
    for core in ("numpy.core", "numpy._core"):
        names += [(_scalar, f"{core}.multiarray.scalar"), (_empty, f"{core}.multiarray._reconstruct")]
    return torch.serialization.safe_globals(names)
