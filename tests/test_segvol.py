"""SegVol's own rules: intensities, words, zoom; geometry by probe; full-size keys; cost; no tensor dropped."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import probes
from parity import segvol as official
from parity.harness import Fixture
from segwise import catalog
from segwise.errors import NoSuchStructure, PromptError, SpecError, WeightsError
from segwise.geometry import Channel, Grid, Volume
from segwise.lifts.zoom import Zoom, enlarged, foreground, region_of
from segwise.models import segvol
from segwise.models.segvol import SegVolFrame, normalised
from segwise.nets import segvol as nets
from segwise.nets.clip_text import ClipTokenizer
from segwise.nets.contract import Decoded, PromptNet
from segwise.nets.flops import counted, parameters
from segwise.prompt import Box, Points, Prompt, Text
from segwise.segmenter import Ask, Parts
from segwise.store import FeatureStore

SIZE = (32, 64, 64)


def clicks(where, places, positive=None):
    places = np.array(places, dtype=float)
    return Points(where.mm(places), np.ones(len(places), bool) if positive is None else np.array(positive))


@pytest.fixture(scope="module")
def fixture(parity_dir):
    if not (parity_dir / "segvol" / "io.npz").exists():
        pytest.skip("no parity fixture of segvol")
    return Fixture(parity_dir / "segvol")


@pytest.fixture(scope="module")
def model(fixture):
    return segvol.load(checkpoint=str(fixture.folder))


@pytest.fixture(scope="module")
def volume():
    where = Grid((20, 90, 110), np.array([[0, 0, -2.0, 30], [0, 2.5, 0, -20], [4.0, 0, 0, 7], [0, 0, 0, 1.0]]))
    image = np.random.default_rng(5).normal(30, 40, where.shape).astype(np.float32)
    return Volume.of(image, where, (Channel("CT"),))


@pytest.fixture
def tokenizer(tmp_path):
    """A table of CLIP's make with single letters only."""
    letters = [*"abcdefghijklmnopqrstuvwxyz."]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    return ClipTokenizer(tmp_path)


def answered(model, volume, prompt):
    return model.segment(model.encode(volume, store=FeatureStore()), [Ask(prompt)])[0]


def test_it_is_in_the_catalogue():
    assert catalog.card("models", "segvol").takes == ("points", "box", "text")


def test_sizes_come_from_the_keys(fixture, model):
    assert model.frame.shape == fixture.io["in.volume"].shape
    assert model.parts.weights.startswith("unknown:")


def test_weights_of_another_model_or_patch_are_refused(fixture):
    with pytest.raises(WeightsError, match="not SegVol's"):
        nets.net_of({"image_encoder.norm.weight": (4,)}, {})
    shapes = {key: tuple(value.shape) for key, value in model_tensors(fixture).items()}
    with pytest.raises(WeightsError, match="patch_size"):
        nets.net_of(shapes, {"patch_size": [3, 5, 7]})


def model_tensors(fixture):
    return nets.official(torch.load(fixture.checkpoint, weights_only=True)["model"])


# Its frame


def test_intensities_are_cut_to_percentiles_of_what_is_above_the_mean():
    values = np.array([-1000.0] * 6 + [100.0, 200.0, 300.0, 400.0], dtype=np.float32)
    found = normalised(values)
    low, high = np.percentile([100, 200, 300, 400], (0.05, 99.95))
    assert np.allclose(found, (np.clip(values, low, high) - low) / (high - low), atol=1e-6)
    assert not normalised(np.full(5, 7.0, np.float32)).any()


def test_the_volume_is_cropped_to_what_is_above_zero():
    image = np.zeros((8, 9, 10), np.float32)
    image[2:5, 3:7, 1:9] = np.random.default_rng(1).uniform(50, 90, (3, 4, 8))
    image[2, 3, 1] = image[4, 6, 8] = 100  # corners
    where = Grid(image.shape, np.array([[0, 0, 2.0, 0], [0, 3.0, 0, 0], [5.0, 0, 0, 0], [0, 0, 0, 1]]))
    prepared = SegVolFrame(None).prepare(Volume.of(image, where))
    assert prepared.grid == where.crop((2, 3, 1), (5, 7, 9))
    assert prepared.array.min() == 0 and prepared.array.max() == 1


