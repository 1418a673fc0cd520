"""The small SAT of the package: offline, names through the vocabulary, presence, determinism, and how it is made."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segwise import assemble, catalog, weights
from segwise.errors import NoSuchStructure
from segwise.nets.contract import Marks
from segwise.prompt import Prompt, Text
from segwise.segmenter import Ask
from segwise.store import FeatureStore
from segwise.synth.absent import without
from segwise.synth.imaging import ct
from segwise.synth.torso import torso
from segwise.training import loop, named_bodies
from segwise.training.recipes import sat_phantom
from segwise.weights import local

SPEC = "sat(variant=phantom)"
SEED = 42
ORGANS = ("liver", "spleen", "left kidney", "right kidney")


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    """No weights folder, and no way out."""

    def refuse(*args, **more):
        raise AssertionError("a socket was opened")

    monkeypatch.setenv("SEGWISE_WEIGHTS_DIR", str(tmp_path / "none"))
    monkeypatch.setattr("socket.socket.connect", refuse)


@pytest.fixture(scope="module")
def phantom():
    return torso(SEED, spacing_mm=3.5)


@pytest.fixture(scope="module")
def scan(phantom):
    return ct(phantom, SEED, spacing_mm=(5, 3, 3))


def answers(model, volume, *names):
    state = model.encode(volume, store=FeatureStore())
    return model.segment(state, [Ask(Prompt((Text(name),))) for name in names])


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_it_loads_from_the_package_with_digests_that_are_known():
    built = assemble.build(SPEC)
    assert not built.weights.startswith("unknown")
    files = local.wanted(catalog.card("models", "sat"), "phantom")
    assert {file.file.rpartition("/")[2] for file in files} == {
        "checkpoint.pth", "text_encoder.pth", "vocab.txt", "config.json"
    }  # fmt: skip
    assert all(file.packaged and local.digest(local.place(file)) == file.sha256 for file in files)
    assert sum(file.n_bytes for file in files) < 4e6
    assert tuple(assemble.model_info(SPEC).labels or ()) == built.segmenter.parts.frame.names
    assert assemble.model_info("sat").labels is None


def test_what_is_there_is_found_and_what_was_left_out_is_less_sure(phantom, scan):
    model = assemble.build(SPEC).segmenter
    ids = {name: label for label, name in scan.names.items()}
    there = dict(zip(ORGANS, answers(model, scan.volume, *ORGANS), strict=True))
    for name, said in there.items():
        assert said.presence >= 0.5, name
        assert dice(scan.labels == ids[name], said.mask(scan.volume.grid)) > 0.6, name
    sure = 0
    for name in ORGANS:
        bare = ct(without(phantom, {name}), SEED, spacing_mm=(5, 3, 3))
        assert name not in bare.names.values()
        (gone,) = answers(model, bare.volume, name)
        sure += gone.presence < there[name].presence
    assert sure >= 3


def test_names_go_through_the_vocabulary(scan):
    model = assemble.build(SPEC).segmenter
    names = ("inferior vena cava", "IVC", "Kidney (L)", "left kidney", "right kidney", "kidneys")
    said = dict(zip(names, answers(model, scan.volume, *names), strict=True))
    masks = {name: one.mask(scan.volume.grid) for name, one in said.items()}
    np.testing.assert_array_equal(masks["IVC"], masks["inferior vena cava"])
    np.testing.assert_array_equal(masks["Kidney (L)"], masks["left kidney"])
    np.testing.assert_array_equal(masks["kidneys"], masks["left kidney"] | masks["right kidney"])
    assert said["kidneys"].presence == max(said["left kidney"].presence, said["right kidney"].presence)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("left kidny", "not among the 12 structures of this model; near: left kidney"),
        ("prostate", "not among the 12 structures of this model"),
        ("flux capacitor", "not among the 12 structures of this model; it knows liver"),
    ],
)
def test_what_it_was_not_taught_is_refused(scan, words, hint):
    with pytest.raises(NoSuchStructure, match=hint):
        answers(assemble.build(SPEC).segmenter, scan.volume, words)


def test_every_word_of_its_names_is_in_its_own_vocabulary():
    frame = assemble.build(SPEC).segmenter.parts.frame
    unknown = 1
    for name in frame.names:
        assert not (frame.asked(name, modality="CT").tokens["ids"] == unknown).any(), name


def test_a_second_load_answers_with_the_same_bits(scan):
    first, second = (answers(assemble.build(SPEC).segmenter, scan.volume, "liver")[0] for _ in range(2))
    np.testing.assert_array_equal(first.logits, second.logits)
    assert first.presence == second.presence


def test_it_says_that_it_is_synthetic():
    card = assemble.model_info(SPEC).card
    assert card.remarks == {"variant=phantom": "nano, trained on synthetic data"}
    assert "phantom" in card.training_note


# how it is made


def test_a_step_of_its_training_gives_files_that_sat_loads(tmp_path):
    recipe = sat_phantom.recipe(seed=3, steps=1)
    outcome = loop.train(recipe, tmp_path)
    assert outcome.step == 1
    built = assemble.build(f'sat(checkpoint="{tmp_path}")')
    assert built.weights.startswith("unknown")
    assert built.segmenter.parts.frame.names == sat_phantom.NAMES
    for key, value in built.segmenter.parts.net.state_dict().items():
        if value.is_floating_point():
            assert torch.isfinite(value).all(), key
    assert weights.read(tmp_path).config["trained"] == {"on": "synthetic bodies only", "seed": 3, "steps": 1}


def test_training_asks_as_inference_does():
    """All names at once, padded together, give what the net's own words and decode give one by one."""
    recipe = sat_phantom.recipe(seed=0, steps=1)
    net, objective = recipe.objective.net.eval().sat, recipe.objective
    image = np.random.default_rng(0).standard_normal((1, 32, 32, 32)).astype(np.float32)
    names = ["left kidney", "liver", "inferior vena cava"]
    marks = [objective.frame.asked(name, modality="CT") for name in names]
    tokens = {key: torch.cat([one.tokens[key] for one in marks]) for key in marks[0].tokens}
    with torch.no_grad():
        found = objective.answered({"image": image, "modality": "CT"}, names)
        said = Marks(torch.zeros(3, dtype=torch.int64), tokens=net.words(tokens))
        expected = net.decode(net.encode(torch.from_numpy(image)[None]), said).logits[:, 0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_batch_is_a_function_of_its_index():
    stream = sat_phantom.recipe(seed=0, steps=1).stream
    first, again = stream.batch(5), stream.batch(5)
    np.testing.assert_array_equal(first["image"], again["image"])
    np.testing.assert_array_equal(first["labels"], again["labels"])
    assert first["image"].shape == (1, *sat_phantom.PATCH)
    assert named_bodies.FIRST >= 1000  # smaller seeds are the demonstration's and the tests'


def test_the_labels_lie_where_the_view_shows_them():
    """What is dark on the scan is dark under its labels in the view."""
    number = next(i for i in range(40) if named_bodies.scan(i)[0] == "abdomen")
    _, found = named_bodies.scan(number)
    volume, labels = named_bodies.varied(found, np.random.default_rng(1), cut=0.0)
    frame = sat_phantom.recipe(seed=0, steps=1).stream.frame
    image, seen = sat_phantom.viewed(frame, volume, labels, np.random.default_rng(2))
    assert image.shape[1:] == seen.shape
    assert set(np.unique(seen)) <= set(np.unique(labels))
    names = {label: name for label, name in found.names.items() if (seen == label).sum() > 50}
    assert len(names) > 4
    for label, name in names.items():
        expected = volume.array[0][labels == label].mean()
        others = {k: abs(volume.array[0][labels == k].mean() - expected) for k in names if k != label}
        far = max(others, key=others.get)
        a, b = image[0][seen == label].mean(), image[0][seen == far].mean()
        assert (a > b) == (expected > volume.array[0][labels == far].mean()), name


def test_only_what_is_asked_for_has_a_name():
    found = named_bodies.BODIES["abdomen"].phantom(7, spacing_mm=5.0)
    assert {"liver", "aorta", "left kidney"} <= set(found.names.values()) <= set(named_bodies.NAMES)
