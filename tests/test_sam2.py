"""SAM 2's and MedSAM2's own rules: spec, frame, marks, masks, rounds; geometry by probe; purity."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import probes
from parity import medsam2 as medical
from parity import sam2 as official
from parity.harness import Fixture
from segwise import catalog
from segwise.errors import PromptError, SpecError, WeightsError
from segwise.geometry import Channel, Grid, Volume
from segwise.lifts.memory import Memory
from segwise.lifts.orthogonal import Orthogonal
from segwise.lifts.propagate import Propagate
from segwise.lifts.slices import Slices
from segwise.lifts.sorted_memory import SortedMemory
from segwise.models import medsam2, sam2
from segwise.models._sam2 import Sam2Frame
from segwise.nets.contract import Decoded, MemoryNet
from segwise.prompt import Box, MaskMark, Points, Prompt
from segwise.segmenter import Ask, Parts
from segwise.spec import parse
from segwise.store import FeatureStore

PLANES = ("axial", "coronal", "sagittal")


class RememberingProbe(MemoryNet):
    """The probe of images and prompts; a slice without marks shows what was drawn on the last prompted one."""

    reach = 1

    def __init__(self, show: str) -> None:
        super().__init__()
        self.probe = probes.Probe(show)

    def encode(self, image):
        return {"image": image}

    def decode(self, features, marks):
        if marks.boxes is None and marks.points is None and self.probe.show == "prompt":
            return Decoded(features["recalled"])
        return self.probe.decode(features["image"], marks)

    def remember(self, features, decoded, *, prompted):
        return decoded.logits

    def recall(self, features, memories, offsets, *, prompted, n_slices):
        return {**features, "recalled": memories[0]}


def lps(shape):
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = 3, -0.9, -1.2, 1
    return Grid(shape, affine)


def small(**changes):
    return Sam2Frame(size=256, **changes)


def clicks(where, places, positive):
    return Points(where.mm(np.array(places, dtype=float)), np.array(positive))


def folder(parity_dir, name):
    if not (parity_dir / name / "io.npz").exists():
        pytest.skip(f"no parity fixture of {name}")
    return Fixture(parity_dir / name)


@pytest.fixture(scope="module")
def fixture(parity_dir):
    return folder(parity_dir, "sam2")


@pytest.fixture(scope="module")
def medicals(parity_dir):
    return folder(parity_dir, "medsam2")


@pytest.fixture(scope="module")
def volume():
    image = np.random.default_rng(5).normal(40, 60, (4, 45, 60)).astype(np.float32)
    image[1:3, 10:30, 20:45] += 150
    image.setflags(write=False)
    return Volume.of(image[None], lps(image.shape), (Channel("CT"),))


def answered(model, volume, *prompts, previous=None):
    state = model.encode(volume, store=FeatureStore())
    return model.segment(state, [Ask(prompt, previous) for prompt in prompts])


# What they are


def test_the_cards_are_read_from_the_source():
    member = catalog.member("models", "sam2")
    assert {file.variant for file in member.card.weights} >= {"tiny-2.1", "large-2.1", "small-2.0"}
    assert member.arguments(parse("sam2(size=large,version=2.0,lift=memory)"))["stop"] == "end"
    with pytest.raises(SpecError):
        member.arguments(parse("sam2(lift=sorted)"))
    assert catalog.member("models", "medsam2").arguments(parse("medsam2"))["fresh"] is True


@pytest.mark.parametrize("name", ["sam", "medsam", "litemedsam"])
def test_models_without_memory_refuse_the_lift(name):
    with pytest.raises(SpecError, match="propagate"):
        catalog.member("models", name).arguments(parse(f"{name}(lift=memory)"))


def test_missing_or_other_weights_say_what_to_type(monkeypatch, tmp_path):
    monkeypatch.setenv("SEGWISE_WEIGHTS_DIR", str(tmp_path))
    with pytest.raises(WeightsError, match="segwise weights pull sam2"):
        sam2.load()
    torch.save({"model": {"weight": torch.zeros(3)}}, tmp_path / "checkpoint.pth")
    with pytest.raises(WeightsError, match="not SAM 2's"):
        sam2.load(checkpoint=str(tmp_path))
    with pytest.raises(WeightsError, match="not MedSAM2's"):
        medsam2.load(checkpoint=str(tmp_path))


def test_every_lift_is_made(fixture):
    made = {
        lift: sam2.load(checkpoint=str(fixture.folder), lift=lift)
        for lift in ("memory", "slices", "propagate", "orthogonal", "sorted-memory")
    }
    assert [type(made[lift]) for lift in made] == [Memory, Slices, Propagate, Orthogonal, SortedMemory]
    assert not made["sorted-memory"].parts.net.tuned
    assert made["memory"].parts.net.video and not made["slices"].parts.net.video
    assert made["memory"].frame.resizing == "video" and made["slices"].frame.resizing == "image"
    assert made["memory"].parts.weights.startswith("unknown:")
    assert made["slices"].frame.shape == (1, *fixture.io["out.model_input"].shape[1:])


# Its frame


def test_image_and_film_are_resized_in_their_own_ways(volume):
    prepared = small().prepare(volume)
    views = [small(resizing=way).view(prepared, small().window(prepared.grid, (1, 0, 0))) for way in ("image", "video")]
    assert views[0].shape == views[1].shape == (3, 1, 256, 256)
    assert 0 < np.abs(views[0] - views[1]).max() < 1
    assert small(resizing="image").digest != small(resizing="video").digest


def test_marks_in_mm_are_the_official_pixels(fixture):
    io, frame = fixture.io, small(resizing="image")
    window = official.picture(io["in.image"]).grid
    found = frame.marks(
        Prompt((clicks(window, official.places(io["in.B_points"]), io["in.B_labels"] == 1),)), window, None
    )
    expected = official.marks_of(fixture, "B", frame, window)
    assert torch.allclose(found.points, expected.points, atol=1e-4) and torch.equal(found.signs, expected.signs)
    box = frame.marks(Prompt((Box.of(window, (0, 20, 30), (1, 90, 120)),)), window, None).boxes
    scale = np.array([256 / window.shape[1], 256 / window.shape[2]])
    assert np.allclose(box[0, :, 1:], [[20, 30] * scale, [89, 119] * scale], atol=1e-4)


def test_a_mask_is_an_answer_alone_and_a_hint_with_clicks():
    where, frame = lps((5, 60, 80)), small()
    values = np.zeros((5, 60, 80), dtype=bool)
    values[2, 20:40, 30:60] = True
    mask = MaskMark(Volume.of(values[None], where))
    window = frame.window(where, (2, 0, 0))
    alone = frame.marks(Prompt((mask,)), window, None)
    assert alone.masks.shape == (1, 1, 256, 256) and 0.9 < alone.masks.mean() / values[2].mean() < 1.1
    assert len(frame.marks(Prompt((mask,)), frame.window(where, (1, 0, 0)), None).image) == 0
    both = frame.marks(Prompt((mask, clicks(where, [(2, 30, 40)], [True]))), window, None)
    assert both.masks is None and both.low_res.shape == (1, 1, 64, 64) and both.low_res.max() == 10
    seen = np.full((1, 64, 64), 3, dtype=np.float32)
    later = frame.marks(Prompt((mask, clicks(where, [(2, 30, 40)], [True]))), window, seen)
    assert (later.low_res == 3).all()


def test_the_next_box_is_the_masks_with_a_margin():
    where, frame = lps((5, 128, 256)), small()
    window = frame.window(where, (2, 0, 0))
    mask = np.zeros((1, 128, 256), dtype=bool)
    mask[0, 20:40, 5:250] = True
    assert frame.follow(mask, window).boxes.tolist() == [[[0, 28, 0], [0, 90, 255]]]
    assert len(frame.follow(np.zeros_like(mask), window).image) == 0


# Their answers


def short(medicals):
    """Four small slices of the fixture's volume, and a box on the second."""
    whole = medical.case(medicals)[0]
    grid = whole.grid.crop((0, 0, 0), (4, 24, 30))
    volume = Volume.of(np.ascontiguousarray(whole.array[:, :4, :24, :30]), grid, whole.channels)
    return volume, Prompt((Box.of(grid, (1, 5, 6), (2, 15, 20)),))


