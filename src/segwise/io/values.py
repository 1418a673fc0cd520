"""Voxel values: scaling without loss, what is not finite, labels from numbers, statistics, and a guessed modality."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from segwise.errors import FileError
from segwise.geometry import Array
from segwise.io.scan import Finding

NEAR_INTEGER = 1e-3  # a label this close to an integer is that integer (scale factors of float32 are off by 1e-7)
SAMPLE = 2_000_000  # voxels looked at for percentiles and guesses


@dataclass(frozen=True)
class Values:
    """Statistics of the finite values.

    Attributes:
        dtype: as held in memory.
        minimum: least value.
        maximum: greatest value.
        mean: of all voxels.
        percentiles: 1st, 50th and 99th (of at most 2 million voxels, evenly taken).
        zero: share of voxels that are 0.
        integers: all values are whole numbers.
    """

    dtype: str
    minimum: float
    maximum: float
    mean: float
    percentiles: tuple[float, float, float]
    zero: float
    integers: bool

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "percentiles": list(self.percentiles)}


def native(array: Array) -> Array:
    """The same values in the machine's byte order; long double becomes float64."""
    dtype = array.dtype.newbyteorder("=")
    if dtype.kind == "f" and dtype.itemsize > 8:
        dtype = np.dtype(np.float64)
    return array.astype(dtype, copy=False)


def scaled(array: Array, slope: float, intercept: float) -> Array:
    """slope * array + intercept in the smallest type that holds it without loss that matters.

    Whole slopes and intercepts keep integers; otherwise float32 for up to 16 bits of input, else float64.
    """
    if slope == 1 and intercept == 0:
        return native(array)
    array = native(array)
    if array.dtype.kind in "iub" and float(slope).is_integer() and float(intercept).is_integer():
        ends = [int(slope) * int(v) + int(intercept) for v in (array.min(), array.max())]
        dtype = next((t for t in (np.int16, np.int32, np.int64) if _fits(ends, t)), None)
        if dtype is not None:
            return np.asarray(array.astype(dtype) * int(slope) + int(intercept))
    wide = array.dtype.itemsize > 2
    dtype_f = np.float64 if wide else np.float32
    return np.asarray(array.astype(np.float64) * slope + intercept).astype(dtype_f, copy=False)


def _fits(ends: list[int], dtype: type[np.signedinteger[Any]]) -> bool:
    info = np.iinfo(dtype)
    return bool(info.min <= min(ends) and max(ends) <= info.max)


def finite(array: Array, name: str) -> tuple[Array, list[Finding]]:
    """The values with what is not finite replaced, and a finding that counts it.

    NaN and -inf become the smallest finite value, +inf the greatest.

    Raises:
        FileError: no value is finite.
    """
    if array.dtype.kind != "f":
        return array, []
    good = np.isfinite(array)
    n_bad = int(good.size - np.count_nonzero(good))
    if not n_bad:
        return array, []
    if n_bad == good.size:
        raise FileError(f"{name}: no voxel holds a finite number, expected intensities")
    low, high = float(array[good].min()), float(array[good].max())
    array = np.nan_to_num(array, nan=low, posinf=high, neginf=low)
    return array, [
        Finding(
            "warning",
            "not-finite",
            f"{n_bad:,} voxels ({n_bad / good.size:.2%}) are NaN or infinite",
            f"NaN and -inf are read as the smallest finite value ({low:g}), +inf as the greatest ({high:g})",
        )
    ]


