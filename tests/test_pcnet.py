"""PCNet: its mixing of categories, files, names and groups, presence, places, errors, published size."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import probes
from segwise import anatomy
from segwise.errors import NoSuchStructure, SpecError, WeightsError
from segwise.geometry import Channel, Grid, Volume
from segwise.lifts.spoken import Spoken
from segwise.lifts.tiles import Tiling
from segwise.models import pcnet
from segwise.models._named import NamedFrame
from segwise.nets.contract import Marks
from segwise.nets.flops import counted, parameters
from segwise.nets.pcnet import PCNet, net_of, official
from segwise.nets.swin_unetr import SwinSize
from segwise.segmenter import Parts
from spoken_probes import probed, randomised, say
from test_contracts_models import EVERY

NODES = ["", "liver", "left kidney", "right kidney", "spleen", "kidneys", "abdominal cavity"]
TINY = SwinSize(width=12, depths=(1, 1, 1, 1), heads=(2, 3, 4, 6), window=3, classes=len(NODES))


def tiny() -> PCNet:
    net = randomised(PCNet(TINY, text=5, inner=6, pooled=2))
    net.embedding = F.normalize(net.embedding)
    net.graph = net.embedding @ net.embedding.T
    return net


def public(net: PCNet) -> dict[str, torch.Tensor]:
    """A net's tensors under names as a public file may have them: only the backbone's are known."""
    other = {"weigh_in": "prompt.0", "weigh_out": "prompt.3", "fuse": "last"}
    found = {}
    for key, value in net.state_dict().items():
        parent, _, kind = key.rpartition(".")
        name = {"embedding": "table", "graph": "relations"}.get(key, key.replace("backbone.", "net."))
        found[f"{other[parent]}.{kind}" if parent in other else name] = value.clone()
    return found


@pytest.fixture(scope="module")
def net() -> PCNet:
    return tiny()


@pytest.fixture(scope="module")
def folder(net, tmp_path_factory):
    path = tmp_path_factory.mktemp("pcnet")
    torch.save({"state_dict": public(net)}, path / "checkpoint.pth")
    (path / "config.json").write_text(json.dumps({"nodes": NODES, "patch": 64, "window_hu": [-200, 300]}))
    return path


def frame(patch: int = 48) -> NamedFrame:
    names = {name: (i,) for i, name in enumerate((pcnet.CARD.labels or {})[""], start=1)}
    return NamedFrame(names, patch, pcnet.SPACING_MM, pcnet.WINDOW_HU)


def probe(patch: int = 48) -> Spoken:
    parts = Parts(None, frame(patch), None, "probe")
    return probed(Spoken(parts, Tiling.monai((patch,) * 3, overlap=0.5)), 0.52)


def test_categories_are_mixed_as_in_the_paper(net):
    """W, Y, Z and the last convolution, in loops over categories and voxels, for two windows apart."""
    image = torch.rand(2, 1, 64, 64, 64)
    n = len(NODES)
    with torch.no_grad():
        features = net.encode(image)
        every = [Marks(torch.full((n,), i), tokens=torch.arange(n)) for i in (0, 1)]
        found = torch.stack([net.decode(features, marks).logits[:, 0] for marks in every]).double().numpy()
    state = {key: value.double().numpy() for key, value in net.state_dict().items()}
    for window in (0, 1):
        x = features["x"][window].double().numpy()
        rows = np.zeros((n, n))
        for c in range(n):
            blocks = [x[c, 32 * i : 32 * i + 32, 32 * j : 32 * j + 32, 32 * k : 32 * k + 32].mean()
                      for i in (0, 1) for j in (0, 1) for k in (0, 1)]  # fmt: skip
            inner = state["weigh_in.weight"] @ np.concatenate([blocks, state["embedding"][c]]) + state["weigh_in.bias"]
            inner = np.where(inner > 0, inner, 0.01 * inner)
            rows[c] = state["weigh_out.weight"] @ inner + state["weigh_out.bias"]
        for place in ((0, 0, 0), (5, 40, 63), (33, 2, 17)):
            at = x[(slice(None), *place)]
            y = [sum(rows[c, j] * at[j] for j in range(n)) for c in range(n)]
            z = [sum(y[j] * (state["embedding"][j] @ state["embedding"][c]) for j in range(n)) for c in range(n)]
            for c in range(n):
                weights = state["fuse.weight"][c, :, 0, 0, 0]
                logit = sum(weights[j] * z[j] + weights[n + j] * at[j] for j in range(n)) + state["fuse.bias"][c]
                scale = np.abs(found[window, c]).max()
                assert found[(window, c, *place)] == pytest.approx(logit, abs=1e-4 * scale)


@pytest.mark.slow
def test_a_window_does_not_depend_on_its_company(net):
    image = torch.rand(2, 1, 64, 64, 64)
    marks = Marks(torch.zeros(1, dtype=torch.int64), tokens=torch.tensor([3]))
    with torch.no_grad():
        alone = net.decode(net.encode(image[:1]), marks).logits
        together = net.decode(net.encode(image), marks).logits
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-4 * float(alone.abs().max()))


def test_the_backbone_is_monais(net):
    from monai.networks.nets import SwinUNETR

    whole = SwinUNETR(1, len(NODES), feature_size=12, depths=TINY.depths, num_heads=TINY.heads, window_size=3).eval()
    whole.load_state_dict({k.removeprefix("backbone."): v for k, v in net.state_dict().items() if "backbone." in k})
    image = torch.rand(1, 1, 64, 64, 64)
    with torch.no_grad():
        assert torch.equal(net.encode(image)["x"], whole(image))


def test_a_file_loads_whatever_the_head_is_called(net, folder):
    found = official(torch.load(folder / "checkpoint.pth")["state_dict"])
    assert found.keys() == net.state_dict().keys()
    assert all(torch.equal(found[key], value) for key, value in net.state_dict().items())
    own = net_of(found)
    assert (vars(own.backbone.size), own.pooled) == (vars(TINY), 2)
    model = pcnet.load(checkpoint=str(folder))
    loaded = model.parts.net.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in net.state_dict().items())
    assert (model.parts.frame.patch, model.parts.frame.window_hu) == (64, (-200.0, 300.0))


@pytest.mark.parametrize("ending", ["npy", "pt"])
def test_prompt_embeddings_may_lie_in_another_file(net, folder, tmp_path, ending):
    bare = {key: value for key, value in public(net).items() if key not in ("table", "relations")}
    torch.save(bare, tmp_path / "checkpoint.pth")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(WeightsError, match=r"embedding is missing; give the prompt embeddings: pcnet\(embeddings="):
        pcnet.load(checkpoint=str(tmp_path))
    table = tmp_path / f"prompts.{ending}"
    if ending == "npy":
        np.save(table, net.embedding.numpy())
    else:
        torch.save({"prompts": net.embedding}, table)
    model = pcnet.load(checkpoint=str(tmp_path), embeddings=str(table))
    torch.testing.assert_close(model.parts.net.graph, net.graph)
    assert model.parts.weights.startswith("unknown:")
    assert model.parts.weights != pcnet.load(checkpoint=str(folder)).parts.weights


@pytest.mark.slow
def test_every_tensor_counts():
    net = tiny()
    marks = Marks(torch.zeros(7, dtype=torch.int64), tokens=torch.arange(7))
    answers = net.decode(net.encode(torch.rand(1, 1, 64, 64, 64)), marks)
    names, tensors = zip(*net.named_parameters(), strict=True)
    grads = torch.autograd.grad((answers.logits * torch.randn(7, 1, 64, 64, 64)).sum(), tensors, allow_unused=True)
    assert not [name for name, grad in zip(names, grads, strict=True) if grad is None or not grad.abs().max() > 0]
    for buffer in ("embedding", "graph"):
        other = tiny()
        getattr(other, buffer).mul_(1.5)
        image = torch.rand(1, 1, 64, 64, 64)
        with torch.no_grad():
            assert (other.encode(image)["m"] - net.encode(image)["m"]).abs().max() > 1e-3


def test_a_group_is_answered_by_its_own_channel(folder):
    known = pcnet.load(checkpoint=str(folder)).parts.frame
    assert known.asked("kidneys", modality="CT").tokens["class"].tolist() == [5]
    assert known.asked("left kidney", modality="CT").tokens["class"].tolist() == [2]
    assert frame().asked("kidneys", modality="CT").tokens["class"].tolist() == [3, 2]
    with pytest.raises(NoSuchStructure, match=r'"pancreas" is not among the 6 structures'):
        known.asked("pancreas", modality="CT")


@pytest.mark.parametrize(
    ("words", "channels"),
    [("spleen", [1]), ("L5", [18]), ("C1", [41]), ("rib left 12", [69]), ("rib", None), ("bladder", [104])],
)
def test_words_become_channels(words, channels):
    if channels is None:
        with pytest.raises(NoSuchStructure, match=r"near: .*rib"):
            frame().asked(words, modality="CT")
    else:
        assert frame().asked(words, modality="CT").tokens["class"].tolist() == channels


def test_its_leaves_are_those_of_totalsegmentator():
    names = (pcnet.CARD.labels or {})[""]
    assert len(names) == len(set(names)) == 104
    assert all(anatomy.resolve(name).known and anatomy.resolve(name).name == name for name in names)


@pytest.mark.parametrize("axes", probes.orientations()[::7])
def test_the_image_lies_where_it_lies(axes):
    """The frame is that of test_universal.py, where all 48 are."""
    where = probes.grid(axes)
    volume, mask = probes.scene(where)
    assert probes.off_voxels(say(probe(), volume, "liver")[0].mask(where), mask) <= 1


@pytest.mark.parametrize(("spacing", "slant"), [((0.9, 1.1, 5.0), 0.0), ((2.0, 2.5, 4.0), 12.0)])
def test_other_spacings_and_slants(spacing, slant):
    where = probes.grid("LPS", spacing_mm=spacing, slant=slant)
    volume, mask = probes.scene(where, slant=slant)
    coarse = max(1.0, *(1.5 / s for s in where.spacing_mm))
    assert probes.off_voxels(say(probe(), volume, "liver")[0].mask(where), mask) <= coarse


def test_answers_are_pure_and_an_absent_structure_is_absent(folder):
    model = pcnet.load(checkpoint=str(folder), overlap=0.25)
    grid = Grid((30, 40, 33), np.diag([3.0, 2.0, 2.5, 1.0]))
    array = np.random.default_rng(0).normal(30, 80, grid.shape).astype(np.float32)
    volume = Volume.of(array, grid, (Channel("CT"),))
    first = say(model, volume, "liver")[0]
    other, again = say(model, volume, "kidneys", "liver")
    assert np.array_equal(first.logits, again.logits)
    for answer in (first, other):
        assert answer.mask(grid).any() == (answer.presence > 0.5)
    with torch.no_grad():
        model.parts.net.fuse.bias[1] = -1e6
    nothing = say(model, volume, "liver")[0]
    assert nothing.presence < 0.5 and nothing.absent and not nothing.mask(grid).any()


def test_its_errors(net, folder, tmp_path):
    with pytest.raises(SpecError, match="pcnet: overlap is 1"):
        pcnet.load(checkpoint=str(folder), overlap=1.0)
    path = tmp_path / "checkpoint.pth"
    torch.save(public(net), path)
    with pytest.raises(WeightsError, match="knows 7 categories, the published model 137"):
        pcnet.load(checkpoint=str(path))
    with pytest.raises(SpecError, match="pcnet: patch is 70"):
        pcnet.load(checkpoint=str(path), patch=70)
    torch.save({**public(net), "prompt.0.weight": torch.zeros(6, 14)}, path)
    with pytest.raises(WeightsError, match="the other 9 are no cube"):
        pcnet.load(checkpoint=str(path))
    torch.save({"down.0.conv.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(WeightsError, match=r"not a file of PCNet with a Swin UNETR: swinViT"):
        pcnet.load(checkpoint=str(path))
    np.save(tmp_path / "flat.npy", np.zeros(3))
    torch.save(public(net), path)
    with pytest.raises(WeightsError, match=r"flat.npy is \(3,\), expected \[categories, numbers\]"):
        pcnet.load(checkpoint=str(path), embeddings=str(tmp_path / "flat.npy"))


def test_the_published_size_is_counted():
    (size,) = pcnet.published()
    assert parameters(size.net) == pytest.approx(pcnet.CARD.parameters_m * 1e6, rel=0.01)
    assert len(size.net.embedding) == pcnet.NODES == 105 + 32
    flops = {stage: counted(call) for stage, call in size.stages.items()}
    assert flops["encoder"] > 100 * flops["one structure"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("check", EVERY, ids=lambda check: check.__name__.removeprefix("check_"))
def test_the_contract_of_every_model(check, published_channels):
    check(f"pcnet(checkpoint={published_channels}, patch=64)")


@pytest.fixture(scope="module")
def published_channels(tmp_path_factory):
    """A tiny file with as many channels as the published one, whose names are those on the card."""
    path = tmp_path_factory.mktemp("pcnet-137")
    made = randomised(PCNet(replace(TINY, classes=pcnet.NODES), text=5, inner=6, pooled=2))
    torch.save({"net": public(made)}, path / "checkpoint.pth")
    return path
