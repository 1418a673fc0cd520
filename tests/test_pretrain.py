"""Encoders trained without labels: what is hidden is hidden, what is learned is kept, and a specialist begins there."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import labelled_cases
import small_specialists
from segwise import api, assemble
from segwise.errors import SegwiseError
from segwise.learn import Who
from segwise.spec import Spec
from segwise.training import masked, planning
from segwise.training.labelled import Budget
from segwise.training.masked import MaskedNet, Masking
from test_learn import cli

ABLE = ("unetr", "swin-unetr", "transunet")
SMALL = 'transunet(depth=1, features="4-6-8", heads=2, width=8)'


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("eggs") / "data"
    labelled_cases.write(root, 5)
    return root


def begun(data, out, *, seed=0, steps=4, **given):
    budget = Budget(steps=steps, size=1, precision="fp32", seed=seed)
    return api.pretraining(SMALL, Who(data=data, seed=1), out, budget, **given)


@pytest.fixture(scope="module")
def encoder(data, tmp_path_factory):
    """A folder with a pre-trained encoder, from the command line."""
    out = tmp_path_factory.mktemp("pretrained") / "encoder"
    words = ("--steps", 3, "--leave-out", "case004", "--mask-ratio", 0.5, "--target", "voxels", "--unit", 8)
    code, said = cli("pretrain", SMALL, data, "-o", out, *words, "--batch", 1)
    assert code == 0, said
    assert f"--from {out}" in said
    return out


def fresh(name, tmp_path, **given):
    path = small_specialists.written(tmp_path / name, small_specialists.plan(name, **given))
    return assemble.segmenter(Spec(name, {"plan": str(path), "untrained": 0})).parts


# what is hidden


@pytest.mark.parametrize("name", ABLE)
def test_what_is_hidden_changes_nothing_and_what_is_shown_does(tmp_path, name):
    parts = fresh(name, tmp_path, channels=2)
    patch = parts.frame.shape
    torch.manual_seed(0)
    net = MaskedNet(parts.net, 2).eval()
    shape = masked.cubes(Masking(ratio=0.5), patch, masked.maskable(parts.net))
    hidden = torch.from_numpy(masked.drawn(shape, 0.5, np.random.default_rng(0)))[None]
    where = masked.widened(hidden, patch)[:, None]
    image = torch.randn(1, 2, *patch)
    other = torch.where(where, 100 * torch.randn_like(image), image)
    with torch.no_grad():
        assert torch.equal(net.features(image, hidden), net.features(other, hidden))
        assert torch.equal(net(image, hidden), net(other, hidden))
        assert net(image, hidden).shape == image.shape
        seen = torch.where(where, image, image + 1)
        assert not torch.equal(net.features(image, hidden), net.features(seen, hidden))
        assert not torch.equal(net.features(image, hidden), net.features(image, ~hidden))


@pytest.mark.parametrize("name", ABLE)
def test_all_of_the_encoder_learns_and_nothing_else(tmp_path, name):
    parts = fresh(name, tmp_path)
    net = MaskedNet(parts.net, 1)
    shape = masked.cubes(Masking(), parts.frame.shape, masked.maskable(parts.net))
    hidden = torch.from_numpy(masked.drawn(shape, 0.5, np.random.default_rng(0)))[None]
    net(torch.randn(1, 1, *parts.frame.shape), hidden).abs().mean().backward()
    prefixes = masked.maskable(parts.net).prefixes
    for key, parameter in parts.net.named_parameters():
        assert (parameter.grad is not None) == key.startswith(prefixes), key
    assert set(net.encoder()) == {key for key in parts.net.state_dict() if key.startswith(prefixes)}
    assert net.token.grad is not None and net.token.grad.abs().max() > 0


@pytest.mark.parametrize("ratio", [0.25, 0.6, 0.9])
def test_the_ratio_is_met_and_the_cubes_differ(ratio):
    rng = np.random.default_rng(0)
    found = [masked.drawn((2, 3, 5), ratio, rng) for _ in range(20)]
    assert {int(hidden.sum()) for hidden in found} == {round(ratio * 30)}
    assert len({hidden.tobytes() for hidden in found}) > 15
    assert np.mean(found, axis=0).min() > 0  # every cube is hidden now and then


def test_cubes_are_repeated_over_their_voxels():
    hidden = torch.zeros(1, 2, 1, 3, dtype=torch.bool)
    hidden[0, 1, 0, 2] = True
    wide = masked.widened(hidden, (4, 5, 9))
    assert wide.shape == (1, 4, 5, 9) and int(wide.sum()) == 2 * 5 * 3
    assert wide[0, 2:, :, 6:].all()


def test_a_normalised_cube_by_hand():
    """Voxels 1, 3 | 10, 10: mean 2, deviation 1; a flat cube becomes 0."""
    image = torch.tensor([1.0, 3.0, 10.0, 10.0]).reshape(1, 1, 1, 1, 4)
    found = masked.normalised(image, (1, 1, 2)).flatten()
    assert torch.allclose(found, torch.tensor([-1.0, 1.0, 0.0, 0.0]), atol=1e-5)
    cube = torch.randn(2, 3, 4, 6, 8) * 7 + 5
    parts = masked.normalised(cube, (2, 2, 2))[1, 2, 2:, :3, 4:]
    assert abs(float(parts.mean())) < 1e-5 and abs(float(parts.std(correction=0)) - 1) < 1e-4
    own = cube[1, 2, 2:, :3, 4:]
    assert torch.allclose(parts, (own - own.mean()) / own.std(correction=0), atol=1e-4)


def test_the_loss_is_that_of_the_hidden_voxels_alone():
    """One of two cubes is hidden, 2 voxels in 2 channels: differences 1, 2, 3, 4 -> 2.5, whatever the other cube is."""
    wanted = torch.zeros(1, 2, 1, 1, 4)
    said = torch.tensor([[9.0, 9.0, 1.0, -2.0], [9.0, 9.0, 3.0, 4.0]]).reshape(1, 2, 1, 1, 4).requires_grad_()
    hidden = torch.tensor([False, True]).reshape(1, 1, 1, 2)
    loss = masked.missed(said, wanted, hidden)
    assert float(loss.detach()) == 2.5
    loss.backward()
    assert said.grad is not None and said.grad[..., :2].abs().max() == 0 and said.grad[..., 2:].abs().min() == 0.25


def test_without_labels_air_is_left_out_of_the_statistics():
    case = labelled_cases.case(0)
    found = planning.unlabelled([case])
    values = case.volume().array
    assert found.intensity[0]["min"] > values.mean() > found.intensity[0]["min"] - 50
    assert dict(found.cases[0].voxels) == {}


# the training and its folder


def test_a_folder_says_what_it_holds(data, encoder):
    said = json.loads((encoder / "pretrained.json").read_text())
    assert set(said["files"]) == {"encoder.safetensors", "plan.json"}
    assert said["masking"] == {"ratio": 0.5, "target": "voxels", "unit": 8}
    people = said["data"]["subjects"]
    assert people["test"] == ["case004"] and len(people["train"]) == 3 and len(people["valid"]) == 1
    assert said["trained"]["steps"] == 3 and said["trained"]["versions"]["torch"] and "command" in said["trained"]
    plan = json.loads((encoder / "plan.json").read_text())
    assert plan["net"]["name"] == "transunet" and plan["net"]["arguments"]["width"] == 8
    keys = load_file(encoder / "encoder.safetensors")
    assert keys and all(key.startswith(("unet.down.", "words.", "places", "layers.", "norm.")) for key in keys)
    with (encoder / "log.csv").open() as file:
        assert "valid_loss" in next(csv.reader(file))


def test_labels_are_never_read(data, tmp_path):
    """Without its labels, a folder gives the same encoder, file by file a case."""
    bare = tmp_path / "data"
    bare.mkdir()
    for path in (data / "imagesTr").iterdir():
        shutil.copy(path, bare / path.name.replace("_0000", ""))
    files = []
    for root in (data, bare):
        out = tmp_path / f"out-{root.parent.name}"
        made = begun(root, out, steps=1)
        assert made.cases == (4, 1)
        api.learn(made, out)
        files.append((out / "encoder.safetensors").read_bytes())
    assert files[0] == files[1]


def test_pieces_come_to_the_same_bits(data, tmp_path):
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    api.learn(begun(data, whole), whole)
    for _ in range(20):
        if api.learn(begun(data, pieces), pieces, minutes=0).finished:
            break
    assert (whole / "encoder.safetensors").read_bytes() == (pieces / "encoder.safetensors").read_bytes()
    with pytest.raises(SegwiseError, match="is of another training"):
        api.learn(begun(data, pieces, mask_ratio=0.5), pieces)


def test_it_learns(data, tmp_path):
    """Hidden voxels are told better than by the training's first guess."""
    made = api.pretraining(
        SMALL, Who(data=data), tmp_path, Budget(steps=40, size=2, rate=3e-3, precision="fp32"), target="voxels"
    )
    with torch.no_grad():
        before = made.recipe.objective.validate()["loss"]
    after = api.learn(made, tmp_path).measures["valid_loss"]
    assert after < 0.9 * before


