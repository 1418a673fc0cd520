"""The self-sorting bank with a net that writes down what it is asked: order, prompts, what is kept, draws, rounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import probes
from segwise.errors import PromptError, SpecError
from segwise.geometry import Channel, Grid, Volume
from segwise.lifts.sorted_memory import QUALITY_MARGIN, Entry, SortedMemory, chosen
from segwise.models._sam2 import MEAN, STD, Sam2Frame
from segwise.nets.contract import Decoded, SortableNet
from segwise.prompt import Box, Points, Prompt
from segwise.segmenter import Ask, Parts
from segwise.store import FeatureStore

DEPTH, HEIGHT, WIDTH = 9, 20, 30


class Diary(SortableNet):
    """Slices are like those near them; writes down what is asked with marks, and what is recalled where."""

    reach = 0

    def __init__(self) -> None:
        super().__init__()
        self.nothing = torch.nn.Parameter(torch.zeros(1))
        self.asked, self.recalled = [], {}

    def encode(self, image):
        return {"image": image}

    def place(self, image):
        return round(float((image[0, 0].mean() * STD[0] + MEAN[0]) * (DEPTH - 1)))

    def recall(self, features, memories, offsets, *, prompted, n_slices):
        here = self.place(features["image"])
        self.recalled[here] = [int(memory["place"][0]) for memory in memories]
        assert [here - place for place in self.recalled[here]] == offsets and n_slices == DEPTH
        return features

    def decode(self, features, marks):
        here = self.place(features["image"])
        self.asked.append((here, marks.boxes is not None or marks.points is not None))
        logits = torch.full((len(marks.image), 1, 1, 16, 16), -1.0)
        logits[:, :, :, 4:10, 5:11] = 1.0
        return Decoded(logits, torch.full((len(marks.image), 1), 0.5), low_res=logits[:, :, 0])

    def remember(self, features, decoded, *, prompted):
        return {"place": torch.full((1,), float(self.place(features["image"])))}

    def likeness(self, features, memories):
        return -abs(torch.cat([memory["place"] for memory in memories]).float() - self.place(features["image"]))

    def closeness(self, memories):
        places = torch.cat([memory["place"] for memory in memories]).float()
        return -abs(places[:, None] - places[None])


def volume():
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = 4, -1, -1.2, 1
    values = np.broadcast_to(np.arange(DEPTH, dtype=np.float32)[:, None, None] * 20, (DEPTH, HEIGHT, WIDTH)).copy()
    values.setflags(write=False)
    return Volume.of(values[None], Grid(values.shape, affine), (Channel("CT"),))


def lifted(net, **settings):
    return SortedMemory(Parts(net, Sam2Frame(size=16, resizing="image", carries=False), None, "toy"), **settings)


def box(*places, low=(5, 5), high=(12, 15)):
    return Box.of(volume().grid, (min(places), *low), (max(places) + 1, *high))


def points(*places):
    return Points(volume().grid.mm([[place, 9.0, 12.0] for place in places]), np.ones(len(places), dtype=bool))


def answered(model, *prompts, previous=None, seed=0):
    state = model.encode(volume(), store=FeatureStore())
    return model.segment(state, [Ask(prompt, previous, seed) for prompt in prompts])


def stepped(model, prompt, previous=None):
    state = model.encode(volume(), store=FeatureStore())
    (track,) = model.tracks(state, Ask(prompt, previous))
    return list(model.steps(state, track, model._drawing(0, 0)))


# Order and prompts


def test_from_the_first_prompted_slice_up_then_those_before_it():
    net = Diary()
    (found,) = answered(lifted(net), Prompt((box(3),)))
    assert net.asked == [(3, True), *((i, False) for i in (4, 5, 6, 7, 8, 0, 1, 2))]
    assert found.grid.shape[0] == DEPTH
    assert 3 not in net.recalled and net.recalled[4] == [3]


def test_outward_the_prompted_slices_come_first():
    net = Diary()
    answered(lifted(net, order="outward"), Prompt((points(2, 6),)))
    assert net.asked == [(2, True), (6, True), *((i, False) for i in (1, 3, 5, 7, 0, 4, 8))]


def test_a_thick_box_prompts_its_middle_and_bounds_the_range():
    net = Diary()
    (found,) = answered(lifted(net), Prompt((box(1, 5),)))
    assert net.asked == [(3, True), (4, False), (5, False), (1, False), (2, False)]
    assert found.grid.shape[0] == 5


def test_each_nth_step_takes_its_prompts():
    net = Diary()
    answered(lifted(net, every=5), Prompt((box(1, 7),)))
    assert net.asked == [(i, i in (1, 6)) for i in range(1, 8)]
    clicked = Diary()
    answered(lifted(clicked, every=2, batch=2), Prompt((points(*range(DEPTH)),)))
    assert [here for here, said in clicked.asked if said] == [0, 1, 4, 5, 8]
    one = Diary()
    answered(lifted(one, every=5), Prompt((points(4),)))
    assert one.asked[0] == (4, True)


def test_two_boxes_on_a_slice_have_a_bank_each():
    net = Diary()
    (found,) = answered(lifted(net), Prompt((box(3), box(3, low=(14, 20), high=(18, 28)))))
    assert net.asked.count((3, True)) == 2 and net.asked.count((4, False)) == 2
    assert len(found.logits) == 1


# The bank


def entry(place, quality=0.5):
    return Entry(place, {"place": torch.tensor([float(place)])}, quality)


def test_the_nearest_neighbour_of_the_least_like_entry_is_replaced():
    choice = chosen(Diary(), [entry(0), entry(3), entry(5)], entry(8))
    assert (choice.least, choice.nearest, choice.replaced) == (0, 1, True)
    assert choice.likeness.tolist() == [-8, -5, -3] and choice.neighbours[1:].tolist() == [-3, -5]
    between = chosen(Diary(), [entry(0), entry(10)], entry(4))  # liker to 10 than its nearest neighbour is
    assert (between.least, between.nearest, between.replaced) == (1, 0, False)


def test_a_worse_entry_is_refused_beyond_the_margin():
    bank = [entry(0), entry(3, 0.8), entry(5)]
    just, not_quite = 0.8 - QUALITY_MARGIN + 0.01, 0.8 - QUALITY_MARGIN - 0.01
    assert chosen(Diary(), bank, entry(8, just)).replaced
    assert not chosen(Diary(), bank, entry(8, not_quite)).replaced


def test_the_limit_is_looked_at_before_a_batch_and_the_new_entry_is_last():
    model = lifted(Diary(), bank=4, batch=3)
    steps = stepped(model, Prompt((points(0),)))
    assert [[entry.place for entry in step.bank] for step in steps[:2]] == [[0, 1, 2], [0, 1, 2, 3, 4, 5]]
    assert [choice.place for choice in steps[2].choices] == [6, 7, 8]
    last = [entry.place for entry in steps[2].bank]
    taken = [choice.place for choice in steps[2].choices if choice.replaced]
    assert len(last) == 6 and last[len(last) - len(taken) :] == taken and taken


def test_the_likest_are_recalled_and_as_many_as_asked():
    net = Diary()
    answered(lifted(net, recalled=2), Prompt((points(0),)))
    assert net.recalled[1] == [0] and net.recalled[5] == [4, 3]


def test_seeded_draws_follow_the_seed_of_the_ask():
    def drawn(*seeds):
        nets = [Diary() for _ in seeds]
        for net, seed in zip(nets, seeds, strict=True):
            answered(lifted(net, draw="seeded", recalled=3), Prompt((points(0),)), seed=seed)
        return [net.recalled for net in nets]

    one, again, other = drawn(7, 7, 8)
    assert one == again != other
    assert one[1] == [0, 0, 0]  # with replacement


# State is passed


def test_a_later_round_goes_on_with_the_bank_and_a_slice_is_in_it_once():
    model = lifted(Diary(), bank=4)
    (first,) = answered(model, Prompt((points(3),)))
    before = first.carry["sorted-memory"][0]
    assert len(before) == 4 and all(value.dtype == torch.bfloat16 for entry in before for value in entry.tree.values())
    steps = stepped(model, Prompt((points(3, 5),)), first)
    assert steps[0].answers[0].shares is not None  # the first slice is not before an empty bank
    for step in steps:
        places = [entry.place for entry in step.bank]
        assert len(places) == len(set(places)) <= 5
    plain = lifted(Diary(), carry=False)
    assert answered(plain, Prompt((points(3),)))[0].carry is None


def test_an_undone_round_leaves_no_trace():
    net = Diary()
    model = lifted(net)
    prompt = Prompt((points(3),))
    (first,) = answered(model, prompt)
    kept = [entry.place for entry in first.carry["sorted-memory"][0]]
    answered(model, prompt.also(points(6)), previous=first)
    recalled = dict(net.recalled)
    (again,) = answered(model, prompt)
    assert np.array_equal(first.logits, again.logits) and recalled != net.recalled
    assert [entry.place for entry in first.carry["sorted-memory"][0]] == kept


def test_targets_do_not_change_each_other():
    for draw in ("top-k", "seeded"):
        model = lifted(Diary(), draw=draw)
        a, b = Prompt((box(3),)), Prompt((points(6),))
        for prompt, found in zip((a, b), answered(model, a, b), strict=True):
            (alone,) = answered(model, prompt)
            assert np.array_equal(alone.logits, found.logits) and alone.grid == found.grid


def test_what_cannot_be_asked_is_refused():
    with pytest.raises(SpecError, match="can be compared"):
        lifted(probes.Probe("image"))
    for settings, words in (
        ({"draw": "random"}, "one of top-k, seeded"),
        ({"order": "down"}, "one of file, outward"),
        ({"bank": 1}, "at least 2"),
        ({"recalled": 0}, "at least 1"),
        ({"batch": 0}, "at least 1"),
        ({"every": -1}, "at least 0"),
    ):
        with pytest.raises(SpecError, match=words):
            lifted(Diary(), **settings)
    with pytest.raises(PromptError):
        answered(lifted(Diary()), Prompt((Points(np.array([[999.0, 0, 0]]), np.array([True])),)))


def test_it_is_rebuilt_with_its_settings():
    settings = {"bank": 5, "recalled": 2, "draw": "seeded", "order": "outward", "every": 3, "batch": 2, "carry": False}
    model = lifted(Diary(), **settings)
    again = model.rebuilt(model.parts)
    assert again._arguments() == settings and again.digest == model.digest
    assert lifted(Diary()).digest != model.digest