def as_labels(array: Array, name: str) -> tuple[Array, list[Finding]]:
    """Label values as the smallest unsigned integers.

    Floats that are whole are taken; those within `NEAR_INTEGER` of a whole number are rounded with a finding.

    Raises:
        FileError: values are negative, not finite, not whole, or too large.
    """
    findings: list[Finding] = []
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise FileError(f"{name}: labels hold NaN or infinite values, expected whole numbers from 0")
        whole = np.rint(array)
        gap = float(np.abs(array - whole).max(initial=0))
        if gap > NEAR_INTEGER:
            raise FileError(
                f"{name}: labels hold values that are not whole numbers (off by up to {gap:.3g}), expected integers "
                "from 0; if this is a probability map, threshold it first"
            )
        text = f"labels are stored as {array.dtype}"
        if gap:
            findings.append(Finding("warning", "near-integers", f"{text}, off whole numbers by {gap:.1e}", "rounded"))
        else:
            findings.append(Finding("note", "float-labels", f"{text}; all values are whole", "read as integers"))
        array = whole
    low, high = (array.min(initial=0), array.max(initial=0)) if array.size else (0, 0)
    if low < 0:
        raise FileError(f"{name}: labels hold negative values (down to {low:g}), expected whole numbers from 0")
    if high > np.iinfo(np.uint32).max:
        raise FileError(f"{name}: labels reach {high:g}, expected at most {np.iinfo(np.uint32).max}")
    return array.astype(smallest(int(high))), findings


def smallest(highest: int) -> type[np.unsignedinteger[Any]]:
    """The smallest unsigned integer type that holds a value: uint8, uint16 or uint32."""
    return np.uint8 if highest < 2**8 else np.uint16 if highest < 2**16 else np.uint32


def statistics(array: Array) -> Values:
    """Statistics of finite values [..., D, H, W]."""
    flat = array.reshape(-1)
    part = flat[:: max(1, flat.size // SAMPLE)]
    low, middle, high = (float(p) for p in np.percentile(part, [1, 50, 99]))
    return Values(
        str(array.dtype),
        float(flat.min()),
        float(flat.max()),
        float(flat.mean(dtype=np.float64)),
        (low, middle, high),
        float(np.mean(part == 0)),
        bool(array.dtype.kind in "iub" or np.array_equal(part, np.rint(part))),
    )


def looks_like_labels(array: Array) -> bool:
    """Whether values [D, H, W] are rather labels than intensities.

    Labels are whole numbers from 0, few of them, and where something is not 0 neighbours mostly hold the same value.
    """
    if array.ndim != 3 or array.size == 0 or array.min() < 0:
        return False
    step = max(1, array.shape[0] // 64)
    part = array[::step]
    if part.dtype.kind == "f" and np.abs(part - np.rint(part)).max() > NEAR_INTEGER:
        return False
    left, right = part[..., :-1], part[..., 1:]
    some = (left > 0) | (right > 0)
    n_some = int(np.count_nonzero(some))
    n_values = len(np.unique(part))
    if n_some < 8 or n_values > 512:
        return False
    if n_values <= 3:  # a mask, however thin
        return True
    return bool(np.count_nonzero((left == right) & some) / n_some > 0.55)


def guess_modality(array: Array) -> str:
    """ "CT" if the values are Hounsfield units, "MR" if they can be magnitudes or z-scores, else "".

    A CT has air or lung below -200 and soft tissue between -200 and 300 HU. MR magnitudes are not negative (but for
    what resampling undershoots); normalised MR is real-valued within +-50.

    Args:
        array: [..., D, H, W].
    """
    part = array.reshape(-1)
    part = part[:: max(1, part.size // SAMPLE)]
    low, high = float(part.min()), float(part.max())
    soft = float(np.mean((part > -200) & (part < 300)))
    below = float(np.mean(part < -200))
    if -8192 <= low <= -200 and 50 < high <= 40_000 and soft > 0.02 and below > 0.001:
        return "CT"
    if high <= low or looks_like_labels(array.reshape(-1, *array.shape[-3:])[0]):
        return ""
    first, last = (float(p) for p in np.percentile(part, [1, 99]))
    magnitudes = first >= -0.05 * last and low >= -0.5 * high
    z_scores = array.dtype.kind == "f" and -50 <= low < 0 < high <= 50
    return "MR" if magnitudes or z_scores else ""