# a specialist that begins there


def test_a_specialist_takes_the_encoder_exactly(data, encoder, tmp_path):
    made = api.specialist("transunet", Who(data=data), tmp_path / "a", Budget(steps=2, size=1), start=encoder)
    kept = load_file(encoder / "encoder.safetensors")
    state = made.recipe.objective.net.state_dict()
    assert made.taken == len(kept) > 20
    assert all(torch.equal(state[key], value) for key, value in kept.items())
    plan = json.loads((encoder / "plan.json").read_text())
    own = json.loads((tmp_path / "a" / "plan.json").read_text())
    assert own["plans"] == plan["plans"] and own["net"] == plan["net"]
    assert own["dataset"]["labels"] == {"background": 0, "liver": 1, "spleen": 2}
    scratch = assemble.segmenter(Spec("transunet", {"plan": str(tmp_path / "a" / "plan.json"), "untrained": 0}))
    rest = scratch.parts.net.state_dict()
    assert all(torch.equal(state[key], rest[key]) for key in state if key not in kept)
    assert not torch.equal(state["words.weight"], rest["words.weight"])


def test_a_model_from_an_encoder_says_so(data, encoder, tmp_path):
    out = tmp_path / "mine"
    words = ("--steps", 2, "--batch", 1, "--leave-out", "case004", "--from", encoder)
    code, said = cli("train", SMALL, data, "-o", out, *words)
    assert code == 0, said
    assert "tensors of its encoder are pre-trained" in said and "it has seen" not in said
    own = json.loads((out / "model.json").read_text())["data"]
    there = json.loads((encoder / "pretrained.json").read_text())
    assert own["pretrained"]["encoder"] == there["files"]["encoder.safetensors"]
    assert own["pretrained"]["subjects"] == there["data"]["subjects"]
    note = assemble.model_info(str(out)).card.training_note
    assert "its encoder before that on data: 3 subjects" in note and "without labels" in note
    code, said = cli("train", SMALL, data, "-o", out, *words[:-2])
    assert code == 2 and "is of another training" in said