def test_a_given_mask_comes_back_and_is_followed(medicals):
    model = medical.loaded(medicals, largest=False)
    volume, _ = short(medicals)
    values = np.zeros(volume.grid.shape, dtype=bool)
    values[2, 5:20, 8:25] = True
    (found,) = answered(model, volume, Prompt((MaskMark(Volume.of(values[None], volume.grid)),)))
    assert (found.mask(volume.grid)[2] != values[2]).mean() < 0.02


def test_answers_are_pure_and_do_not_depend_on_company(medicals):
    model = medical.loaded(medicals, largest=False)
    volume, box = short(medicals)
    click = Prompt((clicks(volume.grid, [(2, 14, 15)], [True]),))
    state = model.encode(volume, store=FeatureStore())
    alone = [model.segment(state, [Ask(prompt)])[0].logits for prompt in (box, click, box)]
    assert np.array_equal(alone[0], alone[2])
    for found, expected in zip(model.segment(state, [Ask(box), Ask(click)]), alone, strict=False):
        assert np.array_equal(found.logits, expected)


def test_a_round_takes_the_logits_back_and_undo_forgets(medicals):
    model = medical.loaded(medicals, largest=False)
    volume, box = short(medicals)
    more = box.also(clicks(volume.grid, [(1, 3, 20)], [False]))
    state = model.encode(volume, store=FeatureStore())
    (first,) = model.segment(state, [Ask(box)])
    (second,) = model.segment(state, [Ask(more, first)])
    (unhelped,) = model.segment(state, [Ask(more)])
    (undone,) = model.segment(state, [Ask(box)])
    assert not np.array_equal(second.logits, unhelped.logits)
    assert np.array_equal(first.logits, undone.logits)
    without = medical.loaded(medicals, largest=False, carry=False)
    assert without.segment(without.encode(volume, store=FeatureStore()), [Ask(box)])[0].carry is None


