"""SAM-Med2D: where image and prompts lie, its rules and switches, its published keys, what every tensor is for."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

import probes
from parity import sam_med2d as parity_of
from parity.harness import Fixture
from segwise import assemble
from segwise.errors import PromptError, WeightsError
from segwise.geometry import Channel, Grid, Volume
from segwise.lifts.orthogonal import Orthogonal
from segwise.lifts.propagate import Propagate
from segwise.lifts.slices import Slices
from segwise.models import sam_med2d
from segwise.nets import flops
from segwise.nets import sam_med2d as nets
from segwise.nets.contract import Marks
from segwise.prompt import Box, Points, Prompt
from segwise.segmenter import Ask, Parts
from segwise.store import FeatureStore

PLANES = ("axial", "coronal", "sagittal")


def probed(plane: str, **fields: object) -> Slices:
    frame = sam_med2d.Med2dFrame(plane=plane, **fields)
    return Slices(Parts(probes.Probe("image"), frame, None, "probe"))


@pytest.mark.parametrize("show", ["image", "prompt"])
@pytest.mark.parametrize("axes", probes.orientations())
def test_image_and_box_lie_in_place_in_every_orientation(axes, show):
    where = probes.grid(axes)
    volume, mask = probes.scene(where)
    model = probed(PLANES[len(axes + show) % 3], size=96, small=("resize", "pad")[axes < "M"])
    found = probes.answered(model, show, volume, probes.boxed(mask, where))
    assert probes.off_voxels(found, mask) <= 1


@pytest.mark.parametrize("show", ["image", "prompt"])
@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("small", ["resize", "pad"])
@pytest.mark.parametrize(("spacing", "slant"), [((0.9, 1.1, 5.0), 0.0), ((2.0, 2.5, 4.0), 12.0)])
def test_image_and_box_lie_in_place_in_other_spacings_and_slants(plane, show, small, spacing, slant):
    where = probes.grid("LPS", spacing_mm=spacing, slant=slant)
    volume, mask = probes.scene(where, slant=slant)
    found = probes.answered(probed(plane, small=small), show, volume, probes.boxed(mask, where))
    assert probes.off_voxels(found, mask) <= 1


@pytest.mark.parametrize("small", ["resize", "pad"])
@pytest.mark.parametrize("axes", ["RAS", "SPL", "AIL", "LSP"])
def test_a_point_lies_in_place(axes, small):
    where = probes.grid(axes)
    volume, mask = probes.scene(where)
    prompt = probes.pointed(mask, where)
    found = probes.answered(probed("axial", size=96, small=small), "prompt", volume, prompt)
    middle = np.zeros_like(mask)
    middle[tuple(np.rint(prompt.on(where).points[0]).astype(int))] = True
    assert probes.off_centre_voxels(found, middle) <= 1


def slice_of(height: int, width: int) -> Volume:
    grid = Grid((1, height, width), np.diag([1.0, -1.0, -1.0, 1.0])[[2, 1, 0, 3]])
    levels = np.random.default_rng(0).integers(0, 256, (1, height, width)).astype(np.uint8)
    return Volume.of(levels, grid, (Channel("CT"),))


def test_only_slices_small_on_both_axes_are_padded():
    frame = sam_med2d.Med2dFrame(size=64, small="pad")
    assert frame.place(40, 50) == (40, 50, 12, 7)
    assert frame.place(40, 64) == frame.place(80, 20) == (64, 64, 0, 0)
    small = slice_of(40, 50)
    view = frame.view(small, small.grid)
    assert not view[:, :, :12].any() and not view[:, :, 52:].any() and not view[..., :7].any()
    mean, std = sam_med2d.PIXEL_MEAN[0], sam_med2d.PIXEL_STD[0]
    np.testing.assert_allclose(view[0, 0, 12:52, 7:57], (small.array[0, 0] - mean) / std, rtol=1e-6, atol=1e-6)


def test_a_view_is_the_nearest_pixel_after_normalising():
    frame = sam_med2d.Med2dFrame(size=64)
    image = slice_of(32, 16)
    view = frame.view(image, image.grid)
    mean, std = sam_med2d.PIXEL_MEAN[1], sam_med2d.PIXEL_STD[1]
    expected = (image.array[0, 0].repeat(2, axis=0).repeat(4, axis=1) - mean) / std
    np.testing.assert_allclose(view[1, 0], expected, rtol=1e-5, atol=1e-6)


def test_the_next_round_gets_probabilities_back():
    image = slice_of(20, 30)
    frame = sam_med2d.Med2dFrame(size=64)
    click = Prompt((Points(image.grid.mm((0, 5, 7)), np.array([True])),))
    seen = np.linspace(-9, 9, 256, dtype=np.float32).reshape(1, 16, 16)
    marks = frame.marks(click, image.grid, seen)
    assert marks.low_res is not None and tuple(marks.low_res.shape) == (1, 1, 16, 16)
    assert torch.equal(marks.low_res[0], torch.from_numpy(seen).sigmoid())
    assert frame.marks(click, image.grid, None).low_res is None
    two = Prompt((Box.of(image.grid, (0, 1, 1), (1, 9, 9)), Box.of(image.grid, (0, 3, 3), (1, 19, 29))))
    assert frame.marks(two, image.grid, seen).low_res is None  # whose would it be?


def test_negative_points_alone_say_nothing():
    where = probes.grid("LPS")
    volume, _ = probes.scene(where)
    model = probed("axial", size=64)
    state = model.encode(volume, store=FeatureStore())
    with pytest.raises(PromptError, match="beside the target only"):
        model.segment(state, [Ask(Prompt((Points(where.centre_mm, np.array([False])),)))])


def test_a_mask_is_followed_by_its_box_with_a_margin():
    image = slice_of(64, 64)
    frame = sam_med2d.Med2dFrame(size=64)
    mask = np.zeros((1, 64, 64), dtype=bool)
    mask[0, 10:20, 0:30] = True
    marks = frame.follow(mask, image.grid)
    assert marks.boxes is not None
    assert marks.boxes[0, :, 1:].tolist() == [[7, 0], [23, 33]]
    assert not len(frame.follow(np.zeros_like(mask), image.grid).image)


@pytest.fixture(scope="module")
def fixture(parity_dir):
    if not (parity_dir / "sam_med2d" / "io.npz").exists():
        pytest.skip("no parity fixture of sam_med2d")
    return Fixture(parity_dir / "sam_med2d")


def test_answers_do_not_depend_on_what_was_asked_before(fixture):
    model = assemble.build(f'sam-med2d(checkpoint="{fixture.folder}")').segmenter
    where = probes.grid("AIL", spacing_mm=(6.0, 6.0, 20.0))
    volume, mask = probes.scene(where)
    asks = [Ask(probes.boxed(mask, where)), Ask(probes.pointed(mask, where))]
    state = model.encode(volume, store=FeatureStore())
    first, second = (model.segment(state, [ask])[0] for ask in asks)
    again, together = model.segment(state, asks[:1])[0], model.segment(state, asks)
    assert np.array_equal(first.logits, again.logits)
    for one, other in zip((first, second), together, strict=True):
        np.testing.assert_allclose(one.logits, other.logits, rtol=0, atol=1e-4)
    more = asks[1].prompt.also(Points(where.centre_mm, np.array([False])))
    one, two = (model.segment(state, [Ask(more, second)])[0] for _ in range(2))
    fresh = model.segment(model.encode(volume, store=FeatureStore()), [Ask(more)])[0]
    assert np.array_equal(one.logits, two.logits) and not np.array_equal(one.logits, fresh.logits)
    assert model.parts.weights.startswith("unknown:")


def test_three_planes_agree_on_the_block():
    where = probes.grid("LPS", spacing_mm=(4.0, 5.0, 8.0))
    volume, mask = probes.scene(where)
    model = Orthogonal(probed("axial", size=96).parts)
    for show in ("image", "prompt"):
        assert probes.off_voxels(probes.answered(model, show, volume, probes.boxed(mask, where)), mask) <= 1


def test_lifts_and_switches(fixture):
    assert isinstance(sam_med2d.load(checkpoint=str(fixture.folder), lift="orthogonal"), Orthogonal)
    model = sam_med2d.load(checkpoint=str(fixture.folder), lift="propagate", multimask=False, carry=False)
    assert isinstance(model, Propagate) and not model.frame.carries and model.net.sam.candidates == "one"
    best = sam_med2d.load(checkpoint=str(fixture.folder), lift="propagate", carry=False, hold="image")
    assert best.encoder == model.encoder and best.digest != model.digest
    where = probes.grid("LPS", spacing_mm=(6.0, 6.0, 20.0))
    volume, mask = probes.scene(where)
    state = model.encode(volume, store=FeatureStore())
    found = model.segment(state, [Ask(probes.boxed(mask, where))])[0]
    assert found.carry is None and found.logits.shape[0] == 1


def test_a_file_without_adapters_makes_a_net_without(fixture, tmp_path):
    content = torch.load(fixture.checkpoint, weights_only=True)["model"]
    torch.save({"model": {k: v for k, v in content.items() if ".Adapter." not in k}}, tmp_path / "checkpoint.pth")
    (tmp_path / "config.json").write_text((fixture.folder / "config.json").read_text())
    model = sam_med2d.load(checkpoint=str(tmp_path))
    assert not [key for key in model.net.state_dict() if ".adapter." in key]


def test_a_file_that_is_not_complete_is_refused(fixture, tmp_path):
    content = torch.load(fixture.checkpoint, weights_only=True)["model"]
    torch.save({"model": dict(list(content.items())[:-1])}, tmp_path / "checkpoint.pth")
    with pytest.raises(WeightsError, match="1 missing"):
        sam_med2d.load(checkpoint=str(tmp_path))


def test_the_published_keys_and_back(fixture, parity_dir):
    tensors = torch.load(fixture.checkpoint, weights_only=True)["model"]
    back = nets.published(nets.named(tensors))
    assert set(back) == set(tensors) and all(torch.equal(back[key], tensors[key]) for key in tensors)
    keys = parity_dir / "keys" / "sam_med2d_vit_b.json"
    if not keys.exists():
        pytest.skip("no list of the published keys")
    listed = {key: tuple(shape) for key, shape in json.loads(keys.read_text())["tensors"].items()}
    (size,) = sam_med2d.published()
    ours = {key: tuple(value.shape) for key, value in nets.published(size.net.state_dict()).items()}
    assert ours == listed
    with torch.device("meta"):
        built = nets.net_of(listed, {})
    assert {key: tuple(value.shape) for key, value in nets.published(built.state_dict()).items()} == listed


def test_its_work_is_counted():
    (size,) = sam_med2d.published()
    counts = {stage: flops.counted(call) for stage, call in size.stages.items()}
    assert counts["encoder"] > counts["decoder"] > 0


@pytest.mark.slow
def test_every_tensor_moves_an_answer(fixture):
    """The gradient of what is answered to a point and to a box, with a mask prompt and without."""
    model = sam_med2d.load(checkpoint=str(fixture.folder))
    net = model.net
    image = torch.from_numpy(fixture.io["out.model_input"])[:, :, None]
    side = image.shape[-1] // 4
    points, boxes = torch.tensor([[[0, 9.0, 20.0], [0, 30.0, 31.0]]]), torch.tensor([[[0, 5.0, 7.0], [0, 40.0, 33.0]]])
    query = torch.zeros(1, dtype=torch.int64)
    low_res = torch.linspace(0, 1, side * side).view(1, 1, side, side)
    asked = [
        Marks(query, points=points, signs=torch.tensor([[1.0, 0.0]])),
        Marks(query, points=points, signs=torch.tensor([[1.0, 0.0]]), low_res=low_res),
        Marks(query, boxes=boxes),
    ]
    features = net.encode(image)
    total = torch.zeros(())
    for candidates in ("one", "three"):
        net.sam.candidates = candidates
        for marks in asked:
            found = net.sam.decode(features, marks)
            assert found.low_res is not None and found.quality is not None
            total = total + (found.low_res.sin() * 3).sum() + found.quality.square().sum()
    total.backward()
    still = [
        key
        for key, value in net.named_parameters()
        if value.grad is None or not (value.grad.abs() > 1e-7 * value.abs().max()).any()
    ]
    published = nets.published({key: torch.zeros(0) for key in still})
    assert [key for key in published if not any(re.search(p, key) for p in parity_of.UNUSED)] == []
