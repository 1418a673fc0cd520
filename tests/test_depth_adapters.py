"""Adapters made for volumes on a net of slices: what `lift=chunks` shows them, in use and in training."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import labelled_cases
from adapter_bases import base, stirred
from segwise import assemble, catalog, distilling
from segwise.cli.app import app
from segwise.errors import SpecError, WeightsError
from segwise.evaluate import inventory
from segwise.geometry import Channel, Grid, Volume
from segwise.lifts.chunks import Chunks
from segwise.models import litemedsam
from segwise.prompt import Box, Points, Prompt
from segwise.segmenter import Ask
from segwise.spec import parse
from segwise.store import FeatureStore
from segwise.training import marked, prepared
from segwise.training.labelled import Budget
from segwise.training.prompted import OnSlices

GRID = Grid((9, 24, 20), np.array([[0.0, 0, 1, 0], [0, 1, 0, 0], [2, 0, 0, 0], [0, 0, 0, 1]]))
CHUNKS = "sam(chunk=3, lift=chunks, size=nano)"
DEEP = ("ma-sam", "med-sa")


def scan(seed=0):
    array = np.random.default_rng(seed).normal(0, 40, (1, *GRID.shape)).astype(np.float32)
    array[0, 2:8, 8:16, 6:14] += 150
    return Volume.of(array, GRID, (Channel("CT"),))


def answer(model, volume, low=(2, 7, 5), high=(8, 17, 15)):
    state = model.encode(volume, store=FeatureStore())
    (said,) = model.segment(state, [Ask(Prompt((Box.of(GRID, low, high),)))])
    found = np.full(GRID.shape, np.nan)
    at = np.rint(GRID.index(said.grid.mm(np.zeros((1, 3))))[0]).astype(int)
    found[tuple(slice(a, a + n) for a, n in zip(at, said.grid.shape, strict=True))] = said.logits[0]
    return found


def test_without_an_adapter_chunks_answer_as_slices():
    alone, together = (answer(assemble.segmenter(spec), scan()) for spec in ("sam(size=nano)", CHUNKS))
    assert (np.isnan(alone) == np.isnan(together)).all()
    assert np.nanmax(np.abs(alone - together)) < 1e-4


@pytest.mark.parametrize("adapter", DEEP)
def test_an_adapter_made_for_volumes_sees_the_neighbours_of_a_slice(adapter):
    """The box is on slices 2 to 7, so that 4, 5 and 6 are the chunk in its middle."""
    model = assemble.segmenter(f"{CHUNKS}+{adapter}")
    assert np.nanmax(np.abs(answer(model, scan()) - answer(assemble.segmenter(CHUNKS), scan()))) < 1e-4
    stirred(model.parts)
    model = model.rebuilt(model.parts)
    other = scan()
    array = other.array.copy()
    array[0, 6] = array[0, 6, ::-1]
    before, after = answer(model, scan()), answer(model, Volume.of(array, GRID, other.channels))
    moved = np.nan_to_num(np.abs(after - before)).max(axis=(1, 2))
    assert (moved[4:7] > 1e-3).all(), moved  # the chunk of slice 6
    assert moved[[2, 3, 7]].max() < 1e-4, moved


@torch.no_grad()
@pytest.mark.parametrize("name", ["litemedsam", "sam"])
def test_ma_sam_mixes_the_slices_of_any_encoder(name):
    of = base(name)
    shown = dataclasses.replace(of.parts, frame=dataclasses.replace(of.parts.frame, chunk=3))
    module, arguments = catalog.load("adapters", parse("x+ma-sam").plus[0])
    parts = module.apply(shown, **arguments)
    three = of.image.repeat(3, 1, 1, 1, 1) * torch.arange(1, 4).view(3, 1, 1, 1, 1)
    assert torch.equal(parts.net.encode(three), of.parts.net.encode(three))
    stirred(parts)
    before = parts.net.encode(three)
    three[2] += 1
    after = parts.net.encode(three)
    assert not torch.equal(after[1], before[1])
    assert Chunks(parts, chunk=3, spread=False).rebuilt(parts).chunk == 3


@pytest.mark.parametrize("name", ["litemedsam", "medsam"])
def test_other_models_of_slices_have_chunks_too(name, tmp_path):
    """LiteMedSAM's net, untrained; MedSAM takes any file of SAM's format, here nano's."""
    net = litemedsam.net() if name == "litemedsam" else assemble.segmenter("sam(size=nano)").parts.net
    torch.save(net.state_dict(), tmp_path / "net.pth")
    spec = f'{name}(checkpoint="{tmp_path / "net.pth"}", chunk=3, lift=chunks)'
    model = assemble.segmenter(f"{spec}+ma-sam")
    assert isinstance(model, Chunks) and (model.chunk, model.parts.frame.chunk, model.spread) == (3, 3, False)
    if name == "medsam":
        alone = assemble.segmenter(spec.replace(", chunk=3, lift=chunks", ""))
        assert np.nanmax(np.abs(answer(model, scan()) - answer(alone, scan()))) < 1e-4


