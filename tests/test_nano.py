"""The nano generalists: in the package, SAM's and SAM 2's own format, and good for something on phantoms never seen."""

from __future__ import annotations

import dataclasses
import re
import socket

import numpy as np
import pytest
import torch

from segwise import assemble, catalog, weights
from segwise.case import Target
from segwise.nets import sam2_sizes, sam_sizes
from segwise.prompt import Box, Prompt
from segwise.segmenter import Ask
from segwise.store import FeatureStore
from segwise.synth.head import head
from segwise.synth.imaging import mr
from segwise.training import loop
from segwise.training.recipes import sam2_nano, sam_nano
from segwise.weights.tensors import tensors

NANOS = {"sam": "sam_nano/sam_nano.safetensors", "sam2": "sam2_nano/sam2_nano.safetensors"}
REMARK = "nano, trained on synthetic data"


@pytest.fixture(scope="module")
def person():
    """A head, which nothing was trained on: (volume, targets of at least 2 mL)."""
    scan = mr(head(7), 7, spacing_mm=(4.0, 1.6, 1.6))
    targets = [Target(name, scan.labels == i, scan.volume.grid) for i, name in scan.names.items()]
    return scan.volume, [t for t in targets if t.mask.sum() * 4 * 1.6**2 >= 2000]


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def middle(target):
    there = np.flatnonzero(target.mask.any(axis=(1, 2)))
    return int(there[len(there) // 2])


def box(target, place, *, thick=False):
    found = np.argwhere(target.mask[place])
    there = np.flatnonzero(target.mask.any(axis=(1, 2)))
    first, last = (there[0], there[-1] + 1) if thick else (place, place + 1)
    return Prompt((Box.of(target.grid, (first, *found.min(0)), (last, *(found.max(0) + 1))),))


def on_slice(target, place):
    flat = np.zeros_like(target.mask)
    flat[place] = target.mask[place]
    return Target(target.name, flat, target.grid)


def asked(model, state, prompt, previous=None):
    (found,) = model.segment(state, [Ask(prompt, previous)])
    return found, found.mask(state.grid)


@pytest.mark.parametrize("name", NANOS)
def test_they_come_with_the_package(name, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("no network")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setenv("SEGWISE_WEIGHTS_DIR", str(tmp_path / "none"))
    built = assemble.build(f"{name}(size=nano)")
    file = next(f for f in built.info.card.weights if f.variant == "nano")
    assert (file.file, file.packaged) == (NANOS[name], True)
    (status,) = [s for s in weights.status() if s.model == name and s.variant == "nano"]
    assert status.source == "package"
    assert 0 < file.n_bytes < 8_000_000
    assert (built.weights, status.state) == (file.sha256, "present")
    assert [v.state for v in weights.verify([name])] == ["right"]


@pytest.mark.parametrize("name", NANOS)
def test_the_card_says_what_they_are(name):
    card = assemble.model_info(f"{name}(size=nano)").card
    assert card.remarks["size=nano"].startswith(REMARK)
    assert "synthetic data only" in card.training_note
    assert f"segwise train {name}-nano" in card.training_note
    assert "Apache-2.0" in card.training_note


def test_key_names_are_the_official_ones():
    with torch.device("meta"):
        official = {"sam": sam_sizes.sam("b", 1024), "sam2": sam2_sizes.published("tiny")}
    for name, file in NANOS.items():
        found = tensors(weights.require(name, catalog.card("models", name), variant="nano")[file])
        own, known = ({re.sub(r"\.\d+\.", ".N.", key) for key in keys} for keys in (found, official[name].state_dict()))
        assert own == known
        assert {value.dtype for value in found.values()} == {torch.float16}


def test_a_box_beats_the_floor_and_a_click_improves(person):
    volume, targets = person
    models = {name: assemble.segmenter(name) for name in ("sam(size=nano)", "box-fill")}
    clicks = assemble.prompter("clicks(n=2)")
    scores = {name: [] for name in (*models, "clicked")}
    states = {name: model.encode(volume, store=FeatureStore()) for name, model in models.items()}
    for target in targets:
        flat = on_slice(target, middle(target))
        for name, model in models.items():
            prompt = box(target, middle(target))
            found, mask = asked(model, states[name], prompt)
            scores[name].append(dice(flat.mask, mask))
            if name != "box-fill":
                _, mask = asked(model, states[name], clicks.next(flat, prompt, mask, 0), found)
                scores["clicked"].append(dice(flat.mask, mask))
    nano, fill, clicked = (np.mean(values) for values in scores.values())
    assert clicked > nano > fill


def test_memory_beats_the_prompted_slices_box_repeated(person):
    volume, targets = person
    scores = {}
    for spec in (
        "sam2(size=nano, lift=memory)",
        "sam(size=nano, lift=slices)",
        "sam(size=nano, lift=propagate)",
        "sam2(size=nano, lift=propagate)",
    ):
        model = assemble.segmenter(spec)
        state = model.encode(volume, store=FeatureStore())
        chosen = [t for t in targets if t.mask.any(axis=(1, 2)).sum() >= 5]
        scores[spec] = np.mean([dice(t.mask, asked(model, state, box(t, middle(t), thick=True))[1]) for t in chosen])
    memory, *others = scores.values()
    assert memory > max(others), scores


@pytest.mark.parametrize("spec", ["sam(size=nano)", "sam2(size=nano)"])
def test_the_same_question_gets_the_same_bits(person, spec):
    volume, targets = person
    answers = []
    for _ in range(2):
        model = assemble.segmenter(spec)
        state = model.encode(volume, store=FeatureStore())
        answers.append(asked(model, state, box(targets[0], middle(targets[0])))[0].logits)
    np.testing.assert_array_equal(*answers)


@pytest.mark.parametrize("recipe", [sam_nano, sam2_nano])
def test_a_recipe_makes_a_file_that_the_model_loads(recipe, tmp_path):
    made = recipe.recipe(seed=3, steps=2)
    settings = dataclasses.replace(made.settings, makers=0, validate_every=0)
    short = dataclasses.replace(made, settings=settings)
    outcome = loop.train(short, tmp_path)
    assert outcome.finished
    path = next(f for f in outcome.files if f.suffix == ".safetensors")
    name = recipe.NAME.partition("-")[0]
    built = assemble.build(f'{name}(checkpoint="{path}")')
    assert built.weights.startswith("unknown:")  # nobody vouches for it
    key = "mask_decoder.iou_token.weight" if name == "sam" else "sam_mask_decoder.iou_token.weight"
    np.testing.assert_array_equal(built.segmenter.parts.net.state_dict()[key], tensors(path)[key].float())


def test_a_small_net_begins_by_recalling_what_was_at_the_same_place():
    attention = sam2_sizes.RotaryAttention(96, keys=48)
    sam2_sizes.start_local(attention)
    seen = {}
    real = torch.nn.functional.scaled_dot_product_attention

    def watched(q, k, v):
        seen["weights"] = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(dim=-1)[0, 0]
        return real(q, k, v)

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
        x, memory = torch.randn(1, 144, 96), torch.randn(1, 144, 48)
        attention(x, memory, memory, size=(12, 12))
    assert torch.equal(seen["weights"].argmax(dim=1), torch.arange(144))
    assert float(seen["weights"].diagonal().mean()) > 0.6


def test_clips_go_one_way_or_one_way_and_then_the_other():
    stream = sam2_nano.recipe(seed=3, steps=2).stream
    stream = dataclasses.replace(stream, longer_from=0, single=0.0)
    places = {clip.places for i in range(6) for clip in stream.batch(i)}
    for one in places:
        behind = [place for place in one if place < 0]
        assert sorted(one) == list(range(-len(behind), len(one) - len(behind)))
        assert one[0] == 0 and list(one) == [*range(len(one) - len(behind)), *sorted(behind, reverse=True)]
    assert any(min(one) < 0 for one in places)


def test_batches_depend_on_their_index_alone():
    stream = sam2_nano.recipe(seed=3, steps=2).stream
    first, again = stream.batch(5), (stream.batch(1), stream.batch(5))[1]
    assert all(
        np.array_equal(x, y) for a, b in zip(first, again, strict=True) for x, y in zip(a[:2], b[:2], strict=True)
    )
    assert all((clip.masks[:, 0] >= 128).any(axis=(1, 2)).all() for clip in first)