def test_marks_are_voxels_of_the_resized_volume():
    frame = SegVolFrame(None, size=(4, 8, 8))
    where = Grid((8, 16, 16), np.eye(4))
    boxes = (Box.of(where, (2, 4, 6), (4, 8, 16)), Box.of(where, (4, 2, 6), (6, 8, 10)))
    marks = frame.marks(Prompt((*boxes, clicks(where, [(3, 5, 0)], [False]))), where, None)
    assert marks.boxes.tolist() == [[[1, 1, 3], [2, 3, 7]]]  # around both; the last voxel belongs to it
    assert marks.points.tolist() == [[[1, 2, 0]]]
    assert marks.signs.tolist() == [[0]]
    assert len(frame.marks(Prompt((clicks(where, [(99, 0, 0)]),)), where, None).image) == 0


def test_words_become_the_official_sentence(tokenizer):
    frame = SegVolFrame(tokenizer)
    found = frame.tokens(Prompt((Text("Left Kidney"),)))
    wanted = tokenizer.ids(["A computerized tomography of a left kidney."], length=None)
    assert torch.equal(found["ids"], wanted.ids) and torch.equal(found["mask"], wanted.mask)
    assert torch.equal(frame.tokens(Prompt((Text("liver"), Text("kidney_left"))))["ids"], wanted.ids)
    assert frame.tokens(Prompt()) is None


def test_unknown_words_are_refused_unless_open(tokenizer):
    with pytest.raises(NoSuchStructure, match="near"):
        SegVolFrame(tokenizer).tokens(Prompt((Text("left kidny"),)))
    assert SegVolFrame(tokenizer, open=True).tokens(Prompt((Text("left kidny"),))) is not None


def test_a_checkpoint_without_text_encoder_takes_no_words(model, volume):
    box = Box.of(volume.grid, (3, 3, 3), (9, 9, 9))
    for prompt in (Prompt((Text("liver"),)), Prompt((box, Text("liver")))):
        with pytest.raises(PromptError, match="no text encoder"):
            answered(model, volume, prompt)


# A tiny text encoder


