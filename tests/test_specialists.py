"""Our own specialists: folders, fresh nets, arguments, errors, and what their nets are made of."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import small_specialists as small
from segwise import assemble, catalog
from segwise.errors import NoSuchStructure, SpecError, WeightsError
from segwise.geometry import Channel, Grid, Volume
from segwise.nets import nnunet as official
from segwise.nets import planned, umamba
from segwise.prompt import Prompt, Text
from segwise.segmenter import Ask
from segwise.spec import Spec
from segwise.store import FeatureStore

NAMES = sorted(small.SMALL)
DEEP = {  # model -> a tiny net that answers at coarser sizes while training
    "unet": {"features": "4-6-8-8"},
    "transunet": {"features": "4-6-8-8"},
    "resenc": {"features": "4-6-8", "blocks": "1-1-1"},
    "umamba": {"features": "4-6-8", "blocks": "1-1-1"},
    "mednext": {},
}


def built(name: str, **arguments):
    return assemble.segmenter(Spec(name, arguments))


def fresh(folder: Path, name: str, *, seed: int = 0, given: dict | None = None, **said):
    """A net with fresh weights."""
    path = small.written(folder, small.plan(name, **said))
    return built(name, plan=str(path), untrained=seed, **(given or {}))


def scan(shape=(12, 20, 18), n: int = 1) -> Volume:
    """A bright ball in noise; spacing that differs on every axis."""
    grid = Grid(shape, np.diag([2.5, 1.5, 4.0, 1.0])[[2, 1, 0, 3]])
    rng = np.random.default_rng(0)
    place = np.stack(np.meshgrid(*(np.arange(k) - k // 2 for k in shape), indexing="ij"))
    ball = 150.0 * ((place**2).sum(axis=0) < 20)
    return Volume.of((rng.normal(100, 20, (n, *shape)) + ball).astype(np.float32), grid, [Channel("MR")] * n)


def asked(model, volume: Volume, *names: str):
    state = model.encode(volume, store=FeatureStore())
    return [answer.mask(volume.grid) for answer in model.segment(state, [Ask(Prompt((Text(name),))) for name in names])]


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_answers_by_the_names_of_its_labels(tmp_path, name):
    folder = small.trained(tmp_path, name, labels={"background": 0, "kidney_left": 1, "hat rack": 2}, channels=2)
    model, file = built(name, checkpoint=str(folder)), built(name, checkpoint=str(folder / "weights.safetensors"))
    assert model.parts.labels == ("left kidney", "hat rack")
    assert model.digest == file.digest and len(model.parts.weights) == 64  # trained here, so not unknown
    volume = scan(n=2)
    left, same, rack = asked(model, volume, "left kidney", "L kidney", "hat rack")
    assert left.shape == volume.grid.shape and np.array_equal(left, same) and not (left & rack).any()
    with pytest.raises(NoSuchStructure):
        asked(model, volume, "liver")


def test_a_net_that_was_shown_the_answer_gives_it(tmp_path):
    """A unet fitted to one scan, saved and loaded, marks the ball: labels, spacing and axes come through."""
    labels = {"background": 0, "liver": 1}
    model = fresh(tmp_path, "unet", labels=labels, features="6-8")
    volume = scan()
    seen = model.parts.frame.prepare(volume)
    reference = Volume.of((volume.array > 190).astype(np.float32), volume.grid, volume.channels)
    target = torch.from_numpy(np.array(reference.on(seen.grid, order=1).array > 0.5)).long()
    view, net = torch.from_numpy(np.array(seen.array))[None], model.parts.net.train()
    room = [n + -n % 16 for n in view.shape[2:]]
    pad = [side for n, r in zip(view.shape[:1:-1], room[::-1], strict=True) for side in (0, r - n)]
    view, target = torch.nn.functional.pad(view, pad), torch.nn.functional.pad(target, pad)
    optimiser = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(40):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(net(view)[0], target).backward()
        optimiser.step()
    from safetensors.torch import save_file

    save_file(planned.stored(net), tmp_path / "weights.safetensors")
    (mask,) = asked(built("unet", checkpoint=str(tmp_path)), volume, "liver")
    want = reference.array[0] > 0.5
    assert 2 * (mask & want).sum() / (mask.sum() + want.sum()) > 0.8


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_learns_and_the_finest_logits_come_first(tmp_path, name):
    net = fresh(tmp_path, name, channels=3, patch=(32, 32, 64), **DEEP.get(name, {})).parts.net.train()
    answers = net(torch.randn(2, 3, 32, 32, 64, generator=torch.Generator().manual_seed(0)))
    assert answers[0].shape == (2, 3, 32, 32, 64)
    sizes = [answer.shape[2:].numel() for answer in answers]
    assert sizes == sorted(set(sizes), reverse=True) and (len(sizes) > 1) == (name in DEEP)
    sum(answer.square().mean() for answer in answers).backward()
    without = [key for key, value in net.named_parameters() if value.grad is None or not value.grad.isfinite().all()]
    assert not without
    net.eval()
    with torch.no_grad():
        assert len(net(torch.zeros(1, 3, 32, 32, 64))) == 1


@pytest.mark.parametrize("name", ["unet", "mednext", "transunet"])
def test_without_deep_supervision_the_finest_answers_alone(tmp_path, name):
    net = fresh(tmp_path, name, patch=(16, 16, 32), deep=False, **DEEP[name]).parts.net.train()
    (answer,) = net(torch.zeros(1, 1, 16, 16, 32))
    answer.square().mean().backward()
    assert not [key for key, value in net.named_parameters() if value.grad is None]


@pytest.mark.parametrize("name", NAMES)
def test_images_of_a_batch_know_nothing_of_each_other(tmp_path, name):
    net = fresh(tmp_path, name).parts.net
    images = torch.randn(2, 1, *small.PATCH.get(name, (16, 16, 32)), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        together, alone = net(images)[0], torch.cat([net(image[None])[0] for image in images])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_fresh_weights_come_from_the_seed_alone(tmp_path, name):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, two, other = (fresh(tmp_path, name, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    state = one.parts.net.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in two.parts.net.state_dict().items())
    assert any(not torch.equal(value, state[key]) for key, value in other.parts.net.state_dict().items())
    assert one.digest == two.digest != other.digest
    assert one.parts.weights.startswith("random 3")  # shown, never ranked
    assert one.parts.net.origin["name"] == name


def test_fresh_nets_of_one_seed_share_no_features(tmp_path):
    with_, without = (fresh(tmp_path / str(skips), "unet", skips=skips) for skips in (True, False))
    assert with_.encoder != without.encoder


def test_skip_connections_are_really_taken_away(tmp_path):
    """Fewer parameters, and the finest features reach the answer only through the coarser ones."""
    nets = {skips: fresh(tmp_path, "unet", skips=skips).parts.net for skips in (True, False)}
    counts = {skips: sum(p.numel() for p in net.parameters()) for skips, net in nets.items()}
    assert counts[True] - counts[False] == 27 * (6 * 6 + 4 * 4)  # two decoder stages see half as many channels
    image = torch.randn(1, 1, 16, 16, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        for skips, net in nets.items():
            features = net.encode(image)
            changed = [torch.zeros_like(features[0]), torch.zeros_like(features[1]), features[2]]
            assert torch.equal(net.decode(features)[0], net.decode(changed)[0]) == (not skips)
        assert not torch.equal(nets[False](image)[0], nets[False](image + image.square())[0])


def test_resenc_has_the_keys_of_nnunet(tmp_path):
    """What nnU-Net's own network of that layout is called, in one tensor each."""
    net = fresh(tmp_path, "resenc").parts.net
    same = official.UNet(net.plan, channels=1, classes=3)
    assert list(same.state_dict()) == list(net.state_dict())
    assert set(planned.stored(net)) == set(official.unshared(list(net.state_dict())))
    image = torch.randn(1, 1, 16, 16, 32)
    same.load_state_dict(net.state_dict())
    with torch.no_grad():
        assert torch.equal(same.eval()(image)[0], net(image)[0])


