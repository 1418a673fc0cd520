"""SAM-Med3D's own rules: the cube, clicks, rounds; geometry by probe; full-size keys; cost; no tensor dropped."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

import probes
from parity import sam_med3d as official
from parity.harness import Fixture
from segwise import catalog
from segwise.errors import PromptError, SpecError, WeightsError
from segwise.geometry import Channel, Grid, Volume
from segwise.lifts.crop import Crop
from segwise.models import sam_med3d
from segwise.models.sam_med3d import Med3dFrame, z_scored
from segwise.nets import sam_med3d as nets
from segwise.nets.contract import Marks
from segwise.nets.flops import counted, parameters
from segwise.prompt import Box, Points, Prompt
from segwise.segmenter import Ask, Parts
from segwise.store import FeatureStore

SIDE = 64


def clicks(where, places, positive=None):
    places = np.array(places, dtype=float)
    return Points(where.mm(places), np.ones(len(places), bool) if positive is None else np.array(positive))


@pytest.fixture(scope="module")
def fixture(parity_dir):
    if not (parity_dir / "sam_med3d" / "io.npz").exists():
        pytest.skip("no parity fixture of sam_med3d")
    return Fixture(parity_dir / "sam_med3d")


@pytest.fixture(scope="module")
def model(fixture):
    return sam_med3d.load(checkpoint=str(fixture.folder))


@pytest.fixture(scope="module")
def volume():
    where = Grid((40, 90, 70), np.array([[0, 0, -2.0, 30], [0, 2.5, 0, -20], [4.0, 0, 0, 7], [0, 0, 0, 1.0]]))
    image = np.random.default_rng(5).normal(30, 40, where.shape).astype(np.float32)
    return Volume.of(image, where, (Channel("CT"),))


def answered(model, volume, prompt, previous=None, store=None):
    state = model.encode(volume, store=store or FeatureStore())
    return model.segment(state, [Ask(prompt, previous)])[0]


def test_it_is_in_the_catalogue():
    assert catalog.card("models", "sam-med3d").takes == ("points",)


def test_sizes_come_from_the_keys(fixture, model):
    assert model.frame.shape == fixture.io["out.model_input"].shape
    assert model.parts.weights.startswith("unknown:")
    assert not model.net.training


def test_weights_of_another_model_are_refused():
    with pytest.raises(WeightsError, match="not SAM-Med3D's"):
        nets.net_of({"image_encoder.pos_embed": (1, 4, 4, 8)}, {})


def test_a_crop_is_placed_by_marks_or_volume_only(model):
    with pytest.raises(SpecError, match="marks, volume"):
        Crop(model.parts, placed="reference")


# Its frame


def test_the_mean_and_deviation_are_of_what_is_above_zero():
    values = np.array([[[[-5.0, 2.0, 4.0, 0.0, 6.0]]]], dtype=np.float32)
    assert np.allclose(z_scored(values), (values - 4) / 2)  # unbiased: sqrt(8 / 2)


@pytest.mark.parametrize(("values", "expected"), [([0, -3], [0, -3]), ([7, 7, 1], [3, 3, -3]), ([9], [0])])
def test_a_cube_without_two_values_is_only_centred(values, expected):
    array = np.array(values, dtype=np.float32).reshape(1, 1, 1, -1)
    if len(values) == 3:
        assert z_scored(array).std() > 0
    else:
        assert z_scored(array).ravel().tolist() == expected


def test_a_click_is_the_voxel_that_holds_it():
    frame = Med3dFrame(size=(SIDE,) * 3, low_res=(16,) * 3)
    window = Grid(frame.shape, np.diag([1.5, 1.5, 1.5, 1]))
    prompt = Prompt((clicks(window, [(3.2, 4.5, 63.4)], [False]), clicks(window, [(99, 1, 1)])))
    marks = frame.marks(prompt, window, None)
    assert marks.points.tolist() == [[[3, 5, 63]]]
    assert marks.signs.tolist() == [[0]]
    assert marks.low_res.shape == (1, 1, 16, 16, 16) and not marks.low_res.any()
    assert len(frame.marks(Prompt((clicks(window, [(99, 1, 1)]),)), window, None).image) == 0
    assert not len(frame.follow(np.ones(window.shape, bool), window).image)


def test_the_grid_is_1_5_mm_and_ras(volume):
    prepared = Med3dFrame().prepare(volume)
    assert prepared.grid.axes == "RAS"
    assert np.allclose(prepared.grid.spacing_mm, 1.5)


# Its cube


def test_the_cube_lies_around_the_middle_of_the_marks(model, volume):
    prompt = Prompt((clicks(volume.grid, [(20, 40, 30), (22, 44, 34)]),))
    state = model.encode(volume, store=FeatureStore())
    cube = model.cube(state, Ask(prompt))
    assert np.abs(cube.centre_mm - volume.grid.mm((21, 42, 32))[0]).max() <= 1.5
    central = sam_med3d.Crop(model.parts, placed="volume")
    assert np.abs(central.cube(state, Ask(prompt)).centre_mm - volume.grid.centre_mm).max() <= 1.5
    assert central.digest != model.digest and central.encoder == model.encoder


def test_later_rounds_keep_the_cube_and_take_the_logits_back(model, volume):
    store = FeatureStore()
    first = Prompt((clicks(volume.grid, [(20, 40, 30)]),))
    second = first.also(clicks(volume.grid, [(24, 44, 36)], [False]))
    before = answered(model, volume, first, store=store)
    after = answered(model, volume, second, before, store)
    state = model.encode(volume, store=store)
    assert model.cube(state, Ask(second, before)) == model.cube(state, Ask(first))
    assert model.cube(state, Ask(second)) != model.cube(state, Ask(first))
    assert not np.array_equal(after.logits, answered(model, volume, second).logits)


def test_a_click_outside_moves_the_cube_and_the_logits(model, volume):
    first = Prompt((clicks(volume.grid, [(20, 30, 20)]),))
    before = answered(model, volume, first)
    state = model.encode(volume, store=FeatureStore())
    near = first.also(clicks(volume.grid, [(20, 52, 20)]))
    moved = model.cube(state, Ask(near, before))
    assert np.abs(moved.centre_mm - volume.grid.mm((20, 41, 20))[0]).max() <= 1.5
    seen = model._seen(Ask(near, before), moved)
    shift = round(11 * 2.5 / 6)  # voxels of 6 mm
    old = before.carry["low_res"]
    assert seen.shape == old.shape and np.abs(seen).max() > 0
    assert np.corrcoef(seen[0][:, :-shift].ravel(), old[0][:, shift:].ravel())[0, 1] > 0.6
    far = first.also(clicks(volume.grid, [(20, 89, 69)]))
    assert np.abs(model.cube(state, Ask(far, before)).centre_mm - volume.grid.mm((20, 89, 69))[0]).max() <= 1.5


def test_answers_are_pure_and_do_not_depend_on_company(model, volume):
    volume.array.setflags(write=False)
    asks = [Ask(Prompt((clicks(volume.grid, [place]),))) for place in ((20, 40, 30), (25, 60, 50))]
    state = model.encode(volume, store=FeatureStore())
    alone = [model.segment(state, [asks[i]])[0].logits for i in (0, 1, 0)]
    assert np.array_equal(alone[0], alone[2])
    for found, expected in zip(model.segment(state, asks), alone, strict=False):
        assert np.array_equal(found.logits, expected)


def test_what_it_cannot_use_is_refused(model, volume):
    box = Box.of(volume.grid, (3, 3, 3), (9, 9, 9))
    for prompt in (Prompt((box,)), Prompt((Points(np.array([[900.0, 0, 0]]), np.array([True])),)), Prompt()):
        with pytest.raises(PromptError):
            answered(model, volume, prompt)


def test_three_candidates(fixture, volume):
    three = sam_med3d.load(checkpoint=str(fixture.folder), candidates="three", first="none")
    found = answered(three, volume, Prompt((clicks(volume.grid, [(20, 40, 30)]),)))
    assert len(found.logits) == len(found.quality) == len(three.net.mask_decoder.mask_tokens.weight) - 1


# Geometry, by probe


def probed():
    frame = Med3dFrame(size=(SIDE,) * 3, low_res=(16,) * 3)
    return Crop(Parts(probes.Probe("image"), frame, None, "probe"))


def near(show, where, slant=0.0):
    volume, mask = probes.scene(where, slant=slant)
    found = probes.answered(probed(), show, volume, probes.pointed(mask, where))
    coarse = max(1.0, sam_med3d.SPACING_MM / min(where.spacing_mm))
    off = probes.off_voxels if show == "image" else probes.off_centre_voxels
    assert off(found, mask) <= coarse


@pytest.mark.parametrize("show", ["image", "prompt"])
@pytest.mark.parametrize("axes", probes.orientations())
def test_every_orientation(axes, show):
    near(show, probes.grid(axes))


@pytest.mark.parametrize("show", ["image", "prompt"])
@pytest.mark.parametrize(("spacing", "slant"), [((0.9, 1.1, 5.0), 0.0), ((2.0, 2.5, 4.0), 12.0)])
def test_other_spacings_and_slants(show, spacing, slant):
    near(show, probes.grid("LPS", spacing_mm=spacing, slant=slant), slant)


# The net


def test_windows_that_do_not_fill_the_grid_are_as_in_one_piece():
    """Queries of the filling are not computed; nothing else changes."""
    torch.manual_seed(0)
    block = nets.Block3d(8, heads=2, hidden=16, window=3, grid=(4, 4, 4), bias=True, placed=True, eps=1e-6).eval()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(1, 4, 4, 4, 8)
    with torch.no_grad():
        inner = torch.nn.functional.pad(block.norm1(x), (0, 0, 0, 2, 0, 2, 0, 2))
        corner = block.attn(inner[:, 3:6, 3:6, 3:6], (3, 3, 3))[:, :1, :1, :1]
        assert torch.allclose(block._attended(block.norm1(x))[:, 3:, 3:, 3:], corner, atol=1e-5)


def test_the_full_size_keys(parity_dir):
    path = parity_dir / "keys" / "sam_med3d_vit_b_ori.json"
    if not path.exists():
        pytest.skip("no list of keys of sam_med3d_vit_b_ori")
    keys = {key: tuple(shape) for key, shape in json.loads(path.read_text())["tensors"].items()}
    with torch.device("meta"):
        for net in (nets.net_of(keys, {}), sam_med3d.released()):
            assert {key: tuple(value.shape) for key, value in net.state_dict().items()} == keys
            assert [i for i, block in enumerate(net.image_encoder.blocks) if not block.window] == [2, 5, 8, 11]
            assert net.image_encoder.blocks[0].attn.heads == 12


def test_the_cost_of_every_stage_is_counted():
    (one,) = sam_med3d.published()
    found = {name: counted(call) for name, call in one.stages.items()}
    assert found["encoder"] > 10 * found["decoder"] > 0
    assert round(parameters(one.net) / 1e6, 1) == sam_med3d.CARD.parameters_m


def test_a_net_without_tables_reads_its_windows_from_the_config():
    with torch.device("meta"):
        shapes = {k: tuple(v.shape) for k, v in sam_med3d.released().state_dict().items() if "rel_pos" not in k}
        config = {"encoder_num_heads": 6, "window_size": 5, "encoder_global_attn_indexes": [1]}
        net = nets.net_of(shapes, config)
    assert [block.window for block in net.image_encoder.blocks][:3] == [5, 0, 5]
    assert net.image_encoder.blocks[0].attn.heads == 6


# No tensor is dropped


@pytest.mark.slow
def test_every_tensor_of_the_checkpoint_matters(fixture):
    """The gradient of the answers reaches every tensor, or the list says why not."""
    model = sam_med3d.load(checkpoint=str(fixture.folder))
    net, whole = model.net, official.prepared(fixture)
    for tensor in net.state_dict(keep_vars=True).values():
        tensor.requires_grad_(True)
    features = net.encode(torch.from_numpy(model.frame.view(whole, whole.grid))[None])
    total = torch.zeros(())
    points, positive = fixture.io["in.points"], fixture.io["in.labels"] == 1
    positive[0], positive[-1] = True, False
    for net.candidates in ("one", "three"):
        marks = model.frame.clicked(points, positive, torch.randn(1, *model.frame.low_res).numpy())
        for given in (marks, Marks(marks.image, marks.points, marks.signs)):
            decoded = net.decode(features, given)
            for output in (decoded.logits, decoded.quality):
                total = total + (output * torch.linspace(-1, 2, output.numel()).view(output.shape)).sum()
    total.backward()
    dropped = [
        name
        for name, tensor in net.state_dict(keep_vars=True).items()
        if (tensor.grad is None or not tensor.grad.abs().max() > 0)
        and not any(re.search(r, name) for r in official.UNUSED)
    ]
    assert dropped == []
