"""SAM's own rules: sizes, marks, candidates, rounds; geometry by probe; full-size keys; cost; no tensor dropped."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

import probes
from parity import sam as official
from parity.harness import Fixture
from segwise import catalog
from segwise.errors import PromptError, SpecError, WeightsError
from segwise.geometry import Channel, Grid, Volume
from segwise.lifts.propagate import Propagate
from segwise.lifts.slices import Slices
from segwise.models import sam
from segwise.models.sam import SamFrame, view_size
from segwise.nets import mobile_sam, sam_sizes
from segwise.nets.flops import counted
from segwise.prompt import Box, Points, Prompt
from segwise.segmenter import Ask, Parts
from segwise.spec import parse
from segwise.store import FeatureStore
from segwise.weights import fill
from segwise.weights.tensors import signature_of

PLANES = ("axial", "coronal", "sagittal")


def lps(shape):
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = 3, -0.9, -1.2, 1
    return Grid(shape, affine)


def small(**changes) -> SamFrame:
    return SamFrame(size=256, **changes)


def clicks(where, places, positive):
    return Points(where.mm(np.array(places, dtype=float)), np.array(positive))


@pytest.fixture(scope="module")
def fixture(parity_dir):
    if not (parity_dir / "sam" / "io.npz").exists():
        pytest.skip("no parity fixture of sam")
    return Fixture(parity_dir / "sam")


@pytest.fixture(scope="module")
def model(fixture):
    return sam.load(checkpoint=str(fixture.folder))


@pytest.fixture(scope="module")
def volume():
    image = np.random.default_rng(5).normal(40, 60, (4, 45, 60)).astype(np.float32)
    image[1:3, 10:30, 20:45] += 150
    image.setflags(write=False)
    return Volume.of(image, lps(image.shape), (Channel("CT"),))


# What it is


def test_the_card_is_read_from_the_source():
    member = catalog.member("models", "sam")
    assert member.card.takes == ("points", "box")
    assert {file.variant for file in member.card.weights} == {"b", "l", "h", "mobile", "nano"}
    assert member.arguments(parse("sam(size=h,lift=propagate)"))["size"] == "h"
    with pytest.raises(SpecError):
        member.arguments(parse("sam(lift=memory)"))
    with pytest.raises(SpecError):
        member.arguments(parse("sam(size=huge)"))


def test_missing_weights_say_what_to_type(monkeypatch, tmp_path):
    monkeypatch.setenv("SEGWISE_WEIGHTS_DIR", str(tmp_path))
    with pytest.raises(WeightsError, match="segwise weights pull sam"):
        sam.load()
    with pytest.raises(WeightsError, match="is not there"):
        sam.load(checkpoint=str(tmp_path / "none.pth"))


def test_another_models_checkpoint_is_refused(tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "checkpoint.pth")
    with pytest.raises(WeightsError, match="not SAM's"):
        sam.load(checkpoint=str(tmp_path))


def test_sizes_come_from_the_keys(fixture, model):
    assert model.frame.shape == (1, *fixture.io["out.model_input"].shape[2:])
    assert model.parts.weights.startswith("unknown:")
    assert isinstance(sam.load(checkpoint=str(fixture.checkpoint), lift="propagate"), Propagate)


# Its frame


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(180, 240, (192, 256)), (240, 180, (256, 192)), (7, 700, (3, 256)), (1, 900, (1, 256))],
)
def test_the_longest_side_fills_the_view(height, width, expected):
    assert view_size(height, width, 256) == expected


def test_padding_is_zero_after_normalising(volume):
    frame = small()
    prepared = frame.prepare(volume)
    view = frame.view(prepared, frame.window(prepared.grid, (1, 0, 0)))
    assert view.shape == (3, 1, 256, 256)
    rows, columns = view_size(45, 60, 256)
    assert not view[:, :, rows:].any() and columns == 256
    assert np.allclose(view[:, 0, 0, 0] * frame.std + frame.mean, (view[0, 0, 0, 0] * frame.std[0] + frame.mean[0]))


def test_a_mark_becomes_a_query(fixture, model):
    """Points and a box said in mm are the official pixels."""
    io = fixture.io
    window = official.picture(io["in.image"]).grid
    found = model.frame.marks(
        Prompt((clicks(window, official.places(io["in.B_points"]), io["in.B_labels"] == 1),)), window, None
    )
    expected = official.marks_of(fixture, "B", model.frame, window)
    assert torch.equal(found.points, expected.points) and torch.equal(found.signs, expected.signs)
    corners = official.places(np.round(io["in.D_box"]).reshape(2, 2)).astype(int)
    box = Box.of(window, corners[0].tolist(), (corners[1] + 1).tolist())
    found = model.frame.marks(Prompt((box,)), window, None)
    assert torch.equal(
        found.boxes, model.frame.queries(np.empty((0, 3)), np.empty(0, dtype=bool), corners[None], window).boxes
    )


def test_points_go_with_every_box_of_their_slice_and_nowhere_else():
    where, frame = lps((5, 60, 80)), small()
    prompt = Prompt(
        (
            Box.of(where, (1, 5, 5), (3, 20, 20)),
            Box.of(where, (1, 30, 30), (2, 50, 60)),
            clicks(where, [(1, 10, 10), (1, 40, 70), (3, 7, 7)], [True, False, True]),
        )
    )
    shapes = []
    for place in range(5):
        marks = frame.marks(prompt, frame.window(where, (place, 0, 0)), None)
        shapes.append((len(marks.image), None if marks.points is None else marks.points.shape[1], marks.boxes is None))
    assert shapes == [(0, None, True), (2, 2, False), (1, None, False), (1, 1, True), (0, None, True)]


def test_a_slice_of_negative_points_is_asked_only_after_a_round():
    where, frame = lps((5, 60, 80)), small()
    prompt = Prompt((clicks(where, [(1, 10, 10)], [False]),))
    window = frame.window(where, (1, 0, 0))
    assert len(frame.marks(prompt, window, None).image) == 0
    assert len(frame.marks(prompt, window, np.zeros((1, 64, 64), dtype=np.float32)).image) == 1


def test_the_next_box_is_the_masks_with_a_margin():
    where, frame = lps((5, 128, 256)), small()
    window = frame.window(where, (2, 0, 0))
    mask = np.zeros((1, 128, 256), dtype=bool)
    mask[0, 20:40, 5:250] = True
    assert frame.follow(mask, window).boxes.tolist() == [[[0, 8, 0], [0, 51, 255]]]
    assert small(margin=0).follow(mask, window).boxes.tolist() == [[[0, 20, 5], [0, 39, 249]]]
    assert len(frame.follow(np.zeros_like(mask), window).image) == 0


# Its answers


def answered(model, volume, *prompts, previous=None):
    state = model.encode(volume, store=FeatureStore())
    return model.segment(state, [Ask(prompt, previous) for prompt in prompts])


def test_a_box_has_one_candidate_and_a_lone_point_its_best_of_three(fixture, model, volume):
    where = volume.grid
    point = Prompt((clicks(where, [(1, 20, 30)], [True]),))
    three = sam.load(checkpoint=str(fixture.folder), candidates="three")
    (best,), (all_three,) = answered(model, volume, point), answered(three, volume, point)
    assert (len(best.logits), len(all_three.logits)) == (1, 3)
    assert np.array_equal(best.mask(where), all_three.mask(where))
    box = Prompt((Box.of(where, (1, 10, 20), (2, 30, 45)),))
    one = sam.load(checkpoint=str(fixture.folder), candidates="one")
    assert np.allclose(answered(model, volume, box)[0].logits, answered(one, volume, box)[0].logits, atol=1e-5)
    assert np.isfinite(best.quality).all()


def test_the_next_round_takes_the_logits_back(fixture, model, volume):
    where = volume.grid
    first = Prompt((clicks(where, [(1, 20, 30)], [True]),))
    second = first.also(clicks(where, [(1, 5, 5)], [False]))
    (before,) = answered(model, volume, first)
    (after,) = answered(model, volume, second, previous=before)
    (fresh,) = answered(model, volume, second)
    assert not np.array_equal(after.logits, fresh.logits)
    without = sam.load(checkpoint=str(fixture.folder), carry=False)
    (before,) = answered(without, volume, first)
    assert before.carry is None
    (after,) = answered(without, volume, second, previous=before)
    assert np.array_equal(after.logits, fresh.logits)


def test_answers_are_pure_and_do_not_depend_on_company(model, volume):
    where = volume.grid
    a = Prompt((Box.of(where, (0, 10, 20), (3, 30, 45)),))
    b = Prompt((clicks(where, [(1, 20, 30), (2, 9, 9)], [True, True]),))
    state = model.encode(volume, store=FeatureStore())
    alone = [model.segment(state, [Ask(p)])[0].logits for p in (a, b, a)]
    assert np.array_equal(alone[0], alone[2])
    for found, expected in zip(model.segment(state, [Ask(a), Ask(b)]), alone, strict=False):
        assert np.array_equal(found.logits, expected)


def test_a_prompt_outside_the_volume_is_refused(model, volume):
    with pytest.raises(PromptError):
        answered(model, volume, Prompt((Points(np.array([[900.0, 0, 0]]), np.array([True])),)))


@pytest.mark.parametrize("lift", ["propagate", "orthogonal"])
def test_the_other_lifts_answer_a_box_and_take_its_logits_back(fixture, volume, lift):
    lifted = sam.load(checkpoint=str(fixture.folder), lift=lift)
    box = Prompt((Box.of(volume.grid, (0, 14, 24), (4, 20, 30)),))
    (before,) = answered(lifted, volume, box)
    assert before.grid.shape[0] == 4
    more = box.also(clicks(volume.grid, [(2, 17, 27)], [False]))
    (after,), (fresh,) = answered(lifted, volume, more, previous=before), answered(lifted, volume, more)
    assert not np.array_equal(after.mask(volume.grid), fresh.mask(volume.grid))


# Geometry, by probe


def probed(plane):
    return Slices(Parts(probes.Probe("image"), small(plane=plane), None, "probe"))


@pytest.mark.parametrize("show", ["image", "prompt"])
@pytest.mark.parametrize("axes", probes.orientations())
def test_every_orientation(axes, show):
    where = probes.grid(axes)
    volume, mask = probes.scene(where)
    found = probes.answered(probed(PLANES[len(axes + show) % 3]), show, volume, probes.boxed(mask, where))
    assert probes.off_voxels(found, mask) <= 1


@pytest.mark.parametrize("show", ["image", "prompt"])
@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize(("spacing", "slant"), [((0.9, 1.1, 5.0), 0.0), ((2.0, 2.5, 4.0), 12.0)])
def test_other_spacings_and_slants(plane, show, spacing, slant):
    where = probes.grid("LPS", spacing_mm=spacing, slant=slant)
    volume, mask = probes.scene(where, slant=slant)
    found = probes.answered(probed(plane), show, volume, probes.boxed(mask, where))
    assert probes.off_voxels(found, mask) <= 1


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("axes", probes.orientations()[::5])
def test_a_point_in_every_plane(axes, plane):
    where = probes.grid(axes)
    volume, mask = probes.scene(where)
    prompt = probes.pointed(mask, where)
    found = probes.answered(probed(plane), "prompt", volume, prompt)
    point = where.index(prompt.marks[0].xyz_mm)[0]
    assert np.abs(np.argwhere(found).mean(axis=0) - point).max() <= 1


# Full size


def signed(variant):
    return next(file.signature for file in sam.CARD.weights if file.variant == variant)


@pytest.mark.parametrize("size", sorted(sam_sizes.SIZES))
def test_official_files_fit(size, parity_dir):
    path = parity_dir / "keys" / f"sam_vit_{size}.json"
    if not path.exists():
        pytest.skip(f"no list of keys of sam_vit_{size}")
    keys = {key: tuple(shape) for key, shape in json.loads(path.read_text())["tensors"].items()}
    assert signed(size) == signature_of(keys.items())
    with torch.device("meta"):
        for net in (sam.net_of(keys, {}), sam_sizes.sam(size, 1024)):
            assert {key: tuple(value.shape) for key, value in net.state_dict().items()} == keys
            whole = [i for i, block in enumerate(net.image_encoder.blocks) if not block.window]
            assert tuple(whole) == sam_sizes.SIZES[size].whole


def test_a_mobile_sam_is_known_by_its_keys():
    net = mobile_sam.mobile_sam(enlarge=False)
    tensors = net.state_dict()
    head = {f"image_encoder.norm_head.{name}": torch.zeros(320) for name in ("weight", "bias")}
    head |= {"image_encoder.head.weight": torch.zeros(1000, 320), "image_encoder.head.bias": torch.zeros(1000)}
    shapes = {key: tuple(value.shape) for key, value in {**tensors, **head}.items()}
    assert signed("mobile") == signature_of(shapes.items())
    found = sam.net_of(shapes, {})
    fill(found, {**tensors, **head}, what="MobileSAM", unused=mobile_sam.UNUSED)
    image = torch.randn(1, 3, 1, 256, 256)
    with torch.no_grad():
        assert torch.equal(found.eval().encode(image), net.eval().encode(image))


def test_the_cost_of_every_stage_is_counted():
    found = {one.label: {name: counted(call) for name, call in one.stages.items()} for one in sam.published()}
    assert set(found) == {"size=b", "size=l", "size=h", "size=mobile"}
    assert all(min(stages.values()) > 1e9 for stages in found.values())
    assert found["size=mobile"]["encoder"] < found["size=b"]["encoder"] < found["size=l"]["encoder"]


# No tensor is dropped


@pytest.mark.slow
def test_every_tensor_of_the_checkpoint_matters(fixture):
    """The gradient of all cases' outputs reaches every tensor, or the list says why not."""
    net = sam.load(checkpoint=str(fixture.folder), candidates="three").net
    frame = sam.load(checkpoint=str(fixture.folder)).frame
    prepared = official.picture(fixture.io["in.image"])
    for tensor in net.state_dict(keep_vars=True).values():
        tensor.requires_grad_(True)
    features = net.encode(torch.from_numpy(frame.view(prepared, prepared.grid))[None])
    total = torch.zeros(())
    for net.candidates in ("one", "three"):
        for case in "ABCDEF":
            decoded = net.decode(features, official.marks_of(fixture, case, frame, prepared.grid))
            for output in (decoded.logits, decoded.quality):
                total = total + (output * torch.linspace(-1, 2, output.numel()).view(output.shape)).sum()
    total.backward()
    dropped = [
        name
        for name, tensor in net.state_dict(keep_vars=True).items()
        if (tensor.grad is None or tensor.grad.abs().max() < 1e-6)
        and not any(re.search(r, name) for r in official.UNUSED)
    ]
    assert dropped == []