def test_a_click_after_the_box_moves_no_chunk():
    model = assemble.segmenter(CHUNKS)
    volume = scan()
    state = model.encode(volume, store=FeatureStore())
    box = Prompt((Box.of(GRID, (2, 7, 5), (8, 17, 15)),))
    clicked = Prompt((*box.marks, Points(GRID.mm(np.array([[2.0, 10, 8]])), np.array([True]))))
    assert model._anchor(state, Ask(box)) == model._anchor(state, Ask(clicked)) == 5


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (f"{CHUNKS}+ma-sam(slices=5)", "slices is 5, and this model shows 3 at once"),
        (f"{CHUNKS}+med-sa(chunk=5)", "chunk is 5, and this model shows 3 slices at once"),
        ("sam(size=nano)+ma-sam(slices=3)", "give the model lift=chunks and chunk="),
        ("sam(chunk=0, lift=chunks, size=nano)", "chunk is 0, expected a number of slices"),
    ],
)
def test_other_numbers_of_slices_are_refused(spec, why):
    with pytest.raises(SpecError, match=why):
        assemble.segmenter(spec)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("chunks") / "data"
    labelled_cases.write(root, 4)
    return root


@pytest.fixture(scope="module")
def cases(data, tmp_path_factory):
    frame = assemble.segmenter(CHUNKS).parts.frame
    _, found = inventory.find(data)
    names = tuple(sorted({s.name for case in found for s in case.structures}))
    return frame, prepared.prepare(found, frame, names, tmp_path_factory.mktemp("prepared"))


def frame_depth(cases):
    (depth,) = {case.grid.shape[0] for case in cases}
    return depth


def test_a_batch_is_made_of_whole_chunks_of_neighbours(cases):
    frame, some = cases
    stream = marked.MarkedSlices(tuple(some), frame, (assemble.prompter("box2d"),), size=2, augment=False, seed=3)
    alone = 0
    for index in range(12):
        batch = stream.batch(index)
        assert len(batch) == 2 * 3
        for chunk in (batch[:3], batch[3:]):
            digest, places = zip(*(one.key.rsplit(":", 1) for one in chunk), strict=True)
            assert len(set(digest)) == 1
            steps, places = np.diff(list(map(int, places))), list(map(int, places))
            assert ((steps == 1) | (steps == 0)).all()
            assert all(b in (0, frame_depth(some) - 1) for a, b in zip(steps, places[1:], strict=True) if not a)
            assert any(one.asked for one in chunk)
            names = [{asked.name for asked in one.asked} for one in chunk]
            assert max(names, key=len) >= set.union(*names)
            alone += sum(not one.asked for one in chunk)
    assert alone  # neighbours that have nothing of the structure are shown all the same
    assert [one.key for one in stream.batch(5)] == [one.key for one in stream.batch(5)]