def test_a_scan_is_the_recurrence_of_its_paper():
    """One channel, one state: h = 0.5 h + x with step 1, decay ln 0.5, and what leaves is doubled."""
    x = torch.tensor([1.0, 0.0, 0.0, 4.0])[None, :, None]
    one = torch.ones(1, 4, 1)
    found = umamba.scanned(x, one, torch.tensor([[math.log(0.5)]]), one, 2 * one)
    torch.testing.assert_close(found[0, :, 0], torch.tensor([2.0, 1.0, 0.5, 8.25]))


def test_a_word_sees_those_before_it_and_none_after():
    block = umamba.Mamba(6, states=3).eval()
    words = torch.randn(1, 9, 6, generator=torch.Generator().manual_seed(0))
    changed = words.clone()
    changed[:, 5] += 1
    with torch.no_grad():
        differs = (block(words) != block(changed)).any(dim=-1)[0]
    assert differs.tolist() == [False] * 5 + [True] * 4


@pytest.mark.parametrize("name", NAMES)
def test_a_patch_that_cannot_be_halved_is_refused_with_the_divisor(tmp_path, name):
    wanted = fresh(tmp_path, name).parts.net.multiple
    with pytest.raises(SpecError, match=rf"{name}: the patch is 33×{2 * wanted}×{wanted}; .* divisible by {wanted}"):
        fresh(tmp_path, name, patch=(33, 2 * wanted, wanted))
    with pytest.raises(SpecError, match=f"at least one side of {2 * wanted}"):
        fresh(tmp_path, name, patch=(wanted,) * 3)
    net = fresh(tmp_path, name, patch=(2 * wanted, wanted, wanted)).parts.net
    with pytest.raises(SpecError, match=f"divisible by {wanted}"):
        net(torch.zeros(1, 1, wanted, wanted, wanted + 1))


