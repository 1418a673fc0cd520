"""UniverSeg: the net, the support set and how it is chosen, the folder, the recipe, wrong input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import labelled_cases
from segwise import api, assemble
from segwise.demo import write_scan
from segwise.errors import NoSuchStructure, SpecError, TrainingError, WeightsError
from segwise.geometry import Channel, Volume
from segwise.in_context import adapt
from segwise.learn import Who
from segwise.models import universeg
from segwise.nets.contract import Marks
from segwise.nets.universeg import CrossConv, UniverSegNet, described, widths_of
from segwise.prompt import Prompt, Text
from segwise.segmenter import Ask
from segwise.store import FeatureStore
from segwise.synth.imaging import ct
from segwise.synth.torso import torso
from segwise.training.recipes import universeg_nano
from test_learn import cli

WIDTHS, SIZE = (4, 6, 8), 32


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("eggs") / "data"
    labelled_cases.write(root, 4)
    return root


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A checkpoint of a tiny net with random weights, as a file under the released key names."""
    folder = tmp_path_factory.mktemp("net")
    torch.manual_seed(3)
    save_file(UniverSegNet(WIDTHS, size=SIZE).state_dict(), folder / "small.safetensors")
    (folder / "config.json").write_text(json.dumps({"size": SIZE}))
    return f'universeg(checkpoint="{folder / "small.safetensors"}")'


