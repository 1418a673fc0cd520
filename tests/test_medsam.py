"""MedSAM's own rules: its square view, boxes, the sigmoid before the resize; geometry by probe; no tensor dropped."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from skimage.transform import resize
from torch.nn import functional as F

import probes
from parity import medsam as official
from parity.harness import Fixture
from parity.sam import picture, places
from segwise import catalog
from segwise.errors import PromptError, SpecError, WeightsError
from segwise.geometry import Channel, Grid, Volume
from segwise.lifts.slices import Slices
from segwise.models import medsam
from segwise.models.medsam import MedSamFrame
from segwise.nets.flops import counted
from segwise.prompt import Box, Points, Prompt
from segwise.segmenter import Ask, Parts
from segwise.spec import parse
from segwise.store import FeatureStore

PLANES = ("axial", "coronal", "sagittal")


def lps(shape):
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = 3, -0.9, -1.2, 1
    return Grid(shape, affine)


def small(**changes) -> MedSamFrame:
    return MedSamFrame(size=128, **changes)


@pytest.fixture(scope="module")
def fixture(parity_dir):
    if not (parity_dir / "medsam" / "io.npz").exists():
        pytest.skip("no parity fixture of medsam")
    return Fixture(parity_dir / "medsam")


def test_the_card_is_read_from_the_source():
    member = catalog.member("models", "medsam")
    assert member.card.takes == ("box",)
    assert member.arguments(parse("medsam(lift=propagate)"))["lift"] == "propagate"
    with pytest.raises(SpecError):
        member.arguments(parse("medsam(lift=memory)"))


def test_missing_weights_say_what_to_type(monkeypatch, tmp_path):
    monkeypatch.setenv("SEGWISE_WEIGHTS_DIR", str(tmp_path))
    with pytest.raises(WeightsError, match="segwise weights pull medsam"):
        medsam.load()


def test_a_training_checkpoint_is_unwrapped(fixture, tmp_path):
    tensors = torch.load(fixture.checkpoint, weights_only=True)
    torch.save({"model": tensors, "optimizer": {"state": {}}, "epoch": 3}, tmp_path / "checkpoint.pth")
    (tmp_path / "config.json").write_text(json.dumps(fixture.config))
    own, wrapped = medsam.load(checkpoint=str(fixture.folder)), medsam.load(checkpoint=str(tmp_path))
    assert own.encoder == wrapped.encoder


def test_the_view_is_a_square_of_0_to_1_whatever_the_slice():
    frame = small()
    image = np.random.default_rng(1).normal(0, 90, (3, 40, 90)).astype(np.float32)
    prepared = frame.prepare(Volume.of(image, lps(image.shape), (Channel("CT"),)))
    view = frame.view(prepared, frame.window(prepared.grid, (1, 0, 0)))
    assert view.shape == (3, 1, 128, 128)
    assert (view.min(), view.max()) == (0, 1)
    flat = frame.prepare(Volume.of(np.full((3, 40, 90), 5.0, np.float32), lps(image.shape), (Channel("CT"),)))
    assert not frame.view(flat, frame.window(flat.grid, (1, 0, 0))).any()


def test_boxes_are_inclusive_and_stretched_with_the_slice():
    where, frame = lps((5, 64, 256)), small()
    prompt = Prompt((Box.of(where, (1, 8, 16), (3, 33, 129)), Box.of(where, (1, 0, 0), (2, 64, 256))))
    found = [frame.marks(prompt, frame.window(where, (place, 0, 0)), None).boxes.tolist() for place in range(4)]
    assert found == [[], [[[0, 16, 8], [0, 64, 64]], [[0, 0, 0], [0, 126, 127.5]]], [[[0, 16, 8], [0, 64, 64]]], []]


def test_a_mark_in_mm_is_the_official_box(fixture):
    model = medsam.load(checkpoint=str(fixture.folder))
    window = picture(np.repeat(fixture.io["in.gray"][..., None], 3, axis=-1)).grid
    corners = places(fixture.io["in.box"].reshape(2, 2)).astype(int)
    box = Box.of(window, corners[0].tolist(), (corners[1] + 1).tolist())
    found = model.frame.marks(Prompt((box,)), window, None).boxes[..., 1:].flip(-1).flatten(1)
    assert np.allclose(found, fixture.io["out.gray_box_model"], atol=1e-4)


def test_the_sigmoid_comes_before_the_resize():
    logits = np.array([[[[[-9.0, 1.0], [-9.0, 1.0]]]]], dtype=np.float32)
    found = small().restore(logits, lps((1, 2, 8)))[0, 0, 0]
    share = F.interpolate(torch.from_numpy(logits[:, 0]).sigmoid(), (2, 8), mode="bilinear")[0, 0].numpy()
    assert np.array_equal(found > 0, share > 0.5)
    late = F.interpolate(torch.from_numpy(logits[:, 0]), (2, 8), mode="bilinear")[0, 0].numpy()
    assert (found > 0).sum() != (late > 0).sum()  # thresholding resized logits is another mask
    assert np.allclose(1 / (1 + np.exp(-found.astype(float))), share, atol=1e-6)


def test_sure_answers_stay_finite():
    found = small().restore(np.array([[[[[-500.0, 500.0]]]]], dtype=np.float32), lps((1, 3, 4)))
    assert np.isfinite(found).all() and found.dtype == np.float32


def test_the_next_box_is_the_masks_with_a_margin():
    where, frame = lps((5, 64, 256)), small(margin=4)
    mask = np.zeros((1, 64, 256), dtype=bool)
    mask[0, 10:21, 100:] = True
    assert frame.follow(mask, frame.window(where, (2, 0, 0))).boxes.tolist() == [[[0, 16, 46], [0, 44, 127]]]
    assert len(frame.follow(np.zeros_like(mask), frame.window(where, (2, 0, 0))).image) == 0


def test_points_are_not_taken_and_answers_are_pure(fixture):
    image = np.random.default_rng(5).normal(40, 60, (3, 45, 60)).astype(np.float32)
    image.setflags(write=False)
    volume = Volume.of(image, lps(image.shape), (Channel("CT"),))
    model = medsam.load(checkpoint=str(fixture.folder))
    state = model.encode(volume, store=FeatureStore())
    with pytest.raises(PromptError):
        model.segment(state, [Ask(Prompt((Points(volume.grid.mm([[1, 20, 20]]), np.array([True])),)))])
    a, b = (Ask(Prompt((Box.of(volume.grid, (i, 5, 9 * i), (i + 2, 30, 40)),))) for i in (0, 1))
    alone = [model.segment(state, [ask])[0].logits for ask in (a, b, a)]
    assert np.array_equal(alone[0], alone[2])
    for found, expected in zip(model.segment(state, [a, b]), alone, strict=False):
        assert np.array_equal(found.logits, expected)
    for lift in ("propagate", "orthogonal"):
        lifted = medsam.load(checkpoint=str(fixture.folder), lift=lift)
        assert lifted.segment(lifted.encode(volume, store=FeatureStore()), [a])[0].grid.shape[0] >= 2


def probed(plane):
    return Slices(Parts(probes.Probe("image"), MedSamFrame(size=64, plane=plane), None, "probe"))


def turns():
    """Every orientation with image and prompt by turns; the other half (cubic resizing is slow) with the slow tests."""
    for i, axes in enumerate(probes.orientations()):
        shows = ("image", "prompt")
        yield axes, shows[i % 2]
        yield pytest.param(axes, shows[1 - i % 2], marks=pytest.mark.slow)


@pytest.mark.parametrize(("axes", "show"), turns())
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


def test_the_official_file_fits(parity_dir):
    path = parity_dir / "keys" / "medsam_vit_b.json"
    if not path.exists():
        pytest.skip("no list of keys of medsam_vit_b")
    keys = {key: tuple(shape) for key, shape in json.loads(path.read_text())["tensors"].items()}
    (published,) = medsam.published()
    assert {key: tuple(value.shape) for key, value in published.net.state_dict().items()} == keys


def test_the_cost_of_every_stage_is_counted():
    (published,) = medsam.published()
    assert all(counted(call) > 1e9 for call in published.stages.values())


@pytest.mark.slow
def test_every_tensor_of_the_checkpoint_matters(fixture):
    """The gradient of the outputs reaches every tensor, or the list says why not."""
    model = medsam.load(checkpoint=str(fixture.folder))
    net, frame = model.net, model.frame
    prepared = picture(fixture.io["in.rgb"])
    for tensor in net.state_dict(keep_vars=True).values():
        tensor.requires_grad_(True)
    features = net.encode(torch.from_numpy(frame.view(prepared, prepared.grid))[None])
    decoded = net.decode(features, frame.queries(places(fixture.io["in.boxes"].reshape(-1, 2, 2)), prepared.grid))
    total = decoded.quality.sum()
    total = total + (decoded.logits * torch.linspace(-1, 2, decoded.logits.numel()).view(decoded.logits.shape)).sum()
    total.backward()
    dropped = [
        name
        for name, tensor in net.state_dict(keep_vars=True).items()
        if (tensor.grad is None or tensor.grad.abs().max() < 1e-6)
        and not any(re.search(r, name) for r in official.UNUSED)
    ]
    assert dropped == []


@pytest.mark.parametrize("channels", [1, 3])
def test_a_slice_is_resized_to_the_last_bit_of_three_channels(channels):
    image = np.random.default_rng(0).integers(20 * channels, 256, (channels, 64, 96)).astype(np.uint8)
    image[0, :30] = 201  # of one value: the last bit of the splines decides between 200 and 201
    image[-1, 40, 50] = 0  # the range is that of all channels
    colours = np.repeat(image, 3 // channels, axis=0).transpose(1, 2, 0)
    whole = resize(colours, (128, 128), order=3, preserve_range=True, anti_aliasing=True).astype(np.uint8)
    assert np.array_equal(medsam.squared(image, 128), whole.transpose(2, 0, 1))