def without(folder, tmp_path, change):
    """A copy of a folder with one file changed."""
    copied = tmp_path / "copied"
    shutil.copytree(folder, copied)
    change(copied)
    return copied


@pytest.mark.parametrize(
    ("model", "words", "said"),
    [
        ("unetr", (), "holds an encoder of transunet(features=4-6-8"),
        ("transunet(width=16)", (), "expected the same model and arguments"),
        (SMALL, ("--patch", "64,64,64"), "has seen a patch of"),
        (SMALL, ("--spacing", "1,1,1"), "leave --spacing out"),
    ],
)
def test_what_does_not_fit_is_refused(data, encoder, tmp_path, model, words, said):
    code, found = cli("train", model, data, "-o", tmp_path / "out", "--from", encoder, *words)
    assert code == 2 and said in " ".join(found.split())
    assert not (tmp_path / "out").exists()


def test_who_is_tested_on_should_not_have_been_seen(data, encoder, tmp_path):
    seen = json.loads((encoder / "pretrained.json").read_text())["data"]["subjects"]["train"][0]
    words = ("--dry-run", "--leave-out", f"{seen},case004", "--from", encoder)
    code, said = cli("train", SMALL, data, "-o", tmp_path / "out", *words)
    assert code == 0 and f"it has seen scans of {seen}, who are kept for testing" in " ".join(said.split())


