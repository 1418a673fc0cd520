"""Three planes fused: where the answer lies, what it is, and that nothing is remembered."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import probes
from segwise.errors import PromptError, SpecError
from segwise.geometry import Grid, Volume
from segwise.lifts.orthogonal import Orthogonal
from segwise.models.litemedsam import LiteFrame
from segwise.nets.contract import Decoded, PromptNet
from segwise.prompt import Box, Prompt
from segwise.segmenter import Ask, Parts
from segwise.store import FeatureStore


def lift(net=None) -> Orthogonal:
    return Orthogonal(Parts(net or probes.Probe("image"), LiteFrame(), None, "probe"))


@pytest.mark.parametrize("show", ["image", "prompt"])
@pytest.mark.parametrize("axes", probes.orientations()[::5])
def test_the_answer_lies_where_the_block_lies(axes, show):
    where = probes.grid(axes)
    volume, mask = probes.scene(where)
    assert probes.off_voxels(probes.answered(lift(), show, volume, probes.boxed(mask, where)), mask) <= 1


class Told(PromptNet):
    """Answers each plane with its own constant: told by the view's aspect."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits
        self.nothing = torch.nn.Parameter(torch.zeros(1))
        self.calls = 0

    def encode(self, image):
        return image

    def decode(self, features, marks):
        self.calls += 1
        filled = int((features[0, 0, 0] != 0).any(dim=0).sum())  # columns of the view that are not padding
        value = self.logits[filled]
        return Decoded(torch.full((len(marks.image), 1, 1, 256, 256), value), torch.full((len(marks.image), 1), 0.5))


def test_a_voxel_is_foreground_where_the_mean_probability_is_above_one_half():
    where = Grid((12, 24, 48), np.diag([1.0, 1.0, 1.0, 1.0])[[2, 1, 0, 3]])  # S, A, R with 12, 24, 48 voxels
    image = np.random.default_rng(0).uniform(100, 200, where.shape).astype(np.float32)
    volume, box = Volume.of(image, where), Prompt((Box.of(where, (2, 2, 2), (9, 20, 40)),))
    # axial views are 24 x 48, coronal ones 12 x 48, sagittal ones 12 x 24: all fill 256 columns
    for value, expected in ((2.0, True), (-2.0, False)):
        model = lift(Told({256: value}))
        (found,) = model.segment(model.encode(volume, store=FeatureStore()), [Ask(box)])
        inner = found.mask(where)[2:9, 2:20, 2:40]
        assert inner.all() == expected and inner.any() == expected
        assert found.quality.tolist() == [0.5]
        assert not found.mask(where)[0, 0, 0]  # no plane was asked there


def test_a_thin_box_is_asked_where_it_has_rows_and_columns_only():
    where = Grid((12, 24, 48), np.diag([1.0, 1.0, 1.0, 1.0])[[2, 1, 0, 3]])
    volume = Volume.of(np.random.default_rng(0).uniform(0, 9, where.shape).astype(np.float32), where)
    net = Told({256: 2.0})
    model = lift(net)
    state = model.encode(volume, store=FeatureStore())
    (found,) = model.segment(state, [Ask(Prompt((Box.of(where, (5, 2, 2), (6, 20, 40)),)))])
    assert net.calls == 1 and found.grid.shape[0] == 1
    with pytest.raises(PromptError, match="says nothing"):
        model.segment(state, [Ask(Prompt((Box.of(where, (5, 2, 2), (6, 3, 40)),)))])


def test_answers_do_not_depend_on_what_was_asked_before():
    where = probes.grid("LPS")
    volume, mask = probes.scene(where)
    model = lift()
    state = model.encode(volume, store=FeatureStore())
    a, b = Ask(probes.boxed(mask, where)), Ask(Prompt((Box.of(where, (5, 5, 5), (20, 20, 12)),)))
    first = model.segment(state, [a])[0]
    both = model.segment(state, [b, a])
    assert np.array_equal(first.logits, model.segment(state, [a])[0].logits)
    assert np.array_equal(both[1].logits, first.logits)


def test_a_frame_of_one_plane_is_refused():
    with pytest.raises(SpecError, match="any plane"):
        Orthogonal(Parts(probes.Probe("image"), object(), None, "probe"))
