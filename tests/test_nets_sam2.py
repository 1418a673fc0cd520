"""SAM 2's net: every published size by its keys, what it recalls, stability, absence, cost, and no tensor dropped."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from parity import sam2 as official
from parity.harness import Fixture
from segwise.errors import WeightsError
from segwise.models import medsam2, sam2
from segwise.nets import sam2_sizes
from segwise.nets.contract import Marks
from segwise.nets.flops import counted
from segwise.nets.sam2 import ABSENT, Rules
from segwise.nets.sam2_sizes import rules_of, sam2_of
from segwise.weights import read
from segwise.weights.tensors import signature_of

NO_MARK = Marks(torch.zeros(1, dtype=torch.int64))
NEWER = re.compile(r"^(no_obj_embed_spatial$|obj_ptr_tpos_proj\.)")  # of SAM 2.1


def keys_of(parity_dir, name):
    path = parity_dir / "keys" / f"{name}.json"
    if not path.exists():
        pytest.skip(f"no list of keys of {name}")
    return {key: tuple(shape) for key, shape in json.loads(path.read_text())["tensors"].items()}


def shapes_of(net):
    return {key: tuple(value.shape) for key, value in net.state_dict().items()}


@pytest.fixture(scope="module")
def fixture(parity_dir):
    if not (parity_dir / "sam2" / "io.npz").exists():
        pytest.skip("no parity fixture of sam2")
    return Fixture(parity_dir / "sam2")


@pytest.fixture(scope="module")
def net(fixture):
    return sam2.load(checkpoint=str(fixture.folder)).parts.net


@functools.cache
def features(net, seed=0):
    side = net.sam_prompt_encoder.size[0]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        return net.encode(torch.randn(1, 3, 1, side, side, generator=generator))


def point(x=100.0, y=60.0, sign=1.0, n=1):
    places = torch.tensor([[0.0, y, x]]).expand(n, -1)[:, None]
    return Marks(torch.zeros(n, dtype=torch.int64), points=places, signs=torch.full((n, 1), sign))


# Sizes


@pytest.mark.parametrize(
    ("name", "size"),
    [(f"sam2.1_hiera_{size.replace('-', '_')}", size) for size in sam2_sizes.SIZES] + [("medsam2_hiera_t512", "tiny")],
)
def test_official_files_fit(name, size, parity_dir):
    keys = keys_of(parity_dir, name)
    card = sam2.CARD if name.startswith("sam2") else medsam2.CARD
    assert signature_of(keys.items()) in {file.signature for file in card.weights}
    with torch.device("meta"):
        for built in (sam2_of(keys, {}), sam2_sizes.published(size)):
            assert shapes_of(built) == keys
            blocks = built.image_encoder.trunk.blocks
            assert tuple(i for i, block in enumerate(blocks) if not block.window) == sam2_sizes.SIZES[size].whole
            assert blocks[0].attn.heads == sam2_sizes.SIZES[size].heads
        older = {key: shape for key, shape in keys.items() if not NEWER.search(key)}
        assert shapes_of(sam2_of(older, {})) == older  # SAM 2.0


@pytest.mark.parametrize("name", ["medical_sam2_hiera_s", "medical_sam2_hiera_t"])
def test_the_older_files_fit(name, parity_dir):
    keys = keys_of(parity_dir, name)
    with torch.device("meta"):
        built = sam2_of(keys, {})
    assert shapes_of(built) == keys and not built.rules.timed_pointers


def test_rules_come_from_the_configuration_else_from_the_published_model(fixture):
    newer = {"obj_ptr_tpos_proj.weight": (64, 256)}
    assert rules_of(newer, {}) == Rules()
    assert rules_of({}, {}) == replace(Rules(), timed_pointers=False, signed_pointers=False)
    assert rules_of(newer, fixture.config) == Rules()
    assert rules_of(newer, {"vision_config": {}, "sigmoid_scale_for_mem_enc": 5.0}) == Rules()  # of another library
    plain = {
        "image_encoder": {},
        "sam_mask_decoder_extra_args": {},
        "max_obj_ptrs_in_encoder": 4,
        "sigmoid_scale_for_mem_enc": 5.0,
    }
    found = rules_of(newer, plain)
    assert (found.stability_threshold, found.most_pointers, found.mask_scale, found.binary) == (0.0, 4, 5.0, False)
    with pytest.raises(WeightsError, match="soft_no_obj_ptr"):
        rules_of(newer, {"image_encoder": {}, "soft_no_obj_ptr": True})
    with pytest.raises(WeightsError, match="pos_enc_at_attn"):
        rules_of(newer, {"image_encoder": {}, "memory_attention": {"layer": {"pos_enc_at_attn": True}}})


def test_an_unknown_trunk_needs_its_configuration(fixture):
    shapes = read(fixture.folder).shapes
    with pytest.raises(WeightsError, match=r"config\.json"):
        sam2_of(shapes, {})
    with pytest.raises(WeightsError, match="not SAM 2's"):
        sam2_of({key: shape for key, shape in shapes.items() if "mask_tokens" not in key}, fixture.config)


def test_the_cost_of_every_stage_is_counted():
    (one,) = medsam2.published()
    found = {name: counted(call) for name, call in one.stages.items()}
    assert set(found) == {"encoder", "decoder", "memory"} and min(found.values()) > 1e8


@pytest.mark.slow
def test_larger_nets_cost_more():
    found = [counted(one.stages["encoder"]) for one in sam2.published()]
    assert found == sorted(found) and len(found) == 4


# Answers


@torch.no_grad()
def test_one_candidate_is_answered_or_three(net):
    seen = features(net)
    for candidates, marks, n in (("best", point(), 1), ("three", point(), 3), ("one", point(), 1)):
        net.candidates = candidates
        assert net.decode(seen, marks).logits.shape[1] == n
    net.candidates = "best"


@torch.no_grad()
def test_an_absent_object_is_minus_1024_and_has_its_own_pointer(net):
    seen = features(net)
    bias = net.sam_mask_decoder.pred_obj_score_head.layers[-1].bias
    before = bias.clone()
    bias.fill_(-1e3)
    absent = net.decode(seen, point())
    shadowed = net.remember(seen, absent, prompted=False)["map"].float()
    bias.fill_(1e3)
    there = net.decode(seen, point())
    bias.copy_(before)
    assert (absent.logits == ABSENT).all() and torch.equal(absent.pointer, net.no_obj_ptr)
    assert (there.logits != ABSENT).all() and not torch.equal(there.pointer, net.no_obj_ptr)
    low = net.memory(seen["map"], absent.logits[:, :, 0])
    assert torch.allclose(shadowed, low + net.no_obj_embed_spatial[..., None, None], atol=5e-2)


def test_an_unstable_mask_gives_way_to_the_best_of_three(net):
    logits = torch.full((2, 4, 8, 8), -1.0)
    logits[0, 0, :4] = 1.0  # as large at any threshold
    logits[1, 0, :4] = 0.01  # gone at 0.05
    logits[:, 2] = 3.0
    quality = torch.tensor([[0.1, 0.2, 0.9, 0.3]]).expand(2, -1)
    chosen, found = net._stable(logits, quality)
    assert torch.equal(chosen[0], logits[0, :1]) and torch.equal(chosen[1], logits[1, 2:3])
    assert found.tolist() == pytest.approx(np.array([[0.1], [0.9]]))


@torch.no_grad()
def test_a_given_mask_is_the_answer(net):
    seen = features(net)
    side = net.sam_prompt_encoder.size[0]
    mask = torch.zeros(1, 1, side, side)
    mask[..., 40:90, 30:120] = 1
    found = net.decode(seen, Marks(torch.zeros(1, dtype=torch.int64), masks=mask))
    assert torch.equal(found.logits[0, 0, 0] > 0, mask[0, 0, ::4, ::4] > 0) or found.logits.max() > 9
    assert found.presence.item() == 10
    nothing = net.decode(seen, Marks(torch.zeros(1, dtype=torch.int64), masks=torch.zeros_like(mask)))
    assert nothing.presence.item() == -10 and torch.allclose(nothing.pointer, net.no_obj_ptr)


# Memory


def test_it_takes_the_last_six_slices_and_all_prompted_ones(net):
    offsets = [9, 3, -2, *range(1, 9), -1, 20]
    prompted = [True, False, True, *[False] * 8, False, False]
    near = net._nearest(offsets, prompted)
    assert near == {0, 2}
    maps = net._maps(offsets, near)
    assert maps[:2] == [(0, 0), (2, 0)]
    assert sorted(back for _, back in maps[2:]) == [1, 2, 3, 3, 4, 5, 6]
    assert sorted(offsets[i] for i in net._pointers(offsets, near, 100)) == [1, 2, 3, 3, 4, 5, 6, 7, 8, 9]
    assert sorted(offsets[i] for i in net._pointers(offsets, near, 5)) == [1, 2, 3, 3, 4, 9]


def test_only_the_nearest_prompted_slices_count_where_there_is_a_limit(net):
    before = net.rules
    net.rules = replace(before, most_prompted=2)
    assert net._nearest([7, 2, -9, -3, 1], [True] * 4 + [False]) == {1, 3}
    net.rules = before


@torch.no_grad()
def test_recall_is_of_what_is_remembered_and_of_when(net):
    seen, other = features(net), features(net, seed=1)
    decoded = net.decode(other, point())
    kept = net.remember(other, decoded, prompted=True)
    assert kept["map"].dtype == torch.bfloat16

    def recalled(memories, offsets, flags):
        return net.recall(seen, memories, offsets, prompted=flags, n_slices=20)["recalled"]

    plain = recalled([kept], [1], [True])
    assert torch.equal(plain, recalled([kept], [1], [True]))
    assert not torch.allclose(plain, recalled([kept], [2], [True]))  # the pointer's time
    assert not torch.allclose(plain, recalled([kept], [1], [False]))
    assert torch.equal(net.recall(seen, [], [], prompted=[], n_slices=20)["map"], seen["map"])


@torch.no_grad()
def test_targets_together_answer_as_alone(net):
    seen, other = features(net), features(net, seed=1)
    trees = [net.remember(other, net.decode(other, point(x=x)), prompted=True) for x in (30.0, 200.0)]
    both = {key: torch.cat([tree[key] for tree in trees]) for key in trees[0]}
    together = net.recall(seen, [both], [1], prompted=[True], n_slices=9)
    found = net.decode(together, Marks(torch.arange(2)))
    for i, tree in enumerate(trees):
        alone = net.decode(net.recall(seen, [tree], [1], prompted=[True], n_slices=9), NO_MARK)
        assert torch.allclose(found.logits[i], alone.logits[0], atol=1e-4)


# No tensor is dropped


@pytest.mark.slow
@pytest.mark.parametrize("model", [sam2, medsam2])
def test_every_tensor_of_the_checkpoint_matters(model, parity_dir):
    """The gradient of answers, before and after a recall, reaches every tensor, or the list says why not."""
    name = model.__name__.split(".")[-1]
    if not (parity_dir / name / "checkpoint.pth").exists():
        pytest.skip(f"no parity fixture of {name}")
    net = model.load(checkpoint=str(parity_dir / name)).parts.net
    for tensor in net.state_dict(keep_vars=True).values():
        tensor.requires_grad_(True)
    side = net.sam_prompt_encoder.size[0]
    image = torch.randn(2, 3, 1, side, side, generator=torch.Generator().manual_seed(2))
    seen = net.encode(image)
    first, second = ({key: value[i : i + 1] for key, value in seen.items()} for i in (0, 1))
    box = Marks(torch.zeros(1, dtype=torch.int64), boxes=torch.tensor([[[0.0, 20, 30], [0, 90, 120]]]))
    clicks = replace(
        box,
        points=torch.tensor([[[0.0, 50, 60], [0, 5, 5]]]),
        signs=torch.tensor([[1.0, 0.0]]),
        low_res=torch.randn(1, 1, side // 4, side // 4, generator=torch.Generator().manual_seed(3)),
    )
    mask = torch.zeros(1, 1, side, side)
    mask[..., 40:90, 30:120] = 1
    total = torch.zeros(())
    net.video = False
    given = replace(box, boxes=None, masks=mask)
    for asked, candidates in ((box, "one"), (clicks, "one"), (point(), "three"), (given, "one")):
        net.candidates = candidates
        net.rules = replace(net.rules, stability_threshold=0.0 if asked is box else 0.98)  # else chance decides
        decoded = net.decode(first, asked)
        total = total + _spread(decoded.logits) + _spread(decoded.quality) + _spread(decoded.presence)
        for shown in (1.0, -1.0) if asked is box or asked is given else ():
            presence = torch.full_like(decoded.presence, shown)
            kept = net.remember(first, replace(decoded, presence=presence), prompted=False)
            kept["pointer"] = net._pointer(decoded.pointer, presence[:, None] > 0)
            flags, offsets = [False] * 6 + [True], [1, 2, 3, 4, 5, 6, 8]
            recalled = net.recall(second, [kept] * 7, offsets, prompted=flags, n_slices=20)
            answer = net.decode(recalled, NO_MARK)
            total = total + _spread(answer.logits) + _spread(answer.pointer)
    total.backward()
    dropped = [
        key
        for key, tensor in net.state_dict(keep_vars=True).items()
        if (tensor.grad is None or not tensor.grad.abs().max() > 0)
        and not any(re.search(pattern, key) for pattern in official.UNUSED)
    ]
    assert not dropped


def _spread(x):
    return (x.float() * torch.linspace(-1, 2, x.numel()).view(x.shape)).sum() / x.numel()
