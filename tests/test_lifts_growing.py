"""The guess of an object from its mask on one slice, and propagation held by it."""

from __future__ import annotations

import numpy as np
import pytest

import probes
from segwise.errors import SpecError
from segwise.geometry import Volume
from segwise.lifts.growing import grown
from segwise.lifts.propagate import Propagate
from segwise.models.litemedsam import LiteFrame
from segwise.prompt import Box, Prompt
from segwise.segmenter import Ask, Parts
from segwise.store import FeatureStore

SHAPE = (14, 40, 50)


def scene(*, radius=8.0, drift=0.6, noise=8.0, seed=0):
    """A bright tilted spindle between slices 2 and 12, and a bright neighbour that it must not run into."""
    d, h, w = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
    along = (d - 6.5) / 5
    size = radius * np.sqrt(np.clip(1 - along**2, 0, 1))
    mask = (h - 20 - drift * (d - 6.5)) ** 2 + (w - 22) ** 2 < size**2
    other = (h - 20) ** 2 + (w - 38) ** 2 < 6**2
    image = np.where(mask, 150.0, np.where(other, 150.0, 60.0))
    return (image + np.random.default_rng(seed).normal(0, noise, SHAPE)).astype(np.float32), mask


def dsc(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def guess(image, mask, **more):
    given = {"place": 6, "first": 2, "last": 12, "spacing_mm": (3.0, 1.0, 1.0), **more}
    return grown(image, mask, **given)


def test_an_object_is_grown_from_one_slice_and_its_neighbour_is_not():
    image, mask = scene()
    found = guess(image, mask[6])
    assert dsc(found, mask) > 0.85
    assert not found[:, :, 34:].any() and not found[:2].any() and not found[12:].any()


def test_grey_levels_may_be_scaled_shifted_or_whole_numbers():
    image, mask = scene()
    first = guess(image, mask[6])
    assert np.array_equal(first, guess(image * 3 - 70, mask[6])) or dsc(first, guess(image * 3 - 70, mask[6])) > 0.99
    assert dsc(first, guess(np.clip(image, 0, 255).astype(np.uint8), mask[6])) > 0.97


def test_a_large_object_is_grown_on_a_coarser_grid():
    image, mask = scene()
    large, known = (np.kron(x, np.ones((1, 6, 6), dtype=x.dtype)) for x in (image, mask))
    found = guess(large, known[6], spacing_mm=(3.0, 1 / 6, 1 / 6))
    assert found.shape == known.shape and dsc(found, known) > 0.8


@pytest.mark.parametrize("voxels", [0, 1])
def test_next_to_nothing_grows_next_to_nothing(voxels):
    image, mask = scene()
    known = np.zeros_like(mask[6])
    known[20, 22] = bool(voxels)
    assert guess(image, known).any() == bool(voxels)


def test_a_range_of_one_slice_stays_on_it():
    image, mask = scene()
    found = guess(image, mask[6], first=6, last=7)
    assert found[6].any() and found.sum() == found[6].sum()


class Astray(probes.Probe):
    """Answers what is bright in the box, and always some more beyond it: propagation by the mask alone runs off."""

    def __init__(self):
        super().__init__("image")

    def decode(self, features, marks):
        decoded = super().decode(features, marks)
        view = features[marks.image][:, :1]
        low, high = (marks.boxes[0, i, 1:].int().tolist() for i in (0, 1))
        keep = np.full(view.shape, -1.0, dtype=np.float32)
        inner = (slice(None), slice(None), slice(None), slice(low[0], high[0] + 1), slice(low[1], high[1] + 16))
        keep[inner] = decoded.logits.numpy()[inner]
        return type(decoded)(type(view)(keep), low_res=None)


def test_a_held_propagation_does_not_run_into_the_neighbour():
    image, mask = scene(drift=0.0)
    where = probes.grid("SPL", spacing_mm=(1.0, 1.0, 3.0)).crop((0, 0, 0), SHAPE)
    volume = Volume.of(image, where)
    rows, columns = np.nonzero(mask[6])
    box = Prompt((Box.of(where, (2, rows.min(), columns.min()), (12, rows.max() + 1, columns.max() + 1)),))
    scores = {}
    for hold in ("mask", "image"):
        lift = Propagate(Parts(Astray(), LiteFrame(), None, "toy"), hold=hold)
        (found,) = lift.segment(lift.encode(volume, store=FeatureStore()), [Ask(box)])
        scores[hold] = dsc(found.mask(where), mask)
    assert scores["image"] > scores["mask"] + 0.05


def test_an_unknown_hold_is_refused():
    with pytest.raises(SpecError, match="mask, image"):
        Propagate(Parts(Astray(), LiteFrame(), None, "toy"), hold="hope")