@pytest.fixture(scope="module")
def worded(fixture):
    """The fixture's tensors with a tiny text encoder, in the names of the official file."""
    tensors = dict(torch.load(fixture.checkpoint, weights_only=True)["model"])
    width = tensors["module.mask_decoder.mask_tokens.weight"].shape[1]
    inside = "text_encoder.clip_text_model."
    shapes = {
        f"{inside}embeddings.token_embedding.weight": (56, 16),
        f"{inside}embeddings.position_embedding.weight": (77, 16),
        **{f"{inside}encoder.layers.{i}.mlp.fc1.weight": (32, 16) for i in range(2)},
        "text_encoder.dim_align.weight": (width, 16),
    }
    torch.manual_seed(3)
    for name, tensor in nets.TextEncoder(shapes, heads=8).state_dict().items():
        old = name.replace("clip_text_model.", "clip_text_model.text_model.")
        tensors[f"module.text_encoder.{old}"] = torch.randn_like(tensor) / 4
    tensors["module.text_encoder.clip_text_model.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    return tensors


@pytest.fixture
def speaking(fixture, worded, tokenizer, tmp_path):
    torch.save({"model": worded, "epoch": 1}, tmp_path / "checkpoint.pth")
    (tmp_path / "config.json").write_text(json.dumps(fixture.config))
    return segvol.load(checkpoint=str(tmp_path))  # its tokenizer lies beside it


def test_an_answer_to_words_says_how_sure_it_is(speaking, volume):
    found = answered(speaking, volume, Prompt((Text("liver"),)))
    assert found.presence is not None and 0 <= found.presence <= 1
    assert found.absent == (not (found.logits > 0).any()) or not found.absent
    other = answered(speaking, volume, Prompt((Text("spleen"),)))
    assert other.presence != found.presence
    box = Box.of(volume.grid, (3, 3, 3), (9, 40, 40))
    assert answered(speaking, volume, Prompt((box, Text("liver")))).presence is not None
    assert answered(speaking, volume, Prompt((box,))).presence is None


def test_without_a_tokenizer_boxes_are_taken_and_words_are_not(fixture, worded, volume, tmp_path, monkeypatch):
    monkeypatch.setenv("SEGWISE_WEIGHTS_DIR", str(tmp_path / "none"))
    torch.save({"model": worded}, tmp_path / "checkpoint.pth")
    (tmp_path / "config.json").write_text(json.dumps(fixture.config))
    mute = segvol.load(checkpoint=str(tmp_path), zoom=False)
    with pytest.raises(PromptError, match="tokenizer"):
        answered(mute, volume, Prompt((Text("liver"),)))
    answered(mute, volume, Prompt((Box.of(volume.grid, (3, 3, 3), (9, 40, 40)),)))


# Zoom


def test_the_answer_from_afar_is_enlarged_to_the_nearest():
    small = np.random.default_rng(2).normal(size=(4, 6, 5)).astype(np.float32)
    shape = (7, 6, 13)
    whole = F.interpolate(torch.from_numpy(small)[None, None], shape, mode="nearest")[0, 0].numpy()
    assert np.array_equal(enlarged(small, shape, (0, 0, 0), shape), whole)
    assert np.array_equal(enlarged(small, shape, (1, 2, 3), (5, 99, 9)), whole[1:5, 2:, 3:9])
    low, high = foreground(small - 1.5, shape)
    places = np.argwhere(whole > 1.5)
    assert low == tuple(places.min(axis=0)) and high == tuple(places.max(axis=0) + 1)
    assert foreground(small - 99, shape) is None


def test_the_box_that_is_looked_at_closely_grows_to_a_window():
    low, high = region_of((10, 50, 0), (14, 60, 90), (8, 20, 30), (40, 62, 95))
    assert low.tolist() == [8, 45, 0]  # 4 voxels grow by (8 - 4) // 2 on either side
    assert high.tolist() == [16, 62, 90]


class Recorder(PromptNet):
    """Answers 1 on a box of the whole view, and keeps what it was asked."""

    def __init__(self, low, high):
        super().__init__()
        self.low, self.high, self.asked, self.images = low, high, [], []

    def encode(self, image):
        self.images.append(image)
        return image

    def decode(self, features, marks):
        self.asked.append(marks)
        out = torch.full_like(features, -1.0)
        if len(self.asked) == 1:
            out[(0, 0, *(slice(a, b) for a, b in zip(self.low, self.high, strict=True)))] = 1.0
        return Decoded(out)


def recorded(prompt_of, *, low=(1, 2, 2), high=(3, 6, 6), shape=(8, 16, 16), **settings):
    """What the net is asked on a volume of 8 x 16 x 16 voxels with views of 4 x 8 x 8."""
    where = Grid(shape, np.array([[0, 0, 2.0, 0], [0, 3.0, 0, 0], [5.0, 0, 0, 0], [0, 0, 0, 1]]))
    image = np.random.default_rng(1).uniform(50, 90, shape).astype(np.float32)
    image[0], image[-1], image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1] = [100.0] * 6
    net = Recorder(low, high)
    lift = Zoom(Parts(net, SegVolFrame(None, size=(4, 8, 8)), None, "probe"), **settings)
    found = answered(lift, Volume.of(image, where), prompt_of(where))
    return net, found


def test_a_box_becomes_the_box_of_what_was_found_in_every_window():
    net, found = recorded(lambda where: Prompt((Box.of(where, (2, 3, 3), (5, 12, 12)),)), high=(3, 8, 6))
    assert net.asked[0].boxes.tolist() == [[[1, 1, 1], [1, 5, 5]]]
    windows = net.asked[1:]
    assert len(windows) == 2  # 12 rows in windows of 8
    # found: voxels 2..6, 4..16, 4..12; the region is the same, its windows begin at rows 0 and 4 of 12
    assert [marks.boxes.tolist() for marks in windows] == [[[[0, 0, 0], [3, 7, 7]]]] * 2
    assert found.grid.shape == (4, 12, 8)
    assert (found.logits == -1).all()  # the second look replaced the first


