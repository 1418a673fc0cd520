"""Medical SAM 2's own rules: lifts, frame, threshold, memories, rounds; geometry by probe; keys, cost, tensors."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

import probes
from parity import medical_sam2 as official
from parity.sam2 import film
from sam_makers import fixture_of
from segwise import catalog
from segwise.errors import PromptError, SpecError, WeightsError
from segwise.geometry import Channel, Grid, Volume
from segwise.lifts.memory import Memory
from segwise.lifts.orthogonal import Orthogonal
from segwise.lifts.propagate import Propagate
from segwise.lifts.slices import Slices
from segwise.lifts.sorted_memory import SortedMemory
from segwise.models import medical_sam2
from segwise.models.medical_sam2 import MedicalFrame
from segwise.nets.contract import Decoded, Marks, SortableNet
from segwise.nets.flops import counted, parameters
from segwise.nets.sam2_sizes import sam2_of
from segwise.prompt import Box, MaskMark, Points, Prompt
from segwise.segmenter import Ask, Parts
from segwise.spec import parse
from segwise.store import FeatureStore

PLANES = ("axial", "coronal", "sagittal")
LIFTS = {"sorted-memory": SortedMemory, "slices": Slices, "propagate": Propagate, "orthogonal": Orthogonal}


class SortableProbe(SortableNet):
    """The probe of images and prompts; a slice without marks shows what was drawn on the first recalled one."""

    reach = 1

    def __init__(self, show: str) -> None:
        super().__init__()
        self.probe = probes.Probe(show)

    def encode(self, image):
        return {"image": image}

    def decode(self, features, marks):
        if marks.boxes is None and marks.points is None and self.probe.show == "prompt":
            return Decoded(features["recalled"])
        return Decoded(10 * self.probe.decode(features["image"], marks).logits)  # far from the threshold of 0.5

    def remember(self, features, decoded, *, prompted):
        return {"drawn": decoded.logits}

    def recall(self, features, memories, offsets, *, prompted, n_slices):
        return {**features, "recalled": memories[0]["drawn"]}

    def likeness(self, features, memories):
        return torch.zeros(len(memories))

    def closeness(self, memories):
        return torch.eye(len(memories))


def lps(shape):
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = 3, -0.9, -1.2, 1
    return Grid(shape, affine)


def clicks(where, places, positive):
    return Points(where.mm(np.array(places, dtype=float)), np.array(positive))


@pytest.fixture(scope="module")
def fixture(parity_dir):
    return fixture_of(parity_dir, "medical_sam2")


@pytest.fixture(scope="module")
def volume():
    image = np.random.default_rng(5).normal(40, 60, (4, 45, 60)).astype(np.float32)
    image[1:3, 10:30, 20:45] += 150
    image.setflags(write=False)
    return Volume.of(image[None], lps(image.shape), (Channel("CT"),))


@pytest.fixture(scope="module")
def model(fixture):
    return medical_sam2.load(checkpoint=str(fixture.folder))


def click(volume, place=1):
    return Prompt((clicks(volume.grid, [(place, 20, 30)], [True]),))


# What it is


def test_the_card_is_read_from_the_source():
    member = catalog.member("models", "medical-sam2")
    assert member.arguments(parse("medical-sam2"))["draw"] == "top-k"
    assert member.arguments(parse("medical-sam2(lift=memory,every=2)"))["every"] == 2
    with pytest.raises(SpecError):
        member.arguments(parse("medical-sam2(draw=random)"))
    assert {file.file for file in member.card.weights} == {"MedSAM2_pretrain.pth"}


def test_missing_or_other_weights_say_what_to_type(monkeypatch, tmp_path):
    monkeypatch.setenv("SEGWISE_WEIGHTS_DIR", str(tmp_path))
    with pytest.raises(WeightsError, match="segwise weights pull medical-sam2"):
        medical_sam2.load()
    torch.save({"model": {"weight": torch.zeros(3)}}, tmp_path / "checkpoint.pth")
    with pytest.raises(WeightsError, match="not Medical SAM 2's"):
        medical_sam2.load(checkpoint=str(tmp_path))


@pytest.mark.parametrize("lift", LIFTS)
def test_every_lift_is_made_and_answers(fixture, volume, lift):
    model = medical_sam2.load(checkpoint=str(fixture.folder), lift=lift)
    assert isinstance(model, LIFTS[lift])
    prompt = Prompt((Box.of(volume.grid, (1, 5, 6), (3, 15, 20)),))
    (found,) = model.segment(model.encode(volume, store=FeatureStore()), [Ask(prompt)])
    assert np.isfinite(found.logits).all() and model.parts.weights.startswith("unknown:")


@pytest.fixture
def divisible(fixture, tmp_path):
    """The fixture's checkpoint with memories whose width divides a pointer's, as in every published size."""
    held = torch.load(fixture.checkpoint, weights_only=True)
    tensors, config = dict(held["model"]), fixture.config
    width, keys = tensors["no_obj_ptr"].shape[1], tensors["maskmem_tpos_enc"].shape[-1]
    wanted = width // 2
    for key in tensors:
        if key == "maskmem_tpos_enc" or re.search(r"cross_attn_image\.[kv]_proj\.weight$", key):
            tensors[key] = tensors[key].repeat_interleave(2, dim=-1)[..., :wanted].clone()
        elif key.startswith("memory_encoder.out_proj."):
            tensors[key] = tensors[key].repeat_interleave(2, dim=0)[:wanted].clone()
    assert wanted <= 2 * keys
    torch.save({"model": tensors}, tmp_path / "checkpoint.pth")
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_its_3d_mode_is_the_video_predictor_and_prompts_every_second_slice(divisible, volume):
    model = medical_sam2.load(checkpoint=str(divisible), lift="memory", every=2)
    assert isinstance(model, Memory) and model.frame.resizing == "video"
    assert model.parts.net.video and not model.parts.net.rules.signed_pointers
    state = model.encode(volume, store=FeatureStore())
    ask = Ask(Prompt((Box.of(volume.grid, (0, 5, 6), (4, 15, 20)),)))
    (track,) = model.tracks(state, ask)
    assert sorted(track.marks) == [0, 2] and (track.low, track.high) == (0, 4)
    (found,) = model.segment(state, [ask])
    assert np.isfinite(found.logits).all()
    assert model.rebuilt(model.parts).digest == model.digest
    with pytest.raises(SpecError, match="every"):
        medical_sam2.load(checkpoint=str(divisible), lift="memory", every=-1)


def test_pointers_that_cannot_be_cut_are_refused(fixture):
    tensors = torch.load(fixture.checkpoint, weights_only=True)["model"]
    if tensors["no_obj_ptr"].shape[1] % tensors["maskmem_tpos_enc"].shape[-1]:
        with pytest.raises(WeightsError, match="does not divide"):
            medical_sam2.load(checkpoint=str(fixture.folder), lift="memory")


# Its frame


def test_a_view_is_in_0_to_1_without_mean_and_deviation(volume):
    frame = MedicalFrame(size=64)
    prepared = frame.prepare(volume)
    view = frame.view(prepared, frame.window(prepared.grid, (1, 0, 0)))
    assert view.shape == (3, 1, 64, 64) and view.min() >= 0 and 0.9 < view.max() <= 1
    assert np.array_equal(view[0], view[2])


def test_the_threshold_of_the_logit_becomes_0():
    where = lps((1, 16, 24))
    logits = np.array([0.4, 0.6], dtype=np.float32).reshape(1, 1, 1, 1, 2)
    found = MedicalFrame(size=64).restore(logits, where)
    assert found.shape == (1, 1, 1, 16, 24) and not (found[..., :12] > 0).any() and (found[..., 12:] > 0).all()
    assert (MedicalFrame(size=64, threshold=0.0).restore(logits, where) > 0).all()
    smooth = MedicalFrame(size=64, smooth=True).restore(logits, where)
    assert len(np.unique(found)) == 2 < len(np.unique(smooth))


# Its net


@torch.no_grad()
def test_an_empty_bank_adds_nothing_and_silence_has_no_token(model, volume):
    net = model.parts.net
    state = model.encode(volume, store=FeatureStore())
    (features,) = model.features(state, [1])
    found = net.decode(features, Marks(torch.zeros(1, dtype=torch.int64)))
    silent = torch.zeros(1, 0, features["map"].shape[1])
    dense = net.sam2.sam_prompt_encoder.dense(None, 1)
    seen = {**features, "recalled": features["map"]}
    assert torch.equal(found.logits, net.sam2.answer(seen, silent, dense, three=False).logits)
    assert torch.equal(net.recall(features, [], [], prompted=[], n_slices=4)["map"], features["map"])
    padded = net.sam2.decode(seen, Marks(torch.zeros(1, dtype=torch.int64)))
    assert not torch.allclose(found.logits, padded.logits)


@torch.no_grad()
def test_memories_know_no_time_and_are_made_of_what_was_recalled(model, volume):
    net = model.parts.net
    state = model.encode(volume, store=FeatureStore())
    first, second = model.features(state, [1, 2])
    kept = net.remember(first, net.decode(first, Marks(torch.zeros(1, dtype=torch.int64))), prompted=True)
    assert kept["map"].dtype == torch.bfloat16 and torch.equal(kept["image"], first["map"].flatten(1))
    near = net.recall(second, [kept], [1], prompted=[True], n_slices=4)
    far = net.recall(second, [kept], [-3], prompted=[False], n_slices=9)
    assert torch.equal(near["recalled"], far["recalled"]) and not torch.equal(near["recalled"], second["map"])
    decoded = net.decode(near, Marks(torch.zeros(1, dtype=torch.int64)))
    again = net.remember(near, decoded, prompted=False)
    assert torch.equal(again["image"], near["recalled"].flatten(1))


@torch.no_grad()
def test_like_places_are_compared_only_if_asked_to(fixture, model, volume):
    aligned = medical_sam2.load(checkpoint=str(fixture.folder), aligned=True).parts.net
    state = model.encode(volume, store=FeatureStore())
    (features,) = model.features(state, [1])
    kept = {"image": features["map"].flatten(1)}
    assert aligned.likeness(features, [kept]).item() == pytest.approx(1)
    assert model.parts.net.likeness(features, [kept]).item() < 0.9


# Its answers


def test_one_click_is_carried_through_unordered_images(fixture, model):
    """Images of a set, in any order: slices of a prepared volume of three channels."""
    images = film(fixture.io["in.images"][:5])
    (track,) = model.tracks(state := model.encode(click_on(images), store=FeatureStore()), Ask(click(images)))
    assert track.order == [1, 2, 3, 4, 0]
    assert len(list(model.steps(state, track, model._drawing(0, 0)))) == 5


def click_on(images):
    """Grey levels of a film."""
    return Volume.of(images.array[:1].astype(np.float32), images.grid, (Channel("CT"),))


@pytest.mark.parametrize("draw", ["top-k", "seeded"])
def test_answers_are_pure_and_do_not_depend_on_company(fixture, volume, draw):
    model = medical_sam2.load(checkpoint=str(fixture.folder), draw=draw)
    box = Prompt((Box.of(volume.grid, (1, 5, 6), (2, 15, 20)),))
    state = model.encode(volume, store=FeatureStore())
    alone = [model.segment(state, [Ask(prompt, seed=3)])[0].logits for prompt in (box, click(volume), box)]
    assert np.array_equal(alone[0], alone[2])
    both = model.segment(state, [Ask(box, seed=3), Ask(click(volume), seed=3)])
    for found, expected in zip(both, alone, strict=False):
        assert np.array_equal(found.logits, expected)


def test_a_round_goes_on_with_the_bank_and_undo_forgets_it(model, volume):
    state = model.encode(volume, store=FeatureStore())
    (first,) = model.segment(state, [Ask(click(volume))])
    more = click(volume).also(clicks(volume.grid, [(1, 3, 20)], [False]))
    (second,) = model.segment(state, [Ask(more, first)])
    (unhelped,) = model.segment(state, [Ask(more)])
    (undone,) = model.segment(state, [Ask(click(volume))])
    assert not np.array_equal(second.logits, unhelped.logits)
    assert np.array_equal(first.logits, undone.logits)


def test_a_mask_prompts_its_slice(model, volume):
    values = np.zeros(volume.grid.shape, dtype=bool)
    values[2, 5:30, 8:40] = True
    mask = Prompt((MaskMark(Volume.of(values[None], volume.grid)),))
    (found,) = model.segment(model.encode(volume, store=FeatureStore()), [Ask(mask)])
    assert (found.mask(volume.grid)[2] != values[2]).mean() < 0.03


def test_prompts_that_say_nothing_are_refused(model, volume):
    state = model.encode(volume, store=FeatureStore())
    with pytest.raises(PromptError):
        model.segment(state, [Ask(Prompt((Points(np.array([[900.0, 0, 0]]), np.array([True])),)))])


# Geometry, by probe


def shown(plane, show, volume, prompt, **settings):
    model = SortedMemory(Parts(SortableProbe(show), MedicalFrame(size=128, plane=plane), None, "probe"), **settings)
    state = model.encode(volume, store=FeatureStore())
    return np.asarray(model.segment(state, [Ask(prompt)])[0].mask(volume.grid))


@pytest.mark.parametrize("show", ["image", "prompt"])
@pytest.mark.parametrize("axes", probes.orientations())
def test_every_orientation(axes, show):
    where = probes.grid(axes)
    volume, mask = probes.scene(where)
    number = probes.orientations().index(axes)
    settings = {"every": 5 * (number % 2), "order": ("file", "outward")[number // 2 % 2]}
    found = shown(PLANES[(number + len(show)) % 3], show, volume, probes.boxed(mask, where), **settings)
    assert probes.off_voxels(found, mask) <= 1


@pytest.mark.parametrize("show", ["image", "prompt"])
@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize(("spacing", "slant"), [((0.9, 1.1, 5.0), 0.0), ((2.0, 2.5, 4.0), 12.0)])
def test_other_spacings_and_slants(plane, show, spacing, slant):
    where = probes.grid("LPS", spacing_mm=spacing, slant=slant)
    volume, mask = probes.scene(where, slant=slant)
    assert probes.off_voxels(shown(plane, show, volume, probes.boxed(mask, where)), mask) <= 1


# Sizes, cost, tensors


@pytest.mark.parametrize(("size", "name"), [("small", "medical_sam2_hiera_s"), ("tiny", "medical_sam2_hiera_t")])
def test_official_files_fit(size, name, parity_dir):
    path = parity_dir / "keys" / f"{name}.json"
    if not path.exists():
        pytest.skip(f"no list of keys of {name}")
    keys = {key: tuple(shape) for key, shape in json.loads(path.read_text())["tensors"].items()}
    with torch.device("meta"):
        (one,) = [one for one in medical_sam2.published() if one.label == f"size={size}"]
        assert {key: tuple(value.shape) for key, value in one.net.sam2.state_dict().items()} == keys
        assert {key: tuple(value.shape) for key, value in sam2_of(keys, {}).state_dict().items()} == keys


def test_the_cost_of_every_stage_is_counted():
    small, tiny = medical_sam2.published()
    found = {name: counted(call) for name, call in tiny.stages.items()}
    assert set(found) == {"encoder", "decoder", "memory"} and min(found.values()) > 1e8
    assert round(parameters(small.net) / 1e6, 1) == medical_sam2.CARD.parameters_m


@pytest.mark.slow
def test_every_tensor_of_the_checkpoint_matters(fixture):
    """The gradient of answers, with marks and without, before and after a recall, reaches all tensors but listed."""
    net = medical_sam2.load(checkpoint=str(fixture.folder)).parts.net
    for tensor in net.sam2.state_dict(keep_vars=True).values():
        tensor.requires_grad_(True)
    side = net.sam2.sam_prompt_encoder.size[0]
    image = torch.rand(2, 3, 1, side, side, generator=torch.Generator().manual_seed(2))
    seen = net.encode(image)
    first, second = ({key: value[i : i + 1] for key, value in seen.items()} for i in (0, 1))
    points = torch.tensor([[[0.0, 50, 60], [0, 5, 5]]])
    both = Marks(torch.zeros(1, dtype=torch.int64), points=points, signs=torch.tensor([[1.0, 0.0]]))
    box = Marks(torch.zeros(1, dtype=torch.int64), boxes=torch.tensor([[[0.0, 20, 30], [0, 90, 120]]]))
    low = Marks(torch.zeros(1, dtype=torch.int64), points=points[:, :1], signs=torch.ones(1, 1))
    given = torch.randn(1, 1, side // 4, side // 4, generator=torch.Generator().manual_seed(3))
    asked = [both, box, Marks(low.image, low.points, low.signs, low_res=given)]
    total = torch.zeros(())
    for threshold in (0.0, 2.0):  # the one mask, and the best of three
        net.sam2.rules = replace(net.sam2.rules, stability_threshold=threshold)
        for marks in asked:
            decoded = net.decode(first, marks)
            seen = net.recall(second, [net.remember(first, decoded, prompted=True)], [0], prompted=[True], n_slices=2)
            silent = net.decode(seen, Marks(torch.zeros(1, dtype=torch.int64)))
            kept = net.remember(seen, silent, prompted=False)
            for part in (decoded.logits, decoded.quality, decoded.presence, silent.logits, silent.quality, kept["map"]):
                total = total + spread(part)
    total.backward()
    still = [
        key
        for key, tensor in net.sam2.state_dict(keep_vars=True).items()
        if (tensor.grad is None or not tensor.grad.abs().max() > 0)
        and not any(re.search(pattern, key) for pattern in official.UNUSED)
    ]
    assert not still


def spread(x):
    return (x.float() * torch.linspace(-1, 2, x.numel()).view(x.shape)).sum() / x.numel()