def test_a_net_with_learned_places_sees_its_patch_only(tmp_path):
    for name in ("unetr", "transunet"):
        net = fresh(tmp_path, name, patch=(16, 32, 16)).parts.net
        with pytest.raises(SpecError, match="sees patches of 16×32×16, came 32×16×16"):
            net(torch.zeros(1, 1, 32, 16, 16))


def test_regions_that_overlap_are_painted_in_their_order(tmp_path):
    said = small.plan("unet", labels={"background": 0, "kidney": [1, 2], "kidney tumor": [2]})
    said["dataset"]["regions_class_order"] = [1, 2]
    model = built("unet", plan=str(small.written(tmp_path, said)), untrained=0)
    assert model.parts.net(torch.zeros(1, 1, 16, 16, 32))[0].shape[1] == 2
    whole, tumor = asked(model, scan(), "kidney", "kidney tumor")
    assert (whole >= tumor).all()


def test_one_way_and_all_of_it(tmp_path):
    path = str(small.written(tmp_path, small.plan("unet")))
    with pytest.raises(WeightsError, match=r"unet has no public weights.* segwise train unet DATA"):
        built("unet")
    with pytest.raises(SpecError, match="needs both"):
        built("unet", plan=path)
    with pytest.raises(SpecError, match="needs both"):
        built("unet", untrained=1)
    with pytest.raises(SpecError, match="give one way"):
        built("unet", checkpoint=str(tmp_path), untrained=1)


def test_plan_json_says_the_arguments(tmp_path):
    folder = str(small.trained(tmp_path, "unet", skips=False))
    assert not built("unet", checkpoint=folder).parts.net.skips
    assert built("unet", checkpoint=folder, skips=False, features="4-6-8").parts.labels == ("liver", "spleen")
    with pytest.raises(SpecError, match=r"skips is True, but its plan.json says False; leave skips out"):
        built("unet", checkpoint=folder, skips=True)
    with pytest.raises(SpecError, match="residual is True, but it was trained with False"):
        built("unet", checkpoint=folder, residual=True)
    assert fresh(tmp_path / "b", "unet", given={"residual": True}).parts.net.origin["arguments"]["residual"] is True


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda said: said["net"].update(name="vnet"), "is of the model vnet, not of unet"),
        (lambda said: said.pop("net"), "names no net"),
        (lambda said: said["net"]["arguments"].update(colour="red"), "arguments of unet: colour; it has features"),
        (lambda said: said["net"]["arguments"].update(skips="yes"), "skips of unet is 'yes', expected as True"),
        (lambda said: said["net"]["arguments"].update(features="4-x"), 'features is "4-x", expected 2 or more'),
        (lambda said: said["net"]["arguments"].update(features="4-6-9"), "do not fit unet"),
        (lambda said: said.pop("dataset"), "holds no plans and dataset"),
        (lambda said: said["plans"].update(configurations={}), "no configuration"),
        (lambda said: said["plans"]["configurations"]["3d_fullres"].pop("spacing"), "cannot be read .KeyError"),
        (lambda said: said["plans"]["configurations"]["3d_fullres"].update(patch_size=[16, 16]), "three sides"),
        (lambda said: said["dataset"].update(labels={"background": 0, "liver": 1}), "heads.0.bias is"),
    ],
)
def test_a_folder_whose_plan_does_not_fit(tmp_path, change, message):
    folder = small.trained(tmp_path, "unet")
    said = json.loads((folder / "plan.json").read_text())
    change(said)
    (folder / "plan.json").write_text(json.dumps(said))
    with pytest.raises((WeightsError, SpecError), match=message):
        built("unet", checkpoint=str(folder))


def test_files_that_are_not_there_or_broken(tmp_path):
    with pytest.raises(WeightsError, match=r"has no weights.safetensors"):
        built("unet", checkpoint=str(tmp_path))
    folder = small.trained(tmp_path, "unet", vouched=False)
    assert built("unet", checkpoint=str(folder)).parts.weights.startswith("unknown:")
    (folder / "plan.json").write_text("{")
    with pytest.raises(WeightsError, match="is not JSON"):
        built("unet", checkpoint=str(folder))
    (folder / "plan.json").unlink()
    with pytest.raises(WeightsError, match=r"plan.json cannot be read"):
        built("unet", checkpoint=str(folder))


def test_every_small_net_is_of_the_catalogue_and_the_sizes_are_those_of_the_card():
    for name in NAMES:
        module, card = catalog.member("models", name).load(), catalog.card("models", name)
        net = module.net(channels=1, classes=2, patch=(32, 32, 64))
        assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(card.parameters_m, rel=0.05), name
        assert card.family == "specialist" and card.takes == ("text",) and not card.weights