@pytest.mark.parametrize("lift", ["slices", "propagate", "orthogonal"])
def test_the_other_lifts_answer(medicals, lift):
    model = medsam2.load(checkpoint=str(medicals.folder), lift=lift)
    volume, box = short(medicals)
    (found,) = answered(model, volume, box)
    assert np.isfinite(found.logits).all()


def test_the_sorted_bank_answers_without_being_trained_for_it(fixture, volume):
    model = sam2.load(checkpoint=str(fixture.folder), lift="sorted-memory")
    click = Prompt((clicks(volume.grid, [(1, 20, 30)], [True]),))
    (first,) = answered(model, volume, click)
    (later,) = answered(model, volume, click.also(clicks(volume.grid, [(3, 20, 30)], [True])), previous=first)
    assert np.isfinite(later.logits).all() and "sorted-memory" in first.carry


def test_prompts_that_say_nothing_are_refused(medicals):
    model = medical.loaded(medicals)
    with pytest.raises(PromptError):
        answered(model, short(medicals)[0], Prompt((Points(np.array([[900.0, 0, 0]]), np.array([True])),)))


# Geometry, by probe


def probed(plane, show, lift):
    net = RememberingProbe(show) if lift == "memory" else probes.Probe(show)
    frame = Sam2Frame(size=128, plane=plane, resizing="video" if lift == "memory" else "image")
    parts = Parts(net, frame, None, "probe")
    return Memory(parts) if lift == "memory" else Slices(parts)


def shown(model, volume, prompt):
    state = model.encode(volume, store=FeatureStore())
    return np.asarray(model.segment(state, [Ask(prompt)])[0].mask(volume.grid))


@pytest.mark.parametrize("show", ["image", "prompt"])
@pytest.mark.parametrize("axes", probes.orientations())
def test_every_orientation(axes, show):
    where = probes.grid(axes)
    volume, mask = probes.scene(where)
    plane = PLANES[(probes.orientations().index(axes) + len(show)) % 3]
    lift = "memory" if probes.orientations().index(axes) % 2 else "slices"
    found = shown(probed(plane, show, lift), volume, probes.boxed(mask, where))
    assert probes.off_voxels(found, mask) <= 1


@pytest.mark.parametrize("show", ["image", "prompt"])
@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize(("spacing", "slant"), [((0.9, 1.1, 5.0), 0.0), ((2.0, 2.5, 4.0), 12.0)])
def test_other_spacings_and_slants(plane, show, spacing, slant):
    where = probes.grid("LPS", spacing_mm=spacing, slant=slant)
    volume, mask = probes.scene(where, slant=slant)
    found = shown(probed(plane, show, "memory"), volume, probes.boxed(mask, where))
    assert probes.off_voxels(found, mask) <= 1


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("axes", probes.orientations()[::7])
def test_a_point_in_every_plane(axes, plane):
    where = probes.grid(axes)
    volume, mask = probes.scene(where)
    prompt = probes.pointed(mask, where)
    found = shown(probed(plane, "prompt", "slices"), volume, prompt)
    point = where.index(prompt.marks[0].xyz_mm)[0]
    assert np.abs(np.argwhere(found).mean(axis=0) - point).max() <= 1
