"""Bodies with a structure left out: the gap is filled from around it, and nothing else changes."""

from __future__ import annotations

import numpy as np

from segwise.geometry import Grid
from segwise.synth.absent import without
from segwise.synth.phantom import Painter, Tissue
from segwise.synth.torso import torso


def painted():
    grid = Grid((9, 10, 11), np.diag([2.0, 2.0, 2.0, 1.0]))
    box = np.full(grid.shape, 1.0, np.float32)
    paint = Painter(grid)
    paint.paint(box * -1, Tissue(50.0))  # muscle
    for name, (low, high), value in (
        ("spleen", (2, 7), 110.0), ("spleen tumor", (4, 5), 60.0), ("", (8, 9), 700.0)
    ):  # fmt: skip
        shape = box.copy()
        shape[low:high, low:high, low:high] = -1
        paint.paint(shape, Tissue(value), name=name)
    return paint.done(Tissue(-1000.0))


def test_what_is_left_out_becomes_the_tissue_around_it_with_all_it_encloses():
    before = painted()
    after = without(before, {"spleen"})
    muscle = 1
    assert (after.labels[2:7, 2:7, 2:7] == muscle).all()
    same = np.ones(before.labels.shape, bool)
    same[2:7, 2:7, 2:7] = False
    np.testing.assert_array_equal(after.labels[same], before.labels[same])
    assert (before.labels == 2).any()  # the first one is as it was


def test_a_part_can_be_left_out_by_itself_and_what_is_not_there_changes_nothing():
    before = painted()
    alone = without(before, {"spleen tumor"}, named=True)
    assert (alone.labels[4, 4, 4], alone.labels[2, 2, 2]) == (2, 2)
    assert without(before, {"liver"}) is before
    assert without(before, {"spleen"}, between=(5000.0, 6000.0)) is before  # nothing to fill the gap with


def test_removing_from_a_torso_leaves_the_other_organs():
    phantom = torso(42, spacing_mm=4.0)
    after = without(phantom, {"spleen"})
    for label, name in phantom.names.items():
        own = phantom.labels == label
        kept = after.labels == label
        assert kept.sum() == (0 if name == "spleen" else own.sum()), name
