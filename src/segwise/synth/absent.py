"""Bodies with a structure left out: what a presence score must tell from the same body with it."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from scipy import ndimage

from segwise.geometry import Array
from segwise.synth.phantom import Phantom

SOFT_HU = (-300.0, 150.0)  # fat to muscle: neither gas nor bone
ENCLOSED = 0.6  # a label goes with the structure that makes up this share of its surroundings


def without(
    phantom: Phantom, names: Collection[str], *, between: tuple[float, float] = SOFT_HU, named: bool = False
) -> Phantom:
    """The phantom with some structures replaced by the nearest tissue around them; what lies in them goes too.

    Args:
        phantom: stays as it is.
        names: of the structures; those it does not have change nothing.
        between: the values that a tissue must have to fill the gap.
        named: structures that have names themselves may grow into the gap.

    Returns:
        A phantom on the same grid; unchanged labels where there is nothing to fill the gap with.
    """
    gone = _with_enclosed(phantom.labels, [label for label, name in phantom.names.items() if name in names])
    if not gone.any():
        return phantom
    low, high = between
    donors = [
        label
        for label, tissue in phantom.tissues.items()
        if label and low <= tissue.value <= high and (named or label not in phantom.names)
    ]
    donor = np.isin(phantom.labels, donors) & ~gone
    if not donor.any():
        return phantom
    _, nearest = ndimage.distance_transform_edt(~donor, phantom.grid.spacing_mm, return_indices=True)
    labels = phantom.labels.copy()
    labels[gone] = phantom.labels[tuple(nearest[:, gone])]
    return Phantom(labels, phantom.grid, dict(phantom.tissues), dict(phantom.names))


def _with_enclosed(labels: Array, ids: list[int]) -> Array:
    """bool [D, H, W]: some labels, and the smaller ones that they surround."""
    gone = np.isin(labels, ids)
    most = int(gone.sum())
    boxes = ndimage.find_objects(labels)
    for label, box in enumerate(boxes, start=1):
        if box is None or label in ids:
            continue
        wide = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in box)
        own = labels[wide] == label
        rim = ndimage.binary_dilation(own) & ~own
        if own.sum() < most and (gone[wide] & rim).sum() >= ENCLOSED * rim.sum() > 0:
            gone[wide] |= own
    return np.asarray(gone)
