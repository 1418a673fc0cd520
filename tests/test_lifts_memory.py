"""The memory lift with a net that writes down what it is asked: order, direction, range, stop rules, purity."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import probes
from segwise.errors import PromptError, SpecError
from segwise.geometry import Channel, Grid, Volume
from segwise.lifts.memory import Memory
from segwise.models._sam2 import MEAN, STD, Sam2Frame
from segwise.nets.contract import Decoded, MemoryNet
from segwise.prompt import Box, Points, Prompt
from segwise.segmenter import Ask, Parts
from segwise.store import FeatureStore

DEPTH, HEIGHT, WIDTH = 9, 20, 30


class Diary(MemoryNet):
    """Answers with a block as large as `areas` says of a slice, and writes down what is asked and recalled where."""

    def __init__(self, areas=None, reach=3, quality=0.9) -> None:
        super().__init__()
        self.nothing = torch.nn.Parameter(torch.zeros(1))
        self.areas, self.far, self.quality = areas or {}, reach, quality
        self.asked, self.recalled, self.encoded = [], {}, []

    @property
    def reach(self):
        return self.far

    def encode(self, image):
        self.encoded.append(self.place(image))
        return {"image": image}

    def place(self, image):
        return round(float((image[0, 0].mean() * STD[0] + MEAN[0]) * (DEPTH - 1)))

    def recall(self, features, memories, offsets, *, prompted, n_slices):
        assert n_slices == DEPTH
        here = self.place(features["image"])
        places = [int(memory["place"][0]) for memory in memories]
        assert [abs(here - place) for place in places] == [abs(offset) for offset in offsets]
        ways = {int(np.sign(here - place) * np.sign(offset)) for place, offset in zip(places, offsets, strict=True)}
        assert len(ways) == 1  # one direction of travel
        self.recalled.setdefault(here, []).append(sorted(zip(places, prompted, strict=True)))
        return {**features, "recalled": features["image"]}

    def decode(self, features, marks):
        here = self.place(features["image"])
        said = marks.boxes is not None or marks.points is not None
        assert said != ("recalled" in features)
        self.asked.append((here, said))
        logits = torch.full((len(marks.image), 1, 1, 16, 16), -1.0)
        side = self.areas.get(here, 6)
        logits[:, :, :, 4 : 4 + side, 5 : 5 + side] = 1.0
        return Decoded(logits, torch.full((len(marks.image), 1), self.quality), low_res=logits[:, :, 0])

    def remember(self, features, decoded, *, prompted):
        return {"place": torch.full((len(decoded.logits),), self.place(features["image"]))}


def volume():
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = 4, -1, -1.2, 1
    values = np.broadcast_to(np.arange(DEPTH, dtype=np.float32)[:, None, None] * 20, (DEPTH, HEIGHT, WIDTH)).copy()
    values.setflags(write=False)
    return Volume.of(values[None], Grid(values.shape, affine), (Channel("CT"),))


def lifted(net, **settings):
    return Memory(Parts(net, Sam2Frame(size=16, resizing="image"), None, "toy"), **settings)


def box(*places, low=(5, 5), high=(12, 15)):
    first, last = min(places), max(places) + 1
    return Box.of(volume().grid, (first, *low), (last, *high))


def point(place, positive=True):
    return Points(volume().grid.mm([[place, 9.0, 12.0]]), np.array([positive]))


def answered(model, *prompts, previous=None):
    state = model.encode(volume(), store=FeatureStore())
    return model.segment(state, [Ask(prompt, previous) for prompt in prompts])


def test_up_then_down_from_the_prompted_slice():
    net = Diary()
    (found,) = answered(lifted(net), Prompt((box(3),)))
    assert net.asked == [(3, True), *((i, False) for i in (4, 5, 6, 7, 8, 2, 1, 0))]
    assert found.grid.shape[0] == DEPTH
    assert net.recalled[4] == [[(3, True)]]
    assert net.recalled[6] == [[(3, True), (4, False), (5, False)]]
    assert net.recalled[2] == [[(3, True), (4, False), (5, False)]]  # three slices back at most


def test_a_fresh_direction_remembers_prompted_slices_only():
    net = Diary()
    answered(lifted(net, fresh=True), Prompt((box(3),)))
    assert net.recalled[2] == [[(3, True)]]
    assert net.recalled[1] == [[(2, False), (3, True)]]


def test_what_lies_too_far_back_is_forgotten():
    net = Diary(reach=2)
    answered(lifted(net), Prompt((box(1),)))
    assert net.recalled[8] == [[(1, True), (2, False), (6, False), (7, False)]]  # 2: near where the other way begins
    assert net.recalled[0] == [[(1, True), (2, False)]]


def test_several_prompted_slices_are_all_recalled():
    net = Diary()
    answered(lifted(net), Prompt((point(2), point(6))))
    assert net.asked[:2] == [(2, True), (6, True)]
    assert net.recalled[3] == [[(2, True), (6, True)]]
    assert [here for here, said in net.asked if not said] == [3, 4, 5, 7, 8, 1, 0]


def test_a_thick_box_prompts_its_middle_and_bounds_the_range():
    net = Diary()
    (found,) = answered(lifted(net), Prompt((box(1, 2, 3, 4, 5),)))
    assert net.asked == [(3, True), (4, False), (5, False), (2, False), (1, False)]
    assert found.grid.shape[0] == 5


def test_marks_on_several_slices_are_the_range_unless_the_volume_is():
    net = Diary()
    answered(lifted(net, stop="empty"), Prompt((point(2), point(4))))
    assert sorted(here for here, _ in net.asked) == [2, 3, 4]


@pytest.mark.parametrize(
    ("stop", "areas", "quality", "expected"),
    [
        ("end", {5: 0}, 0.9, list(range(DEPTH))),
        ("empty", {5: 0}, 0.9, [0, 1, 2, 3, 4]),
        ("area", {5: 10}, 0.9, [0, 1, 2, 3, 4]),
        ("area", {1: 2, 6: 0}, 0.9, [2, 3, 4, 5]),
        ("quality", {}, 0.3, [3]),
    ],
)
def test_the_stop_rule_ends_a_direction(stop, areas, quality, expected):
    net = Diary(areas, quality=quality)
    model = lifted(net, stop=stop)
    state = model.encode(volume(), store=FeatureStore())
    (track,) = model.tracks(state, Ask(Prompt((box(3),))))
    model.follow(state, [track])
    assert sorted(track.found) == expected


def test_two_boxes_on_a_slice_are_followed_apart_and_joined():
    net = Diary()
    two = Prompt((box(3), box(3, low=(14, 20), high=(18, 28))))
    (found,) = answered(lifted(net), two)
    assert net.asked.count((3, True)) == 2 and net.asked.count((4, False)) == 2
    assert len(found.logits) == 1


def test_targets_share_slices_and_do_not_change_each_other():
    net = Diary()
    model = lifted(net)
    state = model.encode(volume(), store=FeatureStore())
    a, b = Prompt((box(3),)), Prompt((point(6),))
    together = model.segment(state, [Ask(a), Ask(b)])
    assert sorted(net.encoded) == list(range(DEPTH))
    for prompt, found in zip((a, b), together, strict=True):
        (alone,) = model.segment(state, [Ask(prompt)])
        assert np.array_equal(alone.logits, found.logits) and alone.grid == found.grid


def test_batches_answer_like_single_targets(monkeypatch):
    net = Diary()
    model = lifted(net)
    single = answered(model, Prompt((box(3),)), Prompt((box(3, low=(1, 1), high=(9, 9)),)))
    monkeypatch.setattr(Memory, "_batches", lambda self, tracks: [list(tracks)])
    for one, other in zip(
        single, answered(model, Prompt((box(3),)), Prompt((box(3, low=(1, 1), high=(9, 9)),))), strict=True
    ):
        assert np.array_equal(one.logits, other.logits)


def test_the_largest_component_keeps_its_logits():
    net = Diary({4: 6, 5: 0, 6: 0, 7: 3, 8: 3})
    model, whole = lifted(net, largest=True), lifted(net)
    (kept,), (everything,) = (answered(m, Prompt((box(3),))) for m in (model, whole))
    mask, all_of_it = kept.mask(volume().grid), everything.mask(volume().grid)
    assert all_of_it[8].any() and not mask[7:].any() and (mask[:5] == all_of_it[:5]).all()
    assert (np.abs(kept.logits) == np.abs(everything.logits)).all()
    assert model.digest != whole.digest and model.encoder == whole.encoder


def test_the_next_round_gets_what_the_prompted_slices_left():
    model = lifted(Diary())
    (first,) = answered(model, Prompt((point(3),)))
    state = model.encode(volume(), store=FeatureStore())
    (track,) = model.tracks(state, Ask(Prompt((point(3), point(5, positive=False))), first))
    assert sorted(track.marks) == [3, 5]
    assert all(marks.low_res is not None for marks in track.marks.values())
    (undone,) = model.tracks(state, Ask(Prompt((point(3),))))
    assert undone.marks[3].low_res is None


def test_what_cannot_be_asked_is_refused():
    with pytest.raises(SpecError, match="slices, propagate"):
        lifted(probes.Probe("image"))
    with pytest.raises(SpecError, match="expected one of end, empty"):
        lifted(Diary(), stop="never")
    with pytest.raises(PromptError):
        answered(lifted(Diary()), Prompt((Points(np.array([[999.0, 0, 0]]), np.array([True])),)))
    with pytest.raises(PromptError):
        answered(lifted(Diary()), Prompt((point(2, positive=False),)))


def test_it_is_rebuilt_with_its_settings():
    model = lifted(Diary(), stop="area", fresh=True, largest=True)
    again = model.rebuilt(model.parts)
    assert (again.stop, again.fresh, again.largest, again.digest) == ("area", True, True, model.digest)
