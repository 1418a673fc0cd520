"""Image and prompt lie where they lie in the world, whatever the orientation, spacing and slant (48 orientations)."""

from __future__ import annotations

import pytest

import probes
from segwise.lifts.slices import Slices
from segwise.models import litemedsam
from segwise.segmenter import Parts

PLANES = ("axial", "coronal", "sagittal")


def lite(plane: str) -> Slices:
    return Slices(Parts(probes.Probe("image"), litemedsam.LiteFrame(plane=plane), None, "probe"))


@pytest.mark.parametrize("show", ["image", "prompt"])
@pytest.mark.parametrize("axes", probes.orientations())
def test_litemedsam_in_every_orientation(axes, show):
    where = probes.grid(axes)
    volume, mask = probes.scene(where)
    found = probes.answered(lite(PLANES[len(axes + show) % 3]), show, volume, probes.boxed(mask, where))
    assert probes.off_voxels(found, mask) <= 1


@pytest.mark.parametrize("show", ["image", "prompt"])
@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize(("spacing", "slant"), [((0.9, 1.1, 5.0), 0.0), ((2.0, 2.5, 4.0), 12.0)])
def test_litemedsam_in_other_spacings_and_slants(plane, show, spacing, slant):
    where = probes.grid("LPS", spacing_mm=spacing, slant=slant)
    volume, mask = probes.scene(where, slant=slant)
    found = probes.answered(lite(plane), show, volume, probes.boxed(mask, where))
    assert probes.off_voxels(found, mask) <= 1
