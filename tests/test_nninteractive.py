"""nnInteractive: its rules, its errors, and that it sees and answers in the right place; no weights are needed."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import probes
from parity import nninteractive as parity_file
from segwise.errors import PromptError, SpecError, WeightsError
from segwise.lifts import interactive_plan as plan
from segwise.lifts.interactive import Interactive
from segwise.lifts.interactive_board import HALF_MAX, Board, Mark, added, ball, marks
from segwise.models import nninteractive
from segwise.nets.flops import counted
from segwise.prompt import Box, Points, Prompt, Stroke, Text
from segwise.segmenter import Ask, Parts
from segwise.store import FeatureStore

RULES = nninteractive.rules({}, (64, 64, 64))


class Shown(nn.Module):
    """Answers with the image (above its middle), or with every mark it was given."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def forward(self, view: torch.Tensor) -> list[torch.Tensor]:
        image = view[:, :1]
        level = image - image.mean() if self.what == "image" else view[:, 2:].amax(dim=1, keepdim=True) - 0.3
        return [torch.cat([-level, level], dim=1)]


def model(what: str, rules=RULES, **arguments) -> Interactive:
    parts = Parts(Shown(what), nninteractive.PlainFrame(rules.patch), None, f"random:{what}")
    return Interactive(parts, rules, **arguments)


def answer(segmenter, volume, prompt, previous=None, seed=0):
    state = segmenter.encode(volume, store=FeatureStore())
    return segmenter.segment(state, [Ask(prompt, previous, seed)])[0]


@pytest.mark.parametrize(
    "axes",
    [
        axes if i % 7 == 0 else pytest.param(axes, marks=pytest.mark.slow)
        for i, axes in enumerate(probes.orientations())
    ],
)
def test_it_sees_and_answers_in_the_right_place(axes):
    where = probes.grid(axes)
    volume, mask = probes.scene(where)
    point = probes.pointed(mask, where)
    found = answer(model("image"), volume, point).mask(where)
    assert np.array_equal(found, mask)
    low, high = (np.argwhere(mask).min(axis=0), np.argwhere(mask).max(axis=0) + 1)
    at = where.axis_of("axial")
    low[at] = (low[at] + high[at]) // 2
    high[at] = low[at] + 1
    drawn = answer(model("marks"), volume, Prompt((Box.of(where, low.tolist(), high.tolist()),))).mask(where)
    assert np.array_equal(np.argwhere(drawn).min(axis=0), low)
    assert np.array_equal(np.argwhere(drawn).max(axis=0) + 1, high)


def test_it_sees_and_answers_in_the_right_place_on_a_slanted_grid():
    where = probes.grid("LPS", slant=17.0)
    volume, mask = probes.scene(where, slant=17.0)
    assert np.array_equal(answer(model("image"), volume, probes.pointed(mask, where)).mask(where), mask)


def test_a_mark_after_an_undo_is_that_mark_on_a_fresh_session():
    where = probes.grid("RAS")
    volume, mask = probes.scene(where)
    segmenter = model("marks")
    one = probes.pointed(mask, where)
    extra = Points(where.mm([[3, 4, 5]]), np.array([False]))
    other = Points(where.mm([[20, 20, 9]]), np.array([True]))
    first = answer(segmenter, volume, one)
    answer(segmenter, volume, one.also(extra), first)  # undone
    again = answer(segmenter, volume, one.also(other), first)
    fresh = answer(model("marks"), volume, one.also(other), answer(model("marks"), volume, one))
    assert np.array_equal(again.logits, fresh.logits)
    assert again.carry.mask == fresh.carry.mask and again.grid == fresh.grid
    assert np.array_equal(again.logits, answer(segmenter, volume, one.also(other)).logits), "both marks in one ask"


def test_asks_do_not_know_each_other():
    where = probes.grid("RAS")
    volume, mask = probes.scene(where)
    before = volume.array.copy()
    segmenter = model("marks")
    state = segmenter.encode(volume, store=FeatureStore())
    a, b = Ask(probes.pointed(mask, where)), Ask(Prompt((Points(where.mm([[9, 9, 9]]), np.array([True])),)))
    single = [segmenter.segment(state, [ask])[0] for ask in (a, b, a)]
    both = segmenter.segment(state, [a, b])
    assert np.array_equal(single[0].logits, single[2].logits)
    assert all(np.array_equal(x.logits, y.logits) for x, y in zip(single, both, strict=False))
    assert np.array_equal(volume.array, before)


def test_a_later_mark_weighs_more():
    point = Mark("points", True, np.array([[5, 6], [5, 6], [5, 6]]), None)
    far = replace(RULES, decay=0.5)
    flat = Mark("bbox2d", True, np.array([[0, 3], [0, 3], [1, 2]]), None)
    board = added(added(Board((12, 12, 12)), point, far), flat, far)
    drawn = board.drawn(np.array([[0, 12]] * 3), far)
    assert board.intensity == 4
    assert float(drawn[far.pairs["points"][0]].max()) == 2
    assert float(drawn[far.pairs["bbox2d"][0]].max()) == 4


def test_the_weight_is_scaled_down_before_half_precision_ends():
    rules = replace(RULES, decay=0.1)
    board = Board((9, 9, 9))
    for _ in range(6):
        board = added(board, Mark("points", True, np.array([[4, 5]] * 3), None), rules)
    assert board.intensity <= HALF_MAX
    assert all(np.isfinite(stamp.values).all() for stamp in board.stamps)