def test_a_box_in_one_window_is_the_prompts_own():
    net, _ = recorded(lambda where: Prompt((Box.of(where, (2, 5, 5), (5, 9, 10)),)))
    (marks,) = net.asked[1:]
    assert marks.boxes.tolist() == [[[0, 1, 1], [2, 4, 5]]]  # the region begins at (2, 4, 4)


def test_points_in_a_window_are_five_and_come_with_a_box():
    net, _ = recorded(lambda where: Prompt((clicks(where, [(3, 6, 7), (0, 0, 0), (4, 9, 9)], [True, True, False]),)))
    (marks,) = net.asked[1:]
    assert marks.signs.tolist() == [[1, -1, -1, -1, -1]]
    assert marks.points[0, 0].tolist() == [1, 2, 3]
    assert marks.boxes.tolist() == [[[0, 0, 0], [3, 7, 7]]]
    net, _ = recorded(lambda where: Prompt((clicks(where, [(0, 0, 0)]),)))
    assert net.asked[1].signs.tolist() == [[-1]]


def test_without_a_finding_or_without_zoom_one_look_is_all():
    prompt_of = lambda where: Prompt((Box.of(where, (2, 3, 3), (5, 12, 12)),))  # noqa: E731
    net, found = recorded(prompt_of, high=(1, 2, 2))
    assert len(net.asked) == 1 and not (found.logits > 0).any()
    net, found = recorded(prompt_of, closely=False)
    assert len(net.asked) == 1
    assert (found.logits > 0).sum() == 4 * 8 * 8


def test_a_region_smaller_than_a_window_is_padded_with_zeros_on_both_sides():
    net, found = recorded(lambda where: Prompt((clicks(where, [(0, 6, 6)]),)), low=(0, 2, 2), high=(1, 6, 6))
    # found: voxels 0..2 of 8 slices; grown by one: 0..3, one slice short of a window
    assert found.grid.shape == (3, 8, 8)
    assert not net.images[1][0, 0, 3].any() and net.images[1][0, 0, 0].any()


def test_the_padding_of_a_small_region_is_forgotten_on_demand():
    def prompt(where):
        return Prompt((clicks(where, [(0, 6, 6)]), Box.of(where, (0, 5, 5), (1, 9, 9))))

    small = {"low": (0, 2, 2), "high": (1, 6, 6), "shape": (3, 16, 16)}  # region: 2 slices, a window has 4
    right, _ = recorded(prompt, **small)
    original, _ = recorded(prompt, **small, padding="forgotten")
    assert (right.asked[1].boxes - original.asked[1].boxes).tolist() == [[[1, 0, 0], [1, 0, 0]]]
    assert (right.asked[1].points - original.asked[1].points)[0, 0].tolist() == [1, 0, 0]
    with pytest.raises(SpecError, match="moved, forgotten"):
        Zoom(Parts(right, SegVolFrame(None), None, "probe"), padding="lost")


def test_answers_are_pure_and_do_not_depend_on_company(model, volume):
    volume.array.setflags(write=False)
    box = Prompt((Box.of(volume.grid, (3, 3, 3), (15, 40, 60)),))
    asks = [Ask(box), Ask(Prompt((clicks(volume.grid, [(10, 50, 50), (3, 4, 5)], [True, False]),)))]
    state = model.encode(volume, store=FeatureStore())
    alone = [model.segment(state, [asks[i]])[0] for i in (0, 1, 0)]
    assert np.array_equal(alone[0].logits, alone[2].logits)
    for found, expected in zip(model.segment(state, asks), alone, strict=False):
        assert np.array_equal(found.logits, expected.logits) and found.grid == expected.grid


def test_a_prompt_outside_the_volume_is_refused(model, volume):
    with pytest.raises(PromptError):
        answered(model, volume, Prompt((Points(np.array([[900.0, 0, 0]]), np.array([True])),)))


# Geometry, by probe


