"""What the default model is trained on and how: samples of generated targets, and the objective of rounds of clicks."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from segwise import assemble
from segwise.geometry import Grid
from segwise.lifts.focus_frame import FocusFrame
from segwise.nets.contract import Decoded, PromptNet
from segwise.nets.focus_unet import FocusUNet
from segwise.prompt import Box, Points, Prompt
from segwise.synth.regions import region
from segwise.synth.worlds import world
from segwise.training import interactive, regions
from segwise.training.interactive import Interactive, Sample

FRAME = FocusFrame()
FAMILIES = ((functools.partial(world, side=48), 1.0), (functools.partial(region, "brain"), 0.4))


@pytest.fixture(scope="module")
def batch():
    return regions.Regions(FRAME, FAMILIES, size=10, seed=3).batch(2)


def test_a_batch_is_a_function_of_its_index(batch):
    again = regions.Regions(FRAME, FAMILIES, size=10, seed=3)
    again.batch(5)
    for a, b in zip(batch, again.batch(2), strict=True):
        assert a.kind == b.kind and a.prompt == b.prompt and a.window == b.window
        assert np.array_equal(a.view, b.view) and np.array_equal(a.soft, b.soft)
        assert (a.seen is None) == (b.seen is None) and (a.seen is None or np.array_equal(a.seen, b.seen))


def test_a_sample_shows_its_target_and_says_something_about_it(batch):
    for sample in batch:
        assert (
            sample.view.shape == (1, 40, 40, 40) and sample.view.dtype == np.float32 and np.isfinite(sample.view).all()
        )
        assert sample.soft.min() >= 0 and sample.soft.max() <= 1.0001 and (sample.soft > 0.1).any()
        assert sample.prompt.marks or sample.seen is not None
        placed = sample.prompt.on(sample.window)
        inside = [
            sample.soft[tuple(np.clip((p + 0.5) * 40 / sample.window.shape, 0, 39).astype(int))] for p in placed.points
        ]
        assert all(value > 0 for value, positive in zip(inside, placed.positive, strict=True) if positive)


def test_every_kind_of_first_prompt_comes():
    found = [s for i in range(4) for s in regions.Regions(FRAME, FAMILIES, size=10, seed=4).batch(i)]
    kinds = {(frozenset(s.prompt.kinds), s.seen is not None) for s in found}
    for wanted in ({"box"}, {"box", "points"}, {"points"}):
        assert (frozenset(wanted), False) in kinds
    assert (frozenset({"box", "points"}), True) in kinds


def test_training_never_takes_a_seed_of_the_demonstration():
    taken = []

    def made(seed):
        taken.append(seed)
        return world(seed, side=40)

    regions.Regions(FRAME, ((made, 1.0),), size=3, seed=0).batch(0)
    regions.Regions(FRAME, ((made, 1.0),), size=3, seed=0, held=True).batch(0)
    assert min(taken) >= 1000 and {seed >= regions.APART for seed in taken} == {True, False}


class Knows(PromptNet):
    """Answers with the soft target it is handed as an image, wrong in its first answer."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.asked = []

    def encode(self, image):
        return image

    def decode(self, features, marks):
        self.asked.append(marks)
        sure = -1.0 if marks.low_res is None else 1.0
        logits = sure * 8 * (features[marks.image] - 0.5) * self.scale
        return Decoded(logits, quality=torch.sigmoid(self.scale).expand(len(logits), 1))


def _known(n=3):
    soft = np.zeros((40, 40, 40), dtype=np.float32)
    soft[10:30, 12:28, 8:33] = 1
    grid = Grid((40, 40, 40), np.eye(4))
    prompt = Prompt((Box.of(grid, (10, 12, 8), (30, 28, 33)),))
    return [Sample(soft[None], soft, grid, prompt, None) for _ in range(n)]


def test_the_next_click_answers_what_the_net_said():
    net = Knows()
    objective = Interactive(net, FRAME, assemble.prompter("cvpr2025(n=9)"))
    rng = np.random.default_rng(1)
    losses = [(float(loss.detach()), measured) for loss, measured in objective.losses(_known(), rng)]
    assert len(losses) == len(net.asked) > 1
    assert losses[0][1]["dsc0"] == 0 and losses[1][1]["dsc1"] == 1 and losses[1][0] < losses[0][0]
    first, second = net.asked[:2]
    assert first.points is None and second.points.shape == (3, 1, 3) and second.low_res.shape == (3, 1, 40, 40, 40)


def test_the_loss_can_be_learned_from():
    torch.manual_seed(0)
    net = FocusUNet(widths=(8, 8, 16, 16), depths=(0, 1, 1, 1))
    objective = Interactive(net, FRAME, assemble.prompter("cvpr2025(n=9)"))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    seen = []
    for k in range(12):
        for loss, _ in objective.losses(_known(2), np.random.default_rng(k)):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen.append(float(loss.detach()))
    assert np.mean(seen[-5:]) < 0.7 * seen[0]


def test_marks_of_several_samples_are_padded():
    grid = Grid((40, 40, 40), np.eye(4))
    boxed = FRAME.marks(Prompt((Box.of(grid, (1, 2, 3), (9, 9, 9)),)), grid, None)
    clicked = FRAME.marks(
        Prompt((Points(grid.mm([(5, 6, 7), (8, 9, 10)]), [True, False]),)), grid, np.ones((1, 40, 40, 40))
    )
    marks = interactive.together([boxed, clicked], torch.device("cpu"))
    assert marks.signs.tolist() == [[-1, -1], [1, 0]] and marks.image.tolist() == [0, 1]
    assert marks.boxes[0].tolist() == [[1, 2, 3], [9, 9, 9]] and marks.boxes[1].isnan().all()
    assert not marks.low_res[0].any() and marks.low_res[1].all()