@pytest.fixture(scope="module")
def folder(data, small, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "set"
    adapt(small, Who(data=data, left_out=("case003",), seed=1), out, support=4)
    return out


# ---------------------------------------------------------------- the net


def test_the_released_size_and_its_keys():
    with torch.device("meta"):
        net = UniverSegNet()
    shapes = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    assert sum(p.numel() for p in net.parameters()) == 1_182_785
    assert shapes["enc_blocks.0.cross.cross_conv.weight"] == (64, 3, 3, 3)
    assert shapes["enc_blocks.3.support.vmapped.conv.bias"] == (64,)
    assert shapes["dec_blocks.2.cross.cross_conv.weight"] == (64, 256, 3, 3)
    assert shapes["out_conv.conv.weight"] == (1, 64, 1, 1) and len(shapes) == 7 * 6 + 2
    assert widths_of(shapes, name="x") == (64, 64, 64, 64)


def test_outputs_are_those_of_the_original():
    """Stored from JJGO/UniverSeg (833a0c3) with random weights of widths 2, 3, 4; only sums are in another order."""
    with np.load(Path(__file__).parent / "figures" / "universeg.npz") as kept:
        given = {key: torch.from_numpy(kept[key]) for key in kept.files}
    net = UniverSegNet((2, 3, 4), size=16).eval()
    net.load_state_dict({key.removeprefix("net."): value for key, value in given.items() if key.startswith("net.")})
    found = net(given["query"], given["images"], given["masks"])
    assert given["logits"].std() > 0.05
    assert (found - given["logits"]).abs().max() <= max(1e-5, 1e-3 * float(given["logits"].std()))


def test_a_cross_convolution_is_one_of_the_joined_channels():
    torch.manual_seed(0)
    layer = CrossConv(2, 3, 5)
    query, support = torch.rand(2, 2, 6, 7), torch.rand(2, 4, 3, 6, 7)
    joined = torch.cat([query[:, None].expand(-1, 4, -1, -1, -1), support], dim=2).flatten(0, 1)
    wanted = layer.cross_conv(joined).unflatten(0, (2, 4))
    assert torch.allclose(layer(query, support), wanted, atol=1e-6)


def test_the_order_of_the_support_set_does_not_matter_and_its_masks_do():
    torch.manual_seed(1)
    net = UniverSegNet(WIDTHS, size=SIZE).eval()
    query, images = torch.rand(1, 1, SIZE, SIZE), torch.rand(1, 3, 1, SIZE, SIZE)
    masks = (torch.rand_like(images) > 0.5).float()
    found = net(query, images, masks)
    assert found.shape == (1, 1, SIZE, SIZE)
    assert torch.allclose(net(query, images.flip(1), masks.flip(1)), found, atol=1e-5)
    assert (net(query, images, 1 - masks) - found).abs().max() > 1e-3


def test_sides_must_halve_as_often_as_there_are_levels():
    with pytest.raises(SpecError, match="halve 2 times"):
        UniverSegNet(WIDTHS, size=30)


def test_the_most_like_are_chosen():
    torch.manual_seed(0)
    net = UniverSegNet(WIDTHS, size=SIZE, structures=1, pool=5).eval()
    net.images.copy_(torch.randint(0, 256, net.images.shape, dtype=torch.uint8))
    query = net.images[0, 3][None, None].float() / 255
    assert net.chosen(query, 0, 2, like=True)[0] == 3
    assert net.chosen(query, 0, 2, like=False).tolist() == [0, 1]
    assert len(net.chosen(query, 0, 9, like=True)) == 5
    assert torch.allclose(described(query).norm(dim=1), torch.ones(1))
    tokens = {key: torch.tensor([value]) for key, value in {"class": 0, "support": 2, "like": 1}.items()}
    assert net.decode(
        net.encode(query[:, :, None]), Marks(torch.zeros(1, dtype=torch.int64), tokens=tokens)
    ).logits.shape == (*(1, 1, 1, SIZE, SIZE),)


# ---------------------------------------------------------------- the support set


def test_a_folder_holds_slices_with_their_masks(folder):
    card = json.loads((folder / "model.json").read_text())
    assert card["spec"] == "universeg(support=4)" and set(card["files"]) == {"checkpoint.pth", "config.json"}
    assert card["data"]["subjects"]["test"] == ["case003"]
    model = assemble.segmenter(str(folder))
    net, frame = model.parts.net, model.parts.frame
    assert frame.names == ("liver", "spleen") and frame.support == 4 and frame.choose == "like"
    assert net.images.shape == net.masks.shape == (2, 16, SIZE, SIZE)
    assert not model.parts.weights.startswith("unknown")
    for k in range(2):  # both are brighter than what is around them; one slice in four shows nothing
        inside = net.masks[k].bool()
        assert net.images[k][inside].float().mean() > net.images[k][~inside].float().mean() + 20
        assert int((~inside.flatten(1).any(dim=1)).sum()) == 4


def test_volumes_are_answered_by_name(folder):
    model = assemble.segmenter(str(folder))
    volume = labelled_cases.volume(9)
    state = model.encode(Volume.of(volume.array, volume.grid, (Channel("MR"),)), store=FeatureStore())
    found = model.segment(state, [Ask(Prompt((Text("liver"),))), Ask(Prompt((Text("spleen"),)))])
    assert all(0 <= p.presence <= 1 and p.mask(volume.grid).shape == volume.grid.shape for p in found)
    with pytest.raises(NoSuchStructure):
        model.segment(state, [Ask(Prompt((Text("pancreas"),)))])


def test_the_choice_and_the_size_of_the_set_are_arguments(folder, tmp_path, data, small):
    first = assemble.segmenter(str(folder))
    other = assemble.segmenter(f'universeg(checkpoint="{folder}", support=2, choose=random)')
    assert first.digest != other.digest and other.parts.frame.support == 2
    with pytest.raises(SpecError, match="expected 1 or more"):
        assemble.segmenter(f'universeg(checkpoint="{folder}", support=0)')
    again = adapt(small, Who(data=data, left_out=("case003",), seed=1), tmp_path / "b", support=4)
    assert again.pool == 16
    assert (tmp_path / "b" / "checkpoint.pth").read_bytes() == (folder / "checkpoint.pth").read_bytes()


def test_the_command_writes_it_and_compare_takes_it(data, small, tmp_path):
    out = tmp_path / "mine"
    code, said = cli("adapt", small, data, "-o", out, "--support", 3, "--choose", "random", "--leave-out", "case000")
    assert code == 0, said
    assert "3 slices each of liver, spleen" in said and f"segwise compare DATA -m {out}" in said
    code, said = cli("compare", data, "-m", out, "-p", "name", "-o", tmp_path / "run")
    assert code == 0, said
    assert len(api.ranking(tmp_path / "run")) == 1


def test_sides_are_not_joined(folder):
    frame = universeg.SupportFrame(names=("left kidney", "right kidney"))
    assert frame.asked("right kidney", modality="CT").tokens["class"].tolist() == [1]
    with pytest.raises(NoSuchStructure, match="ask for one of them"):
        frame.asked("kidney", modality="CT")


# ---------------------------------------------------------------- the recipe


def test_a_few_steps_of_the_recipe_run(monkeypatch):
    monkeypatch.setattr(universeg_nano, "WIDTHS", (4, 4))
    made = universeg_nano.recipe(seed=1, steps=2)
    stream = universeg_nano.Tasks(1, size=universeg_nano.SIZE, tasks=2, persons=0.0)
    first, again = stream.batch(5), stream.batch(5)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert first.query.shape == (2, 1, 64, 64) and first.images.shape == first.masks.shape
    assert first.query.min() >= 0 and first.query.max() <= 1 and first.masks.max() > 0.9
    optimizer = torch.optim.Adam(made.objective.net.parameters(), 1e-2)
    losses = []
    for _ in range(6):
        for loss, measured in made.objective.losses(first, np.random.default_rng(0)):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss))
            assert set(measured) == {"dsc"}
    assert losses[-1] < losses[0]


