"""What a volume is like, in a few numbers, so that a report can say how far two data sets lie apart."""

from __future__ import annotations

from typing import Any

import numpy as np

from segwise.geometry import Volume

SHARES = (5, 50, 95)  # percentiles of the intensity
_SAMPLES = 200_000  # voxels that are looked at, evenly spread


def of(volume: Volume) -> dict[str, Any]:
    """modality, shape [D, H, W], spacing_mm (d, h, w), and the intensity's percentiles over voxels above its minimum.

    The first channel is looked at; air at the minimum (or a frame of zeros) would say how tight the scan was cut.
    """
    values = volume.array[0].ravel()[:: max(1, volume.array[0].size // _SAMPLES)].astype(np.float64)
    inside = values[values > values.min()]
    found = np.percentile(inside if len(inside) else values, SHARES)
    return {
        "modality": volume.channels[0].modality,
        "shape": list(volume.grid.shape),
        "spacing_mm": [round(mm, 4) for mm in volume.grid.spacing_mm],
        "intensity": [round(float(value), 3) for value in found],
    }