def test_a_chunk_is_changed_alike_but_for_its_noise(cases, monkeypatch):
    """Slices that are all the same stay the same, whatever is drawn for them, but where noise is added."""
    frame, some = cases
    array, labels = (np.array(part) for part in (some[0].volume.array, some[0].labels))
    array[:], labels[:] = array[:, 10:11], labels[10:11]
    same = Volume.of(array, some[0].grid, some[0].channels)
    monkeypatch.setattr(marked, "mapped", lambda case: (same, labels))
    stream = marked.MarkedSlices((some[0],), frame, (assemble.prompter("box2d"),), size=1, augment=True, seed=1)
    alike = 0
    for index in range(40):
        first, *others = stream.batch(index)
        near = [np.abs(one.view - first.view).mean() for one in others]
        alike += max(near) == 0
        assert max(near) < 0.5, near  # of standard deviations: noise at most, never another turn
        shown = [{one.name: one.mask for one in s.asked} for s in (first, *others) if s.asked]
        assert all((shown[0][name] == one[name]).all() for one in shown for name in one)
    assert 20 < alike < 40


@pytest.mark.parametrize("adapter", DEEP)
def test_training_reaches_what_acts_along_depth(cases, adapter):
    frame, some = cases
    model = assemble.segmenter(f"{CHUNKS}+{adapter}")
    held = marked.checked(frame, some, assemble.prompter("box2d"), n=2, seed=0)
    assert [len(chunk) for chunk in held] == [3, 3]
    objective = OnSlices(model.parts.net, model.parts.frame, held=held)
    stream = marked.MarkedSlices(tuple(some), model.parts.frame, (assemble.prompter("box2d"),), size=1, seed=0)
    stirred(model.parts)
    for loss, _ in objective.losses(stream.batch(0), np.random.default_rng(0)):
        loss.backward()
    word = {"ma-sam": ".conv.", "med-sa": ".depth."}[adapter]
    deep = {name: p for name, p in model.parts.net.named_parameters() if word in name and p.requires_grad}
    assert deep and all(p.grad is not None and bool(p.grad.any()) for p in deep.values())
    assert 0 <= objective.validate()["dsc"] <= 1


def test_a_trained_one_is_a_model_that_shows_chunks_again(data, tmp_path):
    out = tmp_path / "mine"
    words = ["adapt", f"{CHUNKS}+ma-sam", str(data), "-o", str(out), "--steps", "2", "--batch", "1"]
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 0, found.output
    model = assemble.segmenter(str(out))
    assert model.chunk == model.parts.frame.chunk == 3
    with torch.no_grad():
        assert np.isfinite(np.nan_to_num(answer(model, scan()))).all()


def test_what_saw_single_slices_is_not_taken_for_chunks(data, tmp_path):
    out = tmp_path / "flat"
    words = ["adapt", "sam(size=nano)+ma-sam", str(data), "-o", str(out), "--steps", "1", "--batch", "1"]
    assert CliRunner().invoke(app, words).exit_code == 0
    with pytest.raises(WeightsError, match="was trained on single slices"):
        assemble.segmenter(f'{CHUNKS}+ma-sam(checkpoint="{out}")')
    assert assemble.segmenter(f'{CHUNKS}+ma-sam(slices=1, checkpoint="{out}")').chunk == 3


def test_a_teacher_of_chunks_has_no_student(tmp_path):
    with pytest.raises(SpecError, match="is shown 3 slices at once, and a student learns from single ones"):
        distilling.distillation(CHUNKS, None, tmp_path / "out", Budget(steps=1))


def test_cached_features_of_a_frozen_encoder_are_not_taken_for_chunks(cases):
    frame, some = cases
    model = assemble.segmenter(f"{CHUNKS}+decoder")
    stream = marked.MarkedSlices(tuple(some), frame, (assemble.prompter("box2d"),), size=1, augment=False, seed=0)
    objective = OnSlices(model.parts.net, model.parts.frame)
    assert objective.frozen
    for loss, _ in objective.losses(stream.batch(0), np.random.default_rng(0)):
        loss.backward()
    assert not objective._kept