def test_what_the_recipe_saves_is_loaded(tmp_path, data, monkeypatch):
    monkeypatch.setattr(universeg_nano, "WIDTHS", (4, 4))
    made = universeg_nano.recipe(seed=1, steps=2)
    path, _ = made.save(tmp_path, made.objective.net, {})
    found = adapt(f'universeg(checkpoint="{path}")', Who(data=data), tmp_path / "set", support=2)
    assert assemble.segmenter(str(tmp_path / "set")).parts.frame.size == 64 and found.pool == 8


# ---------------------------------------------------------------- wrong input


def test_wrong_input_gets_one_message(data, small, tmp_path):
    for words, said in (
        ((small, "-o", tmp_path / "a", "--choose", "best"), "expected 1 slice or more, and like or random"),
        ((small, "-o", tmp_path / "a", "--target", "pancreas"), 'no training case has a structure "pancreas"'),
        ((small.replace(")", ", support=0)"), "-o", tmp_path / "a"), "support 0, choose like: expected 1 slice"),
        ((small.replace(")", ", size=nano)"), "-o", tmp_path / "a"), "expected size= or checkpoint=, not both"),
        ((f"{small}+lora", "-o", tmp_path / "a"), "a support set is not trained; expected universeg("),
        (("sam(size=nano)+lora", "-o", tmp_path / "a", "--support", 3), "are of universeg"),
    ):
        code, found = cli("adapt", words[0], data, *words[1:])
        assert code == 2 and said in " ".join(found.split()), found
    with pytest.raises(WeightsError, match="has no support set"):
        assemble.segmenter(small)
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="no checkpoint of UniverSeg"):
        adapt(f'universeg(checkpoint="{tmp_path / "other.pth"}")', Who(data=data), tmp_path / "b")


def test_a_structure_on_no_slice_is_refused(tmp_path, small):
    import nibabel

    labelled_cases.write(tmp_path / "data", 2)
    for path in (tmp_path / "data" / "labelsTr").iterdir():
        image = nibabel.load(path)
        labels = np.asarray(image.dataobj).copy()
        labels[labels == 2] = 0
        nibabel.save(nibabel.Nifti1Image(labels, image.affine), path)
    with pytest.raises(TrainingError, match="spleen is on no slice of the 2 training cases"):
        adapt(small, Who(data=tmp_path / "data"), tmp_path / "out")


# ---------------------------------------------------------------- the small net that comes with Segwise


def test_the_small_net_answers_a_person_from_two_others(tmp_path):
    """Torsos, which nothing was trained on: better than the place where the others have it, and it says it is small."""
    for seed in (31, 32, 33):
        write_scan(
            tmp_path / "data" / f"p{seed}", ct(torso(seed, spacing_mm=3.0), seed, spacing_mm=(6.0, 5.0, 5.0)), seed
        )
    names = ("liver", "spleen", "left kidney")
    adapt(
        "universeg", Who(data=tmp_path / "data", targets=names, left_out=("imaginary_33",)), tmp_path / "set", support=4
    )
    model = assemble.segmenter(str(tmp_path / "set"))
    assert json.loads((tmp_path / "set" / "model.json").read_text())["spec"] == "universeg(size=nano, support=4)"
    assert model.parts.frame.size == 64
    (case,) = [case for case in api.read_cases(tmp_path / "data") if case.subject == "imaginary_33"]
    volume = case.volume()
    state = model.encode(volume, store=FeatureStore())
    scores = []
    for target in case.targets(names, volume.grid):
        (said,) = model.segment(state, [Ask(Prompt((Text(target.name),)))])
        found = said.mask(volume.grid)
        scores.append(2 * (found & target.mask).sum() / (found.sum() + target.mask.sum()))
    assert np.mean(scores) > 0.5