def test_another_training_keeps_its_plan(data, encoder, tmp_path):
    """A training of another plan, or the encoder's own folder: refused, and nothing in it is changed."""
    own = tmp_path / "own"
    api.specialist(SMALL, Who(data=data, left_out=("case004",)), own, Budget(steps=1))
    for folder in (own, encoder):
        before = (folder / "plan.json").read_bytes()
        code, found = cli("train", SMALL, data, "-o", folder, "--leave-out", "case004", "--from", encoder)
        assert code == 2 and "holds a training with another plan.json" in " ".join(found.split())
        assert (folder / "plan.json").read_bytes() == before


def test_damaged_folders_are_refused(data, encoder, tmp_path):
    def tried(folder):
        return cli("train", SMALL, data, "-o", tmp_path / "out", "--from", folder)

    code, found = tried(tmp_path)
    assert code == 2 and "holds no pretrained.json" in found
    cut = without(encoder, tmp_path / "1", lambda f: (f / "encoder.safetensors").write_bytes(b"x"))
    code, found = tried(cut)
    assert code == 2 and "not the file that pretrained.json names" in " ".join(found.split())
    broken = without(encoder, tmp_path / "2", lambda f: (f / "pretrained.json").write_text("{"))
    code, found = tried(broken)
    assert code == 2 and "is damaged" in found
    code, found = cli("train", "default", "-o", tmp_path / "out", "--from", encoder)
    assert code == 2 and "--from: of a specialist" in found


def test_other_channels_are_refused(data, encoder, tmp_path):
    for folder in ("imagesTr", "labelsTr"):
        shutil.copytree(data / folder, tmp_path / "ct" / folder)
    said = json.loads((data / "dataset.json").read_text())
    (tmp_path / "ct" / "dataset.json").write_text(json.dumps({**said, "channel_names": {"0": "CT"}}))
    code, found = cli("train", SMALL, tmp_path / "ct", "-o", tmp_path / "out", "--from", encoder)
    assert code == 2 and "has the channels CT, the encoder of" in " ".join(found.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("unet", "DATA"), "the encoder of unet cannot be pre-trained here"),
        (("threshold", "DATA"), "is not trained from nothing"),
        ((SMALL, "DATA", "--mask-ratio", "0"), "the mask ratio is 0, expected a share above 0 and below 1"),
        ((SMALL, "DATA", "--mask-ratio", "1"), "the mask ratio is 1, expected"),
        ((SMALL, "DATA", "--mask-ratio", "0.6", "--unit", "32"), "hides 1 of the 1 cubes"),
        ((SMALL, "DATA", "--unit", "7"), "hidden cubes have sides of 7 voxels"),
        ((SMALL, "DATA", "--target", "edges"), 'the target is "edges", expected voxels or normalised'),
        ((SMALL, "DATA", "--leave-out", "bob"), "no subject bob to leave out"),
        ((SMALL, "EMPTY"), "no volume file in it"),
        ((SMALL, "NOWHERE"), "no such folder"),
    ],
)
def test_wrong_input_gets_one_message(data, tmp_path, words, said):
    (tmp_path / "empty").mkdir()
    places = {"DATA": data, "NOWHERE": tmp_path / "none", "EMPTY": tmp_path / "empty"}
    code, found = cli("pretrain", *(places.get(word, word) for word in words), "-o", tmp_path / "out")
    assert code == 2
    assert said in " ".join(found.split())


def test_a_forecast_says_time_and_memory(data, tmp_path):
    code, said = cli("pretrain", SMALL, data, "-o", tmp_path / "a", "--dry-run")
    assert code == 0 and "s a step" in said and "50% hidden" not in said and "60% hidden" in said
    assert not (tmp_path / "a" / "pretrained.json").exists()