class Fixed(probes.Probe):
    """Shows the image above one half, whatever the window."""

    def decode(self, features, marks):
        return Decoded(features - 0.5) if self.show == "image" else super().decode(features, marks)


def near(show, where, *, closely, slant=0.0):
    _, mask = probes.scene(where, slant=slant)
    height = where.mm(np.argwhere(np.ones(where.shape)))[:, 2].reshape(where.shape)
    ramp = (height - height.min()) / np.ptp(height)
    volume = Volume.of(np.where(mask, 300, 100 * ramp).astype(np.float32), where, (Channel("CT"),))
    lift = Zoom(Parts(Fixed(show), SegVolFrame(None, size=SIZE), None, "probe"), closely=closely)
    found = answered(lift, volume, probes.boxed(mask, where)).mask(where)
    view = np.array(lift.frame.prepare(volume).grid.resized(SIZE).spacing_mm)
    if slant and show == "prompt":
        assert probes.off_centre_voxels(found, mask) <= 1
        return
    assert probes.off_voxels(found, mask) <= max(1.0, view.max() / min(where.spacing_mm))


@pytest.mark.parametrize("show", ["image", "prompt"])
@pytest.mark.parametrize("axes", probes.orientations())
def test_every_orientation(axes, show):
    near(show, probes.grid(axes), closely=len(axes + show) % 2 == 0)


@pytest.mark.parametrize("closely", [False, True])
@pytest.mark.parametrize("show", ["image", "prompt"])
@pytest.mark.parametrize(("spacing", "slant"), [((0.9, 1.1, 5.0), 0.0), ((2.0, 2.5, 4.0), 12.0)])
def test_other_spacings_and_slants(show, spacing, slant, closely):
    near(show, probes.grid("LPS", spacing_mm=spacing, slant=slant), closely=closely, slant=slant)


# The net


def test_the_full_size_keys(parity_dir):
    path = parity_dir / "keys" / "segvol.json"
    if not path.exists():
        pytest.skip("no list of keys of segvol")
    keys = {key: tuple(shape) for key, shape in json.loads(path.read_text())["tensors"].items()}
    own = nets.official(keys)
    left = {key.removeprefix("module.").replace("clip_text_model.text_model.", "clip_text_model.") for key in keys}
    left -= set(own)
    assert all(key.startswith(tuple(nets.UNUSED)) for key in left)
    with torch.device("meta"):
        for net in (nets.net_of(own, {}), segvol.released()):
            assert {key: tuple(value.shape) for key, value in net.state_dict().items()} == own
            assert net.image_encoder.size == segvol.SIZE


def test_the_cost_of_every_stage_is_counted():
    (one,) = segvol.published()
    found = {name: counted(call) for name, call in one.stages.items()}
    assert min(found.values()) > 0 and found["encoder"] > found["decoder"] > found["text"]
    assert round(parameters(one.net) / 1e6, 1) == segvol.CARD.parameters_m


# No tensor is dropped


@pytest.mark.slow
def test_every_tensor_of_the_checkpoint_matters(fixture):
    """The gradient of the answers reaches every tensor, or the list says why not."""
    net = segvol.load(checkpoint=str(fixture.folder)).net
    for tensor in net.state_dict(keep_vars=True).values():
        tensor.requires_grad_(True)
    features = net.encode(torch.from_numpy(official.prepared(fixture).array.copy())[None])
    total = torch.zeros(())
    for case in official.cases(fixture):
        marks = official.marks_of(fixture, case)
        if marks.signs is not None:
            marks.signs[0, 0], marks.signs[0, -1] = 1, 0
        decoded = net.decode(features, marks)
        for output in (decoded.logits, decoded.quality):
            total = total + (output * torch.linspace(-1, 2, output.numel()).view(output.shape)).sum()
    total.backward()
    reached = {n for n, t in net.state_dict(keep_vars=True).items() if t.grad is not None and t.grad.abs().max() > 0}
    every = {key.removeprefix("module.") for key in torch.load(fixture.checkpoint, weights_only=True)["model"]}
    assert [n for n in sorted(every - reached) if not any(re.search(r, n) for r in official.UNUSED)] == []