def test_a_point_is_a_ball_that_fades_outwards():
    values = ball(4)
    assert values.shape == (9, 9, 9)
    assert values[4, 4, 4] == 1
    assert values[0, 0, 0] == 0


def test_3d_boxes_are_refused_before_computing():
    where = probes.grid("RAS")
    volume, mask = probes.scene(where)
    with pytest.raises(PromptError, match="middle-slice"):
        answer(model("marks"), volume, probes.boxed(mask, where))
    flat = answer(model("marks", box3d="middle-slice"), volume, probes.boxed(mask, where)).mask(where)
    assert sorted(np.ptp(np.argwhere(flat), axis=0))[0] == 0
    deep = nninteractive.rules({"supported_interactions": {"bbox3d": True}}, (64, 64, 64))
    assert marks(probes.boxed(mask, where), where, deep)[0].kind == "bbox3d"


def test_words_alone_are_refused():
    volume, _ = probes.scene(probes.grid("RAS"))
    with pytest.raises(PromptError, match="text"):
        answer(model("marks"), volume, Prompt((Text("liver"),)))


def test_strokes_become_scribbles_and_lassos():
    where = probes.grid("RAS")
    xyz = where.mm([[10, 10, 5], [20, 10, 5], [20, 20, 5]])
    for closed, kind in ((False, "scribble"), (True, "lasso")):
        mark = marks(Prompt((Stroke(xyz, closed=closed, positive=False),)), where, RULES)[0]
        assert (mark.kind, mark.positive) == (kind, False)
        assert np.diff(mark.box).ravel()[2] == 1


def test_old_and_new_metadata():
    assert nninteractive.rules("nnInteractiveInferenceSession", (64,) * 3).decay == 0.9
    assert RULES.decay == 0.98
    said = {"interaction_channels": 8, "channel_mapping": {"points": [-2, -1], "prev_seg": 0}, "point_radius": 2}
    new = nninteractive.rules(said, (64,) * 3)
    assert (new.channels, new.pairs["points"], new.radius) == (9, (7, 8), 2)
    with pytest.raises(WeightsError, match="words"):
        nninteractive.rules({"channel_mapping": {"words": [1, 2]}}, (64,) * 3)


def test_patches_cover_what_changed_and_repeat_with_the_seed():
    mask = np.zeros((90, 80, 70), dtype=bool)
    mask[10:70, 5:60, 20:25] = True
    one, two = (plan.cover(mask, (64, 64, 64), np.random.RandomState(3)) for _ in range(2))
    assert np.array_equal(one.boxes, two.boxes)
    seen = np.zeros_like(mask)
    for box in one.boxes:
        seen[plan.slices(plan.clipped(box, mask.shape))] = True
    assert seen[mask].all()


def test_the_odd_neighbour():
    assert [plan.odd(x) for x in (1.0, 1.125, 2.0, 2.5, 3.5, 7.0)] == [1, 1, 3, 3, 3, 7]


@pytest.mark.parametrize("box", [(3, 40, 10, 11, 5, 30), (0, 45, 0, 50, 0, 61), (20, 21, 0, 50, 58, 61)])
def test_only_what_is_not_zero_is_shrunk_and_every_bit_is_kept(box):
    values = torch.zeros(1, 45, 50, 61, dtype=torch.float16)
    part = (slice(None), slice(*box[:2]), slice(*box[2:4]), slice(*box[4:]))
    values[part] = torch.rand(values[part].shape, generator=torch.Generator().manual_seed(0)).half()
    for size in (1, 3, 5):
        whole = F.interpolate(plan.spread(values, size)[None], (17, 20, 23), mode="area")[0]
        assert torch.equal(plan.shrunk(plan.thickened(values, size), (17, 20, 23)), whole)


@pytest.mark.slow
def test_every_tensor_counts_or_is_listed(parity_dir):
    """The gradient of the finest logits with respect to each tensor of the fixture is not zero, or it is listed."""
    folder = parity_dir / "nninteractive"
    if not (folder / "checkpoint.pth").exists():
        pytest.skip("no fixture of nninteractive")
    segmenter = nninteractive.load(checkpoint=str(folder), accept_non_commercial=True)
    net = segmenter.parts.net.double().requires_grad_(True)
    made = torch.Generator().manual_seed(0)
    out = net(torch.randn(1, net.channels, 32, 32, 32, dtype=torch.float64, generator=made))[0]
    (out * torch.randn(out.shape, dtype=out.dtype, generator=made)).sum().backward()
    last = len(net.decoder.seg_layers) - 1
    listed = [re.compile(pattern.replace("LAST", str(last))) for pattern in parity_file.UNUSED]
    for key, value in net.state_dict(keep_vars=True).items():
        moved = value.grad is not None and value.grad.abs().max().item() > 1e-9 * value.detach().abs().max().item()
        assert moved or any(pattern.fullmatch(key) for pattern in listed), key


def test_non_commercial_weights_must_be_accepted(parity_dir):
    with pytest.raises(WeightsError, match="non-commercial"):
        nninteractive.load(checkpoint=str(parity_dir / "nninteractive"))
    with pytest.raises(SpecError, match="box3d"):
        nninteractive.load(box3d="keep")


def test_operations_are_counted():
    for published in nninteractive.published():
        assert all(counted(call) > 0 for call in published.stages.values())
