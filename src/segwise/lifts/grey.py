"""Slices as 8-bit grey images: the preparation that SAM-like models of medical slices share.

Source: the preprocessing of MedSAM and of the CVPR 2024 challenge (`pre_CT_MR.py`): Ma et al., Nat Commun 2024 (arXiv
2304.12306): CT by a window, other modalities by percentiles of the voxels > 0, over the whole volume.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from segwise.errors import SpecError
from segwise.geometry import Array, Grid, Volume, regrid
from segwise.lifts.planes import AXES, SliceFrame

CT_WINDOW_HU = (-160.0, 240.0)  # level 40, width 400
MR_PERCENTILES = (0.5, 99.5)
Z_SCORED = 0.1  # share of negative voxels from which an MR is z-scored
CT_BELOW = -500.0  # only CT has voxels this low (air is -1000 HU)
WHOLE_VIEW = 1024  # pixels of the view that margins are stated for
SHEAR = 1e-3  # cosine between axes up to which a slice counts as a rectangle


@dataclass(frozen=True)
class GreyFrame(SliceFrame):
    """The frame of a 2D net that sees grey levels 0..255 of the slices of a plane.

    Subclasses add `shape`, `digest`, `view`, `marks`, `follow` and `restore`.

    Attributes:
        plane: of the slices: axial, coronal or sagittal.
        shift: lift z-scored MR above zero first; the official way loses its voxels <= 0.
        window_hu: (low, high) of CT.
        chunk: how many neighbouring slices the encoder is shown at once; the lift counts them itself.

    Raises:
        SpecError: a window without width.
    """

    plane: str = "axial"
    shift: bool = False
    window_hu: tuple[float, float] = CT_WINDOW_HU
    chunk: int = field(default=1, repr=False, kw_only=True)

    def __post_init__(self) -> None:
        low, high = self.window_hu
        if not low < high:
            raise SpecError(
                f"the CT window has a width of {high - low:g} HU, expected more than 0 (width=400 is usual)"
            )

    def prepare(self, volume: Volume) -> Volume:
        """uint8 [1, D, H, W], slices of the plane along the first axis; only the first channel is used.

        A sheared grid is resampled on the nearest orthogonal one.
        """
        turned = volume.grid.toward(AXES[self.plane])
        grid = turned if turned.skew < SHEAR else turned.canonical(AXES[self.plane])
        values = volume.array[:1]
        least = lowest(values)
        values = regrid(values, volume.grid, grid, order=1, outside=least)
        modality = volume.channels[0].modality or ("CT" if least < CT_BELOW else "MR")
        ct = modality == "CT"
        values = lifted(values) if self.shift and not ct else values
        between = limits(values, ct=ct, window_hu=self.window_hu)
        return Volume.of(levels(values, between, zeros=not ct), grid, volume.channels[:1])

    def window(self, grid: Grid, centre: Sequence[int]) -> Grid:
        """The whole slice of an index."""
        place = int(centre[0])
        return grid.crop((place, 0, 0), (place + 1, *grid.shape[1:]))


def margin_in(margin: int, size: int) -> int:
    """A margin stated in pixels of a view of 1024 on a view of another size; at least 1 where it is not 0."""
    return margin if size >= WHOLE_VIEW or not margin else max(1, round(margin * size / WHOLE_VIEW))


def lifted(values: Array) -> Array:
    """MR values with the target above zero: z-scored ones are shifted by their minimum, others come back as they are.

    An image counts as z-scored if more than a tenth of its voxels other than 0 are negative. Voxels of exactly 0 stay
    0 if they are more than a tenth of the image: then they are the background that a z-score of the brain left alone.
    """
    below, zero = int((values < 0).sum()), int((values == 0).sum())
    if below <= Z_SCORED * (values.size - zero):
        return values
    shifted: Array = values.astype(np.float32)
    shifted -= lowest(values)
    if zero > Z_SCORED * values.size:
        shifted[values == 0] = 0
    return shifted


def limits(
    values: Array,
    *,
    ct: bool,
    window_hu: tuple[float, float] = CT_WINDOW_HU,
    percentiles: tuple[float, float] = MR_PERCENTILES,
) -> tuple[float, float]:
    """(low, high): what becomes 0 and 255 in a volume.

    Args:
        values: any shape and real dtype; what is not finite does not count.
        ct: the window `window_hu`, in Hounsfield units; else percentiles of the voxels > 0. Both cut to what occurs.
        window_hu: (low, high).
        percentiles: (low, high).

    Returns:
        Equal numbers where nothing is left between them.
    """
    values = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if not values.size:
        return 0.0, 0.0
    low, high = window_hu
    if not ct:
        above = values[values > 0]
        low, high = np.percentile(above, percentiles) if above.size else (0.0, 0.0)
    least, most = np.clip([float(values.min()), float(values.max())], low, high)
    return float(least), float(most)


def levels(values: Array, between: tuple[float, float], *, zeros: bool) -> Array:
    """Grey levels as the official preprocessing makes them.

    Args:
        values: [..., H, W], any real dtype; what is not finite becomes 0.
        between: what becomes 0 and 255.
        zeros: voxels of value 0 become 0 whatever the limits.

    Returns:
        uint8 of the same shape, cut and not rounded; 0 if there is nothing between the limits.
    """
    low, high = between
    out = np.zeros(values.shape, dtype=np.uint8)
    if high <= low:
        return out
    for image, into in zip(values.reshape(-1, *values.shape[-2:]), out.reshape(-1, *values.shape[-2:]), strict=True):
        finite = np.nan_to_num(image.astype(np.float64), nan=low, posinf=low, neginf=low)  # a slice at a time: float64
        into[:] = (np.clip(finite, low, high) - low) / (high - low) * 255.0
        if zeros:
            into[image == 0] = 0
    return out


def lowest(values: Array) -> float:
    """The least finite value; 0 without one."""
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    return float(finite.min()) if finite.size else 0.0
