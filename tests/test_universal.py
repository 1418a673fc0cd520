"""CLIP-Driven Universal Model: its generated layers, files, names, presence, places, errors, published size."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import probes
from segwise import anatomy
from segwise.errors import NoSuchStructure, PromptError, SpecError, WeightsError
from segwise.geometry import Channel, Grid, Volume
from segwise.lifts import spoken
from segwise.lifts.spoken import Spoken
from segwise.lifts.tiles import Tiling
from segwise.models import universal
from segwise.models._named import NamedFrame
from segwise.nets.flops import counted, parameters
from segwise.nets.swin_unetr import SwinSize
from segwise.nets.universal import GENERATED, UniversalNet, dynamic, net_of, official
from segwise.prompt import Points, Prompt
from segwise.segmenter import Ask, Parts
from segwise.store import FeatureStore
from spoken_probes import named, noise, probed, randomised, say
from test_contracts_models import EVERY

TINY = SwinSize(width=12, depths=(1, 2, 1, 1), heads=(2, 3, 4, 6), window=3)
NAMES = dict(universal._names())


def tiny() -> UniversalNet:
    return randomised(UniversalNet(TINY, classes=32, text=20, joint=10))


def public(net: UniversalNet) -> dict[str, torch.Tensor]:
    """A net's tensors under names as a public file may have them: only the backbone's are known."""
    other = {
        "pool_norm": "one.0", "pool": "one.3", "generate": "two", "project": "three",
        "reduce_norm": "four.0", "reduce": "four.2",
    }  # fmt: skip
    found = {}
    for key, value in net.state_dict().items():
        parent, _, kind = key.rpartition(".")
        own = f"{other[parent]}.{kind}" if parent in other else key.removeprefix("backbone.")
        found[f"module.{own}"] = value.clone()
    return found


@pytest.fixture(scope="module")
def net() -> UniversalNet:
    return tiny()


@pytest.fixture(scope="module")
def file(net, tmp_path_factory):
    path = tmp_path_factory.mktemp("universal") / "checkpoint.pth"
    torch.save({"net": public(net), "epoch": 3}, path)
    return path


def frame(patch: int = 48) -> NamedFrame:
    return NamedFrame(NAMES, patch, universal.SPACING_MM, universal.WINDOW_HU)


def probe(level: float = 0.5, patch: int = 48) -> Spoken:
    model = Spoken(Parts(None, frame(patch), None, "probe"), Tiling.monai((patch,) * 3, overlap=0.5))
    return probed(model, level)


def test_generated_layers_are_those_of_the_paper():
    rng = np.random.default_rng(0)
    h, theta = rng.normal(size=(8, 2, 3, 4)), rng.normal(size=GENERATED)
    expected = np.zeros((2, 3, 4))
    for place in np.ndindex(2, 3, 4):
        x = [h[(c, *place)] for c in range(8)]
        one = [max(0, sum(theta[8 * o + i] * x[i] for i in range(8)) + theta[136 + o]) for o in range(8)]
        two = [max(0, sum(theta[64 + 8 * o + i] * one[i] for i in range(8)) + theta[144 + o]) for o in range(8)]
        expected[place] = sum(theta[128 + i] * two[i] for i in range(8)) + theta[152]
    found = dynamic(torch.from_numpy(h), torch.from_numpy(theta))
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-10)


def test_parameters_come_from_image_and_words(net):
    """GAP, norms and 1x1x1 convolutions of the head written out for one class."""
    image = torch.rand(1, 1, 64, 64, 64)
    with torch.no_grad():
        deep, full = (x[0].double().numpy() for x in net.backbone(image))
        state = {key: value.double().numpy() for key, value in net.state_dict().items()}
        found = net.decode(net.encode(image), marks(net, 7)).logits[0, 0].numpy()

    def normed(x, name, groups):
        parts = x.reshape(groups, -1)
        parts = (parts - parts.mean(1, keepdims=True)) / np.sqrt(parts.var(1, keepdims=True) + 1e-5)
        scale, shift = (state[f"{name}.{k}"][:, None, None, None] for k in ("weight", "bias"))
        return np.maximum(parts.reshape(x.shape) * scale + shift, 0)

    a = state["pool.weight"][:, :, 0, 0, 0] @ normed(deep, "pool_norm", 16).mean((1, 2, 3)) + state["pool.bias"]
    t = np.maximum(state["project.weight"] @ state["organ_embedding"][7] + state["project.bias"], 0)
    theta = state["generate.weight"][:, :, 0, 0, 0] @ np.concatenate([a, t]) + state["generate.bias"]
    mixed = np.tensordot(state["reduce.weight"][:, :, 0, 0, 0], normed(full, "reduce_norm", 4), 1)
    h = mixed + state["reduce.bias"][:, None, None, None]
    expected = dynamic(torch.from_numpy(h), torch.from_numpy(theta)).numpy()
    assert expected.std() > 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * max(1, expected.std()))


def marks(net: UniversalNet, *classes: int):
    asked = torch.zeros(len(classes), dtype=torch.int64)
    with torch.no_grad():
        return spoken.Marks(asked, tokens=net.words({"class": torch.tensor(classes)}))


def test_the_backbone_is_monais(net):
    from monai.networks.nets import SwinUNETR

    whole = SwinUNETR(1, 1, feature_size=12, depths=TINY.depths, num_heads=TINY.heads, window_size=3).eval()
    backbone = {k.removeprefix("backbone."): v for k, v in net.state_dict().items() if k.startswith("backbone.")}
    missing, extra = whole.load_state_dict(backbone, strict=False)
    assert not extra and all(key.startswith("out.") for key in missing)
    image, seen = torch.rand(1, 1, 64, 64, 64), []
    whole.out.register_forward_hook(lambda module, given, out: seen.append(given[0]))
    with torch.no_grad():
        whole(image)
        assert torch.equal(net.backbone(image)[1], seen[0])


def test_a_public_file_loads_whatever_the_head_is_called(net, file):
    found = official(torch.load(file)["net"])
    assert found.keys() == net.state_dict().keys()
    assert all(torch.equal(found[key], value) for key, value in net.state_dict().items())
    assert vars(net_of(found).backbone.size) == vars(TINY)
    model = universal.load(checkpoint=str(file.parent), accept_non_commercial=True, patch=64)
    assert model.parts.weights.startswith("unknown:")
    loaded = model.parts.net.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in net.state_dict().items())


@pytest.mark.slow
def test_every_tensor_counts(net):
    """The gradient of the answers with respect to each tensor, or a perturbation for the buffer."""
    net = tiny()
    image = torch.rand(1, 1, 64, 64, 64)
    t = net.words({"class": torch.tensor([0, 5])})
    answers = net.decode(net.encode(image), spoken.Marks(torch.zeros(2, dtype=torch.int64), tokens=t)).logits
    names, tensors = zip(*net.named_parameters(), strict=True)
    grads = torch.autograd.grad((answers * torch.randn_like(answers)).sum(), tensors, allow_unused=True)
    idle = [name for name, grad in zip(names, grads, strict=True) if grad is None or not grad.abs().max() > 0]
    assert not idle
    assert not torch.equal(answers[0], answers[1])  # the rows of organ_embedding


@pytest.mark.parametrize(
    ("words", "channels"),
    [
        ("liver", [5]),
        ("Hepatic vessel", [14]),
        ("postcava", [8]),
        ("kidney (L)", [2]),
        ("kidneys", [2, 1]),
        ("adrenal", [12, 11]),
        ("femoral head", [22, 23]),
        ("tumour of the pancreas", [27]),
        ("renal cyst", [31]),
    ],
)
def test_words_become_channels(words, channels):
    assert frame().asked(words, modality="CT").tokens["class"].tolist() == channels


def test_what_it_does_not_know_is_said():
    with pytest.raises(NoSuchStructure, match=r'"left ventricle" is not among the 31 structures'):
        frame().asked("left ventricle", modality="CT")
    with pytest.raises(NoSuchStructure, match=r"near: .*kidney"):
        frame().asked("kidny tumor", modality="CT")
    with pytest.raises(NoSuchStructure, match="only with both sides together"):
        frame().asked("left femoral head", modality="CT")
    assert all(anatomy.resolve(name).name == name and anatomy.resolve(name).known for name in NAMES)


@pytest.mark.parametrize("axes", probes.orientations())
def test_the_image_lies_where_it_lies(axes):
    where = probes.grid(axes)
    volume, mask = probes.scene(where)
    assert probes.off_voxels(say(probe(patch=64), volume, "liver")[0].mask(where), mask) <= 1


@pytest.mark.parametrize(("spacing", "slant"), [((0.9, 1.1, 5.0), 0.0), ((2.0, 2.5, 4.0), 12.0)])
def test_other_spacings_and_slants(spacing, slant):
    where = probes.grid("LPS", spacing_mm=spacing, slant=slant)
    volume, mask = probes.scene(where, slant=slant)
    coarse = max(1.0, *(1.5 / s for s in where.spacing_mm))
    assert probes.off_voxels(say(probe(), volume, "liver")[0].mask(where), mask) <= coarse


def test_a_small_scan_is_padded():
    volume, mask = probes.scene(probes.grid("RAS"))
    assert probes.off_voxels(say(probe(patch=128), volume, "liver")[0].mask(volume.grid), mask) <= 1


def test_hounsfield_units_become_0_to_1():
    grid = Grid((4, 5, 6), np.diag([1.5, 1.5, 1.5, 1.0]))
    array = np.zeros(grid.shape, np.float32)
    array[0, 0, :5] = (-2000, -175, 37.5, 250, np.nan)
    seen = frame().prepare(Volume.of(array, grid, (Channel("CT"),))).array
    np.testing.assert_allclose(seen[0, 0, 0, :5], (0, 0, 0.5, 1, 0), rtol=0, atol=1e-6)


def test_windows_run_once_for_all_names():
    volume = probes.scene(probes.grid("RAS"))[0]
    model, store = probe(), FeatureStore()
    together = say(model, volume, "liver", "kidneys", "spleen", store=store)
    windows = model.parts.net.windows
    assert windows > 1 and model.parts.net.said == 1
    alone = say(model, volume, "spleen", store=store)[0]
    assert model.parts.net.windows == windows
    assert np.array_equal(together[2].logits, alone.logits)
    say(model, volume, "aorta", store=store)
    assert model.parts.net.windows == 2 * windows


def test_few_sums_at_a_time_change_nothing(monkeypatch):
    volume = noise(probes.scene(probes.grid("RAS"))[0])
    expected = say(probe(), volume, "liver", "spleen")
    monkeypatch.setattr(spoken, "SUMS_BYTES", 1)
    for a, b in zip(say(probe(), volume, "liver", "spleen"), expected, strict=True):
        assert np.array_equal(a.logits, b.logits)


def test_an_absent_structure_is_absent():
    volume, mask = probes.scene(probes.grid("RAS"))
    here = say(probe(level=0.5), volume, "liver")[0]
    nowhere = say(probe(level=1.1), volume, "liver")[0]
    value = float(frame().prepare(volume).array.max())
    assert here.presence == pytest.approx(1 / (1 + np.exp(-20 * (value - 0.5))), abs=1e-4)
    assert nowhere.presence == pytest.approx(1 / (1 + np.exp(-20 * (value - 1.1))), abs=1e-4)
    assert nowhere.absent and not nowhere.mask(volume.grid).any()
    assert here.mask(volume.grid).sum() == pytest.approx(mask.sum(), rel=0.1)


@pytest.mark.parametrize("blend", ["probabilities", "logits"])
def test_windows_are_averaged(blend):
    """Every window answers with a number of its own: the blend at each voxel is their weighted mean."""
    tiling = Tiling.monai((32, 32, 32), overlap=0.5)
    grid = Grid((48, 32, 32), np.diag([1.5, 1.5, 1.5, 1.0]))
    volume = Volume.of(np.zeros(grid.shape, np.float32), grid, (Channel("CT"),))
    model = probed(Spoken(Parts(None, frame(32), None, "probe"), tiling, blend=blend), 0.0)
    given = iter([3.0, -1.0])
    model.parts.net.encode = lambda image: torch.full_like(image, next(given))
    model.parts.net.slope = 1.0
    prepared = frame(32).prepare(volume)
    assert prepared.grid.shape == grid.shape
    found = torch.cat(list(model.logits(prepared, frame().asked("liver", modality="CT"))), dim=1)[0, :, 3, 4]
    weights = tiling.weights()[:, 3, 4].double().numpy()
    sums, counts = np.zeros(48), np.zeros(48)
    for start, logit in ((0, 3.0), (16, -1.0)):
        value = 1 / (1 + np.exp(-logit)) if blend == "probabilities" else logit
        sums[start : start + 32] += weights * value
        counts[start : start + 32] += weights
    mean = sums / counts
    expected = np.log(mean / (1 - mean)) if blend == "probabilities" else mean
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def loaded(file):
    return universal.load(checkpoint=str(file), accept_non_commercial=True, patch=64, overlap=0.25)


@pytest.mark.slow
def test_answers_are_pure(loaded):
    grid = Grid((30, 40, 33), np.diag([3.0, 2.0, 2.5, 1.0]))
    array = np.random.default_rng(0).normal(30, 80, grid.shape).astype(np.float32)
    volume = Volume.of(array, grid, (Channel("CT"),))
    kept = volume.array.copy()
    a = say(loaded, volume, "liver")[0]
    b, again = say(loaded, volume, "kidneys", "liver")
    assert np.array_equal(a.mask(grid), again.mask(grid))
    np.testing.assert_allclose(a.logits, again.logits, rtol=0, atol=1e-4)
    assert np.array_equal(say(loaded, volume, "liver")[0].logits, a.logits)
    assert np.array_equal(volume.array, kept)
    for answer in (a, b):
        assert 0 <= answer.presence <= 1 and np.isfinite(answer.logits).all()
        assert answer.mask(grid).any() == (answer.presence > 0.5)


def test_only_text_is_understood(loaded):
    volume = probes.scene(probes.grid("RAS"))[0]
    state = loaded.encode(volume, store=FeatureStore())
    with pytest.raises(PromptError, match="takes the structure's name as text; came: points"):
        loaded.segment(state, [Ask(Prompt((Points(np.zeros((1, 3)), np.array([True])),)))])
    assert loaded.segment(state, []) == []
    assert loaded.parts.frame.marks(named("liver"), state.volume.grid, None).tokens["class"].tolist() == [5]
    assert not len(loaded.parts.frame.follow(np.zeros((1, 1, 1), bool), state.volume.grid).image)


def test_its_errors(net, file, tmp_path):
    with pytest.raises(WeightsError, match="non-commercial use only"):
        universal.load(checkpoint=str(file))
    for wrong in ({"patch": 100}, {"patch": 32}, {"overlap": 1.0}):
        with pytest.raises(SpecError, match=f"universal: {next(iter(wrong))} is"):
            universal.load(checkpoint=str(file), accept_non_commercial=True, **wrong)
    path = tmp_path / "other.pth"
    torch.save({"net": {"module.conv.weight": torch.zeros(3)}}, path)
    with pytest.raises(WeightsError, match=r"other.pth is not a file of CLIP-Driven .* is missing"):
        universal.load(checkpoint=str(path), accept_non_commercial=True)
    torch.save({"net": {**public(net), "module.more.thing": torch.zeros(2, 3)}}, path)
    with pytest.raises(WeightsError, match=r"1 not of this model \(as more.thing\)"):
        universal.load(checkpoint=str(path), accept_non_commercial=True)


def test_config_names_the_channels(net, tmp_path):
    torch.save({"net": public(net)}, tmp_path / "checkpoint.pth")
    told = [f"rib {i}" for i in range(1, 13)] + [f"C{i}" for i in range(1, 8)] + [f"T{i}" for i in range(1, 13)]
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"classes": [*told, "liver"]}))
    model = universal.load(checkpoint=str(tmp_path), accept_non_commercial=True)
    assert model.parts.frame.asked("liver", modality="CT").tokens["class"].tolist() == [31]
    config.write_text(json.dumps({"classes": told}))
    with pytest.raises(WeightsError, match="has 31 entries, expected 32 names"):
        universal.load(checkpoint=str(tmp_path), accept_non_commercial=True)
    config.write_text(json.dumps({"classes": [*told, "C1"]}))
    with pytest.raises(WeightsError, match='names "vertebra C1" twice'):
        universal.load(checkpoint=str(tmp_path), accept_non_commercial=True)


def test_the_published_size_is_counted():
    (size,) = universal.published()
    assert parameters(size.net) == pytest.approx(universal.CARD.parameters_m * 1e6, rel=0.01)
    flops = {stage: counted(call) for stage, call in size.stages.items()}
    assert flops["encoder"] > 100 * flops["one structure"] > 0
    assert size.net.generate.weight.shape[0] == GENERATED == 153


@pytest.mark.slow
@pytest.mark.parametrize("check", EVERY, ids=lambda check: check.__name__.removeprefix("check_"))
def test_the_contract_of_every_model(check, file):
    check(f"universal(checkpoint={file.parent}, accept_non_commercial=true, patch=64)")
